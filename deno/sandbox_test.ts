// What the broker decides and the jail may not do, seen from outside: through a sealed child, because in this process,
// where code can be made from strings, no jail holds.
import assert from "node:assert/strict";
import { Child } from "./child.ts";
import { ErrorCode, Peer, RpcError } from "./peer.ts";
import { Session } from "./session.ts";
import { PROTOCOL } from "./wire.ts";

/** Beyond boot, in MB: little, so that a memory bomb ends soon. */
const MEMORY_MB = 128;
const WITHIN = 90_000;

interface Ran {
  output: [string, string][];
  error: string | null;
  timed_out: boolean;
}

let image: Promise<Uint8Array<ArrayBuffer>> | undefined;

/** One image serves all tests of this file. */
function makeImage(): Promise<Uint8Array<ArrayBuffer>> {
  const options = { functions: new Map(), memoryMb: MEMORY_MB, outputChars: 1, deno: Deno.execPath() };
  return image ??= Session.makeImage(options);
}

/** A child that has booted a jail, and the peer that speaks with it. */
class Jail implements AsyncDisposable {
  #child: Child;
  #peer: Peer;
  #served: Promise<void>;
  /** Characters that were told as printed, from the beginning. */
  printed = 0;
  /** Answers the calls of cells; both texts are JSON. */
  answer: (request: string) => string | Promise<string> = () => "null";

