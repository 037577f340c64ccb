"""One mammogram's part of preparation, in a worker process: decode once, make what is missing, write it, record it.

A record, `OUT/.state/<name>.<maker>.json`, is written after the files that it names are complete, and holds a
fingerprint of all that they were made from. So a run that was killed has lost what was under way and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any
from zlib import Z_RLE

import numpy as np
from PIL import Image

from monai_mammo.datasets.pieces import MAKERS, Entry, Made, Subject
from monai_mammo.datasets.sources import Defect, SourceImage
from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.files import replacing, write_json

STATE = ".state"
"""Folder of the records below the prepared folder."""

_EDITION = 6  # raise it when the same source gives other files, so that old ones are made anew


@dataclass(frozen=True)
class Part:
    """One maker's part of a mammogram; the fingerprint goes into its record."""

    maker: str
    subject: Subject
    fingerprint: str


Parts = tuple[Part, ...]
"""Everything that is missing of one mammogram."""


@dataclass(frozen=True)
class Record:
    """What a maker left on disk for a mammogram; entries name files relative to the prepared folder."""

    fingerprint: str
    entries: dict[str, list[Entry]]
    files: list[str]
    defects: list[Defect]
    unread: bool
    """The mammogram could not be decoded: worth another try at the next run."""


def subjects(images: Iterable[SourceImage], source: Path, out: Path, seed: int, margin: float) -> list[Subject]:
    """Every mammogram with a name of its own: its path, flattened and shortened, and a hash of it."""
    found = []
    for image in images:
        path = Path(os.path.relpath(image.image, source)).as_posix()
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", str(Path(path).with_suffix("")))[-60:].strip("_.")
        name = f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:10]}"
        found.append(Subject(image, name, source, out, seed, margin))
    return found


def missing(wanted: Mapping[str, Iterable[Subject]]) -> list[Parts]:
    """What has no record that was made from the same files with the same options and whose files are there.

    Args:
        wanted: the mammograms that each maker works on.
    """
    found: dict[str, Parts] = {}
    for maker, some in wanted.items():
        for subject in some:
            now, record = fingerprint(subject, maker), read_record(subject, maker)
            if record is None or record.unread or record.fingerprint != now or not _there(subject.out, record.files):
                found[subject.name] = (*found.get(subject.name, ()), Part(maker, subject, now))
    return list(found.values())


def fingerprint(subject: Subject, maker: str) -> str:
    """Hash of everything that a maker's result depends on: files (name, size, time), what is known of them, options."""
    files = {subject.image.image, *(file for lesion in subject.image.lesions for file in lesion.masks)}
    known = {
        "edition": _EDITION,
        "maker": maker,
        "image": subject.image,
        "from": os.path.relpath(subject.image.image, subject.out),
        "files": [_stat(file, subject.source) for file in sorted(files)],
        "seed": subject.seed,
        "margin": subject.margin,
        **({"samples": subject.samples} if subject.samples > 1 else {}),  # one: as before there was a choice
    }
    plain = functools.partial(_plain, source=subject.source)
    return hashlib.sha256(json.dumps(plain(known), sort_keys=True).encode()).hexdigest()


def do(parts: Parts) -> None:
    """Make, write and record what is missing of a mammogram, decoding it once. Reading faults become its defects."""
    image = parts[0].subject.image
    broken: Made | None = None
    pixels = np.zeros((0, 0), dtype=np.float32)
    try:
        with refusing(image.image, "it cannot be decoded", "Export or download it again"):
            pixels = image.read(image.image)
    except MammogramError as error:
        broken = Made(defects=[Defect(image.image, error.reason)])
    for part in parts:
        made = broken or _make(part.subject, part.maker, pixels)
        for file, array in made.files.items():
            write_png(part.subject.out / file, array)
        _record(part, made, unread=made is broken)


def _make(subject: Subject, maker: str, pixels: np.ndarray) -> Made:
    """A maker's result; what it stumbles over in strange pixels is a defect of this mammogram alone."""
    try:
        with refusing(subject.image.image, f"making {maker} of it failed", "Report it with the file"):
            return MAKERS[maker](subject, pixels)
    except MammogramError as error:
        return Made(defects=[Defect(subject.image.image, error.reason)])


def write_png(file: Path, array: np.ndarray) -> None:
    """Write a PNG whole or not at all: bool as 1 bit, float in [0, 1] as 16 bits, uint8 as it is."""
    if array.dtype.kind == "f":
        array = np.round(np.clip(array, 0, 1) * np.float32(65535)).astype(np.uint16)
    # Higher levels cost more than decoding; looking for runs alone is faster than for matches, and smaller in noise.
    with replacing(file) as partial:
        Image.fromarray(array).save(partial, format="PNG", compress_level=1, compress_type=Z_RLE)


def read_record(subject: Subject, maker: str) -> Record | None:
    """What an earlier run left for a mammogram; None if nothing or nothing legible."""
    try:
        document = json.loads(_path(subject, maker).read_text())
        defects = [
            Defect(subject.source / defect["file"], defect["reason"], defect["action"])
            for defect in document.pop("defects")
        ]
        return Record(defects=defects, **document)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def plain_defect(defect: Defect, source: Path) -> dict[str, str]:
    """A defect as JSON has it: the file relative to the data set's folder."""
    file = Path(os.path.relpath(defect.file, source)).as_posix()
    return {"file": file, "reason": defect.reason, "action": defect.action}


def _path(subject: Subject, maker: str) -> Path:
    return subject.out / STATE / f"{subject.name}.{maker}.json"


def _record(part: Part, made: Made, unread: bool) -> None:
    subject, before = part.subject, read_record(part.subject, part.maker)
    document = {
        "fingerprint": part.fingerprint,
        "entries": made.entries,
        "files": sorted(made.files),
        "defects": [plain_defect(defect, subject.source) for defect in made.defects],
        "unread": unread,
    }
    file = _path(subject, part.maker)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, document)
    for stale in set(before.files if before else ()) - set(made.files):
        (subject.out / stale).unlink(missing_ok=True)


def _there(out: Path, files: Iterable[str]) -> bool:
    return all((out / file).is_file() for file in files)


def _stat(file: Path, source: Path) -> list[Any]:
    try:
        stat = file.stat()
    except OSError:
        return [os.path.relpath(file, source)]
    return [os.path.relpath(file, source), stat.st_size, stat.st_mtime_ns]


def _plain(value: Any, source: Path) -> Any:
    """A value as JSON, the same in every run: functions by name, paths relative to the data set's folder."""
    plain = functools.partial(_plain, source=source)
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, functools.partial):
        return [plain(value.func), plain(value.args), plain(value.keywords)]
    if isinstance(value, Path):
        return os.path.relpath(value, source)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
