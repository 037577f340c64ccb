"""Complete and incomplete mammograms made from complete ones, by one chain of steps for both classes.

Not a simulation of an exposure: tissue that was never imaged is not made up, so what is "missing" is always cut off.

**Why no trace of the processing tells the classes apart.** Cutting a picture leaves tissue at its border, and a
network that finds tissue there has learnt the scissors. Here the label only decides how the breast lies in the exposed
field; everything else is drawn without regard to it, in the same order, so that from equal generators a complete and
an incomplete sample have the very same field:

- Every sample is a black square with an exposed field inside it, as of a collimated detector. The outer :data:`FRAME`
  on each side is zero in both classes: no border tells anything, a network must look at the field's own edges.
- The field's aspect ratio, size, place and rotation come from a cut that is drawn for complete samples too; they then
  show the whole breast in a field of that shape, with more air around it.
- The chest wall (and in MLO the top) is at the field's edge in both classes. The outermost :data:`RIM` there, where a
  film or detector ends with marks of its own, is outside the field in both classes and counts for neither.
- Air is cleared of labels, tape and the scanner's edge in both classes; a veil shows the whole field.
- One affine warp. A blur before it brings both classes to the same sharpness in pixels of the sample, noise after it
  to the same grain, although an incomplete breast is shown larger on average.

`monai-mammo border-probe` measures the result (`border_probe`). Columns run across the chest wall, rows along it, as
mammograms are hung: in CC the top is lateral.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter, uniform_filter

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.transforms import bounding_box

FRAME = 0.06
"""Least share of a sample's side that is black on each of its four sides."""

RIM = 0.02
"""Share of the breast's extent at the chest wall (in MLO also at the top) that no sample shows and no loss counts."""

FLAT = 0.25
"""Share of its extent over which a breast may run along a straight edge before it counts as cut there."""

LEAST_LOST = 0.01
"""Share of the breast's area that every cut takes at least."""

LEAST_EXTENT = 8
"""Pixels that a breast must have in either direction."""


@dataclass(frozen=True)
class Cut:
    """A cause of incompleteness: what it takes, from where, and what a reader would write down."""

    sides: tuple[str, ...]
    """chest, nipple, top, bottom: the edges of the field that lie inside the breast."""
    depth: tuple[float, float]
    """Least and largest share of the breast's extent that is cut at each of them."""
    codes: tuple[str, ...]
    """DCM code values of DICOM CID 6041 (Mammography Image Quality Finding) that the image then violates."""
    angle: tuple[float, float] = (0.0, 0.0)
    """Degrees by which the breast lies askew in the field, either way."""


CAUSES: Mapping[str, Mapping[str, Cut]] = {
    "CC": {
        "nipple": Cut(("nipple",), (0.06, 0.25), ("111205", "111209")),
        "medial": Cut(("bottom",), (0.06, 0.25), ("111202", "111203")),
        "lateral": Cut(("top",), (0.06, 0.25), ("111203", "111209")),
        "posterior": Cut(("chest",), (0.20, 0.40), ("111204",)),
        "collimation": Cut(("nipple", "top", "bottom"), (0.03, 0.10), ("111195",)),
        "rotation": Cut(("chest",), (0.0, 0.0), ("111203", "111209"), angle=(8.0, 14.0)),
        "motion": Cut((), (0.0, 0.0), ("111210",)),
    },
    "MLO": {
        "nipple": Cut(("nipple",), (0.06, 0.25), ("111205", "111209")),
        "superior": Cut(("top",), (0.15, 0.35), ("111197", "111209")),
        "inferior": Cut(("bottom",), (0.06, 0.25), ("111201",)),
        "posterior": Cut(("chest",), (0.20, 0.40), ("111197", "111198")),
        "collimation": Cut(("nipple", "bottom"), (0.03, 0.10), ("111195",)),
        "rotation": Cut(("chest", "top"), (0.0, 0.0), ("111209",), angle=(8.0, 14.0)),
        "motion": Cut((), (0.0, 0.0), ("111200", "111210")),
    },
}
"""By view. `nipple`: the anterior part and the nipple. `superior`: axillary tail and upper pectoral muscle.
`inferior`: the inframammary fold. `posterior`: retroglandular fat and, in MLO, the pectoral muscle. `collimation`: the
shutter covers tissue on every free side. `rotation`: askew, so that the field loses wedges at the chest wall (and the
top). `motion`: blurred by the patient's motion, nothing lost; only on request."""

