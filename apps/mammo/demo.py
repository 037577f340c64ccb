"""`make demo`: phantom studies, weights for both bundles, and the server; each step only where it is still missing.

Everything is written below `demo/`, save the weights, which go where the bundles expect them once they are whole.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from monai_mammo.datasets import phantom

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
STUDIES = DEMO / "studies"
TRAINING = DEMO / "training"
console = Console()


@dataclass(frozen=True)
class Lesson:
    """One training on phantoms: which bundle, on which datalist, into which weights, for how many epochs."""

    bundle: str
    datalist: str
    weights: str
    values: tuple[str, ...]


LESSONS = (
    Lesson(
        "mammo_quality_classification",
        "quality",
        "model.pt",
        ("--epochs", "20", "--batch_size", "16", "--learning_rate", "0.001"),
    ),
    Lesson("mammo_tumor_segmentation", "segmentation_roi", "model.pt", ("--mode", "roi", "--epochs", "8")),
    Lesson("mammo_tumor_segmentation", "segmentation_whole", "model_whole.pt", ("--mode", "whole", "--epochs", "16")),
)


def main() -> int:
    """Prepare what is missing, then serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--prepare-only", action="store_true", help="do not start the server")
    arguments = parser.parse_args()
    write_studies()
    for number, lesson in enumerate(LESSONS, 1):
        train(lesson, f"{number}/{len(LESSONS)}")
    return 0 if arguments.prepare_only else serve(arguments.port)


def write_studies() -> None:
    """Write the study folder: DICOM files alone, the truth about them beside it."""
    truth = DEMO / "truth"
    write_phantoms(truth, patients=4, seed=1)
    if not STUDIES.is_dir():
        partial = STUDIES.with_name(STUDIES.name + ".part")
        shutil.copytree(truth, partial, ignore=shutil.ignore_patterns("masks", "*.json", "*.png"), dirs_exist_ok=True)
        partial.rename(STUDIES)


def write_phantoms(folder: Path, patients: int, seed: int) -> None:
    """Write phantom studies with their datalists and a contact sheet, whole or not at all."""
    if folder.is_dir():
        return
    partial = folder.with_name(folder.name + ".part")
    phantom.write_phantoms(partial, patients, seed, progress=True)
    phantom.segmentation_datalist(partial)
    phantom.quality_datalist(partial)
    phantom.contact_sheet(partial, partial / "contact_sheet.png")
    partial.rename(folder)


def train(lesson: Lesson, count: str) -> None:
    """Train a bundle on phantoms unless it has weights; a run that was broken off goes on."""
    bundle = ROOT / "bundles" / lesson.bundle
    weights = bundle / "models" / lesson.weights
    if weights.is_file():
        return
    write_phantoms(TRAINING, patients=32, seed=0)
    run = DEMO / "runs" / f"{lesson.bundle}_{lesson.datalist}"
    run.mkdir(parents=True, exist_ok=True)
    console.print(
        f"training {count}: {lesson.bundle} on phantoms ({' '.join(lesson.values)}); log: {run / 'train.log'}"
    )
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.yaml"]
    command += ["--bundle_root", str(bundle), "--dataset_dir", str(TRAINING / lesson.datalist)]
    command += ["--ckpt_dir", str(run), "--output_dir", str(run), "--resume", "True", *lesson.values]
    with (run / "train.log").open("a") as log:  # the progress bar goes to the terminal, the log's lines to the file
        done = subprocess.run(command, cwd=bundle, stdout=log, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the training failed; see {run / 'train.log'}")
    weights.parent.mkdir(exist_ok=True)
    (run / lesson.weights).rename(weights)


def serve(port: int) -> int:
    """Start the server, say what to do with it once it answers, and stop it with this process."""
    address = f"http://127.0.0.1:{port}"
    command = ["monailabel", "start_server", "--app", str(ROOT / "apps" / "mammo"), "--studies", str(STUDIES)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # `monailabel` is a script that runs the first `python` on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    server = subprocess.Popen(command, env={**os.environ, "PATH": path}, start_new_session=True)
    try:
        while server.poll() is None and not answers(f"{address}/info/"):
            time.sleep(0.5)
        if server.poll() is None:
            console.print(what_to_try(address), soft_wrap=True, highlight=False, markup=False)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def answers(address: str) -> bool:
    """Whether the server is up."""
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def what_to_try(address: str) -> str:
    """The first steps of a newcomer."""
    image = "phantom-0001-study-1-L_CC"
    infer = f"curl -X POST '{address}/infer"
    return f"""
The server is at {address}: what it serves stands at {address}/info/, every route at {address}/docs

In a browser: {address}/ohif/, choose a study, then "Mammography".

3D Slicer: install the extension MONAILabel, enter {address} as MONAI Label server, press Next Sample, then Run.

From a shell:
  curl -X POST {address}/activelearning/random
  {infer}/mammo_quality_classification?image={image}&output=json'
  {infer}/mammo_tumor_segmentation?image={image}&output=image' -o mask.nrrd

The phantoms with their masses outlined: {DEMO / "truth" / "contact_sheet.png"}
Your own mammograms: copy DICOM files into {STUDIES}
The models have seen phantoms alone: nothing they say is about a patient. Not for diagnostic use.
Ctrl-C stops the server.
"""


if __name__ == "__main__":
    sys.exit(main())
