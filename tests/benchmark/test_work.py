"""What a benchmark does again and what not, after any end; a stand-in for the bundle's two commands, all else real."""

import fcntl
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from monai_mammo.benchmark import work
from monai_mammo.benchmark.children import cause, launch
from monai_mammo.benchmark.plan import Plan, by_name, command, read_plan
from monai_mammo.benchmark.records import keep_records
from monai_mammo.benchmark.runs import read_curves, runs_of
from monai_mammo.benchmark.work import only_one, run_benchmark
from monai_mammo.bundles import find_bundle
from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.evaluation import QualityReport

EPOCHS = 3


class Bundle:
    """Stands in for `python -m monai.bundle run`: leaves the same files, and dies where a test wants it to."""

    def __init__(self, die_at: int | None = None, fails: str = "") -> None:
        self.calls: list[tuple[str, str]] = []
        self.commands: list[list[str]] = []
        self.die_at, self.fails = die_at, fails

    def __call__(self, line, log: Path, tick) -> int:
        line = list(line)
        entry, given = line[line.index("run") + 1], line[line.index("run") + 2 :]
        values = dict(zip([name.lstrip("-") for name in given[::2]], given[1::2], strict=True))
        run = Path(values["weights"]).parent
        self.calls.append((entry, f"{run.parent.name}/{run.name}"))
        self.commands.append(line)
        if self.fails and self.fails == run.parent.name:
            log.write_text("Traceback\nValueError: no such layer\n  at the end\n")
            return 1
        dies = self.die_at == len(self.calls)
        tick()
        (self._train if entry == "training" else self._test)(values, run, dies)
        if dies:
            raise KeyboardInterrupt
        return 0

    @staticmethod
    def _train(values, run: Path, dies: bool) -> None:
        state = Path(values["output_dir"])
        with SummaryWriter(str(state)) as writer:
            for epoch in range(1, EPOCHS + 1 - dies):
                for step in (2 * epoch - 1, 2 * epoch):
                    writer.add_scalar("train_loss", 1 / step, step)
                writer.add_scalar("auc", 0.5 + epoch / 10, epoch)
                torch.save({"epoch": epoch}, state / f"checkpoint_epoch={epoch}.pt")
        torch.save({}, run / "model.pt")

    @staticmethod
    def _test(values, run: Path, dies: bool) -> None:
        out = Path(values["output_dir"])
        if dies:
            (out / "metrics.json").write_text('{"images": 4, "met')  # torn
            return
        records = [
            {
                "label": entry["label"],
                "probability": 0.3,
                "image": Path(entry["image"]).name,
                "patient": entry["patient"],
            }
            for entry in load_datalist(values["dataset_dir"], values["section"])
        ]
        QualityReport(out, resamples=20).write(records)


@pytest.fixture(autouse=True)
def no_costs(monkeypatch):
    """Networks cannot be measured that do not exist."""
    monkeypatch.setattr(work.costs, "measure", lambda bundle, systems: {"systems": {key: {} for key in systems}})


def plan(phantoms, **other) -> Plan:
    values = {"systems": ("resnet34", "resnet34_parb"), "seeds": (0,), "values": {"epochs": EPOCHS}, **other}
    return Plan("quality", data=str(phantoms), **values)


def carry_out(out, wanted, bundle, **other):
    return run_benchmark(out, wanted, console=Console(file=io.StringIO()), start=bundle, **other)


def test_every_run_leaves_what_a_report_needs(phantoms, tmp_path):
    assert carry_out(tmp_path, plan(phantoms), Bundle()) == {}
    for run in runs_of(tmp_path, read_plan(tmp_path)):
        assert run.weights.is_file()
        assert run.record["trained"]["epochs"] == EPOCHS
        config = yaml.safe_load((run.folder / "config.yaml").read_text())
        assert (config["seed"], config["epochs"]) == (0, EPOCHS)
        assert config["network_def"]["parb"] == (run.system == "resnet34_parb")
        curves = read_curves(run.folder)
        assert curves["train_loss"] == pytest.approx({1: 0.75, 2: 7 / 24, 3: 11 / 60})  # means of the epochs' steps
        assert curves["auc"][3] == pytest.approx(0.8)
        assert json.loads((run.tests("test") / "metrics.json").read_text())["images"] == 4
        assert not list(run.folder.rglob("checkpoint_epoch=*.pt"))
    assert (tmp_path / "baselines" / "border_rule" / "tests" / "test" / "per_image.csv").is_file()


