"""The mammography mode with cases that are not four good views, and with saved labels: nothing drawn or saved is lost.

The tests share one browser and one server; each opens the study that it needs, of a patient of its own.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom.encaps import encapsulate, generate_pixel_data_frame
from pydicom.uid import ComputedRadiographyImageStorage, RLELossless

from monai_mammo.datasets import phantom
from monai_mammo.dicom.header import FILM_MODALITIES

from .conftest import LESION, SEGMENTATION, Server
from .ohif_page import OhifPage
from .ohif_studies import SHAPE, change, copy_of, saved_mask, study

pytestmark = pytest.mark.slow

TWO_VIEWS, ONE_VIEW, EIGHT_VIEWS, METHODS, MISSING, TWICE, KEPT, UNUSABLE, TORN, HELD, LOST, SPOT = range(1, 13)

_REVERSED = """() => {
  const { displaySetService } = window.mammo.ohif.services;
  const sets = displaySetService.getActiveDisplaySets();
  displaySetService.getActiveDisplaySets = () => [...sets].reverse();
}"""
"""As if the images had come in another order."""


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom study for each test."""
    studies = tmp_path_factory.mktemp("cases") / "studies"
    phantom.write_phantoms(studies, patients=SPOT, seed=5, rows=SHAPE[0], columns=SHAPE[1], truncated_fraction=0)
    shutil.rmtree(studies / "masks")
    for number, pattern in ((TWO_VIEWS, "L_*.dcm"), (ONE_VIEW, "[LR]_MLO.dcm"), (ONE_VIEW, "R_CC.dcm")):
        for file in files_of(studies, number, pattern):
            file.unlink()
    change(files_of(studies, ONE_VIEW)[0], Modality="RG")
    for file in files_of(studies, TWO_VIEWS):
        change(file, Modality="CR", SOPClassUID=ComputedRadiographyImageStorage, BodyPartExamined="BREAST")
    for file in files_of(studies, EIGHT_VIEWS):
        copy_of(file)
    copy_of(files_of(studies, SPOT, "R_CC.dcm")[0], EstimatedRadiographicMagnificationFactor="1.8")
    change(files_of(studies, UNUSABLE)[0], PresentationIntentType="FOR PROCESSING")
    tear(files_of(studies, TORN, "R_CC.dcm")[0])
    return studies


def files_of(studies: Path, number: int, pattern: str = "*.dcm") -> list[Path]:
    """The images of a patient."""
    return sorted(studies.glob(f"*{number:04d}/*/{pattern}"))


def tear(file: Path) -> None:
    """Leave half of an image's pixels, run-length encoded: to a browser, which does not notice, the rest is black."""
    dataset = pydicom.dcmread(file)
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.compress(RLELossless)
    [frame] = generate_pixel_data_frame(dataset.PixelData, 1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 4 * 2]])
    dataset.save_as(file)


def label_of(server: Server, image: str) -> tuple[Any, ...]:
    """How a label was made, by which model, and what its DICOM SEG says of that."""
    info = server.http.get("/datastore/label/info", params={"label": image, "tag": "final"}).json()
    [segment] = pydicom.dcmread(server.studies / "labels" / "final" / f"{image}.dcm").SegmentSequence
    return info.get("method"), info.get("model"), segment.SegmentAlgorithmType, segment.get("SegmentAlgorithmName")


def on_screen(server: Server, study: str) -> int:
    """How many images of a study can be drawn into at first."""
    return min(4, [row["problem"] for row in server.http.get(f"/mammo/studies/{study}").json()].count(None))


def stroke(reader: OhifPage, sop: str, row: int) -> None:
    """Draw a stroke into the active image."""
    if reader.button("brush").get_attribute("aria-pressed") == "false":
        reader.press("brush")
    reader.drag(sop, (row, 120), (row, 150))
    reader.idle()


@pytest.mark.parametrize(("number", "images"), [(ONE_VIEW, 1), (TWO_VIEWS, 2)])
def test_all_views_of_a_small_study_are_shown(running: Server, reader: OhifPage, number: int, images: int) -> None:
    where = study(running, number)
    reader.open(where.uid, images)
    assert set(reader.viewports()) == set(where.sops.values())
    screens = reader.page.evaluate("window.mammo.ohif.libraries.cornerstone.getEnabledElements().length")
    assert (screens == 1) == (images == 1)
    assert reader.page.locator("mammo-panel [data-key^=hang-]").count() == (0 if images == 1 else 2)


