import assert from "node:assert/strict";
import golden from "../tests/golden/wire.json" with { type: "json" };
import {
  encodeBlobHeader,
  encodeMessage,
  type Frame,
  FrameReader,
  MAX_BLOB,
  MAX_MESSAGE,
  WireError,
} from "./wire.ts";

/** As in tests/golden/wire.json: the bytes of a blob are text in which a character is a byte. */
type GoldenFrame = { message: unknown } | { blob: number; bytes: string };
interface GoldenCase {
  name: string;
  bytes: string;
  frames: GoldenFrame[];
  error?: boolean;
  idle?: boolean;
  canonical?: boolean;
}
interface Reading {
  frames: GoldenFrame[];
  error: boolean;
  idle: boolean;
}

const cases = golden.cases as unknown as GoldenCase[];

function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function textOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

/** Put a piece into the reader as a pipe would: as much at a time as it has room for. */
function* feed(reader: FrameReader, piece: Uint8Array): Generator<Frame> {
  while (piece.length > 0) {
    const space = reader.space();
    assert.ok(space.length > 0);
    const count = Math.min(space.length, piece.length);
    space.set(piece.subarray(0, count));
    piece = piece.subarray(count);
    yield* reader.filled(count);
  }
}

function read(pieces: Uint8Array[]): Reading {
  const reader = new FrameReader(golden.max_blob);
  const frames: GoldenFrame[] = [];
  try {
    for (const piece of pieces) {
      for (const frame of feed(reader, piece)) {
        frames.push("blob" in frame ? { blob: frame.blob, bytes: textOf(frame.bytes) } : frame);
      }
    }
    return { frames, error: false, idle: reader.idle };
  } catch (error) {
    assert.ok(error instanceof WireError, `a ${error} where only WireError is documented`);
    return { frames, error: true, idle: false };
  }
}

function expected({ frames, error = false, idle = true }: GoldenCase): Reading {
  return { frames, error, idle: !error && idle };
}

Deno.test("the golden bytes are the golden frames", async (t) => {
  for (const golden of cases) {
    await t.step(golden.name, () => assert.deepEqual(read([bytesOf(golden.bytes)]), expected(golden)));
  }
});

Deno.test("the golden bytes are the same frames cut at every place, and byte by byte", () => {
  for (const golden of cases) {
    const bytes = bytesOf(golden.bytes);
    for (let at = 1; at < Math.min(bytes.length, 2000); at++) {
      assert.deepEqual(read([bytes.subarray(0, at), bytes.subarray(at)]), expected(golden), golden.name);
    }
    const single = Array.from(bytes, (byte) => Uint8Array.of(byte));
    assert.deepEqual(read(single), expected(golden), golden.name);
  }
});

Deno.test("the golden frames are written as the golden bytes where these are canonical", () => {
  for (const { name, bytes, frames } of cases.filter((golden) => golden.canonical)) {
    const written = frames.map((frame) => {
      if ("message" in frame) return textOf(encodeMessage(frame.message));
      return textOf(encodeBlobHeader(frame.blob, frame.bytes.length)) + frame.bytes;
    });
    assert.equal(written.join(""), bytes, name);
  }
});

Deno.test("a message may end with a line feed, which counts", () => {
  const message = { jsonrpc: "2.0", id: 1, method: "ping" };
  const frame = encodeMessage(message, "\n");
  assert.equal(textOf(frame), 'Content-Length: 41\r\n\r\n{"jsonrpc":"2.0","id":1,"method":"ping"}\n');
  assert.deepEqual(read([frame, encodeMessage(message)]).frames, [{ message }, { message }]);
});

Deno.test("a header with bytes past ASCII is refused", () => {
  for (const name of ["X-\xe9", "X-\xc3\xa9", "\xa0"]) {
    assert.equal(read([bytesOf(`${name}: 1\r\nContent-Length: 2\r\n\r\n{}`)]).error, true);
  }
});

Deno.test("a blob is read into a buffer of its own that is lent to the pipe", () => {
  const reader = new FrameReader();
  assert.deepEqual([...feed(reader, encodeBlobHeader(7, 1_000_000))], []);
  const space = reader.space();
  assert.equal(space.length, 1_000_000);
  space.fill(5);
  const frames = [...reader.filled(1_000_000)];
  assert.equal(frames.length, 1);
  assert.ok(
    "blob" in frames[0]! && frames[0].bytes.buffer === space.buffer && frames[0].bytes[999_999] === 5,
  );
});

