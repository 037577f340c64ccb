"""What annotators said, as the datalists that the bundles train on. Not here: training, and the datalist's form.

Where several readers have annotated an image, the latest final label counts, and the verdict of most of them (of as
many for as against, the latest). An image of which a record is damaged is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import DefaultLabelTag
from PIL import Image
from skimage.measure import label as connected_components

from monai_mammo.datasets.datalist import LABEL_NAMES, write_datalist
from monai_mammo.datasets.lesions import LEAST_LESION
from monai_mammo.regions import bounding_box

from .datastore import QUALITY_VERDICTS, MammogramDatastore
from .errors import RequestRefused
from .files import DamagedRecord
from .tumours import Unclear, tumour_pixels

NO_LABELS = (
    "Save final labels, or verdicts for the quality model, for images of at least two patients; labels that are left "
    "out stand in /info/, as datastore.labels_unclear"
)
Entry = dict[str, Any]
Said = tuple[str, int, np.ndarray | None]
Divide = Callable[[Mapping[str, set[int]]], dict[str, list[str]]]
"""Patients of `training` and `validation`, given by patient whether there are images without (0) and with (1) a
lesion, or complete (0) and incomplete (1) ones."""
SEGMENTS, VERDICTS = LABEL_NAMES["segmentation"], LABEL_NAMES["quality"]


@dataclass(frozen=True)
class Datalist:
    """What annotators said, as the datalist of one model.

    Args:
        said: gives what counts of it: image id, kind as in `Divide`, and the tumour pixels, if it is of these.
        entries: makes the entries of an image.
        labels: names of the labels.
    """

    said: Callable[[MammogramDatastore], Iterable[Said]]
    entries: Callable[[MammogramDatastore, Said, Path], list[Entry]]
    labels: dict[str, str]

    def check(self, datastore: MammogramDatastore) -> None:
        """Refuse what there is too little of, as writing it does; no more labels are read than are enough.

        Raises:
            RequestRefused: as when it is written.
            MammogramError: a label cannot be read.
        """
        patients: dict[str, set[int]] = {}
        for image_id, kind, _ in self.said(datastore):
            patients.setdefault(datastore.image(image_id).patient, set()).add(kind)
            if self._lacks(patients) is None:
                return
        if lacks := self._lacks(patients):
            raise lacks

    def __call__(self, datastore: MammogramDatastore, folder: Path, divide: Divide) -> Path:
        """Write `dataset.json`, no patient on both sides of the split into training and validation.

        Raises:
            RequestRefused: there is nothing to train on, only one patient, or verdicts of one kind only (409).
        """
        entries: list[Entry] = []
        patients: dict[str, set[int]] = {}
        for said in self.said(datastore):
            entries += self.entries(datastore, said, folder)
            patients.setdefault(datastore.image(said[0]).patient, set()).add(said[1])
        if lacks := self._lacks(patients):
            raise lacks
        return write_datalist(folder, entries, divide(patients), name="annotations", labels=self.labels)

    def _lacks(self, patients: Mapping[str, set[int]]) -> RequestRefused | None:
        if len(patients) < 2:
            return RequestRefused(409, f"there are labels of {len(patients)} patient(s), two are needed", NO_LABELS)
        if self.labels == VERDICTS and len(set().union(*patients.values())) < 2:
            reason = "all verdicts are the same, so there is nothing to tell apart"
            return RequestRefused(409, reason, "Judge images of both kinds first")
        return None


def _verdicts(datastore: MammogramDatastore) -> Iterator[Said]:
    """Images with a verdict of annotators (`quality` in the image's info)."""
    for image_id in datastore.list_images():
        try:
            verdict = datastore.get_image_info(image_id).get("quality")
        except DamagedRecord:  # which the datastore's status names
            continue
        if verdict in QUALITY_VERDICTS:
            yield image_id, QUALITY_VERDICTS.index(verdict), None


def _tumours(datastore: MammogramDatastore) -> Iterator[Said]:
    """Images with a final label, a normal breast's empty one included."""
    tag = DefaultLabelTag.FINAL
    for image_id in datastore.get_labeled_images(tag):
        try:
            mask = tumour_pixels(*datastore.read_label(image_id, tag))
        except (DamagedRecord, Unclear):  # which the datastore's status names
            continue
        yield image_id, int(mask.any()), mask


def _lesions(datastore: MammogramDatastore) -> Iterator[Said]:
    """Images with a tumour in their final label."""
    return (said for said in _tumours(datastore) if said[1])


def _image(datastore: MammogramDatastore, image_id: str) -> Entry:
    image = datastore.image(image_id)
    known = {"patient": image.patient, "laterality": image.laterality, "view": image.view}
    return {"image": datastore.hold_image(image_id), **{key: value for key, value in known.items() if value}}


def _with_verdict(datastore: MammogramDatastore, said: Said, folder: Path) -> list[Entry]:
    return [{**_image(datastore, said[0]), "label": said[1]}]


def _with_mask(datastore: MammogramDatastore, said: Said, folder: Path) -> list[Entry]:
    """An entry whose label is a plain picture of the mask, free of what the viewer wrote beside it."""
    image_id, _, mask = said
    assert mask is not None
    file = folder / "masks" / f"{image_id}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(file)
    return [{**_image(datastore, image_id), "label": str(file)}]


def _by_lesion(datastore: MammogramDatastore, said: Said, folder: Path) -> list[Entry]:
    """An entry a connected lesion, with its box; a speck, a slip of the brush say, is one only if there is no other.

    As `monai_mammo.datasets.lesions` has it, save that a reader's only mark is never dropped, for it is meant.
    """
    (entry,), components = _with_mask(datastore, said, folder), connected_components(said[2])
    sizes = np.bincount(components.ravel())[1:]
    large = [number for number, size in enumerate(sizes, start=1) if size >= LEAST_LESION]
    boxes = (bounding_box(components == number) for number in large or range(1, len(sizes) + 1))
    return [{**entry, "box": box} for box in boxes]


whole_datalist = Datalist(_tumours, _with_mask, SEGMENTS)
lesion_datalist = Datalist(_lesions, _by_lesion, SEGMENTS)
quality_datalist = Datalist(_verdicts, _with_verdict, VERDICTS)
