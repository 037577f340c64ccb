"""Images as their headers describe them, and the folder that they may come from. Not here: pixels, labels, archives."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_mammo.datasets.pseudonym import patient_of, pseudonym
from monai_mammo.dicom.display import NO_DISPLAY
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.header import MammogramHeader, is_no_image
from monai_mammo.dicom.reader import begins_as_dicom, read_header
from monai_mammo.files import digest, replacing

from .errors import RequestRefused
from .names import SAFE_NAME

OWN_FOLDER = "labels"
EXTENSIONS = (".dcm", ".dicom", ".ima", ".nii.gz", ".nii", ".nrrd", ".png", ".jpeg", ".jpg", ".tiff", ".tif")
_READING_ORDER = ("CC", "MLO")


@dataclass(frozen=True)
class ImageFile:
    """An image as its header describes it.

    Args:
        file: its name where it comes from: path below the studies folder with forward slashes, or SOPInstanceUID.
        stamp: changes with the image, so that it tells whether the image is still the one examined.
        rows: height in pixels (0 where unreadable).
        columns: width in pixels.
        spacing: (row, column) mm in the plane of the breast; None where the header does not say.
        patient: pseudonym of the patient, equal for all images of one patient; the key of splits.
        view: CC, MLO, ... where the header says so.
        laterality: L or R where the header says so.
        study: StudyInstanceUID; empty if the image is no DICOM, as are the next two.
        series: SeriesInstanceUID.
        sop: SOPInstanceUID.
        problem: why the image cannot be used; None if it can, as far as its header shows.
        remedy: what helps against the problem.
    """

    file: str
    stamp: str
    rows: int = 0
    columns: int = 0
    spacing: Sequence[float] | None = None
    patient: str = ""
    view: str | None = None
    laterality: str | None = None
    study: str = ""
    series: str = ""
    sop: str = ""
    problem: str | None = None
    remedy: str | None = None

    def refused(self) -> RequestRefused:
        """The refusal of an image that has a problem."""
        return RequestRefused(422, self.problem or "it cannot be used", self.remedy or "Check the file", self.file)


class StudiesFolder:
    """The images of a folder and its subfolders, in DICOM and other formats.

    Args:
        folder: it is made if there is none.
    """

    name: str
    description = "Mammograms of a local folder, one id per image file"
    rescan_seconds = 1.0
    retry_seconds = math.inf  # a mended file has another stamp
    missed: str | None = None  # nothing, ever

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = self.folder.name
        self._beside: set[tuple[str, str]] = set()  # file and stamp of what is known to be no image

    def scan(self, known: Mapping[str, ImageFile]) -> list[ImageFile]:
        """Every image, good or bad, without the segmentations, reports, … beside it.

        What is `known`, or was seen to be none, and has not changed is not read again.
        """
        found = (self._examined(path, known) for path in image_files(self.folder))
        return [image for image in found if image is not None]

    def id_of(self, file: str, taken: Collection[str]) -> str:
        """A readable id for an image's relative path, made unique by a digest of the path if another has it already.

        Ids that differ in case only count as the same, since some file systems take them so.
        """
        bare = file[: len(file) - len(image_extension(file))]
        readable = bare if SAFE_NAME.fullmatch(bare) else re.sub(r"[^A-Za-z0-9_]+", "-", bare)[-80:].strip("-_")
        if readable and readable.lower() not in taken:
            return readable
        return f"{readable or 'image'}-{digest(file)}"

    def path(self, image: ImageFile) -> Path:
        """Where the image's file is."""
        return self.folder / image.file

    def retrieve(self, image: ImageFile) -> Path:
        """The image's file, which is here already."""
        return self.path(image)

    def fetch(self, image: ImageFile) -> Path:
        """The image's file, which is always as it is now."""
        return self.path(image)

    def discard(self, image: ImageFile) -> None:
        """An original stays, readable or not."""

    def hold(self, image: ImageFile) -> Path:
        """The image's file, which stays."""
        return self.path(image)

    def add(self, image_id: str, source: Path, extension: str) -> str:
        """Copy an image into the folder.

        Returns:
            the new image's `file`.

        Raises:
            RequestRefused: there is a file of that name (409), or it is no usable image (422).
        """
        target = self.folder / f"{image_id}{extension}"
        if target.exists():
            raise RequestRefused(409, f"there is an image '{image_id}' already", "Choose another id")
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder).resolve() / target.name
            shutil.copyfile(source, trial)
            examined = examine(trial, trial.parent)
            if examined.problem:
                raise examined.refused()
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
        return target.name

    def store(self, file: Path) -> None:
        """A result needs no other place than the one where it lies."""

    def _examined(self, path: Path, known: Mapping[str, ImageFile]) -> ImageFile | None:
        file = _file(path, self.folder)
        try:
            stamp = _stamp(path)
            if (file, stamp) in self._beside:
                return None
            former = known.get(file)
            image = former if former and former.stamp == stamp else examine(path, self.folder)
        except FileNotFoundError:  # it has gone since it was found
            return None
        if not image.rows and is_no_image(path):
            self._beside.add((file, stamp))
            return None
        return image


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
            if (here / name).is_file() and (image_extension(name) or begins_as_dicom(here / name)):
                yield here / name


def examine(path: Path, studies: Path) -> ImageFile:
    """Read an image file's header; whatever is wrong with it becomes its `problem`."""
    file, stamp = _file(path, studies), _stamp(path)
    if studies / file != path:
        return ImageFile(file, stamp, problem="its name is not UTF-8", remedy="Rename it, or the folder that it is in")
    try:
        header = read_header(path)
    except MammogramError as error:
        return ImageFile(file, stamp, problem=error.reason, remedy=error.remedy)
    return described(file, stamp, header)


def described(file: str, stamp: str, header: MammogramHeader) -> ImageFile:
    """An image from its header; one of no defined display is unusable. Without a PatientID the study, without a study
    the file's name stands for the patient."""
    stem = Path(file).name[: len(Path(file).name) - len(image_extension(file))]
    problem, remedy = NO_DISPLAY if header.intent == "processing" else (None, None)
    return ImageFile(
        file,
        stamp,
        rows=header.rows,
        columns=header.columns,
        spacing=header.spacing,
        patient=pseudonym(patient_of(header) or stem),
        view=header.view,
        laterality=header.laterality,
        study=header.study_instance_uid,
        series=header.series_instance_uid,
        sop=header.sop_instance_uid,
        problem=problem,
        remedy=remedy,
    )


def reading_place(image: ImageFile) -> tuple[int, bool]:
    """Where an image comes as a case is usually read: CC before MLO, right before left."""
    view = _READING_ORDER.index(image.view) if image.view in _READING_ORDER else len(_READING_ORDER)
    return view, image.laterality != "R"


def _file(path: Path, studies: Path) -> str:
    """A path below the studies folder; bytes that are no UTF-8, which no answer can hold, are written as `\\xfc`."""
    return os.fsencode(path.relative_to(studies).as_posix()).decode(errors="backslashreplace")


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"
