"""From a network's probabilities to a mask: which regions count, back to the original pixels, into files."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd
from PIL import Image
from scipy.ndimage import label

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.mask_transforms import HysteresisThresholdd, RestoreMaskd, SaveMaskd
from monai_mammo.transforms import ResampleRegiond

from .conftest import image_of

GREYS = st.sampled_from([np.float32(value) for value in (0.0, 0.2, 0.4999, 0.5, 0.6, 0.7999, 0.8, 0.95, 1.0)])


def lowered(probability: np.ndarray, **values: float) -> np.ndarray:
    pred = torch.as_tensor(probability, dtype=torch.float32)[None]
    return HysteresisThresholdd("pred", **values)({"pred": pred})["pred"][0].numpy()


def test_a_region_that_is_nowhere_certain_is_left_out_of_the_mask_and_the_others_stay_whole():
    probability = np.zeros((6, 12))
    probability[1:4, 1:4] = 0.6
    probability[2, 2] = 0.9  # certain in one pixel
    probability[1:4, 6:9] = 0.79  # never
    probability[5, 11] = 0.8  # a single pixel that reaches it
    probability[4, 4] = 0.6  # touches the first at a corner
    mask = lowered(probability, low=0.5, high=0.8) >= 0.5
    expected = np.zeros((6, 12), bool)
    expected[1:4, 1:4] = expected[4, 4] = expected[5, 11] = True
    np.testing.assert_array_equal(mask, expected)


@given(probability=arrays(np.float32, (7, 9), elements=GREYS))
@settings(deadline=None)
def test_what_is_left_are_the_regions_that_reach_the_peak_and_what_is_lowered_stays_just_below(probability):
    result = lowered(probability, low=0.5, high=0.8)
    regions, number = label(probability >= 0.5, np.ones((3, 3)))
    expected = np.zeros(probability.shape, bool)
    for region in range(1, number + 1):
        expected |= (regions == region) & (probability[regions == region].max() >= np.float32(0.8))
    np.testing.assert_array_equal(result >= 0.5, expected)
    changed = result != probability
    assert not (changed & ((probability < 0.5) | expected)).any()
    np.testing.assert_allclose(result[changed], 0.5, atol=1e-5)


def test_the_metadata_stay_and_the_input_is_not_changed():
    pred = MetaTensor(torch.full((1, 4, 4), 0.6), meta={"filename_or_obj": "film.png"})
    result = HysteresisThresholdd("pred", high=0.8)({"pred": pred})["pred"]
    assert torch.equal(pred.as_tensor(), torch.full((1, 4, 4), 0.6))
    assert result.max() < 0.5
    assert result.meta["filename_or_obj"] == "film.png"


def test_the_backgrounds_probability_beside_the_tumours_is_refused():
    """Of [0.3, 0.7] the tumour's would be lowered to 0.5, and still be the larger."""
    pred = torch.tensor([0.3, 0.7])[:, None, None]
    with pytest.raises(ValueError, match="'pred' has 2 channels"):
        HysteresisThresholdd("pred", high=0.9)({"pred": pred})


@pytest.mark.parametrize("low", [0.0, 0.8, 0.9, 1.1])
def test_a_threshold_that_leaves_nothing_to_doubt_changes_nothing(low):
    probability = np.random.default_rng(0).random((9, 9)).astype(np.float32)
    result = lowered(probability, low=low, high=min(low, 0.8))
    np.testing.assert_array_equal(result, probability)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_of_a_doubtful_region_no_pixel_is_in_the_mask_at_the_mammogram_s_own_size(threshold):
    """Resampling rounds: from just below the threshold, single pixels came back at it."""
    step = ResampleRegiond("image", size=(64, 32))
    data = step({"image": image_of(np.zeros((160, 120))), "region": [3, 5, 140, 110]})
    data["pred"] = MetaTensor(torch.full((1, 64, 32), 0.75))
    result = RestoreMaskd(threshold=threshold)(HysteresisThresholdd("pred", low=threshold, high=0.9)(data))
    assert result["probability"].max() == pytest.approx(threshold, abs=1e-4)
    assert not result["pred"].any()


@pytest.mark.parametrize("region", [[10, 20, 110, 84], [-40, -10, 160, 118], [150, 0, 250, 64]])
@pytest.mark.parametrize("spots", [[(12, 20, 0.9)], [(0, 0, 1.0), (63, 31, 0.6)], [(30, 10, 0.4), (50, 20, 0.01)], []])
def test_a_mask_is_what_undoing_the_resampling_and_a_threshold_give(region, spots):
    pixels = np.zeros((160, 120))
    step = ResampleRegiond("image", size=(64, 32))
    image = image_of(pixels)
    image.affine = torch.diag(torch.tensor([0.07, 0.09, 1, 1], dtype=torch.float64))
    data = step({"image": image, "region": region})
    found = torch.full((1, 64, 32), 1e-4)
    for row, column, value in spots:
        found[0, row, column] = value
    data["pred"] = MetaTensor(found)
    undo = Invertd("pred", Compose([step]), orig_keys="image", nearest_interp=False)
    expected = undo(dict(data))["pred"].as_tensor()
    result = RestoreMaskd(threshold=0.5)(data)
    assert torch.equal(result["pred"].as_tensor() > 0, expected >= 0.5)
    torch.testing.assert_close(result["probability"].as_tensor(), expected, atol=0.002, rtol=0)
    outside = result["probability"].as_tensor().clone()
    row0, column0, row1, column1 = result["reach"]
    outside[:, row0:row1, column0:column1] = 0
    assert not outside.any()
    assert result["pred"].meta["filename_or_obj"] == "film.png"
    assert torch.equal(result["pred"].affine, image.affine)


