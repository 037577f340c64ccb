"""Decoder of DDSM's `.LJPEG` files: one-component lossless JPEG as the Stanford (PVRG) codec writes it.

Not a general JPEG decoder. The streams have the structure of ITU-T T.81 annex H, but they are not conformant: PVRG
predicts the first row with the selected predictor too, from a row of half the range above the image, where the
standard takes the left neighbour. A conformant decoder gives a wrong image for the predictors 2, 3, 6 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.pixels import check_size

_REMEDY = "Download the file again"
_MARKER_IN_DATA = re.compile(rb"\xff[^\x00]")
_CHUNK = 2**20  # bytes of entropy-coded data that are decoded at a time; bounds the memory beside the image's
_INVALID = 255  # a step longer than any valid one; the walk must not stand still


class _Stream(NamedTuple):
    """What the markers say, and the entropy-coded data without its stuffed bytes."""

    rows: int
    columns: int
    precision: int
    predictor: int
    point_transform: int
    counts: bytes
    categories: bytes
    data: bytes


class _Codes(NamedTuple):
    """For whatever the next 16 bits are: the code's length (0: there is none), category, and bits of the whole."""

    lengths: np.ndarray
    categories: np.ndarray
    steps: np.ndarray


def read_ljpeg(path: str | PathLike[str]) -> np.ndarray:
    """Decode a DDSM `.LJPEG` file: uint16 grey levels (rows, columns), with the size that its header claims.

    DDSM's headers often have rows and columns exchanged. The samples are in the right order all the same (reshape
    them to the size that the case's `.ics` names), because the encoder predicted with the exchanged size as well.

    Raises:
        MammogramError: the file is absent, is no such stream, is damaged, or is too large.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MammogramError(path, f"it cannot be read ({type(error).__name__})", _REMEDY) from None
    stream = _parse(path, content)
    check_size(path, stream.rows, stream.columns)
    if stream.rows * stream.columns > 8 * len(stream.data):  # every sample takes a bit at least
        raise MammogramError(path, "the stream ends before the image does", _REMEDY)
    differences = _differences(path, stream).reshape(stream.rows, stream.columns)
    return _undo_prediction(differences, stream)


def _parse(path: Path, content: bytes) -> _Stream:
    """Read the markers up to the scan (T.81 B.2); one component, one Huffman table, no restarts."""
    if not content.startswith(b"\xff\xd8"):
        raise MammogramError(path, "it does not begin as a JPEG stream", _REMEDY)
    frame: tuple[int, int, int] | None = None
    tables: dict[int, tuple[bytes, bytes]] = {}
    for marker, body, end in _segments(path, content):
        if marker == 0xC3:
            frame = _frame(path, body)
        elif marker == 0xC4:
            tables |= _tables(path, body)
        elif marker == 0xDD and any(body):
            raise MammogramError(path, "it has restart intervals, which DDSM's streams do not", _REMEDY)
        elif 0xC0 <= marker <= 0xCF:
            raise MammogramError(path, "it is a JPEG stream, but not a lossless one (SOF3)", _REMEDY)
        elif marker == 0xDA:
            if frame is None or len(body) < 6 or body[0] != 1 or body[2] >> 4 not in tables:
                break
            if not 1 <= body[3] <= 7 or body[5] & 15 >= frame[0]:
                raise MammogramError(path, "its scan header is not one of lossless coding", _REMEDY)
            stop = _MARKER_IN_DATA.search(content, end)
            data = content[end : stop.start() if stop else len(content)].replace(b"\xff\x00", b"\xff")
            return _Stream(frame[1], frame[2], frame[0], body[3], body[5] & 15, *tables[body[2] >> 4], data)
    raise MammogramError(path, "it lacks the frame, the table or the scan of one lossless component", _REMEDY)


def _segments(path: Path, content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, body and end of every marker segment."""
    position = 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            raise MammogramError(path, f"there is no marker at byte {position}", _REMEDY)
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        end = position + 2 + length
        if length < 2 or end > len(content):
            raise MammogramError(path, "it ends within its header", _REMEDY)
        yield marker, content[position + 4 : end], end
        position = end


def _frame(path: Path, body: bytes) -> tuple[int, int, int]:
    """Precision, rows and columns."""
    if len(body) < 9 or body[5] != 1 or not 2 <= body[0] <= 16:
        raise MammogramError(path, "its frame is not of one component of 2 to 16 bits", _REMEDY)
    rows, columns = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if not rows or not columns:
        raise MammogramError(path, "its header gives no size", _REMEDY)
    return body[0], rows, columns


def _tables(path: Path, body: bytes) -> dict[int, tuple[bytes, bytes]]:
    """Counts of codes by length (1 to 16 bits) and their categories, of every table in a segment."""
    found = {}
    while len(body) > 17:
        counts, size = body[1:17], sum(body[1:17])
        categories = body[17 : 17 + size]
        kraft = sum(count << (16 - length) for length, count in enumerate(counts, start=1))
        if len(categories) < size or kraft > 1 << 16 or any(category > 16 for category in categories):
            raise MammogramError(path, "its Huffman table is damaged", _REMEDY)
        found[body[0]] = (counts, categories)
        body = body[17 + size :]
    return found


def _lookup(stream: _Stream) -> _Codes:
    """Spread the canonical code (T.81 C.2) over all that the next 16 bits may be."""
    lengths, categories = np.zeros(1 << 16, np.uint8), np.zeros(1 << 16, np.uint8)
    start, symbol = 0, 0
    for length, count in enumerate(stream.counts, start=1):
        for category in stream.categories[symbol : symbol + count]:
            end = start + (1 << (16 - length))
            lengths[start:end], categories[start:end] = length, category
            start = end
        symbol += count
    additional = np.where(categories == 16, 0, categories)  # no bits follow category 16 (T.81 H.1.2.2)
    steps = np.where(lengths == 0, _INVALID, lengths + additional)
    return _Codes(lengths, categories, steps.astype(np.uint8))


