"""JSON files that a crash or a second process does not spoil, and files' digests.

Not here: what is written, and how a whole JSON file is (`monai_mammo.files.write_json`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_mammo.files import sha256

logger = logging.getLogger(__name__)


class Digests:
    """SHA-256 of files, read again only where one has changed. Threads may share it."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def of(self, file: Path) -> str:
        """The digest of a file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        stat = file.stat()
        version = (stat.st_mtime_ns, stat.st_size)
        known = self._known.get(file)
        if known is None or known[0] != version:
            known = self._known[file] = (version, sha256(file))
        return known[1]


class DamagedRecord(ValueError):  # noqa: N818 - a state of a file
    """A JSON file that holds something else than it should; nothing overwrites it, so that a person can mend it.

    Args:
        path: of the file; the end of it, which is enough to find it, is its `place`.
        what: is wrong with it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.place = "/".join(path.parts[-3:])
        super().__init__(f"{path} is damaged ({what}): restore it or move it away")


def read_json(path: Path, sound: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
    """Read a JSON object; an absent file reads as an empty one.

    Raises:
        DamagedRecord: the file is no JSON object, or not a `sound` one.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedRecord(path, str(error)) from error
    if not isinstance(content, dict):
        raise DamagedRecord(path, "no JSON object")
    if not sound(content):
        raise DamagedRecord(path, "something is missing in it")
    return content


def append_json(path: Path, content: Any) -> None:
    """Append one line of JSON in a single write, so that lines of several processes do not mix.

    A line that a crash has torn is ended first, so that it spoils itself only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(content, default=str).encode() + b"\n"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
    try:
        size = os.lseek(handle, 0, os.SEEK_END)
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(handle, line)
    finally:
        os.close(handle)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects that `append_json` wrote; an absent file has none, and a line torn by a crash is left out."""
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            logger.warning("Line %d of %s is torn and left out", number, path.name)
    return [entry for entry in found if isinstance(entry, dict)]
