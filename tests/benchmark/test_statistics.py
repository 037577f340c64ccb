"""The statistics against cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_froc_curve_data
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from monai_mammo.benchmark.statistics import (
    difference,
    expected_calibration_error,
    froc_metrics,
    holm,
    mcnemar,
    over_seeds,
    sensitivity_at,
    spread,
)
from monai_mammo.bootstrap import interval
from monai_mammo.metrics import quality_metrics


def outcomes(only_system: int, only_reference: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts of two systems with so many images that only one of them, or both, get right."""
    system = [True] * only_system + [False] * only_reference + [True] * both
    reference = [False] * only_system + [True] * only_reference + [True] * both
    return np.array(system), np.array(reference)


@pytest.mark.parametrize(("alone", "other", "p"), [(10, 2, 0.0386), (11, 3, 0.0574), (1, 0, 1.0), (5, 5, 1.0)])
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_images(alone, other, p):
    """10 : 2 and 11 : 3 are the smallest results that paper A's four further correct images could mean."""
    found = mcnemar(*outcomes(alone, other, both=50))
    assert (found.only_system, found.only_reference) == (alone, other)
    assert found.p == pytest.approx(p, abs=5e-5)
    by_hand = min(1.0, 2 * float(binom.cdf(min(alone, other), alone + other, 0.5)))
    assert found.p == pytest.approx(by_hand)


def test_images_on_which_two_systems_agree_say_nothing():
    assert mcnemar(*outcomes(0, 0, both=40)).p == 1.0
    assert mcnemar(*outcomes(6, 1, both=0)) == mcnemar(*outcomes(6, 1, both=1000))


def test_seeds_are_no_further_patients():
    """The same result had three times over says no more of other patients than had once."""
    samples = np.random.default_rng(0).binomial(8, 0.6, 300) / 8  # of eight patients drawn again and again
    assert interval(over_seeds([samples] * 3)) == interval(samples)


def test_seeds_that_differ_widen_the_interval():
    """Where every patient gives the same, only the seeds are left to vary: all of nine draws of 0, 0.5 and 1 occur."""
    constant = [np.full(2000, value) for value in (0.0, 0.5, 1.0)]
    low, high = interval(over_seeds(constant))
    assert low < 0.25
    assert high > 0.75
    assert interval(over_seeds(constant[:1])) == (0.0, 0.0)


def test_the_seeds_vary_as_far_as_trainings_do():
    """Not as far as draws of so few: the mean of three seeds has a third of the variance that they show."""
    seeds = np.array([0.2, 0.4, 0.9])
    found = over_seeds([np.full(20000, value) for value in seeds])
    assert found.mean() == pytest.approx(seeds.mean(), abs=0.005)
    assert found.std() == pytest.approx(seeds.std(ddof=1) / math.sqrt(3), rel=0.02)


def test_a_paired_difference_is_surer_than_two_intervals():
    """Hard and easy patients move both systems alike; what is left of the difference is constant."""
    rng = np.random.default_rng(0)
    reference = rng.uniform(0, 1, 500)
    found = difference(0.1, reference + 0.1, reference)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert found.p == pytest.approx(2 / 501)  # as small as 500 draws can tell
    assert interval(reference)[1] > interval(reference + 0.1)[0]


def test_no_difference_has_the_highest_p():
    samples = np.linspace(-1, 1, 1001)
    assert difference(0.0, samples, np.zeros(1001)).p == 1.0


def test_a_difference_that_is_nowhere_defined_has_no_p():
    found = difference(math.nan, np.full(10, math.nan), np.zeros(10))
    assert math.isnan(found.p)


