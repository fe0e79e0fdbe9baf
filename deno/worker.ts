/**
 * The jail: boots Pyodide in an emptied realm and runs cells. Started from a blob, with no permission, by
 * `sandbox.ts`; it has no imports of its own, because a blob has no place from which to import, and is sent what it
 * needs. Whatever it posts is hearsay to the broker.
 *
 * @module
 */

import type vm from "node:vm";

import type * as Glues from "./glue.ts";
import type * as Images from "./image.ts";
import type * as Linkings from "./linking.ts";
import type * as Loadings from "./loading.ts";
import type * as Mailboxes from "./mailbox.ts";
import type * as Packages from "./packages.ts";
import type * as Realm from "./realm.ts";
import type * as Seeds from "./seed.ts";
import type { Prelude, Py, PyFunction, PyodideModule } from "./interpreter.ts";
import type { FromJail, Stage, ToJail } from "./jail_messages.ts";

type Modules = Extract<ToJail, { type: "modules" }>;
type Assets = Extract<ToJail, { type: "assets" }>;
type Sources = Extract<ToJail, { type: "sources" }>;
type Prepared = Extract<ToJail, { type: "prepare" }>;
type Boot = Extract<ToJail, { type: "boot" | "make_image" }>;
type CreateModule = Glues.Create<PyodideModule>;
type Settings = Record<string, unknown>;

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
const post = jail.postMessage.bind(jail);
const now = performance.now.bind(performance);
/** What was reached in the start, and when, in milliseconds since the epoch. */
const stages: Stage[] = [];
const reached = (name: string) => stages.push([name, performance.timeOrigin + now()]);
reached("the jail's own code");
/** Timers that have not come yet. */
let timers = 0;
function later(act: () => void, milliseconds: number): number {
  timers++;
  const acted = () => {
    timers--;
    act();
  };
  return setTimeoutOfRealm(acted, milliseconds) as unknown as number;
}
const setTimeoutOfRealm = setTimeout;
const soon = new MessageChannel();
/** What `setTimeout(..., 0)` has put off, in order. */
const soonest: (() => void)[] = [];
function isInterrupt(error: unknown): boolean {
  return (error as { type?: unknown } | null)?.type === "KeyboardInterrupt";
}

// an interrupt that comes between two stacks is raised in the event loop, where nobody catches it; the broker repeats it
addEventListener("unhandledrejection", (event) => {
  if (isInterrupt((event as PromiseRejectionEvent).reason)) event.preventDefault();
});

/** Counts the jobs (cells and loads); nothing of an earlier one may run on, nor anything between two. */
let job = 0;
let running = true;
const waiting = new Map<number, Waiting>();
let lastId = 0;
let interrupts: Uint8Array;
let goingToWait = false;
/**
 * What `runCell` is told when an interrupt finds nobody who computes or waits. One in some hundred that come while
 * threads are being started is raised between two stacks, and the one to which it should have come never goes on.
 */
const LOST = Symbol();
/** How long an interrupt lies unread before that is said, in milliseconds. */
const LOST_AFTER = 50;
let stackLost = () => {};
let prelude: Prelude;
/** What a sleep does to the clock of a seeded sandbox. */
let slept = (_milliseconds: number) => {};
/** Whether the cell that runs has made use of time or chance: run again, it might do something else. */
let chancy = false;
let loadings: typeof Loadings;
let memory: PyodideModule;
let takeSnapshot: Py["makeMemorySnapshot"];
let mailbox: Mailboxes.Mailbox;
let telling: Mailboxes.Mailbox | null = null;
/** How many messages have come by the event loop. */
let came = 0;
let images: typeof Images;
let glue: typeof Glues;
/** What is imported for packages alone. */
let linkings: typeof Linkings | null = null;
/** Packages, if there are any, and how long the table of functions was before a library was linked. */
let packages: Packages.Archive | null = null;
let packaging: typeof Packages | null = null;
let tableBefore = 0;
/** The pages of the checkpoint that is being taken: meanwhile Python has nothing of this realm. */
let checkpoint: Images.Run[] | null = null;
let loading: Loadings.Loading | null = null;

/** Tell the broker, which may wait for what JSON can hold. */
function send(message: FromJail, transfer?: Transferable[]): void {
  if (!telling) post(message, transfer);
  else if (transfer || !telling.hasSleeper || !telling.give(JSON.stringify(message))) {
    telling.post(() => post(message, transfer));
  }
}

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

