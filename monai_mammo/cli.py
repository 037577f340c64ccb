"""`monai-mammo`: the command line. Each verb is one call into the library; no work is done here."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from monai_mammo.datasets.prepare import Prepared, prepare_quality, prepare_segmentation
from monai_mammo.datasets.sources import Defect
from monai_mammo.dicom.errors import MammogramError

app = typer.Typer(
    help="Mammograms in MONAI: phantoms, data preparation and prediction. Research only, not for diagnostic use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()


class DataSet(str, enum.Enum):
    """Data sets that `prepare` knows."""

    cdd_cesm = "cdd-cesm"
    mini_mias = "mini-mias"


class Task(str, enum.Enum):
    """What the datalists are for."""

    segmentation = "segmentation"
    quality = "quality"


TASKS = {DataSet.cdd_cesm: (Task.segmentation, Task.quality), DataSet.mini_mias: (Task.quality,)}


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; made if it does not exist.")],
    patients: Annotated[int, typer.Option(min=1, help="Patients, four views each.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same mammograms.")] = 0,
) -> None:
    """Write phantom mammograms (DICOM), their lesions' masks, their truth, datalists and a contact sheet."""
    from monai_mammo.datasets import phantom as phantoms

    phantoms.write_phantoms(out, patients, seed, progress=True)
    for datalist in (phantoms.segmentation_datalist(out), phantoms.quality_datalist(out)):
        console.print(f"datalist: {datalist}")
    sheet = out / "contact_sheet.png"
    phantoms.contact_sheet(out, sheet)
    console.print(f"contact sheet: {sheet}")


@app.command()
def prepare(
    data_set: Annotated[DataSet, typer.Argument(help="Which data set it is.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The data set's folder as it was downloaded.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for datalists, masks and truncated images.")],
    task: Annotated[Task | None, typer.Option(help="One task only; by default every one the data set allows.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split by patient and of the truncations.")] = 0,
) -> None:
    """Turn a data set into the bundles' datalists, split by patient."""
    from monai_mammo.datasets import cdd_cesm, mini_mias

    module = {DataSet.cdd_cesm: cdd_cesm, DataSet.mini_mias: mini_mias}[data_set]
    tasks = TASKS[data_set] if task is None else (task,)
    if not set(tasks) <= set(TASKS[data_set]):
        raise _stop(f"{module.NAME} has no outlines: only --task quality is possible")
    try:
        defects: list[Defect] = []
        images = module.images(source, defects)
        for wanted in tasks:
            run = prepare_segmentation if wanted is Task.segmentation else prepare_quality
            prepared = run(images, out, name=module.NAME, licence=module.LICENCE, seed=seed, progress=_progress)
            _show(prepared, defects + prepared.defects)
    except MammogramError as error:
        raise _stop(str(error)) from error


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    image: Annotated[Path, typer.Argument(help="A mammogram: DICOM, PNG, NIfTI.")],
    out: Annotated[Path, typer.Option(help="Where the mask goes (PNG), if the bundle gives one.")] = Path("mask.png"),
    point: Annotated[tuple[float, float] | None, typer.Option(help="Row and column of a lesion (mode roi).")] = None,
    mode: Annotated[str, typer.Option(help="whole or roi, for the segmentation bundle.")] = "whole",
) -> None:
    """Run a bundle on one mammogram."""
    import numpy as np
    from PIL import Image

    from monai_mammo.predictor import Predictor

    try:
        predictor = Predictor(bundle, overrides={"mode": "roi" if point else mode})
        result = predictor(image, **({"point": list(point)} if point else {}))
    except (MammogramError, FileNotFoundError) as error:
        raise _stop(str(error)) from error
    if "probability" in result:
        mask = np.asarray(result["pred"])[0] > 0
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(out)
        console.print(f"{int(mask.sum())} pixels marked; mask: {out}")
    else:
        for index, name in predictor.labels.items():
            console.print(f"{name}: {float(result['pred'][index]):.3f}")


def _progress(items: Iterable[Any], what: str) -> Iterable[Any]:
    items = list(items)
    return track(items, description=what, console=console, total=len(items))


def _show(prepared: Prepared, defects: list[Defect]) -> None:
    table = Table(title="prepared")
    for heading in ("datalist", "entries"):
        table.add_column(heading, overflow="fold")
    for datalist in prepared.datalists:
        table.add_row(str(datalist), str(prepared.entries[datalist.parent.name]))
    console.print(table)
    for defect in defects:
        console.print(str(defect), highlight=False, soft_wrap=True)
    for reason, count in Counter(f"{defect.action}: {defect.reason}" for defect in defects).items():
        console.print(f"{count} {reason}", highlight=False)


def _stop(message: str) -> typer.Exit:
    console.print(f"[red]error:[/red] {message}", highlight=False)
    return typer.Exit(code=1)


if __name__ == "__main__":
    app()
