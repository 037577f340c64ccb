"""Pixels as a radiologist sees them: DICOM's greyscale pipeline from stored values to [0, 1]."""

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_mammo.dicom import MammogramError, read_mammogram
from monai_mammo.dicom.display import add_window

try:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut
except ImportError:  # pydicom 2
    from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_voi_lut


def pydicom_display(path):
    """Pydicom's float64 pipeline, scaled from its output range to [0, 1]."""
    dataset = pydicom.dcmread(path)
    values = np.array([0, 2**dataset.BitsStored - 1])
    if dataset.PixelRepresentation:
        values = values - 2 ** (dataset.BitsStored - 1)
    low, high = np.sort(apply_modality_lut(values.astype(np.int32), dataset))
    if "VOILUTSequence" in dataset:
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    return (shown - low) / (high - low)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize(("center", "width"), [(2000, 800), (2047.5, 4096), (100.25, 1.5), (-50, 300), (4000, 1)])
def test_windows_agree_with_pydicom(make, function, center, width):
    path = make(WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    np.testing.assert_allclose(read_mammogram(path).pixels, pydicom_display(path), atol=1e-6)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2.5, -100), (-1, 4095), (0.001, 7)])
def test_the_window_acts_on_rescaled_values(make, slope, intercept):
    center, width = 2000 * slope + intercept, max(1, abs(500 * slope))
    path = make(WindowCenter=center, WindowWidth=width, RescaleSlope=slope, RescaleIntercept=intercept)
    dataset = pydicom.dcmread(path)
    rescaled = dataset.pixel_array * slope + intercept
    expected = np.clip((rescaled - (center - 0.5)) / max(width - 1, 1e-9) + 0.5, 0, 1)
    np.testing.assert_allclose(read_mammogram(path).pixels, expected, atol=1e-5)


def test_signed_pixels_keep_their_sign(make):
    pixels = np.linspace(-2048, 2047, 1200).reshape(40, 30).astype(np.int16)
    path = make(pixels, WindowCenter=-500, WindowWidth=1000)
    np.testing.assert_allclose(read_mammogram(path).pixels, pydicom_display(path), atol=1e-6)


def test_the_first_of_several_windows_is_used_and_another_on_request(make):
    path = make(WindowCenter=[1000, 3000], WindowWidth=[500, 600])
    first, second = (make(WindowCenter=c, WindowWidth=w) for c, w in ((1000, 500), (3000, 600)))
    np.testing.assert_array_equal(read_mammogram(path).pixels, read_mammogram(first).pixels)
    np.testing.assert_array_equal(read_mammogram(path, voi=1).pixels, read_mammogram(second).pixels)
    with pytest.raises(MammogramError, match="there are 2"):
        read_mammogram(path, voi=2)


def test_a_threshold_window_of_width_one_is_allowed(make):
    pixels = read_mammogram(make(WindowCenter=2000, WindowWidth=1)).pixels
    assert set(np.unique(pixels)) == {0.0, 1.0}


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -5},
        {"WindowCenter": 2000, "WindowWidth": 0.5},
        {"WindowCenter": 2000, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2000, "WindowWidth": 100, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": [2000, 100], "WindowWidth": 100},
        {"WindowCenter": 2000},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
    ],
)
def test_impossible_transforms_are_refused(make, attributes):
    with pytest.raises(MammogramError, match="Correct the attribute"):
        read_mammogram(make(**attributes))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("first", [0, 500])
def test_a_voi_lut_wins_over_the_window(make, lut, bits, first, ramp):
    entries = (np.linspace(0, 1, 1000) ** 2 * (2**bits - 1)).astype(int)
    path = make(VOILUTSequence=[lut(first, list(entries), bits)], WindowCenter=2000, WindowWidth=10)
    expected = entries[np.clip(ramp().astype(int) - first, 0, 999)] / (2**bits - 1)
    np.testing.assert_allclose(read_mammogram(path).pixels, expected, atol=1e-6)


def test_a_voi_lut_with_entries_above_its_stated_bits_is_shown_by_its_largest(make, lut, ramp):
    entries = np.arange(4096) * 2
    path = make(VOILUTSequence=[lut(0, list(entries), 12)])
    np.testing.assert_allclose(read_mammogram(path).pixels, ramp() / 4095, atol=1e-6)


