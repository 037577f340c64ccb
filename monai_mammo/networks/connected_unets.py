"""Connected-UNets: a second U-Net that reads the first one's decoder, each around parallel dilated convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_mammo.networks.layers import conv_bn_relu, refuse_sides

__all__ = ["ConnectedUNets"]

DILATIONS = (1, 6, 12, 18)
"""Of the four parallel convolutions, as in the source's code."""


def _dilated(in_channels: int, out_channels: int, dilation: int) -> nn.Sequential:
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels))


class SummedASPP(nn.Module):
    """Four parallel 3x3 convolutions of growing dilation, normalised and summed, then a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_dilated(in_channels, out_channels, dilation) for dilation in DILATIONS)
        self.out = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        near, middle, far, farthest = [branch(x) for branch in self.branches]
        return self.out(near + middle + far + farthest)


class Decoder(nn.Module):
    """From the deepest map upwards: 2x2 transposed convolution, the skip connection beside it, two convolutions."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        widths = [8 * width, 4 * width, 2 * width, width]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths)
        self.levels = nn.ModuleList(nn.Sequential(conv_bn_relu(2 * w, w), conv_bn_relu(w, w)) for w in widths)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, skips: list[Tensor]) -> list[Tensor]:
        """The four levels' maps, the deepest first; `skips` are the encoder's, the one of full size first.

        Dropout acts on what comes in and behind every level but the last.
        """
        maps: list[Tensor] = []
        for level, (up, convs) in enumerate(zip(self.ups, self.levels)):  # noqa: B905 (TorchScript has no strict)
            x = convs(torch.cat((up(self.dropout(x)), skips[3 - level]), dim=1))
            maps.append(x)
        return maps


class JoinedLevel(nn.Module):
    """A level of the second encoder: a convolution, the first decoder's map of that size beside it, two more."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.convs = nn.Sequential(conv_bn_relu(2 * channels, channels), conv_bn_relu(channels, channels))

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        """(B, in_channels, H, W) and (B, channels, H, W) to (B, channels, H, W)."""
        return self.convs(torch.cat((F.relu(self.conv(x)), beside), dim=1))


class ConnectedUNets(nn.Module):
    """Connected-UNets (Baccouche et al. 2021, npj Breast Cancer 7:151).

    The source's loss is `monai_mammo.losses.DiceIoULoss`.

    Args:
        spatial_dims: 2; the network works on images only.
        in_channels: channels of the input.
        out_channels: score maps: 1 for a sigmoid, 2 or more for a softmax.
        width: channels of the first level; the source's is 32, and everything scales with it.
        dropout: probability of dropping a channel in front of each of either decoder's transposed convolutions.

    Raises:
        ValueError: `spatial_dims` is not 2.

    Example:
        >>> network = ConnectedUNets(spatial_dims=2, in_channels=3, out_channels=2, width=8).eval()
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2, 64, 64])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        width: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"ConnectedUNets works on images: spatial_dims is 2, not {spatial_dims}")
        widths = [width, 2 * width, 4 * width, 8 * width]
        before = [in_channels, *widths[:3]]
        self.encoder1 = nn.ModuleList(
            nn.Sequential(conv_bn_relu(c, w), conv_bn_relu(w, w)) for c, w in zip(before, widths, strict=True)
        )
        self.aspp1 = SummedASPP(8 * width, 16 * width)
        self.decoder1 = Decoder(width, dropout)
        self.encoder2 = nn.ModuleList(JoinedLevel(c, w) for c, w in zip([width, *widths[:3]], widths, strict=True))
        self.aspp2 = SummedASPP(8 * width, 16 * width)
        self.decoder2 = Decoder(width, dropout)
        self.aspp3 = SummedASPP(width, width)
        self.out = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score maps: (B, in_channels, H, W) to (B, out_channels, H, W).

        Raises:
            ValueError: a side of the image is not a multiple of 16, or it is no batch (B, C, H, W).
        """
        refuse_sides(x, 16, "Connected-UNets")
        skips: list[Tensor] = []
        for level in self.encoder1:
            skips.append(level(x))
            x = F.max_pool2d(skips[-1], 2)
        maps = self.decoder1(self.aspp1(x), skips)
        x = maps[3]
        skips = []
        for k, level in enumerate(self.encoder2):
            skips.append(level(x, maps[3 - k]))
            x = F.max_pool2d(skips[-1], 2)
        return self.out(self.aspp3(self.decoder2(self.aspp2(x), skips)[3]))
