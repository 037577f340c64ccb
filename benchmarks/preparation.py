"""How much of preparing a data set is more than decoding it: images per second of `prepare` / of a loop of pydicom.

    python benchmarks/preparation.py [--images 240] [--rows 2560] [--columns 1920] [--processes N] [--rounds 2]

JPEG 2000 phantoms of a full-field detector's size with their lesions' masks; both tasks. Both sides use as many
processes, in turns in one run; the loop's import pydicom alone. Three ratios are printed: of the whole runs, the
start of the processes included; of the time from the first to the last image; and of the processor time of the
workers, imports included, which a busy machine disturbs least. The goal is 0.8 at least.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom

DRAWN = 2
"""Patients that are drawn, four views each; further images are copies of these files."""


def decode(file: Path) -> None:
    pydicom.dcmread(file).pixel_array  # noqa: B018


def worked() -> float:
    """Processor seconds of all worker processes that have ended, once all have."""
    while multiprocessing.active_children():
        time.sleep(0.05)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def decoding(files: list[Path], processes: int) -> tuple[float, float, float]:
    """Seconds of the whole loop, from the first image to the last, and of its processors."""
    before = worked()
    start = time.perf_counter()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        ends = [time.perf_counter() for _ in as_completed([pool.submit(decode, file) for file in files])]
    return ends[-1] - start, ends[-1] - ends[0], worked() - before


def preparing(data_set: Any, source: Path, out: Path, processes: int) -> tuple[float, float, float]:
    """The same of `prepare`; its end is when the datalists are written."""
    from monai_mammo.datasets.prepare import prepare

    ends: list[float] = []

    def watched(items: Iterator[Any], total: int) -> Iterable[Any]:
        for item in items:
            ends.append(time.perf_counter())
            yield item

    before, start = worked(), time.perf_counter()
    prepared = prepare(data_set, source, out, processes=processes, progress=watched)
    end = time.perf_counter()
    print("   ", prepared.counts, len(prepared.defects), "defects")
    return end - start, end - ends[0], worked() - before


def phantoms(source: Path, number: int, rows: int, columns: int) -> Any:
    """A data set of JPEG 2000 files, complete mammograms with masks."""
    from pydicom.uid import JPEG2000Lossless

    from monai_mammo.datasets import phantom, phantom_dicom
    from monai_mammo.datasets.sources import SourceImage, SourceLesion

    phantom.TRANSFER_SYNTAXES = (JPEG2000Lossless,)  # type: ignore[attr-defined]
    phantom.PHOTOMETRIC, phantom.VOI = phantom_dicom.PHOTOMETRIC[:1] * 2, phantom_dicom.VOI[:1]
    drawn = phantom.write_phantoms(source / "drawn", DRAWN, 0, truncated_fraction=0, rows=rows, columns=columns)
    images = []
    for index in range(number):
        truth = drawn[index % len(drawn)]
        file = source / f"{index:04d}.dcm"
        shutil.copy(source / "drawn" / truth.file, file)
        lesions = tuple(SourceLesion(masks=(source / "drawn" / lesion.mask,)) for lesion in truth.lesions)
        images.append(
            SourceImage(file, f"P{index // 4}", truth.laterality, truth.view, lesions=lesions, normal=not lesions)
        )
    return SimpleNamespace(NAME="phantoms", LICENCE="", images=lambda source, defects: images)


def main() -> None:
    from monai_mammo.machine import available_cores

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=240)
    arguments.add_argument("--rows", type=int, default=2560)
    arguments.add_argument("--columns", type=int, default=1920)
    arguments.add_argument("--processes", type=int, default=available_cores())
    arguments.add_argument("--rounds", type=int, default=2)
    chosen = arguments.parse_args()
    print(f"{chosen.images} JPEG 2000 images of {chosen.rows} x {chosen.columns}, {chosen.processes} processes")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        data_set = phantoms(source, chosen.images, chosen.rows, chosen.columns)
        files = [image.image for image in data_set.images(source, [])]
        times: dict[str, list[tuple[float, float, float]]] = {"decoding": [], "preparing": []}
        for number in range(chosen.rounds):
            times["decoding"].append(decoding(files, chosen.processes))
            out = Path(folder) / f"out{number}"
            times["preparing"].append(preparing(data_set, source, out, chosen.processes))
            shutil.rmtree(out)
    for index, what in enumerate(("whole runs", "first to last image", "processor time")):
        seconds = {side: statistics.median(one[index] for one in some) for side, some in times.items()}
        rates = {side: (len(files) - (index == 1)) / value for side, value in seconds.items()}
        ratio = rates["preparing"] / rates["decoding"]
        print(
            f"{what:20s} decoding {rates['decoding']:6.2f} images/s, preparing {rates['preparing']:6.2f} images/s, "
            f"ratio {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
