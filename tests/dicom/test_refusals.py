"""What is no mammogram is refused with a reason and a remedy, before memory is taken for it."""

import pickle
import struct
import tracemalloc

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate

from monai_mammo.dicom import MammogramError, read_header, read_mammogram, read_mask, reader

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG_2000 = "1.2.840.10008.1.2.4.90"


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.13.1.3"}, "tomosynthesis"),
        ({"NumberOfFrames": 30}, "30 frames"),
        ({"SOPClassUID": CT, "Modality": "CT"}, "CT Image Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}, "Segmentation Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "Modality": "SR", "PixelData": None}, "Comprehensive SR"),
        ({"SOPClassUID": "1.2.3.4"}, "unknown SOP class"),
        ({"Modality": "CT"}, "modality is CT"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "US"}, "modality is US"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "MR", "BodyPartExamined": "BREAST"}, "is MR"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "RGB with 3 sample"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"PhotometricInterpretation": None}, "interpretation is missing"),
        ({"PixelData": None}, "no pixel data"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 allocated bits"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "1 allocated bits"),
        ({"BitsStored": 20}, "20 bits are stored in 16"),
        ({"HighBit": 15}, "HighBit"),
        ({"Rows": None}, "Rows is missing"),
        ({"Rows": 0}, "0 x 30 pixels"),
        ({"Rows": 65535, "Columns": 65535}, "more than the"),
        ({"Rows": 5000, "Columns": 5000}, "50000000 bytes of pixels are claimed, 2400 are there"),
    ],
)
def test_headers_that_disqualify(make, attributes, reason):
    path = make(**attributes)
    for read in (read_mammogram, read_header, read_mask):
        with pytest.raises(MammogramError, match=reason) as caught:
            read(path)
        assert caught.value.path == path
        assert str(path) in str(caught.value)
        assert caught.value.remedy in str(caught.value)


def test_float_pixel_data(make):
    path = make(PixelData=None, FloatPixelData=np.zeros(1200, np.float32).tobytes(), BitsAllocated=32, BitsStored=32)
    with pytest.raises(MammogramError, match="floating point"):
        read_mammogram(path)


@pytest.mark.parametrize("attribute", ["WindowCenter", "ImagerPixelSpacing", "RescaleSlope"])
def test_a_number_that_is_none_is_named(make, attribute):
    path = make(**{attribute: [3, 3] if attribute == "ImagerPixelSpacing" else 3})
    content = path.read_bytes()
    tag = struct.pack("<HH", *divmod(pydicom.datadict.tag_for_keyword(attribute), 0x10000))
    at = content.index(tag + b"DS") + 8
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    with pytest.raises(MammogramError, match=attribute):
        read_mammogram(path)


def test_the_limit_on_pixels_can_be_lowered(make):
    assert read_mammogram(make(), max_pixels=1200).pixels.size == 1200
    with pytest.raises(MammogramError, match="more than the 1199"):
        read_mammogram(make(), max_pixels=1199)


def test_a_hostile_size_takes_no_memory(make):
    path = make(Rows=9000, Columns=9000)
    tracemalloc.start()
    with pytest.raises(MammogramError, match="truncated"):
        read_mammogram(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_a_codestream_larger_than_its_header_is_not_decoded(make):
    """Codecs take memory for what the codestream claims; here 60000 x 60000."""
    siz = struct.pack(">HHH8L", 0xFF51, 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0)
    jpeg = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 11, 12, 60000, 60000, 1) + b"\x01\x11\x00"
    for codestream, syntax in ((b"\xff\x4f" + siz, JPEG_2000), (jpeg, "1.2.840.10008.1.2.4.70")):
        with pytest.raises(MammogramError, match=r"compressed image has \(60000, 60000\) pixels"):
            read_mammogram(make(syntax=syntax, PixelData=encapsulate([codestream + bytes(64)])))


