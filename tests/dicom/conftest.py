"""Small synthetic mammograms: one builder, which each test bends to its own case."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

# Nothing that a user or a log gets to see may contain these.
PATIENT = {"PatientName": "Sentinelle^Quintessa", "PatientID": "SECRET-ID-4711", "PatientBirthDate": "19530417"}

MakeFile = Callable[..., Path]


def _ramp(rows: int = 40, columns: int = 30, bits: int = 12) -> np.ndarray:
    """Stored values from 0 to the largest, each row brighter than the one above."""
    return (
        np.linspace(0, 2**bits - 1, rows * columns).reshape(rows, columns).astype(np.uint8 if bits <= 8 else np.uint16)
    )


def _dataset(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, bits: int = 12, **attributes: Any) -> Dataset:
    """A FOR PRESENTATION mammogram; an attribute given as None is left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": min(bits, pixels.dtype.itemsize * 8),
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **PATIENT,
        **attributes,
    }
    values.setdefault("HighBit", values["BitsStored"] - 1)
    meta.MediaStorageSOPClassUID = values["SOPClassUID"] or "1.2.840.10008.5.1.4.1.1.1.2"
    meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" not in values:
        dataset.PixelData = pixels.astype(
            pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
        ).tobytes()
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    return dataset


def _save(dataset: Dataset, path: Path) -> Path:
    """Write with either generation of pydicom."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if pydicom.__version__ < "3":
        dataset.is_implicit_VR = syntax == ImplicitVRLittleEndian
        dataset.is_little_endian = syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(path, dataset, write_like_original=False)
    else:
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def _code(value: str, scheme: str = "SCT", meaning: str = "meaning", **sequences: Any) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    for keyword, content in sequences.items():
        setattr(item, keyword, content)
    return item


def _lut(first: int, entries: list[int], bits: int, word: str = "<u2") -> Dataset:
    """An item of a VOI or modality LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, dtype=word).tobytes())
    return item


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> MakeFile:
    """Write a mammogram file: make(pixels, syntax=..., bits=..., **attributes) -> its path."""
    folder, number = tmp_path_factory.mktemp("mammograms"), itertools.count()

    def write(pixels: np.ndarray | None = None, **options: Any) -> Path:
        return _save(_dataset(_ramp() if pixels is None else pixels, **options), folder / f"{next(number)}.dcm")

    return write


@pytest.fixture(scope="session")
def ramp() -> Callable[..., np.ndarray]:
    return _ramp


@pytest.fixture(scope="session")
def code() -> Callable[..., Dataset]:
    return _code


@pytest.fixture(scope="session")
def lut() -> Callable[..., Dataset]:
    return _lut


@pytest.fixture(scope="session")
def secrets() -> list[str]:
    return list(PATIENT.values())


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real samples."""
    folder = os.environ.get("MAMMO_TEST_DATA")
    if not folder:
        pytest.skip("MAMMO_TEST_DATA is unset: no real samples")
    return Path(folder)
