"""Training from the server: annotations in, better weights served, the former ones safe."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import torch
import yaml
from lib import progress
from lib.datalists import whole_datalist
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from lib.models import ServedModel
from lib.progress import Progress, read_progress
from lib.trainers import BundleTraining
from main import MammoApp
from PIL import Image

from monai_mammo.datasets.phantom import PhantomImage, read_truth, write_phantoms
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.files import sha256, write_json

from .conftest import APP, LESION, QUALITY, SEGMENTATION, Server, blob, start_server, stop_server, write_png

VALUES = {"epochs": 1, "batch_size": 4, "num_workers": 0, "validation": 0.34}
QUICK = {"epochs": 1, "batch_size": 2, "num_workers": 0, "validation": 0.4}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PhantomImage]]:
    """Three phantom patients' DICOM files; their truth stays outside the folder that is served."""
    truth = tmp_path_factory.mktemp("phantoms")
    write_phantoms(truth, 3, rows=128, columns=96, truncated_fraction=0.5)
    folder = tmp_path_factory.mktemp("training") / "studies"
    for image in read_truth(truth):
        target = folder / f"{image.patient}_{image.laterality}_{image.view}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((truth / image.file).read_bytes())
    (folder.parent / "truth").symlink_to(truth)
    return folder, read_truth(truth)


def annotate(server: Server, images: list[PhantomImage]) -> None:
    """Upload the truth as a reader would: a mask and a verdict for every image."""
    for image in images:
        image_id = f"{image.patient}_{image.laterality}_{image.view}"
        mask = np.zeros((image.rows, image.columns), dtype=np.uint8)
        for lesion in image.lesions:
            mask |= (np.asarray(Image.open(server.studies.parent / "truth" / lesion.mask)) > 0).astype(np.uint8)
        file = server.studies.parent / "label.png"
        Image.fromarray(mask).save(file)
        saved = server.http.put(
            "/datastore/label", params={"image": image_id}, files={"label": ("label.png", file.read_bytes())}
        )
        assert saved.status_code == 200, saved.text
        verdict = {"quality": "complete" if image.complete else "incomplete"}
        server.http.put("/datastore/image/info", params={"image": image_id}, data={"info": json.dumps(verdict)})


def wait(server: Server, *ends: str, phase: str = "") -> dict[str, Any]:
    """Ask until the last training has come to one of these states, or its process to a phase."""
    while True:
        status = dict(server.http.get("/train/").json())
        if status["status"] in ends or (phase and status.get("progress", {}).get("phase") == phase):
            return status
        assert status["status"] in ("SUBMITTED", "RUNNING"), status
        time.sleep(0.2)


def finish(server: Server) -> dict[str, Any]:
    """Wait for the training in progress; its last status."""
    return wait(server, "DONE", "ERROR", "STOPPED")


def state(server: Server) -> dict[str, bytes]:
    """All labels and verdicts, and the weights in service."""
    labels = [file for file in (server.studies / "labels").glob("*/**/*") if file.is_file()]
    return {str(file): file.read_bytes() for file in (*labels, *server.weights.glob("*.pt"))}


@pytest.fixture(scope="module")
def server(studies: tuple[Path, list[PhantomImage]], small_bundles: Path, tmp_path_factory: Any) -> Iterator[Server]:
    """A server with bundles that have no weights yet."""
    running = start_server(studies[0], small_bundles, tmp_path_factory.mktemp("server"))
    yield running
    stop_server(running)


