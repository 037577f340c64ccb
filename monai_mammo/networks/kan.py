"""Kolmogorov-Arnold layers and the classification heads made of them; no image network.

Splines are cubic on a uniform grid over [-1, 1]; the heads bring their input there themselves.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "BilinearKAN",
    "KANHead",
    "KANLinear",
    "LowRankBilinearKAN",
    "RBFKANHead",
    "Squash",
    "cubic_bspline_bases",
]

GRID_SIZE = 5
"""Intervals of the grid over [-1, 1], as in the KAN paper's examples."""


def cubic_bspline_bases(x: Tensor, grid_size: int = GRID_SIZE) -> Tensor:
    """The cubic B-spline bases of a uniform grid over [-1, 1] at `x`.

    On a uniform grid every basis is the same bump moved by whole intervals, and with a = |distance from its centre in
    intervals| that bump is (max(0, 2 - a)^3 - 4 max(0, 1 - a)^3) / 6: no recursion over the spline's order.

    Args:
        x: any shape. Within [-1, 1] the bases sum to one, outside they fall to zero.
        grid_size: intervals over [-1, 1].

    Returns:
        The shape of `x` and behind it one axis of grid_size + 3 bases.
    """
    centres = torch.arange(-1, grid_size + 2, device=x.device, dtype=x.dtype)
    distance = torch.add(grid_size / 2 - centres, x.unsqueeze(-1), alpha=grid_size / 2).abs()
    return torch.sub(F.relu(2 - distance).pow(3), F.relu(1 - distance).pow(3), alpha=4) / 6


class Squash(nn.Module):
    """Normalise each sample's features and bring them into (-1, 1); pooled ReLU features would lie off the grid."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features) to (B, features)."""
        return torch.tanh(self.norm(x))


class KANLinear(nn.Module):
    """One KAN layer (arXiv 2404.19756): output j is the sum over i of w_ji SiLU(x_i) + sum_k c_jik B_k(x_i).

    Args:
        in_features: inputs, expected in [-1, 1].
        out_features: outputs.
        grid_size: intervals of the spline grid; (grid_size + 4) * in_features * out_features parameters.
        gain: scale of the random functions that it starts from.
    """

    def __init__(self, in_features: int, out_features: int, grid_size: int = GRID_SIZE, gain: float = 1.0) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, in_features, grid_size + 3))
        # SiLU(tanh(normal)) has a mean square of 0.11; with this scale the outputs start at about 0.4.
        nn.init.normal_(self.base_weight, std=gain * 1.25 * in_features**-0.5)
        nn.init.normal_(self.spline_weight, std=gain * 0.1 * in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) to (B, out_features)."""
        splines = cubic_bspline_bases(x, self.grid_size).flatten(1)
        return F.linear(F.silu(x), self.base_weight) + F.linear(splines, self.spline_weight.flatten(1))


class KANHead(nn.Sequential):
    """The ordinary KAN of layer widths [in_features, *hidden, num_classes], reading "K1" of paper A's section 1.4."""

    def __init__(self, in_features: int, num_classes: int, hidden: tuple[int, ...] = (), gain: float = 1.0) -> None:
        widths = (in_features, *hidden, num_classes)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [Squash(before), KANLinear(before, after, gain=gain)]
        super().__init__(*layers)


class BilinearKAN(nn.Module):
    """Bilinear KAN head, reading "K2": the one that uses every clause of paper A's section 1.4.

    phi = SiLU(KANLinear(x)); z_m = phi^T W_m phi, all pairs; out = Linear(SiLU(z)).

    Args:
        in_features: pooled features.
        num_classes: outputs.
        bases: length q of phi.
        interactions: number m of bilinear forms W_m.
        gain: of the KAN layer.
    """

    def __init__(
        self, in_features: int, num_classes: int, bases: int = 8, interactions: int = 8, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.squash = Squash(in_features)
        self.kan = KANLinear(in_features, bases, gain=gain)
        # The spline bases sum to one, so every phi starts about SiLU(1.28) = 1: there, products have a linear part,
        # which learns at once; about zero they are even in the features. The forms are random (the identity would
        # start all alike and stay stuck) and small enough for the SiLU behind them to pass either sign.
        with torch.no_grad():
            self.kan.spline_weight.add_(1.28 / in_features)
        self.bilinear = nn.Parameter(0.25 * bases**-0.5 * torch.randn(interactions, bases, bases))
        self.out = nn.Linear(interactions, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) to (B, num_classes)."""
        phi = F.silu(self.kan(self.squash(x)))
        pairs = phi.unsqueeze(2) * phi.unsqueeze(1)
        return self.out(F.silu(F.linear(pairs.flatten(1), self.bilinear.flatten(1))))


class LowRankBilinearKAN(nn.Module):
    """Low-rank bilinear KAN head, reading "K3": z_m = (u_m . h(x)) (v_m . h(x)) over all features.

    h_p(x_p) = w_p SiLU(x_p) + sum_k c_pk B_k(x_p) is one learned function for each feature.

    Args:
        in_features: pooled features.
        num_classes: outputs.
        interactions: number m of products.
        grid_size: intervals of the spline grid.
    """

    def __init__(self, in_features: int, num_classes: int, interactions: int = 8, grid_size: int = GRID_SIZE) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.squash = Squash(in_features)
        self.base_weight = nn.Parameter(1 + 0.1 * torch.randn(in_features))
        self.spline_weight = nn.Parameter(0.1 * torch.randn(in_features, grid_size + 3))
        # The mean square of KANLinear's comment lets both factors of a product start at about 0.9.
        self.left = nn.Parameter(2.5 * in_features**-0.5 * torch.randn(interactions, in_features))
        self.right = nn.Parameter(2.5 * in_features**-0.5 * torch.randn(interactions, in_features))
        self.out = nn.Linear(interactions, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) to (B, num_classes)."""
        x = self.squash(x)
        splines = (cubic_bspline_bases(x, self.grid_size) * self.spline_weight).sum(-1)
        h = self.base_weight * F.silu(x) + splines
        return self.out(F.silu(F.linear(h, self.left) * F.linear(h, self.right)))


class RBFKANHead(nn.Module):
    """One KAN layer on Gaussian bumps in place of B-splines ("FastKAN", arXiv 2405.06721), plus a linear base.

    Args:
        in_features: pooled features.
        num_classes: outputs.
        centres: Gaussians for each feature, evenly spaced over [-1, 1]; their width is their spacing.
    """

    def __init__(self, in_features: int, num_classes: int, centres: int = 8) -> None:
        super().__init__()
        self.centres = centres
        self.squash = Squash(in_features)
        self.rbf = nn.Linear(in_features * centres, num_classes, bias=False)
        self.base = nn.Linear(in_features, num_classes)
        nn.init.normal_(self.rbf.weight, std=0.1 * in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) to (B, num_classes)."""
        x = self.squash(x)
        centres = torch.linspace(-1, 1, self.centres, device=x.device, dtype=x.dtype)
        bumps = torch.exp(-(((x.unsqueeze(-1) - centres) * ((self.centres - 1) / 2)) ** 2))
        return self.base(F.silu(x)) + self.rbf(bumps.flatten(1))
