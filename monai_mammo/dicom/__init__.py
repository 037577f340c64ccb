"""Mammograms in, and their masks in and out: what is in a file, read once and in one way for the whole program."""

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.header import MammogramHeader
from monai_mammo.dicom.reader import Mammogram, read_header, read_mammogram, read_mask
from monai_mammo.dicom.segmentation import read_segmentation, write_segmentation

__all__ = [
    "Mammogram",
    "MammogramError",
    "MammogramHeader",
    "read_header",
    "read_mammogram",
    "read_mask",
    "read_segmentation",
    "write_segmentation",
]
