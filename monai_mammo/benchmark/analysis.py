"""The numbers of a report: every system's metrics with intervals, differences, verdict tests, subgroups, checks.

From records alone; how they are shown is `tables`' and `figures`'.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss

from monai_mammo.benchmark import statistics
from monai_mammo.benchmark.plan import OWN, shared_patients
from monai_mammo.benchmark.results import Entrant, Test
from monai_mammo.benchmark.runs import read_curves
from monai_mammo.benchmark.statistics import Difference, McNemar
from monai_mammo.bootstrap import Metrics, Record, interval, patient_draws, replicates
from monai_mammo.datasets.datalist import SECTIONS
from monai_mammo.metrics import (
    DISTANCES,
    HEADLINE,
    confusion_matrix,
    heading,
    quality_metrics,
    segmentation_metrics,
)

CHANCE = {"quality": math.log(2)}
"""The training loss (cross entropy of two classes) of who knows nothing; the segmentation losses have none such."""

_ROUNDING = 1e-9
"""By so little draws of one value may differ, being means of means."""

FEWEST_PATIENTS = 5
"""Fewer than these say nothing of which system is better."""


@dataclass(frozen=True)
class Estimate:
    """A metric's mean over the seeds with its 95 % interval; NaN for both ends where there is none."""

    value: float
    low: float
    high: float
    between_seeds: float
    """Standard deviation; NaN with one seed."""