_SIDES = {"nipple": "nipple", "top": "lateral", "bottom": "medial"}, {"nipple": "nipple", "bottom": "inferior"}


@dataclass(frozen=True)
class Sample:
    """One image for the quality task and the truth about it."""

    pixels: np.ndarray
    """float32 (size, size) in [0, 1]."""
    label: int
    """0 complete, 1 incomplete."""
    cause: str
    """A key of :data:`CAUSES`; empty if complete."""
    side: str
    """The sample's sides at which tissue is missing (left, right, top, bottom), joined by "+"; empty if none is."""
    codes: tuple[str, ...]
    """DICOM CID 6041 code values that it violates."""
    lost: float
    """Share of the breast's area, without its :data:`RIM`, that lies outside the exposed field."""


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


def already_cut(mask: np.ndarray, view: str) -> str | None:
    """Why a mammogram cannot serve as a complete one; None if it can.

    The rule: the outline runs straight along a free side of its own bounding box over more than :data:`FLAT` of that
    side. Free are all sides but the chest wall (the flatter of left and right) and, in MLO, the top.

    Args:
        mask: bool (rows, columns) outline of the breast.
        view: CC or MLO.

    Returns:
        the cause, a key of :data:`CAUSES`; or in words that there is no breast or that the view is not one of them.
    """
    if view not in CAUSES:
        return "the view is neither CC nor MLO"
    edges = flat_edges(mask)
    if not edges:
        return "no breast found"
    edges["nipple"] = min(edges["left"], edges["right"])
    for side, cause in _SIDES[view == "MLO"].items():
        if edges[side] > FLAT:
            return cause
    return None


def complete_sample(
    pixels: np.ndarray, mask: np.ndarray, view: str, generator: np.random.Generator, size: int = 512
) -> Sample:
    """A field that shows the whole breast.

    Args:
        pixels: float (rows, columns) in [0, 1], air dark; a mammogram that is not :func:`already_cut`.
        mask: bool (rows, columns) outline of its breast.
        view: CC or MLO.
        generator: of everything random.
        size: rows and columns of the sample.

    Raises:
        MammogramError: mask empty, too small or of another shape; view unknown; pixels not finite.
    """
    return _sample(pixels, mask, view, generator, size, None, label=0)


def incomplete_sample(
    pixels: np.ndarray,
    mask: np.ndarray,
    view: str,
    generator: np.random.Generator,
    size: int = 512,
    cause: str | None = None,
) -> Sample:
    """A field that lacks a part of the breast; arguments and errors as of :func:`complete_sample`.

    Args:
        cause: a key of `CAUSES[view]`; drawn if None, `motion` left aside.

    Raises:
        MammogramError: also if the view has no such cause.
    """
    return _sample(pixels, mask, view, generator, size, cause, label=1)


def _sample(
    pixels: np.ndarray,
    mask: np.ndarray,
    view: str,
    generator: np.random.Generator,
    size: int,
    cause: str | None,
    label: int,
) -> Sample:
    """The chain of both classes; whatever is drawn is drawn for both."""
    breast = _Breast.of(pixels, mask, view, size)
    causes = CAUSES[view]
    drawn = [name for name in causes if name != "motion"][int(generator.integers(len(causes) - 1))]
    name = drawn if cause is None else cause
    if name not in causes:
        raise _unusable(f"{view} has no cause {name!r}", f"Use one of {', '.join(causes)}")
    cut = _cut_window(breast, causes[drawn if name == "motion" else name], generator)
    field = _Field.draw(cut.width / cut.height, size, generator)
    whole = _whole_window(breast, cut.width / cut.height, generator)
    window = cut if label and name != "motion" else whole
    image = _expose(breast, window, field, size, generator, motion=bool(label) and name == "motion")
    if breast.mirrored:
        image = np.ascontiguousarray(image[:, ::-1])
    if not label:
        return Sample(image, 0, "", "", (), 0.0)
    sides = {"chest": "left", "nipple": "right", "top": "top", "bottom": "bottom"}
    if breast.mirrored:
        sides |= {"chest": "right", "nipple": "left"}
    side = "+".join(sides[edge] for edge in causes[name].sides)
    return Sample(image, 1, name, side, causes[name].codes, window.lost(breast.points))


