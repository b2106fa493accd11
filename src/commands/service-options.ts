import { resolve } from "node:path";
import type * as Valibot from "valibot";
import { expandHome } from "../config/look-up.ts";
import { isLoopbackHost, parseTarget, type Target } from "../core/address.ts";
import { usageError } from "../core/errors.ts";
import { atKey, duration, type SectionPlace } from "../core/options.ts";
import { hostName } from "../routes/exposure-places.ts";
import type { ServiceHosting } from "../routes/service-sites.ts";
import type { Place, ReadySign, ServiceSettings } from "../services/settings.ts";

type V = typeof Valibot;

/** One `[service.NAME]`. */
export interface ServiceEntry {
  readonly settings: ServiceSettings;
  readonly hosting: ServiceHosting;
}

const SECONDS = "expected seconds, or a time such as 500ms";

/** Keys about the process behind a service; `[expose.NAME]` of agents takes them, too. */
export function processKeys(v: V) {
  const time = timeIn(v);
  const seconds = v.union([time, v.pipe(v.number(), v.finite(SECONDS), v.minValue(0, SECONDS))], SECONDS);
  const text = v.pipe(v.string(), v.nonEmpty("expected a text that is not empty"));
  return {
    command: described(
      v,
      v.union(
        [text, v.pipe(v.array(v.string()), v.minLength(1, "expected a command"))],
        "expected a command, or a list of its words",
      ),
      "How to start it: a text runs in a shell, a list directly; {port}, {host}, {addr}, {name} and {url} are filled in",
    ),
    cwd: described(
      v,
      text,
      "Where it runs; ~ and paths relative to this file are fine [default: the folder of this file]",
    ),
    env: described(
      v,
      v.record(v.string(), v.union([v.string(), v.number(), v.boolean()], "expected a text")),
      "More environment variables",
    ),
    env_file: described(v, text, "A file with more of them, read at each start"),
    tty: described(v, v.boolean(), "Give it a terminal: its output is not held back"),
    ready: described(
      v,
      v.pipe(
        v.strictObject({
          http: v.optional(v.pipe(text, v.startsWith("/", "expected a path such as /healthz"))),
          log: v.optional(text),
        }),
        v.check(
          ({ http, log }) => (http === undefined) !== (log === undefined),
          'expected { http = "/path" } or { log = "text" }',
        ),
      ),
      "What tells that it is ready, besides an open port: a path that answers 2xx or 3xx, or a text in a line that it prints",
    ),
    ready_timeout: described(
      v,
      v.pipe(
        time,
        v.check((input) => input !== 0 && input !== "0", "expected more than 0"),
      ),
      "How long a start may take [default: 60s]",
    ),
    delay: described(
      v,
      seconds,
      "How long a start usually takes, for the page that is shown meanwhile; nothing waits for it",
    ),
    settle: described(v, seconds, "Wait this much longer, for servers that accept too early"),
    idle: described(v, time, "Stop it when nobody used it for this long; 0 is never [default: 0]"),
    restart: described(
      v,
      v.picklist(["on-failure", "no"], 'expected "on-failure" or "no"'),
      "After a crash [default: on-failure]",
    ),
    stop_timeout: described(v, time, "Between SIGTERM and SIGKILL [default: 5s]"),
  };
}

