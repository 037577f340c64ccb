"""Incomplete mammograms: what is lost is what the cause says, and nothing but that tells the classes apart."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.transforms import Compose, LoadImaged
from PIL import Image
from pydicom.sr.codedict import codes as dicom_codes
from scipy.ndimage import binary_erosion

from monai_mammo.datasets.exposure import FRAME, RIM
from monai_mammo.datasets.phantom import read_truth
from monai_mammo.datasets.truncation import CAUSES, LEAST_LOST, already_cut, breast_of, make_sample
from monai_mammo.dicom import MammogramError, read_mammogram
from monai_mammo.readers import MammogramReader
from monai_mammo.regions import bounding_box, breast_mask
from monai_mammo.truncation_transform import CompleteBreastd, RandTruncatedd

VIEWS_AND_CAUSES = [(view, cause) for view, causes in CAUSES.items() for cause in causes]
CUTS = [(view, cause) for view, cause in VIEWS_AND_CAUSES if cause != "motion"]
STRAIGHT_CUTS = [(view, cause) for view, cause in CUTS if cause != "rotation"]


def breast(view, rows=220, columns=180, chest="left"):
    """An outline with the chest wall at a border: half an ellipse in CC; in MLO one that runs out at the top."""
    row, column = np.mgrid[:rows, :columns]
    middle, reach = (0.5, 0.36) if view == "CC" else (0.35, 0.5)
    mask = ((row / rows - middle) / reach) ** 2 + (column / columns / 0.7) ** 2 < 1
    return mask if chest == "left" else mask[:, ::-1]


def uniform(mask):
    return mask.astype(np.float32)


def edge_strip(mask, side, view, share=0.02):
    """The outermost part of the breast on one side; at the chest wall and the top of an MLO, next to the rim."""
    row0, column0, row1, column1 = bounding_box(mask)
    rim, strip = RIM + 0.01, np.zeros_like(mask)
    height, width = row1 - row0, column1 - column0
    chest = "left" if mask[:, column0].sum() > mask[:, column1 - 1].sum() else "right"
    near = lambda extent, at_film: slice(  # noqa: E731
        round(rim * extent) if at_film else 0, max(2, round((share + (rim if at_film else 0)) * extent)) + 1
    )
    rows, columns = near(height, side == "top" and view == "MLO"), near(width, side == chest)
    inner = {
        "top": np.s_[row0 + rows.start : row0 + rows.stop, :],
        "bottom": np.s_[row1 - rows.stop : row1 - rows.start, :],
        "left": np.s_[:, column0 + columns.start : column0 + columns.stop],
        "right": np.s_[:, column1 - columns.stop : column1 - columns.start],
    }[side]
    strip[inner] = mask[inner]
    return strip


def seen(sample):
    """Pixels of the sample where white tissue is shown; air is black and the veil faint."""
    return int((sample.pixels > 0.5).sum())


def complete_sample(pixels, mask, view, generator, size):
    return make_sample(breast_of(pixels, mask, view, size), generator, size, label=0)


def incomplete_sample(pixels, mask, view, generator, size, cause=None):
    return make_sample(breast_of(pixels, mask, view, size), generator, size, label=1, cause=cause)


@pytest.fixture(params=["left", "right"])
def chest(request):
    return request.param


@pytest.mark.parametrize("view", CAUSES)
@pytest.mark.parametrize("seed", range(4))
def test_both_classes_have_the_very_same_field_and_the_same_black_frame(view, seed, chest):
    mask = breast(view, chest=chest)
    pixels = np.where(mask, np.random.default_rng(0).uniform(0.2, 0.9, mask.shape), 0.0).astype(np.float32)
    both = [
        make(pixels, mask, view, np.random.default_rng(seed), size=96) for make in (complete_sample, incomplete_sample)
    ]
    complete, incomplete = (sample.pixels for sample in both)
    np.testing.assert_array_equal(complete > 0, incomplete > 0)
    frame = np.ones((96, 96), bool)
    frame[int(FRAME * 96) : -int(FRAME * 96), int(FRAME * 96) : -int(FRAME * 96)] = False
    assert not complete[frame].any()
    assert not incomplete[frame].any()
    assert (complete > 0).mean() > 0.1
    assert not np.array_equal(complete, incomplete)


@pytest.mark.parametrize("view", CAUSES)
def test_both_classes_have_the_same_sharpness_though_one_is_magnified(view):
    """The edge of a bright square in the breast's middle is as steep in either class; the square is not as large."""
    mask = breast(view, 500, 400)
    pixels = 0.2 * uniform(mask)
    pixels[170:230, 90:150] = 0.9
    for seed in range(4):
        complete, incomplete = (
            make(pixels, mask, view, np.random.default_rng(seed), size=256, **cause).pixels
            for make, cause in ((complete_sample, {}), (incomplete_sample, {"cause": "collimation"}))
        )
        assert (incomplete > 0.5).sum() > 1.2 * (complete > 0.5).sum()
        steepest = [steepness(pixels) for pixels in (complete, incomplete)]
        assert steepest[1] == pytest.approx(steepest[0], rel=0.1)


