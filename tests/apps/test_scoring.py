"""Scores in the background: what is scored, what voids a score, and that nothing stops it for good."""

from __future__ import annotations

import base64
import errno
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import numpy as np
import psutil
import pytest
import torch
from lib import scoring as module
from lib.datastore import MammogramDatastore
from lib.logs import keep_patients_out_of_logs
from lib.models import ServedModel
from lib.scoring import Scoring, Worker, WorkerEnded

from monai_mammo.files import sha256

from .conftest import QUALITY, SEGMENTATION, Server, blob, write_dicom, write_png


def answer(uncertainty: float, place: float = 0.0) -> dict[str, Any]:
    """A worker's answer."""
    embedding = base64.b64encode(np.array([place, 1.0], dtype=np.float32).tobytes()).decode()
    return {"uncertainty": uncertainty, "embedding": embedding}


class FakeWorker:
    """A worker that answers at once, in this process."""

    scored: list[str] = []
    deadly: set[str] = set()
    ends_at_start = False

    def __init__(self, model: ServedModel, weights: Path) -> None:
        if FakeWorker.ends_at_start:
            raise WorkerEnded
        self.weights = sha256(weights)

    def score(self, image: Path) -> dict[str, Any]:
        FakeWorker.scored.append(image.name)
        if image.name in FakeWorker.deadly:
            raise WorkerEnded
        return answer(0.1)

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    monkeypatch.setattr(module, "Worker", FakeWorker)
    FakeWorker.scored, FakeWorker.deadly, FakeWorker.ends_at_start = [], set(), False
    return FakeWorker


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    for name in "abc":
        write_png(tmp_path / "studies" / f"{name}.png", blob()[0])
    return tmp_path / "studies"


def served(bundles: Path, weights: Path, bundle: str = QUALITY) -> ServedModel:
    return ServedModel(bundles / bundle, weights / f"{bundle}.pt", {"device": "$torch.device('cpu')"})


def scoring_of(studies: Path, bundles: Path, bundle: str = QUALITY) -> Scoring:
    models = {bundle: served(bundles, studies.parent / "weights", bundle)}
    return Scoring(models, MammogramDatastore(studies), studies.parent / "scores.sqlite")


def new_weights(bundles: Path, studies: Path) -> Path:
    """Other weights than the bundle's own, where the app puts what it trains."""
    state = torch.load(bundles / QUALITY / "models" / "model.pt", weights_only=True)
    file = studies.parent / "weights" / f"{QUALITY}.pt"
    file.parent.mkdir(exist_ok=True)
    torch.save({name: value + 0.01 if value.is_floating_point() else value for name, value in state.items()}, file)
    return file


