"""Names that come from outside or become file names: label tags, a label's segments, unique identifiers.

Not here: what they name.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import numpy as np

from .errors import RequestRefused

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


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


def with_segments(info: dict[str, Any]) -> dict[str, Any]:
    """What comes with a label, the names of its `label_info`, if it has one, without blanks around them.

    Raises:
        RequestRefused: its `label_info` is no list that gives each segment a `name` and its value, `idx` (400).
    """
    segments = info.get("label_info") or []
    sound = isinstance(segments, list) and all(
        isinstance(segment, dict) and isinstance(segment.get("name"), str) and type(segment.get("idx")) is int
        for segment in segments
    )
    if not sound:
        remedy = 'Send a list such as [{"name": "tumour", "idx": 1}], idx a whole number, or none'
        raise RequestRefused(400, "'label_info' does not name the label's segments", remedy)
    named = {"label_info": [{**segment, "name": segment["name"].strip()} for segment in segments]}
    return {**info, **(named if segments else {})}


def check_named(mask: np.ndarray, info: dict[str, Any]) -> None:
    """See that the segments of a label's `label_info` name every value of its mask (rows, columns) above 0.

    A tumour of another value than the one that is named so would be taken for another segment, and never be learnt.
    A label that names no segment is a tumour, whatever its values.

    Raises:
        RequestRefused: a value has no name (422).
    """
    named = {segment["idx"] for segment in info.get("label_info") or [] if segment["idx"] > 0}
    nameless = sorted(set(np.unique(mask).tolist()) - named - {0})
    if named and nameless:
        raise RequestRefused(
            422,
            f"no segment is named for the label's values {', '.join(map(str, nameless))}",
            "Name them in 'label_info', too, or save the segments with the values named now: "
            f"{', '.join(map(str, sorted(named)))}",
        )


def is_uid(text: str) -> bool:
    """Whether a text is a DICOM unique identifier (PS3.5 9.1), and so is safe as a file's name, too."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None
