"""Transforms of what a segmentation network says: which of it counts, back to the mammogram's own pixels, into a file.

The other way, from a mammogram to a network's input, is `monai_mammo.transforms`.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TraceKeys, convert_to_numpy, convert_to_tensor
from PIL import Image
from skimage.measure import label as connected_components

from monai_mammo.bundles import no_numbers
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.pictures import save_picture
from monai_mammo.resampling import empty_canvas, put_back
from monai_mammo.transforms import ResampleRegiond, first_channel, source_of, without_meta

_ROUNDING = 1e-5  # what resampling a region at one level may add to it, with much to spare


class HysteresisThresholdd(MapTransform):
    """Let a region count only if the network is sure of it somewhere: its other regions stay below the threshold.

    A region is what touches, also at a corner, of pixels at or above `low`; one that nowhere reaches `high` is lowered
    to a little below `low`, so that a mask leaves it out and whoever moves the threshold down still finds it.

    Args:
        keys: probabilities (1, rows, columns) of what is looked for, float.
        high: what a region has to reach; at or below `low` it says nothing.
        low: the threshold of the mask.

    Raises:
        ValueError: another number of channels. With the background's beside it, a lowered pixel's largest channel could
            still be the tumour's.
    """

    def __init__(
        self, keys: KeysCollection, *, high: float, low: float = 0.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.low, self.high = low, high

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Lower the doubtful regions of every key."""
        d = dict(data)
        below = self.low * (1 - _ROUNDING)
        for key in self.key_iterator(d):
            if d[key].shape[0] != 1:
                raise ValueError(f"{key!r} has {d[key].shape[0]} channels: give the one of what is looked for")
            probability = np.asarray(convert_to_numpy(without_meta(d[key])[0]))
            regions, number = connected_components(probability >= self.low, return_num=True, connectivity=2)
            sure = np.zeros(number + 1, dtype=bool)
            sure[regions[probability >= self.high]] = True
            doubtful = (regions > 0) & ~sure[regions]
            d[key] = convert_to_tensor(d[key], track_meta=True).clone()
            d[key][0][torch.as_tensor(doubtful, device=d[key].device)] = below
        return d


class RestoreMaskd(Transform):
    """The mask at the mammogram's own pixels, from a network's probabilities for the region that it was shown.

    As `Invertd` and `AsDiscreted` would make it; but a mammogram has millions of pixels and a tumour few, so only what
    lies around probabilities that count is brought back, to where `ResampleRegiond` noted that it took `image` from.
    Beside the mask come the `probability` at those pixels, float32, and `reach`: `[row0, column0, row1, column1]`,
    outside of which both are 0.

    Args:
        pred_key: probabilities (1, rows, columns) at the network's input pixels; becomes the mask, uint8.
        threshold: the mask is where the probability at the original pixel is at least this.
        negligible: smaller probabilities count as 0.

    Raises:
        MammogramError: `ResampleRegiond` did not make the image, or a further transform moved it, before or after; only
            `Invertd` takes back several. Or a probability is not a number, of which a threshold would make "no tumour".
    """

    def __init__(self, pred_key: str = "pred", threshold: float = 0.5, negligible: float = 0.002) -> None:
        self.pred_key, self.threshold, self.negligible = pred_key, threshold, negligible

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask, the probability and where they are."""
        d = dict(data)
        image = d["image"]
        done = _resampling_of(image)
        info, shape = done[TraceKeys.EXTRA_INFO], done[TraceKeys.ORIG_SIZE]
        found = without_meta(d[self.pred_key])
        if not found.isfinite().all():
            raise no_numbers(source_of(image))
        counting = found.where(found >= self.negligible, 0.0)
        probability, reach = put_back(counting, info["region"], shape, info["mode"])
        mask = empty_canvas(probability.shape, torch.uint8, found.device)
        inside = (slice(None), slice(reach[0], reach[2]), slice(reach[1], reach[3]))
        mask[inside] = (probability[inside] >= self.threshold).to(torch.uint8)
        meta = {**image.meta, "affine": info["affine"]}
        d["probability"], d["reach"] = MetaTensor(probability, meta=meta), reach
        d[self.pred_key] = MetaTensor(mask, meta=meta)
        return d


def _resampling_of(image: Any) -> dict[str, Any]:
    """What `ResampleRegiond` noted of an image that nothing else has moved."""
    name = ResampleRegiond.__name__
    operations = getattr(image, "applied_operations", [])
    names = [done[TraceKeys.CLASS_NAME] for done in operations]
    if name not in names:
        reason = f"it does not say which region the network was shown: no {name} made it"
        raise MammogramError(source_of(image), reason, f"Put {name} first")
    if others := [other for other in names if other != name] or names[1:]:
        reason = f"beside {name} it went through {', '.join(others)}, which this does not take back"
        raise MammogramError(source_of(image), reason, "Use MONAI's Invertd and AsDiscreted")
    return dict(operations[0])


class SaveMaskd(MapTransform):
    """Write a mask as a PNG file (0 and 255) of the mammogram's own rows and columns.

    A mask has its image's path below `data_root` with `.png` behind the whole name (`a/b.dcm` becomes `a/b.dcm.png`),
    so that no two images share one; before it comes the box where the data has one, so that two lesions of one image
    do not either (`a/b.dcm.10-20-60-80.png`). What lies above `data_root` goes to folders called `__above__`.

    The metadata of `image` name its file.

    Args:
        keys: the one mask (1, rows, columns), nonzero is tumour.
        output_dir: made if it does not exist.
        data_root: folder of the images; their folders below it are kept.

    Raises:
        ValueError: more than one key; all masks of an image would have one file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        data_root: str | Path,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"the masks {self.keys} of an image would share a file: give one key")
        self.output_dir, self.data_root = Path(output_dir), data_root

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the mask."""
        d = dict(data)
        below = Path(os.path.relpath(source_of(d["image"]), self.data_root))
        box = d.get("box")
        place = "" if box is None else "." + "-".join(f"{float(value):g}" for value in box)
        folders = ("__above__" if folder == ".." else folder for folder in below.parts[:-1])
        file = self.output_dir.joinpath(*folders, f"{below.name}{place}.png")
        for key in self.key_iterator(d):
            mask = np.where(first_channel(d[key]) > 0, 255, 0).astype(np.uint8)
            save_picture(Image.fromarray(mask), file)
        return d
