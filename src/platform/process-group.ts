import { existsSync, statSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { deadlineIn, now, sleep } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import { groupExists, livingMembers, signalAll } from "./processes.ts";

/** In the environment of everything a launch starts: so it is found again, also where it left the group. */
const MARK = "SEIKAN_LAUNCH";

export interface GroupOptions {
  /** A text runs in a shell, a list directly. */
  readonly command: string | readonly string[];
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;
  /** Its output is a terminal. */
  readonly hasTerminal: boolean;
  /** Makes whoever takes the output of one stream; a terminal is one. */
  readonly source: () => (chunk: Uint8Array) => void;
}

/** How the first process of a group ended. */
export interface Ending {
  /** Undefined where a signal ended it. */
  readonly code: number | undefined;
  readonly signal: string | undefined;
}

/** How often a group is asked whether it has gone: more and more seldom. */
const POLL_MS = 20;
const LONGEST_POLL_MS = 250;
/** How long output may come after the last process that is known. */
const LAST_WORDS_MS = 200;
/** How long SIGKILL may take. */
const KILL_MS = 2000;

/** A command that runs in a process group and session of its own, and everything it starts. */
export class ProcessGroup {
  readonly pid: number;
  /** `SEIKAN_LAUNCH=…` */
  readonly mark: string;
  /** The first process is over; others may live on. */
  readonly exited: Promise<Ending>;
  readonly #child: Bun.Subprocess;
  /** The number names our group no more: it may be somebody else's by now. */
  #isForgotten = false;
  readonly #readers: { cancel(): Promise<void> }[] = [];
  readonly #reading: Promise<void>[] = [];
  #stopping: Promise<void> | undefined;

  /** Throws `command-not-found` or another SeikanError where it cannot begin. */
  constructor(options: GroupOptions) {
    const id = crypto.randomUUID();
    this.mark = `${MARK}=${id}`;
    const closed = Promise.withResolvers<void>();
    this.#child = spawn(options, { ...withLocalBin(options), [MARK]: id }, closed.resolve);
    if (options.hasTerminal) this.#reading.push(closed.promise);
    this.pid = this.#child.pid;
    for (const stream of [this.#child.stdout, this.#child.stderr])
      if (stream instanceof ReadableStream) this.#reading.push(this.#read(stream, options.source()));
    this.exited = this.#child.exited.then((): Ending => {
      // As long as anybody has it, nobody else gets it.
      this.#isForgotten = !groupExists(this.pid);
      const { exitCode, signalCode } = this.#child;
      return { code: exitCode ?? undefined, signal: typeof signalCode === "string" ? signalCode : undefined };
    });
  }

  get isAlive(): boolean {
    return livingMembers(this.#group, this.mark).length > 0;
  }

  get #group(): number | undefined {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) this.#isForgotten ||= !groupExists(this.pid);
    return this.#isForgotten ? undefined : this.pid;
  }

  /** SIGTERM for all of it, SIGKILL for what is left after `graceMs`. Resolves when nothing is; repeating it waits with the first. */
  stop(graceMs: number): Promise<void> {
    this.#stopping ??= this.#stop(graceMs);
    return this.#stopping;
  }

  async #stop(graceMs: number): Promise<void> {
    await endAll(() => this.#group, this.mark, graceMs);
    await this.lastWords();
    this.release();
  }

  /** Resolves when its output has been read; somebody else who holds the other end does not hold us. */
  async lastWords(): Promise<void> {
    await Promise.race([Promise.all(this.#reading), sleep(LAST_WORDS_MS)]);
  }

  /** At once, without waiting. */
  kill(): void {
    signalAll(this.#group, livingMembers(this.#group, this.mark), "SIGKILL");
    this.release();
  }

  /** Nobody reads its output any more: whoever still holds the other end cannot hold us. */
  release(): void {
    for (const reader of this.#readers.splice(0)) void reader.cancel().catch(() => {});
    this.#child.terminal?.close();
  }

  async #read(stream: ReadableStream<Uint8Array>, onOutput: (chunk: Uint8Array) => void): Promise<void> {
    const reader = stream.getReader();
    this.#readers.push(reader);
    try {
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        onOutput(part.value);
        // Whoever prints without end takes turns with everybody else.
        await new Promise(setImmediate);
      }
    } catch {
      // Cancelled, or the pipe broke: there is no more output.
    }
  }
}

/** Ends every process of a launch: SIGTERM, then SIGKILL after `graceMs`. `group` is asked again each time. */
export async function endAll(group: () => number | undefined, mark: string, graceMs: number): Promise<void> {
  signalAll(group(), livingMembers(group(), mark), "SIGTERM");
  if (await isGone(group, mark, graceMs)) return;
  signalAll(group(), livingMembers(group(), mark), "SIGKILL");
  await isGone(group, mark, KILL_MS);
}

async function isGone(group: () => number | undefined, mark: string, ms: number): Promise<boolean> {
  const deadline = deadlineIn(ms);
  let pause = POLL_MS;
  while (livingMembers(group(), mark).length > 0) {
    if (now() >= deadline) return false;
    await sleep(Math.min(pause, deadline - now()));
    pause = Math.min(LONGEST_POLL_MS, pause * 1.5);
  }
  return true;
}

/** `closed`: its terminal is. */
function spawn(
  { command, folder, hasTerminal, source }: GroupOptions,
  env: Record<string, string>,
  closed: () => void,
): Bun.Subprocess {
  if (!existsSync(folder) || !statSync(folder).isDirectory())
    throw new SeikanError("command-failed", `there is no folder ${folder}`);
  const words = typeof command === "string" ? inShell(command) : [...command];
  const path = Bun.which(words[0]!, { PATH: env.PATH ?? "", cwd: folder });
  if (path === null) throw missing(words[0]!, folder);
  const common = { cwd: folder, env, argv0: words[0]!, detached: true };
  try {
    if (!hasTerminal)
      return Bun.spawn([path, ...words.slice(1)], { ...common, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const take = source();
    const data = (_: unknown, chunk: Uint8Array) => take(new Uint8Array(chunk));
    return Bun.spawn([path, ...words.slice(1)], {
      ...common,
      terminal: { cols: 120, rows: 40, data, exit: () => closed() },
    });
  } catch (cause) {
    const code = (cause as { code?: string }).code ?? String(cause);
    throw new SeikanError("command-not-executable", `cannot execute ${words[0]}: ${code}`, { cause });
  }
}

function missing(name: string, folder: string): SeikanError {
  if (name.includes("/") && existsSync(resolve(folder, name)))
    return new SeikanError("command-not-executable", `cannot execute ${name}: it is not executable`);
  return new SeikanError("command-not-found", `no such command: ${name}`);
}

function inShell(command: string): string[] {
  return process.platform === "win32" ? ["cmd", "/d", "/s", "/c", command] : ["/bin/sh", "-c", command];
}

/** Tools that a project brings along are found, as npm's scripts find them. */
function withLocalBin({ folder, env }: GroupOptions): Record<string, string> {
  const local = join(folder, "node_modules", ".bin");
  return existsSync(local) ? { ...env, PATH: `${local}${delimiter}${env.PATH ?? ""}` } : { ...env };
}

/** For people: `exit code 1`, `SIGKILL`. */
export function describeEnding({ code, signal }: Ending): string {
  return signal === undefined ? `exit code ${code}` : signal;
}

/** It ended as it was asked to, or by its own wish. */
export function isClean({ code, signal }: Ending): boolean {
  const asked: readonly number[] = [0, 128 + constants.signals.SIGTERM, 128 + constants.signals.SIGINT];
  return signal === undefined ? asked.includes(code!) : signal === "SIGTERM" || signal === "SIGINT";
}
