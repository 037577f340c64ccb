"""Many images in one run: what `inference.yaml` needs beside MONAI, so that no image costs another's result.

Not here: which images (`datasets.datalist.images_to_predict`), and one image at a time (`predictor`).
"""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch.utils.data import IterableDataset, get_worker_info

from monai_mammo.bundles import no_numbers
from monai_mammo.dicom.errors import MammogramError, cause_of
from monai_mammo.transforms import source_of

_LOG = logging.getLogger(__name__)


class UsableImages(IterableDataset):
    """Images after the preprocessing, one after the other; what cannot be used is left out, and the log says why.

    Its length is not known before the end, so that an evaluator runs until there are no more.

    Args:
        data: what each image's preprocessing begins with.
        transform: the preprocessing.

    Raises:
        MammogramError: at the end, if not one of the images can be used (several worker processes: in the log only).
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any]) -> None:
        self.data, self.transform = data, transform

    def __iter__(self) -> Iterator[Any]:
        """Give every usable image."""
        worker = get_worker_info()
        share = self.data[worker.id :: worker.num_workers] if worker else self.data
        unusable: list[MammogramError] = []
        for given in share:
            try:
                image = self.transform(given)
            except (MammogramError, RuntimeError) as error:
                cause = cause_of(error)
                if not isinstance(cause, MammogramError):
                    raise
                unusable.append(cause)
                _LOG.warning("left out: %s", cause)
            else:
                yield image
        if unusable and len(unusable) == len(share) and worker is None:
            reason = f"{unusable[0].reason}; not one of the {len(share)} files given can be used"
            raise MammogramError(unusable[0].path, reason, unusable[0].remedy) from unusable[0]
        if unusable:
            _LOG.warning("%d of %d files have no result; the lines above say why", len(unusable), len(share))


class QualityTable:
    """Handler that writes `predictions.csv` row by row, so that a run which ends early keeps what it has done.

    Columns: `image` (path below `data_root`), the probabilities of `complete` and `incomplete`, and the `verdict`, the
    likelier of the two.

    Args:
        output_dir: made if it does not exist; a table of an earlier run is replaced.
        data_root: folder that the paths are relative to.

    Raises:
        MammogramError: a probability is not a number, which would make the verdict "complete".
    """

    def __init__(self, output_dir: str | Path, data_root: str | Path) -> None:
        self.file, self.data_root = Path(output_dir) / "predictions.csv", data_root

    def attach(self, engine: Engine) -> None:
        """Begin a table with every run of a MONAI evaluator and fill it with what its postprocessing gives."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Add the images of one batch."""
        rows = []
        for item in engine.state.output:  # type: ignore[union-attr]
            complete, incomplete = (float(value) for value in item["pred"])
            if not math.isfinite(incomplete):
                raise no_numbers(source_of(item["image"]))
            image = Path(os.path.relpath(source_of(item["image"]), self.data_root)).as_posix()
            verdict = "incomplete" if incomplete > complete else "complete"
            rows.append((image, f"{complete:.4f}", f"{incomplete:.4f}", verdict))
        self._write("a", rows)

    def _begin(self, engine: Engine) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._write("w", [("image", "complete", "incomplete", "verdict")])

    def _write(self, mode: str, rows: Sequence[Sequence[str]]) -> None:
        # Names that are no UTF-8 keep their bytes.
        with self.file.open(mode, newline="", encoding="utf-8", errors="surrogateescape") as opened:
            csv.writer(opened, lineterminator="\n").writerows(rows)
