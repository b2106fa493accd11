import { canonicalHost, formatHostPort, formatTarget, parsePort, tcpTarget, type TcpTarget } from "../core/address.ts";
import { SeikanError, usageError } from "../core/errors.ts";
import type { Fields } from "../wire/fields.ts";
import { httpConnectDialer } from "./http-connect.ts";
import type { HttpHop } from "./hop-request.ts";
import { ProxyCredentials, type ProxySecret } from "./proxy-credentials.ts";
import { socksDialer } from "./socks.ts";
import { resolveTarget, type TcpOptions } from "./tcp.ts";
import { tlsClient, type TlsClientOptions } from "./tls.ts";
import { dialSession, Tunnel, type TunnelEvent } from "./tunnel.ts";
import { openWebSocket, type WebSocketHop } from "./websocket-hop.ts";
import type { Heartbeat } from "./pulse.ts";
import type { Dialer, DialOptions } from "./transport.ts";

/** One hop of a chain, as a person wrote it. */
export interface Hop {
  readonly scheme: HopScheme;
  readonly proxy: TcpTarget;
  /** Path and query of a WebSocket endpoint; empty for any other hop. */
  readonly path: string;
  readonly secret: ProxySecret | undefined;
}

const DEFAULT_PORTS = {
  http: 80,
  https: 443,
  socks5: 1080,
  socks5h: 1080,
  socks4a: 1080,
  ws: 80,
  wss: 443,
  "ws+raw": 80,
  "wss+raw": 443,
} as const;

const PROXY_CACERT = "--proxy-cacert" as const;

/** Where `serve` offers its tunnel unless told otherwise. */
export const TUNNEL_PATH = "/-/tunnel";

/** `agent` is a connected agent, by its name: only a server knows them. */
export type HopScheme = keyof typeof DEFAULT_PORTS | "agent";

/** What all hops of a chain share. */
export interface HopSettings {
  readonly tcp: TcpOptions;
  /** Added to each request to an HTTP proxy. */
  readonly fields: Fields;
  /** For TLS to proxies; the peer and its name come from the hop. */
  readonly tls: Omit<TlsClientOptions, "peer" | "serverName">;
  readonly tunnel: TunnelSettings;
  /** Dials through the agent of this name; undefined: there are none here. */
  readonly agents?: ((name: string) => Dialer) | undefined;
}

export interface TunnelSettings {
  /** Connections per tunnel. */
  readonly connections: number;
  /** For one attempt to connect. */
  readonly connectMs: number;
  readonly heartbeat: Heartbeat;
  readonly report: (tunnel: string, event: TunnelEvent) => void;
}

/** A way through hops, made once and used for many targets. */
export interface Chain {
  readonly dial: Dialer;
  /** The last hop, when it is an HTTP proxy: absolute-form requests are its to forward. */
  readonly httpProxy: HttpHop | undefined;
  /** The tunnels among the hops, first one first. */
  readonly tunnels: readonly Tunnel[];
  /** Goes as far as the last hop, without a target. */
  readonly probe: (options: DialOptions) => Promise<void>;
}

/**
 * Folds hops around `reach`: the first hop is dialled by it, the target by the
 * last hop. Chains that begin alike share what they have in common, tunnels
 * and what a proxy taught us included.
 */
export class Chains {
  readonly #settings: HopSettings;
  readonly #none: Chain;
  readonly #known = new Map<string, Chain>();

  constructor(reach: Dialer, settings: HopSettings) {
    this.#settings = settings;
    this.#none = { dial: reach, httpProxy: undefined, tunnels: [], probe: () => Promise.resolve() };
  }

  of(hops: readonly Hop[]): Chain {
    const last = hops.at(-1);
    if (last === undefined) return this.#none;
    const key = JSON.stringify(hops);
    const known = this.#known.get(key) ?? hopChain(last, this.of(hops.slice(0, -1)), this.#settings);
    this.#known.set(key, known);
    return known;
  }
}

export function chain(hops: readonly Hop[], reach: Dialer, settings: HopSettings): Chain {
  return new Chains(reach, settings).of(hops);
}

