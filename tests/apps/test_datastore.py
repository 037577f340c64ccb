"""The folder of images as the app sees it: what is listed under which id, what is refused, what is kept."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from lib import images
from lib import index as image_index
from lib.datastore import MammogramDatastore
from lib.dicom_index import DicomIndex
from lib.errors import RequestRefused
from lib.files import DamagedRecord
from lib.images import ImageFile, image_files
from monailabel.interfaces.datastore import DefaultLabelTag
from PIL import Image
from pydicom import dcmread

from monai_mammo.dicom.segmentation import write_segmentation

from .conftest import blob, write_dicom

UNSAFE = ["../x", "..", ".", "", "a/b", "a\\b", "/etc/passwd", "x\0y", "%2e%2e%2fx", ".hidden", "a" * 200, "ä", "a b"]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder as people have them: subfolders, several formats, and files that are no images."""
    pixels, _ = blob()
    folder = tmp_path / "studies"
    write_dicom(folder / "P1" / "2021 screening" / "L_CC.dcm", pixels, patient=1)
    write_dicom(folder / "P2" / "1.2.840.55", pixels, patient=2)
    Image.fromarray((pixels * 255).astype(np.uint8)).save(folder / "film.png")
    nibabel.save(nibabel.Nifti1Image((pixels.T[..., None] * 255).astype(np.uint8), np.eye(4)), folder / "volume.nii.gz")
    (folder / "README.txt").write_text("about these images")
    (folder / "index.csv").write_text("patient,view")
    (folder / ".DS_Store").write_bytes(b"\0" * 200)
    return folder


def save_mask(path: Path, rows: int = 120, columns: int = 90) -> Path:
    """An asymmetrical mask of one slice, as viewers save it."""
    mask = np.zeros((1, rows, columns), dtype=np.uint8)
    mask[0, 5:9, 2:40] = 1
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask), str(path))
    return path


def test_every_image_file_has_one_readable_id(studies: Path) -> None:
    datastore = MammogramDatastore(studies)
    assert sorted(datastore.list_images()) == ["P1-2021-screening-L_CC", "P2-1-2-840-55", "film", "volume"]
    assert datastore.get_image_uri("P2-1-2-840-55") == str(studies / "P2" / "1.2.840.55")


def test_an_images_info_tells_view_side_size_and_place_in_the_study_and_no_patient(studies: Path) -> None:
    info = MammogramDatastore(studies).get_image_info("P1-2021-screening-L_CC")
    assert (info["view"], info["laterality"], info["rows"], info["columns"]) == ("CC", "L", 120, 90)
    assert info["name"] == "L_CC.dcm"
    dataset = dcmread(studies / "P1" / "2021 screening" / "L_CC.dcm")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert info[keyword] == dataset[keyword].value
    assert re.fullmatch("[0-9a-f]{16}", info["patient"])
    assert not any(str(dataset[name].value) in json.dumps(info) for name in ("PatientID", "PatientName"))


def test_a_file_without_extension_is_offered_for_download_under_one_that_viewers_know(studies: Path) -> None:
    assert MammogramDatastore(studies).get_image_info("P2-1-2-840-55")["name"] == "1.2.840.55.dcm"


def test_files_of_one_stem_have_two_ids_that_survive_a_restart(studies: Path) -> None:
    pixels, _ = blob()
    write_dicom(studies / "film.dcm", pixels)
    ids = {path: MammogramDatastore(studies).get_image_uri(path) for path in MammogramDatastore(studies).list_images()}
    films = {image_id: uri for image_id, uri in ids.items() if image_id.startswith("film")}
    assert sorted(films.values()) == [str(studies / "film.dcm"), str(studies / "film.png")]
    again = MammogramDatastore(studies)
    assert {image_id: again.get_image_uri(image_id) for image_id in films} == films


def test_an_id_stays_with_its_file_when_a_rival_appears(studies: Path) -> None:
    before = MammogramDatastore(studies).get_image_uri("film")
    write_dicom(studies / "film.dcm", blob()[0])
    assert MammogramDatastore(studies).get_image_uri("film") == before


