import ipaddr from "ipaddr.js";
import { SeikanError, usageError } from "./errors.ts";

/** Where a stream shall lead. Host names are lower case, without a trailing dot. */
export type Target = TcpTarget | UdpTarget | UnixTarget;

export interface TcpTarget {
  readonly kind: "tcp";
  /** A DNS name, or an IP address in canonical form without brackets. */
  readonly host: string;
  readonly port: number;
}

/** A UDP flow: datagrams to and from one address. */
export interface UdpTarget {
  readonly kind: "udp";
  readonly host: string;
  readonly port: number;
}

export interface UnixTarget {
  readonly kind: "unix";
  readonly path: string;
}

export type IpAddress = ipaddr.IPv4 | ipaddr.IPv6;

export function tcpTarget(host: string, port: number): TcpTarget {
  return { kind: "tcp", host, port };
}

export function udpTarget(host: string, port: number): UdpTarget {
  return { kind: "udp", host, port };
}

/** `host:port` with IPv6 in brackets (authority-form, RFC 9112 section 3.2.3), `udp:host:port` or `unix:/path`. */
export function formatTarget(target: Target): string {
  if (target.kind === "unix") return `unix:${target.path}`;
  const place = formatHostPort(target.host, target.port);
  return target.kind === "udp" ? `udp:${place}` : place;
}

export function formatHostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * An IP address in any spelling a resolver would take (`127.1`, `0x7f.1`,
 * `2130706433`, `0177.0.0.1`), or undefined for a name. IPv4-mapped IPv6
 * addresses come back as the IPv4 address they mean.
 */
export function parseIp(text: string): IpAddress | undefined {
  const known = parsedIps.get(text);
  if (known !== undefined) return known;
  if (!/^[0-9a-fx.:]+$/i.test(text) || !ipaddr.isValid(text)) return undefined;
  const address = ipaddr.process(text);
  if (parsedIps.size >= PARSED_IPS) parsedIps.clear();
  parsedIps.set(text, address);
  return address;
}

/** A connection asks for the same few addresses again and again, and parsing one costs microseconds. */
const parsedIps = new Map<string, IpAddress>();
const PARSED_IPS = 1000;

