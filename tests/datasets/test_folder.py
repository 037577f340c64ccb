"""A hospital's DICOM tree: mammograms are kept, everything else is named, and no patient's identity leaves."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from monai_mammo.datasets.folder import KEY_VARIABLE, images, pseudonym
from monai_mammo.datasets.sources import Defect, SourceImage
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.segmentation import read_segment, segments

PATIENT = {"PatientID": "SECRET-ID-4711", "PatientName": "Sentinelle^Quintessa", "PatientBirthDate": "19530417"}
MAMMOGRAPHY = "1.2.840.10008.5.1.4.1.1.1.2"
CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SHAPE = (40, 30)


def save(path: Path, sop_class: str, **attributes: Any) -> str:
    """Write a DICOM file with either generation of pydicom; an attribute given as None is left out."""
    uid = attributes.setdefault("SOPInstanceUID", generate_uid())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(uid or generate_uid())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    for keyword, value in (PATIENT | attributes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated == 16 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_file: dict[str, Any] = {"enforce_file_format": True}
    if pydicom.__version__ < "3":
        dataset.is_implicit_VR, dataset.is_little_endian = False, True
        whole_file = {"write_like_original": False}
    pydicom.dcmwrite(path, dataset, **whole_file)
    return str(uid or "")


def mammogram(path: Path, **changes: Any) -> str:
    """Write a left CC mammogram of 0.1 mm pixels; gives its SOPInstanceUID."""
    pixels = np.linspace(0, 4095, SHAPE[0] * SHAPE[1]).astype("<u2")
    attributes: dict[str, Any] = {
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": generate_uid(),
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "Maker",
        "ImageLaterality": "L",
        "ViewPosition": "CC",
        "ImagerPixelSpacing": [0.1, 0.1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": SHAPE[0],
        "Columns": SHAPE[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
    }
    return save(path, changes.pop("SOPClassUID", MAMMOGRAPHY), **(attributes | changes))


def item(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def reference(image: str) -> Dataset:
    return item(ReferencedSOPClassUID=MAMMOGRAPHY, ReferencedSOPInstanceUID=image)


def square(row: int = 5, column: int = 4, side: int = 11) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[row : row + side, column : column + side] = 1
    return mask


def segmentation(
    path: Path,
    frames: Sequence[tuple[int, str, np.ndarray]],
    types: Sequence[str] = ("Mass",),
    whole: Sequence[str] = (),
    **changes: Any,
) -> str:
    """Write a DICOM SEG: its frames as (segment number, image or "" for none, values), its segments' types.

    Args:
        path: the file.
        frames: as above.
        types: code meaning of each segment's property type, from segment 1 on.
        whole: images that the file refers to beside the frames.
        **changes: attributes, among them SegmentationType FRACTIONAL.
    """
    values = np.stack([mask for *_, mask in frames]) if frames else np.zeros((1, *SHAPE), dtype=np.uint8)
    fractional = changes.get("SegmentationType") == "FRACTIONAL"
    packed = values.tobytes() if fractional else np.packbits(values.ravel(), bitorder="little").tobytes()
    groups = []
    for number, image, _ in frames:
        group = item(SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)])
        if image:
            group.DerivationImageSequence = [item(SourceImageSequence=[reference(image)])]
        groups.append(group)
    attributes: dict[str, Any] = {
        "Modality": "SEG",
        "SegmentationType": "BINARY",
        "SegmentSequence": [
            item(
                SegmentNumber=number,
                SegmentLabel=PATIENT["PatientName"],
                SegmentedPropertyTypeCodeSequence=[
                    item(CodeValue="1", CodingSchemeDesignator="X", CodeMeaning=meaning)
                ],
            )
            for number, meaning in enumerate(types, start=1)
        ],
        "PerFrameFunctionalGroupsSequence": groups,
        "ReferencedSeriesSequence": [item(ReferencedInstanceSequence=[reference(image) for image in whole])],
        "NumberOfFrames": len(values),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": values.shape[1],
        "Columns": values.shape[2],
        "BitsAllocated": 8 if fractional else 1,
        "BitsStored": 8 if fractional else 1,
        "HighBit": 7 if fractional else 0,
        "PixelRepresentation": 0,
        "PixelData": packed + b"\0" * (len(packed) % 2),
    }
    return save(path, SEG, **(attributes | changes))


def found_in(source: Path) -> tuple[list[SourceImage], list[Defect]]:
    """What the module lists, checked for what always holds: it crosses process borders and tells nobody's identity."""
    defects: list[Defect] = []
    found = images(source, defects)
    assert [image.entry() for image in pickle.loads(pickle.dumps(found))] == [image.entry() for image in found]
    told = json.dumps([[image.entry() for image in found], [str(defect) for defect in defects]]) + repr(found)
    assert not [value for value in PATIENT.values() if value in told]
    return found, defects


def said(defects: Sequence[Defect], file: Path) -> list[str]:
    return [defect.reason for defect in defects if defect.file == file]


