"""DDSM: from case folders as they really are, defects included, to films and lines that say what is wrong."""

import pickle

import numpy as np
import pytest

from monai_mammo.datasets import ddsm
from monai_mammo.dicom.errors import MammogramError

from .ddsm_replica import COLUMNS, OCTAGON, ROWS, SQUARE, by_view, film, ljpeg, overlay, write_case


def test_a_case_becomes_four_films(tmp_path):
    write_case(tmp_path, overlays={"LEFT_CC": overlay(SQUARE), "LEFT_MLO": overlay(OCTAGON, SQUARE)})
    defects = []
    found = by_view(ddsm.images(tmp_path, defects))
    assert defects == []
    assert sorted(found) == ["L_CC", "L_MLO", "R_CC", "R_MLO"]
    image = found["L_MLO"]
    assert (image.patient, image.density, image.birads) == ("A-0001", "3", "4")
    assert image.spacing == pytest.approx((0.0435, 0.0435))
    assert image.attributes == {"scanner": "HOWTEK (MGH)", "lesions_listed": 2}
    assert [(lesion.kind, lesion.pathology, lesion.name) for lesion in image.lesions] == [
        ("mass", "malignant", "1"),
        ("mass", "malignant", "2"),
    ]
    assert image.split == ""
    assert pickle.loads(pickle.dumps(image)) == image


def test_only_breasts_without_any_mark_are_normal(tmp_path):
    """A lesion that one view shows and the other does not makes neither view a normal film."""
    write_case(tmp_path, overlays={"LEFT_CC": overlay(SQUARE)})
    found = by_view(ddsm.images(tmp_path, []))
    assert {name for name, image in found.items() if image.normal} == {"R_CC", "R_MLO"}
    assert found["L_MLO"].lesions == ()


def test_files_that_are_missing_or_too_many_are_told(tmp_path):
    case = write_case(tmp_path, overlays={"LEFT_CC": overlay(SQUARE), "RIGHT_CC": overlay(SQUARE)})
    (case / "A_0001_1.LEFT_CC.OVERLAY").unlink()
    (case / "A_0001_1.LEFT_MLO.LJPEG").unlink()
    (case / "A_0001_1.RIGHT_MLO.OVERLAY").write_text(overlay(OCTAGON))
    (case / "B_0009_1.RIGHT_MLO.LJPEG").write_bytes(b"")
    defects = []
    found = by_view(ddsm.images(tmp_path, defects))
    assert sorted(found) == ["L_CC", "R_CC", "R_MLO"]
    assert (found["L_CC"].lesions, found["L_CC"].normal) == ((), False)
    assert found["L_CC"].attributes["lesions_listed"] == 1
    assert len(found["R_MLO"].lesions) == 1
    assert {str(defect).removeprefix(f"{case}/") for defect in defects} == {
        "A_0001_1.LEFT_CC.OVERLAY: its .ics file lists it, but it does not exist; film kept, lesions unknown",
        "A_0001_1.LEFT_MLO.LJPEG: its .ics file lists it, but it does not exist; left out",
        "A_0001_1.RIGHT_MLO.OVERLAY: it exists, but its .ics file says that there is none; used",
        "B_0009_1.RIGHT_MLO.LJPEG: there is no .ics file that lists it; left out",
    }


def test_a_case_that_lies_in_two_volumes_counts_once(tmp_path):
    write_case(tmp_path)
    again = write_case(tmp_path, folder="cancers/cancer_02")
    defects = []
    assert len(ddsm.images(tmp_path, defects)) == 4
    (defect,) = defects
    assert defect.file == again / "A-0001-1.ics"
    assert "the case is the same as" in defect.reason


@pytest.mark.parametrize(
    ("old", "new", "reason", "films"),
    [
        ("DIGITIZER HOWTEK 960", "DIGITIZER", "names no scanner whose optical density is known", 0),
        ("DIGITIZER HOWTEK 960", "DIGITIZER XEROX", "names no scanner whose optical density is known", 0),
        ("LINES 60", "LINES 0", "line 11 names a view again or cannot be understood", 3),
        ("LINES 60", "LINES sixty", "line 11 names a view again or cannot be understood", 3),
        ("LEFT_MLO", "LEFT_CC", "line 12 names a view again or cannot be understood", 3),
        ("LEFT_MLO", "NOTE", "it lists 3 of four views", 3),
    ],
)
def test_a_damaged_header_is_told(tmp_path, old, new, reason, films):
    case = write_case(tmp_path)
    header = case / "A-0001-1.ics"
    header.write_text(header.read_text().replace(old, new, 1))
    defects = []
    assert len(ddsm.images(tmp_path, defects)) == films
    assert defects[0].file == header
    assert reason in defects[0].reason
    told = " ".join(f"{defect.reason} {defect.action}" for defect in defects)
    assert "1995" not in told  # nor any other date or age of the header
    assert "42" not in told