def test_holm_by_hand():
    """Smallest times three, next times two, last as it is; never below one before it."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.04, math.nan, 0.01]) == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_makes_a_comparison_surer(p_values):
    assert all(adjusted >= p for adjusted, p in zip(holm(p_values), p_values, strict=True))


def test_calibration_error_by_hand():
    """Two bins: 0.2 predicted and half observed; 0.9 predicted and all observed. Gaps 0.3 and 0.1, equally many."""
    label = np.array([0, 1, 0, 1, 1, 1, 1, 1])
    probability = np.array([0.2] * 4 + [0.9] * 4)
    assert expected_calibration_error(label, probability) == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)


def test_certain_and_right_is_calibrated():
    label = np.array([0, 1, 1])
    assert expected_calibration_error(label, label.astype(float)) == 0.0


def marked(lesions: int, *marks: tuple[float, int], patient: str = "P") -> dict:
    return {"patient": patient, "lesions": lesions, "candidates": list(marks)}


def monais_curve(records: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """False marks an image and sensitivity at every threshold."""
    marks = [(number, *mark) for number, record in enumerate(records) for mark in record["candidates"]]
    false = [probability for _, probability, lesion in marks if not lesion]
    lesions = [(number, lesion) for number, record in enumerate(records) for lesion in range(1, record["lesions"] + 1)]
    found = [max([0.0, *(p for number, p, inside in marks if (number, inside) == lesion)]) for lesion in lesions]
    # MONAI leaves out the lowest probability, as that of what was not found; with a mark of zero it always is.
    return compute_froc_curve_data(np.array([*false, 0.0]), np.array(found), len(found), len(records))


def test_froc_with_two_lesions_in_one_image():
    """Two images, three lesions. At 0.8 one is found and nothing marked falsely; at 0.5 two, and one false mark."""
    records = [
        marked(2, (0.9, 1), (0.85, 1), (0.5, 2), (0.6, 0)),  # the second mark in lesion 1 counts for nothing
        marked(1, (0.3, 0)),  # its lesion is never found
    ]
    assert sensitivity_at(records, [0, 0.5, 1, 10]) == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert froc_metrics(records)["sensitivity_at_0.25"] == pytest.approx(1 / 3)
    false, sensitivity = monais_curve(records)
    assert (false[0], sensitivity[0]) == (1.0, pytest.approx(2 / 3))  # every mark taken


def test_froc_of_all_lesions_found_reaches_one():
    """Also at its lowest mark, which is a lesion's."""
    assert sensitivity_at([marked(2, (0.9, 1), (0.2, 2))], [0]) == [1.0]
    assert monais_curve([marked(2, (0.9, 1), (0.2, 2))])[1].max() == 1.0


def test_froc_of_images_without_a_mark_or_a_lesion():
    assert sensitivity_at([marked(1)], [1]) == [0.0]
    assert math.isnan(froc_metrics([marked(0, (0.9, 0))])["sensitivity_at_1"])


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9).map(lambda n: n / 10), st.integers(0, 2)), max_size=5), min_size=1)
)
def test_sensitivities_are_read_off_monais_curve(images):
    records = [marked(2, *marks) for marks in images]
    false, sensitivity = monais_curve(records)
    for rate, found in zip((0, 0.5, 1, 3), sensitivity_at(records, (0, 0.5, 1, 3)), strict=True):
        assert found == pytest.approx(max([0.0, *sensitivity[false <= rate]]))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=30))
def test_the_area_under_the_curve_is_scikit_learns(pairs):
    """Also with ties; in `metrics` it is computed from ranks."""
    label, score = np.array([pair[0] for pair in pairs]), np.array([pair[1] / 5 for pair in pairs])
    found = quality_metrics([{"label": a, "probability": b} for a, b in zip(label, score, strict=True)])
    if 0 < label.sum() < label.size:
        assert found["auc_incomplete"] == pytest.approx(roc_auc_score(label, score))
        assert found["auc_complete"] == pytest.approx(roc_auc_score(1 - label, 1 - score))
    else:
        assert math.isnan(found["auc_incomplete"])


def test_one_seed_has_no_spread():
    assert math.isnan(spread({0: 0.7}))
    assert spread({0: 0.6, 1: 0.8}) == pytest.approx(math.sqrt(0.02))
