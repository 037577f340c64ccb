"""A final label that a client saves who saw its tumours alone: what else the reader's own label holds stays.

Not here: which pixels and names that are (`tumours`), and where labels are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.segment_codes import tells_of_tumours

from .errors import RequestRefused
from .masks import Geometry, labels_in, seen_by_itk, write_mask
from .results import method_of
from .tumours import marked_pixels, with_marks

_HOW_MADE = ("method", "model")


@contextmanager
def with_others(
    own: Path | None, own_info: dict[str, Any], label: Path, mask: np.ndarray, info: dict[str, Any]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file and info to be saved: the marks of `mask` in the reader's own label (`tumours.with_marks`).

    Args:
        own: file of the reader's present label; None if there is none.
        own_info: what was saved with it.
        label: the file that was sent.
        mask: what was read from it, (rows, columns); what is above 0 is marked.
        info: what was sent with it.

    Yields:
        the file, which may be a temporary one, and its info.

    Raises:
        RequestRefused: what was sent has other segments than tumours (400), or the present label cannot be read (409).
    """
    if not all(tells_of_tumours(entry["name"]) for entry in info.get("label_info") or []):
        remedy = "Send tumours alone, or leave out 'keep_others' to replace the whole label"
        raise RequestRefused(400, "with 'keep_others' a label has no other segments than tumours", remedy)
    info = {**{key: value for key, value in own_info.items() if key not in _HOW_MADE}, **info}
    if own is None or not own_info.get("label_info"):  # without names all of it was shown
        yield label, info
        return
    present = _read(own, own_info)
    merged, segments = with_marks(present, own_info, mask > 0)
    if (merged[~marked_pixels(merged, segments)] > 0).any():
        info |= _made_by(own_info, info)
    seen = seen_by_itk(own)
    geometry = seen[1] if seen else Geometry()
    file = Path(write_mask(merged, geometry, {"result_extension": ".nrrd", "result_dtype": merged.dtype.name}))
    try:
        yield file, {**info, **segments}
    finally:
        file.unlink(missing_ok=True)


def _read(own: Path, info: dict[str, Any]) -> np.ndarray:
    try:
        return labels_in(own, info)
    except MammogramError as error:
        reason = (
            f"the label to be replaced cannot be read, so what it holds beside tumours would be lost: {error.reason}"
        )
        raise RequestRefused(409, reason, "Restore its file, or delete the label, then save again") from error


def _made_by(own: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
    """How a label was made whose segments were made in different ways: with a model's help, if one had any part."""
    methods = {method_of(own), method_of(sent)}
    model = sent.get("model") or own.get("model")
    return {"method": methods.pop() if len(methods) == 1 else "SEMIAUTOMATIC", **({"model": model} if model else {})}
