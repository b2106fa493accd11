import { canonicalHost, isLoopbackHost, isPrivateName, parseIp, privateLabel, tcpTarget } from "../core/address.ts";
import { now } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import type { DialOptions, Dialer, Listener, Peer } from "../transports/transport.ts";
import type { ExposureSpec, Registered, Registration } from "../wire/registration.ts";
import { ConnectedAgent, type AgentLine } from "./agent.ts";
import { notGranted, type AgentRights } from "./agent-tokens.ts";
import type { Client } from "./context.ts";
import { away, Exposure, Member } from "./exposure.ts";
import {
  describe,
  hostName,
  nameIn,
  namesFor,
  placeOf,
  warningsFor,
  type PublicOrigin,
  type Visible,
} from "./exposure-places.ts";
import type { Way } from "./route-table.ts";
import { noSuchSite, type Site, type Sites } from "./sites.ts";

/** How long visitors are told that a site may come back. */
const AWAY_MS = 10 * 60_000;
/** Hosts remembered for that. */
const AWAY_HOSTS = 10_000;
/** Nobody has it (RFC 6761): who may have it may have any host. */
const ANY_HOST = "any.invalid";
/** Free ports are looked for this often. */
const PORT_TRIES = 50;

export interface RegistrySettings {
  /** Sites are named below it; without one below `localhost`. */
  readonly domain: string | undefined;
  /** How visitors reach this server, where that differs from how agents do. */
  readonly publicOrigin: PublicOrigin | undefined;
  /** Ports that agents may have, best first for port 0. */
  readonly bindable: BindablePorts;
  /** It can be reached from outside. */
  readonly servesOutside: boolean;
  /** A service of the server has this host, or would have. */
  readonly isReserved: (host: string) => boolean;
  /** Gets each visitor of a port and owns its stream. */
  readonly visit: (exposure: Exposure, stream: ByteStream, peer: Peer) => void;
}

/** Opens ports for agents. */
export interface BindablePorts {
  allows(port: number): boolean;
  /** Some of the allowed ports that fit, in random order. */
  candidates(count: number, fits: (port: number) => boolean): number[];
  open(protocol: "tcp" | "udp", port: number, accept: (stream: ByteStream, peer: Peer) => void): Promise<Listener>;
}

/** Which agents are connected, and what they offer. */
export class AgentRegistry implements Sites {
  readonly #settings: RegistrySettings;
  readonly #agents = new Map<string, ConnectedAgent>();
  readonly #exposures = new Map<string, Exposure>();
  /** Those with a port. */
  readonly #bound = new Set<Exposure>();
  /** Sites whose agents left, and when. */
  readonly #left = new Map<string, number>();
  /** Registrations happen one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(settings: RegistrySettings) {
    this.#settings = settings;
  }

  get agents(): Iterable<ConnectedAgent> {
    return this.#agents.values();
  }

  /** Where agents' ports are: as little to be dialled through us as our own listeners. */
  get boundAddresses(): Iterable<string> {
    return this.#bound.values().flatMap(({ listener }) => listener?.addresses ?? []);
  }

  get exposures(): Iterable<Exposure> {
    return this.#exposures.values();
  }

  // --- visitors ---------------------------------------------------------------

