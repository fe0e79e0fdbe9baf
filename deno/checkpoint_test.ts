import assert from "node:assert/strict";
import {
  Checkpoint,
  ProtocolError,
  Sandbox,
  SandboxCrashed,
  SandboxError,
  type SandboxOptions,
} from "./mod.ts";

/** In milliseconds, for one test. */
const WITHIN = 90_000;
const STATE = `
import random
random.seed(5)
class Launch:
    total = 0
    def __init__(self, name):
        self.name = name
        Launch.total += 1
def numbers():
    for number in range(10):
        received = yield number
        if received: yield received
launches = [Launch("a"), Launch("b")]
launches.append(launches)
generator = numbers()
next(generator)
asked = ask("a")
file = open("/tmp/notes", "w+")
file.write("kept")
x = 1
`;
const LOOK = `
assert launches[2] is launches and Launch.total == 2 and type(launches[0]) is Launch
file.seek(0)
print(generator.send("here"), asked, ask("b"), file.read(), len(context), random.random(), x)
`;

let image: Promise<Uint8Array<ArrayBuffer>> | undefined;
let taken: Promise<Checkpoint> | undefined;

function ask(text: unknown): string {
  return String(text).toUpperCase();
}

/** What the sandboxes of this file are started with: an image that serves all, and little memory. */
async function options(chosen: SandboxOptions = {}): Promise<SandboxOptions> {
  image ??= Sandbox.makeImage();
  return { memoryMb: 128, image: await image, functions: { ask }, ...chosen };
}

/** A checkpoint that nobody changes, of a sandbox with a context that has run a cell. */
function checkpoint(): Promise<Checkpoint> {
  taken ??= (async () => {
    await using sandbox = await Sandbox.open(await options());
    await sandbox.load({ context: "ab".repeat(1_000_000) });
    await said(sandbox, STATE);
    return await sandbox.checkpoint();
  })();
  return taken;
}

async function said(sandbox: Sandbox, code: string): Promise<string> {
  const run = await sandbox.execute(code);
  assert.equal(run.error, null);
  return run.stdout;
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, timeout: WITHIN, fn });
}

/** A copy of a checkpoint in which some facts are others. */
function changed(whole: Checkpoint, facts: Partial<Checkpoint>): Checkpoint {
  return new Checkpoint({ ...whole, ...facts }, facts.header ?? whole.header, facts.body ?? whole.body);
}

test("everything in memory survives, and both sandboxes go on", async () => {
  await using sandbox = await Sandbox.open(await options());
  await sandbox.load({ context: "ab".repeat(1_000_000) });
  await said(sandbox, STATE);
  const taken = await sandbox.checkpoint();
  assert.equal(taken.cells, 1);
  assert.deepEqual(taken.functions, ["ask"]);
  assert.ok(taken.names.includes("launches") && taken.names.includes("context"), taken.names.join());
  await using restored = await Sandbox.restore(taken, await options());
  const here = await said(sandbox, LOOK);
  assert.match(here, /^here A B kept 2000000 0\.\d+ 1\n$/);
  assert.equal(await said(restored, LOOK), here);
  assert.match((await restored.execute("unknown")).error!, /<cell 3>/);
});

