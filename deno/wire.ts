/**
 * Frames on a pipe: bytes in, frames out, and back. Twin of `rlm_wasm/sandbox/wire.py`, whose docstring is the
 * specification; `tests/golden/wire.json` holds both to the same bytes. Does no I/O and knows no message by name.
 *
 * @module
 */

/** The version of the protocol, sent and checked by both sides in the first exchange. */
export const PROTOCOL = 1;
/** The largest JSON message, in bytes. */
export const MAX_MESSAGE = 64 * 1024 * 1024;
/** The largest blob, in bytes: what 32-bit WebAssembly memory could hold. */
export const MAX_BLOB = 4 * 1024 * 1024 * 1024 - 1;
const MAX_HEADER = 1024;

/** A JSON-RPC 2.0 message: a request, a notification or a reply. */
export interface Message {
  jsonrpc: "2.0";
  /** Absent in a notification. */
  id?: number | string | null;
  method?: string;
  params?: unknown;
  result?: unknown;
  error?: { code: number; message: string; data?: unknown };
}

/** A frame: a JSON-RPC message, or raw bytes with the number by which a message refers to them. */
export type Frame = { message: Message } | { blob: number; bytes: Uint8Array<ArrayBuffer> };

/** The bytes are not frames. Nothing that follows on the same pipe can be trusted. */
export class WireError extends Error {
  override name = "WireError";
}

const encoder = new TextEncoder();

/** The bytes of one JSON-RPC message, ended by `end`. Throws RangeError for one that the other side would refuse as too large. */
export function encodeMessage(message: unknown, end: "" | "\n" = ""): Uint8Array<ArrayBuffer> {
  const body = encoder.encode(JSON.stringify(message) + end);
  if (body.length > MAX_MESSAGE) {
    throw new RangeError(
      `a message of ${body.length} bytes is too large: at most ${MAX_MESSAGE} can be sent`,
    );
  }
  const header = encoder.encode(`Content-Length: ${body.length}\r\n\r\n`);
  const frame = new Uint8Array(header.length + body.length);
  frame.set(header);
  frame.set(body, header.length);
  return frame;
}

/** The header of a blob's frame; the bytes themselves follow it on the pipe. */
export function encodeBlobHeader(id: number, length: number): Uint8Array<ArrayBuffer> {
  return encoder.encode(
    `Content-Length: ${length}\r\nContent-Type: application/octet-stream\r\nContent-Id: ${id}\r\n\r\n`,
  );
}

interface Header {
  length: number;
  blob: number | null;
}

function parseNumber(text: string, name: string): number {
  if (!/^[0-9]{1,15}$/.test(text)) throw new WireError(`${name} is not a number: ${JSON.stringify(text)}`);
  return Number(text);
}

function parseHeader(text: string, maxBlob: number): Header {
  const fields = new Map<string, string>();
  for (const line of text.split("\r\n")) {
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(colon, 0)).trim().toLowerCase();
    // LSP's headers are ASCII; of other bytes two languages would not trim and fold the same ones
    if (!name || fields.has(name) || /[^\0-\x7f]/.test(line)) {
      throw new WireError(`bad header line: ${JSON.stringify(line.slice(0, 100))}`);
    }
    fields.set(name, line.slice(colon + 1).trim());
  }
  const length = parseNumber(fields.get("content-length") ?? "", "Content-Length");
  const type = fields.get("content-type") ?? "";
  if (type === "application/octet-stream") {
    if (length > maxBlob) {
      throw new WireError(`a blob of ${length} bytes where at most ${maxBlob} were expected`);
    }
    return { length, blob: parseNumber(fields.get("content-id") ?? "", "Content-Id") };
  }
  if (type && !/^application\/(vscode-jsonrpc|json)\s*(;\s*charset=utf-?8)?$/i.test(type)) {
    throw new WireError(`unknown Content-Type: ${JSON.stringify(type)}`);
  }
  if (length > MAX_MESSAGE) throw new WireError(`a message of ${length} bytes is too large`);
  return { length, blob: null };
}

const MEMBERS = new Set(["jsonrpc", "id", "method", "params", "result", "error"]);
const ERROR_MEMBERS = new Set(["code", "message", "data"]);

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function hasOnly(value: object, members: Set<string>): boolean {
  return Object.keys(value).every((name) => members.has(name));
}

function isMessage(value: unknown): value is Message {
  if (!isObject(value) || value.jsonrpc !== "2.0" || !hasOnly(value, MEMBERS)) return false;
  const { id = null, method = "", error } = value;
  if (id !== null && typeof id !== "string" && !Number.isInteger(id)) return false;
  if (typeof method !== "string") return false;
  if (error === undefined) return true;
  return isObject(error) && Number.isInteger(error.code) && typeof error.message === "string" &&
    hasOnly(error, ERROR_MEMBERS);
}

