"""Where in a mammogram: the breast's outline, boxes about masks, regions of a wanted shape. Arrays in, arrays out.

A region is `[row0, column0, row1, column1]`, half-open, in pixels of the original image; it may reach beyond the
image. The transforms that use these stand in `monai_mammo.transforms`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, gaussian_filter
from scipy.ndimage import label as connected_components
from scipy.sparse import csr_array
from skimage.filters import threshold_otsu

Region = Sequence[float]

_CORNERS = np.ones((3, 3), dtype=bool)  # pixels that touch at a corner belong together
_NO_AIR = 0.8  # the darkest twentieth over Otsu's split: films have up to 0.61, crops within the breast 0.83 and more
_DISK = np.hypot(*np.ogrid[-2:3, -2:3]) <= 2


def breast_mask(pixels: np.ndarray, working_size: int = 256) -> np.ndarray:
    """Outline the breast: everything that is tissue, pectoral muscle included, labels and tape excluded.

    The image is reduced to `working_size` on its longer side, its square root (which lifts the fatty rim) is
    thresholded halfway between air and the split of Otsu's method, thin structures are opened away and the largest
    component is kept and filled. Air is the level that the darkest twentieth of the image does not exceed: a digitised
    film's air is grey, and what was blacked out on it is darker still. An image without air is all breast.

    Args:
        pixels: float (rows, columns) in [0, 1], background dark.
        working_size: pixels of the longer side at which the outline is found.

    Returns:
        bool (rows, columns); all False for an image without contrast, all True for one without air.
    """
    small = reduced(pixels, working_size)
    small = gaussian_filter(np.sqrt(np.clip(small, 0, 1)), sigma=1, mode="nearest")
    if float(small.max() - small.min()) < 1e-3:
        return np.zeros(pixels.shape, dtype=bool)
    # Otsu parts dense from fatty tissue where there is little background; halfway to air parts tissue from air.
    air, split = np.percentile(small, 5), threshold_otsu(small)
    if air > _NO_AIR * split:
        return np.ones(pixels.shape, dtype=bool)
    tissue = small > 0.5 * (air + split)
    tissue = binary_dilation(binary_erosion(tissue, _DISK, border_value=1), _DISK)
    components, number = connected_components(tissue, _CORNERS)
    if not number:
        return np.zeros(pixels.shape, dtype=bool)
    largest = components == 1 + np.bincount(components.ravel())[1:].argmax()
    return resize_nearest(binary_fill_holes(largest, _CORNERS), pixels.shape)


def reduced(pixels: np.ndarray, longest: int) -> np.ndarray:
    """An image (rows, columns) with at most `longest` pixels on its longer side, float32.

    Pixels are means of blocks, which overlap where they are not whole.
    """
    for wanted in within(pixels.shape, longest):
        number = np.arange(wanted + 1) * len(pixels)
        starts, ends = number[:-1] // wanted, -(-number[1:] // wanted)
        lengths = ends - starts
        first = np.concatenate(([0], np.cumsum(lengths)))
        lines = np.arange(first[-1]) + np.repeat(starts - first[:-1], lengths)
        shares = np.repeat(1 / lengths.astype(np.float32), lengths)
        # One sparse product: without Python's lock, and in one pass over the pixels.
        means = csr_array((shares, lines, first), shape=(wanted, len(pixels))) @ pixels
        pixels = np.ascontiguousarray(means.T)  # turned over, so that the second round reduces the columns
    return pixels.astype(np.float32, copy=False)


def within(shape: Sequence[int], longest: int) -> tuple[int, ...]:
    """A shape in the proportions of an image's, with at most `longest` pixels on its longer side."""
    factor = max(1.0, max(shape) / longest)
    return tuple(max(1, round(side / factor)) for side in shape)


def resize_nearest(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask (rows, columns) at another shape: the value at the nearest pixel centre, so no new values arise."""
    rows, columns = (
        np.minimum(((np.arange(wanted) + 0.5) * side / wanted).astype(int), side - 1)
        for wanted, side in zip(shape, mask.shape, strict=True)
    )
    return mask.take(columns, axis=1).take(rows, axis=0)


def bounding_box(mask: np.ndarray) -> list[int] | None:
    """Extent of a mask as `[row0, column0, row1, column1]` (half-open); None if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return [int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1]


def fit_region(region: Region, size: Sequence[int], margin: float = 0.0) -> list[int]:
    """Widen a region by a margin, then to the aspect ratio of `size`, about its centre.

    Args:
        region: `[row0, column0, row1, column1]`, half-open, in pixels.
        size: (rows, columns) of what the crop is resized to; only the ratio counts.
        margin: share of the region's side added on each of its four sides.

    Returns:
        whole pixels `[row0, column0, row1, column1]`; it may reach beyond the image.
    """
    row0, column0, row1, column1 = (float(value) for value in region)
    height, width = (row1 - row0) * (1 + 2 * margin), (column1 - column0) * (1 + 2 * margin)
    scale = max(height / size[0], width / size[1])
    height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top = round((row0 + row1 - height) / 2)
    left = round((column0 + column1 - width) / 2)
    return [top, left, top + height, left + width]
