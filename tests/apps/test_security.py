"""The gate of the server: who comes in, from where, with what; tokens, cookies, pages of other sites, and the logs."""

from __future__ import annotations

import asyncio
import errno
import http.client
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import AsyncMock
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from lib import binding, security
from lib.activity import person
from lib.binding import choose_interface
from lib.errors import install_error_handlers
from lib.files import DamagedRecord
from lib.logs import NoMessage, OnceAMinute, ShortPath, keep_patients_out_of_logs, without_messages
from lib.pages import install_pages
from lib.security import install_guard
from lib.users import ANYBODY, COOKIE_SECONDS, Users, current_user, read_users
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from .conftest import Server, blob, free_port, start_server, stop_server, write_dicom, write_png
from .ohif_page import chromium

TOKENS = {"anna": "0123456789abcdef-anna", "bert": "0123456789abcdef-bert"}
BEARER = {"Authorization": f"Bearer {TOKENS['anna']}"}


def guarded(
    users: dict[str, str] | None = None, client: str = "127.0.0.1", host: str = "127.0.0.1", **conf: str
) -> TestClient:
    """A small application behind the gate, asked by a client at an address under a host name."""
    app, known = FastAPI(), Users(users or {})

    @app.get("/who")
    def who() -> str:
        return current_user.get()

    @app.get("/named")
    def named() -> str:
        return person({"client_id": "eve"})

    @app.put("/session/")
    @app.put("/datastore/label/info")
    @app.post("/change")
    async def change(request: Request) -> int:
        return len(await request.body())

    @app.get("/fail")
    def fail() -> None:
        raise OSError("the patient's name")

    @app.get("/fail/record")
    def fail_on_record() -> None:
        raise DamagedRecord(Path("/srv/labels/final/a.json"), "the patient's name")

    @app.get("/fail/{number}")
    def fail_on_disk(number: int) -> None:
        raise OSError(number, os.strerror(number), "the patient's name")

    install_pages(app, known)
    install_guard(app, conf, known)
    install_error_handlers(app)
    return TestClient(
        app, base_url=f"http://{host}", client=(client, 50000), raise_server_exceptions=False, follow_redirects=False
    )


def test_without_tokens_this_machine_alone_is_served() -> None:
    assert guarded().get("/who").json() == "annotator"
    assert guarded(client="::1", host="[::1]:8000").get("/who").status_code == 200
    assert guarded(host="localhost:8000").get("/who").status_code == 200
    refused = guarded(client="192.168.1.7").get("/who")
    assert refused.status_code == 403
    assert refused.json()["reason"]
    assert refused.json()["remedy"]


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.org", "localhost.evil.org:8000", "192.168.1.7"])
def test_a_rebound_name_is_refused(host: str) -> None:
    assert guarded(host=host).get("/who").status_code == 403


@pytest.mark.parametrize("path", ["/who", "/openapi.json", "/docs", "/", "/nothing", "/auth/token/valid"])
def test_with_tokens_nothing_is_served_without_one(path: str) -> None:
    client = guarded(TOKENS, client="192.168.1.7", host="server.example.org")
    refused = client.get(path)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert client.get(path, headers={"Authorization": "Bearer 0123456789abcdef-eve"}).status_code == 401
    assert client.get(path, headers={"Authorization": "Basic YTpi"}).status_code == 401
    assert client.get(path, headers=BEARER).status_code == (404 if path == "/nothing" else 200)


def test_a_page_that_another_person_opened_is_refused() -> None:
    client = guarded(TOKENS)
    page = {"Mammo-Reader": "bert"}
    refused = client.post("/change", headers={**BEARER, **page})
    assert refused.status_code == 409
    assert refused.json()["reason"] == "this page was opened by bert"
    assert client.post("/change", headers={"Authorization": f"Bearer {TOKENS['bert']}", **page}).status_code == 200
    assert guarded().post("/change", headers=page).status_code == 409, "opened while readers had names"
    assert guarded().post("/change", headers={"Mammo-Reader": "annotator"}).status_code == 200


def test_each_token_names_its_user() -> None:
    client = guarded(TOKENS)
    for name, token in TOKENS.items():
        assert client.get("/who", headers={"Authorization": f"Bearer {token}"}).json() == name


