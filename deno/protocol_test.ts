// PROTOCOL.md as another program would use it: its frames, and its conversation with a stock JSON-RPC client.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  createMessageConnection,
  ResponseError,
  StreamMessageReader,
  StreamMessageWriter,
} from "vscode-jsonrpc/node";
import golden from "../tests/golden/conversation.json" with { type: "json" };
import { sealedEnvironment } from "./child.ts";
import { encodeMessage, type Frame, FrameReader, type Message } from "./wire.ts";

/** In milliseconds, for one test. */
const WITHIN = 90_000;
/** Beyond boot, in MB. */
const MEMORY_MB = 128, BOOT_MB = 64;
const text = await Deno.readTextFile(new URL("./PROTOCOL.md", import.meta.url));

function blocks(kind: string): string[] {
  return Array.from(
    text.matchAll(new RegExp(`^\`\`\`${kind}\\n([^]*?)\\n\`\`\`$`, "gm")),
    ([, body]) => body!,
  );
}

function framesOf(bytes: Uint8Array): Frame[] {
  const reader = new FrameReader(100);
  reader.space().set(bytes);
  const frames = [...reader.filled(bytes.length)];
  assert.ok(reader.idle);
  return frames;
}

/** Whether they are equal, where a null that is expected stands for anything. */
function like(expected: unknown, got: unknown): boolean {
  if (expected === null) return true;
  if (typeof expected !== "object" || typeof got !== "object" || got === null) return expected === got;
  const names = Object.keys(expected);
  return names.length === Object.keys(got).length &&
    names.every((name) =>
      Object.hasOwn(got, name) && like(expected[name as keyof typeof expected], got[name as keyof typeof got])
    );
}

Deno.test("each frame that the specification shows is one", () => {
  const shown = blocks("frame");
  assert.ok(shown.length >= 3);
  for (const block of shown) {
    const [header, body] = block.split("\n\n") as [string, string];
    const frames = framesOf(new TextEncoder().encode([...header.split("\n"), "", body].join("\r\n")));
    assert.equal(frames.length, 1);
    const [frame] = frames as [Frame];
    if ("message" in frame) assert.equal(JSON.stringify(frame.message), body);
    else assert.equal(new TextDecoder().decode(frame.bytes), body);
  }
});

Deno.test("each message of the conversation that the specification shows is one", () => {
  const [shown] = blocks("conversation") as [string];
  const lines = shown.split("\n");
  assert.ok(lines.length > 10);
  for (const line of lines) {
    assert.match(line, /^[<>] /);
    const message = JSON.parse(line.slice(2));
    assert.deepEqual(framesOf(encodeMessage(message)), [{ message }]);
  }
});

Deno.test({
  name: "a stock JSON-RPC client has the golden conversation, with a child started as the specification says",
  timeout: WITHIN,
  fn: async () => {
    const folder = await Deno.makeTempDir();
    const flags = blocks("arguments")[0]!.replace("PAGES", String(16 * (BOOT_MB + MEMORY_MB)))
      .replace("MAIN", new URL("./main.ts", import.meta.url).href).split("\n");
    const child = spawn(Deno.execPath(), flags, {
      cwd: folder,
      env: sealedEnvironment(folder),
      stdio: "pipe",
    });
    const exited = once(child, "exit");
    const client = createMessageConnection(
      new StreamMessageReader(child.stdout),
      new StreamMessageWriter(child.stdin),
    );
    const sent = golden.steps.flatMap((step) => step.send as Message[]);
    const received = golden.steps.flatMap((step) => step.receive as Message[]);
    const answers = sent.filter(({ method }) => !method).map(({ result }) => result);
    const asked: unknown[] = [], told: unknown[] = [];
    client.onRequest("call", (params) => {
      asked.push(params);
      return answers[asked.length - 1];
    });
    client.onNotification((method, ...params) => void told.push([method, params[0]]));
    client.listen();
    for (const { id, method, params } of sent.filter((message) => message.method)) {
      const expected = received.find((message) => message.id === id && !message.method)!;
      const got = await client.sendRequest(method!, params).then((result) => ({ result }), (error) => {
        assert.ok(error instanceof ResponseError, String(error));
        return { error: { code: error.code, message: error.message } };
      });
      const { result, error } = expected;
      assert.ok(like(error ? { error } : { result }, got), `${method}: ${JSON.stringify(got)}`);
    }
    assert.deepEqual(asked, received.filter(({ method }) => method === "call").map(({ params }) => params));
    const notifications = received.filter(({ id, method }) => method && id === undefined);
    assert.deepEqual(told, notifications.map(({ method, params }) => [method, params]));
    assert.equal((await exited)[0], 0);
    client.dispose();
    await Deno.remove(folder, { recursive: true });
  },
});
