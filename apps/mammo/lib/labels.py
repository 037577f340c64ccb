"""What annotators said of images: label maps by tag, final ones of every reader, verdicts on quality.

    <folder>/<tag>/<id>.<extension>, <id>.json     the label of that tag; of `final`, the latest of any reader,
    <folder>/final/<id>.dcm                        with itself as DICOM SEG
    <folder>/.readers/<reader>/<id>.*               the final label of a reader after whom another saved one
    <folder>/.former/<reader>/<id>/<revision>.*     the last final labels of a reader that are no longer there
    <folder>/.info/<id>.json                       verdicts, and what else clients keep of an image

A label is there once its .json is. Nothing here knows where images come from, or what a mask means.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.interfaces.datastore import DefaultLabelTag

from monai_mammo.datasets.datalist import LABEL_NAMES
from monai_mammo.files import replacing, write_json

from .errors import RequestRefused
from .files import DamagedRecord, read_json
from .names import SAFE_NAME, safe_name
from .users import ANYBODY

FINAL = DefaultLabelTag.FINAL.value
QUALITY_VERDICTS = tuple(LABEL_NAMES["quality"].values())
KEPT_FORMER = 5
"""Of a reader's final labels of an image, so many are kept that another took the place of, or that were removed."""

_READERS = ".readers"
_OWN_KEYS = ("ts", "name", "incoming", "reader", "revision", "segmentation")


