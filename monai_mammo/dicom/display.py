"""From stored values to what a radiologist sees: modality and VOI transforms, polarity, padding.

Each step of DICOM's greyscale pipeline (PS3.3 C.11, PS3.4 N.2) acts on one stored value alone. So the pipeline is
evaluated once for every value that the stored bits allow, in float64, and the image is looked up in that table: exact,
and many times faster than float64 arithmetic on every pixel. Nothing here depends on a pixel's neighbours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.header import MammogramHeader, integer, numbers, text

FOR_PROCESSING_PERCENTILES = (1.0, 99.9)
"""Of a FOR PROCESSING image's logarithm: what becomes 0 (air) and what becomes 1 (a few densest pixels saturate)."""

ForProcessing = Literal["refuse", "log"]
Window = tuple[float, float, str]
"""Centre, width and function, which is LINEAR, LINEAR_EXACT or SIGMOID."""
NO_DISPLAY = (
    "the image is FOR PROCESSING, for which DICOM defines no display",
    "Give the FOR PRESENTATION image of the same exposure",
)
"""Reason and remedy where such an image is refused."""

# Indices are widened for the look-up: in blocks that stay in a cache, but few, since each asks for Python's lock.
_ROWS_AT_ONCE = 256
_CORRECT = "Correct the attribute, or export the file again"


def to_display(
    path: Path,
    stored: np.ndarray,
    dataset: Dataset,
    header: MammogramHeader,
    voi: int | Window = 0,
    for_processing: ForProcessing = "refuse",
) -> np.ndarray:
    """Turn stored values into display values.

    Modality LUT or rescale, then the VOI LUT or window, then inversion (if MONOCHROME1 or PresentationLUTShape is
    INVERSE, once even if both), then padding to 0. Without a VOI transform the whole range that the stored bits can
    express becomes [0, 1]: so one stored value gives one brightness in every image of a set, a crop and its mammogram
    included, which the range of the values that happen to occur would not give.

    Args:
        path: for messages.
        stored: uint8 or uint16 (rows, columns), as `read_stored` gives it.
        dataset: the parsed header.
        header: its meaning.
        voi: which of several VOI LUTs or windows, counted from 0; LUTs win over windows. Or a window in their place.
        for_processing: "refuse", or "log" to show a FOR PROCESSING image by `_log_table`.

    Returns:
        float32 (rows, columns) in [0, 1], background dark.

    Raises:
        MammogramError: an intent that needs a decision, no such `voi`, or a transform with impossible values.
    """
    bits = integer(path, dataset, "BitsStored", integer(path, dataset, "BitsAllocated"))
    signed = integer(path, dataset, "PixelRepresentation", 0) == 1
    codes = np.arange(2**bits)
    values = np.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes) if signed else codes
    padding = _padding_codes(path, dataset, values, bits)
    modality, low, high = _modality(path, dataset, values)
    if header.intent == "processing":
        if for_processing != "log":
            raise MammogramError(path, *NO_DISPLAY)
        table = _log_table(path, dataset, header, modality, _histogram(stored, 2**bits, padding))
    else:
        table = _voi(path, dataset, modality, low, high, voi)
        if _inverted(dataset, header):
            table = 1.0 - table
    table[padding] = 0.0
    return _look_up(np.clip(table, 0.0, 1.0).astype(np.float32), stored)


def _inverted(dataset: Dataset, header: MammogramHeader) -> bool:
    return header.photometric_interpretation == "MONOCHROME1" or text(dataset, "PresentationLUTShape") == "INVERSE"


def _look_up(table: np.ndarray, stored: np.ndarray) -> np.ndarray:
    pixels = np.empty(stored.shape, dtype=np.float32)
    for row in range(0, len(stored), _ROWS_AT_ONCE):
        block = slice(row, row + _ROWS_AT_ONCE)
        np.take(table, stored[block], out=pixels[block], mode="clip")
    return pixels


def _histogram(stored: np.ndarray, size: int, padding: np.ndarray) -> np.ndarray:
    counts = sum(
        np.bincount(stored[row : row + _ROWS_AT_ONCE].ravel(), minlength=size)
        for row in range(0, len(stored), _ROWS_AT_ONCE)
    )
    return np.where(padding, 0, counts)


