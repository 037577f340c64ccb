"""The one place where a model meets an image: what it gives back, and how it refuses."""

import re
import shutil

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.networks import ResNet34PARBKAN
from monai_mammo.predictor import MixedPrecisionInferer, Predictor

SIZE = {"roi_size": [64, 64], "whole_size": [96, 64]}


@pytest.fixture(scope="module")
def segmentation(root, untrained, tmp_path_factory):
    """The segmentation bundle with random weights of a small network."""
    bundle = tmp_path_factory.mktemp("bundle") / "mammo_tumor_segmentation"
    shutil.copytree(root / "bundles" / bundle.name, bundle, ignore=shutil.ignore_patterns("*.pt"))
    (bundle / "models").mkdir(exist_ok=True)
    for mode, name in (("roi", "model.pt"), ("whole", "model_whole.pt")):
        torch.save(untrained(bundle.name, width=8, mode=mode), bundle / "models" / name)
    return bundle


@pytest.fixture
def image(phantoms):
    return sorted(phantoms.glob("phantom-*/*/L_CC.dcm"))[0]


@pytest.mark.parametrize(
    ("mode", "given"), [("whole", {}), ("roi", {"point": [100, 60]}), ("roi", {"box": [90, 40, 130, 90]})]
)
def test_a_mask_has_the_mammograms_own_pixels(segmentation, image, mode, given):
    predictor = Predictor(segmentation, overrides={"mode": mode, "width": 8, **SIZE})
    result = predictor(image, **given)
    assert result["pred"].shape == result["probability"].shape == (1, 320, 256)
    assert set(np.unique(result["pred"])) <= {0, 1}
    assert torch.equal(torch.as_tensor(result["probability"]) >= 0.5, torch.as_tensor(result["pred"]) > 0)
    row0, column0, row1, column1 = (max(value, 0) for value in result["region"])
    outside = torch.as_tensor(result["probability"])[0].clone()
    outside[row0:row1, column0:column1] = 0
    assert not outside.any()  # nothing is said of what the network has not seen


@pytest.fixture
def with_and_without_letters(image, tmp_path):
    """A mammogram as it is, the same with letters in its air, and where these are."""
    pixels = read_mammogram(image).pixels
    beside = np.argwhere(~binary_dilation(pixels > 0.02, iterations=40))
    row, column = beside[len(beside) // 2]
    letters = (slice(row, row + 12), slice(column, column + 8))
    files = []
    for name in ("plain", "letters"):
        Image.fromarray((pixels * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
        files.append(tmp_path / f"{name}.png")
        pixels = pixels.copy()
        pixels[letters] = 1.0
    return *files, letters


def test_letters_beside_the_breast_change_nothing_within_and_get_no_mask(segmentation, with_and_without_letters):
    *files, letters = with_and_without_letters
    predictor = Predictor(segmentation, overrides={"mode": "whole", "width": 8, "threshold": 0.0, **SIZE})
    plain, other = (torch.as_tensor(predictor(file)["probability"]) for file in files)
    # Where the breast is thin, bright letters move its outline a little, and what was found there with it.
    within = torch.as_tensor(binary_erosion(plain[0] > 0, iterations=6))
    assert within.float().mean() > 0.1
    torch.testing.assert_close(plain[0][within], other[0][within], atol=1e-5, rtol=0)
    assert not other[0][letters].any()
    assert other.max() > 0


def test_letters_beside_the_breast_do_not_change_the_verdict(root, with_and_without_letters):
    predictor = Predictor(root / "bundles" / "mammo_quality_classification")
    plain, other = (torch.as_tensor(predictor(file)["pred"]) for file in with_and_without_letters[:2])
    torch.testing.assert_close(plain, other, atol=0.02, rtol=0)


def test_the_same_image_gives_the_same_answer(segmentation, image):
    predictor = Predictor(segmentation, overrides={"mode": "whole", "width": 8, **SIZE})
    first, second = (torch.as_tensor(predictor(image)["probability"]) for _ in range(2))
    assert torch.equal(first, second)


def test_the_quality_verdict_comes_with_the_breasts_outline(root, tmp_path, image):
    weights = tmp_path / "w.pt"
    torch.save(ResNet34PARBKAN(2, 3, 2, width=8).state_dict(), weights)
    predictor = Predictor(
        root / "bundles" / "mammo_quality_classification", weights=weights, overrides={"width": 8, "size": [64, 64]}
    )
    result = predictor(image)
    assert predictor.labels == {0: "complete", 1: "incomplete"}
    assert float(result["pred"].sum()) == pytest.approx(1)
    assert result["breast"].shape == (1, 320, 256)
    assert 0.1 < float(result["breast"].float().mean()) < 0.8


@pytest.mark.parametrize(
    ("bundle", "overrides"),
    [("mammo_quality_classification", {}), ("mammo_tumor_segmentation", {"mode": "whole"})],
    ids=["quality", "whole"],
)
@pytest.mark.parametrize(
    ("shape", "grey", "reason"),
    [
        ((320, 256), 0, "no breast is found in it"),
        ((320, 256), 255, "no breast is found in it"),
        ((1, 1), 0, r"it has only 1 x 1 pixels \(rows, columns\)"),
        ((2000, 1), 255, "it has only 2000 x 1 pixels"),
        ((15, 400), None, "it has only 15 x 400 pixels"),
    ],
)
def test_an_image_that_shows_no_breast_gets_no_result(root, tmp_path, bundle, overrides, shape, grey, reason):
    pixels = np.random.default_rng(0).integers(0, 255, shape) if grey is None else np.full(shape, grey)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "image.png")
    predictor = Predictor(root / "bundles" / bundle, overrides=overrides)
    with pytest.raises(MammogramError, match=rf"image\.png: {reason}.*Give an image that shows a breast"):
        predictor(tmp_path / "image.png")


def test_a_crop_within_the_breast_has_no_air_and_gets_a_result(root, tmp_path):
    pixels = np.random.default_rng(0).normal(150, 5, (320, 256))
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "crop.png")
    predictor = Predictor(root / "bundles" / "mammo_tumor_segmentation", overrides={"mode": "whole"})
    assert predictor(tmp_path / "crop.png")["pred"].shape == (1, 320, 256)


def test_without_weights_the_message_says_how_to_get_some(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m monai\.bundle run training"):
        Predictor(root / "bundles" / "mammo_tumor_segmentation", weights=tmp_path / "none.pt")
    with pytest.raises(MammogramError, match="it is no bundle"):
        Predictor(tmp_path)


def test_an_unusable_image_or_place_is_a_typed_error(segmentation, image, tmp_path):
    predictor = Predictor(segmentation, overrides={"mode": "roi", "width": 8, **SIZE})
    (tmp_path / "note.dcm").write_text("not a mammogram")
    with pytest.raises(MammogramError, match=r"note\.dcm"):
        predictor(tmp_path / "note.dcm", point=[1, 1])
    with pytest.raises(MammogramError, match="lies outside the image"):
        predictor(image, point=[5000, 1])


def test_a_value_that_the_bundle_has_not_is_refused_not_ignored(segmentation):
    for name in ("widht", "regions#roi2", "regions::roi2::size"):
        with pytest.raises(MammogramError, match=f"{name}: the bundle's configuration has no such value"):
            Predictor(segmentation, overrides={name: 8})
    with pytest.raises(MammogramError, match=r"mode: there is no 'Roi'\. Give one of roi, whole\."):
        Predictor(segmentation, overrides={"mode": "Roi", "width": 8})
    given = {"network_def#width": 8, "network_def::dropout": 0.0, "regions#roi#margin": 0.1, **SIZE}
    assert Predictor(segmentation, overrides=given).network is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"device": "gpu"}, "device: gpu cannot be used (Expected one of cpu, cuda"),
        pytest.param(
            {"device": "cuda"},
            "device: cuda cannot be used (",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ({"overrides": {"width": 5}}, "no network has these values (width is a positive multiple of 4, not 5)"),
        ({"overrides": {"width": 8, "size": [100, 100]}}, "size: image of 100 x 100 pixels"),
    ],
)
def test_what_cannot_be_run_here_is_refused_with_its_cause(segmentation, given, said):
    with pytest.raises(MammogramError, match=re.escape(said)) as refused:
        Predictor(segmentation, **given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("mode", "given"), [("whole", {}), ("roi", {"point": [100, 60]})])
