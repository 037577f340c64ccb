"""Regions in original pixels, their resampling and its inverse, and the breast's outline."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor, set_track_meta
from monai.transforms import Compose, Invertd, ScaleIntensityRangePercentilesd
from PIL import Image
from scipy.ndimage import center_of_mass, distance_transform_edt

from monai_mammo.datasets import phantom
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.regions import bounding_box, breast_mask, fit_region, reduced
from monai_mammo.transforms import (
    BreastMaskd,
    BreastRegiond,
    ClearAird,
    LesionRegiond,
    ResampleRegiond,
    ScalePercentilesd,
    WholeRegiond,
)

from .conftest import image_of

sides = st.integers(8, 90)


def disc(rows: int, columns: int, row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


@given(rows=st.integers(1, 90), columns=st.integers(1, 90), longest=st.integers(1, 60), seed=st.integers(0, 9))
@settings(deadline=None)
def test_a_reduced_image_holds_the_means_of_blocks_that_cover_every_pixel(rows, columns, longest, seed):
    pixels = np.random.default_rng(seed).random((rows, columns), dtype=np.float32)
    small = reduced(pixels, longest)
    assert small.dtype == np.float32
    assert max(small.shape) == min(longest, max(rows, columns))
    for row in range(small.shape[0]):
        for column in range(small.shape[1]):
            top, bottom = row * rows // small.shape[0], -(-(row + 1) * rows // small.shape[0])
            left, right = column * columns // small.shape[1], -(-(column + 1) * columns // small.shape[1])
            assert small[row, column] == pytest.approx(pixels[top:bottom, left:right].mean(), abs=1e-5)


@given(
    box=st.tuples(st.integers(-20, 80), st.integers(-20, 80), st.integers(1, 60), st.integers(1, 60)),
    size=st.tuples(st.integers(8, 64), st.integers(8, 64)),
    margin=st.floats(0, 0.5),
)
def test_a_fitted_region_holds_the_box_with_its_margin_and_has_the_ratio_asked_for(box, size, margin):
    row, column, height, width = box
    region = fit_region([row, column, row + height, column + width], size, margin)
    fitted_height, fitted_width = region[2] - region[0], region[3] - region[1]
    assert fitted_height >= height
    assert fitted_width >= width
    assert region[0] <= row + 1
    assert region[2] >= row + height - 1
    scale = max(height * (1 + 2 * margin) / size[0], width * (1 + 2 * margin) / size[1])
    assert abs(fitted_height - size[0] * scale) <= 1
    assert abs(fitted_width - size[1] * scale) <= 1


@settings(deadline=None, max_examples=40)
@given(rows=sides, columns=sides, region=st.tuples(*[st.integers(-30, 70)] * 2, st.integers(4, 80), st.integers(4, 80)))
def test_resampling_at_the_regions_own_size_is_a_crop_and_its_inverse_puts_it_back(rows, columns, region):
    row, column, height, width = region
    box = [row, column, row + height, column + width]
    pixels = torch.rand(1, rows, columns, generator=torch.Generator().manual_seed(rows))
    step = ResampleRegiond("image", size=(height, width))
    cut = step({"image": MetaTensor(pixels), "region": box})
    back = step.inverse(cut)["image"]
    inside = torch.zeros(rows, columns, dtype=torch.bool)
    inside[max(row, 0) : max(row + height, 0), max(column, 0) : max(column + width, 0)] = True
    assert back.shape == pixels.shape
    assert torch.equal(back[0].as_tensor()[inside], pixels[0][inside])
    assert not back[0].as_tensor()[~inside].any()


def test_a_mask_goes_to_the_networks_size_and_back_to_its_place():
    lesion = disc(300, 200, 120, 60, 30)
    pipeline = Compose([LesionRegiond(size=(64, 64)), ResampleRegiond("image", size=(64, 64))])
    data = pipeline({"image": image_of(lesion), "box": bounding_box(lesion)})
    assert data["image"].shape == (1, 64, 64)
    assert 0.3 < float(data["image"].mean()) < 0.5  # the lesion covers some 40 % of the paper's crop
    data["pred"] = MetaTensor(data["image"].as_tensor().clone())
    back = Invertd("pred", pipeline, orig_keys="image", nearest_interp=False)(data)["pred"]
    overlap = (back[0].numpy() > 0.5) & lesion
    assert overlap.sum() / ((back[0].numpy() > 0.5) | lesion).sum() > 0.95


@settings(deadline=None, max_examples=40)
@given(
    rows=sides, columns=sides, region=st.tuples(*[st.integers(-30, 70)] * 2, st.integers(4, 200), st.integers(4, 200))
)
def test_resampling_is_torchs_over_the_region_with_zeros_beyond_the_image(rows, columns, region):
    row, column, height, width = region
    pixels = torch.rand(2, rows, columns, generator=torch.Generator().manual_seed(rows))
    padded = torch.nn.functional.pad(pixels, [300] * 4)[:, row + 300 :, column + 300 :][:, :height, :width]
    step = ResampleRegiond("image", size=(24, 17))
    cut = step({"image": MetaTensor(pixels), "region": [row, column, row + height, column + width]})
    expected = torch.nn.functional.interpolate(padded[None], size=(24, 17), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(cut["image"].as_tensor(), expected, atol=1e-6, rtol=0)
    cut_again = cut["image"].as_tensor()[None]
    whole = torch.nn.functional.interpolate(cut_again, size=(height, width), mode="bilinear", antialias=True)[0]
    back = torch.nn.functional.pad(whole, [300] * 4)[:, 300 - row :, 300 - column :][:, :rows, :columns]
    torch.testing.assert_close(step.inverse(cut)["image"].as_tensor(), back, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "value"), [(torch.uint8, 200), (torch.int16, 1000)])
def test_whole_numbers_are_rounded_when_resampled_not_cut_off(dtype, value):
    step = ResampleRegiond("image", size=(64, 50))
    result = step({"image": torch.full((1, 1000, 777), value, dtype=dtype), "region": [0, 0, 1000, 777]})["image"]
    assert result.dtype == dtype
    assert (result == value).all()


def test_no_metadata_are_kept_where_monai_is_told_to_keep_none():
    set_track_meta(False)
    try:
        data = {"image": torch.rand(1, 40, 30), "region": [0, 0, 40, 30]}
        result = Compose([ResampleRegiond("image", size=(20, 15)), ScalePercentilesd("image", 1, 99)])(data)["image"]
    finally:
        set_track_meta(True)
    assert type(result) is torch.Tensor
    assert result.shape == (1, 20, 15)


def test_a_label_of_small_whole_numbers_stays_one_when_resampled():
    label = torch.arange(5 * 4, dtype=torch.uint8).reshape(1, 5, 4)
    step = ResampleRegiond("label", size=(10, 8), mode="nearest")
    cut = step({"label": MetaTensor(label), "region": [0, 0, 5, 4]})
    assert cut["label"].dtype == torch.uint8
    assert torch.equal(cut["label"].as_tensor(), label.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(step.inverse(cut)["label"].as_tensor(), label)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(200, 900), columns=st.integers(200, 900))
def test_a_mask_stays_at_its_place_in_the_image_when_resampled(rows, columns):
    y, x = np.mgrid[:rows, :columns] + 0.5
    lesion = ((y / rows - 0.5) / 0.3) ** 2 + ((x / columns - 0.4) / 0.25) ** 2 <= 1
    data = {"image": image_of(lesion), "label": image_of(lesion), "region": [0, 0, rows, columns]}
    cut = ResampleRegiond(["image", "label"], size=(64, 48), mode=["bilinear", "nearest"])(data)
    image, label = (center_of_mass(cut[key][0].numpy()) for key in ("image", "label"))
    np.testing.assert_allclose(label, image, atol=0.3)  # pixels of the network's input


@settings(deadline=None, max_examples=40)
@given(
    rows=sides, columns=sides, region=st.tuples(*[st.integers(-30, 70)] * 2, st.integers(4, 200), st.integers(4, 200))
)
def test_the_affine_follows_the_region(rows, columns, region):
    row, column, height, width = region
    affine = torch.diag(torch.tensor([0.07, 0.09, 1, 1], dtype=torch.float64))
    affine[:2, 3] = torch.tensor([-20.0, 5.0])
    image = MetaTensor(torch.zeros(1, rows, columns), affine=affine)
    step = ResampleRegiond("image", size=(24, 17))
    cut = step({"image": image, "region": [row, column, row + height, column + width]})
    for share in (0, 0.3, 1):  # of the way over the region, edge to edge
        inside = torch.tensor([24 * share - 0.5, 17 * share - 0.5, 0, 1], dtype=torch.float64)
        before = torch.tensor([row + height * share - 0.5, column + width * share - 0.5, 0, 1], dtype=torch.float64)
        torch.testing.assert_close(cut["image"].affine @ inside, affine @ before)
    assert torch.equal(step.inverse(cut)["image"].affine, affine)


@pytest.mark.parametrize(
    "step",
    [
        BreastMaskd("image"),
        BreastRegiond(size=(40, 32)),
        ClearAird("image"),
        Compose([WholeRegiond(size=(32, 32)), ResampleRegiond("image", size=(32, 32))]),
        ScalePercentilesd("image", 0.5, 99.5),
    ],
)
def test_a_numpy_image_is_as_good_as_a_tensor(step):
    pixels = np.random.default_rng(0).random((1, 60, 50), dtype=np.float32)
    plain, tensor = step({"image": pixels}), step({"image": MetaTensor(torch.as_tensor(pixels))})
    for key in tensor:
        np.testing.assert_array_equal(np.asarray(plain[key]), np.asarray(tensor[key]))


def test_percentiles_are_scaled_as_monai_does():
    values = np.random.default_rng(0).normal(0.3, 0.2, (60, 50))
    for pixels in (values, np.full((9, 9), 0.7), np.zeros((9, 9))):
        given_image = {"image": image_of(pixels)}
        theirs = ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True)(given_image)["image"]
        ours = ScalePercentilesd("image", 0.5, 99.5)(given_image)["image"]
        torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor(), atol=1e-6, rtol=0)
        assert ours.meta == given_image["image"].meta


def test_the_breasts_region_is_its_outlines_box():
    film = disc(901, 703, 450, 0, 400) * 0.5
    box = bounding_box(breast_mask(film))
    assert BreastRegiond(size=(901, 703), margin=0)({"image": image_of(film)})["region"] == pytest.approx(
        fit_region(box, (901, 703)), abs=2
    )


def film(air: float = 0.13) -> tuple[np.ndarray, np.ndarray]:
    """A digitised film with grey air, letters, and a name that was blacked out; and its breast."""
    breast = disc(400, 300, 200, 0, 180)
    pixels = np.where(breast, 0.5 + 0.2 * disc(400, 300, 180, 60, 50), air)
    pixels[30:60, 220:280] = 1.0
    pixels[150:230, 270:290] = 0.0
    return pixels, breast


@pytest.mark.parametrize("air", [0.0, 0.05, 0.13, 0.2])
def test_grey_air_letters_and_what_was_blacked_out_are_no_breast(air):
    pixels, breast = film(air)
    outline = breast_mask(pixels)
    assert (outline & breast).sum() / (outline | breast).sum() > 0.97
    assert not outline[:, 200:].any()


def test_a_label_that_a_thin_bridge_joins_to_the_breast_is_no_breast():
    """As of a scratch, or of the film's rim, between the two."""
    breast = disc(240, 200, 120, 0, 100)
    pixels = 0.6 * breast
    pixels[20:50, 140:180] = 0.9
    pixels[30:32, 40:140] = 0.5
    assert breast[30:32, 40].all(), "the bridge has to reach the breast"
    outline = breast_mask(pixels)
    assert (outline & breast).sum() / (outline | breast).sum() > 0.97
    assert not outline[:, 110:].any()


