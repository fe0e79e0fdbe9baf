/**
 * A mailbox in memory that broker and jail share. A jail that has nothing to do but to wait for the broker's next message
 * sleeps at it, and is given the message at once: no event loop, no suspended stack. All other messages are posted, and
 * wake the sleeper so that it looks after them. Handed to the jail beside `worker.ts`.
 *
 * The jail can write what it likes here. All that it can spoil is what it is told itself.
 *
 * @module
 */

/** The words before the text: what the sleeper does, how many bytes the text has, how many messages were posted. */
const STATE = 0, LENGTH = 1, POSTED = 2, WORDS = 3;
/** States. That of a sleeper has, above these bits, how many posted messages have come to it. */
const AWAKE = 0, ASLEEP = 1, BEING_FILLED = 2, FULL = 3;
const ROOM = 128 * 1024;
/** In the place of a length: there is no text, but a message was posted. */
const POST = -1;

function asleep(count: number): number {
  return count << 2 | ASLEEP;
}

/** Both ends of it. */
export class Mailbox {
  /** What is shared. */
  readonly memory: SharedArrayBuffer;
  #words: Int32Array;
  #room: Uint8Array;
  #posted = 0;

  /** `memory`: what the other end shares; a new one if it is not given. */
  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(4 * WORDS + ROOM)) {
    this.memory = memory;
    this.#words = new Int32Array(memory, 0, WORDS);
    this.#room = new Uint8Array(memory, 4 * WORDS);
  }

  /** The broker's: whether somebody sleeps here, whom a text could be given. */
  get hasSleeper(): boolean {
    return Atomics.load(this.#words, STATE) === asleep(this.#posted);
  }

  /** The broker's: give a text to the sleeper. False if nobody sleeps or it has no room: then it is to be posted. */
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

  /** The broker's: post a message to the jail's event loop, to which a sleeper goes back for it. */
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

  /** The jail's: sleep until a text is given; null if there are posted messages beside the `came` that it has had. */
  sleep(came: number): string | null {
    const words = this.#words;
    Atomics.store(words, STATE, asleep(came));
    if (Atomics.load(words, POSTED) !== (came | 0)) {
      if (Atomics.compareExchange(words, STATE, asleep(came), AWAKE) === asleep(came)) return null;
    }
    for (let state = asleep(came); state !== FULL; state = Atomics.load(words, STATE)) {
      Atomics.wait(words, STATE, state);
    }
    const length = Atomics.load(words, LENGTH);
    const text = length === POST ? null : new TextDecoder().decode(this.#room.slice(0, length));
    Atomics.store(words, STATE, AWAKE);
    return text;
  }
}
