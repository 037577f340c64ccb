"""Final labels for who takes them elsewhere: as a list, and as a ZIP.

With every label goes what its values mean. Not here: the labels themselves.
"""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_mammo.files import replacing

from .errors import RequestRefused
from .files import DamagedRecord
from .images import image_extension
from .labels import FINAL

if TYPE_CHECKING:
    from .datastore import MammogramDatastore


def labelled_pairs(datastore: MammogramDatastore) -> Iterator[dict[str, Any]]:
    """`image` and `label`, the paths, and `label_info`, the segments' names and values ([] where all is a tumour).

    Without those of which a record is damaged.
    """
    for image_id, label, meaning in _labelled(datastore):
        yield {"image": datastore.get_image_uri(image_id), "label": label, "label_info": meaning}


def write_archive(datastore: MammogramDatastore, archive: Path, limit: int | None) -> Path:
    """Write a ZIP: `image/<id>.<extension>`, `label/<id>.<extension>` and `label/<id>.json` with `label_info`.

    Without those of which a record is damaged.

    Args:
        datastore: of the labels.
        archive: the file; it is replaced in one step.
        limit: so many images at most; all if None or 0.

    Raises:
        RequestRefused: nothing has a final label yet, or none with a sound record (404).
    """
    labelled = itertools.islice(_labelled(datastore), limit or None)  # looked up one by one, for images may take long
    first = next(labelled, None)
    if first is None:
        remedy = "Save a label first, or mend the records that /info/ names as damaged"
        raise RequestRefused(404, "no image has a final label yet", remedy)
    with replacing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as opened:
        for image_id, label, meaning in itertools.chain([first], labelled):
            extension = image_extension(datastore.image(image_id).file)
            opened.write(datastore.get_image_uri(image_id), f"image/{image_id}{extension}")
            opened.write(label, f"label/{Path(label).name}")
            opened.writestr(f"label/{image_id}.json", json.dumps({"label_info": meaning}))
    return archive


def _labelled(datastore: MammogramDatastore) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Id, path of the final label and its `label_info`, of each image that has one with a sound record."""
    for image_id in datastore.get_labeled_images():
        with suppress(DamagedRecord):  # which the status names
            info = datastore.get_label_info(image_id, FINAL)
            label = datastore.get_label_uri(image_id, FINAL)
            yield image_id, label, info.get("label_info") or []
