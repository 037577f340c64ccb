"""The audit of prepared data: what is in the datalists and what is wrong with it, before anything is trained on it.

Here are reading the datalists, the run over all files, and what JSON holds of it. When something is wrong is decided in
`audit_checks` and `audit_copies`, what it means stands in `audit_catalogue`; the page and the files are `audit_page`'s.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import track

from monai_mammo.datasets.audit_catalogue import (
    CHECKS,
    SEVERITIES,
    DataList,
    Finding,
    Item,
    Measures,
    Severity,
)
from monai_mammo.datasets.audit_checks import check_list, check_lists
from monai_mammo.datasets.audit_copies import find_copies
from monai_mammo.datasets.audit_pixels import Job, Measure, measure
from monai_mammo.datasets.datalist import SECTIONS
from monai_mammo.datasets.pool import run
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.machine import available_cores

VERSION = 1
"""Of the form of audit.json."""

NOT_CHECKED = (
    "The side of images whose chest wall is not clear; the view of those whose upper corner is not, of the turned and "
    "cut samples of the quality task, and views other than CC and MLO. Where there is a DICOM header, the datalist is "
    "compared with it all the same.",
    "Copies that are cropped, moved or turned by more than a little. Of 100 copies cropped by 0.5 % of a side, or "
    "turned by 0.5 degrees, at least 97 are found; cropped by 1 % about 80, by 2 % about 30, by 5 % hardly any; turned "
    "by 1 degree 94, by 2 degrees hardly any; moved by 0.5 % within the frame about 25.",
    "Whether a mask outlines the right structure: look at the pictures.",
    "Whether two patients of a list are one, where neither a DICOM header nor the spelling of their names says so.",
    "Text within the breast, and single marks outside it.",
)

COUNTED = ("laterality", "view", "density", "birads", "pathology", "cause")
"""Keys of the entries by which they are counted."""

_DIED = "Look at the file, or audit with fewer processes"
_FEW_JOBS = 24  # below which starting processes takes longer than the work


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    `pictures` has a JPEG thumbnail of every decoded image; `prepared` is what `prepare` wrote of its source and
    options, empty for other data.
    """

    out: Path
    lists: tuple[DataList, ...]
    findings: tuple[Finding, ...]
    pictures: Mapping[Path, bytes]
    prepared: Mapping[str, Any]

    @property
    def safe(self) -> bool:
        """Whether there is no error."""
        return not self.counts["error"]

    @property
    def counts(self) -> dict[Severity, int]:
        """Findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def name(self, file: Path) -> str:
        """A file as JSON and page name it: relative to the audited folder, or to where the source's folder lay."""
        return Path(os.path.relpath(file, self.out) if file.is_absolute() else file).as_posix()

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values; the form is fixed by :data:`VERSION`."""
        return {
            "version": VERSION,
            "safe": self.safe,
            "counts": self.counts,
            "prepared": dict(self.prepared),
            "lists": [
                {"name": data.name, "file": self.name(data.file), "splits": {s: numbers(data, s) for s in SECTIONS}}
                for data in self.lists
            ],
            "findings": [
                {
                    "check": finding.check,
                    "severity": finding.severity,
                    "title": CHECKS[finding.check].title,
                    "detail": finding.detail,
                    "files": [self.name(file) for file in finding.files],
                    "lists": list(finding.lists),
                    "explanation": CHECKS[finding.check].explanation,
                    "remedy": CHECKS[finding.check].remedy,
                }
                for finding in self.findings
            ],
            "not_checked": list(NOT_CHECKED),
        }


def audit(
    out: Path,
    *,
    processes: int | None = None,
    progress: bool = False,
) -> Audit:
    """Audit a folder of datalists: every image and mask that they name is decoded once.

    Args:
        out: folder that holds `dataset.json`, or folders that do (as `prepare` and `phantom` leave it).
        processes: that decode at the same time; 0 decodes in this one; None takes as many as there are cores, or this
            one for a few files.
        progress: show a progress bar.

    Raises:
        MammogramError: there is no datalist in the folder.
    """
    out = Path(out).absolute()
    lists = [_read_list(file, out) for file in _datalists(out)]
    measures, pictures = _measure_all(lists, processes, progress)
    prepared, defects = _prepared(out)
    found: list[Finding] = []
    for data in lists:
        found += check_list(data, measures)
        found += find_copies(data, measures)
    found += check_lists(lists)
    return Audit(out, tuple(lists), tuple(_merged([*found, *defects])), pictures, prepared)


def numbers(data: DataList, section: str) -> dict[str, Any]:
    """How many entries, images and patients a split has, and its entries by label and by each of :data:`COUNTED`."""
    items = [item for item in data.items if item.section == section]
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        if item.mask is None and item.text("label"):
            groups["label"][item.text("label")] += 1
        for key in COUNTED:
            if item.text(key):
                groups[key][item.text(key)] += 1
    return {
        "entries": len(items),
        "images": len({item.image for item in items}),
        "patients": len({item.text("patient") for item in items} - {""}),
        "groups": {key: dict(sorted(counts.items())) for key, counts in groups.items()},
    }


def _datalists(out: Path) -> list[Path]:
    remedy = "Give a folder that `monai-mammo prepare` or `phantom` wrote, or one with a dataset.json"
    if not out.is_dir():
        raise MammogramError(out, "there is no such folder", remedy)
    files = [file for file in (out / "dataset.json", *sorted(out.glob("*/dataset.json"))) if file.is_file()]
    if not files:
        raise MammogramError(out, "there is no datalist in this folder or one level below", remedy)
    return files


def _read_list(file: Path, out: Path) -> DataList:
    """A datalist; what cannot be read of it becomes a finding."""
    name = file.parent.name if file.parent != out else out.name
    data = DataList(name, file)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict):
        data.faults.append(Finding("datalist", "error", "it is no legible JSON object", (file,), (name,)))
        return data
    labels = document.get("labels")
    if isinstance(labels, dict) and labels and all(key.isdecimal() for key in labels):
        data.labels = tuple(sorted(int(key) for key in labels))
        data.names = {key: str(name) for key, name in labels.items()}
    for section in SECTIONS:
        entries = document.get(section, [])
        if not isinstance(entries, list):
            data.faults.append(Finding("datalist", "error", f"{section} is no list", (file,), (name,)))
            continue
        for number, entry in enumerate(entries):
            if isinstance(entry, dict) and isinstance(entry.get("image"), str):
                data.items.append(_item(section, number, entry, data))
            else:
                detail = f"{section}[{number}] names no image"
                data.faults.append(Finding("datalist", "error", detail, (file,), (name,)))
    return data


def _item(section: str, number: int, entry: Mapping[str, Any], data: DataList) -> Item:
    folder, label = data.file.parent, entry.get("label")
    image = _absolute(folder, str(entry["image"]))
    if isinstance(label, str):
        return Item(section, number, image, _absolute(folder, label), entry)
    called = "" if label is None else data.names.get(str(label), f"label {label}")
    return Item(section, number, image, None, entry, called)


def _absolute(folder: Path, file: str) -> Path:
    return Path(os.path.normpath(folder / file))


def _measure_all(
    lists: Sequence[DataList],
    processes: int | None,
    progress: bool,
) -> tuple[Measures, dict[Path, bytes]]:
    """Measure every existing image once, with all masks that any list gives it."""
    masks: dict[Path, dict[Path, None]] = defaultdict(dict)
    for data in lists:
        for item in data.items:
            masks[item.image] |= {item.mask: None} if item.mask and item.mask.is_file() else {}
    jobs = [Job(image, tuple(of_image)) for image, of_image in masks.items() if image.is_file()]
    if processes is None:
        processes = available_cores() if len(jobs) >= _FEW_JOBS else 0
    found: dict[Path, tuple[Measure, dict[Path, Any]]] = {}
    pictures: dict[Path, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = [_Work(job, Path(folder) / f"{number}.pickle") for number, job in enumerate(jobs)]
        done = run(_measure, work, processes)
        for each, died in track(done, "audit", total=len(work)) if progress else done:
            result = Measure(fault=died, remedy=_DIED) if died else pickle.loads(each.result.read_bytes())
            each.result.unlink(missing_ok=True)
            if result.thumbnail:
                pictures[each.job.image] = result.thumbnail
            masks_of = dict(zip(each.job.masks, result.masks, strict=False))  # no masks where the image has a fault
            found[each.job.image] = (replace(result, thumbnail=b"", masks=()), masks_of)
    return found, pictures


@dataclass(frozen=True)
class _Work:
    """A job and the file by which its result comes from the worker process."""

    job: Job
    result: Path


def _measure(work: _Work) -> None:
    work.result.write_bytes(pickle.dumps(measure(work.job)))


def _prepared(out: Path) -> tuple[dict[str, Any], list[Finding]]:
    """What `prepare` wrote of source and options, and its defects, one finding a reason; nothing for other data."""
    file = out / "prepared.json"
    if not file.is_file():
        return {}, []
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        source = Path(str(document.get("source", "")))  # the folder's name: where it lies is not recorded
        files: dict[str, dict[Path, None]] = defaultdict(dict)
        for defect in document.get("defects", []):
            files[f"{defect['reason']}; {defect['action']}"][source / defect["file"]] = None
        defects = [Finding("prepared", "note", reason, tuple(of_reason)) for reason, of_reason in files.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, [Finding("datalist", "warning", "it is not as `prepare` writes it", (file,))]
    return {key: value for key, value in document.items() if key not in ("defects", "sections")}, defects


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, however many lists or entries it comes from; errors first, then in the catalogue's order."""
    lists: dict[Finding, dict[str, None]] = defaultdict(dict)
    for finding in findings:
        lists[replace(finding, lists=())] |= dict.fromkeys(finding.lists)
    order = {check: number for number, check in enumerate(CHECKS)}
    merged = [replace(finding, lists=tuple(names)) for finding, names in lists.items()]
    return sorted(merged, key=lambda finding: (SEVERITIES.index(finding.severity), order[finding.check]))
