"""The bundles at work on phantoms: train, evaluate, infer, export, resume, two processes, bad datalists."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ckpt_export, onnx_export
from PIL import Image

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.predictor import Predictor

from .conftest import CASES, SMALL, copy_of, run_config

pytestmark = pytest.mark.slow

TRAINING = ("monai.bundle", "run", "training", "--config_file")
TWO_PROCESSES = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
BOTH = "['configs/train.yaml','configs/multi_gpu_train.yaml']"


@contextmanager
def raises_cause(kind, match):
    """MONAI wraps what goes wrong in a config's expression: the first cause is what counts."""
    with pytest.raises(RuntimeError) as caught:
        yield
    cause = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, kind)
    assert re.search(match, str(cause)), str(cause)


def command_line(values) -> list[str]:
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def train(case, bundle, dataset_dir, **values) -> None:
    run_config(bundle, ["train.yaml"], "training", dataset_dir=str(dataset_dir), **{**case.values, **SMALL, **values})


@pytest.fixture(scope="module")
def trained(case, root, phantoms, tmp_path_factory):
    """The case's bundle after two epochs; tests write into `tmp_path`, not into it."""
    bundle = copy_of(root / "bundles" / case.bundle, tmp_path_factory.mktemp("trained"))
    train(case, bundle, phantoms / case.datalist, epochs=2, cosine=True, output_dir=str(bundle / "run"))
    return bundle


def network_of(case, bundle) -> Predictor:
    values = {key: value for key, value in (case.values | SMALL).items() if key not in ("batch_size", "num_workers")}
    return Predictor(bundle, overrides=values)


def test_the_quality_bundle_learns_from_samples_made_anew_in_every_epoch(root, phantoms, tmp_path):
    """The originals alone have no labels: what is learnt comes from samples made on the fly."""
    document = json.loads((phantoms / "quality" / "dataset.json").read_text())
    complete = [entry for entry in document["training"] if entry["label"] == 0]
    document["originals"] = [{key: value for key, value in entry.items() if key != "label"} for entry in complete]
    del document["training"]
    for entry in [*document["originals"], *document["validation"]]:
        entry["image"] = str((phantoms / "quality" / entry["image"]).resolve())
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    case = CASES["quality"]
    bundle = copy_of(root / "bundles" / case.bundle, tmp_path)
    online = {"learn_from": "originals", "samples_per_image": 2, "sample_size": 96, "cosine": True}
    train(case, bundle, tmp_path, epochs=1, output_dir=str(tmp_path / "run"), **online)
    assert (bundle / "models" / "model.pt").is_file()


