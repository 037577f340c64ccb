"""Final labels for who takes them elsewhere: as a list, and as a ZIP.

With every label goes what its values mean. Not here: the labels themselves.
"""

from __future__ import annotations

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
    for image_id in datastore.get_labeled_images():
        with suppress(DamagedRecord):  # which the status names
            info = datastore.get_label_info(image_id, FINAL)
            label = datastore.get_label_uri(image_id, FINAL)
            meaning = info.get("label_info") or []
            yield {"image": datastore.get_image_uri(image_id), "label": label, "label_info": meaning}


def write_archive(datastore: MammogramDatastore, archive: Path, limit: int | None) -> Path:
    """Write a ZIP: `image/<id>.<extension>`, `label/<id>.<extension>` and `label/<id>.json` with `label_info`.

    Args:
        datastore: of the labels.
        archive: the file; it is replaced in one step.
        limit: so many images at most; all if None or 0.

    Raises:
        RequestRefused: nothing has a final label yet (404).
    """
    labelled = datastore.get_labeled_images()[: limit or None]
    if not labelled:
        raise RequestRefused(404, "no image has a final label yet", "Save a label first")
    with replacing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as opened:
        for image_id in labelled:
            extension = image_extension(datastore.image(image_id).file)
            opened.write(datastore.get_image_uri(image_id), f"image/{image_id}{extension}")
            label = datastore.get_label_uri(image_id, FINAL)
            opened.write(label, f"label/{Path(label).name}")
            meaning = datastore.get_label_info(image_id, FINAL).get("label_info") or []
            opened.writestr(f"label/{image_id}.json", json.dumps({"label_info": meaning}))
    return archive