@pytest.mark.parametrize("shape", ["line", "sigmoid"])
@pytest.mark.parametrize("intercept", [0, -1000])
def test_viewers_get_the_window_nearest_to_a_voi_lut_and_the_reader_shows_the_same_by_it(make, lut, shape, intercept):
    values = np.arange(4096)
    curve = np.clip((values - 800) / 2500, 0, 1) if shape == "line" else 1 / (1 + np.exp(-4 * (values - 1900) / 2200))
    table = lut(intercept, list(np.rint(curve * 4095).astype(int)), 12)
    path = make(VOILUTSequence=[table], RescaleSlope=1, RescaleIntercept=intercept)
    shown, dataset = read_mammogram(path).pixels, pydicom.dcmread(path)
    add_window(path, dataset)
    assert dataset.VOILUTFunction == {"line": "LINEAR", "sigmoid": "SIGMOID"}[shape]
    del dataset.VOILUTSequence
    dataset.save_as(path)
    np.testing.assert_allclose(read_mammogram(path).pixels, shown, atol=0.01)


def test_no_window_takes_the_place_of_one_that_is_there_or_of_a_lut_that_falls(make, lut):
    falling = lut(0, list(range(4095, -1, -1)), 12)
    for attributes in ({"WindowCenter": 2000, "WindowWidth": 10}, {"VOILUTSequence": [falling]}, {}):
        path = make(**attributes)
        dataset = pydicom.dcmread(path)
        before = dataset.to_json()
        add_window(path, dataset)
        assert dataset.to_json() == before


@pytest.mark.parametrize(
    ("syntax", "word"), [("1.2.840.10008.1.2", "<u2"), ("1.2.840.10008.1.2.1", "<u2"), ("1.2.840.10008.1.2.2", ">u2")]
)
def test_a_voi_lut_of_signed_pixels_starts_below_zero(make, lut, syntax, word):
    pixels = np.linspace(-100, 400, 1200).reshape(40, 30).astype(np.int16)
    path = make(pixels, syntax=syntax, VOILUTSequence=[lut(-100, list(range(501)), 10, word)])
    np.testing.assert_allclose(read_mammogram(path).pixels, (pixels + 100) / 1023, atol=1e-6)


@pytest.mark.parametrize("intercept", [-1024, 32768])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_a_voi_lut_starts_where_the_rescaled_values_say_whatever_the_sign_of_the_pixels(make, lut, syntax, intercept):
    """Rescaling makes signed pixels large positive values, or unsigned ones negative."""
    kind = np.uint16 if intercept < 0 else np.int16
    pixels = (np.linspace(0, 500, 1200).reshape(40, 30) + 900).astype(kind)
    first = 900 + intercept
    table = lut(first if intercept < 0 else first - 2**16, list(range(501)), 10)
    if intercept > 0:
        table["LUTDescriptor"].VR, table.LUTDescriptor = "US", [501, first, 10]
    path = make(pixels, syntax=syntax, VOILUTSequence=[table], RescaleSlope=1, RescaleIntercept=intercept)
    np.testing.assert_allclose(read_mammogram(path).pixels, (pixels.astype(int) - 900) / 1023, atol=1e-6)


def test_a_modality_lut_comes_before_the_window(make, lut, ramp):
    entries = [int(np.sqrt(value) * 64) for value in range(4096)]
    path = make(ModalityLUTSequence=[lut(0, entries, 12)], WindowCenter=2048, WindowWidth=4096)
    expected = np.clip((np.asarray(entries)[ramp()] - 2047.5) / 4095 + 0.5, 0, 1)
    np.testing.assert_allclose(read_mammogram(path).pixels, expected, atol=1e-6)


def test_a_lut_with_missing_entries_is_refused(make, lut):
    broken = lut(0, [1, 2, 3, 4], 12)
    broken.LUTDescriptor = [100, 0, 12]
    with pytest.raises(MammogramError, match="VOILUTSequence has 4 entries"):
        read_mammogram(make(VOILUTSequence=[broken]))


def test_without_a_voi_transform_the_stored_range_is_shown(make):
    """So a crop and its whole mammogram keep one scale, as CBIS-DDSM's do."""
    dim = np.full((8, 8), 1000, dtype=np.uint16)
    np.testing.assert_allclose(read_mammogram(make(dim, bits=12)).pixels, 1000 / 4095, rtol=1e-6)
    np.testing.assert_allclose(read_mammogram(make(dim, bits=16)).pixels, 1000 / 65535, rtol=1e-6)


