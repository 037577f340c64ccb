"""`monai-mammo`: the command line. Each verb is one call into the library; no work is done here."""

from __future__ import annotations

import enum
import importlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from monai_mammo.benchmark.cli import app as benchmark_app
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.terminal import TRAINING, Values, complain, console, require, stop, values_of

if TYPE_CHECKING:
    from monai_mammo.datasets.audit import Audit
    from monai_mammo.datasets.audit_catalogue import Finding
    from monai_mammo.datasets.prepare import Prepared
    from monai_mammo.outputs import Job
    from monai_mammo.predictor import Predictor

app = typer.Typer(
    help="Mammograms in MONAI: phantoms, data preparation and prediction. Research only, not for diagnostic use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(benchmark_app, name="benchmark")
_NAMES_AND_SIZES = re.compile(r"'[^']*'|\d+ x \d+")
"""What differs between defects of one kind."""


class DataSet(str, enum.Enum):
    """Data sets that `prepare` knows: modules of `monai_mammo.datasets`."""

    cbis_ddsm = "cbis-ddsm"
    ddsm = "ddsm"
    inbreast = "inbreast"
    cdd_cesm = "cdd-cesm"
    mini_mias = "mini-mias"
    folder = "folder"


class Task(str, enum.Enum):
    """What the datalists are for."""

    segmentation = "segmentation"
    quality = "quality"


class Protocol(str, enum.Enum):
    """Who is held out."""

    patient = "patient"
    paper = "paper"


class Mode(str, enum.Enum):
    """What a segmentation sees."""

    whole = "whole"
    roi = "roi"


@app.callback()
def _quietly() -> None:
    """Let MONAI not say with every command that a decoder which nobody asked for is not installed."""
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; made if it does not exist.")],
    patients: Annotated[int, typer.Option(min=1, help="Patients, four views each.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same mammograms.")] = 0,
) -> None:
    """Write phantom mammograms (DICOM), their lesions' masks, their truth, datalists and a contact sheet."""
    from monai_mammo.datasets import phantom as phantoms

    phantoms.write_phantoms(out, patients, seed, progress=True)
    if patients >= len(phantoms.FRACTIONS):
        for datalist in (phantoms.segmentation_datalist(out), phantoms.quality_datalist(out)):
            console.print(f"datalist: {datalist}")
    else:
        console.print(f"no datalists: to split them, at least {len(phantoms.FRACTIONS)} patients are needed")
    sheet = out / "contact_sheet.png"
    phantoms.contact_sheet(out, sheet)
    console.print(f"contact sheet: {sheet}")


@app.command()
def prepare(
    data_set: Annotated[DataSet, typer.Argument(help="Which data set it is; folder: any tree of DICOM files.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The data set's folder as it was downloaded.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for datalists, masks, crops and samples.")],
    task: Annotated[Task | None, typer.Option(help="One task only; by default every one the data set allows.")] = None,
    protocol: Annotated[
        Protocol, typer.Option(help="patient: no patient on two sides. paper: the papers' own, which leaks.")
    ] = Protocol.patient,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and of everything else random.")] = 0,
    margin: Annotated[float, typer.Option(min=0.0, help="Share of a lesion's side around a crop.")] = 0.2,
    samples: Annotated[
        int, typer.Option(min=1, help="Complete and incomplete samples of each held-out mammogram, for quality.")
    ] = 1,
    processes: Annotated[int | None, typer.Option(min=0, help="Worker processes; by default one a core.")] = None,
    check: Annotated[bool, typer.Option("--audit/--no-audit", help="End with the audit of what was made.")] = True,
) -> None:
    """Turn a data set into the bundles' datalists. Run again, it goes on where it was interrupted."""
    from monai_mammo.datasets.prepare import prepare as prepare_data_set

    module: Any = importlib.import_module(f"monai_mammo.datasets.{data_set.value.replace('-', '_')}")
    try:
        prepared = prepare_data_set(
            module,
            source,
            out,
            task=task.value if task else None,
            protocol=protocol.value,
            seed=seed,
            margin=margin,
            samples=samples,
            processes=processes,
            progress=_progress,
        )
    except MammogramError as error:
        raise stop(str(error)) from error
    except OSError as error:
        raise stop(f"{error.filename or out}: {error.strerror}. What is done stays; run again to go on.") from error
    except KeyboardInterrupt:
        raise stop("interrupted; what is done stays, run again to go on") from None
    _show(prepared)
    if not prepared.datalists:
        raise stop(f"{out}: no usable image is left. Look at the reasons given above.")
    if check:
        _audit(out, processes)


