"""Phantom studies: valid DICOM in many forms, truth that fits the pixels, splits by patient, the same every time."""

import json
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.datasets.phantom import (
    contact_sheet,
    quality_datalist,
    read_truth,
    scenes,
    segmentation_datalist,
    write_phantoms,
)
from monai_mammo.datasets.phantom_anatomy import CAUSES, FIELD_HEIGHT_MM
from monai_mammo.datasets.phantom_dicom import PHOTOMETRIC, TRANSFER_SYNTAXES, VOI, Encoding, write_mammogram
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram

PATIENTS, SEED, ROWS, COLUMNS = 6, 3, 256, 192
FIELD = (FIELD_HEIGHT_MM, FIELD_HEIGHT_MM * COLUMNS / ROWS)


@pytest.fixture(scope="module")
def study_set(tmp_path_factory):
    """Six patients, half of the images incomplete, an eighth of the default size in pixels."""
    out = tmp_path_factory.mktemp("phantoms")
    write_phantoms(out, PATIENTS, SEED, truncated_fraction=0.5, rows=ROWS, columns=COLUMNS)
    return out


@pytest.fixture(scope="module")
def images(study_set):
    return read_truth(study_set)


def breast(scene, laterality):
    mask = scene.breast_mask(ROWS, COLUMNS)
    return mask[:, ::-1] if laterality == "R" else mask


@cache
def geometry(number):
    """One patient's scenes as `study_set` has them, with the laterality of each."""
    return list(zip(scenes(number, SEED, 2, FIELD), "LLRR", strict=True))


def test_every_patient_has_a_study_of_four_views(study_set, images):
    assert len(images) == 4 * PATIENTS
    for patient in {image.patient for image in images}:
        files = [pydicom.dcmread(file, stop_before_pixels=True) for file in (study_set / patient).rglob("*.dcm")]
        assert {(ds.ImageLaterality, ds.ViewPosition) for ds in files} == set(product("LR", ("CC", "MLO")))
        assert len({ds.StudyInstanceUID for ds in files}) == 1
        assert len({ds.SOPInstanceUID for ds in files}) == 4
        assert all(str(ds.PatientName).startswith("Phantom^") for ds in files)


def test_what_the_truth_says_is_what_the_reader_reads(study_set, images):
    for image in images:
        mammogram = read_mammogram(study_set / image.file)
        assert (mammogram.laterality, mammogram.view) == (image.laterality, image.view)
        assert mammogram.pixels.shape == (image.rows, image.columns)
        assert mammogram.spacing == pytest.approx((image.spacing_mm, image.spacing_mm), rel=1e-6)


def test_a_study_set_has_every_transfer_syntax_photometric_interpretation_and_voi_transform(study_set, images):
    headers = [pydicom.dcmread(study_set / image.file, stop_before_pixels=True) for image in images]
    assert {ds.file_meta.TransferSyntaxUID for ds in headers} == set(TRANSFER_SYNTAXES)
    assert {ds.PhotometricInterpretation for ds in headers} == set(PHOTOMETRIC)
    assert {"LUT" if "VOILUTSequence" in ds else ds.VOILUTFunction for ds in headers} == set(VOI)


def write_variant(path, pixels, encoding, laterality="L", view="CC"):
    write_mammogram(
        path,
        pixels,
        patient=1,
        laterality=laterality,
        view=view,
        density="b",
        spacing=0.25,
        seed=0,
        encoding=encoding,
    )


@pytest.mark.parametrize("voi", VOI)
def test_a_reader_sees_the_same_picture_whatever_the_file_looks_like_inside(tmp_path, voi):
    pixels = np.linspace(0, 1, 64 * 48).reshape(64, 48)
    for number, (syntax, photometric) in enumerate(product(TRANSFER_SYNTAXES, PHOTOMETRIC)):
        write_variant(tmp_path / f"{number}.dcm", pixels, Encoding(syntax, photometric, voi))
        seen = read_mammogram(tmp_path / f"{number}.dcm").pixels
        reached = np.clip(pixels, 0.031, 0.981) if voi == "SIGMOID" else pixels  # a sigmoid never ends
        np.testing.assert_allclose(seen, reached, atol=1e-3)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(tmp_path, study_set, images):
    files = [study_set / image.file for image in images]
    pixels = np.zeros((64, 48))
    for number, (syntax, photometric, voi) in enumerate(product(TRANSFER_SYNTAXES, PHOTOMETRIC, VOI)):
        files.append(tmp_path / f"{number}.dcm")
        write_variant(
            files[-1], pixels, Encoding(syntax, photometric, voi), "LR"[number % 2], ("CC", "MLO")[number % 3 % 2]
        )
    for file in files:
        result = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, check=False)
        report = (result.stdout + result.stderr).splitlines()
        assert "MammographyImageForPresentation" in report
        assert not [line for line in report if line.startswith("Error")]