test("a checkpoint goes through a file, which is nobody else's", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/half-way.checkpoint`;
  const whole = await checkpoint();
  await whole.save(path);
  await whole.save(path);
  assert.deepEqual(Array.from(Deno.readDirSync(folder), ({ name }) => name), ["half-way.checkpoint"]);
  const { mode, size } = await Deno.stat(path);
  if (Deno.build.os !== "windows") assert.equal(mode! & 0o777, 0o600);
  assert.ok(size < whole.size / 2);
  const loaded = await Checkpoint.load(path);
  assert.deepEqual({ ...loaded }, { ...whole });
  await using restored = await Sandbox.restore(loaded, await options());
  assert.match(await said(restored, LOOK), /^here A B kept/);
  await Deno.remove(folder, { recursive: true });
});

test("forks go their own ways", async () => {
  await using first = await Sandbox.restore(await checkpoint(), await options());
  const [second, third] = await first.fork(2);
  await using _second = second!;
  await using _third = third!;
  const all = [first, second!, third!];
  const seen = await Promise.all(
    all.map((sandbox, number) => said(sandbox, `x += ${number}\nprint(x, ask("f"))`)),
  );
  assert.deepEqual(seen, ["1 F\n", "2 F\n", "3 F\n"]);
  await assert.rejects(first.fork(0), RangeError);
});

test("a restored sandbox that dies is as it was restored, and what was made since is lost", async () => {
  await using sandbox = await Sandbox.restore(await checkpoint(), await options());
  await said(sandbox, "x = 5\nmade = 1");
  const end = "import ctypes\nctypes.CDLL(None).emscripten_run_script(b'1')";
  await assert.rejects(sandbox.execute(end), (error) => {
    assert.ok(error instanceof SandboxCrashed || error instanceof ProtocolError, String(error));
    assert.deepEqual(error.lost, ["made"]);
    return true;
  });
  const run = await sandbox.execute("print(x, 'made' in globals())");
  assert.equal(run.stdout, "1 False\n");
  assert.deepEqual(run.lost, ["made"]);
});

test("a checkpoint needs no image and no chosen memory, and one of a restored sandbox is like any other", async () => {
  await using sandbox = await Sandbox.restore(await checkpoint(), { functions: { ask } });
  await said(sandbox, "x += 1");
  const again = await sandbox.checkpoint();
  assert.deepEqual([again.cells, again.memoryMb], [2, 128]);
  await using restored = await Sandbox.restore(again, { functions: { ask } });
  assert.equal(await said(restored, "print(x)"), "2\n");
});

test("what cannot be kept is said, and the sandbox goes on", async () => {
  const functions = { ask, forever: () => new Promise(() => {}) };
  await using sandbox = await Sandbox.open(await options({ functions }));
  await said(sandbox, "import threading\nthreading.Thread(target=forever).start()");
  await assert.rejects(sandbox.checkpoint(), { name: "SandboxError", message: /still waits/ });
  assert.equal(await said(sandbox, "print(1)"), "1\n");
});

test("what does not belong here is refused before anything is started", async () => {
  const whole = await checkpoint();
  await assert.rejects(Sandbox.restore(whole), { name: "TypeError", message: /can call ask/ });
  await assert.rejects(Sandbox.restore(changed(whole, { build: "0" }), { functions: { ask } }), {
    name: "RangeError",
    message: /another build/,
  });
  const large = changed(whole, { memoryBytes: 2 ** 29 });
  await assert.rejects(Sandbox.restore(large, await options()), {
    name: "RangeError",
    message: /holds 448 MB/,
  });
});

test("a memory that is nonsense ends its own process and nothing else", async () => {
  const whole = await checkpoint();
  const body = whole.body.slice().fill(0xff, 8 * whole.runs);
  const table = whole.body.slice();
  new DataView(table.buffer).setUint32(0, 0xfffff000, true);
  for (const facts of [{ body }, { body: table }, { runs: whole.runs - 1 }, { header: new Uint8Array(8) }]) {
    await assert.rejects(async () => {
      await using sandbox = await Sandbox.restore(changed(whole, facts), await options());
      await said(sandbox, LOOK);
    }, SandboxError);
  }
});

test("a damaged file is refused with its reason", async () => {
  const path = await Deno.makeTempFile();
  const small = new Checkpoint(
    { build: "b", memoryBytes: 4096, runs: 1, memoryMb: 1, cells: 0, names: ["é"], functions: [] },
    Uint8Array.of(1, 2, 3),
    new Uint8Array(5_000),
  );
  await small.save(path);
  const bytes = await Deno.readFile(path);
  assert.deepEqual({ ...await Checkpoint.load(path) }, { ...small });
  const text = (from: string, to: string) => {
    const latin = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    assert.ok(latin.includes(from));
    return Uint8Array.from(latin.replace(from, to), (character) => character.charCodeAt(0));
  };
  const damaged: [Uint8Array, RegExp][] = [
    [new Uint8Array(), /no checkpoint/],
    [text("rlm-wasm", "rlm-wosm"), /no checkpoint/],
    [text("checkpoint 1\n", "checkpoint 2\n"), /its format is 2/],
    [bytes.slice(0, 60), /cut short \(its manifest/],
    [text('"runs":1', '"runs":x'), /its manifest/],
    [text('"runs":1', '"rums":1'), /its keys/],
    [text('"cells":0', '"cells":"'), /its manifest/],
    [text('"memory_mb":1', '"memory_mb":-'), /its manifest/],
    [text('"memory_bytes":4096', '"memory_bytes":1e99'), /its manifest|memory_bytes is/],
    [text('"body_bytes":5000', '"body_bytes":4900'), /more in it than was announced/],
    [text('"body_bytes":5000', '"body_bytes":5100'), /cut short/],
    [text('"body_bytes":5000', '"body_bytes":9e99'), /cut short|body_bytes is/],
    [text('"sha256":"', '"sha256":"0').slice(0, -1), /damaged|manifest/],
    [bytes.slice(0, -1), /damaged|cut short/],
    [bytes.slice(0, -5), /damaged|cut short/],
    [Uint8Array.of(...bytes, 0), /damaged/],
    [Uint8Array.from(bytes, (byte, index) => index === bytes.length - 6 ? byte ^ 1 : byte), /damaged/],
  ];
  for (const [content, reason] of damaged) {
    await Deno.writeFile(path, content);
    await assert.rejects(Checkpoint.load(path), (error) => {
      assert.ok(error instanceof RangeError, String(error));
      assert.match(error.message, reason);
      assert.ok(error.message.startsWith(`${path} cannot be restored: `));
      return true;
    });
  }
  await Deno.remove(path);
  await assert.rejects(Checkpoint.load(path), Deno.errors.NotFound);
});

test("a child that lies about its checkpoint is a ProtocolError", async () => {
  if (Deno.build.os === "windows") return;
  const frame = (message: object) => {
    const body = JSON.stringify({ jsonrpc: "2.0", ...message });
    return `printf '%s\\r\\n\\r\\n%s' 'Content-Length: ${body.length}' '${body}'`;
  };
  const blob = (length: number, { id = 7, announced = length } = {}) =>
    `printf 'Content-Length: ${announced}\\r\\nContent-Type: application/octet-stream\\r\\n'; ` +
    `printf 'Content-Id: ${id}\\r\\n\\r\\n%0${length}d' 0`;
  const begun = { memory: 65536, header: 8, runs: 1, size: 4096, cells: 0, blob: 7 };
  const lies: [string, RegExp][] = [
    [frame({ id: 2, result: {} }), /not a reply to checkpoint_begin/],
    [frame({ id: 2, result: begun }), /no blob 7/],
    [`${blob(16)}; ${frame({ id: 2, result: { ...begun, size: 2 ** 40 } })}`, /cannot be one/],
    [`${blob(16)}; ${frame({ id: 2, result: { ...begun, more: 1 } })}`, /not a reply/],
    [`${blob(9)}; ${frame({ id: 2, result: begun })}`, /without its table/],
    [blob(1, { announced: 99_999_999 }), /a blob of 99999999 bytes/],
    [
      `${blob(16)}; ${frame({ id: 2, result: begun })}; read line; read line; ` +
      `${blob(5, { id: 8 })}; ${frame({ id: 3, result: { blob: 8 } })}`,
      /another length/,
    ],
  ];
  for (const [lie, message] of lies) {
    const deno = await Deno.makeTempFile({ prefix: "pretender-" });
    const greeting = frame({ id: 1, result: { protocol: 1, deno: "", v8: "" } });
    const waits = "read line; read line; read line";
    await Deno.writeTextFile(deno, `#!/bin/sh\n${greeting}\n${waits}; ${lie}\nexec cat >/dev/null\n`);
    await Deno.chmod(deno, 0o700);
    await using sandbox = await Sandbox.open({ deno });
    await assert.rejects(sandbox.checkpoint(), (error) => {
      assert.ok(error instanceof ProtocolError, `${lie}: ${error}`);
      assert.match(error.message, message);
      return true;
    });
    await Deno.remove(deno);
  }
});
