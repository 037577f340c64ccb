"""Truncation on the fly: the dictionary transforms around `datasets.truncation`, for training without prepared samples.

What the samples look like, and why both classes come from one chain of steps, stands there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform, Transform
from monai.utils import convert_to_numpy

from monai_mammo.datasets.truncation import CAUSES, already_cut, breast_of, make_sample
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.regions import breast_mask

_KEPT = ("filename_or_obj", "view", "laterality")


class CompleteBreastd(Transform):
    """Put under `breast` what all samples of a complete mammogram start from; it is the part worth caching.

    The mammogram is `image`, (1, rows, columns) in [0, 1], its view (CC or MLO) `view` or else in the image's metadata.

    Args:
        size: rows and columns of the samples.
        mask_key: (1, rows, columns) outline of the breast, if there is one; found by `breast_mask` otherwise.

    Raises:
        MammogramError: the mammogram is cut already, its view is neither CC nor MLO, or no sample can be made of it;
            names its file.
    """

    def __init__(self, size: int, mask_key: str | None = None) -> None:
        self.size, self.mask_key = size, mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the breast."""
        d = dict(data)
        image = d["image"]
        meta = image.meta if isinstance(image, MetaTensor) else {}
        view = str(d.get("view") or meta.get("view", ""))
        pixels = np.asarray(convert_to_numpy(image)[0])
        mask = breast_mask(pixels) if self.mask_key is None else np.asarray(convert_to_numpy(d[self.mask_key])[0]) > 0
        try:
            cut = already_cut(mask, view) if view in CAUSES else None  # of another view `breast_of` says what helps
            if cut is not None:
                remedy = "Leave it out: truncation needs complete mammograms"
                raise MammogramError("mammogram", f"it is not complete as it is ({cut})", remedy)
            d["breast"] = breast_of(pixels, mask, view, self.size)
        except MammogramError as error:
            raise MammogramError(meta.get("filename_or_obj", "mammogram"), error.reason, error.remedy) from None
        return d


class RandTruncatedd(RandomizableTransform):
    """Make a complete or an incomplete sample of a mammogram that `CompleteBreastd` has seen, and say which.

    `image` becomes float32 (1, size, size). Under `label` comes 0 or 1; `cause`, `side` and `codes` (both joined
    by "+") and `lost` say the rest, as in `datasets.truncation.Sample`. Pixels no longer have the original's geometry:
    the affine becomes the identity, of the metadata file, view and side are kept.

    Args:
        size: rows and columns of the sample, the same as of `CompleteBreastd`.
        prob: of an incomplete sample.
        cause: the one cause to use (a key of `datasets.truncation.CAUSES`); drawn if None.
    """

    def __init__(self, size: int, prob: float = 0.5, cause: str | None = None) -> None:
        super().__init__(prob)
        self.size, self.cause = size, cause
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the class and the seed of everything else."""
        super().randomize(data)
        self._seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the image by a sample and add the truth about it."""
        d = dict(data)
        image, breast = d["image"], d.pop("breast")
        meta = {key: image.meta[key] for key in _KEPT if key in image.meta} if isinstance(image, MetaTensor) else {}
        self.randomize()
        made = make_sample(
            breast, np.random.default_rng(self._seed), self.size, label=int(self._do_transform), cause=self.cause
        )
        d["image"] = MetaTensor(torch.as_tensor(made.pixels)[None], affine=torch.eye(4), meta=meta)
        d["label"] = made.label
        truth = {"cause": made.cause, "side": made.side, "codes": "+".join(made.codes), "lost": made.lost}
        return d | truth
