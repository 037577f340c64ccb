"""The mammography mode as a reader uses it: a real server, phantom studies, OHIF in a headless browser.

The tests share one browser and one server; each leaves the page with a study open.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from monai_mammo.datasets import phantom
from monai_mammo.dicom.views import MODIFIER_CODES, PARTIAL_MODIFIERS

from .conftest import LESION, QUALITY, SEGMENTATION, Server
from .ohif_page import OhifPage
from .ohif_studies import SHAPE, mask_of, row_of, saved_mask, study

pytestmark = pytest.mark.slow
VIEWS = ("RCC", "LCC", "RMLO", "LMLO")

_AT_CHEST_WALL = """sop => {
  const { viewport } = window.mammo.ohif.libraries.cornerstone.getEnabledElements()
    .find(({ viewport }) => viewport.getCurrentImageId()?.includes(sop));
  const [x] = viewport.worldToCanvas(viewport.getImageData().imageData.indexToWorld([0, 0, 0]));
  return Math.abs(viewport.canvas.width - viewport.element.clientWidth) < 2 && Math.abs(x) < 2;
}"""

_GREYS = """() => {
  const [shown] = window.mammo.ohif.libraries.cornerstone.getEnabledElements();
  const { canvas, csImage } = shown?.viewport ?? {};
  const { data } = canvas?.getContext('2d').getImageData(0, 0, canvas.width, canvas.height) ?? {};
  return csImage && new Set(data.filter((_, at) => at % 4 === 0)).size;
}"""


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantom studies, of the third a view is missing, and PNGs, which OHIF cannot open."""
    studies = tmp_path_factory.mktemp("ohif") / "studies"
    phantom.write_phantoms(studies, patients=4, seed=3, rows=SHAPE[0], columns=SHAPE[1])
    for other in studies.glob("*.json"):
        other.unlink()
    next(studies.glob("*0003/*/R_CC.dcm")).unlink()
    return studies


@pytest.fixture(scope="module")
def reader(running: Server, reader: OhifPage) -> OhifPage:
    """A reader's browser, with the first study open."""
    reader.open(study(running, 1).uid)
    return reader


def test_four_views_hang_in_the_usual_order_with_the_breasts_back_to_back(running: Server, reader: OhifPage) -> None:
    where = study(running, 1)
    shown = reader.viewports()
    boxes = {view: shown[where.sops[view]]["box"] for view in VIEWS}
    middle_x, middle_y = boxes["RCC"][2], boxes["RCC"][3]
    for view, (left, top, right, bottom) in boxes.items():
        x, y = (left + right) / 2, (top + bottom) / 2
        assert (x < middle_x) == view.startswith("R"), view
        assert (y < middle_y) == view.endswith("CC"), view
        chest_wall = shown[where.sops[view]]["last" if view.startswith("R") else "first"][0]
        assert chest_wall == pytest.approx(right if view.startswith("R") else left, abs=6), view


def test_in_a_row_of_four_the_order_is_the_same(running: Server, reader: OhifPage) -> None:
    where = study(running, 1)
    hang(reader, "1x4", rows=1)
    shown = reader.viewports()
    assert sorted(VIEWS, key=lambda view: shown[where.sops[view]]["box"][0]) == list(VIEWS)
    for view in VIEWS:
        edge, end = (2, "last") if view.startswith("R") else (0, "first")
        viewport = shown[where.sops[view]]
        assert viewport[end][0] == pytest.approx(viewport["box"][edge], abs=6), view
    hang(reader, "2x2", rows=2)


def hang(reader: OhifPage, layout: str, rows: int) -> None:
    """Choose a layout, and wait until it has that many rows of images."""
    reader.press(f"hang-{layout}")
    reader.page.wait_for_function(
        "rows => new Set(window.mammo.ohif.libraries.cornerstone.getEnabledElements()"
        ".map(({ viewport }) => viewport.element.getBoundingClientRect().top)).size === rows",
        arg=rows,
    )
    reader.ready()


def test_images_stay_at_the_chest_wall_when_the_window_changes_unless_they_were_moved(
    running: Server, reader: OhifPage
) -> None:
    where = study(running, 1)
    for width in (1200, 1366):
        reader.page.set_viewport_size({"width": width, "height": 768})
        reader.page.wait_for_function(_AT_CHEST_WALL, arg=where.sops["LMLO"])
        reader.idle()
        for view in VIEWS:
            viewport = reader.viewports()[where.sops[view]]
            edge, end = (2, "last") if view.startswith("R") else (0, "first")
            assert viewport[end][0] == pytest.approx(viewport["box"][edge], abs=2), (width, view)


