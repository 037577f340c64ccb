"""Bodies of several parts, as DICOMweb clients write them."""

from __future__ import annotations

import pytest
from lib.errors import RequestRefused
from lib.multipart import parts


@pytest.mark.parametrize(
    ("written", "boundary"),
    [
        ("boundary=b", "b"),
        ('boundary="b"', "b"),
        ("Boundary=b", "b"),
        ('BOUNDARY="b"; charset=x', "b"),
        ('boundary="a b: (c), d=e"', "a b: (c), d=e"),
        ("start=xboundary=a; boundary=b", "b"),
    ],
)
def test_the_boundary_is_found_however_it_is_written(written: str, boundary: str) -> None:
    body = f"--{boundary}\r\nContent-Type: text/plain\r\n\r\nfirst\r\n--{boundary}\r\n\r\n\r\n--{boundary}--"
    found = parts(body.encode(), f'multipart/related; type="application/dicom"; {written}')
    assert [part.content for part in found] == [b"first", b""]


@pytest.mark.parametrize("written", ["", 'boundary=""', 'boundary="b'])
def test_a_body_without_a_boundary_is_refused(written: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        parts(b"--b\r\n\r\n\r\n--b--", f"multipart/related; {written}")
    assert refused.value.status == 415
