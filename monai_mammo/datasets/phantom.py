"""Phantom studies: four-view mammograms drawn by a program, with the truth about masses and truncation.

For demonstrations and tests, not for judging a network: nothing here was a patient. What a breast looks like stands
in `phantom_anatomy` and `phantom_pixels`, the DICOM object in `phantom_dicom`; here are the folder, the truth and the
datalists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from monai_mammo.datasets.datalist import LABEL_NAMES, write_datalist
from monai_mammo.datasets.phantom_anatomy import (
    CAUSES,
    FIELD_HEIGHT_MM,
    Breast,
    PhantomView,
    complete_view,
    draw_breast,
)
from monai_mammo.datasets.phantom_dicom import PHOTOMETRIC, TRANSFER_SYNTAXES, VOI, Encoding, write_mammogram
from monai_mammo.datasets.phantom_pixels import draw
from monai_mammo.datasets.splits import split_patients
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram, read_mask
from monai_mammo.pictures import GREEN, GREY, RED, captioned, outlined

ROWS, COLUMNS = 960, 704
"""The default image: 24 x 17.6 cm at 0.25 mm."""

FRACTIONS = {"training": 0.7, "validation": 0.15, "test": 0.15}

_VIEWS = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))
_TRUTH = "phantoms.json"
_ABOUT: Any = {"description": "Drawn by a program; for demonstrations and tests", "licence": "Apache-2.0"}


@dataclass(frozen=True)
class Lesion:
    """A mass as it is seen on one image."""

    mask: str
    """PNG, 0 or 255, of the image's size; relative to the study set's folder."""
    box: tuple[int, int, int, int]
    """[row0, column0, row1, column1], half-open, of the mask."""
    centre: tuple[float, float]
    """Row and column of the mask's centre of mass."""
    diameter_mm: float
    """The mask's longest diameter."""


@dataclass(frozen=True)
class PhantomImage:
    """One image of a phantom study and the truth about it."""

    file: str
    """DICOM file, relative to the study set's folder."""
    patient: str
    laterality: str
    view: str
    rows: int
    columns: int
    spacing_mm: float
    density: str
    """ACR category, a to d."""
    lesions: tuple[Lesion, ...]
    complete: bool
    cause: str
    """What is missing: one of `phantom_anatomy.CAUSES`; empty if complete."""
    cut_side: str
    """The image edge at which it is missing: left, right, top, bottom; empty if complete."""
    lost_fraction: float
    """Share of the breast's area that lies off the detector, against the same breast completely imaged."""


def write_phantoms(
    out: Path,
    patients: int,
    seed: int = 0,
    *,
    truncated_fraction: float = 0.3,
    rows: int = ROWS,
    columns: int = COLUMNS,
    progress: bool = False,
) -> list[PhantomImage]:
    """Write phantom studies: `OUT/<patient>/<study>/<L|R>_<CC|MLO>.dcm`, `OUT/masks/*.png` and `OUT/phantoms.json`.

    The detector is always 24 cm high: a smaller image has larger pixels. The same arguments give the same pixels, and
    patient k is the same whatever the number of patients. Every patient has at least one mass, in both views of its
    breast unless truncation takes it off one.

    Args:
        out: folder, created if missing; files of an earlier run with the same names are replaced.
        patients: how many, at least 1.
        seed: of everything random, UIDs included.
        truncated_fraction: share of incomplete images, spread evenly over the patients.
        rows: height of an image, pixels, at least 64.
        columns: width of an image, pixels; between 0.7 and 1 of the height, so that a whole breast fits.
        progress: show a progress bar.

    Returns:
        one record for every image, in the order patient, L-CC, L-MLO, R-CC, R-MLO.

    Raises:
        ValueError: an argument outside its range.
    """
    if patients < 1:
        raise ValueError(f"the number of patients must be at least 1, not {patients}")
    if not 0.0 <= truncated_fraction <= 1.0:
        raise ValueError(f"truncated_fraction must lie between 0 and 1, not {truncated_fraction}")
    if rows < 64 or not 0.7 * rows <= columns <= rows:
        raise ValueError(
            f"an image of {rows} x {columns}: rows must be >= 64, columns between 0.7 and 1 times the rows"
        )
    (out / "masks").mkdir(parents=True, exist_ok=True)
    numbers: Iterable[int] = range(patients)
    if progress:
        numbers = track(numbers, description="phantom patients")
    images: list[PhantomImage] = []
    for number in numbers:
        truncated = int((number + 1) * 4 * truncated_fraction + 1e-9) - int(number * 4 * truncated_fraction + 1e-9)
        images += _write_patient(out, number, seed, truncated, (rows, columns))
    truth = {"seed": seed, "images": [asdict(image) for image in images]}
    (out / _TRUTH).write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return images


