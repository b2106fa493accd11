import { SeikanError } from "./errors.ts";

/** Why a stream is over: both directions finished, or one error ended both. */
export type CloseReason = { readonly error: SeikanError | undefined };

const CLEAN: CloseReason = { error: undefined };

/**
 * Receives what a stream has to say, synchronously; must not throw.
 * `onClose` is the last call and comes exactly once per stream.
 */
export interface Sink {
  /** The chunk belongs to the sink. */
  onData(chunk: Uint8Array): void;
  /** The peer finished its direction (FIN); all its bytes have been delivered. */
  onEnd(): void;
  /** Everything written so far is with the transport: write again. */
  onDrain(): void;
  onClose(reason: CloseReason): void;
}

/** What a transport supplies; `createStream` adds queueing, states and `closed`. */
export interface Driver {
  /** What `write` took is copied, so that its memory may be used again. */
  readonly copies?: boolean;
  /** Returns how many bytes it took; fewer means wait for `feed.drained()`. */
  write(bytes: Uint8Array): number;
  /** FIN: our direction is finished. The other one goes on. */
  shutdown(): void;
  /** Ends both directions at once, as RST where the transport has one. */
  destroy(): void;
  /** `false` must reach the source, so that memory stays bounded. */
  setReading(on: boolean): void;
}

/** How a driver reports back; every call is allowed at any time, also twice. */
export interface StreamFeed {
  receive(chunk: Uint8Array): void;
  /** The peer's FIN. */
  receiveEnd(): void;
  /** The driver takes bytes again. */
  drained(): void;
  /**
   * The transport is gone: because both directions are over and everything
   * written is out of our hands, or because of `error`.
   */
  lost(error?: SeikanError): void;
}

/**
 * A half-closable byte stream.
 *
 * Without a sink, or paused, it holds what arrives and stops its source. A FIN
 * comes behind the bytes that preceded it. An error does not wait for a paused
 * sink: what it had not taken by then is dropped.
 */
export interface ByteStream {
  /** For logs and errors: `tcp 10.0.0.7:52114`. */
  readonly label: string;
  /** Settles once when both directions are over; never rejects. */
  readonly closed: Promise<CloseReason>;
  readonly isClosed: boolean;
  /**
   * True: a chunk is copied by the time `write` said true, or `onDrain` came.
   * Otherwise it belongs to the stream and what is below it.
   */
  readonly copiesWrites: boolean;
  /** Replaces the sink, which hears of a close that has already been; held bytes are delivered at once, or when the running `onData` returns. */
  attach(sink: Sink): void;
  /** Stops delivery until the next `attach`; the source stops with the first chunk that is held meanwhile. */
  detach(): void;
  /** Puts bytes back in front of everything not yet delivered. */
  unread(bytes: Uint8Array): void;
  /** Takes all of `chunk`; `false` means stop until `onDrain`. */
  write(chunk: Uint8Array): boolean;
  /** FIN after everything written. Repeating it does nothing. */
  end(): void;
  /** Both directions, now; unsent and undelivered bytes are dropped. Repeating it does nothing. */
  abort(reason: SeikanError): void;
  pause(): void;
  resume(): void;
}

export function createStream(driver: Driver, label: string): Stream {
  return new Stream(driver, label);
}

// One bit each: an idle tunnel keeps two of these objects, so they stay small.
const PAUSED = 1;
const STOPPED = 2; // the driver was told to stop reading
const ENDING = 4; // end() was called
const FINISHED = 8; // our FIN is with the driver
const PEER_ENDED = 16; // the peer's FIN arrived
const END_TOLD = 32; // and the sink knows
const GONE = 64; // the transport is gone
const CLOSED = 128; // and the sink knows
const DELIVERING = 256;
const NEEDS_DRAIN = 512; // write() said false
const DRAINING = 1024;

/** A held piece of a much larger chunk must not keep all of that alive. */
function ownMemory(chunk: Uint8Array): Uint8Array {
  return chunk.length * 4 < chunk.buffer.byteLength ? new Uint8Array(chunk) : chunk;
}

export class Stream implements ByteStream, StreamFeed {
  readonly label: string;
  readonly driver: Driver;
  #flags = 0;
  #sink: Sink | undefined;
  #incoming: Uint8Array[] | undefined;
  #outgoing: Uint8Array[] | undefined;
  #error: SeikanError | undefined;
  #closing: PromiseWithResolvers<CloseReason> | undefined;

  constructor(driver: Driver, label: string) {
    this.driver = driver;
    this.label = label;
  }