@app.command()
def datalist(
    task: Annotated[Task, typer.Argument(help="What its labels are for.")],
    table: Annotated[Path, typer.Argument(help="CSV with the columns image, label, patient; also section.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the datalist.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the split by patient.")] = 0,
    check: Annotated[bool, typer.Option("--audit/--no-audit", help="End with the audit of what was made.")] = True,
) -> None:
    """Turn a table of your own images into a datalist, split by patient.

    label: complete or incomplete (quality), or the mask's file (segmentation). Paths are relative to the table.
    """
    from monai_mammo.datasets.table import datalist_of_table

    try:
        console.print(f"datalist: {datalist_of_table(task.value, table, out, seed)}", soft_wrap=True, markup=False)
    except (MammogramError, OSError) as error:
        raise stop(str(error)) from error
    if check:
        _audit(out, None)


@app.command("border-probe")
def border_probe(
    dataset_dir: Annotated[Path, typer.Argument(help="Folder of a quality datalist, as `prepare` writes it.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the folds, the forests and the intervals.")] = 0,
) -> None:
    """Check that borders do not tell complete from incomplete mammograms; exit status 1 where they do."""
    require("sklearn")
    from monai_mammo.datasets import border_probe as probe

    try:
        results = probe.border_probe(dataset_dir, seed, _progress)
    except MammogramError as error:
        raise stop(str(error)) from error
    table = Table(title="held-out patients", caption=f"a border must not tell more than {probe.LIMIT:.2f}")
    for heading in ("seen", "classifier", "balanced accuracy", "95 % interval", "verdict"):
        table.add_column(heading)
    for result in results:
        verdict = ("passed" if result.passed else "FAILED") if result.judged else "for comparison"
        interval = f"{result.interval[0]:.3f} to {result.interval[1]:.3f}"
        table.add_row(result.features, result.classifier, f"{result.balanced_accuracy:.3f}", interval, verdict)
    console.print(table)
    if not all(result.passed for result in results):
        raise stop("a classifier that does not see the breast tells the classes apart: a network would learn that")


@app.command()
def audit(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of datalists, or one that holds a dataset.json.")],
    processes: Annotated[int | None, typer.Option(min=0, help="Worker processes; by default one a core.")] = None,
) -> None:
    """Look for what is wrong with data before training: OUT/audit.html and .json; exit status 1 if there are errors."""
    if not _audit(out, processes):
        raise typer.Exit(code=1)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Mammograms (DICOM, PNG, NIfTI), or folders of them.")
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
    from monai_mammo.bundles import config_of
    from monai_mammo.outputs import jobs_of
    from monai_mammo.predictor import Predictor

    try:
        jobs = jobs_of(images, mask, picture)
        overrides = values_of(values)
        if mode or point or "mode" in config_of(bundle, "inference.yaml"):
            overrides = {"mode": "roi" if point else (mode or Mode.whole).value, **overrides}
        predictor = Predictor(bundle, weights=weights, overrides=overrides)
    except (MammogramError, OSError) as error:
        raise stop(str(error)) from error
    except RuntimeError as error:
        if not values:
            raise
        raise stop(
            f"{bundle}: it cannot be set up with {', '.join(values)}. See its configs/inference.yaml."
        ) from error
    several, failed = len(jobs) > 1 or images[0].is_dir(), 0
    for job in jobs:
        try:
            text = _predict(predictor, job, {"point": list(point)} if point else {})
        except (MammogramError, OSError) as error:
            complain(str(error))
            failed += 1
        else:
            console.print(f"{job.image}: {text}" if several else text, highlight=False, soft_wrap=True, markup=False)
    for what, place in (("mask", mask), ("picture", picture)):
        if place is not None and failed < len(jobs):
            console.print(f"{what}{'s' if several else ''}: {place}", soft_wrap=True, markup=False)
    if failed:
        raise stop(f"{failed} of {len(jobs)} images failed") if several else typer.Exit(code=1)


