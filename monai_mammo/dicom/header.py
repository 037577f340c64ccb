"""What a mammogram's DICOM header says, and which files are refused because of it. Reads no pixels.

Parsed with pydicom, but only the attributes named in `_KEYWORDS`: a patient's name or birth date never enters the
program.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pydicom.config import IGNORE, disable_value_validation
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_mammo.dicom.errors import MammogramError, refusing
from monai_mammo.dicom.views import PARTIAL_MODIFIERS, read_laterality, read_view, shows_breast

FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.2"
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
# Scanned film and plates come as these; each must be of modality MG or say that it shows a breast.
FILM_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, For Presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, For Processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture (of one frame)
    "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture (of one frame)
}
FILM_MODALITIES = {"", "CR", "DX", "OT", "RG", "SC"}
# SOP classes (PS3.4 B.5), or how several begin, of what lies beside images in a study and is none.
_NO_IMAGES = (
    "1.2.840.10008.1.3.10",  # DICOMDIR
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.66",  # raw data, registrations, fiducials, segmentations
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key object selections
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
)
PROCESSING_CLASSES = {FOR_PROCESSING, "1.2.840.10008.5.1.4.1.1.1.1.1"}

_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "Manufacturer",
    "ManufacturerModelName", "PresentationIntentType", "BodyPartExamined", "OrganExposed", "PositionerType",
    "AnatomicRegionSequence", "ImageLaterality", "Laterality", "PatientOrientation", "ViewPosition",
    "ViewCodeSequence", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "PixelSpacingCalibrationType", "EstimatedRadiographicMagnificationFactor", "PartialView", "BreastImplantPresent",
    "BurnedInAnnotation", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence",
    "VOILUTFunction", "WindowCenter", "WindowWidth", "PresentationLUTShape",
)  # fmt: skip
TAGS = [Tag(int(tag_for_keyword(keyword) or 0)) for keyword in _KEYWORDS]
"""The attributes that are read; no other enters the program."""
_PIXELS = {Tag(0x7FE0, element) for element in (0x0008, 0x0009, 0x0010)}  # a length or an offset table may precede
_LARGEST_VALUE = 2**20  # bytes; no attribute of ours is longer, and a hostile length must not reserve memory
_LARGEST_MAGNIFICATION = 5.0
_EXPORT_AGAIN = "Export or download the file again"
_CORRECT = "Correct the attribute, or export again"
_TEXTS = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"))


@dataclass(frozen=True, kw_only=True, eq=False)
class MammogramHeader:
    """What is known of a mammogram without its pixels.

    Attributes:
        path: the file.
        format: "dicom", "png", "jpeg", "tiff", "nifti" or "nrrd".
        rows: image height in pixels.
        columns: image width in pixels.
        spacing: (row, column) distance in mm between pixel centres in the plane of the breast, or None if unknown;
            see `breast_plane_spacing` for the rule.
        affine: float64 (4, 4), from (row, column, 0, 1) to RAS mm; pixels of 1 mm where the spacing is unknown.
        view: "CC", "MLO", "ML", "LM", ... (ACR abbreviations of CID 4014), or None.
        view_modifiers: abbreviations of CID 4015, such as "M" (magnification), "S" (spot), "ID" (implant displaced).
        laterality: "L", "R" or None.
        intent: "presentation", "processing" or None.
        photometric_interpretation: as stored; `Mammogram.pixels` always has a dark background.
        modality: as stored, "" if absent.
        sop_instance_uid: as stored, "" if absent; so the other identifiers.
        patient_id: as stored; never shown, logged or put into MONAI's metadata.
        partial_view: True if the image is declared to show the breast in part, None if nothing is declared.
        burned_in_annotation: True, False or None (not declared); so `implant`.
    """

    path: Path
    format: str
    rows: int
    columns: int
    spacing: tuple[float, float] | None = None
    affine: np.ndarray = field(repr=False)
    view: str | None = None
    view_modifiers: tuple[str, ...] = ()
    laterality: str | None = None
    intent: str | None = None
    photometric_interpretation: str = "MONOCHROME2"
    modality: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    study_instance_uid: str = ""
    patient_id: str = field(default="", repr=False)
    manufacturer: str = ""
    manufacturer_model: str = ""
    partial_view: bool | None = None
    burned_in_annotation: bool | None = None
    implant: bool | None = None

    @property
    def shows_part(self) -> bool:
        """Whether it says of itself that it shows a part of the breast: by PartialView, or as a spot compression."""
        return bool(self.partial_view) or not PARTIAL_MODIFIERS.isdisjoint(self.view_modifiers)


class PixelElement(NamedTuple):
    """Where the pixel data begin: their tag, value representation (None if implicit) and length in bytes."""

    tag: BaseTag
    vr: str | None
    length: int


def index_to_world(spacing: tuple[float, float] | None) -> np.ndarray:
    """Give the (4, 4) affine from (row, column) to RAS mm: rows run along +y and columns along +x of LPS.

    The same geometry that ITK gives an image without a position, with the first two indices exchanged.
    """
    row, column = spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:2, :2] = [[0.0, -column], [-row, 0.0]]
    return affine


def parse(path: Path, file: BinaryIO) -> tuple[FileDataset, PixelElement | None]:
    """Parse the attributes in front of the pixel data; `file` is left at the beginning of the pixel data element.

    Raises:
        MammogramError: no DICOM content, or a deflated file (whose size cannot be known before it is inflated).
    """
    found: list[PixelElement] = []

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            found.append(PixelElement(BaseTag(tag), vr, length))
        return bool(found)

    # Unless told not to validate, pydicom quotes the values that it complains of in warnings and in its log.
    with disable_value_validation(), refusing(path, "the DICOM header cannot be parsed", _EXPORT_AGAIN):
        preamble = _has_preamble(file)
        if preamble and read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise MammogramError(
                path, "the transfer syntax is Deflated Explicit VR Little Endian", "Convert it with dcmconv +te"
            )
        dataset = read_partial(file, at_pixels, _LARGEST_VALUE, force=not preamble, specific_tags=TAGS)
        _convert(path, dataset.file_meta)
        _convert(path, dataset)
    if "TransferSyntaxUID" not in dataset.file_meta and found:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if found[0].vr is None else ExplicitVRLittleEndian
    return dataset, found[0] if found else None


def _convert(path: Path, dataset: Dataset) -> None:
    """Make pydicom convert every value now, so that a malformed one is refused here and by its name.

    So is a number or an item where the dictionary has a text, or the reverse: nothing behind this looks for it.
    """
    for tag in list(dataset.keys()):
        malformed = f"{keyword_for_tag(tag) or tag} is malformed"
        with refusing(path, malformed, _CORRECT):
            element = dataset[tag]
            value = element.value
        known = dictionary_VR(tag) if dictionary_has_tag(tag) else element.VR
        if value is not None and any((known in kind) != (element.VR in kind) for kind in (_TEXTS, {"SQ"})):
            raise MammogramError(path, f"{malformed} (it is of type {element.VR}, not {known})", _CORRECT)
        if isinstance(value, Sequence):
            for item in value:
                _convert(path, item)


def stored_as(path: Path) -> tuple[str, str]:
    """SOP class and SOP instance by a file's meta information (PS3.10 7.1) alone; empty texts if it is no DICOM."""
    try:
        with disable_value_validation(), refusing(path, "it is no DICOM file", _EXPORT_AGAIN):
            meta = read_file_meta_info(path)
            return str(meta.get("MediaStorageSOPClassUID", "unknown")), str(meta.get("MediaStorageSOPInstanceUID", ""))
    except MammogramError:
        return "", ""


