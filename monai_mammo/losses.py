"""The comparison systems' own losses, as far as MONAI lacks them; the IoU loss is its `DiceLoss(jaccard=True)`."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DeepSupervisionLoss", "DiceIoULoss", "boundary_ring"]


def _foreground(scores: Tensor) -> Tensor:
    """Probability of the lesion (B, 1, H, W) from one score map (sigmoid) or two (softmax)."""
    if scores.shape[1] == 1:
        return scores.sigmoid()
    if scores.shape[1] == 2:
        return scores.softmax(dim=1)[:, 1:]
    raise ValueError(f"one lesion class: 1 or 2 score maps are expected, not {scores.shape[1]}")


class DiceIoULoss(nn.Module):
    """Connected-UNets' loss, 1 - (0.4 Dice + 0.6 IoU) on probabilities; the source leaves out the constant.

    As in the source's code, Dice is taken over the batch and IoU over each image, both smoothed by one.

    Args:
        dice: weight of Dice; the IoU's is what is left to one.
    """

    def __init__(self, dice: float = 0.4) -> None:
        super().__init__()
        self.weight = dice
        self.dice = DiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)
        self.iou = DiceLoss(jaccard=True, smooth_nr=2.0, smooth_dr=2.0)  # MONAI doubles the overlap and the union

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """A scalar from scores (B, 1 or 2, H, W) and a mask of zeros and ones (B, 1, H, W).

        Raises:
            ValueError: there are more than two score maps.
        """
        probability = _foreground(scores)
        return self.weight * self.dice(probability, mask) + (1 - self.weight) * self.iou(probability, mask)


def boundary_ring(mask: Tensor, radius: int = 3) -> Tensor:
    """A mask without its erosion by a disk: the lesion's rim, `radius` pixels wide.

    Outside of the image nothing is known, so a lesion that the image cuts has no rim there.

    Args:
        mask: zeros and ones (B, 1, H, W).
        radius: of the disk, in pixels.
    """
    mask = mask.float()
    offset = torch.arange(-radius, radius + 1, device=mask.device)
    disk = (offset.square().unsqueeze(1) + offset.square() <= radius**2).to(mask.dtype)
    background_near = F.conv2d(1 - mask, disk.view(1, 1, *disk.shape), padding=radius) > 0.5
    return mask * background_near


class DeepSupervisionLoss(nn.Module):
    """DS U-Net's loss: that of the output, and with a weight that fades to zero those of the six side outputs.

    Each is (-log soft Dice)^0.3, averaged over the images. The encoder's sides are held against the lesion's rim, the
    decoder's against the lesion. The weight is (1 - t / `steps`)^2 at training step t; the source counts epochs.

    The count is part of the state dict, so that a training that is resumed goes on where it was.

    Args:
        steps: training steps after which the sides no longer count.
        encoder_sides: how many of the side outputs, the first ones, are the encoder's.
        radius: width of the rim, in pixels.

    Raises:
        ValueError: `steps` is less than one.
    """

    step: Tensor

    def __init__(self, steps: int, encoder_sides: int = 3, radius: int = 3) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps is at least 1, not {steps}")
        self.steps, self.encoder_sides, self.radius = steps, encoder_sides, radius
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """A scalar. One map alone counts by itself; every call on several is a training step.

        Args:
            scores: (B, 1 or 2, H, W), or (B, K, 1 or 2, H, W) with the output first and the sides behind it.
            mask: zeros and ones (B, 1, H, W).

        Raises:
            ValueError: there are more than two score maps.
        """
        if scores.ndim == 4:
            return self._log_dice(scores, mask)
        output, *sides = scores.unbind(dim=1)
        rim = boundary_ring(mask, self.radius)
        targets = [rim if k < self.encoder_sides else mask for k in range(len(sides))]
        aside = torch.stack([self._log_dice(side, target) for side, target in zip(sides, targets, strict=True)]).sum()
        weight = max(0.0, 1 - int(self.step) / self.steps) ** 2
        self.step += 1
        return self._log_dice(output, mask) + weight * aside

    @staticmethod
    def _log_dice(scores: Tensor, mask: Tensor) -> Tensor:
        probability, mask = _foreground(scores).flatten(1), mask.flatten(1).to(scores.dtype)
        dice = (2 * (probability * mask).sum(1) + 1) / (probability.sum(1) + mask.sum(1) + 1)
        # At a Dice of one the power's slope is infinite; from 0.9999 on there is nothing to gain.
        return (-dice.log()).clamp(min=1e-4).pow(0.3).mean()
