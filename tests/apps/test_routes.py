"""What a viewer's panel is told of a study: its mammograms as they are hung, what was said of them, saved masks."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.datastore import MammogramDatastore
from lib.errors import install_error_handlers
from lib.routes import install
from lib.users import current_user
from PIL import Image

from monai_mammo.datasets.phantom import write_phantoms
from monai_mammo.dicom.reader import read_mask

from .conftest import write_png


class App:
    """The part of the app that the routes need."""

    def __init__(self, store: MammogramDatastore) -> None:
        self._store = store

    def datastore(self) -> MammogramDatastore:
        """The images."""
        return self._store


@pytest.fixture
def store(tmp_path: Path) -> MammogramDatastore:
    """Two phantom patients' four views, and a picture without a study."""
    write_phantoms(tmp_path / "phantoms", 2, seed=3, rows=64, columns=48)
    studies = tmp_path / "studies"
    studies.mkdir()
    for file in (tmp_path / "phantoms").rglob("*.dcm"):
        file.rename(studies / f"{pydicom.dcmread(file).SOPInstanceUID}.dcm")
    write_png(studies / "film.png", pydicom.dcmread(next(studies.glob("*.dcm"))).pixel_array / 4095)
    return MammogramDatastore(studies)


@pytest.fixture
def client(store: MammogramDatastore) -> TestClient:
    server = FastAPI()
    install(server, App(store))
    install_error_handlers(server)
    return TestClient(server, raise_server_exceptions=False)


def test_a_studys_mammograms_come_in_the_order_in_which_they_are_hung(
    client: TestClient, store: MammogramDatastore
) -> None:
    study = next(image.study for image in store.index.images().values())
    images = client.get(f"/mammo/studies/{study}").raise_for_status().json()
    assert [(image["laterality"], image["view"]) for image in images] == [
        ("R", "CC"),
        ("L", "CC"),
        ("R", "MLO"),
        ("L", "MLO"),
    ]
    for image in images:
        header = pydicom.dcmread(store.readable_image(image["id"]), stop_before_pixels=True)
        assert (image["study"], image["series"]) == (header.StudyInstanceUID, header.SeriesInstanceUID)
        assert (image["rows"], image["columns"]) == (64, 48)
        assert (image["labelled"], image["readers"], image["verdict"]) == (False, [], None)


def test_what_is_measured_of_a_magnified_image_is_in_the_plane_of_the_breast(
    client: TestClient, store: MammogramDatastore
) -> None:
    image_id, image = next(iter(store.index.images().items()))
    path = store.readable_image(image_id)
    dataset = pydicom.dcmread(path)
    dataset.EstimatedRadiographicMagnificationFactor = 2
    dataset.save_as(path)
    store.refresh()
    (found,) = [row for row in client.get(f"/mammo/studies/{image.study}").json() if row["sop"] == image.sop]
    assert found["spacing"] == pytest.approx([float(mm) / 2 for mm in dataset.ImagerPixelSpacing])


def test_it_tells_who_labelled_an_image_and_what_was_said_of_its_quality(
    client: TestClient, store: MammogramDatastore, tmp_path: Path
) -> None:
    image_id = sorted(store.index.images())[0]
    Image.new("L", (48, 64)).save(tmp_path / "label.png")
    for reader, verdict in (("ana", "complete"), ("ben", "incomplete")):
        token = current_user.set(reader)
        store.save_label(image_id, str(tmp_path / "label.png"), "final", {})
        store.update_image_info(image_id, {"quality": verdict})
        current_user.reset(token)
    study = store.image(image_id).study
    images = client.get(f"/mammo/studies/{study}").json()
    (found,) = [image for image in images if image["id"] == image_id]
    assert (found["labelled"], found["readers"]) == (True, ["ben", "ana"])
    assert found["revision"] == 0, "who asks has no label of his own"
    assert found["verdict"] is None, "nor a verdict"
    assert found["verdicts"] == {"ana": "complete", "ben": "incomplete"}
    assert sum(image["labelled"] for image in images) == 1
    for reader, verdict in (("ana", "complete"), ("ben", "incomplete")):
        token = current_user.set(reader)
        rows = client.get(f"/mammo/studies/{study}").json()
        current_user.reset(token)
        assert [row["verdict"] for row in rows if row["id"] == image_id] == [verdict]


def test_a_saved_mask_is_the_readers_own_before_the_latest(
    client: TestClient, store: MammogramDatastore, tmp_path: Path
) -> None:
    image_id, marked = sorted(store.index.images())[0], {}
    for reader, value in (("ana", 1), ("ben", 0)):
        Image.new("L", (48, 64), value).save(tmp_path / "label.png")
        token = current_user.set(reader)
        store.save_label(image_id, str(tmp_path / "label.png"), "final", {})
        current_user.reset(token)
    for reader in ("ana", "ben", "cid"):
        token = current_user.set(reader)
        (tmp_path / "mask.nrrd").write_bytes(client.get(f"/mammo/masks/{image_id}").raise_for_status().content)
        marked[reader] = int(read_mask(tmp_path / "mask.nrrd").sum())
        current_user.reset(token)
    assert marked == {"ana": 48 * 64, "ben": 0, "cid": 0}


def test_a_saved_mask_shows_what_may_be_a_tumour_and_names_what_it_does_not_show(
    client: TestClient, store: MammogramDatastore, tmp_path: Path
) -> None:
    image_id, mask = sorted(store.index.images())[0], Image.new("L", (48, 64))
    for value, row in ((1, 5), (2, 15), (3, 25)):
        mask.paste(value, (8, row, 18, row + 4))
    mask.save(tmp_path / "label.png")
    names = ["tumour", "scar", "calcification", "nipple"]
    named = [{"name": name, "idx": value} for value, name in enumerate(names, start=1)]
    store.save_label(image_id, str(tmp_path / "label.png"), "final", {"label_info": named})
    answer = client.get(f"/mammo/masks/{image_id}").raise_for_status()
    (tmp_path / "mask.nrrd").write_bytes(answer.content)
    shown = read_mask(tmp_path / "mask.nrrd")
    assert [int(shown[row : row + 4, 8:18].sum()) for row in (5, 15, 25)] == [40, 40, 0]
    assert shown.sum() == 80
    assert json.loads(answer.headers["Mammo-Segments"]) == {"hidden": ["calcification"], "unknown": ["scar"]}


@pytest.mark.parametrize("study", ["1.2.3", "..%2f..%2fetc", "%20", "x" * 3000])
def test_a_study_that_there_is_not_is_answered_with_404_in_json(client: TestClient, study: str) -> None:
    answer = client.get(f"/mammo/studies/{study}")
    assert answer.status_code == 404
    assert answer.json()["detail"]