def test_a_mammogram_is_known_by_its_header_whatever_its_files_name(tmp_path: Path) -> None:
    file = tmp_path / "DICOM" / "0000A" / "IM_7"
    mammogram(file, PartialView="YES", BreastImplantPresent="NO")
    (image,), defects = found_in(tmp_path)
    assert image.image == file
    assert (image.laterality, image.view, image.spacing) == ("L", "CC", (0.1, 0.1))
    assert image.attributes["manufacturer"] == "Maker"
    assert (image.attributes["partial_view"], image.attributes["implant"]) == (True, False)
    assert image.read(image.image).shape == SHAPE
    assert not image.lesions
    assert not image.normal
    assert defects == []


def test_one_patients_images_share_a_pseudonym_and_another_patients_do_not(tmp_path: Path) -> None:
    mammogram(tmp_path / "a", StudyInstanceUID="1.2.1")
    mammogram(tmp_path / "b", StudyInstanceUID="1.2.2")
    mammogram(tmp_path / "c", StudyInstanceUID="1.2.2", PatientID="another")
    found, _ = found_in(tmp_path)
    first, second, other = (image.patient for image in found)
    assert first == second != other
    assert len({image.attributes["study"] for image in found}) == 2
    assert not {"1.2.1", "1.2.2"} & {image.attributes["study"] for image in found}


def test_pseudonyms_depend_on_the_secret_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    without = pseudonym("4711")
    monkeypatch.setenv(KEY_VARIABLE, "one" * 50)
    one = pseudonym("4711")
    assert one == pseudonym("4711")
    monkeypatch.setenv(KEY_VARIABLE, "two")
    assert len({without, one, pseudonym("4711")}) == 3


@pytest.mark.parametrize("nobody", ["", "ANONYMOUS", "anonymized", "Unknown", "000000", "N/A"])
def test_where_the_patient_id_tells_nobody_apart_the_study_does_and_a_line_says_so(tmp_path: Path, nobody: str) -> None:
    for name, study in (("a", "1.2.1"), ("b", "1.2.1"), ("c", "1.2.2")):
        mammogram(tmp_path / name, StudyInstanceUID=study, PatientID=nobody)
    found, defects = found_in(tmp_path)
    assert found[0].patient == found[1].patient != found[2].patient
    assert [defect.action for defect in defects] == ["kept; its study stands for the patient"] * 3


@pytest.mark.parametrize("somebody", ["ANON0001", "anonymous-12", "00017", "NONEMAN"])
def test_a_pseudonym_in_the_patient_id_is_somebody(tmp_path: Path, somebody: str) -> None:
    mammogram(tmp_path / "a", StudyInstanceUID="1.2.1", PatientID=somebody)
    mammogram(tmp_path / "b", StudyInstanceUID="1.2.2", PatientID=somebody)
    found, defects = found_in(tmp_path)
    assert found[0].patient == found[1].patient
    assert defects == []


def test_everything_else_in_the_tree_is_named_with_its_reason(tmp_path: Path) -> None:
    mammogram(tmp_path / "good")
    odd = {
        name: tmp_path / "x" / name for name in ("text.dcm", "ct", "raw", "preview.png", "cut.dcm", "nobody", "empty")
    }
    mammogram(odd["ct"], SOPClassUID=CT, Modality="CT")
    mammogram(odd["raw"], PresentationIntentType="FOR PROCESSING")
    mammogram(odd["nobody"], PatientID="", StudyInstanceUID=None)
    mammogram(odd["cut.dcm"])
    odd["cut.dcm"].write_bytes(odd["cut.dcm"].read_bytes()[:-500])
    odd["text.dcm"].write_text(f"Report on {PATIENT['PatientName']}")
    odd["empty"].write_bytes(b"")
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(odd["preview.png"])
    directory = tmp_path / "DICOMDIR"
    save(directory, "1.2.840.10008.1.3.10", SOPInstanceUID=None)

    (image,), defects = found_in(tmp_path)

    assert image.image == tmp_path / "good"
    assert {defect.file for defect in defects} == {*odd.values(), directory}
    assert Counter(defect.file for defect in defects).most_common(1)[0][1] == 1
    for name, words in {
        "text.dcm": "neither DICOM nor",
        "ct": "CT Image Storage",
        "raw": "FOR PROCESSING",
        "preview.png": "a picture (png)",
        "cut.dcm": "truncated",
        "nobody": "neither PatientID nor StudyInstanceUID",
        "empty": "empty",
    }.items():
        assert words in said(defects, odd[name])[0]
    ignored = {defect.file.name for defect in defects if defect.action == "ignored"}
    assert ignored == {"text.dcm", "preview.png", "empty", "DICOMDIR"}, "none of these could have been a mammogram"


