/**
 * The broker: owns the Worker in which the prisoner lives, and believes nothing that it posts. Interrupts, deadlines,
 * caps and death are decided here. Knows no pipe and no JSON-RPC: `main.ts` gives it a `Host` to ask and to tell.
 *
 * @module
 */

import { ComputingClock, loadNode } from "./clock.ts";
import { hasCode, headLength } from "./image.ts";
import type { FromJail, JailModule, Platform, Settings, Stage, ToJail } from "./jail_messages.ts";
import type { Form } from "./loading.ts";
import { Mailbox } from "./mailbox.ts";
import glueSource from "./glue.ts" with { type: "text" };
import imageSource from "./image.ts" with { type: "text" };
import linkingSource from "./linking.ts" with { type: "text" };
import loadingSource from "./loading.ts" with { type: "text" };
import mailboxSource from "./mailbox.ts" with { type: "text" };
import packagesSource from "./packages.ts" with { type: "text" };
import realmSource from "./realm.ts" with { type: "text" };
import seedSource from "./seed.ts" with { type: "text" };
import workerSource from "./worker.ts" with { type: "text" };

/** How long an interrupted cell may take to end, in milliseconds. */
export const GRACE = 2000;
/** How often an interrupt is sent again, in milliseconds: one may come where Python swallows it. */
const REPEAT = 500;
/** Megabytes beyond the cap before the process is ended: garbage of V8 that is not collected yet. */
const MEMORY_SLACK_MB = 256;
/** How often an idle jail is asked whether it is idle, in milliseconds; it has as long to answer. */
const IDLE_CHECK = 1000;
/**
 * How long the jail's next word is waited for where it was just told something, in milliseconds: what comes later comes by
 * the event loop. Meanwhile nothing else is heard.
 */
const HEARD_WITHIN = 2;
/** How often deadline and memory are looked at, in milliseconds. */
const TICK = 50;
/** How long a load or a get may take, in seconds: a variable's own methods, or what a cell left behind, can hold it up. */
const LOAD_OR_GET_WITHIN = 30;
const PLATFORM: Platform = {
  abi_version: "2026_0",
  arch: "wasm32",
  platform: "emscripten_5_0_3",
  python: "3.14.2",
};

/** What the jail imports beside itself. */
const JAIL_MODULES: Record<JailModule, string> = {
  realm: realmSource,
  glue: glueSource,
  image: imageSource,
  linking: linkingSource,
  loading: loadingSource,
  mailbox: mailboxSource,
  packages: packagesSource,
  seed: seedSource,
};

/** Who serves the cell's calls and hears what it does. */
export interface Host {
  /** Answer a host function call; both texts are JSON. Never rejects. */
  call(request: string): Promise<string>;
  /** The head of the cell's output, as it comes. */
  printed(stream: string, text: string): void;
  /** The value that the cell gave to FINAL, as a JSON text. */
  final(value: string): void;
  /** The buffer of a part of a value, which is of no more use. */
  spare(buffer: ArrayBuffer): void;
  /** The jail died while nothing was asked of it: nobody is there to be told by a rejection. */
  died(why: string): void;
}

/** Why a sandbox is of no more use. */
export class SandboxDead extends Error {
  override name = "SandboxDead";
  /** True if a cell did not answer its interrupt. */
  readonly unresponsive: boolean;

  constructor(message: string, unresponsive = false) {
    super(message);
    this.unresponsive = unresponsive;
  }
}

/** The result of a cell, as the jail reports it, and what the broker knows itself. */
export interface Outcome {
  /** The jail's report: a JSON text. */
  result: string;
  /** True if the cell was interrupted at its deadline. */
  timedOut: boolean;
  /** Seconds that the cell computed, not counting its waits for the host. */
  seconds: number;
  /** Of a checkpoint: bytes of it. */
  part: Uint8Array<ArrayBuffer> | null;
}

/** One thing that the jail does: a cell, a load or a get. */
class Job {
  readonly clock = new ComputingClock();
  readonly done = Promise.withResolvers<string>();
  /** The calls of it that are open. */
  readonly calls = new Set<number>();
  /** UTF-16 units that it has printed. */
  printed = 0;
  /** It has given its value to FINAL. */
  gave = false;
  timedOut = false;
  /** Of a checkpoint, what the jail has sent. */
  part: Uint8Array<ArrayBuffer> | null = null;
  interruptedAt: number | null = null;
  repeats = 0;

