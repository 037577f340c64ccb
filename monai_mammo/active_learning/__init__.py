"""Active learning: which mammograms to annotate next, and whether that choice helps.

`scores` (how unsure a network is of an image), `selection` (which images follow from that), `simulation` and `curves`
(annotation replayed on labelled data). Not here: the annotation app, which asks this package.
"""

from monai_mammo.active_learning.scores import (
    ImageScore,
    Passes,
    entropy,
    mutual_information,
    region_score,
    score_image,
    varied_passes,
)
from monai_mammo.active_learning.selection import STRATEGIES, Candidate, choose

__all__ = [
    "STRATEGIES",
    "Candidate",
    "ImageScore",
    "Passes",
    "choose",
    "entropy",
    "mutual_information",
    "region_score",
    "score_image",
    "varied_passes",
]
