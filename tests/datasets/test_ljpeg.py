"""DDSM's lossless JPEG: what the Stanford codec would write is read back bit by bit, and damage is told as such.

The encoder here is written from the codec's behaviour, sample by sample; it shares nothing with the decoder.
"""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_mammo.datasets.ljpeg import read_ljpeg
from monai_mammo.dicom.errors import MammogramError

# A prefix code for the categories 0 to 16, as a DHT segment has it; the frequent ones of scanned film are short.
COUNTS = bytes([0, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0])
CATEGORIES = bytes([4, 5, 3, 6, 2, 7, 8, 1, 9, 0, 10, 11, 12, 13, 14, 15, 16])


def _code() -> dict[int, str]:
    """The canonical Huffman code of COUNTS and CATEGORIES, as strings of bits."""
    codes, value, categories = {}, 0, iter(CATEGORIES)
    for length, count in enumerate(COUNTS, start=1):
        for category in itertools.islice(categories, count):
            codes[category] = f"{value:0{length}b}"
            value += 1
        value <<= 1
    return codes


def _predicted(image: np.ndarray, row: int, column: int, predictor: int, half: int) -> int:
    """What PVRG predicts: above for the first column, else the predictor, with a row of `half` above the image."""
    above = int(image[row - 1, column]) if row else half
    if column == 0:
        return above
    left = int(image[row, column - 1])
    corner = int(image[row - 1, column - 1]) if row else half
    return {
        1: left,
        2: above,
        3: corner,
        4: left + above - corner,
        5: left + (above - corner) // 2,
        6: above + (left - corner) // 2,
        7: (left + above) // 2,
    }[predictor]


