"""A served model: a bundle in one of its input modes, with the weights that are to be served. Not here: requests."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

from monai_mammo.dicom.errors import cause_of
from monai_mammo.predictor import Predictor

from .errors import RequestRefused

logger = logging.getLogger(__name__)


class ServedModel:
    """Runs a bundle on images; loads it on first use, and again when the file with its weights has changed.

    Predictions are made one at a time, so that any number of request threads may call it.

    Args:
        bundle: the bundle's folder.
        weights: weights that this app trained; where there is no such file, the bundle's own are served.
        overrides: values of the bundle's config, as for :class:`monai_mammo.predictor.Predictor`.
    """

    def __init__(self, bundle: Path, weights: Path, overrides: dict[str, Any] | None = None) -> None:
        self.bundle, self.weights, self.overrides = bundle, weights, overrides or {}
        self._lock = threading.Lock()
        self._predictor: Predictor | None = None
        self._loaded: tuple[Path, int, int] | None = None

    @property
    def labels(self) -> dict[int, str]:
        """Meaning of the output's indices; known without weights."""
        metadata = json.loads((self.bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
        channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        return {int(index): name for index, name in channels.items()}

    def __call__(self, image: Path, **given: Any) -> dict[str, Any]:
        """Predict for one image file; arguments and result are those of the bundle's `Predictor`.

        Raises:
            MammogramError: the image, or what is given with it, cannot be used.
            RequestRefused: the model has no weights yet (503).
        """
        with self._lock:
            predictor = self._current()
            try:
                return predictor(image, **given)
            except RuntimeError as error:
                raise cause_of(error) from error

    def _current(self) -> Predictor:
        own = self.weights if self.weights.is_file() else None
        if self._predictor is None or self._loaded != _version(own or self._predictor.weights):
            try:
                predictor = Predictor(self.bundle, weights=own, overrides=self.overrides)
            except FileNotFoundError as error:
                raise RequestRefused(503, f"the model {self.weights.stem} has no weights", str(error)) from error
            self._predictor, self._loaded = predictor, _version(predictor.weights)
            logger.info("Serving %s with %s", self.weights.stem, predictor.weights)
        return self._predictor


def _version(weights: Path) -> tuple[Path, int, int] | None:
    if not weights.is_file():
        return None
    stat = weights.stat()
    return weights, stat.st_mtime_ns, stat.st_size
