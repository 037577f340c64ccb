"""Preparation of data with defects in: each ends in a line that names file and reason, none in a trace."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from monai_mammo.cli import app
from monai_mammo.datasets import cdd_cesm
from monai_mammo.datasets.datalist import SECTIONS
from monai_mammo.datasets.prepare import prepare
from monai_mammo.datasets.protocols import patient_split
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mask

from .conftest import entries, module_of


def test_bad_files_end_in_lines_that_name_file_and_reason(copy, tmp_path):
    images, masks = sorted((copy / "images").iterdir()), copy / "masks"
    images[0].write_bytes(images[0].read_bytes()[:400])
    images[1].write_text("no image")
    images[2].unlink()
    with_lesion = [file for file in images[3:] if read_mask(masks / f"{file.stem}.png").any()]
    (masks / f"{with_lesion[0].stem}.png").unlink()
    Image.fromarray(np.full((320, 128), 255, np.uint8)).save(masks / f"{with_lesion[1].stem}.png")
    shutil.copy(images[-1], masks / f"{with_lesion[2].stem}.png")
    result = CliRunner().invoke(
        app, ["prepare", "cdd-cesm", str(copy), str(tmp_path / "out"), "--processes", "0"], env={"COLUMNS": "400"}
    )
    assert "Traceback" not in result.output
    lines = result.output.splitlines()
    for file, reason in (
        (images[0], "damaged or unreadable"),
        (images[1], "neither DICOM nor PNG"),
        (images[2], "does not exist"),
        (masks / f"{with_lesion[0].stem}.png", "does not exist"),
        (masks / f"{with_lesion[1].stem}.png", "another aspect ratio"),
        (masks / f"{with_lesion[2].stem}.png", "grey levels"),
    ):
        assert any(line.startswith(str(file)) and reason in line for line in lines), (file, reason)
    known = json.loads((tmp_path / "out" / "prepared.json").read_text())["defects"]
    assert {"file": f"images/{images[1].name}", "action": "left out"}.items() <= {
        key: value
        for defect in known
        if images[1].name in defect["file"]
        for key, value in defect.items()
        if key != "reason"
    }.items()


@pytest.mark.parametrize("tasks", [(None,), ("quality", "segmentation")])
def test_a_bad_file_is_one_defect_however_many_tasks_it_is_lost_to(copy, tmp_path, tasks):
    bad = sorted((copy / "images").iterdir())[0]
    bad.write_text("no image")
    for task in tasks:
        result = prepare(cdd_cesm, copy, tmp_path, task=task, processes=0)
        assert [defect.file for defect in result.defects].count(bad) == 1
    known = json.loads((tmp_path / "prepared.json").read_text())["defects"]
    assert [defect["part"] for defect in known if bad.name in defect["file"]] == ["quality, segmentation"]


def test_unusable_places_are_refused(cesm, tmp_path):
    with pytest.raises(MammogramError, match="inside the data set"):
        prepare(cdd_cesm, cesm, cesm / "prepared", processes=0)
    with pytest.raises(MammogramError, match="no such folder"):
        prepare(cdd_cesm, tmp_path / "gone", tmp_path / "out", processes=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(MammogramError, match="it is a file"):
        prepare(cdd_cesm, cesm, tmp_path / "file", processes=0)
    result = CliRunner().invoke(app, ["prepare", "cdd-cesm", str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "error:" in result.output


def test_without_an_outline_and_not_called_normal_an_image_is_left_out(cesm, tmp_path):
    listed = [replace(image, normal=False) for image in cdd_cesm.images(cesm, [])]
    result = prepare(module_of(*listed), cesm, tmp_path / "out", task="segmentation", processes=0)
    missing = [image.image for image in listed if not image.lesions]
    assert missing
    assert [defect.file for defect in result.defects if "not said to be normal" in defect.reason] == missing


def test_an_image_one_of_whose_lesions_is_lost_has_no_whole_image_label(cesm, tmp_path):
    listed = cdd_cesm.images(cesm, [])
    with_lesion = next(image for image in listed if image.lesions)
    lost = replace(with_lesion.lesions[0], masks=(cesm / "masks" / "gone.png",))
    index = listed.index(with_lesion)
    listed[index] = replace(with_lesion, lesions=(*with_lesion.lesions, lost))
    out = tmp_path / "out"
    result = prepare(module_of(*listed), cesm, out, task="segmentation", processes=0)
    name = with_lesion.image.name
    assert any(Path(entry["image"]).name == name for entry in entries(out, "segmentation_roi"))
    assert not any(Path(entry["image"]).name == name for entry in entries(out, "segmentation_whole"))
    assert any("1 of its 2 lesions have no usable outline" in defect.reason for defect in result.defects)


def test_patients_on_both_official_sides_train_nothing(cesm, tmp_path):
    listed = cdd_cesm.images(cesm, [])
    patients = sorted({image.patient for image in listed})
    sides = {patient: "test" if patient in patients[:2] else "training" for patient in patients}
    official = [replace(image, split=sides[image.patient]) for image in listed]
    double = next(index for index, image in enumerate(official) if image.split == "test")
    official[double] = replace(official[double], split="training")
    result = prepare(module_of(*official), cesm, tmp_path / "out", task="quality", processes=0)
    (defect,) = [defect for defect in result.defects if "official test set, too" in defect.reason]
    assert defect.file == official[double].image
    document = json.loads((tmp_path / "out" / "quality" / "dataset.json").read_text())
    assert {entry["patient"] for entry in document["test"]} <= set(patients[:2])
    assert not {entry["patient"] for entry in document["training"] + document["validation"]} & set(patients[:2])


def test_an_image_listed_twice_counts_once(cesm, tmp_path):
    listed = cdd_cesm.images(cesm, [])
    result = prepare(module_of(*listed, listed[0]), cesm, tmp_path / "out", task="quality", processes=0)
    assert any(defect.reason == "the data set lists it twice" for defect in result.defects)
    assert len(entries(tmp_path / "out", "quality")) == 2 * len(listed)


def test_where_all_of_a_section_are_unusable_other_patients_take_their_place(cesm, tmp_path):
    listed = cdd_cesm.images(cesm, [])
    for section in ("validation", "test"):
        lost = patient_split(listed, 0)[section]
        some = [replace(image, view="ML") if image.patient in lost else image for image in listed]
        result = prepare(module_of(*some), cesm, tmp_path / section, task="quality", samples=2, processes=0)
        assert all(result.counts["quality"].values())
        document = json.loads((tmp_path / section / "quality" / "dataset.json").read_text())
        patients = [{entry["patient"] for entry in document[side]} for side in SECTIONS]
        assert sum(map(len, patients)) == len(set.union(*patients))
        held_out = document["validation"] + document["test"]
        assert len(held_out) == 4 * len({entry["source"] for entry in held_out}), "two samples of each class"


def test_where_no_lesion_is_outlined_a_remark_says_why_there_is_only_quality(cesm, tmp_path):
    listed = [replace(image, lesions=()) for image in cdd_cesm.images(cesm, [])]
    result = prepare(module_of(*listed), cesm, tmp_path, processes=0)
    assert result.remarks == {"segmentation": "no lesion is outlined; only quality was made"}


def test_nothing_usable_is_an_error_with_reasons_and_no_datalist(cesm, tmp_path):
    listed = [replace(image, view="ML") for image in cdd_cesm.images(cesm, [])]
    result = prepare(module_of(*listed), cesm, tmp_path / "out", task="quality", processes=0)
    assert not result.datalists
    assert not (tmp_path / "out" / "quality" / "dataset.json").exists()
    assert sum("neither CC nor MLO" in defect.reason for defect in result.defects) == len(listed)
