"""A folder of mammograms as MONAI Label's datastore: one id per image file, labels and verdicts beside the images.

Everything the datastore writes lies in `<studies>/labels`: `<tag>/<id>.<extension>` with `<tag>/<id>.json` for every
label, `.info/<id>.json` for what is known of an image, `.index.json` for ids and headers. Images are never changed.
Not here: DICOMweb, and the reading of pixels.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import shutil
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mask

from .errors import RequestRefused, unknown
from .files import read_json, replacing, write_json
from .images import OWN_FOLDER, ImageFile, examine, image_extension, image_files
from .masks import label_extension
from .names import SAFE_NAME, new_id, safe_name

logger = logging.getLogger(__name__)

QUALITY_VERDICTS = ("complete", "incomplete")
SHOWN_UNREADABLE = 100
RESCAN_SECONDS = 1.0


class MammogramDatastore(Datastore):
    """The images of a folder, its subfolders included, and what was said about them.

    Files dropped into the folder appear when images are next listed, or asked for by id. Ids are made of the file's
    relative path, stay with that path for good, and are safe as file names. Its methods may be called from several
    threads; several processes may use the same folder.

    Args:
        studies: the folder.

    Raises:
        ValueError: the datastore's own index in that folder is damaged.
        OSError: the folder cannot be written to.
    """

    def __init__(self, studies: str | Path) -> None:
        self.studies = Path(studies).resolve()
        self._own = self.studies / OWN_FOLDER
        self._own.mkdir(parents=True, exist_ok=True)
        logging.getLogger("filelock").setLevel(logging.WARNING)
        self._between_processes = FileLock(str(self._own / ".lock"))
        self._lock = threading.RLock()
        self._images: dict[str, ImageFile] = {}
        self._scanned = float("-inf")
        self.refresh()

    # What there is

    def refresh(self) -> None:
        """Look for new, changed and removed files."""
        with self._lock, self._between_processes:
            index = read_json(self._own / ".index.json")
            ids, known = index.get("ids", {}), index.get("images", {})
            found = [self._examined(path, known) for path in image_files(self.studies)]
            taken = {image_id.lower() for image_id in ids.values()}
            for image in found:
                if image.file not in ids:
                    ids[image.file] = new_id(image.file, taken)
                    taken.add(ids[image.file].lower())
            entries = {image.file: dataclasses.asdict(image) for image in found}
            if {"ids": ids, "images": entries} != index:
                write_json(self._own / ".index.json", {"ids": ids, "images": entries})
            self._images = {ids[image.file]: image for image in found}
            self._scanned = time.monotonic()

    def image(self, image_id: str) -> ImageFile:
        """What the header of an image says.

        Raises:
            RequestRefused: there is no such image (404).
        """
        with self._lock:
            if image_id not in self._images:
                self.refresh()
            if image_id not in self._images:
                raise unknown("image", image_id)
            return self._images[image_id]

    def readable_image(self, image_id: str) -> Path:
        """The path of an image that can be read, as far as is known.

        Raises:
            RequestRefused: there is no such image (404), or it is known to be unreadable (422).
        """
        image = self.image(image_id)
        if image.problem:
            self.refresh()  # it may have been replaced since
            image = self.image(image_id)
        if image.problem:
            raise RequestRefused(422, image.problem, _sentence(image.remedy), image.file)
        return self.studies / image.file

    def report_unreadable(self, image_id: str, reason: str, remedy: str) -> None:
        """Note that an image's pixels cannot be read, which its header did not show, until its file changes."""
        with self._lock, self._between_processes:
            image = dataclasses.replace(self.image(image_id), problem=reason, remedy=remedy)
            index = read_json(self._own / ".index.json")
            index["images"][image.file] = dataclasses.asdict(image)
            write_json(self._own / ".index.json", index)
            self._images[image_id] = image

    def list_images(self) -> list[str]:
        """Ids of all readable images."""
        return [image_id for image_id, image in self._current().items() if not image.problem]

    def unreadable_images(self) -> list[dict[str, str | None]]:
        """File, reason and remedy of every image that cannot be used."""
        return [
            {"file": image.file, "reason": image.problem, "remedy": image.remedy}
            for image in self._current().values()
            if image.problem
        ]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the readable images that have a label (a final one, unless another tag is named)."""
        folder = self._own / safe_name(label_tag or DefaultLabelTag.FINAL, "tag")
        labelled = {entry.stem for entry in folder.glob("*.json")}
        return [image_id for image_id in self.list_images() if image_id in labelled]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the readable images that have no label (no final one, unless another tag is named)."""
        labelled = set(self.get_labeled_images(label_tag))
        return [image_id for image_id in self.list_images() if image_id not in labelled]

    def datalist(self) -> list[dict[str, Any]]:
        """Paths of every image with a final label, and of that label."""
        return [
            {"image": self.get_image_uri(image_id), "label": self.get_label_uri(image_id, DefaultLabelTag.FINAL)}
            for image_id in self.get_labeled_images()
        ]

    def status(self) -> dict[str, Any]:
        """Counts for the viewers, and the images that cannot be used."""
        unreadable = self.unreadable_images()
        tags = {tag: len(self.get_labeled_images(tag)) for tag in self._tags()}
        return {
            "total": len(self.list_images()),
            "completed": len(self.get_labeled_images()),
            "label_tags": {tag: count for tag, count in tags.items() if count},
            "unreadable_total": len(unreadable),
            "unreadable": unreadable[:SHOWN_UNREADABLE],
        }

    def json(self) -> dict[str, Any]:
        """All readable images with their labels, in the form that MONAI Label's clients know."""
        objects = {}
        for image_id in self.list_images():
            labels = {
                tag: {
                    "ext": label_extension(self.get_label_uri(image_id, tag)),
                    "info": self.get_label_info(image_id, tag),
                }
                for tag in self.get_labels_by_image_id(image_id)
            }
            image = {"ext": image_extension(self.image(image_id).file), "info": self.get_image_info(image_id)}
            objects[image_id] = {"image": image, "labels": labels}
        return {"name": self.name(), "description": self.description(), "labels_dir": OWN_FOLDER, "objects": objects}

    # Images

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image's file."""
        return str(self.studies / self.image(image_id).file)

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        """Content of an image's file."""
        return io.BytesIO(Path(self.get_image_uri(image_id)).read_bytes())

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image: name, path, size, view, side, and what was added by `update_image_info`."""
        image = self.image(image_id)
        name = Path(image.file).name
        return {
            **read_json(self._info_file(image_id)),
            "name": name if image_extension(name) else f"{name}.dcm",
            "path": str(self.studies / image.file),
            "rows": image.rows,
            "columns": image.columns,
            "view": image.view,
            "laterality": image.laterality,
        }

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of an image, for instance an annotator's verdict `{"quality": "incomplete"}`.

        Raises:
            RequestRefused: no such image, no JSON object, or no such verdict.
        """
        self.image(image_id)
        if not isinstance(info, dict):
            raise RequestRefused(400, "an image's info is not a JSON object", 'Send {"quality": "complete"}, say')
        if info.get("quality") not in (None, *QUALITY_VERDICTS):
            raise RequestRefused(
                400, f"{info['quality']!r} is no verdict on quality", f"Say one of {', '.join(QUALITY_VERDICTS)}"
            )
        with self._lock:
            write_json(self._info_file(image_id), {**read_json(self._info_file(image_id)), **info})

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy an image into the folder under the given id.

        Raises:
            RequestRefused: the id is unsafe or taken, or the file is no usable image; nothing is kept of it then.
        """
        safe_name(image_id, "image's id")
        extension = image_extension(image_filename) or ".dcm"
        with self._lock:
            target = self.studies / f"{image_id}{extension}"
            self.refresh()
            if image_id in self._images or target.exists():
                raise RequestRefused(409, f"there is an image '{image_id}' already", "Choose another id")
            with tempfile.TemporaryDirectory() as folder:
                trial = Path(folder).resolve() / target.name
                shutil.copyfile(image_filename, trial)
                examined = examine(trial, trial.parent)
                if examined.problem:
                    raise RequestRefused(422, examined.problem, _sentence(examined.remedy), target.name)
            with replacing(target) as partial:
                shutil.copyfile(image_filename, partial)
            self.refresh()
            saved = next(known for known, image in self._images.items() if image.file == target.name)
            self.update_image_info(saved, image_info or {})
            return saved

    def remove_image(self, image_id: str) -> None:
        """Refused: original images leave the folder by a person's hand only."""
        self.image(image_id)
        raise RequestRefused(403, "this server deletes no images", "Remove the file from the studies folder")

    # Labels

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label map of the image's own size; it replaces a former one of the same tag.

        Returns:
            the label's id, which is the image's.

        Raises:
            RequestRefused: no such image, an unsafe tag, no mask, or a mask of another size.
        """
        image, tag = self.image(image_id), safe_name(label_tag, "tag")
        extension = label_extension(label_filename)
        try:
            shape = read_mask(label_filename).shape
        except MammogramError as error:
            raise RequestRefused(422, f"the label cannot be used: {error.reason}", _sentence(error.remedy)) from error
        if shape != (image.rows, image.columns):
            raise RequestRefused(
                422,
                f"the label has {shape[1]} x {shape[0]} pixels (x, y), the image {image.columns} x {image.rows}",
                "Save the label on the image's own pixel grid",
                image.file,
            )
        with self._lock:
            former = self._label_file(image_id, tag)
            target = self._own / tag / f"{image_id}{extension}"
            with replacing(target) as partial:
                shutil.copyfile(label_filename, partial)
            info = {**(label_info or {}), "ts": int(time.time()), "name": target.name}
            write_json(target.with_name(f"{image_id}.json"), info)
            if former and former != target:
                former.unlink(missing_ok=True)
        return image_id

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Label ids of an image by tag."""
        self.image(image_id)
        return {tag: image_id for tag in self._tags() if self._label_file(image_id, tag)}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The label id for an image and a tag; empty if there is no such label."""
        return self.get_labels_by_image_id(image_id).get(safe_name(tag, "tag"), "")

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label's file.

        Raises:
            RequestRefused: there is no such label (404).
        """
        tag = safe_name(label_tag, "tag")
        file = self._label_file(label_id, tag)
        if file is None:
            raise unknown("label", f"{label_id} ({tag})")
        return str(file)

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> io.BytesIO:
        """Content of a label's file."""
        return io.BytesIO(Path(self.get_label_uri(label_id, label_tag)).read_bytes())

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What was saved with a label."""
        return read_json(Path(self.get_label_uri(label_id, label_tag)).with_name(f"{label_id}.json"))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what was saved with a label."""
        with self._lock:
            former = self.get_label_info(label_id, label_tag)
            write_json(
                self._own / safe_name(label_tag, "tag") / f"{label_id}.json", {**former, **info, "name": former["name"]}
            )

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label."""
        with self._lock:
            file = Path(self.get_label_uri(label_id, label_tag))
            file.with_name(f"{label_id}.json").unlink()  # first: without it the label is not there
            file.unlink()

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP of the images with final labels, and of those labels.

        Raises:
            RequestRefused: nothing has a final label yet.
        """
        labelled = self.get_labeled_images()[: limit_cases or None]
        if not labelled:
            raise RequestRefused(404, "no image has a final label yet", "Save a label first")
        archive = self._own / ".dataset.zip"
        with replacing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as opened:
            for image_id in labelled:
                opened.write(
                    self.get_image_uri(image_id), f"image/{image_id}{image_extension(self.image(image_id).file)}"
                )
                label = self.get_label_uri(image_id, DefaultLabelTag.FINAL)
                opened.write(label, f"label/{Path(label).name}")
        return str(archive)

    # The datastore itself

    def name(self) -> str:
        """The folder's name."""
        return self.studies.name

    def set_name(self, name: str) -> None:
        """Refused: the folder's name is the datastore's."""
        raise RequestRefused(400, "the datastore's name is its folder's", "Rename the folder")

    def description(self) -> str:
        """One line on what this is."""
        return "Mammograms of a local folder, one id per image file"

    def set_description(self, description: str) -> None:
        """Refused: the description is fixed."""
        raise RequestRefused(400, "the datastore's description is fixed", "Describe the study elsewhere")

    def _current(self) -> dict[str, ImageFile]:
        with self._lock:
            if time.monotonic() - self._scanned > RESCAN_SECONDS:
                self.refresh()
            return dict(self._images)

    def _examined(self, path: Path, known: dict[str, Any]) -> ImageFile:
        file, stat = path.relative_to(self.studies).as_posix(), path.stat()
        former = known.get(file)
        if former and (former["bytes"], former["changed"]) == (stat.st_size, stat.st_mtime_ns):
            return ImageFile(**former)
        image = examine(path, self.studies)
        if image.problem:
            logger.warning("%s cannot be used: %s", file, image.problem)
        return image

    def _tags(self) -> list[str]:
        return sorted(
            entry.name for entry in os.scandir(self._own) if entry.is_dir() and SAFE_NAME.fullmatch(entry.name)
        )

    def _label_file(self, image_id: str, tag: str) -> Path | None:
        if image_id not in self._images:
            return None
        name = read_json(self._own / tag / f"{image_id}.json").get("name")
        return self._own / tag / name if name else None

    def _info_file(self, image_id: str) -> Path:
        return self._own / ".info" / f"{image_id}.json"


def _sentence(remedy: str | None) -> str:
    return f"{(remedy or 'Check the file').rstrip('.')}."
