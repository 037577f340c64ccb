"""The bootstrap by patient against cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_mammo.bootstrap import interval, patient_draws, patient_intervals, replicates
from monai_mammo.metrics import segmentation_metrics


def record(tp: int, fp: int, fn: int, tn: int = 0, patient: str = "P") -> dict:
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn, "hd95": math.nan, "patient": patient}


def share_right(records):
    return {"right": float(np.mean([record["right"] for record in records]))}


def verdicts(patients: str, right: str) -> list[dict]:
    return [{"patient": patient, "right": int(flag)} for patient, flag in zip(patients, right, strict=True)]


def test_a_drawn_patient_comes_with_all_images():
    records = verdicts("AAAB", "1110")
    found = replicates(records, share_right, [["A", "A"], ["A", "B"], ["B", "B"]])
    assert found["right"].tolist() == [1.0, 0.75, 0.0]


def test_the_bootstrap_draws_patients_not_images():
    """Of two patients, one always right and one always wrong, a quarter of all draws each is all right, all wrong."""
    records = verdicts("A" * 50 + "B" * 50, "1" * 50 + "0" * 50)
    samples = replicates(records, share_right, patient_draws("AB", 400))["right"]
    assert set(samples) == {0.0, 0.5, 1.0}
    assert interval(samples) == (0.0, 1.0)


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 12), st.integers(0, 5))
def test_an_interval_holds_its_value_and_comes_out_the_same_again_in_any_order(patients, seed):
    rng = np.random.default_rng(seed)
    records = [record(*rng.integers(1, 30, 4), patient=f"P{rng.integers(patients)}") for _ in range(30)]
    records += [record(5, 1, 1, patient="Q"), record(1, 5, 5, patient="R")]
    intervals = patient_intervals(records, segmentation_metrics, resamples=200, seed=1)
    again = patient_intervals(records, segmentation_metrics, resamples=200, seed=1)
    np.testing.assert_equal(intervals, again)
    of_another_order = patient_intervals(records[::-1], segmentation_metrics, resamples=200, seed=1)
    for name, bounds in intervals.items():
        np.testing.assert_allclose(of_another_order[name], bounds)
    low, high = intervals["mean_dice"]
    assert low <= segmentation_metrics(records)["mean_dice"] <= high


def test_many_images_of_one_patient_do_not_narrow_the_interval():
    """The same four patients seen once or fifty times say equally much about other patients."""
    few = [record(tp, 10, 10, patient=str(tp)) for tp in (1, 10, 30, 60)]
    once = patient_intervals(few, segmentation_metrics, resamples=500)["mean_dice"]
    often = patient_intervals(few * 50, segmentation_metrics, resamples=500)["mean_dice"]
    assert often == pytest.approx(once)


def test_one_patient_alone_has_no_interval():
    low, high = patient_intervals([record(5, 1, 1), record(4, 1, 1)], segmentation_metrics)["mean_dice"]
    assert math.isnan(low)
    assert math.isnan(high)


def test_an_interval_leaves_out_a_fortieth_on_either_side():
    assert interval(np.append(np.arange(1001.0), math.nan)) == (25, 975)


def test_undefined_metrics_give_no_interval():
    records = [{"patient": patient, "tp": 0, "fp": 3, "fn": 0, "tn": 9, "hd95": math.nan} for patient in "AB"]
    samples = replicates(records, segmentation_metrics, patient_draws("AB", 20))["mean_dice"]
    assert all(math.isnan(limit) for limit in interval(samples))
