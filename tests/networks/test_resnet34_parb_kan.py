"""ResNet34PARBKAN: ResNet34 inside it, the paper's additions, and reading ImageNet weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import resnet34
from torch import Tensor, nn

from monai_mammo.networks import ResNet34PARBKAN
from monai_mammo.networks.kan import KANLinear


def resnet34_shapes(width: int = 64, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnet34, in its order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def unit(conv: str, norm: str, before: int, after: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (after, before, kernel, kernel)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (after,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    unit("conv1", "bn1", 3, width, 7)
    before = width
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        after = width * 2 ** (layer - 1)
        for i in range(blocks):
            block = f"layer{layer}.{i}"
            unit(f"{block}.conv1", f"{block}.bn1", before, after, 3)
            unit(f"{block}.conv2", f"{block}.bn2", after, after, 3)
            if before != after:
                unit(f"{block}.downsample.0", f"{block}.downsample.1", before, after, 1)
            before = after
    return shapes | {"fc.weight": (classes, before), "fc.bias": (classes,)}


def imagenet_file(folder: Path, width: int = 8) -> tuple[Path, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.rand(shape, generator=generator) for name, shape in resnet34_shapes(width).items()}
    weights |= {name: torch.tensor(7) for name in weights if name.endswith("num_batches_tracked")}
    torch.save(weights, folder / "resnet34.pth")
    return folder / "resnet34.pth", weights


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_without_additions_it_has_resnet34s_names_and_shapes() -> None:
    with torch.device("meta"):
        network = ResNet34PARBKAN(num_classes=1000, parb=False, head="linear")
    ours = {name.replace("head.", "fc."): tuple(value.shape) for name, value in network.state_dict().items()}
    assert list(ours.items()) == list(resnet34_shapes().items())


def test_without_additions_it_computes_what_monais_resnet34_computes() -> None:
    reference = resnet34(
        spatial_dims=2, n_input_channels=3, num_classes=2, conv1_t_stride=2, bias_downsample=False
    ).eval()
    network = ResNet34PARBKAN(parb=False, head="linear").eval()
    values = dict(zip(network.state_dict(), reference.state_dict().values(), strict=True))
    network.load_state_dict(values)
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(network(images), reference(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"parb": False, "head": "linear"}, 21_285_698),
        ({"parb": True, "head": "linear"}, 27_604_798),
        ({"parb": True, "head": "linear", "se_kernel_size": 1}, 24_819_518),
        ({"parb": False, "head": "kan1"}, 21_293_888),
        ({"parb": True, "head": "kan1"}, 27_612_988),
        ({"parb": False, "head": "kan2"}, 21_322_066),
        ({"parb": True, "head": "kan2"}, 27_641_166),
        ({"parb": False, "head": "mlp"}, 21_416_514),
    ],
)
def test_parameter_counts_at_the_papers_width(arguments: dict, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(ResNet34PARBKAN(**arguments)) == expected


def test_shapes_of_the_stages_at_224_pixels() -> None:
    with torch.device("meta"):
        network, images = ResNet34PARBKAN(), torch.empty(1, 3, 224, 224)
    shapes = {}
    for name in ("conv1", "maxpool", "layer1", "parb1", "parb2", "parb3", "parb4"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    assert network.forward_features(images).shape == (1, 512)
    assert shapes == {
        "conv1": (64, 112, 112),
        "maxpool": (64, 56, 56),
        "layer1": (64, 56, 56),
        "parb1": (64, 56, 56),
        "parb2": (128, 28, 28),
        "parb3": (256, 14, 14),
        "parb4": (512, 7, 7),
    }


def test_new_attention_blocks_do_not_disturb_a_trained_trunk() -> None:
    torch.manual_seed(0)
    plain, attentive = ResNet34PARBKAN(parb=False, width=8).eval(), ResNet34PARBKAN(width=8).eval()
    attentive.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(attentive(images), plain(images))


def test_features_are_what_the_head_sees() -> None:
    network = ResNet34PARBKAN(width=8, dropout=0.4).eval()
    images = torch.randn(2, 3, 64, 64)
    features = network.forward_features(images)
    assert features.shape == (2, 8 * 8)
    assert torch.equal(network.head(features), network(images))


@pytest.mark.parametrize("head", ["kan1", "kan2"])
def test_the_gain_reaches_the_head(head: str) -> None:
    spreads = []
    for gain in (1.0, 0.01):
        layers = ResNet34PARBKAN(width=8, head=head, kan_gain=gain).head.modules()
        spreads += [layer.base_weight.detach().std().item() for layer in layers if isinstance(layer, KANLinear)]
    assert spreads[1] / spreads[0] == pytest.approx(0.01, rel=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "kan4"}, "linear, mlp, kan1, kan2, kan3, rbf"),
        ({"width": 6}, "multiple of 4"),
        ({"width": 0}, "multiple of 4"),
        ({"se_kernel_size": 2}, "se_kernel_size is 1 or 3"),
        ({"s2_reduce": "max"}, '"mean" or "sum"'),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet34PARBKAN(**({"width": 8} | arguments))


def test_imagenet_weights_fill_the_trunk_and_leave_attention_and_head(tmp_path: Path) -> None:
    path, weights = imagenet_file(tmp_path)
    network = ResNet34PARBKAN(width=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_imagenet_weights(path)
    for name, value in network.state_dict().items():
        ours = name.startswith(("parb", "head."))
        assert torch.equal(value, before[name] if ours else weights[name]), name


def test_imagenet_weights_for_one_channel_equal_the_grey_image_three_times(tmp_path: Path) -> None:
    path, _ = imagenet_file(tmp_path)
    networks = [ResNet34PARBKAN(2, channels, width=8).eval() for channels in (1, 3)]
    for network in networks:
        network.load_imagenet_weights(path)
    grey = torch.randn(2, 1, 64, 64)
    conv = [network.conv1(grey.expand(-1, network.conv1.in_channels, -1, -1)) for network in networks]
    torch.testing.assert_close(conv[0], conv[1], rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused_by_name_and_change_nothing(tmp_path: Path) -> None:
    path, weights = imagenet_file(tmp_path)
    network = ResNet34PARBKAN(width=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    del weights["layer3.5.conv2.weight"]
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"resnet34\.pth.*missing: layer3\.5\.conv2\.weight"):
        network.load_imagenet_weights(path)
    torch.save(imagenet_file(tmp_path)[1] | {"layer1.0.conv3.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"unknown: layer1\.0\.conv3\.weight"):
        network.load_imagenet_weights(path)
    imagenet_file(tmp_path, width=16)
    with pytest.raises(ValueError, match=r"other shape: conv1\.weight.* more.*width=64"):
        network.load_imagenet_weights(path)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    network = ResNet34PARBKAN(width=8)
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match=r"weights\.pth"):
        network.load_imagenet_weights(path)
    for content in (b"", b"<html>404</html>", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.pth cannot be read"):
            network.load_imagenet_weights(path)
    torch.save({"epoch": 3, "state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"weights\.pth holds no state dict"):
        network.load_imagenet_weights(path)
