"""DICOMweb over a folder, asked with dicomweb-client at a running server, as a viewer with no archive asks it."""

from __future__ import annotations

import base64
import io
import json
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicomweb_client.api import DICOMwebClient
from hypothesis import given, settings
from hypothesis import strategies as st
from lib import wado
from lib.dicom_index import DicomIndex, read_instance
from lib.dicom_json import metadata
from lib.errors import RequestRefused
from lib.stow import Store
from PIL import Image
from pydicom.encaps import generate_pixel_data_frame
from pydicom.uid import ExplicitVRBigEndian, generate_uid

from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.segmentation import read_segmentation, write_segmentation

from .conftest import Server, blob, start_server, stop_server, strip, write_dicom, write_png

pytestmark = pytest.mark.slow
J2K, RLE, LOSSLESS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
STORED = ("application/octet-stream", "*")


@pytest.fixture(scope="module")
def studies(server: Server) -> dict[str, Path]:
    """Mammograms of two patients in the folder of the running server, one of them compressed, by a short name."""
    folder = server.studies / "web"
    pixels = blob()[0]
    written = {
        "plain": write_dicom(folder / "plain.dcm", pixels, patient=71),
        "inverse": write_dicom(folder / "inverse.dcm", pixels, patient=71, photometric="MONOCHROME1", voi="LUT"),
        "compressed": write_dicom(folder / "compressed.dcm", pixels, patient=72, syntax=J2K),
        "rle": write_dicom(folder / "rle.dcm", pixels, patient=72, syntax=RLE),
    }
    write_png(folder / "no-dicom.png", pixels)
    for number, (name, path) in enumerate(written.items()):
        dataset = pydicom.dcmread(path)
        patient = "71" if name in ("plain", "inverse") else "72"
        dataset.StudyInstanceUID = f"2.25.{patient}"
        dataset.SeriesInstanceUID = f"2.25.{patient}1"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.{patient}1{number}"
        dataset.PatientID, dataset.PatientName = f"W{patient}", f"Müller^{'Anna' if patient == '71' else 'Béatrice'}"
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.StudyDate, dataset.InstanceNumber = f"20{patient}0115", number
        dataset.save_as(path)
    server.http.get(
        place_of(path) + "/metadata"
    ).raise_for_status()  # what is asked for by its identifiers is looked for
    return written


def place_of(path: Path) -> str:
    """Where the server has a file's object."""
    study, series, sop = uids(path)
    return f"/dicomweb/studies/{study}/series/{series}/instances/{sop}"


@pytest.fixture
def client(server: Server, studies: dict[str, Path]) -> DICOMwebClient:
    """dicomweb-client, connected."""
    return DICOMwebClient(f"{server.url}/dicomweb")


def uids(path: Path) -> tuple[str, str, str]:
    """Study, series and SOP instance UID of a file."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID


def values(found: list[dict[str, Any]], tag: str) -> list[Any]:
    """An attribute's first value in each result."""
    return [entry[tag]["Value"][0] for entry in found]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"StudyInstanceUID": "2.25.71"}, ["2.25.71"]),
        ({"StudyInstanceUID": "2.25.71,2.25.72"}, ["2.25.72", "2.25.71"]),
        ({"PatientID": "W72"}, ["2.25.72"]),
        ({"00100020": "W7*"}, ["2.25.72", "2.25.71"]),
        ({"PatientName": "müller*"}, ["2.25.72", "2.25.71"]),
        ({"PatientName": "*béatr?ce"}, ["2.25.72"]),
        ({"PatientName": "Müller"}, []),
        ({"ModalitiesInStudy": "MG", "PatientID": "W71"}, ["2.25.71"]),
        ({"ModalitiesInStudy": "CT", "PatientID": "W71"}, []),
        ({"StudyDate": "20710101-20711231"}, ["2.25.71"]),
        ({"StudyDate": "20710116-", "PatientID": "W7*"}, ["2.25.72"]),
        ({"StudyDate": "-20710115", "PatientID": "W7*"}, ["2.25.71"]),
        ({"StudyDate": "20720115"}, ["2.25.72"]),
        ({"PatientID": "W7*", "Modality": ""}, ["2.25.72", "2.25.71"]),
        ({"PatientID": "[WX]7?"}, []),
    ],
    ids=str,
)
def test_studies_are_found_by_what_ohif_asks_for(
    client: DICOMwebClient, filters: dict[str, str], expected: list[str]
) -> None:
    assert values(client.search_for_studies(search_filters=filters), "0020000D") == expected


