"""Replayed annotation: what it labels, that it can be killed, and what its curves say."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from monai_mammo.active_learning import STRATEGIES
from monai_mammo.active_learning.curves import curves, over_seeds, summary, write_curves
from monai_mammo.active_learning.replay import Pool, Replay, Setup
from monai_mammo.active_learning.simulation import simulate, total_rounds
from monai_mammo.bundles import BUNDLES
from monai_mammo.cli import app
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.metrics import HEADLINE
from monai_mammo.networks import ResNet34PARBKAN

DATALISTS = {"segmentation": "segmentation_roi", "quality": "quality"}
TINY = {
    "segmentation": {"width": 4, "roi_size": [32, 32], "batch_size": 2, "device": "$torch.device('cpu')"},
    "quality": {"width": 4, "size": [32, 32], "batch_size": 2, "device": "$torch.device('cpu')"},
}


def setup_of(root: Path, phantoms: Path, task: str, **values: Any) -> Setup:
    given = {"start": 2, "add": 2, "steps": 2, "validations": 1, "overrides": TINY[task], **values}
    return Setup(str(phantoms / DATALISTS[task]), str(root / "bundles" / BUNDLES[task]), **given)


def without_time(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in json.loads(json.dumps(record)).items() if key != "seconds"}


@pytest.mark.parametrize("task", HEADLINE)
def test_cases_are_labelled_whole_round_by_round_and_the_test_patients_never(root, phantoms, tmp_path, task) -> None:
    setup = setup_of(root, phantoms, task)
    records = list(simulate(setup, tmp_path, ["random", "uncertainty+diversity"], seeds=1, rounds=2, processes=0))
    assert len(records) == total_rounds(2, 1, 2) == 3
    start, *others = records
    assert set(start["next"]) == set(STRATEGIES)
    patients = {image: candidate.patient for image, candidate in Pool(setup.dataset_dir).candidates.items()}
    for record in records:
        taken = {patients[image] for image in record["labelled"]}
        assert {image for image, patient in patients.items() if patient in taken} == set(record["labelled"])
        assert (record["images"], record["patients"]) == (len(record["labelled"]), len(taken))
        assert 0 <= record["metrics"][HEADLINE[task]] <= 1
    for record in others:
        assert record["labelled"][: start["images"]] == start["labelled"]
        assert record["labelled"][start["images"] :] == start["next"][record["strategy"]]


def test_a_side_without_a_view_is_an_unknown_view(tmp_path) -> None:
    about = ({"laterality": "L", "view": "CC"}, {"laterality": "L", "view": ""}, {"laterality": "R"}, {"view": "MLO"})
    entries = [{"image": f"{n}.png", "patient": str(n), **known} for n, known in enumerate(about)]
    for entry in entries:
        (tmp_path / entry["image"]).touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    assert [candidate.view for candidate in Pool(tmp_path).candidates.values()] == ["L CC", "", "", "MLO"]


def test_finished_rounds_are_not_computed_again_and_a_lost_one_comes_out_the_same(
    root, phantoms, tmp_path, monkeypatch
) -> None:
    setup = setup_of(root, phantoms, "segmentation", warm_start=False)
    plan = (tmp_path, ["random", "uncertainty"], 1, 2, 0)
    first = {record["strategy"]: without_time(record) for record in simulate(setup, *plan)}
    (tmp_path / "rounds" / "seed0-round1-uncertainty.json").unlink()
    computed: list[str] = []
    run = Replay.run
    monkeypatch.setattr(
        Replay, "run", lambda self, task, *rest: (computed.append(task.name), run(self, task, *rest))[1]
    )
    again = {record["strategy"]: without_time(record) for record in simulate(setup, *plan)}
    assert computed == ["seed0-round1-uncertainty"]
    assert again == first
    assert not list((tmp_path / "rounds").glob("*.pt"))


def test_a_killed_simulation_goes_on_where_it_was(root, phantoms, tmp_path) -> None:
    values = [part for key, value in TINY["segmentation"].items() for part in ("--set", f"{key}={value}")]
    options = ["--task", "segmentation", "--bundles", root / "bundles", "--strategies", "random", "--processes", 0]
    options += ["--seeds", 1, "--rounds", 2, "--start", 2, "--add", 2, "--steps", 2, "--validations", 1, *values]
    command = ["simulate-active-learning", phantoms / "segmentation_roi", tmp_path / "out", *options]
    command = [str(part) for part in command]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "monai_mammo.cli", *command], stdout=log, stderr=log)
        done = tmp_path / "out" / "rounds" / "seed0-round0-start.json"
        while not done.exists() and process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.kill()
        process.wait()
    assert done.exists(), (tmp_path / "log").read_text()
    kept = done.stat().st_mtime_ns
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert done.stat().st_mtime_ns == kept
    assert "whole patients at a time" in (tmp_path / "out" / "curve.md").read_text()
    assert {"curve.csv", "curve.json", "curve.png", "curve.md"} <= {file.name for file in (tmp_path / "out").iterdir()}
    other = CliRunner().invoke(app, [*command, "--steps", "3"])
    assert other.exit_code == 1
    assert "steps is 2 there, 3 here" in other.output


def test_a_warm_start_begins_with_the_former_rounds_weights(root, phantoms, tmp_path, monkeypatch) -> None:
    begun: list[str] = []
    train = Replay._train

    def watched(self: Replay, labelled: Any, seed: int, weights: Path, former: Path | None) -> None:
        begun.append(former.name if former and former.is_file() else "scratch")
        train(self, labelled, seed, weights, former)

    monkeypatch.setattr(Replay, "_train", watched)
    setup = setup_of(root, phantoms, "segmentation", warm_start=True)
    list(simulate(setup, tmp_path, ["random"], seeds=1, rounds=2, processes=0))
    assert begun == ["scratch", "seed0-round0-start.pt"]


def test_every_training_may_begin_with_a_model_that_learned_elsewhere(root, phantoms, tmp_path, monkeypatch) -> None:
    elsewhere = ResNet34PARBKAN(width=TINY["quality"]["width"])
    torch.save(elsewhere.state_dict(), tmp_path / "elsewhere.pt")
    learned: list[dict[str, torch.Tensor]] = []
    train = Replay._train

    def watched(self: Replay, labelled: Any, seed: int, weights: Path, former: Path | None) -> None:
        train(self, labelled, seed, weights, former)
        learned.append(torch.load(weights, weights_only=True))

    monkeypatch.setattr(Replay, "_train", watched)
    still = {**TINY["quality"], "learning_rate": 0.0}  # so that what a training begins with is what comes out
    setup = setup_of(root, phantoms, "quality", initial_weights=str(tmp_path / "elsewhere.pt"), overrides=still)
    list(simulate(setup, tmp_path / "out", ["random"], seeds=1, rounds=2, processes=0))
    assert len(learned) == 2
    for weights in learned:
        for name, value in elsewhere.named_parameters():
            assert torch.equal(weights[name], value)


def test_unusable_input_is_refused_in_one_line(root, tmp_path) -> None:
    arguments = ["simulate-active-learning", str(tmp_path / "none"), str(tmp_path / "out"), "--task", "quality"]
    result = CliRunner().invoke(app, [*arguments, "--bundles", str(root / "bundles")])
    assert result.exit_code == 1
    assert "there is no datalist here" in result.output
    for options, said in ((["--set", "widht=8"], "widht: the bundle's"), (["--set", "width"], "it sets nothing")):
        result = CliRunner().invoke(app, [*arguments, *options])
        assert result.exit_code == 1
        assert said in result.output
    result = CliRunner().invoke(app, [*arguments, "--strategies", "random,best"])
    assert result.exit_code == 1
    assert "there is no strategy best" in result.output


# Curves


def rounds(strategy: str, seed: int, *points: tuple[int, float]) -> list[dict[str, Any]]:
    """Rounds with these numbers of images and values; the first one is shared by all strategies."""
    common = {"seed": seed, "patients": 1, "seconds": 1.0}
    return [
        {**common, "strategy": "start" if n == 0 else strategy, "number": n, "images": images, "metrics": {"m": value}}
        for n, (images, value) in enumerate(points)
    ]


def test_the_area_and_the_labels_needed_are_those_of_the_mean_curves() -> None:
    records = rounds("random", 0, (10, 0.2), (20, 0.4), (30, 0.6)) + rounds(
        "uncertainty", 0, (10, 0.2), (20, 0.6), (30, 0.6)
    )
    records += rounds("random", 1, (10, 0.2), (20, 0.4), (30, 0.6)) + rounds(
        "uncertainty", 1, (10, 0.2), (20, 0.8), (30, 0.8)
    )
    found = curves(records, "m")
    assert found["random"].area.tolist() == pytest.approx([0.4, 0.4])
    assert found["uncertainty"].area.tolist() == pytest.approx([0.5, 0.65])
    said = summary(found, "m")["strategies"]["uncertainty"]
    assert said["area_less_random"]["value"] == pytest.approx(0.175)
    assert said["area_less_random"]["low"] < 0.1 < 0.25 < said["area_less_random"]["high"]  # two seeds are few
    assert said["images_to_reach_level"] == pytest.approx(10 + 10 * 0.4 / 0.5)
    assert said["share_of_random"]["value"] == pytest.approx(18 / 30)


@pytest.mark.parametrize(
    ("share", "shown", "goal"),
    [
        (0.7037, "70.4%", "not reached"),
        (0.70004, "70.004%", "not reached"),
        (0.7, "70%", "reached"),
        (0.6963, "70%", "reached"),
        (0.72, "72%", "not reached"),
    ],
)
def test_a_share_just_above_the_goal_is_not_rounded_down_to_it(tmp_path, share, shown, goal) -> None:
    images = round(share * 1e5)
    records = rounds("random", 0, (10, 0.2), (100_000, 0.6))
    records += rounds("uncertainty", 0, (10, 0.2), (images, 0.6), (100_000, 0.6))
    write_curves(records, "m", tmp_path)
    said = (tmp_path / "curve.md").read_text()
    assert f"| {shown} |" in said
    assert f"70% of random's labels for its last value: {goal}." in said


def test_the_interval_over_seeds_is_students() -> None:
    half = 4.302653 * 1.0 / 3**0.5  # t of 97.5 % at two degrees of freedom, deviation of 1, 2, 3 with n - 1
    assert over_seeds(np.array([1.0, 2.0, 3.0])) == {
        "value": 2.0,
        "low": pytest.approx(2 - half, abs=1e-5),
        "high": pytest.approx(2 + half, abs=1e-5),
    }


def test_a_strategy_is_compared_with_random_of_the_same_seed() -> None:
    records = []
    for seed, height in enumerate((0.2, 0.4, 0.7)):
        records += rounds("random", seed, (10, height), (20, height), (30, height))
        records += rounds("uncertainty", seed, (10, height), (20, height + 0.2), (30, height + 0.2))
    told = summary(curves(records, "m"), "m")["strategies"]["uncertainty"]
    assert list(told["area_less_random"].values()) == pytest.approx([0.15] * 3)
    assert list(told["last_less_random"].values()) == pytest.approx([0.2] * 3)


def test_seeds_that_never_reach_randoms_last_value_count_as_more_than_all_labels() -> None:
    records = []
    for seed, last in enumerate((0.9, 0.4)):
        records += rounds("random", seed, (10, 0.2), (20, 0.5)) + rounds("uncertainty", seed, (10, 0.2), (20, last))
    share = summary(curves(records, "m"), "m")["strategies"]["uncertainty"]["share_of_random"]
    assert share["value"] == pytest.approx((10 + 10 * 0.3 / 0.45) / 20)
    assert share["low"] == pytest.approx((10 + 10 * 0.3 / 0.7) / 20)
    assert share["high"] is None


def test_the_goal_is_reached_with_as_many_of_randoms_labels_or_fewer(tmp_path) -> None:
    records = rounds("random", 0, (10, 0.0), (20, 0.5), (30, 1.0))
    records += rounds("uncertainty", 0, (10, 0.0), (20, 1.0), (30, 1.0))
    records += rounds("diversity", 0, (10, 0.0), (20, 0.6), (30, 1.0))
    write_curves(records, "m", tmp_path)
    told = (tmp_path / "curve.md").read_text()
    goals = re.findall(r"^- (\w+):.* for its last value: (.*)\.$", told, re.MULTILINE)
    assert goals == [("diversity", "not reached"), ("uncertainty", "reached")]


def test_runs_of_cases_of_other_sizes_meet_on_the_images_that_all_of_them_have() -> None:
    records = rounds("random", 0, (4, 0.1), (8, 0.3), (13, 0.5)) + rounds("diversity", 0, (4, 0.1), (9, 0.2), (12, 0.5))
    found = curves(records, "m")
    assert found["random"].images.tolist() == [4, 8, 9, 12]
    assert found["random"].values[0].tolist() == pytest.approx([0.1, 0.3, 0.34, 0.46])
    assert found["diversity"].values[0].tolist() == pytest.approx([0.1, 0.18, 0.2, 0.5])


def test_a_seed_that_is_not_finished_for_every_strategy_is_left_out() -> None:
    whole = rounds("random", 0, (4, 0.1), (8, 0.3)) + rounds("diversity", 0, (4, 0.1), (8, 0.2))
    begun = rounds("random", 1, (4, 0.9), (8, 0.9))
    assert len(curves(whole + begun, "m")["random"].values) == 1
    assert curves(begun[:1], "m") == {}


@pytest.mark.parametrize(("gain", "verdict"), [(0.2, "better than random"), (-0.2, "worse"), (0.0, "no difference")])
def test_the_report_says_what_five_seeds_show(tmp_path, gain: float, verdict: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, (5, 3))
    records = []
    for seed, (a, b, c) in enumerate(noise):
        records += rounds("random", seed, (10, 0.2 + a), (20, 0.4 + b), (30, 0.6 + c))
        records += rounds("uncertainty", seed, (10, 0.2 + a), (20, 0.4 + c + gain), (30, 0.6 + b + gain))
    result = write_curves(records, "m", tmp_path)
    assert verdict in (tmp_path / "curve.md").read_text()
    assert json.loads((tmp_path / "curve.json").read_text()) == json.loads(json.dumps(result))
    with (tmp_path / "curve.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(records)
    assert Image.open(tmp_path / "curve.png").width > 500
    reached = result["strategies"]["uncertainty"]["images_to_reach_level"]
    assert (reached is None) == (gain < 0) or gain == 0


def test_one_seed_gives_a_curve_without_intervals_that_claims_nothing(tmp_path) -> None:
    records = rounds("random", 0, (4, 0.1), (8, 0.3)) + rounds("diversity", 0, (4, 0.1), (8, 0.9))
    result = write_curves(records, "m", tmp_path)
    assert result["strategies"]["diversity"]["area"]["low"] is None
    assert "one seed says nothing about chance" in (tmp_path / "curve.md").read_text()


def test_a_folder_is_of_one_setup_however_its_paths_are_written_and_of_none_before_it_began(
    root, phantoms, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    setup, plan = setup_of(root, phantoms, "quality"), ("out", ["random"], 1, 1, 0)
    with pytest.raises(MammogramError, match="it is no bundle"):
        list(simulate(replace(setup, bundle="none"), *plan))
    list(simulate(setup, *plan))
    bundle = os.path.relpath(setup.bundle)
    assert len(list(simulate(replace(setup, bundle=bundle), *plan))) == 1
    with pytest.raises(MammogramError, match="another setup"):
        list(simulate(replace(setup, steps=3), *plan))


def test_other_initial_weights_of_the_same_name_are_another_setup(root, phantoms, tmp_path) -> None:
    weights = tmp_path / "start.pt"
    setup = setup_of(root, phantoms, "quality", initial_weights=str(weights))
    plan = (tmp_path / "out", ["random"], 1, 1, 0)
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(ResNet34PARBKAN(2, 3, 2, width=4).state_dict(), weights)
        if seed == 0:
            assert len(list(simulate(setup, *plan))) == 1
            file = tmp_path / "out" / "setup.json"
            noted = json.loads(file.read_text())
            file.write_text(json.dumps({key: noted[key] for key in noted.keys() - {"initial_weights_sha256"}}))
            assert len(list(simulate(setup, *plan))) == 1, "an earlier version did not note it"
            file.write_text(json.dumps(noted))
    with pytest.raises(MammogramError, match=r"another setup.*initial_weights_sha256 is"):
        list(simulate(setup, *plan))


def test_the_datalists_errors_come_before_anything_is_written(root, tmp_path) -> None:
    setup = Setup(str(tmp_path / "none"), str(root / "bundles" / BUNDLES["quality"]), 1, 1, 1)
    with pytest.raises(MammogramError):
        next(iter(simulate(setup, tmp_path / "out", processes=0)))
    assert not (tmp_path / "out" / "setup.json").exists()


def test_what_is_published_follows_from_the_published_rounds(root) -> None:
    """docs/ACTIVE_LEARNING.md: of all twenty seeds, `uncertainty` against random."""
    with (root / "docs" / "active_learning_quality.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["strategy"] in ("start", "random", "uncertainty")]
    rounds = [
        {**row, "seed": int(row["seed"]), "images": int(row["images"]), "metrics": {"auc": float(row["auc_of_624"])}}
        for row in rows
    ]
    found = summary(curves(rounds, "auc"), "auc")
    told = found["strategies"]["uncertainty"]
    gain, share = (list(told[name].values()) for name in ("area_less_random", "share_of_random"))
    assert found["seeds"] == 20
    assert gain == pytest.approx([0.012, -0.002, 0.025], abs=5e-4)
    assert share[:2] == pytest.approx([0.72, 0.53], abs=5e-3)
    text = (root / "docs" / "ACTIVE_LEARNING.md").read_text()
    assert "+0.012 (-0.002 to 0.025), and 72 % (53 % to more than all)" in text
