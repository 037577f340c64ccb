"""What the process keeps in memory: what one image leaves, the next one takes. Not here: how much."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's <malloc.h>
_KEPT = 2**30


def keep_memory() -> bool:
    """Let glibc keep freed memory, up to 1 GiB, instead of giving it back to the kernel.

    An image at its own pixels is tens of megabytes, of which the kernel otherwise clears every page anew for each
    request: a third of an inference's time without its network, and threads wait for one another meanwhile.

    Returns:
        whether there is a glibc that does so; elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # One arena: the others, one a thread, cannot hold arrays of this size.
    return all(
        mallopt(option, value)
        for option, value in ((_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, _KEPT), (_ARENA_MAX, 1))
    )
