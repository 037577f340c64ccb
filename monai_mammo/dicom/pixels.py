"""Decode the stored pixels of a parsed DICOM file, after checking that they can be what the header says.

Gives the stored bits, nothing more: what they mean for the eye is `display.py`'s. No codec is written here; imagecodecs
decodes JPEG 2000, HTJ2K and JPEG Extended, pydicom's plugins (pylibjpeg, Pillow, GDCM, whatever is installed) all else.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np
from pydicom.config import IGNORE
from pydicom.dataset import FileDataset
from pydicom.fileutil import read_undefined_length_value
from pydicom.tag import SequenceDelimiterTag, Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    RLELossless,
)

from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.header import PixelElement, integer, text

MAX_PIXELS = 100_000_000
"""An image with more pixels is refused before memory is taken; the largest film scans have some 50 million."""

_PIXEL_DATA = Tag(0x7FE0, 0x0010)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_HTJ2K = tuple(UID(f"1.2.840.10008.1.2.4.{number}") for number in (201, 202, 203))  # unknown to pydicom 2
_BY_IMAGECODECS = (JPEG2000Lossless, JPEG2000, *_HTJ2K, JPEGExtended12Bit)
_LITTLE_ENDIAN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
_NATIVE = (*_LITTLE_ENDIAN, ExplicitVRBigEndian)
_END_OF_IMAGE = b"\xff\xd9"
_EXPORT_AGAIN = "Export or download the file again"
_UNCOMPRESS = "Convert it to Explicit VR Little Endian, for example with gdcmconv --raw"
_WRONG_CONTENT = "Give a greyscale mammogram of 8 or 16 bits"


class Layout(NamedTuple):
    """How the pixels lie in the file, as the header says and `check_layout` has confirmed."""

    shape: tuple[int, int]
    allocated: int
    stored_bits: int
    element: PixelElement


def check_size(path: Path, rows: int, columns: int, limit: int = MAX_PIXELS) -> None:
    """Refuse an image of no or too many pixels, from its header alone.

    Raises:
        MammogramError: a side is less than 1, or the image has more than `limit` pixels.
    """
    if rows < 1 or columns < 1:
        raise MammogramError(path, f"the header claims {rows} x {columns} pixels", _EXPORT_AGAIN)
    if rows * columns > limit:
        raise MammogramError(
            path,
            f"the header claims {rows} x {columns} pixels, more than the {limit} that are allowed",
            "Check that the file is a mammogram and not damaged",
        )


def check_layout(
    path: Path, file: BinaryIO, dataset: FileDataset, element: PixelElement | None, limit: int = MAX_PIXELS
) -> Layout:
    """Check that the pixel data are there, grey, and of a size that the file can hold, without reading them.

    Raises:
        MammogramError: they are not.
    """
    if element is None:
        raise MammogramError(path, "there are no pixel data, or the file is truncated before them", _EXPORT_AGAIN)
    if element.tag != _PIXEL_DATA:
        raise MammogramError(path, "the pixel data are floating point numbers", _WRONG_CONTENT)
    shape = integer(path, dataset, "Rows"), integer(path, dataset, "Columns")
    check_size(path, *shape, limit)
    allocated, stored_bits = _check_bits(path, dataset)
    syntax = _syntax(dataset)
    if (syntax in _NATIVE) == (element.length == _UNDEFINED_LENGTH):
        raise MammogramError(
            path, f'the pixel data are not laid out as the transfer syntax "{syntax.name}" demands', _EXPORT_AGAIN
        )
    if syntax in _NATIVE:
        claimed = shape[0] * shape[1] * allocated // 8
        available = os.fstat(file.fileno()).st_size - file.tell() - value_offset(element)
        if min(available, element.length) < claimed:
            raise MammogramError(
                path,
                f"the file is truncated: {claimed} bytes of pixels are claimed, "
                f"{max(0, min(available, element.length))} are there",
                _EXPORT_AGAIN,
            )
    return Layout(shape, allocated, stored_bits, element)


def read_stored(path: Path, file: BinaryIO, dataset: FileDataset, layout: Layout) -> np.ndarray:
    """Decode the pixels of a parsed file whose `file` stands at the pixel data element.

    Returns:
        uint8 or uint16 (rows, columns), below 2 ** BitsStored: the stored bits, so two's complement in BitsStored bits
        where PixelRepresentation says that they are signed.

    Raises:
        MammogramError: the pixels cannot be decoded, or are not what the header says.
    """
    syntax = _syntax(dataset)
    file.seek(value_offset(layout.element), os.SEEK_CUR)
    if syntax in _LITTLE_ENDIAN:
        stored = _read_uncompressed(path, file, layout)
    else:
        stored = _read_and_decode(path, file, dataset, layout)
    if layout.stored_bits < layout.allocated:
        # PS3.5 8.1.1: bits beyond those stored may hold anything (once, overlays) and are no part of the pixel.
        np.bitwise_and(stored, stored.dtype.type(2**layout.stored_bits - 1), out=stored)
    return stored


def _read_uncompressed(path: Path, file: BinaryIO, layout: Layout) -> np.ndarray:
    """Straight into an array: NumPy takes memory in large pages, where a file's bytes cost more than their reading."""
    stored = np.empty(layout.shape, f"<u{layout.allocated // 8}")
    if file.readinto(stored.data.cast("B")) != stored.nbytes:  # type: ignore[attr-defined]
        raise MammogramError(path, "the file became shorter while it was read", _EXPORT_AGAIN)
    return stored


