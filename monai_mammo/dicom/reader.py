"""Read mammograms and masks from DICOM and common image files (`monai_mammo.readers` for MONAI's LoadImaged).

The only way in which training, bundles, app and batch read images, so that all see the same pixels: (rows, columns),
[0, 1], dark background. It reads as stored: it neither flips nor crops nor resamples.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.dataset import FileDataset

from monai_mammo.dicom.display import ForProcessing, Window, to_display
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.header import MammogramHeader, describe, index_to_world, parse
from monai_mammo.dicom.pixels import MAX_PIXELS, Layout, check_layout, read_stored
from monai_mammo.dicom.raster import Raster, read_raster, sniff, to_labels, to_unit

_HEAD = 352  # bytes; the longest signature, NIfTI's, ends there
_OTHERS = (b"%PDF", b"PK\3\4", b"MZ", b"\x7fELF", b"\xd0\xcf\x11\xe0", b"\0\0\0\1Bud1")  # office and system files
_ENDINGS = {".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".gz", ".nrrd"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Mammogram(MammogramHeader):
    """A mammogram: its header and `pixels`, float32 (rows, columns) in [0, 1] with dark background."""

    pixels: np.ndarray = field(repr=False)


def read_mammogram(
    path: str | PathLike[str],
    *,
    voi: int | Window = 0,
    for_processing: ForProcessing = "refuse",
    max_pixels: int = MAX_PIXELS,
) -> Mammogram:
    """Read a mammogram from DICOM, PNG, JPEG, TIFF, NIfTI or NRRD; the content decides, not the file's name.

    DICOM is displayed as the standard says: see `monai_mammo.dicom.display.to_display`. Other files are scaled as
    `monai_mammo.dicom.raster.to_unit` says.

    Args:
        path: the file.
        voi: which of several VOI LUTs or windows of a DICOM file, counted from 0; or a window in their place.
        for_processing: FOR PROCESSING images are refused ("refuse") or shown by logarithm and percentiles ("log").
        max_pixels: an image that claims more is refused before memory is taken.

    Raises:
        MammogramError: the file cannot be used; the message says why and what helps.
    """
    path, kind = _identify(path)
    if kind != "dicom":
        return _from_raster(path, kind, read_raster(path, kind, limit=max_pixels))
    with path.open("rb") as file:
        dataset, layout, header = _open_dicom(path, file, max_pixels)
        pixels = to_display(path, read_stored(path, file, dataset, layout), dataset, header, voi, for_processing)
    return Mammogram(pixels=pixels, **_values(header))


def read_header(path: str | PathLike[str]) -> MammogramHeader:
    """Read what is known of a mammogram without decoding a DICOM file's pixels; errors as `read_mammogram`'s.

    What `read_mammogram` refuses for its pixels or for how they are to be displayed (FOR PROCESSING, a malformed
    window or LUT) passes here. Other formats hold little beside pixels and are read whole.
    """
    path, kind = _identify(path)
    if kind != "dicom":
        mammogram = _from_raster(path, kind, read_raster(path, kind))
        return MammogramHeader(**_values(mammogram))
    with path.open("rb") as file:
        return _open_dicom(path, file)[2]


def read_mask(path: str | PathLike[str], named: Collection[int] = ()) -> np.ndarray:
    """Read a mask: uint8 labels (rows, columns), in the same orientation as `read_mammogram` gives its image.

    Takes the same files. Values up to 31 are labels and stay; a mask of 0 and one larger value becomes 0 and 1; grey
    levels are refused (`monai_mammo.dicom.raster.to_labels`). A DICOM file's stored values are taken as they are.

    Args:
        path: the file.
        named: labels that are known to be such: a mask of these and 0 stays as it is, uint16 where they exceed 255.

    Raises:
        MammogramError: the file cannot be used as a mask.
    """
    return read_mask_with_affine(path, named)[0]


def read_mask_with_affine(path: str | PathLike[str], named: Collection[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """`read_mask`, and the affine (4, 4) that the file states."""
    path, kind = _identify(path)
    if kind != "dicom":
        raster = read_raster(path, kind, labels=True)
        affine = index_to_world(raster.spacing) if raster.affine is None else raster.affine
        return to_labels(path, raster.values, named), affine
    with path.open("rb") as file:
        dataset, layout, header = _open_dicom(path, file)
        return to_labels(path, read_stored(path, file, dataset, layout), named), header.affine


def is_other_file(path: Path) -> bool:
    """Whether a file is clearly no image of any format: a report in PDF, a viewer's program beside a study.

    For whoever takes all images of a folder. Only what is known by its content is: documents, archives, programs and
    text without an image's ending. All else may be a damaged image or one in a format that is not read, and whoever
    gave it should be told.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    ending = path.suffix.lower()
    if not head or ending in _ENDINGS or _kind(path, head) is not None:
        return False
    return head.startswith(_OTHERS) or (head.isascii() and b"\0" not in head)


def begins_as_dicom(path: Path) -> bool:
    """Whether a file has the signature of DICOM, by which it is read as such; one that cannot be opened has not."""
    try:
        with path.open("rb") as file:
            return _is_dicom(file.read(_HEAD))
    except OSError:
        return False


def _is_dicom(head: bytes) -> bool:
    # Without a preamble, a DICOM file begins with an attribute of group 0002 or 0008.
    return head[128:132] == b"DICM" or (head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0")


def _kind(path: Path, head: bytes) -> str | None:
    return "dicom" if _is_dicom(head) else sniff(path, head)


def _identify(path: str | PathLike[str]) -> tuple[Path, str]:
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise MammogramError(path, "it is a folder or a device", "Give the path of one image file")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        raise MammogramError(path, "there is no such file", "Check the path") from None
    except OSError as error:
        raise MammogramError(path, f"it cannot be opened ({type(error).__name__})", "Check its permissions") from None
    if not head:
        raise MammogramError(path, "the file is empty", "Export or download it again")
    kind = _kind(path, head)
    if kind is None:
        raise MammogramError(
            path,
            "it is neither DICOM nor PNG, JPEG, TIFF, NIfTI or NRRD",
            "Give one of these; the name does not matter",
        )
    return path, kind


def _open_dicom(path: Path, file: BinaryIO, limit: int = MAX_PIXELS) -> tuple[FileDataset, Layout, MammogramHeader]:
    dataset, element = parse(path, file)
    header = describe(path, dataset)
    return dataset, check_layout(path, file, dataset, element, limit), header


def _from_raster(path: Path, kind: str, raster: Raster) -> Mammogram:
    rows, columns = raster.values.shape
    affine = index_to_world(raster.spacing) if raster.affine is None else raster.affine
    return Mammogram(
        path=path,
        format=kind,
        rows=rows,
        columns=columns,
        spacing=raster.spacing,
        affine=affine,
        pixels=to_unit(path, raster.values),
    )


def _values(header: MammogramHeader) -> dict[str, Any]:
    return {entry.name: getattr(header, entry.name) for entry in fields(MammogramHeader)}
