/**
 * The public door for programs that already ship Deno: CPython in WebAssembly, in a Deno process of its own that holds
 * no permission.
 *
 * ```ts
 * import { Sandbox } from "./deno/mod.ts";
 *
 * await using sandbox = await Sandbox.open({ functions: { lookup: (word) => fetchMeaning(word) } });
 * await sandbox.load({ context: text });
 * const run = await sandbox.execute("print(len(context))");
 * ```
 *
 * The caller's own process needs `--allow-run` (of the Deno program, to start and to kill the child) and
 * `--allow-write` (of the folder for temporary files, where each child has an empty one that is removed with it), on
 * Windows `--allow-env=SystemRoot` too, and nothing else. This file must lie on a disk with the rest of its folder and
 * with `pyodide/`, which `fetch_pyodide.py` fills: the child loads nothing from a network, nor out of a program made by
 * `deno compile`. A caller that is killed leaves its child's folder behind, with nothing of value in it; the child ends
 * with its stdin. The layer of the kernel (rlimits, Landlock, seccomp) that the Python package puts around a child is not
 * here.
 *
 * @module
 */

import { MAX_MEMORY_MB } from "./child.ts";
import { type Loss, SandboxError, SandboxTimeout } from "./errors.ts";
import { ErrorCode, RpcError } from "./peer.ts";
import { type HostFunction, Session, type SessionOptions } from "./session.ts";
import { decodeValue, encodeValue } from "./tagged.ts";

export {
  FunctionError,
  type Loss,
  ProtocolError,
  SandboxCrashed,
  SandboxError,
  SandboxStartError,
  SandboxTimeout,
} from "./errors.ts";
export type { HostFunction };

/** All that can be chosen about a sandbox. */
export interface SandboxOptions {
  /**
   * Host functions by name, sync or async. They run in the caller's process and are called by code that nobody has
   * read, as often at once as it likes: an argument is data. A cell that calls one waits for it.
   */
  functions?: Record<string, HostFunction>;
  /**
   * Megabytes beyond what boot needs; 1024 holds a 100 MB text and what is made of it. Caps the interpreter's memory, not
   * what hostile code holds outside of it (files in its `/tmp`, JavaScript's buffers): a limit on the process does that.
   */
  memoryMb?: number;
  /** Characters of output kept for a cell; 10,000, which is about 2,500 tokens. */
  outputChars?: number;
  /** Words of output kept for a cell; no cap if it is not given. */
  outputWords?: number;
  /** Seconds of computing for a cell, not counting its waits for host functions; 60. */
  timeout?: number;
  /** The path of a Deno binary; the one that runs this program. */
  deno?: string;
  /** A memory image that `Sandbox.makeImage` gave: the start then takes a fraction of the time. */
  image?: Uint8Array<ArrayBuffer>;
}

/** What became of one cell. */
export interface Executed {
  /** What it wrote to stdout, cut to size. */
  stdout: string;
  /** What it wrote to stderr, cut to size. */
  stderr: string;
  /** Both, in the order in which they were written. */
  output: string;
  /** Characters that were left out. */
  truncated: number;
  /** The traceback; null if the cell ended well. */
  error: string | null;
  /** The value of a bare last expression, if it has a JSON-like form of at most 100,000 characters, else null. */
  value: unknown;
  /** What the cell gave to FINAL; null if nothing. */
  final: unknown;
  /** Tells a FINAL(None) from none. */
  hasFinal: boolean;
  /** Seconds that it computed. */
  seconds: number;
  /** True if it was interrupted at its deadline. Its variables are kept. */
  timedOut: boolean;
  /** Variables that went down with an earlier child and are not in this cell's sandbox. */
  lost: string[];
  /** The variables that exist now, at most 256. */
  names: string[];
}

interface Variable {
  kind: "text" | "bytes" | "value";
  content: Uint8Array<ArrayBuffer>;
}

/** As long as the broker gives a load or a get, in seconds. */
const LOAD_OR_GET_WITHIN = 30;
const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

/**
 * A sandbox: one child at a time, and what was loaded. Calls run one after the other.
 *
 * A child that dies rejects the call that ran, with `SandboxCrashed`, `SandboxTimeout` or `ProtocolError`; the next call
 * runs in a fresh child which holds again what was loaded, and `Executed.lost` names the variables that are gone.
 */
export class Sandbox implements AsyncDisposable {
  #options: SessionOptions;
  #timeout: number;
  #session: Session | null = null;
  #closed = false;
  #turn: Promise<unknown> = Promise.resolve();
  #loaded = new Map<string, Variable>();
  #names: string[] = [];
  #lost: string[] = [];

  private constructor(options: SandboxOptions) {
    this.#options = sessionOptions(options);
    this.#timeout = positive("timeout", options.timeout ?? 60);
  }

