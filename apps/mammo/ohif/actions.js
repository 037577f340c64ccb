// What a reader does: each action asks the server, changes the open study and says what went wrong.
// Not here: buttons and keys.

import { ohif } from './context.js';
import { setOpacity } from './masks.js';
import { rehang, reset } from './rehang.js';
import { MODELS } from './server.js';
import * as server from './server.js';
import * as study from './study.js';
import { brush, setBrush, useTool } from './tools.js';

const { state, changed } = study;

const HALF = 128; // of 255: where the server's own mask begins

/** How the panel is set. */
export const settings = {
  allViews: true,
  opacity: 0.3,
  hidden: false,
  strategy: '',
  strategies: {},
  trainers: {},
  trainer: '', // of those, as chosen for the next training
};

/** What is to be said to the reader: `{kind: 'error'|'info', text, remedy}`; null if nothing. */
export const notice = { current: null };

const handedBack = new Set(); // studies

study.onMark((image, mark) => segmentLesion(image, mark));

/** Say something, or nothing. */
export function say(kind, text, remedy = '') {
  notice.current = kind ? { kind, text, remedy } : null;
  changed();
}

/** How many actions are under way. */
export const working = { count: 0 };

/** Whether an action is under way, or another study is being opened. */
export const isBusy = () => working.count > 0 || state.opening;

/** An action that does not begin while anything is under way, itself for instance. */
const alone = action => (...given) => (isBusy() ? undefined : action(...given));

/** Run an action and say what goes wrong; nothing is lost by it. Gives what the action gives, undefined if it failed. */
async function attempt(action) {
  say(null);
  working.count++;
  try {
    return await action();
  } catch (error) {
    if (error !== state.problem) { // which is said anyway
      say('error', error.reason ?? error.message, error.remedy);
    }
    return undefined;
  } finally {
    working.count--;
    changed();
  }
}

/** Do something with one image after another, which meanwhile say what; a failure ends it, and leaving the study. */
const each = (images, text, action) =>
  attempt(async () => {
    const { study: here } = state;
    for (const image of images) {
      if (state.study !== here) {
        return false;
      }
      image.busy = text;
      changed();
      try {
        await action(image);
      } catch (error) {
        if (error.status === 422) { // the image may be at fault
          await study.learnProblems();
        }
        throw error;
      } finally {
        image.busy = '';
      }
    }
    return state.study === here;
  });

/** The images that an action is for. */
const chosen = () => (settings.allViews ? ordered() : [state.active]).filter(image => image?.mask);

/** Learn what the server offers. */
export const learn = () =>
  attempt(async () => {
    const { strategies, trainers } = await server.info();
    Object.assign(settings, { strategies: strategies ?? {}, trainers: trainers ?? {} });
    if (!(settings.strategy in settings.strategies)) {
      settings.strategy = Object.keys(settings.strategies)[0] ?? '';
    }
    changed();
  });

/**
 * Find tumours in the chosen images; each shows its mask at once. Of all views those that a person marked stay, and any
 * that changed while the model was at it.
 */
export const findTumours = alone(async () => {
  const kept = [];
  const empty = [];
  const isKept = image => settings.allViews && (image.labelled || image.mask.hasOwnMarks);
  const done = await each(chosen(), 'finding…', async image => {
    await study.restore(image);
    const before = image.mask.lastDone();
    const found = isKept(image) ? null : await server.segment(MODELS.whole, image, { result_probability: true });
    if (!found || isKept(image) || image.mask.lastDone() !== before) {
      kept.push(image.name);
      return;
    }
    const outline = found.params.probability ? { soft: found.mask, threshold: HALF } : null;
    const pixels = found.mask.map(value => Number(value >= (outline?.threshold ?? 1)));
    image.mask.replace(pixels, { method: 'AUTOMATIC', model: MODELS.whole }, outline);
    if (!pixels.some(Boolean)) {
      empty.push(image.name);
    }
  });
  const found = empty.length ? `The model finds nothing in: ${empty.join(', ')}` : '';
  if (done && kept.length) {
    const remedy = settings.allViews ? 'To run the model there: “this view”' : 'To run the model there: press it again';
    const left = `Marked or submitted, so left as they are: ${kept.join(', ')}`;
    say('info', [left, found].filter(Boolean).join('. '), remedy);
  } else if (done && found) {
    say('info', found);
  }
});

