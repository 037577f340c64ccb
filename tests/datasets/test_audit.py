"""The audit finds each damage once, names its files, says how bad it is, and is content with clean data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from monai_mammo.cli import app
from monai_mammo.datasets.audit import VERSION, audit, write_audit
from monai_mammo.datasets.audit_catalogue import CHECKS, SEVERITIES
from monai_mammo.datasets.audit_copies import near_pairs
from monai_mammo.datasets.audit_pixels import Job, Measure, measure
from monai_mammo.datasets.phantom import quality_datalist, segmentation_datalist, write_phantoms
from monai_mammo.dicom.errors import MammogramError
from monai_mammo.dicom.reader import read_mammogram

ROWS, COLUMNS = 480, 352
LISTS = ("segmentation_roi", "segmentation_whole", "quality")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Four phantom patients, 0.5 mm, a third of the images incomplete: as `prepare` leaves a data set."""
    out = tmp_path_factory.mktemp("clean")
    write_phantoms(out, 4, 5, rows=ROWS, columns=COLUMNS)
    segmentation_datalist(out)
    quality_datalist(out)
    return out


@pytest.fixture(scope="module")
def before(clean, tmp_path_factory):
    """What is found in each single clean list."""
    return {name: found(audit(only(clean, name, tmp_path_factory.mktemp(name)), processes=0)) for name in LISTS}


def only(clean, name, out):
    """A copy of the phantoms with one of the lists."""
    shutil.copytree(clean, out, dirs_exist_ok=True)
    for other in set(LISTS) - {name}:
        (out / other / "dataset.json").unlink()
    return out


def found(result):
    """Findings as comparable values; the balance of such small lists changes with every damage."""
    return {
        (finding.check, finding.severity, finding.detail, frozenset(result.name(file) for file in finding.files))
        for finding in result.findings
        if finding.check != "balance"
    }


class Damage:
    """A list of a phantom set and ways to spoil it. File names are relative to the set's folder."""

    def __init__(self, out, name):
        self.out, self.file = out, out / name / "dataset.json"
        self.document = json.loads(self.file.read_text())

    def save(self):
        self.file.write_text(json.dumps(self.document))

    def entry(self, section="training", number=0, **wanted):
        entries = [e for e in self.document[section] if all(e.get(key) == value for key, value in wanted.items())]
        return entries[number]

    def path(self, entry, key="image"):
        return (self.file.parent / entry[key]).resolve()

    def relative(self, entry, key="image"):
        return self.path(entry, key).relative_to(self.out.resolve()).as_posix()

    def pixels(self, entry):
        return read_mammogram(self.path(entry)).pixels

    def replace(self, entry, pixels, name="damaged.png"):
        """Let an entry name an image without a header, with the given pixels in [0, 1]."""
        Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(self.out / name)
        entry["image"] = f"../{name}"
        return {name}

    def mask(self, entry):
        return np.asarray(Image.open(self.path(entry, "label")))

    def put_mask(self, entry, values):
        Image.fromarray(np.asarray(values, np.uint8)).save(self.path(entry, "label"))
        return {self.relative(entry, "label"), self.relative(entry)}


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
    ("quality", nameless_patient, "no-patient", "warning"),
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


def test_clean_phantoms_have_no_error_and_no_warning_but_balance(clean):
    result = audit(clean, processes=0)
    assert result.safe
    assert [f for f in result.findings if f.severity == "warning" and f.check != "balance"] == []
    assert {data.name for data in result.lists} == set(LISTS)


def test_every_image_without_a_lesion_shares_one_note(before):
    empty = [finding for finding in before["segmentation_whole"] if finding[0] == "mask-empty"]
    assert len(empty) == 1
    assert empty[0][1] == "note"


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


def test_a_finding_of_two_lists_is_named_once_with_both(clean, tmp_path):
    shutil.copytree(clean, tmp_path, dirs_exist_ok=True)
    damage = Damage(tmp_path, "segmentation_roi")
    damage.path(damage.entry()).write_bytes(b"not an image")
    (finding,) = [f for f in audit(tmp_path, processes=0).findings if f.severity == "error"]
    assert finding.check == "undecodable"
    assert set(finding.lists) == set(LISTS)


def test_a_patient_on_other_sides_in_another_list_is_a_warning(clean, tmp_path):
    shutil.copytree(clean, tmp_path, dirs_exist_ok=True)
    damage = Damage(tmp_path, "quality")
    damage.document["validation"], damage.document["test"] = damage.document["test"], damage.document["validation"]
    damage.save()
    result = audit(tmp_path, processes=0)
    assert {f.detail.split(" ", 1)[0] for f in result.findings if f.check == "patient-lists"} == {"2"}


