"""DICOMweb at /dicomweb handed on to an archive: its DICOMweb root, nothing beside it, and nothing of the browser's.

Not here: DICOMweb over a folder; the datastore's own conversation with the archive.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from monai_mammo.dicom.display import add_window
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.plane import add_plane

from .archive_session import LOGIN_VARIABLES
from .dicomweb import ROOT, root_of
from .errors import RequestRefused, unknown
from .multipart import parts

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
MOST_CONNECTIONS = 32
LARGEST_JSON = 256 * 2**20
LARGEST_LUT = 2**18
# Identifiers, tags, numbers, and the words of PS3.18 10.1; a segment of dots alone leads nowhere.
_PATH = re.compile(r"(studies|series|instances)(/(?!\.+(/|$))[A-Za-z0-9][A-Za-z0-9.,_-]{0,199}){0,12}")
_STORE = re.compile(r"studies(/[0-9.]{1,64})?")
_SENT_ON = ("accept", "accept-encoding", "content-type", "content-length")
_HANDED_BACK = ("content-type", "content-length", "content-encoding", "etag", "last-modified", "warning")
# Attributes of which the archive's DICOM JSON is changed, or which that depends on.
_COMPLETED = {
    f"{tag_for_keyword(keyword):08X}"
    for keyword in (
    "SOPInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "SliceThickness",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    )
}  # fmt: skip
_VOI_LUTS, _LUT_DATA, _WINDOW_CENTER = "00283010", "00283006", "00281050"


def install_proxy(server: FastAPI, archive: str, login: tuple[str, str] | None) -> None:
    """Add a route that hands DICOMweb on to an archive.

    Args:
        server: the application.
        archive: address of its DICOMweb root.
        login: name and password for it, if it asks.
    """
    target = archive.rstrip("/")
    router = APIRouter(prefix=ROOT, tags=["DICOMweb"])
    clients: list[httpx.AsyncClient] = []  # belongs to the event loop, which is not known before the first request

    @router.api_route("/{path:path}", methods=["GET", "POST"], summary="The archive's DICOMweb", response_model=None)
    async def hand_on(request: Request, path: str) -> Response:
        if not _PATH.fullmatch(path) or (request.method == "POST" and not _STORE.fullmatch(path)):
            raise unknown("DICOMweb resource", path)
        if not clients:
            limits = httpx.Limits(max_connections=MOST_CONNECTIONS)
            clients.append(httpx.AsyncClient(auth=login, timeout=TIMEOUT, limits=limits, trust_env=False))
        query = request.scope["query_string"].decode("ascii", "replace")
        # A header may come in several lines, of which the values make one list (RFC 9110 5.3).
        headers = {name: ", ".join(request.headers.getlist(name)) for name in _SENT_ON if name in request.headers}
        content = request.stream() if request.method == "POST" else None
        asked = clients[0].build_request(
            request.method, httpx.URL(f"{target}/{path}", query=query.encode()), headers=headers, content=content
        )
        answer = await _asked(clients[0], asked)
        handed = {name: answer.headers[name] for name in _HANDED_BACK if name in answer.headers}
        if "json" in answer.headers.get("content-type", "") and answer.status_code < 300:
            content = await _json(answer)
            if path.endswith("/metadata") and isinstance(content, list):
                for entry in content:
                    await _bring_lut(clients[0], entry, target)
                    _complete(entry)
            text = json.dumps(_through(content, target, root_of(request)), separators=(",", ":"))
            return Response(text, answer.status_code, {"Content-Type": handed["content-type"]})
        return StreamingResponse(_streamed(answer), answer.status_code, handed)

    server.include_router(router)


async def _asked(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    try:
        answer = await client.send(request, stream=True, follow_redirects=False)
    except httpx.TimeoutException:
        raise RequestRefused(504, "the archive did not answer in time", "Try again, or check that it works") from None
    except httpx.HTTPError as error:
        raise RequestRefused(
            502, f"the archive cannot be reached ({type(error).__name__})", "Check that it runs, and its address"
        ) from None
    if answer.status_code in (401, 403, 407) or 300 <= answer.status_code < 400:
        await answer.aclose()
        reason = "sends its clients elsewhere" if answer.status_code < 400 else "does not admit this server"
        raise RequestRefused(502, f"the archive {reason}", f"Check its address, and {LOGIN_VARIABLES}")
    return answer


async def _streamed(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def _json(answer: httpx.Response) -> Any:
    """What the archive says."""
    body = bytearray()
    try:
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > LARGEST_JSON:
                raise RequestRefused(502, "the archive's answer is too long", "Ask for less with limit=")
    except httpx.HTTPError as error:
        raise RequestRefused(502, f"the archive broke off ({type(error).__name__})", "Try again") from None
    finally:
        await answer.aclose()
    try:
        return json.loads(bytes(body) or b"[]")
    except ValueError:
        raise RequestRefused(
            502, "the archive's answer is damaged JSON", "Check that its address is DICOMweb"
        ) from None


async def _bring_lut(client: httpx.AsyncClient, entry: Any, target: str) -> None:
    """Put the VOI LUT of an image without a window into its header, where the archive tells only its address."""
    try:
        data = entry[_VOI_LUTS]["Value"][0][_LUT_DATA]
        if entry.get(_WINDOW_CENTER, {}).get("Value") or "BulkDataURI" not in data:
            return
        root, _, path = _through(data["BulkDataURI"], target, target).partition(f"{target}/")
        if root or not _PATH.fullmatch(path):
            return
        answer = await client.get(f"{target}/{path}", follow_redirects=False)
        if answer.status_code == 200 and len(answer.content) < LARGEST_LUT:
            kind = answer.headers.get("content-type", "")
            words = parts(answer.content, kind)[0].content if kind.lower().startswith("multipart/") else answer.content
            entry[_VOI_LUTS]["Value"][0][_LUT_DATA] = {"vr": "OW", "InlineBinary": b64encode(words).decode()}
    except (KeyError, TypeError, IndexError, AttributeError, httpx.HTTPError, RequestRefused):
        return  # then it has no window


def _complete(entry: Any) -> None:
    """Add to the header of a mammogram what viewers need: its place in space, and a window if it has only a LUT."""
    try:
        if entry["00080060"]["Value"] != ["MG"] or "00280010" not in entry or "52009230" in entry:
            return
        dataset = Dataset.from_json({tag: value for tag, value in entry.items() if tag in _COMPLETED})
        add_plane(dataset)
        entry.update(dataset.to_json_dict())
        add_window(Path(dataset.SOPInstanceUID), dataset)
        entry.update(dataset.to_json_dict())
    except (KeyError, TypeError, ValueError, AttributeError, MammogramError):
        return  # an object whose header is odd is handed on as it is


def _through(content: Any, target: str, root: str) -> Any:
    """Replace addresses of the archive's, which a browser may not reach, by ours."""
    if isinstance(content, dict):
        return {key: _through(value, target, root) for key, value in content.items()}
    if isinstance(content, list):
        return [_through(value, target, root) for value in content]
    if isinstance(content, str) and content.startswith(("http://", "https://")):
        # Its own idea of its address may differ from ours; what is below the same path is the same.
        _, found, rest = content.partition(urlsplit(target).path + "/studies/")
        return f"{root}/studies/{rest}" if found else content
    return content
