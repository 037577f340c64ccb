// The mouse in the viewports: brush and eraser in millimetres, and the tool that marks a lesion by a click or a box.
// Not here: what a mark leads to.

import { ohif, TOOL_GROUP } from './context.js';

export const TOOLS = { brush: 'CircularBrush', eraser: 'CircularEraser', lesion: 'MammoLesion', look: 'WindowLevel' };
export const BRUSH = { smallest: 1, largest: 30, usual: 5 }; // diameters in mm

const SMALLEST_BOX = 8; // CSS pixels; a shorter drag is a click that trembled

let diameter = BRUSH.usual;
let units = 1; // of the active image's world, per mm
let marked = () => {};

/** Make the lesion tool and put it into the viewports' tool group. @param onMark gets `(viewportId, mark)`, see `mark` */
export function installTools(onMark) {
  marked = onMark;
  const { cornerstoneTools } = ohif.libraries;
  const Tool = lesionTool(cornerstoneTools.BaseTool);
  if (!cornerstoneTools.state?.tools?.[Tool.toolName]) {
    cornerstoneTools.addTool(Tool);
  }
  const group = ohif.services.toolGroupService.getToolGroup(TOOL_GROUP);
  if (!group.hasTool(Tool.toolName)) {
    group.addTool(Tool.toolName);
  }
  setBrush(diameter);
}

/** Name of the tool on the left mouse button. */
export function activeTool() {
  return ohif.services.toolGroupService.getToolGroup(TOOL_GROUP)?.getActivePrimaryMouseButtonTool();
}

/** Put a tool on the left mouse button. @param {keyof TOOLS} name */
export function useTool(name) {
  ohif.run('setToolActive', { toolName: TOOLS[name], toolGroupId: TOOL_GROUP });
  if (name === 'brush' || name === 'eraser') {
    setBrush(diameter); // cornerstone starts with one of 25 mm
  }
  ohif.services.toolbarService.refreshToolbarState?.({ viewportId: ohif.services.viewportGridService.getActiveViewportId() });
}

/** Diameter of brush and eraser in mm. */
export const brush = () => diameter;

/** Set the diameter of brush and eraser. @param {number} mm */
export function setBrush(mm) {
  diameter = Math.min(BRUSH.largest, Math.max(BRUSH.smallest, mm));
  ohif.libraries.cornerstoneTools.utilities.segmentation.setBrushSizeForToolGroup(TOOL_GROUP, (diameter / 2) * units);
}

/** Say how many units of the active image's world are a millimetre: 1 if its pixel spacing is known. */
export function setUnits(perMillimetre) {
  if (units !== perMillimetre) {
    units = perMillimetre;
    setBrush(diameter);
  }
}

/** The brush in words. */
export function brushInWords() {
  return units === 1 ? `${diameter < 10 ? diameter.toFixed(1) : Math.round(diameter)} mm` : `${Math.round(diameter * units)} px`;
}

/**
 * With a tool that marks, let the first press in another viewport only choose it: it is meant so, and would mark.
 * Where nothing can be marked, every press is kept from the tool.
 * @param {function(string): boolean} canMark of a viewport's id
 * @returns a function that ends it
 */
export function guardOtherViewports(canMark) {
  const guard = event => {
    const { viewportGridService } = ohif.services;
    const viewportId = viewportAt(event.target);
    const marks = [TOOLS.brush, TOOLS.eraser, TOOLS.lesion].includes(activeTool());
    const isActive = viewportId === viewportGridService.getActiveViewportId();
    if (!marks || event.button !== 0 || !viewportId || (isActive && canMark(viewportId))) {
      return;
    }
    event.stopImmediatePropagation();
    event.preventDefault();
    viewportGridService.setActiveViewportId(viewportId);
  };
  window.addEventListener('mousedown', guard, true);
  return () => window.removeEventListener('mousedown', guard, true);
}

/**
 * Tell of each stroke that tools draw, once the button is up and the tool is done.
 * @param {function(Set<string>)} drawn gets the ids of the segmentations that it changed
 * @returns a function that ends it
 */
