/** In front of the payload, for the longest header (RFC 6455 section 5.2). */
export const HEADER_ROOM = 14;
/** Payload of one frame: large enough to be cheap, small enough to let others in between. */
const FRAME_BYTES = 128 * 1024;
const KEPT = 8;
/** A frame smaller than this is copied out, so that a slow peer does not keep a whole buffer. */
const SMALL = 8 * 1024;

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

  /** Writes the frame that begins at `start`; the buffer is free again unless the writer keeps it (said false). */
  send(buffer: FrameBuffer, start: number, write: (frame: Uint8Array) => boolean): void {
    const frame = buffer.bytes.subarray(start, HEADER_ROOM + buffer.length);
    if (frame.length < SMALL) {
      const copy = new Uint8Array(frame);
      this.give(buffer);
      write(copy);
    } else if (write(frame)) this.give(buffer);
  }
}