def steepness(pixels):
    """The largest step over two pixels, field's edges left aside."""
    steps = np.hypot(pixels[2:, 1:-1] - pixels[:-2, 1:-1], pixels[1:-1, 2:] - pixels[1:-1, :-2])
    return steps[binary_erosion(pixels > 0, iterations=5)[1:-1, 1:-1]].max()


@pytest.mark.parametrize(("view", "cause"), STRAIGHT_CUTS)
def test_a_cut_loses_the_side_that_it_names_and_a_complete_sample_shows_it(view, cause, chest):
    mask = breast(view, chest=chest)
    for seed in range(3):
        sample = incomplete_sample(uniform(mask), mask, view, np.random.default_rng(seed), size=200, cause=cause)
        assert (sample.label, sample.cause) == (1, cause)
        for side in sample.side.split("+"):
            pixels = uniform(edge_strip(mask, side, view))
            lacking = incomplete_sample(pixels, mask, view, np.random.default_rng(seed), size=200, cause=cause)
            whole = complete_sample(pixels, mask, view, np.random.default_rng(seed), size=200)
            assert (lacking.pixels > 0.3).sum() == 0, side
            assert (whole.pixels > 0.3).sum() > 10, side


def test_each_cause_names_its_sides(chest):
    nipple = "right" if chest == "left" else "left"
    expected = {
        ("CC", "nipple"): nipple,
        ("CC", "medial"): "bottom",
        ("CC", "lateral"): "top",
        ("CC", "posterior"): chest,
        ("CC", "collimation"): f"{nipple}+top+bottom",
        ("CC", "rotation"): chest,
        ("CC", "motion"): "",
        ("MLO", "nipple"): nipple,
        ("MLO", "superior"): "top",
        ("MLO", "inferior"): "bottom",
        ("MLO", "posterior"): chest,
        ("MLO", "collimation"): f"{nipple}+bottom",
        ("MLO", "rotation"): f"{chest}+top",
        ("MLO", "motion"): "",
    }
    assert set(expected) == set(VIEWS_AND_CAUSES)
    for (view, cause), side in expected.items():
        mask = breast(view, chest=chest)
        sample = incomplete_sample(uniform(mask), mask, view, np.random.default_rng(0), size=64, cause=cause)
        assert sample.side == side


@pytest.mark.parametrize(("view", "cause"), CUTS)
def test_the_lost_fraction_is_what_a_recount_in_the_sample_gives(view, cause):
    """A square of known area in the breast's middle gives the sample's scale, and with it the whole breast's area."""
    mask = breast(view, 440, 360)
    row0, column0, row1, column1 = bounding_box(mask)
    reference = mask.copy()
    reference[:, : column0 + int(np.ceil(RIM * (column1 - column0)))] = False
    if view == "MLO":
        reference[: row0 + int(np.ceil(RIM * (row1 - row0)))] = False
    row, column = (row0 + row1) // 2, column0 + round(0.55 * (column1 - column0))
    square = np.zeros_like(mask)
    square[row - 30 : row + 30, column - 30 : column + 30] = True
    assert mask[square].all()
    for seed in range(3):

        def area(shown, seed=seed):
            generator = np.random.default_rng(seed)
            return seen(incomplete_sample(uniform(shown), mask, view, generator, size=400, cause=cause))

        sample = incomplete_sample(uniform(mask), mask, view, np.random.default_rng(seed), size=400, cause=cause)
        recounted = 1 - area(mask) / area(square) * square.sum() / reference.sum()
        assert sample.lost == pytest.approx(recounted, abs=0.04)
        assert LEAST_LOST <= sample.lost < 0.7


@pytest.mark.parametrize("view", CAUSES)
def test_a_complete_sample_loses_nothing_and_has_no_cause(view, chest):
    mask = breast(view, chest=chest)
    for seed in range(8):
        sample = complete_sample(uniform(mask), mask, view, np.random.default_rng(seed), size=64)
        assert (sample.label, sample.cause, sample.side, sample.codes, sample.lost) == (0, "", "", (), 0.0)