def read_truth(out: Path) -> list[PhantomImage]:
    """The records that `write_phantoms` left in `out`.

    Raises:
        MammogramError: the folder holds no phantom studies.
    """
    path = out / _TRUTH
    if not path.is_file():
        raise MammogramError(path, "no phantom studies here", "Write them with `monai-mammo phantom`")
    return [_from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["images"]]


def scenes(number: int, seed: int, truncated: int, field_mm: tuple[float, float]) -> list[PhantomView]:
    """Geometry of one patient's four images, `truncated` of them incomplete, in the order L-CC, L-MLO, R-CC, R-MLO."""
    rng, cut_rng = np.random.default_rng([seed, number]), np.random.default_rng([seed, number, 4])
    left, right = _breasts(number, rng)
    cut = set(cut_rng.permutation(4)[:truncated].tolist())
    found = []
    for index, (laterality, view) in enumerate(_VIEWS):
        scene = complete_view(left if laterality == "L" else right, view, field_mm, rng)
        if index in cut:
            causes = CAUSES[view]
            scene = scene.truncated(causes[(number + index // 2 + seed) % len(causes)], cut_rng)
        found.append(scene)
    return found


def segmentation_datalist(out: Path) -> Path:
    """Write `segmentation_roi/dataset.json` (an entry a mass) and `segmentation_whole/…` (an entry an image).

    The second has the union of an image's masses as its label, an empty mask where there is none. The patients are
    split alike in all datalists of a study set.

    Returns:
        path of the first.

    Raises:
        MammogramError: `out` holds no phantom studies.
        ValueError: fewer than three patients.
    """
    images = read_truth(out)
    sides = _sides(out, images)
    unions = out / "segmentation_whole" / "masks"
    unions.mkdir(parents=True, exist_ok=True)
    lesions, wholes = [], []
    for image in images:
        lesions += [_entry(image, out, label=out / lesion.mask, box=list(lesion.box)) for lesion in image.lesions]
        union = np.zeros((image.rows, image.columns), bool)
        for lesion in image.lesions:
            union |= np.asarray(Image.open(out / lesion.mask))
        path = unions / f"{image.patient}_{image.laterality}_{image.view}.png"
        Image.fromarray(union).save(path)
        wholes.append(_entry(image, out, label=path))
    labels = LABEL_NAMES["segmentation"]
    write_datalist(unions.parent, wholes, sides, name="phantom masses, whole mammograms", labels=labels, **_ABOUT)
    return write_datalist(out / "segmentation_roi", lesions, sides, name="phantom masses", labels=labels, **_ABOUT)


def quality_datalist(out: Path) -> Path:
    """Write `quality/dataset.json`: every image with label 0 (complete) or 1 (incomplete), split by patient.

    Returns:
        its path.

    Raises:
        MammogramError: `out` holds no phantom studies.
        ValueError: fewer than three patients.
    """
    images = read_truth(out)
    entries = [
        _entry(image, out, label=int(not image.complete), **({"cause": image.cause} if image.cause else {}))
        for image in images
    ]
    sides = _sides(out, images)
    return write_datalist(
        out / "quality", entries, sides, name="phantom completeness", labels=LABEL_NAMES["quality"], **_ABOUT
    )


def contact_sheet(out: Path, file: Path, tile_height: int = 320) -> None:
    """Save a picture of a study set: every image as `read_mammogram` shows it, hung by view, masses outlined.

    Args:
        out: folder of phantom studies.
        file: picture to write; its suffix decides the format.
        tile_height: of one image, pixels.

    Raises:
        MammogramError: `out` holds no phantom studies, or an image cannot be read.
    """
    images = sorted(read_truth(out), key=lambda i: (i.patient, i.view, "RL".index(i.laterality)))
    tiles = [_tile(out, image, tile_height) for image in images]
    width, height = (max(tile.size[axis] for tile in tiles) + 4 for axis in (0, 1))
    per_row = 4 if len(tiles) <= 12 else 8
    sheet = Image.new("RGB", (min(per_row, len(tiles)) * width, -(-len(tiles) // per_row) * height), (60, 60, 60))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % per_row * width + 2, index // per_row * height + 2))
    sheet.save(file)


def _tile(out: Path, image: PhantomImage, height: int) -> Image.Image:
    masks = [read_mask(out / lesion.mask) for lesion in image.lesions]
    text = f"{image.laterality}-{image.view} " + ("complete" if image.complete else f"incomplete ({image.cause})")
    lines = [(text, GREEN if image.complete else RED), (image.patient, GREY)]
    picture = outlined(read_mammogram(out / image.file).pixels, masks, height)
    return captioned(picture, lines, right=image.laterality == "L")  # the side without breast


def _breasts(number: int, rng: np.random.Generator) -> tuple[Breast, Breast]:
    """Left and right breast of a patient: alike in size and density, masses in one of them or in both."""
    size, density = rng.uniform(0.0, 1.0, size=3), "bcad"[number % 4]
    counts = [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2)][int(rng.integers(5))]
    left, right = (draw_breast(size, density, masses, rng) for masses in counts)
    return left, right


def _write_patient(out: Path, number: int, seed: int, truncated: int, shape: tuple[int, int]) -> list[PhantomImage]:
    spacing = FIELD_HEIGHT_MM / shape[0]
    patient = f"phantom-{number + 1:04d}"
    folder = out / patient / "study-1"
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for index, scene in enumerate(scenes(number, seed, truncated, (FIELD_HEIGHT_MM, shape[1] * spacing))):
        laterality, view = _VIEWS[index]
        pixels, masks = draw(scene, *shape, np.random.default_rng([seed, number, index]))
        if laterality == "R":
            pixels, masks = pixels[:, ::-1], [mask[:, ::-1] for mask in masks]
        path = folder / f"{laterality}_{view}.dcm"
        encoding = Encoding(
            TRANSFER_SYNTAXES[(number + index) % len(TRANSFER_SYNTAXES)],
            PHOTOMETRIC[(number // 2 + index // 2) % 2],
            VOI[(4 * number + index) % len(VOI)],
        )
        write_mammogram(
            path,
            pixels,
            patient=number + 1,
            laterality=laterality,
            view=view,
            density=scene.breast.density,
            spacing=spacing,
            seed=seed,
            encoding=encoding,
        )
        found = [mask for mask in masks if mask.any()]
        lesions = [
            _write_lesion(out, f"masks/{patient}_{laterality}_{view}_{count}.png", mask, spacing)
            for count, mask in enumerate(found, start=1)
        ]
        images.append(
            PhantomImage(
                file=path.relative_to(out).as_posix(),
                patient=patient,
                laterality=laterality,
                view=view,
                rows=shape[0],
                columns=shape[1],
                spacing_mm=spacing,
                density=scene.breast.density,
                lesions=tuple(lesions),
                complete=not scene.cause,
                cause=scene.cause,
                cut_side=scene.cut_side(laterality),
                lost_fraction=round(scene.lost_fraction, 4),
            )
        )
    return images


def _write_lesion(out: Path, name: str, mask: np.ndarray, spacing: float) -> Lesion:
    Image.fromarray(mask != 0).save(out / name)  # of one bit: a label is 1, as the datalists say
    points = np.argwhere(mask)
    (row0, column0), (row1, column1) = points.min(axis=0).tolist(), (points.max(axis=0) + 1).tolist()
    row, column = points.mean(axis=0).tolist()
    corners = np.concatenate([points + shift for shift in ([0, 0], [0, 1], [1, 0], [1, 1])])  # of the pixels
    longest = float(pdist(corners[ConvexHull(corners).vertices]).max()) * spacing
    return Lesion(name, (row0, column0, row1, column1), (round(row, 2), round(column, 2)), round(longest, 2))


def _from_json(entry: dict[str, Any]) -> PhantomImage:
    lesions = tuple(
        Lesion(lesion["mask"], tuple(lesion["box"]), tuple(lesion["centre"]), lesion["diameter_mm"])
        for lesion in entry["lesions"]
    )
    return PhantomImage(**{**entry, "lesions": lesions})


def _sides(out: Path, images: list[PhantomImage]) -> dict[str, list[str]]:
    """One split of the patients for all of a study set's datalists."""
    seed = json.loads((out / _TRUTH).read_text(encoding="utf-8"))["seed"]
    return split_patients([image.patient for image in images], FRACTIONS, seed)


def _entry(image: PhantomImage, out: Path, **more: Any) -> dict[str, Any]:
    """What every datalist says of an image."""
    return {
        "image": out / image.file,
        "patient": image.patient,
        "laterality": image.laterality,
        "view": image.view,
        "spacing": [image.spacing_mm, image.spacing_mm],
        **more,
    }
