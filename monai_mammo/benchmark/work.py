"""Train and test every system with every seed, each step a run of the bundle in a process of its own.

Whatever is done is not done again; whatever was killed goes on; a run that fails does not stop the others. No training
loop of its own: what is trained, and how, is the bundle's `configs/train.yaml` with a run's `config.yaml`.
"""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from monai_mammo.benchmark import baselines, costs
from monai_mammo.benchmark.children import Launch, cause, launch
from monai_mammo.benchmark.display import Display
from monai_mammo.benchmark.plan import OWN, Plan, settle
from monai_mammo.benchmark.runs import COSTS, PROBE, Run, baselines_of, device_name, runs_of, write_curves
from monai_mammo.bundles import config_of, find_bundle, running
from monai_mammo.datasets.border_probe import border_probe
from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.dicom.errors import MammogramError, cause_of
from monai_mammo.files import write_json
from monai_mammo.machine import available_cores
from monai_mammo.training import checkpoints_in, epoch_of, latest_checkpoint


def run_benchmark(
    out: Path,
    plan: Plan,
    *,
    bundles: Path | None = None,
    processes: int | None = None,
    at_once: int = 1,
    console: Console | None = None,
    start: Launch | None = None,
) -> dict[str, str]:
    """Do what is not done yet of a plan.

    Args:
        out: the benchmark's folder.
        plan: what is asked for; it is joined to what the folder holds.
        bundles: the folder that holds the bundles.
        processes: that train one network together; None for one a GPU. The batch is shared among them.
        at_once: trainings side by side; a GPU that one small network leaves idle trains several in the time of one.
        console: where progress is shown.
        start: runs a command line with its log; None for :func:`children.launch`.

    Returns:
        why each run that failed did, by its name; all others are done.

    Raises:
        MammogramError: the plan cannot be carried out in this folder at all.
    """
    console = console or Console()
    bundle = find_bundle(plan.task, bundles)
    with only_one(out, console):
        plan = settle(out, plan, bundle)
        runs, simple = runs_of(out, plan), baselines_of(out, plan)
        start = start or partial(launch, threads=max(1, available_cores() // at_once) if at_once > 1 else None)
        work = _Work(out, plan, bundle, processes or max(1, torch.cuda.device_count()), at_once, start)
        with Display(console, len(runs), work.epochs) as display:
            work.display = display
            failed = [run.name for run, done in zip(runs, work.side_by_side(runs), strict=True) if not done]
            failed += [run.name for run in simple if not work.attempt(run, work.baseline)]
            display.other("measuring what the systems cost")
            work.costs(runs)
            if plan.task == "quality":
                display.other("looking at the borders alone")
                work.probe()
    return {run.name: run.record["failed"] for run in [*runs, *simple] if run.name in failed}


@contextmanager
def only_one(out: Path, console: Console) -> Iterator[None]:
    """Hold the folder's lock: two benchmarks at work in one folder would write over each other."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"another benchmark is at work in {out}: waiting for it to end", soft_wrap=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Work:
    """How runs are carried out."""

    display: Display

    def __init__(self, out: Path, plan: Plan, bundle: Path, processes: int, at_once: int, start: Launch) -> None:
        self.out, self.plan, self.bundle, self.processes, self.start = out, plan, bundle, processes, start
        self.at_once, self.interrupted = at_once, threading.Event()
        self.bundle_values = config_of(bundle, "train.yaml", "evaluate.yaml")
        self.epochs = int(plan.values.get("epochs", self.bundle_values["epochs"]))

    def side_by_side(self, runs: Sequence[Run]) -> list[bool]:
        """Train and test the systems, `at_once` of them at a time; whether each is done."""
        if self.at_once == 1:
            return [self.attempt(run, self.system) for run in runs]
        with ThreadPoolExecutor(self.at_once) as pool:
            attempts = [pool.submit(self.attempt, run, self.system) for run in runs]
            try:
                return [attempt.result() for attempt in attempts]
            except BaseException:
                self.interrupted.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def attempt(self, run: Run, carry_out: Callable[[Run], None]) -> bool:
        """Carry a run out; if that fails, note why and let the others go on."""
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            carry_out(run)
        except (MammogramError, OSError, RuntimeError, ValueError, KeyError) as error:
            reason = str(cause_of(error))
            run.note(failed=reason)
            self.display.failed(run.name, reason)
            return False
        run.note(failed="")
        self.display.finished(run.name)
        return True

    def system(self, run: Run) -> None:
        """Train and test as far as that is not done."""
        assert run.seed is not None
        values = self.plan.config(run.system, run.seed)
        run.configure(values)
        if not run.record["trained"]:
            self._train(run, values)
        self._tests(run)

    def baseline(self, run: Run) -> None:
        """Make a trivial baseline and test it like a system."""
        if self.plan.task == "quality":
            self._border_rule(run)
            return
        run.configure({**baselines.constant_mask_config(), "mode": self.plan.mode, **_plain(self.plan.values)})
        if not run.weights.is_file():
            self.display.other(f"{run.name}: reading the training masks")
            config = [self.bundle / "configs" / "train.yaml", run.folder / "config.yaml"]
            values = {"bundle_root": str(self.bundle), "dataset_dir": str(self.plan.training_data.resolve())}
            baselines.fit_constant_mask(run.system, config, values, run.weights)
        self._tests(run)

    def costs(self, runs: list[Run]) -> None:
        """Measure all systems that have weights together, anew whenever one has joined them."""
        trained = {run.system: run for run in reversed(runs) if run.record["trained"] and run.weights.is_file()}
        file = self.out / COSTS
        known = json.loads(file.read_text())["systems"] if file.is_file() else {}
        if not set(trained) <= set(known):
            values = {name: self.plan.config(name, run.seed or 0) for name, run in trained.items()}
            measured = {name: (trained[name], values[name]) for name in self.plan.systems if name in trained}
            try:
                write_json(file, costs.measure(self.bundle, measured))
            except RuntimeError as error:  # too little memory, say: the results stand without it
                self.display.failed("costs", str(error))

    def probe(self) -> None:
        """Let classifiers that see borders only try the data."""
        file = self.out / PROBE
        if file.is_file():
            return
        try:
            results = [asdict(result) for result in border_probe(self.plan.training_data)]
        except MammogramError as error:
            write_json(file, {"not_run": error.reason, "results": []})
            return
        write_json(file, {"not_run": "", "results": results})

    def _train(self, run: Run, values: Mapping[str, Any]) -> None:
        state, log = run.folder / "training", run.folder / "train.log"
        self.display.now(run.name, "training", lambda: epoch_of(latest_checkpoint(state)))
        self._call(run, self._training(run, state, values), log)
        if not run.weights.is_file():
            raise _failure(log, "no validation gave a result, so there are no weights")
        epochs = write_curves(state, run.folder / "curves.csv", self.epochs)
        about = {"processes": self.processes, "torch": torch.__version__, "device": device_name()}
        run.note(trained={"epochs": epochs, **about})
        for checkpoint in checkpoints_in(state):  # three times the weights, and of no more use
            checkpoint.unlink()

    def _tests(self, run: Run) -> None:
        for test, (data, section) in self.plan.tests.items():
            if test in run.record["tests"]:
                continue
            folder = run.tests(test)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.display.now(run.name, "testing" if test == OWN else f"testing on {test}", lambda: self.epochs)
            values = {
                "dataset_dir": data.resolve(),
                "section": section,
                "output_dir": folder,
                "weights": run.weights,
                "paths": False,  # records are published, and a hospital's folders may tell of patients
            }
            masks = {"masks": test == OWN} if self.plan.task == "segmentation" else {}
            command = self._command(run, "evaluating", ["train.yaml", "evaluate.yaml"], values | masks)
            self._call(run, command, folder / "test.log")
            self._tested(run, test)

    def _border_rule(self, run: Run) -> None:
        missing = {test: place for test, place in self.plan.tests.items() if test not in run.record["tests"]}
        if not missing:
            return
        self.display.other(f"{run.name}: outlining the breasts")
        training = load_datalist(self.plan.training_data, "training")
        tests = {run.tests(test): load_datalist(*place) for test, place in missing.items()}
        baselines.border_rule(training, tests)
        for test in missing:
            self._tested(run, test)

    def _tested(self, run: Run, test: str) -> None:
        images = json.loads((run.tests(test) / "metrics.json").read_text())["images"]
        run.note(tests={**run.record["tests"], test: {"images": images, "section": self.plan.tests[test][1]}})

    def _training(self, run: Run, state: Path, config: Mapping[str, Any]) -> list[str]:
        values: dict[str, Any] = {
            "dataset_dir": self.plan.training_data.resolve(),
            "ckpt_dir": run.folder,
            "weights": run.weights,
            "output_dir": state,
            "resume": True,
        }
        if self.processes == 1:
            return self._command(run, "training", ["train.yaml"], values)
        batch = int(config.get("batch_size", self.bundle_values["batch_size"]))
        values["batch_size"] = math.ceil(batch / self.processes)  # of each process: together as many as alone
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        return self._command(run, "training", ["train.yaml", "multi_gpu_train.yaml"], values, torchrun)

    def _command(
        self, run: Run, entry: str, configs: list[str], values: Mapping[str, Any], under: Sequence[str] = ()
    ) -> list[str]:
        own = (run.folder / "config.yaml").resolve()
        return [sys.executable, *under, *running(self.bundle, entry, [*configs, own], values)]

    def _call(self, run: Run, command: list[str], log: Path) -> None:
        def tick() -> None:
            if self.interrupted.is_set():  # the one who was asked to stop is another thread
                raise KeyboardInterrupt
            self.display.tick(run.name)

        status = self.start(command, log, tick)
        if status != 0:
            raise _failure(log, f"exit status {status}: {cause(log)}")


def _failure(log: Path, reason: str) -> MammogramError:
    return MammogramError(log, reason, "Run the same command again: it goes on where it stopped")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not of the network, which a baseline has not."""
    return {name: value for name, value in values.items() if not name.startswith("network_def")}
