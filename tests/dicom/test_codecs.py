"""Every transfer syntax met in mammography gives the stored pixels, whichever decoder is at work."""

import struct

import imagecodecs
import numpy as np
import openjpeg.utils
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_pixel_data_frame

from monai_mammo.dicom import MammogramError, read_mammogram

JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS, HTJ2K_RPCL, HTJ2K = (f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203))
RLE = "1.2.840.10008.1.2.5"


def textured(bits, rows=37, columns=53):
    """Smooth tissue with noise, using the whole range of its bits; odd sizes."""
    rng = np.random.default_rng(bits)
    smooth = np.add.outer(np.linspace(0, 1, rows), np.linspace(0, 1, columns)) / 2
    values = np.clip(smooth + rng.normal(0, 0.02, smooth.shape), 0, 1) * (2**bits - 1)
    values[0, 0], values[-1, -1] = 0, 2**bits - 1
    return values.round().astype(np.uint8 if bits <= 8 else np.uint16)


def jpeg_lossless_sv1(pixels, precision):
    """Encode with predictor 1 and one Huffman table of 5 bits for all 17 categories (ITU-T T.81, annex H)."""
    rows, columns = pixels.shape
    predicted = np.empty(pixels.shape, dtype=np.int64)
    values = pixels.astype(np.int64)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << (precision - 1)
    bits = []
    for difference in ((values - predicted + 32768) % 65536 - 32768).ravel().tolist():
        category = abs(difference).bit_length()
        bits.append(format(category, "05b"))
        if 0 < category < 16:
            amount = difference if difference > 0 else difference + (1 << category) - 1
            bits.append(format(amount, f"0{category}b"))
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    huffman = b"\x00" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    return b"".join(
        [
            b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 11, precision, rows, columns, 1) + b"\x01\x11\x00",
            b"\xff\xc4" + struct.pack(">H", 2 + len(huffman)) + huffman,
            b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + data + b"\xff\xd9",
        ]
    )


def jpeg_2000(pixels, precision, ratio=None):
    return openjpeg.utils.encode_array(
        pixels, bits_stored=precision, photometric_interpretation=2, compression_ratios=ratio
    )


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", RLE])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_uncompressed_and_rle(make, syntax, bits):
    pixels = textured(bits)
    path = make(pixels, bits=bits, syntax="1.2.840.10008.1.2.1" if syntax == RLE else syntax)
    if syntax == RLE:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLE)
        dataset.save_as(path)
    np.testing.assert_allclose(read_mammogram(path).pixels * (2**bits - 1), pixels, atol=0.01)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    ("syntax", "encode"), [(JPEG_LOSSLESS_SV1, jpeg_lossless_sv1), (JPEG_2000_LOSSLESS, jpeg_2000)]
)
def test_lossless_jpeg_and_jpeg_2000(make, syntax, encode, bits):
    pixels = textured(bits)
    path = make(pixels, bits=bits, syntax=syntax, PixelData=encapsulate([encode(pixels, bits)]))
    np.testing.assert_allclose(read_mammogram(path).pixels * (2**bits - 1), pixels, atol=0.01)


def test_several_fragments_and_an_offset_table(make):
    pixels = textured(12)
    data = encapsulate([jpeg_2000(pixels, 12)], fragments_per_frame=3, has_bot=True)
    path = make(pixels, syntax=JPEG_2000_LOSSLESS, PixelData=data)
    np.testing.assert_allclose(read_mammogram(path).pixels * 4095, pixels, atol=0.01)


def test_a_group_length_or_an_extended_offset_table_before_the_pixels(make):
    pixels = textured(12)
    codestream = jpeg_2000(pixels, 12)
    ends = {
        "ExtendedOffsetTable": struct.pack("<Q", 0),
        "ExtendedOffsetTableLengths": struct.pack("<Q", len(codestream)),
    }
    table = make(pixels, syntax=JPEG_2000_LOSSLESS, PixelData=encapsulate([codestream], has_bot=False), **ends)
    grouped = make(pixels)
    content = grouped.read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW")
    length = b"\xe0\x7f\x00\x00UL\x04\x00" + struct.pack("<L", len(content) - at)
    grouped.write_bytes(content[:at] + length + content[at:])
    for path in (table, grouped):
        np.testing.assert_allclose(read_mammogram(path).pixels * 4095, pixels, atol=0.01)


