"""The gate in front of every route, static files included: who may come in, from where, with what, and how much.

One ASGI middleware, so that nothing goes around it and `users.current_user` reaches the endpoints. Not here: how
people prove who they are (users), and what a route makes of its parameters.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection, Mapping
from urllib.parse import quote, unquote_to_bytes

from fastapi import FastAPI, HTTPException
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .binding import is_loopback
from .errors import RequestRefused, refusal
from .settings import MEBI, mebibytes
from .users import ANYBODY, Users, current_user

LARGEST_TEXT = MEBI
LONGEST_QUERY = 8192
LONGEST_PATH = 2048
BODY_PATIENCE = 60.0
"""Seconds after which a sender is given up: for the whole of a body of text, for each further part of an upload."""
COOKIE = "mammo"
READER = "mammo-reader"
"""Header by which a page may say who opened it."""
# What somebody who has not yet said who they are may see.
OPEN = {("GET", "/login"), ("POST", "/login"), ("GET", "/auth/"), ("POST", "/auth/token"), ("GET", "/favicon.ico")}
READING = ("GET", "HEAD", "OPTIONS")
# The only routes to which a file may be sent, and how. What comes elsewhere is kept in memory or on the disk all the
# same before a route refuses it, that of a stranger who logs in too.
UPLOADS = re.compile(
    r"PUT /(session|datastore(/image|/label)?)/?|POST /infer/[^/]+/?|POST /dicomweb/studies(/[^/]+)?/?"
)
UPLOAD_KINDS = ("multipart/form-data", "multipart/related")
# The program of a viewer may be kept by the browser; whatever else a server of mammograms answers may not.
KEPT = (
    "text/css",
    "text/javascript",
    "application/javascript",
    "application/wasm",
    "font/",
    "image/svg",
    "image/x-icon",
)
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",  # none at all would make a browser send a form of ours with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    # A viewer compiles its decoders and draws its own images; but nothing is loaded from, or sent to, anywhere else.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
}


class Guard:
    """Lets a request through to the app, or refuses it with JSON.

    Args:
        app: what is guarded.
        users: who may come in; where there are none, only this machine is served.
        origins: other web origins (`https://viewer.example.org`) whose pages may use this server.
        upload_limit: bytes of an upload's body; other bodies may have 1 MiB.
    """

    def __init__(self, app: ASGIApp, users: Users, origins: Collection[str], upload_limit: int) -> None:
        self.app, self.users, self.origins, self.upload_limit = app, users, frozenset(origins), upload_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        send = _with_safe_headers(send, shared=bool(self.origins))
        try:
            check_address(scope)
            user = self._user(scope, headers)
            _check_reader(headers, user or ANYBODY)
            self._check_origin(scope, headers)
            upload = _is_upload(scope, headers)
            limit = self.upload_limit if upload else LARGEST_TEXT
            _check_length(headers, limit)
        except RequestRefused as refused:
            response: Response = refusal(refused)
            if refused.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
                if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                    response = RedirectResponse(f"/login?next={quote(_wanted(scope))}", 303)
            await response(scope, receive, send)
            return
        token = current_user.set(user) if user and self.users.tell_apart else None
        try:
            await self.app(scope, _limited(receive, limit, upload), send)
        finally:
            if token:
                current_user.reset(token)

    def _user(self, scope: Scope, headers: Headers) -> str | None:
        if not self.users:
            _check_this_machine(scope, headers)
            return None
        user = None
        given = headers.getlist("authorization")
        if len(given) == 1 and given[0][:7].lower() == "bearer ":
            user = self.users.by_token(given[0][7:].strip())
        elif not given:
            user = self.users.by_cookie(_cookie(headers, COOKIE))
        if user is None and (scope["method"], scope["path"]) not in OPEN:
            raise RequestRefused(
                401,
                "the request does not prove who sends it",
                "Send 'Authorization: Bearer <token>', or log in at /login",
            )
        return user

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """A page of another site may not change anything here in the name of a user who has it open."""
        if scope["method"] in READING:
            return
        origin = headers.get("origin")
        own = headers.get("host", "").lower()  # without a scheme: a proxy in front may have ended TLS
        foreign = origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign or (origin is not None and origin.lower().partition("://")[2] != own and origin not in self.origins):
            raise RequestRefused(
                403,
                "the request comes from a page of another site",
                "Open that site in --conf origins if it is yours; a proxy in front must pass on the browser's Host",
            )


def check_address(scope: Scope) -> None:
    """Refuse a path or a query that no client of ours sends and that means different things to different programs.

    Raises:
        RequestRefused: 400 (or 414): a segment of dots, an encoded slash, a backslash, a control character, a broken
            encoding; 414 if it is too long.
    """
    path, query = _raw_path(scope), bytes(scope["query_string"])
    if len(path) > LONGEST_PATH or len(query) > LONGEST_QUERY:
        raise RequestRefused(414, "the address is too long", "Send parameters in the request's body")
    decoded = unquote_to_bytes(path)
    if _misleading(path, decoded):
        raise RequestRefused(
            400, "the path is not one that this server has", "Send it without dots, or encoded slashes"
        )
    for part in (path, query):
        plain = unquote_to_bytes(part)
        if re.search(rb"%(?![0-9A-Fa-f]{2})", part) or re.search(rb"[\x00-\x1f\x7f]", plain) or not _is_text(plain):
            raise RequestRefused(400, "the address holds control characters or a broken encoding", "Encode it as UTF-8")


def _wanted(scope: Scope) -> str:
    """Path and query of a request as they were sent."""
    query = scope["query_string"].decode("latin-1")
    return _raw_path(scope).decode("latin-1") + (f"?{query}" if query else "")


def _raw_path(scope: Scope) -> bytes:
    return bytes(scope.get("raw_path") or scope["path"].encode())


def _misleading(path: bytes, decoded: bytes) -> bool:
    """Whether a path holds what could climb out of a folder, once decoded or twice."""
    twice = unquote_to_bytes(decoded)
    hidden_slash = decoded.count(b"/") != path.count(b"/") or twice.count(b"/") != path.count(b"/")
    dots = any(segment.strip(b" ") in (b".", b"..") for segment in twice.split(b"/"))
    return hidden_slash or dots or b"\\" in twice or not path.startswith(b"/")


def _is_text(plain: bytes) -> bool:
    try:
        plain.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _check_this_machine(scope: Scope, headers: Headers) -> None:
    """Without tokens: only clients of this machine, and only under its own name, which a rebound DNS name is not."""
    client = scope.get("client")
    host = re.sub(r":\d+$", "", headers.get("host", ""))
    if not client or not is_loopback(client[0]):
        raise RequestRefused(403, "this server serves its own machine only", "Set tokens to open it to a network")
    if not is_loopback(host) or len(headers.getlist("host")) != 1:
        raise RequestRefused(403, "the Host header does not name this machine", "Use http://127.0.0.1, or set tokens")


def _check_reader(headers: Headers, user: str) -> None:
    """A page that stays open when somebody else logs in says whose it is: nothing of it gets the other's name."""
    opener = headers.get(READER, user)
    if opener != user:
        remedy = (
            f"Log in as {opener} in another tab, then try again; or reload the page, without what was not submitted"
        )
        raise RequestRefused(409, f"this page was opened by {opener}", remedy)


