import assert from "node:assert/strict";
import golden from "../tests/golden/values.json" with { type: "json" };
import { decodeValue, encodeValue } from "./tagged.ts";

function goldenText(name: string): string {
  const found = golden.cases.find((golden) => golden.name === name);
  assert.ok(found, `no golden case ${name}`);
  return found.text;
}

function goldenValue(name: string): unknown {
  return decodeValue(goldenText(name));
}

Deno.test("every golden text is decoded", () => {
  for (const { text } of golden.cases) decodeValue(text);
});

Deno.test("each tag becomes the nearest thing that JavaScript has", () => {
  assert.deepEqual(goldenValue("a tuple in a dict in a list"), [{ a: [1, { b: [] }] }]);
  assert.deepEqual(goldenValue("a set"), new Set([1, 2]));
  assert.deepEqual(goldenValue("a frozenset in a set"), new Set([new Set([1])]));
  assert.deepEqual(goldenValue("bytes"), Uint8Array.of(0, 255, 254, 32, 114, 108, 109));
  assert.deepEqual(goldenValue("int keys"), new Map([[1, "a"], [-2, "b"]]));
  assert.deepEqual(goldenValue("a key that begins with $"), new Map([["$int", "0x1"]]));
  assert.equal(goldenValue("a Decimal"), "1.10");
  assert.equal(goldenValue("a date"), "0001-01-01");
  assert.equal(goldenValue("a time"), "23:59:59.999999");
  assert.equal(goldenValue("a datetime in UTC"), "2026-01-02T00:00:00+00:00");
  assert.ok(Number.isNaN(goldenValue("not a number")));
  assert.equal(goldenValue("negative infinity"), -Infinity);
  assert.ok(Object.is(goldenValue("a negative zero"), -0));
});

Deno.test("an int keeps all its digits", () => {
  assert.equal(goldenValue("zero"), 0);
  assert.equal(goldenValue("an int past what a double holds"), 2n ** 53n + 1n);
  assert.equal(goldenValue("the largest 64-bit int"), 2n ** 63n - 1n);
  assert.equal(goldenValue("the smallest 64-bit int"), -(2n ** 63n));
  assert.equal(goldenValue("a negative int past 64 bits"), -(2n ** 63n) - 1n);
  assert.equal(goldenValue("a very big int"), 2n ** 200n + 1n);
  assert.equal(goldenValue("a large float"), 1e22);
});

Deno.test("keys that JavaScript objects treat apart are keys like others", () => {
  const value = goldenValue("keys that JavaScript objects treat apart") as Record<string, unknown>;
  assert.equal(Object.getPrototypeOf(value), Object.prototype);
  assert.deepEqual(Object.keys(value).sort(), ["0", "1", "__proto__", "constructor"]);
  const back = JSON.parse(encodeValue(value));
  assert.deepEqual(Object.keys(back).sort(), ["0", "1", "__proto__", "constructor"]);
});

Deno.test("a text that breaks the rules is refused, with one of three errors", () => {
  for (const { name, text } of golden.broken.filter((broken) => !("python_only" in broken))) {
    try {
      decodeValue(text);
    } catch (error) {
      assert.ok(
        error instanceof SyntaxError || error instanceof TypeError || error instanceof RangeError,
        name,
      );
      continue;
    }
    assert.fail(`${name} was taken`);
  }
});

Deno.test("a text nested very deeply is decoded or refused, and nothing else happens", () => {
  try {
    decodeValue("[".repeat(200_000) + "]".repeat(200_000));
  } catch (error) {
    assert.ok(error instanceof RangeError);
  }
});

Deno.test("what is encoded is the same when it is decoded", () => {
  const values: unknown[] = [
    ...[null, true, 0, -1.5, 1e300, "", "\0\u2028 é世\u{1f600}", 2n ** 64n, -(2n ** 64n)],
    ...[[], {}, [1, [2, [3]]], { a: { b: [null] } }, new Set(), new Set([1, "a"])],
    ...[
      new Map<unknown, unknown>([[1, "a"], [null, new Map()]]),
      Uint8Array.of(0, 255),
      NaN,
      Infinity,
      -Infinity,
    ],
  ];
  for (const value of values) assert.deepEqual(decodeValue(encodeValue(value)), value);
});

Deno.test("what JavaScript has and Python writes otherwise is encoded by the tag", () => {
  assert.equal(encodeValue(undefined), "null");
  assert.equal(encodeValue([undefined]), "[null]");
  assert.equal(encodeValue(1n), '{"$int":"0x1"}');
  assert.equal(encodeValue(-255n), '{"$int":"-0xff"}');
  assert.equal(encodeValue(new Date(0)), '{"$datetime":"1970-01-01T00:00:00.000Z"}');
  assert.equal(encodeValue({ $set: [1] }), '{"$dict":[["$set",[1]]]}');
  assert.equal(encodeValue({ a: 1, $b: 2 }), '{"$dict":[["a",1],["$b",2]]}');
  assert.equal(encodeValue("\ud800"), '"\ufffd"');
  assert.equal(encodeValue({ "\udc00": 1 }), '{"\ufffd":1}');
  assert.equal(encodeValue(Object.assign(Object.create(null), { a: 1 })), '{"a":1}');
});

Deno.test("what has no form in Python is a TypeError that names it", () => {
  const refused: [unknown, RegExp][] = [
    [() => {}, /function/],
    [Symbol("s"), /symbol/],
    [[new URL("https://sandbox.invalid")], /URL/],
    [{ a: /x/ }, /RegExp/],
    [Promise.resolve(), /Promise/],
  ];
  for (const [value, named] of refused) {
    assert.throws(
      () => encodeValue(value),
      (error) => error instanceof TypeError && named.test(error.message),
    );
  }
});

Deno.test("100 levels are encoded, 101 and a value that holds itself are not", () => {
  const nested = (levels: number): unknown => levels === 0 ? 1 : [nested(levels - 1)];
  assert.deepEqual(decodeValue(encodeValue(nested(100))), nested(100));
  assert.throws(() => encodeValue(nested(101)), RangeError);
  const held: unknown[] = [];
  held.push(held);
  assert.throws(() => encodeValue(held), RangeError);
});