  /** Start a sandbox. Rejects with `SandboxStartError`, TypeError or RangeError. */
  static async open(options: SandboxOptions = {}): Promise<Sandbox> {
    const sandbox = new Sandbox(options);
    await sandbox.#inTurn(() => Promise.resolve());
    return sandbox;
  }

  /** Make a memory image from which later sandboxes start faster: 16 MB, of a jail that has seen no data. */
  static async makeImage(options: Pick<SandboxOptions, "deno"> = {}): Promise<Uint8Array<ArrayBuffer>> {
    return await Session.makeImage(sessionOptions(options));
  }

  /** Set variables: strings and bytes as they are, all else by value (`tagged.ts` says how). */
  async load(variables: Record<string, unknown>): Promise<void> {
    for (const [name, value] of Object.entries(variables)) {
      const variable = variableOf(name, value);
      await this.#inTurn((session) => this.#load(session, name, variable));
      this.#loaded.set(name, variable);
    }
  }

  /** Run one cell; `timeout` in seconds of computing. Never rejects for a mistake in the code. */
  async execute(code: string, { timeout = this.#timeout }: { timeout?: number } = {}): Promise<Executed> {
    positive("timeout", timeout);
    return await this.#inTurn(async (session) => {
      session.head = "";
      session.final = null;
      session.running = true;
      try {
        const reply = await this.#ask(session, "execute", { code: code.toWellFormed(), timeout }, timeout);
        return this.#read(session, () => this.#executed(reply, session.final));
      } finally {
        session.running = false;
      }
    });
  }

  /** The value of a variable. Rejects with ReferenceError if there is none, TypeError if it has no JSON-like form. */
  async get(name: string): Promise<unknown> {
    return await this.#inTurn(async (session) => {
      const { value } = await this.#ask(session, "get", { name }, LOAD_OR_GET_WITHIN).catch((error) => {
        if (!(error.cause instanceof RpcError)) throw error;
        throw new (error.message.startsWith("NameError") ? ReferenceError : TypeError)(error.message);
      });
      return this.#read(session, () => decodeValue(value as string));
    });
  }

  /** End the child and sweep its folder away; what still runs rejects. May be called again. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#session?.kill("the sandbox was closed");
    await this.#turn;
    await this.#session?.kill("the sandbox was closed");
  }

  /** For `await using`: `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Run a job when those before it have ended, with a child that lives. */
  #inTurn<Result>(job: (session: Session) => Promise<Result>): Promise<Result> {
    const mine = this.#turn.then(async () => await job(await this.#living()));
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async #living(): Promise<Session> {
    if (this.#closed) throw new SandboxError("this sandbox is closed");
    if (this.#session && !this.#session.dead) return this.#session;
    this.#lost.push(...this.#unloaded());
    this.#names = [...this.#loaded.keys()];
    const session = this.#session = await Session.start(this.#options);
    if (this.#closed) throw new SandboxError("this sandbox is closed");
    for (const [name, variable] of this.#loaded) await this.#load(session, name, variable);
    return session;
  }

  async #load(session: Session, name: string, { kind, content }: Variable): Promise<void> {
    await this.#ask(session, "load", { name, kind }, LOAD_OR_GET_WITHIN, content);
  }

  /** Ask the child; if it is lost, throw what that is to be called. */
  async #ask(
    session: Session,
    method: string,
    params: Record<string, unknown>,
    seconds: number,
    blob?: Uint8Array<ArrayBuffer>,
  ): Promise<Record<string, unknown>> {
    try {
      return await session.ask(method, params, seconds, blob);
    } catch (error) {
      // a message that was too large to be sent
      if (error instanceof RangeError) throw error;
      if (this.#closed) throw new SandboxError("the sandbox was closed", { cause: error });
      const code = error instanceof RpcError ? error.code : undefined;
      if (code === ErrorCode.unresponsive) {
        await session.kill((error as Error).message);
        throw this.#mourned(session, new SandboxTimeout((error as Error).message, seconds));
      }
      if (code !== undefined && code !== ErrorCode.died) {
        throw new SandboxError((error as Error).message, { cause: error });
      }
      await session.kill(code === undefined ? "" : (error as Error).message);
      throw this.#mourned(session, await session.why());
    }
  }

  /** The variables that cells have made: what a fresh child has not. */
  #unloaded(): string[] {
    return this.#names.filter((name) => !this.#loaded.has(name));
  }

  #mourned<Death extends Loss>(session: Session, death: Death): Death {
    death.lost = this.#unloaded();
    death.output = session.head;
    return death;
  }

  /** Read what the child sent; if it may not send that, the child is killed. */
  async #read<Result>(session: Session, read: () => Result): Promise<Result> {
    try {
      return read();
    } catch (error) {
      session.violated(`the child sent what it may not send: ${(error as Error).message}`);
      throw this.#mourned(session, await session.why());
    }
  }

  #executed(reply: Record<string, unknown>, final: string | null): Executed {
    const ran = readRan(reply, this.#options.outputChars);
    const lost = this.#lost;
    this.#lost = [];
    this.#names = ran.names.filter((name) => NAME.test(name));
    const texts = (wanted?: string) =>
      ran.output.filter(([stream]) => wanted === undefined || stream === wanted).map(([, text]) => text).join(
        "",
      );
    const note = "the cell ran out of time and was interrupted; its variables are kept";
    const error = ran.timed_out ? `${ran.error ?? "KeyboardInterrupt"}\n(${note})` : ran.error;
    return {
      stdout: texts("stdout"),
      stderr: texts("stderr"),
      output: texts(),
      truncated: ran.truncated,
      error,
      value: ran.value === null ? null : decodeValue(ran.value),
      final: final === null ? null : decodeValue(final),
      hasFinal: final !== null,
      seconds: ran.seconds,
      timedOut: ran.timed_out,
      lost,
      names: this.#names,
    };
  }
}

