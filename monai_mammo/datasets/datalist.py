"""Datalists: the Decathlon-style `dataset.json` between what prepares data and what trains on it.

One entry an image (or a lesion); paths are relative to the file's folder. Keys beside `image` and `label`:
`patient` always; `box` (row0, column0, row1, column1; half-open), `laterality`, `view`, `spacing` (mm; row, column),
`cause` and the data set's own where they are known. A section `originals` of a quality datalist holds complete
mammograms of training patients, without labels, of which samples are made during training.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.header import is_no_image
from monai_mammo.dicom.reader import is_other_file
from monai_mammo.files import write_json

_LOG = logging.getLogger(__name__)

Task = Literal["quality", "segmentation"]
SECTIONS = ("training", "validation", "test")
LABEL_NAMES: Mapping[str, dict[str, str]] = {
    "quality": {"0": "complete", "1": "incomplete"},
    "segmentation": {"0": "background", "1": "tumour"},
}
"""What the values of a label mean, by task."""
_MAKE = "Make it with `monai-mammo prepare`, or see the README for its form"
_CORRECT = "Correct the datalist or restore the file"
_LABELS: Mapping[Task, tuple[Callable[[Any], bool], str]] = {
    "quality": (lambda label: type(label) is int and label in (0, 1), "Write 0 for complete, 1 for incomplete"),
    "segmentation": (lambda label: isinstance(label, str), "Write the path of the image's mask, relative to the list"),
}
"""What a label of each task is."""
_NOT_IMAGES = {".json", ".csv", ".txt", ".md", ".xml", ".html", ".log", ".pt", ".yaml"}


def write_datalist(
    folder: str | Path,
    entries: Iterable[Mapping[str, Any]],
    splits: Mapping[str, Sequence[str]],
    *,
    name: str,
    labels: Mapping[str, str],
    description: str = "",
    licence: str = "",
    originals: Iterable[Mapping[str, Any]] = (),
    former: Mapping[str, str] | None = None,
) -> Path:
    """Write `folder/dataset.json`, every entry in the section of its patient.

    Args:
        folder: made if it does not exist; paths in the entries may be absolute and become relative to it.
        entries: see the module's text; each names its `patient`.
        splits: patients of each of `training`, `validation`, `test`.
        name, description, licence: of the data set.
        labels: meaning of the label's values.
        originals: see the module's text; those of training patients are written.
        former: sections of patients, such as an earlier list had; those who have none now are written as
            `former_patients`, for they may come back (see `sections_of_patients`).

    Returns:
        the file's path. It is written whole or not at all.
    """
    section_of = {patient: section for section, patients in splits.items() for patient in patients}
    sections: dict[str, list[Mapping[str, Any]]] = {section: [] for section in SECTIONS}
    for entry in entries:
        sections[section_of[entry["patient"]]].append(entry)
    if originals := [entry for entry in originals if section_of[entry["patient"]] == "training"]:
        sections["originals"] = originals
    about: dict[str, Any] = {"name": name, "description": description, "licence": licence}
    if absent := {patient: section for patient, section in (former or {}).items() if patient not in section_of}:
        about["former_patients"] = absent
    return write_sections(folder, sections, about=about, labels=labels)


def write_sections(
    folder: str | Path,
    sections: Mapping[str, Iterable[Mapping[str, Any]]],
    *,
    about: Mapping[str, Any],
    labels: Mapping[str, str],
) -> Path:
    """Write `folder/dataset.json` with the entries of every section given, however they were chosen.

    Args:
        folder: made if it does not exist; paths in the entries may be absolute and become relative to it.
        sections: entries of `training`, `validation`, `test`, which are empty where not given, and of any other.
        about: what the file says of itself: `name`, `description`, `licence` and more.
        labels: meaning of the label's values.

    Returns:
        the file's path. It is written whole or not at all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        **about,
        "modality": {"0": "MG"},
        "labels": dict(labels),
        **{
            section: [_relative(entry, folder) for entry in sections.get(section, ())]
            for section in dict.fromkeys((*SECTIONS, *sections))
        },
    }
    write_json(folder / "dataset.json", document)
    return folder / "dataset.json"