def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(tmp_path, study_set):
    """Patient 1 is the same whether it comes alone or in a set of six."""
    for name, seed in (("again", SEED), ("other", SEED + 1)):
        write_phantoms(tmp_path / name, 1, seed, truncated_fraction=0.5, rows=ROWS, columns=COLUMNS)
    again = [file.relative_to(tmp_path / "again") for file in sorted((tmp_path / "again").rglob("*.*[gm]"))]
    assert len([file for file in again if file.suffix == ".dcm"]) == 4
    for file in again:
        assert (tmp_path / "again" / file).read_bytes() == (study_set / file).read_bytes(), file
    same, other = (pydicom.dcmread(tmp_path / name / "phantom-0001/study-1/L_CC.dcm") for name in ("again", "other"))
    assert same.SOPInstanceUID != other.SOPInstanceUID
    assert not np.array_equal(same.pixel_array, other.pixel_array)


def test_air_is_dark_and_the_breast_is_not(study_set, images):
    for image, (scene, laterality) in zip(images, [s for n in range(PATIENTS) for s in geometry(n)], strict=True):
        pixels, inside = read_mammogram(study_set / image.file).pixels, breast(scene, laterality)
        assert pixels[~inside].mean() < 0.06, image.file
        assert np.median(pixels[inside]) > 0.1, image.file


def test_the_chest_wall_is_at_the_left_edge_of_a_left_breast_and_at_the_right_edge_of_a_right_one(study_set, images):
    """Pixels, PatientOrientation and the flip attribute tell the same story."""
    for image in images:
        pixels = read_mammogram(study_set / image.file).pixels
        wall, front = (slice(None, 8), slice(-8, None))[:: 1 if image.laterality == "L" else -1]
        if image.cause != "nipple":
            assert pixels[:, wall].mean() > pixels[:, front].mean() + 0.05, image.file
        ds = pydicom.dcmread(study_set / image.file, stop_before_pixels=True)
        towards = "A" if image.laterality == "L" else "P"  # of a row, from left to right
        away = {"CC": {"L": "R", "R": "L"}, "MLO": {"L": "FR", "R": "FL"}}[image.view][image.laterality]
        assert list(ds.PatientOrientation) == [towards, away]
        assert ds.FieldOfViewHorizontalFlip == "NO"


def test_masks_lie_in_the_breast_and_box_centre_and_diameter_are_theirs(study_set, images):
    found = 0
    for image, (scene, laterality) in zip(images, [s for n in range(PATIENTS) for s in geometry(n)], strict=True):
        for lesion in image.lesions:
            mask = np.asarray(Image.open(study_set / lesion.mask))
            assert mask.shape == (image.rows, image.columns)
            assert set(np.unique(mask)) == {False, True}
            assert not np.any((mask > 0) & ~breast(scene, laterality))
            rows, columns = np.nonzero(mask)
            assert lesion.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
            assert lesion.centre == pytest.approx((rows.mean(), columns.mean()), abs=0.01)
            sides = np.array([rows.max() - rows.min() + 1, columns.max() - columns.min() + 1]) * image.spacing_mm
            assert sides.max() <= lesion.diameter_mm <= np.hypot(*sides)
            found += 1
    assert found >= PATIENTS


def test_a_mass_is_brighter_than_the_tissue_around_it(study_set, images):
    differences = []
    for image in images:
        pixels = read_mammogram(study_set / image.file).pixels
        for lesion in image.lesions:
            mask = np.asarray(Image.open(study_set / lesion.mask)) > 0
            (row0, column0, row1, column1), margin = lesion.box, 6
            around = np.zeros_like(mask)
            around[max(0, row0 - margin) : row1 + margin, max(0, column0 - margin) : column1 + margin] = True
            differences.append(pixels[mask].mean() - pixels[around & ~mask].mean())
    assert np.mean(differences) > 0.05


def test_a_mass_of_a_completely_imaged_breast_is_seen_in_both_views(images):
    for patient, laterality in product({image.patient for image in images}, "LR"):
        pair = [image for image in images if (image.patient, image.laterality) == (patient, laterality)]
        if all(image.complete for image in pair):
            assert len(pair[0].lesions) == len(pair[1].lesions)


def test_truncation_is_spread_over_the_patients_and_fully_described(images):
    for image in images:
        assert image.complete == (image.cause == "") == (image.cut_side == "") == (image.lost_fraction == 0)
        if not image.complete:
            assert image.cause in CAUSES[image.view]
            assert 0.05 < image.lost_fraction < 0.45
    for patient in {image.patient for image in images}:
        assert sum(not image.complete for image in images if image.patient == patient) == 2


def complete_twin(scene):
    """The same breast in the pose in which nothing is cut."""
    return replace(scene, pose=scene.complete_pose)


def touches(mask):
    """Share of each image edge that the breast covers."""
    edges = {"left": mask[:, 0], "right": mask[:, -1], "top": mask[0], "bottom": mask[-1]}
    return {side: float(edge.mean()) for side, edge in edges.items()}


