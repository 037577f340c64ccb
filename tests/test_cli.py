"""The command line as a user types it: what it leaves on disk, and how it ends."""

import shutil
import subprocess
import sys

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
        assert f"datalist: {tmp_path / 'out' / name / 'dataset.json'}" in result.output.splitlines()
    assert Image.open(tmp_path / "out" / "contact_sheet.png").width > 500


def test_too_few_phantoms_for_a_split_are_written_all_the_same(tmp_path):
    result = run("phantom", tmp_path, "--patients", 1)
    assert result.exit_code == 0
    assert "no datalists" in result.output
    assert len(list(tmp_path.rglob("*.dcm"))) == 4


def test_a_folder_is_named_as_it_is_written(tmp_path):
    """Rich would take [b] for a style and leave it out."""
    out = tmp_path / "a [b] ü"
    assert f"contact sheet: {out / 'contact_sheet.png'}" in run("phantom", out, "--patients", 1).output.splitlines()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("phantom", tmp_path / "file", "--patients", 1)
    assert isinstance(result.exception, SystemExit)
    assert "error:" in result.stderr
    assert str(tmp_path / "file") in result.stderr


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
    assert "note.dcm" in result.stderr
    assert result.stdout == "", "a script that reads results reads no errors"
    assert "Traceback" not in result.output
    result = run("predict", tmp_path, tmp_path / "note.dcm")
    assert result.exit_code == 1
    assert "is no bundle" in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mask", "none/mask.png"], "there is no folder"),
        (["--mask", "mask.dcm"], "Let it end in .png"),
        (["--picture", "picture"], "Let it end in .png or .jpg"),
        (["--mode", "foo"], "--mode"),
        (["--mode", "whole", "--point", "4", "5"], "whole mammograms take no point"),
        (["--mode", "roi"], "nothing marks a lesion. Give its --point ROW COLUMN, or use --mode whole"),
        (["--weights", "mammo_quality_classification.pt"], "not of this network"),
        (["--weights", "note.txt"], "holds no weights"),
        (["--set", "widht=8"], "widht: the bundle's configuration has no such value"),
        (["--set", "width"], "it sets nothing"),
        (["--set", "width=wide"], "cannot be set up with width=wide"),
    ],
)
def test_a_slip_is_named_before_anything_is_computed(root, weights, monkeypatch, options, said):
    monkeypatch.chdir(weights)
    (weights / "note.txt").write_text("no weights")
    monkeypatch.setattr("monai_mammo.predictor.Predictor.__call__", lambda *_, **__: pytest.fail("it was computed"))
    own = ["--weights", "mammo_tumor_segmentation.pt"]
    result = run("predict", root / "bundles" / "mammo_tumor_segmentation", "a.dcm", *own, *options)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert said in result.output


@pytest.mark.parametrize("option", [["--point", 3, 4], ["--mode", "roi"]])
def test_the_quality_bundle_takes_no_place(root, option):
    result = run("predict", root / "bundles" / "mammo_quality_classification", "a.dcm", *option)
    assert result.exit_code == 1
    assert "Leave out --mode and --point" in result.output


def test_a_network_of_another_width_is_named_by_its_values(root, phantoms, untrained, tmp_path):
    torch.save(untrained("mammo_quality_classification", width=8), tmp_path / "w.pt")
    image = sorted(phantoms.glob("phantom-*/*/L_CC.dcm"))[0]
    command = ["predict", root / "bundles" / "mammo_quality_classification", image, "--weights", tmp_path / "w.pt"]
    assert run(*command).exit_code == 1
    result = run(*command, "--set", "width=8")
    assert result.exit_code == 0, result.output
    assert "incomplete" in result.output


def test_a_folder_is_predicted_image_by_image_and_a_bad_one_does_not_stop_the_others(root, phantoms, weights, tmp_path):
    studies, masks = tmp_path / "studies", tmp_path / "studies" / "masks"
    for source in sorted(phantoms.glob("phantom-*/*/L_CC.dcm"))[:2]:
        (studies / source.parts[-3]).mkdir(parents=True)
        shutil.copy(source, studies / source.parts[-3])
    (studies / "a.dcm").write_text("not a mammogram")
    bundle = root / "bundles" / "mammo_quality_classification"
    command = ["predict", bundle, studies, "--weights", weights / f"{bundle.name}.pt", "--mask", masks]
    for _ in range(2):  # the masks of the first time are no mammograms of the second
        result = run(*command)
        assert result.exit_code == 1
        lines = result.output.splitlines()
        assert "a.dcm" in lines[0]
        assert ["incomplete" in line for line in lines].count(True) == 2
        assert lines[-1] == "error: 1 of 3 images failed"
        assert sorted(file.name for file in masks.rglob("*.png")) == ["L_CC.dcm.png"] * 2
    (studies / "a.dcm").unlink()
    (studies / "report.pdf").write_bytes(b"%PDF-1.7")
    assert run(*command).exit_code == 0


def test_results_do_not_overwrite_images_or_each_other(root, weights, tmp_path):
    bundle, weights = root / "bundles" / "mammo_quality_classification", weights / "mammo_quality_classification.pt"
    image = tmp_path / "a.png"
    Image.new("L", (300, 400)).save(image)
    before = image.read_bytes()
    for options in (["--mask", image], [tmp_path / "b.png", "--mask", tmp_path / "out", "--picture", tmp_path / "out"]):
        result = run("predict", bundle, image, *options, "--weights", weights)
        assert result.exit_code == 1
        assert "it would overwrite" in result.output
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ["simulate-active-learning", "data", "out", "--task", "quality"],
        ["benchmark", "quality", "--data", "data", "--out", "out"],
        ["benchmark", "report", "out"],
        ["border-probe", "data"],
    ],
)
def test_a_lacking_package_is_named_at_the_start(monkeypatch, command):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = run(*command)
    assert result.exit_code == 1
    assert "scikit-learn. pip install 'monai-mammo[train]'" in result.output


def test_nothing_is_said_of_decoders_that_nobody_asked_for(root, phantoms, weights):
    image = sorted(phantoms.glob("phantom-*/*/L_CC.dcm"))[0]
    bundle = root / "bundles" / "mammo_quality_classification"
    command = [sys.executable, "-m", "monai_mammo.cli", "predict", bundle, image]
    command += ["--weights", weights / f"{bundle.name}.pt"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd=root)
    assert "nvImageCodec" not in done.stdout + done.stderr


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
