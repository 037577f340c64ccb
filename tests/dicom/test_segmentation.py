"""Masks as DICOM SEG: they come back equal to the pixel, validators accept them, viewers can place them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.plane import add_plane, plane_of

pytest.importorskip("highdicom", reason="highdicom, which writes DICOM SEG, is not installed")

from monai_mammo.dicom.segmentation import read_segment, read_segmentation, segments, write_segmentation

MakeFile = Callable[..., Path]


def uid_of(image: Path) -> str:
    return str(pydicom.dcmread(image, stop_before_pixels=True).SOPInstanceUID)


def mask_of(image: Path) -> np.ndarray:
    """An L-shaped mask of an image's size."""
    header = pydicom.dcmread(image, stop_before_pixels=True)
    mask = np.zeros((header.Rows, header.Columns), dtype=np.uint8)
    mask[2:9, 3:5] = 1
    mask[2:4, 3:20] = 1
    return mask


def complaints(file: Path, *kinds: str) -> list[str]:
    """What `dciodvfy` says against a file."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    run = subprocess.run([program, "-new", str(file)], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith(kinds)]


masks = st.integers(1, 40).flatmap(
    lambda rows: st.integers(1, 40).flatmap(
        lambda columns: st.lists(
            st.one_of(
                st.just(np.zeros((rows, columns), np.uint8)),
                st.just(np.ones((rows, columns), np.uint8)),
                st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)).map(
                    lambda place: (np.indices((rows, columns)) == np.reshape(place, (2, 1, 1))).all(0).astype(np.uint8)
                ),
                st.integers(0, 2**32 - 1).map(
                    lambda seed: np.random.default_rng(seed).integers(0, 2, (rows, columns), dtype=np.uint8)
                ),
            ),
            min_size=1,
            max_size=4,
        )
    )
)


@settings(max_examples=30, deadline=None)
@given(masks)
def test_masks_of_any_size_and_content_come_back_equal(make: MakeFile, given_masks: list[np.ndarray]) -> None:
    image = make(np.zeros(given_masks[0].shape, np.uint16))
    written = {f"finding {number}": mask for number, mask in enumerate(given_masks)}
    with TemporaryDirectory() as folder:
        write_segmentation(Path(folder) / "seg.dcm", image, written)
        found = read_segmentation(Path(folder) / "seg.dcm", uid_of(image))
    assert list(found) == list(written)
    for name, mask in written.items():
        np.testing.assert_array_equal(found[name], mask)


def test_a_normal_breast_is_a_segment_with_a_frame_of_zeros(make: MakeFile, tmp_path: Path) -> None:
    image = make()
    written = write_segmentation(tmp_path / "seg.dcm", image, {"tumour": np.zeros((40, 30), np.uint8)})
    assert written.NumberOfFrames == 1
    assert not read_segmentation(tmp_path / "seg.dcm", uid_of(image))["tumour"].any()
    assert complaints(tmp_path / "seg.dcm", "Error", "Abort") == []


@pytest.mark.parametrize("method", ["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"])
@pytest.mark.parametrize("name", ["MG_Explicit_Little", "MG1_J2KI", "MG1_JPLY"])
def test_a_validator_has_nothing_against_segmentations_of_real_images(
    samples: Path, tmp_path: Path, name: str, method: Any
) -> None:
    image = samples / "dicom" / f"{name}.dcm"
    mask = mask_of(image)
    write_segmentation(
        tmp_path / "seg.dcm", image, {"tumour": mask}, creator="reader-1", method=method, algorithm="mammo model"
    )
    assert complaints(tmp_path / "seg.dcm", "Error", "Warning", "Abort") == []
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", uid_of(image))["tumour"], mask)
    assert read_segment(tmp_path / "seg.dcm", number=1, image=uid_of(image)).sum() == mask.sum()


def test_what_an_image_says_amiss_and_a_long_name_leave_a_valid_segmentation(make: MakeFile, tmp_path: Path) -> None:
    image = make(PatientOrientation="MLO", ViewPosition="MLO")  # as in CBIS-DDSM
    written = write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)}, creator="r" * 64)
    assert "PatientOrientation" not in written
    assert len(str(written.ContentCreatorName)) == 64
    assert complaints(tmp_path / "seg.dcm", "Error", "Abort") == []


def test_it_repeats_patient_study_and_orientation_as_the_image_has_them(make: MakeFile, tmp_path: Path) -> None:
    image = make(
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Sentinelle^Zoë",
        PatientOrientation=["P", "FL"],
        AccessionNumber="A1",
        StudyDate="20240229",
        PatientSex="X",  # not a value that DICOM knows
        ImageLaterality="R",
    )
    write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)}, creator="Rivera^Ana")
    source, written = pydicom.dcmread(image), pydicom.dcmread(tmp_path / "seg.dcm")
    for keyword in ("PatientID", "PatientName", "PatientOrientation", "AccessionNumber", "StudyInstanceUID"):
        assert written[keyword].value == source[keyword].value, keyword
    assert (written.StudyDate, written.PatientSex) == ("20240229", "")
    assert written.ContentCreatorName == "Rivera^Ana"
    assert written.SegmentationType == "BINARY"
    region = written.SegmentSequence[0].AnatomicRegionSequence[0]
    assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeValue) == ("76752008", "24028007")


@pytest.mark.parametrize(
    ("offset", "zone"),
    [("+1345", timezone(timedelta(hours=13, minutes=45))), ("-1100", timezone(-timedelta(hours=11))), ("+9999", None)],
)
def test_it_says_when_it_was_made_in_the_time_zone_that_it_states(
    make: MakeFile, tmp_path: Path, offset: str, zone: timezone | None
) -> None:
    image = make(TimezoneOffsetFromUTC=offset)
    before = datetime.now(zone)
    write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)})
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert written.TimezoneOffsetFromUTC == offset
    made = datetime.strptime(written.ContentDate + written.ContentTime, "%Y%m%d%H%M%S.%f").replace(tzinfo=zone)
    assert before <= made <= datetime.now(zone)


@pytest.mark.parametrize(("ratio", "said"), [("12.5", ("01", 12.5, "ISO_10918_1")), (None, ("00", None, None))])
def test_a_mask_of_a_lossy_image_says_so_where_the_image_says_how_lossy(
    make: MakeFile, tmp_path: Path, ratio: str | None, said: tuple[Any, ...]
) -> None:
    """Without the ratio, the statement would not be valid."""
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionMethod": "ISO_10918_1"}
    image = make(**lossy, LossyImageCompressionRatio=ratio)
    written = write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)})
    keywords = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    assert tuple(written.get(keyword) for keyword in keywords) == said


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("tumour", "4147007"),
        ("Mass", "4147007"),
        ("calcification", "129748009"),
        ("breast", "76752008"),
        ("?", "52988006"),
    ],
)
def test_what_is_segmented_has_a_standard_code(make: MakeFile, tmp_path: Path, name: str, code: str) -> None:
    image = make()
    write_segmentation(tmp_path / "seg.dcm", image, {name: mask_of(image)})
    item = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (item.CodeValue, item.CodingSchemeDesignator) == (code, "SCT")


def test_a_mask_recommends_the_colour_that_it_has_on_our_screen(make: MakeFile, tmp_path: Path) -> None:
    image = make()
    write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)})
    [segment] = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    lightness, a, b = np.array(segment.RecommendedDisplayCIELabValue) / 65535 * (100, 255, 255) - (0, 128, 128)
    np.testing.assert_allclose(lab2rgb([lightness, a, b]) * 255, (255, 176, 32), atol=4)  # many take white for D65


def test_an_image_without_a_place_gets_one_of_its_own(make: MakeFile, tmp_path: Path) -> None:
    images = [make(ImagerPixelSpacing=["0.07", "0.08"]) for _ in range(2)]
    frames = set()
    for image in images:
        write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)})
        written = pydicom.dcmread(tmp_path / "seg.dcm")
        shared, frame = written.SharedFunctionalGroupsSequence[0], written.PerFrameFunctionalGroupsSequence[0]
        measures = shared.PixelMeasuresSequence[0]
        assert ([float(v) for v in measures.PixelSpacing], measures.SliceThickness) == ([0.07, 0.08], 1)
        assert measures.SpacingBetweenSlices == 1
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == [0, 0, 0]
        frames.add(str(written.FrameOfReferenceUID))
        shown = pydicom.dcmread(image)
        add_plane(shown)
        assert shown.FrameOfReferenceUID == written.FrameOfReferenceUID
        assert [float(v) for v in shown.PixelSpacing] == [0.07, 0.08]
    assert len(frames) == 2


def test_an_images_own_place_is_kept(make: MakeFile, tmp_path: Path) -> None:
    own = {"FrameOfReferenceUID": "1.2.3", "ImagePositionPatient": [5, -7, 9], "PixelSpacing": [0.1, 0.2]}
    image = make(**own, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)})
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert written.FrameOfReferenceUID == "1.2.3"
    assert plane_of(pydicom.dcmread(image)) == ("1.2.3", (5, -7, 9), (0, 1, 0, 0, 0, -1), (0.1, 0.2))
    place = written.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    assert place.ImagePositionPatient == [5, -7, 9]


_PLACED = {
    "FrameOfReferenceUID": "1.2.3",
    "ImagePositionPatient": [5, -7, 9],
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    "PixelSpacing": [0.1, 0.2],
}


@pytest.mark.parametrize("place", [{}, {"ImagerPixelSpacing": [0.07, 0.08]}, _PLACED], ids=["none", "grid", "own"])
@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_another_library_finds_every_segments_frame_by_the_image_it_was_drawn_on(
    make: MakeFile, tmp_path: Path, view: str, place: dict[str, Any]
) -> None:
    import highdicom

    image = make(ViewPosition=view, **place)
    mask = mask_of(image)
    given_masks = {"tumour": mask, "cyst": np.zeros_like(mask), "calcification": np.ascontiguousarray(mask[::-1])}
    write_segmentation(tmp_path / "seg.dcm", image, given_masks)
    found = highdicom.seg.segread(str(tmp_path / "seg.dcm")).get_pixels_by_source_instance([uid_of(image)])
    np.testing.assert_array_equal(found, np.stack(list(given_masks.values()), axis=-1)[np.newaxis])
    assert complaints(tmp_path / "seg.dcm", "Error", "Abort") == []


def test_frames_without_a_reference_show_the_files_only_image(make: MakeFile, tmp_path: Path) -> None:
    """As files of former states of this program have them."""
    image = make()
    mask = mask_of(image)
    written = write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask, "cyst": np.zeros_like(mask)})
    for groups in written.PerFrameFunctionalGroupsSequence:
        groups.DerivationImageSequence = []
    written.save_as(tmp_path / "seg.dcm")
    found = read_segmentation(tmp_path / "seg.dcm", uid_of(image))
    np.testing.assert_array_equal(found["tumour"], mask)
    assert list(found) == ["tumour", "cyst"]
    assert not found["cyst"].any()


@pytest.mark.parametrize(
    ("attributes", "spacing"),
    [
        ({"PixelSpacing": [0.1, 0.2], "ImagerPixelSpacing": [0.3, 0.4]}, (0.1, 0.2)),
        ({"ImagerPixelSpacing": [0.3, 0.4], "NominalScannedPixelSpacing": [0.5, 0.6]}, (0.3, 0.4)),
        ({"NominalScannedPixelSpacing": [0.5, 0.6]}, (0.5, 0.6)),
        ({}, (1, 1)),
    ],
)
def test_the_grids_spacing_is_the_first_that_an_image_has(make: MakeFile, attributes: Any, spacing: Any) -> None:
    assert plane_of(pydicom.dcmread(make(**attributes))).spacing == spacing


@pytest.mark.parametrize("spacing", [{}, {"PixelSpacing": [0, 0]}, {"ImagerPixelSpacing": [0.1, -0.1]}], ids=str)
def test_nothing_can_be_measured_in_an_image_that_states_no_spacing(make: MakeFile, spacing: Any) -> None:
    shown = pydicom.dcmread(make(**spacing))
    add_plane(shown)
    assert not shown.get("PixelSpacing")
    assert shown.ImagePositionPatient == [0, 0, 0]


@pytest.mark.parametrize("orientation", [[1, 0, 0, 1, 0, 0], [0] * 6, [2, 0, 0, 0, 1, 0], None])
def test_a_place_that_makes_no_sense_is_none(make: MakeFile, orientation: list[int] | None) -> None:
    image = make(FrameOfReferenceUID="1.2.3", ImagePositionPatient=[5, 5, 5], ImageOrientationPatient=orientation)
    plane = plane_of(pydicom.dcmread(image))
    assert (plane.position, plane.orientation) == ((0, 0, 0), (1, 0, 0, 0, 1, 0))
    assert plane.frame_of_reference != "1.2.3"


def test_one_reader_and_image_share_a_series_and_two_readers_do_not(make: MakeFile, tmp_path: Path) -> None:
    image = make()
    written = [
        write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)}, creator=creator, instance=instance)
        for creator, instance in (("ana", 1), ("ana", 2), ("ben", 1))
    ]
    assert len({seg.SOPInstanceUID for seg in written}) == 3
    assert written[0].SeriesInstanceUID == written[1].SeriesInstanceUID != written[2].SeriesInstanceUID


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_an_image_to_which_nothing_can_refer_is_refused(make: MakeFile, tmp_path: Path, keyword: str) -> None:
    image = make(**{keyword: ""})
    with pytest.raises(MammogramError, match=keyword):
        write_segmentation(tmp_path / "seg.dcm", image, {"tumour": np.ones((40, 30))})
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_another_size_is_refused_and_the_former_file_stays(make: MakeFile, tmp_path: Path) -> None:
    image = make()
    write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)})
    former = (tmp_path / "seg.dcm").read_bytes()
    for bad in ({"tumour": np.ones((30, 40))}, {}):
        with pytest.raises(MammogramError):
            write_segmentation(tmp_path / "seg.dcm", image, bad)
    assert (tmp_path / "seg.dcm").read_bytes() == former
    assert [file.name for file in tmp_path.iterdir()] == ["seg.dcm"]


def test_frames_that_would_fill_the_memory_are_refused_before_they_are_decoded(make: MakeFile, tmp_path: Path) -> None:
    image = make()
    written = write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)})
    written.NumberOfFrames = 700_000  # of 40 x 30 pixels
    written.save_as(tmp_path / "seg.dcm")
    with pytest.raises(MammogramError, match=r"claims 28000000 x 30 pixels, more than the \d+ that are allowed"):
        read_segmentation(tmp_path / "seg.dcm", uid_of(image))


def test_a_file_is_as_readable_as_any_other_of_its_writer(make: MakeFile, tmp_path: Path) -> None:
    """An archive's or a viewer's own user reads it as well."""
    image, other = make(), tmp_path / "other"
    write_segmentation(tmp_path / "seg.dcm", image, {"tumour": mask_of(image)})
    other.touch()
    assert (tmp_path / "seg.dcm").stat().st_mode == other.stat().st_mode


def test_names_that_dicom_cannot_hold_are_shortened_and_no_error_shows_the_patient(
    make: MakeFile, tmp_path: Path, secrets: list[str]
) -> None:
    image = make()
    write_segmentation(tmp_path / "seg.dcm", image, {"left\\right\n" + "x" * 80: mask_of(image)}, creator="a=b\\c")
    (segment,) = segments(tmp_path / "seg.dcm")
    assert segment.label == ("leftright" + "x" * 80)[:64]
    assert segment.label not in repr(segment)
    broken = make(StudyInstanceUID="")
    with pytest.raises(MammogramError) as refused:
        write_segmentation(tmp_path / "seg.dcm", broken, {"tumour": np.ones((40, 30))})
    assert not any(secret in str(refused.value) for secret in secrets)
