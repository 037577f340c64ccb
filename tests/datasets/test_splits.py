"""Splits by patient: no patient on two sides, sizes as asked, the same answer for the same question."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monai_mammo.datasets.splits import FRACTIONS, split_patients

patient_lists = st.lists(st.text("P0123456789_", min_size=1, max_size=6), min_size=3, max_size=200)


@given(patients=patient_lists, seed=st.integers(0, 5))
def test_every_patient_is_on_exactly_one_side(patients, seed):
    if len(set(patients)) < 3:
        with pytest.raises(ValueError, match="at least 3 patients"):
            split_patients(patients, seed=seed)
        return
    splits = split_patients(patients, seed=seed)
    assigned = [patient for side in splits.values() for patient in side]
    assert sorted(assigned) == sorted(set(patients))


@given(count=st.integers(10, 500), weights=st.tuples(*[st.integers(1, 8)] * 3))
def test_sizes_are_the_fractions_to_within_one_patient(count, weights):
    fractions = dict(zip(FRACTIONS, (weight / sum(weights) for weight in weights), strict=True))
    if min(fractions.values()) * count < 1:  # a split that would round to nobody gets one patient instead
        assert all(split_patients(map(str, range(count)), fractions).values())
        return
    for name, side in split_patients(map(str, range(count)), fractions).items():
        assert abs(len(side) - fractions[name] * count) <= 1


def test_the_order_of_the_images_does_not_matter_but_the_seed_does():
    patients = [f"P{number:03d}" for number in range(40)]
    assert split_patients(patients, seed=1) == split_patients(reversed(patients * 2), seed=1)
    assert split_patients(patients, seed=1) != split_patients(patients, seed=2)


@given(patients=patient_lists, before=st.integers(3, 200), seed=st.integers(0, 5), lesions=st.integers(0, 200))
def test_who_has_a_split_keeps_it_and_the_others_are_dealt_to_the_shares(patients, before, seed, lesions):
    everybody = sorted(set(patients))
    if len(everybody) < 3:
        return
    known = split_patients(everybody[:before], seed=seed)
    kept = {patient: name for name, side in known.items() for patient in side}
    splits = split_patients(patients, seed=seed, first=everybody[::-1][:lesions], kept=kept)
    assert all(set(side) <= set(splits[name]) for name, side in known.items())
    assert sorted(patient for side in splits.values() for patient in side) == everybody
    for name, side in splits.items():
        # Who was kept and who comes first are dealt apart: three people, one to each side, are 1.1 off, and so twice.
        assert abs(len(side) - FRACTIONS[name] * len(everybody)) < 2.5


@given(
    sections=st.lists(st.sampled_from([*FRACTIONS, None]), min_size=3, max_size=12),
    first=st.sets(st.integers(0, 11)),
    seed=st.integers(0, 3),
)
@example(sections=["validation", "validation", None], first=set(), seed=0)  # more than the section's share
@settings(deadline=None)
def test_nobody_who_is_kept_moves_or_is_in_two_sections_however_uneven_the_sections_are(sections, first, seed):
    kept = {f"P{number:02d}": section for number, section in enumerate(sections) if section}
    everybody = [f"P{number:02d}" for number in range(len(sections))]
    splits = split_patients(everybody, seed=seed, first=[f"P{number:02d}" for number in first], kept=kept)
    assert sorted(patient for side in splits.values() for patient in side) == everybody
    assert {patient: name for name, side in splits.items() for patient in side if patient in kept} == kept


def test_fractions_that_are_no_partition_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        split_patients("abcdef", {"training": 0.7, "validation": 0.7})
    with pytest.raises(ValueError, match="non-negative"):
        split_patients("abcdef", {"training": 1.2, "validation": -0.2})
