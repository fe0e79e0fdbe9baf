/**
 * Libraries that Python has linked (the compiled part of packages): which, where, and what the table of functions holds of
 * them. The memory of an interpreter refers to all that by number, so an image or a checkpoint carries a record of it,
 * by which the same is made again before the memory is put back. Handed to the jail beside `worker.ts`.
 *
 * @module
 */

/** A library as Emscripten knows it. */
interface Library {
  name: string;
  global: boolean;
  refcount: number;
  exports: Record<string, unknown>;
}
/** By name or handle. */
type Known = Record<string, Library | undefined>;
/** Where a library lies: its data in the memory, its functions in the table. */
interface Place {
  memory: number;
  table: number;
}
/** A library that has been linked, as `CHANGES` of `worker.ts` have it noted. */
interface Linked extends Place {
  name: string;
  /** Bytes of its data, and entries of the table. */
  bytes: number;
  entries: number;
}

/** What is used of Emscripten's module. */
export interface Module {
  /** Noted by `CHANGES` of `worker.ts`: what was linked, and what else was entered into the table. */
  linked?: Linked[];
  entered?: [index: number, entry: unknown][];
  noteEntry(entry: unknown, index: number): void;
  wasmTable: WebAssembly.Table;
  GOT: Record<string, WebAssembly.Global>;
  LDSO: { loadedLibsByName: Known; loadedLibsByHandle: Known };
  freeTableIndexes: number[];
  newDSO(name: string, handle: number | undefined, exports: unknown): Library;
  loadWebAssemblyModule(
    binary: WebAssembly.Module,
    flags: unknown,
    name: string,
    scope: unknown,
  ): Library["exports"];
  mergeLibSymbols(exports: Library["exports"], name: string): void;
  convertJsFunctionToWasm(entry: unknown, signature: unknown): unknown;
}

/** An entry of the table: by the library that exports it ("" for the interpreter or JavaScript), and its name there. */
type Entry = [index: number, library: string, name: string];

/** What is needed to link the same libraries again. */
export interface Links {
  libraries: (Linked & { global: boolean; forever: boolean; count: number; handles: number[] })[];
  entries: Entry[];
  offsets: Record<string, number>;
  free: number[];
  tableLength: number;
}

const NEVER = -1;

/** What is linked, and all that refers to it; null for nothing. Throws an error if it cannot be linked again. */
export function record(module: Module, tableBefore: number, isKept: (name: string) => boolean): Links | null {
  const linked = module.linked ?? [];
  if (linked.length === 0) return null;
  const { loadedLibsByName: byName, loadedLibsByHandle: byHandle } = module.LDSO;
  // one that could not be linked has a place all the same; of several attempts the last counts
  const last = new Map(linked.map((each) => [each.name, each]));
  const libraries = [...last.values()].flatMap((each) => {
    const library = byName[each.name];
    if (!isLinked(library)) return [];
    if (!isKept(each.name)) {
      throw new Error(`a library that is in no package (${each.name}) is linked, and cannot be kept`);
    }
    const handles = Object.keys(byHandle).filter((handle) => byHandle[handle] === library).map(Number);
    const { global, refcount } = library;
    return [{ ...each, global, forever: refcount === Infinity, count: refcount, handles }];
  });
  const offsets = Object.fromEntries(Object.entries(module.GOT).map(([name, { value }]) => [name, value]));
  return {
    libraries,
    entries: recordEntries(module, tableBefore, linked),
    offsets,
    free: [...module.freeTableIndexes],
    tableLength: module.wasmTable.length,
  };
}

function isLinked(library: Library | undefined): library is Library {
  return typeof library?.exports === "object";
}

