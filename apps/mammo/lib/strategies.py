"""Which image to annotate next. Not here: scores of images, and who works on what."""

from __future__ import annotations

import random
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from .datastore import MammogramDatastore
from .errors import RequestRefused


class Random(Strategy):
    """Any readable image without a final label, each with the same chance.

    Args:
        seed: of the sequence of choices; the system's randomness if None. A request may bring its own `seed`.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__("Any image that has no final label yet, each with the same chance")
        self._random = random.Random(seed)

    def __call__(self, request: dict[str, Any], datastore: MammogramDatastore) -> dict[str, Any] | None:
        """The id of the image chosen, or None if all are labelled."""
        seed = request.get("seed")
        if not isinstance(seed, int | None):
            raise RequestRefused(400, "'seed' is not a whole number", "Leave it out, or give a whole number")
        datastore.refresh()
        unlabelled = sorted(datastore.get_unlabeled_images())
        if not unlabelled:
            return None
        chooser = self._random if seed is None else random.Random(seed)
        return {"id": chooser.choice(unlabelled)}
