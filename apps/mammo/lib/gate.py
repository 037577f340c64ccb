"""Whether newly trained weights may replace the ones in service. Not here: training, and the weights' files.

Both are run as they would be served (the bundle's own inference, at the image's own pixels) on the same validation
patients, whom neither was trained on (`partition`). Every image gets a score from 0 to 1:

- a mask: its Dice coefficient; where there is no lesion, 1 for an empty mask and 0 for any other, so that a model
  that sees tumours everywhere loses;
- a verdict: 1 - (probability of incomplete - truth)^2, one minus the Brier score. Unlike accuracy it does not jump
  with a single image, and unlike the AUC it sees a model whose probabilities have drifted across the threshold.
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


@dataclass(frozen=True)
class Comparison:
    """Candidate against the weights in service, on the same images.

    Args:
        images: number of validation entries (lesions, for the model of marked lesions).
        patients: number of validation patients.
        candidate: mean score of the new weights.
        served: mean score of the weights in service; None if there are none that work.
        difference: candidate - served; None without `served`.
        low: lower end of the difference's 95 % interval, patients being resampled with all their images; None with
            fewer than two patients.
        high: its upper end.
    """

    images: int
    patients: int
    candidate: float
    served: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the candidate may be served: its mean score on the validation patients did not fall, or the paired
        95 % interval excludes a fall of more than `NEGLIGIBLE`.

        A wide interval never helps a candidate: with three validation patients almost any fall is "not significant",
        and a model that loses a little at each of many retrainings is lost. What the interval can do is to excuse a
        small fall, where there are enough patients to say that it is small. A candidate refused by chance costs
        little: it is kept, can be put into service by hand, and the next training has more annotations.
        """
        if math.isnan(self.candidate):
            return False
        if self.difference is None:
            return True
        return self.difference >= 0 or (self.low is not None and self.low >= -NEGLIGIBLE)

    @property
    def reason(self) -> str:
        """The outcome in one sentence, for people."""
        if math.isnan(self.candidate):
            return "the new weights predict no numbers"
        if self.served is None or self.difference is None:
            return "there were no working weights in service to compare with"
        interval = (
            "no interval (one patient)" if self.low is None else f"95 % interval {self.low:+.4f} to {self.high:+.4f}"
        )
        verb = "fell from" if self.difference < 0 else "rose from" if self.difference > 0 else "stayed at"
        values = f"{self.served:.4f}" + (f" to {self.candidate:.4f}" if self.difference else "")
        small = ", which is negligible" if self.accepted and self.difference < 0 else ""
        return f"the mean score {verb} {values} on {self.patients} patient(s), {interval}{small}"

    def as_json(self) -> dict[str, Any]:
        """The numbers; what is not a number becomes null."""
        numbers = asdict(self)
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in numbers.items()
        }


def compare(
    candidate: Predictor,
    served: Predictor | None,
    entries: Sequence[Mapping[str, Any]],
    progress: Callable[[float], None] = lambda share: None,
) -> Comparison:
    """Score two sets of weights on the same entries of a datalist.

    Args:
        candidate: the bundle with the new weights.
        served: the bundle with the weights in service, if there are any.
        entries: validation entries with `image`, `label`, `patient` and, for the model of marked lesions, `box`.
        progress: told the share that is done.

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
        except MammogramError as error:
            if number == len(entries) and not records:
                raise
            logger.warning("an image is left out of the comparison: %s", error.reason)
        else:
            records.append({"patient": entry["patient"], **scores})
        progress(number / len(entries))
    return judge(records)


def judge(records: Sequence[Record]) -> Comparison:
    """The comparison from one record an image: `patient`, `candidate` and, where something is in service, `served`."""
    images, patients = len(records), len({record["patient"] for record in records})
    candidate = _mean(records, "candidate")
    if "served" not in records[0] or math.isnan(_mean(records, "served")):  # the latter do not work
        return Comparison(images, patients, candidate)

    def difference(sample: Sequence[Record]) -> Metrics:
        return {"difference": _mean(sample, "candidate") - _mean(sample, "served")}

    low, high = patient_intervals(records, difference)["difference"]
    return Comparison(
        images,
        patients,
        candidate,
        _mean(records, "served"),
        difference(records)["difference"],
        None if math.isnan(low) else low,
        None if math.isnan(high) else high,
    )


def score(model: Predictor, entry: Mapping[str, Any]) -> float:
    """The score of one image, see the module's text."""
    box = entry.get("box")
    result = model(entry["image"], **({"box": box} if box else {}))
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
