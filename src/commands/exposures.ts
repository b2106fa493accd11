import { isAbsolute, resolve } from "node:path";
import type * as Valibot from "valibot";
import { expandHome } from "../config/look-up.ts";
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
import { parseBoolean, type SectionPlace } from "../core/options.ts";
import { isFieldName, isFieldValue } from "../wire/fields.ts";
import type { ServiceSettings } from "../services/settings.ts";
import { MAX_START_MS, mayEdit, type ExposureSpec } from "../wire/registration.ts";
import { described, isHere, processKeys, readProcess } from "./service-options.ts";

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
  /** The service is started when its first visitor comes. */
  readonly service?: ServiceSettings;
}

const EXAMPLE = "for example http://localhost:3000, web=http://localhost:3000 or tcp:5432=localhost:5432";
const KEYS = [
  ...["auth", "allow", "host-header", "request-header", "response-header", "health", "sticky"],
  ...["proxy-protocol", "listing", "upstream-insecure", "name"],
] as const;
type Key = (typeof KEYS)[number];
type Options = Map<Key, string[]>;

/** Reads `SPEC[,KEY=VALUE…]`. */
export function parseExposure(text: string): LocalExposure {
  const { first, options } = splitOptions(text);
  return exposureOf(parsePlace(first, text), options, text);
}

/** `text` is how it was written, for errors. */
function exposureOf(place: Place, options: Options, text: string): LocalExposure {
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
function splitOptions(text: string): { first: string; options: Options } {
  const pieces = text.split(",");
  const first = pieces.shift()!;
  const options: Options = new Map();
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
      throw usageError(`${redacted(text)}: unknown key "${match[1]}"`, `the keys are ${KEYS.join(", ")}`);
    last = options.get(key) ?? [];
    last.push(match[2]!);
    options.set(key, last);
  }
  return { first, options };
}

const HTTP_ONLY: readonly Key[] = ["auth", "host-header", "request-header", "response-header", "health"];

