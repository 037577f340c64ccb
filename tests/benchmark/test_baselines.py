"""What needs no network; what an evaluation keeps of a mask and of its peaks; what a system costs."""

import csv
import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_mammo.benchmark import costs
from monai_mammo.benchmark.baselines import (
    ConstantMask,
    border_rule,
    constant_mask_config,
    fit_constant_mask,
    straight_share,
)
from monai_mammo.benchmark.runs import Run
from monai_mammo.bundles import find_bundle
from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.detections import candidates
from monai_mammo.evaluation import SegmentationReport
from monai_mammo.mask_transforms import HysteresisThresholdd
from monai_mammo.networks import ResNet34PARBKAN

SIZE = (32, 32)


def breast(cut: float = 0.0) -> np.ndarray:
    """Half an ellipse at the left, as a CC view shows it, of which the field shows only a part at the nipple."""
    rows, columns = np.mgrid[:200, :120]
    inside = ((rows - 100) / 80) ** 2 + (columns / 100) ** 2 < 1
    return np.where(inside & (columns < 100 * (1 - cut)), 0.6, 0.0)


def save(folder, name: str, pixels: np.ndarray):
    file = folder / f"{name}.png"
    Image.fromarray((pixels * 255).astype(np.uint8)).save(file)
    return file


def test_a_whole_breast_is_straight_nowhere_but_at_the_chest_wall(tmp_path):
    whole, cut = (straight_share(save(tmp_path, str(share), breast(share)), "CC") for share in (0.0, 0.3))
    assert whole < 0.25 < cut


def test_the_top_counts_in_cc_only(tmp_path):
    """In MLO the pectoral muscle leaves the image there."""
    file = save(tmp_path, "top", breast()[60:])
    assert straight_share(file, "CC") > 0.25 > straight_share(file, "MLO")
    assert straight_share(save(tmp_path, "black", np.zeros((64, 64))), "CC") == 0.0


def test_the_border_rule_learns_its_threshold_and_is_reported_like_a_system(tmp_path):
    entries = [
        {"image": str(save(tmp_path, f"{cut}", breast(cut))), "label": int(cut > 0), "patient": f"P{cut}", "view": "CC"}
        for cut in (0.0, 0.01, 0.2, 0.3, 0.4)
    ]
    entries[1]["label"] = 0
    border_rule(entries, {tmp_path / "out": entries})
    with (tmp_path / "out" / "per_image.csv").open() as file:
        probabilities = [float(row["probability"]) for row in csv.DictReader(file)]
    assert [probability >= 0.5 for probability in probabilities] == [False, False, True, True, True]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["accuracy"]["value"] == 1.0


def constant_mask(name: str, mode: str, phantoms, folder) -> torch.Tensor:
    """Probabilities (2, rows, columns) that a baseline fitted on phantoms gives for every image."""
    config = folder / "config.yaml"
    values = {**constant_mask_config(), f"{mode}_size": list(SIZE), "mode": mode}
    config.write_text(json.dumps(values))
    bundle, weights = find_bundle("segmentation"), folder / "model.pt"
    data = {"bundle_root": str(bundle), "dataset_dir": str(phantoms / f"segmentation_{mode}")}
    fit_constant_mask(name, [bundle / "configs" / "train.yaml", config], data, weights)
    network = ConstantMask(SIZE)
    network.load_state_dict(torch.load(weights, weights_only=True))
    output = network(torch.zeros(3, 3, *SIZE))
    assert output.shape == (3, 2, *SIZE)
    return output.softmax(1)[0]


@pytest.mark.parametrize("name", ["all_foreground", "mean_mask"])
def test_a_constant_mask_is_fitted_through_the_bundles_own_preparation(phantoms, tmp_path, name):
    mask = constant_mask(name, "roi", phantoms, tmp_path)[1] >= 0.5
    if name == "all_foreground":
        assert mask.all()
    else:  # a crop is centred on its lesion, which has a margin of a fifth on each side
        assert mask[SIZE[0] // 2, SIZE[1] // 2] == 1
        assert not mask[0].any()
        assert not mask[:, 0].any()


def test_what_whole_mammograms_ask_of_a_region_leaves_the_mean_mask_as_it_is(phantoms, tmp_path):
    probability = constant_mask("mean_mask", "whole", phantoms, tmp_path)
    peak = ConfigParser.load_config_file(str(find_bundle("segmentation") / "configs" / "evaluate.yaml"))["peak"]
    kept = HysteresisThresholdd("pred", high=peak)({"pred": probability[1:]})["pred"]
    assert probability[1].max() > 0.5
    assert torch.equal(kept, probability[1:])


def probability_map() -> tuple[np.ndarray, np.ndarray]:
    """Two lesions, one of them with two peaks and one with none, and a peak in healthy tissue."""
    label = np.zeros((400, 300), dtype=bool)
    label[50:150, 50:150] = True
    label[300:340, 200:240] = True
    probability = np.zeros(label.shape)
    for (row, column), height in {(70, 70): 0.9, (130, 130): 0.8, (250, 60): 0.7}.items():
        rows, columns = np.ogrid[:400, :300]
        probability += height * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 50)
    return probability, label


