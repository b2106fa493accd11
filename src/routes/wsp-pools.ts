import { after, now, sweep } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { LiveSet } from "../core/scope.ts";
import type { ByteStream } from "../core/stream.ts";
import { MessageSocket, type MessageSink } from "../transports/message-socket.ts";
import type { Heartbeat } from "../transports/pulse.ts";
import { WspExchange } from "../transports/wsp.ts";
import { parseGreeting, type WspRequest } from "../wire/wsp.ts";
import { formatPeer, type Client, type RouteContext, type UpgradeRequest } from "./context.ts";

/** The connections that wsp clients bring, and who gets which (docs/wsp.md). */

/** How often pools are trimmed. */
const TRIM_MS = 5000;
const GREETING_BYTES = 1024;
/** While it works on a request wsp's client reads nothing, so no ping either; it sends one by itself every 30 s. */
const BUSY_SLACK_MS = 40_000;

export interface WspLimits {
  /** How long a request waits for a connection. */
  readonly timeoutMs: number;
  /** Connections beyond a pool's size are closed when they idle this long. */
  readonly idleTimeoutMs: number;
  /** The sentence that forbids a destination, from the rules of wsp's own configuration. */
  readonly forbids: (request: WspRequest) => string | undefined;
}

interface Pool {
  size: number;
  readonly connections: Set<PooledConnection>;
}

/** A request without a connection. */
interface Waiting {
  wake(connection: PooledConnection): void;
  giveUp(why: string): void;
}

/** Every pool of every client. */
export class WspPools {
  readonly #pools = new Map<string, Pool>();
  readonly #waiting: Waiting[] = [];
  readonly #limits: WspLimits;
  readonly #isGood: (digest: Uint8Array | undefined) => boolean;
  #trimmedAt = now();

