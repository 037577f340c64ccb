"""The report's figures, as SVG: drawn with matplotlib from what the analysis gives, no numbers of their own.

Colours are told apart by colour-blind readers and on dark and light pages; ink and paper are the page's.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from monai_mammo.benchmark import statistics
from monai_mammo.benchmark.analysis import Analysis, calibration_error, labels_and_probabilities
from monai_mammo.benchmark.page import INK, PAPER
from monai_mammo.benchmark.results import Entrant
from monai_mammo.benchmark.runs import read_curves

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LINES = ("-", "--", ":", "-.")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "monai_mammo",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_PANEL, _PANEL_TITLE = 2.3, 9.5
"""Width of a confusion matrix in inches, and the size of its title in points."""
_KEY = 4
"""What a legend's line has beside its words, in sizes of its letters."""
_FALSE_MARKS = np.linspace(0, 6, 121)


def look(entrants: Sequence[Entrant]) -> dict[str, dict[str, Any]]:
    """One colour and line for each entrant, the same in every figure; baselines are grey."""
    found: dict[str, dict[str, Any]] = {}
    for number, entrant in enumerate(entry for entry in entrants if not entry.baseline):
        line = _LINES[number // len(_COLOURS) % len(_LINES)]
        found[entrant.name] = {"color": _COLOURS[number % len(_COLOURS)], "linestyle": line}
    for number, entrant in enumerate(entry for entry in entrants if entry.baseline):
        found[entrant.name] = {"color": "#888888", "linestyle": (":", "-.")[number % 2]}
    return found


def forest(analysis: Analysis, metric: str, label: str) -> bytes:
    """Every entrant's metric with its interval, and every seed as a dot."""
    entrants = [*analysis.ranked(), *(entry for entry in analysis.test.finished if entry.baseline)]
    looks = look(analysis.test.entrants)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, entrant in enumerate(entrants):
            estimate, colour = analysis.estimate(entrant.name, metric), looks[entrant.name]["color"]
            axes.plot([100 * estimate.low, 100 * estimate.high], [row, row], color=colour, lw=2.5, alpha=0.55)
            axes.plot([100 * estimate.value], [row], "D", color=colour, ms=7)
            seeds = [100 * metrics.get(metric, np.nan) for metrics in analysis.metrics[entrant.name].values()]
            if len(seeds) > 1:
                axes.plot(seeds, [row + 0.22] * len(seeds), ".", color=colour, ms=5, alpha=0.8)
        axes.set_yticks(range(len(entrants)), [entrant.title for entrant in entrants])
        axes.invert_yaxis()
        axes.set_xlabel(f"{label} (%)")
        axes.grid(axis="x")

    return _svg(draw, 8.6, 1.0 + 0.42 * len(entrants))


def curves(entrants: Sequence[Entrant], metric: str, label: str) -> bytes | None:
    """Training loss and the validation metric by epoch: the mean of the seeds, and each seed thinly."""
    looks = look(entrants)
    histories = [
        (entrant, [read_curves(folder) for folder in entrant.folders.values()])
        for entrant in entrants
        if not entrant.baseline and entrant.folders
    ]
    if not any(any(tables) for _, tables in histories):
        return None

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        for axes, name, words in zip(panels, ("train_loss", metric), ("training loss", label), strict=True):
            for entrant, tables in histories:
                _history(axes, [table[name] for table in tables if name in table], entrant.title, looks[entrant.name])
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_title(words, loc="left")
            axes.grid()
        _legend(figure, panels[0])

    return _svg(draw, 9.6, 3.7)


def confusion(analysis: Analysis) -> bytes:
    """Mean counts over the seeds, each cell as dark as its share of its true class."""
    entrants = analysis.test.finished
    columns = min(5, len(entrants))
    rows = -(-len(entrants) // columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        lines = 1
        for axes, entrant in zip(grid, entrants, strict=False):
            counts = analysis.confusion(entrant.name)
            table = [
                [counts["true_negative"], counts["false_positive"]],
                [counts["false_negative"], counts["true_positive"]],
            ]
            title = _wrapped(figure, entrant.title, 0.8 * _PANEL, _PANEL_TITLE)  # beside it stand the rows' names
            _matrix(axes, table, title)
            lines = max(lines, title.count("\n") + 1)
        for axes in grid[len(entrants) :]:
            axes.set_axis_off()
        figure.set_figheight(figure.get_figheight() + rows * (lines - 1) * 1.3 * _PANEL_TITLE / 72)

    return _svg(draw, _PANEL * columns, 2.6 * rows)


def roc_and_calibration(analysis: Analysis) -> bytes:
    """ROC curves (the mean of the seeds'), and the observed share of incomplete images against the predicted one."""
    looks = look(analysis.test.entrants)

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for entrant in analysis.test.finished:
            area = analysis.estimate(entrant.name, "auc_incomplete").value
            title = f"{entrant.title} (AUC {100 * area:.1f} %, calibration error {calibration_error(entrant):.3f})"
            _roc(left, entrant, {**looks[entrant.name], "label": title})
            _calibration(right, entrant, looks[entrant.name])
        _square(left, "complete ones taken for incomplete", "incomplete ones found", "ROC curve")
        _square(right, "predicted probability of incomplete", "observed share", "Calibration")
        _legend(figure, left)

    return _svg(draw, 9.6, 4.9)


def froc(analysis: Analysis) -> bytes:
    """Free-response curves of whole images: the mean of the seeds' curves."""
    looks = look(analysis.test.entrants)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for entrant in analysis.test.finished:
            found = [statistics.sensitivity_at(records, list(_FALSE_MARKS)) for records in entrant.records.values()]
            axes.plot(_FALSE_MARKS, np.mean(found, axis=0), lw=1.8, label=entrant.title, **looks[entrant.name])
        axes.set(xlim=(0, 6), ylim=(0, 1.02), xlabel="false marks per image (mean)", ylabel="lesions found")
        axes.grid()
        _legend(figure, axes)

    return _svg(draw, 6.4, 4.2)


def _svg(draw: Callable[[Figure], None], width: float, height: float) -> bytes:
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _history(axes: Axes, seeds: Sequence[Mapping[int, float]], title: str, style: Mapping[str, Any]) -> None:
    for values in seeds if len(seeds) > 1 else []:
        axes.plot(list(values), list(values.values()), lw=0.7, alpha=0.35, **style)
    epochs = sorted({epoch for values in seeds for epoch in values})
    mean = [np.mean([values[epoch] for values in seeds if epoch in values]) for epoch in epochs]
    axes.plot(epochs, mean, lw=1.8, label=title, marker="." if len(epochs) < 3 else None, **style)


def _legend(figure: Figure, axes: Axes) -> None:
    """Name the lines below the plots, in as many columns (three at most) as the width holds; the figure grows by it."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    room, size = 0.96 * figure.get_figwidth(), float(matplotlib.rcParams["legend.fontsize"])
    handles, labels = axes.get_legend_handles_labels()
    labels = [_wrapped(figure, label, room - _KEY * size / 72, size) for label in labels]
    for columns in (3, 2, 1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        extent = legend.get_window_extent(renderer)
        if columns == 1 or extent.width / figure.dpi <= room:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)


def _wrapped(figure: Figure, text: str, width: float, size: float) -> str:
    """Text of a size in points, broken into lines that are no wider than `width` in inches."""
    renderer = FigureCanvasAgg(figure).get_renderer()

    def measured(line: str) -> float:
        return renderer.get_text_width_height_descent(line, FontProperties(size=size), False)[0] / figure.dpi

    for characters in range(len(text), 1, -1):
        lines = textwrap.wrap(text, characters, break_on_hyphens=False)
        if all(measured(line) <= width for line in lines):
            return "\n".join(lines)
    return text


def _matrix(axes: Axes, table: Sequence[Sequence[float]], title: str) -> None:
    for row, counts in enumerate(table):
        for column, count in enumerate(counts):
            share = count / max(1e-9, sum(counts))
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=_COLOURS[0], alpha=0.08 + 0.6 * share, lw=0))
            axes.text(
                column + 0.5, row + 0.45, f"{count:g}" if count == int(count) else f"{count:.1f}", ha="center", size=13
            )
            axes.text(column + 0.5, row + 0.72, f"{share:.0%}", ha="center", size=8)
    axes.set(xlim=(0, 2), ylim=(2, 0), aspect="equal", xlabel="verdict", ylabel="truth")
    axes.set_xticks([0.5, 1.5], ["complete", "incomplete"])
    axes.set_yticks([0.5, 1.5], ["complete", "incomplete"], rotation=90, va="center")
    axes.tick_params(length=0)
    axes.set_title(title, size=_PANEL_TITLE)


def _roc(axes: Axes, entrant: Entrant, style: Mapping[str, Any]) -> None:
    grid = np.linspace(0, 1, 201)
    found = [roc_curve(*labels_and_probabilities(records)) for records in entrant.records.values()]
    mean = np.mean([_step(grid, false, true) for false, true, _ in found], axis=0)
    axes.plot(grid, mean, lw=1.8, **style)


def _calibration(axes: Axes, entrant: Entrant, style: Mapping[str, Any]) -> None:
    records = [record for some in entrant.records.values() for record in some]
    label, probability = labels_and_probabilities(records)
    bins = int(np.clip(len(label) // 20, 2, 10))  # fewer say nothing
    seen, predicted = calibration_curve(label, probability, n_bins=bins, strategy="quantile")
    axes.plot(predicted, seen, marker="o", ms=4, lw=1.5, **style)


def _square(axes: Axes, across: str, up: str, title: str) -> None:
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.3, lw=1)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=across, ylabel=up, aspect="equal")
    axes.set_title(title, loc="left")
    axes.grid()


def _step(grid: np.ndarray, false: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The highest true positive rate at each false positive rate: a ROC curve is a staircase."""
    return np.array([true[false <= rate + 1e-12].max() for rate in grid])
