"""The systems that are compared: for each name a network, its source, and what it changes in its task's bundle.

Nothing is trained here: a system is the bundle's own `configs/train.yaml` with `network_def`, and where its source
has one the loss, replaced by what `System.overrides` returns.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BUNDLES", "SYSTEMS", "System"]

Task = Literal["segmentation", "quality"]

BUNDLES: dict[Task, str] = {
    "segmentation": "mammo_tumor_segmentation",
    "quality": "mammo_quality_classification",
}
"""The bundle of each task, a folder's name."""

# How the bundles' configs name what every network takes; the values stay theirs.
_SEGMENTATION = {"spatial_dims": 2, "in_channels": "@in_channels", "out_channels": 2, "dropout": "@dropout"}
_QUALITY = {"spatial_dims": 2, "in_channels": "@in_channels", "num_classes": 2, "dropout": "@dropout"}

_HE = "He et al. 2016, arXiv 1512.03385"
_PAPER_A = "Wang and Cai 2025"
_PAPER_B = "ResPAM U-Net"


@dataclass(frozen=True)
class System:
    """One row of the comparison.

    Args:
        name: what the command line calls it.
        title: what tables and figures call it.
        task: "segmentation" or "quality".
        reference: where it was published.
        network: `network_def` without the widths, as MONAI's `ConfigParser` reads it.
        full: the arguments that set the published width.
        compact: those of a width that a CPU can train.
        multiple: both sides of the image are multiples of this.
        changes: other values of the bundle's training config by id: its source's loss.
    """

    name: str
    title: str
    task: Task
    reference: str
    network: Mapping[str, Any] = field(repr=False)
    full: Mapping[str, Any] = field(repr=False)
    compact: Mapping[str, Any] = field(repr=False)
    multiple: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def bundle(self) -> str:
        """Name of the bundle's folder."""
        return BUNDLES[self.task]

    def overrides(self, compact: bool) -> dict[str, Any]:
        """The config values that turn the task's bundle into this system, by id, for `ConfigWorkflow(**values)`.

        `network_def` alone is also what `inference.yaml` and `evaluate.yaml` need.

        Args:
            compact: the width that a CPU can train, or the published one.
        """
        network = {**self.network, **(self.compact if compact else self.full)}
        return copy.deepcopy({"network_def": network, **self.changes})


def _quality(name: str, title: str, reference: str, parb: bool, head: str) -> System:
    network = {
        "_target_": "monai_mammo.networks.ResNet34PARBKAN",
        **_QUALITY,
        "parb": parb,
        "head": head,
    }
    return System(name, title, "quality", reference, network, full={"width": 64}, compact={"width": 24})


def _respam(name: str, title: str, mode: str) -> System:
    network = {"_target_": "monai_mammo.networks.ResPAMUNet", **_SEGMENTATION, "mode": mode}
    return System(
        name,
        title,
        "segmentation",
        _PAPER_B,
        network,
        full={"width": 64, "stem": "unet"},
        compact={"width": 16, "stem": "resnet"},
        multiple=32,
    )


def _dynunet(filters: list[int]) -> dict[str, Any]:
    return {"filters": filters}


_ALL = (
    _quality("resnet34", "ResNet34", _HE, parb=False, head="linear"),
    _quality("resnet34_parb", "ResNet34 + PARB", _PAPER_A, parb=True, head="linear"),
    _quality("resnet34_kan", "ResNet34 + KAN", _PAPER_A, parb=False, head="kan2"),
    _quality("resnet34_parb_kan", "ResNet34 + PARB + KAN", _PAPER_A, parb=True, head="kan2"),
    _respam("respam_unet", "ResPAM U-Net", "expand8"),
    _respam("respam_unet_plain", "ResPAM U-Net without PAM", "plain"),
    System(
        "dynunet",
        "nnU-Net's network (DynUNet)",
        "segmentation",
        "Isensee et al. 2021, Nature Methods 18, 203",
        {
            "_target_": "monai.networks.nets.DynUNet",
            **_SEGMENTATION,
            "kernel_size": [3] * 6,
            "strides": [1, 2, 2, 2, 2, 2],
            "upsample_kernel_size": [2] * 5,
        },
        full=_dynunet([32, 64, 128, 256, 512, 512]),
        compact=_dynunet([16, 32, 64, 128, 256, 256]),
        multiple=32,
    ),
)

SYSTEMS: dict[str, System] = {system.name: system for system in _ALL}
"""Every system by its name."""
