"""What the commands of `monai-mammo` share: the console, how one ends with an error, `--set`, and what they need."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from monai_mammo.dicom.errors import MammogramError

console = Console()

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
    console.print(Text.assemble(("error: ", "red"), message), soft_wrap=True)


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
