import { after, before, deadlineIn, now, sleep } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { MuxSession } from "./mux.ts";
import type { DialOptions } from "./transport.ts";
import { openWebSocket, type WebSocketHop } from "./websocket-hop.ts";
import type { Heartbeat } from "./pulse.ts";

/** What happens to a tunnel, for logs and for whoever depends on it. */
export type TunnelEvent =
  | { readonly kind: "up"; readonly ms: number }
  | { readonly kind: "lost"; readonly error: SeikanError | undefined }
  /** The far end is about to stop: a new connection is made for what is to come. */
  | { readonly kind: "away" }
  | { readonly kind: "failed"; readonly error: SeikanError; readonly againMs: number }
  /** Refused before it was ever up, or tried often enough: it is given up. */
  | { readonly kind: "refused"; readonly error: SeikanError };

export interface TunnelOptions {
  /** `wss://tunnel.example.com` */
  readonly name: string;
  /** Connections to spread streams over. */
  readonly connections: number;
  /** For one attempt to connect, in milliseconds. */
  readonly connectMs: number;
  /** `key` is the same for every connection that replaces an earlier one. */
  readonly connect: (key: string, onGoAway: () => void, options: DialOptions) => Promise<MuxSession>;
  readonly report: (event: TunnelEvent) => void;
  /** Failures in a row that are followed by one more attempt; undefined: any number. */
  readonly retries?: number | undefined;
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 30_000;
/** A waiter that gives up in the same moment as the attempt hears the attempt's reason. */
const REASON_MS = 50;
/** A connection that lived this long was a good one: the next pause is a short one again. */
const GOOD_MS = 5000;

/**
 * Connections to one far end, shared by everything this process sends there.
 * Streams that are opened while it is down wait for it, no longer than their
 * deadline. Streams of a lost connection fail with it.
 */
export class Tunnel {
  readonly name: string;
  readonly #lines: readonly Line[];

  constructor(options: TunnelOptions) {
    this.name = options.name;
    this.#lines = Array.from({ length: options.connections }, () => new Line(options));
  }

  /** A stream to the far end. Rejects at once when the tunnel is not kept and cannot be made. */
  open(options: DialOptions): Promise<ByteStream> {
    const line = this.#lines.reduce((best, candidate) => (candidate.load < best.load ? candidate : best));
    return line.open(options);
  }

