import { mkdirSync, readdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { eventually, get, visit } from "./agents.ts";
import { Process, TempFolder } from "./process.ts";
import { dialRaw, type RawResponse, type RawSocket } from "./raw.ts";
import { startSeikan, type Running } from "./seikan.ts";
import { until } from "./wait.ts";

/** What a value of the configuration file may be. */
export type Value = string | number | boolean | readonly string[] | { readonly [key: string]: Value };

/** The keys of `[service.NAME]`, by name. */
export type Services = Readonly<Record<string, Readonly<Record<string, Value>>>>;

const DEV_SERVER = join(import.meta.dir, "dev-server.ts");
/** In the environment of everything a project starts. */
const MARK = "SERVICE_TEST_PROJECT";

/** What browsers send when a person opens a page. */
export const BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";

/** A command that runs test/support/dev-server.ts under the service's own name. */
export const dev = (...options: string[]): string[] => [process.execPath, DEV_SERVER, "{name}", ...options];

/** The same server, started by the test. */
export const devProcess = (name: string, ...options: string[]): Process =>
  new Process(dev(...options).map((word) => word.replace("{name}", name)));

/** The same for a shell. */
export const devLine = (...options: string[]): string =>
  dev(...options)
    .map(quoted)
    .join(" ");

/** A command that runs this JavaScript. */
export const script = (...lines: string[]): string[] => [process.execPath, "-e", lines.join("\n")];

export function quoted(word: string): string {
  return /^[\w./:=@{}-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** `[service.NAME]` tables. */
export function toml(services: Services): string {
  return Object.entries(services)
    .map(([name, keys]) => {
      const lines = Object.entries(keys).map(([key, value]) => `${key} = ${valueText(value)}`);
      return [`[service.${/^[\w-]+$/.test(name) ? name : JSON.stringify(name)}]`, ...lines, ""].join("\n");
    })
    .join("\n");
}

function valueText(value: Value): string {
  if (Array.isArray(value)) return `[${value.map(valueText).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const pairs = Object.entries(value).map(([key, inner]) => `${JSON.stringify(key)} = ${valueText(inner)}`);
  return `{ ${pairs.join(", ")} }`;
}

/** A folder with a configuration file, and everything that is started because of it; ended with all of that. */
export class Project implements AsyncDisposable {
  readonly #folder = new TempFolder();
  /** As the system names it, without links. */
  readonly path = realpathSync(this.#folder.path);
  readonly #mark = crypto.randomUUID();
  readonly #servers: Running[] = [];

  constructor() {
    mkdirSync(this.file("run"), { mode: 0o700 });
    this.write("journal", "");
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** Writes a file, with the folders above it. */
  write(name: string, text: string): string {
    const path = this.file(name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  }

  get config(): string {
    return this.file("seikan.toml");
  }

  configure(services: Services | string): void {
    this.write("seikan.toml", typeof services === "string" ? services : toml(services));
  }

  get env(): Record<string, string> {
    return { XDG_RUNTIME_DIR: this.file("run"), JOURNAL: this.file("journal"), [MARK]: this.#mark };
  }

  get serveWords(): string[] {
    return ["serve", "-l", "127.0.0.1:0", "--config", this.config];
  }

  /** Starts `seikan serve` with these services. */
  async serve(services: Services | string, args: readonly string[] = [], env: Record<string, string> = {}) {
    this.configure(services);
    return this.serveAgain(args, env);
  }

  /** Starts it with the file that is there. */
  async serveAgain(args: readonly string[] = [], env: Record<string, string> = {}): Promise<Running> {
    const server = await startSeikan([...this.serveWords, ...args], { ...this.env, ...env });
    this.#servers.push(server);
    return server;
  }

  /** Changes the services of a server, and waits until it has done so. */
  async reconfigure(server: Running, services: Services | string): Promise<void> {
    const reloads = () => server.stderr().split(" info reloaded").length;
    const before = reloads();
    this.configure(services);
    server.kill("SIGHUP");
    await until(() => reloads() > before, "it reloads");
  }

  // --- what its processes do -------------------------------------------------------

  /** `NAME start PID`, and what else happened to servers of this project. */
  get journal(): string[] {
    return readFileSync(this.file("journal"), "utf8").split("\n").slice(0, -1);
  }

  /** Process ids of the servers of this name to which this happened. */
  pids(name: string, what = "start"): number[] {
    const lines = this.journal.map((line) => line.split(" "));
    return lines.filter(([who, did]) => who === name && did === what).map(([, , pid]) => Number(pid));
  }

  /** Waits until this has happened so many times; resolves to the last of the processes. */
  async happens(name: string, what: string, count = 1, ms?: number): Promise<number> {
    await until(() => this.pids(name, what).length >= count, `${name}: ${what}, ${count} times`, ms);
    return this.pids(name, what)[count - 1]!;
  }

  /** A file that lets a server go on that waits for it. */
  gate(name: string): string {
    return this.file(`gate-${name}`);
  }

  open(name: string): void {
    this.write(`gate-${name}`, "");
  }

  /** Everything that lives and was started by a server of this project. */
  get processes(): number[] {
    const own = this.#servers.map(({ pid }) => pid);
    const ids = readdirSync("/proc").map(Number);
    return ids.filter((pid) => Number.isInteger(pid) && !own.includes(pid) && environment(pid).includes(this.#mark));
  }

  /** Nothing lives any more that was started by a server of this project. */
  async isEmpty(ms?: number): Promise<void> {
    await until(() => this.processes.length === 0, `${this.processes.map(describe).join("; ")} end`, ms);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#servers.map((server) => server[Symbol.asyncDispose]()));
    for (const pid of this.processes) kill(pid, "SIGKILL");
    this.#folder[Symbol.dispose]();
  }
}

function environment(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1");
  } catch {
    return "";
  }
}

function describe(pid: number): string {
  try {
    return `${pid} ${readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ").trim()}`;
  } catch {
    return String(pid);
  }
}

/** Whoever has gone already is no error. */
export function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as { code?: string }).code !== "ESRCH") throw error;
  }
}