def _padding_codes(path: Path, dataset: Dataset, values: np.ndarray, bits: int) -> np.ndarray:
    """Mark the stored values between PixelPaddingValue and PixelPaddingRangeLimit (either may be the smaller)."""
    ends = [
        int(value)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        for value in numbers(path, dataset, keyword)[:1]
        if value is not None
    ]
    if "PixelPaddingValue" not in dataset or not ends:
        return np.zeros(len(values), dtype=bool)
    # Written as signed though the pixels are unsigned, or the reverse: only the stored bits count.
    ends = [int(values[end & (2**bits - 1)]) for end in ends]
    return (values >= min(ends)) & (values <= max(ends))


def _modality(path: Path, dataset: Dataset, values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Apply the modality transform (PS3.3 C.11.1); give the values and the range that they can take."""
    items = dataset.get("ModalityLUTSequence")
    if items:
        first, lut, bits = _lut(path, items[0], "ModalityLUTSequence", (float(values.min()), float(values.max())))
        return lut[np.clip(values - first, 0, len(lut) - 1)], 0.0, 2.0**bits - 1
    slope = (numbers(path, dataset, "RescaleSlope")[:1] or [1.0])[0]
    intercept = (numbers(path, dataset, "RescaleIntercept")[:1] or [0.0])[0]
    rescaled = values * (slope or 0.0) + (intercept or 0.0)
    low, high = float(rescaled.min()), float(rescaled.max())
    if not low < high < np.inf:
        raise MammogramError(path, "RescaleSlope and RescaleIntercept leave no usable values", _CORRECT)
    return rescaled, low, high


def _voi(path: Path, dataset: Dataset, values: np.ndarray, low: float, high: float, voi: int | Window) -> np.ndarray:
    if not isinstance(voi, int):
        return window(path, values, *voi)
    luts = dataset.get("VOILUTSequence")
    centers, widths = (numbers(path, dataset, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    if not luts and len(centers) != len(widths):
        raise MammogramError(
            path, f"there are {len(centers)} values of WindowCenter but {len(widths)} of WindowWidth", _CORRECT
        )
    choices = len(luts) if luts else len(centers)
    if voi != 0 and not 0 <= voi < choices:
        raise MammogramError(
            path, f"VOI transform {voi} is asked for, but there are {choices}", "Ask for a smaller one"
        )
    if luts:
        first, lut, bits = _lut(path, luts[voi], "VOILUTSequence", (low, high))
        index = np.clip(np.rint(values) - first, 0, len(lut) - 1).astype(np.intp)
        return lut[index] / max(2.0**bits - 1, float(lut.max()))
    if centers:
        center, width = centers[voi], widths[voi]
        if center is None or width is None:
            raise MammogramError(path, "WindowCenter or WindowWidth is left blank", _CORRECT)
        return window(path, values, center, width, text(dataset, "VOILUTFunction").upper() or "LINEAR")
    return (values - low) / (high - low)


def window(path: Path, values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Apply a window (PS3.3 C.11.2.1.2 and C.11.2.1.3) and give values in [0, 1].

    Raises:
        MammogramError: the function is none of LINEAR, LINEAR_EXACT, SIGMOID, or the width is too small for it.
    """
    smallest = {"LINEAR": width >= 1, "LINEAR_EXACT": width > 0, "SIGMOID": width > 0}
    if function not in smallest:
        raise MammogramError(path, "VOILUTFunction is none of LINEAR, LINEAR_EXACT and SIGMOID", _CORRECT)
    if not smallest[function]:
        raise MammogramError(path, f"WindowWidth is {width:g}, which {function} does not allow", _CORRECT)
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 / width * (values - center), -700.0, 700.0)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width == 0.0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def add_window(path: Path, dataset: Dataset) -> None:
    """Write the window that is nearest to an image's VOI LUT into its attributes, if it has a LUT and no window.

    For answers to viewers, not for files: OHIF knows no VOI LUT, and would show such an image by all that its bits can
    hold, flat. Of several LUTs the first counts, as in `to_display`. A LUT that no window comes near to is let be.

    Raises:
        MammogramError: the LUT or the modality transform is not valid.
    """
    luts = dataset.get("VOILUTSequence")
    if not luts or numbers(path, dataset, "WindowCenter"):
        return
    bits = integer(path, dataset, "BitsStored", integer(path, dataset, "BitsAllocated"))
    lowest = -(2 ** (bits - 1)) if integer(path, dataset, "PixelRepresentation", 0) == 1 else 0
    _, low, high = _modality(path, dataset, np.array([lowest, lowest + 2**bits - 1]))
    first, lut, bits = _lut(path, luts[0], "VOILUTSequence", (low, high))
    shown = lut / max(2.0**bits - 1, float(lut.max()))
    if found := _nearest_window(path, first + np.arange(len(lut)), shown):
        center, width, function = found
        dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = f"{center:.1f}", f"{width:.1f}", function


