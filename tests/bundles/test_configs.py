"""What a bundle says of itself: metadata, required ids, and one description of processing in training and serving."""

import json
from importlib.metadata import version

import jsonschema
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from PIL import Image
from scipy.ndimage import label as connected_components

from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.dicom.errors import MammogramError, cause_of

from .conftest import CASES, SMALL

# The required part of MONAI's metadata schema (meta_schema_20240725), whose own copy is fetched from the network.
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"],
    "properties": {
        "num_channels": {"type": "integer", "minimum": 1},
        "dtype": {"type": "string"},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "patternProperties": {"^[0-9]+$": {"type": "string"}}},
    },
}
SCHEMA = {
    "type": "object",
    "required": [
        *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
        *("required_packages_version", "task", "description", "authors", "copyright", "network_data_format"),
    ],
    "properties": {
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "changelog": {"type": "object", "minProperties": 1},
        "required_packages_version": {"type": "object", "minProperties": 1},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {
                "inputs": {"type": "object", "required": ["image"], "properties": {"image": TENSOR}},
                "outputs": {"type": "object", "required": ["pred"], "properties": {"pred": TENSOR}},
            },
        },
    },
}
BUNDLES = sorted({case.bundle for case in CASES.values()})


@pytest.mark.parametrize("name", BUNDLES)
def test_metadata_follow_the_schema_and_the_installed_versions(root, name):
    metadata = json.loads((root / "bundles" / name / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, SCHEMA)
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["monai_mammo"] == version("monai-mammo")
    assert metadata["monai_version"] == version("monai")


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("file", ["LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"])
def test_the_bundle_has_every_file_of_the_specification(root, name, file):
    assert (root / "bundles" / name / file).stat().st_size > 0


def test_every_property_that_monai_asks_for_is_there(case, bundle, phantoms):
    values = {"bundle_root": str(bundle), "dataset_dir": str(phantoms / case.datalist), **case.values, **SMALL}
    for file, kind in (("train.yaml", "train"), ("inference.yaml", "infer")):
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs" / file),
            meta_file=str(bundle / "configs" / "metadata.json"),
            workflow_type=kind,
            **{
                key: value
                for key, value in values.items()
                if key not in ("batch_size", "num_workers") or kind == "train"
            },
        )
        workflow.initialize()
        assert workflow.check_properties() == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mammo_quality_classification", {"epochs": 50, "batch_size": 64, "learning_rate": 3e-4}),
        ("mammo_tumor_segmentation", {"epochs": 100, "batch_size": 8, "learning_rate": 1e-3, "roi_size": [224, 224]}),
    ],
)
def test_the_papers_hyperparameters_are_the_defaults(root, name, values):
    config = ConfigParser.load_config_file(str(root / "bundles" / name / "configs" / "train.yaml"))
    assert {key: config[key] for key in values} == values


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("mammo_quality_classification", [1]),  # left to right alone: what hangs upside down is no mammogram
        ("mammo_tumor_segmentation", [0, 1]),
    ],
)
def test_training_turns_a_mammogram_upside_down_for_the_segmentation_only(root, name, axes):
    config = ConfigParser.load_config_file(str(root / "bundles" / name / "configs" / "train.yaml"))
    flips = [step for step in config["train"]["augment"] if step["_target_"] == "RandFlipd"]
    assert [step["spatial_axis"] for step in flips] == axes  # of (rows, columns)


def test_the_network_takes_and_gives_what_the_metadata_say(root, case):
    bundle = root / "bundles" / case.bundle
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.yaml"),
        device="cpu",
        bundle_root=str(bundle),
        width=8,
    )


def test_serving_prepares_an_image_as_training_does(case, bundle, phantoms):
    parsers = {}
    for file in ("train.yaml", "inference.yaml"):
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / file))
        parser.update({"bundle_root": str(bundle), "dataset_dir": str(phantoms / case.datalist), **SMALL})
        parser.update({key: value for key, value in case.values.items() if key in parser.get()})
        parsers[file] = parser
    entry = load_datalist(phantoms / case.datalist, "validation")[0]
    trained = parsers["train.yaml"].get_parsed_content("validate#preprocessing")(dict(entry))["image"]
    given = {key: value for key, value in entry.items() if key != "label"}
    served = parsers["inference.yaml"].get_parsed_content("preprocessing")(given)["image"]
    torch.testing.assert_close(served.as_tensor(), trained.as_tensor(), rtol=0, atol=0)
    for key in (
        *(f"network_def#{key}" for key in parsers["inference.yaml"].get("network_def")),
        *(key for key in ("size", "roi_size", "roi_margin", "whole_size") if key in parser.get()),
    ):
        assert parsers["train.yaml"].get(key) == parsers["inference.yaml"].get(key)


