"""The app's own routes, below `/mammo/`: studies for viewers, the models' history, the worklist.

Not here: MONAI Label's, and who may use any of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, FastAPI
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from .activity import person
from .datastore import MammogramDatastore
from .errors import RequestRefused, unknown
from .labels import FINAL
from .masks import Geometry, write_mask
from .tumours import marked_pixels, unseen_names
from .users import current_user

if TYPE_CHECKING:
    from main import MammoApp


MOST_NAMES = 16
"""Names of segments in a header, which browsers do not take at any length."""

Params = Annotated[dict[str, Any] | None, Body()]


def install(server: FastAPI, app: MammoApp) -> None:
    """Add the routes to the running server; they come before the static files that MONAI Label serves at the end."""
    router = APIRouter(prefix="/mammo", tags=["Mammography"])
    _study_routes(router, app)
    _history_routes(router, app)
    _worklist_routes(router, app)
    server.include_router(router)


def _study_routes(router: APIRouter, app: MammoApp) -> None:
    @router.get("/studies/{study}", summary="Mammograms of a study, and what was said of them")
    def images_of_study(study: str) -> list[dict[str, Any]]:
        """`readers` have saved a final label, the latest first; `revision` is that of the label of whoever asks, 0 if
        there is none; `verdict` is that of whoever asks among the `verdicts` of all, null if there is none."""
        return study_images(app.datastore(), study)

    @router.get("/masks/{image}", summary="The tumours of a final label, as NRRD", response_class=Response)
    def saved_mask(image: str) -> Response:
        """In pixels of the image; the reader's own label before another's. What it calls by a name that is not known is
        shown, too: whoever sees it may know. Who changes it and saves it with `keep_others` loses nothing else of the
        label; the header `Mammo-Segments` names what that is: `hidden` segments, and shown ones of `unknown` names."""
        datastore, reader = app.datastore(), current_user.get()
        datastore.image(image)
        own_label = reader if reader in datastore.labels.readers(image) else None
        label = datastore.read_label(image, FINAL, own_label)
        file = Path(write_mask(marked_pixels(*label).astype(np.uint8), Geometry(), {"result_extension": ".nrrd"}))
        names = {kind: [name[:64] for name in some[:MOST_NAMES]] for kind, some in unseen_names(*label).items()}
        headers = {"Mammo-Segments": json.dumps(names)}
        return FileResponse(file, 200, headers, "application/octet-stream", BackgroundTask(file.unlink))


def _history_routes(router: APIRouter, app: MammoApp) -> None:
    @router.get("/models/{model}/history", summary="Every training of a model, and what became of it")
    def history(model: str) -> dict[str, Any]:
        """Every training of a model with its outcome, the newest first; number 0 is the bundle's own weights."""
        kept = app.trainer(model).history
        return {"model": model, "serving": kept.current(), "entries": kept.entries()}

    @router.post("/models/{model}/restore", summary="Put former weights into service again")
    def restore(model: str, params: Params = None) -> dict[str, Any]:
        """Put weights of the history into service: `{"number": 3}`, or those before the present ones."""
        number = (params or {}).get("number")
        if isinstance(number, bool) or not isinstance(number, int | None):
            raise RequestRefused(400, "'number' is not a whole number", "Take one from the model's history")
        return {"model": model, "serving": app.trainer(model).history.restore(number, person(params))}


def _worklist_routes(router: APIRouter, app: MammoApp) -> None:
    @router.get("/worklist", summary="Who has which images in hand")
    def in_work() -> list[dict[str, Any]]:
        """Who has which images of which case in hand, and until when."""
        return app.worklist.in_work()

    @router.delete("/worklist/{image}", summary="Hand a case back unfinished")
    def hand_back(image: str, client_id: str | None = None) -> dict[str, Any]:
        """Hand a case back unfinished, so that others may be given it."""
        app.worklist.hand_back(person({"client_id": client_id}), image)
        return {}


def study_images(datastore: MammogramDatastore, study: str) -> list[dict[str, Any]]:
    """What a viewer's panel needs to know of a study's mammograms, in the order in which they are hung.

    Raises:
        RequestRefused: there is no mammogram of such a study (404).
    """
    images = datastore.images_of_study(study)
    if not images:
        raise unknown("study", study)
    found = []
    for image_id, image in images.items():
        said = datastore.labels.image_info(image_id).get("verdicts", {})
        verdicts = {reader: verdict["quality"] for reader, verdict in said.items()}
        found.append(
            {
                "id": image_id,
                "study": image.study,
                "series": image.series,
                "sop": image.sop,
                "view": image.view,
                "laterality": image.laterality,
                "rows": image.rows,
                "columns": image.columns,
                "spacing": image.spacing,
                "problem": image.problem,
                "labelled": bool(datastore.labels.info(image_id, FINAL)),
                "readers": datastore.labels.readers(image_id),
                "revision": datastore.labels.info(image_id, FINAL, current_user.get()).get("revision", 0),
                "verdict": verdicts.get(current_user.get()),
                "verdicts": verdicts,
            }
        )
    return found