def test_weights_that_give_no_numbers_are_refused_by_their_name(segmentation, image, tmp_path, mode, given):
    """The mask would be empty, the answer of a breast without a tumour."""
    values = {"mode": mode, "width": 8, **SIZE}
    state = torch.load(Predictor(segmentation, overrides=values).weights, weights_only=True)
    lost = tmp_path / "lost.pt"
    torch.save({name: value * np.nan if value.is_floating_point() else value for name, value in state.items()}, lost)
    with pytest.raises(MammogramError, match=r"lost\.pt: the network gives no numbers") as refused:
        Predictor(segmentation, weights=lost, overrides=values)(image, **given)
    assert refused.value.path == lost


def test_weights_of_another_network_are_refused_in_one_line(segmentation):
    with pytest.raises(MammogramError, match="not of this network") as refused:
        Predictor(segmentation, overrides={"width": 4})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("mode", "given"), [("whole", {}), ("roi", {"point": [100, 60]})])
def test_a_result_can_be_changed(segmentation, image, mode, given):
    result = Predictor(segmentation, overrides={"mode": mode, "width": 8, **SIZE})(image, **given)
    for name in ("pred", "probability", "image"):
        result[name][0, :10] = 0
    assert not result["probability"].requires_grad


def test_what_a_bundle_gives_as_it_comes_from_the_network_can_be_changed_too(root, image):
    predictor = Predictor(root / "bundles" / "mammo_quality_classification")
    predictor.postprocessing = lambda data: data
    predictor(image)["pred"][0] = 0


@pytest.mark.parametrize(("amp", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_weights_have_the_precision_that_the_network_runs_with(segmentation, amp, precision):
    network = Predictor(segmentation, overrides={"width": 8, "amp": amp, **SIZE}).network
    assert {module.weight.dtype for module in network.modules() if isinstance(module, torch.nn.Conv2d)} == {precision}


def test_pickled_code_in_a_weights_file_is_not_run(segmentation, tmp_path):
    class Intruder:
        def __reduce__(self):
            return (open, (str(tmp_path / "intruded"), "w"))

    torch.save({"weight": Intruder()}, tmp_path / "evil.pt")
    with pytest.raises(MammogramError, match="holds no weights"):
        Predictor(segmentation, weights=tmp_path / "evil.pt", overrides={"width": 8})
    assert not (tmp_path / "intruded").exists()


def test_mixed_precision_gives_float32_close_to_the_plain_result():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 4, 3).eval()
    image = MetaTensor(torch.rand(1, 1, 16, 16))
    with torch.inference_mode():
        plain, mixed = (MixedPrecisionInferer(amp)(image, network) for amp in (False, True))
    assert mixed.dtype == torch.float32
    assert not isinstance(mixed, MetaTensor)
    assert 0 < float((plain - mixed).abs().max()) < 0.02
