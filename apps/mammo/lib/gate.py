"""Whether newly trained weights may replace the ones in service. Not here: training, and the weights' files.

Both are run as they would be served (the bundle's own inference, at the image's own pixels) on the same validation
patients, whom neither was trained on (`partition`). Every image gets a score from 0 to 1:

- a mask: its Dice coefficient; where there is no lesion, 1 for an empty mask and 0 for any other, so that a model
  that sees tumours everywhere loses;
- a verdict: 1 - (probability of incomplete - truth)^2, one minus the Brier score. Unlike accuracy it does not jump
  with a single image, and unlike the AUC it sees a model whose probabilities have drifted across the threshold.

Images with a tumour and those without are judged apart, and the new weights must be no worse on either: in one mean, a
model that never marks anything would win by the normal breasts what it loses by the tumours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from monai.utils import convert_to_numpy

from monai_mammo.bootstrap import Metrics, Record, patient_intervals
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mask
from monai_mammo.predictor import Predictor

logger = logging.getLogger(__name__)

NEGLIGIBLE = 0.01
"""A fall of the mean score by this much makes no difference to an annotator."""

ENOUGH_PATIENTS = 10
"""Of fewer, the interval is not wide enough: of two who fall alike, it is a point."""

TUMOUR, NORMAL, VERDICT = "tumour", "normal", "verdict"
KINDS = {TUMOUR: "images with a tumour", NORMAL: "images without a tumour", VERDICT: "images with a verdict"}
"""Every kind of image that is judged apart, in words."""


@dataclass(frozen=True)
class Change:
    """Candidate against the weights in service, on images of one kind.

    Args:
        images: number of validation entries (lesions, for the model of marked lesions).
        patients: number of their patients.
        candidate: mean score of the new weights.
        served: mean score of the weights in service; None if there are none.
        difference: candidate - served; None without `served`.
        low: lower end of the difference's 95 % interval, patients being resampled with all their images; None with
            fewer than two patients.
        high: its upper end.
        served_behind: how far the weights in service lie behind the best before them, by falls that were excused.
    """

    images: int
    patients: int
    candidate: float
    served: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    served_behind: float = 0.0

    @property
    def excused(self) -> bool:
        """Whether there is a fall that is surely negligible, together with those excused before it.

        Without the sum, many small falls would each be excused, and the model be lost. A wide interval never helps.
        """
        if self.difference is None or self.difference >= 0 or self.low is None or self.patients < ENOUGH_PATIENTS:
            return False
        return self.low - self.served_behind >= -NEGLIGIBLE

    @property
    def no_worse(self) -> bool:
        """Whether the mean score did not fall, or its fall is excused."""
        return self.difference is None or self.difference >= 0 or self.excused

    @property
    def behind(self) -> float:
        """How far the candidate would lie behind the best before it; a rise makes good what was excused."""
        return 0.0 if self.difference is None else max(0.0, self.served_behind - self.difference)

    def told(self, kind: str) -> str:
        """The change in words, for people."""
        assert self.served is not None
        assert self.difference is not None
        verb = "fell from" if self.difference < 0 else "rose from" if self.difference > 0 else "stayed at"
        values = f"{self.served:.4f}" + (f" to {self.candidate:.4f}" if self.difference else "")
        interval = (
            "no interval (one patient)" if self.low is None else f"95 % interval {self.low:+.4f} to {self.high:+.4f}"
        )
        before = "" if self.no_worse or not self.served_behind else f" after earlier falls of {self.served_behind:.4f}"
        small = ", which is negligible" if self.excused else ""
        judges = f"{self.patients} patient(s), {interval}"
        return f"on {KINDS[kind]} the mean score {verb} {values}{before} ({judges}){small}"


@dataclass(frozen=True)
class Comparison:
    """Candidate against the weights in service, on the same images.

    Args:
        changes: by kind of image, a key of `KINDS`; at least one.
    """

    changes: dict[str, Change]

    @property
    def accepted(self) -> bool:
        """Whether the candidate may be served: it marks tumours at all, and on no kind of image it is worse.

        No worse is a mean score on the validation patients that did not fall, or a fall that the paired 95 % interval
        of at least `ENOUGH_PATIENTS` shows to be below `NEGLIGIBLE`, with all that was excused before it. A candidate
        refused by chance costs little: it is kept, can be put into service by hand, and the next training has more
        annotations.
        """
        return self._useless() is None and all(change.no_worse for change in self.changes.values())

    @property
    def reason(self) -> str:
        """The outcome in one sentence, for people."""
        if useless := self._useless():
            return useless
        if any(change.served is None for change in self.changes.values()):
            return "there were no working weights in service to compare with"
        return "; ".join(change.told(kind) for kind, change in self.changes.items())

    def as_json(self) -> dict[str, Any]:
        """By kind of image, the numbers; what is not a number becomes null."""
        return {
            kind: {
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in {**asdict(change), "behind": change.behind}.items()
            }
            for kind, change in self.changes.items()
        }

    def _useless(self) -> str | None:
        """Why the candidate would be of no use, whatever there is in service."""
        if any(math.isnan(change.candidate) for change in self.changes.values()):
            return "the new weights predict no numbers"
        tumour = self.changes.get(TUMOUR)
        if tumour and tumour.candidate == 0:
            return f"the new weights touch no tumour in {tumour.images} image(s) with one"
        if NORMAL in self.changes and not tumour:
            return "there is no image with a tumour to judge the new weights by"
        return None


def behind_of(record: Mapping[str, Any]) -> dict[str, float]:
    """How far weights of the history lie behind the best before them, by kind of image.

    Args:
        record: what the history knows of them. Empty, one of weights that a person has put into service, or one from
            before kinds were judged apart, says nothing: the weights are where counting begins.
    """
    if record.get("outcome") != "accepted":
        return {}
    changes = record.get("score", {}).items()
    return {kind: change["behind"] for kind, change in changes if isinstance(change, dict)}


def compare(
    candidate: Predictor,
    served: Predictor | None,
    entries: Sequence[Mapping[str, Any]],
    progress: Callable[[float], None] = lambda share: None,
    behind: Mapping[str, float] | None = None,
) -> Comparison:
    """Score two sets of weights on the same entries of a datalist.

    Args:
        candidate: the bundle with the new weights.
        served: the bundle with the weights in service, if there are any.
        entries: validation entries with `image`, `label`, `patient` and, for the model of marked lesions, `box`.
        progress: told the share that is done.
        behind: of the weights in service, see `behind_of`.

    An image that cannot be judged, such as one without a breast, is left out, and the log says why.

    Raises:
        MammogramError: not one of the images can be judged.
    """
    records: list[Record] = []
    for number, entry in enumerate(entries, start=1):
        try:
            scores = {"candidate": score(candidate, entry)}
            if served:
                scores["served"] = score(served, entry)
            kind = kind_of(entry)
        except MammogramError as error:
            if number == len(entries) and not records:
                raise
            logger.warning("an image is left out of the comparison: %s", error.reason)
        else:
            records.append({"patient": entry["patient"], "kind": kind, **scores})
        progress(number / len(entries))
    return judge(records, behind or {})


def judge(records: Sequence[Record], behind: Mapping[str, float] | None = None) -> Comparison:
    """The comparison from one record an image.

    Args:
        records: `patient`, `kind` (a key of `KINDS`), `candidate` and, where something is in service, `served`.
        behind: of the weights in service, see `behind_of`.
    """
    kinds = [kind for kind in KINDS if any(record["kind"] == kind for record in records)]
    return Comparison(
        {
            kind: _change([record for record in records if record["kind"] == kind], (behind or {}).get(kind, 0.0))
            for kind in kinds
        }
    )


def _change(records: Sequence[Record], behind: float) -> Change:
    images, patients = len(records), len({record["patient"] for record in records})
    candidate = _mean(records, "candidate")
    if "served" not in records[0]:
        return Change(images, patients, candidate)
    # Where weights in service predict no numbers, nobody is served by them.
    records = [{**record, "served": 0.0 if math.isnan(record["served"]) else record["served"]} for record in records]

    def difference(sample: Sequence[Record]) -> Metrics:
        return {"difference": _mean(sample, "candidate") - _mean(sample, "served")}

    low, high = patient_intervals(records, difference)["difference"]
    return Change(
        images,
        patients,
        candidate,
        _mean(records, "served"),
        difference(records)["difference"],
        None if math.isnan(low) else low,
        None if math.isnan(high) else high,
        behind,
    )


def kind_of(entry: Mapping[str, Any]) -> str:
    """With which others a validation entry is judged, a key of `KINDS`."""
    if not isinstance(entry["label"], str):
        return VERDICT
    return TUMOUR if np.any(read_mask(entry["label"]) > 0) else NORMAL


def score(model: Predictor, entry: Mapping[str, Any]) -> float:
    """The score of one image, see the module's text; NaN where the network predicts no numbers."""
    box = entry.get("box")
    try:
        result = model(entry["image"], **({"box": box} if box else {}))
    except MammogramError as error:
        if error.path != model.weights:  # it is the image that cannot be used
            raise
        return math.nan
    if not isinstance(entry["label"], str):
        return 1.0 - (float(convert_to_numpy(result["pred"])[1]) - int(entry["label"])) ** 2
    label = read_mask(entry["label"]) > 0
    predicted = convert_to_numpy(result["pred"])[0] > 0
    if box:  # the entry is one lesion: what lies outside the crop made for it is the business of another entry
        row0, column0, row1, column1 = (max(0, int(edge)) for edge in result["region"])
        label, predicted = label[row0:row1, column0:column1], predicted[row0:row1, column0:column1]
    pixels = np.count_nonzero(label) + np.count_nonzero(predicted)
    return 2.0 * np.count_nonzero(label & predicted) / pixels if pixels else 1.0


def _mean(records: Sequence[Record], name: str) -> float:
    return float(np.mean([record[name] for record in records]))
