"""How much of a training step is not the model: (step of the bundle's `training`) / (bare network, loss, optimiser).

    python benchmarks/training_step.py [--width 16] [--stem unet] [--batch-size 8] [--steps 30]

Both run in one process, in alternating blocks, on phantoms; the bare step sees ready tensors. Medians after warm-up.
The goal is 1.10 at most.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from monai_mammo.datasets import phantom

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "mammo_tumor_segmentation"
WARM_UP = 5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--width", type=int, default=16)
    arguments.add_argument("--stem", default="unet")
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=30)
    arguments.add_argument("--blocks", type=int, default=2)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        phantom.write_phantoms(data, patients=24, seed=0, rows=480, columns=352)
        phantom.segmentation_datalist(data)
        parser = config(data, chosen)
        training, bare = [], []
        for _ in range(chosen.blocks):
            bare += bare_steps(parser, chosen.steps)
            training += training_steps(parser, chosen.steps)
    slow, floor = statistics.median(training), statistics.median(bare)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {parser.get_parsed_content('device')}, ", end=""
    )
    print(
        f"stem {chosen.stem}, width {chosen.width}, batch {chosen.batch_size}, amp {parser.get_parsed_content('amp')}"
    )
    print(f"step of training: {slow * 1000:8.1f} ms (median of {len(training)})")
    print(f"bare step:        {floor * 1000:8.1f} ms (median of {len(bare)})")
    print(f"ratio:            {slow / floor:8.3f}")


def config(data: Path, chosen: argparse.Namespace) -> ConfigParser:
    """The bundle's training config, without validation and without writing anything outside the temporary folder."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.yaml"))
    values: dict[str, Any] = {
        "bundle_root": str(BUNDLE),
        "dataset_dir": str(data / "segmentation_roi"),
        "ckpt_dir": str(data),
        "output_dir": str(data),
        "width": chosen.width,
        "stem": chosen.stem,
        "batch_size": chosen.batch_size,
        "val_interval": 10**6,
    }
    parser.update(values)
    return parser


def training_steps(parser: ConfigParser, steps: int) -> list[float]:
    """Times from one step's start to the next one's, loading included, as the trainer runs."""
    trainer = parser.get_parsed_content("train#trainer")
    starts: list[float] = []

    def tick(engine: Engine) -> None:
        starts.append(time.perf_counter())
        if len(starts) > WARM_UP + steps:
            engine.terminate()

    handler = trainer.add_event_handler(Events.ITERATION_STARTED, tick)
    trainer.state.max_epochs = 10**6
    trainer.state.epoch = 0
    trainer.run()
    handler.remove()
    pairs = list(itertools.pairwise(starts))[WARM_UP:]
    return [after - before for before, after in pairs]


def bare_steps(parser: ConfigParser, steps: int) -> list[float]:
    """Times of forward pass, loss, backward pass and optimiser on one batch that is there already."""
    network, loss = parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    optimizer, device = parser.get_parsed_content("optimizer"), parser.get_parsed_content("device")
    size = parser.get_parsed_content("size")
    batch = parser.get_parsed_content("batch_size")
    amp = parser.get_parsed_content("amp")
    image = torch.rand(batch, 3, *size, device=device)
    label = (torch.rand(batch, 1, *size, device=device) > 0.6).float()
    network.train()
    times = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
            output = network(image)
        loss(output.float(), label).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times[WARM_UP:]


if __name__ == "__main__":
    main()
