"""Refusals of the app, and how every error becomes JSON with a reason and a fitting status.

MONAI Label's endpoints turn any exception into a bare 500. Not here: what is refused and why (each module says so).
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from starlette.exceptions import HTTPException

from .files import DamagedRecord

logger = logging.getLogger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)


class RequestRefused(Exception):  # noqa: N818 - a refusal, and the client's fault, not an error of the server
    """A request that cannot be fulfilled.

    Args:
        status: HTTP status, 4xx where the client can do something about it.
        reason: what is wrong; as in a `MammogramError`, a closing full stop is not kept.
        remedy: what to do about it, likewise.
        file: the image concerned, relative to the studies folder, or the record.
    """

    def __init__(self, status: int, reason: str, remedy: str, file: str | None = None) -> None:
        self.status, self.file = status, file
        self.reason, self.remedy = reason.rstrip("."), remedy.rstrip(".")
        super().__init__(f"{file + ': ' if file else ''}{self.reason}. {self.remedy}.")


def unknown(kind: str, name: str) -> RequestRefused:
    """The 404 of an image, label, model or strategy that there is not, or no longer."""
    if kind in ("image", "study"):  # a reader of images may have it open, and knows no routes
        return RequestRefused(404, f"the {kind} '{name[:99]}' is not there, or no longer", "Reload the list of studies")
    return RequestRefused(404, f"there is no {kind} '{name[:99]}'", "GET /info/ and /datastore/ list what there is")


def system_reason(error: OSError) -> str:
    """What the system says of a failure, without the file, whose name may hold what somebody wrote into it."""
    return os.strerror(error.errno) if error.errno else type(error).__name__


def refusal(error: RequestRefused) -> JSONResponse:
    """The answer to a refused request."""
    body = {"detail": str(error), "file": error.file, "reason": error.reason, "remedy": error.remedy}
    return JSONResponse(body, status_code=error.status)


def _answer(status: int, reason: str, remedy: str = "/docs lists what each route takes") -> JSONResponse:
    return refusal(RequestRefused(status, reason, remedy))


def _refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestRefused)
    return refusal(error)


def _monailabel(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MONAILabelException)
    client = error.error in (MONAILabelError.INVALID_INPUT, MONAILabelError.APP_INIT_ERROR)
    return _answer(400 if client else 500, error.msg)


def _http(_: Request, error: Exception) -> JSONResponse:
    """FastAPI's own refusals, and those of MONAI Label's endpoints."""
    assert isinstance(error, HTTPException)
    response = _answer(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Names the parameters at fault, without the values that were sent."""
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc'][1:])) or 'the body'}: {fault['msg']}" for fault in error.errors()[:10]]
    return _answer(422, "; ".join(faults))


def _json(_: Request, error: Exception) -> JSONResponse:
    return _answer(400, f"a parameter that should be JSON is not: {error}")


def _too_deep(_: Request, error: Exception) -> JSONResponse:
    return _answer(400, "what was sent is nested too deeply")


def _disk(_: Request, error: Exception) -> JSONResponse:
    """Names what whoever runs the server can mend on its disks."""
    assert isinstance(error, OSError)
    if error.errno in _NO_SPACE:
        status, reason = 507, "a disk of the server is full"
        remedy = "Free space where its labels, weights and temporary files are"
    elif error.errno in _NO_RIGHT:
        status, reason = 503, "the server may not use one of its folders"
        remedy = "Let it write to those of labels, weights, sessions and temporary files, and read that of the images"
    else:
        raise error
    refused = RequestRefused(status, f"{reason} ({system_reason(error)})", remedy)
    logger.error("a request failed: %s", refused)
    return refusal(refused)


def _damaged(_: Request, error: Exception) -> JSONResponse:
    """Names the record, which whoever runs the server can mend; the log does not, for its name may be an image's."""
    assert isinstance(error, DamagedRecord)
    logger.error("a request failed: a record is damaged")
    return refusal(RequestRefused(503, "a record is damaged", "Restore it or move it away", error.place))


def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    return _answer(500, f"the server failed with {type(error).__name__}", "Its log tells where")


def install_error_handlers(server: FastAPI) -> None:
    """Make the running server answer every error with JSON.

    The app is created while the server starts up, after Starlette has built its stack of handlers; dropping the
    stack makes it build a new one, with these, for the first request.
    """
    handlers: dict[type[Exception], Callable[[Request, Any], JSONResponse | Awaitable[JSONResponse]]] = {
        RequestRefused: _refusal,
        MONAILabelException: _monailabel,
        HTTPException: _http,
        RequestValidationError: _invalid,
        json.JSONDecodeError: _json,
        RecursionError: _too_deep,
        OSError: _disk,
        DamagedRecord: _damaged,
        Exception: _unforeseen,
    }
    for kind, handler in handlers.items():
        server.add_exception_handler(kind, handler)
    server.middleware_stack = None
