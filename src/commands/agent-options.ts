import { choice, flag, integer, list, text, value, type OptionSpecs } from "../core/options.ts";
import { parseHop } from "../transports/chain.ts";
import { patterns, REACH_OPTIONS, type Invocation } from "./command.ts";
import { exposeEntry, parseExposure, readExposure } from "./exposures.ts";
import { serverUrl } from "./reach.ts";

const { route: _, tunnels: __, ...REACHING } = REACH_OPTIONS;

export const AGENT_OPTIONS = {
  expose: list({
    group: "Expose",
    short: "e",
    metavar: "SPEC",
    separator: " ",
    secret: true,
    parse: parseExposure,
    section: { name: "expose", entry: exposeEntry, read: readExposure },
    help: "[NAME=]http://HOST:PORT, https://…, PORT, unix:/path or file:/dir; host:NAME=… for a whole host name; tcp:PORT=HOST:PORT and udp:PORT=HOST:PORT (0: any port); tls:NAME=HOST:PORT; NAME=tcp://HOST:PORT for the server's users only. Behind commas: auth=USER:PASS, allow=CIDR, host-header=HOST|target, request-header=, response-header=, health=/PATH, sticky=cookie|address, proxy-protocol=v2, upstream-insecure=yes, listing=yes, name=",
  }),
  "upstream-insecure": flag({ group: "Expose", help: "Accept any certificate from https:// services" }),
  "wait-upstream": flag({ group: "Expose", help: "Be ready only once the local services accept connections, too" }),
  "allow-net": value({
    group: "Expose",
    metavar: "LIST",
    bare: "",
    parse: patterns,
    help: "What the server may have dialled from here besides the exposures: hosts, *.wildcards, host:port, :port, CIDRs; without LIST everything [default: nothing]",
  }),
  server: list({
    group: "Server",
    metavar: "URL",
    separator: " ",
    secret: true,
    parse: server,
    help: "The same as SERVER, for the file and the environment; arguments count before it",
  }),
  name: value({
    group: "Server",
    metavar: "ID",
    parse: text,
    help: "This agent's name at the server [default: the host name]",
  }),
  token: value({
    group: "Server",
    metavar: "TOKEN",
    secret: true,
    parse: text,
    help: "What the server asks agents for; better in SEIKAN_TOKEN, where other users cannot see it",
  }),
  "token-file": value({ group: "Server", metavar: "FILE", isPath: true, parse: text, help: "The same, in a file" }),
  protocol: value({
    group: "Server",
    metavar: "NAME",
    parse: choice("seikan", "wsp"),
    default: "seikan",
    help: "wsp serves an unmodified wsp server (docs/wsp.md): SERVER is ws://HOST:PORT/register, --allow-net says what it may ask for",
  }),
  "wsp-config": value({
    group: "Server",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "A configuration file of wsp's client (YAML): targets, pool sizes, secret key, rules",
  }),
  tunnels: value({
    group: "Server",
    metavar: "N",
    parse: integer(1, 16),
    default: "2",
    help: "Connections to keep to each server; streams are spread over them",
  }),
  "max-retries": value({
    group: "Server",
    metavar: "N",
    parse: integer(0, 1_000_000),
    help: "Give up after this many failed attempts in a row more [default: never]",
  }),
  "fail-fast": flag({ group: "Server", help: "Give up at the first failed attempt" }),
  ...REACHING,
  qr: flag({ group: "General", help: "Show the first URL as a QR code" }),
  "no-request-log": flag({ group: "General", help: "Do not hear from the server about each request" }),
} as const satisfies OptionSpecs;

export type AgentInvocation = Invocation<typeof AGENT_OPTIONS>;
export type AgentValues = AgentInvocation["values"];

/** The servers to register with, as they were written. */
export function serversOf({ positionals, values }: Pick<AgentInvocation, "positionals" | "values">): readonly string[] {
  return positionals.length > 0 ? positionals : values.server;
}

function server(input: string): string {
  parseHop(serverUrl(input));
  return input;
}
