"""CBIS-DDSM as TCIA ships it: folders whose names mislead, masks and crops swapped, files that are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_mammo.datasets import cbis_ddsm
from monai_mammo.datasets.cbis_ddsm import images
from monai_mammo.datasets.lesions import find_lesions
from monai_mammo.datasets.prepare import prepare
from monai_mammo.datasets.sources import Defect
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mask

from .cbis_ddsm_replica import (
    CALC,
    CROP,
    FULL,
    GREY,
    LEFT_CC,
    LEFT_MLO,
    MASK,
    OUTLINE,
    ROOT,
    STUDY,
    TABLE,
    found_in,
    full,
    reasons,
    row,
    write_csv,
    write_dicom,
)
from .conftest import entries


def test_todays_folders_are_found_although_the_csvs_paths_are_stale(tmp_path: Path) -> None:
    write_csv(tmp_path / "csv" / TABLE, [row(LEFT_CC)])
    mammogram = full(tmp_path, LEFT_CC)
    series = tmp_path / "CBIS-DDSM" / f"{LEFT_CC}_1" / "10-04-2016-DDSM-9" / "1-ROI mask images-1"
    crop, mask = write_dicom(series / "1-1.dcm", GREY[:20, :20]), write_dicom(series / "1-2.dcm", OUTLINE)

    (image,), defects = found_in(tmp_path)

    assert image.image == mammogram
    assert (image.patient, image.laterality, image.view, image.split) == ("P_00001", "L", "CC", "training")
    assert (image.density, image.birads, image.spacing) == ("3", "4", None)
    (lesion,) = image.lesions
    assert set(lesion.masks) == {crop, mask}, "the folder is called a mask's and holds a crop: the pixels decide"
    assert (lesion.kind, lesion.pathology, lesion.name) == ("mass", "malignant", f"{LEFT_CC}_1")
    assert reasons(defects) == []


def test_of_the_candidates_only_the_mask_can_be_read_as_one(tmp_path: Path) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    full(tmp_path, LEFT_CC)
    write_dicom(tmp_path / f"{LEFT_CC}_1" / "a" / "1-cropped images-1" / "1-1.dcm", OUTLINE)
    write_dicom(tmp_path / f"{LEFT_CC}_1" / "b" / "1-ROI mask images-1" / "1-1.dcm", GREY[:20, :20])
    (image,), _ = found_in(tmp_path)

    def readable(file: Path) -> bool:
        try:
            image.lesions[0].read(file)
        except MammogramError:
            return False
        return True

    (mask,) = [file for file in image.lesions[0].masks if readable(file)]
    assert "cropped images" in str(mask)
    assert read_mask(mask).sum() == 15 * 15


@pytest.mark.parametrize(
    ("shape", "lesions", "outcome"),
    [
        ((60, 40), 1, []),
        ((90, 60), 1, ["resized"]),
        ((60, 60), 0, ["lesion dropped", "lesion dropped"]),
        ((20, 20), 0, ["lesion dropped", "lesion dropped"]),
    ],
    ids=["of the image's size", "larger, same aspect", "another aspect", "a crop of two values"],
)
def test_what_the_pixels_decide_of_the_candidates(
    tmp_path: Path, shape: tuple[int, int], lesions: int, outcome: list[str]
) -> None:
    """Beside each mask lies a grey crop, refused only where no mask is found."""
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    full(tmp_path, LEFT_CC)
    rows, columns = (np.arange(wanted) * side // wanted for wanted, side in zip(shape, OUTLINE.shape, strict=True))
    write_dicom(tmp_path / f"{LEFT_CC}_1" / "a" / "b" / "1-1.dcm", GREY[:20, :20])
    write_dicom(tmp_path / f"{LEFT_CC}_1" / "a" / "b" / "1-2.dcm", OUTLINE[np.ix_(rows, columns)])
    (image,), _ = found_in(tmp_path)
    defects: list[Defect] = []
    found = find_lesions(image.image, image.read(image.image).shape, image.lesions, defects)
    assert len(found) == lesions
    assert [defect.action for defect in defects] == outcome
    assert all(lesion.mask.sum() == 15 * 15 for lesion in found)


@pytest.mark.parametrize("above", [True, False], ids=["below the PatientID", "UIDs alone"])
def test_the_csvs_own_paths_are_found_too(tmp_path: Path, above: bool) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    image_folder, lesion_folder = (
        (tmp_path / "d" / name if above else tmp_path / "d") for name in (LEFT_CC, f"{LEFT_CC}_1")
    )
    mammogram = write_dicom(image_folder / STUDY / FULL / "000000.dcm", GREY)
    crop = write_dicom(lesion_folder / STUDY / CROP / "000001.dcm", GREY[:9, :9])
    mask = write_dicom(lesion_folder / STUDY / MASK / "000000.dcm", OUTLINE)
    (image,), defects = found_in(tmp_path)
    assert image.image == mammogram
    assert set(image.lesions[0].masks) == {crop, mask}
    assert reasons(defects) == []


def test_several_lesions_are_one_image_and_the_worst_assessment_is_the_images(tmp_path: Path) -> None:
    rows = [row(LEFT_CC, 1, assessment="2"), row(LEFT_CC, 2, assessment="5", pathology="BENIGN_WITHOUT_CALLBACK")]
    write_csv(tmp_path / TABLE, rows)
    full(tmp_path, LEFT_CC)
    for number in (1, 2):
        write_dicom(tmp_path / f"{LEFT_CC}_{number}" / "s" / "t" / "1-1.dcm", OUTLINE)
    (image,), _ = found_in(tmp_path)
    assert [lesion.name[-1] for lesion in image.lesions] == ["1", "2"]
    assert [lesion.pathology for lesion in image.lesions] == ["malignant", "benign_without_callback"]
    assert image.birads == "5"
    assert image.attributes["lesions_listed"] == 2


@pytest.mark.parametrize("lost", ["", LEFT_CC, LEFT_CC.replace("Mass", "Calc")])
def test_a_film_with_masses_and_calcifications_is_one_image_with_all_its_lesions(tmp_path: Path, lost: str) -> None:
    """As two images, each had the other's lesion as background."""
    source, out = tmp_path / "source", tmp_path / "out"
    calc = LEFT_CC.replace("Mass", "Calc")
    write_csv(source / TABLE, [row(LEFT_CC), row(LEFT_MLO)])
    write_csv(source / "calc_case_description_train_set.csv", [row(calc, assessment="5")], CALC)
    files = {name: full(source, name) for name in (LEFT_CC, calc, LEFT_MLO) if name != lost}
    lower = np.roll(OUTLINE, 30, axis=0)
    for name, outline in ((LEFT_CC, OUTLINE), (calc, lower), (LEFT_MLO, OUTLINE)):
        write_dicom(source / f"{name}_1" / "s" / "t" / "1-1.dcm", outline)
    (film, other), defects = found_in(source)
    assert film.image == files[calc if lost == LEFT_CC else LEFT_CC]
    assert [lesion.kind for lesion in film.lesions] == ["mass", "calcification"]
    assert (film.birads, film.attributes) == ("5", {"part": "mass; calcification", "lesions_listed": 2})
    assert other.attributes == {"part": "mass", "lesions_listed": 1}
    second = [] if lost else [f"it is the film of {files[LEFT_CC]}, listed for other lesions"]
    assert reasons(defects) == second
    prepare(cbis_ddsm, source, out, task="segmentation", processes=0)
    (whole,) = [entry for entry in entries(out, "segmentation_whole") if entry["view"] == "CC"]
    np.testing.assert_array_equal(read_mask(out / "segmentation_whole" / whole["label"]) > 0, (OUTLINE + lower) > 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (f"z/{LEFT_CC}/{STUDY}/{FULL}/1-1.dcm", f"a/{LEFT_CC}/{STUDY}/{ROOT}99/1-1.dcm"),
        (f"a/{LEFT_CC}/{STUDY}/{FULL}/1-2.dcm", f"a/{LEFT_CC}/{STUDY}/{FULL}/1-1.dicom"),
        (f"a/{LEFT_CC}/{STUDY}/{FULL}/1-1.dcm", f"a/{LEFT_CC}/{STUDY}/{FULL}/1-2.dcm"),
    ],
    ids=["in the series that the CSV file names", "a .dcm file", "the first by name"],
)
def test_of_several_files_of_a_mammogram_one_is_chosen_in_a_stated_order(
    tmp_path: Path, first: str, second: str
) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    for file in (first, second):
        write_dicom(tmp_path / file, GREY, LEFT_CC)
    write_dicom(tmp_path / f"{LEFT_CC}_1" / "s" / "t" / "1-1.dcm", OUTLINE)
    (image,), defects = found_in(tmp_path)
    assert image.image == tmp_path / first
    assert reasons(defects) == [f"a second file of the mammogram {tmp_path / first}"]


