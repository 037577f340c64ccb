"""A hospital's own table as a datalist: no patient on two sides, and every slip named by its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from monai_mammo.cli import app
from monai_mammo.datasets.datalist import SECTIONS, load_datalist, sections_of_patients
from monai_mammo.datasets.table import datalist_of_table
from monai_mammo.dicom.errors import MammogramError

PATIENTS = 12


def written(folder: Path, rows: list[str], encoding: str = "utf-8") -> Path:
    """The table, beside an image and a mask of each patient."""
    for number in range(PATIENTS):
        for kind in ("image", "mask"):
            picture = np.random.default_rng(number).integers(0, 255, (40, 30), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{kind}, {number}.png")
    table = folder / "Tabelle.csv"
    table.write_text("\n".join(rows) + "\n", encoding=encoding)
    return table


def sections(out: Path, task: str) -> dict[str, list[dict]]:
    return {section: load_datalist(out, section, task) for section in SECTIONS}  # type: ignore[arg-type]


def test_a_quality_table_becomes_a_list_that_trains_split_by_patient(tmp_path: Path) -> None:
    """As a spreadsheet saves it: semicolons, a mark at the start, words for labels, commas in names."""
    verdicts = ("complete", "Incomplete", "0", "1")
    rows = [f"image, {number}.png;P{number // 2};{verdicts[number % 4]};dense" for number in range(PATIENTS)]
    table = written(tmp_path, ["image;patient;label;density", *rows], "utf-8-sig")
    datalist_of_table("quality", table, tmp_path / "out")
    found = sections(tmp_path / "out", "quality")
    patients = [{entry["patient"] for entry in entries} for entries in found.values()]
    assert all(patients)
    assert sum(map(len, patients)) == len(set.union(*patients)) == PATIENTS // 2
    entries = sorted((entry for part in found.values() for entry in part), key=lambda entry: entry["image"])
    by_name = {Path(entry["image"]).name: entry for entry in entries}
    assert [by_name[f"image, {number}.png"]["label"] for number in range(PATIENTS)] == [0, 1, 0, 1] * 3
    assert by_name["image, 0.png"]["density"] == "dense"


@pytest.mark.parametrize("every", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_a_small_table_has_both_labels_in_every_section(tmp_path: Path, every: int, seed: int) -> None:
    rows = [f'"image, {number}.png",{int(number % every == 0)},P{number}' for number in range(PATIENTS)]
    datalist_of_table("quality", written(tmp_path, ["image,label,patient", *rows]), tmp_path / "out", seed)
    found = sections(tmp_path / "out", "quality")
    assert all({entry["label"] for entry in entries} == {0, 1} for entries in found.values())
    assert sum(map(len, found.values())) == PATIENTS


def test_a_section_that_the_table_gives_is_kept(tmp_path: Path) -> None:
    given = [SECTIONS[number % 3] for number in range(PATIENTS)]
    rows = [f'"image, {number}.png","mask, {number}.png",P{number},{given[number]}' for number in range(PATIENTS)]
    datalist_of_table("segmentation", written(tmp_path, ["image,label,patient,section", *rows]), tmp_path / "out")
    for section, entries in sections(tmp_path / "out", "segmentation").items():
        assert [given[int(entry["patient"][1:])] for entry in entries] == [section] * (PATIENTS // 3)


def test_what_excel_leaves_about_a_table_is_passed_over(tmp_path: Path) -> None:
    rows = [f"image, {number}.png;{number % 2};P{number}" for number in range(PATIENTS)]
    lines = ["sep=;", "image;label;patient", *rows[:3], ";;", "", *rows[3:], " ;;", ";;"]
    datalist_of_table("quality", written(tmp_path, lines), tmp_path / "out")
    assert sum(map(len, sections(tmp_path / "out", "quality").values())) == PATIENTS
    bad = written(tmp_path, [*lines, "image, 0.png;1;"])
    with pytest.raises(MammogramError, match=f"line {len(lines) + 1} has no patient"):
        datalist_of_table("quality", bad, tmp_path / "out")


def test_boxes_and_spacings_become_numbers(tmp_path: Path) -> None:
    """As text they would make no distance in millimetres, and no crop."""
    cells = ('"[5, 4, 20, 16]","[0.07, 0.1]"', '"5 4 20 16",0.07 0.1', "5 4.5 20 16,0.07  0.1", ",")
    rows = [f'"image, {number}.png","mask, {number}.png",P{number},{cells[number % 4]}' for number in range(PATIENTS)]
    table = written(tmp_path, ["image,label,patient,box,spacing", *rows])
    datalist_of_table("segmentation", table, tmp_path / "out")
    entries = [entry for part in sections(tmp_path / "out", "segmentation").values() for entry in part]
    of_patient = {int(entry["patient"][1:]): entry for entry in entries}
    assert [of_patient[number].get("box") for number in range(4)] == [[5, 4, 20, 16]] * 2 + [[5, 4.5, 20, 16], None]
    assert [of_patient[number].get("spacing") for number in range(4)] == [[0.07, 0.1]] * 3 + [None]


@pytest.mark.parametrize(
    ("box", "spacing", "reason"),
    [
        ("5 4 20", "", r"line 3 has the box 5 4 20\. Write row0 column0 row1 column1"),
        ("5 4 20 x", "", "line 3 has the box 5 4 20 x"),
        ("5 4 5 9", "", "line 3 has the box 5 4 5 9"),
        ("5 4 nan 9", "", "line 3 has the box 5 4 nan 9"),
        ("", "0,07 0,07", r"line 3 has the spacing 0,07 0,07\. Write row column"),
        ("", "0.07", r"line 3 has the spacing 0\.07\."),
        ("", "0 0.07", r"line 3 has the spacing 0 0\.07"),
    ],
)
def test_a_box_or_a_spacing_that_is_none_is_named(tmp_path: Path, box: str, spacing: str, reason: str) -> None:
    rows = ["image, 0.png;mask, 0.png;P0;;", f"image, 1.png;mask, 1.png;P1;{box};{spacing}"]
    table = written(tmp_path, ["image;label;patient;box;spacing", *rows])
    with pytest.raises(MammogramError, match=reason):
        datalist_of_table("segmentation", table, tmp_path / "out")


def test_a_longer_table_moves_nobody_and_deals_the_new_patients(tmp_path: Path) -> None:
    """Who was trained on must not be tested on after an update of the table."""
    rows = [f'"image, {number}.png",{number % 2},P{number * 7 % PATIENTS}' for number in range(PATIENTS)]
    head, out = "image,label,patient", tmp_path / "out"
    file = datalist_of_table("quality", written(tmp_path, [head, *rows[:8]]), out)
    before = sections_of_patients([file])
    after = sections_of_patients([datalist_of_table("quality", written(tmp_path, [head, *rows]), out, seed=3)])
    assert before.items() <= after.items()
    assert len(after) == PATIENTS


def test_patients_who_were_missing_for_a_while_come_back_to_their_section(tmp_path: Path) -> None:
    rows = [f'"image, {number}.png",{number % 2},P{number}' for number in range(PATIENTS)]
    head, out = "image,label,patient", tmp_path / "out"
    before = sections_of_patients([datalist_of_table("quality", written(tmp_path, [head, *rows]), out)])
    fewer = [row for number, row in enumerate(rows) if number % 3]
    for seed in (1, 2):  # the second table finds them in no section any more
        datalist_of_table("quality", written(tmp_path, [head, *fewer]), out, seed)
    assert {entry["patient"] for part in sections(out, "quality").values() for entry in part} < before.keys()
    datalist_of_table("quality", written(tmp_path, [head, *rows]), out, seed=3)
    again = {entry["patient"]: section for section, part in sections(out, "quality").items() for entry in part}
    assert again == before
    assert "former_patients" not in (out / "dataset.json").read_text()
    decided = [f"{row},training" for row in fewer]
    datalist_of_table("quality", written(tmp_path, [f"{head},section", *decided]), out)
    missing = {f"P{number}" for number in range(0, PATIENTS, 3)}
    known = sections_of_patients([out / "dataset.json"])
    assert {patient: known[patient] for patient in missing} == {patient: before[patient] for patient in missing}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "has no column image, label, patient"),
        (["image\tlabel\tfile"], "has no column patient; its columns are image, label, file"),
        (["image\tlabel\tpatient"], "no row below its header"),
        (["image\tlabel\tpatient", "image, 0.png\t0\tA", "image, 1.png\t\tA"], "line 3 has no label"),
        (["image\tlabel\tpatient", "image, 0.png\tgood\tA"], "line 2 has the label good"),
        (["image\tlabel\tpatient", "gone.png\t0\tA"], r"line 2: gone\.png does not exist"),
        (["image\tlabel\tpatient", "image, 0.png\t0\tA"], "at least 3 patients"),
        (["image\tlabel\tpatient\tsection", "image, 0.png\t0\tA\ttrain"], "the section 'train'"),
        (
            ["image\tlabel\tpatient\tsection", "image, 0.png\t0\tA\ttest", "image, 1.png\t1\tA\ttraining"],
            "in two sections",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, rows: list[str], reason: str) -> None:
    with pytest.raises(MammogramError, match=reason):
        datalist_of_table("quality", written(tmp_path, rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_normal_image_takes_an_empty_mask_and_a_table_without_one_says_so(tmp_path: Path) -> None:
    rows = [f'"image, {number}.png","mask, {number}.png",P{number}' for number in range(1, PATIENTS)]
    head = "image,label,patient"
    table = written(tmp_path, [head, '"image, 0.png",,P0', *rows])
    with pytest.raises(MammogramError, match=r"line 2 has no label.*a mask without any pixel set"):
        datalist_of_table("segmentation", table, tmp_path / "out")
    table = written(tmp_path, [head, '"image, 0.png","empty.png",P0', *rows])
    Image.new("L", (30, 40)).save(tmp_path / "empty.png")
    datalist_of_table("segmentation", table, tmp_path / "out")
    found = sections(tmp_path / "out", "segmentation")
    assert "empty.png" in {Path(entry["label"]).name for entries in found.values() for entry in entries}


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    table = written(tmp_path, ["image,label,patient", "Müller.png,0,A"], "latin-1")
    with pytest.raises(MammogramError, match=r"cannot be read as a table.*UTF-8"):
        datalist_of_table("quality", table, tmp_path / "out")


def test_the_command_ends_with_the_audit_and_its_errors_are_in_the_status(tmp_path: Path) -> None:
    """So that `monai-mammo datalist ... && <training>` stops: here one patient alone is incomplete."""
    rows = [f'"image, {number}.png",{int(number == 0)},P{number}' for number in range(PATIENTS)]
    table = written(tmp_path, ["image,label,patient", *rows])
    result = CliRunner().invoke(app, ["datalist", "quality", str(table), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "validation: no label 1" in result.output
    assert (tmp_path / "out" / "audit.html").is_file()


def test_a_table_that_is_not_there_is_not_called_badly_encoded(tmp_path: Path) -> None:
    with pytest.raises(MammogramError, match="there is no such file"):
        datalist_of_table("quality", tmp_path / "gone.csv", tmp_path / "out")
