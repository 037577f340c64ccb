"""Where a mammogram lies in space, so that a result can be laid upon it.

Mammography images are projections and hardly ever say; viewers want to know nevertheless. Nothing is measured with it:
`monai_mammo.dicom.header.breast_plane_spacing` is what sizes follow from.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_mammo.dicom.header import numbers, text


class Plane(NamedTuple):
    """Where an image lies: as its header says, or, where that is silent, as all parts of this program take it."""

    frame_of_reference: str
    position: tuple[float, ...]
    """ImagePositionPatient in mm."""
    orientation: tuple[float, ...]
    """ImageOrientationPatient."""
    spacing: tuple[float, float]
    """(row, column) in mm."""


def plane_of(dataset: Dataset) -> Plane:
    """Where a mammogram lies in space.

    The image's own position and orientation where it has both. Else, as almost every mammogram, position 0, 0, 0 and
    orientation 1, 0, 0, 0, 1, 0 in a frame of reference of its own that follows from the SOPInstanceUID: two images
    that say nothing of their place must not seem to lie upon each other. The spacing is PixelSpacing,
    ImagerPixelSpacing or NominalScannedPixelSpacing as stored, since viewers lay masks over the stored grid, or 1 mm.
    """
    frame, stated = text(dataset, "FrameOfReferenceUID"), stated_plane(dataset)
    if stated is None:
        stated, frame = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)), ""
    frame = frame or generate_uid(entropy_srcs=[text(dataset, "SOPInstanceUID"), "frame of reference"])
    return Plane(str(frame), *stated, _spacing(dataset) or (1.0, 1.0))


def stated_plane(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """ImagePositionPatient (mm) and ImageOrientationPatient, where a header has both and they make sense."""
    path = Path(text(dataset, "SOPInstanceUID"))
    position = _finite(path, dataset, "ImagePositionPatient", 3)
    orientation = _finite(path, dataset, "ImageOrientationPatient", 6)
    return (position, orientation) if position and orientation and _is_rotation(orientation) else None


def add_plane(dataset: Dataset) -> None:
    """Write `plane_of` into an image's attributes, so that viewers lay its segmentations upon it.

    For answers to viewers, not for files: OHIF up to 3.10 shows a segmentation only over an image with a position. An
    image that states no spacing gets none: viewers would measure with it.
    """
    plane = plane_of(dataset)
    dataset.FrameOfReferenceUID = plane.frame_of_reference
    dataset.ImagePositionPatient = list(plane.position)
    dataset.ImageOrientationPatient = list(plane.orientation)
    if spacing := _spacing(dataset):
        dataset.PixelSpacing = list(spacing)
    elif "PixelSpacing" in dataset:  # one that makes no sense
        dataset.PixelSpacing = None
    if "SliceThickness" not in dataset:
        dataset.SliceThickness = 1.0


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """The grid's (row, column) in mm by the first attribute that states it; None where that makes no sense, or none."""
    path = Path(text(dataset, "SOPInstanceUID"))
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if stated := _finite(path, dataset, keyword, 2):
            return (stated[0], stated[1]) if min(stated) > 0 else None
    return None


def _finite(path: Path, dataset: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """An attribute's numbers, or () if there are not as many of them."""
    values = [value for value in numbers(path, dataset, keyword) if value is not None]
    return tuple(values) if len(values) == count else ()


def _is_rotation(orientation: tuple[float, ...]) -> bool:
    """Whether two directions are of length 1 and perpendicular, as PS3.3 C.7.6.2.1.1 asks."""
    directions = np.reshape(orientation, (2, 3))
    return bool(np.allclose(directions @ directions.T, np.eye(2), atol=1e-3))
