"""Lesions: which file is the mask, what happens to one of another size, and the way back from a crop."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.draw import polygon2mask
from skimage.measure import label, regionprops

from monai_mammo.datasets.lesions import (
    LEAST_LESION,
    crop_region,
    cut,
    find_lesions,
    place,
    variants,
)
from monai_mammo.datasets.sources import SourceLesion
from monai_mammo.regions import resize_nearest

SHAPE = (400, 300)
IMAGE = Path("mammogram.dcm")


def mask_of(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    for row0, column0, row1, column1 in boxes:
        mask[row0:row1, column0:column1] = 255
    return mask


def save(file: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def crop(tmp_path) -> Path:
    """A crop of the mammogram: grey levels, small."""
    grey = np.random.default_rng(0).integers(0, 255, (60, 50)).astype(np.uint8)
    return save(tmp_path / "000000.png", grey)


@pytest.mark.parametrize("order", [1, -1])
def test_the_pixels_tell_mask_from_crop_whatever_the_order(tmp_path, crop, order):
    mask = save(tmp_path / "000001.png", mask_of((100, 50, 160, 120)))
    defects = []
    (lesion,) = find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(crop, mask)[::order])], defects)
    assert lesion.box == [100, 50, 160, 120]
    assert not defects


def test_a_crop_alone_in_the_masks_place_is_recognised(crop):
    defects = []
    assert not find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(crop,))], defects)
    assert defects[0].file == crop
    assert "grey levels" in defects[0].reason
    assert defects[0].action == "lesion dropped"


def test_a_two_valued_crop_is_no_mask_either(tmp_path):
    small = save(tmp_path / "crop.png", mask_of((10, 10, 40, 40), shape=(80, 60)))
    defects = []
    assert not find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(small,))], defects)
    assert "perhaps a crop: 80 x 60 pixels, its mammogram 400 x 300" in defects[0].reason


def test_of_two_masks_the_one_of_the_mammograms_size_counts(tmp_path):
    near = save(tmp_path / "a.png", mask_of((10, 10, 60, 60), shape=(404, 303)))
    exact = save(tmp_path / "b.png", mask_of((200, 100, 260, 160)))
    defects = []
    (lesion,) = find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(near, exact))], defects)
    assert lesion.box == [200, 100, 260, 160]
    assert not defects


def test_a_mask_of_another_size_but_the_same_aspect_is_resized_and_counted(tmp_path):
    mask = save(tmp_path / "mask.png", mask_of((100, 60, 200, 120), shape=(600, 447)))
    defects = []
    (lesion,) = find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(mask,))], defects)
    assert lesion.mask.shape == SHAPE
    assert lesion.box == pytest.approx([67, 40, 133, 81], abs=1)
    assert (defects[0].file, defects[0].action) == (mask, "resized")
    assert "600 x 447 pixels, its mammogram 400 x 300" in defects[0].reason


def test_a_mask_of_another_aspect_is_dropped_and_counted(tmp_path):
    mask = save(tmp_path / "mask.png", mask_of((100, 60, 200, 120), shape=(400, 310)))
    defects = []
    assert not find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(mask,))], defects)
    assert "another aspect ratio" in defects[0].reason
    assert defects[0].action == "lesion dropped"


def test_a_mask_with_three_values_is_none(tmp_path):
    labels = mask_of((100, 60, 200, 120)) // 255
    labels[300:] = 2
    defects = []
    assert not find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(save(tmp_path / "labels.png", labels),))], defects)
    assert "more than two values" in defects[0].reason


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nbroken", b"no image"])
def test_a_damaged_or_missing_mask_drops_its_lesion_only(tmp_path, content):
    broken, gone = tmp_path / "broken.png", tmp_path / "gone.png"
    broken.write_bytes(content)
    good = save(tmp_path / "good.png", mask_of((100, 50, 160, 120)))
    outlines = [SourceLesion(masks=(file,), name=file.stem) for file in (broken, gone, good)]
    defects = []
    (lesion,) = find_lesions(IMAGE, SHAPE, outlines, defects)
    assert lesion.outline.name == "good"
    assert [defect.file for defect in defects] == [broken, gone]


def test_an_empty_mask_is_a_defect(tmp_path):
    defects = []
    file = save(tmp_path / "mask.png", mask_of())
    assert not find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(file,))], defects)
    assert "is empty" in defects[0].reason


def test_a_lesion_without_any_outline_is_a_defect_of_its_image():
    defects = []
    assert not find_lesions(IMAGE, SHAPE, [SourceLesion(name="3")], defects)
    assert (defects[0].file, defects[0].reason) == (IMAGE, "lesion '3' has neither mask nor outline")


def test_a_union_is_split_into_its_lesions_and_a_lesions_own_mask_is_not(tmp_path):
    file = save(tmp_path / "mask.png", mask_of((10, 10, 40, 40), (100, 100, 140, 150), (300, 200, 303, 203)))
    for union, boxes in ((True, [[10, 10, 40, 40], [100, 100, 140, 150]]), (False, [[10, 10, 140, 150]])):
        defects = []
        lesions = find_lesions(IMAGE, SHAPE, [SourceLesion(masks=(file,), union=union)], defects)
        assert [lesion.box for lesion in lesions] == boxes
        assert [(defect.file, defect.action) for defect in defects] == [(file, "parts dropped")]
        assert f"fewer than {LEAST_LESION} pixels" in defects[0].reason
        assert sum(lesion.mask.sum() for lesion in lesions) == 30 * 30 + 40 * 50


def test_a_polygon_becomes_its_area():
    corners = ((50.0, 20.0), (50.0, 119.0), (149.0, 119.0), (149.0, 20.0))
    (lesion,) = find_lesions(IMAGE, SHAPE, [SourceLesion(polygon=corners)], [])
    assert lesion.mask.sum() == pytest.approx(100 * 100, rel=0.03)
    assert lesion.box == pytest.approx([50, 20, 150, 120], abs=1)


@pytest.mark.parametrize("corners", [((7.0, 7.0),), ((7.0, 7.0), (90.0, 90.0))])
def test_a_point_or_a_line_is_no_lesion(corners):
    defects = []
    assert not find_lesions(IMAGE, SHAPE, [SourceLesion(polygon=corners, name="1")], defects)
    assert [defect.reason for defect in defects] == [
        f"the outline has {len(corners)} corner(s), not an area: lesion '1'"
    ]


def test_hundreds_of_outlines_too_small_for_lesions_are_one_line_with_their_number():
    tiny = [((r, 10.0), (r, 14.0), (r + 4, 14.0), (r + 4, 10.0)) for r in np.arange(300.0)]
    outlines = [SourceLesion(polygon=corners, name=str(number)) for number, corners in enumerate(tiny, start=1)]
    large = SourceLesion(polygon=((100.0, 100.0), (100.0, 140.0), (140.0, 140.0), (140.0, 100.0)), name="mass")
    defects = []
    (lesion,) = find_lesions(IMAGE, SHAPE, [*outlines[:200], large, *outlines[200:]], defects)
    assert lesion.outline is large
    (defect,) = defects
    assert (defect.file, defect.action) == (IMAGE, "lesion dropped")
    assert defect.reason == "the outline has parts of fewer than 100 pixels: 300 lesions ('1', '2', '3', …)"


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-60, 460, allow_nan=False)] * 2), min_size=3, max_size=9))
def test_a_polygon_drawn_within_its_own_box_is_the_one_drawn_over_the_whole_image(corners):
    whole = polygon2mask(SHAPE, np.array(corners))
    lesions = find_lesions(IMAGE, SHAPE, [SourceLesion(polygon=tuple(corners))], [])
    large = [component for component in regionprops(label(whole)) if component.area >= LEAST_LESION]
    assert len(lesions) == bool(large)
    for lesion in lesions:
        expected = np.zeros(SHAPE, bool)
        for component in large:
            expected[tuple(component.coords.T)] = True
        np.testing.assert_array_equal(lesion.mask, expected)


def test_a_polygon_beyond_the_image_is_cut_at_its_border():
    corners = ((-50.0, -50.0), (-50.0, 49.0), (49.0, 49.0), (49.0, -50.0))
    (lesion,) = find_lesions(IMAGE, SHAPE, [SourceLesion(polygon=corners)], [])
    assert lesion.box[:2] == [0, 0]
    assert lesion.mask.sum() == pytest.approx(50 * 50, rel=0.05)


boxes = st.tuples(st.integers(0, 99), st.integers(0, 79), st.integers(1, 100), st.integers(1, 80)).map(
    lambda box: [box[0], box[1], min(100, box[0] + box[2]), min(80, box[1] + box[3])]
)


@given(box=boxes, margin=st.floats(0, 3))
def test_a_crop_holds_its_lesion_and_leads_back_to_the_original_pixels(box, margin):
    mask = mask_of(tuple(box), shape=(100, 80))
    region = crop_region(box, mask.shape, margin)
    assert 0 <= region[0] <= box[0] < box[2] <= region[2] <= 100
    assert 0 <= region[1] <= box[1] < box[3] <= region[3] <= 80
    np.testing.assert_array_equal(place(cut(mask, region), region, mask.shape), mask)


def test_the_default_margin_leaves_about_half_of_a_crop_to_the_lesion():
    assert crop_region([100, 100, 150, 200], SHAPE) == [90, 80, 160, 220]


@given(st.tuples(*[st.integers(1, 40)] * 4))
def test_nearest_resizing_makes_no_new_values_and_is_undone_by_itself_when_enlarging(sizes):
    mask = np.random.default_rng(0).integers(0, 4, sizes[:2])
    larger = (sizes[0] * sizes[2], sizes[1] * sizes[3])
    np.testing.assert_array_equal(resize_nearest(resize_nearest(mask, larger), sizes[:2]), mask)


def test_thirteen_variants_of_a_crop_image_and_mask_alike():
    rows, columns = np.mgrid[:200, :200]
    mask = ((rows - 100) / 40) ** 2 + ((columns - 90) / 20) ** 2 < 1
    region = [55, 65, 145, 115]
    made = list(variants(mask.astype(np.float32), mask, region, np.random.default_rng(0)))
    assert len(made) == 13
    np.testing.assert_array_equal(made[0].mask, cut(mask, region))
    assert len({variant.angle for variant in made}) == 13
    assert {variant.flips for variant in made} == {(), (0,), (1,), (0, 1)}
    for variant in made:
        assert abs(variant.angle) <= 10
        assert variant.pixels.shape == variant.mask.shape == (90, 50)
        assert ((variant.pixels > 0.5) == variant.mask).mean() > 0.98
        assert variant.mask.sum() == pytest.approx(mask.sum(), rel=0.02)


def test_a_turned_crop_shows_the_mammogram_around_it_not_black_corners():
    pixels, mask = np.ones((200, 200), dtype=np.float32), mask_of((90, 90, 110, 110), shape=(200, 200)) > 0
    inner = list(variants(pixels, mask, [40, 80, 160, 120], np.random.default_rng(0)))
    assert min(variant.pixels.min() for variant in inner) == pytest.approx(1)
    corner = list(variants(pixels, mask, [0, 0, 120, 120], np.random.default_rng(0)))
    assert corner[0].pixels.min() == 1
    assert corner[1].pixels.min() == 0
