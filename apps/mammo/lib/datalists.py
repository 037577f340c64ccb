"""What annotators said, as the datalists that the bundles train on. Not here: training, and the datalist's form.

Where several readers have annotated an image, the latest final label counts, and the verdict of most of them (of as
many for as against, the latest).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import DefaultLabelTag
from PIL import Image
from skimage.measure import label as connected_components

from monai_mammo.datasets.datalist import write_datalist
from monai_mammo.dicom.reader import read_mask
from monai_mammo.regions import bounding_box

from .datastore import QUALITY_VERDICTS, MammogramDatastore
from .errors import RequestRefused

TUMOUR_NAMES = ("tumour", "tumor")
NO_LABELS = "Save final labels, or verdicts for the quality model, for images of at least two patients"
Entry = dict[str, Any]
Divide = Callable[[Mapping[str, set[int]]], dict[str, list[str]]]
"""Patients of `training` and `validation`, given by patient whether there are images without (0) and with (1) a
lesion, or complete (0) and incomplete (1) ones."""
MakeDatalist = Callable[[MammogramDatastore, Path, Divide], Path]


def whole_datalist(datastore: MammogramDatastore, folder: Path, divide: Divide) -> Path:
    """One entry an image with a final label, a normal breast's empty one included; see :func:`_written`."""
    entries, kinds = [], []
    for image_id, mask in _tumours(datastore):
        entries.append(_entry(datastore, image_id, mask, folder))
        kinds.append(int(mask.any()))
    return _written(entries, kinds, folder, divide, {"0": "background", "1": "tumour"})


def lesion_datalist(datastore: MammogramDatastore, folder: Path, divide: Divide) -> Path:
    """One entry a connected lesion of a final label, with its box; see :func:`_written`."""
    entries = []
    for image_id, mask in _tumours(datastore):
        components = connected_components(mask)
        for number in range(1, components.max() + 1):
            entry = _entry(datastore, image_id, mask, folder)
            entries.append({**entry, "box": bounding_box(components == number)})
    return _written(entries, [1] * len(entries), folder, divide, {"0": "background", "1": "tumour"})


def quality_datalist(datastore: MammogramDatastore, folder: Path, divide: Divide) -> Path:
    """One entry an image with a verdict of annotators (`quality` in the image's info); see :func:`_written`."""
    entries = []
    for image_id in datastore.list_images():
        verdict = datastore.get_image_info(image_id).get("quality")
        if verdict in QUALITY_VERDICTS:
            entries.append({**_image(datastore, image_id), "label": QUALITY_VERDICTS.index(verdict)})
    if entries and len({entry["label"] for entry in entries}) < 2:
        raise RequestRefused(
            409, "all verdicts are the same, so there is nothing to tell apart", "Judge images of both kinds first"
        )
    verdicts = [entry["label"] for entry in entries]
    return _written(entries, verdicts, folder, divide, dict(zip("01", QUALITY_VERDICTS, strict=True)))


def _written(entries: list[Entry], kinds: list[int], folder: Path, divide: Divide, labels: dict[str, str]) -> Path:
    """Write `dataset.json`, no patient on both sides of the split into training and validation.

    Raises:
        RequestRefused: there is nothing to train on, or only one patient (409).
    """
    patients: dict[str, set[int]] = {}
    for entry, kind in zip(entries, kinds, strict=True):
        patients.setdefault(entry["patient"], set()).add(kind)
    if len(patients) < 2:
        raise RequestRefused(409, f"there are labels of {len(patients)} patient(s), two are needed", NO_LABELS)
    return write_datalist(folder, entries, divide(patients), name="annotations", labels=labels)


def _image(datastore: MammogramDatastore, image_id: str) -> Entry:
    image = datastore.image(image_id)
    known = {"patient": image.patient, "laterality": image.laterality, "view": image.view}
    return {"image": datastore.hold_image(image_id), **{key: value for key, value in known.items() if value}}


def _entry(datastore: MammogramDatastore, image_id: str, mask: np.ndarray, folder: Path) -> Entry:
    """An entry whose label is a plain picture of the mask, free of what the viewer wrote beside it."""
    file = folder / "masks" / f"{image_id}.png"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(file)
    return {**_image(datastore, image_id), "label": str(file)}


def _tumours(datastore: MammogramDatastore) -> list[tuple[str, np.ndarray]]:
    """Image ids with the tumour pixels (rows, columns) of their final labels."""
    tag = DefaultLabelTag.FINAL
    return [(image_id, tumour_pixels(datastore, image_id, tag)) for image_id in datastore.get_labeled_images(tag)]


def tumour_pixels(datastore: MammogramDatastore, image_id: str, tag: str, reader: str | None = None) -> np.ndarray:
    """Where a label, or a certain reader's, says tumour (rows, columns): the values that its `label_info` calls so, or
    all of them if it names none."""
    mask = read_mask(datastore.get_label_uri(image_id, tag, reader))
    names = datastore.get_label_info(image_id, tag, reader).get("label_info")
    if not names:
        return mask > 0
    values = [entry.get("idx") for entry in names if str(entry.get("name", "")).lower() in TUMOUR_NAMES]
    return np.isin(mask, [value for value in values if value is not None])
