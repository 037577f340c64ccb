"""Phantom studies that a server shows in OHIF, and what the server says of them. Not here: the browser, any test."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from pydicom.uid import generate_uid

from monai_mammo.dicom.reader import read_mask

from .conftest import Server

SHAPE = (320, 256)


@dataclass(frozen=True)
class Study:
    """A phantom study: its UID, and id and SOP instance of each view's image."""

    uid: str
    ids: dict[str, str]
    sops: dict[str, str]


def study(server: Server, number: int) -> Study:
    """The phantom study of a patient."""
    files = sorted(server.studies.glob(f"*{number:04d}/*/*.dcm"))
    uid = str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    rows = server.http.get(f"/mammo/studies/{uid}").json()
    names = [f"{row['laterality']}{row['view']}" for row in rows]
    return Study(
        uid,
        {name: row["id"] for name, row in zip(names, rows, strict=True)},
        {name: row["sop"] for name, row in zip(names, rows, strict=True)},
    )


def row_of(server: Server, where: Study, view: str) -> dict[str, Any]:
    """What the server knows of an image."""
    rows: list[dict[str, Any]] = server.http.get(f"/mammo/studies/{where.uid}").json()
    return next(row for row in rows if row["id"] == where.ids[view])


def mask_of(server: Server, folder: Path, model: str, image: str, **params: Any) -> np.ndarray:
    """The server's mask for a request, (rows, columns)."""
    asked = {"image": image, "output": "image"}
    answer = server.http.post(f"/infer/{model}", params=asked, data={"params": json.dumps(params)})
    answer.raise_for_status()
    file = folder / "mask.nrrd"
    file.write_bytes(answer.content)
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))[0]


def saved_mask(server: Server, folder: Path, image: str) -> np.ndarray:
    """The final label as any client downloads it, (rows, columns)."""
    answer = server.http.get("/datastore/label", params={"label": image, "tag": "final"})
    answer.raise_for_status()
    name = re.findall(r'filename="?([^";]+)', answer.headers["content-disposition"])[0]
    (folder / name).write_bytes(answer.content)
    return np.asarray(read_mask(folder / name))


def change(file: Path, **attributes: str) -> None:
    """Give a DICOM file other attributes."""
    dataset = pydicom.dcmread(file)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(file)


def copy_of(file: Path, number: int = 2, **attributes: str) -> None:
    """Another image of the same study, with other attributes."""
    copy = file.with_name(f"{file.stem}_{number}.dcm")
    copy.write_bytes(file.read_bytes())
    change(copy, SOPInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(), **attributes)
