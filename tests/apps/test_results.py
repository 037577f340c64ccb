"""Final labels as DICOM SEG beside the masks: one of every reader, accepted by a validator, equal to the pixel."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from lib.results import method_of, named_masks
from lib.users import current_user

from monai_mammo.datasets import folder
from monai_mammo.dicom import segmentation
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.segmentation import read_segmentation

from .conftest import blob, strip, write_dicom, write_png

ROWS, COLUMNS = 120, 90


@pytest.fixture
def store(tmp_path: Path) -> MammogramDatastore:
    """A folder of one DICOM image and one picture."""
    write_dicom(tmp_path / "studies" / "left.dcm", blob()[0])
    write_png(tmp_path / "studies" / "film.png", blob()[0])
    return MammogramDatastore(tmp_path / "studies")


def save(store: MammogramDatastore, mask: np.ndarray, image: str = "left", reader: str = "ana", **info: Any) -> None:
    file = store.labels.folder.parents[1] / "label.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask[np.newaxis].astype(np.uint8)), str(file))
    token = current_user.set(reader)
    store.save_label(image, str(file), "final", info)
    current_user.reset(token)


def segmentations(store: MammogramDatastore) -> list[tuple[str, str, Path]]:
    """Image, reader and file of every SEG that has been written."""
    labels = [(image, reader) for image in store.list_images() for reader in store.labels.readers(image)]
    files = [(image, reader, store.labels.segmentation(image, reader)) for image, reader in labels]
    return [(image, reader, file) for image, reader, file in files if file]


def masks(store: MammogramDatastore, file: Path) -> dict[str, np.ndarray]:
    return read_segmentation(file, store.image("left").sop)


def test_a_final_label_is_a_seg_beside_the_mask_that_a_validator_accepts(store: MammogramDatastore) -> None:
    save(store, blob()[1])
    file = store.labels.folder / "final" / "left.dcm"
    np.testing.assert_array_equal(masks(store, file)["tumour"], blob()[1])
    assert segmentations(store) == [("left", "ana", file)]
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    run = subprocess.run([program, "-new", str(file)], capture_output=True, text=True, errors="replace", check=False)
    assert "Error" not in run.stdout + run.stderr


def test_the_seg_of_a_label_saved_again_is_a_new_object_in_the_same_series(store: MammogramDatastore) -> None:
    save(store, blob()[1])
    file = store.labels.folder / "final" / "left.dcm"
    first = pydicom.dcmread(file)
    save(store, np.zeros((ROWS, COLUMNS)))
    second = pydicom.dcmread(file)
    assert not masks(store, file)["tumour"].any()
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)


def test_each_reader_has_a_seg_of_his_own(store: MammogramDatastore) -> None:
    save(store, blob()[1], reader="ana")
    save(store, np.zeros((ROWS, COLUMNS)), reader="ben")
    found = {reader: file for _, reader, file in segmentations(store)}
    assert set(found) == {"ana", "ben"}
    for reader, file in found.items():
        assert str(pydicom.dcmread(file).ContentCreatorName).strip("^") == reader
        assert masks(store, file)["tumour"].any() == (reader == "ana")


def test_a_picture_has_no_study_and_so_no_seg(store: MammogramDatastore) -> None:
    save(store, blob()[1], image="film")
    assert store.get_labeled_images() == ["film"]
    assert segmentations(store) == []
    assert store.status()["labels_to_deliver"] == 0


def test_the_segments_are_those_that_the_label_names(store: MammogramDatastore) -> None:
    mask = np.zeros((ROWS, COLUMNS))
    mask[3:9, 3:9], mask[20:30, 20:30], mask[50:52, 50:52] = 1, 2, 3
    names = [{"name": "tumour", "idx": 1}, {"name": "calcification", "idx": 2}, {"name": "nipple", "idx": 7}]
    names.append({"name": "mark", "idx": 3})
    save(store, mask, label_info=names, method="SEMIAUTOMATIC", model="mammo_tumor_segmentation_roi")
    file = store.labels.folder / "final" / "left.dcm"
    found = masks(store, file)
    assert {name: int(pixels.sum()) for name, pixels in found.items()} == {
        "tumour": 36,
        "calcification": 100,
        "mark": 4,
        "nipple": 0,
    }
    segment = pydicom.dcmread(file).SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "mammo_tumor_segmentation_roi"


def test_a_seg_that_cannot_be_written_now_is_written_later_and_the_label_is_saved(
    store: MammogramDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(segmentation, "replacing", full)
        save(store, blob()[1])
    assert store.get_labeled_images() == ["left"]
    assert segmentations(store) == []
    store.refresh()
    ((_, _, file),) = segmentations(store)
    np.testing.assert_array_equal(masks(store, file)["tumour"], blob()[1])
    assert store.status()["labels_to_deliver"] == 0


def test_labels_wait_while_their_disk_takes_no_lock(store: MammogramDatastore, monkeypatch) -> None:
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(store.results._one_at_a_time, "acquire", read_only)
        save(store, blob()[1])
        store.refresh()
    assert store.status()["labels_to_deliver"] == 1
    store.refresh()
    assert store.status()["labels_to_deliver"] == 0


@pytest.mark.parametrize(("status", "tried"), [(503, 1), (409, 2)])
def test_an_archive_that_is_down_is_asked_once_and_one_that_refuses_a_label_for_each(
    store: MammogramDatastore, monkeypatch: pytest.MonkeyPatch, status: int, tried: int
) -> None:
    asked: list[Path] = []

    def refuse(file: Path) -> None:
        asked.append(file)
        raise RequestRefused(status, "it does not want it", "Ask it why")

    monkeypatch.setattr(store.results, "deliver", lambda: None)
    for reader in ("ana", "ben"):
        save(store, blob()[1], reader=reader)
    monkeypatch.undo()
    monkeypatch.setattr(store.origin, "store", refuse)
    store.results.deliver()
    assert len(asked) == tried
    assert store.status()["labels_to_deliver"] == 2


def test_a_label_saved_while_another_is_delivered_is_delivered_too(
    store: MammogramDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_: Path) -> None:
        monkeypatch.undo()
        another = threading.Thread(target=save, args=(store, blob()[1]), kwargs={"reader": "ben"})
        another.start()
        another.join()
        assert store.status()["labels_to_deliver"] == 2

    monkeypatch.setattr(store.origin, "store", slow)
    save(store, np.zeros((ROWS, COLUMNS)), reader="ana")
    assert store.status()["labels_to_deliver"] == 0
    assert {reader for _, reader, _ in segmentations(store)} == {"ana", "ben"}


@pytest.mark.parametrize("fails", [False, True])
def test_a_label_that_its_reader_saves_again_while_the_former_one_is_stored_is_delivered_too(
    store: MammogramDatastore, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """What becomes of the former one says nothing of the new one."""
    stored: list[int] = []

    def note(file: Path) -> None:
        stored.append(int(masks(store, file)["tumour"].sum()))

    def slow(file: Path) -> None:
        monkeypatch.setattr(store.origin, "store", note)
        again = threading.Thread(target=save, args=(store, blob()[1]))
        again.start()
        again.join()
        assert store.status()["labels_to_deliver"] == 1
        note(file)
        if fails:
            raise MammogramError(file, "it cannot be stored", "Nobody knows")

    monkeypatch.setattr(store.origin, "store", slow)
    save(store, np.zeros((ROWS, COLUMNS)))
    assert stored == [0, blob()[1].sum()]
    assert (store.status()["labels_to_deliver"], store.status()["labels_undeliverable"]) == (0, [])
    ((_, _, file),) = segmentations(store)
    np.testing.assert_array_equal(masks(store, file)["tumour"], blob()[1])


def test_a_label_that_another_thread_has_just_delivered_is_left_alone(
    store: MammogramDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.results.announce(store.list_images()[0], "annotator")
    found = store.results._announced

    def and_then_another_delivers() -> set[tuple[Path, int, int]]:
        waiting = found()
        monkeypatch.setattr(store.results, "_announced", found)
        store.results.deliver()
        return waiting

    monkeypatch.setattr(store.results, "_announced", and_then_another_delivers)
    store.results.deliver()
    assert store.status()["labels_to_deliver"] == 0


def test_an_image_that_no_seg_can_refer_to_keeps_its_label_and_the_status_says_why_there_is_no_seg(
    store: MammogramDatastore,
) -> None:
    file = write_dicom(store.labels.folder.parent / "bare.dcm", blob()[0], patient=2)
    dataset = pydicom.dcmread(file)
    study, dataset.StudyInstanceUID = dataset.StudyInstanceUID, ""
    dataset.save_as(file)
    save(store, blob()[1], image="bare")
    assert store.get_labeled_images() == ["bare"]
    assert store.status()["labels_to_deliver"] == 0
    (failed,) = store.status()["labels_undeliverable"]
    assert failed["image"] == "bare"
    assert "StudyInstanceUID" in failed["reason"]
    dataset.StudyInstanceUID = study
    dataset.save_as(file)
    save(store, blob()[1], image="bare")
    assert store.status()["labels_undeliverable"] == []
    assert len(segmentations(store)) == 1


@pytest.mark.parametrize("record", ["final/left.json", ".outbox"])
def test_a_damaged_record_keeps_no_other_label_from_being_delivered(
    store: MammogramDatastore, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(store.results, "deliver", lambda: None)
        save(store, blob()[1])
    file = store.labels.folder / record
    file = next(file.glob("*.json")) if file.is_dir() else file
    sound = file.read_text()
    file.write_text('{"foo": 1}')
    write_dicom(store.labels.folder.parent / "other.dcm", blob()[0], patient=2)
    save(store, blob()[1], image="other")
    assert (store.labels.folder / "final" / "other.dcm").is_file()
    assert (store.status()["labels_to_deliver"], store.status()["labels_undeliverable"]) == (1, [])
    file.write_text(sound)
    store.results.deliver()
    assert store.status()["labels_to_deliver"] == 0


def test_a_label_of_a_file_without_preamble_becomes_a_seg(store: MammogramDatastore) -> None:
    strip(write_dicom(store.labels.folder.parent / "old.dcm", blob()[0], patient=3))
    save(store, blob()[1], image="old")
    ((image, _, _),) = segmentations(store)
    assert image == "old"


def test_the_labelled_folder_is_a_data_set_with_its_lesions(store: MammogramDatastore) -> None:
    save(store, blob()[1])
    defects: list[Any] = []
    (image,) = folder.images(store.labels.folder.parent, defects)
    (lesion,) = image.lesions
    assert lesion.read is not None
    np.testing.assert_array_equal(lesion.read(lesion.masks[0]), blob()[1])


@pytest.mark.parametrize("verdict", ["complete", "incomplete"])
@pytest.mark.parametrize(
    ("tumour", "normal", "lesions"), [("drawn", False, 1), ("empty", True, 0), ("not named", False, 0)]
)
def test_the_outline_of_a_breast_is_no_lesion_of_the_labelled_folder(
    store: MammogramDatastore, verdict: str, tumour: str, normal: bool, lesions: int
) -> None:
    """Slicer submits the quality model's outline with the tumours; alone it says nothing of tumours."""
    breast, lesion = blob()[0] > 0, blob()[1] if tumour == "drawn" else np.zeros((ROWS, COLUMNS), bool)
    names = [{"name": verdict, "idx": 1}, *([] if tumour == "not named" else [{"name": "tumour", "idx": 3}])]
    save(store, np.where(lesion, 3, breast), label_info=names)
    assert masks(store, store.labels.folder / "final" / "left.dcm")[verdict].any(), "it is not lost"
    defects: list[Any] = []
    (image,) = folder.images(store.labels.folder.parent, defects)
    assert (image.normal, len(image.lesions)) == (normal, lesions)
    assert [defect.reason for defect in defects if "outlines" in defect.reason] == [
        "segment 1 outlines no tumour (breast)"
    ]
    for found in image.lesions:
        assert found.read is not None
        np.testing.assert_array_equal(found.read(found.masks[0]), lesion)


