/**
 * A checkpoint: the whole memory of a used sandbox as a value, and as a file. Twin of `rlm_wasm/sandbox/checkpoint.py`,
 * whose docstring describes the file: what one language saves, the other restores.
 *
 * Does not look into the memory: that is the prisoner's, and is restored inside the same prison, so that restoring a
 * stranger's checkpoint is as safe as running a stranger's cell.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { basename, dirname } from "node:path";
import { Readable } from "node:stream";
import { createDeflate, createInflate } from "node:zlib";
import { BOOT_MB, MAX_MEMORY_MB } from "./child.ts";
import { SandboxError } from "./errors.ts";
import { headLength, packHead, readHead } from "./image.ts";
import { readBegun, readNothing, readPart } from "./messages.ts";

const MAGIC = "rlm-wasm checkpoint ", VERSION = 1;
/** In bytes; a manifest holds names, of which there are at most 256. */
const MAX_MANIFEST = 1024 * 1024;
const MAX_HEADER = 1024 * 1024;
/** Bytes of memory that the child is asked for at a time. */
const PART = 8 * 1024 * 1024;
/** The largest blob of a child whose checkpoint is taken, in bytes. */
export const MAX_PART = MAX_HEADER + PART;
/** Bytes that are compressed at a time. */
const CHUNK = 4 * 1024 * 1024;
/** What a byte of deflated content can stand for, so that a short file does not claim gigabytes. */
const MAX_EXPANSION = 1100;
const MB = 1024 * 1024, PAGE = 4096;
const MOST = (MAX_MEMORY_MB + BOOT_MB) * MB;
/** What the memory of an interpreter depends on, beside Pyodide; `rlm_wasm/sandbox/process.py` has the same list. */
const SOURCES =
  ("assets.ts awaits.py clock.ts equipment.py files.py glue.ts image.ts interpreter.ts jail_messages.ts linking.ts loading.ts mailbox.ts main.ts names.py output.py " +
    "packages.py packages.ts peer.ts prelude.py realm.ts sandbox.ts seed.ts sources.ts threads.py tracebacks.py values.py " +
    "wire.ts worker.ts").split(" ");

type Bytes = Uint8Array<ArrayBuffer>;

/** What is known of a checkpoint beside its bytes. */
export interface CheckpointFacts {
  /** What its memory depends on: a hash of Pyodide and of the files that run inside. */
  readonly build: string;
  /** Bytes of the interpreter's memory. */
  readonly memoryBytes: number;
  /** How many runs of pages the body has. */
  readonly runs: number;
  /** Megabytes beyond boot that its sandbox could have. */
  readonly memoryMb: number;
  /** How many cells had been run. */
  readonly cells: number;
  /** The variables, at most 256. */
  readonly names: readonly string[];
  /** The host functions that its cells could call. */
  readonly functions: readonly string[];
}

/** The keys of a manifest, in the order in which they are written. */
const BOUNDS: Record<string, number> = {
  memory_bytes: MOST,
  runs: MOST / PAGE,
  header_bytes: MAX_HEADER,
  body_bytes: MOST + 8 * (MOST / PAGE),
  memory_mb: MAX_MEMORY_MB,
  cells: Number.MAX_SAFE_INTEGER,
};
const LISTS = ["names", "functions"], TEXTS = ["build", "sha256"];

/** A sandbox's memory between two cells: variables, functions, instances, paused generators, modules and files. */
export class Checkpoint implements CheckpointFacts {
  readonly build!: string;
  readonly memoryBytes!: number;
  readonly runs!: number;
  readonly memoryMb!: number;
  readonly cells!: number;
  readonly names!: readonly string[];
  readonly functions!: readonly string[];
  /** What Pyodide wrote before the memory. */
  readonly header: Bytes;
  /** The table of runs, and their pages. */
  readonly body: Bytes;

  /** Made by `Sandbox.checkpoint` and `Checkpoint.load`. */
  constructor(facts: CheckpointFacts, header: Bytes, body: Bytes) {
    Object.assign(this, facts);
    this.header = header;
    this.body = body;
  }

  /** Bytes that it takes in the caller's memory. */
  get size(): number {
    return this.header.length + this.body.length;
  }

