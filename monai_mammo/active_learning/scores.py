"""How unsure a network is of an image, and where the image lies among the others.

Uncertainty is what several passes over varied inputs disagree about (mutual information), pooled over the region of a
lesion's size where they disagree most. Not here: what is chosen (selection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, normalize

from monai_mammo.predictor import Predictor
from monai_mammo.regions import breast_mask

LESION_MM = 10.0
"""Side of the region over which uncertainty is pooled: about the smallest tumours that screening is to find."""

DETECTOR_MM = 240.0
"""Longer side of a mammogram whose pixel spacing is unknown: between the usual 18 x 24 cm and 24 x 30 cm."""

BOTH_WAYS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Flips of a segmentation's input: none, left to right, upside down, both. The network was trained on all four."""

LEFT_TO_RIGHT: tuple[tuple[int, ...], ...] = ((), (-1,))
"""Flips of a classifier's input: the quality network was never trained upside down."""

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)

Forward = Callable[[Tensor, nn.Module], Tensor]


@dataclass(frozen=True)
class Passes:
    """What a network says to variations of a batch.

    Args:
        probabilities: (S, B, C) of a classifier or (S, B, C, rows, columns) of a segmentation; each of the S passes
            is flipped back, so that they lie on each other.
        embedding: (B, F) of unit length: the features, averaged over pixels and passes.
    """

    probabilities: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class ImageScore:
    """What is kept of an image.

    Args:
        uncertainty: what images are ranked by. For a segmentation, the mutual information (nats) averaged over the
            most uncertain region of a lesion's size; for a classifier, the entropy (nats) of the mean probabilities.
        embedding: float32 (F,), of unit length.
    """

    uncertainty: float
    embedding: np.ndarray


def entropy(probabilities: Tensor, dim: int = 1) -> Tensor:
    """Shannon entropy in nats along the classes; 0 where one class is certain."""
    return torch.special.entr(probabilities).sum(dim)


def mutual_information(samples: Tensor) -> Tensor:
    """What passes disagree about, in nats: entropy of their mean less the mean of their entropies (BALD).

    Unlike entropy it is 0 where every pass is equally undecided, as on the blurred border of a lesion that all draw
    alike: labels there teach nothing (Houlsby et al. 2011, arXiv:1112.5745; Gal et al. 2017, arXiv:1703.02910).

    Args:
        samples: (S, B, C, ...) probabilities.

    Returns:
        (B, ...), between 0 and ln C.
    """
    return (entropy(samples.mean(0)) - entropy(samples, dim=2).mean(0)).clamp_min(0)


def region_score(uncertainty: Tensor, window: Sequence[float], inside: Tensor | None = None) -> float:
    """The highest mean over any window of a lesion's size.

    A mean over the whole image would rank an image with faint doubt everywhere above one with a single small lesion
    that the network cannot decide on.

    Args:
        uncertainty: (rows, columns).
        window: (rows, columns) of the region in pixels, rounded; cut to the image where it is larger.
        inside: bool (rows, columns); what lies outside (air, labels, tape) counts as certain.
    """
    values = uncertainty if inside is None else uncertainty * inside.to(uncertainty)
    kernel = [min(max(1, round(float(side))), length) for side, length in zip(window, values.shape, strict=True)]
    return float(avg_pool2d(values[None, None].float(), kernel, stride=1).max())


def lesion_window(
    size: Sequence[int],
    extent: Sequence[float],
    spacing: Sequence[float] | None = None,
    image: Sequence[int] | None = None,
) -> tuple[float, float]:
    """Rows and columns that a lesion covers in the network's input.

    Args:
        size: (rows, columns) of the network's input.
        extent: (rows, columns) of the part of the original image that the input shows, in its pixels.
        spacing: (row, column) mm per pixel of the original; unknown or not finite: `DETECTOR_MM` is assumed to be
            the longer side of the original image.
        image: (rows, columns) of the original image; `extent` if None.
    """
    if spacing is None or not all(np.isfinite(value) and value > 0 for value in spacing):
        spacing = [DETECTOR_MM / max(image or extent)] * 2
    return (
        LESION_MM / (float(spacing[0]) * extent[0] / size[0]),
        LESION_MM / (float(spacing[1]) * extent[1] / size[1]),
    )


@torch.inference_mode()
def varied_passes(
    network: nn.Module,
    images: Tensor,
    flips: Sequence[tuple[int, ...]] = BOTH_WAYS,
    repeats: int = 8,
    seed: int = 0,
    forward: Forward | None = None,
) -> Passes:
    """Run a network in several ways that should all give the same.

    Each flip of the input is one way. A network that was built with dropout also runs `repeats` times a flip with
    dropout on (Monte-Carlo dropout); one without, as the bundles are by default, would repeat itself exactly, and
    runs once.

    Args:
        network: in the evaluation state; it is left as it was.
        images: (B, C, rows, columns).
        flips: axes of each flip.
        repeats: passes a flip of a network with dropout.
        seed: of the dropout; nothing else is random.
        forward: what runs the network (a bundle's inferer); the plain forward pass by default.
    """
    run = forward or (lambda inputs, net: net(inputs))
    samples, embeddings = [], []
    with _dropout_on(network) as dropping, _features(network) as features, torch.random.fork_rng():
        torch.manual_seed(seed)
        for flip in flips:
            turned = torch.flip(images, flip) if flip else images
            for _ in range(repeats if dropping else 1):
                scores = run(turned, network).float()
                back = torch.flip(scores, flip) if flip and scores.ndim > 2 else scores
                samples.append(back.softmax(1))
                found = features.pop().float()
                embeddings.append(found.mean((2, 3)) if found.ndim == 4 else found)
    return Passes(torch.stack(samples), normalize(torch.stack(embeddings).mean(0), dim=1))


