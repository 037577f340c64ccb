"""Frames, whole objects and pictures of stored objects, as DICOMweb sends them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from lib import wado

from .conftest import blob, strip, write_dicom

SIZE = (9, 7)  # frames of 63 pixels: of one bit each, they begin within a byte


def frames_file(path: Path, frames: np.ndarray, bits: int) -> Path:
    """An uncompressed object of several frames (frames, rows, columns) of 1 or 16 bits."""
    dataset = pydicom.dcmread(write_dicom(path, blob()[0]))
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    raw = np.packbits(frames, bitorder="little").tobytes() if bits == 1 else frames.astype("<u2").tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("numbers", [[1, 2], [2, 1], [1, 1], [3], [3, 1, 2]], ids=str)
def test_several_frames_come_as_they_are_asked_for(tmp_path: Path, bits: int, numbers: list[int]) -> None:
    frames = np.random.default_rng(0).integers(0, 2**bits, (3, *SIZE))
    sent = wado.stored_frames(frames_file(tmp_path / "frames.dcm", frames, bits), numbers)
    for number, raw in zip(numbers, sent, strict=True):
        if bits == 1:
            pixels = np.unpackbits(np.frombuffer(raw, np.uint8), count=63, bitorder="little")
        else:
            pixels = np.frombuffer(raw, "<u2")
        np.testing.assert_array_equal(pixels.reshape(SIZE), frames[number - 1])


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
def test_an_object_without_preamble_is_sent_as_a_file_that_everybody_reads(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "old.dcm", blob()[0], syntax=syntax)
    whole = pydicom.dcmread(path)
    assert b"".join(wado.file_chunks(path)) == path.read_bytes()
    strip(path)
    sent = pydicom.dcmread(io.BytesIO(b"".join(wado.file_chunks(path))))
    meta = sent.file_meta
    assert (meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID) == (syntax, whole.SOPInstanceUID)
    assert sent == whole
