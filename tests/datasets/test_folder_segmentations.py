"""DICOM SEG files in a hospital's tree: their segments become the lesions of the images that they name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_mammo.datasets.pieces import Subject
from monai_mammo.datasets.pieces import segmentation as segmentation_of
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.segment_codes import tells_of_tumours
from monai_mammo.dicom.segmentation import read_segment, read_segmentation, write_segmentation

from .folder_replica import SHAPE, found_in, item, mammogram, reference, said, segmentation, square


def test_segments_become_the_lesions_of_the_image_that_they_name(tmp_path: Path) -> None:
    left, right = mammogram(tmp_path / "left"), mammogram(tmp_path / "right", ImageLaterality="R")
    file = tmp_path / "seg.dcm"
    frames = [(1, right, square()), (2, right, square(20, 3, 9)), (1, left, square(0, 0, 10))]
    segmentation(file, frames, ["Mass", "Neoplasm"])
    found, defects = found_in(tmp_path)
    lesions = {image.laterality: image.lesions for image in found}
    assert [lesion.kind for lesion in lesions["R"]] == ["mass", "neoplasm"]
    assert [lesion.name for lesion in lesions["R"]] == ["seg_1", "seg_2"]
    assert all(lesion.union for lesion in lesions["R"]), "a segment may mark several findings of one kind"
    for lesion, (*_, mask) in zip((*lesions["R"], *lesions["L"]), frames, strict=True):
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(lesion)).read(lesion.masks[0]), mask)
    assert defects == []


def test_frames_of_one_segment_and_image_are_united(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    segmentation(tmp_path / "seg", [(1, uid, square()), (1, uid, square(25, 15, 10))])
    (image,), _ = found_in(tmp_path)
    (lesion,) = image.lesions
    assert lesion.read(lesion.masks[0]).sum() == 11 * 11 + 10 * 10


def test_a_fractional_segment_counts_from_half_of_its_maximum_on(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    values = square() * 100 + square(25, 15, 10) * 49
    options: dict[str, Any] = {"SegmentationType": "FRACTIONAL", "MaximumFractionalValue": 100}
    segmentation(tmp_path / "seg", [(1, uid, values.astype(np.uint8))], **options)
    np.testing.assert_array_equal(read_segment(tmp_path / "seg", number=1, image=uid), square())


def test_frames_that_name_no_image_take_the_one_that_the_file_names(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    segmentation(tmp_path / "seg", [(1, "", square())], whole=[uid])
    (image,), defects = found_in(tmp_path)
    assert len(image.lesions) == 1
    assert defects == []


def test_what_all_frames_share_names_their_image_before_the_file_does(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    shared = item(DerivationImageSequence=[item(SourceImageSequence=[reference(uid)])])
    frames = [(1, "", square()), (2, "", square(25, 15, 10))]
    segmentation(tmp_path / "seg", frames, ["Mass"] * 2, ["1.2.999"], SharedFunctionalGroupsSequence=[shared])
    (image,), defects = found_in(tmp_path)
    assert (len(image.lesions), defects) == (2, [])


def test_segments_of_one_label_are_united_for_who_asks_by_label(tmp_path: Path) -> None:
    uid, other = mammogram(tmp_path / "a"), square(25, 15, 10)
    segmentation(tmp_path / "seg", [(1, uid, square()), (2, uid, other)], ["Mass"] * 2)
    (mask,) = read_segmentation(tmp_path / "seg", uid).values()
    np.testing.assert_array_equal(mask, square() | other)


@pytest.mark.parametrize(
    ("frames", "options", "reason"),
    [
        ([(1, "1.2.999", square())], {}, "segment 1 outlines an image that is not among the folder's mammograms"),
        ([], {}, "segment 1 has no frame: it outlines nothing"),
        ([(1, "image", square())], {"types": ["Breast"]}, "segment 1 outlines no tumour (breast)"),
        ([(1, "", square())], {}, "frame 1 refers to 0 images, not to one"),
        ([(1, "", square())], {"whole": ["image", "1.2.999"]}, "frame 1 refers to 2 images, not to one"),
        ([], {"types": []}, "the segmentation has no segment"),
        *(
            ([(1, "image", square())], changes, "it is a segmentation of type LABELMAP; BINARY and FRACTIONAL are read")
            for changes in (
                {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7", "PerFrameFunctionalGroupsSequence": []},
                {"SegmentationType": "LABELMAP", "PerFrameFunctionalGroupsSequence": []},
            )
        ),
        (
            [(1, "image", square())],
            {"PerFrameFunctionalGroupsSequence": [Dataset()], "whole": ["image"]},
            "the segmentation's header is malformed (TypeError)",
        ),
    ],
)
def test_a_segmentation_that_outlines_no_lesion_of_the_folder_is_named(
    tmp_path: Path, frames: list[Any], options: dict[str, Any], reason: str
) -> None:
    uid = mammogram(tmp_path / "a")
    file = tmp_path / "seg"
    named = [(number, uid if image == "image" else image, mask) for number, image, mask in frames]
    if "whole" in options:
        options = options | {"whole": [uid if image == "image" else image for image in options["whole"]]}
    segmentation(file, named, **options)
    (image,), defects = found_in(tmp_path)
    assert not image.lesions
    assert said(defects, file) == [reason]


def test_an_image_of_which_nothing_is_marked_is_normal_and_one_with_a_lesion_is_not(tmp_path: Path) -> None:
    normal, tumour = mammogram(tmp_path / "a"), mammogram(tmp_path / "b")
    nothing = np.zeros(SHAPE, np.uint8)
    segmentation(tmp_path / "seg1", [(1, normal, nothing)])
    file = tmp_path / "seg2"
    segmentation(file, [(1, tumour, square()), (2, tumour, nothing)], ["Mass", "Neoplasm"])
    labels = {segment.SegmentLabel for segment in pydicom.dcmread(file).SegmentSequence}
    assert len(labels) == 1, "a segment counts by itself, whatever others of its label mark"
    (first, second), defects = found_in(tmp_path)
    assert (first.normal, first.lesions) == (True, ())
    assert (second.normal, len(second.lesions)) == (False, 1)
    assert [(defect.reason, defect.action) for defect in defects] == [
        ("segment 1 marks no pixel", "kept as: no lesion"),
        ("segment 2 marks no pixel", "kept as: no lesion"),
    ]


def test_an_image_of_which_only_anatomy_is_unmarked_is_not_known_to_be_normal(tmp_path: Path) -> None:
    segmentation(tmp_path / "seg", [(1, mammogram(tmp_path / "a"), np.zeros(SHAPE, np.uint8))], ["Breast"])
    (image,), _ = found_in(tmp_path)
    assert not image.normal


OTHERS = ["calcification", "Calcifications", "architectural distortion", "lymph node", "cyst", "complete", "nipple"]


@pytest.mark.parametrize("name", ["tumour", "tumor", "Mass", "neoplasm", *OTHERS, "scar", "lesion", "Segment_1"])
def test_the_same_names_mean_a_tumour_in_the_folder_as_in_the_app(tmp_path: Path, name: str) -> None:
    mammogram(tmp_path / "a")
    write_segmentation(tmp_path / "seg", tmp_path / "a", {name: square()})
    (image,), defects = found_in(tmp_path)
    told = tells_of_tumours(name)
    assert len(image.lesions) == (told is True)
    reasons = said(defects, tmp_path / "seg")
    if told is None:
        assert reasons == ["segment 1 has a name that is not known: whether it is a tumour nobody knows"]
        assert defects[0].action == "left out; save it again under the name tumour if it is one"
    else:
        assert len(reasons) == (not told)
        assert all("segment 1 outlines no tumour (" in reason for reason in reasons)


ABNORMAL, STRUCTURE = ("49755003", "SCT", "abnormal"), ("123037004", "SCT", "structure")


@pytest.mark.parametrize(
    ("kind", "category", "told"),
    [
        (("52988006", "SCT", "Lesion"), ABNORMAL, True),
        (("M-01100", "SRT", "Lesion"), ABNORMAL, True),
        (("4147007", "SCT", "Raumforderung"), ABNORMAL, True),
        (("129788004", "SCT", "Mammographic breast mass"), ABNORMAL, True),
        (("7", "99HOUSE", "Tumor"), ABNORMAL, True),
        (("59441001", "SCT", "Mass"), ABNORMAL, False),  # the code counts, not its text
        (("7", "99HOUSE", "lymph node"), ABNORMAL, False),
        (("59820001", "SCT", "Blood vessel"), STRUCTURE, False),
        (("68453008", "SCT", "Carcinoma"), ABNORMAL, True),
        (("35566002", "SCT", "Hematoma"), ABNORMAL, None),
        (("", "", ""), ABNORMAL, None),
    ],
)
def test_another_programs_types_are_told_by_their_codes(
    tmp_path: Path, kind: tuple[str, str, str], category: tuple[str, str, str], told: bool | None
) -> None:
    file = tmp_path / "seg"
    segmentation(file, [(1, mammogram(tmp_path / "a"), square())])
    dataset = pydicom.dcmread(file)
    for code, sequence in ((kind, "Type"), (category, "Category")):
        value, scheme, meaning = code
        coded = item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
        setattr(dataset.SegmentSequence[0], f"SegmentedProperty{sequence}CodeSequence", [coded])
    dataset.save_as(file)
    (image,), defects = found_in(tmp_path)
    assert len(image.lesions) == (told is True)
    assert image.attributes.get("lesions_listed") == (1 if told is None else None)
    kind_of_it = "is of the type 'hematoma'" if kind[2] else "has no type"
    expected = {
        True: [],
        False: [f"segment 1 outlines no tumour ({kind[2].lower()})"],
        None: [f"segment 1 {kind_of_it}: whether it is a tumour nobody knows"],
    }
    assert said(defects, file) == expected[told]


@pytest.mark.parametrize(
    ("beside", "normal", "whole"), [("lymph node", True, 2), ("scar", False, 0)], ids=["no tumour", "perhaps one"]
)
def test_what_may_be_a_tumour_counts_nowhere_as_background(
    tmp_path: Path, beside: str, normal: bool, whole: int
) -> None:
    for name, tumour in (("a", square()), ("b", np.zeros(SHAPE, np.uint8))):
        mammogram(tmp_path / "source" / name, PatientID=f"SECRET-ID-4711-{name}")
        masks = {"tumour": tumour, beside: square(20, 15, 11)}
        write_segmentation(tmp_path / "source" / f"{name}.seg", tmp_path / "source" / name, masks)
    (first, second), _ = found_in(tmp_path / "source")
    assert (len(first.lesions), second.normal) == (1, normal)
    made = [
        segmentation_of(Subject(image, image.image.name, tmp_path / "source", tmp_path), np.zeros(SHAPE))
        for image in (first, second)
    ]
    assert sum(len(each.entries.get("segmentation_whole", [])) for each in made) == whole
    assert [len(each.entries.get("segmentation_roi", [])) for each in made] == [1, 0]


def test_a_hostile_or_truncated_segmentation_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    segmentation(tmp_path / "huge", [(1, uid, square())], Rows=65535, Columns=65535)
    segmentation(tmp_path / "many", [(1, uid, square())], NumberOfFrames=2_000_000_000)
    segmentation(tmp_path / "short", [(1, uid, square())], PixelData=b"\0\0")
    for name in ("huge", "many", "short"):
        with pytest.raises(MammogramError):
            read_segment(tmp_path / name, number=1, image=uid)


def test_a_header_that_describes_more_frames_than_there_are_ends_no_listing(tmp_path: Path) -> None:
    uid, file = mammogram(tmp_path / "a"), tmp_path / "seg"
    segmentation(file, [(1, uid, square()), (2, uid, square())], ["Mass", "Lesion"])
    cut = pydicom.dcmread(file)
    cut.NumberOfFrames, cut.PixelData = 1, cut.PixelData[: SHAPE[0] * SHAPE[1] // 8]
    cut.save_as(file)
    (image,), _ = found_in(tmp_path)
    first, second = image.lesions
    np.testing.assert_array_equal(first.read(file), square())
    said_of_it = "its header describes frame 2, and it has 1"
    with pytest.raises(MammogramError, match=said_of_it):
        second.read(file)
    with pytest.raises(MammogramError, match=said_of_it):
        read_segmentation(file, uid)


def test_two_segmentations_of_one_mammogram_are_both_kept_and_a_copy_is_not(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    same = segmentation(tmp_path / "seg1", [(1, uid, square())])
    segmentation(tmp_path / "seg2", [(1, uid, square()), (2, uid, square(20))], ["Mass", "Mass"])
    segmentation(tmp_path / "seg3", [(1, uid, square())], SOPInstanceUID=same)
    (image,), defects = found_in(tmp_path)
    assert [lesion.name for lesion in image.lesions] == ["seg1_1", "seg2_1", "seg2_2"]
    assert said(defects, tmp_path / "seg2") == [f"it outlines the same mammogram as {tmp_path / 'seg1'}"]
    assert said(defects, tmp_path / "seg3") == [f"it has the SOPInstanceUID of {tmp_path / 'seg1'}"]


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_what_highdicom_writes_reads_back(tmp_path: Path, kind: str) -> None:
    highdicom = pytest.importorskip("highdicom")
    from pydicom.sr.coding import Code

    study = {"StudyDate": "20240101", "StudyTime": "090000", "StudyID": "1", "AccessionNumber": "", "PatientSex": "F"}
    mammogram(tmp_path / "a", SeriesNumber=1, InstanceNumber=1, ReferringPhysicianName="", **study)
    source = pydicom.dcmread(tmp_path / "a")
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="tumour",
        segmented_property_category=Code("49755003", "SCT", "Morphologically Altered Structure"),
        segmented_property_type=Code("4147007", "SCT", "Mass"),
        algorithm_type="MANUAL",
    )
    pixels = square()[None] if kind == "BINARY" else square()[None].astype(np.float32) * 0.7
    uids = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
    made_by = {
        "manufacturer": "m",
        "manufacturer_model_name": "m",
        "software_versions": "1",
        "device_serial_number": "1",
    }
    written = highdicom.seg.Segmentation(
        [source], pixels, kind, [segment], series_number=2, instance_number=1, **uids, **made_by
    )
    written.save_as(tmp_path / "seg")
    (image,), defects = found_in(tmp_path)
    (lesion,) = image.lesions
    assert lesion.kind == "mass"
    np.testing.assert_array_equal(lesion.read(lesion.masks[0]), square())
    assert defects == []


def revise(path: Path, image: Path, mask: np.ndarray, written: str, **written_by: Any) -> Path:
    """Write a reader's SEG of an image, as of a date and a time."""
    write_segmentation(path, image, {"tumour": mask}, **written_by)
    dataset = pydicom.dcmread(path)
    dataset.ContentDate, dataset.ContentTime = written.split()
    dataset.save_as(path)
    return path


