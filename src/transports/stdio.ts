import { SeikanError } from "../core/errors.ts";
import { createStream, type ByteStream, type Driver, type Stream } from "../core/stream.ts";

/**
 * This process's stdin and stdout as one stream: stdin is what it receives,
 * stdout what is written to it. `end` is done when stdout has been flushed.
 */
export function stdioStream(): ByteStream {
  const driver = new StdioDriver();
  driver.stream = createStream(driver, "stdio");
  driver.read();
  return driver.stream;
}

class StdioDriver implements Driver {
  stream!: Stream;
  readonly #reader = Bun.stdin.stream().getReader();
  readonly #writer = Bun.stdout.writer();
  #flushing = false;
  #ending = false;
  #reading = Promise.withResolvers<void>();

  constructor() {
    this.#reading.resolve();
  }

  async read(): Promise<void> {
    try {
      for (;;) {
        await this.#reading.promise;
        const { done, value } = await this.#reader.read();
        if (done) return this.stream.receiveEnd();
        this.stream.receive(value);
      }
    } catch (cause) {
      this.#lose("stdin", cause);
    }
  }

  write(bytes: Uint8Array): number {
    if (this.#flushing) return 0;
    try {
      this.#writer.write(bytes);
      this.#flush();
    } catch (cause) {
      // The reader has gone: Bun throws at once.
      this.#lose("stdout", cause);
    }
    return bytes.length;
  }

  shutdown(): void {
    this.#ending = true;
    if (!this.#flushing) this.#finish();
  }

  destroy(): void {
    this.#reader.cancel().catch(() => {});
  }

  setReading(on: boolean): void {
    if (on) this.#reading.resolve();
    else this.#reading = Promise.withResolvers<void>();
  }

  #flush(): void {
    const flushed = this.#writer.flush();
    if (!(flushed instanceof Promise)) return;
    this.#flushing = true;
    flushed.then(
      () => {
        this.#flushing = false;
        this.stream.drained();
        if (this.#ending) this.#finish();
      },
      (cause) => this.#lose("stdout", cause),
    );
  }

  /** The peer said its last word: stdin may stay open for ever, nobody reads it. */
  #finish(): void {
    const ended = new Promise((resolve) => resolve(this.#writer.end()));
    ended.then(
      () => {
        this.destroy();
        this.stream.lost();
      },
      (cause) => this.#lose("stdout", cause),
    );
  }

  #lose(what: string, cause: unknown): void {
    const code = (cause as { code?: string }).code ?? String(cause);
    this.stream.lost(new SeikanError("peer-closed", `${what} closed (${code})`, { cause }));
  }
}