export function followDrawing(drawn) {
  const { cornerstone, cornerstoneTools } = ohif.libraries;
  const touched = new Set();
  let pressed = false;
  const note = () => {
    if (!pressed) {
      drawn(new Set(touched));
      touched.clear();
    }
  };
  const modified = ({ detail }) => {
    touched.add(detail.segmentationId);
    setTimeout(note);
  };
  const down = () => (pressed = true);
  const up = () => {
    pressed = false;
    setTimeout(note);
  };
  const event = cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
  cornerstone.eventTarget.addEventListener(event, modified);
  window.addEventListener('pointerdown', down, true);
  window.addEventListener('pointerup', up, true);
  return () => {
    cornerstone.eventTarget.removeEventListener(event, modified);
    window.removeEventListener('pointerdown', down, true);
    window.removeEventListener('pointerup', up, true);
  };
}

/** Id of the viewport in which an element of the page lies. */
function viewportAt(target) {
  const { cornerstone } = ohif.libraries;
  return cornerstone.getEnabledElements().find(({ viewport }) => viewport.element.contains(target))?.viewport.id;
}

/** The pixel [row, column] of a viewport's image at a place of the world; beside the image, where it would lie. */
function pixelAt(viewport, world) {
  const [column, row] = viewport.getImageData().imageData.worldToIndex(world);
  return [Math.round(row), Math.round(column)];
}

function lesionTool(BaseTool) {
  return class LesionTool extends BaseTool {
    static toolName = TOOLS.lesion;

    constructor(toolProps = {}, defaults = { supportedInteractionTypes: ['Mouse', 'Touch'], configuration: {} }) {
      super(toolProps, defaults);
    }

    preMouseDownCallback = event => {
      this.start = event.detail.currentPoints;
      return true;
    };

    mouseDragCallback = event => {
      const { element, currentPoints } = event.detail;
      if (this.start) {
        this.frame ??= element.appendChild(newFrame());
        place(this.frame, this.start.canvas, currentPoints.canvas);
      }
    };

    mouseClickCallback = event => this.finish(event);

    mouseUpCallback = event => this.finish(event);

    finish(event) {
      const { element, currentPoints } = event.detail;
      this.frame?.remove();
      this.frame = null;
      if (!this.start) {
        return;
      }
      const { canvas, world } = this.start;
      this.start = null;
      const { viewport } = ohif.libraries.cornerstone.getEnabledElement(element);
      const drawn = currentPoints.canvas.map((value, axis) => Math.abs(value - canvas[axis]));
      const { dimensions } = viewport.getImageData();
      const corners = [world, currentPoints.world].map(place => pixelAt(viewport, place));
      marked(viewport.id, mark(...corners, drawn, [dimensions[1], dimensions[0]]));
    }
  };
}

/** A click as a point, a drag as a half-open box within the image, as the server wants them; null beside the image. */
function mark(from, to, drawn, size) {
  const isPoint = Math.max(...drawn) < SMALLEST_BOX;
  const [first, last] = isPoint ? [from, from] : [from, to];
  const lower = size.map((_, axis) => Math.max(0, Math.min(first[axis], last[axis])));
  const upper = size.map((length, axis) => Math.min(length, Math.max(first[axis], last[axis]) + 1));
  if (lower.some((value, axis) => value >= upper[axis])) {
    return null;
  }
  return isPoint ? { point: lower } : { box: [...lower, ...upper] };
}

function newFrame() {
  const frame = document.createElement('div');
  frame.style.cssText = 'position:absolute;border:1.5px dashed #ffb020;pointer-events:none;z-index:5';
  return frame;
}

function place(frame, a, b) {
  frame.style.left = `${Math.min(a[0], b[0])}px`;
  frame.style.top = `${Math.min(a[1], b[1])}px`;
  frame.style.width = `${Math.abs(a[0] - b[0])}px`;
  frame.style.height = `${Math.abs(a[1] - b[1])}px`;
}
