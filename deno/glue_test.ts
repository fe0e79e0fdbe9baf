// The glue as it is changed, and what it enters into the table of functions. That it works is seen in every other test.
import assert from "node:assert/strict";
import vm from "node:vm";
import { changed, compile, enterImports, type Module, pack, unpack } from "./glue.ts";

const ASM = Deno.readTextFileSync(new URL("./pyodide/pyodide.asm.mjs", import.meta.url));

/** The names to which exports of CPython are given in the glue. */
function assigned(source: string): string[] {
  const body = source.split("function assignWasmExports(wasmExports){")[1]!.split("}")[0]!;
  return body.split(";").filter(Boolean).map((assignment) => assignment.split("=", 1)[0]!);
}

Deno.test("of CPython's exports those have names that the rest of the glue mentions, and no others", () => {
  const before = assigned(ASM), after = assigned(changed(ASM));
  assert.ok(before.length > 4000 && after.length < before.length / 10);
  // the names by which CPython has them are others
  const elsewhere = new Set(changed(ASM).replaceAll(/"\w+"/g, "").match(/[\w$]+/g));
  const dropped = before.filter((name) => !after.includes(name));
  assert.deepEqual(dropped.filter((name) => elsewhere.has(name)), []);
  assert.deepEqual(after.filter((name) => !before.includes(name)), []);
  for (const name of ["_malloc", "_PyUnicode_New", "_sbrk", "__PyRuntime", "_Py_Version"]) {
    assert.ok(after.includes(name), name);
  }
});

Deno.test("the glue is a script that parses, strictly", () => {
  const source = changed(ASM);
  assert.ok(source.startsWith('"use strict";') && !source.includes("import.meta"));
  assert.equal(typeof compile(source), "object");
});

Deno.test("glue that is not what was expected is refused, and what was missed is named", () => {
  for (
    const gone of ["state.stackState.restore();", "function assignWasmExports", "updateGOT(origExports);"]
  ) {
    assert.throws(() => changed(ASM.replace(gone, "")), /Pyodide's code (has no|assigns no exports)/);
  }
  assert.throws(() => changed(`${ASM}if(init){if(runtime`), /has no if\(init\)/);
});

Deno.test("what an image keeps of it comes back with a cache that V8 accepts", () => {
  const source = `${"/* filler */".repeat(100)}(a) => a + 1`;
  const [text, cache] = unpack(pack(source, new vm.Script(source)));
  assert.equal(text, source);
  const script = compile(text, cache);
  assert.equal(script.cachedDataRejected, false);
  assert.equal(script.runInThisContext()(1), 2);
  assert.throws(() => unpack(new Uint8Array([9, 0, 0, 0, 1])), RangeError);
});

Deno.test("a cache that was made with another cap on memory is accepted, one that is damaged is not", async () => {
  // V8 would remember one that it has compiled before, and not look at the cache
  const sources = ["/* 1 */", "/* 2 */", "/* 3 */"].map((first) => `${first.repeat(100)}(a) => a + 1`);
  const [source = "", again = "", damaged = ""] = sources;
  const made = async (source: string) => {
    const code = `import vm from "node:vm";
      Deno.stdout.writeSync(new vm.Script(${JSON.stringify(source)}).createCachedData());`;
    const args = ["eval", "--v8-flags=--wasm-max-mem-pages=4321", code];
    return new Uint8Array((await new Deno.Command(Deno.execPath(), { args }).output()).stdout);
  };
  assert.equal(new vm.Script(source, { cachedData: await made(source) }).cachedDataRejected, true);
  const script = compile(again, await made(again));
  assert.equal(script.cachedDataRejected, false);
  assert.equal(script.runInThisContext()(1), 2);
  const from = compile(damaged, (await made(damaged)).fill(7, 0, 8));
  assert.equal(from.cachedDataRejected, true);
  assert.equal(from.runInThisContext()(1), 2);
});

/** A module of Emscripten's as it is when CPython has been instantiated. */
function moduleOf(imports: Record<string, unknown>, resolved: string[] = []): Module {
  const names = [...Object.keys(imports), ...resolved];
  const offset = (name: string) => (
    new WebAssembly.Global({ value: "i32", mutable: true }, resolved.includes(name) ? 3 : -1)
  );
  const main = { name: "__main__", global: true, refcount: Infinity, exports: imports };
  return {
    GOT: Object.fromEntries(names.map((name) => [name, offset(name)])),
    LDSO: { loadedLibsByName: { __main__: main }, loadedLibsByHandle: {} },
    wasmTable: new WebAssembly.Table({ initial: 5, element: "anyfunc" }),
  };
}

function signed<Function extends object>(sig: string, entry: Function): Function & { sig: string } {
  return Object.assign(entry, { sig });
}

Deno.test("what C refers to by address is in the table, once each, with its types", () => {
  const heard: unknown[] = [];
  const both = signed("v", () => void heard.push("called"));
  const many = Object.fromEntries(
    Array.from({ length: 300 }, (_, index) => [`f${index}`, signed("ii", (n: number) => n + index)]),
  );
  const module = moduleOf({
    add: signed("iip", (a: number, b: number) => a + b),
    both,
    again: both,
    wide: signed("jdf", (a: number, b: number) => BigInt(a * b)),
    anything: signed("ee", (value: unknown) => [value]),
    ...many,
  }, ["known"]);
  enterImports(module);
  const call = (name: string, ...values: unknown[]) =>
    module.wasmTable.get(module.GOT[name]!.value)!(...values);
  assert.equal(module.wasmTable.length, 5 + 4 + 300);
  assert.equal(call("add", 2, 3), 5);
  assert.equal(call("add", 2 ** 31, 0), -(2 ** 31));
  assert.equal(call("wide", 1.5, 2), 3n);
  assert.deepEqual(call("anything", heard), [heard]);
  assert.equal(call("both"), undefined);
  assert.deepEqual(heard, ["called"]);
  assert.equal(module.GOT.again!.value, module.GOT.both!.value);
  assert.deepEqual([call("f0", 1), call("f299", 1)], [1, 300]);
  assert.equal(module.GOT.known!.value, 3);
  assert.deepEqual(module.entered!.slice(0, 2).map(([, entry]) => entry), [
    module.LDSO.loadedLibsByName.__main__!.exports.add,
    both,
  ]);
});

Deno.test("what is referred to by address and is not there is an error", () => {
  for (const imports of [{ gone: undefined }, { data: 7 }, { unsigned: () => 1 }]) {
    assert.throws(() => enterImports(moduleOf(imports)), /what is no function/);
  }
});
