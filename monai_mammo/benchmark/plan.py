"""What one benchmark folder compares: which systems on which data, by which protocol, with which values.

Kept in the folder's `benchmark.json`, beside copies of the datalists, so that a folder explains itself. Nothing is run
here, and how a network is trained stands in the bundle's config alone.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from monai_mammo.benchmark.systems import SYSTEMS
from monai_mammo.bundles import config_of, refuse_unknown
from monai_mammo.datasets.datalist import Task, load_datalist
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.files import replacing, write_json

PLAN = "benchmark.json"
OWN = "test"
"""Name of the test on the data set's own held-out side."""

_FIXED = {
    "task": "task",
    "mode": "mode",
    "protocol": "protocol",
    "compact": "size of the networks",
    "values": "values of the configuration",
}
"""What every run of a folder shares, in words; systems, seeds and further test data may be added later."""


@dataclass(frozen=True)
class Plan:
    """One benchmark.

    Args:
        task: "quality" or "segmentation".
        systems: names of `systems.SYSTEMS`; the first is what the others are compared with.
        seeds: one training of every system for each.
        data: a folder that `monai-mammo prepare` wrote.
        protocol: "patient", or "paper" (the papers' own split, which leaks).
        mode: of the segmentation: "roi" (a crop around one lesion) or "whole".
        compact: networks that a CPU can train, or those of the published width.
        values: of the bundle's config, by id, for every system: `{"epochs": 20}`.
        test_data: further prepared folders, by a name, whose test sections are tested on as well.
    """

    task: Task
    systems: tuple[str, ...]
    seeds: tuple[int, ...]
    data: str
    protocol: Literal["patient", "paper"] = "patient"
    mode: Literal["roi", "whole"] = "roi"
    compact: bool = True
    values: Mapping[str, Any] = field(default_factory=dict)
    test_data: Mapping[str, str] = field(default_factory=dict)

    @property
    def datalist(self) -> str:
        """Name of the datalist's folder."""
        name = "quality" if self.task == "quality" else f"segmentation_{self.mode}"
        return name if self.protocol == "patient" else f"{self.task}_paper"

    @property
    def training_data(self) -> Path:
        """Folder of the datalist that is trained on."""
        return Path(self.data) / self.datalist

    @property
    def tests(self) -> dict[str, tuple[Path, str]]:
        """By name, the folder of the datalist and the section that is tested on.

        The papers' protocol holds out one part for choosing the epoch and for testing alike.
        """
        own = "test" if self.protocol == "patient" else "validation"
        further = {name: (Path(folder) / self._patient_list, "test") for name, folder in self.test_data.items()}
        return {OWN: (self.training_data, own), **further}

    @property
    def _patient_list(self) -> str:
        return replace(self, protocol="patient").datalist

    def config(self, system: str, seed: int) -> dict[str, Any]:
        """The values, by id, that turn the bundle's config into this system's with this seed."""
        shared = {"mode": self.mode} if self.task == "segmentation" else {}
        return {**SYSTEMS[system].overrides(self.compact), **shared, **self.values, "seed": seed}


def by_name(folders: Sequence[Path]) -> dict[str, str]:
    """Further prepared folders as a plan's `test_data`: each under its folder's own name.

    Raises:
        MammogramError: two have one name, so that the results of one would take the other's place.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if named.setdefault(name, folder).resolve() != folder.resolve():
            raise MammogramError(folder, f"it has the name of {named[name]}", "Rename one's folder")
    return {name: str(folder) for name, folder in named.items()}


def settle(out: Path, plan: Plan, bundle: Path) -> Plan:
    """Check a plan, join it to what the folder already holds, and write it down.

    Args:
        out: the benchmark's folder; made if it does not exist.
        plan: what is asked for now.
        bundle: the task's bundle.

    Returns:
        the joint plan: systems, seeds and test data of both, each once.

    Raises:
        MammogramError: a system or value is unknown, a datalist is unusable or has changed, further test data hold
            patients that are trained on, or the folder holds runs of another task, protocol or configuration.
    """
    _refuse_impossible(plan, bundle)
    known = read_plan(out) if (out / PLAN).is_file() else plan
    _refuse_other(out, known, plan)
    plan = replace(
        plan,
        systems=tuple(dict.fromkeys((*known.systems, *plan.systems))),
        seeds=tuple(dict.fromkeys((*known.seeds, *plan.seeds))),
        test_data={**known.test_data, **plan.test_data},
    )
    for folder, section in plan.tests.values():
        load_datalist(folder, section)
    _refuse_trained_on(plan)
    out.mkdir(parents=True, exist_ok=True)
    for name, (folder, _) in plan.tests.items():
        _keep_datalist(out, name, folder / "dataset.json")
    write_json(out / PLAN, asdict(plan))
    return plan


def read_plan(out: Path) -> Plan:
    """The plan of a benchmark folder.

    Raises:
        MammogramError: it holds none, or an illegible one.
    """
    file = out / PLAN
    try:
        document = json.loads(file.read_text())
        return Plan(**{**document, "systems": tuple(document["systems"]), "seeds": tuple(document["seeds"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MammogramError(
            file, f"no benchmark is described there ({error})", "Give a folder that `monai-mammo benchmark` wrote"
        ) from error


def kept_datalist(out: Path, test: str) -> Path:
    """The copy of a test's datalist in the benchmark folder."""
    return out / "datalists" / f"{test}.json"


