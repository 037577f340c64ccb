"""Train the weights that ship with the bundles, test them, and put them in place.

    monai-mammo prepare cdd-cesm <CDD-CESM folder> data/cdd-cesm
    python bundles/train_weights.py --data data/cdd-cesm --out runs/weights [--install]

Each model is trained in stages, small images first: the network has the same weights at any size, and most of what
it learns does not need fine detail. The last stages of the quality model vary contrast and sharpness, so that films do
not look foreign to it: begun with these, it would learn slowly. The second stage of the segmentation sees phantoms
among the mammograms, because `make demo` shows phantoms. Nothing is chosen by the test patients, and there is one seed,
0. What is done is not done again. `--install` copies the weights into the bundles and writes their `models/SHA256SUMS`
and the numbers of their model cards, `docs/results_<name>.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monai_mammo.benchmark.card import card
from monai_mammo.datasets import phantom
from monai_mammo.datasets.datalist import SECTIONS, load_datalist, write_json, write_sections

HERE = Path(__file__).resolve().parent
PHANTOMS = "phantoms"


@dataclass(frozen=True)
class Stage:
    """One run of a bundle's training: on which datalist, with which values."""

    name: str
    datalist: str
    values: dict[str, Any]
    phantoms: bool = False


@dataclass(frozen=True)
class Model:
    """A file of weights: which bundle's, what else its config must be told, and how it comes about."""

    task: Literal["quality", "segmentation"]
    title: str
    bundle: str
    weights: str
    values: dict[str, Any]
    stages: tuple[Stage, ...]


_ONLINE = {"learn_from": "originals", "samples_per_image": 16, "batch_size": 32, "cosine": True}
_FOREIGN = {"contrast": 0.7, "blur": 0.7}
_AUGMENTED = {"cosine": True, "zoom": 0.15}

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
    "roi": Model(
        "segmentation",
        "Tumour on a crop around it",
        "mammo_tumor_segmentation",
        "model.pt",
        {"mode": "roi"},
        (
            Stage("small", "segmentation_roi", {**_AUGMENTED, "roi_size": [96, 96], "epochs": 40}),
            Stage("full", "segmentation_roi", {**_AUGMENTED, "epochs": 12, "learning_rate": 0.0005}, phantoms=True),
        ),
    ),
    "whole": Model(
        "segmentation",
        "Tumour on a whole mammogram",
        "mammo_tumor_segmentation",
        "model_whole.pt",
        {"mode": "whole"},
        (
            Stage("small", "segmentation_whole", {**_AUGMENTED, "whole_size": [256, 160], "epochs": 20}),
            Stage("full", "segmentation_whole", {**_AUGMENTED, "epochs": 12, "learning_rate": 0.0005}, phantoms=True),
        ),
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
    before: Path | None = None
    for stage in model.stages:
        folder = out / name / stage.name
        weights, done = folder / model.weights, folder / "done.json"
        if not done.is_file():
            datalist = with_phantoms(data / stage.datalist, out) if stage.phantoms else data / stage.datalist
            start = {"initial_weights": before} if before else {}
            where = {"dataset_dir": datalist, "ckpt_dir": folder, "output_dir": folder}
            run(model, "training", ["train.yaml"], {**model.values, **stage.values, **start, **where, "resume": True})
            write_json(done, {**stage.values, "phantoms": stage.phantoms})
        before = weights
    assert before is not None
    return before


def with_phantoms(datalist: Path, out: Path) -> Path:
    """A datalist with phantoms among those who are trained on, and in no other section."""
    phantoms, joined = out / PHANTOMS, out / f"{datalist.name}_and_phantoms"
    if not (phantoms / datalist.name / "dataset.json").is_file():
        phantom.write_phantoms(phantoms, patients=16, seed=0, progress=True)
        phantom.segmentation_datalist(phantoms)
    drawn = [entry for section in SECTIONS for entry in load_datalist(phantoms / datalist.name, section)]
    sections = {section: load_datalist(datalist, section) for section in SECTIONS}
    sections["training"] += drawn
    document = json.loads((datalist / "dataset.json").read_text())
    about = {key: document[key] for key in ("name", "licence")}
    about["description"] = "with phantoms among the training images"
    write_sections(joined, sections, about=about, labels=document["labels"])
    return joined


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
    models.mkdir(exist_ok=True)
    partial = models / f"{model.weights}.part"
    shutil.copyfile(weights, partial)
    partial.replace(models / model.weights)
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(models.glob("*.pt"))]
    (models / "SHA256SUMS").write_text("".join(sums))
    (HERE / model.bundle / "docs" / f"results_{name}.md").write_text(numbers)


def run(model: Model, entry: str, configs: list[str], values: dict[str, Any]) -> None:
    """One run of the bundle, in a process of its own."""
    bundle = HERE / model.bundle
    files = [str(bundle / "configs" / name) for name in configs]
    arguments = {"config_file": repr(files), "bundle_root": bundle, **values}
    given = [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", entry, *given], check=True)


if __name__ == "__main__":
    main()
