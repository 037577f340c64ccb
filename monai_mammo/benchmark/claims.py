"""The report in short: which system has the highest value, and what becomes of the papers' claims."""

from __future__ import annotations

import math

from monai_mammo.benchmark import papers
from monai_mammo.benchmark.analysis import Analysis, trained_once
from monai_mammo.benchmark.statistics import LEVEL, holm
from monai_mammo.benchmark.tables import cell, percent, points


def headline(analysis: Analysis) -> str:
    """The highest of the systems' values, which its own interval does not make the best system."""
    metric, ranked = analysis.headline, analysis.ranked()
    if not analysis.rankable:
        return f"{analysis.heading(metric)} is not defined on these images: systems are not ranked."
    first, best = ranked[0], analysis.estimate(ranked[0].name, metric)
    simple = [entrant for entrant in analysis.test.finished if entrant.baseline]
    beside = "; ".join(f"{e.title}: {percent(analysis.estimate(e.name, metric).value)}" for e in simple)
    name = analysis.heading(metric)
    if len(ranked) > 1:
        name = f"Highest of {len(ranked)} systems by {name}"
    value = cell(best, metric)
    luck = ", though it did not learn" if analysis.unlearnt(first) else ""
    return f"{name}: {first.title}, {value}{luck}{_unsure_lead(analysis)}{f' ({beside})' if beside else ''}."


def _unsure_lead(analysis: Analysis) -> str:
    """Of the first over the reference; where that is the first itself, or has not run, over the next."""
    first, *others = analysis.ranked()
    if not others:
        return ""
    rival = next((entrant for entrant in others if entrant.name == analysis.reference), others[0])
    compared = analysis.against(first.name if rival.name != analysis.reference else rival.name)
    p = next((p for entrant, _, p in compared if entrant.name in (first.name, rival.name)), math.nan)
    if once := trained_once(first, rival):
        sure = "established for these trainings alone" if p < LEVEL else "not established"
        return f"; its lead over {rival.title} is {sure} ({' and '.join(once)} trained once)"
    return "" if p < LEVEL else f"; its lead over {rival.title} is not established"


def claims(analysis: Analysis) -> list[str]:
    """Each comparison that the paper claims, with ours of the same two systems."""
    end, metric, printed = papers.COMPARED[analysis.task]
    reported = papers.REPORTED[analysis.task]
    rows = [(name, variant) for name in reported for variant in (name, f"{name}_common_loss") if name != end]
    compared = []
    for name, variant in rows:
        entrants = [analysis.entrant(variant), analysis.entrant(end)]
        printed_pair = [reported[name][printed], reported[end][printed]]
        if analysis.task == "segmentation":  # paper B claims that its system is above the others
            entrants, printed_pair = entrants[::-1], printed_pair[::-1]
        ours, other = entrants
        if ours is not None and other is not None:
            claimed = 100 * (printed_pair[0] - printed_pair[1])
            compared.append((ours, other, claimed, analysis.difference(ours.name, other.name, metric)))
    adjusted = holm([difference.p for *_, difference in compared])
    found = []
    for (ours, other, claimed, difference), p in zip(compared, adjusted, strict=True):
        verdict = "not established"
        if p < LEVEL:
            verdict = "established" if difference.value * claimed > 0 else "the opposite is established"
        if once := trained_once(ours, other):
            verdict += f" ({' and '.join(once)} trained once)"
        found.append(
            f"{ours.title} against {other.title}: the paper reports {claimed:+.1f} points of "
            f"{analysis.heading(metric).lower()}, here {points(difference)}: {verdict}."
        )
    return found
