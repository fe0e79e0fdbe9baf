/**
 * One child and the connection to it: started, initialised, its calls answered, and its death given a name. Twin of
 * `rlm_wasm/sandbox/session.py`. Does not know that there may be a next child: that is `mod.ts`.
 *
 * @module
 */

import type { Checkpoint } from "./checkpoint.ts";
import { Child } from "./child.ts";
import { FunctionError, ProtocolError, SandboxCrashed, SandboxStartError } from "./errors.ts";
import { headLength } from "./image.ts";
import { ErrorCode, fields, Peer, RpcError } from "./peer.ts";
import { decodeValue, encodeValue } from "./tagged.ts";
import { PROTOCOL, WireError } from "./wire.ts";

/** A function that cells may call; keyword arguments come as one object, after the others. */
export type HostFunction = (...args: unknown[]) => unknown;

type Bytes = Uint8Array<ArrayBuffer>;

/** How a session is started. */
export interface SessionOptions {
  functions: ReadonlyMap<string, HostFunction>;
  memoryMb: number;
  outputChars: number;
  outputWords?: number;
  seed?: number;
  clock?: number;
  deno: string;
  image?: Uint8Array<ArrayBuffer>;
}

const START_WITHIN = 60_000;
const PING_EVERY = 2_000;
const PING_WITHIN = 10_000;
/** The broker gives an interrupted cell 2 s; what it has not reported 5 s later, it never will. In seconds. */
const BROKER_GRACE = 7;
/** As `rlm_wasm/sandbox/image.py`: sixteen times what an image takes, in bytes. */
const MAX_IMAGE = 256 * 1024 * 1024;

/** One child and the connection to it, from spawn to death. */
export class Session {
  #child: Child;
  #peer: Peer;
  #functions: ReadonlyMap<string, HostFunction>;
  #outputChars: number;
  #fault: Error | null = null;
  #killedBecause = "";
  #dead = false;
  /** Resolves when the process has ended and its folder is gone. */
  readonly closed: Promise<void>;
  /** True while a cell runs: outside of one nothing may be called. */
  running = false;
  /** The head of what the cell has printed. */
  head = "";
  /** What the cell gave to FINAL, as a JSON text. */
  final: string | null = null;