def test_a_crop_is_not_judged_as_a_breast(clean, tmp_path):
    damage = Damage(only(clean, "segmentation_roi", tmp_path), "segmentation_roi")
    entry = damage.entry()
    row0, column0, row1, column1 = entry["box"]
    region = [row0 - 3, column0 - 3, row1 + 3, column1 + 3]
    rows, columns = slice(region[0], region[2]), slice(region[1], region[3])
    mask, pixels = damage.mask(entry)[rows, columns], damage.pixels(entry)[rows, columns]
    Image.fromarray(mask).save(damage.path(entry, "label"))
    damage.replace(entry, pixels)
    entry |= {"region": region, "box": [3, 3, row1 - row0 + 3, column1 - column0 + 3]}
    damage.save()
    assert audit(tmp_path, processes=0).safe


def test_a_users_own_datalist_is_audited(clean, tmp_path):
    image = next(clean.rglob("*.dcm"))
    shutil.copy(image, tmp_path / "mine.dcm")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "mine.dcm", "label": 1}]}))
    result = audit(tmp_path, processes=0)
    assert result.safe
    assert [data.name for data in result.lists] == [tmp_path.name]


def test_unreadable_datalists_are_named(tmp_path):
    with pytest.raises(MammogramError, match="no datalist"):
        audit(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    errors = [f for f in audit(tmp_path, processes=0).findings if f.severity == "error"]
    assert [f.check for f in errors] == ["datalist", "split-empty"]


def test_what_the_preparation_left_out_is_in_the_audit(clean, tmp_path):
    only(clean, "quality", tmp_path)
    defects = [{"file": "images/a.dcm", "reason": "the file is empty", "action": "left out", "part": "quality"}]
    (tmp_path / "prepared.json").write_text(json.dumps({"source": "CBIS-DDSM", "defects": defects}))
    result = audit(tmp_path, processes=0)
    (finding,) = [f for f in result.findings if f.check == "prepared"]
    assert (finding.severity, finding.detail) == ("note", "the file is empty; left out")
    assert result.name(finding.files[0]) == "CBIS-DDSM/images/a.dcm"
    (tmp_path / "prepared.json").write_text("[]")
    assert [f.severity for f in audit(tmp_path, processes=0).findings if f.check == "datalist"] == ["warning"]


def test_the_json_has_a_stable_form(clean, tmp_path):
    damage = Damage(only(clean, "quality", tmp_path), "quality")
    damage.document["training"].append(dict(damage.entry()))
    damage.save()
    file, _, result = write_audit(tmp_path, processes=0)
    document = json.loads(file.read_text())
    assert list(document) == ["version", "safe", "counts", "prepared", "lists", "findings", "not_checked"]
    assert (document["version"], document["safe"]) == (VERSION, True) == (1, True)
    assert list(document["counts"]) == list(SEVERITIES)
    (quality,) = document["lists"]
    assert list(quality) == ["name", "file", "splits"]
    training = quality["splits"]["training"]
    assert list(training) == ["entries", "images", "patients", "groups"]
    assert sum(split["entries"] for split in quality["splits"].values()) == 17
    assert sum(training["groups"]["label"].values()) == training["entries"]
    keys = ["check", "severity", "title", "detail", "files", "lists", "explanation", "remedy"]
    assert all(list(finding) == keys and finding["check"] in CHECKS for finding in document["findings"])
    assert len(document["findings"]) == len(result.findings) > 0


def test_the_exit_status_says_whether_training_is_safe(clean, tmp_path):
    only(clean, "quality", tmp_path)
    run = CliRunner().invoke(app, ["audit", str(tmp_path), "--processes", "0"])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "audit.html").is_file()
    assert "audit.html" in run.output.replace("\n", "")
    damage = Damage(tmp_path, "quality")
    damage.entry()["label"] = 7
    damage.save()
    run = CliRunner().invoke(app, ["audit", str(tmp_path), "--processes", "0"])
    assert run.exit_code == 1
    assert CHECKS["label"].title in run.output
    assert CliRunner().invoke(app, ["audit", str(tmp_path / "nowhere")]).exit_code == 1


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


@pytest.mark.slow
def test_processes_find_the_same(clean, before, tmp_path):
    only(clean, "segmentation_roi", tmp_path)
    assert found(audit(tmp_path, processes=2)) == before["segmentation_roi"]


@pytest.mark.slow
def test_real_films_are_clean(samples, tmp_path):
    films = sorted((samples / "mini-mias").glob("mdb*.png"))[:40]
    if not films:
        pytest.skip("no mini-MIAS among the samples")
    entries = [
        {
            "image": str(film),
            "label": 0,
            "patient": f"{(int(film.stem[3:]) + 1) // 2}",
            "laterality": "LR"[int(film.stem[3:]) % 2],
            "spacing": [0.2, 0.2],
        }
        for film in films
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    result = audit(tmp_path)
    assert result.safe
    assert {f.check for f in result.findings if f.severity == "warning"} <= {"balance", "split-empty"}
    assert Path(films[0]) in result.pictures