def test_one_epoch_from_the_command_line_on_a_named_device_leaves_weights_and_a_log(case, bundle, phantoms):
    where = {"bundle_root": bundle, "dataset_dir": phantoms / case.datalist, "device": "cpu"}
    values = {**where, "epochs": 1, **case.values, **SMALL}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "monai.bundle",
            "run",
            "training",
            "--config_file",
            "configs/train.yaml",
            *command_line(values),
        ],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loss" in done.stderr  # the progress bar
    state = torch.load(bundle / "models" / case.weights, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert list((bundle / "eval").rglob("events.out.tfevents*"))


def test_evaluation_reports_every_metric_with_an_interval(case, trained, phantoms, tmp_path):
    run_config(
        trained,
        ["train.yaml", "evaluate.yaml"],
        "evaluating",
        dataset_dir=str(phantoms / case.datalist),
        output_dir=str(tmp_path / "out"),
        resamples=50,
        section="training",
        **case.values,
        **SMALL,
    )
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = (
        {"accuracy", "balanced_accuracy", "auc_incomplete", "auc_complete"}
        if case.datalist == "quality"
        else {"mean_dice", "mean_iou", "pooled_dice", "pooled_iou", "two_class_mean_iou", "missed"}
    )
    assert expected <= set(report["metrics"])
    assert report["patients"] == 4
    for name in expected:
        entry = report["metrics"][name]
        assert entry["low"] <= entry["value"] <= entry["high"]
    with (tmp_path / "out" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    entries = json.loads((phantoms / case.datalist / "dataset.json").read_text())["training"]
    assert [row["image"] for row in rows] == [entry["image"] for entry in entries]
    assert [row.get("box", "") for row in rows] == [str(entry.get("box", "")) for entry in entries]
    assert len(rows) == report["images"]
    if case.datalist == "quality":
        assert sum(report["confusion_matrix"].values()) == report["images"]


def test_inference_gives_a_result_for_every_image_at_its_own_size(case, trained, phantoms, tmp_path):
    values = {key: value for key, value in (case.values | SMALL).items() if key not in ("batch_size", "num_workers")}
    run_config(
        trained,
        ["inference.yaml"],
        "run",
        workflow_type="infer",
        dataset_dir=str(phantoms / case.datalist),
        output_dir=str(tmp_path / "out"),
        **values,
    )
    entries = json.loads((phantoms / case.datalist / "dataset.json").read_text())["test"]
    if case.datalist == "quality":
        with (tmp_path / "out" / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["image"] for row in rows] == [entry["image"] for entry in entries]
        assert all(float(row["complete"]) + float(row["incomplete"]) == pytest.approx(1, abs=1e-3) for row in rows)
    else:
        masks = sorted((tmp_path / "out").rglob("*.png"))
        assert len(masks) == len(entries)
        for mask in masks:
            assert Image.open(mask).size == (256, 320)


def test_one_bad_file_costs_a_folder_no_other_image_s_result(case, trained, phantoms, tmp_path):
    if case.values.get("mode") == "roi":
        pytest.skip("a region needs a datalist with boxes")
    folder = tmp_path / "in"
    source = next(phantoms.rglob("*.dcm"))
    (folder / "cd").mkdir(parents=True)
    for name in ("1.2.826.1", "1.2.826.2"):
        shutil.copy(source, folder / "cd" / name)
    (folder / "DICOMDIR").write_bytes(b"no image")
    (folder / "torn.dcm").write_bytes(source.read_bytes()[:-5000])
    values = {key: value for key, value in (case.values | SMALL).items() if key not in ("batch_size", "num_workers")}
    out = tmp_path / "out"
    run_config(trained, ["inference.yaml"], "run", "infer", dataset_dir=str(folder), output_dir=str(out), **values)
    if case.datalist == "quality":
        with (out / "predictions.csv").open() as file:
            done = [row["image"] for row in csv.DictReader(file)]
    else:
        done = sorted(str(mask.relative_to(out).with_suffix("")) for mask in out.rglob("*.png"))
    assert done == ["cd/1.2.826.1", "cd/1.2.826.2"]


def test_the_exported_networks_compute_the_same(case, trained, tmp_path):
    predictor = network_of(case, trained)
    size = predictor.parser.get_parsed_content("size")
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = predictor.network(image)
    common = {
        "net_id": "network_def",
        "meta_file": str(trained / "configs" / "metadata.json"),
        "config_file": str(trained / "configs" / "inference.yaml"),
        "ckpt_file": str(trained / "models" / case.weights),
        "bundle_root": str(trained),
        "width": SMALL["width"],
    }
    ckpt_export(filepath=str(tmp_path / "model.ts"), **common)
    scripted = torch.jit.load(str(tmp_path / "model.ts"))
    torch.testing.assert_close(scripted(image), expected, rtol=1e-4, atol=1e-5)
    onnx_export(filepath=str(tmp_path / "model.onnx"), input_shape=[1, 3, *size], **common)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_a_resumed_run_goes_on_where_the_last_whole_checkpoint_is(case, trained, phantoms, tmp_path):
    bundle = shutil.copytree(trained, tmp_path / trained.name)
    torn = bundle / "run" / "checkpoint_epoch=2.pt"
    torn.write_bytes(torn.read_bytes()[:1000])  # as a process killed while it wrote leaves it
    first = torch.load(bundle / "run" / "checkpoint_epoch=1.pt", weights_only=True)
    values = {"epochs": 2, "resume": True, "cosine": True, "output_dir": str(bundle / "run"), "batch_size": 1}
    train(case, bundle, phantoms / case.datalist, **values)
    again = torch.load(torn, weights_only=True)
    entries = json.loads((phantoms / case.datalist / "dataset.json").read_text())["training"]
    assert first["trainer"]["iteration"] < len(entries)
    assert again["trainer"]["iteration"] == 2 * len(entries)  # every image of the epoch, in smaller batches
    assert again["best"]["best"] >= first["best"]["best"]


def test_a_training_that_would_end_unvalidated_does_not_begin(case, bundle, phantoms):
    with raises_cause(MammogramError, r"val_interval: every 2 of 1 epochs .* would be lost\. Give a divisor"):
        train(case, bundle, phantoms / case.datalist, epochs=1, val_interval=2)


def in_two_processes(bundle, entry, files, **values) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", *TWO_PROCESSES, "-m", "monai.bundle", "run", entry, "--config_file", files),
            *command_line({"bundle_root": bundle, "device": "cpu", **values}),
        ],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_together(case, bundle, phantoms):
    values = {"dataset_dir": phantoms / case.datalist, "epochs": 1, **case.values, **SMALL}
    in_two_processes(bundle, "training", BOTH, **values)
    state = torch.load(bundle / "models" / case.weights, weights_only=True)
    network = network_of(case, bundle).parser.get_parsed_content("network_def")
    network.load_state_dict(state)  # the plain network's names, no wrapper's


def masks_of_rows(folder) -> list[str]:
    with (folder / "per_image.csv").open() as file:
        return [row["mask"] for row in csv.DictReader(file)]


def test_two_processes_evaluate_to_the_numbers_of_one(case, trained, phantoms, tmp_path):
    """The intervals, too: they depend on the order of the records. And every row has its own mask."""
    files = "['configs/train.yaml','configs/evaluate.yaml','configs/multi_gpu_train.yaml']"
    folder = shutil.copytree(phantoms, tmp_path / "phantoms") / case.datalist
    if case.values.get("mode") == "roi":  # several lesions of one image: each process has some
        document = json.loads((folder / "dataset.json").read_text())
        document["training"][1:1] = [{**document["training"][0], "box": [60, 40, 110, 80]}, document["training"][0]]
        (folder / "dataset.json").write_text(json.dumps(document))
    values = {"dataset_dir": str(folder), "section": "training", "resamples": 50, **case.values, **SMALL}
    values |= {"masks": True} if "mode" in case.values else {}
    in_two_processes(trained, "evaluating", files, **values, output_dir=tmp_path / "two")
    run_config(trained, ["train.yaml", "evaluate.yaml"], "evaluating", **values, output_dir=str(tmp_path / "one"))
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert two == one
    if "mode" in case.values:
        masks, again = (masks_of_rows(tmp_path / name) for name in ("one", "two"))
        assert masks == again
        assert len(masks) == len(set(masks)) == two["images"]
        assert all((tmp_path / "two" / mask).read_bytes() == (tmp_path / "one" / mask).read_bytes() for mask in masks)


def test_a_missing_file_is_named_before_training_starts(case, bundle, phantoms, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    document = json.loads((phantoms / case.datalist / "dataset.json").read_text())
    document["training"][0]["image"] = "gone.dcm"
    (folder / "dataset.json").write_text(json.dumps(document))
    with raises_cause(MammogramError, match=r"gone\.dcm.*does not exist"):
        train(case, bundle, folder, epochs=1)


@pytest.mark.parametrize("section", ["training", "validation", "test"])
def test_an_entry_without_a_patient_is_named_before_anything_runs(case, bundle, phantoms, tmp_path, section):
    folder = shutil.copytree(phantoms, tmp_path / "phantoms") / case.datalist
    document = json.loads((folder / "dataset.json").read_text())
    del document[section][0]["patient"]
    (folder / "dataset.json").write_text(json.dumps(document))
    with raises_cause(MammogramError, match=rf"{section}\[0\] names no patient"):
        if section == "test":
            values = {"dataset_dir": str(folder), **case.values, **SMALL}
            run_config(bundle, ["train.yaml", "evaluate.yaml"], "evaluating", **values)
        else:
            train(case, bundle, folder, epochs=1)


def test_a_validation_without_a_lesion_chooses_no_weights(case, bundle, phantoms, tmp_path):
    if case.datalist == "quality":
        pytest.skip("the quality task has no lesions")
    folder = shutil.copytree(phantoms, tmp_path / "phantoms") / case.datalist
    for entry in json.loads((folder / "dataset.json").read_text())["validation"]:
        with Image.open(folder / entry["label"]) as mask:
            Image.new("L", mask.size).save(folder / entry["label"])
    weights = bundle / "models" / case.weights
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"shipped")
    with raises_cause(MammogramError, match=r"no weights are kept here: .* is not a number.*with lesions"):
        train(case, bundle, folder, epochs=1)
    assert weights.read_bytes() == b"shipped"


@pytest.mark.parametrize("section", ["training", "validation", "test"])
def test_mode_whole_refuses_an_entry_a_lesion_before_anything_runs(root, phantoms, tmp_path, section):
    case, folder = CASES["whole"], shutil.copytree(phantoms, tmp_path / "phantoms") / "segmentation_whole"
    document = json.loads((folder / "dataset.json").read_text())
    document[section].append(document[section][0])
    (folder / "dataset.json").write_text(json.dumps(document))
    files = ["train.yaml", "evaluate.yaml"] if section == "test" else ["train.yaml"]
    run_id, values = "evaluating" if section == "test" else "training", {**case.values, **SMALL}
    with raises_cause(MammogramError, match=rf"1 image\(s\) of {section} have several entries"):
        run_config(copy_of(root / "bundles" / case.bundle, tmp_path), files, run_id, dataset_dir=str(folder), **values)


def test_a_mask_of_another_size_is_named(case, bundle, phantoms, tmp_path):
    if case.datalist == "quality":
        pytest.skip("the quality task has no masks")
    folder = shutil.copytree(phantoms, tmp_path / "phantoms") / case.datalist
    document = json.loads((folder / "dataset.json").read_text())
    Image.new("L", (100, 50), 255).save(folder / "odd.png")
    document["training"][0]["label"] = "odd.png"
    (folder / "dataset.json").write_text(json.dumps(document))
    with raises_cause(MammogramError, match=r"odd\.png.*\(50, 100\)"):
        train(case, bundle, folder, epochs=1)


def test_an_empty_folder_is_named(case, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    values = {key: value for key, value in (case.values | SMALL).items() if key not in ("batch_size", "num_workers")}
    with raises_cause(MammogramError, match="no image in this folder"):
        run_config(
            trained, ["inference.yaml"], "run", workflow_type="infer", dataset_dir=str(tmp_path / "empty"), **values
        )