@pytest.mark.parametrize("files", [("train.yaml",), ("train.yaml", "evaluate.yaml")])
def test_whatever_a_mask_calls_its_lesions_they_are_tumour(root, phantoms, tmp_path, files):
    configs = root / "bundles" / "mammo_tumor_segmentation" / "configs"
    entry = load_datalist(phantoms / "segmentation_whole", "training")[0]
    with Image.open(entry["label"]) as mask:
        labels = np.zeros((mask.height, mask.width), np.uint8)
    labels[100:120, 40:60], labels[140:200, 50:90] = 2, 7
    Image.fromarray(labels).save(tmp_path / "mask.png")
    for mode in ("roi", "whole"):
        parser = ConfigParser()
        parser.read_config([str(configs / file) for file in files])
        parser.update({"bundle_root": str(tmp_path), "dataset_dir": str(phantoms / "segmentation_whole"), "mode": mode})
        item = parser.get_parsed_content("validate#preprocessing")({**entry, "label": str(tmp_path / "mask.png")})
        assert item["label"].unique().tolist() == [0, 1]
        if "reference" in item:
            assert np.array_equal(item["reference"][0].numpy(), labels > 0)


@pytest.mark.parametrize(
    ("files", "steps"),
    [
        (["train.yaml"], "train#preprocessing"),
        (["train.yaml", "evaluate.yaml"], "validate#preprocessing"),
        (["inference.yaml"], "preprocessing"),
    ],
)
def test_a_mode_that_there_is_not_is_named_with_those_that_there_are(root, files, steps):
    parser = ConfigParser()
    parser.read_config([str(root / "bundles" / "mammo_tumor_segmentation" / "configs" / file) for file in files])
    parser["mode"] = "Roi"
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content(steps)
    assert str(cause_of(caught.value)) == "mode: there is no 'Roi'. Give one of roi, whole."


@pytest.fixture
def draws(case, bundle, phantoms, tmp_path, monkeypatch):
    """Makes four draws of one training image, as a process prepared by the configs' `initialize` has them."""

    def of(*files: str, rank: int = 0, **values) -> torch.Tensor:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / file) for file in files])
        parser.update({"dataset_dir": str(phantoms / case.datalist), "output_dir": str(tmp_path), **case.values})
        parser.update({"device": "cpu", **values})
        parser.get_parsed_content(f"initialize#{len(parser.get('initialize')) - 1}")  # the seeding
        prepare = parser.get_parsed_content("train#preprocessing")
        entry = parser.get_parsed_content("train#dataset").data[0]
        return torch.stack([torch.as_tensor(prepare(dict(entry))["image"]) for _ in range(4)])

    return of


def test_processes_that_train_together_draw_different_samples(draws):
    alone = draws("train.yaml")
    first, second = (draws("train.yaml", "multi_gpu_train.yaml", rank=rank) for rank in (0, 1))
    torch.testing.assert_close(first, alone, rtol=0, atol=0)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("files", [("train.yaml",), ("train.yaml", "multi_gpu_train.yaml")])
def test_a_resumed_run_draws_other_samples_than_its_first_epochs_had(draws, tmp_path, files):
    torch.save({}, tmp_path / "checkpoint_epoch=3.pt")
    torch.testing.assert_close(draws(*files, resume=False), draws(*files), rtol=0, atol=0)
    assert not torch.equal(draws(*files, resume=True), draws(*files))


@pytest.fixture
def parsed(root):
    """The parser of a bundle's configs, with values."""

    def of(bundle: str, *files: str, **values) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(root / "bundles" / bundle / "configs" / file) for file in files])
        parser.update({"device": "cpu", **values})
        return parser

    return of


