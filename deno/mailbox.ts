/**
 * A mailbox in memory that broker and jail share; there is one for each direction. Who has nothing to do but to wait for
 * the other's next message sleeps at it, and is given the message at once: no event loop, no suspended stack. All other
 * messages are posted, and wake the sleeper so that it looks after them. Handed to the jail beside `worker.ts`.
 *
 * The jail can write what it likes here. What it can spoil is what it is told itself; what it tells is hearsay in either
 * way, and for each thing that it is told it cannot hold the broker for longer than `patience`.
 *
 * @module
 */

/** The words before the text: what the sleeper does, how many bytes the text has, how many messages were posted. */
const STATE = 0, LENGTH = 1, POSTED = 2, WORDS = 3;
/** States. That of a sleeper has, above these bits, how many posted messages have come to it. */
const AWAKE = 0, ASLEEP = 1, BEING_FILLED = 2, FULL = 3;
const ROOM = 128 * 1024;
/**
 * How long a message is looked for before its sleeper really sleeps, in milliseconds, if the one before came as soon: to be
 * woken takes longer than most answers, above all where the processor belongs to a virtual machine that halts it.
 */
const BRIEF = 1;
/** How long `meanwhile` is not called, in milliseconds. */
const SLICE = 50;
/** The most sleeps in which it is not looked for, after it was in vain: others may want the processors. */
const MOST_SKIPPED = 64;
/** In the place of a length: there is no text, but a message was posted. */
const POST = -1;

// with one processor, to look is to keep the other from it; later the jail cannot ask any more
const alone = navigator.hardwareConcurrency < 2;
// the jail's own clock may stand still, and notes who looks at it
const now = performance.now.bind(performance);

function asleep(count: number): number {
  return count << 2 | ASLEEP;
}

/** Both ends of it. */
export class Mailbox {
  /** What is shared. */
  readonly memory: SharedArrayBuffer;
  /** How long a text that was begun may take, in milliseconds: a machine under load may stop who writes it for a while. */
  patience = 5000;
  /** What is done again and again while such a text is awaited. */
  meanwhile = () => {};
  #words: Int32Array;
  #room: Uint8Array;
  #posted = 0;
  /** Whether what was last slept for came soon. */
  #brief = false;
  /** In how many sleeps that may be brief it is not looked for, and in how many after the next that was in vain. */
  #skipped = 0;
  #vain = 1;

  /** `memory`: what the other end shares; a new one if it is not given. */
  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(4 * WORDS + ROOM)) {
    this.memory = memory;
    this.#words = new Int32Array(memory, 0, WORDS);
    this.#room = new Uint8Array(memory, 4 * WORDS);
  }

  /** The teller's: whether somebody sleeps here, whom a text could be given. */
  get hasSleeper(): boolean {
    return Atomics.load(this.#words, STATE) === asleep(this.#posted);
  }

  /** The teller's: give a text to the sleeper. False if nobody sleeps or it has no room: then it is to be posted. */
  give(text: string): boolean {
    // what is no Unicode would not come out as it went in
    if (text.length > ROOM || !text.isWellFormed()) return false;
    const expected = asleep(this.#posted);
    const bytes = new TextEncoder().encode(text);
    if (bytes.length > ROOM) return false;
    if (Atomics.compareExchange(this.#words, STATE, expected, BEING_FILLED) !== expected) return false;
    this.#room.set(bytes);
    this.#wake(bytes.length);
    return true;
  }

  /** The teller's: post a message to the sleeper's event loop, to which it goes back for it. */
  post(act: () => void): void {
    this.#posted++;
    Atomics.add(this.#words, POSTED, 1);
    act();
    const state = Atomics.load(this.#words, STATE);
    if ((state & 3) !== ASLEEP) return;
    if (Atomics.compareExchange(this.#words, STATE, state, BEING_FILLED) === state) this.#wake(POST);
  }

  #wake(length: number): void {
    Atomics.store(this.#words, LENGTH, length);
    Atomics.store(this.#words, STATE, FULL);
    Atomics.notify(this.#words, STATE);
  }

  /**
   * The sleeper's: be counted as asleep already, before it says that to which a text is the answer. `sleep` follows, with
   * the same count.
   */
  lieDown(came: number): void {
    Atomics.store(this.#words, STATE, asleep(came));
  }

  /**
   * The sleeper's: sleep until a text is given, so many milliseconds at most; null if none was, or if there are posted
   * messages beside the `came` that it has had. Throws an error if there is a text to come which does not come.
   */
  sleep(came: number, milliseconds = Infinity): string | null {
    const words = this.#words, sleeping = asleep(came);
    const wakes = () => Atomics.compareExchange(words, STATE, sleeping, AWAKE) === sleeping;
    const began = now(), until = began + milliseconds;
    Atomics.compareExchange(words, STATE, AWAKE, sleeping);
    if (Atomics.load(words, POSTED) !== (came | 0) && wakes()) return null;
    if (this.#brief && milliseconds >= BRIEF && !alone && --this.#skipped < 0) this.#look(sleeping, began);
    for (let state; (state = Atomics.load(words, STATE)) !== FULL;) {
      const left = until - now();
      if (left <= 0 && wakes()) {
        this.#brief &&= milliseconds < BRIEF;
        return null;
      }
      if (left <= -this.patience) throw new Error("a message that was begun does not come");
      Atomics.wait(words, STATE, state, left > 0 ? left : SLICE);
      if (left <= 0) this.meanwhile();
    }
    this.#brief = now() < began + BRIEF;
    const length = Atomics.load(words, LENGTH);
    const text = length === POST ? null : new TextDecoder().decode(this.#room.slice(0, length));
    Atomics.store(words, STATE, AWAKE);
    return text;
  }

  /** Look for a message. Where that is in vain it is done less and less. */
  #look(sleeping: number, began: number): void {
    while (Atomics.load(this.#words, STATE) === sleeping && now() < began + BRIEF) Atomics.pause();
    const inVain = Atomics.load(this.#words, STATE) === sleeping;
    this.#skipped = inVain ? this.#vain : 0;
    this.#vain = inVain ? Math.min(2 * this.#vain, MOST_SKIPPED) : Math.max(this.#vain >> 1, 1);
  }
}
