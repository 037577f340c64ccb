"""What the shipped models do on films of another hospital, mini-MIAS, none of which was trained on.

    python benchmarks/films.py --films <mini-MIAS folder> [--bundles bundles]

Prints, each with its 95 % interval by patient: of the normal films the share without any mark, and the marks on one;
of the masses, given as circles, the share with a mark on them, and with the film's most probable pixel on them
(calcifications, which the model does not know, are left out); of the complete films the share that is called
incomplete, as they are and cut by 15 and 25 % of the breast's extent in front and below. It measures and asserts
nothing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from skimage.measure import label as connected_components

from monai_mammo.bootstrap import Metrics, Record, patient_intervals
from monai_mammo.datasets.mini_mias import images
from monai_mammo.datasets.sources import SourceImage
from monai_mammo.datasets.truncation import already_cut
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.predictor import Predictor
from monai_mammo.regions import bounding_box, breast_mask

SIDE = 1024
_CIRCLE = re.compile(r"^(mdb\d{3})\s+[FGD]\s+(CIRC|SPIC|MISC|ARCH|ASYM)\s+[BM]\s+(\d+)\s+(\d+)\s+(\d+)", re.MULTILINE)


def main() -> None:
    """Run the bundle on every film, and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--films", type=Path, required=True)
    arguments.add_argument("--bundles", type=Path, default=Path("bundles"))
    chosen = arguments.parse_args()
    console = Console(width=120)
    listed = images(chosen.films, [])
    for records, metrics in (
        *marks(listed, circles(chosen.films / "Info.txt"), chosen.bundles, console),
        (verdicts(listed, chosen.bundles, console), of_verdicts),
    ):
        intervals = patient_intervals(records, metrics)
        shown = Table(
            f"{len(records)} of {len({record['patient'] for record in records})} patients", "value", "interval"
        )
        for name, value in metrics(records).items():
            shown.add_row(name, f"{value:.3f}", "{:.3f} to {:.3f}".format(*intervals[name]))
        console.print(shown)


def marks(
    films: Sequence[SourceImage], lesions: Mapping[str, list[np.ndarray]], bundles: Path, console: Console
) -> list[tuple[list[Record], Callable[[Sequence[Record]], Metrics]]]:
    """What the segmentation of whole mammograms marks, on normal films and about masses."""
    predictor = Predictor(bundles / "mammo_tumor_segmentation", overrides={"mode": "whole"})
    normal: list[Record] = []
    masses: list[Record] = []
    for film in track(films, "marks", console=console):
        if film.attributes["abnormality"] != "NORM" and film.image.stem not in lesions:
            continue
        result = predictor(film.image)
        mask, probability = (np.asarray(result[key])[0] for key in ("pred", "probability"))
        if film.attributes["abnormality"] == "NORM":
            normal.append({"patient": film.patient, "marks": int(connected_components(mask > 0).max())})
        for circle in lesions.get(film.image.stem, []):
            masses.append({"patient": film.patient, **hit(mask, probability, circle)})
    return [(normal, of_normal), (masses, of_masses)]


def verdicts(films: Sequence[SourceImage], bundles: Path, console: Console) -> list[Record]:
    """Whether complete films are called incomplete, as they are and cut."""
    predictor = Predictor(bundles / "mammo_quality_classification")
    records: list[Record] = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "film.png"
        for film in track(films, "verdicts", console=console):
            pixels = read_mammogram(film.image).pixels
            outline = breast_mask(pixels)
            if already_cut(outline, "MLO") is not None:
                continue
            record: Record = {"patient": film.patient}
            for name, part in cut(pixels, outline).items():
                Image.fromarray(np.rint(part * 65535).astype(np.uint16)).save(file)
                record[name] = float(predictor(file)["pred"][1]) > 0.5
            records.append(record)
    return records


def cut(pixels: np.ndarray, outline: np.ndarray) -> dict[str, np.ndarray]:
    """A film as it is, and without shares of the breast's extent in front and below."""
    box = bounding_box(outline)
    assert box is not None
    parts, middle = {"as they are": pixels}, pixels.shape[1] // 2
    mirrored = outline[:, :middle].sum() < outline[:, middle:].sum()
    for share in (0.15, 0.25):
        deep = round(share * (box[3] - box[1]))
        parts[f"cut in front by {share:.0%}"] = pixels[:, box[1] + deep :] if mirrored else pixels[:, : box[3] - deep]
        parts[f"cut below by {share:.0%}"] = pixels[: box[2] - round(share * (box[2] - box[0]))]
    return parts


def of_verdicts(records: Sequence[Record]) -> Metrics:
    """The share called incomplete, by what was done."""
    names = [name for name in records[0] if name != "patient"]
    return {f"called incomplete, {name}": float(np.mean([record[name] for record in records])) for name in names}


def circles(info: Path) -> dict[str, list[np.ndarray]]:
    """By film, the bool (rows, columns) discs of its masses; `Info.txt` counts rows from below."""
    found: dict[str, list[np.ndarray]] = {}
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for name, _, x, y, radius in _CIRCLE.findall(info.read_text(errors="replace")):
        disc = (rows - (SIDE - int(y))) ** 2 + (columns - int(x)) ** 2 <= int(radius) ** 2
        found.setdefault(name, []).append(disc)
    return found


def hit(mask: np.ndarray, probability: np.ndarray, circle: np.ndarray) -> Record:
    """Whether a mark lies on a mass, and whether the film's most probable pixel does."""
    return {"marked": bool((mask[circle] > 0).any()), "highest": bool(circle.flat[int(probability.argmax())])}


def of_normal(records: Sequence[Record]) -> Metrics:
    """What is marked where there is nothing."""
    marks = np.array([record["marks"] for record in records])
    return {"normal films without a mark": float((marks == 0).mean()), "marks on a normal film": float(marks.mean())}


def of_masses(records: Sequence[Record]) -> Metrics:
    """What is found."""
    marked, highest = (np.mean([record[name] for record in records]) for name in ("marked", "highest"))
    return {"masses with a mark on them": float(marked), "masses with the film's most probable pixel": float(highest)}


if __name__ == "__main__":
    main()
