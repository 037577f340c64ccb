"""DDSM's overlays: chain codes become polygons of a known area, and no abnormality gets lost in silence."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monai_mammo.datasets import ddsm
from monai_mammo.datasets.ddsm_overlay import chain_polygon, read_overlay

from .conftest import area
from .ddsm_replica import COLUMNS, OCTAGON, OCTAGON_AREA, ROWS, SQUARE, by_view, overlay, write_case


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
