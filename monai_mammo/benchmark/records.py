"""What a benchmark's numbers are computed from, without weights, masks and logs: small enough to be committed, and
without the places where the data lie.

The report of such a copy is that of the benchmark. Copied back to where benchmarks are run, it is gone on with: its
runs count as done, and only further seeds and systems are trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from monai_mammo.benchmark.analysis import Analysis
from monai_mammo.benchmark.plan import OWN, PLAN, without_folders
from monai_mammo.benchmark.report import CASES, draw_cases
from monai_mammo.benchmark.results import find_benchmarks, read_benchmark
from monai_mammo.benchmark.runs import COSTS, PROBE, RECORD
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.files import write_json

_KEPT = (PLAN, COSTS, PROBE, RECORD, CASES, "config.yaml", "curves.csv", "metrics.json", "per_image.csv")


def keep_records(folders: Sequence[Path], out: Path) -> list[Path]:
    """Copy the records of benchmarks into a folder, one folder each; what was there of them is replaced.

    Args:
        folders: of benchmarks, or of folders of benchmarks.
        out: made if it does not exist.

    Returns:
        the copies' folders.

    Raises:
        MammogramError: a folder holds no benchmark, two have one name, or it would be copied onto itself.
    """
    found = {folder.resolve().name: folder.resolve() for folder in find_benchmarks(list(folders))}
    if len(found) < len(find_benchmarks(list(folders))):
        raise MammogramError(out, "two of the benchmarks have one name", "Rename one's folder")
    return [_keep(folder, out.resolve() / name) for name, folder in found.items()]


def _keep(folder: Path, kept: Path) -> Path:
    if kept == folder:
        raise MammogramError(folder, "the copy would replace the benchmark itself", "Give another --out")
    drawing = _cases(folder)
    shutil.rmtree(kept, ignore_errors=True)
    for file in sorted(folder.rglob("*")):
        below = file.relative_to(folder)
        listed = below.parts[0] == "datalists"
        if not file.is_file() or "training" in below.parts or not (listed or file.name in _KEPT):
            continue
        (kept / below).parent.mkdir(parents=True, exist_ok=True)
        if listed:
            write_json(kept / below, without_folders(json.loads(file.read_text())))
        else:
            shutil.copyfile(file, kept / below)
    if drawing is not None:
        (kept / CASES).write_bytes(drawing)
    return kept


def _cases(folder: Path) -> bytes | None:
    benchmark = read_benchmark(folder)
    own = next((test for test in benchmark.tests if test.name == OWN), None)
    if benchmark.plan.task != "segmentation" or own is None:
        return None
    analysis = Analysis(benchmark.plan.task, own, benchmark.plan.systems[0])
    return draw_cases(benchmark, analysis) if analysis.ranked() else None
