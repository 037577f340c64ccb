"""DDSM (University of South Florida): 2 620 cases of scanned film, four views each, lesions outlined by radiologists.

On disk, below any folder (`cancers/cancer_01/…`): `case####/X-####-1.ics`, a text header; beside it, for each of the
views LEFT_CC, LEFT_MLO, RIGHT_CC and RIGHT_MLO, `X_####_1.VIEW.LJPEG` and, where a lesion is marked,
`X_####_1.VIEW.OVERLAY`. X says where the film was scanned (A: Massachusetts General Hospital, B and C: Wake Forest
University, D: ISMD); with the scanner's name it decides how grey levels become optical density. The data set has no
official split. A case is taken as a patient: the data set names no other identity.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from os import PathLike
from pathlib import Path

import numpy as np

from monai_mammo.datasets.ddsm_overlay import Overlay, read_overlay
from monai_mammo.datasets.ljpeg import read_ljpeg
from monai_mammo.datasets.sources import Defect, SourceImage, files_below
from monai_mammo.dicom.errors import MammogramError

NAME = "DDSM"
LICENCE = "free for research with citation; Heath M. et al., Proc. 5th Int. Workshop on Digital Mammography (2001) 212"

DENSITY_RANGE = (0.05, 3.0)
"""Optical densities between which brightness falls linearly from 1 to 0: clear film base to opaque film."""

_CASE = re.compile(r"([A-D])-(\d{4})-(\d+)", re.IGNORECASE)
_VIEW = re.compile(
    r"(LEFT|RIGHT)_(CC|MLO)\s+LINES\s+(\d{1,5})\s+PIXELS_PER_LINE\s+(\d{1,5})\s+BITS_PER_PIXEL\s+\d+\s+"
    r"RESOLUTION\s+(\d+(?:\.\d+)?)\s+(OVERLAY|NON_OVERLAY)",
    re.IGNORECASE,
)
_REMEDY = "Restore the case's files from the data set"

# The regressions that the data set publishes for its scanners: optical density from grey level.
_OPTICAL_DENSITY: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "DBA": lambda grey: (np.log10(np.maximum(grey, 1)) - 4.80662) / -1.07553,
    "HOWTEK (MGH)": lambda grey: 3.789 - 0.00094568 * grey,
    "HOWTEK (ISMD)": lambda grey: 3.96604096240593 - 0.00099055807612 * grey,
    "LUMISYS": lambda grey: (grey - 4096.99) / -1009.01,
}


@dataclass(frozen=True)
class _View:
    """A line of the `.ics` file."""

    laterality: str
    view: str
    rows: int
    columns: int
    micrometres: float
    overlay: bool

    @property
    def key(self) -> str:
        return f"{'LEFT' if self.laterality == 'L' else 'RIGHT'}_{self.view}"


@dataclass(frozen=True)
class _Case:
    """What an `.ics` file says."""

    patient: str
    scanner: str
    """A key of `_OPTICAL_DENSITY`, or empty."""
    density: str
    views: tuple[_View, ...]
    damaged: tuple[int, ...] = field(default=())
    """Lines that name a view again or cannot be understood; from 1."""


def images(source: Path, defects: list[Defect]) -> list[SourceImage]:
    """Every film that an `.ics` file lists and that is on disk, with its abnormalities as lesions.

    An abnormality whose outline cannot be used is a defect; its image stays, with fewer lesions than its attribute
    `lesions_listed` says. `normal` are the films of breasts of which no view is marked. Of several assessments of an
    image, `birads` is the highest.

    Raises:
        MammogramError: no folder, or no `.ics` file in it.
    """
    remedy = "Give the folder that holds DDSM's case folders"
    if not source.is_dir():
        raise MammogramError(source, "there is no such folder", remedy)
    folders: dict[Path, dict[str, Path]] = defaultdict(dict)
    for file in files_below(source, defects):
        folders[file.parent][file.name.lower()] = file
    headers = [file for names in folders.values() for name, file in names.items() if name.endswith(".ics")]
    if not headers:
        raise MammogramError(source, "there is no .ics file in it", remedy)
    found: list[SourceImage] = []
    listed: set[Path] = set()
    first: dict[str, Path] = {}
    for header in headers:
        stem = header.stem.lower()
        films = {file for name, file in folders[header.parent].items() if name.startswith(_prefix(header))}
        listed |= films
        if stem in first:
            defects.append(Defect(header, f"the case is the same as {first[stem]}"))
            continue
        first[stem] = header
        found += _images(header, folders[header.parent], defects)
    for file in (file for names in folders.values() for name, file in names.items() if name.endswith(".ljpeg")):
        if file not in listed:
            defects.append(Defect(file, "there is no .ics file that lists it"))
    return found


def read_ljpeg_view(path: str | PathLike[str]) -> np.ndarray:
    """Read a film: float32 (rows, columns) in [0, 1], dark background, comparable between the four scanners.

    Grey levels become optical density by the scanner's regression, and optical density brightness: linear between
    :data:`DENSITY_RANGE`, opaque film 0. Size, scanner and institution are those of the `.ics` file beside it; the
    stream's own size is often exchanged.

    Raises:
        MammogramError: the film or its `.ics` file is absent or damaged, or they do not belong together.
    """
    path = Path(path)
    header = _header_of(path)
    try:
        case = _read_case(header)
    except OSError as error:
        raise MammogramError(header, f"it cannot be read ({type(error).__name__})", _REMEDY) from None
    view = next((view for view in case.views if path.name.lower() == _film(header, view)), None) if case else None
    if case is None or view is None:
        raise MammogramError(header, f"it does not list {path.name}", _REMEDY)
    if not case.scanner:
        raise MammogramError(header, "it names no scanner whose optical density is known", _REMEDY)
    stored = read_ljpeg(path)
    if stored.size != view.rows * view.columns:
        reason = (
            f"it has {stored.shape[0]} x {stored.shape[1]} samples, its .ics file says {view.rows} x {view.columns}"
        )
        raise MammogramError(path, reason, _REMEDY)
    return _brightness(case.scanner)[stored.reshape(view.rows, view.columns)]


def optical_density(grey: np.ndarray, scanner: str) -> np.ndarray:
    """Optical density of a scanner's grey levels (any shape), by the regressions that the data set publishes.

    Args:
        grey: stored values.
        scanner: DBA, HOWTEK (MGH), HOWTEK (ISMD) or LUMISYS.
    """
    return _OPTICAL_DENSITY[scanner](np.asarray(grey, np.float64))


@cache
def _brightness(scanner: str) -> np.ndarray:
    """Brightness of every 16-bit grey level; float32 (65536,)."""
    lowest, highest = DENSITY_RANGE
    density = optical_density(np.arange(1 << 16), scanner)
    table = np.clip((highest - density) / (highest - lowest), 0, 1).astype(np.float32)
    table.flags.writeable = False
    return table


def _images(header: Path, names: Mapping[str, Path], defects: list[Defect]) -> list[SourceImage]:
    """The films of one case."""
    try:
        case = _read_case(header)
    except OSError as error:
        defects.append(Defect(header, f"it cannot be read ({type(error).__name__})"))
        return []
    if case is None:
        defects.append(Defect(header, "its name is not that of a case (A-0001-1.ics)"))
        return []
    if not case.scanner:
        defects.append(Defect(header, "it names no scanner whose optical density is known", "case left out"))
        return []
    for line in case.damaged:
        defects.append(Defect(header, f"line {line} names a view again or cannot be understood", "view left out"))
    if len({view.key for view in case.views}) + len(case.damaged) < 4:
        defects.append(Defect(header, f"it lists {len(case.views)} of four views", "those are used"))
    overlays = {view: names.get(_film(header, view, "overlay")) for view in case.views}
    marked = {view.laterality for view, file in overlays.items() if file is not None or view.overlay}
    found = []
    for view, overlay in overlays.items():
        film = names.get(_film(header, view))
        if film is None:
            missing = header.parent / f"{header.stem.replace('-', '_')}.{view.key}.LJPEG"
            defects.append(Defect(missing, "its .ics file lists it, but it does not exist"))
            continue
        found.append(_image(film, case, view, _overlay(film, view, overlay, defects), view.laterality not in marked))
    return found


def _overlay(film: Path, view: _View, file: Path | None, defects: list[Defect]) -> Overlay | None:
    """The film's abnormalities; None if it has no overlay, which is a defect if the `.ics` file says that it has."""
    if file is None:
        if view.overlay:
            expected = film.with_suffix(".OVERLAY")
            defects.append(
                Defect(expected, "its .ics file lists it, but it does not exist", "film kept, lesions unknown")
            )
        return None
    if not view.overlay:
        defects.append(Defect(file, "it exists, but its .ics file says that there is none", "used"))
    try:
        return read_overlay(file, (view.rows, view.columns), defects)
    except OSError as error:
        reason = f"it cannot be read ({type(error).__name__})"
        defects.append(Defect(file, reason, "film kept, lesions unknown"))
        return None


