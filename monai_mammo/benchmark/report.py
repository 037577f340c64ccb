"""The report of one or more benchmark folders: Markdown, CSV and one HTML page, from what has been run so far.

Only what stands in the folders' files is reported. Fit to be committed as `docs/BENCHMARKS.md` with its pictures.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_mammo.benchmark import cases, figures, papers, tables
from monai_mammo.benchmark.analysis import CHANCE, Analysis, checks, subgroups
from monai_mammo.benchmark.claims import claims, headline
from monai_mammo.benchmark.page import Block, Code, Heading, Picture, Points, Text, html, markdown
from monai_mammo.benchmark.plan import OWN, command, shared_patients
from monai_mammo.benchmark.results import Benchmark, Entrant, Test, find_benchmarks, read_benchmark, title
from monai_mammo.benchmark.statistics import RESAMPLES
from monai_mammo.benchmark.systems import SYSTEMS
from monai_mammo.datasets.datalist import SECTIONS

PICTURES = "images/benchmarks"
CASES = "cases.png"
"""In a benchmark's folder: the picture of its cases, where its masks are no longer."""
TITLE = "Benchmarks"
_SHOWN = 4
"""Systems whose masks are shown side by side."""
_TASKS = {"quality": "Complete or incomplete", "segmentation": "Tumour segmentation"}
_SEEN = {"roi": "on crops around a lesion", "whole": "on whole mammograms"}
VALIDATION = {"quality": "auc", "segmentation": "mean_dice_of_images"}
"""What the bundles' configs call the metric that chooses the epoch, and so the curves' files; a test compares."""


def write_report(
    folders: Sequence[Path], out: Path, *, reference: str | None = None, resamples: int = RESAMPLES
) -> list[Path]:
    """Write `BENCHMARKS.md`, `images/benchmarks/`, `benchmarks.csv` and `benchmarks.html`.

    Args:
        folders: of benchmarks, or of folders of benchmarks.
        out: made if it does not exist.
        reference: the system that the others are compared with; by default the first of each plan.
        resamples: draws of the patients.

    Returns:
        the three files.

    Raises:
        MammogramError: a folder holds no benchmark, or results that do not belong together.
    """
    sections = [
        section
        for folder in find_benchmarks(list(folders))
        for section in _sections(read_benchmark(folder), reference, resamples)
    ]
    blocks = [*_opening(sections), *(block for section in sections for block in _blocks(section)), *_method(resamples)]
    out.mkdir(parents=True, exist_ok=True)
    pictures = out / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Picture):
            (pictures / block.name).write_bytes(block.content)
    files = [out / "BENCHMARKS.md", out / "benchmarks.csv", out / "benchmarks.html"]
    files[0].write_text(markdown(blocks, PICTURES))
    _write_csv(files[1], sections)
    files[2].write_text(html(blocks, TITLE))
    return files


@dataclass(frozen=True)
class _Section:
    """One test of one benchmark."""

    benchmark: Benchmark
    analysis: Analysis

    @property
    def own(self) -> bool:
        return self.analysis.test.name == OWN

    @property
    def title(self) -> str:
        plan, test = self.benchmark.plan, self.analysis.test
        seen = f" {_SEEN[plan.mode]}" if plan.task == "segmentation" else ""
        trained = next(t for t in self.benchmark.tests if t.name == OWN).data
        data = trained if self.own else f"trained on {trained}, tested on {test.data}"
        held_out = "patients held out" if plan.protocol == "patient" else "the paper's leaking split"
        width = "" if plan.compact else ", networks of the published width"
        return f"{_TASKS[plan.task]}{seen}: {data}, {held_out}{width}"

    @property
    def slug(self) -> str:
        return "_".join([self.benchmark.out.resolve().name, *([] if self.own else [self.analysis.test.name])])


def _sections(benchmark: Benchmark, reference: str | None, resamples: int) -> list[_Section]:
    plan = benchmark.plan
    other = reference if reference in plan.systems else plan.systems[0]
    return [_Section(benchmark, Analysis(plan.task, test, other, resamples)) for test in benchmark.tests]


def _opening(sections: Sequence[_Section]) -> list[Block]:
    finished = sum(bool(run.record["trained"]) for b in _benchmarks(sections) for run in b.runs)
    wanted = sum(len(b.runs) for b in _benchmarks(sections))
    return [
        Heading(1, TITLE),
        Text(
            "Every system of both papers, and what MONAI offers beside them, trained by the same bundle: the same "
            "split, augmentation, optimiser and epochs, one training a seed, and the same loss but where a row names "
            "its source's. The papers' own numbers stand beside ours as quotations; they were had by other protocols "
            "and are not comparable. "
            f"{finished} of {wanted} trainings are done; what has not been measured is not in the tables."
        ),
        Text("Written by `monai-mammo benchmark report`. Research only; not for diagnostic use."),
        Heading(2, "In short"),
        Points([point for section in sections for point in _in_short(section)] or ["Nothing has been tested yet."]),
    ]


