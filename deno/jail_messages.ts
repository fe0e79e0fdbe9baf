/**
 * What broker and jail say to each other: types alone, which are nowhere at run time.
 *
 * @module
 */

import type { Form } from "./loading.ts";

/** What the jail imports beside itself, by name. */
export type JailModule = "realm" | "glue" | "image" | "linking" | "loading" | "mailbox" | "packages" | "seed";

/** What Pyodide was built for, as its lock file has it. */
export type Platform = Record<"abi_version" | "arch" | "platform" | "python", string>;

/** What the caller of a sandbox may choose; handed whole to the jail. */
export interface Settings {
  /** Names of the host functions that cells may call. */
  functions: string[];
  /** Characters of output kept for a cell. */
  output_chars: number;
  /** Words of output kept for a cell; null for no cap. */
  output_words: number | null;
  /** Which part of a longer output is kept: "head", "tail" or half of "both". */
  output_keep: string;
  /** What stands where something was left out: a Python format of count, limit and words; null for our own. */
  output_mark: string | null;
  /** Whether the value of a bare last expression is shown. */
  echo: boolean;
  /** Megabytes that the process may take beyond what it has after boot; null for no cap of the broker's own. */
  memory_mb: number | null;
  /** What its chance comes from; null for the machine's. */
  seed: number | null;
  /** Where the time of a seeded one begins, in milliseconds since the epoch. */
  clock: number;
}

/** What the broker sends into the jail. */
export type ToJail =
  | ({ type: "modules" } & Record<JailModule, string>)
  | {
    type: "assets";
    pyodide: string;
    stdlib: Uint8Array<ArrayBuffer>;
    platform: Platform;
  }
  | { type: "sources"; asm: string; modules: [name: string, source: string][] }
  | { type: "wasm"; module: WebAssembly.Module }
  | { type: "prepare"; head: Uint8Array<ArrayBuffer> | null; packages: Uint8Array<ArrayBuffer> | null }
  | { type: "make_image" }
  | {
    type: "boot";
    interrupts: Uint8Array<ArrayBufferLike>;
    /** Of what the jail is told, and of what it tells. */
    mailboxes: [SharedArrayBuffer, SharedArrayBuffer];
    settings: string;
    body: Uint8Array<ArrayBuffer> | null;
  }
  | { type: "execute"; id: number; code: string; number: number }
  | { type: "load"; id: number; name: string; kind: string; bytes: Uint8Array<ArrayBuffer> }
  | { type: "load_begin"; id: number; form: Form; length: number }
  | { type: "load_part"; id: number; bytes: Uint8Array<ArrayBuffer> }
  | { type: "load_end"; id: number; name: string; kind: string }
  | { type: "get"; id: number; name: string }
  | { type: "checkpoint_begin"; id: number }
  | { type: "checkpoint_part"; id: number; offset: number; length: number }
  | { type: "checkpoint_end"; id: number }
  | { type: "reply"; id: number; reply: string }
  | { type: "interrupt" }
  | { type: "ping"; id: number };

/** A point of a start and when it was reached, in milliseconds since the epoch. */
export type Stage = [name: string, at: number];

/** What the jail says. Hearsay: `#take` checks each. */
export type FromJail =
  | { type: "ready"; holes: string[]; pyodide: string; stages: Stage[] }
  | { type: "image"; image: Uint8Array<ArrayBuffer> }
  | { type: "dead"; message: string }
  | { type: "done"; id: number; result: string }
  | { type: "call"; id: number; request: string }
  | { type: "printed"; stream: string; text: string }
  | { type: "final"; value: string }
  | { type: "spare"; buffer: ArrayBuffer }
  | { type: "part"; bytes: Uint8Array<ArrayBuffer> }
  | { type: "pong"; id: number };
