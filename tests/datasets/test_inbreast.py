"""INbreast: from its folders as they really are, defects included, to images, lesions and lines that tell defects."""

import pickle
import plistlib
from pathlib import Path

import pytest

from monai_mammo.datasets import inbreast
from monai_mammo.dicom.errors import MammogramError

from .conftest import area

ANNA, BERTA = "6c613a14b80a8591", "036aff49b8ac84f0"
HEADER = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
TRIANGLE = [(100.0, 40.0), (130.0, 40.0), (100.0, 80.0)]  # x, y; area 30 * 40 / 2
SQUARE = [(10.5, 20.25), (20.5, 20.25), (20.5, 30.25), (10.5, 30.25)]


def write_xml(file: Path, *rois: tuple[str, list[tuple[float, float]]], **changes) -> None:
    """A property list as OsiriX writes it."""
    image = {
        "ImageIndex": 0,
        "NumberOfROIs": len(rois),
        "ROIs": [
            {
                "Name": name,
                "NumberOfPoints": len(points),
                "Point_px": [f"({x:f}, {y:f})" for x, y in points],
                "Type": 15,
            }
            for name, points in rois
        ],
    }
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(plistlib.dumps({"Images": [image | changes]}))


@pytest.fixture
def release(tmp_path) -> Path:
    """Three mammograms of two patients: a mass, a BI-RADS 2 with a distortion, and one without findings."""
    source = tmp_path / "INbreast Release 1.0"
    dicoms = source / "AllDICOMs"
    dicoms.mkdir(parents=True)
    for name in (f"101_{ANNA}_MG_R_ML_ANON", f"102_{ANNA}_MG_L_CC_ANON", f"103_{BERTA}_MG_L_ML_ANON"):
        (dicoms / f"{name}.dcm").write_bytes(b"")
    rows = ["removed;removed;R;MLO;201001;101;2;4a", "removed;removed;L;CC;201001;102; 3 ;2"]
    rows.append("removed;removed;L;MLO;200802;103;     ;1")
    (source / "INbreast.csv").write_text("\n".join([HEADER, *rows, ";;;;;;;"]) + "\n")
    write_xml(source / "AllXML" / "101.xml", ("Mass", TRIANGLE))
    write_xml(source / "AllXML" / "102.xml", ("Distortion", SQUARE))
    return source


def by_number(found):
    return {image.image.name.split("_")[0]: image for image in found}


def told(defects, source: Path) -> list[str]:
    return [str(defect).removeprefix(f"{source}/") for defect in defects]


def test_an_intact_release(release):
    defects = []
    found = by_number(inbreast.images(release, defects))
    assert defects == []
    assert sorted(found) == ["101", "102", "103"]
    image = found["101"]
    assert (image.patient, image.laterality, image.view) == (ANNA, "R", "MLO")
    assert (image.density, image.birads, image.spacing, image.split) == ("2", "4a", (0.07, 0.07), "")
    assert image.attributes == {"findings": "mass", "lesions_listed": 1}
    assert [found[number].density for number in ("102", "103")] == ["3", ""]
    assert [found[number].normal for number in ("101", "102", "103")] == [False, False, True]
    assert found["102"].patient == ANNA != found["103"].patient
    assert pickle.loads(pickle.dumps(image)) == image


def test_outlines_become_polygons_of_the_known_area(release):
    found = by_number(inbreast.images(release, []))
    (mass,), (distortion,) = found["101"].lesions, found["102"].lesions
    assert area(mass.polygon) == 30 * 40 / 2
    assert mass.polygon[1] == (40.0, 130.0)  # row, column; the file says x, y
    assert (mass.kind, mass.name, mass.pathology) == ("mass", "1", "")
    assert area(distortion.polygon) == pytest.approx(100)
    assert distortion.kind == "distortion"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Mass", "mass"),
        ("Cluster", "calcification"),
        ("Calcifications", "calcification"),
        ("Espiculated Region", "spiculated region"),
        ("Spiculated region", "spiculated region"),
        ("Assymetry", "asymmetry"),
        ("Asimmetry", "asymmetry"),
        ("Architectural distortion", "distortion"),
        ("Unnamed", ""),
        ("Point 3", ""),
        ("", ""),
    ],
)
def test_kinds_are_known_in_any_spelling(release, name, kind):
    write_xml(release / "AllXML" / "101.xml", (name, SQUARE))
    (lesion,) = by_number(inbreast.images(release, []))["101"].lesions
    assert lesion.kind == kind


