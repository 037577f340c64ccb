"""Can complete be told from incomplete without looking at the breast? Classifiers that see borders only, and how well.

A check of a data set for the quality task, not of a network: traces of how the images were made would let any network
pass without anatomy. Needs scikit-learn (`pip install monai-mammo[train]`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from monai_mammo.bootstrap import Metrics, Record, patient_intervals
from monai_mammo.datasets.datalist import SECTIONS, load_datalist
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.resampling import averaged

LIMIT = 0.60
"""Balanced accuracy above which a border tells too much."""

FRAME_SHARE = 0.05
"""Share of the side that the border probes see on each of the four sides."""

FOLDS = 5

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class ProbeResult:
    """One classifier on one kind of features: out-of-fold balanced accuracy with its 95 % interval over patients."""

    features: str
    classifier: str
    balanced_accuracy: float
    interval: tuple[float, float]
    judged: bool
    """False for what is meant to succeed: the field's edges, where the breast is seen to be cut."""

    @property
    def passed(self) -> bool:
        """Whether the features tell too little to be used as a shortcut."""
        return not self.judged or self.balanced_accuracy <= LIMIT


def frame_strips(pixels: np.ndarray) -> np.ndarray:
    """The outer :data:`FRAME_SHARE` of the image: four strips of 2 x 32 means each, 256 values."""
    return np.concatenate([averaged(strip, (2, 32)).ravel() for strip in _strips(pixels)])


def frame_statistics(pixels: np.ndarray) -> np.ndarray:
    """Of each of those strips and of all: mean, spread, quantiles, share of zeros, mean step between pixels."""
    strips = _strips(pixels)
    whole = np.concatenate([strip.ravel() for strip in strips])[None]
    return np.concatenate([_statistics(strip) for strip in [*strips, whole]])


def field_shape(pixels: np.ndarray) -> np.ndarray:
    """Where the image is not black, whatever is there: 24 x 24 shares, and the area, place and shape of it."""
    exposed = pixels > 0.5 / 255
    rows, columns = (np.flatnonzero(exposed.any(axis=axis)) / exposed.shape[1 - axis] for axis in (1, 0))
    ends = [value for places in (rows, columns) for value in ((places[0], places[-1]) if places.size else (0.0, 0.0))]
    shape = [exposed.mean(), *ends, ends[1] - ends[0], ends[3] - ends[2]]
    return np.concatenate([averaged(exposed, (24, 24)).ravel(), shape])


def field_edges(pixels: np.ndarray) -> np.ndarray:
    """Along the inner edge of the exposed field: mean and spread of the grey values in each of 36 directions."""
    exposed = np.pad(pixels > 0.5 / 255, 1)
    if not exposed.any():
        return np.zeros(72)
    depth = distance_transform_edt(exposed)[1:-1, 1:-1]
    inside = np.argwhere(depth > 0)
    band = np.argwhere((depth > 0.005 * pixels.shape[0]) & (depth <= 0.03 * pixels.shape[0]))
    if not len(band):
        return np.zeros(72)
    row, column = (band - inside.mean(axis=0)).T
    sector = ((np.arctan2(row, column) + np.pi) / (2 * np.pi) * 36).astype(int) % 36
    grey = pixels[tuple(band.T)]
    count = np.maximum(np.bincount(sector, minlength=36), 1)
    mean = np.bincount(sector, grey, minlength=36) / count
    spread = np.sqrt(np.maximum(np.bincount(sector, grey**2, minlength=36) / count - mean**2, 0))
    return np.concatenate([mean, spread])


FEATURES: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], bool]] = {
    "outer 5 % frame": (frame_strips, True),
    "frame's statistics": (frame_statistics, True),
    "exposed field's shape": (field_shape, True),
    "field's inner edges": (field_edges, False),
}
"""What each probe sees, and whether it must fail."""


def border_probe(
    dataset_dir: Path, seed: int = 0, progress: Progress = lambda items, total: items
) -> list[ProbeResult]:
    """Train and test every probe on a quality data set by patient-wise cross-validation.

    Each of :data:`FEATURES` goes to a logistic regression and to a random forest; every image is judged by the one of
    :data:`FOLDS` models that saw none of its patient's. The interval is a bootstrap over patients.

    Args:
        dataset_dir: holds `dataset.json` with labels 0 (complete) and 1 (incomplete); all its sections are used.
        seed: of folds, forests and bootstrap.
        progress: wraps the reading of the images.

    Raises:
        MammogramError: no such datalist, an image is unreadable, a class or patients are lacking, or scikit-learn is
            not installed.
    """
    entries = _entries(dataset_dir)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in FEATURES}
    for entry in progress(entries, len(entries)):
        pixels = read_mammogram(entry["image"]).pixels
        for name, (extract, _) in FEATURES.items():
            columns[name].append(extract(pixels))
    labels = np.array([entry["label"] for entry in entries])
    patients = np.unique([str(entry["patient"]) for entry in entries], return_inverse=True)[1]
    tables = {name: np.stack(rows) for name, rows in columns.items()}
    return [result for name in FEATURES for result in _probe(name, tables[name], labels, patients, seed)]


