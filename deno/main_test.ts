// The stdio server, driven as any program could drive it: by a stock JSON-RPC client that knows nothing of blobs.
import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import {
  createMessageConnection,
  type MessageConnection,
  ResponseError,
  StreamMessageReader,
  StreamMessageWriter,
} from "vscode-jsonrpc/node";
import { sealedArguments, sealedEnvironment } from "./child.ts";
import { ErrorCode } from "./peer.ts";
import { MAX_MESSAGE, PROTOCOL } from "./wire.ts";

/** Beyond boot, in MB: little, so that a memory bomb ends soon. */
const MEMORY_MB = 128;
/** In milliseconds: a boot without an image takes 2 s on an idle machine. */
const WITHIN = 90_000;

interface Ran {
  output: [string, string][];
  truncated: number;
  error: string | null;
  value: string | null;
  names: string[];
  timed_out: boolean;
  seconds: number;
}

/** A child, the stock client on its pipes, and what the child told. */
class Client implements AsyncDisposable {
  readonly process: ChildProcessWithoutNullStreams;
  readonly connection: MessageConnection;
  readonly notified: [method: string, params: unknown][] = [];
  /** Answers the calls of cells; both texts are JSON. */
  answer: (request: string) => string | Promise<string> = () => "null";
  /** Called for each notification. */
  onNotified: (method: string) => void = () => {};
  #folder: string;
  #exited: Promise<unknown[]>;
  #stderr = "";

