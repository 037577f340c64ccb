"""Which images to annotate next, given how unsure a network is of each and how far they lie apart.

Whole cases by default: all images of a patient together, as a radiologist reads them. Not here: scores, and files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import pairwise_distances

STRATEGIES = ("random", "uncertainty", "diversity", "uncertainty+diversity")
"""Ways to choose; the names are those that the viewers show."""

SHORTLIST = 3
"""How many times as many images as wanted `uncertainty+diversity` takes for uncertain enough."""

BALANCE = (0.5, 2.0)
"""What a view can count for: a frequent one at least half, a rare one at most twice as much as any other."""

Weight = Callable[[list[int]], np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """An image that could be annotated, or has been.

    Args:
        id: of the image.
        patient: whose image it is.
        view: and side, as in `L MLO`; empty where the view is unknown, whatever the side.
        uncertainty: not negative; None where the image has not been scored.
        embedding: (F,); None where the image has not been scored.
    """

    id: str
    patient: str
    view: str = ""
    uncertainty: float | None = None
    embedding: np.ndarray | None = None


def choose(
    pool: Iterable[Candidate],
    strategy: str,
    images: int,
    *,
    labelled: Iterable[Candidate] = (),
    seed: int = 0,
    whole_cases: bool = True,
) -> list[str]:
    """Choose images to annotate.

    `random` takes cases as they come from the seed. `uncertainty` takes those of the highest mean uncertainty of
    their images. `diversity` takes those farthest from what is labelled and chosen (greedy k-centre; Gonzalez 1985;
    Sener and Savarese 2018, arXiv:1708.00489), and first the one nearest to the mean where nothing is labelled.
    `uncertainty+diversity` takes the farthest among the most uncertain `SHORTLIST` times as many (after Yang et al.
    2017, arXiv:1706.04737). All but `random` prefer views that are rare among what is labelled and chosen, within
    `BALANCE`, and, where single images are chosen, patients with few such images. Where neither preference is at work,
    no choice of as many as `diversity` takes covers the rest with less than half the radius. What has not been scored
    comes last, at random.

    The result depends on the set of candidates, the strategy and the seed, not on the order in which they come.

    Args:
        pool: images without a label.
        strategy: one of `STRATEGIES`.
        images: how many to choose; the case that reaches the number is taken whole.
        labelled: images with a label.
        seed: of what is left to chance.
        whole_cases: choose all images of a patient together, not single images.

    Returns:
        ids in the order of choice, images of a case beside each other.

    Raises:
        ValueError: no such strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"the strategy is one of {', '.join(STRATEGIES)}, not {strategy!r}")
    done = sorted(labelled, key=lambda candidate: candidate.id)
    units = _units(pool, whole_cases)
    order = np.random.default_rng(seed).permutation(len(units))  # of whatever no strategy puts in order
    units = [units[index] for index in order]
    usable = [unit for unit in units if _is_scored(unit, strategy)]
    others = [unit for unit in units if not _is_scored(unit, strategy)]
    chosen: list[str] = []
    for unit in _in_order(usable, done, strategy, images, whole_cases):
        if len(chosen) >= images:
            return chosen
        chosen += [candidate.id for candidate in unit]
    for unit in others:
        if len(chosen) >= images:
            return chosen
        chosen += [candidate.id for candidate in unit]
    return chosen


Unit = list[Candidate]


def _units(pool: Iterable[Candidate], whole_cases: bool) -> list[Unit]:
    units: dict[str, Unit] = {}
    for candidate in sorted(pool, key=lambda candidate: candidate.id):
        units.setdefault(candidate.patient if whole_cases else candidate.id, []).append(candidate)
    return [units[key] for key in sorted(units)]


def _is_scored(unit: Unit, strategy: str) -> bool:
    """Whether anything in a unit has what a strategy looks at."""
    return ("uncertainty" not in strategy or not np.isnan(_uncertainty(unit))) and (
        "diversity" not in strategy or _embedding(unit) is not None
    )


def _uncertainty(unit: Unit) -> float:
    """The mean over the scored images: what a case teaches for each image that has to be annotated."""
    known = [candidate.uncertainty for candidate in unit if candidate.uncertainty is not None]
    return float(np.mean(known)) if known else float("nan")


