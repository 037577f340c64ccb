"""From a data set's images to the bundles' datalists, split by patient. What is on disk is each data set's module's."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.measure import label as connected_components

from monai_mammo.datasets.datalist import write_datalist
from monai_mammo.datasets.sources import Defect, SourceImage
from monai_mammo.datasets.splits import split_patients
from monai_mammo.datasets.truncation import already_cut, complete_window, truncated_window
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mask
from monai_mammo.transforms import bounding_box, breast_mask

LEAST_LESION = 100
"""Pixels below which a component of a mask is a speck, not a lesion."""

QUALITY_SIZE = 512
"""Pixels of the longer side of the quality task's images."""

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass
class Prepared:
    """What was made of a data set: its datalists, and every image that was left out."""

    datalists: list[Path] = field(default_factory=list)
    entries: dict[str, int] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)


def prepare_segmentation(
    images: Sequence[SourceImage], out: Path, *, name: str, licence: str, seed: int, progress: Progress
) -> Prepared:
    """Write `out/segmentation_roi` (an entry a lesion) and `out/segmentation_whole` (an entry an image).

    A lesion is a connected component of the mask with at least :data:`LEAST_LESION` pixels; each gets a mask and a
    box of its own. Both datalists have the same patients on the same side.
    """
    prepared, lesions, wholes = Prepared(), [], []
    (out / "masks").mkdir(parents=True, exist_ok=True)
    for image in progress(images, "masks"):
        try:
            found = _lesions(image, out / "masks")
        except MammogramError as error:
            prepared.defects.append(Defect(error.path, error.reason))
            continue
        if not found:
            prepared.defects.append(Defect(image.image, "no lesion is outlined"))
            continue
        lesions += [image.entry() | {"image": image.image, "label": mask, "box": box} for mask, box in found]
        union = _union([mask for mask, _ in found], out / "masks" / f"{image.image.stem}.png")
        wholes.append(image.entry() | {"image": image.image, "label": union})
    for folder, entries in (("segmentation_roi", lesions), ("segmentation_whole", wholes)):
        _write(prepared, out / folder, entries, name, licence, seed, {"0": "background", "1": "tumour"})
    return prepared


def prepare_quality(
    images: Sequence[SourceImage], out: Path, *, name: str, licence: str, seed: int, progress: Progress
) -> Prepared:
    """Write `out/quality`: of every complete mammogram a complete and an incomplete window, through the same steps.

    A mammogram that is cut already is left out (see `truncation.already_cut`).
    """
    prepared, entries = Prepared(), []
    folder = out / "quality" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for image in progress(images, "truncation"):
        try:
            pixels = image.read(image.image)
        except MammogramError as error:
            prepared.defects.append(Defect(error.path, error.reason))
            continue
        mask = breast_mask(pixels)
        cut = already_cut(mask, image.view)
        if cut is not None:
            prepared.defects.append(Defect(image.image, f"not complete as it is: {cut}"))
            continue
        generator = np.random.default_rng([seed, zlib.crc32(image.image.name.encode())])
        for label, window in enumerate(
            (complete_window(mask, generator), truncated_window(mask, image.view, generator))
        ):
            file = folder / f"{image.image.stem}_{'incomplete' if label else 'complete'}.png"
            _save_window(pixels, window.region, file)
            truth = {"label": label, "cause": window.cause, "lost": round(window.lost, 4)}
            entry = {key: value for key, value in image.entry().items() if key != "spacing"}
            entries.append(entry | {"image": file, "source": image.image.name} | truth)
    _write(prepared, out / "quality", entries, name, licence, seed, {"0": "complete", "1": "incomplete"})
    return prepared


def _write(
    prepared: Prepared,
    folder: Path,
    entries: list[dict[str, Any]],
    name: str,
    licence: str,
    seed: int,
    labels: Mapping[str, str],
) -> None:
    if not entries:
        raise MammogramError(folder, "no usable image is left for this task", "Look at the reasons given above")
    splits = split_patients((entry["patient"] for entry in entries), seed=seed)
    file = write_datalist(folder, entries, splits, name=name, labels=labels, licence=licence)
    prepared.datalists.append(file)
    prepared.entries[folder.name] = len(entries)


def _lesions(image: SourceImage, folder: Path) -> list[tuple[Path, list[int]]]:
    """Mask file and box of every lesion of an image: each connected component of each outline."""
    found: list[tuple[Path, list[int]]] = []
    shape = image.read(image.image).shape if image.lesions else ()
    for outline in image.lesions:
        mask = read_mask(outline.masks[0])
        if mask.shape != shape:
            raise MammogramError(
                outline.masks[0], f"the mask is {mask.shape}, its mammogram {shape}", "Repair the mask"
            )
        components = connected_components(mask > 0)
        for number in range(1, components.max() + 1):
            lesion = components == number
            box = bounding_box(lesion)
            if box is None or lesion.sum() < LEAST_LESION:
                continue
            file = folder / f"{image.image.stem}_{len(found) + 1}.png"
            _save_mask(lesion, file)
            found.append((file, box))
    return found


def _union(masks: Sequence[Path], file: Path) -> Path:
    _save_mask(np.any([read_mask(mask) > 0 for mask in masks], axis=0), file)
    return file


def _save_mask(mask: np.ndarray, file: Path) -> None:
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(file)


def _save_window(pixels: np.ndarray, region: Sequence[int], file: Path) -> None:
    """Cut a window out (zeros beyond the image), bring its longer side to a fixed size and write it as 8-bit PNG."""
    row0, column0, row1, column1 = region
    window = np.zeros((row1 - row0, column1 - column0), dtype=np.float32)
    rows, columns = (
        slice(max(row0, 0), min(row1, pixels.shape[0])),
        slice(max(column0, 0), min(column1, pixels.shape[1])),
    )
    window[rows.start - row0 : rows.stop - row0, columns.start - column0 : columns.stop - column0] = pixels[
        rows, columns
    ]
    scale = QUALITY_SIZE / max(window.shape)
    size = (max(1, round(window.shape[1] * scale)), max(1, round(window.shape[0] * scale)))
    resized = Image.fromarray(window).resize(size, Image.Resampling.BILINEAR)  # antialiased where it shrinks
    Image.fromarray(np.clip(np.asarray(resized) * 255, 0, 255).round().astype(np.uint8)).save(file)