def test_a_search_that_finds_nothing_says_so(running: Server, reader: OhifPage, tmp_path: Path) -> None:
    where, file = study(running, TWO_VIEWS), tmp_path / "mask.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((1, *SHAPE), np.uint8)), str(file))
    nothing = httpx.Request("POST", running.url, data={"params": "{}"}, files={"image": file.read_bytes()})
    answer = {"body": nothing.read(), "content_type": nothing.headers["content-type"]}
    reader.open(where.uid, images=2)
    reader.page.route(
        f"**/infer/{SEGMENTATION}?image={where.ids['RCC']}&*", lambda route: route.fulfill(**answer), times=1
    )
    reader.press("run")
    assert reader.notice().startswith("The model finds nothing in: R CC\n")
    assert reader.labelmap(where.ids["RMLO"], SHAPE).any()


def test_the_mode_is_offered_for_each_modality_that_the_server_takes(reader: OhifPage) -> None:
    offered = """async modalities => {
      const { modeFactory } = (await import('/mammo/mode.js')).default;
      const loadModules = async () => [{ modeFactory: async () => ({ routes: [] }) }];
      return (await modeFactory({ loadModules })).isValidMode({ modalities }).valid;
    }"""
    taken = {"MG", "SEG\\MG", *FILM_MODALITIES}
    assert {each for each in (*taken, "CT", "SEG") if reader.page.evaluate(offered, each)} == taken


def test_images_that_are_on_no_screen_are_searched_and_submitted_too(
    running: Server, reader: OhifPage, tmp_path: Path
) -> None:
    where = study(running, EIGHT_VIEWS)
    rows = running.http.get(f"/mammo/studies/{where.uid}").json()
    copies = {row["id"] for row in rows if row["id"].endswith("_2")}
    assert (len(rows), len(copies)) == (8, 4)
    reader.open(where.uid)
    reader.press("run")
    assert reader.page.locator("mammo-panel .notice").all_inner_texts() == []
    cards = reader.page.locator("mammo-panel .image b").all_inner_texts()
    assert cards == [f"{view} {number}" for view in ("R CC", "L CC", "R MLO", "L MLO") for number in (1, 2)]
    found = {row["id"]: reader.labelmap(row["id"], SHAPE) for row in rows}
    assert all(mask.any() for mask in found.values())
    reader.press("submit-all")
    assert "All images of this case are done" in reader.notice()
    reader.page.evaluate(_REVERSED)
    for layout in ("1x4", "2x2"):
        reader.press(f"hang-{layout}")
        assert set(reader.viewports()) == {row["sop"] for row in rows if row["id"] not in copies}, (
            "of equal views the first"
        )
    reader.open(where.uid)
    reader.press("submit-all")  # those that are on no screen keep what was saved
    for row in rows:
        np.testing.assert_array_equal(saved_mask(running, tmp_path, row["id"]), found[row["id"]])


def test_a_spot_view_has_a_name_of_its_own_and_is_not_called_normal_unseen(running: Server, reader: OhifPage) -> None:
    uid = study(running, SPOT).uid
    reader.open(uid)
    cards = reader.page.locator("mammo-panel .image b")
    assert cards.all_inner_texts() == ["R CC", "L CC", "R MLO", "L MLO", "R CC (part)"]
    reader.press("submit-all")
    assert "not on the screen: R CC (part)" in reader.notice()
    reader.page.locator('mammo-panel [data-key="submit"]', has_text="Submit R CC (part): no tumour").wait_for()
    assert [row["labelled"] for row in running.http.get(f"/mammo/studies/{uid}").json()].count(True) == 4
    reader.ready(1)
    reader.press("submit")
    assert "All images of this case are done" in reader.notice()


