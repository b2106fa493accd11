import {
  choice,
  duration,
  flag,
  integer,
  list,
  text,
  value,
  type OptionSpecs,
  type ValuesOf,
} from "../core/options.ts";
import { canonicalHost, parseIp, parsePort } from "../core/address.ts";
import { usageError } from "../core/errors.ts";
import type { Logger } from "../core/log.ts";
import { parsePattern, type Pattern } from "../core/pattern.ts";
import { parseHop } from "../transports/chain.ts";
import { isFieldName, isFieldValue } from "../wire/fields.ts";

/** A subcommand as data; `cli/` turns it into parser, help and exit code. */
export interface Command<S extends OptionSpecs = OptionSpecs> {
  readonly name: string;
  readonly summary: string;
  /** Behind `seikan NAME`: `[OPTIONS] [TARGET] [-- COMMAND…]`. */
  readonly usage: string;
  readonly description: string;
  readonly examples: readonly Example[];
  readonly options: S;
  /** Its section of the configuration file; undefined: it reads none. */
  readonly section?: string;
  /** It also reads a `seikan.toml` of the project it is started in. */
  readonly readsProject?: boolean;
  /** How many positional arguments there may be. */
  readonly positionals: number;
  /** `-- COMMAND…` is allowed. */
  readonly tail: boolean;
  /** The log level unless the user sets one. */
  defaultLogLevel(invocation: Invocation<S>): LogLevel;
  /** Resolves to the exit code; a SeikanError decides it otherwise. */
  run(invocation: Invocation<S>, io: CommandIo): Promise<number>;
}

export interface Example {
  readonly does: string;
  readonly line: string;
}

export type LogLevel = "silent" | "error" | "warn" | "info" | "debug";

export interface Invocation<S extends OptionSpecs> {
  readonly values: ValuesOf<S & typeof GLOBAL_OPTIONS>;
  readonly positionals: readonly string[];
  /** Everything behind `--`, untouched. */
  readonly tail: readonly string[] | undefined;
  /** Where an option's value came from: `--via`, `SEIKAN_VIA`, or `via in seikan.toml`. */
  readonly sourceOf: (option: keyof (S & typeof GLOBAL_OPTIONS) & string) => string;
  /** The configuration file, where there is one. */
  readonly config: UsedConfig<S> | undefined;
}

/** The configuration file of a run. */
export interface UsedConfig<S extends OptionSpecs> {
  readonly path: string;
  /** With what the file says by now, and the options that it changes. Rejects when it is broken. */
  reread(): Promise<{ readonly invocation: Invocation<S>; readonly changed: readonly string[] }>;
}

/** What a command may touch of the outside. */
export interface CommandIo {
  readonly log: Logger;
  /** One line to stdout. */
  print(line: string): void;
  /** Text for people, as it is, to stderr. */
  show(text: string): void;
  /** Text for `print`, whoever wrote it: control characters escaped, coloured where stdout shows colours. */
  paint(style: PrintStyle, text: string): string;
  /** A person reads stdout, and nothing keeps it. */
  readonly isTerminal: boolean;
  /** `--json`: stdout belongs to events. */
  readonly printsEvents: boolean;
  /** One JSON event: to stdout, or to stderr when stdout belongs to a child. */
  event(event: string, fields: Readonly<Record<string, unknown>>): void;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The environment for children: without our secrets. */
  readonly childEnv: Readonly<Record<string, string>>;
}

export type PrintStyle = "plain" | "red" | "yellow" | "green" | "cyan" | "dim" | "bold";

const GENERAL = "General";

/** Understood by every command, before or after its name. */
export const GLOBAL_OPTIONS = {
  config: value({
    group: GENERAL,
    metavar: "FILE",
    parse: text,
    help: "Read this configuration file instead of those that seikan looks for (seikan config --help)",
  }),
  "log-level": value({
    group: GENERAL,
    isPersonal: true,
    metavar: "LEVEL",
    parse: choice("silent", "error", "warn", "info", "debug"),
    help: "How much to say on stderr: silent, error, warn, info or debug",
  }),
  "log-format": value({
    group: GENERAL,
    metavar: "FORMAT",
    parse: choice("auto", "pretty", "plain", "json"),
    default: "auto",
    help: "pretty, plain or json; auto is pretty on a terminal and plain elsewhere",
  }),
  quiet: flag({ group: GENERAL, isPersonal: true, short: "q", help: "Say errors only" }),
  verbose: flag({ group: GENERAL, short: "v", help: "Say more (debug)" }),
  json: flag({ group: GENERAL, help: "Print events for scripts, one JSON object a line" }),
  timeout: value({
    group: GENERAL,
    metavar: "TIME",
    parse: duration,
    help: "End the whole run after this long, with exit code 124",
  }),
  "ready-file": value({
    group: GENERAL,
    isPersonal: true,
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Write a JSON file once everything is ready; removed at exit",
  }),
  "ready-fd": value({
    group: GENERAL,
    isPersonal: true,
    metavar: "N",
    parse: integer(3, 1_000_000),
    help: "Write the same line to this descriptor, then close it",
  }),
} as const satisfies OptionSpecs;

