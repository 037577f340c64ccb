"""Hostile requests to the running server: each is refused, nothing is written, read or lost, and it still answers."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import pickle
import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from .conftest import LESION, QUALITY, SEGMENTATION, Server, blob, write_dicom

pytestmark = pytest.mark.slow
SECRET = "what stands in a file beside the studies"
# Every spelling of a way out of a folder that some layer might decode.
CLIMBS = (
    "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt", "%252e%252e%252fsecret.txt",
    "..\\secret.txt", "..%5csecret.txt", "....//secret.txt", "..;/secret.txt", "%c0%ae%c0%ae/secret.txt",
    "..%00/secret.txt", "/etc/hostname", "//etc/hostname", "file:///etc/hostname", "P1/../../secret.txt",
    "\uff0e\uff0e/secret.txt", "C:\\secret.txt", "~/secret.txt", "$HOME/secret.txt", "http://127.0.0.1:9/x",
)  # fmt: skip
# Places where a client names something.
QUERIES = (
    ("GET", "/datastore/image?image={}"),
    ("HEAD", "/datastore/image?image={}"),
    ("GET", "/datastore/image/info?image={}"),
    ("DELETE", "/datastore/image?id={}"),
    ("GET", "/datastore/label?label={}&tag=final"),
    ("GET", "/datastore/label?label=film&tag={}"),
    ("HEAD", "/datastore/label?image=film&tag={}"),
    ("GET", "/datastore/label/info?label=film&tag={}"),
    ("DELETE", "/datastore/label?id=film&tag={}"),
    ("POST", f"/infer/{QUALITY}?image={{}}"),
    ("POST", f"/infer/{QUALITY}?session_id={{}}"),
    ("GET", "/dicomweb/studies?accept=x&StudyInstanceUID={}"),
)
PATHS = (
    "/{}", "/session/{}", "/infer/{}", "/train/{}", "/activelearning/{}", "/scoring/{}", "/batch/infer/{}",
    "/static/{}",
    "/static/ohif/{}", "/ohif/{}", "/mammo/{}", "/dicomweb/{}", "/dicomweb/studies/{}", "/dicomweb/studies/{}/metadata",
    "/dicomweb/studies/1.2/series/{}/instances", "/dicomweb/studies/1.2/series/1.3/instances/{}/frames/1",
    "/dicomweb/studies/1.2/series/1.3/instances/1.4/frames/{}", "/proxy/dicom/{}", "/model/{}", "/logs/{}",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def secret(server: Server) -> Path:
    """A file that nobody may read, beside the studies folder."""
    file = server.studies.parent / "secret.txt"
    file.write_text(SECRET)
    return file


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(server: Server, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    """A request whose target no client library has tidied up."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)
    connection.putrequest(method, quote(target, safe="/%?&=:;\\$~.+,-_@!*'()"), skip_accept_encoding=True)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    response = connection.getresponse()
    answer = Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())
    connection.close()
    return answer


def contents(server: Server) -> dict[str, bytes]:
    """Every file around the server, its own logs and indexes excepted."""
    folder = server.studies.parent
    own = (".log", "/logs/", "__pycache__", ".lock", ".index.json", ".worklist.json", ".activity.jsonl", "/scores/")
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if not any(name in str(path) for name in own)}


def assert_refused(answer: Answer, *allowed: int) -> None:
    """A clear refusal: a status of the client's fault, and JSON with a reason."""
    assert answer.status in (allowed or range(400, 500)), answer
    assert SECRET.encode() not in answer.body
    if answer.body:
        assert json.loads(answer.body)["reason"], answer


@pytest.mark.parametrize(("method", "target"), QUERIES, ids=lambda value: value.partition("?")[0])
def test_no_parameter_leads_out_of_the_folder(server: Server, method: str, target: str) -> None:
    before = contents(server)
    for climb in CLIMBS:
        answer = send(server, method, target.format(climb))
        if "dicomweb" in target and answer.status == 200:
            assert answer.body == b"[]"
        else:
            assert_refused(answer)
    assert contents(server) == before
    assert server.is_up()


@pytest.mark.parametrize("target", PATHS)
def test_no_path_leads_out_of_its_route(server: Server, target: str) -> None:
    before = contents(server)
    for climb in CLIMBS:
        for method in ("GET", "POST"):
            answer = send(server, method, target.format(climb))
            viewer = target == "/ohif/{}" and answer.status == 200  # any other place is one inside the viewer
            if viewer or (target == "/{}" and climb == "/etc/hostname"):
                assert SECRET.encode() not in answer.body
            else:
                assert_refused(answer)
    assert contents(server) == before
    assert server.is_up()