def test_a_name_is_found_by_the_beginnings_of_its_parts(client: DICOMwebClient) -> None:
    found = client.search_for_studies(search_filters={"PatientName": "ann müll"}, fuzzymatching=True)
    assert values(found, "0020000D") == ["2.25.71"]


def test_results_come_in_pages_and_tell_what_belongs_to_them(client: DICOMwebClient) -> None:
    filters = {"PatientID": "W7*"}
    pages = [client.search_for_studies(search_filters=filters, limit=1, offset=offset) for offset in range(3)]
    assert [values(page, "00100020") for page in pages] == [["W72"], ["W71"], []]
    study = pages[0][0]
    assert study["00201206"]["Value"] == [1]
    assert study["00201208"]["Value"] == [2]
    assert study["00080061"]["Value"] == ["MG"]
    assert study["00100010"]["Value"] == [{"Alphabetic": "Müller^Béatrice"}]
    assert values(client.search_for_series("2.25.72"), "00201209") == [2]
    assert values(client.search_for_instances("2.25.72"), "00080018") == ["2.25.7212", "2.25.7213"]
    assert (
        values(client.search_for_instances(search_filters={"Rows": "120", "PatientID": "W72"}), "00280010") == [120] * 2
    )


@pytest.mark.parametrize("name", ["plain", "inverse", "compressed", "rle"])
def test_an_instance_comes_back_as_it_is_stored_and_uncompressed_where_the_client_asks(
    client: DICOMwebClient, studies: dict[str, Path], name: str
) -> None:
    stored = pydicom.dcmread(studies[name])
    as_stored = client.retrieve_instance(*uids(studies[name]))
    assert as_stored.file_meta.TransferSyntaxUID == stored.file_meta.TransferSyntaxUID
    assert as_stored.PixelData == stored.PixelData
    plain = client.retrieve_instance(*uids(studies[name]), media_types=(("application/dicom", EXPLICIT),))
    assert plain.file_meta.TransferSyntaxUID == EXPLICIT
    np.testing.assert_array_equal(plain.pixel_array, stored.pixel_array)


@pytest.mark.parametrize("name", ["plain", "inverse", "compressed", "rle"])
def test_frames_hold_the_stored_pixels(client: DICOMwebClient, studies: dict[str, Path], name: str) -> None:
    stored = pydicom.dcmread(studies[name])
    [raw] = client.retrieve_instance_frames(*uids(studies[name]), [1], media_types=(STORED,))
    [decoded] = client.retrieve_instance_frames(
        *uids(studies[name]), [1], media_types=(("application/octet-stream", EXPLICIT),)
    )
    np.testing.assert_array_equal(np.frombuffer(decoded, "<u2").reshape(stored.pixel_array.shape), stored.pixel_array)
    assert raw in stored.PixelData