  /** Write it, compressed, whole or not at all, readable by nobody else. Needs permission to write to the folder. */
  async save(path: string): Promise<void> {
    const part = await Deno.makeTempFile({ dir: dirname(path), prefix: `.${basename(path)}.` });
    try {
      using file = await Deno.open(part, { write: true });
      for await (const chunk of this.#encoded()) await writeAll(file, chunk);
      await file.sync();
      await Deno.rename(part, path);
    } catch (error) {
      await Deno.remove(part).catch(() => {});
      throw error;
    }
  }

  /** Read one from a file. Rejects with Deno's errors for the file, or with RangeError, which says what is wrong in it. */
  static async load(path: string): Promise<Checkpoint> {
    try {
      return await decoded(await Deno.readFile(path));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new RangeError(`${path} cannot be restored: ${error.message}`);
    }
  }

  /** The memory, in MB, to restore it with. Throws RangeError if `chosen` is less than it holds. */
  memoryFor(chosen: number | undefined): number {
    const needed = Math.max(1, Math.ceil(this.memoryBytes / MB) - BOOT_MB);
    if (chosen !== undefined && chosen < needed) {
      throw new RangeError(
        `the checkpoint holds ${needed} MB, and memoryMb is ${chosen}: raise it, or leave it out`,
      );
    }
    return chosen ?? Math.max(this.memoryMb, needed);
  }

  /** The head of the image that it is. The code is of an image of the caller's own: never is it a guest's. */
  head(codeOf: Bytes | undefined): Bytes {
    const code = codeOf ? readHead(codeOf.slice(0, headLength(codeOf))).code : new Uint8Array();
    return packHead(code, this.memoryBytes, this.header, this.runs);
  }

  async *#encoded(): AsyncGenerator<Uint8Array> {
    const manifest = new TextEncoder().encode(JSON.stringify({
      build: this.build,
      memory_bytes: this.memoryBytes,
      runs: this.runs,
      header_bytes: this.header.length,
      body_bytes: this.body.length,
      sha256: checksum(this.header, this.body),
      memory_mb: this.memoryMb,
      cells: this.cells,
      names: this.names,
      functions: this.functions,
    }));
    yield new TextEncoder().encode(`${MAGIC}${VERSION}\n`);
    yield new Uint8Array(Uint32Array.of(manifest.length).buffer);
    yield manifest;
    const pieces = [this.header, this.body].flatMap((content) =>
      Array.from(
        { length: Math.ceil(content.length / CHUNK) },
        (_, index) =>
          Buffer.from(
            content.buffer,
            content.byteOffset + index * CHUNK,
            Math.min(CHUNK, content.length - index * CHUNK),
          ),
      )
    );
    // the quickest: most of a memory is either text, which any level halves, or nothing
    yield* Readable.from(pieces).pipe(createDeflate({ level: 1 })) as AsyncIterable<Uint8Array>;
  }
}

/**
 * What the memory of an interpreter depends on: Pyodide and the files that run inside. Needs permission to read this
 * folder; rejects with `SandboxError` without it.
 */
export async function findBuild(): Promise<string> {
  const digest = createHash("sha256");
  try {
    for (const name of [...SOURCES, "pyodide/manifest.json"]) {
      digest.update(await Deno.readFile(new URL(`./${name}`, import.meta.url)));
    }
  } catch (cause) {
    const message = `of which build a checkpoint is cannot be found out: ${(cause as Error).message}`;
    throw new SandboxError(message, { cause });
  }
  return digest.digest("hex");
}

/** How `take` speaks to the child. */
export interface Source {
  /** Ask the child. */
  ask(method: string, params: Record<string, unknown>): Promise<Record<string, unknown>>;
  /** The blob of this number. Throws TypeError if there is none. */
  takeBlob(id: number): Bytes;
  /** Give back the buffer of a blob. */
  recycle(buffer: ArrayBuffer): void;
}

/** Take a checkpoint of the child that is asked. Throws TypeError if it sends what it may not. */
export async function take(
  { ask, takeBlob, recycle }: Source,
  { build, memoryMb, names, functions }: Pick<CheckpointFacts, "build" | "memoryMb" | "names" | "functions">,
): Promise<Checkpoint> {
  const begun = readBegun(await ask("checkpoint_begin", {}), memoryMb);
  const { runs, size, cells, memory: memoryBytes } = begun;
  const head = takeBlob(begun.blob);
  const header = head.slice(0, begun.header), table = head.subarray(begun.header);
  if (table.length !== 8 * runs || header.length > MAX_HEADER) {
    throw new TypeError("a checkpoint without its table");
  }
  const body = allocated(table.length + size);
  body.set(table);
  for (let offset = 0; offset < size; offset += PART) {
    const length = Math.min(PART, size - offset);
    const part = takeBlob(readPart(await ask("checkpoint_part", { offset, length })));
    if (part.length !== length) {
      throw new TypeError("a part of a checkpoint of another length than was asked for");
    }
    body.set(part, table.length + offset);
    recycle(part.buffer);
  }
  readNothing("checkpoint_end", await ask("checkpoint_end", {}));
  return new Checkpoint({ build, memoryBytes, runs, memoryMb, cells, names, functions }, header, body);
}

