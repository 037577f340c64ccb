"""Refusals of the app, and how every error becomes JSON with a reason and a fitting status.

MONAI Label's endpoints turn any exception into a bare 500. Not here: what is refused and why (each module says so).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

logger = logging.getLogger(__name__)


class RequestRefused(Exception):  # noqa: N818 - a refusal, and the client's fault, not an error of the server
    """A request that cannot be fulfilled.

    Args:
        status: HTTP status, 4xx where the client can do something about it.
        reason: what is wrong.
        remedy: what to do about it.
        file: the image concerned, relative to the studies folder.
    """

    def __init__(self, status: int, reason: str, remedy: str, file: str | None = None) -> None:
        super().__init__(f"{file + ': ' if file else ''}{reason.rstrip('.')}. {remedy}")
        self.status, self.reason, self.remedy, self.file = status, reason, remedy, file


def unknown(kind: str, name: str) -> RequestRefused:
    """The 404 of an image, label, model or strategy that there is not."""
    return RequestRefused(404, f"there is no {kind} '{name[:200]}'", "GET /info/ and /datastore/ list what there is")


def _refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestRefused)
    body = {"detail": str(error), "file": error.file, "reason": error.reason, "remedy": error.remedy}
    return JSONResponse(body, status_code=error.status)


def _monailabel(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MONAILabelException)
    client = error.error in (MONAILabelError.INVALID_INPUT, MONAILabelError.APP_INIT_ERROR)
    return JSONResponse({"detail": error.msg}, status_code=400 if client else 500)


def _json(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"a parameter that should be JSON is not: {error}"}, status_code=400)


def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    detail = f"the server failed with {type(error).__name__}; its log tells where"
    return JSONResponse({"detail": detail}, status_code=500)


def install_error_handlers(server: FastAPI) -> None:
    """Make the running server answer every error with JSON.

    The app is created while the server starts up, after Starlette has built its stack of handlers; dropping the
    stack makes it build a new one, with these, for the first request.
    """
    handlers: dict[type[Exception], Callable[[Request, Any], JSONResponse | Awaitable[JSONResponse]]] = {
        RequestRefused: _refusal,
        MONAILabelException: _monailabel,
        json.JSONDecodeError: _json,
        Exception: _unforeseen,
    }
    for kind, handler in handlers.items():
        server.add_exception_handler(kind, handler)
    server.middleware_stack = None