def test_the_breasts_thin_end_at_the_films_edge_is_breast_and_a_thin_thread_inside_is_none():
    """Beyond the edge tissue may go on."""
    pixels = 0.6 * disc(240, 200, 120, 0, 80)
    pixels[200:230, :3] = pixels[20:80, 60:62] = 0.6
    outline = breast_mask(pixels)
    assert outline[200:228, :2].all()
    assert not outline[16:60, 56:67].any()


def test_an_image_without_air_is_all_breast():
    rng = np.random.default_rng(0)
    assert breast_mask(0.6 + 0.2 * disc(90, 70, 40, 30, 30) + rng.normal(0, 0.01, (90, 70))).all()
    assert not breast_mask(np.full((90, 70), 0.6)).any()


@pytest.mark.parametrize("size", [(64, 40), (40, 64), (37, 53)])
def test_the_region_says_where_in_it_the_breast_is(size):
    pixels, breast = film()
    images = {"image": pixels, "label": breast, "within": np.ones_like(pixels)}
    data = BreastRegiond(size=size, margin=0.2)({key: image_of(value) for key, value in images.items()})
    inside = data["breast"][0].bool()
    cut = ResampleRegiond(list(images), size=size, mode="nearest")(data)
    assert inside.shape == size
    assert inside[cut["label"][0].bool()].all()
    assert (inside & cut["within"][0].bool()).sum() < 1.6 * cut["label"].sum()  # and not much more: a rim
    assert not inside[cut["image"][0] > 0.9].any()  # letters


