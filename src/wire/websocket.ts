import { SeikanError } from "../core/errors.ts";

/**
 * WebSocket frames (RFC 6455 section 5): a decoder that passes payload on as
 * it arrives, and an encoder. No message is ever collected here.
 */

export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

/** RFC 6455 section 7.4.1. */
export const CLOSE_CODE = {
  normal: 1000,
  goingAway: 1001,
  protocolError: 1002,
  unsupportedData: 1003,
  invalidPayload: 1007,
  messageTooBig: 1009,
  internalError: 1011,
} as const;

/** A peer broke the protocol; `closeCode` is what it is told. */
export class FrameError extends SeikanError {
  readonly closeCode: number;

  constructor(closeCode: number, message: string) {
    super("peer-protocol", `WebSocket: ${message}`);
    this.closeCode = closeCode;
  }
}

/** Gets what frames hold, synchronously. */
export interface FrameHandler {
  /** A piece of a message. `last`: the message ends with it; such a piece can be empty. */
  onMessageData(piece: Uint8Array, isText: boolean, last: boolean): void;
  onPing(payload: Uint8Array): void;
  onPong(payload: Uint8Array): void;
  /** `code` is undefined for a close frame without one. */
  onCloseFrame(code: number | undefined, reason: string): void;
}

export interface FrameReaderOptions {
  /** A server gets masked frames only, a client unmasked ones only (RFC 6455 section 5.1). */
  readonly role: "client" | "server";
  /** Payload bytes of one frame; more are refused before any of them is taken. */
  readonly maxFrame: number;
  /** Text messages are refused (1003). */
  readonly binaryOnly: boolean;
}

const CONTROL_PAYLOAD = 125;
const LONGEST_HEADER = 14;

/**
 * Decodes frames. Payload is unmasked in place: the chunks that it is fed are
 * its own from then on. After a throw it is useless.
 */
export class FrameReader {
  readonly #handler: FrameHandler;
  readonly #options: FrameReaderOptions;
  /** A header that lies in more than one chunk. */
  readonly #header = new Uint8Array(LONGEST_HEADER);
  #headerLength = 0;
  #opcode = 0;
  #final = false;
  #remaining = 0;
  #inPayload = false;
  #masked = false;
  readonly #key = new Uint8Array(4);
  /** Position in the mask, for a payload that lies in more than one chunk. */
  #phase = 0;
  /** The kind of the message whose fragments are arriving. */
  #message: 0 | 1 | 2 = 0;
  #control: Uint8Array | undefined;
  #controlLength = 0;
  #utf8: TextDecoder | undefined;
  #stopped = false;

  constructor(handler: FrameHandler, options: FrameReaderOptions) {
    this.#handler = handler;
    this.#options = options;
  }

  /** Makes `feed` drop what follows: the handler has had enough. */
  stop(): void {
    this.#stopped = true;
  }

