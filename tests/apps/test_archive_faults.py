"""An archive, or what stands before it, that misbehaves: nothing is lost, and nothing is taken for what it is not."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import pytest
import requests
from lib.ahead import decode
from lib.archive import Archive
from lib.errors import RequestRefused
from lib.names import is_uid
from pydicom.uid import generate_uid
from requests.adapters import HTTPAdapter

from .archives import Open, delivered, label, mammogram, uid_of, wait_until
from .conftest import Orthanc, blob

Answers = Callable[..., list[str]]
BROKEN_OFF = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nContent-Length: 4711\r\n\r\n[{"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Have something before the archive answer requests of a method and to paths that end so in its place.

    They do not come to the archive, unless they `reach` it, and only its answer does not come back.
    The list that is returned gets their addresses.
    """

    def given(
        method: str, end: str, status: int, content: bytes = b"", kind: str = "text/html", reach: bool = False
    ) -> list[str]:
        send, asked = HTTPAdapter.send, []

        def answer(self: HTTPAdapter, request: Any, *args: Any, **kwargs: Any) -> Any:
            concerned = request.method == method and urlsplit(request.url).path.endswith(end)
            if reach or not concerned:
                response = send(self, request, *args, **kwargs)
            if concerned:
                asked.append(str(request.url))
                response = requests.Response()
                response.status_code, response._content, response.url = status, content, request.url
                response.headers.update({"Content-Type": kind, "Content-Length": str(len(content))})
            return response

        monkeypatch.setattr(HTTPAdapter, "send", answer)
        return asked

    return given


@pytest.fixture
def break_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes], None]]:
    """Have the connection closed after so much of the answer to requests of paths that end so."""
    send, broken = HTTPAdapter.send, socket.create_server(("127.0.0.1", 0))

    def serve(content: bytes) -> None:
        with suppress(OSError):  # the test is over
            while True:
                with broken.accept()[0] as connection:
                    connection.recv(2**16)
                    connection.sendall(content)

    def given(end: str, content: bytes) -> None:
        def redirected(self: HTTPAdapter, request: Any, *args: Any, **kwargs: Any) -> Any:
            if urlsplit(request.url).path.endswith(end):
                request.url = f"http://127.0.0.1:{broken.getsockname()[1]}/"
            return send(self, request, *args, **kwargs)

        monkeypatch.setattr(HTTPAdapter, "send", redirected)
        threading.Thread(target=serve, args=(content,), daemon=True).start()

    yield given
    broken.shutdown(socket.SHUT_RDWR)
    broken.close()


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [(200, b"<html>Sign in", "text/html"), (200, b"{}", "application/json"), (200, b"", "text/plain"), (204, b"", "")],
)
def test_a_label_that_the_archive_does_not_confirm_waits(
    orthanc: Orthanc,
    open_store: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answers: Answers,
    status: int,
    content: bytes,
    kind: str,
) -> None:
    file = mammogram(tmp_path / "image.dcm", 22, StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid())
    study = pydicom.dcmread(file).StudyInstanceUID
    orthanc.store(file)
    store = open_store(22)
    answers("POST", "/studies", status, content, kind)
    store.save_label(uid_of(file), label(tmp_path / "label.nrrd", blob()[1]), "final", {})
    wait_until(lambda: "a label waits to be delivered: the archive did not confirm" in caplog.text)
    assert store.status()["labels_to_deliver"] == 1
    monkeypatch.undo()
    delivered(store)
    assert len(orthanc.segmentations(StudyInstanceUID=study)) == 1


@pytest.mark.parametrize(("status", "kind"), [(200, "text/plain"), (409, "application/dicom+json")])
def test_a_label_that_the_archive_has_is_delivered_whatever_it_answers(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, answers: Answers, status: int, kind: str
) -> None:
    file = mammogram(tmp_path / "image.dcm", 23, StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid())
    orthanc.store(file)
    store = open_store(23)
    answers("POST", "/studies", status, kind=kind, reach=True)
    store.save_label(uid_of(file), label(tmp_path / "label.nrrd", blob()[1]), "final", {})
    delivered(store)
    assert len(orthanc.segmentations(StudyInstanceUID=pydicom.dcmread(file).StudyInstanceUID)) == 1


