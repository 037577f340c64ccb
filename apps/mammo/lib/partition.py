"""Which patients a model learns from and which it is judged by: the same ones over all its trainings.

Not here: the datalists, and the judgement (`gate`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from monai_mammo.files import write_json

from .errors import RequestRefused
from .files import read_json

Classes = Mapping[str, Collection[int]]
"""By patient: the kinds of images annotated (0 complete or without a lesion, 1 incomplete or with one)."""

REMEDY = "Annotate images of another patient, with and without a lesion (for the quality model: of both verdicts)"


class Partition:
    """Training and validation patients of one model, kept in a file.

    A patient once assigned stays there for good. So no model of the app was ever trained on a patient by whom it, or
    what comes after it, is judged; with a fresh split at each training the model in service would be judged by
    patients that it has learned by heart, and nothing better would ever replace it.

    Args:
        file: where the assignment is kept, by pseudonym of the patient.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def divide(self, classes: Classes, validation: float, seed: int) -> dict[str, list[str]]:
        """Assign the patients who are new, in an order that depends on `seed` and the patient alone.

        Validation is filled up to its share of the patients, first with those who bring a kind of image that it
        lacks, and beyond its share as long as it lacks one that training can spare: of one kind alone there is nothing
        to judge by. The last one of a kind is left to training as long as validation has another.

        Args:
            classes: the patients that there are annotations of.
            validation: share of the patients, at least one.
            seed: of the order in which new patients are dealt.

        Returns:
            the patients of `training` and `validation`.

        Raises:
            RequestRefused: one of them is empty (409).
        """
        known = read_json(self.file)
        sections = {patient: known[patient] for patient in classes if patient in known}
        fresh = sorted(set(classes) - set(known), key=lambda patient: _rank(patient, seed))
        wanted = min(max(1, round(validation * len(classes))), max(1, len(classes) - 1))
        while fresh:
            chosen, needed = _next(fresh, classes, sections)
            if not needed and list(sections.values()).count("validation") >= wanted:
                break
            fresh.remove(chosen)
            sections[chosen] = "validation"
        sections |= dict.fromkeys(fresh, "training")
        split = {
            name: sorted(patient for patient, section in sections.items() if section == name)
            for name in ("training", "validation")
        }
        for name, patients in split.items():
            if not patients:
                raise RequestRefused(409, f"no annotated patient is left for {name}", REMEDY)
        write_json(self.file, {**known, **sections})
        return split


def _next(fresh: list[str], classes: Classes, sections: Mapping[str, str]) -> tuple[str, bool]:
    """The first new patient who brings validation what it lacks, without taking the last of a kind from training.

    Returns:
        the patient, and whether validation lacks what that one brings and training can spare it.
    """
    validated = {kind for patient, section in sections.items() if section == "validation" for kind in classes[patient]}

    def left(without: str) -> set[int]:
        trained = [patient for patient, section in sections.items() if section == "training"]
        return {kind for patient in (*trained, *fresh) if patient != without for kind in classes[patient]}

    everything = {kind for kinds in classes.values() for kind in kinds}
    spare = [patient for patient in fresh if left(patient) == everything]
    chosen = max(spare or fresh, key=lambda patient: len(set(classes[patient]) - validated))
    return chosen, bool(spare) and not set(classes[chosen]) <= validated


def _rank(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()
