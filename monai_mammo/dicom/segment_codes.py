"""What a segment of a DICOM SEG shows, in DICOM's codes. Not here: the file, and its pixels."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Literal

Method = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
"""How a mask was made: by a person, by a person with an algorithm's help, by an algorithm (PS3.3 C.8.20.4)."""

_ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
_STRUCTURE = ("123037004", "SCT", "Anatomical Structure")
_LESION = ("52988006", "SCT", "Lesion")
_TUMOURS = {
    # A mammogram shows a mass; that it is a neoplasm (108369006) is for pathology to say.
    "tumour": ("4147007", "SCT", "Mass"),
    "tumor": ("4147007", "SCT", "Mass"),
    "mass": ("4147007", "SCT", "Mass"),
    "neoplasm": ("108369006", "SCT", "Neoplasm"),
    "carcinoma": ("108369006", "SCT", "Neoplasm"),
    "cancer": ("108369006", "SCT", "Neoplasm"),
    "nodule": ("27925004", "SCT", "Nodule"),
}
_OTHER_FINDINGS = {
    "calcification": ("129748009", "SCT", "Radiographic calcification finding"),
    "calcifications": ("129748009", "SCT", "Radiographic calcification finding"),
    "architectural distortion": ("129792006", "SCT", "Architectural distortion of breast"),
    "lymph node": ("59441001", "SCT", "Lymph node"),
    "cyst": ("399294002", "SCT", "Cyst of breast"),
}
_ANATOMY = {
    "breast": ("76752008", "SCT", "Breast"),
    # The breast's outline, named by the verdict on its completeness: a lesion by no means.
    "complete": ("76752008", "SCT", "Breast"),
    "incomplete": ("76752008", "SCT", "Breast"),
    "nipple": ("24142002", "SCT", "Nipple"),
    "pectoral muscle": ("60005003", "SCT", "Pectoralis major muscle"),
}
_Code = tuple[str, str, str]
_TUMOUR_TYPES: tuple[_Code, ...] = (
    *_TUMOURS.values(),
    _LESION,
    ("129788004", "SCT", "Mammographic breast mass"),
    ("86049000", "SCT", "Neoplasm, Primary"),
    ("14799000", "SCT", "Neoplasm, Secondary"),
)
_OTHER_TYPES: tuple[_Code, ...] = (
    *_OTHER_FINDINGS.values(),
    *_ANATOMY.values(),
    ("367643001", "SCT", "Cyst"),
    ("181131000", "SCT", "Entire breast"),
    ("39937001", "SCT", "Skin"),
    ("125040", "DCM", "Background"),
)
_TYPES = [(code, True) for code in _TUMOUR_TYPES] + [(code, False) for code in _OTHER_TYPES]
_BY_CODE = {code[:2]: told for code, told in _TYPES}
_BY_MEANING = {code[2].lower(): told for code, told in _TYPES}
_NO_FINDING = (_STRUCTURE[:2], ("85756007", "SCT"))  # and tissue
_AMBER = [51213, 38633, 52422]  # sRGB 255, 176, 32, as in the browser; CIELab of white D50 (PS3.3 C.10.7.1.1)
_SIDES = {"L": ("7771000", "SCT", "Left"), "R": ("24028007", "SCT", "Right")}


def tells_of_tumours(name: str) -> bool | None:
    """Whether a segment of this name shows tumours; None where the name is none of those that are known.

    With `type_tells_of_tumours` the only place that says what means a tumour; upper and lower case and blanks around a
    name do not count.
    """
    known = _plain(name)
    if known in _TUMOURS:
        return True
    return False if known in _OTHER_FINDINGS.keys() | _ANATOMY.keys() else None


def type_tells_of_tumours(kind: _Code, category: _Code, *, ours: bool) -> bool | None:
    """Whether a segment of this property type shows tumours; None where the type is none of those that are known.

    A mass, a nodule, a neoplasm and a carcinoma are tumours here, and a "Lesion": whoever chose that code outlined
    what a reader is to look at. `segment_description` chooses it for every name that it does not know, so that it
    tells nothing there.

    Args:
        kind: value, scheme and meaning of the property type's code; the meaning counts where the code is not known, as
            in another scheme than SNOMED CT's of today.
        category: the same of the property category; anatomy is no tumour, whichever it is.
        ours: whether `segment_description` chose the code.
    """
    if ours and kind[:2] == _LESION[:2]:
        return None
    meaning = _plain(kind[2])
    told = _BY_CODE.get(kind[:2], _BY_MEANING.get(meaning))
    if told is None and category[:2] in _NO_FINDING:
        return False
    return tells_of_tumours(meaning) if told is None else told


def segment_description(number: int, name: str, side: str | None, method: Method, algorithm: str) -> Any:
    """A segment as highdicom writes it.

    Args:
        number: of the segment, from 1.
        name: one with a code of its own (`monai_mammo.dicom.segmentation.write_segmentation`), or any other.
        side: L or R, the breast's, if it is known.
        method: how its mask was made.
        algorithm: behind a mask that is not MANUAL.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

    known = _plain(name)
    kind = _ANATOMY.get(known) or _TUMOURS.get(known) or _OTHER_FINDINGS.get(known, _LESION)
    made_by = None
    if method != "MANUAL":
        made_by = AlgorithmIdentificationSequence(
            name=short(algorithm) or "monai_mammo",
            family=CodedConcept("123110", "DCM", "Artificial Intelligence"),
            version=version("monai_mammo"),
        )
    description = SegmentDescription(
        segment_number=number,
        segment_label=short(name) or f"segment {number}",
        segmented_property_category=CodedConcept(*(_STRUCTURE if known in _ANATOMY else _ABNORMAL)),
        segmented_property_type=CodedConcept(*kind),
        algorithm_type=method,
        algorithm_identification=made_by,
        anatomic_regions=[CodedConcept(*_ANATOMY["breast"])],
    )
    if known not in _ANATOMY:
        description.RecommendedDisplayCIELabValue = _AMBER
    if side in _SIDES:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [CodedConcept(*_SIDES[side])]
    return description


def _plain(name: str) -> str:
    return name.strip().lower()


def short(words: str) -> str:
    """A text as a DICOM value of at most 64 characters: no backslash, no control characters."""
    return "".join(letter for letter in words if letter.isprintable() and letter != "\\")[:64].strip()
