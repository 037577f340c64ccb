"""When new weights replace those in service: who judges them, by what score, under which rule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lib.errors import RequestRefused
from lib.gate import NEGLIGIBLE, compare, judge, score
from lib.partition import Partition
from PIL import Image

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.predictor import Predictor

from .conftest import QUALITY, SEGMENTATION, blob, write_png


def records(*differences: float, images: int = 1, served: float = 0.5) -> list[dict[str, Any]]:
    """One patient for each difference between candidate and weights in service, with some images each."""
    return [
        {"patient": str(number), "candidate": served + difference, "served": served}
        for number, difference in enumerate(differences)
        for _ in range(images)
    ]


@pytest.mark.parametrize(
    ("differences", "accepted"),
    [
        ([0.2, 0.1, 0.3, 0.2], True),
        ([-0.2, -0.1, -0.3, -0.2], False),
        ([0.0, 0.0], True),
        ([0.4, -0.1], True),
        ([-0.4, 0.1], False),
        ([0.1], True),
        ([-0.005], False),
        ([-0.001] * 20, True),
        ([-0.02] * 20, False),
        ([-0.3, 0.29] * 20, False),
    ],
    ids=[
        "better",
        "worse",
        "the same",
        "two patients, better on the whole",
        "two patients, worse: that few can tell is no excuse",
        "one patient, better",
        "one patient, a little worse: no interval to excuse it",
        "worse by a surely negligible amount",
        "surely worse",
        "a little worse, and perhaps much",
    ],
)
def test_new_weights_are_served_unless_the_score_fell(differences: list[float], accepted: bool) -> None:
    found = judge(records(*differences))
    assert found.accepted is accepted, found.reason
    assert found.difference == pytest.approx(np.mean(differences))
    assert ("fell" in found.reason) == (np.mean(differences) < 0)


def test_the_interval_is_of_the_paired_difference_and_by_patient() -> None:
    """Images differ far more than models do; and ten images of a patient are no ten patients."""
    easy_and_hard = [
        {"patient": str(number), "candidate": level + 0.02, "served": level}
        for number, level in enumerate(np.linspace(0, 0.9, 10))
    ]
    found = judge(easy_and_hard)
    assert (found.low, found.high) == (pytest.approx(0.02), pytest.approx(0.02))
    one, ten = judge(records(-0.1, 0.2, 0.1, 0.3)), judge(records(-0.1, 0.2, 0.1, 0.3, images=10))
    assert (ten.low, ten.high) == (pytest.approx(one.low), pytest.approx(one.high))
    assert (ten.images, ten.patients) == (40, 4)


def test_with_one_patient_there_is_no_interval_and_the_reason_says_so() -> None:
    found = judge(records(0.1, images=3))
    assert found.low is None
    assert "one patient" in found.reason


def test_weights_that_predict_no_numbers_are_refused_even_if_nothing_is_in_service() -> None:
    assert not judge([{"patient": "a", "candidate": math.nan}]).accepted
    lost = judge([{"patient": "a", "candidate": math.nan, "served": 0.1}])
    assert not lost.accepted
    assert lost.as_json()["candidate"] is None


def test_weights_in_service_that_predict_no_numbers_do_not_stay() -> None:
    found = judge([{"patient": "a", "candidate": 0.9, "served": math.nan}])
    assert found.accepted
    assert "no working weights in service" in found.reason


def test_the_first_training_is_accepted() -> None:
    found = judge([{"patient": "a", "candidate": 0.0}])
    assert found.accepted
    assert found.served is None


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The bright lesion on a dim breast."""
    return write_png(tmp_path / "image.png", blob()[0])