def test_motion_blurs_and_cuts_nothing_and_comes_only_on_request():
    mask = breast("CC", 300, 260)
    pixels = uniform(mask) * (0.1 + 0.8 * (np.indices(mask.shape).sum(axis=0) // 12 % 2))
    still = complete_sample(pixels, mask, "CC", np.random.default_rng(3), size=128)
    moved = incomplete_sample(pixels, mask, "CC", np.random.default_rng(3), size=128, cause="motion")
    assert (moved.label, moved.cause, moved.lost) == (1, "motion", 0.0)
    assert np.array_equal(still.pixels > 0, moved.pixels > 0)
    assert steepness(moved.pixels) < 0.7 * steepness(still.pixels)
    drawn = {incomplete_sample(pixels, mask, "CC", np.random.default_rng(seed), size=32).cause for seed in range(60)}
    assert drawn == set(CAUSES["CC"]) - {"motion"}


@pytest.mark.parametrize(("view", "cause"), VIEWS_AND_CAUSES)
def test_codes_are_findings_of_cid_6041_that_fit_the_view(view, cause):
    known = {code.value: code.meaning for code in dicom_codes.cid6041.concepts.values()}
    codes = CAUSES[view][cause].codes
    other = "MLO " if view == "CC" else "CC "
    assert codes
    for code in codes:
        assert code in known
        assert not known[code].startswith(other)


def test_the_same_generator_gives_the_same_sample_and_another_one_another():
    mask = breast("MLO")
    first, again, other = (
        incomplete_sample(uniform(mask), mask, "MLO", np.random.default_rng(seed), size=64) for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert (first.cause, first.lost) == (again.cause, again.lost)
    assert not np.array_equal(first.pixels, other.pixels)


def test_the_input_is_left_as_it_was():
    mask = breast("CC")
    pixels = uniform(mask)
    before = pixels.copy(), mask.copy()
    incomplete_sample(pixels, mask, "CC", np.random.default_rng(0), size=64)
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize(("shape", "size"), [((13, 11), 32), ((37, 500), 77), ((501, 23), 32), ((1023, 767), 77)])
@pytest.mark.parametrize("view", CAUSES)
def test_odd_and_tiny_images_make_samples_of_the_size_asked_for(shape, size, view):
    mask = breast(view, *shape)
    for cause in CAUSES[view]:
        sample = incomplete_sample(uniform(mask), mask, view, np.random.default_rng(1), size, cause)
        assert sample.pixels.shape == (size, size)
        assert sample.pixels.dtype == np.float32
        assert 0 <= sample.pixels.min() <= sample.pixels.max() <= 1
        assert sample.lost >= LEAST_LOST or cause == "motion"
    assert complete_sample(uniform(mask), mask, view, np.random.default_rng(1), size).lost == 0


def test_labels_in_the_air_do_not_get_into_samples():
    mask = breast("CC")
    pixels = 0.5 * uniform(mask)
    pixels[5:25, -40:-10] = 1.0
    for make in (complete_sample, incomplete_sample):
        for seed in range(5):
            assert make(pixels, mask, "CC", np.random.default_rng(seed), size=128).pixels.max() < 0.75


@pytest.mark.parametrize("make", [complete_sample, incomplete_sample])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros((220, 180), bool)}, "no breast is outlined"),
        ({"mask": np.pad(np.ones((5, 5), bool), ((0, 215), (0, 175)))}, "5 x 5 pixels"),
        ({"mask": np.ones((9, 9), bool)}, r"outline is \(9, 9\)"),
        ({"view": ""}, "neither CC nor MLO"),
        ({"view": "ML"}, "neither CC nor MLO"),
        ({"pixels": np.full((220, 180), np.nan, np.float32)}, "not all between 0 and 1"),
        ({"pixels": np.full((220, 180), 4095.0, np.float32)}, "not all between 0 and 1"),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_the_reason(make, change, message):
    mask = breast("CC")
    arguments = {"pixels": uniform(mask), "mask": mask, "view": "CC"} | change
    with pytest.raises(MammogramError, match=message):
        make(**arguments, generator=np.random.default_rng(0), size=64)


def test_an_unknown_cause_and_a_useless_size_are_refused():
    mask = breast("CC")
    with pytest.raises(MammogramError, match=r"CC has no cause 'inferior'.*medial"):
        incomplete_sample(uniform(mask), mask, "CC", np.random.default_rng(0), size=64, cause="inferior")
    with pytest.raises(ValueError, match="at least 32"):
        complete_sample(uniform(mask), mask, "CC", np.random.default_rng(0), size=10)


@pytest.mark.parametrize(
    ("view", "cut", "cause"),
    [
        ("CC", np.s_[:, 90:], "nipple"),
        ("CC", np.s_[:70], "lateral"),
        ("CC", np.s_[150:], "medial"),
        ("MLO", np.s_[:, 90:], "nipple"),
        ("MLO", np.s_[140:], "inferior"),
        ("MLO", np.s_[:40], None),  # in MLO the breast always runs out at the top
        ("CC", np.s_[:, :0], None),
        ("MLO", np.s_[:, :0], None),
    ],
)
def test_a_mammogram_that_is_cut_already_is_recognised(view, cut, cause, chest):
    mask = breast(view)
    mask[cut] = False
    assert already_cut(mask if chest == "left" else mask[:, ::-1], view) == cause


def test_without_breast_or_view_a_mammogram_is_not_complete():
    assert already_cut(np.zeros((50, 40), bool), "CC") == "no breast found"
    assert already_cut(breast("CC"), "XCCL") == "the view is neither CC nor MLO"


@pytest.mark.parametrize(
    ("film", "cause"), [("mdb097", "inferior"), ("mdb081", "inferior"), ("mdb001", None), ("mdb113", None)]
)
def test_real_films_that_are_cut_are_recognised(samples, film, cause):
    file = samples / "mini-mias" / f"{film}.png"
    if not file.is_file():
        pytest.skip("mini-MIAS is not among the samples")
    assert already_cut(breast_mask(read_mammogram(file).pixels), "MLO") == cause


@pytest.fixture(scope="module")
def complete_phantoms(phantoms):
    entries = []
    for image in read_truth(phantoms):
        if (
            image.complete
            and already_cut(breast_mask(read_mammogram(phantoms / image.file).pixels), image.view) is None
        ):
            entries.append({"image": str(phantoms / image.file), "patient": image.patient})
    assert len(entries) >= 4
    return entries[:4]


def pipeline(seed, **options):
    load = LoadImaged("image", reader=MammogramReader, ensure_channel_first=True)
    return Compose([load, CompleteBreastd(size=96), RandTruncatedd(size=96, **options)]).set_random_state(seed)


def test_the_transform_makes_labelled_samples_of_dicom_files_and_takes_the_view_from_them(complete_phantoms):
    torch.manual_seed(0)  # MONAI's DataLoader seeds the transforms from torch's state, which differs in every process
    (batch,) = DataLoader(Dataset(complete_phantoms * 3, pipeline(1)), batch_size=12)
    assert batch["image"].shape == (12, 1, 96, 96)
    assert batch["image"].dtype == torch.float32
    assert set(batch["label"].tolist()) == {0, 1}
    for entry in decollate_batch(batch):
        assert (float(entry["lost"]) > 0) == (int(entry["label"]) == 1)
        assert bool(entry["cause"]) == bool(entry["codes"]) == (int(entry["label"]) == 1)


def test_the_transform_is_reproducible_by_its_random_state(complete_phantoms):
    first, again, other = (
        [transform(entry) for _ in range(4) for entry in complete_phantoms[:1]]
        for transform in (pipeline(7), pipeline(7), pipeline(8))
    )
    for one, two in zip(first, again, strict=True):
        torch.testing.assert_close(one["image"].as_tensor(), two["image"].as_tensor(), rtol=0, atol=0)
        assert (one["label"], one["cause"]) == (two["label"], two["cause"])
    assert any(not torch.equal(one["image"], two["image"]) for one, two in zip(first, other, strict=True))
    assert not torch.equal(first[0]["image"], first[1]["image"])


@pytest.mark.parametrize(("prob", "label"), [(0.0, 0), (1.0, 1)])
def test_the_transform_keeps_to_its_probability_and_cause(complete_phantoms, prob, label):
    sample = pipeline(0, prob=prob, cause="nipple")(complete_phantoms[0])
    assert (sample["label"], sample["cause"]) == (label, "nipple" if label else "")
    assert sample["image"].meta["filename_or_obj"] == complete_phantoms[0]["image"]


def test_the_transform_takes_view_and_outline_from_the_data_where_they_are(tmp_path):
    mask = breast("MLO")
    Image.fromarray((uniform(mask) * 200).astype(np.uint8)).save(tmp_path / "film.png")
    loaded = LoadImaged("image", reader=MammogramReader, ensure_channel_first=True)({"image": tmp_path / "film.png"})
    outlined = CompleteBreastd(size=64, mask_key="outline")
    transform = Compose([outlined, RandTruncatedd(size=64, prob=1.0, cause="inferior")])
    assert transform(loaded | {"view": "MLO", "outline": torch.as_tensor(mask)[None]})["side"] == "bottom"


def test_the_transform_refuses_a_mammogram_that_is_cut_already_and_names_its_file(tmp_path):
    mask = breast("MLO")
    Image.fromarray((uniform(mask)[:140] * 200).astype(np.uint8)).save(tmp_path / "cut.png")
    load = LoadImaged("image", reader=MammogramReader, ensure_channel_first=True)
    with pytest.raises(MammogramError, match=r"cut\.png: it is not complete as it is \(inferior\)"):
        CompleteBreastd(size=64)(load({"image": tmp_path / "cut.png", "view": "MLO"}))
    with pytest.raises(MammogramError, match=r"cut\.png: its view is neither CC nor MLO.*state its view"):
        CompleteBreastd(size=64)(load({"image": tmp_path / "cut.png"}))