def test_what_is_no_usable_image_is_listed_with_its_reason_and_never_offered(studies: Path) -> None:
    (studies / "notes.dcm").write_text("this is no DICOM file")
    (studies / "empty.dcm").touch()
    (studies / "broken.png").write_bytes(b"\x89PNG\r\n")
    datastore = MammogramDatastore(studies)
    unreadable = {problem["file"]: problem for problem in datastore.status()["unreadable"]}
    assert set(unreadable) == {"notes.dcm", "empty.dcm", "broken.png"}
    assert all(problem["reason"] and problem["remedy"] for problem in unreadable.values())
    assert datastore.status()["total"] == 4
    assert set(datastore.get_unlabeled_images()) == set(datastore.list_images())
    assert not {"notes", "empty", "broken"} & set(datastore.list_images())


def test_segmentations_beside_the_images_are_no_bad_images_and_stay_in_dicomweb(studies: Path) -> None:
    image = studies / "P1" / "2021 screening" / "L_CC.dcm"
    segmentation = write_segmentation(studies / "P1" / "seg.dcm", image, {"mass": blob()[1]})
    datastore = MammogramDatastore(studies)
    for _ in range(2):
        assert datastore.status()["unreadable"] == []
        datastore.refresh()
    assert segmentation.SOPInstanceUID in DicomIndex(studies).instances()
    with pytest.raises(RequestRefused, match="Segmentation Storage"):
        datastore.origin.add("new", studies / "P1" / "seg.dcm", ".dcm")


def test_an_unreadable_image_is_refused_with_file_reason_and_remedy_until_it_is_replaced(studies: Path) -> None:
    (studies / "late.dcm").write_text("this is no DICOM file")
    datastore = MammogramDatastore(studies)
    with pytest.raises(RequestRefused, match=r"late\.dcm") as refused:
        datastore.readable_image("late")
    assert refused.value.status == 422
    assert refused.value.remedy
    write_dicom(studies / "late.dcm", blob()[0])
    assert datastore.readable_image("late") == studies / "late.dcm"


def test_pixels_found_unreadable_later_take_the_image_out_of_the_offer(studies: Path) -> None:
    datastore = MammogramDatastore(studies)
    datastore.report_unreadable("film", "its pixels are torn", "Copy it again")
    assert "film" not in datastore.list_images()
    assert "film" not in MammogramDatastore(studies).list_images()


def test_a_file_copied_twice_is_one_image_until_the_first_file_goes(studies: Path) -> None:
    first = write_dicom(studies / "P3" / "L_CC.dcm", blob()[0], patient=3)
    datastore = MammogramDatastore(studies)
    study, before = datastore.image("P3-L_CC").study, datastore.list_images()
    copy = shutil.copy(first, studies / "A copy.dcm")  # before the first in every order of names
    datastore.refresh()
    for again in (datastore, MammogramDatastore(studies)):
        assert again.list_images() == again.get_unlabeled_images() == before
        assert list(again.images_of_study(study)) == ["P3-L_CC"]
        (refused,) = again.status()["unreadable"]
        assert (refused["file"], refused["reason"]) == ("A copy.dcm", "it is the same image as P3/L_CC.dcm")
    datastore.report_unreadable("P3-L_CC", "its pixels are torn", "Copy it again")
    datastore.refresh()
    assert list(datastore.images_of_study(study)) == ["A-copy"]
    first.unlink()
    datastore.refresh()
    assert datastore.readable_image("A-copy") == Path(copy)


def test_files_dropped_in_while_it_runs_are_found_by_id_at_once(studies: Path) -> None:
    datastore = MammogramDatastore(studies)
    write_dicom(studies / "new.dcm", blob()[0])
    assert datastore.readable_image("new") == studies / "new.dcm"


def test_a_folder_that_takes_long_to_look_through_is_not_always_looked_through(studies: Path, monkeypatch) -> None:
    def slowly(*known: object) -> list[ImageFile]:
        time.sleep(0.2)
        scans.append(known)
        return scan(*known)

    datastore, scans = MammogramDatastore(studies), []
    scan = datastore.origin.scan
    monkeypatch.setattr(datastore.origin, "scan", slowly)
    monkeypatch.setattr(datastore.origin, "rescan_seconds", 0.0)
    datastore.refresh()
    for _ in range(20):
        datastore.list_images()
    assert len(scans) == 1
    write_dicom(studies / "new.dcm", blob()[0], patient=3)
    datastore.refresh()
    assert "new" in datastore.list_images()


