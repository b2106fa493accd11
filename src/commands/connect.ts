import {
  canonicalHost,
  formatTarget,
  isLoopbackHost,
  parseIp,
  parseListen,
  parsePort,
  parseTarget,
  tcpTarget,
  type ListenAddress,
  type Target,
} from "../core/address.ts";
import { bridge, type BridgeResult } from "../core/bridge.ts";
import { deadlineIn, now, sleep } from "../core/clock.ts";
import { SeikanError, toSeikanError, usageError } from "../core/errors.ts";
import { flag, integer, list, text, value, type OptionSpecs } from "../core/options.ts";
import { LiveSet, Scope } from "../core/scope.ts";
import type { ByteStream } from "../core/stream.ts";
import { runWrapped } from "../platform/child.ts";
import { connectionCapacity } from "../platform/descriptors.ts";
import { announceReady } from "../platform/ready.ts";
import { exitCodeOf } from "../platform/signals.ts";
import type { RouteContext } from "../routes/context.ts";
import { serveClient, type Protocols } from "../routes/front.ts";
import { Permissions } from "../routes/permissions.ts";
import { describeWay, formatWay, type Routes, type Way } from "../routes/route-table.ts";
import { Users } from "../routes/users.ts";
import { stdioStream } from "../transports/stdio.ts";
import { listen } from "../transports/tcp.ts";
import { tlsClient, type TlsClientOptions } from "../transports/tls.ts";
import type { Listener, Peer } from "../transports/transport.ts";
import { HEAD_LIMITS } from "../wire/http1.ts";
import { accessLogger } from "./access-log.ts";
import { REACH_OPTIONS, type Command, type CommandIo, type Invocation } from "./command.ts";
import { Lifetime } from "./lifetime.ts";
import { Reach, readOptionFile } from "./reach.ts";

const OPTIONS = {
  listen: list({
    group: "Listen",
    short: "L",
    metavar: "SPEC",
    parse: text,
    help: "Listen here instead of using stdin and stdout: PORT, ADDR:PORT or unix:/path for TARGET; LOCAL=HOST:PORT; PORT:HOST:PORT as in ssh; socks5://, http:// or mixed://ADDR:PORT to choose the target per connection",
  }),
  once: flag({ group: "Listen", help: "Serve one local connection, then exit" }),
  auth: list({
    group: "Listen",
    metavar: "USER:PASS",
    separator: " ",
    secret: true,
    parse: text,
    help: "Who may use a socks5, http or mixed listener",
  }),
  "no-auth": flag({ group: "Listen", help: "Let everybody use it, also from other machines" }),
  ...REACH_OPTIONS,
  "proxy-auth-command": value({
    group: "Proxy",
    metavar: "CMD",
    parse: text,
    help: "Run by the shell when a proxy asks for credentials; prints the Proxy-Authorization value; the challenges are in $SEIKAN_CHALLENGE",
  }),
  tls: flag({ group: "TLS to the target", help: "Speak TLS to the target, inside the tunnel" }),
  sni: value({
    group: "TLS to the target",
    metavar: "NAME",
    parse: text,
    help: "The name to ask for and to check instead of the target's",
  }),
  alpn: value({
    group: "TLS to the target",
    metavar: "LIST",
    parse: text,
    help: "Protocols to offer, with commas: h2,http/1.1",
  }),
  cacert: value({
    group: "TLS to the target",
    metavar: "FILE",
    parse: text,
    help: "Also trust these authorities (PEM)",
  }),
  cert: value({ group: "TLS to the target", metavar: "FILE", parse: text, help: "Client certificate (PEM)" }),
  key: value({ group: "TLS to the target", metavar: "FILE", parse: text, help: "Its key" }),
  insecure: flag({ group: "TLS to the target", help: "Accept any certificate" }),
  "pin-sha256": list({
    group: "TLS to the target",
    metavar: "BASE64",
    parse: text,
    help: "Accept only a certificate with this public key (SHA-256 of its SPKI)",
  }),
  retry: value({
    group: "Limits",
    metavar: "N",
    parse: integer(0, 1_000_000),
    default: "0",
    help: "Try this many times more, with growing pauses, until the first connection succeeds",
  }),
  "dry-run": flag({ group: "General", help: "Print the way to TARGET and what chose it, and exit" }),
} as const satisfies OptionSpecs;

