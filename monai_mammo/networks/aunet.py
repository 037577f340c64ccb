"""AUNet, a U-Net for whole mammograms with dense up-sampling and channel attention on the way up."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_mammo.networks.layers import conv, conv_bn_relu, refuse_sides

__all__ = ["AUNet"]


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions; the first one's map is added in front of the last activation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(in_channels, out_channels)
        self.second = conv_bn_relu(out_channels, out_channels)
        self.conv = conv(out_channels, out_channels, 3)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        x = self.first(x)
        return F.relu(x + self.bn(self.conv(self.second(x))))


class AttentionUp(nn.Module):
    """The attention-guided dense up-sampling block (figure 3 of the paper).

    The deep map is doubled twice over: bilinearly, then convolved; and densely, every pixel's four neighbours being
    channels of a convolution (a pixel shuffle: a plain reshape would scramble the pixels). The dense one takes in the
    encoder's map; both side by side are weighted by channel and convolved.

    Args:
        channels: of the encoder's map and of the output; the deep map has twice as many.
        reduction: the channel attention narrows its channels by this factor.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        c = channels
        self.bilinear = nn.Conv2d(2 * c, c, 3, padding=1)
        self.dense = conv_bn_relu(2 * c, 4 * c)
        self.join = conv_bn_relu(c, c)
        hidden = max(4, 2 * c // reduction)  # fewer would die together in a narrow network
        self.attention = nn.Sequential(
            nn.Conv2d(2 * c, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 2 * c, 1), nn.Sigmoid()
        )
        self.convs = nn.Sequential(conv_bn_relu(2 * c, c), conv_bn_relu(c, c))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """(B, C, 2H, 2W) from the encoder and (B, 2C, H, W) from below to (B, C, 2H, 2W)."""
        doubled = F.interpolate(high, scale_factor=2.0, mode="bilinear", align_corners=False)
        dense = F.pixel_shuffle(self.dense(high), 2)
        x = torch.cat((self.join(low + dense), F.relu(self.bilinear(doubled))), dim=1)
        return self.convs(x * self.attention(x.mean((2, 3), keepdim=True)))


class AUNet(nn.Module):
    """AUNet (Sun et al. 2020, Phys Med Biol 65, 055005; arXiv 1810.10151).

    Not the Attention U-Net, which some comparisons of mammography call AU-Net; that one is MONAI's `AttentionUnet`.

    Args:
        spatial_dims: 2; the network works on images only.
        in_channels: channels of the input.
        out_channels: score maps: 1 for a sigmoid, 2 or more for a softmax.
        width: channels of the first level; the paper's is 64, and everything scales with it.
        dropout: probability of dropping a channel of the deepest map and behind each of the three levels above it.

    Raises:
        ValueError: `spatial_dims` is not 2.

    Example:
        >>> AUNet(spatial_dims=2, in_channels=3, out_channels=2, width=8).eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2, 64, 64])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"AUNet works on images: spatial_dims is 2, not {spatial_dims}")
        w = width
        self.encode1 = ResidualBlock(in_channels, w)
        self.encode2 = ResidualBlock(w, 2 * w)
        self.encode3 = ResidualBlock(2 * w, 4 * w)
        self.encode4 = ResidualBlock(4 * w, 8 * w)
        self.encode5 = ResidualBlock(8 * w, 16 * w)
        self.dropout = nn.Dropout2d(dropout)
        self.up4 = AttentionUp(8 * w)
        self.up3 = AttentionUp(4 * w)
        self.up2 = AttentionUp(2 * w)
        self.up1 = AttentionUp(w)
        self.out = nn.Conv2d(w, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score maps: (B, in_channels, H, W) to (B, out_channels, H, W).

        Raises:
            ValueError: a side of the image is not a multiple of 16, or it is no batch (B, C, H, W).
        """
        refuse_sides(x, 16, "AUNet")
        x1 = self.encode1(x)
        x2 = self.encode2(F.max_pool2d(x1, 2))
        x3 = self.encode3(F.max_pool2d(x2, 2))
        x4 = self.encode4(F.max_pool2d(x3, 2))
        x = self.dropout(self.encode5(F.max_pool2d(x4, 2)))
        x = self.dropout(self.up4(x4, x))
        x = self.dropout(self.up3(x3, x))
        x = self.dropout(self.up2(x2, x))
        return self.out(self.up1(x1, x))
