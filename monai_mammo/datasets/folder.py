"""A hospital's own DICOM files: any folder tree, any names, with DICOM SEG files as masks where there are some.

Headers say all that is known here; nothing is decoded. Only DICOM is taken: a picture names no patient, and a split by
patient needs one. Patients and studies leave under pseudonyms (`pseudonym`); paths stay as they are, so a folder named
after a patient should be renamed before its datalists are given away.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info

from monai_mammo.datasets.sources import Defect, SourceImage, SourceLesion, files_below
from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.header import MammogramHeader, integer, text
from monai_mammo.dicom.pixels import MAX_PIXELS, check_size
from monai_mammo.dicom.reader import read_header

NAME = "DICOM folder"
LICENCE = "the owner's; nothing is known of it"

KEY_VARIABLE = "MONAI_MAMMO_PSEUDONYM_KEY"
"""Environment variable with the secret that pseudonyms are made with."""

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
# What anonymisation leaves in the place of a PatientID: one value for everybody, so it tells nobody apart.
_NOBODY = re.compile(r"(anon(ymous|ymi[sz]ed)?|unknown|none|nan|n/?a|no[ _]?(id|name)|removed|0*)\W*", re.IGNORECASE)
_ANATOMY = {"breast", "nipple", "skin", "pectoral muscle", "pectoralis major muscle", "background", "entire breast"}
_SEG_TAGS = [
    "SegmentSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence", "SourceImageSequence",
]  # fmt: skip
_MOST_FRAMES = 8  # of the largest size; all of a file's frames are decoded together
_WRITE_AGAIN = "Write the segmentation again"


@dataclass(frozen=True)
class Segment:
    """What one segment of a DICOM SEG file shows of one mammogram, without its pixels."""

    file: Path
    number: int
    image: str
    """SOPInstanceUID of the mammogram."""
    frames: tuple[int, ...]
    """Indices, from 0, of the frames that show it."""
    kind: str = ""
    """The segment's property type (mass, calcification, …) in lower case, or empty."""


def images(source: Path, defects: list[Defect]) -> list[SourceImage]:
    """Every mammogram below a folder, the segments of DICOM SEG files as its lesions.

    Left out with a defect each: what is no DICOM, no mammogram or damaged; FOR PROCESSING images, which have no
    defined display; a second file of the same SOPInstanceUID; a segment of an image that is not there, of no frame,
    or of anatomy (the breast, the nipple, …). Where PatientID is empty or the same for everybody, the study stands for
    the patient.

    Raises:
        MammogramError: no folder, or no mammogram in it.
    """
    if not source.is_dir():
        raise MammogramError(source, "there is no such folder", "Give a folder of DICOM files")
    headers: dict[str, MammogramHeader] = {}
    segmentations: dict[str, Path] = {}
    files = 0
    for file in files_below(source, defects):
        files += 1
        header = _mammogram(file, segmentations, defects)
        if header is None:
            continue
        uid = header.sop_instance_uid or str(file)
        if uid in headers:
            defects.append(Defect(file, f"it has the SOPInstanceUID of {headers[uid].path}"))
        elif not _who(header):
            defects.append(Defect(file, "neither PatientID nor StudyInstanceUID says whose it is"))
        else:
            headers[uid] = header
    if not headers:
        raise MammogramError(
            source,
            f"no mammogram in DICOM is among its {files} files" + (f"; {defects[0]}" if defects else ""),
            "Give a folder with mammograms (modality MG) in DICOM",
        )
    lesions = _lesions(list(segmentations.values()), headers, defects)
    return [_image(header, lesions[uid], defects) for uid, header in headers.items()]


