"""A hospital's own DICOM files: any folder tree, any names, with DICOM SEG files as masks where there are some.

Headers say all that is known here; nothing is decoded but a SEG file, to see whether it marks anything. Only DICOM is
taken: a picture names no patient, and a split by patient needs one. Patients and studies leave under pseudonyms
(`pseudonym`); paths stay as they are, so a folder named after a patient should be renamed before its datalists are
given away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from monai_mammo.datasets.pseudonym import patient_of, pseudonym, spelt
from monai_mammo.datasets.sources import Defect, SourceImage, SourceLesion, files_below
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.header import MammogramHeader, stored_as
from monai_mammo.dicom.reader import read_header
from monai_mammo.dicom.segment_place import misplaced
from monai_mammo.dicom.segmentation import (
    LABEL_MAP,
    SEGMENTATION,
    Segment,
    decode_segment,
    former_versions,
    read_segment,
    segments,
)

NAME = "DICOM folder"
LICENCE = "the owner's; nothing is known of it"


@dataclass
class _Drawn:
    """What the folder's segments say of mammograms, by SOPInstanceUID."""

    lesions: dict[str, list[SourceLesion]] = field(default_factory=lambda: defaultdict(list))
    without: set[str] = field(default_factory=set)
    """Of which a segment for tumours marks no pixel."""
    unusable: Counter[str] = field(default_factory=Counter)
    """How many segments mark what is a tumour, or may be one, and cannot be used."""


def images(source: Path, defects: list[Defect]) -> list[SourceImage]:
    """Every mammogram below a folder, the segments of DICOM SEG files as its lesions.

    Left out with a defect each: what is no DICOM, no mammogram or damaged; FOR PROCESSING images, which have no defined
    display; a second file of the same SOPInstanceUID, and both where they differ in patient, study, side or view; a
    segment of an image that is not there, of no frame, of what is no tumour (anatomy, lymph nodes, cysts,
    calcifications, …) or may be none (`monai_mammo.dicom.segment_codes.type_tells_of_tumours`), or of another size or
    place than its image (`monai_mammo.dicom.segment_place.misplaced`); what its reader replaced by a later version
    (`monai_mammo.dicom.segmentation.former_versions`). Where such a segment may mark a tumour, the image names more
    lesions than it has (`lesions_listed`), so that the tumour counts nowhere as background. Where PatientID is empty or
    the same for everybody, the study stands for the patient. Patients whose PatientIDs differ in spelling alone are
    kept as several, with a defect, as pseudonyms no longer show that they may be one. An image is normal where a
    segment for tumours marks no pixel of it and none marks any: somebody looked and found nothing.

    Raises:
        MammogramError: no folder, or no mammogram in it.
    """
    if not source.is_dir():
        raise MammogramError(source, "there is no such folder", "Give a folder of DICOM files")
    found: dict[str, list[MammogramHeader]] = defaultdict(list)
    segmentations: dict[str, Path] = {}
    files = 0
    for file in files_below(source, defects):
        files += 1
        header = _mammogram(file, segmentations, defects)
        if header is None:
            continue
        if not patient_of(header):
            defects.append(Defect(file, "neither PatientID nor StudyInstanceUID says whose it is"))
        else:
            found[header.sop_instance_uid or str(file)].append(header)
    headers = {uid: same[0] for uid, same in found.items() if _one_image(same, defects)}
    if not headers:
        raise MammogramError(
            source,
            f"no mammogram in DICOM is among its {files} files" + (f"; {defects[0]}" if defects else ""),
            "Give a folder with mammograms (modality MG) in DICOM",
        )
    _name_spellings(headers.values(), defects)
    drawn = _drawn(list(segmentations.values()), headers, found, defects)
    return [_image(header, uid, drawn, defects) for uid, header in headers.items()]


