"""What a system costs: parameters, multiplications, latency and throughput, all systems measured in one run.

The systems take turns, so that whatever else the machine does meets all of them alike. They run as `Predictor` runs
them, with its precision and memory layout.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch.utils.flop_counter import FlopCounterMode

from monai_mammo.benchmark.runs import Run, device_name
from monai_mammo.bundles import config_of, has_value
from monai_mammo.predictor import Predictor

BATCH = 8


def measure(bundle: Path, systems: Mapping[str, tuple[Run, Mapping[str, Any]]], rounds: int = 15) -> dict[str, Any]:
    """Measure trained systems side by side.

    Args:
        bundle: the task's bundle.
        systems: by name, a finished run and its config values.
        rounds: how often every system has its turn, at batch 1 and at batch :data:`BATCH`.

    Returns:
        `machine` (what it ran on) and `systems`: `parameters`, `gmacs` of one image, `latency_ms` (median at batch 1)
        and `images_per_second` (median at batch :data:`BATCH`), with the shortest and longest turn of each.
    """
    served = {name: _serve(bundle, run, values) for name, (run, values) in systems.items()}
    times: dict[str, dict[int, list[float]]] = {name: {1: [], BATCH: []} for name in served}
    for batch in (1, BATCH):
        for turn in range(-1, rounds):  # the turn before the first is to warm up
            for name, predictor in served.items():
                seconds = _time(predictor, batch)
                if turn >= 0:
                    times[name][batch].append(seconds)
    amp = {name: bool(predictor.parser.get_parsed_content("amp")) for name, predictor in served.items()}
    return {
        "machine": {
            "device": device_name(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "precision": "bfloat16" if all(amp.values()) else "float32",
            "recorded": torch.cuda.is_available(),
            "rounds": rounds,
            "batch": BATCH,
        },
        "systems": {
            name: {**_size(bundle, systems[name][1], _input(predictor, 1).cpu()), **_summary(times[name])}
            for name, predictor in served.items()
        },
    }


def _serve(bundle: Path, run: Run, values: Mapping[str, Any]) -> Predictor:
    known = config_of(bundle, "inference.yaml")
    given = {key: value for key, value in values.items() if has_value(known, key)}
    return Predictor(bundle, weights=run.weights, overrides=given)


def _input(predictor: Predictor, batch: int) -> torch.Tensor:
    size, channels = (predictor.parser.get_parsed_content(name) for name in ("size", "in_channels"))
    image = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(0))
    return image.to(predictor.device)


def _time(predictor: Predictor, batch: int) -> float:
    image = _input(predictor, batch)
    _wait(predictor.device)
    start = time.perf_counter()
    predictor.scores(image)
    _wait(predictor.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _size(bundle: Path, values: Mapping[str, Any], image: torch.Tensor) -> dict[str, Any]:
    """Parameters, and multiplications (half the operations that torch counts in convolutions and products)."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.yaml"))
    parser.update(dict(values))
    network = parser.get_parsed_content("network_def").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(image)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmacs": counter.get_total_flops() / 2 / 1e9,
    }


def _summary(times: Mapping[int, list[float]]) -> dict[str, float]:
    single, many = times[1], times[BATCH]
    return {
        "latency_ms": statistics.median(single) * 1000,
        "latency_ms_min": min(single) * 1000,
        "latency_ms_max": max(single) * 1000,
        "images_per_second": BATCH / statistics.median(many),
        "images_per_second_min": BATCH / max(many),
        "images_per_second_max": BATCH / min(many),
    }
