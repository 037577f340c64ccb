"""What a killed or resumed training leaves behind."""

import json
import os
import sys
import threading
from contextlib import nullcontext
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai import bundle as monai_bundle

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.training import (
    BestWeights,
    checkpoint_to_resume,
    latest_checkpoint,
    name_cause_last,
    refuse_mistyped_values,
)


def evaluator_with(metric: float) -> Engine:
    engine = Engine(lambda *_: None)
    engine.state.metrics = {"dice": metric}
    engine.state.key_metric_name = "dice"
    return engine


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Sets the words behind `python -m monai.bundle`; CONFIG stands for a small configuration."""
    config = tmp_path / "train.yaml"
    config.write_text(
        "bundle_root: .\nepochs: 50\nwidth: 16\ninitial_weights: ''\nresume: false\namp: $torch.cuda.is_available()\n"
        "train: {inferer: {_target_: Inferer, amp: '@amp'}, loader: {_target_: DataLoader, shuffle: true}}\n"
    )
    monai = str(Path(monai_bundle.__file__).with_name("__main__.py"))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # is put back behind the test

    def given(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", [monai, *(word.replace("CONFIG", str(config)) for word in words)])

    return given


def test_the_newest_whole_checkpoint_counts_by_number_not_by_name(tmp_path):
    for epoch in (9, 10, 11):
        torch.save({"epoch": torch.tensor(epoch)}, tmp_path / f"checkpoint_epoch={epoch}.pt")
    (tmp_path / "checkpoint_epoch=11.pt").write_bytes(b"torn")
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=10.pt")
    assert latest_checkpoint(tmp_path / "nowhere") == ""


def test_a_longer_run_that_was_in_the_folder_before_is_not_gone_on_with(tmp_path):
    for age, epoch in ((30, 3), (20, 4), (10, 1)):
        file = tmp_path / f"checkpoint_epoch={epoch}.pt"
        torch.save({"epoch": torch.tensor(epoch)}, file)
        os.utime(file, ns=(0, 10**18 - age))
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=1.pt")


def test_it_is_said_when_later_epochs_in_the_folder_are_passed_over(tmp_path, caplog):
    """As of a folder that was copied, whose files' times say nothing."""
    for age, epoch in ((20, 2), (10, 1)):
        file = tmp_path / f"checkpoint_epoch={epoch}.pt"
        torch.save({}, file)
        os.utime(file, ns=(0, 10**18 - age))
    assert checkpoint_to_resume(tmp_path, 5) == str(tmp_path / "checkpoint_epoch=1.pt")
    assert caplog.messages == ["going on from epoch 1: checkpoint_epoch=2.pt here is older, or torn"]
    caplog.clear()
    os.utime(tmp_path / "checkpoint_epoch=2.pt", ns=(0, 10**18))
    checkpoint_to_resume(tmp_path, 5)
    assert caplog.messages == []


def test_a_run_is_gone_on_with_to_no_fewer_epochs_than_it_has_had(tmp_path):
    torch.save({}, tmp_path / "checkpoint_epoch=17.pt")
    for epochs in (17, 20):
        assert checkpoint_to_resume(tmp_path, epochs) == str(tmp_path / "checkpoint_epoch=17.pt")
    with pytest.raises(MammogramError, match=r"has had 17 epochs already.*10.*Give --epochs above 17"):
        checkpoint_to_resume(tmp_path, 10)


def test_it_is_said_when_there_is_nothing_to_resume_from(tmp_path, caplog):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "checkpoint_epoch=1.pt").write_bytes(b"torn")
    for folder in (tmp_path / "nowhere", tmp_path / "torn"):
        caplog.clear()
        assert checkpoint_to_resume(folder, 10) == ""
        (message,) = caplog.messages
        assert message == f"no whole checkpoint to resume from in {folder}: the training begins anew"


def test_the_best_weights_are_kept_and_of_equal_ones_the_last(tmp_path):
    network = torch.nn.Linear(1, 1)
    keeper = BestWeights(network, tmp_path / "models" / "model.pt")
    for metric, weight in ((0.5, 1.0), (0.4, 2.0), (float("nan"), 3.0), (0.6, 5.0), (0.6, 4.0), (0.5, 6.0)):
        torch.nn.init.constant_(network.weight, weight)
        keeper(evaluator_with(metric))
    assert torch.load(tmp_path / "models" / "model.pt", weights_only=True)["weight"].item() == 4.0
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["model.pt"]


def test_a_run_whose_validation_can_choose_nothing_stops_and_says_so(tmp_path):
    """With one class there is no AUC; what lies in the bundle already must not pass for the run's own."""
    shipped = tmp_path / "model.pt"
    shipped.write_bytes(b"shipped")
    with pytest.raises(MammogramError, match=r"model\.pt: no weights are kept here: the validation's dice is not a"):
        BestWeights(torch.nn.Linear(1, 1), shipped)(evaluator_with(float("nan")))
    assert shipped.read_bytes() == b"shipped"