function checkKeys(kind: ExposureSpec["kind"], upstream: Upstream, options: Options, text: string): void {
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

// --- [expose.NAME] -----------------------------------------------------------------

/** What `[expose.NAME]` holds: an exposure, and what starts the service behind it. */
export function exposeEntry(v: typeof Valibot) {
  const text = v.pipe(v.string(), v.nonEmpty("expected a text that is not empty"));
  const texts = v.union([text, v.array(text)], "expected a text, or a list of texts");
  const port = v.pipe(
    v.number(),
    v.integer("expected a port"),
    v.minValue(0, "expected a port"),
    v.maxValue(65535, "expected a port"),
  );
  return v.strictObject({
    to: described(
      v,
      v.union([text, port], "expected http://HOST:PORT"),
      "What it leads to, as with --expose: http://localhost:3000, a port, unix:/path, file:docs, HOST:PORT; left out where a command gets a {port}",
    ),
    host: described(v, text, "A whole host name for it, instead of NAME below the server's domain"),
    tls: described(v, text, "A host name whose TLS goes through as it is"),
    tcp: described(v, port, "The server opens this TCP port; 0: any"),
    udp: described(v, port, "The server opens this UDP port; 0: any"),
    private: described(v, v.boolean(), "For the server's users only, as NAME.agent.internal"),
    auth: described(v, texts, "USER:PASS that visitors must show"),
    allow: described(v, texts, "Networks that visitors may come from"),
    host_header: described(v, text, "The Host that the service sees; target for its own"),
    request_header: described(v, texts, "'Name: value' sets a field of requests, -Name removes it"),
    response_header: described(v, texts, "The same for answers"),
    health: described(v, text, "Path that answers 2xx or 3xx while the service is well"),
    sticky: described(
      v,
      v.picklist(["cookie", "address"], "expected cookie or address"),
      "Keeps a visitor with the same agent of a group",
    ),
    proxy_protocol: described(v, v.picklist(["v2"], "expected v2"), "The service wants a PROXY header"),
    upstream_insecure: described(v, v.boolean(), "Accept any certificate from it"),
    listing: described(v, v.boolean(), "List the files of a folder"),
    ...processKeys(v),
  });
}

/** Keys that say something about a command. */
const PROCESS_KEYS = [
  ...["cwd", "env", "env_file", "tty", "ready", "ready_timeout", "delay", "settle", "idle", "restart", "stop_timeout"],
] as (keyof WrittenExposure)[];

type WrittenExposure = Valibot.InferOutput<ReturnType<typeof exposeEntry>>;

/** Throws a usage error where keys do not go together. */
export function readExposure(name: string, written: WrittenExposure, place: SectionPlace): LocalExposure {
  const { command } = written;
  const idle = PROCESS_KEYS.find((key) => command === undefined && written[key] !== undefined);
  if (idle !== undefined) throw usageError(`${idle} is about a command, and there is none`);
  if (written.to === undefined && command === undefined)
    throw usageError("it leads nowhere", 'to = "http://localhost:3000", or a command that is started');
  const exposure = exposureOf(placeIn(name, written, place), optionsIn(written), `[expose.${name}]`);
  return command === undefined ? exposure : launched(exposure, written, place);
}

function placeIn(name: string, written: WrittenExposure, { folder, env }: SectionPlace): Place {
  const { host, tls, tcp, udp } = written;
  const kinds = [host, tls, tcp, udp, written.private === true ? true : undefined].filter((kind) => kind !== undefined);
  if (kinds.length > 1) throw usageError("host, tls, tcp, udp and private exclude each other");
  const to = written.to === undefined ? "localhost:1" : String(written.to);
  const path = /^file:(?:\/\/(?=\/))?(.+)$/.exec(to)?.[1];
  const target = path === undefined ? to : `file:${resolve(folder, expandHome(path, env))}`;
  const own = { name, host: undefined, port: undefined, target };
  if (host !== undefined) return { ...own, kind: "http", host: host.toLowerCase() };
  if (tls !== undefined) return { ...own, kind: "tls", host: tls.toLowerCase() };
  if (tcp !== undefined) return { ...own, kind: "tcp", port: tcp };
  if (udp !== undefined) return { ...own, kind: "udp", port: udp };
  if (written.private !== true) return { ...own, kind: undefined };
  return { ...own, kind: undefined, target: target.startsWith("tcp://") ? target : `tcp://${target}` };
}

function optionsIn(written: WrittenExposure): Options {
  const options: Options = new Map();
  for (const key of KEYS) {
    const value = written[key.replaceAll("-", "_") as keyof WrittenExposure];
    if (key !== "name" && value !== undefined && value !== false) options.set(key, [value].flat().map(String));
  }
  return options;
}

/** With the command that starts it. */
function launched(exposure: LocalExposure, written: WrittenExposure, place: SectionPlace): LocalExposure {
  const { spec, upstream, proxyProtocol } = exposure;
  if (upstream.kind === "files" || spec.kind === "udp") throw usageError("no command is needed for files and UDP");
  if (written.health !== undefined)
    throw usageError("health and command exclude each other: it is started when somebody comes");
  if (!isHere(upstream.target))
    throw usageError("it is on another machine: no command starts it", "leave out the command");
  const { target, tls, insecure } = upstream;
  const isPlaced = written.to !== undefined;
  const service: ServiceSettings = {
    ...readProcess(written, place),
    name: spec.name,
    place:
      isPlaced && target.kind === "unix"
        ? { kind: "target", target }
        : { kind: "loopback", port: isPlaced ? portOf(target) : undefined },
    ...{ tls, insecure, proxyProtocol, dependsOn: [] },
  };
  const startMs = Math.min(MAX_START_MS, service.readyMs + service.settleMs + service.stopMs);
  return { ...exposure, service, spec: { ...spec, startMs } };
}

function portOf(target: Target): number | undefined {
  return target.kind === "unix" ? undefined : target.port;
}

/** An option may hold a password. */
function redacted(text: string): string {
  return text
    .replace(/(^|,)(auth|re(?:quest|sponse)-header)=.*?(?=,[a-z-]+=|$)/gs, "$1$2=***")
    .replace(/\/\/[^/]*@/g, "//***@");
}

function wrong(text: string, why: string) {
  const where = text.startsWith("[") ? "" : `${redacted(text)}: `;
  return usageError(where + why, EXAMPLE);
}

/** For people: where an exposure leads. */
export function formatUpstream({ upstream, service }: Pick<LocalExposure, "upstream" | "service">): string {
  const { command } = service ?? {};
  if (command !== undefined) return typeof command === "string" ? command : command.join(" ");
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
