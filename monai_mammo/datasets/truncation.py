"""Incomplete mammograms made from complete ones: a window on the mammogram whose one side cuts into the breast.

Complete images are windowed in the same way, with the same resampling and the same spread of margins, so that the
two classes differ by what is missing and not by how they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_mammo.transforms import bounding_box

CAUSES = {"CC": ("nipple", "superior", "inferior"), "MLO": ("nipple", "inferior")}
"""Sides of the image at which tissue can be lost, by view; in MLO the breast always reaches the upper border."""

FLAT = 0.25
"""Share of its extent over which a breast may run along a straight edge before it counts as cut there."""


@dataclass(frozen=True)
class Window:
    """A part of a mammogram and what it leaves out.

    `region` is `[row0, column0, row1, column1]`, half-open; `cause` the side that is cut, empty for a complete
    image; `lost` the share of the breast's area that is outside.
    """

    region: list[int]
    cause: str
    lost: float


def flat_edges(mask: np.ndarray) -> dict[str, float]:
    """Share of each side of the breast's bounding box along which the breast runs, in its outer hundredth.

    A rounded outline touches its box in a small part; the chest wall, and a side that is cut off, in a large one.

    Returns:
        `left`, `right`, `top`, `bottom`, each in [0, 1]; empty for an empty mask.
    """
    box = bounding_box(mask)
    if box is None:
        return {}
    breast = mask[box[0] : box[2], box[1] : box[3]]
    rows, columns = (max(1, round(side / 100)) for side in breast.shape)
    return {
        "left": float(breast[:, :columns].mean()),
        "right": float(breast[:, -columns:].mean()),
        "top": float(breast[:rows].mean()),
        "bottom": float(breast[-rows:].mean()),
    }


def already_cut(mask: np.ndarray, view: str) -> str | None:
    """The side on which a mammogram is incomplete as it is, by :data:`FLAT`; None if it is complete.

    The chest wall and, in MLO, the upper border are no cuts.
    """
    edges = flat_edges(mask)
    if not edges:
        return "no breast found"
    sides = _sides(edges)
    for cause in CAUSES.get(view, CAUSES["CC"]):
        if edges[sides[cause]] > FLAT:
            return cause
    return None


def complete_window(mask: np.ndarray, generator: np.random.Generator) -> Window:
    """A window with all of the breast and a random margin of 2 to 10 % of its extent on every free side."""
    return Window(_with_margins(mask, generator), "", 0.0)


def truncated_window(
    mask: np.ndarray, view: str, generator: np.random.Generator, extent: Sequence[float] = (0.05, 0.25)
) -> Window:
    """The same window, one side of which is moved into the breast by a random share of the breast's extent.

    Args:
        mask: bool (rows, columns) outline of the breast.
        view: decides which sides can be cut (:data:`CAUSES`).
        generator: of the side, the depth and the margins.
        extent: least and largest share of the breast's extent that is cut.
    """
    region = _with_margins(mask, generator)
    causes = CAUSES.get(view, CAUSES["CC"])
    cause = causes[int(generator.integers(len(causes)))]
    side, depth = _sides(flat_edges(mask))[cause], generator.uniform(*extent)
    row0, column0, row1, column1 = _box(mask)
    if side == "top":
        region[0] = row0 + round(depth * (row1 - row0))
    elif side == "bottom":
        region[2] = row1 - round(depth * (row1 - row0))
    elif side == "left":
        region[1] = column0 + round(depth * (column1 - column0))
    else:
        region[3] = column1 - round(depth * (column1 - column0))
    kept = mask[max(region[0], 0) : region[2], max(region[1], 0) : region[3]].sum()
    return Window(region, cause, float(1 - kept / mask.sum()))


def _box(mask: np.ndarray) -> list[int]:
    box = bounding_box(mask)
    if box is None:
        raise ValueError("a mammogram without a breast cannot be truncated")
    return box


def _sides(edges: dict[str, float]) -> dict[str, str]:
    """Which side of the image each cause is; the chest wall is where the breast is flatter, the nipple opposite."""
    nipple = "right" if edges["left"] >= edges["right"] else "left"
    return {"nipple": nipple, "superior": "top", "inferior": "bottom"}


def _with_margins(mask: np.ndarray, generator: np.random.Generator) -> list[int]:
    row0, column0, row1, column1 = _box(mask)
    height, width = row1 - row0, column1 - column0
    top, left, bottom, right = generator.uniform(0.02, 0.10, size=4)
    chest_is_left = _sides(flat_edges(mask))["nipple"] == "right"
    return [
        row0 - round(top * height),
        column0 - (0 if chest_is_left else round(left * width)),
        row1 + round(bottom * height),
        column1 + (round(right * width) if chest_is_left else 0),
    ]
