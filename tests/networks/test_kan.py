"""Spline bases against their recursive definition, layers against their formula, heads on what they are for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from monai_mammo.networks.kan import (
    BilinearKAN,
    KANHead,
    KANLinear,
    LowRankBilinearKAN,
    RBFKANHead,
    Squash,
    cubic_bspline_bases,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def cox_de_boor(x: Tensor, knots: Tensor, i: int, degree: int) -> Tensor:
    if degree == 0:
        return ((knots[i] <= x) & (x < knots[i + 1])).to(x)
    left = (x - knots[i]) / (knots[i + degree] - knots[i])
    right = (knots[i + degree + 1] - x) / (knots[i + degree + 1] - knots[i + 1])
    return left * cox_de_boor(x, knots, i, degree - 1) + right * cox_de_boor(x, knots, i + 1, degree - 1)


@pytest.mark.parametrize("grid_size", [1, 5, 12])
def test_bases_equal_the_recursive_definition(grid_size: int) -> None:
    x = torch.linspace(-1.7, 1.7, 501, dtype=torch.float64)
    knots = torch.arange(-3, grid_size + 4, dtype=torch.float64) * (2 / grid_size) - 1
    expected = torch.stack([cox_de_boor(x, knots, i, 3) for i in range(grid_size + 3)], dim=-1)
    torch.testing.assert_close(cubic_bspline_bases(x, grid_size), expected)


@given(x=st.floats(-1, 1), grid_size=st.integers(1, 20))
def test_bases_sum_to_one_on_the_grid_and_four_at_most_are_active(x: float, grid_size: int) -> None:
    bases = cubic_bspline_bases(torch.tensor(x, dtype=torch.float64), grid_size)
    assert bases.sum().item() == pytest.approx(1)
    assert (bases >= 0).all()
    assert (bases > 1e-12).sum() <= 4


def test_bases_vanish_far_from_the_grid() -> None:
    assert not cubic_bspline_bases(torch.tensor([-9.0, 9.0])).any()


def test_each_samples_features_are_normalised_and_squashed() -> None:
    x = torch.tensor([[0.0, 2.0, 4.0], [1.0, 1.0, 7.0]])
    normalised = torch.tensor([[-(1.5**0.5), 0, 1.5**0.5], [-(0.5**0.5), -(0.5**0.5), 2**0.5]])
    torch.testing.assert_close(Squash(3)(x), torch.tanh(normalised), rtol=1e-4, atol=1e-4)


def test_a_layer_is_a_sum_of_learned_functions_of_one_input_each() -> None:
    layer, x = KANLinear(3, 2), torch.rand(4, 3) * 2 - 1
    expected = torch.zeros(4, 2)
    for i in range(3):
        for j in range(2):
            spline = cubic_bspline_bases(x[:, i]) @ layer.spline_weight[j, i]
            expected[:, j] += layer.base_weight[j, i] * nn.functional.silu(x[:, i]) + spline
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("head", [KANHead, BilinearKAN])
def test_the_gain_scales_the_random_part_of_a_start_and_nothing_else(head: type[KANHead | BilinearKAN]) -> None:
    def start(gain: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return head(64, 2, gain=gain).state_dict()

    large, small, constant = start(1.0), start(0.2), start(0.0)
    for name, fixed in constant.items():
        scale = 0.2 if name.endswith(("base_weight", "spline_weight")) else 1.0
        torch.testing.assert_close(small[name] - fixed, scale * (large[name] - fixed))


@pytest.mark.parametrize("head", [KANHead, BilinearKAN])
def test_both_parts_of_the_start_have_a_scale_and_the_gain_moves_it(head: type[KANHead | BilinearKAN]) -> None:
    for gain in (1.0, 0.2):
        layer = next(module for module in head(512, 16, gain=gain).modules() if isinstance(module, KANLinear))
        scale = gain * 512**-0.5
        assert layer.base_weight.detach().std().item() == pytest.approx(1.25 * scale, rel=0.05)
        assert layer.spline_weight.detach().std().item() == pytest.approx(0.1 * scale, rel=0.05)


def test_bilinear_head_weighs_all_pairs() -> None:
    head, x = BilinearKAN(16, 3, bases=4, interactions=5), torch.rand(2, 16)
    phi = nn.functional.silu(head.kan(head.squash(x)))
    z = torch.einsum("bp,mpq,bq->bm", phi, head.bilinear, phi)
    torch.testing.assert_close(head(x), head.out(nn.functional.silu(z)))


def test_low_rank_head_multiplies_two_sums_of_one_learned_function_a_feature() -> None:
    head, x = LowRankBilinearKAN(6, 3, interactions=5), torch.rand(2, 6)
    s = head.squash(x)
    columns = [head.base_weight[p] * nn.functional.silu(s[:, p]) for p in range(6)]
    h = torch.stack([c + cubic_bspline_bases(s[:, p]) @ head.spline_weight[p] for p, c in enumerate(columns)], dim=1)
    torch.testing.assert_close(head(x), head.out(nn.functional.silu((h @ head.left.T) * (h @ head.right.T))))


def test_gaussian_head_sums_bumps_as_wide_as_their_spacing_and_a_linear_base() -> None:
    head, x = RBFKANHead(4, 3, centres=5), torch.rand(2, 4)
    s = head.squash(x)
    expected = head.base(nn.functional.silu(s))
    weights = head.rbf.weight.view(3, 4, 5)
    for k, centre in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
        expected = expected + torch.exp(-(((s - centre) / 0.5) ** 2)) @ weights[:, :, k].T
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (KANHead(512, 2), 9_216),
        (KANHead(512, 2, hidden=(16,)), 74_016),
        (KANHead(512, 2, hidden=(64,)), 296_064),
        (BilinearKAN(512, 2), 37_394),
        (BilinearKAN(512, 2, bases=16, interactions=16), 77_858),
        (LowRankBilinearKAN(512, 2), 12_818),
        (RBFKANHead(512, 2), 9_218),
    ],
    ids=["kan", "kan-16", "kan-64", "bilinear", "bilinear-16", "low-rank", "rbf"],
)
def test_parameter_counts(head: nn.Module, expected: int) -> None:
    assert parameters(head) == expected


HEADS = [KANHead, BilinearKAN, LowRankBilinearKAN, RBFKANHead]


@pytest.mark.parametrize("head", HEADS)
def test_heads_do_not_fall_off_their_grid_on_large_features(head: type[nn.Module]) -> None:
    module, features = head(64, 2), torch.relu(torch.randn(4, 64))
    torch.testing.assert_close(module(1000 * features), module(features), rtol=1e-3, atol=1e-3)


def loss_after(head: nn.Module, features: Tensor, labels: Tensor, steps: int, lr: float) -> float:
    optimizer = torch.optim.Adam(head.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(features), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def interacting() -> tuple[Tensor, Tensor]:
    """Features and labels that need products: the class is whether two directions have the same sign."""
    features = torch.relu(torch.randn(256, 128))
    directions = (features - features.mean(0)) @ torch.randn(128, 2)
    return features, (directions.prod(1) > 0).long()


def test_bilinear_head_fits_interactions_at_the_papers_learning_rate() -> None:
    features, labels = interacting()
    assert loss_after(nn.Linear(128, 2), features, labels, steps=150, lr=3e-4) > 0.55
    assert loss_after(BilinearKAN(128, 2), features, labels, steps=150, lr=3e-4) < 0.25


def test_bilinear_head_learns_plain_directions_faster_than_from_basis_functions_about_zero() -> None:
    features = torch.relu(torch.randn(256, 128))
    labels = ((features - features.mean(0)) @ torch.randn(128) > 0).long()
    ours, even = BilinearKAN(128, 2), BilinearKAN(128, 2)
    even.load_state_dict(ours.state_dict())
    even.kan.spline_weight.data -= even.kan.spline_weight.mean((1, 2), keepdim=True)
    fast = loss_after(ours, features, labels, steps=40, lr=3e-4)
    assert fast < 0.95 * loss_after(even, features, labels, steps=40, lr=3e-4)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_fits_a_single_threshold(head: type[nn.Module]) -> None:
    features = torch.relu(torch.randn(128, 32))
    labels = (features[:, 3] > 0.5).long()
    assert loss_after(head(32, 2), features, labels, steps=120, lr=1e-2) < 0.2
