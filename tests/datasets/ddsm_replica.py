"""A tiny replica of DDSM: case folders with header, overlays and films in its lossless JPEG."""

from pathlib import Path

import numpy as np

VIEWS = ("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")

ROWS, COLUMNS = 60, 40

# Start at column 10, row 20: 8 right, 8 down, 8 left, 8 up.
SQUARE = "10 20 " + "2 " * 8 + "4 " * 8 + "6 " * 8 + "0 " * 8 + "#"

# An octagon with sides of 5 steps: a square of 15 less four corners of 5 * 5 / 2.
OCTAGON = "20 15 " + " ".join(f"{code} " * 5 for code in (2, 3, 4, 5, 6, 7, 0, 1)) + "#"

OCTAGON_AREA = 15 * 15 - 4 * 5 * 5 / 2


def overlay(*chains: str, kind: str = "MASS SHAPE OVAL MARGINS SPICULATED", total: int | None = None) -> str:
    """An `.OVERLAY` file with an abnormality for every chain."""
    blocks = [
        f"ABNORMALITY {number}\nLESION_TYPE {kind}\nASSESSMENT {number + 2}\nSUBTLETY 3\nPATHOLOGY MALIGNANT\n"
        f"TOTAL_OUTLINES 1\nBOUNDARY\n{chain} \n"
        for number, chain in enumerate(chains, start=1)
    ]
    return f"TOTAL_ABNORMALITIES {len(chains) if total is None else total}\n" + "\n".join(blocks)


def ljpeg(image: np.ndarray) -> bytes:
    """A stream of predictor 1 whose code takes five bits for every category."""
    bits, previous = [], image.astype(np.int64)
    predicted = np.empty_like(previous)
    predicted[1:, 0], predicted[0, 0], predicted[:, 1:] = previous[:-1, 0], 1 << 15, previous[:, :-1]
    for difference in (previous - predicted).ravel().tolist():
        wrapped = (difference + (1 << 15)) % (1 << 16) - (1 << 15)
        size = abs(wrapped).bit_length()
        bits.append(f"{size:05b}")
        if 0 < size < 16:
            bits.append(f"{(wrapped - (wrapped < 0)) & ((1 << size) - 1):0{size}b}")
    text = "".join(bits)
    data = int(text + "1" * (-len(text) % 8), 2).to_bytes((len(text) + 7) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = image.shape
    return b"".join(
        [
            b"\xff\xd8\xff\xc3\x00\x0b\x10",
            rows.to_bytes(2, "big"),
            columns.to_bytes(2, "big"),
            b"\x01\x01\x11\x00\xff\xc4\x00\x24\x00",
            bytes([0, 0, 0, 0, 17, *[0] * 11]),
            bytes(range(17)),
            b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00",
            data,
            b"\xff\xd9",
        ]
    )


def film(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Grey levels as a scanner gives them: exposed film, hence the background, is low."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.where(np.hypot(y - rows / 2, x) < 20, 2500, 300).astype(np.uint16)


def write_case(
    root: Path,
    name: str = "A-0001-1",
    overlays: dict[str, str] | None = None,
    digitizer: str = "HOWTEK 960",
    folder: str = "cancers/cancer_01",
    swap: bool = False,
) -> Path:
    """A case folder as DDSM has it; the given views have an overlay."""
    case = root / folder / f"case{name.split('-')[1]}"
    case.mkdir(parents=True)
    lines = [
        "ics_version 1.0",
        f"filename {name}",
        "DATE_OF_STUDY 2 7 1995",
        "PATIENT_AGE 42",
        "FILM ",
        "FILM_TYPE REGULAR",
        "DENSITY 3",
        "DATE_DIGITIZED 7 22 1997 ",
        f"DIGITIZER {digitizer}",
        "SEQUENCE",
    ]
    overlays = overlays or {}
    stem = name.replace("-", "_")
    for view in VIEWS:
        has = "OVERLAY" if view in overlays else "NON_OVERLAY"
        lines.append(f"{view} LINES {ROWS} PIXELS_PER_LINE {COLUMNS} BITS_PER_PIXEL 12 RESOLUTION 43.5 {has}")
        image = film().reshape(COLUMNS, ROWS) if swap else film()
        (case / f"{stem}.{view}.LJPEG").write_bytes(ljpeg(image))
        if view in overlays:
            (case / f"{stem}.{view}.OVERLAY").write_text(overlays[view])
    (case / f"{name}.ics").write_text("\n".join(lines) + "\n")
    return case


def by_view(found):
    return {f"{image.laterality}_{image.view}": image for image in found}
