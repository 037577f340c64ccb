"""When new weights replace those in service: who judges them, by what score, under which rule."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lib.errors import RequestRefused
from lib.gate import ENOUGH_PATIENTS, NEGLIGIBLE, NORMAL, TUMOUR, VERDICT, Comparison, behind_of, compare, judge, score
from lib.partition import Partition
from PIL import Image

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.predictor import Predictor

from .conftest import QUALITY, SEGMENTATION, blob, write_png


def records(*differences: float, images: int = 1, served: float = 0.5, kind: str = VERDICT) -> list[dict[str, Any]]:
    """One patient for each difference between candidate and weights in service, with some images each."""
    return [
        {"patient": str(number), "kind": kind, "candidate": served + difference, "served": served}
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
        ([-0.005] * (ENOUGH_PATIENTS - 1), False),
        ([-0.005] * ENOUGH_PATIENTS, True),
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
        "a little worse, and too few patients to say so",
        "a little worse, and just enough patients",
        "worse by a surely negligible amount",
        "surely worse",
        "a little worse, and perhaps much",
    ],
)
def test_new_weights_are_served_unless_the_score_fell(differences: list[float], accepted: bool) -> None:
    found = judge(records(*differences))
    assert found.accepted is accepted, found.reason
    assert found.changes[VERDICT].difference == pytest.approx(np.mean(differences))
    assert ("fell" in found.reason) == (np.mean(differences) < 0)


def test_the_interval_is_of_the_paired_difference_and_by_patient() -> None:
    """Images differ far more than models do; and ten images of a patient are no ten patients."""
    easy_and_hard = [
        {"patient": str(number), "kind": VERDICT, "candidate": level + 0.02, "served": level}
        for number, level in enumerate(np.linspace(0, 0.9, 10))
    ]
    found = judge(easy_and_hard).changes[VERDICT]
    assert (found.low, found.high) == (pytest.approx(0.02), pytest.approx(0.02))
    one, ten = (judge(records(-0.1, 0.2, 0.1, 0.3, images=images)).changes[VERDICT] for images in (1, 10))
    assert (ten.low, ten.high) == (pytest.approx(one.low), pytest.approx(one.high))
    assert (ten.images, ten.patients) == (40, 4)


def test_with_one_patient_there_is_no_interval_and_the_reason_says_so() -> None:
    found = judge(records(0.1, images=3))
    assert found.changes[VERDICT].low is None
    assert "one patient" in found.reason


def test_of_many_small_falls_no_more_is_excused_than_is_negligible() -> None:
    """Each alone would be: 45 of them once led from 0.9 to 0.495."""
    level, behind = 0.9, {}
    for change in (-0.004, -0.004, -0.004, 0.003, -0.004, -0.009, -0.002, -0.002):
        found = judge(records(*[change] * 20, served=level), behind)
        if found.accepted:
            level += change
            behind = behind_of(history_record(found))
    assert level == pytest.approx(0.9 - 0.004 - 0.004 + 0.003 - 0.004)
    assert behind == {VERDICT: pytest.approx(0.009)}
    assert "fell from 0.8910 to 0.8890 after earlier falls of 0.0090 (20 patient(s)" in found.reason


def history_record(found: Comparison) -> dict[str, Any]:
    """What the history gives back of a comparison, by way of a file."""
    outcome = "accepted" if found.accepted else "refused"
    return dict(json.loads(json.dumps({"outcome": outcome, "score": found.as_json()})))


def test_a_rise_makes_former_falls_good_and_gives_no_credit() -> None:
    risen = judge(records(*[0.2] * 20), {VERDICT: 0.009})
    assert behind_of(history_record(risen)) == {VERDICT: 0}


def test_what_was_excused_counts_for_its_own_kind_of_image() -> None:
    small = [*records(*[-0.005] * 20, kind=TUMOUR), *records(*[0.0] * 20, kind=NORMAL)]
    assert judge(small, {NORMAL: 0.009}).accepted
    assert not judge(small, {TUMOUR: 0.009}).accepted


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"outcome": "found", "reason": "a person had put these weights into service"},
        {"outcome": "accepted", "score": {"images": 4, "patients": 2, "candidate": 0.5, "served": None, "low": None}},
        history_record(judge(records(*[-0.2] * 20))),
    ],
    ids=["the bundle's own", "a person's file", "before kinds were judged apart", "refused, and restored by a person"],
)
def test_weights_that_no_comparison_has_accepted_begin_anew(record: dict[str, Any]) -> None:
    assert behind_of(record) == {}


def test_new_weights_must_be_no_worse_on_tumours_nor_on_normal_breasts() -> None:
    better, worse = [0.3] * 12, [-0.1] * 12
    assert judge([*records(*better, kind=TUMOUR), *records(*better, kind=NORMAL)]).accepted
    for differences in ((better, worse), (worse, better)):
        pairs = zip(differences, (TUMOUR, NORMAL), strict=True)
        found = judge([record for change, kind in pairs for record in records(*change, kind=kind)])
        assert not found.accepted
        assert "rose from 0.5000 to 0.8000" in found.reason
        assert "fell from 0.5000 to 0.4000" in found.reason
    assert "on images without a tumour the mean score rose" in found.reason


def test_a_model_that_marks_nothing_does_not_win_by_the_normal_breasts() -> None:
    """In one mean it did: what is in service marks something in all of them, as the bundle's weights nearly do."""
    silent = [*records(*[-0.5] * 12, kind=TUMOUR), *records(*[1.0] * 12, served=0.0, kind=NORMAL)]
    assert np.mean([record["candidate"] - record["served"] for record in silent]) > 0
    found = judge(silent)
    assert not found.accepted
    assert found.reason == "the new weights touch no tumour in 12 image(s) with one"


