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

/** Acts on the memory that it is sent, as often as it is told to. */
const WRITER = `
import { Mailbox } from ${JSON.stringify(new URL("./mailbox.ts", import.meta.url).href)};
let mailbox;
self.onmessage = ({ data }) => {
  if (data instanceof SharedArrayBuffer) mailbox = new Mailbox(data);
  else if (data === "write nonsense") {
    const words = new Int32Array(mailbox.memory, 0, 3);
    for (const until = performance.now() + 1000; performance.now() < until;) crypto.getRandomValues(words);
  } else {
    const until = performance.now() + 2000;
    while (!mailbox.give(data) && performance.now() < until);
  }
};
`;

async function withWriter(act: (mailbox: Mailbox, tell: (text: string) => void) => unknown): Promise<void> {
  const worker = new Worker(URL.createObjectURL(new Blob([WRITER], { type: "text/javascript" })), {
    type: "module",
  });
  const mailbox = new Mailbox();
  try {
    worker.postMessage(mailbox.memory);
    await act(mailbox, (text) => worker.postMessage(text));
  } finally {
    worker.terminate();
  }
}

Deno.test("the broker sleeps for as long as it said, and hears what comes meanwhile or came before", async () => {
  await withWriter((mailbox, tell) => {
    const began = performance.now();
    assert.equal(mailbox.sleep(0, 20), null);
    assert.ok(performance.now() - began >= 20);
    assert.equal(mailbox.hasSleeper, false);
    tell("one");
    assert.equal(mailbox.sleep(0, WITHIN), "one");
    // said to be asleep, it is given what it has not begun to wait for
    mailbox.lieDown(0);
    assert.equal(mailbox.give("two"), true);
    assert.equal(mailbox.sleep(0, 0), "two");
    // what was posted before is to be heard first
    mailbox.post(() => {});
    assert.equal(mailbox.sleep(0, WITHIN), null);
  });
});

Deno.test("a text that is begun and does not come, and nonsense, hold nobody", async () => {
  await withWriter(async (mailbox, tell) => {
    mailbox.patience = 200;
    let looked = 0;
    mailbox.meanwhile = () => looked++;
    mailbox.lieDown(0);
    new Int32Array(mailbox.memory)[0] = 2;
    assert.throws(() => mailbox.sleep(0, 10), /does not come/);
    assert.ok(looked >= 3);
    tell("write nonsense");
    for (const until = performance.now() + 1500; performance.now() < until;) {
      const began = performance.now();
      try {
        mailbox.sleep(0, 1);
      } catch {
        // what is told may be anything
      }
      // nobody writes for longer than a second, and nobody is waited for longer than `patience`
      assert.ok(performance.now() - began < 700);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  });
});
