"""Complete and incomplete mammograms made from complete ones, by one chain of steps for both classes.

Not a simulation of an exposure: tissue that was never imaged is not made up, so what is "missing" is always cut off.

**Why no trace of the processing tells the classes apart.** Cutting a picture leaves tissue at its border, and a
network that finds tissue there has learnt the scissors. Here the label only decides how the breast lies in the exposed
field; everything else is drawn without regard to it, in the same order, so that from equal generators a complete and
an incomplete sample have the very same field:

- Every sample is a black square with an exposed field inside it, as of a collimated detector. Of its outer border
  `exposure.FRAME` is zero in both classes: it tells nothing, a network must look at the field's own edges.
- The field's aspect ratio, size, place and rotation come from a cut that is drawn for complete samples too; they then
  show the whole breast in a field of that shape, with more air around it.
- The chest wall (and in MLO the top) is at the field's edge in both classes. The outermost `exposure.RIM` there, where
  a film or detector ends with marks of its own, is outside the field in both classes and counts for neither.
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

from monai_mammo.datasets.exposure import Breast, Field, Window, around, expose, flat_edges, unusable

FLAT = 0.25
"""Share of its extent over which a breast may run along a straight edge before it counts as cut there."""

LEAST_SIZE = 32
"""Pixels a side of the smallest sample: below, the frame and the field's edge are no longer pixels apart."""

