"""What the segmentation of whole mammograms does on films of another hospital: mini-MIAS, which marks lesions by circles.

    python benchmarks/films.py --films <mini-MIAS folder> [--bundle bundles/mammo_tumor_segmentation]

No film is trained on. Prints, each with its 95 % interval by patient: the share of normal films without any mark, and
the marks on them; the share of masses on whose circle a mark lies, and on whose circle the most probable pixel of the
film lies. Calcifications are left out, since the model does not know them. It measures and asserts nothing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from skimage.measure import label as connected_components

from monai_mammo.datasets.mini_mias import images
from monai_mammo.evaluation import Metrics, Record, patient_intervals
from monai_mammo.predictor import Predictor

SIDE = 1024
_CIRCLE = re.compile(r"^(mdb\d{3})\s+[FGD]\s+(CIRC|SPIC|MISC|ARCH|ASYM)\s+[BM]\s+(\d+)\s+(\d+)\s+(\d+)", re.MULTILINE)


def main() -> None:
    """Run the bundle on every film, and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--films", type=Path, required=True)
    arguments.add_argument("--bundle", type=Path, default=Path("bundles/mammo_tumor_segmentation"))
    chosen = arguments.parse_args()
    console = Console(width=120)
    lesions = circles(chosen.films / "Info.txt")
    predictor = Predictor(chosen.bundle, overrides={"mode": "whole"})
    normal: list[Record] = []
    masses: list[Record] = []
    for film in track(images(chosen.films, []), "films", console=console):
        if film.attributes["abnormality"] != "NORM" and film.image.stem not in lesions:
            continue
        result = predictor(film.image)
        mask, probability = (np.asarray(result[key])[0] for key in ("pred", "probability"))
        if film.attributes["abnormality"] == "NORM":
            normal.append({"patient": film.patient, "marks": int(connected_components(mask > 0).max())})
        for circle in lesions.get(film.image.stem, []):
            masses.append({"patient": film.patient, **hit(mask, probability, circle)})
    console.print(f"{len(normal)} normal films, {len(masses)} masses")
    console.print(table(normal, masses))


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


def table(normal: Sequence[Record], masses: Sequence[Record]) -> Table:
    """The four numbers."""
    shown = Table("quantity", "value", "95 % interval by patient")
    for records, metrics in ((normal, of_normal), (masses, of_masses)):
        intervals = patient_intervals(records, metrics)
        for name, value in metrics(records).items():
            shown.add_row(name, f"{value:.3f}", "{:.3f} to {:.3f}".format(*intervals[name]))
    return shown


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
