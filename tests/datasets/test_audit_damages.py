"""Each damage that data can have is found once, with the files that it concerns and how bad it is."""

import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont

from monai_mammo.datasets.audit import audit

from .conftest import COLUMNS, ROWS, Damage, found, only


def missing_image(d):
    entry = d.entry()
    d.path(entry).unlink()
    return {d.relative(entry)}


def missing_mask(d):
    entry = d.entry()
    d.path(entry, "label").unlink()
    return {d.relative(entry, "label")}


def truncated_file(d):
    path = d.path(d.entry())
    path.write_bytes(path.read_bytes()[:5000])
    return {d.relative(d.entry())}


def text_as_mask(d):
    d.path(d.entry(), "label").write_text("no mask")
    return {d.relative(d.entry(), "label")}


def blank_image(d):
    return d.replace(d.entry(), np.zeros((ROWS, COLUMNS)))


def copy_in_its_split(d):
    entry = d.entry()
    shutil.copy(d.path(entry), d.out / "copy.dcm")
    d.document["training"].append({**entry, "image": "../copy.dcm"})
    return {d.relative(entry), "copy.dcm"}


def copy_in_another_split(d):
    entry = d.entry()
    shutil.copy(d.path(entry), d.out / "copy.dcm")
    d.document["test"].append({**entry, "image": "../copy.dcm", "patient": "somebody else"})
    return {d.relative(entry), "copy.dcm"}


def one_file_in_two_splits(d):
    entry = d.entry()
    d.document["test"].append({**entry, "patient": "somebody else"})
    return {d.relative(entry)}


