"""`monai-mammo benchmark`: run the papers' comparisons under one protocol, and report them. No work is done here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.terminal import (
    REPORTING,
    TRAINING,
    Mode,
    Protocol,
    Values,
    complain,
    console,
    ending_clearly,
    require,
    say,
    stop,
    values_of,
)

if TYPE_CHECKING:
    from monai_mammo.benchmark.plan import Plan
    from monai_mammo.datasets.datalist import Task

app = typer.Typer(
    help="Train, test and report every system of both papers under one protocol.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


Data = Annotated[Path, typer.Option(help="Folder that `monai-mammo prepare` wrote; its training section is used.")]
Out = Annotated[Path, typer.Option(help="Folder of this benchmark; given again, it goes on where it stopped.")]
Systems = Annotated[
    str,
    typer.Option(
        show_default=False,
        help="Comma-separated; the first is what the others are compared with. `systems` lists them.",
    ),
]
Seeds = Annotated[str, typer.Option(help="Comma-separated whole numbers: one training of every system for each.")]
WhoIsHeldOut = Annotated[
    Protocol, typer.Option(help="patient: no patient on two sides. paper: the papers' own split, which leaks.")
]
TestData = Annotated[list[Path] | None, typer.Option(help="A further prepared folder to test on; may be repeated.")]
Compact = Annotated[bool, typer.Option("--compact/--full", help="Networks for a CPU, or of the published width.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Instead of the bundle's.")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes that train one network together; by default one a GPU.")
]
AtOnce = Annotated[
    int, typer.Option(min=1, help="Trainings side by side: one small network leaves most of a large GPU idle.")
]
Bundles = Annotated[Path | None, typer.Option(help="Folder that holds the bundles; by default the repository's.")]


@app.command()
def quality(
    data: Data,
    out: Out,
    systems: Systems = "resnet34,resnet34_parb,resnet34_kan,resnet34_parb_kan",
    seeds: Seeds = "0,1,2",
    protocol: WhoIsHeldOut = Protocol.patient,
    test_data: TestData = None,
    compact: Compact = True,
    epochs: Epochs = None,
    values: Values = None,
    processes: Processes = None,
    at_once: AtOnce = 1,
    bundles: Bundles = None,
) -> None:
    """Complete or incomplete mammogram: train and test every system with every seed.

    Systems by default: resnet34, resnet34_parb, resnet34_kan, resnet34_parb_kan.
    """
    plan = _plan("quality", data, systems, seeds, protocol, Mode.roi, test_data, compact, epochs, values)
    _run(out, plan, processes, at_once, bundles)


@app.command()
def segmentation(
    data: Data,
    out: Out,
    systems: Systems = "respam_unet,dynunet",
    seeds: Seeds = "0,1,2",
    protocol: WhoIsHeldOut = Protocol.patient,
    mode: Annotated[Mode, typer.Option(help="A crop around one lesion, or the whole mammogram.")] = Mode.roi,
    test_data: TestData = None,
    compact: Compact = True,
    epochs: Epochs = None,
    values: Values = None,
    processes: Processes = None,
    at_once: AtOnce = 1,
    bundles: Bundles = None,
) -> None:
    """Tumour segmentation: train and test every system with every seed.

    Systems by default: respam_unet, dynunet.
    """
    plan = _plan("segmentation", data, systems, seeds, protocol, mode, test_data, compact, epochs, values)
    _run(out, plan, processes, at_once, bundles)


@app.command("systems")
def list_systems() -> None:
    """List the systems that can be compared."""
    from rich.table import Table

    from monai_mammo.benchmark.systems import SYSTEMS

    table = Table()
    for heading in ("name", "task", "system", "published"):
        table.add_column(heading, overflow="fold")
    for system in SYSTEMS.values():
        table.add_row(system.name, system.task, system.title, system.reference)
    console.print(table)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of benchmarks, or folders of those.")
    ],
    out: Annotated[Path | None, typer.Option(help="Where the report goes; by default into the first DIR.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The system the others are compared with, where it takes part.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Draws of the patients for the intervals.")] = 1000,
) -> None:
    """Write BENCHMARKS.md, benchmarks.csv, benchmarks.html and images/benchmarks from what has been run so far."""
    require(*REPORTING)
    from monai_mammo.benchmark.report import write_report

    with ending_clearly(out or folders[0]):
        for file in write_report(folders, out or folders[0], reference=reference, resamples=resamples):
            say(str(file))


@app.command()
def records(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of benchmarks, or folders of those.")
    ],
    out: Annotated[Path, typer.Option(help="Where the copies go, one folder a benchmark.")],
) -> None:
    """Copy what a report is computed from (every image's result, the plan, curves), without weights, masks and logs."""
    require(*REPORTING)
    from monai_mammo.benchmark.records import keep_records

    with ending_clearly(out):
        for folder in keep_records(folders, out):
            say(str(folder))


def _plan(
    task: Task,
    data: Path,
    systems: str,
    seeds: str,
    protocol: Protocol,
    mode: Mode,
    test_data: list[Path] | None,
    compact: bool,
    epochs: int | None,
    values: list[str] | None,
) -> Callable[[], Plan]:
    """The plan that the options describe; what is wrong with them shows when it is made."""

    def make() -> Plan:
        from monai_mammo.benchmark.plan import Plan, by_name

        return Plan(
            task,
            systems=tuple(name.strip() for name in systems.split(",") if name.strip()),
            seeds=tuple(_number(seed) for seed in seeds.split(",")),
            data=str(data),
            protocol=protocol.value,
            mode=mode.value,
            compact=compact,
            values={**({"epochs": epochs} if epochs else {}), **values_of(values)},
            test_data=by_name(test_data or ()),
        )

    return make


def _run(out: Path, plan: Callable[[], Plan], processes: int | None, at_once: int, bundles: Path | None) -> None:
    require(*TRAINING)
    from monai_mammo.benchmark.work import run_benchmark

    with ending_clearly(out):
        failed = run_benchmark(out, plan(), bundles=bundles, processes=processes, at_once=at_once, console=console)
    for name, reason in failed.items():
        complain(f"{name} failed: {reason}")
    say(f"report: monai-mammo benchmark report {out}")
    if failed:
        raise stop(f"{len(failed)} not done; the rest is. Run again to try them again.")


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise MammogramError(text, "it is no whole number", "Give seeds such as 0,1,2") from None
