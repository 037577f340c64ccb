"""DICOM JSON (PS3.18 F) of an object's header, as viewers want it. Not here: which objects there are, and pixels."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset

from monai_mammo.dicom.display import add_window, is_little_endian
from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.header import describe
from monai_mammo.dicom.plane import add_plane

from .errors import unknown

INLINE_BYTES = 2**17
"""Binary values up to this size (every VOI LUT) stand in the metadata, larger ones have an address of their own."""
TAG_PATH = re.compile(r"[0-9A-F]{8}(\.\d{1,6}\.[0-9A-F]{8}){0,8}")
_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
"""Bytes of a word, by the binary VRs that have any."""
_BINARY = (*_WORDS, "OB", "UN")
_PIXELS = "7FE00010"


def to_json(dataset: Dataset, bulk: str = "", prefix: str = "") -> dict[str, Any]:
    """A dataset's attributes by tag; one whose value makes no sense is left out.

    Args:
        dataset: what was read.
        bulk: address below which `bulk_value` answers; without it large values are left out.
        prefix: the tags and item numbers that lead to this dataset within its object.
    """
    written = {}
    for raw in list(dataset.keys()):
        tag = f"{int(raw):08X}"
        try:
            with refusing(tag, "its value makes no sense", "Correct it"):
                element = dataset[raw]
                if not is_little_endian(dataset):
                    to_little_endian(element)
                entry = _entry(element, bulk, f"{prefix}{tag}")
                json.dumps(entry, allow_nan=False)
        except MammogramError:
            continue
        if entry is not None:
            written[tag] = entry
    if not prefix and "00080005" in written:
        written["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return dict(sorted(written.items()))


def to_little_endian(element: DataElement) -> None:
    """Turn round the words of a binary value of big endian; DICOMweb sends little endian."""
    size = _WORDS.get(element.VR, 1)
    if size > 1 and isinstance(element.value, bytes) and len(element.value) % size == 0:
        element.value = np.frombuffer(element.value, f"u{size}").byteswap().tobytes()


def _entry(element: DataElement, bulk: str, path: str) -> dict[str, Any] | None:
    if element.VR == "SQ":
        items = [to_json(item, bulk, f"{path}.{number}.") for number, item in enumerate(element.value or [], 1)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if element.VR in _BINARY and len(element.value or b"") > INLINE_BYTES:
        return {"vr": element.VR, "BulkDataURI": f"{bulk}/{path}"} if bulk else None
    entry: dict[str, Any] = element.to_json_dict(None, 0)
    return entry


@lru_cache(maxsize=512)
def metadata(path: Path, stamp: tuple[int, int], bulk: str) -> dict[str, Any]:
    """All of an object's header, with the place in space and the window that viewers need, and none of its pixels.

    Args:
        path: the file.
        stamp: changes with the file.
        bulk: see `to_json`.

    Raises:
        MammogramError: the file is damaged.
    """
    with refusing(path, "the DICOM header is damaged", "Export it again"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        _complete(path, dataset)
        written = to_json(dataset, bulk)
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if syntax:
        written["00083002"] = {"vr": "UI", "Value": [syntax]}  # AvailableTransferSyntaxUID
    if "Rows" in dataset:
        written[_PIXELS] = {"vr": "OW", "BulkDataURI": f"{bulk}/{_PIXELS}"}
    return written


def _complete(path: Path, dataset: FileDataset) -> None:
    """Give a mammogram a place in space and a window; a segmentation, a report, or an odd header stays as it is."""
    try:
        with refusing(path, "its place cannot be told", "Correct the header"):
            describe(path, dataset)
            add_plane(dataset)
            add_window(path, dataset)
    except MammogramError:
        return


def bulk_value(path: Path, tags: str) -> bytes:
    """A binary value that the metadata names by its address.

    Raises:
        RequestRefused: there is no such value (404).
    """
    if not TAG_PATH.fullmatch(tags):
        raise unknown("value", tags)
    *way, last = tags.split(".")
    try:
        with refusing(path, "the value cannot be read", "Look at the file"):
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=tags != _PIXELS)
            for tag, number in zip(way[::2], way[1::2], strict=True):
                dataset = dataset[int(tag, 16)].value[int(number) - 1]
            element = dataset[int(last, 16)]
            if not is_little_endian(dataset):
                to_little_endian(element)
            value = element.value
    except MammogramError:
        raise unknown("value", tags) from None
    if not isinstance(value, bytes):
        raise unknown("binary value", tags)
    return value
