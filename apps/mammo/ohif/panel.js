// The panel at the right: a custom element that shows the open study and passes on what is pressed.
// Not here: what the buttons do (actions) and what there is to show (study).

import * as actions from './actions.js';
import { largestStage } from './hanging.js';
import { SLIDER, button, element, slider } from './parts.js';
import { ANYBODY } from './server.js';
import { STYLE } from './style.js';
import * as study from './study.js';
import { BRUSH, TOOLS, activeTool, brush, brushInWords, setBrush } from './tools.js';
import * as trainings from './training.js';

export const PANEL = 'mammo-panel';

const { settings } = actions;
const { state } = study;

/** The element; what it shows is made anew at every change, save a slider that is being dragged. */
class Panel extends HTMLElement {
  connectedCallback() {
    this.root ??= this.attachShadow({ mode: 'open' });
    this.update = () => this.scheduled || (this.scheduled = requestAnimationFrame(() => this.show()));
    study.changes.addEventListener('change', this.update);
    this.addEventListener('keydown', pressFocused);
    this.show();
    actions.learn();
    actions.cover();
    trainings.follow();
  }

  disconnectedCallback() {
    study.changes.removeEventListener('change', this.update);
    cancelAnimationFrame(this.scheduled);
    this.scheduled = 0;
  }

  show() {
    this.scheduled = 0;
    if (this.root.querySelector(`${SLIDER}:active`)) {
      return; // it would be torn from under the pointer
    }
    const focused = this.root.activeElement?.dataset.key ?? (document.activeElement === document.body && this.awaited);
    const sections = [notices(), nextCase(), images(), find(), edit(), quality(), model()];
    this.root.replaceChildren(element('style', {}, STYLE), ...sections.flat().filter(Boolean), submit());
    const control = this.root.querySelector(`[data-key="${focused}"]`);
    control?.focus();
    this.awaited = control?.disabled && focused; // which has the focus again once it can be pressed
  }
}

/** Leave Enter and Space to what has the focus, before OHIF takes them for its own; one that is held presses once. */
function pressFocused(event) {
  if (['Enter', ' '].includes(event.key) && !event.ctrlKey) {
    event.stopPropagation();
    if (event.repeat) {
      event.preventDefault();
    }
  }
}

function notices() {
  const said = actions.notice.current;
  const { training } = trainings;
  const shown = [];
  for (const failed of [state, training].filter(({ problem }) => problem)) {
    const { reason, message, remedy } = failed.problem;
    const close = () => {
      failed.problem = null;
      study.changed();
    };
    shown.push(notice('error', reason ?? message, remedy, close));
  }
  if (said) {
    shown.push(notice(said.kind, said.text, said.remedy, () => actions.say(null)));
  }
  for (const uid of new Set([...study.drafts.values()].map(draft => draft.study))) {
    const left = [...study.drafts].filter(([, draft]) => draft.study === uid);
    const open = button('Open', () => actions.openStudy(uid, left[0][0]), { key: `draft-${uid}`, disabled: actions.isBusy() });
    const names = left.map(([, { name }]) => name).join(', ');
    shown.push(notice('info', `Not submitted in ${caseOf(study.dateInWords(left[0][1].date))}: ${names}`, '', null, open));
  }
  if (state.holder) {
    const close = () => {
      state.holder = '';
      study.changed();
    };
    shown.push(notice('info', `${state.holder} has this case in hand`, `What you submit is kept beside what ${state.holder} submits`, close));
  }
  if (state.other) {
    const { study: uid, date } = state.other;
    const open = button('Open', () => actions.openStudy(uid), { key: 'other', disabled: actions.isBusy() });
    shown.push(notice('info', `For comparison: an image of ${caseOf(date)}`, 'To mark or judge it, open that case', null, open));
  }
  return shown;
}

const caseOf = date => (date ? `the case of ${date}` : 'another case');

