"""A DICOMweb archive (a real Orthanc) as the place of images: what is listed, what comes and goes, what stays."""

from __future__ import annotations

import io
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from lib.archive import IN_USE_SECONDS, Archive, folder_name, open_archive
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from lib.users import current_user
from main import MammoApp
from pydicom.uid import generate_uid

from monai_mammo.datasets.pseudonym import KEY_VARIABLE
from monai_mammo.dicom.reader import read_mammogram
from monai_mammo.dicom.segmentation import read_segmentation

from .archives import Open, delivered, label, mammogram, uid_of, wait_until
from .conftest import (
    APP,
    SEGMENTATION,
    Orthanc,
    blob,
    free_port,
    start_orthanc,
    start_server,
    stop_orthanc,
    stop_server,
    write_dicom,
)


def test_every_mammogram_is_an_image_of_its_own_and_nothing_else_is(
    orthanc: Orthanc, open_store: Open, tmp_path: Path
) -> None:
    large, small = mammogram(tmp_path / "large.dcm", 11), mammogram(tmp_path / "small.dcm", 11, rows=64, columns=50)
    other = mammogram(tmp_path / "other.dcm", 11, Modality="OT", SeriesInstanceUID=generate_uid())
    assert pydicom.dcmread(large).SeriesInstanceUID == pydicom.dcmread(small).SeriesInstanceUID
    orthanc.store(large, small, other)
    store = open_store(11)
    assert sorted(store.list_images()) == sorted([uid_of(large), uid_of(small)])
    info = store.get_image_info(uid_of(small))
    assert (info["rows"], info["columns"], info["view"], info["laterality"]) == (64, 50, "CC", "L")
    for file in (large, small):
        assert store.readable_image(uid_of(file)).read_bytes() == file.read_bytes()
    assert {image.patient for image in store.index.images().values()} == {info["patient"]}
    assert "PHANTOM" not in str(info)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"])
def test_an_image_comes_in_its_own_transfer_syntax(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, syntax: str
) -> None:
    patient = 12 + ["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"].index(syntax)
    file = write_dicom(tmp_path / "image.dcm", blob()[0], patient=patient, syntax=syntax)
    orthanc.store(file)
    path = open_store(patient).readable_image(uid_of(file))
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_mammogram(path).pixels, read_mammogram(file).pixels)