def _in_short(section: _Section) -> list[str]:
    """What the numbers come to, one sentence a finding."""
    analysis = section.analysis
    if not analysis.ranked():
        return [f"**{section.title}.** Not run yet."]
    if not analysis.comparable:
        return [f"**{section.title}.** Too few test patients ({analysis.patients}) to compare systems."]
    points = [f"**{section.title}.** {headline(analysis)}"]
    return points + [claim for claim in claims(analysis) if section.own]


def _blocks(section: _Section) -> list[Block]:
    benchmark, analysis = section.benchmark, section.analysis
    again = Code(command(benchmark.plan, f"runs/bench/{benchmark.out.resolve().name}"))
    blocks: list[Block] = [Heading(2, section.title), Points(_facts(section)), Text("To repeat it:"), again]
    blocks += [Heading(3, "Results"), tables.papers_table(analysis)]
    if not analysis.test.finished:
        return blocks
    blocks += [*_forest(section), tables.further_table(analysis)]
    if analysis.task == "segmentation" and benchmark.plan.mode == "whole":
        blocks += [
            tables.froc_table(analysis),
            _picture(
                section,
                "froc",
                figures.froc(analysis),
                "Free-response curves",
                "Free-response curves: the mean of the seeds.",
            ),
        ]
    blocks += _compared(section) + _drawings(section) + _costs(section)
    name = papers.PROPOSED[analysis.task]
    shown = analysis.entrant(name) or analysis.entrant(analysis.reference) or analysis.test.finished[0]
    groups = tables.groups_table(subgroups(analysis, shown.name), shown.title)
    blocks += [Heading(3, "By subgroup"), groups] if groups else []
    return [*blocks, Heading(3, "Checks"), tables.checks_table(checks(analysis, benchmark.plan.protocol))]


def _facts(section: _Section) -> list[str]:
    plan, test = section.benchmark.plan, section.analysis.test
    training = next(t for t in section.benchmark.tests if t.name == OWN).document
    counts = ", ".join(f"{name} {_count(training.get(name))}" for name in SECTIONS if training.get(name))
    trained = [run.record["trained"] for run in section.benchmark.runs if run.record["trained"]]
    facts = [f"Data: {training.get('name')} ({training.get('licence') or 'licence not stated'}): {counts}."]
    if not section.own:
        facts.append(f"Tested on: {test.data}, {test.section} {_count(test.entries)}. {_was_seen(test)}")
    if plan.protocol == "paper":
        facts.append(
            f"**{training.get('description') or 'This protocol leaks'}** The held-out part chose the epoch, too."
        )
    values = ", ".join(f"`{name}` {value}" for name, value in plan.values.items())
    size = "compact networks, as a CPU can train them" if plan.compact else "networks of the published width"
    parts = [size, *([values] if values else []), *_beside_the_width(section.benchmark), "all else as in the bundle"]
    facts.append(f"Configuration: {'; '.join(parts)}.")
    if trained:
        devices = ", ".join(dict.fromkeys(f"{entry['device']} (torch {entry['torch']})" for entry in trained))
        facts.append(f"Trained: {len(trained)} of {len(section.benchmark.runs)} runs, on {devices}.")
        facts += _cut_short([entry["epochs"] for entry in trained], plan.values.get("epochs"))
    return facts + _did_not_learn(section.analysis)


def _was_seen(test: Test) -> str:
    """What is known of whether further test data were trained on."""
    shared = shared_patients(test.trained, test.document, test.section)
    if shared is None:
        return "By its name it is another data set than the one trained on."
    if shared:
        return f"**{len(shared)} of these patients were trained on or chose the epoch.**"
    return "Nothing of it was trained on."


def _beside_the_width(benchmark: Benchmark) -> list[str]:
    """What the trained networks had been given beyond what makes each system what it is, and its width."""
    having: dict[str, dict[str, None]] = {}
    for run in benchmark.runs:
        system = SYSTEMS.get(run.system)
        usual = {**system.network, **system.compact} if system else {}
        for name, value in run.settings.get("network_def", {}).items():
            if system and name not in usual:
                having.setdefault(f"`{name}` {value}", {})[system.title] = None
    return [f"{setting} in {', '.join(titles)}" for setting, titles in having.items()]


