/**
 * The memory image of a booted interpreter: its pages that are not zero, and the code around it (glue.ts). Made
 * once, in a jail that never saw anybody's data; a start from one takes an eighth of the time. Handed to the jail beside
 * `worker.ts`.
 *
 * An image is a head, which the jail can use while the rest is still on its way, and a body:
 *
 *     head   magic "RLMI", version, bytes of code, bytes of memory, bytes of Pyodide's own header, count of runs
 *            (each 32 bits, little-endian); the code; Pyodide's header
 *     body   for each run of pages its first address and its length, in bytes; the pages of all runs
 *
 * @module
 */

const MAGIC = 0x494d4c52, VERSION = 1, FIELDS = 6, PAGE = 4096;
/** Bytes of the head before the code. */
export const HEAD_FIELDS = 4 * FIELDS;

/** What a jail needs of the head. */
export interface Head {
  /** Bytes of the interpreter's memory. */
  memoryBytes: number;
  /** The code around the interpreter, as glue.ts packs it. */
  code: Uint8Array<ArrayBuffer>;
  /** What Pyodide wrote before the memory (its build, the JavaScript objects it refers to), and what is linked. */
  header: Uint8Array<ArrayBuffer>;
  /** How many runs of pages the body has. */
  runs: number;
}

function padded(length: number): number {
  return (length + 3) & ~3;
}

/** Bytes of the head of an image. Throws RangeError for what is no image of this version. */
export function headLength(image: Uint8Array): number {
  const fields = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (image.byteLength < HEAD_FIELDS || fields.getUint32(0, true) !== MAGIC) throw new RangeError("no image");
  if (fields.getUint32(4, true) !== VERSION) throw new RangeError("an image of another version");
  return HEAD_FIELDS + padded(fields.getUint32(8, true)) + padded(fields.getUint32(16, true));
}

/** Whether a head has code in it; one that a checkpoint was given may have none, and what is no head has none. */
export function hasCode(head: Uint8Array): boolean {
  return head.length >= HEAD_FIELDS &&
    new DataView(head.buffer, head.byteOffset, head.byteLength).getUint32(8, true) > 0;
}

/** Read a head. Throws RangeError for what is none. */
export function readHead(head: Uint8Array<ArrayBuffer>): Head {
  if (headLength(head) !== head.length) throw new RangeError("not the head of an image");
  const fields = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const codeLength = fields.getUint32(8, true), headerLength = fields.getUint32(16, true);
  const headerStart = HEAD_FIELDS + padded(codeLength);
  return {
    memoryBytes: fields.getUint32(12, true),
    code: head.subarray(HEAD_FIELDS, HEAD_FIELDS + codeLength),
    // a copy, because Pyodide looks at it by 32 bits
    header: head.slice(headerStart, headerStart + headerLength),
    runs: fields.getUint32(20, true),
  };
}

/** The head of an image: of `memoryBytes` bytes of memory, with so many runs of pages. */
export function packHead(
  code: Uint8Array,
  memoryBytes: number,
  header: Uint8Array,
  runs: number,
): Uint8Array<ArrayBuffer> {
  const headerStart = HEAD_FIELDS + padded(code.length);
  const head = new Uint8Array(headerStart + padded(header.length));
  const words = new DataView(head.buffer);
  [MAGIC, VERSION, code.length, memoryBytes, header.length, runs].forEach((field, index) =>
    words.setUint32(4 * index, field, true)
  );
  head.set(code, HEAD_FIELDS);
  head.set(header, headerStart);
  return head;
}

/** The bytes of all parts, one after the other. */
export function joined(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Pyodide's own header, and what follows it: the record of what is linked (linking.ts). */
export function splitHeader(
  header: Uint8Array<ArrayBuffer>,
): [own: Uint8Array<ArrayBuffer>, links: Uint8Array<ArrayBuffer>] {
  // its second word is its length
  const length = new DataView(header.buffer, header.byteOffset, header.byteLength).getUint32(4, true);
  return [header.slice(0, length), header.subarray(length)];
}

/** Make an image of what Pyodide's `makeMemorySnapshot` gave, of the record of what is linked, and of code. */
export function packImage(
  snapshot: Uint8Array<ArrayBuffer>,
  links: Uint8Array,
  code: Uint8Array,
): Uint8Array<ArrayBuffer> {
  // the second word of Pyodide's header is its length
  const headerLength = new DataView(snapshot.buffer, snapshot.byteOffset).getUint32(4, true);
  const memory = snapshot.subarray(headerLength);
  const runs = findRuns(memory);
  const pages = gather(memory, runs, 0, memory.length);
  const header = joined(snapshot.subarray(0, headerLength), links);
  return joined(packHead(code, memory.length, header, runs.length), packRuns(runs), pages);
}

/** A run of pages: its first address and its length, in bytes. */
export type Run = [address: number, length: number];

/** The runs of pages that are not all zero. */
export function findRuns(memory: Uint8Array): Run[] {
  const runs: Run[] = [];
  const words = new Int32Array(memory.buffer, memory.byteOffset, memory.length >> 2);
  for (let address = 0; address < memory.length; address += PAGE) {
    const end = Math.min(address + PAGE, memory.length);
    let word = address >> 2;
    while (word < end >> 2 && words[word] === 0) word++;
    if (word === end >> 2) continue;
    const last = runs.at(-1);
    if (last && last[0] + last[1] === address) last[1] += end - address;
    else runs.push([address, end - address]);
  }
  return runs;
}

/** The runs as they stand in a body. */
export function packRuns(runs: Run[]): Uint8Array<ArrayBuffer> {
  const table = new DataView(new ArrayBuffer(8 * runs.length));
  runs.flat().forEach((field, index) => table.setUint32(4 * index, field, true));
  return new Uint8Array(table.buffer);
}

/** Of the pages of all runs, one after the other, `length` bytes from `offset` on; fewer at the end. */
export function gather(
  memory: Uint8Array,
  runs: Run[],
  offset: number,
  length: number,
): Uint8Array<ArrayBuffer> {
  const size = runs.reduce((sum, [, each]) => sum + each, 0);
  const gathered = new Uint8Array(Math.max(0, Math.min(length, size - offset)));
  let before = 0, at = 0;
  for (const [address, each] of runs) {
    const from = Math.max(0, offset - before);
    if (from < each && at < gathered.length) {
      const part = memory.subarray(address + from, address + Math.min(each, from + gathered.length - at));
      gathered.set(part, at);
      at += part.length;
    }
    before += each;
  }
  return gathered;
}

/**
 * Put a body into a memory of which only the part below `used` has been written to since it was made. Throws RangeError
 * if it does not belong there.
 */
export function restore(memory: Uint8Array, used: number, head: Head, body: Uint8Array): void {
  const words = new DataView(body.buffer, body.byteOffset, body.byteLength);
  let at = 8 * head.runs, end = 0;
  for (let index = 0; index < head.runs; index++) {
    const address = words.getUint32(8 * index, true), length = words.getUint32(8 * index + 4, true);
    if (address < end || at + length > body.length) throw new RangeError("a damaged image");
    if (end < used) memory.fill(0, end, Math.min(address, used));
    memory.set(body.subarray(at, at + length), address);
    at += length;
    end = address + length;
  }
  if (at !== body.length) throw new RangeError("a damaged image");
  if (end < used) memory.fill(0, end, used);
}