/** Lower case, one trailing dot less, IP literals in canonical form; undefined when it is no host. */
export function canonicalHost(text: string): string | undefined {
  let host = text;
  if (host.startsWith("[") !== host.endsWith("]")) return undefined;
  const bracketed = host.startsWith("[");
  if (bracketed) host = host.slice(1, -1);
  if (bracketed !== host.includes(":")) return undefined;
  if (!bracketed && host.endsWith(".")) host = host.slice(0, -1);
  const ip = parseIp(host);
  if (ip !== undefined) return ip.toString();
  // oxlint-disable-next-line no-control-regex
  if (bracketed || /[\x00-\x20\x7f/?#@%\\:]/.test(host)) return undefined;
  host = host.toLowerCase();
  if (!isAscii(host)) host = punycode(host);
  // All digits and dots, yet no address: resolvers disagree about it, so nobody gets it.
  if (/^[\d.]+$/.test(host) || host.length > 253) return undefined;
  return /^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$/.test(host) ? host : undefined;
}

function isAscii(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text);
}

function punycode(host: string): string {
  try {
    return new URL(`http://${host}/`).hostname;
  } catch {
    return "";
  }
}

/** 1 to 65535 in plain digits, or undefined. */
export function parsePort(text: string): number | undefined {
  if (!/^\d{1,5}$/.test(text)) return undefined;
  const port = Number(text);
  return port >= 1 && port <= 65535 ? port : undefined;
}

/** Authority-form `host:port`; the port is mandatory. Undefined when it is none. */
export function parseAuthority(text: string): TcpTarget | undefined {
  const colon = text.lastIndexOf(":");
  if (colon < 1) return undefined;
  const host = canonicalHost(text.slice(0, colon));
  const port = parsePort(text.slice(colon + 1));
  return host === undefined || port === undefined ? undefined : tcpTarget(host, port);
}

/** A TARGET argument: `HOST:PORT`, `[v6]:PORT`, `udp:HOST:PORT` or `unix:/path`. */
export function parseTarget(text: string): Target {
  if (text.startsWith("unix:")) {
    if (text.length === 5) throw usageError(`"${text}" lacks a path`, "write unix:/run/app.sock");
    return { kind: "unix", path: text.slice(5) };
  }
  const isUdp = text.startsWith("udp:");
  const target = parseAuthority(isUdp ? text.slice(4) : text);
  if (target !== undefined) return isUdp ? udpTarget(target.host, target.port) : target;
  throw usageError(`cannot read target "${text}": expected HOST:PORT`, ...targetHints(text));
}

function targetHints(text: string): string[] {
  const url = /^[a-z][a-z0-9+.-]*:\/\/([^/?#]+)/i.exec(text);
  if (url !== null) {
    const port = /^https:/i.test(text) ? 443 : 80;
    const host = url[1]!;
    return [`a target is no URL: write ${/:\d+$/.test(host) ? host : `${host}:${port}`}`];
  }
  if (text.split(":").length > 2 && !text.startsWith("[")) return [`put an IPv6 address into brackets: [${text}]:443`];
  if (!text.includes(":")) return [`add the port: ${text}:443`];
  return ["the port is a number from 1 to 65535"];
}

// --- where to listen -------------------------------------------------------

export type ListenAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "fd"; readonly fd: number };

/**
 * `PORT`, `:PORT` and `localhost:PORT` mean loopback (both IP versions);
 * `ADDR:PORT`, `[v6]:PORT`, `unix:/path`, `fd:N`. Port 0 asks for any.
 */
export function parseListen(text: string): ListenAddress {
  if (text.startsWith("unix:") && text.length > 5) return { kind: "unix", path: text.slice(5) };
  const fd = /^fd:(\d+)$/.exec(text);
  if (fd !== null) return { kind: "fd", fd: Number(fd[1]) };
  const match = /^(?:(.*):)?(\d{1,5})$/.exec(text);
  const port = match === null ? Number.NaN : Number(match[2]);
  const host = match?.[1] === undefined || match[1] === "" ? "localhost" : listenHost(match[1]);
  if (host === undefined || !(port <= 65535)) {
    throw usageError(
      `cannot listen on "${text}": expected PORT, ADDR:PORT, [v6]:PORT, unix:/path or fd:N`,
      "PORT alone listens on loopback; 0.0.0.0:PORT listens on every address",
    );
  }
  return { kind: "tcp", host, port };
}

function listenHost(text: string): string | undefined {
  return text === "*" ? "0.0.0.0" : canonicalHost(text);
}

export function formatListen(address: ListenAddress): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  if (address.kind === "fd") return `fd:${address.fd}`;
  return formatHostPort(address.host, address.port);
}

/** True for addresses only this machine reaches. A name counts only if it is `localhost`. */
export function isLoopbackHost(host: string): boolean {
  if (host === "localhost" || host.endsWith(".localhost")) return true;
  return parseIp(host)?.range() === "loopback";
}

/** Names below this belong to exposures of agents; no resolver is ever asked about them. */
const PRIVATE_SUFFIX = ".agent.internal";

export function isPrivateName(host: string): boolean {
  return host.endsWith(PRIVATE_SUFFIX) || host === PRIVATE_SUFFIX.slice(1);
}

/** `db` is `db.agent.internal`. */
export function privateName(label: string): string {
  return label + PRIVATE_SUFFIX;
}

/** `db` of `db.agent.internal`; undefined for any other name. */
export function privateLabel(host: string): string | undefined {
  return host.endsWith(PRIVATE_SUFFIX) ? host.slice(0, -PRIVATE_SUFFIX.length) : undefined;
}

/** One label of a DNS name (RFC 1123 section 2.1), lower case; undefined when it is none. */
export function canonicalLabel(text: string): string | undefined {
  return /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i.test(text) ? text.toLowerCase() : undefined;
}

// --- networks --------------------------------------------------------------

export interface Network {
  readonly address: IpAddress;
  readonly bits: number;
}

/** `10.0.0.0/8`, `fc00::/7`, or undefined when it is no CIDR. */
export function parseNetwork(text: string): Network | undefined {
  const slash = text.indexOf("/");
  if (slash < 0) return undefined;
  const address = parseIp(text.slice(0, slash));
  const bits = Number(text.slice(slash + 1));
  if (address === undefined || !/^\d{1,3}$/.test(text.slice(slash + 1))) return undefined;
  return bits <= (address.kind() === "ipv4" ? 32 : 128) ? { address, bits } : undefined;
}

export function inNetwork(address: IpAddress, network: Network): boolean {
  return address.kind() === network.address.kind() && address.match(network.address, network.bits);
}

/** A CIDR or a single address, for lists of client addresses. */
export function parseAddressRange(text: string): Network {
  const network = parseNetwork(text);
  if (network !== undefined) return network;
  const address = parseIp(text);
  if (address === undefined) {
    throw usageError(`expected an address or CIDR such as 10.0.0.0/8, got "${text}"`);
  }
  return { address, bits: address.kind() === "ipv4" ? 32 : 128 };
}

/** Refuses a request for a target that cannot be one; the text is a peer's. */
export function badTarget(text: string): SeikanError {
  return new SeikanError("bad-request", `"${text}" is no target: expected host:port with a port from 1 to 65535`);
}
