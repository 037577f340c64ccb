"""Frames, whole objects and pictures of stored objects, as DICOMweb sends them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib import wado
from lib.dicomweb import install_folder
from lib.errors import RequestRefused, install_error_handlers
from PIL import Image
from pydicom.encaps import encapsulate

from .conftest import blob, strip, write_dicom

J2K, JPEG, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.5"
UNCOMPRESSED = {"Accept": 'application/octet-stream; transfer-syntax="1.2.840.10008.1.2.1"'}
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


def compressed_file(path: Path, frames: list[bytes], syntax: str, **layout: int | bool) -> Path:
    """An object of several frames of encoded pixels, laid out as `encapsulate` is told."""
    dataset = pydicom.dcmread(write_dicom(path, blob()[0]))
    dataset.NumberOfFrames, dataset.file_meta.TransferSyntaxUID = len(frames), syntax
    dataset.PixelData = encapsulate(frames, **layout)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("layout", [{"has_bot": False}, {"fragments_per_frame": 3}, {}], ids=str)
@pytest.mark.parametrize(("syntax", "beginning"), [(J2K, b"\xff\x4f\xff\x51"), (JPEG, b"\xff\xd8\xff\xc3")])
def test_compressed_frames_come_whole_with_and_without_an_offset_table(
    tmp_path: Path, syntax: str, beginning: bytes, layout: dict[str, int | bool]
) -> None:
    frames = [beginning + bytes([number]) * 52 for number in range(3)]
    path = compressed_file(tmp_path / "frames.dcm", frames, syntax, **{"fragments_per_frame": 2, **layout})
    assert wado.stored_frames(path, [3, 1]) == [frames[2], frames[0]]


def test_frames_that_nothing_tells_apart_are_refused_for_that(tmp_path: Path) -> None:
    path = compressed_file(tmp_path / "frames.dcm", [bytes(56)] * 2, RLE, fragments_per_frame=2, has_bot=False)
    with pytest.raises(RequestRefused, match="no offset table says which of its fragments make a frame"):
        wado.stored_frames(path, [1])


def served(folder: Path) -> TestClient:
    """DICOMweb over a folder."""
    server = FastAPI()
    install_folder(server, folder, folder / "labels", dict)
    install_error_handlers(server)
    return TestClient(server, raise_server_exceptions=False)


def place_of(path: Path) -> str:
    """Where a file's object is."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return (
        f"/dicomweb/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}"
        f"/instances/{header.SOPInstanceUID}"
    )


@pytest.mark.parametrize(("numbers", "status"), [("1", 406), ("2", 406), ("1,2", 406), ("3", 404), ("0", 404)])
def test_a_frame_that_is_there_in_another_encoding_is_not_acceptable(tmp_path: Path, numbers: str, status: int) -> None:
    path = compressed_file(tmp_path / "frames.dcm", [b"\xff\x4f" + bytes(54)] * 2, J2K)
    answer = served(tmp_path).get(f"{place_of(path)}/frames/{numbers}", headers=UNCOMPRESSED)
    assert answer.status_code == status, answer.text


def test_the_only_frame_may_be_asked_for_several_times(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "one.dcm", blob()[0], syntax=J2K)
    sent = wado.uncompressed_frames(path, [1, 1])
    assert sent == [pydicom.dcmread(path).pixel_array.tobytes()] * 2


def rendered(path: Path, accept: str = "image/png", **query: str) -> Any:
    """The answer to who asks for a picture of the only object of a folder."""
    return served(path.parent).get(f"{place_of(path)}/rendered", params=query, headers={"Accept": accept})


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("voi", ["LINEAR", "LUT"])
def test_a_picture_is_windowed_as_it_is_asked_for(tmp_path: Path, photometric: str, voi: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", blob()[0], photometric=photometric, voi=voi)
    dataset = pydicom.dcmread(path)
    stored, center = dataset.pixel_array.astype(float), float(np.median(dataset.pixel_array))
    for function, expected in (
        ("linear", np.clip((stored - (center - 0.5)) / 99 + 0.5, 0, 1)),
        ("linear-exact", np.clip((stored - center) / 100 + 0.5, 0, 1)),
        ("sigmoid", 1 / (1 + np.exp(np.clip(-4 * (stored - center) / 100, -700, 700)))),
    ):
        shown = rendered(path, window=f"{center},100,{function}")
        expected = 1 - expected if photometric == "MONOCHROME1" else expected
        np.testing.assert_allclose(np.asarray(Image.open(io.BytesIO(shown.content))), expected * 255, atol=1)


@pytest.mark.parametrize(
    "window",
    ["", "1", "1,2", "1,2,other", "1,0.5,linear", "1,0,sigmoid", "1,-2,linear-exact", "nan,2,linear", "1,inf,linear"],
)
def test_a_window_that_is_none_is_refused(tmp_path: Path, window: str) -> None:
    answer = rendered(write_dicom(tmp_path / "a.dcm", blob()[0]), window=window)
    assert answer.status_code == 400
    assert "window" in answer.json()["reason"]


@pytest.mark.parametrize(
    ("accept", "sent"),
    [
        ("image/png", "image/png"),
        ("image/jpeg, image/png", "image/jpeg"),
        ("image/*", "image/jpeg"),
        ("*/*;q=0.1", "image/jpeg"),
        ("image/avif,image/webp,image/png,image/*;q=0.8", "image/png"),
        ("image/gif", None),
        ("application/dicom", None),
    ],
)
def test_a_picture_is_of_a_kind_that_the_client_accepts(tmp_path: Path, accept: str, sent: str | None) -> None:
    answer = rendered(write_dicom(tmp_path / "a.dcm", blob()[0]), accept)
    assert (answer.status_code, answer.headers["content-type"]) == ((200, sent) if sent else (406, "application/json"))
