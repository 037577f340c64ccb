"""From a data set to the bundles' datalists: list, make every image's pieces, divide, write.

Order and resumption only: what is on disk is each data set's module's, what is made of an image `pieces`', who is
trained on `protocols`'.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from monai_mammo.datasets.datalist import LABEL_NAMES, SECTIONS, write_datalist, write_sections
from monai_mammo.datasets.earlier import SUMMARY, listed_sections, read_summary, refuse_another_source, settled_sections
from monai_mammo.datasets.lesions import MARGIN
from monai_mammo.datasets.pieces import Entry, Subject
from monai_mammo.datasets.pool import run
from monai_mammo.datasets.protocols import (
    PaperSplit,
    leaking,
    paper_quality,
    paper_segmentation,
    paper_segmentation_images,
    patient_split,
)
from monai_mammo.datasets.sources import Defect, SourceImage
from monai_mammo.datasets.work import do, missing, plain_defect, read_record, subjects
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.files import write_json
from monai_mammo.machine import available_cores

TASKS = ("segmentation", "quality")

_LISTS = {
    "segmentation": ("segmentation_roi", "segmentation_whole", "segmentation_crops"),
    "quality": ("quality",),
    "segmentation_paper": ("segmentation_paper",),
    "quality_paper": ("quality_paper",),
}
_BY_PATIENT = tuple(name for task in TASKS for name in _LISTS[task])
"""The lists that share one assignment of patients."""
_PAPER: Mapping[str, Callable[[Sequence[Entry], int], PaperSplit]] = {
    "segmentation": paper_segmentation,
    "quality": paper_quality,
}

_AND = ", "  # between the parts of the preparation that met a defect

Progress = Callable[[Iterator[Any], int], Iterable[Any]]
_Collected = tuple[dict[str, list[Entry]], list[Defect]]


class DataSet(Protocol):
    """What a data set's module has (see `sources`)."""

    NAME: str
    LICENCE: str

    def images(self, source: Path, defects: list[Defect]) -> list[SourceImage]:
        """List the data set."""


@dataclass
class Prepared:
    """What was made of a data set: datalists, what they say of themselves, and everything wrong with the data."""

    out: Path
    datalists: list[Path] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Entries by datalist and section."""
    remarks: dict[str, str] = field(default_factory=dict)
    """By datalist, what has to be known before it is used; by task, why there is none."""
    defects: list[Defect] = field(default_factory=list)


@dataclass(frozen=True)
class _Plan:
    name: str
    licence: str
    source: Path
    out: Path
    tasks: tuple[str, ...]
    protocol: str
    seed: int
    margin: float
    samples: int

    @property
    def makers(self) -> dict[str, str]:
        """The maker of each task's pieces."""
        return {task: task if self.protocol == "patient" else f"{task}_paper" for task in self.tasks}

    def title(self, task: str) -> str:
        """What a datalist calls the data set."""
        return (
            f"{self.name}, {2 * self.samples} samples a mammogram"
            if task == "quality" and self.samples > 1
            else self.name
        )


def prepare(
    data_set: DataSet,
    source: Path,
    out: Path,
    *,
    task: str | None = None,
    protocol: str = "patient",
    seed: int = 0,
    margin: float = MARGIN,
    samples: int = 1,
    processes: int | None = None,
    progress: Progress = lambda items, total: items,
) -> Prepared:
    """Make a data set's datalists; a second run redoes only what is missing or was made from other files or options.

    Patients stay in the section where any earlier run put them, whoever was added or missing meanwhile; new ones alone
    are dealt.

    Lists of protocol `patient`: `segmentation_roi` (an entry a lesion, with mask and box, the image whole),
    `segmentation_whole` (an entry an image, its label all its lesions), `segmentation_crops` (an entry a lesion, cut
    out; `region` and `source_size` lead back, see `lesions.place`) and `quality` (complete and incomplete samples),
    all with the same assignment of patients. Of protocol `paper`: `segmentation_paper` and `quality_paper`.

    Args:
        data_set: one of the modules of `monai_mammo.datasets`.
        source: the data set's folder.
        out: made if it does not exist; not inside `source`.
        task: `segmentation` or `quality`; None for all that the data set allows.
        protocol: `patient` or `paper`.
        seed: of everything random.
        margin: share of a lesion's side that a crop adds on each side, at least 0.
        samples: complete samples, and as many incomplete ones, of each mammogram of a validation or test patient in
            `quality`. The first pair is the same whatever their number; with more, what a classifier is said to reach
            depends less on how these few mammograms happened to be cut.
        processes: worker processes; None for one a core, 0 for none (everything in this process).
        progress: wraps the images' iterator, given their number, to show where it is.

    Returns:
        what was made. `out/prepared.json` says the same; it and each `dataset.json` are written whole or not at all.

    Raises:
        MammogramError: not that data set, an unusable `out`, one made from another folder of which no image is left, or
            a task for which the data set has no truth.
    """
    defects: list[Defect] = []
    _refuse_misplaced(source, out)
    images = _once(data_set.images(source, defects), defects)
    tasks = _tasks(images, source, task)
    plan = _Plan(data_set.NAME, data_set.LICENCE, source, out, tasks, protocol, seed, margin, samples)
    earlier = read_summary(out, data_set.NAME, seed)
    refuse_another_source(out, earlier, source, images)
    out.mkdir(parents=True, exist_ok=True)
    dropped = leaking(images) if protocol == "patient" else []
    both = "its patient is in the official test set, too"
    defects += [Defect(image.image, both, "left out of training") for image in dropped]
    gone = {image.image for image in dropped}
    prepared, kept = Prepared(out), [image for image in images if image.image not in gone]
    if task is None and tasks == ("quality",):
        prepared.remarks["segmentation"] = "no lesion is outlined; only quality was made"
    settled = settled_sections(out, earlier, _BY_PATIENT) if earlier else {}
    splits = patient_split(images, seed, kept=settled)
    made = _made(plan, kept, splits, processes, progress)
    better = _without_gaps(kept, made, splits, seed, settled) if protocol == "patient" else splits
    if better != splits:
        splits = better
        made = _made(plan, kept, splits, processes, progress)
    by_maker = {"listing": defects}
    for wanted_task, maker in plan.makers.items():
        entries, by_maker[maker] = made[maker]
        for name in _LISTS[maker]:
            if not entries[name]:
                by_maker[maker].append(Defect(source, f"nothing usable is left for {name}", "no datalist"))
                (out / name / "dataset.json").unlink(missing_ok=True)
                continue
            _write(plan, prepared, wanted_task, name, entries[name], splits, entries["originals"])
    prepared.defects = list(dict.fromkeys(defect for some in by_maker.values() for defect in some))
    _summarise(plan, prepared, len(images), by_maker, earlier, settled)
    return prepared


