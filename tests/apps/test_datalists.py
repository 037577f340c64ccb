"""What the app's trainings are given: annotations as datalists, split by patient, free of identifiers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from lib.datalists import lesion_datalist, quality_datalist, whole_datalist
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from lib.partition import Partition
from pydicom import dcmread

from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.dicom.reader import read_mask
from monai_mammo.dicom.segmentation import read_segmentation

from .conftest import blob, write_dicom, write_png


@pytest.fixture
def datastore(tmp_path: Path) -> MammogramDatastore:
    """Two images of each of three patients, and one picture without a header."""
    studies = tmp_path / "studies"
    for patient in (1, 2, 3):
        for number in (1, 2):
            write_dicom(studies / f"P{patient}" / f"{number}.dcm", blob()[0], patient=patient)
    write_png(studies / "film.png", blob()[0])
    return MammogramDatastore(studies)


def save(datastore: MammogramDatastore, image_id: str, boxes: dict[int, list[list[int]]], **info: Any) -> None:
    """Save a final label of boxes [row0, column0, row1, column1] by label value."""
    mask = np.zeros((1, 120, 90), dtype=np.uint8)
    for value, places in boxes.items():
        for row0, column0, row1, column1 in places:
            mask[0, row0:row1, column0:column1] = value
    file = datastore.labels.folder.parents[1] / "label.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask), str(file))
    datastore.save_label(image_id, str(file), "final", info)


def first_validates(patients: Mapping[str, set[int]]) -> dict[str, list[str]]:
    """The first patient for validation, the others for training."""
    first, *others = sorted(patients)
    return {"training": others, "validation": [first]}


def entries_of(file: Path) -> list[dict[str, Any]]:
    """Every entry of a datalist, with its section."""
    return [
        {**entry, "section": section}
        for section in ("training", "validation")
        for entry in load_datalist(file.parent, section)
    ]


def test_every_lesion_is_an_entry_of_its_own_with_its_box(datastore: MammogramDatastore, tmp_path: Path) -> None:
    save(datastore, "P1-1", {1: [[5, 6, 15, 26], [60, 10, 70, 30]]})
    save(datastore, "P2-1", {1: [[1, 2, 3, 4]]})
    entries = entries_of(lesion_datalist(datastore, tmp_path / "data", first_validates))
    assert sorted(entry["box"] for entry in entries) == [[1, 2, 3, 4], [5, 6, 15, 26], [60, 10, 70, 30]]
    mask = read_mask(next(entry["label"] for entry in entries if entry["box"] == [1, 2, 3, 4]))
    assert mask.shape == (120, 90)
    assert mask[1:3, 2:4].all()
    assert mask.sum() == 4


def test_a_speck_beside_a_lesion_is_no_entry_of_its_own_and_alone_it_is(
    datastore: MammogramDatastore, tmp_path: Path
) -> None:
    save(datastore, "P1-1", {1: [[10, 10, 30, 30], [50, 40, 51, 41], [60, 40, 70, 50], [80, 40, 89, 51]]})
    save(datastore, "P2-1", {1: [[50, 40, 51, 41], [60, 40, 64, 44]]})
    entries = entries_of(lesion_datalist(datastore, tmp_path / "data", first_validates))
    boxes = {name: sorted(e["box"] for e in entries if Path(e["image"]).parent.name == name) for name in ("P1", "P2")}
    assert boxes == {"P1": [[10, 10, 30, 30], [60, 40, 70, 50]], "P2": [[50, 40, 51, 41], [60, 40, 64, 44]]}
    marked = {Path(e["image"]).parent.name: int(read_mask(e["label"]).sum()) for e in entries}
    assert marked == {"P1": 400 + 1 + 100 + 99, "P2": 17}, "what was marked is kept"


def test_a_normal_breast_is_an_entry_of_the_whole_mode_and_none_of_the_lesion_mode(
    datastore: MammogramDatastore, tmp_path: Path
) -> None:
    save(datastore, "P1-1", {})
    save(datastore, "P2-1", {1: [[1, 2, 3, 4]]})
    assert len(entries_of(whole_datalist(datastore, tmp_path / "whole", first_validates))) == 2
    with pytest.raises(RequestRefused, match=r"1 patient"):
        lesion_datalist(datastore, tmp_path / "lesions", first_validates)


@pytest.mark.parametrize("name", ["Tumour", "tumor", "Mass", " neoplasm", "carcinoma", "Cancer", "nodule"])
def test_only_what_the_label_calls_tumour_is_tumour(datastore: MammogramDatastore, tmp_path: Path, name: str) -> None:
    named = [{"name": "incomplete", "idx": 1}, {"name": name, "idx": 2}]
    save(datastore, "P1-1", {1: [[0, 0, 100, 80]], 2: [[10, 20, 30, 40]]}, label_info=named)
    save(datastore, "P2-1", {1: [[0, 0, 100, 80]]}, label_info=named)
    save(datastore, "P3-1", {}, label_info=[{"name": "Segment_1", "idx": 1}])
    entries = entries_of(whole_datalist(datastore, tmp_path / "data", first_validates))
    sizes = {Path(entry["image"]).parent.name: int(read_mask(entry["label"]).sum()) for entry in entries}
    assert sizes == {"P1": 400, "P2": 0, "P3": 0}
    assert datastore.status()["labels_unclear"] == []


@pytest.mark.parametrize(
    ("values", "tumour"), [((0, 100), 100), ((1, 100), 100), ((0, 255), 255), ((1, 300), 300), ((0, 255), 1)]
)
def test_large_values_are_the_labels_that_label_info_calls_by_them(
    datastore: MammogramDatastore, tmp_path: Path, values: tuple[int, int], tumour: int
) -> None:
    """A mask of 0 and 255 may be meant as 1, too, where 255 is not named."""
    save(datastore, "P2-1", {1: [[1, 2, 3, 4]]})
    mask = np.zeros((1, 120, 90), dtype=np.uint16)
    mask[0, :100, :80], mask[0, 10:30, 20:40] = values
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask), str(tmp_path / "large.nrrd"))
    names = [{"name": "tumour", "idx": tumour}] + ([{"name": "breast", "idx": 1}] if values[0] else [])
    datastore.save_label("P1-1", str(tmp_path / "large.nrrd"), "final", {"label_info": names})
    entries = entries_of(whole_datalist(datastore, tmp_path / "data", first_validates))
    sizes = {Path(entry["image"]).parent.name: int(read_mask(entry["label"]).sum()) for entry in entries}
    assert sizes == {"P1": 400, "P2": 4}
    segmentation = datastore.labels.segmentation("P1-1", datastore.get_label_info("P1-1", "final")["reader"])
    assert segmentation is not None
    found = read_segmentation(segmentation, datastore.image("P1-1").sop)
    assert int(found["tumour"].sum()) == 400


def test_a_mask_of_255_is_not_taken_for_one_of_several_segments(datastore: MammogramDatastore, tmp_path: Path) -> None:
    mask = np.zeros((1, 120, 90), dtype=np.uint8)
    mask[0, 10:30, 20:40] = 255
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask), str(tmp_path / "white.nrrd"))
    names = [{"name": "breast", "idx": 1}, {"name": "tumour", "idx": 2}]
    with pytest.raises(RequestRefused, match="no segment is named for the label's values 255"):
        datastore.save_label("P1-1", str(tmp_path / "white.nrrd"), "final", {"label_info": names})


@pytest.mark.parametrize("given", [{}, {"label_info": []}])
def test_a_label_that_names_its_segments_in_its_own_header_needs_no_more(
    datastore: MammogramDatastore, tmp_path: Path, given: dict[str, Any]
) -> None:
    """3D Slicer writes them so; all of it would be learnt as a tumour."""
    save(datastore, "P2-1", {1: [[1, 2, 3, 4]]})
    mask = np.zeros((1, 120, 90), dtype=np.uint8)
    mask[0, :100, :80], mask[0, 10:30, 20:40] = 1, 2
    label = SimpleITK.GetImageFromArray(mask)
    for number, (name, value) in enumerate([(" breast ", 1), ("tumour", 2), ("", "x")]):
        label.SetMetaData(f"Segment{number}_Name", name)
        label.SetMetaData(f"Segment{number}_LabelValue", str(value))
    SimpleITK.WriteImage(label, str(tmp_path / "own.seg.nrrd"), useCompression=True)
    datastore.save_label("P1-1", str(tmp_path / "own.seg.nrrd"), "final", given)
    assert datastore.get_label_info("P1-1", "final")["label_info"] == [
        {"name": "breast", "idx": 1},
        {"name": "tumour", "idx": 2},
    ]
    entries = entries_of(whole_datalist(datastore, tmp_path / "data", first_validates))
    sizes = {Path(entry["image"]).parent.name: int(read_mask(entry["label"]).sum()) for entry in entries}
    assert sizes == {"P1": 400, "P2": 4}
    calcification = [{"name": "calcification", "idx": 1}, {"name": "mass", "idx": 2}]
    datastore.save_label("P1-1", str(tmp_path / "own.seg.nrrd"), "final", {"label_info": calcification})
    assert datastore.get_label_info("P1-1", "final")["label_info"] == calcification, "what is sent counts first"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["Segment_1"], "'Segment_1'"),
        (["malignant tumour", "tumour"], "'malignant tumour'"),
        (["tumour", "lump"], "'lump'"),
        (["incomplete"], "none of its segments"),
        (["calcification", "breast"], "none of its segments"),
    ],
)
def test_a_label_that_does_not_say_where_tumours_are_is_kept_and_named_and_not_learnt(
    datastore: MammogramDatastore, tmp_path: Path, names: list[str], reason: str
) -> None:
    """It would be learnt as a normal breast."""
    boxes = {number: [[0, 10 * number, 9, 10 * number + 9]] for number in range(1, len(names) + 1)}
    for image_id in ("P1-1", "P2-1"):
        save(datastore, image_id, {1: [[1, 2, 3, 4]]})
    named = [{"name": name, "idx": number} for number, name in enumerate(names, start=1)]
    save(datastore, "P3-1", boxes, label_info=named)
    for make in (whole_datalist, lesion_datalist):
        entries = entries_of(make(datastore, tmp_path / "data", first_validates))
        assert {Path(entry["image"]).parent.name for entry in entries} == {"P1", "P2"}
    assert "P3-1" in datastore.get_labeled_images()
    (unclear,) = datastore.status()["labels_unclear"]
    assert unclear["image"] == "P3-1"
    assert reason in unclear["reason"]
    renamed = [{"name": "mass", "idx": number} for number in boxes]
    datastore.update_label_info("P3-1", "final", {"label_info": renamed})
    assert datastore.status()["labels_unclear"] == []


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_both_sides_of_the_split(datastore: MammogramDatastore, tmp_path: Path, seed: int) -> None:
    for image_id in datastore.list_images():
        datastore.update_image_info(image_id, {"quality": "complete" if image_id.endswith("1") else "incomplete"})
    divide = partial(Partition(tmp_path / "patients.json").divide, validation=0.3, seed=seed)
    entries = entries_of(quality_datalist(datastore, tmp_path / "data", divide))
    sides = {
        section: {e["patient"] for e in entries if e["section"] == section} for section in ("training", "validation")
    }
    assert len(entries) == 7
    assert not sides["training"] & sides["validation"]
    assert len(sides["training"] | sides["validation"]) == 4


def test_verdicts_become_labels_with_incomplete_as_one(datastore: MammogramDatastore, tmp_path: Path) -> None:
    datastore.update_image_info("P1-1", {"quality": "complete"})
    datastore.update_image_info("P2-1", {"quality": "incomplete"})
    entries = entries_of(quality_datalist(datastore, tmp_path / "data", first_validates))
    assert {Path(entry["image"]).parent.name: entry["label"] for entry in entries} == {"P1": 0, "P2": 1}


def test_the_datalist_holds_pseudonyms_only(datastore: MammogramDatastore, tmp_path: Path) -> None:
    for patient in (1, 2):
        save(datastore, f"P{patient}-1", {1: [[1, 2, 3, 4]]})
    text = whole_datalist(datastore, tmp_path / "data", first_validates).read_text()
    dataset = dcmread(datastore.get_image_uri("P1-1"))
    assert str(dataset.PatientID) not in text
    assert str(dataset.PatientName) not in text
    entries = [entry for section in ("training", "validation") for entry in json.loads(text)[section]]
    assert {entry["patient"] for entry in entries} == {datastore.image(f"P{number}-1").patient for number in (1, 2)}


@pytest.mark.parametrize("make", [lesion_datalist, whole_datalist, quality_datalist])
def test_an_image_with_a_damaged_record_is_left_out_and_stops_no_training(
    datastore: MammogramDatastore, tmp_path: Path, make: Any
) -> None:
    for patient, verdict in ((1, "complete"), (2, "complete"), (3, "incomplete")):
        save(datastore, f"P{patient}-1", {1: [[1, 2, 3, 4]]})
        datastore.update_image_info(f"P{patient}-1", {"quality": verdict})
    for folder in ("final", ".info"):
        (datastore.labels.folder / folder / "P1-1.json").write_text("{")
    make.check(datastore)
    entries = entries_of(make(datastore, tmp_path / "data", first_validates))
    assert {entry["patient"] for entry in entries} == {datastore.image(f"P{number}-1").patient for number in (2, 3)}
    damaged = ["labels/.info/P1-1.json"] if make is quality_datalist else []
    assert datastore.status()["damaged_records"] == [*damaged, "labels/final/P1-1.json"]


@pytest.mark.parametrize("make", [lesion_datalist, whole_datalist, quality_datalist])
def test_without_annotations_of_two_patients_there_is_nothing_to_train_on(
    datastore: MammogramDatastore, tmp_path: Path, make: Any
) -> None:
    with pytest.raises(RequestRefused, match=r"0 patient"):
        make(datastore, tmp_path / "none", first_validates)
    for image_id, verdict in (("P1-1", "complete"), ("P1-2", "incomplete")):
        save(datastore, image_id, {1: [[1, 2, 3, 4]]})
        datastore.update_image_info(image_id, {"quality": verdict})
    with pytest.raises(RequestRefused, match=r"1 patient"):
        make(datastore, tmp_path / "one", first_validates)


def test_verdicts_of_one_kind_only_are_nothing_to_train_on(datastore: MammogramDatastore, tmp_path: Path) -> None:
    for patient in (1, 2, 3):
        datastore.update_image_info(f"P{patient}-1", {"quality": "complete"})
    with pytest.raises(RequestRefused, match="the same"):
        quality_datalist(datastore, tmp_path / "data", first_validates)
