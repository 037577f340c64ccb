"""The border-only probe: blind to samples that are made well, not blind to traces, and fair about patients."""

import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from monai_mammo.cli import app
from monai_mammo.datasets import cli
from monai_mammo.datasets.border_probe import LIMIT, border_probe, field_shape, frame_statistics, frame_strips
from monai_mammo.datasets.truncation import breast_of, make_sample
from monai_mammo.dicom import MammogramError

FRAME_PROBES = ("outer 5 % frame", "frame's statistics")


def breast(generator, rows=120, columns=100):
    """A textured breast of random size and its outline: chest wall on the left, air on the other sides."""
    row, column = np.mgrid[:rows, :columns]
    height, depth = generator.uniform(0.3, 0.42), generator.uniform(0.5, 0.8)
    mask = ((row / rows - 0.5) / height) ** 2 + (column / columns / depth) ** 2 < 1
    coarse = generator.uniform(0.3, 0.9, (rows // 10, columns // 10))
    return (np.kron(coarse, np.ones((10, 10))) * mask).astype(np.float32), mask


def write(folder, make, patients=16):
    """A data set of two images a patient, one of each class, in the sections that `prepare` writes."""
    folder.mkdir()
    document = {"training": [], "validation": [], "test": []}
    for patient in range(patients):
        pixels, mask = breast(np.random.default_rng(patient))
        for label in (0, 1):
            image = make(pixels, mask, label, np.random.default_rng([patient, label]))
            name = f"{patient}_{label}.png"
            Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8)).save(folder / name)
            section = list(document)[patient % 3]
            document[section].append({"image": name, "label": label, "patient": f"P{patient}"})
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def sampled(pixels, mask, label, generator):
    return make_sample(breast_of(pixels, mask, "CC", 96), generator, 96, label=label).pixels


def cut_with_scissors(pixels, mask, label, generator):
    """What a careless generator does: the border of the incomplete class runs through tissue."""
    return pixels[: 60 if label else 120]


def brightened(pixels, mask, label, generator):
    """A trace that no frame's shape shows: the incomplete class has a fainter black."""
    return np.maximum(sampled(pixels, mask, 0, generator), 0.012 * label)


def smaller_field(pixels, mask, label, generator):
    """A trace that no border shows: the incomplete class has a smaller field."""
    sample = sampled(pixels, mask, 0, generator)
    return np.pad(sample[::2, ::2], 24) if label else sample


def found(folder):
    return {(result.features, result.classifier): result for result in border_probe(folder)}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write(tmp_path_factory.mktemp("probe") / "good", sampled)


def test_samples_of_the_generator_pass(good):
    results = found(good)
    assert len(results) == 8
    for (features, _), result in results.items():
        assert 0 <= result.interval[0] <= result.balanced_accuracy <= result.interval[1] <= 1
        if features in FRAME_PROBES:
            assert result.judged
            assert result.balanced_accuracy <= LIMIT
            assert result.passed


@pytest.mark.parametrize(
    ("make", "features"),
    [
        (cut_with_scissors, FRAME_PROBES),
        (brightened, FRAME_PROBES),
        (smaller_field, ("exposed field's shape",)),
    ],
)
def test_a_trace_is_found_where_it_is(tmp_path, make, features):
    results = found(write(tmp_path / "traced", make))
    for (name, _), result in results.items():
        if name in features:
            assert result.balanced_accuracy > 0.9
            assert not result.passed


def test_what_is_learnt_of_a_patient_does_not_count(tmp_path):
    """Frames that give the patient away, and a patient's images all of one class: only a leak could pass."""

    def personal(pixels, mask, label, generator):
        image = np.zeros((64, 64), np.float32)
        image[:4] = pixels[50, 10:74]
        return image

    folder = write(tmp_path / "personal", personal, patients=30)
    document = json.loads((folder / "dataset.json").read_text())
    sides = np.random.default_rng(0).integers(2, size=30)
    for entries in document.values():
        for entry in entries:
            entry["label"] = int(sides[int(entry["patient"][1:])])
    (folder / "dataset.json").write_text(json.dumps(document))
    for result in border_probe(folder):
        assert result.balanced_accuracy < 0.75


def test_the_answer_is_the_same_every_time(good):
    assert border_probe(good, seed=3) == border_probe(good, seed=3)


@pytest.mark.parametrize("shape", [(400, 30), (30, 400), (9, 9)])
def test_the_frame_is_all_that_the_frame_probes_see(shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    changed = image.copy()
    margins = [max(1, round(0.05 * side)) for side in shape]
    changed[margins[0] : -margins[0], margins[1] : -margins[1]] = 0
    np.testing.assert_array_equal(frame_strips(image), frame_strips(changed))
    np.testing.assert_array_equal(frame_statistics(image), frame_statistics(changed))
    assert frame_strips(image).shape == (256,)
    assert np.isfinite(frame_statistics(image)).all()


def test_the_fields_shape_does_not_depend_on_what_the_field_shows():
    image = np.zeros((64, 64), np.float32)
    image[10:50, 20:40] = np.random.default_rng(0).uniform(0.1, 1.0, (40, 20))
    np.testing.assert_array_equal(field_shape(image), field_shape((image > 0).astype(np.float32)))
    assert np.isfinite(field_shape(np.zeros((64, 64), np.float32))).all()


def test_the_command_prints_every_probe_and_ends_with_the_verdict(good, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "console", Console(width=160))  # wide enough for every cell in one line
    run = CliRunner().invoke(app, ["border-probe", str(good)])
    assert run.exit_code == 0, run.output
    for word in (*FRAME_PROBES, "random forest", "logistic regression", "passed", " to "):
        assert word in run.output
    bad = write(tmp_path / "bad", cut_with_scissors)
    run = CliRunner().invoke(app, ["border-probe", str(bad)])
    assert run.exit_code == 1
    assert "FAILED" in run.output


def one_class(document):
    return {section: [entry for entry in entries if entry["label"]] for section, entries in document.items()}


def few_patients(document):
    return {section: [e for e in entries if int(e["patient"][1:]) < 5] for section, entries in document.items()}


def no_patient(document):
    del document["training"][0]["patient"]
    return document


def other_labels(document):
    document["training"][0]["label"] = "0"
    return document


def nothing(document):
    return {section: [] for section in document}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (one_class, "one class"),
        (few_patients, "patients are too few"),
        (no_patient, "lacks a label 0 or 1, or a patient"),
        (other_labels, "lacks a label 0 or 1, or a patient|does not exist"),
        (nothing, "no entries"),
    ],
)
def test_a_data_set_that_cannot_be_probed_is_refused(good, tmp_path, change, reason):
    document = json.loads((good / "dataset.json").read_text())
    for entries in document.values():
        for entry in entries:
            entry["image"] = str(good / entry["image"])
    (tmp_path / "dataset.json").write_text(json.dumps(change(document)))
    with pytest.raises(MammogramError, match=reason):
        border_probe(tmp_path)


def test_a_folder_without_a_datalist_is_refused_by_the_command(tmp_path):
    run = CliRunner().invoke(app, ["border-probe", str(tmp_path)])
    assert run.exit_code == 1
    assert "there is no datalist here" in " ".join(run.output.split())
