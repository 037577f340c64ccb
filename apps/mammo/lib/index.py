"""Which images there are, under which id, and what their headers say: kept on disk, renewed from where they come from.

Not here: labels, and how a folder or an archive is asked.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from monai_mammo.files import write_json

from .archive import Archive
from .errors import RequestRefused, system_reason, unknown
from .files import read_json
from .images import ImageFile, StudiesFolder

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0
"""Seconds after which a folder is looked through, however long that takes: mostly only the first time takes long."""
_PATIENCE = 3.0
"""Seconds that a request waits at most for what an archive has now."""


class ImageIndex:
    """The images of a folder or an archive by id. Several threads and processes may use the same file.

    Unless it is told to look, it looks through a folder for at most a tenth of the time, or looks once a minute.

    `problem` says why the list may be old or lack images, for instance that the archive does not answer; None if it is
    as it should be.

    Args:
        origin: where images come from.
        file: where ids and headers are kept; an id stays its image's own for good.
        renewed: called whenever the origin has been looked at.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, origin: StudiesFolder | Archive, file: Path, renewed: Callable[[], None]) -> None:
        self.origin = origin
        self.problem: str | None = None
        self._file, self._renewed = file, renewed
        self._between_processes = FileLock(str(file.with_name(".lock")))
        self._lock, self._scanning = threading.Lock(), threading.Lock()
        self._began = self._scanned = float("-inf")
        self._busy = 0.0
        index = read_json(file)
        self._images = _listed(index.get("ids", {}), _images(index))

    def images(self) -> dict[str, ImageFile]:
        """The images as last listed; a list that has become old is renewed, an archive's in the background."""
        if self._is_old():
            self._renew()
        return dict(self._images)

    def files(self) -> dict[str, Path]:
        """The file of every DICOM image by its SOPInstanceUID: of several of one image, the one that counts."""
        return {image.sop: self.origin.path(image) for image in self.images().values() if image.sop}

    def renew(self) -> None:
        """Look for new images now if that is quick, as in a folder; an archive's appear a little later."""
        if isinstance(self.origin, StudiesFolder):
            self.refresh()
        elif self._is_old():
            self._renew()

    def refresh(self) -> None:
        """Look for new, changed and removed images; a silent archive or a full disk changes nothing."""
        asked = time.monotonic()
        self._scanning.acquire()
        if self._began > asked:  # somebody else has looked while this one waited
            self._scanning.release()
        else:
            self._rescan_and_release()

    def image(self, image_id: str) -> ImageFile:
        """What the header of an image says; for an id that is not there, the origin is asked once more.

        Raises:
            RequestRefused: there is no such image (404).
        """
        if image_id not in self._images:
            self.look_again()
        return self.known(image_id)

    def known(self, image_id: str) -> ImageFile:
        """As `image`, of those already listed.

        Raises:
            RequestRefused: there is no such image (404).
        """
        image = self._images.get(image_id)
        if image is None:
            raise unknown("image", image_id)
        return image

    def look_again(self) -> None:
        """Refresh; of an archive that was not asked a moment ago, wait a little: a long list takes it long."""
        if isinstance(self.origin, StudiesFolder):
            self.refresh()
        elif self._is_old():
            self._renew()
            if self._scanning.acquire(timeout=_PATIENCE):
                self._scanning.release()

    def report_unreadable(self, image_id: str, reason: str, remedy: str) -> None:
        """Note that an image's pixels cannot be read, which its header did not show, until the image changes.

        An archive's may change without a sign: see `try_again`, and `Archive.retry_seconds`.
        """
        with self._lock, self._between_processes:
            image = dataclasses.replace(self.known(image_id), problem=reason, remedy=remedy)
            index = read_json(self._file)
            index.setdefault("unreadable", {})[image.file] = time.time()
            self._keep(image_id, image, index)
        self.origin.discard(image)

    def try_again(self, image_id: str) -> None:
        """Forget that an archive's image was reported unreadable, if that is so long ago that a scan would be due."""
        with self._lock, self._between_processes:
            image, index = self.known(image_id), read_json(self._file)
            reported = index.get("unreadable", {}).pop(image.file, math.inf)
            if isinstance(self.origin, Archive) and time.time() - reported >= self.origin.rescan_seconds:
                self._keep(image_id, dataclasses.replace(image, problem=None, remedy=None), index)

    def _keep(self, image_id: str, image: ImageFile, index: dict[str, Any]) -> None:
        index["images"][image.file] = dataclasses.asdict(image)
        write_json(self._file, index)
        self._images[image_id] = image

    def _is_old(self) -> bool:
        return time.monotonic() - self._scanned > max(self.origin.rescan_seconds, min(10 * self._busy, _LONGEST_PAUSE))

    def _renew(self) -> None:
        if not self._scanning.acquire(blocking=False):  # who comes while another looks does not wait
            return
        if isinstance(self.origin, Archive):
            threading.Thread(target=self._rescan_and_release, name="archive", daemon=True).start()
        else:
            self._rescan_and_release()

    def _rescan_and_release(self) -> None:
        try:
            self._rescan()
        finally:
            self._scanning.release()
        self._renewed()

    def _rescan(self) -> None:
        problem, self._began = None, time.monotonic()
        try:
            self._note(self.origin.scan(_images(read_json(self._file))))
            problem = self.origin.missed
        except RequestRefused as refused:
            problem = refused.reason
        except OSError as error:
            problem = f"the list of images cannot be renewed ({system_reason(error)})"
        if problem and problem != self.problem:
            logger.warning("The list of images may be old: %s", problem)
        self.problem, self._scanned = problem, time.monotonic()
        if isinstance(self.origin, StudiesFolder):  # an archive keeps nobody here busy
            self._busy = self._scanned - self._began

    def _note(self, found: Sequence[ImageFile]) -> None:
        with self._lock, self._between_processes:
            index = read_json(self._file)
            ids, noted = index.get("ids", {}), _images(index)
            taken = {image_id.lower() for image_id in ids.values()}
            images, reported = {}, index.get("unreadable", {})
            for image in found:
                former = noted.get(image.file)
                due = not image.problem and time.time() - reported.get(image.file, 0.0) > self.origin.retry_seconds
                if former and former.problem and former.stamp == image.stamp and not due:
                    image = former  # found unreadable since it was looked at
                elif image.problem and (former is None or former.stamp != image.stamp):
                    logger.warning("an image cannot be used, /info/ names it: %s", image.problem)
                if image.file not in ids:
                    ids[image.file] = self.origin.id_of(image.file, taken)
                    taken.add(ids[image.file].lower())
                images[image.file] = image
            if images != noted:
                entries = {file: dataclasses.asdict(image) for file, image in images.items()}
                reported = {file: at for file, at in reported.items() if images.get(file) == noted.get(file)}
                write_json(self._file, {"ids": ids, "images": entries, "unreadable": reported})
            self._images = _listed(ids, images)


