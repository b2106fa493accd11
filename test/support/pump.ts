import type { Socket, TCPSocketListener } from "bun";

const BLOCK = new Uint8Array(1024 * 1024);

/** Sends a head and so many zeros, as fast as they are taken. */
export class Pump implements Disposable {
  /** What was taken, the head not counted. */
  sent = 0;
  /** What came back. */
  received = "";
  readonly #total: number;
  #head: Uint8Array;
  #end: () => void = () => {};

  private constructor(head: string, total: number) {
    this.#head = Buffer.from(head, "latin1");
    this.#total = total;
  }

  /** Connects to a port on 127.0.0.1 and sends at once. */
  static async dial(port: number, head: string, total: number): Promise<Pump> {
    const pump = new Pump(head, total);
    const socket = await Bun.connect<undefined>({
      ...{ hostname: "127.0.0.1", port, data: undefined },
      socket: {
        open: (one) => pump.#write(one),
        data: (_, chunk) => void (pump.received += chunk.toString("latin1")),
        drain: (one) => pump.#write(one),
        error() {},
      },
    });
    pump.#end = () => socket.terminate();
    return pump;
  }

  /** Sends to the first who connects, once it has said something. */
  static listen(head: string, total: number): { port: number } & Pump {
    const pump = new Pump(head, total);
    const listener: TCPSocketListener = Bun.listen({
      ...{ hostname: "127.0.0.1", port: 0 },
      socket: {
        data(socket, chunk) {
          pump.received += chunk.toString("latin1");
          pump.#write(socket as unknown as Socket<undefined>);
        },
        drain: (socket) => pump.#write(socket as unknown as Socket<undefined>),
        error() {},
      },
    });
    pump.#end = () => listener.stop(true);
    return Object.assign(pump, { port: listener.port });
  }

  #write(socket: Socket<undefined>): void {
    if (this.#head.length > 0) {
      const taken = Math.max(0, socket.write(this.#head));
      this.#head = this.#head.subarray(taken);
      if (this.#head.length > 0) return;
    }
    while (this.sent < this.#total) {
      const piece = BLOCK.subarray(0, Math.min(BLOCK.length, this.#total - this.sent));
      const taken = Math.max(0, socket.write(piece));
      this.sent += taken;
      if (taken < piece.length) return;
    }
  }

  [Symbol.dispose](): void {
    this.#end();
  }
}
