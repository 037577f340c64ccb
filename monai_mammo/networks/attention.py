"""The two papers' attention modules; no whole network.

Every module takes and returns channels-first maps (batch, channels, height, width) and exports to ONNX as it is.
"""

from __future__ import annotations

import torch
from monai.networks.blocks import ChannelSELayer
from torch import Tensor, nn

from monai_mammo.networks.layers import conv, conv_bn_relu

__all__ = ["PAM", "PARB", "S2Attention", "SEAttention", "spatial_shift"]


class SEAttention(nn.Module):
    """Squeeze-and-excitation behind a convolution (paper A, section 1.1): E = w * U, U = ReLU(BN(Conv(X))).

    Args:
        channels: channels of the input and of the output.
        kernel_size: of the leading convolution; the paper leaves it open.
        reduction: the two-layer excitation narrows the channels by this factor.
    """

    def __init__(self, channels: int, kernel_size: int = 3, reduction: int = 16) -> None:
        super().__init__()
        self.conv = conv_bn_relu(channels, channels, kernel_size)
        self.excite = ChannelSELayer(2, channels, r=min(reduction, channels), acti_type_1="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return self.excite(self.conv(x))


def _towards_end(x: Tensor, axis: int) -> Tensor:
    length = x.shape[axis]
    return torch.cat((x.narrow(axis, 0, 1), x.narrow(axis, 0, length - 1)), dim=axis)


def _towards_start(x: Tensor, axis: int) -> Tensor:
    length = x.shape[axis]
    return torch.cat((x.narrow(axis, 1, length - 1), x.narrow(axis, length - 1, 1)), dim=axis)


def spatial_shift(x: Tensor, first: int, second: int) -> Tensor:
    """Move the four channel quarters of `x` by one pixel: forth and back along `first`, forth and back along `second`.

    The line at the border stays where it was (edge replication); nothing wraps around. The result is a new tensor:
    the well-known in-place assignment of overlapping slices smears a quarter over the whole axis instead of moving it.

    Args:
        x: (B, C, H, W), C a multiple of four.
        first: axis (2 = height, 3 = width) of the first two quarters.
        second: axis of the last two quarters.
    """
    q1, q2, q3, q4 = x.chunk(4, dim=1)
    return torch.cat(
        (_towards_end(q1, first), _towards_start(q2, first), _towards_end(q3, second), _towards_start(q4, second)),
        dim=1,
    )


class S2Attention(nn.Module):
    """Spatial-shift split attention (paper A, section 1.2; S2-MLPv2, arXiv 2108.01072).

    A 1x1 convolution makes three maps B, T and R. B and T are shifted along exchanged axes, R stays; a softmax over
    the three, computed per channel from pooled values, mixes them.

    Args:
        channels: a multiple of four.
        reduce: how the maps are pooled over their pixels. "sum" is the cited paper's letter, but over thousands of
            pixels it drives the softmax to one-hot before any training; "mean" is the same up to a factor in a weight.
    """

    def __init__(self, channels: int, reduce: str = "mean") -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"S2 attention shifts quarters of the channels: {channels} is not a multiple of 4")
        if reduce not in ("mean", "sum"):
            raise ValueError(f'reduce is "mean" or "sum", not {reduce!r}')
        self.sum_pixels = reduce == "sum"
        self.expand = nn.Conv2d(channels, 3 * channels, 1)
        self.squeeze = nn.Conv2d(channels, channels, 1, bias=False)
        self.excite = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.activation = nn.GELU()
        self.project = nn.Conv2d(channels, channels, 1)

    def weights(self, total: Tensor) -> Tensor:
        """The mixing weights of B, T and R, (B, 3, C, 1, 1), from their sum `total` (B, C, H, W)."""
        pooled = total.mean((2, 3), keepdim=True)
        if self.sum_pixels:
            pooled = pooled * (total.shape[2] * total.shape[3])
        scores = self.excite(self.activation(self.squeeze(pooled)))
        return scores.unflatten(1, (3, -1)).softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        b, t, r = self.expand(x).chunk(3, dim=1)
        b = spatial_shift(b, 2, 3)
        t = spatial_shift(t, 3, 2)
        weights = self.weights(b + t + r)
        return self.project(weights[:, 0] * b + weights[:, 1] * t + weights[:, 2] * r)


class PARB(nn.Module):
    """Parallel attention residual block (paper A, section 1.3): y = X + BN(Conv1x1(SE(X) + S2(X))).

    The scale of the batch normalisation starts at zero, so that a new block is the identity and a pretrained trunk
    is not disturbed. The paper names neither the normalisation nor its start.

    Args:
        channels: a multiple of four.
        se_kernel_size: kernel of the convolution in front of the squeeze-and-excitation.
        s2_reduce: see `S2Attention`.
        averaged: the network takes nothing but the mean of the block's map over its pixels. It changes nothing here,
            but the copy for inference then makes that mean and no map.
    """

    def __init__(
        self, channels: int, se_kernel_size: int = 3, s2_reduce: str = "mean", *, averaged: bool = False
    ) -> None:
        super().__init__()
        self.averaged = averaged
        self.se = SEAttention(channels, se_kernel_size)
        self.s2 = S2Attention(channels, s2_reduce)
        self.conv = conv(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return x + self.bn(self.conv(self.se(x) + self.s2(x)))


class PAM(nn.Module):
    """Parallel attention module (paper B, section 2.1, equations 1 to 4).

    F' = Conv1x1(F); F'' = alpha Mc(F') F' + beta Ms(F') F', with channel attention Mc and spatial attention Ms. It is
    computed as F' (alpha Mc + beta Ms): one product of the map's size in place of two.

    Args:
        in_channels: channels of F.
        channels: channels of F'; half of `in_channels` in equation 1.
        learnable_fusion: alpha and beta are learned, starting at one ("learnable weighted fusion" in the text), or
            stay at one (equation 4 to the letter).
        concat: put the two weighted maps side by side (2 * `channels` come out) and do not add them.
        reduction: the channel attention narrows its channels by this factor.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        learnable_fusion: bool = True,
        concat: bool = False,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        self.concat = concat
        self.conv = conv_bn_relu(in_channels, channels, kernel_size=1)
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        if learnable_fusion:
            self.alpha: Tensor = nn.Parameter(torch.ones(()))
            self.beta: Tensor = nn.Parameter(torch.ones(()))
        else:
            self.register_buffer("alpha", torch.ones(()), persistent=False)
            self.register_buffer("beta", torch.ones(()), persistent=False)

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha Mc (B, C, 1, 1) and beta Ms (B, 1, H, W) of the map F' (B, C, H, W); equations 2 and 3."""
        mc = torch.sigmoid(self.channel(x.mean((2, 3), keepdim=True)) + self.channel(x.amax((2, 3), keepdim=True)))
        ms = torch.sigmoid(self.spatial(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)))
        return self.alpha * mc, self.beta * ms

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, `channels`, H, W), or (B, 2 * `channels`, H, W) where `concat` is set."""
        x = self.conv(x)
        channel, spatial = self.attention(x)
        if self.concat:
            return torch.cat((x * channel, x * spatial), dim=1)
        return x * (channel + spatial)
