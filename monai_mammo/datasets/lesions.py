"""Lesions of a mammogram: from outlines as a data set has them to masks, boxes and crops at the mammogram's pixels.

Finding the outlines is each data set's module's; here it is decided which file is the mask, and what is done with one
of another size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform
from scipy.ndimage import label as connected_components
from skimage.draw import polygon

from monai_mammo.datasets.protocols import PAPER_VARIANTS
from monai_mammo.datasets.sources import Defect, SourceLesion
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.regions import bounding_box, resize_nearest

LEAST_LESION = 100
"""Pixels below which a component of a mask is a speck, not a lesion."""

MARGIN = 0.2
"""Default share of a lesion's side that a crop adds on each side; the lesion is then about 40 % of the crop."""

ASPECT_TOLERANCE = 0.02
"""Relative difference of aspect ratios up to which a mask of another size is resized."""

LARGEST_RESIZE = 2.0
"""Factor between the sides of mask and mammogram beyond which the mask is something else, a crop above all."""


@dataclass(frozen=True)
class Lesion:
    """A lesion at its mammogram's pixels: bool mask (rows, columns), its box and the outline that it comes from."""

    mask: np.ndarray
    box: list[int]
    outline: SourceLesion


_Drawn = tuple[np.ndarray, list[int]]  # what is marked, bool, within its bounding box, and that box at the mammogram


def find_lesions(
    image: Path, shape: Sequence[int], outlines: Sequence[SourceLesion], defects: list[Defect]
) -> list[Lesion]:
    """Every lesion of a mammogram; what is repaired or dropped on the way is added to `defects`.

    An outline is one lesion, or as many as it has connected components if it is a union. Components of fewer than
    :data:`LEAST_LESION` pixels are dropped. Of one fault that many outlines of a file share, such as the tiny outlines
    of calcifications, there is one defect with their number.

    Args:
        image: the mammogram's file, for messages.
        shape: (rows, columns) of the mammogram.
        outlines: as the data set's module lists them.
        defects: appended to.
    """
    found: list[Lesion] = []
    faults: dict[tuple[Path, str, str], list[SourceLesion]] = {}
    for outline in outlines:
        file = outline.masks[0] if outline.masks else image
        if outline.polygon and len(outline.polygon) < 3:
            reason = f"the outline has {len(outline.polygon)} corner(s), not an area"
            faults.setdefault((image, reason, "lesion dropped"), []).append(outline)
            continue
        drawn = _polygon(shape, outline) if outline.polygon else _from_files(image, shape, outline, defects)
        if drawn is None:
            continue
        inside, around = drawn
        if not inside.size:
            faults.setdefault((file, "the outline is empty", "lesion dropped"), []).append(outline)
            continue
        components, _ = connected_components(inside, np.ones((3, 3)))  # also those that touch at a corner
        sizes = np.bincount(components.ravel())[1:]
        kept = [number for number, size in enumerate(sizes, start=1) if size >= LEAST_LESION]
        if len(kept) < len(sizes):
            reason = f"the outline has parts of fewer than {LEAST_LESION} pixels"
            faults.setdefault((file, reason, "parts dropped" if kept else "lesion dropped"), []).append(outline)
        for numbers in [[number] for number in kept] if outline.union else [kept] * bool(kept):
            lesion = place(np.isin(components, numbers), around, shape)
            found.append(Lesion(lesion, bounding_box(lesion) or around, outline))
    defects += [Defect(file, f"{reason}: {_named(of)}", action) for (file, reason, action), of in faults.items()]
    return found


def _named(outlines: Sequence[SourceLesion]) -> str:
    if len(outlines) == 1:
        return f"lesion {_name(outlines[0])}"
    names = [repr(outline.name) for outline in outlines if outline.name]
    some = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
    return f"{len(outlines)} lesions{some}"


def _name(outline: SourceLesion) -> str:
    return repr(outline.name) if outline.name else "without a name"


def _polygon(shape: Sequence[int], outline: SourceLesion) -> _Drawn:
    """The pixels inside a polygon; what of it lies beyond the mammogram is cut off."""
    corners = np.asarray(outline.polygon, dtype=float)
    rows, columns = polygon(corners[:, 0], corners[:, 1], tuple(shape))
    if not rows.size:
        return np.zeros((0, 0), dtype=bool), [0, 0, 0, 0]
    around = [int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1]
    inside = np.zeros((around[2] - around[0], around[3] - around[1]), dtype=bool)
    inside[rows - around[0], columns - around[1]] = True
    return inside, around


def _from_files(image: Path, shape: Sequence[int], outline: SourceLesion, defects: list[Defect]) -> _Drawn | None:
    """The candidate with two values and about the mammogram's size, nearest to it in size if there are several.

    Where one is found, the others were crops: no defect. Where none is, each says why it is no mask.
    """
    usable: list[tuple[float, Path, np.ndarray]] = []
    refused: list[Defect] = []
    for file in outline.masks:
        try:
            mask = outline.read(file)
            _check(file, mask, shape)
        except MammogramError as error:
            refused.append(Defect(file, error.reason, "lesion dropped"))
        else:
            usable.append((_distance(mask.shape, shape), file, mask))
    if not usable:
        defects += refused or [Defect(image, f"lesion {_name(outline)} has neither mask nor outline", "lesion dropped")]
        return None
    _, file, mask = min(usable, key=lambda candidate: candidate[0])
    if mask.shape != tuple(shape):
        reason = f"the mask has {_size(mask.shape)} pixels, its mammogram {_size(shape)}"
        defects.append(Defect(file, reason, "resized"))
        mask = resize_nearest(mask, shape)
    around = bounding_box(mask > 0) or [0, 0, 0, 0]
    return cut(mask, around) > 0, around