MULTIPART = 'multipart/related; type="application/dicom"; boundary=b'
PART = b"--b\r\nContent-Type: application/dicom\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html>Maintenance", "text/html"),
        (b"--b--", MULTIPART),
        (PART + b"<html>Maintenance\r\n--b--", MULTIPART),
        (PART + bytes(128) + b"DICM" + bytes(9), MULTIPART),  # it breaks off
    ],
)
def test_an_image_is_asked_for_again_after_an_answer_without_one(
    orthanc: Orthanc,
    open_store: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: Answers,
    content: bytes,
    kind: str,
) -> None:
    file = mammogram(tmp_path / "image.dcm", 24)
    orthanc.store(file)
    store, image_id = open_store(24), uid_of(file)
    answers("GET", image_id, 200, content, kind)
    with pytest.raises(RequestRefused, match="no DICOM object") as refused:
        store.readable_image(image_id)
    assert refused.value.status == 502
    monkeypatch.undo()
    assert store.readable_image(image_id).read_bytes() == file.read_bytes()


def test_an_image_that_is_sent_as_it_is_without_a_multipart_body_is_taken(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, answers: Answers
) -> None:
    file = mammogram(tmp_path / "image.dcm", 25)
    orthanc.store(file)
    store = open_store(25)
    answers("GET", uid_of(file), 200, file.read_bytes(), "application/dicom")
    assert store.readable_image(uid_of(file)).read_bytes() == file.read_bytes()


def test_a_damaged_dicom_object_is_listed_as_unreadable(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, answers: Answers
) -> None:
    file = mammogram(tmp_path / "image.dcm", 26)
    orthanc.store(file)
    store, image_id = open_store(26), uid_of(file)
    answers("GET", image_id, 200, PART + file.read_bytes()[:300] + b"\r\n--b--", MULTIPART)
    with pytest.raises(RequestRefused) as refused:
        decode(store, image_id)
    assert refused.value.status == 422
    assert [entry["file"] for entry in store.unreadable_images()] == [image_id]


@pytest.mark.parametrize("answer", [b"<html>", b"[{}]", b'[{"00080018": {"vr": "UI", "Value": ["../../x"]}}]', None])
def test_a_series_of_which_the_archive_talks_nonsense_is_listed_as_unreadable(
    orthanc: Orthanc,
    open_store: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: Answers,
    answer: bytes | None,
) -> None:
    files = [mammogram(tmp_path / f"{number}.dcm", 20, SeriesInstanceUID=f"1.2.20.{number}") for number in range(2)]
    for file in files:
        orthanc.store(file)
    answers("GET", "/series/1.2.20.0/metadata", *((200, answer) if answer else (500,)), kind="application/dicom+json")
    store = open_store(20)
    known = {image.series for image in store.index.images().values() if not image.problem}
    assert "1.2.20.1" in known
    assert "1.2.20.0" not in known
    assert len(store.unreadable_images()) == 1
    assert all(is_uid(image_id) or re.fullmatch("[0-9a-f]{16}", image_id) for image_id in store.index.images())
    monkeypatch.undo()
    if answer is None:  # a fault that passes
        store.index.refresh()
        assert store.unreadable_images() == []


def test_what_an_archive_tells_between_refusals_is_listed_and_the_rest_later(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Answers
) -> None:
    files = [mammogram(tmp_path / f"{number}.dcm", 27, SeriesInstanceUID=f"1.2.27.{number}") for number in range(12)]
    orthanc.store(*files)
    answers("GET", "1/metadata", 503)  # of series 1 and 11
    store = open_store(27)
    assert len(store.list_images()) == 10
    assert store.unreadable_images() == []
    assert "status 503" in str(store.status()["origin_problem"])
    monkeypatch.undo()
    answers("GET", "/1.2.27.0/metadata", 200)  # which has been read
    orthanc.store(mammogram(tmp_path / "new.dcm", 27, SeriesInstanceUID="1.2.27.0"))
    store.index.refresh()
    assert set(store.list_images()) == set(map(uid_of, files))
    assert "no image" in str(store.status()["origin_problem"])
    monkeypatch.undo()
    store.index.refresh()
    assert len(store.list_images()) == 13
    assert store.status()["origin_problem"] is None


