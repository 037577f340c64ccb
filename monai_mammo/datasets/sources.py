"""What a data set's module says of its images before anything is decoded: the small shape common to all of them.

A module has `NAME`, `LICENCE` and `images(source, defects) -> list[SourceImage]`. It lists, it does not decode; what
it cannot use it appends to `defects` instead of raising, so that nothing gets lost in silence. It raises only where
the folder is not that data set at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from monai_mammo.dicom.reader import read_mammogram, read_mask


def read_pixels(image: Path) -> np.ndarray:
    """Pixels of a mammogram file, float32 (rows, columns) in [0, 1]: how an image is decoded unless it says other."""
    return read_mammogram(image).pixels


def separator(header: str) -> str:
    """What separates the columns of a table with this first line: a comma, a semicolon or a tab."""
    return max(",;\t", key=header.count)


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
    read: Callable[[Path], np.ndarray] = read_mask
    """How one of `masks` is decoded: uint8 labels (rows, columns). A module's own where a file holds several masks
    (a segment of a DICOM SEG). It pickles, and raises MammogramError."""
    union: bool = False
    """The outline holds all lesions of the image together: each connected component is one."""


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
    normal: bool = False
    """The data set says that there is no lesion; without this, no outline means that nobody drew one."""
    part: bool = False
    """The data set says that a part of the breast is shown, as in a spot compression."""
    split: Literal["", "training", "test"] = ""
    """The data set's official side, where it has one."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """The data set's own; plain values. `lesions_listed`: how many lesions it names, with an outline or without;
    `outlined`: the finding, no lesion to segment, that alone is outlined."""

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


def files_below(folder: Path, defects: list[Defect]) -> Iterator[Path]:
    """Every file below a folder, sorted, links followed once; hidden files and folders are passed over.

    A folder that cannot be listed becomes a defect: its files would get lost in silence. So does a pipe or a device:
    who opens a pipe waits for ever. So does a name that is not UTF-8, which could not be written down.
    """

    def unlisted(error: OSError) -> None:
        defects.append(Defect(Path(error.filename), f"the folder cannot be listed ({type(error).__name__})"))

    seen: set[str] = set()
    for where, folders, files in os.walk(folder, onerror=unlisted, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files) if real not in seen else ():
            file = Path(where, name)
            if name.startswith("."):
                continue
            if os.path.exists(file) and not os.path.isfile(file):
                defects.append(Defect(file, "it is a pipe or a device, no file", "ignored"))
            elif (shown := os.fsencode(file).decode("utf-8", "replace")) != str(file):
                defects.append(Defect(Path(shown), "its name, or a folder's, is not UTF-8: rename it"))
            else:
                yield file
        seen.add(real)
