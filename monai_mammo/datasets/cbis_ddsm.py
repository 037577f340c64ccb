"""CBIS-DDSM (TCIA, CC BY 3.0): scanned film mammograms with outlined masses and calcifications, and its four CSV files.

On disk, below any folder: `<PatientID>/<date-study>/<n-series description-xxxxx>/1-1.dcm` (or `000000.dcm`), or
`<study UID>/<series UID>/…` with or without the PatientID above. A PatientID names an image
(`Mass-Training_P_00001_LEFT_CC`: its full mammogram) or an abnormality of it (`…_CC_1`: its crop and its mask). The
paths in the CSV files are older than the archive's present names, so files are found by PatientID, then by series
UID. Folder names and series descriptions do not tell crop and mask apart: every file of an abnormality becomes a
candidate of `SourceLesion.masks`, and the pixels decide when they are read. The files state no pixel spacing.

The same film is listed twice where it has masses and calcifications (71 films), each time with files of its own: one
image here, with all its lesions. Films of one patient on both official sides stay apart.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from monai_mammo.datasets.sources import Defect, SourceImage, SourceLesion, files_below
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_header

NAME = "CBIS-DDSM"
LICENCE = "CC BY 3.0; Lee R. S. et al., Scientific Data 4:170177 (2017), doi 10.7937/K9/TCIA.2016.7O02S9CY"

_PATHS = ("image file path", "cropped image file path", "roi mask file path")
_REQUIRED = (
    "patient id",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "assessment",
    "pathology",
    *_PATHS,
)
_DENSITY = "breast density"
_SUFFIXES = {".dcm", ".dicom", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ""}
_UNKNOWN = {"", "n/a", "na", "nan", "none", "null"}
_PATIENT_ID = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_P_\d{5}_(?:LEFT|RIGHT)_(?:CC|MLO)(?:_\d+)?(?![0-9A-Za-z])")
_UID = re.compile(r"[0-9]+(?:\.[0-9]+){4,}")
_KINDS = {"mass": "mass", "calcification": "calcification", "calc": "calcification"}
_SPLITS: Mapping[str, Literal["training", "test"]] = {"Training": "training", "Test": "test"}
_GET_IT_ALL = "Give the folder that holds the download, with the four CSV files of TCIA somewhere in it"


@dataclass(frozen=True)
class Abnormality:
    """One row of the CSV files; values that a row leaves open ("N/A", NaN, an unknown category) are empty."""

    patient: str
    """P_00001."""
    laterality: str
    view: str
    kind: str
    """mass or calcification."""
    split: Literal["training", "test"]
    number: int
    """Of the abnormality within its image, from 1."""
    pathology: str
    """malignant, benign or benign_without_callback."""
    birads: str
    """The reader's assessment, 0 to 5."""
    density: str
    """BI-RADS breast density, 1 to 4."""
    image: str
    """PatientID of the full mammogram."""
    series: tuple[str, ...] = field(default=(), repr=False)
    """Series UIDs of full mammogram, crop and mask, as the CSV files name them."""
    source: tuple[Path, int] = field(default=(Path(), 0), compare=False, repr=False)
    """The CSV file and the line in which the row ends."""

    @property
    def name(self) -> str:
        """PatientID of the abnormality's crop and mask."""
        return f"{self.image}_{self.number}"


def abnormalities(source: Path, defects: list[Defect]) -> list[Abnormality]:
    """Every row of the CSV files below a folder. Needs no image, so protocols can be counted from the CSV files alone.

    A CSV file is known by its columns, not by its name; a copy of one that was read is passed over. A row that cannot
    be understood, repeats another or contradicts itself becomes a defect that names file and line.

    Raises:
        MammogramError: no folder, or no CSV file of the data set in it.
    """
    return _rows([file for file in _files(source, defects) if file.suffix.lower() == ".csv"], source, defects)


def images(source: Path, defects: list[Defect]) -> list[SourceImage]:
    """Every mammogram that the CSV files list and that is on disk, with its abnormalities as lesions.

    Each row ends as a lesion or as a defect. An abnormality without any file is a defect and its image stays, with
    fewer lesions than its attribute `lesions_listed` says: a union of its masks would not show all there is. Of several
    assessments of an image, `birads` is the highest; its attribute `part` is mass, calcification or both, joined by
    "; ". Of a film that is listed for masses and for calcifications, the masses' file is taken if it is on disk.

    Raises:
        MammogramError: no folder, or no CSV file of the data set in it.
    """
    files = _files(source, defects)
    rows = _rows([file for file in files if file.suffix.lower() == ".csv"], source, defects)
    on_disk = _OnDisk(file for file in files if file.suffix.lower() in _SUFFIXES)
    found = []
    for listed in _by_film(rows):
        image = _film(listed, on_disk, defects)
        lesions = [_lesion(row, on_disk, source, image is None, defects) for row in listed]
        if image is not None:
            found.append(_image(image, listed, [lesion for lesion in lesions if lesion is not None]))
    for file, count in on_disk.unclaimed():
        what = "this file" if count == 1 else f"this and {count - 1} other files of the same name"
        defects.append(Defect(file, f"no row of the CSV files lists {what}"))
    return found