@given(st.integers(1, 16), st.floats(-5000, 70000), st.floats(1, 70000), st.sampled_from(["LINEAR", "SIGMOID"]))
@settings(max_examples=30, deadline=None)
def test_a_monochrome1_twin_shows_the_same_image(make, bits, center, width, function):
    """Whatever the window, inverting the stored values and the interpretation together changes nothing."""
    rng = np.random.default_rng(bits)
    pixels = rng.integers(0, 2**bits, (9, 7)).astype(np.uint16)
    top, shift = 2**bits - 1, {"LINEAR": 1, "SIGMOID": 0}[function]
    center, width = round(center, 2), round(width, 2)
    one = make(pixels, bits=bits, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    two = make(
        top - pixels,
        bits=bits,
        WindowCenter=round(top - center + shift, 2),
        WindowWidth=width,
        VOILUTFunction=function,
        PhotometricInterpretation="MONOCHROME1",
    )
    shown = read_mammogram(one).pixels
    assert shown.dtype == np.float32
    assert shown.min() >= 0
    assert shown.max() <= 1
    # A LINEAR window of width 1 is a step: which side its very edge belongs to is the one asymmetry in the standard.
    if width > 1.5 or function == "SIGMOID":
        np.testing.assert_allclose(read_mammogram(two).pixels, shown, atol=2e-5)


def test_inversion_happens_once(make, ramp):
    plain = ramp() / 4095
    for attributes, expected in [
        ({"PhotometricInterpretation": "MONOCHROME1"}, 1 - plain),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, 1 - plain),
        ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "INVERSE"}, 1 - plain),
        ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "IDENTITY"}, plain),
    ]:
        np.testing.assert_allclose(read_mammogram(make(**attributes)).pixels, expected, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(4000, None), (4000, 4095), (4095, 4000)])
def test_padding_is_background(make, ramp, photometric, value, limit):
    path = make(PhotometricInterpretation=photometric, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    pixels, stored = read_mammogram(path).pixels, ramp()
    padded = (stored >= 4000) & (stored <= (4095 if limit else 4000))
    assert not pixels[padded].any()
    others = ~padded & (stored > 0) & (stored < 4095)
    assert (pixels[others] > 0).all()


@pytest.mark.parametrize(("dtype", "vr", "value"), [(np.uint16, "SS", -96), (np.int16, "US", 4000)])
def test_padding_is_found_whichever_sign_it_was_written_with(make, dtype, vr, value):
    """4000 and -96 are the same twelve bits."""
    codes = np.arange(3996, 4004).reshape(2, 4)
    path = make((codes if dtype is np.uint16 else codes - 4096).astype(dtype))
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", vr, value)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_mammogram(path).pixels == 0, codes == 4000)


def test_bits_beyond_those_stored_are_no_part_of_a_pixel(make, ramp):
    """Old overlays were drawn into them."""
    stray = ramp() | np.uint16(0x4000)
    np.testing.assert_array_equal(read_mammogram(make(stray)).pixels, read_mammogram(make(ramp())).pixels)


class TestForProcessing:
    """Raw images are never shown in silence as if they were processed."""

    RAW = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2.1", "PresentationIntentType": "FOR PROCESSING"}

    @pytest.fixture
    def exposure(self):
        """Detector signal: high in air, falling with the tissue's thickness."""
        thickness = np.zeros((60, 50))
        thickness[:, :30] = np.linspace(3, 1, 30)
        return (12000 * np.exp(-thickness)).astype(np.uint16)

    @pytest.mark.parametrize(
        "attributes",
        [RAW, {"PresentationIntentType": "FOR PROCESSING"}, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2.1"}],
    )
    def test_refused_by_default_with_a_remedy_that_everybody_can_follow(self, make, attributes):
        with pytest.raises(MammogramError, match="FOR PROCESSING") as refused:
            read_mammogram(make(**attributes))
        assert refused.value.remedy == "Give the FOR PRESENTATION image of the same exposure"

    @pytest.mark.parametrize(
        "attributes", [{"PixelIntensityRelationshipSign": 1}, {"PhotometricInterpretation": "MONOCHROME1"}]
    )
    def test_log_makes_air_dark_and_tissue_bright(self, make, exposure, attributes):
        path = make(exposure, bits=14, PixelIntensityRelationship="LIN", **(self.RAW | attributes))
        mammogram = read_mammogram(path, for_processing="log")
        assert mammogram.intent == "processing"
        assert (mammogram.pixels[:, 30:] == 0).all()
        # Attenuation is linear in thickness, so the logarithm must be, too.
        profile = mammogram.pixels[0, 1:29]
        np.testing.assert_allclose(np.diff(profile, 2), 0, atol=1e-3)
        assert (np.diff(profile) < 0).all()

    def test_padding_does_not_stretch_the_scale(self, make, exposure):
        padded = exposure.copy()
        padded[:, 45:] = 1
        options = {"bits": 14, "PixelIntensityRelationshipSign": 1, **self.RAW}
        plain = read_mammogram(make(exposure, **options), for_processing="log").pixels
        shown = read_mammogram(make(padded, PixelPaddingValue=1, **options), for_processing="log").pixels
        np.testing.assert_allclose(shown[:, :45], plain[:, :45], atol=1e-3)
        assert not shown[:, 45:].any()
