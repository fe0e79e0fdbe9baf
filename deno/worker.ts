/**
 * The jail: boots Pyodide in an emptied realm and runs cells. Started from a blob, with no permission, by
 * `sandbox.ts`; it has no imports of its own, because a blob has no place from which to import, and is sent what it
 * needs. Whatever it posts is hearsay to the broker.
 *
 * @module
 */

import type * as Loadings from "./loading.ts";
import type * as Realm from "./realm.ts";
import type { FromJail, ToJail } from "./sandbox.ts";

type Boot = Extract<ToJail, { type: "boot" }>;
type Settings = Record<string, unknown>;

interface PyFunction {
  (...args: unknown[]): unknown;
  callPromising(...args: unknown[]): Promise<unknown>;
  copy(): PyFunction;
  destroy(): void;
}
interface Prelude {
  connect: PyFunction;
  run_cell: PyFunction;
  load_buffer: PyFunction;
  decode_variable: PyFunction;
  get: PyFunction;
}
interface Py {
  version: string;
  runPython(code: string): unknown;
  pyimport(name: string): Prelude;
  setInterruptBuffer(buffer: { 0: number }): void;
  makeMemorySnapshot(): Uint8Array<ArrayBuffer>;
  _module: Loadings.Module;
  FS: { writeFile(path: string, text: string): void; mkdirTree(path: string): void };
}
interface Waiting {
  /** The job in which the wait began; null for a wait that may outlast it. */
  job: number | null;
  resolve(answer: string | undefined): void;
}

const SITE_PACKAGES = "/lib/python3.14/site-packages";
// deno check sees a window here; what it is in truth is a worker's global scope
const jail = self as unknown as {
  onmessage: (event: MessageEvent<ToJail>) => void;
  postMessage(message: FromJail, transfer?: Transferable[]): void;
};
const send = jail.postMessage.bind(jail);
const now = performance.now.bind(performance);
const later = setTimeout;
const soon = new MessageChannel();
/** What `setTimeout(..., 0)` has put off, in order. */
const soonest: (() => void)[] = [];
/** Counts the jobs (cells and loads); nothing of an earlier one may run on, nor anything between two. */
let job = 0;
let running = true;
const waiting = new Map<number, Waiting>();
let lastId = 0;
let interrupts: Uint8Array;
let goingToWait = false;
let prelude: Prelude;
let loadings: typeof Loadings;
let memory: Loadings.Module;
let loading: Loadings.Loading | null = null;

function isNow(began: number | null): boolean {
  return running && (began === null || began === job);
}

/** A promise that the broker's reply, or an interrupt, resolves. */
function waitFor(began: number | null, start: (id: number) => void): Promise<string | undefined> {
  const id = ++lastId;
  // an interrupt in run_sync's own first steps is printed as an error of theirs: it waits until the stack is suspended
  goingToWait = true;
  queueMicrotask(() => goingToWait = false);
  return new Promise((resolve) => {
    waiting.set(id, { job: began, resolve });
    start(id);
  });
}

/** End a wait. One that was left over by a cell which has ended never ends, and its stack never goes on. */
function settle(id: number, answer: string | undefined): void {
  const waiter = waiting.get(id);
  waiting.delete(id);
  if (waiter && isNow(waiter.job)) waiter.resolve(answer);
}

/** Stands for `setTimeout` in the realm: what was put off in one cell does not happen after its end. */
function setTimeoutInJob(callback: (...args: unknown[]) => void, delay = 0, ...args: unknown[]): number {
  const began = job;
  const act = () => {
    if (isNow(began)) callback(...args);
  };
  if (delay > 0) return later(act, delay) as unknown as number;
  soonest.push(act);
  soon.port2.postMessage(0);
  return 0;
}
soon.port1.onmessage = () => soonest.shift()?.();

/** CPython reads this, then clears it: an interrupt between the two, one in fifty, was lost (its issue 157548). */
const signals = {
  get 0(): number {
    return goingToWait ? 0 : Atomics.exchange(interrupts, 0, 0);
  },
  set 0(_cleared: number) {
    // the reading has done it
  },
};

/** An interrupt that found nobody computing ends the waits instead: they raise KeyboardInterrupt. */
function interruptWaits(): void {
  // where nobody waits, the cell is about to start: it finds the interrupt itself
  if (waiting.size === 0 || Atomics.compareExchange(interrupts, 0, 2, 0) !== 2) return;
  for (const id of [...waiting.keys()]) settle(id, undefined);
}

/** Locks on which a stack is parked, by the key that Python gave them; the value is the number of its wait. */
const parked = new Map<number, number>();

const bridge = {
  call: (request: string) => waitFor(job, (id) => send({ type: "call", id, request })),
  emit: (stream: string, text: string) => send({ type: "printed", stream, text }),
  sleep: (milliseconds: number) => waitFor(job, (id) => void later(() => settle(id, ""), milliseconds)),
  finish: (value: string) => send({ type: "final", value }),
  spawn: (job: PyFunction) => {
    const kept = job.copy();
    // a job contains its own exceptions: what arrives here is the interpreter's end
    kept.callPromising().then(() => kept.destroy(), dead);
  },
  park: (key: number, milliseconds: number) =>
    // idle threads of a pool wait for work from one cell to the next
    waitFor(null, (id) => {
      parked.set(key, id);
      if (milliseconds >= 0) setTimeoutInJob(() => settle(id, "late"), milliseconds);
    }),
  wake: (key: number) => {
    const id = parked.get(key);
    parked.delete(key);
    if (id !== undefined) settle(id, "");
  },
};

