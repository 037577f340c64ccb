"""The audit: content with clean data, one finding for one fault, a JSON of a stable form, an exit status."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner

from monai_mammo.cli import app
from monai_mammo.datasets.audit import VERSION, audit
from monai_mammo.datasets.audit_catalogue import CHECKS, SEVERITIES
from monai_mammo.datasets.audit_page import write_audit
from monai_mammo.dicom.errors import MammogramError

from .conftest import LISTS, Damage, found, only


def test_clean_phantoms_have_no_error_and_no_warning_but_balance(clean):
    result = audit(clean, processes=0)
    assert result.safe
    assert [f for f in result.findings if f.severity == "warning" and f.check != "balance"] == []
    assert {data.name for data in result.lists} == set(LISTS)


def test_every_image_without_a_lesion_shares_one_note(before):
    empty = [finding for finding in before["segmentation_whole"] if finding[0] == "mask-empty"]
    assert len(empty) == 1
    assert empty[0][1] == "note"


def test_a_finding_of_two_lists_is_named_once_with_both(clean, tmp_path):
    shutil.copytree(clean, tmp_path, dirs_exist_ok=True)
    damage = Damage(tmp_path, "segmentation_roi")
    damage.path(damage.entry()).write_bytes(b"not an image")
    (finding,) = [f for f in audit(tmp_path, processes=0).findings if f.severity == "error"]
    assert finding.check == "undecodable"
    assert set(finding.lists) == set(LISTS)


def test_a_patient_on_other_sides_in_another_list_is_a_warning(clean, tmp_path):
    shutil.copytree(clean, tmp_path, dirs_exist_ok=True)
    damage = Damage(tmp_path, "quality")
    damage.document["validation"], damage.document["test"] = damage.document["test"], damage.document["validation"]
    damage.save()
    result = audit(tmp_path, processes=0)
    assert {f.detail.split(" ", 1)[0] for f in result.findings if f.check == "patient-lists"} == {"2"}


def test_a_crop_is_not_judged_as_a_breast(clean, tmp_path):
    damage = Damage(only(clean, "segmentation_roi", tmp_path), "segmentation_roi")
    entry = damage.entry()
    row0, column0, row1, column1 = entry["box"]
    region = [row0 - 3, column0 - 3, row1 + 3, column1 + 3]
    rows, columns = slice(region[0], region[2]), slice(region[1], region[3])
    mask, pixels = damage.mask(entry)[rows, columns], damage.pixels(entry)[rows, columns]
    Image.fromarray(mask).save(damage.path(entry, "label"))
    damage.replace(entry, pixels)
    entry |= {"region": region, "box": [3, 3, row1 - row0 + 3, column1 - column0 + 3]}
    damage.save()
    assert audit(tmp_path, processes=0).safe


def test_a_users_own_datalist_is_audited(clean, tmp_path):
    image = next(clean.rglob("*.dcm"))
    shutil.copy(image, tmp_path / "mine.dcm")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "mine.dcm", "label": 1}]}))
    result = audit(tmp_path, processes=0)
    errors = [finding.detail for finding in result.findings if finding.severity == "error"]
    assert errors == ["1 entries", "validation has no entry", "training: no label 0"]
    assert [data.name for data in result.lists] == [tmp_path.name]


def test_a_placeholder_in_place_of_every_patient_id_makes_no_leak(clean, tmp_path):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    for file in tmp_path.rglob("*.dcm"):
        dataset = dcmread(file)
        dataset.PatientID = "DEID-1"
        dataset.save_as(file)
    assert "patient-header" not in {finding.check for finding in audit(damage.out, processes=0).findings}


@pytest.mark.parametrize(
    ("names", "equal"),
    [
        (("P1", "p1"), True),
        (("001", "1"), True),
        (("P 01", "P1 "), True),
        (("P10", "P1"), False),
        (("P100", "P10"), False),
        (("0", "1"), False),
    ],
)
def test_a_patient_written_in_two_ways_is_a_warning_where_no_header_tells(clean, tmp_path, names, equal):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    entries = damage.document["training"][0], damage.document["test"][0]
    for entry, name in zip(entries, names, strict=True):
        damage.replace(entry, damage.pixels(entry), f"{entry['patient']}.png")
        entry["patient"] = name
    damage.save()
    found = [finding for finding in audit(tmp_path, processes=0).findings if finding.check == "patient-spelling"]
    assert len(found) == equal
    for finding in found:
        assert finding.severity == "warning"
        assert finding.detail == f"{', '.join(sorted(names))} (images in training, test)"
        assert len(finding.files) == 2


def test_unreadable_datalists_are_named(tmp_path):
    with pytest.raises(MammogramError, match="no datalist"):
        audit(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    errors = [f for f in audit(tmp_path, processes=0).findings if f.severity == "error"]
    assert [f.check for f in errors] == ["datalist", "split-empty", "split-empty"]


@pytest.mark.parametrize("section", ["training", "validation"])
def test_a_quality_list_that_learns_from_or_is_chosen_by_one_class_is_an_error(clean, tmp_path, section):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    for entry in damage.document[section]:
        entry["label"] = 1
    damage.save()
    (error,) = [finding for finding in audit(tmp_path, processes=0).findings if finding.severity == "error"]
    assert (error.check, error.detail) == ("balance", f"{section}: no label 0")


def test_samples_that_prepare_made_lack_no_spacing(clean, tmp_path):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    for section in ("training", "validation", "test"):
        for entry in damage.document[section]:
            pixels = np.round(damage.pixels(entry) * 255).astype(np.uint8)
            Image.fromarray(pixels).save(damage.path(entry).with_suffix(".png"))
            entry["image"] = str(Path(entry["image"]).with_suffix(".png"))
            del entry["spacing"]
            entry["lost"] = 0.0
    damage.save()
    assert not [finding for finding in audit(tmp_path, processes=0).findings if finding.check == "spacing-unknown"]


def test_the_terminal_names_the_first_files_of_every_error(clean, tmp_path):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    gone = [damage.entry(number=number) for number in range(3)]
    for entry in gone:
        damage.path(entry).unlink()
    result = CliRunner().invoke(app, ["audit", str(tmp_path), "--processes", "0"])
    lines = [line.strip() for line in result.output.splitlines() if "the image does not exist" in line]
    assert lines == [f"{damage.relative(entry)}: the image does not exist" for entry in gone[:2]]
    assert "… and 1 more" in result.output


def test_what_the_preparation_left_out_is_in_the_audit(clean, tmp_path):
    only(clean, "quality", tmp_path)
    empty = {"reason": "the file is empty", "action": "left out", "part": "quality"}
    defects = [{"file": f"images/{name}.dcm", **empty} for name in ("a", "b", "a")]
    (tmp_path / "prepared.json").write_text(json.dumps({"source": "CBIS-DDSM", "defects": defects}))
    result = audit(tmp_path, processes=0)
    (finding,) = [f for f in result.findings if f.check == "prepared"]
    assert (finding.severity, finding.detail) == ("note", "the file is empty; left out")
    assert [result.name(file) for file in finding.files] == ["CBIS-DDSM/images/a.dcm", "CBIS-DDSM/images/b.dcm"]
    (tmp_path / "prepared.json").write_text("[]")
    assert [f.severity for f in audit(tmp_path, processes=0).findings if f.check == "datalist"] == ["warning"]


def test_the_json_has_a_stable_form(clean, tmp_path):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    damage.document["training"].append(dict(damage.entry()))
    damage.save()
    file, _, result = write_audit(tmp_path, processes=0)
    document = json.loads(file.read_text())
    assert list(document) == ["version", "safe", "counts", "prepared", "lists", "findings", "not_checked"]
    assert (document["version"], document["safe"]) == (VERSION, True) == (1, True)
    assert list(document["counts"]) == list(SEVERITIES)
    (quality,) = document["lists"]
    assert list(quality) == ["name", "file", "splits"]
    training = quality["splits"]["training"]
    assert list(training) == ["entries", "images", "patients", "groups"]
    assert sum(split["entries"] for split in quality["splits"].values()) == 17
    assert sum(training["groups"]["label"].values()) == training["entries"]
    keys = ["check", "severity", "title", "detail", "files", "lists", "explanation", "remedy"]
    assert all(list(finding) == keys and finding["check"] in CHECKS for finding in document["findings"])
    assert len(document["findings"]) == len(result.findings) > 0


def test_the_exit_status_says_whether_training_is_safe(clean, tmp_path):
    only(clean, "quality", tmp_path)
    run = CliRunner().invoke(app, ["audit", str(tmp_path), "--processes", "0"])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "audit.html").is_file()
    assert "audit.html" in run.output.replace("\n", "")
    damage = Damage(tmp_path, "quality")
    damage.entry()["label"] = 7
    damage.save()
    run = CliRunner().invoke(app, ["audit", str(tmp_path), "--processes", "0"])
    assert run.exit_code == 1
    assert CHECKS["label"].title in run.output
    assert CliRunner().invoke(app, ["audit", str(tmp_path / "nowhere")]).exit_code == 1


def test_the_view_of_a_sample_that_was_turned_or_cut_on_purpose_is_not_asked(clean, tmp_path):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    for lost in (0.0, 0.2):
        entry = damage.entry(label=0, view="MLO")
        damage.replace(entry, damage.pixels(entry), f"sample{lost}.png")
        entry |= {"view": "CC", "cause": "superior" if lost else "", "lost": lost}
    damage.save()
    assert "view" not in {finding.check for finding in audit(tmp_path, processes=0).findings}


@pytest.mark.slow
def test_processes_find_the_same(clean, before, tmp_path):
    only(clean, "segmentation_roi", tmp_path)
    assert found(audit(tmp_path, processes=2)) == before["segmentation_roi"]


@pytest.mark.slow
def test_real_films_are_clean(samples, tmp_path):
    films = sorted((samples / "mini-mias").glob("mdb*.png"))[:40]
    if not films:
        pytest.skip("no mini-MIAS among the samples")
    entries = [
        {
            "image": str(film),
            "label": 0,
            "patient": f"{(int(film.stem[3:]) + 1) // 2}",
            "laterality": "LR"[int(film.stem[3:]) % 2],
            "spacing": [0.2, 0.2],
        }
        for film in films
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    result = audit(tmp_path)
    assert {f.check for f in result.findings if f.severity != "note"} == {
        "balance",
        "split-empty",
    }  # one class, one list
    assert Path(films[0]) in result.pictures
