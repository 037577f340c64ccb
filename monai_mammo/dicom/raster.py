"""Images without a DICOM header: PNG, JPEG, TIFF, and NIfTI or NRRD of one slice, as rows and columns.

They carry no view and no side, and their background is dark by assumption. No DICOM here.
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.pixels import MAX_PIXELS, check_size

LARGEST_LABEL = 31
"""A mask whose values do not exceed this holds labels; no lesion catalogue needs more."""

_EXPORT_AGAIN = "Save or download the file again"
_ONE_SLICE = "Give one slice of one channel"
_TO_RAS = {
    "left-posterior-superior": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "lps": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
}
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}


class Raster(NamedTuple):
    """An image as stored.

    `values` is (rows, columns) of the file's own type; `spacing` is (row, column) in mm or None; `affine` is (4, 4)
    from (row, column) to RAS mm or None.
    """

    values: np.ndarray
    spacing: tuple[float, float] | None = None
    affine: np.ndarray | None = None


def sniff(path: Path, head: bytes) -> str | None:
    """Name the format of a file from its first 352 bytes: "png", "jpeg", "tiff", "nifti", "nrrd", or None."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if (
        head[344:347] == b"n+1"
        or head[4:7] == b"n+2"
        or (head[:2] == b"\x1f\x8b" and path.name.lower().endswith(".nii.gz"))
    ):
        return "nifti"
    return None


def read_raster(path: Path, kind: str, labels: bool = False, limit: int = MAX_PIXELS) -> Raster:
    """Read an image of a kind that `sniff` named. Its size is checked before its pixels are read.

    NIfTI and NRRD index (x, y): they are transposed to rows and columns. A spacing of exactly 1 x 1 is what writers
    put where they know none, and counts as unknown; resolutions in PNG, JPEG and TIFF are meant for printing and are
    ignored.

    Args:
        path: the file.
        kind: its format.
        labels: keep a palette's indices and refuse colours (masks), instead of reading them as luminance.
        limit: pixels that the image may have.

    Raises:
        MammogramError: damaged, too large, or not one slice of one channel.
    """
    with refusing(path, f"the {kind.upper()} file is damaged or unreadable", _EXPORT_AGAIN):
        if kind == "nifti":
            return _read_nifti(path, limit)
        return _read_nrrd(path, limit) if kind == "nrrd" else Raster(_read_picture(path, labels, limit))


def to_unit(path: Path, values: np.ndarray) -> np.ndarray:
    """Scale values to float32 in [0, 1].

    8 and 16 bit unsigned integers by the range of their type, so that one value means one brightness in all files;
    floats within [0, 1] not at all; everything else (signed or wider integers, other floats) has no natural range and
    is scaled from its smallest to its largest value.

    Raises:
        MammogramError: a value is not finite.
    """
    if values.dtype.kind == "b" or (values.dtype.kind == "u" and values.dtype.itemsize <= 2):
        scale = 1 if values.dtype.kind == "b" else np.iinfo(values.dtype).max
        pixels = values.astype(np.float32)
        pixels *= np.float32(1 / scale)
        return np.minimum(pixels, np.float32(1), out=pixels)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise MammogramError(path, "some pixel values are not finite", "Replace them, for example by 0")
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return values.astype(np.float32)
    scaled = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return scaled.astype(np.float32)