function notice(kind, text, remedy, close, ...more) {
  const words = [element('div', {}, text), remedy && element('div', { className: 'quiet' }, remedy)];
  return element(
    'div',
    { className: `notice ${kind}`, role: kind === 'error' ? 'alert' : 'status' },
    element('div', { className: 'grow' }, ...words),
    ...more,
    close && button('✕', close, { className: 'plain', key: 'close', title: 'Close' })
  );
}

function nextCase() {
  const names = Object.keys(settings.strategies);
  const options = names.map(name =>
    element('option', { value: name, selected: name === settings.strategy }, name)
  );
  const choice = element(
    'select',
    {
      className: 'grow',
      title: settings.strategies[settings.strategy]?.description ?? 'How the next case is chosen',
      onchange: event => {
        settings.strategy = event.target.value;
        study.changed();
      },
    },
    ...options
  );
  choice.dataset.key = 'strategy';
  const blocked = actions.isBusy() || !names.length;
  const next = button('Next case', actions.nextCase, { className: 'main', key: 'next', hint: 'N', disabled: blocked });
  const left = actions.namesOfUnsaved();
  const back = button('Hand back', actions.handBack, {
    key: 'hand-back',
    title: left ? `Submit or undo first: ${left}` : 'Let others have this case, and go on to another',
    barred: Boolean(left),
    disabled: blocked || !state.images.length,
  });
  return section('Case', doneInWords(study.usable()), [row(next, choice, back)]);
}

function doneInWords(images) {
  const [own, others] = ['isOwn', 'isOthers'].map(whose => images.filter(image => image[whose]).length);
  return `${own} of ${images.length} done${others ? `, ${others} by others` : ''}`;
}

function images() {
  const places = [...study.places().values()];
  const largest = largestStage(places);
  const layouts = [
    ['2x2', '2×2', 2],
    ['1x4', '1×4', 2],
    [largest.id, largest.shown === places.length ? 'All' : `${largest.shown} of ${places.length}`, 5],
  ]
    .filter(([, , least]) => state.images.length >= least)
    .map(([id, text]) => button(text, () => actions.hangAs(id), { className: 'plain', key: `hang-${id}`, title: `Hang ${text}` }));
  const cards = actions.ordered().map((image, index) => {
    const card = button('', () => study.show(image), {
      className: `image ${image === state.active ? 'active' : ''} ${image.problem ? 'unusable' : ''}`,
      key: `image-${image.id}`,
      title: index < 4 ? `Go to it (${index + 1})` : 'Go to it',
      disabled: !image.displaySet,
    });
    card.append(element('b', {}, image.name), progressOf(image));
    return card;
  });
  return section('Images', element('span', {}, ...layouts), [element('div', { className: 'images' }, ...cards)]);
}

function progressOf(image) {
  const [className, text] = image.busy
    ? ['busy', image.busy]
    : image.mask?.isUnsaved
      ? ['changed', '● unsaved']
      : image.problem || image.failed
        ? ['failed', image.problem ?? '✕ not loaded']
        : image.restoring && !image.restored
          ? ['busy', 'loading…']
          : image.isOwn
            ? ['done', '✓ submitted']
            : image.isOthers
              ? ['', `✓ by ${image.readers.join(', ')}`]
              : ['', 'to do'];
  return element('span', { className: `state ${className}` }, text);
}

function find() {
  const busy = actions.isBusy();
  const scope = [
    ['all views', true],
    ['this view', false],
  ].map(([text, all]) =>
    button(
      text,
      () => {
        settings.allViews = all;
        study.changed();
      },
      { className: `plain ${settings.allViews === all ? 'chosen' : ''}`, key: `scope-${all}`, pressed: settings.allViews === all }
    )
  );
  const outline = state.active?.mask?.outline;
  const threshold = outline && [
    slider('Threshold', { min: 1, max: 99, value: percent(outline.threshold), key: 'threshold' }, value => `${value} %`, value =>
      actions.setThreshold(Math.max(1, Math.ceil((value / 100) * 255)))
    ),
  ];
  return section('Model in', element('span', {}, ...scope), [
    row(
      button('Find tumours', actions.findTumours, { className: 'even', key: 'run', hint: 'G', disabled: busy || !state.active }),
      button('Check quality', actions.checkQuality, { className: 'even', key: 'check', hint: 'Q', disabled: busy || !state.active })
    ),
    slider('Opacity', { min: 0, max: 100, value: Math.round(settings.opacity * 100), key: 'opacity' }, value => `${value} %`, value =>
      actions.cover(value / 100, false)
    ),
    ...(threshold ?? []),
  ]);
}

