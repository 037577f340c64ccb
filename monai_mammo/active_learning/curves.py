"""What replayed annotation shows: a metric against the number of labelled images, each strategy against random.

Written as CSV, JSON, PNG and Markdown. Not here: the rounds themselves (simulation).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import t as student

from monai_mammo.files import write_json
from monai_mammo.metrics import HEADINGS

BASELINE = "random"
GOAL = 0.7
"""A strategy is to reach random's last value with this share of random's labels."""

RESAMPLES = 2000

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """A strategy's runs on one scale of labelled images.

    Args:
        images: (G,) numbers of labelled images.
        values: (seeds, G) the metric, between two rounds by linear interpolation.
    """

    images: np.ndarray
    values: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """(seeds,) the mean height of each run's curve."""
        width = self.images[-1] - self.images[0]
        steps = np.diff(self.images)
        between = (self.values[:, 1:] + self.values[:, :-1]) / 2
        return (between * steps).sum(axis=1) / width if width else self.values[:, 0]

    def images_to_reach(self, level: float, seeds: np.ndarray | None = None) -> float:
        """Labelled images with which the mean curve first has a value of `level`; NaN if it never does."""
        mean = (self.values if seeds is None else self.values[seeds]).mean(axis=0)
        reached = np.flatnonzero(mean >= level)
        if not len(reached):
            return float("nan")
        last = int(reached[0])
        if last == 0:
            return float(self.images[0])
        rise = (level - mean[last - 1]) / (mean[last] - mean[last - 1])
        return float(self.images[last - 1] + rise * (self.images[last] - self.images[last - 1]))


