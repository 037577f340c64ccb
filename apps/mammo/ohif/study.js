// The study that is open: its images as the server and as OHIF know them, their masks, and what a reader has not saved.
// Not here: what is done with them (actions), how that looks (panel), and hanging them anew (rehang).

import { ohif } from './context.js';
import { PLACE_ATTRIBUTE, isMirrored, placesOf, viewOf } from './hanging.js';
import { noteLook } from './looks.js';
import { Mask } from './masks.js';
import * as server from './server.js';
import { followDrawing, guardOtherViewports, installTools, setUnits } from './tools.js';

const PIXELS_PER_MM = 10; // of an image that does not say it

/** Tells of every change of what this module holds; the panel listens. */
export const changes = new EventTarget();

/** An image of the open study. */
class StudyImage {
  constructor(row) {
    Object.assign(this, row); // an ImageRow
    this.displaySet = null;
    this.mask = null;
    this.restored = false; // has its mask as it was left
    this.failed = false; // to get it
    this.seen = false; // has been in a viewport
    this.busy = '';
    this.quality = null; // the model's verdict
    this.names = null; // of segments that the saved label has and the mask does not show, as of `server.savedMask`
  }

  /** Whether the reader has submitted it. */
  get isOwn() {
    return this.revision > 0;
  }

  /** Whether others have submitted it, and the reader has not. */
  get isOthers() {
    return this.labelled && !this.isOwn;
  }

  /** Side, view, and whether it shows a part of the breast. */
  get place() {
    const instance = this.displaySet?.instances?.[0];
    return inWords(this.laterality, this.view, instance && viewOf(instance).partial) || 'Image';
  }

  /** Its place, with a number where several images have the same. */
  get name() {
    const alike = state.images.filter(({ place }) => place === this.place);
    return alike.length > 1 ? `${this.place} ${alike.indexOf(this) + 1}` : this.place;
  }
}

const inWords = (laterality, view, partial) => [laterality, view, partial && '(part)'].filter(Boolean).join(' ');

export const state = {
  reader: '', // name of whoever opened this page
  study: '',
  holder: '', // another reader, who has it in hand
  /** @type {StudyImage[]} */
  images: [],
  /** @type {?StudyImage} */
  active: null,
  problem: null,
  wanted: '', // id of the image to show first
  opening: false, // another study, which is not there yet
  hanging: 0, // how often images are being hung anew
  /** @type {?{study: string, date: string}} */
  other: null, // the study of the active viewport's image, if it is another one
};

/** Masks that were not saved when their study was left: by image id, with the study and its date. */
export const drafts = new Map();

let endings = [];
let marked = () => {};

/** Let `handler(image, mark)` hear of every lesion that is marked. */
export function onMark(handler) {
  marked = handler;
}

/** Say that something has changed. */
export function changed() {
  changes.dispatchEvent(new Event('change'));
}

/** Ask the server for the images of a study, before OHIF hangs it. */
export async function open(studies) {
  const study = [].concat(studies)[0] ?? '';
  if (study !== state.study) {
    Object.assign(state, { study, images: [], active: null });
  }
  Object.assign(state, { problem: null, holder: '' });
  try {
    state.reader = await server.reader();
    const rows = await server.images(study);
    const former = new Map(state.images.map(image => [image.id, image]));
    state.images = rows.map(row => Object.assign(former.get(row.id) ?? new StudyImage(row), row));
    const holder = await server.holderOf(study);
    state.holder = [state.reader, server.ANYBODY].includes(holder) ? '' : holder;
  } catch (error) {
    state.problem = error;
  }
  state.opening = false;
  changed();
}

/** Begin to follow OHIF; the mode has been entered. */
export function enter() {
  const { displaySetService, viewportGridService, cornerstoneViewportService, hangingProtocolService } = ohif.services;
  hangingProtocolService.addCustomAttribute(PLACE_ATTRIBUTE, 'Place of a mammogram', placeOf);
  installTools((viewportId, mark) => marked(imageIn(viewportId), mark));
  const events = [
    [displaySetService, displaySetService.EVENTS.DISPLAY_SETS_ADDED, bind],
    [viewportGridService, viewportGridService.EVENTS.ACTIVE_VIEWPORT_ID_CHANGED, follow],
    [viewportGridService, viewportGridService.EVENTS.GRID_STATE_CHANGED, follow],
    [cornerstoneViewportService, cornerstoneViewportService.EVENTS.VIEWPORT_DATA_CHANGED, shown],
  ];
  endings = events.map(([service, event, handler]) => service.subscribe(event, handler).unsubscribe);
  endings.push(guardOtherViewports(viewportId => Boolean(imageIn(viewportId)?.mask)));
  endings.push(followDrawing(noteStroke));
  window.addEventListener('beforeunload', warn); // for good: drafts outlive the mode, not the page
}

