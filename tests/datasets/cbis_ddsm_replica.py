"""A tiny replica of CBIS-DDSM: rows of its CSV files and DICOM files in folders, with the quirks of TCIA."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

from monai_mammo.datasets.cbis_ddsm import images
from monai_mammo.datasets.sources import Defect, SourceImage

MASS = "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,\
mass margins,assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"

CALC = MASS.replace("breast_density", "breast density").replace("mass shape", "calc type")

CALC = CALC.replace("mass margins", "calc distribution")

ROOT = "1.3.6.1.4.1.9590.100.1.2."

STUDY, FULL, CROP, MASK = (f"{ROOT}{number}" for number in (11, 22, 33, 44))


def row(name: str, number: int = 1, **changes: Any) -> dict[str, str]:
    """A CSV row of the abnormality `number` of the image `Mass-Training_P_00001_LEFT_CC`, quirks of TCIA included."""
    part, _, patient, side, view = name.split("_")
    kind = {"Mass": "mass", "Calc": "calcification"}[part.split("-")[0]]
    values = {
        "patient_id": f"P_{patient}",
        "breast_density": "3",
        "left or right breast": side,
        "image view": view,
        "abnormality id": str(number),
        "abnormality type": kind,
        "mass shape": "IRREGULAR",
        "mass margins": "N/A",
        "assessment": "4",
        "pathology": "MALIGNANT",
        "subtlety": "4",
        "image file path": f"{name}/{STUDY}/{FULL}/000000.dcm",
        "cropped image file path": f"{name}_{number}/{STUDY}/{CROP}/000001.dcm\n",
        "ROI mask file path": f"{name}_{number}/{STUDY}/{MASK}/000000.dcm\n",
    }
    return values | changes


def write_csv(path: Path, rows: list[dict[str, str]], header: str = MASS) -> Path:
    """Write rows under a header; values of another spelling of a column go where they belong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows([list(entry.values()) for entry in rows])
    return path


def write_dicom(path: Path, pixels: np.ndarray, name: str = "") -> Path:
    """A Secondary Capture of modality MG in Implicit VR without pixel spacing, as CBIS-DDSM's files are."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "MG",
        "PatientID": name,
        "PatientName": name,
        "BodyPartExamined": "BREAST",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_file: dict[str, Any] = {"enforce_file_format": True}
    if pydicom.__version__ < "3":
        dataset.is_implicit_VR, dataset.is_little_endian = True, True
        whole_file = {"write_like_original": False}
    pydicom.dcmwrite(path, dataset, **whole_file)
    return path


GREY = (np.arange(60 * 40).reshape(60, 40) * 27) % 65536

OUTLINE = np.zeros((60, 40), dtype=int)

OUTLINE[10:25, 5:20] = 65535


def full(source: Path, name: str, file: str = "1-1.dcm") -> Path:
    """A full mammogram where the archive puts it today."""
    folder = source / "CBIS-DDSM" / name / "10-04-2016-DDSM-12345" / "1-full mammogram images-67890"
    return write_dicom(folder / file, GREY, name)


def found_in(source: Path) -> tuple[list[SourceImage], list[Defect]]:
    """What the module lists, checked for what always holds: it crosses process borders, and each defect is one line."""
    defects: list[Defect] = []
    found = images(source, defects)
    assert pickle.loads(pickle.dumps(found)) == found
    assert all("\n" not in str(defect) for defect in defects)
    return found, defects


def reasons(defects: list[Defect], about: str = "") -> list[str]:
    """The defects of the files whose path contains a text; without those on the CSV files that a test leaves out."""
    return [
        defect.reason for defect in defects if about in str(defect.file) and "no CSV file lists" not in defect.reason
    ]


LEFT_CC, LEFT_MLO = "Mass-Training_P_00001_LEFT_CC", "Mass-Training_P_00001_LEFT_MLO"

TABLE = "mass_case_description_train_set.csv"