def _refuse_misplaced(source: Path, out: Path) -> None:
    if not source.is_dir():
        raise MammogramError(source, "there is no such folder", "Give the data set's folder")
    if out.exists() and not out.is_dir():
        raise MammogramError(out, "it is a file", "Give a folder to write into")
    if out.resolve().is_relative_to(source.resolve()):
        raise MammogramError(out, "it lies inside the data set, which would then hold its own results", "Give another")


def _once(images: Iterable[SourceImage], defects: list[Defect]) -> list[SourceImage]:
    """Every file once, as it is listed first."""
    seen: dict[Path, SourceImage] = {}
    for image in images:
        if image.image in seen:
            defects.append(Defect(image.image, "the data set lists it twice", "second listing left out"))
        seen.setdefault(image.image, image)
    return list(seen.values())


def _tasks(images: Sequence[SourceImage], source: Path, task: str | None) -> tuple[str, ...]:
    outlined = any(image.lesions for image in images)
    if task == "segmentation" and not outlined:
        raise MammogramError(source, "no lesion is outlined in it", "Use --task quality")
    return (task,) if task else TASKS if outlined else ("quality",)


def _subjects(
    plan: _Plan, images: Sequence[SourceImage], splits: Mapping[str, Sequence[str]]
) -> dict[str, list[Subject]]:
    """The mammograms that each maker works on."""
    chosen = dict.fromkeys(plan.makers.values(), images)
    if "segmentation_paper" in chosen:
        chosen["segmentation_paper"] = paper_segmentation_images(images)
    found = {maker: subjects(some, plan.source, plan.out, plan.seed, plan.margin) for maker, some in chosen.items()}
    if "quality" in found:
        held_out = {*splits["validation"], *splits["test"]}
        found["quality"] = [
            replace(subject, samples=plan.samples) if subject.image.patient in held_out else subject
            for subject in found["quality"]
        ]
    return found


def _made(
    plan: _Plan,
    images: Sequence[SourceImage],
    splits: Mapping[str, Sequence[str]],
    processes: int | None,
    progress: Progress,
) -> dict[str, _Collected]:
    """What every maker has made of the images, now or in an earlier run."""
    wanted = _subjects(plan, images, splits)
    died = _make(wanted, available_cores() if processes is None else processes, progress)
    return {maker: _collect(wanted[maker], maker, died) for maker in plan.makers.values()}


def _without_gaps(
    images: Sequence[SourceImage],
    made: Mapping[str, _Collected],
    splits: dict[str, list[str]],
    seed: int,
    settled: Mapping[str, str],
) -> dict[str, list[str]]:
    """The splits, or those of the patients with usable images, if that leaves fewer sections of the lists empty.

    Which images are usable shows only when they are decoded. Of few patients, all of a section's may have none.
    """
    lists = [
        {entry["patient"] for entry in some} for entries, _ in made.values() for name, some in entries.items() if some
    ]

    def gaps(of: Mapping[str, Sequence[str]]) -> int:
        return sum(patients.isdisjoint(of[section]) for patients in lists for section in SECTIONS)

    if not lists or not gaps(splits):
        return splits
    usable = [image for image in images if image.patient in set.union(*lists)]
    better = patient_split(usable, seed, set.intersection(*lists), settled)
    return better if gaps(better) < gaps(splits) else splits