def test_the_peaks_of_a_map_are_what_is_marked():
    peaks, lesions = candidates(*probability_map())
    assert lesions == 2
    assert [(round(probability, 1), lesion) for probability, lesion in sorted(peaks, reverse=True)] == [
        (0.9, 1),
        (0.8, 1),
        (0.7, 0),
    ]


def test_peaks_lie_where_they_are_in_large_images_too():
    """The map is looked at at 512 pixels; the lesions are the mask's own pixels."""
    probability, label = (np.kron(array, np.ones((7, 7))) for array in probability_map())
    peaks, lesions = candidates(probability, label)
    assert lesions == 2
    assert sorted(lesion for _, lesion in peaks) == [0, 1, 1]


def marked(shape, *places) -> list[tuple[int, int, float]]:
    """The places of a map (row, column, height) that are peaks, each found as a lesion of its one pixel."""
    probability, label = np.zeros(shape), np.zeros(shape, dtype=bool)
    for row, column, height in places:
        probability[row, column], label[row, column] = height, True
    peaks, lesions = candidates(probability, label)
    assert lesions == len(places)
    assert all(lesion for _, lesion in peaks)
    numbered = sorted(places)  # as lesions are, from above
    return sorted((*numbered[lesion - 1][:2], round(height, 6)) for height, lesion in peaks)


@pytest.mark.parametrize(
    ("places", "peaks"),
    [
        ([(100, 100, 0.1)], 1),
        ([(100, 100, 0.04)], 0),
        ([(100, 100, 0.9), (128, 100, 0.5)], 2),  # 7 % of the longer side apart
        ([(100, 100, 0.9), (116, 100, 0.5)], 1),  # 4 %
        ([(0, 100, 0.9), (200, 299, 0.5)], 2),  # at the borders
    ],
)
def test_peaks_above_a_twentieth_count_that_are_a_twentieth_apart_wherever_they_lie(places, peaks):
    assert marked((400, 300), *places) == sorted(places, key=lambda place: -place[2])[:peaks]


def test_pixels_that_touch_at_a_corner_are_one_lesion():
    assert candidates(np.zeros((40, 40)), np.eye(40, dtype=bool))[1] == 1


def test_a_peak_lies_in_the_middle_of_the_pixels_that_it_is_a_mean_of():
    probability, label = np.zeros((1536, 1536)), np.zeros((1536, 1536), dtype=bool)
    probability[300:303, 600:603] = 1  # one of the 512 x 512 that are looked at
    label[301, 601] = True
    assert candidates(probability, label) == ([(1.0, 1)], 1)


def test_an_empty_map_has_no_peak():
    assert candidates(np.zeros((30, 20)), np.zeros((30, 20), dtype=bool)) == ([], 0)


def test_an_evaluation_keeps_masks_and_peaks(tmp_path):
    probability, label = probability_map()
    report = SegmentationReport("reference", tmp_path, resamples=20, native=True, masks=True, detections=True)
    output = {
        "pred": torch.as_tensor(probability > 0.5)[None],
        "reference": torch.as_tensor(label)[None],
        "probability": torch.as_tensor(probability)[None],
        "image": torch.zeros(1),
        "patient": "P",
    }
    for _ in range(2):  # two lesions of one image are two entries
        report.records.append(report.record(output) | {"image": "image", "patient": "P"})
    report.write(report.records)
    with (tmp_path / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    masks = [np.asarray(Image.open(tmp_path / row["mask"])) for row in rows]
    assert [row["mask"] for row in rows] == ["masks/image_1.png", "masks/image_2.png"]
    assert all((mask == (probability > 0.5)).all() for mask in masks)
    assert rows[0]["lesions"] == "2"
    assert len(rows[0]["candidates"].split()) == 3


def test_costs_are_measured_side_by_side(tmp_path):
    """A wider network has more parameters and products; a convolution's products are known."""
    bundle, systems = find_bundle("quality"), {}
    for width in (4, 8):
        run = Run(tmp_path / str(width), f"width {width}", 0)
        run.folder.mkdir()
        torch.save(ResNet34PARBKAN(2, 3, 2, parb=False, head="linear", width=width).state_dict(), run.weights)
        values = {"parb": False, "head": "linear", "width": width, "size": list(SIZE), "epochs": 3, "amp": False}
        systems[run.system] = (run, values)
    found = costs.measure(bundle, systems, rounds=2)
    narrow, wide = found["systems"].values()
    assert narrow["parameters"] < wide["parameters"]
    assert 2.5 < wide["gmacs"] / narrow["gmacs"] < 4  # four times but in the first layer
    assert narrow["latency_ms_min"] <= narrow["latency_ms"] <= narrow["latency_ms_max"]
    assert found["machine"]["precision"] == "float32"


def test_the_datalists_of_the_phantoms_name_views(phantoms):
    """The border rule needs them."""
    assert {entry["view"] for entry in load_datalist(phantoms / "quality", "test")} == {"CC", "MLO"}