def test_the_skin_about_the_outline_is_breast_unless_no_rim_is_asked_for():
    pixels, breast = film()
    skin = distance_transform_edt(~breast) <= 8  # 2 % of the longer side
    found = []
    for options in ({}, {"rim": 0.0}):
        data = BreastRegiond(size=(64, 40), margin=0.2, **options)({"image": image_of(pixels), "skin": image_of(skin)})
        cut = ResampleRegiond("skin", size=(64, 40), mode="nearest")(data)["skin"][0].bool()
        found.append(bool(data["breast"][0].bool()[cut].all()))
    assert found == [True, False]


def test_air_is_cleared_and_every_pixel_of_the_breast_stays():
    pixels, breast = film()
    cleared = ClearAird("image")({"image": image_of(pixels)})["image"]
    assert np.array_equal(cleared[0].numpy()[breast], pixels.astype(np.float32)[breast])
    assert not cleared[0, :, 210:].any()  # neither letters nor grey air
    near = distance_transform_edt(~breast) <= 8  # 2 % of the longer side: the skin, which outlines tend to leave out
    assert np.array_equal(cleared[0].numpy()[near], pixels.astype(np.float32)[near])
    assert cleared.meta["filename_or_obj"] == "film.png"
    blank = np.full((90, 70), 0.3)
    assert torch.equal(ClearAird("image")({"image": image_of(blank)})["image"], image_of(blank))


