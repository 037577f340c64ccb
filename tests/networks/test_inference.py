"""The faster copies of the networks against the plain ones, in the two precisions that they are served in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_mammo.networks import ResNet34PARBKAN, ResPAMUNet
from monai_mammo.networks.inference import for_inference

NETWORKS = {
    "resnet34_parb_kan": lambda: ResNet34PARBKAN(width=16),
    "respam_unet-unet": lambda: ResPAMUNet(out_channels=2, width=16, stem="unet"),
    "respam_unet-resnet": lambda: ResPAMUNet(out_channels=2, width=16, stem="resnet"),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """A network whose normalisations have seen images, so that folding them is no idle step."""
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        network.train()(images(8))
    return network.eval()


def images(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    contrast = torch.linspace(0.5, 1.5, batch).view(-1, 1, 1, 1)
    return torch.randn(batch, 3, 64, 64, generator=generator) * contrast


@torch.no_grad()
def test_float32_is_equal_to_a_hundred_thousandth(network: nn.Module) -> None:
    expected = network(images(4))
    error = (for_inference(network, images(1))(images(4)) - expected).abs().max()
    assert error <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_bfloat16_is_equal_to_a_hundredth(network: nn.Module) -> None:
    expected = network(images(4))
    with torch.autocast("cpu", torch.bfloat16):
        scores = for_inference(network, images(1), bfloat16=True)(images(4)).float()
    error = (scores - expected).square().mean().sqrt()
    assert 0 < error <= 1e-2 * (expected.max() - expected.min())


@torch.no_grad()
def test_weights_rounded_beforehand_give_what_autocast_gives(network: nn.Module) -> None:
    folded, rounded = for_inference(network, images(1)), for_inference(network, images(1), bfloat16=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected, scores = folded(images(4)), rounded(images(4))
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


@torch.no_grad()
def test_the_plain_network_stays_as_it_is(network: nn.Module) -> None:
    before, state = network(images(2)), copy.deepcopy(network.state_dict())
    for_inference(network.train(), images(1), bfloat16=True)
    assert network.training
    assert state.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(network.eval()(images(2)), before)


def test_a_convolution_that_runs_twice_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(self.conv(x)))

    network = Shared()
    nn.init.constant_(network.norm.running_mean, 2.0)
    copied = for_inference(network.eval(), images(1))
    assert isinstance(copied.norm, nn.BatchNorm2d)
    torch.testing.assert_close(copied(images(2)), network(images(2)))
