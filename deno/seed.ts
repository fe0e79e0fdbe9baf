/**
 * Chance and time: those of a sandbox that is to do the same each time, numbers from a seed and a clock that stands
 * still but for what is counted; and whether anybody looks at them. Handed to the jail beside `worker.ts`; no defence,
 * and none is needed.
 *
 * @module
 */

/** Milliseconds by which the clock goes on each time that somebody looks at it. */
const TICK = 0.001;

/** 32 bits after 32 bits from a seed (Marsaglia's xorshift, mixed by a multiplication). */
function numbers(seed: number): () => number {
  // the sequence of 0 would be 0 for ever
  let state = BigInt.asUintN(64, BigInt(seed)) ^ 0x9e3779b97f4a7c15n || 1n;
  return () => {
    state ^= state >> 12n;
    state = BigInt.asUintN(64, state ^ state << 25n);
    state ^= state >> 27n;
    return Number(BigInt.asUintN(64, state * 0x2545f4914f6cdd1dn) >> 32n);
  };
}

/**
 * Let everything that Python takes for random or for time come from here. `clock` is in milliseconds since the epoch.
 * Gives what a sleep of so many milliseconds does to the clock.
 */
export function fix(seed: number, clock: number): (milliseconds: number) => void {
  const next = numbers(seed);
  let passed = 0;
  const look = () => passed += TICK;
  crypto.getRandomValues = <T extends ArrayBufferView | null>(array: T): T => {
    if (!array) return array;
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let index = 0; index < bytes.length; index++) bytes[index] = next() & 0xff;
    return array;
  };
  Date.now = () => clock + look();
  performance.now = look;
  return (milliseconds) => passed += milliseconds;
}

/** From now on let `looked` be told each time that somebody takes a random number or reads a clock. */
export function watch(looked: () => void): void {
  const draw = crypto.getRandomValues.bind(crypto) as (array: ArrayBufferView | null) => unknown;
  const today = Date.now, now = performance.now.bind(performance);
  crypto.getRandomValues = <T extends ArrayBufferView | null>(array: T): T => {
    looked();
    return draw(array) as T;
  };
  Date.now = () => {
    looked();
    return today();
  };
  performance.now = () => {
    looked();
    return now();
  };
}
