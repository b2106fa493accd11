import type { SeikanError } from "../../src/core/errors.ts";
import { createStream, type Driver, type Stream } from "../../src/core/stream.ts";

/** A transport that does what the test says. */
export class FakeDriver implements Driver {
  readonly stream: Stream;
  /** What it was given and took. */
  readonly written: Uint8Array[] = [];
  /** Everything that was asked of it, in order. */
  readonly calls: string[] = [];
  /** How many bytes the next writes take in all. */
  room = Number.POSITIVE_INFINITY;
  reading = true;
  /** Runs inside each write, when its bytes are taken. */
  onWrite: () => void = () => {};

  constructor(label = "fake") {
    this.stream = createStream(this, label);
  }

  get text(): string {
    return Buffer.concat(this.written).toString();
  }

  write(bytes: Uint8Array): number {
    const taken = Math.min(this.room, bytes.length);
    this.room -= taken;
    if (taken > 0) this.written.push(bytes.slice(0, taken));
    this.onWrite();
    return taken;
  }

  shutdown(): void {
    this.calls.push("shutdown");
  }

  destroy(): void {
    this.calls.push("destroy");
  }

  setReading(on: boolean): void {
    this.calls.push(on ? "read" : "stop");
    this.reading = on;
  }

  // --- the peer ------------------------------------------------------------

  send(text: string): void {
    this.stream.receive(Buffer.from(text));
  }

  finish(): void {
    this.stream.receiveEnd();
  }

  lose(error?: SeikanError): void {
    this.stream.lost(error);
  }

  /** Takes so many bytes more and says so. */
  drain(bytes = Number.POSITIVE_INFINITY): void {
    this.room = bytes;
    this.stream.drained();
  }
}
