"""What is measured, and how surely: reports of both tasks with 95 % intervals by patient.

Two handlers for a MONAI evaluator. Each keeps one record per image, gathers the records of all ranks at the end of
the epoch, puts the metrics into `engine.state.metrics` and, given an `output_dir`, writes them with intervals.
Not here: drawing, and comparisons between systems.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.metrics import compute_hausdorff_distance
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from monai_mammo.bootstrap import Metrics, Record, patient_intervals
from monai_mammo.detections import candidates
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.pictures import save_picture
from monai_mammo.regions import bounding_box
from monai_mammo.transforms import source_of

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
    row0, column0, row1, column1 = region if region is not None else (0, 0, *pred.shape)
    rows = min(row1, pred.shape[0]) - max(row0, 0)
    columns = min(column1, pred.shape[1]) - max(column0, 0)
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": max(0, rows * columns - tp - fp - fn),
        "hd95": _hausdorff95(pred, label, (1.0, 1.0)),
        "hd95_mm": _hausdorff95(pred, label, spacing) if spacing else math.nan,
    }


def segmentation_metrics(records: Sequence[Record]) -> Metrics:
    """Every definition of overlap in use, each under its own name, from records of :func:`overlap_record`.

    Images without a lesion count for the pooled metrics and `false_alarm`, not for the means over lesions. `missed` are
    those of which no pixel was marked. The Hausdorff distance, which needs both masks, is there in millimetres where
    every entry has a spacing: a mean over those that have one would be one of other lesions.
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
            f"auc_{name}": _auc(label == positive, probability if positive else 1 - probability),
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


class Report:
    """Collect a record per image from an evaluator and report metrics with intervals by patient.

    Args:
        output_dir: where `metrics.json` and `per_image.csv` go; None keeps the metrics in `engine.state.metrics`
            alone and computes no interval (validation while training).
        resamples: bootstrap samples of the intervals.
        data_root: the datalist's folder, for `per_image.csv` to name the images as the datalist does, by their paths
            below it; None leaves their files' bare names.
    """

    title = ""

    def __init__(
        self,
        output_dir: str | Path | None = None,
        resamples: int = 1000,
        data_root: str | Path | None = None,
    ) -> None:
        self.output_dir = Path(output_dir) if output_dir is not None else None
        self.data_root = Path(data_root).resolve() if data_root is not None else None
        self.resamples = resamples
        self.records: list[Record] = []

    def attach(self, engine: Engine) -> None:
        """Hook into an evaluator whose postprocessing decollates."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.records.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._summarise)

    def record(self, output: Mapping[str, Any]) -> Record:
        """The record of one image's decollated output."""
        raise NotImplementedError("a report says what it records of an image")

    def metrics(self, records: Sequence[Record]) -> Metrics:
        """The metrics of a list of records."""
        raise NotImplementedError("a report says what its metrics are")

    def extra(self, records: Sequence[Record]) -> dict[str, Any]:
        """What else goes into `metrics.json`."""
        return {}

    def _collect(self, engine: Engine) -> None:
        # MONAI parts what the postprocessing gives into `batch` and `output`; a record needs both.
        batch: Any = engine.state.batch
        results: Any = engine.state.output
        for given, output in zip(batch, results, strict=True):
            image = {**given, **output}
            self.records.append(self.record(image) | self._identity(image))

    def _identity(self, image: Mapping[str, Any]) -> Record:
        source = source_of(image["image"])
        if self.output_dir is not None and "patient" not in image:
            raise MammogramError(
                source, "its entry in the datalist names no patient", "Name the patient: intervals are by patient"
            )
        name = Path(source).name if self.data_root is None else Path(os.path.relpath(source, self.data_root)).as_posix()
        return {"image": name, "patient": str(image.get("patient", source))}

    def _summarise(self, engine: Engine) -> None:
        records = _of_all_ranks(self.records)
        metrics = self.metrics(records)
        engine.state.metrics.update(metrics)
        if self.output_dir is None or (dist.is_initialized() and dist.get_rank() != 0):
            return
        self._print(self.write(records), records)

    def write(self, records: Sequence[Record]) -> dict[str, Any]:
        """Write `metrics.json` and `per_image.csv` into `output_dir`, from wherever the records come.

        Returns:
            what `metrics.json` holds; what is undefined is NaN here.
        """
        if self.output_dir is None:
            raise ValueError("a report without output_dir writes nothing")
        metrics = self.metrics(records)
        intervals = patient_intervals(records, self.metrics, self.resamples)
        summary = {
            "images": len(records),
            "patients": len({record["patient"] for record in records}),
            "metrics": {
                name: {"value": value, "low": intervals[name][0], "high": intervals[name][1]}
                for name, value in metrics.items()
            },
            **self.extra(records),
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "metrics.json").write_text(json.dumps(_without_nan(summary), indent=2) + "\n")
        _write_csv(self.output_dir / "per_image.csv", records)
        return summary

    def _print(self, summary: Mapping[str, Any], records: Sequence[Record]) -> None:
        table = Table(title=f"{self.title}: {summary['images']} entries of {summary['patients']} patients")
        for column in ("metric", "value", "95 % interval by patient"):
            table.add_column(column)
        for name, entry in summary["metrics"].items():
            defined = math.isfinite(entry["value"])
            table.add_row(
                heading(name, records),
                f"{entry['value']:.4f}" if defined else "undefined",
                f"{entry['low']:.4f} to {entry['high']:.4f}" if defined else "",
            )
        console = Console(width=110)
        console.print(table)
        for name, value in summary.items():
            if name not in ("images", "patients", "metrics"):
                console.print(f"{name}: {value}", markup=False)
        console.print(f"written: {self.output_dir}", markup=False, soft_wrap=True)


