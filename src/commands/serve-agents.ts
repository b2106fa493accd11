import { canonicalHost, isLoopbackHost, parseListen, type ListenAddress } from "../core/address.ts";
import { usageError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { AgentEndpoint } from "../routes/agent-endpoint.ts";
import { AgentRegistry, type BindablePorts } from "../routes/agent-registry.ts";
import { AgentTokens, parsePortRange, type PortRange, type TokenSources } from "../routes/agent-tokens.ts";
import type { Endpoint, Gateway } from "../routes/context.ts";
import type { Exposure } from "../routes/exposure.ts";
import { Throttle } from "../routes/throttle.ts";
import { WspGateway, WspRegister, WspStatus } from "../routes/wsp.ts";
import { WspPools } from "../routes/wsp-pools.ts";
import { listen } from "../transports/tcp.ts";
import type { Listener, Peer } from "../transports/transport.ts";
import { heartbeatEvery, type Heartbeat } from "../transports/pulse.ts";
import { readOptionFile } from "./reach.ts";
import type { ServeValues } from "./serve-options.ts";
import { readWspServer, wspRules } from "./wsp-config.ts";

/** Below what name sites are, and how visitors see this server. */
export interface Domain {
  readonly host: string;
  /** Given where it differs from how agents reach this server: a proxy stands in front. */
  readonly origin: { readonly scheme: "http" | "https"; readonly port: number | undefined } | undefined;
}

/** `tunnel.example.com`, or `https://tunnel.example.com[:PORT]` as visitors write it. */
export function parseDomain(text: string): Domain {
  const match = /^(?:(https?):\/\/)?([^:/]+)(?::(\d+))?\/?$/i.exec(text);
  const host = match === null ? undefined : canonicalHost(match[2]!);
  if (host === undefined || !/^[a-z0-9.-]+$/.test(host) || (match![3] !== undefined && match![1] === undefined))
    throw usageError(`expected a domain such as tunnel.example.com or https://tunnel.example.com, got "${text}"`);
  const scheme = match![1]?.toLowerCase() as "http" | "https" | undefined;
  const port = match![3] === undefined ? undefined : Number(match![3]);
  return { host, origin: scheme === undefined ? undefined : { scheme, port } };
}

/** Ports for agents: `20000-20100`, `ADDR:5432`. */
export interface BindRange extends PortRange {
  /** Undefined: the address of the first listener. */
  readonly host: string | undefined;
}

export function parseBindRanges(text: string): BindRange[] {
  return text.split(",").map((part) => {
    const match = /^(?:(.+):)?([\d-]+)$/.exec(part.trim());
    if (match === null) throw usageError(`expected PORT, PORT-PORT or ADDR:PORT, got "${part}"`);
    const listened = match[1] === undefined ? undefined : parseListen(`${match[1]}:0`);
    return { ...parsePortRange(match[2]!), host: listened?.kind === "tcp" ? listened.host : undefined };
  });
}

/** Everything `serve` does about agents. */
export class ServeAgents {
  readonly registry: AgentRegistry;
  readonly endpoints: readonly Endpoint[];
  readonly gateways: readonly Gateway[];
  readonly #pools: WspPools | undefined;
  /** The endpoints look here. */
  readonly #access: { tokens: AgentTokens | undefined; readonly throttle: Throttle; readonly heartbeat: Heartbeat };

  constructor(
    values: ServeValues,
    firstListener: ListenAddress,
    visit: (exposure: Exposure, stream: ByteStream, peer: Peer) => void,
    isReserved: (host: string) => boolean,
  ) {
    this.registry = new AgentRegistry({
      domain: values.domain?.host,
      publicOrigin: values.domain?.origin,
      servesOutside: servesOutside(values) || !isInside(firstListener),
      bindable: new AllowedPorts(values["allow-bind"].flat(), firstListener),
      visit,
      isReserved,
    });
    const tokens = asksTokens(values) ? new AgentTokens(tokenSources(values)) : undefined;
    const heartbeat = heartbeatEvery(values["ping-interval"]);
    const access = (this.#access = { tokens, throttle: new Throttle(), heartbeat });
    this.#pools = speaksWsp(values) ? wspPools(values, (digest) => mayDial(access.tokens, digest)) : undefined;
    const pools = this.#pools;
    const wsp = pools === undefined ? [] : [new WspRegister(pools, access), new WspStatus()];
    this.endpoints = [new AgentEndpoint(this.registry, access), ...wsp];
    this.gateways = pools === undefined ? [] : [new WspGateway(pools)];
  }

  /** Takes the tokens anew; on an error the old ones stay. */
  reload(values: ServeValues): void {
    const access = this.#access;
    if (access.tokens !== undefined) access.tokens.replace(tokenSources(values));
    // Once there is one, everybody has to show one.
    else if (asksTokens(values)) access.tokens = new AgentTokens(tokenSources(values));
    const { tokens } = access;
    if (tokens === undefined) return;
    this.registry.recheck(({ digest }) => (digest === undefined ? undefined : tokens.current(digest)));
    this.#pools?.recheck();
  }
}

/** A wsp client dials for others; where tokens are asked for it needs one that permits that. */
function mayDial(tokens: AgentTokens | undefined, digest: Uint8Array | undefined): boolean {
  if (tokens === undefined) return true;
  return digest !== undefined && tokens.current(digest)?.isExit === true;
}

function isInside(address: ListenAddress): boolean {
  return address.kind === "unix" || (address.kind === "tcp" && isLoopbackHost(address.host));
}

/** The server is meant to be reached from outside (docs: "Who may do what"). */
export function servesOutside(values: ServeValues): boolean {
  return values.domain !== undefined || asksTokens(values);
}

/** Agents must show a token. */
function asksTokens(values: ServeValues): boolean {
  return plainTokens(values).length > 0 || values.tokens !== undefined || values.token.length > 0;
}

function tokenSources(values: ServeValues): TokenSources {
  const { tokens: path } = values;
  const file = path === undefined ? "" : readOptionFile(path, "tokens");
  return { plain: plainTokens(values), listed: values.token, file };
}

/** Tokens that permit everything: ours, and the secret key of wsp's configuration. */
function plainTokens(values: ServeValues): string[] {
  const key = speaksWsp(values) ? readWspServer(values["wsp-config"]).secretkey : "";
  return [...values["agent-token"], ...(key === "" ? [] : [key])];
}

function speaksWsp(values: ServeValues): boolean {
  return values.wsp || values["wsp-config"] !== undefined;
}

/** Where wsp's configuration listens, unless the command line says otherwise. */
export function wspListen(values: ServeValues): string[] {
  const file = values["wsp-config"];
  if (file === undefined) return [];
  const { host, port } = readWspServer(file);
  return [`${host.includes(":") ? `[${host}]` : host}:${port}`];
}

function wspPools(values: ServeValues, isGood: (digest: Uint8Array | undefined) => boolean): WspPools {
  const config = readWspServer(values["wsp-config"]);
  const limits = { timeoutMs: config.timeout, idleTimeoutMs: config.idletimeout, forbids: wspRules(config) };
  return new WspPools(limits, isGood);
}

class AllowedPorts implements BindablePorts {
  readonly #ranges: readonly BindRange[];
  readonly #host: string;

  constructor(ranges: readonly BindRange[], first: ListenAddress) {
    this.#ranges = ranges;
    this.#host = first.kind === "tcp" ? first.host : "localhost";
  }

  allows(port: number): boolean {
    return this.#rangeOf(port) !== undefined;
  }

  candidates(count: number, fits: (port: number) => boolean): number[] {
    const sizes = this.#ranges.map(({ first, last }) => last - first + 1);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    const chosen = new Set<number>();
    // From a random place on, so that few of many that fit are found, too.
    const start = Math.floor(Math.random() * total);
    for (let i = 0; i < total && chosen.size < count; i++) {
      const port = this.#at((start + i) % total);
      if (fits(port)) chosen.add(port);
    }
    return [...chosen];
  }

  #at(index: number): number {
    let left = index;
    for (const { first, last } of this.#ranges) {
      if (left <= last - first) return first + left;
      left -= last - first + 1;
    }
    return this.#ranges[0]!.first;
  }

  #rangeOf(port: number): BindRange | undefined {
    return this.#ranges.find(({ first, last }) => port >= first && port <= last);
  }

  async open(
    protocol: "tcp" | "udp",
    port: number,
    accept: (stream: ByteStream, peer: Peer) => void,
  ): Promise<Listener> {
    const address = { kind: "tcp", host: this.#rangeOf(port)?.host ?? this.#host, port } as const;
    if (protocol === "tcp") return listen(address, accept);
    const { listenUdp } = await import("../transports/udp.ts");
    return listenUdp(address, accept);
  }
}