def test_without_a_file_of_scores_everything_else_goes_on(
    studies: Path,
    bundles: Path,
    fake: type[FakeWorker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", Mock(side_effect=sqlite3.OperationalError("disk I/O error")))
        scoring = scoring_of(studies, bundles)
        assert scoring.scores(QUALITY) == {}
        assert scoring.status()[QUALITY]["state"] == "failed"
    assert "Reading scores failed (disk I/O error)" in caplog.text
    scoring.catch_up()
    assert len(scoring.scores(QUALITY)) == 3
    assert scoring.status()[QUALITY]["state"] == "up to date"


def test_what_keeps_images_from_being_scored_is_logged_once_and_names_none(
    studies: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    keep_patients_out_of_logs()
    scoring = scoring_of(studies, bundles)
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "1.2.826.0.1.dcm"))
    monkeypatch.setattr(scoring, "catch_up", full)
    scoring.start()
    until(lambda: full.call_count > 3)
    scoring.stop()
    assert caplog.text.count("Scoring failed (No space left on device)") == 1
    assert "1.2.826" not in caplog.text


@pytest.mark.slow
def test_a_process_of_low_priority_scores_what_can_be_read(studies: Path, bundles: Path) -> None:
    torn = write_dicom(studies / "torn.dcm", blob()[0], syntax="1.2.840.10008.1.2.4.90")
    torn.write_bytes(torn.read_bytes()[:-1500])
    scoring = scoring_of(studies, bundles)
    scoring.catch_up()
    scores = scoring.scores(QUALITY)
    assert {name for name, score in scores.items() if not score.problem} == {"a", "b", "c"}
    assert scores["torn"].problem
    assert 0 < scores["a"].uncertainty <= np.log(2)
    assert scores["a"].embedding is not None
    assert scores["a"].uncertainty == scores["b"].uncertainty  # the same picture
    status = scoring.status()[QUALITY]
    assert (status["state"], status["scored"], status["unusable"], status["images"]) == ("up to date", 3, 1, 4)

    worker = Worker(scoring.models[QUALITY], new_weights(bundles, studies))
    [process] = [p for p in psutil.Process().children() if "monai_mammo.active_learning.worker" in p.cmdline()]
    try:
        assert process.nice() >= min(19, psutil.Process().nice() + 10)
        assert worker.score(studies / "a.png")["uncertainty"] != scores["a"].uncertainty
        process.kill()
        with pytest.raises(WorkerEnded):
            worker.score(studies / "a.png")
    finally:
        worker.close()


def test_after_a_restart_only_what_is_missing_is_scored(studies: Path, bundles: Path, fake: type[FakeWorker]) -> None:
    scoring_of(studies, bundles).catch_up()
    fake.scored.clear()
    write_png(studies / "d.png", blob()[0])
    restarted = scoring_of(studies, bundles)
    restarted.catch_up()
    assert fake.scored == ["d.png"]
    assert set(restarted.scores(QUALITY)) == {"a", "b", "c", "d"}


def test_scores_of_an_older_version_count_and_new_ones_join_them(
    studies: Path, bundles: Path, fake: type[FakeWorker]
) -> None:
    scoring = scoring_of(studies, bundles)
    stamp, place = scoring.datastore.image("a").stamp, np.array([0.0, 1.0], dtype=np.float32).tobytes()
    with closing(sqlite3.connect(scoring.book.file)) as book, book:
        book.execute(
            "CREATE TABLE scores (model TEXT, weights TEXT, image TEXT, stamp TEXT, uncertainty REAL, measures TEXT, "
            "embedding BLOB, problem TEXT, PRIMARY KEY (model, image))"
        )
        row = (QUALITY, scoring.weights(QUALITY), "a", stamp, 0.4, "{}", place, None)
        book.execute("INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    scoring.catch_up()
    assert fake.scored == ["b.png", "c.png"]
    found = {image: (score.uncertainty, score.problem) for image, score in scoring.scores(QUALITY).items()}
    assert found == {"a": (0.4, None), "b": (0.1, None), "c": (0.1, None)}


def test_an_image_that_was_replaced_is_scored_again(studies: Path, bundles: Path, fake: type[FakeWorker]) -> None:
    scoring = scoring_of(studies, bundles)
    scoring.catch_up()
    fake.scored.clear()
    write_png(studies / "b.png", 1 - blob(90, 70)[0])
    scoring.datastore.refresh()
    assert set(scoring.scores(QUALITY)) == {"a", "c"}, "the score of the former pixels chooses no more"
    assert scoring.status()[QUALITY]["state"] == "waiting"
    scoring.catch_up()
    assert fake.scored == ["b.png"]


def test_new_weights_void_all_scores_at_once(studies: Path, bundles: Path, fake: type[FakeWorker]) -> None:
    scoring = scoring_of(studies, bundles)
    scoring.catch_up()
    before = scoring.weights(QUALITY)
    new_weights(bundles, studies)
    assert scoring.weights(QUALITY) != before
    assert scoring.scores(QUALITY) == {}
    assert scoring.status()[QUALITY]["state"] == "waiting"
    fake.scored.clear()
    scoring.catch_up()
    assert len(fake.scored) == len(scoring.scores(QUALITY)) == 3


def test_weights_that_change_while_images_are_scored_give_no_mixture(
    studies: Path, bundles: Path, fake: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = scoring_of(studies, bundles)
    score = FakeWorker.score

    def replaced_meanwhile(self: FakeWorker, image: Path) -> dict[str, Any]:
        if len(fake.scored) == 1:
            new_weights(bundles, studies)
        return score(self, image)

    monkeypatch.setattr(FakeWorker, "score", replaced_meanwhile)
    scoring.catch_up()
    assert fake.scored == ["a.png", "b.png", "a.png", "b.png", "c.png"]
    assert set(scoring.scores(QUALITY)) == {"a", "b", "c"}


def test_an_image_that_kills_the_process_twice_is_left_and_the_others_go_on(
    studies: Path, bundles: Path, fake: type[FakeWorker]
) -> None:
    fake.deadly = {"a.png"}
    scoring = scoring_of(studies, bundles)
    scoring.catch_up()
    assert fake.scored == ["a.png", "a.png", "b.png", "c.png"]
    assert scoring.scores(QUALITY)["a"].problem
    assert scoring.status()[QUALITY]["scored"] == 2


def test_weights_that_cannot_score_are_tried_once_and_others_again(
    studies: Path, bundles: Path, fake: type[FakeWorker]
) -> None:
    fake.ends_at_start = True
    scoring = scoring_of(studies, bundles)
    scoring.catch_up()
    assert scoring.status()[QUALITY]["state"] == "failed"
    fake.ends_at_start = False
    scoring.catch_up()
    assert fake.scored == []
    new_weights(bundles, studies)
    scoring.catch_up()
    assert scoring.status()[QUALITY]["state"] == "up to date"


def test_without_weights_nothing_is_scored(studies: Path, small_bundles: Path, fake: type[FakeWorker]) -> None:
    scoring = scoring_of(studies, small_bundles, SEGMENTATION)
    scoring.catch_up()
    assert scoring.status()[SEGMENTATION]["state"] == "no weights"
    assert (fake.scored, scoring.scores(SEGMENTATION)) == ([], {})


def test_images_without_a_label_are_scored_first(studies: Path, bundles: Path, fake: type[FakeWorker]) -> None:
    scoring = scoring_of(studies, bundles)
    mask = write_png(studies.parent / "mask.png", blob()[1])
    scoring.datastore.save_label("a", str(mask), "final", {})
    scoring.catch_up()
    assert fake.scored == ["b.png", "c.png", "a.png"]


def test_the_thread_ends_when_it_is_told_to_and_outlives_an_error(
    studies: Path, bundles: Path, fake: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    scoring = scoring_of(studies, bundles)
    list_images = scoring.datastore.list_images
    failures = iter([OSError("the disk is away")])

    def failing_once() -> list[str]:
        for error in failures:
            raise error
        return list_images()

    monkeypatch.setattr(scoring.datastore, "list_images", failing_once)
    scoring.start()
    assert any(thread.name == "scoring" for thread in threading.enumerate())
    until(lambda: len(fake.scored) == 3)
    scoring.stop()
    assert not any(thread.name == "scoring" for thread in threading.enumerate())


def test_a_worker_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os, subprocess, sys; command = [sys.executable, '-m', 'monai_mammo.active_learning.worker']; "
        "subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stdout); os.kill(os.getpid(), 9)"
    )
    # The worker has the pipe too, so its end is reached only when both are gone.
    starter = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=600, check=False)
    assert starter.returncode == -9


@pytest.mark.slow
def test_the_running_server_scores_shows_how_far_it_is_and_chooses_by_it(server: Server) -> None:
    until(lambda: server.http.get("/info/").json()["active_learning"][SEGMENTATION]["scored"] > 0)
    info = server.http.get("/info/").json()
    assert set(info["strategies"]) == {"random", "uncertainty", "diversity", "uncertainty+diversity"}
    assert info["active_learning"][SEGMENTATION]["weights"]
    for strategy in ("uncertainty", "diversity", "uncertainty+diversity"):
        answer = server.http.post(f"/activelearning/{quote(strategy)}", json={"next_case": True}).json()
        choice = answer["choice"]
        assert (choice["strategy"], choice["model"]) == (strategy, SEGMENTATION)
        # Other cases may be scored than those that are free.
        assert choice["by"] == ("random" if "reason" in choice else strategy)
        assert ("reason" in choice) == (choice["scored"] == 0)
        assert answer["id"] in answer["case"]
    refused = server.http.post("/activelearning/uncertainty", json={"model": "../x"})
    assert refused.status_code == 404


def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.02)
