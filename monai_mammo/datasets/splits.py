"""Splits of a data set by patient: the unit of every split, because views of one patient share everything.

Not here: reading data sets (one module each), official splits and the papers' protocols (`protocols`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

FRACTIONS: Mapping[str, float] = {"training": 0.7, "validation": 0.1, "test": 0.2}
"""The default share of patients in each split (70 / 10 / 20)."""


def split_patients(
    patients: Iterable[str], fractions: Mapping[str, float] = FRACTIONS, seed: int = 0, first: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Assign every patient to exactly one split.

    The result depends on the set of patients, the fractions and the seed alone, not on the order in which the
    patients come. Each split's size is its exact share to within one patient, save that a split with a positive
    fraction gets at least one patient while there are enough of them.

    Args:
        patients: patient identifiers; repeats (one per image, say) count once.
        fractions: share of each split by name; non-negative, summing to 1.
        seed: of the shuffle.
        first: those of the patients who are to have these shares among themselves too (those with a lesion, say, so
            that no split of a small data set is left without one).

    Returns:
        the sorted patients of every split, by the split's name.

    Raises:
        ValueError: fractions negative or not summing to 1, or fewer patients than splits.
    """
    if any(share < 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise ValueError(f"the fractions of the splits must be non-negative and sum to 1, not {dict(fractions)}")
    everybody = sorted(set(patients))
    wanted = [name for name, share in fractions.items() if share > 0]
    if len(everybody) < len(wanted):
        raise ValueError(
            f"{len(everybody)} patient(s) cannot be split into {', '.join(wanted)}: "
            f"at least {len(wanted)} patients are needed"
        )
    head = sorted(set(first) & set(everybody))
    if not len(wanted) <= len(head) < len(everybody):
        return _deal(everybody, _counts(len(everybody), fractions), seed)
    counts = _counts(len(head), fractions)
    splits = _deal(head, counts, seed)
    rest = sorted(set(everybody) - set(head))
    total = _counts(len(everybody), fractions, counts)
    for name, more in _deal(rest, {name: total[name] - counts[name] for name in fractions}, seed).items():
        splits[name] = sorted(splits[name] + more)
    return splits


def _deal(patients: list[str], counts: Mapping[str, int], seed: int) -> dict[str, list[str]]:
    shuffled = list(patients)
    random.Random(seed).shuffle(shuffled)
    splits, start = {}, 0
    for name, count in counts.items():
        splits[name] = sorted(shuffled[start : start + count])
        start += count
    return splits


def _counts(total: int, fractions: Mapping[str, float], taken: Mapping[str, int] | None = None) -> dict[str, int]:
    """Whole numbers of patients by the largest remainder, none below `taken`, none of the wanted splits empty."""
    exact = {name: share * total for name, share in fractions.items()}
    least = taken or dict.fromkeys(fractions, 0)
    counts = {name: max(math.floor(exact[name] + 1e-9), least[name]) for name in fractions}
    while sum(counts.values()) > total:  # `taken` holds a patient more than a split's share
        counts[max(counts, key=lambda name: (counts[name] > least[name], counts[name] - exact[name]))] -= 1
    while sum(counts.values()) < total:
        counts[max(counts, key=lambda name: exact[name] - counts[name])] += 1
    for name, share in fractions.items():
        if share > 0 and counts[name] == 0:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[name] = 1
    return counts
