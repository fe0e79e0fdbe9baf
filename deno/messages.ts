/**
 * What the child may send: the shapes of its replies, and how large an honest one can be. Twin of
 * `rlm_wasm/sandbox/messages.py`.
 *
 * @module
 */

import { BOOT_MB } from "./child.ts";

/** A variable's name, as Python has them; of other letters than ASCII's none is known here. */
export const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
/** What a report of a cell may hold; the output's size is the caller's choice. */
const MAX_ERROR_CHARS = 10_000, MAX_VALUE_BYTES = 100_000, MAX_NAMES = 256, MARKER_CHARS = 200;

type Reply = Record<string, unknown>;
type Check = (value: unknown) => boolean;

/** The reply to `execute`. */
export interface Ran {
  output: [stream: string, text: string][];
  truncated: number;
  error: string | null;
  value: string | null;
  names: string[];
  timed_out: boolean;
  seconds: number;
  kept?: number | null;
  restored?: string[];
  repeatable?: boolean;
}

/** The reply to `checkpoint_begin`: `memory`, `header` and `size` in bytes, of which `size` are its pages'. */
export interface CheckpointBegun {
  memory: number;
  header: number;
  runs: number;
  size: number;
  cells: number;
  blob: number;
}

const isText: Check = (value) => typeof value === "string";
const isCount: Check = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
const isPiece: Check = (value) =>
  Array.isArray(value) && value.length === 2 && ["stdout", "stderr"].includes(value[0]) && isText(value[1]);

function isTextOrNull(most: number): Check {
  return (value) => value === null || typeof value === "string" && value.length <= most;
}

function isListOf(isItem: Check): Check {
  return (value) => Array.isArray(value) && value.every(isItem);
}

/** The reply, if it has these fields and no others. Throws TypeError. */
function read(method: string, reply: Reply, checks: Record<string, Check>): Reply {
  const known = Object.keys(reply).every((name) => Object.hasOwn(checks, name));
  if (known && Object.entries(checks).every(([name, check]) => check(reply[name]))) return reply;
  throw new TypeError(`not a reply to ${method}`);
}

/** The reply to `execute`, if it is one and holds no more than was agreed. Throws TypeError. */
export function readRan(reply: Reply, outputChars: number): Ran {
  const ran = read("execute", reply, {
    output: isListOf(isPiece),
    truncated: isCount,
    // in UTF-16 units, of which a character may take two
    error: isTextOrNull(2 * MAX_ERROR_CHARS),
    value: isTextOrNull(MAX_VALUE_BYTES),
    names: isListOf(isText),
    timed_out: (value) => typeof value === "boolean",
    seconds: (value) => typeof value === "number" && value >= 0,
    kept: (value) => value === undefined || value === null || isCount(value),
    restored: (value) => value === undefined || isListOf(isText)(value),
    repeatable: (value) => value === undefined || typeof value === "boolean",
  }) as unknown as Ran;
  const printed = ran.output.reduce((sum, [, text]) => sum + text.length, 0);
  const named = Math.max(ran.names.length, ran.restored?.length ?? 0);
  if (printed > 2 * (outputChars + MARKER_CHARS) || named > MAX_NAMES) {
    throw new TypeError("more than was agreed in a reply to execute");
  }
  return ran;
}

/** The reply to `get`: a JSON text. Throws TypeError. */
export function readValue(reply: Reply): string {
  return read("get", reply, { value: isText }).value as string;
}

/** The reply to `checkpoint_begin` of a sandbox of so much memory. Throws TypeError. */
export function readBegun(reply: Reply, memoryMb: number): CheckpointBegun {
  const checks = {
    memory: isCount,
    header: isCount,
    runs: isCount,
    size: isCount,
    cells: isCount,
    blob: isCount,
  };
  const begun = read("checkpoint_begin", reply, checks) as unknown as CheckpointBegun;
  const most = (BOOT_MB + memoryMb) * 1024 * 1024;
  const { size, memory, runs } = begun;
  if (size > 0 && size <= memory && memory <= most && runs > 0 && runs <= most / 4096) return begun;
  throw new TypeError("a checkpoint that cannot be one");
}

/** The reply to `checkpoint_part`: the number of its blob. Throws TypeError. */
export function readPart(reply: Reply): number {
  return read("checkpoint_part", reply, { blob: isCount }).blob as number;
}

/** A reply that says no more than that it was done. Throws TypeError. */
export function readNothing(method: string, reply: Reply): void {
  read(method, reply, {});
}
