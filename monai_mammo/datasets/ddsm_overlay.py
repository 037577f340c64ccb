"""DDSM's `.OVERLAY` files: abnormalities whose outlines are chain codes, as lesions with polygons.

An abnormality has a BOUNDARY and may have COREs within it; the boundary is the lesion. Draws no masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monai_mammo.datasets.sources import Defect, SourceLesion

TOLERANCE = 10
"""Pixels (about 0.5 mm) by which a boundary may leave its image or miss its own start and still be used, repaired."""

_STEPS = np.array([(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)])
_OUTLINES = ("BOUNDARY", "CORE")
_ASSESSMENTS = ("0", "1", "2", "3", "4", "5")


class Overlay(NamedTuple):
    """What an overlay file says of its image."""

    lesions: tuple[SourceLesion, ...]
    """Those whose outline can be used."""
    listed: int
    """How many there are by the file's own account, or by what is in it if that is more; there is one at least."""
    birads: str
    """The highest assessment, 0 to 5."""


@dataclass
class _Abnormality:
    kinds: list[str] = field(default_factory=list)
    assessment: str = ""
    pathology: str = ""
    stated: int = 0
    outlines: list[tuple[str, list[str]]] = field(default_factory=list)


def read_overlay(file: Path, shape: Sequence[int], defects: list[Defect]) -> Overlay:
    """Read the abnormalities of one image; what is repaired or cannot be used is added to `defects`.

    An abnormality that is both a mass and a calcification counts as a mass: the boundary is the mass's.

    Args:
        file: the `.OVERLAY` file.
        shape: (rows, columns) of the image that it belongs to.
        defects: appended to.

    Raises:
        OSError: the file cannot be read.
    """
    stated, abnormalities = _parse(file.read_text(encoding="ascii", errors="replace"))
    if stated != len(abnormalities) or not abnormalities:
        reason = f"it announces {stated} abnormalities and has {len(abnormalities)}"
        defects.append(Defect(file, reason, "those that it has are used"))
    lesions = []
    for number, abnormality in enumerate(abnormalities, start=1):
        if abnormality.stated != len(abnormality.outlines):
            reason = f"abnormality {number} announces {abnormality.stated} outlines and has {len(abnormality.outlines)}"
            defects.append(Defect(file, reason, "its boundary is used"))
        boundaries = [chain for what, chain in abnormality.outlines if what == "BOUNDARY"]
        if not boundaries:
            defects.append(Defect(file, f"abnormality {number} has no boundary", "lesion left out"))
        for part, chain in enumerate(boundaries, start=1):
            polygon = _polygon(file, number, chain, shape, defects)
            if polygon:
                name = str(number) if len(boundaries) == 1 else f"{number}.{part}"
                lesions.append(SourceLesion((), polygon, _kind(abnormality), abnormality.pathology, name))
    assessments = [abnormality.assessment for abnormality in abnormalities]
    marked = sum(max(1, sum(what == "BOUNDARY" for what, _ in each.outlines)) for each in abnormalities)
    birads = max((value for value in assessments if value in _ASSESSMENTS), default="")
    return Overlay(tuple(lesions), max(stated, marked, 1), birads)


def chain_polygon(chain: Sequence[str]) -> np.ndarray:
    """The corners of a chain code: int (corners, 2) as row, column; the pixels' centres, the last not the first again.

    Args:
        chain: start column, start row, then one code a step, 0 to 7: 0 is up, the others follow clockwise by 45°.

    Raises:
        ValueError: there is no step, or what stands there is no number or no code; says which.
    """
    try:
        numbers = np.array([int(word) for word in chain], np.int64)
    except (ValueError, OverflowError):
        raise ValueError("holds something that is no number") from None
    if len(numbers) < 2:
        raise ValueError("is empty")
    codes = numbers[2:]
    if not len(codes):
        raise ValueError("is a single point")
    if codes.min() < 0 or codes.max() > 7:
        raise ValueError("has a code outside 0 to 7")
    points = np.vstack([numbers[1::-1], numbers[1::-1] + np.cumsum(_STEPS[codes], axis=0)])
    turns = np.flatnonzero(np.diff(codes)) + 1  # where the direction changes; straight runs need no corners
    return points[[0, *turns, *([] if (points[0] == points[-1]).all() else [len(points) - 1])]]


