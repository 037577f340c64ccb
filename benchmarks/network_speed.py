"""How much faster the networks run as they are served and trained than as plain float32; what PARB and KAN cost.

    python benchmarks/network_speed.py [--width 64] [--stem resnet] [--side 224] [--batch-size 8] [--repeats 20]

All that is compared takes turns in one process, so that whatever else the machine does meets all alike. Each ratio is
given of the minima and of the medians; on a busy machine only the minima mean something. The goals, at full width:
inference 2.0 and training 1.7 times as fast on a CPU with bfloat16 units, PARB and KAN head 1.20 at most.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from monai.losses import DiceCELoss
from torch import nn

from monai_mammo.networks import ResNet34PARBKAN, ResPAMUNet
from monai_mammo.networks.inference import for_inference
from monai_mammo.predictor import MixedPrecisionInferer, prefers_bfloat16

Times = dict[str, list[float]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--width", type=int, default=64)
    arguments.add_argument("--stem", default="resnet")
    arguments.add_argument("--side", type=int, default=224)
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--repeats", type=int, default=20)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--parts", nargs="+", default=["classifier", "inference", "training"])
    chosen = arguments.parse_args()
    device = torch.device(chosen.device)
    units = "with" if prefers_bfloat16(device) else "WITHOUT"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {units} bfloat16 units")
    print(f"width {chosen.width}, stem {chosen.stem}, {chosen.side} x {chosen.side}, {chosen.repeats} repeats")
    for part in chosen.parts:
        {"classifier": classifier, "inference": inference, "training": training}[part](chosen, device)


def classifier(chosen: argparse.Namespace, device: torch.device) -> None:
    """Batch 1: ResNet34 with PARB and KAN head over ResNet34, the same optimisations on both."""
    image = torch.randn(1, 3, chosen.side, chosen.side, device=device)
    plain = {
        "ResNet34": ResNet34PARBKAN(width=chosen.width, parb=False, head="linear").to(device).eval(),
        "ResNet34 + PARB + KAN": ResNet34PARBKAN(width=chosen.width).to(device).eval(),
    }
    for title, amp, faster in (("plain float32", False, False), ("float32", False, True), ("bfloat16", True, True)):
        runs = {}
        for name, network in plain.items():
            network = for_inference(network, image, amp) if faster else network
            runs[name] = forward(network, image, amp)
        times = take_turns(runs, chosen.repeats, device)
        report(f"latency at batch 1, {title}", times, "ResNet34 + PARB + KAN", "ResNet34")


def inference(chosen: argparse.Namespace, device: torch.device) -> None:
    """ResPAM U-Net as served, over the plain network."""
    images = torch.randn(chosen.batch_size, 3, chosen.side, chosen.side, device=device)
    plain = ResPAMUNet(out_channels=2, width=chosen.width, stem=chosen.stem).to(device).eval()
    runs = {
        "plain float32": forward(plain, images, False),
        "served, float32": forward(for_inference(plain, images[:1]), images, False),
        "served, bfloat16": forward(for_inference(plain, images[:1], True), images, True),
    }
    times = take_turns(runs, chosen.repeats, device)
    for name in list(runs)[1:]:
        report(f"ResPAM U-Net, batch {chosen.batch_size}, {name}", times, "plain float32", name)


def training(chosen: argparse.Namespace, device: torch.device) -> None:
    """A training step as the bundle does it (channels last, autocast), over the plain one."""
    images = torch.randn(chosen.batch_size, 3, chosen.side, chosen.side, device=device)
    masks = (torch.rand(chosen.batch_size, 1, chosen.side, chosen.side, device=device) > 0.6).float()

    def step(amp: bool, layout: torch.memory_format) -> Callable[[], object]:
        network = ResPAMUNet(out_channels=2, width=chosen.width, stem=chosen.stem).to(device).train()
        network.to(memory_format=layout)  # type: ignore[call-overload]
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        loss_function = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
        inferer = MixedPrecisionInferer(amp)

        def run() -> None:
            optimizer.zero_grad()
            loss_function(inferer(images, network), masks).backward()
            optimizer.step()

        return run

    runs = {
        "plain float32": step(False, torch.contiguous_format),
        "channels last, bfloat16": step(True, torch.channels_last),
    }
    times = take_turns(runs, max(3, chosen.repeats // 4), device)
    report(f"ResPAM U-Net, training step, batch {chosen.batch_size}", times, *runs)


def forward(network: nn.Module, images: torch.Tensor, amp: bool) -> Callable[[], object]:
    """What runs the network once without gradients."""
    inferer = MixedPrecisionInferer(amp)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return inferer(images, network)

    return run


def take_turns(runs: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> Times:
    """Seconds of each run, one after the other in every round; the first round warms up."""
    times: Times = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: seconds[1:] for name, seconds in times.items()}


def report(title: str, times: Times, above: str, below: str) -> None:
    """Both times and their ratio, of the minima and of the medians."""
    print(f"\n{title}")
    for name in (above, below):
        print(
            f"  {name:26s} min {min(times[name]) * 1000:9.1f} ms  median {statistics.median(times[name]) * 1000:9.1f}"
        )
    least = min(times[above]) / min(times[below])
    middle = statistics.median(times[above]) / statistics.median(times[below])
    print(f"  {above} / {below}: {least:.2f} (minima), {middle:.2f} (medians)", flush=True)


if __name__ == "__main__":
    main()
