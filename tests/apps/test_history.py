"""The weights that a model has had: nothing is lost, everything can come back, and no kill leaves half a file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lib import history as module
from lib.errors import RequestRefused
from lib.history import BUNDLES_OWN, History, ServiceChanged

from .conftest import APP, ROOT


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Of a model that has no weights but the bundle's own."""
    return History(tmp_path / "weights" / "model.pt")


def train(history: History, weights: bytes, outcome: str = "accepted", **more: Any) -> int:
    """What a training leaves behind."""
    with history.training() as run:
        (run / "weights.pt").write_bytes(weights)
        (run / "data").mkdir()
        (run / "data" / "dataset.json").write_text("{}")
        return history.keep({"outcome": outcome, **more}, history.in_service())


def test_accepted_weights_are_served_and_refused_ones_kept_for_inspection(history: History) -> None:
    assert history.current() == BUNDLES_OWN
    assert train(history, b"one", user="ann", reason="better") == 1
    assert train(history, b"two", "refused") == 2
    assert history.served.read_bytes() == b"one"
    second, first = history.entries()
    assert (second["number"], second["serving"], second["restorable"]) == (2, False, True)
    assert (first["number"], first["serving"], first["user"], first["reason"]) == (1, True, "ann", "better")
    assert first["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert first["date"].endswith("+00:00")
    assert (history.folder / "0002" / "weights.pt").read_bytes() == b"two"
    assert (history.folder / "0001" / "data" / "dataset.json").exists()


def test_former_weights_come_back_the_bundles_own_included(history: History) -> None:
    for weights in (b"one", b"two", b"three"):
        train(history, weights)
    assert history.restore(1, "ann") == 1
    assert history.served.read_bytes() == b"one"
    assert history.restore(None, "ann") == 3
    assert history.restore(BUNDLES_OWN, "ann") == BUNDLES_OWN
    assert not history.served.exists()
    assert history.restore(None, "ann") == 3
    lines = (history.folder / "service.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3, 1, 3, 0, 3]


def test_a_refused_candidate_can_be_put_into_service_by_a_person(history: History) -> None:
    train(history, b"one")
    train(history, b"two", "refused")
    history.restore(2, "ann")
    assert history.served.read_bytes() == b"two"
    assert history.current() == 2


def test_what_cannot_be_restored_is_refused_and_nothing_changes(history: History) -> None:
    with pytest.raises(RequestRefused, match="no former weights"):
        history.restore(None, "ann")
    train(history, b"one")
    train(history, b"two")
    with pytest.raises(RequestRefused) as refused:
        history.restore(7, "ann")
    assert refused.value.status == 404
    (history.folder / "0001" / "weights.pt").write_bytes(b"rotten")
    with pytest.raises(RequestRefused, match="damaged"):
        history.restore(1, "ann")
    assert history.served.read_bytes() == b"two"
    assert history.current() == 2


def test_weights_that_a_person_put_there_are_not_lost(history: History) -> None:
    history.served.parent.mkdir()
    history.served.write_bytes(b"by hand")
    assert history.current() is None
    train(history, b"one")
    assert [entry["outcome"] for entry in history.entries()] == ["accepted", "found"]
    history.restore(None, "ann")
    assert history.served.read_bytes() == b"by hand"


def test_a_candidate_compared_with_weights_that_have_left_service_is_not_taken(history: History) -> None:
    train(history, b"one")
    before = history.in_service()
    train(history, b"two")
    with history.training() as run:
        (run / "weights.pt").write_bytes(b"three")
        with pytest.raises(ServiceChanged):
            history.keep({"outcome": "accepted"}, before)
        assert history.served.read_bytes() == b"two"
        assert history.keep({"outcome": "accepted"}, history.in_service()) == 3


def test_the_number_of_kept_weights_is_bounded_but_every_record_stays(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_ACCEPTED", 2)
    monkeypatch.setattr(module, "KEPT_REFUSED", 1)
    train(history, b"first")
    for number in range(4):
        train(history, f"refused {number}".encode(), "refused")
    for number in range(3):
        train(history, f"accepted {number}".encode())
    kept = [entry["number"] for entry in history.entries() if entry["restorable"]]
    assert kept == [8, 7, 5]
    assert len(history.entries()) == 8
    with pytest.raises(RequestRefused, match="not kept"):
        history.restore(1, "ann")


def test_weights_in_service_are_kept_however_many_come_later(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_REFUSED", 1)
    train(history, b"refused", "refused")
    history.restore(1, "ann")
    for number in range(3):
        train(history, f"refused {number}".encode(), "refused")
    assert [entry["number"] for entry in history.entries() if entry["restorable"]] == [4, 1]


def test_one_training_of_a_model_at_a_time_among_all_processes(history: History) -> None:
    with history.training():
        code = "import sys, pathlib, lib.history as h; h.History(pathlib.Path(sys.argv[1])).training().__enter__()"
        other = subprocess.run(
            [sys.executable, "-c", code, str(history.served)],
            env={**os.environ, "PYTHONPATH": f"{APP}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
        )
        assert "is being trained already" in other.stderr
    assert train(history, b"one") == 1


KILLED_AT_EVERY_STEP = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from lib.history import History

start, action = Path(sys.argv[1]), sys.argv[2]

def counted(function, moment):
    def call(*args, **kwargs):
        global step
        if step == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        step += 1
        return function(*args, **kwargs)
    return call

for moment in itertools.count():
    folder = start.with_name(f"{action}-{moment}")
    shutil.copytree(start, folder)
    child = os.fork()
    if child == 0:
        step, history = 0, History(folder / "model.pt")
        for module, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (os, "fsync"), (os, "write"),
                             (os, "mkdir"), (shutil, "copyfile")):
            setattr(module, name, counted(getattr(module, name), moment))
        if action == "restore":
            history.restore(1, "ann")
        else:
            with history.training() as run:
                (run / "weights.pt").write_bytes(b"new")
                history.keep({"outcome": action}, history.in_service())
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.parametrize("action", ["accepted", "refused", "restore"])
def test_a_process_killed_at_any_step_leaves_whole_weights_and_a_history_that_goes_on(
    tmp_path: Path, action: str
) -> None:
    """A real process, killed before every single change of the file system that it makes."""
    start = History(tmp_path / "start" / "model.pt")
    train(start, b"former of former")
    train(start, b"former")
    environment = {**os.environ, "PYTHONPATH": f"{APP}{os.pathsep}{ROOT}"}
    script = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(start.served.parent), action]
    subprocess.run(script, check=True, env=environment)
    moments = sorted(tmp_path.glob(f"{action}-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    assert len(moments) > 4
    goal = {"accepted": b"new", "refused": b"former", "restore": b"former of former"}[action]
    served = [(folder / "model.pt").read_bytes() for folder in moments]
    assert set(served) <= {b"former", goal}
    assert served[-1] == goal
    for folder in moments:
        after = History(folder / "model.pt")
        assert after.current() is not None
        assert all(entry["sha256"] for entry in after.entries())
        train(after, b"later")
        assert after.served.read_bytes() == b"later"
        after.restore(2, "ann")
        assert after.served.read_bytes() == b"former"