const percent = threshold => Math.floor((threshold / 255) * 100);

function edit() {
  const now = activeTool();
  const tool = (name, text, hint, title) =>
    button(text, () => actions.choose(now === TOOLS[name] ? 'look' : name), {
      className: `even ${now === TOOLS[name] ? 'on' : ''}`,
      key: name,
      hint,
      title,
      pressed: now === TOOLS[name],
      disabled: !state.active?.restored,
    });
  const mask = state.active?.mask;
  return section('Mark', state.active ? sizeOf(state.active) : '', [
    row(tool('lesion', 'Lesion: click or box', 'M', 'Click on a lesion or draw a box around it: the model outlines it')),
    row(tool('brush', 'Brush', 'B', 'Paint'), tool('eraser', 'Eraser', 'E', 'Erase')),
    slider(
      'Size',
      { min: 0, max: 100, value: stepOf(brush()), key: 'size' },
      brushInWords,
      value => setBrush(sizeAt(value))
    ),
    unseenNames(state.active),
    row(
      button('Undo', actions.commands.mammoUndo, { className: 'even', key: 'undo', title: 'Ctrl+Z', disabled: !mask?.canUndo }),
      button('Redo', actions.commands.mammoRedo, { className: 'even', key: 'redo', title: 'Ctrl+Y', disabled: !mask?.canRedo }),
      button(settings.hidden ? 'Show' : 'Hide', actions.commands.mammoHide, { className: 'even', key: 'hide', hint: 'O', title: 'Hide or show all masks' })
    ),
  ]);
}

// The slider's hundred steps are equal factors: fine at small brushes, quick at large ones.
const RANGE = Math.log(BRUSH.largest / BRUSH.smallest);
const sizeAt = step => BRUSH.smallest * Math.exp((RANGE * step) / 100);
const stepOf = mm => Math.round((Math.log(mm / BRUSH.smallest) / RANGE) * 100);

/** What the saved label holds that the mask does not show. */
function unseenNames(image) {
  const { hidden = [], unknown = [] } = image?.names ?? {};
  const own = image?.isOwn;
  const said = [
    hidden.length && `Not shown, ${own ? 'stays in your label' : 'not taken over'}: ${hidden.join(', ')}`,
    unknown.length && `Shown as a tumour${own ? ', but keeps its name' : ''}: ${unknown.join(', ')}`,
  ].filter(Boolean);
  return said.length ? element('div', { className: 'quiet small unseen' }, said.join('. ')) : null;
}

/** The marked area in words. */
function sizeOf(image) {
  const pixels = image.mask?.pixels ?? 0;
  if (!pixels) {
    return 'nothing marked';
  }
  const area = image.spacing ? pixels * image.spacing[0] * image.spacing[1] : null;
  return area === null ? `${pixels.toLocaleString('en')} px` : area < 100 ? `${area.toFixed(1)} mm²` : `${(area / 100).toFixed(2)} cm²`;
}

