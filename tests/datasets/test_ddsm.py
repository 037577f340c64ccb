"""DDSM: from case folders as they really are, defects included, to films, lesions and lines that say what is wrong."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monai_mammo.datasets import ddsm
from monai_mammo.datasets.ddsm_overlay import chain_polygon, read_overlay
from monai_mammo.dicom.errors import MammogramError

VIEWS = ("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")
ROWS, COLUMNS = 60, 40

# Start at column 10, row 20: 8 right, 8 down, 8 left, 8 up.
SQUARE = "10 20 " + "2 " * 8 + "4 " * 8 + "6 " * 8 + "0 " * 8 + "#"
# An octagon with sides of 5 steps: a square of 15 less four corners of 5 * 5 / 2.
OCTAGON = "20 15 " + " ".join(f"{code} " * 5 for code in (2, 3, 4, 5, 6, 7, 0, 1)) + "#"
OCTAGON_AREA = 15 * 15 - 4 * 5 * 5 / 2


def overlay(*chains: str, kind: str = "MASS SHAPE OVAL MARGINS SPICULATED", total: int | None = None) -> str:
    """An `.OVERLAY` file with an abnormality for every chain."""
    blocks = [
        f"ABNORMALITY {number}\nLESION_TYPE {kind}\nASSESSMENT {number + 2}\nSUBTLETY 3\nPATHOLOGY MALIGNANT\n"
        f"TOTAL_OUTLINES 1\nBOUNDARY\n{chain} \n"
        for number, chain in enumerate(chains, start=1)
    ]
    return f"TOTAL_ABNORMALITIES {len(chains) if total is None else total}\n" + "\n".join(blocks)


def ljpeg(image: np.ndarray) -> bytes:
    """A stream of predictor 1 whose code takes five bits for every category."""
    bits, previous = [], image.astype(np.int64)
    predicted = np.empty_like(previous)
    predicted[1:, 0], predicted[0, 0], predicted[:, 1:] = previous[:-1, 0], 1 << 15, previous[:, :-1]
    for difference in (previous - predicted).ravel().tolist():
        wrapped = (difference + (1 << 15)) % (1 << 16) - (1 << 15)
        size = abs(wrapped).bit_length()
        bits.append(f"{size:05b}")
        if 0 < size < 16:
            bits.append(f"{(wrapped - (wrapped < 0)) & ((1 << size) - 1):0{size}b}")
    text = "".join(bits)
    data = int(text + "1" * (-len(text) % 8), 2).to_bytes((len(text) + 7) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = image.shape
    return b"".join(
        [
            b"\xff\xd8\xff\xc3\x00\x0b\x10",
            rows.to_bytes(2, "big"),
            columns.to_bytes(2, "big"),
            b"\x01\x01\x11\x00\xff\xc4\x00\x24\x00",
            bytes([0, 0, 0, 0, 17, *[0] * 11]),
            bytes(range(17)),
            b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00",
            data,
            b"\xff\xd9",
        ]
    )


def film(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Grey levels as a scanner gives them: exposed film, hence the background, is low."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.where(np.hypot(y - rows / 2, x) < 20, 2500, 300).astype(np.uint16)


def write_case(
    root: Path,
    name: str = "A-0001-1",
    overlays: dict[str, str] | None = None,
    digitizer: str = "HOWTEK 960",
    folder: str = "cancers/cancer_01",
    swap: bool = False,
) -> Path:
    """A case folder as DDSM has it; the given views have an overlay."""
    case = root / folder / f"case{name.split('-')[1]}"
    case.mkdir(parents=True)
    lines = [
        "ics_version 1.0",
        f"filename {name}",
        "DATE_OF_STUDY 2 7 1995",
        "PATIENT_AGE 42",
        "FILM ",
        "FILM_TYPE REGULAR",
        "DENSITY 3",
        "DATE_DIGITIZED 7 22 1997 ",
        f"DIGITIZER {digitizer}",
        "SEQUENCE",
    ]
    overlays = overlays or {}
    stem = name.replace("-", "_")
    for view in VIEWS:
        has = "OVERLAY" if view in overlays else "NON_OVERLAY"
        lines.append(f"{view} LINES {ROWS} PIXELS_PER_LINE {COLUMNS} BITS_PER_PIXEL 12 RESOLUTION 43.5 {has}")
        image = film().reshape(COLUMNS, ROWS) if swap else film()
        (case / f"{stem}.{view}.LJPEG").write_bytes(ljpeg(image))
        if view in overlays:
            (case / f"{stem}.{view}.OVERLAY").write_text(overlays[view])
    (case / f"{name}.ics").write_text("\n".join(lines) + "\n")
    return case


def area(polygon) -> float:
    """By the shoelace formula, in plain Python."""
    corners = list(polygon)
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return abs(sum(r0 * c1 - r1 * c0 for (r0, c0), (r1, c1) in pairs)) / 2


def by_view(found):
    return {f"{image.laterality}_{image.view}": image for image in found}


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


def test_chain_codes_enclose_the_known_area(tmp_path):
    write_case(tmp_path, overlays={"LEFT_CC": overlay(SQUARE, OCTAGON)})
    square, octagon = by_view(ddsm.images(tmp_path, []))["L_CC"].lesions
    assert area(square.polygon) == 8 * 8
    assert area(octagon.polygon) == OCTAGON_AREA
    assert square.polygon[0] == (20, 10)  # row, column; the file says column, row
    assert {row for row, _ in square.polygon} == {20, 28}
    assert {column for _, column in square.polygon} == {10, 18}
    assert len(octagon.polygon) == 8  # straight runs need no corners


def test_code_0_is_up_and_the_others_follow_clockwise():
    steps = [chain_polygon(["5", "5", str(code)])[1] - (5, 5) for code in range(8)]
    expected = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    assert [tuple(step) for step in steps] == expected


@settings(deadline=None)
@given(
    codes=st.lists(st.integers(0, 7), min_size=1, max_size=80), start=st.tuples(st.integers(0, 99), st.integers(0, 99))
)
def test_any_closed_chain_keeps_its_area(codes, start):
    """Every chain followed by the opposite of its steps in any order is closed; the area is summed step by step."""
    codes = codes + sorted((code + 4) % 8 for code in codes)
    column, row = start
    doubled = 0
    for code in codes:
        down = {0: -1, 1: -1, 7: -1, 3: 1, 4: 1, 5: 1}.get(code, 0)
        right = {1: 1, 2: 1, 3: 1, 5: -1, 6: -1, 7: -1}.get(code, 0)
        doubled += row * (column + right) - (row + down) * column
        row, column = row + down, column + right
    assert (column, row) == start
    polygon = chain_polygon([str(number) for number in (*start, *codes)])
    assert area(polygon.tolist()) == abs(doubled) / 2


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ("#", "is empty"),
        ("10 #", "is empty"),
        ("10 20 #", "is a single point"),
        ("10 20 0 4 #", "encloses no area"),
        ("10 20 2 2 4 8 6 0 #", "has a code outside 0 to 7"),
        ("10 20 2 2 -1 6 0 #", "has a code outside 0 to 7"),
        ("10 20 2 2 x 6 0 #", "holds something that is no number"),
        ("10 20 2 2 4 4 6 6 0 0", "has no end mark"),
        ("10 20 " + "2 " * 15 + "4 " * 15 + "6 " * 2 + "#", "is not closed (15 pixels are missing)"),
        ("35 20 " + "2 " * 20 + "4 " * 20 + "6 " * 20 + "0 " * 20 + "#", "leaves the image by 16 pixels"),
        ("99999999999999999999 20 2 4 6 0 #", "holds something that is no number"),
    ],
)
def test_an_unusable_boundary_is_told_and_its_film_is_not_normal(tmp_path, chain, reason):
    case = write_case(tmp_path, overlays={"LEFT_CC": overlay(SQUARE, chain)})
    defects = []
    image = by_view(ddsm.images(tmp_path, defects))["L_CC"]
    assert [str(defect) for defect in defects] == [
        f"{case / 'A_0001_1.LEFT_CC.OVERLAY'}: the boundary of abnormality 2 {reason}; lesion left out"
    ]
    assert len(image.lesions) == 1
    assert image.attributes["lesions_listed"] == 2
    assert not image.normal


def test_a_boundary_slightly_out_or_open_is_repaired_and_told(tmp_path):
    out = f"33 20 {'2 ' * 8}{'4 ' * 8}{'6 ' * 8}{'0 ' * 8}#"  # column 41 of 0..39
    open_ = f"10 20 {'2 ' * 8}{'4 ' * 8}{'6 ' * 8}{'0 ' * 4}#"
    write_case(tmp_path, overlays={"LEFT_CC": overlay(out, open_)})
    defects = []
    first, second = by_view(ddsm.images(tmp_path, defects))["L_CC"].lesions
    assert area(first.polygon) == 6 * 8
    assert area(second.polygon) == 8 * 8
    assert [(defect.reason, defect.action) for defect in defects] == [
        ("the boundary of abnormality 1 leaves the image by 2 pixels", "cut off at the image's edge"),
        ("the boundary of abnormality 2 is not closed (4 pixels are missing)", "closed by a straight line"),
    ]


def test_wrong_counts_are_told(tmp_path):
    text = overlay(SQUARE, total=3).replace("TOTAL_OUTLINES 1", "TOTAL_OUTLINES 2")
    write_case(tmp_path, overlays={"LEFT_CC": text})
    defects = []
    image = by_view(ddsm.images(tmp_path, defects))["L_CC"]
    assert len(image.lesions) == 1
    assert image.attributes["lesions_listed"] == 3
    assert [defect.reason for defect in defects] == [
        "it announces 3 abnormalities and has 1",
        "abnormality 1 announces 2 outlines and has 1",
    ]


def test_cores_lie_within_their_boundary_and_are_no_lesions(tmp_path):
    """As in the data set: two lesion types, cores indented, chains wrapped over lines, CRLF line ends."""
    text = (
        "TOTAL_ABNORMALITIES 1\nABNORMALITY 1\n"
        "LESION_TYPE CALCIFICATION TYPE FINE_LINEAR_BRANCHING DISTRIBUTION LINEAR\n"
        "LESION_TYPE MASS SHAPE ARCHITECTURAL_DISTORTION MARGINS N/A\n"
        "ASSESSMENT 5\nSUBTLETY 5\nPATHOLOGY BENIGN_WITHOUT_CALLBACK\nTOTAL_OUTLINES 2\nBOUNDARY\n"
        f"{SQUARE[:20]}\n{SQUARE[20:]}\n\tCORE\n12 22 2 2 4 4 6 6 0 0 #\n"
    )
    file = tmp_path / "A_0001_1.LEFT_CC.OVERLAY"
    file.write_bytes(text.replace("\n", "\r\n").encode())
    defects = []
    found = read_overlay(file, (ROWS, COLUMNS), defects)
    assert defects == []
    (lesion,) = found.lesions
    assert (found.listed, found.birads) == (1, "5")
    assert (lesion.kind, lesion.pathology) == ("mass", "benign_without_callback")
    assert area(lesion.polygon) == 64


def test_an_abnormality_without_a_boundary_is_told(tmp_path):
    file = tmp_path / "A_0001_1.LEFT_CC.OVERLAY"
    file.write_text("TOTAL_ABNORMALITIES 1\nABNORMALITY 1\nLESION_TYPE CALCIFICATION\nTOTAL_OUTLINES 0\n")
    defects = []
    assert read_overlay(file, (ROWS, COLUMNS), defects) == ((), 1, "")
    assert [str(defect) for defect in defects] == [f"{file}: abnormality 1 has no boundary; lesion left out"]


EDITS = st.tuples(
    st.sampled_from(["replace", "delete", "insert"]), st.integers(0, 10**6), st.sampled_from("0129# AX-\n²")
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDITS, max_size=6))
def test_no_abnormality_gets_lost_in_silence(tmp_path, edits):
    """However an overlay is garbled: it is read, and where lesions are missing, a defect says so."""
    text = list(overlay(SQUARE, OCTAGON))
    for what, place, character in edits:
        at = place % len(text)
        text[at : at + (what != "insert")] = [] if what == "delete" else [character]
    file = tmp_path / "A_0001_1.LEFT_CC.OVERLAY"
    file.write_text("".join(text), encoding="utf-8")
    defects = []
    found = read_overlay(file, (ROWS, COLUMNS), defects)
    assert found.listed >= max(1, len(found.lesions))
    assert len(found.lesions) >= 2 or defects


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