def test_a_label_says_whether_a_model_or_a_person_made_it(running: Server, reader: OhifPage) -> None:
    where = study(running, METHODS)
    images, sops = where.ids, where.sops
    reader.open(where.uid)
    reader.choose(images["RCC"])
    stroke(reader, sops["RCC"], 100)
    reader.press("run")
    reader.choose(images["LCC"])
    stroke(reader, sops["LCC"], 60)
    reader.choose(images["RMLO"])
    stroke(reader, sops["RMLO"], 60)
    reader.press("undo")
    reader.press("submit-all")
    automatic = ("AUTOMATIC", SEGMENTATION, "AUTOMATIC", SEGMENTATION)
    edited = ("SEMIAUTOMATIC", SEGMENTATION, "SEMIAUTOMATIC", SEGMENTATION)
    made = {view: label_of(running, image) for view, image in images.items()}
    assert made == {"RCC": ("MANUAL", None, "MANUAL", None), "LCC": edited, "RMLO": automatic, "LMLO": automatic}
    reader.open(where.uid)
    reader.choose(images["RMLO"])
    reader.press("submit")
    assert label_of(running, images["RMLO"]) == automatic
    reader.choose(images["RCC"])
    reader.press("lesion")
    with reader.page.expect_request(lambda request: LESION in request.url):
        reader.click(sops["RCC"], 150, 180)
    reader.idle()
    reader.press("submit")
    assert label_of(running, images["RCC"])[:2] == ("SEMIAUTOMATIC", LESION)


def test_a_saved_label_that_does_not_come_is_not_overwritten(running: Server, reader: OhifPage, tmp_path: Path) -> None:
    where = study(running, MISSING)
    image, sop = where.ids["RCC"], where.sops["RCC"]
    reader.open(where.uid)
    reader.choose(image)
    stroke(reader, sop, 100)
    reader.press("submit")
    saved = saved_mask(running, tmp_path, image)
    assert saved.any()
    down = json.dumps({"reason": "the archive does not answer", "remedy": "Try again"})
    reader.page.route("**/mammo/masks/*", lambda route: route.fulfill(status=503, body=down))
    reader.page.goto(f"{running.url}/ohif/mammo?StudyInstanceUIDs={where.uid}")
    reader.page.locator("mammo-panel .notice.error").wait_for()
    assert re.search("mask of R CC did not come.*does not answer", reader.notice())
    assert "not loaded" in reader.image_state(image)
    reader.button(f"image-{image}").click()
    reader.page.locator('mammo-panel [data-key="submit"]:disabled', has_text="R CC").wait_for()
    reader.page.keyboard.press("b")
    reader.reach()
    reader.drag(sop, (100, 120), (110, 150))
    reader.page.keyboard.press("Control+Enter")
    reader.page.locator("mammo-panel .notice.error").first.wait_for()
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image), saved)
    reader.page.unroute("**/mammo/masks/*")
    reader.button(f"image-{image}").click()
    reader.ready()
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), saved)
    reader.page.locator(f'mammo-panel [data-key="image-{image}"]', has_text="submitted").wait_for()
    assert reader.button("submit").is_enabled()
    assert reader.page.locator("mammo-panel .notice.error").count() == 0


def test_a_label_saved_in_another_window_meanwhile_is_not_overwritten(
    running: Server, reader: OhifPage, tmp_path: Path
) -> None:
    where = study(running, TWICE)
    image, sop = where.ids["RCC"], where.sops["RCC"]
    reader.open(where.uid)
    reader.choose(image)
    other = np.zeros(SHAPE, np.uint8)
    other[40:60, 40:60] = 1
    file = tmp_path / "other.png"
    Image.fromarray(other).save(file)
    answer = running.http.put(
        "/datastore/label", params={"image": image}, files={"label": (file.name, file.read_bytes())}
    )
    answer.raise_for_status()
    stroke(reader, sop, 100)
    drawn = reader.labelmap(image, SHAPE)
    reader.press("submit")
    assert "saved meanwhile in another window" in reader.notice()
    assert "unsaved" in reader.image_state(image)
    np.testing.assert_array_equal(reader.labelmap(image, SHAPE), drawn)
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image) > 0, other > 0)
    # Once it is opened again, the reader has seen the newer one, and what is saved then counts.
    reader.open(where.uid)
    for row in (120, 140):
        reader.choose(image)
        stroke(reader, sop, row)
        drawn = reader.labelmap(image, SHAPE)
        reader.press("submit")
        np.testing.assert_array_equal(saved_mask(running, tmp_path, image) > 0, drawn > 0)


def test_a_save_whose_answer_was_lost_blocks_nothing(running: Server, reader: OhifPage) -> None:
    where = study(running, LOST)

    def lose(route: Any) -> None:
        route.fetch()
        route.abort()

    reader.open(where.uid)
    reader.choose(where.ids["RCC"])
    stroke(reader, where.sops["RCC"], 100)
    reader.page.route("**/datastore/label?*", lose, times=1)
    reader.press("submit-all")
    assert "unsaved" in reader.image_state(where.ids["RCC"])
    reader.press("submit-all")
    assert "All images of this case are done" in reader.notice()
    reader.press("submit-all")
    rows = running.http.get(f"/mammo/studies/{where.uid}").json()
    assert [row["revision"] for row in rows] == [1, 1, 1, 1], "no label is saved twice"