def test_films_of_one_patient_on_both_official_sides_stay_apart(tmp_path: Path) -> None:
    test = LEFT_CC.replace("Mass-Training", "Calc-Test")
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    write_csv(tmp_path / "calc_case_description_test_set.csv", [row(test)], CALC)
    for name in (LEFT_CC, test):
        full(tmp_path, name)
        write_dicom(tmp_path / f"{name}_1" / "s" / "t" / "1-1.dcm", OUTLINE)
    found, _ = found_in(tmp_path)
    assert sorted((image.split, len(image.lesions)) for image in found) == [("test", 1), ("training", 1)]


def test_an_outline_that_is_not_there_is_named_and_the_image_says_that_it_shows_more(tmp_path: Path) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC, 1), row(LEFT_CC, 2)])
    full(tmp_path, LEFT_CC)
    write_dicom(tmp_path / f"{LEFT_CC}_1" / "s" / "t" / "1-1.dcm", OUTLINE)
    (image,), defects = found_in(tmp_path)
    assert len(image.lesions) < image.attributes["lesions_listed"] == 2
    assert reasons(defects, f"{LEFT_CC}_2") == ["neither crop nor mask of this abnormality is on disk"]


def test_a_mammogram_that_is_not_there_is_named_for_each_of_its_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC, 1), row(LEFT_CC, 2), row(LEFT_MLO)])
    full(tmp_path, LEFT_MLO)
    write_dicom(tmp_path / f"{LEFT_CC}_1" / "s" / "t" / "1-1.dcm", OUTLINE)
    found, defects = found_in(tmp_path)
    assert [image.view for image in found] == ["MLO"]
    assert reasons(defects, LEFT_CC) == ["the mammogram of this abnormality is not on disk"] * 2


