/**
 * All that can be chosen about a sandbox by a program that ships Deno, and what of it makes no sense. Decides without
 * doing anything.
 *
 * @module
 */

import { MAX_MEMORY_MB } from "./child.ts";
import { NAME } from "./messages.ts";
import type { HostFunction, SessionOptions } from "./session.ts";

/** All that can be chosen about a sandbox. */
export interface SandboxOptions {
  /**
   * Host functions by name, sync or async. They run in the caller's process and are called by code that nobody has
   * read, as often at once as it likes: an argument is data. A cell that calls one waits for it.
   */
  functions?: Record<string, HostFunction>;
  /**
   * Megabytes beyond what boot needs; 1024 holds a 100 MB text and what is made of it. Caps the interpreter's memory, not
   * what hostile code holds outside of it (files in its `/tmp`, JavaScript's buffers): a limit on the process does that.
   */
  memoryMb?: number;
  /** Characters of output kept for a cell; 10,000, which is about 2,500 tokens. */
  outputChars?: number;
  /** Words of output kept for a cell; no cap if it is not given. */
  outputWords?: number;
  /** Seconds of computing for a cell, not counting its waits for host functions; 60. */
  timeout?: number;
  /**
   * A whole number from which all that is random in the sandbox comes, while its clock stands still but for what is
   * counted, so that the same cells do the same each time. The machine's chance and time if it is not given.
   */
  seed?: number;
  /** Where the clock of a seeded sandbox begins, in seconds since the epoch; the beginning of 2026. */
  clock?: number;
  /** The path of a Deno binary; the one that runs this program. */
  deno?: string;
  /** A memory image that `Sandbox.makeImage` gave: the start then takes a fraction of the time. */
  image?: Uint8Array<ArrayBuffer>;
}

/** What a session is started with. Throws TypeError or RangeError for a choice that makes no sense. */
export function sessionOptions(options: SandboxOptions): SessionOptions {
  const functions = new Map(Object.entries(options.functions ?? {}));
  for (const name of functions.keys()) {
    if (!NAME.test(name)) {
      throw new TypeError(`functions: ${JSON.stringify(name)} is not a plain Python name`);
    }
  }
  const memoryMb = whole("memoryMb", options.memoryMb ?? 1024);
  if (memoryMb > MAX_MEMORY_MB) {
    throw new RangeError(`memoryMb: at most ${MAX_MEMORY_MB}, the address space of 32-bit WebAssembly`);
  }
  const { seed, clock } = options;
  if (seed !== undefined && !(Number.isSafeInteger(seed) && seed >= 0)) {
    throw new RangeError(`seed must be a whole number from 0 to 2**53 - 1, not ${seed}`);
  }
  if (clock !== undefined && !(seed !== undefined && clock > 0 && clock < 2 ** 34)) {
    throw new RangeError(`clock must be seconds since the epoch, beside a seed, not ${clock}`);
  }
  return {
    functions,
    memoryMb,
    outputChars: whole("outputChars", options.outputChars ?? 10_000),
    outputWords: options.outputWords === undefined ? undefined : whole("outputWords", options.outputWords),
    seed,
    clock,
    deno: options.deno ?? Deno.execPath(),
    image: options.image,
  };
}

/** The value, if it is a finite number above 0. Throws RangeError. */
export function positive(name: string, value: number): number {
  if (value > 0 && Number.isFinite(value)) return value;
  throw new RangeError(`${name} must be a number above 0, not ${value}`);
}

/** The value, if it is a whole number above 0. Throws RangeError. */
export function whole(name: string, value: number): number {
  if (Number.isSafeInteger(value)) return positive(name, value);
  throw new RangeError(`${name} must be a whole number, not ${value}`);
}
