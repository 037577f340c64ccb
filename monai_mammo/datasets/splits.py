"""Splits of a data set by patient: the unit of every split, because views of one patient share everything.

Not here: reading data sets (one module each) or choosing models.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

FRACTIONS: Mapping[str, float] = {"training": 0.7, "validation": 0.1, "test": 0.2}
"""The default share of patients in each split (70 / 10 / 20)."""


def split_patients(
    patients: Iterable[str], fractions: Mapping[str, float] = FRACTIONS, seed: int = 0
) -> dict[str, list[str]]:
    """Assign every patient to exactly one split.

    The result depends on the set of patients, the fractions and the seed alone, not on the order in which the
    patients come. Each split's size is its exact share to within one patient, save that a split with a positive
    fraction gets at least one patient while there are enough of them.

    Args:
        patients: patient identifiers; repeats (one per image, say) count once.
        fractions: share of each split by name; non-negative, summing to 1.
        seed: of the shuffle.

    Returns:
        the sorted patients of every split, by the split's name.

    Raises:
        ValueError: fractions negative or not summing to 1, or fewer patients than splits.
    """
    if any(share < 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise ValueError(f"the fractions of the splits must be non-negative and sum to 1, not {dict(fractions)}")
    shuffled = sorted(set(patients))
    wanted = [name for name, share in fractions.items() if share > 0]
    if len(shuffled) < len(wanted):
        raise ValueError(
            f"{len(shuffled)} patient(s) cannot be split into {', '.join(wanted)}: "
            f"at least {len(wanted)} patients are needed"
        )
    random.Random(seed).shuffle(shuffled)
    splits, start = {}, 0
    for name, count in _counts(len(shuffled), fractions).items():
        splits[name] = sorted(shuffled[start : start + count])
        start += count
    return splits


def _counts(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers of patients by the largest remainder, none of the wanted splits empty."""
    counts = {name: int(share * total + 1e-9) for name, share in fractions.items()}
    by_remainder = sorted(fractions, key=lambda name: fractions[name] * total - counts[name], reverse=True)
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    for name, share in fractions.items():
        if share > 0 and counts[name] == 0:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[name] = 1
    return counts
