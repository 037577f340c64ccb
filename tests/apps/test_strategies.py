"""Which case an annotator gets next, and what the answer says about the choice."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from lib.models import ServedModel
from lib.scoring import Scoring
from lib.strategies import DESCRIPTIONS, CaseChoice, _candidate

from monai_mammo.active_learning import STRATEGIES

from .conftest import QUALITY, SEGMENTATION, blob, write_dicom, write_png


@pytest.fixture
def scoring(tmp_path: Path, bundles: Path) -> Scoring:
    """Four images, each of a patient of its own; nothing is scored yet."""
    for name in "abcd":
        write_png(tmp_path / "studies" / f"{name}.png", blob()[0])
    names = {SEGMENTATION: {"mode": "whole"}, QUALITY: {}}
    models = {name: ServedModel(bundles / name, tmp_path / f"{name}.pt", values) for name, values in names.items()}
    return Scoring(models, MammogramDatastore(tmp_path / "studies"), tmp_path / "scores.sqlite")


def put(scoring: Scoring, image_id: str, uncertainty: float, place: float, model: str = SEGMENTATION) -> None:
    """A score as the worker gives it."""
    embedding = base64.b64encode(np.array([place, 1.0], dtype=np.float32).tobytes()).decode()
    answer = {"uncertainty": uncertainty, "embedding": embedding}
    weights = scoring.weights(model)
    assert weights
    scoring.book.write(model, weights, image_id, scoring.datastore.image(image_id).stamp, answer)


def ask(scoring: Scoring, strategy: str, /, **request: Any) -> dict[str, Any]:
    chosen = CaseChoice(strategy, scoring)(request, scoring.datastore)
    assert chosen
    return chosen


def label(scoring: Scoring, image_id: str, folder: Path) -> None:
    mask = write_png(folder / "mask.png", blob()[1])
    scoring.datastore.save_label(image_id, str(mask), "final", {})


def test_the_viewers_are_offered_the_librarys_strategies() -> None:
    assert tuple(DESCRIPTIONS) == STRATEGIES


def test_each_strategy_goes_by_its_own_measure(scoring: Scoring, tmp_path: Path) -> None:
    for image_id, uncertainty, place in (("a", 0.9, 0.2), ("b", 0.8, 3.0), ("c", 0.1, 9.0), ("d", 0.0, 0.0)):
        put(scoring, image_id, uncertainty, place)
    label(scoring, "d", tmp_path)
    chosen = {strategy: ask(scoring, strategy) for strategy in STRATEGIES[1:]}
    assert chosen["uncertainty"]["id"] == "a"
    assert chosen["diversity"]["id"] == "c"
    for strategy, answer in chosen.items():
        said = {"strategy": strategy, "by": strategy, "model": SEGMENTATION, "scored": 3, "images": 3}
        assert answer["choice"] == said


def test_a_side_without_a_view_is_an_unknown_view(tmp_path: Path) -> None:
    """Otherwise such images would count as a rare view and come before what the network is less sure of."""
    for patient, views in enumerate((("CC", "MLO"), ("",))):
        for view in views:
            file = write_dicom(tmp_path / f"P{patient}" / f"image-{view}.dcm", blob()[0], patient)
            dataset = pydicom.dcmread(file)
            dataset.ViewPosition = view
            dataset.pop("ViewCodeSequence", None)
            dataset.save_as(file)
    store = MammogramDatastore(tmp_path)
    assert sorted(_candidate(store, name, None).view for name in store.list_images()) == ["", "L CC", "L MLO"]


def test_by_which_models_scores_is_for_the_request_to_say(scoring: Scoring) -> None:
    put(scoring, "a", 0.9, 0)
    put(scoring, "b", 0.1, 0)
    put(scoring, "b", 0.6, 0, QUALITY)
    assert ask(scoring, "uncertainty")["id"] == "a"
    assert ask(scoring, "uncertainty", model=QUALITY)["id"] == "b"
    with pytest.raises(RequestRefused) as refused:
        ask(scoring, "uncertainty", model="../../etc/passwd")
    assert refused.value.status == 404


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_before_there_are_scores_the_choice_is_random_and_says_so(scoring: Scoring, strategy: str) -> None:
    answers = [ask(scoring, strategy, seed=seed) for seed in range(30)]
    assert {answer["id"] for answer in answers} == {"a", "b", "c", "d"}
    assert answers[0]["choice"]["by"] == "random"
    assert "not scored" in answers[0]["choice"]["reason"]
    put(scoring, "c", 0.01, 0)
    scored = ask(scoring, strategy)
    assert (scored["id"], scored["choice"]["by"], scored["choice"]["scored"]) == ("c", strategy, 1)


def test_without_weights_the_answer_says_that_too(scoring: Scoring, small_bundles: Path) -> None:
    scoring.models = {SEGMENTATION: ServedModel(small_bundles / SEGMENTATION, Path("none.pt"), {"mode": "whole"})}
    assert "no weights" in ask(scoring, "uncertainty")["choice"]["reason"]


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_scoring_that_is_switched_off_is_not_taken_for_one_to_come(scoring: Scoring, strategy: str) -> None:
    off = Scoring(scoring.models, scoring.datastore, scoring.book.file, on=False)
    off.start()
    off.stop()
    assert {status["state"] for status in off.status().values()} == {"off"}
    choice = ask(off, strategy)["choice"]
    assert (choice["by"], choice["reason"]) == ("random", "scoring is switched off (--conf scoring)")
    assert "switched off (--conf scoring)" in CaseChoice(strategy, off).info()["description"]
    assert "switched off" not in CaseChoice(strategy, scoring).info()["description"]
    assert "switched off" not in CaseChoice("random", off).info()["description"]
    put(off, "c", 0.01, 0)
    assert (ask(off, strategy)["id"], ask(off, strategy)["choice"]["by"]) == ("c", strategy)


def test_an_image_that_could_not_be_scored_is_given_out_last(scoring: Scoring) -> None:
    weights = scoring.weights(SEGMENTATION)
    assert weights
    for image_id in "abc":
        scoring.book.write(SEGMENTATION, weights, image_id, "", {"reason": "its pixels are torn"})
    put(scoring, "d", 0.0, 0)
    assert ask(scoring, "uncertainty")["id"] == "d"


def test_a_patients_images_are_one_case_that_begins_as_it_is_read(tmp_path: Path, scoring: Scoring) -> None:
    views = [("L", "MLO"), ("R", "MLO"), ("L", "CC"), ("R", "CC")]
    studies = tmp_path / "studies"
    for laterality, view in views:
        file = write_dicom(studies / "case" / f"{laterality}_{view}.dcm", blob()[0], patient=7)
        _name_view(file, laterality, view)
    scoring.datastore.refresh()
    for number, (laterality, view) in enumerate(views):
        put(scoring, f"case-{laterality}_{view}", 0.5 + number / 10, 0)
    answer = ask(scoring, "uncertainty")
    assert answer["id"] == "case-R_CC"
    assert answer["case"] == ["case-R_CC", "case-L_CC", "case-R_MLO", "case-L_MLO"]


def test_random_gives_every_case_a_chance_and_repeats_itself_for_a_seed(scoring: Scoring) -> None:
    first = [ask(scoring, "random", seed=seed)["id"] for seed in range(30)]
    assert first == [ask(scoring, "random", seed=seed)["id"] for seed in range(30)]
    assert set(first) == {"a", "b", "c", "d"}
    assert ask(scoring, "random")["choice"] == {"strategy": "random", "by": "random"}


@pytest.mark.parametrize("seed", ["7", 1.5, True, [1]])
def test_a_seed_that_is_no_whole_number_is_refused(scoring: Scoring, seed: object) -> None:
    with pytest.raises(RequestRefused) as refused:
        ask(scoring, "random", seed=seed)
    assert refused.value.status == 400


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_when_all_is_labelled_there_is_no_next_case(scoring: Scoring, tmp_path: Path, strategy: str) -> None:
    for image_id in "abcd":
        label(scoring, image_id, tmp_path)
    assert CaseChoice(strategy, scoring)({}, scoring.datastore) is None


def _name_view(file: Path, laterality: str, view: str) -> None:
    import pydicom

    dataset = pydicom.dcmread(file)
    dataset.ImageLaterality = laterality
    dataset.ViewPosition = view
    if "ViewCodeSequence" in dataset:
        del dataset.ViewCodeSequence
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(
        entropy_srcs=[laterality, view]
    )
    dataset.save_as(file)
