"""Preparation run again, interrupted, killed, in other orders: nothing is redone, lost or different."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from monai_mammo.datasets import cdd_cesm
from monai_mammo.datasets.datalist import SECTIONS, sections_of_patients
from monai_mammo.datasets.pool import DIED, run
from monai_mammo.datasets.prepare import prepare
from monai_mammo.dicom.errors import MammogramError

from .conftest import contents, entries, module_of, times


def test_a_second_run_redoes_nothing(cesm, prepared):
    before, stamps = contents(prepared), times(prepared)
    prepare(cdd_cesm, cesm, prepared, processes=0)
    assert contents(prepared) == before
    assert times(prepared) == stamps


def test_only_what_is_missing_or_changed_is_made_again(copy, tmp_path):
    out = tmp_path / "out"
    prepare(cdd_cesm, copy, out, processes=0)
    before, stamps = contents(out), times(out)
    lost = next((out / "crops").glob("*.png"))
    lost.unlink()
    changed = next(entry for entry in entries(out, "quality") if entry["source"][:30] not in str(lost))["source"]
    os.utime(copy / changed, (1, 1))
    prepare(cdd_cesm, copy, out, processes=0)
    after = {name: data for name, data in contents(out).items() if not name.startswith(".state")}
    assert after == {name: data for name, data in before.items() if not name.startswith(".state")}
    again = {name for name, stamp in times(out).items() if stamp != stamps[name]}
    names = {Path(changed).stem, lost.name.split("-")[0] + "-" + lost.name.split("-")[1].split("_")[0]}
    assert again
    assert all(any(name in file for name in names) for file in again)


def test_another_margin_changes_the_crops_and_leaves_no_file_behind(cesm, copy, tmp_path):
    out = tmp_path / "out"
    prepare(cdd_cesm, copy, out, task="segmentation", processes=0)
    narrow = entries(out, "segmentation_crops")
    prepare(cdd_cesm, copy, out, task="segmentation", margin=0.5, processes=0)
    wide = entries(out, "segmentation_crops")
    assert [entry["image"] for entry in narrow] == [entry["image"] for entry in wide]
    lower_edges = [
        (one["region"][2], two["region"][2], one["source_size"][0]) for one, two in zip(narrow, wide, strict=True)
    ]
    assert all(near < far or near == far == end for near, far, end in lower_edges)
    assert not list(out.rglob("*.part"))


def test_more_samples_are_made_of_held_out_mammograms_and_the_first_pair_stays(cesm, prepared):
    out = cesm.parent / "more-samples"
    prepare(cdd_cesm, cesm, out, task="quality", samples=3, processes=0)
    before, after = (json.loads((folder / "quality" / "dataset.json").read_text()) for folder in (prepared, out))
    assert after["name"] == "CDD-CESM, 6 samples a mammogram"
    assert after["training"] == before["training"]
    assert after["originals"] == before["originals"]
    for section in ("validation", "test"):
        assert {entry["patient"] for entry in after[section]} == {entry["patient"] for entry in before[section]}
        assert len(after[section]) == 3 * len(before[section]) > 0
        assert all(entry in after[section] for entry in before[section])
        assert len({(out / "quality" / entry["image"]).read_bytes() for entry in after[section]}) == len(after[section])
    prepare(cdd_cesm, cesm, out, task="quality", processes=0)
    assert json.loads((out / "quality" / "dataset.json").read_text()) == before
    assert len(list((out / "quality" / "images").iterdir())) == len(list((prepared / "quality" / "images").iterdir()))


def test_patients_who_were_added_are_dealt_and_nobody_else_moves(cesm, tmp_path):
    listed = [replace(image, patient=image.image.stem) for image in cdd_cesm.images(cesm, [])]
    seen = []
    for some in (listed[:7], listed):
        prepare(module_of(*some), cesm, tmp_path, processes=0)
        lists = (tmp_path / name / "dataset.json" for name in ("segmentation_whole", "quality"))
        seen.append(sections_of_patients(lists))
    assert seen[0].items() <= seen[1].items()
    assert Counter(seen[1].values()) == {"training": 8, "validation": 1, "test": 3}


@pytest.mark.parametrize("upgraded", [False, True], ids=["remembered", "of a version without the memory"])
def test_patients_who_were_missing_for_a_run_come_back_to_their_section(cesm, tmp_path, upgraded):
    """Who has been trained on must not be tested on because an archive was not mounted once."""
    listed = [replace(image, patient=image.image.stem) for image in cdd_cesm.images(cesm, [])]
    summary = tmp_path / "prepared.json"
    prepare(module_of(*listed), cesm, tmp_path, task="quality", processes=0)
    before = sections_of_patients([tmp_path / "quality" / "dataset.json"])
    absent = {patient for section in SECTIONS for patient in [one for one in before if before[one] == section][:2]}
    if upgraded:
        known = json.loads(summary.read_text())
        assert known.pop("sections") == before
        summary.write_text(json.dumps(known))
    present = [image for image in listed if image.patient not in absent]
    for _ in range(2):  # the second run finds them in no datalist
        prepare(module_of(*present), cesm, tmp_path, task="quality", processes=0)
    assert absent.isdisjoint(sections_of_patients([tmp_path / "quality" / "dataset.json"]))
    prepare(module_of(*listed), cesm, tmp_path, task="quality", processes=0)
    assert sections_of_patients([tmp_path / "quality" / "dataset.json"]) == before


def test_one_task_after_the_other_gives_what_both_together_give(cesm, prepared):
    out = cesm.parent / "one-by-one"
    prepare(cdd_cesm, cesm, out, task="quality", processes=0)
    prepare(cdd_cesm, cesm, out, task="segmentation", processes=0)
    one_by_one, together = contents(out), contents(prepared)
    summaries = [json.loads(files.pop("prepared.json")) for files in (one_by_one, together)]
    assert one_by_one == together
    assert summaries[0]["counts"] == summaries[1]["counts"]


@pytest.mark.slow
def test_processes_and_order_do_not_matter(cesm, prepared):
    out = cesm.parent / "parallel"
    backwards = SimpleNamespace(
        NAME=cdd_cesm.NAME, LICENCE=cdd_cesm.LICENCE, images=lambda *given: cdd_cesm.images(*given)[::-1]
    )
    prepare(cdd_cesm, cesm, out, processes=2)
    assert contents(out) == contents(prepared)
    prepare(backwards, cesm, cesm.parent / "backwards", processes=0)
    pixels = {name: data for name, data in contents(cesm.parent / "backwards").items() if name.endswith(".png")}
    assert pixels == {name: data for name, data in contents(out).items() if name.endswith(".png")}


@pytest.mark.slow
def test_a_killed_run_is_taken_up_and_ends_like_an_undisturbed_one(cesm, prepared):
    out = cesm.parent / "killed"
    command = [
        sys.executable,
        "-m",
        "monai_mammo.cli",
        "prepare",
        "cdd-cesm",
        str(cesm),
        str(out),
        "--processes",
        "2",
        "--no-audit",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list((out / ".state").glob("*.json"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers)), "the workers outlive their parent"
    done = {file: file.stat().st_mtime_ns for file in (out / ".state").glob("*.json")}
    assert 0 < len(done) < len(list((prepared / ".state").glob("*.json")))
    assert not (out / "prepared.json").exists()
    prepare(cdd_cesm, cesm, out, processes=0)
    assert contents(out).keys() >= contents(prepared).keys()
    assert {name: data for name, data in contents(out).items() if not name.endswith(".part")} == contents(prepared)
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in done.items())


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.is_file() else []


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
def test_a_job_that_kills_its_process_takes_no_other_with_it():
    harmless, deadly = signal.SIGCHLD, signal.SIGKILL
    jobs = [harmless, deadly, harmless, harmless, harmless]
    ended = list(run(signal.raise_signal, jobs, processes=2))
    assert sorted(ended, key=str) == sorted([(deadly, DIED), *[(harmless, "")] * 4], key=str)


@pytest.mark.slow
def test_an_image_that_kills_its_process_is_a_defect_and_the_others_are_prepared(cesm, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\ndef read(image):\n    os._exit(9)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import deadly  # type: ignore[import-not-found]

    listed = cdd_cesm.images(cesm, [])
    listed[2] = replace(listed[2], read=deadly.read)
    module = SimpleNamespace(NAME="deadly", LICENCE="", images=lambda source, defects: listed)
    result = prepare(module, cesm, tmp_path / "out", task="quality", processes=2)
    assert [defect for defect in result.defects if defect.reason == DIED] == [
        defect for defect in result.defects if defect.file == listed[2].image
    ]
    assert sum(result.counts["quality"].values()) == 2 * (len(listed) - 1)


def test_an_image_that_was_damaged_is_tried_again(copy, tmp_path):
    image = sorted((copy / "images").iterdir())[0]
    good, stamp = image.read_bytes(), image.stat()
    image.write_bytes(b"\0" * len(good))
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    out = tmp_path / "out"
    assert any(defect.file == image for defect in prepare(cdd_cesm, copy, out, task="quality", processes=0).defects)
    image.write_bytes(good)
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert not any(defect.file == image for defect in prepare(cdd_cesm, copy, out, task="quality", processes=0).defects)


def test_another_seed_or_data_set_into_the_same_folder_is_refused(cesm, prepared, tmp_path):
    before = contents(prepared)
    with pytest.raises(MammogramError, match=r"prepared from CDD-CESM with seed 0\. Give a new folder"):
        prepare(cdd_cesm, cesm, prepared, seed=1, processes=0)
    other = SimpleNamespace(NAME="other", LICENCE="", images=cdd_cesm.images)
    with pytest.raises(MammogramError, match="prepared from CDD-CESM"):
        prepare(other, cesm, prepared, processes=0)
    assert contents(prepared) == before


def test_another_folder_of_the_same_kind_does_not_replace_what_was_prepared(copy, tmp_path):
    """Its files may have the names of the other's; a folder that was renamed and grew is still the same."""
    out, renamed = tmp_path / "out", tmp_path / "renamed"
    prepare(cdd_cesm, copy, out, task="quality", processes=0)
    before = contents(out)
    copy.rename(renamed)
    listed = cdd_cesm.images(renamed, [])
    others = [replace(image, patient=f"other-{image.patient}") for image in listed]
    for images in (others, others[:3]):
        module = SimpleNamespace(NAME=cdd_cesm.NAME, LICENCE="", images=lambda *_, images=images: images)
        with pytest.raises(MammogramError, match="from the folder 'cesm', of which no image is left in 'renamed'"):
            prepare(module, renamed, out, task="quality", processes=0)
    assert contents(out) == before
    mixed = SimpleNamespace(NAME=cdd_cesm.NAME, LICENCE="", images=lambda *_: [*listed[:4], *others[4:]])
    prepare(mixed, renamed, out, task="quality", processes=0)
    assert {entry["patient"] for entry in entries(out, "quality")} >= {image.patient for image in listed[:4]}