type ConnectInvocation = Invocation<typeof OPTIONS>;
type ConnectValues = ConnectInvocation["values"];

export const connectCommand: Command<typeof OPTIONS> = {
  name: "connect",
  summary: "Reach a target through proxies: as stdin and stdout, on local ports, or behind a command.",
  usage: "[OPTIONS] [TARGET] [-- COMMAND…]",
  description:
    "TARGET is HOST:PORT, [v6]:PORT, HOST PORT or unix:/path. Without --via the proxy comes from HTTPS_PROXY, ALL_PROXY or HTTP_PROXY, and NO_PROXY exempts hosts. COMMAND runs once every listener accepts; {host}, {port} and {addr} in its arguments are the first listener's, as are SEIKAN_HOST, SEIKAN_PORT and SEIKAN_ADDR in its environment.",
  examples: [
    { does: "ssh through a proxy", line: "ssh -o ProxyCommand='seikan connect %h %p --via http://proxy:3128' host" },
    {
      does: "A local port that leads to a database",
      line: "seikan connect -L 5432 db.internal:5432 --via http://proxy:3128",
    },
    { does: "Run a command behind the tunnel", line: "seikan connect db.internal:5432 -- psql -h {host} -p {port}" },
    {
      does: "A local SOCKS and HTTP proxy over a chain",
      line: "seikan connect -L mixed://1080 --via https://u:p@corp:443 --via socks5h://inner:1080",
    },
    { does: "Which way would it take?", line: "seikan connect example.com:443 --dry-run" },
  ],
  options: OPTIONS,
  positionals: 2,
  tail: true,
  defaultLogLevel: ({ values, tail }) => (values.listen.length > 0 && tail === undefined ? "info" : "warn"),
  run,
};

async function run(invocation: ConnectInvocation, io: CommandIo): Promise<number> {
  const { values, tail } = invocation;
  const target = targetOf(invocation.positionals);
  const reaching = new Reaching(values, invocation.sourceOf("via"), io);
  if (values["dry-run"]) return dryRun(reaching, target, values, io);
  if (values.listen.length === 0 && tail === undefined) return connectStdio(reaching, target, values, io);
  // A command needs something to connect to.
  const specs = values.listen.length > 0 ? values.listen : ["127.0.0.1:0"];
  const forwards = specs.map((spec) => parseForward(spec, target));
  await using scope = new Scope();
  // Awaited here: the scope closes when this function returns.
  return await new LocalServer(reaching, forwards, invocation, io).run(scope);
}

function targetOf(positionals: readonly string[]): Target | undefined {
  const [first, second] = positionals;
  if (first === undefined) return undefined;
  if (second === undefined) return parseTarget(first);
  const host = parseIp(first)?.toString() ?? canonicalHost(first);
  const port = parsePort(second);
  if (host === undefined || port === undefined) {
    throw usageError(`cannot read target "${first} ${second}": expected HOST PORT`, "a command to run comes behind --");
  }
  return tcpTarget(host, port);
}

function dryRun(reaching: Reaching, target: Target | undefined, values: ConnectValues, io: CommandIo): number {
  if (target === undefined) throw usageError("--dry-run needs a TARGET");
  const way = reaching.choose(target);
  if (values.json) {
    io.print(JSON.stringify(describeWay(target, way)));
    return 0;
  }
  io.print(`${formatTarget(target)}: ${formatWay(way)} (${way.reason})`);
  return 0;
}

// --- reaching targets --------------------------------------------------------

const RETRY_FIRST_MS = 250;
const RETRY_LONGEST_MS = 10_000;

/** Dials targets as the options say: hops, retries, TLS inside the tunnel. */
class Reaching implements Routes {
  readonly #reach: Reach;
  readonly #values: ConnectValues;
  readonly #io: CommandIo;
  readonly #tls: Omit<TlsClientOptions, "peer" | "serverName"> | undefined;
  #retriesLeft: number;

  constructor(values: ConnectValues, viaSource: string, io: CommandIo) {
    this.#values = values;
    this.#io = io;
    this.#reach = new Reach(values, viaSource, authCommand(values, io));
    this.#tls = targetTls(values);
    this.#retriesLeft = values.retry;
  }

  choose(target: Target): Way {
    return this.#reach.forTarget(target, this.#io.env).choose(target);
  }