def _listed(ids: Mapping[str, str], images: Mapping[str, ImageFile]) -> dict[str, ImageFile]:
    """Images by id. Of several files of one image, by its SOPInstanceUID, the first that came and is readable counts.

    The others belong to no study: a case would never end with an image that is there twice. One that names another
    patient or study may be the right one of the two; that is for a person to say.

    Args:
        ids: id by file, in the order in which the files came.
        images: the images by file.
    """
    counts: dict[str, ImageFile] = {}
    for file in ids:
        image = images.get(file)
        if image and image.sop and (image.sop not in counts or (counts[image.sop].problem and not image.problem)):
            counts[image.sop] = image
    listed = {}
    for file, image in images.items():
        same = counts.get(image.sop, image)
        if same is not image:
            problem, remedy = f"it is the same image as {same.file}", "Remove one of the two files"
            if (image.patient, image.study) != (same.patient, same.study):
                problem = f"it has the SOPInstanceUID of {same.file}, which counts, but names another patient or study"
                remedy = "Remove the wrong one of the two files"
            image = dataclasses.replace(image, study="", series="", sop="", problem=problem, remedy=remedy)
        if file in ids:
            listed[ids[file]] = image
    return listed


def _images(index: dict[str, Any]) -> dict[str, ImageFile]:
    """The index's images by file; entries in another form than today's are left out, and so examined again."""
    fields = {field.name for field in dataclasses.fields(ImageFile)}
    entries = index.get("images", {})
    return {file: ImageFile(**entry) for file, entry in entries.items() if set(entry) == fields}
