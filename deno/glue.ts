/**
 * The glue: Pyodide's JavaScript around CPython, over a megabyte of it, and what is changed in it so that a start costs
 * less, stacks can wait, and libraries can be linked again. Handed to the jail beside `worker.ts`.
 *
 * @module
 */

import vm from "node:vm";

import type { Module as Linking } from "./linking.ts";

/** What is used of Emscripten's module. */
export type Module = Pick<Linking, "GOT" | "LDSO" | "wasmTable" | "entered">;
/** What makes Emscripten's module, of the settings that become it. */
export type Create<Made> = (settings: Record<string, unknown>) => Promise<Made>;

/** Where in a PyThreadState the pointer to its current frame is; CPython itself says so in its debug offsets. */
const CURRENT_FRAME = 52;
const NOTED = "alignMemory(getMemory(metadata.memorySize+memAlign),memAlign):0;" +
  "var tableBase=metadata.tableSize?wasmTable.length:0;" +
  "if(flags.at){memoryBase=flags.at.memory;tableBase=flags.at.table}" +
  "(Module.linked??=[]).push({name:libName,memory:memoryBase,bytes:metadata.memorySize,table:tableBase," +
  "entries:metadata.tableSize});";

const CHANGES: [was: string, is: string][] = [
  // as a script, and not as a module, it can be had from a cache; a module is strict by itself
  ["export default _createPyodideModule;", "_createPyodideModule"],
  // the 8,560 exports of CPython are for libraries to link to: they are made known when the first one is
  [
    'mergeLibSymbols(wasmExports,"main");',
    'Module.mergeMain=()=>{Module.mergeMain=()=>{};mergeLibSymbols(origExports,"main")};',
  ],
  ["updateGOT(origExports);", ""],
  [
    "resolveGlobalSymbol=(symName,direct=false)=>{",
    "resolveGlobalSymbol=(symName,direct=false)=>{Module.mergeMain();",
  ],
  [
    "var metadata=getDylinkMetadata(binary);function loadModule(){",
    "Module.mergeMain();var metadata=getDylinkMetadata(binary);function loadModule(){",
  ],
  ["var result;var newSymIndex;var lib=", "Module.mergeMain();var result;var newSymIndex;var lib="],
  // what C refers to by address of JavaScript is entered into the table at once, and which address a function has is
  // looked up in the table of 10,000 only when somebody asks
  [
    "if(!dynamicLibraries.length){reportUndefinedSymbols();return}",
    "if(!dynamicLibraries.length){Module.enterImports();return}",
  ],
  [
    "updateTableMap(0,wasmTable.length)}return",
    "updateTableMap(0,wasmTable.length);for(const[index,entry]of Module.entered??[])" +
    "functionsInTableMap.set(entry,index)}return",
  ],
  [
    "return addFunction(trampolineInstance.exports.trampoline_call)}",
    "const entry=trampolineInstance.exports.trampoline_call,index=wasmTable.grow(1);wasmTable.set(index,entry);" +
    "return index}",
  ],
  // the frames of a suspended stack are hidden from the garbage collector, which does not need them and would walk
  // through memory that other stacks have taken since (Pyodide's issue 6464)
  [
    "const stackState=new StackState;return{",
    `const stackState=new StackState;const at=threadState+${CURRENT_FRAME}>>>2;const frame=HEAPU32[at];` +
    "HEAPU32[at]=0;return{at,frame,",
  ],
  ["state.stackState.restore();", "state.stackState.restore();HEAPU32[state.at]=state.frame;"],
  // a new stack begins when the one that calls has ended or waits: a microtask does, and takes no turn of the event loop
  ["await new Promise(d=>API.scheduleCallback(d,0));", "await null;Module.stackBegins?.();"],
  // where a library is linked, and what the table of functions gets beside, is noted (linking.ts); one that is linked
  // again is put where it was, and its data are not made anew
  [
    "alignMemory(getMemory(metadata.memorySize+memAlign),memAlign):0;" +
    "var tableBase=metadata.tableSize?wasmTable.length:0;",
    NOTED,
  ],
  ["if(metadata.tableSize){wasmTable.grow", "if(metadata.tableSize&&!flags.at){wasmTable.grow"],
  ["if(applyRelocs){if(", "if(applyRelocs&&!flags.at){if("],
  ["if(init){if(runtime", "if(init&&!flags.at){if(runtime"],
  [
    "functionsInTableMap.set(func,ret);return ret};",
    "functionsInTableMap.set(func,ret);(Module.entered??=[]).push([ret,func]);return ret};" +
    "Module.noteEntry=(func,index)=>{functionsInTableMap?.set(func,index);(Module.entered??=[]).push([index,func])};",
  ],
];