def _files(source: Path, defects: list[Defect]) -> list[Path]:
    if not source.is_dir():
        raise MammogramError(source, "there is no such folder", _GET_IT_ALL)
    return list(files_below(source, defects))


def _rows(tables: Sequence[Path], source: Path, defects: list[Defect]) -> list[Abnormality]:
    known: dict[str, Abnormality] = {}
    contents: dict[bytes, Path] = {}
    read = 0
    for table in tables:
        try:
            content = table.read_bytes()
        except OSError as error:
            defects.append(Defect(table, f"the CSV file cannot be opened ({type(error).__name__})"))
            continue
        if content in contents:
            defects.append(Defect(table, f"it repeats {contents[content].name}", "read once"))
            continue
        missing = _missing_columns(table)
        if missing:
            if len(missing) < len(_REQUIRED) // 2:  # else some other table, as NBIA's metadata.csv
                defects.append(Defect(table, f"it has no column '{missing[0]}'"))
            continue
        contents[content] = table
        read += 1
        for row in _read(table, defects):
            earlier = known.setdefault(row.name, row)
            if earlier is not row:
                what = "repeats" if earlier == row else "contradicts"
                place = f"line {earlier.source[1]} of {earlier.source[0].name}"
                defects.append(Defect(table, f"line {row.source[1]} {what} {place}: {row.name}"))
    if not read:
        raise MammogramError(source, "there is no CSV file of CBIS-DDSM in this folder", _GET_IT_ALL)
    rows = list(known.values())
    present = {(row.kind, row.split) for row in rows}
    for part in ((kind, split) for kind in ("mass", "calcification") for split in ("training", "test")):
        if part not in present:
            defects.append(Defect(source, f"no CSV file lists the {part[0]} {part[1]} cases"))
    return rows


def _missing_columns(table: Path) -> list[str]:
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        try:
            header = next(csv.reader(file), [])
        except csv.Error:
            header = []
    columns = {_column(name) for name in header}
    return [name for name in _REQUIRED if name not in columns]


def _read(table: Path, defects: list[Defect]) -> Iterator[Abnormality]:
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file, strict=True)  # else a quote that is never closed swallows every row after it
        columns = [_column(name) for name in next(reader)]
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                defects.append(Defect(table, f"line {reader.line_num} is no CSV ({error})", "the rest was not read"))
                return
            if values is None:
                return
            if any(value.strip() for value in values):
                cells = {column: _value(value) for column, value in zip(columns, values, strict=False)}
                row: Abnormality | str = f"it has {len(values)} cells, the header {len(columns)}"
                if len(values) == len(columns):
                    row = _parse(cells, (table, reader.line_num))
                if isinstance(row, Abnormality):
                    yield row
                else:
                    defects.append(Defect(table, f"line {reader.line_num}: {row}"))


def _column(name: str) -> str:
    return re.sub(r"[\s_]+", " ", name).strip().lower()


def _value(cell: str) -> str:
    """A cell without padding and newlines; "" where it says that nothing is known; 2.0 (a table saved anew) as 2."""
    cell = cell.strip()
    return "" if cell.lower() in _UNKNOWN else re.sub(r"^(\d+)\.0+$", r"\1", cell)


def _parse(cells: Mapping[str, str], source: tuple[Path, int]) -> Abnormality | str:
    """A row's meaning, or what is wrong with it."""
    patient, number = cells.get("patient id", ""), cells.get("abnormality id", "")
    side, view = cells.get("left or right breast", "").upper(), cells.get("image view", "").upper()
    kind = _KINDS.get(cells.get("abnormality type", "").lower(), "")
    for what, good in (
        ("patient id", re.fullmatch(r"P_\d{5}", patient)),
        ("left or right breast", side in ("LEFT", "RIGHT")),
        ("image view", view in ("CC", "MLO")),
        ("abnormality id", number.isdecimal()),
        ("abnormality type", kind),
    ):
        if not good:
            return f"'{what}' is missing or has an unknown value"
    names = {_PATIENT_ID.match(cells.get(path, "")) for path in _PATHS} - {None}
    parts = {match[0].split("_")[0] for match in names if match}
    if not parts:
        return "none of its paths names an image of CBIS-DDSM"
    part = min(parts)
    image = f"{part}_{patient}_{side}_{view}"
    expected = {image, f"{image}_{int(number)}"}
    contradicting = [match[0] for match in names if match and match[0] not in expected]
    if contradicting or not part.startswith({"mass": "Mass", "calcification": "Calc"}[kind]):
        return f"its columns say {image}_{number}, its paths {(contradicting or [part])[0]}"
    density, birads = cells.get(_DENSITY, ""), cells.get("assessment", "")
    return Abnormality(
        patient=patient,
        laterality=side[0],
        view=view,
        kind=kind,
        split=_SPLITS[part.split("-")[1]],
        number=int(number),
        pathology=cells.get("pathology", "").lower(),
        birads=birads if birads in ("0", "1", "2", "3", "4", "5", "6") else "",
        density=density if density in ("1", "2", "3", "4") else "",
        image=image,
        series=tuple(_series(cells.get(path, "")) for path in _PATHS),
        source=source,
    )


