import { now } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import { createStream, type ByteStream, type CloseReason, type Sink } from "../core/stream.ts";
import {
  FLAG,
  FRAME,
  GO_AWAY,
  INITIAL_WINDOW,
  yamuxError,
  yamuxHeader,
  YamuxReader,
  type YamuxHandler,
} from "../wire/yamux.ts";
import { closeGently } from "./gentle-close.ts";
import { MuxDriver, type MuxCarrier } from "./mux-stream.ts";

/**
 * Many streams in one, by yamux. Each stream has its own credit, so one that
 * is not read holds up no other; the carrying stream is never paused. Streams
 * that have something to send take turns.
 */

export interface MuxOptions {
  /** The client opens odd streams, the server even ones. */
  readonly role: "client" | "server";
  /** Gets every stream the peer opens, and owns it. Without it they are refused. */
  readonly accept?: (stream: ByteStream) => void;
  /** The peer opens and takes no more streams; those that are open go on. */
  readonly onGoAway?: () => void;
  /** For errors: `tunnel wss://tunnel.example.com`. */
  readonly peer: string;
}

/** One data frame carries at most this much: the longer the carrier keeps us waiting, the less. */
const FRAME_BYTES = { least: 32 * 1024, first: 128 * 1024, most: 512 * 1024 };
/** A carrier that takes bytes again within this is fast, one that needs that long is slow. */
const FAST_DRAIN_MS = 5;
const SLOW_DRAIN_MS = 20;

/** Streams of this process, all sessions together: each may fill its window. */
const MAX_STREAMS = 4096;
const LARGEST_WINDOW = 16 * 1024 * 1024;
/** What all windows together may grow beyond their first 256 KiB. */
const GROWTH_BYTES = 128 * 1024 * 1024;
/** A window grows when half of it was used within two round trips; no trip counts for less than this. */
const SHORTEST_TRIP_MS = 2;
const TRIP_AGE_MS = 5000;
/** Answers that wait for a peer which does not read. */
const MAX_BACKLOG_FRAMES = 10_000;

let liveStreams = 0;
let growthLeft = GROWTH_BYTES;

/** Both ends of a yamux session. Owns the carrying stream. */
export class MuxSession implements Sink, YamuxHandler, MuxCarrier {
  readonly #inner: ByteStream;
  readonly #options: MuxOptions;
  readonly #reader = new YamuxReader(this);
  readonly #streams = new Map<number, MuxDriver>();
  /** Streams with bytes and credit, in the order of their turns. */
  readonly #turns: MuxDriver[] = [];
  readonly #pings = new Map<number, () => void>();
  #nextId: number;
  #lastPeerId = 0;
  #nextPing = 1;
  #isBlocked = false;
  #blockedAt = 0;
  #frameBytes = FRAME_BYTES.first;
  #backlog = 0;
  #saidGoAway = false;
  #heardGoAway = false;
  #tripMs = SHORTEST_TRIP_MS;
  #tripAt = 0;
  #over = false;
  /** Payload bytes of all streams until now. */
  sentBytes = 0;
  receivedBytes = 0;
  readonly #closed = Promise.withResolvers<CloseReason>();

  constructor(inner: ByteStream, options: MuxOptions) {
    this.#inner = inner;
    this.#options = options;
    this.#nextId = options.role === "client" ? 1 : 2;
    inner.attach(this);
  }

  /** Settles when the session is over; never rejects. */
  get closed(): Promise<CloseReason> {
    return this.#closed.promise;
  }

  get isClosed(): boolean {
    return this.#over;
  }

  /** False once either side said that it is going away. */
  get takesStreams(): boolean {
    return !this.#over && !this.#heardGoAway && !this.#saidGoAway && this.#nextId < 0xfffffff0;
  }

  get size(): number {
    return this.#streams.size;
  }

  /** Opens a stream; its first bytes go out at once, together with the request for it. */
  open(): ByteStream {
    if (!this.takesStreams) throw new SeikanError("tunnel-lost", `${this.#options.peer} takes no more streams`);
    if (liveStreams >= MAX_STREAMS)
      throw new SeikanError("limit-reached", `more than ${MAX_STREAMS} streams in tunnels at once`);
    const id = this.#nextId;
    this.#nextId += 2;
    return this.#create(id, FLAG.syn).stream;
  }

