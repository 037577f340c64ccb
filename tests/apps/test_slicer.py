"""A day's work in 3D Slicer, by the client code that runs inside it, against a running server.

What is sent, and what becomes of the answers, is what the module's own code does (`MONAILabel.py` of the plugin); the
single requests and their refusals are tested in test_server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK

from . import test_server
from .conftest import LESION, QUALITY, SEGMENTATION, Server, blob, write_dicom, write_png

pytestmark = pytest.mark.slow
slicer = test_server.slicer
TO_RAS = np.array([-1.0, -1.0, 1.0])  # DICOM and ITK say left, posterior, superior; Slicer right, anterior, superior


@pytest.fixture
def annotator(slicer: ModuleType, server: Server, tmp_path: Path) -> Callable[[str], Any]:
    """Slicer's client of a person, as Settings, MONAI Label, Client/User-ID names them."""

    def connect(name: str) -> Any:
        return slicer.MONAILabelClient(server.url, str(tmp_path), name)

    return connect


def infer(client: Any, model: str, image: str, session: str | None = None, **params: Any) -> tuple[Any, Any]:
    """The mask and the parameters of a model's answer, asked for as `MONAILabelLogic.infer` does."""
    asked = {**params, "result_extension": ".nrrd", "result_dtype": "uint8"}
    file, answer = client.infer(model, image, asked, None, None, session)
    return SimpleITK.ReadImage(file), answer


def markup(volume: SimpleITK.Image, row: int, column: int) -> list[float]:
    """Where a click on a pixel puts a control point (RAS, in mm)."""
    place = volume.TransformIndexToPhysicalPoint([column, row, 0][: volume.GetDimension()])
    return list(TO_RAS * np.array([*place, 0.0][:3]))


def to_ijk(volume: SimpleITK.Image, ras: list[float]) -> list[int]:
    """A control point as `getControlPointsXYZ` sends it."""
    place = (TO_RAS * np.array(ras)).tolist()
    return [round(value) for value in volume.TransformPhysicalPointToContinuousIndex(place[: volume.GetDimension()])]


def places(mask: SimpleITK.Image) -> np.ndarray:
    """Where the pixels of a mask lie (RAS, in mm)."""
    slice_, rows, columns = np.nonzero(SimpleITK.GetArrayFromImage(mask))
    indices = np.stack([columns, rows, slice_], axis=1).astype(float).tolist()
    return np.array([TO_RAS * mask.TransformContinuousIndexToPhysicalPoint(index) for index in indices])


def test_info_fills_every_list_of_the_module(annotator: Callable[[str], Any]) -> None:
    info = annotator("ann").info()
    kinds = {name: model["type"] for name, model in info["models"].items()}
    assert [name for name, kind in kinds.items() if kind == "segmentation"] == [QUALITY, SEGMENTATION]
    assert [name for name, kind in kinds.items() if kind in ("deepgrow", "deepedit")] == [LESION]
    assert info["models"][LESION]["dimension"] == 3, "2 would take Slicer through its slow path"
    assert "random" in info["strategies"]
    for trainer in info["trainers"].values():
        for value in trainer["config"].values():
            assert isinstance(value, bool | int | float), "the table of options edits these as they are"
    assert info["datastore"]["total"] >= info["datastore"]["completed"]


