import { isLoopbackHost, parseAuthority, type ListenAddress, type TcpTarget } from "../core/address.ts";
import { deadlineIn } from "../core/clock.ts";
import { mistakesIn, SeikanError, toSeikanError, usageError } from "../core/errors.ts";
import { LiveSet, Scope } from "../core/scope.ts";
import type { ByteStream } from "../core/stream.ts";
import { connectionCapacity, inheritedListeners } from "../platform/descriptors.ts";
import { writeRunToken } from "../platform/run-token.ts";
import { AdminEndpoint } from "../routes/admin.ts";
import type { Client, RouteContext, Endpoint } from "../routes/context.ts";
import { ConnectUdpEndpoint } from "../routes/connect-udp.ts";
import { readProxyHeader, serveClient } from "../routes/front.ts";
import type { Exposure } from "../routes/exposure.ts";
import { Metrics } from "../routes/metrics.ts";
import { Permissions, type Grant } from "../routes/permissions.ts";
import { ServicesEndpoint } from "../routes/services-endpoint.ts";
import { SiteDirectory } from "../routes/site-directory.ts";
import { SiteRoutes } from "../routes/site-routes.ts";
import { visitRaw } from "../routes/tls-entry.ts";
import { TunnelEndpoint } from "../routes/tunnel.ts";
import { Users } from "../routes/users.ts";
import { WebSocketBridge } from "../routes/websocket-bridge.ts";
import type { peekServerName as PeekServerName } from "../transports/peek.ts";
import { listen } from "../transports/tcp.ts";
import { tlsServer } from "../transports/tls.ts";
import { heartbeatEvery } from "../transports/pulse.ts";
import type { Listener, Peer, Source } from "../transports/transport.ts";
import { accessLogger } from "./access-log.ts";
import { announce } from "./announce.ts";
import { openControl } from "./control-socket.ts";
import { Certificates, Stamps } from "./certificates.ts";
import type { CommandIo } from "./command.ts";
import { Reach, readOptionFile } from "./reach.ts";
import { ServeAgents, servesOutside, wspListen } from "./serve-agents.ts";
import { parseListener, type ListenSpec, type ServeInvocation, type ServeValues } from "./serve-options.ts";
import { ServeServices } from "./serve-services.ts";
import { tunnelLogger } from "./tunnel-log.ts";

const DEFAULT_LISTEN = "127.0.0.1:8080";
/** How often the files are looked at that may change while it runs. */
const WATCH_MS = 500;

/** Options about ways to targets: a reload makes new ones. */
const REROUTING: readonly string[] = [
  ...["via", "route", "resolve", "tunnels", "ipv4", "ipv6", "proxy-auth-file", "proxy-auth", "proxy-header"],
  ...["proxy-cacert", "proxy-cert", "proxy-key", "proxy-insecure"],
];

/** Other options that a reload takes anew. */
const RELOADED: readonly string[] = [
  ...["auth", "auth-file", "agent-token", "tokens", "token", "tls-cert", "tls-key", "tls-client-ca", "service"],
];

/** A running `seikan serve`: its listeners, and what they share. */
export class Server {
  #invocation: ServeInvocation;
  #values: ServeValues;
  readonly #io: CommandIo;
  readonly #live = new LiveSet();
  readonly #listeners: Listener[] = [];
  readonly #specs: readonly ListenSpec[];
  #certificates: Certificates | undefined;
  /** Who may dial; the routes look here. */
  readonly #access: { users: Users | undefined };
  readonly #context: RouteContext;
  #reach: Reach;
  readonly #routes: SiteRoutes;
  readonly #agents: ServeAgents;
  readonly #services: ServeServices;
  readonly #sites: SiteDirectory;
  /** It is meant to be reached from outside, whatever it listens on. */
  #servesOutside: boolean;
  /** It has more to do than to dial for users. */
  readonly #hasOtherWork: boolean;
  readonly #metrics = new Metrics();
  /** For `/-/agents`, `/-/metrics` and `/-/services`, where nobody from outside gets in. */
  readonly #runToken = Buffer.from(crypto.getRandomValues(new Uint8Array(24))).toString("base64url");
  readonly #perAddress = new Map<string, number>();
  readonly #maxConnections: number;
  #own: TcpTarget[] = [];
  #peekServerName: typeof PeekServerName | undefined;
  #draining = false;
  #warnedFull = false;
  readonly #stamps = new Stamps();

