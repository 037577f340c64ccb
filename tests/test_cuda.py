"""What must hold on a GPU: the same answers as on the processor, and a training step of every system that learns."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor, nn
from typer.testing import CliRunner

from monai_mammo.benchmark.systems import SYSTEMS
from monai_mammo.cli import app
from monai_mammo.networks.inference import for_inference
from monai_mammo.networks.replay import Replayed
from monai_mammo.predictor import MixedPrecisionInferer, Predictor, prefers_bfloat16
from monai_mammo.training import BestWeights
from monai_mammo.transforms import BreastMaskd, BreastRegiond, ClearAird, ScalePercentilesd

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")

each_system = pytest.mark.parametrize("name", SYSTEMS)


def build(name: str) -> nn.Module:
    """The system's compact network, its dropout off."""
    torch.manual_seed(0)
    network = SYSTEMS[name].overrides(compact=True)["network_def"]
    built: nn.Module = ConfigParser({"in_channels": 3, "dropout": 0.0, "network_def": network}).get_parsed_content(
        "network_def"
    )
    return built


def images(batch: int) -> Tensor:
    """Noise with a bright square, which even images have on the left and odd ones on the right."""
    found = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(batch))
    found[::2, :, 16:48, 4:28] += 3
    found[1::2, :, 16:48, 36:60] += 3
    return found


def trained(name: str, device: str, amp: bool, steps: int = 12) -> tuple[nn.Module, list[float]]:
    """The network after a few steps on sides (a classifier) or squares, and the losses."""
    network = build(name).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    inferer, losses = MixedPrecisionInferer(amp), []
    for step in range(steps):
        x = images(8).to(device)
        scores = inferer(x, network)
        scores = scores[:, 0] if scores.ndim == 5 else scores  # the first of a deep supervision's
        truth = (x.mean(1) > 1.5).long() if scores.ndim == 4 else torch.arange(8, device=device) % 2
        loss = nn.functional.cross_entropy(scores, truth)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters()), f"step {step}"
        optimizer.step()
        losses.append(loss.item())
    return network.eval(), losses


