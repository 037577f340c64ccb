"""The weights that ship: whole, small, plain, and of the networks that the bundles' configs describe."""

import hashlib

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.predictor import Predictor

SHIPPED = (
    ("mammo_quality_classification", "model.pt"),
    ("mammo_tumor_segmentation", "model.pt"),
    ("mammo_tumor_segmentation", "model_whole.pt"),
)
LARGEST = 25 * 2**20


@pytest.mark.parametrize(("bundle", "name"), SHIPPED)
def test_weights_are_the_ones_that_the_sums_name(root, bundle, name):
    models = root / "bundles" / bundle / "models"
    sums = dict(line.split()[::-1] for line in (models / "SHA256SUMS").read_text().splitlines())
    assert sums[name] == hashlib.sha256((models / name).read_bytes()).hexdigest()
    assert (models / name).stat().st_size <= LARGEST


@pytest.mark.parametrize(("bundle", "name"), SHIPPED)
def test_weights_are_a_plain_state_dict_of_the_served_network(root, bundle, name):
    config = ConfigParser.load_config_file(str(root / "bundles" / bundle / "configs" / "inference.yaml"))
    state = torch.load(root / "bundles" / bundle / "models" / name, weights_only=True)
    parser = ConfigParser(config)
    parser.get_parsed_content("network_def").load_state_dict(state, strict=True)
    assert all(tensor.isfinite().all() for tensor in state.values())


def breast_of_arithmetic(rows, columns):
    """A bright bump in a half disc with fine waves over it, (1, 3, rows, columns) between 0 and 1."""
    y = (torch.arange(rows, dtype=torch.float64) / rows)[:, None]
    x = torch.arange(columns, dtype=torch.float64) / columns
    breast = (1 - ((y - 0.5) / 0.45) ** 2 - (x / 0.8) ** 2).clamp(0, 1)
    mass = torch.exp(-((y - 0.4) ** 2 + (x - 0.3) ** 2) / 0.01)
    waves = torch.cos(31 * y) * torch.cos(40 * x)
    return (0.5 * breast + 0.4 * mass + 0.1 * waves).clamp(0, 1).float().expand(1, 3, -1, -1)


# Scores of the two classes, and of the tumour at rows 5, 23 and 41 and columns 7 and 34; of new weights they are new.
SAID = {
    SHIPPED[0]: [[0.2049, -0.8077]],
    SHIPPED[1]: [[-4.8241, -4.3234], [-4.2978, -4.8028], [-4.2694, -4.2219]],
    SHIPPED[2]: [[-2.7139, -2.4332], [-2.4262, -2.3380], [-4.0155, -3.0125]],
}


@pytest.mark.parametrize(("bundle", "name"), SHIPPED)
def test_weights_still_say_what_they_said(root, bundle, name):
    """What weights learned holds for one definition of their network; another one loads them just as well."""
    parser = ConfigParser(ConfigParser.load_config_file(str(root / "bundles" / bundle / "configs" / "inference.yaml")))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(root / "bundles" / bundle / "models" / name, weights_only=True))
    with torch.inference_mode():
        scores = network(breast_of_arithmetic(64, 96))
    found = scores if scores.ndim == 2 else scores[0, 1, 5:42:18, 7:35:27]
    torch.testing.assert_close(found, torch.tensor(SAID[bundle, name]), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def lesions(phantoms):
    """Masses of phantoms that the weights have not seen, with their boxes."""
    return [
        entry for section in ("training", "test") for entry in load_datalist(phantoms / "segmentation_roi", section)
    ]


def test_a_box_about_a_phantoms_mass_gives_its_mask(root, lesions):
    predictor = Predictor(root / "bundles" / "mammo_tumor_segmentation")
    dice = []
    for entry in lesions[:6]:
        pred = np.asarray(predictor(entry["image"], box=entry["box"])["pred"])[0] > 0
        truth = np.asarray(Image.open(entry["label"])) > 0
        dice.append(2 * (pred & truth).sum() / (pred.sum() + truth.sum()))
    assert np.mean(dice) > 0.8


@pytest.mark.parametrize(
    ("bundle", "mode", "what"),
    [
        ("mammo_quality_classification", {}, "pred"),
        ("mammo_tumor_segmentation", {"mode": "roi"}, "probability"),
        ("mammo_tumor_segmentation", {"mode": "whole"}, "probability"),
    ],
)
def test_bfloat16_says_what_float32_says(root, lesions, bundle, mode, what):
    given = {"box": lesions[0]["box"]} if mode.get("mode") == "roi" else {}
    plain, fast = (
        torch.as_tensor(
            Predictor(root / "bundles" / bundle, overrides={**mode, "amp": amp})(lesions[0]["image"], **given)[what]
        )
        for amp in (False, True)
    )
    said = (plain > 0.002) | (fast > 0.002)
    assert said.any()
    assert (plain - fast)[said].square().mean().sqrt() <= 2e-2
