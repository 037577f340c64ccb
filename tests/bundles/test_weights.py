"""The weights that ship: whole, small, plain, and of the networks that the bundles' configs describe."""

import hashlib

import pytest
import torch
from monai.bundle import ConfigParser

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
