// Both ends of the mailbox, the sleeper in a Worker of its own.
import assert from "node:assert/strict";
import { Mailbox } from "./mailbox.ts";

const WITHIN = 30_000;

/** A sleeper like the jail: what it is told it tells in turn, and of how it came. */
const SLEEPER = `
import { Mailbox } from ${JSON.stringify(new URL("./mailbox.ts", import.meta.url).href)};
let came = 0, mailbox;
self.onmessage = ({ data }) => {
  came++;
  if (data instanceof SharedArrayBuffer) mailbox = new Mailbox(data);
  else self.postMessage(["posted", data]);
  for (let text; (text = mailbox.sleep(came)) !== null;) self.postMessage(["given", text]);
};
`;

/** Resolves with what the sleeper tells, when it has told as much as is wanted. */
async function told(
  wanted: number,
  act: (mailbox: Mailbox, post: (text: string) => void) => unknown,
): Promise<[string, string][]> {
  const heard: [string, string][] = [];
  const worker = new Worker(URL.createObjectURL(new Blob([SLEEPER], { type: "text/javascript" })), {
    type: "module",
  });
  const mailbox = new Mailbox();
  const post = (message: unknown) => mailbox.post(() => worker.postMessage(message));
  try {
    await new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`only ${heard.length} were told`)), WITHIN);
      worker.onmessage = ({ data }) => {
        heard.push(data);
        if (heard.length < wanted) return;
        clearTimeout(late);
        resolve();
      };
      post(mailbox.memory);
      act(mailbox, post);
    });
  } finally {
    // one that sleeps would hear of nothing
    post("the end");
    worker.terminate();
  }
  return heard;
}

/** Give it, as soon as somebody sleeps. */
async function given(mailbox: Mailbox, text: string): Promise<void> {
  while (!mailbox.give(text)) await new Promise((resolve) => setTimeout(resolve, 1));
}

Deno.test("a sleeper is given a text, and is woken for what is posted", async () => {
  const texts = ["", "a", "é€😀", "\0", "x".repeat(128 * 1024)];
  const heard = await told(7, async (mailbox, post) => {
    for (const text of texts) await given(mailbox, text);
    post("large");
    await given(mailbox, "last");
  });
  assert.deepEqual(heard, [...texts.map((text) => ["given", text]), ["posted", "large"], ["given", "last"]]);
});

Deno.test("nothing is lost, doubled or out of turn, whichever way it goes", async () => {
  const count = 20_000;
  let taken = 0;
  const heard = await told(count, async (mailbox, post) => {
    for (let number = 0; number < count; number++) {
      if (number % 7 > 0 && mailbox.give(String(number))) taken++;
      else post(String(number));
      if (number % 3 === 0) { for (let spin = 0; spin < number % 1000; spin++) Math.sqrt(spin); }
      if (number % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    }
  });
  assert.deepEqual(
    heard.map(([, text]) => Number(text)),
    Array.from({ length: count }, (_, number) => number),
  );
  assert.equal(heard.filter(([way]) => way === "given").length, taken);
  assert.ok(taken > 0 && taken < count);
});

Deno.test("nobody who is awake is given anything, nor what has no room or is no Unicode", async () => {
  assert.equal(new Mailbox().give("a"), false);
  await told(1, async (mailbox) => {
    await given(mailbox, "first");
    for (const text of ["x".repeat(128 * 1024 + 1), "é".repeat(128 * 1024), "\ud800"]) {
      assert.equal(mailbox.give(text), false);
    }
  });
});

Deno.test("whatever a jail writes there, the broker goes on", () => {
  const mailbox = new Mailbox();
  const words = new Int32Array(mailbox.memory, 0, 3);
  for (let round = 0; round < 10_000; round++) {
    crypto.getRandomValues(words);
    if (round % 2) words[0] = round << 2 | 1;
    mailbox.give("text");
    mailbox.post(() => {});
  }
});
