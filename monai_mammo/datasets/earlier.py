"""What earlier runs of `prepare` left in a folder: their summary, and the section that each patient was ever given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_mammo.datasets.datalist import SECTIONS, sections_of_patients
from monai_mammo.dicom.errors import MammogramError

SUMMARY = "prepared.json"


def read_summary(out: Path, data_set: str, seed: int) -> dict[str, Any]:
    """The summary of an earlier run into the same folder; empty where there was none.

    Args:
        out: the folder of the results.
        data_set, seed: this run's.

    Raises:
        MammogramError: it was of another data set or seed, whose lists would contradict this run's, or is illegible.
    """
    file = out / SUMMARY
    if not file.is_file():
        return {}
    try:
        earlier: dict[str, Any] = json.loads(file.read_text())
        same = earlier["data_set"] == data_set and earlier["options"]["seed"] == seed
        legible = {*earlier.get("sections", {}).values()} <= {*SECTIONS}
    except (ValueError, KeyError, TypeError, AttributeError):
        legible = False
    if not legible:
        raise MammogramError(file, "it is no summary of `monai-mammo prepare`", "Remove it, or give a new folder")
    if not same:
        known = f"{earlier['data_set']} with seed {earlier['options']['seed']}"
        raise MammogramError(out, f"it was prepared from {known}", "Give a new folder, or the same data set and seed")
    return earlier


def settled_sections(out: Path, earlier: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """The section of every patient of any earlier run: one who changed sides would judge what it has trained.

    Args:
        out: the folder of the results.
        earlier: its summary. One of a version without this memory is completed by what the datalists say.
        names: the datalists that share one assignment of patients.
    """
    return {**earlier.get("sections", {}), **listed_sections(out, names)}


def listed_sections(out: Path, names: Iterable[str]) -> dict[str, str]:
    """The section of every patient who is in one of the datalists now; see `sections_of_patients`."""
    return sections_of_patients(file for name in names if (file := out / name / "dataset.json").is_file())
