"""What every public network has to pass, however it is built inside. A new network adds one `Case` to the list."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_mammo.networks import (
    AUNet,
    ConnectedSegNets,
    ConnectedUNets,
    DSUNet,
    ResNet34PARBKAN,
    ResPAMUNet,
    SegNet,
    UNet,
)
from monai_mammo.networks.inference import for_inference


@dataclass(frozen=True)
class Case:
    """A network as a user builds it, narrow so that the tests are fast."""

    name: str
    network: Callable[..., nn.Module]
    arguments: dict[str, Any]
    sizes: tuple[tuple[int, int], ...]
    invalid: tuple[int, int] | None  # None: every size is taken
    rule: str  # what the message on an invalid size has to say
    dense: bool = True  # a map comes out and not a row of scores
    readings: tuple[dict[str, Any], ...] = field(default=())

    def build(self, **changes: Any) -> nn.Module:
        torch.manual_seed(0)
        return self.network(spatial_dims=2, in_channels=3, **(self.arguments | changes))

    def images(self, batch: int, size: tuple[int, int] | None = None) -> Tensor:
        """Noise whose brightness and contrast differ from image to image."""
        height, width = size or self.sizes[0]
        generator = torch.Generator().manual_seed(batch)
        noise = torch.randn(batch, 3, height, width, generator=generator)
        contrast, brightness = torch.linspace(0.3, 1.5, batch), torch.linspace(1, -1, batch)
        return noise * contrast.view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)


ANY_NUMBER_OF_MAPS = ({"out_channels": 1}, {"out_channels": 3})

CASES = (
    Case(
        "resnet34_parb_kan",
        ResNet34PARBKAN,
        {"num_classes": 2, "width": 8},
        sizes=((64, 96), (32, 32), (77, 130)),
        invalid=(31, 64),
        rule=r"31 x 64.*at least 32.*32 x 64",
        dense=False,
        readings=(
            *({"parb": parb, "head": head} for parb in (True, False) for head in ("linear", "mlp", "kan1", "kan2")),
            {"head": "kan3"},
            {"head": "rbf"},
            {"se_kernel_size": 1},
            {"s2_reduce": "sum"},
            {"num_classes": 4},
        ),
    ),
    Case(
        "respam_unet-unet",
        ResPAMUNet,
        {"out_channels": 2, "width": 8, "stem": "unet"},
        sizes=((64, 96), (32, 16), (48, 80)),
        invalid=(40, 64),
        rule=r"40 x 64.*multiples of 16.*48 x 64",
        readings=(
            *({"mode": mode} for mode in ("expand8", "double", "concat", "keep", "plain")),
            {"learnable_fusion": False},
            {"out_channels": 1},
            {"out_channels": 3},
        ),
    ),
    Case(
        "respam_unet-resnet",
        ResPAMUNet,
        {"out_channels": 2, "width": 8, "stem": "resnet"},
        sizes=((64, 96), (32, 64), (96, 160)),
        invalid=(64, 48),
        rule=r"64 x 48.*multiples of 32.*64 x 64",
        readings=tuple({"mode": mode} for mode in ("expand8", "double", "concat", "keep", "plain")),
    ),
    Case(
        "unet",
        UNet,
        {"out_channels": 2, "width": 4},
        sizes=((64, 96), (32, 16), (53, 39)),
        invalid=None,
        rule="",
        readings=ANY_NUMBER_OF_MAPS,
    ),
    *(
        Case(
            name,
            network,
            {"out_channels": 2, "width": 4},
            sizes=((64, 96), (32, 16), (48, 80)),
            invalid=(40, 64),
            rule=r"40 x 64.*multiples of 16.*48 x 64",
            readings=ANY_NUMBER_OF_MAPS,
        )
        for name, network in (("aunet", AUNet), ("ds_unet", DSUNet), ("connected_unets", ConnectedUNets))
    ),
    *(
        Case(
            name,
            network,
            {"out_channels": 2, "width": 4},
            sizes=((64, 96), (32, 64), (96, 160)),
            invalid=(64, 48),
            rule=r"64 x 48.*multiples of 32.*64 x 64",
            readings=ANY_NUMBER_OF_MAPS,
        )
        for name, network in (("segnet", SegNet), ("connected_segnets", ConnectedSegNets))
    ),
)

each_network = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def awake(network: nn.Module) -> nn.Module:
    """The network with every normalisation that starts at scale zero set to one.

    Attention blocks start as the identity that way; left so, no test would see what is inside them.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
    return network


def trained_like(case: Case) -> nn.Module:
    """In the eval state, awake, with running means and variances that belong to its images."""
    network = awake(case.build())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        network.train()(case.images(8))
    return network.eval()


def expected_shape(case: Case, images: Tensor, channels: int = 2) -> tuple[int, ...]:
    return (len(images), channels, *images.shape[2:]) if case.dense else (len(images), channels)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to `tolerance` of the largest value expected."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@each_network
