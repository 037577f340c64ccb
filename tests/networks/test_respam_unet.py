"""ResPAMUNet: the figure's numbers in every reading, the cost of each, checkpointing and ImageNet weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from monai_mammo.networks import ResPAMUNet
from monai_mammo.networks.respam_unet import MODES, STEMS, UpLevel

each_mode = pytest.mark.parametrize("mode", MODES)
each_stem = pytest.mark.parametrize("stem", STEMS)


def resnet50(width: int = 8) -> dict[str, Tensor]:
    """A state dict with the names and, at width 64, the shapes of torchvision's resnet50, filled at random."""
    weights: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(3)

    def unit(conv: str, norm: str, before: int, after: int, kernel: int) -> None:
        weights[f"{conv}.weight"] = torch.rand(after, before, kernel, kernel, generator=generator)
        for name in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{norm}.{name}"] = torch.rand(after, generator=generator)
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    unit("conv1", "bn1", 3, width, 7)
    before = width
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        inner = width * 2 ** (layer - 1)
        for i in range(blocks):
            block = f"layer{layer}.{i}"
            unit(f"{block}.conv1", f"{block}.bn1", before, inner, 1)
            unit(f"{block}.conv2", f"{block}.bn2", inner, inner, 3)
            unit(f"{block}.conv3", f"{block}.bn3", inner, 4 * inner, 1)
            if i == 0:
                unit(f"{block}.downsample.0", f"{block}.downsample.1", before, 4 * inner, 1)
            before = 4 * inner
    return weights | {"fc.weight": torch.rand(1000, before), "fc.bias": torch.rand(1000)}


