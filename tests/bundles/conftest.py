"""The bundles in their variants: what is run, on which datalist, at which small size."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

SMALL = {"width": 8, "num_workers": 0, "amp": False}


@dataclass
class Case:
    """One way to use a bundle in a test."""

    bundle: str
    datalist: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        return "model_whole.pt" if self.values.get("mode") == "whole" else "model.pt"


CASES = {
    "quality": Case("mammo_quality_classification", "quality", {"size": [64, 64], "batch_size": 8}),
    "roi": Case("mammo_tumor_segmentation", "segmentation_roi", {"mode": "roi", "roi_size": [64, 64], "batch_size": 4}),
    "whole": Case(
        "mammo_tumor_segmentation", "segmentation_whole", {"mode": "whole", "whole_size": [96, 64], "batch_size": 4}
    ),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture
def bundle(case, root, tmp_path) -> Path:
    """A copy of the case's bundle without weights."""
    return copy_of(root / "bundles" / case.bundle, tmp_path)


def copy_of(bundle: Path, folder: Path) -> Path:
    """The bundle without its weights, where a test may write."""
    return shutil.copytree(bundle, folder / bundle.name, ignore=shutil.ignore_patterns("*.pt", "eval"))


def run_config(bundle: Path, files: list[str], run_id: str, workflow_type: str = "train", **values: Any) -> None:
    """What `python -m monai.bundle run` does, in this process."""
    workflow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / file) for file in files],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=str(bundle / "configs" / "logging.conf"),
        workflow_type=workflow_type,
        run_id=run_id,
        bundle_root=str(bundle),
        **values,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