def test_output_shape_at_square_and_oblong_sizes(case: Case) -> None:
    network = case.build().eval()
    for size in case.sizes:
        images = case.images(2, size)
        with torch.no_grad():
            assert network(images).shape == expected_shape(case, images)


@each_network
def test_a_grey_image_needs_no_copies(case: Case) -> None:
    torch.manual_seed(0)
    network = case.network(2, 1, **case.arguments).eval()
    images = case.images(1)[:, :1]
    assert network(images).shape == expected_shape(case, images)


@each_network
def test_an_unsupported_size_is_refused_with_the_rule_and_the_next_valid_size(case: Case) -> None:
    if case.invalid is None:
        return
    with pytest.raises(ValueError, match=case.rule):
        case.build()(case.images(1, case.invalid))


@each_network
def test_an_image_that_is_no_batch_is_refused_with_what_to_give(case: Case) -> None:
    if case.invalid is None:
        return
    with pytest.raises(ValueError, match=r"3 dimensions: give a batch \(B, C, H, W\), one image as image\[None\]"):
        case.build()(case.images(1)[0])


@each_network
def test_volumes_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="spatial_dims is 2, not 3"):
        case.network(spatial_dims=3)


@each_network
def test_every_parameter_receives_a_gradient(case: Case) -> None:
    # In the eval state: in training a batch normalisation takes away any constant in front of it, and with it the
    # gradient of the biases there.
    network = awake(case.build()).eval()
    scores = network(case.images(4))
    (scores * torch.randn_like(scores)).mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@each_network
def test_every_reading_can_be_built_and_trained(case: Case) -> None:
    for changes in case.readings:
        network = case.build(**changes).train()
        images = case.images(2)
        scores = network(images)
        channels = changes.get("num_classes", changes.get("out_channels", 2))
        assert scores.shape == expected_shape(case, images, channels), changes
        scores.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters()), changes


@each_network
def test_dropout_acts_in_training_only_and_makes_monte_carlo_samples(case: Case) -> None:
    network, images = case.build(dropout=0.5).eval(), case.images(2)
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(images), rtol=0, atol=0)
        for module in network.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()
        assert not torch.equal(network(images), network(images))


@each_network
def test_state_dict_round_trip(case: Case, tmp_path: Path) -> None:
    network, images = trained_like(case), case.images(2)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(1)
    other = case.network(2, 3, **case.arguments).eval()
    assert not torch.equal(other(images), network(images))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(other(images), network(images), rtol=0, atol=0)


@each_network
def test_torch_export_with_a_free_batch_size(case: Case) -> None:
    network = trained_like(case)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (case.images(2),), dynamic_shapes=({0: batch},))
    for n in (1, 5):
        close(program.module()(case.images(n)), network(case.images(n)), 1e-5)


@each_network
def test_torchscript_gives_the_same(case: Case) -> None:
    # `python -m monai.bundle ckpt_export` scripts the network.
    network, images = trained_like(case), case.images(2)
    scripted = torch.jit.script(network)
    close(scripted(images), network(images), 1e-5)
    if case.invalid is None:
        return
    with pytest.raises(torch.jit.Error, match=case.rule):
        scripted(case.images(1, case.invalid))


@pytest.mark.slow
@each_network
def test_onnx_gives_the_same(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    network = trained_like(case)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.onnx.export(
        network, (case.images(2),), dynamo=True, dynamic_shapes=({0: batch},), optimize=False, verbose=False
    )
    assert program is not None
    program.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for n in (1, 5):
        (scores,) = session.run(None, {session.get_inputs()[0].name: case.images(n).numpy()})
        expected = network(case.images(n)).detach()
        near = (torch.from_numpy(scores) - expected).abs() <= 1e-4 * expected.abs().max()
        # Where two neighbours are nearly equal, rounding decides which one a pooling remembers.
        assert near.double().mean() >= (0.999 if "segnet" in case.name else 1.0)


@each_network
def test_bfloat16_stays_within_two_hundredths_of_the_output_range(case: Case) -> None:
    # Root mean square error, against the range of the scores over a batch, of the network as initialised: how far a
    # trained network's error reaches belongs to its weights and is for its bundle to check.
    network, images = awake(case.build()).eval(), case.images(8)
    with torch.no_grad():
        exact = network(images)
        rounded = copy.deepcopy(network).to(torch.bfloat16)(images.to(torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    error = (rounded.float() - exact).square().mean().sqrt()
    assert error < 0.02 * (exact.max() - exact.min())


@each_network
def test_folding_the_normalisations_into_the_convolutions_changes_nothing(case: Case) -> None:
    # In double precision: where two neighbours are nearly equal, rounding decides which one a pooling remembers.
    network, images = trained_like(case).double(), case.images(2).double()
    folded = for_inference(network, images[:1])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    close(folded(images), network(images), 1e-9)