def test_one_token_that_all_share_does_not_say_who_they_are() -> None:
    """3D Slicer's client does, so that two readers get two cases."""
    (name, token), *_ = TOKENS.items()
    bearer = {"Authorization": f"Bearer {token}"}
    assert guarded({ANYBODY: token}).get("/named", headers=bearer).json() == "eve"
    assert guarded({ANYBODY: "another-token-of-16", name: token}).get("/named", headers=bearer).json() == name


def test_a_browser_is_led_to_the_login_and_back_and_its_cookie_is_not_for_scripts() -> None:
    client = guarded(TOKENS)
    led = client.get("/who?StudyInstanceUIDs=1.2&b=%25", headers={"Accept": "text/html"})
    assert (led.status_code, led.headers["location"]) == (303, "/login?next=/who%3FStudyInstanceUIDs%3D1.2%26b%3D%2525")
    assert 'value="/who?StudyInstanceUIDs=1.2&amp;b=%25"' in client.get(led.headers["location"]).text
    assert client.post("/login", data={"token": "wrong", "next": "/who"}).status_code == 401
    entered = client.post("/login", data={"token": TOKENS["bert"], "next": "/who"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/who")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKENS["bert"] not in cookie
    assert client.get("/who").json() == "bert"
    client.get("/logout")
    assert client.get("/who").status_code == 401


@pytest.mark.parametrize(
    "place", ["https://evil.org", "//evil.org", "/\\evil.org", "javascript:alert(1)", "/a\r\nX: y", "/\t/evil.org"]
)
def test_the_login_leads_nowhere_else(place: str) -> None:
    entered = guarded(TOKENS).post("/login", data={"token": TOKENS["anna"], "next": place})
    assert entered.headers["location"] == "/"
    assert "evil" not in guarded(TOKENS).get("/login", params={"next": re.sub(r"[\r\n\t]", "", place)}).text


@pytest.mark.parametrize("target", ["//evil.org", "//evil.org/?a=b", "/%2Fevil.org", "/%5Cevil.org", "/%252Fevil.org"])
def test_an_address_that_means_another_site_is_not_gone_back_to_after_the_login(target: str) -> None:
    led = guarded(TOKENS).get(httpx.URL(f"http://127.0.0.1{target}"), headers={"Accept": "text/html"})
    place = parse_qs(urlsplit(led.headers.get("location", "")).query).get("next", ["/"])[0]
    entered = guarded(TOKENS).post("/login", data={"token": TOKENS["anna"], "next": place})
    assert entered.headers["location"] == "/"


def test_a_cookie_cannot_be_forged_prolonged_or_kept_after_the_token_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users(TOKENS)
    cookie = users.cookie("anna")
    name, until, seal = cookie.split(".")
    assert users.by_cookie(cookie) == "anna"
    for forged in (f"bert.{until}.{seal}", f"{name}.{int(until) + 1}.{seal}", f"{name}.{until}.", "anna", "", "a.b.c"):
        assert users.by_cookie(forged) is None
    assert Users({"anna": "another-token-of-hers"}).by_cookie(cookie) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + COOKIE_SECONDS + 1)
    assert users.by_cookie(cookie) is None, "expired"


def test_3d_slicer_gets_its_token_by_its_own_routes() -> None:
    client = guarded(TOKENS)
    assert client.get("/auth/").json()["enabled"] is True
    assert guarded().get("/auth/").json()["enabled"] is False
    given = client.post("/auth/token", data={"username": "anna", "password": TOKENS["anna"], "grant_type": "password"})
    assert given.json() == {"access_token": TOKENS["anna"], "token_type": "Bearer"}
    assert client.get("/auth/token/valid", headers=BEARER).json() == {"username": "anna"}
    assert client.post("/auth/token", data={"username": "bert", "password": TOKENS["anna"]}).status_code == 401
    for_all = guarded({ANYBODY: TOKENS["anna"]})
    assert for_all.post("/auth/token", data={"username": "bert", "password": TOKENS["anna"]}).status_code == 200
    assert for_all.post("/auth/token", data={"username": "bert", "password": "another"}).status_code == 401


def test_pages_of_other_sites_change_nothing_and_read_nothing() -> None:
    client = guarded()
    for headers in ({"Origin": "https://evil.org"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/change", headers=headers).status_code == 403
    assert client.post("/change", headers={"Origin": "http://127.0.0.1"}).status_code == 200
    assert client.post("/change").status_code == 200, "a program that is no browser"
    answer = client.get("/who", headers={"Origin": "https://evil.org"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_an_origin_that_is_named_may_use_the_server() -> None:
    client = guarded(TOKENS, origins="https://viewer.org")
    asked = {"Origin": "https://viewer.org", "Access-Control-Request-Method": "POST"}
    assert client.options("/change", headers=asked).headers["access-control-allow-origin"] == "https://viewer.org"
    named = {**asked, "Access-Control-Request-Headers": "authorization, mammo-reader"}
    assert client.options("/change", headers=named).status_code == 200
    assert client.post("/change", headers={**BEARER, "Origin": "https://viewer.org"}).status_code == 200
    assert client.post("/change", headers={**BEARER, "Origin": "https://evil.org"}).status_code == 403
    with pytest.raises(ValueError, match="no origin"):
        guarded(origins="*")


def test_a_body_too_large_is_refused_whatever_its_headers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "LARGEST_TEXT", 1000)
    client = guarded(upload_limit="1")

    def streamed(count: int) -> Iterator[bytes]:
        yield from (b"x" * 100 for _ in range(count))

    assert client.post("/change", content=b"x" * 1000).json() == 1000
    refused = client.post("/change", content=b"x" * 1001)
    assert refused.status_code == 413
    assert refused.json()["remedy"].startswith("Send less"), "upload_limit does not change this limit"
    assert client.post("/change", content=streamed(10)).json() == 1000
    assert client.post("/change", content=streamed(11)).status_code == 413


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b", "multipart/related; boundary=b"])
def test_a_file_is_taken_only_where_one_is_due_least_of_all_from_a_stranger(kind: str) -> None:
    client, large = guarded(TOKENS, upload_limit="2"), b"x" * 2 * 2**20

    def status(method: str, path: str, content: bytes, **headers: str) -> int:
        return client.request(method, path, content=content, headers={"Content-Type": kind, **headers}).status_code

    assert status("PUT", "/session/", large, **BEARER) == 200
    assert status("PUT", "/session/", large + b"x", **BEARER) == 413
    assert status("PUT", "/session/", large, **BEARER, **{"Content-Type": "application/json"}) == 413
    assert status("PUT", "/datastore/label/info", large, **BEARER) == 413
    assert status("POST", "/change", large, **BEARER) == 413
    for path in ("/login", "/auth/token"):
        assert status("POST", path, large) == 413


def test_a_body_of_text_must_come_in_time_and_an_upload_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_PATIENCE", 0.2)

    async def part() -> Message:
        await asyncio.sleep(0.08)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def four_parts(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(4):
            await receive()

    def read(kind: bytes) -> None:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", kind)]
        scope = {"type": "http", "method": "PUT", "path": "/session/", "query_string": b"", "headers": headers}
        guard = security.Guard(four_parts, Users({}), [], 1000)
        asyncio.run(guard({**scope, "client": ("127.0.0.1", 1)}, part, AsyncMock()))

    read(b"multipart/form-data; boundary=b")
    with pytest.raises(HTTPException, match="in time"):
        read(b"application/json")


def test_an_answer_is_kept_and_framed_by_nobody_else() -> None:
    headers = guarded().get("/who").headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "same-origin"


def test_an_unforeseen_error_is_json_and_tells_nothing() -> None:
    answer = guarded().get("/fail")
    assert answer.status_code == 500
    assert "OSError" in answer.json()["reason"]
    assert "patient" not in answer.text


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EROFS, 503)])
def test_a_disk_that_takes_nothing_is_the_reason_that_is_given(number: int, status: int) -> None:
    answer = guarded().get(f"/fail/{number}")
    assert answer.status_code == status
    assert os.strerror(number) in answer.json()["reason"]
    assert "patient" not in answer.text


def test_a_damaged_record_is_named_to_who_asks_and_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    answer = guarded().get("/fail/record")
    assert (answer.status_code, answer.json()["file"]) == (503, "labels/final/a.json")
    assert "move it away" in answer.json()["remedy"]
    assert "patient" not in answer.text
    assert "a record is damaged" in caplog.text
    assert "a.json" not in caplog.text


def test_tokens_come_from_a_file_or_the_environment_never_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"# those who read\nanna: {TOKENS['anna']}\n\nbert: {TOKENS['bert']}  # second reader\n")
    assert read_users({"users": str(file)}, {}).by_token(TOKENS["bert"]) == "bert"
    assert read_users({}, {"MAMMO_TOKEN": TOKENS["anna"]}).by_token(TOKENS["anna"]) == "annotator"
    assert not read_users({}, {})
    with pytest.raises(ValueError, match="MAMMO_TOKEN"):
        read_users({"token": TOKENS["anna"]}, {})
    with pytest.raises(ValueError, match="--conf users"):  # an earlier version's variable: no server opens unseen
        read_users({}, {"MAMMO_USERS": str(file)})


@pytest.mark.parametrize(
    "content",
    [
        "", "anna", "anna: short", "../x: 0123456789abcdef", "a: 0123456789abcdef\nb: 0123456789abcdef",
        "annotator: 0123456789abcdef",
    ],
)  # fmt: skip
def test_a_file_of_users_with_a_mistake_lets_no_server_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "users").write_text(content)
    with pytest.raises(ValueError, match=r"^conf users: ") as refused:
        read_users({"users": str(tmp_path / "users")}, {})
    assert "0123456789abcdef" not in str(refused.value)


