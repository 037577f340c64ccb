"""Masks of mammograms as DICOM Segmentation (PS3.3 A.51): written as BINARY, and read from whoever wrote them.

A mask is uint8 or bool (rows, columns), in the pixels of its mammogram. What is segmented, and whether well, is not
known here.
"""

from __future__ import annotations

import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.header import integer, text
from monai_mammo.dicom.pixels import MAX_PIXELS, check_size
from monai_mammo.dicom.plane import Plane, plane_of
from monai_mammo.dicom.segment_codes import Method, segment_description, short, type_tells_of_tumours
from monai_mammo.dicom.views import read_laterality
from monai_mammo.files import replacing

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP class."""
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""SOP class of segmentations whose pixels are numbers of segments, which are not read."""

_SEG_TAGS = [
    "SegmentSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence", "SourceImageSequence", "Manufacturer", "SeriesInstanceUID", "ContentDate",
    "ContentTime", "SOPClassUID", "SegmentationType",
]  # fmt: skip
_COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "StudyDescription", "ReferringPhysicianName", "TimezoneOffsetFromUTC",
)  # fmt: skip
_MAKER = "monai_mammo"
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
    label: str = field(default="", repr=False)
    """Free text of its writer, which may name anybody: for viewers, not for logs or data sets."""
    series: str = ""
    """SeriesInstanceUID of a file that `write_segmentation` made; empty where it is unknown what a series means."""
    written: str = ""
    """ContentDate and ContentTime."""
    tumours: bool | None = None
    """Whether the property type is a tumour's; None where nobody knows (`segment_codes.type_tells_of_tumours`)."""


def write_segmentation(
    path: str | os.PathLike[str],
    image: str | os.PathLike[str],
    masks: Mapping[str, np.ndarray],
    *,
    creator: str = "",
    method: Method = "MANUAL",
    algorithm: str = "",
    instance: int = 1,
) -> Dataset:
    """Write masks of one mammogram to a DICOM SEG file, one segment a mask, one frame a segment.

    A segment without any pixel keeps its frame of zeros: an object of no frame is not valid (PS3.3 C.7.6.6 asks for at
    least one), and "looked for, nothing found" is a result. Patient, study and PatientOrientation, if it is one, are
    the image's as stored; the place is that of `monai_mammo.dicom.plane.plane_of`. All SEGs of one image and maker,
    the algorithm for AUTOMATIC and the creator for others, share a series, of which the latest counts
    (`former_versions`).

    Args:
        path: the file to write, in one step: an interrupted call leaves no half of a file.
        image: the mammogram's DICOM file; its pixels are not read.
        masks: (rows, columns) of the image's size by the segment's name; not 0 is inside. Names with a code of their
            own are tumour, mass, nodule, neoplasm, calcification, architectural distortion, lymph node, cyst, breast,
            nipple and pectoral muscle; complete and incomplete are the breast's outline; others are coded as lesions.
        creator: the reader's name for ContentCreatorName.
        method: how the masks were made.
        algorithm: name of the algorithm behind masks that are not MANUAL.
        instance: number of this SEG in its series.

    Returns:
        what was written.

    Raises:
        MammogramError: the image has no study, series or instance UID, or cannot be read; or a mask does not fit.
        OSError: the file cannot be written.
    """
    import highdicom  # heavy, and only writers need it

    source = _image_header(Path(image))
    size = integer(Path(image), source, "Rows"), integer(Path(image), source, "Columns")
    for name, mask in masks.items():
        if mask.shape != size:
            reason = f"the mask has {mask.shape} pixels (rows, columns), the image {size}"
            raise MammogramError(Path(image), reason, f"Give {name[:64]!r} on the image's own grid")
    if not masks:
        raise MammogramError(Path(image), "there is no mask to write", "Give one, an empty one if nothing was found")
    plane, maker = plane_of(source), algorithm if method == "AUTOMATIC" else creator
    frames = np.stack([mask != 0 for mask in masks.values()]).astype(np.uint8)
    with disable_value_validation(), refusing(image, "no segmentation can be made of its header", "Correct the header"):
        side = read_laterality(source)
        segmentation = highdicom.seg.Segmentation(
            source_images=[_skeleton(source, plane, size)],
            pixel_array=np.moveaxis(frames, 0, -1)[np.newaxis],
            segmentation_type="BINARY",
            segment_descriptions=[
                segment_description(number, name, side, method, algorithm) for number, name in enumerate(masks, start=1)
            ],
            series_instance_uid=generate_uid(entropy_srcs=[source.SOPInstanceUID, "segmentation", maker]),
            series_number=900,
            sop_instance_uid=generate_uid(),
            instance_number=instance,
            manufacturer=_MAKER,
            manufacturer_model_name=_MAKER,
            software_versions=version("monai_mammo"),
            device_serial_number="0",
            omit_empty_frames=False,
            content_label="SEGMENTATION",
            content_description=short(", ".join(masks)),
            content_creator_name=_person(creator) or None,
            series_description=short(f"Segmentation {maker}".strip()),
        )
        # highdicom 0.27 packs frames of fewer than eight pixels each on its own; PS3.5 8.1.1 leaves no gap.
        packed = np.packbits(frames, bitorder="little").tobytes()
        segmentation.PixelData = packed + b"\0" * (len(packed) % 2)
        _take_over(source, segmentation)
        encoded = io.BytesIO()
        segmentation.save_as(encoded)
    with replacing(Path(path)) as partial:
        partial.write_bytes(encoded.getvalue())
    return segmentation