def _probe(name: str, table: np.ndarray, labels: np.ndarray, patients: np.ndarray, seed: int) -> Iterable[ProbeResult]:
    for classifier, model in _classifiers(seed).items():
        predicted = np.empty_like(labels)
        for held_out in _folds(patients, seed):
            model.fit(table[~held_out], labels[~held_out])
            predicted[held_out] = model.predict(table[held_out])
        judged = sorted(zip(patients.tolist(), labels.tolist(), (predicted == labels).tolist(), strict=True))
        records = [{"patient": patient, "label": label, "right": right} for patient, label, right in judged]
        found = _balanced_accuracy(records)["balanced_accuracy"]
        interval = patient_intervals(records, _balanced_accuracy, seed=seed)["balanced_accuracy"]
        yield ProbeResult(name, classifier, found, interval, FEATURES[name][1])


def _classifiers(seed: int) -> dict[str, Any]:
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MammogramError(
            "scikit-learn", "it is not installed, and the probe needs it", "pip install monai-mammo[train]"
        ) from error
    logistic = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
    forest = RandomForestClassifier(100, min_samples_leaf=3, class_weight="balanced", random_state=seed)
    return {"logistic regression": make_pipeline(StandardScaler(), logistic), "random forest": forest}


def _folds(patients: np.ndarray, seed: int) -> list[np.ndarray]:
    """For each fold, which images it holds out: all images of a fifth of the patients."""
    fold = np.random.default_rng(seed).permutation(patients.max() + 1) % FOLDS
    return [fold[patients] == number for number in range(FOLDS)]


def _balanced_accuracy(records: Sequence[Record]) -> Metrics:
    """Mean of the classes' shares of right answers."""
    right = [[record["right"] for record in records if record["label"] == label] for label in (0, 1)]
    return {"balanced_accuracy": float(np.mean([np.mean(one) for one in right if one]))}


def _entries(dataset_dir: Path) -> list[dict[str, Any]]:
    entries = [entry for section in _filled_sections(dataset_dir) for entry in load_datalist(dataset_dir, section)]
    file = Path(dataset_dir) / "dataset.json"
    remedy = "Give a folder that `monai-mammo prepare --task quality` wrote"
    if any(entry.get("label") not in (0, 1) or "patient" not in entry for entry in entries):
        raise MammogramError(file, "an entry lacks a label 0 or 1, or a patient", remedy)
    if {entry["label"] for entry in entries} != {0, 1}:
        raise MammogramError(file, "all images are of one class", remedy)
    number = len({entry["patient"] for entry in entries})
    if number < 2 * FOLDS:
        raise MammogramError(file, f"{number} patients are too few for {FOLDS} folds", f"Use at least {2 * FOLDS}")
    return entries


def _filled_sections(dataset_dir: Path) -> list[str]:
    """Sections with entries; where there is none, one of which `load_datalist` will say what is wrong."""
    try:
        document = json.loads((Path(dataset_dir) / "dataset.json").read_text())
    except (OSError, ValueError):
        document = {}
    filled = [section for section in SECTIONS if isinstance(document, dict) and document.get(section)]
    return filled or [SECTIONS[0]]


def _strips(pixels: np.ndarray) -> list[np.ndarray]:
    """Top, bottom, left, right; the columns' strips lie down, so that all four are wide."""
    rows, columns = (max(1, round(FRAME_SHARE * side)) for side in pixels.shape)
    return [pixels[:rows], pixels[-rows:], pixels[:, :columns].T, pixels[:, -columns:].T]


def _statistics(strip: np.ndarray) -> np.ndarray:
    quantiles = np.percentile(strip, [0, 5, 25, 50, 75, 95, 100])
    steps = float(np.abs(np.diff(strip, axis=1)).mean()) if strip.shape[1] > 1 else 0.0
    return np.array([strip.mean(), strip.std(), *quantiles, (strip == 0).mean(), steps])
