"""Making a trained network faster without changing what it computes; nothing here is for training."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from monai_mammo.networks.attention import PARB
from monai_mammo.networks.kan import BilinearKAN, KANLinear

__all__ = ["FusedPARB", "for_inference"]

Network = TypeVar("Network", bound=nn.Module)

_AUTOCAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, KANLinear, BilinearKAN)
"""The layers whose weights autocast would round anew in every pass."""


def for_inference(network: Network, image: Tensor, bfloat16: bool = False) -> Network:
    """A copy of a trained network for inference alone.

    Every batch normalisation is folded into the convolution in front of it, wherever that lies in the tree of modules,
    every `PARB` inside becomes a `FusedPARB`, and the weights lie in channels-last order. The names in its state dict
    are no longer those of the plain network.

    Args:
        network: the network in any state; it stays as it is.
        image: any input (B, C, H, W) that it takes, to see which normalisation follows which convolution. A
            convolution whose map is read by something else too must not be folded and is not recognised; in none of
            the networks compared here is there one.
        bfloat16: the copy will run under bfloat16 autocast only; its convolutions' and linear layers' weights are
            rounded here, once. The outputs are those of autocast.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    replacements: dict[nn.Module, nn.Module] = {}
    for conv, norm in _pairs(network, image):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        replacements[norm] = nn.Identity()
    _replace(network, replacements)
    _replace(network, {module: FusedPARB(module) for module in network.modules() if isinstance(module, PARB)})
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        if bfloat16 and isinstance(module, _AUTOCAST):
            module.to(torch.bfloat16)
    return network


