import { after, now, type Deadline } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream, CloseReason, Sink } from "../core/stream.ts";
import type { Decode } from "../wire/socks.ts";

/** What a handshake step found, and the bytes behind it. */
export interface Taken<T> {
  readonly value: T;
  readonly rest: Uint8Array;
}

export interface Step<T> {
  /** Gets every chunk once; answers undefined while it needs more; may throw. */
  take(chunk: Uint8Array): Taken<T> | undefined;
  /** The peer finished. Undefined: too early, the step fails. */
  end?(): T | undefined;
}

const NOTHING = new Uint8Array(0);

/**
 * Reads one step of a handshake. Bytes behind it are put back, and the stream
 * is without a sink again: the caller still owns it, also when this rejects.
 */
export function readStep<T>(stream: ByteStream, step: Step<T>, deadline: Deadline, peer: string): Promise<T> {
  const reading = new Reading(stream, step, deadline, peer);
  stream.attach(reading);
  return reading.result.promise;
}

class Reading<T> implements Sink {
  readonly result = Promise.withResolvers<T>();
  readonly #stream: ByteStream;
  readonly #step: Step<T>;
  readonly #peer: string;
  readonly #cancel: () => void;
  #over = false;

  constructor(stream: ByteStream, step: Step<T>, deadline: Deadline, peer: string) {
    this.#stream = stream;
    this.#step = step;
    this.#peer = peer;
    this.#cancel = after(deadline - now(), () => {
      this.#fail(
        new SeikanError("connect-timeout", `${peer} does not answer within the connect timeout`, {
          hints: ["it took the connection and says nothing: is that the right port, and does it speak TLS there?"],
        }),
      );
    });
  }

  onData(chunk: Uint8Array): void {
    if (this.#over) return this.#stream.unread(chunk);
    try {
      const taken = this.#step.take(chunk);
      if (taken !== undefined) this.#succeed(taken.value, taken.rest);
    } catch (error) {
      this.#fail(error);
    }
  }

  onEnd(): void {
    if (this.#over) return;
    try {
      const value = this.#step.end?.();
      if (value !== undefined) return this.#succeed(value, NOTHING);
      this.#fail(new SeikanError("hop-closed", `${this.#peer} closed the connection during the handshake`));
    } catch (error) {
      this.#fail(error);
    }
  }

  onDrain(): void {}

  onClose(reason: CloseReason): void {
    if (this.#over) return;
    const why = reason.error === undefined ? "" : `: ${reason.error.message}`;
    this.#fail(
      new SeikanError("hop-closed", `${this.#peer} ended the connection during the handshake${why}`, {
        cause: reason.error,
      }),
    );
  }

  #succeed(value: T, rest: Uint8Array): void {
    this.#finish();
    this.#stream.unread(rest);
    this.result.resolve(value);
  }

  #fail(error: unknown): void {
    this.#finish();
    this.result.reject(error);
  }

  #finish(): void {
    this.#over = true;
    this.#cancel();
    this.#stream.detach();
  }
}

/** A step from a pure decoder; refuses to collect more than `limit` bytes. */
export function decodeStep<T>(decode: Decode<T>, limit = 1024): Step<T> {
  let bytes: Uint8Array = NOTHING;
  return {
    take(chunk) {
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk]);
      const decoded = decode(bytes);
      if (decoded !== undefined) return { value: decoded.value, rest: bytes.subarray(decoded.length) };
      if (bytes.length > limit) throw new SeikanError("hop-protocol", "handshake message too long");
      return undefined;
    },
  };
}