def test_an_archive_that_refuses_every_series_is_asked_about_a_few_at_a_time_and_not_the_same_ones(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Answers
) -> None:
    series = [f"1.2.28.{number}" for number in range(20)]
    orthanc.store(*[mammogram(tmp_path / f"{uid}.dcm", 28, SeriesInstanceUID=uid) for uid in series])
    asked = answers("GET", "/metadata", 503)
    store = open_store(28)
    assert 1 <= len(asked) < 20
    store.index.refresh()
    store.index.refresh()
    assert len(set(asked)) == 20


def test_pages_that_bring_nothing_new_end_a_list(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, answers: Answers
) -> None:
    file = mammogram(tmp_path / "image.dcm", 31)
    orthanc.store(file)
    store = open_store(31)
    found = orthanc.rest.get("/dicom-web/series", params={"PatientID": "PHANTOM0031"}).content
    asked = answers("GET", "/series", 200, found, "application/dicom+json")  # whatever offset is asked for
    store.index.refresh()
    assert len(asked) == 2
    assert store.list_images() == [uid_of(file)]


@pytest.mark.parametrize("content", [b"{}", b'["odd"]'])
def test_a_list_of_what_are_no_series_takes_no_image_from_the_list(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, answers: Answers, content: bytes
) -> None:
    file = mammogram(tmp_path / "image.dcm", 32)
    orthanc.store(file)
    store = open_store(32)
    before = store.list_images()
    answers("GET", "/series", 200, content, "application/json")
    store.index.refresh()
    assert store.list_images() == before
    assert "cannot be understood" in str(store.status()["origin_problem"])


@pytest.mark.parametrize("length", [17, 20, 40, 70, len(BROKEN_OFF)])
def test_a_list_that_breaks_off_takes_no_image_from_the_list(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, break_off: Callable[[str, bytes], None], length: int
) -> None:
    file = mammogram(tmp_path / "image.dcm", 33)
    orthanc.store(file)
    store = open_store(33)
    before = store.list_images()
    break_off("/series", BROKEN_OFF[:length])
    store.index.refresh()
    assert store.list_images() == before
    assert "does not answer" in str(store.status()["origin_problem"])


@pytest.mark.parametrize(
    "header", [b"204 No Content", b"200 OK\r\nContent-Length: 0", b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0"]
)
def test_a_list_that_is_empty_and_complete_is_taken(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, break_off: Callable[[str, bytes], None], header: bytes
) -> None:
    orthanc.store(mammogram(tmp_path / "image.dcm", 36))
    store = open_store(36)
    break_off("/series", b"HTTP/1.1 " + header + b"\r\n\r\n")
    store.index.refresh()
    assert store.list_images() == []
    assert store.status()["origin_problem"] is None


def test_a_series_of_which_the_answer_breaks_off_is_listed_later_and_not_to_blame(
    orthanc: Orthanc,
    open_store: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_off: Callable[[str, bytes], None],
) -> None:
    file = mammogram(tmp_path / "image.dcm", 34)
    orthanc.store(file)
    break_off("/metadata", BROKEN_OFF)
    store = open_store(34)
    assert store.index.images() == {}
    assert "does not answer" in str(store.status()["origin_problem"])
    monkeypatch.undo()
    store.index.refresh()
    assert store.list_images() == [uid_of(file)]


def test_many_who_ask_for_what_is_not_there_ask_a_slow_archive_once_and_do_not_wait_for_it(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, file, scan = open_store(35), mammogram(tmp_path / "image.dcm", 35), Archive.scan
    orthanc.store(file)
    scans, answer = [], threading.Event()

    def slow(self: Archive, known: Any) -> Any:
        scans.append(known)
        assert answer.wait(10)
        monkeypatch.setattr(Archive, "rescan_seconds", 60.0)
        return scan(self, known)

    monkeypatch.setattr(Archive, "scan", slow)
    monkeypatch.setattr(Archive, "rescan_seconds", 0.0)
    monkeypatch.setattr("lib.index._PATIENCE", 0.2)
    with ThreadPoolExecutor(4) as threads:
        for asked in [threads.submit(store.image, "1.2.3.4") for _ in range(4)]:
            assert isinstance(asked.exception(20), RequestRefused)
    answer.set()
    wait_until(lambda: store.list_images() == [uid_of(file)])
    assert len(scans) == 1
