import { SeikanError } from "../core/errors.ts";

/**
 * yamux frames: https://github.com/hashicorp/yamux/blob/master/spec.md
 *
 * A header is twelve bytes, big-endian: version, type, flags (2), stream (4)
 * and length (4). Only data frames have a payload; it passes as it arrives.
 */

export const FRAME = { data: 0, windowUpdate: 1, ping: 2, goAway: 3 } as const;
export const FLAG = { syn: 1, ack: 2, fin: 4, rst: 8 } as const;
export const GO_AWAY = { normal: 0, protocolError: 1, internalError: 2 } as const;

export const HEADER_LENGTH = 12;
/** What each side may send on a new stream before it hears a word. */
export const INITIAL_WINDOW = 256 * 1024;

/** Gets frames as they come, synchronously. */
export interface YamuxHandler {
  /** A header other than ping and go-away. For data, `length` payload bytes follow. */
  onFrame(type: number, flags: number, stream: number, length: number): void;
  /** Part of the payload of the data frame that `onFrame` announced. */
  onPayload(stream: number, piece: Uint8Array): void;
  onPing(isAnswer: boolean, value: number): void;
  onGoAway(code: number): void;
}

/** Decodes frames. After a throw it is useless. */
export class YamuxReader {
  readonly #handler: YamuxHandler;
  readonly #header = new Uint8Array(HEADER_LENGTH);
  #headerLength = 0;
  #stream = 0;
  #remaining = 0;
  #stopped = false;

  constructor(handler: YamuxHandler) {
    this.#handler = handler;
  }

  /** Makes `feed` drop what follows. */
  stop(): void {
    this.#stopped = true;
  }

  feed(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length && !this.#stopped) {
      at = this.#remaining > 0 ? this.#payload(chunk, at) : this.#head(chunk, at);
    }
  }

  #payload(chunk: Uint8Array, at: number): number {
    const end = Math.min(chunk.length, at + this.#remaining);
    this.#remaining -= end - at;
    this.#handler.onPayload(this.#stream, at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end));
    return end;
  }

  #head(chunk: Uint8Array, at: number): number {
    if (this.#headerLength === 0 && chunk.length - at >= HEADER_LENGTH) {
      this.#parse(chunk, at);
      return at + HEADER_LENGTH;
    }
    const taken = Math.min(HEADER_LENGTH - this.#headerLength, chunk.length - at);
    this.#header.set(chunk.subarray(at, at + taken), this.#headerLength);
    this.#headerLength += taken;
    if (this.#headerLength === HEADER_LENGTH) {
      this.#headerLength = 0;
      this.#parse(this.#header, 0);
    }
    return at + taken;
  }

  #parse(bytes: Uint8Array, at: number): void {
    const version = bytes[at]!;
    if (version !== 0) throw yamuxError(`version ${version} is not spoken here`);
    const type = bytes[at + 1]!;
    const flags = (bytes[at + 2]! << 8) | bytes[at + 3]!;
    const stream = uint32(bytes, at + 4);
    const length = uint32(bytes, at + 8);
    if (flags > 15) throw yamuxError(`unknown flags ${flags}`);
    if (type === FRAME.data || type === FRAME.windowUpdate) {
      if (stream === 0) throw yamuxError("a frame for stream 0");
      this.#stream = stream;
      this.#remaining = type === FRAME.data ? length : 0;
      return this.#handler.onFrame(type, flags, stream, length);
    }
    if (stream !== 0) throw yamuxError("a session frame with a stream");
    if (type === FRAME.ping) return this.#handler.onPing((flags & FLAG.ack) !== 0, length);
    if (type === FRAME.goAway) return this.#handler.onGoAway(length);
    throw yamuxError(`unknown frame type ${type}`);
  }
}

export function yamuxError(what: string): SeikanError {
  return new SeikanError("peer-protocol", `yamux: ${what}`);
}

function uint32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/** The twelve bytes of a header. */
export function yamuxHeader(type: number, flags: number, stream: number, length: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_LENGTH);
  bytes[1] = type;
  bytes[3] = flags;
  put32(bytes, 4, stream);
  put32(bytes, 8, length);
  return bytes;
}

function put32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}
