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
 * Windows `--allow-env=SystemRoot` too, and nothing else; checkpoints need `--allow-read` of this folder, to tell builds
 * apart, and of the files that are loaded. This file must lie on a disk with the rest of its folder and
 * with `pyodide/`, which `fetch_pyodide.py` fills: the child loads nothing from a network, nor out of a program made by
 * `deno compile`. A caller that is killed leaves its child's folder behind, with nothing of value in it; the child ends
 * with its stdin. The layer of the kernel (rlimits, Landlock, seccomp) that the Python package puts around a child is not
 * here.
 *
 * @module
 */

import { Checkpoint, findBuild, MAX_PART, take } from "./checkpoint.ts";
import { type Loss, SandboxError, SandboxTimeout } from "./errors.ts";
import { NAME, readNothing, readRan, readValue } from "./messages.ts";
import { positive, type SandboxOptions, sessionOptions, whole } from "./options.ts";
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
export { Checkpoint, type CheckpointFacts } from "./checkpoint.ts";
export type { HostFunction, SandboxOptions };

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
  /** Where a cell finds the whole of an output that was cut, as an index of `outputs`; null if nothing was. */
  kept: number | null;
  /** Names that the cell had overwritten and that were put back; what it had given them is in `my_NAME`. */
  restored: string[];
  /** False if it made use of time or chance, so that it might do something else another time. */
  repeatable: boolean;
}

/** Python to be run in a sandbox or imported there: the module's name and its source. */
export type Module = [name: string, source: string];

interface Variable {
  kind: "text" | "bytes" | "value" | "equipment";
  content: Uint8Array<ArrayBuffer>;
}

/** As long as the broker gives a load or a get, in seconds. */
const LOAD_OR_GET_WITHIN = 30;

/**
 * A sandbox: one child at a time, and what was loaded. Calls run one after the other.
 *
 * A child that dies rejects the call that ran, with `SandboxCrashed`, `SandboxTimeout` or `ProtocolError`; the next call
 * runs in a fresh child which holds again what was loaded, and `Executed.lost` names the variables that are gone.
 */
export class Sandbox implements AsyncDisposable {
  #chosen: SandboxOptions;
  #options: SessionOptions;
  #restored: Checkpoint | null;
  #timeout: number;
  #session: Session | null = null;
  #closed = false;
  #turn: Promise<unknown> = Promise.resolve();
  #loaded = new Map<string, Variable>();
  #names: string[] = [];
  #lost: string[] = [];

  private constructor(options: SandboxOptions, restored: Checkpoint | null = null) {
    this.#chosen = options;
    this.#options = sessionOptions(options);
    this.#restored = restored;
    this.#names = [...restored?.names ?? []];
    this.#timeout = positive("timeout", options.timeout ?? 60);
  }

  /** Start a sandbox. Rejects with `SandboxStartError`, TypeError or RangeError. */
  static async open(options: SandboxOptions = {}): Promise<Sandbox> {
    const sandbox = new Sandbox(options);
    await sandbox.#inTurn(() => Promise.resolve());
    return sandbox;
  }