def saved_again(d):
    """Half the size, brighter, JPEG."""
    entry = d.entry()
    half = Image.fromarray((d.pixels(entry) ** 0.8 * 255).astype(np.uint8)).resize((COLUMNS // 2, ROWS // 2))
    half.save(d.out / "again.jpg", quality=60)
    d.document["test"].append({**entry, "image": "../again.jpg", "patient": "somebody else"})
    return {d.relative(entry), "again.jpg"}


def saved_mirrored(d):
    entry = d.entry(laterality="L")
    fresh = {**entry, "patient": "somebody else", "laterality": "R"}
    names = d.replace(fresh, d.pixels(entry)[:, ::-1], "mirrored.png")
    d.document["training"].append(fresh)
    return {d.relative(entry), *names}


def patient_in_two_splits(d):
    moved = d.document["training"].pop(0)
    d.document["test"].append(moved)
    patient = moved["patient"]
    entries = d.document["training"] + d.document["test"]
    return {d.relative(entry) for entry in entries if entry["patient"] == patient}


def nameless_patient(d):
    entry = d.entry()
    del entry["patient"]
    return {d.relative(entry)}


def one_name_an_image(d):
    """As in a table that numbers its images: the split then leaks."""
    patient = d.entry()["patient"]
    entries = [entry for entry in d.document["training"] if entry["patient"] == patient]
    d.document["training"].remove(entries[0])
    d.document["test"].append(entries[0])
    for number, entry in enumerate(entries):
        entry["patient"] = f"image {number}"
    return {d.relative(entry) for entry in entries}


def one_name_written_in_two_ways(d):
    patient = d.entry()["patient"]
    d.entry()["patient"] = patient.upper()
    return {d.relative(entry) for entry in d.document["training"] if entry["patient"].lower() == patient}


def repeated_entry(d):
    d.document["training"].append(dict(d.entry()))
    return {d.relative(d.entry())}


def empty_mask(d):
    return d.put_mask(d.entry(), np.zeros((ROWS, COLUMNS)))


def mask_in_the_air(d):
    entry = d.entry(laterality="L", view="CC")
    mask = np.zeros((ROWS, COLUMNS))
    mask[20:60, -50:-10] = 255
    entry["box"] = [20, COLUMNS - 50, 60, COLUMNS - 10]
    return d.put_mask(entry, mask)


def mask_of_another_size(d):
    return d.put_mask(d.entry(), d.mask(d.entry())[:-10])


def crop_as_mask(d):
    return d.put_mask(d.entry(), d.pixels(d.entry())[100:200, 100:200] * 255)


def mask_of_the_whole_image(d):
    return d.put_mask(d.entry(), np.full((ROWS, COLUMNS), 255))


def unnamed_mask_value(d):
    return d.put_mask(d.entry(), np.where(d.mask(d.entry()) > 0, 2, 0))


def unnamed_label(d):
    d.entry()["label"] = 7
    return {d.relative(d.entry())}


def absent_label(d):
    del d.entry()["label"]
    return {d.relative(d.entry())}


def box_with_columns_first(d):
    entry = d.entry()
    row0, column0, row1, column1 = entry["box"]
    entry["box"] = [column0, row0, column1, row1]
    return {d.relative(entry), d.relative(entry, "label")}


def box_too_large(d):
    entry = d.entry()
    row0, column0, row1, column1 = entry["box"]
    entry["box"] = [row0, column0, row1 + 4, column1]
    return {d.relative(entry), d.relative(entry, "label")}


def box_of_text(d):
    entry = d.entry()
    entry["box"] = ["a", "b"]
    return {d.relative(entry), d.relative(entry, "label")}


def mirrored_image(d):
    entry = d.entry(label=0, laterality="L")
    return d.replace(entry, d.pixels(entry)[:, ::-1])


def wrong_view(d):
    entry = d.entry(view="CC")
    entry["view"] = "MLO"
    return {d.relative(entry)}


def cc_called_mlo(d):
    entry = d.entry(label=0, view="CC")
    names = d.replace(entry, d.pixels(entry))
    entry["view"] = "MLO"
    return names


def mlo_called_cc(d):
    entry = d.entry(label=0, view="MLO")
    names = d.replace(entry, d.pixels(entry))
    entry["view"] = "CC"
    return names


def inverted_image(d):
    return d.replace(d.entry(), 1 - d.pixels(d.entry()))


def declared_annotation(d):
    path = d.path(d.entry())
    dataset = pydicom.dcmread(path)
    dataset.BurnedInAnnotation = "YES"
    dataset.save_as(path)
    return {d.relative(d.entry())}


def film_label(d):
    entry = d.entry(label=0, laterality="L", view="CC")
    picture = Image.fromarray((d.pixels(entry) * 255).astype(np.uint8))
    ImageDraw.Draw(picture).text((COLUMNS - 90, 8), "R CC 17", 255, ImageFont.load_default(size=18))
    return d.replace(entry, np.asarray(picture) / 255)


def spacing_in_centimetres(d):
    names = d.replace(d.entry(), d.pixels(d.entry()))
    d.entry()["spacing"] = [0.007, 0.007]
    return names


def oblong_pixels(d):
    names = d.replace(d.entry(), d.pixels(d.entry()))
    d.entry()["spacing"] = [0.5, 0.4]
    return names


def spacing_of_another_scale(d):
    names = d.replace(d.entry(), d.pixels(d.entry()))
    d.entry()["spacing"] = [0.07, 0.07]
    return names


def absent_spacing(d):
    names = d.replace(d.entry(), d.pixels(d.entry()))
    del d.entry()["spacing"]
    return names


def spacing_unlike_header(d):
    d.entry()["spacing"] = [0.4, 0.4]
    return {d.relative(d.entry())}


def entry_without_image(d):
    d.document["training"].append({"label": 0})
    return {"quality/dataset.json"}


DAMAGES = [
    ("quality", missing_image, "missing", "error"),
    ("segmentation_roi", missing_mask, "missing", "error"),
    ("quality", truncated_file, "undecodable", "error"),
    ("segmentation_roi", text_as_mask, "undecodable", "error"),
    ("quality", blank_image, "blank", "error"),
    ("quality", copy_in_its_split, "duplicate", "warning"),
    ("quality", copy_in_another_split, "duplicate", "error"),
    ("quality", one_file_in_two_splits, "duplicate", "error"),
    ("quality", saved_again, "near-duplicate", "error"),
    ("quality", saved_mirrored, "near-duplicate", "warning"),
    ("quality", patient_in_two_splits, "patient-splits", "error"),
    ("quality", nameless_patient, "no-patient", "error"),
    ("quality", one_name_an_image, "patient-header", "error"),
    ("quality", one_name_written_in_two_ways, "patient-header", "warning"),
    ("quality", repeated_entry, "repeated", "warning"),
    ("segmentation_roi", empty_mask, "mask-empty", "error"),
    ("segmentation_roi", mask_in_the_air, "mask-outside", "error"),
    ("segmentation_whole", mask_of_another_size, "mask-size", "error"),
    ("segmentation_roi", crop_as_mask, "mask-swapped", "error"),
    ("segmentation_roi", mask_of_the_whole_image, "mask-swapped", "error"),
    ("segmentation_roi", unnamed_mask_value, "label", "error"),
    ("quality", unnamed_label, "label", "error"),
    ("quality", absent_label, "label", "error"),
    ("segmentation_roi", box_with_columns_first, "box", "error"),
    ("segmentation_roi", box_too_large, "box", "warning"),
    ("segmentation_roi", box_of_text, "box", "error"),
    ("quality", mirrored_image, "laterality", "warning"),
    ("quality", wrong_view, "header", "warning"),
    ("quality", cc_called_mlo, "view", "warning"),
    ("quality", mlo_called_cc, "view", "warning"),
    ("quality", inverted_image, "inverted", "error"),
    ("quality", declared_annotation, "burned-in", "warning"),
    ("quality", film_label, "lettering", "note"),
    ("quality", spacing_in_centimetres, "spacing", "warning"),
    ("quality", oblong_pixels, "spacing", "warning"),
    ("quality", spacing_of_another_scale, "spacing", "warning"),
    ("quality", absent_spacing, "spacing-unknown", "warning"),
    ("quality", spacing_unlike_header, "header", "warning"),
    ("quality", entry_without_image, "datalist", "error"),
]


@pytest.mark.parametrize(
    ("name", "spoil", "check", "severity"), DAMAGES, ids=[spoil.__name__ for _, spoil, _, _ in DAMAGES]
)
def test_a_damage_is_found_once_with_its_files_and_severity(clean, before, tmp_path, name, spoil, check, severity):
    damage = Damage(only(clean, name, tmp_path), name)
    files = spoil(damage)
    damage.save()
    result = audit(tmp_path, processes=0)
    (new,) = found(result) - before[name]
    assert (new[0], new[1]) == (check, severity)
    assert new[3] == files
    assert result.safe == (severity != "error")
