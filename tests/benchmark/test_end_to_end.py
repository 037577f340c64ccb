"""Two systems, one seed, one epoch, from the command line to the report: every part real, only small."""

import json

import pytest
from typer.testing import CliRunner

from monai_mammo.cli import app

pytestmark = pytest.mark.slow

TINY = {"network_def#width": 4, "size": [64, 64], "batch_size": 8, "num_workers": 0, "amp": False, "resamples": 20}


def run(*arguments: object):
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def test_two_systems_from_the_command_line_to_the_report(phantoms, tmp_path):
    out = tmp_path / "out"
    values = [part for name, value in TINY.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    options = ["--systems", "resnet34,resnet34_parb_kan", "--seeds", 3, "--epochs", 1, *values]
    done = run("quality", "--data", phantoms, "--out", out, *options)
    assert done.exit_code == 0, done.output
    assert "resnet34_parb_kan, seed 3: done" in done.output
    for system in ("resnet34", "resnet34_parb_kan"):
        folder = out / system / "seed_3"
        assert {"config.yaml", "train.log", "curves.csv", "model.pt", "run.json"} <= {
            file.name for file in folder.iterdir()
        }
        assert "- > seed: 3" not in (folder / "train.log").read_text()  # values come from config.yaml, not from options
        assert json.loads((folder / "tests" / "test" / "metrics.json").read_text())["images"] == 4
    measured = json.loads((out / "costs.json").read_text())["systems"]
    assert measured["resnet34"]["parameters"] < measured["resnet34_parb_kan"]["parameters"]
    again = run("quality", "--data", phantoms, "--out", out, *options)
    assert again.exit_code == 0
    assert "training" not in again.output

    reported = run("report", out, "--resamples", 100)
    assert reported.exit_code == 0, reported.output
    text = (out / "BENCHMARKS.md").read_text()
    assert "2 of 2 trainings are done" in text
    assert "| ResNet34 + PARB + KAN | 1 of 1 |" in text
    assert "Not run: 6 patients are too few" in text  # the probe of the borders


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--systems", "resnet43"], "it is no system for quality"),
        (["--set", "epochs"], "it sets nothing"),
        (["--set", "epohcs=3"], "no such value"),
        (["--seeds", "0,a"], "it is no whole number"),
        (["--data", "nowhere"], "there is no datalist here"),
    ],
)
def test_what_cannot_be_run_is_one_line(phantoms, tmp_path, options, told):
    given = ["--data", phantoms, "--out", tmp_path / "out", *options]
    refused = run("quality", *given)
    assert refused.exit_code == 1
    assert told in " ".join(refused.output.split())
    assert "Traceback" not in refused.output


def test_every_system_is_listed():
    listed = run("systems")
    assert listed.exit_code == 0
    assert "respam_unet" in listed.output
