"""The attention modules against the papers' equations written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_mammo.networks.attention import PAM, PARB, S2Attention, SEAttention, spatial_shift

HEIGHT, WIDTH = 2, 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shifted_from_a_copy(x: Tensor) -> Tensor:
    """The first shift of S2-MLPv2: every line is read from an untouched copy."""
    c, y = x.shape[1] // 4, x.clone()
    y[:, :c, 1:] = x[:, :c, :-1]
    y[:, c : 2 * c, :-1] = x[:, c : 2 * c, 1:]
    y[:, 2 * c : 3 * c, :, 1:] = x[:, 2 * c : 3 * c, :, :-1]
    y[:, 3 * c :, :, :-1] = x[:, 3 * c :, :, 1:]
    return y


def shifted_in_place(x: Tensor) -> Tensor:
    """The same as it is often written: source and target share their memory."""
    c, y = x.shape[1] // 4, x.clone()
    y[:, :c, 1:] = y[:, :c, :-1]
    y[:, c : 2 * c, :-1] = y[:, c : 2 * c, 1:]
    y[:, 2 * c : 3 * c, :, 1:] = y[:, 2 * c : 3 * c, :, :-1]
    y[:, 3 * c :, :, :-1] = y[:, 3 * c :, :, 1:]
    return y


def test_shift_moves_each_quarter_by_one_pixel_and_leaves_the_border_line() -> None:
    image = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    down, up, right, left = spatial_shift(image.expand(1, 4, 3, 3), HEIGHT, WIDTH)[0].tolist()
    assert down == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
    assert up == [[4, 5, 6], [7, 8, 9], [7, 8, 9]]
    assert right == [[1, 1, 2], [4, 4, 5], [7, 7, 8]]
    assert left == [[2, 3, 3], [5, 6, 6], [8, 9, 9]]


def test_shift_equals_the_cloned_reference_and_not_the_in_place_version() -> None:
    x = torch.randn(2, 8, 56, 56)
    before = x.clone()
    shifted = spatial_shift(x, HEIGHT, WIDTH)
    assert torch.equal(shifted, shifted_from_a_copy(x))
    assert not torch.equal(shifted, shifted_in_place(x))
    assert torch.equal(x, before)


def test_the_second_shift_exchanges_the_axes() -> None:
    x = torch.randn(2, 8, 5, 7)
    exchanged = shifted_from_a_copy(x.transpose(2, 3)).transpose(2, 3)
    assert torch.equal(spatial_shift(x, WIDTH, HEIGHT), exchanged)


def test_a_single_pixel_has_nowhere_to_go() -> None:
    x = torch.randn(1, 4, 1, 1)
    assert torch.equal(spatial_shift(x, HEIGHT, WIDTH), x)


def test_s2_attention_follows_its_four_steps() -> None:
    s2, x = S2Attention(8), torch.randn(2, 8, 6, 5)
    b, t, r = s2.expand(x).split(8, dim=1)
    b = shifted_from_a_copy(b)
    t = shifted_from_a_copy(t.transpose(2, 3)).transpose(2, 3)
    maps = torch.stack((b, t, r), dim=1)
    pooled = maps.sum(1).mean((2, 3), keepdim=True)
    scores = s2.excite(torch.nn.functional.gelu(s2.squeeze(pooled))).reshape(2, 3, 8, 1, 1)
    expected = s2.project((scores.softmax(1) * maps).sum(1))
    torch.testing.assert_close(s2(x), expected)


def test_the_mean_keeps_the_mixing_soft_where_the_sum_makes_it_one_hot() -> None:
    total = torch.relu(torch.randn(4, 64, 56, 56))
    mean, summed = S2Attention(64, "mean").weights(total), S2Attention(64, "sum").weights(total)
    for weights in (mean, summed):
        torch.testing.assert_close(weights.sum(1), torch.ones(4, 64, 1, 1))
    assert mean.amax(1).mean() < 0.5
    assert summed.amax(1).mean() > 0.95


def test_mean_and_sum_are_one_function_up_to_a_factor_in_a_weight() -> None:
    mean, summed = S2Attention(8, "mean"), S2Attention(8, "sum")
    summed.load_state_dict(mean.state_dict())
    summed.squeeze.weight.data /= 6 * 5
    x = torch.randn(2, 8, 6, 5)
    torch.testing.assert_close(summed(x), mean(x))


def test_s2_attention_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="6 is not a multiple of 4"):
        S2Attention(6)
    with pytest.raises(ValueError, match="'max'"):
        S2Attention(8, "max")


def test_squeeze_and_excitation_weighs_whole_channels() -> None:
    se, x = SEAttention(32).eval(), torch.randn(2, 32, 6, 5)
    u = se.conv(x)
    first, _, second, _ = se.excite.fc
    weight = torch.sigmoid(second(torch.relu(first(u.mean((2, 3))))))
    torch.testing.assert_close(se(x), u * weight[:, :, None, None])


@pytest.mark.parametrize("training", [True, False])
def test_parb_is_the_identity_at_the_start(training: bool) -> None:
    x = torch.randn(2, 16, 7, 9)
    assert torch.equal(PARB(16).train(training)(x), x)


def test_parb_adds_both_attentions_once_it_has_learnt() -> None:
    parb, x = PARB(16).eval(), torch.randn(2, 16, 7, 9)
    parb.bn.weight.data.fill_(1)
    expected = x + parb.bn(parb.conv(parb.se(x) + parb.s2(x)))
    torch.testing.assert_close(parb(x), expected)
    assert (parb(x) - x).abs().max() > 1e-2


def test_parb_starts_to_learn_from_its_zero_scale() -> None:
    parb = PARB(16)
    parb(torch.randn(2, 16, 7, 9)).square().sum().backward()
    assert parb.bn.weight.grad is not None
    assert parb.bn.weight.grad.any()


def equation_4(pam: PAM, f: Tensor) -> tuple[Tensor, Tensor]:
    """alpha Mc(F') F' and beta Ms(F') F' as printed: two products of the map's size, pools from other functions."""
    f = pam.conv(f)
    pool = torch.nn.functional
    mc = torch.sigmoid(pam.channel(pool.adaptive_avg_pool2d(f, 1)) + pam.channel(pool.adaptive_max_pool2d(f, 1)))
    ms = torch.sigmoid(pam.spatial(torch.stack((f.mean(1), f.max(1).values), dim=1)))
    return pam.alpha * (mc * f), pam.beta * (ms * f)


def test_pam_halves_the_channels_and_equals_equation_4_unfused() -> None:
    pam, x = PAM(64, 32).eval(), torch.randn(2, 64, 9, 7)
    pam.alpha.data.fill_(0.7)
    pam.beta.data.fill_(1.6)
    by_channel, by_place = equation_4(pam, x)
    assert by_channel.shape == (2, 32, 9, 7)
    torch.testing.assert_close(pam(x), by_channel + by_place)


def test_pam_begins_as_equation_4_to_the_letter() -> None:
    learned, fixed = PAM(64, 32).eval(), PAM(64, 32, learnable_fusion=False).eval()
    fixed.load_state_dict(learned.state_dict(), strict=False)
    x = torch.randn(2, 64, 9, 7)
    assert torch.equal(learned(x), fixed(x))
    assert {"alpha", "beta"} <= dict(learned.named_parameters()).keys()
    assert not {"alpha", "beta"} & dict(fixed.named_parameters()).keys()


def test_pam_can_put_its_two_maps_side_by_side() -> None:
    pam, x = PAM(64, 32, concat=True).eval(), torch.randn(2, 64, 9, 7)
    torch.testing.assert_close(pam(x), torch.cat(equation_4(pam, x), dim=1))