def to_labels(path: Path, values: np.ndarray, named: Collection[int] = ()) -> np.ndarray:
    """Turn the values of a mask into labels, uint8 unless a label that is named is larger, then uint16.

    Values up to `LARGEST_LABEL` are labels and stay. A larger value marks a mask of two values (0 and 255, 0 and
    65535), which becomes 0 and 1. More than two values, some of them large, are grey levels and refused: so a crop
    or a mammogram in a mask's place does not pass (it happens in CBIS-DDSM). Where all values are 0 or named, they are
    labels and stay, however large; so does a single large one where several labels are named, as it may be any of them.

    Args:
        path: the mask's file, for errors.
        values: its values (rows, columns).
        named: the labels that are known to be such, up to 65535.

    Raises:
        MammogramError: negative or fractional values, or grey levels.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0:
        raise MammogramError(path, "a mask's values must be finite and not negative", "Give 0 for the background")
    of_two = bool(((values == 0) | (values == high)).all())
    known = np.isin(values, [0, *named]).all() or (of_two and len(set(named) - {0}) > 1)
    if LARGEST_LABEL < high <= np.iinfo(np.uint16).max and known:
        return values.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)
    if high <= LARGEST_LABEL:
        labels = values.astype(np.uint8)
        if values.dtype.kind == "f" and not np.array_equal(labels, values):
            raise MammogramError(path, "the mask has fractional values", "Threshold it, or save its labels as integers")
        return labels
    if not of_two:
        raise MammogramError(
            path,
            "the file holds grey levels, not a mask of two values or of small labels",
            "Check that it is the mask and not an image; else threshold it and save it without loss",
        )
    return (values != 0).astype(np.uint8)


def nrrd_segments(path: Path) -> list[tuple[str, int]]:
    """Name and label value of every segment that a NRRD file's header names as 3D Slicer does (`Segment0_Name`,
    `Segment0_LabelValue`), in the order of the values; empty for other files, and without pynrrd.

    Raises:
        MammogramError: it begins as NRRD, and its header is damaged.
    """
    try:
        import nrrd
    except ImportError:
        return []
    with refusing(path, "the NRRD file is damaged or unreadable", _EXPORT_AGAIN):
        with path.open("rb") as file:
            if sniff(path, file.read(352)) != "nrrd":
                return []
        header = {str(key): str(value).strip() for key, value in nrrd.read_header(str(path)).items()}
    numbers = [found[1] for key in header if (found := re.fullmatch(r"Segment(\d+)_Name", key))]
    values = {number: header.get(f"Segment{number}_LabelValue", "") for number in numbers}
    named = [(header[f"Segment{number}_Name"], int(value)) for number, value in values.items() if value.isdecimal()]
    return sorted(named, key=lambda segment: segment[1])


def _read_picture(path: Path, labels: bool, limit: int) -> np.ndarray:
    with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
        check_size(path, image.height, image.width, limit)
        if getattr(image, "n_frames", 1) > 1:
            raise MammogramError(path, f"it has {image.n_frames} pages", "Give an image of one page")
        if labels:
            _refuse_ambiguous(path, image)
        elif image.mode == "P":
            image = image.convert("RGB")
        if image.mode in ("LA", "PA"):
            image = image.getchannel(0)
        if image.mode in ("RGB", "RGBA", "RGBX"):
            colours = np.asarray(image)[..., :3]
            if (colours == colours[..., :1]).all():
                return np.ascontiguousarray(colours[..., 0])
        if image.mode in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
            if labels:
                raise MammogramError(path, "the mask is coloured", "Save it with one channel, labels as values")
            return np.asarray(image.convert("RGB").convert("L"))
        values = np.asarray(image)
        # Older Pillow opens 16-bit PNG as 32-bit integers.
        return values.astype(np.uint16) if image.mode == "I" and image.format == "PNG" else values


def _refuse_ambiguous(path: Path, image: Image.Image) -> None:
    """Refuse a mask that is drawn by its transparency, or whose palette does not begin with the background.

    What is white where it can be seen is white all over without its alpha; and the numbers of a palette that a program
    made by itself, from the commonest colour on, say nothing.
    """
    if "A" in image.getbands() and np.asarray(image.getchannel("A")).min() < 255:
        raise MammogramError(path, "parts of the mask are transparent", "Save it opaque, with one channel")
    if image.mode != "P":
        return
    palette = image.getpalette() or []
    grey = all(palette[3 * index : 3 * index + 3] == [index] * 3 for index in range(len(palette) // 3))
    if not grey and palette[:3] != [0, 0, 0]:
        reason = "the mask's palette does not begin with black, so its numbers may be no labels"
        raise MammogramError(path, reason, "Save it with one channel, labels as values")


def _read_nifti(path: Path, limit: int) -> Raster:
    import nibabel

    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    # Not by nibabel.load, which goes by the name's ending, and cannot open RAS.Nii.gz.
    with gzip.open(path) if packed else path.open("rb") as stream:
        kind = nibabel.Nifti2Image if stream.read(8)[4:7] == b"n+2" else nibabel.Nifti1Image
        stream.seek(0)
        image: Any = kind.from_stream(stream)
        shape = _plane(path, tuple(int(side) for side in image.shape), limit)
        if image.get_data_dtype().kind not in "biuf":
            raise MammogramError(path, "the NIfTI file holds colours or complex numbers", _ONE_SLICE)
        values = np.asanyarray(image.dataobj).reshape(shape, order="F")
    unit = _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    zooms = [float(zoom) * unit for zoom in image.header.get_zooms()[:2]]
    return _transposed(values, zooms, np.diag([unit, unit, unit, 1.0]) @ np.asarray(image.affine, dtype=np.float64))


def _read_nrrd(path: Path, limit: int) -> Raster:
    try:
        import nrrd
    except ImportError:
        raise MammogramError(path, "reading NRRD needs the package pynrrd", "Install it: pip install pynrrd") from None

    header = nrrd.read_header(str(path))
    if {"data file", "datafile"} & set(header):
        raise MammogramError(path, "the NRRD header points to another file", "Save header and pixels in one file")
    shape = _plane(path, tuple(int(side) for side in header["sizes"]), limit)
    values = nrrd.read(str(path), index_order="F")[0].reshape(shape, order="F")
    directions = header.get("space directions")
    if directions is None:
        return _transposed(values, [float(step) for step in header.get("spacings", (1.0, 1.0))[:2]], None)
    steps = np.asarray([vector for vector in directions if vector is not None], dtype=np.float64)
    affine = np.eye(4)
    affine[: steps.shape[1], : steps.shape[0]] = steps.T
    affine[: steps.shape[1], 3] = header.get("space origin", np.zeros(steps.shape[1]))
    to_ras = _TO_RAS.get(str(header.get("space", "")).lower())
    zooms = [float(step) for step in np.linalg.norm(steps, axis=1)[:2]]
    return _transposed(values, zooms, None if to_ras is None else to_ras @ affine)


def _plane(path: Path, shape: tuple[int, ...], limit: int) -> tuple[int, int]:
    if len(shape) < 2 or any(side != 1 for side in shape[2:]):
        raise MammogramError(path, f"the array has the shape {shape}, not (x, y) or (x, y, 1)", _ONE_SLICE)
    check_size(path, shape[1], shape[0], limit)
    return shape[0], shape[1]


def _transposed(values: np.ndarray, zooms: list[float], affine: np.ndarray | None) -> Raster:
    known = len(zooms) == 2 and all(math.isfinite(zoom) and zoom > 0 for zoom in zooms) and zooms != [1.0, 1.0]
    if affine is not None:
        usable = np.isfinite(affine).all() and abs(float(np.linalg.det(affine))) > 1e-12
        affine = affine[:, [1, 0, 2, 3]] if usable else None
    return Raster(np.ascontiguousarray(values.T), (zooms[1], zooms[0]) if known else None, affine)
