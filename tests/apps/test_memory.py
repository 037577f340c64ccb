"""The server uses its memory for images again and does not take it anew from the kernel: page faults show it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from .conftest import APP

FAULTS = """
import resource, sys, threading
import numpy as np
sys.path.insert(0, sys.argv[1])
from lib.memory import keep_memory
if sys.argv[2] == "keep":
    assert keep_memory()

def images():
    for _ in range(10):
        bytearray(24_000_000)
        np.zeros((4000, 3000), np.float32).fill(1)

images()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
worker = threading.Thread(target=images)
worker.start()
worker.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept by glibc alone")
def test_what_one_image_leaves_the_next_one_takes_in_whatever_thread() -> None:
    def faults(mode: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", FAULTS, str(APP), mode], capture_output=True, check=True).stdout
        )

    assert faults("keep") < 1000 < 10_000 < faults("leave")
