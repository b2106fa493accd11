import { SeikanError } from "../core/errors.ts";
import { createStream, type ByteStream, type Driver, type Stream } from "../core/stream.ts";

export interface MemoryOptions {
  /** Bytes the pair holds per direction before a writer must wait. */
  readonly window?: number;
  /** Longest chunk delivered at once. */
  readonly chunk?: number;
}

/** Two streams joined in this process: what one writes the other receives. */
export function memoryPair(options: MemoryOptions = {}): [ByteStream, ByteStream] {
  const left = new MemoryDriver(options);
  const right = new MemoryDriver(options);
  left.peer = right;
  right.peer = left;
  left.stream = createStream(left, "memory left");
  right.stream = createStream(right, "memory right");
  return [left.stream, right.stream];
}

class MemoryDriver implements Driver {
  readonly copies = true;
  peer!: MemoryDriver;
  stream!: Stream;
  readonly #window: number;
  readonly #chunk: number;
  #inbox: Uint8Array[] = [];
  #held = 0;
  #reading = true;
  #inboxEnds = false;
  #ended = false;
  #running = false;

  constructor(options: MemoryOptions) {
    this.#window = options.window ?? 64 * 1024;
    this.#chunk = options.chunk ?? 64 * 1024;
  }

  write(bytes: Uint8Array): number {
    const room = this.peer.#window - this.peer.#held;
    const taken = new Uint8Array(bytes.subarray(0, Math.max(0, room)));
    if (taken.length > 0) this.peer.#put(taken);
    return taken.length;
  }

  shutdown(): void {
    this.#ended = true;
    this.peer.#inboxEnds = true;
    this.peer.#schedule();
    this.#schedule();
  }

  destroy(): void {
    const other = this.peer;
    queueMicrotask(() => other.stream.lost(new SeikanError("peer-reset", "connection lost (reset)")));
  }

  setReading(on: boolean): void {
    this.#reading = on;
    if (on) this.#schedule();
  }

  #put(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += this.#chunk) this.#inbox.push(bytes.subarray(at, at + this.#chunk));
    this.#held += bytes.length;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#running) return;
    this.#running = true;
    queueMicrotask(() => {
      this.#running = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    while (this.#reading) {
      const chunk = this.#inbox.shift();
      if (chunk === undefined) break;
      this.#held -= chunk.length;
      this.stream.receive(chunk);
    }
    if (this.#inbox.length === 0 && this.#inboxEnds) {
      this.stream.receiveEnd();
      if (this.#ended) this.stream.lost();
    }
    if (this.#held < this.#window) this.peer.stream.drained();
  }
}
