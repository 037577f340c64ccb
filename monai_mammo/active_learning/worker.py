"""A process that scores images for another one: `python -m monai_mammo.active_learning.worker`.

One JSON object a line: the job comes first, then images; each is answered by one line. It ends with its input, hence
with the process that started it. Not here: which images, and what becomes of their scores.

- job: `bundle` (folder), `weights` (file), `overrides` (of the bundle's config); answer: `weights`, the
  SHA-256 of the file that was loaded;
- image: `image` (path); answer: `uncertainty`, `embedding`, or `reason` if it is unusable.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from monai_mammo.active_learning.scores import score_image
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.files import sha256
from monai_mammo.predictor import Predictor

Answer = Callable[[dict[str, Any]], None]


def decode_embedding(text: str) -> np.ndarray:
    """The float32 (F,) of an answer's `embedding`."""
    return np.frombuffer(base64.b64decode(text), dtype=np.float32)


def load(job: dict[str, Any]) -> tuple[Predictor, str]:
    """The bundle, and the SHA-256 of the weights it has.

    Raises:
        FileNotFoundError: it has no weights.
        MammogramError: there is no such bundle, or the weights are not of its network.
    """
    while True:
        before = sha256(job["weights"])
        predictor = Predictor(job["bundle"], weights=job["weights"], overrides=job["overrides"])
        if sha256(job["weights"]) == before:  # else a training has replaced the file meanwhile
            return predictor, before


def serve(lines: Iterable[str], answer: Answer) -> None:
    """Answer a job and its images."""
    incoming = iter(lines)
    job = next(incoming, None)
    if job is None:
        return
    predictor, digest = load(json.loads(job))
    answer({"weights": digest})
    for line in incoming:
        answer(_scored(predictor, json.loads(line)["image"]))


def _scored(predictor: Predictor, image: str) -> dict[str, Any]:
    try:
        score = score_image(predictor, image)
    except MammogramError as error:
        return {"reason": error.reason}
    embedding = base64.b64encode(score.embedding.tobytes()).decode()
    return {"uncertainty": score.uncertainty, "embedding": embedding}


def main() -> None:
    """Serve standard input and output; whatever a library prints goes to the error stream."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    with suppress(BrokenPipeError):  # who asked has ended
        serve(sys.stdin, lambda content: print(json.dumps(content), file=answers))


if __name__ == "__main__":
    main()
