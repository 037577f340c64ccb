"""HTTP routes of trainings. Not here: what a training does.

MONAI Label's own routes of trainings are replaced: they say neither how far a training is nor why it failed, and
pass on whatever a request holds. Its queue of processes is used as it is.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, FastAPI
from monailabel.endpoints import train as monailabel_train
from monailabel.utils.async_tasks.utils import tasks

from monai_mammo.dicom.errors import MammogramError

from .activity import person
from .endpoints import check_task
from .errors import RequestRefused
from .progress import read_progress

if TYPE_CHECKING:
    from main import MammoApp

WAITING_AT_MOST = 10
ACTIVE = ("SUBMITTED", "RUNNING")
Params = Annotated[dict[str, Any] | None, Body()]


def install(server: FastAPI, app: MammoApp) -> None:
    """Add the routes to a running server in place of MONAI Label's of the same path.

    Called after MONAI Label's routes have been put right (`endpoints`).
    """
    router = APIRouter(tags=["Mammography"])
    _training_routes(router, app)
    replaced = {(route.path, method) for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    server.router.routes[:] = [
        route
        for route in server.router.routes
        if not any((getattr(route, "path", ""), method) in replaced for method in getattr(route, "methods", None) or ())
    ]
    server.router.routes[:0] = router.routes


def _training_routes(router: APIRouter, app: MammoApp) -> None:
    @router.get("/train/")
    def status(all: bool = False, check_if_running: bool = False) -> Any:
        """The last training (or all), each with its progress or its result; 404 if there is none."""
        found = monailabel_train.status(all, check_if_running)
        return [_told(task, app) for task in found] if isinstance(found, list) else _told(found, app)

    @router.post("/train/", summary="Train every model, one after the other")
    def start_all(params: Params = None) -> dict[str, Any]:
        """Train every model for which there are enough annotations, one after the other; `params` holds each model's
        values under its name."""
        given, started = params or {}, {}
        lacking = None
        for name in app.info()["trainers"]:
            try:
                started[name] = _start(app, name, given.get(name) or {}, enqueue=True)
            except RequestRefused as refused:
                if refused.status != 409:
                    raise
                lacking = refused
        if lacking and not started:
            raise lacking
        return started

    @router.post("/train/{model}")
    def start(model: str, params: Params = None, run_sync: bool = False, enqueue: bool = False) -> dict[str, Any]:
        """Train a model; with `enqueue` after those in progress, otherwise refused (429) while there is one."""
        if run_sync:
            raise RequestRefused(400, "this server does not train in its own process", "Leave out run_sync")
        return _start(app, model, params or {}, enqueue)

    @router.delete("/train/")
    def stop() -> Any:
        """Stop the training in progress and its child processes; the next in the queue begins."""
        stopped = monailabel_train.stop()
        return _told(stopped, app) if stopped else None


def _start(app: MammoApp, model: str, params: dict[str, Any], enqueue: bool) -> dict[str, Any]:
    """Check all that can be checked at once, then hand a training to MONAI Label's queue."""
    check_task(params)
    trainer = app.trainer(model)
    settings = trainer.settings(params)
    waiting = [task for task in tasks("train") if task["status"] in ACTIVE]
    if waiting and not enqueue:
        first = waiting[0]["request"]["model"]
        remedy = "Wait for it (GET /train/), stop it (DELETE /train/), or send enqueue=true to have this one wait"
        raise RequestRefused(429, f"a training of {first} is in progress", remedy)
    if len(waiting) > WAITING_AT_MOST:
        raise RequestRefused(429, f"{len(waiting)} trainings are waiting already", "Wait until some have ended")
    if not any(task["request"]["model"] == model for task in waiting):  # one of ours is waited for
        with trainer.history.exclusively(patience=1):
            pass
    try:
        trainer.datalist.check(app.datastore())
    except MammogramError as error:
        label = Path(error.path).name
        raise RequestRefused(409, f"a label cannot be read: {error.reason}", error.remedy, label) from error
    request = {**settings, "run": uuid.uuid4().hex, "user": person(params)}
    task: dict[str, Any] = monailabel_train.run_model(model, request, run_sync=False, enqueue=True)
    return task


def _told(task: dict[str, Any], app: MammoApp) -> dict[str, Any]:
    """A task of MONAI Label's with what is known of it: `progress`, and once it has come to something, `result`.

    A training that is stopped at its very end, or still runs there, may have put its weights into service already.
    """
    run, history = task["request"].get("run"), app.trainer(task["request"]["model"]).history
    progress = read_progress(history.run)
    if progress.get("run") != run:
        kept = next((entry for entry in history.entries() if entry.get("run") == run), None)
        return {**task, "result": kept} if kept else task
    failed = {"result": {"outcome": "failed", "reason": progress["reason"]}} if "reason" in progress else {}
    return {**task, "progress": progress, **failed}
