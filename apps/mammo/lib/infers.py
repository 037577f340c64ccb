"""The three models as MONAI Label inference tasks: what a viewer asks is put to the bundle, what it says is answered.

Pre- and post-processing are the bundle's alone. Images are 2-D; viewers get and send volumes of one slice.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import convert_to_numpy
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from monai_mammo.completeness import observe_outline

from .errors import RequestRefused
from .masks import geometry_of, result_format, write_mask
from .models import ServedModel

Answer = tuple[np.ndarray, dict[str, Any]]


class MammogramInfer(InferTask):
    """A request for one image in, a mask file and what else there is to say out."""

    def __init__(
        self, model: ServedModel, type: InferType, labels: list[str], dimension: int, description: str
    ) -> None:
        super().__init__(type, labels, dimension, description)
        self.model = model

    def is_valid(self) -> bool:
        """Listed even without weights: using it then says how to train them."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Answer a request whose `image` is a path.

        With `result_probability` a segmentation answers with the probabilities, 0 to 255, of which those of 128 and
        more are its mask, and says `probability` beside them.

        Returns:
            the mask's file (None if the request has `result_write_to_file` false), and the JSON beside it.

        Raises:
            MammogramError: the image, or the place marked in it, cannot be used.
            RequestRefused: anything else in the request cannot be fulfilled.
        """
        result_format(request)
        path = Path(request["image"])
        result = self.model(path, **self.given(request))
        mask, params = self.answer(result)
        if request.get("result_probability") and "probability" in result:
            mask, params = _of_255(result, mask), {**params, "probability": True}
        if not request.get("result_write_to_file", True):
            return None, params
        return write_mask(mask, geometry_of(path, mask.shape), request), params

    def given(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the request gives to the model beside the image."""
        return {}

    @abstractmethod
    def answer(self, result: dict[str, Any]) -> Answer:
        """The mask (rows, columns) in the image's own pixels, and the JSON beside it."""


class _TumourInfer(MammogramInfer):
    """Answers with a mask of tumours."""

    def answer(self, result: dict[str, Any]) -> Answer:
        """The tumour mask, and how sure the model is."""
        mask = convert_to_numpy(result["pred"])[0]
        probability = convert_to_numpy(result["probability"])[0][_reach(result)]
        found = {
            "pixels": int(np.count_nonzero(mask[_reach(result)])),
            "highest_probability": float(probability.max(initial=0)),
        }
        return mask, {"label_names": {self.labels[0]: 1}, "tumour": found}


class TumourSegmentation(_TumourInfer):
    """Tumours in the whole mammogram, without any hint."""

    def __init__(self, model: ServedModel) -> None:
        description = "Segments tumours in a whole mammogram"
        super().__init__(model, InferType.SEGMENTATION, [model.labels[1]], 2, description)


class LesionSegmentation(_TumourInfer):
    """The tumour at a place that the user marks.

    Slicer sends an interactive model of dimension 2 through a slow path that visits every pixel in Python; our masks
    are volumes of one slice, so the model says 3 and Slicer loads them at once.
    """

    def __init__(self, model: ServedModel) -> None:
        description = "Segments the tumour at a marked point or in a marked box"
        super().__init__(model, InferType.DEEPGROW, [model.labels[1]], 3, description)

    def given(self, request: dict[str, Any]) -> dict[str, Any]:
        """The place marked: the first there is of these, in pixels of the original image.

        - `box`: [row0, column0, row1, column1], half-open;
        - `roi`: Slicer's [x0, x1, y0, y1, z0, z1], ends included, in any order;
        - `point`: [row, column];
        - `foreground`: Slicer's points [[x, y, z], ...]; one is a point, several span a box.

        Slicer's `background` points are not used: the model has no such input.
        """
        if request.get("box"):
            return {"box": _numbers(request, "box", 4)}
        if request.get("roi"):
            x0, x1, y0, y1 = _numbers(request, "roi", 6)[:4]
            return {"box": [min(y0, y1), min(x0, x1), max(y0, y1) + 1, max(x0, x1) + 1]}
        if request.get("point"):
            return {"point": _numbers(request, "point", 2)}
        if request.get("foreground"):
            return _from_points(request)
        raise RequestRefused(400, "nothing marks a lesion", "Give a point or a box with the request")


class QualityCheck(MammogramInfer):
    """Whether the mammogram shows the whole breast.

    Of type segmentation, with the breast's outline for a mask, since Slicer lists no classification models and
    needs a mask; the outline is named by the verdict, and `params["quality"]` holds the numbers. Its `reasons` are
    what the outline's geometry shows, each a `sentence` with `codes` of DICOM CID 6041; they are not the network's.
    """

    def __init__(self, model: ServedModel) -> None:
        description = "Says whether a mammogram is complete; its mask is the breast's outline, named by the verdict"
        super().__init__(model, InferType.SEGMENTATION, [model.labels[0], model.labels[1]], 2, description)

    def answer(self, result: dict[str, Any]) -> Answer:
        """The breast's outline, and the verdict."""
        complete, incomplete = (float(value) for value in convert_to_numpy(result["pred"]))
        verdict = self.labels[int(incomplete > complete)]
        quality: dict[str, Any] = {
            "verdict": verdict,
            f"probability_{self.labels[0]}": complete,
            f"probability_{self.labels[1]}": incomplete,
        }
        outline = convert_to_numpy(result["breast"])[0] > 0
        quality["reasons"] = [
            {"sentence": seen.sentence, "codes": [{"value": value, "meaning": text} for value, text in seen.codes]}
            for seen in observe_outline(outline, result["image"].meta.get("view", ""))
        ]
        return outline.astype(np.uint8), {"label_names": {verdict: 1}, "quality": quality}


def _of_255(result: dict[str, Any], mask: np.ndarray) -> np.ndarray:
    """Probabilities as 0 to 255; 128 and more is the mask exactly, so that a viewer may move the threshold."""
    shown, reach = np.zeros(mask.shape, np.uint8), _reach(result)
    scaled = np.rint(convert_to_numpy(result["probability"])[0][reach] * 255)
    shown[reach] = np.where(mask[reach] > 0, np.clip(scaled, 128, 255), np.clip(scaled, 0, 127))
    return shown


def _reach(result: dict[str, Any]) -> tuple[slice, slice]:
    """The rows and columns outside of which the model says nothing."""
    row0, column0, row1, column1 = result["reach"]
    return slice(row0, row1), slice(column0, column1)


def _from_points(request: dict[str, Any]) -> dict[str, Any]:
    points = request["foreground"]
    if not isinstance(points, list):
        raise RequestRefused(400, "'foreground' is no list of points", "Give it as [[x, y, z], ...]")
    pairs = [
        _numbers({"foreground": point}, "foreground", len(point) if isinstance(point, list) else 0) for point in points
    ]
    if any(len(pair) not in (2, 3) for pair in pairs):
        raise RequestRefused(400, "'foreground' has a point that is not [x, y, z]", "Give it as [[x, y, z], ...]")
    columns, rows = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(pairs) == 1:
        return {"point": [rows[0], columns[0]]}
    return {"box": [min(rows), min(columns), max(rows) + 1, max(columns) + 1]}


def _numbers(request: dict[str, Any], name: str, count: int) -> list[float]:
    values = request[name]
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        or not np.isfinite(values).all()
    ):
        raise RequestRefused(400, f"'{name}' is not a list of {count} numbers", "Give pixels of the original image")
    return [float(value) for value in values]