def test_new_images_appear_by_themselves(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(15)
    assert store.list_images() == []
    first, second = mammogram(tmp_path / "a.dcm", 15), mammogram(tmp_path / "b.dcm", 15)
    orthanc.store(first)
    store.index.refresh()
    assert store.readable_image(uid_of(first)).is_file()
    orthanc.store(second)  # in the same series
    monkeypatch.setattr(Archive, "rescan_seconds", 0.0)
    assert store.readable_image(uid_of(second)).is_file()  # asked for by id
    assert set(store.list_images()) == {uid_of(first), uid_of(second)}


@pytest.mark.parametrize("asked_for", [False, True])
def test_an_image_that_takes_the_place_of_another_is_noticed(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_for: bool
) -> None:
    monkeypatch.setattr(Archive, "in_turn", 1)
    patient, series = 29 + asked_for, [generate_uid() for _ in range(4)]
    *others, gone = [mammogram(tmp_path / uid, patient, SeriesInstanceUID=uid) for uid in series]
    orthanc.store(*others, gone)
    store = open_store(patient)
    orthanc.remove(uid_of(gone))
    new = mammogram(tmp_path / "new.dcm", patient, SeriesInstanceUID=series[-1])
    orthanc.store(new)
    if asked_for:
        with pytest.raises(RequestRefused, match="not in the archive, or no longer") as refused:
            store.readable_image(uid_of(gone))
        assert refused.value.status == 404
    for _ in range(1 if asked_for else 4):  # each series has its turn
        store.index.refresh()
    assert set(store.list_images()) == set(map(uid_of, [*others, new]))


def test_a_list_that_takes_the_archive_long_keeps_nobody_waiting(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = mammogram(tmp_path / "a.dcm", 21), mammogram(tmp_path / "b.dcm", 21)
    orthanc.store(first)
    store = open_store(21)
    orthanc.store(second)
    asked, answer, scan = threading.Event(), threading.Event(), Archive.scan

    def slow(self: Archive, known: Any) -> Any:
        asked.set()
        assert answer.wait(60)
        return scan(self, known)

    monkeypatch.setattr(Archive, "scan", slow)
    monkeypatch.setattr(Archive, "rescan_seconds", 0.0)
    assert store.list_images() == [uid_of(first)]
    assert asked.wait(60)
    assert store.list_images() == [uid_of(first)]
    answer.set()
    wait_until(lambda: len(store.list_images()) == 2)


def test_final_labels_arrive_as_dicom_seg_of_each_reader_equal_to_the_pixel(
    orthanc: Orthanc, open_store: Open, tmp_path: Path
) -> None:
    file = mammogram(tmp_path / "image.dcm", 16)
    orthanc.store(file)
    store, image_id = open_store(16), uid_of(file)
    masks = {"ana": blob()[1], "ben": np.zeros((120, 90), bool)}  # ben finds nothing
    for reader, mask in masks.items():
        token = current_user.set(reader)
        store.save_label(image_id, label(tmp_path / "label.nrrd", mask), "final", {})
        current_user.reset(token)
    delivered(store)
    stored = [pydicom.dcmread(io.BytesIO(content)) for content in orthanc.segmentations(PatientID="PHANTOM0016")]
    assert len(stored) == 2
    for seg in stored:
        reader = str(seg.ContentCreatorName).strip("^")
        seg.save_as(tmp_path / "seg.dcm")
        np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", image_id)["tumour"], masks.pop(reader))
    assert store.labels.readers(image_id) == ["ben", "ana"]
    assert store.list_images() == [image_id]  # a SEG is no mammogram


@pytest.mark.parametrize("name", ["MG_Explicit_Little", "MG1_J2KI"])
def test_labels_of_real_images_come_back_equal(orthanc: Orthanc, samples: Path, tmp_path: Path, name: str) -> None:
    file = samples / "dicom" / f"{name}.dcm"
    header = pydicom.dcmread(file, stop_before_pixels=True)
    orthanc.store(file)
    query = {"StudyInstanceUID": header.StudyInstanceUID, "Modality": header.Modality}
    store = MammogramDatastore(Archive(orthanc.url, tmp_path / "cache", query), tmp_path / "labels")
    assert store.readable_image(header.SOPInstanceUID).read_bytes() == file.read_bytes()
    mask = np.random.default_rng(0).random((header.Rows, header.Columns)) < 0.01
    store.save_label(header.SOPInstanceUID, label(tmp_path / "label.nrrd", mask), "final", {})
    delivered(store)
    (content,) = orthanc.segmentations(StudyInstanceUID=header.StudyInstanceUID)
    (tmp_path / "seg.dcm").write_bytes(content)
    found = read_segmentation(tmp_path / "seg.dcm", header.SOPInstanceUID)["tumour"]
    np.testing.assert_array_equal(found, mask)


def test_what_is_broken_is_listed_as_unreadable_and_blocks_nothing(
    orthanc: Orthanc, open_store: Open, tmp_path: Path
) -> None:
    good = mammogram(tmp_path / "good.dcm", 17)
    bad = {
        "FOR PROCESSING": mammogram(tmp_path / "raw.dcm", 17, PresentationIntentType="FOR PROCESSING"),
        "5 frames": mammogram(tmp_path / "cine.dcm", 17, NumberOfFrames=5),
        "Rows": mammogram(tmp_path / "flat.dcm", 17, Rows=None),
    }
    orthanc.store(good, *bad.values())
    store = open_store(17)
    assert store.list_images() == [uid_of(good)]
    assert store.readable_image(uid_of(good)).is_file()
    reasons = {problem["file"]: str(problem["reason"]) for problem in store.unreadable_images()}
    assert set(reasons) == set(map(uid_of, bad.values()))
    for words, file in bad.items():
        assert words in reasons[uid_of(file)]
        with pytest.raises(RequestRefused) as refused:
            store.readable_image(uid_of(file))
        assert refused.value.status == 422


def test_torn_pixels_are_found_when_a_model_reads_them(
    orthanc: Orthanc, bundles: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = write_dicom(tmp_path / "good.dcm", blob()[0], patient=18)
    torn = mammogram(tmp_path / "torn.dcm", 18, PixelData=b"\0" * 100)
    orthanc.store(good, torn)
    conf = {"labels": str(tmp_path / "labels"), "query": "Modality=MG&PatientID=PHANTOM0018", "device": "cpu"}
    with caplog.at_level(logging.INFO):
        app = MammoApp(str(APP), orthanc.url, {**conf, "bundles": str(bundles), "weights": str(tmp_path)})
        with pytest.raises(RequestRefused, match=uid_of(torn)):
            app.infer({"model": SEGMENTATION, "image": uid_of(torn)})
        assert app.datastore().list_images() == [uid_of(good)]
        answer = app.infer({"model": SEGMENTATION, "image": uid_of(good), "save_label": True})
    assert answer["params"]["tumour"]["pixels"] > 0
    assert app.datastore().get_labeled_images("original") == [uid_of(good)]
    assert "PHANTOM" not in caplog.text


def test_an_archive_that_is_killed_loses_no_label(tmp_path: Path) -> None:
    files = [mammogram(tmp_path / f"{number}.dcm", 1) for number in range(2)]
    seen, unseen = map(uid_of, files)
    archive = start_orthanc(tmp_path / "orthanc")
    archive.store(*files)

    def opened() -> MammogramDatastore:
        return MammogramDatastore(Archive(archive.url, tmp_path / "cache"), tmp_path / "labels")

    store = opened()
    store.readable_image(seen)
    stop_orthanc(archive)
    store.index.refresh()
    for image_id in (seen, unseen):
        store.save_label(image_id, label(tmp_path / "label.nrrd", blob()[1]), "final", {})
    with pytest.raises(RequestRefused, match="does not answer") as refused:
        store.readable_image(unseen)
    assert refused.value.status == 503
    assert archive.url not in str(refused.value)

    store = opened()  # the server starts again, the archive has not
    assert store.status()["origin_problem"]
    assert store.status()["labels_to_deliver"] == 2
    assert sorted(store.list_images()) == sorted(store.get_labeled_images()) == sorted([seen, unseen])
    assert store.readable_image(seen).is_file()  # of the cache

    archive = start_orthanc(tmp_path / "orthanc", port=int(archive.url.split(":")[2].split("/")[0]))
    try:
        store.index.refresh()
        delivered(store)
        assert store.status()["origin_problem"] is None
        sources = set()
        for content in archive.segmentations():
            seg = pydicom.dcmread(io.BytesIO(content))
            sources.add(str(seg.SourceImageSequence[0].ReferencedSOPInstanceUID))
        assert sources == {seen, unseen}
        assert len(archive.segmentations()) == 2
    finally:
        stop_orthanc(archive)


def test_the_cache_is_cut_back_but_not_below_what_is_in_use_or_held(
    orthanc: Orthanc, open_store: Open, tmp_path: Path
) -> None:
    files = [mammogram(tmp_path / f"{number}.dcm", 19) for number in range(4)]
    orthanc.store(*files)
    store = open_store(19, cache_bytes=1)
    paths = [Path(store.hold_image(uid_of(files[0])))]
    paths += [store.readable_image(uid_of(file)) for file in files[1:3]]
    assert all(path.is_file() for path in paths)
    for path in paths[:2]:  # a while passes
        used = path.stat().st_mtime - 2 * IN_USE_SECONDS
        os.utime(path, (used, used))
    store.readable_image(uid_of(files[3]))
    assert [path.is_file() for path in paths] == [True, False, True]
    assert store.readable_image(uid_of(files[1])).is_file()


def test_the_app_starts_while_the_archive_is_down_and_says_so(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/dicom-web"
    app = MammoApp(str(APP), url, {"weights": str(tmp_path), "labels": str(tmp_path / "labels")})
    status = app.info()["datastore"]
    assert status["total"] == 0
    assert "does not answer" in status["origin_problem"]


@pytest.mark.slow
def test_an_archive_that_wants_a_login_serves_models_and_viewers(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = start_orthanc(tmp_path / "orthanc", login=("mammo", "secret"))
    try:
        archive.store(mammogram(tmp_path / "image.dcm", 1))
        with pytest.raises(RequestRefused, match="MONAI_LABEL_DATASTORE_USERNAME"):
            Archive(archive.url, tmp_path / "cache").scan({})
        monkeypatch.setenv("MONAI_LABEL_DATASTORE_USERNAME", "mammo")
        monkeypatch.setenv("MONAI_LABEL_DATASTORE_PASSWORD", "secret")
        server = start_server(archive.url, bundles, tmp_path)
        try:
            assert server.http.get("/info/").json()["datastore"]["total"] == 1
            assert len(server.http.get("/dicomweb/studies").json()) == 1
        finally:
            stop_server(server)
    finally:
        stop_orthanc(archive)


@pytest.mark.parametrize("url", ["http://", "http://name:password@archive/dicom-web"])
def test_an_address_that_is_none_or_holds_a_password_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="address") as refused:
        open_archive(url, tmp_path, {})
    assert "password@" not in str(refused.value)


def test_each_archive_has_a_folder_of_its_own() -> None:
    urls = ("http://pacs:8042/dicom-web", "http://pacs:8042/dicom_web", "https://pacs/" + "x" * 300)
    names = {folder_name(url) for url in urls}
    assert len(names) == 3
    assert all(len(name) < 100 for name in names)
    assert folder_name(urls[0]) == folder_name(urls[0] + "/")


@pytest.mark.parametrize("key", ["", "a secret"])
def test_the_labels_of_an_archive_are_found_again_whatever_key_makes_pseudonyms(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    assert folder_name("http://pacs:8042/dicom-web") == "pacs-8042-dicom-web-e85be952514c5b18"
