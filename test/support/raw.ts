import type { Socket, TCPSocketListener, UnixSocketListener } from "bun";

/** A deliberately plain socket for tests: what is sent is sent, what comes is kept. */
export class RawSocket implements Disposable {
  #socket: Socket<RawSocket> | undefined;
  readonly #chunks: Buffer[] = [];
  readonly #queue: Uint8Array[] = [];
  readonly #waiters = new Set<() => void>();
  #length = 0;
  #cursor = 0;
  #shutdownAsked = false;
  /** The peer sent FIN, or the connection is gone. */
  ended = false;
  closed = false;
  /** Why the connection broke: `ECONNRESET`. */
  error: string | undefined;

  /** The handlers of every raw socket; `data` is the RawSocket. */
  static readonly handlers = {
    data: (socket: Socket<RawSocket>, chunk: Buffer) => socket.data.#take(chunk),
    drain: (socket: Socket<RawSocket>) => socket.data.#pump(),
    end: (socket: Socket<RawSocket>) => socket.data.#over({ closed: false }),
    close: (socket: Socket<RawSocket>, error?: Error) => socket.data.#over({ closed: true, error }),
    error: (socket: Socket<RawSocket>, error: Error) => socket.data.#over({ closed: false, error }),
  };

  opened(socket: Socket<RawSocket>): void {
    this.#socket = socket;
    this.#pump();
  }

  neverOpened(error: Error): void {
    this.#over({ closed: true, error });
  }

  /** Our own port of this connection. */
  get localPort(): number {
    return this.#socket!.localPort;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  get text(): string {
    return this.bytes.toString("latin1");
  }

  get length(): number {
    return this.#length;
  }

  /** Bytes that the system did not take yet. */
  get unsent(): number {
    return this.#queue.reduce((sum, piece) => sum + piece.length, 0);
  }

  send(data: string | Uint8Array): this {
    this.#queue.push(typeof data === "string" ? Buffer.from(data, "latin1") : data);
    this.#pump();
    return this;
  }

  /** Half-closes behind everything sent so far. */
  end(): this {
    this.#shutdownAsked = true;
    this.#pump();
    return this;
  }

  /** Ends with RST. */
  reset(): void {
    this.#socket?.terminate();
  }

  pause(): void {
    this.#socket?.pause();
  }

  resume(): void {
    this.#socket?.resume();
  }

  [Symbol.dispose](): void {
    this.#socket?.terminate();
  }

  // --- waiting -------------------------------------------------------------

  /** Resolves as soon as `found` answers something; fails once the connection cannot bring it any more. */
  async until<T>(found: () => T | undefined, what: string, ms = 10_000): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const look = () => {
      const value = found();
      if (value !== undefined) resolve(value);
      else if (this.closed) reject(new Error(`closed (${this.error ?? "cleanly"}) before ${what}: ${this.#excerpt()}`));
    };
    const timer = setTimeout(() => reject(new Error(`waited in vain for ${what}: ${this.#excerpt()}`)), ms);
    this.#waiters.add(look);
    look();
    return promise.finally(() => {
      clearTimeout(timer);
      this.#waiters.delete(look);
    });
  }

  /** Waits for this text; resolves to everything so far. */
  sees(text: string): Promise<string> {
    return this.until(() => (this.text.includes(text) ? this.text : undefined), JSON.stringify(text));
  }

  receives(length: number, ms?: number): Promise<Buffer> {
    return this.until(() => (this.#length >= length ? this.bytes : undefined), `${length} bytes`, ms);
  }

  /** Waits for the peer's FIN; resolves to everything it sent. Fails on RST. */
  async receivesEnd(ms?: number): Promise<string> {
    await this.until(() => this.ended || undefined, "the end", ms);
    if (this.error !== undefined)
      throw new Error(`reset (${this.error}) where an end was expected: ${this.#excerpt()}`);
    return this.text;
  }

  /** Waits for RST. Fails on a clean end. */
  async receivesReset(ms?: number): Promise<void> {
    await this.until(() => this.closed || (this.ended && this.error === undefined) || undefined, "the reset", ms);
    if (this.error !== "ECONNRESET")
      throw new Error(`${this.error ?? "a clean end"} where a reset was expected: ${this.#excerpt()}`);
  }

  /** Waits until the connection is over, however. */
  over(ms?: number): Promise<boolean> {
    return this.until(() => this.ended || this.closed || undefined, "the end of the connection", ms);
  }

  // --- HTTP ----------------------------------------------------------------

  /** The next HTTP response on this connection, framed as its fields say and as its request asked. */
  async response(to: "GET" | "HEAD" | "CONNECT" = "GET"): Promise<RawResponse> {
    const start = this.#cursor;
    const head = await this.until(() => {
      const end = this.text.indexOf("\r\n\r\n", start);
      return end < 0 ? undefined : this.text.slice(start, end + 4);
    }, "a response head");
    const [statusLine = "", ...lines] = head.split("\r\n").filter((line) => line !== "");
    const fields = lines.map((line): [string, string] => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    });
    const status = Number(statusLine.split(" ")[1]);
    const values = (name: string) => fields.filter(([known]) => known === name).map(([, value]) => value);
    const from = start + head.length;
    const isTunnel = to === "CONNECT" && status >= 200 && status < 300;
    const hasNone = to === "HEAD" || isTunnel || status < 200 || status === 204 || status === 304;
    const raw = hasNone ? "" : await this.#body(from, values("content-length")[0], values("transfer-encoding")[0]);
    this.#cursor = from + raw.length;
    return { status, statusLine, head, values, raw, body: values("transfer-encoding").length > 0 ? dechunk(raw) : raw };
  }

  #body(from: number, length: string | undefined, coding: string | undefined): Promise<string> {
    const found = () => {
      const rest = this.text.slice(from);
      if (coding !== undefined) return /^(?:[0-9a-f]+\r\n[\s\S]*?)?0\r\n(?:[^\r\n]+\r\n)*\r\n/i.exec(rest)?.[0];
      if (length !== undefined) return rest.length >= Number(length) ? rest.slice(0, Number(length)) : undefined;
      return this.ended ? rest : undefined;
    };
    return this.until(found, "a response body");
  }

  // --- inside --------------------------------------------------------------

  #excerpt(): string {
    return `${this.#length} bytes, ${JSON.stringify(this.text.slice(-600))}`;
  }

  #take(chunk: Buffer): void {
    this.#chunks.push(Buffer.from(chunk));
    this.#length += chunk.length;
    this.#changed();
  }

  #over({ closed, error }: { closed: boolean; error?: Error | undefined }): void {
    this.ended = true;
    this.closed ||= closed;
    if (error !== undefined && error !== null) this.error ??= (error as { code?: string }).code ?? error.message;
    this.#changed();
  }

  #changed(): void {
    for (const look of this.#waiters) look();
  }

  #pump(): void {
    const socket = this.#socket;
    if (socket === undefined) return;
    while (this.#queue.length > 0) {
      const piece = this.#queue[0]!;
      const written = piece.length === 0 ? 0 : socket.write(piece);
      if (written < 0) return;
      if (written < piece.length) {
        this.#queue[0] = piece.subarray(written);
        return;
      }
      this.#queue.shift();
    }
    if (this.#shutdownAsked) socket.shutdown();
    this.#shutdownAsked = false;
  }
}

