"""JSON files that a crash or a second process does not spoil. Not here: what is written."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from monai_mammo.files import replacing, sha256

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


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file reads as an empty one.

    Raises:
        ValueError: the file is no JSON object; nothing is overwritten, so that a person can mend it.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it or move it away") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no JSON object): restore it or move it away")
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