  constructor(invocation: ServeInvocation, io: CommandIo) {
    const { values } = invocation;
    this.#invocation = invocation;
    this.#values = values;
    this.#io = io;
    this.#hasOtherWork = servesOutside(values);
    this.#servesOutside = values["trusted-proxy"].length > 0 || this.#hasOtherWork;
    this.#specs = listenSpecs(values.listen.length > 0 ? values.listen : wspListen(values).map(parseListener), io.env);
    this.#certificates = certificatesOf(values, this.#specs);
    this.#access = { users: usersOf(values) };
    this.#maxConnections = values["max-connections"] ?? connectionCapacity();
    this.#agents = new ServeAgents(
      values,
      this.#specs[0]!.address,
      (exposure, stream, peer) => this.#visitPort(exposure, stream, peer),
      (host) => this.#services.sites.has(host),
    );
    this.#reach = this.#newReach(invocation);
    const { direct } = this.#reach;
    this.#services = new ServeServices(values.service, {
      ...{ direct, connectMs: values["connect-timeout"], io },
      isConfigured: invocation.config !== undefined,
    });
    this.#sites = new SiteDirectory(this.#services.sites, this.#agents.registry);
    const enter = (stream: ByteStream, from: Source) => this.#enter(stream, from);
    this.#routes = new SiteRoutes(this.#reach.explicit(), this.#agents.registry, this.#sites, enter);
    this.#refuseOpenProxy(values, this.#access.users);
    this.#stamps.watch(this.#watched(values));
    this.#context = this.#createContext();
  }

  #newReach({ values, sourceOf }: ServeInvocation): Reach {
    const agents = (name: string) => this.#agents.registry.exitDialer(name);
    return new Reach(values, sourceOf("via"), tunnelLogger(this.#io), { agents });
  }

  /** Listens everywhere, then says so. */
  async start(scope: Scope): Promise<void> {
    await this.#services.prepare(scope);
    // Loaded beforehand: a hello that comes while this loads would be read as data.
    if (this.#certificates !== undefined) this.#peekServerName = (await import("../transports/peek.ts")).peekServerName;
    for (const spec of this.#specs) {
      await removeStaleSocket(spec.address);
      this.#listeners.push(listen(spec.address, (stream, peer) => this.#accept(spec, stream, peer)));
    }
    this.#own = this.#listeners.flatMap((listener) =>
      listener.addresses
        .filter((address) => !/^(unix|fd):/.test(address))
        .map(parseAuthority)
        .filter((target) => target !== undefined),
    );
    for (const tunnel of this.#reach.tunnels) tunnel.keep();
    const watch = setInterval(() => void this.#reloadChanged(), WATCH_MS);
    scope.own(() => clearInterval(watch));
    this.#services.publishAt(this.#origin);
    if (this.#invocation.config !== undefined) openControl(this.#services, this.#values, this.#io, scope);
    this.#writeRunToken(scope);
    this.#announce(scope);
  }

  #writeRunToken(scope: Scope): void {
    if (this.#specs.every(({ address }) => this.#isExposed(address))) return;
    try {
      const file = writeRunToken(this.#runToken, this.#io.env, scope);
      this.#io.log.debug(`/-/agents and /-/metrics want the token in ${file}`);
    } catch (thrown) {
      this.#io.log.debug(`no token for /-/agents and /-/metrics: ${toSeikanError(thrown).message}`);
    }
  }

  stopListening(): void {
    for (const listener of this.#listeners) listener.close();
    this.#agents.registry.stopListening();
  }

  async drain(): Promise<number> {
    this.#draining = true;
    this.stopListening();
    if (this.#live.size > 0) this.#io.log.info(`draining ${this.#live.size} connections; a second signal ends them`);
    const ms = this.#values["drain-timeout"];
    await Promise.all([this.#live.drain(ms), this.#services.services.drain(ms)]);
    return 0;
  }

  printStatus(): void {
    this.#io.log.info("status", {
      connections: this.#live.size,
      listeners: this.#listeners.flatMap(({ addresses }) => addresses).join(" "),
    });
  }

  // --- connections -----------------------------------------------------------

  #accept(spec: ListenSpec, stream: ByteStream, peer: Peer): void {
    const { address, port } = peer;
    const client: Client = { address, port, exposed: this.#isExposed(spec.address), isSecure: spec.isTls };
    if (!this.#admit(stream, client)) return;
    if (!spec.isTls && !this.#values["proxy-protocol"]) return serveClient(this.#context, stream, client, "all");
    this.#live.add(stream);
    this.#prepare(spec, stream, client)
      .catch((thrown) => {
        this.#io.log.debug(toSeikanError(thrown).message, { peer: client.address });
      })
      .finally(() => this.#live.delete(stream));
  }

  /** What comes before HTTP: the PROXY header, then TLS. */
  async #prepare(spec: ListenSpec, accepted: ByteStream, peer: Client): Promise<void> {
    let stream = accepted;
    let client = peer;
    if (this.#values["proxy-protocol"])
      client = await readProxyHeader(this.#context, stream, client, this.#values["trusted-proxy"]);
    if (spec.isTls) return this.#secure(stream, client);
    serveClient(this.#context, stream, client, "all");
  }

  /** Speaks TLS with the client, unless its server name belongs to an exposure that does. */
  async #secure(stream: ByteStream, client: Client): Promise<void> {
    const certificates = this.#certificates!;
    const { registry } = this.#agents;
    const deadline = deadlineIn(this.#values["header-timeout"]);
    const asksName = certificates.isSeveral || registry.hasPassthrough;
    const name = asksName ? await this.#peekServerName!(stream, deadline) : "";
    const exposure = registry.passthrough(name);
    if (exposure !== undefined) return visitRaw(this.#context, exposure, stream, client, "TLS");
    serveClient(this.#context, await tlsServer(stream, certificates.choose(name), deadline), client, "all");
  }

  /** A visitor of a port that an agent has. */
  #visitPort(exposure: Exposure, stream: ByteStream, peer: Peer): void {
    const client: Client = { ...peer, exposed: true, isSecure: false };
    if (!this.#admit(stream, client)) return;
    const method = exposure.spec.kind === "udp" ? "UDP" : "TCP";
    visitRaw(this.#context, exposure, stream, client, method);
  }

  /** A client that came to one of our own sites through CONNECT: from where it asked for that. */
  #enter(stream: ByteStream, { address, port, isInside }: Source): void {
    const client: Client = { address, port, exposed: isInside !== true, isSecure: false, maySecure: true };
    serveClient(this.#context, stream, client, "http");
  }

  /** Counts a connection in and out; over the limits it is closed at once, before it costs anything. */
  #admit(stream: ByteStream, client: Client): boolean {
    const { address } = client;
    const isCounted = address !== "" && !isLoopbackHost(address);
    const same = isCounted ? (this.#perAddress.get(address) ?? 0) : 0;
    const isFull = this.#live.size >= this.#maxConnections;
    if (isFull || same >= this.#values["max-connections-per-address"]) {
      this.#warnFull(
        isFull ? `${this.#maxConnections} connections, the most allowed` : `${same} connections from ${address}`,
      );
      stream.abort(new SeikanError("limit-reached", "too many connections"));
      return false;
    }
    if (!isCounted) return true;
    this.#perAddress.set(address, same + 1);
    void stream.closed.then(() => {
      const left = (this.#perAddress.get(address) ?? 1) - 1;
      if (left > 0) this.#perAddress.set(address, left);
      else this.#perAddress.delete(address);
    });
    return true;
  }

  #warnFull(what: string): void {
    if (this.#warnedFull) return;
    this.#warnedFull = true;
    setTimeout(() => (this.#warnedFull = false), 10_000).unref();
    this.#io.log.warn(`refusing connections: ${what}`, { code: "limit-reached" });
  }

  // --- set-up ------------------------------------------------------------------

  /** What is never dialled for anybody: our listeners, the ports of services, and those that agents have here. */
  *#ownTargets(): Generator<TcpTarget> {
    for (const own of this.#own) yield own;
    yield* this.#services.targets();
    for (const address of this.#agents.registry.boundAddresses) {
      const target = parseAuthority(address);
      if (target !== undefined) yield target;
    }
  }

  #admin(): Endpoint[] {
    const access = { admins: this.#values.admin, token: this.#runToken };
    return [
      new AdminEndpoint(access, this.#agents.registry, this.#metrics),
      new ServicesEndpoint(this.#services, access),
    ];
  }

  #createContext(): RouteContext {
    const values = this.#values;
    const deny = values["deny-net"].flat();
    const grants = grantsOf(values.grant);
    const permissions = new Permissions({ allow: values["allow-net"], deny, grants }, () => this.#ownTargets());
    const logAccess = accessLogger(
      values["access-log"] ?? (values.json ? "json" : "pretty"),
      values["log-query"],
      this.#io,
    );
    const access = this.#access;
    const pseudonym = `seikan-${crypto.randomUUID().slice(0, 8)}`;
    return {
      routes: this.#routes,
      permissions,
      get users() {
        return access.users;
      },
      openToAll: values["no-auth"],
      endpoints: [...endpointsOf(values), ...this.#agents.endpoints, ...this.#admin()],
      gateways: this.#agents.gateways,
      sites: this.#sites,
      tls: { registry: this.#agents.registry, choose: (name) => this.#certificates?.choose(name) },
      trustedProxies: values["trusted-proxy"],
      limits: {
        head: { bytes: values["max-header-size"], fields: values["max-headers"] },
        headMs: values["header-timeout"],
        bodyMs: values["body-timeout"],
        answerMs: values["response-timeout"],
        connectMs: values["connect-timeout"],
        lingerMs: values["linger-timeout"],
        idleMs: values["idle-timeout"],
      },
      via: values["no-via"] ? undefined : pseudonym,
      proxyName: "seikan",
      greeting:
        "This is seikan, a proxy; there is no page here.\nTry: curl -x http://THIS-HOST:PORT https://example.com",
      isDraining: () => this.#draining,
      live: this.#live,
      log: this.#io.log,
      access: (entry) => {
        logAccess(entry);
        this.#metrics.observe(entry);
        entry.way?.onAccess?.(entry);
      },
    };
  }

  /**
   * Reachable from other machines. Inherited descriptors count: nobody knows
   * what they are bound to. So does a server that somebody put a proxy in front of.
   */
  #isExposed(address: ListenAddress): boolean {
    if (this.#servesOutside || address.kind === "fd") return true;
    return address.kind === "tcp" && !isLoopbackHost(address.host);
  }

  #refuseOpenProxy(values: ServeValues, users: Users | undefined): void {
    const exposed = this.#specs.find(({ address }) => this.#isExposed(address));
    if (exposed === undefined || values["no-auth"] || users !== undefined) return;
    // It has other work: it dials for nobody.
    if (this.#hasOtherWork || servesOutside(values)) return;
    throw usageError(
      "refusing to be an open proxy: a listener can be reached from other machines and nobody has to authenticate",
      "add users with --auth-file FILE or --auth USER:PASS",
      "or listen on loopback (-l 8080), or say --no-auth if that is what you want",
    );
  }

  // --- reload ------------------------------------------------------------------

  /** SIGHUP: everything that can change while it runs is taken anew; with an error the old stays. */
  async reload(): Promise<void> {
    if (await this.#reloadAll()) this.#io.log.info("reloaded");
  }

  /** Files whose change is a reason to reload. */
  #watched(values: ServeValues): string[] {
    const { "auth-file": users, tokens, "tls-cert": certs, "tls-key": keys, "tls-client-ca": ca } = values;
    return [this.#invocation.config?.path, users, tokens, ...certs, ...keys, ca].filter((path) => path !== undefined);
  }

  async #reloadChanged(): Promise<void> {
    const changed = this.#stamps.changed();
    if (changed.length > 0 && (await this.#reloadAll())) this.#io.log.info(`reloaded: ${changed.join(", ")} changed`);
  }

  /** False where something is wrong: it was said, and what was there stays. */
  async #reloadAll(): Promise<boolean> {
    let watched = this.#watched(this.#values);
    try {
      // Before they are read: what changes meanwhile is read again.
      this.#stamps.watch(watched);
      const { invocation, changed } = (await this.#invocation.config?.reread()) ?? {
        invocation: this.#invocation,
        changed: [],
      };
      watched = [...new Set([...watched, ...this.#watched(invocation.values)])];
      this.#stamps.watch(watched);
      this.#apply(invocation, changed);
      return true;
    } catch (thrown) {
      const error = toSeikanError(thrown);
      const why = mistakesIn(error);
      this.#io.log.error(`cannot reload, everything stays as it was: ${error.message}`, { why });
      return false;
    }
  }

  /** Everything is made before anything is changed. */
  #apply(invocation: ServeInvocation, changed: readonly string[]): void {
    const { values } = invocation;
    const users = usersOf(values);
    this.#refuseOpenProxy(values, users);
    const certificates = certificatesOf(values, this.#specs);
    const isRerouted = changed.some((name) => REROUTING.includes(name));
    const reach = isRerouted ? this.#newReach(invocation) : undefined;
    this.#agents.reload(values);
    this.#servesOutside ||= servesOutside(values);
    this.#replaceUsers(values, users);
    this.#certificates = certificates;
    if (reach !== undefined) this.#reroute(reach);
    this.#services.update(values.service);
    this.#invocation = invocation;
    this.#values = { ...this.#values, ...pick(values, [...RELOADED, ...REROUTING]) };
    const later = changed.filter((name) => !RELOADED.includes(name) && !REROUTING.includes(name));
    if (later.length > 0) this.#io.log.warn(`changed from the next start on: ${later.join(", ")}`);
  }

  /** Those who guessed wrongly stay throttled. */
  #replaceUsers(values: ServeValues, users: Users | undefined): void {
    const file = values["auth-file"];
    if (this.#access.users === undefined || users === undefined) this.#access.users = users;
    else this.#access.users.replace(values.auth, file === undefined ? "" : readOptionFile(file, "auth-file"));
  }

  /** Connections that are there stay on their ways. */
  #reroute(reach: Reach): void {
    const { tunnels } = this.#reach;
    this.#reach = reach;
    this.#routes.use(reach.explicit());
    for (const tunnel of reach.tunnels) tunnel.keep();
    for (const tunnel of tunnels) tunnel.retire();
  }

  get #urls(): string[] {
    return this.#listeners.flatMap(({ addresses }, index) => {
      const scheme = this.#specs[index]!.isTls ? "https" : "http";
      return addresses.filter((address) => !/^(unix|fd):/.test(address)).map((address) => `${scheme}://${address}`);
    });
  }

  /** How visitors reach it, the host left open: `http://*:8080`. */
  get #origin(): string {
    const [, scheme, port] = /^(https?):.*:(\d+)$/.exec(this.#urls[0] ?? "") ?? [];
    if (scheme === undefined) return "http://*";
    return port === (scheme === "https" ? "443" : "80") ? `${scheme}://*` : `${scheme}://*:${port}`;
  }

  #announce(scope: Scope): void {
    const values = this.#values;
    const listeners = this.#listeners.flatMap(({ addresses }) => addresses);
    const urls = this.#urls;
    announce(listeners, urls, values, this.#io, scope);
    this.#io.log.info(`listening on ${urls.length > 0 ? urls.join(" ") : listeners.join(" ")}`);
    this.#services.printTable();
    // Behind a PROXY header no client gets in by itself, and without users nobody from outside.
    const dials = this.#access.users !== undefined || values["no-auth"] || !this.#servesOutside;
    if (urls[0] !== undefined && !values["proxy-protocol"] && dials)
      this.#io.log.info(`try: curl -x ${tryUrl(urls[0], this.#access.users)} https://example.com`);
  }
}

function pick<T extends object>(from: T, names: readonly string[]): Partial<T> {
  return Object.fromEntries(Object.entries(from).filter(([name]) => names.includes(name))) as Partial<T>;
}

function tryUrl(url: string, users: Users | undefined): string {
  const reachable = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:");
  return users === undefined ? reachable : reachable.replace("://", "://USER:PASS@");
}

function listenSpecs(given: readonly ListenSpec[], env: CommandIo["env"]): readonly ListenSpec[] {
  if (given.length > 0) return given;
  const inherited = inheritedListeners(env).map((fd) => `fd:${fd}`);
  return (inherited.length > 0 ? inherited : [DEFAULT_LISTEN]).map(parseListener);
}

function certificatesOf(values: ServeValues, specs: readonly ListenSpec[]): Certificates | undefined {
  const certs = values["tls-cert"];
  const keys = values["tls-key"];
  const wantsTls = specs.some(({ isTls }) => isTls);
  if (certs.length !== keys.length)
    throw usageError(`${certs.length} --tls-cert but ${keys.length} --tls-key: they belong together in pairs`);
  if (wantsTls && certs.length === 0) throw usageError("an https:// listener needs --tls-cert and --tls-key");
  if (!wantsTls && certs.length > 0)
    throw usageError(
      "--tls-cert is given but no listener speaks TLS",
      "write https:// in front: -l https://0.0.0.0:8443",
    );
  if (!wantsTls) return undefined;
  return new Certificates(
    certs.map((cert, index) => ({ cert, key: keys[index]! })),
    values["tls-client-ca"],
  );
}

/** Several grants to one user add up. */
function grantsOf(entries: ServeValues["grant"]): Map<string, Grant> {
  const grants = new Map<string, Grant>();
  for (const [user, { targets, agents }] of entries) {
    const before = grants.get(user) ?? { targets: [], agents: [] };
    grants.set(user, { targets: [...before.targets, ...targets], agents: [...before.agents, ...agents] });
  }
  return grants;
}

function endpointsOf(values: ServeValues): Endpoint[] {
  const origins = values["ws-origin"];
  const heartbeat = heartbeatEvery(values["ping-interval"]);
  const access = { origins, wantsUser: values["ws-auth"], heartbeat };
  const bridges = values["ws-route"].map((route) => new WebSocketBridge(route, access));
  const tunnel = values["no-tunnel"] ? [] : [new TunnelEndpoint(values["tunnel-path"], origins, heartbeat)];
  return [...bridges, ...tunnel, new ConnectUdpEndpoint()];
}

function usersOf(values: ServeValues): Users | undefined {
  const file = values["auth-file"];
  if (values.auth.length === 0 && file === undefined) return undefined;
  if (values["no-auth"]) throw usageError("--no-auth and users exclude each other");
  return new Users(values.auth, file === undefined ? "" : readOptionFile(file, "auth-file"));
}

/** A socket file that nobody listens on any more is in the way; one in use is an error. */
async function removeStaleSocket(address: ListenAddress): Promise<void> {
  if (address.kind !== "unix") return;
  const { removeIfStale } = await import("../transports/stale-socket.ts");
  await removeIfStale(address.path);
}
