"""A hospital's DICOM tree: mammograms are kept, everything else is named, and no patient's identity leaves."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from monai_mammo.datasets import folder
from monai_mammo.datasets.folder import images
from monai_mammo.datasets.prepare import prepare
from monai_mammo.datasets.pseudonym import KEY_VARIABLE, pseudonym
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.segmentation import segments

from .conftest import entries
from .folder_replica import CT, PATIENT, SHAPE, found_in, item, mammogram, said, save, segmentation, square


def test_a_mammogram_is_known_by_its_header_whatever_its_files_name(tmp_path: Path) -> None:
    file = tmp_path / "DICOM" / "0000A" / "IM_7"
    mammogram(file, PartialView="YES", BreastImplantPresent="NO")
    (image,), defects = found_in(tmp_path)
    assert image.image == file
    assert (image.laterality, image.view, image.spacing) == ("L", "CC", (0.1, 0.1))
    assert image.attributes["manufacturer"] == "Maker"
    assert (image.attributes["partial_view"], image.attributes["implant"]) == (True, False)
    assert image.read(image.image).shape == SHAPE
    assert not image.lesions
    assert not image.normal
    assert defects == []


def test_one_patients_images_share_a_pseudonym_and_another_patients_do_not(tmp_path: Path) -> None:
    mammogram(tmp_path / "a", StudyInstanceUID="1.2.1")
    mammogram(tmp_path / "b", StudyInstanceUID="1.2.2")
    mammogram(tmp_path / "c", StudyInstanceUID="1.2.2", PatientID="another")
    found, _ = found_in(tmp_path)
    first, second, other = (image.patient for image in found)
    assert first == second != other
    assert len({image.attributes["study"] for image in found}) == 2
    assert not {"1.2.1", "1.2.2"} & {image.attributes["study"] for image in found}


def test_patients_who_may_be_one_in_several_spellings_are_named_without_their_ids(tmp_path: Path) -> None:
    """Pseudonyms hide the likeness from the audit, so who makes them says it."""
    for number, patient in enumerate(["Pat-3", "PAT-03", "pat-3 1", "Pat-30", "Pat-3", "pat -003"]):
        mammogram(tmp_path / f"image{number}", PatientID=patient)
    found, defects = found_in(tmp_path)
    assert len({image.patient for image in found}) == 5
    (defect,) = defects
    assert defect.file == tmp_path / "image0"
    assert all(str(tmp_path / name) in defect.reason for name in ("image1", "image5"))
    assert "differ only in capitals, spaces or zeros" in defect.reason
    assert defect.action == "kept as 3 patients; correct PatientID if they are one"
    assert "pat-" not in str(defect).replace(str(tmp_path), "").lower()
    for number in range(2):  # no PatientID at all: the study tells them apart, and numbers in it are no spelling
        mammogram(tmp_path / "studies" / f"image{number}", PatientID="", StudyInstanceUID=f"1.2.{number}")
    assert sum("differ only" in defect.reason for defect in found_in(tmp_path)[1]) == 1


def test_pseudonyms_depend_on_the_secret_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    without = pseudonym("4711")
    monkeypatch.setenv(KEY_VARIABLE, "one" * 50)
    one = pseudonym("4711")
    assert one == pseudonym("4711")
    monkeypatch.setenv(KEY_VARIABLE, "two")
    assert len({without, one, pseudonym("4711")}) == 3


@pytest.mark.parametrize("nobody", ["", "ANONYMOUS", "anonymized", "Unknown", "000000", "N/A"])
def test_where_the_patient_id_tells_nobody_apart_the_study_does_and_a_line_says_so(tmp_path: Path, nobody: str) -> None:
    for name, study in (("a", "1.2.1"), ("b", "1.2.1"), ("c", "1.2.2")):
        mammogram(tmp_path / name, StudyInstanceUID=study, PatientID=nobody)
    found, defects = found_in(tmp_path)
    assert found[0].patient == found[1].patient != found[2].patient
    assert [defect.action for defect in defects] == ["kept; its study stands for the patient"] * 3


@pytest.mark.parametrize("somebody", ["ANON0001", "anonymous-12", "00017", "NONEMAN"])
def test_a_pseudonym_in_the_patient_id_is_somebody(tmp_path: Path, somebody: str) -> None:
    mammogram(tmp_path / "a", StudyInstanceUID="1.2.1", PatientID=somebody)
    mammogram(tmp_path / "b", StudyInstanceUID="1.2.2", PatientID=somebody)
    found, defects = found_in(tmp_path)
    assert found[0].patient == found[1].patient
    assert defects == []


def test_everything_else_in_the_tree_is_named_with_its_reason(tmp_path: Path) -> None:
    mammogram(tmp_path / "good")
    odd = {
        name: tmp_path / "x" / name for name in ("text.dcm", "ct", "raw", "preview.png", "cut.dcm", "nobody", "empty")
    }
    mammogram(odd["ct"], SOPClassUID=CT, Modality="CT")
    mammogram(odd["raw"], PresentationIntentType="FOR PROCESSING")
    mammogram(odd["nobody"], PatientID="", StudyInstanceUID=None)
    mammogram(odd["cut.dcm"])
    odd["cut.dcm"].write_bytes(odd["cut.dcm"].read_bytes()[:-500])
    odd["text.dcm"].write_text(f"Report on {PATIENT['PatientName']}")
    odd["empty"].write_bytes(b"")
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(odd["preview.png"])
    directory = tmp_path / "DICOMDIR"
    save(directory, "1.2.840.10008.1.3.10", SOPInstanceUID=None)

    (image,), defects = found_in(tmp_path)

    assert image.image == tmp_path / "good"
    assert {defect.file for defect in defects} == {*odd.values(), directory}
    assert Counter(defect.file for defect in defects).most_common(1)[0][1] == 1
    for name, words in {
        "text.dcm": "neither DICOM nor",
        "ct": "CT Image Storage",
        "raw": "FOR PROCESSING",
        "preview.png": "a picture (png)",
        "cut.dcm": "truncated",
        "nobody": "neither PatientID nor StudyInstanceUID",
        "empty": "empty",
    }.items():
        assert words in said(defects, odd[name])[0]
    ignored = {defect.file.name for defect in defects if defect.action == "ignored"}
    assert ignored == {"text.dcm", "preview.png", "empty", "DICOMDIR"}, "none of these could have been a mammogram"


def test_a_file_that_was_exported_twice_counts_once(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    mammogram(tmp_path / "b", SOPInstanceUID=uid)
    found, defects = found_in(tmp_path)
    assert [image.image.name for image in found] == ["a"]
    assert said(defects, tmp_path / "b") == [f"it has the SOPInstanceUID of {tmp_path / 'a'}"]


@pytest.mark.parametrize("changes", [{"PatientID": "another"}, {"StudyInstanceUID": "1.2.9"}, {"ViewPosition": "MLO"}])
def test_different_images_of_one_identifier_are_left_out_with_the_outline_of_either(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    uid = mammogram(tmp_path / "a")
    mammogram(tmp_path / "b", SOPInstanceUID=uid, **changes)
    mammogram(tmp_path / "c")
    segmentation(tmp_path / "seg", [(1, uid, square())])
    found, defects = found_in(tmp_path)
    assert [image.image.name for image in found] == ["c"]
    for name, other in (("a", "b"), ("b", "a")):
        (reason,) = said(defects, tmp_path / name)
        assert reason.startswith(f"it has the SOPInstanceUID of {tmp_path / other}, but another patient")
    assert "several different mammograms" in said(defects, tmp_path / "seg")[0]


def test_a_linked_folder_is_followed_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    elsewhere, source = tmp_path / "archive", tmp_path / "source"
    mammogram(elsewhere / "a")
    source.mkdir()
    (source / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(source)
    found, _ = found_in(source)
    assert len(found) == 1


def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    mammogram(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe.dcm")
    found, defects = found_in(tmp_path)
    assert len(found) == 1
    assert said(defects, tmp_path / "pipe.dcm") == ["it is a pipe or a device, no file"]


def test_a_name_that_is_not_utf_8_is_told_and_the_rest_is_prepared(tmp_path: Path) -> None:
    row, column = np.mgrid[:200, :150]
    breast = ((row - 100) / 70) ** 2 + (column / 100) ** 2 < 1
    shape = {"Rows": 200, "Columns": 150, "PixelData": (breast * 2000).astype("<u2").tobytes()}
    source, out = tmp_path / "source", tmp_path / "out"
    for patient in ("one", "two", "three", "four"):
        mammogram(source / patient, PatientID=patient, **shape)
    os.rename(source / "four", os.fsencode(source) + b"/L_CC_\xe4.dcm")
    result = prepare(folder, source, out, task="quality", processes=0)
    (told,) = [defect for defect in result.defects if "not UTF-8: rename it" in defect.reason]
    assert told.file.name == "L_CC_\ufffd.dcm"
    assert "not UTF-8" in (out / "prepared.json").read_text(encoding="utf-8")
    assert {Path(entry["source"]).name for entry in entries(out, "quality")} == {"one", "two", "three"}


def test_an_image_that_is_declared_to_show_a_part_of_the_breast_makes_no_complete_sample(tmp_path: Path) -> None:
    row, column = np.mgrid[:200, :150]
    breast = ((row - 100) / 70) ** 2 + (column / 100) ** 2 < 1
    shape = {"Rows": 200, "Columns": 150, "PixelData": (breast * 2000).astype("<u2").tobytes()}
    source, parts = tmp_path / "source", []
    for code in ("399163009", "399055006"):  # magnification, spot compression
        view = item(CodeValue="399162004", ViewModifierCodeSequence=[item(CodeValue=code)])
        parts.append(source / code)
        mammogram(parts[-1], ViewCodeSequence=[view], **shape)
    parts.append(source / "part")
    mammogram(parts[-1], PartialView="YES", **shape)
    mammogram(source / "whole", **shape)
    result = prepare(folder, source, tmp_path / "out", task="quality", processes=0)
    assert {entry["source"] for entry in entries(tmp_path / "out", "quality")} == {"whole"}
    assert {defect.file for defect in result.defects if defect.action == "left out of quality"} == set(parts)


@pytest.mark.parametrize("content", [None, "text"])
def test_a_folder_without_mammograms_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "a.dcm").write_text(content)
    with pytest.raises(MammogramError, match="no mammogram in DICOM") as caught:
        images(tmp_path, [])
    assert "modality MG" in caught.value.remedy
    with pytest.raises(MammogramError, match="no such folder"):
        images(tmp_path / "absent", [])


MAKERS = ("mammogram", "copy", "text", "ct", "raw", "seg", "stray seg", "picture", "anonymous")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(MAKERS), max_size=8))
def test_every_file_ends_as_an_image_or_an_outline_or_a_defect(kinds: list[str]) -> None:
    with TemporaryDirectory() as place:
        source = Path(place)
        first = mammogram(source / "00")
        for number, kind in enumerate(kinds, start=1):
            file = source / f"{number % 3}" / f"{number:02d}"
            file.parent.mkdir(exist_ok=True)
            if kind == "text":
                file.write_text("text")
            elif kind == "picture":
                Image.fromarray(np.zeros(SHAPE, np.uint8)).save(file, format="PNG")
            elif kind.endswith("seg"):
                segmentation(file, [(1, first if kind == "seg" else "1.2.999", square())])
            else:
                mammogram(file, **{
                    "copy": {"SOPInstanceUID": first},
                    "ct": {"SOPClassUID": CT, "Modality": "CT"},
                    "raw": {"PresentationIntentType": "FOR PROCESSING"},
                    "anonymous": {"PatientID": "anonymous"},
                }.get(kind, {}))  # fmt: skip
        found, defects = found_in(source)
        used = {image.image for image in found} | {lesion.masks[0] for image in found for lesion in image.lesions}
        refused = {defect.file for defect in defects if not defect.action.startswith("kept")}
        assert used | refused == {file for file in source.rglob("*") if file.is_file()}
        assert not used & refused


def test_the_real_samples_are_taken_by_their_headers(samples: Path) -> None:
    found, defects = found_in(samples / "dicom")
    assert {image.image.name for image in found} >= {"MG_Explicit_Little.dcm"}
    assert {image.image.name for image in found} | {defect.file.name for defect in defects} == {
        file.name for file in (samples / "dicom").iterdir()
    }
    assert all(segments_of == [] for segments_of in (segments(image.image) for image in found))
