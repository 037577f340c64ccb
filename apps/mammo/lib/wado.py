"""Pixels of stored DICOM objects as DICOMweb sends them: frames as stored or uncompressed, whole objects, pictures.

A frame is read from its place in the file; the file is not loaded. Not here: HTTP, and which object is meant.
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_mammo.dicom.display import Window, is_little_endian
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.header import parse
from monai_mammo.dicom.pixels import check_layout, read_stored, value_offset
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.machine import available_cores
from monai_mammo.recent import RECENT

from .accept import NATIVE
from .dicom_json import to_little_endian
from .errors import RequestRefused, unknown

CHUNK = 2**20
_UNDEFINED = 0xFFFFFFFF
_PIXEL_TAG = (0x7FE0, 0x0010)
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_BEGINNINGS = (b"\xff\xd8", b"\xff\x4f")  # of a codestream: JPEG and JPEG-LS, JPEG 2000
# Decoding takes memory of several times the image: not for every thread at once.
_decoding = threading.BoundedSemaphore(max(2, available_cores()))


def syntax_of(path: Path) -> UID:
    """Transfer syntax of a file.

    Raises:
        RequestRefused: it is damaged (422).
    """
    with _refusing(path):
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        found = ImplicitVRLittleEndian if header.is_implicit_VR else ExplicitVRLittleEndian
        return UID(str(header.file_meta.get("TransferSyntaxUID", found)))


def stored_frames(path: Path, numbers: Sequence[int]) -> list[bytes]:
    """Frames as they lie in the file, compressed if they are.

    Args:
        path: the file.
        numbers: of the frames, from 1.

    Raises:
        RequestRefused: no such frame (404), or the file is damaged or too unusual (422).
    """
    with _refusing(path), path.open("rb") as file:
        dataset, element = parse(path, file)
        if element is None or element.tag != _PIXEL_TAG:
            raise unknown("frame", ",".join(map(str, numbers)))
        count = _check_frames(dataset, numbers)
        file.seek(value_offset(element), os.SEEK_CUR)
        try:
            if element.length == _UNDEFINED:
                places = _encapsulated(file, count)
                return [b"".join(_at(file, *place) for place in places[number - 1]) for number in numbers]
            if dataset.file_meta.TransferSyntaxUID not in NATIVE:
                raise ValueError
            start = file.tell()
            return [_native(file, dataset, start, number - 1) for number in numbers]
        except (ValueError, struct.error, IndexError):
            raise RequestRefused(
                422, "the pixel data are not laid out as the header says", "Export the file again", path.name
            ) from None


def uncompressed_frames(path: Path, numbers: Sequence[int]) -> list[bytes]:
    """Frames by their numbers, from 1, as `uncompressed_frame`.

    Raises:
        RequestRefused: no such frame (404), and as `uncompressed_frame`.
    """
    with _refusing(path), path.open("rb") as file:
        _check_frames(parse(path, file)[0], numbers)
    return [uncompressed_frame(path)] * len(numbers)


def uncompressed_frame(path: Path) -> bytes:
    """The pixels of an object of one grey frame, decoded, little endian, in the bits that its header allocates.

    Raises:
        RequestRefused: there are several frames or colours (406), or the pixels cannot be decoded (422).
    """
    dataset, stored = _decoded(path)
    if dataset.get("PixelRepresentation"):  # a viewer takes all allocated bits: the sign must fill them
        bits = int(dataset.BitsStored)
        signed = stored.astype(np.int32)
        stored = np.where(signed >= 1 << (bits - 1), signed - (1 << bits), signed).astype(f"i{stored.itemsize}")
    return stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()


def uncompressed_object(path: Path) -> bytes:
    """The whole object in explicit little endian; errors as `uncompressed_frame`."""
    pixels = uncompressed_frame(path)
    with _refusing(path):
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        if not is_little_endian(dataset):
            for element in dataset.iterall():
                to_little_endian(element)
        dataset.add_new(_PIXEL_TAG, "OW" if dataset.BitsAllocated > 8 else "OB", pixels + b"\0" * (len(pixels) % 2))
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        return _written(dataset)


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file in pieces; one of an old archive gets the preamble and meta information that it lacks (PS3.10 7.1).

    Raises:
        RequestRefused: it lacks them, and is damaged (422).
    """
    with path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            file.seek(0)
            while chunk := file.read(CHUNK):
                yield chunk
            return
    with _refusing(path):
        dataset = pydicom.dcmread(path, force=True)
        dataset.file_meta.TransferSyntaxUID = syntax_of(path)
        completed = _written(dataset)
    yield completed


