"""Scores of images for the strategies: computed in the background, kept over restarts, void when the weights change.

A process of its own does the computing, at low priority; a thread feeds it one image after the other and keeps
what comes back. Not here: how an image is scored (`monai_mammo.active_learning`), and the choice (`strategies`).
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_mammo.active_learning.worker import decode_embedding
from monai_mammo.bundles import inference_of

from .datastore import MammogramDatastore
from .errors import RequestRefused, system_reason
from .files import Digests
from .models import ServedModel

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""How often new images and new weights are looked for."""

NICENESS = 10
"""A tenth of the processor beside a busy process: inference hardly notices, and 19 would starve beside a training."""

IMAGE_SECONDS = 600.0
"""An image that takes longer is given up."""

_TABLE = """CREATE TABLE IF NOT EXISTS scores (
    model TEXT, weights TEXT, image TEXT, stamp TEXT, uncertainty REAL, embedding BLOB, problem TEXT,
    PRIMARY KEY (model, image))"""


@dataclass(frozen=True)
class Score:
    """What is known of an image.

    Args:
        uncertainty: see `monai_mammo.active_learning.ImageScore`; None where the image could not be scored.
        embedding: float32 (F,); None where the image could not be scored.
        problem: why it could not be scored.
        stamp: which state of the image this is about.
    """

    uncertainty: float | None
    embedding: np.ndarray | None
    problem: str | None
    stamp: str


