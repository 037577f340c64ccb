"""What the bundles' training configs need beside MONAI: progress, ImageNet and best weights, resumption.

Not a trainer loop: the engines are MONAI's.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from multiprocessing.dummy import DummyProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import ignite.distributed as idist
import torch
from fire.parser import DefaultParseValue
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.bundle import ConfigParser, ConfigWorkflow, run, run_workflow
from monai.utils import ensure_tuple

from monai_mammo.bundles import other_weights, refuse_unknown
from monai_mammo.dicom.errors import MammogramError, cause_of
from monai_mammo.files import replacing

_LOG = logging.getLogger(__name__)
_LAST_IMAGES = 30.0  # s; to read what a thread has begun
_LIKE_SWITCHES = {"true", "false", "yes", "no", "on", "off"}
_MONAIS_OWN = {
    name
    for function in (run, run_workflow, ConfigWorkflow)
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
}


def latest_checkpoint(directory: str | Path) -> str:
    """Newest complete checkpoint of a training run.

    A process killed while it writes leaves a torn file behind: a torch checkpoint is a zip archive whose index
    comes last, so a torn one is recognised and the one before it is taken.

    Args:
        directory: where the files are; it need not exist.

    Returns:
        the file's path, or an empty string where there is none to resume from.
    """
    found = sorted(checkpoints_in(directory), key=_written, reverse=True)
    return next((str(file) for file in found if zipfile.is_zipfile(file)), "")


def checkpoint_to_resume(directory: str | Path, epochs: int) -> str:
    """The `latest_checkpoint` for a training that is to have `epochs` in all, those done included.

    It logs that files of later epochs are passed over: a copied folder may have lost the order of its files' times. And
    that there is nothing to go on from: the folder's name may be mistyped.

    Raises:
        MammogramError: more are done already.
    """
    found = latest_checkpoint(directory)
    if not found:
        _LOG.warning("no whole checkpoint to resume from in %s: the training begins anew", directory)
    if (done := epoch_of(found)) > epochs:
        raise MammogramError(
            directory,
            f"the training here has had {done} epochs already, more than the {epochs} that it is to have in all",
            f"Give --epochs above {done}, or begin anew without --resume True",
        )
    last = max(checkpoints_in(directory), key=epoch_of, default=Path())
    if found and epoch_of(last) > done:
        _LOG.warning("going on from epoch %d: %s here is older, or torn", done, last.name)
    return found


def checkpoints_in(directory: str | Path) -> Iterator[Path]:
    """The `checkpoint_epoch=<n>.pt` of a training run, torn ones too, in no order."""
    return Path(directory).glob("checkpoint_epoch=*.pt")


def seed_of_process(seed: int, rank: int = 0, resumed_from: str = "") -> int:
    """What one process of a training is seeded with, so that no two draw the same samples.

    The weights do not depend on it: `DistributedDataParallel` gives every process those of rank 0.

    Args:
        seed: of the run.
        rank: of the process.
        resumed_from: the checkpoint that the run goes on from (`latest_checkpoint`). No state of the generators is
            kept, so the seed itself would draw the first epochs' samples once more.

    Returns:
        `seed` for a run's first process, unless it is resumed; else another number for every rank and epoch.
    """
    epoch = epoch_of(resumed_from)
    return zlib.crc32(f"{seed} {rank} {epoch}".encode()) if rank or epoch else seed


def begun_from_imagenet(network: torch.nn.Module, weights: str | Path | None) -> torch.nn.Module:
    """The network itself, with what fits of ImageNet weights read into it, as its `load_imagenet_weights` says.

    Args:
        network: one of `ResNet34PARBKAN` and `ResPAMUNet`, not trained yet.
        weights: torchvision's state dict file; None or empty leaves the network as it is.

    Raises:
        MammogramError: there is no such file, it is not of the ResNet that the network is made of, or the network's
            width, reading or kind takes nothing from it.
    """
    if not weights:
        return network
    load = getattr(network, "load_imagenet_weights", None)
    try:
        if load is None:
            raise ValueError(f"{type(network).__name__} takes no ImageNet weights")
        load(weights)
    except (OSError, ValueError) as error:
        raise MammogramError("pretrained", str(error), "Or leave it out: the network then starts at random") from None
    return network


def _written(checkpoint: Path) -> tuple[int, int]:
    """When: a former, longer run in the same folder has later epochs, which are not the last one's."""
    return checkpoint.stat().st_mtime_ns, epoch_of(checkpoint)


