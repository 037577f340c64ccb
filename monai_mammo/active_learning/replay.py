"""One round of replayed annotation: train the bundle on some images, measure it, choose the next images.

Images are decoded once and kept in memory for all rounds of a process. Training, preparation and measuring are what
the bundle's configs say. Not here: which rounds there are, and what they show (simulation, curves).
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import CacheDataset
from torch.utils.data import Subset

from monai_mammo.active_learning.scores import (
    ImageScore,
    flips_of,
    pooled_over,
    score_passes,
    varied_passes,
)
from monai_mammo.active_learning.selection import STRATEGIES, Candidate, choose
from monai_mammo.bundles import config_of
from monai_mammo.datasets.datalist import load_datalist
from monai_mammo.dicom.errors import cause_of

SCORED_AT_ONCE = 16
"""Images of a forward pass when the pool is scored."""


@dataclass(frozen=True)
class Setup:
    """What makes two rounds comparable; a folder of results belongs to one setup.

    Args:
        dataset_dir: folder of a datalist with training, validation and test sections.
        bundle: the bundle's folder.
        start: images labelled at the start, at random.
        add: images labelled in every round. As the case that reaches a number is taken whole, both are least numbers.
        steps: optimiser steps of every training.
        validations: times that a training is validated; the best weights are kept.
        warm_start: begin a round's training with the former round's weights, not from scratch.
        initial_weights: a state dict file from which trainings begin that would begin from scratch: a model that
            learned elsewhere, and not from these images.
        overrides: values of the bundle's configs by id, as on its command line.
    """

    dataset_dir: str
    bundle: str
    start: int
    add: int
    steps: int
    validations: int = 4
    warm_start: bool = False
    initial_weights: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """One training of one run.

    Args:
        strategy: of the run; `start` for the first training, which all strategies of a seed share.
        seed: of the run.
        number: of the round, 0 for the first.
        labelled: images to train on, by the datalist's paths.
    """

    strategy: str
    seed: int
    number: int
    labelled: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the round's file."""
        return f"seed{self.seed}-round{self.number}-{self.strategy}"


class Pool:
    """A datalist's training section by image: one image may have several entries, one for each lesion.

    Raises:
        MammogramError: the datalist cannot be used.
    """

    def __init__(self, dataset_dir: str | Path) -> None:
        root, entries = Path(dataset_dir).resolve(), load_datalist(dataset_dir, "training")
        self.entries: dict[str, list[int]] = {}
        self.candidates: dict[str, Candidate] = {}
        for number, entry in enumerate(entries):
            image = Path(os.path.relpath(entry["image"], root)).as_posix()
            self.entries.setdefault(image, []).append(number)
            view = f"{entry.get('laterality', '')} {entry['view']}".strip() if entry.get("view") else ""
            self.candidates[image] = Candidate(image, str(entry["patient"]), view)

    def choose(
        self,
        strategy: str,
        images: int,
        labelled: Iterable[str] = (),
        scores: Mapping[str, Sequence[ImageScore]] | None = None,
        seed: int = 0,
    ) -> list[str]:
        """Images to label next, in the order of choice; see :func:`monai_mammo.active_learning.choose`.

        Args:
            scores: of each image's entries; an image's own is their mean.
        """
        done = set(labelled)
        known = {image: _scored(self.candidates[image], of) for image, of in (scores or {}).items()}
        candidates = {**self.candidates, **known}
        left = [candidate for image, candidate in candidates.items() if image not in done]
        return choose(left, strategy, images, labelled=[candidates[image] for image in done], seed=seed)


