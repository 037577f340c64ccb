"""The report's tables. Shares are in per cent; "—" is what is not defined, "not run" what is not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai_mammo.benchmark import papers
from monai_mammo.benchmark.analysis import (
    Analysis,
    Check,
    Estimate,
    Group,
    brier_score,
    calibration_error,
    trained_once,
)
from monai_mammo.benchmark.page import Table
from monai_mammo.benchmark.results import Benchmark, Entrant
from monai_mammo.benchmark.statistics import LEVEL, OPERATING_POINTS, Difference
from monai_mammo.metrics import DISTANCES

PAPER_COLUMNS = {
    "quality": ("accuracy", "precision_incomplete", "recall_incomplete", "f1_incomplete"),
    "segmentation": ("mean_dice", "mean_iou"),
}
"""Our metrics in the columns of the papers' tables."""

FURTHER = {
    "quality": ("auc_incomplete", "balanced_accuracy", "precision_complete", "recall_complete", "f1_complete"),
    "segmentation": ("pooled_dice", "pooled_iou", "two_class_mean_iou", "missed", "false_alarm", *DISTANCES),
}

NOT_RUN, NONE = "not run", "—"
_NO_INTERVAL = f"[{NONE}]"


def papers_table(analysis: Analysis) -> Table:
    """Table 2 of paper A or table 1 of paper B with our numbers, and the paper's in a column of their own."""
    task, columns = analysis.task, PAPER_COLUMNS[analysis.task]
    reported = papers.REPORTED[task]
    names = [*(name for name in papers.TITLES if name in reported)]
    known = {entrant.name: entrant for entrant in analysis.test.entrants}
    rows: list[list[str]] = []
    marked: set[int] = set()
    for name in [*names, *(name for name in known if name not in names)]:
        entrant = known.get(name)
        if entrant is not None and entrant.baseline:
            marked.add(len(rows))
        title = entrant.title if entrant else papers.TITLES[name]
        rows.append([title, *_measured(analysis, entrant, columns), _printed(reported.get(name, {}))])
    headings = [analysis.heading(metric) for metric in columns]
    head = ["System", "Seeds", *headings, f"Reported, other protocol ({' / '.join(_short(task))})"]
    caption = (
        f"Mean over the seeds with its 95 % interval, in per cent. The last column is printed in the paper: "
        f"{papers.PROTOCOL[task]}. Shaded rows need no network."
    )
    return Table(head, rows, _explained(caption, rows), frozenset(marked))


def further_table(analysis: Analysis) -> Table:
    """The other metrics of the same runs."""
    columns = [metric for metric in FURTHER[analysis.task] if _defined_anywhere(analysis, metric)]
    quality = analysis.task == "quality"
    head = [
        "System",
        f"{analysis.heading(analysis.headline)}: SD between seeds",
        *(analysis.heading(metric) for metric in columns),
        *(("Calibration error", "Brier score") if quality else ()),
    ]
    rows: list[list[str]] = []
    marked: set[int] = set()
    for entrant in analysis.test.finished:
        if entrant.baseline:
            marked.add(len(rows))
        cells = [cell(analysis.estimate(entrant.name, metric), metric) for metric in columns]
        more = [f"{calibration_error(entrant):.3f}", f"{brier_score(entrant):.3f}"] if quality else []
        spread = analysis.estimate(entrant.name, analysis.headline).between_seeds
        rows.append([entrant.title, percent(spread), *cells, *more])
    return Table(head, rows, _explained("", rows), frozenset(marked))


def metrics_table(analysis: Analysis, name: str) -> Table:
    """Every metric of one system, a row each."""
    present = next(iter(analysis.metrics[name].values()))
    metrics = (*PAPER_COLUMNS[analysis.task], *FURTHER[analysis.task])
    shown = {metric: analysis.heading(metric) for metric in metrics} | {
        f"sensitivity_at_{rate:g}": f"Lesions found at {rate:g} false marks an image" for rate in OPERATING_POINTS
    }
    rows = [
        [shown[metric], cell(analysis.estimate(name, metric), metric)]
        for metric in shown
        if math.isfinite(present.get(metric, math.nan))
    ]
    caption = "In per cent, by a bootstrap of the patients; distances as named."
    return Table(["Metric", "Value [95 % interval]"], rows, _explained(caption, rows))