def score_passes(
    passes: Passes, windows: Sequence[Sequence[float]], insides: Sequence[Tensor | None]
) -> list[ImageScore]:
    """The score of every image of a batch.

    Args:
        passes: of B images.
        windows: for each image, see :func:`region_score`; a classifier has no use for it.
        insides: for each image, see :func:`region_score`.
    """
    samples, embeddings = passes.probabilities, passes.embedding.cpu().numpy().astype(np.float32)
    if samples.ndim == 3:
        uncertainties = entropy(samples.mean(0)).tolist()
    else:
        maps = mutual_information(samples).cpu()
        uncertainties = [region_score(*each) for each in zip(maps, windows, insides, strict=True)]
    return [ImageScore(*each) for each in zip(uncertainties, embeddings, strict=True)]


def score_image(predictor: Predictor, image: str | Path, **given: Any) -> ImageScore:
    """How unsure a bundle is of an image, prepared as the bundle's own config says.

    Args:
        predictor: the bundle; its mode must not need a marked place, unless one is given.
        image: any file that `MammogramReader` reads.
        given: what the bundle's preprocessing takes beside the image.

    Raises:
        MammogramError: the image or what is given with it cannot be used.
    """
    data = predictor.prepare(image, **given)
    inputs = data["image"].as_tensor()[None].to(predictor.device)
    flips = flips_of(predictor.metadata)
    passes = varied_passes(predictor.network, inputs, flips, forward=predictor.inferer)
    window, inside = pooled_over(data, predictor.parser, predictor.metadata)
    return score_passes(passes, [window], [inside])[0]


def flips_of(metadata: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """The flips of a bundle's input, by its metadata."""
    return LEFT_TO_RIGHT if _is_classifier(metadata) else BOTH_WAYS


def pooled_over(
    data: Mapping[str, Any], config: ConfigParser, metadata: Mapping[str, Any]
) -> tuple[tuple[float, float], Tensor | None]:
    """The region over which an image's uncertainty is pooled: `window` and `inside` of :func:`region_score`.

    Args:
        data: the image as the bundle prepares it, with its `region`; `spacing`, if there is one, comes before that
            of the image's metadata.
        config: the bundle's, of which `mode` and `roi_margin` count.
        metadata: the bundle's.
    """
    image = data["image"].as_tensor()
    rows, columns = image.shape[1:]
    if _is_classifier(metadata):  # its uncertainty has no place
        return (rows, columns), None
    if config.get("mode") == "roi":  # a crop about one lesion: what is not margin is of a lesion's size
        share = 1 / (1 + 2 * float(config.get_parsed_content("roi_margin")))
        return (rows * share, columns * share), None
    row0, column0, row1, column1 = data["region"]
    meta = data["image"].meta
    original = [int(side) for side in meta["spatial_shape"]][:2]
    spacing = data.get("spacing", meta.get("spacing"))
    return lesion_window((rows, columns), (row1 - row0, column1 - column0), spacing, original), _breast_of(image)


def _breast_of(prepared: Tensor) -> Tensor | None:
    """Where the breast is in a network's input (C, rows, columns); None, for everywhere, where none is found."""
    mask = breast_mask(prepared[0].float().cpu().numpy())
    return torch.as_tensor(mask) if mask.any() else None


def _is_classifier(metadata: Mapping[str, Any]) -> bool:
    """Whether a bundle's metadata describe a classifier of images."""
    return bool(metadata["network_data_format"]["outputs"]["pred"]["format"] == "classification")


@contextmanager
def _dropout_on(network: nn.Module) -> Iterator[bool]:
    """Switch on the dropouts that drop anything; gives whether there are any."""
    layers = [layer for layer in network.modules() if isinstance(layer, _DROPOUTS) and layer.p > 0]
    former = [layer.training for layer in layers]
    for layer in layers:
        layer.train()
    try:
        yield bool(layers)
    finally:
        for layer, training in zip(layers, former, strict=True):
            layer.train(training)


@contextmanager
def _features(network: nn.Module) -> Iterator[list[Tensor]]:
    """The features (B, F) or (B, F, rows, columns) of a forward pass, the latest of several.

    They are what the network's own `forward_features` gives it or, if it has none, the feature map with the most
    channels: the deepest one of most networks, but not of a classifier whose attention computes wider scores.
    """
    found: list[Tensor] = []
    own: Callable[[Tensor], Tensor] | None = getattr(network, "forward_features", None)

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and (not found or output.shape[1] >= found[-1].shape[1]):
            found[:] = [output]

    def noted(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        found[:] = [features(images)]
        return found[-1]

    with ExitStack() as end:
        if own is not None:
            network.forward_features = partial(noted, own)  # type: ignore[assignment]  # its forward pass calls it
            end.callback(delattr, network, "forward_features")
        for module in network.modules() if own is None else ():
            end.callback(module.register_forward_hook(look).remove)
        yield found
