"""MONAI Label's routes as this server has them: none blocks the event loop, takes a path, or leaves a file behind.

MONAI Label declares its endpoints `async` although all they do blocks, so that one inference stops everything. Those
that are sound run here in threads; those that take files, or cannot be made safe, are replaced or left out.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio.from_thread
import anyio.to_thread
import monailabel
from fastapi import APIRouter, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from monailabel.endpoints import activelearning, batch_infer, datastore, info, session, train
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import DefaultLabelTag
from requests_toolbelt import MultipartEncoder

from monai_mammo.machine import available_cores

from .ahead import decode
from .errors import RequestRefused, unknown
from .images import image_extension
from .masks import label_extension
from .sessions import SESSION_NAME
from .users import current_user

MOST_WAITING = 64
"""Inferences that may wait for a processor; who comes then is told to come again."""
LONGEST_TASK = 2**16
AT_ONCE = max(2, available_cores())

_SOUND = (info, activelearning, datastore, session, train, batch_infer)
# (method, path) that are written anew below, or make no sense here.
_NOT_TAKEN = {
    ("PUT", "/datastore/"),
    ("PUT", "/datastore/image"),
    ("PUT", "/datastore/label"),
    ("PUT", "/datastore/image/info"),
    ("PUT", "/datastore/label/info"),
    ("PUT", "/session/"),
    ("DELETE", "/datastore/"),
    ("PUT", "/datastore/updatelabelinfo"),
}

Output = Literal["image", "json", "all"]
JsonText = Annotated[str, Form(description="a JSON object")]


def install_endpoints(server: FastAPI, app: MONAILabelApp) -> None:
    """Replace every route of MONAI Label's server by the ones that this module offers.

    Left out altogether: `/logs`, `/reload`, `/model` (weights come from trainings alone), `/infer/wsi`, `/proxy`,
    `/scoring` (there are no methods to choose from), and the pages that load scripts from elsewhere.
    """
    static = [route for route in server.router.routes if getattr(route, "path", None) in ("/static", "/openapi.json")]
    icon = Path(monailabel.__file__).parent / "endpoints" / "static" / "favicon.ico"
    server.router.routes[:] = static
    server.openapi_schema = None
    server.add_api_route("/favicon.ico", lambda: FileResponse(icon), include_in_schema=False)
    for module in _SOUND:
        router = APIRouter(tags=list(module.router.tags))
        for route in module.router.routes:
            methods = list(route.methods or ()) if isinstance(route, APIRoute) else []
            if methods and not {(verb, route.path) for verb in methods} & _NOT_TAKEN:
                summary = (route.summary or "").rpartition("| - ")[2]
                router.add_api_route(
                    route.path,
                    in_thread(route.endpoint),
                    methods=methods,
                    summary=summary,
                    include_in_schema=route.include_in_schema,
                    response_model=None,
                )
        server.include_router(router)
    server.include_router(_inference(app))
    server.include_router(_uploads(app))


def in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint of MONAI Label as a plain function, which FastAPI runs in a thread, for the user who asks.

    It may be called by name only. Its endpoints await nothing; one that does is an error.
    """

    @functools.wraps(endpoint)
    def called(**given: Any) -> Any:
        if given.get("run_sync"):
            raise RequestRefused(400, "this server runs nothing long while a client waits", "Leave out run_sync")
        check_task(given.get("params"))
        name = given.get("session_id")
        if name is not None and not SESSION_NAME.fullmatch(name):
            raise unknown("session", name)
        if "user" in given:
            given["user"] = User(username=current_user.get())
        started = endpoint(**given)
        try:
            started.send(None)
        except StopIteration as done:
            return done.value
        except HTTPException as refused:
            if refused.status_code != 429:
                raise
            remedy = "Wait for it (GET /batch/infer), or stop it (DELETE /batch/infer)"
            raise RequestRefused(429, "a batch of inferences is in progress", remedy) from None
        raise RuntimeError(f"{endpoint.__name__} waits for something")

    del called.__wrapped__  # FastAPI looks through it and finds a coroutine
    called.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return called


