"""The convolution that the networks share: the same at every width, and harmless."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from monai_mammo.networks.layers import conv


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 1)])
@pytest.mark.parametrize("channels", [4, 16])
def test_a_strided_pointwise_convolution_is_the_same_at_every_width(channels: int, size: tuple[int, int]) -> None:
    layer, x = conv(channels, 8, 1, stride=2), torch.randn(2, channels, *size)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, stride=2))


def test_a_narrow_strided_convolution_does_not_damage_memory() -> None:
    """In a process of its own, because PyTorch's own one kills it (`_PickedConv2d`)."""
    steps = """
import torch
from monai_mammo.networks.layers import conv
layer = conv(4, 16, 1, stride=2).to(memory_format=torch.channels_last)
for _ in range(60):
    x = torch.randn(4, 4, 96, 64).to(memory_format=torch.channels_last).requires_grad_()
    layer(x).sum().backward()
    others = [torch.randn(int(length)) for length in torch.randint(1, 5000, (50,))]
"""
    assert subprocess.run([sys.executable, "-c", steps], capture_output=True).returncode == 0
