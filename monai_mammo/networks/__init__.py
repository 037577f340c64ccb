"""The papers' networks and what they are compared with; no training, no pre-processing."""

from monai_mammo.networks.aunet import AUNet
from monai_mammo.networks.connected_unets import ConnectedUNets
from monai_mammo.networks.ds_unet import DSUNet
from monai_mammo.networks.resnet34_parb_kan import ResNet34PARBKAN
from monai_mammo.networks.respam_unet import ResPAMUNet
from monai_mammo.networks.segnets import ConnectedSegNets, SegNet
from monai_mammo.networks.unets import UNet

__all__ = ["AUNet", "ConnectedSegNets", "ConnectedUNets", "DSUNet", "ResNet34PARBKAN", "ResPAMUNet", "SegNet", "UNet"]