@pytest.mark.parametrize("fault", ["no meta information", "pixels of VR UN"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_files_that_are_not_quite_as_they_should_be_give_their_pixels(tmp_path: Path, fault: str, syntax: str) -> None:
    from lib.wado import stored_frames, syntax_of

    path = write_dicom(tmp_path / "odd.dcm", blob()[0], syntax=syntax)
    dataset = pydicom.dcmread(path)
    if fault == "pixels of VR UN":
        dataset["PixelData"].VR = "UN"
        dataset.save_as(path)
    else:
        strip(path)
    assert syntax_of(path) == syntax
    assert stored_frames(path, [1]) == [dataset.PixelData]


@pytest.mark.parametrize("entries", [4096, 65536])
def test_a_voi_lut_of_big_endian_arrives_in_little_endian(tmp_path: Path, entries: int) -> None:
    from lib.dicom_json import bulk_value, metadata
    from lib.wado import uncompressed_object

    path = write_dicom(tmp_path / "big.dcm", blob()[0])
    dataset, lut, item = pydicom.dcmread(path), np.arange(entries, dtype=">u2"), pydicom.Dataset()
    item.LUTDescriptor = [entries % 65536, 0, 16]
    item.add_new("LUTData", "OW", lut.tobytes())
    dataset.VOILUTSequence = [item]
    save_big_endian(dataset, path)
    sent = pydicom.dcmread(io.BytesIO(uncompressed_object(path))).VOILUTSequence[0]
    assert sent.LUTData == lut.astype("<u2").tobytes()
    (told,) = metadata(path, (0, 0), "bulk")["00283010"]["Value"]
    inline = told["00283006"].get("InlineBinary")
    assert (base64.b64decode(inline) if inline else bulk_value(path, "00283010.1.00283006")) == sent.LUTData


def save_big_endian(dataset: pydicom.Dataset, path: Path) -> None:
    """Write a little endian object in big endian."""
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    dataset.file_meta.TransferSyntaxUID, dataset.is_little_endian = ExplicitVRBigEndian, False
    dataset.save_as(path)


@pytest.mark.parametrize("accept", ["", "*/*", 'multipart/related; type="application/octet-stream"; transfer-syntax=*'])
def test_who_accepts_anything_gets_the_frame_of_a_big_endian_object_in_little_endian(
    server: Server, accept: str
) -> None:
    path = write_dicom(server.studies / "web" / "big.dcm", blob()[0], patient=73)
    dataset = pydicom.dcmread(path)
    pixels = dataset.PixelData
    save_big_endian(dataset, path)
    answer = server.http.get(f"{place_of(path)}/frames/1", headers={"Accept": accept}).raise_for_status()
    assert f"transfer-syntax={EXPLICIT}".encode() in answer.content
    assert pixels in answer.content
    path.unlink()


def test_a_whole_study_and_series_come_in_one_answer(client: DICOMwebClient) -> None:
    assert {str(entry.SOPInstanceUID) for entry in client.retrieve_study("2.25.72")} == {"2.25.7212", "2.25.7213"}
    assert len(client.retrieve_series("2.25.71", "2.25.711")) == 2
    assert len(client.retrieve_study_metadata("2.25.71")) == 2


def test_the_metadata_give_a_mammogram_a_place_in_space_that_the_file_has_not(
    client: DICOMwebClient, studies: dict[str, Path]
) -> None:
    [first, second] = client.retrieve_series_metadata("2.25.71", "2.25.711")
    stored = pydicom.dcmread(studies["plain"])
    assert "ImagePositionPatient" not in stored
    assert first["00200032"]["Value"] == [0, 0, 0]
    assert first["00200037"]["Value"] == [1, 0, 0, 0, 1, 0]
    assert first["00280030"]["Value"] == pytest.approx(list(map(float, stored.ImagerPixelSpacing)))
    assert first["00200052"]["Value"] != second["00200052"]["Value"], "two views do not lie upon each other"
    functions = {entry["00281056"]["Value"][0] for entry in (first, second)}
    assert functions == {"LINEAR", "SIGMOID"}, "viewers know no LUT: its image gets the window nearest to it"
    assert "ImagePositionPatient" not in client.retrieve_instance(*uids(studies["plain"]))
    assert first["00083002"]["Value"] == [EXPLICIT]
    assert "InlineBinary" not in json.dumps(first["7FE00010"])


def test_large_values_have_an_address_of_their_own(
    server: Server, client: DICOMwebClient, studies: dict[str, Path]
) -> None:
    path = server.studies / "web" / "private.dcm"
    dataset = pydicom.dcmread(studies["plain"])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.7119"
    dataset.private_block(0x0099, "A maker", create=True).add_new(1, "OB", bytes(range(256)) * 1024)
    dataset.save_as(path)
    place = place_of(path)
    metadata = server.http.get(f"{place}/metadata").json()[0]
    assert server.http.get(metadata["00991001"]["BulkDataURI"]).content == bytes(range(256)) * 1024
    assert client.retrieve_bulkdata(metadata["7FE00010"]["BulkDataURI"])[0] == dataset.PixelData
    path.unlink()


def test_pictures_show_the_mammogram_with_a_dark_background(server: Server, studies: dict[str, Path]) -> None:
    plain, inverse = (
        np.asarray(Image.open(io.BytesIO(picture(server, studies[name], "rendered", "image/png").content)))
        for name in ("plain", "inverse")
    )
    assert plain.shape == (120, 90)
    assert plain[0, -1] == 0
    np.testing.assert_allclose(plain, inverse, atol=1)
    thumbnail = Image.open(io.BytesIO(picture(server, studies["compressed"], "thumbnail", "image/jpeg").content))
    assert max(thumbnail.size) <= 256
    small = Image.open(io.BytesIO(picture(server, studies["plain"], "rendered?viewport=40,40", "image/jpeg").content))
    assert max(small.size) == 40
    assert server.http.get("/dicomweb/studies/2.25.71/thumbnail").headers["content-type"] == "image/jpeg"


def picture(server: Server, path: Path, what: str, kind: str) -> Any:
    """A picture of an instance."""
    return server.http.get(f"{place_of(path)}/{what}", headers={"Accept": kind}).raise_for_status()


def segmentation(source: Path, folder: Path) -> tuple[Path, np.ndarray]:
    """A DICOM SEG of the lesion, as a viewer could send it."""
    target, mask = folder / "segmentation.dcm", blob()[1].astype(np.uint8)
    write_segmentation(target, source, {"tumour": mask})
    return target, mask


def test_a_segmentation_is_stored_once_and_comes_back_equal_to_the_pixel(
    server: Server, client: DICOMwebClient, studies: dict[str, Path], tmp_path: Path
) -> None:
    file, mask = segmentation(studies["plain"], tmp_path)
    sent = pydicom.dcmread(file)
    answer = client.store_instances([sent], study_instance_uid="2.25.71")
    assert len(answer.ReferencedSOPSequence) == 1
    found = client.search_for_instances("2.25.71", search_filters={"Modality": "SEG"})
    assert values(found, "00080018") == [sent.SOPInstanceUID]
    client.retrieve_instance(*uids(file)).save_as(tmp_path / "back.dcm")
    [back] = read_segmentation(tmp_path / "back.dcm", uids(studies["plain"])[2]).values()
    np.testing.assert_array_equal(back, mask)
    assert highdicom.seg.segread(str(tmp_path / "back.dcm")).number_of_segments == 1
    assert "2.25.71" in values(client.search_for_studies(search_filters={"ModalitiesInStudy": "SEG"}), "0020000D")

    sent.ContentLabel = "CHANGED"
    with pytest.raises(Exception, match="409"):
        client.store_instances([sent])
    assert client.retrieve_instance(*uids(file)).ContentLabel != "CHANGED", "what is stored is never replaced"


def test_labels_in_another_folder_are_found_and_results_are_stored_there(bundles: Path, tmp_path: Path) -> None:
    image = write_dicom(tmp_path / "studies" / "left.dcm", blob()[0])
    file, mask = segmentation(image, tmp_path)
    labels = tmp_path / "annotations"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask[np.newaxis].astype(np.uint8)), str(tmp_path / "mask.nrrd"))
    running = start_server(tmp_path / "studies", bundles, tmp_path, "labels", str(labels))
    try:
        with (tmp_path / "mask.nrrd").open("rb") as sent:
            running.http.put("/datastore/label?image=left", files={"label": ("mask.nrrd", sent)}).raise_for_status()
        assert store(running, "/dicomweb/studies", pydicom.dcmread(file)).status_code == 200
        found = running.http.get("/dicomweb/instances?Modality=SEG").json()
    finally:
        stop_server(running)
    assert {*values(found, "00080018")} == {uids(file)[2], uids(labels / "final" / "left.dcm")[2]}
    assert [*(tmp_path / "studies").rglob("*")] == [image]


