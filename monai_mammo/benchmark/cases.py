"""Image, truth and predictions side by side: a system's best, median and worst case, none chosen by hand."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_mammo.benchmark.plan import OWN
from monai_mammo.benchmark.results import Entrant
from monai_mammo.bootstrap import Record
from monai_mammo.dicom.reader import read_mammogram, read_mask
from monai_mammo.pictures import GREY, YELLOW, captioned, outlined
from monai_mammo.regions import bounding_box, fit_region

HEIGHT = 250
_GAP = 4
_CONTEXT = 0.6
"""Share of a lesion's side that is shown around it: three times what the network sees."""


def chosen(records: Sequence[Record]) -> dict[str, int]:
    """Indices of the best, the median and the worst lesion by Dice; fewer where there are fewer lesions."""
    lesions = [index for index, record in enumerate(records) if record["tp"] + record["fn"] > 0]
    order = sorted(lesions, key=lambda index: -dice(records[index]))
    if not order:
        return {}
    found = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    return {name: index for position, (name, index) in enumerate(found.items()) if position < len(order)}


def dice(record: Record) -> float:
    """Dice of one image's pixel counts."""
    return 2 * record["tp"] / max(1, 2 * record["tp"] + record["fp"] + record["fn"])


def sheet(entrants: Sequence[Entrant], entries: Sequence[Mapping[str, Any]], folder: Path, whole: bool) -> bytes | None:
    """A PNG: a row for each of the first system's best, median and worst case, then every system's mask for it.

    Args:
        entrants: systems; of each, the first seed is shown.
        entries: the datalist's, in the records' order.
        folder: that the entries' paths are relative to.
        whole: whether the whole mammogram is shown, not the lesion's surroundings.

    Returns:
        None where no masks were kept or the images are no longer there.
    """
    first = {entrant.name: min(entrant.records) for entrant in entrants}
    leading = entrants[0]
    records = leading.records[first[leading.name]]
    rows = []
    for name, index in chosen(records).items():
        files = [folder / str(entries[index][key]) for key in ("image", "label")]
        masks = [_mask_file(entrant, first[entrant.name], index) for entrant in entrants]
        if not all(file.is_file() for file in files) or any(mask is None for mask in masks):
            return None
        scores = [dice(entrant.records[first[entrant.name]][index]) for entrant in entrants]
        titles = [entrant.title for entrant in entrants]
        rows.append(_row(name, files, [m for m in masks if m is not None], titles, scores, entries[index], whole))
    return _png(rows) if rows else None


def _mask_file(entrant: Entrant, seed: int, index: int) -> Path | None:
    name = entrant.records[seed][index].get("mask")
    file = entrant.folders[seed] / "tests" / OWN / str(name)
    return file if name and file.is_file() else None


def _row(
    case: str,
    files: Sequence[Path],
    masks: Sequence[Path],
    titles: Sequence[str],
    scores: Sequence[float],
    entry: Mapping[str, Any],
    whole: bool,
) -> list[Image.Image]:
    """The tiles of one case."""
    pixels = read_mammogram(files[0]).pixels
    truth = read_mask(files[1]) > 0
    window = _window(truth, entry, whole)
    shown = _cut(pixels, window)
    shown = shown / max(float(shown.max()), 1e-6)
    tiles = [captioned(outlined(shown, height=HEIGHT), [(case, GREY)])]
    tiles.append(captioned(outlined(shown, [_cut(truth, window)], HEIGHT), [("truth", GREY)]))
    for mask, title, score in zip(masks, titles, scores, strict=True):
        marked = _cut(np.asarray(Image.open(mask)) > 0, window)
        lines = [(title, GREY), (f"Dice {score:.2f}", GREY)]
        tiles.append(captioned(outlined(shown, [marked], HEIGHT), lines))
    return tiles


def _window(truth: np.ndarray, entry: Mapping[str, Any], whole: bool) -> Sequence[int]:
    everything = [0, 0, *truth.shape]
    if whole:
        return everything
    return fit_region(entry.get("box") or bounding_box(truth) or everything, (1, 1), _CONTEXT)


def _cut(array: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """The window of an image, zero where it reaches beyond it."""
    row0, column0, row1, column1 = window
    before, after = (max(0, -row0), max(0, -column0)), (max(0, row1 - array.shape[0]), max(0, column1 - array.shape[1]))
    padded = np.pad(array, list(zip(before, after, strict=True)))
    return padded[row0 + before[0] : row1 + before[0], column0 + before[1] : column1 + before[1]]


def _png(rows: Sequence[Sequence[Image.Image]]) -> bytes:
    """A sheet in cells of one width: greys of 64 levels and the outline's yellow, so that it stays small."""
    width = max(tile.width for row in rows for tile in row)
    size = (len(rows[0]) * (width + _GAP) - _GAP, len(rows) * (HEIGHT + _GAP) - _GAP)
    paper = Image.new("RGB", size)
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            left = column * (width + _GAP) + (width - tile.width) // 2
            paper.paste(tile, (left, number * (HEIGHT + _GAP)))
    colours = np.asarray(paper).astype(int)
    coloured = np.ptp(colours, axis=2) > 40
    indexed = Image.fromarray(np.where(coloured, 64, colours.mean(axis=2) // 4).astype(np.uint8), "P")
    indexed.putpalette([level for grey in range(0, 256, 4) for level in (grey,) * 3] + list(YELLOW))
    content = io.BytesIO()
    indexed.save(content, "PNG", optimize=True)
    return content.getvalue()