def test_from_the_next_sample_to_the_submitted_label(
    server: Server, annotator: Callable[[str], Any], tmp_path: Path
) -> None:
    """Next Sample, Run, a click in SmartEdit, Submit Label; another annotator works beside."""
    lesion = blob()[1]
    for number in range(9):  # more cases than the two ask for
        write_dicom(server.studies / "slicer" / f"{number}.dcm", blob()[0], patient=70 + number, spacing=0.07)
    ann, bea = annotator("ann"), annotator("bea")
    sample = ann.next_sample("random", {})
    assert bea.next_sample("random", {})["id"] != sample["id"]

    image = "slicer-0"
    volume = SimpleITK.ReadImage(str(server.studies / "slicer" / "0.dcm"))
    mask, params = infer(ann, SEGMENTATION, image)
    labels = [name for name, _ in sorted(params["label_names"].items(), key=lambda item: item[1])]
    assert labels == ["tumour"], "the names of the segments"

    point = markup(volume, 40, 24)
    sent: dict[str, Any] = {
        "label": "tumour",
        "foreground": [to_ijk(volume, point)],
        "background": [],
        "reset_state": True,
    }
    crop, _ = infer(ann, LESION, image, **sent)
    for answer in (mask, crop):
        where = places(answer)
        assert np.abs(where - np.array(point)).max(axis=1).min() < 0.035, "the clicked pixel is part of the mask"
        found = SimpleITK.GetArrayFromImage(answer)[0] > 0
        assert (found & lesion).sum() > 0.9 * found.sum()
    truth = SimpleITK.GetImageFromArray(lesion[None].astype(np.uint8))
    truth.CopyInformation(volume)
    assert np.abs(places(mask).mean(axis=0) - places(truth).mean(axis=0)).max() < 0.07, "a pixel"

    quality, params = infer(ann, QUALITY, image)
    assert list(params["label_names"]) == [params["quality"]["verdict"]]
    assert quality.GetSize() == (90, 120, 1)

    file = tmp_path / "tmpabc.nii.gz"
    submitted = mask * 3  # Slicer makes a segment of each label that the server knows, most of them empty
    SimpleITK.WriteImage(submitted, str(file))
    segments = [{"name": name, "idx": number + 1} for number, name in enumerate(ann.info()["labels"])]
    assert segments[2]["name"] == "tumour"
    assert ann.save_label(image, str(file), params={"label_info": segments})["label"] == image
    kept = SimpleITK.ReadImage(ann.download_label(image, "final"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(kept), SimpleITK.GetArrayFromImage(submitted))
    again = [client.next_sample("random", {})["id"] for client in (ann, bea) for _ in range(3)]
    assert image not in again


def test_what_each_did_is_on_record(server: Server, annotator: Callable[[str], Any]) -> None:
    write_png(server.studies / "for-cid.png", blob()[0])  # so that something is free, whatever others have in hand
    sample = annotator("cid").next_sample("random", {})
    lines = (server.studies / "labels" / ".activity.jsonl").read_text().splitlines()
    handed = [json.loads(line) for line in lines if json.loads(line)["user"] == "cid"]
    assert (handed[-1]["action"], handed[-1]["image"]) == ("handed out", sample["id"])
    (server.studies / "for-cid.png").unlink()


def test_an_image_of_the_users_own_in_a_session(
    slicer: ModuleType, annotator: Callable[[str], Any], tmp_path: Path
) -> None:
    """File, Add Data, then SmartEdit; Submit Label takes the image itself to the server first."""
    own = test_server.write_volume(tmp_path / "own.nii.gz", blob()[0], turned=True)
    ann = annotator("ann")
    session = ann.create_session(str(own))["session_id"]
    assert ann.get_session(session)["name"] == session
    volume = SimpleITK.ReadImage(str(own))
    point = markup(volume, 40, 24)
    mask, _ = infer(ann, LESION, "", session, foreground=[to_ijk(volume, point)], background=[], label="tumour")
    assert np.abs(places(mask) - np.array(point)).max(axis=1).min() < 1e-3
    ann.remove_session(session)
    with pytest.raises(slicer.MONAILabelClientException):
        ann.get_session(session)
    ann.upload_image(str(own), "of-ann")
    label = test_server.write_volume(tmp_path / "label.nii.gz", blob()[1] / 255, turned=True)
    assert ann.save_label("of-ann", str(label))["label"] == "of-ann"


def test_a_click_on_the_background_alone_is_answered_with_what_to_do(
    slicer: ModuleType, server: Server, annotator: Callable[[str], Any]
) -> None:
    write_png(server.studies / "click.png", blob()[0])
    with pytest.raises(slicer.MONAILabelClientException) as refused:
        infer(annotator("ann"), LESION, "click", foreground=[], background=[[3, 3, 0]], label="tumour")
    assert "Give a point or a box" in refused.value.msg


def test_train_its_progress_bar_and_stop(slicer: ModuleType, server: Server, annotator: Callable[[str], Any]) -> None:
    for number, verdict in enumerate(("complete", "incomplete") * 2):
        write_png(server.studies / f"verdict{number}.png", blob()[0])
        server.http.put(
            "/datastore/image/info",
            params={"image": f"verdict{number}"},
            data={"info": json.dumps({"quality": verdict})},
        )
    ann = annotator("ann")
    assert not ann.train_status(check_if_running=True)
    params = ann.info()["trainers"][QUALITY]["config"] | {"epochs": 10_000, "batch_size": 2, "num_workers": 0}
    task = ann.train_start(QUALITY, params)
    assert task["id"]
    assert task["start_ts"]
    with pytest.raises(slicer.MONAILabelClientException) as refused:
        annotator("bea").train_start(SEGMENTATION, {})
    assert "in progress" in refused.value.msg
    while (status := ann.train_status()).get("progress", {}).get("epoch", 0) < 1:
        assert status["status"] in ("SUBMITTED", "RUNNING"), status
        time.sleep(0.2)
    assert ann.train_status(check_if_running=True)
    stats = next(iter(ann.info()["train_stats"].values()))
    assert 1 <= max(1, 100 * stats["epoch"] / stats["total_epochs"]) < 100
    assert 0 <= stats["best_metric"] <= 1
    stopped = ann.train_stop()
    assert stopped["status"] == "STOPPED"
    assert stopped["request"]["user"] == "ann"
    assert isinstance(stopped["details"][-1], str)
    assert not ann.train_status(check_if_running=True)