@dataclass(frozen=True)
class _Breast:
    """A mammogram with the chest wall on the left, cleared of labels, reduced to about the sample's resolution."""

    pixels: np.ndarray
    points: np.ndarray
    """(number, 2) row and column of the centres of the breast's pixels, without the rim."""
    view: str
    mirrored: bool

    @classmethod
    def of(cls, pixels: np.ndarray, mask: np.ndarray, view: str, size: int) -> _Breast:
        if view not in CAUSES:
            raise _unusable("its view is neither CC nor MLO", "Leave it out, or state its view")
        if mask.shape != pixels.shape or mask.ndim != 2:
            raise _unusable(f"its outline is {mask.shape}, its pixels are {pixels.shape}", "Give both in one shape")
        box = bounding_box(mask)
        if box is None:
            raise _unusable("no breast is outlined", "Leave it out, or give an outline")
        edges = flat_edges(mask)
        mirrored = edges["right"] > edges["left"]
        step = max(1, int(max(box[2] - box[0], box[3] - box[1]) // (1.5 * size)))
        pixels, mask = (_reduced(array[:, ::-1] if mirrored else array, step) for array in (pixels, mask))
        mask = mask >= 0.5
        if not np.isfinite(pixels).all():
            raise _unusable("it has pixels that are no numbers", "Read it with read_mammogram")
        reference = _without_rim(mask, view)
        if min(np.ptp(np.argwhere(reference), axis=0) + 1, default=0) < LEAST_EXTENT:
            raise _unusable(
                f"its breast is smaller than {LEAST_EXTENT} pixels", "Leave it out, or give it at full resolution"
            )
        return cls(_without_labels(pixels, mask), np.argwhere(reference) + 0.5, view, mirrored)


@dataclass(frozen=True)
class _Window:
    """What the field shows: a rectangle in rows and columns that are turned by `angle` (radians) against the image."""

    top: float
    left: float
    bottom: float
    right: float
    angle: float = 0.0

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def width(self) -> float:
        return self.right - self.left

    def lost(self, points: np.ndarray) -> float:
        """Share of the points that lie outside."""
        row, column = _turned(points, self.angle).T
        shown = (row > self.top) & (row < self.bottom) & (column > self.left) & (column < self.right)
        return 1.0 - float(shown.mean())


@dataclass(frozen=True)
class _Field:
    """Where the exposed field lies in the sample: pixels of its centre and half sides, radians of its rotation."""

    centre: tuple[float, float]
    half: tuple[float, float]
    angle: float

    @classmethod
    def draw(cls, aspect: float, size: int, generator: np.random.Generator) -> _Field:
        """A field of the given width by height, turned by up to 8 degrees, somewhere inside the frame."""
        angle = np.radians(generator.uniform(-8, 8))
        cos, sin = np.cos(angle), abs(np.sin(angle))
        reach = np.array([cos + aspect * sin, aspect * cos + sin])  # of a field of height 2
        room = size * (0.5 - FRAME)
        scale = generator.uniform(0.85, 1.0) * room / reach.max()
        row, column = size / 2 + (room - scale * reach) * generator.uniform(-1, 1, size=2)
        return cls((row, column), (scale, scale * aspect), angle)

    def coverage(self, size: int) -> np.ndarray:
        """Share of each of the sample's pixels that is exposed; zero in the whole frame."""
        grid = np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 2, indexing="ij"), axis=-1) - self.centre
        inside = np.asarray(self.half) - np.abs(_turned(grid, self.angle))
        return np.clip(inside, 0, 1).prod(axis=-1).astype(np.float32)


def _cut_window(breast: _Breast, cut: Cut, generator: np.random.Generator) -> _Window:
    """A window that cuts as the cause says; free sides have a margin of air of 2 to 35 % of the breast's extent."""
    angle = np.radians(generator.uniform(*cut.angle) * generator.choice([-1, 1]))
    depth = generator.uniform(*cut.depth)
    margins = dict(zip(("nipple", "top", "bottom"), generator.uniform(0.02, 0.35, size=3), strict=True))
    while True:
        shares = {side: -depth if side in cut.sides else margins.get(side, 0.0) for side in ("chest", *margins)}
        if breast.view == "MLO" and "top" not in cut.sides:
            shares["top"] = 0.0
        window = _around(breast, shares, angle)
        if not cut.depth[1] or window.lost(breast.points) >= LEAST_LOST or depth > 0.5:
            return window
        depth *= 1.25