@pytest.fixture
def exact() -> Iterator[None]:
    """Without TF32, which rounds float32 to 11 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@each_system
def test_mixed_precision_training_learns(name: str) -> None:
    losses = trained(name, "cuda", amp=True, steps=20)[1]
    assert min(losses[-5:]) < losses[0]


@each_system
@pytest.mark.usefixtures("exact")
@torch.no_grad()
def test_the_served_form_gives_what_the_processor_gives(name: str) -> None:
    with torch.enable_grad():
        plain = trained(name, "cpu", amp=False, steps=4)[0]
    expected, x = plain(images(2)), images(2).cuda()
    limit = expected.abs().max()
    there = plain.cuda()
    assert (for_inference(there, x)(x) - there(x)).abs().max() <= 1e-5 * limit
    assert (there(x).cpu() - expected).abs().max() <= 1e-4 * limit


@each_system
@torch.no_grad()
def test_bfloat16_is_equal_to_a_hundredth_unless_the_plain_network_is_not_either(name: str) -> None:
    with torch.enable_grad():
        plain = trained(name, "cuda", amp=False)[0]
    x, inferer = images(64).cuda(), MixedPrecisionInferer(True)  # of few scores, the errors differ by chance
    expected = plain(x)
    errors = [
        (inferer(x, network) - expected).square().mean().sqrt() / (expected.max() - expected.min())
        for network in (plain, for_inference(plain, x, bfloat16=True))
    ]
    assert 0 < errors[1] <= max(1e-2, 2 * errors[0])


@each_system
@pytest.mark.parametrize("amp", [False, True])
@torch.inference_mode()
def test_a_recorded_pass_gives_what_the_network_gives(name: str, amp: bool) -> None:
    network = for_inference(build(name).cuda().eval(), images(1).cuda(), bfloat16=amp)
    recorded, inferer = Replayed(network), MixedPrecisionInferer(amp)
    for x in (images(1), images(2), images(1) + 1, images(2) - 1):
        expected, found = (inferer(x.cuda(), each) for each in (network, recorded))
        torch.testing.assert_close(found, expected, rtol=1e-3 if amp else 1e-5, atol=float(expected.abs().max()) * 1e-3)


def recorded_classifier() -> tuple[nn.Module, Replayed]:
    network = for_inference(build("resnet34_parb_kan").cuda().eval(), images(1).cuda())
    return network, Replayed(network)


def test_a_recorded_pass_leaves_earlier_answers_alone() -> None:
    network, recorded = recorded_classifier()
    first = recorded(images(1).cuda())
    second = recorded(images(1).cuda() + 1)
    torch.testing.assert_close(first, network(images(1).cuda()), rtol=1e-4, atol=1e-5)
    assert not torch.equal(first, second)


def test_recorded_passes_of_several_threads_are_not_mixed_up() -> None:
    network, recorded = recorded_classifier()
    given = [images(1).cuda() + step / 4 for step in range(32)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(recorded, given))
    for x, answer in zip(given, found, strict=True):
        torch.testing.assert_close(answer, network(x), rtol=1e-4, atol=1e-4)


def test_a_network_that_decides_by_what_it_computes_is_run_as_it_is() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    recorded, ones = Replayed(Deciding()), torch.ones(1, 2, device="cuda")
    assert [recorded(sign * ones).tolist() for sign in (1, -1, 1)] == [[[2, 2]], [[-1, -1]], [[2, 2]]]
    assert Replayed(nn.ReLU())(-ones).tolist() == [[0, 0]]  # and nothing is broken for others


def test_the_gpu_is_recognised_for_what_it_can() -> None:
    assert prefers_bfloat16("cuda") == (torch.cuda.get_device_capability() >= (8, 0))


def test_weights_trained_on_a_gpu_load_without_one(tmp_path) -> None:
    class Evaluator:
        class state:  # noqa: N801
            metrics, key_metric_name = {"auc": 0.5}, "auc"

    BestWeights(build("resnet34").cuda(), tmp_path / "model.pt")(Evaluator)
    assert {value.device.type for value in torch.load(tmp_path / "model.pt", weights_only=True).values()} == {"cpu"}


@pytest.mark.parametrize(("mode", "given"), [("whole", {}), ("roi", {"box": [90, 40, 130, 90]})])
def test_a_bundle_answers_the_same_on_both(root, untrained, phantoms, tmp_path, mode, given) -> None:
    torch.save(untrained("mammo_tumor_segmentation", width=8, mode=mode), tmp_path / "model.pt")
    image = sorted(phantoms.glob("phantom-*/*/L_CC.dcm"))[0]
    values = {"mode": mode, "width": 8, "roi_size": [64, 64], "whole_size": [96, 64]}
    bundle = root / "bundles" / "mammo_tumor_segmentation"
    here, there = (
        Predictor(bundle, weights=tmp_path / "model.pt", device=device, overrides=values)(image, **given)
        for device in ("cpu", "cuda")
    )
    assert there["region"] == here["region"]
    difference = (torch.as_tensor(there["probability"]).cpu() - torch.as_tensor(here["probability"])).abs()
    assert difference.mean() < 2e-3
    assert difference.max() < 5e-2


@pytest.mark.parametrize(
    "step", [BreastMaskd("image"), BreastRegiond(size=(40, 32)), ClearAird("image"), ScalePercentilesd("image", 1, 99)]
)
def test_a_transform_answers_on_the_device_of_its_image(step: Transform) -> None:
    pixels = torch.rand(1, 60, 50, generator=torch.Generator().manual_seed(0))
    plain, moved = step({"image": MetaTensor(pixels)}), step({"image": MetaTensor(pixels.cuda())})
    for key, value in moved.items():
        if isinstance(value, Tensor):
            assert value.is_cuda
            torch.testing.assert_close(value.cpu(), plain[key], atol=1e-6, rtol=0)


def test_the_command_line_writes_a_mask_that_was_made_on_a_gpu(root, untrained, phantoms, tmp_path) -> None:
    torch.save(untrained("mammo_tumor_segmentation", width=8), tmp_path / "model.pt")
    image = sorted(phantoms.glob("phantom-*/*/L_CC.dcm"))[0]
    command = ["predict", root / "bundles" / "mammo_tumor_segmentation", image, "--weights", tmp_path / "model.pt"]
    command += ["--set", "width=8", "--set", "device=cuda", "--mask", tmp_path / "mask.png"]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "mask.png").is_file()
