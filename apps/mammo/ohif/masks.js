// One image's mask: its labelmap in cornerstone, and every change of it as a step that can be taken back.
// Not here: where masks come from, and how they are stored.

import { ohif } from './context.js';

const TUMOUR = 1;
const COLOUR = [255, 176, 32, 255]; // a DICOM SEG recommends it, too (segmentation.py)
const MOST_STEPS = 50;
const MOST_FRAMES = 300; // to wait for a mask's colour

let made = 0; // masks

/**
 * How a mask was made, in DICOM's words, and by which model if by one; empty if that is not known.
 * @typedef {{method?: 'AUTOMATIC'|'SEMIAUTOMATIC'|'MANUAL', model?: string}} Origin
 */
const BY_HAND = { method: 'MANUAL' };

/**
 * What a model sees: probabilities, 0 to 255, row by row, and the threshold from which on they are marked.
 * @typedef {{soft: Uint8Array, threshold: number}} Outline
 */

/** The origin of a mask once a person has changed it. @param {Origin} origin @returns {Origin} */
export const edited = origin => (origin.model ? { ...origin, method: 'SEMIAUTOMATIC' } : origin);

/** The part of a mask that one action changed. `before` and `after` are row by row; `sources` has the mask's. */
class Step {
  constructor(top, left, height, width, before, after) {
    Object.assign(this, { top, left, height, width, before, after, sources: null });
  }

  /** Whether only the threshold was moved. */
  get isMove() {
    const { before, after } = this.sources;
    return before.outline !== after.outline && before.outline?.soft === after.outline?.soft;
  }
}

/** The mask of one image. */
export class Mask {
  /**
   * @param {{id: string, rows: number, columns: number}} image
   * @param {object} displaySet of that image
   */
  constructor(image, displaySet) {
    this.image = image;
    this.displaySet = displaySet;
    // Another one whenever the study is opened: of a former one OHIF remembers a table of colours that is gone.
    this.segmentationId = `mammo-${++made}-${image.id}`;
    this.steps = [];
    this.position = 0; // steps before it are done, those after it were taken back
    this.savedAt = 0; // position that the server has; -1 if none
    this.pixels = 0; // marked ones
    this.known = null; // as it was after the last step
    /** @type {Origin} */
    this.origin = BY_HAND;
    /** @type {?Outline} */
    this.outline = null;
  }

  /** Whether there is something that the server does not have. */
  get isUnsaved() {
    return this.position !== this.savedAt;
  }

  /** Whether a person marked something that the server does not have. */
  get hasOwnMarks() {
    this.commit();
    return this.isUnsaved && this.origin.method !== 'AUTOMATIC';
  }

  get canUndo() {
    return this.position > 0;
  }

  get canRedo() {
    return this.position < this.steps.length;
  }

  /** Make the labelmap if there is none; after a failure it is tried again. */
  ensure() {
    this.making ??= this.make().catch(error => {
      this.making = null;
      throw error;
    });
    return this.making;
  }

  async make() {
    if (!this.displaySet.imageIds) { // OHIF looks them up when it first shows an image
      this.displaySet.imageIds = ohif.dataSource.getImageIdsForDisplaySet(this.displaySet);
    }
    await ohif.services.segmentationService.createLabelmapForDisplaySet(this.displaySet, {
      segmentationId: this.segmentationId,
      label: this.image.id,
      segments: { [TUMOUR]: { segmentIndex: TUMOUR, label: 'tumour', active: true } },
    });
    if (this.live.length !== this.image.rows * this.image.columns) {
      throw new Error('The image that OHIF shows has another size than the one on the server');
    }
    this.known = new Uint8Array(this.live);
  }

  /** Show it in a viewport that shows its image. */
  async show(viewportId) {
    await this.ensure();
    const { segmentationService } = ohif.services;
    const segmentationId = this.segmentationId;
    const shown = segmentationService.getSegmentationRepresentations(viewportId, { segmentationId });
    if (!shown.length) {
      await segmentationService.addSegmentationRepresentation(viewportId, { segmentationId, type: 'Labelmap' });
      segmentationService.setSegmentColor(viewportId, segmentationId, TUMOUR, COLOUR);
    }
    segmentationService.setActiveSegmentation(viewportId, segmentationId);
    segmentationService.setActiveSegment(segmentationId, TUMOUR);
    await this.coloured(viewportId);
  }

  /** Draw a viewport once the mask in it has its colour: cornerstone may have drawn it before, and then it is black. */
  async coloured(viewportId) {
    for (let frame = 0; frame < MOST_FRAMES; frame++) {
      const viewport = ohif.services.cornerstoneViewportService.getCornerstoneViewport(viewportId);
      const shown = viewport?.getActors().find(({ representationUID }) => representationUID?.startsWith(this.segmentationId));
      const colour = [];
      shown?.actor.getProperty().getRGBTransferFunction(0)?.getColor(TUMOUR, colour);
      if (colour.length && COLOUR.slice(0, 3).every((value, index) => Math.abs(255 * colour[index] - value) < 1)) {
        viewport.render();
        return;
      }
      await new Promise(requestAnimationFrame);
    }
  }

  /** Cornerstone's own pixels, row by row; tools draw into them. */
  get live() {
    const { cornerstone, cornerstoneTools } = ohif.libraries;
    const data = cornerstoneTools.segmentation.state.getSegmentation(this.segmentationId).representationData.Labelmap;
    return cornerstone.cache.getImage(data.imageIds[0]).voxelManager.getScalarData();
  }

