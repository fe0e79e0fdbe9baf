import assert from "node:assert/strict";
import { ConnectionEnded, ErrorCode, type Handler, Peer, type Pipe, RpcError } from "./peer.ts";
import { encodeBlobHeader, encodeMessage, WireError } from "./wire.ts";

/** One direction of a pipe in memory: what is written is read, a piece at a time. */
class Channel {
  #pieces: Uint8Array[] = [];
  #ended = false;
  #arrived = Promise.withResolvers<void>();

  write(bytes: Uint8Array): void {
    this.#pieces.push(bytes.slice());
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async read(into: Uint8Array): Promise<number | null> {
    while (this.#pieces.length === 0) {
      if (this.#ended) return null;
      await this.#arrived.promise;
    }
    const piece = this.#pieces.shift()!;
    const count = Math.min(piece.length, into.length);
    into.set(piece.subarray(0, count));
    if (count < piece.length) this.#pieces.unshift(piece.subarray(count));
    return count;
  }

  #wake(): void {
    this.#arrived.resolve();
    this.#arrived = Promise.withResolvers();
  }
}

function pipe(from: Channel, to: Channel): Pipe {
  return { read: (into) => from.read(into), write: (bytes) => to.write(bytes) };
}

const refuse: Handler = (method) => {
  throw new RpcError(ErrorCode.methodNotFound, method);
};

/** Two peers that talk to each other, until both directions are ended. */
async function connected(
  handlers: { near?: Handler; far?: Handler },
  talk: (near: Peer, far: Peer) => Promise<void>,
): Promise<void> {
  const [there, back] = [new Channel(), new Channel()];
  const near = new Peer(pipe(back, there), handlers.near ?? refuse);
  const far = new Peer(pipe(there, back), handlers.far ?? refuse);
  const served = Promise.all([near.serve(), far.serve()]);
  await Promise.race([talk(near, far), served.then(() => assert.fail("the pipe ended"))]);
  there.end();
  back.end();
  await served;
}

/** A peer that reads these bytes; the promise is what `serve` comes to. */
function fed(
  bytes: Uint8Array[],
  { handler = refuse, maxBlob, end = true }: { handler?: Handler; maxBlob?: number; end?: boolean } = {},
): { peer: Peer; served: Promise<void>; answers: Channel; input: Channel } {
  const [input, answers] = [new Channel(), new Channel()];
  const peer = new Peer(pipe(input, answers), handler, maxBlob);
  for (const piece of bytes) input.write(piece);
  if (end) input.end();
  return { peer, served: peer.serve(), answers, input };
}

async function refused(served: Promise<void>, message: RegExp): Promise<void> {
  await assert.rejects(served, (error) => error instanceof WireError && message.test(error.message));
}

function message(fields: Record<string, unknown>): Uint8Array {
  return encodeMessage({ jsonrpc: "2.0", ...fields });
}

function blob(id: number, content: Uint8Array): Uint8Array {
  return Uint8Array.of(...encodeBlobHeader(id, content.length), ...content);
}

Deno.test("both sides may ask, also while they are being asked", async () => {
  let far: Peer;
  await connected({
    near: (method, params) => `near heard ${method} ${JSON.stringify(params)}`,
    far: async (method, params) => `far heard ${method}; ${await far.request("back", params)}`,
  }, async (near, other) => {
    far = other;
    const answer = await near.request("there", { n: 1 });
    assert.equal(answer, 'far heard there; near heard back {"n":1}');
  });
});

Deno.test("replies find their requests in whatever order they come", async () => {
  const doors = [1, 2, 3].map(() => Promise.withResolvers<string>());
  await connected({ far: (_, n) => doors[n as number]!.promise }, async (near) => {
    const asked = [0, 1, 2].map((n) => near.request("wait", n));
    for (const n of [2, 0, 1]) {
      doors[n]!.resolve(`door ${n}`);
      assert.equal(await asked[n], `door ${n}`);
    }
  });
});

Deno.test("an error travels with its code, message and data", async () => {
  const far: Handler = (method) => {
    if (method === "known") throw new RpcError(ErrorCode.limitReached, "usd", { partial: [1] });
    throw new TypeError("a mistake");
  };
  await connected({ far }, async (near) => {
    await assert.rejects(near.request("known", {}), (error) => {
      assert.ok(error instanceof RpcError);
      assert.deepEqual([error.code, error.message, error.data], [ErrorCode.limitReached, "usd", {
        partial: [1],
      }]);
      return true;
    });
    await assert.rejects(near.request("unknown", {}), { code: ErrorCode.internal, message: "a mistake" });
  });
});

Deno.test("a handler that gives nothing is a result of null", async () => {
  await connected({ far: () => undefined }, async (near) => {
    assert.equal(await near.request("a", {}), null);
  });
});

Deno.test("a notification reaches the handler, says so, and is not answered", async () => {
  const heard: unknown[] = [];
  const far: Handler = (method, params, wantsReply) => {
    heard.push([method, params, wantsReply]);
    if (method === "fails") throw new Error("nobody sees this");
  };
  await connected({ far }, async (near) => {
    near.notify("told", [1]);
    near.notify("fails", {});
    await near.request("asked", {});
    assert.deepEqual(heard, [["told", [1], false], ["fails", {}, false], ["asked", {}, true]]);
  });
});

Deno.test("a blob goes ahead of its message and is taken once", async () => {
  let far: Peer;
  const handler: Handler = (_, params) => [...far.takeBlob(params)];
  await connected({ far: handler }, async (near, other) => {
    far = other;
    const id = near.sendBlob(Uint8Array.of(1, 2, 3));
    assert.deepEqual(await near.request("take", id), [1, 2, 3]);
    await assert.rejects(near.request("take", id), { code: ErrorCode.invalidParams });
    await assert.rejects(near.request("take", "1"), { code: ErrorCode.invalidParams });
  });
});

Deno.test("a result too large for a frame is an error reply, and the next request is served", async () => {
  const large = "x".repeat(64 * 1024 * 1024);
  await connected({ far: (method) => method === "large" ? large : "small" }, async (near) => {
    await assert.rejects(near.request("large", {}), { code: ErrorCode.internal, message: /too large/ });
    assert.equal(await near.request("small", {}), "small");
    assert.throws(() => near.request("a", large), RangeError);
  });
});

Deno.test("open requests are counted, and settled ones are not", async () => {
  const [last, door] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const far: Handler = (method) => {
    if (method === "last") last.resolve();
    return door.promise;
  };
  await connected({ far }, async (near, far) => {
    const asked = [near.request("first", {}), near.request("second", {})];
    near.notify("last", {});
    await last.promise;
    assert.equal(far.openCalls, 2);
    door.resolve();
    await Promise.all(asked);
    assert.equal(far.openCalls, 0);
  });
});

Deno.test("the end of the pipe rejects what is pending and all that is asked later", async () => {
  const { peer, served, input } = fed([], { end: false });
  const asked = assert.rejects(peer.request("a", {}), ConnectionEnded);
  input.end();
  await served;
  await asked;
  await assert.rejects(peer.request("b", {}), ConnectionEnded);
});

Deno.test("bytes that are no frame end the service and reject what is pending", async () => {
  const { peer, served, input } = fed([], { end: false });
  const asked = assert.rejects(peer.request("a", {}), WireError);
  input.write(new TextEncoder().encode("Traceback (most recent call last):\n\r\n\r\n"));
  await refused(served, /Content-Length/);
  await asked;
  await assert.rejects(peer.request("b", {}), WireError);
});

Deno.test("a pipe that ends in the middle of a frame is no clean end", async () => {
  await refused(fed([message({ id: 1, method: "a" }).subarray(0, -1)]).served, /middle of a frame/);
});

Deno.test("a reply to nothing that was asked is refused", async () => {
  for (const id of [1, "1", null, undefined]) {
    await refused(fed([message({ id, result: 1 })]).served, /nothing that was asked/);
  }
});

Deno.test("a second reply to one request is refused", async () => {
  const { peer, served, input } = fed([], { end: false });
  const asked = peer.request("a", {});
  input.write(message({ id: 1, result: "first" }));
  input.write(message({ id: 1, result: "second" }));
  await refused(served, /nothing that was asked/);
  assert.equal(await asked, "first");
});

Deno.test("a reply with both a result and an error, or with neither, is refused", async () => {
  for (const fields of [{ result: 1, error: { code: 1, message: "no" } }, {}]) {
    const { peer, served, input } = fed([], { end: false });
    const asked = assert.rejects(peer.request("a", {}), WireError);
    input.write(message({ id: 1, ...fields }));
    await refused(served, /neither a result nor an error/);
    await asked;
  }
});

Deno.test("a request with the id of an open one is refused", async () => {
  const never: Handler = () => new Promise(() => {});
  const twice = [message({ id: 7, method: "a" }), message({ id: 7, method: "a" })];
  await refused(fed(twice, { handler: never }).served, /in use/);
});

Deno.test("an id may be used again once it is answered", async () => {
  const { served, answers, input } = fed([message({ id: 7, method: "a" })], { handler: () => 1, end: false });
  await answers.read(new Uint8Array(1000));
  input.write(message({ id: 7, method: "a" }));
  await answers.read(new Uint8Array(1000));
  input.end();
  await served;
});

Deno.test("more than ten thousand open requests are refused", async () => {
  const never: Handler = () => new Promise(() => {});
  const flood = Array.from({ length: 10_001 }, (_, id) => message({ id, method: "a" }));
  await refused(fed(flood, { handler: never }).served, /too many requests/);
});

Deno.test("a blob number that is still held, and blobs that nobody takes, are refused", async () => {
  const one = Uint8Array.of(1);
  await refused(fed([blob(1, one), blob(1, one)]).served, /sent twice/);
  await refused(fed(Array.from({ length: 17 }, (_, id) => blob(id, one))).served, /no message refers to/);
  await refused(fed([blob(1, one)], { maxBlob: 0 }).served, /at most 0 were expected/);
});

Deno.test("a request that is no method of ours is answered with the error that says so", async () => {
  const { served, answers } = fed([message({ id: "a", method: "constructor" })]);
  await served;
  const into = new Uint8Array(1000);
  const count = await answers.read(into);
  assert.match(new TextDecoder().decode(into.subarray(0, count!)), /"id":"a","error":\{"code":-32601/);
});