def epoch_of(checkpoint: str | Path) -> int:
    """The epoch after which a checkpoint was written; 0 for an empty string, as `latest_checkpoint` may give it."""
    return int(Path(checkpoint).stem.split("=")[1]) if checkpoint else 0


class TrainingProgress(ProgressBar):
    """A progress bar over the epoch's steps with the loss, as a handler that needs no arguments to attach."""

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Show the loss of a MONAI trainer at every step."""
        super().attach(engine, output_transform=lambda output: {"loss": output[0]["loss"]})


class BestWeights:
    """Keep the network's weights of the best validation so far, as the plain state dict that a bundle ships.

    Of equal values the last counts: few validation images soon give a perfect score, which says nothing of later gains.

    Rank 0 writes. The file is replaced in one step, so a process killed at any moment leaves the former weights
    whole. The best value is part of the run's checkpoint (`state_dict`), so a resumed run does not replace better
    weights by worse.

    Args:
        network: the trained network, wrapped for several processes or not.
        path: where the state dict goes.

    Raises:
        MammogramError: the first validation gives no number, as nothing that it says would ever choose weights; a run
            that went on would end with whatever weights lie at `path`.
    """

    def __init__(self, network: torch.nn.Module, path: str | Path) -> None:
        self.network = network
        self.path = Path(path)
        self.best = -math.inf

    def attach(self, evaluator: Engine) -> None:
        """Look at the evaluator's key metric after every validation."""
        evaluator.add_event_handler(Events.COMPLETED, self)

    def __call__(self, evaluator: Engine) -> None:
        """Save the weights if the key metric is as good as ever before."""
        state: Any = evaluator.state  # MONAI adds the key metric's name to it
        metric = float(state.metrics[state.key_metric_name])
        if math.isnan(metric) and self.best == -math.inf:
            raise MammogramError(
                str(self.path),
                f"no weights are kept here: the validation's {state.key_metric_name} is not a number",
                "Give the validation entries of both classes, or with lesions; else lower the learning rate",
            )
        if math.isnan(metric) or metric < self.best:
            return
        self.best = metric
        if idist.get_rank() != 0:
            return
        state_dict = getattr(self.network, "module", self.network).state_dict()
        with replacing(self.path) as partial, partial.open("wb") as file:  # torch writes a path's name into the file
            torch.save({name: value.cpu() for name, value in state_dict.items()}, file)  # loads without a GPU, too

    def state_dict(self) -> dict[str, float]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a run's best value."""
        self.best = state["best"]


def name_cause_last() -> None:
    """Let a bundle that fails under `python -m monai.bundle` end in the line that says why.

    MONAI wraps every error in one that quotes the config's expression; the cause stands far above. This prints the
    traceback as ever and then what is behind it: of a `MammogramError` or of the system the file, the reason and the
    remedy.
    Of Ctrl-C it says how a training goes on, without a traceback. Called from elsewhere (`ConfigWorkflow`, the app)
    this does nothing: that process has its own ways.
    """
    if not _on_monais_command_line():
        return

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


def refuse_mistyped_values() -> None:
    """Let `python -m monai.bundle run` take no value from the command line that the bundle does not have.

    MONAI adds an unknown one to the config, where nothing reads it: `--epoch 5` would train the default's epochs. Nor
    is a switch set by a text: `--parb false`, as a config has it, is the text "false" here, and every text is true.
    Only on the command line's own words can a slip be told from what the config holds. Called from elsewhere
    (`ConfigWorkflow`, the app) this does nothing.

    Raises:
        MammogramError: names the value.
    """
    if not _on_monais_command_line():
        return
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
