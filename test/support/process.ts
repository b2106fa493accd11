import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cleanEnv, COMMAND } from "./seikan.ts";
import { until, within } from "./wait.ts";

export interface StartOptions {
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  /** Descriptors behind stderr, for `--ready-fd`. */
  readonly extra?: readonly (number | "pipe")[];
}

/** A running program with its three streams in the test's hands; killed when disposed of. */
export class Process implements AsyncDisposable {
  readonly #child: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #name: string;
  readonly #chunks: Uint8Array[] = [];
  readonly #reading: Promise<unknown>;
  #length = 0;
  #stderr = "";

  constructor(command: readonly string[], options: StartOptions = {}) {
    this.#name = command.join(" ");
    this.#child = Bun.spawn([...command], {
      stdio: ["pipe", "pipe", "pipe", ...(options.extra ?? [])] as ["pipe", "pipe", "pipe"],
      env: cleanEnv(options.env),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    this.#reading = Promise.all([
      read(this.#child.stdout, (chunk) => {
        this.#chunks.push(chunk);
        this.#length += chunk.length;
      }),
      read(this.#child.stderr, (chunk) => (this.#stderr += Buffer.from(chunk).toString())),
    ]);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** The descriptor of `extra[index]` on our side. */
  pipe(index: number): number {
    return this.#child.stdio[index + 3] as number;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  get stdout(): string {
    return this.bytes.toString();
  }

  get stderr(): string {
    return this.#stderr;
  }

  /** What the program does not read any more is not the test's concern: its output and exit code are. */
  write(data: string | Uint8Array): void {
    this.#feed(() => {
      this.#child.stdin.write(data);
      return this.#child.stdin.flush();
    });
  }

  closeStdin(): void {
    this.#feed(() => this.#child.stdin.end());
  }

  #feed(action: () => unknown): void {
    try {
      Promise.resolve(action()).catch(() => {});
    } catch {
      // It has closed its stdin.
    }
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  get hasExited(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Waits until stdout holds this text. */
  prints(text: string, ms?: number): Promise<void> {
    return this.#waits(() => this.stdout.includes(text), `prints ${JSON.stringify(text)}`, ms);
  }

  /** Waits until stderr holds this text. */
  says(text: string, ms?: number): Promise<void> {
    return this.#waits(() => this.#stderr.includes(text), `says ${JSON.stringify(text)}`, ms);
  }

  receives(length: number, ms?: number): Promise<void> {
    return this.#waits(() => this.#length >= length, `prints ${length} bytes`, ms);
  }

  async #waits(condition: () => boolean, what: string, ms = 10_000): Promise<void> {
    const explain = () =>
      new Error(`${this.#name} ${what}: it printed ${this.#length} bytes and said: ${this.#stderr}`);
    await until(() => condition() || this.hasExited, `${this.#name} ${what}`, ms).catch(() => {
      throw explain();
    });
    if (this.hasExited) await this.#reading;
    if (!condition()) throw explain();
  }

  /** Waits for the end; everything it wrote has been read then. -1: killed by a signal nobody caught. */
  async exited(ms = 15_000): Promise<number> {
    await within(this.#child.exited, `the end of ${this.#name} (it said: ${this.#stderr})`, ms);
    await within(this.#reading, `the end of what ${this.#name} wrote`);
    return this.#child.exitCode ?? -1;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.exited;
  }
}

async function read(stream: ReadableStream<Uint8Array>, take: (chunk: Uint8Array) => void): Promise<void> {
  for await (const chunk of stream) take(chunk);
}

/** Starts seikan with its streams in the test's hands. */
export function spawnSeikan(args: readonly string[], options: StartOptions = {}): Process {
  return new Process([...COMMAND, ...args], options);
}

/** Waits until something accepts connections there: foreign programs do not say when they are ready. */
export async function accepting(port: number, by?: Process): Promise<void> {
  let isOpen = false;
  let isTrying = false;
  const attempt = async () => {
    isTrying = true;
    const ignore = { data() {}, open() {} };
    await Bun.connect({ hostname: "127.0.0.1", port, socket: ignore }).then(
      (socket) => {
        isOpen = true;
        socket.end();
      },
      () => {},
    );
    isTrying = false;
  };
  await until(
    () => {
      if (by?.hasExited === true) throw new Error(`it ended before port ${port} was open: ${by.stderr}${by.stdout}`);
      if (!isOpen && !isTrying) void attempt();
      return isOpen;
    },
    `port ${port} is open`,
    20_000,
  );
}

/**
 * Ports for `freePort`, below those that systems give out for port 0: there
 * another file, which runs beside this one, could get what was free here.
 */
const FIRST_PORT = 10_000;
const PORTS_OF_A_WORKER = 5000;
const WORKER = Number(process.env.BUN_TEST_WORKER_ID ?? 1) - 1;
let lastPort = Math.floor(Math.random() * PORTS_OF_A_WORKER);

/** A port nobody listens on, none that this process had before, and none that others get by asking for any. */
export function freePort(): number {
  for (;;) {
    lastPort = (lastPort + 1) % PORTS_OF_A_WORKER;
    const port = FIRST_PORT + (WORKER % 4) * PORTS_OF_A_WORKER + lastPort;
    try {
      Bun.listen({ hostname: "127.0.0.1", port, socket: { data() {} } }).stop(true);
      return port;
    } catch {
      // Somebody's: the next one.
    }
  }
}

/** A folder of its own for a test. */
export class TempFolder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "seikan-e2e-"));

  file(name: string): string {
    return join(this.path, name);
  }

  get names(): string[] {
    return readdirSync(this.path).toSorted();
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