/** Threads that cells have started and that have not ended. */
let threads = 0;

/** True if nothing but a message of the broker's can be next. */
function waitsForBroker(): boolean {
  return timers === 0 && soonest.length === 0;
}

/**
 * Sleep at the mailbox until an answer comes, if there is no other stack and nothing else is to come: then this one need
 * not be suspended. Gives the answer, undefined if an interrupt has ended the wait, or the promise if it must be suspended.
 */
function answered(id: number, promise: Promise<string | undefined>): unknown {
  while (threads === 0 && waiting.size === 1 && waiting.has(id) && waitsForBroker()) {
    const text = mailbox.sleep(came);
    if (text === null) return promise;
    const message: ToJail = JSON.parse(text);
    if (message.type === "reply" && message.id === id) {
      waiting.delete(id);
      goingToWait = false;
      return message.reply;
    }
    take(message);
  }
  if (waiting.has(id)) return promise;
  goingToWait = false;
  return undefined;
}

/** Between two jobs: sleep at the mailbox, and do what it is told there. */
function rest(): void {
  while (!running && waitsForBroker()) {
    const text = mailbox.sleep(came);
    if (text === null) return;
    take(JSON.parse(text));
  }
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
  if (delay > 0) return later(act, delay);
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
  const interrupted = job;
  if (waiting.size === 0) {
    // the cell is about to start or to go on, and finds the interrupt itself; one that does not has lost its stack
    later(() => {
      if (running && job === interrupted && waiting.size === 0 && Atomics.load(interrupts, 0) === 2) {
        stackLost();
      }
    }, LOST_AFTER);
    return;
  }
  if (Atomics.compareExchange(interrupts, 0, 2, 0) !== 2) return;
  for (const id of [...waiting.keys()]) settle(id, undefined);
}

/** Locks on which a stack is parked, by the key that Python gave them; the value is the number of its wait. */
const parked = new Map<number, number>();

const bridge = {
  call: (request: string) => {
    const promise = waitFor(job, (id) => send({ type: "call", id, request }));
    return answered(lastId, promise);
  },
  emit: (stream: string, text: string) => send({ type: "printed", stream, text }),
  sleep: (milliseconds: number) => {
    slept(milliseconds);
    chancy ||= milliseconds > 0;
    return waitFor(job, (id) => void later(() => settle(id, ""), milliseconds));
  },
  finish: (value: string) => send({ type: "final", value }),
  spawn: (job: PyFunction) => {
    const kept = job.copy();
    const ended = () => {
      threads--;
      kept.destroy();
    };
    threads++;
    // a job contains its own exceptions: what arrives here is the interpreter's end, but for one interrupted before
    // its first instruction
    kept.callPromising().then(ended, (error) => isInterrupt(error) ? ended() : dead(error));
  },
  park: (key: number, milliseconds: number) =>
    // idle threads of a pool wait for work from one cell to the next
    waitFor(null, (id) => {
      parked.set(key, id);
      chancy ||= milliseconds > 0;
      if (milliseconds >= 0) setTimeoutInJob(() => settle(id, "late"), milliseconds);
    }),
  wake: (key: number) => {
    const id = parked.get(key);
    parked.delete(key);
    if (id !== undefined) settle(id, "");
  },
  // by which threads reckon how long they may wait; a wait itself is noticed
  seconds: () => {
    const before = chancy, milliseconds = performance.now();
    chancy = before;
    return milliseconds / 1000;
  },
  repeatable: () => !chancy,
};

/** What the broker sends before the boot, in any order. */
const arrivals = {
  modules: Promise.withResolvers<Modules>(),
  assets: Promise.withResolvers<Assets>(),
  sources: Promise.withResolvers<Sources>(),
  wasm: Promise.withResolvers<WebAssembly.Module>(),
  prepared: Promise.withResolvers<Prepared>(),
  boot: Promise.withResolvers<Boot>(),
};

/** Hand Pyodide the files that it would fetch. */
function serveFiles(stdlib: Uint8Array<ArrayBuffer>): void {
  const instantiate = WebAssembly.instantiate;
  WebAssembly.instantiateStreaming = async (_source, imports) => {
    const module = await arrivals.wasm.promise;
    return { instance: await instantiate(module, imports), module };
  };
  const serve = (address: unknown) => {
    if (String(address).endsWith("pyodide.asm.wasm")) return Promise.resolve(null);
    if (String(address).endsWith("python_stdlib.zip")) return Promise.resolve(new Response(stdlib));
    return Promise.reject(new Error(`nothing can be fetched: ${address}`));
  };
  (globalThis as unknown as Settings).fetch = serve;
}

