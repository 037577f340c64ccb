"""Multipart bodies (RFC 2387), in which DICOMweb sends objects and bulk data. Not here: what a part must be."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import RequestRefused

MOST_PARTS = 64
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^";,\s]{1,70}))', re.IGNORECASE)


class Part(NamedTuple):
    """A part of a body: its header's lines, in lower case, and its content."""

    header: bytes
    content: bytes


def parts(body: bytes, content_type: str) -> list[Part]:
    """The parts of a multipart/related body.

    Raises:
        RequestRefused: it is none (415), or damaged (400).
    """
    boundary = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/related") or not boundary:
        raise RequestRefused(415, "the body is not multipart/related", 'Send type="application/dicom" with a boundary')
    limit = b"--" + (boundary[1] or boundary[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(b"\r\n" + limit)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--") or len(pieces) - 2 > MOST_PARTS:
        raise RequestRefused(
            400, f"the multipart body is damaged, or has more than {MOST_PARTS} parts", "Send it again"
        )
    found = []
    for piece in pieces[1:-1]:
        header, blank, content = piece.partition(b"\r\n\r\n")
        if not blank:
            raise RequestRefused(400, "a part of the multipart body has no end of its header", "Send it again")
        found.append(Part(header.lower(), content))
    return found
