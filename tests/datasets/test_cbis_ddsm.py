"""CBIS-DDSM as TCIA ships it: four CSV files with their quirks, folders whose names mislead, files that are missing."""

from __future__ import annotations

import csv
import pickle
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

from monai_mammo.datasets import cbis_ddsm, protocols
from monai_mammo.datasets.cbis_ddsm import Abnormality, abnormalities, images, listed_images, shared_patients
from monai_mammo.datasets.lesions import find_lesions
from monai_mammo.datasets.sources import Defect, SourceImage
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mask

MASS = "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,\
mass margins,assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
CALC = MASS.replace("breast_density", "breast density").replace("mass shape", "calc type")
CALC = CALC.replace("mass margins", "calc distribution")
ROOT = "1.3.6.1.4.1.9590.100.1.2."
STUDY, FULL, CROP, MASK = (f"{ROOT}{number}" for number in (11, 22, 33, 44))


def row(name: str, number: int = 1, **changes: Any) -> dict[str, str]:
    """A CSV row of the abnormality `number` of the image `Mass-Training_P_00001_LEFT_CC`, quirks of TCIA included."""
    part, _, patient, side, view = name.split("_")
    kind = {"Mass": "mass", "Calc": "calcification"}[part.split("-")[0]]
    values = {
        "patient_id": f"P_{patient}",
        "breast_density": "3",
        "left or right breast": side,
        "image view": view,
        "abnormality id": str(number),
        "abnormality type": kind,
        "mass shape": "IRREGULAR",
        "mass margins": "N/A",
        "assessment": "4",
        "pathology": "MALIGNANT",
        "subtlety": "4",
        "image file path": f"{name}/{STUDY}/{FULL}/000000.dcm",
        "cropped image file path": f"{name}_{number}/{STUDY}/{CROP}/000001.dcm\n",
        "ROI mask file path": f"{name}_{number}/{STUDY}/{MASK}/000000.dcm\n",
    }
    return values | changes


def write_csv(path: Path, rows: list[dict[str, str]], header: str = MASS) -> Path:
    """Write rows under a header; values of another spelling of a column go where they belong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows([list(entry.values()) for entry in rows])
    return path


def write_dicom(path: Path, pixels: np.ndarray, name: str = "") -> Path:
    """A Secondary Capture of modality MG in Implicit VR without pixel spacing, as CBIS-DDSM's files are."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "MG",
        "PatientID": name,
        "PatientName": name,
        "BodyPartExamined": "BREAST",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_file: dict[str, Any] = {"enforce_file_format": True}
    if pydicom.__version__ < "3":
        dataset.is_implicit_VR, dataset.is_little_endian = True, True
        whole_file = {"write_like_original": False}
    pydicom.dcmwrite(path, dataset, **whole_file)
    return path


GREY = (np.arange(60 * 40).reshape(60, 40) * 27) % 65536
OUTLINE = np.zeros((60, 40), dtype=int)
OUTLINE[10:25, 5:20] = 65535


def full(source: Path, name: str, file: str = "1-1.dcm") -> Path:
    """A full mammogram where the archive puts it today."""
    folder = source / "CBIS-DDSM" / name / "10-04-2016-DDSM-12345" / "1-full mammogram images-67890"
    return write_dicom(folder / file, GREY, name)


def found_in(source: Path) -> tuple[list[SourceImage], list[Defect]]:
    """What the module lists, checked for what always holds: it crosses process borders, and each defect is one line."""
    defects: list[Defect] = []
    found = images(source, defects)
    assert pickle.loads(pickle.dumps(found)) == found
    assert all("\n" not in str(defect) for defect in defects)
    return found, defects


def reasons(defects: list[Defect], about: str = "") -> list[str]:
    """The defects of the files whose path contains a text; without those on the CSV files that a test leaves out."""
    return [
        defect.reason for defect in defects if about in str(defect.file) and "no CSV file lists" not in defect.reason
    ]


LEFT_CC, LEFT_MLO = "Mass-Training_P_00001_LEFT_CC", "Mass-Training_P_00001_LEFT_MLO"
TABLE = "mass_case_description_train_set.csv"


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