def test_what_the_model_finds_is_shown_to_the_pixel(running: Server, reader: OhifPage, tmp_path: Path) -> None:
    where = study(running, 1)
    reader.press("run")
    for view in VIEWS:
        expected = mask_of(running, tmp_path, SEGMENTATION, where.ids[view])
        assert expected.any()
        np.testing.assert_array_equal(reader.labelmap(where.ids[view], SHAPE), expected, view)


def test_masks_keep_their_colour_in_every_layout(running: Server, reader: OhifPage) -> None:
    where = study(running, 1)
    for layout, rows in (("1x4", 1), ("2x2", 2)):
        hang(reader, layout, rows)
        assert set(reader.amber(200, 100_000)) == set(where.sops.values()), layout
    reader.press("hide")
    reader.amber(0, 20)
    reader.press("hide")
    reader.amber(200, 100_000)


def test_the_threshold_moves_the_models_outline_and_nothing_else(running: Server, reader: OhifPage) -> None:
    where = study(running, 1)
    image, sop = where.ids["LCC"], where.sops["LCC"]
    reader.choose(image)
    found = reader.labelmap(image, SHAPE)
    row, column = np.argwhere(found)[-1]
    reader.press("brush")
    for start, end in (((12, 200), (12, 215)), ((row, column), (row + 8, column))):  # far away, and over its edge
        reader.drag(sop, start, end)
        reader.idle()
    drawn = reader.labelmap(image, SHAPE) & ~found
    assert drawn.any()
    slide(reader, "threshold", 95)
    higher = reader.labelmap(image, SHAPE)
    assert higher.sum() < (found | drawn).sum()
    assert (higher & drawn).sum() == drawn.sum()
    slide(reader, "threshold", 5)
    slide(reader, "threshold", 50)
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), found | drawn)


def test_moves_of_the_threshold_are_taken_back_at_once_and_the_slider_goes_back_with_them(
    running: Server, reader: OhifPage
) -> None:
    image = study(running, 1).ids["LCC"]
    before = reader.labelmap(image, SHAPE)
    slide(reader, "threshold", 95)
    highest = reader.labelmap(image, SHAPE)
    reader.press("undo")
    for value in (60, 80, 90):
        slide(reader, "threshold", value)
    reader.press("undo")
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), before)
    assert reader.button("threshold").input_value() == "50"
    slide(reader, "threshold", 95)
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), highest)
    reader.press("undo")


def slide(reader: OhifPage, key: str, value: int) -> None:
    """Move a slider of the panel."""
    reader.button(key).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
    reader.idle()


@pytest.mark.parametrize("kind", ["point", "box"])
def test_a_marked_lesion_gets_the_models_outline(running: Server, reader: OhifPage, tmp_path: Path, kind: str) -> None:
    where = study(running, 2)
    image, sop = where.ids["LMLO"], where.sops["LMLO"]
    before = ready_to_mark(reader, where.uid, image)
    with reader.page.expect_request(lambda request: LESION in request.url) as asked:
        if kind == "point":
            reader.click(sop, 150, 70)
        else:
            reader.drag(sop, (120, 40), (190, 130))
    params = json.loads(re.findall(r"\{.*\}", asked.value.post_data)[0])
    place = params[kind]
    assert place == pytest.approx([150, 70] if kind == "point" else [120, 40, 191, 131], abs=2)
    reader.idle()
    expected = mask_of(running, tmp_path, LESION, image, **{kind: place})
    assert expected.any()
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), before | expected)


def test_a_mark_beside_the_image_is_not_taken_for_one_at_its_border(running: Server, reader: OhifPage) -> None:
    where = study(running, 2)
    image, sop = where.ids["LMLO"], where.sops["LMLO"]
    before = ready_to_mark(reader, where.uid, image)
    asked: list[Any] = []
    reader.page.on("request", lambda request: asked.append(request) if LESION in request.url else None)
    edge, columns = reader.viewports()[sop]["box"][2], SHAPE[1]
    assert reader.place(sop, 0, columns + 60)[0] < edge, "there is air beside the image"
    for marking in (
        lambda: reader.click(sop, 150, columns + 30),
        lambda: reader.drag(sop, (120, columns + 10), (190, columns + 60)),
    ):
        marking()
        reader.page.locator("mammo-panel .notice", has_text="That is beside the image").wait_for()
        reader.button("close").click()
        reader.idle()
    assert asked == []
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), before)
    with reader.page.expect_request(lambda request: LESION in request.url):
        reader.drag(sop, (120, columns - 60), (190, columns + 60))
    reader.idle()
    [box] = re.findall(r"\"box\":\[(.*?)\]", asked[0].post_data)
    assert [int(value) for value in box.split(",")] == pytest.approx([120, columns - 60, 191, columns], abs=2)
    assert box.endswith(f",{columns}")


