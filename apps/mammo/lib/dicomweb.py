"""DICOMweb at /dicomweb over a folder of files, so that viewers need no archive: QIDO-RS, WADO-RS, STOW-RS (PS3.18).

Here is what is asked and answered over HTTP. Not here: searching, headers, pixels, storing; a remote archive.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from monai_mammo.dicom.display import Window
from monai_mammo.dicom.errors import MammogramError

from . import wado
from .accept import Answer, choose, choose_picture
from .dicom_index import UID_PATTERN, DicomIndex, Instance
from .dicom_json import bulk_value, metadata
from .dicom_query import Level, search
from .errors import RequestRefused, unknown
from .stow import Store

ROOT = "/dicomweb"
JSON = "application/dicom+json"
MOST_STORED = 128 * 2**20
"""Bytes of one request to store."""
MOST_FRAMES = 64
THUMBNAIL = 256
LARGEST_PICTURE = 8192
_STUDY, _SERIES, _INSTANCE = "/studies/{study}", "/studies/{study}/series/{series}", "/instances/{sop}"
_LEVELS = (_STUDY, _SERIES, _SERIES + _INSTANCE)


def install_folder(
    server: FastAPI, studies: Path, labels: Path, counting: Callable[[], Mapping[str, Path]]
) -> DicomIndex:
    """Add the routes of DICOMweb over a folder of images and that of their labels to a server; see `DicomIndex`."""
    index = DicomIndex(studies, labels, counting)
    router = APIRouter(prefix=ROOT, tags=["DICOMweb"])
    _add_search(router, index)
    _add_retrieve(router, index)
    _add_pixels(router, index)
    _add_store(router, Store(index))
    server.include_router(router)
    return index


def root_of(request: Request) -> str:
    """Address of the service as the client sees it."""
    return f"{str(request.base_url).rstrip('/')}{ROOT}"


def _add_search(router: APIRouter, index: DicomIndex) -> None:
    def searching(level: Level) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            given = request.path_params
            instances = list(index.instances().values())
            for name in ("study", "series"):
                if name in given:
                    uid = _uid(given[name])
                    instances = [entry for entry in instances if getattr(entry, name) == uid]
            found, ignored = search(instances, level, request.query_params.multi_items(), root_of(request))
            response = _json(found)
            if ignored:
                response.headers["Warning"] = (
                    '299 - "some of the query\'s attributes are not supported and were ignored"'
                )
            return response

        return answer

    places: dict[str, Level] = {
        "/studies": "study",
        "/series": "series",
        "/instances": "instance",
        f"{_STUDY}/series": "series",
        f"{_STUDY}/instances": "instance",
        f"{_SERIES}/instances": "instance",
    }
    for path, level in places.items():
        router.add_api_route(path, searching(level), methods=["GET"], summary=f"Search: {level}", response_model=None)


def _add_retrieve(router: APIRouter, index: DicomIndex) -> None:
    def retrieve(request: Request) -> Response:
        found = _found(index, request)
        accept = _accept(request)
        chosen = [(entry.path, choose(accept, "application/dicom", wado.syntax_of(entry.path))) for entry in found]
        objects = _objects(chosen)
        first = next(objects)
        if len(chosen) == 1 and not chosen[0][1].multipart:
            return StreamingResponse(first[1], media_type="application/dicom")
        return _multipart("application/dicom", chain([first], objects))

    def retrieve_metadata(request: Request) -> Response:
        return _json(_metadata(_found(index, request), root_of(request)))

    for path in _LEVELS:
        router.add_api_route(path, retrieve, methods=["GET"], summary="Retrieve objects", response_model=None)
        router.add_api_route(
            f"{path}/metadata", retrieve_metadata, methods=["GET"], summary="Retrieve headers", response_model=None
        )

    @router.get(_LEVELS[2] + "/bulkdata/{tags}", summary="Retrieve a binary value", response_model=None)
    def retrieve_bulk(request: Request, tags: str) -> Response:
        value = bulk_value(_found(index, request)[0].path, tags)
        if "multipart/related" in _accept(request):
            return _multipart("application/octet-stream", [("application/octet-stream", [value])])
        return Response(value, media_type="application/octet-stream")


def _add_pixels(router: APIRouter, index: DicomIndex) -> None:
    @router.get(_LEVELS[2] + "/frames/{numbers}", summary="Retrieve frames", response_model=None)
    def retrieve_frames(request: Request, numbers: str) -> Response:
        path, wanted = _found(index, request)[0].path, _frames(numbers)
        syntax = wado.syntax_of(path)
        how = choose(_accept(request), "application/octet-stream", syntax)
        frames = (wado.stored_frames if how.stored else wado.uncompressed_frames)(path, wanted)
        kind = f"{how.media_type}; transfer-syntax={syntax if how.stored else wado.ExplicitVRLittleEndian}"
        if len(frames) == 1 and not how.multipart:
            return Response(frames[0], headers={"Content-Type": kind})
        return _multipart(how.media_type, [(kind, [frame]) for frame in frames])

    def rendered(request: Request) -> Response:
        largest = THUMBNAIL if request.url.path.endswith("/thumbnail") else None
        viewport = request.query_params.get("viewport", "").partition(",")
        if viewport[0]:
            sides = [side for side in (viewport[0], viewport[2].partition(",")[0]) if side.isascii() and side.isdigit()]
            if len(sides) != 2 or not all(1 <= int(side) <= LARGEST_PICTURE for side in sides):
                raise RequestRefused(400, "'viewport' is not width,height in pixels", "Write viewport=512,512")
            largest = min(map(int, sides))
        if request.path_params.get("number", "1") != "1":
            raise unknown("frame", request.path_params["number"])
        format, window = choose_picture(_accept(request)), _window(request.query_params.get("window"))
        first = _found(index, request)[0]
        return Response(wado.picture(first.path, format, largest, window), media_type=f"image/{format.lower()}")

    for path in (*_LEVELS, _LEVELS[2] + "/frames/{number}"):
        for name in ("rendered", "thumbnail"):
            router.add_api_route(
                f"{path}/{name}", rendered, methods=["GET"], summary="Retrieve a picture", response_model=None
            )


def _add_store(router: APIRouter, store: Store) -> None:
    @router.post("/studies", summary="Store segmentations and reports", response_model=None)
    @router.post(_STUDY, summary="Store segmentations and reports of a study", response_model=None)
    async def store_objects(request: Request) -> Response:
        study = request.path_params.get("study")
        received = bytearray()
        async for chunk in request.stream():
            received += chunk
            if len(received) > MOST_STORED:
                raise HTTPException(413, f"one request stores at most {MOST_STORED} bytes")
        content_type = request.headers.get("content-type", "")
        status, answer = await anyio.to_thread.run_sync(
            store.take, bytes(received), content_type, None if study is None else _uid(study), root_of(request)
        )
        return _json(answer, status)


def _found(index: DicomIndex, request: Request) -> list[Instance]:
    given = request.path_params
    uids = [_uid(given[name]) if name in given else None for name in ("study", "series", "sop")]
    found = index.find(str(uids[0]), uids[1], uids[2])
    if request.url.path.endswith(("/rendered", "/thumbnail")):  # a picture of a study is one of its images
        return sorted(found, key=lambda entry: entry.value("Modality") != "MG")
    return found


def _uid(value: str) -> str:
    if not UID_PATTERN.fullmatch(value):
        raise RequestRefused(400, "an identifier in the address is no UID", "Give digits and dots, at most 64")
    return value


def _frames(numbers: str) -> list[int]:
    wanted = numbers.split(",")
    if not all(number.isascii() and number.isdigit() and len(number) < 8 for number in wanted):
        raise RequestRefused(400, "the frames are no numbers", "Write frames/1,2")
    if len(wanted) > MOST_FRAMES:
        raise RequestRefused(400, f"more than {MOST_FRAMES} frames are asked for at once", "Ask for fewer")
    return [int(number) for number in wanted]


def _window(asked: str | None) -> Window | None:
    """Centre, width and function as PS3.18 8.3.5.1.4 writes them."""
    if asked is None:
        return None
    with suppress(ValueError):
        center, width, function = asked.split(",")
        numbers = float(center), float(width)
        fits = {"linear": numbers[1] >= 1, "linear-exact": numbers[1] > 0, "sigmoid": numbers[1] > 0}
        if all(map(math.isfinite, numbers)) and fits.get(function):
            return *numbers, function.upper().replace("-", "_")
    raise RequestRefused(
        400,
        "'window' is not center,width,function with a function of linear, linear-exact and sigmoid, and a width for it",
        "Write window=2048,4096,linear",
    )


def _accept(request: Request) -> str:
    """The Accept header, or the query parameter that may stand for it (PS3.18 8.3.3.1)."""
    return request.query_params.get("accept") or ",".join(request.headers.getlist("accept"))


def _metadata(instances: list[Instance], root: str) -> list[dict[str, Any]]:
    """The headers of all that are not damaged.

    Raises:
        RequestRefused: there is none (422).
    """
    found, damaged = [], None
    for instance in instances:
        place = f"{root}/studies/{instance.study}/series/{instance.series}/instances/{instance.sop}"
        try:
            found.append(metadata(instance.path, instance.stamp, f"{place}/bulkdata"))
        except MammogramError as error:
            damaged = error
    if damaged and not found:
        raise RequestRefused(422, damaged.reason, damaged.remedy, instances[0].path.name) from damaged
    return found


def _objects(chosen: list[tuple[Path, Answer]]) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The type and the bytes of each that is not damaged; it is known before the first of its bytes is sent.

    Raises:
        RequestRefused: all are damaged.
    """
    damaged, sent = None, False
    for path, how in chosen:
        chunks = _object(path, how)
        try:
            first = next(chunks)
        except RequestRefused as refused:
            damaged = refused
        else:
            sent = True
            yield _object_type(path, how), chain([first], chunks)
    if damaged and not sent:
        raise damaged


def _object(path: Path, how: Answer) -> Iterator[bytes]:
    if how.stored:
        yield from wado.file_chunks(path)
    else:
        yield wado.uncompressed_object(path)


def _object_type(path: Path, how: Answer) -> str:
    return f"application/dicom; transfer-syntax={wado.syntax_of(path) if how.stored else wado.ExplicitVRLittleEndian}"


def _multipart(kind: str, contents: Iterable[tuple[str, Iterable[bytes]]]) -> StreamingResponse:
    """Parts of given types, sent one after the other."""
    boundary = uuid.uuid4().hex

    def body() -> Iterator[bytes]:
        for content_type, chunks in contents:
            yield f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode()
            yield from chunks
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(body(), headers={"Content-Type": f'multipart/related; type="{kind}"; boundary={boundary}'})


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, separators=(",", ":")), status, media_type=JSON)