def test_single_points_are_findings_but_no_lesions(release):
    xml = release / "AllXML" / "102.xml"
    write_xml(
        xml,
        ("Calcification", [(5, 6)]),
        ("Calcification", [(7, 8), (8, 8)]),
        ("Point 1", [(9, 9)]),
        ("Cluster", SQUARE),
    )
    defects = []
    image = by_number(inbreast.images(release, defects))["102"]
    assert [lesion.name for lesion in image.lesions] == ["4"]
    assert image.attributes == {"findings": "calcification", "lesions_listed": 1}
    assert told(defects, release) == [
        "AllXML/102.xml: 3 calcification(s) are marked by one or two points, not outlined; "
        "named in the image's findings, no lesions"
    ]


def test_a_mass_without_an_outline_is_a_lesion_that_is_missing(release):
    write_xml(release / "AllXML" / "101.xml", ("Mass", [(5, 6)]), ("Mass", TRIANGLE))
    defects = []
    image = by_number(inbreast.images(release, defects))["101"]
    assert (len(image.lesions), image.attributes["lesions_listed"]) == (1, 2)
    assert told(defects, release) == ["AllXML/101.xml: a mass is marked by 1 point(s), not outlined; lesion left out"]


def test_the_pectoral_muscle_is_no_lesion(release):
    write_xml(release / "AllXML" / "103.xml", ("Pectoral Muscle", SQUARE))
    image = by_number(inbreast.images(release, []))["103"]
    assert image.lesions == ()
    assert image.normal


def test_marks_on_a_bi_rads_1_image_make_it_not_normal(release):
    write_xml(release / "AllXML" / "103.xml", ("Calcification", [(5, 6)]))
    image = by_number(inbreast.images(release, []))["103"]
    assert image.lesions == ()
    assert not image.normal


def test_an_image_of_another_bi_rads_without_a_mark_is_not_known_to_be_normal(release):
    """BI-RADS 2 names a finding, which nobody outlined."""
    write_xml(release / "AllXML" / "102.xml")
    image = by_number(inbreast.images(release, []))["102"]
    assert (image.birads, image.lesions) == ("2", ())
    assert not image.normal


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda xml: xml[: len(xml) // 2], "it is no property list (ExpatError)"),
        (lambda xml: b"", "it is no property list (InvalidFileException)"),
        (lambda xml: xml.replace(b"&lt;", b"<").replace(b"Mass", b"M & M"), "it is no property list (ExpatError)"),
        (lambda xml: plistlib.dumps({"Images": []}), "it has not the structure of INbreast's files (IndexError)"),
        (lambda xml: plistlib.dumps(["ROIs"]), "it has not the structure of INbreast's files (TypeError)"),
        (lambda xml: xml.replace(b"Point_px", b"Point_mm"), "it has not the structure of INbreast's files (KeyError)"),
        (
            lambda xml: xml.replace(b"<integer>3</integer>", b"<integer>9</integer>"),
            "a mark announces 9 points and has 3 readable ones",
        ),
        (lambda xml: xml.replace(b"(100.0", b"(nan.0"), "a mark announces 3 points and has 1 readable ones"),
        (lambda xml: plistlib.dumps({"Images": [{"NumberOfROIs": 2, "ROIs": []}]}), "it announces 2 marks and has 0"),
    ],
)
def test_a_damaged_xml_file_makes_lesions_unknown_not_absent(release, damage, reason):
    file = release / "AllXML" / "101.xml"
    file.write_bytes(damage(file.read_bytes()))
    defects = []
    image = by_number(inbreast.images(release, defects))["101"]
    assert (image.lesions, image.normal, dict(image.attributes)) == ((), False, {})
    assert told(defects, release) == [f"AllXML/101.xml: {reason}; image kept, lesions unknown"]


def test_a_missing_xml_file_is_right_for_bi_rads_1_only(release):
    (release / "AllXML" / "102.xml").unlink()
    defects = []
    found = by_number(inbreast.images(release, defects))
    assert [found[number].normal for number in ("102", "103")] == [False, True]
    assert told(defects, release) == [
        f"AllDICOMs/102_{ANNA}_MG_L_CC_ANON.dcm: it has no XML file, and its BI-RADS is 2; image kept, lesions unknown"
    ]


def test_files_and_rows_that_do_not_match_are_told(release):
    (release / "AllDICOMs" / f"103_{BERTA}_MG_L_ML_ANON.dcm").rename(
        release / "AllDICOMs" / f"104_{BERTA}_MG_L_ML_ANON.dcm"
    )
    (release / "AllDICOMs" / "notes.dcm").write_bytes(b"")
    (release / "AllDICOMs" / f"101_ffff{BERTA}_MG_L_CC_ANON.dcm").write_bytes(b"")
    write_xml(release / "AllXML" / "999.xml", ("Mass", SQUARE))
    defects = []
    assert sorted(by_number(inbreast.images(release, defects))) == ["101", "102", "104"]
    assert sorted(told(defects, release)) == [
        f"AllDICOMs/101_ffff{BERTA}_MG_L_CC_ANON.dcm: it has the number of 101_{ANNA}_MG_R_ML_ANON.dcm; left out",
        "AllDICOMs/103_*.dcm: INbreast.csv lists it, but it does not exist; left out",
        f"AllDICOMs/104_{BERTA}_MG_L_ML_ANON.dcm: INbreast.csv does not list it; kept, density and BI-RADS unknown",
        f"AllDICOMs/104_{BERTA}_MG_L_ML_ANON.dcm: it has no XML file, and its BI-RADS is unknown; "
        "image kept, lesions unknown",
        "AllDICOMs/notes.dcm: its name is not that of a mammogram of INbreast; left out",
        "AllXML/999.xml: there is no mammogram of its number; left out",
    ]


