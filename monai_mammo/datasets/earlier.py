"""What earlier runs of `prepare` left in a folder: their summary, and the section that each patient was ever given."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_mammo.datasets.datalist import SECTIONS, sections_of_patients
from monai_mammo.datasets.sources import SourceImage
from monai_mammo.dicom.errors import MammogramError, refusing

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


def refuse_another_source(out: Path, earlier: Mapping[str, Any], source: Path, images: Iterable[SourceImage]) -> None:
    """Refuse to replace the lists of one folder of images by those of another.

    A folder that was renamed, or to which images were added, is the same: some of its images are still in their places.

    Args:
        out: the folder of the results.
        earlier: its summary.
        source: this run's folder of images.
        images: what it holds; an image is the same if path below the folder and patient are.

    Raises:
        MammogramError: the summary names another folder, and no image in the datalists is among this run's.
    """
    former = earlier.get("source", source.resolve().name)
    if former == source.resolve().name:
        return
    listed = _sources(out)
    now = {(Path(os.path.relpath(image.image, source)).as_posix(), image.patient) for image in images}
    if listed and listed.isdisjoint(now):
        raise MammogramError(
            out,
            f"it was prepared from the folder '{former}', of which no image is left in '{source.resolve().name}'",
            "Give a new folder; or put the images of both below one folder, and prepare that into a new one",
        )


def _sources(out: Path) -> set[tuple[str, str]]:
    """The images that the datalists were made of, relative to their folder, each with its patient."""
    found: set[tuple[str, str]] = set()
    for file in sorted(out.glob("*/dataset.json")):
        with refusing(file, "it is no datalist", "Give a new folder"):
            document = json.loads(file.read_text())
            entries = [entry for section in SECTIONS for entry in document.get(section, [])]
            found |= {(entry["source"], entry["patient"]) for entry in entries if "source" in entry}
    return found


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
