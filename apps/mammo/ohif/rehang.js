// Hanging the open study's images anew: when their viewports have got another size, and when a reader asks for it.
// Not here: how they hang at first (hanging, study).

import { ohif } from './context.js';
import { displayAreaOf } from './hanging.js';
import { resetLook } from './looks.js';
import { hang, imageIn, placeOf, state } from './study.js';

const STEADY_FRAMES = 20;

/**
 * Hang images anew once the viewports have got their size: OHIF keeps the pan of a viewport that is given another.
 * @param {function(object): boolean} which of cornerstone's viewports
 */
export async function rehang(which = () => true) {
  state.hanging++;
  try {
    await settled();
    for (const { viewport } of ohif.libraries.cornerstone.getEnabledElements()) {
      const image = imageIn(viewport.id);
      if (image?.mask && viewport.csImage && which(viewport)) {
        viewport.resetCamera();
        const area = displayAreaOf(placeOf(image.displaySet));
        if (area && state.images.length > 1) {
          viewport.setDisplayArea(area);
        }
        hang(image, viewport.id);
        if (image.restored) {
          await image.mask.show(viewport.id);
        }
        viewport.render();
      }
    }
  } finally {
    state.hanging--;
  }
}

/** Show the active viewport's image as it first hung. */
export async function reset() {
  const { cornerstoneViewportService, viewportGridService } = ohif.services;
  const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
  if (!viewport?.csImage) {
    return;
  }
  resetLook(viewport);
  await rehang(({ id }) => id === viewport.id);
}

const isAsHung = viewport => viewport.getZoom() === 1 && viewport.getPan().every(shift => Math.abs(shift) < 1);

/** Keep images that nobody moved at their chest wall when their viewports change size. @returns what ends it */
export function followSizes() {
  const { cornerstone } = ohif.libraries;
  let waiting = false;
  const observer = new ResizeObserver(async () => {
    if (!waiting) {
      waiting = true;
      await rehang(isAsHung).finally(() => (waiting = false));
    }
  });
  const observe = ({ detail }) => observer.observe(detail.element);
  const enabled = cornerstone.Enums.Events.ELEMENT_ENABLED;
  cornerstone.eventTarget.addEventListener(enabled, observe);
  cornerstone.getEnabledElements().forEach(({ viewport }) => observer.observe(viewport.element));
  return () => {
    cornerstone.eventTarget.removeEventListener(enabled, observe);
    observer.disconnect();
  };
}

/** Wait until no viewport has changed its size for some frames. */
async function settled() {
  for (let same = 0, former = ''; same < STEADY_FRAMES; ) {
    await new Promise(requestAnimationFrame);
    const elements = ohif.libraries.cornerstone.getEnabledElements().map(({ viewport }) => viewport);
    const sizes = elements.map(({ id, canvas, csImage }) => [id, canvas.width, canvas.height, Boolean(csImage)].join());
    const now = sizes.join(';');
    same = now === former ? same + 1 : 0;
    former = now;
  }
}
