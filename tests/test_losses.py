"""The comparison systems' losses against their formulas, on masks that hurt."""

import math

import pytest
import torch
from skimage.morphology import disk, erosion

from monai_mammo.losses import DeepSupervisionLoss, DiceIoULoss, boundary_ring


@pytest.fixture
def mask():
    """One lesion within the image (with a hole of a pixel), one cut by its border, one of a single pixel, none."""
    mask = torch.zeros(4, 1, 32, 40)
    mask[0, 0, 8:24, 10:30] = 1
    mask[0, 0, 16, 20] = 0
    mask[1, 0, :12, 25:] = 1
    mask[2, 0, 16, 20] = 1
    return mask


def scores_of(mask, certainty):
    """Two score maps whose softmax is sure of the mask to the given degree."""
    return torch.cat((-mask, mask), dim=1) * certainty - torch.cat((mask - 1, 1 - mask), dim=1) * certainty


def test_dice_iou_loss_is_the_weighted_sum_of_both_overlaps(mask):
    torch.manual_seed(0)
    scores = torch.randn(4, 2, 32, 40)
    p = scores.softmax(1)[:, 1]
    t = mask[:, 0]
    dice = (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    both = (p * t).sum((1, 2))
    iou = ((both + 1) / (p.sum((1, 2)) + t.sum((1, 2)) - both + 1)).mean()
    torch.testing.assert_close(DiceIoULoss()(scores, mask), 1 - (0.4 * dice + 0.6 * iou))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_perfect_map_costs_nothing_and_a_wrong_one_much(mask, channels):
    scores = scores_of(mask, 30.0)
    scores = scores[:, 1:] - scores[:, :1] if channels == 1 else scores
    assert DiceIoULoss()(scores, mask) == pytest.approx(0, abs=1e-5)
    assert DiceIoULoss()(-scores, mask) > 0.8


def test_three_score_maps_are_refused(mask):
    with pytest.raises(ValueError, match="1 or 2 score maps are expected, not 3"):
        DiceIoULoss()(torch.zeros(4, 3, 32, 40), mask)


def test_the_ring_is_the_mask_without_its_erosion_by_a_disk(mask):
    for image, ring in zip(mask[:, 0], boundary_ring(mask)[:, 0], strict=True):
        assert torch.equal(ring, image - torch.from_numpy(erosion(image.numpy(), disk(3))))


def test_a_lesion_cut_by_the_image_has_no_rim_there(mask):
    ring = boundary_ring(mask)[1, 0]
    assert ring[0, 32:].sum() == 0
    assert ring[:12, 25:28].all()
    assert torch.equal(boundary_ring(mask)[2], mask[2])
    assert boundary_ring(mask)[3].sum() == 0


def test_deep_supervision_weighs_the_sides_less_at_every_step(mask):
    torch.manual_seed(0)
    scores = torch.randn(4, 7, 2, 32, 40)
    loss = DeepSupervisionLoss(steps=4)
    output = loss(scores[:, 0], mask)
    ring = boundary_ring(mask)
    sides = sum(loss(scores[:, k], ring if k <= 3 else mask) for k in range(1, 7))
    for weight in (1, 0.75**2, 0.5**2, 0.25**2, 0, 0):
        torch.testing.assert_close(loss(scores, mask), output + weight * sides)


def test_log_dice_is_the_sources_formula():
    scores, mask = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1  # 8 pixels; every probability is a half
    expected = (-math.log((2 * 4 + 1) / (8 + 8 + 1))) ** 0.3
    assert DeepSupervisionLoss(steps=1)(scores, mask).item() == pytest.approx(expected, rel=1e-5)


def test_a_perfect_map_has_a_finite_gradient(mask):
    scores = scores_of(mask, 30.0).requires_grad_()
    DeepSupervisionLoss(steps=1)(scores, mask).backward()
    assert scores.grad.isfinite().all()


def test_the_step_survives_a_resumed_training(mask):
    torch.manual_seed(0)
    scores = torch.randn(4, 7, 2, 32, 40)
    first, second = DeepSupervisionLoss(steps=10), DeepSupervisionLoss(steps=10)
    for _ in range(3):
        first(scores, mask)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(scores, mask), first(scores, mask))