async function loadPyodide(
  assets: Assets,
  createPyodideModule: CreateModule,
  settings: Settings,
): Promise<Py> {
  serveFiles(assets.stdlib);
  const { loadPyodide } = await import(assets.pyodide);
  return await loadPyodide({
    indexURL: "https://sandbox.invalid/",
    packageBaseUrl: "https://sandbox.invalid/",
    // the parts of the lock file that Pyodide checks; there are no packages to load
    lockFileContents: { info: assets.platform, packages: {} },
    createPyodideModule,
    jsglobals: Object.create(null),
    // hashes are in the image: they cannot differ between two sandboxes, and so are the same everywhere
    env: { HOME: "/home/pyodide", PYTHONHASHSEED: "0" },
    stdin: () => null,
    stdout: () => {},
    stderr: () => {},
    ...settings,
  });
}

/** Put the packages' files into the file system of what is made. */
function withPackages(create: CreateModule): CreateModule {
  return async (settings) => {
    const module = await create(settings);
    tableBefore = module.wasmTable.length;
    if (packages) packaging?.mount(module.FS, module.MEMFS, packages.files);
    return module;
  };
}

/** The record of what is linked, as bytes; none for nothing. Throws an error for what cannot be kept. */
function recordLinks(): Uint8Array<ArrayBuffer> {
  if (!linkings) {
    const byName = memory.LDSO.loadedLibsByName;
    const own = (memory.linked ?? []).find(({ name }) => typeof byName[name]?.exports === "object");
    if (own) throw new Error(`a library that is in no package (${own.name}) is linked, and cannot be kept`);
    return new Uint8Array();
  }
  const kept = new Set(packages?.files.map(([path]) => path));
  return linkings.pack(linkings.record(memory, tableBefore, (name) => kept.has(name)));
}

/** Load Pyodide from an image, whose body is awaited only when all else is done. */
async function loadFromImage(
  assets: Assets,
  head: Images.Head,
  create: CreateModule,
): Promise<Py> {
  const [header, packed] = images.splitHeader(head.header);
  const links = linkings && linkings.unpack(packed);
  const compiled = linkings && links && linkings.compile(links, packages?.files ?? []);
  compiled?.catch(() => {});
  const createFromImage = async (settings: Settings) => {
    reached("Pyodide's code");
    const module = await create(settings);
    reached("CPython instantiated");
    if (head.memoryBytes > module.HEAPU8.length) {
      const grown = module._malloc(head.memoryBytes - module._sbrk(0));
      if (grown === 0) throw new RangeError("there is no memory for it");
      module._free(grown);
    }
    if (linkings && links && compiled) linkings.link(module, links, await compiled);
    const boot = await arrivals.boot.promise;
    if (boot.type !== "boot" || !boot.body) throw new Error("the image's body was not sent");
    reached("the image here");
    const check = module.API.restoreSnapshot;
    module.API.restoreSnapshot = (header: Uint8Array) => {
      // Pyodide's own part checks the header and finds no memory behind it
      const described = check(header);
      const used = Math.max(module._sbrk(0), linkings && links ? linkings.end(links) : 0);
      images.restore(module.HEAPU8, used, head, boot.body!);
      reached("the image in its place");
      // at once: an idle jail has no reason to collect what it no longer uses
      boot.body!.buffer.transfer(0);
      boot.body = null;
      module.API.restoreSnapshot = check;
      return described;
    };
    return module;
  };
  return await loadPyodide(assets, createFromImage, {
    _loadSnapshot: header,
    // so that checkpoints can be taken; what variables held of JavaScript is not in them
    _makeSnapshot: true,
    _snapshotDeserializer: () => null,
  });
}

async function installPrelude(py: Py): Promise<void> {
  for (const [name, source] of (await arrivals.sources.promise).modules) {
    py.FS.writeFile(`${SITE_PACKAGES}/${name}.py`, source);
  }
  py.pyimport("rlm_prelude");
}

