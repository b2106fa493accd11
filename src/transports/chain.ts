import { canonicalHost, formatHostPort, formatTarget, parsePort, tcpTarget, type TcpTarget } from "../core/address.ts";
import { SeikanError, usageError } from "../core/errors.ts";
import type { Fields } from "../wire/fields.ts";
import { httpConnectDialer, type HttpHop } from "./http-connect.ts";
import { ProxyCredentials, type ProxySecret } from "./proxy-credentials.ts";
import { socksDialer } from "./socks.ts";
import { resolveTarget, type TcpOptions } from "./tcp.ts";
import { tlsClient, type TlsClientOptions } from "./tls.ts";
import type { Dialer, DialOptions } from "./transport.ts";

/** One hop of a chain, as a person wrote it. */
export interface Hop {
  readonly scheme: HopScheme;
  readonly proxy: TcpTarget;
  readonly secret: ProxySecret | undefined;
}

const DEFAULT_PORTS = { http: 80, https: 443, socks5: 1080, socks5h: 1080, socks4a: 1080 } as const;

export type HopScheme = keyof typeof DEFAULT_PORTS;

/** What all hops of a chain share. */
export interface HopSettings {
  readonly tcp: TcpOptions;
  /** Added to each request to an HTTP proxy. */
  readonly fields: Fields;
  /** For TLS to proxies; the peer and its name come from the hop. */
  readonly tls: Omit<TlsClientOptions, "peer" | "serverName">;
}

/** A way through hops, made once and used for many targets. */
export interface Chain {
  readonly dial: Dialer;
  /** The last hop, when it is an HTTP proxy: absolute-form requests are its to forward. */
  readonly httpProxy: HttpHop | undefined;
}

/** Folds the hops around `reach`: the first hop is dialled by it, the target by the last hop. */
export function chain(hops: readonly Hop[], reach: Dialer, settings: HopSettings): Chain {
  return hops.reduce<Chain>((inner, hop) => hopChain(hop, inner.dial, settings), { dial: reach, httpProxy: undefined });
}

function hopChain(hop: Hop, reach: Dialer, settings: HopSettings): Chain {
  const { scheme, proxy, secret } = hop;
  if (scheme === "http" || scheme === "https") {
    const httpProxy = {
      proxy,
      name: `${scheme}://${formatTarget(proxy)}`,
      credentials: new ProxyCredentials(secret),
      fields: settings.fields,
      reach: scheme === "https" ? proxyTlsDialer(reach, settings) : reach,
    };
    return { dial: httpConnectDialer(httpProxy), httpProxy };
  }
  const credentials = secret?.kind === "password" ? { user: secret.user, password: secret.password } : undefined;
  const resolve =
    scheme === "socks5"
      ? (target: TcpTarget, options: DialOptions) => resolveTarget(target, settings.tcp, options)
      : undefined;
  const version = scheme === "socks4a" ? 4 : 5;
  return { dial: socksDialer({ version, proxy, credentials, resolve }, reach), httpProxy: undefined };
}

function proxyTlsDialer(reach: Dialer, settings: HopSettings): Dialer {
  return async (target, options) => {
    if (target.kind !== "tcp") throw new SeikanError("usage", `no TLS to ${formatTarget(target)}`);
    const stream = await reach(target, options);
    const peer = formatTarget(target);
    return tlsClient(stream, { ...settings.tls, alpn: ["http/1.1"], peer, serverName: target.host }, options.deadline);
  };
}

/** `direct` is written as a hop and means none. */
export function parseHop(text: string): Hop | "direct" {
  if (text === "direct") return "direct";
  const match = /^([a-z][a-z0-9+.-]*):\/\/(?:(.*)@)?([^@/?#]*)\/?$/is.exec(text);
  const scheme = match?.[1]!.toLowerCase();
  if (match === null || scheme === undefined) throw badHop(text, "expected a URL such as http://proxy:3128");
  if (!(scheme in DEFAULT_PORTS)) throw badHop(text, `unknown scheme ${scheme}`);
  const proxy = parseHopAddress(match[3]!, DEFAULT_PORTS[scheme as HopScheme]);
  if (proxy === undefined) throw badHop(text, "the host or port is wrong");
  return { scheme: scheme as HopScheme, proxy, secret: parseUserinfo(match[2], text) };
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
  const userinfo = hop.secret?.kind === "password" ? "***@" : "";
  return `${hop.scheme}://${userinfo}${formatHostPort(hop.proxy.host, hop.proxy.port)}`;
}