def _check(file: Path, mask: np.ndarray, shape: Sequence[int]) -> None:
    """Refuse what is no mask of this mammogram; the message becomes a defect."""
    ratios = [side / wanted for side, wanted in zip(mask.shape, shape, strict=True)]
    if mask.shape != tuple(shape):
        sizes = f"{_size(mask.shape)} pixels, its mammogram {_size(shape)}"
        if not all(1 / LARGEST_RESIZE <= ratio <= LARGEST_RESIZE for ratio in ratios):
            raise MammogramError(file, f"it is no mask of the whole mammogram, perhaps a crop: {sizes}", "Replace it")
        if abs(ratios[0] / ratios[1] - 1) > ASPECT_TOLERANCE:
            raise MammogramError(file, f"the mask is of another aspect ratio: {sizes}", "Replace it")
    highest = mask.max()
    if highest > 1 and not ((mask == 0) | (mask == highest)).all():
        raise MammogramError(file, "it has more than two values, a mask has two", "Replace it")


def _distance(shape: Sequence[int], wanted: Sequence[int]) -> float:
    return sum(abs(math.log(side / other)) for side, other in zip(shape, wanted, strict=True))


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def crop_region(box: Sequence[int], shape: Sequence[int], margin: float = MARGIN) -> list[int]:
    """A lesion's box widened by `margin` of its sides on each side, within the image: [row0, column0, row1, column1].

    The box is half-open, in pixels; so is the region.
    """
    height, width = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    return [
        max(0, math.floor(box[0] - height)),
        max(0, math.floor(box[1] - width)),
        min(int(shape[0]), math.ceil(box[2] + height)),
        min(int(shape[1]), math.ceil(box[3] + width)),
    ]


def cut(pixels: np.ndarray, region: Sequence[int]) -> np.ndarray:
    """The part of an image (rows, columns) within a region that lies inside it."""
    return pixels[region[0] : region[2], region[1] : region[3]]


def place(crop: np.ndarray, region: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """A crop's result (rows, columns) at the original pixels, zero elsewhere: the way back from `cut`.

    Args:
        crop: of the region's size.
        region: a datalist entry's `region`.
        shape: the entry's `source_size`, (rows, columns).
    """
    whole = np.zeros(tuple(shape), dtype=crop.dtype)
    whole[region[0] : region[2], region[1] : region[3]] = crop
    return whole


@dataclass(frozen=True)
class Variant:
    """One augmented copy of a crop: turned by `angle` degrees about its centre, then flipped; both arrays alike."""

    angle: float
    flips: tuple[int, ...]
    """Axes: 0 turns top to bottom, 1 left to right."""
    pixels: np.ndarray
    mask: np.ndarray


def variants(
    pixels: np.ndarray, mask: np.ndarray, region: Sequence[int], generator: np.random.Generator
) -> Iterator[Variant]:
    """The crop as it is and twelve copies rotated within +-10 degrees and flipped (paper B, section 1; 13 in all).

    Rotated copies take what comes into view from the mammogram around the crop; beyond the mammogram is zero. Image
    bilinear, mask nearest neighbour.

    Args:
        pixels: float (rows, columns) mammogram.
        mask: bool mask of one lesion, of the same shape.
        region: the crop.
        generator: of the angles.
    """
    yield Variant(0.0, (), cut(pixels, region), cut(mask, region))
    shape = (region[2] - region[0], region[3] - region[1])
    centre = np.array([(region[0] + region[2] - 1) / 2, (region[1] + region[3] - 1) / 2])
    for number in range(PAPER_VARIANTS - 1):
        angle = float(generator.uniform(-10, 10))
        flips = ((), (1,), (0,), (0, 1))[number % 4]
        turn, half = math.radians(angle), (np.array(shape) - 1) / 2
        matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        corner, window = _window(region, pixels.shape)
        offset = centre - matrix @ half - corner
        turned = [
            affine_transform(cut(array, window), matrix, offset, output_shape=shape, order=order, mode="grid-constant")
            for array, order in ((pixels, 1), (mask.astype(np.uint8), 0))
        ]
        yield Variant(angle, flips, np.flip(turned[0], flips), np.flip(turned[1], flips) > 0)


def _window(region: Sequence[int], shape: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """What a crop turned within 10 degrees can see (its longer side times sin 10 degrees more), and its corner."""
    more = math.ceil(0.18 * max(region[2] - region[0], region[3] - region[1])) + 2
    window = [
        max(0, region[0] - more),
        max(0, region[1] - more),
        min(int(shape[0]), region[2] + more),
        min(int(shape[1]), region[3] + more),
    ]
    return np.array(window[:2]), window