def test_of_one_readers_versions_of_a_segmentation_the_latest_counts(tmp_path: Path) -> None:
    image, other = tmp_path / "a", tmp_path / "b"
    mammogram(image)
    mammogram(other)
    first = revise(tmp_path / "seg1", image, square(), "20240102 235900", creator="ana", instance=2)
    latest = revise(tmp_path / "seg2", image, square(20), "20240103 080000", creator="ana", instance=1)
    between = revise(tmp_path / "seg3", image, square(0), "20240103 075959.5", creator="ana", instance=3)
    revise(tmp_path / "seg4", image, square(3), "20240102 100000", creator="ben")
    revise(tmp_path / "seg5", other, square(9), "20240102 100000", creator="ana")
    found, defects = found_in(tmp_path)
    names = [[lesion.name for lesion in entry.lesions] for entry in found]
    assert names == [["seg2_1", "seg4_1"], ["seg5_1"]]
    for file in (first, between):
        assert said(defects, file) == [f"it is a former version of {latest}"]


def test_a_lesion_that_its_reader_took_back_leaves_a_normal_image(tmp_path: Path) -> None:
    mammogram(tmp_path / "a")
    revise(tmp_path / "seg1", tmp_path / "a", square(), "20240102 100000")
    revise(tmp_path / "seg2", tmp_path / "a", np.zeros(SHAPE, np.uint8), "20240102 100001")
    (image,), _ = found_in(tmp_path)
    assert (image.normal, image.lesions) == (True, ())


