// What OHIF itself shows and hears in our mode: the text over the images, and the keys. Not here: the panel.

import { ohif, TOOL_GROUP } from './context.js';
import { viewOf } from './hanging.js';
import { labelOf } from './study.js';

const overlay = (id, title, condition, contentF) => ({
  id,
  inheritsFrom: 'ohif.overlayItem',
  label: '',
  title,
  condition,
  contentF,
});

const isOn = (instance, side) => instance && (viewOf(instance).laterality === 'L' ? 'L' : 'R') === side;

// The chest wall is where the breasts meet; the view's name stands on the other side, over air.
const corner = side => [
  overlay('MammoView', 'View', ({ referenceInstance }) => isOn(referenceInstance, side), ({ referenceInstance }) =>
    labelOf(referenceInstance)
  ),
];

/** Customizations of the text over the images. */
export const labels = {
  'viewportOverlay.topLeft': { $set: corner('R') },
  'viewportOverlay.topRight': { $set: corner('L') },
  'viewportOverlay.bottomRight': { $set: [] },
};

const KEYS = [
  ['mammoNext', 'Mammography: next case', 'n'],
  ['mammoRun', 'Mammography: find tumours', 'g'],
  ['mammoLesion', 'Mammography: mark a lesion', 'm'],
  ['mammoBrush', 'Mammography: brush', 'b'],
  ['mammoEraser', 'Mammography: eraser', 'e'],
  ['mammoLook', 'Mammography: no tool', 'w'],
  ['mammoLarger', 'Mammography: larger brush', ']'],
  ['mammoSmaller', 'Mammography: smaller brush', '['],
  ['mammoUndo', 'Mammography: undo', 'ctrl+z'],
  ['mammoRedo', 'Mammography: redo', 'ctrl+y'],
  ['mammoHide', 'Mammography: hide or show masks', 'o'],
  ['mammoQuality', 'Mammography: check quality', 'q'],
  ['mammoSubmit', 'Mammography: submit', 'ctrl+enter'],
  ['mammoImage1', 'Mammography: first image', '1'],
  ['mammoImage2', 'Mammography: second image', '2'],
  ['mammoImage3', 'Mammography: third image', '3'],
  ['mammoImage4', 'Mammography: fourth image', '4'],
  ['mammoReset', 'Mammography: as it first hung', 'space'],
];

// Others would break the hanging, or paint with another segment than the tumour.
const KEPT = ['z', '+', '-', '=', 'i', 'left', 'right', 'esc', 'backspace'];

/** Those of OHIF's keys that mammograms need, with ours. */
export function hotkeys(former) {
  const kept = former.filter(({ keys }) => KEPT.includes([].concat(keys).join('+')));
  const ours = KEYS.map(([commandName, label, key]) => ({ commandName, label, keys: [key], isEditable: true }));
  return { 'ohif.hotkeyBindings': { $set: [...kept, ...ours] } };
}

const TOOLBAR = {
  primary: ['WindowLevel', 'Pan', 'Zoom', 'Magnify', 'Length', 'invert', 'Reset', 'Capture', 'MoreTools'],
  MoreTools: ['flipHorizontal', 'rotate-right', 'ImageOverlayViewer', 'TagBrowser'],
  'viewportActionMenu.topLeft': [],
  'viewportActionMenu.topRight': [],
  'viewportActionMenu.bottomLeft': [],
  'viewportActionMenu.bottomMiddle': [],
};

/** Leave in OHIF's toolbar what mammograms need; its menus in the viewports' corners would cover tissue. */
export function setToolbar() {
  const { toolbarService, toolGroupService } = ohif.services;
  for (const [section, buttons] of Object.entries(TOOLBAR)) {
    toolbarService.clearButtonSection?.(section);
    toolbarService.updateSection?.(section, buttons);
  }
  toolGroupService.addToolsToToolGroup(TOOL_GROUP, { passive: [{ toolName: 'Length' }] });
}

/**
 * Let OHIF's buttons and keys run commands of ours instead of its own of the same name.
 * @param {Object<string, function()>} ours by the name of OHIF's command
 * @returns a function that gives OHIF its own back
 */
export function takeCommands(ours) {
  const { commandsManager } = ohif;
  const register = (name, definition) => commandsManager.registerCommand('CORNERSTONE', name, definition);
  const former = Object.keys(ours).map(name => [name, commandsManager.getCommand(name, 'CORNERSTONE')]);
  Object.entries(ours).forEach(([name, commandFn]) => register(name, { commandFn }));
  return () => former.forEach(([name, definition]) => register(name, definition));
}

/**
 * Hide OHIF's letters at the images' edges: they follow the geometry that the server makes up for images without one,
 * not the patient.
 * @returns a function that shows them again
 */
export function hideFalseMarkers() {
  const style = document.createElement('style');
  style.textContent = '.ViewportOrientationMarkers { display: none; }';
  document.head.append(style);
  return () => style.remove();
}
