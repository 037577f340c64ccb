"""Mammograms as MONAI Label's datastore: one id per image, wherever images come from, and what was said about them.

Images come from a `StudiesFolder` or an `Archive` and are never changed; labels and verdicts are `Labels`, which go out
as DICOM SEG by `Results`. Everything written lies in one folder, `<studies>/labels` unless another is named; there also
`.index.json` for ids and headers. Not here: the reading of pixels.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mask

from .archive import Archive
from .errors import RequestRefused, unknown
from .files import read_json, replacing, write_json
from .images import OWN_FOLDER, ImageFile, StudiesFolder, image_extension, sentence
from .labels import FINAL, QUALITY_VERDICTS, Labels
from .masks import label_extension
from .names import safe_name
from .results import Results
from .users import current_user

__all__ = ["QUALITY_VERDICTS", "MammogramDatastore"]

logger = logging.getLogger(__name__)

SHOWN_UNREADABLE = 100


class MammogramDatastore(Datastore):
    """The images of a folder or an archive, and what was said about them.

    New images appear when images are next listed, or asked for by id. An image's id stays its own for good and is safe
    as a file name. Its methods may be called from several threads; several processes may use the same folder.

    MONAI Label knows one final label an image: the latest, whoever saved it. Those of other readers are kept. The
    reader is `users.current_user`.

    Args:
        origin: the studies folder, or the archive.
        labels: folder for everything that is written; the subfolder `labels` of the studies folder if None.

    Raises:
        ValueError: the datastore's own index is damaged; or an archive is given without a folder for labels.
        OSError: the folder cannot be written to.
    """

    def __init__(self, origin: str | Path | Archive, labels: Path | None = None) -> None:
        self.origin: StudiesFolder | Archive = origin if isinstance(origin, Archive) else StudiesFolder(origin)
        if labels is None and isinstance(self.origin, StudiesFolder):
            labels = self.origin.folder / OWN_FOLDER
        if labels is None:
            raise ValueError("an archive's labels need a folder")
        self._own = labels.resolve()
        self.labels = Labels(self._own)
        self.results = Results(self.labels, self.origin, self._known)
        logging.getLogger("filelock").setLevel(logging.WARNING)
        self._between_processes = FileLock(str(self._own / ".lock"))
        self._lock, self._scanning, self._adding = threading.Lock(), threading.Lock(), threading.Lock()
        self._images: dict[str, ImageFile] = self._indexed()
        self._scanned = float("-inf")
        self._origin_problem: str | None = None
        self.refresh()

    # What there is

    def refresh(self) -> None:
        """Look for new, changed and removed images; an archive that does not answer changes nothing."""
        with self._scanning:
            self._rescan()
        self._deliver()

    def image(self, image_id: str) -> ImageFile:
        """What the header of an image says.

        Raises:
            RequestRefused: there is no such image (404).
        """
        if image_id not in self._images:
            self.refresh()
        return self._known(image_id)

    def readable_image(self, image_id: str) -> Path:
        """The path of an image that can be read, as far as is known.

        Raises:
            RequestRefused: there is no such image (404), it is known to be unreadable (422), or the archive that has it
                does not answer (503).
        """
        image = self.image(image_id)
        if image.problem:
            self.refresh()  # it may have been replaced since
            image = self.image(image_id)
        if image.problem:
            raise RequestRefused(422, image.problem, sentence(image.remedy), image.file)
        try:
            return self.origin.retrieve(image)
        except RequestRefused as refused:
            if refused.status == 422:
                self.report_unreadable(image_id, refused.reason, refused.remedy)
            raise

    def report_unreadable(self, image_id: str, reason: str, remedy: str) -> None:
        """Note that an image's pixels cannot be read, which its header did not show, until the image changes."""
        with self._lock, self._between_processes:
            image = dataclasses.replace(self._known(image_id), problem=reason, remedy=remedy)
            index = read_json(self._own / ".index.json")
            index["images"][image.file] = dataclasses.asdict(image)
            write_json(self._own / ".index.json", index)
            self._images[image_id] = image

    def list_images(self) -> list[str]:
        """Ids of all readable images."""
        return [image_id for image_id, image in self._current().items() if not image.problem]

    def images_of_study(self, study: str) -> dict[str, ImageFile]:
        """Images of a DICOM study by id, unreadable ones included, in the order CC before MLO, right before left."""
        found = {image_id: image for image_id, image in self._current().items() if image.study == study and study}
        place = {"CC": 0, "MLO": 1}
        order = sorted(
            found, key=lambda key: (place.get(found[key].view or "", 2), found[key].laterality != "R", found[key].file)
        )
        return {image_id: found[image_id] for image_id in order}

    def dicom_images(self) -> dict[str, ImageFile]:
        """All images that are DICOM, by id; `image_path` gives their files."""
        return {image_id: image for image_id, image in self._current().items() if image.sop}

    def image_path(self, sop: str) -> Path:
        """The file of the image with a SOPInstanceUID, retrieved if it is in an archive.

        Raises:
            RequestRefused: there is no such image (404), or the archive does not answer (503).
        """
        for image in self._current().values():
            if image.sop == sop and sop:
                return self.origin.retrieve(image)
        raise unknown("image", sop)

    def segmentations(self) -> list[tuple[str, str, Path]]:
        """Image id, reader and DICOM SEG file of every reader's final label, as far as they have been written."""
        found = []
        for image_id in self.dicom_images():
            for reader in self.labels.readers(image_id):
                file = self.labels.segmentation(image_id, reader)
                if file:
                    found.append((image_id, reader, file))
        return found

    def unreadable_images(self) -> list[dict[str, str | None]]:
        """File, reason and remedy of every image that cannot be used."""
        return [
            {"file": image.file, "reason": image.problem, "remedy": image.remedy}
            for image in self._current().values()
            if image.problem
        ]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the readable images that have a label (a final one, unless another tag is named)."""
        labelled = self.labels.labelled(safe_name(label_tag or FINAL, "tag"))
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
        tags = {tag: len(self.get_labeled_images(tag)) for tag in self.labels.tags()}
        return {
            "total": len(self.list_images()),
            "completed": len(self.get_labeled_images()),
            "label_tags": {tag: count for tag, count in tags.items() if count},
            "unreadable_total": len(unreadable),
            "unreadable": unreadable[:SHOWN_UNREADABLE],
            "labels_to_deliver": self.results.waiting(),
            "origin_problem": self._origin_problem,
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
        """Path of an image's file, retrieved if it is in an archive."""
        return str(self.origin.retrieve(self.image(image_id)))

    def hold_image(self, image_id: str) -> str:
        """Path of an image's file that stays there for as long as a training may take."""
        return str(self.origin.hold(self.image(image_id)))

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        """Content of an image's file."""
        return io.BytesIO(Path(self.get_image_uri(image_id)).read_bytes())

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image: name, path (of an archive's image once it has been retrieved), size, view, side,
        UIDs, pseudonym of the patient; verdicts, and what was added by `update_image_info`."""
        image = self.image(image_id)
        name = Path(image.file).name
        return {
            **self.labels.image_info(image_id),
            "name": name if image_extension(name) else f"{name}.dcm",
            "path": str(self.origin.path(image)),
            "rows": image.rows,
            "columns": image.columns,
            "view": image.view,
            "laterality": image.laterality,
            "patient": image.patient,
            "StudyInstanceUID": image.study,
            "SeriesInstanceUID": image.series,
            "SOPInstanceUID": image.sop,
        }

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of an image, for instance the reader's verdict `{"quality": "incomplete"}`.

        Raises:
            RequestRefused: no such image, no JSON object, or no such verdict.
        """
        self.image(image_id)
        if not isinstance(info, dict):
            raise RequestRefused(400, "an image's info is not a JSON object", 'Send {"quality": "complete"}, say')
        self.labels.update_image_info(image_id, info, current_user.get())

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy an image into the folder under the given id.

        Raises:
            RequestRefused: the id is taken or unsafe, the file is no usable image, or images come from an archive.
        """
        safe_name(image_id, "image's id")
        with self._adding:
            self.refresh()
            if image_id in self._images:
                raise RequestRefused(409, f"there is an image '{image_id}' already", "Choose another id")
            file = self.origin.add(image_id, Path(image_filename), image_extension(image_filename) or ".dcm")
            self.refresh()
            saved = next(known for known, image in self._images.items() if image.file == file)
            self.update_image_info(saved, image_info or {})
            return saved

    def remove_image(self, image_id: str) -> None:
        """Refused: original images leave the folder by a person's hand only."""
        self.image(image_id)
        raise RequestRefused(403, "this server deletes no images", "Remove the file from the studies folder")

    # Labels

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label map of the image's own size; it replaces a former one of the same tag.

        A final label replaces one of the same reader only: another's is kept, but is no longer the one that clients
        see. Of a DICOM image it becomes a DICOM SEG too, which an archive's image brings into the archive.

        Returns:
            the label's id, which is the image's.

        Raises:
            RequestRefused: no such image, an unsafe tag, no mask, or a mask of another size.
        """
        image, tag, reader = self.image(image_id), safe_name(label_tag, "tag"), current_user.get()
        extension = label_extension(label_filename)
        try:
            shape = read_mask(label_filename).shape
        except MammogramError as error:
            raise RequestRefused(422, f"the label cannot be used: {error.reason}", sentence(error.remedy)) from error
        if shape != (image.rows, image.columns):
            raise RequestRefused(
                422,
                f"the label has {shape[1]} x {shape[0]} pixels (x, y), the image {image.columns} x {image.rows}",
                "Save the label on the image's own pixel grid",
                image.file,
            )
        with self.labels.exclusively():
            if tag == FINAL and image.sop:
                self.results.announce(image_id, reader)
            self.labels.save(image_id, Path(label_filename), extension, tag, label_info or {}, reader)
        self._deliver()
        return image_id

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Label ids of an image by tag."""
        self.image(image_id)
        return {tag: image_id for tag in self.labels.tags() if self.labels.file(image_id, tag)}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The label id for an image and a tag; empty if there is no such label."""
        return self.get_labels_by_image_id(image_id).get(safe_name(tag, "tag"), "")

    def get_label_uri(self, label_id: str, label_tag: str, reader: str | None = None) -> str:
        """Path of a label's file; a certain reader's final label if one is named.

        Raises:
            RequestRefused: there is no such label (404).
        """
        tag = safe_name(label_tag, "tag")
        file = self.labels.file(label_id, tag, reader) if label_id in self._images else None
        if file is None:
            raise unknown("label", f"{label_id} ({tag})")
        return str(file)

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> io.BytesIO:
        """Content of a label's file."""
        return io.BytesIO(Path(self.get_label_uri(label_id, label_tag)).read_bytes())

    def get_label_info(self, label_id: str, label_tag: str, reader: str | None = None) -> dict[str, Any]:
        """What was saved with a label, with its `reader` and time `ts`; a certain reader's if one is named."""
        self.get_label_uri(label_id, label_tag, reader)
        return self.labels.info(label_id, safe_name(label_tag, "tag"), reader)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what was saved with a label."""
        self.get_label_uri(label_id, label_tag)
        self.labels.update(label_id, safe_name(label_tag, "tag"), info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label; of final labels, the latest of the other readers becomes the one that clients see."""
        self.get_label_uri(label_id, label_tag)
        self.labels.remove(label_id, safe_name(label_tag, "tag"))

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
        """The folder's name, or the archive's address."""
        return self.origin.name

    def set_name(self, name: str) -> None:
        """Refused: the name is that of the folder or archive."""
        raise RequestRefused(400, "the datastore's name is its folder's", "Rename the folder")

    def description(self) -> str:
        """One line on what this is."""
        return self.origin.description

    def set_description(self, description: str) -> None:
        """Refused: the description is fixed."""
        raise RequestRefused(400, "the datastore's description is fixed", "Describe the study elsewhere")

    def _current(self) -> dict[str, ImageFile]:
        stale = time.monotonic() - self._scanned > self.origin.rescan_seconds
        if stale and self._scanning.acquire(blocking=False):  # who comes while another looks takes the former list
            try:
                self._rescan()
            finally:
                self._scanning.release()
            self._deliver()
        return dict(self._images)

    def _rescan(self) -> None:
        known = {image.file: image for image in self._indexed().values()}
        try:
            found = self.origin.scan(known)
        except RequestRefused as refused:
            if refused.reason != self._origin_problem:
                logger.warning("The list of images may be old: %s", refused.reason)
            self._origin_problem, self._scanned = refused.reason, time.monotonic()
            return
        self._origin_problem = None
        with self._lock, self._between_processes:
            index = read_json(self._own / ".index.json")
            ids, noted = index.get("ids", {}), _images(index)
            taken = {image_id.lower() for image_id in ids.values()}
            images = {}
            for image in found:
                former = noted.get(image.file)
                if former and former.problem and former.stamp == image.stamp:
                    image = former  # found unreadable since it was looked at
                elif image.problem and (former is None or former.stamp != image.stamp):
                    logger.warning("%s cannot be used: %s", image.file, image.problem)
                if image.file not in ids:
                    ids[image.file] = self.origin.id_of(image.file, taken)
                    taken.add(ids[image.file].lower())
                images[image.file] = image
            entries = {file: dataclasses.asdict(image) for file, image in images.items()}
            if {"ids": ids, "images": entries} != index:
                write_json(self._own / ".index.json", {"ids": ids, "images": entries})
            self._images = {ids[file]: image for file, image in images.items()}
            self._scanned = time.monotonic()

    def _known(self, image_id: str) -> ImageFile:
        image = self._images.get(image_id)
        if image is None:
            raise unknown("image", image_id)
        return image

    def _indexed(self) -> dict[str, ImageFile]:
        index = read_json(self._own / ".index.json")
        images = _images(index)
        return {image_id: images[file] for file, image_id in index.get("ids", {}).items() if file in images}

    def _deliver(self) -> None:
        if isinstance(self.origin, Archive):
            self.results.deliver_in_background()
        else:
            self.results.deliver()


def _images(index: dict[str, Any]) -> dict[str, ImageFile]:
    """The index's images by file; entries in another form than today's are left out, and so examined again."""
    fields = {field.name for field in dataclasses.fields(ImageFile)}
    entries = index.get("images", {})
    return {file: ImageFile(**entry) for file, entry in entries.items() if set(entry) == fields}
