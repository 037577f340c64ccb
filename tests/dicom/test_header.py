"""What a mammogram says of itself: view, side, spacing, intent; and what of it may be shown."""

import logging
import warnings

import numpy as np
import pytest

from monai_mammo.dicom import MammogramError, read_header, read_mammogram

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("value", "scheme", "view"),
    [
        ("399162004", "SCT", "CC"),
        ("R-10242", "SRT", "CC"),
        ("399368009", "SCT", "MLO"),
        ("R-10226", "SNM3", "MLO"),
        ("399260004", "SCT", "ML"),
        ("399352003", "SCT", "LM"),
        ("399192008", "SCT", "XCCL"),
        ("399101009", "SCT", "XCCM"),
        ("123456", "99LOCAL", None),
    ],
)
def test_the_coded_view(make, code, value, scheme, view):
    assert read_header(make(ViewCodeSequence=[code(value, scheme)])).view == view


def test_the_coded_view_wins_over_the_legacy_one_and_has_modifiers(make, code):
    modifiers = [code("399163009"), code("R-102D7", "SRT"), code("1", "99LOCAL")]
    view = code("399162004", ViewModifierCodeSequence=modifiers)
    header = read_header(make(ViewCodeSequence=[view], ViewPosition="MLO"))
    assert (header.view, header.view_modifiers) == ("CC", ("M", "S"))


@pytest.mark.parametrize(
    ("attributes", "view"),
    [
        ({"ViewPosition": "MLO"}, "MLO"),
        ({"ViewPosition": " cc "}, "CC"),
        ({"ViewPosition": "RMLO"}, "MLO"),
        ({"ViewPosition": "L CC"}, "CC"),
        ({"ViewPosition": "LM"}, "LM"),
        ({"ViewPosition": "AP"}, None),
        ({"PatientOrientation": "MLO"}, "MLO"),  # CBIS-DDSM
        ({"PatientOrientation": ["A", "FR"]}, None),
        ({"ViewPosition": "", "PatientOrientation": "CC"}, "CC"),
        ({}, None),
    ],
)
def test_the_legacy_view(make, attributes, view):
    assert read_header(make(**attributes)).view == view


@pytest.mark.parametrize(
    ("attributes", "side"),
    [
        ({"ImageLaterality": "R"}, "R"),
        ({"ImageLaterality": "L", "Laterality": "R"}, "L"),
        ({"Laterality": "R"}, "R"),
        ({"Laterality": ""}, None),
        ({"ImageLaterality": "B"}, None),
        ({"ImageLaterality": "B", "Laterality": "R"}, None),
        ({"ImageLaterality": "U", "Laterality": "R"}, None),
        ({}, None),
    ],
)
def test_the_side(make, attributes, side):
    assert read_header(make(**attributes)).laterality == side


@pytest.mark.parametrize(("value", "side"), [("7771000", "L"), ("24028007", "R"), ("G-A100", "R"), ("G-A101", "L")])
def test_the_coded_side(make, code, value, side):
    region = code("76752008", AnatomicRegionModifierSequence=[code(value)])
    assert read_header(make(AnatomicRegionSequence=[region])).laterality == side


@pytest.mark.parametrize(
    ("attributes", "spacing"),
    [
        ({"ImagerPixelSpacing": [0.1, 0.05]}, (0.1, 0.05)),
        (
            {"ImagerPixelSpacing": [0.1, 0.05], "EstimatedRadiographicMagnificationFactor": 2},
            (0.05, 0.025),
        ),
        (  # a copy of the detector's spacing is no calibration
            {
                "PixelSpacing": [0.1, 0.1],
                "ImagerPixelSpacing": [0.1, 0.1],
                "EstimatedRadiographicMagnificationFactor": 1.25,
            },
            (0.08, 0.08),
        ),
        (  # calibrated: differs on purpose
            {
                "PixelSpacing": [0.07, 0.07],
                "ImagerPixelSpacing": [0.1, 0.1],
                "EstimatedRadiographicMagnificationFactor": 1.25,
            },
            (0.07, 0.07),
        ),
        (
            {
                "PixelSpacing": [0.1, 0.1],
                "ImagerPixelSpacing": [0.1, 0.1],
                "PixelSpacingCalibrationType": "FIDUCIAL",
                "EstimatedRadiographicMagnificationFactor": 1.25,
            },
            (0.1, 0.1),
        ),
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
        ({"NominalScannedPixelSpacing": [0.05, 0.05]}, (0.05, 0.05)),
        ({"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": 0}, (0.1, 0.1)),
        ({"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": 900}, (0.1, 0.1)),
        ({"ImagerPixelSpacing": [0, 0]}, None),
        ({"PixelSpacing": ""}, None),
        ({}, None),
    ],
)
def test_spacing_is_that_of_the_breast(make, attributes, spacing):
    found = read_header(make(**attributes)).spacing
    assert found == (None if spacing is None else pytest.approx(spacing))