def test_what_another_program_puts_into_one_series_all_counts(tmp_path: Path) -> None:
    """A file a finding, perhaps; a series says nothing of versions there."""
    mammogram(tmp_path / "a")
    for number in range(2):
        file = revise(tmp_path / f"seg{number}", tmp_path / "a", square(3 * number), f"20240102 10000{number}")
        dataset = pydicom.dcmread(file)
        dataset.Manufacturer = "another"
        dataset.save_as(file)
    (image,), _ = found_in(tmp_path)
    assert len(image.lesions) == 2


def plane(position: list[float], orientation: list[float]) -> dict[str, Any]:
    """What all frames share: where they lie."""
    shared = item(PlanePositionSequence=[item(ImagePositionPatient=position)])
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=orientation)]
    return {"SharedFunctionalGroupsSequence": [shared]}


@pytest.mark.parametrize(
    ("position", "orientation", "lies"),
    [
        ([5, 6, 7], [1, 0, 0, 0, 1, 0], True),
        ([5.04, 6.04, 99], [1, 0, 0, 0, 1, 0], True),
        ([5.06, 6, 7], [1, 0, 0, 0, 1, 0], False),
        ([5, 5.94, 7], [1, 0, 0, 0, 1, 0], False),
        ([5 + 0.1 * (SHAPE[1] - 1), 6, 7], [-1, 0, 0, 0, 1, 0], False),
        ([5, 6, 7], [1, 0, 0, 0, -1, 0], False),
        ([5, 6, 7], [0, 1, 0, 1, 0, 0], False),
    ],
)
def test_a_segment_that_lies_elsewhere_than_its_image_is_left_out(
    tmp_path: Path, position: list[float], orientation: list[float], lies: bool
) -> None:
    placed = {"ImagePositionPatient": [5, 6, 7], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    file, frame = tmp_path / "seg", {"FrameOfReferenceUID": "1.2.3"}
    uid = mammogram(tmp_path / "a", **placed, **frame)
    segmentation(file, [(1, uid, square())], **plane(position, orientation), **frame)
    (image,), defects = found_in(tmp_path)
    assert len(image.lesions) == lies
    reason = "segment 1 lies elsewhere than its mammogram: it is flipped, turned or cut against it"
    assert said(defects, file) == ([] if lies else [reason])
    assert not image.normal


@pytest.mark.parametrize(("x", "y", "lies"), [(0.09, 0, True), (0.11, 0, False), (0, 0.04, True), (0, 0.09, False)])
def test_a_place_is_measured_in_columns_along_a_row_and_in_rows_along_a_column(
    tmp_path: Path, x: float, y: float, lies: bool
) -> None:
    """Of 0.1 mm from row to row and 0.2 mm from column to column, half a pixel is allowed."""
    placed: dict[str, Any] = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    frame = {"FrameOfReferenceUID": "1.2.3"}
    uid = mammogram(tmp_path / "a", ImagerPixelSpacing=[0.1, 0.2], **placed, **frame)
    segmentation(tmp_path / "seg", [(1, uid, square())], **plane([x, y, 0], [1, 0, 0, 0, 1, 0]), **frame)
    (image,), _ = found_in(tmp_path)
    assert len(image.lesions) == lies


def test_places_that_cannot_be_compared_leave_nothing_out(tmp_path: Path) -> None:
    other = plane([50, 60, 70], [-1, 0, 0, 0, 1, 0])
    placed = {"ImagePositionPatient": [5, 6, 7], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    for name, changes, frame in (("a", {}, "1.2.3"), ("b", placed, "1.2.4")):
        uid = mammogram(tmp_path / name, **changes, FrameOfReferenceUID="1.2.3")
        segmentation(tmp_path / f"{name}-seg", [(1, uid, square())], **other, FrameOfReferenceUID=frame)
    found, defects = found_in(tmp_path)
    assert [len(image.lesions) for image in found] == [1, 1]
    assert defects == []


@pytest.mark.parametrize("size", [(80, 60), (20, 15), (39, 30)])
def test_a_segment_of_another_size_is_left_out_and_never_resized(tmp_path: Path, size: tuple[int, int]) -> None:
    mask = np.zeros(size, np.uint8)
    mask[5:15, 4:14] = 1
    segmentation(tmp_path / "seg", [(1, mammogram(tmp_path / "a"), mask)])
    (image,), defects = found_in(tmp_path)
    assert image.lesions == ()
    assert said(defects, tmp_path / "seg") == [f"segment 1 has {size[0]} x {size[1]} pixels, its mammogram 40 x 30"]
