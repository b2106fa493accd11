import { isAbsolute, resolve } from "node:path";
import {
  canonicalLabel,
  formatTarget,
  parseAddressRange,
  parsePort,
  parseTarget,
  udpTarget,
  type Target,
} from "../core/address.ts";
import { usageError } from "../core/errors.ts";
import { parseBoolean } from "../core/options.ts";
import { isFieldName, isFieldValue } from "../wire/fields.ts";
import { mayEdit, type ExposureSpec } from "../wire/registration.ts";

/** What an exposure leads to at the agent. */
export type Upstream =
  | { readonly kind: "service"; readonly target: Target; readonly tls: boolean; readonly insecure: boolean }
  | { readonly kind: "files"; readonly directory: string; readonly listing: boolean };

/** One `--expose`, read. */
export interface LocalExposure {
  readonly spec: ExposureSpec;
  /** Nobody chose the name: another one is as good. */
  readonly isNameFree: boolean;
  readonly upstream: Upstream;
  /** Path that answers 2xx or 3xx while the service is well. */
  readonly health: string | undefined;
  /** The service wants a PROXY header (version 2) in front of each connection. */
  readonly proxyProtocol: boolean;
}

const EXAMPLE = "for example http://localhost:3000, web=http://localhost:3000 or tcp:5432=localhost:5432";
const KEYS = [
  ...["auth", "allow", "host-header", "request-header", "response-header", "health", "sticky"],
  ...["proxy-protocol", "listing", "upstream-insecure", "name"],
] as const;
type Key = (typeof KEYS)[number];

/** Reads `SPEC[,KEY=VALUE…]`. */
export function parseExposure(text: string): LocalExposure {
  const { first, options } = splitOptions(text);
  const place = parsePlace(first, text);
  const one = (key: Key) => options.get(key)?.at(-1);
  const isOn = (key: Key) => options.has(key) && parseBoolean(one(key)!);
  const name = nameOf(one("name") ?? place.name, text);
  const upstream = parseUpstream(place.kind, place.target, text, {
    insecure: isOn("upstream-insecure"),
    listing: isOn("listing"),
  });
  const kind = place.kind === undefined ? kindOf(place.target) : place.kind;
  checkKeys(kind, upstream, options, text);
  const spec: ExposureSpec = {
    kind,
    name: name ?? defaultName(kind, place),
    ...(place.host !== undefined && { host: place.host }),
    ...(place.port !== undefined && { port: place.port }),
    ...(options.has("auth") && { auth: options.get("auth")!.map((entry) => checkAuth(entry, text)) }),
    ...(options.has("allow") && { clients: options.get("allow")!.flatMap((entry) => checkClients(entry)) }),
    ...(one("host-header") !== undefined && { hostHeader: hostHeader(one("host-header")!, upstream, text) }),
    ...(options.has("request-header") && { requestFields: options.get("request-header")!.map((e) => edit(e, text)) }),
    ...(options.has("response-header") && {
      responseFields: options.get("response-header")!.map((e) => edit(e, text)),
    }),
    ...(one("sticky") !== undefined && { sticky: sticky(one("sticky")!) }),
  };
  const isNameFree = name === undefined && kind === "http" && place.host === undefined;
  return {
    spec,
    isNameFree,
    upstream,
    health: healthPath(one("health")),
    proxyProtocol: proxyVersion(one("proxy-protocol")),
  };
}

interface Place {
  readonly kind: "http" | "tcp" | "udp" | "tls" | undefined;
  readonly name: string | undefined;
  readonly host: string | undefined;
  readonly port: number | undefined;
  readonly target: string;
}

/** `[NAME=][tcp:PORT=|udp:PORT=|host:NAME=|tls:NAME=]TARGET` */
function parsePlace(first: string, text: string): Place {
  const named = /^([^:=/[\]]+)=(.+)$/s.exec(first);
  const rest = named === null ? first : named[2]!;
  const name = named?.[1];
  const match = /^(tcp|udp|host|tls):([^=/]*)=(.+)$/s.exec(rest);
  if (match === null) {
    const word = /^(tcp|udp|host|tls):(?!\/\/)/.exec(rest)?.[1];
    const place = word === "tcp" || word === "udp" ? "PORT=HOST:PORT" : "NAME=TARGET";
    if (word !== undefined) throw wrong(text, `write ${word}:${place}`);
    return { kind: undefined, name, host: undefined, port: undefined, target: rest };
  }
  const [, word, where, target] = match as unknown as [string, "tcp" | "udp" | "host" | "tls", string, string];
  if (word === "host" || word === "tls") {
    if (where === "") throw wrong(text, `${word}: names a host`);
    return { kind: word === "host" ? "http" : "tls", name, host: where.toLowerCase(), port: undefined, target };
  }
  const port = where === "0" ? 0 : parsePort(where);
  if (port === undefined) throw wrong(text, `"${where}" is no port`);
  return { kind: word, name, host: undefined, port, target };
}

