// A mistake of OHIF put right: it gives the name of the VOI LUT function (0028,1056) as text where cornerstone takes the
// first of a list, and so the letter L of LINEAR; images that say it, as mammograms do, stay black or white.

import { ohif } from './context.js';

const VOI = 'voiLutModule';
const BEFORE_OHIF = 10_001; // OHIF's own provider has 9999

let asking = false;

function provide(type, ...query) {
  if (type !== VOI || asking) {
    return undefined;
  }
  asking = true;
  try {
    const found = ohif.libraries.cornerstone.metaData.get(type, ...query);
    const name = found?.voiLUTFunction;
    return typeof name === 'string' ? { ...found, voiLUTFunction: [name] } : undefined;
  } finally {
    asking = false;
  }
}

/** Give cornerstone the list that it takes, in OHIF's other modes too. */
export function correctMetadata() {
  ohif.libraries.cornerstone.metaData.addProvider(provide, BEFORE_OHIF);
}
