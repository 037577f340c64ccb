"""OHIF with our mode in a real browser, as a reader uses it: opened, looked at, clicked, drawn into.

What is read out of the page comes from cornerstone itself, not from the panel. Not here: what ought to be there.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

PATIENCE = 90_000
"""Milliseconds: a shared core, and a renderer in software."""

_FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")

_VIEWPORTS = """() => {
  const { ohif } = window.mammo;
  return ohif.libraries.cornerstone.getEnabledElements().map(({ viewport }) => {
    const frame = viewport.element.getBoundingClientRect();
    const instance = ohif.services.displaySetService.getActiveDisplaySets()
      .flatMap(set => set.instances ?? []).find(each => viewport.getCurrentImageId?.()?.includes(each.SOPInstanceUID));
    const { rows, columns } = viewport.csImage ?? {};
    const at = (column, row) => {
      const { imageData } = viewport.getImageData();
      const [x, y] = viewport.worldToCanvas(imageData.indexToWorld([column, row, 0]));
      return [frame.left + x, frame.top + y];
    };
    return {
      id: viewport.id, sop: instance?.SOPInstanceUID, rows, columns,
      box: [frame.left, frame.top, frame.right, frame.bottom],
      first: rows ? at(0, 0) : null, last: rows ? at(columns - 1, rows - 1) : null,
      invert: viewport.getProperties?.().invert,
    };
  });
}"""

_AMBER = """() => Object.fromEntries(
  window.mammo.ohif.libraries.cornerstone.getEnabledElements().map(({ viewport: { canvas }, viewport }) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const isAmber = at => data[at] > 200 && Math.abs(data[at + 1] - 176) < 45 && data[at + 2] < 90;
    let count = 0;
    for (let at = 0; at < data.length; at += 4) {
      count += isAmber(at) ? 1 : 0;
    }
    const image = window.mammo.study.state.images.find(({ sop }) => viewport.getCurrentImageId()?.includes(sop));
    return [image?.sop ?? '', count];
  })
)"""

_LABELMAP = """id => {
  const { cornerstone, cornerstoneTools } = window.mammo.ohif.libraries;
  const { segmentationId } = window.mammo.study.state.images.find(image => image.id === id).mask;
  const segmentation = cornerstoneTools.segmentation.state.getSegmentation(segmentationId);
  const pixels = cornerstone.cache.getImage(segmentation.representationData.Labelmap.imageIds[0])
    .voxelManager.getScalarData();
  let text = '';
  for (let start = 0; start < pixels.length; start += 32768) {
    text += String.fromCharCode(...pixels.subarray(start, start + 32768));
  }
  return btoa(text);
}"""

_IMPORT = """async () => {
  const [{ ohif }, study, actions] = await Promise.all(
    ['context', 'study', 'actions'].map(name => import(`/mammo/${name}.js`)));
  window.mammo = { ohif, study, actions };
}"""

_READY = """count => {
  const { ohif, study } = window.mammo;
  const shown = ohif.libraries.cornerstone.getEnabledElements().filter(({ viewport }) => viewport.csImage);
  const images = study.state.images.filter(each => each.mask?.known);
  return shown.length >= count && images.length >= count && images.every(each => each.restored);
}"""

_IDLE = """() => {
  const { actions, study } = window.mammo;
  const noted = study.state.images.every(({ mask }) => !mask?.known || !mask.difference(mask.live));
  return noted && !actions.working.count && !study.state.hanging && !document.querySelector('mammo-panel').scheduled;
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield browser
        browser.close()


class OhifPage:
    """A tab with the mode; places are [row, column] of an image, images are named by the server's ids.

    Args:
        browser: of playwright.
        url: of the server.
        size: of the window, width and height in CSS pixels.
    """

    def __init__(self, browser: Any, url: str, size: tuple[int, int] = (1366, 768)) -> None:
        self.url = url
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.outside: list[str] = []
        self.page.on("request", lambda request: self._note(request.url))

    def open(self, study: str, images: int = 4) -> None:
        """Open a study, and wait until that many of its images are shown and can be drawn into."""
        self.page.goto(f"{self.url}/ohif/mammo?StudyInstanceUIDs={study}")
        self.ready(images)

    def ready(self, images: int = 4) -> None:
        """Wait until that many images are shown and can be drawn into."""
        self.page.wait_for_selector("mammo-panel")
        self.reach()
        self.page.wait_for_function(_READY, arg=images)
        self.idle()

    def reach(self) -> None:
        """Find the modules of a page that has been loaded; all that looks into it needs them."""
        self.page.evaluate(_IMPORT)

    def study(self) -> str:
        """The study that is open."""
        return str(self.page.evaluate("window.mammo.study.state.study"))

    def viewports(self) -> dict[str, dict[str, Any]]:
        """By SOP instance: where its viewport and its first and last pixel lie in the window (x, y)."""
        found = self.page.evaluate(_VIEWPORTS)
        return {viewport["sop"]: viewport for viewport in found if viewport["sop"]}

    def labelmap(self, image: str, shape: tuple[int, int]) -> np.ndarray:
        """An image's mask as cornerstone has it, (rows, columns)."""
        content = base64.b64decode(self.page.evaluate(_LABELMAP, image))
        return np.frombuffer(content, np.uint8).reshape(shape)

    def place(self, sop: str, row: float, column: float) -> tuple[float, float]:
        """Where a pixel lies in the window."""
        viewport = self.viewports()[sop]
        (x0, y0), (x1, y1) = viewport["first"], viewport["last"]
        x = x0 + (x1 - x0) * column / (viewport["columns"] - 1)
        y = y0 + (y1 - y0) * row / (viewport["rows"] - 1)
        return x, y

    def amber(self, least: int, most: int) -> dict[str, int]:
        """Wait until the screen shows, of each image, that many pixels in the colour of a mask's outline.

        Returns:
            how many there are, by SOP instance.
        """
        shown = f"([least, most]) => Object.values(({_AMBER})()).every(count => least <= count && count <= most)"
        self.page.wait_for_function(shown, arg=[least, most])
        return dict(self.page.evaluate(_AMBER))

    def click(self, sop: str, row: float, column: float) -> None:
        """Click on a pixel."""
        self.page.mouse.click(*self.place(sop, row, column), delay=60)

    def drag(self, sop: str, *places: tuple[float, float]) -> None:
        """Press at the first pixel, move over the others, release at the last."""
        x, y = self.place(sop, *places[0])
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.place(sop, *place), steps=8)
        self.page.mouse.up()

    def button(self, key: str) -> Any:
        """A control of the panel by its key."""
        return self.page.locator(f'mammo-panel [data-key="{key}"]')

    def press(self, key: str) -> None:
        """Press a button of the panel, and wait until what it began is done."""
        self.button(key).click()
        self.idle()

    def idle(self) -> None:
        """Wait until nothing is being asked of the server, drawn or hung."""
        self.page.wait_for_function(_IDLE)

    def choose(self, image: str) -> None:
        """Make an image the active one."""
        self.button(f"image-{image}").click()
        self.page.wait_for_function("id => window.mammo.study.state.active?.id === id", arg=image)
        self.idle()

    def image_state(self, image: str) -> str:
        """What the panel says of an image."""
        return str(self.button(f"image-{image}").inner_text())

    def notice(self) -> str:
        """What is said to the reader."""
        return str(self.page.locator("mammo-panel .notice").first.inner_text())

    def _note(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.outside.append(url)
