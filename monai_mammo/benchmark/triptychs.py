"""Image, truth and predictions side by side: a system's best, median and worst case, none chosen by hand."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_mammo.benchmark.results import Entrant
from monai_mammo.dicom.reader import read_mammogram, read_mask_with_affine
from monai_mammo.evaluation import Record
from monai_mammo.pictures import GREY, captioned, outlined
from monai_mammo.regions import bounding_box, fit_region

HEIGHT = 250
_CONTEXT = 0.6
"""Share of a lesion's side that is shown around it: three times what the network sees."""


def cases(records: Sequence[Record]) -> dict[str, int]:
    """Indices of the best, the median and the worst lesion by Dice; fewer where there are fewer lesions."""
    lesions = [index for index, record in enumerate(records) if record["tp"] + record["fn"] > 0]
    order = sorted(lesions, key=lambda index: -dice(records[index]))
    if not order:
        return {}
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    return {name: index for position, (name, index) in enumerate(chosen.items()) if position < len(order)}


def dice(record: Record) -> float:
    """Dice of one image's pixel counts."""
    return 2 * record["tp"] / max(1, 2 * record["tp"] + record["fp"] + record["fn"])


def triptychs(
    entrants: Sequence[Entrant], entries: Sequence[Mapping[str, Any]], folder: Path, whole: bool
) -> bytes | None:
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
    for name, index in cases(records).items():
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
    file = entrant.folders[seed] / "tests" / "test" / str(name)
    return file if name and file.is_file() else None


def _row(
    case: str,
    files: Sequence[Path],
    masks: Sequence[Path],
    titles: Sequence[str],
    scores: Sequence[float],
    entry: Mapping[str, Any],
    whole: bool,
) -> Image.Image:
    pixels = read_mammogram(files[0]).pixels
    truth = read_mask_with_affine(files[1])[0] > 0
    window = _window(truth, entry, pixels.shape, whole)
    shown = pixels[window]
    scale = max(float(shown.max()), 1e-6)
    tiles = [captioned(outlined(shown / scale, height=HEIGHT), [(case, GREY)])]
    tiles.append(captioned(outlined(shown / scale, [truth[window]], HEIGHT), [("truth", GREY)]))
    for mask, title, score in zip(masks, titles, scores, strict=True):
        marked = np.asarray(Image.open(mask)) > 0
        tiles.append(
            captioned(outlined(shown / scale, [marked[window]], HEIGHT), [(title, GREY), (f"Dice {score:.2f}", GREY)])
        )
    row = Image.new("RGB", (sum(tile.width for tile in tiles) + 4 * (len(tiles) - 1), HEIGHT), (127, 127, 127))
    left = 0
    for tile in tiles:
        row.paste(tile, (left, 0))
        left += tile.width + 4
    return row


def _window(truth: np.ndarray, entry: Mapping[str, Any], shape: Sequence[int], whole: bool) -> tuple[slice, slice]:
    box = [0, 0, *shape] if whole else entry.get("box") or bounding_box(truth) or [0, 0, *shape]
    row0, column0, row1, column1 = box if whole else fit_region(box, (1, 1), _CONTEXT)
    return slice(max(0, row0), min(shape[0], row1)), slice(max(0, column0), min(shape[1], column1))


def _png(rows: Sequence[Image.Image]) -> bytes:
    sheet = Image.new(
        "RGB", (max(row.width for row in rows), sum(row.height for row in rows) + 4 * (len(rows) - 1)), (127, 127, 127)
    )
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + 4
    content = io.BytesIO()
    sheet.quantize(64, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()