def test_a_file_of_users_that_cannot_be_read_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^conf users: .*nobody cannot be read .No such file"):
        read_users({"users": str(tmp_path / "nobody")}, {})
    (tmp_path / "users").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"^conf users: .*users is no text in UTF-8"):
        read_users({"users": str(tmp_path / "users")}, {})
    with pytest.raises(ValueError, match=r"^MAMMO_TOKEN: "):
        read_users({}, {"MAMMO_TOKEN": "short"})


def test_a_network_is_served_only_when_asked_for_and_only_with_tokens() -> None:
    config = uvicorn.Config("app", host="0.0.0.0")
    choose_interface(with_tokens=False, arguments=["start_server", "--app", "x"])
    assert config.host == "127.0.0.1"
    config.host = "0.0.0.0"
    with pytest.raises(ValueError, match="tokens"):
        choose_interface(with_tokens=False, arguments=["start_server", "--host", "0.0.0.0"])
    choose_interface(with_tokens=True, arguments=["start_server", "-i", "0.0.0.0"])
    assert config.host == "0.0.0.0"
    config.host = "127.0.0.1"


def test_a_client_that_does_not_read_keeps_no_server_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    app, port = FastAPI(), free_port()
    app.get("/")(lambda: Response(bytes(10**8)))
    config = uvicorn.Config(app, port=port, log_level="critical")
    monkeypatch.setattr(binding, "SECONDS_TO_END", 1)
    binding.end_in_time()
    server = uvicorn.Server(config)
    running = threading.Thread(target=server.run, daemon=True)
    running.start()
    while not server.started:
        time.sleep(0.05)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        server.should_exit = True
        running.join(timeout=10)
        assert not running.is_alive()


