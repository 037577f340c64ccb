"""Mammograms in: what is in a file, read once and in one way for the whole program."""

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.header import MammogramHeader
from monai_mammo.dicom.reader import Mammogram, read_header, read_mammogram, read_mask

__all__ = [
    "Mammogram",
    "MammogramError",
    "MammogramHeader",
    "read_header",
    "read_mammogram",
    "read_mask",
]