def _cookie(headers: Headers, name: str) -> str:
    """A cookie's value; empty if it is absent or there are several, of which one may be planted."""
    pairs = [pair.strip().partition("=") for pair in "; ".join(headers.getlist("cookie")).split(";")]
    found = [value for key, _, value in pairs if key == name]
    return found[0] if len(found) == 1 else ""


def _is_upload(scope: Scope, headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in UPLOAD_KINDS and UPLOADS.fullmatch(f"{scope['method']} {scope['path']}") is not None


def _check_length(headers: Headers, limit: int) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise RequestRefused(400, "the Content-Length is no number", "Send the number of bytes")
    if int(length) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> RequestRefused:
    remedy = "Send less; --conf upload_limit (MiB) is the limit of uploaded files alone"
    return RequestRefused(413, f"the request's body has more than {limit} bytes", remedy)


def _limited(receive: Receive, limit: int, upload: bool) -> Receive:
    """Count what really comes, whatever the headers say, and give up a sender who stops halfway or dawdles."""
    received, complete, until = 0, False, 0.0

    async def counted() -> Message:
        nonlocal received, complete, until
        if complete:
            return await receive()
        if upload or not until:
            until = time.monotonic() + BODY_PATIENCE
        try:
            message = await asyncio.wait_for(receive(), until - time.monotonic())
        except asyncio.TimeoutError:
            raise HTTPException(408, "the request's body did not arrive in time") from None
        received += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if received > limit:
            raise HTTPException(413, str(_too_large(limit)))
        return message

    return counted


def _with_safe_headers(send: Send, shared: bool) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=_raw(message))
            for name, value in SAFE_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if shared else "same-origin")
            if not headers.get("content-type", "").startswith(KEPT):
                headers.setdefault("Cache-Control", "no-store")
            message["headers"] = headers.raw
        await send(message)

    return sending


def _raw(message: Message) -> list[tuple[bytes, bytes]]:
    return list(message.get("headers", []))


def install_guard(server: FastAPI, conf: Mapping[str, str], users: Users) -> None:
    """Put the gate in front of a running application, in place of MONAI Label's CORS, which lets every site in.

    Settings: `origins` (other origins whose pages may use the server, separated by commas; none), `upload_limit`
    (MiB; 512).

    Raises:
        ValueError: a setting cannot be used.
    """
    origins = [origin.strip() for origin in conf.get("origins", "").split(",") if origin.strip()]
    wrong = [origin for origin in origins if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?", origin)]
    if wrong:
        raise ValueError(f"conf origins: {wrong[0]!r} is no origin such as https://viewer.example.org")
    limit = mebibytes(conf, "upload_limit", least=1)
    server.user_middleware[:] = [entry for entry in server.user_middleware if entry.cls is not CORSMiddleware]
    guard = Middleware(Guard, users=users, origins=origins, upload_limit=limit)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Accept", READER],
    )
    server.user_middleware[:0] = [cors, guard] if origins else [guard]
    server.middleware_stack = None
