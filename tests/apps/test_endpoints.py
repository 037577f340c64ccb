"""What MONAI Label's own routes answer here, without the app behind them."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.endpoints import install_endpoints
from lib.errors import install_error_handlers
from monailabel.utils.async_tasks.utils import background_processes

from .conftest import QUALITY


@pytest.fixture
def client() -> TestClient:
    """Asks them."""
    server, app = FastAPI(), None
    install_endpoints(server, app)  # type: ignore[arg-type]
    install_error_handlers(server)
    return TestClient(server, raise_server_exceptions=False)


@pytest.mark.parametrize("body", [[1], "text", 7])
def test_a_body_of_the_wrong_kind_is_named_as_what_is_wrong(client: TestClient, body: Any) -> None:
    refused = client.post(f"/batch/infer/{QUALITY}", json=body)
    assert refused.status_code == 422
    assert refused.json()["reason"].startswith("the body: ")


def test_a_second_batch_is_told_of_the_first_and_how_to_end_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(background_processes, "batch_infer", {"first": None})
    refused = client.post(f"/batch/infer/{QUALITY}", json={})
    assert refused.status_code == 429
    assert refused.json()["reason"] == "a batch of inferences is in progress"
    assert "DELETE /batch/infer" in refused.json()["remedy"]


def test_there_is_nothing_to_score_with(client: TestClient) -> None:
    assert client.post("/scoring/x").status_code == 404