LEAST_LOST = 0.01
"""Share of the breast's area that every cut takes at least."""


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
        "rotation": Cut(("chest",), (0.0, 0.0), ("111203", "111209"), angle=(10.0, 16.0)),
        "motion": Cut((), (0.0, 0.0), ("111210",)),
    },
    "MLO": {
        "nipple": Cut(("nipple",), (0.06, 0.25), ("111205", "111209")),
        "superior": Cut(("top",), (0.15, 0.35), ("111197", "111209")),
        "inferior": Cut(("bottom",), (0.06, 0.25), ("111201",)),
        "posterior": Cut(("chest",), (0.20, 0.40), ("111197", "111198")),
        "collimation": Cut(("nipple", "bottom"), (0.03, 0.10), ("111195",)),
        "rotation": Cut(("chest", "top"), (0.0, 0.0), ("111209",), angle=(10.0, 16.0)),
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
    """Share of the breast's area, without its rim, that lies outside the exposed field."""


def already_cut(mask: np.ndarray, view: str) -> str | None:
    """Why a mammogram cannot serve as a complete one; None if it can.

    Args:
        mask: bool (rows, columns) outline of the breast.
        view: CC or MLO.

    Returns:
        the cause, a key of :data:`CAUSES`; or in words that there is no breast or that the view is not one of them.
    """
    if view not in CAUSES:
        return "the view is neither CC nor MLO"
    if not mask.any():
        return "no breast found"
    return next(iter(flat_sides(mask, view)), None)


def flat_sides(mask: np.ndarray, view: str) -> dict[str, float]:
    """The free sides along which a breast's outline runs straight, over more than :data:`FLAT`.

    Arguments and result are those of :func:`free_sides`; empty for a view that is neither CC nor MLO.
    """
    return {cause: share for cause, share in free_sides(mask, view).items() if share > FLAT} if view in CAUSES else {}


def free_sides(mask: np.ndarray, view: str) -> dict[str, float]:
    """How far a breast's outline runs straight along the free sides of its own bounding box.

    Free are all sides but the chest wall (the flatter of left and right) and, in MLO, the top, where the muscle is.

    Args:
        mask: bool (rows, columns) outline of the breast.
        view: CC or MLO; anything else is taken for CC.

    Returns:
        by cause, a key of :data:`CAUSES`: the share of that side, in [0, 1]; empty for an empty mask.
    """
    edges = flat_edges(mask)
    if not edges:
        return {}
    edges["nipple"] = min(edges["left"], edges["right"])
    return {cause: edges[side] for side, cause in _SIDES[view == "MLO"].items()}


def breast_of(pixels: np.ndarray, mask: np.ndarray, view: str, size: int = 512) -> Breast:
    """What all samples of a mammogram start from.

    Args:
        pixels: float (rows, columns) in [0, 1], air dark; a mammogram that is not :func:`already_cut`.
        mask: bool (rows, columns) outline of its breast.
        view: CC or MLO.
        size: rows and columns of the samples.

    Raises:
        MammogramError: mask empty, too small or of another shape; view unknown; pixels not all in [0, 1].
        ValueError: size below :data:`LEAST_SIZE`.
    """
    if view not in CAUSES:
        raise unusable("its view is neither CC nor MLO", "Leave it out, or state its view")
    if size < LEAST_SIZE:
        raise ValueError(f"a sample has at least {LEAST_SIZE} pixels a side, not {size}")
    return Breast.of(pixels, mask, view, size)


def make_sample(
    breast: Breast, generator: np.random.Generator, size: int = 512, *, label: int, cause: str | None = None
) -> Sample:
    """The chain of both classes: a field that shows the whole breast, or one that lacks a part of it.

    Whatever is drawn is drawn for both.

    Args:
        breast: from :func:`breast_of`, for the same size.
        generator: of everything random.
        size: rows and columns of the sample.
        label: 0 complete, 1 incomplete.
        cause: of an incomplete sample, a key of `CAUSES[view]`; drawn if None, `motion` left aside.

    Raises:
        MammogramError: the view has no such cause.
    """
    view, causes = breast.view, CAUSES[breast.view]
    drawn = [name for name in causes if name != "motion"][int(generator.integers(len(causes) - 1))]
    name = drawn if cause is None else cause
    if name not in causes:
        raise unusable(f"{view} has no cause {name!r}", f"Use one of {', '.join(causes)}")
    cut = _cut_window(breast, causes[drawn if name == "motion" else name], generator)
    field = Field.draw(cut.width / cut.height, size, generator)
    whole = _whole_window(breast, cut.width / cut.height, generator)
    window = cut if label and name != "motion" else whole
    image = expose(breast, window, field, size, generator, motion=bool(label) and name == "motion")
    if breast.mirrored:
        image = np.ascontiguousarray(image[:, ::-1])
    lost = window.lost(breast)
    if not label:
        return Sample(image, 0, "", "", (), lost)
    sides = {"chest": "left", "nipple": "right", "top": "top", "bottom": "bottom"}
    if breast.mirrored:
        sides |= {"chest": "right", "nipple": "left"}
    side = "+".join(sides[edge] for edge in causes[name].sides)
    return Sample(image, 1, name, side, causes[name].codes, lost)


def _cut_window(breast: Breast, cut: Cut, generator: np.random.Generator) -> Window:
    """A window that cuts as the cause says; free sides have a margin of air of 2 to 35 % of the breast's extent."""
    angle = np.radians(generator.uniform(*cut.angle) * generator.choice([-1, 1]))
    depth = generator.uniform(*cut.depth)
    margins = dict(zip(("nipple", "top", "bottom"), generator.uniform(0.02, 0.35, size=3), strict=True))
    while True:
        shares = {side: -depth if side in cut.sides else margins.get(side, 0.0) for side in ("chest", *margins)}
        if breast.view == "MLO" and "top" not in cut.sides:
            shares["top"] = 0.0
        window = around(breast, shares, angle)
        if not cut.depth[1] or window.lost(breast) >= LEAST_LOST or depth > 0.5:
            return window
        depth *= 1.25


def _whole_window(breast: Breast, aspect: float, generator: np.random.Generator) -> Window:
    """A window of the given width by height that shows all of the breast, with air on its free sides."""
    nipple, top, bottom = generator.uniform(0.02, 0.08, size=3)
    share = generator.uniform()
    if breast.view == "MLO":
        top = share = 0.0
    window = around(breast, {"chest": 0.0, "nipple": nipple, "top": top, "bottom": bottom}, 0.0)
    wider = max(0.0, window.height * aspect - window.width)
    higher = max(0.0, window.width / aspect - window.height)
    return Window(window.top - share * higher, window.left, window.bottom + (1 - share) * higher, window.right + wider)