/** It is there, and no zombie. */
export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2));
  } catch {
    return false;
  }
}

export async function isGone(pid: number, ms?: number): Promise<void> {
  await until(() => !isAlive(pid), `process ${pid} ends`, ms);
}

/** Waits until the server has logged this, so many times. */
export function says(server: Running, text: string, count = 1, ms?: number): Promise<void> {
  return until(() => server.stderr().split(text).length > count, `it says ${JSON.stringify(text)}`, ms);
}

/** Everything that the server has logged until now, and not only what has arrived here. */
export async function logOf(server: Running): Promise<string> {
  const mark = " info status ";
  const before = server.stderr().split(mark).length;
  server.kill("SIGUSR1");
  await says(server, mark, before);
  return server.stderr();
}

/** Takes every descriptor that a process could still open, until the result is called. */
export function exhaustDescriptors(pid: number): () => void {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let lowest = 0;
  while (open.has(lowest)) lowest++;
  const [, soft, hard] = /^Max open files\s+(\d+)\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, "utf8"))!;
  const limit = (value: number | string) => {
    const run = Bun.spawnSync(["prlimit", "--pid", String(pid), `--nofile=${value}:${hard}`]);
    if (!run.success) throw new Error(`prlimit: ${run.stderr.toString()}`);
  };
  limit(lowest);
  return () => limit(soft!);
}

/** Lets time pass in which something must not happen. */
export function passes(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// --- visitors ------------------------------------------------------------------------

/** What a visitor of `NAME.localhost` gets. */
export const at = (server: Running, name: string, path = "/who", ...fields: string[]): Promise<RawResponse> =>
  visit(server.port, `${name}.localhost`, path, ...fields);

/** The process id of whoever answers there. */
export async function pidAt(server: Running, name: string): Promise<number> {
  const { status, body } = await at(server, name);
  const [who, pid] = body.split(" ");
  if (status !== 200 || who !== name) throw new Error(`${status} where ${name} should answer: ${body}`);
  return Number(pid);
}

/** The document it answers with. */
export async function jsonAt(server: Running, name: string, path: string): Promise<Record<string, unknown>> {
  const { status, body } = await at(server, name, path);
  if (status !== 200) throw new Error(`${status} where ${name} should answer: ${body}`);
  return JSON.parse(body) as Record<string, unknown>;
}

/** A request on a connection of its own that nobody answers yet. */
export async function asking(server: Running, name: string, path = "/who", ...fields: string[]): Promise<RawSocket> {
  const client = await dialRaw(server.port);
  return client.send(get(`${name}.localhost`, path, ...fields));
}

/** Nobody asks this server for anything any more but this: it has had time for everything else. */
export async function roundTrips(server: Running, count = 20): Promise<void> {
  for (let index = 0; index < count; index++) {
    const { status } = await visit(server.port, "localhost", "/-/healthz");
    if (status !== 200) throw new Error(`/-/healthz answers ${status}`);
  }
}

/** Asks again until it is answered with this status. */
export const answers = (server: Running, name: string, status: number, ms?: number): Promise<RawResponse> =>
  eventually(
    () => at(server, name),
    (answer) => answer.status === status,
    `${name} answers ${status}`,
    ms,
  );
