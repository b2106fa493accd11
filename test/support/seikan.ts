import { join } from "node:path";
import { within } from "./wait.ts";

const ROOT = join(import.meta.dir, "../..");

/** What runs: the source, or the executable that `npm test` names in SEIKAN_EXECUTABLE. */
export const COMMAND: readonly string[] =
  process.env.SEIKAN_EXECUTABLE === undefined
    ? [process.execPath, join(ROOT, "src/main.ts")]
    : [process.env.SEIKAN_EXECUTABLE];

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly stdin?: string | Uint8Array;
  readonly env?: Record<string, string>;
  readonly cwd?: string;
}

/** An environment without the proxies and settings of whoever runs the tests. */
export function cleanEnv(extra: Record<string, string> = {}): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    ([name, value]) => value !== undefined && !/^(https?|all|no)_proxy$/i.test(name) && !/^(SEIKAN|npm)_/i.test(name),
  ) as [string, string][];
  return { ...Object.fromEntries(kept), NO_COLOR: "1", XDG_CONFIG_HOME: "/nowhere", ...extra };
}

/** Runs any program to its end. */
export async function runProgram(command: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const child = Bun.spawn([...command], {
    stdin: options.stdin === undefined ? "ignore" : new Blob([options.stdin]),
    stdout: "pipe",
    stderr: "pipe",
    env: cleanEnv(options.env),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  const done = Promise.all([child.exited, new Response(child.stdout).text(), new Response(child.stderr).text()]);
  try {
    const [code, stdout, stderr] = await within(done, `the end of ${command.join(" ")}`, 60_000);
    return { code, stdout, stderr };
  } finally {
    child.kill("SIGKILL");
  }
}

/** Runs seikan to its end. */
export function runSeikan(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return runProgram([...COMMAND, ...args], options);
}

/** A seikan that runs until it is disposed of, or ended by the test. */
export interface Running extends AsyncDisposable {
  readonly pid: number;
  /** What the ready event said. */
  readonly listeners: readonly string[];
  readonly urls: readonly string[];
  /** The first listener's port. */
  readonly port: number;
  /** Everything on stderr until now. */
  stderr(): string;
  /** JSON events on stdout until now. */
  events(): readonly Record<string, unknown>[];
  kill(signal: NodeJS.Signals): void;
  readonly exited: Promise<number>;
}

/** Starts seikan with `--json` and waits until it is ready. */
export async function startSeikan(args: readonly string[], env: Record<string, string> = {}): Promise<Running> {
  const child = Bun.spawn([...COMMAND, ...args, "--json"], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: cleanEnv(env),
  });
  const ready = Promise.withResolvers<Record<string, unknown>>();
  const events: Record<string, unknown>[] = [];
  let stderr = "";
  const reading = [
    readText(child.stderr, (text) => (stderr += text)),
    readLines(child.stdout, (line) => {
      const event = JSON.parse(line) as Record<string, unknown>;
      events.push(event);
      if (event.event === "ready") ready.resolve(event);
    }),
  ];
  void child.exited.then((code) => ready.reject(new Error(`seikan ended with ${code} before it was ready: ${stderr}`)));
  const report = await within(ready.promise, `seikan ${args.join(" ")} is ready`, 20_000);
  const listeners = report.listeners as string[];
  return {
    pid: child.pid,
    listeners,
    urls: report.urls as string[],
    port: Number(listeners[0]?.split(":").at(-1)),
    stderr: () => stderr,
    events: () => events,
    kill: (signal) => child.kill(signal),
    exited: child.exited,
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
      await Promise.all(reading);
    },
  };
}

async function readText(stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  for await (const chunk of stream) take(decoder.decode(chunk, { stream: true }));
}

async function readLines(stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> {
  let rest = "";
  await readText(stream, (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) take(line);
  });
}
