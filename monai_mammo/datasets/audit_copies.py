"""Copies among a datalist's images: identical pixels by digest, the same exposure saved again by perceptual hash.

Compares what `audit_pixels` kept of each image; reads no file. What is found of crops and turns, and what is not,
stands with `audit_catalogue.CORRELATION`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from monai_mammo.datasets.audit_catalogue import CORRELATION, DISTANCE, DataList, Finding, Item, Measures
from monai_mammo.datasets.audit_pixels import Measure

_BLOCK = 1024


@dataclass(frozen=True)
class _Image:
    """One image file of a list and all that its entries say of it."""

    file: Path
    measure: Measure
    items: tuple[Item, ...]

    def said(self, key: str) -> set[str]:
        return {item.text(key) for item in self.items} - {""}

    @property
    def sections(self) -> set[str]:
        return {item.section for item in self.items}


def find_copies(data: DataList, measures: Measures) -> Iterator[Finding]:
    """Identical and nearly identical images of a list: an error across splits, a warning within one.

    Not counted: several entries of one file (its lesions); files that were made from one source image (`source`) and
    patient; the two breasts of one patient; pairs across splits whose patient is on both sides, which is a finding of
    its own.
    """
    by_file: dict[Path, list[Item]] = defaultdict(list)
    for item in data.items:
        by_file[item.image].append(item)
    for file, items in by_file.items():
        sections = {item.section for item in items}
        if len(sections) > 1 and not _same_patient(items):
            detail = f"one file is listed in {_named(sections)}"
            yield Finding("duplicate", "error", detail, (file,), (data.name,))
    images = [
        _Image(file, measures[file][0], tuple(items))
        for file, items in by_file.items()
        if file in measures and measures[file][0].signs
    ]
    identical = [
        (indices[0], other) for indices in _equal(image.measure.digest for image in images) for other in indices[1:]
    ]
    yield from _findings("duplicate", data, images, identical, False)
    straight, mirrored = near_pairs([image.measure for image in images])
    near = [pair for pair in straight if images[pair[0]].measure.digest != images[pair[1]].measure.digest]
    yield from _findings("near-duplicate", data, images, near, False)
    yield from _findings("near-duplicate", data, images, mirrored, True)


def near_pairs(measures: Sequence[Measure]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs (i < j) that are copies by `DISTANCE` and `CORRELATION`: as they are, and one mirrored.

    Hamming distances come from matrix products of signs, a block of rows at a time: seconds for 10 000 images, in
    memory that grows with their number alone.
    """
    if len(measures) < 2:
        return [], []
    packed = np.frombuffer(b"".join(measure.signs for measure in measures), np.uint8).reshape(len(measures), -1)
    signs = np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
    side = round(np.sqrt(signs.shape[1]))
    flips = np.tile((-1.0) ** np.arange(side, dtype=np.float32), side)  # mirroring turns every odd column frequency
    straight: list[tuple[int, int]] = []
    mirrored: list[tuple[int, int]] = []
    for start in range(0, len(signs), _BLOCK):
        block = signs[start : start + _BLOCK]
        for rows, mirror, found in ((block, False, straight), (block * flips, True, mirrored)):
            near = np.argwhere(rows @ signs[start:].T >= signs.shape[1] - 2 * DISTANCE) + start
            found += [(int(i), int(j)) for i, j in near if i < j and _correlates(measures[i], measures[j], mirror)]
    return straight, mirrored


def _correlates(one: Measure, other: Measure, mirror: bool) -> bool:
    side = round(np.sqrt(len(one.detail)))
    a, b = (np.frombuffer(each.detail, np.int8).reshape(side, side).astype(np.float32) for each in (one, other))
    a = a[:, ::-1] if mirror else a
    return float((a * b).sum()) >= CORRELATION * float(np.linalg.norm(a) * np.linalg.norm(b))


def _findings(
    check: str, data: DataList, images: Sequence[_Image], pairs: Sequence[tuple[int, int]], mirror: bool
) -> Iterator[Finding]:
    """One finding a group of copies, however many pairs it has."""
    kept = [pair for pair in pairs if not _excused(images[pair[0]], images[pair[1]], mirror)]
    if not kept:
        return
    ends = np.array(kept)
    links = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(images), len(images)))
    group = connected_components(links, directed=False)[1]
    for members in _equal(group):
        found = [images[index] for index in members]
        sections = set().union(*(image.sections for image in found))
        across = len(sections) > 1
        how = " (mirrored)" if mirror else ""
        patients = {patient for image in found for patient in image.said("patient")}
        whose = f"; patients {', '.join(sorted(patients))}" if len(patients) > 1 else ""
        detail = f"{len(found)} files{how}, {'across' if across else 'within'} {_named(sections)}{whose}"
        yield Finding(
            check, "error" if across else "warning", detail, tuple(image.file for image in found), (data.name,)
        )


def _excused(one: _Image, other: _Image, mirror: bool) -> bool:
    same = _same_patient([*one.items, *other.items])
    if not same:
        return False
    if one.sections != other.sections:
        return True  # named as a patient in two splits
    if mirror and one.said("laterality") != other.said("laterality"):
        return True
    sources = one.said("source") | other.said("source")
    return len(sources) == 1 and bool(one.said("source")) and bool(other.said("source"))


def _same_patient(items: Iterable[Item]) -> bool:
    patients = {item.text("patient") for item in items}
    return len(patients) == 1 and "" not in patients


def _named(sections: Iterable[str]) -> str:
    return " and ".join(sorted(sections))


def _equal(values: Iterable[object]) -> list[list[int]]:
    """Indices of equal values, for every value that occurs more than once."""
    places: dict[object, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        places[value].append(index)
    return [indices for indices in places.values() if len(indices) > 1]
