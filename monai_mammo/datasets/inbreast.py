"""INbreast (Centro Hospitalar de S. João, Porto): 410 full-field digital mammograms with accurate outlines.

On disk: `AllDICOMs/<id>_<hash>_MG_<R|L>_<CC|ML>_ANON.dcm` (the hash tells the patient, "ML" means MLO),
`AllXML/<id>.xml` (an OsiriX property list: `Images[0].ROIs[*]` with `Name` and `Point_px`, strings "(x, y)"), and
`INbreast.csv`, separated by ";", or by commas or tabs if it was saved anew (File Name, ACR, Bi-Rads, …). Images of
BI-RADS 1 have no XML file. There is no official split and no pathology by lesion. The pectoral muscles, in a folder of
their own, are not read.
"""

from __future__ import annotations

import csv
import plistlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai_mammo.datasets.sources import Defect, SourceImage, SourceLesion, files_below, separator
from monai_mammo.dicom.errors import MammogramError, refusing

NAME = "INbreast"
LICENCE = "restricted, by agreement with its authors; Moreira I. C. et al., Academic Radiology 19 (2012) 236-248"
SPACING = (0.07, 0.07)
"""Millimetres; the detector of the one machine that all images are from."""

_IMAGE = re.compile(r"(\d+)_([0-9a-f]+)_MG_([RL])_(CC|MLO?)_ANON\.dcm", re.IGNORECASE)
_NUMBER = r"\s*([-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?)\s*"
_POINT = re.compile(rf"\({_NUMBER},{_NUMBER}\)", re.IGNORECASE)
_NO_FINDING = "1"  # BI-RADS
_KINDS: Mapping[str, str] = {
    "mass": "mass",
    "spiculated region": "spiculated region",
    "calcification": "calcification",
    "cluster": "calcification",
    "distortion": "distortion",
    "asymmetry": "asymmetry",
}
_MUSCLE = "pectoral muscle"
_REMEDY = "Restore the file from the data set"


@dataclass(frozen=True)
class _Truth:
    """What an XML file says of its image."""

    lesions: tuple[SourceLesion, ...] = ()
    listed: int = 0
    findings: str = ""
    """Kinds of all that is marked, outlined or not, joined by "; "."""


def images(source: Path, defects: list[Defect]) -> list[SourceImage]:
    """Every mammogram whose file name is INbreast's, with what is outlined on it as lesions.

    A mark of one or two points (single calcifications, as a rule) encloses nothing: it is no lesion here, but counts in
    the attribute `findings` and, unless it is a calcification, in `lesions_listed`. Where an XML file is damaged or
    missing, the image is kept with unknown lesions; `normal` is it only if it is BI-RADS 1 and nothing is marked.
    A "spiculated region" is the surroundings of a mass and keeps its name; a cluster is a calcification.

    Raises:
        MammogramError: there is no folder AllDICOMs, or no mammogram of the data set in it.
    """
    remedy = "Give the folder that holds AllDICOMs, AllXML and INbreast.csv"
    dicoms = _within(source, "AllDICOMs")
    if dicoms is None:
        raise MammogramError(source, "there is no folder AllDICOMs in it", remedy)
    rows = _table(source, defects)
    found: dict[str, tuple[Path, re.Match[str]]] = {}
    for file in files_below(dicoms, defects):
        match = _IMAGE.fullmatch(file.name)
        if match is None:
            defects.append(Defect(file, "its name is not that of a mammogram of INbreast"))
        elif match[1] in found:
            defects.append(Defect(file, f"it has the number of {found[match[1]][0].name}"))
        else:
            found[match[1]] = (file, match)
    if not found:
        raise MammogramError(dicoms, "there is no mammogram of INbreast in it", remedy)
    xmls = _annotations(source, found, defects)
    images = [_image(file, match, xmls.get(number), rows, defects) for number, (file, match) in found.items()]
    for number in rows or {}:
        if number not in found:
            missing = dicoms / f"{number}_*.dcm"
            defects.append(Defect(missing, "INbreast.csv lists it, but it does not exist"))
    return images


def _within(source: Path, name: str) -> Path | None:
    """A file or folder of this name in whatever letter case."""
    try:
        return next((entry for entry in sorted(source.iterdir()) if entry.name.lower() == name.lower()), None)
    except OSError:
        return None


def _table(source: Path, defects: list[Defect]) -> dict[str, dict[str, str]] | None:
    """The rows of INbreast.csv by file number; None, with a defect, if it cannot be used."""
    file = _within(source, "INbreast.csv")
    unknown = "images kept, density and BI-RADS unknown"
    if file is None:
        spreadsheet = " (INbreast.xls is not read: save it as CSV)" if _within(source, "INbreast.xls") else ""
        defects.append(Defect(source / "INbreast.csv", f"it does not exist{spreadsheet}", unknown))
        return None
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        defects.append(Defect(file, f"it cannot be read ({type(error).__name__})", unknown))
        return None
    reader = csv.DictReader(lines, delimiter=separator(lines[0] if lines else ""))
    names = {(name or "").strip().lower(): name for name in reader.fieldnames or []}
    missing = [name for name in ("file name", "acr", "bi-rads") if name not in names]
    if missing:
        defects.append(Defect(file, f"it has no column {missing[0]!r}", unknown))
        return None
    rows: dict[str, dict[str, str]] = {}
    for row in reader:
        cells = {name: (row[column] or "").strip() for name, column in names.items()}
        number = cells["file name"].removesuffix(".0")  # as spreadsheets write it
        if not number.isdecimal():
            if any(cells.values()):
                defects.append(Defect(file, f"line {reader.line_num} has no file number", "row left out"))
        elif number in rows:
            defects.append(Defect(file, f"line {reader.line_num} repeats the file number {number}", "row left out"))
        else:
            rows[number] = cells
    return rows


