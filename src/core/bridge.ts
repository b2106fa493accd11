import { now, sweep } from "./clock.ts";
import { SeikanError } from "./errors.ts";
import type { ByteStream, CloseReason, Sink } from "./stream.ts";

export interface BridgeLimits {
  /** After the first EOF: end the bridge when no byte moved for this long. 0: never. */
  readonly lingerMs: number;
  /** While both directions are open: the same. 0: never. */
  readonly idleMs: number;
}

export interface BridgeResult {
  /** Bytes the outbound stream was given. */
  readonly up: number;
  /** Bytes the inbound stream was given. */
  readonly down: number;
  /** What ended the bridge; undefined when both directions finished with FIN. */
  readonly error: SeikanError | undefined;
}

/**
 * Joins two streams and owns both until they are closed. The only copy loop.
 *
 * Each EOF goes on as FIN behind the bytes that preceded it, and the other
 * direction stays open. An error on one side aborts the other, so that a cut
 * transfer never looks complete. A side that cannot take more pauses the other
 * one down to its source: at most one chunk waits per direction.
 */
export function bridge(inbound: ByteStream, outbound: ByteStream, limits: BridgeLimits): Promise<BridgeResult> {
  return new Promise((resolve) => startBridge(inbound, outbound, limits, resolve));
}

/** The same for callers with many idle bridges: a callback is smaller than a promise. */
export function startBridge(
  inbound: ByteStream,
  outbound: ByteStream,
  limits: BridgeLimits,
  finished: (result: BridgeResult) => void,
): void {
  new Bridge(limits, finished).join(inbound, outbound);
}

class Bridge {
  readonly limits: BridgeLimits;
  readonly finished: (result: BridgeResult) => void;
  up!: Direction;
  down!: Direction;
  error: SeikanError | undefined;
  #isFinished = false;
  #watch: ((time: number) => boolean) | undefined;

  constructor(limits: BridgeLimits, finished: (result: BridgeResult) => void) {
    this.limits = limits;
    this.finished = finished;
  }

  join(inbound: ByteStream, outbound: ByteStream): void {
    const { limits } = this;
    this.up = new Direction(this, inbound, outbound);
    this.down = new Direction(this, outbound, inbound);
    if (limits.idleMs > 0) this.#expireAfter(limits.idleMs, "idle-timeout", "no byte moved");
    // Held bytes of the inbound side (sent behind a CONNECT head) go first.
    inbound.attach(this.up);
    outbound.attach(this.down);
  }

  oneEnded(): void {
    if (this.up.ended && this.down.ended) return;
    this.#expireAfter(this.limits.lingerMs, "half-open-timeout", "half open and silent");
  }

  oneClosed(other: ByteStream, reason: CloseReason): void {
    this.error ??= reason.error;
    if (reason.error !== undefined) other.abort(reason.error);
    // What it still sends has no taker now; let it come, so that `onData` can say so.
    else other.resume();
    // Aborting the other side ends up here first.
    if (this.#isFinished || !this.up.from.isClosed || !this.down.from.isClosed) return;
    this.#isFinished = true;
    if (this.#watch !== undefined) sweep.delete(this.#watch);
    this.finished({ up: this.up.bytes, down: this.down.bytes, error: this.error });
  }

  #expireAfter(ms: number, code: "idle-timeout" | "half-open-timeout", what: string): void {
    if (this.#watch !== undefined) sweep.delete(this.#watch);
    if (ms <= 0) return;
    let bytes = this.up.bytes + this.down.bytes;
    let since = now();
    this.#watch = (time) => {
      const moved = this.up.bytes + this.down.bytes;
      if (moved !== bytes) {
        bytes = moved;
        since = time;
      }
      if (time - since < ms) return true;
      this.up.from.abort(new SeikanError(code, `${what} for ${ms / 1000} s`));
      return false;
    };
    sweep.add(this.#watch);
  }
}

/** One direction: a sink on `from` that feeds `to`. */
class Direction implements Sink {
  readonly bridge: Bridge;
  readonly from: ByteStream;
  readonly to: ByteStream;
  bytes = 0;
  ended = false;

  constructor(owner: Bridge, from: ByteStream, to: ByteStream) {
    this.bridge = owner;
    this.from = from;
    this.to = to;
  }

  onData(chunk: Uint8Array): void {
    this.bytes += chunk.length;
    if (this.to.write(chunk)) return;
    if (this.to.isClosed) {
      this.from.abort(new SeikanError("peer-closed", `${this.to.label} closed, so bytes for it are lost`));
    } else {
      this.from.pause();
    }
  }

  /** `from` takes bytes again: its source, the other stream, may go on. */
  onDrain(): void {
    this.to.resume();
  }

  onEnd(): void {
    this.ended = true;
    this.to.end();
    this.bridge.oneEnded();
  }

  onClose(reason: CloseReason): void {
    this.bridge.oneClosed(this.to, reason);
  }
}