def _predict(predictor: Predictor, job: Job, given: dict[str, Any]) -> str:
    """Predict, write what is asked for, and say what was found."""
    import numpy as np
    from monai.utils import convert_to_numpy
    from PIL import Image

    from monai_mammo.dicom.reader import read_mammogram
    from monai_mammo.pictures import GREEN, captioned, outlined

    result = predictor(job.image, **given)
    segmented = "probability" in result
    marked = np.asarray(convert_to_numpy(result["pred"] if segmented else result["breast"]))[0] > 0
    if segmented:
        highest = float(result["probability"].max())
        text = f"{int(marked.sum())} pixels marked as tumour, highest probability {highest:.2f}"
    else:
        text = ", ".join(f"{name} {float(result['pred'][index]):.2f}" for index, name in predictor.labels.items())
    for file in (job.mask, job.picture):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    if job.mask is not None:
        Image.fromarray(np.where(marked, 255, 0).astype(np.uint8)).save(job.mask)
    if job.picture is not None:
        shown = outlined(read_mammogram(job.image).pixels, [marked], height=600)
        captioned(shown, [(line, GREEN) for line in text.split(", ")]).save(job.picture)
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
    processes: Annotated[int, typer.Option(min=0, help="Trainings at a time; each keeps all images in memory.")] = 1,
) -> None:
    """Replay annotation on labelled data: each strategy's curve against random's. Run again, it goes on."""
    require(*TRAINING)
    from monai_mammo.active_learning import STRATEGIES, curves, simulation
    from monai_mammo.bundles import find_bundle

    names = [name for name in STRATEGIES if name in {"random", *strategies.split(",")}]
    if unknown := set(strategies.split(",")) - set(STRATEGIES):
        raise stop(f"there is no strategy {', '.join(sorted(unknown))}; there are {', '.join(STRATEGIES)}")
    try:
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
        found = list(track(records, "rounds", simulation.total_rounds(len(names), seeds, rounds), console=console))
    except MammogramError as error:
        raise stop(str(error)) from error
    except KeyboardInterrupt:
        raise stop("interrupted; finished rounds stay, run again to go on") from None
    written = curves.write_curves(found, simulation.METRICS[task.value], out, simulation.in_words(setup))
    console.print((out / "curve.md").read_text() if written else "too few rounds for a curve", markup=False)


def _progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    return track(items, description="images", console=console, total=total)


def _show(prepared: Prepared) -> None:
    for defect in prepared.defects:
        console.print(str(defect), highlight=False, soft_wrap=True, markup=False)
    table = Table(title="prepared")
    for heading in ("datalist", "training", "validation", "test"):
        table.add_column(heading, overflow="fold")
    for name, counts in prepared.counts.items():
        table.add_row(str(prepared.out / name), *map(str, counts.values()))
    console.print(table)
    kinds = (f"{defect.action}: {_NAMES_AND_SIZES.sub('…', defect.reason)}" for defect in prepared.defects)
    for text, count in Counter(kinds).most_common():
        console.print(f"{count} x {text}", highlight=False, soft_wrap=True, markup=False)
    for name, remark in prepared.remarks.items():
        console.print(f"{name}: {remark}", highlight=False, soft_wrap=True, markup=False)


def _audit(out: Path, processes: int | None) -> bool:
    """Audit a folder, show the summary, and say whether training on it is safe."""
    from monai_mammo.datasets.audit import write_audit
    from monai_mammo.datasets.audit_catalogue import CHECKS

    try:
        _, page, result = write_audit(out, processes=processes, progress=True)
    except MammogramError as error:
        raise stop(str(error)) from error
    except OSError as error:
        raise stop(f"{error.filename or out}: {error.strerror}") from error
    table = Table(title="audit")
    for heading in ("severity", "what", "findings", "files"):
        table.add_column(heading)
    for severity, check in dict.fromkeys((finding.severity, finding.check) for finding in result.findings):
        same = [finding for finding in result.findings if (finding.severity, finding.check) == (severity, check)]
        files = {file for finding in same for file in finding.files}
        table.add_row(severity, CHECKS[check].title, str(len(same)), str(len(files)))
    console.print(table if result.findings else "audit: nothing found")
    for check in dict.fromkeys(finding.check for finding in result.findings if finding.severity == "error"):
        same = [finding for finding in result.findings if (finding.severity, finding.check) == ("error", check)]
        _show_first(result, same)
    verdict = "no error: safe to train on as far as the audit sees" if result.safe else "NOT safe to train on"
    console.print(f"{verdict}; pictures and remedies: {page}", highlight=False, soft_wrap=True, markup=False)
    return result.safe


def _show_first(result: Audit, findings: Sequence[Finding]) -> None:
    """Print what is wrong where, of the first two findings of one kind."""
    from monai_mammo.datasets.audit_catalogue import CHECKS

    lines = [f"  {result.name(finding.files[0])}: {finding.detail}" for finding in findings[:2]]
    more = [f"  … and {len(findings) - 2} more"] if len(findings) > 2 else []
    text = "\n".join([f"{CHECKS[findings[0].check].title}:", *lines, *more])
    console.print(text, highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    app()
