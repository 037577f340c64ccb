// How images looked when they first hung, to show them so again: cornerstone's own reset makes a negative of MONOCHROME1.
// Not here: where they hang.

const looks = new Map(); // window and polarity, by imageId

/** Note the look of a viewport's image, the first time that it is seen. @param {?object} viewport of cornerstone's */
export function noteLook(viewport) {
  const imageId = viewport?.getCurrentImageId?.();
  if (viewport?.csImage && imageId && !looks.has(imageId)) {
    const { voiRange, invert } = viewport.getProperties();
    looks.set(imageId, { voiRange, invert });
  }
}

/** Give a viewport's image its first look, whole and upright. */
export function resetLook(viewport) {
  viewport.setProperties(looks.get(viewport.getCurrentImageId()) ?? {});
  viewport.resetCamera();
  viewport.render();
}