  /**
   * Start a sandbox that goes on from a checkpoint, whoever made it: it is restored inside the same prison as any cell. A
   * child that dies is replaced by one that holds the checkpoint again. Needs permission to read this folder. Rejects
   * with RangeError if it is of another build or does not fit `memoryMb`, TypeError if `functions` lack some that its
   * cells can call, `SandboxStartError` if it does not start.
   */
  static async restore(checkpoint: Checkpoint, options: SandboxOptions = {}): Promise<Sandbox> {
    const missing = checkpoint.functions.filter((name) => !Object.hasOwn(options.functions ?? {}, name));
    if (missing.length > 0) {
      throw new TypeError(`the checkpoint's cells can call ${missing.join(", ")}: give them in functions`);
    }
    if (checkpoint.build !== await findBuild()) {
      throw new RangeError(
        "the checkpoint is of another build of rlm_wasm: a memory means something only to the interpreter it was " +
          "taken of; restore it where it was made, or with the same version",
      );
    }
    const memoryMb = checkpoint.memoryFor(options.memoryMb);
    const sandbox = new Sandbox({ ...options, memoryMb }, checkpoint);
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

  /**
   * Run Python of the caller's own in the sandbox, before any cell: each of `modules`, in order. The names in a module's
   * `__all__` become names of the REPL, which are put back when a cell overwrites them. Such a module may
   * `import rlm_host`: the host functions as they are, `FINAL`, `namespace()` (the globals of cells),
   * `after_cell(function)` and `protect(name)`; and it may import what is in `library`, which is not run otherwise. All
   * is there again in every fresh child. Rejects with `SandboxError`, which names the exception that a module ended with.
   */
  async equip(modules: Module[], library: Module[] = []): Promise<void> {
    if (modules.length === 0 && library.length === 0) return;
    const content = equipment(modules, library);
    await this.#inTurn(async (session) => {
      const name = `rlm_equipment_${this.#loaded.size}`;
      const variable: Variable = { kind: "equipment", content };
      await this.#load(session, name, variable);
      this.#loaded.set(name, variable);
    });
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
      const reply = await this.#ask(session, "get", { name }, LOAD_OR_GET_WITHIN).catch((error) => {
        if (!(error.cause instanceof RpcError)) throw error;
        throw new (error.message.startsWith("NameError") ? ReferenceError : TypeError)(error.message);
      });
      return this.#read(session, () => decodeValue(readValue(reply)));
    });
  }

  /** Raise KeyboardInterrupt in the cell that runs, computing or waiting; its variables are kept. Nothing if none runs. */
  interrupt(): void {
    if (this.#session?.running) this.#session.interrupt();
  }

  /**
   * Take the sandbox's whole memory, between two cells: what runs is waited for. Everything survives but what is not the
   * sandbox's own: a thread of a cell that still waits, a pipe that is open. Needs permission to read this folder.
   * Rejects with `SandboxError`, which says what is in the way, or with what became of the child.
   */
  async checkpoint(): Promise<Checkpoint> {
    const build = await findBuild();
    const { functions, memoryMb } = this.#options;
    return await this.#inTurn((session) => {
      const facts = { build, memoryMb, names: this.#names, functions: [...functions.keys()] };
      const source = {
        ask: (method: string, params: Record<string, unknown>) =>
          this.#ask(session, method, params, LOAD_OR_GET_WITHIN),
        takeBlob: (id: number) => session.takeBlob(id),
        recycle: (buffer: ArrayBuffer) => session.recycle(buffer),
      };
      return this.#read(session, () => session.accepting(MAX_PART, () => take(source, facts)));
    });
  }

  /**
   * So many open sandboxes that go on from here, each on its own, with the same options; who asked closes them. Rejects
   * as `checkpoint` and `restore` do, and then leaves none open.
   */
  async fork(count = 1): Promise<Sandbox[]> {
    whole("count", count);
    const checkpoint = await this.checkpoint();
    const started = await Promise.allSettled(
      Array.from({ length: count }, () => Sandbox.restore(checkpoint, this.#chosen)),
    );
    const opened = started.flatMap((start) => start.status === "fulfilled" ? [start.value] : []);
    const failed = started.find((start) => start.status === "rejected");
    if (!failed) return opened;
    await Promise.all(opened.map((sandbox) => sandbox.close()));
    throw failed.reason;
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
    this.#names = [...this.#kept()];
    const session = this.#session = await Session.start(this.#options, this.#restored);
    if (this.#closed) throw new SandboxError("this sandbox is closed");
    for (const [name, variable] of this.#loaded) await this.#load(session, name, variable);
    return session;
  }

  async #load(session: Session, name: string, { kind, content }: Variable): Promise<void> {
    const ask = async (method: string, params: Record<string, unknown>, blob?: Uint8Array<ArrayBuffer>) => {
      const reply = await this.#ask(session, method, params, LOAD_OR_GET_WITHIN, blob);
      await this.#read(session, () => readNothing(method, reply));
    };
    if (kind !== "equipment") return await ask("load", { name, kind }, content);
    await ask("load_begin", { form: "ascii", length: content.length });
    await ask("load_part", {}, content);
    await ask("load_end", { name, kind });
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

  /** The variables that a fresh child has. */
  #kept(): Set<string> {
    const loaded = [...this.#loaded].filter(([, { kind }]) => kind !== "equipment").map(([name]) => name);
    return new Set([...this.#restored?.names ?? [], ...loaded]);
  }

  /** The variables that cells have made: what a fresh child has not. */
  #unloaded(): string[] {
    const kept = this.#kept();
    return this.#names.filter((name) => !kept.has(name));
  }

  #mourned<Death extends Loss>(session: Session, death: Death): Death {
    death.lost = this.#unloaded();
    death.output = session.head;
    return death;
  }

  /** Read what the child sent; if it may not send that, the child is killed. */
  async #read<Result>(session: Session, read: () => Result | Promise<Result>): Promise<Result> {
    try {
      return await read();
    } catch (error) {
      // what became of the child has its name already
      if (error instanceof SandboxError) throw error;
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
      kept: ran.kept ?? null,
      restored: ran.restored ?? [],
      repeatable: ran.repeatable ?? false,
    };
  }
}

function variableOf(name: string, value: unknown): Variable {
  if (!NAME.test(name) || name.startsWith("__")) {
    throw new TypeError(`${JSON.stringify(name)} is not a name for a variable`);
  }
  if (value instanceof Uint8Array) return { kind: "bytes", content: value.slice() };
  const text = typeof value === "string" ? value : encodeValue(value);
  return { kind: text === value ? "text" : "value", content: new TextEncoder().encode(text) };
}

/** Modules as a JSON text in ASCII, which is how CPython will hold it. */
function equipment(modules: Module[], library: Module[]): Uint8Array<ArrayBuffer> {
  const wellFormed = ([name, source]: Module): Module => [name, source.toWellFormed()];
  const text = JSON.stringify({ library: library.map(wellFormed), modules: modules.map(wellFormed) });
  const escaped = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return new TextEncoder().encode(text.replace(/[^\0-\x7f]/g, escaped));
}