class Together(Bundle):
    """Whose trainings wait until two of them are under way."""

    def __init__(self, **other) -> None:
        super().__init__(**other)
        self.both = threading.Barrier(2, timeout=60)

    def __call__(self, line, log, tick) -> int:
        if "training" in line:
            self.both.wait()
        return super().__call__(line, log, tick)


def test_trainings_side_by_side_leave_what_one_after_the_other_leaves(phantoms, tmp_path):
    wanted = plan(phantoms, seeds=(0, 1))
    assert carry_out(tmp_path / "two", wanted, Together(), at_once=2) == {}
    assert carry_out(tmp_path / "one", wanted, Bundle()) == {}
    for beside, alone in zip(runs_of(tmp_path / "two", wanted), runs_of(tmp_path / "one", wanted), strict=True):
        assert beside.record == alone.record
        assert read_curves(beside.folder) == read_curves(alone.folder)


def test_of_trainings_side_by_side_one_that_fails_does_not_stop_the_other(phantoms, tmp_path):
    failed = carry_out(tmp_path, plan(phantoms), Together(fails="resnet34"), at_once=2)
    assert list(failed) == ["resnet34, seed 0"]
    assert "no such layer" in failed["resnet34, seed 0"]
    assert next(run for run in runs_of(tmp_path, plan(phantoms)) if run.system == "resnet34_parb").record["trained"]


def test_an_interruption_ends_all_that_runs_side_by_side(phantoms, tmp_path):
    """The first to be told stops the benchmark; the other's child is ended at its next tick."""
    ended = []

    def start(line, log, tick) -> int:
        both.wait()
        if "resnet34_parb/" in " ".join(line):
            raise KeyboardInterrupt
        try:
            for _ in range(600):
                tick()
                threading.Event().wait(0.1)
        except KeyboardInterrupt:
            ended.append(line)
            raise
        return 0

    both = threading.Barrier(2, timeout=60)
    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path, plan(phantoms, systems=("resnet34_parb", "resnet34")), start, at_once=2)
    assert len(ended) == 1


def test_records_are_gone_on_with(phantoms, tmp_path):
    carry_out(tmp_path / "b", plan(phantoms), Bundle())
    (kept,) = keep_records([tmp_path / "b"], tmp_path / "kept")
    again = Bundle()
    assert carry_out(kept, plan(phantoms, seeds=(1,)), again) == {}
    trained = [run for run in runs_of(kept, read_plan(kept)) if run.weights.is_file()]
    assert [run.seed for run in trained] == [1, 1]
    assert all(run.record["tests"] for run in runs_of(kept, read_plan(kept)))
    assert set(json.loads((kept / "costs.json").read_text())["systems"]) == {"resnet34", "resnet34_parb"}


def test_what_is_done_is_not_done_again(phantoms, tmp_path):
    carry_out(tmp_path, plan(phantoms), Bundle())
    again = Bundle()
    assert carry_out(tmp_path, plan(phantoms), again) == {}
    assert again.calls == []


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_killed_benchmark_goes_on_where_it_was(phantoms, tmp_path, moment):
    """Killed in the first or second training or test: what was begun is done again, what was done is not."""
    killed, resumed = Bundle(die_at=moment), Bundle()
    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path, plan(phantoms), killed)
    assert carry_out(tmp_path, plan(phantoms), resumed) == {}
    everything = [
        (entry, f"{system}/seed_0") for system in plan(phantoms).systems for entry in ("training", "evaluating")
    ]
    assert killed.calls == everything[:moment]
    assert resumed.calls == everything[moment - 1 :]
    for run in runs_of(tmp_path, plan(phantoms)):
        assert json.loads((run.tests("test") / "metrics.json").read_text())["images"] == 4
        assert list(read_curves(run.folder)["train_loss"]) == [1, 2, 3]


