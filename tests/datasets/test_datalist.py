"""Datalists: written whole, with relative paths, and checked when they are read."""

import json
from pathlib import Path

import pytest

from monai_mammo.datasets.datalist import (
    SECTIONS,
    images_to_predict,
    load_datalist,
    write_datalist,
    write_sections,
)
from monai_mammo.dicom.errors import MammogramError

from .folder_replica import CT, SEG, mammogram, save

SPLITS = {"training": ["A"], "validation": ["B"], "test": ["C"]}
ABOUT = {"name": "test", "labels": {"0": "background"}}


@pytest.fixture
def entries(tmp_path):
    found = []
    for patient in "ABC":
        file = tmp_path / "images" / f"{patient}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
        found.append({"image": file, "label": 1, "patient": patient})
    return found


def test_entries_are_in_their_patients_section_with_relative_paths(tmp_path, entries):
    file = write_datalist(tmp_path / "list", entries, SPLITS, **ABOUT)
    document = json.loads(file.read_text())
    assert document["training"] == [{"image": "../images/A.png", "label": 1, "patient": "A"}]
    assert [len(document[section]) for section in SECTIONS] == [1, 1, 1]
    assert load_datalist(file.parent, "test")[0]["image"] == str(tmp_path / "images" / "C.png")


def test_originals_are_those_of_training_patients(tmp_path, entries):
    originals = [{key: value for key, value in entry.items() if key != "label"} for entry in entries]
    file = write_datalist(tmp_path / "list", entries, SPLITS, originals=originals, **ABOUT)
    assert json.loads(file.read_text())["originals"] == [{"image": "../images/A.png", "patient": "A"}]
    assert [entry["image"] for entry in load_datalist(file.parent, "originals")] == [str(tmp_path / "images" / "A.png")]


def test_a_moved_pair_of_folders_still_works(tmp_path, entries):
    write_datalist(tmp_path / "list", entries, SPLITS, **ABOUT)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("list", "images"):
        (tmp_path / name).rename(moved / name)
    assert load_datalist(moved / "list", "training")[0]["image"] == str(moved / "images" / "A.png")


def test_sections_may_be_chosen_otherwise_than_by_patient(tmp_path, entries):
    sections = {"training": entries[:2], "validation": entries[2:]}
    about = {"name": "test", "description": "this protocol leaks", "leak": {"same_patient": 1.0}}
    file = write_sections(tmp_path / "list", sections, about=about, labels={"0": "background"})
    document = json.loads(file.read_text())
    assert [len(document[section]) for section in SECTIONS] == [2, 1, 0]
    assert document["leak"] == {"same_patient": 1.0}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "it is no JSON"),
        ("[]", "no entries under 'training'"),
        ('{"training": []}', "no entries under 'training'"),
        ('{"training": [{}]}', r"the entry training\[0\] names no image"),
        ('{"training": [{"image": "gone.png"}]}', r"the image of training\[0\] in dataset.json does not exist"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_training(tmp_path, content, reason):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(MammogramError, match=reason):
        load_datalist(tmp_path, "training")


@pytest.mark.parametrize(
    ("task", "entry", "reason"),
    [
        ("quality", {"patient": "A"}, r"training\[0\] has no label. Write 0 for complete, 1 for incomplete"),
        ("quality", {"patient": "A", "label": 2}, r"training\[0\] has the label 2. Write 0"),
        ("quality", {"patient": "A", "label": "complete"}, r'training\[0\] has the label "complete". Write 0'),
        ("quality", {"patient": "A", "label": True}, r"training\[0\] has the label true. Write 0"),
        ("quality", {"label": 1}, r"training\[0\] names no patient. Give every entry"),
        ("segmentation", {"patient": "A", "label": 1}, r"training\[0\] has the label 1. Write the path of"),
        ("segmentation", {"patient": "A"}, r"training\[0\] has no label. Write the path of"),
        ("segmentation", {"label": "a.png"}, r"training\[0\] names no patient"),
    ],
)
def test_an_entry_that_its_task_cannot_use_is_named_with_its_remedy(tmp_path, task, entry, reason):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "a.png"} | entry]}))
    with pytest.raises(MammogramError, match=rf"dataset.json: the entry {reason}"):
        load_datalist(tmp_path, "training", task)