@pytest.mark.parametrize("name", ["image", "model", "session"])
def test_parameters_name_nothing_that_only_the_address_names(server: Server, name: str) -> None:
    for value in ("/etc/hostname", "film", {"name": "x", "image": "/etc/hostname"}):
        answer = server.http.post(
            f"/infer/{QUALITY}", params={"image": "film"}, data={"params": json.dumps({name: value})}
        )
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "params",
    ["{", "[]", "null", "1", '"x"', "[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "NaN", "{}" * 2],
    ids=lambda text: text[:8],
)
def test_parameters_that_are_no_json_object_are_refused(server: Server, params: str) -> None:
    for method, route in (("POST", f"/infer/{LESION}"), ("PUT", "/datastore/image/info")):
        answer = server.http.request(method, route, params={"image": "film"}, data={"params": params, "info": params})
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"'])
def test_what_no_answer_can_hold_is_not_kept_and_spoils_no_later_answer(server: Server, value: str) -> None:
    params, picture = f'{{"deep": [{{"x": {value}}}]}}', io.BytesIO()
    Image.fromarray(blob()[0].astype(np.uint8)).save(picture, "PNG")
    file = ("a.png", picture.getvalue())
    for method, route, content in (
        ("PUT", "/datastore/label?image=film", {"data": {"params": params}, "files": {"label": file}}),
        ("PUT", "/datastore/image?image=new", {"data": {"params": params}, "files": {"file": file}}),
        ("PUT", "/datastore/image/info?image=film", {"data": {"info": params}}),
        ("PUT", "/datastore/label/info?label=film&tag=final", {"data": {"info": params}}),
        ("POST", f"/batch/infer/{QUALITY}", {"content": params, "headers": {"Content-Type": "application/json"}}),
    ):
        assert server.http.request(method, route, **content).status_code == 400, route
    assert server.http.get("/datastore/", params={"output": "all"}).status_code == 200


@pytest.mark.parametrize(
    "task",
    [
        {"bundle_path": "/tmp"},
        {QUALITY: {"bundle_path": "/tmp"}},
        {"gpus": ["0"]},
        {"gpus": {"x": 1}},
        {"notes": "x" * 100_000},
        [1],
        "text",
    ],
    ids=str,
)
def test_a_task_takes_no_path_and_nothing_that_breaks_its_process(server: Server, task: Any) -> None:
    assert 400 <= server.http.post(f"/batch/infer/{QUALITY}", json=task).status_code < 500
    assert server.http.post(f"/batch/infer/{QUALITY}", params={"run_sync": True}, json={}).status_code == 400


def archive(name: str) -> bytes:
    """A ZIP whose member would land elsewhere when it is unpacked."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as opened:
        opened.writestr(name, "planted")
    return written.getvalue()


def huge_nifti() -> bytes:
    """A few bytes that claim to be an image of 32767 x 32767 x 100."""
    head = np.zeros(352, np.uint8)
    head[:4] = np.frombuffer(np.int32(348).tobytes(), np.uint8)
    head[40:48] = np.frombuffer(np.array([3, 32767, 32767, 100], "<i2").tobytes(), np.uint8)
    head[70:74] = np.frombuffer(np.array([16, 32], "<i2").tobytes(), np.uint8)
    head[344:348] = np.frombuffer(b"n+1\0", np.uint8)
    return gzip.compress(head.tobytes())


UPLOADS = {
    "empty": ("label.nii.gz", b""),
    "noise": ("label.nii.gz", bytes(range(256)) * 40),
    "huge when unpacked": ("label.nii.gz", gzip.compress(b"\0" * 50_000_000)),
    "huge by its header": ("label.nii.gz", huge_nifti()),
    "pickled": ("label.nii.gz", pickle.dumps({"a": 1})),
    "an archive": ("label.zip", archive("../../planted")),
    "a script": ("label.py", b"import os"),
    "a climbing name": ("../../planted.nii.gz", b"x"),
    "a name with a zero": ("a\0.nii.gz", b"x"),
    "a long name": ("x" * 5000 + ".nii.gz", b"x"),
    "a name of dots": ("....", b"x"),
}


@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize(
    ("route", "field"),
    [
        ("/datastore/label?image=film&tag=final", "label"),
        ("/datastore/label?image=film&tag=../planted", "label"),
        ("/datastore/image?image=planted", "file"),
        ("/datastore/image?image=../planted", "file"),
        ("/datastore/image", "file"),
        ("/datastore/?image=planted", "file"),
        ("/session/?uncompress=true", "files"),
    ],
)
def test_an_upload_that_makes_no_sense_leaves_nothing(server: Server, route: str, field: str, kind: str) -> None:
    before = contents(server)
    answer = server.http.put(route, files={field: UPLOADS[kind]})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["reason"]
    assert contents(server) == before, "not even a temporary file"


def test_sessions_are_few_and_a_bad_image_in_one_is_refused(server: Server) -> None:
    made = [server.http.put("/session/", files={"files": ("../x.nii.gz", b"noise")}).json() for _ in range(70)]
    assert server.http.post(f"/infer/{QUALITY}", params={"session_id": made[-1]["session_id"]}).status_code == 422
    assert server.http.get(f"/session/{made[0]['session_id']}").status_code == 404, "the oldest was forgotten"
    kept = [entry for entry in made if server.http.get(f"/session/{entry['session_id']}").status_code == 200]
    assert len(kept) <= 64
    for entry in kept:
        assert Path(entry["session_info"]["image"]).is_relative_to(server.studies.parent / "home")
        assert server.http.delete(f"/session/{entry['session_id']}").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example.org"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"X-Forwarded-For": "203.0.113.7"}, 403),
        ({"Content-Length": "99999999999"}, 413),
        ({"Content-Type": "multipart/form-data"}, 400),
        ({"Content-Type": "multipart/form-data; boundary=" + "x" * 300}, 400),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 404),
        ({"Transfer-Encoding": "identity"}, 400),
        ({"Cookie": "mammo=x.9999999999.x; " + "a=b; " * 500}, 404),
        ({"Accept": "x" * 20_000}, 404),
        ({"Range": "bytes=0-,0-,0-,0-"}, 404),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_hostile_header_is_refused_and_the_server_stays(server: Server, headers: dict[str, str], status: int) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    lines = {"Host": f"{host}:{port}", "Content-Length": "0", **headers}
    if "Transfer-Encoding" in headers:
        del lines["Content-Length"]
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        raw.sendall(f"POST /infer/no_such_model?image=film HTTP/1.1\r\n{text}Connection: close\r\n\r\n".encode())
        answer = raw.recv(65536).decode()
    assert int(answer.split()[1]) == status, answer
    assert server.is_up()


def test_a_request_that_is_no_http_or_breaks_off_does_no_harm(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for bad in (
        b"\x16\x03\x01\x02\x00",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:",
        b"PUT /session/ HTTP/1.1\r\n" * 50,
    ):
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(bad)
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(f"PUT /session/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\nhalf".encode())
    assert server.is_up()
    assert not list((server.studies.parent / "temporary").glob("upload-*"))


class Planted:
    """What a pickled file of weights does when it is loaded carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return open, (str(self.target), "w")


