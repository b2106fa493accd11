import { hostname } from "node:os";
import type { Target } from "../core/address.ts";
import { deadlineIn, now, sleep } from "../core/clock.ts";
import { mistakesIn, SeikanError, toSeikanError, usageError } from "../core/errors.ts";
import { LiveSet, type Scope } from "../core/scope.ts";
import type { ByteStream } from "../core/stream.ts";
import type { LaunchLedger } from "../platform/launch-ledger.ts";
import { runWrapped } from "../platform/child.ts";
import { hasControllingTerminal } from "../platform/signals.ts";
import { AGENT_PATH } from "../routes/agent-endpoint.ts";
import { ConnectUdpEndpoint } from "../routes/connect-udp.ts";
import type { Client, RouteContext } from "../routes/context.ts";
import { serveClient } from "../routes/front.ts";
import { LocalExposures } from "../routes/local-exposures.ts";
import { Permissions } from "../routes/permissions.ts";
import type { Hop } from "../transports/chain.ts";
import { Services } from "../services/services.ts";
import { serviceDialer } from "../transports/service.ts";
import type { Dialer } from "../transports/transport.ts";
import type { WebSocketHop } from "../transports/websocket-hop.ts";
import type { ExposedAt, RequestEvent } from "../wire/registration.ts";
import { AgentLink, untilReachable, type LinkEvents } from "./agent-link.ts";
import { serversOf, type AgentInvocation } from "./agent-options.ts";
import { announce } from "./announce.ts";
import type { CommandIo } from "./command.ts";
import { checkUnique, formatUpstream, renamed, type LocalExposure, type Upstream } from "./exposures.ts";
import { watchHealth } from "./health.ts";
import { Lifetime } from "./lifetime.ts";
import { plainContext } from "./plain-context.ts";
import { parseServer, Reach, readOptionFile } from "./reach.ts";
import { cleanUp, ledgerIn } from "./launches.ts";

/** The server, as a client of ours: it authenticated itself when we called it. */
const SERVER: Client = {
  address: "",
  port: 0,
  exposed: true,
  isSecure: true,
  isServer: true,
  login: { user: undefined },
};

/** Who this agent is at its server. */
export function agentName(chosen: string | undefined): { readonly name: string; readonly isChosen: boolean } {
  const isChosen = chosen !== undefined;
  const name = (
    chosen ??
    hostname()
      .replace(/[^\w.-]+/g, "-")
      .replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, "")
  ).toLowerCase();
  if (/^[a-z0-9]([\w.-]{0,98}[a-z0-9])?$/.test(name)) return { name, isChosen };
  if (isChosen) throw usageError(`--name: "${chosen}" is no name: letters, digits, dots, hyphens and underscores`);
  return { name: "agent", isChosen };
}

/** A running `seikan agent`. */
export class Agent {
  readonly #invocation: AgentInvocation;
  readonly #agent: { readonly name: string; readonly isChosen: boolean };
  readonly #io: CommandIo;
  readonly #reach: Reach;
  readonly #live = new LiveSet();
  readonly #local: LocalExposures;
  readonly #dialers = new Map<string, Dialer>();
  readonly #services: Services;
  readonly #ledger: LaunchLedger | undefined;
  readonly #links: AgentLink[] = [];
  #exposures: LocalExposure[];
  #isReady = false;
  #draining = false;

  constructor(invocation: AgentInvocation, agent: { name: string; isChosen: boolean }, io: CommandIo) {
    const { values } = invocation;
    this.#invocation = invocation;
    this.#agent = agent;
    this.#io = io;
    this.#exposures = [...values.expose];
    checkUnique(this.#exposures);
    this.#reach = new Reach(values, invocation.sourceOf("via"), () => {});
    const services = this.#exposures.flatMap(({ service }) => (service === undefined ? [] : [service]));
    this.#ledger = services.length > 0 ? ledgerIn(io) : undefined;
    this.#services = new Services(services, {
      ...{ direct: this.#reach.direct, connectMs: values["connect-timeout"], env: io.childEnv, log: io.log },
      ledger: this.#ledger,
      urlOf: (name) => this.#placeNamed(name)?.url ?? "",
    });
    this.#local = new LocalExposures(values["allow-net"] === undefined ? undefined : this.#reach.withoutHops());
  }