@pytest.mark.parametrize("fault", ["a mammogram", "another study", "an unknown study", "no identifier", "a path"])
def test_what_is_no_result_of_a_study_here_is_not_stored(
    server: Server, studies: dict[str, Path], tmp_path: Path, fault: str
) -> None:
    dataset = pydicom.dcmread(segmentation(studies["plain"], tmp_path)[0])
    dataset.SOPInstanceUID = generate_uid()
    study = "/2.25.72" if fault == "another study" else ""
    if fault == "a mammogram":
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    elif fault == "an unknown study":
        dataset.StudyInstanceUID = "2.25.999"
    elif fault == "no identifier":
        del dataset.SOPInstanceUID
    elif fault == "a path":
        dataset.add_new("SOPInstanceUID", "LO", "../../2.25.7")
    before = sorted(server.studies.rglob("*"))
    answer = store(server, f"/dicomweb/studies{study}", dataset)
    assert answer.status_code == 409
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"][0] > 0
    assert sorted(server.studies.rglob("*")) == before


def store(server: Server, path: str, dataset: pydicom.Dataset) -> Any:
    """STOW-RS with a body of our own, since a client library refuses to send what is malformed."""
    written = io.BytesIO()
    pydicom.dcmwrite(written, dataset, write_like_original=True)
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + written.getvalue() + b"\r\n--b--\r\n"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    return server.http.post(path, content=body, headers=headers)


