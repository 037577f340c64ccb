"""Final labels on their way to where results belong: each becomes a DICOM SEG, and goes to the archive if there is one.

What is still to be done lies in files, so neither an archive that is down nor a restart loses anything; whatever goes
wrong here, the label itself has been saved before. Not here: the label, and the form of a SEG.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pydicom
from filelock import FileLock, Timeout
from pydicom.config import disable_value_validation

from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.segment_codes import Method
from monai_mammo.dicom.segmentation import write_segmentation
from monai_mammo.files import digest, write_json

from .errors import RequestRefused, system_reason
from .files import DamagedRecord, read_json
from .images import ImageFile
from .labels import FINAL, Labels
from .masks import labels_in

logger = logging.getLogger(__name__)


_REPEATED = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "Rows", "Columns"
)  # fmt: skip


class Origin(Protocol):
    """What is needed here of the place where images come from."""

    def fetch(self, image: ImageFile) -> Path:
        """The image's file as it is now."""

    def store(self, file: Path) -> None:
        """Take a result."""


class Results:
    """Makes DICOM SEG of final labels and stores them.

    Args:
        labels: where the labels are.
        origin: gives the images, and takes the results.
        image: gives what is known of an image; raises RequestRefused if there is no such image.
    """

    def __init__(self, labels: Labels, origin: Origin, image: Callable[[str], ImageFile]) -> None:
        self.labels, self.origin, self.image = labels, origin, image
        self._folder = labels.folder / ".outbox"
        self._one_at_a_time = FileLock(str(labels.folder / ".outbox.lock"))
        self._complained: set[str] = set()

    def announce(self, image_id: str, reader: str) -> None:
        """Note that there is, or will be in a moment, a final label to be delivered."""
        write_json(self._folder / f"{digest(f'{image_id} {reader}')}.json", {"image": image_id, "reader": reader})

    def waiting(self) -> int:
        """How many labels have not arrived yet."""
        return sum(1 for _ in self._folder.glob("[!.]*.json"))

    def undeliverable(self) -> list[dict[str, str]]:
        """Image, reason and remedy of every label that cannot become a SEG, until it is saved again."""
        found = []
        for note in sorted(self._folder.glob("[!.]*.failed")):
            with suppress(DamagedRecord):  # which the labels know of
                entry = read_json(note, _names_a_label)
                if entry and self.labels.info(entry["image"], FINAL, entry["reader"]):
                    found.append({key: entry.get(key, "") for key in ("image", "reason", "remedy")})
        return found

    def deliver(self) -> None:
        """Deliver what is waiting, as far as that is possible now; at once if another thread or process is at it.

        What is announced meanwhile is delivered, too: whoever announced it may have found this one at it, and gone.
        """
        tried: set[tuple[Path, int, int]] = set()
        while self._announced() - tried:
            try:
                with self._one_at_a_time.acquire(timeout=0):
                    fresh = self._announced() - tried  # without those that another has delivered meanwhile
                    for entry, *_ in sorted(fresh):
                        try:
                            if not self._delivered(entry):
                                return
                        except DamagedRecord:  # it waits for a person; the others do not
                            self._complain(entry, "a label waits to be delivered: a record is damaged")
                    tried |= fresh
            except Timeout:
                return
            except OSError as error:  # nothing can be written here now; what is announced stays announced
                self._complain(self._folder, f"labels wait to be delivered: {system_reason(error)}")
                return

    def _announced(self) -> set[tuple[Path, int, int]]:
        """What is waiting, with time and place of its file on the disk, which change when it is announced again."""
        found = set()
        for entry in self._folder.glob("[!.]*.json"):
            with suppress(FileNotFoundError):  # delivered meanwhile
                stat = entry.stat()
                found.add((entry, stat.st_mtime_ns, stat.st_ino))
        return found

    def deliver_in_background(self) -> None:
        """`deliver`, for callers who must not wait for an archive."""
        if self.waiting():
            threading.Thread(target=self.deliver, name="results", daemon=True).start()

    def _delivered(self, entry: Path) -> bool:
        """Deliver one label; False if the archive is down, so that there is no use in trying the next one."""
        waiting = read_json(entry, _names_a_label)
        image_id, reader = waiting["image"], waiting["reader"]
        sending, note = entry.with_name(f".{entry.stem}.dcm"), entry.with_suffix(".failed")
        failure: dict[str, str] = {}
        try:
            with self.labels.exclusively():
                info, file = self.labels.info(image_id, FINAL, reader), self.labels.file(image_id, FINAL, reader)
                if file is None:  # removed since
                    entry.unlink(missing_ok=True)
                    return True
                mask = labels_in(file, info)
            uid = self._written(image_id, self.image(image_id), mask, info, sending)
            if not self.labels.set_segmentation(image_id, reader, info.get("revision", 0), sending, uid):
                return True  # saved again meanwhile: the next delivery takes the new one
            self.origin.store(sending)
        except RequestRefused as refused:
            self._complain(entry, f"a label waits to be delivered: {refused.reason}")
            return refused.status != 503
        except OSError as error:
            self._complain(entry, f"a label waits to be delivered: {system_reason(error)}")
            return True
        except MammogramError as error:
            self._complain(entry, f"a label cannot become a DICOM SEG: {error.reason}")
            failure = {"reason": error.reason, "remedy": error.remedy}
        finally:
            sending.unlink(missing_ok=True)
        with self.labels.exclusively():
            if self.labels.info(image_id, FINAL, reader).get("revision", 0) == info.get("revision", 0):
                if failure:
                    write_json(note, waiting | failure)
                else:
                    note.unlink(missing_ok=True)
                entry.unlink(missing_ok=True)
        return True

    def _written(self, image_id: str, image: ImageFile, mask: np.ndarray, info: dict[str, Any], target: Path) -> str:
        """Write the SEG, or take the one that an earlier attempt wrote, so that no two are stored of one label.

        The image is asked for anew: a patient may have been corrected under the same UID, and the result names them.

        Returns:
            its SOPInstanceUID.
        """
        source, former = self.origin.fetch(image), self.labels.segmentation(image_id, info["reader"])
        if former and _repeated(former) == _repeated(source):
            shutil.copyfile(former, target)
            return str(info["segmentation"])
        written = write_segmentation(
            target,
            source,
            named_masks(mask, info),
            creator=info["reader"],
            method=method_of(info),
            algorithm=str(info.get("model") or ""),
            instance=info.get("revision", 1),
        )
        return str(written.SOPInstanceUID)

    def _complain(self, entry: Path, message: str) -> None:
        if entry.stem not in self._complained:
            logger.warning(message)
        self._complained.add(entry.stem)