  async run(scope: Scope): Promise<number> {
    const { values, tail } = this.#invocation;
    scope.own(() => this.#live.abortAll(new SeikanError("shutdown", "seikan ends")));
    scope.own(() => this.#services.kill());
    await cleanUp(this.#ledger, this.#io);
    for (const exposure of this.#exposures) await this.#prepare(exposure, scope);
    this.#connect();
    scope.own(() => {
      for (const link of this.#links) link.close();
    });
    // Before anybody is told that we are ready: a signal may follow at once.
    const lifetime = tail === undefined ? this.#lifetime(scope) : undefined;
    const failed = Promise.race(this.#links.map(({ failed: error }) => error)).then((error) => ({ error }));
    const expired = tail === undefined ? new Promise<never>(() => {}) : expire(values.timeout);
    const started = Promise.race([this.#becomeReady(scope), expired]);
    const early = await Promise.race([started, failed, ...endings(lifetime)]);
    const ended = early === "ready" ? await this.#serve(scope, failed, lifetime) : early;
    if (typeof ended === "number") return ended;
    if (typeof ended === "object") throw this.#givenUp(ended.error);
    return await Promise.race([this.#drain(), lifetime!.ended]);
  }

  #lifetime(scope: Scope): Lifetime {
    const { timeout } = this.#invocation.values;
    const lifetime = new Lifetime({
      timeoutMs: timeout,
      status: () => this.#printStatus(),
      // In a terminal that is closed SIGHUP means the end.
      ...(hasControllingTerminal() ? {} : { reload: () => void this.#reload() }),
    });
    scope.own(() => lifetime.release());
    return lifetime;
  }

  /** Everything that can end a run that is ready. */
  #serve(scope: Scope, failed: Promise<{ error: SeikanError }>, lifetime: Lifetime | undefined) {
    const { tail } = this.#invocation;
    if (lifetime !== undefined) return Promise.race([failed, ...endings(lifetime)]);
    void failed.then(({ error }) => this.#io.log.error(this.#givenUp(error).message, { hint: error.hints[0] }));
    return this.#runCommand(tail!, scope);
  }

  #givenUp(error: SeikanError): SeikanError {
    if (!this.#isReady) return error;
    return new SeikanError("tunnel-lost", `given up: ${error.message}`, { cause: error, hints: error.hints });
  }

  // --- set-up ----------------------------------------------------------------------

  /** What the exposure's streams are joined with. */
  async #prepare({ upstream, proxyProtocol, spec, service: launched }: LocalExposure, scope: Scope): Promise<void> {
    if (launched !== undefined) return this.#lead(spec.name, this.#services.find(launched.name)!.dialer);
    const service =
      upstream.kind === "files"
        ? { target: await this.#serveFiles(upstream, scope), tls: false, insecure: false }
        : { ...upstream, insecure: upstream.insecure || this.#invocation.values["upstream-insecure"] };
    this.#lead(spec.name, serviceDialer({ ...service, proxyProtocol }, this.#reach.direct));
  }

  #lead(name: string, dial: Dialer): void {
    this.#dialers.set(name, dial);
    this.#local.set(name, dial);
  }

  #placeNamed(name: string): ExposedAt | undefined {
    return this.#links.flatMap((link) => link.places).find((place) => place.name === name);
  }

  async #serveFiles({ directory, listing }: Upstream & { kind: "files" }, scope: Scope): Promise<Target> {
    const { serveFiles } = await import("../transports/file-server.ts");
    return serveFiles(directory, listing, scope);
  }

  #connect(): void {
    const { values } = this.#invocation;
    const context = this.#context();
    const settings = {
      ...{ values, local: this.#local, events: this.#events() },
      key: Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url"),
      serve: (stream: ByteStream) => serveClient(context, stream, SERVER, "http"),
      rename: (name: string) => this.#rename(name),
    };
    const specs = this.#exposures.map(({ spec }) => spec);
    for (const server of serversOf(this.#invocation))
      this.#links.push(new AgentLink(this.#hopTo(server), specs, this.#agent, settings));
    for (const link of this.#links) link.keep();
  }

  #hopTo(server: string, token = tokenIn(this.#invocation.values)): WebSocketHop {
    const hop = parseServer(server, AGENT_PATH, this.#invocation.values["allow-net"]);
    return this.#reach.endpoint(withToken(hop, token), this.#io.env);
  }

  /** SIGHUP: the token is read again, for the connections to come. */
  async #reload(): Promise<void> {
    try {
      const reread = await this.#invocation.config?.reread();
      const values = reread?.invocation.values ?? this.#invocation.values;
      for (const [index, server] of serversOf(this.#invocation).entries())
        this.#links[index]!.useHop(this.#hopTo(server, tokenIn(values)));
      this.#io.log.info("reloaded the token");
      const later = reread?.changed.filter((name) => name !== "token" && name !== "token-file") ?? [];
      if (later.length > 0) this.#io.log.warn(`changed from the next start on: ${later.join(", ")}`);
    } catch (thrown) {
      const error = toSeikanError(thrown);
      this.#io.log.error(`cannot reload the token, the old one stays: ${error.message}`, { why: mistakesIn(error) });
    }
  }

  /** A name that nobody chose is taken at a server: another one is as good, as long as it is the only server. */
  #rename(name: string) {
    const at = this.#exposures.findIndex(({ spec }) => spec.name === name);
    const exposure = this.#exposures[at];
    if (exposure === undefined || !exposure.isNameFree || this.#links.length > 1) return undefined;
    const other = renamed(exposure);
    this.#exposures[at] = other;
    this.#lead(other.spec.name, this.#dialers.get(name)!);
    this.#local.delete(name);
    return other.spec;
  }

  #context(): RouteContext {
    const { values } = this.#invocation;
    return plainContext(values, {
      routes: this.#local,
      permissions: new Permissions({ allow: values["allow-net"], deny: [] }),
      endpoints: [new ConnectUdpEndpoint()],
      proxyName: "seikan-agent",
      greeting: "This is an agent.",
      isDraining: () => this.#draining,
      live: this.#live,
      log: this.#io.log,
      access: ({ method, target, status, error }) =>
        this.#io.log.debug(`${method} ${target} ${status}`, { end: error?.code, why: error?.message }),
    });
  }

  // --- what happens --------------------------------------------------------------------

  #events(): LinkEvents {
    const { log } = this.#io;
    return {
      up: (link, ms) => {
        if (!this.#isReady) return log.debug(`connected to ${link.name}`, { ms: Math.round(ms) });
        log.info(`connected to ${link.name} again`, { ms: Math.round(ms) });
        this.#io.event("reconnected", { server: link.name, urls: urlsOf([link]) });
      },
      lost: (link, error) => {
        if (this.#draining) return;
        const why = error?.message ?? "the server closed it";
        log.warn(`${link.name} was lost; connecting again`, { why });
        this.#io.event("disconnected", { server: link.name, code: error?.code, message: why });
      },
      failed: (link, error, againMs) => {
        log.warn(`cannot connect to ${link.name}: ${error.message}`, {
          again: `${againMs / 1000}s`,
          hint: error.hints[0],
        });
        this.#io.event("connect-failed", { server: link.name, code: error.code, message: error.message, againMs });
      },
      request: (event) => this.#logRequest(event),
    };
  }

  #logRequest({ event, method, target, status, ...fields }: RequestEvent): void {
    this.#io.log.info(`${method} ${target.replace(/\?.*$/s, "")} ${status}`, fields);
    this.#io.event(event, { method, target: target.replace(/\?.*$/s, ""), status, ...fields });
  }

  #printStatus(): void {
    const servers = this.#links.map((link) => `${link.name}${link.isUp ? "" : " (down)"}`).join(" ");
    this.#io.log.info("status", { connections: this.#live.size, servers });
  }

  // --- ready -----------------------------------------------------------------------

  async #becomeReady(scope: Scope): Promise<"ready"> {
    this.#watchHealth(scope);
    const { values } = this.#invocation;
    if (values["wait-upstream"]) await this.#waitForServices();
    for (const link of this.#links) {
      const { warnings } = await link.registered;
      for (const warning of warnings) this.#io.log.warn(warning);
    }
    await Promise.all(this.#links.map((link) => link.probe((place, error) => this.#probeFailed(link, place, error))));
    this.#isReady = true;
    await this.#announce(scope);
    return "ready";
  }

  #probeFailed(link: AgentLink, { name }: ExposedAt, error: SeikanError): void {
    if (this.#invocation.values["fail-fast"]) throw error;
    this.#io.log.warn(`${name} does not come back through ${link.name} yet: ${error.message}`, {
      hint: error.hints[0],
    });
  }

  async #waitForServices(): Promise<void> {
    const waiting = this.#exposures
      // What is started by its first visitor is not waited for.
      .filter(({ spec, service }) => spec.kind !== "udp" && service === undefined)
      .map(async (exposure) => {
        const { spec } = exposure;
        let isTold = false;
        const failing = (error: SeikanError) => {
          if (!isTold) this.#io.log.info(`waiting for ${formatUpstream(exposure)}`, { why: error.message });
          isTold = true;
        };
        const target = { kind: "unix", path: "" } as const;
        await untilReachable(() => this.#dialers.get(spec.name)!(target, { deadline: deadlineIn(2000) }), failing);
      });
    await Promise.all(waiting);
  }

  #watchHealth(scope: Scope): void {
    const stop = new AbortController();
    scope.own(() => stop.abort());
    for (const exposure of this.#exposures) {
      if (exposure.health === undefined) continue;
      const changed = (isHealthy: boolean, why: string) => {
        const { name } = exposure.spec;
        this.#io.log[isHealthy ? "info" : "warn"](`${name} is ${isHealthy ? "well" : "not well"}`, { why });
        this.#io.event("health", { exposure: name, healthy: isHealthy, why });
        for (const link of this.#links) void link.setHealth(name, isHealthy);
      };
      void watchHealth(this.#dialers.get(exposure.spec.name)!, exposure.health, changed, stop.signal);
    }
  }

  async #announce(scope: Scope): Promise<void> {
    const { values, tail } = this.#invocation;
    const urls = urlsOf(this.#links);
    for (const link of this.#links) {
      for (const { name, url, address } of link.places) {
        const local = this.#exposures.find(({ spec }) => spec.name === name);
        const to = local === undefined ? "" : ` → ${formatUpstream(local)}`;
        this.#io.log.info(`${url ?? address}${to}`);
      }
      if (link.agentName !== this.#agent.name)
        this.#io.log.info(`this agent is ${link.agentName} at ${link.name}: ${this.#agent.name} is another one`);
      if (values["allow-net"] !== undefined)
        this.#io.log.info(`an exit for the users of ${link.name}, as ${link.agentName}`);
    }
    if (values.qr && urls[0] !== undefined) {
      const { renderUnicodeCompact } = await import("uqr");
      this.#io.show(renderUnicodeCompact(urls[0]));
    }
    // A command sees it in its environment; whoever waits elsewhere is told the same way.
    announce([], urls, values, this.#io, scope);
    if (tail === undefined) this.#io.log.debug("ready");
  }

  async #runCommand(tail: readonly string[], scope: Scope): Promise<number> {
    const { timeout } = this.#invocation.values;
    const places = this.#links.flatMap((link) => link.places);
    const first = places[0];
    const words = tail.map((word) => word.replaceAll("{url}", first?.url ?? first?.address ?? "{url}"));
    const child = runWrapped(words, { ...this.#io.childEnv, ...variablesOf(places) });
    const expired = expire(timeout).catch((error: SeikanError) => error);
    const ended = await Promise.race([child.exited, expired]);
    if (typeof ended === "number") return ended;
    child.kill("SIGTERM");
    scope.own(() => Promise.race([child.exited, sleep(2000)]));
    throw ended;
  }

  // --- the end -----------------------------------------------------------------------

  async #drain(): Promise<number> {
    this.#draining = true;
    const startedAt = now();
    for (const link of this.#links) link.goAway();
    if (this.#live.size > 0) this.#io.log.info(`draining ${this.#live.size} connections; a second signal ends them`);
    const timeout = this.#invocation.values["drain-timeout"];
    const drained = Promise.all([this.#live.drain(timeout), ...this.#links.map((link) => link.ended())]);
    await Promise.all([Promise.race([drained, sleep(timeout)]), this.#services.drain(timeout)]);
    this.#io.log.debug("drained", { ms: Math.round(now() - startedAt) });
    return 0;
  }
}

function tokenIn({ token, "token-file": file }: AgentInvocation["values"]): string | undefined {
  return token ?? (file === undefined ? undefined : readOptionFile(file, "token-file").trim());
}

function endings(lifetime: Lifetime | undefined): Promise<number | NodeJS.Signals>[] {
  return lifetime === undefined ? [] : [lifetime.stopping, lifetime.ended];
}

/** `--timeout` of a run that a command ends: rejects when it has passed. */
function expire(timeoutMs: number | undefined): Promise<never> {
  if (timeoutMs === undefined || timeoutMs === 0) return new Promise(() => {});
  return sleep(timeoutMs).then(() => {
    throw new SeikanError("run-timeout", `--timeout: not done after ${timeoutMs / 1000} s`);
  });
}

/** The token is the agent's credential; one in the URL counts as well. */
function withToken(hop: Hop, token: string | undefined): Hop {
  const given = hop.secret?.kind === "password" ? hop.secret.password || hop.secret.user : undefined;
  const shown = token ?? given;
  if (shown === undefined) return hop;
  return { ...hop, secret: { kind: "value", value: `Bearer ${shown}` } };
}

function urlsOf(links: readonly AgentLink[]): string[] {
  return links.flatMap(({ places }) => places.flatMap(({ url }) => url ?? []));
}

function variablesOf(places: readonly ExposedAt[]): Record<string, string> {
  const variables: Record<string, string> = {};
  const first = places[0];
  if (first !== undefined) variables.SEIKAN_URL = first.url ?? first.address;
  for (const { name, url, address } of places) {
    const suffix = name.toUpperCase().replace(/[^A-Z0-9]/g, "_");
    variables[`SEIKAN_ADDR_${suffix}`] = address;
    if (url !== undefined) variables[`SEIKAN_URL_${suffix}`] = url;
  }
  return variables;
}