def test_labels_that_say_nothing_are_a_tumour_and_strange_names_do_no_harm() -> None:
    mask = np.array([[0, 1, 2]])
    assert set(named_masks(mask, {})) == set(named_masks(mask, {"label_info": [{"name": "background", "idx": 0}]}))
    assert named_masks(mask, {})["tumour"].tolist() == [[False, True, True]]
    strange = [{"name": "a", "idx": 1}, {"name": "a", "idx": 2}, {"idx": "x"}, "text", {"name": None, "idx": 3}]
    found = named_masks(mask, {"label_info": strange})
    assert {name: pixels.tolist() for name, pixels in found.items()} == {
        "a": [[False, True, True]],
        "label 3": [[False] * 3],
    }


@pytest.mark.parametrize(
    ("info", "method"),
    [
        ({}, "MANUAL"),
        ({"model": "m"}, "AUTOMATIC"),
        ({"model": "m", "method": "SEMIAUTOMATIC"}, "SEMIAUTOMATIC"),
        ({"model": "m", "method": "MANUAL"}, "MANUAL"),
        ({"method": "../x"}, "MANUAL"),
    ],
)
def test_how_a_label_was_made_is_what_it_says_or_the_model_it_names(info: dict[str, Any], method: str) -> None:
    assert method_of(info) == method