@pytest.mark.parametrize(
    ("attribute", "damaged"),
    [
        (b"\x08\0\x30\0TM\x06\0", b"\x08\0\x30\0US\x05\0"),  # StudyTime: a number of five bytes
        (b"\x20\0\x0d\0UI", b"\x20\0\x0d\0U\0"),  # StudyInstanceUID: no type that there is
        (b"\x20\0\x62\0CS", b"\x20\0\x62\0US"),  # ImageLaterality: a number
    ],
)
def test_a_damaged_object_stops_none_of_the_others(tmp_path: Path, attribute: bytes, damaged: bytes) -> None:
    whole = write_dicom(tmp_path / "whole.dcm", blob()[0], patient=91)
    dataset = pydicom.dcmread(whole)
    dataset.StudyTime = "090000"
    dataset.save_as(whole)
    other = write_dicom(tmp_path / "other.dcm", blob()[0], patient=92)
    content = whole.read_bytes()
    assert attribute in content
    whole.write_bytes(content.replace(attribute, damaged))
    listed = DicomIndex(tmp_path).instances()
    assert str(pydicom.dcmread(other).SOPInstanceUID) in listed
    for instance in listed.values():
        assert "00100020" in metadata(instance.path, instance.stamp, "")


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None)
def test_of_a_damaged_object_everything_is_sent_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]]
) -> None:
    path = write_dicom(tmp_path_factory.getbasetemp() / "damaged.dcm", blob()[0])
    content = bytearray(path.read_bytes())
    header = content.index(b"\xe0\x7f\x10\0")
    for position, value in changes:
        content[132 + int(position * (header - 132))] = value
    path.write_bytes(content)
    read_instance(path, (0, len(content)))
    for sent in (wado.syntax_of, partial(wado.stored_frames, numbers=[1]), wado.uncompressed_object):
        with suppress(RequestRefused):
            sent(path)
    with suppress(MammogramError):
        metadata.__wrapped__(path, (0, 0), "")  # without its memory
    store = Store(DicomIndex(path.parent / "nothing"))
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + bytes(content) + b"\r\n--x--\r\n"
    assert store.take(body, "multipart/related; boundary=x", None, "")[0] == 409


def test_a_changed_folder_is_seen_and_an_unchanged_one_is_not_read_again(tmp_path: Path) -> None:
    first = write_dicom(tmp_path / "first.dcm", blob()[0])
    index = DicomIndex(tmp_path)
    [known] = index.instances().values()
    shutil.copy(first, tmp_path / "copy.dcm")
    torn = tmp_path / "an interrupted copy.dcm"
    torn.write_bytes(first.read_bytes()[:-1500])
    second = write_dicom(tmp_path / "second.dcm", blob()[0], patient=2)
    index.look_again()
    assert len(index.instances()) == 2, "a copy is the same object"
    assert any(entry is known for entry in index.instances().values()) or (tmp_path / "copy.dcm") in {
        entry.path for entry in index.instances().values()
    }
    assert torn not in {entry.path for entry in index.instances().values()}
    for file in (first, torn, tmp_path / "copy.dcm"):
        file.unlink()
    index.look_again()
    assert [entry.path for entry in index.instances().values()] == [second]


@pytest.mark.parametrize("name", ["MG1_J2KI.dcm", "MG1_JPLY.dcm", "MG_Explicit_Little.dcm"])
def test_real_mammograms_come_back_equal_to_the_pixel(
    server: Server, client: DICOMwebClient, samples: Path, name: str
) -> None:
    source = samples / "dicom" / name
    shutil.copy(source, server.studies / f"web-{name}")
    stored = pydicom.dcmread(source)
    [raw] = client.retrieve_instance_frames(*uids(source), [1], media_types=(STORED,))
    compressed = stored.file_meta.TransferSyntaxUID.is_compressed
    kept = next(generate_pixel_data_frame(stored.PixelData, 1)) if compressed else stored.PixelData
    assert raw.rstrip(b"\0") == kept.rstrip(b"\0")  # padding is not part of a codestream
    assert client.retrieve_instance_metadata(*uids(source))["00280010"]["Value"] == [stored.Rows]
    explicit = ("application/octet-stream", EXPLICIT)
    [frame] = client.retrieve_instance_frames(*uids(source), [1], media_types=(explicit,))
    pixels = np.frombuffer(frame, f"<u{stored.BitsAllocated // 8}").reshape(stored.Rows, stored.Columns)
    # JPLY is the film of J2KI as lossy JPEG of 12 bits, which pydicom's plugins do not open.
    expected = pydicom.dcmread(source.with_name(name.replace("JPLY", "J2KI"))).pixel_array
    np.testing.assert_allclose(pixels, expected, atol=200 if "JPLY" in name else 0)
    assert picture(server, source, "thumbnail", "image/jpeg").content[:2] == b"\xff\xd8"
    (server.studies / f"web-{name}").unlink()
