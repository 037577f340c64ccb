"""The models as MONAI Label training tasks: annotations become a datalist, the bundle trains on it.

MONAI Label starts every training in a process of its own, so the bundle's workflow runs there directly; a second
process would only cost another start. Not here: a training loop, and the choice whether new weights are better.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monailabel.interfaces.tasks.train import TrainTask

from monai_mammo.dicom.errors import cause_of

from .datalists import MakeDatalist
from .datastore import MammogramDatastore
from .errors import RequestRefused

logger = logging.getLogger(__name__)

WHOLE_NUMBERS = ("epochs", "batch_size", "seed", "num_workers")


class BundleTraining(TrainTask):
    """Train a bundle on what was annotated, and serve what comes of it.

    Args:
        bundle: the bundle's folder.
        weights: where the new weights go, in one step, once they are complete.
        make_datalist: writes the datalist.
        overrides: values of the bundle's training config.
        description: for the viewers.
    """

    def __init__(
        self,
        bundle: Path,
        weights: Path,
        make_datalist: MakeDatalist,
        overrides: dict[str, Any],
        description: str,
    ) -> None:
        super().__init__(description)
        self.bundle, self.weights, self.make_datalist, self.overrides = bundle, weights, make_datalist, overrides

    def config(self) -> dict[str, Any]:
        """What a request may set, with the values used otherwise: the bundle's, and the share for validation."""
        written = ConfigParser.load_config_file(str(self._config_file()))
        named = ("epochs", "batch_size", "learning_rate", "num_workers", "seed")
        return {**{name: written[name] for name in named}, "validation": 0.2}

    def __call__(self, request: dict[str, Any], datastore: MammogramDatastore) -> dict[str, Any]:
        """Train; the former weights stay in service until the new ones are complete, or for good if there are none.

        Raises:
            RequestRefused: a value that is not allowed, or too few annotations.
            MammogramError: an image or label that was annotated has become unusable.
        """
        settings = self._settings(request)
        validation = settings.pop("validation")
        run = self.weights.parent / "runs" / self.weights.stem
        shutil.rmtree(run, ignore_errors=True)
        datalist = self.make_datalist(datastore, run / "data", validation, settings["seed"])
        best = run / "best.pt"
        workflow = ConfigWorkflow(
            config_file=str(self._config_file()),
            workflow_type="train",
            logging_file=False,
            bundle_root=str(self.bundle),
            dataset_dir=str(datalist.parent),
            output_dir=str(run / "output"),
            weights=str(best),
            **self.overrides,
            **settings,
        )
        try:
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        except RuntimeError as error:
            raise cause_of(error) from error
        if not best.is_file():
            raise RuntimeError(
                f"training {self.weights.stem} gave no weights: its validation metric was never a number. "
                "Annotate more images of more patients"
            )
        os.replace(best, self.weights)
        logger.info("New weights of %s are served from now on", self.weights.stem)
        return {"model": self.weights.stem, "weights": str(self.weights)}

    def _config_file(self) -> Path:
        return self.bundle / "configs" / "train.yaml"

    def _settings(self, request: dict[str, Any]) -> dict[str, Any]:
        """The allowed values of a request. Nothing but numbers passes: a bundle evaluates strings as code."""
        settings = self.config()
        for name in settings:
            value = request.get(name, settings[name])
            if isinstance(value, bool) or not isinstance(value, int if name in WHOLE_NUMBERS else int | float):
                raise RequestRefused(400, f"'{name}' is not a number that it can be", f"{settings[name]} is one")
            settings[name] = value
        if not 0 < settings["validation"] < 1 or settings["epochs"] < 1 or settings["batch_size"] < 1:
            raise RequestRefused(
                400,
                "the request's numbers make no training",
                "Give epochs and batch_size of at least 1, and a share for validation between 0 and 1",
            )
        return settings