def test_a_file_that_was_exported_twice_counts_once(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    mammogram(tmp_path / "b", SOPInstanceUID=uid)
    found, defects = found_in(tmp_path)
    assert [image.image.name for image in found] == ["a"]
    assert said(defects, tmp_path / "b") == [f"it has the SOPInstanceUID of {tmp_path / 'a'}"]


def test_a_linked_folder_is_followed_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    elsewhere, source = tmp_path / "archive", tmp_path / "source"
    mammogram(elsewhere / "a")
    source.mkdir()
    (source / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(source)
    found, _ = found_in(source)
    assert len(found) == 1


@pytest.mark.parametrize("content", [None, "text"])
def test_a_folder_without_mammograms_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "a.dcm").write_text(content)
    with pytest.raises(MammogramError, match="no mammogram in DICOM") as caught:
        images(tmp_path, [])
    assert "modality MG" in caught.value.remedy
    with pytest.raises(MammogramError, match="no such folder"):
        images(tmp_path / "absent", [])


def test_segments_become_the_lesions_of_the_image_that_they_name(tmp_path: Path) -> None:
    left, right = mammogram(tmp_path / "left"), mammogram(tmp_path / "right", ImageLaterality="R")
    file = tmp_path / "seg.dcm"
    frames = [(1, right, square()), (2, right, square(20, 3, 9)), (1, left, square(0, 0, 10))]
    segmentation(file, frames, ["Mass", "Calcification"])
    found, defects = found_in(tmp_path)
    lesions = {image.laterality: image.lesions for image in found}
    assert [lesion.kind for lesion in lesions["R"]] == ["mass", "calcification"]
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


@pytest.mark.parametrize(
    ("frames", "options", "reason"),
    [
        ([(1, "1.2.999", square())], {}, "segment 1 outlines an image that is not among the folder's mammograms"),
        ([], {}, "segment 1 has no frame: it outlines nothing"),
        ([(1, "image", square())], {"types": ["Breast"]}, "segment 1 outlines anatomy (breast), no lesion"),
        ([(1, "", square())], {}, "frame 1 refers to 0 images, not to one"),
        ([(1, "", square())], {"whole": ["image", "1.2.999"]}, "frame 1 refers to 2 images, not to one"),
        ([], {"types": []}, "the segmentation has no segment"),
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


def test_a_segment_without_a_marked_pixel_is_refused_when_it_is_read(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    segmentation(tmp_path / "seg", [(1, uid, np.zeros(SHAPE, np.uint8))])
    (image,), _ = found_in(tmp_path)
    with pytest.raises(MammogramError, match="segment 1 marks no pixel"):
        image.lesions[0].read(image.lesions[0].masks[0])


def test_a_hostile_or_truncated_segmentation_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    uid = mammogram(tmp_path / "a")
    segmentation(tmp_path / "huge", [(1, uid, square())], Rows=65535, Columns=65535)
    segmentation(tmp_path / "many", [(1, uid, square())], NumberOfFrames=2_000_000_000)
    segmentation(tmp_path / "short", [(1, uid, square())], PixelData=b"\0\0")
    for name in ("huge", "many", "short"):
        with pytest.raises(MammogramError):
            read_segment(tmp_path / name, number=1, image=uid)


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


MAKERS = ("mammogram", "copy", "text", "ct", "raw", "seg", "stray seg", "picture", "anonymous")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(MAKERS), max_size=8))
def test_every_file_ends_as_an_image_or_an_outline_or_a_defect(kinds: list[str]) -> None:
    with TemporaryDirectory() as folder:
        source = Path(folder)
        first = mammogram(source / "00")
        for number, kind in enumerate(kinds, start=1):
            file = source / f"{number % 3}" / f"{number:02d}"
            file.parent.mkdir(exist_ok=True)
            if kind == "text":
                file.write_text("text")
            elif kind == "picture":
                Image.fromarray(np.zeros(SHAPE, np.uint8)).save(file, format="PNG")
            elif kind.endswith("seg"):
                segmentation(file, [(1, first if kind == "seg" else "1.2.999", square())])
            else:
                mammogram(file, **{
                    "copy": {"SOPInstanceUID": first},
                    "ct": {"SOPClassUID": CT, "Modality": "CT"},
                    "raw": {"PresentationIntentType": "FOR PROCESSING"},
                    "anonymous": {"PatientID": "anonymous"},
                }.get(kind, {}))  # fmt: skip
        found, defects = found_in(source)
        used = {image.image for image in found} | {lesion.masks[0] for image in found for lesion in image.lesions}
        refused = {defect.file for defect in defects if not defect.action.startswith("kept")}
        assert used | refused == {file for file in source.rglob("*") if file.is_file()}
        assert not used & refused


def test_the_real_samples_are_taken_by_their_headers(samples: Path) -> None:
    found, defects = found_in(samples / "dicom")
    assert {image.image.name for image in found} >= {"MG_Explicit_Little.dcm"}
    assert {image.image.name for image in found} | {defect.file.name for defect in defects} == {
        file.name for file in (samples / "dicom").iterdir()
    }
    assert all(segments_of == [] for segments_of in (segments(image.image) for image in found))
