/**
 * JSON-RPC 2.0 over frames: ids, replies, calls coming back. Twin of `rlm_wasm/sandbox/peer.py`. Knows no message by
 * name and no pipe: it is given a way to read and a way to write.
 *
 * @module
 */

import { encodeBlobHeader, encodeMessage, type Frame, FrameReader, WireError } from "./wire.ts";

/** The JSON-RPC 2.0 error codes in use; those above -32100 and below -32000 are this protocol's own. */
export const ErrorCode = {
  methodNotFound: -32601,
  invalidParams: -32602,
  internal: -32603,
  /** A host function failed; the message may be shown to the cell. */
  functionFailed: -32000,
  /** A cell did not answer its interrupt; the process ends after this reply. */
  unresponsive: -32001,
  /** The interpreter died; the process ends after this reply. */
  died: -32002,
  /** The protocol versions differ. */
  wrongProtocol: -32003,
  /** A limit of the run is reached; `data.partial` holds what was had. */
  limitReached: -32004,
  /** The sandbox could not be started, or its self-test failed; the process ends after this reply. */
  notSafe: -32005,
} as const;

/** An error reply, to be sent or as received. */
export class RpcError extends Error {
  override name = "RpcError";
  /** The code of `ErrorCode` or any other that the other side chose. */
  readonly code: number;
  /** What came with it. */
  readonly data: unknown;

  constructor(code: number, message: string, data?: unknown) {
    super(message);
    this.code = code;
    this.data = data;
  }
}

/** The pipe under a peer. */
export interface Pipe {
  /** Read into the buffer; the count, or null at the end. */
  read(into: Uint8Array<ArrayBuffer>): Promise<number | null>;
  /** Write all of the bytes. */
  write(bytes: Uint8Array): void;
}

/** What answers requests and takes notifications. */
export type Handler = (method: string, params: unknown) => unknown;

type Fields = Record<string, unknown>;

/** The object's fields, or an RpcError that says what was wanted. */
export function fields(value: unknown, what: string): Fields {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Fields;
  throw new RpcError(ErrorCode.invalidParams, `${what}: an object is wanted`);
}

/** One end of a connection. */
export class Peer {
  #pipe: Pipe;
  #handler: Handler;
  #reader = new FrameReader();
  #nextId = 0;
  #pending = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  #blobs = new Map<number, Uint8Array<ArrayBuffer>>();

  constructor(pipe: Pipe, handler: Handler) {
    this.#pipe = pipe;
    this.#handler = handler;
  }

  /** Ask the other side; rejects with `RpcError` if it answers with one. */
  request(method: string, params: unknown): Promise<unknown> {
    const id = ++this.#nextId;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve, reject });
    this.#pipe.write(encodeMessage({ jsonrpc: "2.0", id, method, params }));
    return promise;
  }

  /** Tell the other side; no answer comes. */
  notify(method: string, params: unknown): void {
    this.#pipe.write(encodeMessage({ jsonrpc: "2.0", method, params }));
  }

  /** Send raw bytes ahead of a message that refers to them by the number returned. */
  sendBlob(bytes: Uint8Array): number {
    const id = ++this.#nextId;
    this.#pipe.write(encodeBlobHeader(id, bytes.length));
    this.#pipe.write(bytes);
    return id;
  }

  /** The bytes that came under this number, once: a second taking is an error. */
  takeBlob(id: unknown): Uint8Array<ArrayBuffer> {
    const bytes = typeof id === "number" ? this.#blobs.get(id) : undefined;
    if (!bytes) throw new RpcError(ErrorCode.invalidParams, `no blob ${id} has been sent`);
    this.#blobs.delete(id as number);
    return bytes;
  }

  /** Read and serve until the pipe ends. Throws `WireError` on bytes that are not frames. */
  async serve(): Promise<void> {
    for (;;) {
      const count = await this.#pipe.read(this.#reader.space());
      if (count === null) break;
      for (const frame of this.#reader.filled(count)) this.#take(frame);
    }
    if (!this.#reader.idle) throw new WireError("the pipe ended in the middle of a frame");
    for (const { reject } of this.#pending.values()) reject(new WireError("the pipe has ended"));
    this.#pending.clear();
  }

  #take(frame: Frame): void {
    if ("blob" in frame) {
      if (this.#blobs.has(frame.blob)) throw new WireError(`blob ${frame.blob} was sent twice`);
      this.#blobs.set(frame.blob, frame.bytes);
      return;
    }
    const message = frame.message as Fields | null;
    if (typeof message !== "object" || message === null || message.jsonrpc !== "2.0") {
      throw new WireError("not a JSON-RPC 2.0 message");
    }
    if (typeof message.method === "string") void this.#answer(message.id, message.method, message.params);
    else this.#settle(message);
  }

  #settle(message: Fields): void {
    const waiting = this.#pending.get(message.id as number);
    if (!waiting) throw new WireError(`a reply to nothing that was asked: ${JSON.stringify(message.id)}`);
    this.#pending.delete(message.id as number);
    const error = message.error as Fields | undefined;
    if (!error) waiting.resolve(message.result);
    else waiting.reject(new RpcError(Number(error.code), String(error.message), error.data));
  }

  async #answer(id: unknown, method: string, params: unknown): Promise<void> {
    let reply: Fields;
    try {
      reply = { result: (await this.#handler(method, params)) ?? null };
    } catch (error) {
      const known = error instanceof RpcError;
      reply = {
        error: {
          code: known ? error.code : ErrorCode.internal,
          message: String((error as Error)?.message ?? error),
          data: known ? error.data : undefined,
        },
      };
    }
    if (id !== undefined) this.#pipe.write(encodeMessage({ jsonrpc: "2.0", id, ...reply }));
  }
}