def _polygon(
    file: Path, number: int, chain: Sequence[str], shape: Sequence[int], defects: list[Defect]
) -> tuple[tuple[float, float], ...]:
    """An abnormality's boundary, repaired where it needs be; empty, with a defect, where it cannot be used."""
    what = f"the boundary of abnormality {number}"
    try:
        if "#" not in chain:
            raise ValueError("has no end mark")
        corners = chain_polygon(chain[: chain.index("#")])
        gap = _gap(chain[2 : chain.index("#")])
        outside = int(max(-corners.min(), (corners - np.subtract(shape, 1)).max(), 0))
        if gap > TOLERANCE:
            raise ValueError(f"is not closed ({gap} pixels are missing)")
        if outside > TOLERANCE:
            raise ValueError(f"leaves the image by {outside} pixels")
        inside = np.clip(corners, 0, np.subtract(shape, 1))
        if not _twice_area(inside):
            raise ValueError("encloses no area")
    except ValueError as error:
        defects.append(Defect(file, f"{what} {error}", "lesion left out"))
        return ()
    if outside:
        defects.append(Defect(file, f"{what} leaves the image by {outside} pixels", "cut off at the image's edge"))
    if gap > 1:
        defects.append(Defect(file, f"{what} is not closed ({gap} pixels are missing)", "closed by a straight line"))
    return tuple((float(row), float(column)) for row, column in inside)


def _gap(codes: Sequence[str]) -> int:
    """How far (in steps) a chain's end is from its start."""
    return int(np.abs(_STEPS[[int(code) for code in codes]].sum(axis=0)).max())


def _twice_area(corners: np.ndarray) -> int:
    """Shoelace formula; an integer at integer corners."""
    rows, columns = corners.T
    return abs(int(np.sum(rows * np.roll(columns, -1) - columns * np.roll(rows, -1))))


def _kind(abnormality: _Abnormality) -> str:
    return "mass" if "mass" in abnormality.kinds else next(iter(abnormality.kinds), "")


def _parse(text: str) -> tuple[int, list[_Abnormality]]:
    """How many abnormalities the file announces, and those that it has."""
    stated, found = 0, [_Abnormality()]
    for words in _statements(text):
        key, rest = words[0].upper(), words[1:]
        value = rest[0] if rest else ""
        if key == "TOTAL_ABNORMALITIES":
            stated = _count(value)
        elif key == "ABNORMALITY":
            found.append(_Abnormality())
        elif key == "LESION_TYPE":
            found[-1].kinds.append(value.lower())
        elif key == "ASSESSMENT":
            found[-1].assessment = value
        elif key == "PATHOLOGY":
            found[-1].pathology = value.lower()
        elif key == "TOTAL_OUTLINES":
            found[-1].stated = _count(value)
        elif key in _OUTLINES:
            found[-1].outlines.append((key, rest))
    return stated, found if found[0].outlines else found[1:]  # what precedes the first is none, unless it is outlined


def _statements(text: str) -> Iterator[list[str]]:
    """The file's lines as words; a chain code, which may be wrapped, becomes part of its BOUNDARY or CORE."""
    statement: list[str] = []
    for line in text.splitlines():
        words = line.replace("#", " # ").split()
        if not words:
            continue
        if statement and statement[0].upper() in _OUTLINES and not words[0][0].isalpha() and "#" not in statement:
            statement += words
            continue
        if statement:
            yield statement
        statement = words
    if statement:
        yield statement


def _count(word: str) -> int:
    return int(word) if word.isdecimal() and len(word) < 6 else 0
