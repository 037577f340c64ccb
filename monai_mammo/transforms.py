"""Transforms of mammograms that MONAI has not: regions of interest in original pixels, and their invertible crop.

A region is `[row0, column0, row1, column1]`, half-open, in pixels of the original image; it may reach beyond the
image (which is zero there). Everything else in the bundles' pipelines is MONAI's own. Image arrays are
(channel, rows, columns) in [0, 1] with dark background, as `MammogramReader` gives them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import InvertibleTransform, MapTransform, Transform
from monai.utils import TraceKeys, convert_to_numpy, ensure_tuple_rep
from scipy.ndimage import distance_transform_edt

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.regions import Region, bounding_box, breast_mask, fit_region, reduced, resize_nearest
from monai_mammo.resampling import put_back, resample, taps_of

_LEAST_SIDE = 16  # pixels of an image that could show a breast


class BreastMask(Transform):
    """Array form of :func:`breast_mask`: (1, rows, columns) image to uint8 (1, rows, columns) outline."""

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Outline the breast of the image's first channel."""
        outline = _mask_like(img, breast_mask(first_channel(img))[None].astype(np.uint8))
        return MetaTensor(outline, affine=img.affine) if isinstance(img, MetaTensor) else outline


class BreastMaskd(MapTransform):
    """Add the breast's outline at the image's own pixels under `output_key`.

    Raises:
        MammogramError: no breast is found, as in a black image, or the image is too small to show one: there is nothing
            to judge.
    """

    def __init__(self, keys: KeysCollection, output_key: str = "breast", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_key = output_key
        self.mask = BreastMask()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Outline the breast of the one image key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.output_key] = self.mask(d[key])
            _require_breast(d[key], d[self.output_key])
        return d