  constructor(flags = sealedArguments(MEMORY_MB)) {
    this.#folder = Deno.makeTempDirSync();
    const env = sealedEnvironment(this.#folder);
    this.process = spawn(Deno.execPath(), flags, { cwd: this.#folder, env, stdio: "pipe" });
    this.#exited = once(this.process, "exit");
    this.process.stderr.on("data", (chunk) => this.#stderr += chunk);
    // what is still in the pipe of a process that has ended is nobody's loss
    this.process.stdin.on("error", () => {});
    const { stdout, stdin } = this.process;
    this.connection = createMessageConnection(
      new StreamMessageReader(stdout),
      new StreamMessageWriter(stdin),
    );
    this.connection.onRequest("call", async ({ request }) => ({ value: await this.answer(request) }));
    this.connection.onNotification((method, params) => {
      this.notified.push([method, Array.isArray(params) && params.length === 1 ? params[0] : params]);
      this.onNotified(method);
    });
    this.connection.listen();
  }

  static async initialized(functions: string[] = [], options = {}): Promise<Client> {
    const client = new Client();
    await client.ask("initialize", { protocol: PROTOCOL, functions, output_chars: 10_000, ...options });
    return client;
  }

  async ask(method: string, params: unknown = {}): Promise<unknown> {
    return await this.connection.sendRequest(method, params);
  }

  async execute(code: string, timeout = 60): Promise<Ran> {
    return await this.ask("execute", { code, timeout }) as Ran;
  }

  async printed(code: string): Promise<string> {
    const { output, error } = await this.execute(code);
    assert.equal(error, null);
    return output.map(([, text]) => text).join("");
  }

  async exitCode(): Promise<unknown> {
    return (await this.#exited)[0];
  }

  async stderr(): Promise<string> {
    if (!this.process.stderr.closed) await once(this.process.stderr, "close");
    return this.#stderr;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.connection.dispose();
    this.process.kill("SIGKILL");
    await this.#exited;
    await Deno.remove(this.#folder, { recursive: true });
  }
}

async function refused(
  job: Promise<unknown>,
  code: number,
  message: RegExp,
): Promise<ResponseError<unknown>> {
  const error = await job.then(() => assert.fail("it was not refused"), (error) => error);
  assert.ok(error instanceof ResponseError, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(error.message, message);
  return error;
}

function test(name: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  Deno.test({ name, timeout: WITHIN, fn });
}

test("a stock JSON-RPC client has a whole conversation", async (t) => {
  await using client = new Client();

  await t.step("nothing runs before the first exchange", async () => {
    await refused(client.execute("1"), ErrorCode.invalidParams, /initialize first/);
  });
  await t.step("another version of the protocol is refused, and ours is named", async () => {
    for (const protocol of [PROTOCOL + 1, String(PROTOCOL), undefined]) {
      const asked = client.ask("initialize", { protocol, functions: [], output_chars: 100 });
      const error = await refused(asked, ErrorCode.wrongProtocol, /speaks protocol/);
      assert.deepEqual(error.data, { protocol: PROTOCOL });
    }
  });
  await t.step("options that make no sense are refused", async () => {
    const mistakes = [
      ...[{ functions: "add" }, { functions: ["a b"] }, { functions: [null] }, { functions: [["add"]] }],
      ...[{ output_chars: 0 }, { output_chars: "10" }, { output_chars: 1.5 }, { output_words: -1 }, {
        image: 1,
      }],
    ];
    for (const mistake of mistakes) {
      const asked = client.ask("initialize", { protocol: PROTOCOL, ...mistake });
      await refused(asked, ErrorCode.invalidParams, /wanted|no blob/);
    }
  });
  await t.step("our version is answered with the version, once", async () => {
    const params = { protocol: PROTOCOL, functions: ["add", "slow"], output_chars: 1000 };
    const reply = await client.ask("initialize", params) as Record<string, unknown>;
    assert.deepEqual(Object.keys(reply).sort(), ["deno", "protocol", "stages", "v8"]);
    assert.equal(reply.protocol, PROTOCOL);
    await refused(client.ask("initialize", params), ErrorCode.invalidParams, /already/);
  });
  await t.step("text, bytes and values are loaded from the message itself", async () => {
    assert.deepEqual(
      await client.ask("load", { name: "context", kind: "text", text: "h\0é世\u{1f600}" }),
      {},
    );
    await client.ask("load", { name: "raw", kind: "bytes", text: "é" });
    await client.ask("load", { name: "pairs", kind: "value", text: '{"$dict":[[1,{"$tuple":[]}]]}' });
    assert.equal(
      await client.printed("print(ascii(context), raw, pairs)"),
      "'h\\x00\\xe9\\u4e16\\U0001f600' b'\\xc3\\xa9' {1: ()}\n",
    );
  });
  await t.step("a load that makes no sense is refused", async () => {
    const whole = { name: "x", kind: "text", text: "" };
    const wrong = [{ name: 5 }, { kind: "json" }, { kind: undefined }, { text: undefined }, { blob: 99 }];
    for (const mistake of wrong) {
      const asked = client.ask("load", { ...whole, ...mistake });
      await refused(asked, ErrorCode.invalidParams, /wanted|no blob/);
    }
  });
  await t.step("a cell reports its output, value, names and time", async () => {
    const ran = await client.execute("import sys\nx = 6\nprint('a'); print('b', file=sys.stderr)\nx * 7");
    assert.deepEqual(ran.output, [["stdout", "a\n"], ["stderr", "b\n"], ["stdout", "42\n"]]);
    assert.equal(ran.value, "42");
    assert.equal(ran.error, null);
    assert.equal(ran.truncated, 0);
    assert.equal(ran.timed_out, false);
    assert.ok(ran.names.includes("x") && ran.names.includes("context") && !ran.names.includes("add"));
    assert.equal(typeof ran.seconds, "number");
  });
  await t.step("a mistake is a traceback, and what was printed and set before it is kept", async () => {
    const ran = await client.execute("y = 1\nprint('before')\n1 / 0\nprint('after')");
    assert.deepEqual(ran.output, [["stdout", "before\n"]]);
    assert.match(ran.error!, /File "<cell \d+>", line 3, in <module>[^]*ZeroDivisionError/);
    assert.deepEqual(await client.ask("get", { name: "y" }), { value: "1" });
  });
  await t.step("a host function's answer is the value of the call in the cell", async () => {
    const requests: unknown[] = [];
    client.answer = (request) => {
      requests.push(JSON.parse(request));
      return '{"$set":[3]}';
    };
    assert.equal(await client.printed("print(add(1, (2,), third=None))"), "{3}\n");
    assert.deepEqual(requests, [["add", [1, { $tuple: [2] }], { third: null }]]);
  });
  await t.step(
    "a host function's error is an exception in the cell, of the class that its code says",
    async () => {
      client.answer = () => {
        throw new ResponseError(ErrorCode.functionFailed, "no such word");
      };
      const caught = "try:\n    add()\nexcept FunctionError as e:\n    print(type(e).__name__, e, e.partial)";
      assert.equal(await client.printed(caught), "FunctionError no such word None\n");
      client.answer = () => {
        throw new ResponseError(ErrorCode.limitReached, "usd", { partial: "[1]" });
      };
      assert.equal(await client.printed(caught), "LimitExceeded usd [1]\n");
    },
  );
  await t.step("calls from several threads wait at the same time", async () => {
    let open = 0;
    const all = Promise.withResolvers<void>();
    client.answer = async (request) => {
      if (++open === 5) all.resolve();
      await all.promise;
      return String(JSON.parse(request)[1][0]);
    };
    const code = "from concurrent.futures import ThreadPoolExecutor\n" +
      "with ThreadPoolExecutor(5) as pool: print(list(pool.map(slow, range(5))))";
    assert.equal(await client.printed(code), "[0, 1, 2, 3, 4]\n");
  });
  await t.step(
    "what a cell prints and gives to FINAL is told while it runs, the first time and cut",
    async () => {
      client.notified.length = 0;
      const ran = await client.execute("print('a' * 2000)\nFINAL({1: 'x'})\nFINAL('second')");
      assert.equal(ran.truncated, 1001);
      assert.deepEqual(client.notified[0], ["printed", { stream: "stdout", text: "a".repeat(500) }]);
      const finals = client.notified.filter(([method]) => method === "final");
      assert.deepEqual(finals[0], ["final", { value: '{"$dict":[[1,"x"]]}' }]);
    },
  );
  await t.step("an interrupt ends a cell that computes, and its variables are kept", async () => {
    client.onNotified = () => void client.connection.sendNotification("interrupt", {});
    const ran = await client.execute("kept = 1\nprint('running')\nwhile True: pass");
    client.onNotified = () => {};
    assert.match(ran.error!, /KeyboardInterrupt$/);
    assert.equal(ran.timed_out, false);
    assert.equal(await client.printed("print(kept)"), "1\n");
  });
  await t.step("an interrupt ends a cell that waits for the host", async () => {
    client.answer = async () => {
      await client.ask("interrupt");
      return await new Promise(() => {});
    };
    assert.match((await client.execute("slow()")).error!, /KeyboardInterrupt$/);
  });
  await t.step(
    "an interrupt right behind its cell is not lost, and one between cells does nothing",
    async () => {
      const running = client.execute("while True: pass");
      await client.connection.sendNotification("interrupt", {});
      assert.match((await running).error!, /KeyboardInterrupt$/);
      assert.equal(await client.ask("interrupt"), null);
      assert.equal(await client.printed("print(1)"), "1\n");
    },
  );
  await t.step("a cell out of time is interrupted, and says so", async () => {
    const ran = await client.execute("kept = 2\nwhile True: pass", 0.2);
    assert.equal(ran.timed_out, true);
    assert.match(ran.error!, /KeyboardInterrupt/);
    assert.equal(await client.printed("print(kept)"), "2\n");
  });
  await t.step("a sleeping cell is interrupted too", async () => {
    const ran = await client.execute("import time\ntime.sleep(3600)", 0.2);
    assert.equal(ran.timed_out, true);
  });
  await t.step("time spent waiting for the host is not the cell's", async () => {
    client.answer = async () => {
      // the deadline itself is what is tested: the wait is longer than the cell may compute
      await new Promise((resolve) => setTimeout(resolve, 2500));
      return '"answered"';
    };
    const ran = await client.execute("slow()", 2);
    assert.equal(ran.error, null);
    assert.equal(ran.timed_out, false);
    assert.equal(ran.value, '"answered"');
  });
  await t.step("a get waits for the cell that runs before it", async () => {
    const asked = Promise.withResolvers<void>();
    const door = Promise.withResolvers<string>();
    client.answer = () => {
      asked.resolve();
      return door.promise;
    };
    const running = client.execute("late = slow()");
    await asked.promise;
    const got = client.ask("get", { name: "late" });
    assert.deepEqual(await client.ask("ping"), {});
    door.resolve('"came"');
    assert.deepEqual(await got, { value: '"came"' });
    assert.equal((await running).error, null);
  });
  await t.step("a get that never ends can be interrupted, and the state is kept", async () => {
    client.answer = async () => {
      await client.ask("interrupt");
      return "null";
    };
    await client.execute(
      "class Endless(list):\n    def __iter__(self):\n        slow()\n        while True: pass\nendless = Endless([1])",
    );
    await refused(client.ask("get", { name: "endless" }), ErrorCode.invalidParams, /KeyboardInterrupt/);
    assert.deepEqual(await client.ask("get", { name: "kept" }), { value: "2" });
  });
  await t.step("what cannot be got is an error that says why", async () => {
    await refused(client.ask("get", { name: "nothing" }), ErrorCode.invalidParams, /NameError.*'nothing'/);
    await client.execute("unsendable = [object()]");
    await refused(client.ask("get", { name: "unsendable" }), ErrorCode.invalidParams, /TypeError: a object/);
  });
  await t.step("a method that does not exist is an error, also if every object has it", async () => {
    for (const method of ["exec", "constructor", "toString", "__proto__"]) {
      await refused(client.ask(method), ErrorCode.methodNotFound, /there is no method/);
    }
  });
  await t.step("shutdown is answered and ends the process well", async () => {
    assert.equal(await client.ask("shutdown"), null);
    assert.equal(await client.exitCode(), 0);
    assert.equal(await client.stderr(), "");
  });
});

test("a process that holds a permission refuses to start a sandbox, and ends", async (t) => {
  for (
    const [flag, permission] of [["--allow-read", "read"], ["--allow-net=127.0.0.1:9", "net"], ["-A", "run"]]
  ) {
    await t.step(flag!, async () => {
      const sealed = sealedArguments(MEMORY_MB);
      const denied = flag === "-A" ? /^--deny-/ : new RegExp(`^--deny-${permission}$`);
      await using client = new Client(sealed.map((given) => denied.test(given) ? flag! : given));
      const asked = client.ask("initialize", { protocol: PROTOCOL, functions: [], output_chars: 100 });
      await refused(
        asked,
        ErrorCode.notSafe,
        new RegExp(`not sealed: .*the permission ${permission} is not denied`),
      );
      assert.equal(await client.exitCode(), 3);
    });
  }
});

test("a process that may make code from strings refuses to start a sandbox, and ends", async () => {
  const flags = sealedArguments(MEMORY_MB).map((flag) =>
    flag.replace("--disallow-code-generation-from-strings,", "")
  );
  await using client = new Client(flags);
  const asked = client.ask("initialize", { protocol: PROTOCOL, functions: [], output_chars: 100 });
  await refused(asked, ErrorCode.notSafe, /the jail does not hold: .*code can be made from strings/);
  assert.equal(await client.exitCode(), 3);
});

test("bytes that are no frame end the process with a word on stderr", async () => {
  await using client = new Client();
  client.process.stdin.write("Content-Length: many\r\n\r\n");
  assert.equal(await client.exitCode(), 2);
  assert.equal(await client.stderr(), 'Content-Length is not a number: "many"\n');
});

test("a message that is too large is refused before it is read", async () => {
  await using client = new Client();
  client.process.stdin.write(`Content-Length: ${MAX_MESSAGE + 1}\r\n\r\n`);
  assert.equal(await client.exitCode(), 2);
  assert.match(await client.stderr(), /too large/);
});

test("the end of stdin ends the process, in the middle of a cell too", async () => {
  await using idle = new Client();
  idle.process.stdin.end();
  assert.equal(await idle.exitCode(), 0);

  await using busy = await Client.initialized();
  const printed = Promise.withResolvers<void>();
  busy.onNotified = () => printed.resolve();
  busy.execute("print('running')\nwhile True: pass").catch(() => {});
  await printed.promise;
  busy.process.stdin.end();
  assert.equal(await busy.exitCode(), 0);
});