/** Keep what is not saved; the mode is about to be left. */
export function leave() {
  keepDrafts();
  endings.forEach(end => end());
  endings = [];
  Object.assign(state, { study: '', images: [], active: null });
}

/** Images of the open study that can be read. */
export const usable = () => state.images.filter(image => !image.problem);

/** Images of the open study with work that the server does not have. */
export const unsaved = () => state.images.filter(image => image.mask?.isUnsaved);

/** Show an image: in the viewport that has it, or in the active one; and try again to get a mask that did not come. */
export function show(image) {
  const { viewportGridService } = ohif.services;
  if (image.failed) {
    restore(image).catch(() => {}); // said where it failed
  }
  const viewportId = viewportOf(image);
  if (viewportId) {
    viewportGridService.setActiveViewportId(viewportId);
  } else if (image.displaySet) {
    viewportGridService.setDisplaySetsForViewport({
      viewportId: viewportGridService.getActiveViewportId(),
      displaySetInstanceUIDs: [image.displaySet.displaySetInstanceUID],
    });
  }
}

/** Id of a viewport that shows an image. */
function viewportOf(image) {
  const uid = image.displaySet?.displaySetInstanceUID;
  const viewports = [...ohif.services.viewportGridService.getState().viewports.entries()];
  return viewports.find(([, { displaySetInstanceUIDs = [] }]) => uid && displaySetInstanceUIDs.includes(uid))?.[0];
}

/** What stands over an image: its name, and of another study its date. */
export function labelOf(instance) {
  const { laterality, view, partial } = viewOf(instance);
  const other = otherStudyOf(instance);
  return [imageOf(instance)?.name ?? inWords(laterality, view, partial), other && (other.date || 'other study')]
    .filter(Boolean)
    .join(' ');
}

/** A DICOM date as people write it; empty if there is none. */
export const dateInWords = date => /^\d{8}$/.test(date ?? '') ? date.replace(/(....)(..)(..)/, '$1-$2-$3') : '';

function otherStudyOf(instance) {
  const { StudyInstanceUID: study, StudyDate: date } = instance ?? {};
  return study && study !== state.study ? { study, date: dateInWords(date) } : null;
}

/** What the server knows of an image: of copies, which are one image to OHIF, the one that can be used. */
function imageOf(instance) {
  const copies = state.images.filter(({ sop }) => sop && sop === instance?.SOPInstanceUID);
  return copies.find(({ problem }) => !problem) ?? copies[0];
}

/** The place of a display set's image in the way a study hangs; OHIF asks for it. */
export const placeOf = displaySet => places().get(displaySet.displaySetInstanceUID) ?? '';

/** The place of every mammogram, by the UID of its display set. */
export function places() {
  // What is stored as film is a mammogram if the server says so; MG hangs even where it does not know the image yet.
  const isMammogram = set => set.Modality === 'MG' || imageOf(set.instances?.[0]);
  const sets = ohif.services.displaySetService.getActiveDisplaySets().filter(isMammogram);
  // They come in any order: of equal views the server's first hangs, and one that it does not know follows.
  const rank = set => state.images.indexOf(imageOf(set.instances?.[0])) + 1 || state.images.length + 1;
  const images = sets.sort((a, b) => rank(a) - rank(b)).map(set => {
    const instance = set.instances?.[0] ?? {};
    const known = imageOf(instance);
    const header = viewOf(instance);
    return {
      key: set.displaySetInstanceUID,
      view: known?.view ?? header.view,
      laterality: known?.laterality ?? header.laterality,
      partial: header.partial || Boolean(known?.problem),
    };
  });
  return placesOf(images);
}

function bind() {
  for (const set of ohif.services.displaySetService.getActiveDisplaySets()) {
    const image = imageOf(set.instances?.[0]);
    if (image && image.displaySet !== set) {
      image.displaySet = set;
      image.mask = image.problem ? null : new Mask(image, set);
    }
  }
  follow();
}

function setIn(viewportId) {
  const { displaySetService, viewportGridService } = ohif.services;
  const [uid] = viewportGridService.getState().viewports.get(viewportId)?.displaySetInstanceUIDs ?? [];
  return uid ? displaySetService.getDisplaySetByUID(uid) : null;
}

/** The image of the open study that a viewport shows, or null. */
export function imageIn(viewportId) {
  const set = setIn(viewportId);
  return (set && state.images.find(image => image.displaySet === set)) ?? null;
}

/** Note which image is the active one. OHIF's own state may be a moment behind its events, so what they say counts. */
function follow({ viewportId, state: grid } = {}) {
  const { viewportGridService } = ohif.services;
  const active = viewportId ?? grid?.activeViewportId ?? viewportGridService.getActiveViewportId();
  state.active = imageIn(active);
  state.other = otherStudyOf(setIn(active)?.instances?.[0]);
  setUnits(!state.active || state.active.spacing ? 1 : PIXELS_PER_MM);
  changed();
}

