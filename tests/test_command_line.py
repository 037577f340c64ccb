"""What a bundle says on MONAI's command line: of a value that is mistyped, and of why it failed."""

import json
import sys
import threading
from contextlib import nullcontext
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from monai import bundle as monai_bundle

from monai_mammo.command_line import guard_command_line
from monai_mammo.dicom.errors import MammogramError


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
    guard_command_line()
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
        (["run", "--config_file", "CONFIG"], "interrupted"),
    ],
)
def test_of_an_interruption_one_line_says_how_to_go_on_if_there_is_a_way(command, capsys, words, line):
    command(*words)
    guard_command_line()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == f"\nerror: {line}\n"


def test_a_caller_from_python_keeps_its_own_end(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", own := lambda *_: None)
    guard_command_line()
    assert sys.excepthook is own


def test_a_run_that_fails_ends_after_the_threads_that_still_read_images(command):
    """Else torch aborts the process in the middle of them, behind the line that says why."""
    command("run", "training")
    guard_command_line()
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
        guard_command_line()


@pytest.mark.parametrize("name", ["resume", "amp", "train#loader#shuffle", "train#inferer#amp", "train#loader#new"])
def test_a_switch_in_the_configs_own_spelling_is_refused_as_it_would_be_true(command, name):
    for value in ("True", "False", "0"):
        command("run", "training", "--config_file", "CONFIG", f"--{name}", value)
        guard_command_line()
    for value in ("false", "true", "no", "OFF", "'False'"):
        command("run", "training", "--config_file", "CONFIG", f"--{name}", value)
        with pytest.raises(MammogramError, match=rf"^{name}: '.*' is a text.*Write True or False\.$"):
            guard_command_line()


def test_a_text_that_reads_like_a_switch_may_stand_where_texts_do(command):
    command("run", "training", "--config_file", "CONFIG", "--bundle_root", "on", "--initial_weights", "no")
    guard_command_line()


@pytest.mark.parametrize("config", [["--config_file", "CONFIG"], ["--config-file", "CONFIG"]])
def test_a_workflow_keeps_its_own_options(command, config):
    own = ["--workflow_type", "train", "--run_id", "training", "--properties_path", "p.json"]
    command("run_workflow", "monai.bundle.ConfigWorkflow", *config, *own, "--epochs", "5")
    guard_command_line()


def test_a_file_of_arguments_is_read_as_the_command_line_is(command, tmp_path):
    arguments = tmp_path / "args.json"
    for held, slip in (({"epochs": 5}, "epoch"), ({"epoch": 5}, "epoch"), ({"resume": "false"}, "resume")):
        arguments.write_text(json.dumps({"config_file": str(tmp_path / "train.yaml"), **held}))
        command("run", "training", "--args_file", str(arguments), "--width", "8")
        with pytest.raises(MammogramError, match=rf"^{slip}: ") if slip in held else nullcontext():
            guard_command_line()


def test_only_monais_command_line_is_looked_at(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epoch", "5"])
    guard_command_line()
