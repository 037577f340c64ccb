"""What no network is needed for: the numbers that every system's number must be read beside.

Segmentation: everything is tumour; the mean mask of the training set, wherever it is put. Quality: the breast runs
straight along a free side. All are tested like the systems, on the same entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from torch import nn

from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.datasets.truncation import free_sides
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.evaluation import QualityReport
from monai_mammo.regions import breast_mask

TITLES = {
    "all_foreground": "everything is tumour",
    "mean_mask": "mean mask of the training set",
    "border_rule": "breast runs along a free side",
}
OF_TASK: Mapping[str, tuple[str, ...]] = {
    "segmentation": ("all_foreground", "mean_mask"),
    "quality": ("border_rule",),
}


class ConstantMask(nn.Module):
    """A "network" that gives the same mask for every image.

    Args:
        size: (rows, columns) of the input.

    Its one buffer `logit` (1, 1, rows, columns) is that of tumour; 0 is the threshold of the verdict.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("logit", torch.zeros(1, 1, *size))
        self.logit: torch.Tensor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, 2, rows, columns) of background and tumour."""
        tumour = self.logit.expand(image.shape[0], -1, -1, -1)
        return torch.cat([torch.zeros_like(tumour), tumour], dim=1)


def constant_mask_config() -> dict[str, Any]:
    """What turns the segmentation bundle into a constant mask."""
    return {"network_def": {"_target_": f"{__name__}.ConstantMask", "size": "@size"}}


def fit_constant_mask(name: str, config: Sequence[Path], values: Mapping[str, Any], weights: Path) -> None:
    """Write the state of a :class:`ConstantMask`.

    Args:
        name: `all_foreground`, or `mean_mask`: the share of the training masks that cover a pixel of the input, cut at
            the share that gives the training set the best mean Dice.
        config: the bundle's training config and what changes it.
        values: `bundle_root`, `dataset_dir`.
        weights: the file to write.
    """
    parser = ConfigParser()
    parser.read_config([str(file) for file in config])
    parser.update(dict(values))
    network = parser.get_parsed_content("network_def")
    if name == "all_foreground":
        network.logit.fill_(10.0)
    else:
        prepare = Compose([*parser.get_parsed_content("load"), *parser.get_parsed_content("standardise")])
        entries = load_datalist(values["dataset_dir"], "training")
        masks = torch.stack([prepare(entry)["label"].as_tensor()[0] > 0 for entry in entries])
        network.logit[0, 0] = _cut(masks.float().mean(dim=0), masks)
    torch.save(network.state_dict(), weights)


def _cut(share: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The log odds of a pixel's share, less those of the best threshold, stretched to 10.

    Whole mammograms are judged by the regions of which a network is somewhere sure; a mean is sure of nothing.
    """
    levels = torch.linspace(0.05, 0.95, 19)
    best = max(levels, key=lambda level: _mean_dice(share >= level, masks))
    odds = torch.logit(share.clamp(1e-4, 1 - 1e-4)) - torch.logit(best)
    return odds * (10 / odds.max().clamp(min=1e-3)) + 1e-6  # the threshold itself is tumour


def _mean_dice(mask: torch.Tensor, masks: torch.Tensor) -> float:
    overlap = (mask & masks).sum(dim=(1, 2))
    return float((2 * overlap / (mask.sum() + masks.sum(dim=(1, 2))).clamp(min=1)).mean())


def straight_share(image: str | Path, view: str) -> float:
    """How far a breast runs straight along one of its `free_sides` at most, as where it is cut off."""
    return max(free_sides(breast_mask(read_mammogram(image).pixels), view).values(), default=0.0)


def border_rule(training: Sequence[Mapping[str, Any]], tests: Mapping[Path, Sequence[Mapping[str, Any]]]) -> None:
    """Test the rule "the breast runs along a free side", its threshold learnt from the training entries.

    Args:
        training: entries of a quality datalist.
        tests: entries by the folder that their results go to.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(class_weight="balanced", C=100.0)
    model.fit(_shares(training), [entry["label"] for entry in training])
    for folder, entries in tests.items():
        probabilities = model.predict_proba(_shares(entries))[:, 1]
        records = [
            {
                "label": int(entry["label"]),
                "probability": float(probability),
                "image": Path(entry["image"]).name,
                "patient": str(entry["patient"]),
            }
            for entry, probability in zip(entries, probabilities, strict=True)
        ]
        QualityReport(folder).write(records)


def _shares(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([[straight_share(entry["image"], str(entry.get("view", "")))] for entry in entries])
