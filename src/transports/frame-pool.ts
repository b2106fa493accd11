/** In front of the payload, for the longest header (RFC 6455 section 5.2), in whole words. */
export const HEADER_ROOM = 16;
/** Payload of one frame: the longest yamux frame with its header, so that each goes out with one write. */
const FRAME_BYTES = 512 * 1024 + 64;
const KEPT = 4;

/** One frame in the making. */
export class FrameBuffer {
  readonly bytes = new Uint8Array(HEADER_ROOM + FRAME_BYTES);
  length = 0;

  get room(): number {
    return FRAME_BYTES - this.length;
  }

  /** Takes what fits of `source` from `at`; returns how much that was. */
  append(source: Uint8Array, at: number): number {
    const taken = Math.min(this.room, source.length - at);
    this.bytes.set(
      at === 0 && taken === source.length ? source : source.subarray(at, at + taken),
      HEADER_ROOM + this.length,
    );
    this.length += taken;
    return taken;
  }

  payload(): Uint8Array {
    return this.bytes.subarray(HEADER_ROOM, HEADER_ROOM + this.length);
  }
}

/** Frame buffers are large, needed for a moment, and shared by all connections. */
export class FramePool {
  readonly #free: FrameBuffer[] = [];

  take(): FrameBuffer {
    return this.#free.pop() ?? new FrameBuffer();
  }

  give(buffer: FrameBuffer): void {
    buffer.length = 0;
    if (this.#free.length < KEPT) this.#free.push(buffer);
  }
}
