"""How much faster the networks run as they are served and trained than as plain float32; what PARB and KAN cost.

    python benchmarks/network_speed.py [--widths 64 16] [--repeats 9] [--parts classifier inference training]

All that is compared takes turns in one process and on one thread, so that whatever else the machine does meets all
alike; medians, of processor time and of wall time. Beside each ratio stands how far the faster outputs lie from the
plain float32 network's. The goals: inference 2.0 and training 1.7 times as fast on a CPU with bfloat16 units, PARB and
KAN head 1.20 at most. It measures and asserts nothing.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from monai.losses import DiceCELoss
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from monai_mammo.networks import ResNet34PARBKAN, ResPAMUNet
from monai_mammo.networks.inference import for_inference
from monai_mammo.networks.replay import Replayed
from monai_mammo.predictor import MixedPrecisionInferer, prefers_bfloat16


@dataclass
class Run:
    """One arrangement of a network: what runs it once, how far its output is off, and its times in seconds."""

    step: Callable[[], object]
    error: float | None = None
    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


@dataclass
class Comparison:
    """Arrangements that take turns; the ratio is of `above`'s time to that of `below`."""

    title: str
    runs: dict[str, Run]
    above: str
    below: str
    goal: str
    repeats: int


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--widths", type=int, nargs="+", default=[64, 16], help="of the classifier")
    arguments.add_argument("--unet-widths", type=int, nargs="+", default=[64, 16], help="of ResPAM U-Net")
    arguments.add_argument("--stem", default="unet")
    arguments.add_argument("--side", type=int, default=224)
    arguments.add_argument("--batch-size", type=int, default=8, help="of ResPAM U-Net; the classifier's is 1")
    arguments.add_argument("--repeats", type=int, default=9)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parts = {"classifier": classifier, "inference": inference, "training": training}
    arguments.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    device = torch.device(chosen.device)
    units = "with" if prefers_bfloat16(device) else "WITHOUT"
    table = Table(
        title=f"torch {torch.__version__}, {device}, {chosen.threads} threads, {units} bfloat16 units, "
        f"{chosen.side} x {chosen.side}"
    )
    for column in ("compared", "processor ms", "wall ms", "ratio", "wall ratio", "goal", "rel. error"):
        table.add_column(column, justify="left" if column == "compared" else "right")
    console = Console(width=140)
    with Progress(console=console) as progress:
        for part in chosen.parts:
            widths = chosen.widths if part == "classifier" else chosen.unet_widths
            for width in widths:
                for comparison in parts[part](chosen, width, device):
                    take_turns(comparison, device, progress)
                    add_rows(table, comparison)
    console.print(table)


def classifier(chosen: argparse.Namespace, width: int, device: torch.device) -> list[Comparison]:
    """Batch 1: ResNet34 with PARB and KAN head over ResNet34, the same optimisations on both."""
    image = torch.randn(1, 3, chosen.side, chosen.side, device=device)
    plain = {
        "ResNet34": ResNet34PARBKAN(width=width, parb=False, head="linear").to(device).eval(),
        "ResNet34 + PARB + KAN": ResNet34PARBKAN(width=width).to(device).eval(),
    }
    for module in plain["ResNet34 + PARB + KAN"].modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # a new PARB's is zero, and its errors would not be seen
    comparisons = []
    kinds = [(precision, amp, False) for precision, amp in (("float32", False), ("bfloat16", True))]
    if device.type == "cuda":
        kinds += [(f"{precision}, recorded", amp, True) for precision, amp, _ in kinds]
    for kind, amp, recorded in kinds:
        fast = {name: for_inference(net, image, amp) for name, net in plain.items()}
        runs = {
            name: forward(Replayed(net) if recorded else net, image, amp, plain[name]) for name, net in fast.items()
        }
        title = f"classifier, width {width}, batch 1, folded, {kind}"
        comparisons.append(Comparison(title, runs, "ResNet34 + PARB + KAN", "ResNet34", "<= 1.20", 3 * chosen.repeats))
    return comparisons


