"""A hospital's own table of images (CSV) as a datalist, split by patient: what `prepare` is to the public data sets.

Columns: `image` and `patient`; `label`, which is 0 or `complete`, 1 or `incomplete` for quality and the mask's file for
segmentation; `section` (training, validation, test), where the split is decided already; `box` (row0, column0, row1,
column1; half-open, pixels) and `spacing` (row, column; mm), numbers with spaces between. Paths are relative to the
table. Other columns go into the entries as they stand.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_mammo.datasets.datalist import LABEL_NAMES, SECTIONS, Task, sections_of_patients, write_datalist
from monai_mammo.datasets.sources import separator
from monai_mammo.datasets.splits import split_patients
from monai_mammo.dicom.errors import MammogramError, refusing

_ATTEMPTS = 20  # deals from the seed on, of which the first that leaves no section without a label is taken
REQUIRED = ("image", "label", "patient")
Entry = dict[str, Any]
_FORMS: Mapping[str, tuple[str, Callable[[Sequence[float]], bool]]] = {
    "box": ("row0 column0 row1 column1", lambda box: box[0] < box[2] and box[1] < box[3]),
    "spacing": ("row column", lambda spacing: min(spacing) > 0),
}
"""Columns of numbers: which, and what they have to fulfil."""


def datalist_of_table(task: Task, table: Path, out: Path, seed: int = 0) -> Path:
    """Write `out/dataset.json` from a table.

    Patients are dealt 70 / 10 / 20, those with an incomplete image by the same shares, unless the table has a column
    `section`. If that leaves a section without a label, further deals follow, at last with larger shares held out.
    Where `out` holds a datalist already, its patients stay in the section that they have, also those who were missing
    in between (`former_patients` in it); the new ones are dealt.

    Args:
        task: what its labels are.
        table: CSV with a header, separated by commas, semicolons or tabs; UTF-8.
        out: made if it does not exist.
        seed: of the split.

    Returns:
        the file's path.

    Raises:
        MammogramError: a column is missing, a row cannot be used (it names the row), a patient has two sections, or
            there are too few patients to split. Or `out/dataset.json` is no datalist.
    """
    entries = list(_entries(task, table))
    if not entries:
        raise MammogramError(table, "it has no row below its header", "Write one row an image")
    decided = any("section" in entry for entry in entries)
    former = out / "dataset.json"
    kept = sections_of_patients([former] if former.is_file() else [])
    splits = _given(table, entries) if decided else _dealt(table, entries, seed, kept)
    rows = [{key: value for key, value in entry.items() if key != "section"} for entry in entries]
    return write_datalist(out, rows, splits, name=table.stem, labels=LABEL_NAMES[task], former=kept)


def _entries(task: Task, table: Path) -> Iterator[Entry]:
    if not table.is_file():
        raise MammogramError(table, "there is no such file", "Check the path")
    with refusing(table, "it cannot be read as a table", "Save it as CSV in UTF-8"):
        names, rows = _rows(table.read_text(encoding="utf-8-sig"))
    if lacking := [name for name in REQUIRED if name not in names]:
        raise MammogramError(
            table,
            f"it has no column {', '.join(lacking)}; its columns are {', '.join(names) or 'none'}",
            f"Name the columns {', '.join(REQUIRED)}",
        )
    for line, row in rows:
        yield _entry(task, table, f"line {line}", row)


def _rows(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns' names, and every row that has a cell, with its line's number; as a spreadsheet saves a table.

    Excel's first line may be `sep=;`; the rows below the last may be there, without anything in them.
    """
    above = 0
    if text.lower().startswith("sep="):
        text, above = text.partition("\n")[2], 1
    header = text.splitlines()[0] if text else ""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator(header))
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    rows = []
    for row in reader:
        cells = {key: value.strip() for key, value in row.items() if isinstance(key, str) and value and value.strip()}
        if cells:
            rows.append((above + reader.line_num, cells))
    return names, rows