def _did_not_learn(analysis: Analysis) -> list[str]:
    """Runs that were never better than a coin: they say nothing of their network."""
    found = []
    for entrant in analysis.test.finished:
        if unlearnt := analysis.unlearnt(entrant):
            losses = ", ".join(f"{loss:.2f}" for loss in unlearnt)
            runs = f"{len(unlearnt)} of {len(entrant.folders)} runs"
            found.append(f"{entrant.title} ({runs}, lowest training loss {losses})")
    if not found:
        return []
    return [
        f"Did not learn under this recipe: {'; '.join(found)}; a coin's loss is {CHANCE[analysis.task]:.2f}. Their "
        "numbers and differences are the recipe's, not the network's."
    ]


def _cut_short(epochs: list[int], planned: int | None) -> list[str]:
    """What a reader has to know of runs that were ended from outside and tested as they were."""
    short = [done for done in epochs if planned is not None and done < planned]
    if not short:
        return []
    reach = f"{min(short)}" if min(short) == max(short) else f"{min(short)} to {max(short)}"
    return [
        f"Cut short: {len(short)} of these runs ended after {reach} of {planned} epochs; tested are the weights of the "
        "best validation until then."
    ]


def _count(entries: Any) -> str:
    return f"{len(entries)} entries of {len({entry['patient'] for entry in entries})} patients"


def _forest(section: _Section) -> list[Block]:
    analysis = section.analysis
    if not analysis.rankable:
        return []
    metric, label = analysis.headline, analysis.heading(analysis.headline)
    drawing = figures.forest(analysis, metric, label)
    caption = f"{label}: mean over the seeds (diamond) with its 95 % interval; dots are the seeds."
    return [_picture(section, "results", drawing, f"{label} of every system with its interval", caption)]


def _compared(section: _Section) -> list[Block]:
    table = tables.differences_table(section.analysis)
    return [Heading(3, "Compared with the reference"), table] if table else []


def _drawings(section: _Section) -> list[Block]:
    """The figures of a task."""
    analysis = section.analysis
    blocks: list[Block] = []
    if section.own:
        metric = VALIDATION[analysis.task]
        history = figures.curves(analysis.test.entrants, metric, f"{analysis.heading(analysis.headline)}, validation")
        if history:
            caption = "Training loss and validation by epoch: the mean of the seeds, each seed thinly."
            blocks.append(_picture(section, "curves", history, "Curves of training and validation", caption))
    if analysis.task == "quality":
        blocks += _of_verdicts(section)
    elif section.own:
        blocks += _cases(section)
    return [Heading(3, "Figures"), *blocks] if blocks else []


def _of_verdicts(section: _Section) -> list[Block]:
    matrices = figures.confusion(section.analysis)
    caption = "Verdicts at a probability of 0.5: mean counts over the seeds, and shares of each true class."
    blocks: list[Block] = [_picture(section, "confusion", matrices, "Confusion matrices", caption)]
    if section.analysis.rankable:  # of one class there is no ROC curve, and nothing to calibrate
        curves = figures.roc_and_calibration(section.analysis)
        caption = (
            "Incomplete is positive. ROC: the mean of the seeds' curves. Calibration: all seeds together, "
            "in bins of equally many images."
        )
        blocks.append(_picture(section, "roc", curves, "ROC and calibration curves", caption))
    return blocks


def _cases(section: _Section) -> list[Block]:
    if not section.analysis.ranked():
        return []
    drawing = draw_cases(section.benchmark, section.analysis)
    if drawing is None:
        return [Text("Pictures of cases: not shown, because the images or the predicted masks are not there.")]
    caption = (
        f"Best, median and worst case of {_leading(section.analysis).title} by Dice: image, truth, and the masks of "
        "the systems' first seeds. The outline runs around the marked pixels."
    )
    return [_picture(section, "cases", drawing, "Best, median and worst case", caption, "png")]


def draw_cases(benchmark: Benchmark, analysis: Analysis) -> bytes | None:
    """The picture of a segmentation's best, median and worst case; the one kept in the folder where masks are gone."""
    leading, plan = _leading(analysis), benchmark.plan
    others = [entrant for entrant in analysis.ranked() if entrant.name != leading.name]
    shown = [leading, *others][:_SHOWN]
    drawing = cases.sheet(shown, analysis.test.entries, plan.training_data, plan.mode == "whole")
    kept = benchmark.out / CASES
    return drawing or (kept.read_bytes() if kept.is_file() else None)


