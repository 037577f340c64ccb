// Masks as the server takes and gives them: NRRD of one slice, gzip, one byte a pixel. Not a reader of other NRRD.

/**
 * The pixels of a mask file.
 * @param {ArrayBuffer} buffer the file
 * @param {{rows: number, columns: number}} image that it belongs to
 * @returns {Promise<Uint8Array>} row by row
 */
export async function readMask(buffer, image) {
  const bytes = new Uint8Array(buffer);
  const end = endOfHeader(bytes);
  const fields = headerFields(new TextDecoder().decode(bytes.subarray(0, end)));
  const [columns, rows, ...others] = (fields.sizes || '').split(/\s+/).map(Number);
  if (columns !== image.columns || rows !== image.rows || others.some(size => size !== 1)) {
    throw new Error(`The mask has ${fields.sizes} pixels, the image ${image.columns} ${image.rows}`);
  }
  if (!['uchar', 'unsigned char', 'uint8', 'uint8_t'].includes(fields.type)) {
    throw new Error(`The mask's pixels are of type ${fields.type} instead of unsigned char`);
  }
  const content = bytes.subarray(end);
  const pixels = ['gzip', 'gz'].includes(fields.encoding) ? await through(content, 'De') : content;
  if (pixels.length !== rows * columns) {
    throw new Error(`The mask has ${pixels.length} pixels instead of ${rows * columns}`);
  }
  return pixels;
}

/**
 * A mask as a file.
 * @param {Uint8Array} mask row by row
 * @param {{rows: number, columns: number}} image that it belongs to
 * @returns {Promise<Blob>}
 */
export async function writeMask(mask, image) {
  const header = [
    'NRRD0004',
    'type: unsigned char',
    'dimension: 3',
    `sizes: ${image.columns} ${image.rows} 1`,
    'encoding: gzip',
  ];
  return new Blob([`${header.join('\n')}\n\n`, await through(mask, '')], { type: 'application/octet-stream' });
}

function endOfHeader(bytes) {
  for (let index = 1; index < bytes.length; index++) {
    if (bytes[index] === 10 && (bytes[index - 1] === 10 || (bytes[index - 1] === 13 && bytes[index - 2] === 10))) {
      return index + 1;
    }
  }
  throw new Error('The mask that the server sent is no NRRD file');
}

function headerFields(header) {
  const lines = header.split(/\r?\n/).map(line => /^([^#:]+):=?\s*(.*)$/.exec(line));
  return Object.fromEntries(lines.filter(Boolean).map(([, name, value]) => [name.trim(), value.trim()]));
}

async function through(bytes, direction) {
  const stream = direction === 'De' ? new DecompressionStream('gzip') : new CompressionStream('gzip');
  const answer = new Response(new Blob([bytes]).stream().pipeThrough(stream));
  return new Uint8Array(await answer.arrayBuffer());
}
