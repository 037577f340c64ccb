"""A drawn phantom as a DICOM object: Digital Mammography X-Ray Image, For Presentation (PS3.3 A.26).

Writes phantoms only; it is no general DICOM writer. Reading is `monai_mammo.dicom.reader`'s.

Orientation, as acquired and as hung: the chest wall of a left breast lies at the left image edge, that of a right
breast at the right edge; lateral (CC) or superior (MLO) is up. So PatientOrientation is A/R (left CC), P/L (right CC),
A/FR (left MLO), P/FL (right MLO): the directions of rows and columns (PS3.3 C.7.6.1.1.1). Every breast meets the same
edge of the detector, so a right image is the detector's picture turned by 180 degrees (FieldOfViewRotation), and none
is flipped (FieldOfViewHorizontalFlip).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

MG_FOR_PRESENTATION = UID("1.2.840.10008.5.1.4.1.1.1.2")
TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless)
PHOTOMETRIC = ("MONOCHROME2", "MONOCHROME1")
VOI = ("LINEAR", "SIGMOID", "LUT")
"""How the image says which values are to be seen: a linear window (two of them), a sigmoid one, or a table."""

MAGNIFICATION = 1.05
"""Source to detector by source to breast: pixels are this much finer in the breast than on the detector."""

BITS = 12
_MAXIMUM = 2**BITS - 1
_CENTRE, _WIDTH = 1900, 3600
_SIGMOID_WIDTH = 2200  # at 3600, air would be dark grey
_ORIENTATION = {("L", "CC"): ["A", "R"], ("R", "CC"): ["P", "L"], ("L", "MLO"): ["A", "FR"], ("R", "MLO"): ["P", "FL"]}
_VIEW_CODE = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
_GANTRY_ANGLE = {("L", "CC"): "0", ("R", "CC"): "0", ("L", "MLO"): "45", ("R", "MLO"): "-45"}
_AGE = {"a": "071Y", "b": "063Y", "c": "054Y", "d": "046Y"}


@dataclass(frozen=True)
class Encoding:
    """What differs between files of the same content: transfer syntax, photometric interpretation, VOI transform."""

    transfer_syntax: UID
    photometric: str
    voi: str


def write_mammogram(
    path: Path,
    pixels: np.ndarray,
    *,
    patient: int,
    laterality: str,
    view: str,
    density: str,
    spacing: float,
    seed: int,
    encoding: Encoding,
) -> None:
    """Write one phantom image.

    Args:
        path: the file; its folder exists.
        pixels: float (rows, columns) in [0, 1], dark background, oriented as in the module's head: what a display
            that follows the file shows, whatever the encoding (the ends of a sigmoid window, 0.03 and 0.98, aside).
        patient: number of the synthetic patient, from 1.
        laterality: L or R.
        view: CC or MLO.
        density: ACR category a to d; only the synthetic patient's age follows from it.
        spacing: of the pixels, mm in the breast.
        seed: of the study set; all UIDs follow from it.
        encoding: see `Encoding`.
    """
    stored = _stored_for(encoding.voi)[np.round(np.clip(pixels, 0.0, 1.0) * _MAXIMUM).astype(np.uint16)]
    if encoding.photometric == "MONOCHROME1":
        stored = (_MAXIMUM - stored).astype(np.uint16)
    entropy = [str(seed), str(patient)]
    instance = ("L_CC", "L_MLO", "R_CC", "R_MLO").index(f"{laterality}_{view}") + 1
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MG_FOR_PRESENTATION
    meta.MediaStorageSOPInstanceUID = _uid(*entropy, "instance", str(instance))
    meta.TransferSyntaxUID = encoding.transfer_syntax
    ds = FileDataset(
        str(path),
        {},
        file_meta=meta,
        preamble=b"\0" * 128,
        is_implicit_VR=encoding.transfer_syntax == ImplicitVRLittleEndian,
        is_little_endian=True,
    )
    _identify(ds, entropy, patient, instance, _AGE[density])
    _describe_acquisition(ds, laterality, view, spacing)
    _describe_values(ds, encoding)
    ds.Rows, ds.Columns = stored.shape
    ds.PixelData = _encode(stored, encoding.transfer_syntax)
    ds["PixelData"].VR = "OB" if meta.TransferSyntaxUID.is_compressed else "OW"
    ds["PixelData"].is_undefined_length = meta.TransferSyntaxUID.is_compressed
    newest = int(pydicom.__version__.split(".")[0]) >= 3  # pydicom 3 renamed the argument
    whole_file: dict[str, Any] = {"enforce_file_format": True} if newest else {"write_like_original": False}
    pydicom.dcmwrite(str(path), ds, **whole_file)


def _uid(*entropy: str) -> UID:
    return generate_uid(entropy_srcs=["monai_mammo phantom", *entropy])


def _identify(ds: Dataset, entropy: list[str], patient: int, instance: int, age: str) -> None:
    """Patient, study, series and instance: synthetic, and they say so."""
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SOPClassUID = MG_FOR_PRESENTATION
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240101"
    ds.StudyTime = ds.SeriesTime = "090000"
    ds.AcquisitionTime = ds.ContentTime = f"0900{10 * instance:02d}"
    ds.AccessionNumber = f"PHANTOM{patient:04d}"
    ds.Modality = "MG"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.Manufacturer = "monai_mammo"
    ds.ManufacturerModelName = "phantom"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Synthetic mammograms"
    ds.PatientName = f"Phantom^{patient:04d}"
    ds.PatientID = f"PHANTOM{patient:04d}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "F"
    ds.PatientAge = age
    ds.StudyInstanceUID = _uid(*entropy, "study")
    ds.SeriesInstanceUID = _uid(*entropy, "series", str(instance))
    ds.StudyID = "1"
    ds.SeriesNumber = str(instance)
    ds.InstanceNumber = str(instance)
    ds.ImageComments = "Drawn by a program; no patient, not for diagnostic use"
    ds.QualityControlImage = "YES"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"


def _describe_acquisition(ds: Dataset, laterality: str, view: str, spacing: float) -> None:
    """Anatomy, positioning, detector and exposure."""
    ds.AnatomicRegionSequence = Sequence([_code("76752008", "SCT", "Breast")])
    ds.ImageLaterality = laterality
    view_code = _code(_VIEW_CODE[view][0], "SCT", _VIEW_CODE[view][1])
    view_code.ViewModifierCodeSequence = Sequence([])
    ds.ViewCodeSequence = Sequence([view_code])
    ds.ViewPosition = view
    ds.PatientOrientation = _ORIENTATION[laterality, view]
    ds.OrganExposed = "BREAST"
    ds.BreastImplantPresent = "NO"
    ds.AcquisitionContextSequence = Sequence([])
    ds.PositionerType = "MAMMOGRAPHIC"
    ds.PositionerPrimaryAngle = _GANTRY_ANGLE[laterality, view]
    ds.DistanceSourceToDetector = "660"
    ds.DistanceSourceToPatient = f"{660 / MAGNIFICATION:.2f}"
    ds.EstimatedRadiographicMagnificationFactor = f"{MAGNIFICATION}"
    ds.BodyPartThickness = "50"
    ds.CompressionForce = "100"
    ds.KVP = "28"
    ds.ExposureTime = "1000"
    ds.XRayTubeCurrent = "100"
    ds.Exposure = "100"
    ds.ExposureInuAs = "100000"
    ds.AnodeTargetMaterial = "MOLYBDENUM"
    ds.FilterMaterial = "MOLYBDENUM"
    ds.FilterType = "STRIP"
    ds.FocalSpots = "0.3"
    ds.Grid = "NONE"
    ds.DetectorType = "DIRECT"
    ds.DetectorConfiguration = "AREA"
    ds.DetectorID = "PHANTOM"
    on_detector = f"{spacing * MAGNIFICATION:.8g}"
    ds.ImagerPixelSpacing = [on_detector, on_detector]
    ds.FieldOfViewOrigin = ["0", "0"]
    ds.FieldOfViewRotation = "0" if laterality == "L" else "180"
    ds.FieldOfViewHorizontalFlip = "NO"


def _describe_values(ds: Dataset, encoding: Encoding) -> None:
    """What a stored value means and how it is to be shown."""
    inverse = encoding.photometric == "MONOCHROME1"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = encoding.photometric
    ds.BitsAllocated = 16
    ds.BitsStored = BITS
    ds.HighBit = BITS - 1
    ds.PixelRepresentation = 0
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if inverse else -1
    ds.RescaleIntercept = "0"
    ds.RescaleSlope = "1"
    ds.RescaleType = "US"
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    if encoding.voi == "LUT":
        ds.VOILUTSequence = Sequence([_voi_table(inverse)])
    elif encoding.voi == "SIGMOID":
        ds.WindowCenter = f"{_MAXIMUM - _CENTRE if inverse else _CENTRE}"
        ds.WindowWidth = f"{_SIGMOID_WIDTH}"
        ds.VOILUTFunction = "SIGMOID"
    else:  # a linear window of PS3.3 C.11.2.1.2.1 is centred half a value lower than its centre says
        centres = (_CENTRE, _CENTRE + 300)
        ds.WindowCenter = [f"{_MAXIMUM + 1 - c if inverse else c}" for c in centres]
        ds.WindowWidth = [f"{_WIDTH}", f"{_WIDTH - 800}"]
        ds.WindowCenterWidthExplanation = ["NORMAL", "HARDER"]
        ds.VOILUTFunction = "LINEAR"


def _shown(voi: str) -> np.ndarray:
    """What the display makes of every stored value, in [0, 1], before anything is inverted."""
    values = np.arange(_MAXIMUM + 1)
    if voi == "LINEAR":
        return np.clip((values - (_CENTRE - 0.5)) / (_WIDTH - 1) + 0.5, 0.0, 1.0)
    sigmoid = 1 / (1 + np.exp(4 * (_CENTRE - values) / _SIGMOID_WIDTH))
    return sigmoid if voi == "SIGMOID" else (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])


def _stored_for(voi: str) -> np.ndarray:
    """The stored value, uint16, that the display shows as each of 4096 greys from 0 to 1."""
    shown = _shown(voi)
    rising = np.flatnonzero(np.diff(shown, prepend=-1.0) > 0)
    wanted = np.linspace(0.0, 1.0, _MAXIMUM + 1)
    return np.round(np.interp(wanted, shown[rising], rising)).astype(np.uint16)


def _voi_table(inverse: bool) -> Dataset:
    """A film-like S curve as a table over all stored values."""
    table = np.round(_shown("LUT") * _MAXIMUM).astype("<u2")
    if inverse:
        table = (_MAXIMUM - table[::-1]).astype("<u2")
    item = Dataset()
    item.add_new(0x00283002, "US", [_MAXIMUM + 1, 0, BITS])
    item.LUTExplanation = "FILM-LIKE"
    item.add_new(0x00283006, "OW", table.tobytes())
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _encode(stored: np.ndarray, transfer_syntax: UID) -> bytes:
    """Pixel data in the transfer syntax; the codecs load only when they are used."""
    if transfer_syntax == JPEG2000Lossless:
        from openjpeg.utils import encode_array

        return encapsulate([encode_array(stored, bits_stored=BITS, photometric_interpretation=2)])
    plain = stored.astype("<u2").tobytes()
    if transfer_syntax == RLELossless:
        from rle.utils import encode_pixel_data

        rows, columns = stored.shape
        shape: dict[str, Any] = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "bits_allocated": 16}
        return encapsulate([encode_pixel_data(plain, byteorder="<", **shape)])
    return plain
