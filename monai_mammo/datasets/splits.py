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
    patients: Iterable[str],
    fractions: Mapping[str, float] = FRACTIONS,
    seed: int = 0,
    first: Iterable[str] = (),
    kept: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Assign every patient to exactly one split.

    The result depends on the set of patients, the fractions, the seed and who is kept where alone, not on the order in
    which the patients come. Each split's size is its exact share to within one patient, save that a split with a
    positive fraction gets at least one patient while there are enough of them, and that nobody who is kept moves.

    Args:
        patients: patient identifiers; repeats (one per image, say) count once.
        fractions: share of each split by name; non-negative, summing to 1.
        seed: of the shuffle.
        first: those of the patients who are to have these shares among themselves too (those with a lesion, say, so
            that no split of a small data set is left without one).
        kept: the split, one of the fractions', of those of the patients who have one already: it stays theirs, and the
            others are dealt so that the shares are met as well as they can be.

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
    kept = kept or {}
    splits = {name: [patient for patient in everybody if kept.get(patient) == name] for name in fractions}
    spread = len(wanted) <= len(head) < len(everybody)
    for group in (head, everybody) if spread else (everybody,):
        splits = _filled(splits, group, fractions, seed)
    return splits


def _filled(
    splits: Mapping[str, list[str]], group: list[str], fractions: Mapping[str, float], seed: int
) -> dict[str, list[str]]:
    """The splits with all of a group in them, by the shares; who is in one already stays there."""
    there = {name: set(splits[name]) & set(group) for name in fractions}
    taken = {name: len(patients) for name, patients in there.items()}
    counts = _counts(len(group), fractions, taken)
    new = sorted(set(group).difference(*there.values()))
    dealt = _deal(new, {name: counts[name] - taken[name] for name in fractions}, seed)
    return {name: sorted(splits[name] + dealt[name]) for name in fractions}


def _deal(patients: list[str], counts: Mapping[str, int], seed: int) -> dict[str, list[str]]:
    shuffled = list(patients)
    random.Random(seed).shuffle(shuffled)
    splits, start = {}, 0
    for name, count in counts.items():
        splits[name] = sorted(shuffled[start : start + count])
        start += count
    return splits


def _counts(total: int, fractions: Mapping[str, float], least: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers of patients by the largest remainder, none below `least`, no wanted split empty if avoidable."""
    exact = {name: share * total for name, share in fractions.items()}
    counts = {name: max(math.floor(exact[name] + 1e-9), least[name]) for name in fractions}
    while sum(counts.values()) > total:  # `least` holds a patient more than a split's share
        counts[max(counts, key=lambda name: (counts[name] > least[name], counts[name] - exact[name]))] -= 1
    while sum(counts.values()) < total:
        counts[max(counts, key=lambda name: exact[name] - counts[name])] += 1
    for name, share in fractions.items():
        spare = [other for other in counts if counts[other] > max(least[other], 1)]
        if share > 0 and counts[name] == 0 and spare:
            counts[max(spare, key=lambda other: counts[other])] -= 1
            counts[name] = 1
    return counts