def test_lossy_jpeg_2000(make):
    pixels = textured(12, 128, 96)
    path = make(pixels, syntax=JPEG_2000, PixelData=encapsulate([jpeg_2000(pixels, 12, [10])]))
    assert np.abs(read_mammogram(path).pixels - pixels / 4095).mean() < 0.02


def htj2k_file(make, pixels, bits, syntax, **how):
    """A file in High-Throughput JPEG 2000, of which older pydicom knows no name and writes no file."""
    if not hasattr(imagecodecs, "htj2k_encode"):
        pytest.skip("this imagecodecs encodes no HTJ2K")
    codestream = imagecodecs.htj2k_encode(pixels, **how)
    path = make(pixels, bits=bits, syntax=JPEG_2000, PixelData=encapsulate([codestream]))
    dataset = pydicom.dcmread(path)
    content = path.read_bytes()
    meta = int.from_bytes(content[140:144], "little")
    dataset.file_meta.TransferSyntaxUID = syntax
    with path.open("wb") as file:
        file.write(content[:132])
        pydicom.filewriter.write_file_meta_info(file, dataset.file_meta)
        file.write(content[144 + meta :])
    return path


@pytest.mark.parametrize("bits", [8, 12, 14, 16])
@pytest.mark.parametrize("syntax", [HTJ2K_LOSSLESS, HTJ2K_RPCL, HTJ2K])
def test_lossless_high_throughput_jpeg_2000(make, syntax, bits):
    pixels = textured(bits)
    path = htj2k_file(make, pixels, bits, syntax, reversible=True)
    np.testing.assert_allclose(read_mammogram(path).pixels * (2**bits - 1), pixels, atol=0.01)


def test_lossy_high_throughput_jpeg_2000(make):
    pixels = textured(12, 128, 96)
    path = htj2k_file(make, pixels, 12, HTJ2K, reversible=False, level=0.001)
    assert 0 < np.abs(read_mammogram(path).pixels - pixels / 4095).mean() < 0.02


@pytest.mark.parametrize(
    ("name", "original", "syntax", "rounding"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", JPEG_LS, 0),
        ("JPGExtended.dcm", "JPGExtended.dcm", JPEG_EXTENDED, 1),
        ("JPEG-lossy.dcm", "JPGExtended.dcm", JPEG_EXTENDED, 1),  # pydicom's plugins do not open it
    ],
)
def test_codestreams_that_pydicom_ships(make, name, original, syntax, rounding):
    source = pydicom.dcmread(get_testdata_file(name, download=False))
    expected = pydicom.dcmread(get_testdata_file(original, download=False)).pixel_array
    path = make(expected, bits=source.BitsStored, syntax=syntax, PixelData=source.PixelData)
    low = -(2 ** (source.BitsStored - 1)) if source.PixelRepresentation else 0
    shown = read_mammogram(path).pixels * (2**source.BitsStored - 1) + low
    np.testing.assert_allclose(shown, expected, atol=rounding + 0.05)


def test_a_lossy_jpeg_that_is_cut_short_is_not_filled_up_with_grey(make):
    source = pydicom.dcmread(get_testdata_file("JPEG-lossy.dcm", download=False))
    half = next(generate_pixel_data_frame(source.PixelData, 1))[:2000]
    pixels = np.zeros((source.Rows, source.Columns), np.uint16)
    with pytest.raises(MammogramError, match=r'"JPEG Extended .*cannot be decoded'):
        read_mammogram(make(pixels, syntax=JPEG_EXTENDED, PixelData=encapsulate([half])))


def test_a_decoder_that_panics(make):
    """The RLE decoder is written in Rust: on a segment cut short it raises what is no Exception."""
    segment = struct.pack("<16L", 2, 64, 67, *[0] * 13) + b"\x7f\x00\x00" + b"\x7f"
    with pytest.raises(MammogramError, match="cannot be decoded"):
        read_mammogram(make(textured(12), syntax=RLE, PixelData=encapsulate([segment])))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_a_file_without_preamble_and_meta_information(make, syntax):
    """As old archives hold them: the data set alone."""
    path = make(textured(12), syntax=syntax)
    expected = read_mammogram(path).pixels
    content = path.read_bytes()
    (length,) = struct.unpack_from("<L", content, 140)
    path.write_bytes(content[144 + length :])
    np.testing.assert_array_equal(read_mammogram(path).pixels, expected)
