"""What the audit reads from an image's pixels: the chest wall's side and the view, or nothing where it is not clear."""

import numpy as np
import pytest
from scipy.ndimage import rotate

from monai_mammo.datasets.audit_pixels import Job, measure, seen_view
from monai_mammo.datasets.exposure import chest_side

ROWS, COLUMNS = 400, 300
Y, X = np.mgrid[:ROWS, :COLUMNS]
HALF = ((Y - 200) / 180) ** 2 + (X / 200) ** 2 < 1
"""A breast in CC: half an ellipse at the left edge, air above and below."""
ROUND = 0.5 * np.sqrt(np.clip(1 - ((Y - 200) / 180) ** 2 - (X / 200) ** 2, 0, 1))
"""Its pixels: darker where it gets thinner."""
OBLIQUE = ((X < 130 + 0.35 * Y) & (Y < 200)) | (HALF & (Y >= 200))
"""A breast in MLO: it reaches the upper edge."""
MUSCLE = X / 110 + Y / 260 < 1


def upright(pixels, mirrored):
    return pixels[:, ::-1] if mirrored else pixels


@pytest.mark.parametrize("breast", [HALF, OBLIQUE], ids=["CC", "MLO"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [-10, 0, 10])
def test_the_chest_wall_is_the_straight_side_however_the_field_is_turned(breast, mirrored, angle):
    framed = np.pad(upright(breast, mirrored), 100)
    turned = rotate(framed.astype(float), angle, reshape=False, order=1) > 0.5
    assert chest_side(turned) == ("right" if mirrored else "left")


@pytest.mark.parametrize(
    "outline",
    [
        np.zeros((ROWS, COLUMNS), bool),
        np.ones((ROWS, COLUMNS), bool),
        ((Y - 200) / 180) ** 2 + ((X - 150) / 140) ** 2 < 1,
        HALF & (X < 60),
        HALF[::40, ::40],
    ],
    ids=["nothing", "the whole image", "round on both sides", "cut off in front of the chest wall", "a few pixels"],
)
def test_a_chest_wall_that_is_not_clear_is_not_guessed(outline):
    assert chest_side(outline) == ""


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_muscle_in_the_upper_corner_tells_mlo_and_round_dark_corners_tell_cc(mirrored):
    side = "right" if mirrored else "left"
    oblique, half = (upright(breast, mirrored) for breast in (OBLIQUE, HALF))
    assert seen_view(upright(np.where(MUSCLE, 0.9, 0.4) * OBLIQUE, mirrored), oblique, side) == "MLO"
    assert seen_view(upright(ROUND, mirrored), half, side) == "CC"


@pytest.mark.parametrize(
    ("pixels", "breast"),
    [
        (0.4 * OBLIQUE, OBLIQUE),
        (np.where(MUSCLE, 0.9, 0.4)[::-1] * OBLIQUE[::-1], OBLIQUE[::-1]),
        (ROUND * (Y > 120), HALF & (Y > 120)),
        (np.zeros(HALF.shape), np.zeros(HALF.shape, bool)),
    ],
    ids=["no muscle", "upside down", "a CC that lacks its upper part", "no breast"],
)
def test_a_corner_that_is_not_clear_tells_no_view(pixels, breast):
    assert seen_view(pixels, breast, "left") == ""


def test_without_a_chest_wall_there_is_no_view():
    assert seen_view(ROUND, HALF, "") == ""


def test_real_mammograms_show_the_side_and_view_that_they_are_said_to_have(samples):
    """Both conventions of these sets: the left breast's chest wall at the left."""
    said = {file: ("LR"[int(file.stem[3:]) % 2], "MLO") for file in sorted((samples / "mini-mias").glob("*.png"))[:24]}
    for file in sorted((samples / "cdd-cesm" / "images").glob("*_DM_*.jpg"))[:60]:
        _, laterality, _, view = file.stem.split("_")
        said[file] = (laterality, view)
    found = {file: measure(Job(file)) for file in said}
    assert all(found[file].chest in ("", {"L": "left", "R": "right"}[side]) for file, (side, _) in said.items())
    assert all(found[file].seen in ("", view) for file, (_, view) in said.items())
    assert sum(bool(one.chest) for one in found.values()) > 0.9 * len(said)
    assert sum(bool(one.seen) for one in found.values()) > 0.5 * len(said)
