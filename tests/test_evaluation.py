"""Metrics by their definitions, the identities between them, and intervals that know patients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.evaluation import QualityReport, SegmentationReport
from monai_mammo.metrics import (
    DISTANCES,
    HEADINGS,
    confusion_matrix,
    heading,
    overlap_record,
    quality_metrics,
    segmentation_metrics,
)

masks = arrays(bool, (7, 5))


def record(tp: int, fp: int, fn: int, tn: int = 0, patient: str = "P") -> dict:
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn, "hd95": math.nan, "patient": patient}


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 4), min_size=1, max_size=20))
def test_dice_and_iou_keep_their_relations(counts):
    metrics = segmentation_metrics([record(*count) for count in counts])
    if not math.isnan(metrics["pooled_dice"]):
        dice = metrics["pooled_dice"]
        assert metrics["pooled_iou"] == pytest.approx(dice / (2 - dice))
    if not math.isnan(metrics["mean_dice"]):
        dice = metrics["mean_dice"]
        assert dice / (2 - dice) - 1e-9 <= metrics["mean_iou"] <= dice + 1e-9


@given(masks, masks)
def test_counts_are_those_of_the_pixels(pred, label):
    found = overlap_record(pred, label)
    assert found["tp"] + found["fp"] == pred.sum()
    assert found["tp"] + found["fn"] == label.sum()
    assert sum(found[name] for name in ("tp", "fp", "fn", "tn")) == pred.size
    assert math.isnan(found["hd95"]) == (not pred.any() or not label.any())


def test_the_hausdorff_distance_is_in_millimetres_along_each_axis():
    label = np.zeros((40, 40), dtype=bool)
    label[10:20, 10:20] = True
    assert overlap_record(label, label, spacing=(0.5, 0.1))["hd95_mm"] == 0
    down, right = np.roll(label, 4, axis=0), np.roll(label, 4, axis=1)
    assert overlap_record(down, label, spacing=(0.5, 0.1))["hd95_mm"] == pytest.approx(2.0)
    assert overlap_record(right, label, spacing=(0.5, 0.1))["hd95_mm"] == pytest.approx(0.4)


def test_of_the_surface_distances_the_95th_percentile_counts():
    """From a line of 21 pixels to its first one: 0, 1, ... 20."""
    line, first = np.zeros((2, 9, 31), dtype=bool)
    line[4, 5:26] = first[4, 5] = True
    assert overlap_record(line, first)["hd95"] == overlap_record(first, line)["hd95"] == pytest.approx(19)


def test_millimetres_and_pixels_are_never_averaged():
    label = np.zeros((1, 60, 60), dtype=bool)
    label[0, 10:30, 10:30] = True
    moved = {"pred": torch.as_tensor(np.roll(label, 10, axis=2)), "reference": torch.as_tensor(label)}
    native = SegmentationReport("reference", native=True)
    known, unknown = native.record({**moved, "spacing": [0.05, 0.05]}), native.record(moved)
    assert segmentation_metrics([known, known])["mean_hd95_mm"] == pytest.approx(0.5)
    assert segmentation_metrics([known, unknown])["mean_hd95_px"] == pytest.approx(10)
    assert "mean_hd95_mm" not in segmentation_metrics([known, unknown])
    # At a network's own size an image's spacing says nothing.
    assert "mean_hd95_mm" not in segmentation_metrics(
        [SegmentationReport("reference").record({**moved, "spacing": [0.05, 0.05]})]
    )


def test_background_counts_inside_the_region_only():
    mask = np.zeros((100, 100), dtype=bool)
    mask[40:60, 40:60] = True
    assert overlap_record(mask, mask, region=[30, 30, 70, 70])["tn"] == 40 * 40 - 20 * 20
    assert overlap_record(mask, mask, region=[-50, 30, 70, 70])["tn"] == 70 * 40 - 20 * 20
    assert overlap_record(mask, mask, region=[-50, 30, -10, 70])["tn"] == 0


def test_what_lies_outside_the_region_takes_no_background_from_it():
    """A lesion that reaches beyond what the network saw."""
    lesion = np.zeros((50, 50), dtype=bool)
    lesion[:20, :20] = True
    found = overlap_record(np.zeros_like(lesion), lesion, region=[10, 10, 40, 40])
    assert (found["fn"], found["tn"]) == (400, 30 * 30 - 10 * 10)


def test_a_missed_lesion_counts_zero_and_a_normal_image_only_its_false_alarm():
    beside = record(0, 8, 10)
    metrics = segmentation_metrics([record(10, 0, 0), record(0, 0, 10), beside, record(0, 5, 0), record(0, 0, 0)])
    assert metrics["mean_dice"] == pytest.approx(1 / 3)
    assert metrics["missed"] == pytest.approx(2 / 3)
    assert metrics["false_alarm"] == pytest.approx(0.5)


def test_of_whole_mammograms_the_means_are_over_images():
    crop = record(10, 0, 0)
    assert heading("mean_dice", [crop]) == "Dice, mean over lesions"
    assert heading("mean_dice", [{**crop, "candidates": ""}]) == "Dice, mean over images"
    assert heading("pooled_dice", [{**crop, "candidates": ""}]) == heading("pooled_dice", [])


def test_of_one_patient_there_is_no_interval_and_the_table_says_so(tmp_path, capsys):
    """Where the words `nan to nan` would stand."""
    report = QualityReport(tmp_path, resamples=20)
    engine = Engine(lambda *_: [{"pred": torch.tensor([0.2, 0.8])}])
    report.attach(engine)
    engine.run([[{"image": "P1_L_CC.png", "label": 1, "patient": "P1"}]])
    told = capsys.readouterr().out
    assert "No intervals: they are by patient, and this is one." in told
    assert "nan" not in told


def test_every_epoch_is_measured_by_itself():
    report = QualityReport()
    engine = Engine(lambda *_: [{"pred": torch.tensor([0.2, 0.8])}])
    report.attach(engine)
    found = []
    for label in (1, 0):
        engine.run([[{"image": "P1_L_CC.png", "label": label}]], max_epochs=2)
        found.append((len(report.records), engine.state.metrics["accuracy"]))
    assert found == [(1, 1.0), (1, 0.0)]


def test_the_place_of_a_lesion_means_something_at_the_mammograms_own_pixels_alone():
    image = {"pred": torch.zeros(1, 20, 20), "reference": torch.zeros(1, 20, 20)}
    image |= {"region": torch.tensor([0, 0, 5, 8]), "box": torch.tensor([1, 2, 3, 4])}
    found = [SegmentationReport("reference", native=native).record(image) for native in (True, False)]
    assert [(each["tn"], each["box"]) for each in found] == [(5 * 8, [1, 2, 3, 4]), (20 * 20, None)]


def test_both_classes_are_reported_as_positive():
    records = [{"label": label, "probability": p} for label, p in ((1, 0.9), (1, 0.4), (0, 0.6), (0, 0.1), (0, 0.2))]
    assert confusion_matrix(records) == {
        "true_positive": 1,
        "false_positive": 1,
        "false_negative": 1,
        "true_negative": 2,
    }
    metrics = quality_metrics(records)
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["precision_incomplete"] == pytest.approx(1 / 2)
    assert metrics["recall_complete"] == pytest.approx(2 / 3)
    assert metrics["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics["auc_incomplete"] == pytest.approx(5 / 6)
    assert metrics["auc_complete"] == pytest.approx(5 / 6)


def test_a_very_sure_network_is_ranked_alike_by_either_class():
    """1 - 1e-20 is 1: what a network says of complete images must not become ties."""
    probabilities = zip((0, 0, 1, 0, 1), (1e-20, 1e-19, 1e-18, 3e-18, 1e-17), strict=True)
    metrics = quality_metrics([{"label": label, "probability": p} for label, p in probabilities])
    assert metrics["auc_complete"] == metrics["auc_incomplete"] == pytest.approx(5 / 6)


def test_a_half_is_incomplete_and_a_tie_is_half_right():
    records = [{"label": label, "probability": p} for label, p in ((1, 0.5), (0, 0.5), (0, 0.4))]
    assert confusion_matrix(records)["true_positive"] == confusion_matrix(records)["false_positive"] == 1
    metrics = quality_metrics(records)
    assert (metrics["recall_incomplete"], metrics["recall_complete"]) == (1, 0.5)
    assert (metrics["auc_incomplete"], metrics["auc_complete"]) == (0.75, 0.75)


def test_every_metric_has_its_words_and_only_distances_exceed_one():
    quality = quality_metrics([{"label": label, "probability": label} for label in (0, 1)])
    overlap = segmentation_metrics([record(3, 0, 0, 9) | {"hd95": 7.0, "hd95_mm": 2.0, "spacing": [0.1, 0.1]}])
    assert {*quality, *overlap} == set(HEADINGS)
    assert {name for name, value in overlap.items() if value > 1} == set(DISTANCES)


def test_the_papers_confusion_matrix_gives_the_papers_numbers():
    """Paper A's best row has one integer solution: 89 / 6 / 11 / 94."""
    counts = {(1, 0.9): 89, (0, 0.9): 6, (1, 0.1): 11, (0, 0.1): 94}
    records = [{"label": label, "probability": p} for (label, p), count in counts.items() for _ in range(count)]
    metrics = quality_metrics(records)
    assert round(metrics["accuracy"] * 100, 1) == 91.5
    assert round(metrics["precision_incomplete"] * 100, 1) == 93.7
    assert round(metrics["recall_incomplete"] * 100, 1) == 89.0
    assert round(metrics["f1_incomplete"] * 100, 1) == 91.3


