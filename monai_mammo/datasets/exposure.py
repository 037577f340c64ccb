"""A breast in an exposed field: which rectangle of a mammogram a field shows, and how it gets into a square sample.

Geometry and pixels only; which rectangles are complete and which are not is decided in `truncation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter, uniform_filter

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.regions import bounding_box

FRAME = 0.06
"""Least share of a sample's side that is black on each of its four sides."""

RIM = 0.02
"""Share of the breast's extent at the chest wall (in MLO also at the top) that no sample shows and no loss counts."""

LEAST_EXTENT = 8
"""Pixels that a breast must have in either direction."""


def flat_edges(mask: np.ndarray) -> dict[str, float]:
    """Share of each side of the breast's bounding box along which the breast runs, in its outer hundredth.

    A rounded outline touches its box in a small part; the chest wall, and a side that is cut off, in a large one.

    Returns:
        `left`, `right`, `top`, `bottom`, each in [0, 1]; empty for an empty mask.
    """
    box = bounding_box(mask)
    if box is None:
        return {}
    breast = mask[box[0] : box[2], box[1] : box[3]]
    rows, columns = (max(1, round(side / 100)) for side in breast.shape)
    return {
        "left": float(breast[:, :columns].mean()),
        "right": float(breast[:, -columns:].mean()),
        "top": float(breast[:rows].mean()),
        "bottom": float(breast[-rows:].mean()),
    }


def chest_side(breast: np.ndarray) -> str:
    """The side of the image on which the breast ends in a straight edge, `left` or `right`; empty if it is not clear.

    Of the outlines left and right, between a tenth and nine tenths of the breast's height, one keeps to a straight
    line, upright or askew, within 2 % of the breast's width on average, and the other is off its line by 4 % and by
    twice as much. (:func:`flat_edges` asks whether an edge runs along the box, as a cut does; a turned field has no
    such edge at the chest wall.)

    It answers for 251 of 265 low-energy images of CDD-CESM, for 308 of the 322 films of mini-MIAS, and for 142 of 714
    quality samples made of them, turned and cut: all answers are right.
    """
    box = bounding_box(breast)
    if box is None or min(box[2] - box[0], box[3] - box[1]) < LEAST_EXTENT:
        return ""
    inside = breast[box[0] : box[2], box[1] : box[3]]
    height, width = inside.shape
    rows = np.flatnonzero(inside.any(axis=1))
    rows = rows[(rows >= 0.1 * height) & (rows < 0.9 * height)]
    left, right = (_off_line(rows, edge) / width for edge in (inside[rows].argmax(1), inside[rows, ::-1].argmax(1)))
    if max(left, right) < 0.04 or max(left, right) <= 2 * min(left, right) or min(left, right) >= 0.02:
        return ""
    return "left" if left < right else "right"


def _off_line(rows: np.ndarray, columns: np.ndarray) -> float:
    """Mean distance, in columns, from the straight line that fits best."""
    return float(np.abs(columns - np.polyval(np.polyfit(rows, columns, 1), rows)).mean())