  /** From now on it is connected all the time, and connected again when it is lost. */
  keep(): void {
    for (const line of this.#lines) line.keep();
  }

  /** Says goodbye; streams that are open are cut. */
  close(): void {
    for (const line of this.#lines) line.close();
  }

  /** No new connections; those that are up take no more streams and end with their last one. */
  retire(): void {
    for (const line of this.#lines) line.retire();
  }

  /** The connections that are up and take streams. */
  get sessions(): readonly MuxSession[] {
    return this.#lines.flatMap((line) => line.session ?? []);
  }
}

/** One connection of a tunnel, again and again. */
class Line {
  readonly #options: TunnelOptions;
  readonly #key: string = Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString("base64url");
  session: MuxSession | undefined;
  #isKept = false;
  #isClosed = false;
  #wasUp = false;
  #attempt: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #pauseMs = 0;
  #lastError: SeikanError | undefined;
  #waiting = 0;

  constructor(options: TunnelOptions) {
    this.#options = options;
  }

  /** How busy it is. One that must connect first comes last, the least asked for in front. */
  get load(): number {
    return this.session?.takesStreams ? this.session.size : 1e9 + this.#waiting;
  }

  async open(options: DialOptions): Promise<ByteStream> {
    this.#waiting++;
    try {
      while (!this.session?.takesStreams) await this.#wait(options);
    } finally {
      this.#waiting--;
    }
    return this.session.open();
  }

  async #wait(options: DialOptions): Promise<void> {
    this.#attempt ??= this.#connect(options);
    const { name } = this.#options;
    try {
      await before(
        options.deadline + REASON_MS,
        this.#attempt,
        "connect-timeout",
        `no tunnel to ${name} within the connect timeout`,
      );
    } catch (thrown) {
      const error = toSeikanError(thrown);
      // Why it is not up says more than that it is not.
      throw error.code === "connect-timeout" ? (this.#lastError ?? error) : error;
    }
  }

  keep(): void {
    this.#isKept = true;
    if (this.session === undefined) this.#reconnect();
  }

  close(): void {
    this.#isClosed = true;
    this.#wake?.();
    this.session?.leave();
  }

  retire(): void {
    this.#isClosed = true;
    this.#wake?.();
    this.session?.goAway();
  }

  #reconnect(): void {
    if (this.#isClosed || this.#attempt !== undefined) return;
    const attempt = this.#connect({ deadline: 0 });
    this.#attempt = attempt;
    attempt.catch(() => {});
  }

  /** Settles once the session is up, or when trying on is of no use. */
  async #connect(options: DialOptions): Promise<void> {
    const retries = this.#options.retries ?? Infinity;
    try {
      for (let failures = 1; ; failures++) {
        await this.#pause();
        if (this.#isClosed) throw new SeikanError("cancelled", `the tunnel ${this.#options.name} is closed`);
        const error = await this.#try(options);
        if (error === undefined) return;
        if (this.#isClosed || !this.#isKept) throw error;
        if ((!this.#wasUp && error.outcome.exit === 4) || failures > retries) {
          this.#options.report({ kind: "refused", error });
          throw error;
        }
        this.#backOff();
        this.#options.report({ kind: "failed", error, againMs: this.#pauseMs });
      }
    } finally {
      this.#attempt = undefined;
    }
  }

  #backOff(): void {
    this.#pauseMs = Math.min(Math.max(this.#pauseMs * 2, FIRST_PAUSE_MS), LONGEST_PAUSE_MS);
  }

  async #pause(): Promise<void> {
    if (this.#pauseMs === 0) return;
    const woken = new AbortController();
    this.#wake = () => woken.abort();
    await sleep(this.#pauseMs * (0.5 + Math.random() / 2), woken.signal);
    this.#wake = undefined;
  }

  async #try(options: DialOptions): Promise<SeikanError | undefined> {
    const startedAt = now();
    // Whoever waits for a kept tunnel may give up; the attempt goes on for the others.
    const deadline = this.#isKept ? deadlineIn(this.#options.connectMs) : options.deadline;
    let session: MuxSession | undefined;
    try {
      const goneAway = () => this.#isAway(session);
      session = await this.#options.connect(this.#key, goneAway, { deadline, trace: options.trace });
      this.#isUp(session, now() - startedAt);
      return undefined;
    } catch (thrown) {
      return (this.#lastError = toSeikanError(thrown));
    }
  }

  #isUp(session: MuxSession, ms: number): void {
    this.session = session;
    this.#wasUp = true;
    this.#lastError = undefined;
    const cancel = after(GOOD_MS, () => (this.#pauseMs = 0));
    this.#options.report({ kind: "up", ms });
    void session.closed.then(({ error }) => {
      cancel();
      this.#isDown(session, error);
    });
    if (this.#isClosed) session.leave();
  }

  #isDown(session: MuxSession, error: SeikanError | undefined): void {
    if (this.session !== session) return;
    this.session = undefined;
    this.#lastError = error;
    if (this.#isClosed) return;
    this.#options.report({ kind: "lost", error });
    this.#backOff();
    if (this.#isKept) this.#reconnect();
  }

  /** The far end is about to stop: what is open there goes on, new streams take a new connection. */
  #isAway(session: MuxSession | undefined): void {
    if (session === undefined || this.session !== session) return;
    this.session = undefined;
    if (this.#isClosed) return;
    this.#options.report({ kind: "away" });
    this.#backOff();
    if (this.#isKept) this.#reconnect();
  }
}

/** The subprotocol of the tunnel, with its version (docs/PROTOCOL.md). */
export const TUNNEL_PROTOCOL = "seikan.v1";
/** Names the connection's key: one that comes again with the same key takes its own place. */
export const SESSION_FIELD = "Seikan-Session";
/** Larger frames are refused on both sides. */
export const TUNNEL_FRAME_BYTES = 16 * 1024 * 1024;

export interface SessionTerms {
  readonly key: string;
  readonly onGoAway: () => void;
  readonly heartbeat: Heartbeat;
  /** Gets the streams that the far end opens; without it they are refused. */
  readonly accept?: (stream: ByteStream) => void;
}

/** Makes one connection of a tunnel: WebSocket, then yamux. */
export async function dialSession(
  hop: WebSocketHop,
  { key, onGoAway, heartbeat, accept }: SessionTerms,
  options: DialOptions,
): Promise<MuxSession> {
  const request = {
    ...{ protocol: TUNNEL_PROTOCOL, fields: [SESSION_FIELD, key], binaryOnly: true, heartbeat },
    zeroMask: hop.isSecure,
  };
  const carrier = await openWebSocket(hop, { ...request, maxFrame: TUNNEL_FRAME_BYTES }, options);
  const takes = accept === undefined ? {} : { accept };
  const session = new MuxSession(carrier, { role: "client", peer: `the tunnel ${hop.name}`, onGoAway, ...takes });
  if (options.trace !== undefined) {
    const what = `the tunnel ${hop.name} is open and gives no answer`;
    const tripMs = await before(options.deadline, session.ping(), "connect-timeout", what);
    options.trace({ kind: "session", hop: hop.name, tripMs });
  }
  return session;
}
