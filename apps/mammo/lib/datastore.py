"""Mammograms as MONAI Label's datastore: one id per image, wherever images come from, and what was said about them.

Images come from a `StudiesFolder` or an `Archive` and are never changed; labels and verdicts are `Labels`, which go out
as DICOM SEG by `Results`. Everything written lies in one folder, `<studies>/labels` unless another is named; there also
`.index.json`, the `ImageIndex`. Not here: the reading of pixels.
"""

from __future__ import annotations

import io
import logging
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore

from monai_mammo.dicom.errors import MammogramError

from .archive import Archive
from .errors import RequestRefused, unknown
from .exports import labelled_pairs, write_archive
from .files import DamagedRecord
from .grids import on_grid
from .images import OWN_FOLDER, ImageFile, StudiesFolder, image_extension, reading_place
from .index import ImageIndex
from .labels import FINAL, QUALITY_VERDICTS, Labels
from .masks import label_extension, labels_in, read_label, segments_of_file
from .names import check_named, safe_name, with_segments
from .partial import with_others
from .results import Results
from .tumours import marked_pixels, unclear_labels
from .users import current_user

__all__ = ["QUALITY_VERDICTS", "MammogramDatastore"]

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
        self.results = Results(self.labels, self.origin, lambda image_id: self.index.known(image_id))
        logging.getLogger("filelock").setLevel(logging.WARNING)
        self.index = ImageIndex(self.origin, self._own / ".index.json", renewed=self._deliver)
        self._adding = threading.Lock()
        self.index.refresh()

    # What there is

    def refresh(self) -> None:
        """Look for new, changed and removed images: in a folder now, in an archive, which may take long, behind."""
        self.index.renew()

    def image(self, image_id: str) -> ImageFile:
        """What the header of an image says.

        Raises:
            RequestRefused: there is no such image (404).
        """
        return self.index.image(image_id)

    def readable_image(self, image_id: str) -> Path:
        """The path of an image that can be read, as far as is known.

        Raises:
            RequestRefused: there is no such image (404), it is known to be unreadable (422), or the archive that had it
                does not answer (503) or does not send it (502).
        """
        image = self.image(image_id)
        if image.problem:
            self.index.look_again()  # it may have been replaced since
            self.index.try_again(image_id)
            image = self.image(image_id)
        if image.problem:
            raise image.refused()
        return self.origin.retrieve(image)

    def report_unreadable(self, image_id: str, reason: str, remedy: str) -> None:
        """Note that an image's pixels cannot be read, which its header did not show, until the image changes."""
        self.index.report_unreadable(image_id, reason, remedy)

    def list_images(self) -> list[str]:
        """Ids of all readable images."""
        return [image_id for image_id, image in self.index.images().items() if not image.problem]

    def images_of_study(self, study: str) -> dict[str, ImageFile]:
        """Images of a DICOM study by id, unreadable ones included, in the usual reading order."""
        found = {image_id: image for image_id, image in self.index.images().items() if image.study == study and study}
        return dict(sorted(found.items(), key=lambda entry: (reading_place(entry[1]), entry[1].file)))

    def unreadable_images(self) -> list[dict[str, str | None]]:
        """File, reason and remedy of every image that cannot be used."""
        return [
            {"file": image.file, "reason": image.problem, "remedy": image.remedy}
            for image in self.index.images().values()
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
        """Paths of every image with a final label, and of that label, with its `label_info`; without those of which a
        record is damaged."""
        return list(labelled_pairs(self))

    def status(self) -> dict[str, Any]:
        """Counts for the viewers, images that cannot be used, labels that cannot become a DICOM SEG or do not say where
        tumours are, and records that were found damaged, whose images are left out where all are listed."""
        unreadable = self.unreadable_images()
        tags = {tag: len(self.get_labeled_images(tag)) for tag in self.labels.tags()}
        return {
            "total": len(self.list_images()),
            "completed": len(self.get_labeled_images()),
            "label_tags": {tag: count for tag, count in tags.items() if count},
            "unreadable_total": len(unreadable),
            "unreadable": unreadable[:SHOWN_UNREADABLE],
            "labels_to_deliver": self.results.waiting(),
            "labels_undeliverable": self.results.undeliverable()[:SHOWN_UNREADABLE],
            "labels_unclear": unclear_labels(self.labels, self.get_labeled_images())[:SHOWN_UNREADABLE],
            "damaged_records": self.labels.damaged(),
            "origin_problem": self.index.problem,
        }

    def json(self) -> dict[str, Any]:
        """All readable images with their labels, in the form that MONAI Label's clients know; without those of which a
        record is damaged."""
        objects = {}
        for image_id in self.list_images():
            with suppress(DamagedRecord):  # which the status names
                objects[image_id] = self._described(image_id)
        return {"name": self.name(), "description": self.description(), "labels_dir": OWN_FOLDER, "objects": objects}

    def _described(self, image_id: str) -> dict[str, Any]:
        labels = {
            tag: {
                "ext": label_extension(self.get_label_uri(image_id, tag)),
                "info": self.get_label_info(image_id, tag),
            }
            for tag in self.get_labels_by_image_id(image_id)
        }
        image = {"ext": image_extension(self.image(image_id).file), "info": self.get_image_info(image_id)}
        return {"image": image, "labels": labels}

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
            RequestRefused: the id is taken or unsafe, the file is no usable image, images come from an archive, or the
                list of images cannot be renewed (503).
        """
        safe_name(image_id, "image's id")
        with self._adding:
            self.index.refresh()
            if image_id in self.index.images():
                raise RequestRefused(409, f"there is an image '{image_id}' already", "Choose another id")
            file = self.origin.add(image_id, Path(image_filename), image_extension(image_filename) or ".dcm")
            self.index.refresh()
            saved = next((known for known, image in self.index.images().items() if image.file == file), None)
            if saved is None:
                remedy = "It is listed once that is mended; do not send it again"
                raise RequestRefused(503, self.index.problem or "the image was removed at once", remedy, file)
            self.update_image_info(saved, image_info or {})
            return saved

    def remove_image(self, image_id: str) -> None:
        """Refused: original images leave the folder by a person's hand only."""
        self.image(image_id)
        raise RequestRefused(403, "this server deletes no images", "Remove the file from the studies folder")

    # Labels

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label map on the image's own pixel grid; it replaces a former one of the same tag.

        Where its file says that its axes run against the image's, it is kept in the image's order (`grids.on_grid`).

        Without `label_info`, its segments are those that the header of a `.seg.nrrd` names, if any.

        A final label replaces one of the same reader only: another's is kept, but is no longer the one that clients
        see. Of a DICOM image it becomes a DICOM SEG too, which an archive's image brings into the archive.

        Returns:
            the label's id, which is the image's.

        Raises:
            RequestRefused: no such image, an unsafe tag, no mask, a mask of another size or place, segments without
                names and values, or values that these do not name; or, where `label_info` says which `revision` the
                client knew, there is a newer one of this reader (409). Where it says `keep_others`, as `with_others`.
        """
        self.keep_label(image_id, label_filename, label_tag, label_info)
        return image_id

    def keep_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> int:
        """As `save_label`; the label's revision."""
        image, tag, reader = self.image(image_id), safe_name(label_tag, "tag"), current_user.get()
        info = with_segments(label_info or {})
        info = info if info.get("label_info") else {**info, **segments_of_file(Path(label_filename))}
        mask = read_label(Path(label_filename), info)
        rows, columns = mask.shape
        if (rows, columns) != (image.rows, image.columns):
            raise RequestRefused(
                422,
                f"the label has {columns} x {rows} pixels (x, y), the image {image.columns} x {image.rows}",
                "Save the label on the image's own pixel grid",
                image.file,
            )
        check_named(mask, info)
        with on_grid(Path(label_filename), mask, lambda: self.origin.retrieve(image)) as (file, placed):
            return self._keep(image_id, file, placed, tag, info, reader)

    def _keep(self, image_id: str, file: Path, mask: np.ndarray, tag: str, info: dict[str, Any], reader: str) -> int:
        keep_others = info.get("keep_others", False)
        info = {key: value for key, value in info.items() if key != "keep_others"}
        with self.labels.exclusively():
            own = self.labels.info(image_id, tag, reader)
            own_file, present = self.labels.file(image_id, tag, reader), own.get("revision", 0)
            if present > info.get("revision", present):
                if _is_kept(own_file, own, mask, keep_others):  # saved before, and only the answer was lost
                    return int(present)
                raise RequestRefused(
                    409,
                    "this label was saved meanwhile in another window",
                    "Save your other work, then reload the page.",
                )
            if tag == FINAL and self.image(image_id).sop:
                self.results.announce(image_id, reader)
            with with_others(own_file, own, file, mask, info) if keep_others else nullcontext((file, info)) as whole:
                kept = self.labels.save(image_id, whole[0], label_extension(whole[0].name), tag, whole[1], reader)
        self._deliver()
        return int(kept["revision"])

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
        file = self.labels.file(label_id, tag, reader) if label_id in self.index.images() else None
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

    def read_label(self, label_id: str, label_tag: str, reader: str | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A label's mask (rows, columns), and what was saved with it; a certain reader's if one is named.

        Raises:
            RequestRefused: there is no such label (404).
            MammogramError: it cannot be read.
        """
        file, info = self.get_label_uri(label_id, label_tag, reader), self.get_label_info(label_id, label_tag, reader)
        return labels_in(Path(file), info), info

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what was saved with a label."""
        file, named = self.get_label_uri(label_id, label_tag), with_segments(info)
        if "label_info" in info:
            check_named(read_label(Path(file), named), named)
        self.labels.update(label_id, safe_name(label_tag, "tag"), named)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label; of final labels, the latest of the other readers becomes the one that clients see."""
        self.get_label_uri(label_id, label_tag)
        self.labels.remove(label_id, safe_name(label_tag, "tag"))

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP of the images with final labels, of those labels, and beside each a JSON of what its values mean.

        Raises:
            RequestRefused: nothing has a final label yet.
        """
        return str(write_archive(self, self._own / ".dataset.zip", limit_cases))

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

    def _deliver(self) -> None:
        if isinstance(self.origin, Archive):
            self.results.deliver_in_background()
        else:
            self.results.deliver()


def _is_kept(file: Path | None, info: dict[str, Any], mask: np.ndarray, marks: bool) -> bool:
    """Whether a label, or of it the marks alone, is this mask; one that cannot be read is not."""
    with suppress(MammogramError):
        kept = labels_in(file, info) if file else None
        return kept is not None and np.array_equal(*((marked_pixels(kept, info), mask > 0) if marks else (kept, mask)))
    return False
