"""A folder's DICOM files as both of its readers see them: the list of images, and DICOMweb."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from lib.datastore import MammogramDatastore
from lib.dicom_index import DicomIndex
from pydicom.uid import generate_uid

from .conftest import blob, write_dicom


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