def ready_to_mark(reader: OhifPage, study_uid: str, image: str) -> np.ndarray:
    """Choose an image of a study and the lesion tool; the mask that the image has."""
    if reader.study() != study_uid:
        reader.open(study_uid)
    reader.choose(image)
    with_lesion_tool(reader)
    return reader.labelmap(image, SHAPE)


def with_lesion_tool(reader: OhifPage) -> None:
    """Put the lesion tool on the mouse."""
    if reader.button("lesion").get_attribute("aria-pressed") == "false":
        reader.press("lesion")


def test_brush_and_eraser_draw_where_the_mouse_goes_and_can_be_undone(running: Server, reader: OhifPage) -> None:
    where = study(running, 2)
    image, sop = where.ids["RCC"], where.sops["RCC"]
    reader.choose(image)
    reader.press("brush")
    reader.drag(sop, (100, 150), (130, 170))
    reader.idle()
    painted = reader.labelmap(image, SHAPE)
    assert painted[100, 150]
    assert painted[130, 170]
    path = np.zeros(SHAPE, bool)
    path[np.linspace(100, 130, 61).round().astype(int), np.linspace(150, 170, 61).round().astype(int)] = True
    assert not (painted.astype(bool) & ~binary_dilation(path, iterations=8)).any()  # a brush of 5 mm, not of 25
    reader.press("eraser")
    reader.drag(sop, (100, 150), (110, 157))
    reader.idle()
    erased = reader.labelmap(image, SHAPE)
    assert not erased[100, 150]
    assert erased[130, 170]
    reader.press("undo")
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), painted)
    reader.press("undo")
    assert not reader.labelmap(image, SHAPE).any()
    reader.press("redo")
    reader.press("redo")
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), erased)


def test_the_first_press_in_another_view_chooses_it_and_paints_nothing(running: Server, reader: OhifPage) -> None:
    where = study(running, 2)
    reader.choose(where.ids["RCC"])
    reader.press("brush")
    before = reader.labelmap(where.ids["RMLO"], SHAPE)
    reader.drag(where.sops["RMLO"], (150, 180), (160, 190))
    reader.page.wait_for_function("id => window.mammo.study.state.active.id === id", arg=where.ids["RMLO"])
    np.testing.assert_array_equal(reader.labelmap(where.ids["RMLO"], SHAPE), before)
    reader.drag(where.sops["RMLO"], (150, 180), (160, 190))
    reader.idle()
    assert reader.labelmap(where.ids["RMLO"], SHAPE)[150, 180]


def test_what_was_drawn_comes_back_from_the_server(running: Server, reader: OhifPage, tmp_path: Path) -> None:
    where = study(running, 2)
    image = where.ids["RCC"]
    reader.choose(image)
    drawn = reader.labelmap(image, SHAPE)
    assert drawn.any()
    assert "unsaved" in reader.image_state(image)
    reader.press("submit")
    assert "submitted" in reader.image_state(image)
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image), drawn)
    assert row_of(running, where, "RCC")["labelled"]
    reader.open(where.uid)  # the page anew
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), drawn)


def test_a_normal_breast_is_submitted_without_a_mark(running: Server, reader: OhifPage, tmp_path: Path) -> None:
    where = study(running, 2)
    reader.choose(where.ids["LCC"])
    assert "no tumour" in reader.button("submit").inner_text()
    reader.press("submit")
    assert not saved_mask(running, tmp_path, where.ids["LCC"]).any()
    assert "submitted" in reader.image_state(where.ids["LCC"])


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_panel_can_be_worked_from_the_keyboard(reader: OhifPage, key: str) -> None:
    brush = reader.button("brush")
    former = brush.get_attribute("aria-pressed")
    for _ in range(2):
        brush.press(key)
        reader.idle()
        former, now = brush.get_attribute("aria-pressed"), former
        assert former != now
    reader.button("check").press(key)
    reader.page.locator("mammo-panel .verdict").wait_for()
    reader.idle()
    focused = reader.page.evaluate("document.querySelector('mammo-panel').shadowRoot.activeElement?.dataset.key")
    assert focused == "check", "disabled while the model looked"