def _mammogram(file: Path, segmentations: dict[str, Path], defects: list[Defect]) -> MammogramHeader | None:
    """The header of a mammogram that can be used; SEG files are collected, whatever else is there becomes a defect."""
    if file.name.upper() == "DICOMDIR":  # reserved by PS3.10 8.6
        defects.append(Defect(file, "it is an index of DICOM files, no image", "ignored"))
        return None
    try:
        header = read_header(file)
    except MammogramError as error:
        sop_class, uid = stored_as(file)
        if sop_class in (SEGMENTATION, LABEL_MAP):
            if segmentations.setdefault(uid or str(file), file) is not file:
                defects.append(Defect(file, f"it has the SOPInstanceUID of {segmentations[uid]}"))
        else:
            defects.append(Defect(file, error.reason, "left out" if sop_class else "ignored"))
        return None
    if header.format != "dicom":
        defects.append(Defect(file, f"it is a picture ({header.format}), which names no patient", "ignored"))
        return None
    if header.intent == "processing":
        defects.append(Defect(file, "the image is FOR PROCESSING; how it is to be displayed is not defined"))
        return None
    return header


def _one_image(same: Sequence[MammogramHeader], defects: list[Defect]) -> bool:
    """Whether files of one SOPInstanceUID are copies, of which the first counts; different images are all left out."""
    kinds = {(header.patient_id, header.study_instance_uid, header.laterality, header.view) for header in same}
    for header in same if len(kinds) > 1 else same[1:]:
        other = same[0] if header is not same[0] else same[1]
        differing = "" if len(kinds) == 1 else ", but another patient, study, side or view: one of them is wrong"
        defects.append(Defect(header.path, f"it has the SOPInstanceUID of {other.path}{differing}"))
    return len(kinds) == 1


def _name_spellings(headers: Iterable[MammogramHeader], defects: list[Defect]) -> None:
    """A defect for patients who may be one, written in several ways; it names a file of each, and no PatientID."""
    spellings: dict[str, dict[str, Path]] = defaultdict(dict)
    for header in headers:
        if patient_of(header) == header.patient_id:
            spellings[spelt(header.patient_id)].setdefault(header.patient_id, header.path)
    for first, *others in (list(files.values()) for files in spellings.values() if len(files) > 1):
        several = 1 + len(others)
        reason = (
            f"its PatientID and that of {', '.join(map(str, others))} differ only in capitals, spaces or zeros before "
            "a number: one patient may be in several sections"
        )
        defects.append(Defect(first, reason, f"kept as {several} patients; correct PatientID if they are one"))


def _image(header: MammogramHeader, uid: str, drawn: _Drawn, defects: list[Defect]) -> SourceImage:
    lesions, unusable = drawn.lesions[uid], drawn.unusable[uid]
    if patient_of(header) != header.patient_id:
        reason = "PatientID is empty or stands for everybody"
        defects.append(Defect(header.path, reason, "kept; its study stands for the patient"))
    attributes: dict[str, Any] = {
        "study": pseudonym(header.study_instance_uid) if header.study_instance_uid else "",
        "manufacturer": header.manufacturer,
        "model": header.manufacturer_model,
        "view_modifiers": " ".join(header.view_modifiers),
        "partial_view": "" if header.partial_view is None else header.partial_view,
        "implant": "" if header.implant is None else header.implant,
        "lesions_listed": len(lesions) + unusable if unusable else "",
    }
    return SourceImage(
        image=header.path,
        patient=pseudonym(patient_of(header)),
        laterality=header.laterality or "",
        view=header.view or "",
        lesions=tuple(lesions),
        spacing=header.spacing,
        normal=uid in drawn.without and not lesions and not unusable,
        part=header.shows_part,
        attributes={key: value for key, value in attributes.items() if value != ""},
    )


