"""Annotation replayed on labelled data: rounds of labelling and training, for several strategies and seeds.

Finished rounds are files, so a killed simulation goes on where it was. Not here: what happens in a round (replay), and
what the rounds show (curves).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from monai_mammo.active_learning.replay import Pool, Replay, Round, Setup
from monai_mammo.active_learning.selection import STRATEGIES
from monai_mammo.bundles import config_of, refuse_unknown
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.files import sha256, write_json
from monai_mammo.machine import available_cores

_replay: Replay | None = None
"""Of a worker process: the decoded images that its rounds share."""


def simulate(
    setup: Setup,
    out: str | Path,
    strategies: Sequence[str] = STRATEGIES,
    seeds: int = 5,
    rounds: int = 6,
    processes: int = 1,
) -> Iterator[dict[str, Any]]:
    """Replay annotation.

    Each finished round is a file in `out/rounds`, written whole or not at all: run again after a kill, or with more
    seeds, rounds or strategies, it computes only what is missing. Strategies of one seed share their first images
    and the random numbers of each round, so that they can be compared in pairs. A setup gives the same rounds in
    whichever order they are computed (on one machine; another's arithmetic differs in the last digits).

    Args:
        setup: what all rounds have in common.
        out: folder for results.
        strategies: some of `STRATEGIES`.
        seeds: runs of each strategy.
        rounds: trainings of each run, the first one included.
        processes: worker processes, each with its own decoded images; 0 computes in this one.

    Yields:
        the record of every round, whether it was finished before or is now: what :class:`Round` says, `images` and
        `patients` (how many are labelled), `metrics`, `next` (what each strategy chooses), `seconds`.

    Raises:
        MammogramError: the bundle, an image or the datalist cannot be used, the bundle has no such value, or `out`
            holds results of another setup.
    """
    refuse_unknown(setup.overrides, config_of(Path(setup.bundle), "train.yaml", "evaluate.yaml"))
    pool = Pool(setup.dataset_dir)
    folder = Path(out) / "rounds"
    folder.mkdir(parents=True, exist_ok=True)
    _claim(Path(out), setup)
    with ExitStack() as stack:
        submit = _submitter(setup, Path(out), processes, stack)
        waiting = [
            Round("start", seed, 0, tuple(pool.choose("random", setup.start, seed=seed))) for seed in range(seeds)
        ]
        running: dict[Future[dict[str, Any]], Round] = {}
        while waiting or running:
            running |= {submit(_round, setup, task, folder): task for task in waiting}
            waiting = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                record, task = future.result(), running.pop(future)
                yield record
                waiting += _following(task, record, strategies if task.number == 0 else (task.strategy,), rounds)


def total_rounds(strategies: int, seeds: int, rounds: int) -> int:
    """How many rounds a simulation has; fewer if it runs out of images."""
    return seeds * (1 + strategies * (rounds - 1))


def in_words(setup: Setup) -> str:
    """A setup as a sentence of a report."""
    values = ", ".join(f"{key} {value}" for key, value in setup.overrides.items()) or "the config's values"
    origin = "scratch" if setup.initial_weights is None else Path(setup.initial_weights).name
    if setup.warm_start:
        origin = f"the former round's weights, the first from {origin},"
    kept = "their last weights" if setup.validations == 1 else f"the best of {setup.validations} validations"
    return (
        f"{Path(setup.bundle).name} ({values}), trained from {origin} in every round: {setup.steps} steps, {kept}. "
        f"At least {setup.start} images at the start, {setup.add} more in each round, "
        "whole patients at a time. The labels of the validation section, the same for all, are not counted."
    )


def _following(task: Round, record: Mapping[str, Any], strategies: Sequence[str], rounds: int) -> Iterator[Round]:
    for strategy in strategies:
        if task.number + 1 < rounds and record["next"][strategy]:
            yield Round(strategy, task.seed, task.number + 1, (*task.labelled, *record["next"][strategy]))


def _claim(out: Path, setup: Setup) -> None:
    """Make a folder of results one of this setup.

    Raises:
        MammogramError: it is one of another.
    """
    file = out / "setup.json"
    digests = {"datalist": sha256(Path(setup.dataset_dir) / "dataset.json")}
    if setup.initial_weights is not None:
        digests["initial_weights_sha256"] = sha256(setup.initial_weights)
    wanted = json.loads(json.dumps({**asdict(setup), **digests}))
    if not file.exists():
        write_json(file, wanted)
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    other = [
        f"{key} is {found.get(key)!r} there, {value!r} here"
        for key, value in wanted.items()
        if (key in found or key not in digests)  # an earlier version's folder has fewer of them
        and _meant(key, found.get(key)) != _meant(key, value)
    ]
    if other:
        raise MammogramError(
            out,
            f"it holds a simulation of another setup ({'; '.join(other)})",
            "Give another folder, or the same setup",
        )


def _meant(key: str, value: Any) -> Any:
    """A value to compare: one path can be written in several ways."""
    return Path(value).resolve() if key in ("dataset_dir", "bundle", "initial_weights") and value else value


Submit = Callable[..., "Future[dict[str, Any]]"]


def _submitter(setup: Setup, out: Path, processes: int, stack: ExitStack) -> Submit:
    if processes == 0:
        _prepare_worker(setup)
        return _at_once
    executor: Executor = ProcessPoolExecutor(
        processes, get_context("spawn"), _start_worker, (setup, str(out / "log.txt"), processes)
    )
    stack.callback(executor.shutdown, cancel_futures=True)
    return executor.submit


def _at_once(function: Callable[..., dict[str, Any]], *arguments: Any) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    future.set_result(function(*arguments))
    return future


def _prepare_worker(setup: Setup) -> None:
    global _replay
    _replay = Replay(setup)


def _start_worker(setup: Setup, log: str, processes: int) -> None:
    """What the libraries print of each of a hundred trainings goes to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(max(1, available_cores() // processes))
    _prepare_worker(setup)


def _round(setup: Setup, task: Round, folder: Path) -> dict[str, Any]:
    """A round's record: read if it is finished, computed if not."""
    file = folder / f"{task.name}.json"
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    assert _replay is not None
    weights, former = folder / f"{task.name}.pt", folder / f"{_former_name(task)}.pt"
    record = _replay.run(task, weights, former if task.number else None)
    write_json(file, record)
    if not setup.warm_start:
        weights.unlink()
    return record


def _former_name(task: Round) -> str:
    return Round("start" if task.number == 1 else task.strategy, task.seed, task.number - 1, ()).name