  find(host: string): Site | undefined {
    if (this.#isOwn(host)) return undefined;
    const site = this.#byHost(host);
    if (site !== undefined) return site;
    if (this.#wasHere(host)) throw away();
    const { domain } = this.#settings;
    if (domain === undefined || !host.endsWith(`.${domain}`)) return undefined;
    throw noSuchSite(host);
  }

  #wasHere(host: string): boolean {
    for (const name of namesFor(host)) {
      const left = this.#left.get(name);
      if (left !== undefined && now() - left < AWAY_MS) return true;
    }
    return false;
  }

  /** The exposure that takes the TLS connections for this server name as they are. */
  passthrough(serverName: string): Exposure | undefined {
    const host = canonicalHost(serverName);
    if (host === undefined || this.#isOwn(host)) return undefined;
    // The more specific name counts, of whatever kind: nobody's wildcard takes somebody's site.
    for (const name of namesFor(host)) {
      if (this.#exposures.has(`http:${name}`)) return undefined;
      const found = this.#exposures.get(`tls:${name}`);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  get hasPassthrough(): boolean {
    for (const { spec } of this.#exposures.values()) if (spec.kind === "tls") return true;
    return false;
  }

  /** The exact host, or the longest wildcard above it. */
  #byHost(host: string): Exposure | undefined {
    for (const name of namesFor(host)) {
      const found = this.#exposures.get(`http:${name}`);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /**
   * Paths of our own are for addresses, `localhost` and the domain itself.
   * Without a domain nobody knows by what name those outside reach us; those
   * inside need no other, so that a name somebody made point here gains nothing.
   */
  isApex(host: string, exposed: boolean): boolean {
    if (this.#isOwn(host)) return true;
    return this.#settings.domain === undefined && exposed && !isLoopbackHost(host);
  }

  unknown(host: string): SeikanError {
    return noSuchSite(host);
  }

  // --- the dialling side --------------------------------------------------------

  /** The way to a private exposure (`db.agent.internal`); undefined for any other name. Throws for one that is not there. */
  privateWay(host: string, port: number): Way | undefined {
    if (!isPrivateName(host)) return undefined;
    const label = privateLabel(host) ?? "";
    const exposure = this.#exposures.get(`private:${label}`);
    if (exposure === undefined)
      throw new SeikanError("no-such-site", `no agent has an exposure ${host}`, {
        hints: ["seikan agent SERVER --expose NAME=tcp://HOST:PORT makes one"],
      });
    const way = exposure.wayFor({ address: "", port: 0 });
    const dial = (_: unknown, options: DialOptions) =>
      exposure.wayFor(options.source ?? { address: "", port: 0 }).dial(tcpTarget(host, port), options);
    return { ...way, dial, resolvesHere: false };
  }

  /** Dials at this agent's end: as an exit. */
  exitDialer(name: string): Dialer {
    return async (target, options) => {
      const agent = this.#exit(name);
      return agent.dial(target, options);
    };
  }

  #exit(name: string): ConnectedAgent {
    const named = [...this.#agents.values()].filter((agent) => agent.name === name && agent.takesStreams);
    const agent = named.find(({ rights }) => rights.isExit) ?? named[0];
    if (agent === undefined) throw new SeikanError("site-away", `no agent named ${name} is connected`);
    if (!agent.rights.isExit) throw notGranted(agent.rights, "to dial for others");
    return agent;
  }

  // --- agents ------------------------------------------------------------------

  /** Takes a connection of an agent with what it offers. Throws to refuse; then nothing has changed. */
  async register(asked: Registration, line: AgentLine, rights: AgentRights, client: Client): Promise<Registered> {
    const wanted = asked.exposures.map((spec) => ({ spec: withPort(spec), id: this.#idOf(spec) }));
    checkDistinct(wanted);
    this.#checkRights(asked.agent, wanted, rights);
    await this.#evictGhosts(asked, wanted, rights);
    const turn = this.#turn.then(() => this.#admit(asked, wanted, line, rights, client));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** Tokens have changed: who has not the right any more to what it has is disconnected. */
  recheck(current: (rights: AgentRights) => AgentRights | undefined): void {
    for (const agent of this.#agents.values()) {
      const rights = current(agent.rights);
      if (rights !== undefined && this.#permits(rights, agent)) agent.rights = rights;
      else agent.abort(new SeikanError("not-granted", "its token does not permit it any more"));
    }
  }

  #permits(rights: AgentRights, agent: ConnectedAgent): boolean {
    const wanted = [...this.#exposures.values()].flatMap(({ id, members }) =>
      members.filter((member) => member.agent === agent).map(({ spec }) => ({ id, spec })),
    );
    try {
      this.#checkRights(agent.name, wanted, rights);
      return true;
    } catch {
      return false;
    }
  }

  setHealth(key: string, name: string, isHealthy: boolean): void {
    for (const member of this.#membersOf(key)) if (member.spec.name === name) member.isHealthy = isHealthy;
  }

  /** Comes back to the agent that asks, through one of its exposures. */
  async probe(key: string, name: string, nonce: string, deadline: number): Promise<void> {
    const member = this.#membersOf(key).find(({ spec }) => spec.name === name);
    if (member === undefined) throw new SeikanError("no-such-site", `there is no exposure ${name}`);
    await member.probe(nonce, deadline);
  }

  #membersOf(key: string): Member[] {
    return [...this.#exposures.values()].flatMap(({ members }) => members.filter(({ agent }) => agent.key === key));
  }

  #idOf({ kind, name, host, port }: ExposureSpec): string {
    switch (kind) {
      case "http":
        return `http:${host === undefined ? this.#siteName(name) : hostName(host)}`;
      case "tls":
        return `tls:${hostName(host ?? "")}`;
      case "tcp":
      case "udp":
        return `${kind}:${port ?? 0}`;
      case "private":
        return `private:${name}`;
    }
  }

  #siteName(label: string): string {
    return `${label}.${this.#settings.domain ?? "localhost"}`;
  }

  #checkRights(agent: string, wanted: readonly Wanted[], rights: AgentRights): void {
    if (!rights.agent(agent)) throw notGranted(rights, `the agent name ${agent}`);
    for (const { spec, id } of wanted) {
      if (spec.kind === "tcp" || spec.kind === "udp") {
        this.#checkPort(spec.port ?? 0, rights);
        continue;
      }
      const hasHost = spec.host !== undefined && spec.kind !== "private";
      const name = hasHost ? nameIn(id) : spec.name;
      if (!rights.host(name)) throw notGranted(rights, `the name ${name}`);
      if (spec.kind === "private") continue;
      if (this.#isOwn(nameIn(id)) || this.#coversOwn(nameIn(id)))
        throw new SeikanError("name-taken", `${nameIn(id)} is this server itself`);
      if (this.#settings.isReserved(nameIn(id)))
        throw new SeikanError("name-taken", `${nameIn(id)} is a service of the server`);
      // Whoever listed hosts for a token knows which is the server's own.
      const hasAny = rights.host(ANY_HOST);
      if (hasHost && hasAny && this.#settings.domain === undefined && this.#settings.servesOutside)
        throw new SeikanError("not-granted", `this server has no --domain, so nobody may have the name ${name}`, {
          hints: ["it might be the server's own: start it with --domain"],
        });
    }
  }

  /** Names that are the server itself, whatever anybody registers. */
  #isOwn(host: string): boolean {
    return host === "localhost" || host === this.#settings.domain || parseIp(host) !== undefined;
  }

  /** A wildcard above the server's own name. */
  #coversOwn(name: string): boolean {
    const { domain } = this.#settings;
    return name.startsWith("*.") && domain !== undefined && domain.endsWith(name.slice(1));
  }

  #checkPort(port: number, rights: AgentRights): void {
    const { bindable } = this.#settings;
    const isAny = port === 0;
    if (isAny ? bindable.candidates(1, () => true).length === 0 : !bindable.allows(port)) {
      throw new SeikanError("not-granted", `this server opens no port ${isAny ? "" : `${port} `}for agents`, {
        hints: ["its --allow-bind says which"],
      });
    }
    if (!isAny && !rights.port(port)) throw notGranted(rights, `port ${port}`);
  }

  /** Whoever stands in the way and gives no sign of life is gone. */
  async #evictGhosts(asked: Registration, wanted: readonly Wanted[], rights: AgentRights): Promise<void> {
    const rivals = new Set(this.#rivals(asked, wanted, rights).map(({ agent }) => agent));
    await Promise.all(
      [...rivals].map(async (agent) => {
        if (await agent.isAlive()) return;
        agent.abort(new SeikanError("peer-silent", "it gave no sign of life when another agent wanted its place"));
        this.#remove(agent);
      }),
    );
  }

  /** Who has what another agent wants, and does not share it. */
  #rivals(asked: Registration, wanted: readonly Wanted[], rights: AgentRights): Rival[] {
    const shares = (agent: ConnectedAgent) => rights.mayShare && agent.rights.mayShare;
    const named = [...this.#agents.values()]
      .filter((agent) => agent.name === asked.agent && agent.key !== asked.key && !shares(agent))
      .map((agent) => ({ agent, what: `an agent named ${agent.name}`, isName: true }));
    const holding = wanted
      .flatMap((one) => this.#withTwin(one))
      .flatMap(({ id, spec }) => {
        const exposure = spec.port === 0 ? undefined : this.#exposures.get(id);
        const others = exposure?.members.filter(({ agent }) => agent.key !== asked.key) ?? [];
        const differs = exposure !== undefined && Exposure.terms(exposure.spec) !== Exposure.terms(spec);
        return others
          .filter(({ agent }) => differs || !shares(agent))
          .map(({ agent }) => ({
            agent,
            what: `${describe(id)}${differs && shares(agent) ? " with other options" : ""}`,
            isName: false,
          }));
      });
    return [...named, ...holding];
  }

  /** A host is one place, whether its TLS ends here or at the agent. */
  #withTwin({ id, spec }: Wanted): Wanted[] {
    const name = nameIn(id);
    if (spec.kind === "http")
      return [
        { id, spec },
        { id: `tls:${name}`, spec },
      ];
    return spec.kind === "tls"
      ? [
          { id, spec },
          { id: `http:${name}`, spec },
        ]
      : [{ id, spec }];
  }

  async #admit(
    asked: Registration,
    wanted: readonly Wanted[],
    line: AgentLine,
    rights: AgentRights,
    client: Client,
  ): Promise<Registered> {
    const rival = this.#rivals(asked, wanted, rights)[0];
    if (rival !== undefined) throw taken(rival);
    const known = this.#agents.get(asked.key);
    const agent = known ?? new ConnectedAgent(asked.agent, asked.key, rights, client);
    const exposures = await this.#open(wanted, agent, rights);
    this.#agents.set(agent.key, agent);
    agent.addLine(line);
    this.#join(agent, exposures);
    return {
      exposures: exposures.map(({ exposure, spec }) => placeOf(exposure.id, spec, this.#visible(asked.server, client))),
      warnings: warningsFor(asked, this.#settings.domain),
    };
  }

  #visible(server: string, client: Client): Visible {
    const { domain, publicOrigin } = this.#settings;
    return { domain, publicOrigin, server, isSecure: client.isSecure };
  }

  /** Finds or makes each exposure, its port included; on a failure it closes what it opened. */
  async #open(wanted: readonly Wanted[], agent: ConnectedAgent, rights: AgentRights): Promise<Opened[]> {
    const opened: Opened[] = [];
    try {
      for (const { id, spec } of wanted) {
        const isSame = (other: ExposureSpec) => other.kind === spec.kind && other.name === spec.name && spec.port === 0;
        const same = this.#membersOf(agent.key).find((member) => isSame(member.spec));
        const exposure = same === undefined ? this.#exposures.get(id) : this.#exposureOf(same);
        if (exposure !== undefined) opened.push({ exposure, spec: { ...spec, ...portOf(exposure.spec) } });
        else opened.push(await this.#openNew(id, spec, rights));
      }
      return opened;
    } catch (thrown) {
      for (const { exposure } of opened) if (exposure.members.length === 0) exposure.listener?.close();
      throw thrown;
    }
  }

  #exposureOf(member: Member): Exposure {
    return [...this.#exposures.values()].find(({ members }) => members.includes(member))!;
  }

  async #openNew(id: string, spec: ExposureSpec, rights: AgentRights): Promise<Opened> {
    if (spec.kind !== "tcp" && spec.kind !== "udp") return { exposure: new Exposure(id, spec), spec };
    const { bindable, visit } = this.#settings;
    const ports = spec.port ? [spec.port] : bindable.candidates(PORT_TRIES, (port) => rights.port(port));
    let failure: unknown = notGranted(rights, "any port this server opens");
    for (const port of ports) {
      const bound = { ...spec, port };
      const exposure = new Exposure(`${spec.kind}:${port}`, bound);
      if (this.#exposures.has(exposure.id)) continue;
      try {
        const accept = (stream: ByteStream, peer: Peer) => visit(exposure, stream, peer);
        exposure.listener = await bindable.open(spec.kind, port, accept);
        return { exposure, spec: bound };
      } catch (thrown) {
        failure = thrown;
      }
    }
    if (failure instanceof SeikanError && failure.code === "listen-failed")
      throw new SeikanError("name-taken", `${describe(id)} is taken at the server: ${failure.message}`);
    throw failure;
  }

  /** From now on the agent has these exposures and no others. */
  #join(agent: ConnectedAgent, opened: readonly Opened[]): void {
    const kept = new Set(opened.map(({ exposure }) => exposure));
    for (const exposure of this.#exposures.values()) if (!kept.has(exposure)) this.#leave(exposure, agent);
    for (const { exposure, spec } of opened) {
      this.#exposures.set(exposure.id, exposure);
      if (exposure.listener !== undefined) this.#bound.add(exposure);
      if (exposure.id.startsWith("http:")) this.#left.delete(exposure.id.slice(5));
      const member = exposure.members.find((one) => one.agent === agent);
      if (member === undefined) exposure.members.push(new Member(agent, spec));
      else member.update(spec);
      if (exposure.members.length === 1) exposure.update(spec);
    }
  }

  /** The server takes no more visitors; the ports are free for whoever comes after it. */
  stopListening(): void {
    for (const { listener } of this.#exposures.values()) listener?.close();
  }

  /** The agent takes no more streams: what only waits there is not waited for. */
  retire(key: string): void {
    this.#agents.get(key)?.retire();
  }

  /** A connection is over; with the last one the agent is gone. */
  lineClosed(key: string, line: AgentLine): void {
    const agent = this.#agents.get(key);
    if (agent?.removeLine(line)) this.#remove(agent);
  }

  #remove(agent: ConnectedAgent): void {
    if (this.#agents.get(agent.key) !== agent) return;
    this.#agents.delete(agent.key);
    for (const exposure of this.#exposures.values()) this.#leave(exposure, agent);
  }

  #leave(exposure: Exposure, agent: ConnectedAgent): void {
    const at = exposure.members.findIndex((member) => member.agent === agent);
    if (at < 0) return;
    exposure.members.splice(at, 1);
    if (exposure.members.length > 0) return;
    exposure.listener?.close();
    this.#bound.delete(exposure);
    this.#exposures.delete(exposure.id);
    if (!exposure.id.startsWith("http:")) return;
    if (this.#left.size >= AWAY_HOSTS) this.#left.clear();
    this.#left.set(exposure.id.slice(5), now());
  }
}

interface Wanted {
  readonly id: string;
  readonly spec: ExposureSpec;
}

interface Rival {
  readonly agent: ConnectedAgent;
  readonly what: string;
  /** It has the agent's name, not one of its exposures. */
  readonly isName: boolean;
}

interface Opened {
  readonly exposure: Exposure;
  readonly spec: ExposureSpec;
}

function withPort(spec: ExposureSpec): ExposureSpec {
  return spec.kind === "tcp" || spec.kind === "udp" ? { ...spec, port: spec.port ?? 0 } : spec;
}

function portOf({ port }: ExposureSpec): { port?: number } {
  return port === undefined ? {} : { port };
}

/** Two exposures of one agent have neither a name nor a place in common. */
function checkDistinct(wanted: readonly Wanted[]): void {
  const names = new Set<string>();
  const places = new Set<string>();
  for (const { id, spec } of wanted) {
    if (names.has(spec.name)) throw new SeikanError("bad-request", `two exposures are named ${spec.name}`);
    if (spec.port !== 0 && places.has(id)) throw new SeikanError("bad-request", `two exposures want ${describe(id)}`);
    names.add(spec.name);
    places.add(id);
  }
}

function taken({ what, isName }: Rival): SeikanError {
  return new SeikanError("name-taken", isName ? `${what} is connected already` : `${what} belongs to another agent`, {
    hints: isName
      ? ["choose another with --name, or give both a token with the right to share"]
      : ["choose another name, or give both agents a token with the right to share and the same options"],
  });
}
