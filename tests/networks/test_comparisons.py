"""How the networks that ours are compared with are wired: what no test of shapes and gradients would see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_mammo.networks import AUNet, ConnectedSegNets, ConnectedUNets, DSUNet, SegNet
from monai_mammo.networks.aunet import ResidualBlock
from monai_mammo.networks.connected_unets import SummedASPP


def built(network: Callable[..., nn.Module]) -> tuple[nn.Module, Tensor]:
    """A narrow network and an image for it."""
    torch.manual_seed(0)
    return network(out_channels=2, width=8).eval(), torch.randn(1, 3, 64, 64)


def kept(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each module reads and gives in the next pass, by the module's name."""
    read: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}

    def keep(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read[name], given[name] = inputs[0], output

    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, inputs, output, name=name: keep(name, inputs, output))
    return read, given


@pytest.mark.parametrize(
    ("network", "level", "onwards"),
    [
        *((AUNet, f"encode{k}", [f"encode{k + 1}"]) for k in (1, 2, 3, 4)),
        (DSUNet, "encode1", ["encode2"]),
        *((DSUNet, f"encode{k}", [f"encode{k + 1}", f"sides.{k - 2}"]) for k in (2, 3, 4)),
        *((ConnectedUNets, f"encoder{n}.{k}", [f"encoder{n}.{k + 1}"]) for n in (1, 2) for k in (0, 1, 2)),
        *((ConnectedUNets, f"encoder{n}.3", [f"aspp{n}"]) for n in (1, 2)),
        *((ConnectedUNets, f"decoder1.levels.{k}", [f"decoder1.ups.{k + 1}"]) for k in (0, 1, 2)),
        (ConnectedUNets, "decoder1.levels.3", ["encoder2.0.conv"]),
        *((ConnectedSegNets, f"decoder1.stage{k}", [f"decoder1.stage{k - 1}"]) for k in (5, 4, 3, 2)),
    ],
)
def test_a_level_reaches_the_output_past_the_next_one(network, level: str, onwards: list[str]) -> None:
    """By its skip connection: what comes next in the row of levels is held."""
    network, images = built(network)
    _, given = kept(network)
    with torch.no_grad():
        expected = network(images)
        held = {name: given[name].clone() for name in onwards}
        network.get_submodule(level).register_forward_hook(lambda *call: call[-1] + 1)
        for name in onwards:
            network.get_submodule(name).register_forward_hook(lambda *_, name=name: held[name])
        assert not torch.allclose(network(images), expected, atol=1e-4)


def test_the_side_outputs_are_the_encoders_three_and_then_the_decoders() -> None:
    torch.manual_seed(0)
    network = DSUNet(out_channels=2, width=8, deep_supervision=True).train()
    read, given = kept(network)
    maps = network(torch.randn(2, 3, 64, 64))
    for k, level in enumerate(("encode2", "encode3", "encode4", "up4", "up3", "up2")):
        assert read[f"sides.{k}"] is given[level]
        expected = F.interpolate(given[f"sides.{k}"], size=(64, 64), mode="bilinear", align_corners=False)
        assert torch.equal(maps[:, 1 + k], expected)


@pytest.mark.parametrize(("network", "number"), [(SegNet, ""), (ConnectedSegNets, "1"), (ConnectedSegNets, "2")])
def test_what_is_unpooled_lies_where_the_maximum_was(network, number: str) -> None:
    network, images = built(network)
    read, given = kept(network)
    network(images)
    for k in range(1, 6):
        encoded, unpooled = given[f"encoder{number}.stage{k}"], read[f"decoder{number}.stage{k}"]
        highest = F.interpolate(F.max_pool2d(encoded, 2), scale_factor=2.0, mode="nearest")
        assert unpooled.any()
        assert not unpooled[encoded < highest].any()


def test_the_summed_convolutions_reach_one_six_twelve_and_eighteen_pixels() -> None:
    torch.manual_seed(0)
    block, image = SummedASPP(1, 1).eval(), torch.zeros(1, 1, 41, 41)
    dark = block(image)
    image[..., 20, 20] = 1
    (reached,) = (block(image) != dark)[0, 0, 20].nonzero(as_tuple=True)
    assert (reached - 20).tolist() == [-18, -12, -6, -1, 0, 1, 6, 12, 18]


def test_aunets_block_adds_its_first_map() -> None:
    torch.manual_seed(0)
    block, image = ResidualBlock(3, 8).eval(), torch.randn(1, 3, 16, 16)
    nn.init.zeros_(block.bn.weight)
    assert torch.equal(block(image), block.first(image))
