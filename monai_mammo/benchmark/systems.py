"""The systems that are compared: for each name a network, its source, and what it changes in its task's bundle.

Nothing is trained here: a system is the bundle's own `configs/train.yaml` with `network_def`, and where its source
has one the loss, replaced by what `System.overrides` returns.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from monai_mammo.datasets.datalist import Task

__all__ = ["SYSTEMS", "System"]

# How the bundles' configs name what every network takes; the values stay theirs.
_MAPS = {"spatial_dims": 2, "in_channels": "@in_channels", "out_channels": 2}
_SCORES = {"spatial_dims": 2, "in_channels": "@in_channels", "num_classes": 2}
_DROPOUT = {"dropout": "@dropout"}

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
        changes: other values of the bundle's training config by id: its source's loss.
    """

    name: str
    title: str
    task: Task
    reference: str
    network: Mapping[str, Any] = field(repr=False)
    full: Mapping[str, Any] = field(repr=False)
    compact: Mapping[str, Any] = field(repr=False)
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def overrides(self, compact: bool) -> dict[str, Any]:
        """The config values that turn the task's bundle into this system, by id, for `ConfigWorkflow(**values)`.

        `inference.yaml`, which trains nothing, takes `network_def` alone.

        Args:
            compact: the width that a CPU can train, or the published one.
        """
        network = {**self.network, **(self.compact if compact else self.full)}
        return copy.deepcopy({"network_def": network, **self.changes})


def _classifier(name: str, title: str, parb: bool, head: str) -> System:
    network = {"_target_": "monai_mammo.networks.ResNet34PARBKAN", **_SCORES, **_DROPOUT, "parb": parb, "head": head}
    reference = _PAPER_A if parb or head != "linear" else "He et al. 2016, arXiv 1512.03385"
    full = {"width": 64, **({"kan_gain": 0.2} if head in ("kan1", "kan2") else {})}  # a report says so
    return System(name, title, "quality", reference, network, full, compact={"width": 16})


def _respam(name: str, title: str, mode: str, stem: str = "unet") -> System:
    network = {"_target_": "monai_mammo.networks.ResPAMUNet", **_MAPS, **_DROPOUT, "mode": mode, "stem": stem}
    return System(name, title, "segmentation", _PAPER_B, network, {"width": 64}, {"width": 16})