  private constructor(child: Child) {
    this.#child = child;
    this.#peer = new Peer(child, async (method, params) => {
      const { text, request } = params as Record<string, string>;
      if (method === "printed") this.printed += text!.length;
      return method === "call" ? { value: await this.answer(request!) } : null;
    });
    this.#served = this.#peer.serve();
  }

  static async booted(functions: string[] = []): Promise<Jail> {
    const content = await makeImage();
    const jail = await Jail.spawned();
    const params = {
      protocol: PROTOCOL,
      functions,
      output_chars: 10_000,
      image: jail.#peer.sendBlob(content),
    };
    await jail.ask("initialize", params);
    return jail;
  }

  static async spawned(): Promise<Jail> {
    return new Jail(await Child.spawn(Deno.execPath(), MEMORY_MB));
  }

  /** Boot it from an image of which the head comes first, and no more than the head. */
  async boot(head: Uint8Array<ArrayBuffer>): Promise<unknown> {
    this.#peer.notify("prepare", { head: this.#peer.sendBlob(head) });
    const image = this.#peer.sendBlob(new Uint8Array());
    return await this.ask("initialize", { protocol: PROTOCOL, functions: [], output_chars: 100, image });
  }

  async ask(method: string, params: unknown = {}): Promise<unknown> {
    return await this.#peer.request(method, params);
  }

  async execute(code: string, timeout = 60): Promise<Ran> {
    return await this.ask("execute", { code, timeout }) as Ran;
  }

  interrupt(): void {
    this.#peer.notify("interrupt", {});
  }

  async output(code: string): Promise<string> {
    const { output, error } = await this.execute(code);
    assert.equal(error, null);
    return output.map(([, text]) => text).join("");
  }

  /** The exit code and what was written to stderr, when it has ended. */
  async end(): Promise<[number, string]> {
    await this.#served;
    return [(await this.#child.ended).code, this.#child.stderrTail];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.close();
    await this.#served.catch(() => {});
  }
}

async function refused(job: Promise<unknown>, code: number, message: RegExp): Promise<void> {
  const error = await job.then(() => assert.fail("it was not refused"), (error) => error);
  assert.ok(error instanceof RpcError, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(error.message, message);
}

function test(name: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  Deno.test({ name, timeout: WITHIN, fn });
}

test("what is prepared and is no image is refused at the boot", async () => {
  for (const head of [0, 3, 24, 100]) {
    await using jail = await Jail.spawned();
    await refused(jail.boot(new Uint8Array(head)), ErrorCode.notSafe, /no image/);
    assert.equal((await jail.end())[0], 3);
  }
});

test("a cell that owns its realm has nothing in it", async (t) => {
  await using jail = await Jail.booted();
  await jail.output(`
import os, socket, subprocess, urllib.request
import js, pyodide_js
from pyodide.ffi import to_js

Object = pyodide_js.constructor
Function = to_js([]).constructor.constructor
AsyncFunction = Object.getPrototypeOf(pyodide_js.loadPackage).constructor

def run_js():
    from pyodide.code import run_js
    return run_js("1")

def eval_js():
    from js import eval
    return eval("1")

def micropip():
    import micropip

def attempt(action):
    try:
        print("it gave", action())
    except BaseException as error:
        print(type(error).__name__)
`);
  const attempts: Record<string, RegExp> = {
    "lambda: js.Deno": /^AttributeError$/,
    "lambda: js.process": /^AttributeError$/,
    "lambda: js.fetch": /^AttributeError$/,
    "lambda: js.globalThis": /^AttributeError$/,
    "run_js": /^ImportError$/,
    "eval_js": /^ImportError$/,
    "lambda: Function('return globalThis')()": /^JsException$/,
    "lambda: AsyncFunction('return import(\"node:fs\")')()": /^JsException$/,
    "lambda: setattr(Function.prototype, 'call', None)": /^JsException$/,
    "lambda: pyodide_js.mountNodeFS('/host', '/')": /^JsException$/,
    "lambda: open('/etc/passwd').read()": /^FileNotFoundError$/,
    "lambda: open('/proc/self/environ').read()": /^FileNotFoundError$/,
    "lambda: urllib.request.urlopen('http://127.0.0.1:9')": /^URLError$/,
    "lambda: socket.create_connection(('127.0.0.1', 9))": /Error$/,
    "lambda: subprocess.run(['true'])": /^OSError$/,
    "lambda: os.popen('true').read()": /Error$/,
    "lambda: os.system('true')": /Error$|^it gave -1$/,
    "micropip": /^ModuleNotFoundError$/,
    "input": /^EOFError$/,
    "lambda: [name for name in os.environ if 'DENO' in name or name == 'NO_COLOR']": /^it gave \[\]$/,
  };
  for (const [action, said] of Object.entries(attempts)) {
    await t.step(action, async () => {
      assert.match((await jail.output(`attempt(${action})`)).trim(), said);
    });
  }
  await t.step("exit, quit and os._exit end the cell and not the process", async () => {
    for (const code of ["exit()", "quit(3)", "os._exit(3)", "os.abort()", "raise SystemExit"]) {
      assert.match((await jail.execute(code)).error!, /SystemExit/);
    }
  });
  await t.step("a memory bomb is a MemoryError, and the variables are kept", async () => {
    await jail.execute("kept = 3");
    assert.match((await jail.execute("bomb = b'x' * (2 ** 31 - 100)")).error!, /MemoryError/);
    assert.match(
      (await jail.execute("bomb = []\nwhile True: bomb.append(bytearray(1 << 24))")).error!,
      /Memory/,
    );
    assert.equal(await jail.output("del bomb\nprint(kept)"), "3\n");
  });
  await t.step("nothing of a cell reached stderr", async () => {
    await jail.execute("import sys\nprint('x', file=sys.__stderr__)\nprint('y', file=sys.__stdout__)");
    await jail.ask("shutdown");
    assert.deepEqual(await jail.end(), [0, ""]);
  });
});

test("a cell that swallows its interrupt is answered for, and the process ends", async () => {
  await using jail = await Jail.booted();
  const code = "while True:\n    try:\n        while True: pass\n    except BaseException: pass";
  await refused(
    jail.execute(code, 0.1),
    ErrorCode.unresponsive,
    /did not end within 2 s of its interrupt at 0.1 s/,
  );
  assert.equal((await jail.end())[0], 3);
});

test("an interpreter that dies is answered for, with all that waited, and the process ends", async () => {
  await using jail = await Jail.booted();
  const code = "import sys\nsys.setrecursionlimit(10 ** 7)\ndef deeper(): return deeper()\ndeeper()";
  const asked = [jail.execute(code), jail.ask("get", { name: "x" })];
  for (const job of asked) await refused(job, ErrorCode.died, /./);
  assert.equal((await jail.end())[0], 3);
});

test("emscripten's own eval is the interpreter's end, and nothing is evaluated", async () => {
  await using jail = await Jail.booted();
  const code = "import ctypes\nctypes.CDLL(None).emscripten_run_script(b'1')";
  await refused(jail.execute(code), ErrorCode.died, /eval is not defined/);
  assert.equal((await jail.end())[0], 3);
});

test("a cell that floods the pipe is ended", async () => {
  await using jail = await Jail.booted();
  const code = "import rlm_prelude\nwhile True: rlm_prelude.Bridge.emit('stdout', 'x' * 10_000)";
  await refused(jail.execute(code), ErrorCode.died, /more than a cell may print/);
  assert.ok(jail.printed <= 20_000);
});

test("a flood of messages that say nothing holds up no deadline", async () => {
  for (const flood of ["emit('stdout', '')", "finish('1')", "wake(1)"]) {
    await using jail = await Jail.booted();
    const code = `import rlm_prelude, rlm_threads
finish, emit = rlm_prelude.Bridge.finish, rlm_prelude.Bridge.emit
wake = rlm_threads.Waits.wake
while True: ${flood}`;
    try {
      assert.ok((await jail.execute(code, 0.5)).timed_out, flood);
    } catch (error) {
      assert.match(String(error), /more than a cell may print|did not end within/, flood);
    }
  }
});

test("what the jail posts in a shape that nobody expects ends the sandbox and nothing else", async () => {
  await using jail = await Jail.booted();
  const code = `
import rlm_prelude
import pyodide_js
from pyodide.ffi import to_js
unspeakable = to_js({"toString": 1, "valueOf": 1}, dict_converter=pyodide_js.constructor.fromEntries)
rlm_prelude.Bridge.emit(unspeakable, "x")
while True: pass
`;
  await refused(jail.execute(code), ErrorCode.died, /cannot be passed on/);
  assert.equal((await jail.end())[0], 3);
});

test("a cell that replaces what reports about cells ends the sandbox and nothing else", async () => {
  for (const report of ["'garbage'", "'5'", "None"]) {
    await using jail = await Jail.booted();
    const code = `import rlm_prelude\nrlm_prelude.run_cell = lambda *_: ${report}`;
    await jail.output(code);
    await refused(jail.execute("1"), ErrorCode.died, /report cannot be read/);
    assert.equal((await jail.end())[0], 3);
  }
});

test("an interrupt is not lost at whatever moment of its cell's start it comes", async () => {
  await using jail = await Jail.booted();
  for (let round = 0; round < 100; round++) {
    const running = jail.execute("while True: pass");
    jail.interrupt();
    const { error, timed_out } = await running;
    assert.match(error!, /KeyboardInterrupt$/);
    assert.equal(timed_out, false);
  }
});

test("a cell that swallows its first interrupt is sent a second, and its variables are kept", async () => {
  await using jail = await Jail.booted();
  const code =
    "kept = 0\ntry:\n    while True: pass\nexcept KeyboardInterrupt:\n    kept = 1\nwhile True: pass";
  const { error, timed_out } = await jail.execute(code, 0.1);
  assert.match(error!, /KeyboardInterrupt$/);
  assert.equal(timed_out, true);
  assert.equal(await jail.output("print(kept)"), "1\n");
});

test("a cell that the host interrupts and that swallows it is ended too", async () => {
  await using jail = await Jail.booted(["started"]);
  const started = Promise.withResolvers<void>();
  jail.answer = () => {
    started.resolve();
    return "null";
  };
  const code =
    "while True:\n    try:\n        started()\n        while True: pass\n    except BaseException: pass";
  const running = jail.execute(code);
  const ended = refused(running, ErrorCode.unresponsive, /did not end within 2 s of its interrupt$/);
  await started.promise;
  jail.interrupt();
  await ended;
  assert.equal((await jail.end())[0], 3);
});

test("a cell that waits in one thread and computes in another is out of time all the same", async () => {
  await using jail = await Jail.booted(["slow"]);
  jail.answer = () => new Promise(() => {});
  const code = "import threading\nthreading.Thread(target=slow, daemon=True).start()\nwhile True: pass";
  assert.equal((await jail.execute(code, 0.3)).timed_out, true);
});

test("what a cell left running is over when it has returned", async () => {
  await using jail = await Jail.booted(["tell"]);
  const told: string[] = [];
  jail.answer = (request) => {
    told.push(request);
    return "null";
  };
  await jail.execute(`
import asyncio
async def forever():
    while True:
        await asyncio.sleep(0)
        tell()
task = asyncio.ensure_future(forever())
await asyncio.sleep(0)
`);
  const before = told.length;
  assert.equal(await jail.output("print(task.cancelled() or task.cancelling() > 0)"), "True\n");
  assert.equal(told.length, before);
});
