"""The mammography mode as a place to look at mammograms: what OHIF's own keys, buttons and lists do in it.

The tests share one browser and one server.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from monai_mammo.datasets import phantom

from .conftest import Server
from .ohif_page import OhifPage
from .ohif_studies import SHAPE, copy_of, saved_mask, study

pytestmark = pytest.mark.slow

FIRST, SECOND, THIRTEEN_VIEWS, UNMEASURED = 1, 2, 3, 4

_COMPARE = """sop => {
  const { displaySetService, viewportGridService } = window.mammo.ohif.services;
  const shows = ({ instances }) => instances?.[0]?.SOPInstanceUID === sop;
  const { displaySetInstanceUID } = displaySetService.getActiveDisplaySets().find(shows);
  const viewportId = viewportGridService.getActiveViewportId();
  viewportGridService.setDisplaySetsForViewport({ viewportId, displaySetInstanceUIDs: [displaySetInstanceUID] });
}"""
"""As a double click in the list of series does."""

_MEASURES = (
    "() => window.mammo.ohif.libraries.cornerstone.getEnabledElements()[0].viewport.getImageData().hasPixelSpacing"
)

_SEGMENTED = """async () => {
  const { services, libraries } = window.mammo.ohif;
  const set = services.displaySetService.getActiveDisplaySets().find(({ Modality }) => Modality === 'SEG');
  await set.load({ headers: {} });
  await services.segmentationService.createSegmentationForSEGDisplaySet(set);
  const { imageIds } = services.segmentationService.getSegmentation(set.displaySetInstanceUID).representationData
    .Labelmap;
  return imageIds.map(id => libraries.cornerstone.cache.getImage(id).getPixelData().filter(Boolean).length);
}"""
"""How many pixels of each image OHIF's own reader of DICOM SEG finds marked."""


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies of four views, one of thirteen, one without pixel spacing; the first's right breasts are MONOCHROME1."""
    studies = tmp_path_factory.mktemp("viewing") / "studies"
    rows, columns = SHAPE
    phantom.write_phantoms(studies, patients=UNMEASURED, seed=5, rows=rows, columns=columns, truncated_fraction=0)
    shutil.rmtree(studies / "masks")
    [view] = studies.glob(f"*{THIRTEEN_VIEWS:04d}/*/L_CC.dcm")
    for number in range(2, 11):
        copy_of(view, number)
    for file in studies.glob(f"*{UNMEASURED:04d}/*/*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.pop("ImagerPixelSpacing")
        dataset.save_as(file)
    return studies


def look(reader: OhifPage, sop: str) -> np.ndarray:
    """The greys of an image on the screen, without the letters at its viewport's edges."""
    reader.page.wait_for_timeout(500)
    left, top, right, bottom = reader.viewports()[sop]["box"]
    clip = {"x": left + 4, "y": top + 60, "width": right - left - 8, "height": bottom - top - 120}
    return np.asarray(Image.open(io.BytesIO(reader.page.screenshot(clip=clip))).convert("L"), float)


@pytest.mark.parametrize("view", ["RCC", "LMLO"])
def test_reset_shows_an_image_as_it_first_hung(running: Server, reader: OhifPage, view: str) -> None:
    where = study(running, FIRST)
    reader.open(where.uid)
    reader.choose(where.ids[view])
    before = look(reader, where.sops[view])
    assert 3 < before.mean() < 80, "a breast in dark air"
    for reset in (lambda: reader.page.keyboard.press("Space"), lambda: reader.page.click("[data-cy=Reset]")):
        reader.page.keyboard.press("i")
        reader.page.keyboard.press("+")
        assert np.abs(look(reader, where.sops[view]) - before).max() > 50
        for _ in range(2):
            reset()
            reader.idle()
            np.testing.assert_array_equal(look(reader, where.sops[view]), before)


def test_keys_that_the_mode_does_not_need_change_neither_the_hanging_nor_what_is_painted(
    running: Server, reader: OhifPage, tmp_path: Path
) -> None:
    """OHIF's own: another series, another layout, a further segment, flips."""
    where = study(running, FIRST)
    reader.open(where.uid)
    reader.choose(where.ids["LCC"])
    before = {sop: (viewport["box"], viewport["first"]) for sop, viewport in reader.viewports().items()}
    for key in ("PageDown", ".", ",", "ArrowDown", "h", "v", "r", "a"):
        reader.page.keyboard.press(key)
    reader.idle()
    assert {sop: (viewport["box"], viewport["first"]) for sop, viewport in reader.viewports().items()} == before
    reader.press("brush")
    reader.drag(where.sops["LCC"], (150, 60), (165, 80))
    reader.idle()
    drawn = reader.labelmap(where.ids["LCC"], SHAPE)
    assert set(np.unique(drawn)) == {0, 1}
    reader.press("submit")
    np.testing.assert_array_equal(saved_mask(running, tmp_path, where.ids["LCC"]), drawn)


def test_the_layout_of_all_images_says_when_it_does_not_show_all(running: Server, reader: OhifPage) -> None:
    uid = pydicom.dcmread(next(running.studies.glob(f"*{THIRTEEN_VIEWS:04d}/*/L_CC.dcm"))).StudyInstanceUID
    reader.open(uid)
    assert reader.button("hang-3x4").inner_text() == "12 of 13"
    reader.press("hang-3x4")
    reader.ready(12)
    assert len(reader.viewports()) == 12
    stages = reader.page.evaluate(
        """async () => {
          const { largestStage, placesOf } = await import('/mammo/hanging.js');
          const images = Array.from({ length: 14 }, (_, key) => ({ key, laterality: 'L', view: 'CC', partial: false }));
          return [5, 6, 9, 11].map(count => largestStage([...placesOf(images.slice(0, count)).values()]));
        }"""
    )
    assert [(stage["id"], stage["shown"]) for stage in stages] == [("2x4", 5), ("3x4", 6), ("3x4", 9), ("3x4", 9)]


def test_ohifs_arrows_take_back_what_was_drawn_into_the_active_image_alone(
    running: Server, reader: OhifPage, tmp_path: Path
) -> None:
    where = study(running, SECOND)
    first, second = where.ids["RCC"], where.ids["LCC"]
    reader.open(where.uid)
    reader.choose(first)
    reader.press("brush")
    reader.drag(where.sops["RCC"], (150, 190), (165, 210))
    reader.idle()
    drawn = reader.labelmap(first, SHAPE)
    assert drawn.any()
    reader.press("submit")
    reader.choose(second)
    for arrow in ("undo", "redo"):
        arrows(reader, arrow)
        np.testing.assert_array_equal(reader.labelmap(first, SHAPE), drawn)
        assert "submitted" in reader.image_state(first)
    reader.press("submit-all")
    np.testing.assert_array_equal(saved_mask(running, tmp_path, first), drawn)
    reader.choose(second)
    reader.drag(where.sops["LCC"], (150, 60), (165, 80))
    reader.idle()
    painted = reader.labelmap(second, SHAPE)
    for back, again in ((arrows, OhifPage.press), (OhifPage.press, arrows)):
        back(reader, "undo")
        assert not reader.labelmap(second, SHAPE).any()
        again(reader, "redo")
        np.testing.assert_array_equal(reader.labelmap(second, SHAPE), painted)


def arrows(reader: OhifPage, name: str) -> None:
    """Press one of the arrows in OHIF's header."""
    reader.page.click(f"[data-cy={name}-btn]")
    reader.idle()


def test_an_image_of_another_study_says_its_date_and_takes_no_marks(running: Server, reader: OhifPage) -> None:
    here, other = study(running, FIRST), study(running, SECOND)
    reader.page.goto(f"{running.url}/ohif/mammo?StudyInstanceUIDs={here.uid},{other.uid}")
    reader.ready()
    reader.choose(here.ids["RCC"])
    reader.press("brush")
    reader.page.evaluate(_COMPARE, other.sops["RCC"])
    reader.page.get_by_text("R CC 2024-01-01").wait_for()
    assert "For comparison: an image of the case of 2024-01-01" in reader.notice()
    viewport = reader.page.locator(".cornerstone-viewport-element").first.bounding_box()
    x, y = viewport["x"] + viewport["width"] / 2, viewport["y"] + viewport["height"] / 2
    reader.page.mouse.move(x, y)
    reader.page.mouse.down()
    reader.page.mouse.move(x + 30, y + 30, steps=4)
    reader.page.mouse.up()
    reader.page.wait_for_timeout(500)
    assert reader.page.get_by_text("No active segmentation detected").count() == 0
    reader.button("other").click()
    reader.page.wait_for_function("study => window.mammo.study.state.study === study", arg=other.uid)
    reader.ready()


def test_an_image_without_spacing_is_drawn_into_and_not_measured(
    running: Server, reader: OhifPage, tmp_path: Path
) -> None:
    measured, where = study(running, FIRST), study(running, UNMEASURED)
    reader.open(measured.uid)
    assert reader.page.evaluate(_MEASURES)
    reader.open(where.uid)
    assert not reader.page.evaluate(_MEASURES), "a length would be in invented millimetres"
    image, sop = where.ids["RCC"], where.sops["RCC"]
    reader.choose(image)
    reader.press("brush")
    reader.drag(sop, (100, 150), (130, 170))
    reader.idle()
    drawn = reader.labelmap(image, SHAPE)
    assert drawn[100, 150]
    assert drawn[130, 170]
    reader.press("submit")
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image), drawn)
    reader.page.goto(f"{running.url}/ohif/viewer?StudyInstanceUIDs={where.uid}")
    reader.page.wait_for_selector(".cornerstone-canvas")
    reader.reach()
    assert reader.page.evaluate(_SEGMENTED) == [np.count_nonzero(drawn)]