def test_where_no_breast_is_found_everything_counts():
    """In training and evaluation, which do not end for it; the audit names such an image."""
    data = BreastRegiond(size=(64, 40))({"image": image_of(np.zeros((90, 70)))})
    assert data["breast"].shape == (1, 64, 40)
    assert data["breast"].all()


def test_a_lesion_of_one_pixel_at_the_border_is_found():
    lesion = np.zeros((50, 40), dtype=bool)
    lesion[49, 0] = True
    data = LesionRegiond(size=(32, 32))({"image": image_of(lesion), "label": image_of(lesion)})
    cut = ResampleRegiond(["image", "label"], size=(32, 32), mode=["bilinear", "nearest"])(data)
    assert cut["label"].any()


def test_a_click_gives_a_square_around_it():
    data = {"image": image_of(np.zeros((1000, 800))), "point": [500, 100]}
    row0, column0, row1, column1 = LesionRegiond(size=(224, 224), margin=0, point_extent=0.1)(data)["region"]
    assert (row1 - row0, column1 - column0) == (100, 100)
    assert ((row0 + row1) / 2, (column0 + column1) / 2) == (500, 100)


def test_a_box_counts_before_a_point_and_a_point_before_a_mask():
    lesion = np.zeros((100, 80))
    lesion[80:90, 60:70] = 1
    marks = {"box": [10, 10, 30, 30], "point": [50, 40], "label": image_of(lesion)}
    regions = [
        LesionRegiond(size=(32, 32), margin=0)({"image": image_of(lesion), **{key: marks[key] for key in keys}})[
            "region"
        ]
        for keys in (["box", "point", "label"], ["point", "label"], ["label"])
    ]
    assert [((a + c) / 2, (b + d) / 2) for a, b, c, d in regions] == [(20, 20), (50, 40), (85, 65)]


