"""Who is trained on, who is held out: the data sets' official splits without leaks, and the two papers' own protocols.

`patient` never has a patient on two sides. `paper` repeats what the papers did, which leaks; the leak is measured.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monai_mammo.datasets.sources import SourceImage
from monai_mammo.datasets.splits import FRACTIONS, split_patients

Entry = dict[str, Any]

OFFICIAL_FRACTIONS: Mapping[str, float] = {"training": 0.85, "validation": 0.15}
"""Shares of the official training patients; the official test patients stay as they are."""

PAPER_TRAINING = 0.8
"""Share of files that both papers train on; the rest is held out, for validation and test alike."""

PAPER_VARIANTS = 13
"""Files that paper B makes of a lesion: 1 318 -> 17 134."""

PAPER_QUALITY = (325, 500)
"""Originals of paper A, and how many complete and how many incomplete images it draws of what it makes of them."""


def patient_split(
    images: Iterable[SourceImage],
    seed: int,
    first: Iterable[str] | None = None,
    kept: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Every patient's section: one assignment for all datalists of a data set.

    Where the data set has an official split, its test patients are the test section and 15 % of the others the
    validation section; a patient on both official sides is a test patient (see :func:`leaking`). Otherwise 70 / 10 /
    20 by patient. Patients with lesions are spread by the same shares. Of two patients one trains and one validates;
    one alone trains.

    Args:
        images: all that the data set lists, usable or not, so that the answer does not depend on the task.
        seed: of the assignment.
        first: patients who are spread by the same shares in place of those with lesions.
        kept: sections of patients who have one already; only an official test side moves them.

    Returns:
        the sorted patients of every section.
    """
    images = list(images)
    test = {image.patient for image in images if image.split == "test"}
    others = {image.patient for image in images} - test
    fractions = OFFICIAL_FRACTIONS if test or len(others) < len(FRACTIONS) else FRACTIONS
    kept = kept or {}
    beyond = {patient for patient in others if kept.get(patient, "training") not in fractions}
    test, others = test | beyond, others - beyond
    if len(others) < len(fractions):
        one = {name: [patient for patient in others if kept.get(patient, "training") == name] for name in fractions}
        return {**one, "test": sorted(test)}
    if first is None:
        first = {image.patient for image in images if image.lesions}
    return {"test": sorted(test), **split_patients(others, fractions, seed, first, kept)}


def leaking(images: Iterable[SourceImage]) -> list[SourceImage]:
    """Training images of patients who are on the official test side, too (31 patients of CBIS-DDSM as a whole)."""
    images = list(images)
    test = {image.patient for image in images if image.split == "test"}
    return [image for image in images if image.split != "test" and image.patient in test]


def paper_segmentation_images(images: Iterable[SourceImage]) -> list[SourceImage]:
    """The images and lesions of paper B: masses of the official training side (CBIS-DDSM: 1 318 lesions).

    A data set without an official split gives all its images, one that does not name masses all its lesions.
    """
    with_lesions = [image for image in images if image.lesions]
    training = [image for image in with_lesions if image.split == "training"] or with_lesions
    masses = [
        replace(image, lesions=tuple(lesion for lesion in image.lesions if lesion.kind == "mass")) for image in training
    ]
    return [image for image in masses if image.lesions] or training


@dataclass(frozen=True)
class PaperSplit:
    """A paper's division into files to train on and files held out, and how much the held-out ones leak."""

    sections: dict[str, list[Entry]]
    """`training` and `validation`."""
    sibling: float
    """Share of validation files with a file of the same original in training."""
    patient: float
    """Share of validation files with a file of the same patient in training."""
    counts: str
    """What was counted on the way."""

    @property
    def remark(self) -> str:
        """What the datalist and the command say of it."""
        return (
            f"this protocol leaks: {self.sibling:.1%} of the validation images have a sibling made from the same "
            f"original in training, {self.patient:.1%} one of the same patient; its scores are training scores. "
            f"{self.counts}"
        )


def paper_segmentation(variants: Sequence[Entry], seed: int) -> PaperSplit:
    """Paper B's division: all files, thirteen a lesion, in a random 80 / 20 (17 134 -> 13 707 / 3 427).

    Args:
        variants: an entry a file; `original` tells siblings.
        seed: of the division.
    """
    training, validation = _divide(variants, random.Random(seed))
    lesions = len({entry["original"] for entry in variants})
    counts = f"{lesions} lesions -> {len(variants)} files -> {len(training)} training, {len(validation)} validation"
    return _measured(training, validation, counts)


def paper_quality(samples: Sequence[Entry], seed: int) -> PaperSplit:
    """Paper A's division: 500 complete and 500 incomplete of 325 originals, a stratified 80 / 20 (800 / 200).

    Other numbers of originals are scaled by the same ratio. Every original gives at least one file of each class while
    the drawn number allows it; which of them give more is drawn.

    Args:
        samples: an entry a file, two or more of each class from each original; `label` and `original` name them.
        seed: of the draws.
    """
    generator = random.Random(seed)
    originals = len({entry["original"] for entry in samples})
    wanted = round(originals * PAPER_QUALITY[1] / PAPER_QUALITY[0])
    training: list[Entry] = []
    validation: list[Entry] = []
    drawn = []
    for label in (0, 1):
        chosen = _draw([entry for entry in samples if entry["label"] == label], wanted, generator)
        parts = _divide(chosen, generator)
        training, validation = training + parts[0], validation + parts[1]
        drawn.append(len(chosen))
    counts = (
        f"{originals} originals -> {drawn[0]} complete + {drawn[1]} incomplete -> "
        f"{len(training)} training, {len(validation)} validation"
    )
    return _measured(training, validation, counts)


def _draw(samples: Sequence[Entry], wanted: int, generator: random.Random) -> list[Entry]:
    """So many files, taken in rounds of one from each original."""
    families: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(samples, key=lambda entry: str(entry["image"])):
        families[entry["original"]].append(entry)
    names = sorted(families)
    chosen: list[Entry] = []
    while len(chosen) < wanted and any(families.values()):
        generator.shuffle(names)
        chosen += [families[name].pop(0) for name in names if families[name]][: wanted - len(chosen)]
    return chosen


def _divide(entries: Iterable[Entry], generator: random.Random) -> tuple[list[Entry], list[Entry]]:
    shuffled = sorted(entries, key=lambda entry: str(entry["image"]))
    generator.shuffle(shuffled)
    training = round(PAPER_TRAINING * len(shuffled))
    return shuffled[:training], shuffled[training:]


def _measured(training: list[Entry], validation: list[Entry], counts: str) -> PaperSplit:
    def share(of: Callable[[Entry], str]) -> float:
        seen = {of(entry) for entry in training}
        return sum(of(entry) in seen for entry in validation) / max(1, len(validation))

    return PaperSplit(
        {"training": training, "validation": validation},
        share(lambda entry: entry["original"]),
        share(lambda entry: entry["patient"]),
        counts,
    )
