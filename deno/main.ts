/**
 * The stdio server: JSON-RPC requests in, replies out. The only file that touches stdin and stdout, and the only one
 * that ends the process. `rlm_wasm/sandbox/wire.py` lists the methods.
 *
 * @module
 */

import { ErrorCode, fields, Peer, type Pipe, RpcError } from "./peer.ts";
import type { Form } from "./loading.ts";
import type { Settings } from "./jail_messages.ts";
import { Sandbox, SandboxDead } from "./sandbox.ts";
import { PROTOCOL } from "./wire.ts";

/** Bytes of a part of a checkpoint, if nothing else is asked for. */
const PART = 8 * 1024 * 1024;
/** Where the time of a seeded sandbox begins if nothing else is asked for, in seconds since the epoch: 2026. */
const CLOCK = 1_767_225_600;
const NO_ROOM = "MemoryError: there is no room for it in the sandbox";
type Fields = Record<string, unknown>;
/** Of Node's, with what its types do not know: that a buffer may be asked for. */
type SocketOptions = import("node:net").SocketConstructorOpts;

const began = performance.timeOrigin + performance.now();
// started before anything has been asked: it can do much until it is known what is wanted
const jail = new Sandbox();
let sandbox: Sandbox | null = null;
let initialized = false;

function write(bytes: Uint8Array): void {
  for (let sent = 0; sent < bytes.length;) sent += Deno.stdout.writeSync(bytes.subarray(sent));
}

/**
 * Reading by a thread of its own, as Deno's stdin does, wakes two threads for each message. Where it can, Node's way,
 * by the event loop itself, takes over while the jail boots and nothing comes.
 */
const pipe: Pipe = {
  push: null,
  async read(into) {
    await quicker;
    return pipe.push ? 0 : await Deno.stdin.read(into);
  },
  write,
  // Deno's stdout writes what comes after the last line feed by itself: the host would be woken twice
  end: "\n",
};
let quicker: Promise<void> | null = null;

async function readQuicker(): Promise<void> {
  // what a pipe of Windows needs for it is not to be had
  if (Deno.build.os === "windows") return;
  const { default: net } = await import("node:net");
  pipe.push = (space, filled) => {
    const callback = (count: number) => {
      filled(count);
      return true;
    };
    const stdin = new net.Socket(
      { fd: 0, writable: false, onread: { buffer: space, callback } } as SocketOptions,
    );
    stdin.on("end", () => filled(null));
    stdin.on("error", () => filled(null));
  };
}

const peer = new Peer(pipe, (method, params) => {
  const handler = Object.hasOwn(methods, method) ? methods[method] : undefined;
  if (!handler) throw new RpcError(ErrorCode.methodNotFound, `there is no method ${JSON.stringify(method)}`);
  return handler(params === undefined ? {} : fields(params, "params"));
});

function text(params: Fields, name: string): string {
  const value = params[name];
  if (typeof value === "string") return value;
  throw new RpcError(ErrorCode.invalidParams, `${name}: a string is wanted`);
}

function number(params: Fields, name: string, otherwise: number): number {
  const value = params[name] ?? otherwise;
  if (typeof value === "number" && value > 0) return value;
  throw new RpcError(ErrorCode.invalidParams, `${name}: a number above 0 is wanted`);
}

function whole(params: Fields, name: string, otherwise: number): number {
  const value = number(params, name, otherwise);
  if (Number.isSafeInteger(value)) return value;
  throw new RpcError(ErrorCode.invalidParams, `${name}: a whole number is wanted`);
}

function isName(name: unknown): name is string {
  return typeof name === "string" && /^[A-Za-z_][A-Za-z0-9_]*$/.test(name);
}

function checkProtocol(params: Fields): void {
  if (params.protocol === PROTOCOL) return;
  const message = `this sandbox speaks protocol ${PROTOCOL}, not ${JSON.stringify(params.protocol)}`;
  throw new RpcError(ErrorCode.wrongProtocol, message, { protocol: PROTOCOL });
}