def froc_table(analysis: Analysis) -> Table:
    """Sensitivity of whole images at fixed numbers of false marks."""
    metrics = [f"sensitivity_at_{rate:g}" for rate in OPERATING_POINTS]
    rows = [
        [entrant.title, *(cell(analysis.estimate(entrant.name, metric), metric) for metric in metrics)]
        for entrant in analysis.test.finished
    ]
    marked = {row for row, entrant in enumerate(analysis.test.finished) if entrant.baseline}
    head = ["Lesions found, at false marks per image", *(f"{rate:g}" for rate in OPERATING_POINTS)]
    caption = "A mark is a peak of the probability; it finds the lesion that it lies in. Touching lesions count as one."
    return Table(head, rows, _explained(caption, rows), frozenset(marked))


def differences_table(analysis: Analysis) -> Table | None:
    """Every system less the reference system, on the same patients."""
    reference = analysis.entrant(analysis.reference)
    compared = analysis.against_reference()
    if reference is None or not compared:
        return None
    quality = analysis.task == "quality"
    rows: list[list[str]] = []
    marked: set[int] = set()
    for entry, difference, p in compared:
        if entry.baseline:
            marked.add(len(rows))
        once = " (trained once)" if trained_once(entry, reference) else ""
        established = NONE if math.isnan(p) else ("yes" if p < LEVEL else "no") + once
        cells = [points(difference), _p(difference.p), _p(p), established]
        rows.append([entry.title, *cells, *(_mcnemar(analysis, entry) if quality else [])])
    ahead = f"{analysis.heading(analysis.headline)}, difference in points"
    head = ["System", ahead, "p", "p (Holm)", "Established"]
    head += ["Right alone : reference alone", "McNemar's p"] if quality else []
    caption = (
        f"Each system less {reference.title}: paired bootstrap over patients (and seeds). Established where Holm's p, "
        f"which allows for the number of comparisons, is below {LEVEL}; the intervals do not allow for it."
    )
    if any(trained_once(entry, reference) for entry, *_ in compared):
        caption += " Trained once: the system or the reference was; another training might give another verdict."
    if quality:
        caption += (
            " McNemar's exact test is on the verdicts of the seeds' mean probability, image by image. It takes images "
            "for independent, which views of one patient are not; the paired bootstrap does not."
        )
    return Table(head, rows, caption, frozenset(marked))


def costs_table(benchmark: Benchmark, titles: dict[str, str]) -> Table | None:
    """Parameters, multiplications, latency and throughput, as measured side by side."""
    systems: dict[str, dict[str, float]] = benchmark.costs.get("systems", {})
    if not systems:
        return None
    first = next(iter(systems.values()))
    rows = [
        [
            titles.get(name, name),
            f"{cost['parameters'] / 1e6:.2f}",
            f"{cost['gmacs']:.2f}",
            f"{cost['latency_ms']:.1f} ({cost['latency_ms_min']:.1f} to {cost['latency_ms_max']:.1f})",
            f"{cost['latency_ms'] / first['latency_ms']:.2f}",
            f"{cost['images_per_second']:.1f}",
        ]
        for name, cost in systems.items()
    ]
    rows += [[titles[name], *[NOT_RUN] * 5] for name in benchmark.plan.systems if name not in systems]
    machine = benchmark.costs["machine"]
    head = [
        "System",
        "Parameters (millions)",
        "GMAC an image",
        "Latency at batch 1 (ms)",
        "Ratio",
        f"Images a second at batch {machine['batch']}",
    ]
    recorded = ", passes recorded as CUDA graphs" if machine.get("recorded") else ""
    caption = (
        f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}, {machine['precision']}"
        f"{recorded}; "
        f"medians of {machine['rounds']} turns (shortest to longest), the systems taking turns in one run. "
        "GMAC: half the operations that torch's FlopCounterMode counts in convolutions and products."
    )
    return Table(head, rows, caption)


