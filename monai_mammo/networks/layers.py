"""What the networks share: convolutions, the sides that an image must have, ImageNet weights from a file."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from os import PathLike

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["conv", "conv_bn_relu", "read_imagenet_weights", "refuse_sides", "sides", "some_of"]

_SAFE_CHANNELS = 16


class _PickedConv2d(nn.Conv2d):
    """A strided 1x1 convolution that picks its pixels itself.

    On processors, PyTorch's own one writes past its memory in the backward pass where fewer channels come in than a
    vector holds (16 with AVX-512), in channels-last order (oneDNN issue 6035; seen with torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A padded convolution without bias for use before a normalisation; at stride 1 the size is kept.

    Its weights start from Kaiming's normal distribution (fan-out), as in a ResNet.
    """
    kind = _PickedConv2d if kernel_size == 1 and stride > 1 and in_channels < _SAFE_CHANNELS else nn.Conv2d
    layer = kind(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """`conv`, batch normalisation, ReLU; the size is kept."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel_size), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def sides(images: Tensor) -> tuple[int, int]:
    """Height and width of a batch of images.

    Raises:
        ValueError: it is not a batch (B, C, H, W).
    """
    if images.dim() != 4:
        raise ValueError(f"an input of {images.dim()} dimensions: give a batch (B, C, H, W), one image as image[None]")
    return images.shape[2], images.shape[3]


def refuse_sides(images: Tensor, multiple: int, network: str) -> None:
    """Refuse images that a network of several halvings cannot bring back to their own size.

    Raises:
        ValueError: a side is not a multiple of `multiple`; it names the next valid size. Or it is no batch.
    """
    height, width = sides(images)
    if height % multiple != 0 or width % multiple != 0:
        raise ValueError(
            f"image of {height} x {width} pixels: with {network} both sides are multiples of {multiple}; the next "
            f"valid size is {(height + multiple - 1) // multiple * multiple} x "
            f"{(width + multiple - 1) // multiple * multiple}"
        )


def read_imagenet_weights(path: str | PathLike[str], in_channels: int) -> dict[str, Tensor]:
    """A state dict file of one of torchvision's ResNets, without its classifier `fc.*`.

    Args:
        path: file written by `torch.save(state_dict, path)`.
        in_channels: channels of the network to be filled. For one, the first convolution's weights are summed over
            RGB, which gives the same as repeating the grey image three times.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no state dict.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a PyTorch state dict; save one with torch.save") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} holds no state dict (parameter names and tensors); save model.state_dict()")
    if in_channels == 1 and "conv1.weight" in weights:
        weights["conv1.weight"] = weights["conv1.weight"].sum(1, keepdim=True)
    return {name: value for name, value in weights.items() if not name.startswith("fc.")}


def some_of(names: Collection[str]) -> str:
    """The first four parameter names and the number of the others, for an error message."""
    shown = ", ".join(list(names)[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