def _whole_window(breast: _Breast, aspect: float, generator: np.random.Generator) -> _Window:
    """A window of the given width by height that shows all of the breast, with air on its free sides."""
    nipple, top, bottom = generator.uniform(0.02, 0.08, size=3)
    share = generator.uniform()
    if breast.view == "MLO":
        top = share = 0.0
    window = _around(breast, {"chest": 0.0, "nipple": nipple, "top": top, "bottom": bottom}, 0.0)
    wider = max(0.0, window.height * aspect - window.width)
    higher = max(0.0, window.width / aspect - window.height)
    return _Window(
        window.top - share * higher, window.left, window.bottom + (1 - share) * higher, window.right + wider
    )


def _around(breast: _Breast, shares: Mapping[str, float], angle: float) -> _Window:
    """The breast's extent in turned rows and columns, moved outwards on each side by a share of it.

    Askew, the chest wall's (and in MLO the top's) edge goes where the field holds nothing from beyond the film.
    """
    row, column = _turned(breast.points, angle).T
    half = 0.5 * (np.cos(angle) + abs(np.sin(angle)))
    left, right, top, bottom = column.min() - half, column.max() + half, row.min() - half, row.max() + half
    if angle:
        left = column[breast.points[:, 1] == breast.points[:, 1].min()].max()
        if breast.view == "MLO":
            ending = row[(breast.points[:, 0] == breast.points[:, 0].min()) & (column > left)]
            top = ending.max() if ending.size else top
    height, width = bottom - top, right - left
    return _Window(
        top - shares["top"] * height,
        left - shares["chest"] * width,
        bottom + shares["bottom"] * height,
        right + shares["nipple"] * width,
        angle,
    )


def _expose(
    breast: _Breast, window: _Window, field: _Field, size: int, generator: np.random.Generator, motion: bool
) -> np.ndarray:
    """Warp the window into the field, then grey values, grain, veil and the field's edge: all random, none by label."""
    sharpness = generator.uniform(0.8, 1.2)  # pixels of the sample; a source is about 0.6 of its own wide
    gamma, veil, grain = np.exp(generator.uniform(-0.2, 0.2)), generator.uniform(0.02, 0.06), 0.004
    scale = 2 * field.half[0] / window.height
    blur = np.sqrt(max(0.0, (sharpness / scale) ** 2 - 0.6**2))
    source = gaussian_filter(breast.pixels, blur, truncate=3) if blur > 0.1 else breast.pixels
    path = generator.uniform(-1, 1, size=2)
    shifts = np.outer(np.linspace(-0.5, 0.5, 13), path / np.linalg.norm(path) * 0.04 * size) if motion else [(0, 0)]
    image = np.mean([_warped(source, window, field, size, scale, shift) for shift in shifts], axis=0)
    image = np.clip(image, 0, 1) ** gamma + grain * generator.standard_normal((size, size))
    return (np.clip(veil + (1 - veil) * image, 1 / 255, 1) * field.coverage(size)).astype(np.float32)


def _warped(
    source: np.ndarray, window: _Window, field: _Field, size: int, scale: float, shift: np.ndarray | tuple[int, int]
) -> np.ndarray:
    """The one resampling: a sample's pixel, turned and scaled into the window, turned into the source."""
    from_window = _turned(np.eye(2), window.angle)  # its rows are the axes of the window, so this is the inverse turn
    to_source = from_window @ _turned(np.eye(2), field.angle).T / scale
    middle = from_window @ [(window.top + window.bottom) / 2, (window.left + window.right) / 2]
    offset = middle - 0.5 + to_source @ (0.5 - np.asarray(field.centre) - shift)
    return affine_transform(source, to_source, offset, output_shape=(size, size), order=1, mode="constant")


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Rows and columns (…, 2) in axes that are turned by an angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _reduced(array: np.ndarray, step: int) -> np.ndarray:
    """Means of blocks, float32; a rest that fills no block is dropped."""
    rows, columns = (side // step for side in array.shape)
    blocks = array[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


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
    keep = np.maximum.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    height = int(np.ptp(np.flatnonzero(mask.any(axis=1)))) + 1
    soft = uniform_filter(keep.astype(np.float32), max(3, round(0.08 * height)), mode="nearest")
    return pixels * np.clip(2 * soft, 0, 1)


def _unusable(reason: str, remedy: str) -> MammogramError:
    return MammogramError("mammogram", reason, remedy)