def test_masses_and_calcifications_are_read_from_their_own_columns(tmp_path: Path) -> None:
    calc = "Calc-Test_P_00001_RIGHT_MLO"
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    write_csv(tmp_path / "a" / "Calc-Test-Description (1).csv", [row(calc, breast_density="1")], CALC)
    defects: list[Defect] = []
    mass, calcification = sorted(abnormalities(tmp_path, defects), key=lambda one: one.split, reverse=True)
    assert (mass.kind, mass.split, mass.density) == ("mass", "training", "3")
    assert (calcification.kind, calcification.split, calcification.density) == ("calcification", "test", "1")
    assert shared_patients([mass, calcification]) == {"P_00001"}
    missing = [defect.reason for defect in defects]
    assert missing == [
        "no CSV file lists the mass test cases",
        "no CSV file lists the calcification training cases",
    ]


@pytest.mark.parametrize("nothing", ["N/A", "NaN", "nan", "", " "])
def test_unknown_values_are_unknown_and_not_texts(tmp_path: Path, nothing: str) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC, breast_density=nothing, assessment=nothing, pathology=nothing)])
    (one,) = abnormalities(tmp_path, [])
    assert (one.density, one.birads, one.pathology) == ("", "", "")


def test_a_table_saved_anew_by_a_data_frame_reads_the_same(tmp_path: Path) -> None:
    as_floats: dict[str, Any] = {"breast_density": "3.0", "assessment": "4.0", "abnormality id": "1.0"}
    write_csv(tmp_path / "a" / TABLE, [row(LEFT_CC)])
    write_csv(tmp_path / "b" / TABLE, [row(LEFT_CC, **as_floats)])
    assert abnormalities(tmp_path / "a", []) == abnormalities(tmp_path / "b", [])


def test_density_zero_of_the_real_table_is_no_density(tmp_path: Path) -> None:
    write_csv(tmp_path / TABLE, [row(LEFT_CC, breast_density="0", assessment="0")])
    (one,) = abnormalities(tmp_path, [])
    assert (one.density, one.birads) == ("", "0")


