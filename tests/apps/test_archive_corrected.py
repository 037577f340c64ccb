"""Images that are corrected in an archive under the UIDs that they had: nothing goes on with what they were."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest
from lib.ahead import decode
from lib.archive import Archive
from lib.datastore import MammogramDatastore
from lib.errors import RequestRefused
from pydicom.uid import generate_uid

from .archives import Open, delivered, label, mammogram, uid_of, wait_until
from .conftest import Orthanc, blob


def in_a_study(file: Path, patient: int, **changes: Any) -> Path:
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    return mammogram(file, patient, **{**uids, **changes})


def opened(orthanc: Orthanc, file: Path, folder: Path) -> MammogramDatastore:
    """The archive's part that is a file's study, whoever its patient is."""
    query = {"Modality": "MG", "StudyInstanceUID": str(pydicom.dcmread(file).StudyInstanceUID)}
    return MammogramDatastore(Archive(orthanc.url, folder / "cache", query), folder / "labels")


def correct_patient(orthanc: Orthanc, former: str, patient: str) -> None:
    """Give a patient's images to another patient, as Orthanc's users do, who keep the UIDs."""
    found = orthanc.rest.post("/tools/find", json={"Level": "Patient", "Query": {"PatientID": former}}).json()
    change = {
        "Replace": {"PatientID": patient},
        "Keep": ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"],
        "Force": True,
        "KeepSource": False,
    }
    for entry in found:
        orthanc.rest.post(f"/patients/{entry}/modify", json=change).raise_for_status()


def replace_in_archive(orthanc: Orthanc, file: Path, **changes: Any) -> None:
    """Put another image in the place of one, under its UIDs."""
    orthanc.remove(uid_of(file))
    kept = pydicom.dcmread(file)
    uids = {name: kept[name].value for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
    orthanc.store(mammogram(file, int(str(kept.PatientID)[-4:]), **{**uids, **changes}))


def patients_of_results(orthanc: Orthanc, study: str) -> list[str]:
    contents = orthanc.segmentations(StudyInstanceUID=study)
    return [str(pydicom.dcmread(io.BytesIO(content)).PatientID) for content in contents]


@pytest.mark.parametrize("listed", [True, False])
def test_a_result_names_the_patient_that_the_image_has_now(orthanc: Orthanc, tmp_path: Path, listed: bool) -> None:
    former, patient = 41 + listed, f"CORRECTED{listed}"
    file = in_a_study(tmp_path / "image.dcm", former)
    orthanc.store(file)
    store, image_id = opened(orthanc, file, tmp_path), uid_of(file)
    before = store.readable_image(image_id)
    correct_patient(orthanc, f"PHANTOM{former:04d}", patient)
    if listed:
        store.index.refresh()
        after = store.readable_image(image_id)
        assert str(pydicom.dcmread(after).PatientID) == patient
        assert list(before.parent.glob("*.dcm")) == [after]
    store.save_label(image_id, label(tmp_path / "label.nrrd", blob()[1]), "final", {})
    delivered(store)
    assert patients_of_results(orthanc, store.image(image_id).study) == [patient]


def test_a_result_that_waited_while_the_patient_was_corrected_is_written_anew(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = in_a_study(tmp_path / "image.dcm", 43)
    orthanc.store(file)
    store, image_id = opened(orthanc, file, tmp_path), uid_of(file)

    def refuse(self: Archive, file: Path) -> None:
        raise RequestRefused(502, "it is full", "Wait")

    monkeypatch.setattr(Archive, "store", refuse)
    store.save_label(image_id, label(tmp_path / "label.nrrd", blob()[1]), "final", {})
    wait_until(lambda: "it is full" in caplog.text)
    assert store.labels.segmentation(image_id, "annotator")
    monkeypatch.undo()
    correct_patient(orthanc, "PHANTOM0043", "CORRECTED")
    delivered(store)
    assert patients_of_results(orthanc, store.image(image_id).study) == ["CORRECTED"]


def test_a_label_of_an_image_that_has_another_size_now_becomes_no_result(orthanc: Orthanc, tmp_path: Path) -> None:
    file = in_a_study(tmp_path / "image.dcm", 44)
    orthanc.store(file)
    store, image_id = opened(orthanc, file, tmp_path), uid_of(file)
    store.readable_image(image_id)
    replace_in_archive(orthanc, file, rows=64, columns=50)
    store.save_label(image_id, label(tmp_path / "label.nrrd", blob()[1]), "final", {})
    wait_until(lambda: bool(store.results.undeliverable()))
    assert orthanc.segmentations(StudyInstanceUID=store.image(image_id).study) == []


def test_what_changed_is_fetched_again_and_what_did_not_is_not(orthanc: Orthanc, tmp_path: Path) -> None:
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    changed, same, longer = images = [f"1.2.45.{time.time_ns()}{end}" for end in ("1", "2", "1.5")]
    files = [in_a_study(tmp_path / uid, 45, **uids, SOPInstanceUID=uid) for uid in images]
    orthanc.store(*files)
    store = opened(orthanc, files[0], tmp_path)
    paths = {uid: store.readable_image(uid) for uid in images}
    held = Path(store.hold_image(changed))
    replace_in_archive(orthanc, files[0], rows=64, columns=50)
    orthanc.store(in_a_study(tmp_path / "new.dcm", 45, **uids))  # the series grows
    store.index.refresh()
    assert (store.image(changed).rows, store.image(changed).columns) == (64, 50)
    path = store.readable_image(changed)
    assert path.read_bytes() == files[0].read_bytes()
    assert held.is_file()
    assert store.readable_image(same) == paths[same]
    assert paths[longer].is_file()


def test_a_file_that_a_training_holds_is_held_when_it_is_fetched_anew(
    orthanc: Orthanc, open_store: Open, tmp_path: Path
) -> None:
    file = mammogram(tmp_path / "image.dcm", 46)
    orthanc.store(file)
    store = open_store(46)
    held = Path(store.hold_image(uid_of(file)))
    assert store.origin.fetch(store.image(uid_of(file))) == held
    assert held.stat().st_mtime > time.time() + 3600


def torn_store(orthanc: Orthanc, open_store: Open, file: Path, patient: int) -> tuple[MammogramDatastore, str]:
    """A store in which an image has been found torn, and which has been mended in the archive since."""
    mammogram(file, patient, PixelData=b"\0" * 100)
    orthanc.store(file)
    store, image_id = open_store(patient), uid_of(file)
    with pytest.raises(RequestRefused):
        decode(store, image_id)
    assert not store.origin.path(store.index.known(image_id)).exists()
    replace_in_archive(orthanc, file)
    store.index.refresh()
    assert store.list_images() == []  # not asked for at every scan
    return store, image_id


def test_a_torn_image_that_was_mended_is_fetched_when_somebody_asks_for_it_anew(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, image_id = torn_store(orthanc, open_store, tmp_path / "image.dcm", 47)
    with pytest.raises(RequestRefused) as refused:  # a moment ago it could not be read
        decode(store, image_id)
    assert refused.value.status == 422
    monkeypatch.setattr(Archive, "rescan_seconds", 0.0)
    decode(store, image_id)
    assert store.list_images() == [image_id]
    assert store.unreadable_images() == []


def test_a_torn_image_that_was_mended_is_listed_again_by_a_later_scan(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, image_id = torn_store(orthanc, open_store, tmp_path / "image.dcm", 48)
    store = open_store(48)  # nor after a restart
    assert store.list_images() == []
    monkeypatch.setattr(Archive, "retry_seconds", 0.0)
    store.index.refresh()
    assert store.list_images() == [image_id]
    decode(store, image_id)


def test_an_image_that_is_still_torn_is_refused_again(
    orthanc: Orthanc, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = mammogram(tmp_path / "image.dcm", 49, PixelData=b"\0" * 100)
    raw = mammogram(tmp_path / "raw.dcm", 49, PresentationIntentType="FOR PROCESSING")
    orthanc.store(file, raw)
    store = open_store(49)
    monkeypatch.setattr(Archive, "rescan_seconds", 0.0)
    for image_id in [uid_of(file), uid_of(raw)] * 2:
        with pytest.raises(RequestRefused) as refused:
            decode(store, image_id)
        assert refused.value.status == 422
    assert store.list_images() == []
