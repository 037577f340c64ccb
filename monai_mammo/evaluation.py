"""What is measured, and how surely: reports of both tasks with 95 % intervals by patient.

Two handlers for a MONAI evaluator. Each keeps one record per image, gathers the records of all ranks at the end of
the epoch, puts the metrics into `engine.state.metrics` and, given an `output_dir`, writes them with intervals.
Not here: the metrics themselves (`monai_mammo.metrics`), drawing, and comparisons between systems.
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
from PIL import Image
from rich.console import Console
from rich.table import Table

from monai_mammo.bootstrap import Metrics, Record, patient_intervals
from monai_mammo.bundles import no_numbers
from monai_mammo.detections import candidates
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.metrics import confusion_matrix, heading, overlap_record, quality_metrics, segmentation_metrics
from monai_mammo.pictures import save_picture
from monai_mammo.transforms import source_of


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
                f"{entry['low']:.4f} to {entry['high']:.4f}" if math.isfinite(entry["low"]) else "",
            )
        console = Console(width=110)
        console.print(table)
        if summary["patients"] < 2:
            console.print("No intervals: they are by patient, and this is one.")
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
        masks: whether every predicted mask is kept as `output_dir/masks/<image>_<number>.png`, numbered as its row in
            `per_image.csv`, from 1.
        detections: whether :func:`candidates` of `probability` (1, rows, columns) are recorded, as
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
            peaks, found["lesions"] = candidates(_of_the_tumour(output["probability"]), label)
            # Nine digits tell any two float32 apart; rounded further, those of an overconfident network become ties.
            found["candidates"] = " ".join(f"{probability:.9g}:{lesion}" for probability, lesion in peaks)
        return found

    def metrics(self, records: Sequence[Record]) -> Metrics:
        """See :func:`segmentation_metrics`."""
        return segmentation_metrics(records)

    def _native_box(self, output: Mapping[str, Any], key: str) -> list[int] | None:
        return [int(value) for value in output[key]] if self.native and key in output else None

    def _keep(self, pred: np.ndarray, folder: Path, image: str) -> str:
        """Write one predicted mask.

        Its number alone tells it from all others: an image may have several lesions, without boxes too, and images of
        several folders one bare name.
        """
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        number = 1 + rank + ranks * len(self.records)  # in the order of `_of_all_ranks`
        file = folder / "masks" / f"{image}_{number}.png"
        save_picture(Image.fromarray(pred > 0), file)
        return f"masks/{file.name}"


class QualityReport(Report):
    """Accuracy, precision, recall, F1, AUC and the confusion matrix of complete / incomplete."""

    title = "Complete or incomplete mammogram"

    def record(self, output: Mapping[str, Any]) -> Record:
        """Truth and probability of one image; `pred` holds the two classes' probabilities.

        Raises:
            MammogramError: the probability is not a number, which would count as the verdict "complete".
        """
        probability = float(output["pred"][1])
        if not math.isfinite(probability):
            raise no_numbers(source_of(output["image"]))
        return {"label": int(output["label"]), "probability": probability}

    def metrics(self, records: Sequence[Record]) -> Metrics:
        """See :func:`quality_metrics`."""
        return quality_metrics(records)

    def extra(self, records: Sequence[Record]) -> dict[str, Any]:
        """The confusion matrix."""
        return {"confusion_matrix": confusion_matrix(records)}


def _of_the_tumour(probability: Any) -> np.ndarray:
    """(rows, columns), of (1, rows, columns); a background's beside it would be taken for the tumour's unseen."""
    if len(probability) != 1:
        raise ValueError(f"the probability has {len(probability)} channels: the report takes the tumour's alone")
    return np.asarray(torch.as_tensor(probability).cpu())[0]


def _spacing(output: Mapping[str, Any]) -> list[float] | None:
    """Millimetres per pixel that the datalist gives, None where it gives none."""
    spacing = output.get("spacing")
    return [float(value) for value in spacing] if spacing is not None and len(spacing) == 2 else None


def _of_all_ranks(records: list[Record]) -> list[Record]:
    """Every rank's records in the order of the data.

    The validation sampler deals the images out to the ranks, one to each in turn.
    """
    if not dist.is_initialized():
        return list(records)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, records)
    return [record for turn in zip_longest(*gathered) for record in turn if record is not None]


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
