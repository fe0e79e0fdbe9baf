/**
 * What the jail uses of the interpreter: types alone, which are nowhere at run time.
 *
 * @module
 */

import type { Module as Glue } from "./glue.ts";
import type { Module as Linking } from "./linking.ts";
import type { Module as Loading } from "./loading.ts";
import type { FileSystem, Nodes } from "./packages.ts";

/** A function of Python's, called from here. */
export interface PyFunction {
  (...args: unknown[]): unknown;
  callPromising(...args: unknown[]): Promise<unknown>;
  copy(): PyFunction;
  destroy(): void;
}
/** What is called of the prelude (prelude.py). */
export interface Prelude {
  connect: PyFunction;
  reconnect: PyFunction;
  disconnect: PyFunction;
  run_cell: PyFunction;
  end_lost_cell: PyFunction;
  load_buffer: PyFunction;
  decode_variable: PyFunction;
  equip: PyFunction;
  import_packages(names: string): void;
  get: PyFunction;
}
/** What is used of Pyodide. */
export interface Py {
  version: string;
  pyimport(name: string): Prelude;
  setInterruptBuffer(buffer: { 0: number }): void;
  makeMemorySnapshot(ways?: { serializer(object: unknown): unknown }): Uint8Array<ArrayBuffer>;
  _module: PyodideModule;
  FS: { writeFile(path: string, text: string): void };
}
/** Emscripten's module, with Pyodide's part of it. */
export interface PyodideModule extends Loading, Linking, Glue {
  FS: FileSystem;
  MEMFS: Nodes;
  API: { restoreSnapshot(snapshot: Uint8Array): unknown };
  HEAP8: Int8Array;
  _sbrk(increment: number): number;
  /** Called before a new stack runs (glue.ts). */
  stackBegins?: () => void;
}
