"""`monai-mammo`: the command line. Each verb is one call into the library; no work is done here.

Here are the commands that use a bundle; those about data are in `datasets.cli`, `benchmark` is in `benchmark.cli`.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track

from monai_mammo.benchmark.cli import app as benchmark_app
from monai_mammo.datasets.cli import app as data_app
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.terminal import (
    TRAINING,
    Mode,
    Task,
    Values,
    complain,
    ending_clearly,
    notes,
    require,
    say,
    stop,
    values_of,
)

if TYPE_CHECKING:
    from monai_mammo.outputs import Job
    from monai_mammo.predictor import Predictor

app = typer.Typer(
    help="Mammograms in MONAI: phantoms, data preparation and prediction. Research only, not for diagnostic use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app)
app.add_typer(benchmark_app, name="benchmark")


@app.callback()
def _quietly() -> None:
    """Let MONAI not say with every command that a decoder which nobody asked for is not installed."""
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...", help="Mammograms (DICOM, PNG, JPEG, TIFF, NIfTI, NRRD), or folders of them."
        ),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(help="Where the mask goes: a PNG of the mammogram's own pixels. Of several images, a folder."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where a picture of the result goes (PNG, JPEG). Of several images, a folder.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="For the segmentation bundle: whole (the default), or roi with a point.")
    ] = None,
    point: Annotated[tuple[float, float] | None, typer.Option(help="Row and column of a lesion (mode roi).")] = None,
    weights: Annotated[Path | None, typer.Option(help="Instead of the bundle's own.")] = None,
    values: Values = None,
) -> None:
    """Run a bundle on one mammogram or many. One that cannot be used is named, and the others go on."""
    from monai_mammo.outputs import jobs_of

    try:
        jobs = jobs_of(images, mask, picture)
        predictor = _predictor(bundle, weights, mode, point, values)
    except (MammogramError, OSError) as error:
        raise stop(str(error)) from error
    several, failed = len(jobs) > 1 or images[0].is_dir(), 0
    for job in jobs:
        try:
            text = _predict(predictor, job, {"point": list(point)} if point else {})
        except (MammogramError, OSError) as error:
            complain(str(error))
            failed += 1
        else:
            say(f"{job.image}: {text}" if several else text)
    for what, place in (("mask", mask), ("picture", picture)):
        if place is not None and failed < len(jobs):
            say(f"{what}{'s' if several else ''}: {place}")
    if failed:
        raise stop(f"{failed} of {len(jobs)} images failed") if several else typer.Exit(code=1)


def _predictor(
    bundle: Path, weights: Path | None, mode: Mode | None, point: tuple[float, float] | None, values: list[str] | None
) -> Predictor:
    """The bundle with what the command says of it.

    Raises:
        MammogramError: they do not go together.
    """
    from monai_mammo.bundles import config_of
    from monai_mammo.predictor import Predictor

    overrides = values_of(values)
    if mode is Mode.whole and point:
        raise MammogramError(bundle, "whole mammograms take no point", "Leave out --mode, or --point")
    if "mode" in config_of(bundle, "inference.yaml"):
        overrides = {"mode": "roi" if point else (mode or Mode.whole).value, **overrides}
        if overrides["mode"] == Mode.roi.value and not point:
            raise MammogramError(bundle, "nothing marks a lesion", "Give its --point ROW COLUMN, or use --mode whole")
    elif mode or point:
        raise MammogramError(bundle, "this bundle looks at whole images only", "Leave out --mode and --point")
    try:
        return Predictor(bundle, weights=weights, overrides=overrides)
    except RuntimeError as error:
        if not values:
            raise
        reason = f"it cannot be set up with {', '.join(values)}"
        raise MammogramError(bundle, reason, "See its configs/inference.yaml") from error


def _predict(predictor: Predictor, job: Job, given: dict[str, Any]) -> str:
    """Predict, write what is asked for, and say what was found."""
    import numpy as np
    from monai.utils import convert_to_numpy
    from PIL import Image

    from monai_mammo.dicom.reader import read_mammogram
    from monai_mammo.pictures import GREEN, captioned, outlined, save_picture

    result = predictor(job.image, **given)
    segmented = "probability" in result
    marked = np.asarray(convert_to_numpy(result["pred"] if segmented else result["breast"]))[0] > 0
    if segmented:
        highest = float(result["probability"].max())
        text = f"{int(marked.sum())} pixels marked as tumour, highest probability {highest:.2f}"
    else:
        text = ", ".join(f"{name} {float(result['pred'][index]):.2f}" for index, name in predictor.labels.items())
    if job.mask is not None:
        save_picture(Image.fromarray(np.where(marked, 255, 0).astype(np.uint8)), job.mask)
    if job.picture is not None:
        shown = outlined(read_mammogram(job.image).pixels, [marked], height=600)
        save_picture(captioned(shown, [(line, GREEN) for line in text.split(", ")]), job.picture)
    return text


@app.command("simulate-active-learning")
def simulate_active_learning(
    dataset_dir: Annotated[Path, typer.Argument(help="Folder of a datalist, as `prepare` writes it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for rounds, curve.csv, .json, .png and .md.")],
    task: Annotated[Task, typer.Option(help="Which bundle is trained.")],
    strategies: Annotated[
        str,
        typer.Option(
            show_default=False,
            help="Separated by commas; by default all: random, uncertainty, diversity, uncertainty+diversity. "
            "random, which the others are compared with, is always among them.",
        ),
    ] = "random,uncertainty,diversity,uncertainty+diversity",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each strategy, with other first images.")] = 5,
    rounds: Annotated[int, typer.Option(min=2, help="Trainings of each run, the first one included.")] = 6,
    start: Annotated[int, typer.Option(min=1, help="Images labelled at the start, in whole cases.")] = 8,
    add: Annotated[int, typer.Option(min=1, help="Images labelled in each round, in whole cases.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each training.")] = 400,
    validations: Annotated[int, typer.Option(min=1, help="Of each training; the best weights are kept.")] = 4,
    warm_start: Annotated[bool, typer.Option("--warm-start", help="Go on from the former round's weights.")] = False,
    initial_weights: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Begin from a model that learned elsewhere, not from scratch."),
    ] = None,
    values: Values = None,
    bundles: Annotated[
        Path | None, typer.Option(help="Folder that holds the bundles; by default the repository's.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=0, help="Trainings at a time; each keeps all images in memory. 0: one, in this process.")
    ] = 1,
) -> None:
    """Replay annotation on labelled data: each strategy's curve against random's. Run again, it goes on."""
    require(*TRAINING)
    from monai_mammo.active_learning import STRATEGIES, curves, simulation
    from monai_mammo.bundles import find_bundle
    from monai_mammo.metrics import HEADLINE

    names = [name for name in STRATEGIES if name in {"random", *strategies.split(",")}]
    if unknown := set(strategies.split(",")) - set(STRATEGIES):
        raise stop(f"there is no strategy {', '.join(sorted(unknown))}; there are {', '.join(STRATEGIES)}")
    with ending_clearly(out):
        setup = simulation.Setup(
            dataset_dir=str(dataset_dir),
            bundle=str(find_bundle(task.value, bundles)),
            start=start,
            add=add,
            steps=steps,
            validations=validations,
            warm_start=warm_start,
            initial_weights=str(initial_weights) if initial_weights else None,
            overrides=values_of(values),
        )
        records = simulation.simulate(setup, out, names, seeds, rounds, processes)
        found = list(track(records, "rounds", simulation.total_rounds(len(names), seeds, rounds), console=notes))
        written = curves.write_curves(found, HEADLINE[task.value], out, simulation.in_words(setup))
    say((out / "curve.md").read_text() if written else "too few rounds for a curve")


if __name__ == "__main__":
    app()