/** Make a memory image: a booted interpreter with the prelude in it, that never saw anybody's data. */
async function makeImage(assets: Assets, source: string, script: vm.Script): Promise<void> {
  const create = withPackages(glue.creatorOf(script));
  const py = await loadPyodide(assets, create, { _makeSnapshot: true });
  await installPrelude(py);
  memory = py._module;
  if (packages) py.pyimport("rlm_prelude").import_packages(JSON.stringify(packages.imports));
  const links = recordLinks();
  const snapshot = py.makeMemorySnapshot(packages ? { serializer: () => null } : undefined);
  // a cell, so that the code that it takes is in the cache too
  prelude = py.pyimport("rlm_prelude");
  prelude.connect(bridge, JSON.stringify({ functions: [], output_chars: 100, output_words: null }));
  await prelude.run_cell.callPromising("import asyncio\nprint(await asyncio.sleep(0))\n1", 1);
  const image = images.packImage(snapshot, links, glue.pack(source, script));
  send({ type: "image", image }, [image.buffer]);
}

async function bootSandbox(
  assets: Assets,
  head: Images.Head | null,
  script: vm.Script,
): Promise<Py> {
  (globalThis as unknown as Settings).setTimeout = setTimeoutInJob;
  const create = withPackages(glue.creatorOf(script));
  if (head) return await loadFromImage(assets, head, create);
  const py = await loadPyodide(assets, create, { _makeSnapshot: true });
  await installPrelude(py);
  return py;
}

async function start(): Promise<void> {
  const modules = await arrivals.modules.promise;
  let realm: typeof Realm, seeds: typeof Seeds, mailboxes: typeof Mailboxes;
  [realm, glue, images, loadings, mailboxes, seeds] = await Promise.all([
    import(modules.realm),
    import(modules.glue),
    import(modules.image),
    import(modules.loading),
    import(modules.mailbox),
    import(modules.seed),
  ]);
  realm.removeOutside();
  for (const name of ["postMessage", "close"]) delete (globalThis as unknown as Settings)[name];
  const assets = await arrivals.assets.promise;
  const { head: packed, packages: archive } = await arrivals.prepared.promise;
  reached("files and the image's head");
  const head = packed && images.readHead(packed);
  if (archive || (head && images.splitHeader(head.header)[1].length > 0)) {
    [packaging, linkings] = await Promise.all([import(modules.packages), import(modules.linking)]);
  }
  packages = archive && packaging!.readArchive(archive);
  const [source, cache] = head?.code.length
    ? glue.unpack(head.code)
    : [glue.changed((await arrivals.sources.promise).asm)];
  const script = glue.compile(source, cache);
  if (!head && (await arrivals.boot.promise).type === "make_image") {
    await makeImage(assets, source, script);
    return;
  }
  reached("CPython's code compiled");
  const py = await bootSandbox(assets, head, script);
  reached("Pyodide bootstrapped");
  const boot = await arrivals.boot.promise;
  if (boot.type !== "boot") throw new Error("an image is made of a jail that was not prepared for one");
  memory = py._module;
  takeSnapshot = py.makeMemorySnapshot;
  // the microtask that says so of the stack which was suspended may come after this one's, which may compute for ever
  memory.stackBegins = () => goingToWait = false;
  interrupts = boot.interrupts;
  py.setInterruptBuffer(signals);
  prelude = py.pyimport("rlm_prelude");
  const { seed, clock } = JSON.parse(boot.settings);
  if (seed !== null) slept = seeds.fix(seed, clock);
  seeds.watch(() => chancy = true);
  prelude.connect(bridge, boot.settings);
  const version = py.version;
  realm.removeRest();
  realm.freezeIntrinsics();
  running = false;
  [mailbox, telling] = boot.mailboxes.map((memory) => new mailboxes.Mailbox(memory)) as [
    Mailboxes.Mailbox,
    Mailboxes.Mailbox,
  ];
  jail.onmessage = (event: MessageEvent<ToJail>) => {
    came++;
    take(event.data);
    rest();
  };
  packed?.buffer.transfer(0);
  // megabytes that are of no more use, and would be held for ever
  for (const name of Object.keys(arrivals)) delete (arrivals as unknown as Settings)[name];
  const holes = realm.findHoles();
  reached("the realm frozen and tested");
  send({ type: "ready", holes, pyodide: version, stages });
}

function dead(error: unknown): void {
  send({ type: "dead", message: String(error).slice(0, 500) });
}

