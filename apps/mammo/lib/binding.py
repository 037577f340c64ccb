"""What the server starts on: an interface of this machine alone, unless its user asks for more and has set tokens, and
a studies folder that is there. And how many connections it holds, and that it ends when it is told to.

Not here: the checks of each request (security).
"""

from __future__ import annotations

import gc
import ipaddress
import logging
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import uvicorn

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
SECONDS_TO_END = 20
"""So long a server that is told to end waits for the answers that it is giving."""
MOST_FILES = 2**16
"""So many files and connections it may have open, where the system allows it."""


def is_loopback(host: str) -> bool:
    """Whether a host name or an address is this machine's own."""
    name = host.strip("[]").partition("%")[0]
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def choose_interface(with_tokens: bool, arguments: list[str] | None = None) -> None:
    """Make the server that is starting up listen on this machine alone, unless `--host` was given.

    MONAI Label's default is every interface. The app is made while uvicorn starts, before it opens its socket, so
    that the host can still be set in uvicorn's configuration.

    Args:
        with_tokens: every user has to prove who they are.
        arguments: the command line; the process's own by default.

    Raises:
        ValueError: the server would listen on a network and serve everybody there.
    """
    given = any(argument.startswith(("--ho", "-i")) for argument in (sys.argv[1:] if arguments is None else arguments))
    for config in _configurations():
        opened_already = config.workers > 1 or config.fd is not None
        if not given and not is_loopback(config.host) and not opened_already:
            logger.info("Listening on %s; give --host to listen elsewhere", LOOPBACK)
            config.host = LOOPBACK
        if not with_tokens and not is_loopback(config.host):
            raise ValueError(
                f"the server would listen on {config.host} and serve everybody: give --host {LOOPBACK}, or set tokens "
                "(the environment variable MAMMO_TOKEN, or --conf users FILE)"
            )


def end_in_time() -> None:
    """Make the server that is starting up end when it is told to, also while a client does not read its answer."""
    for config in _configurations():
        config.timeout_graceful_shutdown = SECONDS_TO_END


def open_many_files() -> None:
    """Raise the soft limit of open files, often 1024: each connection is one, also before it has sent anything."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError):  # macOS calls more unlimited than it allows
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def check_studies(folder: Path) -> None:
    """Refuse to start on a folder that somebody has mistyped.

    MONAI Label makes a folder that is not there, long before it makes the app: an empty one that is younger than this
    process was not there when its user named it. It is removed again.

    Raises:
        ValueError: the folder is not there.
    """
    clock = 1.0  # s, by which the times of processes and of files may differ
    if folder.is_dir():
        if any(folder.iterdir()) or folder.stat().st_ctime < psutil.Process().create_time() + clock:
            return
        folder.rmdir()
    sys.tracebacklimit = 0  # uvicorn prints it all, and ends
    raise ValueError(f"the studies folder {folder} does not exist: name one that does, or make it first")


def _configurations() -> list[uvicorn.Config]:
    """The configuration of the uvicorn that makes the app: nobody hands it to an app, so it is looked up."""
    return [found for found in gc.get_objects() if type(found) is uvicorn.Config]