def test_what_is_negligible_is_nothing_and_only_the_surroundings_of_the_rest_are_brought_back():
    """A network gives every pixel some probability; without this a whole mammogram would be computed for each mask."""
    data = ResampleRegiond("image", size=(64, 32))({"image": image_of(np.zeros((128, 64))), "region": [0, 0, 128, 64]})
    found = torch.full((1, 64, 32), 0.0019)
    found[0, 20, 10] = 0.9
    result = RestoreMaskd()({**data, "pred": MetaTensor(found)})
    row0, column0, row1, column1 = result["reach"]
    assert 38 <= row0 < 41 < row1 <= 44
    assert 18 <= column0 < 21 < column1 <= 24
    assert not result["probability"][0, 60:].any()
    nothing = RestoreMaskd()({**data, "pred": MetaTensor(torch.full((1, 64, 32), 0.0019))})
    assert nothing["reach"] == [0, 0, 0, 0]


@pytest.mark.parametrize(("mode", "lines"), [("bilinear", 64), ("nearest", 10)])
def test_a_region_smaller_than_the_input_comes_back_from_all_its_lines(mode, lines):
    """A box about a small lesion: the network may see something on lines that interpolation would skip."""
    step = ResampleRegiond("image", size=(64, 32), mode=mode)
    data = step({"image": image_of(np.zeros((160, 120))), "region": [40, 30, 50, 35]})
    restored = []
    for row in range(64):
        found = torch.zeros(1, 64, 32)
        found[0, row] = 0.9
        restored.append(RestoreMaskd()({**data, "pred": MetaTensor(found)}))
    assert sum(bool(result["probability"].any()) for result in restored) == lines
    assert all((result["reach"] == [0, 0, 0, 0]) == (not result["probability"].any()) for result in restored)
    if mode == "bilinear":  # one line of six makes no pixel of the mask
        assert not any(result["pred"].any() for result in restored)
        assert sum(result["probability"] for result in restored)[0, 40:50, 30:35].numpy() == pytest.approx(0.9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_mask_is_made_of_what_is_no_number(value):
    """Below no threshold and above none: it would be an empty mask, a breast free of tumours."""
    data = ResampleRegiond("image", size=(64, 32))({"image": image_of(np.zeros((128, 64))), "region": [0, 0, 128, 64]})
    found = torch.zeros(1, 64, 32)
    found[0, 3, 3] = value
    with pytest.raises(MammogramError, match=r"film\.png: the network gives no numbers"):
        RestoreMaskd()({**data, "pred": MetaTensor(found)})


def test_a_mask_without_the_region_that_the_network_saw_is_refused():
    with pytest.raises(MammogramError, match=r"film\.png.*which region the network was shown"):
        RestoreMaskd()({"image": image_of(np.zeros((8, 8))), "pred": torch.ones(1, 4, 4)})


@pytest.mark.parametrize("order", ["before", "behind"])
def test_a_mask_of_an_image_that_something_else_moved_is_refused_not_put_at_the_wrong_place(order):
    steps = [Flipd("image", 0), ResampleRegiond("image", size=(64, 32))]
    data = {"image": image_of(np.zeros((128, 64))), "region": [0, 0, 128, 64]}
    data = Compose(steps if order == "before" else steps[::-1])(data)
    with pytest.raises(MammogramError, match=r"film\.png: beside ResampleRegiond it went through Flip, .*Invertd"):
        RestoreMaskd()({**data, "pred": torch.ones(1, 64, 32)})


def test_no_two_images_or_lesions_share_a_mask_s_file(tmp_path):
    save = SaveMaskd("pred", tmp_path / "out", data_root=tmp_path / "data")
    mask = torch.ones(1, 4, 6, dtype=torch.uint8)
    images = ["1.2.276.0.1", "1.2.276.0.2", "a/b.dcm", "a_b.dcm", "a/b.png", "../a/b.dcm"]
    for name, box in [*((name, None) for name in images), ("a/b.dcm", [0, 0, 2, 2]), ("a/b.dcm", [2, 2, 4, 4])]:
        image = MetaTensor(mask.float(), meta={"filename_or_obj": str(tmp_path / "data" / name)})
        save({"image": image, "pred": mask} | ({"box": box} if box else {}))
    written = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.png")}
    plain = {f"{name}.png" for name in images[:-1]} | {"__above__/a/b.dcm.png"}
    assert written == plain | {"a/b.dcm.0-0-2-2.png", "a/b.dcm.2-2-4-4.png"}
    assert Image.open(tmp_path / "out" / "a_b.dcm.png").size == (6, 4)
    with pytest.raises(ValueError, match="would share a file: give one"):
        SaveMaskd(["pred", "label"], tmp_path / "out", data_root=tmp_path)
