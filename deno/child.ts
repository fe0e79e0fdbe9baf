/**
 * One child for a program that ships Deno: its command line, its empty folder, its end. Twin of
 * `rlm_wasm/sandbox/process.py`. Knows nothing of what is said on the pipes.
 *
 * @module
 */

import type { Pipe } from "./peer.ts";

/** What boot takes (31 MB) plus room for the interpreter's own growth, in MB. */
export const BOOT_MB = 64;
/** 32-bit WebAssembly cannot hold more, in MB. */
export const MAX_MEMORY_MB = 4096 - BOOT_MB;
const STDERR_KEPT = 64 * 1024;
const PERMISSIONS = ["read", "write", "net", "env", "run", "ffi", "sys", "import"];
/** Nobody is asked, nothing of the caller's project counts, nothing is fetched and nothing kept. */
const UNATTACHED = ("--no-prompt --no-config --no-lock --no-remote --no-npm --cached-only --no-code-cache " +
  "--node-modules-dir=none --quiet").split(" ");

/** The arguments of a sealed child: every permission denied, nothing fetched, nothing read but its own files. */
export function sealedArguments(memoryMb: number): string[] {
  const pages = (BOOT_MB + memoryMb) * 16;
  return [
    "run",
    ...UNATTACHED,
    ...PERMISSIONS.map((permission) => `--deny-${permission}`),
    "--unstable-worker-options",
    "--unstable-raw-imports",
    `--v8-flags=--disallow-code-generation-from-strings,--no-wasm-deopt,--wasm-max-mem-pages=${pages}`,
    new URL("./main.ts", import.meta.url).href,
  ];
}

/** The whole environment of a child: nothing of the caller's goes in. */
export function sealedEnvironment(folder: string): Record<string, string> {
  return {
    DENO_DIR: `${folder}/deno`,
    DENO_NO_UPDATE_CHECK: "1",
    DENO_NO_PACKAGE_JSON: "1",
    NO_COLOR: "1",
    MALLOC_MMAP_THRESHOLD_: "1048576",
    // without it Windows starts no program
    ...(Deno.build.os === "windows" ? { SystemRoot: Deno.env.get("SystemRoot") ?? "C:\\Windows" } : {}),
  };
}

/** A running child in a folder of its own. Whoever spawned it closes it. */
export class Child implements Pipe {
  #folder: string;
  #process: Deno.ChildProcess;
  #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  #output: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  #unread = new Uint8Array();
  #errors = new Uint8Array();
  #drained: Promise<void>;

  private constructor(process: Deno.ChildProcess, folder: string) {
    this.#folder = folder;
    this.#process = process;
    this.#input = process.stdin.getWriter();
    this.#output = process.stdout.getReader();
    this.#drained = this.#drainErrors();
  }

  /** Start a child. `deno` is the program, `memoryMb` the memory of its sandbox beyond boot. Rejects with what stopped it. */
  static async spawn(deno: string, memoryMb: number): Promise<Child> {
    if (!import.meta.url.startsWith("file:")) throw new Error("the files of rlm_wasm must lie on a disk");
    const folder = await Deno.makeTempDir({ prefix: "rlm-wasm-" });
    try {
      const work = `${folder}/work`;
      await Deno.mkdir(work, { mode: 0o700 });
      const command = new Deno.Command(deno, {
        args: sealedArguments(memoryMb),
        cwd: work,
        clearEnv: true,
        env: sealedEnvironment(folder),
        stdin: "piped",
        stdout: "piped",
        stderr: "piped",
      });
      return new Child(command.spawn(), folder);
    } catch (error) {
      await Deno.remove(folder, { recursive: true });
      throw error;
    }
  }

  /** Resolves when the process has ended. */
  get ended(): Promise<Deno.CommandStatus> {
    return this.#process.status;
  }

  /** The last that it wrote to stderr, with control characters escaped. */
  get stderrTail(): string {
    const text = new TextDecoder().decode(this.#errors);
    // deno-lint-ignore no-control-regex -- those are what a terminal would obey
    return text.replace(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/g, (c) => `\\x${c.charCodeAt(0).toString(16)}`).trim();
  }

  async read(into: Uint8Array<ArrayBuffer>): Promise<number | null> {
    while (this.#unread.length === 0) {
      const { value, done } = await this.#output.read();
      if (done) return null;
      this.#unread = value;
    }
    const chunk = this.#unread.subarray(0, into.length);
    into.set(chunk);
    this.#unread = this.#unread.subarray(chunk.length);
    return chunk.length;
  }

  write(bytes: Uint8Array<ArrayBuffer>): void {
    // a child that is gone is noticed where it is read from
    this.#input.write(bytes).catch(() => {});
  }

  /** End the process. Does not wait. */
  kill(): void {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // it has ended already
    }
  }

  /** Kill it if it still runs, and sweep its folder away. */
  async close(): Promise<void> {
    this.kill();
    await this.ended;
    await Promise.allSettled([this.#input.abort(), this.#output.cancel(), this.#drained]);
    // what cannot be removed now is in the system's folder for temporary files
    await Deno.remove(this.#folder, { recursive: true }).catch(() => {});
  }

  async #drainErrors(): Promise<void> {
    for await (const chunk of this.#process.stderr) {
      const errors = new Uint8Array(this.#errors.length + chunk.length);
      errors.set(this.#errors);
      errors.set(chunk, this.#errors.length);
      this.#errors = errors.slice(-STDERR_KEPT);
    }
  }
}