@pytest.mark.parametrize(
    ("given_with_it", "reason"),
    [
        ({"point": [1000, 10]}, "lies outside the image .*Give a point inside the image"),
        ({"box": [0, 0, 10]}, "is not 4 numbers.*Give a box inside the image"),
        ({"point": [10]}, "is not 2 numbers"),
        ({"point": [10, float("nan")]}, "is not 2 numbers"),
        ({"point": 5}, "the point 5 is not 2 numbers"),
        ({"box": [None] * 4}, "is not 4 numbers"),
        ({"point": ["a", "b"]}, "is not 2 numbers"),
        ({"point": [10**400, 1]}, "is not 2 numbers"),
        ({"box": [20, 0, 10, 5]}, "is no box"),
        ({"box": [200, 200, 300, 300]}, "lies outside the image"),
        ({"label": image_of(np.zeros((100, 80)))}, "nothing marks a lesion .*a box or a point, or use --mode whole"),
        ({}, "nothing marks a lesion"),
    ],
)
def test_a_lesion_that_is_nowhere_is_refused_by_name(given_with_it, reason):
    with pytest.raises(MammogramError, match=rf"film\.png.*{reason}"):
        LesionRegiond(size=(32, 32))({"image": image_of(np.zeros((100, 80))), **given_with_it})


def test_a_mask_of_another_size_is_refused():
    data = {"image": image_of(np.zeros((100, 80))), "label": image_of(np.zeros((80, 100))), "region": [0, 0, 10, 10]}
    with pytest.raises(MammogramError, match=r"the label has \(80, 100\) pixels .*the image \(100, 80\)"):
        ResampleRegiond(["image", "label"], size=(32, 32))(data)


def test_nothing_to_resample_is_left_as_it_is():
    data = {"region": [0, 0, 4, 4]}
    assert ResampleRegiond(["label"], (8, 8), allow_missing_keys=True)(data) == data


def test_the_whole_image_keeps_its_ratio():
    film = np.ones((400, 100))
    data = WholeRegiond(size=(64, 64), frame=0)({"image": image_of(film)})
    image = ResampleRegiond("image", size=(64, 64))(data)["image"][0].numpy()
    assert image[1:-1, 25:39].min() > 0.99  # antialiasing fades the outermost pixels
    assert image[:, :23].max() == 0
    assert image[:, 41:].max() == 0


def test_the_whole_image_gets_a_black_frame():
    data = WholeRegiond(size=(56, 56), frame=0.2)({"image": image_of(np.ones((100, 100)))})
    image = ResampleRegiond("image", size=(56, 56))(data)["image"][0].numpy()
    assert image[[0, 3, -4, -1]].max() == image[:, [0, 3, -4, -1]].max() == 0
    assert image[10:-10, 10:-10].min() > 0.99


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_outline_is_the_breast_without_label_and_noise(side):
    breast = disc(900, 700, 450, 0, 400)
    film = np.where(breast, 0.5, 0.02) + np.random.default_rng(0).normal(0, 0.005, breast.shape)
    film[30:80, 600:680] = 1.0  # a lead marker
    film, breast = (film, breast) if side == "left" else (film[:, ::-1], breast[:, ::-1])
    found = breast_mask(film.clip(0, 1))
    assert (found & breast).sum() / (found | breast).sum() > 0.97


def test_an_image_without_contrast_has_no_breast_and_is_taken_whole():
    assert not breast_mask(np.zeros((64, 48))).any()
    assert BreastRegiond(size=(64, 48), margin=0)({"image": image_of(np.zeros((64, 48)))})["region"] == [0, 0, 64, 48]


def test_the_outline_holds_the_lesions_of_phantoms(phantoms):
    for image in phantom.read_truth(phantoms)[:8]:
        outline = breast_mask(read_mammogram(phantoms / image.file).pixels)
        for lesion in image.lesions:
            mask = np.asarray(Image.open(phantoms / lesion.mask)) > 0
            assert (mask & outline).sum() / mask.sum() > 0.9


def test_the_outline_of_real_films(samples):
    for name in ("mdb001", "mdb081", "mdb145"):  # plain; with writing; with a white bar at the edge
        film = read_mammogram(samples / "mini-mias" / f"{name}.png").pixels
        data = BreastMaskd("image")({"image": image_of(film)})
        assert data["breast"].shape == (1, 1024, 1024)
        share = float(data["breast"].float().mean())
        assert 0.15 < share < 0.6
        assert not data["breast"][0, :, :40].any()  # what is written or stuck on the film there is no breast