export interface RawResponse {
  readonly status: number;
  readonly statusLine: string;
  readonly head: string;
  /** All values of a field; the name in lower case. */
  values(name: string): string[];
  /** The body as it came, with its chunk framing. */
  readonly raw: string;
  readonly body: string;
}

function dechunk(raw: string): string {
  let body = "";
  for (let at = 0; ;) {
    const line = raw.indexOf("\r\n", at);
    const size = Number.parseInt(raw.slice(at, line), 16);
    if (!(size > 0)) return body;
    body += raw.slice(line + 2, line + 2 + size);
    at = line + 2 + size + 2;
  }
}

export type RawAddress = { readonly port: number; readonly hostname?: string } | { readonly unix: string };

/** Connects to a port on 127.0.0.1, or to a socket file. */
export async function dialRaw(to: number | RawAddress): Promise<RawSocket> {
  const raw = new RawSocket();
  const address = typeof to === "number" ? { port: to } : to;
  const place = "unix" in address ? { unix: address.unix } : { hostname: "127.0.0.1", ...address };
  const handlers = { ...RawSocket.handlers, open: (socket: Socket<RawSocket>) => raw.opened(socket) };
  const opening = Bun.connect<RawSocket>({
    // Either form; the types want to know which.
    ...(place as { hostname: string; port: number }),
    data: raw,
    allowHalfOpen: true,
    socket: handlers,
  });
  await opening.catch((error: NodeJS.ErrnoException) => {
    // Accepted, and reset before the event loop saw it open: a connection that was reset.
    if (error.code !== "ECONNRESET") throw error;
    raw.neverOpened(error);
  });
  return raw;
}

/** A listener whose connections the test plays by hand. */
export class RawServer implements Disposable {
  readonly accepted: RawSocket[] = [];
  readonly #listener: TCPSocketListener<RawSocket> | UnixSocketListener<RawSocket>;
  readonly #waiters = new Set<() => void>();
  #taken = 0;

  constructor(onOpen: (socket: RawSocket) => void = () => {}, address: Partial<RawAddress> = {}) {
    const open = (socket: Socket<RawSocket>) => {
      const raw = new RawSocket();
      socket.data = raw;
      raw.opened(socket);
      this.accepted.push(raw);
      onOpen(raw);
      for (const look of this.#waiters) look();
    };
    const place = "unix" in address ? { unix: address.unix! } : { hostname: "127.0.0.1", port: 0, ...address };
    this.#listener = Bun.listen<RawSocket>({
      ...(place as { hostname: string; port: number }),
      allowHalfOpen: true,
      socket: { ...RawSocket.handlers, open },
    });
  }

  get port(): number {
    return (this.#listener as TCPSocketListener<RawSocket>).port;
  }

  /** The next connection, in the order they came. */
  async next(ms = 10_000): Promise<RawSocket> {
    const index = this.#taken++;
    const { promise, resolve, reject } = Promise.withResolvers<RawSocket>();
    const look = () => this.accepted[index] !== undefined && resolve(this.accepted[index]);
    const timer = setTimeout(() => reject(new Error(`no connection number ${index + 1} came`)), ms);
    this.#waiters.add(look);
    look();
    return promise.finally(() => {
      clearTimeout(timer);
      this.#waiters.delete(look);
    });
  }

  close(): void {
    this.#listener.stop();
  }

  [Symbol.dispose](): void {
    this.#listener.stop(true);
    for (const socket of this.accepted) socket.reset();
  }
}

/** Sends back what it gets and finishes when its peer does. */
export function echo(socket: RawSocket): void {
  let sent = 0;
  void socket
    .until(
      () => {
        if (socket.length > sent) socket.send(socket.bytes.subarray(sent));
        sent = socket.length;
        return socket.ended || undefined;
      },
      "the client's end",
      60_000,
    )
    .then(
      () => socket.end(),
      () => {},
    );
}
