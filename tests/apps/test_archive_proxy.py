"""DICOMweb handed on to a real archive: its answers come through, nothing beside its DICOMweb root can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from lib.dicomweb_proxy import install_proxy
from lib.errors import install_error_handlers
from lib.security import install_guard
from lib.users import Users
from starlette.testclient import TestClient

from monai_mammo.dicom.segmentation import write_segmentation

from .conftest import Orthanc, blob, free_port, write_dicom

FRAME = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


def proxied(archive: str) -> TestClient:
    """The gate and the proxy before an archive."""
    app = FastAPI()
    install_proxy(app, archive, None)
    install_guard(app, {}, Users({}))
    install_error_handlers(app)
    return TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 1), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def image(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mammogram that the archive has."""
    path = write_dicom(tmp_path_factory.mktemp("archived") / "image.dcm", blob()[0], patient=83)
    orthanc.store(path)
    return path


@pytest.fixture(scope="module")
def client(orthanc: Orthanc) -> Iterator[TestClient]:
    """A client of the proxy."""
    with proxied(orthanc.url) as opened:
        yield opened


def place_of(path: Path) -> str:
    """Where an object is below the DICOMweb root."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    series = f"/dicomweb/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}"
    return f"{series}/instances/{header.SOPInstanceUID}"


@pytest.mark.slow
def test_searches_keep_their_filters(client: TestClient, image: Path) -> None:
    header = pydicom.dcmread(image)
    found = client.get("/dicomweb/studies", params={"PatientID": header.PatientID, "limit": 5}).json()
    assert [entry["0020000D"]["Value"] for entry in found] == [[header.StudyInstanceUID]]
    assert client.get("/dicomweb/studies", params={"PatientID": "nobody"}).json() == []


@pytest.mark.slow
def test_metadata_get_the_place_in_space_and_addresses_that_lead_through_the_server(
    client: TestClient, orthanc: Orthanc, image: Path
) -> None:
    answer = client.get(f"{place_of(image)}/metadata")
    metadata = answer.json()[0]
    assert metadata["00200032"]["Value"] == [0, 0, 0]
    assert metadata["00280030"]["Value"] == pytest.approx(list(map(float, pydicom.dcmread(image).ImagerPixelSpacing)))
    assert orthanc.url.rpartition("/")[0] not in answer.text
    raw = orthanc.rest.get(f"/dicom-web{place_of(image).removeprefix('/dicomweb')}/metadata").json()[0]
    assert "00200032" not in raw
    assert {tag: entry for tag, entry in metadata.items() if tag == "00100010"} == {"00100010": raw["00100010"]}


@pytest.mark.slow
def test_an_image_with_a_lut_alone_gets_the_window_nearest_to_it(
    client: TestClient, orthanc: Orthanc, tmp_path: Path
) -> None:
    """Orthanc tells the LUT's address, not the LUT; OHIF knows windows alone."""
    path = write_dicom(tmp_path / "lut.dcm", blob()[0], patient=84, voi="LUT")
    orthanc.store(path)
    raw = orthanc.rest.get(f"/dicom-web{place_of(path).removeprefix('/dicomweb')}/metadata").json()[0]
    metadata = client.get(f"{place_of(path)}/metadata").json()[0]
    assert "00281050" not in raw
    assert metadata["00281056"]["Value"] == ["SIGMOID"]
    assert metadata["00281050"]["Value"] == [pytest.approx(1930, abs=5)]
    assert metadata["00281051"]["Value"] == [pytest.approx(1926, abs=5)]


@pytest.mark.slow
def test_pixels_come_through_unchanged(client: TestClient, image: Path) -> None:
    frame = client.get(f"{place_of(image)}/frames/1", headers={"Accept": FRAME})
    stored = pydicom.dcmread(image)
    assert frame.headers["content-type"].startswith("multipart/related")
    assert stored.pixel_array.astype("<u2").tobytes() in frame.content


