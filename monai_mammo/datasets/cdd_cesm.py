"""CDD-CESM (TCIA, CC BY 4.0): low-energy mammograms ("DM") with radiologists' lesion masks.

TCIA publishes images, the polygons in a CSV file of their own and the findings in a spreadsheet. What is read here is
made from these; the benchmarks' copy has images of 512 x 512 pixels, centred and padded with zeros, any size will do:

- `index.csv`, UTF-8, separated by commas, a row an image, with the columns `file` (the image's name, such as
  `P1_L_DM_CC.jpg`), `patient`, `side` (L or R), `kind` (DM or CM), `view` (CC or MLO), and from the spreadsheet
  `Findings`, `Tags`, `BIRADS` and `Breast density (ACR)`. `Pathology Classification/ Follow up` (Normal, Benign or
  Malignant) may be there: without it no image is known to be normal, and no lesion's pathology.
- `images/<file>`: the image, 8 bits.
- `masks/<file without extension>.png`: of the image's size, all its polygons filled with one value other than 0.

The contrast-enhanced, subtracted images ("CM") are no mammograms and are left out. No pixel spacing is known.
"""

from __future__ import annotations

import csv
from pathlib import Path

from monai_mammo.datasets.sources import Defect, SourceImage, SourceLesion
from monai_mammo.dicom.errors import MammogramError

NAME = "CDD-CESM"
LICENCE = "CC BY 4.0; Khaled R. et al., The Cancer Imaging Archive, 2021, doi 10.7937/29kw-ae92"
_COLUMNS = ("file", "patient", "side", "kind", "view", "Findings", "Tags", "BIRADS", "Breast density (ACR)")
_PATHOLOGY = "Pathology Classification/ Follow up"
_REMEDY = (
    "Give a folder with index.csv, images and masks, made from what TCIA publishes: "
    f"index.csv has the columns {', '.join(_COLUMNS)} and, if known, {_PATHOLOGY}; "
    "images holds each file, masks a PNG of the same name with its outlines filled"
)


def images(source: Path, defects: list[Defect]) -> list[SourceImage]:
    """Every low-energy image, its mask as a lesion where the radiologist's findings or tags name a mass.

    Other masks outline asymmetries, distortions, calcifications or thickened skin: no tumours to segment. A mask may
    hold several lesions; each of its connected components counts as one. An image that has another mask alone says in
    its attribute `outlined` of what.

    Raises:
        MammogramError: the index is absent or lacks a column.
    """
    index = source / "index.csv"
    if not index.is_file():
        raise MammogramError(index, "the index of CDD-CESM is not there", _REMEDY)
    with index.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise MammogramError(index, f"it has no column {missing[0]!r}", _REMEDY)
        rows = [row for row in reader if row["kind"] == "DM"]
    found = []
    for row in rows:
        image = source / "images" / row["file"]
        if image.is_file():
            found.append(_image(source, image, row, defects))
        else:
            defects.append(Defect(image, "the index names it, but it does not exist"))
    return found


def _image(source: Path, image: Path, row: dict[str, str], defects: list[Defect]) -> SourceImage:
    mask = source / "masks" / f"{image.stem}.png"
    lesions: tuple[SourceLesion, ...] = ()
    attributes = {}
    pathology = row.get(_PATHOLOGY, "").strip().lower()
    if "mass" in f"{row['Findings']}; {row['Tags']}".lower():
        if mask.is_file():
            lesions = (SourceLesion(masks=(mask,), kind="mass", pathology=pathology, union=True),)
        else:
            defects.append(Defect(mask, "the mask of a listed image does not exist", "image kept without a lesion"))
    elif pathology != "normal" and mask.is_file():
        attributes["outlined"] = "; ".join(filter(None, (row["Findings"], row["Tags"]))) or "not said"
    return SourceImage(
        image=image,
        patient=row["patient"],
        laterality=row["side"],
        view=row["view"],
        lesions=lesions,
        normal=pathology == "normal",
        birads=row["BIRADS"].split("$")[0],
        density=row["Breast density (ACR)"].strip("_"),
        attributes=attributes,
    )