/** What is used of CPython's exports elsewhere: by `loading.ts`, `worker.ts` and Pyodide's loader. */
const USED =
  ("_Py_DecRef _PyBytes_FromStringAndSize _PyDict_SetItemString _PyErr_Clear _PyImport_AddModule " +
    "_PyModule_GetDict _PyUnicode_New _Py_Version _free _malloc _sbrk").split(" ");
const ASSIGN = "function assignWasmExports(wasmExports){";
const COPY = "wasmExports=Object.assign({},wasmExports);";

/** Pyodide's own glue, changed and without what nobody uses. Throws an Error if it is not what was expected. */
export function changed(source: string): string {
  for (const [was, is] of CHANGES) source = replaced(source, was, is);
  return `"use strict";${trimmed(source).replaceAll("import.meta.url", '"pyodide.asm.mjs"')}`;
}

function replaced(source: string, was: string, is: string): string {
  if (source.split(was).length !== 2) throw new Error(`Pyodide's code has no ${was}`);
  return source.replace(was, () => is);
}

/** Without the 4,700 of CPython's exports to which it gives a name that is nowhere mentioned: a third of all. */
function trimmed(source: string): string {
  const assigned = source.indexOf(ASSIGN), declared = source.lastIndexOf("var ", assigned);
  const end = source.indexOf("}", assigned);
  if (assigned < 0 || end < 0) throw new Error("Pyodide's code assigns no exports");
  const before = source.slice(0, declared), after = source.slice(end);
  const mentioned = new Set([...USED, ...before.match(/[\w$]+/g)!, ...after.match(/[\w$]+/g)!]);
  const kept = source.slice(assigned + ASSIGN.length, end).split(";").filter((assignment) =>
    mentioned.has(assignment.split("=", 1)[0]!)
  );
  const variables = kept.flatMap((assignment) => assignment.match(/(?<=^|=)[\w$]+(?==)/g)!);
  const whole = `${before}var ${variables.join(",")};${ASSIGN}${kept.join(";")}${after}`;
  const exported = new Set(
    [...whole.matchAll(/wasmExports(?:\["(\w+)"\]|\.(\w+))/g)].map(([, a, b]) => a ?? b),
  );
  return replaced(
    whole,
    COPY,
    `wasmExports=Object.fromEntries(${JSON.stringify([...exported])}.map((name)=>[name,wasmExports[name]]));`,
  );
}

/** What an image keeps of the glue: as it was changed, and V8's cache of what was compiled of it. */
export function pack(source: string, script: vm.Script): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(source), cache = script.createCachedData();
  const packed = new Uint8Array(4 + text.length + cache.length);
  new DataView(packed.buffer).setUint32(0, text.length, true);
  packed.set(text, 4);
  packed.set(cache, 4 + text.length);
  return packed;
}

/** What `pack` has packed. Throws RangeError for what is damaged. */
export function unpack(packed: Uint8Array<ArrayBuffer>): [source: string, cache: Uint8Array<ArrayBuffer>] {
  const length = new DataView(packed.buffer, packed.byteOffset, packed.byteLength).getUint32(0, true);
  if (4 + length > packed.length) throw new RangeError("a damaged image");
  return [new TextDecoder().decode(packed.subarray(4, 4 + length)), packed.subarray(4 + length)];
}

/** Where in a cache V8 notes the hash of its flags. */
const FLAGS_AT = 12;

