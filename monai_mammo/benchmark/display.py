"""Progress of a benchmark on the terminal: all runs and those under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass
class _Current:
    """A run under way: its bar, and where it is."""

    bar: TaskID
    epoch: Callable[[], int]
    seen: int


class Display:
    """A bar for all runs and one for each under way, counted in epochs so that the time left means something.

    Threads may use it together.
    """

    def __init__(self, console: Console, runs: int, epochs: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
        self.progress = Progress(*columns, TimeRemainingColumn(), console=console, speed_estimate_period=3600)
        self.epochs, self.runs, self.done = epochs, runs, 0
        self.overall: TaskID = self.progress.add_task(f"0 of {runs} runs", total=runs * epochs)
        self.current: dict[str, _Current] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def now(self, run: str, what: str, epoch: Callable[[], int]) -> None:
        """A step of a run begins."""
        words = f"{run}: {what}"
        with self._lock:
            known = self.current.get(run)
            bar = known.bar if known else self.progress.add_task(words, total=self.epochs)
            self.current[run] = _Current(bar, epoch, epoch())
            self.progress.reset(bar, description=words, total=self.epochs, completed=self.current[run].seen)
        self._say(words)

    def other(self, what: str) -> None:
        """A step that has no epochs begins."""
        self._say(what)

    def tick(self, run: str) -> None:
        """Look where a run is."""
        with self._lock:
            current = self.current[run]
            current.seen = min(current.epoch(), self.epochs)
            self.progress.update(current.bar, completed=current.seen)
            self._update()

    def finished(self, run: str) -> None:
        """A run is done."""
        self._ended(run)
        self._say(f"{run}: done")

    def failed(self, run: str, reason: str) -> None:
        """A run came to no end."""
        self._ended(run)
        self._say(f"{run}: failed: {reason}", style="red")

    def _ended(self, run: str) -> None:
        with self._lock:
            current = self.current.pop(run, None)
            if current is not None:
                self.progress.remove_task(current.bar)
            self.done = min(self.done + 1, self.runs)  # baselines follow when all runs are counted
            self._update()

    def _update(self) -> None:
        epochs = self.done * self.epochs + sum(current.seen for current in self.current.values())
        words = f"{self.done} of {self.runs} runs"
        self.progress.update(self.overall, completed=min(epochs, self.runs * self.epochs), description=words)

    def _say(self, words: str, style: str | None = None) -> None:
        self.progress.console.print(words, style=style, markup=False, highlight=False, soft_wrap=True)
