"""The list of routes: what does not work here is not in it, and it can be read on a telephone."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.pages import install_pages
from lib.users import Users

from .ohif_page import chromium

LONGEST = "/dicomweb/studies/{study}/series/{series}/instances/{sop}/frames/{number}/thumbnail"


@pytest.fixture
def client() -> TestClient:
    """A server with a route as MONAI Label declares its own, and the longest there is."""
    server = FastAPI(docs_url=None)

    @server.post("/batch/infer/{model}", summary="Run <it>")
    def batch(model: str, images: str = "", run_sync: bool = False, token: str = "") -> None:
        """Nothing."""

    @server.get(LONGEST)
    def thumbnail(study: str, series: str, sop: str, number: int, check_if_running: bool = False) -> None:
        """Nothing."""

    install_pages(server, Users({}))
    return TestClient(server)


def test_parameters_that_do_not_work_here_are_not_offered(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "Run &lt;it&gt;" in page
    assert "<code>images</code>" in page
    named = {
        parameter["name"]
        for methods in client.get("/openapi.json").json()["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
    }
    assert named == {"model", "images", "study", "series", "sop", "number", "check_if_running"}
    assert "token" not in page
    assert "run_sync" not in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1366])
def test_the_list_of_routes_fits_the_window(client: TestClient, width: int) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 768})
        page.set_content(client.get("/docs").text)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ends = page.evaluate("[...document.querySelectorAll('td, td *')].map(e => e.getBoundingClientRect().right)")
        assert max(ends) <= width
        query = page.locator("td:last-child code", has_text="check_if_running")
        assert query.bounding_box()["height"] < 30  # one line