function allocated(length: number): Bytes {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw new SandboxError(`there is no memory for a checkpoint of ${length} bytes`, { cause });
  }
}

function checksum(header: Uint8Array, body: Uint8Array): string {
  return createHash("sha256").update(header).update(body).digest("hex");
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let written = 0; written < bytes.length;) written += await file.write(bytes.subarray(written));
}

interface Manifest extends Record<string, unknown> {
  build: string;
  memory_bytes: number;
  runs: number;
  header_bytes: number;
  body_bytes: number;
  sha256: string;
  memory_mb: number;
  cells: number;
  names: string[];
  functions: string[];
}

async function decoded(file: Bytes): Promise<Checkpoint> {
  const { manifest, end } = readManifest(file);
  if (manifest.header_bytes + manifest.body_bytes > MAX_EXPANSION * (file.length - end)) {
    throw new RangeError("it is cut short");
  }
  const header = allocated(manifest.header_bytes), body = allocated(manifest.body_bytes);
  await inflate(file.subarray(end), [header, body]);
  if (checksum(header, body) !== manifest.sha256) {
    throw new RangeError("it is damaged (its checksum differs)");
  }
  const { build, runs, cells, names, functions } = manifest;
  const facts = { build, runs, cells, names, functions };
  return new Checkpoint(
    { ...facts, memoryBytes: manifest.memory_bytes, memoryMb: manifest.memory_mb },
    header,
    body,
  );
}

function readManifest(file: Bytes): { manifest: Manifest; end: number } {
  const first = new TextDecoder("latin1").decode(file.subarray(0, MAGIC.length + 10));
  const [, version] = /^rlm-wasm checkpoint ([0-9]{1,9})\n/.exec(first) ?? [];
  if (version === undefined) throw new RangeError("it is no checkpoint");
  if (Number(version) !== VERSION) {
    throw new RangeError(
      `its format is ${version}, and ${VERSION} is known here: use the version that it is of`,
    );
  }
  const start = MAGIC.length + version.length + 1 + 4;
  try {
    const length = new DataView(file.buffer, file.byteOffset).getUint32(start - 4, true);
    if (length > MAX_MANIFEST) throw new RangeError("it is too long");
    const text = new TextDecoder("utf-8", { fatal: true }).decode(file.subarray(start, start + length));
    return { manifest: checked(JSON.parse(text)), end: start + length };
  } catch (error) {
    throw new RangeError(`it is damaged or cut short (its manifest: ${(error as Error).message})`);
  }
}

function checked(manifest: unknown): Manifest {
  if (typeof manifest !== "object" || manifest === null) throw new RangeError("no object");
  const fields = manifest as Record<string, unknown>;
  if (Object.hasOwn(fields, "packages")) {
    throw new RangeError("it is of a sandbox with packages, which is restored from Python alone");
  }
  const known = [...Object.keys(BOUNDS), ...LISTS, ...TEXTS].sort();
  if (Object.keys(fields).sort().join() !== known.join()) {
    throw new RangeError("its keys are not those of one");
  }
  for (const [name, bound] of Object.entries(BOUNDS)) {
    const value = fields[name] as number;
    if (!Number.isSafeInteger(value) || value < 0 || value > bound) {
      throw new RangeError(`${name} is ${value}`);
    }
  }
  const isText = (value: unknown) => typeof value === "string";
  for (const name of LISTS) {
    const value = fields[name];
    if (!Array.isArray(value) || !value.every(isText)) throw new RangeError(`${name} is no list of names`);
  }
  if (!TEXTS.every((name) => isText(fields[name]))) throw new RangeError("its texts are none");
  return fields as Manifest;
}

/** Fill the places, one after the other, with what is compressed: no byte more, and none less. */
async function inflate(compressed: Bytes, places: Bytes[]): Promise<void> {
  const left = [...places];
  // Deno's own DecompressionStream does not mind a missing end
  const inflating = createInflate();
  let at = 0;
  try {
    for await (let piece of Readable.from([compressed]).pipe(inflating) as AsyncIterable<Uint8Array>) {
      while (piece.length > 0) {
        while (left[0] && at === left[0].length) {
          left.shift();
          at = 0;
        }
        if (!left[0]) throw new RangeError("there is more in it than was announced");
        const fitting = piece.subarray(0, left[0].length - at);
        left[0].set(fitting, at);
        at += fitting.length;
        piece = piece.subarray(fitting.length);
      }
    }
  } catch (error) {
    throw new RangeError(`it is damaged (${(error as Error).message})`);
  }
  if (inflating.bytesWritten !== compressed.length) {
    throw new RangeError("it is damaged (something follows its end)");
  }
  if (left.reduce((sum, place) => sum + place.length, 0) !== at) throw new RangeError("it is cut short");
}