def is_no_image(path: Path) -> bool:
    """Whether a file is what a study holds beside its images: a segmentation, a report, a presentation state, …

    For whoever takes all images of a folder, and passes over such files; `describe` refuses one that is named.
    """
    sop_class = stored_as(path)[0]
    if not sop_class:  # a file of an old archive, without meta information, says it behind
        with suppress(MammogramError, OSError), path.open("rb") as file:
            sop_class = text(parse(path, file)[0], "SOPClassUID")
    return sop_class.startswith(_NO_IMAGES)


def describe(path: Path, dataset: FileDataset) -> MammogramHeader:
    """Read the header's meaning; refuse what is no mammogram of one frame and one grey channel.

    Raises:
        MammogramError: see `_refuse_other_content`; or an attribute is missing or has a value of the wrong kind.
    """
    sop_class = text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    _refuse_other_content(path, dataset, sop_class)
    view, modifiers = read_view(dataset)
    spacing = breast_plane_spacing(path, dataset)
    return MammogramHeader(
        path=path,
        format="dicom",
        rows=integer(path, dataset, "Rows"),
        columns=integer(path, dataset, "Columns"),
        spacing=spacing,
        affine=index_to_world(spacing),
        view=view,
        view_modifiers=modifiers,
        laterality=read_laterality(dataset),
        intent=_intent(dataset, sop_class),
        photometric_interpretation=text(dataset, "PhotometricInterpretation").upper(),
        modality=text(dataset, "Modality").upper(),
        sop_instance_uid=text(dataset, "SOPInstanceUID"),
        series_instance_uid=text(dataset, "SeriesInstanceUID"),
        study_instance_uid=text(dataset, "StudyInstanceUID"),
        patient_id=text(dataset, "PatientID"),
        manufacturer=text(dataset, "Manufacturer"),
        manufacturer_model=text(dataset, "ManufacturerModelName"),
        partial_view=_declared(dataset, "PartialView"),
        burned_in_annotation=_declared(dataset, "BurnedInAnnotation"),
        implant=_declared(dataset, "BreastImplantPresent"),
    )