def _read_and_decode(path: Path, file: BinaryIO, dataset: FileDataset, layout: Layout) -> np.ndarray:
    syntax = _syntax(dataset)
    if layout.element.length == _UNDEFINED_LENGTH:
        value = _read_encapsulated(path, file, syntax, layout.shape)
    else:
        claimed = layout.shape[0] * layout.shape[1] * layout.allocated // 8
        # What follows the image (padding, a forgotten second frame) would only take memory.
        value = file.read(claimed).ljust(claimed + claimed % 2, b"\0")
    with refusing(path, f'the pixel data of transfer syntax "{syntax.name}" cannot be decoded', _UNCOMPRESS):
        if syntax in _BY_IMAGECODECS:
            array = _decode_jpeg(value, syntax, layout)
        else:
            array = _decode(path, dataset, layout, value)
    if array.shape != layout.shape:
        raise MammogramError(path, f"decoding gave {array.shape} pixels, the header says {layout.shape}", _EXPORT_AGAIN)
    stored = array.astype(array.dtype.newbyteorder("="), copy=False).view(f"u{array.dtype.itemsize}")
    return stored if stored.flags.writeable else stored.copy()


def _decode(path: Path, dataset: FileDataset, layout: Layout, value: bytes) -> np.ndarray:
    # What a header may lack and the decoders need.
    dataset.SamplesPerPixel, dataset.BitsStored, dataset.HighBit = 1, layout.stored_bits, layout.stored_bits - 1
    dataset.PixelRepresentation = integer(path, dataset, "PixelRepresentation", 0)
    dataset.NumberOfFrames = 1
    dataset.add_new(_PIXEL_DATA, layout.element.vr or "OW", value)
    dataset["PixelData"].is_undefined_length = layout.element.length == _UNDEFINED_LENGTH
    return dataset.pixel_array


def _decode_jpeg(value: bytes, syntax: UID, layout: Layout) -> np.ndarray:
    """JPEG 2000, where the plugins hold Python's lock all the while, most of a second: a server would stand still, one
    core idle. And JPEG Extended, of which they open few files."""
    fragments, position = [], 0
    while position + 8 <= len(value):  # items; the first is the offset table (PS3.5 A.4)
        end = position + 8 + struct.unpack_from("<L", value, position + 4)[0]
        fragments.append(value[position + 8 : end])
        position = end
    codestream = b"".join(fragments[1:])
    if syntax != JPEGExtended12Bit:
        array = imagecodecs.jpeg2k_decode(codestream)
    elif codestream.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):  # behind it there may be padding
        array = imagecodecs.jpeg8_decode(codestream)
    else:
        raise ValueError("it is cut short, and the codec would fill it up with grey")
    return array.astype(f"{array.dtype.kind}{layout.allocated // 8}", copy=False)


def _syntax(dataset: FileDataset) -> UID:
    return UID(str(dataset.file_meta.TransferSyntaxUID), IGNORE)


def value_offset(element: PixelElement) -> int:
    """Bytes from the beginning of the pixel data element to its value (PS3.5 7.1)."""
    return 12 if element.vr in ("OB", "OW", "UN") else 8


def _check_bits(path: Path, dataset: FileDataset) -> tuple[int, int]:
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
        raise MammogramError(path, "HighBit is not BitsStored - 1, which DICOM no longer allows", _EXPORT_AGAIN)
    return allocated, stored_bits


def _read_encapsulated(path: Path, file: BinaryIO, syntax: UID, shape: tuple[int, int]) -> bytes:
    with refusing(path, "the file is truncated within its compressed pixels", _EXPORT_AGAIN):
        value = read_undefined_length_value(file, True, SequenceDelimiterTag)
    if not value:
        raise MammogramError(path, "the pixel data are empty", _EXPORT_AGAIN)
    claimed = None if syntax == RLELossless else _codestream_shape(value)
    if claimed is not None and claimed != shape:
        # Before decoding: codecs take memory for what the codestream says, not for what the header says.
        raise MammogramError(
            path, f"the compressed image has {claimed} pixels, the header says {shape} (rows, columns)", _EXPORT_AGAIN
        )
    return value


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