def _annotations(source: Path, found: Mapping[str, object], defects: list[Defect]) -> dict[str, Path]:
    """The XML files by the number of their image."""
    folder = _within(source, "AllXML")
    if folder is None:
        defects.append(Defect(source / "AllXML", "it does not exist", "images kept, lesions unknown"))
        return {}
    xmls: dict[str, Path] = {}
    for file in files_below(folder, defects):
        if file.suffix.lower() != ".xml":
            continue
        if file.stem not in found:
            defects.append(Defect(file, "there is no mammogram of its number"))
        elif file.stem in xmls:
            defects.append(Defect(file, f"it has the number of {xmls[file.stem].name}"))
        else:
            xmls[file.stem] = file
    return xmls


def _image(
    file: Path,
    match: re.Match[str],
    xml: Path | None,
    rows: Mapping[str, Mapping[str, str]] | None,
    defects: list[Defect],
) -> SourceImage:
    number, patient, side = match[1], match[2].lower(), match[3].upper()
    view = "CC" if match[4].upper() == "CC" else "MLO"
    row = (rows or {}).get(number, {})
    if rows is not None and not row:
        defects.append(Defect(file, "INbreast.csv does not list it", "kept, density and BI-RADS unknown"))
    _compare(file, side, view, row, defects)
    birads = row.get("bi-rads", "").lower()
    truth = _truth(file, xml, birads, defects)
    density = row.get("acr", "")
    return SourceImage(
        image=file,
        patient=patient,
        laterality=side,
        view=view,
        lesions=truth.lesions if truth else (),
        spacing=SPACING,
        density=density if density in ("1", "2", "3", "4") else "",
        birads=birads if re.fullmatch(r"[0-6][a-c]?", birads) else "",
        normal=birads == _NO_FINDING and truth is not None and not truth.findings,
        attributes={"findings": truth.findings, "lesions_listed": truth.listed} if truth else {},
    )


def _compare(file: Path, side: str, view: str, row: Mapping[str, str], defects: list[Defect]) -> None:
    """Whether side and view of the table are those of the file's name."""
    told = {"laterality": side, "view": view}
    for column, value in told.items():
        listed = row.get(column, "").upper()
        if listed and {"ML": "MLO"}.get(listed, listed) != value:
            reason = f"INbreast.csv says {column} {listed}, the file's name {value}"
            defects.append(Defect(file, reason, "the file's name is used"))


def _truth(file: Path, xml: Path | None, birads: str, defects: list[Defect]) -> _Truth | None:
    """What is marked on an image; None, with a defect, if that is not known."""
    unknown = "image kept, lesions unknown"
    if xml is None:
        if birads == _NO_FINDING:
            return _Truth()
        defects.append(Defect(file, f"it has no XML file, and its BI-RADS is {birads or 'unknown'}", unknown))
        return None
    try:
        with refusing(xml, "it is no property list", _REMEDY):
            content = plistlib.loads(xml.read_bytes())
        return _read_rois(xml, content, defects)
    except MammogramError as error:
        defects.append(Defect(xml, error.reason, unknown))
        return None


def _read_rois(xml: Path, content: Any, defects: list[Defect]) -> _Truth:
    """The marks in a property list.

    Raises:
        MammogramError: it does not have the structure of INbreast's files, or not all that it announces.
    """
    with refusing(xml, "it has not the structure of INbreast's files", _REMEDY):
        image = content["Images"][0]
        marks = [(_kind(str(roi.get("Name", ""))), _points(xml, roi)) for roi in image["ROIs"]]
        announced = int(image.get("NumberOfROIs", len(marks)))
    if announced != len(marks):
        raise MammogramError(xml, f"it announces {announced} marks and has {len(marks)}", _REMEDY)
    marks = [(kind, points) for kind, points in marks if kind != _MUSCLE]
    lesions, listed = [], 0
    small: Counter[str] = Counter()
    for number, (kind, points) in enumerate(marks, start=1):
        if len(points) >= 3:
            lesions.append(SourceLesion(polygon=points, kind=kind, name=str(number)))
        elif kind in ("calcification", ""):  # nameless points are single calcifications
            small[kind] += 1
            continue
        else:
            defects.append(
                Defect(xml, f"a {kind} is marked by {len(points)} point(s), not outlined", "lesion left out")
            )
        listed += 1
    if small:
        count = sum(small.values())
        reason = f"{count} calcification(s) are marked by one or two points, not outlined"
        defects.append(Defect(xml, reason, "named in the image's findings, no lesions"))
    kinds = {kind or ("other" if len(points) >= 3 else "calcification") for kind, points in marks}
    return _Truth(tuple(lesions), listed, "; ".join(sorted(kinds)))


def _points(xml: Path, roi: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """The corners of a mark as (row, column)."""
    texts: Sequence[str] = roi["Point_px"]
    matches = [_POINT.fullmatch(text.strip()) for text in texts]
    points = tuple((float(match[2]), float(match[1])) for match in matches if match is not None)
    announced = int(roi.get("NumberOfPoints", len(texts)))
    if not points or len(points) != len(texts) or announced != len(texts):
        raise MammogramError(xml, f"a mark announces {announced} points and has {len(points)} readable ones", _REMEDY)
    return points


def _kind(name: str) -> str:
    """What a mark is, whatever its spelling ("Assymetry", "Espiculated Region"); empty for names such as "Point 1"."""
    spelt = name.strip().lower()
    near = [kind for kind in (*_KINDS, _MUSCLE) if kind in spelt]
    near = near or get_close_matches(spelt, [*_KINDS, _MUSCLE], n=1, cutoff=0.75)
    return _KINDS.get(near[0], near[0]) if near else ""
