// What the panel asks of the server, one function a request. Not here: what is done with the answers.

import { readMask, writeMask } from './nrrd.js';

export const MODELS = {
  quality: 'mammo_quality_classification',
  whole: 'mammo_tumor_segmentation',
  lesion: 'mammo_tumor_segmentation_roi',
};

/** A request that failed: what was wrong, and what helps against it. */
class ServerError extends Error {
  constructor(status, reason, remedy) {
    super(reason);
    this.name = 'ServerError';
    this.status = status;
    this.reason = reason;
    this.remedy = remedy;
  }
}

/**
 * An image of a study as the server knows it; its spacing (row, column) is in mm of the breast, null if unknown.
 * @typedef {{id: string, study: string, series: string, sop: string, view: ?string, laterality: ?string,
 *   rows: number, columns: number, spacing: ?number[], labelled: boolean, verdict: ?string, readers: string[],
 *   verdicts: Object<string, string>, problem: ?string, revision: number|undefined}} ImageRow `verdict` is the reader's own
 *   of all `verdicts` by reader, `revision` that of the reader's own label, as far as the server tells it
 */

/** What the server offers: models, trainers and strategies. */
export const info = () => json('/info/');

/** The server's name for everybody where nobody has to say who they are, as `ANYBODY` of users.py. */
export const ANYBODY = 'annotator';

let opener = ''; // of this page: all requests say it, and are refused (409) once somebody else is logged in

/** The name of whoever opened this page. */
export const reader = async () => (opener ||= (await json('/auth/token/valid')).username);

/** The images of a study: `ImageRow[]`. */
export const images = study => json(`/mammo/studies/${encodeURIComponent(study)}`);

/** Fail where a study cannot be opened: OHIF leaves the open one all the same, for a page that does not say why. */
export async function needStudy(study) {
  const response = await request(`/dicomweb/studies?StudyInstanceUID=${encodeURIComponent(study)}`);
  if (response.status === 204 || !(await response.json()).length) {
    throw new ServerError(404, 'The case cannot be opened: its images are not there any more', 'Take another case');
  }
}

/** A DICOM image of another case, by a strategy: its id and what is known of it; null if there is none left. */
export async function nextImage(strategy) {
  const chosen = await json(`/activelearning/${encodeURIComponent(strategy)}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ next_case: true, dicom: true }),
  });
  return chosen && chosen.id ? chosen : null;
}

/**
 * Segment an image.
 * @param {string} model a name of `MODELS`
 * @param {ImageRow} image
 * @param {object} params of the request, such as `{point: [row, column]}` or `{box: [row0, column0, row1, column1]}`
 * @returns {Promise<{mask: Uint8Array, params: object}>} the mask, row by row, and what was said beside it
 */
export async function segment(model, image, params = {}) {
  const asked = { ...params, result_extension: '.nrrd', result_dtype: 'uint8' };
  const answer = await request(inferPath(model, image, 'all'), { method: 'POST', body: form({ params: asked }) });
  const parts = await answer.formData();
  const mask = await readMask(await blobOf(parts.get('image')).arrayBuffer(), image);
  return { mask, params: JSON.parse(await blobOf(parts.get('params')).text()) };
}

/** The verdict on an image's completeness: `{verdict, probability_complete, probability_incomplete, ...}`. */
export async function quality(image) {
  const body = form({ params: { result_write_to_file: false } });
  return (await json(inferPath(MODELS.quality, image, 'json'), { method: 'POST', body })).quality;
}

/**
 * The tumours of the saved label of an image, how it was made, and the names that these pixels do not show: of other
 * segments, and of those that only may be tumours: `{mask, origin, names: {hidden: string[], unknown: string[]}}`.
 */
export async function savedMask(image) {
  const answer = await request(`/mammo/masks/${encodeURIComponent(image.id)}`);
  const names = JSON.parse(answer.headers.get('Mammo-Segments'));
  const mask = await readMask(await answer.arrayBuffer(), image);
  return { mask, origin: await originOfSaved(image), names };
}

/** What the server knows is of the latest reader's label, so among several it might be of another than the mask. */
async function originOfSaved(image) {
  if (image.readers.length !== 1) {
    return {};
  }
  const { method, model } = await json(`/datastore/label/info?label=${encodeURIComponent(image.id)}&tag=final`);
  return { ...(method && { method }), ...(model && { model }) };
}

/**
 * Save a mask of tumours, which may be empty, as an image's final label, in which all else that the reader's own label
 * holds stays; refused (409) if the server has a newer one of the reader's than the image's `revision` says.
 * @param {import('./masks.js').Origin} origin how the mask was made
 */
export async function saveMask(image, mask, origin) {
  const { revision } = image; // not sent where the server does not tell it
  const params = { label_info: [{ name: 'tumour', idx: 1 }], ...origin, revision, keep_others: true };
  const body = form({ params });
  body.append('label', await writeMask(mask, image), 'label.nrrd');
  return json(`/datastore/label?image=${encodeURIComponent(image.id)}&tag=final`, { method: 'PUT', body });
}

/** The name of whoever has a study in hand; '' if nobody has. */
export const holderOf = async study => (await json('/mammo/worklist')).find(lease => lease.case === study)?.user ?? '';

/** Let others have the case of an image, which is not finished. */
export const handBack = image => json(`/mammo/worklist/${encodeURIComponent(image)}`, { method: 'DELETE' });

/** Save a reader's verdict on an image, `complete` or `incomplete`; null takes it back. */
export const saveVerdict = (image, verdict) =>
  json(`/datastore/image/info?image=${encodeURIComponent(image.id)}`, {
    method: 'PUT',
    body: form({ info: { quality: verdict } }),
  });

/** Train a model on all that was annotated. */
export const train = model =>
  json(`/train/${encodeURIComponent(model)}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: '{}',
  });

/** The latest training, null if there was none. */
export async function training() {
  try {
    return await json('/train/');
  } catch (error) {
    if (error instanceof ServerError && error.status === 404) {
      return null;
    }
    throw error;
  }
}

/** The number of a model's weights in service. */
export const servingOf = async model => (await json(`/mammo/models/${encodeURIComponent(model)}/history`)).serving;

/** Stop the training. */
export const stopTraining = () => json('/train/', { method: 'DELETE' });

const inferPath = (model, image, output) =>
  `/infer/${encodeURIComponent(model)}?image=${encodeURIComponent(image.id)}&output=${output}`;

function form(fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    body.append(name, JSON.stringify(value));
  }
  return body;
}

const blobOf = part => (part instanceof Blob ? part : new Blob([part ?? '']));

async function json(path, options) {
  return (await request(path, options)).json();
}

async function request(path, options = {}) {
  let response;
  const headers = { ...options.headers, ...(opener && { 'Mammo-Reader': opener }) };
  try {
    response = await fetch(path, { credentials: 'same-origin', ...options, headers });
  } catch {
    throw new ServerError(0, 'The server does not answer', 'See whether it still runs, then try again');
  }
  if (response.ok) {
    return response;
  }
  if (response.status === 401) {
    throw new ServerError(401, 'You are not logged in', 'Log in at /login in another tab, then try again');
  }
  throw await refusal(response);
}

async function refusal(response) {
  let said = {};
  try {
    said = await response.json();
  } catch {
    // No JSON, so the status has to say it.
  }
  const detail = typeof said.detail === 'string' ? said.detail : undefined;
  const reason = said.reason || detail || `The server answered with status ${response.status}`;
  return new ServerError(response.status, reason, said.remedy || '');
}
