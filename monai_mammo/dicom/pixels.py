"""Decode the stored pixels of a parsed DICOM file, after checking that they can be what the header says.

Gives the stored bits, nothing more: what they mean for the eye is `display.py`'s. No codec is written here; pydicom's
plugins (pylibjpeg, Pillow, GDCM, whatever is installed) decode.
"""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.fileutil import read_undefined_length_value
from pydicom.tag import SequenceDelimiterTag, Tag
from pydicom.uid import UID, RLELossless

from monai_mammo.dicom.errors import DECODER_ERRORS, MammogramError
from monai_mammo.dicom.header import PixelElement, integer, text

MAX_PIXELS = 100_000_000
"""An image with more pixels is refused before memory is taken; the largest film scans have some 50 million."""

_PIXEL_DATA = Tag(0x7FE0, 0x0010)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_EXPORT_AGAIN = "Export or download the file again"
_UNCOMPRESS = "Convert it to Explicit VR Little Endian, for example with gdcmconv --raw"
_WRONG_CONTENT = "Give a greyscale mammogram of 8 or 16 bits"


def check_size(path: Path, rows: int, columns: int) -> None:
    """Refuse an image of no or too many pixels, from its header alone.

    Raises:
        MammogramError: a side is less than 1, or the image has more than `MAX_PIXELS`.
    """
    if rows < 1 or columns < 1:
        raise MammogramError(path, f"the header claims {rows} x {columns} pixels", _EXPORT_AGAIN)
    if rows * columns > MAX_PIXELS:
        raise MammogramError(
            path,
            f"the header claims {rows} x {columns} pixels, more than the {MAX_PIXELS} that are allowed",
            "Check that the file is a mammogram and not damaged",
        )


def read_stored(path: Path, file: BinaryIO, dataset: FileDataset, element: PixelElement | None) -> np.ndarray:
    """Decode the pixels of a parsed file whose `file` stands at the pixel data element.

    Returns:
        uint8 or uint16 (rows, columns), below 2 ** BitsStored: the stored bits, so two's complement in BitsStored bits
        where PixelRepresentation says that they are signed.

    Raises:
        MammogramError: no, too many, too few, coloured or undecodable pixels; sizes are checked before memory is taken.
    """
    if element is None:
        raise MammogramError(path, "there are no pixel data, or the file is truncated before them", _EXPORT_AGAIN)
    if element.tag != _PIXEL_DATA:
        raise MammogramError(path, "the pixel data are floating point numbers", _WRONG_CONTENT)
    rows, columns = integer(path, dataset, "Rows"), integer(path, dataset, "Columns")
    check_size(path, rows, columns)
    allocated, stored_bits = _check_layout(path, dataset)
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if element.length == _UNDEFINED_LENGTH:
        value = _read_encapsulated(path, file, syntax, (rows, columns))
    else:
        value = _read_native(path, file, element, rows * columns * allocated // 8)
    array = _decode(path, dataset, element, value, syntax)
    if array.shape != (rows, columns) or array.dtype.itemsize * 8 != allocated:
        raise MammogramError(
            path, f"decoding gave {array.shape} pixels, the header says {(rows, columns)}", _EXPORT_AGAIN
        )
    stored = array.astype(array.dtype.newbyteorder("="), copy=False).view(f"u{array.dtype.itemsize}")
    if stored_bits < allocated:
        # PS3.5 8.1.1: bits beyond those stored may hold anything (once, overlays) and are no part of the pixel.
        stored = stored & stored.dtype.type(2**stored_bits - 1)
    return stored


def _check_layout(path: Path, dataset: FileDataset) -> tuple[int, int]:
    samples = integer(path, dataset, "SamplesPerPixel", 1)
    photometric = text(dataset, "PhotometricInterpretation").upper()
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        shown = photometric if photometric.replace("_", "").replace(" ", "").isalnum() else "missing"
        raise MammogramError(
            path, f"the photometric interpretation is {shown} with {samples} sample(s) per pixel", _WRONG_CONTENT
        )
    allocated = integer(path, dataset, "BitsAllocated")
    stored_bits = integer(path, dataset, "BitsStored", allocated)
    if allocated not in (8, 16) or not 1 <= stored_bits <= allocated:
        raise MammogramError(path, f"{stored_bits} bits are stored in {allocated} allocated bits", _WRONG_CONTENT)
    if integer(path, dataset, "HighBit", stored_bits - 1) != stored_bits - 1:
        raise MammogramError(path, "HighBit is not BitsStored - 1, which DICOM no longer allows", _UNCOMPRESS)
    return allocated, stored_bits


def _read_native(path: Path, file: BinaryIO, element: PixelElement, expected: int) -> bytes:
    file.seek(8 if element.vr not in ("OB", "OW", "UN") else 12, os.SEEK_CUR)
    available = min(element.length, os.fstat(file.fileno()).st_size - file.tell())
    if available < expected:
        raise MammogramError(
            path, f"the file is truncated: {expected} bytes of pixels are claimed, {available} are there", _EXPORT_AGAIN
        )
    # Bytes after the image (padding, a forgotten second frame) would only take memory.
    return file.read(expected + expected % 2)


def _read_encapsulated(path: Path, file: BinaryIO, syntax: UID, shape: tuple[int, int]) -> bytes:
    file.seek(12, os.SEEK_CUR)
    try:
        value = read_undefined_length_value(file, True, SequenceDelimiterTag)
    except EOFError:
        raise MammogramError(path, "the file is truncated within its compressed pixels", _EXPORT_AGAIN) from None
    if not value:
        raise MammogramError(path, "the pixel data are empty", _EXPORT_AGAIN)
    claimed = None if syntax == RLELossless else _codestream_shape(value)
    if claimed is not None and claimed != shape:
        # Before decoding: codecs take memory for what the codestream says, not for what the header says.
        raise MammogramError(
            path, f"the compressed image has {claimed} pixels, the header says {shape} (rows, columns)", _EXPORT_AGAIN
        )
    return value


def _decode(path: Path, dataset: FileDataset, element: PixelElement, value: bytes, syntax: UID) -> np.ndarray:
    try:
        dataset.add_new(_PIXEL_DATA, element.vr or "OW", value)
        dataset["PixelData"].is_undefined_length = element.length == _UNDEFINED_LENGTH
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dataset.pixel_array
    except DECODER_ERRORS as error:
        raise MammogramError(
            path,
            f'the pixel data of transfer syntax "{syntax.name}" cannot be decoded ({type(error).__name__})',
            _UNCOMPRESS,
        ) from None


def _codestream_shape(value: bytes) -> tuple[int, int] | None:
    """Read (rows, columns) from the first JPEG, JPEG-LS or JPEG 2000 codestream of encapsulated pixel data."""
    start = 8 + struct.unpack_from("<L", value, 4)[0] + 8 if len(value) >= 8 else 0  # offset table, item header
    try:
        if value[start : start + 2] == b"\xff\xd8":
            return _jpeg_shape(value, start + 2)
        siz = value.find(b"\xff\x4f\xff\x51", start, start + 256)  # behind a file header that should not be there
        if siz >= 0:
            right, bottom, left, top = struct.unpack_from(">4L", value, siz + 8)
            return bottom - top, right - left
    except (struct.error, IndexError):
        return None
    return None


def _jpeg_shape(value: bytes, position: int) -> tuple[int, int] | None:
    while value[position] == 0xFF:
        marker = value[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack_from(">2H", value, position + 5)
            return rows, columns
        else:
            position += 2 + struct.unpack_from(">H", value, position + 2)[0]
    return None
