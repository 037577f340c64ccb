"""What DICOM objects a studies folder holds: their headers, read once for every change of a file. Not here: requests.

Mammograms, and what came to be of them: segmentations and reports beside them and below the folder of labels.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from monai_mammo.dicom.errors import MammogramError, refusing

from .dicom_json import to_json
from .errors import unknown
from .images import OWN_FOLDER, image_files

logger = logging.getLogger(__name__)

UID_PATTERN = re.compile(r"[0-9.]{1,64}")
"""Wider than `names.is_uid`: what files hold is shown, even where it is not quite a UID."""
RECEIVED = ".received"
"""Subfolder of the labels' folder for objects that were stored by a viewer."""
_HIDDEN_WITH_OBJECTS = (RECEIVED, ".readers")
STUDY = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "TimezoneOffsetFromUTC", "StudyDescription",
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
)  # fmt: skip
SERIES = (
    "Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "SeriesDate", "SeriesTime",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "BodyPartExamined", "Laterality",
    "ProtocolName", "Manufacturer", "ManufacturerModelName", "StationName", "InstitutionName",
)  # fmt: skip
INSTANCE = (
    "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames",
    "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "ImageType", "ImageLaterality", "ViewPosition",
    "PresentationIntentType", "PhotometricInterpretation",
)  # fmt: skip
_TAGS = [*STUDY, *SERIES, *INSTANCE]


@dataclass(frozen=True)
class Instance:
    """A DICOM object in a file.

    Args:
        path: the file.
        stamp: time of last change in nanoseconds and size: whether the file is still the one that was read.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        sop: SOPInstanceUID.
        attributes: the attributes that can be searched, as DICOM JSON by tag.
    """

    path: Path
    stamp: tuple[int, int]
    study: str
    series: str
    sop: str
    attributes: dict[str, Any]

    def value(self, keyword: str) -> Any:
        """First value of an attribute as JSON has it; None if it is absent."""
        return next(iter(self.attributes.get(tag_of(keyword), {}).get("Value", [])), None)


def tag_of(keyword: str) -> str:
    """An attribute's tag as DICOM JSON writes it."""
    return f"{tag_for_keyword(keyword):08X}"


class DicomIndex:
    """The DICOM objects of a folder of images, and of that of their labels.

    It looks for new, changed and removed files when it is asked, but spends at most a tenth of the time on looking.

    Args:
        studies: the folder of images.
        labels: the folder of labels; the subfolder `labels` of the studies folder if None.
        counting: gives the files that count among those of one object, by SOPInstanceUID, as far as anybody has decided
            (`ImageIndex.files`).
    """

    def __init__(
        self, studies: Path, labels: Path | None = None, counting: Callable[[], Mapping[str, Path]] = dict
    ) -> None:
        self.studies = studies.resolve()
        self.own = labels.resolve() if labels else self.studies / OWN_FOLDER
        self._counting = counting
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, int], Instance | None]] = {}
        self._instances: dict[str, Instance] = {}
        self._next_look = 0.0

    def instances(self) -> dict[str, Instance]:
        """All objects by SOPInstanceUID, in the order of their paths; of two with the same, the one that counts, else
        the longer file, which no interrupted copy is, or the first."""
        with self._lock:
            if time.monotonic() >= self._next_look:
                self._look()
            return self._instances

    def look_again(self) -> None:
        """Look for changed files with the next question."""
        with self._lock:
            self._next_look = 0.0

    def find(self, study: str, series: str | None = None, sop: str | None = None) -> list[Instance]:
        """The objects of a study, series or instance.

        Raises:
            RequestRefused: there is none (404).
        """
        for _ in range(2):
            found = [
                entry
                for entry in ([self.instances().get(sop)] if sop else self.instances().values())
                if entry and entry.study == study and series in (None, entry.series)
            ]
            if found:
                return found
            self.look_again()  # it may have come since
        raise unknown("DICOM object", sop or series or study)

    def _look(self) -> None:
        start = time.monotonic()
        read: dict[Path, tuple[tuple[int, int], Instance | None]] = {}
        for path in self._files():
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            stamp = (stat.st_mtime_ns, stat.st_size)
            former = self._read.get(path)
            read[path] = former if former and former[0] == stamp else (stamp, read_instance(path, stamp))
        instances: dict[str, Instance] = {}
        counting = self._counting()
        for _, instance in read.values():
            if instance:
                same = (instances.get(instance.sop, instance), instance)
                instances[instance.sop] = max(same, key=lambda one: (counting.get(one.sop) == one.path, one.stamp[1]))
        self._read, self._instances = read, instances
        now = time.monotonic()
        self._next_look = now + max(1.0, 10 * (now - start))

    def _files(self) -> Iterator[Path]:
        yield from image_files(self.studies)
        for folder, subfolders, files in os.walk(self.own):
            subfolders[:] = sorted(name for name in subfolders if name[0] != "." or name in _HIDDEN_WITH_OBJECTS)
            yield from (Path(folder) / name for name in sorted(files) if name.endswith(".dcm") and name[0] != ".")


def read_instance(path: Path, stamp: tuple[int, int]) -> Instance | None:
    """Read an object's header; None if the file is no DICOM object with identifiers."""
    try:
        with refusing(path, "it cannot be read as DICOM", "Export it again"):
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
            attributes = to_json(dataset)
            study, series, sop = (_uid(dataset, f"{level}InstanceUID") for level in ("Study", "Series", "SOP"))
    except MammogramError as error:
        logger.warning("a file is left out of DICOMweb: %s", error.reason)
        return None
    return Instance(path, stamp, study, series, sop, attributes) if study and series and sop else None


def _uid(dataset: Dataset, keyword: str) -> str:
    value = str(dataset.get(keyword, ""))
    return value if UID_PATTERN.fullmatch(value) else ""