def _nearest_window(path: Path, values: np.ndarray, shown: np.ndarray) -> tuple[float, float, str] | None:
    """Centre, width and function of the window nearest to a LUT; None if it does not rise."""
    inside = (shown > 0.02) & (shown < 0.98)
    if inside.sum() < 2:
        return None
    x, y = values[inside], shown[inside]
    # A line through the LUT, and one through its logit, which is straight where the LUT is a sigmoid.
    (steep, start), (slope, offset) = np.polyfit(x, y, 1), np.polyfit(x, np.log(y / (1 - y)), 1)
    if steep <= 0 or slope <= 0:
        return None
    windows = [(-offset / slope, 4 / slope, "SIGMOID"), ((0.5 - start) / steep + 0.5, 1 / steep + 1, "LINEAR")]
    return min(windows, key=lambda found: np.abs(window(path, values, *found) - shown).max())


def _lut(path: Path, item: Dataset, keyword: str, inputs: tuple[float, float]) -> tuple[int, np.ndarray, int]:
    """Read a look-up table (PS3.3 C.11.1.1): first mapped value, entries as float64, bits of an entry.

    `inputs`: the range of the values that it maps. Files, and readers of implicit VR, give the first one as signed or
    unsigned by the stored pixels, but it belongs to what the rescaling made of them.
    """
    descriptor = [int(value) for value in numbers(path, item, "LUTDescriptor") if value is not None]
    data = item.get("LUTData")
    if len(descriptor) != 3 or data is None or not 8 <= descriptor[2] <= 16:
        raise MammogramError(path, f"{keyword} holds no valid LUTDescriptor and LUTData", _CORRECT)
    entries, first, bits = descriptor[0] or 2**16, descriptor[1], descriptor[2]
    with refusing(path, f"{keyword} holds no valid LUTData", _CORRECT):
        if isinstance(data, bytes):
            # One word an entry; or, for tables of 8 bits, one byte.
            bytewise = bits == 8 and len(data) < 2 * entries
            word = "<u2" if is_little_endian(item) else ">u2"
            data = np.frombuffer(data, np.uint8) if bytewise else np.frombuffer(data[: len(data) // 2 * 2], word)
        lut = np.atleast_1d(np.asarray(data, dtype=np.float64))[:entries]
    if len(lut) < entries:
        raise MammogramError(path, f"{keyword} has {len(lut)} entries, its descriptor says {entries}", _CORRECT)
    low, high = inputs
    if low < 0 and first >= 2**15:
        first -= 2**16
    elif low >= 0 and first < 0 and first + 2**16 <= high:
        first += 2**16
    return first, lut, bits


def is_little_endian(dataset: Dataset) -> bool:
    """Whether a data set, or an item of one, was little endian where it was read; one that was not read counts so."""
    # pydicom 3 and pydicom 2
    read = dataset.original_encoding[1] if hasattr(dataset, "original_encoding") else dataset.read_little_endian
    return read is not False


def _log_table(
    path: Path, dataset: Dataset, header: MammogramHeader, values: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Show a FOR PROCESSING image: the logarithm of the exposure, dense tissue bright, between two percentiles.

    Detectors store a signal proportional to the exposure (or already its logarithm, if PixelIntensityRelationship is
    LOG); attenuation is minus its logarithm. Which end is air is told by PixelIntensityRelationshipSign, else by the
    photometric interpretation. This makes the image legible; it is not a manufacturer's processing.
    """
    if not counts.any():
        raise MammogramError(path, "all pixels are padding", "Give an image with content")
    if text(dataset, "PixelIntensityRelationship").upper() != "LOG":
        values = np.log(np.maximum(values, 1.0))
    sign = integer(path, dataset, "PixelIntensityRelationshipSign", 0)
    if sign == 1 or (sign == 0 and header.photometric_interpretation == "MONOCHROME1"):
        values = -values
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order]) / counts.sum() * 100
    ranks = np.minimum(np.searchsorted(below, FOR_PROCESSING_PERCENTILES), len(order) - 1)
    low, high = values[order][ranks]
    return np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0)