def _leading(analysis: Analysis) -> Entrant:
    return analysis.entrant(analysis.reference) or analysis.ranked()[0]


def _costs(section: _Section) -> list[Block]:
    if not section.own:
        return []
    titles = {name: title(name) for name in section.benchmark.plan.systems}
    table = tables.costs_table(section.benchmark, titles)
    blocks: list[Block] = []
    if table:
        blocks += [Heading(3, "What it costs"), table]
    if section.analysis.task == "quality" and section.benchmark.probe:
        probe = tables.probe_table(section.benchmark.probe)
        blocks += [Heading(3, "Borders alone")]
        blocks += [probe] if probe else [Text(f"Not run: {section.benchmark.probe.get('not_run')}.")]
    return blocks


def _picture(section: _Section, what: str, content: bytes, alt: str, caption: str, kind: str = "svg") -> Picture:
    return Picture(f"{section.slug}_{what}.{kind}", content, alt, caption)


def _method(resamples: int) -> list[Block]:
    return [
        Heading(2, "How the numbers are made"),
        Points(
            [
                "A value is the mean of the seeds' values. Weights are those of the epoch that is best on the "
                "validation patients; the test patients are seen once.",
                f"Intervals: {resamples} draws of the test patients with replacement, with all their images; every "
                "system and seed is judged on the same draws, and the seeds are drawn as well, so that an interval "
                "allows for who was tested and which training was had. With one seed it says nothing of the latter, "
                "with a few too little: in a simulation of two equal systems with three seeds each and 25 patients (17 "
                "give much the same) their difference, which should have a p below 0.05 in 5 of 100 cases, has it in 7 "
                "where patients and trainings contribute alike, and in 12 where the trainings alone differ; with two "
                "seeds in 8 and in 22.",
                "Differences are taken within each draw. Several seeds are not taken for several patients.",
                "Dice and IoU are of hard masks (tumour more probable than not; in whole mammograms only regions "
                "inside the breast that somewhere reach the probability `peak`) at the mammogram's own pixels, "
                "of each crop's lesion, or of all lesions of a whole mammogram together; where none of their pixels is "
                "marked they are 0. `monai_mammo/metrics.py` defines all metrics.",
                "Every image's result is in the run's `per_image.csv`, from which every number here is computed "
                "(`monai-mammo benchmark records` keeps them without the weights).",
            ]
        ),
    ]


def _benchmarks(sections: Sequence[_Section]) -> list[Benchmark]:
    return [section.benchmark for section in sections if section.own]


def _write_csv(file: Path, sections: Sequence[_Section]) -> None:
    """A row a number: of which test and system, with interval, spread and what it is compared with."""
    head = ["benchmark", "task", "mode", "protocol", "size", "test", "system", "quantity", "value", "low", "high"]
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([*head, "sd_between_seeds", "seeds", "compared_with", "p"])
        for section in sections:
            plan = section.benchmark.plan
            size = "compact" if plan.compact else "full"
            mode = plan.mode if plan.task == "segmentation" else ""
            about = [section.benchmark.out.resolve().name, plan.task, mode, plan.protocol, size]
            for row in _csv_rows(section):
                writer.writerow([*about, section.analysis.test.data, *(_plain(cell) for cell in row)])


def _csv_rows(section: _Section) -> list[list[Any]]:
    analysis = section.analysis
    rows: list[list[Any]] = []
    for entrant in analysis.test.finished:
        for metric in next(iter(analysis.metrics[entrant.name].values())):
            estimate = analysis.estimate(entrant.name, metric)
            spread = estimate.between_seeds
            rows.append(
                [
                    entrant.name,
                    metric,
                    estimate.value,
                    estimate.low,
                    estimate.high,
                    spread,
                    len(entrant.records),
                    "",
                    "",
                ]
            )
        if entrant.name != analysis.reference and analysis.entrant(analysis.reference) and analysis.enough_patients:
            metric = analysis.headline
            difference = analysis.difference(entrant.name, analysis.reference, metric)
            found = [difference.value, difference.low, difference.high, "", len(entrant.records)]
            rows.append([entrant.name, f"difference of {metric}", *found, analysis.reference, difference.p])
    if section.own:
        for name, cost in section.benchmark.costs.get("systems", {}).items():
            rows += [[name, quantity, value, "", "", "", "", "", ""] for quantity, value in cost.items()]
    return rows


def _plain(cell: Any) -> Any:
    return "" if isinstance(cell, float) and not math.isfinite(cell) else cell
