"""STOW-RS (PS3.18 10.5) for results that a viewer makes: segmentations and reports of studies that are here.

They are kept below the folder of labels, each under its SOPInstanceUID; nothing that is there is replaced. Not here:
mammograms, which come into the folder by a person's hand, and labels for training (the datastore's).
"""

from __future__ import annotations

import hashlib
import io
import threading
from typing import Any

import pydicom
from pydicom.uid import UID

from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.files import replacing

from .dicom_index import RECEIVED, UID_PATTERN, DicomIndex
from .errors import RequestRefused
from .multipart import parts

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
REPORTS = tuple(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34, 50))
MOST_RECEIVED = 2 * 2**30
"""Bytes of stored objects after which no more are taken."""
# Failure reasons of PS3.4 CC.2.3 and PS3.18 I.2.
_NO_DICOM, _NOT_THIS_CLASS, _DIFFERENT_ONE_HERE, _NO_ROOM, _OTHER_STUDY = 0xC000, 0x0122, 0x0111, 0xA700, 0xA900
_IDENTIFIERS = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


class Store:
    """Takes objects in.

    Args:
        index: of the folder; knows the studies, and is told of what came.
    """

    def __init__(self, index: DicomIndex) -> None:
        self.index, self.folder = index, index.own / RECEIVED
        self._lock = threading.Lock()

    def take(self, body: bytes, content_type: str, study: str | None, root: str) -> tuple[int, dict[str, Any]]:
        """Keep the objects of a multipart body.

        Args:
            body: of the request.
            content_type: of the request.
            study: the only study of which objects are taken; any that is here if None.
            root: the service's address.

        Returns:
            HTTP status (200 all, 202 some, 409 none) and the response as DICOM JSON.

        Raises:
            RequestRefused: the body is no multipart body of DICOM objects (400, 415).
        """
        kept, failed = [], []
        for part in _objects(body, content_type):
            uids = _uids(part)
            problem = self._keep(part, uids, study) if uids else _NO_DICOM
            item = {
                "00081150": {"vr": "UI", "Value": [uids.get("SOPClassUID", "")]},
                "00081155": {"vr": "UI", "Value": [uids.get("SOPInstanceUID", "")]},
            }
            if problem is None:
                place = f"{root}/studies/{uids['StudyInstanceUID']}/series/{uids['SeriesInstanceUID']}"
                address = f"{place}/instances/{uids['SOPInstanceUID']}"
                kept.append({**item, "00081190": {"vr": "UR", "Value": [address]}})
            else:
                failed.append({**item, "00081197": {"vr": "US", "Value": [problem]}})
        answer: dict[str, Any] = {}
        if failed:
            answer["00081198"] = {"vr": "SQ", "Value": failed}
        if kept:
            answer["00081199"] = {"vr": "SQ", "Value": kept}
            self.index.look_again()
        return (200 if not failed else 202 if kept else 409), answer

    def _keep(self, part: bytes, uids: dict[str, str], study: str | None) -> int | None:
        """Keep one object; the failure reason if it was not kept."""
        own, sop = uids["StudyInstanceUID"], uids["SOPInstanceUID"]
        if uids["SOPClassUID"] not in (*SEGMENTATIONS, *REPORTS):
            return _NOT_THIS_CLASS
        instances = self.index.instances()
        if study not in (None, own) or all(entry.study != own for entry in instances.values()):
            return _OTHER_STUDY
        with self._lock:
            target = self.folder / f"{sop}.dcm"
            former = target if target.exists() else getattr(instances.get(sop), "path", None)
            if former is not None:
                same = hashlib.sha256(former.read_bytes()).digest() == hashlib.sha256(part).digest()
                return None if same else _DIFFERENT_ONE_HERE
            if len(part) + sum(entry.stat().st_size for entry in self.folder.glob("*")) > MOST_RECEIVED:
                return _NO_ROOM
            with replacing(target) as partial:
                partial.write_bytes(part)
        return None


def _uids(part: bytes) -> dict[str, str]:
    """The unique identifiers of an object by keyword; none if it is damaged or they are not unique identifiers."""
    try:
        with refusing("the object", "it is damaged", "Send it again"):
            dataset = pydicom.dcmread(io.BytesIO(part), stop_before_pixels=True)
            found = {keyword: str(dataset.get(keyword, "")) for keyword in _IDENTIFIERS}
    except MammogramError:
        return {}
    return found if all(UID_PATTERN.fullmatch(uid) and UID(uid).is_valid for uid in found.values()) else {}


def _objects(body: bytes, content_type: str) -> list[bytes]:
    """The contents of a multipart body of DICOM objects."""
    found = parts(body, content_type)
    if any(b"content-type" in part.header and b"application/dicom" not in part.header for part in found):
        raise RequestRefused(415, "a part of the body is no application/dicom", "Send DICOM objects")
    return [part.content for part in found]
