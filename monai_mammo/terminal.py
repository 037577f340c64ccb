"""What the commands of `monai-mammo` share: where they speak, how one ends, choices, `--set`, what they need."""

from __future__ import annotations

import enum
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from monai_mammo.dicom.errors import MammogramError

console = Console()
"""Results; what a script would read."""
notes = Console(stderr=True)
"""Errors and progress."""


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


Values = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="ID=VALUE", help="A value of the bundle's config, such as 'size=[96, 96]'; repeatable."
    ),
]

TRAINING = ("fire", "ignite", "matplotlib", "sklearn", "tensorboard", "tqdm")
"""The modules of the extra `train`."""
REPORTING = ("ignite", "matplotlib", "sklearn")
"""Those that a report is made with."""
_PACKAGES = {"ignite": "pytorch-ignite", "sklearn": "scikit-learn"}


def stop(message: str) -> typer.Exit:
    """Show an error; to be raised."""
    complain(message)
    return typer.Exit(code=1)


def complain(message: str) -> None:
    """Show an error after which the command goes on."""
    notes.print(Text.assemble(("error: ", "red"), message), soft_wrap=True)


def say(line: str) -> None:
    """Print a line of a result just as it is: names of files may hold brackets, and lines are not cut."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def ending_clearly(place: Path) -> Iterator[None]:
    """Let what goes wrong in long work on files end the command with one line that says what to do.

    Args:
        place: the folder in question, where the system names none.
    """
    try:
        yield
    except MammogramError as error:
        raise stop(str(error)) from error
    except OSError as error:
        raise stop(f"{error.filename or place}: {error.strerror}. What is done stays; run again to go on.") from error
    except KeyboardInterrupt:
        raise stop("interrupted; what is done stays, run again to go on") from None


def require(*modules: str) -> None:
    """End the command, before it has begun, where a package of the extra `train` is lacking."""
    if lacking := [_PACKAGES.get(name, name) for name in modules if importlib.util.find_spec(name) is None]:
        raise stop(f"not installed, and needed here: {', '.join(lacking)}. pip install 'monai-mammo[train]'")


def values_of(given: Iterable[str] | None) -> dict[str, Any]:
    """What `--set` sets, by id, each value read as YAML.

    Raises:
        MammogramError: a text sets nothing.
    """
    return dict(map(_value, given or ()))


def _value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        if name and equals:
            return name, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise MammogramError(text, "it sets nothing", "Write --set id=value, such as --set learning_rate=0.0001")
