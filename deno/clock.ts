/**
 * How long a job computes, by the wall and by the processor. Knows no jail.
 *
 * @module
 */

let node: typeof import("node:process") | null = null;

/**
 * Node's way to ask for processor time, which needs no permission, and the timers, which are Node's too. To load them
 * takes as long as Deno's own start, so it is done while a jail boots and there is nothing else to do.
 */
export function loadNode(): void {
  clearTimeout(setTimeout(() => {}, 0));
  void import("node:process").then((loaded) => node = loaded.default);
}

/** The processor time that this process has taken, in milliseconds; NaN while the way to ask is being loaded. */
function processorTime(): number {
  if (!node) return NaN;
  const { user, system } = node.cpuUsage();
  return (user + system) / 1000;
}

/**
 * Measures the time in which the jail computes: all of it, but of a span in which calls were open no more than the
 * processor worked. So neither a slow host counts nor a slow machine, and slices of computing between two waits do. The
 * moment in which an answer is looked for before anybody sleeps (mailbox.ts) counts too.
 */
export class ComputingClock {
  #spent = 0;
  #since = performance.now();
  /** Of the span in which calls are open. */
  #processor = NaN;
  #waited = false;

  /** A call is open, now at least. */
  waits(): void {
    if (this.#waited) return;
    this.tick(true);
  }

  /** Charge what has passed, and give the sum in milliseconds. `waits`: calls are open now. */
  tick(waits: boolean): number {
    const now = performance.now();
    const passed = now - this.#since;
    // to ask costs more than all else here, and most spans have no call
    const processor = waits || this.#waited ? processorTime() : NaN;
    // unknown only in the first moments of a process
    this.#spent += this.#waited ? Math.min(passed, processor - this.#processor || 0) : passed;
    this.#since = now;
    this.#processor = processor;
    this.#waited = waits;
    return this.#spent;
  }
}