def test_work_kept_from_before_does_not_overwrite_what_was_saved_since(
    running: Server, reader: OhifPage, tmp_path: Path
) -> None:
    where = study(running, LOST)
    image = where.ids["RCC"]
    reader.open(where.uid)
    reader.choose(image)
    stroke(reader, where.sops["RCC"], 130)
    go = "to => window.mammo.ohif.run('navigateHistory', { to })"
    reader.page.evaluate(go, "/")
    reader.page.locator("mammo-panel").wait_for(state="detached")
    assert not reader.page.evaluate("window.dispatchEvent(new Event('beforeunload', { cancelable: true }))"), "warned"
    reader.page.evaluate(go, f"/mammo?StudyInstanceUIDs={study(running, MISSING).uid}")
    reader.page.wait_for_function("uid => ![uid, ''].includes(window.mammo.study.state.study)", arg=where.uid)
    reader.ready()
    file = tmp_path / "other.png"
    Image.fromarray(np.eye(*SHAPE, dtype=np.uint8)).save(file)
    running.http.put(
        "/datastore/label", params={"image": image}, files={"label": (file.name, file.read_bytes())}
    ).raise_for_status()
    reader.button(f"draft-{where.uid}").click()
    reader.page.wait_for_function("uid => window.mammo.study.state.study === uid", arg=where.uid)
    reader.ready()
    reader.choose(image)
    reader.press("submit")
    assert "saved meanwhile in another window" in reader.notice()
    np.testing.assert_array_equal(saved_mask(running, tmp_path, image) > 0, np.eye(*SHAPE) > 0)


def test_a_search_of_all_views_leaves_what_a_person_marked_or_submitted(running: Server, reader: OhifPage) -> None:
    where = study(running, KEPT)
    reader.open(where.uid)
    reader.choose(where.ids["LMLO"])
    reader.press("submit")
    reader.choose(where.ids["RCC"])
    stroke(reader, where.sops["RCC"], 100)
    drawn = reader.labelmap(where.ids["RCC"], SHAPE)
    reader.press("run")
    np.testing.assert_array_equal(reader.labelmap(where.ids["RCC"], SHAPE), drawn)
    assert not reader.labelmap(where.ids["LMLO"], SHAPE).any()
    assert reader.labelmap(where.ids["LCC"], SHAPE).any()
    assert "left as they are: R CC, L MLO" in reader.notice()
    reader.press("scope-false")
    reader.press("run")
    assert (reader.labelmap(where.ids["RCC"], SHAPE) != drawn).any()
    reader.press("undo")
    np.testing.assert_array_equal(reader.labelmap(where.ids["RCC"], SHAPE), drawn)
    reader.press("scope-true")


def test_an_image_that_cannot_be_used_says_why_and_is_no_work(running: Server, reader: OhifPage) -> None:
    where = study(running, UNUSABLE)
    rows = running.http.get(f"/mammo/studies/{where.uid}").json()
    [unusable] = [row for row in rows if row["problem"]]
    reader.open(where.uid, images=3)
    assert unusable["problem"] in reader.image_state(unusable["id"])
    assert "0 of 3 done" in reader.page.locator("mammo-panel section").first.inner_text()
    reader.press("run")
    assert reader.page.locator("mammo-panel .notice.error").count() == 0
    reader.press("submit-all")
    assert "All images of this case are done" in reader.notice()
    labelled = {row["id"] for row in running.http.get(f"/mammo/studies/{where.uid}").json() if row["labelled"]}
    assert labelled == set(where.ids.values()) - {unusable["id"]}


def test_an_image_without_its_pixels_is_no_normal_breast(running: Server, reader: OhifPage) -> None:
    where = study(running, TORN)
    torn = where.ids["RCC"]
    reader.open(where.uid)
    reader.choose(torn)
    reader.press("submit")
    [told] = [row["problem"] for row in running.http.get(f"/mammo/studies/{where.uid}").json() if row["id"] == torn]
    assert told in reader.notice()
    assert told in reader.image_state(torn)
    assert reader.button("submit").is_disabled()
    frames = f"**/{where.sops['LCC']}/frames/*"
    reader.page.route(frames, lambda route: route.fulfill(status=500))
    reader.open(where.uid, images=2)
    reader.page.locator("mammo-panel .notice.error", has_text="L CC cannot be used: its pixels did not come").wait_for()
    reader.press("submit-all")
    assert "All images of this case are done" in reader.page.locator("mammo-panel .notice.info").inner_text()
    reader.page.unroute(frames)
    labelled = {row["id"] for row in running.http.get(f"/mammo/studies/{where.uid}").json() if row["labelled"]}
    assert labelled == {where.ids["RMLO"], where.ids["LMLO"]}
    reader.open(where.uid, images=3)
    reader.press("submit-all")
    assert "3 of 3 done" in reader.page.locator("mammo-panel section", has_text="Case").inner_text()


