"""Many jobs in a few processes, none lost: a process that dies takes nothing with it but the job that killed it.

Jobs leave their results on disk; nothing but the job itself crosses the process border, so memory stays flat.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

Job = TypeVar("Job")

DIED = "its process died while it was worked on (out of memory, or a crash within its codec)"


def run(work: Callable[[Job], None], jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, str]]:
    """Do every job, in whatever order they end.

    Args:
        work: importable by name; what it raises ends the run.
        jobs: they pickle.
        processes: worker processes; 0 does everything in this process, without protection against crashes.

    Yields:
        each job that is through, with "" or why it is not done.
    """
    if processes == 0:
        for job in jobs:
            work(job)
            yield job, ""
        return
    waiting = deque(jobs)
    while waiting:
        suspects = yield from _until_death(work, waiting, processes)
        for job in suspects:  # one of them killed a process; alone, it takes no other with it
            killed = yield from _until_death(work, deque([job]), 1)
            if killed:
                yield job, DIED


def _until_death(
    work: Callable[[Job], None], waiting: deque[Job], processes: int
) -> Generator[tuple[Job, str], None, list[Job]]:
    """Do jobs until none is left or a process dies; returns the jobs that were under way then."""
    running: dict[Future[None], Job] = {}
    pool = ProcessPoolExecutor(min(processes, len(waiting)), get_context("spawn"), _begin)
    try:
        while waiting or running:
            while waiting and len(running) < 2 * processes:
                running[pool.submit(work, waiting[0])] = waiting[0]
                waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                yield running.pop(future), ""
    except BrokenProcessPool:
        return list(running.values())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return []


def _begin() -> None:
    """In a new worker: leave Ctrl-C to the parent, one thread a process, and end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the libraries that the first job loads
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)  # its queue would never bring another job
