"""Mammograms read a moment ago, so that the next question about one does not decode it again.

A viewer asks several things of one image: its quality, its tumours, then a lesion at each click. A JPEG 2000 mammogram
takes a second to decode. Nothing is kept until a server says how much may be (`RECENT.keep`).
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from monai_mammo.dicom.reader import Mammogram, read_mammogram


class Key(NamedTuple):
    """A state of a file."""

    file: str
    inode: int
    modified: int
    length: int


class RecentMammograms:
    """`read_mammogram` with a memory; threads that want the same image at once wait for one decoding.

    Not kept: what fails, and files of 16 bits a pixel or more that are not compressed, which are as quick to read as to
    copy.
    """

    def __init__(self) -> None:
        self._limit = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, Future[Mammogram | None]] = OrderedDict()

    @property
    def limit(self) -> int:
        """Bytes of pixels that are kept at most."""
        return self._limit

    def keep(self, limit: int) -> None:
        """Keep up to `limit` bytes of pixels, those used last; 0 keeps nothing."""
        with self._lock:
            self._limit = limit
            self._shed()

    def read(self, path: Path) -> Mammogram:
        """As `read_mammogram` without options, in an array of the caller's own.

        Raises:
            MammogramError: as `read_mammogram`.
        """
        key = _key(path) if self.limit else None
        if key is None:
            return read_mammogram(path)
        with self._lock:
            first, future = key not in self._known, self._known.setdefault(key, Future())
            self._known.move_to_end(key)
        if first:
            return self._read(key, future, path)
        kept = future.result()
        return read_mammogram(path) if kept is None else _copy(kept)

    def _read(self, key: Key, future: Future[Mammogram | None], path: Path) -> Mammogram:
        kept = None
        try:
            mammogram = read_mammogram(path)
            if 2 * key.length < mammogram.pixels.nbytes:  # 16 bits a pixel in the file, 32 here
                kept = _copy(mammogram)
        finally:  # an error is the other threads' own to meet
            with self._lock:
                future.set_result(kept)
                if kept is None:
                    self._known.pop(key, None)
                self._shed()
        return mammogram

    def _shed(self) -> None:
        """Forget the oldest until the rest is within the limit."""
        ready = [(key, future.result()) for key, future in self._known.items() if future.done()]
        sizes = {key: kept.pixels.nbytes for key, kept in ready if kept is not None}
        excess = sum(sizes.values()) - self.limit
        for key, size in sizes.items():
            if excess <= 0:
                return
            del self._known[key]
            excess -= size


RECENT = RecentMammograms()
"""The process's own."""


def _copy(mammogram: Mammogram) -> Mammogram:
    return replace(mammogram, pixels=mammogram.pixels.copy(), affine=mammogram.affine.copy())


def _key(path: Path) -> Key | None:
    """None for a file that cannot be seen, which reading it will say better."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return Key(os.path.abspath(path), stat.st_ino, stat.st_mtime_ns, stat.st_size)