function settings(params: Fields): Settings {
  const functions = params.functions ?? [];
  if (!Array.isArray(functions) || !functions.every(isName)) {
    throw new RpcError(ErrorCode.invalidParams, "functions: a list of Python names is wanted");
  }
  return {
    functions,
    output_chars: whole(params, "output_chars", 10_000),
    output_words: params.output_words == null ? null : whole(params, "output_words", 1),
    output_keep: params.output_keep == null ? "both" : text(params, "output_keep"),
    output_mark: params.output_mark == null ? null : text(params, "output_mark"),
    echo: params.echo !== false,
    memory_mb: params.memory_mb == null ? null : whole(params, "memory_mb", 1),
    seed: params.seed === 0 ? 0 : params.seed == null ? null : whole(params, "seed", 1),
    clock: 1000 * number(params, "clock", CLOCK),
  };
}

function resumesAfter(params: Fields): number | null {
  const cells = params.resumes_after ?? null;
  if (cells === null || (Number.isSafeInteger(cells) && cells as number >= 0)) return cells as number | null;
  throw new RpcError(ErrorCode.invalidParams, "resumes_after: a number of cells is wanted");
}

/** What must fail in a process that holds no permission; in words, what did not. */
async function findPermissions(): Promise<string[]> {
  const holes: string[] = [];
  for (const name of ["read", "write", "net", "env", "run", "ffi", "sys", "import"]) {
    const { state } = Deno.permissions.querySync({ name } as Deno.PermissionDescriptor);
    if (state !== "denied") holes.push(`the permission ${name} is not denied`);
  }
  const attempts: [string, () => unknown][] = [
    ["a file can be read", () => Deno.readFileSync("/")],
    ["a connection can be made", async () => (await Deno.connect({ port: 9 })).close()],
  ];
  for (const [hole, attempt] of attempts) {
    try {
      await attempt();
      holes.push(hole);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotCapable)) holes.push(`${hole} (${(error as Error).name})`);
    }
  }
  return holes;
}

/** Answer with what went wrong, then end: a process whose jail is dead or does not hold serves nobody. */
function endWith(code: number, error: unknown): never {
  queueMicrotask(() => setTimeout(() => Deno.exit(3), 0));
  // the reply may find nobody who waits for it any more
  complain(String((error as Error)?.message ?? error));
  throw new RpcError(code, String((error as Error)?.message ?? error));
}

function required(): Sandbox {
  if (sandbox) return sandbox;
  throw new RpcError(ErrorCode.invalidParams, "initialize first");
}

async function alive<Result>(job: Promise<Result>): Promise<Result> {
  try {
    return await job;
  } catch (error) {
    const unresponsive = error instanceof SandboxDead && error.unresponsive;
    return endWith(unresponsive ? ErrorCode.unresponsive : ErrorCode.died, error);
  }
}

/** What the prelude reports, which a cell may have replaced: if it is no JSON object, the jail is of no more use. */
function report(text: string): Fields {
  try {
    return fields(JSON.parse(text), "a report");
  } catch {
    return endWith(ErrorCode.died, new Error("the interpreter died: its report cannot be read"));
  }
}

