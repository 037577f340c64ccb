"""Files written so that a reader sees the old content or the new, never a part. Not here: what is written."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes `path`'s place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}{path.name[-40:]}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
