"""What the two papers report, as printed. Quoted beside our numbers, never compared with them: the protocols differ.

Paper A: Wang and Cai 2025, table 2 (200 held-out images, siblings of training images among them, epoch chosen on
them). Paper B: ResPAM U-Net, table 1 (held-out files, of which every one has a sibling in training; the rows of the
other systems agree with numbers of the systems' own publications, on other data).
"""

from __future__ import annotations

from collections.abc import Mapping

from monai_mammo.bootstrap import Metrics

PROTOCOL = {
    "quality": "200 images held out at random after augmentation, so that siblings and patients are on both sides; "
    "the epoch was chosen on them",
    "segmentation": "files held out at random after thirteenfold augmentation, so that every lesion is on both sides",
}
"""How each paper's numbers came about, in a line."""

TITLES = {
    "resnet34": "ResNet34",
    "resnet34_parb": "ResNet34 + PARB",
    "resnet34_kan": "ResNet34 + KAN",
    "resnet34_parb_kan": "ResNet34 + PARB + KAN",
    "ds_unet": "DS U-Net",
    "aunet": "AUNet",
    "unet": "U-Net",
    "connected_unets": "Connected-UNets",
    "segnet": "SegNet",
    "connected_segnets": "Connected-SegNets",
    "respam_unet": "ResPAM U-Net",
}
"""The papers' rows by the system's name, in the papers' order."""


def _quality(accuracy: float, precision: float, recall: float, f1: float) -> Metrics:
    return {
        "accuracy": accuracy,
        "precision_incomplete": precision,
        "recall_incomplete": recall,
        "f1_incomplete": f1,
    }


def _overlap(dice: float, iou: float) -> Metrics:
    return {"dice": dice, "iou": iou}


REPORTED: Mapping[str, Mapping[str, Metrics]] = {
    "quality": {
        "resnet34": _quality(0.875, 0.931, 0.810, 0.866),
        "resnet34_parb": _quality(0.880, 0.913, 0.840, 0.874),
        "resnet34_kan": _quality(0.895, 0.925, 0.860, 0.889),
        "resnet34_parb_kan": _quality(0.915, 0.937, 0.890, 0.913),
    },
    "segmentation": {
        "ds_unet": _overlap(0.8270, 0.8570),
        "aunet": _overlap(0.8903, 0.8265),
        "unet": _overlap(0.9047, 0.8479),
        "connected_unets": _overlap(0.9066, 0.8581),
        "segnet": _overlap(0.9052, 0.8530),
        "connected_segnets": _overlap(0.9286, 0.8734),
        "respam_unet": _overlap(0.9420, 0.9076),
    },
}
"""By task and system; shares of one."""

PROPOSED = {"quality": "resnet34_parb_kan", "segmentation": "respam_unet"}
"""What each paper proposes."""

COMPARED = {"quality": ("resnet34", "accuracy", "accuracy"), "segmentation": ("respam_unet", "mean_dice", "dice")}
"""What a paper's claim is about: the system at the other end, our metric and the paper's."""
