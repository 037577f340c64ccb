"""View and side of a mammogram from whichever attribute a writer put them in.

Codes of DICOM PS3.16 CID 4014 (views) and CID 4015 (view modifiers), in SNOMED CT and in the older SRT form that
most archives hold. Nothing here looks at pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

VIEW_CODES = {
    "399162004": "CC", "R-10242": "CC",
    "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML",
    "399352003": "LM", "R-10228": "LM",
    "399099002": "LMO", "R-10230": "LMO",
    "399196006": "FB", "R-10244": "FB",
    "399188001": "SIO", "R-102D0": "SIO",
    "441555000": "ISO", "R-40AAA": "ISO",
    "399265009": "XCC", "R-102CF": "XCC", "R-1024A": "XCCL", "R-1024B": "XCCM",
    "399192008": "XCCL", "399101009": "XCCM",
    "127457009": "SPECIMEN", "G-8310": "SPECIMEN",
}  # fmt: skip

MODIFIER_CODES = {
    "399161006": "CV", "R-102D2": "CV",
    "399011000": "AT", "R-102D1": "AT",
    "399197002": "RL", "R-102D3": "RL",
    "399226006": "RM", "R-102D4": "RM",
    "414493004": "RI", "R-102CA": "RI",
    "415670009": "RS", "R-102C9": "RS",
    "399209000": "ID", "R-102D5": "ID",
    "399163009": "M", "R-102D6": "M",
    "399055006": "S", "R-102D7": "S",
    "399110001": "TAN", "R-102C2": "TAN",
    "441752004": "AC", "P2-00161": "AC",
    "442593008": "IMF", "R-40ABE": "IMF",
    "442580003": "AX", "R-40AB2": "AX",
    "442581004": "NP", "R-40AB3": "NP",
}  # fmt: skip

PARTIAL_MODIFIERS = frozenset({"M", "S", "TAN", "AT", "AX", "CV", "IMF"})
"""Of views that show a part of the breast, or a region beside it."""

SIDE_CODES = {"7771000": "L", "G-A101": "L", "24028007": "R", "G-A100": "R"}

BREAST_CODES = {"76752008", "T-04000"}

_VIEWS = frozenset(VIEW_CODES.values())


def read_view(dataset: Dataset) -> tuple[str | None, tuple[str, ...]]:
    """Read the view and its modifiers.

    ViewCodeSequence (CID 4014, modifiers nested as CID 4015) is asked first, then the legacy ViewPosition, then
    PatientOrientation, which holds "CC" or "MLO" in CBIS-DDSM. A value that is no mammographic view counts as absent.

    Returns:
        The view's ACR abbreviation ("CC", "MLO", "ML", ...) or None, and the modifiers' ("M", "S", "ID", ...).
    """
    modifiers: tuple[str, ...] = ()
    for item in _items(dataset, "ViewCodeSequence"):
        modifiers = tuple(
            MODIFIER_CODES[code] for code in _codes(item, "ViewModifierCodeSequence") if code in MODIFIER_CODES
        )
        view = VIEW_CODES.get(_code(item))
        if view is not None:
            return view, modifiers
    for keyword in ("ViewPosition", "PatientOrientation"):
        view = _legacy_view(_texts(dataset, keyword))
        if view is not None:
            return view, modifiers
    return None, modifiers


def read_laterality(dataset: Dataset) -> str | None:
    """Read the side, "L" or "R": ImageLaterality, then Laterality, then the codes of the anatomic region.

    Bilateral ("B") and unpaired ("U") images have no side and give None.
    """
    for keyword in ("ImageLaterality", "Laterality"):
        for text in _texts(dataset, keyword):
            if text in ("L", "LEFT", "R", "RIGHT"):
                return text[0]
            if text in ("B", "U"):
                return None
    for region in _items(dataset, "AnatomicRegionSequence"):
        for code in _codes(region, "AnatomicRegionModifierSequence"):
            if code in SIDE_CODES:
                return SIDE_CODES[code]
    return None


def shows_breast(dataset: Dataset) -> bool:
    """Tell whether an image says of itself that it shows a breast.

    Needed for what carries no modality of mammography: scanned film sent as Secondary Capture, or plates of computed
    radiography. Any one of BodyPartExamined, OrganExposed, PositionerType, AnatomicRegionSequence or a mammographic
    view suffices.
    """
    if any("BREAST" in text for keyword in ("BodyPartExamined", "OrganExposed") for text in _texts(dataset, keyword)):
        return True
    if any(text.startswith("MAMMOGRAPHIC") for text in _texts(dataset, "PositionerType")):
        return True
    if any(code in BREAST_CODES for code in _codes(dataset, "AnatomicRegionSequence")):
        return True
    return read_view(dataset)[0] is not None


def _legacy_view(texts: Sequence[str]) -> str | None:
    for text in texts:
        # Some writers put the side before the view: "LCC", "R MLO".
        view = text if text in _VIEWS else re.sub(r"^[LR][ _-]?", "", text)
        if view in _VIEWS:
            return view
    return None


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword)
    values = [value] if isinstance(value, str) else (value or [])
    return [str(entry).strip().upper() for entry in values]


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = dataset.get(keyword)
    return list(value) if value else []


def _codes(dataset: Dataset, keyword: str) -> list[str]:
    return [_code(item) for item in _items(dataset, keyword)]


def _code(item: Dataset) -> str:
    return str(item.get("CodeValue") or "").strip()
