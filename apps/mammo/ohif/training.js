// The training of a model from the viewer: started, followed and stopped. Not here: how that looks, and the training.

import { changed } from './study.js';
import * as server from './server.js';

const EVERY_MS = 2000;
const RUNNING = ['SUBMITTED', 'RUNNING'];

/** The latest training: which model, how far (0 to 1, null if unknown), and in words. */
export const training = { model: '', running: false, share: null, text: '', problem: null };

let timer = null;

/** Look how the latest training is, and again while it runs. */
export async function follow() {
  clearTimeout(timer);
  try {
    show(await server.training(), (await server.info()).trainers ?? {});
    training.problem = null;
  } catch (error) {
    training.problem = error; // it goes on, seen or not: ask again
  }
  changed();
  if (training.running) {
    timer = setTimeout(follow, EVERY_MS);
  }
}

/** Train a model on all that was annotated. */
export const start = model => request(() => server.train(model));

/** Stop the training; the served model stays as it is. */
export const stop = () => request(() => server.stopTraining());

async function request(asking) {
  try {
    await asking();
  } catch (error) {
    training.problem = error;
    changed();
    return;
  }
  await follow();
}

function show(task, trainers) {
  training.running = RUNNING.includes(task?.status);
  training.model = task?.request?.model ?? '';
  const { epoch = 0, total_epochs: epochs = 0, phase = '', best_metric: best = 0 } = trainers[training.model]?.stats ?? {};
  training.share = training.running && epochs ? epoch / epochs : null;
  const words = [phase !== 'none' && phase, epochs > 1 && `epoch ${epoch} of ${epochs}`, best > 0 && `best ${best.toFixed(3)}`];
  training.text = task ? [status(task.status), ...words].filter(Boolean).join(' · ') : '';
}

const status = word => ({ DONE: 'finished', ERROR: 'failed', STOPPED: 'stopped', SUBMITTED: 'waiting' })[word] ?? '';
