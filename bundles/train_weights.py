"""Train the weights that ship with the bundles, test them, and put them in place.

    monai-mammo prepare cdd-cesm <CDD-CESM folder> data/cdd-cesm
    python bundles/train_weights.py --data data/cdd-cesm --out runs/weights [--install]

The quality model is trained in stages, small images first: the network has the same weights at any size, and most of
what it learns does not need fine detail. Its last stages vary contrast and sharpness, so that films do not look foreign
to it: begun with these, it would learn slowly. The segmentation learns on whole mammograms first; on crops it goes on
from there. Nothing is chosen by the test patients, and there is one seed, 0. What is done is not done again. Those that
ship took three minutes (`whole`, on an H200) and three quarters of an hour (`roi`, on a processor's core). `--install`
copies the weights into the bundles and writes their `models/SHA256SUMS` and the numbers of their model cards,
`docs/results_<name>.md`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_mammo.benchmark.card import card
from monai_mammo.bundles import running
from monai_mammo.datasets.datalist import Task
from monai_mammo.files import replacing, sha256, write_json

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Stage:
    """One run of a bundle's training: on which datalist, with which values."""

    name: str
    datalist: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A file of weights: which bundle's, what else its config must be told, and how it comes about."""

    task: Task
    title: str
    bundle: str
    weights: str
    values: dict[str, Any]
    stages: tuple[Stage, ...]
    start: str = ""
    """The model from whose weights the first stage goes on."""


_ONLINE = {"learn_from": "originals", "samples_per_image": 16, "batch_size": 32, "cosine": True}
_FOREIGN = {"contrast": 0.7, "blur": 0.7}

MODELS = {
    "quality": Model(
        "quality",
        "Complete or incomplete",
        "mammo_quality_classification",
        "model.pt",
        {},
        (
            Stage(
                "small",
                "quality",
                {**_ONLINE, "size": [96, 96], "sample_size": 112, "epochs": 16, "learning_rate": 0.001},
            ),
            Stage("full", "quality", {**_ONLINE, "epochs": 30, "learning_rate": 0.0006}),
            Stage("contrast", "quality", {**_ONLINE, **_FOREIGN, "epochs": 24, "learning_rate": 0.0005}),
            Stage("contrast_again", "quality", {**_ONLINE, **_FOREIGN, "epochs": 24, "learning_rate": 0.0005}),
        ),
    ),
    "whole": Model(
        "segmentation",
        "Tumour on a whole mammogram",
        "mammo_tumor_segmentation",
        "model_whole.pt",
        {"mode": "whole"},
        (Stage("full", "segmentation_whole", {"cosine": True, "zoom": 0.3, "rotation_degrees": 20, "epochs": 60}),),
    ),
    "roi": Model(
        "segmentation",
        "Tumour on a crop around it",
        "mammo_tumor_segmentation",
        "model.pt",
        {"mode": "roi"},
        (
            Stage(
                "full",
                "segmentation_roi",
                {"cosine": True, "zoom": 0.15, "rotation_degrees": 20, "epochs": 50, "learning_rate": 0.0007},
            ),
        ),
        start="whole",
    ),
}


def main() -> None:
    """Train, test and install what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that `monai-mammo prepare cdd-cesm` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings; given again, they go on")
    parser.add_argument("--test-data", type=Path, nargs="*", default=[], help="further prepared folders to test on")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--install", action="store_true", help="replace the bundles' weights")
    chosen = parser.parse_args()
    data, out = chosen.data.resolve(), chosen.out.resolve()
    for name in chosen.models:
        model = MODELS[name]
        weights = train(name, model, data, out)
        tests = [
            data / model.stages[-1].datalist,
            *(folder.resolve() / model.stages[-1].datalist for folder in chosen.test_data),
        ]
        numbers = card(
            model.task,
            model.title,
            {datalist: test(model, weights, datalist) for datalist in tests if datalist.is_dir()},
        )
        print(numbers)
        if chosen.install:
            install(name, model, weights, numbers)


def train(name: str, model: Model, data: Path, out: Path) -> Path:
    """Go through the stages that are not done; the last one's weights."""
    before = train(model.start, MODELS[model.start], data, out) if model.start else None
    for stage in model.stages:
        folder = out / name / stage.name
        weights, done = folder / model.weights, folder / "done.json"
        if not done.is_file():
            start = {"initial_weights": before} if before else {}
            where = {"dataset_dir": data / stage.datalist, "ckpt_dir": folder, "output_dir": folder}
            run(model, "training", ["train.yaml"], {**model.values, **stage.values, **start, **where, "resume": True})
            write_json(done, stage.values)
        before = weights
    assert before is not None
    return before


def test(model: Model, weights: Path, datalist: Path) -> Path:
    """Test on held-out patients, with the bundle's own values; the folder of the results, beside the weights."""
    folder = weights.parent / f"test_{datalist.parent.name}"
    if not (folder / "metrics.json").is_file():
        values = {**model.values, "dataset_dir": datalist, "weights": weights, "output_dir": folder}
        run(model, "evaluating", ["train.yaml", "evaluate.yaml"], values)
    return folder


def install(name: str, model: Model, weights: Path, numbers: str) -> None:
    """Copy weights into their bundle, write the sums of all that are there (`sha256sum -c` reads them) and the card."""
    models = HERE / model.bundle / "models"
    with replacing(models / model.weights) as partial:
        shutil.copyfile(weights, partial)
    sums = [f"{sha256(file)}  {file.name}\n" for file in sorted(models.glob("*.pt"))]
    (models / "SHA256SUMS").write_text("".join(sums))
    (HERE / model.bundle / "docs" / f"results_{name}.md").write_text(numbers)


def run(model: Model, entry: str, configs: list[str], values: dict[str, Any]) -> None:
    """One run of the bundle, in a process of its own."""
    subprocess.run([sys.executable, *running(HERE / model.bundle, entry, configs, values)], check=True)


if __name__ == "__main__":
    main()
