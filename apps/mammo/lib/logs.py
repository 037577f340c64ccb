"""What must not reach a log: requests, query strings, identifiers, values out of images. Not here: what is logged.

MONAI Label logs whole requests, uvicorn query strings and the messages of exceptions, which may quote an attribute.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pydicom.config
from pydicom.config import IGNORE

from .errors import system_reason

# They log parameters, settings, file names and URLs as information, and nothing else that is missed.
TALKATIVE = (
    "monailabel.endpoints",
    "monailabel.interfaces.app",
    "monailabel.interfaces.tasks",
    "monailabel.interfaces.utils.app",
    "monailabel.utils.async_tasks",
    "monailabel.utils.sessions",
    "monailabel.tasks",
    "httpx",
    "httpcore",
    "dicomweb_client",
    "highdicom",
    "filelock",
)
OWN = ("lib", "monai_mammo")
"""Packages whose loggers are ours. Each logger has a filter of its own: what its children log does not pass it."""


def keep_patients_out_of_logs() -> None:
    """Silence what logs requests, and cut what uvicorn and this program log, of threads that fail, too, down to what
    names no patient and fills no disk."""
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in OWN]:
        _filter(name, NoMessage())
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _end_of_thread
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    _filter("uvicorn.access", ShortPath())
    _filter("uvicorn.error", NoMessage())
    _filter("asyncio", OnceAMinute())
    # Otherwise pydicom quotes the values that it complains of in its warnings.
    pydicom.config.settings.reading_validation_mode = IGNORE


@contextmanager
def without_messages() -> Iterator[None]:
    """A task in a process of its own, of which the server logs all that it prints: errors lose their messages there,
    and so does whatever tells of an exception.

    MONAI and ignite log an exception on its way up, more than once; what ends the process is printed by the hook.
    """

    def bare(*args: Any, **more: Any) -> logging.LogRecord:
        record = usual(*args, **more)
        if record.levelno >= logging.ERROR or record.exc_info:
            record.msg, record.args, record.exc_info = "failed", (), None
        return record

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        sys.stderr.write(f"{_without_message(error, where)}\n")

    usual, sys.excepthook = logging.getLogRecordFactory(), hook
    logging.setLogRecordFactory(bare)
    try:
        yield
    finally:
        logging.setLogRecordFactory(usual)


class ShortPath(logging.Filter):
    """Leaves of a request's path, in uvicorn's access log, the first two parts: the rest names images or patients."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record; it is always logged."""
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, version, status = record.args
            parts = str(path).partition("?")[0].split("/")
            short = "/".join(parts[:3]) + ("/..." if len(parts) > 3 else "")
            record.args = (client, method, short, version, status)
        return True


class NoMessage(logging.Filter):
    """Leaves of an exception its type, where it happened, and what the system says of it; its message may quote what
    was sent or read."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record; it is always logged."""
        if record.exc_info and record.exc_info[1]:
            _, error, where = record.exc_info
            record.exc_text = _without_message(error, where)
            record.exc_info = None
        return True


class OnceAMinute(logging.Filter):
    """Of the event loop's complaint that there are too many connections, which it repeats as long as there are, some
    thousand times a second, leaves one a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if not record.getMessage().startswith("socket.accept() out of system resource"):
            return True
        due, now = self._next, time.monotonic()
        if now >= due:
            self._next = now + 60
        return now >= due


def _without_message(error: BaseException, where: TracebackType | None) -> str:
    said = f": {system_reason(error)}" if isinstance(error, OSError) and error.errno else ""
    return "".join([*traceback.format_tb(where), type(error).__name__, said])


def _end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and ended.exc_type is not SystemExit:
        sys.stderr.write(f"{_without_message(ended.exc_value, ended.exc_traceback)}\n")


def _filter(logger: str, addition: logging.Filter) -> None:
    found = logging.getLogger(logger)
    if not any(type(former) is type(addition) for former in found.filters):
        found.addFilter(addition)
