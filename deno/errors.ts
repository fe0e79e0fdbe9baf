/**
 * The error tree of the public door: what a program that ships Deno may have to catch. Twin of `rlm_wasm/errors.py`.
 * A mistake in the code of a cell is none of these: it is `Executed.error`.
 *
 * @module
 */

/** The sandbox, as a process or as a protocol, failed; or it is closed. */
export class SandboxError extends Error {
  override name = "SandboxError";
}

/** A sandbox could not be started: no Deno, a permission that is wanted, missing files, a self-test that failed. */
export class SandboxStartError extends SandboxError {
  override name = "SandboxStartError";
}

/** What went down with a child. */
export interface Loss {
  /** Variables that were in it and are not among those loaded. */
  lost: string[];
  /** The head of what the cell had printed. */
  output: string;
}

/** The child process ended without saying goodbye. */
export class SandboxCrashed extends SandboxError implements Loss {
  override name = "SandboxCrashed";
  /** Its exit code; that of a shell (128 and more) for a signal. */
  readonly exitCode: number;
  /** The last that it wrote to stderr, with control characters escaped. */
  readonly stderrTail: string;
  lost: string[] = [];
  output = "";

  constructor(message: string, exitCode: number, stderrTail: string) {
    super(message);
    this.exitCode = exitCode;
    this.stderrTail = stderrTail;
  }
}

/** A cell did not end after it was interrupted, and was ended together with its process. */
export class SandboxTimeout extends SandboxError implements Loss {
  override name = "SandboxTimeout";
  /** The deadline that it had, in seconds. */
  readonly seconds: number;
  lost: string[] = [];
  output = "";

  constructor(message: string, seconds: number) {
    super(message);
    this.seconds = seconds;
  }
}

/** The child sent what is not a frame, or a frame that it may not send. It is treated as hostile and killed. */
export class ProtocolError extends SandboxError implements Loss {
  override name = "ProtocolError";
  lost: string[] = [];
  output = "";
}

/**
 * Thrown by a caller's own host function: its text is shown to the code in the sandbox. Of any other error only the
 * class name goes down, because a text may hold keys and paths.
 */
export class FunctionError extends Error {
  override name = "FunctionError";
}