/** Move the threshold of the model's probabilities. @param {number} threshold 1 to 255 */
export function setThreshold(threshold) {
  if (state.active?.mask?.outline) {
    state.active.mask.moveThreshold(threshold);
    changed();
  }
}

/** Segment the lesion at a mark, and add it to the mask; null is a mark beside the image. */
async function segmentLesion(image, mark) {
  if (!mark) {
    say('info', 'That is beside the image', 'Click on the lesion, or draw a box around it');
    return;
  }
  let found = true;
  await each([image].filter(each => each?.mask), 'outlining…', async () => {
    await study.restore(image);
    const { mask } = await server.segment(MODELS.lesion, image, mark);
    found = mask.some(Boolean);
    if (found) {
      image.mask.add(mask, { method: 'SEMIAUTOMATIC', model: MODELS.lesion });
    }
  });
  if (!found) {
    say('info', 'The model sees no lesion there', 'Draw a box around it, or use the brush');
  }
}

/** Ask the model whether the chosen images show the whole breast. */
export const checkQuality = alone(() =>
  each(chosen(), 'checking…', async image => {
    image.quality = await server.quality(image);
  })
);

/** Save the reader's own verdict on the active image; the one that is saved already is taken back. */
export const judge = verdict =>
  attempt(async () => {
    const image = state.active;
    const given = image.verdict === verdict ? null : verdict;
    await server.saveVerdict(image, given);
    image.verdict = given;
  });

/** Save the mask of the active image as it is, an empty one too; then go on to the next that is not done. */
export const submit = alone(() => save([state.active].filter(image => image?.restored)));

/** Save all masks of images that nobody has submitted, and those that the reader has changed. */
export const submitAll = alone(() => save(ordered(), image => !image.labelled || image.mask.isUnsaved));

/**
 * Save masks, but not of an image that was never on the screen and that nothing marked: nobody knows that it is normal.
 * A label that is newer than what the reader saw stays, and does not keep the others from being saved.
 */
async function save(images, isWanted = () => true) {
  const unseen = [];
  const newer = [];
  const done = await each(images.filter(image => image?.mask), 'saving…', async image => {
    await study.restore(image);
    const last = image.mask.lastDone();
    if (!isWanted(image)) {
      return;
    }
    if (!image.seen && !image.mask.isUnsaved) {
      unseen.push(image.name);
      return;
    }
    const pixels = image.mask.snapshot();
    try {
      const { revision } = await server.saveMask(image, pixels, image.mask.origin);
      image.mask.saved(last);
      const names = image.isOthers ? null : image.names; // which the reader's own label does not have
      Object.assign(image, { labelled: true, revision, names });
      study.forgetDraft(image, pixels);
    } catch (error) {
      if (error.status !== 409) {
        throw error;
      }
      newer.push(Object.assign(error, { image }));
    }
  });
  const open = ordered().find(image => !image.labelled && !image.problem);
  if (newer.length) {
    const names = newer.map(({ image }) => image.name).join(', ');
    say('error', `Not submitted: ${names}: ${newer[0].reason}`, newer[0].remedy);
  } else if (unseen.length) {
    say('info', `Not submitted, for they were not on the screen: ${unseen.join(', ')}`, 'Look at them, then submit them');
  }
  if (done && open) {
    study.show(open);
  } else if (done && !newer.length) {
    sayDone();
  }
}

/** Say that nothing is left to submit: what only others have submitted is done, too, but not by this reader. */
function sayDone() {
  const others = ordered().filter(image => image.isOthers && !image.problem).map(({ name }) => name);
  const done = 'All images of this case are done';
  if (others.length) {
    say('info', `${done}, by others: ${others.join(', ')}`, 'Press Next case, or submit these too if you agree with them');
  } else {
    say('info', done, 'Press Next case');
  }
}

/** Open the image that the strategy chooses; what is not saved is kept, and offered again. */
export const nextCase = alone(() =>
  attempt(async () => {
    const next = await nextImage();
    if (!next) {
      say('info', 'Every image has a label', 'Nothing is left to annotate');
      return;
    }
    const here = state.images.find(image => image.id === next.id);
    if (here) {
      study.show(here);
      return;
    }
    if (!next.StudyInstanceUID) {
      throw new Error(`The server chose ${next.id} but does not say in which study it is`);
    }
    await take(next);
  })
);

/** Names of the images whose masks the server does not have as they are. */
export const namesOfUnsaved = () => ordered().filter(({ mask }) => mask?.isUnsaved).map(({ name }) => name).join(', ');

