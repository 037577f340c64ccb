"""What the bundles' training configs need beside MONAI: progress, ImageNet and best weights, resumption.

Not a trainer loop: the engines are MONAI's.
"""

from __future__ import annotations

import logging
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import monai.handlers
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

from monai_mammo.bundles import other_weights
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.files import replacing

_LOG = logging.getLogger(__name__)


def latest_checkpoint(directory: str | Path) -> str:
    """Newest complete checkpoint of a training run.

    A process killed while it writes leaves a torn file behind: a torch checkpoint is a zip archive whose index
    comes last, so a torn one is recognised and the one before it is taken. So is one that vanishes meanwhile: a
    training that runs removes its oldest.

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


def all_validated(epochs: int, val_interval: int) -> int:
    """The epochs themselves, if a training that validates every `val_interval` of them ends in one that does.

    What follows the last validation would neither be chosen nor be kept in a checkpoint; where none comes at all, a
    training would end well and leave the weights that lay there before it.

    Raises:
        MammogramError: it does not.
    """
    if val_interval < 1 or epochs % val_interval:
        raise MammogramError(
            "val_interval",
            f"every {val_interval} of {epochs} epochs are validated, and so not the last, which would be lost",
            "Give a divisor of epochs, such as 1",
        )
    return epochs


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


class CheckpointLoader(monai.handlers.CheckpointLoader):
    """MONAI's for trainings, and what an engine's own state must not bring along from the run that it goes on with.

    That is how many steps an epoch had: another number of images, batch size or number of processes makes another,
    and ignite would go on with the former one, past a part of the images or over them twice.

    Raises:
        MammogramError: the file is of another network; or of a run with another learning rate, which the optimiser's
            state brings along in place of the one that is given.
    """

    def __call__(self, engine: Engine) -> None:
        """Load, once the training begins."""
        steps, given = engine.state.epoch_length, self._learning_rates()
        try:
            super().__call__(engine)
        except RuntimeError as error:
            if network := re.match(r"Error\(s\) in loading state_dict for (\w+)", str(error)):
                raise other_weights(self.load_path, network[1]) from None
            raise
        if steps is not None:
            engine.state.epoch_length, engine.state.iteration = steps, engine.state.epoch * steps
        if (kept := self._learning_rates()) != given:
            raise MammogramError(
                self.load_path,
                f"the run that is gone on with has the learning rate {kept[0]:g}, not {given[0]:g}",
                f"Give --learning_rate {kept[0]:g}; for another one begin anew, from the run's weights with "
                "--initial_weights",
            )

    def _learning_rates(self) -> list[float]:
        """Of the optimiser's groups of parameters, before any schedule; none without an optimiser."""
        optimizer = self.load_dict.get("optimizer")
        return [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups] if optimizer else []


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
        raise MammogramError(
            "imagenet_weights", str(error), "Or leave it out: the network then starts at random"
        ) from None
    return network


def _written(checkpoint: Path) -> tuple[int, int]:
    """When, 0 if it is gone: a former, longer run in the same folder has later epochs, which are not the last one's."""
    try:
        return checkpoint.stat().st_mtime_ns, epoch_of(checkpoint)
    except FileNotFoundError:
        return 0, 0


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
            that went on would end with whatever weights lie at `path`. Or the network's weights are not finite any
            more, which no further step mends; what was kept of an earlier epoch stays at `path`.
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
        state_dict = getattr(self.network, "module", self.network).state_dict()
        if lost := sum(not value.isfinite().all() for value in state_dict.values()):
            # Checked here, since a validation does not tell: a mask made of NaN is empty, and its Dice 0 a number.
            raise MammogramError(
                str(self.path),
                f"the training has diverged: {lost} of {len(state_dict)} weight tensors hold NaN or infinity",
                "Lower the learning rate; the file still has what was best before, if there was anything",
            )
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
        with replacing(self.path) as partial, partial.open("wb") as file:  # torch writes a path's name into the file
            torch.save({name: value.cpu() for name, value in state_dict.items()}, file)  # loads without a GPU, too

    def state_dict(self) -> dict[str, float]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a run's best value."""
        self.best = state["best"]