def test_a_complete_breast_ends_before_the_edges_but_for_chest_wall_and_axilla(images):
    for number, image in enumerate(images):
        scene, laterality = geometry(number // 4)[number % 4]
        covered = touches(breast(complete_twin(scene), laterality))
        front = "right" if laterality == "L" else "left"
        assert covered[front] == 0, image.file
        if image.view == "CC":
            assert covered["top"] == covered["bottom"] == 0, image.file


@pytest.mark.parametrize("view", ["CC", "MLO"])
@pytest.mark.parametrize("number", range(4))
def test_every_cause_loses_the_stated_share_of_the_breast_at_the_stated_edge(view, number):
    """Counted anew: where on the truncated image do the pixels of the complete twin's breast lie?"""
    complete = scenes(number, SEED, 0, FIELD)[0 if view == "CC" else 1]
    for cause in CAUSES[view]:
        scene = complete.truncated(cause, np.random.default_rng(number))
        twin = complete_twin(scene)
        assert twin.pose == complete.pose
        tissue = twin.breast_mask(ROWS, COLUMNS)
        x, y = scene.pose.to_field(*twin.pose.to_anatomy(*twin.field_grid(ROWS, COLUMNS)))
        outside = {"left": x < 0, "right": x >= FIELD[1], "top": y < 0, "bottom": y >= FIELD[0]}
        lost = tissue & np.logical_or.reduce(list(outside.values()))
        assert lost.sum() / tissue.sum() == pytest.approx(scene.lost_fraction, abs=0.005), cause
        at_edge = {side: int((tissue & where).sum()) for side, where in outside.items()}
        assert max(at_edge, key=lambda side: at_edge[side]) == scene.cut_side("L"), cause
        assert scene.cut_side("R") == {"left": "right", "right": "left"}.get(scene.cut_side("L"), scene.cut_side("L"))


def test_a_missing_nipple_is_off_the_image_and_a_missing_pectoral_muscle_is_hardly_on_it():
    for number in range(8):
        complete = scenes(number, SEED, 0, FIELD)[1]
        rng = np.random.default_rng(number)
        tip = (np.array(complete.breast.nipple_x("MLO")), np.array(0.0))
        assert complete.truncated("nipple", rng).pose.to_field(*tip)[0] > FIELD[1] - 5
        muscle = []
        for scene in (complete, complete.truncated("pectoral", rng)):
            x, y = scene.pose.to_anatomy(*scene.field_grid(ROWS, COLUMNS))
            muscle.append(float((x < scene.breast.pectoral_edge(y)).mean()))
        assert muscle[1] < 0.4 * muscle[0]


def test_datalists_name_existing_files_and_keep_a_patient_on_one_side(study_set, images):
    segmentation_datalist(study_set)
    quality_datalist(study_set)
    sides = {}
    for name in ("segmentation_roi", "segmentation_whole", "quality"):
        document = json.loads((study_set / name / "dataset.json").read_text())
        assert {"name", "description", "labels", "training", "validation", "test"} <= set(document)
        for section in ("training", "validation", "test"):
            assert load_datalist(study_set / name, section)  # checks that every file exists
            for entry in document[section]:
                assert not Path(entry["image"]).is_absolute()
                assert sides.setdefault(entry["patient"], section) == section
    assert set(sides) == {image.patient for image in images}


def test_datalists_hold_an_entry_a_mass_an_image_and_a_verdict(study_set, images):
    segmentation_datalist(study_set)
    quality_datalist(study_set)

    def entries(name):
        return [e for section in ("training", "validation", "test") for e in load_datalist(study_set / name, section)]

    roi, whole, quality = entries("segmentation_roi"), entries("segmentation_whole"), entries("quality")
    assert len(roi) == sum(len(image.lesions) for image in images)
    assert len(whole) == len(quality) == len(images)
    of_file = {str((study_set / image.file).resolve()): image for image in images}
    for entry in whole:
        union = np.asarray(Image.open(entry["label"])) > 0
        masks = [np.asarray(Image.open(study_set / lesion.mask)) > 0 for lesion in of_file[entry["image"]].lesions]
        assert np.array_equal(union, np.logical_or.reduce(masks) if masks else np.zeros((ROWS, COLUMNS), bool))
    for entry in quality:
        assert entry["label"] == int(not of_file[entry["image"]].complete)
        assert entry.get("cause", "") == of_file[entry["image"]].cause


def test_a_contact_sheet_shows_every_image_with_its_masses_outlined(study_set, tmp_path):
    contact_sheet(study_set, tmp_path / "sheet.png", tile_height=96)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * (96 + 4), 8 * (72 + 4), 3)
    assert np.any(np.all(sheet == (255, 210, 0), axis=-1))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"patients": 0}, "patients"),
        ({"truncated_fraction": 1.5}, "truncated_fraction"),
        ({"rows": 32, "columns": 24}, "rows"),
        ({"rows": 256, "columns": 128}, "columns"),
    ],
)
def test_impossible_arguments_are_refused_by_name(tmp_path, arguments, word):
    with pytest.raises(ValueError, match=word):
        write_phantoms(tmp_path, **{"patients": 1, "seed": 0, **arguments})


def test_a_folder_without_phantoms_is_named_in_the_error(tmp_path):
    for function in (read_truth, segmentation_datalist, quality_datalist):
        with pytest.raises(MammogramError, match=r"phantoms\.json.*monai-mammo phantom"):
            function(tmp_path)