  feed(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length && !this.#stopped) {
      at = this.#inPayload ? this.#payload(chunk, at) : this.#head(chunk, at);
    }
  }

  /** Takes header bytes from `at`; returns where they end. */
  #head(chunk: Uint8Array, at: number): number {
    let bytes = chunk;
    let start = at;
    let taken = 0;
    if (this.#headerLength > 0) {
      taken = Math.min(LONGEST_HEADER - this.#headerLength, chunk.length - at);
      this.#header.set(chunk.subarray(at, at + taken), this.#headerLength);
      bytes = this.#header;
      start = 0;
    }
    const available = bytes === chunk ? chunk.length - at : this.#headerLength + taken;
    const length = headerLength(bytes, start, available);
    if (length === undefined) {
      if (bytes === chunk) this.#header.set(chunk.subarray(at), 0);
      this.#headerLength = available;
      // What is there already may be wrong enough.
      if (available >= 2) this.#checkStart(bytes[start]!, bytes[start + 1]!);
      return chunk.length;
    }
    const before = bytes === chunk ? 0 : this.#headerLength;
    this.#headerLength = 0;
    this.#parseHeader(bytes, start, length);
    return at + length - before;
  }

  #parseHeader(bytes: Uint8Array, at: number, length: number): void {
    const second = bytes[at + 1]!;
    this.#checkStart(bytes[at]!, second);
    this.#final = (bytes[at]! & 0x80) !== 0;
    this.#opcode = bytes[at]! & 0x0f;
    this.#remaining = payloadLength(bytes, at);
    this.#masked = (second & 0x80) !== 0;
    if (this.#masked) this.#key.set(bytes.subarray(at + length - 4, at + length));
    this.#phase = 0;
    this.#startFrame();
    this.#inPayload = true;
    if (this.#remaining === 0) this.#endFrame();
  }

  /** Everything the first two bytes can have wrong. */
  #checkStart(first: number, second: number): void {
    if ((first & 0x70) !== 0)
      throw new FrameError(CLOSE_CODE.protocolError, "a reserved bit is set, and no extension was agreed on");
    const opcode = first & 0x0f;
    const isControl = opcode >= OPCODE.close;
    if ((opcode > OPCODE.binary && !isControl) || opcode > OPCODE.pong)
      throw new FrameError(CLOSE_CODE.protocolError, `unknown opcode ${opcode}`);
    if (isControl && (first & 0x80) === 0) throw new FrameError(CLOSE_CODE.protocolError, "a fragmented control frame");
    if (isControl && (second & 0x7f) > CONTROL_PAYLOAD)
      throw new FrameError(CLOSE_CODE.protocolError, "a control frame that is too long");
    const masked = (second & 0x80) !== 0;
    if (masked && this.#options.role === "client")
      throw new FrameError(CLOSE_CODE.protocolError, "the server masks its frames");
    if (!masked && this.#options.role === "server")
      throw new FrameError(CLOSE_CODE.protocolError, "the client does not mask its frames");
  }

  #startFrame(): void {
    const opcode = this.#opcode;
    if (opcode >= OPCODE.close) {
      this.#control = new Uint8Array(this.#remaining);
      this.#controlLength = 0;
      return;
    }
    if (opcode === OPCODE.continuation) {
      if (this.#message === 0) throw new FrameError(CLOSE_CODE.protocolError, "a continuation of nothing");
    } else {
      if (this.#message !== 0) throw new FrameError(CLOSE_CODE.protocolError, "a new message inside a fragmented one");
      this.#message = opcode as 1 | 2;
      if (opcode === OPCODE.text) this.#startText();
    }
    if (this.#remaining > this.#options.maxFrame)
      throw new FrameError(
        CLOSE_CODE.messageTooBig,
        `a frame of ${this.#remaining} bytes; ${this.#options.maxFrame} is the most`,
      );
  }

  #startText(): void {
    if (this.#options.binaryOnly)
      throw new FrameError(CLOSE_CODE.unsupportedData, "a text message where only binary ones are spoken");
    this.#utf8 = new TextDecoder("utf-8", { fatal: true });
  }

  #payload(chunk: Uint8Array, at: number): number {
    const end = Math.min(chunk.length, at + this.#remaining);
    const piece = at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end);
    if (this.#masked) this.#phase = applyMask(piece, this.#key, this.#phase);
    this.#remaining -= piece.length;
    if (this.#control !== undefined) {
      this.#control.set(piece, this.#controlLength);
      this.#controlLength += piece.length;
    } else if (this.#remaining > 0) {
      this.#deliver(piece, false);
    } else {
      this.#inPayload = false;
      this.#deliver(piece, this.#final);
      return end;
    }
    if (this.#remaining === 0) this.#endFrame();
    return end;
  }

  /** The frame is complete: an empty one, or a control frame. */
  #endFrame(): void {
    this.#inPayload = false;
    const control = this.#control;
    if (control === undefined) return this.#deliver(new Uint8Array(0), this.#final);
    this.#control = undefined;
    if (this.#opcode === OPCODE.ping) this.#handler.onPing(control);
    else if (this.#opcode === OPCODE.pong) this.#handler.onPong(control);
    else this.#closeFrame(control);
  }

  #deliver(piece: Uint8Array, last: boolean): void {
    const isText = this.#message === OPCODE.text;
    if (isText) this.#checkText(piece, last);
    if (last) this.#message = 0;
    this.#handler.onMessageData(piece, isText, last);
  }

  #checkText(piece: Uint8Array, last: boolean): void {
    try {
      this.#utf8!.decode(piece, { stream: !last });
    } catch {
      throw new FrameError(CLOSE_CODE.invalidPayload, "a text message that is not UTF-8");
    }
  }

  #closeFrame(payload: Uint8Array): void {
    this.#stopped = true;
    if (payload.length === 0) return this.#handler.onCloseFrame(undefined, "");
    const code = payload.length === 1 ? 0 : (payload[0]! << 8) | payload[1]!;
    if (!isCloseCode(code)) throw new FrameError(CLOSE_CODE.protocolError, "a close frame with an impossible code");
    try {
      const reason = new TextDecoder("utf-8", { fatal: true }).decode(payload.subarray(2));
      this.#handler.onCloseFrame(code, reason);
    } catch (error) {
      if (error instanceof SeikanError) throw error;
      throw new FrameError(CLOSE_CODE.invalidPayload, "a close reason that is not UTF-8");
    }
  }
}

/** Codes that may stand in a close frame (RFC 6455 section 7.4, IANA's registry). */
export function isCloseCode(code: number): boolean {
  if (code >= 3000 && code <= 4999) return true;
  return code >= 1000 && code <= 1014 && code !== 1004 && code !== 1005 && code !== 1006;
}

/** Length of the header that begins at `at`; undefined while too little is there. */
function headerLength(bytes: Uint8Array, at: number, available: number): number | undefined {
  if (available < 2) return undefined;
  const second = bytes[at + 1]!;
  const short = second & 0x7f;
  const length = 2 + (short === 126 ? 2 : short === 127 ? 8 : 0) + (second & 0x80 ? 4 : 0);
  return available < length ? undefined : length;
}

function payloadLength(bytes: Uint8Array, at: number): number {
  const short = bytes[at + 1]! & 0x7f;
  if (short < 126) return short;
  const view = new DataView(bytes.buffer, bytes.byteOffset + at + 2, short === 126 ? 2 : 8);
  if (short === 126) {
    const length = view.getUint16(0);
    if (length < 126) throw new FrameError(CLOSE_CODE.protocolError, "a payload length that is not minimal");
    return length;
  }
  const high = view.getUint32(0);
  const length = high * 2 ** 32 + view.getUint32(4);
  if (high >= 0x80000000) throw new FrameError(CLOSE_CODE.protocolError, "a payload length of 2^63 or more");
  if (length < 65536) throw new FrameError(CLOSE_CODE.protocolError, "a payload length that is not minimal");
  return length;
}

/**
 * XORs `bytes` in place with the four-byte key, beginning at `phase` of it
 * (RFC 6455 section 5.3); returns the phase behind them. Words where it can.
 */
export function applyMask(bytes: Uint8Array, key: Uint8Array, phase = 0): number {
  const { length, byteOffset } = bytes;
  let at = 0;
  const head = Math.min(length, -byteOffset & 3);
  for (; at < head; at++) bytes[at]! ^= key[(at + phase) & 3]!;
  const words = (length - at) >> 2;
  if (words > 0) {
    const from = at + phase;
    const word =
      key[from & 3]! | (key[(from + 1) & 3]! << 8) | (key[(from + 2) & 3]! << 16) | (key[(from + 3) & 3]! << 24);
    if (word !== 0) xorWords(new Int32Array(bytes.buffer, byteOffset + at, words), word);
    at += words << 2;
  }
  for (; at < length; at++) bytes[at]! ^= key[(at + phase) & 3]!;
  return (phase + length) & 3;
}

/** Eight at a time: a quarter faster than one by one. */
function xorWords(words: Int32Array, mask: number): void {
  const whole = words.length & ~7;
  let i = 0;
  for (; i < whole; i += 8) {
    words[i]! ^= mask;
    words[i + 1]! ^= mask;
    words[i + 2]! ^= mask;
    words[i + 3]! ^= mask;
    words[i + 4]! ^= mask;
    words[i + 5]! ^= mask;
    words[i + 6]! ^= mask;
    words[i + 7]! ^= mask;
  }
  for (; i < words.length; i++) words[i]! ^= mask;
}

/** How long the header of a frame with this payload is. */
export function frameHeaderLength(payload: number, masked: boolean): number {
  return 2 + (payload < 126 ? 0 : payload < 65536 ? 2 : 8) + (masked ? 4 : 0);
}

/** Writes the header of an unfragmented frame so that it ends at `end`; returns where it begins. */
export function writeFrameHeader(
  bytes: Uint8Array,
  end: number,
  opcode: number,
  payload: number,
  key: Uint8Array | undefined,
): number {
  const start = end - frameHeaderLength(payload, key !== undefined);
  bytes[start] = 0x80 | opcode;
  const mask = key === undefined ? 0 : 0x80;
  if (payload < 126) bytes[start + 1] = mask | payload;
  else if (payload < 65536) {
    bytes[start + 1] = mask | 126;
    bytes[start + 2] = payload >> 8;
    bytes[start + 3] = payload & 255;
  } else {
    bytes[start + 1] = mask | 127;
    const view = new DataView(bytes.buffer, bytes.byteOffset + start + 2, 8);
    view.setUint32(0, Math.floor(payload / 2 ** 32));
    view.setUint32(4, payload >>> 0);
  }
  if (key !== undefined) bytes.set(key, end - 4);
  return start;
}

/** A whole frame, copied; `final` false: more of its message follows. */
export function encodeFrame(
  opcode: number,
  payload: Uint8Array,
  key: Uint8Array | undefined,
  final = true,
): Uint8Array {
  const header = frameHeaderLength(payload.length, key !== undefined);
  const frame = new Uint8Array(header + payload.length);
  writeFrameHeader(frame, header, opcode, payload.length, key);
  if (!final) frame[0]! &= 0x7f;
  frame.set(payload, header);
  if (key !== undefined) applyMask(frame.subarray(header), key);
  return frame;
}

/** The payload of a close frame; a reason that is too long is cut. */
export function closePayload(code: number, reason = ""): Uint8Array {
  const text = new TextEncoder().encode(reason.slice(0, 40));
  const payload = new Uint8Array(2 + text.length);
  payload[0] = code >> 8;
  payload[1] = code & 255;
  payload.set(text, 2);
  return payload;
}
