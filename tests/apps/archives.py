"""Helpers of the tests over an archive: mammograms of one's own, labels, and the end of a delivery."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from lib.datastore import MammogramDatastore
from pydicom.uid import generate_uid

from .conftest import blob, write_dicom

Open = Callable[..., MammogramDatastore]


def mammogram(file: Path, patient: int, rows: int = 120, columns: int = 90, **changes: Any) -> Path:
    """A phantom's file with a SOPInstanceUID of its own; an attribute given as None is left out."""
    write_dicom(file, blob(rows, columns)[0], patient=patient)
    dataset = pydicom.dcmread(file)
    for keyword, value in {"SOPInstanceUID": generate_uid(), **changes}.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(file)
    return file


def uid_of(file: Path) -> str:
    return str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)


def label(file: Path, mask: np.ndarray) -> str:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask[np.newaxis].astype(np.uint8)), str(file))
    return str(file)


def wait_until(done: Callable[[], bool]) -> None:
    """Wait a minute at most for what happens in the background."""
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def delivered(store: MammogramDatastore) -> None:
    """Wait until no label waits to be delivered."""
    until = time.monotonic() + 60
    while store.status()["labels_to_deliver"]:
        assert time.monotonic() < until, "a label was not delivered"
        store.results.deliver()