/** Buffers that are kept for later blobs, and bytes of one: one is filled while another is on its way. */
const MAX_SPARES = 2, MAX_SPARE_BYTES = 16 * 1024 * 1024;

/**
 * Takes bytes apart into frames. The reader lends the place where the next bytes belong (`space`), so that a blob is
 * read from the pipe straight into its own buffer, then is told how many came (`filled`). A frame is refused by its
 * length before anything is kept for it; `maxBlob` is the largest blob that is accepted, in bytes.
 */
export class FrameReader {
  /** The largest blob that is accepted, in bytes. */
  maxBlob: number;
  #buffer = new Uint8Array(64 * 1024);
  #start = 0;
  #end = 0;
  #header: Header | null = null;
  #body: Uint8Array<ArrayBuffer> | null = null;
  #bodyEnd = 0;
  #spares: ArrayBuffer[] = [];
  // a byte order mark is no JSON, and is not to be swallowed here
  #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  constructor(maxBlob = MAX_BLOB) {
    this.maxBlob = maxBlob;
  }

  /** Where to put the bytes that come next; never empty. */
  space(): Uint8Array<ArrayBuffer> {
    if (this.#body) return this.#body.subarray(this.#bodyEnd);
    if (this.#start > 0) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    return this.#buffer.subarray(this.#end);
  }

  /** Say that `count` bytes were put into `space()`; gives the frames that they complete. Throws `WireError`. */
  *filled(count: number): Generator<Frame> {
    if (this.#body) this.#bodyEnd += count;
    else this.#end += count;
    for (;;) {
      if (!this.#header && !this.#takeHeader()) return;
      const frame = this.#takeBody();
      if (!frame) return;
      yield frame;
    }
  }

  /** True between frames: where a pipe may end. */
  get idle(): boolean {
    return !this.#header && this.#start === this.#end;
  }

  /** Lend a buffer of an earlier blob, whose content is of no more use, to a later one of about its size. */
  recycle(buffer: ArrayBuffer): void {
    if (this.#spares.length < MAX_SPARES && buffer.byteLength <= MAX_SPARE_BYTES) this.#spares.push(buffer);
  }

  #allocate(length: number, isBlob: boolean): Uint8Array<ArrayBuffer> {
    const fitting = isBlob
      ? this.#spares.findIndex(({ byteLength }) => length <= byteLength && byteLength <= 2 * length)
      : -1;
    if (fitting >= 0) return new Uint8Array(this.#spares.splice(fitting, 1)[0]!, 0, length);
    try {
      return new Uint8Array(length);
    } catch {
      throw new WireError(`there is no memory for a frame of ${length} bytes`);
    }
  }

  #takeHeader(): boolean {
    const limit = Math.min(this.#end, this.#start + MAX_HEADER);
    for (let i = this.#start; i + 3 < limit; i++) {
      const b = this.#buffer;
      if (b[i] === 13 && b[i + 1] === 10 && b[i + 2] === 13 && b[i + 3] === 10) {
        this.#header = parseHeader(this.#text(this.#buffer.subarray(this.#start, i)), this.maxBlob);
        this.#start = i + 4;
        return true;
      }
    }
    if (this.#end - this.#start >= MAX_HEADER) throw new WireError("a header is longer than 1024 bytes");
    return false;
  }

  #takeBody(): Frame | null {
    const { length, blob } = this.#header!;
    if (!this.#body) {
      const held = this.#end - this.#start;
      if (blob === null && held >= length) {
        const body = this.#buffer.subarray(this.#start, this.#start + length);
        this.#start += length;
        this.#header = null;
        return { message: this.#parse(body) };
      }
      this.#body = this.#allocate(length, blob !== null);
      this.#bodyEnd = Math.min(held, length);
      this.#body.set(this.#buffer.subarray(this.#start, this.#start + this.#bodyEnd));
      this.#start += this.#bodyEnd;
    }
    if (this.#bodyEnd < length) return null;
    const body = this.#body;
    this.#body = this.#header = null;
    return blob === null ? { message: this.#parse(body) } : { blob, bytes: body };
  }

  #text(bytes: Uint8Array): string {
    try {
      return this.#decoder.decode(bytes);
    } catch {
      throw new WireError("not UTF-8");
    }
  }

  #parse(bytes: Uint8Array): Message {
    const text = this.#text(bytes);
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      throw new WireError("not JSON");
    }
    if (!isMessage(message)) throw new WireError("not a JSON-RPC 2.0 message");
    return message;
  }
}