def probe_table(probe: dict[str, Any]) -> Table | None:
    """The border-only probe of the quality data."""
    if not probe.get("results"):
        return None
    rows = [
        [
            result["features"],
            result["classifier"],
            _with_interval(percent(result["balanced_accuracy"]), *map(percent, result["interval"])),
            "must fail" if result["judged"] else "may succeed",
        ]
        for result in probe["results"]
    ]
    head = ["What is seen of the image", "Classifier", "Balanced accuracy", "Meaning"]
    caption = "Classifiers that see only borders, by cross-validation over patients. 50 is chance."
    return Table(head, rows, caption)


def groups_table(groups: Sequence[Group], title: str) -> Table | None:
    """One system by subgroup."""
    if not groups:
        return None
    rows = [
        [
            f"{group.kind}: {group.name}",
            str(group.images),
            str(group.patients),
            group.heading,
            cell(group.estimate, group.metric),
        ]
        for group in groups
    ]
    caption = f"{title}. Groups are small: their intervals say how little is known of them."
    return Table(["Group", "Entries", "Patients", "Metric", "Value"], rows, _explained(caption, rows))


def checks_table(checks: Sequence[Check]) -> Table:
    """What must hold of the numbers."""
    rows = [[check.what, "holds" if check.passed else "DOES NOT HOLD", check.detail or NONE] for check in checks]
    return Table(["Check", "Result", "Detail"], rows)


def percent(value: float) -> str:
    """A share in per cent with one decimal."""
    return f"{100 * value:.1f}" if math.isfinite(value) else NONE


def points(difference: Difference) -> str:
    """A difference of shares in percentage points, with its interval."""
    if not math.isfinite(difference.value):
        return NONE
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _measured(analysis: Analysis, entrant: Entrant | None, columns: Sequence[str]) -> list[str]:
    if entrant is None or not entrant.records:
        state = entrant.state if entrant else NOT_RUN
        return [state, *[NOT_RUN] * len(columns)]
    state = NONE if entrant.baseline else entrant.state
    return [state, *(cell(analysis.estimate(entrant.name, metric), metric) for metric in columns)]


def cell(estimate: Estimate, metric: str) -> str:
    """A metric's value with its interval, in per cent, distances as they are; `[—]` where there is no interval."""

    def shown(value: float) -> str:
        return (f"{value:.1f}" if metric in DISTANCES else percent(value)) if math.isfinite(value) else NONE

    if not math.isfinite(estimate.value):
        return NONE
    if not math.isfinite(estimate.low):
        return f"{shown(estimate.value)} {_NO_INTERVAL}"
    return _with_interval(*map(shown, (estimate.value, estimate.low, estimate.high)))


def _explained(caption: str, rows: Sequence[Sequence[str]]) -> str:
    """A caption that says, where it is so, why values have no interval."""
    if not any(value.endswith(_NO_INTERVAL) for row in rows for value in row):
        return caption
    told = (
        f"{_NO_INTERVAL}: no interval, because there is one patient or every draw of the patients gives the same "
        "value, which does not make it sure."
    )
    return f"{caption} {told}".strip()


def _with_interval(value: str, low: str, high: str) -> str:
    return f"{value} [{low}, {high}]"


def _printed(reported: Any) -> str:
    return " / ".join(percent(value) for value in reported.values()) if reported else NONE


def _short(task: str) -> list[str]:
    return ["accuracy", "precision", "recall", "F1"] if task == "quality" else ["Dice", "mIoU"]


def _defined_anywhere(analysis: Analysis, metric: str) -> bool:
    return any(math.isfinite(m.get(metric, math.nan)) for seeds in analysis.metrics.values() for m in seeds.values())


def _mcnemar(analysis: Analysis, entry: Entrant) -> list[str]:
    test = analysis.mcnemar(entry.name, analysis.reference)
    return [f"{test.only_system} : {test.only_reference}", _p(test.p)]


def _p(value: float) -> str:
    if not math.isfinite(value) or value < 0.01:
        return "< 0.01" if value < 0.01 else NONE
    shown = f"{value:.2f}"
    return f"< {LEVEL}" if value < LEVEL <= float(shown) else shown  # rounding must not hide what is established
