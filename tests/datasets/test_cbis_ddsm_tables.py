"""CBIS-DDSM's four CSV files with their quirks: every row is a lesion or a line that says why not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_mammo.datasets import protocols
from monai_mammo.datasets.cbis_ddsm import Abnormality, abnormalities, images
from monai_mammo.datasets.sources import Defect, SourceImage, SourceLesion

from .cbis_ddsm_replica import CALC, LEFT_CC, LEFT_MLO, MASS, TABLE, reasons, row, write_csv


def test_masses_and_calcifications_are_read_from_their_own_columns(tmp_path: Path) -> None:
    calc = "Calc-Test_P_00001_RIGHT_MLO"
    write_csv(tmp_path / TABLE, [row(LEFT_CC)])
    write_csv(tmp_path / "a" / "Calc-Test-Description (1).csv", [row(calc, breast_density="1")], CALC)
    defects: list[Defect] = []
    mass, calcification = sorted(abnormalities(tmp_path, defects), key=lambda one: one.split, reverse=True)
    assert (mass.kind, mass.split, mass.density) == ("mass", "training", "3")
    assert (calcification.kind, calcification.split, calcification.density) == ("calcification", "test", "1")
    assert mass.patient == calcification.patient == "P_00001"
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


def on_both_sides(rows: list[Abnormality]) -> set[str]:
    return set.intersection(*({one.patient for one in rows if one.split == side} for side in ("training", "test")))


def as_images(rows: list[Abnormality]) -> list[SourceImage]:
    """The tables' images as if all were on disk."""
    by_image: dict[str, list[Abnormality]] = {}
    for one in rows:
        by_image.setdefault(one.image, []).append(one)
    return [
        SourceImage(
            Path(name),
            ones[0].patient,
            ones[0].laterality,
            ones[0].view,
            lesions=tuple(SourceLesion(kind=one.kind) for one in ones),
            split=ones[0].split,
        )
        for name, ones in by_image.items()
    ]


def test_31_patients_are_on_both_sides_of_the_merged_split_and_none_within_masses_or_calcifications(
    real: list[Abnormality],
) -> None:
    assert len(on_both_sides(real)) == 31
    for kind in ("mass", "calcification"):
        assert not on_both_sides([one for one in real if one.kind == kind])


def test_paper_b_takes_the_1318_masses_of_the_training_side(real: list[Abnormality]) -> None:
    chosen = protocols.paper_segmentation_images(as_images(real))
    assert sum(len(image.lesions) for image in chosen) == 1318
    assert sum(len(image.lesions) for image in chosen) * protocols.PAPER_VARIANTS == 17134


def test_the_patient_protocol_keeps_the_31_patients_on_one_side(real: list[Abnormality]) -> None:
    listed = as_images(real)
    assert len(listed) == 3103
    sections = protocols.patient_split(listed, seed=0)
    patients = [patient for section in sections.values() for patient in section]
    assert len(patients) == len(set(patients)) == 1566
    assert on_both_sides(real) <= set(sections["test"])
