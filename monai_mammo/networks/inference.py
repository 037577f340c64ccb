"""Making a trained network faster without changing what it computes; nothing here is for training."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["for_inference"]

Network = TypeVar("Network", bound=nn.Module)

_AUTOCAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""The layers whose weights autocast would round anew in every pass."""


def for_inference(network: Network, image: Tensor, bfloat16: bool = False) -> Network:
    """A copy of a trained network for inference alone.

    Every batch normalisation is folded into the convolution in front of it, wherever that lies in the tree of modules,
    and the weights lie in channels-last order. The names in its state dict are no longer those of the plain network.

    Args:
        network: the network in any state; it stays as it is.
        image: any input (B, C, H, W) that it takes, to see which normalisation follows which convolution. A
            convolution whose map is read by something else too must not be folded and is not recognised; in none of
            the networks compared here is there one.
        bfloat16: the copy will run under bfloat16 autocast only; its convolutions' and linear layers' weights are
            rounded here, once. The outputs are those of autocast.
    """
    network = copy.deepcopy(network).eval()
    identities: dict[nn.Module, nn.Module] = {}
    for conv, norm in _pairs(network, image):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        identities[norm] = nn.Identity()
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in identities:
                setattr(parent, name, identities[child])
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        if bfloat16 and isinstance(module, _AUTOCAST):
            module.to(torch.bfloat16)
    return network


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