/** The only words ever written to stderr: a host that shows the tail of it sees why the process ended. */
function complain(why: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${why.slice(0, 1000)}\n`));
}

const host = {
  async call(request: string): Promise<string> {
    try {
      const reply = fields(await peer.request("call", { request }), "the reply to a call");
      return JSON.stringify({ value: text(reply, "value") });
    } catch (error) {
      const known = error instanceof RpcError ? error : null;
      const limit = known?.code === ErrorCode.limitReached;
      const data = known?.data as Fields | undefined;
      return JSON.stringify({
        kind: limit ? "limit" : "function",
        message: (error as Error).message,
        partial: data?.partial,
        limit: data?.limit,
      });
    }
  },
  printed: (stream: string, text: string) => peer.notify("printed", { stream, text }),
  final: (value: string) => peer.notify("final", { value }),
  spare: (buffer: ArrayBuffer) => peer.recycle(buffer),
  died: (why: string) => {
    complain(why);
    Deno.exit(3);
  },
};

const methods: Record<string, (params: Fields) => unknown> = {
  async initialize(params) {
    checkProtocol(params);
    if (initialized) throw new RpcError(ErrorCode.invalidParams, "initialized already");
    const chosen = settings(params);
    const image = params.image == null ? null : peer.takeBlob(params.image);
    initialized = true;
    try {
      // first, because the jail waits for the image's body, and all else can be done while it boots
      const booted = jail.boot(host, chosen, image, resumesAfter(params));
      booted.catch(() => {});
      quicker = readQuicker();
      const holes = await findPermissions();
      if (holes.length > 0) throw new Error(`the process is not sealed: ${holes.join("; ")}`);
      await booted;
      sandbox = jail;
    } catch (error) {
      return endWith(ErrorCode.notSafe, error);
    }
    const stages = [["Deno and the broker's code", began], ...jail.stages];
    return { protocol: PROTOCOL, deno: Deno.version.deno, v8: Deno.version.v8, stages };
  },
  prepare(params) {
    // what is no head, no WebAssembly, or no archive fails at the boot
    const blob = (name: string) => params[name] == null ? null : peer.takeBlob(params[name]);
    const head = blob("head"), wasm = blob("wasm"), packages = blob("packages");
    if (!initialized) jail.prepare(head, wasm, packages);
  },
  async make_image(params) {
    checkProtocol(params);
    const image = peer.sendBlob(await jail.makeImage());
    return { protocol: PROTOCOL, image };
  },
  async load(params) {
    const kind = text(params, "kind");
    if (!["text", "bytes", "value"].includes(kind)) {
      throw new RpcError(ErrorCode.invalidParams, 'kind: "text", "bytes" or "value" is wanted');
    }
    const inline = params.blob === undefined;
    const bytes = inline ? new TextEncoder().encode(text(params, "text")) : peer.takeBlob(params.blob);
    if (await alive(required().load(text(params, "name"), kind, bytes))) return {};
    throw new RpcError(ErrorCode.invalidParams, NO_ROOM);
  },
  async load_begin(params) {
    const form = text(params, "form");
    if (!["ascii", "latin1", "ucs2", "ucs4", "bytes"].includes(form)) {
      const wanted = 'form: "ascii", "latin1", "ucs2", "ucs4" or "bytes" is wanted';
      throw new RpcError(ErrorCode.invalidParams, wanted);
    }
    const length = params.length === 0 ? 0 : whole(params, "length", 0);
    if (await alive(required().loadBegin(form as Form, length))) return {};
    throw new RpcError(ErrorCode.invalidParams, NO_ROOM);
  },
  async load_part(params) {
    if (await alive(required().loadPart(peer.takeBlob(params.blob)))) return {};
    throw new RpcError(ErrorCode.invalidParams, "more bytes than were announced, or none were");
  },
  async load_end(params) {
    const wrong = await alive(required().loadEnd(text(params, "name"), text(params, "kind")));
    if (wrong === null) return {};
    throw new RpcError(ErrorCode.invalidParams, wrong.slice(0, 1000));
  },
  async execute(params) {
    const outcome = await alive(required().execute(text(params, "code"), number(params, "timeout", 60)));
    return { ...report(outcome.result), timed_out: outcome.timedOut, seconds: outcome.seconds };
  },
  async get(params) {
    const reply = report(await alive(required().get(text(params, "name"))));
    if ("error" in reply) throw new RpcError(ErrorCode.invalidParams, String(reply.error));
    return reply;
  },
  async checkpoint_begin() {
    const { result, part } = await alive(required().beginCheckpoint());
    const begun = report(result);
    if ("error" in begun) throw new RpcError(ErrorCode.invalidParams, String(begun.error).slice(0, 1000));
    if (!part) {
      return endWith(ErrorCode.died, new Error("the interpreter died: its checkpoint cannot be read"));
    }
    return { ...begun, cells: required().cells, blob: peer.sendBlob(part) };
  },
  async checkpoint_part(params) {
    const offset = params.offset === 0 ? 0 : whole(params, "offset", 0);
    const part = await alive(required().checkpointPart(offset, whole(params, "length", PART)));
    if (!part) throw new RpcError(ErrorCode.invalidParams, "no checkpoint has begun");
    return { blob: peer.sendBlob(part) };
  },
  async checkpoint_end() {
    await alive(required().endCheckpoint());
    return {};
  },
  interrupt: () => required().interrupt(),
  ping: () => ({}),
  shutdown: () => void setTimeout(() => Deno.exit(0), 0),
};

try {
  await peer.serve();
  Deno.exit(0);
} catch (error) {
  complain((error as Error).message);
  Deno.exit(2);
}