function hopChain(hop: Hop, inner: Chain, settings: HopSettings): Chain {
  const { tunnels } = inner;
  if (hop.scheme === "agent") return agentChain(hop, settings);
  const through = httpHop(hop, inner.dial, settings);
  switch (hop.scheme) {
    case "http":
    case "https":
      return { dial: httpConnectDialer(through), httpProxy: through, tunnels, probe: probeOf(through.reach, hop) };
    case "ws":
    case "wss": {
      const tunnel = tunnelTo(webSocketHop(hop, through), settings.tunnel);
      const probe = probeOf((_, options) => tunnel.open(options), hop);
      return { dial: tunnelDialer(tunnel, through), httpProxy: undefined, tunnels: [...tunnels, tunnel], probe };
    }
    case "ws+raw":
    case "wss+raw": {
      const dial = rawDialer(webSocketHop(hop, through), settings.tunnel.heartbeat);
      return { dial, httpProxy: undefined, tunnels, probe: probeOf(dial, hop) };
    }
    default: {
      const dial = socksChain(hop, inner.dial, settings);
      return { dial, httpProxy: undefined, tunnels, probe: probeOf(inner.dial, hop) };
    }
  }
}

function agentChain({ proxy }: Hop, { agents }: HopSettings): Chain {
  if (agents === undefined)
    throw usageError(`agent:${proxy.host}: only a seikan serve has agents`, "go through it: --via wss://SERVER");
  return { dial: agents(proxy.host), httpProxy: undefined, tunnels: [], probe: () => Promise.resolve() };
}

function probeOf(reach: Dialer, { proxy }: Hop): Chain["probe"] {
  return async (options) => {
    const stream = await reach(proxy, options);
    stream.abort(new SeikanError("cancelled", "it was only tried"));
  };
}

function httpHop({ scheme, proxy, secret }: Hop, reach: Dialer, settings: HopSettings): HttpHop {
  return {
    proxy,
    name: `${scheme}://${formatTarget(proxy)}`,
    isSecure: isSecure(scheme),
    credentials: new ProxyCredentials(secret),
    fields: settings.fields,
    reach: isSecure(scheme) ? proxyTlsDialer(reach, settings) : reach,
  };
}

function isSecure(scheme: HopScheme): boolean {
  return scheme === "https" || scheme.startsWith("wss");
}

/** The WebSocket endpoint behind these hops, the last of which names it. */
export function endpointOf(hops: readonly Hop[], chains: Chains, settings: HopSettings): WebSocketHop {
  const last = hops.at(-1)!;
  return webSocketHop(last, httpHop(last, chains.of(hops.slice(0, -1)).dial, settings));
}

function webSocketHop({ path }: Hop, through: HttpHop): WebSocketHop {
  return { ...through, path };
}

function tunnelTo(hop: WebSocketHop, { connections, connectMs, heartbeat, report }: TunnelSettings): Tunnel {
  return new Tunnel({
    name: hop.name,
    connections,
    connectMs,
    connect: (key, onGoAway, options) => dialSession(hop, { key, onGoAway, heartbeat }, options),
    report: (event) => report(hop.name, event),
  });
}

/** Each stream of the tunnel begins with a CONNECT: to whoever dials, the far end is one more HTTP proxy. */
function tunnelDialer(tunnel: Tunnel, hop: HttpHop): Dialer {
  const credentials = new ProxyCredentials(undefined);
  return httpConnectDialer({ ...hop, credentials, fields: [], reach: (_, options) => tunnel.open(options) });
}

/** One WebSocket for each stream; where it leads is for the other side to know. */
function rawDialer(hop: WebSocketHop, heartbeat: Heartbeat): Dialer {
  const request = { heartbeat, protocol: undefined, fields: [], binaryOnly: false, maxFrame: Number.MAX_SAFE_INTEGER };
  return async (target, options) => {
    if (target.kind === "udp")
      throw new SeikanError("usage", `a plain WebSocket carries no UDP to ${formatTarget(target)}`);
    return openWebSocket(hop, request, options);
  };
}

function socksChain({ scheme, proxy, secret }: Hop, reach: Dialer, settings: HopSettings): Dialer {
  const credentials = secret?.kind === "password" ? { user: secret.user, password: secret.password } : undefined;
  const resolve =
    scheme === "socks5"
      ? (target: TcpTarget, options: DialOptions) => resolveTarget(target, settings.tcp, options)
      : undefined;
  const version = scheme === "socks4a" ? 4 : 5;
  return socksDialer({ version, proxy, credentials, resolve }, reach);
}