def test_a_side_or_view_that_the_table_contradicts_is_told(release):
    table = release / "INbreast.csv"
    table.write_text(table.read_text().replace("R;MLO", "L;CC"))
    defects = []
    image = by_number(inbreast.images(release, defects))["101"]
    assert (image.laterality, image.view) == ("R", "MLO")
    assert [defect.reason for defect in defects] == [
        "INbreast.csv says laterality L, the file's name R",
        "INbreast.csv says view CC, the file's name MLO",
    ]


def test_rows_without_or_with_a_repeated_number_are_told(release):
    with (release / "INbreast.csv").open("a") as file:
        file.write("removed;removed;R;CC;201001;;2;2\nremoved;removed;R;MLO;201001;101;2;2\n")
    defects = []
    assert by_number(inbreast.images(release, defects))["101"].birads == "4a"
    assert told(defects, release) == [
        "INbreast.csv: line 6 has no file number; row left out",
        "INbreast.csv: line 7 repeats the file number 101; row left out",
    ]


def test_without_the_table_the_outlines_still_count(release):
    (release / "INbreast.csv").rename(release / "INbreast.xls")
    defects = []
    found = by_number(inbreast.images(release, defects))
    assert (found["101"].birads, len(found["101"].lesions)) == ("", 1)
    assert not found["103"].normal
    assert "INbreast.xls is not read: save it as CSV" in defects[0].reason
    assert len(defects) == 2  # the table, and the image of which nothing else is known


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_table_saved_with_another_separator_reads_the_same(release, separator):
    expected = inbreast.images(release, [])
    table = release / "INbreast.csv"
    table.write_text(table.read_text().replace(";", separator))
    defects = []
    assert inbreast.images(release, defects) == expected
    assert not any("INbreast.csv" in str(defect.file) for defect in defects)


def test_a_table_with_other_columns_is_told(release):
    table = release / "INbreast.csv"
    table.write_text(table.read_text().replace("File Name", "Files"))
    defects = []
    assert len(inbreast.images(release, defects)) == 3
    assert told(defects, release)[0] == (
        "INbreast.csv: it has no column 'file name'; images kept, density and BI-RADS unknown"
    )


def test_names_in_other_letter_case_are_found(release):
    (release / "AllXML" / "101.xml").rename(release / "AllXML" / "101.XML")
    (release / "AllXML").rename(release / "ALLXML")
    (release / "INbreast.csv").rename(release / "INBREAST.CSV")
    defects = []
    assert len(by_number(inbreast.images(release, defects))["101"].lesions) == 1
    assert defects == []


def test_no_folder_of_outlines_makes_all_lesions_unknown(release):
    for file in (release / "AllXML").iterdir():
        file.unlink()
    (release / "AllXML").rmdir()
    defects = []
    found = by_number(inbreast.images(release, defects))
    assert [image.normal for image in found.values()] == [False, False, True]
    assert told(defects, release)[0] == "AllXML: it does not exist; images kept, lesions unknown"
    assert len(defects) == 3


def test_entities_in_an_xml_file_are_not_expanded(release):
    """A "billion laughs" file must neither take memory nor end the listing."""
    entities = '<!DOCTYPE plist [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    bomb = f'<?xml version="1.0"?>{entities}<plist><string>&b;</string></plist>'
    (release / "AllXML" / "101.xml").write_text(bomb)
    defects = []
    assert by_number(inbreast.images(release, defects))["101"].lesions == ()
    assert "it is no property list" in defects[0].reason


@pytest.mark.parametrize("folder", ["absent", "."])
def test_a_folder_that_is_not_inbreast_is_refused(tmp_path, folder):
    with pytest.raises(MammogramError, match="Give the folder that holds AllDICOMs"):
        inbreast.images(tmp_path / folder, [])


def test_a_release_without_any_mammogram_is_refused(tmp_path):
    (tmp_path / "AllDICOMs").mkdir()
    with pytest.raises(MammogramError, match="there is no mammogram of INbreast in it"):
        inbreast.images(tmp_path, [])