def breast_plane_spacing(path: Path, dataset: Dataset) -> tuple[float, float] | None:
    """Give the (row, column) spacing in mm in the plane of the breast (PS3.3 10.7.1.3), or None if it is unknown.

    ImagerPixelSpacing is measured at the detector, so it is divided by EstimatedRadiographicMagnificationFactor.
    PixelSpacing wins where it is calibrated to the breast: it differs from ImagerPixelSpacing, or
    PixelSpacingCalibrationType says so. A PixelSpacing equal to ImagerPixelSpacing is a copy of it and is divided,
    too. PixelSpacing without ImagerPixelSpacing, and the NominalScannedPixelSpacing of digitised film (which lay on
    the breast's side), are taken as they are. A magnification outside [1, 5] is none.
    """
    pixel = _pair(path, dataset, "PixelSpacing")
    imager = _pair(path, dataset, "ImagerPixelSpacing")
    calibrated = bool(text(dataset, "PixelSpacingCalibrationType"))
    if pixel is not None and (imager is None or calibrated or not np.allclose(pixel, imager, rtol=1e-4)):
        return pixel
    if imager is not None:
        factors = [value for value in numbers(path, dataset, "EstimatedRadiographicMagnificationFactor") if value]
        factor = factors[0] if factors and 1.0 <= factors[0] <= _LARGEST_MAGNIFICATION else 1.0
        return imager[0] / factor, imager[1] / factor
    return _pair(path, dataset, "NominalScannedPixelSpacing")


def text(dataset: Dataset, keyword: str) -> str:
    """Give a textual attribute without padding; "" if absent or empty, the first of several values."""
    value = dataset.get(keyword)
    if value is not None and not isinstance(value, str):
        value = next(iter(value), None)
    return str(value or "").strip(" \0")


def integer(path: Path, dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Give an integer attribute.

    Raises:
        MammogramError: it is absent and has no default, or is no number.
    """
    value = next((value for value in numbers(path, dataset, keyword) if value is not None), default)
    if value is None:
        raise MammogramError(path, f"{keyword} is missing from the DICOM header", _EXPORT_AGAIN)
    return int(value)


def numbers(path: Path, dataset: Dataset, keyword: str) -> list[float | None]:
    """Give a numeric attribute's values as floats, [] if absent; a value left blank between others is None.

    Raises:
        MammogramError: a value is no finite number.
    """
    try:
        value = dataset.get(keyword)
        several = isinstance(value, (list, tuple)) or (value is not None and hasattr(value, "append"))
        values = [None if entry in (None, "") else float(entry) for entry in (value if several else [value])]
    except (TypeError, ValueError, OverflowError):
        values = [math.nan]
    if not all(entry is None or math.isfinite(entry) for entry in values):
        raise MammogramError(path, f"{keyword} is no number", "Correct the attribute, or export the file again")
    return [] if values == [None] else values


def _pair(path: Path, dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    values = [value for value in numbers(path, dataset, keyword) if value is not None and value > 0]
    return (values[0], values[1]) if len(values) == 2 else None


def _declared(dataset: Dataset, keyword: str) -> bool | None:
    return {"YES": True, "NO": False}.get(text(dataset, keyword).upper())


def _intent(dataset: Dataset, sop_class: str) -> str | None:
    declared = text(dataset, "PresentationIntentType").upper()
    # Where the two disagree, the careful reading holds: unprocessed pixels must not pass as a displayed image.
    if declared == "FOR PROCESSING" or sop_class in PROCESSING_CLASSES:
        return "processing"
    if declared == "FOR PRESENTATION" or sop_class == FOR_PRESENTATION:
        return "presentation"
    return None


def _has_preamble(file: BinaryIO) -> bool:
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM"


def _refuse_other_content(path: Path, dataset: FileDataset, sop_class: str) -> None:
    """Refuse whatever is no two-dimensional mammogram.

    The modality must be MG, or one under which scanned film and plates are sent (CR, DX, OT, RG, SC or none) while
    the header says that a breast is shown. The SOP class must be one of mammography, radiography or secondary capture.
    """
    modality = text(dataset, "Modality").upper()
    if sop_class == TOMOSYNTHESIS:
        raise MammogramError(path, "it is a breast tomosynthesis", "Give the two-dimensional mammogram of the study")
    known = {FOR_PRESENTATION, FOR_PROCESSING} | FILM_CLASSES
    if sop_class not in known and not (sop_class == "" and modality == "MG"):
        name = UID(sop_class, IGNORE).name
        kind = "of an unknown SOP class" if name == sop_class else f'of the SOP class "{name}"'
        raise MammogramError(path, f"the DICOM object is {kind}", "Give a mammogram (modality MG)")
    if modality != "MG" and modality not in FILM_MODALITIES:
        shown = modality if modality.isalpha() and len(modality) == 2 else "another"
        raise MammogramError(path, f"the modality is {shown}, not MG", "Give a mammogram (modality MG)")
    if modality != "MG" and sop_class in FILM_CLASSES and not shows_breast(dataset):
        raise MammogramError(
            path,
            f'the modality is "{modality}" and nothing in the header says that a breast is shown',
            "If it is a mammogram, set Modality to MG or BodyPartExamined to BREAST",
        )
    frames = integer(path, dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise MammogramError(path, f"it has {frames} frames", "Give an image of one frame")