def _repeated(file: Path) -> list[str]:
    """What an image and its SEG have in common, so that an archive files them together: patient, study and size."""
    with disable_value_validation(), refusing(file, "its header cannot be read", "Export the image again"):
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_REPEATED))
        return [str(header.get(keyword) or "") for keyword in _REPEATED]


def _names_a_label(entry: dict[str, Any]) -> bool:
    return {"image", "reader"} <= entry.keys()


def named_masks(mask: np.ndarray, info: dict[str, Any]) -> dict[str, np.ndarray]:
    """A label map's segments by name: those that `label_info` names, others by their value; without names, a tumour."""
    names: dict[int, str] = {}
    for entry in info.get("label_info") or []:
        if isinstance(entry, dict) and isinstance(entry.get("idx"), int) and entry["idx"] > 0:
            names[entry["idx"]] = str(entry.get("name") or f"label {entry['idx']}")
    if not names:
        return {"tumour": mask > 0}
    for value in np.unique(mask[mask > 0]).tolist():
        names.setdefault(value, f"label {value}")
    masks: dict[str, np.ndarray] = {}
    for value, name in sorted(names.items()):
        masks[name] = masks.get(name, np.zeros(mask.shape, bool)) | (mask == value)
    return masks


def method_of(info: dict[str, Any]) -> Method:
    """How a label was made: what its `method` says, else by the model that it names, else by hand."""
    given = info.get("method")
    if given == "SEMIAUTOMATIC":
        return "SEMIAUTOMATIC"
    return "AUTOMATIC" if given == "AUTOMATIC" or (given is None and info.get("model")) else "MANUAL"