def _other(
    name: str,
    title: str,
    reference: str,
    network: str,
    *,
    width: int = 64,
    changes: Mapping[str, Any] | None = None,
    **more: Any,
) -> System:
    """One of the networks that paper B compares; its compact form is a quarter as wide."""
    definition = {"_target_": f"monai_mammo.networks.{network}", **_MAPS, **_DROPOUT, **more}
    full, compact = {"width": width}, {"width": width // 4}
    return System(name, title, "segmentation", reference, definition, full, compact, changes or {})


def _with_common_loss(system: System, **network: Any) -> System:
    """The same network under the bundle's loss, for a comparison of networks alone."""
    return replace(
        system,
        name=f"{system.name}_common_loss",
        title=f"{system.title}, common loss",
        network={**system.network, **network},
        changes={},
    )


_DS_UNET = _other(
    "ds_unet",
    "DS U-Net",
    "Ravitha Rajalakshmi et al. 2020, 10.1002/ima.22516",
    "DSUNet",
    dropout=0.5,
    deep_supervision=True,
    changes={
        "loss": {"_target_": "monai_mammo.losses.DeepSupervisionLoss", "steps": "$@epochs * len(@train#dataloader)"},
        "run_state#loss": "@loss",  # a resumed run goes on with the sides' weight
    },
)
_CONNECTED_UNETS = _other(
    "connected_unets",
    "Connected-UNets",
    "Baccouche et al. 2021, npj Breast Cancer 7:151",
    "ConnectedUNets",
    width=32,
    changes={"loss": {"_target_": "monai_mammo.losses.DiceIoULoss"}},
)
_IOU_LOSS = {
    "_target_": "monai.losses.DiceLoss",
    "jaccard": True,
    "to_onehot_y": True,
    "softmax": True,
    "include_background": False,
    "smooth_nr": 1.0,
    "smooth_dr": 1.0,
}
_CONNECTED_SEGNETS = _other(
    "connected_segnets",
    "Connected-SegNets",
    "Alkhaleefah et al. 2022, Cancers 14, 4030",
    "ConnectedSegNets",
    changes={"loss": _IOU_LOSS},
)

_PAPERS = (
    _classifier("resnet34", "ResNet34", parb=False, head="linear"),
    _classifier("resnet34_parb", "ResNet34 + PARB", parb=True, head="linear"),
    _classifier("resnet34_kan", "ResNet34 + KAN", parb=False, head="kan2"),
    _classifier("resnet34_parb_kan", "ResNet34 + PARB + KAN", parb=True, head="kan2"),
    _classifier("resnet34_parb_mlp", "ResNet34 + PARB + MLP", parb=True, head="mlp"),
    _classifier("resnet34_parb_kan1", "ResNet34 + PARB + ordinary KAN", parb=True, head="kan1"),
    _classifier("resnet34_parb_kan3", "ResNet34 + PARB + low-rank bilinear KAN", parb=True, head="kan3"),
    _classifier("resnet34_parb_rbf", "ResNet34 + PARB + RBF KAN", parb=True, head="rbf"),
    _respam("respam_unet", "ResPAM U-Net", "expand8"),
    _respam("respam_unet_plain", "ResPAM U-Net without PAM", "plain"),
    # Not the paper's: a third of the cost.
    _respam("respam_unet_light", "ResPAM U-Net, first level at half size", "expand8", "resnet"),
    _respam("respam_unet_light_plain", "ResPAM U-Net without PAM, first level at half size", "plain", "resnet"),
    _respam("respam_unet_concat", "ResPAM U-Net, branches side by side", "concat"),
    _respam("respam_unet_keep", "ResPAM U-Net, unhalved", "keep"),
    _DS_UNET,
    _with_common_loss(_DS_UNET, deep_supervision=False),
    _other("aunet", "AUNet", "Sun et al. 2020, arXiv 1810.10151", "AUNet"),
    _other("unet", "U-Net", "Ronneberger, Fischer, Brox 2015, arXiv 1505.04597", "UNet"),
    _CONNECTED_UNETS,
    _with_common_loss(_CONNECTED_UNETS),
    _other("segnet", "SegNet", "Badrinarayanan, Kendall, Cipolla 2017, arXiv 1511.00561", "SegNet"),
    _CONNECTED_SEGNETS,
    _with_common_loss(_CONNECTED_SEGNETS),
)

# MONAI's own, as they are; their constructors agree in less than ours, so each names its arguments.
_MONAI = (
    System(
        "attention_unet",
        "Attention U-Net",
        "segmentation",
        "Oktay et al. 2018, arXiv 1804.03999",
        {"_target_": "monai.networks.nets.AttentionUnet", **_MAPS, **_DROPOUT, "strides": [2, 2, 2, 2]},
        full={"channels": [64, 128, 256, 512, 1024]},
        compact={"channels": [16, 32, 64, 128, 256]},
    ),
    System(
        "dynunet",
        "nnU-Net's network (DynUNet)",
        "segmentation",
        "Isensee et al. 2021, Nature Methods 18, 203",
        {
            "_target_": "monai.networks.nets.DynUNet",
            **_MAPS,
            **_DROPOUT,
            "kernel_size": [3] * 6,
            "strides": [1, 2, 2, 2, 2, 2],
            "upsample_kernel_size": [2] * 5,
        },
        full={"filters": [32, 64, 128, 256, 512, 512]},
        compact={"filters": [16, 32, 64, 128, 256, 256]},
    ),
    System(
        "segresnet",
        "SegResNet",
        "segmentation",
        "Myronenko 2018, arXiv 1810.11654",
        {"_target_": "monai.networks.nets.SegResNet", **_MAPS, "dropout_prob": "@dropout"},
        full={"init_filters": 32},
        compact={"init_filters": 16},
    ),
    System(
        "flexible_unet",
        "U-Net with an EfficientNet-B0 encoder",
        "segmentation",
        "Tan and Le 2019, arXiv 1905.11946",
        {
            "_target_": "monai.networks.nets.FlexibleUNet",
            **_MAPS,
            **_DROPOUT,
            "backbone": "efficientnet-b0",
            "pretrained": False,
        },
        full={"decoder_channels": [256, 128, 64, 32, 16]},
        compact={"decoder_channels": [128, 64, 32, 16, 8]},  # the encoder is small as it is
    ),
    System(
        "swin_unetr",
        "Swin UNETR",
        "segmentation",
        "Hatamizadeh et al. 2022, arXiv 2201.01266",
        {"_target_": "monai.networks.nets.SwinUNETR", **_MAPS, "drop_rate": "@dropout"},
        full={"feature_size": 48},
        compact={"feature_size": 12},
    ),
    System(
        "efficientnet_b0",
        "EfficientNet-B0",
        "quality",
        "Tan and Le 2019, arXiv 1905.11946",
        {
            "_target_": "monai.networks.nets.EfficientNetBN",
            **_SCORES,
            "model_name": "efficientnet-b0",
            "pretrained": False,
        },
        full={},
        compact={},  # it is small as it is
    ),
    System(
        "densenet121",
        "DenseNet-121",
        "quality",
        "Huang et al. 2017, arXiv 1608.06993",
        {"_target_": "monai.networks.nets.DenseNet121", **_MAPS, "dropout_prob": "@dropout"},
        full={"init_features": 64, "growth_rate": 32},
        compact={"init_features": 32, "growth_rate": 16},
    ),
)

SYSTEMS: dict[str, System] = {system.name: system for system in (*_PAPERS, *_MONAI)}
"""Every system by its name."""