def _make(wanted: Mapping[str, Sequence[Subject]], processes: int, progress: Progress) -> dict[str, str]:
    """Do what is missing, every mammogram decoded once; returns why some were not done, by name."""
    tasks = missing(wanted)
    return {task[0].subject.name: reason for task, reason in progress(run(do, tasks, processes), len(tasks)) if reason}


def _collect(wanted: Sequence[Subject], maker: str, died: Mapping[str, str]) -> _Collected:
    """All entries of a maker's lists, in the data set's order, and all that went wrong on the way."""
    entries: dict[str, list[Entry]] = {name: [] for name in (*_LISTS[maker], "originals")}
    defects = []
    for subject in wanted:
        record = None if subject.name in died else read_record(subject, maker)
        if record is None:
            reason = died.get(subject.name, "its record is not legible; run again")
            defects.append(Defect(subject.image.image, reason))
            continue
        defects += record.defects
        for name, some in record.entries.items():
            entries[name] += some
    return entries, defects


def _write(
    plan: _Plan,
    prepared: Prepared,
    task: str,
    name: str,
    entries: Sequence[Entry],
    splits: Mapping[str, Sequence[str]],
    originals: Sequence[Entry],
) -> None:
    """Write one datalist."""
    folder, labels = plan.out / name, LABEL_NAMES[task]
    if plan.protocol == "paper":
        split = _PAPER[task](entries, plan.seed)
        about = {
            "name": plan.name,
            "description": split.remark,
            "licence": plan.licence,
            "leak": {"same_original": split.sibling, "same_patient": split.patient},
        }
        sections = {section: _below(plan.out, some) for section, some in split.sections.items()}
        file = write_sections(folder, sections, about=about, labels=labels)
        prepared.remarks[name] = split.remark
        counts = {section: len(some) for section, some in sections.items()}
    else:
        listed = _below(plan.out, entries)
        file = write_datalist(
            folder,
            listed,
            splits,
            name=plan.title(task),
            labels=labels,
            licence=plan.licence,
            originals=_below(plan.out, originals) if task == "quality" else (),
        )
        section_of = {patient: section for section, patients in splits.items() for patient in patients}
        counts = Counter(section_of[entry["patient"]] for entry in entries)
        empty = [section for section in SECTIONS if not counts[section]]
        if empty:
            prepared.remarks[name] = f"no entry for {' and '.join(empty)}: too few patients with usable images"
    prepared.datalists.append(file)
    prepared.counts[name] = {section: counts.get(section, 0) for section in SECTIONS}


def _below(out: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Entries with their files' full paths."""
    return [
        entry | {key: out / entry[key] for key in ("image", "label") if isinstance(entry.get(key), str)}
        for entry in entries
    ]


def _summarise(
    plan: _Plan,
    prepared: Prepared,
    listed: int,
    by_maker: Mapping[str, Sequence[Defect]],
    earlier: Mapping[str, Any],
    settled: Mapping[str, str],
) -> None:
    """Write the summary; what earlier runs said of lists that this one did not touch stays in it."""
    known = [(plain_defect(defect, plan.source), part) for part, some in by_maker.items() for defect in some]
    kept = [
        ({key: value for key, value in defect.items() if key != "part"}, part)
        for defect in earlier.get("defects", [])
        for part in defect["part"].split(_AND)
        if part not in by_maker
    ]
    own = {name for maker in by_maker for name in (maker, *_LISTS.get(maker, ()))}
    document = {
        "data_set": plan.name,
        "licence": plan.licence,
        "source": plan.source.resolve().name,
        "options": {
            "tasks": plan.tasks,
            "protocol": plan.protocol,
            "seed": plan.seed,
            "margin": plan.margin,
            "samples": plan.samples,
        },
        "images": listed,
        "sections": dict(sorted({**settled, **listed_sections(plan.out, _BY_PATIENT)}.items())),
        "counts": _kept(earlier, "counts", own) | prepared.counts,
        "remarks": _kept(earlier, "remarks", own) | prepared.remarks,
        "defects": _merged(known + kept),
    }
    write_json(plan.out / SUMMARY, document)


def _merged(defects: Iterable[tuple[Mapping[str, str], str]]) -> list[dict[str, str]]:
    """Every defect once, with the parts of the preparation that met it."""
    parts: dict[tuple[tuple[str, str], ...], set[str]] = defaultdict(set)
    for defect, part in defects:
        parts[tuple(defect.items())].add(part)
    return [{**dict(defect), "part": _AND.join(sorted(met))} for defect, met in parts.items()]


def _kept(earlier: Mapping[str, Any], what: str, own: set[str]) -> dict[str, Any]:
    return {name: value for name, value in earlier.get(what, {}).items() if name not in own}
