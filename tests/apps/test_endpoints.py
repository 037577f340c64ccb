"""What MONAI Label's own routes answer here, without the app behind them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
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


@pytest.mark.parametrize("leaves", [False, True])
def test_nothing_is_computed_for_a_client_that_has_left(leaves: bool) -> None:
    server, computed = FastAPI(), []
    app = SimpleNamespace(infer=lambda request: computed.append(request) or {"params": {}})
    install_endpoints(server, app)  # type: ignore[arg-type]
    install_error_handlers(server)
    messages: list[dict[str, Any]] = [{"type": "http.disconnect"}, {"type": "http.request"}]

    async def receive() -> dict[str, Any]:
        if len(messages) == 1 and not leaves:
            await anyio.sleep_forever()
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        """Nobody looks at the answer."""

    scope = {"type": "http", "method": "POST", "path": f"/infer/{QUALITY}", "query_string": b"image=x&output=json"}
    scope |= {"headers": [(b"content-type", b"application/x-www-form-urlencoded")]}
    anyio.run(server, scope, receive, send)
    assert bool(computed) is not leaves
