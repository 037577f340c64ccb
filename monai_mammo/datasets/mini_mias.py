"""mini-MIAS (research licence, not for redistribution): 322 scanned MLO films of 161 patients.

On disk: `mdb001.png` (or `.pgm`) to `mdb322`, 1024 x 1024 at 0.2 mm, and `Info.txt`. An odd number is a right breast,
an even one a left breast, two consecutive numbers are one patient. Lesions are given as circles, not as outlines,
so there is no segmentation task.
"""

from __future__ import annotations

import re
from pathlib import Path

from monai_mammo.datasets.sources import Defect, SourceImage
from monai_mammo.dicom.errors import MammogramError

NAME = "mini-MIAS"
LICENCE = "research only, not for redistribution; Suckling J. et al., Excerpta Medica ICS 1069 (1994) 375-378"
SPACING = (0.2, 0.2)
_LINE = re.compile(r"^(mdb(\d{3}))\s+([FGD])\s+(CALC|CIRC|SPIC|MISC|ARCH|ASYM|NORM)\b")


def images(source: Path, defects: list[Defect]) -> list[SourceImage]:
    """Every film that `Info.txt` lists, once, however many lesions it lists for it.

    Raises:
        MammogramError: `Info.txt` is absent or lists no film.
    """
    info = source / "Info.txt"
    if not info.is_file():
        raise MammogramError(info, "the list of mini-MIAS is not there", "Give the folder that holds Info.txt")
    lines = [_LINE.match(line) for line in info.read_text(errors="replace").splitlines()]
    listed = {match[1]: match for match in reversed(lines) if match is not None}
    if not listed:
        raise MammogramError(info, "it lists no film", "Use the Info.txt that comes with the data set")
    found = []
    for name, match in sorted(listed.items()):
        files = [source / f"{name}{suffix}" for suffix in (".png", ".pgm")]
        film = next((file for file in files if file.is_file()), None)
        if film is None:
            defects.append(Defect(files[0], "Info.txt lists it, but it does not exist"))
            continue
        number = int(match[2])
        found.append(
            SourceImage(
                image=film,
                patient=f"mias{(number + 1) // 2:03d}",
                laterality="R" if number % 2 else "L",
                view="MLO",
                spacing=SPACING,
                attributes={"tissue": match[3], "abnormality": match[4]},
            )
        )
    return found
