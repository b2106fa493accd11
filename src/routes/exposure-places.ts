import { canonicalHost, formatHostPort, isLoopbackHost, parseIp, privateName } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import type { ExposedAt, ExposureSpec, Registration } from "../wire/registration.ts";

/** Where exposures are: their names, and how those are told. An id is its kind, a colon and a host, port or label. */

/** A host of an exposure: a whole name, or `*.` and one. */
export function hostName(text: string): string {
  const isWild = text.startsWith("*.");
  const host = canonicalHost(isWild ? text.slice(2) : text);
  if (host === undefined || parseIp(host) !== undefined || !/^[a-z0-9.-]+$/.test(host))
    throw new SeikanError("bad-request", `"${text}" is no host name`);
  return isWild ? `*.${host}` : host;
}

/** The names a host goes by: its own, then each wildcard above it, the longest first. */
export function* namesFor(host: string): Generator<string> {
  yield host;
  for (let dot = host.indexOf("."); dot >= 0; dot = host.indexOf(".", dot + 1)) yield `*${host.slice(dot)}`;
}

/** What stands behind the kind of an id. */
export function nameIn(id: string): string {
  return id.slice(id.indexOf(":") + 1);
}

/** For people. */
export function describe(id: string): string {
  const at = id.indexOf(":");
  const kind = id.slice(0, at);
  const rest = id.slice(at + 1);
  if (kind !== "tcp" && kind !== "udp") return rest;
  return rest === "0" ? `every ${kind} port` : `${kind} port ${rest}`;
}

/** How visitors reach the server. */
export interface PublicOrigin {
  readonly scheme: "http" | "https";
  readonly port: number | undefined;
}

/** How the server is seen from outside. */
export interface Visible {
  readonly domain: string | undefined;
  /** Undefined: as agents reach it. */
  readonly publicOrigin: PublicOrigin | undefined;
  /** As the agent reached it: `wss://tunnel.example.com`. */
  readonly server: string;
  readonly isSecure: boolean;
}

/** Where an exposure is reached, as its agent is told. */
export function placeOf(id: string, { name, kind, port }: ExposureSpec, visible: Visible): ExposedAt {
  const reached = /^(wss?):\/\/(\[[^\]]+\]|[^:/]+)(?::(\d+))?/.exec(visible.server);
  if (kind === "private") return { name, url: undefined, address: privateName(name) };
  if (kind === "tcp" || kind === "udp") {
    const host = visible.domain ?? reached?.[2]?.replace(/^\[(.*)\]$/, "$1") ?? "localhost";
    const address = formatHostPort(host, port ?? 0);
    return { name, url: `${kind}://${address}`, address };
  }
  const origin = visible.publicOrigin ?? {
    scheme: reached?.[1] === "wss" || (reached === null && visible.isSecure) ? "https" : "http",
    port: reached?.[3] === undefined ? undefined : Number(reached[3]),
  };
  const host = nameIn(id);
  const scheme = kind === "tls" ? "https" : origin.scheme;
  const standard = scheme === "https" ? 443 : 80;
  const at = origin.port ?? standard;
  return { name, url: `${scheme}://${at === standard ? host : `${host}:${at}`}`, address: formatHostPort(host, at) };
}

/** What an agent's owner should know. */
export function warningsFor({ server, exposures }: Registration, domain: string | undefined): string[] {
  const host = canonicalHost(/^wss?:\/\/(\[[^\]]+\]|[^:/]+)/.exec(server)?.[1] ?? "") ?? "localhost";
  const needsDomain = exposures.some(({ kind, host: own }) => kind === "http" && own === undefined);
  if (domain !== undefined || isLoopbackHost(host) || !needsDomain) return [];
  return ["the server has no --domain, so its sites are names below localhost there and work on that machine only"];
}