  get isClosed(): boolean {
    return (this.#flags & CLOSED) !== 0;
  }

  get copiesWrites(): boolean {
    return this.driver.copies === true;
  }

  /** True while bytes wait for a sink: then the transport below cannot be handed over. */
  get holdsBytes(): boolean {
    return this.#incoming !== undefined;
  }

  get closed(): Promise<CloseReason> {
    this.#closing ??= Promise.withResolvers<CloseReason>();
    if (this.isClosed) this.#closing.resolve(this.#reason());
    return this.#closing.promise;
  }

  attach(sink: Sink): void {
    if (this.#flags & CLOSED) return sink.onClose(this.#reason());
    this.#sink = sink;
    this.#flow();
  }

  detach(): void {
    this.#sink = undefined;
  }

  unread(bytes: Uint8Array): void {
    if (bytes.length === 0 || this.#flags & CLOSED) return;
    (this.#incoming ??= []).unshift(bytes);
    this.#flow();
  }

  write(chunk: Uint8Array): boolean {
    if (this.#flags & (ENDING | GONE | CLOSED)) return false;
    if (chunk.length === 0) return this.#outgoing === undefined;
    if (this.#outgoing === undefined) {
      const taken = this.driver.write(chunk);
      if (taken === chunk.length) return true;
      this.#outgoing = [taken > 0 ? chunk.subarray(taken) : chunk];
    } else {
      this.#outgoing.push(chunk);
    }
    this.#flags |= NEEDS_DRAIN;
    return false;
  }

  end(): void {
    if (this.#flags & (ENDING | CLOSED)) return;
    this.#flags |= ENDING;
    if (this.#outgoing === undefined) this.#finish();
  }

  abort(reason: SeikanError): void {
    if (this.#flags & CLOSED) return;
    this.#incoming = undefined;
    this.#outgoing = undefined;
    this.#error ??= reason;
    const gone = this.#flags & GONE;
    this.#flags |= GONE;
    if (!gone) this.driver.destroy();
    this.#close();
  }

  pause(): void {
    if (this.#flags & PAUSED) return;
    this.#flags |= PAUSED;
    this.#setReading(false);
  }

  resume(): void {
    if (!(this.#flags & PAUSED)) return;
    this.#flags &= ~PAUSED;
    this.#flow();
  }

  // --- what the driver reports -------------------------------------------

  receive(chunk: Uint8Array): void {
    if (this.#flags & (PEER_ENDED | GONE)) return;
    const sink = this.#sink;
    if (sink === undefined || this.#incoming !== undefined || this.#flags & (PAUSED | DELIVERING)) {
      (this.#incoming ??= []).push(ownMemory(chunk));
      this.#setReading(false);
      return;
    }
    this.#flags |= DELIVERING;
    sink.onData(chunk);
    this.#flags &= ~DELIVERING;
    // The sink may have paused, put bytes back, or handed the stream over.
    if (this.#incoming !== undefined || this.#flags & (STOPPED | PEER_ENDED | GONE)) this.#flow();
  }

  receiveEnd(): void {
    if (this.#flags & (PEER_ENDED | GONE)) return;
    this.#flags |= PEER_ENDED;
    this.#flow();
  }

  drained(): void {
    // A driver may call this from inside its own write.
    if (this.#flags & DRAINING) return;
    this.#flags |= DRAINING;
    const isEmpty = this.#sendHeld();
    this.#flags &= ~DRAINING;
    if (!isEmpty || this.#flags & GONE) return;
    if (this.#flags & ENDING) this.#finish();
    else if (this.#flags & NEEDS_DRAIN) {
      this.#flags &= ~NEEDS_DRAIN;
      this.#sink?.onDrain();
    }
  }

  /** Writes what waits; true when nothing waits any more. */
  #sendHeld(): boolean {
    while (this.#outgoing !== undefined) {
      const chunk = this.#outgoing[0]!;
      const taken = this.driver.write(chunk);
      if (this.#outgoing === undefined) return true;
      if (taken < chunk.length) {
        if (taken > 0) this.#outgoing[0] = chunk.subarray(taken);
        return false;
      }
      this.#outgoing.shift();
      if (this.#outgoing.length === 0) this.#outgoing = undefined;
    }
    return true;
  }

  lost(error?: SeikanError): void {
    if (this.#flags & GONE) return;
    this.#flags |= GONE;
    this.#error = error;
    if (error === undefined) {
      // Bun reports the FIN that answers ours only as a close.
      this.#flags |= PEER_ENDED;
      if (this.#outgoing !== undefined) {
        this.#error = new SeikanError("peer-closed", `${this.label} closed before it took everything`);
      }
    }
    this.#outgoing = undefined;
    this.#flow();
  }

  // --- delivery ----------------------------------------------------------

  /** Delivers what can be delivered now, in order, and tells the driver whether to read on. */
  #flow(): void {
    if (this.#flags & (DELIVERING | CLOSED) || this.#sink === undefined) return;
    this.#flags |= DELIVERING;
    while (this.#incoming !== undefined && this.#sink !== undefined && !(this.#flags & PAUSED)) {
      const chunk = this.#incoming.shift()!;
      if (this.#incoming.length === 0) this.#incoming = undefined;
      this.#sink.onData(chunk);
    }
    this.#flags &= ~DELIVERING;
    if (this.#sink === undefined) return;
    if (this.#error !== undefined) return this.#close();
    if (this.#flags & PAUSED) return;
    if (this.#flags & PEER_ENDED && !(this.#flags & END_TOLD)) {
      this.#flags |= END_TOLD;
      this.#sink.onEnd();
    }
    if (this.#flags & GONE) this.#close();
    else if (this.#sink !== undefined && !(this.#flags & PAUSED)) this.#setReading(true);
  }

  #setReading(on: boolean): void {
    const reading = (this.#flags & STOPPED) === 0;
    if (on === reading || this.#flags & GONE) return;
    this.#flags ^= STOPPED;
    this.driver.setReading(on);
  }

  #finish(): void {
    if (this.#flags & (FINISHED | GONE)) return;
    this.#flags |= FINISHED;
    this.driver.shutdown();
  }

  #close(): void {
    if (this.#flags & CLOSED) return;
    this.#flags |= CLOSED | GONE;
    this.#incoming = undefined;
    const sink = this.#sink;
    this.#sink = undefined;
    sink?.onClose(this.#reason());
    this.#closing?.resolve(this.#reason());
  }

  #reason(): CloseReason {
    return this.#error === undefined ? CLEAN : { error: this.#error };
  }
}