  /** `isGood`: the token of this digest may be here; undefined: none was shown. */
  constructor(limits: WspLimits, isGood: (digest: Uint8Array | undefined) => boolean) {
    this.#limits = limits;
    this.#isGood = isGood;
    sweep.add((time) => this.#trim(time));
  }

  get limits(): WspLimits {
    return this.#limits;
  }

  /** Every greeting tells the size anew. */
  add(id: string, size: number, connection: PooledConnection): void {
    // Taken back between the registration and the greeting.
    if (!this.#isWelcome(connection)) return connection.close();
    const pool = this.#pools.get(id) ?? { size, connections: new Set() };
    pool.size = size;
    pool.connections.add(connection);
    this.#pools.set(id, pool);
    this.release(connection);
  }

  delete(id: string, connection: PooledConnection): void {
    const pool = this.#pools.get(id);
    pool?.connections.delete(connection);
    if (pool?.connections.size === 0) this.#pools.delete(id);
    if (this.#pools.size > 0) return;
    for (const { giveUp } of this.#waiting.splice(0)) giveUp("No proxy available");
  }

  /** It is idle: whoever waits longest gets it. */
  release(connection: PooledConnection): void {
    this.#waiting.shift()?.wake(connection);
  }

  /** An idle connection of any pool, chosen at random; waits for one as long as the limits say. */
  async take(): Promise<PooledConnection> {
    const idle = [...this.#pools.values()].filter(({ connections }) => firstIdle(connections) !== undefined);
    const pool = idle[Math.floor(Math.random() * idle.length)];
    const found = pool === undefined ? undefined : firstIdle(pool.connections);
    if (found !== undefined) return found.seize();
    if (this.#pools.size === 0) throw new SeikanError("site-away", "No proxy available");
    const { promise, resolve, reject } = Promise.withResolvers<PooledConnection>();
    const waiting: Waiting = {
      wake: (connection) => (cancel(), resolve(connection.seize())),
      giveUp: (why) => (cancel(), reject(new SeikanError("site-away", why))),
    };
    const cancel = after(this.#limits.timeoutMs, () => {
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
      waiting.giveUp("Unable to get a proxy connection");
    });
    this.#waiting.push(waiting);
    return promise;
  }

  /** Tokens have changed: the connections of those that were taken back are closed. */
  recheck(): void {
    const all = [...this.#pools.values()].flatMap(({ connections }) => [...connections]);
    for (const connection of all) if (!this.#isWelcome(connection)) connection.close();
  }

  #isWelcome({ digest }: PooledConnection): boolean {
    return this.#isGood(digest);
  }

  #trim(time: number): true {
    if (time - this.#trimmedAt < TRIM_MS) return true;
    this.#trimmedAt = time;
    for (const { size, connections } of this.#pools.values()) {
      const idle = [...connections].filter(({ isIdle }) => isIdle);
      for (const connection of idle.slice(size))
        if (connection.idleFor(time) > this.#limits.idleTimeoutMs) connection.close();
    }
    return true;
  }
}

function firstIdle(connections: Set<PooledConnection>): PooledConnection | undefined {
  for (const connection of connections) if (connection.isIdle) return connection;
  return undefined;
}

/** One connection of a wsp client, from its upgrade on. */
export class PooledConnection implements MessageSink {
  /** Of its token. */
  readonly digest: Uint8Array | undefined;
  readonly #pools: WspPools;
  readonly #live: LiveSet;
  readonly #context: RouteContext;
  readonly #client: Client;
  readonly #socket: MessageSocket;
  readonly #cancel: () => void;
  #greeting = "";
  #id: string | undefined;
  #exchange: WspExchange | undefined;
  #seized = false;
  #idleSince = now();
  #draining = false;

  constructor(
    pools: WspPools,
    { context, client }: UpgradeRequest,
    stream: ByteStream,
    heartbeat: Heartbeat,
    digest: Uint8Array | undefined,
  ) {
    this.digest = digest;
    this.#pools = pools;
    this.#context = context;
    this.#live = context.live;
    this.#client = client;
    this.#socket = new MessageSocket(stream, this, {
      role: "server",
      peer: `the wsp client ${client.address}`,
      heartbeat,
    });
    this.#cancel = after(context.limits.headMs || 30_000, () => this.close());
    this.#live.add(this);
  }

  get isIdle(): boolean {
    return this.#id !== undefined && !this.#seized && this.#socket.isOpen && !this.#draining;
  }

  get isOpen(): boolean {
    return this.#socket.isOpen;
  }

  idleFor(time: number): number {
    return time - this.#idleSince;
  }

  seize(): this {
    this.#seized = true;
    this.#socket.slackMs = BUSY_SLACK_MS;
    return this;
  }

  /** A stream for one request. The connection must be seized. */
  open(): ByteStream {
    const exchange = WspExchange.open(this.#socket, formatPeer(this.#client), (isReusable) => this.#over(isReusable));
    this.#exchange = exchange;
    return exchange.stream;
  }

  #over(isReusable: boolean): void {
    this.#exchange = undefined;
    if (!isReusable) return this.abort(new SeikanError("cancelled", "a request through it did not end as it should"));
    this.#socket.resume();
    this.#idleSince = now();
    this.#seized = false;
    this.#socket.slackMs = 0;
    if (this.#draining) this.close();
    else this.#pools.release(this);
  }

  onMessage(piece: Uint8Array, last: boolean): void {
    if (this.#exchange !== undefined) return this.#exchange.onMessage(piece, last);
    if (this.#id !== undefined) return this.#refuse(new SeikanError("peer-protocol", "a wsp message while idle"));
    this.#greeting += Buffer.from(piece).toString("utf8");
    if (this.#greeting.length > GREETING_BYTES)
      return this.#refuse(new SeikanError("peer-protocol", "a long greeting"));
    if (last) this.#greeted();
  }

  #greeted(): void {
    try {
      const { id, size } = parseGreeting(this.#greeting);
      this.#cancel();
      this.#id = id;
      this.#context.log.debug(`wsp client ${id} registered a connection`, { peer: formatPeer(this.#client), size });
      this.#pools.add(id, size, this);
    } catch (thrown) {
      this.#refuse(thrown as SeikanError);
    }
  }

  #refuse(error: SeikanError): void {
    this.#context.log.debug(`wsp client dropped: ${error.message}`, { peer: formatPeer(this.#client) });
    this.close();
  }

  onDrain(): void {
    this.#exchange?.onDrain();
  }

  onClose(error: SeikanError | undefined): void {
    this.#cancel();
    this.#live.delete(this);
    if (this.#id !== undefined) this.#pools.delete(this.#id, this);
    this.#exchange?.onClose(error);
  }

  close(): void {
    this.#socket.close();
  }

  /** The server is about to stop. */
  drain(): void {
    this.#draining = true;
    if (!this.#seized) this.close();
  }

  abort(reason: SeikanError): void {
    this.#socket.abort(reason);
  }
}
