"""DS U-Net: a U-Net with six side outputs that are supervised in training and joined at the end.

Its loss is `monai_mammo.losses.DeepSupervisionLoss`; the source's dense CRF behind the network is not part of it.
"""

from __future__ import annotations

import torch
from monai.networks.blocks import ChannelSELayer
from torch import Tensor, nn
from torch.nn import functional as F

from monai_mammo.networks.layers import conv_bn_relu, refuse_sides

__all__ = ["DSUNet"]


def _level(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(in_channels, out_channels), conv_bn_relu(out_channels, out_channels))


def _side(in_channels: int, out_channels: int) -> nn.Sequential:
    return conv_bn_relu(in_channels, out_channels, kernel_size=1)


class AttentionUp(nn.Module):
    """Both maps weighted by channel, the deep one doubled and narrowed, the two added, two convolutions, dropout."""

    def __init__(self, channels: int, dropout: float, reduction: int = 16) -> None:
        super().__init__()
        c = channels
        # At least four channels in the middle: fewer would die together in a narrow network.
        self.attend_low = ChannelSELayer(2, c, r=c // max(4, c // reduction), acti_type_1="relu")
        self.attend_high = ChannelSELayer(2, 2 * c, r=2 * c // max(4, 2 * c // reduction), acti_type_1="relu")
        self.narrow = conv_bn_relu(2 * c, c)
        self.convs = _level(c, c)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """(B, C, 2H, 2W) from the encoder and (B, 2C, H, W) from below to (B, C, 2H, 2W)."""
        high = F.interpolate(self.attend_high(high), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.dropout(self.convs(self.attend_low(low) + self.narrow(high)))


class DSUNet(nn.Module):
    """Deeply supervised U-Net (Ravitha Rajalakshmi et al. 2020, Int J Imaging Syst Technol, 10.1002/ima.22516).

    Three levels of the encoder and three of the decoder have a side output: 1x1 convolution, normalisation, ReLU,
    bilinear to the image's size. The last 1x1 convolution reads them beside the decoder's last map.

    Args:
        spatial_dims: 2; the network works on images only.
        in_channels: channels of the input.
        out_channels: score maps: 1 for a sigmoid, 2 or more for a softmax.
        width: channels of the first level, at least 4; the source's is 64, and everything scales with it.
        dropout: probability of dropping a channel behind each decoder level; the source's is 0.5.
        deep_supervision: in the train state give the side outputs too, as MONAI's `DynUNet` gives its own:
            (B, 7, out_channels, H, W), the network's output first, then the encoder's three, then the decoder's.

    Raises:
        ValueError: `spatial_dims` is not 2.

    Example:
        >>> network = DSUNet(spatial_dims=2, in_channels=3, out_channels=2, width=8).eval()
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
        dropout: float = 0.5,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"DSUNet works on images: spatial_dims is 2, not {spatial_dims}")
        w = width
        self.deep_supervision = deep_supervision
        self.encode1 = _level(in_channels, w)
        self.encode2 = _level(w, 2 * w)
        self.encode3 = _level(2 * w, 4 * w)
        self.encode4 = _level(4 * w, 8 * w)
        self.encode5 = _level(8 * w, 16 * w)
        self.up4 = AttentionUp(8 * w, dropout)
        self.up3 = AttentionUp(4 * w, dropout)
        self.up2 = AttentionUp(2 * w, dropout)
        self.up1 = AttentionUp(w, dropout)
        # Encoder levels 2, 3, 4; decoder levels 4, 3, 2.
        self.sides = nn.ModuleList(_side(n * w, out_channels) for n in (2, 4, 8, 8, 4, 2))
        self.out = nn.Conv2d(w + 6 * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score maps: (B, in_channels, H, W) to (B, out_channels, H, W), or with the sides, see `deep_supervision`.

        Raises:
            ValueError: a side of the image is not a multiple of 16, or it is no batch (B, C, H, W).
        """
        refuse_sides(x, 16, "DS U-Net")
        size = x.shape[2:]
        x1 = self.encode1(x)
        x2 = self.encode2(F.max_pool2d(x1, 2))
        x3 = self.encode3(F.max_pool2d(x2, 2))
        x4 = self.encode4(F.max_pool2d(x3, 2))
        d4 = self.up4(x4, self.encode5(F.max_pool2d(x4, 2)))
        d3 = self.up3(x3, d4)
        d2 = self.up2(x2, d3)
        d1 = self.up1(x1, d2)
        maps = [x2, x3, x4, d4, d3, d2]
        sides: list[Tensor] = []
        for k, side in enumerate(self.sides):
            sides.append(F.interpolate(side(maps[k]), size=size, mode="bilinear", align_corners=False))
        output = self.out(torch.cat((d1, torch.cat(sides, dim=1)), dim=1))
        if self.deep_supervision and self.training:
            sides.insert(0, output)
            return torch.stack(sides, dim=1)
        return output