def test_the_affine_steps_down_and_to_the_left_of_the_patient_as_lps_does(make):
    affine = read_header(make(ImagerPixelSpacing=[0.1, 0.05])).affine
    # Row 1: 0.1 mm along +y of LPS, which is -y of RAS. Column 1: 0.05 mm along -x of RAS.
    np.testing.assert_allclose(affine @ [1, 0, 0, 1], [0, -0.1, 0, 1])
    np.testing.assert_allclose(affine @ [0, 1, 0, 1], [-0.05, 0, 0, 1])


@pytest.mark.parametrize(
    ("attributes", "name", "value"),
    [
        ({"PartialView": "YES"}, "partial_view", True),
        ({"PartialView": "NO"}, "partial_view", False),
        ({}, "partial_view", None),
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation", True),
        ({"BreastImplantPresent": "YES"}, "implant", True),
        ({"PresentationIntentType": None}, "intent", "presentation"),
        ({"PresentationIntentType": None, "SOPClassUID": SECONDARY_CAPTURE}, "intent", None),
        ({"PresentationIntentType": "FOR PROCESSING"}, "intent", "processing"),
        ({"Manufacturer": "LORAD, A Hologic Company"}, "manufacturer", "LORAD, A Hologic Company"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "photometric_interpretation", "MONOCHROME1"),
    ],
)
def test_what_is_declared(make, attributes, name, value):
    assert getattr(read_header(make(**attributes)), name) == value


def test_a_header_is_what_the_mammogram_has_without_pixels(make):
    path = make(ImagerPixelSpacing=[0.1, 0.1], ViewPosition="MLO", ImageLaterality="L")
    header, mammogram = read_header(path), read_mammogram(path)
    assert (header.rows, header.columns) == mammogram.pixels.shape
    assert repr(mammogram).replace("Mammogram(", "MammogramHeader(") == repr(header)


@pytest.mark.parametrize("modality", ["CR", "DX", "OT", "RG", "SC", None])
def test_film_under_another_modality_must_say_that_it_shows_a_breast(make, code, modality):
    film = {"SOPClassUID": SECONDARY_CAPTURE, "Modality": modality, "PresentationIntentType": None}
    with pytest.raises(MammogramError, match="nothing in the header says that a breast is shown"):
        read_header(make(**film))
    for evidence in (
        {"BodyPartExamined": "BREAST"},
        {"OrganExposed": "BREAST"},
        {"ViewPosition": "MLO"},
        {"AnatomicRegionSequence": [code("T-04000", "SRT")]},
        {"PositionerType": "MAMMOGRAPHIC"},
    ):
        assert read_header(make(**film, **evidence)).rows == 40


def test_secondary_capture_of_modality_mg_needs_no_further_evidence(make):
    assert read_header(make(SOPClassUID=SECONDARY_CAPTURE, PresentationIntentType=None)).modality == "MG"


def test_the_patient_is_never_shown(make, secrets, caplog, ramp):
    """Neither in the representation of what was read, nor in an error, a log or a warning, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    cases = [
        {},
        {"Modality": "CT"},
        {"WindowCenter": 1, "WindowWidth": -1},
        {"PresentationIntentType": "FOR PROCESSING"},
        {"PixelData": b"\0\0"},
        {"PatientID": f"{secrets[1]}\\{secrets[1]}" + "x" * 80},
        {"SpecificCharacterSet": "ISO 2022 IR 87"},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
    ]
    shown = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        paths = []
        for attributes in cases:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's, of writing
                paths.append(make(**attributes))
        caplog.clear()
        for path in paths:
            try:
                shown.append(repr(read_mammogram(path)))
            except MammogramError as error:
                shown += [str(error), repr(error), repr(error.__cause__)]
    text = "\n".join([*shown, caplog.text, *(str(warning.message) for warning in caught)])
    assert len(shown) > len(cases)
    assert not [secret for secret in secrets if secret in text]
    assert read_header(make()).patient_id == secrets[1]
