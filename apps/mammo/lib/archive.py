"""A DICOMweb archive as the place where images come from and results go: QIDO-RS, WADO-RS and STOW-RS (PS3.18).

What an image is, its header says, as for a file; images come into a bounded cache when they are needed. Not here: ids'
labels, and what a result holds.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import pydicom
from dicomweb_client.api import DICOMwebClient
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.header import TAGS, describe
from monai_mammo.files import digest, replacing

from .archive_session import AGAIN, archive_login, impatient_session, refusals
from .errors import RequestRefused
from .images import ImageFile, described
from .multipart import parts
from .names import is_uid
from .settings import archive_query, number

logger = logging.getLogger(__name__)

MAMMOGRAMS = {"Modality": "MG"}
CACHE_BYTES = 20 * 2**30
IN_USE_SECONDS = 600.0
"""A cached file used within this time is not evicted: somebody may be reading it."""
HELD_SECONDS = 24 * 3600.0
"""So long a cached file stays that a training needs."""
_AT_ONCE = 4  # requests for series' headers
_MOST_REFUSALS = 8  # of such requests, after which the others wait for the next scan: each may take a timeout
_WANTED = {f"{tag:08X}" for tag in TAGS}
_STUDY, _SERIES, _SOP, _COUNT = "0020000D", "0020000E", "00080018", "00201209"
_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'

T = TypeVar("T")


class _Series(NamedTuple):
    study: str
    series: str
    images: str  # their number


class Archive:
    """The images of a DICOMweb archive that match a query.

    Args:
        url: of the DICOMweb root, such as `http://127.0.0.1:8042/dicom-web`.
        cache: folder for images that were retrieved.
        query: QIDO-RS attributes of a study or series that images must match; those of modality MG if None.
        cache_bytes: size that the cache is cut back to, oldest use first.
        login: name and password for HTTP Basic authentication.

    Raises:
        ValueError: the address is none, or holds a password.
    """

    description = "Mammograms of a DICOMweb archive, one id per SOP instance"
    rescan_seconds = 10.0
    retry_seconds = 3600.0
    """After so long a scan lists an image again that could not be read: it may have been mended under its UID."""
    in_turn = 10
    """Series that seem unchanged, of which a scan asks all the same: an image may have taken another's place."""
    missed: str | None = None
    """Why the last scan left out images, or may have found them as they were."""

    def __init__(
        self,
        url: str,
        cache: Path,
        query: Mapping[str, str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        login: tuple[str, str] | None = None,
    ) -> None:
        address = urlsplit(url)
        if not address.hostname or address.username or address.password:
            raise ValueError("the archive's address is no http(s)://host:port/path without name and password")
        self.url, self.cache, self.query, self.cache_bytes = url.rstrip("/"), cache, query, cache_bytes
        self.name = f"{address.netloc}{address.path}".rstrip("/")
        self._session = impatient_session(login)
        self._client = DICOMwebClient(self.url, session=self._session)
        self._client.set_http_retry_params(retry=False)
        logging.getLogger("dicomweb_client").setLevel(logging.WARNING)
        self._evicting = threading.Lock()
        self._asked_at: dict[str, float] = {}  # by series; who failed lately, or had a turn, waits

    def scan(self, known: Mapping[str, ImageFile]) -> list[ImageFile]:
        """Every image that matches the query, good or bad.

        Series that are `known` and have not grown are asked about in turn, a few a scan; the others all.
        What the archive does not tell of a series now stays as it is known, and the next scan asks for it again;
        `missed` says why.

        Raises:
            RequestRefused: the archive does not list its series: it does not answer, or refuses (502, 503).
        """
        former = defaultdict(list)
        for image in known.values():
            former[image.series].append(image)
        changed: list[_Series] = []
        same: list[_Series] = []
        for entry in sorted(self._series(), key=lambda entry: self._asked_at.get(entry.series, 0.0)):
            images = former[entry.series]
            unchanged = images and all(image.stamp.rpartition("-")[0] == entry.images for image in images)
            (same if unchanged else changed).append(entry)
        found = [image for entry in same[self.in_turn :] for image in former[entry.series]]
        asked = changed + same[: self.in_turn]
        refusals: list[RequestRefused] = []
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for images in threads.map(lambda entry: self._images(entry, former[entry.series], refusals), asked):
                found += images
        self.missed = f"not every series could be read: {refusals[0].reason}" if refusals else None
        return list({image.file: image for image in found}.values())

    def id_of(self, file: str, taken: Collection[str]) -> str:
        """An image's id is its SOPInstanceUID."""
        return file

    def path(self, image: ImageFile) -> Path:
        """Where the image's file is once it has been retrieved; elsewhere once its metadata have changed."""
        return self.cache / f"{image.file}.{image.stamp.rpartition('-')[2]}.dcm"

    def retrieve(self, image: ImageFile) -> Path:
        """The image's file, from the cache if it is there as the last scan found the image.

        Raises:
            RequestRefused: as of `fetch`.
        """
        path = self.path(image)
        try:
            _used(path, time.time())
        except FileNotFoundError:
            return self.fetch(image)
        return path

    def fetch(self, image: ImageFile) -> Path:
        """The image's file as the archive stores it now, whatever the cache has.

        Raises:
            RequestRefused: the archive does not have it (404), does not answer (503), fails, or sends no DICOM object
                (502).
        """
        path, until = self.path(image), time.time()
        content = self._asked(lambda: self._sent(image))
        with suppress(FileNotFoundError):  # a training may hold it
            until = max(until, path.stat().st_mtime)
        with replacing(path) as partial:
            partial.write_bytes(content)
            os.utime(partial, (until, until))
        self._remove_former(image)
        self._evict()
        return path

    def discard(self, image: ImageFile) -> None:
        """Forget the image's file, which cannot be read: the archive may have another the next time."""
        self.path(image).unlink(missing_ok=True)

    def hold(self, image: ImageFile) -> Path:
        """As `retrieve`; the file stays for `HELD_SECONDS` whatever else is retrieved."""
        path = self.retrieve(image)
        _used(path, time.time() + HELD_SECONDS)
        return path

    def add(self, image_id: str, source: Path, extension: str) -> str:
        """Refused: images enter an archive in other ways."""
        raise RequestRefused(403, "images of an archive are not added here", "Send it to the archive itself")

    def store(self, file: Path) -> None:
        """Store a DICOM file in the archive, which confirms that it has it.

        Raises:
            RequestRefused: the archive does not answer (503), or does not take it, or does not confirm it (502).
        """
        with disable_value_validation():
            dataset = pydicom.dcmread(file)
        sop = str(dataset.SOPInstanceUID)
        try:
            self._asked(lambda: _check_taken(self._client.store_instances([dataset]), sop))
        except RequestRefused as refused:
            # Some archives take it without a word; others refuse it because an attempt that broke off had arrived.
            if refused.status == 503 or not self._has(dataset):
                raise

    def _sent(self, image: ImageFile) -> bytes:
        """An image in the transfer syntax in which the archive stores it."""
        url = f"{self.url}/studies/{image.study}/series/{image.series}/instances/{image.sop}"
        answer = self._session.get(url, headers={"Accept": _STORED})
        if answer.status_code in (404, 410):
            self._asked_at[image.series] = float("-inf")  # the next scan asks what is there
            raise RequestRefused(404, "the image is not in the archive, or no longer", "Reload the list of studies")
        answer.raise_for_status()
        return _object_in(answer.content, answer.headers.get("Content-Type", ""))

    def _has(self, dataset: Dataset) -> bool:
        """Whether the archive lists this very instance."""
        search, sop = self._client.search_for_instances, dataset.SOPInstanceUID
        series = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
        wanted = {"SOPInstanceUID": sop}
        return self._asked(lambda: any(_text(entry, _SOP) == sop for entry in search(*series, search_filters=wanted)))

    def _series(self) -> Iterator[_Series]:
        """Study, series and number of images of every series that matches the query."""
        filters = dict(MAMMOGRAMS if self.query is None else self.query)
        fields = ["NumberOfSeriesRelatedInstances"]
        search = self._client.search_for_series
        for entry in self._asked(lambda: _all(search, search_filters=filters, fields=fields)):
            study, series = _text(entry, _STUDY), _text(entry, _SERIES)
            if is_uid(study) and is_uid(series):
                yield _Series(study, series, _text(entry, _COUNT) or self._count(study, series))

    def _count(self, study: str, series: str) -> str:
        return str(len(self._asked(lambda: _all(self._client.search_for_instances, study, series))))

    def _images(self, entry: _Series, former: list[ImageFile], refusals: list[RequestRefused]) -> list[ImageFile]:
        """A series' images; if the archive cannot tell, the series itself stands there with the problem.

        If it tells nothing now, or nothing of images known before, they stay as they are, and that is added to
        `refusals`; after too many of them it is not asked.
        """
        if len(refusals) >= _MOST_REFUSALS:
            return former
        study, series, _ = entry
        self._asked_at[series] = time.monotonic()
        try:
            return self._asked(lambda: self._told(entry))
        except RequestRefused as error:
            if error.status == 503 or any(image.stamp for image in former):
                refusals.append(error)
                return former
            return [_unusable(series, "", study, series, f"its series cannot be read: {error.reason}")]

    def _told(self, entry: _Series) -> list[ImageFile]:
        """The images of a series, by what the archive tells now."""
        told = [_image(image, *entry) for image in self._client.retrieve_series_metadata(entry.study, entry.series)]
        if not told:
            raise RequestRefused(502, "the archive tells of no image of it", AGAIN)
        return told

    def _remove_former(self, image: ImageFile) -> None:
        """Delete the files of what an image was before it changed, but those that a training holds."""
        # By the whole name: one UID may be the beginning of another.
        name = re.compile(rf"{re.escape(image.file)}(\.[0-9a-f]{{16}})?\.dcm")
        for file in self.cache.glob(f"{image.file}.*dcm"):
            if name.fullmatch(file.name) and file != self.path(image):
                with suppress(FileNotFoundError):
                    if file.stat().st_mtime <= time.time():
                        file.unlink()

    def _evict(self) -> None:
        """Delete cached files, oldest use first, until the cache is as small as it should be."""
        with self._evicting:
            files = [(entry.stat(), entry) for entry in self.cache.glob("[!.]*.dcm")]
            size = sum(stat.st_size for stat, _ in files)
            for stat, file in sorted(files, key=lambda entry: entry[0].st_mtime):
                if size <= self.cache_bytes or stat.st_mtime > time.time() - IN_USE_SECONDS:
                    break
                file.unlink(missing_ok=True)
                size -= stat.st_size

    def _asked(self, ask: Callable[[], T]) -> T:
        with refusals():
            return ask()


def open_archive(url: str, cache: Path, conf: Mapping[str, str]) -> Archive:
    """The archive as the app's settings describe it.

    Args:
        url: of the DICOMweb root.
        cache: folder for images that were retrieved.
        conf: `query` (such as `Modality=MG&StudyDate=20240101-20241231`), `cache_gb`.

    Raises:
        ValueError: a setting cannot be used.
    """
    query, size = check_archive(conf)
    return Archive(url, cache, query=query, cache_bytes=size, login=archive_login())


def check_archive(conf: Mapping[str, str]) -> tuple[dict[str, str] | None, int]:
    """An archive's settings: the query, None where there is none, and the size of the cache in bytes.

    Raises:
        ValueError: one cannot be used.
    """
    return archive_query(conf), int(number(conf, "cache_gb", CACHE_BYTES / 2**30) * 2**30)


def folder_name(url: str) -> str:
    """A folder's name for what is kept of an archive: readable, and different for different addresses."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", url.split("://")[-1]).strip("-")
    return f"{readable[:60]}-{digest(url.rstrip('/'))}"


def _used(path: Path, until: float) -> None:
    """Note that a cached file is in use until then, in its time of modification."""
    until = max(until, path.stat().st_mtime)
    os.utime(path, (until, until))


def _all(search: Callable[..., list[dict[str, Any]]], *wanted: str, **filters: Any) -> list[dict[str, Any]]:
    """What a search finds, page by page, until one brings nothing new: some servers send the same whatever the offset.

    Raises:
        ValueError: a page is of no series or instances.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    offset = 0
    while page := search(*wanted, **filters, offset=offset):
        new = {tuple(_text(entry, tag) for tag in (_STUDY, _SERIES, _SOP)): entry for entry in page}
        if not any(map(any, new)):
            raise ValueError
        if new.keys() <= found.keys():
            break
        found |= new
        offset += len(page)
    return list(found.values())


def _object_in(body: bytes, content_type: str) -> bytes:
    """The DICOM object in an answer to WADO-RS (PS3.18 10.4), damaged or not.

    Raises:
        RequestRefused: there is none, as in the page of a proxy, or it broke off (502).
    """
    if _is_object(body):  # bare, as some archives send it
        return body
    with suppress(RequestRefused):
        for part in parts(body, content_type):
            if _is_object(part.content):
                return part.content
    raise RequestRefused(502, "the archive sends no DICOM object", AGAIN)


def _is_object(content: bytes) -> bool:
    return content[128:132] == b"DICM"


def _check_taken(answer: Dataset, sop: str) -> None:
    """Refuse an answer to STOW-RS (PS3.18 10.5.3) that does not name the instance among those stored."""
    stored = [item.get("ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence") or []]
    if sop not in stored:
        failed = [item.get("FailureReason") for item in answer.get("FailedSOPSequence") or []]
        reason = f"take the result (failure reason {failed[0]})" if failed else "confirm that it has the result"
        raise RequestRefused(502, f"the archive did not {reason}", AGAIN)


def _stamp(count: str, entry: dict[str, Any]) -> str:
    """An image's stamp: its series' number of images, and a digest of all that the archive tells of the image itself.

    Without addresses, which may differ from one answer to the next.
    """
    told = {tag: value for tag, value in entry.items() if "BulkDataURI" not in value and value.get("vr") != "UR"}
    return f"{count}-{digest(json.dumps(told, sort_keys=True))}"


def _image(entry: dict[str, Any], study: str, series: str, count: str) -> ImageFile:
    """An instance from its metadata in DICOM JSON (PS3.18 F.2)."""
    sop = _text(entry, _SOP)
    if not is_uid(sop):
        return _unusable(digest(sop), "", study, series, "its SOPInstanceUID is none")
    stamp = _stamp(count, entry)
    wanted = {tag: value for tag, value in entry.items() if tag.upper() in _WANTED and "BulkDataURI" not in value}
    path = Path(sop)
    try:
        with disable_value_validation(), refusing(path, "its metadata cannot be read", "Send it to the archive again"):
            dataset = FileDataset("", Dataset.from_json(wanted), file_meta=FileMetaDataset())
            image = described(sop, stamp, describe(path, dataset))
    except MammogramError as error:
        return _unusable(sop, stamp, study, series, error.reason, error.remedy)
    return image


def _unusable(
    file: str, stamp: str, study: str, series: str, reason: str, remedy: str = "Send it to the archive again"
) -> ImageFile:
    return ImageFile(file, stamp, study=study, series=series, sop=file, problem=reason, remedy=remedy)


def _text(entry: dict[str, Any], tag: str) -> str:
    """First value of an attribute in DICOM JSON; empty if it has none."""
    values = entry.get(tag, {}).get("Value") or [""]
    return str(values[0])
