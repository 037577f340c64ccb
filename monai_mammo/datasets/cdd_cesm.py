"""CDD-CESM (TCIA, CC BY 4.0): low-energy mammograms ("DM") with radiologists' lesion masks.

On disk: `index.csv` (file, patient, side, kind, view, density, BI-RADS, findings), `images/<name>.jpg` and
`masks/<name>.png`; 8 bits, 512 x 512 with centred zero padding, no pixel spacing. The contrast-enhanced, subtracted
images ("CM") are no mammograms and are left out.
"""

from __future__ import annotations

import csv
from pathlib import Path

from monai_mammo.datasets.prepare import SourceImage
from monai_mammo.dicom.errors import MammogramError

NAME = "CDD-CESM"
LICENCE = "CC BY 4.0; Khaled R. et al., The Cancer Imaging Archive, 2021, doi 10.7937/29kw-ae92"
_COLUMNS = ("file", "patient", "side", "kind", "view", "Findings", "Tags", "BIRADS", "Breast density (ACR)")


def images(source: Path) -> list[SourceImage]:
    """Every low-energy image, with its mask where the radiologist's findings or tags name a mass.

    Other masks outline asymmetries, distortions, calcifications or thickened skin: no tumours to segment.

    Raises:
        MammogramError: the index is absent or lacks a column, or a file that it names does not exist.
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
    return [_image(source, row) for row in rows]


def _image(source: Path, row: dict[str, str]) -> SourceImage:
    image, mask = source / "images" / row["file"], source / "masks" / Path(row["file"]).with_suffix(".png").name
    for file in (image, mask):
        if not file.is_file():
            raise MammogramError(file, "the index names it, but it does not exist", "Restore the file")
    findings = f"{row['Findings']}; {row['Tags']}".lower()
    return SourceImage(
        image=image,
        mask=mask if "mass" in findings else None,
        patient=row["patient"],
        laterality=row["side"],
        view=row["view"],
        attributes={
            "birads": row["BIRADS"].split("$")[0],
            "density": row["Breast density (ACR)"].strip("_"),
        },
    )
