"""What the breast's outline alone says about whether all of the breast is shown: a reader's first look at the borders.

Geometry, no network: it neither explains a network's verdict nor replaces it, and sees no other fault of positioning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.sr.codedict import codes

from monai_mammo.datasets.truncation import CAUSES, flat_sides
from monai_mammo.regions import bounding_box

FILLED = 0.99
"""Share of its bounding box above which an outline is none of a breast."""

_SIDES = {"nipple": "anterior", "medial": "medial", "lateral": "lateral", "inferior": "inferior"}


@dataclass(frozen=True)
class Observation:
    """One thing that is seen at the outline."""

    sentence: str
    """As a reader would say it."""
    codes: tuple[tuple[str, str], ...]
    """Value and meaning (scheme DCM) of what it speaks for, from DICOM PS3.16 CID 6041, Mammography Image Quality
    Finding; the first fits best."""


def observe_outline(mask: np.ndarray, view: str) -> list[Observation]:
    """The sides on which a breast's outline ends in a straight line, as where tissue is cut off.

    The rule is :func:`monai_mammo.datasets.truncation.flat_sides`. Columns run across the chest wall, rows along it;
    in CC the top is lateral.

    Args:
        mask: bool (rows, columns) outline of the breast.
        view: CC or MLO; of others nothing is said, for their free sides are not known.

    Returns:
        an observation for each such side; none where the outline is round everywhere, the mask is empty, or it fills
        its box: that is a film's outline, not a breast's.

    Example::

        for observation in observe_outline(breast_mask(mammogram.pixels), mammogram.view):
            print(observation.sentence, observation.codes)
    """
    box = bounding_box(mask)
    if box is None or mask[box[0] : box[2], box[1] : box[3]].mean() > FILLED:
        return []
    findings: Any = codes.cid6041
    meanings = {code.value: code.meaning for code in findings.concepts.values()}
    return [
        Observation(
            f"By its outline: straight along {share:.0%} of the {_SIDES[cause]} side, as where tissue is cut off",
            tuple((code, meanings[code]) for code in CAUSES[view][cause].codes),
        )
        for cause, share in flat_sides(mask, view).items()
    ]
