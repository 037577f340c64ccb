"""What a benchmark folder holds by now, finished or not: every system's results on every test. Read only."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_mammo.benchmark import baselines
from monai_mammo.benchmark.plan import OWN, PLAN, Plan, kept_datalist, read_plan
from monai_mammo.benchmark.runs import COSTS, PROBE, Run, baselines_of, runs_of
from monai_mammo.benchmark.systems import SYSTEMS
from monai_mammo.bootstrap import Record
from monai_mammo.dicom.errors import MammogramError

_NUMBERS = {
    "tp": int,
    "fp": int,
    "fn": int,
    "tn": int,
    "label": int,
    "lesions": int,
    "hd95": float,
    "hd95_mm": float,
    "probability": float,
}


@dataclass(frozen=True)
class Entrant:
    """A system or a baseline on one test."""

    name: str
    title: str
    records: dict[int, list[Record]] = field(repr=False)
    """By seed, every image's record in the datalist's order; a baseline has one, under 0."""
    folders: dict[int, Path] = field(repr=False)
    state: str
    """How many of the wanted runs there are, in words."""
    baseline: bool = False


@dataclass(frozen=True)
class Test:
    """One test of all systems: the entries tested on, and what came out."""

    name: str
    data: str
    section: str
    entries: list[dict[str, Any]] = field(repr=False)
    document: dict[str, Any] = field(repr=False)
    entrants: list[Entrant]
    trained: dict[str, Any] = field(repr=False, default_factory=dict)
    """The document of the datalist that was trained on; of the test `OWN` the same as `document`."""

    @property
    def finished(self) -> list[Entrant]:
        """Those with at least one result, systems before baselines."""
        return [entrant for entrant in self.entrants if entrant.records]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark folder."""

    out: Path
    plan: Plan
    runs: list[Run]
    tests: list[Test]
    costs: dict[str, Any]
    probe: dict[str, Any]


def find_benchmarks(folders: list[Path]) -> list[Path]:
    """The benchmark folders among the given ones and directly below them.

    Raises:
        MammogramError: one of them neither is a benchmark folder nor holds any.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        here = [folder] if (folder / PLAN).is_file() else sorted(file.parent for file in folder.glob(f"*/{PLAN}"))
        if not here:
            raise MammogramError(
                folder, "there is no benchmark in it", "Give a folder that `monai-mammo benchmark` wrote, or its parent"
            )
        found |= dict.fromkeys(here)
    return list(found)


def read_benchmark(out: Path) -> Benchmark:
    """Everything that a benchmark folder holds; what is not there is left out.

    Raises:
        MammogramError: the plan or a result is illegible, or a test's results are not of its datalist's entries.
    """
    plan = read_plan(out)
    runs = runs_of(out, plan)
    tests = [_test(out, plan, name, runs) for name in plan.tests if kept_datalist(out, name).is_file()]
    return Benchmark(out, plan, runs, tests, _json(out / COSTS), _json(out / PROBE))


def title(system: str) -> str:
    """What a report calls a system; one that is not trained with the bundle's loss says so."""
    if system not in SYSTEMS:
        return system
    own_loss = "loss" in SYSTEMS[system].changes
    return SYSTEMS[system].title + (" (its source's loss)" if own_loss else "")


def _test(out: Path, plan: Plan, name: str, runs: list[Run]) -> Test:
    document = _json(kept_datalist(out, name))
    section = plan.tests[name][1]
    entries = document[section]
    systems = [
        _entrant(
            system,
            title(system),
            [run for run in runs if run.system == system],
            name,
            entries,
        )
        for system in plan.systems
    ]
    simple = [
        _entrant(run.system, baselines.TITLES[run.system], [run], name, entries) for run in baselines_of(out, plan)
    ]
    trained = _json(kept_datalist(out, OWN))
    return Test(name, document.get("name") or name, section, entries, document, systems + simple, trained)


def _entrant(name: str, shown: str, runs: list[Run], test: str, entries: list[dict[str, Any]]) -> Entrant:
    done = [run for run in runs if test in run.record["tests"]]
    failed = [run for run in runs if run not in done and run.record["failed"]]
    state = f"{len(done)} of {len(runs)}" if done else "failed" if failed else "not run"
    return Entrant(
        name,
        shown,
        {run.seed or 0: read_records(run.tests(test), entries) for run in done},
        {run.seed or 0: run.folder for run in done},
        state + (f", {len(failed)} failed" if done and failed else ""),
        baseline=all(run.seed is None for run in runs),
    )


def read_records(folder: Path, entries: list[dict[str, Any]]) -> list[Record]:
    """Every image's record of one evaluation, which must be of the entries, in their order.

    Raises:
        MammogramError: the file is illegible, or its rows are others.
    """
    file = folder / "per_image.csv"
    try:
        with file.open(newline="") as handle:
            records = [_typed(row) for row in csv.DictReader(handle)]
    except (OSError, ValueError) as error:
        raise MammogramError(file, f"it is not legible ({error})", "Remove the run's run.json and run again") from error
    tested = [(record["image"], record["patient"]) for record in records]
    if tested != [(Path(entry["image"]).name, str(entry["patient"])) for entry in entries]:
        raise MammogramError(file, "its rows are not the datalist's entries", "Remove the run's run.json and run again")
    return records


def _typed(row: Mapping[str, str]) -> Record:
    record: Record = {name: _NUMBERS[name](value) if name in _NUMBERS else value for name, value in row.items()}
    if "candidates" in record:
        pairs = (mark.split(":") for mark in record["candidates"].split())
        record["candidates"] = [(float(probability), int(lesion)) for probability, lesion in pairs]
    return record


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}