def _replace(network: nn.Module, replacements: dict[nn.Module, nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in replacements:
                setattr(parent, name, replacements[child])


def _pairs(network: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions with the normalisations that read them, where each runs once in a pass."""
    # With the tensor kept, for only then is its id its own, and its version, which an activation in place raises.
    maps: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            maps[id(output)] = (module, output, output._version)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in maps:
            conv, _, version = maps[id(inputs[0])]
            if inputs[0]._version == version:
                pairs.append((conv, module))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    with torch.inference_mode(False), torch.no_grad():  # in inference mode tensors have no version
        network(image)
    for hook in hooks:
        hook.remove()
    return [(conv, norm) for conv, norm in pairs if calls[conv] == 1 and calls[norm] == 1]


class FusedPARB(nn.Module):
    """What a `PARB` computes, with fewer passes over its maps; for inference only, no gradient passes.

    - The mixing weights of the S2 attention need nothing of its maps but their means, and these follow from the
      input's sum and its four border lines: a map moved down by one has gained its first line and lost its last. All
      of that, up to the activation, is one matrix. So the weights are known before the maps, and the maps are never
      made: expanding, moving, weighting and adding are one 2x2 convolution of the input with its border lines
      repeated. Half of the channels (put in an order in which
      they lie together) read the pixel itself, the one above it and the one on its left, the other half the pixel
      itself, the one below and the one on its right; the weights scale the kernel.
    - The last 1x1 convolution of the attention and the block's own are one matrix.
    - Where the network takes nothing but the mean of the block's map (`PARB.averaged`), that mean comes out, as a map
      of one pixel: behind the squeeze-and-excitation's ReLU everything is linear.

    Args:
        parb: a block whose normalisations are folded.
    """

    taps: Tensor
    kernel: Tensor
    bias: Tensor

    def __init__(self, parb: PARB) -> None:
        super().__init__()
        s2, c = parb.s2, parb.conv.out_channels
        half = c // 2
        b, t, r = torch.arange(3 * c).view(3, 4, c // 4)  # the expanded map's channels by quarter
        # Quarters 1 and 3 mix a map at rest, one moved down, one moved right; 2 and 4: at rest, up, left.
        vertical = torch.cat((b[0], t[2], b[1], t[3]))
        horizontal = torch.cat((t[0], b[2], t[1], b[3]))
        order = torch.cat((r[0], r[2], r[1], r[3], vertical, horizontal))
        outputs = order[:c] - 2 * c
        # Which of the three maps each of the 2x2 kernel's places reads; -1: none.
        places = torch.tensor(((-1, 1, 2, 0), (0, 2, 1, -1))).repeat_interleave(half, dim=0)
        with torch.no_grad():
            expand, bias = s2.expand.weight.flatten(1)[order], s2.expand.bias[order]  # type: ignore[index]
            last, project = parb.conv.weight.flatten(1), s2.project.weight.flatten(1)
            squeeze = s2.squeeze.weight.flatten(1)[:, outputs]
            if parb.averaged:  # the means are needed themselves
                self.expand, self.squeeze = _linear(expand, bias), _linear(squeeze)
            else:
                still, upright, level = expand.view(3, c, c)
                forth = torch.ones(c, 1).to(expand)  # down and to the right; the other half up and to the left
                forth[half:] = -1
                moved = (forth * upright, -forth * upright, forth * level, -forth * level)
                from_sums = torch.cat((still + upright + level, *moved), dim=1)
                self.squeeze = _linear(squeeze @ from_sums, squeeze @ bias.view(3, c).sum(0))
            self.excite = _linear(s2.excite.weight.flatten(1)[order])
            self.join = _linear(
                torch.cat(((last @ project)[:, outputs], last), dim=1),
                last @ s2.project.bias + parb.conv.bias,  # type: ignore[operator]
            )
            taps = places.clamp(min=0) * c + torch.arange(c).view(c, 1)
            kernel = expand[taps] * (places >= 0).unsqueeze(-1).to(expand)
        self.register_buffer("taps", taps.flatten().to(expand.device))
        self.register_buffer("kernel", kernel.view(c, 2, 2, c).permute(0, 3, 1, 2))  # in channels-last order
        self.register_buffer("bias", bias.view(3, c))
        self.se = parb.se
        self.sum_pixels = s2.sum_pixels
        self.averaged = parb.averaged

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W), in channels-last order; to (B, C, 1, 1) where the mean alone is asked for."""
        n, c, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1)
        sums = _sums(pixels) / (height * width)
        means = self._means(sums) if self.averaged else None
        pooled = self.squeeze(sums.flatten(1) if means is None else means.sum(1))
        if self.sum_pixels:
            pooled = pooled * (height * width)
        weights = self.excite(F.gelu(pooled)).view(n, 3, c).softmax(dim=1, dtype=self.kernel.dtype)
        attended = self.se.conv(x).permute(0, 2, 3, 1)
        mean_attended = _mean(attended)
        scale = self.se.excite.fc(mean_attended)
        if means is not None:
            mean, mixed = sums[:, 0], (weights * means).sum(1).to(sums.dtype)
            return (mean + self.join(torch.cat((mixed, scale * mean_attended), dim=1))).view(n, c, 1, 1)
        both = torch.cat((*self._mixed(x, weights), attended * scale.view(n, 1, 1, c)), dim=-1)
        return self.join(both).add_(pixels).permute(0, 3, 1, 2)

    def _means(self, sums: Tensor) -> Tensor:
        """Means of the maps at rest, moved vertically, moved horizontally, (B, 3, C), from what `_sums` gives."""
        n, _, c = sums.shape
        half = c // 2
        total, rows, columns = sums[:, :1], sums[:, 1:2] - sums[:, 2:3], sums[:, 3:4] - sums[:, 4:5]
        inputs = torch.cat((total, total + rows, total - rows, total + columns, total - columns), dim=1)
        rest, *moved = self.expand(inputs).unbind(1)
        halves = (half_map[:, c + i * half :][:, :half] for i, half_map in enumerate(moved))
        return torch.cat((rest[:, :c], *halves), dim=1).view(n, 3, c)

    def _mixed(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sums of the three maps, each half of the channels by itself, (B, H, W, C / 2)."""
        n, c, _, _ = x.shape
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        kernels = self.kernel * weights.flatten(1)[:, self.taps].view(n, c, 1, 2, 2)
        biases = (weights * self.bias).sum(1)
        maps = [F.conv2d(padded[i : i + 1], kernels[i], biases[i]) for i in range(n)]
        maps = maps or [F.conv2d(padded, self.kernel)]  # an empty batch stays one
        mixed = (torch.cat(maps) if n > 1 else maps[0]).permute(0, 2, 3, 1)
        # A window's last pixel is the first half's own, its first pixel the second half's.
        return mixed[:, :-1, :-1, : c // 2], mixed[:, 1:, 1:, c // 2 :]


def _sums(pixels: Tensor) -> Tensor:
    """(B, H, W, C) to (B, 5, C): over all pixels, the first and the last row, the first and the last column."""
    total = pixels.flatten(1, 2).sum(1, keepdim=True)
    rows = torch.cat((pixels[:, :1], pixels[:, -1:]), dim=1).sum(2)
    columns = torch.cat((pixels[:, :, :1], pixels[:, :, -1:]), dim=2).sum(1)
    return torch.cat((total, rows, columns), dim=1)


def _mean(pixels: Tensor) -> Tensor:
    """(B, H, W, C) to (B, C); as the sum of a matrix's rows, this is several times faster than over two axes."""
    matrix = pixels.flatten(1, 2)
    return matrix.sum(1) / matrix.shape[1]


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
