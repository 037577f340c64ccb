"""A region of an image at another size, and a result put back at its place: tensors. Means of blocks: arrays.

Not here: which region (`monai_mammo.regions`), and MONAI's bookkeeping (`monai_mammo.transforms`). A mammogram has
millions of pixels, so nothing here visits those that do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, embedding_bag

_ROWS_AT_ONCE = 128  # a block that stays in the processor's cache


class Taps(NamedTuple):
    """Which pixels of a line make each new one, and with what weights: both (new pixels, taps)."""

    pixel: torch.Tensor
    weight: torch.Tensor

    def part(self, some: slice) -> Taps:
        """Those of some of the new pixels."""
        return Taps(self.pixel[some], self.weight[some])


def taps_of(start: int, stop: int, size: int, length: int, mode: str, shrink: bool) -> Taps:
    """`size` new pixels over [start, stop) of a line of `length` pixels, with zeros beyond its ends.

    Weighted as torch's `interpolate` does it over such a line; with `shrink` as with its antialiasing. "nearest" is its
    "nearest-exact": what it calls "nearest" moves a mask by half a new pixel against its image.
    """
    extent = stop - start
    if mode == "nearest":
        index = ((2 * torch.arange(size) + 1) * extent // (2 * size))[:, None]  # the pixel that holds the centre
        weight = torch.ones(size, 1)
    else:
        width = max(extent / size, 1.0) if shrink else 1.0
        centre = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * extent / size
        first = (centre - width + 0.5).floor().clamp(min=0)
        index = (first + torch.arange(math.ceil(2 * width) + 1)).long()
        weight = (1 - (index + 0.5 - centre).abs() / width).clamp(min=0)
        weight[index >= extent] = 0
        weight /= weight.sum(dim=1, keepdim=True)
    index = index + start
    weight[(index < 0) | (index >= length)] = 0
    return Taps(index.clamp(0, length - 1), weight.float())


def resample(img: torch.Tensor, rows: Taps, columns: Taps) -> torch.Tensor:
    """One channel (rows, columns) to new rows and columns; the type is kept, whole numbers are rounded.

    Without a padded copy of a region that reaches beyond the image, which would cost more than the rest.
    """
    rows, columns = (Taps(*(each.to(img.device) for each in taps)) for taps in (rows, columns))
    if rows.pixel.shape[1] == columns.pixel.shape[1] == 1:
        inside = (rows.weight * columns.weight.T).to(img.dtype)
        return img[rows.pixel[:, 0]][:, columns.pixel[:, 0]] * inside
    if len(rows.pixel) < len(img):  # first what makes it smaller
        result = _weigh(columns, _weigh(rows, img.float()).T).T
    else:
        result = _weigh(rows, _weigh(columns, img.float().T).T)
    return (result if img.dtype.is_floating_point else result.round()).to(img.dtype)


def _weigh(taps: Taps, lines: torch.Tensor) -> torch.Tensor:
    """Weighted sums of whole lines, in one pass over them."""
    return embedding_bag(taps.pixel, lines.contiguous(), per_sample_weights=taps.weight, mode="sum")


def averaged(pixels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An array (rows, columns) of numbers at another `shape`, float32: means of blocks, which overlap if not whole.

    `monai_mammo.regions.reduced` gives the same but for rounding, without Python's lock. What looks for peaks depends
    on the rounding: on a plateau it decides which pixels are the highest.
    """
    image = torch.from_numpy(np.require(pixels, np.float32, ["C", "W"]))[None]
    return adaptive_avg_pool2d(image, (int(shape[0]), int(shape[1])))[0].numpy()


def put_back(
    img: torch.Tensor, region: Sequence[int], shape: Sequence[int], mode: str
) -> tuple[torch.Tensor, list[int]]:
    """A result of a region at its place in an image of `shape` (rows, columns), 0 elsewhere.

    Weighted as `taps_of` does it with `shrink`, so that of a region smaller than the result every line counts.

    Returns:
        the image, and the box [row0, column0, row1, column1] outside of which it is 0: only there was it computed.
    """
    whole = empty_canvas((img.shape[0], *shape), img.dtype, img.device)
    occupied = (img != 0).any(dim=0).cpu()
    if not occupied.any():
        return whole, [0, 0, 0, 0]
    parts, reach = [], [0, 0, 0, 0]
    for axis in (0, 1):
        start, stop, length = region[axis], region[axis + 2], img.shape[axis + 1]
        taps = taps_of(0, length, stop - start, length, mode, shrink=True)
        touched = (taps.weight * occupied.any(dim=1 - axis)[taps.pixel]).sum(dim=1).nonzero()[:, 0] + start
        if not touched.numel():  # "nearest" skips lines of a result that is larger than its region
            return whole, [0, 0, 0, 0]
        first = min(max(int(touched[0]), 0), shape[axis])
        last = max(min(int(touched[-1]) + 1, shape[axis]), first)
        parts.append(taps.part(slice(first - start, last - start)))
        reach[axis], reach[axis + 2] = first, last
    if reach[0] < reach[2] and reach[1] < reach[3]:
        for channel, result in zip(whole[:, reach[0] : reach[2], reach[1] : reach[3]], img, strict=True):
            for row in range(0, len(channel), _ROWS_AT_ONCE):
                block = slice(row, row + _ROWS_AT_ONCE)
                channel[block] = resample(result, parts[0].part(block), parts[1])
    return whole, reach


def empty_canvas(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU memory that costs nothing before it is written to, which torch does not offer."""
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).reshape(tuple(shape))
