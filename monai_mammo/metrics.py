"""What is measured: overlap of masks and verdicts on quality, from records of images, and what each metric is called.

Not here: collecting records from an evaluator, intervals and files (`monai_mammo.evaluation`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import DiceMetric, compute_hausdorff_distance
from scipy.stats import rankdata

from monai_mammo.bootstrap import Metrics, Record
from monai_mammo.regions import bounding_box

HEADLINE = {"quality": "auc_incomplete", "segmentation": "mean_dice"}
"""The metric of each task that systems are ranked by and replayed annotation is plotted by."""

HEADINGS = {
    "accuracy": "Accuracy",
    "precision_incomplete": "Precision",
    "recall_incomplete": "Recall",
    "f1_incomplete": "F1",
    "auc_incomplete": "AUC",
    "precision_complete": "Precision of complete",
    "recall_complete": "Recall of complete",
    "f1_complete": "F1 of complete",
    "auc_complete": "AUC of complete",
    "balanced_accuracy": "Balanced accuracy",
    "mean_dice": "Dice, mean over lesions",
    "mean_iou": "IoU, mean over lesions",
    "pooled_dice": "Dice, pooled pixels",
    "pooled_iou": "IoU, pooled pixels",
    "two_class_mean_iou": "IoU, mean of tumour and background",
    "mean_hd95_mm": "HD95 (mm)",
    "mean_hd95_px": "HD95 (pixels)",
    "missed": "Lesions not touched",
    "false_alarm": "Lesion-free images with one",
}
"""Every metric in words, wherever it is shown."""

_OF_WHOLE = {
    "mean_dice": "Dice, mean over images",
    "mean_iou": "IoU, mean over images",
    "missed": "Images with no lesion touched",
}

DISTANCES = ("mean_hd95_mm", "mean_hd95_px")
"""95 % Hausdorff distances; all other metrics are shares of one."""


class DiceOfLesions(DiceMetric):
    """MONAI's mean Dice over the images with a lesion; NaN where none has one, of which MONAI makes 0.

    A 0 would choose weights by a validation that says nothing (`monai_mammo.training.BestWeights`).
    """

    def aggregate(self, *args: Any, **kwargs: Any) -> Any:
        """The mean, as a tensor of one number. Arguments are MONAI's."""
        of_images = self.get_buffer()
        return of_images.mean() if of_images.isnan().all() else super().aggregate(*args, **kwargs)


def heading(metric: str, records: Sequence[Record]) -> str:
    """A metric in words, of these records.

    An entry of crops is one lesion; one of whole mammograms, which alone has `candidates`, an image with all its
    lesions.
    """
    whole = any("candidates" in record for record in records[:1])
    return _OF_WHOLE.get(metric, HEADINGS[metric]) if whole else HEADINGS[metric]


def overlap_record(
    pred: np.ndarray, label: np.ndarray, region: Sequence[int] | None = None, spacing: Sequence[float] | None = None
) -> Record:
    """Pixel counts and surface distance of one predicted mask.

    Args:
        pred, label: masks (rows, columns) of one size; nonzero is tumour.
        region: `[row0, column0, row1, column1]` that the network saw; background is counted inside it only.
        spacing: (row, column) mm per pixel, None where it is unknown.

    Returns:
        `tp`, `fp`, `fn`, `tn` in pixels; `hd95` in pixels and `hd95_mm` (NaN where either mask is empty, `hd95_mm` also
        without a spacing).
    """
    pred, label = pred > 0, label > 0
    tp, fp, fn = int((pred & label).sum()), int((pred & ~label).sum()), int((~pred & label).sum())
    row0, column0, row1, column1 = (max(side, 0) for side in ((0, 0, *pred.shape) if region is None else region))
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": int((~(pred | label)[row0:row1, column0:column1]).sum()),
        "hd95": _hausdorff95(pred, label, (1.0, 1.0)),
        "hd95_mm": _hausdorff95(pred, label, spacing) if spacing else math.nan,
    }


