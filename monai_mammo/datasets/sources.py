"""What a data set's module says of its images before anything is decoded: the small shape common to all of them.

A module has `NAME`, `LICENCE` and `images(source, defects) -> list[SourceImage]`. It lists, it does not decode; what
it cannot use it appends to `defects` instead of raising, so that nothing gets lost in silence. It raises only where
the folder is not that data set at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from monai_mammo.dicom.reader import read_mammogram


def read_pixels(image: Path) -> np.ndarray:
    """Pixels of a mammogram file, float32 (rows, columns) in [0, 1]: how an image is decoded unless it says other."""
    return read_mammogram(image).pixels


@dataclass(frozen=True)
class SourceLesion:
    """One annotated lesion: where its outline is and what is known of it.

    The outline is either `masks` (candidate files of which one is the mask: CBIS-DDSM swaps mask and crop, so the
    pixels decide when they are read) or `polygon` ((row, column) corners in pixels of the image).
    """

    masks: tuple[Path, ...] = ()
    polygon: tuple[tuple[float, float], ...] = ()
    kind: str = ""
    """mass, calcification, asymmetry, distortion, …; empty if the data set does not say."""
    pathology: str = ""
    """benign, malignant, …; empty if the data set does not say."""
    name: str = ""
    """What tells this lesion from the image's others, for file names and messages."""


@dataclass(frozen=True)
class SourceImage:
    """One mammogram of a data set: where it is and what is known of it. Crosses process borders, so it pickles."""

    image: Path
    patient: str
    laterality: str
    """L, R or empty."""
    view: str
    """CC, MLO, … or empty."""
    lesions: tuple[SourceLesion, ...] = ()
    read: Callable[[Path], np.ndarray] = read_pixels
    """A module's own function where `read_mammogram` does not know the format."""
    spacing: tuple[float, float] | None = None
    """Row and column mm per pixel."""
    density: str = ""
    birads: str = ""
    split: Literal["", "training", "test"] = ""
    """The data set's official side, where it has one."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """The data set's own; plain values."""

    def entry(self) -> dict[str, Any]:
        """What every datalist entry of this image says; unknown values are left out."""
        known = {
            "patient": self.patient,
            "laterality": self.laterality,
            "view": self.view,
            "density": self.density,
            "birads": self.birads,
            "spacing": list(self.spacing) if self.spacing else "",
            **self.attributes,
        }
        return {key: value for key, value in known.items() if value != ""}


@dataclass(frozen=True)
class Defect:
    """Something wrong with a data set: which file, what, and what was done about it (`repaired`, `left out`, …)."""

    file: Path
    reason: str
    action: str = "left out"

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}; {self.action}"
