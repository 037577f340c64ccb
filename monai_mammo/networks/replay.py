"""Running a network on a CUDA GPU without Python starting each of its kernels; nothing here is for training."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Replayed"]

logger = logging.getLogger(__name__)

_SHAPES = 4
"""Inputs of so many kinds are recorded; each recording holds the memory of a whole pass."""


@dataclass(frozen=True)
class _Recording:
    """A pass as a CUDA graph: what it reads, what it leaves."""

    graph: torch.cuda.CUDAGraph
    given: Tensor
    found: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        self.given.copy_(images)
        self.graph.replay()
        return self.found.clone()  # the next replay writes over it


class Replayed(nn.Module):
    """A network whose passes are recorded as CUDA graphs and replayed.

    At batch 1 a GPU computes faster than Python can tell it what to compute. The first input of each shape and
    precision is run and recorded, the next ones are replayed: the same kernels on the same memory, so the same
    outputs. A network that cannot be recorded, because it decides something by the values that it computes, runs as
    it is. Any number of threads may call it.

    Args:
        network: on a CUDA device, in eval mode, not to be changed any more; whatever must change between passes
            (dropout that is switched on, hooks) would not be seen.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._recordings: dict[tuple[torch.Size, torch.dtype, bool], _Recording | None] = {}
        self._lock = threading.Lock()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """What the network makes of a batch (B, C, H, W), as an inference tensor."""
        kind = (images.shape, images.dtype, torch.is_autocast_enabled("cuda"))
        with self._lock:
            if kind not in self._recordings and len(self._recordings) < _SHAPES and len(images) > 0:
                self._recordings[kind] = self._record(images)
            recording = self._recordings.get(kind)
            found: Tensor = self.network(images) if recording is None else recording(images)
            return found

    def _record(self, images: Tensor) -> _Recording | None:
        given = images.clone()
        beside = torch.cuda.Stream(images.device)
        beside.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(beside):  # what the libraries set up on first use must not be recorded
            for _ in range(2):
                self.network(given)
        torch.cuda.current_stream(images.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
                found = self.network(given)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            logger.info("%s is run as it is, since it cannot be recorded: %s", type(self.network).__name__, reason)
            return None
        return _Recording(graph, given, found)
