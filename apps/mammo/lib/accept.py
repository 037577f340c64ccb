"""What a DICOMweb client accepts (PS3.18 8.7): its Accept header against what is stored. Not here: the content."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from .errors import RequestRefused

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
_NO_FRAMES = (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
Kind = Literal["application/dicom", "application/octet-stream"]
_PIXEL_TYPES = {
    "image/jpeg": tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70)),
    "image/jls": ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    "image/jp2": ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
    "image/jphc": ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"),
    "image/dicom-rle": ("1.2.840.10008.1.2.5",),
}  # fmt: skip


class Answer(NamedTuple):
    """How to answer: with what is stored or with it uncompressed, under which media type, in parts or alone."""

    stored: bool
    media_type: str
    multipart: bool


class _Range(NamedTuple):
    kind: str
    syntax: str
    multipart: bool


def choose(accept: str, kind: Kind, syntax: UID) -> Answer:
    """The best answer that a client accepts: what is stored if possible, else explicit little endian.

    A client that names no transfer syntax gets what is stored if that is not compressed (PS3.18 8.7.3.5.2), and one
    that accepts anything gets what is stored. Frames of big endian or deflated objects are never sent as they lie.

    Args:
        accept: the Accept header; empty for anything.
        kind: of a whole object, or of its frames.
        syntax: of the stored object.

    Raises:
        RequestRefused: neither is accepted (406).
    """
    ranges = _ranges(accept)
    as_stored = kind == "application/dicom" or syntax not in _NO_FRAMES
    for candidate in ranges:
        if candidate.kind == "*/*":
            return Answer(as_stored, kind, True)
        compressed = kind != "application/dicom" and syntax in _PIXEL_TYPES.get(candidate.kind, ())
        if compressed and candidate.syntax in ("", "*", syntax):
            return Answer(True, candidate.kind, candidate.multipart)
        if (
            as_stored
            and candidate.kind == kind
            and (candidate.syntax in ("*", syntax) or (not candidate.syntax and syntax in NATIVE))
        ):
            return Answer(True, kind, candidate.multipart)
    for candidate in ranges:
        if candidate.kind == kind and candidate.syntax in ("", "*", ExplicitVRLittleEndian):
            return Answer(False, kind, candidate.multipart)
    raise RequestRefused(
        406, f"the object is stored as {syntax.name}, which is not accepted", 'Accept with "transfer-syntax=*"'
    )


def choose_picture(accept: str) -> Literal["JPEG", "PNG"]:
    """The kind of picture that a client accepts, JPEG if it accepts both.

    Raises:
        RequestRefused: neither is accepted (406).
    """
    kinds = {entry.kind for entry in _ranges(accept)}
    if "image/png" in kinds and "image/jpeg" not in kinds:
        return "PNG"
    if kinds & {"image/jpeg", "image/*", "*/*"}:
        return "JPEG"
    raise RequestRefused(406, "pictures are JPEG or PNG, which is not accepted", "Accept image/jpeg or image/png")


def _ranges(accept: str) -> list[_Range]:
    found = []
    for entry in re.findall(r'(?:[^,"]|"[^"]*")+', accept) or ["*/*"]:
        media, *given = [part.strip() for part in re.findall(r'(?:[^;"]|"[^"]*")+', entry)] or [""]
        parameters = {
            name.strip().lower(): value.strip(' "') for name, _, value in (part.partition("=") for part in given)
        }
        media = media.lower()
        multipart = media == "multipart/related"
        kind = parameters.get("type", "*/*").lower() if multipart else media
        found.append(
            _Range("*/*" if kind in ("*/*", "multipart/*") else kind, parameters.get("transfer-syntax", ""), multipart)
        )
    return found
