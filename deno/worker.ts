/**
 * The jail: boots Pyodide in an emptied realm and runs cells. Started from a blob, with no permission, by
 * `sandbox.ts`; it has no imports of its own, because a blob has no place from which to import, and is sent what it
 * needs. Whatever it posts is hearsay to the broker.
 *
 * @module
 */

import type * as Realm from "./realm.ts";
import type { FromJail, ToJail } from "./sandbox.ts";

type Boot = Extract<ToJail, { type: "boot" }>;
type Settings = Record<string, unknown>;

interface PyFunction {
  (...args: unknown[]): unknown;
  callPromising(...args: unknown[]): Promise<unknown>;
}
interface Py {
  version: string;
  runPython(code: string): unknown;
  pyimport(name: string): Record<string, PyFunction>;
  setInterruptBuffer(buffer: Uint8Array): void;
  makeMemorySnapshot(): Uint8Array;
  FS: { writeFile(path: string, text: string): void; mkdirTree(path: string): void };
}
interface Waiting {
  resolve(answer: string | undefined): void;
}

const SITE_PACKAGES = "/lib/python3.14/site-packages";
const send = self.postMessage.bind(self) as (message: FromJail, transfer?: Transferable[]) => void;
const now = performance.now.bind(performance);
const later = setTimeout;
const waiting = new Map<number, Waiting>();
let lastId = 0;
let interrupts: Uint8Array;
let prelude: Record<string, PyFunction>;

/** A promise that the broker's reply, or an interrupt, resolves. */
function waitFor(start: (id: number) => void): Promise<string | undefined> {
  const id = ++lastId;
  return new Promise((resolve) => {
    waiting.set(id, { resolve });
    start(id);
  });
}

function settle(id: number, answer: string | undefined): void {
  const waiter = waiting.get(id);
  waiting.delete(id);
  waiter?.resolve(answer);
}

/** An interrupt that found nobody computing ends the waits instead: they raise KeyboardInterrupt. */
function interruptWaits(): void {
  if (Atomics.compareExchange(interrupts, 0, 2, 0) !== 2) return;
  for (const id of [...waiting.keys()]) settle(id, undefined);
}

const bridge = {
  call: (request: string) => waitFor((id) => send({ type: "call", id, request })),
  emit: (stream: string, text: string) => send({ type: "printed", stream, text }),
  sleep: (milliseconds: number) => waitFor((id) => void later(() => settle(id, ""), milliseconds)),
  finish: (value: string) => send({ type: "final", value }),
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
  const py = await loadPyodide(boot, boot.image ? { _loadSnapshot: boot.image } : {});
  if (!boot.image) installPrelude(py, boot);
  interrupts = boot.interrupts;
  py.setInterruptBuffer(interrupts);
  prelude = py.pyimport("rlm_prelude");
  prelude.connect(bridge.call, bridge.emit, bridge.sleep, bridge.finish, boot.settings);
  const version = py.version;
  realm.removeRest();
  realm.freezeIntrinsics();
  send({ type: "ready", holes: realm.findHoles(), pyodide: version, milliseconds: now() - started });
}

async function run(id: number, job: () => unknown): Promise<void> {
  try {
    send({ type: "done", id, result: String(await job()) });
  } catch (error) {
    // Python code never raises out of the prelude: what arrives here is the interpreter's end
    send({ type: "dead", message: String((error as Error)?.message ?? error).slice(0, 500) });
  }
}

function take(message: ToJail): void {
  if (message.type === "reply") settle(message.id, message.reply);
  else if (message.type === "interrupt") interruptWaits();
  else if (message.type === "ping") send({ type: "pong", id: message.id });
  else if (message.type === "execute") {
    run(message.id, () => prelude.run_cell.callPromising(message.code, message.number));
  } else if (message.type === "load") {
    run(message.id, () => prelude.load_buffer.callPromising(message.name, message.kind, message.bytes));
  } else if (message.type === "get") run(message.id, () => prelude.get.callPromising(message.name));
}

self.onmessage = async (event: MessageEvent<ToJail>) => {
  const boot = event.data as Boot;
  try {
    const realm: typeof Realm = await import(boot.urls.realm);
    realm.removeOutside();
    for (const name of ["postMessage", "close"]) delete (globalThis as unknown as Settings)[name];
    self.onmessage = (event: MessageEvent<ToJail>) => take(event.data);
    if (boot.makeImage) await makeImage(boot);
    else await bootSandbox(boot, realm);
  } catch (error) {
    send({ type: "dead", message: String((error as Error)?.stack ?? error).slice(0, 2000) });
  }
};
