"""The mammography app: `monailabel start_server --app apps/mammo --studies DIR --host 127.0.0.1`.

It joins the library and the two bundles to MONAI Label's server. Not here: anything about networks or pixels.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from lib.activity import Activity, install_record, person
from lib.ahead import DecodingAhead
from lib.archive import check_archive, folder_name, open_archive
from lib.archive_session import archive_login
from lib.binding import check_studies, choose_interface, end_in_time, open_many_files
from lib.datalists import Datalist, lesion_datalist, quality_datalist, whole_datalist
from lib.datastore import MammogramDatastore
from lib.dicomweb import install_folder
from lib.dicomweb_proxy import install_proxy
from lib.endpoints import install_endpoints
from lib.errors import RequestRefused, install_error_handlers, unknown
from lib.infers import LesionSegmentation, QualityCheck, TumourSegmentation
from lib.logs import keep_patients_out_of_logs, without_messages
from lib.memory import keep_memory
from lib.models import ServedModel
from lib.pages import install_pages
from lib.routes import install as install_own_routes
from lib.scoring import Scoring
from lib.security import install_guard
from lib.sessions import BoundedSessions
from lib.settings import bundles_folder, device, folder, is_on, mebibytes, number, whole_number
from lib.strategies import DESCRIPTIONS, CaseChoice
from lib.trainers import BundleTraining
from lib.training_routes import install as install_training_routes
from lib.users import read_users
from lib.viewer import install as install_viewer
from lib.worklist import LEASE_MINUTES, LONGEST_LEASE, Worklist
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from monai_mammo.bundles import BUNDLES
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.files import digest
from monai_mammo.recent import RECENT

QUALITY, SEGMENTATION = BUNDLES["quality"], BUNDLES["segmentation"]
LESION = "mammo_tumor_segmentation_roi"


class MammoApp(MONAILabelApp):
    """Quality check and tumour segmentation of mammograms for 3D Slicer and other MONAI Label clients.

    Args:
        app_dir: this folder.
        studies: the folder of images, or the address of a DICOMweb archive.
        conf: the settings, which the table in the app's README lists; each has a default.

    Raises:
        ValueError: a setting cannot be used.
        MONAILabelException: the archive cannot.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        here = Path(app_dir).resolve()
        self.bundles = bundles_folder(conf, here.parents[1] / "bundles")
        self.weights = folder(conf, "weights") or here / "model"
        self._server = sys.modules.get("monailabel.app")  # absent in the process of a training or of a batch
        keep_patients_out_of_logs()
        self._device = device(conf)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Mammography",
            description="Quality check and tumour segmentation of mammograms. Not for diagnostic use",
            version=version("monai_mammo"),
        )
        self.worklist = self._worklist()
        self.ahead = DecodingAhead(self.datastore())
        self.activity = Activity(self._records() / ".activity.jsonl", self.worklist)
        if self._server:
            keep_memory()
            RECENT.keep(mebibytes(self.conf, "recent_images"))
            self._open(self._server.app)
            self.scoring.start()

    def init_datastore(self) -> Datastore:
        """The images of the studies folder, or of the archive at that address."""
        labels = folder(self.conf, "labels")
        check_archive(self.conf)  # over a folder, too: a slip is to be seen where it is made
        if not self.studies.startswith(("http://", "https://")):
            if self._server:
                check_studies(Path(self.studies))
            return MammogramDatastore(self.studies, labels)
        labels = labels or Path(self.app_dir).resolve() / "data" / folder_name(self.studies)
        try:
            return MammogramDatastore(open_archive(self.studies, labels / ".cache", self.conf), labels)
        except ValueError as error:
            raise MONAILabelException(MONAILabelError.APP_INIT_ERROR, f"The archive cannot be used: {error}") from error

    def init_infers(self) -> dict[str, InferTask]:
        """The three models."""
        return {
            QUALITY: QualityCheck(self._served(QUALITY, QUALITY)),
            SEGMENTATION: TumourSegmentation(self._served(SEGMENTATION, SEGMENTATION, mode="whole")),
            LESION: LesionSegmentation(self._served(LESION, SEGMENTATION, mode="roi")),
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        """A training for each model, under its name."""
        return {
            QUALITY: self._training(QUALITY, QUALITY, quality_datalist),
            SEGMENTATION: self._training(SEGMENTATION, SEGMENTATION, whole_datalist, mode="whole"),
            LESION: self._training(LESION, SEGMENTATION, lesion_datalist, mode="roi"),
        }

    def init_strategies(self) -> dict[str, Strategy]:
        """Random choice, and choice by the scores that `scoring` keeps up to date."""
        seed = whole_number(self.conf, "seed", 0) if "seed" in self.conf else None
        # The roi model has no say: it looks only where somebody has marked a lesion.
        models = {name: self._infers[name].model for name in (SEGMENTATION, QUALITY)}
        # Not beside the labels, which may lie on a network's share, where SQLite's locks do not hold.
        scores = self.weights / "scores" / f"{digest(self.studies)}.sqlite"
        self.scoring = Scoring(models, self.datastore(), scores, is_on(self.conf, "scoring"))
        return {name: CaseChoice(name, self.scoring, seed) for name in DESCRIPTIONS}

    def info(self) -> dict[str, Any]:
        """MONAI Label's, with the model that is being trained first: 3D Slicer shows the first one's progress.

        `active_learning` says how far the images are scored.
        """
        info: dict[str, Any] = super().info()
        stats = info["train_stats"]
        info["active_learning"] = self.scoring.status()
        info["train_stats"] = dict(sorted(stats.items(), key=lambda item: item[1]["started"], reverse=True))
        return info

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The image that a strategy chooses for the person who asks, among those that nobody else has in hand.

        With `next_case` true in the request it is one of a case that this person has not yet; with `dicom` true one
        of a DICOM study, for viewers that open nothing else.

        Raises:
            RequestRefused: all that has no label is in other people's hands (409).
            MONAILabelException: there is no such strategy.
        """
        strategy = self._strategies.get(request.get("strategy") or "random")
        if strategy is None:
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, "there is no such strategy")
        store, user = self.datastore(), person(request)
        store.refresh()
        next_case, dicom = request.get("next_case") is True, request.get("dicom") is True
        chosen = self.worklist.choose(user, lambda part: strategy(request, part), next_case, dicom)
        if not chosen:
            return {}
        self.activity.note(user, "handed out", chosen["id"], strategy=request.get("strategy"))
        self.ahead.decode(chosen["case"])
        return {**chosen, "path": store.get_image_uri(chosen["id"])}

    def trainer(self, model: str) -> BundleTraining:
        """The training of a model.

        Raises:
            RequestRefused: there is no such model (404).
        """
        task = self._trainers.get(model)
        if task is None:
            raise unknown("model to train", model)
        assert isinstance(task, BundleTraining)
        return task

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on an image of the datastore or of a session; never on another path.

        Raises:
            RequestRefused: no such model or image, or the request cannot be fulfilled.
        """
        store = datastore or self.datastore()
        assert isinstance(store, MammogramDatastore)
        task = self._infers.get(request.get("model", ""))
        if task is None:
            raise unknown("model", str(request.get("model")))
        path, image_id = self._image(request, store)
        try:
            file, params = task({**request, "image": str(path)})
        except MammogramError as error:
            raise self._unusable(path, image_id, error, store) from error
        label = file
        tag = request.get("label_tag") or "original"
        if file and image_id and request.get("save_label"):
            info = {"model": request["model"], "params": params}
            label = store.save_label(image_id, file, tag, info)
        return {"label": label, "tag": tag, "file": file, "params": params}

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on many images; how many there were, and on how many it failed, for the server logs it.

        MONAI Label's own defaults divide by zero on a machine without a GPU, and with one worker end at the first bad
        image.
        """
        usual = {"multi_gpu": torch.cuda.is_available(), "max_workers": 2}
        with without_messages():
            answers = super().batch_infer({**usual, **request}, datastore)
        return {"images": len(answers), "failed": sum(not answer for answer in answers.values())}

    def infer_wsi(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Refused: it would open any path it is given."""
        raise RequestRefused(404, "there are no whole-slide images here", "Use /infer/<model>")

    def bundle_path(self, model: Any) -> None:
        """MONAI Label asks this first of all before it starts a task: the moment to refuse an unknown model."""
        if str(model) not in self._infers:
            raise unknown("model", str(model))

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train a model on the annotations; never inside the server.

        Raises:
            RequestRefused: asked to train inside the server, which would stop answering meanwhile.
            SystemExit: it is refused, or an image or label cannot be used; one line says why, and names no image, for
                the server logs it.
        """
        if self._server:
            raise RequestRefused(400, "this server does not train in its own process", "Leave out run_sync")
        try:
            with without_messages():
                return super().train(request)
        except (RequestRefused, MammogramError) as refused:
            sys.exit(f"The training ends: {refused.reason}. {refused.remedy}.")

    def _open(self, server: FastAPI) -> None:
        """Make the running server safe, and add the app's own routes to it."""
        users = read_users(self.conf, os.environ)
        choose_interface(with_tokens=bool(users))
        end_in_time()
        open_many_files()
        install_endpoints(server, self)
        if self.studies.startswith(("http://", "https://")):
            install_proxy(server, self.studies, archive_login())
        else:
            store = self.datastore()
            assert isinstance(store, MammogramDatastore)
            install_folder(server, Path(self.studies), self._records(), store.index.files)
        install_training_routes(server, self)
        install_own_routes(server, self)
        install_viewer(server, self.conf.get("ohif"))
        install_pages(server, users)
        install_record(server, self.activity)
        install_guard(server, self.conf, users)
        install_error_handlers(server)

    def _load_sessions(self, load: bool = False) -> BoundedSessions | None:
        return BoundedSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY) if load else None

    def _records(self) -> Path:
        """The folder of labels, where leases, the record of activity and what viewers store are kept, too."""
        store = self.datastore()
        assert isinstance(store, MammogramDatastore)
        return store.labels.folder

    def _worklist(self) -> Worklist:
        minutes = number(self.conf, "lease_minutes", LEASE_MINUTES, most=LONGEST_LEASE)
        return Worklist(self._records() / ".worklist.json", self.datastore(), minutes)

    def _served(self, name: str, bundle: str, **overrides: Any) -> ServedModel:
        return ServedModel(self.bundles / bundle, self.weights / f"{name}.pt", {**self._on_device(), **overrides})

    def _training(self, name: str, bundle: str, datalist: Datalist, **overrides: Any) -> BundleTraining:
        folder, weights = self.bundles / bundle, self.weights / f"{name}.pt"
        description = f"Trains {name} on the annotations, split by patient"
        return BundleTraining(folder, weights, datalist, {**self._on_device(), **overrides}, description)

    def _on_device(self) -> dict[str, str]:
        return {"device": f"$torch.device({self._device!r})"} if self._device else {}

    def _image(self, request: dict[str, Any], store: MammogramDatastore) -> tuple[Path, str | None]:
        """The file that a request means, and its id (None for a session's image)."""
        image, session = request.get("image"), request.get("session")
        if not isinstance(image, str):
            raise RequestRefused(400, "the request's image is no id", "Give an id that /activelearning/random gave")
        if session:
            name = str(session.get("name")) if isinstance(session, dict) else ""
            kept = self.sessions().get_session(name)
            if kept is None or kept.image != image or not os.path.isfile(image):
                raise unknown("session", name)
            return Path(image), None
        return store.readable_image(image), image

    def _unusable(
        self, path: Path, image_id: str | None, error: MammogramError, store: MammogramDatastore
    ) -> RequestRefused:
        """The refusal for an unusable image; noted in the datastore if the file, not the request, is at fault."""
        file = path.name
        if image_id:
            file = store.image(image_id).file
            try:
                read_mammogram(path)
            except MammogramError as found:
                store.report_unreadable(image_id, found.reason, found.remedy)
        return RequestRefused(422, error.reason, error.remedy, file)