@pytest.mark.slow
def test_from_no_weights_and_no_labels_to_models_trained_on_what_was_annotated(
    server: Server, studies: tuple[Path, list[PhantomImage]], small_bundles: Path
) -> None:
    image_id = Path(sorted(studies[0].glob("*.dcm"))[0]).stem
    missing = server.infer(SEGMENTATION, image_id)
    assert missing.status_code == 503
    assert "train" in missing.json()["remedy"]
    assert server.http.post(f"/train/{SEGMENTATION}", json={"epochs": "many"}).status_code == 400

    for model in ("", SEGMENTATION, QUALITY, LESION):
        lacking = server.http.post(f"/train/{model}", json={} if not model else VALUES)
        assert lacking.status_code == 409
        assert "labels of 0 patient(s), two are needed" in lacking.json()["reason"]
    assert server.http.post(f"/train/{SEGMENTATION}", json={"bundle_path": "/tmp"}).status_code == 400

    annotate(server, studies[1])
    assert server.http.post(f"/train/{SEGMENTATION}", json=VALUES).status_code == 200
    refused = server.http.post(f"/train/{QUALITY}", json=VALUES)
    assert refused.status_code == 429
    assert SEGMENTATION in refused.json()["reason"]
    assert server.http.post(f"/train/{QUALITY}", params={"enqueue": True}, json=VALUES).status_code == 200
    while len(done := [task for task in server.http.get("/train/?all=true").json() if "end_ts" in task]) < 2:
        assert server.is_up()
        time.sleep(0.2)
    for task, model in zip(done, (SEGMENTATION, QUALITY), strict=True):
        assert task["status"] == "DONE", "\n".join(task["details"])
        assert task["result"]["outcome"] == "accepted"
        assert task["result"]["user"] == "annotator"
        assert server.infer(model, image_id).status_code == 200
        history = server.http.get(f"/mammo/models/{model}/history").json()
        assert history["serving"] == 1
        assert history["entries"][0]["sha256"] == sha256(server.weights / f"{model}.pt")
    # The third as the process does it that the server starts for a training.
    conf = {"bundles": str(small_bundles), "weights": str(server.weights), "device": "cpu"}
    MammoApp(str(APP), str(studies[0]), conf).train({"model": LESION, **VALUES})
    assert server.infer(LESION, image_id, point=[60, 40]).status_code == 200


def runs_training(process: psutil.Process) -> bool:
    try:
        return "monailabel.interfaces.utils.app" in process.cmdline()
    except psutil.NoSuchProcess:  # a helper of the server that has just ended
        return False


@pytest.mark.slow
def test_a_training_that_is_stopped_or_killed_leaves_labels_and_weights_as_they_were(
    server: Server, studies: tuple[Path, list[PhantomImage]]
) -> None:
    """While it trains, progress is told; after it was stopped, none of its processes is left."""
    annotate(server, studies[1])
    (server.weights / f"{LESION}.pt").write_bytes(b"in service")
    before = state(server)
    long = {**VALUES, "epochs": 10_000, "num_workers": 1, "pretrained": False}
    for how in ("stopped", "killed"):
        assert server.http.post(f"/train/{SEGMENTATION}", json=long).status_code == 200
        while (status := wait(server, phase="training"))["progress"].get("epoch", 0) < 2:
            assert server.is_up()
        progress = status["progress"]
        assert progress["epochs"] == 10_000
        assert 0 < progress["share"] < 0.1
        assert progress["seconds_left"] > 0
        assert 0 <= progress["metric"]["value"] <= 1
        stats = next(iter(server.http.get("/info/").json()["train_stats"].values()))  # what 3D Slicer's bar shows
        assert stats["total_epochs"] == 10_000
        assert stats["epoch"] >= 2
        processes = psutil.Process(server.process.pid).children(recursive=True)
        training = next(process for process in processes if runs_training(process))
        children = training.children(recursive=True)
        assert children, "the loader of images is a process of its own"
        if how == "stopped":
            assert server.http.delete("/train/").json()["status"] == "STOPPED"
        else:
            training.send_signal(signal.SIGKILL)
        assert not psutil.wait_procs([training, *children], timeout=60)[1]
        assert finish(server)["status"] == ("STOPPED" if how == "stopped" else "ERROR")
        assert state(server) == before


@pytest.fixture
def training(small_bundles: Path, tmp_path: Path) -> BundleTraining:
    """A training of the quality bundle that never gets to train."""

    def never(*_: Any) -> Path:
        raise AssertionError("a bad request got as far as the datalist")

    return BundleTraining(small_bundles / QUALITY, tmp_path / "q.pt", never, {}, "")


