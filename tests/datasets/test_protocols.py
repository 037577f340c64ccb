"""Protocols: `patient` never leaks, `paper` has the papers' counts and says how much it leaks."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_mammo.datasets.protocols import (
    OFFICIAL_FRACTIONS,
    PAPER_VARIANTS,
    leaking,
    paper_quality,
    paper_segmentation,
    paper_segmentation_images,
    patient_split,
)
from monai_mammo.datasets.sources import SourceImage, SourceLesion
from monai_mammo.datasets.splits import FRACTIONS, split_patients

MASS = SourceLesion(kind="mass")


def image(number: int, patient: str, split: str = "", *lesions: SourceLesion) -> SourceImage:
    return SourceImage(Path(f"{number}.dcm"), patient, "L", "CC", lesions=lesions, split=split)  # type: ignore[arg-type]


listings = st.lists(
    st.tuples(st.integers(0, 60), st.booleans()),
    max_size=200,
).map(lambda rows: [image(i, f"P{p}", "", *[MASS] * lesion) for i, (p, lesion) in enumerate(rows)])
official = st.lists(
    st.tuples(st.integers(0, 60), st.booleans(), st.sampled_from(["", "training", "test"])), max_size=200
).map(lambda rows: [image(i, f"P{p}", split, *[MASS] * lesion) for i, (p, lesion, split) in enumerate(rows)])


@given(images=st.one_of(listings, official), seed=st.integers(0, 3))
def test_every_patient_is_in_exactly_one_section(images, seed):
    splits = patient_split(images, seed)
    assigned = Counter(patient for side in splits.values() for patient in side)
    assert set(assigned) == {image.patient for image in images}
    assert set(assigned.values()) <= {1}


@given(images=listings, seed=st.integers(0, 3))
def test_without_an_official_split_the_shares_hold_to_within_one_patient(images, seed):
    splits = patient_split(images, seed)
    total = len({image.patient for image in images})
    if total < 3:
        assert [len(splits[section]) for section in ("training", "validation", "test")] == [
            min(total, 1),
            max(total - 1, 0),
            0,
        ]
        return
    for section, share in FRACTIONS.items():
        # A small section that would round to nobody gets its one patient from the largest.
        assert abs(len(splits[section]) - share * total) <= (1 if total >= 10 else 2)


@given(images=official, seed=st.integers(0, 3))
def test_the_official_test_side_stays_and_validation_is_taken_from_the_others(images, seed):
    test = {image.patient for image in images if image.split == "test"}
    splits = patient_split(images, seed)
    if not test:
        return
    assert set(splits["test"]) == test
    others = {image.patient for image in images} - test
    if len(others) >= 7:
        for section, share in OFFICIAL_FRACTIONS.items():
            assert abs(len(splits[section]) - share * len(others)) <= 1


@given(images=official)
def test_what_leaks_are_the_training_images_of_test_patients_and_nothing_else(images):
    gone = leaking(images)
    assert all(image.split != "test" for image in gone)
    kept = [image for image in images if image not in gone]
    sides = {split: {image.patient for image in kept if (image.split == "test") == split} for split in (True, False)}
    assert not sides[True] & sides[False]
    assert [image for image in kept if image.split == "test"] == [image for image in images if image.split == "test"]


@given(count=st.integers(3, 120), few=st.integers(0, 120), seed=st.integers(0, 3))
def test_patients_with_lesions_are_spread_like_all_of_them(count, few, seed):
    patients = [f"P{number}" for number in range(count)]
    first = patients[:few]
    splits = split_patients(patients, seed=seed, first=first)
    assert sorted(patient for side in splits.values() for patient in side) == sorted(patients)
    for side, share in FRACTIONS.items():
        if count >= 10:
            assert abs(len(splits[side]) - share * count) <= 1
        if len(first) >= 3:
            assert set(splits[side]) & set(first)


def test_more_of_the_data_sets_tasks_do_not_change_the_assignment():
    images = [image(number, f"P{number // 2}") for number in range(40)]
    assert patient_split(images, 1) == patient_split(images[::-1], 1) != patient_split(images, 2)


def variants_of(originals: int, patients: int) -> list[dict]:
    return [
        {"image": f"{original}_{index}.png", "original": f"{original}", "patient": f"P{original % patients}"}
        for original in range(originals)
        for index in range(PAPER_VARIANTS)
    ]


def samples_of(originals: int) -> list[dict]:
    return [
        {"image": f"{n}_{label}_{index}.png", "original": f"{n}", "patient": f"P{n // 2}", "label": label}
        for n in range(originals)
        for label in (0, 1)
        for index in (1, 2)
    ]


def test_1318_lesions_give_the_papers_17134_files_in_13707_and_3427():
    split = paper_segmentation(variants_of(1318, 600), seed=0)
    assert {section: len(some) for section, some in split.sections.items()} == {"training": 13707, "validation": 3427}
    assert len({entry["image"] for some in split.sections.values() for entry in some}) == 17134
    assert split.sibling == split.patient == 1.0
    assert "this protocol leaks: 100.0%" in split.remark
    assert "1318 lesions -> 17134 files -> 13707 training, 3427 validation" in split.remark


def test_325_originals_give_the_papers_500_and_500_in_800_and_200():
    split = paper_quality(samples_of(325), seed=0)
    labels = {section: Counter(entry["label"] for entry in some) for section, some in split.sections.items()}
    assert labels == {"training": {0: 400, 1: 400}, "validation": {0: 100, 1: 100}}
    drawn = [entry for some in split.sections.values() for entry in some]
    assert len({entry["image"] for entry in drawn}) == 1000
    for label in (0, 1):  # every original is used before one is used again
        assert len({entry["original"] for entry in drawn if entry["label"] == label}) == 325
    assert 0.8 < split.sibling < 1.0
    assert split.patient >= split.sibling
    assert "325 originals -> 500 complete + 500 incomplete -> 800 training, 200 validation" in split.remark


@given(originals=st.integers(5, 80), seed=st.integers(0, 3))
def test_other_numbers_of_originals_are_scaled(originals, seed):
    split = paper_quality(samples_of(originals), seed)
    wanted = round(originals * 500 / 325)
    labels = Counter(entry["label"] for some in split.sections.values() for entry in some)
    assert labels == {0: wanted, 1: wanted}


@given(originals=st.integers(1, 30), seed=st.integers(0, 3))
def test_the_leak_is_what_a_count_by_hand_finds(originals, seed):
    split = paper_segmentation(variants_of(originals, 3), seed)
    training = [entry["original"] for entry in split.sections["training"]]
    held_out = [entry["original"] for entry in split.sections["validation"]]
    assert split.sibling == pytest.approx(sum(name in training for name in held_out) / len(held_out))


def test_paper_b_takes_the_masses_of_the_official_training_side():
    calcification = SourceLesion(kind="calcification")
    images = [
        image(1, "A", "training", MASS, MASS, calcification),
        image(2, "B", "training", calcification),
        image(3, "C", "test", MASS),
        image(4, "D", "training"),
    ]
    (chosen,) = paper_segmentation_images(images)
    assert chosen.image == Path("1.dcm")
    assert chosen.lesions == (MASS, MASS)


def test_paper_b_takes_what_there_is_where_nothing_is_official_or_called_a_mass():
    images = [image(1, "A", "", MASS), image(2, "B"), image(3, "C", "", MASS)]
    assert paper_segmentation_images(images) == [images[0], images[2]]
    unnamed = [image(1, "A", "", SourceLesion()), image(2, "B")]
    assert paper_segmentation_images(unnamed) == unnamed[:1]


def test_the_real_tables_give_the_papers_counts_and_the_31_shared_patients(samples):
    from monai_mammo.datasets.cbis_ddsm import abnormalities

    rows = abnormalities(samples / "cbis-ddsm" / "csv", [])
    by_image: dict[str, list[SourceLesion]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(SourceLesion(kind=row.kind, name=row.name))
    where = {row.image: row for row in rows}
    images = [
        SourceImage(Path(name), where[name].patient, "", "", tuple(lesions), split=where[name].split)
        for name, lesions in by_image.items()
    ]
    lesions = sum(len(image.lesions) for image in paper_segmentation_images(images))
    assert (lesions, lesions * PAPER_VARIANTS) == (1318, 17134)
    assert len({image.patient for image in leaking(images)}) == 31
    splits = patient_split(images, 0)
    assert sum(map(len, splits.values())) == 1566
    assert set(splits["test"]) == {image.patient for image in images if image.split == "test"}
