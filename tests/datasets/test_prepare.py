"""Preparation as its user meets it: a data set in, datalists out, with masks, boxes, crops and samples."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from monai_mammo.cli import app
from monai_mammo.datasets import cdd_cesm, mini_mias
from monai_mammo.datasets.datalist import SECTIONS, load_datalist
from monai_mammo.datasets.lesions import place
from monai_mammo.datasets.prepare import prepare
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram, read_mask

from .conftest import entries, module_of

LISTS = ("segmentation_roi", "segmentation_whole", "segmentation_crops", "quality")


def test_every_list_has_the_same_patients_on_the_same_side(prepared):
    sections: dict[str, set[str]] = {}
    for name in LISTS:
        document = json.loads((prepared / name / "dataset.json").read_text())
        for section in SECTIONS:
            for entry in document[section]:
                sections.setdefault(entry["patient"], set()).add(section)
    assert len(sections) == 6
    assert all(len(where) == 1 for where in sections.values())


def test_the_bundles_can_load_every_section(prepared):
    for name in LISTS:
        assert all(load_datalist(prepared / name, section) for section in SECTIONS)


def test_a_lesion_has_its_mask_its_box_and_the_image_as_it_was_downloaded(prepared, cesm):
    lesions = entries(prepared, "segmentation_roi")
    assert lesions
    for entry in lesions:
        folder = prepared / "segmentation_roi"
        image, mask = folder / entry["image"], read_mask(folder / entry["label"])
        assert image.resolve().parent == cesm / "images"
        rows, columns = np.nonzero(mask)
        assert entry["box"] == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        outline = read_mask(cesm / "masks" / f"{image.stem}.png")
        assert (outline[mask > 0] == 1).all()
        assert {"patient", "laterality", "view", "birads", "kind", "pathology"} <= set(entry)


def test_a_whole_images_label_is_all_its_lesions_and_a_normal_ones_is_empty(prepared, cesm):
    empty = 0
    for entry in entries(prepared, "segmentation_whole"):
        label = read_mask(prepared / "segmentation_whole" / entry["label"])
        np.testing.assert_array_equal(label, read_mask(cesm / "masks" / f"{Path(entry['image']).stem}.png"))
        empty += not label.any()
    assert 0 < empty < len(entries(prepared, "segmentation_whole"))


def test_a_crop_leads_back_to_the_original_pixels(prepared, cesm):
    whole = {entry["label"].split("/")[-1]: entry for entry in entries(prepared, "segmentation_roi")}
    crops = entries(prepared, "segmentation_crops")
    assert len(crops) == len(whole)
    for entry in crops:
        folder, region, size = prepared / "segmentation_crops", entry["region"], entry["source_size"]
        pixels = read_mammogram(cesm / entry["source"]).pixels
        assert list(pixels.shape) == size
        cut = read_mammogram(folder / entry["image"]).pixels
        np.testing.assert_allclose(
            cut, pixels[region[0] : region[2], region[1] : region[3]], atol=1 / 65535, err_msg=entry["image"]
        )
        mask = read_mask(folder / entry["label"])
        original = whole[Path(entry["label"]).name.replace("_mask", "")]
        back = place(mask, region, size)
        np.testing.assert_array_equal(back, read_mask(prepared / "segmentation_roi" / original["label"]))
        corner = [region[0], region[1]] * 2
        assert [side + start for side, start in zip(entry["box"], corner, strict=True)] == original["box"]


def test_a_quality_sample_says_what_it_lacks(prepared, cesm):
    samples = entries(prepared, "quality")
    assert {entry["label"] for entry in samples} == {0, 1}
    for entry in samples:
        with Image.open(prepared / "quality" / entry["image"]) as picture:
            assert (picture.mode, picture.size) == ("L", (512, 512))
        assert (cesm / entry["source"]).is_file()
        assert {"patient", "laterality", "view", "cause", "side", "codes", "lost"} <= set(entry)
        assert "spacing" not in entry
        assert bool(entry["label"]) == bool(entry["cause"]) == (entry["lost"] > 0) == bool(entry["codes"])


def test_the_summary_names_no_folder_of_this_machine(prepared, cesm):
    text = (prepared / "prepared.json").read_text()
    summary = json.loads(text)
    assert str(cesm.parent) not in text
    assert (summary["data_set"], summary["source"]) == ("CDD-CESM", "cesm")
    assert set(summary["counts"]) == set(LISTS)
    assert sum(summary["counts"]["quality"].values()) == len(entries(prepared, "quality"))


def halved(image: Path) -> np.ndarray:
    return read_mammogram(image).pixels / 2


def test_an_image_that_only_its_module_can_read_is_written_without_loss(cesm, tmp_path):
    listed = [replace(image, read=halved) for image in cdd_cesm.images(cesm, []) if image.lesions]
    prepare(module_of(*listed), cesm, tmp_path / "out", task="segmentation", processes=0)
    for entry in entries(tmp_path / "out", "segmentation_whole"):
        image = tmp_path / "out" / "segmentation_whole" / entry["image"]
        assert image.resolve().parent == tmp_path / "out" / "images"
        (source,) = [one.image for one in listed if one.image.stem in image.stem]
        np.testing.assert_allclose(read_mammogram(image).pixels, halved(source), atol=1 / 65535)


def test_worker_processes_start_without_torch_which_takes_longer_to_load_than_images_to_prepare():
    program = "import sys, monai_mammo.datasets.work; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_the_paper_protocol_says_that_it_leaks_and_how_much(cesm, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["prepare", "cdd-cesm", str(cesm), str(out), "--protocol", "paper", "--processes", "0"]
    )
    assert result.exit_code == 1  # what the audit finds is in the status
    lesions = len({entry["original"] for entry in entries(out, "segmentation_paper")})
    originals = len({entry["original"] for entry in entries(out, "quality_paper")})
    assert len(entries(out, "segmentation_paper")) == 13 * lesions
    assert len(entries(out, "quality_paper")) == 2 * round(originals * 500 / 325)
    for name in ("segmentation_paper", "quality_paper"):
        document = json.loads((out / name / "dataset.json").read_text())
        assert document["description"].startswith("this protocol leaks: ")
        assert document["description"] in result.output.replace("\n", "")
        seen = {entry["original"] for entry in document["training"]}
        share = np.mean([entry["original"] in seen for entry in document["validation"]])
        assert document["leak"]["same_original"] == pytest.approx(share)
        for entry in document["training"]:
            assert (out / name / entry["image"]).is_file()


def test_real_samples_are_prepared(samples, tmp_path):
    source = tmp_path / "cesm"
    for name in ("images", "masks"):
        (source / name).mkdir(parents=True)
    rows = (samples / "cdd-cesm" / "index.csv").read_text().splitlines(keepends=True)
    chosen = [row for row in rows[1:] if ",DM," in row][:24]
    (source / "index.csv").write_text(rows[0] + "".join(chosen))
    for row in chosen:
        name = row.split(",")[0]
        shutil.copy(samples / "cdd-cesm" / "images" / name, source / "images" / name)
        mask = f"{Path(name).stem}.png"
        shutil.copy(samples / "cdd-cesm" / "masks" / mask, source / "masks" / mask)
    result = prepare(cdd_cesm, source, tmp_path / "out", processes=0)
    left_out = sum(defect.action == "left out of segmentation" for defect in result.defects)
    assert sum(result.counts["segmentation_whole"].values()) + left_out == 24
    cut_already = sum(defect.action == "left out of quality" for defect in result.defects)
    assert sum(result.counts["quality"].values()) == 2 * (24 - cut_already)


def test_real_films_without_outlines_are_prepared_for_quality_only(samples, tmp_path):
    source = tmp_path / "mias"
    source.mkdir()
    shutil.copy(samples / "mini-mias" / "Info.txt", source)
    for number in range(1, 13):
        shutil.copy(samples / "mini-mias" / f"mdb{number:03d}.png", source)
    with pytest.raises(MammogramError, match="no lesion is outlined"):
        prepare(mini_mias, source, tmp_path / "out", task="segmentation", processes=0)
    result = prepare(mini_mias, source, tmp_path / "out", processes=0)
    assert list(result.counts) == ["quality"]
    assert sum("does not exist" in defect.reason for defect in result.defects) == 322 - 12
