"""What a label says of tumours: where they are, or that it does not say so. Not here: where labels are kept.

Which names mean a tumour is for `monai_mammo.dicom.segment_codes` to say.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.segment_codes import tells_of_tumours

from .files import DamagedRecord
from .labels import FINAL, Labels
from .masks import labels_in

RENAME = "Save it again with its tumours in a segment named tumour, an empty one if there is none"
Segments = tuple[tuple[str, int], ...]
"""Name and value of a label's segments."""


class Unclear(Exception):  # noqa: N818 - a state of a label
    """A label of which nobody knows where its tumours are, or whether it has any; as text, why."""


def tumour_pixels(mask: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    """Where a label says tumour, bool (rows, columns) as its mask.

    That is in the segments that its `label_info` calls so, or in all of the mask if it names none. A mask without any
    pixel says that there is no tumour, whatever the names.

    Args:
        mask: labels (rows, columns).
        info: what was saved with it.

    Raises:
        Unclear: pixels lie in a segment whose name is not known, or in others while none is named for tumours.
    """
    segments = _segments(info)
    drawn = set(np.unique(mask).tolist()) - {0}
    strange = sorted({name for name, value in segments if value in drawn and tells_of_tumours(name) is None})
    if strange:
        raise Unclear(
            f"whether what is named {', '.join(repr(name[:64]) for name in strange)} is a tumour is not known"
        )
    if segments and drawn and not any(tells_of_tumours(name) for name, _ in segments):
        raise Unclear("none of its segments is one for tumours, so it does not say whether there is one")
    return marked_pixels(mask, info)


def marked_pixels(mask: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    """As `tumour_pixels`, for somebody to look at: what may be a tumour, by an unknown name, is among it."""
    segments = _segments(info)
    if not segments:
        return mask > 0
    return np.isin(mask, [value for name, value in segments if tells_of_tumours(name) is not False])


def with_marks(mask: np.ndarray, info: dict[str, Any], marked: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """A label once its `marked_pixels` were changed by somebody who saw these alone, and not the names of segments.

    A pixel that was marked and still is keeps its segment, one that is marked now is a tumour whatever it was, one that
    is marked no more is nothing; all else stays. It says that there is no tumour, if it said nothing of any before.

    Args:
        mask: of the label, (rows, columns).
        info: what was saved with it; it names segments.
        marked: bool, of the same shape.

    Returns:
        the mask, uint8 or uint16, and its `label_info`.
    """
    named, shown = list(info["label_info"]), marked_pixels(mask, info)
    tumours = sorted((name.lower() != "tumour", value) for name, value in _segments(info) if tells_of_tumours(name))
    if not tumours:
        taken = {entry["idx"] for entry in named} | set(np.unique(mask).tolist())
        tumours = [(False, next(value for value in itertools.count(1) if value not in taken))]
        named.append({"name": "tumour", "idx": tumours[0][1]})
    changed = mask.astype(np.uint16)
    changed[shown & ~marked] = 0
    changed[marked & ~shown] = tumours[0][1]
    return changed.astype(np.min_scalar_type(int(changed.max()))), {"label_info": named}


def unseen_names(mask: np.ndarray, info: dict[str, Any]) -> dict[str, list[str]]:
    """Names of a label's segments that have pixels and that who looks at its `marked_pixels` does not know of.

    Returns:
        `hidden`, those that these leave out, and `unknown`, those that are among them by a name that is not known.
    """
    drawn = set(np.unique(mask).tolist())
    segments = [(name, tells_of_tumours(name)) for name, value in _segments(info) if value in drawn]
    return {
        "hidden": sorted({name for name, tells in segments if tells is False}),
        "unknown": sorted({name for name, tells in segments if tells is None}),
    }


def unclear_labels(labels: Labels, images: Iterable[str]) -> list[dict[str, str]]:
    """Image, reason and remedy of every final label that no training learns from, because it is `Unclear`."""
    found = []
    for image_id in images:
        with suppress(DamagedRecord, MammogramError, OSError):  # told of elsewhere: by the status, and by a training
            segments = _segments(labels.info(image_id, FINAL))
            certain = not segments or {tells_of_tumours(name) for name, _ in segments} in ({True}, {True, False})
            file = None if certain else labels.file(image_id, FINAL)
            if file and (reason := _why_unclear(file, file.stat().st_mtime_ns, segments)):
                found.append({"image": image_id, "reason": reason, "remedy": RENAME})
    return found


@functools.lru_cache(maxsize=4096)
def _why_unclear(file: Path, modified: int, segments: Segments) -> str:
    """Why a label in this state of its file is `Unclear`; empty if it is not."""
    info = {"label_info": [{"name": name, "idx": value} for name, value in segments]}
    try:
        tumour_pixels(labels_in(file, info), info)
    except Unclear as unclear:
        return str(unclear)
    return ""


def _segments(info: dict[str, Any]) -> Segments:
    return tuple((entry["name"], entry["idx"]) for entry in info.get("label_info") or [] if entry["idx"] > 0)
