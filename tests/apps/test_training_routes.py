"""What the routes of trainings answer, without a training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.datastore import MammogramDatastore
from lib.errors import install_error_handlers
from lib.progress import Progress
from lib.trainers import BundleTraining
from lib.training_routes import install
from monailabel.utils.async_tasks.utils import background_tasks

from monai_mammo.dicom.errors import MammogramError

from .conftest import QUALITY


@pytest.fixture
def training(small_bundles: Path, tmp_path: Path) -> BundleTraining:
    """Of the quality model, whose annotations are enough."""
    enough: Any = SimpleNamespace(check=lambda _: None)
    return BundleTraining(small_bundles / QUALITY, tmp_path / "weights" / "quality.pt", enough, {}, "")


@pytest.fixture
def client(training: BundleTraining, tmp_path: Path) -> TestClient:
    """Asks the routes of trainings alone."""
    store = MammogramDatastore(tmp_path / "studies")
    app: Any = SimpleNamespace(trainer=lambda _: training, datastore=lambda: store)
    server = FastAPI()
    install(server, app)
    install_error_handlers(server)
    return TestClient(server, raise_server_exceptions=False)


@pytest.mark.parametrize("status", ["RUNNING", "STOPPED", "DONE"])
def test_a_training_is_told_with_its_outcome_from_the_moment_that_it_is_kept(
    client: TestClient, training: BundleTraining, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """Stopped a moment later, its weights are in service all the same."""
    task = {"status": status, "request": {"model": QUALITY, "run": "r"}}
    monkeypatch.setitem(background_tasks, "train", [task])
    with training.history.training() as run:
        Progress(run / "progress.json", run="r")
        told = client.get("/train/").json()
        assert (told["progress"]["phase"], told.get("result")) == ("preparing", None)
        (run / "weights.pt").write_bytes(b"new")
        training.history.keep({"run": "r", "outcome": "accepted"}, None)
        result = client.get("/train/").json()["result"]
    assert (result["outcome"], result["serving"]) == ("accepted", True)


def test_a_training_beside_that_of_another_program_is_refused_at_once_with_the_reason(
    client: TestClient, training: BundleTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(background_tasks, "train", [])
    with training.history.training():
        refused = client.post(f"/train/{QUALITY}", json={})
    assert refused.status_code == 409
    assert "is being trained already, by another program" in refused.json()["reason"]
    assert client.get("/train/").status_code == 404, "nothing was begun"


def test_a_training_that_a_label_keeps_from_beginning_names_it(
    client: TestClient, training: BundleTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(background_tasks, "train", [])
    missing = MammogramError(Path("/srv/labels/final/left.nrrd"), "there is no such file", "Check the path")
    training.datalist = cast("Any", SimpleNamespace(check=Mock(side_effect=missing)))
    refused = client.post(f"/train/{QUALITY}", json={})
    assert (refused.status_code, refused.json()["file"]) == (409, "left.nrrd")
    assert "srv" not in refused.text
