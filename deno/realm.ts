/**
 * The emptying of the realm in which the prisoner lives. The cell is assumed to own this realm: what counts is that
 * nothing in it is worth having. Loaded first in the Worker, before Pyodide looks at its surroundings.
 *
 * @module
 */

type Globals = Record<string, unknown>;
const globals = globalThis as unknown as Globals;

/** Globals that stand for the outside; gone before Pyodide loads, which then takes its browser path. */
const OUTSIDE = (
  "Deno process Buffer global require setImmediate clearImmediate Worker SharedWorker WebSocket WebSocketStream " +
  "WebSocketError EventSource XMLHttpRequest caches Cache CacheStorage localStorage sessionStorage indexedDB Storage " +
  "BroadcastChannel importScripts WebTransport Notification prompt alert confirm navigator Navigator " +
  "WorkerNavigator GPU reportError createImageBitmap ImageBitmap fetch Request MessageChannel setInterval"
).split(" ");

/** What remains after the boot. Everything else that the realm was born with is deleted. */
const KEPT = new Set(
  ("Object Function Array Number parseFloat parseInt Infinity NaN undefined Boolean String Symbol Date Promise " +
    "RegExp Error AggregateError EvalError RangeError ReferenceError SyntaxError TypeError URIError globalThis JSON " +
    "Math ArrayBuffer Atomics Uint8Array Int8Array Uint16Array Int16Array Uint32Array Int32Array Float16Array " +
    "Float32Array Float64Array Uint8ClampedArray BigUint64Array BigInt64Array DataView Map BigInt Set Iterator " +
    "WeakMap WeakSet WeakRef Proxy Reflect FinalizationRegistry WebAssembly SharedArrayBuffer setTimeout clearTimeout " +
    "queueMicrotask performance crypto TextEncoder TextDecoder console self " +
    "MessagePort MessageEvent Event EventTarget AbortController AbortSignal ErrorEvent " +
    "PromiseRejectionEvent DOMException isFinite isNaN decodeURI decodeURIComponent encodeURI encodeURIComponent " +
    "escape unescape SuppressedError DisposableStack AsyncDisposableStack URL WorkerGlobalScope onmessage onerror " +
    "DedicatedWorkerGlobalScope").split(" "),
);

/** Constructors that are frozen with their prototypes. */
const FROZEN = (
  "Function Array String Number Boolean Symbol Promise RegExp Map Set WeakMap WeakSet BigInt Date ArrayBuffer " +
  "SharedArrayBuffer DataView Uint8Array Int8Array Uint16Array Int16Array Uint32Array Int32Array Float32Array " +
  "Float64Array Uint8ClampedArray BigInt64Array BigUint64Array Proxy FinalizationRegistry WeakRef TextEncoder " +
  "TextDecoder MessagePort EventTarget Event"
).split(" ");

function remove(name: string): void {
  // some are accessors of the prototype: shadowing them by nothing is not enough, so both are tried
  for (let holder: object | null = globals; holder; holder = Object.getPrototypeOf(holder)) {
    if (holder === Object.prototype) break;
    try {
      delete (holder as Globals)[name];
    } catch {
      // not configurable: `remaining` reports it and the boot fails
    }
  }
}

/** Take away the outside. A worker's console writes to the process's stdout, so it becomes silent. */
export function removeOutside(): void {
  for (const name of OUTSIDE) remove(name);
  const silent: Globals = Object.create(null);
  for (const name of ["log", "info", "warn", "error", "debug", "trace", "dir", "assert", "table", "group"]) {
    silent[name] = () => {};
  }
  for (const name of ["groupEnd", "groupCollapsed", "time", "timeEnd", "timeLog", "count", "clear"]) {
    silent[name] = () => {};
  }
  Object.defineProperty(globals, "console", {
    value: Object.freeze(silent),
    writable: false,
    configurable: false,
  });
}

/** Take away everything else that is not on the list of what stays. */
export function removeRest(): void {
  for (const name of Object.getOwnPropertyNames(globals)) {
    if (!KEPT.has(name)) remove(name);
  }
  remove("eval");
}

/** Freeze the intrinsics, so that one cell's change of them cannot change what our own code in this realm does. */
export function freezeIntrinsics(): void {
  const typedArray = Object.getPrototypeOf(Uint8Array);
  const asyncFunction = Object.getPrototypeOf(async () => {}).constructor;
  const generatorFunction = Object.getPrototypeOf(function* () {}).constructor;
  const constructors = [
    typedArray,
    asyncFunction,
    generatorFunction,
    ...FROZEN.map((name) => globals[name] as FunctionConstructor),
  ];
  for (const constructor of constructors) {
    Object.freeze(constructor);
    Object.freeze(constructor.prototype);
  }
  // Object and the Error constructor stay open: Pyodide assigns to them
  Object.preventExtensions(Object.prototype);
  Object.freeze(Error.prototype);
  for (const namespace of [JSON, Math, Reflect, Atomics, WebAssembly]) Object.freeze(namespace);
}

function throws(action: () => unknown): boolean {
  try {
    action();
    return false;
  } catch {
    return true;
  }
}

/** What of the emptied realm does not hold, in words; empty when all does. */
export function findHoles(): string[] {
  const holes: string[] = [];
  for (
    const name of [...OUTSIDE, "eval", "postMessage", "close", "Response", "Headers", "Blob", "FileReader"]
  ) {
    if (name in globals) holes.push(`${name} is still in the realm`);
  }
  const construct = (async () => {}).constructor as FunctionConstructor;
  if (!throws(() => Function("return 1")())) holes.push("code can be made from strings (Function)");
  if (!throws(() => construct("return 1"))) holes.push("code can be made from strings (AsyncFunction)");
  return holes;
}
