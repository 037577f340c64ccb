"""OHIF's files: how they are fetched, and what of them is served."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import tarfile
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from .conftest import APP

DIGEST = "app.bundle.0123456789abcdef.js"


@pytest.fixture(scope="module")
def fetch() -> ModuleType:
    """The script that fetches OHIF."""
    spec = importlib.util.spec_from_file_location("ohif_fetch", APP / "ohif" / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder such as an OHIF build is."""
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<title>the viewer</title>")
    (folder / DIGEST).write_text("the application")
    (folder / f"{DIGEST}.gz").write_bytes(gzip.compress(b"the application"))
    (folder / "assets" / "icon.svg").write_text("<svg/>")
    (folder / "app-config.js").write_text("OHIF's own")
    (folder / "init-service-worker.js").write_text("importScripts('https://elsewhere')")
    (tmp_path / "secret.txt").write_text("nothing for the web")
    return folder


@pytest.fixture
def client(build: Path) -> TestClient:
    """A server with such a build, and with a route that answers /ohif and anything at the root otherwise."""
    viewer = pytest.importorskip("lib.viewer")
    server = FastAPI()

    @server.get("/ohif/{path:path}")
    def former(path: str) -> str:
        return "MONAI Label's"

    @server.get("/info/")
    def info() -> str:
        return "info"

    viewer.install(server, str(build))
    return TestClient(server)


def test_the_viewer_is_served_with_our_configuration_and_modules(client: TestClient) -> None:
    for path in ("/ohif/", "/ohif/mammo?StudyInstanceUIDs=1.2.3"):
        assert client.get(path).text == "<title>the viewer</title>"
    for path in ("/app-config.js", "/ohif/app-config.js"):
        assert "/mammo/extension.js" in client.get(path).text
    module = client.get("/mammo/extension.js")
    assert module.headers["content-type"].startswith("text/javascript")
    assert client.get("/assets/icon.svg").text == "<svg/>"
    assert client.get("/info/").json() == "info"


def test_no_service_worker_of_another_site_is_installed(client: TestClient) -> None:
    for path in ("/init-service-worker.js", "/ohif/init-service-worker.js"):
        assert "https:" not in client.get(path).text


def test_what_never_changes_is_kept_by_the_browser_and_comes_compressed(client: TestClient) -> None:
    for path in (f"/{DIGEST}", f"/ohif/{DIGEST}"):
        answer = client.get(path, headers={"accept-encoding": "gzip"})
        assert answer.text == "the application"
        assert answer.headers["content-encoding"] == "gzip"
        assert "immutable" in answer.headers["cache-control"]
        plain = client.get(path, headers={"accept-encoding": "identity"})
        assert plain.text == "the application"
        assert "content-encoding" not in plain.headers
    assert client.get("/ohif/").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/ohif/../secret.txt",
        "/ohif/%2e%2e/secret.txt",
        "/ohif/..%2fsecret.txt",
        "/ohif//etc/hostname",
        "/assets/..%2f..%2fsecret.txt",
        "/assets/%2e%2e/%2e%2e/secret.txt",
        "/mammo/..%2flib%2fviewer.js",
        "/mammo/fetch.py",
        "/secret.txt",
    ],
)
def test_nothing_beside_the_viewer_is_served(client: TestClient, path: str) -> None:
    answer = client.get(httpx.URL(f"http://testserver{path}"))
    assert "nothing for the web" not in answer.text
    assert answer.status_code == 404 or answer.text in ("<title>the viewer</title>", "MONAI Label's")


def test_a_folder_that_holds_no_viewer_is_refused(tmp_path: Path) -> None:
    viewer = pytest.importorskip("lib.viewer")
    with pytest.raises(ValueError, match=r"holds no index\.html"):
        viewer.find_viewer(str(tmp_path))


def test_without_a_fetched_viewer_the_one_inside_monai_label_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = pytest.importorskip("lib.viewer")
    monkeypatch.setattr(viewer, "FETCHED", tmp_path / "nothing")
    assert (viewer.find_viewer() / "index.html").is_file()
    assert "ohif/fetch.py" in caplog.text


def test_the_older_viewer_says_that_the_mode_is_missing_and_opens_its_studies_all_the_same() -> None:
    viewer = pytest.importorskip("lib.viewer")
    server = FastAPI()
    viewer.install(server, str(viewer.BUILT_IN))
    client = TestClient(server)
    for path in ("/app-config.js", "/ohif/app-config.js"):
        config = client.get(path).text
        assert config.index("/mammo/mode.js") < config.index("modes: []")
        assert "ohif/fetch.py" in config
    answer = client.get("/ohif/mammo?StudyInstanceUIDs=1.2.3", follow_redirects=False)
    assert answer.headers["location"] == "/ohif/viewer?StudyInstanceUIDs=1.2.3"
    assert "<title>OHIF Viewer</title>" in client.get("/ohif/viewer?StudyInstanceUIDs=1.2.3").text


def package(files: dict[str, bytes]) -> bytes:
    """An npm package of these files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def npm_that_gives(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an `npm` on the path that packs this content."""
    (folder / "content").write_bytes(content)
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\ncp '{folder}/content' package.tgz\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_only_what_is_needed_is_unpacked_and_nothing_outside(fetch: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "package.tgz"
    archive.write_bytes(
        package(
            {
                "package/dist/index.html": b"<html>" * 300,
                "package/dist/ort/large.wasm": b"x",
                "package/dist/assets/icon.svg": b"<svg/>",
                "package/dist/../../escaped.js": b"x",
                "package/LICENSE": b"MIT",
                "package/README.md": b"x",
            }
        )
    )
    folder = tmp_path / "ohif"
    fetch.unpack(archive, folder)
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert files == {"index.html", "index.html.gz", "assets/icon.svg", "LICENSE", "VERSION"}
    assert gzip.decompress((folder / "index.html.gz").read_bytes()) == b"<html>" * 300
    assert not (tmp_path / "escaped.js").exists()


def test_another_package_than_the_pinned_one_changes_nothing(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npm_that_gives(tmp_path, package({"package/dist/index.html": b"forged"}), monkeypatch)
    folder = tmp_path / "share" / "ohif"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("former")
    monkeypatch.setattr("sys.argv", ["fetch.py", str(folder)])
    assert fetch.main() == 1
    said = capsys.readouterr().err
    assert "SHA-512" in said
    assert "older OHIF inside MONAI Label" in said
    assert (folder / "index.html").read_text() == "former"
    assert [entry.name for entry in folder.parent.iterdir()] == ["ohif"]