/** A viewport has got its image: hang it the right way round, and lay its mask over it. */
async function shown({ viewportId }) {
  const image = imageIn(viewportId);
  noteLook(ohif.services.cornerstoneViewportService.getCornerstoneViewport(viewportId));
  if (!image?.mask) {
    follow(); // OHIF's events may have come before its state
    return;
  }
  image.seen = true;
  try {
    hang(image, viewportId);
    await restore(image);
    await image.mask?.show(viewportId);
  } catch (error) {
    state.problem = error;
  }
  if (state.wanted === image.id) {
    state.wanted = '';
    ohif.services.viewportGridService.setActiveViewportId(viewportId);
  }
  follow();
}

/** Mirror an image whose chest wall lies on the wrong side. */
export function hang(image, viewportId) {
  const instance = image.displaySet.instances[0];
  if (isMirrored(image.laterality, instance.PatientOrientation)) {
    const viewport = ohif.services.cornerstoneViewportService.getCornerstoneViewport(viewportId);
    viewport.setCamera({ flipHorizontal: true });
    viewport.render();
  }
}

/**
 * Give an image, once, the work that was not saved before, or else the label that is; after a failure it is tried
 * again. Before that its mask is on no screen, so that nobody draws into it and takes an empty one for what was saved.
 */
export function restore(image) {
  image.restoring ??= fill(image).catch(error => {
    image.restoring = null;
    image.failed = !image.problem;
    const reason = error.reason ?? error.message;
    state.problem = image.problem
      ? Object.assign(new Error(`${image.name} cannot be used: ${reason}`), { remedy: 'Go on with the other images' })
      : Object.assign(new Error(`The mask of ${image.name} did not come: ${reason}`), { image, remedy: 'Choose the image to try again' });
    changed();
    throw state.problem;
  });
  return image.restoring;
}

async function fill(image) {
  const { mask } = image;
  image.failed = false;
  await loaded(image);
  await learnProblems();
  if (image.problem) {
    throw new Error(image.problem);
  }
  await mask.ensure();
  const draft = drafts.get(image.id);
  if (draft) {
    mask.replace(draft.pixels, draft.origin);
    image.revision = draft.revision; // a label that was saved since is newer than this
    drafts.delete(image.id);
    if (image.labelled) {
      mask.savedAt = -1; // what the server has is another, even if all of this was erased
    }
  } else if (image.labelled) {
    const saved = await server.savedMask(image);
    mask.load(saved.mask, saved.origin);
    image.names = saved.names;
  }
  image.restored = true;
  if (state.problem?.image === image) {
    state.problem = null;
  }
  for (const { viewport } of ohif.libraries.cornerstone.getEnabledElements()) {
    if (viewport.csImage && imageIn(viewport.id) === image) {
      await mask.show(viewport.id);
    }
  }
  changed();
}

/** Wait for an image's pixels; without them it cannot be used until its study is opened again. */
async function loaded(image) {
  const [imageId] = image.displaySet.imageIds ?? ohif.dataSource.getImageIdsForDisplaySet(image.displaySet);
  const { imageLoader } = ohif.libraries.cornerstone;
  await imageLoader.loadAndCacheImage(imageId, { preScale: { enabled: true } }).catch(() => {
    spoil(image, 'its pixels did not come, or cannot be decoded');
  });
}

/** Learn which images the server has meanwhile found that it cannot decode; one with work that is not saved stays. */
export async function learnProblems() {
  for (const { id, problem } of await server.images(state.study)) {
    const image = state.images.find(image => image.id === id);
    if (problem && image?.mask && !image.mask.isUnsaved) {
      spoil(image, problem);
    }
  }
}

/** Take an image out of the work. */
function spoil(image, problem) {
  Object.assign(image, { problem, mask: null, restored: false });
}

function keepDrafts() {
  for (const image of unsaved()) {
    const { name, mask, revision } = image;
    const date = image.displaySet.instances[0].StudyDate ?? '';
    const pixels = mask.snapshot(); // before its origin is looked at
    drafts.set(image.id, { study: state.study, date, name, revision, pixels, origin: mask.origin });
  }
}

/** Forget what was kept of an image, if it is what the server has by now: its study was left while it was saved. */
export function forgetDraft(image, pixels) {
  if (drafts.get(image.id)?.pixels.every((value, index) => value === pixels[index])) {
    drafts.delete(image.id);
    changed();
  }
}

/** Note what tools have drawn into masks, as a step of each. */
function noteStroke(segmentationIds) {
  const drawn = state.images.filter(image => segmentationIds.has(image.mask?.segmentationId));
  if (drawn.map(image => image.mask.commit()).some(Boolean)) {
    changed();
  }
}

function warn(event) {
  if (unsaved().length || drafts.size) {
    event.preventDefault();
    event.returnValue = '';
  }
}