Deno.test("a blob larger than the reader's limit is refused by its header alone", () => {
  for (const [limit, length] of [[0, 1], [10, 11], [MAX_BLOB, MAX_BLOB + 1]] as const) {
    assert.throws(() => [...feed(new FrameReader(limit), encodeBlobHeader(1, length))], WireError);
  }
  assert.equal([...feed(new FrameReader(0), encodeBlobHeader(1, 0))].length, 1);
});

Deno.test("a message larger than the reader's buffer comes whole, and so do those behind it", () => {
  const large = { jsonrpc: "2.0", method: "printed", params: { text: "é".repeat(200_000) } };
  const small = { jsonrpc: "2.0", method: "ping" };
  const messages = [small, large, small, large, small];
  const bytes = messages.flatMap((message) => [encodeMessage(message)]);
  assert.deepEqual(read(bytes), {
    frames: messages.map((message) => ({ message })),
    error: false,
    idle: true,
  });
});

Deno.test("many messages that come in one piece are all given", () => {
  const message = { jsonrpc: "2.0", method: "ping" };
  const one = textOf(encodeMessage(message));
  const { frames } = read([bytesOf(one.repeat(5000))]);
  assert.equal(frames.length, 5000);
});

Deno.test("a message that the other side would refuse as too large is not written", () => {
  const text = "x".repeat(MAX_MESSAGE);
  assert.throws(() => encodeMessage({ jsonrpc: "2.0", method: "a", params: { text } }), RangeError);
});

Deno.test("text that grows when it is escaped or encoded is measured as it is sent", () => {
  const bytes = encodeMessage({ jsonrpc: "2.0", method: "a", params: ["\0é世\u{1f600}"] });
  const { frames, idle } = read([bytes]);
  assert.deepEqual(frames, [{ message: { jsonrpc: "2.0", method: "a", params: ["\0é世\u{1f600}"] } }]);
  assert.equal(idle, true);
});

/** A generator of numbers from 0 up to a bound, the same in every run. */
function randomNumbers(seed: number): (below: number) => number {
  return (below) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor(seed / 2 ** 32 * below);
  };
}

Deno.test("whatever is done to the bytes, it ends in frames or in WireError", () => {
  const next = randomNumbers(20260101);
  const whole = cases.filter((golden) => golden.bytes.length > 0 && golden.bytes.length < 2000);
  for (let round = 0; round < 3000; round++) {
    const bytes = bytesOf(whole[next(whole.length)]!.bytes);
    for (let changes = next(4); changes >= 0; changes--) bytes[next(bytes.length)] = next(256);
    const at = next(bytes.length);
    const { frames } = read([
      bytes.subarray(0, at),
      bytes.subarray(at),
      bytesOf("Content-Length: 2\r\n\r\n{}"),
    ]);
    assert.ok(frames.length <= 4);
  }
});

Deno.test("a buffer that was given back is lent to the next blob of about its size, and to nothing else", () => {
  const reader = new FrameReader();
  const feed = (bytes: Uint8Array): Frame[] => {
    const frames: Frame[] = [];
    for (let at = 0; at < bytes.length;) {
      const space = reader.space();
      const count = Math.min(space.length, bytes.length - at);
      space.set(bytes.subarray(at, at + count));
      at += count;
      frames.push(...reader.filled(count));
    }
    return frames;
  };
  const blob = (id: number, length: number, byte: number): Uint8Array => {
    const header = encodeBlobHeader(id, length);
    return new Uint8Array([...header, ...new Uint8Array(length).fill(byte)]);
  };
  const bytesOf = (frame: Frame | undefined) => (frame as { bytes: Uint8Array<ArrayBuffer> }).bytes;
  const first = bytesOf(feed(blob(1, 1000, 1))[0]);
  reader.recycle(first.buffer);
  const second = bytesOf(feed(blob(2, 900, 2))[0]);
  assert.equal(second.buffer, first.buffer);
  assert.deepEqual(second, new Uint8Array(900).fill(2));
  reader.recycle(second.buffer);
  for (const [id, length] of [[3, 10], [4, 2000]] as const) {
    const other = bytesOf(feed(blob(id, length, 3))[0]);
    assert.notEqual(other.buffer, first.buffer);
    assert.equal(other.length, length);
  }
});
