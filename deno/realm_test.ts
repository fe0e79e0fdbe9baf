import assert from "node:assert/strict";

/** What a worker runs whose realm is emptied, one `step` after the other; the reply to each is its result. */
const EMPTIED = `
  import * as realm from "${new URL("./realm.ts", import.meta.url)}";
  const send = self.postMessage.bind(self);
  const steps = {
    removeOutside: () => realm.removeOutside(),
    removeRest: () => {
      for (const name of ["postMessage", "close"]) delete globalThis[name];
      realm.removeRest();
    },
    freezeIntrinsics: () => realm.freezeIntrinsics(),
    findHoles: () => realm.findHoles(),
    names: () => Object.getOwnPropertyNames(globalThis),
    consoleIsSilent: () => Object.isFrozen(console) && console.log("noise") === undefined,
    scopes: () => ["Deno", "process", "fetch", "postMessage", "navigator"].filter((name) => name in globalThis),
    shadow: () => { globalThis.Deno = "of the cell"; return Deno; },
    changeMap: () => { try { Map.prototype.get = () => 1; return "changed"; } catch { return "frozen"; } },
    changeObject: () => { try { Object.prototype.extra = 1; return "changed"; } catch { return "frozen"; } },
    work: async () => {
      const text = new TextDecoder().decode(new TextEncoder().encode("é"));
      await new Promise((resolve) => setTimeout(resolve, 0));
      return [text, performance.now() > 0, crypto.getRandomValues(new Uint8Array(1)).length, new Map([[1, 2]]).get(1)];
    },
  };
  self.onmessage = async (event) => {
    try {
      send({ result: await steps[event.data]() });
    } catch (error) {
      send({ error: String(error) });
    }
  };
`;

class Realm implements Disposable {
  #worker = new Worker(URL.createObjectURL(new Blob([EMPTIED], { type: "text/javascript" })), {
    type: "module",
  });

  async step(name: string): Promise<unknown> {
    const { promise, resolve, reject } = Promise.withResolvers<{ result?: unknown; error?: string }>();
    this.#worker.onmessage = (event) => resolve(event.data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
    this.#worker.postMessage(name);
    const { result, error } = await promise;
    assert.equal(error, undefined);
    return result;
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}

/** What a realm in a process without V8's flag cannot close: the test process has none. */
const OPEN_WITHOUT_FLAG = [
  "code can be made from strings (Function)",
  "code can be made from strings (AsyncFunction)",
];

Deno.test({
  name: "a full realm has holes, and each is named",
  timeout: 30_000,
  async fn() {
    using realm = new Realm();
    const holes = await realm.step("findHoles") as string[];
    for (const name of ["Deno", "process", "fetch", "Worker", "eval", "postMessage", "close", "Blob"]) {
      assert.ok(holes.includes(`${name} is still in the realm`), name);
    }
    for (const hole of OPEN_WITHOUT_FLAG) assert.ok(holes.includes(hole));
  },
});

Deno.test({
  name: "an emptied realm has no hole but those that V8's flag closes, and still works",
  timeout: 30_000,
  async fn() {
    using realm = new Realm();
    for (const name of ["removeOutside", "removeRest", "freezeIntrinsics"]) await realm.step(name);
    assert.deepEqual(await realm.step("findHoles"), OPEN_WITHOUT_FLAG);
    assert.deepEqual(await realm.step("scopes"), []);
    assert.deepEqual(await realm.step("work"), ["é", true, 1, 2]);
    assert.equal(await realm.step("consoleIsSilent"), true);
  },
});

Deno.test({
  name: "what a realm is born with is gone unless it is on the list",
  timeout: 30_000,
  async fn() {
    using realm = new Realm();
    const before = await realm.step("names") as string[];
    for (const name of ["removeOutside", "removeRest"]) await realm.step(name);
    const after = await realm.step("names") as string[];
    assert.ok(after.every((name) => before.includes(name)));
    for (const name of ["Deno", "Blob", "Response", "ReadableStream", "structuredClone", "eval", "btoa"]) {
      assert.ok(before.includes(name) && !after.includes(name), name);
    }
    assert.ok(["Object", "WebAssembly", "setTimeout", "crypto"].every((name) => after.includes(name)));
  },
});

Deno.test({
  name: "the intrinsics are frozen, and what a cell puts in the place of a name is its own",
  timeout: 30_000,
  async fn() {
    using realm = new Realm();
    assert.equal(await realm.step("changeMap"), "changed");
    using other = new Realm();
    for (const name of ["removeOutside", "removeRest", "freezeIntrinsics"]) await other.step(name);
    assert.equal(await other.step("changeMap"), "frozen");
    assert.equal(await other.step("changeObject"), "frozen");
    assert.equal(await other.step("shadow"), "of the cell");
  },
});