/** Options about reaching targets, which `connect` and `serve` share. */
export const REACH_OPTIONS = {
  via: list({
    group: "Route",
    metavar: "URL",
    separator: " ",
    secret: true,
    parse: hop,
    help: "Go through this hop: http, https, socks5, socks5h or socks4a for proxies, ws or wss for the tunnel of a seikan serve, ws+raw or wss+raw for a plain WebSocket bridge, or direct; repeat it for a chain, first hop first",
  }),
  route: list({
    group: "Route",
    metavar: "PATTERN=HOPS",
    separator: " ",
    secret: true,
    parse: rule,
    help: "Send some targets another way: direct, or hop URLs with commas; PATTERN is a host, *.host, host:port, :port or CIDR",
    section: {
      name: "route",
      entry: (v) => v.union([v.string(), v.array(v.string())], "expected a hop, or a list of hops"),
      read: (pattern, hops: string | readonly string[]) => rule(`${pattern}=${[hops].flat().join(",")}`),
    },
  }),
  resolve: list({
    group: "Route",
    metavar: "HOST:PORT:ADDR",
    parse: resolution,
    help: "Use this address for a target or proxy instead of asking the resolver",
  }),
  tunnels: value({
    group: "Route",
    metavar: "N",
    parse: integer(1, 16),
    default: "1",
    help: "Connections to keep to each ws:// or wss:// hop; streams are spread over them",
  }),
  ipv4: flag({ group: "Route", short: "4", help: "Dial IPv4 addresses only" }),
  ipv6: flag({ group: "Route", short: "6", help: "Dial IPv6 addresses only" }),
  "proxy-auth-file": value({
    group: "Proxy",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Credentials for the first proxy whose URL has none: USER:PASS, or a whole value such as Bearer TOKEN",
  }),
  "proxy-auth": value({
    group: "Proxy",
    metavar: "USER:PASS",
    secret: true,
    parse: text,
    help: "The same, given here; better in the environment, where other users cannot see it",
  }),
  "proxy-header": list({
    group: "Proxy",
    metavar: "'NAME: VALUE'",
    separator: "\n",
    secret: true,
    parse: fieldLine,
    help: "Add a field to each request to an HTTP proxy; Host replaces ours in CONNECT",
  }),
  "proxy-cacert": value({
    group: "Proxy",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Also trust these authorities (PEM) for https:// proxies",
  }),
  "proxy-cert": value({
    group: "Proxy",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Client certificate (PEM) for https:// proxies",
  }),
  "proxy-key": value({ group: "Proxy", metavar: "FILE", isPath: true, parse: text, help: "Its key" }),
  "proxy-insecure": flag({ group: "Proxy", help: "Accept any certificate from https:// proxies" }),
  "connect-timeout": value({
    group: "Limits",
    metavar: "TIME",
    parse: duration,
    default: "10s",
    help: "Give up on a target that does not answer, all hops included",
  }),
  "ping-interval": value({
    group: "Limits",
    metavar: "TIME",
    parse: duration,
    default: "15s",
    help: "Ask the other end of a quiet tunnel or WebSocket for a sign of life this often; it has 10s to give one; 0 is never",
  }),
  "idle-timeout": value({
    group: "Limits",
    metavar: "TIME",
    parse: duration,
    default: "0",
    help: "End a tunnel when no byte moves for this long; 0 is never",
  }),
  "linger-timeout": value({
    group: "Limits",
    metavar: "TIME",
    parse: duration,
    default: "5m",
    help: "End a tunnel that is closed on one side and silent on the other",
  }),
  "max-connections": value({
    group: "Limits",
    metavar: "N",
    parse: integer(1, 1_000_000),
    help: "Serve at most this many at once [default: what the descriptor limit allows]",
  }),
  "drain-timeout": value({
    group: "Limits",
    metavar: "TIME",
    parse: duration,
    default: "30s",
    help: "After SIGTERM, wait this long for connections to finish",
  }),
} as const satisfies OptionSpecs;

/** Throws unless it is a hop; hops are made where all of them are known. */
function hop(input: string): string {
  parseHop(text(input));
  return input;
}

function rule(input: string): string {
  const at = input.indexOf("=");
  if (at < 1)
    throw usageError(
      "expected PATTERN=direct or PATTERN=URL,URL",
      "for example --route '*.corp=http://proxy.corp:3128'",
    );
  parsePattern(input.slice(0, at));
  for (const one of input.slice(at + 1).split(",")) hop(one.trim());
  return input;
}

/** `HOST:PORT`, and the address that counts for it. */
function resolution(input: string): [string, string] {
  const match = /^(\[[^\]]+\]|[^:]+):(\d+):(.+)$/.exec(input);
  const host = match === null ? undefined : canonicalHost(match[1]!);
  const address = match === null ? undefined : parseIp(match[3]!.replace(/^\[(.*)\]$/, "$1"));
  if (match === null || host === undefined || address === undefined || parsePort(match[2]!) === undefined) {
    throw usageError(`expected HOST:PORT:ADDRESS, got "${input}"`);
  }
  return [`${host}:${match[2]}`, address.toString()];
}

/** Name and value of a field; the message never shows them. */
function fieldLine(input: string): [string, string] {
  const colon = input.indexOf(":");
  const name = input.slice(0, colon).trim();
  const content = input.slice(colon + 1).trim();
  if (colon < 1 || !isFieldName(name) || !isFieldValue(content)) throw usageError("expected 'Name: value'");
  return [name, content];
}

/** Credentials; the message never shows them. */
export function userPass(input: string): string {
  if (input.indexOf(":") < 1) throw usageError("expected USER:PASS");
  return input;
}

/** A list of targets, with commas. */
export function patterns(input: string): Pattern[] {
  return input
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map(parsePattern);
}
