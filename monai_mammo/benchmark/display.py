"""Progress of a benchmark on the terminal: all runs and the current one."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Display:
    """Two bars, all runs and the current one, counted in epochs so that the time left means something."""

    def __init__(self, console: Console, runs: int, epochs: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
        self.progress = Progress(*columns, TimeRemainingColumn(), console=console, speed_estimate_period=3600)
        self.epochs, self.runs, self.done = epochs, runs, 0
        self.overall: TaskID = self.progress.add_task(f"0 of {runs} runs", total=runs * epochs)
        self.current: TaskID = self.progress.add_task("", total=epochs)
        self.epoch: Callable[[], int] = lambda: 0

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def now(self, run: str, what: str, epoch: Callable[[], int]) -> None:
        """A step begins."""
        self.epoch = epoch
        words = f"{run}: {what}"
        self.progress.reset(self.current, description=words, total=self.epochs, completed=epoch(), visible=True)
        self.progress.console.print(f"{run}: {what}", highlight=False, markup=False)

    def other(self, what: str) -> None:
        """A step that has no epochs begins."""
        self.epoch = lambda: 0
        self.progress.update(self.current, visible=False)
        self.progress.console.print(what, highlight=False, markup=False)

    def tick(self) -> None:
        """Look where the current run is."""
        epoch = min(self.epoch(), self.epochs)
        self.progress.update(self.current, completed=epoch)
        self.progress.update(self.overall, completed=self.done * self.epochs + epoch)

    def finished(self, run: str) -> None:
        """A run is done."""
        self._count()
        self.progress.console.print(f"{run}: done", highlight=False, markup=False)

    def failed(self, run: str, reason: str) -> None:
        """A run came to no end."""
        self._count()
        self.progress.console.print(f"{run}: failed: {reason}", style="red", markup=False, soft_wrap=True)

    def _count(self) -> None:
        self.done = min(self.done + 1, self.runs)  # baselines follow when all runs are counted
        words = f"{self.done} of {self.runs} runs"
        self.progress.update(self.overall, completed=self.done * self.epochs, description=words)