@pytest.mark.parametrize(
    "syntax", [JPEG_2000, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"]
)
def test_compressed_rubbish(make, syntax):
    with pytest.raises(MammogramError, match="cannot be decoded"):
        read_mammogram(make(syntax=syntax, PixelData=encapsulate([bytes(range(200))])))


def test_a_transfer_syntax_without_a_codec(make):
    with pytest.raises(MammogramError, match=r"cannot be decoded.*Convert it"):
        read_mammogram(make(syntax="1.2.840.10008.1.2.4.100", PixelData=encapsulate([bytes(200)])))


def test_a_deflated_file_is_not_inflated(make):
    with pytest.raises(MammogramError, match="Deflated"):
        read_mammogram(make(syntax="1.2.840.10008.1.2.1.99"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.dcm", b"These are not the bytes you are looking for.\n" * 20, "neither DICOM nor"),
        ("empty.dcm", b"", "empty"),
        ("page.png", b"<html>404</html>", "neither DICOM nor"),
        ("magic.dcm", b"\0" * 128 + b"DICM", "no pixel data|of an unknown SOP class"),
        ("short.png", b"\x89PNG\r\n\x1a\n\0\0", "PNG file is damaged"),
        ("short.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG file is damaged"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MammogramError, match=reason):
        read_mammogram(path)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(MammogramError, match="folder"):
        read_mammogram(tmp_path)
    with pytest.raises(MammogramError, match="no such file"):
        read_mammogram(tmp_path / "absent.dcm")


@given(cut=st.floats(0, 1, exclude_max=True), encapsulated=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_truncated_file_never_raises_anything_else_and_never_passes(make, tmp_path_factory, cut, encapsulated):
    path = make()
    if encapsulated:
        dataset = pydicom.dcmread(path)
        dataset.compress("1.2.840.10008.1.2.5")
        dataset.save_as(path)
    content = path.read_bytes()
    shorter = tmp_path_factory.getbasetemp() / "truncated.dcm"
    # The last eight bytes of a compressed file only say that it ends: without them the image is still whole.
    shorter.write_bytes(content[: int(cut * (len(content) - 8 * encapsulated))])
    with pytest.raises(MammogramError):
        read_mammogram(shorter)


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_corrupted_file_is_refused_or_gives_an_image(make, tmp_path_factory, changes):
    content = bytearray(make(WindowCenter=2000, WindowWidth=1000, ImagerPixelSpacing=[0.1, 0.1]).read_bytes())
    header = len(content) - 2400
    for position, value in changes:
        content[132 + int(position * (header - 132))] = value
    path = tmp_path_factory.getbasetemp() / "corrupted.dcm"
    path.write_bytes(content)
    try:
        pixels = read_mammogram(path).pixels
    except MammogramError:
        return
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_a_corrupted_file_meta_information_is_refused_by_name(make):
    path = make()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x02\0\x02\0UI", b"\x02\0\x02\0U\0"))  # MediaStorageSOPClassUID's type
    with pytest.raises(MammogramError, match=r"MediaStorageSOPClassUID is malformed|cannot be parsed"):
        read_mammogram(path)


@pytest.mark.parametrize(("keyword", "vr"), [("PatientID", "US"), ("ViewPosition", "FD"), ("ViewCodeSequence", "US")])
def test_an_attribute_of_another_type_is_refused_by_name(make, keyword, vr):
    path = make()
    dataset = pydicom.dcmread(path)
    dataset.add_new(tag_for_keyword(keyword), vr, 7)
    dataset.save_as(path)
    with pytest.raises(MammogramError, match=f"{keyword} is malformed"):
        read_mammogram(path)


def test_the_error_survives_the_way_back_from_a_worker(tmp_path):
    error = MammogramError(tmp_path, "reason", "Remedy")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason, again.remedy) == (str(error), "reason", "Remedy")


def test_a_file_that_becomes_shorter_while_it_is_read(make, monkeypatch):
    path = make(np.zeros((400, 300), np.uint16))
    checked = reader.check_layout

    def check_and_cut(*given):
        layout = checked(*given)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 500)
        return layout

    monkeypatch.setattr(reader, "check_layout", check_and_cut)
    with pytest.raises(MammogramError, match="became shorter"):
        read_mammogram(path)
