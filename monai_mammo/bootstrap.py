"""The bootstrap by patient: how much numbers vary with who was tested. Views of one patient are no further patients.

What is computed of the images drawn is the caller's; seeds and paired tests stand in `benchmark.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Record = dict[str, Any]
"""What is known of one image; its `patient` at least."""
Metrics = dict[str, float]
Statistic = Callable[[Sequence[Record]], Metrics]
Draws = Sequence[Sequence[Any]]


def patient_draws(patients: Iterable[Any], resamples: int = 1000, seed: int = 0) -> Draws:
    """Draws, with replacement, of as many patients as there are; one that is listed twice is one patient."""
    known = sorted(set(patients), key=str)  # so that an interval does not depend on the order of a list
    generator = np.random.default_rng(seed)
    return [[known[index] for index in generator.integers(len(known), size=len(known))] for _ in range(resamples)]


def replicates(records: Sequence[Record], statistic: Statistic, draws: Draws) -> dict[str, np.ndarray]:
    """The metrics of one run on every draw of the patients, with all images of a patient each time it is drawn.

    Returns:
        by metric, float (draws,); NaN where a draw leaves it undefined.
    """
    by_patient: dict[Any, list[Record]] = {}
    for record in records:
        by_patient.setdefault(record["patient"], []).append(record)
    found = [statistic([record for patient in draw for record in by_patient[patient]]) for draw in draws]
    names = dict.fromkeys(name for metrics in found for name in metrics)
    return {name: np.array([metrics.get(name, math.nan) for metrics in found]) for name in names}


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile; NaN for both where nothing varies because nothing is defined."""
    defined = samples[np.isfinite(samples)]
    if not defined.size:
        return math.nan, math.nan
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def patient_intervals(
    records: Sequence[Record], statistic: Statistic, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile-bootstrap intervals of metrics; what is resampled is patients, with all their images.

    Args:
        records: one per image, each with a `patient`.
        statistic: metrics of a list of records.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        (low, high) by metric; NaN for both with fewer than two patients.
    """
    names, patients = statistic(records), {record["patient"]: None for record in records}
    if len(patients) < 2:
        return dict.fromkeys(names, (math.nan, math.nan))
    samples = replicates(records, statistic, patient_draws(patients, resamples, seed))
    return {name: interval(samples.get(name, np.array([]))) for name in names}
