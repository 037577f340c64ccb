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

__all__ = ["FusedPARB", "for_inference"]

Network = TypeVar("Network", bound=nn.Module)

_AUTOCAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""The layers whose weights autocast would round anew in every pass."""


def for_inference(network: Network, image: Tensor, bfloat16: bool = False) -> Network:
    """A copy of a trained network for inference alone.

    Every batch normalisation is folded into the convolution in front of it, wherever that lies in the tree of modules,
    every `PARB` becomes a `FusedPARB`, and the weights lie in channels-last order. The names in its state dict are no
    longer those of the plain network.

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
    maps: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensor kept, for only then is its id its own
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            maps[id(output)] = (module, output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in maps:
            pairs.append((maps[id(inputs[0])][0], module))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return [(conv, norm) for conv, norm in pairs if calls[conv] == 1 and calls[norm] == 1]


class FusedPARB(nn.Module):
    """What a `PARB` computes, with fewer passes over its maps; for inference only, no gradient passes.

    - The mixing weights of the S2 attention need nothing of its maps but their means, and these follow from the
      input's mean and its four border lines: a map moved down by one has gained its first line and lost its last. So
      the weights are known before the maps exist, and the maps are shifted, weighted and added in one go.
    - The channels are put in an order in which each of the four directions is one slice.
    - The last 1x1 convolution of the attention and the block's own are one matrix.

    Args:
        parb: a block whose normalisations are folded.
    """

    def __init__(self, parb: PARB) -> None:
        super().__init__()
        s2, c = parb.s2, parb.conv.out_channels
        b, t, r = torch.arange(3 * c).view(3, 4, c // 4)  # the expanded map's channels by quarter
        # Quarters 1 and 3 mix a map moved down, one moved right and one at rest; 2 and 4: up, left, at rest.
        vertical = torch.cat((b[0], t[2], b[1], t[3]))
        horizontal = torch.cat((t[0], b[2], t[1], b[3]))
        order = torch.cat((r[0], r[2], r[1], r[3], vertical, horizontal))
        outputs = order[:c] - 2 * c
        with torch.no_grad():
            expand, bias = s2.expand.weight.flatten(1)[order], s2.expand.bias[order]  # type: ignore[index]
            sign = torch.ones(c, 1, device=expand.device, dtype=expand.dtype)
            sign[c // 2 :] = -1
            rest, along_height, along_width = expand.chunk(3)
            means = torch.cat((rest + along_height + along_width, sign * along_height, sign * along_width), dim=1)
            squeeze = s2.squeeze.weight.flatten(1)[:, outputs]
            last, project = parb.conv.weight.flatten(1), s2.project.weight.flatten(1)
            self.expand = _linear(expand, bias)
            self.squeeze = _linear(squeeze @ means, squeeze @ bias.view(3, c).sum(0))
            self.excite = _linear(s2.excite.weight.flatten(1)[order])
            self.join = _linear(
                torch.cat(((last @ project)[:, outputs], last), dim=1),
                last @ s2.project.bias + parb.conv.bias,  # type: ignore[operator]
            )
        self.se = parb.se
        self.sum_pixels = s2.sum_pixels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W), in channels-last order."""
        maps = x.permute(0, 2, 3, 1)
        n, height, width, c = maps.shape
        attended = self.se.conv(x)
        scale = self.se.excite.fc(attended.mean((2, 3)))
        expanded = self.expand(maps)
        weights = self._weights(maps).to(expanded.dtype)
        both = expanded.new_empty(n, height, width, 2 * c)
        torch.mul(attended.permute(0, 2, 3, 1), scale.view(n, 1, 1, c), out=both[..., c:])
        _mix(expanded, weights.view(n, 1, 1, 3 * c), both[..., :c])
        return (self.join(both) + maps).permute(0, 3, 1, 2)

    def _weights(self, maps: Tensor) -> Tensor:
        """Of the maps at rest, moved vertically and moved horizontally, (B, 3C), from the input (B, H, W, C)."""
        n, height, width, c = maps.shape
        pixels = height * width
        vertical = (maps[:, 0] - maps[:, -1]).sum(1) / pixels
        horizontal = (maps[:, :, 0] - maps[:, :, -1]).sum(1) / pixels
        pooled = self.squeeze(torch.cat((maps.mean((1, 2)), vertical, horizontal), dim=1))
        if self.sum_pixels:
            pooled = pooled * pixels
        return self.excite(F.gelu(pooled)).view(n, 3, c).softmax(dim=1)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _mix(expanded: Tensor, weights: Tensor, out: Tensor) -> None:
    """The weighted sum of the maps at rest, moved by one pixel vertically and horizontally; border lines stay.

    Args:
        expanded: (B, H, W, 3C): at rest, moved vertically, moved horizontally; of each kind the first half down or
            right, the second half up or left.
        weights: (B, 1, 1, 3C).
        out: (B, H, W, C), is filled.
    """
    c = out.shape[-1]
    half = c // 2
    torch.mul(expanded[..., :c], weights[..., :c], out=out)
    for axis, start in ((1, c), (2, 2 * c)):
        last = out.shape[axis] - 1
        for first, forth in ((0, True), (half, False)):
            target = out[..., first : first + half]
            moved = expanded[..., start + first : start + first + half]
            weight = weights[..., start + first : start + first + half]
            border = 0 if forth else last
            target.narrow(axis, int(forth), last).addcmul_(moved.narrow(axis, int(not forth), last), weight)
            target.narrow(axis, border, 1).addcmul_(moved.narrow(axis, border, 1), weight)