function recordEntries(module: Module, tableBefore: number, linked: Linked[]): Entry[] {
  const names = new Map<unknown, [library: string, name: string]>();
  for (const library of ["__main__", ...linked.map(({ name }) => name)]) {
    const found = module.LDSO.loadedLibsByName[library];
    for (const [name, entry] of Object.entries(isLinked(found) ? found.exports : {})) {
      if (typeof entry === "function" && !names.has(entry)) names.set(entry, [library, name]);
    }
  }
  const entered = new Map(module.entered);
  const free = new Set(module.freeTableIndexes);
  const own = new Set<number>();
  for (const { table, entries } of linked) {
    for (let index = table; index < table + entries; index++) own.add(index);
  }
  const found: Entry[] = [];
  for (let index = tableBefore; index < module.wasmTable.length; index++) {
    if (own.has(index) || free.has(index)) continue;
    const name = names.get(module.wasmTable.get(index)) ?? names.get(entered.get(index));
    if (!name) {
      throw new Error("a function that C can call (of ctypes, perhaps) is there, and cannot be kept");
    }
    found.push([index, ...name]);
  }
  return found;
}

/** Bytes of the memory that the libraries of a record have below their end. */
export function end(links: Links): number {
  return Math.max(0, ...links.libraries.map(({ memory, bytes }) => memory + bytes));
}

/** The libraries of a record, compiled from the files of packages. Rejects if one is in none of them. */
export async function compile(
  links: Links,
  files: [path: string, content: Uint8Array<ArrayBuffer>][],
): Promise<Map<string, WebAssembly.Module>> {
  const contents = new Map(files);
  const compiled = links.libraries.map(async ({ name }): Promise<[string, WebAssembly.Module]> => {
    const content = contents.get(name);
    if (!content) throw new Error(`the library ${name} is in none of the packages`);
    return [name, await WebAssembly.compile(content)];
  });
  return new Map(await Promise.all(compiled));
}

/**
 * Link the libraries of a record where they were, in a module that has linked none. What this writes into the memory is
 * of no matter: it is put back afterwards. `compiled` are the libraries by name.
 */
export function link(module: Module, links: Links, compiled: Map<string, WebAssembly.Module>): void {
  module.wasmTable.grow(links.tableLength - module.wasmTable.length);
  for (const [name, value] of Object.entries(links.offsets)) {
    const offset = module.GOT[name] ??= new WebAssembly.Global({ value: "i32", mutable: true }, NEVER);
    offset.value = value;
  }
  for (const { name, memory, table, global, forever, count, handles } of links.libraries) {
    const library = module.newDSO(name, undefined, "loading");
    library.refcount = forever ? Infinity : count;
    library.global = global;
    const flags = { at: { memory, table }, global, nodelete: forever, allowUndefined: true };
    library.exports = module.loadWebAssemblyModule(compiled.get(name)!, flags, name, global ? null : {});
    if (global) module.mergeLibSymbols(library.exports, name);
    for (const handle of handles) module.LDSO.loadedLibsByHandle[handle] = library;
  }
  for (const [index, library, name] of links.entries) {
    enter(module, index, module.LDSO.loadedLibsByName[library]?.exports[name]);
  }
  // those that were free before any of it was linked are in the record too
  module.freeTableIndexes.splice(0, Infinity, ...links.free);
}

function enter(module: Module, index: number, entry: unknown): void {
  try {
    module.wasmTable.set(index, entry as () => unknown);
  } catch {
    // of JavaScript
    const { sig } = entry as { sig: unknown };
    module.wasmTable.set(index, module.convertJsFunctionToWasm(entry, sig) as () => unknown);
  }
  module.noteEntry(entry, index);
}

/** A record as bytes; none for null. */
export function pack(links: Links | null): Uint8Array<ArrayBuffer> {
  return links ? new TextEncoder().encode(JSON.stringify(links)) : new Uint8Array();
}

/** The record that `pack` has made bytes of, perhaps in somebody else's checkpoint. Throws RangeError for what is none. */
export function unpack(bytes: Uint8Array): Links | null {
  if (bytes.length === 0) return null;
  const links: Links = JSON.parse(new TextDecoder().decode(bytes));
  const numbers = [
    links.tableLength,
    ...links.free,
    ...Object.values(links.offsets),
    ...links.entries.map(([index]) => index),
    ...links.libraries.flatMap(({ memory, table, bytes, handles }) => [memory, table, bytes, ...handles]),
  ];
  const names = [
    ...Object.keys(links.offsets),
    ...links.entries.flatMap(([, library, name]) => [library, name]),
  ];
  if (numbers.every(Number.isSafeInteger) && !names.includes("__proto__")) return links;
  throw new RangeError("a damaged record of libraries");
}
