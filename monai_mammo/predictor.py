"""Predictor: a bundle folder and an image in, the bundle's own results out.

It executes what the bundle's `configs/inference.yaml` describes and repeats none of it. What else runs the network on
an image, as active learning does in varied ways, prepares the image here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.inferers import Inferer, SimpleInferer

from monai_mammo.bundles import config_of, inference_of, labels_in, no_numbers, other_weights
from monai_mammo.dicom.errors import MammogramError, cause_of, refusing
from monai_mammo.networks.inference import for_inference
from monai_mammo.networks.replay import Replayed


def prefers_bfloat16(device: str | torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware, so that mixed precision is worth it there."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.device(device).type == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


class MixedPrecisionInferer(Inferer):
    """The bundles' AMP switch: the network's forward pass under bfloat16 autocast, its result as float32.

    MONAI's engines autocast on CUDA only; an inferer works on every device, in training and in serving alike.
    bfloat16 keeps float32's range, so no gradient scaler is needed.

    Args:
        amp: whether to autocast at all.
        inferer: what runs the network; the plain forward pass by default.
    """

    def __init__(self, amp: bool = True, inferer: Inferer | None = None) -> None:
        super().__init__()
        self.amp = amp
        self.inferer = inferer if inferer is not None else SimpleInferer()

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the network on a batch (B, C, rows, columns)."""
        if isinstance(inputs, MetaTensor):  # in every layer, its bookkeeping costs more than a small layer itself
            inputs = inputs.as_tensor()
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.amp):
            output = self.inferer(inputs, network, *args, **kwargs)
        return output.float()


class Predictor:
    """Run a bundle on images, its network in the faster form that `for_inference` gives it.

    `network` is to be run by `inferer`, whose precision its weights have; `scores` does so, on a GPU with the pass
    recorded (:class:`~monai_mammo.networks.replay.Replayed`).

    Args:
        bundle: the bundle's folder.
        weights: a state dict file; by default the one that the bundle's config names (`weights`).
        device: as torch names it; by default the config's.
        overrides: values that replace ones of the config by id, as on the command line (`{"mode": "whole"}`).

    Raises:
        FileNotFoundError: the bundle has no weights yet.
        MammogramError: there is no bundle there, its config has no value that is overridden, or no such mode; no such
            device is here; no network has these values, or takes images of this `size`; or the weights are not of
            this network.

    Example::

        predictor = Predictor("bundles/mammo_tumor_segmentation", overrides={"mode": "roi"})
        result = predictor("mammogram.dcm", point=[1520, 833])
        mask = result["pred"]  # (1, rows, columns), at the mammogram's own pixels
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.bundle = Path(bundle).resolve()
        self.parser = inference_of(self.bundle, overrides or {})
        if device is not None:
            self.parser["device"] = str(device)
        self.metadata = config_of(self.bundle, "metadata.json")
        self.device = _usable(self.parser.get_parsed_content("device"))
        self.weights = Path(weights or self.parser.get_parsed_content("weights"))
        try:
            self.preprocessing = self.parser.get_parsed_content("preprocessing")
        except RuntimeError as error:
            raise cause_of(error) from error
        self.inferer = self.parser.get_parsed_content("inferer")
        self.network = self._load_network()
        self._passes = Replayed(self.network) if self.device.type == "cuda" else self.network
        self.postprocessing = self.parser.get_parsed_content("postprocessing")

    @property
    def labels(self) -> dict[int, str]:
        """Meaning of the output's indices."""
        return labels_in(self.metadata)

    @torch.no_grad()
    def __call__(self, image: str | Path, **given: Any) -> dict[str, Any]:
        """Run the bundle on one image.

        Args:
            image: any file that `MammogramReader` reads.
            given: what the bundle's preprocessing takes beside the image (`box`, `point`).

        Returns:
            the data dictionary after the bundle's postprocessing.

        Raises:
            MammogramError: the image or what is given with it cannot be used; or, by the path of `weights`, these
                cannot, as the network gives no numbers.
        """
        batch = list_data_collate([self.prepare(image, **given)])
        batch["pred"] = self.scores(batch["image"].to(self.device)).clone()  # whoever gets it may change it
        if not batch["pred"].isfinite().all():  # a threshold would make "no tumour" of it, and "complete"
            raise no_numbers(self.weights)
        return self.postprocessing(decollate_batch(batch)[0])

    @torch.inference_mode()
    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """The network's scores of prepared images (B, C, rows, columns) on `device`, as an inference tensor."""
        return self.inferer(images, self._passes)

    def prepare(self, image: str | Path, **given: Any) -> dict[str, Any]:
        """The data dictionary after the bundle's preprocessing; arguments and errors as of a call."""
        try:
            return self.preprocessing({"image": str(image), **given})
        except RuntimeError as error:
            raise cause_of(error) from error

    def _load_network(self) -> torch.nn.Module:
        if not self.weights.is_file():
            raise FileNotFoundError(
                f"{self.bundle.name} has no weights at {self.weights}: train it with `python -m monai.bundle run "
                f"training --config_file configs/train.yaml --bundle_root {self.bundle} --dataset_dir <your data>`, "
                "or restore the weights that ship with it"
            )
        try:
            network = self.parser.get_parsed_content("network_def")
        except RuntimeError as error:  # MONAI's, about what the network itself has refused
            if not isinstance(error.__cause__, ValueError):
                raise
            reason = f"no network has these values ({error.__cause__})"
            raise MammogramError(self.bundle.name, reason, "Give the values that it was trained with") from error
        with refusing(self.weights, "it holds no weights", "Give a state dict that a bundle's training has written"):
            state = torch.load(self.weights, map_location="cpu", weights_only=True)
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError):  # a line for each of its layers
            raise other_weights(self.weights, self.bundle.name) from None
        size, channels = self.parser.get_parsed_content("size"), self.parser.get_parsed_content("in_channels")
        image = torch.zeros(1, channels, *size, device=self.device)
        amp = isinstance(self.inferer, MixedPrecisionInferer) and self.inferer.amp
        try:
            return for_inference(network.to(self.device), image, bfloat16=amp)
        except ValueError as error:  # its sides
            raise MammogramError("size", str(error), "Give a size that the network takes") from error


def _usable(device: str | torch.device) -> torch.device:
    """The device of a config, once it has been seen to work."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:  # no such name; a PyTorch without CUDA
        cause = str(error).partition("\n")[0].rstrip(".")
        raise MammogramError("device", f"{device} cannot be used ({cause})", "Give cpu, or cuda with a GPU") from None
    return found