def test_of_two_files_of_a_mammogram_the_readable_one_is_taken(tmp_path: Path) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    good = full(tmp_path, LEFT_CC, "1-2.dcm")
    text = good.with_name("1-1.dcm")
    text.write_text("504 Gateway Timeout")
    again = full(tmp_path / "second download", LEFT_CC)
    (image,), defects = found_in(tmp_path)
    assert image.image == good
    assert len(reasons(defects, str(text))) == 1
    assert reasons(defects, str(again)) == [f"a second file of the mammogram {good}"]


def test_files_that_no_row_lists_are_named(tmp_path: Path) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    full(tmp_path, LEFT_CC)
    stranger = full(tmp_path, "Calc-Test_P_00038_LEFT_CC")
    lone = write_dicom(tmp_path / "mdb001.dcm", GREY)
    series = write_dicom(tmp_path / f"{ROOT}7" / f"{ROOT}8" / "000000.dcm", GREY)
    for ignored in ("LICENSE", "metadata.csv", "._1-1.dcm"):
        (tmp_path / ignored).write_text("Series UID,Collection\n")
    _, defects = found_in(tmp_path)
    unlisted = {defect.file for defect in defects if defect.reason == "no row of the CSV files lists this file"}
    assert unlisted == {stranger, lone, series}


@pytest.mark.parametrize("content", [None, "a,b\n1,2\n", ""])
def test_another_folder_is_refused_with_what_helps(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / TABLE).write_text(content)
    with pytest.raises(MammogramError, match="no CSV file of CBIS-DDSM") as caught:
        images(tmp_path, [])
    assert "four CSV files" in caught.value.remedy
    with pytest.raises(MammogramError, match="no such folder"):
        images(tmp_path / "absent", [])


def test_the_real_samples_are_found_and_none_of_their_files_is_a_mask(samples: Path) -> None:
    found, defects = found_in(samples / "cbis-ddsm")
    assert {(image.patient, image.laterality, image.view, len(image.lesions)) for image in found} == {
        ("P_00016", "L", "CC", 1),
        ("P_00116", "R", "MLO", 2),
    }
    for image in found:
        for lesion in image.lesions:
            for file in lesion.masks:  # one of them in a folder called "ROI mask images"
                with pytest.raises(MammogramError, match="grey levels"):
                    lesion.read(file)
    assert len(defects) == 3568 - 3
    assert cbis_ddsm.LICENCE.startswith("CC BY 3.0")