  /** Retries count until the first success. */
  async dial(target: Target, way: Way): Promise<ByteStream> {
    for (let pause = RETRY_FIRST_MS; ; pause = Math.min(pause * 2, RETRY_LONGEST_MS)) {
      try {
        const stream = await this.#dialOnce(target, way);
        this.#retriesLeft = 0;
        return stream;
      } catch (thrown) {
        const error = toSeikanError(thrown);
        if (this.#retriesLeft <= 0 || ![3, 124].includes(error.outcome.exit)) throw error;
        this.#retriesLeft--;
        const jittered = pause * (0.75 + Math.random() / 2);
        this.#io.log.warn(`${error.message}; trying again in ${(jittered / 1000).toFixed(1)} s`, {
          left: this.#retriesLeft,
        });
        await sleep(jittered);
      }
    }
  }

  async #dialOnce(target: Target, way: Way): Promise<ByteStream> {
    const deadline = deadlineIn(this.#values["connect-timeout"]);
    const stream = await way.dial(target, { deadline });
    if (this.#tls === undefined) return stream;
    const peer = formatTarget(target);
    const serverName = this.#values.sni ?? (target.kind === "tcp" ? target.host : "localhost");
    return tlsClient(stream, { ...this.#tls, peer, serverName }, deadline);
  }
}

function authCommand(values: ConnectValues, io: CommandIo) {
  const command = values["proxy-auth-command"];
  if (command === undefined) return undefined;
  const run = async (challenges: readonly string[]) => {
    const { askCommand } = await import("../platform/ask-command.ts");
    return askCommand(command, { ...io.childEnv, SEIKAN_CHALLENGE: challenges.join("\n") });
  };
  return { kind: "command", run } as const;
}

function targetTls(values: ConnectValues): Omit<TlsClientOptions, "peer" | "serverName"> | undefined {
  const names = ["sni", "alpn", "cacert", "cert", "key"] as const;
  const given =
    names.find((name) => values[name] !== undefined) ??
    (values["pin-sha256"].length > 0 ? "pin-sha256" : values.insecure ? "insecure" : undefined);
  if (!values.tls) {
    if (given !== undefined)
      throw usageError(
        `--${given} is about TLS to the target: add --tls`,
        "for TLS to a proxy there are --proxy-cacert, --proxy-cert and --proxy-insecure",
      );
    return undefined;
  }
  if ((values.cert === undefined) !== (values.key === undefined)) throw usageError("--cert and --key belong together");
  const read = (name: "cacert" | "cert" | "key") =>
    values[name] === undefined ? undefined : readOptionFile(values[name], name);
  return {
    ca: read("cacert"),
    cert: read("cert"),
    key: read("key"),
    alpn: values.alpn?.split(",").map((name) => name.trim()),
    insecure: values.insecure,
    pins: values["pin-sha256"].map((pin) => pin.replace(/^sha256\/\//, "")),
  };
}

// --- stdin and stdout ----------------------------------------------------------

async function connectStdio(
  reaching: Reaching,
  target: Target | undefined,
  values: ConnectValues,
  io: CommandIo,
): Promise<number> {
  if (target === undefined)
    throw usageError(
      "what shall it connect to? TARGET is missing",
      "seikan connect HOST:PORT, or -L for local listeners",
    );
  if (values.json)
    throw usageError(
      "--json cannot go with stdin/stdout mode: stdout belongs to the stream",
      "use --log-format json for logs on stderr",
    );
  const lifetime = new Lifetime({ timeoutMs: values.timeout });
  try {
    const stopped = lifetime.stopping.then(exitCodeOf);
    return await Promise.race([pipeStdio(reaching, target, values, io), lifetime.ended, stopped]);
  } finally {
    lifetime.release();
  }
}

async function pipeStdio(reaching: Reaching, target: Target, values: ConnectValues, io: CommandIo): Promise<number> {
  const way = reaching.choose(target);
  const startedAt = now();
  const outbound = await reaching.dial(target, way);
  io.log.info(`connected to ${formatTarget(target)}`, { route: formatWay(way), ms: Math.round(now() - startedAt) });
  const inbound = stdioStream();
  const limits = { lingerMs: values["linger-timeout"], idleMs: values["idle-timeout"] };
  const joined = bridge(inbound, outbound, limits);
  // When the server ends, stdin may stay open for ever: what is written is flushed, that is the end.
  const result = await Promise.race([joined, inbound.closed.then(() => joined)]);
  logEnd(io, "stdio", target, way, result, startedAt);
  if (result.error !== undefined) throw result.error;
  return 0;
}

function logEnd(io: CommandIo, peer: string, target: Target, way: Way, result: BridgeResult, startedAt: number): void {
  const { up, down, error } = result;
  const ms = Math.round(now() - startedAt);
  const fields = { peer, route: formatWay(way), up, down, ms, end: error?.code, why: error?.message };
  io.log.info(`closed ${formatTarget(target)}`, fields);
  io.event("closed", { target: formatTarget(target), ...fields });
}

// --- local listeners -----------------------------------------------------------

type Forward =
  | { readonly kind: "fixed"; readonly local: ListenAddress; readonly target: Target }
  | { readonly kind: "dynamic"; readonly local: ListenAddress; readonly scheme: "socks5" | "http" | "mixed" };

function parseForward(spec: string, target: Target | undefined): Forward {
  const dynamic = /^(socks5|http|mixed):\/\/(.+?)\/?$/.exec(spec);
  if (dynamic !== null) {
    return { kind: "dynamic", scheme: dynamic[1] as "socks5" | "http" | "mixed", local: parseListen(dynamic[2]!) };
  }
  const at = spec.indexOf("=");
  if (at > 0) return { kind: "fixed", local: parseListen(spec.slice(0, at)), target: parseTarget(spec.slice(at + 1)) };
  const ssh = /^((?:(?:\[[^\]]+\]|[^:[\]]*):)?\d+):((?:\[[^\]]+\]|[^:[\]]+):\d+)$/.exec(spec);
  if (ssh !== null) return { kind: "fixed", local: parseListen(ssh[1]!), target: parseTarget(ssh[2]!) };
  const local = parseListen(spec);
  if (target === undefined) {
    throw usageError(
      `-L ${spec} has no target`,
      `name it: -L ${spec}=HOST:PORT, or as an argument: seikan connect -L ${spec} HOST:PORT`,
    );
  }
  return { kind: "fixed", local, target };
}

const PROTOCOLS: Readonly<Record<"socks5" | "http" | "mixed", Protocols>> = {
  socks5: "socks",
  http: "http",
  mixed: "all",
};

interface Listening {
  readonly forward: Forward;
  readonly listener: Listener;
}

class LocalServer {
  readonly #reaching: Reaching;
  readonly #forwards: readonly Forward[];
  readonly #invocation: ConnectInvocation;
  readonly #io: CommandIo;
  readonly #live = new LiveSet();
  readonly #listening: Listening[] = [];
  readonly #maxConnections: number;
  readonly #firstDone = Promise.withResolvers<SeikanError | undefined>();
  #accepted = 0;
  #draining = false;

  constructor(reaching: Reaching, forwards: readonly Forward[], invocation: ConnectInvocation, io: CommandIo) {
    this.#reaching = reaching;
    this.#forwards = forwards;
    this.#invocation = invocation;
    this.#io = io;
    this.#maxConnections = invocation.values["max-connections"] ?? connectionCapacity();
    this.#checkForwards();
  }

  async run(scope: Scope): Promise<number> {
    const { values, tail } = this.#invocation;
    scope.own(() => this.#live.abortAll(new SeikanError("shutdown", "seikan ends")));
    scope.own(() => this.#stopListening());
    await this.#listen();
    if (tail !== undefined) {
      this.#announce(scope);
      return this.#runCommand(tail, scope);
    }
    // Before anybody is told that we are ready: a signal may follow at once.
    const lifetime = new Lifetime({ timeoutMs: values.timeout, status: () => this.#printStatus() });
    scope.own(() => lifetime.release());
    this.#announce(scope);
    const once = values.once ? this.#firstDone.promise : new Promise<never>(() => {});
    const ended = await Promise.race([lifetime.stopping, lifetime.ended, once.then((error) => ({ error }))]);
    if (typeof ended === "number") return ended;
    if (typeof ended === "object") {
      if (ended.error !== undefined) throw ended.error;
      return 0;
    }
    return Promise.race([this.#drain(), lifetime.ended]);
  }

  async #drain(): Promise<number> {
    this.#draining = true;
    this.#stopListening();
    await this.#live.drain(this.#invocation.values["drain-timeout"]);
    return 0;
  }

  #stopListening(): void {
    for (const { listener } of this.#listening) listener.close();
  }

  async #listen(): Promise<void> {
    for (const forward of this.#forwards) {
      if (forward.local.kind === "unix") {
        const { removeIfStale } = await import("../transports/stale-socket.ts");
        await removeIfStale(forward.local.path);
      }
      const serve = this.#server(forward);
      const listener = listen(forward.local, (stream, peer) => this.#accept(stream, peer, serve));
      this.#listening.push({ forward, listener });
    }
  }

  #accept(stream: ByteStream, peer: Peer, serve: (stream: ByteStream, peer: Peer) => void): void {
    const isFull = this.#live.size >= this.#maxConnections;
    if (isFull || (this.#invocation.values.once && this.#accepted > 0)) {
      if (isFull) this.#io.log.warn(`refusing a connection: ${this.#maxConnections} is the most allowed`);
      return stream.abort(new SeikanError("limit-reached", "too many connections"));
    }
    this.#accepted++;
    if (this.#invocation.values.once) this.#stopListening();
    serve(stream, peer);
  }

  #server(forward: Forward): (stream: ByteStream, peer: Peer) => void {
    if (forward.kind === "fixed") return (stream, peer) => void this.#forwardOne(stream, peer, forward.target);
    const context = this.#dynamicContext();
    const exposed = isOutside(forward.local);
    return (stream, peer) => {
      serveClient(context, stream, { ...peer, exposed }, PROTOCOLS[forward.scheme]);
      void stream.closed.then(({ error }) => this.#firstDone.resolve(error));
    };
  }

  async #forwardOne(inbound: ByteStream, peer: Peer, target: Target): Promise<void> {
    this.#live.add(inbound);
    const name = peer.address === "" ? "unix" : `${peer.address}:${peer.port}`;
    const startedAt = now();
    try {
      const way = this.#reaching.choose(target);
      const outbound = await this.#reaching.dial(target, way);
      const { values } = this.#invocation;
      const result = await bridge(inbound, outbound, {
        lingerMs: values["linger-timeout"],
        idleMs: values["idle-timeout"],
      });
      logEnd(this.#io, name, target, way, result, startedAt);
      this.#firstDone.resolve(result.error);
    } catch (thrown) {
      const error = toSeikanError(thrown);
      // A reset says "this did not work" where a FIN would say "there was nothing".
      inbound.abort(error);
      this.#io.event("failed", { peer: name, target: formatTarget(target), code: error.code, message: error.message });
      this.#io.log.warn(error.message, {
        peer: name,
        target: formatTarget(target),
        hint: error.hints[0],
        ms: Math.round(now() - startedAt),
      });
      this.#firstDone.resolve(error);
    } finally {
      this.#live.delete(inbound);
    }
  }

  #dynamicContext(): RouteContext {
    const { values } = this.#invocation;
    return {
      routes: this.#reaching,
      permissions: new Permissions({ allow: [], deny: [] }, () => []),
      users: values.auth.length === 0 ? undefined : new Users(values.auth),
      openToAll: values["no-auth"],
      limits: {
        head: HEAD_LIMITS,
        headMs: 30_000,
        bodyMs: 60_000,
        connectMs: values["connect-timeout"],
        lingerMs: values["linger-timeout"],
        idleMs: values["idle-timeout"],
      },
      via: undefined,
      proxyName: "seikan",
      greeting: "This is a local proxy of seikan connect; there is no page here.",
      isDraining: () => this.#draining,
      live: this.#live,
      log: this.#io.log,
      access: accessLogger(values.json && this.#invocation.tail === undefined ? "json" : "pretty", false, this.#io),
    };
  }

  #checkForwards(): void {
    const { values } = this.#invocation;
    const dynamic = this.#forwards.filter((forward) => forward.kind === "dynamic");
    if (dynamic.length > 0 && values.tls)
      throw usageError("--tls is about one target, and a dynamic listener has many");
    const exposed = dynamic.find(({ local }) => isOutside(local));
    if (exposed !== undefined && values.auth.length === 0 && !values["no-auth"]) {
      throw usageError(
        "refusing to be an open proxy: a dynamic listener can be reached from other machines",
        "add --auth USER:PASS, listen on loopback, or say --no-auth if that is what you want",
      );
    }
  }

  #printStatus(): void {
    this.#io.log.info("status", { connections: this.#live.size, accepted: this.#accepted });
  }

  // --- ready, and the command behind it ------------------------------------------

  #announce(scope: Scope): void {
    const { values } = this.#invocation;
    const listeners = this.#listening.flatMap(({ listener }) => listener.addresses);
    const urls = this.#listening.flatMap(({ forward, listener }) =>
      forward.kind === "dynamic" ? listener.addresses.map((address) => proxyUrl(forward, address)) : [],
    );
    const report = { pid: process.pid, listeners, urls };
    announceReady(
      report,
      { file: values["ready-file"], fd: values["ready-fd"], notifySocket: this.#io.env.NOTIFY_SOCKET },
      scope,
    );
    this.#io.event("ready", report);
    for (const { forward, listener } of this.#listening) {
      const to = forward.kind === "fixed" ? formatTarget(forward.target) : `any target (${forward.scheme})`;
      this.#io.log.info(`listening on ${listener.addresses.join(" ")} for ${to}`);
    }
  }

  async #runCommand(tail: readonly string[], scope: Scope): Promise<number> {
    const places = this.#listening.map(({ listener }) => placeOf(listener));
    const words = tail.map((word) => fillIn(word, places[0]!));
    const child = runWrapped(words, { ...this.#io.childEnv, ...childVariables(places), ...this.#proxyVariables() });
    const { timeout } = this.#invocation.values;
    if (timeout === undefined || timeout === 0) return child.exited;
    const expired = sleep(timeout).then(() => "expired" as const);
    const first = await Promise.race([child.exited, expired]);
    if (first !== "expired") return first;
    child.kill("SIGTERM");
    scope.own(() => Promise.race([child.exited, sleep(2000)]));
    throw new SeikanError("run-timeout", `--timeout: the command was not done after ${timeout / 1000} s`);
  }

  #proxyVariables(): Record<string, string> {
    const dynamic = this.#listening.find(({ forward }) => forward.kind === "dynamic");
    if (dynamic === undefined || dynamic.forward.kind !== "dynamic") return {};
    const url = proxyUrl(dynamic.forward, placeOf(dynamic.listener).addr);
    const names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    return Object.fromEntries(
      names.flatMap((name) => [
        [name, url],
        [name.toLowerCase(), url],
      ]),
    );
  }
}

function isOutside(address: ListenAddress): boolean {
  return address.kind === "fd" || (address.kind === "tcp" && !isLoopbackHost(address.host));
}

function proxyUrl(forward: { scheme: "socks5" | "http" | "mixed" }, address: string): string {
  return `${forward.scheme === "socks5" ? "socks5h" : "http"}://${address}`;
}

/** Where a child finds a listener. */
interface Place {
  readonly host: string;
  readonly port: string;
  readonly addr: string;
}

function placeOf(listener: Listener): Place {
  const address = listener.addresses[0]!;
  const colon = address.lastIndexOf(":");
  if (listener.port === undefined) return { host: address, port: "", addr: address };
  const host = address
    .slice(0, colon)
    .replace(/^0\.0\.0\.0$/, "127.0.0.1")
    .replace(/^\[::\]$/, "[::1]");
  const port = address.slice(colon + 1);
  return { host: host.replace(/^\[(.*)\]$/, "$1"), port, addr: `${host}:${port}` };
}

/** Known placeholders only; anything else in braces is the command's own. */
function fillIn(word: string, place: Place): string {
  return word.replace(/\{(host|port|addr)\}/g, (_, name: keyof Place) => place[name]);
}

function childVariables(places: readonly Place[]): Record<string, string> {
  const variables: Record<string, string> = {};
  const put = (place: Place, suffix: string) => {
    variables[`SEIKAN_ADDR${suffix}`] = place.addr;
    variables[`SEIKAN_HOST${suffix}`] = place.host;
    variables[`SEIKAN_PORT${suffix}`] = place.port;
  };
  put(places[0]!, "");
  if (places.length > 1) for (const [index, place] of places.entries()) put(place, `_${index + 1}`);
  return variables;
}
