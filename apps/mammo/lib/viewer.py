"""OHIF with our mammography mode at /ohif: its built files as they are, and our modules that it loads at run time.

Not here: images (DICOMweb), what the modules ask of the server, and who may see all this.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import monailabel
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

logger = logging.getLogger(__name__)

MODULES = Path(__file__).resolve().parents[1] / "ohif"
FETCHED = Path(sys.prefix) / "share" / "ohif"
BUILT_IN = Path(monailabel.__file__).parent / "endpoints" / "static" / "ohif"

# A file of which the name holds a digest of its content never changes.
_DIGEST = re.compile(r"(^|\.)[0-9a-f]{16,}\.")
# OHIF's own asks a server outside for code, to keep files that the browser keeps anyway.
_NO_SERVICE_WORKER = "// No service worker: nothing is loaded from elsewhere.\n"

Endpoint = Callable[[Request], Awaitable[Response]]


def find_viewer(configured: str | None = None) -> Path:
    """The folder of OHIF's built files: the configured one, the one that `ohif/fetch.py` fetched, MONAI Label's own.

    Raises:
        ValueError: the configured folder holds no OHIF.
    """
    if configured:
        if not (Path(configured) / "index.html").is_file():
            raise ValueError(f"conf ohif: {configured} holds no index.html. Name the folder `dist` of an OHIF build")
        return Path(configured).resolve()
    if (FETCHED / "index.html").is_file():
        return FETCHED
    logger.warning(
        "OHIF 3.13 is not in %s: MONAI Label's older one is served, without the mammography mode. The newer one is "
        "fetched by: %s %s",
        FETCHED,
        sys.executable,
        MODULES / "fetch.py",
    )
    return BUILT_IN.resolve()


def install(server: FastAPI, configured: str | None = None) -> None:
    """Serve OHIF at /ohif in place of MONAI Label's, and our modules at /mammo.

    MONAI Label's own build is too old for our mode: it gets a configuration without it that says so, and a study's
    address in our mode leads to its plain viewer.

    OHIF's build takes its scripts from the root, so each of its files has a route there too. They are listed now, one
    by one: nothing that is not OHIF's can be reached by them, and no other route is hidden.

    Args:
        server: the application that answers.
        configured: folder of another OHIF build.

    Raises:
        ValueError: see `find_viewer`.
    """
    folder = find_viewer(configured)
    routes, former = server.router.routes, len(server.router.routes)
    viewer, modules = _Files(folder), _Files(MODULES)
    too_old = folder == BUILT_IN.resolve()

    async def module(request: Request) -> Response:
        return await modules.answer(f"{request.path_params['name']}.js", request)

    own = {"app-config.js": _config(modules, too_old), "init-service-worker.js": _no_service_worker}
    server.add_route("/ohif", _start)
    server.add_route("/ohif/{path:path}", _application(viewer, own, too_old))
    server.add_route("/mammo/{name}.js", module)
    for name, endpoint in own.items():
        server.add_route(f"/{name}", endpoint)
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            server.mount(f"/{entry.name}", StaticFiles(directory=entry))
        elif entry.name not in {*own, "index.html"} and entry.suffix != ".gz":
            server.add_route(f"/{entry.name}", viewer.at_root(entry.name))
    routes[:] = routes[former:] + routes[:former]  # before MONAI Label's /ohif, which would answer otherwise


def _application(viewer: _Files, own: Mapping[str, Endpoint], too_old: bool) -> Endpoint:
    """What is below /ohif: our own files, OHIF's, and for every other path the application, whose place it is."""

    async def application(request: Request) -> Response:
        path = request.path_params["path"]
        if too_old and path == "mammo":
            return RedirectResponse(f"/ohif/viewer?{request.url.query}")
        if path in own:
            return await own[path](request)
        try:
            return await viewer.answer(path, request)
        except HTTPException as error:
            if error.status_code != 404:
                raise
        return await viewer.answer("index.html", request)

    return application


def _config(modules: _Files, too_old: bool) -> Endpoint:
    """OHIF's configuration; for one that is too old, with the fallback."""

    async def config(request: Request) -> Response:
        if not too_old:
            return await modules.answer("app-config.js", request)
        both = "\n".join((MODULES / name).read_text(encoding="utf-8") for name in ("app-config.js", "fallback.js"))
        return Response(both, media_type="text/javascript", headers={"cache-control": "no-cache"})

    return config


async def _no_service_worker(request: Request) -> Response:
    return Response(_NO_SERVICE_WORKER, media_type="text/javascript")


async def _start(request: Request) -> Response:
    return RedirectResponse("/ohif/")


class _Files:
    """The files of a folder, compressed where a compressed one lies beside and the client takes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = StaticFiles(directory=folder)

    async def answer(self, name: str, request: Request) -> Response:
        """A file; raises HTTPException where there is none, or it lies outside."""
        compressed = "gzip" in request.headers.get("accept-encoding", "") and await self._exists(f"{name}.gz", request)
        response = await self._files.get_response(f"{name}.gz" if compressed else name, request.scope)
        if compressed:
            response.headers["content-encoding"] = "gzip"
        response.headers["vary"] = "Accept-Encoding"
        fixed = _DIGEST.search(name.rpartition("/")[2])
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if fixed else "no-cache"
        return response

    def at_root(self, name: str) -> Endpoint:
        """The endpoint of one file."""

        async def endpoint(request: Request) -> Response:
            return await self.answer(name, request)

        return endpoint

    async def _exists(self, name: str, request: Request) -> bool:
        try:
            await self._files.get_response(name, request.scope)
        except HTTPException:
            return False
        return True