class Labels:
    """The labels of a folder. Its methods may be called from several threads and processes.

    A method that needs a record that is damaged raises DamagedRecord.

    Args:
        folder: it is made if there is none.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._threads = threading.RLock()
        self._processes = FileLock(str(folder / ".labels.lock"))
        self._damaged: dict[Path, Callable[[dict[str, Any]], bool]] = {}

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Nobody else changes a label meanwhile."""
        with self._threads, self._processes:
            yield

    def damaged(self) -> list[str]:
        """Places of the records that were found to be damaged, and still are."""
        found = []
        for file, sound in sorted(self._damaged.items()):
            try:
                self._read(file, sound)
            except DamagedRecord as damaged:
                found.append(damaged.place)
        return found

    # Label maps

    def tags(self) -> list[str]:
        """Tags in use."""
        found = (entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        return sorted(name for name in found if SAFE_NAME.fullmatch(name))

    def labelled(self, tag: str) -> set[str]:
        """Ids of the images that have a label of this tag."""
        return {entry.name.removesuffix(".json") for entry in (self.folder / tag).glob("[!.]*.json")}

    def readers(self, image_id: str) -> list[str]:
        """Those who have saved a final label of an image, the one of the present label first."""
        present = self.info(image_id, FINAL).get("reader")
        others = [file.parent.name for file in (self.folder / _READERS).glob(f"*/{image_id}.json") if file.is_file()]
        return ([present] if present else []) + sorted(set(others) - {present})

    def info(self, image_id: str, tag: str, reader: str | None = None) -> dict[str, Any]:
        """What was saved with a label: `reader`, `ts`, `name` and the client's; {} if there is no such label.

        `ts` is in seconds since 1970, with fractions: among labels of one second the latest counts, too.

        Args:
            image_id: of the image.
            tag: of the label.
            reader: whose final label; the present one, whoever's, if None.
        """
        found = self._read(self._json(image_id, tag), _names_its_file)
        if found:
            found = {"reader": ANYBODY, **found}  # there is none from before readers were told apart
        if reader is None or found.get("reader") == reader:
            return found
        return self._read(self._of_reader(image_id, reader), _names_its_file) if tag == FINAL else {}

    def file(self, image_id: str, tag: str, reader: str | None = None) -> Path | None:
        """A label's file; arguments as for `info`."""
        info = self.info(image_id, tag, reader)
        if not info:
            return None
        present = self.info(image_id, tag).get("reader") == info["reader"]
        folder = self.folder / tag if present else self._of_reader(image_id, info["reader"]).parent
        incoming = folder / str(info.get("incoming"))
        return incoming if incoming.is_file() else folder / str(info["name"])

    def save(
        self, image_id: str, source: Path, extension: str, tag: str, info: dict[str, Any], reader: str
    ) -> dict[str, Any]:
        """Keep a label; it replaces a former one of the same tag, of the tag `final` of the same reader only.

        Killed at any moment, either the former label is the present one or this is, each with its own info.

        Returns:
            its info, with a `revision` higher than that of every former label of this reader.
        """
        with self.exclusively():
            former, own = self.info(image_id, tag), self.info(image_id, tag, reader)
            if own and tag == FINAL:
                self._keep_former(image_id, own)
            if former and tag == FINAL and former["reader"] != reader:
                self._set_aside(image_id, former)
            kept = {key: value for key, value in info.items() if key not in _OWN_KEYS}
            kept |= {"ts": time.time(), "name": f"{image_id}{extension}", "reader": reader}
            former_ones = self._former(image_id, reader) if tag == FINAL else []
            kept["revision"] = max(own.get("revision", 0), *former_ones, 0) + 1
            self._put(image_id, tag, source, kept)
            if tag == FINAL:
                self._discard(self._of_reader(image_id, reader))
        return kept

    def update(self, image_id: str, tag: str, info: dict[str, Any]) -> None:
        """Add to what was saved with a label."""
        with self.exclusively():
            kept = {key: value for key, value in info.items() if key not in _OWN_KEYS}
            write_json(self._json(image_id, tag), {**self.info(image_id, tag), **kept})

    def remove(self, image_id: str, tag: str) -> None:
        """Delete a label; of the tag `final`, the latest of the other readers takes its place.

        Killed at any moment, either this label is the present one or that is.
        """
        with self.exclusively():
            info = self.info(image_id, tag)
            others: list[dict[str, Any]] = []
            if info and tag == FINAL:
                self._keep_former(image_id, info)
                self._discard(self._of_reader(image_id, info["reader"]))  # a save that failed may have set it aside
                kept = [self.info(image_id, FINAL, reader) for reader in self.readers(image_id)[1:]]
                others = [other for other in kept if self._mask_aside(image_id, other).is_file()]
            if others:
                self._restore(image_id, max(others, key=lambda other: other.get("ts", 0)))
            else:
                self._discard(self._json(image_id, tag))

    # DICOM SEG

    def segmentation(self, image_id: str, reader: str) -> Path | None:
        """A reader's final label as DICOM SEG, once it has been written."""
        info, file = self.info(image_id, FINAL, reader), self.file(image_id, FINAL, reader)
        written = file.with_name(f"{image_id}.dcm") if file and info.get("segmentation") else None
        return written if written and written.is_file() else None

    def set_segmentation(self, image_id: str, reader: str, revision: int, segmentation: Path, uid: str) -> bool:
        """Put a SEG beside the label that it was made of; False if that label is no longer there."""
        with self.exclusively():
            info, file = self.info(image_id, FINAL, reader), self.file(image_id, FINAL, reader)
            if file is None or info.get("revision", 0) != revision:
                return False
            with replacing(file.with_name(f"{image_id}.dcm")) as partial:
                shutil.copyfile(segmentation, partial)
            write_json(file.with_name(f"{image_id}.json"), {**info, "segmentation": uid})
        return True

    # Images

    def image_info(self, image_id: str) -> dict[str, Any]:
        """What clients keep of an image, `verdicts` by reader, and `quality`, the verdict that counts.

        That is what most readers say; where as many say the one as the other, the latest verdict.
        """
        info = self._read(self._image_info(image_id), _holds_verdicts)
        verdicts = info.get("verdicts", {})
        if info.get("quality") in QUALITY_VERDICTS:  # from before readers were told apart
            verdicts = {ANYBODY: {"quality": info.pop("quality"), "ts": 0}, **verdicts}
        if verdicts:
            given = sorted(verdicts.values(), key=lambda verdict: verdict["ts"], reverse=True)
            counted = Counter(verdict["quality"] for verdict in given)
            most = max(counted.values())
            quality = next(verdict["quality"] for verdict in given if counted[verdict["quality"]] == most)
            info |= {"verdicts": verdicts, "quality": quality}
        return info

    def update_image_info(self, image_id: str, info: dict[str, Any], reader: str) -> None:
        """Add to what is kept of an image; `quality` is the reader's own verdict, and None takes it back.

        Raises:
            RequestRefused: no such verdict (400).
        """
        given = {key: value for key, value in info.items() if key not in ("quality", "verdicts")}
        verdict = info.get("quality")
        if verdict not in (None, *QUALITY_VERDICTS):
            raise RequestRefused(
                400, f"{verdict!r} is no verdict on quality", f"Say one of {', '.join(QUALITY_VERDICTS)}"
            )
        with self.exclusively():
            kept = self.image_info(image_id)
            kept.pop("quality", None)
            verdicts = kept.pop("verdicts", {})
            if "quality" in info:
                verdicts = {key: value for key, value in verdicts.items() if key != reader}
            if verdict:
                verdicts = {**verdicts, reader: {"quality": verdict, "ts": time.time()}}
            write_json(self._image_info(image_id), {**kept, **given, **({"verdicts": verdicts} if verdicts else {})})

    def _read(self, file: Path, sound: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read a record; it is noted if it is damaged."""
        try:
            found = read_json(file, sound)
        except DamagedRecord:
            self._damaged[file] = sound
            raise
        self._damaged.pop(file, None)
        return found

    def _json(self, image_id: str, tag: str) -> Path:
        return self.folder / tag / f"{image_id}.json"

    def _of_reader(self, image_id: str, reader: str) -> Path:
        return self.folder / _READERS / safe_name(reader, "reader") / f"{image_id}.json"

    def _mask_aside(self, image_id: str, info: dict[str, Any]) -> Path:
        return self._of_reader(image_id, info["reader"]).with_name(info["name"])

    def _image_info(self, image_id: str) -> Path:
        return self.folder / ".info" / f"{image_id}.json"

    def _former(self, image_id: str, reader: str) -> list[int]:
        """Revisions of a reader's former final labels that are kept, the oldest first."""
        stems = (file.stem for file in self._former_folder(image_id, reader).glob("*.json"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def _former_folder(self, image_id: str, reader: str) -> Path:
        return self.folder / ".former" / safe_name(reader, "reader") / image_id

    def _keep_former(self, image_id: str, info: dict[str, Any]) -> None:
        """Copy a reader's final label, which is about to go, to the former ones, of which the oldest are dropped."""
        folder, mask = self._former_folder(image_id, info["reader"]), self.file(image_id, FINAL, info["reader"])
        name = f"{info.get('revision', 0)}{info['name'].removeprefix(image_id)}"
        if mask and mask.is_file():
            with replacing(folder / name) as partial:
                shutil.copyfile(mask, partial)
            kept = {key: value for key, value in info.items() if key not in ("incoming", "segmentation")}
            write_json(folder / f"{info.get('revision', 0)}.json", {**kept, "name": name})
        for revision in self._former(image_id, info["reader"])[:-KEPT_FORMER]:
            self._discard(folder / f"{revision}.json")

    def _set_aside(self, image_id: str, former: dict[str, Any]) -> None:
        """Copy the present final label to those of its reader; the .json comes last."""
        aside, mask = self._of_reader(image_id, former["reader"]), self.file(image_id, FINAL)
        segmentation = self.segmentation(image_id, former["reader"])
        copies = [(mask, former["name"])] + ([(segmentation, segmentation.name)] if segmentation else [])
        for source, name in copies:
            if source and source.is_file():  # nobody has deleted it by hand
                with replacing(aside.with_name(name)) as partial:
                    shutil.copyfile(source, partial)
        write_json(aside, {key: value for key, value in former.items() if key != "incoming"})

    def _restore(self, image_id: str, info: dict[str, Any]) -> None:
        """Make a label that was set aside the present one; its SEG comes last, so that no other label has it."""
        aside, present = self._of_reader(image_id, info["reader"]), self.folder / FINAL / f"{image_id}.dcm"
        segmentation = aside.with_name(present.name)
        present.unlink(missing_ok=True)
        self._put(image_id, FINAL, self._mask_aside(image_id, info), info)
        if segmentation.is_file():
            with replacing(present) as partial:
                shutil.copyfile(segmentation, partial)
        self._discard(aside)

    def _put(self, image_id: str, tag: str, source: Path, info: dict[str, Any]) -> None:
        """Copy a mask in as the present label, which it is in one step, with its .json; the former one is deleted."""
        former, target = self.file(image_id, tag), self.folder / tag / info["name"]
        incoming = target.with_name(f".{uuid.uuid4().hex}{info['name'].removeprefix(image_id)}")
        with replacing(incoming) as partial:
            shutil.copyfile(source, partial)
        write_json(self._json(image_id, tag), {**info, "incoming": incoming.name})
        os.replace(incoming, target)
        if former and former != target:
            former.unlink(missing_ok=True)

    def _discard(self, record: Path) -> None:
        """Delete a label; its .json first, since without it the label is not there."""
        info = read_json(record)
        record.unlink(missing_ok=True)
        for name in (info.get("name"), info.get("incoming"), f"{record.name.removesuffix('.json')}.dcm"):
            if name:
                record.with_name(name).unlink(missing_ok=True)


def _names_its_file(info: dict[str, Any]) -> bool:
    return isinstance(info.get("name"), str)


def _holds_verdicts(info: dict[str, Any]) -> bool:
    verdicts = info.get("verdicts", {})
    return isinstance(verdicts, dict) and all(
        isinstance(verdict, dict) and {"quality", "ts"} <= verdict.keys() for verdict in verdicts.values()
    )
