import { deadlineIn, now, sleep } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { LiveSet } from "../core/scope.ts";
import type { ByteStream } from "../core/stream.ts";
import { MessageSocket } from "../transports/message-socket.ts";
import { heartbeatEvery } from "../transports/pulse.ts";
import { upgradeWebSocket, type WebSocketHop } from "../transports/websocket-hop.ts";
import { WspResponder } from "../transports/wsp.ts";
import { formatGreeting, SECRET_FIELD, SERVER_ERROR, type WspRequest } from "../wire/wsp.ts";
import type { WspClientConfig } from "./wsp-config.ts";

/** The pool is looked after this often, as wsp does. */
const TICK_MS = 1000;
/** wsp asks for a sign of life this often. */
const PING_MS = 30_000;
const LONGEST_PAUSE_MS = 30_000;

export interface WspPoolSettings {
  readonly config: WspClientConfig;
  readonly id: string;
  readonly secret: string;
  readonly connectMs: number;
  readonly pingMs: number | undefined;
  /** Failures in a row, with no connection left, that are followed by one more attempt. */
  readonly retries: number;
  readonly live: LiveSet;
  readonly serve: (stream: ByteStream) => void;
  readonly forbids: (request: WspRequest) => string | undefined;
  readonly events: {
    up(name: string): void;
    lost(name: string, error: SeikanError | undefined): void;
    failed(name: string, error: SeikanError, againMs: number): void;
  };
}

/** One target's connections to its wsp server: as many idle ones as the configuration says, more while they are used. */
export class WspPool {
  readonly name: string;
  readonly #hop: WebSocketHop;
  readonly #settings: WspPoolSettings;
  readonly #connections = new Set<WspLine>();
  #dialling = 0;
  #failures = 0;
  #quietUntil = 0;
  readonly #ready = Promise.withResolvers<void>();
  readonly #failed = Promise.withResolvers<SeikanError>();
  readonly #stop = new AbortController();

  constructor(hop: WebSocketHop, settings: WspPoolSettings) {
    this.name = hop.name;
    this.#hop = hop;
    this.#settings = settings;
  }

  /** Resolves once a connection is registered. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Resolves when it is refused, or given up. */
  get failed(): Promise<SeikanError> {
    return this.#failed.promise;
  }

  async keep(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      this.#refill();
      await sleep(TICK_MS, this.#stop.signal);
    }
  }

  #refill(): void {
    const { poolidlesize, poolmaxsize } = this.#settings.config;
    if (this.#stop.signal.aborted || now() < this.#quietUntil) return;
    const idle = [...this.#connections].filter(({ isIdle }) => isIdle).length + this.#dialling;
    const total = this.#connections.size + this.#dialling;
    const wanted = total === 0 ? 1 : Math.min(poolidlesize - idle, poolmaxsize - total);
    for (let i = 0; i < wanted; i++) void this.#dial();
  }

  async #dial(): Promise<void> {
    this.#dialling++;
    try {
      const line = await this.#connect();
      // Nobody wants it any more.
      if (this.#stop.signal.aborted) return line.drain();
      this.#failures = 0;
      if (this.#connections.size === 0) this.#settings.events.up(this.name);
      this.#connections.add(line);
      this.#settings.live.add(line);
      this.#ready.resolve();
    } catch (thrown) {
      this.#dialFailed(toSeikanError(thrown));
    } finally {
      this.#dialling--;
    }
    // The first one is up: now the others.
    if (this.#failures === 0 && this.#connections.size === 1) this.#refill();
  }

  /** wsp tries again each second for ever; a server that is away gets longer and longer pauses from us. */
  #dialFailed(error: SeikanError): void {
    if (this.#connections.size > 0) return;
    this.#failures++;
    const pause = Math.min(TICK_MS * 2 ** (this.#failures - 1), LONGEST_PAUSE_MS);
    this.#quietUntil = now() + pause * (0.5 + Math.random() / 2);
    if (this.#failures > this.#settings.retries || error.outcome.exit === 4) this.#failed.resolve(error);
    this.#settings.events.failed(this.name, error, pause);
  }

  async #connect(): Promise<WspLine> {
    const { connectMs, secret, id, config } = this.#settings;
    const request = { protocol: undefined, fields: [SECRET_FIELD, secret] };
    const stream = await upgradeWebSocket(this.#hop, request, { deadline: deadlineIn(connectMs) }).catch(refusedAsWsp);
    const line = new WspLine(
      stream,
      this.name,
      this.#settings,
      (error) => this.#lost(line, error),
      () => this.#refill(),
    );
    line.greet(formatGreeting({ id, size: config.poolidlesize }));
    return line;
  }

  #lost(line: WspLine, error: SeikanError | undefined): void {
    if (!this.#connections.delete(line)) return;
    this.#settings.live.delete(line);
    if (this.#connections.size === 0 && !this.#stop.signal.aborted) this.#settings.events.lost(this.name, error);
  }

  /** Idle connections are closed, the others behind their request. */
  close(): void {
    this.#stop.abort();
    for (const line of this.#connections) line.drain();
  }
}

/** wsp has one status for everything; at the registration it means the secret. */
function refusedAsWsp(thrown: unknown): never {
  const error = toSeikanError(thrown);
  if (error.hopStatus !== SERVER_ERROR) throw error;
  throw new SeikanError("hop-auth", error.message, { cause: error, hopStatus: SERVER_ERROR, hints: error.hints });
}

class WspLine {
  readonly #socket: MessageSocket;
  #isBusy = false;
  #draining = false;

  constructor(
    stream: ByteStream,
    peer: string,
    { serve, forbids, pingMs }: WspPoolSettings,
    closed: (error: SeikanError | undefined) => void,
    taken: () => void,
  ) {
    const responder = new WspResponder({
      ...{ serve, forbids, closed },
      busy: (isBusy) => {
        this.#isBusy = isBusy;
        if (isBusy) taken();
        else if (this.#draining) this.#socket.close();
      },
    });
    this.#socket = new MessageSocket(stream, responder, {
      ...{ role: "client", peer },
      heartbeat: heartbeatEvery(pingMs ?? PING_MS),
    });
    responder.socket = this.#socket;
  }

  get isIdle(): boolean {
    return !this.#isBusy;
  }

  greet(text: string): void {
    this.#socket.sendText(text);
  }

  drain(): void {
    this.#draining = true;
    if (!this.#isBusy) this.#socket.close();
  }

  abort(reason: SeikanError): void {
    this.#socket.abort(reason);
  }
}
