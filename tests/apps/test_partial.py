"""A final label saved anew by who saw its tumours alone, as OHIF's panel does: nothing else of it may be lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.datastore import MammogramDatastore
from lib.endpoints import install_endpoints
from lib.errors import RequestRefused, install_error_handlers
from lib.routes import install
from lib.users import current_user

from monai_mammo.dicom.segmentation import read_segmentation

from .conftest import blob, write_dicom

SHAPE = (120, 90)
FINDINGS = [{"name": "calcification", "idx": 2, "color": [1, 2, 3]}, {"name": "tumour", "idx": 1}]
TUMOUR, CALCIFICATION, BOTH = np.s_[10:30, 10:30], np.s_[50:60, 50:60], np.s_[52:55, 40:56]
PANEL = [{"name": "tumour", "idx": 1}]


class App:
    """The part of the app that the routes need."""

    def __init__(self, store: MammogramDatastore) -> None:
        self._store = store

    def datastore(self) -> MammogramDatastore:
        """The images."""
        return self._store

    def on_save_label(self, image: str, label: str) -> dict[str, Any]:
        """Nothing follows."""
        return {}


@pytest.fixture
def store(tmp_path: Path) -> MammogramDatastore:
    write_dicom(tmp_path / "studies" / "left.dcm", blob()[0])
    return MammogramDatastore(tmp_path / "studies")


@pytest.fixture
def client(store: MammogramDatastore) -> TestClient:
    """Both routes that the panel uses."""
    server = FastAPI()
    install_endpoints(server, App(store))
    install(server, App(store))
    install_error_handlers(server)
    return TestClient(server, raise_server_exceptions=False)


@contextmanager
def acting(reader: str) -> Iterator[None]:
    token = current_user.set(reader)
    try:
        yield
    finally:
        current_user.reset(token)


def save(
    store: MammogramDatastore, mask: np.ndarray, reader: str = "ana", name: str = "label.nrrd", **info: Any
) -> int:
    """Save a label as a program does that says all of it."""
    file = store.labels.folder.parents[1] / name
    image = SimpleITK.GetImageFromArray(mask[np.newaxis].astype(np.uint16))
    image.CopyInformation(SimpleITK.ReadImage(store.get_image_uri("left")))
    SimpleITK.WriteImage(image, str(file))
    with acting(reader):
        return store.keep_label("left", str(file), "final", info)


def findings() -> np.ndarray:
    """A tumour of value 1 and calcifications of value 2."""
    mask = np.zeros(SHAPE)
    mask[TUMOUR], mask[CALCIFICATION] = 1, 2
    return mask


def shown(client: TestClient, folder: Path, reader: str = "ana") -> np.ndarray:
    """What the panel gets."""
    with acting(reader):
        (folder / "shown.nrrd").write_bytes(client.get("/mammo/masks/left").raise_for_status().content)
    return np.array(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "shown.nrrd")))[0])


def submit(
    client: TestClient, folder: Path, mask: np.ndarray, reader: str = "ana", revision: int = 1, **params: Any
) -> Any:
    """Save a mask as the panel does; the answer."""
    file = folder / "submitted.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask[np.newaxis].astype(np.uint8)), str(file))
    sent = {"label_info": PANEL, "revision": revision, "keep_others": True, **params}
    with acting(reader), file.open("rb") as content:
        return client.put(
            "/datastore/label",
            params={"image": "left", "tag": "final"},
            data={"params": json.dumps(sent)},
            files={"label": ("label.nrrd", content)},
        )


def kept(store: MammogramDatastore, reader: str = "ana") -> tuple[np.ndarray, dict[str, Any]]:
    return store.read_label("left", "final", reader)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((1, 2), FINDINGS),
        ((300, 2), [{"name": "breast", "idx": 2}, {"name": "Mass", "idx": 300}]),
        ((1, 2), [{"name": "neoplasm", "idx": 1}, {"name": "mass", "idx": 2}]),
        ((1, 2), [{"name": "tumour", "idx": 1}, {"name": "scar", "idx": 2}]),
        ((1, 2), [{"name": "tumour", "idx": 1}, {"name": "lymph node", "idx": 2}, {"name": "cyst", "idx": 3}]),
    ],
)
@pytest.mark.parametrize("name", ["label.nrrd", "label.nii.gz"])
def test_a_label_submitted_as_it_was_shown_is_the_label_that_it_was(
    store: MammogramDatastore,
    client: TestClient,
    tmp_path: Path,
    values: tuple[int, int],
    named: list[dict[str, Any]],
    name: str,
) -> None:
    mask = np.zeros(SHAPE)
    mask[TUMOUR], mask[CALCIFICATION] = values
    save(store, mask, name=name, label_info=named, note="seen at noon")
    answer = submit(client, tmp_path, shown(client, tmp_path))
    assert answer.raise_for_status().json()["revision"] == 2
    after, info = kept(store)
    np.testing.assert_array_equal(after, mask)
    assert (info["label_info"], info["note"], "keep_others" in info) == (named, "seen at noon", False)
    segmentation = store.labels.segmentation("left", "ana")
    assert segmentation is not None
    found = read_segmentation(segmentation, store.image("left").sop)
    assert {name: int(pixels.sum()) for name, pixels in found.items()} == {
        entry["name"]: int((mask == entry["idx"]).sum()) for entry in named
    }
    image, label = (
        SimpleITK.ReadImage(store.get_image_uri("left")),
        SimpleITK.ReadImage(store.get_label_uri("left", "final")),
    )
    assert label.GetOrigin() == pytest.approx(image.GetOrigin())
    assert label.GetSpacing()[:2] == pytest.approx(image.GetSpacing()[:2])


def test_what_is_painted_is_a_tumour_what_is_erased_nothing_and_all_else_stays(
    store: MammogramDatastore, client: TestClient, tmp_path: Path
) -> None:
    save(store, findings(), label_info=FINDINGS)
    mask = np.zeros(SHAPE)
    mask[BOTH] = 1
    submit(client, tmp_path, mask).raise_for_status()
    expected = findings()
    expected[TUMOUR], expected[BOTH] = 0, 1
    np.testing.assert_array_equal(kept(store)[0], expected)
    np.testing.assert_array_equal(shown(client, tmp_path), mask)


def test_a_new_mark_joins_the_segment_called_tumour_of_several(
    store: MammogramDatastore, client: TestClient, tmp_path: Path
) -> None:
    save(store, findings(), label_info=[{"name": "mass", "idx": 1}, {"name": "Tumour", "idx": 2}])
    mask = shown(client, tmp_path)
    mask[BOTH] = 1
    submit(client, tmp_path, mask).raise_for_status()
    expected = findings()
    expected[BOTH] = 2
    np.testing.assert_array_equal(kept(store)[0], expected)


@pytest.mark.parametrize("painted", [False, True])
def test_a_label_that_said_nothing_of_tumours_says_so_now(
    store: MammogramDatastore, client: TestClient, tmp_path: Path, painted: bool
) -> None:
    save(store, findings(), label_info=[{"name": "breast", "idx": 1}, {"name": "nipple", "idx": 2}])
    assert [entry["image"] for entry in store.status()["labels_unclear"]] == ["left"]
    mask = np.zeros(SHAPE)
    mask[BOTH] = painted
    submit(client, tmp_path, mask).raise_for_status()
    after, info = kept(store)
    assert info["label_info"][2:] == [{"name": "tumour", "idx": 3}]
    np.testing.assert_array_equal(after, np.where(mask > 0, 3, findings()))
    assert store.status()["labels_unclear"] == []


def test_of_another_readers_label_the_tumours_are_taken_over_and_that_label_stays(
    store: MammogramDatastore, client: TestClient, tmp_path: Path
) -> None:
    save(store, findings(), label_info=FINDINGS)
    submit(client, tmp_path, shown(client, tmp_path, "ben"), "ben", revision=0).raise_for_status()
    np.testing.assert_array_equal(kept(store, "ben")[0], findings() == 1)
    assert kept(store, "ben")[1]["label_info"] == PANEL
    np.testing.assert_array_equal(kept(store)[0], findings())


def test_who_saves_a_whole_label_replaces_the_former(store: MammogramDatastore) -> None:
    save(store, findings(), label_info=FINDINGS)
    save(store, findings() == 1, label_info=PANEL)
    np.testing.assert_array_equal(kept(store)[0], findings() == 1)


def test_a_mask_without_names_is_all_tumour_and_is_replaced(
    store: MammogramDatastore, client: TestClient, tmp_path: Path
) -> None:
    save(store, findings())
    mask = np.zeros(SHAPE)
    mask[BOTH] = 1
    submit(client, tmp_path, mask).raise_for_status()
    np.testing.assert_array_equal(kept(store)[0], mask)


def test_a_save_whose_answer_was_lost_is_known_again_and_an_older_window_refused(
    store: MammogramDatastore, client: TestClient, tmp_path: Path
) -> None:
    save(store, findings(), label_info=FINDINGS)
    mask = shown(client, tmp_path)
    mask[BOTH] = 1
    assert [submit(client, tmp_path, mask).json()["revision"] for _ in range(2)] == [2, 2]
    assert submit(client, tmp_path, mask * 0).status_code == 409


@pytest.mark.parametrize(
    ("own", "sent", "expected"),
    [
        ({}, {"method": "AUTOMATIC", "model": "m"}, ("SEMIAUTOMATIC", "m")),
        ({"method": "AUTOMATIC", "model": "m"}, {"method": "MANUAL"}, ("SEMIAUTOMATIC", "m")),
        ({"model": "m"}, {"method": "AUTOMATIC", "model": "m"}, ("AUTOMATIC", "m")),
        ({}, {"method": "MANUAL"}, ("MANUAL", None)),
    ],
)
@pytest.mark.parametrize("others", [True, False])
def test_a_label_of_parts_made_in_different_ways_says_neither_alone(
    store: MammogramDatastore,
    client: TestClient,
    tmp_path: Path,
    own: dict[str, str],
    sent: dict[str, str],
    expected: tuple[str, str | None],
    others: bool,
) -> None:
    save(store, findings() * (1 if others else findings() == 1), label_info=FINDINGS, **own)
    submit(client, tmp_path, shown(client, tmp_path), **sent).raise_for_status()
    info = kept(store)[1]
    assert (info["method"], info.get("model")) == (expected if others else (sent["method"], sent.get("model")))


def test_a_label_that_cannot_be_read_is_not_replaced_by_its_tumours(
    store: MammogramDatastore, client: TestClient, tmp_path: Path
) -> None:
    save(store, findings(), label_info=FINDINGS)
    file = Path(store.get_label_uri("left", "final"))
    file.write_bytes(file.read_bytes()[:200])
    answer = submit(client, tmp_path, findings() == 1)
    assert answer.status_code == 409
    assert "cannot be read" in answer.json()["reason"]
    assert store.get_label_info("left", "final")["revision"] == 1


@pytest.mark.parametrize(
    "params", [{"label_info": FINDINGS}, {"label_info": [{"name": "scar", "idx": 1}]}, {"keep_others": "yes"}]
)
def test_what_does_not_fit_a_label_of_tumours_alone_is_refused(
    client: TestClient, tmp_path: Path, params: dict[str, Any]
) -> None:
    answer = submit(client, tmp_path, findings() == 1, revision=0, **params)
    assert answer.status_code == 400
    assert "keep_others" in answer.json()["reason"]


def test_the_direct_call_refuses_as_the_route_does(store: MammogramDatastore) -> None:
    with pytest.raises(RequestRefused, match="keep_others"):
        save(store, findings(), label_info=FINDINGS, keep_others=True)
