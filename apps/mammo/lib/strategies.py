"""Which image to annotate next: the library's strategies for the viewers. Not here: scores, and who works on what."""

from __future__ import annotations

import random
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from monai_mammo.active_learning.selection import Candidate, choose

from .datastore import MammogramDatastore
from .errors import RequestRefused, unknown
from .images import reading_place
from .scoring import Score, Scoring

DESCRIPTIONS = {
    "random": "Any case that has no final label yet, each with the same chance",
    "uncertainty": "The case that the model is least sure of",
    "diversity": "The case that is least like those that are labelled",
    "uncertainty+diversity": "Of the cases that the model is not sure of, the one least like those that are labelled",
}
"""The strategies, by the names under which the viewers show them."""

OFF = "scoring is switched off (--conf scoring)"


class CaseChoice(Strategy):
    """Chooses a case, all unlabelled images of a patient, and gives its first image in the usual reading order.

    Where nothing that may be given out has been scored, the choice is random, and the answer says so.

    Args:
        name: one of `DESCRIPTIONS`.
        scoring: where scores come from.
        seed: of what is left to chance; the system's randomness if None. A request may bring its own `seed`.
    """

    def __init__(self, name: str, scoring: Scoring, seed: int | None = None) -> None:
        without = "" if scoring.on or name == "random" else f"; images without a score come at random, for {OFF}"
        super().__init__(DESCRIPTIONS[name] + without)
        self.name, self.scoring = name, scoring
        self._random = random.Random(seed)

    def __call__(self, request: dict[str, Any], datastore: MammogramDatastore) -> dict[str, Any] | None:
        """The image chosen.

        Args:
            request: may hold `seed` (a whole number) and `model` (by whose scores to choose).
            datastore: its unlabelled images are those to choose from.

        Returns:
            `id`; `case`, the ids of the case's unlabelled images; `choice`, how it was chosen: `strategy`, `by`
            (what chose in the end), `reason` if that is another, `model`, `scored` of `images`. None if all images
            are labelled.

        Raises:
            RequestRefused: the seed is no whole number (400), or there is no such model (404).
        """
        seed, model = self._seed(request), self._model(request)
        unlabelled = datastore.get_unlabeled_images()
        if not unlabelled:
            return None
        scores = {} if self.name == "random" else self.scoring.scores(model, "diversity" in self.name)
        usable = {image_id: score for image_id, score in scores.items() if not score.problem}
        labelled = datastore.get_labeled_images() if usable else []
        case = choose(
            [_candidate(datastore, image_id, usable.get(image_id)) for image_id in unlabelled],
            self.name,
            1,
            labelled=[_candidate(datastore, image_id, usable.get(image_id)) for image_id in labelled],
            seed=seed,
        )
        ordered = sorted(case, key=lambda image_id: _place(datastore, image_id))
        how = self._how(model, any(image_id in usable for image_id in case))
        known = sum(image_id in usable for image_id in unlabelled)
        counts = {} if self.name == "random" else {"model": model, "scored": known, "images": len(unlabelled)}
        return {"id": ordered[0], "case": ordered, "choice": {**how, **counts}}

    def _how(self, model: str, by_scores: bool) -> dict[str, str]:
        if self.name == "random" or by_scores:
            return {"strategy": self.name, "by": self.name}
        missing = "has not scored any of these images yet" if self.scoring.weights(model) else "has no weights"
        reason = f"{model} {missing}" if self.scoring.on else OFF
        return {"strategy": self.name, "by": "random", "reason": reason}

    def _seed(self, request: dict[str, Any]) -> int:
        seed = request.get("seed")
        if seed is None:
            return self._random.getrandbits(32)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise RequestRefused(400, "'seed' is not a whole number", "Leave it out, or give a whole number")
        return abs(seed)

    def _model(self, request: dict[str, Any]) -> str:
        model = request.get("model") or self.scoring.default_model()
        if model not in self.scoring.models:
            raise unknown("model that scores images", str(model))
        return str(model)


def _candidate(datastore: MammogramDatastore, image_id: str, score: Score | None) -> Candidate:
    image = datastore.image(image_id)
    view = f"{image.laterality or ''} {image.view}".strip() if image.view else ""
    if score is None:
        return Candidate(image_id, image.patient, view)
    return Candidate(image_id, image.patient, view, score.uncertainty, score.embedding)


def _place(datastore: MammogramDatastore, image_id: str) -> tuple[int, bool, str]:
    return *reading_place(datastore.image(image_id)), image_id