def entry(image: Path, mask: np.ndarray, **more: Any) -> dict[str, Any]:
    """A validation entry with this mask."""
    file = image.with_name("mask.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(file)
    return {"image": str(image), "label": str(file), "patient": "p", **more}


def test_a_mask_is_scored_by_dice_at_the_images_own_pixels(bundles: Path, image: Path) -> None:
    """The model of the fixture marks what is bright, which is exactly the lesion."""
    model = Predictor(bundles / SEGMENTATION, overrides={"mode": "whole"})
    assert score(model, entry(image, blob()[1])) > 0.95
    assert score(model, entry(image, np.roll(blob()[1], 60, axis=0))) == 0


def test_on_a_normal_breast_any_mark_scores_zero_and_none_scores_one(bundles: Path, image: Path) -> None:
    model = Predictor(bundles / SEGMENTATION, overrides={"mode": "whole"})
    normal = np.zeros((120, 90))
    assert score(model, entry(image, normal)) == 0
    silent = Predictor(bundles / SEGMENTATION, overrides={"mode": "whole", "threshold": 1.1})
    assert score(silent, entry(image, normal)) == 1


def test_a_marked_lesion_is_scored_inside_its_own_crop(bundles: Path, image: Path) -> None:
    model = Predictor(bundles / SEGMENTATION, overrides={"mode": "roi"})
    two = blob()[1].copy()
    two[100:110, 5:15] = True  # another lesion of the same image, which another entry is about
    assert score(model, entry(image, two, box=[30, 20, 54, 44])) > 0.95


@pytest.mark.parametrize("truth", [0, 1])
def test_a_verdict_is_scored_by_its_probability(bundles: Path, image: Path, truth: int) -> None:
    model = Predictor(bundles / QUALITY)
    probability = float(model(image)["pred"][truth])
    found = score(model, {"image": str(image), "label": truth, "patient": "p"})
    assert found == pytest.approx(1 - (1 - probability) ** 2, abs=1e-5)


def test_both_are_run_on_the_same_images_and_progress_is_told(bundles: Path, image: Path) -> None:
    model = Predictor(bundles / SEGMENTATION, overrides={"mode": "whole"})
    silent = Predictor(bundles / SEGMENTATION, overrides={"mode": "whole", "threshold": 1.1})
    shares: list[float] = []
    found = compare(silent, model, [entry(image, blob()[1])] * 4, shares.append)
    assert shares == [0.25, 0.5, 0.75, 1]
    assert not found.accepted
    assert found.difference is not None
    assert found.difference < -NEGLIGIBLE


def test_an_image_without_a_breast_that_somebody_judged_does_not_stop_the_comparison(
    bundles: Path, image: Path
) -> None:
    black = write_png(image.with_name("black.png"), np.zeros((120, 90)))
    model = Predictor(bundles / QUALITY)
    entries = [{"image": str(file), "label": 1, "patient": file.name} for file in (black, image)]
    assert compare(model, model, entries).patients == 1
    with pytest.raises(MammogramError, match="no breast is found"):
        compare(model, model, entries[:1])


BOTH = {0, 1}


def test_a_patient_stays_on_the_side_of_the_first_training_whatever_comes_later(tmp_path: Path) -> None:
    sides: dict[str, str] = {}
    for count in (2, 3, 7, 20, 50, 20):
        split = Partition(tmp_path / "p.json").divide({str(n): BOTH for n in range(count)}, 0.2, seed=count)
        assert len(split["training"]) + len(split["validation"]) == count
        assert len(split["validation"]) >= max(1, round(0.2 * count))
        for side, patients in split.items():
            for patient in patients:
                assert sides.setdefault(patient, side) == side


def test_the_split_depends_on_the_seed_and_the_patients_not_on_their_order(tmp_path: Path) -> None:
    patients = [str(number) for number in range(30)]

    def validation(order: list[str], seed: int, name: str) -> list[str]:
        return Partition(tmp_path / name).divide(dict.fromkeys(order, BOTH), 0.3, seed)["validation"]

    assert validation(patients, 1, "a") == validation(patients[::-1], 1, "b")
    assert validation(patients, 1, "a") != validation(patients, 2, "c")


@pytest.mark.parametrize("seed", range(10))
def test_both_sides_get_every_kind_of_image_if_two_patients_have_it(tmp_path: Path, seed: int) -> None:
    classes = {**{str(number): {0} for number in range(10)}, "rare": {1}, "rarer": {0, 1}}
    split = Partition(tmp_path / "p.json").divide(classes, 0.1, seed)
    for patients in split.values():
        assert {kind for patient in patients for kind in classes[patient]} == BOTH


@pytest.mark.parametrize("seed", range(5))
def test_four_patients_of_one_kind_each_give_both_sides_both_kinds(tmp_path: Path, seed: int) -> None:
    """With a fifth of them validation would have one patient, of one kind, by whom no AUC can be had."""
    classes = {"a": {0}, "b": {1}, "c": {0}, "d": {1}}
    split = Partition(tmp_path / "p.json").divide(classes, 0.2, seed)
    for patients in split.values():
        assert {kind for patient in patients for kind in classes[patient]} == BOTH


@pytest.mark.parametrize("seed", range(5))
def test_the_only_patient_with_a_lesion_is_learned_from(tmp_path: Path, seed: int) -> None:
    classes = {**{str(number): {0} for number in range(5)}, "only": {0, 1}}
    assert "only" in Partition(tmp_path / "p.json").divide(classes, 0.4, seed)["training"]


def test_a_side_left_empty_is_refused_with_a_remedy(tmp_path: Path) -> None:
    partition = Partition(tmp_path / "p.json")
    split = partition.divide({"a": BOTH, "b": BOTH}, 0.5, 0)
    with pytest.raises(RequestRefused, match="left for validation") as refused:
        partition.divide(dict.fromkeys(split["training"], BOTH), 0.5, 0)
    assert refused.value.status == 409
