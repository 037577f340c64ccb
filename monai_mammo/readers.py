"""MONAI image readers of mammograms and masks, for `LoadImaged`. How they are read is `monai_mammo.dicom.reader`'s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from monai_mammo.dicom.display import ForProcessing
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram, read_mask_with_affine
from monai_mammo.recent import RECENT


class MammogramReader(ImageReader):
    """MONAI image reader of mammograms: `LoadImaged(keys, reader=MammogramReader, ensure_channel_first=True)`.

    Gives float32 (rows, columns), and metadata of plain values whose keys are the same for every file, so that
    MONAI's collate function takes images with and without spacing together: `spacing` is NaN where unknown, texts are
    "" where unknown. No patient identifier is among them.

    Args:
        voi: see `read_mammogram`.
        for_processing: see `read_mammogram`.
    """

    def __init__(self, voi: int = 0, for_processing: ForProcessing = "refuse") -> None:
        super().__init__()
        self.voi = voi
        self.for_processing = for_processing

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Accept every name: the content decides."""
        return True

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> Path:
        """Take one path. The file is opened in `get_data`: LoadImage replaces errors of `read` by a text of its own."""
        return _one_path(data)

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Read the file: (rows, columns) pixels and their metadata.

        Raises:
            MammogramError: as `read_mammogram`.
        """
        if (self.voi, self.for_processing) == (0, "refuse"):
            mammogram = RECENT.read(img)
        else:
            mammogram = read_mammogram(img, voi=self.voi, for_processing=self.for_processing)
        meta = _geometry(mammogram.pixels.shape, mammogram.affine)
        meta |= {
            "spacing": np.asarray(mammogram.spacing or (np.nan, np.nan), dtype=np.float64),
            "view": mammogram.view or "",
            "laterality": mammogram.laterality or "",
            "intent": mammogram.intent or "",
            "format": mammogram.format,
            "sop_instance_uid": mammogram.sop_instance_uid,
            "manufacturer": mammogram.manufacturer,
        }
        return mammogram.pixels, meta


class MaskReader(ImageReader):
    """MONAI image reader of masks, beside `MammogramReader`: `LoadImaged("label", reader=MaskReader, ...)`.

    Gives uint8 labels (rows, columns) as `read_mask`, with the affine that the file states.
    """

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Accept every name: the content decides."""
        return True

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> Path:
        """Take one path; as in `MammogramReader`, the file is opened in `get_data`."""
        return _one_path(data)

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Read the file: (rows, columns) labels and their metadata.

        Raises:
            MammogramError: as `read_mask`.
        """
        labels, affine = read_mask_with_affine(img)
        return labels, _geometry(labels.shape, affine)


def _one_path(data: Sequence[Any] | Any) -> Path:
    paths = ensure_tuple(data)
    if len(paths) != 1:
        raise MammogramError(str(paths[0]) if paths else "", f"{len(paths)} files are given for one image", "Give one")
    return Path(paths[0])


def _geometry(shape: tuple[int, ...], affine: np.ndarray) -> dict[str, Any]:
    return {
        MetaKeys.AFFINE: affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.asarray(shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
    }