def _image(film: Path, case: _Case, view: _View, overlay: Overlay | None, normal: bool) -> SourceImage:
    spacing = view.micrometres / 1000
    listed = overlay.listed if overlay else int(view.overlay)  # a mark that got lost is one lesion at least
    return SourceImage(
        image=film,
        patient=case.patient,
        laterality=view.laterality,
        view=view.view,
        lesions=overlay.lesions if overlay else (),
        read=read_ljpeg_view,
        spacing=(spacing, spacing),
        density=case.density,
        birads=overlay.birads if overlay else "",
        normal=normal,
        attributes={"scanner": case.scanner, "lesions_listed": listed},
    )


def _prefix(header: Path) -> str:
    """How the names of a case's films and overlays begin, in lower case: `a_0001_1.`."""
    return f"{header.stem.replace('-', '_').lower()}."


def _film(header: Path, view: _View, suffix: str = "ljpeg") -> str:
    """The name of a view's film or overlay, in lower case."""
    return f"{_prefix(header)}{view.key.lower()}.{suffix}"


def _header_of(film: Path) -> Path:
    """The `.ics` file of a film's case."""
    name = f"{film.name.split('.')[0].replace('_', '-').lower()}.ics"
    try:
        header = next((file for file in sorted(film.parent.iterdir()) if file.name.lower() == name), None)
    except OSError:
        header = None
    if header is None:
        raise MammogramError(film, "the .ics file of its case is not beside it", _REMEDY)
    return header


