// How a study hangs: which image in which place, as pure functions, and the protocols that OHIF reads.
// Not here: what an image's view is where the server knows it (its reader says so).

import { TOOL_GROUP } from './context.js';

const PLACES = ['RCC', 'LCC', 'RMLO', 'LMLO'];
const FURTHER = ['X1', 'X2', 'X3', 'X4', 'X5', 'X6', 'X7', 'X8'];
const NOWHERE = 'none';

/** Of images that may be mammograms: MG, and those of film and plates, as `FILM_MODALITIES` of header.py. */
export const MODALITIES = ['MG', '', 'CR', 'DX', 'OT', 'RG', 'SC'];

// SNOMED CT and its older codes of the views in ViewCodeSequence.
const VIEW_CODES = { 399162004: 'CC', 'R-10242': 'CC', 399368009: 'MLO', 'R-10226': 'MLO' };
// Modifiers of a view that shows a part of the breast, or a region beside it, as `PARTIAL_MODIFIERS` of views.py.
const PARTIAL_CODES = [
  ...['399163009', 'R-102D6', '399055006', 'R-102D7'], // magnification, spot compression
  ...['399110001', 'R-102C2', '399011000', 'R-102D1'], // tangential, axillary tail
  ...['442580003', 'R-40AB2', '399161006', 'R-102D2'], // axillary tissue, cleavage
  ...['442593008', 'R-40ABE'], // inframammary fold
];

/** View and side of an image by its DICOM attributes, as OHIF names them. */
export function viewOf(instance) {
  const code = first(instance.ViewCodeSequence);
  const side = instance.ImageLaterality || instance.Laterality || '';
  return {
    view: String(instance.ViewPosition || VIEW_CODES[code?.CodeValue] || '').toUpperCase(),
    laterality: String(side).toUpperCase().slice(0, 1),
    partial: isPartial(instance, code),
  };
}

function isPartial(instance, code) {
  const modifiers = [].concat(code?.ViewModifierCodeSequence ?? [], instance.ViewModifierCodeSequence ?? []);
  const enlarged = Number(instance.EstimatedRadiographicMagnificationFactor) > 1.2;
  const declared = instance.PartialView === 'YES';
  return declared || enlarged || modifiers.some(modifier => PARTIAL_CODES.includes(String(modifier?.CodeValue)));
}

/**
 * The place of each image of a study.
 *
 * The four standard views take theirs, the first of each that shows the whole breast; all others follow. Where no view
 * is known at all, the images take the four places in their order.
 * @param {{key: string, view: string, laterality: string, partial: boolean}[]} images in the study's order
 * @returns {Map<string, string>} key to place
 */
export function placesOf(images) {
  const places = new Map();
  const taken = new Set();
  for (const image of [...images].sort((a, b) => Number(a.partial) - Number(b.partial))) {
    const place = `${image.laterality || ''}${image.view || ''}`;
    if (PLACES.includes(place) && !taken.has(place) && !image.partial) {
      places.set(image.key, place);
      taken.add(place);
    }
  }
  const free = taken.size ? [...FURTHER] : [...PLACES, ...FURTHER];
  for (const image of images.filter(each => !places.has(each.key))) {
    places.set(image.key, free.shift() ?? NOWHERE);
  }
  return places;
}

/**
 * The stage that shows most images of a study, of those with these places.
 * @param {string[]} places
 * @returns {{id: string, shown: number}} its id, and how many images it shows
 */
export function largestStage(places) {
  const shown = places.filter(place => place !== NOWHERE);
  const id = shown.some(place => FURTHER.indexOf(place) >= 4) ? '3x4' : '2x4';
  return { id, shown: shown.length };
}

/** Whether the chest wall lies on the other side of the image than where its breast hangs. */
export function isMirrored(laterality, patientOrientation) {
  const along = String([].concat(patientOrientation ?? [])[0] ?? '').split('\\')[0].toUpperCase();
  return (laterality === 'R' && along === 'A') || (laterality === 'L' && along === 'P');
}

/** What OHIF may call in a rule: the place of a display set's image. `lookUp` answers it. */
export const PLACE_ATTRIBUTE = 'mammoPlace';

function first(sequence) {
  return Array.isArray(sequence) ? sequence[0] : sequence;
}

// Right breasts hang at the left with the chest wall to the right, left ones the other way: they meet in the middle.
const edge = x => ({
  storeAsInitialCamera: true,
  imageArea: [1, 1],
  imageCanvasPoint: { imagePoint: [x, 0.5], canvasPoint: [x, 0.5] },
});

/** Where in its viewport the image of a place lies; undefined for one that is just centred. */
export const displayAreaOf = place => (PLACES.includes(place) ? edge(place.startsWith('R') ? 1 : 0) : undefined);

function viewport(place) {
  const options = { toolGroupId: TOOL_GROUP, allowUnmatchedView: true, displayArea: displayAreaOf(place) };
  return { viewportOptions: options, displaySets: [{ id: place }] };
}

function stage(id, name, rows, columns, places) {
  return {
    id,
    name,
    viewportStructure: { layoutType: 'grid', properties: { rows, columns } },
    viewports: places.map(viewport),
  };
}

const selectors = Object.fromEntries(
  [...PLACES, ...FURTHER].map(place => [
    place,
    {
      seriesMatchingRules: [
        { attribute: PLACE_ATTRIBUTE, constraint: { equals: { value: place } }, required: true, weight: 1 },
      ],
    },
  ])
);

const [X1, X2, X3, X4, ...X5toX8] = FURTHER;
const [RCC, LCC, RMLO, LMLO] = PLACES;

// OHIF's `lessThan` and `greaterThan` are met by the value itself, too.
const isOne = { lessThan: { value: 1 } };
const isMore = { greaterThan: { value: 2 } };

/** The four views; its stages are the layouts that the panel offers. */
export const fourViews = {
  id: 'mammo.four',
  name: 'Mammography: four views',
  hasUpdatedPriorsInformation: false,
  numberOfPriorsReferenced: 0,
  protocolMatchingRules: [
    { attribute: 'numberOfDisplaySetsWithImages', constraint: isMore, required: true, weight: 200 },
  ],
  toolGroupIds: [TOOL_GROUP],
  displaySetSelectors: selectors,
  stages: [
    stage('2x2', '2 x 2', 2, 2, [RCC, LCC, RMLO, LMLO]),
    stage('1x4', '1 x 4', 1, 4, [RCC, LCC, RMLO, LMLO]),
    stage('2x4', '2 x 4', 2, 4, [RCC, LCC, X1, X2, RMLO, LMLO, X3, X4]),
    stage('3x4', '3 x 4', 3, 4, [RCC, LCC, X1, X2, RMLO, LMLO, X3, X4, ...X5toX8]),
  ],
};

/** One image alone. */
export const oneView = {
  ...fourViews,
  id: 'mammo.one',
  name: 'Mammography: one image',
  protocolMatchingRules: [
    { attribute: 'numberOfDisplaySetsWithImages', constraint: isOne, required: true, weight: 200 },
  ],
  displaySetSelectors: {
    any: { seriesMatchingRules: [{ attribute: PLACE_ATTRIBUTE, constraint: { doesNotEqual: { value: '' } }, weight: 1 }] },
  },
  stages: [
    {
      id: '1x1',
      name: '1 x 1',
      viewportStructure: { layoutType: 'grid', properties: { rows: 1, columns: 1 } },
      viewports: [{ viewportOptions: { toolGroupId: TOOL_GROUP }, displaySets: [{ id: 'any' }] }],
    },
  ],
};