  /** Asks for a sign of life; resolves to the round trip in milliseconds, never when the session ends first. */
  ping(): Promise<number> {
    const value = this.#nextPing++ >>> 0;
    const asked = now();
    return new Promise((resolve) => {
      this.#pings.set(value, () => resolve(now() - asked));
      this.#send(FRAME.ping, FLAG.syn, 0, value);
    });
  }

  /** No new streams in either direction; the session ends with the last one. */
  goAway(): void {
    if (this.#saidGoAway || this.#over) return;
    this.#saidGoAway = true;
    this.#send(FRAME.goAway, 0, 0, GO_AWAY.normal);
    this.#endWhenEmpty();
  }

  /** Says goodbye and ends the carrying stream; what is still open is cut. */
  leave(): void {
    this.goAway();
    this.#inner.end();
  }

  /** Ends it and every stream in it, now. */
  abort(reason: SeikanError): void {
    this.#inner.abort(reason);
  }

  // --- what the carrying stream says ------------------------------------------

  onData(chunk: Uint8Array): void {
    try {
      this.#reader.feed(chunk);
    } catch (thrown) {
      this.#refuse(toSeikanError(thrown));
    }
  }

  onDrain(): void {
    if (this.#isBlocked) this.#adapt(now() - this.#blockedAt);
    this.#isBlocked = false;
    this.#backlog = 0;
    while (!this.#isBlocked && this.#turns.length > 0) this.#turns.shift()!.turn();
  }

  /** Whatever was just given to a slow carrier stands in front of everything else: so it is less. */
  #adapt(waitedMs: number): void {
    const { least, most } = FRAME_BYTES;
    if (waitedMs < FAST_DRAIN_MS) this.#frameBytes = Math.min(this.#frameBytes * 2, most);
    else if (waitedMs > SLOW_DRAIN_MS) this.#frameBytes = Math.max(this.#frameBytes / 2, least);
  }

  #block(): void {
    if (this.#isBlocked) return;
    this.#isBlocked = true;
    this.#blockedAt = now();
  }

  onEnd(): void {
    this.#inner.end();
    if (this.#streams.size > 0) this.#inner.abort(this.#lost(undefined));
  }

  onClose(reason: CloseReason): void {
    this.#end(reason);
  }

  #end(reason: CloseReason): void {
    this.#over = true;
    this.#reader.stop();
    const error = this.#lost(reason.error);
    for (const driver of this.#streams.values()) this.#forget(driver, error);
    this.#closed.resolve(reason);
  }

  #lost(cause: SeikanError | undefined): SeikanError {
    const why = cause === undefined ? "" : `: ${cause.message}`;
    return new SeikanError("tunnel-lost", `${this.#options.peer} was lost${why}`, { cause });
  }

  /** Tells the peer that it broke the protocol, and gives up. */
  #refuse(error: SeikanError): void {
    this.#send(FRAME.goAway, 0, 0, GO_AWAY.protocolError);
    this.#end({ error: new SeikanError(error.code, `${this.#options.peer}: ${error.message}`, { cause: error }) });
    closeGently(this.#inner);
  }

  // --- frames in ----------------------------------------------------------------

  onFrame(type: number, flags: number, id: number, length: number): void {
    const driver = flags & FLAG.syn ? this.#opened(id) : this.#streams.get(id);
    // It was reset here, and the peer could not know yet.
    if (driver === undefined) return;
    if (flags & FLAG.rst) return this.#reset(driver);
    if (type === FRAME.windowUpdate) driver.credited(length);
    else driver.announced(length);
    // A FIN on a data frame comes behind its payload.
    if (flags & FLAG.fin) driver.finishAfter(type === FRAME.data ? length : 0);
  }

  onPayload(id: number, piece: Uint8Array): void {
    this.receivedBytes += piece.length;
    this.#streams.get(id)?.received(piece);
  }

  onPing(isAnswer: boolean, value: number): void {
    if (!isAnswer) return this.#send(FRAME.ping, FLAG.ack, 0, value);
    const answered = this.#pings.get(value);
    this.#pings.delete(value);
    answered?.();
  }

  onGoAway(code: number): void {
    this.#heardGoAway = true;
    if (code !== GO_AWAY.normal) {
      const what = code === GO_AWAY.protocolError ? "a protocol error" : `error ${code}`;
      return this.#inner.abort(new SeikanError("peer-protocol", `${this.#options.peer} ended it because of ${what}`));
    }
    this.#options.onGoAway?.();
    this.#endWhenEmpty();
  }

  /** The peer opens a stream. */
  #opened(id: number): MuxDriver | undefined {
    const isOurs = id % 2 === (this.#options.role === "client" ? 1 : 0);
    if (isOurs || id <= this.#lastPeerId) throw yamuxError(`stream ${id} cannot be opened`);
    this.#lastPeerId = id;
    const { accept } = this.#options;
    if (accept === undefined || this.#saidGoAway || liveStreams >= MAX_STREAMS) {
      this.#send(FRAME.windowUpdate, FLAG.rst, id, 0);
      return undefined;
    }
    const driver = this.#create(id, 0);
    this.#send(FRAME.windowUpdate, FLAG.ack, id, 0);
    accept(driver.stream);
    return this.#streams.get(id);
  }

  #reset(driver: MuxDriver): void {
    this.#forget(driver, new SeikanError("peer-reset", `${this.#options.peer}: stream reset`));
    this.#endWhenEmpty();
  }

  // --- what drivers ask for -------------------------------------------------------

  #create(id: number, flags: number): MuxDriver {
    const driver = new MuxDriver(this, id, flags);
    driver.stream = createStream(driver, `${this.#options.peer} stream ${id}`);
    this.#streams.set(id, driver);
    liveStreams++;
    return driver;
  }

  get isBlocked(): boolean {
    return this.#isBlocked;
  }

  get isContended(): boolean {
    return this.#turns.length > 0;
  }

  get frameBytes(): number {
    return this.#frameBytes;
  }

  waitForTurn(driver: MuxDriver): void {
    this.#turns.push(driver);
  }

  sendData(id: number, flags: number, bytes: Uint8Array): void {
    this.sentBytes += bytes.length;
    this.#send(FRAME.data, flags, id, bytes.length);
    if (!this.#inner.write(bytes)) this.#block();
  }

  sendWindow(id: number, flags: number, delta: number): void {
    this.#send(FRAME.windowUpdate, flags, id, delta);
  }

  #send(type: number, flags: number, id: number, length: number): void {
    if (this.#over) return;
    if (this.#isBlocked && ++this.#backlog > MAX_BACKLOG_FRAMES) {
      return this.#inner.abort(yamuxError(`${this.#options.peer} asks for much and reads nothing`));
    }
    if (!this.#inner.write(yamuxHeader(type, flags, id, length))) this.#block();
  }

  /** Both directions are over, or a reset ended it. */
  finished(driver: MuxDriver): void {
    this.#forget(driver, undefined);
    this.#endWhenEmpty();
  }

  #forget(driver: MuxDriver, error: SeikanError | undefined): void {
    if (!this.#streams.delete(driver.id)) return;
    liveStreams--;
    growthLeft += driver.window - INITIAL_WINDOW;
    const turn = this.#turns.indexOf(driver);
    if (turn >= 0) this.#turns.splice(turn, 1);
    driver.over(error);
  }

  #endWhenEmpty(): void {
    if (this.#streams.size === 0 && (this.#saidGoAway || this.#heardGoAway)) this.#inner.end();
  }

  /** How large a window may become that was half used up within `elapsedMs`. */
  grownWindow(window: number, elapsedMs: number): number {
    const time = now();
    if (time - this.#tripAt > TRIP_AGE_MS) {
      this.#tripAt = time;
      void this.ping().then((tripMs) => (this.#tripMs = Math.max(tripMs, SHORTEST_TRIP_MS)));
    }
    const isFast = elapsedMs < 2 * this.#tripMs;
    if (!isFast || window >= LARGEST_WINDOW || growthLeft < window) return window;
    growthLeft -= window;
    return window * 2;
  }
}