def test_a_resumed_run_remembers_what_it_has_to_beat(tmp_path):
    first = BestWeights(torch.nn.Linear(1, 1), tmp_path / "model.pt")
    first(evaluator_with(0.9))
    kept = (tmp_path / "model.pt").read_bytes()
    second = BestWeights(torch.nn.Linear(1, 1), tmp_path / "model.pt")
    second.load_state_dict(first.state_dict())
    second(evaluator_with(0.8))
    assert (tmp_path / "model.pt").read_bytes() == kept


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        (MammogramError("gone.dcm", "it does not exist", "Restore it"), "gone.dcm: it does not exist. Restore it."),
        (OSError(28, "No space left on device", "full/a.png"), "full/a.png: No space left on device"),
        (
            RuntimeError("Error(s) in loading state_dict for ResPAMUNet:\n\tsize mismatch for conv1.weight: ..."),
            "weights: these weights are not of this network (ResPAMUNet). "
            "Give the values that it was trained with (width, stem, head, ...).",
        ),
        (ValueError("100 x 100 pixels: give multiples of 16"), "ValueError: 100 x 100 pixels: give multiples of 16"),
    ],
)
def test_the_cause_is_the_last_line(command, capsys, cause, line):
    command("run", "training")
    name_cause_last()
    error = RuntimeError("Failed to evaluate ConfigExpression")
    error.__cause__ = cause
    sys.excepthook(RuntimeError, error, None)
    assert capsys.readouterr().err.strip().endswith(f"error: {line}")
    with pytest.raises(RuntimeError):
        raise error


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run", "training"], "interrupted; the training goes on with --resume True"),
        (["run", "evaluating", "--section", "training"], "interrupted"),
        (["run", "--config_file", "configs/inference.yaml"], "interrupted"),
    ],
)
def test_of_an_interruption_one_line_says_how_to_go_on_if_there_is_a_way(command, capsys, words, line):
    command(*words)
    name_cause_last()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == f"\nerror: {line}\n"


def test_a_caller_from_python_keeps_its_own_end(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", own := lambda *_: None)
    name_cause_last()
    assert sys.excepthook is own


def test_a_run_that_fails_ends_after_the_threads_that_still_read_images(command):
    """Else torch aborts the process in the middle of them, behind the line that says why."""
    command("run", "training")
    name_cause_last()
    go_on, done = threading.Event(), []
    reading = ThreadPool(1)
    reading.apply_async(lambda: done.append(go_on.wait(10)))
    reading.close()
    threading.Timer(0.2, go_on.set).start()
    sys.excepthook(RuntimeError, RuntimeError("a bad image"), None)
    assert done == [True]


@pytest.mark.parametrize(
    ("words", "unknown"),
    [
        (["--epochs", "5", "--bundle_root=.", "--train#loader#batch_size", "2"], ""),
        (["--epoch", "5"], "epoch"),
        (["-epoch", "5"], "epoch"),
        (["--widht=64"], "widht"),
        (["--train::loader", "x", "--trian::loader", "x"], "trian::loader"),
    ],
)
def test_a_mistyped_value_on_the_command_line_is_named(command, words, unknown):
    command("run", "training", "--config_file", "['CONFIG']", *words)
    with pytest.raises(MammogramError, match=f"^{unknown}: .*no such value") if unknown else nullcontext():
        refuse_mistyped_values()


@pytest.mark.parametrize("name", ["resume", "amp", "train#loader#shuffle", "train#inferer#amp", "train#loader#new"])
def test_a_switch_in_the_configs_own_spelling_is_refused_as_it_would_be_true(command, name):
    for value in ("True", "False", "0"):
        command("run", "training", "--config_file", "CONFIG", f"--{name}", value)
        refuse_mistyped_values()
    for value in ("false", "true", "no", "OFF", "'False'"):
        command("run", "training", "--config_file", "CONFIG", f"--{name}", value)
        with pytest.raises(MammogramError, match=rf"^{name}: '.*' is a text.*Write True or False\.$"):
            refuse_mistyped_values()


def test_a_text_that_reads_like_a_switch_may_stand_where_texts_do(command):
    command("run", "training", "--config_file", "CONFIG", "--bundle_root", "on", "--initial_weights", "no")
    refuse_mistyped_values()


@pytest.mark.parametrize("config", [["--config_file", "CONFIG"], ["--config-file", "CONFIG"]])
def test_a_workflow_keeps_its_own_options(command, config):
    own = ["--workflow_type", "train", "--run_id", "training", "--properties_path", "p.json"]
    command("run_workflow", "monai.bundle.ConfigWorkflow", *config, *own, "--epochs", "5")
    refuse_mistyped_values()


def test_a_file_of_arguments_is_read_as_the_command_line_is(command, tmp_path):
    arguments = tmp_path / "args.json"
    for held, slip in (({"epochs": 5}, "epoch"), ({"epoch": 5}, "epoch"), ({"resume": "false"}, "resume")):
        arguments.write_text(json.dumps({"config_file": str(tmp_path / "train.yaml"), **held}))
        command("run", "training", "--args_file", str(arguments), "--width", "8")
        with pytest.raises(MammogramError, match=rf"^{slip}: ") if slip in held else nullcontext():
            refuse_mistyped_values()


def test_only_monais_command_line_is_looked_at(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epoch", "5"])
    refuse_mistyped_values()