def _drawn(
    files: Sequence[Path],
    headers: Mapping[str, MammogramHeader],
    found: Mapping[str, Sequence[MammogramHeader]],
    defects: list[Defect],
) -> _Drawn:
    """What all SEG files together say of the mammograms."""
    drawn = _Drawn()
    outlined: dict[str, list[Path]] = defaultdict(list)
    shown = _segments(files, defects)
    former = former_versions(segment for each in shown.values() for segment in each)
    defects += [Defect(file, f"it is a former version of {latest}") for (file, _), latest in former.items()]
    for file, its_segments in shown.items():
        for segment in its_segments:
            if (file, segment.image) in former:
                continue
            if reason := _useless(segment, headers, found):
                defects.append(Defect(file, f"segment {segment.number} {reason}"))
                continue
            if not _usable(segment, headers[segment.image].path, drawn, defects):
                continue
            others = outlined[segment.image]
            if others and file not in others:
                defects.append(Defect(file, f"it outlines the same mammogram as {others[0]}", "kept, both count"))
            others.append(file)
            drawn.lesions[segment.image].append(
                SourceLesion(
                    masks=(file,),
                    kind=segment.kind,
                    name=f"{file.stem}_{segment.number}",
                    union=True,  # a segment is a kind of finding; it may mark several of them
                    read=partial(read_segment, number=segment.number, image=segment.image),
                )
            )
    return drawn


def _usable(segment: Segment, image: Path, drawn: _Drawn, defects: list[Defect]) -> bool:
    """Whether a segment that may show tumours of an image marks some, for sure and in its place; else it is noted."""
    name, file = f"segment {segment.number}", segment.file
    if elsewhere := _misplaced(segment, image):
        drawn.unusable[segment.image] += 1
        defects.append(Defect(file, f"{name} {elsewhere}"))
        return False
    empty = _is_empty(segment)
    if segment.tumours is None:
        drawn.unusable[segment.image] += not empty
        defects.append(Defect(file, f"{name} {_doubt(segment)}", f"left out; {_remedy(segment)} if it is one"))
        return False
    if empty:
        drawn.without.add(segment.image)
        defects.append(Defect(file, f"{name} marks no pixel", "kept as: no lesion"))
    return not empty


def _doubt(segment: Segment) -> str:
    if segment.series:  # this program's own: the type tells nothing of the name, which may name anybody
        return "has a name that is not known: whether it is a tumour nobody knows"
    kind = f"is of the type '{segment.kind[:64]}'" if segment.kind else "has no type"
    return f"{kind}: whether it is a tumour nobody knows"


def _remedy(segment: Segment) -> str:
    return "save it again under the name tumour" if segment.series else "export it as Mass, Neoplasm or Lesion"


def _segments(files: Sequence[Path], defects: list[Defect]) -> dict[Path, list[Segment]]:
    """What every SEG file shows; one that shows nothing, or cannot be read, becomes a defect."""
    shown = {}
    for file in files:
        try:
            shown[file] = segments(file)
        except MammogramError as error:
            defects.append(Defect(file, error.reason))
            continue
        if not shown[file]:
            defects.append(Defect(file, "the segmentation has no segment"))
    return shown


def _misplaced(segment: Segment, image: Path) -> str:
    try:
        return misplaced(segment.file, segment.frames, image)
    except MammogramError as error:
        return f"cannot be placed: {error.reason}"


def _is_empty(segment: Segment) -> bool:
    """Whether a segment's frames mark no pixel; what cannot be decoded is not known to be empty, and named later."""
    try:
        return not decode_segment(segment).any()
    except MammogramError:
        return False


def _useless(
    segment: Segment, headers: Mapping[str, MammogramHeader], found: Mapping[str, Sequence[MammogramHeader]]
) -> str:
    if not segment.image:
        return "has no frame: it outlines nothing"
    if segment.image in found and segment.image not in headers:
        return "outlines an image whose SOPInstanceUID several different mammograms have"
    if segment.image not in headers:
        return "outlines an image that is not among the folder's mammograms"
    return f"outlines no tumour ({segment.kind})" if segment.tumours is False else ""
