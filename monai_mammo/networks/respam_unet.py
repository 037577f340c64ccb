"""Paper B's network for tumour regions: a U-Net whose encoder is made of residual parallel attention (ResPAM).

One network with its readings and its ablation; losses, cropping and sliding windows are MONAI's.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from monai_mammo.networks.attention import PAM
from monai_mammo.networks.layers import conv, conv_bn_relu, read_imagenet_weights, refuse_sides, some_of

__all__ = ["MODES", "STEMS", "ResPAMUNet"]

MODES = ("expand8", "double", "concat", "keep", "plain")
"""Readings of the paper's halving in equation 1 against the numbers in its figure 3, see `ResPAMUNet`."""

STEMS = ("unet", "resnet")
"""Where the encoder's first level lies: at full size, or at half of it as in a ResNet."""


class Bottleneck(nn.Module):
    """ResNet-50's block of 1x1, 3x3 and 1x1 convolution; the stride is in the 3x3."""

    def __init__(self, in_channels: int, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv(channels, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResPAM(nn.Sequential):
    """Residual parallel attention (equations 5 and 6): three bottlenecks, the first of stride 2, then the attention.

    Args:
        in_channels: channels of the input.
        channels: the bottleneck's inner channels in ResNet-50; 4 * `channels` come out in every mode.
        mode: see `ResPAMUNet`.
        learnable_fusion: see `PAM`.
        checkpointing: see `ResPAMUNet`.
    """

    def __init__(
        self, in_channels: int, channels: int, mode: str, *, learnable_fusion: bool, checkpointing: bool
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        out = 4 * channels
        inner = 2 * channels if mode == "double" else channels
        expanded = 2 * out if mode in ("expand8", "double") else out
        self.add_module("0", Bottleneck(in_channels, inner, expanded, stride=2))
        self.add_module("1", Bottleneck(expanded, inner, expanded, stride=1))
        self.add_module("2", Bottleneck(expanded, inner, expanded, stride=1))
        if mode == "concat":
            self.add_module("pam", PAM(expanded, out // 2, learnable_fusion=learnable_fusion, concat=True))
        elif mode != "plain":
            self.add_module("pam", PAM(expanded, out, learnable_fusion=learnable_fusion))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, 2H, 2W) to (B, 4 * channels, H, W)."""
        if not torch.jit.is_scripting() and self.checkpointing and self.training:
            return checkpoint(self.run, x, use_reentrant=False)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """The level itself, without checkpointing."""
        for layer in self:
            x = layer(x)
        return x


class UpLevel(nn.Module):
    """One decoder level: bilinear doubling, the skip connection beside it, 3x3 convolutions, dropout of channels."""

    def __init__(
        self, in_channels: int, out_channels: int, convolutions: int, dropout: float, checkpointing: bool
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths = [in_channels] + [out_channels] * convolutions
        self.convs = nn.Sequential(*(conv_bn_relu(widths[i], widths[i + 1]) for i in range(convolutions)))
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W) and (B, S, 2H, 2W), C + S = in_channels, to (B, out_channels, 2H, 2W)."""
        if not torch.jit.is_scripting() and self.checkpointing and self.training:
            return checkpoint(self.run, x, skip, use_reentrant=False)
        return self.run(x, skip)

    def run(self, x: Tensor, skip: Tensor) -> Tensor:
        """The level itself, without checkpointing."""
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.dropout(self.convs(torch.cat((skip, x), dim=1)))


class ResPAMUNet(nn.Module):
    """ResPAM U-Net for tumour regions (paper B): four ResPAM levels down, four bilinear levels up.

    The paper halves the channels in its attention (equation 1) and yet draws the unhalved numbers. `mode` is how the
    two are brought together; every mode has the drawn 64, 256, 512, 1024, 2048 channels at its levels:

    - "expand8": the bottleneck expands by 8 in place of 4, the attention halves. Violates nothing; the default.
    - "double": the bottleneck is twice as wide, the attention halves. Violates nothing, 1.7 times the parameters.
    - "concat": the attention halves, its two weighted maps are put side by side. Gives up equation 4.
    - "keep": the attention does not halve. Gives up equation 1.
    - "plain": no attention; the ablation.

    Args:
        spatial_dims: 2; the network works on images only.
        in_channels: channels of the input; the paper's is 3, a grey mammogram repeated.
        out_channels: score maps: 1 for a sigmoid, 2 or more for a softmax.
        mode: see above.
        stem: "unet" (the first level at the image's size, the figure to the letter) or "resnet" (7x7 convolution of
            stride 2, a quarter of the cost; the score map is doubled bilinearly at the end).
        width: channels of the first level, a multiple of 4; the paper's is 64, and everything scales with it.
        dropout: probability of dropping a channel of the deepest map and behind each of the three levels above it;
            in the train state it makes Monte-Carlo samples.
        learnable_fusion: see `PAM`.
        checkpointing: in training, keep only the levels' borders and compute each level again on the way back: a
            sixth of the memory for an eighth more time. The batch statistics then enter the running means twice.

    Raises:
        ValueError: an argument outside the above.

    Example:
        >>> network = ResPAMUNet(spatial_dims=2, in_channels=3, out_channels=2, stem="resnet", width=8).eval()
        >>> network(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 2, 224, 224])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        mode: str = "expand8",
        stem: str = "unet",
        width: int = 64,
        dropout: float = 0.0,
        learnable_fusion: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"ResPAMUNet works on images: spatial_dims is 2, not {spatial_dims}")
        if mode not in MODES:
            raise ValueError(f"mode, the reading, is one of {', '.join(MODES)}, not {mode!r}")
        if stem not in STEMS:
            raise ValueError(f"stem is one of {', '.join(STEMS)}, not {stem!r}")
        if width < 4 or width % 4:
            raise ValueError(f"width is a positive multiple of 4, not {width}")

        def down(in_channels: int, channels: int) -> ResPAM:
            return ResPAM(in_channels, channels, mode, learnable_fusion=learnable_fusion, checkpointing=checkpointing)

        def up(in_channels: int, out_channels: int, convolutions: int, dropout: float) -> UpLevel:
            return UpLevel(in_channels, out_channels, convolutions, dropout, checkpointing)

        self.mode, self.stem = mode, stem
        self.multiple = 16 if stem == "unet" else 32
        w = width
        kernel, stride = (3, 1) if stem == "unet" else (7, 2)
        self.conv1 = conv(in_channels, w, kernel, stride)
        self.bn1 = nn.BatchNorm2d(w)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv_bn_relu(w, w)
        self.layer1 = down(w, w)
        self.layer2 = down(4 * w, 2 * w)
        self.layer3 = down(8 * w, 4 * w)
        self.layer4 = down(16 * w, 8 * w)
        self.dropout = nn.Dropout2d(dropout)
        self.up3 = up(32 * w + 16 * w, 8 * w, convolutions=2, dropout=dropout)
        self.up2 = up(8 * w + 8 * w, 4 * w, convolutions=2, dropout=dropout)
        self.up1 = up(4 * w + 4 * w, 2 * w, convolutions=2, dropout=dropout)
        self.up0 = up(2 * w + w, w, convolutions=1, dropout=0.0)
        self.out = nn.Conv2d(w, out_channels, 1)
        # Scores of about one at the start; torch's own, smaller weights leave a narrow network near zero for long.
        nn.init.normal_(self.out.weight, std=w**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Score maps: (B, in_channels, H, W) to (B, out_channels, H, W).

        Raises:
            ValueError: a side of the image is not a multiple of 16 (stem "unet") or 32 (stem "resnet"), or it is no
                batch (B, C, H, W).
        """
        refuse_sides(x, self.multiple, "stem " + self.stem)
        x0 = self.conv2(self.relu(self.bn1(self.conv1(x))))
        x1 = self.layer1(x0)
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        x = self.dropout(self.layer4(x3))
        x = self.up3(x, x3)
        x = self.up2(x, x2)
        x = self.up1(x, x1)
        x = self.out(self.up0(x, x0))
        if self.stem == "resnet":
            # A 1x1 convolution and bilinear resampling change places exactly, and a score map is 64 times smaller.
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return x

    def load_imagenet_weights(self, path: str | PathLike[str]) -> list[str]:
        """Read what fits from a state dict file of a ResNet-50 with torchvision's names.

        A convolution is taken together with its normalisation or not at all. At width 64 these are, of the three
        blocks that each ResPAM has of ResNet-50's three, four, six and three:

        - "plain", "keep", "concat": all of them.
        - "expand8": the 3x3 of every block, and the first block's leading 1x1; the rest has other widths.
        - "double": none.

        With stem "resnet" the 7x7 convolution is taken in every mode, and where the network takes one channel its
        weights are summed over RGB. Attention and decoder stay as they are.

        Args:
            path: file written by `torch.save(state_dict, path)`.

        Returns:
            The names of the parameters and buffers that were read.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no state dict, or lacks names of a ResNet-50, or nothing in it fits.
        """
        weights = read_imagenet_weights(path, self.conv1.in_channels)
        own = self.state_dict()
        taken: dict[str, Tensor] = {}
        missing, other_shape = [], []
        for weight, norm in self._resnet50_units():
            names = [name for name in own if name.startswith((f"{weight}.", f"{norm}."))]
            absent = [name for name in names if name not in weights]
            missing += absent
            if absent:
                continue
            if all(weights[name].shape == own[name].shape for name in names):
                taken |= {name: weights[name] for name in names}
            else:
                other_shape.append(f"{weight}.weight")
        if missing:
            raise ValueError(
                f"{path} is not a ResNet-50: it lacks {some_of(missing)}; give a state dict with torchvision's names"
            )
        # Only these two modes change the trunk's widths on purpose; anywhere else another shape is another network.
        if not taken or (other_shape and self.mode not in ("expand8", "double")):
            raise ValueError(
                f"{path} does not fit this network (other shape: {some_of(other_shape)}); give a ResNet-50 and build "
                'the network with width=64, in_channels 1 or 3, and not with mode="double" and stem="unet"'
            )
        self.load_state_dict(taken, strict=False)
        return list(taken)

    def _resnet50_units(self) -> Iterator[tuple[str, str]]:
        """The convolutions that ResNet-50 has under the same name, each with its normalisation."""
        if self.stem == "resnet":
            yield "conv1", "bn1"
        for layer in range(1, 5):
            for block in range(3):
                for k in range(1, 4):
                    yield f"layer{layer}.{block}.conv{k}", f"layer{layer}.{block}.bn{k}"
            yield f"layer{layer}.0.downsample.0", f"layer{layer}.0.downsample.1"
