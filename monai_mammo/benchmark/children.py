"""Child processes that end with their parent, whose output goes to a log, and what a log says went wrong."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Launch = Callable[[Sequence[str], Path, Callable[[], None]], int]
"""Runs a command line, appends what it prints to a log, calls a function now and then; returns the exit status."""

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork
_PROBLEM = re.compile(r"^(?:error|[\w.]*(?:Error|Exception|Interrupt))\b.*")


def launch(command: Sequence[str], log: Path, tick: Callable[[], None], threads: int | None = None) -> int:
    """Run a command to its end.

    The child is ended when this process ends, however that happens: a training that goes on without the benchmark
    that started it would meet the next benchmark in the same folder.

    Args:
        command: program and arguments.
        log: file that both output streams are appended to.
        tick: called once a second; what it raises ends the child.
        threads: that the child computes with; None for as many as there are cores.

    Returns:
        the exit status; negative for a signal.
    """
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent if _LIBC is not None else None,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **({"OMP_NUM_THREADS": str(threads)} if threads else {})},
        )
        try:
            while True:
                try:
                    return process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    tick()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def cause(log: Path) -> str:
    """The last line of a log that names an error; the last line at all where none does."""
    lines = (
        [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.is_file() else []
    )
    problems = [line for line in lines if _PROBLEM.match(line)]
    return (problems or lines or ["it printed nothing"])[-1][:500]


def _end_with_parent() -> None:
    assert _LIBC is not None
    _LIBC.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
