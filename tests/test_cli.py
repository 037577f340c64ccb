"""The command line as a user types it: what it leaves on disk, and how it ends."""

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from monai_mammo.cli import app

BUNDLES = ("mammo_quality_classification", "mammo_tumor_segmentation")


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def weights(untrained, tmp_path_factory):
    """Untrained weights of each bundle's default network."""
    folder = tmp_path_factory.mktemp("weights")
    for name in BUNDLES:
        torch.save(untrained(name), folder / f"{name}.pt")
    return folder


def test_phantoms_come_with_datalists_and_a_contact_sheet(tmp_path):
    result = run("phantom", tmp_path / "out", "--patients", 3, "--seed", 4)
    assert result.exit_code == 0
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 12
    for name in ("segmentation_roi", "segmentation_whole", "quality"):
        assert (tmp_path / "out" / name / "dataset.json").is_file()
    assert Image.open(tmp_path / "out" / "contact_sheet.png").width > 500


def test_too_few_phantoms_for_a_split_are_written_all_the_same(tmp_path):
    result = run("phantom", tmp_path, "--patients", 1)
    assert result.exit_code == 0
    assert "no datalists" in result.output
    assert len(list(tmp_path.rglob("*.dcm"))) == 4


@pytest.mark.parametrize("bundle", BUNDLES)
def test_predict_tells_and_shows_its_result(root, phantoms, weights, tmp_path, bundle):
    image = sorted(phantoms.glob("phantom-*/*/L_CC.dcm"))[0]
    files = {name: tmp_path / f"{name}.png" for name in ("mask", "picture")}
    options = [part for name, file in files.items() for part in (f"--{name}", file)]
    result = run("predict", root / "bundles" / bundle, image, "--weights", weights / f"{bundle}.pt", *options)
    assert result.exit_code == 0, result.output
    assert ("complete" if "quality" in bundle else "pixels marked") in result.output
    assert Image.open(files["mask"]).size == (256, 320)
    assert Image.open(files["picture"]).height == 600


def test_errors_are_one_line_that_says_what_to_do(root, weights, tmp_path):
    (tmp_path / "note.dcm").write_text("not a mammogram")
    bundle = root / "bundles" / "mammo_quality_classification"
    result = run("predict", bundle, tmp_path / "note.dcm", "--weights", weights / f"{bundle.name}.pt")
    assert result.exit_code == 1
    assert "note.dcm" in result.output
    assert "Traceback" not in result.output
    result = run("predict", tmp_path, tmp_path / "note.dcm")
    assert result.exit_code == 1
    assert "is no bundle" in result.output


@pytest.mark.parametrize("data_set", ["cdd-cesm", "mini-mias", "cbis-ddsm", "ddsm", "inbreast", "folder"])
def test_an_empty_folder_is_no_data_set(data_set, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("prepare", data_set, tmp_path / "empty", tmp_path / "out")
    assert result.exit_code == 1
    assert "empty" in result.output
    assert "Traceback" not in result.output


def test_a_data_set_without_outlines_is_not_for_segmentation(samples, tmp_path):
    result = run("prepare", "mini-mias", samples / "mini-mias", tmp_path, "--task", "segmentation")
    assert result.exit_code == 1
