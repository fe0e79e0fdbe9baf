import assert from "node:assert/strict";
import { type Executed, Sandbox, SandboxCrashed, SandboxError, type SandboxOptions } from "./mod.ts";
import { FunctionError, ProtocolError, SandboxStartError, SandboxTimeout } from "./mod.ts";

/** In milliseconds, for one test. */
const WITHIN = 90_000;

let image: Promise<Uint8Array<ArrayBuffer>> | undefined;

/** A sandbox from an image that serves all tests of this file, with little memory. */
async function open(options: SandboxOptions = {}): Promise<Sandbox> {
  image ??= Sandbox.makeImage();
  return await Sandbox.open({ memoryMb: 128, image: await image, ...options });
}

function test(name: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  Deno.test({ name, timeout: WITHIN, sanitizeOps: true, sanitizeResources: true, fn });
}

function said(run: Executed): string {
  assert.equal(run.error, null);
  return run.stdout;
}

/** A folder for temporary files that only this test has; `names` are those of what is in it. */
class OwnFolder implements AsyncDisposable {
  readonly path = Deno.makeTempDirSync();
  #before = Deno.env.get("TMPDIR");

  constructor() {
    Deno.env.set("TMPDIR", this.path);
  }

  names(): string[] {
    return Array.from(Deno.readDirSync(this.path), (entry) => entry.name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#before === undefined) Deno.env.delete("TMPDIR");
    else Deno.env.set("TMPDIR", this.#before);
    await Deno.remove(this.path, { recursive: true });
  }
}

/** The processes that this one has started and that still run; Linux tells them by thread. */
function children(): string[] {
  const threads = Array.from(Deno.readDirSync("/proc/self/task"), (entry) => entry.name);
  return threads.flatMap((thread) => Deno.readTextFileSync(`/proc/self/task/${thread}/children`).split(" "))
    .filter(Boolean);
}

/** A program that takes Deno's place: a shell script of one line. */
async function pretender(line: string): Promise<string> {
  const path = await Deno.makeTempFile({ prefix: "pretender-" });
  await Deno.writeTextFile(path, `#!/bin/sh\n${line}\n`);
  await Deno.chmod(path, 0o700);
  return path;
}

test("a sandbox loads, executes, is asked for a variable and closed", async () => {
  await using sandbox = await open();
  await sandbox.load({
    context: "one\ntwo",
    raw: Uint8Array.of(0, 255),
    rest: { a: [1, 2.5, null], b: new Set([1n]) },
  });
  const run = await sandbox.execute(
    "print(len(context.splitlines()), raw, rest)\ntotal = 2 ** 64\n{1: total}",
  );
  assert.equal(run.stdout, "2 b'\\x00\\xff' {'a': [1, 2.5, None], 'b': {1}}\n{1: 18446744073709551616}\n");
  assert.equal(run.stderr, "");
  assert.equal(run.output, run.stdout);
  assert.equal(run.error, null);
  assert.deepEqual(run.value, new Map([[1, 2n ** 64n]]));
  assert.deepEqual(run.names, ["context", "raw", "rest", "total"]);
  assert.deepEqual([run.hasFinal, run.final, run.timedOut, run.truncated, run.lost], [
    false,
    null,
    false,
    0,
    [],
  ]);
  assert.deepEqual(await sandbox.get("rest"), { a: [1, 2.5, null], b: new Set([1]) });
  assert.equal(await sandbox.get("total"), 2n ** 64n);
});

test("a mistake in a cell is text and never an exception", async () => {
  await using sandbox = await open();
  const run = await sandbox.execute("import sys\nkept = 1\nprint('before', file=sys.stderr)\nunknown");
  assert.match(run.error!, /NameError: name 'unknown' is not defined/);
  assert.equal(run.stderr, "before\n");
  assert.match((await sandbox.execute("def")).error!, /SyntaxError/);
  assert.equal(said(await sandbox.execute("print(kept)")), "1\n");
});

test("FINAL's value arrives as a value, and None is told from nothing", async () => {
  await using sandbox = await open();
  const run = await sandbox.execute("FINAL(('a', 1))\nFINAL('the second does not count')");
  assert.deepEqual([run.hasFinal, run.final], [true, ["a", 1]]);
  const none = await sandbox.execute("FINAL(None)");
  assert.deepEqual([none.hasFinal, none.final], [true, null]);
  assert.equal((await sandbox.execute("1")).hasFinal, false);
});

test("host functions are called with values, and keyword arguments come last as an object", async () => {
  const calls: unknown[][] = [];
  const functions = {
    note: (...args: unknown[]) => void calls.push(args),
    later: async (n: unknown) => {
      await Promise.resolve();
      return [n, new Set([n]), new Map([[n, Uint8Array.of(1)]])];
    },
  };
  await using sandbox = await open({ functions });
  assert.equal(
    said(await sandbox.execute("print(note(1, 'a', (b'x',)), note(), note(2, k=None))\nprint(later(7))")),
    "None None None\n[7, {7}, {7: b'\\x01'}]\n",
  );
  assert.deepEqual(calls, [[1, "a", [Uint8Array.of(120)]], [], [2, { k: null }]]);
});

test("a host function that throws is an exception in the cell, and tells no more than it may", async () => {
  const functions = {
    careless: () => {
      throw new TypeError("the key is sk-123");
    },
    careful: () => Promise.reject(new FunctionError("there is no such word")),
    wild: () => {
      throw "sk-123";
    },
    unsendable: () => () => {},
  };
  await using sandbox = await open({ functions });
  const code = Object.keys(functions).map((name) =>
    `try:\n    ${name}()\nexcept FunctionError as error:\n    print(error)`
  ).join("\n");
  assert.equal(
    said(await sandbox.execute(code)),
    "careless: TypeError\ncareful: there is no such word\nwild: string\nunsendable: TypeError\n",
  );
});

test("only the functions that were given can be called, whatever a cell asks for", async () => {
  const calls: unknown[] = [];
  await using sandbox = await open({ functions: { given: () => void calls.push("given") } });
  const code = `
import json, rlm_prelude
for request in ['["toString",[],{}]', '["__proto__",[],{}]', '["given",5,{}]', '["given",[],null]', '[]', '5', '{']:
    print("value" in json.loads(rlm_prelude.wait(rlm_prelude.Bridge.call(request))))
`;
  assert.equal(said(await sandbox.execute(code)), "False\n".repeat(7));
  assert.deepEqual(calls, []);
  assert.match((await sandbox.execute("toString()")).error!, /NameError/);
});

test("what is printed is cut to size", async () => {
  await using sandbox = await open({ outputChars: 100 });
  const run = await sandbox.execute("print('a' * 1000)");
  assert.equal(run.truncated, 901);
  assert.ok(run.stdout.length < 200 && run.stdout.startsWith("aaa"));
});

test("a cell out of time is interrupted, and its variables are kept", async () => {
  await using sandbox = await open({ timeout: 0.2 });
  const run = await sandbox.execute("kept = 1\nwhile True: pass");
  assert.equal(run.timedOut, true);
  assert.match(run.error!, /KeyboardInterrupt\n\(the cell ran out of time/);
  assert.equal(said(await sandbox.execute("print(kept)", { timeout: 30 })), "1\n");
});

test("a cell that swallows its interrupt is a SandboxTimeout, and the next runs in a fresh child", async () => {
  await using sandbox = await open();
  await sandbox.load({ context: "loaded" });
  said(await sandbox.execute("made = 1"));
  const code =
    "print('head')\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass";
  await assert.rejects(sandbox.execute(code, { timeout: 0.1 }), (error) => {
    assert.ok(error instanceof SandboxTimeout && error instanceof SandboxError, String(error));
    assert.deepEqual([error.seconds, error.lost, error.output], [0.1, ["made"], "head\n"]);
    return true;
  });
  const run = await sandbox.execute("print(context, 'made' in globals())");
  assert.equal(said(run), "loaded False\n");
  assert.deepEqual(run.lost, ["made"]);
  assert.deepEqual((await sandbox.execute("1")).lost, []);
});

test("an interpreter that dies is a SandboxCrashed, and what waited behind it runs in a fresh child", async () => {
  await using sandbox = await open();
  await sandbox.load({ context: "loaded" });
  const code = "import sys\nsys.setrecursionlimit(10 ** 7)\ndef deeper(): return deeper()\ndeeper()";
  const crashed = assert.rejects(sandbox.execute(code), SandboxCrashed);
  const behind = sandbox.execute("print(context)");
  await crashed;
  assert.equal(said(await behind), "loaded\n");
});

test("a child that ends between two calls is replaced, and what is lost is named", async () => {
  await using sandbox = await open({ functions: { note: () => null } });
  await sandbox.load({ context: "loaded" });
  said(await sandbox.execute("made = 1"));
  if (Deno.build.os !== "linux") return;
  const [pid] = children();
  Deno.kill(Number(pid), "SIGKILL");
  const run = await sandbox.execute("print(context)").catch((error) => {
    // its end may not have been noticed yet
    assert.ok(error instanceof SandboxCrashed);
    return sandbox.execute("print(context)");
  });
  assert.equal(said(run), "loaded\n");
  assert.deepEqual(run.lost, ["made"]);
});

test("an interrupt ends the cell that runs, its variables are kept, and between cells it does nothing", async () => {
  const asked = Promise.withResolvers<void>();
  const functions = {
    forever: () => {
      asked.resolve();
      return new Promise(() => {});
    },
  };
  await using sandbox = await open({ functions });
  sandbox.interrupt();
  const waiting = sandbox.execute("kept = 1\nforever()");
  await asked.promise;
  sandbox.interrupt();
  const run = await waiting;
  assert.match(run.error!, /KeyboardInterrupt$/);
  assert.equal(run.timedOut, false);
  sandbox.interrupt();
  assert.equal(said(await sandbox.execute("print(kept)")), "1\n");
});

test("equipment is there before any cell, in a fresh child too, and is put back when it is overwritten", async () => {
  await using sandbox = await open({ functions: { ask: (text) => `${text}!` } });
  const library = "def twice(text): return 2 * text";
  const source =
    "import rlm_host, parts\n__all__ = ['shout']\ndef shout(text): return rlm_host.ask(parts.twice(text))";
  await sandbox.equip([["voice", `# \u00e9 \u{1f600}\n${source}`]], [["parts", library]]);
  assert.equal(said(await sandbox.execute("print(shout('a'))")), "aa!\n");
  const run = await sandbox.execute("shout = 1");
  assert.deepEqual(run.restored, ["shout"]);
  await sandbox.execute("import ctypes\nctypes.CDLL(None).emscripten_run_script(b'1')").catch(() => {});
  const after = await sandbox.execute("print(shout('b'))");
  assert.equal(said(after), "bb!\n");
  assert.deepEqual(after.names, []);
  await assert.rejects(sandbox.equip([["broken", "1 / 0"]]), {
    name: "SandboxError",
    message: /ZeroDivisionError/,
  });
  await sandbox.equip([]);
});

test("two sandboxes of one seed do the same, and the clock begins where it is said", async () => {
  const code = "import random, time, uuid\n[random.random(), str(uuid.uuid4()), int(time.time())]";
  const value = async (options: SandboxOptions) => {
    await using sandbox = await open(options);
    return (await sandbox.execute(code)).value as unknown[];
  };
  const one = await value({ seed: 0, clock: 1_800_000_000 });
  assert.equal(one[2], 1_800_000_000);
  assert.deepEqual(await value({ seed: 0, clock: 1_800_000_000 }), one);
  const other = await value({ seed: 8 });
  assert.notEqual(other[0], one[0]);
  assert.equal(other[2], 1_767_225_600);
});

test("a variable that does not exist or cannot be sent is an error that says so", async () => {
  await using sandbox = await open();
  await sandbox.execute("unsendable = object()");
  await assert.rejects(sandbox.get("nothing"), ReferenceError);
  await assert.rejects(sandbox.get("unsendable"), TypeError);
});

test("calls run one after the other", async () => {
  await using sandbox = await open();
  const runs = await Promise.all(
    [1, 2, 3].map((n) => sandbox.execute(`order = globals().get('order', '') + '${n}'`)),
  );
  assert.deepEqual(runs.map((run) => run.error), [null, null, null]);
  assert.equal(await sandbox.get("order"), "123");
});

test("a caller's own mistake is a TypeError or a RangeError", async () => {
  await assert.rejects(Sandbox.open({ functions: { "no name": () => {} } }), TypeError);
  await assert.rejects(Sandbox.open({ memoryMb: 5000 }), RangeError);
  await assert.rejects(Sandbox.open({ memoryMb: 0 }), RangeError);
  await assert.rejects(Sandbox.open({ outputChars: 1.5 }), RangeError);
  await assert.rejects(Sandbox.open({ timeout: Infinity }), RangeError);
  await assert.rejects(Sandbox.open({ seed: -1 }), RangeError);
  await assert.rejects(Sandbox.open({ clock: 1 }), RangeError);
  await using sandbox = await open();
  await assert.rejects(sandbox.execute("1", { timeout: NaN }), RangeError);
  await assert.rejects(sandbox.load({ "no name": 1 }), TypeError);
  await assert.rejects(sandbox.load({ __builtins__: 1 }), TypeError);
  await assert.rejects(sandbox.load({ f: () => {} }), TypeError);
  await assert.rejects(sandbox.execute(" ".repeat(64 * 1024 * 1024)), RangeError);
  assert.equal(said(await sandbox.execute("print(1)")), "1\n");
});

test("closing ends what runs, and nothing can be asked afterwards", async () => {
  const asked = Promise.withResolvers<void>();
  const functions = {
    forever: () => {
      asked.resolve();
      return new Promise(() => {});
    },
  };
  const sandbox = await open({ functions });
  const running = assert.rejects(sandbox.execute("forever()"), { name: "SandboxError", message: /closed/ });
  const behind = assert.rejects(sandbox.execute("1"), { name: "SandboxError", message: /closed/ });
  await asked.promise;
  await sandbox.close();
  await running;
  await behind;
  await assert.rejects(sandbox.get("x"), { name: "SandboxError", message: /closed/ });
  await sandbox.close();
});

test("neither a closed sandbox nor a dead child leaves a process or a folder behind", async () => {
  await using folder = new OwnFolder();
  const sandbox = await open();
  const mine = folder.names();
  assert.equal(mine.length, 1);
  await sandbox.execute("import ctypes\nctypes.CDLL(None).emscripten_run_script(b'1')").catch(() => {});
  said(await sandbox.execute("print(1)"));
  const next = folder.names();
  assert.equal(next.length, 1);
  assert.notDeepEqual(next, mine);
  if (Deno.build.os === "linux") assert.equal(children().length, 1);
  await sandbox.close();
  assert.deepEqual(folder.names(), []);
  if (Deno.build.os === "linux") assert.deepEqual(children(), []);
});

test("a sandbox starts without an image too", async () => {
  await using sandbox = await Sandbox.open({ memoryMb: 128 });
  assert.equal(said(await sandbox.execute("print(1)")), "1\n");
});

test("what does not start is a SandboxStartError that says why, and leaves no folder behind", async () => {
  await using folder = new OwnFolder();
  const mistakes: [SandboxOptions, RegExp][] = [
    [{ deno: "/nowhere/deno" }, /\/nowhere\/deno could not be started/],
    [{ image: new TextEncoder().encode("no image") }, /did not start: no image/],
  ];
  if (Deno.build.os !== "windows") {
    mistakes.push(
      [{ deno: await pretender("echo not today >&2; exit 7") }, /exit code 7: not today/],
      [{ deno: await pretender("echo hello; exec cat >/dev/null") }, /./],
      [
        { deno: await pretender("printf 'Content-Length: x\\r\\n\\r\\n'; exec cat >/dev/null") },
        /not a number: "x"/,
      ],
    );
  }
  for (const [options, message] of mistakes) {
    await assert.rejects(Sandbox.open(options), (error) => {
      assert.ok(error instanceof SandboxStartError, String(error));
      assert.match(error.message, message);
      return true;
    });
    if (options.deno?.includes("pretender")) await Deno.remove(options.deno);
  }
  assert.deepEqual(folder.names(), []);
});

test("a child that lies is a ProtocolError, and is killed", async () => {
  if (Deno.build.os === "windows") return;
  const frame = (message: object) => {
    const body = JSON.stringify({ jsonrpc: "2.0", ...message });
    return `printf '%s\\r\\n\\r\\n%s' 'Content-Length: ${body.length}' '${body}'`;
  };
  const greeting = frame({ id: 1, result: { protocol: 1, deno: "", v8: "" } });
  const ran = { output: [], truncated: 0, error: null, value: null, names: [], timed_out: false, seconds: 0 };
  const lies: [string, RegExp][] = [
    [frame({ id: 2, result: {} }), /not a reply to execute/],
    [frame({ id: 2, result: [] }), /not a reply to execute/],
    [frame({ id: 2, result: "done" }), /is no object/],
    [frame({ id: 2, result: { ...ran, output: [["stdout"]] } }), /not a reply to execute/],
    [frame({ id: 2, result: { ...ran, value: '{"$nothing":1}' } }), /there is no tag/],
    [frame({ id: 9, result: ran }), /nothing that was asked/],
    [frame({ method: "told" }), /notification that does not exist/],
    ["printf 'Traceback (most recent call last):\\r\\n\\r\\n'", /Content-Length/],
    ["printf 'Content-Length: 99999999\\r\\n\\r\\n'", /too large/],
    [
      "printf 'Content-Length: 1\\r\\nContent-Type: application/octet-stream\\r\\nContent-Id: 1\\r\\n\\r\\nx'",
      /a blob of 1 bytes where at most 0/,
    ],
  ];
  for (const [lie, message] of lies) {
    const deno = await pretender(`${greeting}\nread line; read line; read line; ${lie}\nexec cat >/dev/null`);
    await using sandbox = await Sandbox.open({ deno });
    await assert.rejects(sandbox.execute("1"), (error) => {
      assert.ok(error instanceof ProtocolError, `${lie}: ${error}`);
      assert.match(error.message, message);
      return true;
    });
    await Deno.remove(deno);
  }
});

test("the caller's process needs permission to run Deno and to write temporary files, and no other", async () => {
  const program = `
    import { Sandbox } from "${new URL("./mod.ts", import.meta.url)}";
    await using sandbox = await Sandbox.open({ memoryMb: 128 });
    const { stdout } = await sandbox.execute("print('held')");
    await Deno.stdout.write(new TextEncoder().encode(stdout));
  `;
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/program.ts`, program);
  const command = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-prompt", "--no-check", "--quiet", "--no-config", "--no-lock"],
      ...[`--allow-run=${Deno.execPath()}`, `--allow-write=${Deno.env.get("TMPDIR") ?? "/tmp"}`],
      `${folder}/program.ts`,
    ],
    env: { NO_COLOR: "1" },
  });
  const { stdout, stderr } = await command.output();
  await Deno.remove(folder, { recursive: true });
  assert.equal(new TextDecoder().decode(stderr), "");
  assert.equal(new TextDecoder().decode(stdout), "held\n");
});