def _series(path: str) -> str:
    """Series UID in a path `<PatientID>/<study UID>/<series UID>/<file>`, or nothing."""
    uids = [part for part in path.split("/") if _UID.fullmatch(part)]
    return uids[-1] if len(uids) > 1 else ""


class _OnDisk:
    """The image files of a download: by PatientID, wherever in the path it stands, and by series UID."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[str, list[Path]] = defaultdict(list)
        self._series: dict[str, list[Path]] = defaultdict(list)
        self._claimed: set[str] = set()
        for file in files:
            name = next((match[0] for part in reversed(file.parts) if (match := _PATIENT_ID.match(part))), "")
            series = next((part for part in reversed(file.parts[:-1]) if _UID.fullmatch(part)), "")
            if name:
                self._files[name].append(file)
            elif series:
                self._series[series].append(file)
            elif file.suffix.lower() in (".dcm", ".dicom"):
                self._files[str(file)].append(file)

    def take(self, name: str, series: Iterable[str]) -> list[Path]:
        """Files of a PatientID, those in a series that the CSV files name for it first; or those of the series."""
        uids = {uid for uid in series if uid}
        self._claimed |= {name} | uids
        if name in self._files:
            return sorted(self._files[name], key=lambda file: (not uids & set(file.parts), file.suffix != ".dcm", file))
        return [file for uid in sorted(uids) for file in self._series.get(uid, [])]

    def unclaimed(self) -> Iterator[tuple[Path, int]]:
        """A file, and how many there are, of every PatientID, series or lone file that was not taken."""
        for group in (self._files, self._series):
            yield from ((files[0], len(files)) for name, files in group.items() if name not in self._claimed)


def _by_film(rows: Iterable[Abnormality]) -> list[list[Abnormality]]:
    """The rows of every film, its masses first: a lesion of the one CSV file is no background in the other's image."""
    by_film: dict[tuple[str, ...], list[Abnormality]] = defaultdict(list)
    for row in rows:
        by_film[row.patient, row.laterality, row.view, row.split].append(row)
    return [sorted(film, key=lambda row: row.kind != "mass") for film in by_film.values()]


def _film(listed: Sequence[Abnormality], on_disk: _OnDisk, defects: list[Defect]) -> Path | None:
    """The full mammogram of a film, which each of its CSV files has under a PatientID of its own."""
    chosen = None
    for name in dict.fromkeys(row.image for row in listed):
        image = _full_image(on_disk.take(name, [row.series[0] for row in listed if row.image == name]), defects)
        if chosen is not None and image is not None:
            reason = f"it is the film of {chosen}, listed for other lesions"
            defects.append(Defect(image, reason, "its lesions are outlined on that file"))
        chosen = chosen or image
    return chosen


def _full_image(files: Sequence[Path], defects: list[Defect]) -> Path | None:
    """The one file of a full mammogram. Of several, the first that can be read; the others are defects."""
    if len(files) <= 1:
        return files[0] if files else None
    chosen = None
    for file in files:
        if chosen is not None:
            defects.append(Defect(file, f"a second file of the mammogram {chosen}"))
            continue
        try:
            read_header(file)
            chosen = file
        except MammogramError as error:
            defects.append(Defect(file, error.reason))
    return chosen


def _lesion(row: Abnormality, on_disk: _OnDisk, source: Path, lost: bool, defects: list[Defect]) -> SourceLesion | None:
    files = on_disk.take(row.name, row.series[1:])
    if lost:
        defects.append(Defect(source / row.name, "the mammogram of this abnormality is not on disk"))
        return None
    if not files:
        reason = "neither crop nor mask of this abnormality is on disk"
        defects.append(Defect(source / row.name, reason, "image kept without this lesion"))
        return None
    return SourceLesion(masks=tuple(files), kind=row.kind, pathology=row.pathology, name=row.name)


def _image(file: Path, listed: Sequence[Abnormality], lesions: Sequence[SourceLesion]) -> SourceImage:
    first = listed[0]
    densities = Counter(row.density for row in listed if row.density)
    return SourceImage(
        image=file,
        patient=first.patient,
        laterality=first.laterality,
        view=first.view,
        lesions=tuple(lesions),
        density=densities.most_common(1)[0][0] if densities else "",
        birads=max((row.birads for row in listed), default=""),
        split=first.split,
        attributes={"part": "; ".join(dict.fromkeys(row.kind for row in listed)), "lesions_listed": len(listed)},
    )
