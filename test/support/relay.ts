import type { Socket, TCPSocketListener } from "bun";

/** Where a relay cuts: behind so many bytes of one direction, on both of its sides. */
export interface Cut {
  readonly direction: "up" | "down";
  readonly after: number;
  readonly how: "end" | "reset";
}

export interface RelayOptions {
  readonly cut?: Cut;
  /** Gets the client's request head, and says what goes on in its place. */
  readonly edit?: (head: string) => string;
}

type Ends = "client" | "server";
const other = (end: Ends): Ends => (end === "client" ? "server" : "client");

/** Stands between a client and a port on 127.0.0.1, and does what the test says to the bytes that pass. */
export class Relay implements Disposable {
  readonly connections: RelayedConnection[] = [];
  /** For the connections that come from now on. */
  options: RelayOptions;
  readonly #listener: TCPSocketListener<RelayedConnection>;

  constructor(to: number, options: RelayOptions = {}) {
    this.options = options;
    const open = (socket: Socket<RelayedConnection>) => {
      socket.data = new RelayedConnection(this.options, socket);
      this.connections.push(socket.data);
      void socket.data.dial(to);
    };
    this.#listener = Bun.listen<RelayedConnection>({
      hostname: "127.0.0.1",
      port: 0,
      allowHalfOpen: true,
      socket: { open, ...handlersOf("client") },
    });
  }

  get port(): number {
    return this.#listener.port;
  }

  /** As if the cable of the connections there are was pulled: nothing passes any more, no end and no reset either. */
  silence(): void {
    for (const connection of this.connections) connection.silence();
  }

  /** The cable is back: everything passes that waited. */
  restore(): void {
    for (const connection of this.connections) connection.restore();
  }

  /** Ends all connections there are. */
  cut(how: "end" | "reset"): void {
    for (const connection of this.connections) connection.cut(how);
  }

  [Symbol.dispose](): void {
    this.#listener.stop(true);
    this.cut("reset");
  }
}

function handlersOf(end: Ends) {
  type Side = Socket<RelayedConnection>;
  return {
    data: ({ data: relayed }: Side, chunk: Buffer) => relayed.received(end, chunk),
    drain: ({ data: relayed }: Side) => relayed.pump(end),
    end: ({ data: relayed }: Side) => relayed.finished(end),
    close: ({ data: relayed }: Side, error?: Error) => relayed.closed(end, error),
    error() {},
  };
}

export class RelayedConnection {
  /** What has passed on. */
  up = 0;
  down = 0;
  readonly #options: RelayOptions;
  readonly #sockets: { client: Socket<RelayedConnection>; server: Socket<RelayedConnection> | undefined };
  /** What goes to each end and was not taken yet. */
  readonly #queues: Record<Ends, Buffer[]> = { client: [], server: [] };
  readonly #finishing = { client: false, server: false };
  #head: string | undefined;
  #isOver = false;
  #isSilent = false;
  /** One side broke while nothing passed. */
  #isBroken = false;

  constructor(options: RelayOptions, client: Socket<RelayedConnection>) {
    this.#options = options;
    this.#sockets = { client, server: undefined };
    this.#head = options.edit === undefined ? undefined : "";
  }

  async dial(to: number): Promise<void> {
    try {
      this.#sockets.server = await Bun.connect<RelayedConnection>({
        ...{ hostname: "127.0.0.1", port: to, allowHalfOpen: true, data: this },
        socket: handlersOf("server"),
      });
      if (this.#isOver) this.#sockets.server.terminate();
      if (this.#options.cut?.after === 0) this.cut(this.#options.cut.how);
      this.pump("server");
    } catch {
      this.cut("reset");
    }
  }

  /** Ends both sides: by FIN behind what passed, or by RST. */
  cut(how: "end" | "reset"): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const socket of [this.#sockets.client, this.#sockets.server]) {
      if (how === "end") socket?.end();
      else socket?.terminate();
    }
  }

  silence(): void {
    this.#isSilent = true;
    this.#sockets.client.pause();
    this.#sockets.server?.pause();
  }

  restore(): void {
    this.#isSilent = false;
    if (this.#isBroken) return this.cut("reset");
    this.pump("client");
    this.pump("server");
  }

  received(from: Ends, chunk: Buffer): void {
    let bytes = Buffer.from(chunk);
    if (from === "client" && this.#head !== undefined) {
      this.#head += bytes.toString("latin1");
      const end = this.#head.indexOf("\r\n\r\n");
      if (end < 0) return;
      bytes = Buffer.from(this.#options.edit!(this.#head.slice(0, end + 4)) + this.#head.slice(end + 4), "latin1");
      this.#head = undefined;
    }
    this.#queues[other(from)].push(bytes);
    this.pump(other(from));
  }

  finished(from: Ends): void {
    this.#finishing[other(from)] = true;
    this.pump(other(from));
  }

  closed(from: Ends, error?: Error): void {
    const isBroken = error !== undefined && error !== null;
    if (isBroken && this.#isSilent) this.#isBroken = true;
    else if (isBroken) this.cut("reset");
    else this.finished(from);
  }

  pump(to: Ends): void {
    const socket = this.#sockets[to];
    if (socket === undefined || this.#isOver || this.#isSilent) return;
    const queue = this.#queues[to];
    const direction = to === "server" ? "up" : "down";
    const { cut } = this.#options;
    while (queue.length > 0) {
      const left = cut?.direction === direction ? cut.after - this[direction] : Infinity;
      const piece = queue[0]!.subarray(0, Math.min(left, queue[0]!.length));
      const written = piece.length === 0 ? 0 : Math.max(0, socket.write(piece));
      this[direction] += written;
      if (written === left) return this.cut(cut!.how);
      if (written < piece.length) {
        queue[0] = queue[0]!.subarray(written);
        this.#sockets[other(to)]?.pause();
        return;
      }
      queue.shift();
    }
    this.#sockets[other(to)]?.resume();
    if (this.#finishing[to]) socket.shutdown();
    this.#finishing[to] = false;
  }
}
