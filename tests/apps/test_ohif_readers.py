"""The mammography mode with several readers who have names: whose work is whose, on the screen and on the server.

The tests share one browser and one server; each uses a patient of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from monai_mammo.datasets import phantom

from .conftest import Server, start_server, stop_server
from .ohif_page import OhifPage, chromium
from .ohif_studies import SHAPE, needs_viewer, study

pytestmark = pytest.mark.slow

TOKENS = {"anna": "annas-token-0123456789", "bert": "berts-token-0123456789", "cora": "coras-token-0123456789"}
VERDICTS = 1


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Server]:
    """A server with a study for each test, for three readers; the client of the tests is anna's."""
    needs_viewer()
    folder = tmp_path_factory.mktemp("readers")
    studies, users = folder / "studies", folder / "users"
    users.write_text("".join(f"{name}: {token}\n" for name, token in TOKENS.items()))
    phantom.write_phantoms(studies, patients=VERDICTS, seed=7, rows=SHAPE[0], columns=SHAPE[1], truncated_fraction=0)
    shutil.rmtree(studies / "masks")
    server = start_server(studies, bundles, folder, "scoring", "off", "users", str(users), token=TOKENS["anna"])
    yield server
    stop_server(server)


@pytest.fixture(scope="module")
def readers(running: Server) -> Iterator[dict[str, OhifPage]]:
    """The browsers of anna and bert, each logged in."""
    with chromium() as browser:
        pages = {name: OhifPage(browser, running.url) for name in ("anna", "bert")}
        for name, page in pages.items():
            page.page.on("dialog", lambda dialog: dialog.accept())  # that something is not submitted
            log_in(page.page, running, name)
        yield pages
        assert [error for page in pages.values() for error in page.errors] == []


def log_in(tab: Any, server: Server, name: str) -> None:
    """Log in by the form, in a tab."""
    tab.goto(f"{server.url}/login")
    tab.fill("[name=token]", TOKENS[name])
    tab.click("button")
    tab.get_by_text(f"You are {name}").wait_for()


def client_of(server: Server, name: str) -> httpx.Client:
    """A program of a reader's."""
    headers = {"Authorization": f"Bearer {TOKENS[name]}"}
    return httpx.Client(base_url=server.url, timeout=120, trust_env=False, headers=headers)


def judge(server: Server, name: str, image: str, verdict: str) -> None:
    """Save a reader's verdict."""
    with client_of(server, name) as client:
        info = {"info": json.dumps({"quality": verdict})}
        client.put("/datastore/image/info", params={"image": image}, data=info).raise_for_status()


def pressed(reader: OhifPage) -> list[str]:
    """The verdicts that the panel shows as the reader's own."""
    return [key for key in ("complete", "incomplete") if reader.button(key).get_attribute("aria-pressed") == "true"]


def test_the_verdict_of_you_is_the_readers_own(running: Server, readers: dict[str, OhifPage]) -> None:
    where, bert = study(running, VERDICTS), readers["bert"]
    judge(running, "anna", where.ids["RCC"], "incomplete")
    judge(running, "cora", where.ids["RCC"], "incomplete")
    judge(running, "bert", where.ids["LCC"], "complete")
    bert.open(where.uid)
    others = bert.page.locator("mammo-panel .row", has_text="Others")
    bert.choose(where.ids["RCC"])
    assert pressed(bert) == []
    assert others.inner_text().split("\n")[-1] == "anna: incomplete, cora: incomplete"
    bert.press("complete")
    assert pressed(bert) == ["complete"]
    bert.choose(where.ids["LCC"])
    assert pressed(bert) == ["complete"]
    assert others.count() == 0
    bert.open(where.uid)
    bert.choose(where.ids["RCC"])
    assert pressed(bert) == ["complete"], "outvoted, and yet the reader's own"