@dataclass(frozen=True)
class Breast:
    """A mammogram with the chest wall on the left, cleared of labels, reduced to about the sample's resolution."""

    pixels: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    """float32 (number,), with `rows`: where the centres of the breast's pixels are, without the rim."""
    view: str
    mirrored: bool

    @classmethod
    def of(cls, pixels: np.ndarray, mask: np.ndarray, view: str, size: int) -> Breast:
        """Check, mirror, reduce and clear a mammogram of which a sample of `size` pixels is to be made.

        Raises:
            MammogramError: mask empty, too small or of another shape; pixels not finite or not in [0, 1].
        """
        box = _checked_box(pixels, mask)
        edges = flat_edges(mask)
        mirrored = (chest_side(mask) or max("left", "right", key=lambda side: edges[side])) == "right"
        extent = max(box[2] - box[0], box[3] - box[1])
        step = max(1, int(extent // (1.5 * size)))
        near = tuple(slice(max(0, box[axis] - extent // 10), box[axis + 2] + extent // 10) for axis in (0, 1))
        pixels, mask = (array[near][:, :: -1 if mirrored else 1] for array in (pixels, mask))
        pixels, mask = block_means(pixels, step), block_means(mask, step) >= 0.5
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # so written, it holds for NaN, too
            raise unusable("its pixels are not all between 0 and 1", "Read it with read_mammogram")
        rows, columns = (index.astype(np.float32) + np.float32(0.5) for index in np.nonzero(_without_rim(mask, view)))
        return cls(_without_labels(pixels, mask), rows, columns, view, mirrored)

    def turned(self, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of its points in axes that are turned by an angle (radians)."""
        if not angle:
            return self.rows, self.columns
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return cos * self.rows - sin * self.columns, sin * self.rows + cos * self.columns


@dataclass(frozen=True)
class Window:
    """What the field shows: a rectangle in rows and columns that are turned by `angle` (radians) against the image."""

    top: float
    left: float
    bottom: float
    right: float
    angle: float = 0.0

    @property
    def height(self) -> float:
        """Pixels of the breast's image."""
        return self.bottom - self.top

    @property
    def width(self) -> float:
        """Pixels of the breast's image."""
        return self.right - self.left

    def lost(self, breast: Breast) -> float:
        """Share of the breast that lies outside."""
        row, column = breast.turned(self.angle)
        shown = (row > self.top) & (row < self.bottom) & (column > self.left) & (column < self.right)
        return 1.0 - float(shown.mean())


@dataclass(frozen=True)
class Field:
    """Where the exposed field lies in the sample: pixels of its centre and half sides, radians of its rotation."""

    centre: tuple[float, float]
    half: tuple[float, float]
    angle: float

    @classmethod
    def draw(cls, aspect: float, size: int, generator: np.random.Generator) -> Field:
        """A field of the given width by height, turned by up to 8 degrees, somewhere inside the frame."""
        angle = np.radians(generator.uniform(-8, 8))
        cos, sin = np.cos(angle), abs(np.sin(angle))
        reach = np.array([cos + aspect * sin, aspect * cos + sin])  # of a field of height 2
        room = size * (0.5 - FRAME)
        scale = generator.uniform(0.85, 1.0) * room / reach.max()
        row, column = size / 2 + (room - scale * reach) * generator.uniform(-1, 1, size=2)
        return cls((row, column), (scale, scale * aspect), angle)

    @property
    def region(self) -> list[int]:
        """The sample's rows and columns that it touches: `[row0, column0, row1, column1]`, half-open."""
        cos, sin = np.cos(self.angle), abs(np.sin(self.angle))
        reach = self.half[0] * cos + self.half[1] * sin, self.half[1] * cos + self.half[0] * sin
        first = [int(np.floor(middle - far)) for middle, far in zip(self.centre, reach, strict=True)]
        return first + [int(np.ceil(middle + far)) for middle, far in zip(self.centre, reach, strict=True)]

    def coverage(self) -> np.ndarray:
        """Share of each pixel of its region that is exposed; zero beyond the region, so in the whole frame."""
        row0, column0, row1, column1 = self.region
        row = np.arange(row0, row1, dtype=np.float32) + np.float32(0.5 - self.centre[0])
        column = np.arange(column0, column1, dtype=np.float32) + np.float32(0.5 - self.centre[1])
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        down = np.abs((cos * row)[:, None] - sin * column)
        across = np.abs((sin * row)[:, None] + cos * column)
        return np.clip(self.half[0] - down, 0, 1) * np.clip(self.half[1] - across, 0, 1)


def around(breast: Breast, shares: Mapping[str, float], angle: float) -> Window:
    """The breast's extent in turned rows and columns, moved outwards on each side by a share of it.

    Askew, the chest wall's (and in MLO the top's) edge goes where the field holds nothing from beyond the film.
    """
    row, column = breast.turned(angle)
    half = 0.5 * (np.cos(angle) + abs(np.sin(angle)))
    left, right, top, bottom = column.min() - half, column.max() + half, row.min() - half, row.max() + half
    if angle:
        left = column[breast.columns == breast.columns.min()].max()
        if breast.view == "MLO":
            ending = row[(breast.rows == breast.rows.min()) & (column > left)]
            top = ending.max() if ending.size else top
    left, right, top, bottom = float(left), float(right), float(top), float(bottom)
    height, width = bottom - top, right - left
    return Window(
        top - shares["top"] * height,
        left - shares["chest"] * width,
        bottom + shares["bottom"] * height,
        right + shares["nipple"] * width,
        angle,
    )


def expose(
    breast: Breast, window: Window, field: Field, size: int, generator: np.random.Generator, motion: bool
) -> np.ndarray:
    """Warp the window into the field, then grey values, grain, veil and the field's edge: all random, none by label."""
    sharpness = generator.uniform(0.8, 1.2)  # pixels of the sample; a source is about 0.6 of its own wide
    gamma, veil, grain = np.exp(generator.uniform(-0.2, 0.2)), generator.uniform(0.02, 0.06), 0.004
    scale = 2 * field.half[0] / window.height
    blur = np.sqrt(max(0.0, (sharpness / scale) ** 2 - 0.6**2))
    source = gaussian_filter(breast.pixels, blur, truncate=3) if blur > 0.1 else breast.pixels
    path = generator.uniform(-1, 1, size=2)
    shifts = np.outer(np.linspace(-0.5, 0.5, 13), path / np.linalg.norm(path) * 0.04 * size) if motion else [(0, 0)]
    image = np.mean([_warped(source, window, field, scale, shift) for shift in shifts], axis=0)
    image = np.clip(image, 0, 1, dtype=np.float32) ** np.float32(gamma)
    image += np.float32(grain) * generator.standard_normal(image.shape, dtype=np.float32)
    row0, column0, row1, column1 = field.region
    sample = np.zeros((size, size), dtype=np.float32)
    sample[row0:row1, column0:column1] = np.clip(veil + (1 - veil) * image, 1 / 255, 1) * field.coverage()
    return sample


def _warped(
    source: np.ndarray, window: Window, field: Field, scale: float, shift: np.ndarray | tuple[int, int]
) -> np.ndarray:
    """The one resampling: a pixel of the field's region, turned and scaled into the window, turned into the source."""
    row0, column0, row1, column1 = field.region
    from_window = _turn(window.angle)  # its rows are the axes of the window, so this is the inverse turn
    to_source = from_window @ _turn(field.angle).T / scale
    middle = from_window @ [(window.top + window.bottom) / 2, (window.left + window.right) / 2]
    offset = middle - 0.5 + to_source @ (np.array([row0 + 0.5, column0 + 0.5]) - field.centre - shift)
    shape = row1 - row0, column1 - column0
    return affine_transform(source, to_source, offset, output_shape=shape, order=1, mode="constant")


def _checked_box(pixels: np.ndarray, mask: np.ndarray) -> list[int]:
    if mask.shape != pixels.shape or mask.ndim != 2:
        raise unusable(f"its outline is {mask.shape}, its pixels are {pixels.shape}", "Give both as (rows, columns)")
    box = bounding_box(mask)
    if box is None:
        raise unusable("no breast is outlined", "Leave it out, or give an outline")
    height, width = box[2] - box[0], box[3] - box[1]
    if min(height, width) < LEAST_EXTENT:
        reason = f"its breast is {height} x {width} pixels, less than {LEAST_EXTENT}"
        raise unusable(reason, "Leave it out, or give it at full resolution")
    return box


def _turn(angle: float) -> np.ndarray:
    """What takes rows and columns, from the left, out of axes that are turned by an angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def block_means(array: np.ndarray, step: int) -> np.ndarray:
    """An array (rows, columns) reduced to means of `step` x `step` pixels, float32; what fills no block is dropped."""
    rows, columns = (side // step for side in array.shape)
    flat = array[: rows * step].reshape(rows, step, -1).sum(axis=1, dtype=np.float32)
    total: np.ndarray = sum(flat[:, first : columns * step : step] for first in range(step))
    return total / np.float32(step**2)


def _without_rim(mask: np.ndarray, view: str) -> np.ndarray:
    """The outline without the :data:`RIM` at the chest wall (on the left) and, in MLO, at the top."""
    row0, column0, row1, column1 = bounding_box(mask) or [0, 0, 0, 0]
    inner = mask.copy()
    inner[:, : column0 + int(np.ceil(RIM * (column1 - column0)))] = False
    if view == "MLO":
        inner[: row0 + int(np.ceil(RIM * (row1 - row0)))] = False
    return inner


def _without_labels(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Air set to zero beyond a soft edge of a twenty-fifth of the breast's height about the skin.

    Whatever lies between the chest wall and the outline belongs to the breast: outlines have notches there.
    """
    held = mask.any(axis=1)
    height = int(np.ptp(np.flatnonzero(held))) + 1
    skin = np.where(held, mask.shape[1] - mask[:, ::-1].argmax(axis=1), 0)
    keep = np.arange(mask.shape[1]) < skin[:, None]
    soft = uniform_filter(keep.astype(np.float32), max(3, round(0.08 * height)), mode="nearest")
    return pixels * np.clip(2 * soft, 0, 1)


def unusable(reason: str, remedy: str) -> MammogramError:
    """The error of a mammogram of which no sample can be made; arrays have no file to name."""
    return MammogramError("mammogram", reason, remedy)
