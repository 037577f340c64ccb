"""The papers' networks and what they are compared with; no training, no pre-processing."""

from monai_mammo.networks.resnet34_parb_kan import ResNet34PARBKAN
from monai_mammo.networks.respam_unet import ResPAMUNet

__all__ = ["ResNet34PARBKAN", "ResPAMUNet"]
