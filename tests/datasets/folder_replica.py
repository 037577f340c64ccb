"""A hospital's DICOM tree in small: mammograms and DICOM SEG files with attributes as a test wants them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from monai_mammo.datasets.folder import images
from monai_mammo.datasets.sources import Defect, SourceImage

PATIENT = {"PatientID": "SECRET-ID-4711", "PatientName": "Sentinelle^Quintessa", "PatientBirthDate": "19530417"}

MAMMOGRAPHY = "1.2.840.10008.5.1.4.1.1.1.2"

CT = "1.2.840.10008.5.1.4.1.1.2"

SEG = "1.2.840.10008.5.1.4.1.1.66.4"

SHAPE = (40, 30)


def save(path: Path, sop_class: str, **attributes: Any) -> str:
    """Write a DICOM file with either generation of pydicom; an attribute given as None is left out."""
    uid = attributes.setdefault("SOPInstanceUID", generate_uid())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(uid or generate_uid())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    for keyword, value in (PATIENT | attributes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated == 16 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_file: dict[str, Any] = {"enforce_file_format": True}
    if pydicom.__version__ < "3":
        dataset.is_implicit_VR, dataset.is_little_endian = False, True
        whole_file = {"write_like_original": False}
    pydicom.dcmwrite(path, dataset, **whole_file)
    return str(uid or "")


def mammogram(path: Path, **changes: Any) -> str:
    """Write a left CC mammogram of 0.1 mm pixels; gives its SOPInstanceUID."""
    pixels = np.linspace(0, 4095, SHAPE[0] * SHAPE[1]).astype("<u2")
    attributes: dict[str, Any] = {
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": generate_uid(),
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "Maker",
        "ImageLaterality": "L",
        "ViewPosition": "CC",
        "ImagerPixelSpacing": [0.1, 0.1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": SHAPE[0],
        "Columns": SHAPE[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
    }
    return save(path, changes.pop("SOPClassUID", MAMMOGRAPHY), **(attributes | changes))


def item(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def reference(image: str) -> Dataset:
    return item(ReferencedSOPClassUID=MAMMOGRAPHY, ReferencedSOPInstanceUID=image)


def square(row: int = 5, column: int = 4, side: int = 11) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[row : row + side, column : column + side] = 1
    return mask


def segmentation(
    path: Path,
    frames: Sequence[tuple[int, str, np.ndarray]],
    types: Sequence[str] = ("Mass",),
    whole: Sequence[str] = (),
    **changes: Any,
) -> str:
    """Write a DICOM SEG: its frames as (segment number, image or "" for none, values), its segments' types.

    Args:
        path: the file.
        frames: as above.
        types: code meaning of each segment's property type, from segment 1 on.
        whole: images that the file refers to beside the frames.
        **changes: attributes, among them SegmentationType FRACTIONAL.
    """
    values = np.stack([mask for *_, mask in frames]) if frames else np.zeros((1, *SHAPE), dtype=np.uint8)
    fractional = changes.get("SegmentationType") == "FRACTIONAL"
    packed = values.tobytes() if fractional else np.packbits(values.ravel(), bitorder="little").tobytes()
    groups = []
    for number, image, _ in frames:
        group = item(SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)])
        if image:
            group.DerivationImageSequence = [item(SourceImageSequence=[reference(image)])]
        groups.append(group)
    attributes: dict[str, Any] = {
        "Modality": "SEG",
        "SegmentationType": "BINARY",
        "SegmentSequence": [
            item(
                SegmentNumber=number,
                SegmentLabel=PATIENT["PatientName"],
                SegmentedPropertyTypeCodeSequence=[
                    item(CodeValue="1", CodingSchemeDesignator="X", CodeMeaning=meaning)
                ],
            )
            for number, meaning in enumerate(types, start=1)
        ],
        "PerFrameFunctionalGroupsSequence": groups,
        "ReferencedSeriesSequence": [item(ReferencedInstanceSequence=[reference(image) for image in whole])],
        "NumberOfFrames": len(values),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": values.shape[1],
        "Columns": values.shape[2],
        "BitsAllocated": 8 if fractional else 1,
        "BitsStored": 8 if fractional else 1,
        "HighBit": 7 if fractional else 0,
        "PixelRepresentation": 0,
        "PixelData": packed + b"\0" * (len(packed) % 2),
    }
    return save(path, changes.pop("SOPClassUID", SEG), **(attributes | changes))


def found_in(source: Path) -> tuple[list[SourceImage], list[Defect]]:
    """What the module lists, checked for what always holds: it crosses process borders and tells nobody's identity."""
    defects: list[Defect] = []
    found = images(source, defects)
    assert [image.entry() for image in pickle.loads(pickle.dumps(found))] == [image.entry() for image in found]
    told = json.dumps([[image.entry() for image in found], [str(defect) for defect in defects]]) + repr(found)
    assert not [value for value in PATIENT.values() if value in told]
    return found, defects


def said(defects: Sequence[Defect], file: Path) -> list[str]:
    return [defect.reason for defect in defects if defect.file == file]