@pytest.mark.slow
def test_a_segmentation_can_be_stored(client: TestClient, orthanc: Orthanc, image: Path, tmp_path: Path) -> None:
    write_segmentation(tmp_path / "seg.dcm", image, {"tumour": blob()[1].astype(np.uint8)})
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + (tmp_path / "seg.dcm").read_bytes() + b"\r\n--b--"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    assert client.post("/dicomweb/studies", content=body, headers=headers).status_code == 200
    assert len(orthanc.segmentations(PatientID=str(pydicom.dcmread(image).PatientID))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "../patients", "..%2fpatients", "%2e%2e/patients", "%2e%2e%2fsystem", "studies/../../system",
        "studies/%2e%2e/x", "studies//1.2", "",
        "studies/..;/system", "studies/...", "patients", "system", "servers", "http://127.0.0.1/x", "//127.0.0.1/x",
        "studies/1.2/../../../tools/find", "studies?x#/../system", "studies/1.2%3f/", "studies/1.2/%23",
    ],
)  # fmt: skip
def test_nothing_beside_the_dicomweb_root_is_reached(client: TestClient, path: str) -> None:
    answer = client.get(f"/dicomweb/{path}")
    if path.startswith("studies?"):
        assert answer.status_code in (200, 400)
        assert "DicomAet" not in answer.text
    else:
        assert answer.status_code in (400, 404)
        assert answer.json()["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
def test_nothing_is_deleted_or_changed(client: TestClient, image: Path, method: str) -> None:
    assert client.request(method, place_of(image)).status_code == 405
    assert client.post(place_of(image)).status_code == 404
    assert client.get(f"{place_of(image)}/metadata").status_code == 200


def test_an_archive_that_is_down_is_named_as_the_reason() -> None:
    with proxied(f"http://127.0.0.1:{free_port()}/dicom-web") as client:
        answer = client.get("/dicomweb/studies")
    assert answer.status_code == 502
    assert "archive" in answer.json()["reason"]


def answered_by(archive: FastAPI, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The proxy before an application that stands for an archive."""
    import httpx
    from lib import dicomweb_proxy

    class Inside(httpx.AsyncClient):
        """Asks the application instead of a network."""

        def __init__(self, **settings: object) -> None:
            super().__init__(transport=httpx.ASGITransport(archive))

    monkeypatch.setattr(dicomweb_proxy.httpx, "AsyncClient", Inside)
    return proxied("http://archive.example.org/archive")


def test_what_an_archive_answers_is_not_followed_and_the_browsers_secrets_stay_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, str]] = []
    archive = FastAPI()

    @archive.get("/archive/studies")
    def studies(request: Request) -> JSONResponse:
        seen.append(dict(request.headers))
        return JSONResponse([], headers={"Set-Cookie": "a=b", "Connection": "close", "X-Own": "1"})

    @archive.get("/archive/series")
    def series() -> RedirectResponse:
        return RedirectResponse("http://127.0.0.1:9/elsewhere")

    with answered_by(archive, monkeypatch) as client:
        answer = client.get("/dicomweb/studies", headers={"Cookie": "mammo=x", "Authorization": "Bearer x"})
        assert client.get("/dicomweb/series").status_code == 502
    assert not {"cookie", "authorization"} & set(seen[0])
    assert not {"set-cookie", "x-own"} & set(answer.headers)


def test_an_archive_gets_every_line_of_what_a_client_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    archive, asked = FastAPI(), []

    @archive.get("/archive/studies")
    def studies(request: Request) -> JSONResponse:
        asked.append(request.headers.getlist("accept"))
        return JSONResponse([])

    with answered_by(archive, monkeypatch) as client:
        client.get("/dicomweb/studies", headers=[("Accept", "a/b"), ("Accept", "c/d, e/f")]).raise_for_status()
    assert asked == [["a/b, c/d, e/f"]]
