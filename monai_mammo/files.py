"""Files written whole or not at all: a reader sees the old content or the new, never a part.

Also checksums, and names made of them. Not here: what is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(file: Path, document: Any) -> None:
    """Write a JSON file whole or not at all."""
    with replacing(file) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path in the same folder whose file takes `path`'s place when the block ends without an error.

    It is on the disk before it does, so that a power cut leaves no empty file either. After an error nothing is left
    beside the former file; of several writers at once the last one counts. Only a killed process leaves its hidden
    `.part`, which no search by extension finds.

    Args:
        path: the file to write; its folder is made if it does not exist.

    Raises:
        OSError: the file cannot be written, or the block has written none; it names `path` if the system names none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[-40:]}.{uuid.uuid4().hex}.part")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # of a full disk the system does not say which file it was
        raise
    finally:
        partial.unlink(missing_ok=True)


def digest(text: str) -> str:
    """Sixteen hexadecimal digits as a name for a text: the same for good. A patient or study has a `pseudonym`."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sha256(file: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    found = hashlib.sha256()
    with Path(file).open("rb") as opened:
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()