/** What a report of a cell may hold; the output's size is the caller's choice. */
const MAX_ERROR_CHARS = 10_000, MAX_VALUE_BYTES = 100_000, MAX_NAMES = 256, MARKER_CHARS = 200;

interface Ran {
  output: [stream: string, text: string][];
  truncated: number;
  error: string | null;
  value: string | null;
  names: string[];
  timed_out: boolean;
  seconds: number;
}

/** The reply to `execute`, if it is one and holds no more than was agreed. Throws TypeError. */
function readRan(reply: Record<string, unknown>, outputChars: number): Ran {
  const isText = (value: unknown) => typeof value === "string";
  const isTextOrNull = (value: unknown, most: number) =>
    value === null || typeof value === "string" && value.length <= most;
  const isListOf = (value: unknown, isItem: (item: unknown) => boolean) =>
    Array.isArray(value) && value.every(isItem);
  const isPiece = (value: unknown) => isListOf(value, isText) && (value as string[]).length === 2;
  const { output, truncated, error, value, names, timed_out, seconds } = reply;
  const right = isListOf(output, isPiece) && isListOf(names, isText) &&
    isTextOrNull(error, 2 * MAX_ERROR_CHARS) && isTextOrNull(value, MAX_VALUE_BYTES) &&
    typeof timed_out === "boolean" && Number.isSafeInteger(truncated) && (truncated as number) >= 0 &&
    typeof seconds === "number" && seconds >= 0;
  if (!right) throw new TypeError("not a reply to execute");
  const ran = reply as unknown as Ran;
  // in UTF-16 units, of which a character may take two
  const printed = ran.output.reduce((sum, [, text]) => sum + text.length, 0);
  if (printed > 2 * (outputChars + MARKER_CHARS) || ran.names.length > MAX_NAMES) {
    throw new TypeError("more than was agreed in a reply to execute");
  }
  return ran;
}

function variableOf(name: string, value: unknown): Variable {
  if (!NAME.test(name) || name.startsWith("__")) {
    throw new TypeError(`${JSON.stringify(name)} is not a name for a variable`);
  }
  if (value instanceof Uint8Array) return { kind: "bytes", content: value.slice() };
  const text = typeof value === "string" ? value : encodeValue(value);
  return { kind: text === value ? "text" : "value", content: new TextEncoder().encode(text) };
}

function sessionOptions(options: SandboxOptions): SessionOptions {
  const functions = new Map(Object.entries(options.functions ?? {}));
  for (const name of functions.keys()) {
    if (!NAME.test(name)) {
      throw new TypeError(`functions: ${JSON.stringify(name)} is not a plain Python name`);
    }
  }
  const memoryMb = whole("memoryMb", options.memoryMb ?? 1024);
  if (memoryMb > MAX_MEMORY_MB) {
    throw new RangeError(`memoryMb: at most ${MAX_MEMORY_MB}, the address space of 32-bit WebAssembly`);
  }
  return {
    functions,
    memoryMb,
    outputChars: whole("outputChars", options.outputChars ?? 10_000),
    outputWords: options.outputWords === undefined ? undefined : whole("outputWords", options.outputWords),
    deno: options.deno ?? Deno.execPath(),
    image: options.image,
  };
}

function positive(name: string, value: number): number {
  if (value > 0 && Number.isFinite(value)) return value;
  throw new RangeError(`${name} must be a number above 0, not ${value}`);
}

function whole(name: string, value: number): number {
  if (Number.isSafeInteger(value)) return positive(name, value);
  throw new RangeError(`${name} must be a whole number, not ${value}`);
}
