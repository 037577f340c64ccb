"""Copies of images: found whatever was done to them, and not seen where two images are only alike."""

import shutil

import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize, rotate

from monai_mammo.datasets.audit import audit
from monai_mammo.datasets.audit_copies import near_pairs
from monai_mammo.datasets.audit_pixels import Job, Measure, measure
from monai_mammo.dicom.reader import read_mammogram

from .conftest import Damage, only


def test_lesions_of_one_image_and_both_breasts_are_no_copies(clean, tmp_path):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    left = damage.entry(laterality="L", view="CC")
    right = damage.entry(laterality="R", view="CC", patient=left["patient"])
    damage.replace(right, damage.pixels(left)[:, ::-1], "other_breast.png")  # as alike as two breasts can be
    second = {**left, "note": "the second lesion of the same image"}
    damage.document["training"].append(second)
    damage.save()
    assert not [
        f for f in audit(tmp_path, processes=0).findings if f.check in ("duplicate", "near-duplicate", "repeated")
    ]


def test_samples_made_from_one_image_are_no_copies_within_their_split(clean, tmp_path):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    entry = damage.entry(label=0)
    entry["source"] = "one.dcm"
    sample = {**entry}
    damage.replace(sample, damage.pixels(entry), "sample.png")
    damage.document["training"].append(sample)
    damage.save()
    assert not [f for f in audit(tmp_path, processes=0).findings if "duplicate" in f.check]


@pytest.mark.parametrize("copied", [False, True])
def test_two_labels_for_one_image_are_an_error(clean, tmp_path, copied):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    entry = damage.entry(label=0)
    other = {**entry, "label": 1}
    if copied:
        shutil.copy(damage.path(entry), tmp_path / "copy.dcm")
        other["image"] = "../copy.dcm"
    damage.document["training"].append(other)
    damage.save()
    (error,) = [finding for finding in audit(tmp_path, processes=0).findings if finding.severity == "error"]
    detail = "one image has the labels 0 (training), 1 (training)"
    assert (error.check, error.detail) == ("label-differs", detail)
    assert {file.resolve() for file in error.files} == {damage.path(entry), damage.path(other)}


def test_copies_are_found_among_thousands():
    generator = np.random.default_rng(0)
    signs = generator.integers(0, 256, (3000, 32), dtype=np.uint8)
    details = generator.integers(-120, 121, (3000, 64, 64), dtype=np.int8)
    signs[2900], details[2900] = signs[7], details[7]
    flipped = np.unpackbits(signs[8]).reshape(16, 16) ^ (np.arange(16) % 2).astype(np.uint8)
    signs[1500], details[1500] = np.packbits(flipped), details[8][:, ::-1]
    details[2901] = details[9]  # alike in one of the two only
    measures = [Measure(signs=s.tobytes(), detail=d.tobytes()) for s, d in zip(signs, details, strict=True)]
    assert near_pairs(measures) == ([(7, 2900)], [(8, 1500)])


def test_the_hash_of_a_mirrored_image_is_known_without_decoding_it(clean, tmp_path):
    pixels = read_mammogram(next(clean.rglob("L_CC.dcm"))).pixels
    files = tmp_path / "one.png", tmp_path / "other.png"
    for file, values in zip(files, (pixels, pixels[:, ::-1]), strict=True):
        Image.fromarray((values * 255).astype(np.uint8)).save(file)
    assert near_pairs([measure(Job(file)) for file in files]) == ([], [(0, 1)])


def signature(pixels, file):
    Image.fromarray(np.round(np.clip(pixels, 0, 1) * 65535).astype(np.uint16)).save(file)
    return measure(Job(file))


def cropped(pixels, share):
    """Without a share of the rows and of the columns, taken from all four sides."""
    rows, columns = (round(share * side / 2) for side in pixels.shape)
    return pixels[rows : len(pixels) - rows, columns : pixels.shape[1] - columns]


CHANGES = {
    "8 bits": lambda pixels: np.round(pixels * 255) / 255,
    "darker": lambda pixels: pixels * 0.6,
    "another gamma": lambda pixels: pixels**1.4,
    "a third of the size": lambda pixels: resize(pixels, [side // 3 for side in pixels.shape], anti_aliasing=True),
    "turned by half a degree": lambda pixels: rotate(pixels, 0.5),
    "cropped by a percent": lambda pixels: cropped(pixels, 0.01),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_is_known_after(change, clean, tmp_path):
    pixels = read_mammogram(next(clean.rglob("L_MLO.dcm"))).pixels
    both = [signature(pixels, tmp_path / "one.png"), signature(change(pixels), tmp_path / "other.png")]
    assert near_pairs(both) == ([(0, 1)], [])


def test_real_films_are_no_copies_of_each_other_and_are_known_when_cropped_a_little(samples, tmp_path):
    """As `audit_catalogue.CORRELATION` says: all but a few cropped by 0.5 % are found, none is taken for another."""
    films = [read_mammogram(file).pixels[::2, ::2] for file in sorted((samples / "mini-mias").glob("mdb*.png"))[:24]]
    if not films:
        pytest.skip("no mini-MIAS among the samples")
    straight, mirrored = near_pairs(
        [signature(pixels, tmp_path / f"{number}.png") for number, pixels in enumerate(films)]
        + [signature(cropped(pixels, 0.006), tmp_path / f"{number}c.png") for number, pixels in enumerate(films)]
    )
    assert mirrored == []
    assert {j - i for i, j in straight} == {len(films)}
    assert len(straight) >= len(films) - 2