class SegmentationReport(Report):
    """Dice, IoU and Hausdorff distance of predicted masks.

    Args:
        label_key: the reference mask, of the prediction's size.
        native: whether the masks have the mammogram's own pixels: only there do the entry's `spacing` (distances in mm)
            and `region` (background counts inside it only) mean anything, and its `box` tells a lesion from others.
        output_dir, resamples, data_root: as for :class:`Report`.
        masks: whether every predicted mask is kept as `output_dir/masks/<image>_<number>.png`.
        detections: whether :func:`candidates` of `probability` (2, rows, columns) are recorded, as
            `probability:lesion` in the column `candidates`.
    """

    title = "Tumour segmentation"

    def __init__(
        self,
        label_key: str = "label",
        output_dir: str | Path | None = None,
        resamples: int = 1000,
        data_root: str | Path | None = None,
        *,
        native: bool = False,
        masks: bool = False,
        detections: bool = False,
    ) -> None:
        super().__init__(output_dir, resamples, data_root)
        self.label_key, self.native, self.masks, self.detections = label_key, native, masks, detections

    def record(self, output: Mapping[str, Any]) -> Record:
        """Counts of one image; `pred` is a label map (1, rows, columns)."""
        pred, label = (np.asarray(torch.as_tensor(output[key]).cpu())[0] for key in ("pred", self.label_key))
        region, box = (self._native_box(output, key) for key in ("region", "box"))
        spacing = _spacing(output) if self.native else None
        found = overlap_record(pred, label, region, spacing) | {"spacing": spacing, "box": box}
        if self.masks and self.output_dir is not None:
            found["mask"] = self._keep(pred, self.output_dir, Path(self._identity(output)["image"]).stem)
        if self.detections:
            peaks, found["lesions"] = candidates(np.asarray(torch.as_tensor(output["probability"]).cpu())[1], label)
            found["candidates"] = " ".join(f"{probability:.6g}:{lesion}" for probability, lesion in peaks)
        return found

    def metrics(self, records: Sequence[Record]) -> Metrics:
        """See :func:`segmentation_metrics`."""
        return segmentation_metrics(records)

    def _native_box(self, output: Mapping[str, Any], key: str) -> list[int] | None:
        return [int(value) for value in output[key]] if self.native and key in output else None

    def _keep(self, pred: np.ndarray, folder: Path, image: str) -> str:
        """Write one predicted mask; an image with several lesions has several, numbered."""
        number = 1 + sum(record["mask"].startswith(f"masks/{image}_") for record in self.records)
        file = folder / "masks" / f"{image}_{number}.png"
        save_picture(Image.fromarray(pred > 0), file)
        return f"masks/{file.name}"


class QualityReport(Report):
    """Accuracy, precision, recall, F1, AUC and the confusion matrix of complete / incomplete."""

    title = "Complete or incomplete mammogram"

    def record(self, output: Mapping[str, Any]) -> Record:
        """Truth and probability of one image; `pred` holds the two classes' probabilities."""
        return {"label": int(output["label"]), "probability": float(output["pred"][1])}

    def metrics(self, records: Sequence[Record]) -> Metrics:
        """See :func:`quality_metrics`."""
        return quality_metrics(records)

    def extra(self, records: Sequence[Record]) -> dict[str, Any]:
        """The confusion matrix."""
        return {"confusion_matrix": confusion_matrix(records)}


def _spacing(output: Mapping[str, Any]) -> list[float] | None:
    """Millimetres per pixel that the datalist gives, None where it gives none."""
    spacing = output.get("spacing")
    return [float(value) for value in spacing] if spacing is not None and len(spacing) == 2 else None


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


def _of_all_ranks(records: list[Record]) -> list[Record]:
    """Every rank's records in the order of the data, on which the draws of the intervals depend.

    The validation sampler deals the images out to the ranks, one to each in turn.
    """
    if not dist.is_initialized():
        return list(records)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, records)
    return [record for turn in zip_longest(*gathered) for record in turn if record is not None]


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


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(path: Path, records: Sequence[Record]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]) if records else ["image"])
        writer.writeheader()
        writer.writerows(records)