def test_the_models_verdict_is_shown_and_the_readers_saved(running: Server, reader: OhifPage) -> None:
    where = study(running, 2)
    reader.choose(where.ids["RMLO"])
    reader.press("scope-false")
    reader.press("check")
    verdict = reader.page.locator("mammo-panel .verdict")
    assert verdict.inner_text() in ("complete", "incomplete")
    answer = running.infer(QUALITY, where.ids["RMLO"], result_write_to_file=False).json()["quality"]
    shown = reader.page.locator("mammo-panel ul li").all_inner_texts()
    assert shown == [reason["sentence"] for reason in answer["reasons"]]
    for verdict, kept in (("incomplete", "incomplete"), ("complete", "complete"), ("complete", None)):
        reader.press(verdict)
        assert row_of(running, where, "RMLO")["verdict"] == kept
        assert reader.button(verdict).get_attribute("aria-pressed") == ("false" if kept is None else "true")


def test_a_failure_is_said_with_its_remedy_and_takes_nothing_away(running: Server, reader: OhifPage) -> None:
    where = study(running, 2)
    image = where.ids["LMLO"]
    reader.choose(image)
    reader.press("brush")
    reader.drag(where.sops["LMLO"], (200, 40), (210, 60))
    reader.idle()
    drawn = reader.labelmap(image, SHAPE)
    file = next(running.studies.glob("*0002/*/L_MLO.dcm"))
    content = file.read_bytes()
    try:
        file.write_bytes(content[:2000])
        reader.press("run")
        assert "L_MLO.dcm" not in reader.notice()  # the reader knows the image; what is wrong with it counts
        assert len(reader.notice()) > 20
        np.testing.assert_array_equal(reader.labelmap(image, SHAPE), drawn)
        assert "unsaved" in reader.image_state(image)
    finally:
        file.write_bytes(content)
    reader.press("run")
    assert reader.page.locator("mammo-panel .notice.error").count() == 0


def test_the_next_case_is_the_servers_choice_and_unsaved_work_is_kept(running: Server, reader: OhifPage) -> None:
    where = study(running, 2)
    image = where.ids["LMLO"]
    drawn = reader.labelmap(image, SHAPE)
    assert "unsaved" in reader.image_state(image)
    with reader.page.expect_response(lambda response: "/activelearning/" in response.url) as answer:
        reader.button("next").click()
    chosen = answer.value.json()
    assert chosen["StudyInstanceUID"], "not one of the masks beside the studies, which OHIF cannot open"
    assert chosen["StudyInstanceUID"] != where.uid
    reader.page.wait_for_function("uid => window.mammo.study.state.study === uid", arg=chosen["StudyInstanceUID"])
    images = running.http.get(f"/mammo/studies/{chosen['StudyInstanceUID']}").json()
    reader.ready(len(images))
    reader.page.wait_for_function("id => window.mammo.study.state.active?.id === id", arg=chosen["id"])
    assert re.search(r"Not submitted in the case of \d{4}-\d\d-\d\d: .*L MLO", reader.notice())
    reader.button(f"draft-{where.uid}").click()
    reader.page.wait_for_function("uid => window.mammo.study.state.study === uid", arg=where.uid)
    reader.ready()
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), drawn)
    assert "unsaved" in reader.image_state(image)


def test_a_missing_view_leaves_its_place_empty(running: Server, reader: OhifPage) -> None:
    where = study(running, 3)
    reader.press("submit-all")
    reader.open(where.uid, images=3)
    shown = reader.viewports()
    assert set(shown) == set(where.sops.values())
    boxes = {view: shown[where.sops[view]]["box"] for view in ("LCC", "RMLO", "LMLO")}
    assert boxes["LCC"][0] == pytest.approx(boxes["LMLO"][0], abs=2)
    assert boxes["RMLO"][1] == pytest.approx(boxes["LMLO"][1], abs=2)
    assert boxes["RMLO"][2] <= boxes["LMLO"][0] + 2


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["L MLO", "R CC", "L CC", "R MLO"], ["LMLO", "RCC", "LCC", "RMLO"]),
        (["L CC", "L CC part", "L ML"], ["LCC", "X1", "X2"]),
        (["L CC part", "L CC"], ["X1", "LCC"]),
        (["", "", ""], ["RCC", "LCC", "RMLO"]),
        (["L CC"] * 10, ["LCC", "X1", "X2", "X3", "X4", "X5", "X6", "X7", "X8", "none"]),
    ],
)
def test_every_image_has_a_place(reader: OhifPage, images: list[str], expected: list[str]) -> None:
    given = []
    for number, name in enumerate(images):
        words = name.split()
        side, view = (words[0], words[1]) if words else ("", "")
        given.append({"key": str(number), "laterality": side, "view": view, "partial": "part" in words})
    places = reader.page.evaluate(
        "async images => Object.fromEntries((await import('/mammo/hanging.js')).placesOf(images))", given
    )
    assert [places[str(number)] for number in range(len(images))] == expected