def read_segment(file: Path, *, number: int, image: str) -> np.ndarray:
    """Decode what a segment of a DICOM SEG file shows of a mammogram: uint8 (rows, columns) of 0 and 1.

    Frames of one segment and image are united; FRACTIONAL values count from half of their maximum on (PS3.3 C.8.20.2).

    Raises:
        MammogramError: the file cannot be decoded, or the segment marks no pixel.
    """
    frames = [segment for segment in segments(file) if (segment.number, segment.image) == (number, image)]
    if not frames or not frames[0].frames:
        raise MammogramError(file, f"segment {number} has no frame of this mammogram", _WRITE_AGAIN)
    with disable_value_validation(), refusing(file, "the segmentation cannot be decoded", _WRITE_AGAIN):
        dataset = pydicom.dcmread(file)
        shape = integer(file, dataset, "Rows"), integer(file, dataset, "Columns")
        count = integer(file, dataset, "NumberOfFrames", 1)
        check_size(file, *shape)
        check_size(file, shape[0] * count, shape[1], _MOST_FRAMES * MAX_PIXELS)
        pixels = dataset.pixel_array.reshape(-1, *shape)[list(frames[0].frames)]
        if text(dataset, "SegmentationType") == "FRACTIONAL":
            pixels = pixels >= integer(file, dataset, "MaximumFractionalValue", 255) / 2
    mask = (pixels > 0).any(axis=0).astype(np.uint8)
    if not mask.any():
        raise MammogramError(file, f"segment {number} marks no pixel", _WRITE_AGAIN)
    return mask


def segments(file: Path) -> list[Segment]:
    """Segments of a DICOM SEG file and the images that they show; one of no frame has the image "".

    A frame names its image in its own functional groups, in the shared ones, or, where they are silent, the file as a
    whole names one image only.

    Raises:
        MammogramError: the header cannot be read, or a frame names no segment or no image.
    """
    with disable_value_validation(), refusing(file, "the segmentation's header is malformed", _WRITE_AGAIN):
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_SEG_TAGS)
        kinds = {int(item.SegmentNumber): _kind(item) for item in dataset.get("SegmentSequence") or []}
        shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), Dataset())
        whole = _instances(dataset)
        frames: dict[tuple[int, str], list[int]] = defaultdict(list)
        for index, groups in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or []):
            named = _images_of(groups) or _images_of(shared) or whole
            if len(named) != 1:
                reason = f"frame {index + 1} refers to {len(named)} images, not to one"
                raise MammogramError(file, reason, _WRITE_AGAIN)
            frames[_number_of(groups, shared), named[0]].append(index)
    shown = {number for number, _ in frames}
    found = [
        Segment(file, number, image, tuple(frames[number, image]), kinds.get(number, "")) for number, image in frames
    ]
    return found + [Segment(file, number, "", (), kind) for number, kind in kinds.items() if number not in shown]


def pseudonym(identifier: str) -> str:
    """Sixteen hexadecimal digits that stand for an identifier: the same for the same identifier and key.

    The key is the environment variable `MONAI_MAMMO_PSEUDONYM_KEY`. Without one, who has a list of identifiers can find
    out which of them is meant; with one, only who knows the key.
    """
    key = blake2b(os.environ.get(KEY_VARIABLE, "").encode()).digest() if os.environ.get(KEY_VARIABLE) else b""
    return blake2b(identifier.encode(), digest_size=8, key=key).hexdigest()


def _mammogram(file: Path, segmentations: dict[str, Path], defects: list[Defect]) -> MammogramHeader | None:
    """The header of a mammogram that can be used; SEG files are collected, whatever else is there becomes a defect."""
    if file.name.upper() == "DICOMDIR":  # reserved by PS3.10 8.6
        defects.append(Defect(file, "it is an index of DICOM files, no image", "ignored"))
        return None
    try:
        header = read_header(file)
    except MammogramError as error:
        sop_class, uid = _identity(file)
        if sop_class == SEGMENTATION:
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


def _identity(file: Path) -> tuple[str, str]:
    """SOP class and SOP instance of a DICOM file (of its meta information, PS3.10 7.1); empty texts if it is none."""
    try:
        with disable_value_validation(), refusing(file, "it is no DICOM file", _WRITE_AGAIN):
            meta = read_file_meta_info(file)
            return str(meta.get("MediaStorageSOPClassUID", "unknown")), str(meta.get("MediaStorageSOPInstanceUID", ""))
    except MammogramError:
        return "", ""