def read_segmentation(file: str | os.PathLike[str], image: str) -> dict[str, np.ndarray]:
    """Decode all segments of a DICOM SEG file that show one mammogram: the other way of `write_segmentation`.

    The pixels are as stored; whether they lie upon the mammogram's says `monai_mammo.dicom.segment_place.misplaced`.

    Args:
        file: whoever wrote it.
        image: SOPInstanceUID of the mammogram.

    Returns:
        uint8 (rows, columns) of 0 and 1 by the segment's label; its kind where it has none. Segments without a pixel
        are among them, those of equal label are united.

    Raises:
        MammogramError: the file cannot be decoded, or has fewer frames than its header describes.
    """
    file = Path(file)
    shown = [segment for segment in segments(file) if segment.image == image and segment.frames]
    masks: dict[str, np.ndarray] = {}
    if shown:
        pixels = _frames(file, max(max(segment.frames) for segment in shown))
        for segment in shown:
            mask, name = pixels[list(segment.frames)].any(axis=0).astype(np.uint8), segment.label or segment.kind
            masks[name] = mask | masks[name] if name in masks else mask
    return masks


def decode_segment(segment: Segment) -> np.ndarray:
    """Decode what a segment shows of its mammogram: uint8 (rows, columns) of 0 and 1, all 0 if it marks nothing.

    Frames of one segment and image are united; FRACTIONAL values count from half of their maximum on (PS3.3 C.8.20.2).

    Raises:
        MammogramError: the file cannot be decoded, or has fewer frames than its header describes.
    """
    pixels = _frames(segment.file, max(segment.frames, default=-1))
    return pixels[list(segment.frames)].any(axis=0).astype(np.uint8)


def read_segment(file: Path, *, number: int, image: str) -> np.ndarray:
    """`decode_segment` by the segment's number and the mammogram's SOPInstanceUID.

    Raises:
        MammogramError: as of `decode_segment`, or the segment marks no pixel.
    """
    frames = [segment for segment in segments(file) if (segment.number, segment.image) == (number, image)]
    if not frames or not frames[0].frames:
        raise MammogramError(file, f"segment {number} has no frame of this mammogram", _WRITE_AGAIN)
    mask = decode_segment(frames[0])
    if not mask.any():
        raise MammogramError(file, f"segment {number} marks no pixel", _WRITE_AGAIN)
    return mask


