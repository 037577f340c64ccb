"""CDD-CESM (TCIA, CC BY 4.0): low-energy mammograms ("DM") with radiologists' lesion masks.

On disk: `index.csv` (file, patient, side, kind, view, density, BI-RADS, findings), `images/<name>.jpg` and
`masks/<name>.png`; 8 bits, 512 x 512 with centred zero padding, no pixel spacing. The contrast-enhanced, subtracted
images ("CM") are no mammograms and are left out.
"""

from __future__ import annotations

import csv
from pathlib import Path

from monai_mammo.datasets.sources import Defect, SourceImage, SourceLesion
from monai_mammo.dicom.errors import MammogramError

NAME = "CDD-CESM"
LICENCE = "CC BY 4.0; Khaled R. et al., The Cancer Imaging Archive, 2021, doi 10.7937/29kw-ae92"
_COLUMNS = ("file", "patient", "side", "kind", "view", "Findings", "Tags", "BIRADS", "Breast density (ACR)")


def images(source: Path, defects: list[Defect]) -> list[SourceImage]:
    """Every low-energy image, its mask as a lesion where the radiologist's findings or tags name a mass.

    Other masks outline asymmetries, distortions, calcifications or thickened skin: no tumours to segment. A mask may
    hold several lesions; each of its connected components counts as one.

    Raises:
        MammogramError: the index is absent or lacks a column.
    """
    index = source / "index.csv"
    if not index.is_file():
        raise MammogramError(index, "the index of CDD-CESM is not there", "Give the folder that holds index.csv")
    with index.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise MammogramError(index, f"it has no column {missing[0]!r}", "Use the data set's own index")
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
    if "mass" in f"{row['Findings']}; {row['Tags']}".lower():
        if mask.is_file():
            lesions = (SourceLesion(masks=(mask,), kind="mass", pathology="malignant", union=True),)
        else:
            defects.append(Defect(mask, "the mask of a listed image does not exist", "image kept without a lesion"))
    return SourceImage(
        image=image,
        patient=row["patient"],
        laterality=row["side"],
        view=row["view"],
        lesions=lesions,
        normal=row.get("Pathology Classification/ Follow up", "").strip().lower() == "normal",
        birads=row["BIRADS"].split("$")[0],
        density=row["Breast density (ACR)"].strip("_"),
    )
