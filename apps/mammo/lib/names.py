"""Names that come from outside or become file names: image ids and label tags. Not here: what they name."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum

from .errors import RequestRefused
from .images import image_extension, pseudonym

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def safe_name(name: object, what: str) -> str:
    """A name as a plain string, safe as that of a file or folder.

    Raises:
        RequestRefused: it is not safe.
    """
    plain = str(name.value if isinstance(name, Enum) else name)
    if not SAFE_NAME.fullmatch(plain):
        raise RequestRefused(
            400, f"the {what} is no safe name", "Use up to 100 letters, digits, - and _, a letter or digit first"
        )
    return plain


def new_id(file: str, taken: Collection[str]) -> str:
    """A readable id for an image's relative path, made unique by a digest of the path if another has it already.

    Ids that differ in case only count as the same, since some file systems take them so.
    """
    bare = file[: len(file) - len(image_extension(file))]
    readable = bare if SAFE_NAME.fullmatch(bare) else re.sub(r"[^A-Za-z0-9_]+", "-", bare)[-80:].strip("-_")
    if readable and readable.lower() not in taken:
        return readable
    return f"{readable or 'image'}-{pseudonym(file)}"
