"""SegNet and Connected-SegNets: encoders that remember where each maximum was, decoders that put it back there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_mammo.networks.layers import conv_bn_relu, refuse_sides

__all__ = ["ConnectedSegNets", "SegNet"]


def _convolutions(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(conv_bn_relu(widths[i], widths[i + 1]) for i in range(len(widths) - 1)))


def _joined(x: Tensor, beside: list[Tensor], k: int) -> Tensor:
    return torch.cat((x, beside[k]), dim=1) if k < len(beside) else x


class Encoder(nn.Module):
    """VGG16's thirteen convolutions with batch normalisation, in five stages that end in 2x2 max pooling.

    Args:
        in_channels: channels of the input.
        width: channels of the first stage.
        joined: from the second stage on, a map as wide as the stage's input is put beside it.
    """

    def __init__(self, in_channels: int, width: int, joined: bool = False) -> None:
        super().__init__()
        w, n = width, 2 if joined else 1
        self.stage1 = _convolutions(in_channels, w, w)
        self.stage2 = _convolutions(n * w, 2 * w, 2 * w)
        self.stage3 = _convolutions(n * 2 * w, 4 * w, 4 * w, 4 * w)
        self.stage4 = _convolutions(n * 4 * w, 8 * w, 8 * w, 8 * w)
        self.stage5 = _convolutions(n * 8 * w, 8 * w, 8 * w, 8 * w)

    def forward(self, x: Tensor, beside: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The deepest map and the five stages' indices, the first stage's first.

        Args:
            x: (B, in_channels, H, W).
            beside: no map, or the four that are put beside the input of stages 2 to 5.
        """
        x, i1 = F.max_pool2d(self.stage1(x), 2, return_indices=True)
        x, i2 = F.max_pool2d(self.stage2(_joined(x, beside, 0)), 2, return_indices=True)
        x, i3 = F.max_pool2d(self.stage3(_joined(x, beside, 1)), 2, return_indices=True)
        x, i4 = F.max_pool2d(self.stage4(_joined(x, beside, 2)), 2, return_indices=True)
        x, i5 = F.max_pool2d(self.stage5(_joined(x, beside, 3)), 2, return_indices=True)
        return x, [i1, i2, i3, i4, i5]


class Decoder(nn.Module):
    """The encoder mirrored: unpooling, then convolutions; the last of a stage has the next stage's width."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        w = width
        self.dropout = nn.Dropout2d(dropout)
        self.stage5 = _convolutions(8 * w, 8 * w, 8 * w, 8 * w)
        self.stage4 = _convolutions(8 * w, 8 * w, 8 * w, 4 * w)
        self.stage3 = _convolutions(4 * w, 4 * w, 4 * w, 2 * w)
        self.stage2 = _convolutions(2 * w, 2 * w, 2 * w, w)
        self.stage1 = _convolutions(w, w)

    def forward(self, x: Tensor, indices: list[Tensor]) -> list[Tensor]:
        """The five stages' maps, the one of the image's size first; dropout acts behind the three deepest."""
        d5 = self.dropout(self.stage5(F.max_unpool2d(x, indices[4], (2, 2))))
        d4 = self.dropout(self.stage4(F.max_unpool2d(d5, indices[3], (2, 2))))
        d3 = self.dropout(self.stage3(F.max_unpool2d(d4, indices[2], (2, 2))))
        d2 = self.stage2(F.max_unpool2d(d3, indices[1], (2, 2)))
        return [self.stage1(F.max_unpool2d(d2, indices[0], (2, 2))), d2, d3, d4, d5]


class SegNet(nn.Module):
    """SegNet (Badrinarayanan, Kendall, Cipolla 2017, arXiv 1511.00561).

    Args:
        spatial_dims: 2; the comparison is one of image networks.
        in_channels: channels of the input.
        out_channels: score maps: 1 for a sigmoid, 2 or more for a softmax.
        width: channels of the first stage; the paper's is 64, and everything scales with it.
        dropout: probability of dropping a channel behind each of the decoder's three deepest stages.

    Raises:
        ValueError: `spatial_dims` is not 2.

    Example:
        >>> SegNet(spatial_dims=2, in_channels=3, out_channels=2, width=8).eval()(torch.zeros(1, 3, 64, 64)).shape
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
            raise ValueError(f"SegNet works on images: spatial_dims is 2, not {spatial_dims}")
        self.encoder = Encoder(in_channels, width)
        self.decoder = Decoder(width, dropout)
        self.out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Score maps: (B, in_channels, H, W) to (B, out_channels, H, W).

        Raises:
            ValueError: a side of the image is not a multiple of 32, or it is no batch (B, C, H, W).
        """
        refuse_sides(x, 32, "SegNet")
        nothing: list[Tensor] = []
        x, indices = self.encoder(x, nothing)
        return self.out(self.decoder(x, indices)[0])


class ConnectedSegNets(nn.Module):
    """Connected-SegNets (Alkhaleefah et al. 2022, Cancers 14, 4030): a second SegNet on the first one's last map.

    Behind each of the first four poolings of the second encoder, the first decoder's map of that size is put beside.
    The source's loss is the IoU loss, MONAI's `DiceLoss(jaccard=True)`.

    Args:
        spatial_dims: 2; the comparison is one of image networks.
        in_channels: channels of the input.
        out_channels: score maps: 1 for a sigmoid, 2 or more for a softmax.
        width: channels of the first stage; the paper's is 64, and everything scales with it.
        dropout: probability of dropping a channel behind each of either decoder's three deepest stages.

    Raises:
        ValueError: `spatial_dims` is not 2.

    Example:
        >>> network = ConnectedSegNets(spatial_dims=2, in_channels=3, out_channels=2, width=8).eval()
        >>> network(torch.zeros(1, 3, 64, 64)).shape
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
            raise ValueError(f"ConnectedSegNets works on images: spatial_dims is 2, not {spatial_dims}")
        self.encoder1 = Encoder(in_channels, width)
        self.decoder1 = Decoder(width, dropout)
        self.encoder2 = Encoder(width, width, joined=True)
        self.decoder2 = Decoder(width, dropout)
        self.out = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score maps: (B, in_channels, H, W) to (B, out_channels, H, W).

        Raises:
            ValueError: a side of the image is not a multiple of 32, or it is no batch (B, C, H, W).
        """
        refuse_sides(x, 32, "Connected-SegNets")
        nothing: list[Tensor] = []
        x, indices = self.encoder1(x, nothing)
        maps = self.decoder1(x, indices)
        x, indices = self.encoder2(maps[0], maps[1:])
        return self.out(self.decoder2(x, indices)[0])