def _entry(task: Task, table: Path, where: str, row: dict[str, str]) -> Entry:
    if lacking := [name for name in REQUIRED if name not in row]:
        normal = "; a normal image (for mode whole) has a mask without any pixel set"
        hint = normal if task == "segmentation" and "label" in lacking else ""
        raise MammogramError(table, f"{where} has no {', '.join(lacking)}", f"Fill in every row, or leave it out{hint}")
    entry: Entry = {**row, "image": _file(table, where, row["image"])}
    entry |= {key: _numbers(table, where, key, row[key]) for key in _FORMS if key in row}
    if task == "segmentation":
        return {**entry, "label": _file(table, where, row["label"])}
    words = {word: int(number) for number, name in LABEL_NAMES[task].items() for word in (number, name)}
    label = words.get(row["label"].lower())
    if label is None:
        raise MammogramError(
            table, f"{where} has the label {row['label'][:40]}", "Write complete (0) or incomplete (1)"
        )
    return {**entry, "label": label}


def _numbers(table: Path, where: str, key: str, cell: str) -> list[float]:
    """A box or a spacing; the brackets and commas of a datalist may stand in the cell, too."""
    form, plausible = _FORMS[key]
    try:
        numbers = [float(word) for word in re.split(r"[\s,;]+", cell.strip("[]() "))]
    except ValueError:
        numbers = []
    if len(numbers) != len(form.split()) or not all(map(math.isfinite, numbers)) or not plausible(numbers):
        raise MammogramError(
            table, f"{where} has the {key} {cell[:40]}", f"Write {form}: numbers with a decimal point, spaces between"
        )
    return [int(number) if number.is_integer() else number for number in numbers]


def _file(table: Path, where: str, name: str) -> str:
    file = (table.parent / name).resolve()
    if not file.is_file():
        raise MammogramError(table, f"{where}: {name} does not exist", "Write paths relative to the table's folder")
    return str(file)


def _dealt(table: Path, entries: list[Entry], seed: int, kept: Mapping[str, str]) -> dict[str, list[str]]:
    try:
        deals = list(_deals(entries, seed, kept))
    except ValueError as error:
        raise MammogramError(table, str(error), "Add patients, or write a column `section`") from error
    return next((splits for splits in deals if not _lack_a_label(entries, splits)), deals[0])


def _deals(entries: list[Entry], seed: int, kept: Mapping[str, str]) -> Iterator[dict[str, list[str]]]:
    """Splits, the preferred ones first: by the shares, then with the patients of one label dealt by themselves.

    The latter leave no section without such a patient, and make validation and test larger than their shares.
    """
    patients = {entry["patient"] for entry in entries}
    incomplete, complete = ({entry["patient"] for entry in entries if entry["label"] == label} for label in (1, 0))
    for attempt in range(seed, seed + _ATTEMPTS):
        yield split_patients(patients, seed=attempt, first=incomplete, kept=kept)
    for some in (incomplete, complete):
        kinds = some, patients - some
        if min(map(len, kinds)) >= len(SECTIONS):
            apart = [split_patients(kind, seed=seed, kept=kept) for kind in kinds]
            yield {section: [patient for dealt in apart for patient in dealt[section]] for section in SECTIONS}


def _lack_a_label(entries: list[Entry], splits: Mapping[str, Sequence[str]]) -> bool:
    """Whether a section has not all labels: what learns from one class, or is chosen by one, has learnt nothing."""
    of_patient: dict[str, set[Any]] = defaultdict(set)
    for entry in entries:
        of_patient[entry["patient"]].add(entry["label"])
    seen = [set().union(*(of_patient[patient] for patient in side)) for side in splits.values()]
    return any(labels != set().union(*seen) for labels in seen)


def _given(table: Path, entries: list[Entry]) -> dict[str, list[str]]:
    sections: dict[str, str] = {}
    for entry in entries:
        section = entry.get("section", "")
        if section not in SECTIONS:
            raise MammogramError(table, f"it has the section '{section[:40]}'", f"Write {', '.join(SECTIONS)}")
        if sections.setdefault(entry["patient"], section) != section:
            raise MammogramError(table, "a patient is in two sections", "Put all images of a patient into one")
    return {name: [patient for patient, section in sections.items() if section == name] for name in SECTIONS}
