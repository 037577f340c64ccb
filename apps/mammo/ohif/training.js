// The training of a model from the viewer: started, followed and stopped. Not here: how that looks, and the training.

import { changed } from './study.js';
import * as server from './server.js';

const EVERY_MS = 1500;
const RUNNING = ['SUBMITTED', 'RUNNING'];
const PHASES = { preparing: 'preparing', training: 'training', comparing: 'comparing with the model in service' };
const ENDINGS = { STOPPED: 'Stopped; the model in service stays', ERROR: 'Failed', DONE: 'Finished' };

/** The latest training: which model, how far (0 to 1, null if unknown), in words, and a request that failed. */
export const training = { model: '', running: false, share: null, text: '', problem: null };

let timer = null;

/** Look how the latest training is, and again while it runs. */
export async function follow() {
  clearTimeout(timer);
  try {
    const task = await server.training();
    show(task, await restoredSince(task));
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

/** Stop the training; the served model stays as it is, unless the new weights had come into service already. */
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

/** The number of the weights to which a model was restored since its training's came into service; null if it was not. */
async function restoredSince(task) {
  const { outcome, serving } = task?.result ?? {};
  return task?.status === 'DONE' && outcome === 'accepted' && !serving ? server.servingOf(task.request.model) : null;
}

function show(task, restored) {
  const progress = task?.progress ?? {};
  training.running = RUNNING.includes(task?.status);
  training.model = task?.request?.model ?? '';
  training.share = training.running && progress.share > 0 ? progress.share : null;
  training.text = !task ? '' : training.running && !task.result ? underWay(progress) : ending(task, restored);
}

function underWay({ phase, epoch, epochs, metric, seconds_left: left }) {
  return [
    PHASES[phase] ?? 'starting',
    phase === 'training' && `epoch ${epoch} of ${epochs}`,
    metric && `${metric.name.replaceAll('_', ' ')} ${metric.value.toFixed(3)}`,
    left > 0 && `${left < 90 ? `${left} s` : `${Math.round(left / 60)} min`} left`,
  ]
    .filter(Boolean)
    .join(' · ');
}

/** A training stopped before its weights came into service changes nothing, whatever it found. */
const ending = ({ status, result }, restored) =>
  [result?.outcome && (status !== 'STOPPED' || result.serving) ? `New weights ${result.outcome}` : ENDINGS[status], result?.reason]
    .filter(Boolean)
    .join(': ') + (restored === null ? '' : `; restored to number ${restored} since`);
