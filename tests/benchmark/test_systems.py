"""Every system of the comparison through its own task's bundle: the published size, a training step, a validation."""

import json
import shutil

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_mammo.benchmark.systems import SYSTEMS
from monai_mammo.bundles import BUNDLES

DATALISTS = {"segmentation": "segmentation_roi", "quality": "quality"}
TINY = {
    "segmentation": {"mode": "roi", "roi_size": [64, 64], "batch_size": 2},
    "quality": {"size": [64, 64], "batch_size": 2},
}

# Millions of parameters at the published width, three channels in and one map (two scores) out.
PUBLISHED = {
    "resnet34": 21.29,
    "resnet34_parb": 27.60,
    "resnet34_kan": 21.32,
    "resnet34_parb_kan": 27.64,
    "respam_unet": 61.83,
    "respam_unet_plain": 40.22,
    "unet": 31.11,
    "aunet": 75.48,
    "ds_unet": 31.61,
    "connected_unets": 20.03,
    "segnet": 29.58,
    "connected_segnets": 63.11,
    "attention_unet": 31.74,
    "dynunet": 20.61,
    "segresnet": 6.30,
    "flexible_unet": 7.06,
    "swin_unetr": 25.14,
}

each_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)


def network_of(values):
    return ConfigParser({"in_channels": 3, "dropout": 0.0, **values}).get_parsed_content("network_def")


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_the_full_width_has_the_published_number_of_parameters(name, millions):
    system = SYSTEMS[name]
    values = system.overrides(compact=False)
    if system.task == "segmentation":
        values["network_def"]["out_channels"] = 1
    with torch.device("meta" if name != "swin_unetr" else "cpu"):
        network = network_of(values)
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.006)


def test_overrides_are_plain_data_and_each_call_gives_its_own():
    for system in SYSTEMS.values():
        values = system.overrides(compact=True)
        assert json.loads(json.dumps(values)) == values
        values["network_def"].clear()
        assert system.overrides(compact=True)["network_def"]["_target_"]


@pytest.fixture(scope="module")
def bundles(root, tmp_path_factory):
    """The bundles without weights, where runs may write."""
    folder = tmp_path_factory.mktemp("bundles")
    ignored = shutil.ignore_patterns("*.pt", "eval")
    return shutil.copytree(root / "bundles", folder / "bundles", ignore=ignored)


_OF_EACH = "next(entry for entry in load_datalist(@dataset_dir, 'training', 'quality') if entry['label'] == label)"
VALIDATED = {  # one batch; by a single class nothing could be chosen
    "segmentation": {"validate#evaluator#epoch_length": 1},
    "quality": {"validate#dataset#data": f"$[{_OF_EACH} for label in (0, 1)]"},
}


@pytest.mark.slow
@each_system
def test_one_step_of_training_and_one_of_validation_run_through_the_bundle(system, bundles, phantoms, tmp_path):
    bundle = bundles / BUNDLES[system.task]
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=str(bundle / "configs" / "logging.conf"),
        workflow_type="train",
        run_id="training",
        bundle_root=str(bundle),
        dataset_dir=str(phantoms / DATALISTS[system.task]),
        output_dir=str(tmp_path / "run"),
        ckpt_dir=str(tmp_path),
        epochs=1,
        num_workers=0,
        cache_rate=0.0,
        amp=False,
        **{"train#trainer#epoch_length": 1, **VALIDATED[system.task]},
        **TINY[system.task],
        **system.overrides(compact=True),
    )
    workflow.initialize()
    before = {name: value.clone() for name, value in workflow.parser.get_parsed_content("network").state_dict().items()}
    workflow.run()
    network = workflow.parser.get_parsed_content("network")
    loss = workflow.parser.get_parsed_content("train#trainer").state.output[0]["loss"]
    assert torch.isfinite(torch.as_tensor(loss))
    assert workflow.parser.get_parsed_content("validate#evaluator").state.metrics
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    state = torch.load(tmp_path / "run" / "checkpoint_epoch=1.pt", weights_only=False)
    assert ("loss" in state) == ("run_state#loss" in system.overrides(compact=True))


@pytest.mark.parametrize("name", [name for name, system in SYSTEMS.items() if system.task == "segmentation"])
def test_every_network_gives_one_map_of_the_images_size_outside_of_training(name):
    system = SYSTEMS[name]
    network = network_of(system.overrides(compact=True)).eval()
    image = torch.zeros(1, 3, 64, 96)
    with torch.no_grad():
        assert network(image).shape == (1, 2, 64, 96)
