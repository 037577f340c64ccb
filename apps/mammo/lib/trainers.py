"""The models as MONAI Label training tasks: annotations become a datalist, the bundle trains on it, and the new
weights come into service if they are no worse.

MONAI Label starts every training in a process of its own, so the bundle's workflow runs there directly; a second
process would only cost another start. Not here: a training loop, the judgement (`gate`), the files (`history`).
"""

from __future__ import annotations

import logging
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monailabel.interfaces.tasks.train import TrainTask

from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.dicom.errors import MammogramError, cause_of
from monai_mammo.files import sha256, write_json
from monai_mammo.predictor import Predictor

from .datalists import Datalist
from .datastore import MammogramDatastore
from .errors import RequestRefused, system_reason
from .files import read_json
from .gate import Comparison, behind_of, compare
from .history import History, ServiceChanged
from .models import UnloadableWeights, load
from .partition import Partition
from .progress import Progress, read_progress

logger = logging.getLogger(__name__)

WHOLE_NUMBERS = ("epochs", "batch_size", "seed", "num_workers")
LEAST = {"epochs": 1, "batch_size": 1, "seed": 0, "num_workers": 0, "learning_rate": 0}


class BundleTraining(TrainTask):
    """Train a bundle on what was annotated, and serve what comes of it if it is no worse than what is served.

    Args:
        bundle: the bundle's folder.
        weights: the file with the weights in service; beside it goes their history.
        datalist: of what annotators said.
        overrides: values of the bundle's configs.
        description: for the viewers.
    """

    def __init__(
        self,
        bundle: Path,
        weights: Path,
        datalist: Datalist,
        overrides: dict[str, Any],
        description: str,
    ) -> None:
        super().__init__(description)
        self.bundle, self.datalist, self.overrides = bundle, datalist, overrides
        self.history = History(weights)

    def config(self) -> dict[str, Any]:
        """What a request may set, with the values used otherwise: the bundle's, the share of patients for validation,
        and whether to start from the weights in service rather than anew."""
        written = ConfigParser.load_config_file(str(self._config_file()))
        named = ("epochs", "batch_size", "learning_rate", "num_workers", "seed")
        return {**{name: written[name] for name in named}, "validation": 0.2, "pretrained": True}

    def stats(self) -> dict[str, Any]:
        """What 3D Slicer's two bars show of the last training: `epoch` of `total_epochs`, and `best_metric`."""
        state = read_progress(self.history.run) or read_progress(self.history.latest())
        stats = {"epoch": state.get("epoch", 0), "total_epochs": state.get("epochs", 1)}
        return stats | {"best_metric": state.get("best_metric", 0.0), "started": state.get("started", "")}

    def __call__(self, request: dict[str, Any], datastore: MammogramDatastore) -> dict[str, Any]:
        """Train and judge; until the last moment the weights in service stay as they are.

        Raises:
            RequestRefused: a value that is not allowed, too few annotations, or another training of this model.
            MammogramError: an image or label that was annotated has become unusable.
        """
        settings = self.settings(request)
        about = {name: request.get(name) for name in ("run", "user")}
        with self.history.training() as run:
            progress = Progress(run / "progress.json", epochs=settings["epochs"], **about)
            try:
                return self._trained(run, settings, about, datastore, progress)
            except Exception as error:
                reason = _reason(error)
                try:
                    progress.tell()
                except OSError as full:  # torch does not say of a disk that it is full
                    reason = system_reason(full)
                self.history.clear(progress.file)
                progress.tell(phase="failed", reason=reason)
                raise

    def settings(self, request: dict[str, Any]) -> dict[str, Any]:
        """The allowed values of a request. Nothing but numbers passes: a bundle evaluates strings as code.

        Raises:
            RequestRefused: a value that is not allowed (400).
        """
        settings = self.config()
        for name, usual in settings.items():
            value = request.get(name, usual)
            allowed = bool if name == "pretrained" else int if name in WHOLE_NUMBERS else int | float
            if isinstance(value, bool) != (allowed is bool) or not isinstance(value, allowed):
                raise RequestRefused(400, f"'{name}' is not a value that it can have", f"{usual} is one")
            settings[name] = value
        sensible = all(least <= settings[name] < math.inf for name, least in LEAST.items())
        if not sensible or not 0 < settings["validation"] < 1:
            raise RequestRefused(
                400,
                "the request's numbers make no training",
                "Give epochs and batch_size of at least 1, a share for validation between 0 and 1, nothing below 0",
            )
        return settings

    def _trained(
        self,
        run: Path,
        settings: dict[str, Any],
        about: dict[str, Any],
        datastore: MammogramDatastore,
        progress: Progress,
    ) -> dict[str, Any]:
        divide = partial(
            Partition(self.history.folder / "patients.json").divide,
            validation=settings["validation"],
            seed=settings["seed"],
        )
        datalist = self.datalist(datastore, run / "data", divide)
        start = self._in_service() if settings["pretrained"] else None
        from_sha256 = sha256(start.weights) if start else None
        values = {name: value for name, value in settings.items() if name not in ("validation", "pretrained")}
        values |= {**self.overrides, "initial_weights": str(start.weights) if start else ""}
        shutil.copytree(self.bundle / "configs", run / "configs")
        write_json(
            run / "config.json", {**settings, "initial_weights_sha256": from_sha256, "overrides": self.overrides}
        )
        self._run_bundle(run, datalist, values, progress)
        for checkpoint in (run / "output").glob("*.pt"):  # large, and of use to a training in progress only
            checkpoint.unlink()
        return self._judged(run, datalist, {**about, "settings": settings, **self._version()}, progress)

    def _run_bundle(self, run: Path, datalist: Path, values: dict[str, Any], progress: Progress) -> None:
        workflow = ConfigWorkflow(
            config_file=str(self._config_file()),
            workflow_type="train",
            logging_file=False,
            bundle_root=str(self.bundle),
            dataset_dir=str(datalist.parent),
            output_dir=str(run / "output"),
            weights=str(run / "weights.pt"),
            **values,
        )
        try:
            workflow.initialize()
            engines = (workflow.parser.get_parsed_content(name) for name in ("train#trainer", "validate#evaluator"))
            progress.follow(*engines)
            workflow.run()
            workflow.finalize()
        except RuntimeError as error:
            cause = cause_of(error)
            if cause is error:
                raise
            raise cause from error

    def _judged(self, run: Path, datalist: Path, record: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Compare with the weights in service, and keep the candidate with the outcome."""
        candidate = load(self.bundle, run / "weights.pt", self.overrides)
        entries = load_datalist(datalist.parent, "validation")
        while True:
            compared_with = self.history.in_service()
            serving = next((entry for entry in self.history.entries() if entry["serving"]), {})
            found = compare(candidate, self._in_service(), entries, progress.comparing, behind_of(serving))
            progress.check_server()
            try:
                number = self.history.keep({**record, **_outcome(found), "compared_with": compared_with}, compared_with)
            except ServiceChanged:
                continue
            logger.info("Training %d of %s: %s", number, self.history.model, found.reason)
            return {"model": self.history.model, "number": number, **_outcome(found)}

    def _in_service(self) -> Predictor | None:
        """The bundle with the weights in service; None if there are none, or none that this bundle can load."""
        try:
            return load(self.bundle, self.history.served, self.overrides)
        except FileNotFoundError:
            return None
        except UnloadableWeights as error:
            logger.warning("The weights of %s in service cannot be loaded: %s", self.history.model, error)
            return None

    def _version(self) -> dict[str, str]:
        metadata = read_json(self.bundle / "configs" / "metadata.json")
        return {"bundle": self.bundle.name, "bundle_version": str(metadata.get("version"))}

    def _config_file(self) -> Path:
        return self.bundle / "configs" / "train.yaml"


def _outcome(found: Comparison) -> dict[str, Any]:
    outcome = "accepted" if found.accepted else "refused"
    return {"outcome": outcome, "reason": found.reason, "score": found.as_json()}


def _reason(error: BaseException) -> str:
    """What was wrong at the bottom: MONAI wraps it in errors that quote the config's expressions."""
    found = cause_of(error)
    while found.__cause__ is not None and not isinstance(found, MammogramError):
        found = found.__cause__
    if type(found) is RuntimeError and isinstance(found.__context__, OSError):
        found = found.__context__  # torch complains of the place in a file that it could not write
    if isinstance(found, OSError) and found.errno:
        return system_reason(found)
    return str(found) or type(found).__name__
