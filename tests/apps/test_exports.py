"""Final labels for who takes them elsewhere, as a list and as a ZIP."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from PIL import Image

from .conftest import blob, write_dicom, write_png


@pytest.fixture
def datastore(tmp_path: Path) -> MammogramDatastore:
    """Two DICOM images and a picture."""
    for patient, name in enumerate(("left", "right"), start=1):
        write_dicom(tmp_path / "studies" / f"{name}.dcm", blob()[0], patient=patient)
    write_png(tmp_path / "studies" / "film.png", blob()[0])
    return MammogramDatastore(tmp_path / "studies")


def save_mask(path: Path) -> Path:
    Image.fromarray(blob()[1]).convert("1").save(path)
    return path


def test_the_archive_holds_images_with_their_labels_only(datastore: MammogramDatastore, tmp_path: Path) -> None:
    with pytest.raises(RequestRefused, match="no image has a final label"):
        datastore.get_dataset_archive(None)
    datastore.save_label("film", str(save_mask(tmp_path / "label.png")), "final", {})
    with zipfile.ZipFile(datastore.get_dataset_archive(None)) as archive:
        assert sorted(archive.namelist()) == ["image/film.png", "label/film.json", "label/film.png"]
        assert json.loads(archive.read("label/film.json")) == {"label_info": []}
    named = [{"name": "mass", "idx": 1}]
    datastore.update_label_info("film", "final", {"label_info": named})
    with zipfile.ZipFile(datastore.get_dataset_archive(None)) as archive:
        assert json.loads(archive.read("label/film.json")) == {"label_info": named}
    assert [entry["label_info"] for entry in datastore.datalist()] == [named]


def test_a_damaged_record_costs_the_lists_and_the_archive_its_own_image_only(
    datastore: MammogramDatastore, tmp_path: Path
) -> None:
    for image_id in ("film", "right", "left"):
        datastore.save_label(image_id, str(save_mask(tmp_path / "label.png")), "final", {})
    record = datastore.labels.folder / "final" / "film.json"
    record.write_text(record.read_text()[:20])
    sound = ["left", "right"]
    assert sorted(Path(entry["label"]).stem for entry in datastore.datalist()) == sound
    with zipfile.ZipFile(datastore.get_dataset_archive(None)) as archive:
        assert sorted(name for name in archive.namelist() if name.startswith("label/")) == [
            f"label/{image_id}.{ending}" for image_id in sound for ending in ("json", "png")
        ]
    for limit in (1, 2):
        with zipfile.ZipFile(datastore.get_dataset_archive(limit)) as archive:
            assert len(archive.namelist()) == 3 * limit, "the damaged one is none of so many"
    for image_id in sound:
        (datastore.labels.folder / "final" / f"{image_id}.json").write_text("{")
    with pytest.raises(RequestRefused, match="damaged"):
        datastore.get_dataset_archive(None)