def test_one_class_alone_has_no_auc():
    metrics = quality_metrics([{"label": 1, "probability": 0.7}])
    assert math.isnan(metrics["auc_incomplete"])
    assert math.isnan(metrics["recall_complete"])


def test_a_probability_of_two_classes_is_no_tumours():
    image = {"pred": np.ones((1, 4, 4)), "reference": np.ones((1, 4, 4)), "patient": "P"}
    report = SegmentationReport("reference", detections=True)
    assert report.record({**image, "probability": torch.full((1, 4, 4), 0.75)})["candidates"].startswith("0.75:1")
    with pytest.raises(ValueError, match="2 channels"):
        report.record({**image, "probability": torch.full((2, 4, 4), 0.5)})


def test_a_verdict_of_no_number_is_refused_by_its_images_name_not_counted_as_complete():
    image = MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": "film.png"})
    output = {"image": image, "label": 1, "pred": torch.tensor([math.nan, math.nan])}
    with pytest.raises(MammogramError, match=r"film\.png: the network gives no numbers"):
        QualityReport().record(output)
    assert QualityReport().record({**output, "pred": torch.tensor([0.25, 0.75])}) == {"label": 1, "probability": 0.75}


def test_marks_of_an_overconfident_network_keep_their_order():
    """To six digits both are 1, and half of a curve's marks one tie."""
    label = torch.zeros(1, 64, 64)
    label[0, 10, 10] = 1
    probability = torch.zeros(1, 64, 64)
    probability[0, 10, 10], probability[0, 50, 50] = 1 - 1e-7, 1 - 4e-7
    image = {"pred": label, "reference": label, "probability": probability, "patient": "P"}
    marks = SegmentationReport("reference", detections=True).record(image)["candidates"].split()
    found = {int(lesion): np.float32(value) for value, lesion in (mark.split(":") for mark in marks)}
    assert found == {1: probability[0, 10, 10].numpy(), 0: probability[0, 50, 50].numpy()}