def picture(path: Path, format: str, largest: int | None, window: Window | None = None) -> bytes:
    """A mammogram as it is displayed, 8 bits.

    Args:
        path: the file.
        format: "JPEG" or "PNG".
        largest: pixels of the longer side at most; None for the image's own size.
        window: in place of the image's own.

    Raises:
        RequestRefused: the object is no mammogram that can be shown (406).
    """
    try:
        with _decoding:
            pixels = read_mammogram(path, voi=window).pixels if window else RECENT.read(path).pixels
            step = 1 if largest is None else max(1, min(pixels.shape) // (2 * largest))
            image = Image.fromarray((pixels[::step, ::step] * 255).round().astype(np.uint8))
    except MammogramError as error:
        raise RequestRefused(406, f"there is no picture of it: {error.reason}", error.remedy) from error
    if largest is not None:
        image.thumbnail((largest, largest), Image.Resampling.BOX)
    written = io.BytesIO()
    image.save(written, format, **({"quality": 90} if format == "JPEG" else {}))
    return written.getvalue()


def _decoded(path: Path) -> tuple[FileDataset, np.ndarray]:
    with _refusing(path), path.open("rb") as file, _decoding:
        dataset, element = parse(path, file)
        if _check_frames(dataset, [1]) != 1:
            raise RequestRefused(
                406, "an object of several frames is sent as it is stored alone", 'Accept with "transfer-syntax=*"'
            )
        return dataset, read_stored(path, file, dataset, check_layout(path, file, dataset, element))


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except RequestRefused:
        raise
    except MammogramError as error:
        raise RequestRefused(422, error.reason, error.remedy, path.name) from error
    except Exception as error:  # noqa: BLE001 - pydicom's converters raise whatever a damaged value makes them
        reason = f"the object is damaged ({type(error).__name__})"
        raise RequestRefused(422, reason, "Export the file again", path.name) from None


def _written(dataset: FileDataset) -> bytes:
    """A file as PS3.10 7.1 has it."""
    written = io.BytesIO()
    dataset.save_as(written, write_like_original=False)
    return written.getvalue()


def _check_frames(dataset: FileDataset, numbers: Sequence[int]) -> int:
    """How many frames an object has; those of the given numbers, from 1, must be among them (404)."""
    count = int(dataset.get("NumberOfFrames") or 1)
    if any(not 1 <= number <= count for number in numbers):
        raise unknown("frame", ",".join(map(str, numbers)))
    return count


def _native(file: BinaryIO, dataset: FileDataset, start: int, index: int) -> bytes:
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated)
    first, last = index * bits, (index + 1) * bits
    raw = _at(file, start + first // 8, -(-last // 8) - first // 8)
    if first % 8 == 0 and bits % 8 == 0:
        return raw
    single = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[first % 8 :][:bits]
    return np.packbits(single, bitorder="little").tobytes()


def _encapsulated(file: BinaryIO, count: int) -> list[list[tuple[int, int]]]:
    """Offset and length of every frame's fragments (PS3.5 A.4)."""
    length = _item(file)
    table = _at(file, file.tell(), length)
    offsets = np.frombuffer(table, "<u4").tolist()
    first, fragments = file.tell(), []
    while (length := _item(file)) >= 0:
        fragments.append((file.tell(), length))
        file.seek(length, os.SEEK_CUR)
    if count == 1:
        return [fragments]
    if len(fragments) == count:
        return [[fragment] for fragment in fragments]
    if len(offsets) == count:
        starts = [first + offset + 8 for offset in offsets]
    else:  # the table may be empty (PS3.5 A.4)
        starts = [place for place, length in fragments if _at(file, place, min(2, length)) in _BEGINNINGS]
    if len(starts) != count:
        reason = "no offset table says which of its fragments make a frame"
        raise RequestRefused(422, reason, "Export the file again, with an offset table")
    ends = [*starts[1:], fragments[-1][0] + 1]
    return [[part for part in fragments if start <= part[0] < end] for start, end in zip(starts, ends, strict=True)]


def _item(file: BinaryIO) -> int:
    """Length of the item that begins here, -1 at the end of all; the file is left at its value."""
    group, element, length = struct.unpack("<HHL", file.read(8))
    if (group, element) == _END:
        return -1
    if (group, element) != _ITEM or length == _UNDEFINED:
        raise ValueError("no item")
    return int(length)


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    if length > os.fstat(file.fileno()).st_size:  # before memory is taken
        raise ValueError("the file is truncated")
    file.seek(offset)
    value = file.read(length)
    if len(value) != length:
        raise ValueError("the file is truncated")
    return value