/** Let others have the open case, and go on to another one; not with work in it that nobody else would see. */
export const handBack = alone(() =>
  attempt(async () => {
    const left = namesOfUnsaved();
    if (left) {
      say('info', `Not handed back, for its masks are not submitted: ${left}`, 'Submit or undo them first');
      return;
    }
    const [here] = state.images;
    handedBack.add(state.study);
    const next = await nextImage(); // first, lest it be this one again
    const isOther = next && next.StudyInstanceUID !== state.study;
    if (isOther) {
      await take(next);
    }
    await server.handBack(here.id);
    if (!isOther) {
      say('info', 'Handed back; there is no other case', 'What you do here takes it up again');
    }
  })
);

/**
 * The image that the server chooses, of a case that was handed back only if there is no other: to the server such a
 * case is free, and may be the best of all again.
 */
async function nextImage() {
  const refused = new Map(); // studies by image
  let next = await server.nextImage(settings.strategy);
  while (next && handedBack.has(next.StudyInstanceUID) && !refused.has(next.id)) {
    refused.set(next.id, next.StudyInstanceUID); // what it has given, the server gives last
    next = await server.nextImage(settings.strategy);
  }
  for (const [id, uid] of refused) {
    if (uid !== next?.StudyInstanceUID) {
      await server.handBack(id);
    }
  }
  return next;
}

/** Open the case of an image that the server has given; where that fails, others may have it. */
async function take({ id, StudyInstanceUID }) {
  try {
    await goTo(StudyInstanceUID, id);
  } catch (error) {
    await server.handBack(id).catch(() => {}); // the lease ends by itself, too
    throw error;
  }
}

/** Open a study at an image. */
export const openStudy = alone((uid, image) => attempt(() => goTo(uid, image)));

async function goTo(uid, image = '') {
  await server.needStudy(uid);
  Object.assign(state, { wanted: image, opening: uid !== state.study });
  ohif.run('navigateHistory', { to: `/mammo?StudyInstanceUIDs=${encodeURIComponent(uid)}` });
}

/** Show or hide all masks, or change how much they cover. @param {number} opacity from 0 to 1 */
export function cover(opacity = settings.opacity, hidden = settings.hidden) {
  Object.assign(settings, { opacity, hidden });
  setOpacity(hidden ? 0 : opacity);
  changed();
}

/** Hang the study in another layout, a stage's id of our protocol. */
export const hangAs = stageId =>
  attempt(async () => {
    ohif.run('setHangingProtocol', { protocolId: 'mammo.four', stageId });
    await rehang();
  });

const onMask = method => () => {
  state.active?.mask?.[method]();
  changed();
};

/** An action behind a key, once however long that is held down. */
const once = action => ({ evt } = {}) => (evt?.repeat ? undefined : action());

/** OHIF's commands, for its keys. */
export const commands = {
  mammoReset: () => reset(),
  mammoNext: once(nextCase),
  mammoRun: once(findTumours),
  mammoQuality: once(checkQuality),
  mammoSubmit: once(submit),
  mammoLesion: () => choose('lesion'),
  mammoBrush: () => choose('brush'),
  mammoEraser: () => choose('eraser'),
  mammoLook: () => choose('look'),
  mammoLarger: () => resize(1.25),
  mammoSmaller: () => resize(0.8),
  mammoUndo: onMask('undo'),
  mammoRedo: onMask('redo'),
  mammoHide: () => cover(settings.opacity, !settings.hidden),
  ...Object.fromEntries([1, 2, 3, 4].map(number => [`mammoImage${number}`, () => showNumber(number)])),
};

function showNumber(number) {
  const image = ordered()[number - 1];
  if (image) {
    study.show(image);
  }
}

/** Put a tool on the left mouse button. */
export function choose(tool) {
  useTool(tool);
  changed();
}

/** Make the brush larger or smaller. */
function resize(factor) {
  setBrush(brush() * factor);
  changed();
}

/** The images in the order in which they hang, and last those that cannot be used. */
export function ordered() {
  const order = ['R CC', 'L CC', 'R MLO', 'L MLO'];
  const placed = image => (order.includes(image.place) ? order.indexOf(image.place) : order.length);
  const rank = image => (image.problem ? order.length + 1 : placed(image));
  return [...state.images].sort((a, b) => rank(a) - rank(b));
}