function quality() {
  const image = state.active;
  const own = ['complete', 'incomplete'].map(verdict =>
    button(verdict === 'complete' ? 'Complete' : 'Incomplete', () => actions.judge(verdict), {
      className: `even ${image?.verdict === verdict ? 'on' : ''}`,
      key: verdict,
      title: image?.verdict === verdict ? 'Take your verdict back' : `Save your verdict: the breast is ${verdict}ly shown`,
      pressed: image?.verdict === verdict,
      disabled: !image?.mask,
    })
  );
  // After a submission another image may be the active one: say whose verdict this is.
  return section(element('span', {}, 'Quality of ', element('b', {}, image?.name ?? '')), '', [
    row(element('span', { className: 'label quiet' }, 'Model'), opinion(image)),
    reasons(image?.quality),
    row(element('span', { className: 'label quiet' }, 'You'), ...own),
    verdictsOfOthers(image),
  ]);
}

function verdictsOfOthers(image) {
  const others = Object.entries(image?.verdicts ?? {}).filter(([reader]) => reader !== state.reader);
  const said = others.map(([reader, verdict]) => `${reader}: ${verdict}`).join(', ');
  return said && row(element('span', { className: 'label quiet' }, 'Others'), element('span', { className: 'grow' }, said));
}

function opinion(image) {
  const found = image?.quality;
  if (!found) {
    return element('span', { className: 'grow quiet small' }, 'not checked');
  }
  const share = Math.round(100 * found[`probability_${found.verdict}`]);
  return element(
    'span',
    { className: 'grow' },
    element('span', { className: `verdict ${found.verdict}` }, found.verdict),
    element('span', { className: 'quiet' }, ` ${share} %`)
  );
}

function reasons(found) {
  const given = (found?.reasons ?? []).map(({ sentence, codes }) =>
    element('li', { title: codes.map(({ value, meaning }) => `DCM ${value}: ${meaning}`).join('\n') }, sentence)
  );
  return given.length ? element('ul', { className: 'small' }, ...given) : null;
}

function submit() {
  const image = state.active;
  const what = image?.mask?.pixels ? `tumour ${sizeOf(image)}` : 'no tumour';
  const busy = actions.isBusy();
  const all = button('All', actions.submitAll, {
    key: 'submit-all',
    title: `Save the masks of all ${study.usable().length} images as they are, of others' those that you changed; an image without one that was on the screen is saved as normal`,
    disabled: busy || !study.usable().length,
  });
  const one = button(image ? `Submit ${image.name}: ${what}` : 'Submit', () => actions.submit(), {
    className: 'main grow',
    key: 'submit',
    title: 'Save the mask as it is and go on (Ctrl+Enter)',
    disabled: busy || !image?.restored,
  });
  const reader = state.reader && state.reader !== ANYBODY && `Reader: ${state.reader} · `;
  const warning = element('footer', {}, reader, 'For research only, not for diagnosis');
  return element('div', { className: 'last' }, row(one, all), warning);
}

function model() {
  const { training } = trainings;
  const names = Object.keys(settings.trainers);
  const chosen = (training.running ? '' : settings.trainer) || training.model || names[0];
  const choice = element(
    'select',
    { className: 'grow', disabled: training.running, onchange: event => (settings.trainer = event.target.value) },
    ...names.map(name => element('option', { value: name, selected: name === chosen }, name.replace(/^mammo_/, '').replaceAll('_', ' ')))
  );
  choice.dataset.key = 'model';
  const bar = element('div', { className: `bar ${training.share === null ? 'unknown' : ''}` }, element('i', {}));
  if (training.share !== null) {
    bar.firstChild.style.width = `${Math.round(100 * training.share)}%`;
  }
  return section('Learning', '', [
    row(
      choice,
      training.running
        ? button('Stop', trainings.stop, { key: 'stop' })
        : button('Update', () => trainings.start(choice.value), { key: 'update', title: 'Train on all submitted images', disabled: !names.length })
    ),
    training.running && bar,
    training.text && element('div', { className: 'quiet small training', role: 'status' }, training.text),
  ]);
}

function section(title, aside, children) {
  const heading = element('h3', {}, title, element('span', { className: 'aside' }, aside));
  return element('section', {}, heading, ...children);
}

const row = (...children) => element('div', { className: 'row' }, ...children);

customElements.get(PANEL) ?? customElements.define(PANEL, Panel);
