"""A folder's DICOM files as both of its readers see them: the list of images, and DICOMweb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from lib.datastore import MammogramDatastore
from lib.dicom_index import DicomIndex
from pydicom.uid import generate_uid

from monai_mammo.dicom.segmentation import write_segmentation

from .conftest import blob, strip, write_dicom


@pytest.mark.parametrize("longer", ["first", "second"])
def test_of_two_files_of_one_image_the_list_and_dicomweb_take_the_same(tmp_path: Path, longer: str) -> None:
    first, second = write_dicom(tmp_path / "P3" / "L_CC.dcm", blob()[0]), tmp_path / "A.dcm"
    datastore = MammogramDatastore(tmp_path)
    web = DicomIndex(tmp_path, counting=datastore.index.files)
    study = datastore.image("P3-L_CC").study
    other = pydicom.dcmread(first)
    other.PatientID, other.StudyInstanceUID = "ANOTHER", generate_uid()
    if longer == "second":
        other.ImageComments = "a" * 1000
    other.save_as(second)
    datastore.refresh()
    assert [entry.path for entry in web.find(study)] == [first]
    (refused,) = datastore.status()["unreadable"]
    reason = "it has the SOPInstanceUID of P3/L_CC.dcm, which counts, but names another patient or study"
    assert (refused["file"], refused["reason"]) == ("A.dcm", reason)
    first.unlink()
    datastore.refresh()
    web.look_again()
    assert list(datastore.images_of_study(other.StudyInstanceUID)) == ["A"]
    assert [entry.path for entry in web.find(other.StudyInstanceUID)] == [second]


def test_files_of_an_old_archive_without_preamble_and_ending_are_found(tmp_path: Path) -> None:
    pixels, lesion = blob()
    image, result = write_dicom(tmp_path / "IM0001", pixels), tmp_path / "IM0002"
    write_segmentation(result, image, {"tumour": lesion.astype(np.uint8)})
    sops = {str(pydicom.dcmread(file).SOPInstanceUID) for file in (image, result)}
    strip(image)
    strip(result)
    (tmp_path / "notes").write_bytes(b"\x08\1\2\3 no DICOM")
    datastore = MammogramDatastore(tmp_path)
    assert datastore.list_images() == ["IM0001"]
    assert datastore.unreadable_images() == []
    assert set(DicomIndex(tmp_path).instances()) == sops
