"""When a datalist, an image or a mask is found wrong, and how severely.

Judges what the entries say and what `audit_pixels` measured; decodes nothing. Copies of images are `audit_copies`'.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from monai_mammo.datasets.audit_catalogue import SPACING_FACTOR, SPACING_MM, DataList, Finding, Item, Measures, Severity
from monai_mammo.datasets.audit_pixels import MaskMeasure, Measure
from monai_mammo.datasets.datalist import SECTIONS
from monai_mammo.datasets.pseudonym import spelt

_FILLS, _MOST_OF_BREAST, _OUTSIDE, _MOSTLY_OUTSIDE = 0.8, 0.5, 0.1, 0.5
_RARELY_EMPTY, _FEW = 0.05, 6
_MAJORITY = 0.75


def check_list(data: DataList, measures: Measures) -> Iterator[Finding]:
    """Every finding within one datalist but those about copies of images."""
    yield from data.faults
    yield from _splits(data)
    yield from _patients(data)
    yield from _namesakes(data, measures)
    yield from _spellings(data, measures)
    yield from _repeated(data)
    yield from _files(data, measures)
    yield from _images(data, measures)
    yield from _labels(data)
    yield from _contradictions(data, measures)
    yield from _masks(data, measures)
    yield from _empty_masks(data, measures)
    yield from _sides(data, measures)
    yield from _views(data, measures)
    yield from _spacings(data, measures)
    yield from _balance(data)


def check_lists(lists: Sequence[DataList]) -> Iterator[Finding]:
    """Patients whose side differs between lists that have them on one side each: one finding for such lists."""
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    items: dict[str, list[Item]] = defaultdict(list)
    for data in lists:
        for patient, counts in _sections(data).items():
            if patient and len(counts) == 1:
                sides[patient][data.name] = next(iter(counts))
        for item in data.items:
            items[item.text("patient")].append(item)
    differing: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient, side in sorted(sides.items()):
        if len(set(side.values())) > 1:
            differing[tuple(side)].append(patient)
    for names, patients in differing.items():
        first = patients[0]
        where = ", ".join(f"{section} in {name}" for name, section in sides[first].items())
        detail = f"{len(patients)} patients, such as {first} ({where})"
        concerned = [item for patient in patients for item in items[patient]]
        yield Finding("patient-lists", "warning", detail, _unique(concerned), names)


def _unique(items: Sequence[Item]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(item.image for item in items))


def _sections(data: DataList) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for item in data.items:
        found[item.text("patient")][item.section] += 1
    return found


def _splits(data: DataList) -> Iterator[Finding]:
    counts = Counter(item.section for item in data.items)
    severities: dict[str, Severity] = {"training": "error", "validation": "error", "test": "note"}
    for section in SECTIONS:
        if not counts[section]:
            yield Finding("split-empty", severities[section], f"{section} has no entry", (data.file,), (data.name,))


def _patients(data: DataList) -> Iterator[Finding]:
    nameless = [item for item in data.items if not item.text("patient")]
    if nameless:
        yield Finding("no-patient", "error", f"{len(nameless)} entries", _unique(nameless), (data.name,))
    for patient, counts in sorted(_sections(data).items()):
        if patient and len(counts) > 1:
            where = ", ".join(f"{section}: {count}" for section, count in counts.items())
            concerned = [item for item in data.items if item.text("patient") == patient]
            yield Finding(
                "patient-splits", "error", f"patient {patient} (entries in {where})", _unique(concerned), (data.name,)
            )


def _namesakes(data: DataList, measures: Measures) -> Iterator[Finding]:
    """Patients of the datalist who are one by the headers. Copies of an image are a finding of their own."""
    images: dict[str, dict[str, Item]] = defaultdict(dict)
    for item, measure in _measured(data, measures):
        if measure.patient and item.text("patient"):
            images[measure.patient].setdefault(measure.digest, item)
    if len(images) < 2:  # one for everybody is a placeholder
        return
    for items in (list(of_patient.values()) for of_patient in images.values()):
        names, counts = {item.text("patient") for item in items}, Counter(item.section for item in items)
        if len(names) > 1:
            where = ", ".join(f"{section}: {count}" for section, count in counts.items())
            detail = f"{len(names)} patients of the datalist are one by the headers (images in {where})"
            severity: Severity = "error" if len(counts) > 1 else "warning"
            yield Finding("patient-header", severity, detail, _unique(items), (data.name,))


def _spellings(data: DataList, measures: Measures) -> Iterator[Finding]:
    """Patients whose names differ in capitals, spaces and zeros before a number, unless the headers tell them apart."""
    headers: dict[str, set[str]] = defaultdict(set)
    for item in data.items:
        headers[item.text("patient")].add(measures[item.image][0].patient if item.image in measures else "")
    spellings: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(headers.keys() - {""}):
        spellings[spelt(patient)].append(patient)
    said = set().union(*headers.values())
    for patients in spellings.values():
        known = set().union(*(headers[patient] for patient in patients))
        if len(patients) > 1 and ("" in known or len(said) < 2):  # one for everybody is a placeholder
            concerned = [item for item in data.items if item.text("patient") in patients]
            where = ", ".join(dict.fromkeys(item.section for item in concerned))
            detail = f"{', '.join(patients)} (images in {where})"
            yield Finding("patient-spelling", "warning", detail, _unique(concerned), (data.name,))


def _repeated(data: DataList) -> Iterator[Finding]:
    entries: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in data.items:
        entries[item.section, json.dumps(item.entry, sort_keys=True)].append(item)
    for (section, _), items in entries.items():
        if len(items) > 1:
            yield Finding("repeated", "warning", f"{len(items)} times in {section}", _unique(items), (data.name,))


def _files(data: DataList, measures: Measures) -> Iterator[Finding]:
    for item in data.items:
        if item.image not in measures:
            yield Finding("missing", "error", "the image does not exist", (item.image,), (data.name,))
            continue
        measure, masks = measures[item.image]
        if measure.fault:
            detail = f"image: {measure.fault}. {measure.remedy}."
            yield Finding("undecodable", "error", detail, (item.image,), (data.name,))
        if item.mask is None:
            continue
        if item.mask not in masks:
            if not item.mask.is_file():
                yield Finding("missing", "error", "the mask does not exist", (item.mask,), (data.name,))
            continue
        mask = masks[item.mask]
        if mask.fault and not mask.is_image:
            detail = f"mask: {mask.fault}. {mask.remedy}."
            yield Finding("undecodable", "error", detail, (item.mask,), (data.name,))


def _images(data: DataList, measures: Measures) -> Iterator[Finding]:
    rules: tuple[tuple[str, str, Severity, str], ...] = (
        ("blank", "blank", "error", "all pixels are equal"),
        ("inverted", "inverted", "error", "bright air reaches the image's border"),
        ("burned_in", "burned-in", "warning", "declared in the header"),
        ("lettering", "lettering", "note", "three or more marks in a line"),
    )
    for item, measure in _measured(data, measures):
        for attribute, check, severity, detail in rules:
            if getattr(measure, attribute) and not (item.is_crop and attribute in ("inverted", "lettering")):
                yield Finding(check, severity, detail, (item.image,), (data.name,))
        for key, known in (("laterality", measure.laterality), ("view", measure.view)):
            said = item.text(key)
            if said and known and said != known:
                detail = f"{key} is {said} in the datalist, {known} in the header"
                yield Finding("header", "warning", detail, (item.image,), (data.name,))
        said_mm, known_mm = _numbers(item.entry.get("spacing"), 2), measure.spacing
        if said_mm and known_mm and not math.isclose(said_mm[0], known_mm[0], rel_tol=0.05):
            detail = f"spacing is {said_mm[0]:.4g} mm in the datalist, {known_mm[0]:.4g} mm in the header"
            yield Finding("header", "warning", detail, (item.image,), (data.name,))


def _measured(data: DataList, measures: Measures) -> Iterator[tuple[Item, Measure]]:
    for item in data.items:
        found = measures.get(item.image)
        if found is not None and not found[0].fault:
            yield item, found[0]


def _labels(data: DataList) -> Iterator[Finding]:
    known = ", ".join(map(str, data.labels))
    for item in data.items:
        label = item.entry.get("label")
        if label is None:
            severity: Severity = "note" if item.section == "test" else "error"
            yield Finding("label", severity, f"no label ({item.section})", (item.image,), (data.name,))
        elif item.mask is None and (isinstance(label, bool) or label not in data.labels):
            detail = f"the label is {json.dumps(label)[:40]}, the datalist knows {known}"
            yield Finding("label", "error", detail, (item.image,), (data.name,))


def _contradictions(data: DataList, measures: Measures) -> Iterator[Finding]:
    """Images with several labels, of one file or of copies of it. Several masks are no contradiction."""
    images: dict[Path | str, list[Item]] = defaultdict(list)
    for item in data.items:
        if item.mask is None and item.entry.get("label") in data.labels:
            measure = measures[item.image][0] if item.image in measures else None
            images[measure.digest if measure and measure.signs else item.image].append(item)
    for items in images.values():
        if len({item.entry["label"] for item in items}) > 1:
            found = sorted({f"{item.entry['label']} ({item.section})" for item in items})
            detail = f"one image has the labels {', '.join(found)}"
            yield Finding("label-differs", "error", detail, _unique(items), (data.name,))


def _masks(data: DataList, measures: Measures) -> Iterator[Finding]:
    for item, measure in _measured(data, measures):
        mask = measures[item.image][1].get(item.mask) if item.mask else None
        if item.mask is None or mask is None:
            continue
        for check, severity, detail in _mask(item, measure, mask, data.labels):
            yield Finding(check, severity, detail, (item.mask, item.image), (data.name,))


def _mask(
    item: Item, measure: Measure, mask: MaskMeasure, labels: tuple[int, ...]
) -> Iterator[tuple[str, Severity, str]]:
    """What is wrong with one mask; the first fault that explains the others ends it."""
    box = item.entry.get("box")
    if mask.fault:
        if mask.is_image:
            yield "mask-swapped", "error", mask.fault
        return
    if mask.shape != measure.shape:
        sizes = "the mask has {} x {} pixels, the image {} x {}".format(*mask.shape, *measure.shape)
        yield "mask-size", "error", sizes
        return
    unknown = [value for value in mask.labels if value not in labels]
    if unknown:
        yield "label", "error", f"the mask has the value {unknown[0]}, the datalist knows {', '.join(map(str, labels))}"
    if mask.share > _FILLS:
        yield "mask-swapped", "error", f"{mask.share:.0%} of the image are marked"
        return
    if not mask.boxes:
        if box is not None:
            yield "mask-empty", "error", "the entry has a box, its mask marks nothing"
        return
    if mask.outside > _OUTSIDE and not item.is_crop:
        severity: Severity = "error" if mask.outside > _MOSTLY_OUTSIDE else "warning"
        yield "mask-outside", severity, f"{mask.outside:.0%} of the mask lie off the breast"
    if mask.of_breast > _MOST_OF_BREAST and not item.is_crop:
        yield "mask-large", "warning", f"{mask.of_breast:.0%} of the breast are marked"
    if box is not None:
        yield from _box(box, mask)


def _box(box: Any, mask: MaskMeasure) -> Iterator[tuple[str, Severity, str]]:
    corners = _numbers(box, 4)
    if corners is None or corners[2] <= corners[0] or corners[3] <= corners[1]:
        yield "box", "error", f"the box {json.dumps(box)[:60]} is no box"
        return
    overlap, best = max((_overlap(corners, extent), extent) for extent in mask.boxes)
    slack = max(2.0, 0.02 * max(best[2] - best[0], best[3] - best[1]))
    if max(abs(a - b) for a, b in zip(corners, best, strict=True)) > slack:
        given = ", ".join(f"{value:g}" for value in corners)
        detail = f"the box is [{given}], the mask's extent {list(best)} (overlap {overlap:.0%})"
        yield "box", "error" if overlap < 0.5 else "warning", detail


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(height, 0.0) * max(width, 0.0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    plain = all(isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each) for each in value)
    return tuple(float(each) for each in value) if plain else None


def _empty_masks(data: DataList, measures: Measures) -> Iterator[Finding]:
    """Empty masks of entries without a box: fine where many images have no lesion, odd where hardly any has none."""
    read = [
        (item, mask)
        for item, _ in _measured(data, measures)
        if item.mask and (mask := measures[item.image][1].get(item.mask)) and not mask.fault
    ]
    empty = [item for item, mask in read if not mask.boxes and item.entry.get("box") is None]
    if empty:
        rare = len(empty) <= _RARELY_EMPTY * len(read)
        detail = f"{len(empty)} of {len(read)} masks"
        files = tuple(dict.fromkeys(item.mask for item in empty if item.mask))
        yield Finding("mask-empty", "warning" if rare else "note", detail, files, (data.name,))


def _sides(data: DataList, measures: Measures) -> Iterator[Finding]:
    """Chest walls on another side than in most images of the same laterality: no convention is presumed."""
    clear: dict[str, list[tuple[Item, str]]] = defaultdict(list)
    for item, measure in _measured(data, measures):
        if measure.chest and item.text("laterality") and not item.is_crop:
            clear[item.text("laterality")].append((item, measure.chest))
    for laterality, found in clear.items():
        (side, count), *_ = Counter(chest for _, chest in found).most_common()
        if len(found) < _FEW or count < _MAJORITY * len(found):
            continue
        for item, chest in found:
            if chest != side:
                detail = f"{laterality}: chest wall at the {chest}, in {count} of {len(found)} at the {side}"
                yield Finding("laterality", "warning", detail, (item.image,), (data.name,))


def _views(data: DataList, measures: Measures) -> Iterator[Finding]:
    """CC that show a pectoral muscle in the corner, MLO that show the round corners of a CC.

    Not where the header contradicts the datalist, which is a finding of its own.
    """
    for item, measure in _measured(data, measures):
        said = item.text("view")
        if said not in ("CC", "MLO") or measure.view not in ("", said) or item.is_crop or item.is_sample:
            continue
        if measure.seen not in ("", said):
            detail = f"the datalist says {said}, the pixels show {_seen(measure)}"
            yield Finding("view", "warning", detail, (item.image,), (data.name,))


def _seen(measure: Measure) -> str:
    return "the pectoral muscle of an MLO" if measure.seen == "MLO" else "the round, dark corners of a CC"


def _spacings(data: DataList, measures: Measures) -> Iterator[Finding]:
    known: list[tuple[Item, tuple[float, ...]]] = []
    unknown: list[Item] = []
    for item, measure in _measured(data, measures):
        value = item.entry.get("spacing")
        spacing = _numbers(value, 2) if value is not None else measure.spacing
        if value is not None and spacing is None:
            yield Finding("spacing", "warning", f"{json.dumps(value)[:40]} is no spacing", (item.image,), (data.name,))
        elif spacing is not None:
            known.append((item, spacing))
        elif not item.is_sample:  # which `prepare` has resampled
            unknown.append(item)
    if unknown and not known:
        yield Finding("spacing-unknown", "note", "of no image", (data.file,), (data.name,))
    elif unknown:
        detail = f"of {len(unknown)} of {len(unknown) + len(known)} entries"
        yield Finding("spacing-unknown", "warning", detail, _unique(unknown), (data.name,))
    middle = median(spacing[0] for _, spacing in known) if known else 0.0
    for item, spacing in known:
        reason = _implausible(spacing, middle)
        if reason:
            yield Finding("spacing", "warning", reason, (item.image,), (data.name,))


def _implausible(spacing: Sequence[float], middle: float) -> str:
    row, column = spacing
    given = f"{row:.4g} x {column:.4g} mm"
    if not all(SPACING_MM[0] <= side <= SPACING_MM[1] for side in spacing):
        return given
    if not math.isclose(row, column, rel_tol=0.01):
        return f"{given} is not square"
    if max(row / middle, middle / row) > SPACING_FACTOR:
        return f"{given}, the list's median is {middle:.4g} mm"
    return ""


def _balance(data: DataList) -> Iterator[Finding]:
    by_section: dict[str, Counter[int]] = defaultdict(Counter)
    for item in data.items:
        label = item.entry.get("label")
        if isinstance(label, int) and label in data.labels:
            by_section[item.section][label] += 1
    for section, counts in by_section.items():
        total = sum(counts.values())
        for label in data.labels:
            share = counts[label] / total
            if not counts[label]:
                # What learns from one class, or is chosen by one, has learnt nothing: its AUC does not exist.
                severity: Severity = "warning" if section == "test" else "error"
                yield Finding("balance", severity, f"{section}: no label {label}", (data.file,), (data.name,))
            elif share < 0.2:
                detail = f"{section}: label {label} in {share:.0%} of {total} entries"
                yield Finding("balance", "note", detail, (data.file,), (data.name,))