@pytest.mark.parametrize("served", [{}, {"served": 0.0}], ids=["the first", "as bad as those in service"])
def test_weights_that_touch_no_tumour_are_never_served(served: dict[str, float]) -> None:
    tumour = {"patient": "a", "kind": TUMOUR, "candidate": 0.0, **served}
    normal = {"patient": "b", "kind": NORMAL, "candidate": 1.0, **served}
    assert not judge([tumour, normal]).accepted
    assert judge([{**tumour, "candidate": 0.1}, normal]).accepted
    assert "no image with a tumour to judge" in judge([normal]).reason
    assert not judge([normal]).accepted


def test_weights_that_predict_no_numbers_are_refused_even_if_nothing_is_in_service() -> None:
    nothing = {"patient": "a", "kind": VERDICT, "candidate": math.nan}
    assert not judge([nothing]).accepted
    lost = judge([{**nothing, "served": 0.1}])
    assert not lost.accepted
    assert lost.as_json()[VERDICT]["candidate"] is None


def test_weights_in_service_that_predict_no_numbers_do_not_stay() -> None:
    found = judge([{"patient": "a", "kind": VERDICT, "candidate": 0.9, "served": math.nan}])
    assert found.accepted
    assert "rose from 0.0000 to 0.9000" in found.reason


def test_the_first_training_is_accepted() -> None:
    found = judge([{"patient": "a", "kind": VERDICT, "candidate": 0.0}])
    assert found.accepted
    assert "no working weights in service" in found.reason


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
    normal = entry(image, np.zeros((120, 90)))
    empty = Path(normal["label"]).rename(image.with_name("empty.png"))
    entries = [entry(image, blob()[1]), {**normal, "label": str(empty)}] * 2
    found = compare(silent, model, entries, shares.append)
    assert shares == [0.25, 0.5, 0.75, 1]
    assert not found.accepted
    tumour, free = found.changes[TUMOUR], found.changes[NORMAL]
    assert (tumour.images, free.images) == (2, 2)
    assert tumour.difference is not None
    assert tumour.difference < -NEGLIGIBLE
    assert free.difference == 1


@pytest.mark.parametrize("bundle", [SEGMENTATION, QUALITY])
def test_weights_of_nan_score_no_number_and_never_stay_or_come(bundles: Path, image: Path, bundle: str) -> None:
    mode = {"mode": "whole"} if bundle == SEGMENTATION else {}
    model = Predictor(bundles / bundle, overrides=mode)
    state = {name: value * math.nan for name, value in torch.load(model.weights, weights_only=True).items()}
    torch.save(state, image.with_name("nan.pt"))
    lost = Predictor(bundles / bundle, weights=image.with_name("nan.pt"), overrides=mode)
    judged = {**entry(image, blob()[1]), **({"label": 1} if bundle == QUALITY else {})}
    assert math.isnan(score(lost, judged))
    for served in (None, model, lost):
        found = compare(lost, served, [judged])
        assert not found.accepted
        assert found.reason == "the new weights predict no numbers"
    assert compare(model, lost, [judged]).accepted


def test_an_image_without_a_breast_that_somebody_judged_does_not_stop_the_comparison(
    bundles: Path, image: Path
) -> None:
    black = write_png(image.with_name("black.png"), np.zeros((120, 90)))
    model = Predictor(bundles / QUALITY)
    entries = [{"image": str(file), "label": 1, "patient": file.name} for file in (black, image)]
    assert compare(model, model, entries).changes[VERDICT].patients == 1
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