def test_a_failing_run_is_told_and_does_not_stop_the_others(phantoms, tmp_path):
    failed = carry_out(tmp_path, plan(phantoms), Bundle(fails="resnet34"))
    assert list(failed) == ["resnet34, seed 0"]
    assert "ValueError: no such layer" in failed["resnet34, seed 0"]
    broken, whole = runs_of(tmp_path, plan(phantoms))
    assert "no such layer" in broken.record["failed"]
    assert whole.record["tests"]["test"]["images"] == 4
    retried = Bundle()
    assert carry_out(tmp_path, plan(phantoms), retried) == {}
    assert retried.calls == [("training", "resnet34/seed_0"), ("evaluating", "resnet34/seed_0")]


def test_seeds_systems_and_tests_can_be_added(phantoms, tmp_path):
    further = shutil.copytree(phantoms, tmp_path / "further")
    carry_out(tmp_path / "out", plan(phantoms), Bundle())
    added = Bundle()
    wanted = plan(phantoms, systems=("resnet34_kan",), seeds=(1,), test_data={"further": str(further)})
    assert carry_out(tmp_path / "out", wanted, added) == {}
    known = read_plan(tmp_path / "out")
    assert known.systems == ("resnet34", "resnet34_parb", "resnet34_kan")
    assert known.seeds == (0, 1)
    trained = {run for entry, run in added.calls if entry == "training"}
    assert trained == {"resnet34_kan/seed_0", "resnet34/seed_1", "resnet34_parb/seed_1", "resnet34_kan/seed_1"}
    assert all(set(run.record["tests"]) == {"test", "further"} for run in runs_of(tmp_path / "out", known))


def test_what_is_named_twice_is_done_once(phantoms, tmp_path):
    """Two trainings side by side in one folder would write into each other's files."""
    bundle = Bundle()
    assert carry_out(tmp_path, plan(phantoms, systems=("resnet34",) * 2, seeds=(0, 0)), bundle, at_once=2) == {}
    assert bundle.calls == [("training", "resnet34/seed_0"), ("evaluating", "resnet34/seed_0")]


def test_two_test_data_sets_of_one_name_are_refused_and_one_given_twice_is_one(tmp_path):
    folders = [tmp_path / site / "prepared" for site in ("a", "b")]
    with pytest.raises(MammogramError, match=r"b/prepared: it has the name of .*a/prepared\. Rename"):
        by_name(folders)
    assert by_name([folders[0], folders[0]]) == {"prepared": str(folders[0])}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"values": {"epochs": 4}}, "values of the configuration"),
        ({"compact": False}, "size of the networks"),
        ({"values": {"epohcs": 4}}, "no such value"),
        ({"systems": ("dynunet",)}, "no system for quality"),
        ({"seeds": ()}, "nothing to compare"),
        ({"protocol": "paper", "mode": "whole"}, "has crops only"),
        ({"test_data": {"test": "elsewhere/test"}}, "stands for the data's own"),
    ],
)
def test_what_does_not_belong_into_a_folder_is_refused(phantoms, tmp_path, other, told):
    carry_out(tmp_path, plan(phantoms), Bundle())
    untouched = Bundle()
    with pytest.raises(MammogramError, match=told):
        carry_out(tmp_path, plan(phantoms, **other), untouched)
    assert untouched.calls == []
    assert read_plan(tmp_path) == plan(phantoms)