  private constructor(child: Child, options: SessionOptions, maxBlob: number) {
    this.#child = child;
    this.#functions = options.functions;
    this.#outputChars = options.outputChars;
    this.#peer = new Peer(
      child,
      (method, params, wantsReply) =>
        wantsReply ? this.#request(method, params) : this.#notified(method, params),
      maxBlob,
    );
    this.closed = this.#serve();
  }

  /** Start a child that is ready for its next cell, of a checkpoint if one is given. Rejects with `SandboxStartError`. */
  static async start(options: SessionOptions, checkpoint: Checkpoint | null = null): Promise<Session> {
    const image = parts(options.image, checkpoint);
    const session = await Session.#spawn(options, 0);
    await session.#greet("initialize", {
      functions: [...options.functions.keys()],
      output_chars: options.outputChars,
      output_words: options.outputWords,
      memory_mb: options.memoryMb,
      seed: options.seed,
      clock: options.clock,
      image: session.#sendImage(image),
      resumes_after: checkpoint?.cells,
    });
    return session;
  }

  /** Start a child that sees no data, take its memory image, and end it. Rejects with `SandboxStartError`. */
  static async makeImage(options: SessionOptions): Promise<Uint8Array<ArrayBuffer>> {
    const session = await Session.#spawn(options, MAX_IMAGE);
    try {
      return session.#peer.takeBlob((await session.#greet("make_image", {})).image);
    } finally {
      await session.kill("it has served its purpose");
    }
  }

  /** The head first: the child makes ready what it can while the rest is on its way. */
  #sendImage(image: { head: Bytes; body: Bytes } | null): number | undefined {
    if (!image) return undefined;
    this.#peer.notify("prepare", { head: this.#peer.sendBlob(image.head) });
    return this.#peer.sendBlob(image.body);
  }

  static async #spawn(options: SessionOptions, maxBlob: number): Promise<Session> {
    try {
      return new Session(await Child.spawn(options.deno, options.memoryMb), options, maxBlob);
    } catch (cause) {
      const message = `${options.deno} could not be started: ${(cause as Error).message}`;
      throw new SandboxStartError(message, { cause });
    }
  }

  /** The first exchange, in which both sides check the protocol's version. */
  async #greet(method: string, params: Record<string, unknown>): Promise<Record<string, unknown>> {
    const timer = setTimeout(
      () => this.kill(`it did not start within ${START_WITHIN / 1000} s`),
      START_WITHIN,
    );
    try {
      const reply = fields(await this.#peer.request(method, { protocol: PROTOCOL, ...params }), "a greeting");
      if (reply.protocol === PROTOCOL) return reply;
      throw new RpcError(ErrorCode.wrongProtocol, `it speaks protocol ${reply.protocol}, not ${PROTOCOL}`);
    } catch (cause) {
      await this.kill("");
      const { message } = cause instanceof RpcError ? cause : await this.why();
      throw new SandboxStartError(`the sandbox did not start: ${message}`, { cause });
    } finally {
      clearTimeout(timer);
    }
  }

  /** True when the child is gone or has been told to go. */
  get dead(): boolean {
    return this.#dead;
  }

  /**
   * Ask the child; `blob` goes ahead and is named in the parameters. Rejects with `RpcError` for an error reply, else
   * with any error: `why` then knows its name. A broker that is silent, or that lets a cell compute for longer than
   * `seconds` and its grace, is killed.
   */
  async ask(
    method: string,
    params: Record<string, unknown>,
    seconds: number,
    blob?: Uint8Array<ArrayBuffer>,
  ): Promise<Record<string, unknown>> {
    const timer = this.#watch(seconds);
    try {
      const named = blob ? { ...params, blob: this.#peer.sendBlob(blob) } : params;
      const reply = await this.#peer.request(method, named);
      if (typeof reply === "object" && reply !== null) return reply as Record<string, unknown>;
    } finally {
      clearInterval(timer);
    }
    throw this.violated(`the reply to ${method} is no object`);
  }

  /** Raise KeyboardInterrupt in the cell that runs. */
  interrupt(): void {
    this.#peer.notify("interrupt", {});
  }

  /** While the job runs, let the child send blobs of at most so many bytes. */
  accepting<Result>(maxBlob: number, job: () => Promise<Result>): Promise<Result> {
    return this.#peer.accepting(maxBlob, job);
  }

  /** The blob of this number, once. Throws TypeError if the child has not sent it. */
  takeBlob(id: number): Bytes {
    try {
      return this.#peer.takeBlob(id);
    } catch (cause) {
      throw new TypeError((cause as Error).message, { cause });
    }
  }

  /** Give back the buffer of a blob that was taken, to be filled again. */
  recycle(buffer: ArrayBuffer): void {
    this.#peer.recycle(buffer);
  }

  #watch(seconds: number): ReturnType<typeof setInterval> {
    let computing = 0;
    let since = performance.now();
    let asked = since;
    let answered = true;
    return setInterval(() => {
      const now = performance.now();
      if (this.#peer.openCalls === 0) computing += now - since;
      since = now;
      if (!answered && now - asked > PING_WITHIN) {
        this.kill(`the sandbox did not answer for ${PING_WITHIN / 1000} s`);
      } else if (computing > (seconds + BROKER_GRACE) * 1000) {
        this.kill(`the sandbox did not end within ${BROKER_GRACE} s of its deadline`);
      } else if (answered) {
        answered = false;
        asked = now;
        this.#peer.request("ping", {}).then(() => answered = true, () => {});
      }
    }, PING_EVERY);
  }

  /** End the child; the promise is `closed`. The first reason is the one that counts. */
  kill(because: string): Promise<void> {
    this.#killedBecause ||= because;
    this.#dead = true;
    this.#child.kill();
    return this.closed;
  }

  /** The child has sent what it may not send. */
  violated(what: string): WireError {
    const fault = new WireError(what);
    this.#fault ??= fault;
    this.kill(what);
    return fault;
  }

  /** What the child's end is to be called; it is gone when this resolves. */
  async why(): Promise<SandboxCrashed | ProtocolError> {
    await this.closed;
    if (this.#fault) return new ProtocolError(this.#fault.message);
    const { code, signal } = await this.#child.ended;
    const how = signal ? `by ${signal}` : `with exit code ${code}`;
    const tail = this.#child.stderrTail;
    const message = this.#killedBecause || `the sandbox's process ended ${how}`;
    return new SandboxCrashed(tail ? `${message}: ${tail.slice(-500)}` : message, code, tail);
  }

  async #serve(): Promise<void> {
    try {
      await this.#peer.serve();
    } catch (error) {
      this.#fault ??= this.#killedBecause ? null : error as Error;
    } finally {
      this.#dead = true;
      await this.#child.close();
    }
  }

  #notified(method: string, params: unknown): void {
    const { stream, text, value } = (params ?? {}) as Record<string, unknown>;
    if (method === "printed" && typeof stream === "string" && typeof text === "string") {
      // what the jail posts as printed is hearsay: no more is kept than a cell may print
      if (this.head.length < this.#outputChars) this.head += text;
    } else if (method === "final" && typeof value === "string") this.final ??= value;
    else this.violated("a notification that does not exist");
  }

  async #request(method: string, params: unknown): Promise<{ value: string }> {
    if (method !== "call" || !this.running) {
      throw new RpcError(ErrorCode.methodNotFound, "nothing may be asked for now");
    }
    const { name, call } = this.#readCall(fields(params, "params").request);
    try {
      return { value: encodeValue(await call()) };
    } catch (error) {
      const told = error instanceof FunctionError ? error.message.slice(0, 4000) : classOf(error);
      throw new RpcError(ErrorCode.functionFailed, `${name}: ${told}`);
    }
  }

  #readCall(request: unknown): { name: string; call: () => unknown } {
    try {
      const [name, args, keywords] = decodeValue(request as string) as [string, unknown[], object];
      const called = this.#functions.get(name);
      const all = Object.keys(keywords).length > 0 ? [...args, keywords] : args;
      if (called && Array.isArray(all)) return { name, call: () => called(...all) };
    } catch {
      // not a call: said below
    }
    throw new RpcError(ErrorCode.functionFailed, "there is no such host function");
  }
}

function classOf(error: unknown): string {
  return error instanceof Error ? error.constructor.name : typeof error;
}

/** Head and body of what a start begins from; null for nothing. Throws SandboxStartError for what is no image. */
function parts(image: Bytes | undefined, checkpoint: Checkpoint | null): { head: Bytes; body: Bytes } | null {
  try {
    if (checkpoint) return { head: checkpoint.head(image), body: checkpoint.body };
    if (!image) return null;
    const end = headLength(image);
    return { head: image.subarray(0, end), body: image.subarray(end) };
  } catch (cause) {
    throw new SandboxStartError(`the sandbox did not start: ${(cause as Error).message}`, { cause });
  }
}