def encode(image: np.ndarray, predictor: int = 7, precision: int = 16, transform: int = 0, fill: bytes = b"") -> bytes:
    """An `.LJPEG` file as the Stanford codec writes it."""
    codes, bits = _code(), []
    shifted = image >> transform
    half = 1 << (precision - transform - 1)
    for row, column in np.ndindex(*image.shape):
        difference = (int(shifted[row, column]) - _predicted(shifted, row, column, predictor, half)) & 0xFFFF
        signed = difference if difference <= 1 << 15 else difference - (1 << 16)
        category = abs(signed).bit_length()
        bits.append(codes[category])
        if 0 < category < 16:
            low = signed if signed > 0 else signed - 1
            bits.append(f"{low & ((1 << category) - 1):0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    return header(*image.shape, predictor, precision, transform) + data + fill + b"\xff\xd9"


def header(rows: int, columns: int, predictor: int = 7, precision: int = 16, transform: int = 0) -> bytes:
    frame = bytes([precision, *rows.to_bytes(2, "big"), *columns.to_bytes(2, "big"), 1, 1, 0x11, 0])
    table = b"\x00" + COUNTS + CATEGORIES
    scan = bytes([1, 1, 0, predictor, 0, transform])
    segments = ((0xC3, frame), (0xC4, table), (0xDA, scan))
    return b"\xff\xd8" + b"".join(
        bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body for marker, body in segments
    )


@pytest.fixture
def film(tmp_path):
    """Write bytes as an `.LJPEG` file."""

    def write(content: bytes):
        file = tmp_path / "A_0001_1.LEFT_CC.LJPEG"
        file.write_bytes(content)
        return file

    return write


def smooth(rows: int, columns: int, bits: int = 12, seed: int = 0) -> np.ndarray:
    """A film-like image: a bright half disc on dark ground, with noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    disc = np.hypot(y - rows / 2, x) < 0.4 * rows
    return np.clip((0.2 + 0.5 * disc) * 2**bits + generator.normal(0, 6, (rows, columns)), 0, 2**bits - 1).astype(
        np.uint16
    )


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize(("precision", "bits"), [(12, 12), (16, 12), (16, 16)])
def test_every_predictor_and_precision_reads_back(film, predictor, precision, bits):
    image = smooth(37, 23, bits)
    np.testing.assert_array_equal(read_ljpeg(film(encode(image, predictor, precision))), image)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    image=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(np.uint16, shape)),
    predictor=st.integers(1, 7),
)
def test_any_image_reads_back(film, image, predictor):
    """Also single rows and columns, and differences that wrap around modulo 2^16 (category 16 among them)."""
    np.testing.assert_array_equal(read_ljpeg(film(encode(image, predictor))), image)


def test_chunks_of_data_join_without_a_seam(film, monkeypatch):
    monkeypatch.setattr("monai_mammo.datasets.ljpeg._CHUNK", 5)
    image = smooth(40, 31, 16)
    np.testing.assert_array_equal(read_ljpeg(film(encode(image, 7))), image)


def test_a_point_transform_scales_back(film):
    image = smooth(9, 11) & 0xFFFC
    np.testing.assert_array_equal(read_ljpeg(film(encode(image, 4, transform=2))), image)


def test_exchanged_rows_and_columns_keep_the_order_of_the_samples(film):
    """As in DDSM: encoded with the sides exchanged; a plain reshape to the .ics file's size restores the film."""
    image = smooth(30, 20)
    stored = read_ljpeg(film(encode(image.reshape(20, 30), 7)))
    assert stored.shape == (20, 30)
    np.testing.assert_array_equal(stored.reshape(30, 20), image)


@pytest.mark.parametrize("predictor", [1, 4, 5])
def test_agrees_with_an_independent_codec_where_the_standard_and_pvrg_do(film, predictor):
    libjpeg = pytest.importorskip("libjpeg")
    image = smooth(64, 48)
    content = encode(image, predictor)
    np.testing.assert_array_equal(libjpeg.decode(content), image)
    np.testing.assert_array_equal(read_ljpeg(film(content)), image)


@pytest.mark.parametrize("predictor", [2, 3, 6, 7])
def test_a_conformant_codec_cannot_read_the_other_predictors(predictor):
    """Why there is a decoder here at all: PVRG's first row is not the standard's."""
    libjpeg = pytest.importorskip("libjpeg")
    image = smooth(64, 48)
    assert (libjpeg.decode(encode(image, predictor)) != image).any()


def test_markers_that_do_not_matter_are_skipped(film):
    image = smooth(12, 10)
    content = encode(image)
    comment = b"\xff\xff\xfe\x00\x06note"
    np.testing.assert_array_equal(read_ljpeg(film(content[:2] + comment + content[2:])), image)


def test_bytes_of_ff_in_the_data_are_no_markers(film):
    """Differences of -1 in one category end in ones; stuffed bytes come out again."""
    image = np.random.default_rng(3).integers(0, 1 << 16, (40, 40)).astype(np.uint16)
    content = encode(image)
    assert b"\xff\x00" in content
    np.testing.assert_array_equal(read_ljpeg(film(content)), image)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "does not begin as a JPEG stream"),
        (lambda content: b"\x89PNG" + content, "does not begin as a JPEG stream"),
        (lambda content: content[:2], "it lacks the frame"),
        (lambda content: content[:9], "ends within its header"),
        (lambda content: content.replace(b"\xff\xc3", b"\xff\xc0", 1), "not a lossless one"),
        (lambda content: content.replace(b"\xff\xc3", b"\xff\xe3", 1), "it lacks the frame"),
        (lambda content: content[: len(content) // 2], "ends before the image does"),
        (lambda content: content[:-12] + content[-2:], "ends before the image does"),
        (lambda content: content[:2] + b"\xff\xdd\x00\x04\x00\x08" + content[2:], "restart intervals"),
        (lambda content: content[:15] + b"\x00" + content[16:], "no marker at byte 15"),
        (lambda content: content.replace(COUNTS, b"\x09" + COUNTS[1:], 1), "Huffman table is damaged"),
        (lambda content: content.replace(CATEGORIES, CATEGORIES[:-1] + b"\x11", 1), "Huffman table is damaged"),
        (lambda content: header(0, 10), "gives no size"),
        (lambda content: header(65535, 65535) + b"\x00" * 99, "65535"),
        (lambda content: header(9000, 9000) + b"\x00" * 99, "ends before the image does"),
        (lambda content: header(4, 4, predictor=0) + b"\x00" * 99, "not one of lossless coding"),
        (lambda content: header(4, 4) + b"\xff\x00" * 99, "a code that its table does not have"),
    ],
)
def test_damage_is_told_by_its_reason(film, damage, reason):
    file = film(damage(encode(smooth(30, 20))))
    with pytest.raises(MammogramError, match=reason) as told:
        read_ljpeg(file)
    assert told.value.path == file


INTACT = encode(smooth(12, 9))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_any_damage_ends_in_an_image_or_in_an_error_of_ours(film, edits):
    content = bytearray(INTACT)
    for place, value in edits:
        content[place % len(content)] = value
    file = film(bytes(content))
    try:
        samples = read_ljpeg(file)
    except MammogramError as error:
        assert error.path == file  # noqa: PT017 (an image is as good an end)
    else:
        assert samples.dtype == np.uint16
        assert samples.ndim == 2


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(MammogramError, match="cannot be read"):
        read_ljpeg(tmp_path / "absent.LJPEG")