@pytest.mark.parametrize("name", BUNDLES)
def test_a_training_starts_from_imagenet_weights_unless_it_goes_on(parsed, untrained, tmp_path, name):
    trunk = {
        key: value + 1
        for key, value in untrained(name, width=8).items()
        if key.startswith(("conv1.", "bn1.", "layer")) and ".pam." not in key
    }
    file = tmp_path / "resnet.pth"
    torch.save(trunk, file)
    given = {"width": 8, "pretrained": str(file)}

    def starts_from_it(*files: str, **values) -> bool:
        network = parsed(name, *files, **given, **values).get_parsed_content("network")
        return torch.equal(network.state_dict()["layer2.0.conv2.weight"], trunk["layer2.0.conv2.weight"])

    assert starts_from_it("train.yaml")
    assert not starts_from_it("train.yaml", resumed_from="checkpoint_epoch=3.pt")
    assert not starts_from_it("train.yaml", "evaluate.yaml")


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        (BUNDLES[0], {}, "cannot be read as a PyTorch state dict"),
        (BUNDLES[0], {"pretrained": "nowhere.pth"}, "No such file"),
        (BUNDLES[1], {}, "cannot be read as a PyTorch state dict"),
        (BUNDLES[1], {"network_def": {"_target_": "torch.nn.Identity"}}, "Identity takes no ImageNet weights"),
    ],
)
def test_what_gives_no_imagenet_weights_is_refused(parsed, tmp_path, name, values, reason):
    (tmp_path / "page.pth").write_text("<html>")
    parser = parsed(name, "train.yaml", **{"width": 8, "pretrained": str(tmp_path / "page.pth"), **values})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("network")
    cause = cause_of(caught.value)
    assert isinstance(cause, MammogramError)
    assert reason in str(cause)


def test_a_reading_that_takes_nothing_of_imagenet_weights_is_refused(parsed, tmp_path):
    name, drawn = "mammo_tumor_segmentation", {"width": 8, "reading": "keep"}
    torch.save(parsed(name, "train.yaml", **drawn).get_parsed_content("network").state_dict(), tmp_path / "resnet.pth")
    parser = parsed(name, "train.yaml", width=8, reading="double", pretrained=str(tmp_path / "resnet.pth"))
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("network")
    assert str(cause_of(caught.value)).startswith(f"pretrained: {tmp_path / 'resnet.pth'} does not fit this network")


@pytest.mark.parametrize("wanted", [False, True])
def test_a_training_can_save_memory(parsed, wanted):
    """What is not kept on the way there is counted by what autograd packs."""
    parser = parsed("mammo_tumor_segmentation", "train.yaml", width=8, **({"checkpointing": True} if wanted else {}))
    network, kept = parser.get_parsed_content("network").train(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()), lambda packed: packed):
        network(torch.zeros(2, 3, 64, 64))
    assert (sum(kept) < 2_000_000) == wanted


@pytest.mark.parametrize("values", [{}, {"threshold": 0.3, "peak": 0.6}], ids=["defaults", "others"])
@pytest.mark.parametrize("mode", ["roi", "whole"])
def test_what_is_judged_is_the_mask_that_is_served(root, phantoms, mode, values):
    entry = load_datalist(phantoms / f"segmentation_{mode}", "validation")[0]
    results = []
    for files, which in ((["train.yaml", "evaluate.yaml"], "validate#"), (["inference.yaml"], "")):
        parser = ConfigParser()
        parser.read_config([str(root / "bundles" / "mammo_tumor_segmentation" / "configs" / file) for file in files])
        parser.update({"mode": mode, **values})
        data = parser.get_parsed_content(f"{which}preprocessing")(dict(entry))
        data["pred"] = of_certainties(0.4, 0.7, 0.97, size=data["image"].shape[1:])
        results.append(parser.get_parsed_content(f"{which}postprocessing")(data))
    judged, served = results
    assert judged["pred"].shape[1:] == judged["reference"].shape[1:]
    assert torch.equal(judged["pred"], served["pred"])
    regions = connected_components(served["pred"][0].numpy())[1]
    assert regions == (3 if values else 2) - (mode == "whole")  # one more is below the peak
    if mode == "whole":  # the free-response curve has every threshold, and nothing is doubtful there
        before_the_peak = (judged["probability"] - served["probability"]).max()
        assert before_the_peak == pytest.approx(0.7 - 0.5 if not values else 0.4 - 0.3, abs=0.03)


def of_certainties(*peaks: float, size: torch.Size) -> torch.Tensor:
    """A network's scores (2, rows, columns) with a spot for each probability, one below the other."""
    rows, columns = torch.meshgrid(*(torch.arange(side) / side for side in size), indexing="ij")
    probability = torch.full(size, 1e-4)
    for number, peak in enumerate(peaks):
        distance = ((rows - 0.3 - 0.2 * number) ** 2 + (columns - 0.5) ** 2).sqrt()
        probability = torch.maximum(probability, peak * torch.exp(-((distance / 0.06) ** 2)))
    return torch.stack([torch.zeros(size), torch.logit(probability)])