def over_seeds(values: np.ndarray) -> dict[str, float | None]:
    """Mean (`value`) of (seeds,) values and its 95 % interval (`low`, `high`) by Student's t; one seed has none."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return {"value": _number(mean), "low": None, "high": None}
    half = float(student.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return {"value": _number(mean), "low": _number(mean - half), "high": _number(mean + half)}


def curves(records: Iterable[Record], metric: str) -> dict[str, Curve]:
    """Every strategy's curve, over those seeds and numbers of images that all of them have.

    A first round counts for every strategy of its seed.

    Args:
        records: of rounds, as `simulate` yields them.
        metric: one of the rounds' metrics; a round where it is undefined is left out.
    """
    records = [record for record in records if record["metrics"][metric] is not None]
    strategies = sorted({r["strategy"] for r in records} - {"start"}, key=lambda name: (name != BASELINE, name))
    runs: dict[tuple[str, int], dict[int, float]] = {}
    for record in records:
        for strategy in strategies if record["strategy"] == "start" else [record["strategy"]]:
            runs.setdefault((strategy, record["seed"]), {})[record["images"]] = record["metrics"][metric]
    seeds = [s for s in sorted({seed for _, seed in runs}) if all(len(runs.get((n, s), ())) > 1 for n in strategies)]
    if not seeds:
        return {}
    kept = [runs[name, seed] for name in strategies for seed in seeds]
    first, last = max(min(run) for run in kept), min(max(run) for run in kept)
    images = np.array(sorted({first, last, *(n for run in kept for n in run if first <= n <= last)}), dtype=float)
    return {
        name: Curve(images, np.stack([_interpolated(runs[name, seed], images) for seed in seeds]))
        for name in strategies
    }


def summary(found: Mapping[str, Curve], metric: str) -> dict[str, Any]:
    """What a simulation says, in numbers.

    For every strategy: the last value, the area under the curve (its mean height), both less random's of the same
    seed, and the labelled images with which its mean curve first reaches random's last value, with the share of
    random's labels that this is. Intervals are 95 %, over seeds: Student's t, and the bootstrap of seeds (the same
    for both curves) for the share.
    """
    base = found[BASELINE]
    seeds = len(base.values)
    level = float(base.values[:, -1].mean())
    result: dict[str, Any] = {
        "metric": metric,
        "seeds": seeds,
        "images": [float(base.images[0]), float(base.images[-1])],
        "level": level,
        "strategies": {},
    }
    for name, curve in found.items():
        share, low, high = _share(curve, base)
        result["strategies"][name] = {
            "last": over_seeds(curve.values[:, -1]),
            "area": over_seeds(curve.area),
            "last_less_random": over_seeds(curve.values[:, -1] - base.values[:, -1]),
            "area_less_random": over_seeds(curve.area - base.area),
            "images_to_reach_level": _number(curve.images_to_reach(level)),
            "share_of_random": {"value": _number(share), "low": _number(low), "high": _number(high)},
            "curve": [{"images": float(n), **over_seeds(curve.values[:, i])} for i, n in enumerate(curve.images)],
        }
    return result


def write_curves(records: Iterable[Record], metric: str, out: str | Path, about: str = "") -> dict[str, Any]:
    """Write `curve.csv` (every round), `curve.json` (the summary), `curve.png` and `curve.md`.

    Args:
        records: of rounds; `random` is among their strategies.
        metric: one of the rounds' metrics.
        out: folder.
        about: a line for the report on what was simulated.

    Returns:
        the summary; empty while no seed has two rounds of every strategy.
    """
    records, out = sorted(records, key=lambda r: (r["seed"], r["number"], r["strategy"])), Path(out)
    with (out / "curve.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["strategy", "seed", "round", "images", "patients", metric, "seconds"])
        for r in records:
            row = (r["strategy"], r["seed"], r["number"], r["images"], r["patients"], r["metrics"][metric])
            writer.writerow([*row, r["seconds"]])
    found = curves(records, metric)
    if not found:
        return {}
    result = summary(found, metric)
    write_json(out / "curve.json", result)
    _plot(result, out / "curve.png")
    (out / "curve.md").write_text(_report(result, about), encoding="utf-8")
    return result


def _interpolated(run: Mapping[int, float], images: np.ndarray) -> np.ndarray:
    numbers = sorted(run)
    return np.interp(images, numbers, [run[number] for number in numbers])


def _share(curve: Curve, base: Curve) -> tuple[float, float, float]:
    """Labels with which a curve reaches the baseline's last value, as a share of the baseline's, with an interval.

    A resample in which it never does counts as more than all.
    """

    def of(seeds: np.ndarray) -> float:
        needed = curve.images_to_reach(float(base.values[seeds, -1].mean()), seeds)
        return needed / float(base.images[-1])

    everyone = np.arange(len(base.values))
    value = of(everyone)
    if len(everyone) < 2:
        return value, float("nan"), float("nan")
    random = np.random.default_rng(0)
    samples = [of(random.choice(everyone, len(everyone))) for _ in range(RESAMPLES)]
    low, high = np.quantile(np.nan_to_num(samples, nan=np.inf), (0.025, 0.975), method="nearest")
    return value, float(low), float(high)


def _number(value: float) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return round(value, 6) if np.isfinite(value) else None


def _plot(result: Mapping[str, Any], file: Path) -> None:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, of in result["strategies"].items():
        images = [point["images"] for point in of["curve"]]
        colour = "black" if name == BASELINE else None
        style = "--" if name == BASELINE else "-"
        (line,) = axes.plot(images, [point["value"] for point in of["curve"]], style, color=colour, label=name)
        low, high = (np.array([point[end] for point in of["curve"]], dtype=float) for end in ("low", "high"))
        axes.fill_between(images, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.axhline(result["level"], color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("labelled images")
    axes.set_ylabel(f"{HEADINGS.get(result['metric'], result['metric'])}, held-out patients")
    axes.set_title(f"mean and 95 % interval over {result['seeds']} seed(s)", fontsize=10)
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    figure.savefig(file, dpi=150)


def _report(result: Mapping[str, Any], about: str) -> str:
    first, last = result["images"]
    lines = [
        "# Active learning, replayed",
        "",
        *([about, ""] if about else []),
        f"{HEADINGS.get(result['metric'], result['metric'])} on held-out patients, mean and 95 % interval over "
        f"{result['seeds']} seed(s), from {first:.0f} to {last:.0f} labelled images. Area: the mean height of the "
        "curve. The differences are to random with the same seed, hence the same first images.",
        "",
        "| strategy | last value | area | area less random | images to reach random's last value | share of random's |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in result["strategies"].items():
        needed = of["images_to_reach_level"]
        lines.append(
            f"| {name} | {_shown(of['last'])} | {_shown(of['area'])} | "
            f"{'' if name == BASELINE else _shown(of['area_less_random'])} | "
            f"{'never' if needed is None else f'{needed:.0f}'} | {_percent(of['share_of_random'])} |"
        )
    lines += ["", "![curve](curve.png)", "", *_verdicts(result), ""]
    return "\n".join(lines)


def _verdicts(result: Mapping[str, Any]) -> list[str]:
    """What may be concluded, and what may not."""
    lines = []
    for name, of in result["strategies"].items():
        if name == BASELINE:
            continue
        difference, share = of["area_less_random"], of["share_of_random"]["value"]
        if difference["low"] is None:
            sure = "one seed says nothing about chance"
        elif difference["low"] > 0:
            sure = "better than random beyond chance"
        elif difference["high"] < 0:
            sure = "worse than random beyond chance"
        else:
            sure = "no difference from random beyond chance"
        goal = "reached" if share is not None and share <= GOAL else "not reached"
        lines.append(f"- {name}: {sure} (area); {GOAL:.0%} of random's labels for its last value: {goal}.")
    own = result["strategies"].get(BASELINE, {}).get("share_of_random", {}).get("value")
    if own is not None and own < 1:
        lines.append(f"- {BASELINE} itself first has its last value at {own:.0%} of its labels: that much is chance.")
    return lines


def _shown(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    return f"{value:.4f}" + (f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else "")


def _percent(share: Mapping[str, float | None]) -> str:
    if share["value"] is None:
        return "more than all"
    value = _beside_goal(share["value"])
    if share["low"] is None:
        return value
    high = "more than all" if share["high"] is None else f"{share['high']:.0%}"
    return f"{value} ({share['low']:.0%} to {high})"


def _beside_goal(share: float) -> str:
    """A share in per cent, with as many decimals as show whether it has reached :data:`GOAL`."""
    decimals = next(n for n in range(5) if (round(share, n + 2) <= GOAL) == (share <= GOAL))
    return f"{share:.{decimals}%}"