/** Hand Pyodide the files that it would fetch. */
function serveFiles(boot: Boot): void {
  const instantiate = WebAssembly.instantiate;
  WebAssembly.instantiateStreaming = async (_source, imports) => ({
    instance: await instantiate(boot.wasm, imports),
    module: boot.wasm,
  });
  const stdlib = boot.stdlib;
  const serve = (address: unknown) => {
    if (String(address).endsWith("pyodide.asm.wasm")) return Promise.resolve(null);
    if (String(address).endsWith("python_stdlib.zip")) return Promise.resolve(new Response(stdlib));
    return Promise.reject(new Error(`nothing can be fetched: ${address}`));
  };
  (globalThis as unknown as Settings).fetch = serve;
}

async function loadPyodide(boot: Boot, settings: Settings): Promise<Py> {
  serveFiles(boot);
  const { loadPyodide } = await import(boot.urls.pyodide);
  const { default: createPyodideModule } = await import(boot.urls.asm);
  return await loadPyodide({
    indexURL: "https://sandbox.invalid/",
    packageBaseUrl: "https://sandbox.invalid/",
    // the parts of the lock file that Pyodide checks; there are no packages to load
    lockFileContents: { info: boot.platform, packages: {} },
    createPyodideModule,
    jsglobals: Object.create(null),
    stdin: () => null,
    stdout: () => {},
    stderr: () => {},
    ...settings,
  });
}

/** Make a memory image: a booted interpreter with the prelude in it, that never saw anybody's data. */
async function makeImage(boot: Boot): Promise<void> {
  const py = await loadPyodide(boot, { _makeSnapshot: true });
  installPrelude(py, boot);
  const image = py.makeMemorySnapshot();
  send({ type: "image", image }, [image.buffer]);
}

function installPrelude(py: Py, boot: Boot): void {
  for (const [name, source] of boot.modules) py.FS.writeFile(`${SITE_PACKAGES}/${name}.py`, source);
  py.pyimport("rlm_prelude");
}

async function bootSandbox(boot: Boot, realm: typeof Realm): Promise<void> {
  const started = now();
  (globalThis as unknown as Settings).setTimeout = setTimeoutInJob;
  const py = await loadPyodide(boot, boot.image ? { _loadSnapshot: boot.image } : {});
  if (!boot.image) installPrelude(py, boot);
  loadings = await import(boot.urls.loading);
  memory = py._module;
  interrupts = boot.interrupts;
  py.setInterruptBuffer(signals);
  prelude = py.pyimport("rlm_prelude");
  prelude.connect(bridge, boot.settings);
  const version = py.version;
  realm.removeRest();
  realm.freezeIntrinsics();
  running = false;
  send({ type: "ready", holes: realm.findHoles(), pyodide: version, milliseconds: now() - started });
}

function dead(error: unknown): void {
  send({ type: "dead", message: String(error).slice(0, 500) });
}

async function runCell(code: string, number: number): Promise<unknown> {
  try {
    return await prelude.run_cell.callPromising(code, number);
  } catch (error) {
    if ((error as { type?: string }).type !== "KeyboardInterrupt") throw error;
    // the interrupt came at the function's first instruction, where nothing can catch it: the cell never began
    return await prelude.run_cell.callPromising("raise KeyboardInterrupt", number);
  }
}

async function run(id: number, act: () => unknown): Promise<void> {
  job++;
  running = true;
  try {
    send({ type: "done", id, result: String(await act()) });
  } catch (error) {
    // Python code never raises out of the prelude: what arrives here is the interpreter's end
    dead(error);
  }
  running = false;
  soonest.length = 0;
}

async function finishLoading(name: string, kind: string): Promise<boolean> {
  const whole = loading !== null && loading.finish(name);
  loading = null;
  if (whole && kind === "value") return await prelude.decode_variable.callPromising(name) === true;
  return whole;
}

function take(message: ToJail): void {
  if (message.type === "reply") settle(message.id, message.reply);
  else if (message.type === "interrupt") interruptWaits();
  else if (message.type === "ping") send({ type: "pong", id: message.id });
  else if (message.type === "execute") {
    run(message.id, () => runCell(message.code, message.number));
  } else if (message.type === "load") {
    run(message.id, () => prelude.load_buffer.callPromising(message.name, message.kind, message.bytes));
  } else if (message.type === "load_begin") {
    run(message.id, () => {
      // of a load that was cancelled
      loading?.abandon();
      loading = loadings.Loading.begin(memory, message.form, message.length);
      return loading !== null;
    });
  } else if (message.type === "load_part") {
    run(message.id, () => loading !== null && loading.add(message.bytes));
  } else if (message.type === "load_end") run(message.id, () => finishLoading(message.name, message.kind));
  else if (message.type === "get") run(message.id, () => prelude.get.callPromising(message.name));
}

jail.onmessage = async (event: MessageEvent<ToJail>) => {
  const boot = event.data as Boot;
  try {
    const realm: typeof Realm = await import(boot.urls.realm);
    realm.removeOutside();
    for (const name of ["postMessage", "close"]) delete (globalThis as unknown as Settings)[name];
    jail.onmessage = (event: MessageEvent<ToJail>) => take(event.data);
    if (boot.makeImage) await makeImage(boot);
    else await bootSandbox(boot, realm);
  } catch (error) {
    send({ type: "dead", message: String((error as Error)?.stack ?? error).slice(0, 2000) });
  }
};
