import {
  formatTarget,
  isLoopbackHost,
  parseListen,
  parseTarget,
  tcpTarget,
  udpTarget,
  type ListenAddress,
  type Target,
} from "../core/address.ts";
import { bridge } from "../core/bridge.ts";
import { now, sleep } from "../core/clock.ts";
import { SeikanError, toSeikanError, usageError } from "../core/errors.ts";
import { LiveSet, Scope } from "../core/scope.ts";
import type { ByteStream } from "../core/stream.ts";
import { runWrapped } from "../platform/child.ts";
import { connectionCapacity } from "../platform/descriptors.ts";
import { formatPeer, type AccessEntry, type RouteContext } from "../routes/context.ts";
import { serveClient, type Protocols } from "../routes/front.ts";
import { Permissions } from "../routes/permissions.ts";
import { Users } from "../routes/users.ts";
import { listen } from "../transports/tcp.ts";
import type { Accept, Listener, Peer } from "../transports/transport.ts";
import { listenUdp, UDP_IDLE_MS } from "../transports/udp.ts";
import { accessLogger } from "./access-log.ts";
import { announce } from "./announce.ts";
import type { CommandIo } from "./command.ts";
import { Lifetime } from "./lifetime.ts";
import type { ConnectInvocation } from "./connect-options.ts";
import { plainContext } from "./plain-context.ts";
import { explained, logEnd, type Reaching } from "./reaching.ts";

export type Forward =
  /** The target says whether TCP or UDP is listened for. */
  | { readonly kind: "fixed"; readonly local: ListenAddress; readonly target: Target }
  | { readonly kind: "dynamic"; readonly local: ListenAddress; readonly scheme: "socks5" | "http" | "mixed" };