def check_task(params: Any) -> None:
    """Refuse what MONAI Label would make a path of its task's process of, or could not start that process with.

    Raises:
        RequestRefused: the parameters hold that, or what no answer can hold (400), or are too long (413).
    """
    if not isinstance(params, dict):
        return
    for value in params.values():
        check_task(value)
    if "bundle_path" in params or not isinstance(params.get("gpus", ""), str):
        raise RequestRefused(400, "a task takes no bundle_path, and gpus as text", "Leave them out")
    if len(_sendable(params)) > LONGEST_TASK:
        raise RequestRefused(413, f"a task's parameters have more than {LONGEST_TASK} bytes", "Send fewer")


def _inference(app: MONAILabelApp) -> APIRouter:
    router = APIRouter(tags=["Infer"])
    waiting = 0
    limiter: list[anyio.CapacityLimiter] = []  # belongs to the event loop, which is not known before the first request

    @router.post("/infer/{model}", summary="Run a model on an image", response_model=None)
    async def infer(
        sent: Request,
        model: str,
        image: str = "",
        session_id: str = "",
        output: Output = "all",
        params: JsonText = "{}",
        file: Annotated[UploadFile | None, File()] = None,
        label: Annotated[UploadFile | None, File(description="not used")] = None,
    ) -> Any:
        """One thread for each processor: while they compute, other requests still find a thread.

        Nothing is computed for a client that has left when its turn comes.
        """
        nonlocal waiting
        if file is not None:
            raise RequestRefused(400, "an inference takes no file", "Upload it to /session/, or give an image's id")
        request = {**_object(params, {"model", "image", "session"}), "model": model, "image": image}
        if waiting >= MOST_WAITING:
            raise RequestRefused(503, f"{waiting} inferences wait already", "Try again in a while")
        if not limiter:
            limiter.append(anyio.CapacityLimiter(AT_ONCE))
        waiting += 1
        try:
            work = functools.partial(_infer, app, sent, request, session_id, output)
            return await anyio.to_thread.run_sync(work, limiter=limiter[0])
        finally:
            waiting -= 1

    return router


def _infer(app: MONAILabelApp, sent: Request, request: dict[str, Any], session_id: str, output: Output) -> Any:
    if anyio.from_thread.run(sent.is_disconnected):
        raise RequestRefused(499, "the client has left", "Send the request again")  # as some servers log it
    if session_id:
        kept = app.sessions().get_session(session_id)
        if kept is None:
            raise unknown("session", session_id)
        request |= {"image": kept.image, "session": kept.to_json()}
    result = app.infer({**request, "result_write_to_file": output != "json"} if output == "json" else request)
    file, params = result.get("file"), result.get("params")
    if not file:
        return params
    try:
        mask = Path(file).read_bytes()
    finally:
        os.unlink(file)
    name = Path(file).name
    if output == "image":
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(mask, media_type="application/octet-stream", headers=disposition)
    both = MultipartEncoder(
        {"params": (None, json.dumps(params), "application/json"), "image": (name, mask, "application/octet-stream")}
    )
    return Response(both.to_string(), media_type=both.content_type)