@each_mode
@each_stem
def test_the_figures_numbers_hold_at_224_pixels(mode: str, stem: str) -> None:
    with torch.device("meta"):
        network: Any = ResPAMUNet(mode=mode, stem=stem, out_channels=3)
        images = torch.empty(1, 3, 224, 224)
    shapes = {}
    for name in ("conv2", "layer1", "layer2", "layer3", "layer4", "up3", "up2", "up1", "up0", "out"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    joined = {name: network.get_submodule(name).convs[0][0].in_channels for name in ("up3", "up2", "up1", "up0")}
    assert network(images).shape == (1, 3, 224, 224)
    assert joined == {"up3": 1024 + 2048, "up2": 512 + 512, "up1": 256 + 256, "up0": 64 + 128}
    full = 224 if stem == "unet" else 112
    channels = {
        "conv2": (64, full),
        "layer1": (256, full // 2),
        "layer2": (512, full // 4),
        "layer3": (1024, full // 8),
        "layer4": (2048, full // 16),
        "up3": (512, full // 8),
        "up2": (256, full // 4),
        "up1": (128, full // 2),
        "up0": (64, full),
        "out": (3, full),
    }
    assert shapes == {name: (c, side, side) for name, (c, side) in channels.items()}


def test_levels_without_attention_compute_what_monais_resnet50_computes() -> None:
    torch.manual_seed(0)
    reference = ResNet("bottleneck", [3, 3, 3, 3], [8, 16, 32, 64], spatial_dims=2, bias_downsample=False).eval()
    network: Any = ResPAMUNet(mode="plain", width=8).eval()
    for before, level in ((32, "layer2"), (64, "layer3"), (128, "layer4")):  # the first one's stride is another
        ours, theirs = network.get_submodule(level), reference.get_submodule(level)
        started = [
            value + torch.rand_like(value) if value.ndim == 1 else value for value in theirs.state_dict().values()
        ]
        ours.load_state_dict(dict(zip(ours.state_dict(), started, strict=True)))
        theirs.load_state_dict(dict(zip(theirs.state_dict(), started, strict=True)))
        x = torch.randn(2, before, 16, 12)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_deeper_map_is_doubled_between_pixel_centres_and_joined_behind_the_skip_connection() -> None:
    level = UpLevel(2, 1, convolutions=1, dropout=0.0, checkpointing=False)
    level.convs = nn.Sequential(nn.Identity())
    deep, skip = torch.tensor([[[[0.0, 4.0]]]]), torch.full((1, 1, 2, 4), 7.0)
    expected = torch.stack((skip[0, 0], torch.tensor([[0.0, 1.0, 3.0, 4.0]] * 2)))[None]
    torch.testing.assert_close(level(deep, skip), expected)


@pytest.mark.parametrize(
    ("mode", "before"),
    [("expand8", 4096), ("double", 4096), ("concat", 2048), ("keep", 2048)],
)
def test_what_the_deepest_attention_is_given_in_each_reading(mode: str, before: int) -> None:
    with torch.device("meta"):
        network: Any = ResPAMUNet(mode=mode)
    reduced = network.layer4.pam.conv[0]
    assert reduced.in_channels == before
    # Equation 1 halves in every reading but the one that gives it up.
    assert reduced.out_channels == (before if mode == "keep" else before // 2)


@pytest.mark.parametrize(
    ("mode", "stem", "millions"),
    [
        ("expand8", "unet", 61.83),
        ("expand8", "resnet", 61.84),
        ("double", "unet", 104.7),
        ("concat", "unet", 43.2),
        ("keep", "unet", 46.5),
        ("plain", "unet", 40.2),
        ("plain", "resnet", 40.2),
    ],
)
def test_parameter_counts_at_the_papers_width(mode: str, stem: str, millions: float) -> None:
    with torch.device("meta"):
        network = ResPAMUNet(mode=mode, stem=stem, out_channels=1)
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert round(count, 2 if mode == "expand8" else 1) == millions


def test_the_resnet_stems_score_map_is_doubled_behind_the_last_convolution() -> None:
    network = ResPAMUNet(stem="resnet", width=8, out_channels=2).eval()
    level: list[Tensor] = []
    network.up0.register_forward_hook(lambda _module, _inputs, output: level.append(output))
    scores = network(torch.randn(2, 3, 64, 64))
    doubled_before = network.out(nn.functional.interpolate(level[0], scale_factor=2.0, mode="bilinear"))
    torch.testing.assert_close(scores, doubled_before, rtol=1e-4, atol=1e-4)


def test_scores_are_about_one_before_any_training() -> None:
    torch.manual_seed(0)
    network = ResPAMUNet(2, 1, 64, width=16)
    with torch.no_grad():
        assert 0.6 < float(network(torch.randn(4, 1, 64, 64)).std()) < 1.5  # 0.4 with torch's own start


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "plain"])
def test_the_fusion_weights_are_learned_unless_fixed(mode: str) -> None:
    names = [name for name, _ in ResPAMUNet(mode=mode, width=8).named_parameters()]
    assert [name for name in names if name.endswith("alpha")] == [f"layer{i}.pam.alpha" for i in range(1, 5)]
    fixed = ResPAMUNet(mode=mode, width=8, learnable_fusion=False)
    assert not [name for name, _ in fixed.named_parameters() if name.endswith(("alpha", "beta"))]


@each_stem
def test_checkpointing_changes_neither_scores_nor_gradients(stem: str) -> None:
    torch.manual_seed(0)
    kept = ResPAMUNet(stem=stem, width=8, dropout=0.3).train()
    recomputed = ResPAMUNet(stem=stem, width=8, dropout=0.3, checkpointing=True).train()
    recomputed.load_state_dict(copy.deepcopy(kept.state_dict()))
    images = torch.randn(2, 3, 64, 64)
    scores = []
    for network in (kept, recomputed):
        torch.manual_seed(1)
        scores.append(network(images))
        scores[-1].square().mean().backward()
    torch.testing.assert_close(scores[1], scores[0])
    for one, other in zip(kept.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6)


def saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Memory of what autograd keeps between the way forth and the way back, parameters left out."""
    own = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scores = network(images)
    assert scores.requires_grad
    return sum(kept.values())


def test_checkpointing_keeps_about_a_sixth_of_the_memory() -> None:
    images = torch.randn(2, 3, 64, 64)
    networks = [ResPAMUNet(width=8, checkpointing=checkpointing).train() for checkpointing in (False, True)]
    kept, recomputed = (saved_bytes(network, images) for network in networks)
    assert recomputed < kept / 5


def test_dropout_acts_on_the_deepest_map_and_the_three_levels_above_it() -> None:
    network = ResPAMUNet(width=8, dropout=0.9).eval()
    empty_channels: dict[str, list[int]] = {name: [] for name in ("dropout", "up3", "up2", "up1")}
    for name, counts in empty_channels.items():
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, counts=counts: counts.append((output.amax((2, 3)) == 0).sum().item())
        )
    images = torch.randn(2, 3, 64, 64)
    network(images)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.train()
    network(images)
    for name, (without, with_dropout) in empty_channels.items():
        assert with_dropout > without, name


@each_stem
def test_it_learns_an_ellipse(stem: str) -> None:
    torch.manual_seed(0)
    axis = torch.linspace(-1, 1, 64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    centres = ((0.2, -0.3), (-0.3, 0.1))
    masks = torch.stack([((x - a) ** 2 + 2 * (y - b) ** 2 < 0.25).float() for a, b in centres])[:, None]
    images = (masks + 0.2 * torch.randn_like(masks)).expand(-1, 3, -1, -1)
    network = ResPAMUNet(stem=stem, width=8).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(images), masks).backward()
        optimizer.step()
    found = network(images) > 0
    dice = 2 * (found * masks).sum() / (found.sum() + masks.sum())
    assert dice > 0.85


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "halve"}, "the reading, is one of expand8, double, concat, keep, plain"),
        ({"stem": "vgg"}, "unet, resnet"),
        ({"width": 10}, "multiple of 4"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResPAMUNet(**({"width": 8} | arguments))


def convolutions(names: list[str]) -> set[str]:
    return {name.removesuffix(".weight") for name in names if "conv" in name or name.endswith("downsample.0.weight")}


BLOCKS = [f"layer{layer}.{block}" for layer in range(1, 5) for block in range(3)]
WHOLE_TRUNK = {f"{block}.conv{k}" for block in BLOCKS for k in (1, 2, 3)} | {
    f"layer{layer}.0.downsample.0" for layer in range(1, 5)
}
SAME_WIDTH = {f"{block}.conv2" for block in BLOCKS} | {f"layer{layer}.0.conv1" for layer in range(1, 5)}


@pytest.mark.parametrize(
    ("mode", "stem", "expected"),
    [
        ("plain", "unet", WHOLE_TRUNK),
        ("keep", "unet", WHOLE_TRUNK),
        ("concat", "resnet", WHOLE_TRUNK | {"conv1"}),
        ("expand8", "unet", SAME_WIDTH),
        ("expand8", "resnet", SAME_WIDTH | {"conv1"}),
        ("double", "resnet", {"conv1"}),
    ],
)
def test_imagenet_weights_are_taken_where_the_reading_allows(
    mode: str, stem: str, expected: set[str], tmp_path: Path
) -> None:
    weights = resnet50()
    torch.save(weights, tmp_path / "resnet50.pth")
    network = ResPAMUNet(mode=mode, stem=stem, width=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    taken = network.load_imagenet_weights(tmp_path / "resnet50.pth")
    assert convolutions(taken) == expected
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name] if name in taken else before[name]), name


def test_a_normalisation_is_never_taken_without_its_convolution(tmp_path: Path) -> None:
    torch.save(resnet50(), tmp_path / "resnet50.pth")
    taken = ResPAMUNet(mode="expand8", width=8).load_imagenet_weights(tmp_path / "resnet50.pth")
    # Here the convolution has another input width, while its normalisation would have fitted.
    assert not [name for name in taken if name.startswith(("layer1.1.conv1", "layer1.1.bn1"))]


def test_imagenet_weights_for_one_channel_are_summed_over_the_colours(tmp_path: Path) -> None:
    weights = resnet50()
    torch.save(weights, tmp_path / "resnet50.pth")
    network = ResPAMUNet(2, 1, stem="resnet", width=8)
    network.load_imagenet_weights(tmp_path / "resnet50.pth")
    torch.testing.assert_close(network.conv1.weight.detach(), weights["conv1.weight"].sum(1, keepdim=True))


def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    network = ResPAMUNet(mode="keep", width=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(FileNotFoundError, match=r"weights\.pth"):
        network.load_imagenet_weights(path)
    path.write_text("not weights")
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read"):
        network.load_imagenet_weights(path)
    torch.save({name: value for name, value in resnet50().items() if "conv3" not in name}, path)
    with pytest.raises(ValueError, match=r"not a ResNet-50.*layer1\.0\.conv3\.weight.*more"):
        network.load_imagenet_weights(path)
    torch.save(resnet50(width=16), path)
    with pytest.raises(ValueError, match=r"other shape: layer1\.0\.conv1\.weight"):
        network.load_imagenet_weights(path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_reading_that_can_take_nothing_says_so(tmp_path: Path) -> None:
    torch.save(resnet50(), tmp_path / "resnet50.pth")
    with pytest.raises(ValueError, match='mode="double" and stem="unet"'):
        ResPAMUNet(mode="double", stem="unet", width=8).load_imagenet_weights(tmp_path / "resnet50.pth")