def test_pickled_code_in_a_file_of_weights_does_not_run(server: Server) -> None:
    planted = server.studies.parent / "planted-by-weights"
    server.weights.mkdir(exist_ok=True)
    weights = server.weights / f"{SEGMENTATION}.pt"
    weights.write_bytes(pickle.dumps(Planted(planted)))
    answer = server.infer(SEGMENTATION, "film")
    weights.unlink()
    assert answer.status_code in (422, 503)
    assert not planted.exists()
    assert server.infer(SEGMENTATION, "film").status_code == 200


@pytest.mark.parametrize("method", ["PUT", "POST", "GET", "DELETE"])
@pytest.mark.parametrize(
    "route", ["/model/{}", "/logs/", "/reload", "/infer/wsi/{}", "/proxy/dicom/wado/x", "/model/info/{}"]
)
def test_routes_that_cannot_be_made_safe_are_gone(server: Server, route: str, method: str) -> None:
    assert server.http.request(method, route.format(SEGMENTATION)).status_code in (404, 405)


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1", "limit=x", "offset=99999999999999999999", "StudyDate=../..", "PatientName=*a*a*a*a*a*a*a*a*b",
        "StudyDate=(.*)*$", "limit=%00", "PatientID=%ff", "x=" + "y" * 9000,
    ],
    ids=lambda query: query[:24],
)  # fmt: skip
def test_a_search_that_makes_no_sense_is_refused(server: Server, query: str) -> None:
    write_dicom(server.studies / "P1" / "L_CC.dcm", blob()[0])
    assert_refused(send(server, "GET", f"/dicomweb/studies?{query}"))


@pytest.mark.parametrize(
    "body", [b"", b"--b", b"--b\r\n\r\nx\r\n--b--", b"--b--", b"--b\r\n\r\nx\r\n" * 100 + b"--b--"], ids=len
)
def test_a_broken_body_is_not_stored(server: Server, body: bytes) -> None:
    before = contents(server)
    for kind in ('multipart/related; type="application/dicom"; boundary=b', "text/plain", "multipart/related"):
        assert 400 <= send(server, "POST", "/dicomweb/studies", body, Content_Type=kind).status < 500
    assert contents(server) == before


def test_two_hundred_requests_at_once_each_get_an_answer_and_the_server_stays(server: Server) -> None:
    before = contents(server)
    requests = [
        ("GET", "/info/"),
        ("POST", f"/infer/{QUALITY}?image=film&output=json"),
        ("GET", "/datastore/image?image=film"),
        ("GET", "/dicomweb/studies"),
        ("GET", "/datastore/image?image=../secret.txt"),
    ]
    with ThreadPoolExecutor(200) as together:
        answers = list(together.map(lambda number: send(server, *requests[number % 5]), range(200)))
    assert {answer.status for number, answer in enumerate(answers) if number % 5 in (0, 2, 3)} == {200}
    assert {answer.status for answer in answers[1::5]} <= {200, 503}
    assert {answer.status for answer in answers[4::5]} <= {400, 404}
    assert contents(server) == before
    assert server.is_up()