  /** Note what has been drawn since the last step as one step, by a person if nothing is said; true if there was. */
  commit(origin = edited(this.origin), outline = this.outline) {
    if (!this.known) {
      return false;
    }
    const step = this.difference(this.live);
    if (!step) {
      return false;
    }
    if (this.savedAt > this.position) {
      this.savedAt = -1; // what the server has can no longer be reached
    }
    step.sources = { before: { origin: this.origin, outline: this.outline }, after: { origin, outline } };
    Object.assign(this, { origin, outline });
    this.steps.splice(this.position, Infinity, step);
    this.position++;
    if (this.steps.length > MOST_STEPS) {
      this.steps.shift();
      this.position--;
      this.savedAt = Math.max(this.savedAt - 1, -1);
    }
    this.copy(step, step.after, this.known);
    this.count(step.before, -1);
    this.count(step.after, 1);
    return true;
  }

  /**
   * Give it other pixels, as one step.
   * @param {Origin} [origin] a person's change if left out
   * @param {?Outline} [outline] that they were made of; the same as before if left out
   */
  replace(pixels, origin, outline = this.outline) {
    this.commit();
    this.live.set(pixels);
    if (!this.commit(origin, outline)) {
      Object.assign(this, { origin: origin ?? this.origin, outline }); // the same pixels, none for instance, may come from elsewhere
    }
    this.redraw();
  }

  /**
   * Move the threshold of the model's outline; what was drawn elsewhere stays. Moves in a row are one step, from where
   * the first began: what was drawn comes back where the threshold does.
   */
  moveThreshold(threshold) {
    if (this.lastDone()?.isMove && this.isUnsaved) {
      this.undo();
    }
    const pixels = this.snapshot();
    const { soft, threshold: former } = this.outline;
    for (let index = 0; index < soft.length; index++) {
      const marked = soft[index] >= threshold;
      if (marked !== soft[index] >= former) {
        pixels[index] = Number(marked);
      }
    }
    this.replace(pixels, undefined, { soft, threshold });
  }

  /** Mark further pixels, as one step. */
  add(pixels, origin) {
    const sum = new Uint8Array(this.live);
    pixels.forEach((value, index) => value && (sum[index] = TUMOUR));
    this.replace(sum, origin);
  }

  /** Give it the pixels that the server has. */
  load(pixels, origin) {
    this.replace(pixels.map(value => (value ? TUMOUR : 0)), origin);
    this.forget();
  }

  /** The last step that is done, what was just drawn among them; null if there is none. */
  lastDone() {
    this.commit();
    return this.steps[this.position - 1] ?? null;
  }

  /** Note that the server has it as it is now, or as it was after a step, which may be gone meanwhile. */
  saved(step = this.lastDone()) {
    this.savedAt = step ? this.steps.indexOf(step) + 1 || -1 : 0;
  }

  /** No step can be taken back any more, and the server has it as it is. */
  forget() {
    this.steps = [];
    this.position = 0;
    this.savedAt = 0;
  }

  undo() {
    this.commit();
    if (this.canUndo) {
      this.position--;
      this.take(this.steps[this.position], 'after', 'before');
    }
  }

  redo() {
    this.commit();
    if (this.canRedo) {
      this.take(this.steps[this.position], 'before', 'after');
      this.position++;
    }
  }

  take(step, from, to) {
    for (const target of [this.live, this.known]) {
      this.copy(step, step[to], target);
    }
    Object.assign(this, step.sources[to]);
    this.count(step[from], -1);
    this.count(step[to], 1);
    this.redraw();
  }

  /** A copy of it as it is now. */
  snapshot() {
    this.commit();
    return new Uint8Array(this.known);
  }

  redraw() {
    ohif.libraries.cornerstoneTools.segmentation.triggerSegmentationEvents.triggerSegmentationDataModified(
      this.segmentationId
    );
  }

  difference(live) {
    const { rows, columns } = this.image;
    let [top, bottom, left, right] = [rows, -1, columns, -1];
    for (let row = 0, index = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, index++) {
        if (live[index] !== this.known[index]) {
          live[index] &&= TUMOUR; // whatever segment a tool painted with
          top = Math.min(top, row);
          bottom = row;
          left = Math.min(left, column);
          right = Math.max(right, column);
        }
      }
    }
    if (bottom < 0) {
      return null;
    }
    const [height, width] = [bottom - top + 1, right - left + 1];
    const cut = pixels => {
      const part = new Uint8Array(height * width);
      for (let row = 0; row < height; row++) {
        const start = (top + row) * columns + left;
        part.set(pixels.subarray(start, start + width), row * width);
      }
      return part;
    };
    return new Step(top, left, height, width, cut(this.known), cut(live));
  }

  copy(step, part, target) {
    for (let row = 0; row < step.height; row++) {
      const values = part.subarray(row * step.width, (row + 1) * step.width);
      target.set(values, (step.top + row) * this.image.columns + step.left);
    }
  }

  count(part, sign) {
    for (const value of part) {
      this.pixels += value ? sign : 0;
    }
  }
}

/** How masks look in all viewports. @param {number} opacity from 0 to 1 */
export function setOpacity(opacity) {
  const style = {
    renderFill: true,
    renderOutline: opacity > 0,
    fillAlpha: opacity,
    fillAlphaInactive: opacity,
    renderFillInactive: true,
    renderOutlineInactive: opacity > 0,
    outlineWidth: 2,
    outlineWidthInactive: 2,
    outlineOpacity: 1,
    outlineOpacityInactive: 1,
  };
  ohif.services.segmentationService.setStyle({ type: 'Labelmap' }, style);
}
