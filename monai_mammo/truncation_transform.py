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

from monai_mammo.datasets.truncation import already_cut, breast_of, make_sample
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.regions import breast_mask

_KEPT = ("filename_or_obj", "view", "laterality")


class CompleteBreastd(Transform):
    """Put under `breast_key` what all samples of a complete mammogram start from; it is the part worth caching.

    Args:
        image_key: the mammogram, (1, rows, columns) in [0, 1].
        view_key: where the view (CC or MLO) is; without it, the image's metadata say.
        mask_key: (1, rows, columns) outline of the breast, if there is one; found by `breast_mask` otherwise.
        size: rows and columns of the samples.
        breast_key: where the result goes.

    Raises:
        MammogramError: the mammogram is cut already, or no sample can be made of it; names its file.
    """

    def __init__(
        self,
        image_key: str = "image",
        view_key: str = "view",
        mask_key: str | None = None,
        size: int = 512,
        breast_key: str = "breast",
    ) -> None:
        self.image_key, self.view_key, self.mask_key, self.breast_key = image_key, view_key, mask_key, breast_key
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the breast."""
        d = dict(data)
        image = d[self.image_key]
        meta = image.meta if isinstance(image, MetaTensor) else {}
        view = str(d.get(self.view_key) or meta.get("view", ""))
        pixels = np.asarray(convert_to_numpy(image)[0])
        mask = breast_mask(pixels) if self.mask_key is None else np.asarray(convert_to_numpy(d[self.mask_key])[0]) > 0
        try:
            cut = already_cut(mask, view)
            if cut is not None:
                remedy = "Leave it out: truncation needs complete mammograms"
                raise MammogramError("mammogram", f"it is not complete as it is ({cut})", remedy)
            d[self.breast_key] = breast_of(pixels, mask, view, self.size)
        except MammogramError as error:
            raise MammogramError(meta.get("filename_or_obj", "mammogram"), error.reason, error.remedy) from None
        return d


class RandTruncatedd(RandomizableTransform):
    """Make a complete or an incomplete sample of a mammogram that `CompleteBreastd` has seen, and say which.

    The image becomes float32 (1, size, size). Under `label_key` comes 0 or 1; `cause`, `side` and `codes` (both joined
    by "+") and `lost` say the rest, as in `datasets.truncation.Sample`. Pixels no longer have the original's geometry:
    the affine becomes the identity, of the metadata file, view and side are kept.

    Args:
        image_key: the mammogram.
        label_key: where the class goes.
        size: rows and columns of the sample, the same as of `CompleteBreastd`.
        prob: of an incomplete sample.
        cause: the one cause to use (a key of `datasets.truncation.CAUSES`); drawn if None.
        breast_key: where `CompleteBreastd` put its result, which is taken out.
    """

    def __init__(
        self,
        image_key: str = "image",
        label_key: str = "label",
        size: int = 512,
        prob: float = 0.5,
        cause: str | None = None,
        breast_key: str = "breast",
    ) -> None:
        super().__init__(prob)
        self.image_key, self.label_key, self.breast_key = image_key, label_key, breast_key
        self.size, self.cause = size, cause
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the class and the seed of everything else."""
        super().randomize(data)
        self._seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the image by a sample and add the truth about it."""
        d = dict(data)
        image, breast = d[self.image_key], d.pop(self.breast_key)
        meta = {key: image.meta[key] for key in _KEPT if key in image.meta} if isinstance(image, MetaTensor) else {}
        self.randomize()
        made = make_sample(
            breast, np.random.default_rng(self._seed), self.size, label=int(self._do_transform), cause=self.cause
        )
        d[self.image_key] = MetaTensor(torch.as_tensor(made.pixels)[None], affine=torch.eye(4), meta=meta)
        d[self.label_key] = made.label
        truth = {"cause": made.cause, "side": made.side, "codes": "+".join(made.codes), "lost": made.lost}
        return d | truth