def segmentation_metrics(records: Sequence[Record]) -> Metrics:
    """Every definition of overlap in use, each under its own name.

    Images without a lesion count for the pooled metrics and `false_alarm`, not for the means over lesions. `missed` are
    those of which no pixel was marked. The Hausdorff distance, which needs both masks, is there in millimetres where
    every entry has a spacing: a mean over those that have one would be one of other lesions.

    Args:
        records: of :func:`overlap_record`; beside that, `spacing` is what each was made with (None, or not there: its
            distances are in pixels).
    """
    tp, fp, fn, tn = (np.array([record[name] for record in records], dtype=float) for name in ("tp", "fp", "fn", "tn"))
    lesion, found = tp + fn > 0, tp + fp > 0
    dice = _ratio(2 * tp[lesion], 2 * tp[lesion] + fp[lesion] + fn[lesion])
    iou = _ratio(tp[lesion], tp[lesion] + fp[lesion] + fn[lesion])
    tumour_iou = _ratio(tp.sum(), tp.sum() + fp.sum() + fn.sum())
    distances = {"mean_hd95_px": "hd95"}
    if all(record.get("spacing") for record in records):
        distances["mean_hd95_mm"] = "hd95_mm"
    return {
        "mean_dice": _mean(dice),
        "mean_iou": _mean(iou),
        "pooled_dice": float(_ratio(2 * tp.sum(), 2 * tp.sum() + fp.sum() + fn.sum())),
        "pooled_iou": float(tumour_iou),
        "two_class_mean_iou": float((tumour_iou + _ratio(tn.sum(), tn.sum() + fp.sum() + fn.sum())) / 2),
        **{name: _mean_of_known([record[column] for record in records]) for name, column in distances.items()},
        "missed": _mean(tp[lesion] == 0),
        "false_alarm": _mean(found[~lesion]),
    }


def quality_metrics(records: Sequence[Record]) -> Metrics:
    """Classification metrics with each class as the positive one, from `probability` (of incomplete) and `label`.

    The decision is at 0.5. Ratios whose denominator is zero are NaN.
    """
    label = np.array([record["label"] for record in records], dtype=int)
    probability = np.array([record["probability"] for record in records], dtype=float)
    verdict = (probability >= 0.5).astype(int)
    metrics = {"accuracy": _mean(verdict == label)}
    recalls = []
    for positive, name in ((1, "incomplete"), (0, "complete")):
        tp = float(((verdict == positive) & (label == positive)).sum())
        precision = float(_ratio(tp, (verdict == positive).sum()))
        recall = float(_ratio(tp, (label == positive).sum()))
        recalls.append(recall)
        metrics |= {
            f"precision_{name}": precision,
            f"recall_{name}": recall,
            f"f1_{name}": float(_ratio(2 * tp, (verdict == positive).sum() + (label == positive).sum())),
            f"auc_{name}": _auc(label == positive, probability if positive else -probability),  # 1 - p rounds
        }
    return metrics | {"balanced_accuracy": float(np.mean(recalls))}


def confusion_matrix(records: Sequence[Record]) -> dict[str, int]:
    """Counts of (truth, verdict) with incomplete as the positive class."""
    pairs = [(record["label"], int(record["probability"] >= 0.5)) for record in records]
    return {
        "true_positive": pairs.count((1, 1)),
        "false_positive": pairs.count((0, 1)),
        "false_negative": pairs.count((1, 0)),
        "true_negative": pairs.count((0, 0)),
    }


def _hausdorff95(pred: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> float:
    box = bounding_box(pred | label)
    if box is None or not pred.any() or not label.any():
        return math.nan
    # Distances to a mask are unchanged outside its extent: only the union's box is looked at.
    window = (slice(max(box[0] - 1, 0), box[2] + 1), slice(max(box[1] - 1, 0), box[3] + 1))
    pair = [torch.as_tensor(np.ascontiguousarray(mask[window]))[None, None].float() for mask in (pred, label)]
    distance = compute_hausdorff_distance(
        pair[0], pair[1], include_background=True, percentile=95, spacing=list(spacing)
    )
    return float(distance)


def _ratio(numerator: Any, denominator: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            np.asarray(denominator) > 0, np.asarray(numerator) / np.asarray(denominator, dtype=float), np.nan
        )


def _mean(values: Any) -> float:
    values = np.asarray(values, dtype=float)
    return float(values.mean()) if values.size else math.nan


def _mean_of_known(values: Sequence[float]) -> float:
    known = np.array(values, dtype=float)
    return _mean(known[~np.isnan(known)])


def _auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve, from ranks: a bootstrap needs it thousands of times, and ranks are fast."""
    number = int(positive.sum())
    if not 0 < number < positive.size:
        return math.nan
    above = rankdata(score)[positive].sum() - number * (number + 1) / 2
    return float(above / (number * (positive.size - number)))
