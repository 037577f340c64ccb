"""The faster copies of the networks against the plain ones, in the two precisions that they are served in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from monai_mammo.networks import ResNet34PARBKAN, ResPAMUNet
from monai_mammo.networks.attention import PARB
from monai_mammo.networks.inference import FusedPARB, for_inference

NETWORKS = {
    "resnet34_parb_kan": lambda: ResNet34PARBKAN(width=8),
    "respam_unet-unet": lambda: ResPAMUNet(out_channels=2, width=8, stem="unet"),
    "respam_unet-resnet": lambda: ResPAMUNet(out_channels=2, width=8, stem="resnet"),
}


def ellipses(batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bright ellipses in noise, every second image without one, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(batch, 2, 1, 1, generator=generator) * 0.8 - 0.4
    radius = 0.2 + 0.3 * torch.rand(batch, 2, 1, 1, generator=generator)
    axis = torch.linspace(-1, 1, 64)
    offset = (torch.stack(torch.meshgrid(axis, axis, indexing="ij")) - centre) / radius
    mask = (offset.square().sum(1) < 1) & (torch.arange(batch) % 2 == 0).view(-1, 1, 1)
    noisy = mask + 0.3 * torch.randn(batch, 64, 64, generator=generator)
    return noisy.unsqueeze(1).repeat(1, 3, 1, 1), mask.long()


@pytest.fixture(scope="module", params=[(name, seed) for name in NETWORKS for seed in (0, 1)], ids=str)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """A network after some training: how far rounding reaches belongs to the weights."""
    name, seed = request.param
    torch.manual_seed(seed)
    network = NETWORKS[name]().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for step in range(24):
        x, mask = ellipses(8, seed=step)
        scores = network(x)
        loss = nn.functional.cross_entropy(scores, mask if scores.ndim == 4 else mask.amax((1, 2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def images(batch: int) -> Tensor:
    """Images that the training did not see."""
    return ellipses(batch, seed=1000)[0]


@torch.no_grad()
def test_float32_is_equal_to_a_hundred_thousandth(network: nn.Module) -> None:
    expected = network(images(8))
    error = (for_inference(network, images(1))(images(8)) - expected).abs().max()
    assert error <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_bfloat16_is_equal_to_a_hundredth_unless_the_plain_network_is_not_either(network: nn.Module) -> None:
    expected = network(images(8))
    with torch.autocast("cpu", torch.bfloat16):
        plain = network(images(8)).float()
        scores = for_inference(network, images(1), bfloat16=True)(images(8)).float()
    errors = [
        (found - expected).square().mean().sqrt() / (expected.max() - expected.min()) for found in (plain, scores)
    ]
    assert 0 < errors[1] <= max(1e-2, 2 * errors[0])


@torch.no_grad()
def test_weights_rounded_beforehand_give_what_autocast_gives(network: nn.Module) -> None:
    folded, rounded = for_inference(network, images(1)), for_inference(network, images(1), bfloat16=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected, scores = folded(images(8)), rounded(images(8))
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


@torch.no_grad()
def test_the_plain_network_stays_as_it_is(network: nn.Module) -> None:
    network = copy.deepcopy(network)
    before, state = network(images(2)), copy.deepcopy(network.state_dict())
    for_inference(network.train(), images(1), bfloat16=True)
    assert network.training
    assert state.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(network.eval()(images(2)), before)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 6), (7, 2)])
@torch.no_grad()
def test_fused_parb_equals_the_reference_at_sizes_where_borders_meet(
    size: tuple[int, int], averaged: bool, reduce: str
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(PARB(16, s2_reduce=reduce, averaged=averaged)).double().eval()
    for value in (network[0].bn.weight, network[0].bn.bias, network[0].bn.running_mean):
        nn.init.normal_(value)
    x = torch.randn(3, 16, *size, dtype=torch.float64)
    fused = for_inference(network, x)
    assert isinstance(fused[0], FusedPARB)
    expected = network(x)
    if averaged:
        expected = expected.mean((2, 3), keepdim=True)
    torch.testing.assert_close(fused(x), expected, rtol=1e-9, atol=1e-9)
    assert fused(x[:0]).shape == expected[:0].shape


def test_a_convolution_that_runs_twice_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(self.conv(x)))

    network = Shared()
    nn.init.constant_(network.norm.running_mean, 2.0)
    copied = for_inference(network.eval(), images(1))
    assert isinstance(copied.norm, nn.BatchNorm2d)
    torch.testing.assert_close(copied(images(2)), network(images(2)))


def test_a_normalisation_behind_an_activation_in_place_is_left_alone() -> None:
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), norm).eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(for_inference(network, x)(x), network(x))
