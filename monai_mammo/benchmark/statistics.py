"""How sure a comparison is: seeds drawn again, paired tests, free-response curves.

What a metric is stands in `metrics`; how patients are drawn again, in `bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from monai_mammo.bootstrap import Metrics, Record, interval

RESAMPLES = 1000
LEVEL = 0.05
"""A difference is called established where its p, adjusted by :func:`holm`, is below this."""
OPERATING_POINTS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""False marks an image at which the sensitivity of whole images is reported."""


def over_seeds(of_seeds: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """Mean over the seeds on every draw, the seeds themselves drawn with replacement each time.

    Several trainings are no further patients: all of them see the same draw. Drawing the seeds as well makes an
    interval allow for both who was tested and which training was had. Of one seed alone nothing is known of the latter.

    n drawn seeds vary by (n - 1) / n of their variance too little, for which their deviation is enlarged here. That
    three seeds are few to know a variance from is not allowed for. Of two systems of equal worth with three seeds each,
    simulated (25 patients), a difference has a p below 0.05 in 7 of 100 cases where patients and seeds contribute alike
    (without the enlargement in 9), and in 12 (20) where seeds alone make it; with two seeds each in 8 and in 22. 17
    patients give much the same.

    Args:
        of_seeds: the replicates of one metric, float (draws,), for every seed.
        seed: of the drawing; systems that are compared must not share it.

    Returns:
        float (draws,).
    """
    table = np.stack(of_seeds)
    count, mean = len(table), table.mean(axis=0)
    if count == 1:
        return mean
    chosen = np.random.default_rng([seed, 1]).integers(count, size=table.shape)
    deviation = np.take_along_axis(table, chosen, axis=0).mean(axis=0) - mean
    return mean + math.sqrt(count / (count - 1)) * deviation


@dataclass(frozen=True)
class Difference:
    """A system's metric less the reference system's, on the same patients."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, of the paired bootstrap; never below 2 / (draws + 1)."""


def difference(value: float, system: np.ndarray, reference: np.ndarray) -> Difference:
    """The paired patient bootstrap: how a difference varies when both systems meet the same drawn patients.

    Args:
        value: the difference of the two means over seeds.
        system, reference: float (draws,), from the same draws.
    """
    samples = system - reference
    samples = samples[np.isfinite(samples)]
    low, high = interval(samples)
    tail = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (samples.size + 1)) if samples.size else math.nan
    return Difference(value, low, high, p)


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test of two systems' verdicts on the same images."""

    only_system: int
    """Images that the system alone gets right."""
    only_reference: int
    p: float


def mcnemar(system: np.ndarray, reference: np.ndarray) -> McNemar:
    """Compare two systems by the images on which exactly one of them is right (two-sided binomial test at 1/2).

    It takes images for independent, which views of one patient are not; the paired bootstrap does not.

    Args:
        system, reference: bool (images,), whether each verdict is right.
    """
    only_system, only_reference = int((system & ~reference).sum()), int((~system & reference).sum())
    discordant = only_system + only_reference
    p = float(binomtest(only_system, discordant).pvalue) if discordant else 1.0
    return McNemar(only_system, only_reference, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment: p values that allow for how many systems are compared with the reference.

    A NaN, of a comparison that is not defined, stays one and does not count.
    """
    values = np.array(p_values, dtype=float)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN sorts last
    adjusted = np.full(len(values), math.nan)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * values[index]))
        adjusted[index] = highest
    return [float(value) for value in adjusted]


def expected_calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean gap between predicted probability and observed share, over ten equal bins, weighted by their images.

    Args:
        label: 0 or 1 (images,).
        probability: of label 1 (images,).
    """
    bin_of = np.minimum((probability * 10).astype(int), 9)
    gaps = [
        abs(label[bin_of == number].mean() - probability[bin_of == number].mean()) * (bin_of == number).mean()
        for number in np.unique(bin_of)
    ]
    return float(sum(gaps))


def sensitivity_at(records: Sequence[Record], rates: Sequence[float]) -> list[float]:
    """Points of the free-response curve (FROC) of whole images: the highest sensitivity with so few false marks.

    A lesion is found at a threshold if one of its marks reaches it; further marks in it count for nothing.

    Args:
        records: with `candidates`, pairs of a probability and a lesion (0 for none), and `lesions`, their number.
        rates: false marks an image, at most.

    Returns:
        the share of all lesions that is found, for each rate; NaN without any lesion.
    """
    false, found = _marks(records)
    if not found.size:
        return [math.nan] * len(rates)
    highest = np.append(np.sort(false)[::-1], 0.0)
    limits = [highest[min(int(rate * len(records) + 1e-9), false.size)] for rate in rates]
    return [float((found > limit).mean()) for limit in limits]


def froc_metrics(records: Sequence[Record]) -> Metrics:
    """Sensitivity at each of :data:`OPERATING_POINTS`, by a name such as `sensitivity_at_1`."""
    found = sensitivity_at(records, OPERATING_POINTS)
    return {f"sensitivity_at_{rate:g}": value for rate, value in zip(OPERATING_POINTS, found, strict=True)}


def _marks(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the false marks, and every lesion's highest one (0 for a lesion without a mark)."""
    false: list[float] = []
    found: list[float] = []
    for record in records:
        best = [0.0] * int(record["lesions"])
        for probability, lesion in record["candidates"]:
            if lesion:
                best[lesion - 1] = max(best[lesion - 1], probability)
            else:
                false.append(probability)
        found += best
    return np.array(false), np.array(found)


def spread(values: Mapping[int, float]) -> float:
    """Standard deviation between seeds; NaN with one."""
    return float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else math.nan
