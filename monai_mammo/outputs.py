"""Where the masks and pictures of `monai-mammo predict` go, settled before anything is computed. Not here: what is in
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_mammo.datasets.datalist import images_to_predict
from monai_mammo.dicom.errors import MammogramError

MASKS = (".png",)
"""Endings of masks: JPEG would blur them."""
PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Job:
    """One mammogram, and where its mask and picture are asked for."""

    image: Path
    mask: Path | None = None
    picture: Path | None = None


def jobs_of(given: Sequence[Path], mask: Path | None, picture: Path | None) -> list[Job]:
    """What is to be done for the images given.

    Args:
        given: images, and folders of them.
        mask: a file for one image; for several, or for a folder, the folder of the masks, each named after its image
            (`a/b.dcm.png`).
        picture: the same for pictures.

    Raises:
        MammogramError: a folder has no image, what is asked for cannot be written there, or would overwrite an image
            or another result.
    """
    if len(given) == 1 and not given[0].is_dir():
        for file, endings in ((mask, MASKS), (picture, PICTURES)):
            if file is not None:
                _check_file(file, endings)
        jobs = [Job(given[0], mask, picture)]
    else:
        images = dict(_named(given, [folder.resolve() for folder in (mask, picture) if folder is not None]))
        jobs = [Job(image, _below(mask, name), _below(picture, name)) for image, name in images.items()]
        for folder in (mask, picture):
            if folder is not None and folder.exists() and not folder.is_dir():
                raise MammogramError(folder, "it is a file", "For several images, name a folder")
    _refuse_overwriting(jobs)
    return jobs


def _named(given: Sequence[Path], results: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Every image, with what its results are called; former results below a folder of images are no images."""
    for path in given:
        if not path.is_dir():
            yield path, Path(path.name)
            continue
        for entry in images_to_predict(path):
            image = Path(entry["image"])
            if not any(folder in image.resolve().parents and folder != path.resolve() for folder in results):
                yield image, image.relative_to(path) if image.is_relative_to(path) else Path(image.name)


def _below(folder: Path | None, name: Path) -> Path | None:
    return None if folder is None else folder / f"{name}.png"


def _check_file(file: Path, endings: Sequence[str]) -> None:
    if file.is_dir():
        raise MammogramError(file, "it is a folder", "For one image, name a file")
    if file.suffix.lower() not in endings:
        raise MammogramError(file, "it cannot be written in this format", f"Let it end in {' or '.join(endings)}")
    if not file.parent.is_dir():
        raise MammogramError(file, f"there is no folder {file.parent}", "Make it, or name another")


def _refuse_overwriting(jobs: Sequence[Job]) -> None:
    images, results = {job.image.resolve() for job in jobs}, set()
    for file in (file for job in jobs for file in (job.mask, job.picture) if file is not None):
        if file.resolve() in images:
            raise MammogramError(file, "it would overwrite an image", "Name another place")
        if file.resolve() in results:
            remedy = "Name other places, or the one folder that holds all the images"
            raise MammogramError(file, "it would overwrite another result", remedy)
        results.add(file.resolve())