class ClearAird(MapTransform):
    """Make everything beside the breast black: air, letters, tape, a film's rim.

    Args:
        keys: mammograms (1, rows, columns).
        rim: share of the longer side about the breast's outline that stays; outlines tend to leave out the skin.
    """

    def __init__(self, keys: KeysCollection, rim: float = 0.03, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.rim = rim

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clear every key; an image in which no breast is found stays as it is."""
        d = dict(data)
        for key in self.key_iterator(d):
            pixels = first_channel(d[key])
            outline = breast_mask(reduced(pixels, 256))
            if outline.any():
                near = distance_transform_edt(~outline) <= self.rim * max(outline.shape)
                image = without_meta(d[key])
                d[key] = _like(d[key], image * _mask_like(image, resize_nearest(near, pixels.shape)))
        return d


class LesionRegiond(Transform):
    """Add the `region` of the `roi` mode: a crop of `image` around one lesion (paper B works on crops).

    In order of preference the lesion is given by a `box`, by a `point` (a square of `point_extent` about it), or by
    its mask `label`, so that training (mask or box) and annotation (a box or a click) share one description.

    Args:
        size: (rows, columns) to which the crop is resized later.
        margin: share of the lesion's side added on each side; 0.2 makes the lesion about 40 % of the crop.
        point_extent: side of the square about a point, as a share of the image's longer side.

    Raises:
        MammogramError: the box or point lies outside the image, is no box, or nothing marks a lesion.
    """

    def __init__(self, size: Sequence[int], margin: float = 0.2, point_extent: float = 0.12) -> None:
        self.size, self.margin, self.point_extent = tuple(size), margin, point_extent

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the region of the lesion."""
        d = dict(data)
        d["region"] = fit_region(self._box(d), self.size, self.margin)
        return d

    def _box(self, d: Mapping[Hashable, Any]) -> Region:
        shape = tuple(d["image"].shape[1:])
        if d.get("box") is not None:
            return self._checked_box(d, self._numbers(d, "box", 4), shape)
        if d.get("point") is not None:
            row, column = self._numbers(d, "point", 2)
            if not (0 <= row < shape[0] and 0 <= column < shape[1]):
                raise _unusable(d["image"], "point", f"the point ({row:g}, {column:g}) lies outside the image {shape}")
            half = self.point_extent * max(shape) / 2
            return [row - half, column - half, row + half, column + half]
        box = bounding_box(first_channel(d["label"]) > 0) if "label" in d else None
        if box is None:
            reason = "nothing marks a lesion (no box, no point, no non-empty mask)"
            raise MammogramError(source_of(d["image"]), reason, "Give a box or a point, or use --mode whole")
        return box

    def _numbers(self, d: Mapping[Hashable, Any], key: str, count: int) -> list[float]:
        try:
            values = [float(value) for value in d[key]]
        except (TypeError, ValueError, OverflowError):
            values = []
        if len(values) != count or not all(map(math.isfinite, values)):
            raise _unusable(d["image"], key, f"the {key} {d[key]} is not {count} numbers")
        return values

    def _checked_box(self, d: Mapping[Hashable, Any], box: list[float], shape: tuple[int, ...]) -> Region:
        if box[0] >= box[2] or box[1] >= box[3]:
            raise _unusable(d["image"], "box", f"{box} is no box [row0, column0, row1, column1]")
        if box[0] >= shape[0] or box[1] >= shape[1] or box[2] <= 0 or box[3] <= 0:
            raise _unusable(d["image"], "box", f"the box {box} lies outside the image {shape}")
        return box


class BreastRegiond(Transform):
    """Add the `region` of the `whole` mode: the box of `image`'s breast, widened to the aspect ratio of `size`.

    Under `breast` it also says where in that region the breast is, so that the letters, tape and marks beside it, of
    which a network may make tumours, can be left out of its input and of its result (MONAI's `MaskIntensityd`): uint8
    (1, rows, columns) at `size`, 1 in its outline and `rim` about it.

    Args:
        size: (rows, columns) to which the crop is resized later.
        margin: share of the breast's side added on each side.
        rim: share of the image's longer side; outlines tend to leave out the skin and a faint nipple.
        require: refuse an image that shows no breast, as whoever asks for its tumours has to know; False takes it
            whole, so that a training does not end for one image.

    Raises:
        MammogramError: with `require`, as :class:`BreastMaskd`.
    """

    def __init__(self, size: Sequence[int], margin: float = 0.02, rim: float = 0.03, *, require: bool = False) -> None:
        self.size, self.margin, self.rim, self.require = tuple(size), margin, rim, require

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the region of the breast, and the breast in it."""
        d = dict(data)
        pixels = first_channel(d["image"])
        outline = breast_mask(reduced(pixels, 256))
        if self.require:
            _require_breast(d["image"], outline)
        box = bounding_box(outline) or [0, 0, *outline.shape]
        steps = [many / few for many, few in zip(pixels.shape, outline.shape, strict=True)]
        region = [math.ceil(value * step) for value, step in zip(box, steps * 2, strict=True)]
        d["region"] = fit_region(region, self.size, self.margin)
        d["breast"] = _mask_like(d["image"], self._breast(outline, steps, d["region"]))[None]
        return d

    def _breast(self, outline: np.ndarray, steps: Sequence[float], region: Sequence[int]) -> np.ndarray:
        if not outline.any():
            return np.ones(self.size, np.uint8)
        near = distance_transform_edt(~outline) <= self.rim * max(outline.shape)
        # Beyond the image there is nothing to leave out, and the input's line of pixels at its edge stays as it is.
        rows, columns = (
            np.clip((start + (np.arange(size) + 0.5) * (stop - start) / size) / step, 0, side - 1).astype(int)
            for start, stop, size, step, side in zip(
                region[:2], region[2:], self.size, steps, outline.shape, strict=True
            )
        )
        return near[np.ix_(rows, columns)].astype(np.uint8)


class WholeRegiond(Transform):
    """Add the `region` of the quality task: `image` in a black frame, widened to the aspect ratio of `size`.

    The frame makes the image's own border visible to a network, whose convolutions cannot tell it from padding, and
    makes served mammograms look like the prepared ones, which have a frame (`datasets.truncation`).

    Args:
        size: (rows, columns) to which the region is brought later.
        frame: width of the frame as a share of the image's side.
    """

    def __init__(self, size: Sequence[int], frame: float = 0.06) -> None:
        self.size, self.frame = tuple(size), frame

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the region of the whole image."""
        d = dict(data)
        d["region"] = fit_region([0, 0, *d["image"].shape[1:]], self.size, self.frame)
        return d


class ResampleRegiond(MapTransform, InvertibleTransform):
    """Bring the `region` of the image to the network's input size; the inverse puts a result back at its own pixels.

    One step from original pixels to input pixels: zeros where the region reaches beyond the image, bilinear with
    antialiasing (a mammogram shrinks some tenfold on its way to a network) or nearest. The affine follows, so that
    every pixel stays where it is in millimetres. The inverse does the same the other way and is zero outside the
    region.

    Args:
        keys: images (channel, rows, columns) of one size.
        size: (rows, columns) of the result.
        mode: "bilinear" or "nearest", for all keys or for each.

    Raises:
        MammogramError: the keys' images differ in size (a mask of another size than its mammogram).
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = tuple(size)
        self.mode = ensure_tuple_rep(mode, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample every key."""
        d = dict(data)
        _require_one_size({str(key): d[key] for key in self.key_iterator(d)})
        region = [int(value) for value in d["region"]]
        for key, mode in self.key_iterator(d, self.mode):
            image, shape = without_meta(d[key]), tuple(d[key].shape[1:])
            lines = [
                taps_of(region[axis], region[axis + 2], self.size[axis], shape[axis], mode, shrink=True)
                for axis in (0, 1)
            ]
            d[key] = _like(d[key], torch.stack([resample(channel, *lines) for channel in image]))
            if isinstance(d[key], MetaTensor):
                info = {"region": region, "mode": mode, "affine": d[key].affine}
                d[key].affine = d[key].affine @ _from_region(region, self.size, len(d[key].affine))
                self.push_transform(d[key], orig_size=shape, extra_info=info)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put every key back where its region lies in an image of the original size."""
        d = dict(data)
        for key in self.key_iterator(d):
            done = self.pop_transform(d[key])
            info, shape = done[TraceKeys.EXTRA_INFO], done[TraceKeys.ORIG_SIZE]
            d[key] = _like(d[key], put_back(without_meta(d[key]), info["region"], shape, info["mode"])[0])
            d[key].affine = info["affine"]
        return d


class ScalePercentilesd(MapTransform):
    """Bring two percentiles of the pixels to 0 and 1, and clip.

    What MONAI's `ScaleIntensityRangePercentilesd` with `b_min=0, b_max=1, clip=True` gives, without sorting all pixels:
    for a network's input of 512 x 320 pixels in a tenth of the time. Where both percentiles are one value, that
    becomes 0 and the rest is clipped as well, which MONAI's leaves out.

    Args:
        keys: images.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
    """

    def __init__(self, keys: KeysCollection, lower: float, upper: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            low, high = (float(each) for each in np.percentile(convert_to_numpy(d[key]), (self.lower, self.upper)))
            d[key] = _like(d[key], ((without_meta(d[key]) - low) / ((high - low) or 1.0)).clamp(0, 1))
        return d


def without_meta(img: NdarrayOrTensor) -> torch.Tensor:
    """A tensor without MONAI's bookkeeping, on the image's device."""
    return img.as_tensor() if isinstance(img, MetaTensor) else torch.as_tensor(img)


def _like(img: NdarrayOrTensor, pixels: torch.Tensor) -> torch.Tensor:
    """New pixels with an image's metadata and history; without them where MONAI's `set_track_meta` says so."""
    if not get_track_meta():
        return pixels
    return MetaTensor(pixels).copy_meta_from(img) if isinstance(img, MetaTensor) else MetaTensor(pixels)


def _mask_like(img: NdarrayOrTensor, mask: np.ndarray) -> torch.Tensor:
    """A mask as a tensor on the image's device."""
    return torch.as_tensor(mask, device=img.device if isinstance(img, torch.Tensor) else None)


def _from_region(region: Sequence[int], size: Sequence[int], rank: int) -> torch.Tensor:
    """The affine (rank, rank) from pixels of a resampled region to pixels of the image that it was taken from."""
    affine = torch.eye(rank, dtype=torch.float64)
    for axis in (0, 1):
        step = (region[axis + 2] - region[axis]) / size[axis]
        affine[axis, axis], affine[axis, -1] = step, region[axis] + (step - 1) / 2  # pixels lie about their centres
    return affine


def first_channel(img: NdarrayOrTensor) -> np.ndarray:
    """Its pixels (rows, columns)."""
    return np.asarray(convert_to_numpy(img)[0])


def source_of(img: Any) -> str:
    """The file that an image came from, for an error message."""
    return str(img.meta.get("filename_or_obj", "image")) if isinstance(img, MetaTensor) else "image"


def _unusable(img: Any, mark: str, reason: str) -> MammogramError:
    form = {"box": "[row0, column0, row1, column1]", "point": "(row, column)"}[mark]
    return MammogramError(source_of(img), reason, f"Give a {mark} inside the image, {form} in its pixels")


def _require_breast(img: NdarrayOrTensor, outline: np.ndarray | torch.Tensor) -> None:
    """Refuse an image (1, rows, columns) that shows no breast, by what `breast_mask` made of it."""
    rows, columns = img.shape[1:]
    if min(rows, columns) < _LEAST_SIDE:
        reason = f"it has only {rows} x {columns} pixels (rows, columns)"
    elif not outline.any():
        reason = "no breast is found in it"
    else:
        return
    raise MammogramError(source_of(img), reason, "Give an image that shows a breast")


def _require_one_size(images: Mapping[str, Any]) -> None:
    if not images:
        return
    first, *others = images
    for other in others:
        if images[other].shape[1:] != images[first].shape[1:]:
            raise MammogramError(
                source_of(images[other]),
                f"the {other} has {tuple(images[other].shape[1:])} pixels (rows, columns), "
                f"the {first} {tuple(images[first].shape[1:])}",
                f"Give a {other} of the {first}'s size",
            )
