"""From a map of probabilities to places: what a detection is counted by. Curves over many images are not drawn here."""

from __future__ import annotations

import numpy as np
from skimage.feature import peak_local_max
from skimage.measure import label as connected_components

from monai_mammo.regions import within
from monai_mammo.resampling import averaged


def candidates(probability: np.ndarray, label: np.ndarray) -> tuple[list[tuple[float, int]], int]:
    """What a radiologist would be pointed to, for the free-response curve (FROC): peaks of the probability.

    The map is averaged down to 512 pixels on its longer side; peaks are at least 5 % of that apart and above 0.05.
    The lesions are the connected components of the mask; touching lesions count as one.

    Args:
        probability: of tumour, (rows, columns) in [0, 1].
        label: the reference mask, of one size with it.

    Returns:
        (probability, number of the lesion that it lies in or 0 for none) of every peak; and how many lesions there are.
    """
    shape = within(probability.shape, 512)
    small = averaged(probability, shape)
    peaks = peak_local_max(small, min_distance=round(0.05 * max(shape)), threshold_abs=0.05, exclude_border=False)
    lesions, number = connected_components(label > 0, return_num=True, connectivity=2)
    scale = np.array(label.shape) / shape
    places = np.minimum(((peaks + 0.5) * scale).astype(int), np.array(label.shape) - 1)
    return [
        (float(small[tuple(peak)]), int(lesions[tuple(place)])) for peak, place in zip(peaks, places, strict=True)
    ], int(number)