def shared_patients(trained: Mapping[str, Any], tested: Mapping[str, Any], section: str) -> set[str] | None:
    """The patients of a test who were trained on or chose an epoch.

    Args:
        trained: document of the datalist that is trained on.
        tested: document of the datalist that is tested on.
        section: of the latter, what is tested on.

    Returns:
        None where the two bear the names of two data sets: what they call a patient cannot be compared.
    """
    if _source(trained) != _source(tested):
        return None

    def patients(document: Mapping[str, Any], name: str) -> set[str]:
        return {str(entry["patient"]) for entry in document.get(name) or [] if "patient" in entry}

    seen = set().union(*(patients(trained, name) for name in ("training", "validation", "originals")))
    return seen & patients(tested, section)


def _source(document: Mapping[str, Any]) -> str:
    """A data set's name without the number of samples that `prepare` adds to it."""
    return str(document.get("name") or "").split(", ")[0]


def _refuse_trained_on(plan: Plan) -> None:
    documents = {name: json.loads((folder / "dataset.json").read_text()) for name, (folder, _) in plan.tests.items()}
    for name, (folder, section) in plan.tests.items():
        shared = None if name == OWN else shared_patients(documents[OWN], documents[name], section)
        if shared:
            some = ", ".join(sorted(shared)[:3])
            raise MammogramError(
                folder / "dataset.json",
                f"{len(shared)} of its test patients are trained on or choose the epoch (such as {some})",
                "Prepare both with the same --seed; a different data set needs a different name",
            )


def _refuse_impossible(plan: Plan, bundle: Path) -> None:
    of_task = [name for name, system in SYSTEMS.items() if system.task == plan.task]
    for name in plan.systems:
        if name not in of_task:
            raise MammogramError(name, f"it is no system for {plan.task}", f"Choose among: {', '.join(of_task)}")
    if not plan.systems or not plan.seeds:
        raise MammogramError(plan.task, "there is nothing to compare", "Name at least one system and one seed")
    if plan.protocol == "paper" and plan.mode == "whole":
        raise MammogramError("paper", "the paper's protocol has crops only", "Use --mode roi")
    if OWN in plan.test_data:
        raise MammogramError(plan.test_data[OWN], f"a folder named {OWN} stands for the data's own", "Rename it")
    refuse_unknown(plan.values, config_of(bundle, "train.yaml", "evaluate.yaml"))


def _refuse_other(out: Path, known: Plan, asked: Plan) -> None:
    differing = [
        f"{words}: {getattr(known, name)} there, {getattr(asked, name)} now"
        for name, words in _FIXED.items()
        if getattr(known, name) != getattr(asked, name)
    ]
    if differing:
        raise MammogramError(
            out / PLAN,
            "it was begun otherwise (" + "; ".join(differing) + ")",
            "Give another --out, or the same values",
        )


def _keep_datalist(out: Path, name: str, file: Path) -> None:
    """Copy a datalist into the folder; refuse one that is no longer the one of the runs before."""
    kept = kept_datalist(out, name)
    if kept.is_file() and _digest(kept) != _digest(file):
        raise MammogramError(
            file, f"it is no longer the datalist of the runs in {out.name}", "Restore it, or give another --out"
        )
    with replacing(kept) as partial:
        partial.write_bytes(file.read_bytes())


def without_folders(datalist: Mapping[str, Any]) -> dict[str, Any]:
    """A datalist's document with the names of its files alone: the same wherever the data lie."""
    return {
        key: [
            {**entry, **{k: Path(entry[k]).name for k in ("image", "label") if isinstance(entry.get(k), str)}}
            for entry in value
        ]
        if isinstance(value, list)
        else value
        for key, value in datalist.items()
    }


def _digest(file: Path) -> str:
    known = json.dumps(without_folders(json.loads(file.read_text())), sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()


def command(plan: Plan, out: str) -> str:
    """The command line that repeats a benchmark; where paths outside the current folder lie is left to the reader."""

    def shown(path: str) -> str:
        return shlex.quote(f"/path/to/{Path(path).name}" if Path(path).is_absolute() else path)

    parts: Sequence[str] = [
        f"monai-mammo benchmark {plan.task} --data {shown(plan.data)}",
        f"--systems {','.join(plan.systems)} --seeds {','.join(map(str, plan.seeds))}",
        f"--protocol {plan.protocol}" + (f" --mode {plan.mode}" if plan.task == "segmentation" else ""),
        "--compact" if plan.compact else "--full",
        *(
            f"--epochs {value}" if name == "epochs" else "--set " + shlex.quote(f"{name}={json.dumps(value)}")
            for name, value in plan.values.items()
        ),
        *(f"--test-data {shown(folder)}" for folder in plan.test_data.values()),
        f"--out {shown(out)}",
    ]
    return " \\\n    ".join(parts)