@dataclass(frozen=True)
class Analysis:
    """One test of all systems, judged.

    Args:
        task: "quality" or "segmentation".
        test: what was tested.
        reference: name of the system that the others are compared with.
        resamples: draws of the patients.
    """

    task: str
    test: Test
    reference: str
    resamples: int = statistics.RESAMPLES

    @cached_property
    def metrics(self) -> dict[str, dict[int, Metrics]]:
        """By entrant and seed."""
        return {
            entrant.name: {seed: self._statistic(records) for seed, records in entrant.records.items()}
            for entrant in self.test.finished
        }

    @cached_property
    def samples(self) -> dict[str, dict[str, np.ndarray]]:
        """By entrant and metric, the mean over seeds on every draw of the patients, float (draws,)."""
        draws = patient_draws(sorted(str(entry["patient"]) for entry in self.test.entries), self.resamples)
        found: dict[str, dict[str, np.ndarray]] = {}
        for entrant in self.test.finished:
            own = zlib.crc32(entrant.name.encode())  # whichever other systems there are
            of_seeds = [replicates(records, self._statistic, draws) for records in entrant.records.values()]
            found[entrant.name] = {
                metric: statistics.over_seeds([samples[metric] for samples in of_seeds], seed=own)
                for metric in of_seeds[0]
            }
        return found

    @property
    def enough_patients(self) -> bool:
        """Whether intervals can be given at all."""
        return self.patients > 1

    @property
    def patients(self) -> int:
        """How many were tested."""
        return len({entry["patient"] for entry in self.test.entries})

    @property
    def comparable(self) -> bool:
        """Whether a system may be called the best."""
        return self.patients >= FEWEST_PATIENTS

    def entrant(self, name: str) -> Entrant | None:
        """A finished entrant by its name."""
        return next((entrant for entrant in self.test.finished if entrant.name == name), None)

    def estimate(self, name: str, metric: str) -> Estimate:
        """A metric of an entrant; NaN where it is not defined."""
        of_seeds = {seed: metrics.get(metric, math.nan) for seed, metrics in self.metrics[name].items()}
        samples = self.samples[name].get(metric, np.array([math.nan]))
        low, high = _interval(samples, metric) if self.enough_patients else (math.nan, math.nan)
        return Estimate(float(np.mean(list(of_seeds.values()))), low, high, statistics.spread(of_seeds))

    def difference(self, name: str, other: str, metric: str) -> Difference:
        """A metric of one entrant less that of another, on the same drawn patients."""
        value = self.estimate(name, metric).value - self.estimate(other, metric).value
        return statistics.difference(value, self.samples[name][metric], self.samples[other][metric])

    def against_reference(self) -> list[tuple[Entrant, Difference, float]]:
        """:meth:`against` the reference system."""
        return self.against(self.reference)

    def against(self, name: str) -> list[tuple[Entrant, Difference, float]]:
        """Every other entrant with its difference in :data:`HEADLINE` and Holm's p; none where it has not run."""
        others = [entrant for entrant in self.test.finished if entrant.name != name]
        if self.entrant(name) is None or not self.enough_patients:
            return []
        found = [self.difference(entrant.name, name, self.headline) for entrant in others]
        return list(zip(others, found, statistics.holm([difference.p for difference in found]), strict=True))

    def mcnemar(self, name: str, other: str) -> McNemar:
        """The verdicts of two systems on the same images; each system's is that of its seeds' mean probability."""
        return statistics.mcnemar(self._right(name), self._right(other))

    def ranked(self) -> list[Entrant]:
        """The finished systems, the best by :data:`HEADLINE` first."""
        systems = [entrant for entrant in self.test.finished if not entrant.baseline]
        metric = self.headline
        return sorted(systems, key=lambda entrant: -np.nan_to_num(self.estimate(entrant.name, metric).value, nan=-1.0))

    @property
    def headline(self) -> str:
        """The metric by which systems are ranked."""
        return HEADLINE[self.task]

    @property
    def rankable(self) -> bool:
        """Whether :data:`HEADLINE` is defined on these images; an AUC needs both classes."""
        return any(math.isfinite(self.estimate(name, self.headline).value) for name in self.metrics)

    def heading(self, metric: str) -> str:
        """A metric in words."""
        return heading(metric, next((r for entrant in self.test.finished for r in entrant.records.values()), []))

    def unlearnt(self, entrant: Entrant) -> list[float]:
        """The lowest training losses of those of its runs that were in no epoch better than a coin."""
        curves = [read_curves(folder).get("train_loss", {}) for folder in entrant.folders.values()]
        lowest = [min(losses.values()) for losses in curves if losses]
        return [loss for loss in lowest if loss >= CHANCE.get(self.task, math.inf)]

    def confusion(self, name: str) -> dict[str, float]:
        """Mean counts over the seeds."""
        entrant = self.entrant(name)
        matrices = [confusion_matrix(records) for records in entrant.records.values()] if entrant else []
        return {cell: float(np.mean([matrix[cell] for matrix in matrices])) for cell in matrices[0]}

    def _statistic(self, records: Sequence[Record]) -> Metrics:
        if self.task == "quality":
            return quality_metrics(records)
        found = segmentation_metrics(records)
        return found | (statistics.froc_metrics(records) if records and "candidates" in records[0] else {})

    def _right(self, name: str) -> np.ndarray:
        entrant = self.entrant(name)
        assert entrant is not None
        tables = [[record["probability"] for record in records] for records in entrant.records.values()]
        labels = np.array([record["label"] for record in next(iter(entrant.records.values()))])
        return (np.mean(tables, axis=0) >= 0.5) == (labels == 1)


def _interval(samples: np.ndarray, metric: str) -> tuple[float, float]:
    """A metric's interval, within what the metric can be: `statistics.over_seeds` may go beyond every seed's value.

    NaN where all draws give one value: that two of two were found says little of the next one, and the bootstrap, which
    knows these two alone, cannot say how little.
    """
    highest = math.inf if metric in DISTANCES else 1.0
    low, high = interval(samples)
    defined = samples[np.isfinite(samples)]
    if defined.size and np.ptp(defined) < _ROUNDING:
        return math.nan, math.nan
    return max(low, 0.0), min(high, highest)


def trained_once(*entrants: Entrant) -> list[str]:
    """Titles of those with a single training: no interval knows what another training of theirs would have given."""
    return [entrant.title for entrant in entrants if len(entrant.records) == 1 and not entrant.baseline]