def _who(header: MammogramHeader) -> str:
    """What tells this patient from others: PatientID, or the study where PatientID tells nobody apart."""
    return header.study_instance_uid if _NOBODY.fullmatch(header.patient_id) else header.patient_id


def _image(header: MammogramHeader, lesions: Sequence[SourceLesion], defects: list[Defect]) -> SourceImage:
    if _who(header) != header.patient_id:
        reason = "PatientID is empty or stands for everybody"
        defects.append(Defect(header.path, reason, "kept; its study stands for the patient"))
    attributes: dict[str, Any] = {
        "study": pseudonym(header.study_instance_uid) if header.study_instance_uid else "",
        "manufacturer": header.manufacturer,
        "model": header.manufacturer_model,
        "view_modifiers": " ".join(header.view_modifiers),
        "partial_view": "" if header.partial_view is None else header.partial_view,
        "implant": "" if header.implant is None else header.implant,
    }
    return SourceImage(
        image=header.path,
        patient=pseudonym(_who(header)),
        laterality=header.laterality or "",
        view=header.view or "",
        lesions=tuple(lesions),
        spacing=header.spacing,
        attributes={key: value for key, value in attributes.items() if value != ""},
    )


def _lesions(
    files: Sequence[Path], headers: dict[str, MammogramHeader], defects: list[Defect]
) -> dict[str, list[SourceLesion]]:
    """Lesions of every mammogram, by its SOPInstanceUID."""
    lesions: dict[str, list[SourceLesion]] = defaultdict(list)
    outlined: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        try:
            found = segments(file)
        except MammogramError as error:
            defects.append(Defect(file, error.reason))
            continue
        if not found:
            defects.append(Defect(file, "the segmentation has no segment"))
        for segment in found:
            reason = _useless(segment, headers)
            if reason:
                defects.append(Defect(file, f"segment {segment.number} {reason}"))
                continue
            others = outlined[segment.image]
            if others and file not in others:
                defects.append(Defect(file, f"it outlines the same mammogram as {others[0]}", "kept, both count"))
            others.append(file)
            lesions[segment.image].append(
                SourceLesion(
                    masks=(file,),
                    kind=segment.kind,
                    name=f"{file.stem}_{segment.number}",
                    union=True,  # a segment is a kind of finding; it may mark several of them
                    read=partial(read_segment, number=segment.number, image=segment.image),
                )
            )
    return lesions


def _useless(segment: Segment, headers: dict[str, MammogramHeader]) -> str:
    if not segment.image:
        return "has no frame: it outlines nothing"
    if segment.image not in headers:
        return "outlines an image that is not among the folder's mammograms"
    return f"outlines anatomy ({segment.kind}), no lesion" if segment.kind in _ANATOMY else ""


def _kind(item: Dataset) -> str:
    """Property type of a segment. Not its label: that is free text, and may name anybody."""
    types = item.get("SegmentedPropertyTypeCodeSequence") or []
    return text(types[0], "CodeMeaning").lower() if types else ""


def _images_of(groups: Dataset) -> list[str]:
    """The images that a frame was derived from (PS3.3 C.7.6.16.2.6)."""
    derivations = groups.get("DerivationImageSequence") or []
    return sorted({text(image, "ReferencedSOPInstanceUID") for item in derivations for image in _sources(item)} - {""})


def _sources(item: Dataset) -> list[Dataset]:
    return list(item.get("SourceImageSequence") or [])


def _instances(dataset: Dataset) -> list[str]:
    """The images that the file as a whole refers to."""
    series = dataset.get("ReferencedSeriesSequence") or []
    named = [image for item in series for image in item.get("ReferencedInstanceSequence") or []] + _sources(dataset)
    return sorted({text(image, "ReferencedSOPInstanceUID") for image in named} - {""})


def _number_of(groups: Dataset, shared: Dataset) -> int:
    item = groups.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
    return int(item[0].ReferencedSegmentNumber)
