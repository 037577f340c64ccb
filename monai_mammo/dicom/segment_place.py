"""Whether a DICOM SEG's frames lie upon their mammogram's pixels. Not here: what is in them, and moving them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from monai_mammo.dicom.errors import refusing
from monai_mammo.dicom.header import integer, text
from monai_mammo.dicom.plane import plane_of, stated_plane

OFF = 0.5
"""Pixels that a frame may lie beside the mammogram's grid."""
_FRAME_TAGS = [
    "Rows", "Columns", "FrameOfReferenceUID", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_IMAGE_TAGS = [
    "Rows", "Columns", "SOPInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
]  # fmt: skip


def misplaced(file: Path, frames: tuple[int, ...], image: Path) -> str:
    """Why frames of a DICOM SEG cannot be laid over a mammogram pixel by pixel; empty if they can, as far as is known.

    Sizes have to be equal. Places are compared where both files state one in the same frame of reference, which few
    mammograms do: a frame that is flipped, turned or shifted by more than `OFF` pixels lies elsewhere.

    Args:
        file: the DICOM SEG.
        frames: indices, from 0.
        image: the mammogram's DICOM file.

    Raises:
        MammogramError: a header is malformed.
    """
    with disable_value_validation(), refusing(file, "the segmentation's header is malformed", "Write it again"):
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_FRAME_TAGS)
        source = pydicom.dcmread(image, stop_before_pixels=True, force=True, specific_tags=_IMAGE_TAGS)
        size = [integer(file, dataset, keyword) for keyword in ("Rows", "Columns")]
        wanted = [integer(image, source, keyword) for keyword in ("Rows", "Columns")]
        if size != wanted:
            return f"has {size[0]} x {size[1]} pixels, its mammogram {wanted[0]} x {wanted[1]}"
        references = {text(each, "FrameOfReferenceUID") for each in (dataset, source)} - {""}
        if stated_plane(source) is None or len(references) > 1:
            return ""
        per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
        shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), Dataset())
        places = [_place(per_frame[index], shared) for index in frames if index < len(per_frame)]
        if all(_on_grid(place, source, size) for place in places):
            return ""
    return "lies elsewhere than its mammogram: it is flipped, turned or cut against it"


def _place(groups: Dataset, shared: Dataset) -> Dataset:
    """A frame's position and orientation, as an image has them."""
    place = Dataset()
    for sequence, keyword in (
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ):
        stated = next(iter(groups.get(sequence) or shared.get(sequence) or []), Dataset())
        if keyword in stated:
            place[keyword] = stated[keyword]
    return place


def _on_grid(place: Dataset, source: Dataset, size: list[int]) -> bool:
    """Whether a frame lies within `OFF` pixels of an image's grid, before or behind it, too, or does not say."""
    stated, image = stated_plane(place), plane_of(source)
    if stated is None:
        return True
    position, orientation = (np.array(values) for values in stated)
    axes = np.reshape(image.orientation, (2, 3))  # along a row, so that the columns change, and along a column
    steps, ends = np.array(image.spacing)[::-1], np.array(size)[::-1] - 1
    shifted = np.abs(axes @ (position - image.position)) / steps
    turned = np.linalg.norm(np.reshape(orientation, (2, 3)) - axes, axis=1) * ends
    return bool((shifted <= OFF).all() and (turned <= OFF).all())