  /** `timeout` in milliseconds of computing. */
  constructor(readonly id: number, readonly timeout: number) {}
}

function blobUrl(source: string, type = "text/javascript"): string {
  return URL.createObjectURL(new Blob([source], { type }));
}

/** One jail and what is known of it. */
export class Sandbox {
  #worker: Worker;
  #host: Host | null = null;
  #prepared = false;
  #interrupts = new Uint8Array(new SharedArrayBuffer(1));
  #mailbox = new Mailbox();
  /** What the jail tells in the moments after it was told something. */
  #told = new Mailbox();
  /** How many messages of the jail have come by the event loop. */
  #came = 0;
  #job: Job | null = null;
  #lastId = 0;
  #cells = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #queued = 0;
  #maxPrinted = 0;
  #maxMemory = Infinity;
  #ticked = 0;
  #dead: SandboxDead | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #idle = true;
  #idleAsked = 0;
  #idleAnswered = 0;
  #assetsSent: Promise<void>;
  #booted = Promise.withResolvers<unknown>();
  #ready = false;

  /** Start a jail, which makes itself ready as far as it can before it is said what it is for. */
  constructor() {
    // no permission is ever held in the jail; if this option were not understood the start would throw
    this.#worker = new Worker(blobUrl(workerSource, "application/typescript"), {
      type: "module",
      deno: { permissions: "none" },
    } as WorkerOptions);
    this.#worker.onmessage = (event) => {
      this.#came++;
      this.#attempt(() => this.#take(event.data));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      // a stack of WebAssembly addresses follows in the other lines
      this.#die(new SandboxDead(`the interpreter died: ${event.message.split("\n")[0]}`));
    };
    this.#told.meanwhile = () => {
      this.#checkMemory();
      if (this.#dead) throw this.#dead;
    };
    // whoever boots it hears of a failure; nobody may
    this.#booted.promise.catch(() => {});
    this.#assetsSent = this.#sendAssets().catch(this.#lacksFiles);
  }

  /** Do what the jail's words ask for. */
  #attempt(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#die(new SandboxDead(`what the jail sent cannot be passed on: ${(error as Error).message}`));
    }
  }

  #lacksFiles = (error: Error) => this.#die(new SandboxDead(`its files: ${error.message}`));

  /** What the jail needs of files. Imports that are written out need no permission; meanwhile the jail starts. */
  async #sendAssets(): Promise<void> {
    const urls = Object.entries(JAIL_MODULES).map((
      [name, source],
    ) => [name, blobUrl(source, "application/typescript")]);
    this.#post({ type: "modules", ...Object.fromEntries(urls) });
    const { pyodideSource, STDLIB } = await import("./assets.ts");
    const pyodide = blobUrl(pyodideSource);
    this.#post({ type: "assets", pyodide, stdlib: STDLIB, platform: PLATFORM }, [STDLIB.buffer]);
  }

  /** What an image would have in it. */
  async #sendSources(): Promise<void> {
    const { asmSource, PYTHON_MODULES } = await import("./sources.ts");
    this.#post({ type: "sources", asm: asmSource, modules: PYTHON_MODULES });
  }

  /**
   * CPython itself: from the host, which has it at hand, or as a file, which takes Deno longer. Compiled here and at
   * once, which is half the work of `WebAssembly.compile` in other threads; the jail has enough to do meanwhile.
   */
  async #sendWasm(given: Uint8Array<ArrayBuffer> | null): Promise<void> {
    await this.#assetsSent;
    const wasm = given ??
      (await import("./pyodide/pyodide.asm.wasm", { with: { type: "bytes" } })).default;
    this.#post({ type: "wasm", module: new WebAssembly.Module(wasm) });
    // V8 has a copy of its own, and the module map would hold this one for ever
    wasm.buffer.transfer(0);
  }

  #post(message: ToJail, transfer: Transferable[] = []): void {
    this.#mailbox.post(() => this.#worker.postMessage(message, transfer));
  }

  /** Post what JSON can hold, or give it to a jail that waits for nothing else, whose answer may come at once. */
  #say(message: ToJail): void {
    if (this.#dead) return;
    if (!this.#mailbox.hasSleeper) return this.#post(message);
    const text = JSON.stringify(message);
    // before it hears: it may answer before we are asleep
    this.#told.lieDown(this.#came);
    const given = this.#mailbox.give(text);
    if (!given) this.#post(message);
    this.#attempt(() => this.#hear(given ? HEARD_WITHIN : 0));
  }

  /** Hear what the jail says in so many milliseconds, until it waits in its turn. */
  #hear(within: number): void {
    const until = performance.now() + within;
    let left = within;
    do {
      const text = this.#told.sleep(this.#came, left);
      if (text === null) return;
      const message: FromJail = JSON.parse(text);
      this.#take(message);
      if (this.#dead || message?.type === "done" || message?.type === "call") return;
      left = until - performance.now();
    } while (left > 0);
  }

  /**
   * Say with what image the jail will be booted, of which the head is enough to go on, and hand it CPython's
   * WebAssembly and an archive of packages (packages.ts). Null for no image, for the WebAssembly as it is on disk, and
   * for no packages. The first call counts.
   */
  prepare(
    head: Uint8Array<ArrayBuffer> | null,
    wasm: Uint8Array<ArrayBuffer> | null = null,
    packages: Uint8Array<ArrayBuffer> | null = null,
  ): void {
    if (this.#prepared) return;
    this.#prepared = true;
    if (!head || !hasCode(head)) this.#sendSources().catch(this.#lacksFiles);
    this.#post({ type: "prepare", head, packages }, packages ? [packages.buffer] : []);
    this.#sendWasm(wasm).catch((error) => this.#die(new SandboxDead(`its WebAssembly: ${error.message}`)));
  }

  /** What the start has reached, as the jail tells it. */
  stages: Stage[] = [];

  /** How many cells have been run; of a checkpoint those before it too. */
  get cells(): number {
    return this.#cells;
  }

  /**
   * Boot the jail: from an image, if it was prepared for one or is given one whole. Rejects if it does not hold. If the
   * image is a checkpoint, `resumesAfter` says how many cells had been run.
   */
  async boot(
    host: Host,
    settings: Settings,
    image: Uint8Array<ArrayBuffer> | null,
    resumesAfter: number | null = null,
  ): Promise<void> {
    this.#host = host;
    this.#cells = resumesAfter ?? 0;
    // the head of the output, in UTF-16 units, in messages of a character at least
    this.#maxPrinted = 3 * settings.output_chars;
    let body = image;
    if (image && !this.#prepared) {
      const head = headLength(image);
      this.prepare(image.slice(0, head));
      body = image.slice(head);
    }
    this.prepare(null);
    const message: ToJail = {
      type: "boot",
      interrupts: this.#interrupts,
      mailboxes: [this.#mailbox.memory, this.#told.memory],
      settings: JSON.stringify(settings),
      body,
    };
    this.#post(message, body ? [body.buffer] : []);
    loadNode();
    await this.#booted.promise;
    if (resumesAfter === null) {
      // what is compiled for a first cell, here and of the interpreter, its own first cell need not
      await this.#do(LOAD_OR_GET_WITHIN, (id) => ({ type: "execute", id, code: "0;", number: 0 }));
      this.stages.push(["a cell tried", performance.timeOrigin + performance.now()]);
    }
    if (settings.memory_mb !== null) {
      this.#maxMemory = Deno.memoryUsage().rss + (settings.memory_mb + MEMORY_SLACK_MB) * 1024 * 1024;
    }
    this.#ready = true;
  }

  /** Boot the jail, which sees no data, and give its memory image; then it is of no more use. */
  async makeImage(): Promise<Uint8Array<ArrayBuffer>> {
    this.prepare(null);
    this.#post({ type: "make_image" });
    return await this.#booted.promise as Uint8Array<ArrayBuffer>;
  }

  /** Run one cell. `timeout` in seconds of computing. Rejects with `SandboxDead` only. */
  execute(code: string, timeout: number): Promise<Outcome> {
    const number = ++this.#cells;
    return this.#do(timeout, (id) => ({ type: "execute", id, code, number }));
  }

  /** Set a variable from bytes: "text" (UTF-8), "bytes" or "value" (a JSON text); false if there is no memory for it. */
  async load(name: string, kind: string, bytes: Uint8Array<ArrayBuffer>): Promise<boolean> {
    const message = (id: number): ToJail => ({ type: "load", id, name, kind, bytes });
    return (await this.#do(LOAD_OR_GET_WITHIN, message, [bytes.buffer])).result === "true";
  }

  /** Announce a value of so many characters or bytes, to come in parts; false if there is no memory for it. */
  async loadBegin(form: Form, length: number): Promise<boolean> {
    const message = (id: number): ToJail => ({ type: "load_begin", id, form, length });
    return (await this.#do(LOAD_OR_GET_WITHIN, message)).result === "true";
  }

  /** The next bytes of the value, as the interpreter will hold them; false if they are too many. */
  async loadPart(bytes: Uint8Array<ArrayBuffer>): Promise<boolean> {
    const message = (id: number): ToJail => ({ type: "load_part", id, bytes });
    return (await this.#do(LOAD_OR_GET_WITHIN, message, [bytes.buffer])).result === "true";
  }

  /**
   * Give the value its name; of kind "value" it is a JSON text to be decoded, of kind "equipment" Python to be run as a
   * module. Null if that was done, else why not.
   */
  async loadEnd(name: string, kind: string): Promise<string | null> {
    const message = (id: number): ToJail => ({ type: "load_end", id, name, kind });
    const { result } = await this.#do(LOAD_OR_GET_WITHIN, message);
    if (result === "true") return null;
    return result === "false" ? "it is not whole, or there is no memory for it" : result;
  }

  /** A variable as `{"value": ...}` or `{"error": ...}`: a JSON text. */
  async get(name: string): Promise<string> {
    return (await this.#do(LOAD_OR_GET_WITHIN, (id) => ({ type: "get", id, name }))).result;
  }

  /**
   * Begin to take the interpreter's memory: a report, and as `part` Pyodide's header with the table of runs. Until its
   * end, or the next job of another kind, nothing else runs.
   */
  beginCheckpoint(): Promise<Outcome> {
    return this.#do(LOAD_OR_GET_WITHIN, (id) => ({ type: "checkpoint_begin", id }));
  }

  /** Pages of the checkpoint, `length` bytes of them at most; null if none has begun. */
  async checkpointPart(offset: number, length: number): Promise<Uint8Array<ArrayBuffer> | null> {
    const message = (id: number): ToJail => ({ type: "checkpoint_part", id, offset, length });
    const { part } = await this.#do(LOAD_OR_GET_WITHIN, message);
    return part && part.length <= length ? part : null;
  }

  /** Go on after a checkpoint. */
  async endCheckpoint(): Promise<void> {
    await this.#do(LOAD_OR_GET_WITHIN, (id) => ({ type: "checkpoint_end", id }));
  }

  /** Let the jail do one thing after those before it: interrupted at its deadline, ended if it then goes on. */
  #do(timeout: number, message: (id: number) => ToJail, transfer: Transferable[] = []): Promise<Outcome> {
    let mine: Promise<Outcome>;
    if (this.#job || this.#queued > 0) {
      this.#queued++;
      mine = this.#turn.then(() => {
        this.#queued--;
        return this.#doNow(timeout, message, transfer);
      });
    } else {
      // at once, so that an interrupt which follows on the same pipe finds it running
      mine = this.#doNow(timeout, message, transfer);
    }
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async #doNow(
    timeout: number,
    message: (id: number) => ToJail,
    transfer: Transferable[],
  ): Promise<Outcome> {
    if (this.#dead) throw this.#dead;
    const job = this.#job = new Job(++this.#lastId, timeout * 1000);
    if (this.#idle) this.#arm(TICK);
    try {
      if (transfer.length > 0) this.#post(message(job.id), transfer);
      else this.#say(message(job.id));
      const result = await job.done.promise;
      return { result, timedOut: job.timedOut, seconds: job.clock.tick(false) / 1000, part: job.part };
    } finally {
      this.#job = null;
      this.#interrupts[0] = 0;
    }
  }

  /** The one timer: it runs by `TICK` while there are jobs, also from one to the next, else by `IDLE_CHECK`. */
  #arm(delay: number): void {
    clearTimeout(this.#timer);
    this.#idle = delay === IDLE_CHECK;
    this.#timer = setTimeout(() => {
      if (this.#dead) return;
      if (this.#job) this.#tick(this.#job);
      else this.#checkIdle();
      this.#arm(this.#job ? TICK : IDLE_CHECK);
    }, delay);
  }

  /** Look at the deadline of the job that runs, and at the memory. */
  #tick(job: Job): void {
    this.#ticked = performance.now();
    this.#checkMemory();
    const spent = job.clock.tick(job.calls.size > 0);
    const interrupted = job.interruptedAt === null ? 0 : performance.now() - job.interruptedAt;
    if (job.interruptedAt === null && spent >= job.timeout) {
      job.timedOut = true;
      this.interrupt();
    } else if (interrupted >= GRACE) {
      const when = job.timedOut ? ` at ${job.timeout / 1000} s` : "";
      this.#die(
        new SandboxDead(`the cell did not end within ${GRACE / 1000} s of its interrupt${when}`, true),
      );
    } else if (interrupted >= REPEAT * (job.repeats + 1)) {
      job.repeats++;
      this.interrupt();
    }
  }

  /** What WebAssembly's own cap does not cover: JavaScript buffers, MEMFS files. Where the kernel caps too, it is first. */
  #checkMemory(): void {
    if (Deno.memoryUsage().rss > this.#maxMemory) {
      this.#die(new SandboxDead("the sandbox took more memory than it may have"));
    }
  }

  /** Between two jobs the jail must be idle: one that does not answer is burning a core, and is ended. */
  #checkIdle(): void {
    if (this.#idle && this.#idleAnswered !== this.#idleAsked) {
      this.#die(new SandboxDead("the jail goes on computing after its cell has ended"));
      return;
    }
    this.#idleAsked++;
    this.#post({ type: "ping", id: this.#idleAsked });
  }

  /** Raise KeyboardInterrupt in the cell that runs, be it computing or waiting; it has `GRACE` to end. */
  interrupt(): void {
    if (!this.#job) return;
    this.#job.interruptedAt ??= performance.now();
    Atomics.store(this.#interrupts, 0, 2);
    this.#say({ type: "interrupt" });
  }

  #die(reason: SandboxDead): void {
    const idle = this.#ready && this.#dead === null && this.#job === null;
    this.#dead ??= reason;
    clearTimeout(this.#timer);
    this.#worker.terminate();
    if (idle) this.#host?.died(reason.message);
    this.#booted.reject(reason);
    this.#job?.done.reject(reason);
  }

  #take(message: FromJail): void {
    const job = this.#job;
    // in a flood of messages no timer gets its turn
    if (job && performance.now() - this.#ticked > TICK) this.#tick(job);
    if (typeof message !== "object" || message === null) return;
    if (message.type === "done") {
      if (job?.id === message.id) job.done.resolve(String(message.result).toWellFormed());
    } else if (message.type === "call") {
      // outside a job nobody may ask: what is left over of a cell is not answered
      if (job) this.#serve(job, Number(message.id), String(message.request));
    } else if (message.type === "printed") {
      if (job) this.#pass(job, String(message.stream), String(message.text).toWellFormed());
    } else if (message.type === "final") {
      if (job && !job.gave) {
        job.gave = true;
        this.#host?.final(String(message.value).toWellFormed());
      }
    } else if (message.type === "spare") {
      // one that could grow or shrink later would not be ours
      if (message.buffer instanceof ArrayBuffer && !message.buffer.resizable) {
        this.#host?.spare(message.buffer);
      }
    } else if (message.type === "part") {
      if (job && message.bytes instanceof Uint8Array && !message.bytes.buffer.resizable) {
        job.part = message.bytes;
      }
    } else if (message.type === "pong") {
      this.#idleAnswered = Number(message.id);
    } else if (message.type === "image") this.#booted.resolve(message.image);
    else if (message.type === "dead") this.#die(new SandboxDead(`the interpreter died: ${message.message}`));
    else if (message.type === "ready") {
      this.stages = Array.from(message.stages, ([name, at]) => [String(name).slice(0, 100), Number(at)]);
      if (message.holes.length === 0) this.#booted.resolve(null);
      else this.#die(new SandboxDead(`the jail does not hold: ${message.holes.join("; ")}`));
    }
  }

  /** More of what was printed than a cell may print is no output but a flood, in which no timer gets its turn. */
  #pass(job: Job, stream: string, text: string): void {
    job.printed += text.length + 1;
    if (job.printed <= this.#maxPrinted) this.#host?.printed(stream, text);
    else this.#die(new SandboxDead("the jail sends more than a cell may print"));
  }

  async #serve(job: Job, id: number, request: string): Promise<void> {
    job.clock.waits();
    job.calls.add(id);
    const reply = await this.#host!.call(request.toWellFormed());
    job.calls.delete(id);
    this.#say({ type: "reply", id, reply });
  }
}