def _uploads(app: MONAILabelApp) -> APIRouter:
    router = APIRouter()

    @router.put("/datastore/", include_in_schema=False)
    @router.put("/datastore/image", tags=["Datastore"], summary="Add an image to the folder")
    def add_image(file: UploadFile, image: str | None = None, params: JsonText = "{}") -> dict[str, str]:
        info = {**_object(params), "user": current_user.get()}
        extension = image_extension(file.filename or "") or ".dcm"
        name = Path(file.filename or "").name
        image_id = image or name[: len(name) - len(image_extension(name))]
        with _received(file, extension) as path:
            return {"image": app.datastore().add_image(image_id, str(path), info)}

    @router.put("/datastore/label", tags=["Datastore"], summary="Save a label")
    def save_label(
        image: str, label: UploadFile, tag: str = DefaultLabelTag.FINAL.value, params: JsonText = "{}"
    ) -> dict[str, Any]:
        """`revision` in the parameters is that of the label which the client knew, 0 for none; the answer has the new
        one. Without it, the reader's label is replaced whatever it is. With `keep_others` true, for a client that got
        the label from `/mammo/masks/`, its other segments stay. An image that cannot be decoded, which a viewer may
        show all the same, takes no label."""
        info = {**_object(params), "user": current_user.get()}
        if type(info.get("revision", 0)) is not int:
            raise RequestRefused(400, "'revision' is not a whole number", "Give that of the label known, 0 for none")
        if type(info.get("keep_others", False)) is not bool:
            raise RequestRefused(400, "'keep_others' is neither true nor false", "Leave it out to replace a label")
        try:
            decode(app.datastore(), image)
        except RequestRefused as refused:
            if refused.status == 422:  # an archive that does not answer keeps nobody from saving
                raise
        with _received(label, label_extension(label.filename or "")) as path:
            revision = app.datastore().keep_label(image, str(path), tag or DefaultLabelTag.FINAL.value, info)
        return {**(app.on_save_label(image, image) or {}), "image": image, "label": image, "revision": revision}

    @router.put(
        "/datastore/image/info", tags=["Datastore"], summary="Add to what is known of an image", response_model=None
    )
    def update_image_info(image: str, info: JsonText = "{}") -> None:
        app.datastore().update_image_info(image, {**_object(info), "user": current_user.get()})

    @router.put(
        "/datastore/label/info", tags=["Datastore"], summary="Add to what was saved with a label", response_model=None
    )
    def update_label_info(label: str, tag: str, info: JsonText = "{}") -> None:
        app.datastore().update_label_info(label, tag, {**_object(info), "user": current_user.get()})

    @router.put("/session/", tags=["Session"], summary="Keep an image of the user's own for a while")
    def create_session(files: list[UploadFile], uncompress: bool = False, expiry: int = 0) -> dict[str, Any]:
        if len(files) != 1 or uncompress:
            raise RequestRefused(400, "a session is one image file, no archive", "Upload the image alone")
        with _received(files[0], image_extension(files[0].filename or "")) as path:
            name, kept = app.sessions().add_session(str(path), expiry)
        return {"session_id": name, "session_info": kept.to_json()}

    return router


@contextmanager
def _received(upload: UploadFile, extension: str) -> Iterator[Path]:
    """An uploaded file under a name of ours; gone when the block ends, unless it was moved."""
    with tempfile.TemporaryDirectory(prefix="upload-") as folder:
        path = Path(folder) / f"image{extension}"
        with path.open("wb") as target:
            shutil.copyfileobj(upload.file, target, 2**20)
        yield path


def _object(text: str, reserved: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """The JSON object in a form field.

    Raises:
        RequestRefused: it is none, holds what no answer can hold, or names what only the address may name.
    """
    content = json.loads(text or "{}")
    _sendable(content)
    if not isinstance(content, dict):
        raise RequestRefused(400, "the parameters are not a JSON object", "Send {} where there are none")
    if reserved & set(content):
        raise RequestRefused(400, "the parameters name a model, an image or a session", "Name them in the address")
    return content


def _sendable(content: Any) -> bytes:
    """What was read from JSON as an answer would hold it. Kept, anything else would spoil every answer that has it.

    Raises:
        RequestRefused: it holds NaN, a number beyond all bounds such as 1e999, or half a character (400).
    """
    try:
        return json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        reason = "the parameters hold NaN, an infinite number or half a character, which JSON does not have"
        raise RequestRefused(400, reason, "Send null instead") from error
