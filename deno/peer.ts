/**
 * JSON-RPC 2.0 over frames: ids, replies, calls coming back. Twin of `rlm_wasm/sandbox/peer.py`. Knows no message by
 * name and no pipe: it is given a way to read and a way to write.
 *
 * @module
 */

import { encodeBlobHeader, encodeMessage, type Frame, FrameReader, type Message, WireError } from "./wire.ts";

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

/** The pipe ended between two frames; nothing more will come. */
export class ConnectionEnded extends Error {
  override name = "ConnectionEnded";

  constructor() {
    super("the pipe has ended");
  }
}

/** Fill what `space` gives with what comes, and say how much it was each time; null at the end. */
export type Push = (space: () => Uint8Array<ArrayBuffer>, filled: (count: number | null) => void) => void;

/** The pipe under a peer. */
export interface Pipe {
  /** Read into the buffer; the count, or null at the end. With 0 it says that it has a `push` now. */
  read(into: Uint8Array<ArrayBuffer>): Promise<number | null>;
  /** A quicker way to read, which takes the place of `read` for good as soon as there is one. */
  push?: Push | null;
  /** Write all of the bytes. */
  write(bytes: Uint8Array<ArrayBuffer>): void;
  /** What a message ends with; "\n" for a pipe that is written to by lines. */
  readonly end?: "" | "\n";
}

/** What answers requests and takes notifications; of those, which want no reply, nobody sees result or failure. */
export type Handler = (method: string, params: unknown, wantsReply: boolean) => unknown;

/** Requests of the other side that may be open at once. */
const MAX_OPEN_CALLS = 10_000;
/** Blobs that may wait for the message that refers to them. */
const MAX_HELD_BLOBS = 16;

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
  #reader: FrameReader;
  #nextId = 0;
  #pending = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  #openCalls = new Set<unknown>();
  #blobs = new Map<number, Uint8Array<ArrayBuffer>>();
  #ended: Error | null = null;

  /** `maxBlob`: the largest blob that is accepted, in bytes; what `FrameReader` takes if it is not given. */
  constructor(pipe: Pipe, handler: Handler, maxBlob?: number) {
    this.#pipe = pipe;
    this.#handler = handler;
    this.#reader = new FrameReader(maxBlob);
  }

  /** How many requests of the other side are being answered now. */
  get openCalls(): number {
    return this.#openCalls.size;
  }

  #encode(message: Omit<Message, "jsonrpc">): Uint8Array<ArrayBuffer> {
    return encodeMessage({ jsonrpc: "2.0", ...message }, this.#pipe.end);
  }

  /** Ask the other side; rejects with `RpcError` if it answers with one, else with the reason why `serve` ended. */
  request(method: string, params: unknown): Promise<unknown> {
    if (this.#ended) return Promise.reject(this.#ended);
    const id = ++this.#nextId;
    const message = this.#encode({ id, method, params });
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve, reject });
    this.#pipe.write(message);
    return promise;
  }

  /** Tell the other side; no answer comes. */
  notify(method: string, params: unknown): void {
    this.#pipe.write(this.#encode({ method, params }));
  }

  /** Send raw bytes ahead of a message that refers to them by the number returned. */
  sendBlob(bytes: Uint8Array<ArrayBuffer>): number {
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

  /** While the job runs, take blobs of at most so many bytes; what it leaves untaken is forgotten. */
  async accepting<Result>(maxBlob: number, job: () => Promise<Result>): Promise<Result> {
    const before = this.#reader.maxBlob;
    this.#reader.maxBlob = maxBlob;
    try {
      return await job();
    } finally {
      this.#reader.maxBlob = before;
      this.#blobs.clear();
    }
  }

  /** Give back the buffer of a blob that was taken, to be filled again. */
  recycle(buffer: ArrayBuffer): void {
    this.#reader.recycle(buffer);
  }

  /** Read and serve until the pipe ends; then nothing is pending any more. Throws `WireError` on what is no frame. */
  async serve(): Promise<void> {
    let reason: Error = new ConnectionEnded();
    try {
      await this.#read();
    } catch (error) {
      throw reason = error as Error;
    } finally {
      this.#ended = reason;
      for (const { reject } of this.#pending.values()) reject(reason);
      this.#pending.clear();
    }
  }

  async #read(): Promise<void> {
    while (!this.#pipe.push) {
      const count = await this.#pipe.read(this.#reader.space());
      if (count === null) break;
      if (count > 0) this.#filled(count);
    }
    if (this.#pipe.push) await this.#pushed(this.#pipe.push);
    if (!this.#reader.idle) throw new WireError("the pipe ended in the middle of a frame");
  }

  #pushed(push: Push): Promise<void> {
    return new Promise((resolve, reject) => {
      push(() => this.#reader.space(), (count) => {
        try {
          if (count === null) resolve();
          else this.#filled(count);
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  #filled(count: number): void {
    for (const frame of this.#reader.filled(count)) this.#take(frame);
  }

  #take(frame: Frame): void {
    if ("blob" in frame) {
      if (this.#blobs.has(frame.blob)) throw new WireError(`blob ${frame.blob} was sent twice`);
      if (this.#blobs.size >= MAX_HELD_BLOBS) throw new WireError("blobs that no message refers to");
      this.#blobs.set(frame.blob, frame.bytes);
      return;
    }
    const { message } = frame;
    if (message.method === undefined) {
      this.#settle(message);
      return;
    }
    this.#open(message.id);
    void this.#answer(message.id, message.method, message.params);
  }

  #settle({ id, result, error }: Message): void {
    const waiting = this.#pending.get(id as number);
    if (!waiting) throw new WireError(`a reply to nothing that was asked: ${JSON.stringify(id)}`);
    if ((result === undefined) === (error === undefined)) {
      throw new WireError("a reply with neither a result nor an error, or with both");
    }
    this.#pending.delete(id as number);
    if (error) waiting.reject(new RpcError(error.code, error.message, error.data));
    else waiting.resolve(result);
  }

  #open(id: Message["id"]): void {
    if (id === undefined) return;
    if (this.#openCalls.has(id) || this.#openCalls.size >= MAX_OPEN_CALLS) {
      throw new WireError("a request with an id that is in use, or too many requests at once");
    }
    this.#openCalls.add(id);
  }

  async #answer(id: Message["id"], method: string, params: unknown): Promise<void> {
    let reply: Uint8Array<ArrayBuffer>;
    try {
      const result = (await this.#handler(method, params, id !== undefined)) ?? null;
      reply = this.#encode({ id, result });
    } catch (error) {
      const { code, data } = error instanceof RpcError ? error : { code: ErrorCode.internal };
      const message = String((error as Error)?.message ?? error);
      reply = this.#encode({ id, error: { code, message, data } });
    }
    if (id === undefined) return;
    this.#openCalls.delete(id);
    this.#pipe.write(reply);
  }
}
