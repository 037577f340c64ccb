"""What is made of one mammogram for each list: masks, crops, samples, as arrays with the entries that name them.

Pure functions of the decoded pixels; reading, writing and resuming are `work`'s, who is trained on is `protocols`'.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_mammo.datasets.exposure import block_means
from monai_mammo.datasets.lesions import MARGIN, Lesion, crop_region, cut, find_lesions, variants
from monai_mammo.datasets.sources import Defect, SourceImage, read_pixels
from monai_mammo.datasets.truncation import Sample, already_cut, breast_of, make_sample
from monai_mammo.regions import bounding_box, breast_mask

QUALITY_SIZE = 512
"""Pixels of the longer side of the quality task's images."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A mammogram, its name below the prepared folder, and the options that decide what is made of it."""

    image: SourceImage
    name: str
    """File-name safe and unique within the data set."""
    source: Path
    """The data set's folder."""
    out: Path
    """The prepared folder."""
    seed: int = 0
    margin: float = MARGIN
    samples: int = 1
    """Complete samples, and as many incomplete ones, for `quality`."""

    @property
    def file(self) -> str:
        """The mammogram's path relative to the data set's folder."""
        return Path(os.path.relpath(self.image.image, self.source)).as_posix()

    def generator(self, number: int = 0) -> np.random.Generator:
        """Random numbers that depend on the seed, this mammogram and `number` alone, not on order or processes."""
        return np.random.default_rng([self.seed, zlib.crc32(self.file.encode()), number])


@dataclass
class Made:
    """Entries by list, arrays by file (relative to the prepared folder; entries name files likewise), and defects."""

    entries: dict[str, list[Entry]] = field(default_factory=dict)
    files: dict[str, np.ndarray] = field(default_factory=dict)
    """bool becomes a mask of 1 bit, float in [0, 1] a 16-bit image, uint8 stays."""
    defects: list[Defect] = field(default_factory=list)

    def add(self, name: str, entry: Entry) -> None:
        """Append an entry to a list."""
        self.entries.setdefault(name, []).append(entry)


def segmentation(subject: Subject, pixels: np.ndarray) -> Made:
    """Masks of every lesion and their union, and crops, for `segmentation_roi`, `_whole` and `_crops`.

    A mammogram without a lesion gets an empty mask if the data set calls it normal, else it is left out; one of whose
    lesions an outline is missing is left out of the whole images, where the lesion would count as background.
    """
    made, image = Made(), subject.image
    lesions = find_lesions(image.image, pixels.shape, image.lesions, made.defects)
    listed = int(image.attributes.get("lesions_listed", len(image.lesions)))
    if not lesions and not (image.normal and not listed):
        known = "no outline of it is usable" if listed else "it has no outline and is not said to be normal"
        if not listed and image.attributes.get("outlined"):
            known = "what is outlined on it is not said to be a mass"
        made.defects.append(Defect(image.image, known, "left out of segmentation"))
        return made
    file = Path(os.path.relpath(image.image, subject.out)).as_posix()
    if image.read is not read_pixels:
        file = f"images/{subject.name}.png"
        made.files[file] = pixels
    for number, lesion in enumerate(lesions, start=1):
        mask = f"masks/{subject.name}_{number}.png"
        made.files[mask] = lesion.mask
        about = image.entry() | _about(lesion)
        made.add("segmentation_roi", about | {"image": file, "label": mask, "box": lesion.box})
        _add_crop(made, subject, pixels, lesion, number)
    missing = listed - sum(outline in {lesion.outline for lesion in lesions} for outline in image.lesions)
    if missing > 0:
        reason = f"{missing} of its {listed} lesions have no usable outline"
        made.defects.append(Defect(image.image, reason, "left out of whole images"))
        return made
    union = f"masks/{subject.name}_{'1' if len(lesions) == 1 else 'all'}.png"
    if len(lesions) != 1:
        made.files[union] = (
            np.any([lesion.mask for lesion in lesions], axis=0) if lesions else np.zeros_like(pixels, bool)
        )
    made.add("segmentation_whole", image.entry() | {"image": file, "label": union})
    return made


def segmentation_paper(subject: Subject, pixels: np.ndarray) -> Made:
    """Thirteen files of every lesion's crop, for `segmentation_paper`."""
    made, generator = Made(), subject.generator()
    lesions = find_lesions(subject.image.image, pixels.shape, subject.image.lesions, made.defects)
    for number, lesion in enumerate(lesions, start=1):
        region = crop_region(lesion.box, pixels.shape, subject.margin)
        for index, variant in enumerate(variants(pixels, lesion.mask, region, generator)):
            file = f"segmentation_paper/images/{subject.name}_{number}_{index:02d}"
            made.files |= {f"{file}.png": variant.pixels, f"{file}_mask.png": variant.mask}
            entry = _cropped(subject, lesion, variant.mask) | {"original": f"{subject.file}#{number}"}
            entry |= {"image": f"{file}.png", "label": f"{file}_mask.png"}
            made.add("segmentation_paper", entry | {"angle": round(variant.angle, 2), "flips": list(variant.flips)})
    return made