def test_mode_whole_refuses_an_entry_a_lesion_and_mode_roi_takes_it(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(b"")
    listed = [
        {"image": image, "label": f"{mask}.png", "patient": "A"}
        for image, mask in (("a.png", "b"), ("./a.png", "c"), ("d.png", "b"))
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))
    assert len(load_datalist(tmp_path, "training", "segmentation")) == 3
    with pytest.raises(MammogramError, match=r"1 image\(s\) of training have several entries; mode whole"):
        load_datalist(tmp_path, "training", "segmentation", whole=True)


def test_originals_need_no_label(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "dataset.json").write_text(json.dumps({"originals": [{"image": "a.png", "patient": 7}]}))
    assert len(load_datalist(tmp_path, "originals", "quality")) == 1


def test_an_absent_datalist_names_its_remedy(tmp_path):
    with pytest.raises(MammogramError, match=r"there is no datalist here.*monai-mammo prepare"):
        load_datalist(tmp_path, "training")


def test_what_is_predicted_is_the_test_section_or_every_file(tmp_path, entries):
    write_datalist(tmp_path / "list", entries, SPLITS, **ABOUT)
    (entry,) = images_to_predict(tmp_path / "list")
    assert "label" not in entry
    assert entry["patient"] == "C"
    (tmp_path / "images" / "notes.txt").write_text("")
    assert len(images_to_predict(tmp_path / "images")) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(MammogramError, match="no image in this folder"):
        images_to_predict(tmp_path / "empty")


@pytest.mark.parametrize(
    "beside",
    [
        SEG,
        "1.2.840.10008.5.1.4.1.1.88.50",  # mammography CAD report
        "1.2.840.10008.5.1.4.1.1.88.59",  # key object selection
        "1.2.840.10008.5.1.4.1.1.11.1",  # presentation state
        "1.2.840.10008.1.3.10",  # DICOMDIR
    ],
)
def test_what_lies_beside_mammograms_is_not_predicted_and_what_is_no_mammogram_is_not_lost(tmp_path, beside):
    mammogram(tmp_path / "L_CC.dcm")
    save(tmp_path / "other.dcm", CT)
    save(tmp_path / "beside", beside)
    assert [Path(entry["image"]).name for entry in images_to_predict(tmp_path)] == ["L_CC.dcm", "other.dcm"]


def test_what_is_clearly_no_image_is_passed_over_and_counted_and_what_may_be_a_damaged_one_is_not(tmp_path, caplog):
    others = {
        "report.pdf": b"%PDF-1.7\n\0",
        "viewer.exe": b"MZ\0\0",
        "README": b"Use the viewer.",
        "a.zip": b"PK\3\4\0",
    }
    damaged = {"page.dcm": b"<html>not found</html>", "IM0001": bytes(600), "1.2.826.7": bytes(600), "IM0002": b""}
    damaged |= {"film.bmp": b"BM\0\0\xff", "scan.CC": b"\xff" * 600}  # unread formats, headers torn off
    for name, content in (others | damaged).items():
        (tmp_path / name).write_bytes(content)
    mammogram(tmp_path / "named.pdf")
    found = [Path(entry["image"]).name for entry in images_to_predict(tmp_path)]
    assert found == sorted([*damaged, "named.pdf"])
    (message,) = caplog.messages
    assert message == f"passed over: 4 of the files in {tmp_path}, which are no images (README, a.zip, report.pdf, …)"
    for name in found:
        (tmp_path / name).unlink()
    with pytest.raises(MammogramError, match="no image in this folder"):
        images_to_predict(tmp_path)
