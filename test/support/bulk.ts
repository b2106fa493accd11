import type { Socket, TCPSocketListener } from "bun";
import { pattern, within } from "./wait.ts";

interface Echoing {
  held: Uint8Array;
  ended: boolean;
}

/** Sends everything back, holds nothing but what its peer does not take, and finishes when its peer does. */
export class BulkEcho implements Disposable {
  readonly #listener: TCPSocketListener<Echoing>;
  connections = 0;

  constructor() {
    this.#listener = Bun.listen<Echoing>({
      ...{ hostname: "127.0.0.1", port: 0, allowHalfOpen: true },
      socket: {
        open: (socket) => {
          this.connections++;
          socket.data = { held: new Uint8Array(0), ended: false };
        },
        data: (socket, chunk) => this.#send(socket, chunk),
        drain: (socket) => this.#send(socket, new Uint8Array(0)),
        end: (socket) => {
          socket.data.ended = true;
          this.#send(socket, new Uint8Array(0));
        },
        error() {},
      },
    });
  }

  get port(): number {
    return this.#listener.port;
  }

  #send(socket: Socket<Echoing>, chunk: Uint8Array): void {
    const { data } = socket;
    const bytes = data.held.length === 0 ? chunk : Buffer.concat([data.held, chunk]);
    const written = bytes.length === 0 ? 0 : Math.max(0, socket.write(bytes));
    data.held = Uint8Array.from(bytes.subarray(written));
    if (data.held.length > 0) return void socket.pause();
    socket.resume();
    if (data.ended) socket.shutdown();
  }

  [Symbol.dispose](): void {
    this.#listener.stop(true);
  }
}

const BLOCK = 256 * 1024;

/** Sends `size` bytes to an echo and takes them back, both at once; no two blocks are the same. */
export class BulkTransfer {
  readonly #size: number;
  readonly #block: Buffer<ArrayBuffer>;
  readonly #sent = new Bun.CryptoHasher("sha1");
  readonly #received = new Bun.CryptoHasher("sha1");
  readonly #done = Promise.withResolvers<void>();
  #sentBytes = 0;
  #receivedBytes = 0;
  #pending: Uint8Array = new Uint8Array(0);
  #isFinished = false;

  private constructor(size: number, seed: number) {
    this.#size = size;
    this.#block = Buffer.from(pattern(Math.min(BLOCK, Math.max(size, 4)), seed));
  }

  /** Resolves to both checksums once everything is back and the echo has ended. */
  static async through(port: number, size: number, options: { seed?: number; ms?: number } = {}) {
    const transfer = new BulkTransfer(size, options.seed ?? 1);
    const socket = await Bun.connect({
      ...{ hostname: "127.0.0.1", port, allowHalfOpen: true },
      socket: {
        data: (_, chunk) => transfer.#take(chunk),
        drain: (one) => transfer.#pump(one),
        end: () => transfer.#over(undefined),
        close: (_, error) => transfer.#over(error ?? undefined),
        error: (_, error) => transfer.#over(error),
      },
    });
    transfer.#pump(socket);
    try {
      await within(transfer.#done.promise, `${size} bytes there and back`, options.ms ?? 60_000);
    } finally {
      socket.terminate();
    }
    return { sent: transfer.#sent.digest("hex"), received: transfer.#received.digest("hex") };
  }

  #pump(socket: Socket<undefined>): void {
    while (this.#sentBytes < this.#size || this.#pending.length > 0) {
      if (this.#pending.length === 0) this.#pending = this.#next();
      const written = socket.write(this.#pending);
      if (written > 0) this.#pending = this.#pending.subarray(written);
      if (this.#pending.length > 0) return;
    }
    if (this.#isFinished) return;
    this.#isFinished = true;
    socket.shutdown();
  }

  #next(): Uint8Array {
    this.#block.writeUInt32LE(this.#sentBytes / BLOCK, 0);
    const block = this.#block.subarray(0, Math.min(BLOCK, this.#size - this.#sentBytes));
    this.#sentBytes += block.length;
    this.#sent.update(block);
    return block;
  }

  #take(chunk: Uint8Array): void {
    this.#received.update(chunk);
    this.#receivedBytes += chunk.length;
  }

  #over(error: Error | undefined): void {
    if (error === undefined && this.#receivedBytes === this.#size) this.#done.resolve();
    else
      this.#done.reject(
        new Error(`${this.#receivedBytes} of ${this.#size} bytes came back (${error?.message ?? "the end"})`),
      );
  }
}