function proxyTlsDialer(reach: Dialer, settings: HopSettings): Dialer {
  return async (target, options) => {
    if (target.kind !== "tcp") throw new SeikanError("usage", `no TLS to ${formatTarget(target)}`);
    const stream = await reach(target, options);
    const peer = formatTarget(target);
    const tls = { ...settings.tls, alpn: ["http/1.1"], peer, serverName: target.host, trustOption: PROXY_CACERT };
    return tlsClient(stream, tls, options.deadline, options.trace);
  };
}

/** `direct` is written as a hop and means none. `tunnelPath` is what `ws(s)://HOST` alone means. */
export function parseHop(text: string, tunnelPath: string = TUNNEL_PATH): Hop | "direct" {
  if (text === "direct") return "direct";
  if (text.startsWith("agent:")) return agentHop(text);
  const match = /^([a-z][a-z0-9+.-]*):\/\/(?:(.*)@)?([^@/?#]*)(\/[^#@]*)?$/is.exec(text);
  const scheme = match?.[1]!.toLowerCase();
  if (match === null || scheme === undefined) throw badHop(text, "expected a URL such as http://proxy:3128");
  if (!Object.hasOwn(DEFAULT_PORTS, scheme)) throw badHop(text, `unknown scheme ${scheme}`);
  const known = scheme as keyof typeof DEFAULT_PORTS;
  const proxy = parseHopAddress(match[3]!, DEFAULT_PORTS[known]);
  if (proxy === undefined) throw badHop(text, "the host or port is wrong");
  return {
    scheme: known,
    proxy,
    path: parsePath(known, match[4] ?? "/", text, tunnelPath),
    secret: parseUserinfo(match[2], text),
  };
}

function agentHop(text: string): Hop {
  const name = text.slice("agent:".length);
  if (/^[\w.-]{1,100}$/.test(name))
    return { scheme: "agent", proxy: tcpTarget(name.toLowerCase(), 0), path: "", secret: undefined };
  throw badHop(text, "expected agent:NAME");
}

function parsePath(scheme: HopScheme, path: string, url: string, tunnelPath: string): string {
  if (!scheme.startsWith("ws")) {
    if (path !== "/") throw badHop(url, "a proxy has no path");
    return "";
  }
  if (!/^[\x21-\x7e]+$/.test(path)) throw badHop(url, "write unusual characters of the path as %XX");
  return path === "/" && !scheme.endsWith("+raw") ? tunnelPath : path;
}

function parseHopAddress(text: string, defaultPort: number): TcpTarget | undefined {
  const match = /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(text);
  const host = match === null ? undefined : canonicalHost(match[1]!);
  const port = match?.[2] === undefined || match[2] === "" ? defaultPort : parsePort(match[2]);
  return host === undefined || port === undefined ? undefined : tcpTarget(host, port);
}

function parseUserinfo(text: string | undefined, url: string): ProxySecret | undefined {
  if (text === undefined || text === "") return undefined;
  const colon = text.indexOf(":");
  try {
    const user = decodeURIComponent(colon < 0 ? text : text.slice(0, colon));
    const password = colon < 0 ? "" : decodeURIComponent(text.slice(colon + 1));
    return { kind: "password", user, password };
  } catch {
    throw badHop(url, "a % in user or password is written %25");
  }
}

function badHop(text: string, why: string): SeikanError {
  const schemes = Object.keys(DEFAULT_PORTS).join(", ");
  return usageError(
    `cannot read hop "${redactUrl(text)}": ${why}`,
    `hops are URLs with one of the schemes ${schemes}, or the word direct`,
  );
}

/** A URL without its userinfo. */
export function redactUrl(text: string): string {
  return text.replace(/^([a-z][a-z0-9+.-]*:\/\/)?.*@/is, "$1***@");
}

/** For people and logs: never with credentials. */
export function formatHop(hop: Hop): string {
  if (hop.scheme === "agent") return `agent:${hop.proxy.host}`;
  const userinfo = hop.secret?.kind === "password" ? "***@" : "";
  const path = hop.path === TUNNEL_PATH || hop.path === "/" ? "" : hop.path;
  return `${hop.scheme}://${userinfo}${formatHostPort(hop.proxy.host, hop.proxy.port)}${path.replace(/\?.*$/s, "?***")}`;
}
