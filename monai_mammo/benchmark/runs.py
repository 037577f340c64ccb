"""One run on disk: where its files are, what it says of itself, its curves.

`<out>/<system>/seed_<n>` holds `config.yaml` (what differs from the bundle), `train.log`, `curves.csv`, `model.pt`,
`tests/<name>/` (metrics, every image's results, masks, log) and `run.json` (what is done, or why not). How a run comes
about is `work`'s.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from monai_mammo.benchmark.baselines import OF_TASK
from monai_mammo.benchmark.plan import Plan
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.files import replacing, write_json

RECORD, COSTS, PROBE = "run.json", "costs.json", "border_probe.json"


@dataclass(frozen=True)
class Run:
    """One training of one system, and its tests."""

    folder: Path
    system: str
    seed: int | None
    """None for a baseline, of which there is only one."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.system if self.seed is None else f"{self.system}, seed {self.seed}"

    def tests(self, name: str) -> Path:
        """The folder of one test's results."""
        return self.folder / "tests" / name

    @property
    def weights(self) -> Path:
        """The state dict of the best validation."""
        return self.folder / "model.pt"

    @property
    def record(self) -> dict[str, Any]:
        """What is done: `trained` (how), `tests` (by name), `failed` (why the last attempt ended)."""
        file = self.folder / RECORD
        known: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        return {"trained": None, "tests": {}, "failed": "", **known}

    def note(self, **what: Any) -> None:
        """Add to the record, which is written whole or not at all."""
        write_json(self.folder / RECORD, {**self.record, **what})

    @property
    def settings(self) -> dict[str, Any]:
        """What `config.yaml` says; empty where there is none."""
        file = self.folder / "config.yaml"
        known: dict[str, Any] = yaml.safe_load(file.read_text()) if file.is_file() else {}
        return known

    def configure(self, values: Mapping[str, Any]) -> None:
        """Write `config.yaml`.

        Raises:
            MammogramError: the folder holds a run with other values.
        """
        file = self.folder / "config.yaml"
        if file.is_file() and self.settings != values:
            raise MammogramError(
                file, "the run in this folder has another configuration", "Remove the folder to train again"
            )
        with replacing(file) as partial:
            partial.write_text(yaml.safe_dump(dict(values), sort_keys=False))


def runs_of(out: Path, plan: Plan) -> list[Run]:
    """Every run of a plan, seed by seed, so that each system has one before any has two."""
    return [Run(out / system / f"seed_{seed}", system, seed) for seed in plan.seeds for system in plan.systems]


def baselines_of(out: Path, plan: Plan) -> list[Run]:
    """The trivial baselines of a plan's task, on disk like runs."""
    return [Run(out / "baselines" / name, name, None) for name in OF_TASK[plan.task]]


def write_curves(state: Path, file: Path, epochs: int) -> int:
    """Write the training loss and every validation metric by epoch, from what TensorBoard was given.

    Args:
        state: folder of the event files, of one attempt or several.
        file: the CSV file; a column `epoch`, one `train_loss` (mean of the epoch), one a metric.
        epochs: of the whole training.

    Returns:
        the number of epochs with a training loss.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(state), size_guidance={"scalars": 0})
    events.Reload()
    steps: dict[str, dict[int, float]] = {
        tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]
    }
    losses = steps.pop("train_loss", {})
    per_epoch = max(1, math.ceil(max(losses, default=0) / max(1, epochs)))
    columns: dict[str, dict[int, list[float]]] = {"train_loss": {}}
    for step, value in losses.items():
        columns["train_loss"].setdefault(math.ceil(step / per_epoch), []).append(value)
    for tag, values in steps.items():
        columns[tag] = {epoch: [value] for epoch, value in values.items()}
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["epoch", *columns])
        for epoch in sorted({epoch for values in columns.values() for epoch in values}):
            row = [values.get(epoch, []) for values in columns.values()]
            writer.writerow([epoch, *(sum(some) / len(some) if some else "" for some in row)])
    return len(columns["train_loss"])


def device_name() -> str:
    """The GPU's or the processor's name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{models[0].split(':')[1].strip()}, {len(models)} cores" if models else "CPU"


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """The curves of a run that :func:`write_curves` wrote: by name, values by epoch; empty where there are none."""
    found: dict[str, dict[int, float]] = {}
    file = folder / "curves.csv"
    if file.is_file():
        with file.open(newline="") as handle:
            for row in csv.DictReader(handle):
                epoch = int(row.pop("epoch"))
                for name, value in row.items():
                    if value:
                        found.setdefault(name, {})[epoch] = float(value)
    return found
