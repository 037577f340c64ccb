"""What this process may use of the machine."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Processor cores that this process may use, at most 16: more read faster than disks deliver."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)
