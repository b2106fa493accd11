import { SeikanError } from "../core/errors.ts";
import type { ByteStream, Sink } from "../core/stream.ts";

/** An upstream connection between two requests of one client. */
export interface UpstreamSlot {
  kept: KeptUpstream | undefined;
}

/** Whoever serves an origin may end what only waits. */
export interface IdleConnection {
  abort(reason: SeikanError): void;
}

/** Waits for the next request of the same client to the same origin; never serves another client. */
export class KeptUpstream implements Sink, IdleConnection {
  readonly stream: ByteStream;
  readonly origin: string;
  readonly #slot: UpstreamSlot;
  readonly #idle: Set<IdleConnection> | undefined;

  /** `idle` is the origin's list of connections that wait. */
  constructor(slot: UpstreamSlot, stream: ByteStream, origin: string, idle: Set<IdleConnection> | undefined) {
    this.#slot = slot;
    this.#idle = idle;
    idle?.add(this);
    this.stream = stream;
    this.origin = origin;
    slot.kept = this;
    stream.attach(this);
  }

  /** Bytes nobody asked for are never matched to the next request (RFC 9112 section 9.2). */
  onData(): void {
    this.abort(new SeikanError("bad-response", "the origin sent bytes without a request"));
  }

  onEnd(): void {
    this.abort(new SeikanError("cancelled", "the origin closed an idle connection"));
  }

  onDrain(): void {}

  /** Ends the wait; the stream is the caller's. */
  take(): ByteStream {
    this.#idle?.delete(this);
    this.stream.detach();
    return this.stream;
  }

  onClose(): void {
    this.#idle?.delete(this);
    if (this.#slot.kept === this) this.#slot.kept = undefined;
  }

  abort(reason: SeikanError): void {
    this.stream.abort(reason);
  }
}