def calibration_error(entrant: Entrant) -> float:
    """Expected calibration error of a classifier, mean over the seeds."""
    tables = map(labels_and_probabilities, entrant.records.values())
    return float(np.mean([statistics.expected_calibration_error(*table) for table in tables]))


def brier_score(entrant: Entrant) -> float:
    """Mean square of what a classifier's probability is off by, mean over the seeds."""
    return float(np.mean([brier_score_loss(*labels_and_probabilities(r)) for r in entrant.records.values()]))


def labels_and_probabilities(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """A classifier's records as two arrays (images,)."""
    label, probability = (np.array([record[key] for record in records]) for key in ("label", "probability"))
    return label, probability


@dataclass(frozen=True)
class Group:
    """A part of the test and how a system does on it."""

    kind: str
    name: str
    images: int
    patients: int
    metric: str
    heading: str
    estimate: Estimate


def subgroups(analysis: Analysis, name: str) -> list[Group]:
    """How one system does by view, density, kind and size of lesion, cause of incompleteness.

    Groups of one patient have no interval, nor have groups in which every draw of the patients gives one value. A
    metric that a group leaves undefined is NaN.
    """
    entrant = analysis.entrant(name)
    if entrant is None:
        return []
    found = []
    for kind, group_of in _kinds(analysis).items():
        members: dict[str, list[int]] = defaultdict(list)
        for index in range(len(analysis.test.entries)):
            group = group_of(index)
            if group:
                members[group].append(index)
        if len(members) < 2:
            continue
        for group in sorted(members):
            found.append(_group(analysis, entrant, kind, group, members[group]))
    return found


def _kinds(analysis: Analysis) -> dict[str, Callable[[int], str]]:
    entries = analysis.test.entries
    kinds: dict[str, Callable[[int], str]] = {
        name: lambda index, key=key: str(entries[index].get(key) or "")  # type: ignore[misc]
        for name, key in (
            ("view", "view"),
            ("density", "density"),
            ("kind of lesion", "kind"),
            ("pathology", "pathology"),
        )
    }
    if analysis.task == "quality":
        kinds["cause of incompleteness"] = lambda index: str(entries[index].get("cause") or "")
        return kinds
    records = next(iter(analysis.test.finished[0].records.values()))
    sizes = np.array([record["tp"] + record["fn"] for record in records], dtype=float)
    third, two_thirds = np.percentile(sizes[sizes > 0], (100 / 3, 200 / 3)) if (sizes > 0).any() else (0.0, 0.0)
    names = ("lower third", "middle third", "upper third")
    whole = "candidates" in records[0]  # an image with all its lesions
    kinds["size of the lesions" if whole else "size of lesion"] = lambda index: (
        "" if sizes[index] == 0 else names[int(sizes[index] > third) + int(sizes[index] > two_thirds)]
    )
    return kinds


def _group(analysis: Analysis, entrant: Entrant, kind: str, group: str, members: list[int]) -> Group:
    metric = (
        "mean_dice"
        if analysis.task == "segmentation"
        else "recall_incomplete"
        if kind.startswith("cause")
        else "balanced_accuracy"
    )
    chosen = {seed: [records[index] for index in members] for seed, records in entrant.records.items()}
    patients = sorted({str(analysis.test.entries[index]["patient"]) for index in members})

    def statistic(records: Sequence[Record]) -> Metrics:
        found = quality_metrics(records) if analysis.task == "quality" else segmentation_metrics(records)
        return {metric: found[metric]}

    values = {seed: statistic(records)[metric] for seed, records in chosen.items()}
    low = high = math.nan
    if len(patients) > 1:
        draws = patient_draws(patients, analysis.resamples)
        of_seeds = [replicates(records, statistic, draws)[metric] for records in chosen.values()]
        low, high = _interval(statistics.over_seeds(of_seeds), metric)
    estimate = Estimate(float(np.mean(list(values.values()))), low, high, statistics.spread(values))
    return Group(kind, group, len(members), len(patients), metric, analysis.heading(metric), estimate)


@dataclass(frozen=True)
class Check:
    """Something that must hold of the numbers, and whether it does."""

    what: str
    passed: bool
    detail: str


def checks(analysis: Analysis, protocol: str) -> list[Check]:
    """Whether the results are consistent with their definitions, their files and the protocol."""
    test = analysis.test
    found = [_patients_apart(test, protocol), *([] if test.name == OWN else [_not_trained_on(test)])]
    found.append(_files_agree(analysis))
    if analysis.task == "segmentation":
        found += _identities(analysis)
    else:
        totals = {name: sum(analysis.confusion(name).values()) for name in analysis.metrics}
        wrong = [name for name, total in totals.items() if abs(total - len(analysis.test.entries)) > 1e-6]
        found.append(Check("every confusion matrix holds every image once", not wrong, _names(wrong)))
    return found


def _patients_apart(test: Test, protocol: str) -> Check:
    sides = {section: {str(e["patient"]) for e in test.document.get(section) or []} for section in SECTIONS}
    both = {p for one in sides for other in sides if one < other for p in sides[one] & sides[other]}
    if protocol == "paper" and test.name == OWN:
        leak: Mapping[str, Any] = test.document.get("leak") or {}
        told = (
            f"{leak['same_original']:.1%} of the held-out images have a sibling in training" if leak else "unmeasured"
        )
        return Check("the papers' protocol leaks, as it is meant to", bool(both), told)
    return Check("no patient is in two sections", not both, f"{len(both)} are" if both else "none is")


def _not_trained_on(test: Test) -> Check:
    """Of further test data: whether they are apart from the data set that was trained on."""
    shared = shared_patients(test.trained, test.document, test.section)
    told = "another data set" if shared is None else f"{len(shared)} are" if shared else "none is"
    return Check("no patient tested was trained on or chose the epoch", not shared, told)


def _files_agree(analysis: Analysis) -> Check:
    """Whether what each evaluation wrote of itself is what its images' records give."""
    wrong = []
    for entrant in analysis.test.finished:
        for seed, metrics in analysis.metrics[entrant.name].items():
            written = json.loads((entrant.folders[seed] / "tests" / analysis.test.name / "metrics.json").read_text())
            pairs = [(entry["value"], metrics.get(name)) for name, entry in written["metrics"].items()]
            if not all(_same(value, found) for value, found in pairs):
                wrong.append(f"{entrant.name}, seed {seed}")
    return Check("every metrics.json is what its per_image.csv gives", not wrong, _names(wrong))


def _same(written: float | None, found: float | None) -> bool:
    if written is None or found is None or not math.isfinite(found):
        return written is None and (found is None or not math.isfinite(found))
    return math.isclose(written, found, rel_tol=1e-6, abs_tol=1e-9)


def _identities(analysis: Analysis) -> list[Check]:
    pooled, means, worst = [], [], 0.0
    for name, seeds in analysis.metrics.items():
        for metrics in seeds.values():
            dice, iou = metrics["pooled_dice"], metrics["pooled_iou"]
            if math.isfinite(dice):
                worst = max(worst, abs(iou - dice / (2 - dice)))
                pooled += [name] if abs(iou - dice / (2 - dice)) > 1e-6 else []
            mean, mean_iou = metrics["mean_dice"], metrics["mean_iou"]
            if math.isfinite(mean) and not mean / (2 - mean) - 1e-9 <= mean_iou <= mean + 1e-9:
                means.append(name)
    return [
        Check(
            "pooled IoU = D / (2 - D) of the pooled Dice D", not pooled, _names(pooled) or f"largest gap {worst:.1e}"
        ),
        Check("mean IoU lies between D / (2 - D) and D of the mean Dice D", not means, _names(means)),
    ]


def _names(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