function kindOf(target: string): "http" | "private" {
  return /^tcp:\/\//i.test(target) ? "private" : "http";
}

function parseUpstream(
  kind: Place["kind"],
  target: string,
  text: string,
  { insecure, listing }: { insecure: boolean; listing: boolean },
): Upstream {
  const service = (given: Target, tls = false): Upstream => ({ kind: "service", target: given, tls, insecure });
  if (target.startsWith("file:")) {
    const path = target.replace(/^file:(\/\/(?=\/))?/, "");
    if (kind !== undefined && kind !== "http") throw wrong(text, "files are served over HTTP only");
    if (path === "") throw wrong(text, "file: wants a folder, . for this one");
    return { kind: "files", directory: isAbsolute(path) ? path : resolve(path), listing };
  }
  if (kind === "udp" && /^(unix:|tcp:)/i.test(target)) throw wrong(text, "behind udp: comes HOST:PORT");
  if (target.includes("@")) throw wrong(text, "a local service takes no user or password here");
  if (target.startsWith("unix:")) return service(parseTarget(target));
  const url = /^(https?|tcp):\/\/([^/?#]*)(\/?)$/i.exec(target);
  if (url === null && /^https?:\/\//i.test(target)) throw wrong(text, "a local service has no path here");
  if (url !== null) {
    const scheme = url[1]!.toLowerCase();
    const isRaw = kind === "tcp" || kind === "udp" || kind === "tls";
    if (isRaw && scheme !== "tcp") throw wrong(text, `behind ${kind}: comes HOST:PORT`);
    const port = scheme === "https" ? ":443" : scheme === "http" ? ":80" : "";
    const authority = /:\d+$/.test(url[2]!) ? url[2]! : url[2]! + port;
    return service(parseTarget(authority), scheme === "https");
  }
  const parsed = parseTarget(/^\d+$/.test(target) ? `localhost:${target}` : target);
  if (parsed.kind === "udp" && kind !== "udp") throw wrong(text, "write udp:PORT=HOST:PORT");
  if (kind === "udp" && parsed.kind === "tcp") return service(udpTarget(parsed.host, parsed.port));
  return service(parsed);
}

function nameOf(name: string | undefined, text: string): string | undefined {
  if (name === undefined) return undefined;
  const label = canonicalLabel(name);
  if (label === undefined)
    throw wrong(text, `"${name}" is no DNS label: letters, digits and hyphens, 63 at most, no hyphen at either end`);
  return label;
}

/** Chosen names are hard to guess: whoever knows one gets in. */
function randomName(): string {
  const letters = "bcdfghjkmnpqrstvwxz23456789";
  const bytes = crypto.getRandomValues(new Uint8Array(10));
  return [...bytes].map((byte) => letters[byte % letters.length]).join("");
}

function defaultName(kind: ExposureSpec["kind"], { host, port }: Place): string {
  if (kind === "http" && host === undefined) return randomName();
  if (kind === "private") return randomName();
  const base = host === undefined ? `${kind}-${port}` : host.replaceAll("*", "any");
  const label = base
    .replace(/[^a-z0-9]+/gi, "-")
    .slice(0, 63)
    .replace(/^-+|-+$/g, "");
  return label === "" ? kind : label;
}

/** Another name for an exposure whose name nobody chose. */
export function renamed(exposure: LocalExposure): LocalExposure {
  return { ...exposure, spec: { ...exposure.spec, name: randomName() } };
}

// --- options of an exposure ------------------------------------------------------

/** Pieces behind commas that begin with `word=` are options; any other piece belongs to the value before it. */
function splitOptions(text: string): { first: string; options: Map<Key, string[]> } {
  const pieces = text.split(",");
  const first = pieces.shift()!;
  const options = new Map<Key, string[]>();
  let last: string[] | undefined;
  for (const piece of pieces) {
    const match = /^([a-z-]+)=(.*)$/s.exec(piece);
    if (match === null) {
      if (last === undefined) throw wrong(text, `"${piece}" is no KEY=VALUE`);
      last.push(`${last.pop()!},${piece}`);
      continue;
    }
    const key = KEYS.find((known) => known === match[1]);
    if (key === undefined)
      throw usageError(`--expose ${redacted(text)}: unknown key "${match[1]}"`, `the keys are ${KEYS.join(", ")}`);
    last = options.get(key) ?? [];
    last.push(match[2]!);
    options.set(key, last);
  }
  return { first, options };
}

const HTTP_ONLY: readonly Key[] = ["auth", "host-header", "request-header", "response-header", "health"];

function checkKeys(kind: ExposureSpec["kind"], upstream: Upstream, options: Map<Key, string[]>, text: string): void {
  const misplaced = HTTP_ONLY.find((key) => kind !== "http" && options.has(key));
  if (misplaced !== undefined) throw wrong(text, `${misplaced}= is about HTTP`);
  if (options.has("listing") && upstream.kind !== "files") throw wrong(text, "listing= is about file: exposures");
  if (upstream.kind === "files" && options.has("proxy-protocol")) throw wrong(text, "files need no PROXY header");
  if (kind === "udp" && options.has("proxy-protocol")) throw wrong(text, "the PROXY header is for TCP");
  if (kind !== "http" && options.get("sticky")?.includes("cookie")) throw wrong(text, "cookies are about HTTP");
}

function checkAuth(entry: string, text: string): string {
  if (entry.indexOf(":") < 1) throw wrong(text, "auth= wants USER:PASS");
  return entry;
}

function checkClients(entry: string): string[] {
  return entry.split(/[\s,]+/).map((network) => {
    parseAddressRange(network);
    return network;
  });
}

function hostHeader(value: string, upstream: Upstream, text: string): string {
  const local =
    upstream.kind === "service" && upstream.target.kind === "tcp" ? formatTarget(upstream.target) : "localhost";
  const host = value === "target" ? local : value;
  if (!/^[^\s/@,]+$/.test(host)) throw wrong(text, `"${value}" is no host`);
  return host;
}

/** `Name: value` sets a field, `-Name` removes it. */
function edit(entry: string, text: string): [string, string | null] {
  const removed = /^-\s*(\S+)$/.exec(entry);
  const colon = entry.indexOf(":");
  const name = removed?.[1] ?? entry.slice(0, colon).trim();
  const value = removed === null ? entry.slice(colon + 1).trim() : null;
  if ((removed === null && colon < 1) || !isFieldName(name) || !isFieldValue(value ?? ""))
    throw wrong(text, "a header is 'Name: value', or -Name to remove it");
  if (!mayEdit(name))
    throw wrong(
      text,
      `${name} frames or routes the message: it cannot be changed${name.toLowerCase() === "host" ? " so; use host-header=" : ""}`,
    );
  return [name, value];
}

function sticky(value: string): "cookie" | "address" {
  if (value === "cookie" || value === "address") return value;
  throw usageError(`sticky=${value}: expected cookie or address`);
}

function healthPath(value: string | undefined): string | undefined {
  if (value === undefined || /^\/[\x21-\x7e]*$/.test(value)) return value;
  throw usageError(`health=${value}: expected a path such as /up`);
}

function proxyVersion(value: string | undefined): boolean {
  if (value === undefined) return false;
  if (value === "v2" || value === "2") return true;
  throw usageError(`proxy-protocol=${value}: expected v2`);
}

/** An option may hold a password. */
function redacted(text: string): string {
  return text
    .replace(/(^|,)(auth|re(?:quest|sponse)-header)=.*?(?=,[a-z-]+=|$)/gs, "$1$2=***")
    .replace(/\/\/[^/]*@/g, "//***@");
}

function wrong(text: string, why: string) {
  return usageError(`--expose ${redacted(text)}: ${why}`, EXAMPLE);
}

/** For people: where an exposure leads. */
export function formatUpstream(upstream: Upstream): string {
  if (upstream.kind === "files") return `files in ${upstream.directory}`;
  return `${upstream.tls ? "https://" : ""}${formatTarget(upstream.target)}`;
}

/** Names in one agent are unique. */
export function checkUnique(exposures: readonly LocalExposure[]): void {
  const seen = new Set<string>();
  for (const { spec } of exposures) {
    if (seen.has(spec.name))
      throw usageError(`two exposures are named ${spec.name}`, "name=OTHER gives one another name");
    seen.add(spec.name);
  }
}
