"""What several test files of data sets share: a replica of CDD-CESM, prepared once, and phantoms for the audit."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from monai_mammo.datasets import cdd_cesm
from monai_mammo.datasets.audit import audit
from monai_mammo.datasets.datalist import SECTIONS
from monai_mammo.datasets.lesions import LEAST_LESION
from monai_mammo.datasets.phantom import quality_datalist, read_truth, segmentation_datalist, write_phantoms
from monai_mammo.datasets.prepare import prepare
from monai_mammo.datasets.sources import SourceImage
from monai_mammo.dicom.reader import read_mammogram, read_mask

ROWS, COLUMNS = 480, 352
"""Of the audit's phantoms."""
LISTS = ("segmentation_roi", "segmentation_whole", "quality")
"""That they have."""


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


def module_of(*images: SourceImage) -> SimpleNamespace:
    return SimpleNamespace(NAME="stub", LICENCE="", images=lambda source, defects: list(images))


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """Four phantom patients, 0.5 mm, a third of the images incomplete, as `prepare` leaves data; to be copied."""
    out = tmp_path_factory.mktemp("clean")
    write_phantoms(out, 4, 5, rows=ROWS, columns=COLUMNS)
    segmentation_datalist(out)
    quality_datalist(out)
    return out


@pytest.fixture(scope="session")
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


def area(polygon) -> float:
    """By the shoelace formula, in plain Python."""
    corners = list(polygon)
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return abs(sum(r0 * c1 - r1 * c0 for (r0, c0), (r1, c1) in pairs)) / 2