def test_a_view_that_shows_a_part_of_the_breast_is_known_by_each_of_its_codes(reader: OhifPage) -> None:
    instances = {
        code: {"ViewCodeSequence": [{"ViewModifierCodeSequence": [{"CodeValue": code}]}]} for code in MODIFIER_CODES
    }
    instances |= {"declared": {"PartialView": "YES"}, "whole": {"PartialView": "NO"}}
    partial = reader.page.evaluate(
        """async instances => {
          const { viewOf } = await import('/mammo/hanging.js');
          return Object.keys(instances).filter(name => viewOf(instances[name]).partial);
        }""",
        instances,
    )
    assert set(partial) == {code for code, name in MODIFIER_CODES.items() if name in PARTIAL_MODIFIERS} | {"declared"}


def test_a_model_learns_what_readers_say_and_can_be_stopped(running: Server, reader: OhifPage) -> None:
    for number in (1, 2, 4):
        for view, image in study(running, number).ids.items():
            info = json.dumps({"quality": "complete" if view.endswith("CC") else "incomplete"})
            answer = running.http.put("/datastore/image/info", params={"image": image}, data={"info": info})
            answer.raise_for_status()
    reader.button("model").select_option(QUALITY)
    reader.button("update").click()
    told = reader.page.locator("mammo-panel .training")
    told.get_by_text(re.compile(r"epoch [1-9]\d* of 50")).wait_for()
    assert reader.button("update").count() == 0
    assert reader.page.locator("mammo-panel .bar").is_visible()
    reader.button("stop").click()
    told.get_by_text("Stopped; the model in service stays").wait_for()
    assert reader.button("update").is_enabled()
    assert reader.page.locator("mammo-panel .bar").count() == 0
    assert running.http.get(f"/mammo/models/{QUALITY}/history").json()["serving"] == 0


@pytest.mark.parametrize(
    ("status", "result", "text"),
    [
        ("STOPPED", {"outcome": "accepted", "serving": True, "reason": "better"}, "New weights accepted: better"),
        ("STOPPED", {"outcome": "refused", "serving": False}, "Stopped; the model in service stays"),
        ("RUNNING", {"outcome": "accepted", "serving": True}, "New weights accepted"),
        ("DONE", {"outcome": "accepted", "serving": True, "reason": "better"}, "New weights accepted: better"),
        (
            "DONE",
            {"outcome": "accepted", "serving": False, "reason": "better"},
            "New weights accepted: better; restored to number 0 since",
        ),
    ],
)
def test_the_panel_says_which_weights_are_served_after_a_training(
    reader: OhifPage, status: str, result: dict[str, object], text: str
) -> None:
    task = {"status": status, "request": {"model": QUALITY}, "result": result}
    reader.page.route("**/train/", lambda route: route.fulfill(json=task))
    reader.page.evaluate("import('/mammo/training.js').then(({ follow }) => follow())")
    reader.page.locator("mammo-panel .training").get_by_text(text, exact=True).wait_for()
    reader.page.unroute("**/train/")
    reader.page.evaluate("import('/mammo/training.js').then(({ follow }) => follow())")


def test_the_panel_fits_a_small_screen(reader: OhifPage) -> None:
    reader.idle()
    for key in ("next", "run", "lesion", "undo", "complete", "update", "submit"):
        box = reader.button(key).bounding_box()
        assert box["x"] + box["width"] <= 1366, key
        assert box["y"] + box["height"] <= 768, key


def test_ohifs_own_viewer_shows_the_mammograms_too(running: Server, reader: OhifPage) -> None:
    where = study(running, 1)
    reader.page.goto(f"{running.url}/ohif/viewer?StudyInstanceUIDs={where.uid}")
    reader.page.wait_for_selector(".cornerstone-canvas")
    reader.reach()
    greys = reader.page.wait_for_function(_GREYS).json_value()
    assert greys > 20
    reader.open(where.uid)
