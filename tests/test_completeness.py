"""What the outline of a breast shows of what is missing; the rule itself is tested with `truncation`."""

import numpy as np
import pytest

from monai_mammo.completeness import observe_outline


def breast(view):
    """An outline with the chest wall at the left: half an ellipse in CC; in MLO one that runs out at the top."""
    row, column = np.mgrid[:220, :180]
    middle, reach = (0.5, 0.36) if view == "CC" else (0.35, 0.5)
    return ((row / 220 - middle) / reach) ** 2 + (column / 180 / 0.7) ** 2 < 1


@pytest.mark.parametrize(
    ("view", "cut", "side", "code"),
    [
        ("CC", np.s_[150:], "medial", ("111202", "CC Not all medial tissue visualized")),
        ("CC", np.s_[:70], "lateral", ("111203", "CC Nipple not centered on image")),
        ("MLO", np.s_[140:], "inferior", ("111201", "MLO Inframammary fold is not open")),
        ("MLO", np.s_[:, 90:], "anterior", ("111205", "Nipple not in profile")),
    ],
)
@pytest.mark.parametrize("chest", ["left", "right"])
def test_a_side_that_is_cut_off_is_named_with_its_code(view, cut, side, code, chest):
    mask = breast(view)
    mask[cut] = False
    (seen,) = observe_outline(mask if chest == "left" else mask[:, ::-1], view)
    assert seen.sentence.startswith("By its outline")
    assert f"of the {side} side" in seen.sentence
    assert seen.codes[0] == code


def test_every_side_that_is_cut_off_is_named():
    mask = breast("CC")
    mask[:70] = mask[150:] = False
    assert [seen.codes[0][0] for seen in observe_outline(mask, "CC")] == ["111203", "111202"]


@pytest.mark.parametrize(("mask", "view"), [(breast("CC"), "CC"), (breast("MLO"), "MLO"), (breast("CC") & False, "CC")])
def test_of_a_round_outline_and_of_none_nothing_is_said(mask, view):
    assert observe_outline(mask, view) == []


def test_of_an_outline_that_is_the_films_nothing_is_said():
    film = np.ones((220, 180), bool)
    film[:5, 175:] = False
    assert observe_outline(film, "MLO") == []


def test_of_a_view_of_which_the_free_sides_are_unknown_nothing_is_said():
    mask = breast("CC")
    mask[150:] = False
    assert observe_outline(mask, "XCCL") == []
