"""The image files of a studies folder: which they are, and what their headers say. Not here: pixels, labels, ids."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_header

OWN_FOLDER = "labels"
EXTENSIONS = (".dcm", ".dicom", ".ima", ".nii.gz", ".nii", ".nrrd", ".png", ".jpeg", ".jpg", ".tiff", ".tif")


@dataclass(frozen=True)
class ImageFile:
    """An image file as its header describes it.

    Args:
        file: path relative to the studies folder, with forward slashes.
        bytes: size of the file; with `changed` it tells whether the file is still the one examined.
        changed: time of last modification in nanoseconds.
        rows: height in pixels (0 where unreadable).
        columns: width in pixels.
        patient: pseudonym of the patient, equal for all images of one patient; the key of splits.
        view: CC, MLO, ... where the header says so.
        laterality: L or R where the header says so.
        problem: why the image cannot be used; None if it can, as far as its header shows.
        remedy: what helps against the problem.
    """

    file: str
    bytes: int
    changed: int
    rows: int = 0
    columns: int = 0
    patient: str = ""
    view: str | None = None
    laterality: str | None = None
    problem: str | None = None
    remedy: str | None = None


def pseudonym(patient: str) -> str:
    """A stand-in for a patient identifier: the same for the same patient, the identifier not readable from it.

    Whoever can list all possible identifiers can still find the one behind it: it is no anonymisation.
    """
    return hashlib.blake2b(patient.encode(), digest_size=8).hexdigest()


def image_extension(name: str) -> str:
    """The known image extension at the end of a file name, in lower case; empty if there is none."""
    return next((known for known in EXTENSIONS if name.lower().endswith(known)), "")


def image_files(studies: Path) -> Iterator[Path]:
    """Every file that is or claims to be an image, in a fixed order.

    Taken are the known extensions, and any other file that begins as DICOM files do. Hidden files, DICOMDIR and the
    top-level folder of labels are left out; links to files are followed, links to folders are not.
    """
    for folder, subfolders, files in os.walk(studies):
        here = Path(folder)
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and not (here == studies and name == OWN_FOLDER)
        )
        for name in sorted(files):
            if name.startswith(".") or name.upper() == "DICOMDIR":
                continue
            if (here / name).is_file() and (image_extension(name) or _begins_as_dicom(here / name)):
                yield here / name


def examine(path: Path, studies: Path) -> ImageFile:
    """Read an image file's header; whatever is wrong with it becomes its `problem`."""
    file, stat = path.relative_to(studies).as_posix(), path.stat()
    try:
        header = read_header(path)
    except MammogramError as error:
        return ImageFile(file, stat.st_size, stat.st_mtime_ns, problem=error.reason, remedy=error.remedy)
    return ImageFile(
        file,
        stat.st_size,
        stat.st_mtime_ns,
        rows=header.rows,
        columns=header.columns,
        patient=pseudonym(header.patient_id or path.name[: len(path.name) - len(image_extension(path.name))]),
        view=header.view,
        laterality=header.laterality,
    )


def _begins_as_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False