def test_repeated_rows_and_tables_are_read_once_and_named(tmp_path: Path) -> None:
    rows = [row(LEFT_CC), row(LEFT_CC), row(LEFT_CC, pathology="BENIGN")]
    table = write_csv(tmp_path / TABLE, rows)
    copy = tmp_path / "z" / "mass_case_description_train_set (1).csv"
    copy.parent.mkdir()
    copy.write_bytes(table.read_bytes())
    defects: list[Defect] = []
    (one,) = abnormalities(tmp_path, defects)
    assert one.pathology == "malignant"
    assert reasons(defects, str(table)) == [
        f"line 7 repeats line 4 of {TABLE}: {LEFT_CC}_1",  # two cells of each row end in a newline: three lines a row
        f"line 10 contradicts line 4 of {TABLE}: {LEFT_CC}_1",
    ]
    assert reasons(defects, str(copy)) == [f"it repeats {TABLE}"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patient_id": "N/A"}, "'patient id'"),
        ({"left or right breast": "BOTH"}, "'left or right breast'"),
        ({"image view": "XCCL"}, "'image view'"),
        ({"abnormality id": "one"}, "'abnormality id'"),
        ({"abnormality type": "cyst"}, "'abnormality type'"),
        ({"abnormality type": "calcification"}, "its columns say"),
        ({"left or right breast": "RIGHT"}, "its columns say"),
        ({"ROI mask file path": row(LEFT_MLO)["ROI mask file path"]}, LEFT_MLO),
        ({path: "N/A" for path in row(LEFT_CC) if "path" in path and path != "pathology"}, "none of its paths"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named_by_file_and_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    table = write_csv(tmp_path / TABLE, [row(LEFT_MLO), row(LEFT_CC, **change)])
    defects: list[Defect] = []
    assert [one.view for one in abnormalities(tmp_path, defects)] == ["MLO"]
    (reason,) = reasons(defects, str(table))
    assert reason.startswith("line ")
    assert said in reason


def test_a_table_that_breaks_off_within_a_quote_says_so(tmp_path: Path) -> None:
    table = write_csv(tmp_path / TABLE, [row(LEFT_MLO), row(LEFT_CC)])
    table.write_bytes(table.read_bytes()[:-30])
    defects: list[Defect] = []
    assert len(abnormalities(tmp_path, defects)) == 1
    assert len(reasons(defects, str(table))) == 1


def test_a_table_without_a_column_is_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "good.csv", [row(LEFT_CC)])
    bad = write_csv(tmp_path / "bad.csv", [row(LEFT_MLO)], MASS.replace("pathology", "outcome"))
    defects: list[Defect] = []
    assert len(abnormalities(tmp_path, defects)) == 1
    assert reasons(defects, str(bad)) == ["it has no column 'pathology'"]


@pytest.mark.parametrize("content", [None, "a,b\n1,2\n", ""])
def test_another_folder_is_refused_with_what_helps(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / TABLE).write_text(content)
    with pytest.raises(MammogramError, match="no CSV file of CBIS-DDSM") as caught:
        images(tmp_path, [])
    assert "four CSV files" in caught.value.remedy
    with pytest.raises(MammogramError, match="no such folder"):
        images(tmp_path / "absent", [])


CELLS = st.sampled_from(["", "N/A", "nan", "P_00001", "LEFT", "MLO", "2", "mass", "4", "BENIGN", LEFT_CC, "\n", "ä"])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_row_ends_as_a_lesion_or_as_a_defect(data: st.DataObject) -> None:
    """Whatever is in the cells and whichever files are missing, nothing gets lost in silence."""
    names = [f"{part}_P_0000{patient}_{side}_CC" for part in ("Mass-Training", "Mass-Test") for patient in (1, 2)
             for side in ("LEFT", "RIGHT")]  # fmt: skip
    rows = []
    for _ in range(data.draw(st.integers(1, 12))):
        entry = row(data.draw(st.sampled_from(names)), data.draw(st.integers(1, 3)))
        for column in data.draw(st.lists(st.sampled_from(sorted(entry)), max_size=2)):
            entry[column] = data.draw(CELLS)
        rows.append(entry)
    with TemporaryDirectory() as folder:
        source = Path(folder)
        table = write_csv(source / TABLE, rows)
        present = data.draw(
            st.sets(st.sampled_from(names + [f"{name}_{number}" for name in names for number in (1, 2)]))
        )
        for name in present:
            (source / name).mkdir()
            (source / name / "1-1.dcm").write_bytes(b"")
        defects: list[Defect] = []
        found = images(source, defects)
        lesions = sum(len(image.lesions) for image in found)
        refused = [
            defect
            for defect in defects
            if defect.file == table
            or "of this abnormality is not on disk" in defect.reason
            or "neither" in defect.reason
        ]
        assert lesions + len(refused) == len(rows)
        assert len({image.image for image in found}) == len(found)
        unlisted = {str(defect.file.parent.name) for defect in defects if "no row" in defect.reason}
        used = {image.image.parent.name for image in found}
        used |= {file.parent.name for image in found for lesion in image.lesions for file in lesion.masks}
        lost = {defect.file.name for defect in refused} & present  # an outline whose mammogram is missing
        assert unlisted | used | lost == present
        assert not unlisted & used


@pytest.fixture(scope="module")
def real(samples: Path) -> list[Abnormality]:
    defects: list[Defect] = []
    found = abnormalities(samples / "cbis-ddsm" / "csv", defects)
    assert defects == []
    return found


def test_the_real_tables_hold_what_the_archive_says(real: list[Abnormality]) -> None:
    parts = Counter((one.kind, one.split) for one in real)
    assert parts == {
        ("mass", "training"): 1318,
        ("mass", "test"): 378,
        ("calcification", "training"): 1546,
        ("calcification", "test"): 326,
    }
    assert len(real) == 3568
    assert len({one.patient for one in real}) == 1566
    per_image = Counter(one.image for one in real)
    assert len(per_image) == 3103
    assert sum(count > 1 for count in per_image.values()) == 293
    films: dict[tuple[str, str, str], set[str]] = {}
    for one in real:
        films.setdefault((one.patient, one.laterality, one.view), set()).add(one.image)
    assert sum(len(names) > 1 for names in films.values()) == 71


def test_31_patients_are_on_both_sides_of_the_merged_split_and_none_within_masses_or_calcifications(
    real: list[Abnormality],
) -> None:
    assert len(shared_patients(real)) == 31
    for kind in ("mass", "calcification"):
        assert shared_patients(one for one in real if one.kind == kind) == set()


def test_paper_b_takes_the_1318_masses_of_the_training_side(real: list[Abnormality]) -> None:
    chosen = protocols.paper_segmentation_images(listed_images(real))
    assert sum(len(image.lesions) for image in chosen) == 1318
    assert sum(len(image.lesions) for image in chosen) * protocols.PAPER_VARIANTS == 17134


def test_the_patient_protocol_keeps_the_31_patients_on_one_side(real: list[Abnormality]) -> None:
    listed = listed_images(real)
    assert len(listed) == 3103
    sections = protocols.patient_split(listed, seed=0)
    patients = [patient for section in sections.values() for patient in section]
    assert len(patients) == len(set(patients)) == 1566
    assert shared_patients(listed) <= set(sections["test"])


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