class ScoreBook:
    """Scores in an SQLite file, by model and image, each with the SHA-256 of the weights that gave it.

    Its methods raise sqlite3.Error or OSError where the file cannot be used, on a full disk say, which may not keep the
    server from starting.

    Args:
        file: it is made when it is first used.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def scores(self, model: str, weights: str, with_embeddings: bool = True) -> dict[str, Score]:
        """Scores of a model with these weights, by image."""
        column = "embedding" if with_embeddings else "NULL"
        query = f"SELECT image, uncertainty, {column}, problem, stamp FROM scores WHERE model = ? AND weights = ?"
        with self._opened() as book:
            rows = book.execute(query, (model, weights)).fetchall()
        return {
            image: Score(uncertainty, None if blob is None else np.frombuffer(blob, dtype=np.float32), problem, stamp)
            for image, uncertainty, blob, problem, stamp in rows
        }

    def write(self, model: str, weights: str, image: str, stamp: str, answer: Mapping[str, Any]) -> None:
        """Keep a worker's answer on an image; it takes the place of a former one."""
        problem = answer.get("reason")
        embedding = None if problem else decode_embedding(answer["embedding"]).tobytes()
        values = (model, weights, image, stamp, answer.get("uncertainty"), embedding, problem)
        with self._opened() as book:
            book.execute(  # by name, since a table that an older version made has a further column
                "INSERT OR REPLACE INTO scores (model, weights, image, stamp, uncertainty, embedding, problem) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.file, timeout=30)) as book, book:
            book.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
            book.execute(_TABLE)
            yield book


class WorkerEnded(Exception):  # noqa: N818 - what happened, and not always an error
    """The process that scores has ended, or was ended for taking too long."""


class Worker:
    """The process that scores; see `monai_mammo.active_learning.worker` for what is said to it.

    Args:
        model: what scores.
        weights: the file with its weights.

    Raises:
        WorkerEnded: it did not start: the weights do not fit the bundle, say.
    """

    def __init__(self, model: ServedModel, weights: Path) -> None:
        job = {"bundle": str(model.bundle), "weights": str(weights), "overrides": model.overrides}
        command = [sys.executable, "-m", "monai_mammo.active_learning.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if hasattr(os, "setpriority"):  # from here, since the worker's imports alone take seconds
            os.setpriority(os.PRIO_PROCESS, self._process.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS))
        try:
            self.weights = str(self._ask(job)["weights"])
        except WorkerEnded:
            self.close()
            raise

    def score(self, image: Path) -> dict[str, Any]:
        """The answer on an image.

        Raises:
            WorkerEnded: there is none.
        """
        return self._ask({"image": str(image)})

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        too_long = threading.Timer(IMAGE_SECONDS, self._process.kill)
        too_long.start()
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            too_long.cancel()
        if not line:
            raise WorkerEnded("the process that scores images has ended")
        return dict(json.loads(line))


class Scoring:
    """Keeps the scores of all images up to date.

    Args:
        models: those that look at a whole image, by name, in the order in which they are scored; the strategies use
            the first that has weights.
        datastore: the images.
        file: where the scores are kept.
        on: whether images are scored; scores that are kept already count all the same.
    """

    def __init__(
        self, models: Mapping[str, ServedModel], datastore: MammogramDatastore, file: Path, on: bool = True
    ) -> None:
        self.models, self.datastore, self.book, self.on = dict(models), datastore, ScoreBook(file), on
        self._digests = Digests()
        self._defaults: dict[str, Path] = {}
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._scoring_now: str | None = None
        self._failed: dict[str, str | None] = {}
        self._suspects: set[str] = set()
        self._problems: dict[str, str] = {}

    def start(self) -> None:
        """Begin in the background, unless it is switched off."""
        if not self.on:
            return
        self._thread = threading.Thread(target=self._keep_up, name="scoring", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the image that is being scored."""
        self._ending.set()
        if self._thread:
            self._thread.join()

    def default_model(self) -> str:
        """The model whose scores the strategies use if they are not told: the first that has weights, or the first."""
        return next((name for name in self.models if self.weights(name)), next(iter(self.models)))

    def weights(self, model: str) -> str | None:
        """SHA-256 of the weights that a model is served with; None where it has none."""
        try:
            return self._digests.of(self._weights_file(model))
        except FileNotFoundError:
            return None

    def scores(self, model: str, with_embeddings: bool = True) -> dict[str, Score]:
        """Scores of images as they are now with the model's weights as they are now; empty where there are none, or
        where the file of scores cannot be read now."""
        with self._reporting("reading scores", sqlite3.Error, OSError):
            return self._scores(model, with_embeddings)
        return {}

    def _scores(self, model: str, with_embeddings: bool) -> dict[str, Score]:
        weights = self.weights(model)
        scores = self.book.scores(model, weights, with_embeddings) if weights else {}
        stamps = self._stamps(scores)
        return {image_id: score for image_id, score in scores.items() if score.stamp == stamps.get(image_id)}

    def status(self) -> dict[str, Any]:
        """For each model, how far its scores are: `state`, `scored`, `images`, `unusable`, `weights`."""
        images = len(self.datastore.list_images())
        return {name: self._status(name, images) for name in self.models}

    def catch_up(self) -> None:
        """Score whatever is to be scored, model by model, unlabelled images first."""
        for name in self.models:
            while self._can_score(name) and self._to_score(name) and self._score_some(name):
                pass

    def _keep_up(self) -> None:
        while not self._ending.is_set():
            with self._reporting("scoring", Exception):  # whatever it is, annotation goes on
                self.catch_up()
            self._ending.wait(POLL_SECONDS)

    @contextmanager
    def _reporting(self, what: str, *kinds: type[Exception]) -> Iterator[None]:
        """Log an error of these kinds instead of raising it; the same one only once until it is over."""
        try:
            yield
        except kinds as error:
            said = _without_names(error)
            if self._problems.get(what) != said:
                logger.exception("%s failed (%s); it is tried again", what.capitalize(), said)
            self._problems[what] = said
        else:
            self._problems.pop(what, None)

    def _can_score(self, model: str) -> bool:
        weights = self.weights(model)
        return not self._ending.is_set() and weights is not None and self._failed.get(model) != weights

    def _score_some(self, model: str) -> bool:
        """Score until done, or until the weights change. False if there is no use in going on now."""
        weights = self.weights(model)
        try:
            worker = Worker(self.models[model], self._weights_file(model))
        except WorkerEnded:
            logger.warning("%s cannot score images with its present weights: the process ended at its start", model)
            self._failed[model] = weights
            return False
        self._scoring_now = model
        progress = False
        try:
            for image_id, stamp in self._to_score(model):
                if self._ending.is_set() or self.weights(model) != worker.weights:
                    return True
                try:
                    answer = worker.score(self.datastore.readable_image(image_id))
                except RequestRefused as refused:
                    if refused.status != 422:  # an archive that does not answer, say
                        continue
                    answer = {"reason": refused.reason}
                except WorkerEnded:
                    if image_id not in self._suspects:  # it may have been ended for another reason
                        self._suspects.add(image_id)
                        return True
                    logger.warning("An image ended the process that scores twice; the others go on")
                    answer = {"reason": "scoring it ended the process twice"}
                    self.book.write(model, worker.weights, image_id, stamp, answer)
                    return True
                self.book.write(model, worker.weights, image_id, stamp, answer)
                self._problems.pop("scoring", None)
                progress = True
            return progress
        finally:
            self._scoring_now = None
            worker.close()

    def _to_score(self, model: str) -> list[tuple[str, str]]:
        """Images, with their stamps, that have no score of theirs with the present weights; unlabelled ones first."""
        known = self._scores(model, with_embeddings=False)
        stamps = self._stamps([*self.datastore.get_unlabeled_images(), *self.datastore.list_images()])
        return [(image_id, stamp) for image_id, stamp in stamps.items() if image_id not in known]

    def _stamps(self, images: Iterable[str]) -> dict[str, str]:
        """The present state of those of these images that there are, in their order."""
        there = set(self.datastore.list_images())
        return {image_id: self.datastore.image(image_id).stamp for image_id in images if image_id in there}

    def _status(self, model: str, images: int) -> dict[str, Any]:
        known = self.scores(model, with_embeddings=False)
        scored = sum(score.problem is None for score in known.values())
        weights = self.weights(model)
        return {
            "state": self._state(model, weights, len(known) == images),
            "scored": scored,
            "images": images,
            "unusable": len(known) - scored,
            "weights": weights,
        }

    def _state(self, model: str, weights: str | None, complete: bool) -> str:
        if not self.on:
            return "off"
        if weights is None:
            return "no weights"
        if self._problems or self._failed.get(model) == weights:
            return "failed"
        if self._scoring_now == model:
            return "scoring"
        return "up to date" if complete else "waiting"

    def _weights_file(self, model: str) -> Path:
        served = self.models[model]
        if served.weights.is_file():
            return served.weights
        if model not in self._defaults:
            self._defaults[model] = Path(inference_of(served.bundle, served.overrides).get_parsed_content("weights"))
        return self._defaults[model]


def _without_names(error: Exception) -> str:
    """What an error says, as far as that can hold no file or image; else its type."""
    if isinstance(error, OSError) and error.errno:
        return system_reason(error)
    return str(error) if isinstance(error, sqlite3.Error) else type(error).__name__