def quality(subject: Subject, pixels: np.ndarray) -> Made:
    """Complete and incomplete samples for `quality`, and what others are made of; none of one that is not complete."""
    made, (pixels, mask) = Made(), _reduced(pixels)
    for index, (label, name, sample) in enumerate(_samples(subject, pixels, mask, subject.samples, made.defects)):
        file = f"quality/images/{subject.name}_{name}{f'_{index // 2 + 1}' if index > 1 else ''}.png"
        made.files[file] = _grey(sample.pixels)
        made.add("quality", _sampled(subject, sample) | {"image": file, "label": label})
    if made.entries:
        original = f"quality/images/{subject.name}.png"
        made.files[original] = _grey(pixels)
        made.add("originals", _resampled(subject) | {"image": original})
    return made


def quality_paper(subject: Subject, pixels: np.ndarray) -> Made:
    """Two complete and two incomplete samples, of which `quality_paper` draws what it needs."""
    made = Made()
    for index, (label, name, sample) in enumerate(_samples(subject, *_reduced(pixels), 2, made.defects)):
        file = f"quality_paper/images/{subject.name}_{name}_{index // 2 + 1}.png"
        made.files[file] = _grey(sample.pixels)
        made.add("quality_paper", _sampled(subject, sample) | {"image": file, "label": label, "original": subject.file})
    return made


MAKERS: Mapping[str, Callable[[Subject, np.ndarray], Made]] = {
    "segmentation": segmentation,
    "quality": quality,
    "segmentation_paper": segmentation_paper,
    "quality_paper": quality_paper,
}
"""What can be made of a mammogram, by name."""


def _about(lesion: Lesion) -> Entry:
    known = {"kind": lesion.outline.kind, "pathology": lesion.outline.pathology, "lesion": lesion.outline.name}
    return {key: value for key, value in known.items() if value}


def _cropped(subject: Subject, lesion: Lesion, mask: np.ndarray) -> Entry:
    """What every entry of a crop says: the box is in the crop's own pixels."""
    return subject.image.entry() | _about(lesion) | {"source": subject.file, "box": bounding_box(mask)}


def _add_crop(made: Made, subject: Subject, pixels: np.ndarray, lesion: Lesion, number: int) -> None:
    region = crop_region(lesion.box, pixels.shape, subject.margin)
    image, label = (f"crops/{subject.name}_{number}{kind}.png" for kind in ("", "_mask"))
    mask = cut(lesion.mask, region)
    made.files |= {image: cut(pixels, region), label: mask}
    where = {"region": region, "source_size": list(pixels.shape)}
    made.add("segmentation_crops", _cropped(subject, lesion, mask) | {"image": image, "label": label} | where)


def _samples(
    subject: Subject, pixels: np.ndarray, mask: np.ndarray, count: int, defects: list[Defect]
) -> Iterator[tuple[int, str, Sample]]:
    """`count` times a complete and an incomplete sample, with their labels and the labels' names.

    The two of a pair start from equal generators and so have the very same field (see `truncation`).
    """
    declared = "its header says that it shows a part of the breast" if subject.image.part else None
    reason = declared or already_cut(mask, subject.image.view)
    if reason is not None:
        defects.append(Defect(subject.image.image, f"not complete as it is: {reason}", "left out of quality"))
        return
    breast = breast_of(pixels, mask, subject.image.view, QUALITY_SIZE)
    for number in range(count):
        for label, name in enumerate(("complete", "incomplete")):
            yield label, name, make_sample(breast, subject.generator(number), QUALITY_SIZE, label=label)


def _reduced(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of whole blocks of pixels in which the breast is still a quarter larger than a sample, and its outline."""
    mask = breast_mask(pixels)
    box = bounding_box(mask) or [0, 0, 0, 0]
    step = max(box[2] - box[0], box[3] - box[1]) // (QUALITY_SIZE * 5 // 4)
    if step < 2:
        return pixels, mask
    pixels, mask = block_means(pixels, step), mask[step // 2 :: step, step // 2 :: step]
    return pixels, np.ascontiguousarray(mask[: pixels.shape[0], : pixels.shape[1]])


def _resampled(subject: Subject) -> Entry:
    """What an entry says whose pixels are no longer the mammogram's: it has no spacing."""
    about = {key: value for key, value in subject.image.entry().items() if key != "spacing"}
    return about | {"source": subject.file}


def _sampled(subject: Subject, sample: Sample) -> Entry:
    truth = {"cause": sample.cause, "side": sample.side, "codes": list(sample.codes), "lost": round(sample.lost, 4)}
    return _resampled(subject) | truth


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
