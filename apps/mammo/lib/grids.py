"""Whether a label's file lies on its image's pixel grid, and a copy of it that does where its axes run backwards.

A label is kept pixel by pixel, while viewers place it by its geometry: both must mean the same. Not here: its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .errors import RequestRefused
from .masks import Geometry, label_extension, seen_by_itk, write_mask

OFF = 0.5
"""Pixels that a label may lie beside its image's grid."""
_PICTURES = (".png", ".tif", ".tiff")
# What writers put where they know no place: NRRD's and ITK's axes are LPS, NIfTI's RAS.
_UNKNOWN = (Geometry().direction, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


@contextmanager
def on_grid(label: Path, mask: np.ndarray, image: Callable[[], Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """The label's file and mask in the order of the image's pixels: as they are, or with their flips undone.

    A label without a place of its own is taken as it is, and so is each over an image that ITK cannot open, or that
    its archive does not send now. Spacings are not compared, for many writers know none.

    Args:
        label: the file.
        mask: what was read from it, (rows, columns) as the image.
        image: gives the image's file; RequestRefused if it cannot be had.

    Yields:
        the file, which may be a temporary NRRD or NIfTI file, and its mask (rows, columns).

    Raises:
        RequestRefused: the label lies elsewhere, or its axes are turned (422).
    """
    found = None if label_extension(label.name) in _PICTURES else seen_by_itk(label)
    beneath = _beneath(image) if found and not _is_unknown(found[1]) else None
    axes: tuple[int, ...] = ()
    if found and beneath and found[0][:2] == beneath[0][:2]:
        axes = flipped_axes(found[1], beneath[1], mask.shape)
    if not axes or not beneath:
        yield label, mask
        return
    mask = np.flip(mask, axes)
    extension = label_extension(label.name).removeprefix(".seg")  # a copy has no names of segments
    copy = Path(write_mask(mask, beneath[1], {"result_extension": extension, "result_dtype": mask.dtype.name}))
    try:
        yield copy, mask
    finally:
        copy.unlink(missing_ok=True)


def flipped_axes(label: Geometry, image: Geometry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of an array of this shape (rows, columns) along which the label runs against its image.

    Of an image without any place only the axes count, unless they run backwards. How far off the plane the label
    lies does not count: a mammogram has one.

    Raises:
        RequestRefused: no flip brings the label within `OFF` pixels of the image's grid (422).
    """
    ends = np.array([shape[1] - 1, shape[0] - 1])
    own, wanted = (np.reshape(geometry.direction, (3, 3))[:, :2] for geometry in (label, image))
    signs = np.sign((own * wanted).sum(axis=0))
    turned = np.linalg.norm(own * signs - wanted, axis=0) * ends
    corner = label.origin + own @ np.where(signs < 0, ends * label.spacing[:2], 0)
    shifted = np.abs((corner - image.origin) @ wanted) / image.spacing[:2]
    axes = tuple(axis for axis, sign in ((0, signs[1]), (1, signs[0])) if sign < 0)
    placed = image != Geometry() or axes
    if (turned > OFF).any() or (placed and (shifted > OFF).any()):
        raise RequestRefused(
            422, "the label lies elsewhere than the image", "Save the label on the image's own pixel grid"
        )
    return axes


def _is_unknown(geometry: Geometry) -> bool:
    at_zero = np.allclose(geometry.origin, 0, atol=1e-6)
    return at_zero and any(np.allclose(geometry.direction, direction, atol=1e-6) for direction in _UNKNOWN)


def _beneath(image: Callable[[], Path]) -> tuple[tuple[int, ...], Geometry] | None:
    try:
        return seen_by_itk(image())
    except (RequestRefused, FileNotFoundError):  # that keeps nobody from saving
        return None