def _differences(path: Path, stream: _Stream) -> np.ndarray:
    """Huffman-decode the differences: uint16, modulo 2^16, (rows * columns,).

    Where a code ends is known only after it is decoded, so that the codes are found one after the other. All else is
    done for a whole chunk at once: first how long a code would be that began at each bit, then, for those bits where
    one does begin, its value.
    """
    codes = _lookup(stream)
    data = np.frombuffer(stream.data + b"\xff" * 8, np.uint8)
    differences = np.empty(stream.rows * stream.columns, np.uint16)
    done, position = 0, 0
    for first in range(0, len(stream.data), _CHUNK):
        size = min(_CHUNK, len(stream.data) - first)
        words = _words(data[first : first + size + 8])
        starts, position = _walk(_steps(words[:size], codes), position, len(differences) - done)
        values = _values(words, starts, codes)
        if values is None:
            raise MammogramError(path, "its data are damaged (a code that its table does not have)", _REMEDY)
        differences[done : done + len(values)] = values
        done += len(values)
        if done == len(differences) and position <= 8 * size:
            return differences
        position -= 8 * size
    raise MammogramError(path, "the stream ends before the image does", _REMEDY)


def _words(data: np.ndarray) -> np.ndarray:
    """The 32 bits that begin at each byte but the last three; uint32."""
    wide = data.astype(np.uint32)
    return wide[:-3] << np.uint32(24) | wide[1:-2] << np.uint32(16) | wide[2:-1] << np.uint32(8) | wide[3:]


def _steps(words: np.ndarray, codes: _Codes) -> bytes:
    """How many bits the difference takes that would begin at each bit: one byte for every bit of the data."""
    steps = np.empty((len(words), 8), np.uint8)
    for bit in range(8):
        steps[:, bit] = codes.steps[(words >> np.uint32(16 - bit)) & np.uint32(0xFFFF)]
    return steps.tobytes()


def _walk(steps: bytes, position: int, most: int) -> tuple[np.ndarray, int]:
    """Where differences begin, from `position` on, at most `most` of them; and where the next one would."""
    starts: list[int] = []
    limit = len(steps)
    append = starts.append
    while position < limit:
        append(position)
        position += steps[position]
    if len(starts) > most:
        position = starts[most]
        del starts[most:]
    return np.array(starts, np.int64), position


def _values(words: np.ndarray, starts: np.ndarray, codes: _Codes) -> np.ndarray | None:
    """The differences that begin at these bits, uint16 modulo 2^16 (T.81 H.1.2.2); None where there is no code."""
    byte, bit = starts >> 3, (starts & 7).astype(np.uint64)
    forty = words[byte].astype(np.uint64) << np.uint64(8) | (words[byte + 1] & np.uint32(0xFF))
    bits = (forty >> (np.uint64(8) - bit)).astype(np.uint32)  # the 32 from the code's first on
    head = bits >> np.uint32(16)
    lengths, categories = codes.lengths[head], codes.categories[head].astype(np.int64)
    if not lengths.all():
        return None
    additional = (bits << lengths).astype(np.int64) >> (32 - categories)
    positive = additional >> np.maximum(categories - 1, 0) != 0
    values = np.where(positive, additional, additional - (1 << categories) + 1)
    return np.where(categories == 16, 1 << 15, values).astype(np.uint16)


def _undo_prediction(differences: np.ndarray, stream: _Stream) -> np.ndarray:
    """Samples from differences: uint16 (rows, columns); T.81 H.1.2.1, with PVRG's rule for the first row.

    A sample depends on those to its left, above, and above left; hence all samples of an antidiagonal are
    independent of each other, and one sweep over the antidiagonals serves every predictor.
    """
    rows, columns = differences.shape
    half = 1 << (stream.precision - stream.point_transform - 1)
    samples = np.empty((rows + 1, columns), np.int32)
    samples[0] = half  # the row above the image
    # The first column is predicted from above, whatever the predictor.
    samples[1:, 0] = np.cumsum(differences[:, 0], dtype=np.uint16) + np.uint16(half)
    flat, delta = samples.reshape(-1), differences.reshape(-1)
    step = columns - 1  # from a sample to its lower left neighbour
    for diagonal in range(1, rows + columns - 1):
        top = max(0, diagonal - columns + 1)
        count = min(rows - 1, diagonal - 1) - top + 1
        if count < 1:
            continue
        here = diagonal + top * step  # in `delta`; a row further down in `flat`
        span = (count - 1) * step + 1
        above = flat[here : here + span : step]
        above_left = flat[here - 1 : here - 1 + span : step]
        left = flat[here + columns - 1 : here + columns - 1 + span : step]
        predicted = _predict(stream.predictor, left, above, above_left)
        flat[here + columns : here + columns + span : step] = (predicted + delta[here : here + span : step]) & 0xFFFF
    return (samples[1:] << stream.point_transform).astype(np.uint16)


def _predict(predictor: int, left: np.ndarray, above: np.ndarray, above_left: np.ndarray) -> np.ndarray:
    """T.81, table H.1."""
    if predictor == 1:
        return left
    if predictor == 2:
        return above
    if predictor == 3:
        return above_left
    if predictor == 4:
        return left + above - above_left
    if predictor == 5:
        return left + ((above - above_left) >> 1)
    if predictor == 6:
        return above + ((left - above_left) >> 1)
    return (left + above) >> 1
