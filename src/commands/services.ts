import { deadlineIn } from "../core/clock.ts";
import { SeikanError, toSeikanError, usageError } from "../core/errors.ts";
import { flag, type OptionSpecs } from "../core/options.ts";
import type { ByteStream } from "../core/stream.ts";
import { suggest } from "../core/suggest.ts";
import { readRunToken } from "../platform/run-token.ts";
import { SERVICES_PATH, type ServiceReport } from "../routes/services-endpoint.ts";
import { askControl, LineReader } from "../transports/control.ts";
import { tcpDialer } from "../transports/tcp.ts";
import type { Command, CommandIo, Invocation, PrintStyle } from "./command.ts";
import { controlSockets } from "./control-socket.ts";
import { Lifetime } from "./lifetime.ts";

const OPTIONS = {
  follow: flag({ group: "Logs", short: "f", help: "Go on with each further line, until Ctrl-C" }),
} as const satisfies OptionSpecs;

type ServicesInvocation = Invocation<typeof OPTIONS>;

const VERBS = ["status", "start", "stop", "restart", "logs"] as const;
type Verb = (typeof VERBS)[number];

export const servicesCommand: Command<typeof OPTIONS> = {
  name: "services",
  summary: "See, start and stop the services of a running seikan serve.",
  usage: "[status | start | stop | restart | logs [-f]] [NAME]",
  description:
    "Talks to the servers of this user over their control sockets, in $XDG_RUNTIME_DIR/seikan. Without NAME it is about all services. A service that was stopped by hand stays stopped until it is started by hand.",
  examples: [
    { does: "What is there, what runs, and the address of the status page", line: "seikan services" },
    { does: "For scripts", line: "seikan services status --json" },
    { does: "Start one and wait until it is ready", line: "seikan services start django" },
    { does: "What does it print?", line: "seikan services logs -f django" },
  ],
  options: OPTIONS,
  positionals: 2,
  tail: false,
  defaultLogLevel: () => "warn",
  run,
};

/** A start may take as long as its `ready_timeout`, and wait for what it depends on. */
const ANSWER_MS = 15 * 60_000;
/** Whoever does not say within this how it is hangs. */
const CONNECT_MS = 3000;

async function run(invocation: ServicesInvocation, io: CommandIo): Promise<number> {
  const [word = "status", name] = invocation.positionals;
  const verb = VERBS.find((known) => known === word);
  if (verb === undefined) throw unknownVerb(word);
  const lifetime = new Lifetime({ timeoutMs: invocation.values.timeout });
  try {
    const stopped = lifetime.stopping.then(() => (verb === "logs" ? 0 : 130));
    return await Promise.race([serve(verb, name, invocation, io), lifetime.ended, stopped]);
  } finally {
    lifetime.release();
  }
}

function unknownVerb(word: string): SeikanError {
  const close = suggest(word, VERBS);
  const hint = close === undefined ? `seikan services ${VERBS.join(", ")}` : `did you mean seikan services ${close}?`;
  return usageError(`no command ${JSON.stringify(word)}`, hint);
}

async function serve(
  verb: Verb,
  name: string | undefined,
  { values, positionals }: ServicesInvocation,
  io: CommandIo,
): Promise<number> {
  const servers = await runningServers(io);
  const chosen = choose(servers, name);
  if (verb === "logs") return logs(chosen, values.follow, io);
  if (verb !== "status") return act(verb, chosen, name !== undefined, io);
  if (values.json) io.print(JSON.stringify({ services: chosen.map(({ service }) => service) }));
  else printTable(chosen, io);
  if (positionals.length === 0 && !values.json) printPage(servers, io);
  return 0;
}

interface RunningServer {
  readonly pid: number;
  readonly socket: string;
  readonly services: readonly ServiceReport[];
}

interface Chosen {
  readonly server: RunningServer;
  readonly service: ServiceReport;
}

async function runningServers(io: CommandIo): Promise<RunningServer[]> {
  const asked = await Promise.all(
    controlSockets(io.env).map(async ({ pid, path }): Promise<RunningServer[]> => {
      try {
        const answer = JSON.parse(await ask(path, "status", CONNECT_MS)) as { services: ServiceReport[] };
        return [{ pid, socket: path, services: answer.services }];
      } catch (thrown) {
        // It was killed, and could not take its socket with it.
        io.log.debug(`no answer from the server with pid ${pid}: ${toSeikanError(thrown).message}`);
        return [];
      }
    }),
  );
  if (asked.flat().length > 0) return asked.flat();
  throw new SeikanError("connect-refused", "no seikan serve with a configuration file is running", {
    hints: ["start one where seikan.toml is: seikan serve"],
  });
}

function choose(servers: readonly RunningServer[], name: string | undefined): Chosen[] {
  const all = servers.flatMap((server) => server.services.map((service) => ({ server, service })));
  if (name === undefined) return all;
  const found = all.filter(({ service }) => service.name === name);
  if (found.length === 1) return found;
  if (found.length > 1)
    throw usageError(
      `several servers have a service ${name}: those with the pids ${found.map(({ server }) => server.pid).join(", ")}`,
      "another XDG_RUNTIME_DIR for one of them keeps them apart",
    );
  const names = all.map(({ service }) => service.name);
  const close = suggest(name, names);
  throw usageError(
    `there is no service ${JSON.stringify(name)}`,
    close === undefined ? `there are ${names.join(", ") || "none"}` : `did you mean ${close}?`,
  );
}

// --- what is asked ---------------------------------------------------------------

async function open(socket: string): Promise<ByteStream> {
  return tcpDialer()({ kind: "unix", path: socket }, { deadline: deadlineIn(CONNECT_MS) });
}