async function runCell(code: string, number: number): Promise<unknown> {
  chancy = false;
  const lost = new Promise<typeof LOST>((resolve) => stackLost = () => resolve(LOST));
  try {
    const result = await Promise.race([prelude.run_cell.callPromising(code, number), lost]);
    if (result !== LOST) return result;
    Atomics.store(interrupts, 0, 0);
    return await prelude.end_lost_cell.callPromising();
  } catch (error) {
    // the interrupt came at the function's first instruction, where nothing can catch it: the cell never began
    if (!isInterrupt(error)) throw error;
  }
  return await prelude.run_cell.callPromising("raise KeyboardInterrupt", number);
}

/** Begin a checkpoint; gives a report of it, after the header and the table of runs. */
async function beginCheckpoint(): Promise<string> {
  if (waiting.size > 0) {
    const error = "a thread that a cell has started still waits, and cannot be kept: let it end first " +
      "(shut its executor down, join it)";
    return JSON.stringify({ error });
  }
  let links: Uint8Array<ArrayBuffer>;
  try {
    links = recordLinks();
  } catch (error) {
    return JSON.stringify({ error: (error as Error).message });
  }
  const error = await prelude.disconnect.callPromising();
  if (error) return JSON.stringify({ error });
  const whole = memory.HEAP8;
  // a copy of it all is what Pyodide would make
  memory.HEAP8 = new Int8Array(0);
  let header: Uint8Array<ArrayBuffer>;
  try {
    header = takeSnapshot({ serializer: () => null });
  } finally {
    memory.HEAP8 = whole;
  }
  checkpoint = images.findRuns(memory.HEAPU8);
  const bytes = images.joined(header, links, images.packRuns(checkpoint));
  const size = checkpoint.reduce((sum, [, length]) => sum + length, 0);
  const report = {
    memory: memory.HEAPU8.length,
    header: header.length + links.length,
    runs: checkpoint.length,
    size,
  };
  send({ type: "part", bytes }, [bytes.buffer]);
  return JSON.stringify(report);
}

function sendCheckpointPart(offset: number, length: number): boolean {
  if (!checkpoint) return false;
  const bytes = images.gather(memory.HEAPU8, checkpoint, offset, length);
  send({ type: "part", bytes }, [bytes.buffer]);
  return true;
}

async function endCheckpoint(): Promise<boolean> {
  checkpoint = null;
  await prelude.reconnect.callPromising(bridge);
  return true;
}

async function run(id: number, act: () => unknown, ofCheckpoint = false): Promise<void> {
  job++;
  running = true;
  try {
    if (checkpoint && !ofCheckpoint) await endCheckpoint();
    send({ type: "done", id, result: String(await act()) });
  } catch (error) {
    // Python code never raises out of the prelude: what arrives here is the interpreter's end
    dead(error);
  }
  running = false;
  soonest.length = 0;
  rest();
}

async function finishLoading(name: string, kind: string): Promise<unknown> {
  const whole = loading !== null && loading.finish(name);
  loading = null;
  if (whole && (kind === "value" || kind === "packed")) {
    return await prelude.decode_variable.callPromising(name, kind) === true;
  }
  if (whole && kind === "equipment") return await prelude.equip.callPromising(name);
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
    run(message.id, () => {
      const added = loading !== null && loading.add(message.bytes);
      send({ type: "spare", buffer: message.bytes.buffer }, [message.bytes.buffer]);
      return added;
    });
  } else if (message.type === "load_end") run(message.id, () => finishLoading(message.name, message.kind));
  else if (message.type === "checkpoint_begin") run(message.id, beginCheckpoint);
  else if (message.type === "checkpoint_part") {
    run(message.id, () => sendCheckpointPart(message.offset, message.length), true);
  } else if (message.type === "checkpoint_end") run(message.id, endCheckpoint, true);
  else if (message.type === "get") run(message.id, () => prelude.get.callPromising(message.name));
}

jail.onmessage = ({ data }: MessageEvent<ToJail>) => {
  came++;
  if (data.type === "modules") arrivals.modules.resolve(data);
  else if (data.type === "assets") arrivals.assets.resolve(data);
  else if (data.type === "sources") arrivals.sources.resolve(data);
  else if (data.type === "wasm") arrivals.wasm.resolve(data.module);
  else if (data.type === "prepare") arrivals.prepared.resolve(data);
  else if (data.type === "boot" || data.type === "make_image") arrivals.boot.resolve(data);
};
start().then(rest).catch((error) => {
  send({ type: "dead", message: String((error as Error)?.stack ?? error).slice(0, 2000) });
});
