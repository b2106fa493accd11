import { SeikanError } from "../core/errors.ts";

/**
 * Datagrams in a byte stream: capsules (RFC 9297 section 3.2) of the type
 * DATAGRAM, whose payload begins with the context 0 of UDP (RFC 9298 section 5).
 */

const DATAGRAM = 0;
const UDP_CONTEXT = 0;
/** Most bytes of UDP payload in one datagram (RFC 9298 section 5). */
export const LONGEST_DATAGRAM = 65527;

/** A capsule with one UDP payload. */
export function encodeDatagram(payload: Uint8Array): Uint8Array {
  const length = payload.length + 1;
  const prefix = length < 64 ? 2 : length < 16384 ? 3 : 5;
  const bytes = new Uint8Array(prefix + length);
  bytes[0] = DATAGRAM;
  if (length < 64) bytes[1] = length;
  else if (length < 16384) {
    bytes[1] = 0x40 | (length >> 8);
    bytes[2] = length & 255;
  } else {
    bytes[1] = 0x80;
    bytes[2] = length >> 16;
    bytes[3] = length >> 8;
    bytes[4] = length & 255;
  }
  bytes[prefix] = UDP_CONTEXT;
  bytes.set(payload, prefix + 1);
  return bytes;
}

/**
 * Reads capsules off a stream and hands each UDP payload over whole. Other
 * capsules and contexts are skipped, as they must be; a datagram that could
 * not be one throws.
 */
export class DatagramReader {
  readonly #onDatagram: (payload: Uint8Array) => void;
  #held: Uint8Array = new Uint8Array(0);
  #skip = 0;

  constructor(onDatagram: (payload: Uint8Array) => void) {
    this.#onDatagram = onDatagram;
  }

  feed(chunk: Uint8Array): void {
    let bytes = chunk;
    if (this.#held.length > 0) {
      bytes = new Uint8Array(this.#held.length + chunk.length);
      bytes.set(this.#held);
      bytes.set(chunk, this.#held.length);
    }
    let at = 0;
    while (at < bytes.length) {
      const end = this.#capsule(bytes, at);
      if (end === undefined) break;
      at = end;
    }
    this.#held = at === bytes.length ? bytes.subarray(at) : new Uint8Array(bytes.subarray(at));
  }

  /** True in the middle of a capsule. */
  get isMidCapsule(): boolean {
    return this.#held.length > 0 || this.#skip > 0;
  }

  /** Takes one capsule, or what is left of one to skip; returns its end, undefined while bytes are missing. */
  #capsule(bytes: Uint8Array, at: number): number | undefined {
    if (this.#skip > 0) {
      const skipped = Math.min(this.#skip, bytes.length - at);
      this.#skip -= skipped;
      return at + skipped;
    }
    const type = decodeVarint(bytes, at);
    const length = type === undefined ? undefined : decodeVarint(bytes, type.end);
    if (type === undefined || length === undefined) return undefined;
    if (type.value !== DATAGRAM) {
      this.#skip = length.value;
      return length.end;
    }
    const end = length.end + length.value;
    const context = decodeVarint(bytes, length.end);
    if (context === undefined && bytes.length < end) return undefined;
    if (context === undefined || context.end > end)
      throw new SeikanError("peer-protocol", "a datagram without context");
    if (context.value !== UDP_CONTEXT) {
      this.#skip = length.value;
      return length.end;
    }
    // RFC 9298 section 5: longer ones end the stream.
    if (end - context.end > LONGEST_DATAGRAM)
      throw new SeikanError("peer-protocol", `a UDP datagram of ${end - context.end} bytes`);
    if (end > bytes.length) return undefined;
    this.#onDatagram(bytes.subarray(context.end, end));
    return end;
  }
}

/** A variable-length integer (RFC 9000 section 16). */
function decodeVarint(bytes: Uint8Array, at: number): { value: number; end: number } | undefined {
  if (at >= bytes.length) return undefined;
  const length = 1 << (bytes[at]! >> 6);
  if (at + length > bytes.length) return undefined;
  let value = bytes[at]! & 0x3f;
  for (let i = 1; i < length; i++) value = value * 256 + bytes[at + i]!;
  return { value, end: at + length };
}