def _embedding(unit: Unit) -> np.ndarray | None:
    known = [candidate.embedding for candidate in unit if candidate.embedding is not None]
    return np.mean(known, axis=0) if known else None


def _in_order(
    units: list[Unit], labelled: Sequence[Candidate], strategy: str, images: int, whole_cases: bool
) -> Iterator[Unit]:
    if strategy == "random" or not units:
        yield from units
        return
    weight = _balance(units, labelled, whole_cases)
    uncertainty = np.array([_uncertainty(unit) for unit in units])
    if strategy == "uncertainty":
        order: Iterable[int] = _highest_first(uncertainty, weight)
    else:
        points = np.stack([np.asarray(_embedding(unit), dtype=np.float64) for unit in units])
        centres = [candidate.embedding for candidate in labelled if candidate.embedding is not None]
        start = np.stack(centres) if centres else None
        order = _farthest_first(points, start, weight)
        if strategy == "uncertainty+diversity":
            order = _shortlisted(units, uncertainty, weight, points, start, images)
    yield from (units[index] for index in order)


def _shortlisted(
    units: list[Unit],
    uncertainty: np.ndarray,
    weight: Weight,
    points: np.ndarray,
    centres: np.ndarray | None,
    images: int,
) -> Iterator[int]:
    """The farthest first among the most uncertain; after them the rest by uncertainty."""
    by_uncertainty = _highest_first(uncertainty, weight)
    short: list[int] = []
    while len(short) < len(units) and sum(len(units[index]) for index in short) < SHORTLIST * images:
        short.append(next(by_uncertainty))
    among = _farthest_first(points[short], centres, lambda chosen: weight([short[index] for index in chosen])[short])
    yield from (short[index] for index in among)
    yield from by_uncertainty


def _highest_first(values: np.ndarray, weight: Weight) -> Iterator[int]:
    chosen: list[int] = []
    left = np.ones(len(values), dtype=bool)
    while left.any():
        chosen.append(int(np.where(left, values * weight(chosen), -np.inf).argmax()))
        left[chosen[-1]] = False
        yield chosen[-1]


def _farthest_first(points: np.ndarray, centres: np.ndarray | None, weight: Weight) -> Iterator[int]:
    if not len(points):
        return
    chosen: list[int] = []
    left = np.ones(len(points), dtype=bool)
    if centres is None:
        distance = -pairwise_distances(points, points.mean(axis=0, keepdims=True))[:, 0]
        gain = distance
    else:
        distance = pairwise_distances(points, centres).min(axis=1)
        gain = distance * weight(chosen)
    while left.any():
        newest = int(np.where(left, gain, -np.inf).argmax())
        nearest = pairwise_distances(points, points[newest : newest + 1])[:, 0]
        distance = nearest if centres is None and not chosen else np.minimum(distance, nearest)
        chosen.append(newest)
        left[newest] = False
        gain = distance * weight(chosen)
        yield newest


def _balance(units: list[Unit], labelled: Sequence[Candidate], whole_cases: bool) -> Weight:
    """The weight of every unit after some were chosen: above 1 for views that are rare so far, below for frequent.

    An unknown view is none that could be rare: it counts for 1.
    """
    views = sorted(({candidate.view for unit in units for candidate in unit} | {c.view for c in labelled}) - {""})
    tally = np.array([[sum(c.view == view for c in unit) for view in views] for unit in units])
    size = np.array([len(unit) for unit in units])
    share, unknown = tally / size[:, None], (size - tally.sum(axis=1)) / size
    patients, patient_of = np.unique([unit[0].patient for unit in units], return_inverse=True)
    had_views, had_patients = Counter(c.view for c in labelled), Counter(c.patient for c in labelled)
    views_before = np.array([had_views[view] for view in views])
    patients_before = np.array([had_patients[patient] for patient in patients.tolist()])

    def weight(chosen: list[int]) -> np.ndarray:
        counts = (views_before + tally[chosen].sum(axis=0)).astype(float)
        usual = counts.sum() / max(1, len(views))
        factor = unknown + share @ np.clip((1 + usual) / (1 + counts), *BALANCE)
        if whole_cases:
            return factor
        of_patients = patients_before + np.bincount(patient_of[chosen], minlength=len(patients))
        return factor / (1 + of_patients[patient_of])

    return weight
