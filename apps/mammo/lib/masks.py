"""Masks as files: where a viewer shows an image, and a mask written so that it overlays it.

Not here: what they mean. Arrays are (rows, columns), files (x, y, 1).
"""

from __future__ import annotations

import errno
import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.raster import nrrd_segments
from monai_mammo.dicom.reader import read_mask

from .errors import RequestRefused

RESULT_EXTENSIONS = (".nrrd", ".nii.gz", ".nii")
LABEL_EXTENSIONS = (".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".png", ".tiff", ".tif")
RESULT_TYPES = ("uint8", "int16", "uint16", "int32", "float32")
_NIFTI_HEADER = 352


@dataclass(frozen=True)
class Geometry:
    """Where ITK (3D Slicer, SimpleITK) places an image: (x, y, z) spacing in mm, origin and row-major direction."""

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def geometry_of(path: Path, shape: tuple[int, ...]) -> Geometry:
    """The geometry that a mask of `shape` (rows, columns) needs to overlay an image file.

    A file that ITK cannot open (so that no ITK viewer shows it either) gets the identity with a spacing of 1.

    Raises:
        RequestRefused: ITK sees an image of another size, over which no mask of this shape can lie.
    """
    seen = seen_by_itk(path)
    if seen is None:
        return Geometry()
    size, geometry = seen
    if size[:2] != (shape[1], shape[0]):
        raise RequestRefused(
            422,
            f"viewers see {' x '.join(map(str, size))} pixels in this file, its reader {shape[1]} x {shape[0]}",
            "Convert the image to DICOM or PNG without rotation tags",
        )
    return geometry


def seen_by_itk(path: Path) -> tuple[tuple[int, ...], Geometry] | None:
    """Size (x, y, ...) and geometry of a file, None if ITK cannot open it.

    It is remembered for as long as the file stays as it is, for ITK reads a whole file for its header.

    Raises:
        OSError: there is no such file.
    """
    stat = path.stat()
    return _seen_by_itk(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4096)
def _seen_by_itk(path: Path, modified: int, length: int) -> tuple[tuple[int, ...], Geometry] | None:
    """`seen_by_itk`, of this state of a file."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    dimension, unit = reader.GetDimension(), Geometry()
    given, axes = np.reshape(reader.GetDirection(), (dimension, dimension)), min(dimension, 3)
    direction = np.eye(3)
    direction[:axes, :axes] = given[:axes, :axes]
    return reader.GetSize(), Geometry(
        spacing=(*reader.GetSpacing()[:3], *unit.spacing[dimension:]),
        origin=(*reader.GetOrigin()[:3], *unit.origin[dimension:]),
        direction=tuple(direction.flatten().tolist()),
    )


def write_mask(mask: np.ndarray, geometry: Geometry, request: dict[str, Any]) -> str:
    """Write a mask to a temporary file of size (x, y, 1), which the caller deletes.

    Args:
        mask: (rows, columns) labels.
        geometry: of the image beneath.
        request: its `result_extension`, `result_dtype` and `result_compress` are honoured.

    Returns:
        the file's path.

    Raises:
        RequestRefused: an extension or a type that is not offered.
        OSError: the disk of temporary files is full.
    """
    extension, dtype = result_format(request)
    image = SimpleITK.GetImageFromArray(mask[np.newaxis].astype(dtype, copy=False))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    handle, path = tempfile.mkstemp(prefix="mask-", suffix=extension)
    os.close(handle)
    SimpleITK.WriteImage(image, path, useCompression=bool(request.get("result_compress", True)))
    if not _is_whole(path, mask.size * np.dtype(dtype).itemsize):
        os.unlink(path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # SimpleITK says nothing when it could not write
    return path


def _is_whole(path: str, size: int) -> bool:
    """Whether a file holds `size` bytes of pixels: as they are, or as a gzip stream, whose end says it (RFC 1952)."""
    with open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 4))
        inside = int.from_bytes(file.read(), "little")
    header = _NIFTI_HEADER if path.endswith(".nii.gz") else 0
    return length >= size or inside == size + header


def result_format(request: dict[str, Any]) -> tuple[str, str]:
    """The file extension and NumPy type that a request asks for (`.nrrd` and `uint8` unless it says otherwise).

    Raises:
        RequestRefused: an extension or a type that is not offered.
    """
    extension, dtype = request.get("result_extension") or ".nrrd", request.get("result_dtype") or "uint8"
    for name, value, offered in (
        ("result_extension", extension, RESULT_EXTENSIONS),
        ("result_dtype", dtype, RESULT_TYPES),
    ):
        if value not in offered:
            raise RequestRefused(400, f"{name} {value!r} is not offered", f"Use one of {', '.join(offered)}")
    return extension, dtype


def read_label(path: Path, info: dict[str, Any]) -> np.ndarray:
    """The mask (rows, columns) of a label's file.

    Args:
        path: the file.
        info: what comes with it; the values that its `label_info` names stay as they are.

    Raises:
        RequestRefused: it is of another type (415), or cannot be read (422).
    """
    label_extension(path.name)
    try:
        return labels_in(path, info)
    except MammogramError as error:
        raise RequestRefused(422, f"the label cannot be used: {error.reason}", error.remedy) from error


def labels_in(path: Path, info: dict[str, Any]) -> np.ndarray:
    """`read_label` of a file that is kept.

    Raises:
        MammogramError: it cannot be read.
    """
    return read_mask(path, [entry["idx"] for entry in info.get("label_info") or []])


def segments_of_file(path: Path) -> dict[str, Any]:
    """The `label_info` that a label's own header states, as 3D Slicer writes it; {} if there is none.

    Raises:
        RequestRefused: the header is damaged (422).
    """
    try:
        named = [{"name": name, "idx": value} for name, value in nrrd_segments(path)]
    except MammogramError as error:
        raise RequestRefused(422, f"the label cannot be used: {error.reason}", error.remedy) from error
    return {"label_info": named} if named else {}


def label_extension(name: str) -> str:
    """The extension of a label file.

    Raises:
        RequestRefused: not a mask's extension.
    """
    for extension in LABEL_EXTENSIONS:
        if name.lower().endswith(extension):
            return extension
    raise RequestRefused(415, "the label's file type is not a mask's", f"Save it as {', '.join(LABEL_EXTENSIONS)}")
