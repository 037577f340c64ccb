"""What each person did: one line of JSON for every request that changed or computed something, for good.

A line holds when, who, what, and the image's id; never a patient attribute, nor what was sent. Not here: who the
person is (`users`), and the leases that activity prolongs (`worklist`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import RequestRefused
from .files import append_json
from .history import now
from .security import READING
from .users import current_user, is_anybody
from .worklist import Worklist

logger = logging.getLogger(__name__)

ACTIONS = {
    "POST /infer/{model}": "inference",
    "POST /batch/infer/{model}": "batch of inferences",
    "PUT /datastore/label": "label saved",
    "PUT /datastore/label/info": "label's info changed",
    "DELETE /datastore/label": "label removed",
    "PUT /datastore/image": "image added",
    "PUT /datastore/image/info": "image's info changed",
    "PUT /session/": "session opened",
    "DELETE /session/{session_id}": "session closed",
    "POST /train/{model}": "training started",
    "DELETE /train/": "training stopped",
    "POST /mammo/models/{model}/restore": "weights restored",
    "DELETE /mammo/worklist/{image}": "case handed back",
}


def person(request: Mapping[str, Any] | None = None) -> str:
    """Who is behind the current request: the user who proved it or, where nobody has to, whom the client names.

    Args:
        request: 3D Slicer's client puts its user's name into it as `client_id`.
    """
    user, named = current_user.get(), (request or {}).get("client_id")
    if not is_anybody(user) or not isinstance(named, str):
        return user
    return re.sub(r"[^A-Za-z0-9_-]+", "-", named)[:100].strip("-_") or user


class Activity:
    """Appends to the record, and tells the worklist.

    Args:
        file: the record.
        worklist: prolongs the lease of whoever is active.
    """

    def __init__(self, file: Path, worklist: Worklist) -> None:
        self.file, self.worklist = file, worklist

    def note(self, user: str, action: str, image: str | None = None, **more: Any) -> None:
        """Append a line."""
        append_json(self.file, {"time": now(), "user": user, "action": action, "image": image, **more})

    def answered(self, method: str, route: str, image: str | None, more: Mapping[str, Any]) -> None:
        """Note a request that was fulfilled; one for an unknown image is noted without it."""
        user = current_user.get()
        known = image if image and self._is_image(image) else None
        if method != "DELETE" and known:
            saved = route == "/datastore/label" and more.get("tag", "final") == "final"
            (self.worklist.submitted if saved else self.worklist.active)(user, known)
        self.note(user, ACTIONS.get(f"{method} {route}", f"{method} {route}"), known, **more)

    def _is_image(self, image: str) -> bool:
        try:
            self.worklist.datastore.image(image)
        except RequestRefused:
            return False
        return True


def install_record(server: FastAPI, activity: Activity) -> None:
    """Record what people do at a running application; inside what finds the user (`security`)."""
    server.user_middleware.append(Middleware(RecordActivity, activity=activity))  # the innermost
    server.middleware_stack = None


class RecordActivity:
    """Middleware that notes every fulfilled request beside those that only read; inside the one that finds the user."""

    def __init__(self, app: ASGIApp, activity: Activity) -> None:
        self.app, self.activity = app, activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note it once it is answered."""
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self.app(scope, receive, watch)
        route = getattr(scope.get("route"), "path", "")
        if status >= 400 or not route or route.startswith("/activelearning/"):  # the app itself notes what it hands out
            return
        asked, path = parse_qs(scope["query_string"].decode("latin-1")), scope.get("path_params", {})
        image = next((asked[name][0] for name in ("image", "label", "id") if name in asked), path.get("image"))
        more = {"model": path["model"]} if "model" in path else {}
        more |= {"tag": asked["tag"][0]} if "tag" in asked else {}
        try:
            await run_in_threadpool(self.activity.answered, scope["method"], route, image, more)
        except (OSError, ValueError):  # the request itself is fulfilled
            logger.exception("An activity could not be noted")
