"""mini-MIAS (research licence, not for redistribution): 322 scanned MLO films of 161 patients.

On disk: `mdb001.png` (or `.pgm`) to `mdb322`, 1024 x 1024 at 0.2 mm, and `Info.txt`. An odd number is a right breast,
an even one a left breast, two consecutive numbers are one patient. Lesions are given as circles, not as outlines,
so there is no segmentation task.
"""

from __future__ import annotations

import re
from pathlib import Path

from monai_mammo.datasets.prepare import SourceImage
from monai_mammo.dicom.errors import MammogramError

NAME = "mini-MIAS"
LICENCE = "research only, not for redistribution; Suckling J. et al., Excerpta Medica ICS 1069 (1994) 375-378"
SPACING = (0.2, 0.2)
_LINE = re.compile(r"^(mdb(\d{3}))\s+([FGD])\s+(CALC|CIRC|SPIC|MISC|ARCH|ASYM|NORM)\b")


def images(source: Path) -> list[SourceImage]:
    """Every film that `Info.txt` lists, once, however many lesions it lists for it.

    Raises:
        MammogramError: `Info.txt` is absent or lists no film, or a film that it lists does not exist.
    """
    info = source / "Info.txt"
    if not info.is_file():
        raise MammogramError(info, "the list of mini-MIAS is not there", "Give the folder that holds Info.txt")
    films: dict[str, SourceImage] = {}
    for line in info.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        name, number, tissue, abnormality = match[1], int(match[2]), match[3], match[4]
        films.setdefault(
            name,
            SourceImage(
                image=_film(source, name),
                mask=None,
                patient=f"mias{(number + 1) // 2:03d}",
                laterality="R" if number % 2 else "L",
                view="MLO",
                spacing=SPACING,
                attributes={"tissue": tissue, "abnormality": abnormality},
            ),
        )
    if not films:
        raise MammogramError(info, "it lists no film", "Use the Info.txt that comes with the data set")
    return list(films.values())


def _film(source: Path, name: str) -> Path:
    for suffix in (".png", ".pgm"):
        if (source / f"{name}{suffix}").is_file():
            return source / f"{name}{suffix}"
    raise MammogramError(source / f"{name}.png", "Info.txt lists it, but it does not exist", "Restore the file")