/**
 * The glue, compiled. `cache` is what V8 has of it from an earlier time, perhaps of a sandbox with another cap on its
 * memory: that is a flag of V8's, which would refuse the cache for it, but of no code's concern.
 */
export function compile(source: string, cachedData?: Uint8Array<ArrayBuffer>): vm.Script {
  if (cachedData && cachedData.length >= FLAGS_AT + 4) {
    const own = new vm.Script("0").createCachedData();
    cachedData.set(own.subarray(FLAGS_AT, FLAGS_AT + 4), FLAGS_AT);
  }
  return new vm.Script(source, { filename: "pyodide.asm.mjs", cachedData });
}

/** What the glue comes to: it calls `enterImports` when CPython is there, in the place of Emscripten's own way. */
export function creatorOf<Made extends Module>(script: vm.Script): Create<Made> {
  const create: Create<Made> = script.runInThisContext();
  return (settings) => {
    settings.enterImports = () => enterImports(settings as Made & Record<string, unknown>);
    return create(settings);
  };
}

type Import = ((...args: unknown[]) => unknown) & { sig: string };
/** The types of WebAssembly by Emscripten's letters. */
const TYPES: Record<string, number> = { i: 0x7f, p: 0x7f, j: 0x7e, f: 0x7d, d: 0x7c, e: 0x6f };

/**
 * Enter what CPython refers to by address, and JavaScript provides, into its table of functions, and tell it the
 * addresses. Emscripten makes a module of WebAssembly for each of the 280; this makes one for all.
 */
export function enterImports(module: Module): void {
  const imports = module.LDSO.loadedLibsByName.__main__!.exports as Record<string, Import | undefined>;
  const wanted = Object.entries(module.GOT).filter(([, { value }]) => value === -1);
  const entries = [...new Set(wanted.map(([name]) => imports[name]))];
  if (!entries.every((entry) => typeof entry?.sig === "string")) {
    throw new Error("Pyodide's code refers by address to what is no function");
  }
  const wrappers = wrapped(entries as Import[]);
  const first = module.wasmTable.grow(entries.length);
  const addresses = new Map(entries.map((entry, index) => [entry, first + index]));
  for (const [entry, address] of addresses) {
    module.wasmTable.set(address, wrappers[String(address - first)] as () => unknown);
    (module.entered ??= []).push([address, entry]);
  }
  for (const [name, offset] of wanted) offset.value = addresses.get(imports[name]);
}

/** Functions of JavaScript as functions of WebAssembly, by their place in the list. */
function wrapped(functions: Import[]): WebAssembly.Exports {
  const signatures = [...new Set(functions.map(({ sig }) => sig))];
  const types = signatures.map((signature) => {
    const [result, ...parameters] = [...signature].map((letter) => TYPES[letter]!);
    return [
      0x60,
      ...sized(parameters.map((type) => [type])),
      ...sized(result === undefined ? [] : [[result]]),
    ];
  });
  const places = functions.map(({ sig }, index) => ({
    name: text(String(index)),
    type: signatures.indexOf(sig),
  }));
  const bytes = Uint8Array.of(
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, types),
    ...section(2, places.map(({ name, type }) => [...text("f"), ...name, 0, ...number(type)])),
    ...section(7, places.map(({ name }, index) => [...name, 0, ...number(index)])),
  );
  return new WebAssembly.Instance(new WebAssembly.Module(bytes), { f: { ...functions } }).exports;
}

/** A number in WebAssembly's own encoding (LEB128). */
function number(value: number): number[] {
  return value < 0x80 ? [value] : [value & 0x7f | 0x80, ...number(value >>> 7)];
}

function text(characters: string): number[] {
  return sized([...characters].map((character) => [character.charCodeAt(0)]));
}

/** A vector: how many there are, and each. */
function sized(items: number[][]): number[] {
  return [...number(items.length), ...items.flat()];
}

function section(id: number, items: number[][]): number[] {
  const content = sized(items);
  return [id, ...number(content.length), ...content];
}