/** What `[service.NAME]` holds. */
export function serviceEntry(v: V) {
  const text = v.pipe(v.string(), v.nonEmpty("expected a text that is not empty"));
  return v.strictObject({
    host: described(
      v,
      v.union([text, v.array(text)], "expected a host, or a list of hosts"),
      "Where visitors find it: hosts, *.wildcards [default: NAME.localhost]",
    ),
    path: described(
      v,
      v.pipe(v.string(), v.regex(/^\/[^?#\s]*$/, "expected a path such as /api")),
      "Only requests below this path; the longest counts [default: /]",
    ),
    port: described(
      v,
      v.pipe(
        v.number(),
        v.integer("expected a port"),
        v.minValue(0, "expected a port"),
        v.maxValue(65535, "expected a port"),
      ),
      "Where it listens on this machine; left out or 0: a free port for each start",
    ),
    target: described(v, text, "Where it is, if not on a port of this machine: HOST:PORT or unix:/path"),
    ...processKeys(v),
    https: described(v, v.boolean(), "It speaks TLS"),
    insecure: described(v, v.boolean(), "Accept any certificate from it"),
    depends_on: described(v, v.array(text), "Services that must be ready first, and stay up as long as this one"),
    public: described(v, v.boolean(), "Serve it to other machines, too"),
  });
}

function timeIn(v: V) {
  return v.pipe(
    v.union([v.string(), v.literal(0)], "expected a time such as 500ms, 10s or 15m"),
    v.check((input) => isTime(String(input)), "expected a time such as 500ms, 10s or 15m"),
  );
}

function isTime(text: string): boolean {
  try {
    duration(text);
    return true;
  } catch {
    return false;
  }
}

export function described<S extends Valibot.GenericSchema>(
  v: V,
  schema: S,
  text: string,
): Valibot.OptionalSchema<S, undefined> {
  return v.optional(v.pipe(schema, v.description(text)) as unknown as S);
}

type Written = Valibot.InferOutput<ReturnType<typeof serviceEntry>>;
export type ProcessKeys = { readonly [K in keyof ReturnType<typeof processKeys>]?: Written[K] };

/** Throws a usage error where keys do not go together. */
export function readService(name: string, written: Written, place: SectionPlace): ServiceEntry {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/.test(name))
    throw usageError(`"${name}" is no name for a service: letters, digits, hyphens, dots`);
  const { port, target, command } = written;
  if (target !== undefined && port !== undefined) throw usageError("port and target exclude each other");
  if (target === undefined && command === undefined && (port ?? 0) === 0)
    throw usageError(`service ${name} has neither a command nor a port`, "give it one of them, or both");
  const at = placeOf(port, target);
  if (command !== undefined && at.kind === "target" && !isHere(at.target))
    throw usageError(`service ${name} is on another machine: no command starts it`, "leave out the command");
  const settings: ServiceSettings = {
    name,
    place: at,
    ...readProcess(written, place),
    tls: written.https ?? false,
    insecure: written.insecure ?? false,
    proxyProtocol: false,
    dependsOn: written.depends_on ?? [],
  };
  const hosts = atKey("host", () => [written.host ?? `${name.toLowerCase()}.localhost`].flat().map(readHost));
  return { settings, hosting: { hosts, path: written.path ?? "/", isPublic: written.public ?? false } };
}

/** The part about the process. */
export function readProcess(
  written: ProcessKeys,
  { folder, env }: SectionPlace,
): Omit<ServiceSettings, "name" | "place" | "tls" | "insecure" | "proxyProtocol" | "dependsOn"> {
  if (written.ready?.log !== undefined && written.command === undefined)
    throw usageError("ready.log is about what a command prints, and there is none");
  const absolute = (path: string) => resolve(folder, expandHome(path, env));
  return {
    command: written.command,
    folder: written.cwd === undefined ? folder : absolute(written.cwd),
    env: Object.fromEntries(Object.entries(written.env ?? {}).map(([key, value]) => [key, String(value)])),
    envFile: written.env_file === undefined ? undefined : absolute(written.env_file),
    hasTerminal: written.tty ?? false,
    ready: readySign(written.ready),
    readyMs: time(written.ready_timeout ?? "60s"),
    settleMs: time(written.settle ?? 0),
    usualMs: time(written.delay ?? 0),
    idleMs: time(written.idle ?? 0),
    restarts: written.restart !== "no",
    stopMs: time(written.stop_timeout ?? "5s"),
  };
}

/** What is wrong between services: hosts that two have, needs that nobody meets. */
export function checkServices(
  entries: readonly ServiceEntry[],
  names: readonly string[],
): { entry: string; message: string; hint?: string }[] {
  const found: { entry: string; message: string; hint?: string }[] = [];
  const owners = new Map<string, string>();
  const launchers = new Map<number, string>();
  for (const { settings, hosting } of entries) {
    for (const host of hosting.hosts) {
      const place = host + (hosting.path === "/" ? "" : hosting.path);
      const other = owners.get(place);
      if (other !== undefined)
        found.push({ entry: settings.name, message: `${place} is the host of ${other} already` });
      owners.set(place, settings.name);
    }
    const { place, command } = settings;
    const port = place.kind === "loopback" && command !== undefined ? place.port : undefined;
    const rival = port === undefined ? undefined : launchers.get(port);
    if (rival !== undefined) found.push({ entry: settings.name, message: `port ${port} is that of ${rival} already` });
    if (port !== undefined) launchers.set(port, settings.name);
    const missing = settings.dependsOn.find((name) => !names.includes(name));
    if (missing !== undefined)
      found.push({ entry: settings.name, message: `it depends on ${missing}, and there is no such service` });
    else if (needs(settings.name, settings.name, entries, new Set()))
      found.push({ entry: settings.name, message: "it depends on itself, perhaps through others" });
  }
  return found;
}

function needs(name: string, wanted: string, entries: readonly ServiceEntry[], seen: Set<string>): boolean {
  if (seen.has(name)) return false;
  seen.add(name);
  const { dependsOn = [] } = entries.find(({ settings }) => settings.name === name)?.settings ?? {};
  return dependsOn.some((other) => other === wanted || needs(other, wanted, entries, seen));
}

function placeOf(port: number | undefined, target: string | undefined): Place {
  if (target === undefined) return { kind: "loopback", port: port === 0 ? undefined : port };
  const parsed = atKey("target", () => parseTarget(target));
  if (parsed.kind === "udp") throw usageError("a service speaks HTTP, over TCP or a unix socket");
  return { kind: "target", target: parsed };
}

export function isHere(target: Target): boolean {
  return target.kind === "unix" || isLoopbackHost(target.host);
}

function readHost(text: string): string {
  if (/^[^/]+:\d+$/.test(text))
    throw usageError(`"${text}" has a port`, "a host stands alone: the port is where seikan serve listens");
  const host = hostName(text.replace(/\.$/, ""));
  if (host !== "localhost") return host;
  throw usageError("localhost is the server itself", "choose a name below it: app.localhost");
}

function readySign(written: Written["ready"]): ReadySign {
  if (written?.http !== undefined) return { kind: "http", path: written.http };
  return written?.log === undefined ? { kind: "port" } : { kind: "log", text: written.log };
}

/** A bare number is seconds; the schema decides where one may stand. */
function time(written: string | number): number {
  return typeof written === "number" ? written * 1000 : duration(written);
}
