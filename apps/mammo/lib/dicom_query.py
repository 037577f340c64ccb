"""QIDO-RS (PS3.18 10.6): which studies, series or instances match a query, and what is told of them.

Not here: where the headers come from, and HTTP.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from .dicom_index import INSTANCE, SERIES, STUDY, Instance, tag_of
from .errors import RequestRefused

Level = Literal["study", "series", "instance"]
_MOST_WILDCARDS = 6  # more make a search slow, not better
_NUMERIC = ("DS", "FD", "FL", "IS", "SL", "SS", "UL", "US")
_MODALITIES = tag_of("ModalitiesInStudy")
_TOLD = {"study": STUDY, "series": (*STUDY, *SERIES), "instance": (*STUDY, *SERIES, *INSTANCE)}


def search(
    instances: Collection[Instance], level: Level, parameters: Iterable[tuple[str, str]], root: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """What matches, as DICOM JSON.

    Args:
        instances: where to search.
        level: what one result is.
        parameters: of the query: attributes by keyword or tag, `limit`, `offset`, `includefield`, `fuzzymatching`.
        root: address of the service, for the RetrieveURLs.

    Returns:
        the results, and the names of parameters that are not supported and were ignored.

    Raises:
        RequestRefused: a parameter makes no sense (400).
    """
    filters, page, extra, fuzzy, ignored = _read(parameters)
    studies: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        studies[instance.study].append(instance)
    wanted = filters.pop(_MODALITIES, "")
    if wanted:
        studies = {
            study: group
            for study, group in studies.items()
            if any(_one_of(kind, wanted) for kind in _modalities(group))
        }
    found: dict[str, list[Instance]] = defaultdict(list)
    for instance in (instance for group in studies.values() for instance in group):
        if all(_matches(instance, tag, value, fuzzy) for tag, value in filters.items()):
            found[_group(instance, level)].append(instance)
    ordered = sorted(found.values(), key=lambda group: _order(group[0], level))
    chosen = ordered[page.start : page.stop]
    return [_told(group[0], level, studies[group[0].study], extra, root) for group in chosen], ignored


def _read(parameters: Iterable[tuple[str, str]]) -> tuple[dict[str, str], slice, list[str], bool, list[str]]:
    filters: dict[str, str] = {}
    numbers: dict[str, int | None] = {"limit": None, "offset": 0}
    extra: list[str] = []
    fuzzy, ignored = False, []
    for name, value in parameters:
        if name in numbers:
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise RequestRefused(400, f"'{name}' is no whole number", "Give 0 or more")
            numbers[name] = int(value)
        elif name == "includefield":
            extra += [tag for tag in map(_tag, value.split(",")) if tag]
        elif name == "fuzzymatching":
            fuzzy = value.lower() == "true"
        elif name == "accept":
            continue
        else:
            tag = _tag(name)
            if tag is None or (keyword_for_tag(tag) not in _TOLD["instance"] and tag != _MODALITIES):
                ignored.append(name[:64])
            elif value.strip("* "):  # else it matches everything
                filters[tag] = value
    start = int(numbers["offset"] or 0)
    limit = numbers["limit"]
    return filters, slice(start, None if limit is None else start + limit), extra, fuzzy, ignored


def _tag(name: str) -> str | None:
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        return name.upper()
    tag = tag_for_keyword(name)
    return None if tag is None else f"{tag:08X}"


def _matches(instance: Instance, tag: str, wanted: str, fuzzy: bool) -> bool:
    entry = instance.attributes.get(tag, {})
    kind = dictionary_VR(int(tag, 16))
    values = entry.get("Value", [])
    if kind == "PN":
        names = [part for value in values for part in value.values()]
        return any(_is_name(name, wanted, fuzzy) for name in names)
    if kind in ("DA", "TM"):
        return any(_in_range(str(value), wanted) for value in values)
    if kind in _NUMERIC:
        return any(_is_number(value, wanted) for value in values)
    return any(_one_of(str(value), wanted, listed=kind == "UI") for value in values)


def _one_of(value: str, wanted: str, listed: bool = True) -> bool:
    options = re.split(r"[,\\]", wanted) if listed else wanted.split("\\")
    return any(_like(value, option) for option in options)


def _like(value: str, pattern: str) -> bool:
    """Whether a value matches a pattern in which * stands for anything and ? for one character."""
    pattern = re.sub(r"\*+", "*", pattern)
    if pattern.count("*") > _MOST_WILDCARDS:
        raise RequestRefused(400, "the query has too many wildcards", f"Use at most {_MOST_WILDCARDS}")
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, value.strip(), re.DOTALL) is not None


def _is_name(name: str, wanted: str, fuzzy: bool) -> bool:
    name, wanted = name.casefold().rstrip("^ "), wanted.casefold().rstrip("^ ")
    if fuzzy:  # every word begins a part of the name
        parts = re.split(r"[\^\s]+", name)
        words = [word for word in re.split(r"[\^\s*?,]+", wanted) if word]
        return all(any(part.startswith(word) for part in parts) for word in words)
    return _like(name, wanted)


def _in_range(value: str, wanted: str) -> bool:
    """Dates and times, alone or as `from-to` with either end left out; a shorter end means all that begins so."""
    first, dash, last = (part.strip() for part in wanted.partition("-"))
    if not re.fullmatch(r"[\d.]*", first + last):
        raise RequestRefused(
            400, "a date or time is not made of digits", "Write 20240131, 20240101-20240131 or 0930-12"
        )
    if not dash:
        return value.startswith(first) if first else True
    return (not first or value[: len(first)] >= first) and (not last or value[: len(last)] <= last)


def _is_number(value: Any, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return False


def _group(instance: Instance, level: Level) -> str:
    return {"study": instance.study, "series": f"{instance.study}/{instance.series}", "instance": instance.sop}[level]


def _order(instance: Instance, level: Level) -> tuple[Any, ...]:
    """Newest study first, then by number."""
    date = str(instance.value("StudyDate") or "")
    newest_first = tuple(-ord(character) for character in date) or (1,)
    number = instance.value({"series": "SeriesNumber", "instance": "InstanceNumber"}.get(level, "StudyID"))
    return newest_first, instance.study, float(number) if isinstance(number, int | float) else 0.0, instance.series


def _told(one: Instance, level: Level, study: Sequence[Instance], extra: list[str], root: str) -> dict[str, Any]:
    tags = [*map(tag_of, _TOLD[level]), *extra]
    told = {tag: one.attributes[tag] for tag in tags if tag in one.attributes}
    address = f"{root}/studies/{one.study}"
    told["00080056"] = {"vr": "CS", "Value": ["ONLINE"]}
    if level == "study":
        told[_MODALITIES] = {"vr": "CS", "Value": _modalities(study)}
        told[tag_of("NumberOfStudyRelatedSeries")] = _count({entry.series for entry in study})
        told[tag_of("NumberOfStudyRelatedInstances")] = _count(study)
    else:
        address += f"/series/{one.series}"
        told[tag_of("NumberOfSeriesRelatedInstances")] = _count(
            [entry for entry in study if entry.series == one.series]
        )
    if level == "instance":
        address += f"/instances/{one.sop}"
    told["00081190"] = {"vr": "UR", "Value": [address]}
    return dict(sorted(told.items()))


def _modalities(study: Sequence[Instance]) -> list[str]:
    return sorted({str(entry.value("Modality") or "") for entry in study} - {""})


def _count(entries: Collection[Any]) -> dict[str, Any]:
    return {"vr": "IS", "Value": [len(entries)]}
