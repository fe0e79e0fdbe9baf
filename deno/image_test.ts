// An image packed and restored, and what is no image. Whole starts from images are tried in `sandbox_test.ts`.
import assert from "node:assert/strict";
import { headLength, packImage, readHead, restore } from "./image.ts";

const PAGE = 4096;

/** A snapshot as Pyodide makes it: a header whose second word is its length, then the memory. */
function snapshotOf(pages: number[]): Uint8Array<ArrayBuffer> {
  const header = new Uint8Array(new Uint32Array([0x706e7300, 128, 3, 0]).buffer);
  const snapshot = new Uint8Array(128 + pages.length * PAGE);
  snapshot.set(header);
  pages.forEach((byte, page) => byte && snapshot.fill(byte, 128 + page * PAGE + 1, 128 + page * PAGE + 9));
  return snapshot;
}

function cut(image: Uint8Array<ArrayBuffer>): [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>] {
  const head = headLength(image);
  return [image.slice(0, head), image.slice(head)];
}

Deno.test("what is packed comes back, whatever was in the memory that had been used", () => {
  for (const pages of [[], [0], [1], [0, 1, 1, 0, 0, 2], [3, 0, 0, 0], [0, 0, 0, 5], [1, 2, 3]]) {
    for (const code of [0, 1, 4, 1001]) {
      for (const used of [0, PAGE, 2 * PAGE + 7, pages.length * PAGE]) {
        const snapshot = snapshotOf(pages);
        const [packed, body] = cut(packImage(snapshot, new Uint8Array(), new Uint8Array(code).fill(7)));
        const head = readHead(packed);
        assert.equal(head.memoryBytes, pages.length * PAGE);
        assert.deepEqual(head.header, snapshot.slice(0, 128));
        assert.deepEqual(head.code, new Uint8Array(code).fill(7));
        const memory = new Uint8Array(pages.length * PAGE).fill(9, 0, used);
        restore(memory, Math.min(used, memory.length), head, body);
        assert.deepEqual(memory, snapshot.slice(128));
      }
    }
  }
});

Deno.test("zero pages take no room", () => {
  const image = packImage(
    snapshotOf([1, ...new Array(1000).fill(0), 2]),
    new Uint8Array(),
    new Uint8Array(10),
  );
  assert.ok(image.length < 3 * PAGE);
});

Deno.test("what is no image, or a damaged one, is refused", () => {
  const image = packImage(snapshotOf([0, 1, 1, 0, 2]), new Uint8Array(), new Uint8Array(3));
  const [head, body] = cut(image);
  assert.throws(() => headLength(new Uint8Array(10)), /no image/);
  assert.throws(() => headLength(new Uint8Array(1000)), /no image/);
  const newer = image.slice();
  newer[4] = 99;
  assert.throws(() => headLength(newer), /another version/);
  assert.throws(() => readHead(head.slice(0, -4)), /not the head of an image/);
  const into = () => new Uint8Array(5 * PAGE);
  for (const damaged of [body.slice(0, -1), body.slice(0, 8), new Uint8Array([...body, 0])]) {
    assert.throws(() => restore(into(), 0, readHead(head), damaged), RangeError);
  }
  const elsewhere = body.slice();
  new DataView(elsewhere.buffer).setUint32(0, 1 << 30, true);
  assert.throws(() => restore(into(), 0, readHead(head), elsewhere), RangeError);
  assert.throws(() => restore(new Uint8Array(PAGE), 0, readHead(head), body), RangeError);
});
