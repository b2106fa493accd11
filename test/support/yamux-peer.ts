import type { ByteStream, CloseReason } from "../../src/core/stream.ts";
import { until } from "./wait.ts";

export interface SeenYamuxFrame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  /** The field of the header; for data that is the payload's length. */
  readonly length: number;
  /** Empty when the peer was told not to keep it. */
  readonly payload: Buffer;
}

export const [DATA, WINDOW, PINGING, GO_AWAY] = [0, 1, 2, 3] as const;
export const [SYN, ACK, FIN, RST] = [1, 2, 4, 8] as const;

export function yamuxFrame(
  type: number,
  flags: number,
  stream: number,
  content: number | Uint8Array | string = 0,
): Buffer {
  const payload = typeof content === "number" ? Buffer.alloc(0) : Buffer.from(content as string);
  const header = Buffer.alloc(12);
  header.writeUInt8(type, 1);
  header.writeUInt16BE(flags, 2);
  header.writeUInt32BE(stream, 4);
  header.writeUInt32BE(typeof content === "number" ? content : payload.length, 8);
  return Buffer.concat([header, payload]);
}

/** A yamux peer that sends what the test says, right or wrong, and takes down what it gets. */
export class YamuxPeer {
  readonly frames: SeenYamuxFrame[] = [];
  readonly carrier: ByteStream;
  ended = false;
  reason: CloseReason | undefined;
  /** Payload is counted, not kept. */
  countsOnly = false;
  payloadLength = 0;
  onFrame: (frame: SeenYamuxFrame) => void = () => {};
  #rest = Buffer.alloc(0);

  constructor(carrier: ByteStream) {
    this.carrier = carrier;
    carrier.attach({
      onData: (chunk) => this.#take(chunk),
      onEnd: () => {
        this.ended = true;
        carrier.end();
      },
      onDrain: () => {},
      onClose: (reason) => void (this.reason = reason),
    });
  }

  send(type: number, flags: number, stream: number, content: number | Uint8Array | string = 0): this {
    this.carrier.write(yamuxFrame(type, flags, stream, content));
    return this;
  }

  /** `1 flags 2 stream 3 length 4`, for each frame. */
  get told(): string[] {
    return this.frames.map(
      ({ type, flags, stream, length }) => `${type} flags ${flags} stream ${stream} length ${length}`,
    );
  }

  /** Waits for so many frames. */
  async got(count: number): Promise<readonly SeenYamuxFrame[]> {
    await until(() => this.frames.length >= count, `the yamux peer has ${count} frames, not ${this.frames.length}`);
    return this.frames;
  }

  #take(chunk: Uint8Array): void {
    let bytes = this.#rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#rest, chunk]);
    while (bytes.length >= 12) {
      const [type, flags] = [bytes[1]!, bytes.readUInt16BE(2)];
      const [stream, length] = [bytes.readUInt32BE(4), bytes.readUInt32BE(8)];
      const end = 12 + (type === DATA ? length : 0);
      if (bytes.length < end) break;
      const payload = this.countsOnly ? Buffer.alloc(0) : Buffer.from(bytes.subarray(12, end));
      this.payloadLength += end - 12;
      const frame = { type, flags, stream, length, payload };
      this.frames.push(frame);
      bytes = bytes.subarray(end);
      this.onFrame(frame);
    }
    this.#rest = Buffer.from(bytes);
  }
}
