"""What several test files share: where the samples are, the bundles, and one small phantom study set."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real mammograms; the test is skipped where there is none."""
    folder = os.environ.get("MAMMO_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MAMMO_TEST_DATA does not name a folder of real mammograms")
    return Path(folder)


@pytest.fixture(scope="session")
def untrained(root) -> Callable[..., dict[str, torch.Tensor]]:
    """Makes the state dict of a bundle's network before any training: `untrained(bundle's name, width=8)`."""
    from monai.bundle import ConfigParser

    def make(bundle: str, **values: Any) -> dict[str, torch.Tensor]:
        parser = ConfigParser()
        parser.read_config(str(root / "bundles" / bundle / "configs" / "inference.yaml"))
        parser.update(values)
        torch.manual_seed(0)
        return parser.get_parsed_content("network_def").state_dict()

    return make


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Six phantom patients with datalists for both tasks; tests must not write into it."""
    from monai_mammo.datasets import phantom

    out = tmp_path_factory.mktemp("phantoms")
    phantom.write_phantoms(out, patients=6, seed=7, rows=320, columns=256)
    phantom.segmentation_datalist(out)
    phantom.quality_datalist(out)
    for datalist in out.glob("*/dataset.json"):
        _forget_some(datalist)
    return out


def image_of(mask: np.ndarray) -> MetaTensor:
    """Pixels (rows, columns) as `LoadImaged` gives them."""
    return MetaTensor(torch.as_tensor(mask, dtype=torch.float32)[None], meta={"filename_or_obj": "film.png"})


def _forget_some(datalist: Path) -> None:
    """Entries of real data know different things of their images: every other one forgets its side and says more."""
    document = json.loads(datalist.read_text())
    for section in ("training", "validation", "test"):
        for entry in document[section][::2]:
            del entry["laterality"]
            entry["density"] = "b"
    datalist.write_text(json.dumps(document))
