"""A served model: a bundle in one of its input modes, with the weights that are to be served. Not here: requests."""

from __future__ import annotations

import copy
import logging
import threading
import zipfile
from pathlib import Path
from typing import Any

from monai_mammo.bundles import labels_of
from monai_mammo.dicom.errors import MammogramError, cause_of
from monai_mammo.predictor import Predictor

from .errors import RequestRefused

logger = logging.getLogger(__name__)


class UnloadableWeights(Exception):  # noqa: N818 - names what is at fault
    """A file holds no weights, or those of another network."""


def load(bundle: Path, weights: Path, overrides: dict[str, Any]) -> Predictor:
    """A bundle with the weights of a file or, where there is no such file, with its own.

    Raises:
        FileNotFoundError: it has none of its own either.
        UnloadableWeights: the file cannot be used.
    """
    own = weights if weights.is_file() else None
    if own and not zipfile.is_zipfile(own):
        raise UnloadableWeights(f"{own.name} is no file of weights, or a torn one")
    try:
        return Predictor(bundle, weights=own, overrides=overrides)
    except MammogramError as error:
        raise UnloadableWeights(str(error)) from error


class ServedModel:
    """Runs a bundle on images; loads it on first use, and again when the file with its weights has changed.

    Any number of threads may call it: images are decoded and masks brought back side by side, each thread with
    transforms of its own (MONAI's remember things while they run); the network, which uses all cores, runs one at a
    time.

    Args:
        bundle: the bundle's folder.
        weights: weights that this app trained; where there is no such file, the bundle's own are served.
        overrides: values of the bundle's config, as for :class:`monai_mammo.predictor.Predictor`.
    """

    def __init__(self, bundle: Path, weights: Path, overrides: dict[str, Any] | None = None) -> None:
        self.bundle, self.weights, self.overrides = bundle, weights, overrides or {}
        self._lock = threading.Lock()
        self._network = threading.Lock()
        self._predictor: Predictor | None = None
        self._idle: list[tuple[Predictor, Predictor]] = []
        self._loaded: tuple[Path, int, int] | None = None

    @property
    def labels(self) -> dict[int, str]:
        """Meaning of the output's indices; known without weights."""
        return labels_of(self.bundle)

    def __call__(self, image: Path, **given: Any) -> dict[str, Any]:
        """Predict for one image file; arguments and result are those of the bundle's `Predictor`.

        Raises:
            MammogramError: the image, or what is given with it, cannot be used.
            RequestRefused: the model has no weights yet, or none that can be loaded (503).
        """
        with self._lock:
            served = self._current()
            twin = next((twin for origin, twin in self._idle if origin is served), None)
            self._idle = [pair for pair in self._idle if pair[0] is served and pair[1] is not twin]
        twin = twin or self._twin(served)
        try:
            return twin(image, **given)
        except RuntimeError as error:
            raise cause_of(error) from error
        finally:
            with self._lock:
                self._idle.append((served, twin))

    def _twin(self, served: Predictor) -> Predictor:
        """A predictor with the same network and copies of its transforms."""
        twin = copy.copy(served)
        # Together, since the postprocessing undoes what the preprocessing of the same twin has done.
        twin.preprocessing, twin.postprocessing = copy.deepcopy((served.preprocessing, served.postprocessing))

        def in_turn(*inputs: Any) -> Any:
            with self._network:
                return served.inferer(*inputs)

        twin.inferer = in_turn
        return twin

    def _current(self) -> Predictor:
        own = _version(self.weights)
        present = own or (self._predictor and _version(self._predictor.weights))
        if self._predictor is None or present is None or self._loaded != present:
            try:
                predictor = load(self.bundle, self.weights, self.overrides)
            except FileNotFoundError as error:
                raise RequestRefused(503, f"the model {self.weights.stem} has no weights", str(error)) from error
            except UnloadableWeights as error:
                logger.warning("The weights of %s in service cannot be loaded: %s", self.weights.stem, error)
                raise RequestRefused(
                    503,
                    f"the weights of {self.weights.stem} in service cannot be loaded",
                    f"Restore former ones: POST /mammo/models/{self.weights.stem}/restore",
                ) from error
            # As it was before: what took the file's place meanwhile may not be what was loaded, so it counts as newer.
            self._loaded = own if predictor.weights == self.weights else _version(predictor.weights)
            self._predictor = predictor
            logger.info("Serving %s with %s", self.weights.stem, predictor.weights)
        return self._predictor


def _version(weights: Path) -> tuple[Path, int, int] | None:
    if not weights.is_file():
        return None
    stat = weights.stat()
    return weights, stat.st_mtime_ns, stat.st_size