def test_many_who_ask_for_what_is_not_there_share_a_look(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datastore, looks = MammogramDatastore(studies), []
    scan = images.StudiesFolder.scan

    def slowly(*given: object) -> list[ImageFile]:
        looks.append(given)
        time.sleep(0.2)
        return scan(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(images.StudiesFolder, "scan", slowly)
    refused: list[RequestRefused] = []

    def ask() -> None:
        with pytest.raises(RequestRefused) as error:
            datastore.image("gone")
        refused.append(error.value)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error.status for error in refused] == [404] * 12
    assert len(looks) <= 3


def test_a_file_that_vanishes_while_the_folder_is_looked_through_is_not_there(studies: Path, monkeypatch) -> None:
    def found(folder: Path) -> list[Path]:
        files = [*image_files(folder)]
        (folder / "film.png").unlink()
        return files

    monkeypatch.setattr(images, "image_files", found)
    assert sorted(MammogramDatastore(studies).list_images()) == ["P1-2021-screening-L_CC", "P2-1-2-840-55", "volume"]


def test_a_full_disk_keeps_nobody_from_what_was_listed_before_and_is_told(studies: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    datastore = MammogramDatastore(studies)
    before = datastore.list_images()
    new = write_dicom(studies / "new.dcm", blob()[0], patient=3)
    with monkeypatch.context() as patched:
        patched.setattr(image_index, "write_json", full)
        datastore.refresh()
        assert datastore.list_images() == before
        assert "No space left on device" in str(datastore.status()["origin_problem"])
        with pytest.raises(RequestRefused, match="No space left on device"):
            datastore.add_image("sent", str(new), {})
    datastore.refresh()
    assert {*datastore.list_images()} == {*before, "new"}
    assert datastore.status()["origin_problem"] is None


def test_an_empty_folder_is_a_datastore_without_images(tmp_path: Path) -> None:
    datastore = MammogramDatastore(tmp_path / "nothing")
    assert datastore.status() == {
        "total": 0,
        "completed": 0,
        "label_tags": {},
        "unreadable_total": 0,
        "unreadable": [],
        "labels_to_deliver": 0,
        "labels_undeliverable": [],
        "labels_unclear": [],
        "damaged_records": [],
        "origin_problem": None,
    }
    assert datastore.get_unlabeled_images() == []


@pytest.mark.parametrize("image_id", [*UNSAFE, "unknown"])
def test_an_unknown_id_is_not_found_and_reads_nothing(studies: Path, image_id: str) -> None:
    datastore = MammogramDatastore(studies)
    for ask in (datastore.get_image_uri, datastore.get_image_info, datastore.get_image, datastore.readable_image):
        with pytest.raises(RequestRefused) as refused:
            ask(image_id)
        assert refused.value.status == 404


def test_a_label_comes_back_byte_for_byte_also_after_a_restart(studies: Path, tmp_path: Path) -> None:
    label = save_mask(tmp_path / "label.nii.gz")
    MammogramDatastore(studies).save_label("film", str(label), DefaultLabelTag.FINAL, {"user": "reader 1"})
    datastore = MammogramDatastore(studies)
    assert datastore.get_label("film", "final").read() == label.read_bytes()
    assert datastore.get_label_info("film", "final")["user"] == "reader 1"
    assert datastore.get_labels_by_image_id("film") == {"final": "film"}
    assert datastore.get_labeled_images() == ["film"]
    assert "film" not in datastore.get_unlabeled_images()
    assert sorted(datastore.list_images()) == ["P1-2021-screening-L_CC", "P2-1-2-840-55", "film", "volume"]


def test_a_new_label_of_the_same_tag_replaces_the_former_and_another_tag_does_not(
    studies: Path, tmp_path: Path
) -> None:
    datastore = MammogramDatastore(studies)
    datastore.save_label("film", str(save_mask(tmp_path / "a.nii.gz")), "final", {})
    datastore.save_label("film", str(save_mask(tmp_path / "b.nrrd")), "final", {})
    datastore.save_label("film", str(save_mask(tmp_path / "c.nrrd")), "original", {})
    kept = sorted(path.relative_to(studies).as_posix() for path in (studies / "labels").glob("[!.]*/film*"))
    assert kept == [
        "labels/final/film.json",
        "labels/final/film.nrrd",
        "labels/original/film.json",
        "labels/original/film.nrrd",
    ]
    assert datastore.status()["label_tags"] == {"final": 1, "original": 1}


def test_an_older_window_is_told_of_a_newer_label_whose_mask_somebody_has_deleted(
    studies: Path, tmp_path: Path
) -> None:
    datastore, mask = MammogramDatastore(studies), save_mask(tmp_path / "mask.nrrd")
    datastore.save_label("film", str(mask), "final", {})
    (studies / "labels" / "final" / "film.nrrd").unlink()
    with pytest.raises(RequestRefused, match="another window"):
        datastore.save_label("film", str(mask), "final", {"revision": 0})
    assert datastore.keep_label("film", str(mask), "final", {"revision": 1}) == 2


def test_a_label_of_another_size_is_refused_and_the_former_one_kept(studies: Path, tmp_path: Path) -> None:
    datastore = MammogramDatastore(studies)
    former = save_mask(tmp_path / "good.nrrd")
    datastore.save_label("film", str(former), "final", {})
    with pytest.raises(RequestRefused, match="90 x 120") as refused:
        datastore.save_label("film", str(save_mask(tmp_path / "turned.nrrd", rows=90, columns=120)), "final", {})
    assert refused.value.file == "film.png"
    assert datastore.get_label("film", "final").read() == former.read_bytes()


def test_a_torn_label_is_refused(studies: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.nii"
    torn.write_bytes(save_mask(tmp_path / "whole.nii").read_bytes()[:-5000])
    datastore = MammogramDatastore(studies)
    with pytest.raises(RequestRefused, match="cannot be used"):
        datastore.save_label("film", str(torn), "final", {})
    assert datastore.get_labeled_images() == []


@pytest.mark.parametrize(
    "segments",
    ["x", [1], {"a": 1}, [{"name": "tumour", "idx": "1"}], [{"name": "tumour", "idx": True}], [{"idx": 1}]],
)
def test_a_label_whose_segments_have_no_name_or_value_is_refused(
    studies: Path, tmp_path: Path, segments: object
) -> None:
    """It would stop every later training, or count as a normal breast."""
    datastore, label = MammogramDatastore(studies), str(save_mask(tmp_path / "label.nrrd"))
    with pytest.raises(RequestRefused, match="label_info") as refused:
        datastore.save_label("film", label, "final", {"label_info": segments})
    assert refused.value.status == 400
    datastore.save_label("film", label, "final", {"label_info": [{"name": " Tumour ", "idx": 1}]})
    with pytest.raises(RequestRefused, match="label_info"):
        datastore.update_label_info("film", "final", {"label_info": segments})
    assert datastore.get_label_info("film", "final")["label_info"] == [{"name": "Tumour", "idx": 1}]


@pytest.mark.parametrize("tag", UNSAFE)
def test_an_unsafe_tag_is_refused_and_writes_nothing(studies: Path, tmp_path: Path, tag: str) -> None:
    datastore = MammogramDatastore(studies)
    before = sorted(tmp_path.rglob("*"))
    label = save_mask(tmp_path / "label.nrrd")
    with pytest.raises(RequestRefused) as refused:
        datastore.save_label("film", str(label), tag, {})
    assert refused.value.status == 400
    label.unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_removed_label_is_gone_and_the_image_is_offered_again(studies: Path, tmp_path: Path) -> None:
    datastore = MammogramDatastore(studies)
    datastore.save_label("film", str(save_mask(tmp_path / "label.nrrd")), "final", {})
    datastore.remove_label("film", "final")
    assert "film" in datastore.get_unlabeled_images()
    with pytest.raises(RequestRefused, match="no label"):
        datastore.get_label_uri("film", "final")


def test_images_are_never_deleted(studies: Path) -> None:
    with pytest.raises(RequestRefused) as refused:
        MammogramDatastore(studies).remove_image("film")
    assert refused.value.status == 403
    assert (studies / "film.png").exists()


def test_an_uploaded_image_is_found_under_the_id_it_was_given(studies: Path, tmp_path: Path) -> None:
    upload = tmp_path / "tmp3f2a.nii.gz"
    shutil.copy(studies / "volume.nii.gz", upload)
    datastore = MammogramDatastore(studies)
    assert datastore.add_image("case-7", str(upload), {"client_id": "someone"}) == "case-7"
    assert datastore.get_image_info("case-7")["client_id"] == "someone"
    with pytest.raises(RequestRefused) as refused:
        datastore.add_image("case-7", str(upload), {})
    assert refused.value.status == 409


@pytest.mark.parametrize("image_id", UNSAFE)
def test_an_upload_under_an_unsafe_id_is_refused_and_writes_nothing(
    studies: Path, tmp_path: Path, image_id: str
) -> None:
    datastore = MammogramDatastore(studies)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RequestRefused):
        datastore.add_image(image_id, str(studies / "film.png"), {})
    assert sorted(tmp_path.rglob("*")) == before


def test_an_upload_that_is_no_image_is_refused_and_not_kept(studies: Path, tmp_path: Path) -> None:
    fake = tmp_path / "fake.dcm"
    fake.write_text("this is no DICOM file")
    with pytest.raises(RequestRefused) as refused:
        MammogramDatastore(studies).add_image("fake", str(fake), {})
    assert refused.value.status == 422
    assert not (studies / "fake.dcm").exists()


def test_a_verdict_on_quality_is_kept_and_a_wrong_one_refused(studies: Path) -> None:
    datastore = MammogramDatastore(studies)
    datastore.update_image_info("film", {"quality": "incomplete"})
    datastore.update_image_info("film", {"note": "nipple cut"})
    assert MammogramDatastore(studies).get_image_info("film")["quality"] == "incomplete"
    for wrong in ({"quality": "fine"}, ["quality"], {"quality": 1}):
        with pytest.raises(RequestRefused) as refused:
            datastore.update_image_info("film", wrong)
        assert refused.value.status == 400
    assert datastore.get_image_info("film")["note"] == "nipple cut"


def test_two_threads_and_two_processes_lose_nothing_of_each_other(studies: Path) -> None:
    one, two = MammogramDatastore(studies), MammogramDatastore(studies)
    for number in range(8):
        write_dicom(studies / f"N{number}.dcm", blob()[0], patient=number + 3)
    threads = [threading.Thread(target=datastore.refresh) for datastore in (one, two, one, two)]
    threads += [
        threading.Thread(target=one.update_image_info, args=("film", {f"key{number}": number})) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.list_images()) == sorted(two.list_images())
    assert {f"key{number}" for number in range(8)} <= set(one.get_image_info("film"))


def test_a_damaged_index_stops_the_start_and_is_left_for_a_person_to_mend(studies: Path) -> None:
    MammogramDatastore(studies)
    index = studies / "labels" / ".index.json"
    index.write_text(index.read_text()[:50])
    damaged = index.read_text()
    with pytest.raises(ValueError, match="damaged"):
        MammogramDatastore(studies)
    assert index.read_text() == damaged


@pytest.mark.parametrize(
    ("record", "content", "change"),
    [
        ("final/film.json", '{"name": "film.nr', lambda store: store.remove_label("film", "final")),
        ("final/film.json", '{"foo": 1}', lambda store: store.update_label_info("film", "final", {})),
        (".info/film.json", '{"verdicts": {"ana": {}}}', lambda store: store.update_image_info("film", {})),
    ],
)
def test_a_damaged_record_takes_its_image_out_of_the_list_and_is_named_until_it_is_mended(
    studies: Path, tmp_path: Path, record: str, content: str, change: Callable[[MammogramDatastore], None]
) -> None:
    datastore = MammogramDatastore(studies)
    datastore.update_image_info("film", {"quality": "complete"})
    datastore.save_label("film", str(save_mask(tmp_path / "mask.nrrd")), "final", {})
    before, file = datastore.json(), datastore.labels.folder / record
    sound = file.read_text()
    file.write_text(content)
    assert before["objects"].keys() - datastore.json()["objects"].keys() == {"film"}
    assert datastore.status()["damaged_records"] == [f"labels/{record}"]
    with pytest.raises(DamagedRecord):
        change(datastore)
    assert file.read_text() == content
    file.write_text(sound)
    assert datastore.json() == before
    assert datastore.status()["damaged_records"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
@pytest.mark.parametrize("name", [b"M\xfcller.dcm", b"M\xfcller/film.png", b"M\xfcller"])
def test_a_file_whose_name_is_not_utf8_is_to_be_renamed_and_stops_nothing(studies: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(studies) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    (studies / "P2" / "1.2.840.55").rename(path)
    datastore = MammogramDatastore(studies)
    [problem] = datastore.unreadable_images()
    assert problem["file"] == name.decode(errors="backslashreplace")
    assert "Rename" in str(problem["remedy"])
    json.dumps([datastore.json(), datastore.status()], ensure_ascii=False).encode()
    path.rename(studies / "renamed.dcm")
    datastore.refresh()
    assert datastore.unreadable_images() == []
    assert "renamed" in datastore.list_images()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_dead_link_and_a_folder_named_like_an_image_stop_nothing(studies: Path) -> None:
    (studies / "dead.dcm").symlink_to(studies / "nowhere.dcm")
    (studies / "folder.dcm").mkdir()
    assert len(MammogramDatastore(studies).list_images()) == 4