def inference(chosen: argparse.Namespace, width: int, device: torch.device) -> list[Comparison]:
    """ResPAM U-Net as served, over the plain network."""
    images = torch.randn(chosen.batch_size, 3, chosen.side, chosen.side, device=device)
    plain = ResPAMUNet(out_channels=2, width=width, stem=chosen.stem).to(device).eval()
    served: nn.Module = for_inference(plain, images[:1], True)
    runs = {
        "plain float32": forward(plain, images, False, plain),
        "served, bfloat16": forward(Replayed(served) if device.type == "cuda" else served, images, True, plain),
    }
    title = f"ResPAM U-Net, width {width}, inference at batch {chosen.batch_size}"
    repeats = max(3, chosen.repeats // 3)
    return [Comparison(title, runs, "plain float32", "served, bfloat16", ">= 2.0", repeats)]


def training(chosen: argparse.Namespace, width: int, device: torch.device) -> list[Comparison]:
    """A training step as the bundle does it (channels last, autocast), over the plain one; the optimiser included."""
    images = torch.randn(chosen.batch_size, 3, chosen.side, chosen.side, device=device)
    masks = (torch.rand(chosen.batch_size, 1, chosen.side, chosen.side, device=device) > 0.6).float()
    plain = ResPAMUNet(out_channels=2, width=width, stem=chosen.stem).to(device).train()
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, smooth_nr=1.0, smooth_dr=1.0)

    def step(amp: bool, layout: torch.memory_format) -> Callable[[], float]:
        network = copy.deepcopy(plain).to(memory_format=layout)  # type: ignore[call-overload]
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        inferer = MixedPrecisionInferer(amp)

        def run() -> float:
            optimizer.zero_grad()
            loss = loss_function(inferer(images, network), masks)
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return run

    slow, fast = step(False, torch.contiguous_format), step(True, torch.channels_last)
    expected, loss = slow(), fast()  # of the same weights; the step also warms up
    runs = {
        "plain float32": Run(slow),
        "channels last, bfloat16": Run(fast, abs(loss - expected) / abs(expected)),
    }
    title = f"ResPAM U-Net, width {width}, training step at batch {chosen.batch_size} (error: of the loss)"
    repeats = max(2, chosen.repeats // 4)
    return [Comparison(title, runs, "plain float32", "channels last, bfloat16", ">= 1.7", repeats)]


def forward(network: nn.Module, images: Tensor, amp: bool, plain: nn.Module) -> Run:
    """What runs the network once without gradients; its error is the largest, over the plain one's largest score."""
    inferer = MixedPrecisionInferer(amp)

    @torch.inference_mode()
    def run() -> Tensor:
        return inferer(images, network)

    if network is plain:
        return Run(run)
    with torch.inference_mode():
        expected = plain(images)
    return Run(run, float((run() - expected).abs().max() / expected.abs().max()))


def take_turns(comparison: Comparison, device: torch.device, progress: Progress) -> None:
    """Time each run, one after the other in every round; the first round warms up and is not kept."""
    task = progress.add_task(comparison.title, total=comparison.repeats + 1)
    for round_number in range(comparison.repeats + 1):
        for run in comparison.runs.values():
            processor, wall = time.process_time(), time.perf_counter()
            run.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number > 0:
                run.processor.append(time.process_time() - processor)
                run.wall.append(time.perf_counter() - wall)
        progress.advance(task)


def add_rows(table: Table, comparison: Comparison) -> None:
    """A line for each arrangement, then the ratio of their medians."""
    table.add_row(f"[bold]{comparison.title}[/bold]")
    medians = {
        name: (statistics.median(run.processor), statistics.median(run.wall)) for name, run in comparison.runs.items()
    }
    for name, run in comparison.runs.items():
        processor, wall = (f"{seconds * 1000:.1f}" for seconds in medians[name])
        error = "" if run.error is None else f"{run.error:.1e}"
        table.add_row(f"  {name}", processor, wall, "", "", "", error)
    above, below = medians[comparison.above], medians[comparison.below]
    ratios = (f"{above[kind] / below[kind]:.2f}" for kind in (0, 1))
    table.add_row(f"  {comparison.above} / {comparison.below}", "", "", *ratios, comparison.goal, "", end_section=True)


if __name__ == "__main__":
    main()
