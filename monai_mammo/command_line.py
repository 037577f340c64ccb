"""The bundles under `python -m monai.bundle`: what is typed is checked, what fails ends in the line that says why."""

from __future__ import annotations

import inspect
import re
import sys
import threading
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.dummy import DummyProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow, run, run_workflow
from monai.utils import ensure_tuple

from monai_mammo.bundles import other_weights, refuse_unknown
from monai_mammo.dicom.errors import MammogramError, cause_of

_LAST_IMAGES = 30.0  # s; to read what a thread has begun
_LIKE_SWITCHES = {"true", "false", "yes", "no", "on", "off"}
_MONAIS_OWN = {
    name
    for function in (run, run_workflow, ConfigWorkflow)
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
}


def guard_command_line() -> None:
    """What a bundle's `initialize` begins with: a failure ends in its cause, and a mistyped value is one.

    Called from elsewhere (`ConfigWorkflow`, the app) this does nothing: that process has its own ways.

    Raises:
        MammogramError: names the value that the bundle does not have, or that is a text where a switch is meant.
    """
    if _on_monais_command_line():
        _name_cause_last()
        _refuse_mistyped_values()


def _name_cause_last() -> None:
    """Let a bundle that fails under `python -m monai.bundle` end in the line that says why.

    MONAI wraps every error in one that quotes the config's expression; the cause stands far above. This prints the
    traceback as ever and then what is behind it: of a `MammogramError` or of the system the file, the reason and the
    remedy.
    Of Ctrl-C it says how a training goes on, without a traceback.
    """

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
        if line := _in_one_line(error):
            print(f"\nerror: {line}", file=sys.stderr)  # noqa: T201
        for thread in threading.enumerate():
            # What MONAI's cache is filled by goes on after an error; torch aborts if the process ends meanwhile.
            if isinstance(thread, DummyProcess):
                thread.join(_LAST_IMAGES)

    sys.excepthook = show


def _in_one_line(error: BaseException) -> str:
    """What is behind an error; empty if it is that itself, as the traceback then ends in it."""
    cause = cause_of(error)
    if isinstance(cause, KeyboardInterrupt):
        training = sys.argv[1:3] == ["run", "training"]
        return "interrupted; the training goes on with --resume True" if training else "interrupted"
    if isinstance(cause, MammogramError):
        return str(cause)
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename or 'the disk'}: {cause.strerror}"
    if network := re.match(r"Error\(s\) in loading state_dict for (\w+)", str(cause)):  # with a line for each layer
        return str(other_weights("weights", network[1]))
    return "" if cause is error else f"{type(cause).__name__}: {cause}"


def _refuse_mistyped_values() -> None:
    """Let `python -m monai.bundle run` take no value from the command line that the bundle does not have.

    MONAI adds an unknown one to the config, where nothing reads it: `--epoch 5` would train the default's epochs. Nor
    is a switch set by a text: `--parb false`, as a config has it, is the text "false" here, and every text is true.
    Only on the command line's own words can a slip be told from what the config holds.

    Raises:
        MammogramError: names the value.
    """
    given = _given(sys.argv[1:])
    if "config_file" not in given:  # it stands among the words without a name
        return
    config = ConfigParser(ConfigParser.load_config_files(given["config_file"]))
    values = {name: value for name, value in given.items() if name not in _MONAIS_OWN}
    refuse_unknown(values, config.get(), Path(ensure_tuple(given["config_file"])[0]).name)
    for name, value in values.items():
        if isinstance(value, str) and value.lower() in _LIKE_SWITCHES and not _is_text(config.get(name)):
            raise MammogramError(name, f"'{value}' is a text here, and every text is true", "Write True or False")


def _on_monais_command_line() -> bool:
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def _given(words: Sequence[str]) -> dict[str, Any]:
    """What MONAI is given by name, as it reads it: `--name value`, `--name=value`, and what `args_file` holds."""
    given = {}
    for word, following in pairwise([*words, ""]):
        if re.match("--|-[a-zA-Z]", word):  # as fire has it
            name, equals, value = word.lstrip("-").partition("=")
            given[name.replace("-", "_")] = DefaultParseValue(value if equals else following)
    return {**ConfigParser.load_config_file(given.pop("args_file", "")), **given}


def _is_text(value: Any) -> bool:
    """Whether a config holds a plain text, neither an expression nor a reference."""
    return isinstance(value, str) and not value.startswith(("$", "@"))