def test_a_header_of_another_name_is_told(tmp_path):
    case = write_case(tmp_path)
    (case / "A-0001-1.ics").rename(case / "notes.ics")
    defects = []
    assert ddsm.images(tmp_path, defects) == []
    assert "not that of a case" in defects[0].reason
    assert len(defects) == 5  # the header, and four films that nothing lists


def test_names_in_other_letter_case_are_found(tmp_path):
    case = write_case(tmp_path, overlays={"LEFT_CC": overlay(SQUARE)})
    for file in list(case.iterdir()):
        file.rename(case / file.name.swapcase())
    defects = []
    found = by_view(ddsm.images(tmp_path, defects))
    assert defects == []
    assert len(found["L_CC"].lesions) == 1
    assert found["L_CC"].read(found["L_CC"].image).shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("content", [None, "empty"])
def test_a_folder_that_is_not_ddsm_is_refused(tmp_path, content):
    source = tmp_path / "absent" if content is None else tmp_path
    with pytest.raises(MammogramError, match=r"Give the folder that holds DDSM's case folders"):
        ddsm.images(source, [])


@pytest.mark.parametrize("swap", [False, True])
def test_a_film_is_read_with_dark_background_and_the_headers_size(tmp_path, swap):
    case = write_case(tmp_path, swap=swap)
    pixels = ddsm.read_ljpeg_view(case / "A_0001_1.LEFT_CC.LJPEG")
    assert pixels.dtype == np.float32
    assert pixels.shape == (ROWS, COLUMNS)
    np.testing.assert_array_equal(pixels > pixels.min(), film() == 2500)
    assert pixels.min() == 0  # grey level 300 is density 3.5: opaque film
    assert pixels.max() == pytest.approx((3.0 - (3.789 - 0.00094568 * 2500)) / (3.0 - 0.05), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "digitizer", "scanner"),
    [
        ("A-0001-1", "DBA 21", "DBA"),
        ("A-0001-1", "HOWTEK", "HOWTEK (MGH)"),
        ("D-4001-1", "HOWTEK 43", "HOWTEK (ISMD)"),
        ("B-3001-1", "LUMISYS LASER", "LUMISYS"),
        ("C-0001-1", "LUMISYS", "LUMISYS"),
    ],
)
def test_each_scanner_has_its_own_calibration(tmp_path, name, digitizer, scanner):
    case = write_case(tmp_path, name=name, digitizer=digitizer)
    (image, *_) = ddsm.images(tmp_path, [])
    assert image.attributes["scanner"] == scanner
    pixels = image.read(image.image)
    expected = np.clip((3.0 - ddsm.optical_density(film(), scanner)) / 2.95, 0, 1)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert case.is_dir()


@pytest.mark.parametrize(
    ("scanner", "grey", "density"),
    [
        ("DBA", 10**4.80662, 0.0),
        ("DBA", 10 ** (4.80662 - 2 * 1.07553), 2.0),
        ("DBA", 0, 4.80662 / 1.07553),  # no logarithm of zero
        ("HOWTEK (MGH)", 0, 3.789),
        ("HOWTEK (ISMD)", 0, 3.96604),
        ("LUMISYS", 4096.99, 0.0),
        ("LUMISYS", 4096.99 - 1009.01, 1.0),
    ],
)
def test_optical_density_is_the_published_regression(scanner, grey, density):
    assert ddsm.optical_density(np.array(grey), scanner) == pytest.approx(density, abs=1e-4)


def test_unreadable_films_are_told_when_read(tmp_path):
    case = write_case(tmp_path)
    path = case / "A_0001_1.LEFT_CC.LJPEG"
    path.write_bytes(ljpeg(film(30, 20)))
    with pytest.raises(MammogramError, match=r"30 x 20 samples, its \.ics file says 60 x 40"):
        ddsm.read_ljpeg_view(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MammogramError):
        ddsm.read_ljpeg_view(path)
    with pytest.raises(MammogramError, match="does not list"):
        ddsm.read_ljpeg_view(case / "A_0001_1.LEFT_XCC.LJPEG")
    (case / "A-0001-1.ics").unlink()
    with pytest.raises(MammogramError, match=r"the \.ics file of its case is not beside it"):
        ddsm.read_ljpeg_view(path)