def load_datalist(
    dataset_dir: str | Path, section: str, task: Task | None = None, *, whole: bool = False
) -> list[dict[str, Any]]:
    """Entries of one section of `dataset_dir/dataset.json`, with absolute paths, checked before anything is trained.

    Args:
        dataset_dir: the list's folder.
        section: one of its lists.
        task: what the entries are to train or to judge: each then has a `patient` and, but among the `originals`, a
            label, 0 or 1 for quality, the mask's file for segmentation. None asks for images only.
        whole: the network sees whole mammograms: an image may have one entry only, with one mask of all its lesions.

    Raises:
        MammogramError: the file is absent or no datalist, the section is absent or empty, a file that an entry names
            does not exist, an entry lacks what the task needs, or an image has several entries in mode `whole`.
    """
    file = Path(dataset_dir) / "dataset.json"
    if not file.is_file():
        raise MammogramError(file, "there is no datalist here", _MAKE)
    document = _document(file)
    if not isinstance(document, dict) or not isinstance(document.get(section), list) or not document[section]:
        raise MammogramError(file, f"it has no entries under '{section}'", _MAKE)
    loaded = []
    for number, entry in enumerate(document[section]):
        where = f"{section}[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise MammogramError(file, f"the entry {where} names no image", _CORRECT)
        if task is not None:
            _require(entry, file, where, task, labelled=section != "originals")
        loaded.append(_existing(entry, file, where))
    several = sum(count > 1 for count in Counter(entry["image"] for entry in loaded).values())
    if whole and several:
        raise MammogramError(
            file,
            f"{several} image(s) of {section} have several entries; mode whole wants one mask per image",
            "Unite an image's masks into one, take the list segmentation_whole, or leave out --mode whole",
        )
    return loaded


def sections_of_patients(files: Iterable[Path]) -> dict[str, str]:
    """Every patient's section in datalists, now or formerly; of several, training: who was learnt from must not judge.

    Raises:
        MammogramError: one of the files is no such list.
    """
    found: dict[str, str] = {}
    for file in files:
        document = _document(file)
        try:
            listed = [(str(entry["patient"]), section) for section in SECTIONS for entry in document[section]]
            listed += document.get("former_patients", {}).items()
            if not {section for _, section in listed} <= {*SECTIONS}:
                raise MammogramError(file, "it has former patients of no section", _CORRECT)
        except (KeyError, TypeError, AttributeError):
            raise MammogramError(file, "its entries do not all name a patient", _CORRECT) from None
        for patient, section in listed:
            found[patient] = min(section, found.get(patient, section), key=SECTIONS.index)
    return found


def images_to_predict(dataset_dir: str | Path) -> list[dict[str, Any]]:
    """What the bundles' inference runs on: the datalist's test section, or every image file below the folder.

    Segmentations, reports and other DICOM objects of no image are passed over, and so is what is clearly no image at
    all (`is_other_file`); the log says how many of the latter.

    Raises:
        MammogramError: the folder holds no image, or its datalist is unusable.
    """
    folder = Path(dataset_dir)
    if (folder / "dataset.json").is_file():
        return [
            {key: value for key, value in entry.items() if key != "label"} for entry in load_datalist(folder, "test")
        ]
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.suffix.lower() not in _NOT_IMAGES and not file.name.startswith(".")
        if not is_no_image(file)
    )
    others = [file for file in files if is_other_file(file)]
    if len(others) == len(files):
        raise MammogramError(folder, "there is no image in this folder", "Give a folder of mammograms")
    if others:
        named = ", ".join(file.name for file in others[:3]) + (", …" if len(others) > 3 else "")
        _LOG.warning("passed over: %d of the files in %s, which are no images (%s)", len(others), folder, named)
    return [{"image": str(file)} for file in sorted({*files} - {*others})]


def _document(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise MammogramError(file, f"it is no JSON ({error})", _MAKE) from error


def _relative(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The entry with its files named relative to the datalist's folder."""
    files = {key: entry[key] for key in ("image", "label") if isinstance(entry.get(key), (str, Path))}
    return {**entry, **{key: Path(os.path.relpath(file, folder)).as_posix() for key, file in files.items()}}


def _require(entry: Mapping[str, Any], file: Path, where: str, task: Task, *, labelled: bool) -> None:
    """Refuse an entry that torch or the evaluation would stumble over, later and in other words."""
    label, (is_label, remedy) = entry.get("label"), _LABELS[task]
    if labelled and not is_label(label):
        wrong = "has no label" if label is None else f"has the label {json.dumps(label)[:40]}"
        raise MammogramError(file, f"the entry {where} {wrong}", remedy)
    if entry.get("patient") in (None, ""):
        remedy = "Give every entry a `patient` (a pseudonym): splits and intervals are by patient"
        raise MammogramError(file, f"the entry {where} names no patient", remedy)


def _existing(entry: Mapping[str, Any], file: Path, where: str) -> dict[str, Any]:
    """The entry with the full paths of its files."""
    found = dict(entry)
    for key in ("image", "label"):
        if isinstance(entry.get(key), str):
            path = file.parent / entry[key]
            if not path.is_file():
                raise MammogramError(path, f"the {key} of {where} in {file.name} does not exist", _CORRECT)
            found[key] = str(path.resolve())
    return found
