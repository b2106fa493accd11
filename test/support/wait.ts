import { SeikanError } from "../../src/core/errors.ts";
import type { ByteStream, CloseReason, Sink } from "../../src/core/stream.ts";

/** The only timeout in tests: for things that must happen. */
export async function within<T>(work: Promise<T>, what: string, ms = 10_000): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`waited ${ms} ms in vain for ${what}`)), ms);
  return Promise.race([work, promise]).finally(() => clearTimeout(timer));
}

/** Resolves as soon as `condition` holds; asked between turns of the event loop. */
export async function until(condition: () => boolean, what: string, ms = 10_000): Promise<void> {
  const end = performance.now() + ms;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`waited ${ms} ms in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** A sink that records what a stream says. */
export class Recorder implements Sink {
  readonly chunks: Uint8Array[] = [];
  length = 0;
  ended = false;
  drains = 0;
  reason: CloseReason | undefined;
  onChunk: (chunk: Uint8Array) => void = () => {};
  readonly #end = Promise.withResolvers<void>();
  readonly #close = Promise.withResolvers<CloseReason>();
  #wanted: { length: number; resolve: () => void }[] = [];
  #drain: (() => void)[] = [];
  readonly stream: ByteStream;

  constructor(stream: ByteStream, attach = true) {
    this.stream = stream;
    if (attach) stream.attach(this);
  }

  onData(chunk: Uint8Array): void {
    this.chunks.push(chunk.slice());
    this.length += chunk.length;
    this.onChunk(chunk);
    this.#wanted = this.#wanted.filter((want) => {
      if (this.length >= want.length) want.resolve();
      return this.length < want.length;
    });
  }

  onEnd(): void {
    this.ended = true;
    this.#end.resolve();
  }

  onDrain(): void {
    this.drains++;
    for (const resolve of this.#drain.splice(0)) resolve();
  }

  onClose(reason: CloseReason): void {
    if (this.reason !== undefined) throw new Error("onClose came twice");
    this.reason = reason;
    this.#close.resolve(reason);
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString("latin1");
  }

  get bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }

  end(): Promise<void> {
    return within(this.#end.promise, `the end of ${this.stream.label}`);
  }

  close(): Promise<CloseReason> {
    return within(this.#close.promise, `the close of ${this.stream.label}`);
  }

  received(length: number, ms?: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.length >= length) resolve();
    else this.#wanted.push({ length, resolve });
    return within(promise, `${length} bytes on ${this.stream.label} (has ${this.length})`, ms);
  }

  drained(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#drain.push(resolve);
    return promise;
  }
}

/** Writes all of it, waiting whenever the stream says so. */
export async function writeAll(recorder: Recorder, chunks: Iterable<Uint8Array>): Promise<void> {
  for (const chunk of chunks) {
    if (!recorder.stream.write(chunk)) await recorder.drained();
  }
}

export function reset(): SeikanError {
  return new SeikanError("cancelled", "the test resets");
}

/** Bytes that differ at every position, from a seed. */
export function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}
