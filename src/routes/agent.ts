import { formatHostPort, tcpTarget, type Target } from "../core/address.ts";
import { after } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream, Sink } from "../core/stream.ts";
import { httpConnectDialer } from "../transports/http-connect.ts";
import type { MuxSession } from "../transports/mux.ts";
import { ProxyCredentials } from "../transports/proxy-credentials.ts";
import type { DialOptions, Peer } from "../transports/transport.ts";
import type { RequestEvent } from "../wire/registration.ts";
import type { Client } from "./context.ts";
import type { AgentRights } from "./agent-tokens.ts";
import type { IdleConnection } from "./upstream.ts";

const NO_CREDENTIALS = new ProxyCredentials(undefined);
/** An agent whose place somebody else wants has this long to show that it lives. */
const ALIVE_MS = 2000;

/** One connection of an agent. */
export interface AgentLine {
  readonly id: string;
  readonly session: MuxSession;
  /** Undefined: it wants to hear of nothing. */
  readonly events: EventWriter | undefined;
}

/** One agent process and its connections. To whoever dials through it, it is one more HTTP proxy. */
export class ConnectedAgent {
  readonly name: string;
  readonly key: string;
  rights: AgentRights;
  readonly client: Client;
  readonly since = new Date();
  /** Connections through it that wait for a further request. */
  readonly idle = new Set<IdleConnection>();
  readonly #lines = new Map<string, AgentLine>();
  #past = { sent: 0, received: 0 };
  readonly #counted = new WeakSet<AgentLine>();

  constructor(name: string, key: string, rights: AgentRights, client: Client) {
    this.name = name;
    this.key = key;
    this.rights = rights;
    this.client = client;
  }

  /** A connection that comes again takes its own place: the former one is a ghost. */
  addLine(line: AgentLine): void {
    const ghost = this.#lines.get(line.id);
    this.#lines.set(line.id, line);
    ghost?.session.abort(new SeikanError("cancelled", "its agent connected anew"));
  }

  /** True when that was its last one. */
  removeLine(line: AgentLine): boolean {
    if (this.#counted.has(line)) return this.#lines.size === 0;
    this.#counted.add(line);
    if (this.#lines.get(line.id) === line) this.#lines.delete(line.id);
    this.#past.sent += line.session.sentBytes;
    this.#past.received += line.session.receivedBytes;
    return this.#lines.size === 0;
  }

  /** It can be asked: a connection is up and not about to end. */
  get takesStreams(): boolean {
    for (const { session } of this.#lines.values()) if (session.takesStreams) return true;
    return false;
  }

  get stats() {
    const sessions = [...this.#lines.values()].map(({ session }) => session);
    return {
      connections: sessions.length,
      streams: sessions.reduce((sum, { size }) => sum + size, 0),
      sentBytes: sessions.reduce((sum, { sentBytes }) => sum + sentBytes, this.#past.sent),
      receivedBytes: sessions.reduce((sum, { receivedBytes }) => sum + receivedBytes, this.#past.received),
    };
  }

  /** A stream on the connection with the fewest. */
  open(): ByteStream {
    let best: MuxSession | undefined;
    for (const { session } of this.#lines.values()) {
      if (session.takesStreams && (best === undefined || session.size < best.size)) best = session;
    }
    if (best === undefined) throw new SeikanError("tunnel-lost", `agent ${this.name} is not connected`);
    return best.open();
  }

  /** Dials at the agent's end. */
  dial(target: Target, options: DialOptions): Promise<ByteStream> {
    const hop = {
      proxy: tcpTarget("agent", 0),
      name: `agent ${this.name}`,
      isSecure: true,
      credentials: NO_CREDENTIALS,
      fields: forwardedFor(options.source),
      reach: async () => this.open(),
    };
    return httpConnectDialer(hop)(target, options);
  }

  /** Asks for a sign of life on any connection. */
  async isAlive(): Promise<boolean> {
    const answered = [...this.#lines.values()].map(({ session }) => session.ping().then(() => true));
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const cancel = after(ALIVE_MS, () => resolve(false));
    return Promise.race([promise, ...answered]).finally(cancel);
  }

  /** Tells it of a request that is over, where it listens. */
  tell(event: RequestEvent): void {
    for (const { events } of this.#lines.values()) {
      if (events !== undefined) return events.write(event);
    }
  }

  /** It takes no more streams: what only waits is not waited for. */
  retire(): void {
    for (const connection of this.idle) connection.abort(new SeikanError("cancelled", "its agent is about to end"));
    for (const { events } of this.#lines.values()) events?.end();
  }

  abort(reason: SeikanError): void {
    for (const { session } of this.#lines.values()) session.abort(reason);
  }
}

/** Tells an agent of what happens. One that does not read loses events, not our memory. */
export class EventWriter implements Sink {
  readonly #stream: ByteStream;
  #takes = true;

  /** Owns `stream`. */
  constructor(stream: ByteStream) {
    this.#stream = stream;
    stream.attach(this);
  }

  end(): void {
    this.#stream.end();
  }

  write(event: RequestEvent): void {
    if (this.#takes) this.#takes = this.#stream.write(Buffer.from(`${JSON.stringify(event)}\n`, "utf8"));
  }

  onData(): void {}

  onEnd(): void {}

  onDrain(): void {
    this.#takes = true;
  }

  onClose(): void {
    this.#takes = false;
  }
}

/** Whom we speak for (RFC 7239); the agent believes us alone. */
function forwardedFor(source: Peer | undefined): string[] {
  if (source === undefined || source.address === "") return [];
  return ["Forwarded", `for="${formatHostPort(source.address, source.port)}"`];
}