/** Reads one `-L`; a local address alone leads to `target`. */
export function parseForward(spec: string, target: Target | undefined): Forward {
  const dynamic = /^(socks5|http|mixed):\/\/(.+?)\/?$/.exec(spec);
  if (dynamic !== null) {
    return { kind: "dynamic", scheme: dynamic[1] as "socks5" | "http" | "mixed", local: parseListen(dynamic[2]!) };
  }
  if (spec.startsWith("udp:")) return parseUdpForward(spec.slice(4), target);
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

/** `LOCAL=HOST:PORT` and `PORT:HOST:PORT` behind `udp:`, or LOCAL alone for a target that is UDP, too. */
function parseUdpForward(spec: string, target: Target | undefined): Forward {
  const fallback = target?.kind === "udp" ? tcpTarget(target.host, target.port) : undefined;
  const forward = parseForward(spec, fallback);
  if (forward.kind === "fixed" && forward.local.kind === "tcp" && forward.target.kind !== "unix") {
    return { ...forward, target: udpTarget(forward.target.host, forward.target.port) };
  }
  throw usageError(`-L udp:${spec}: expected udp:LOCAL=HOST:PORT`, "for example -L udp:5353=1.1.1.1:53");
}

const PROTOCOLS: Readonly<Record<"socks5" | "http" | "mixed", Protocols>> = {
  socks5: "socks",
  http: "http",
  mixed: "all",
};

/** Exit codes of targets that were not reached: something in between, credentials, time. */
const UNREACHED: readonly number[] = [3, 4, 124];

interface Listening {
  readonly forward: Forward;
  readonly listener: Listener;
}

/** The local listeners of one `connect -L`, and the command behind them. */
export class LocalServer {
  readonly #reaching: Reaching;
  readonly #forwards: readonly Forward[];
  readonly #invocation: ConnectInvocation;
  readonly #io: CommandIo;
  readonly #live = new LiveSet();
  readonly #listening: Listening[] = [];
  readonly #maxConnections: number;
  readonly #firstDone = Promise.withResolvers<SeikanError | undefined>();
  readonly #logAccess: (entry: AccessEntry) => void;
  #accepted = 0;
  #draining = false;

  constructor(reaching: Reaching, forwards: readonly Forward[], invocation: ConnectInvocation, io: CommandIo) {
    this.#reaching = reaching;
    this.#forwards = forwards;
    this.#invocation = invocation;
    this.#io = io;
    this.#maxConnections = invocation.values["max-connections"] ?? connectionCapacity();
    const isJson = invocation.values.json && invocation.tail === undefined;
    this.#logAccess = accessLogger(isJson ? "json" : "pretty", false, io);
    this.#checkForwards();
  }

  async run(scope: Scope): Promise<number> {
    const { values, tail } = this.#invocation;
    scope.own(() => this.#live.abortAll(new SeikanError("shutdown", "seikan ends")));
    scope.own(() => this.#stopListening());
    await this.#listen();
    this.#keepTunnels(scope);
    if (tail !== undefined) {
      this.#announce(scope);
      return this.#runCommand(tail, scope);
    }
    // Before anybody is told that we are ready: a signal may follow at once.
    const lifetime = new Lifetime({ timeoutMs: values.timeout, status: () => this.#printStatus() });
    scope.own(() => lifetime.release());
    this.#announce(scope);
    const once = values.once ? this.#firstDone.promise : new Promise<never>(() => {});
    const refused = this.#reaching.refused;
    const failed = Promise.race([once, refused]).then((error) => ({ error }));
    const ended = await Promise.race([lifetime.stopping, lifetime.ended, failed]);
    if (typeof ended === "number") return ended;
    if (typeof ended === "object") {
      if (ended.error !== undefined) throw ended.error;
      return 0;
    }
    return Promise.race([this.#drain(), lifetime.ended]);
  }

  #keepTunnels(scope: Scope): void {
    for (const forward of this.#forwards) if (forward.kind === "fixed") this.#reaching.choose(forward.target);
    this.#reaching.keepTunnels();
    scope.own(() => this.#reaching.closeTunnels());
  }

  async #drain(): Promise<number> {
    this.#draining = true;
    this.#stopListening();
    if (this.#live.size > 0) this.#io.log.info(`draining ${this.#live.size} connections; a second signal ends them`);
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
      const accept: Accept = (stream, peer) => this.#accept(stream, peer, serve);
      const isUdp = forward.kind === "fixed" && forward.target.kind === "udp";
      const listener = isUdp ? await listenUdp(forward.local, accept) : listen(forward.local, accept);
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
      serveClient(context, stream, { ...peer, exposed, isSecure: false }, PROTOCOLS[forward.scheme]);
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
        idleMs: values["idle-timeout"] || (target.kind === "udp" ? UDP_IDLE_MS : 0),
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
    return plainContext(values, {
      routes: this.#reaching,
      permissions: new Permissions({ allow: [], deny: [] }, () => []),
      users: values.auth.length === 0 ? undefined : new Users(values.auth),
      openToAll: values["no-auth"],
      greeting: "This is a local proxy of seikan connect; there is no page here.",
      isDraining: () => this.#draining,
      live: this.#live,
      log: this.#io.log,
      access: (entry) => this.#tellEnd(entry),
    });
  }

  #tellEnd(entry: AccessEntry): void {
    const { error, way, up, down, target, client } = entry;
    // As with a fixed target: why a client got nothing is seen without asking.
    if (error !== undefined && up + down === 0 && UNREACHED.includes(error.outcome.exit)) {
      const [hint] = way === undefined ? error.hints : explained(error, way).hints;
      this.#io.log.warn(error.message, { peer: formatPeer(client), target, hint });
    }
    this.#logAccess(entry);
  }

  #checkForwards(): void {
    const { values } = this.#invocation;
    const dynamic = this.#forwards.filter((forward) => forward.kind === "dynamic");
    if (dynamic.length > 0 && values.tls)
      throw usageError("--tls is about one target, and a dynamic listener has many");
    if (dynamic.length > 0 && this.#reaching.bridgeTarget !== undefined)
      throw usageError("a ws+raw:// bridge leads to one target, and a dynamic listener has many");
    const exposed = dynamic.find(({ local }) => isOutside(local));
    if (exposed !== undefined && values.auth.length === 0 && !values["no-auth"]) {
      throw usageError(
        "refusing to be an open proxy: a dynamic listener can be reached from other machines",
        "add --auth USER:PASS, listen on loopback, or say --no-auth if that is what you want",
      );
    }
  }

  #printStatus(): void {
    const { tunnelsUp } = this.#reaching;
    this.#io.log.info("status", { connections: this.#live.size, accepted: this.#accepted, tunnels: tunnelsUp });
  }

  // --- ready, and the command behind it ------------------------------------------

  #announce(scope: Scope): void {
    const { values } = this.#invocation;
    const listeners = this.#listening.flatMap(({ listener }) => listener.addresses);
    const urls = this.#listening.flatMap(({ forward, listener }) =>
      forward.kind === "dynamic" ? listener.addresses.map((address) => proxyUrl(forward, address)) : [],
    );
    announce(listeners, urls, values, this.#io, scope);
    for (const { forward, listener } of this.#listening) {
      const to = forward.kind === "fixed" ? formatTarget(forward.target) : `any target (${forward.scheme})`;
      this.#io.log.info(`listening on ${listener.addresses.join(" ")} for ${to}`);
    }
  }

  async #runCommand(tail: readonly string[], scope: Scope): Promise<number> {
    const places = this.#listening.map(({ listener }) => placeOf(listener));
    const words = tail.map((word) => fillIn(word, places[0]!));
    void this.#reaching.refused.then((error) => this.#io.log.error(error.message, { hint: error.hints[0] }));
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
