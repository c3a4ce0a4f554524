// PNG files: their size, the texts in them, and copying these into another.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const MOST = 1 << 20; // characters of one text

export function isPNG(bytes) { return bytes.length > 33 && SIGNATURE.every((b, i) => bytes[i] === b); }

/** Width and height in pixels, from the header. */
export function size(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { width: view.getUint32(16), height: view.getUint32(20) };
}

function* chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const end = at + 12 + length;
    if (end > bytes.length) return;
    yield { type: latin(bytes.subarray(at + 4, at + 8)), data: bytes.subarray(at + 8, at + 8 + length), whole: bytes.subarray(at, end) };
    at = end;
  }
}

/** The texts by keyword, of tEXt, zTXt and iTXt chunks. The first of a keyword counts. */
export async function texts(bytes) {
  const found = {};
  if (!isPNG(bytes)) return found;
  for (const { type, data } of chunks(bytes)) {
    if (!['tEXt', 'zTXt', 'iTXt'].includes(type)) continue;
    const end = data.indexOf(0);
    if (end < 1 || end > 79) continue;
    const keyword = latin(data.subarray(0, end));
    try {
      if (!(keyword in found)) found[keyword] = await decode(type, data.subarray(end + 1));
    } catch { /* damaged: as if it were not there */ }
  }
  return found;
}

async function decode(type, data) {
  if (type === 'tEXt') return latin(data);
  if (type === 'zTXt') return latin(await inflate(data.subarray(1)));
  const compressed = data[0] === 1;
  let at = 2; // after the flag and the method: the language, then the translated keyword
  for (let i = 0; i < 2; i++) {
    const end = data.indexOf(0, at);
    if (end < 0) throw new Error('iTXt without its end');
    at = end + 1;
  }
  const text = data.subarray(at);
  return new TextDecoder().decode(compressed ? await inflate(text) : text.subarray(0, MOST));
}

/** Decompresses at most MOST bytes: a small file may hold gigabytes of nothing. */
async function inflate(data) {
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream('deflate')).getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > MOST) {
      await reader.cancel();
      throw new Error('too long');
    }
    parts.push(value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** A PNG with the texts of another, after its header. */
export function withTextsOf(bytes, other) {
  const header = 33; // signature and IHDR
  const extra = [...chunks(other)].filter(({ type }) => ['tEXt', 'zTXt', 'iTXt'].includes(type)).map(({ whole }) => whole);
  return new Blob([bytes.subarray(0, header), ...extra, bytes.subarray(header)], { type: 'image/png' });
}

function latin(bytes) {
  let text = '';
  for (let i = 0; i < bytes.length && i < MOST; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return text;
}
