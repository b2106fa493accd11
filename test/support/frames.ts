/** A deliberately naive encoder and decoder of WebSocket frames, which share nothing with src/wire/websocket.ts. */

export interface FrameShape {
  readonly opcode: number;
  readonly payload?: Uint8Array | string;
  /** True unless told. */
  readonly fin?: boolean;
  /** The three reserved bits, as 0 to 7. */
  readonly rsv?: number;
  /** Masks the payload. */
  readonly key?: Uint8Array | undefined;
  /** How the length is written; the shortest way unless told. */
  readonly form?: 7 | 16 | 64;
  /** The length that is written, in place of the true one. */
  readonly length?: bigint;
}

export function bytesOf(data: Uint8Array | string): Uint8Array {
  return typeof data === "string" ? new TextEncoder().encode(data) : data;
}

/** XOR, byte for byte as RFC 6455 section 5.3 writes it. */
export function maskNaively(bytes: Uint8Array, key: Uint8Array, phase = 0): Uint8Array {
  return Uint8Array.from(bytes, (byte, i) => byte ^ key[(i + phase) % 4]!);
}

export function frame(shape: FrameShape): Buffer<ArrayBuffer> {
  const payload = bytesOf(shape.payload ?? "");
  const length = shape.length ?? BigInt(payload.length);
  const form = shape.form ?? (length < 126n ? 7 : length < 65536n ? 16 : 64);
  const bytes: number[] = [((shape.fin ?? true) ? 128 : 0) + (shape.rsv ?? 0) * 16 + shape.opcode];
  const mask = shape.key === undefined ? 0 : 128;
  if (form === 7) bytes.push(mask + Number(length));
  if (form === 16) bytes.push(mask + 126);
  if (form === 64) bytes.push(mask + 127);
  for (let shift = form === 7 ? 0 : form; shift > 0; shift -= 8) {
    bytes.push(Number((length >> BigInt(shift - 8)) & 255n));
  }
  if (shape.key === undefined) return Buffer.concat([Uint8Array.from(bytes), payload]);
  return Buffer.concat([Uint8Array.from([...bytes, ...shape.key]), maskNaively(payload, shape.key)]);
}

export interface SeenFrame {
  readonly fin: boolean;
  readonly rsv: number;
  readonly opcode: number;
  readonly key: string | undefined;
  /** Unmasked. */
  readonly payload: Buffer;
}

/** The whole frames at the start of these bytes. */
export function framesIn(bytes: Buffer): SeenFrame[] {
  const frames: SeenFrame[] = [];
  for (let at = 0; ;) {
    if (bytes.length < at + 2) return frames;
    const [first, second] = [bytes[at]!, bytes[at + 1]!];
    const short = second % 128;
    const lengthBytes = short === 126 ? 2 : short === 127 ? 8 : 0;
    const isMasked = second >= 128;
    const start = at + 2 + lengthBytes + (isMasked ? 4 : 0);
    if (bytes.length < start) return frames;
    const length =
      short === 126 ? bytes.readUInt16BE(at + 2) : short === 127 ? Number(bytes.readBigUInt64BE(at + 2)) : short;
    if (bytes.length < start + length) return frames;
    const key = isMasked ? bytes.subarray(start - 4, start) : undefined;
    const payload = bytes.subarray(start, start + length);
    frames.push({
      fin: first >= 128,
      rsv: (first >> 4) & 7,
      opcode: first % 16,
      key: key?.toString("hex"),
      payload: Buffer.from(key === undefined ? payload : maskNaively(payload, key)),
    });
    at = start + length;
  }
}

/** The payload of a close frame. */
export function closeBody(code: number, reason: Uint8Array | string = ""): Buffer<ArrayBuffer> {
  return Buffer.concat([Uint8Array.of(code >> 8, code & 255), bytesOf(reason)]);
}
