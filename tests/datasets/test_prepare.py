"""Preparation as its user meets it: a data set with its defects in, datalists out, killed and run again."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from monai_mammo.cli import app
from monai_mammo.datasets import cdd_cesm, mini_mias
from monai_mammo.datasets.datalist import SECTIONS, load_datalist
from monai_mammo.datasets.lesions import LEAST_LESION, place
from monai_mammo.datasets.phantom import read_truth
from monai_mammo.datasets.pool import DIED, run
from monai_mammo.datasets.prepare import prepare
from monai_mammo.datasets.sources import SourceImage
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram, read_mask

LISTS = ("segmentation_roi", "segmentation_whole", "segmentation_crops", "quality")


@pytest.fixture(scope="session")
def cesm(phantoms, tmp_path_factory) -> Path:
    """A replica of CDD-CESM's tree from up to two complete phantoms a patient; tests must not write into it."""
    source = tmp_path_factory.mktemp("replica") / "cesm"
    for name in ("images", "masks"):
        (source / name).mkdir(parents=True)
    columns = ["file", "patient", "side", "kind", "view", "mask_fraction", "Age", "Breast density (ACR)", "BIRADS"]
    columns += ["Findings", "Tags", "Pathology Classification/ Follow up"]
    with (source / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        complete = [truth for truth in read_truth(phantoms) if truth.complete]
        by_patient = [[truth for truth in complete if truth.patient == one] for one in {t.patient: 0 for t in complete}]
        for truth in (truth for some in by_patient for truth in some[:2]):
            name = f"{truth.patient}_{truth.laterality}_DM_{truth.view}"
            grey = np.round(read_mammogram(phantoms / truth.file).pixels * 255).astype(np.uint8)
            Image.fromarray(grey).save(source / "images" / f"{name}.jpg", quality=95)
            union = np.zeros(grey.shape, dtype=np.uint8)
            masks = [read_mask(phantoms / lesion.mask) for lesion in truth.lesions]
            masks = [mask for mask in masks if mask.sum() >= LEAST_LESION]
            for mask in masks:
                union |= mask * np.uint8(255)
            Image.fromarray(union).save(source / "masks" / f"{name}.png")
            finding, result = ("Irregular mass", "Malignant") if masks else ("", "Normal")
            row = {"file": f"{name}.jpg", "patient": truth.patient, "side": truth.laterality, "kind": "DM"}
            row |= {"view": truth.view, "Breast density (ACR)": "_", "BIRADS": "5$3", "Findings": finding}
            writer.writerow(row | {"Pathology Classification/ Follow up": result})
    return source


@pytest.fixture(scope="session")
def prepared(cesm, tmp_path_factory) -> Path:
    """What `prepare` makes of the replica; tests must not write into it."""
    out = cesm.parent / "prepared"
    prepare(cdd_cesm, cesm, out, processes=0)
    return out


@pytest.fixture
def copy(cesm, tmp_path) -> Path:
    """A replica of one's own."""
    return Path(shutil.copytree(cesm, tmp_path / "cesm"))


def contents(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def times(out: Path) -> dict[str, int]:
    return {file.relative_to(out).as_posix(): file.stat().st_mtime_ns for file in out.rglob("*.png")}


def entries(out: Path, name: str) -> list[dict]:
    document = json.loads((out / name / "dataset.json").read_text())
    return [entry for section in SECTIONS for entry in document[section]]


def test_every_list_has_the_same_patients_on_the_same_side(prepared):
    sections: dict[str, set[str]] = {}
    for name in LISTS:
        document = json.loads((prepared / name / "dataset.json").read_text())
        for section in SECTIONS:
            for entry in document[section]:
                sections.setdefault(entry["patient"], set()).add(section)
    assert len(sections) == 6
    assert all(len(where) == 1 for where in sections.values())


def test_the_bundles_can_load_every_section(prepared):
    for name in LISTS:
        assert all(load_datalist(prepared / name, section) for section in SECTIONS)


def test_a_lesion_has_its_mask_its_box_and_the_image_as_it_was_downloaded(prepared, cesm):
    lesions = entries(prepared, "segmentation_roi")
    assert lesions
    for entry in lesions:
        folder = prepared / "segmentation_roi"
        image, mask = folder / entry["image"], read_mask(folder / entry["label"])
        assert image.resolve().parent == cesm / "images"
        rows, columns = np.nonzero(mask)
        assert entry["box"] == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        outline = read_mask(cesm / "masks" / f"{image.stem}.png")
        assert (outline[mask > 0] == 1).all()
        assert {"patient", "laterality", "view", "birads", "kind", "pathology"} <= set(entry)


def test_a_whole_images_label_is_all_its_lesions_and_a_normal_ones_is_empty(prepared, cesm):
    empty = 0
    for entry in entries(prepared, "segmentation_whole"):
        label = read_mask(prepared / "segmentation_whole" / entry["label"])
        np.testing.assert_array_equal(label, read_mask(cesm / "masks" / f"{Path(entry['image']).stem}.png"))
        empty += not label.any()
    assert 0 < empty < len(entries(prepared, "segmentation_whole"))


def test_a_crop_leads_back_to_the_original_pixels(prepared, cesm):
    whole = {entry["label"].split("/")[-1]: entry for entry in entries(prepared, "segmentation_roi")}
    crops = entries(prepared, "segmentation_crops")
    assert len(crops) == len(whole)
    for entry in crops:
        folder, region, size = prepared / "segmentation_crops", entry["region"], entry["source_size"]
        pixels = read_mammogram(cesm / entry["source"]).pixels
        assert list(pixels.shape) == size
        cut = read_mammogram(folder / entry["image"]).pixels
        np.testing.assert_allclose(
            cut, pixels[region[0] : region[2], region[1] : region[3]], atol=1 / 65535, err_msg=entry["image"]
        )
        mask = read_mask(folder / entry["label"])
        original = whole[Path(entry["label"]).name.replace("_mask", "")]
        back = place(mask, region, size)
        np.testing.assert_array_equal(back, read_mask(prepared / "segmentation_roi" / original["label"]))
        corner = [region[0], region[1]] * 2
        assert [side + start for side, start in zip(entry["box"], corner, strict=True)] == original["box"]


def test_a_quality_sample_says_what_it_lacks(prepared, cesm):
    samples = entries(prepared, "quality")
    assert {entry["label"] for entry in samples} == {0, 1}
    for entry in samples:
        with Image.open(prepared / "quality" / entry["image"]) as picture:
            assert (picture.mode, picture.size) == ("L", (512, 512))
        assert (cesm / entry["source"]).is_file()
        assert {"patient", "laterality", "view", "cause", "side", "codes", "lost"} <= set(entry)
        assert "spacing" not in entry
        assert bool(entry["label"]) == bool(entry["cause"]) == (entry["lost"] > 0) == bool(entry["codes"])


def test_the_summary_names_no_folder_of_this_machine(prepared, cesm):
    text = (prepared / "prepared.json").read_text()
    summary = json.loads(text)
    assert str(cesm.parent) not in text
    assert (summary["data_set"], summary["source"]) == ("CDD-CESM", "cesm")
    assert set(summary["counts"]) == set(LISTS)
    assert sum(summary["counts"]["quality"].values()) == len(entries(prepared, "quality"))


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


def test_bad_files_end_in_lines_that_name_file_and_reason(copy, tmp_path):
    images, masks = sorted((copy / "images").iterdir()), copy / "masks"
    images[0].write_bytes(images[0].read_bytes()[:400])
    images[1].write_text("no image")
    images[2].unlink()
    with_lesion = [file for file in images[3:] if read_mask(masks / f"{file.stem}.png").any()]
    (masks / f"{with_lesion[0].stem}.png").unlink()
    Image.fromarray(np.full((320, 128), 255, np.uint8)).save(masks / f"{with_lesion[1].stem}.png")
    shutil.copy(images[-1], masks / f"{with_lesion[2].stem}.png")
    result = CliRunner().invoke(
        app, ["prepare", "cdd-cesm", str(copy), str(tmp_path / "out"), "--processes", "0"], env={"COLUMNS": "400"}
    )
    assert "Traceback" not in result.output
    lines = result.output.splitlines()
    for file, reason in (
        (images[0], "damaged or unreadable"),
        (images[1], "neither DICOM nor PNG"),
        (images[2], "does not exist"),
        (masks / f"{with_lesion[0].stem}.png", "does not exist"),
        (masks / f"{with_lesion[1].stem}.png", "another aspect ratio"),
        (masks / f"{with_lesion[2].stem}.png", "grey levels"),
    ):
        assert any(line.startswith(str(file)) and reason in line for line in lines), (file, reason)
    known = json.loads((tmp_path / "out" / "prepared.json").read_text())["defects"]
    assert {"file": f"images/{images[1].name}", "action": "left out"}.items() <= {
        key: value
        for defect in known
        if images[1].name in defect["file"]
        for key, value in defect.items()
        if key != "reason"
    }.items()


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


def test_unusable_places_are_refused(cesm, tmp_path):
    with pytest.raises(MammogramError, match="inside the data set"):
        prepare(cdd_cesm, cesm, cesm / "prepared", processes=0)
    with pytest.raises(MammogramError, match="no such folder"):
        prepare(cdd_cesm, tmp_path / "gone", tmp_path / "out", processes=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(MammogramError, match="it is a file"):
        prepare(cdd_cesm, cesm, tmp_path / "file", processes=0)
    result = CliRunner().invoke(app, ["prepare", "cdd-cesm", str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "error:" in result.output


def module_of(*images: SourceImage) -> SimpleNamespace:
    return SimpleNamespace(NAME="stub", LICENCE="", images=lambda source, defects: list(images))


def halved(image: Path) -> np.ndarray:
    return read_mammogram(image).pixels / 2


def test_an_image_that_only_its_module_can_read_is_written_without_loss(cesm, tmp_path):
    listed = [replace(image, read=halved) for image in cdd_cesm.images(cesm, []) if image.lesions]
    prepare(module_of(*listed), cesm, tmp_path / "out", task="segmentation", processes=0)
    for entry in entries(tmp_path / "out", "segmentation_whole"):
        image = tmp_path / "out" / "segmentation_whole" / entry["image"]
        assert image.resolve().parent == tmp_path / "out" / "images"
        (source,) = [one.image for one in listed if one.image.stem in image.stem]
        np.testing.assert_allclose(read_mammogram(image).pixels, halved(source), atol=1 / 65535)


def test_without_an_outline_and_not_called_normal_an_image_is_left_out(cesm, tmp_path):
    listed = [replace(image, normal=False) for image in cdd_cesm.images(cesm, [])]
    result = prepare(module_of(*listed), cesm, tmp_path / "out", task="segmentation", processes=0)
    missing = [image.image for image in listed if not image.lesions]
    assert missing
    assert [defect.file for defect in result.defects if "not said to be normal" in defect.reason] == missing


def test_an_image_one_of_whose_lesions_is_lost_has_no_whole_image_label(cesm, tmp_path):
    listed = cdd_cesm.images(cesm, [])
    with_lesion = next(image for image in listed if image.lesions)
    lost = replace(with_lesion.lesions[0], masks=(cesm / "masks" / "gone.png",))
    index = listed.index(with_lesion)
    listed[index] = replace(with_lesion, lesions=(*with_lesion.lesions, lost))
    out = tmp_path / "out"
    result = prepare(module_of(*listed), cesm, out, task="segmentation", processes=0)
    name = with_lesion.image.name
    assert any(Path(entry["image"]).name == name for entry in entries(out, "segmentation_roi"))
    assert not any(Path(entry["image"]).name == name for entry in entries(out, "segmentation_whole"))
    assert any("1 of its 2 lesions have no usable outline" in defect.reason for defect in result.defects)


def test_patients_on_both_official_sides_train_nothing(cesm, tmp_path):
    listed = cdd_cesm.images(cesm, [])
    patients = sorted({image.patient for image in listed})
    sides = {patient: "test" if patient in patients[:2] else "training" for patient in patients}
    official = [replace(image, split=sides[image.patient]) for image in listed]
    double = next(index for index, image in enumerate(official) if image.split == "test")
    official[double] = replace(official[double], split="training")
    result = prepare(module_of(*official), cesm, tmp_path / "out", task="quality", processes=0)
    (defect,) = [defect for defect in result.defects if "official test set, too" in defect.reason]
    assert defect.file == official[double].image
    document = json.loads((tmp_path / "out" / "quality" / "dataset.json").read_text())
    assert {entry["patient"] for entry in document["test"]} <= set(patients[:2])
    assert not {entry["patient"] for entry in document["training"] + document["validation"]} & set(patients[:2])


def test_an_image_listed_twice_counts_once(cesm, tmp_path):
    listed = cdd_cesm.images(cesm, [])
    result = prepare(module_of(*listed, listed[0]), cesm, tmp_path / "out", task="quality", processes=0)
    assert any(defect.reason == "the data set lists it twice" for defect in result.defects)
    assert len(entries(tmp_path / "out", "quality")) == 2 * len(listed)


def test_the_paper_protocol_says_that_it_leaks_and_how_much(cesm, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["prepare", "cdd-cesm", str(cesm), str(out), "--protocol", "paper", "--processes", "0"]
    )
    assert result.exit_code == 0, result.output
    lesions = len({entry["original"] for entry in entries(out, "segmentation_paper")})
    originals = len({entry["original"] for entry in entries(out, "quality_paper")})
    assert len(entries(out, "segmentation_paper")) == 13 * lesions
    assert len(entries(out, "quality_paper")) == 2 * round(originals * 500 / 325)
    for name in ("segmentation_paper", "quality_paper"):
        document = json.loads((out / name / "dataset.json").read_text())
        assert document["description"].startswith("this protocol leaks: ")
        assert document["description"] in result.output.replace("\n", "")
        seen = {entry["original"] for entry in document["training"]}
        share = np.mean([entry["original"] in seen for entry in document["validation"]])
        assert document["leak"]["same_original"] == pytest.approx(share)
        for entry in document["training"]:
            assert (out / name / entry["image"]).is_file()


def test_nothing_usable_is_an_error_with_reasons_and_no_datalist(cesm, tmp_path):
    listed = [replace(image, view="ML") for image in cdd_cesm.images(cesm, [])]
    result = prepare(module_of(*listed), cesm, tmp_path / "out", task="quality", processes=0)
    assert not result.datalists
    assert not (tmp_path / "out" / "quality" / "dataset.json").exists()
    assert sum("neither CC nor MLO" in defect.reason for defect in result.defects) == len(listed)


def test_real_samples_are_prepared(samples, tmp_path):
    source = tmp_path / "cesm"
    for name in ("images", "masks"):
        (source / name).mkdir(parents=True)
    rows = (samples / "cdd-cesm" / "index.csv").read_text().splitlines(keepends=True)
    chosen = [row for row in rows[1:] if ",DM," in row][:24]
    (source / "index.csv").write_text(rows[0] + "".join(chosen))
    for row in chosen:
        name = row.split(",")[0]
        shutil.copy(samples / "cdd-cesm" / "images" / name, source / "images" / name)
        mask = f"{Path(name).stem}.png"
        shutil.copy(samples / "cdd-cesm" / "masks" / mask, source / "masks" / mask)
    result = prepare(cdd_cesm, source, tmp_path / "out", processes=0)
    left_out = sum(defect.action == "left out of segmentation" for defect in result.defects)
    assert sum(result.counts["segmentation_whole"].values()) + left_out == 24
    cut_already = sum(defect.action == "left out of quality" for defect in result.defects)
    assert sum(result.counts["quality"].values()) == 2 * (24 - cut_already)


def test_real_films_without_outlines_are_prepared_for_quality_only(samples, tmp_path):
    source = tmp_path / "mias"
    source.mkdir()
    shutil.copy(samples / "mini-mias" / "Info.txt", source)
    for number in range(1, 13):
        shutil.copy(samples / "mini-mias" / f"mdb{number:03d}.png", source)
    with pytest.raises(MammogramError, match="no lesion is outlined"):
        prepare(mini_mias, source, tmp_path / "out", task="segmentation", processes=0)
    result = prepare(mini_mias, source, tmp_path / "out", processes=0)
    assert list(result.counts) == ["quality"]
    assert sum("does not exist" in defect.reason for defect in result.defects) == 322 - 12
