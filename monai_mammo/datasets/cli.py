"""The commands of `monai-mammo` about data: phantoms, datalists of data sets, tables and folders, the audit."""

from __future__ import annotations

import enum
import importlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track
from rich.table import Table
from rich.text import Text

from monai_mammo.terminal import Protocol, Task, console, ending_clearly, notes, require, say, stop

if TYPE_CHECKING:
    from monai_mammo.datasets.audit import Audit
    from monai_mammo.datasets.audit_catalogue import Finding
    from monai_mammo.datasets.prepare import Prepared

app = typer.Typer()
_NAMES_AND_SIZES = re.compile(r"'[^']*'|\d+ x \d+")
"""What differs between defects of one kind."""


Processes = Annotated[
    int | None, typer.Option(min=0, help="Worker processes; by default one a core. 0: all in this process.")
]


class DataSet(str, enum.Enum):
    """Data sets that `prepare` knows: modules of `monai_mammo.datasets`."""

    cbis_ddsm = "cbis-ddsm"
    ddsm = "ddsm"
    inbreast = "inbreast"
    cdd_cesm = "cdd-cesm"
    mini_mias = "mini-mias"
    folder = "folder"


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; made if it does not exist.")],
    patients: Annotated[int, typer.Option(min=1, help="Patients, four views each.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same mammograms.")] = 0,
) -> None:
    """Write phantom mammograms (DICOM), their lesions' masks, their truth, datalists and a contact sheet."""
    from monai_mammo.datasets import phantom as phantoms

    with ending_clearly(out):
        phantoms.write_phantoms(out, patients, seed, progress=True)
        if patients >= len(phantoms.FRACTIONS):
            phantoms.segmentation_datalist(out)
            phantoms.quality_datalist(out)
            for datalist in sorted(out.glob("*/dataset.json")):
                say(f"datalist: {datalist}")
        else:
            say(f"no datalists: to split them, at least {len(phantoms.FRACTIONS)} patients are needed")
        sheet = out / "contact_sheet.png"
        phantoms.contact_sheet(out, sheet)
        say(f"contact sheet: {sheet}")


@app.command()
def prepare(
    data_set: Annotated[DataSet, typer.Argument(help="Which data set it is; folder: any tree of DICOM files.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The data set's folder; the README says what is read.")],
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
    processes: Processes = None,
    check: Annotated[bool, typer.Option("--audit/--no-audit", help="End with the audit of what was made.")] = True,
) -> None:
    """Turn a data set into the bundles' datalists. Run again, it goes on where it was interrupted.

    Patients stay in the section that an earlier run gave them; those who were added since are dealt to the shares.

    Exit status 1 if the audit finds errors, as it does in the paper's protocol: what was made is there, but leaks or
    holds what a network should not learn.
    """
    from monai_mammo.datasets.prepare import prepare as prepare_data_set

    module: Any = importlib.import_module(f"monai_mammo.datasets.{data_set.value.replace('-', '_')}")
    with ending_clearly(out):
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
    _show(prepared)
    if not prepared.datalists:
        raise stop(f"{out}: no usable image is left. Look at the reasons given above.")
    if check:
        _audit(out, processes)


@app.command()
def datalist(
    task: Annotated[Task, typer.Argument(help="What its labels are for.")],
    table: Annotated[Path, typer.Argument(help="CSV: image, label, patient; also section, box, spacing.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the datalist.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the split by patient.")] = 0,
    check: Annotated[bool, typer.Option("--audit/--no-audit", help="End with the audit of what was made.")] = True,
) -> None:
    """Turn a table of your own images into a datalist, split by patient.

    label: complete or incomplete (quality), or the mask's file (segmentation). Paths are relative to the table.
    section: training, validation or test in every row, where the split is decided.
    box: rows and columns of a lesion's corners, such as 820 310 1105 560.
    spacing: mm a row and a column, such as 0.07 0.07.

    Run again with a longer table, patients stay in the section that they have. For another split give a new folder.
    Exit status 1 if the audit finds errors.
    """
    from monai_mammo.datasets.table import datalist_of_table

    with ending_clearly(out):
        say(f"datalist: {datalist_of_table(task.value, table, out, seed)}")
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

    with ending_clearly(dataset_dir):
        results = probe.border_probe(dataset_dir, seed, _progress)
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
    processes: Processes = None,
) -> None:
    """Look for what is wrong with data before training: OUT/audit.html and .json; exit status 1 if there are errors."""
    _audit(out, processes)


def _progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    return track(items, description="images", console=notes, total=total)


def _show(prepared: Prepared) -> None:
    for defect in prepared.defects:
        say(str(defect))
    table = Table(title="prepared")
    for heading in ("datalist", "training", "validation", "test"):
        table.add_column(heading, overflow="fold")
    for name, counts in prepared.counts.items():
        table.add_row(Text(str(prepared.out / name)), *map(str, counts.values()))
    console.print(table)
    kinds = (f"{defect.action}: {_NAMES_AND_SIZES.sub('…', defect.reason)}" for defect in prepared.defects)
    for text, count in Counter(kinds).most_common():
        say(f"{count} x {text}")
    for name, remark in prepared.remarks.items():
        say(f"{name}: {remark}")


def _audit(out: Path, processes: int | None) -> None:
    """Audit a folder and show the summary; ends the command with status 1 where training on it is not safe."""
    from monai_mammo.datasets.audit_catalogue import CHECKS
    from monai_mammo.datasets.audit_page import write_audit

    with ending_clearly(out):
        _, page, result = write_audit(out, processes=processes, progress=True)
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
    say(f"{verdict}; pictures and remedies: {page}")
    if not result.safe:
        raise typer.Exit(code=1)


def _show_first(result: Audit, findings: Sequence[Finding]) -> None:
    """Print what is wrong where, of the first two findings of one kind."""
    from monai_mammo.datasets.audit_catalogue import CHECKS

    lines = [f"  {result.name(finding.files[0])}: {finding.detail}" for finding in findings[:2]]
    more = [f"  … and {len(findings) - 2} more"] if len(findings) > 2 else []
    say("\n".join([f"{CHECKS[findings[0].check].title}:", *lines, *more]))