def test_the_soft_limit_of_open_files_does_not_limit_the_connections() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        binding.open_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_connections_do_not_fill_the_log() -> None:
    flood, seldom = "socket.accept() out of system resource\nsocket: <TransportSocket>", OnceAMinute()
    logged = [seldom.filter(logging.LogRecord("asyncio", 40, "", 0, flood, (), None)) for _ in range(3)]
    assert logged == [True, False, False]
    assert seldom.filter(logging.LogRecord("asyncio", 40, "", 0, "a task failed", (), None))


def test_logs_lose_queries_identifiers_and_messages(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/dicomweb/studies/1.2.3/series?PatientID=secret"
    record = logging.LogRecord("uvicorn.access", 20, "", 0, "%s %s %s %s %s", ("c", "GET", path, "1.1", 200), None)
    assert ShortPath().filter(record)
    assert record.getMessage() == "c GET /dicomweb/studies/... 1.1 200"
    message = record.msg.join(("sec", "ret")).replace(record.msg, "")  # not in this file's own lines
    try:
        raise OSError(errno.ENOSPC, message)
    except OSError:
        record = logging.LogRecord("uvicorn.error", 40, "", 0, "failed", (), sys.exc_info())
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        with without_messages():  # a training, of which the server logs all that it prints
            logging.getLogger("ignite").exception("failed with %s", message)
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    assert NoMessage().filter(record)
    assert "secret" not in logging.Formatter().format(record)
    assert "OSError: No space left on device" in logging.Formatter().format(record)
    printed = capsys.readouterr().err
    assert "secret" not in printed + caplog.text
    assert "failed" in caplog.text
    assert printed.endswith("OSError: No space left on device\n")


def test_neither_our_own_loggers_nor_a_thread_that_fails_tell_what_an_error_says(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise FileNotFoundError(errno.ENOENT, "no such file", "".join(("sec", "ret")))  # not in this file's lines

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    keep_patients_out_of_logs()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except FileNotFoundError:
        logging.getLogger("lib.activity").exception("failed")
    printed = capsys.readouterr().err
    assert printed.endswith("FileNotFoundError: No such file or directory\n")
    assert "FileNotFoundError: No such file or directory" in caplog.text
    assert "secret" not in printed + caplog.text


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Server]:
    """A server with users, started without naming a host."""
    folder = tmp_path_factory.mktemp("locked")
    write_png(folder / "studies" / "film.png", blob()[0])
    write_dicom(folder / "studies" / "left.dcm", blob()[0])
    (folder / "users").write_text("".join(f"{name}: {token}\n" for name, token in TOKENS.items()))
    running = start_server(
        folder / "studies", bundles, folder, "users", str(folder / "users"), host="", token=TOKENS["anna"]
    )
    yield running
    stop_server(running)


@pytest.mark.slow
def test_every_route_of_the_running_server_asks_for_a_token(locked: Server) -> None:
    routes = locked.http.get("/openapi.json").json()["paths"]
    assert len(routes) > 30
    paths = [
        *routes,
        "/openapi.json",
        "/docs",
        "/static/ohif/index.html",
        "/ohif/",
        "/reload",
        "/logs/",
        "/dicomweb/studies",
    ]
    for path in paths:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            answer = locked.http.request(method, path.replace("{", "").replace("}", ""), headers={"Authorization": "x"})
            assert answer.status_code == (200 if path in ("/auth/",) and method == "GET" else 401), (method, path)


@pytest.mark.slow
def test_the_running_server_listens_on_this_machine_alone(locked: Server) -> None:
    port = locked.http.base_url.port
    others = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    with socket.socket() as taken:  # what the server did not bind is free, also the address of all interfaces
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.2", port or 0))
    for address in others - {address for address in others if address.startswith("127.")}:
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            http.client.HTTPConnection(address, port, timeout=5).request("GET", "/info/")


@pytest.mark.slow
def test_what_a_user_does_is_recorded_under_their_name_and_no_token_is_logged(locked: Server) -> None:
    answer = locked.http.put(
        "/datastore/image/info", params={"image": "film"}, data={"info": '{"quality": "complete"}'}
    )
    assert answer.status_code == 200
    assert "anna" in locked.http.get("/datastore/image/info", params={"image": "film"}).text
    log = locked.log.read_text() + "".join(file.read_text() for file in locked.log.parent.rglob("app.log"))
    assert not any(token in log for token in TOKENS.values())


@pytest.mark.slow
def test_a_reader_logs_in_with_a_browser_and_lands_where_he_wanted_to_go(locked: Server) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{locked.url}/ohif/?mammo=1")
        for token in ("not the token of anybody", TOKENS["bert"]):
            assert page.url.startswith(f"{locked.url}/login")
            page.fill("input[name=token]", token)
            page.click("button")
            if token != TOKENS["bert"]:
                assert "not the token of anybody" in page.inner_text(".refused")
        page.wait_for_url(f"{locked.url}/ohif/?mammo=1*")
        found = page.evaluate("fetch('/dicomweb/studies').then(answer => answer.json())")
        assert len(found) == 1
        assert "bert" in page.evaluate("fetch('/').then(answer => answer.text())")