async function ask(socket: string, path: string, answerMs = ANSWER_MS): Promise<string> {
  const stream = await open(socket);
  try {
    return await askControl(
      stream,
      { path: `${SERVICES_PATH}/${path}`, text: "" },
      deadlineIn(answerMs),
      "seikan serve",
    );
  } finally {
    stream.abort(new SeikanError("cancelled", "answered"));
  }
}

async function act(verb: Verb, chosen: readonly Chosen[], isOne: boolean, io: CommandIo): Promise<number> {
  const managed = chosen.filter(({ service }) => service.managed || isOne);
  const codes = await Promise.all(
    managed.map(async ({ server, service }) => {
      try {
        const now = JSON.parse(
          await ask(server.socket, `${encodeURIComponent(service.name)}/${verb}`),
        ) as ServiceReport;
        if (io.printsEvents) io.event(verb, { ...now });
        else io.print(`${service.name} is ${shownState(now.state)}`);
        return 0;
      } catch (thrown) {
        const { message: said, code, hints, outcome, hopStatus } = toSeikanError(thrown);
        const message = said.replace(/^seikan serve (refuses|answers): /, "");
        if (isOne) await printTail(server, service.name, io);
        io.log.error(message, { hint: hints[0] });
        io.event("error", { service: service.name, code, message });
        return hopStatus !== undefined && hopStatus < 500 ? 2 : outcome.exit;
      }
    }),
  );
  return codes.find((code) => code !== 0) ?? 0;
}

/** What it said before it failed. */
async function printTail(server: RunningServer, name: string, io: CommandIo): Promise<void> {
  const lines = await readLog(server, name, false, () => {}).catch(() => []);
  for (const line of lines.slice(-20)) io.show(`  | ${line}`);
}

async function logs(chosen: readonly Chosen[], isFollowed: boolean, io: CommandIo): Promise<number> {
  const isOne = chosen.length === 1;
  await Promise.all(
    chosen
      .filter(({ service }) => service.managed)
      .map(async ({ server, service }) => {
        const print = (line: string) => {
          if (io.printsEvents) io.event("output", { service: service.name, line });
          else io.print(isOne ? line : `${io.paint("cyan", service.name)} | ${line}`);
        };
        await readLog(server, service.name, isFollowed, print);
      }),
  );
  return 0;
}

/** Every line goes to `take`; resolves with those that were there, or when the server ends. */
async function readLog(
  { socket }: RunningServer,
  name: string,
  isFollowed: boolean,
  take: (line: string) => void,
): Promise<string[]> {
  const stream = await open(socket);
  const verb = isFollowed ? "follow" : "logs";
  const request = { path: `${SERVICES_PATH}/${encodeURIComponent(name)}/${verb}`, text: "" };
  const answer = await askControl(stream, request, deadlineIn(CONNECT_MS), "seikan serve");
  if (!isFollowed) {
    stream.abort(new SeikanError("cancelled", "answered"));
    const { lines } = JSON.parse(answer) as { lines: string[] };
    for (const line of lines) take(line);
    return lines;
  }
  const { promise, resolve } = Promise.withResolvers<string[]>();
  stream.attach(new LineReader(take, () => resolve([])));
  stream.resume();
  return promise;
}

// --- for people --------------------------------------------------------------------

const STYLES: Readonly<Partial<Record<ServiceReport["state"], PrintStyle>>> = {
  ...{ ready: "green", up: "green", external: "green" },
  ...{ starting: "yellow", stopping: "yellow", failed: "red" },
};

function shownState(state: ServiceReport["state"]): string {
  return state === "held" ? "stopped by hand" : state;
}

function printTable(chosen: readonly Chosen[], io: CommandIo): void {
  if (chosen.length === 0) return io.print("no service is configured");
  const rows = chosen.map(({ service }) => [
    service.name,
    shownState(service.state),
    service.upMs === undefined ? "" : duration(service.upMs),
    service.pid === undefined ? "" : String(service.pid),
    service.url ?? "",
  ]);
  const titles = ["NAME", "STATE", "UP", "PID", "URL"];
  const widths = titles.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]!.length)));
  const pad = (row: readonly string[]) => row.map((cell, column) => cell.padEnd(widths[column]!));
  io.print(io.paint("bold", pad(titles).join("  ").trimEnd()));
  for (const [index, row] of rows.entries()) {
    const { service } = chosen[index]!;
    const cells = pad(row);
    const state = io.paint(STYLES[service.state] ?? "dim", cells[1]!);
    io.print(
      [io.paint("plain", cells[0]!), state, ...cells.slice(2).map((cell) => io.paint("plain", cell))]
        .join("  ")
        .trimEnd(),
    );
    if (service.error !== undefined) io.print(`  ${io.paint("red", service.error)}`);
  }
}

/** Where the status page is, with the token that it wants: for whoever reads this terminal. */
function printPage(servers: readonly RunningServer[], io: CommandIo): void {
  for (const { pid, services } of servers) {
    const port = /^https?:\/\/[^/:]+(:\d+)?/.exec(services.find(({ url }) => url !== undefined)?.url ?? "");
    const token = readRunToken(pid, io.env);
    if (port === null || token === undefined) continue;
    const scheme = port[0].slice(0, port[0].indexOf(":"));
    io.print("");
    // A secret is for people, not for files.
    const behind = io.isTerminal ? `#${token}` : "";
    io.print(`${io.paint("dim", "status page:")} ${scheme}://localhost${port[1] ?? ""}${SERVICES_PATH}${behind}`);
  }
}

function duration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes}m${seconds % 60}s` : `${Math.floor(minutes / 60)}h${minutes % 60}m`;
}
