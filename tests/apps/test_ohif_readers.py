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
import numpy as np
import pytest
from PIL import Image

from monai_mammo.datasets import phantom

from .conftest import Server, start_server, stop_server
from .ohif_page import OhifPage, chromium
from .ohif_studies import SHAPE, row_of, saved_mask, study

pytestmark = pytest.mark.slow

TOKENS = {"anna": "annas-token-0123456789", "bert": "berts-token-0123456789", "cora": "coras-token-0123456789"}
VERDICTS, SECOND_READER, OTHER_TAB, FINDINGS = range(1, 5)


@pytest.fixture(scope="module")
def running(viewer: None, tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Server]:
    """A server with a study for each test, for three readers; the client of the tests is anna's."""
    folder = tmp_path_factory.mktemp("readers")
    studies, users = folder / "studies", folder / "users"
    users.write_text("".join(f"{name}: {token}\n" for name, token in TOKENS.items()))
    phantom.write_phantoms(studies, patients=FINDINGS, seed=7, rows=SHAPE[0], columns=SHAPE[1], truncated_fraction=0)
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


def submit(server: Server, name: str, image: str, mask: np.ndarray, folder: Path, **params: Any) -> None:
    """Save a reader's final label."""
    file = folder / "label.png"
    Image.fromarray(mask).save(file)
    with client_of(server, name) as client:
        sent = {"label": (file.name, file.read_bytes())}
        said = {"params": json.dumps(params)}
        client.put("/datastore/label", params={"image": image}, data=said, files=sent).raise_for_status()


def case_in_words(reader: OhifPage) -> str:
    """How much of the case is done, as the panel says it."""
    return str(reader.page.locator("mammo-panel section", has_text="Case").first.locator(".aside").inner_text())


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


def test_what_another_submitted_is_the_readers_own_only_once_he_submits_it(
    running: Server, readers: dict[str, OhifPage], tmp_path: Path
) -> None:
    where, bert = study(running, SECOND_READER), readers["bert"]
    mask = np.zeros(SHAPE, np.uint8)
    mask[100:130, 60:90] = 1
    for view in ("RCC", "LCC", "RMLO"):
        submit(running, "anna", where.ids[view], mask, tmp_path)
    bert.open(where.uid)
    assert "by anna" in bert.image_state(where.ids["RCC"])
    assert case_in_words(bert) == "0 of 4 done, 3 by others"
    bert.choose(where.ids["RMLO"])
    bert.press("brush")
    bert.drag(where.sops["RMLO"], (200, 200), (210, 220))
    bert.idle()
    bert.press("submit-all")
    assert {view: row_of(running, where, view)["readers"] for view in where.ids} == {
        "RCC": ["anna"],
        "LCC": ["anna"],
        "RMLO": ["bert", "anna"],
        "LMLO": ["bert"],
    }
    assert case_in_words(bert) == "2 of 4 done, 2 by others"
    assert "done, by others: R CC, L CC" in bert.notice()
    bert.choose(where.ids["RCC"])
    np.testing.assert_array_equal(bert.labelmap(where.ids["RCC"], SHAPE), mask)
    bert.press("submit")
    assert row_of(running, where, "RCC")["readers"] == ["bert", "anna"]
    assert "submitted" in bert.image_state(where.ids["RCC"])
    assert case_in_words(bert) == "3 of 4 done, 1 by others"


def test_a_case_that_another_has_in_hand_says_so_to_everybody_else(
    running: Server, readers: dict[str, OhifPage]
) -> None:
    where = study(running, VERDICTS)
    judge(running, "anna", where.ids["LCC"], "complete")
    for name, said in (("bert", 1), ("anna", 0)):
        reader = readers[name]
        reader.open(where.uid)
        told = reader.page.locator("mammo-panel .notice", has_text="anna has this case in hand")
        assert told.count() == said, name
    readers["bert"].button("close").click()
    readers["bert"].page.locator("mammo-panel .notice").wait_for(state="detached")


def test_a_page_saves_nothing_under_the_name_of_who_logged_in_since(
    running: Server, readers: dict[str, OhifPage], tmp_path: Path
) -> None:
    where, anna = study(running, OTHER_TAB), readers["anna"]
    image = where.ids["RCC"]
    anna.open(where.uid)
    assert "Reader: anna" in anna.page.locator("mammo-panel footer").inner_text()
    anna.choose(image)
    anna.press("brush")
    anna.drag(where.sops["RCC"], (150, 190), (165, 210))
    anna.idle()
    drawn = anna.labelmap(image, SHAPE)
    assert drawn.any()
    with anna.page.context.expect_page() as opened:
        anna.page.evaluate("window.open('/login')")
    tab = opened.value
    log_in(tab, running, "bert")
    for key in ("submit", "complete"):
        anna.press(key)
        assert "this page was opened by anna" in anna.notice()
    row = row_of(running, where, "RCC")
    assert (row["readers"], row["verdicts"]) == ([], {})
    assert "unsaved" in anna.image_state(image)
    assert pressed(anna) == []
    np.testing.assert_array_equal(anna.labelmap(image, SHAPE), drawn)
    log_in(tab, running, "anna")
    tab.close()
    anna.press("submit")
    assert row_of(running, where, "RCC")["readers"] == ["anna"]
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image), drawn)


def test_what_a_label_holds_beside_tumours_is_named_and_stays_when_its_reader_submits(
    running: Server, readers: dict[str, OhifPage], tmp_path: Path
) -> None:
    where = study(running, FINDINGS)
    image, sop = where.ids["RCC"], where.sops["RCC"]
    mask = np.zeros(SHAPE, np.uint8)
    mask[100:130, 60:90], mask[200:210, 60:70] = 1, 2
    names = [{"name": "tumour", "idx": 1}, {"name": "calcification", "idx": 2}]
    submit(running, "anna", image, mask, tmp_path, label_info=names)
    for name, said in (("bert", "Not shown, not taken over: "), ("anna", "Not shown, stays in your label: ")):
        reader = readers[name]
        reader.open(where.uid)
        reader.choose(image)
        assert reader.page.locator("mammo-panel .unseen").inner_text() == f"{said}calcification"
        np.testing.assert_array_equal(reader.labelmap(image, SHAPE), mask == 1)
    anna = readers["anna"]
    anna.press("submit")
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image), mask)
    anna.choose(image)
    anna.press("brush")
    anna.drag(sop, (150, 190), (165, 210))
    anna.idle()
    drawn = anna.labelmap(image, SHAPE)
    anna.press("submit")
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image), np.where(mask == 2, 2, drawn))
    assert row_of(running, where, "RCC")["revision"] == 3
    bert = readers["bert"]
    bert.open(where.uid)
    bert.choose(image)
    bert.press("submit")
    bert.choose(image)
    assert bert.page.locator("mammo-panel .unseen").count() == 0
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image), drawn)
