"""Training from the server: annotations in, new weights served, the former ones safe."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from lib.models import ServedModel
from lib.trainers import BundleTraining
from main import MammoApp
from PIL import Image

from monai_mammo.datasets.phantom import PhantomImage, read_truth, write_phantoms
from monai_mammo.dicom.errors import MammogramError

from .conftest import APP, LESION, QUALITY, SEGMENTATION, Server, start_server, stop_server

VALUES = {"epochs": 1, "batch_size": 4, "num_workers": 0, "validation": 0.34}


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


def finish(server: Server) -> dict[str, Any]:
    """Wait for the training in progress; its last status."""
    while True:
        status = server.http.get("/train/").json()
        if status["status"] in ("DONE", "ERROR", "STOPPED"):
            return dict(status)
        time.sleep(0.5)


@pytest.fixture(scope="module")
def server(studies: tuple[Path, list[PhantomImage]], small_bundles: Path, tmp_path_factory: Any) -> Any:
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

    assert server.http.post(f"/train/{SEGMENTATION}", json=VALUES).status_code == 200
    failed = finish(server)
    assert failed["status"] == "ERROR"
    assert "0 patient" in "".join(failed["details"])

    annotate(server, studies[1])
    for model in (SEGMENTATION, QUALITY):
        assert server.http.post(f"/train/{model}", json=VALUES).status_code == 200
        done = finish(server)
        assert done["status"] == "DONE", "\n".join(done["details"])
        assert (server.weights / f"{model}.pt").is_file()
        assert server.infer(model, image_id).status_code == 200
    # The third as the process does it that the server starts for a training.
    conf = {"bundles": str(small_bundles), "weights": str(server.weights), "device": "cpu"}
    MammoApp(str(APP), str(studies[0]), conf).train({"model": LESION, **VALUES})
    assert server.infer(LESION, image_id, point=[60, 40]).status_code == 200


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
        {"validation": 1},
        {"seed": None},
    ],
)
def test_a_value_that_is_no_fitting_number_is_refused_before_anything_is_read(
    training: BundleTraining, tmp_path: Path, request_: dict[str, Any]
) -> None:
    with pytest.raises(RequestRefused) as refused:
        training(request_, MammogramDatastore(tmp_path / "studies"))
    assert refused.value.status == 400


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


def test_a_model_without_weights_says_how_to_train_it(small_bundles: Path, tmp_path: Path) -> None:
    model = ServedModel(small_bundles / SEGMENTATION, tmp_path / f"{SEGMENTATION}.pt", {"mode": "whole"})
    assert model.labels == {0: "background", 1: "tumour"}
    with pytest.raises(RequestRefused, match=r"monai\.bundle run") as refused:
        model(tmp_path / "any.dcm")
    assert refused.value.status == 503