def segments(file: Path) -> list[Segment]:
    """Segments of a DICOM SEG file and the images that they show; one of no frame has the image "".

    A frame names its image in its own functional groups, in the shared ones, or, where they are silent, the file as a
    whole names one image only.

    Raises:
        MammogramError: the header cannot be read, a frame names no segment or no image, or the file is a LABELMAP.
    """
    with disable_value_validation(), refusing(file, "the segmentation's header is malformed", _WRITE_AGAIN):
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_SEG_TAGS)
        if text(dataset, "SOPClassUID") == LABEL_MAP or text(dataset, "SegmentationType") == "LABELMAP":
            reason = "it is a segmentation of type LABELMAP; BINARY and FRACTIONAL are read"
            raise MammogramError(file, reason, "Export it as one of these")
        described = {int(item.SegmentNumber): item for item in dataset.get("SegmentSequence") or []}
        shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), Dataset())
        whole = _instances(dataset)
        frames: dict[tuple[int, str], list[int]] = defaultdict(list)
        for index, groups in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or []):
            named = _images_of(groups) or _images_of(shared) or whole
            if len(named) != 1:
                reason = f"frame {index + 1} refers to {len(named)} images, not to one"
                raise MammogramError(file, reason, _WRITE_AGAIN)
            frames[_number_of(groups, shared), named[0]].append(index)
        series = text(dataset, "SeriesInstanceUID") if text(dataset, "Manufacturer") == _MAKER else ""
        written = f"{text(dataset, 'ContentDate')} {text(dataset, 'ContentTime')}"
        shown = {number for number, _ in frames}
        found = [
            Segment(file, number, image, tuple(indices), **_description(described.get(number, Dataset()), bool(series)))
            for (number, image), indices in frames.items()
        ]
        found += [
            Segment(file, number, "", (), **_description(described[number], bool(series)))
            for number in described
            if number not in shown
        ]
    return [replace(segment, series=series, written=written) for segment in found]


def former_versions(found: Iterable[Segment]) -> dict[tuple[Path, str], Path]:
    """Which files of `write_segmentation` others replace: of an image's in one series, the latest alone is valid.

    Other programs put what they like into a series, so that all of theirs count.

    Args:
        found: the segments of any number of files.

    Returns:
        the valid file by the former one and the image, its SOPInstanceUID.
    """
    former: dict[tuple[Path, str], Path] = {}
    versions: dict[tuple[str, str], list[Segment]] = defaultdict(list)
    for segment in found:
        if segment.image and segment.series:
            versions[segment.series, segment.image].append(segment)
    for (_, image), same in versions.items():
        latest = max(same, key=lambda segment: segment.written)
        former |= {(segment.file, image): latest.file for segment in same if segment.written < latest.written}
    return former


def _frames(file: Path, last: int) -> np.ndarray:
    """All frames as bool (frames, rows, columns), up to `last` at least; size is checked before memory is taken."""
    with disable_value_validation(), refusing(file, "the segmentation cannot be decoded", _WRITE_AGAIN):
        dataset = pydicom.dcmread(file)
        shape = integer(file, dataset, "Rows"), integer(file, dataset, "Columns")
        count = integer(file, dataset, "NumberOfFrames", 1)
        check_size(file, *shape)
        check_size(file, shape[0] * count, shape[1], _MOST_FRAMES * MAX_PIXELS)
        pixels = dataset.pixel_array.reshape(-1, *shape)
        if last >= len(pixels):
            reason = f"its header describes frame {last + 1}, and it has {len(pixels)}"
            raise MammogramError(file, reason, _WRITE_AGAIN)
        if text(dataset, "SegmentationType") == "FRACTIONAL":
            return np.asarray(pixels >= integer(file, dataset, "MaximumFractionalValue", 255) / 2)
    return np.asarray(pixels > 0)