@pytest.mark.parametrize(
    "request_",
    [
        {"epochs": "$__import__('os').system('true')"},
        {"epochs": 0},
        {"epochs": 1.5},
        {"epochs": True},
        {"batch_size": "@epochs"},
        {"batch_size": 0},
        {"learning_rate": [1]},
        {"learning_rate": -3},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"num_workers": -5},
        {"seed": -1},
        {"validation": 1},
        {"seed": None},
        {"pretrained": 1},
        {"pretrained": "$True"},
    ],
)
def test_a_value_that_is_no_fitting_number_is_refused_before_anything_is_read(
    training: BundleTraining, tmp_path: Path, request_: dict[str, Any]
) -> None:
    with pytest.raises(RequestRefused) as refused:
        training(request_, MammogramDatastore(tmp_path / "studies"))
    assert refused.value.status == 400


def test_a_training_that_is_refused_in_its_own_process_ends_with_one_line(small_bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    app = MammoApp(str(APP), str(tmp_path / "studies"), {"bundles": str(small_bundles), "weights": str(tmp_path / "w")})
    with pytest.raises(SystemExit, match=r"^The training ends: there are labels of 0 patient\(s\), .*[^\n]$"):
        app.train({"model": QUALITY})
    torn = MammogramError("/srv/labels/final/left.nrrd", "it is torn", "Save it again")
    with patch.object(BundleTraining, "__call__", side_effect=torn), pytest.raises(SystemExit) as ended:
        app.train({"model": QUALITY})
    assert str(ended.value) == "The training ends: it is torn. Save it again.", "which the server logs"


def test_the_values_on_offer_are_the_bundles_own(training: BundleTraining) -> None:
    offered = training.config()
    assert offered["epochs"] == 50
    assert offered["learning_rate"] == 0.0003


def test_a_failed_training_leaves_the_former_weights(small_bundles: Path, tmp_path: Path) -> None:
    former = tmp_path / "model.pt"
    former.write_bytes(b"former weights")

    def torn(_: Any, folder: Path, *__: Any) -> Path:
        folder.mkdir(parents=True)
        (folder / "dataset.json").write_text("{}")
        return folder / "dataset.json"

    with pytest.raises(MammogramError, match="no entries under 'training'"):
        BundleTraining(small_bundles / QUALITY, former, torn, {}, "")({}, MammogramDatastore(tmp_path / "studies"))
    assert former.read_bytes() == b"former weights"


def test_a_training_that_fills_the_disk_says_so_and_leaves_nothing_there(
    small_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filling(_: Any, folder: Path, *__: Any) -> Path:
        folder.mkdir(parents=True)
        (folder.parent / "weights.pt").write_bytes(b"all that there was space for")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 928576 vs 928468")

    def write(file: Path, content: Any) -> None:
        if (file.parent / "weights.pt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        write_json(file, content)

    monkeypatch.setattr(progress, "write_json", write)
    training = BundleTraining(small_bundles / QUALITY, tmp_path / "model.pt", filling, {}, "")
    with pytest.raises(RuntimeError):
        training({}, MammogramDatastore(tmp_path / "studies"))
    state = read_progress(training.history.run)
    assert (state["phase"], state["reason"]) == ("failed", "No space left on device")
    assert os.listdir(training.history.run) == ["progress.json"]


def test_a_model_without_weights_says_how_to_train_it(small_bundles: Path, tmp_path: Path) -> None:
    model = ServedModel(small_bundles / SEGMENTATION, tmp_path / f"{SEGMENTATION}.pt", {"mode": "whole"})
    assert model.labels == {0: "background", 1: "tumour"}
    with pytest.raises(RequestRefused, match=r"monai\.bundle run") as refused:
        model(tmp_path / "any.dcm")
    assert refused.value.status == 503


def test_weights_that_cannot_be_loaded_say_how_to_restore_former_ones(bundles: Path, tmp_path: Path) -> None:
    weights = tmp_path / f"{SEGMENTATION}.pt"
    for broken in (b"torn", b""):
        weights.write_bytes(broken)
        with pytest.raises(RequestRefused, match="restore") as refused:
            ServedModel(bundles / SEGMENTATION, weights, {"mode": "whole"})(tmp_path / "any.dcm")
        assert refused.value.status == 503
    torch.save({"another": torch.zeros(1)}, weights)
    with pytest.raises(RequestRefused, match="restore"):
        ServedModel(bundles / SEGMENTATION, weights, {"mode": "whole"})(tmp_path / "any.dcm")


@pytest.fixture
def annotated(tmp_path: Path) -> MammogramDatastore:
    """Four patients, one image each, with the lesion as final label."""
    store = MammogramDatastore(tmp_path / "studies")
    add_annotated(store, tmp_path, *"abcd")
    return store


def add_annotated(store: MammogramDatastore, folder: Path, *patients: str) -> None:
    """Add images with their true labels to the folder."""
    pixels, lesion = blob()
    mask = folder / "mask.png"
    Image.fromarray(lesion.astype(np.uint8)).save(mask)
    for patient in patients:
        write_png(folder / "studies" / f"{patient}.png", pixels)
        store.refresh()
        store.save_label(patient, str(mask), "final", {})


@pytest.fixture
def whole(bundles: Path, tmp_path: Path) -> BundleTraining:
    """A training of the one-layer network whose own weights mark what is bright, which is exactly the lesion."""
    bundle = shutil.copytree(bundles / SEGMENTATION, tmp_path / "bundles" / SEGMENTATION)
    train, inference = (bundle / "configs" / name for name in ("train.yaml", "inference.yaml"))
    config = yaml.safe_load(train.read_text())
    config["network_def"] = yaml.safe_load(inference.read_text())["network_def"]
    train.write_text(yaml.safe_dump(config, sort_keys=False))
    weights = tmp_path / "weights" / f"{SEGMENTATION}.pt"
    return BundleTraining(bundle, weights, whole_datalist, {"mode": "whole", "device": "$torch.device('cpu')"}, "")


def test_weights_that_are_no_worse_are_served_and_the_run_can_be_repeated(
    whole: BundleTraining, annotated: MammogramDatastore
) -> None:
    """Learning nothing from where the bundle is: the same weights."""
    done = whole({**QUICK, "learning_rate": 0.0, "user": "ann"}, annotated)
    assert done["outcome"] == "accepted", done
    assert done["score"]["tumour"]["difference"] == 0
    assert done["score"]["tumour"]["patients"] == 2
    (record,) = whole.history.entries()
    assert record["settings"] == {**QUICK, "learning_rate": 0.0, "seed": 0, "pretrained": True}
    assert (record["user"], record["serving"], record["bundle"]) == ("ann", True, SEGMENTATION)
    run = whole.history.folder / "0001"
    config = json.loads((run / "config.json").read_text())
    assert config["initial_weights_sha256"] == sha256(whole.bundle / "models" / "model_whole.pt")
    assert (run / "configs" / "train.yaml").read_text() == (whole.bundle / "configs" / "train.yaml").read_text()
    datalist = json.loads((run / "data" / "dataset.json").read_text())
    assert len(datalist["validation"]) == 2
    for entry in datalist["training"] + datalist["validation"]:
        for key in ("image", "label"):
            assert (run / "data" / entry[key]).is_file(), "the datalist holds where the run was moved to"
    assert not list(run.rglob("checkpoint*"))
    assert (whole.stats()["epoch"], whole.stats()["total_epochs"]) == (1, 1)


def test_worse_weights_are_refused_and_kept_for_inspection(
    whole: BundleTraining, annotated: MammogramDatastore
) -> None:
    done = whole({**QUICK, "learning_rate": 0.0, "pretrained": False}, annotated)
    assert done["outcome"] == "refused"
    assert "touch no tumour" in done["reason"]
    assert done["score"]["tumour"]["served"] > 0.9
    assert not whole.history.served.exists(), "the bundle's own weights stay in service"
    assert whole.history.current() == 0
    assert (whole.history.folder / "0001" / "weights.pt").is_file()


def test_falls_that_were_excused_are_remembered_with_the_weights_in_service(
    whole: BundleTraining, annotated: MammogramDatastore
) -> None:
    whole({**QUICK, "learning_rate": 0.0}, annotated)
    file = whole.history.folder / "0001" / "record.json"
    record = json.loads(file.read_text())
    record["score"]["tumour"]["behind"] = 0.009
    write_json(file, record)
    same = whole({**QUICK, "learning_rate": 0.0}, annotated)
    assert same["score"]["tumour"]["served_behind"] == same["score"]["tumour"]["behind"] == 0.009
    whole.history.restore(0, "ann")
    again = whole({**QUICK, "learning_rate": 0.0}, annotated)
    assert again["score"]["tumour"]["behind"] == 0, "the bundle's own weights were judged by nobody here"


def test_a_training_that_diverges_fails_with_a_remedy_and_its_state_can_be_asked(
    small_bundles: Path, annotated: MammogramDatastore, tmp_path: Path
) -> None:
    values = {"mode": "whole", "device": "$torch.device('cpu')"}
    training = BundleTraining(small_bundles / SEGMENTATION, tmp_path / "model.pt", whole_datalist, values, "")
    with pytest.raises(MammogramError, match=r"training has diverged: .* tensors .*Lower the learning rate"):
        training({**QUICK, "epochs": 3, "learning_rate": 1e30}, annotated)
    assert training.history.entries() == []
    assert not training.history.served.exists()
    state = read_progress(training.history.run)
    assert "has diverged" in state["reason"]
    json.dumps(state, allow_nan=False)


def test_one_seed_gives_the_same_weights_to_the_bit_and_another_others(
    whole: BundleTraining, annotated: MammogramDatastore
) -> None:
    values = {**QUICK, "learning_rate": 0.01, "pretrained": False}
    for seed in (5, 5, 6):
        whole({**values, "seed": seed}, annotated)
    third, second, first = (entry["sha256"] for entry in whole.history.entries())
    assert first == second != third


def test_the_first_patients_of_validation_judge_every_later_training(
    whole: BundleTraining, annotated: MammogramDatastore, tmp_path: Path
) -> None:
    def sections(number: int) -> dict[str, set[str]]:
        text = (whole.history.folder / f"{number:04d}" / "data" / "dataset.json").read_text()
        return {side: {entry["patient"] for entry in json.loads(text)[side]} for side in ("training", "validation")}

    whole({**QUICK, "learning_rate": 0.0}, annotated)
    add_annotated(annotated, tmp_path, *"efgh")
    whole({**QUICK, "learning_rate": 0.0, "seed": 9}, annotated)
    assert sections(1)["validation"] < sections(2)["validation"]
    assert sections(1)["training"] < sections(2)["training"]


@pytest.mark.parametrize("after", ["follow", "comparing"])
def test_a_training_whose_server_is_gone_ends_and_puts_nothing_into_service(
    whole: BundleTraining, annotated: MammogramDatastore, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Gone when the first step begins, or after the last image has been compared."""
    step = getattr(Progress, after)

    def orphaned(progress: Progress, *given: Any) -> None:
        step(progress, *given)
        if after == "follow" or given == (1.0,):
            monkeypatch.setattr(os, "getppid", lambda: 1)

    monkeypatch.setattr(Progress, after, orphaned)
    with pytest.raises(RuntimeError):
        whole({**QUICK, "learning_rate": 0.0}, annotated)
    assert whole.history.entries() == []
    assert read_progress(whole.history.run)["reason"] == "the server that had started this training is gone"


def test_weights_in_service_that_do_not_load_give_way_and_are_kept(
    whole: BundleTraining, annotated: MammogramDatastore
) -> None:
    whole.history.served.parent.mkdir()
    whole.history.served.write_bytes(b"torn")
    inference = whole.bundle / "configs" / "inference.yaml"
    inference.write_text(inference.read_text().replace("peak: 0.9", "peak: 0.5"))  # it is sure of nothing yet
    done = whole({**QUICK, "learning_rate": 0.0}, annotated)
    assert done["outcome"] == "accepted"
    assert "no working weights" in done["reason"]
    assert [entry["outcome"] for entry in whole.history.entries()] == ["accepted", "found"]


def test_a_restoration_during_a_training_is_compared_with(
    whole: BundleTraining, annotated: MammogramDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judgement holds for what is in service when the new weights are about to come, not for what was before."""
    whole({**QUICK, "learning_rate": 0.0}, annotated)
    served, keep = whole.history.in_service(), whole.history.keep
    compared = []

    def restored_meanwhile(record: dict[str, Any], compared_with: str | None) -> int:
        compared.append(compared_with)
        if len(compared) == 1:
            whole.history.restore(0, "ann")
        return keep(record, compared_with)

    monkeypatch.setattr(whole.history, "keep", restored_meanwhile)
    assert whole({**QUICK, "learning_rate": 0.0}, annotated)["number"] == 2
    assert compared == [served, None]
