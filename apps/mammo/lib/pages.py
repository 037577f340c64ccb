"""The pages of the server itself: the way in and out for browsers and 3D Slicer, what is here, and the list of routes.

No page loads a script, least of all one of another site. Not here: who is let in (security, users).
"""

from __future__ import annotations

import html
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from .errors import RequestRefused
from .security import COOKIE
from .users import COOKIE_SECONDS, Users, current_user

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1rem; color: #222 }}
input, button {{ font: inherit; padding: .4rem .6rem }} .refused {{ color: #a00 }} code {{ font-size: .875rem }}
table {{ border-collapse: collapse; font-size: .9375rem }} tr {{ border-bottom: 1px solid #ddd }}
th, td {{ padding: .35rem 1rem .35rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere }}
td:first-child {{ width: 50% }} td:last-child {{ width: 20% }}
@media (max-width: 40rem) {{ body {{ margin: 1rem auto }} table, tbody, tr, td {{ display: block }}
thead {{ display: none }} tr {{ padding: .4rem 0 }} td, td:first-child, td:last-child {{ padding: 0; width: auto }}
td:last-child:not(:empty)::before {{ content: "Query: " }} }}
</style></head><body><h1>{title}</h1>{body}</body></html>"""
_FORM = """<form method="post" action="/login">
<input type="hidden" name="next" value="{next}">
<p><label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Log in</button></p></form><p>The person who runs this server gives you the token.</p>"""


_UNUSED = {"token", "run_sync"}
"""Parameters of MONAI Label's own routes that do nothing here, or are refused."""


def install_pages(server: FastAPI, users: Users) -> None:
    """Add `/`, `/docs`, `/login`, `/logout`, and the routes `/auth` with which 3D Slicer asks for a token.

    What `/docs` and `/openapi.json` say of the routes leaves out parameters that do not work here.
    """
    _leave_out_unused(server)
    router = APIRouter(include_in_schema=False)
    _pages(router, server, users)
    _browsers_way_in(router, users)
    _slicers_way_in(router, users)
    server.include_router(router)


def _pages(router: APIRouter, server: FastAPI, users: Users) -> None:
    @router.get("/")
    def home() -> HTMLResponse:
        who = f"<p>You are {current_user.get()}. <a href='/logout'>Log out</a></p>" if users else ""
        places = {"/ohif/": "the viewer", "/docs": "every route", "/info/": "models, strategies and images, as JSON"}
        links = "".join(f"<li><a href='{path}'>{path}</a>: {what}</li>" for path, what in places.items())
        return _page("Mammography", f"<ul>{links}</ul>{who}<p>For research only, not for diagnostic use.</p>")

    @router.get("/docs")
    def routes() -> HTMLResponse:
        rows = []
        for path, methods in sorted(server.openapi()["paths"].items()):
            for method, operation in methods.items():
                asked = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
                route = f"<code>{method.upper()} {html.escape(path).replace('/', '/<wbr>')}</code>"
                query = f"<code>{', '.join(asked)}</code>" if asked else ""
                cells = (route, html.escape(operation.get("summary", "")), query)
                rows.append("".join(f"<td>{cell}</td>" for cell in cells))
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        heads = "".join(f"<th scope='col'>{head}</th>" for head in ("Route", "What it does", "Query"))
        note = "<p>In full, for tools: <a href='/openapi.json'>/openapi.json</a></p>"
        return _page("Routes", f"{note}<table><thead><tr>{heads}</tr></thead><tbody>{table}</tbody></table>")


def _leave_out_unused(server: FastAPI) -> None:
    whole = server.openapi

    def described() -> dict[str, Any]:
        schema: dict[str, Any] = whole()
        for methods in schema["paths"].values():
            for operation in methods.values():
                if "parameters" in operation:
                    operation["parameters"] = [each for each in operation["parameters"] if each["name"] not in _UNUSED]
        return schema

    server.openapi = described  # type: ignore[method-assign]


def _browsers_way_in(router: APIRouter, users: Users) -> None:
    @router.get("/login")
    def ask(next: str = "/") -> HTMLResponse:
        return _page("Log in", _FORM.format(next=html.escape(_local(next))))

    @router.post("/login")
    def enter(request: Request, token: Annotated[str, Form()], next: Annotated[str, Form()] = "/") -> Response:
        user = users.by_token(token)
        if user is None:
            refused = "<p class='refused'>This is not the token of anybody.</p>"
            return _page("Log in", refused + _FORM.format(next=html.escape(_local(next))), 401)
        response = RedirectResponse(_local(next), 303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE, users.cookie(user), max_age=COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure
        )
        return response

    @router.api_route("/logout", methods=["GET", "POST"])
    def leave() -> Response:
        response = RedirectResponse("/login" if users else "/", 303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


def _slicers_way_in(router: APIRouter, users: Users) -> None:
    @router.get("/auth/")
    def token_needed() -> dict[str, bool | str]:
        return {"enabled": bool(users), "client_id": "", "realm": ""}

    @router.post("/auth/token")
    def token_of(password: Annotated[str, Form()], username: Annotated[str, Form()] = "") -> dict[str, str]:
        user = users.by_token(password)
        if user is None or (users.tell_apart and username not in ("", user)):  # of one token for all, any name will do
            raise RequestRefused(401, "the password is not this user's token", "Enter your name and your token")
        return {"access_token": password, "token_type": "Bearer"}

    @router.get("/auth/token/valid")
    def token_valid() -> dict[str, str]:
        return {"username": current_user.get()}


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=title, body=body), status)


def _local(place: str) -> str:
    """A path of this server; `/` instead of anything that could lead elsewhere."""
    plain = place.isascii() and place.isprintable() and "\\" not in place
    return place if plain and place.startswith("/") and not place.startswith("//") else "/"
