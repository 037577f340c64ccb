"""How far a training is, in a file that the server reads while the training's process writes it.

Not here: what the training does.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_mammo.files import write_json

from .files import read_json
from .history import now

TRAINING_SHARE = 0.9
"""Of the whole; the rest is the comparison with the weights in service."""

EVERY_SECONDS = 0.5


class Progress:
    """Writes `progress.json`: phase, epoch, metric of the validation, share done and seconds left.

    Args:
        file: where.
        about: what stays the same (the run's name, the number of epochs).
    """

    def __init__(self, file: Path, **about: Any) -> None:
        self.file = file
        self.state: dict[str, Any] = {**about, "started": now(), "phase": "preparing", "share": 0.0}
        self._started = self._written = time.monotonic()
        self._parent = os.getppid()
        self.tell()

    def tell(self, **values: Any) -> None:
        """Note what has changed, and write it."""
        self.state |= values
        self._written = time.monotonic()
        write_json(self.file, self.state)

    def check_server(self) -> None:
        """Nobody could see or stop a training whose server is gone.

        Raises:
            RuntimeError: it is.
        """
        if os.getppid() != self._parent:
            raise RuntimeError("the server that had started this training is gone")

    def advance(self, share: float, **values: Any) -> None:
        """Note the share of the whole that is done; written twice a second at most.

        Raises:
            RuntimeError: the server is gone.
        """
        self.check_server()
        elapsed = time.monotonic() - self._started
        self.state |= {**values, "share": round(share, 4), "seconds_left": round(elapsed * (1 - share) / share)}
        if time.monotonic() - self._written >= EVERY_SECONDS:
            self.tell()

    def follow(self, trainer: Engine, evaluator: Engine) -> None:
        """Write after the steps of a MONAI trainer and after every validation."""
        self._started = time.monotonic()
        self.tell(phase="training", epoch=0)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        evaluator.add_event_handler(Events.COMPLETED, self._validated)

    def comparing(self, share: float) -> None:
        """Note the share of the comparison that is done."""
        self.advance(TRAINING_SHARE + (1 - TRAINING_SHARE) * share, phase="comparing")

    def _step(self, trainer: Engine) -> None:
        state: Any = trainer.state
        share = state.iteration / (state.epoch_length * state.max_epochs)
        loss = float(state.output[0]["loss"])
        self.advance(TRAINING_SHARE * share, loss=loss if math.isfinite(loss) else None)  # JSON has no word for NaN

    def _epoch(self, trainer: Engine) -> None:
        self.tell(epoch=trainer.state.epoch)

    def _validated(self, evaluator: Engine) -> None:
        state: Any = evaluator.state
        name = state.key_metric_name
        value = float(state.metrics[name])
        best = max(value, self.state.get("best_metric") or value)
        if value == value:  # not NaN, for which JSON has no word
            self.tell(metric={"name": name, "value": value}, best_metric=best)


def read_progress(folder: Path) -> dict[str, Any]:
    """What the training in this folder has written last; empty if there is none."""
    return read_json(folder / "progress.json")
