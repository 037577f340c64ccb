"""CDD-CESM: what of its index becomes an image or a lesion, and what a defect. Nothing is decoded."""

import csv
from pathlib import Path

import numpy as np
import pytest

from monai_mammo.datasets import cdd_cesm
from monai_mammo.datasets.pieces import segmentation
from monai_mammo.datasets.work import subjects
from monai_mammo.dicom.errors import MammogramError

COLUMNS = ["file", "patient", "side", "kind", "view", "Breast density (ACR)", "BIRADS", "Findings", "Tags"]
RESULT = "Pathology Classification/ Follow up"


def row(name: str, findings: str = "Irregular mass", result: str = "Malignant", **other: str) -> dict[str, str]:
    patient, side, kind, view = name.split("_")
    known = {"file": f"{name}.jpg", "patient": patient, "side": side, "kind": kind, "view": view}
    return (
        known | {"Breast density (ACR)": "C", "BIRADS": "4", "Findings": findings, "Tags": "", RESULT: result} | other
    )


def replica(folder: Path, rows: list[dict[str, str]], columns: list[str] = [*COLUMNS, RESULT]) -> Path:  # noqa: B006
    for name in ("images", "masks"):
        (folder / name).mkdir()
    with (folder / "index.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    for one in rows:
        (folder / "images" / one["file"]).write_bytes(b"")
        (folder / "masks" / one["file"]).with_suffix(".png").write_bytes(b"")
    return folder


def test_low_energy_images_are_listed_and_subtracted_ones_are_not(tmp_path):
    source = replica(tmp_path, [row("P1_L_DM_CC"), row("P1_L_CM_CC"), row("P2_R_DM_MLO", BIRADS="5$3")])
    defects = []
    first, second = cdd_cesm.images(source, defects)
    assert not defects
    assert (first.image, first.patient, first.laterality, first.view) == (
        source / "images" / "P1_L_DM_CC.jpg",
        "P1",
        "L",
        "CC",
    )
    assert (second.birads, second.density, second.laterality, second.view) == ("5", "C", "R", "MLO")


def test_a_mask_is_a_union_of_masses_and_other_findings_masks_are_no_lesions(tmp_path):
    rows = [row("P1_L_DM_CC"), row("P2_L_DM_CC", "Skin thickening"), row("P3_L_DM_CC", "", Tags="malignant Mass")]
    mass, skin, tagged = cdd_cesm.images(replica(tmp_path, rows), [])
    (lesion,) = mass.lesions
    assert lesion.union
    assert lesion.masks == (tmp_path / "masks" / "P1_L_DM_CC.png",)
    assert not skin.lesions
    assert not skin.normal
    assert tagged.lesions


def test_pathology_is_what_the_column_says_and_unknown_without_it(tmp_path):
    rows = [row("P1_L_DM_CC"), row("P2_L_DM_CC", result="Benign ")]
    for name, columns, said in (("with", [*COLUMNS, RESULT], ["malignant", "benign"]), ("without", COLUMNS, ["", ""])):
        (tmp_path / name).mkdir()
        found = cdd_cesm.images(replica(tmp_path / name, rows, columns), [])
        assert [image.lesions[0].pathology for image in found] == said


def test_a_mask_of_another_finding_is_not_called_a_missing_outline(tmp_path):
    rows = [row("P1_L_DM_CC", "Skin thickening", Tags="edema"), row("P2_L_DM_CC", "", "Normal"), row("P3_L_DM_CC", "")]
    source = replica(tmp_path, rows)
    (source / "masks" / "P3_L_DM_CC.png").unlink()
    skin, normal, bare = cdd_cesm.images(source, [])
    assert skin.attributes == {"outlined": "Skin thickening; edema"}
    assert normal.attributes == bare.attributes == {}
    reasons = []
    for image in (skin, bare):
        (subject,) = subjects([image], source, tmp_path / "out", 0, 0.2)
        (defect,) = segmentation(subject, np.zeros((8, 8), dtype=np.float32)).defects
        reasons.append(defect.reason)
    assert reasons == [
        "what is outlined on it is not said to be a mass",
        "it has no outline and is not said to be normal",
    ]


def test_normal_is_what_the_pathology_column_says(tmp_path):
    rows = [row("P1_L_DM_CC", "", "Normal"), row("P2_L_DM_CC", "", "Benign")]
    assert [image.normal for image in cdd_cesm.images(replica(tmp_path, rows), [])] == [True, False]


def test_missing_files_are_defects(tmp_path):
    source = replica(tmp_path, [row("P1_L_DM_CC"), row("P2_L_DM_CC")])
    (source / "images" / "P1_L_DM_CC.jpg").unlink()
    (source / "masks" / "P2_L_DM_CC.png").unlink()
    defects = []
    (image,) = cdd_cesm.images(source, defects)
    assert (image.patient, image.lesions) == ("P2", ())
    assert [defect.file.name for defect in defects] == ["P1_L_DM_CC.jpg", "P2_L_DM_CC.png"]


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(MammogramError, match=r"index\.csv has the columns file, patient, .* masks a PNG"):
        cdd_cesm.images(tmp_path, [])
    replica(tmp_path, [row("P1_L_DM_CC")], COLUMNS[:5])
    with pytest.raises(MammogramError, match=r"no column 'Findings'.*made from what TCIA publishes"):
        cdd_cesm.images(tmp_path, [])


def test_the_real_sample(samples):
    defects = []
    images = cdd_cesm.images(samples / "cdd-cesm", defects)
    assert (len(images), len({image.patient for image in images})) == (265, 142)
    assert not defects
    assert sum(bool(image.lesions) for image in images) == 150