class Replay:
    """The bundle and the decoded images, ready for any number of rounds.

    Raises:
        MammogramError: the datalist or one of its files cannot be used.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.pool = Pool(setup.dataset_dir)
        configs = Path(setup.bundle).resolve() / "configs"
        self.training = [str(configs / "train.yaml")]
        self.evaluation = [*self.training, str(configs / "evaluate.yaml")]
        self.values = {
            **setup.overrides,
            "bundle_root": str(Path(setup.bundle).resolve()),
            "dataset_dir": str(Path(setup.dataset_dir).resolve()),
            "num_workers": 0,
            "is_not_rank0": True,  # leaves out what only a person watching one training needs: logs, checkpoints
        }

    def run(self, task: Round, weights: Path, former: Path | None = None) -> dict[str, Any]:
        """Train, measure and choose.

        Args:
            task: the round.
            weights: where the trained weights go.
            former: weights to start from, if the setup says so.

        Returns:
            what :func:`monai_mammo.active_learning.simulation.simulate` yields.

        Raises:
            MammogramError: an image cannot be used, or the training gave no weights.
        """
        started = time.monotonic()
        seed = 1000 * task.seed + task.number
        try:
            self._train(task.labelled, seed, weights, former if self.setup.warm_start else None)
            metrics, network = self._measure(weights)
            followers = STRATEGIES if task.strategy == "start" else (task.strategy,)
            scores = self._score(network) if set(followers) != {"random"} else {}
        except RuntimeError as error:
            raise cause_of(error) from error
        following = {
            strategy: self.pool.choose(strategy, self.setup.add, task.labelled, scores, seed) for strategy in followers
        }
        return {
            **asdict(task),
            "labelled": list(task.labelled),
            "images": len(task.labelled),
            "patients": len({self.pool.candidates[image].patient for image in task.labelled}),
            "metrics": metrics,
            "next": following,
            "seconds": round(time.monotonic() - started, 1),
        }

    def _train(self, labelled: Sequence[str], seed: int, weights: Path, former: Path | None) -> None:
        chosen = [number for image in sorted(labelled) for number in self.pool.entries[image]]
        weights.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as output:
            workflow = ConfigWorkflow(
                config_file=self.training,
                workflow_type="train",
                logging_file=False,
                **{
                    **self.values,
                    "output_dir": output,
                    "weights": str(weights),
                    "initial_weights": str(former or self.setup.initial_weights or ""),
                    "seed": seed,
                    "epochs": self.setup.validations,
                    "train#trainer#epoch_length": max(1, round(self.setup.steps / self.setup.validations)),
                    "train#dataset": Subset(self._training_images, chosen),
                    "validate#dataset": self._validation_images,
                },
            )
            workflow.initialize()
            workflow.run()
            workflow.finalize()

    def _measure(self, weights: Path) -> tuple[dict[str, float | None], torch.nn.Module]:
        """The metrics on the test section, as the bundle's evaluation has them (None: undefined), and the network."""
        workflow = ConfigWorkflow(
            config_file=self.evaluation,
            workflow_type="train",
            logging_file=False,
            **{
                **self.values,
                "weights": str(weights),
                "validate#report#output_dir": None,  # no interval for each of many networks
                "validate#dataset": self._test_images,
            },
        )
        workflow.initialize()
        workflow.run()
        state = workflow.parser.get_parsed_content("validate#evaluator").state
        metrics = {name: float(value) if math.isfinite(value) else None for name, value in state.metrics.items()}
        return metrics, workflow.network_def

    def _score(self, network: torch.nn.Module) -> dict[str, list[ImageScore]]:
        """Scores of every image's entries."""
        flips = flips_of(self._metadata)
        parser = self._parser(self.evaluation)
        inferer, device = parser.get_parsed_content("validate#inferer"), parser.get_parsed_content("device")
        scores: list[ImageScore] = []
        for start in range(0, len(self._pool_inputs), SCORED_AT_ONCE):
            images, windows, insides = zip(*self._pool_inputs[start : start + SCORED_AT_ONCE], strict=True)
            passes = varied_passes(network.eval(), torch.stack(images).to(device), flips, forward=inferer)
            scores += score_passes(passes, windows, insides)
        return {image: [scores[number] for number in numbers] for image, numbers in self.pool.entries.items()}

    def _parser(self, files: list[str]) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(files)
        for key, value in self.values.items():
            parser[key] = value
        return parser

    @cached_property
    def _training_images(self) -> CacheDataset:
        return self._parser(self.training).get_parsed_content("train#dataset")

    @cached_property
    def _validation_images(self) -> CacheDataset:
        return self._parser(self.training).get_parsed_content("validate#dataset")

    @cached_property
    def _test_images(self) -> CacheDataset:
        parser = self._parser(self.evaluation)
        data = load_datalist(self.setup.dataset_dir, "test")
        transform = parser.get_parsed_content("validate#preprocessing")
        return CacheDataset(data, transform, cache_rate=parser.get_parsed_content("cache_rate"), progress=False)

    @cached_property
    def _pool_inputs(self) -> list[tuple[torch.Tensor, tuple[float, float], torch.Tensor | None]]:
        """Every entry as the network sees it, with the window and the breast in which its uncertainty is pooled."""
        parser = self._parser(self.evaluation)
        prepare = parser.get_parsed_content("validate#preprocessing")
        inputs = []
        for entry in load_datalist(self.setup.dataset_dir, "training"):
            data = prepare(entry)
            inputs.append((data["image"].as_tensor(), *pooled_over(data, parser, self._metadata)))
        return inputs

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return config_of(Path(self.setup.bundle), "metadata.json")


def _scored(candidate: Candidate, scores: Sequence[ImageScore]) -> Candidate:
    uncertainty = float(np.mean([score.uncertainty for score in scores]))
    embedding = np.mean([score.embedding for score in scores], axis=0)
    return replace(candidate, uncertainty=uncertainty, embedding=embedding)
