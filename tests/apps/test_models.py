"""Which weights a served model has, whenever their file changes. Loading itself is stood in for."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lib import models
from lib.models import ServedModel


def put(file: Path, content: bytes) -> None:
    """Put a file there in one step, as a training and a restoration do."""
    file.with_suffix(".new").write_bytes(content)
    os.replace(file.with_suffix(".new"), file)


class Loader:
    """Loads weights as their content; `before` and `after` reading them, once each, a file takes their place."""

    def __init__(self, bundles_own: Path, before: bytes = b"", after: bytes = b"") -> None:
        self.bundles_own, self.before, self.after = bundles_own, before, after
        self.loads: list[bytes] = []

    def __call__(self, bundle: Path, weights: Path, overrides: dict[str, Any]) -> SimpleNamespace:
        """As `lib.models.load`."""
        if self.before:
            put(weights, self.before)
        file = weights if weights.is_file() else self.bundles_own
        self.loads.append(file.read_bytes())
        if self.after:
            put(weights, self.after)
        self.before = self.after = b""
        return SimpleNamespace(weights=file, content=self.loads[-1])


@pytest.mark.parametrize(
    ("former", "during", "loads"),
    [
        (b"old", {"after": b"newer"}, [b"old", b"newer"]),
        (b"old", {"before": b"newer"}, [b"newer", b"newer"]),
        (b"", {"after": b"newer"}, [b"of the bundle", b"newer"]),
        (b"", {"before": b"newer", "after": b"newest"}, [b"newer", b"newest"]),
    ],
)
def test_weights_that_come_while_others_are_loaded_are_served_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, former: bytes, during: dict[str, bytes], loads: list[bytes]
) -> None:
    weights, bundles_own = tmp_path / "model.pt", tmp_path / "bundle.pt"
    bundles_own.write_bytes(b"of the bundle")
    if former:
        weights.write_bytes(former)
    loader = Loader(bundles_own, **during)
    monkeypatch.setattr(models, "load", loader)
    model = ServedModel(tmp_path, weights)
    served = [model._current().content for _ in range(3)]
    assert served == [loads[0], loads[1], loads[1]]
    assert loader.loads == loads, "what has not changed is not loaded again"
    weights.unlink()
    assert [model._current().content for _ in range(2)] == [b"of the bundle"] * 2
    assert len(loader.loads) == 3


def test_own_weights_that_came_while_they_were_loaded_and_went_are_served_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, bundles_own = tmp_path / "model.pt", tmp_path / "bundle.pt"
    bundles_own.write_bytes(b"of the bundle")
    monkeypatch.setattr(models, "load", Loader(bundles_own, before=b"own"))
    model = ServedModel(tmp_path, weights)
    assert model._current().content == b"own"
    weights.unlink()
    assert model._current().content == b"of the bundle"