def _image_header(path: Path) -> Dataset:
    """The whole header of a mammogram, which its results repeat; nothing of it is shown to anybody."""
    with disable_value_validation(), refusing(path, "the image's header cannot be read", "Export the file again"):
        source = pydicom.dcmread(path, stop_before_pixels=True, force=True)  # old archives hold no preamble
        uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
        missing = [keyword for keyword in uids if not text(source, keyword)]
    if missing:
        reason = f"it has no {' and no '.join(missing)}, so no result can refer to it"
        raise MammogramError(path, reason, "Export it again from the archive")
    return source


def _skeleton(source: Dataset, plane: Plane, size: tuple[int, int]) -> Dataset:
    """What highdicom needs to know of the image, and nothing that could be malformed in it."""
    dataset = Dataset()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        setattr(dataset, keyword, UID(text(source, keyword)))
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(dataset, keyword, None)
    dataset.StudyDate = dataset.StudyTime = None
    dataset.Modality = "MG"
    dataset.Rows, dataset.Columns = size
    dataset.FrameOfReferenceUID = plane.frame_of_reference
    dataset.ImagePositionPatient = list(plane.position)
    dataset.ImageOrientationPatient = list(plane.orientation)
    dataset.PixelSpacing = list(plane.spacing)
    # The frames' measures are made of these: highdicom refers to the image only where a frame has the image's own.
    dataset.SliceThickness = dataset.SpacingBetweenSlices = 1.0
    return dataset


def _take_over(source: Dataset, segmentation: Dataset) -> None:
    """Patient and study as stored, faults included: an archive files a result by what is equal."""
    segmentation.SpecificCharacterSet = "ISO_IR 192"  # for any name of a reader or segment; names are recoded to it
    for keyword in _COPIED:
        if keyword in source:
            segmentation[keyword] = source[keyword]
    offset = text(segmentation, "TimezoneOffsetFromUTC")  # which holds for every time of the file
    zone = datetime.strptime(offset, "%z").tzinfo if re.fullmatch(r"[+-][01]\d[0-5]\d", offset) else None
    now = datetime.now(zone)
    segmentation.ContentDate, segmentation.ContentTime = f"{now:%Y%m%d}", f"{now:%H%M%S.%f}"
    if _is_orientation(source.get("PatientOrientation")):
        segmentation["PatientOrientation"] = source["PatientOrientation"]
    if text(source, "PatientSex") not in ("", "F", "M", "O"):
        segmentation.PatientSex = ""
    if text(source, "LossyImageCompression") == "01" and source.get("LossyImageCompressionRatio"):
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in source:
                segmentation[keyword] = source[keyword]


def _is_orientation(value: Any) -> bool:
    """Whether a PatientOrientation names two directions (PS3.3 C.7.6.1.1.1); CBIS-DDSM has the view there."""
    directions = [] if value is None or isinstance(value, str) else [str(direction) for direction in value]
    return len(directions) == 2 and all(re.fullmatch("[LRAPHF]{1,3}", direction) for direction in directions)


def _person(name: str) -> str:
    """A user's name as a PN value: all of it family name, unless it has components already."""
    plain = short(name).replace("=", " ").strip()
    return plain if "^" in plain or not plain else f"{plain[:63]}^"


def _description(item: Dataset, ours: bool) -> dict[str, Any]:
    """What a SegmentSequence's item says of a segment. Its label is free text, and may name anybody: no kind."""
    kind = _code(item, "SegmentedPropertyTypeCodeSequence")
    tumours = type_tells_of_tumours(kind, _code(item, "SegmentedPropertyCategoryCodeSequence"), ours=ours)
    return {"kind": kind[2].lower(), "label": text(item, "SegmentLabel"), "tumours": tumours}


def _code(item: Dataset, sequence: str) -> tuple[str, str, str]:
    """Value, scheme and meaning of a sequence's first code, empty where there is none."""
    code = next(iter(item.get(sequence) or []), Dataset())
    return text(code, "CodeValue"), text(code, "CodingSchemeDesignator"), text(code, "CodeMeaning")


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