def test_a_key_that_is_held_or_pressed_twice_acts_once(running: Server, reader: OhifPage) -> None:
    where, keys = study(running, HELD), reader.page.keyboard
    saves: list[Any] = []
    cases: list[Any] = []
    reader.open(where.uid)
    reader.choose(where.ids["RCC"])
    reader.page.route("**/datastore/label?*", lambda route: saves.append(route))
    reader.page.route("**/activelearning/*", lambda route: cases.append(route))
    with reader.page.expect_request("**/datastore/label?*"):
        keys.press("Control+Enter")
    keys.press("Control+Enter")
    keys.press("n")  # too early: what is being saved would seem unsaved
    reader.page.locator('mammo-panel [data-key="next"]:disabled').wait_for()
    assert (len(saves), len(cases)) == (1, 0)
    saves[0].continue_()
    reader.idle()
    reader.page.unroute("**/datastore/label?*")
    keys.down("Control")
    for _ in range(3):
        keys.down("Enter")
        reader.idle()
    keys.up("Enter")
    keys.up("Control")
    rows = running.http.get(f"/mammo/studies/{where.uid}").json()
    assert {row["id"] for row in rows if row["labelled"]} == {where.ids["RCC"], where.ids["LCC"]}
    with reader.page.expect_request("**/activelearning/*"):
        keys.press("n")
    keys.press("n")
    reader.page.wait_for_timeout(200)
    cases[0].continue_()
    for _ in range(5):
        keys.press("n")
    reader.page.wait_for_function("uid => ![uid, ''].includes(window.mammo.study.state.study)", arg=where.uid)
    reader.ready(on_screen(running, reader.study()))
    assert len(cases) == 1
    assert reader.page.locator("mammo-panel .notice").count() == 0
    reader.page.unroute("**/activelearning/*")


def test_a_case_that_is_handed_back_is_free_for_others_and_comes_last(running: Server, reader: OhifPage) -> None:
    where = study(running, TWO_VIEWS)
    reader.open(where.uid, images=2)
    down = {"reason": "the archive does not answer", "remedy": "Try again"}
    reader.page.route("**/dicomweb/studies?*", lambda route: route.fulfill(status=502, json=down))
    before = leased(running)
    for key in ("hand-back", "next"):  # the next case by chance is then another one
        reader.press(key)
        assert "the archive does not answer" in reader.notice()
        assert reader.study() == where.uid
        assert leased(running) == before
    reader.page.unroute("**/dicomweb/studies?*")
    reader.choose(where.ids["RCC"])
    stroke(reader, where.sops["RCC"], 100)
    back = reader.button("hand-back")  # not with work in it, and it says why to whoever sees, hears or presses it
    assert back.get_attribute("title") == "Submit or undo first: R CC"
    assert back.get_attribute("aria-disabled") == "true"
    back.focus()
    reader.page.keyboard.press("Enter")
    reader.idle()
    assert reader.notice().startswith("Not handed back, for its masks are not submitted: R CC\nSubmit or undo")
    assert (reader.study(), leased(running)) == (where.uid, before)
    reader.press("undo")
    assert back.get_attribute("aria-disabled") is None
    seen = [where.uid]
    for _ in range(2):
        former = seen[-1]
        reader.button("hand-back").click()
        reader.page.wait_for_function("uid => ![uid, ''].includes(window.mammo.study.state.study)", arg=former)
        seen.append(reader.study())
        reader.ready(on_screen(running, seen[-1]))
        rows = running.http.get(f"/mammo/studies/{former}").json()
        assert not leased(running) & {row["id"] for row in rows}
    assert len(set(seen)) == 3


def leased(server: Server) -> set[str]:
    """All images that somebody has in hand."""
    return {image for lease in server.http.get("/mammo/worklist").json() for image in lease["images"]}