def _read_case(header: Path) -> _Case | None:
    """Read an `.ics` file; None if its name is not that of a case. Dates and ages in it are passed over."""
    name = _CASE.fullmatch(header.stem)
    if name is None:
        return None
    scanner, density, damaged = "", "", []
    views: dict[str, _View] = {}
    lines = header.read_text(encoding="ascii", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        key, _, value = line.strip().partition(" ")
        if key.upper() == "DIGITIZER":
            scanner = _scanner(value, name[1].upper())
        elif key.upper() == "DENSITY":
            density = value.strip() if value.strip() in ("1", "2", "3", "4") else ""
        elif key.upper().startswith(("LEFT_", "RIGHT_")):
            view = _view(line.strip())
            if view is None or view.key in views:
                damaged.append(number)
            else:
                views[view.key] = view
    return _Case(f"{name[1].upper()}-{name[2]}", scanner, density, tuple(views.values()), tuple(damaged))


def _view(line: str) -> _View | None:
    match = _VIEW.fullmatch(line)
    if match is None or not int(match[3]) or not int(match[4]) or not float(match[5]):
        return None
    return _View(
        laterality=match[1][0].upper(),
        view=match[2].upper(),
        rows=int(match[3]),
        columns=int(match[4]),
        micrometres=float(match[5]),
        overlay=match[6].upper() == "OVERLAY",
    )


def _scanner(digitizer: str, institution: str) -> str:
    """The scanner by its name and, for HOWTEK, of which there were two, by the institution; empty if unknown."""
    words = digitizer.upper()
    if "HOWTEK" in words:
        return {"A": "HOWTEK (MGH)", "D": "HOWTEK (ISMD)"}.get(institution, "")
    return next((scanner for scanner in ("DBA", "LUMISYS") if scanner in words), "")
