"""What is uncertain, and what is chosen: the properties that an annotator's time depends on."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

from monai_mammo.active_learning import (
    STRATEGIES,
    Candidate,
    choose,
    entropy,
    mutual_information,
    region_score,
    score_image,
    varied_passes,
)
from monai_mammo.active_learning.scores import LEFT_TO_RIGHT, lesion_window, pooled_over, score_passes
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.networks import ResNet34PARBKAN, ResPAMUNet
from monai_mammo.networks.inference import for_inference
from monai_mammo.predictor import Predictor


def probabilities(*tumour: float) -> torch.Tensor:
    """(S, 1, 2) of passes that give a tumour these probabilities."""
    return torch.tensor([[[1 - p, p]] for p in tumour])


# Scores


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_passes_that_agree_have_no_mutual_information_however_undecided(p: float) -> None:
    assert float(mutual_information(probabilities(p, p, p))) == pytest.approx(0, abs=1e-6)


def test_passes_that_are_sure_of_opposites_have_all_of_it() -> None:
    assert float(mutual_information(probabilities(0.0, 1.0))) == pytest.approx(np.log(2))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.randoms())
@settings(max_examples=50, deadline=None)
def test_mutual_information_is_bounded_and_knows_no_order_of_passes(p: list[float], random) -> None:
    found = float(mutual_information(probabilities(*p)))
    shuffled = random.sample(p, len(p))
    assert 0 <= found <= np.log(2) + 1e-6
    assert float(mutual_information(probabilities(*shuffled))) == pytest.approx(found, abs=1e-6)
    assert found <= float(entropy(probabilities(*p).mean(0))) + 1e-6


def test_entropy_is_highest_where_classes_are_even_and_zero_where_one_is_certain() -> None:
    verdicts = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
    assert entropy(verdicts).tolist() == pytest.approx([np.log(2), 0.3251, 0], abs=1e-4)


def test_entropy_ranks_two_classes_as_the_margin_between_them_does() -> None:
    complete = torch.rand(200, generator=torch.Generator().manual_seed(0))
    verdicts = torch.stack((complete, 1 - complete), dim=1)
    margin = (2 * complete - 1).abs()
    assert torch.equal(entropy(verdicts).argsort(descending=True), margin.argsort())


def test_a_small_uncertain_lesion_outranks_haze_over_the_whole_image() -> None:
    lesion, haze = torch.zeros(512, 320), torch.full((512, 320), 0.05)
    lesion[200:216, 100:116] = 0.6
    assert lesion.mean() < haze.mean() / 50
    window = (20, 20)
    assert region_score(lesion, window) > 5 * region_score(haze, window)


def test_doubt_outside_the_breast_does_not_count() -> None:
    doubt, breast = torch.zeros(64, 64), torch.zeros(64, 64, dtype=torch.bool)
    doubt[:10, 50:] = 0.7  # the view label
    breast[20:50, :30] = True
    assert region_score(doubt, (5, 5)) == pytest.approx(0.7)
    assert region_score(doubt, (5, 5), breast) == 0


def test_a_region_larger_than_the_image_is_the_image() -> None:
    assert region_score(torch.eye(4), (9, 2)) == pytest.approx(0.25)
    assert region_score(torch.ones(1, 1), (3, 3)) == 1


def test_a_lesion_is_ten_millimetres_large_and_film_without_spacing_as_long_as_a_detector_of_24_cm() -> None:
    known = lesion_window((512, 320), (4096, 2560), spacing=(0.05, 0.1))
    assert known == pytest.approx((25, 12.5))
    film = lesion_window((512, 320), (256, 160), spacing=(float("nan"), float("nan")), image=(480, 300))
    assert film == pytest.approx((40, 40))  # half a millimetre a pixel, which the input shows twice as large


# Networks


def test_flipped_passes_lie_on_each_other() -> None:
    image = torch.rand(2, 1, 8, 12)
    found = varied_passes(nn.Conv2d(1, 2, 1), image)  # without surroundings, flips change nothing
    assert found.probabilities.shape == (4, 2, 2, 8, 12)
    assert float(mutual_information(found.probabilities).max()) == pytest.approx(0, abs=1e-6)
    sided = varied_passes(nn.Conv2d(1, 2, (1, 5), padding="same"), image)
    assert float(mutual_information(sided.probabilities).max()) > 1e-4


def test_a_network_with_dropout_is_run_several_times_alike_for_one_seed_and_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    network = ResPAMUNet(2, 3, 2, stem="resnet", width=4, dropout=0.5).eval()
    image = torch.rand(1, 3, 64, 64)
    state = torch.get_rng_state()
    first, again, other = (varied_passes(network, image, flips=[()], repeats=3, seed=s) for s in (1, 1, 2))
    assert first.probabilities.shape[0] == 3
    assert torch.equal(first.probabilities, again.probabilities)
    assert not torch.equal(first.probabilities, other.probabilities)
    assert float(mutual_information(first.probabilities).max()) > 0
    assert not any(module.training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "network", [ResNet34PARBKAN(2, 3, 2, width=4), ResPAMUNet(2, 3, 2, stem="resnet", width=4)], ids=["quality", "unet"]
)
def test_both_networks_give_embeddings_that_tell_images_apart_and_not_their_mirror_images(network) -> None:
    images = torch.rand(2, 3, 64, 64)
    images = torch.cat((images, images[:1].flip(-1)))
    embedding = varied_passes(network.eval(), images, LEFT_TO_RIGHT).embedding
    assert embedding.shape[1] >= 32
    assert torch.allclose(embedding.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(embedding[0], embedding[2], atol=1e-5)
    assert float((embedding[0] - embedding[1]).norm()) > 1e-4


@pytest.mark.parametrize("width", [8, 16])
def test_what_is_served_and_what_is_replayed_lie_at_the_same_place_by_the_networks_own_features(width) -> None:
    """Not by the scores of its attention, which has more of them than there are features."""
    torch.manual_seed(0)
    network, images = ResNet34PARBKAN(2, 3, 2, width=width).eval(), torch.rand(2, 3, 288, 288)
    plain = varied_passes(network, images, flips=[()]).embedding
    features = network.forward_features(images)
    assert torch.allclose(plain, features / features.norm(dim=1, keepdim=True), atol=1e-6)
    served = varied_passes(for_inference(network, images), images, flips=[()]).embedding
    assert torch.allclose(plain, served, atol=1e-5)


def test_images_of_a_batch_are_scored_as_if_they_were_alone() -> None:
    torch.manual_seed(1)
    network, images = ResPAMUNet(2, 3, 2, stem="resnet", width=4).eval(), torch.rand(3, 3, 64, 64)
    together = score_passes(varied_passes(network, images), [(9, 9)] * 3, [None] * 3)
    for image, score in zip(images, together, strict=True):
        (alone,) = score_passes(varied_passes(network, image[None]), [(9, 9)], [None])
        assert alone.uncertainty == pytest.approx(score.uncertainty, abs=1e-5)


@pytest.mark.parametrize("bundle", ["mammo_quality_classification", "mammo_tumor_segmentation"])
def test_a_bundle_scores_a_mammogram_the_same_every_time_and_refuses_what_is_none(
    bundle, root, untrained, phantoms, tmp_path
) -> None:
    small = {"width": 4, "size": [64, 64], "device": "cpu"} | ({"mode": "whole"} if "segmentation" in bundle else {})
    torch.save(untrained(bundle, width=4), tmp_path / "model.pt")
    predictor = Predictor(root / "bundles" / bundle, weights=tmp_path / "model.pt", overrides=small)
    images = sorted(phantoms.glob("phantom-*/*/*_MLO.dcm"))[:2]
    scores = [score_image(predictor, image) for image in (*images, images[0])]
    assert scores[0].uncertainty == scores[2].uncertainty
    assert np.array_equal(scores[0].embedding, scores[2].embedding)
    assert scores[0].uncertainty != scores[1].uncertainty
    assert 0 <= scores[0].uncertainty <= np.log(2) + 1e-6
    (tmp_path / "note.dcm").write_text("no mammogram")
    with pytest.raises(MammogramError):
        score_image(predictor, tmp_path / "note.dcm")


def test_a_crop_is_scored_over_a_lesions_share_of_it_and_an_image_by_the_spacing_it_is_given(
    root, untrained, phantoms, tmp_path
) -> None:
    bundle, weights = root / "bundles" / "mammo_tumor_segmentation", tmp_path / "model.pt"
    torch.save(untrained(bundle.name, width=4), weights)
    small = {"width": 4, "size": [64, 64], "device": "cpu"}
    crops, whole = (Predictor(bundle, weights=weights, overrides={**small, "mode": mode}) for mode in ("roi", "whole"))
    image = min(phantoms.glob("phantom-*/*/*_MLO.dcm"))
    marked = {"box": [60, 60, 90, 90]}

    crop = crops.prepare(image, **marked)["image"].as_tensor()
    disagreement = mutual_information(varied_passes(crops.network, crop[None], forward=crops.inferer).probabilities)[0]
    side = round(64 / (1 + 2 * crops.parser.get_parsed_content("roi_margin")))
    assert score_image(crops, image, **marked).uncertainty == pytest.approx(region_score(disagreement, (side, side)))

    for spacing in (0.1, 0.2):
        data = whole.prepare(image, spacing=[spacing, spacing])
        (rows, _), inside = pooled_over(data, whole.parser, whole.metadata)
        top, _, bottom, _ = data["region"]
        assert rows == pytest.approx(10 / spacing * 64 / (bottom - top))
        assert inside.any()


class Told(nn.Module):
    """A network whose passes say one prepared thing after another."""

    def __init__(self, *scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = list(scores)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.forward_features(images)
        return self.scores.pop(0)


def stub(network: nn.Module, data: dict[str, Any], mode: str, kind: str) -> Any:
    """What `score_image` asks of a predictor."""
    return SimpleNamespace(
        network=network,
        prepare=lambda _image: data,
        parser=ConfigParser({"mode": mode}),
        metadata={"network_data_format": {"outputs": {"pred": {"format": kind}}}},
        device="cpu",
        inferer=lambda inputs, net: net(inputs),
    )


def test_a_mammograms_uncertainty_is_what_flips_disagree_about_in_a_breasts_region_of_a_lesions_size() -> None:
    breast = torch.zeros(3, 64, 48)
    breast[..., :24] = 0.8
    # Half a millimetre a pixel, of which the input shows four by two in one: a lesion has 5 rows and 10 columns there.
    image = MetaTensor(breast, meta={"spatial_shape": np.array([480, 300])})
    data = {"image": image, "region": [100, 20, 356, 116], "spacing": [math.nan, math.nan]}
    scores = []
    for flip, p in zip(((), (-1,), (-2,), (-2, -1)), (0.9, 0.1, 0.9, 0.9), strict=True):
        tumour = torch.full((64, 48), 0.5)  # undecided in every pass
        tumour[30:32, 8:16] = p
        tumour[10:30, 34:48] = p  # in the air
        scores.append(torch.stack((1 - tumour, tumour)).log()[None].flip(flip))
    disagreement = float(mutual_information(probabilities(0.9, 0.1, 0.9, 0.9)))
    found = score_image(stub(Told(*scores), data, "whole", "segmentation"), "image.dcm")
    assert found.uncertainty == pytest.approx(disagreement * 2 * 8 / (5 * 10), rel=1e-4)
    assert found.embedding == pytest.approx([3**-0.5] * 3)


def test_a_verdicts_uncertainty_is_the_entropy_of_the_mean_over_the_image_and_its_mirror_image() -> None:
    scores = [torch.tensor([[1 - p, p]]).log() for p in (0.9, 0.3, 0.5, 0.5)]
    data = {"image": MetaTensor(torch.rand(3, 8, 8))}
    found = score_image(stub(Told(*scores), data, "", "classification"), "image.dcm")
    assert found.uncertainty == pytest.approx(float(entropy(torch.tensor([[0.4, 0.6]]))), rel=1e-4)


# Selection


def case(patient: str, uncertainty: float | None, place: float = 0.0, views: str = "CC MLO") -> list[Candidate]:
    """The images of a patient, equally uncertain and at one place."""
    point = None if uncertainty is None else np.array([place, 0.0])
    return [Candidate(f"{patient}-{view}", patient, view, uncertainty, point) for view in views.split()]


def spread(places: list[tuple[int, int]]) -> list[Candidate]:
    """Cases of one image each at these places, by their numbers."""
    return [Candidate(str(n), str(n), "L CC", 0.5, np.array(place, float)) for n, place in enumerate(places)]


def radius(points: np.ndarray, centres: tuple[int, ...]) -> float:
    return float(np.linalg.norm(points[:, None] - points[list(centres)][None], axis=2).min(axis=1).max())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=3, max_size=8), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_diversity_covers_with_at_most_twice_the_smallest_radius(places, count: int) -> None:
    points = np.array(places, dtype=float)
    best = min(radius(points, centres) for centres in combinations(range(len(points)), count))
    chosen = choose(spread(places), "diversity", count)
    assert radius(points, tuple(int(number) for number in chosen)) <= 2 * best + 1e-9


def test_diversity_keeps_away_from_what_is_there() -> None:
    pool = spread([(0, 0), (1, 0), (5, 0), (9, 0)])
    labelled = [Candidate("done", "done", "L CC", 0.0, np.array([0.5, 0.0]))]
    assert choose(pool, "diversity", 2, labelled=labelled) == ["3", "2"]
    assert choose(pool, "diversity", 9) == choose(pool, "diversity", 4)


def test_distance_is_that_to_the_nearest_labelled_image_and_a_start_without_any_is_in_the_middle() -> None:
    labelled = [Candidate(f"done {x}", "done", "L CC", 0.0, np.array([x, 0.0])) for x in (0.0, 10.0)]
    assert choose(spread([(9, 0), (5, 0)]), "diversity", 1, labelled=labelled) == ["1"]
    assert choose(spread([(0, 0), (10, 0), (4, 0)]), "diversity", 1) == ["2"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.floats(-5, 5)), min_size=1, max_size=12),
    st.sampled_from(STRATEGIES),
    st.integers(1, 6),
    st.randoms(),
)
@settings(max_examples=100, deadline=None)
def test_the_choice_knows_no_order_and_takes_whole_cases(rows, strategy: str, images: int, random) -> None:
    pool = [
        Candidate(f"i{n}", f"p{patient}", "L CC" if n % 2 else "R MLO", uncertainty, np.array([place, 1.0]))
        for n, (patient, uncertainty, place) in enumerate(rows)
    ]
    chosen = choose(pool, strategy, images, seed=3)
    assert chosen == choose(random.sample(pool, len(pool)), strategy, images, seed=3)
    assert len(chosen) == len(set(chosen)) >= min(images, len(pool))
    patients = {candidate.id: candidate.patient for candidate in pool}
    taken = {patients[image] for image in chosen}
    assert set(chosen) == {image for image, patient in patients.items() if patient in taken}
    last = patients[chosen[-1]]
    assert sum(patients[image] != last for image in chosen) < images  # no case more than needed


def test_uncertainty_takes_the_least_certain_cases_whatever_their_number_of_images() -> None:
    pool = [*case("a", 0.1, views="CC MLO XCCL LM"), *case("b", 0.5), *case("c", 0.3, views="CC")]
    assert choose(pool, "uncertainty", 3) == ["b-CC", "b-MLO", "c-CC"]


def test_a_case_is_as_uncertain_as_its_images_on_average() -> None:
    one_of_two = [replace(image, uncertainty=u) for image, u in zip(case("a", 0), (0.9, 0.1), strict=True)]
    assert choose([*one_of_two, *case("b", 0.6)], "uncertainty", 1)[0] == "b-CC"


def test_diversity_takes_what_is_far_from_labelled_images_and_uncertainty_with_it_only_what_is_uncertain() -> None:
    labelled = case("done", 0.0, place=0)
    pool = [*case("far", 0.01, place=9), *case("near", 0.9, place=0.1)]
    pool += [*case("middle", 0.8, place=4), *case("also", 0.7, place=3.9), *case("dull", 0.02, place=5)]
    assert choose(pool, "uncertainty", 2, labelled=labelled)[0] == "near-CC"
    assert choose(pool, "diversity", 2, labelled=labelled)[0] == "far-CC"
    assert choose(pool, "uncertainty+diversity", 2, labelled=labelled)[0] == "middle-CC"


def test_rare_views_come_first_among_equals_and_patients_take_turns_where_images_are_single() -> None:
    labelled = [Candidate(f"l{n}", f"q{n}", "CC", 0.0, np.zeros(2)) for n in range(3)]
    pool = [Candidate("x", "a", "CC", 0.5, np.ones(2)), Candidate("y", "b", "MLO", 0.5, np.ones(2))]
    assert choose(pool, "uncertainty", 1, labelled=labelled) == ["y"]
    singles = [*case("a", 0.6), *case("b", 0.5), *case("c", 0.4)]
    chosen = choose(singles, "uncertainty", 3, whole_cases=False)
    assert len({image.split("-")[0] for image in chosen}) == 3


def of_four_views(patient: str, uncertainty: float) -> list[Candidate]:
    return case(patient, uncertainty, views="LCC RCC LMLO RMLO")


@pytest.mark.parametrize("whole_cases", [True, False])
def test_an_image_of_unknown_view_is_chosen_for_its_uncertainty_alone(whole_cases: bool) -> None:
    labelled = [image for n in range(50) for image in of_four_views(f"done {n}", 0.0)]
    unknown = [Candidate(f"u{n}", f"u{n}", "", 0.02, np.ones(2)) for n in range(5)]
    pool = [image for n in range(10) for image in of_four_views(f"p{n}", 0.6)]
    chosen = choose([*pool, *unknown], "uncertainty", 40, labelled=labelled, whole_cases=whole_cases)
    assert not {image for image in chosen if image.startswith("u")}
    unknown = [replace(image, uncertainty=0.7) for image in unknown]
    assert choose([*pool, *unknown], "uncertainty", 1, labelled=labelled, whole_cases=whole_cases)[0].startswith("u")
    assert choose(unknown, "uncertainty", 9) == choose(unknown, "uncertainty", 5)  # of no known view at all


@pytest.mark.parametrize(("uncertainty", "first"), [(0.16, "p"), (0.22, "x"), (0.3, "x")])
def test_a_view_that_is_new_counts_for_two_and_no_more(uncertainty: float, first: str) -> None:
    """200 labelled images have four views evenly; a fifth view that is new counts for 2, the four for 0.8."""
    labelled = [image for n in range(50) for image in of_four_views(f"done {n}", 0.0)]
    pool = [*of_four_views("p", 0.5), Candidate("x", "x", "LXCCL", uncertainty, np.ones(2))]
    assert choose(pool, "uncertainty", 1, labelled=labelled)[0][0] == first


def test_a_rare_view_goes_before_one_that_lies_a_little_farther_away() -> None:
    def at(place: float, view: str) -> Candidate:
        return Candidate(f"{place} {view}", f"{place} {view}", view, 0.5, np.array([place, 0.0]))

    labelled = [Candidate(f"done {n}", "done", "CC", 0.0, np.zeros(2)) for n in range(3)]
    assert choose([at(1.0, "CC"), at(0.9, "MLO")], "diversity", 1, labelled=labelled) == ["0.9 MLO"]
    beside = [at(0.0, "CC"), at(1.0, "CC"), at(-0.9, "MLO")]  # the first one is in the middle
    assert choose(beside, "diversity", 2) == ["0.0 CC", "-0.9 MLO"]


@pytest.mark.parametrize("seed", range(8))
def test_among_the_most_uncertain_it_goes_as_if_there_were_no_others(seed: int) -> None:
    random = np.random.default_rng(seed)
    places, views = random.normal(size=(18, 2)), random.choice(["CC", "MLO", "ML"], 18)
    pool = [
        Candidate(f"{n}", f"{n}", view, 0.9 if n % 2 else 0.001, place)
        for n, (place, view) in enumerate(zip(places, views, strict=True))
    ]
    labelled = [Candidate(view, "done", view, 0.0, np.zeros(2)) for view in ("CC", "MLO", "ML")]
    uncertain = [candidate for candidate in pool if candidate.uncertainty == 0.9]
    found = choose(pool, "uncertainty+diversity", 3, labelled=labelled)
    assert found == choose(uncertain, "diversity", 3, labelled=labelled)


def test_images_without_scores_come_last_and_at_random() -> None:
    pool = [*case("a", None), *case("b", 0.1), *case("c", None), *case("d", None)]
    orders = {tuple(choose(pool, strategy, 8, seed=seed)) for strategy in STRATEGIES[1:] for seed in range(8)}
    assert {order[:2] for order in orders} == {("b-CC", "b-MLO")}
    assert len(orders) > 3


def test_random_depends_on_the_seed_alone_and_reaches_everybody() -> None:
    pool = [candidate for patient in "abcdef" for candidate in case(patient, 0.1)]
    bare = [replace(candidate, uncertainty=None, embedding=None) for candidate in pool]
    first = [choose(pool, "random", 1, seed=seed)[0] for seed in range(40)]
    assert first == [choose(bare, "random", 1, seed=seed)[0] for seed in range(40)]
    assert len(set(first)) == 6


def test_an_empty_pool_gives_nothing_and_an_unknown_strategy_is_refused() -> None:
    assert all(choose([], strategy, 3) == [] for strategy in STRATEGIES)
    with pytest.raises(ValueError, match="strategy"):
        choose([], "best", 3)