def test_data_that_have_changed_since_are_refused(phantoms, tmp_path):
    data = shutil.copytree(phantoms, tmp_path / "data")
    carry_out(tmp_path / "out", plan(data), Bundle())
    datalist = data / "quality" / "dataset.json"
    document = json.loads(datalist.read_text())
    document["test"].pop()
    datalist.write_text(json.dumps(document))
    with pytest.raises(MammogramError, match="no longer the datalist"):
        carry_out(tmp_path / "out", plan(data), Bundle())


def test_the_papers_protocol_tests_on_what_chose_the_epoch():
    """The papers hold out one part for both; further data are held out by patient all the same."""
    wanted = Plan("quality", ("resnet34",), (0,), "data", protocol="paper", test_data={"other": "more"})
    assert wanted.training_data == Path("data/quality_paper")
    assert wanted.tests == {
        "test": (Path("data/quality_paper"), "validation"),
        "other": (Path("more/quality"), "test"),
    }


def test_several_processes_share_the_batch(phantoms, tmp_path):
    bundle = Bundle()
    carry_out(
        tmp_path, plan(phantoms, systems=("resnet34",), values={"epochs": EPOCHS, "batch_size": 9}), bundle, processes=2
    )
    training, testing = bundle.commands
    assert "torch.distributed.run" in training
    assert "--nproc_per_node=2" in training
    assert "multi_gpu_train.yaml" in training[training.index("--config_file") + 1]
    assert training[training.index("--batch_size") + 1] == "5"
    assert "torch.distributed.run" not in testing


def test_the_printed_command_can_be_typed(phantoms):
    line = command(plan("data/phantoms", values={"epochs": 2, "size": [64, 64]}), "runs/a")
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True).stdout
    assert words.splitlines()[:3] == ["monai-mammo", "benchmark", "quality"]
    assert "size=[64, 64]" in words.splitlines()
    elsewhere = command(plan(phantoms / "AUSGABE Köln"), "/elsewhere/out")
    assert "--data '/path/to/AUSGABE Köln'" in elsewhere
    assert "--out /path/to/out" in elsewhere
    assert str(phantoms) not in elsewhere


def test_a_second_benchmark_waits_for_the_first(tmp_path):
    told, entered = io.StringIO(), threading.Event()

    class Told(io.StringIO):
        def write(self, text: str) -> int:
            if "waiting" in text:
                fcntl.flock(lock, fcntl.LOCK_UN)
            return told.write(text)

    def second() -> None:
        with only_one(tmp_path, Console(file=Told())):
            entered.set()

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=60)
    assert entered.is_set()
    assert "another benchmark is at work" in told.getvalue()


def test_a_training_ends_with_the_benchmark_that_started_it(tmp_path):
    """However that ends: a killed process cannot say good-bye."""
    script = (
        "import sys; from pathlib import Path; from monai_mammo.benchmark.children import launch\n"
        "child = 'import os, time; print(os.getpid(), flush=True); time.sleep(3600)'\n"
        f"launch([sys.executable, '-c', child], Path({str(tmp_path / 'log')!r}), lambda: print('tick', flush=True))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    while not (tmp_path / "log").is_file() or not (tmp_path / "log").read_text().strip():
        assert parent.stdout.readline() == "tick\n"
    child = os.pidfd_open(int((tmp_path / "log").read_text()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    ended, _, _ = select.select([child], [], [], 60)
    os.close(child)
    assert ended


def test_a_log_says_what_went_wrong(tmp_path):
    log = tmp_path / "log"
    assert cause(log) == "it printed nothing"
    status = launch([sys.executable, "-c", "print('well'); raise ValueError('too few patients')"], log, lambda: None)
    assert status == 1
    assert cause(log) == "ValueError: too few patients"
    launch(
        [sys.executable, "-c", "print('error: a.dcm: no pixels', flush=True); raise SystemExit(3)"], log, lambda: None
    )
    assert cause(log) == "error: a.dcm: no pixels"


def test_the_bundle_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MammogramError, match="mammo_quality_classification"):
        find_bundle("quality", tmp_path)
