import { parseAddressRange, parseListen, parseTarget, type ListenAddress } from "../core/address.ts";
import { usageError } from "../core/errors.ts";
import {
  choice,
  duration,
  flag,
  integer,
  list,
  section,
  size,
  text,
  value,
  type OptionSpecs,
} from "../core/options.ts";
import { parsePattern } from "../core/pattern.ts";
import { knownToken, TokenEntry } from "../routes/agent-tokens.ts";
import type { Grant } from "../routes/permissions.ts";
import type { WebSocketRoute } from "../routes/websocket-bridge.ts";
import { TUNNEL_PATH } from "../transports/chain.ts";
import { patterns, REACH_OPTIONS, userPass, type Invocation } from "./command.ts";
import { parseBindRanges, parseDomain } from "./serve-agents.ts";
import { checkServices, readService, serviceEntry } from "./service-options.ts";

export const SERVE_OPTIONS = {
  listen: list({
    group: "Listen",
    short: "l",
    metavar: "ADDR",
    parse: parseListener,
    help: "PORT (loopback), ADDR:PORT, [v6]:PORT, unix:/path or fd:N; https:// in front for TLS [default: 127.0.0.1:8080]",
  }),
  "tls-cert": list({
    group: "Listen",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Certificate chain (PEM) of https:// listeners; several are chosen by server name",
  }),
  "tls-key": list({
    group: "Listen",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Its key, one for each --tls-cert, in the same order",
  }),
  "tls-client-ca": value({
    group: "Listen",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Clients of https:// listeners must show a certificate of this authority",
  }),
  "proxy-protocol": flag({ group: "Listen", help: "Every connection begins with a PROXY header, version 1 or 2" }),
  "trusted-proxy": list({
    group: "Listen",
    metavar: "CIDR",
    parse: parseAddressRange,
    help: "Peers that are believed about who asks: their X-Forwarded fields, and their PROXY header (there loopback always is)",
  }),
  auth: list({
    group: "Users",
    metavar: "USER:PASS",
    separator: " ",
    secret: true,
    parse: userPass,
    help: "Who may dial through this server",
  }),
  "auth-file": value({
    group: "Users",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "htpasswd file with bcrypt or argon2 hashes, read again when it changes",
  }),
  "no-auth": flag({ group: "Users", isPersonal: true, help: "Let everybody dial, also on an exposed listener" }),
  admin: list({
    group: "Users",
    metavar: "USER",
    parse: text,
    help: "This user may see /-/agents and /-/metrics, and start and stop services at /-/services",
  }),
  "allow-net": value({
    group: "Permissions",
    metavar: "LIST",
    bare: "",
    parse: patterns,
    help: "What may be dialled: hosts, *.wildcards, host:port, :port, CIDRs; without LIST everything",
  }),
  "deny-net": list({
    group: "Permissions",
    metavar: "LIST",
    separator: "\n",
    parse: patterns,
    help: "What may not be dialled; wins over --allow-net",
  }),
  grant: list({
    group: "Permissions",
    metavar: "USER=LIST",
    separator: " ",
    parse: grant,
    help: "What a user may reach besides: NAME.agent.internal, agent:NAME to dial through an agent, hosts; * for USER means everybody",
  }),
  domain: value({
    group: "Agents",
    metavar: "DOMAIN",
    parse: parseDomain,
    help: "Exposures are NAME.DOMAIN; write https://DOMAIN[:PORT] when a proxy in front speaks TLS [default: NAME.localhost]",
  }),
  "agent-token": list({
    group: "Agents",
    metavar: "TOKEN",
    separator: " ",
    secret: true,
    parse: text,
    help: "Agents must show it; it may register anything",
  }),
  tokens: value({
    group: "Agents",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "Tokens with rights (TOML, see seikan token), read again when it changes",
  }),
  token: section("Agents", "A token with rights, as in the --tokens file", {
    name: "token",
    entry: () => TokenEntry,
    read: knownToken,
  }),
  "allow-bind": list({
    group: "Agents",
    metavar: "PORTS",
    parse: parseBindRanges,
    help: "Ports that agents may open: PORT, FIRST-LAST, ADDR:PORT; on the first listener's address unless told otherwise",
  }),
  wsp: flag({
    group: "Agents",
    help: "Serve wsp clients at /register and their callers at /request, too (docs/wsp.md)",
  }),
  "wsp-config": value({
    group: "Agents",
    metavar: "FILE",
    isPath: true,
    parse: text,
    help: "A configuration file of wsp's server (YAML): address, time-outs, secret key, rules; implies --wsp",
  }),
  service: section(
    "Services",
    "A development server that is started when somebody visits it: host, port, cwd, command, idle \u2026 (docs/services.md)",
    {
      name: "service",
      entry: serviceEntry,
      read: readService,
      together: checkServices,
    },
  ),
  "tunnel-path": value({
    group: "WebSocket",
    metavar: "PATH",
    default: TUNNEL_PATH,
    parse: path,
    help: "Where seikan connect --via ws://… finds the tunnel",
  }),
  "no-tunnel": flag({ group: "WebSocket", help: "Offer no tunnel" }),
  "ws-route": list({
    group: "WebSocket",
    metavar: "PATH=TARGET",
    separator: " ",
    parse: webSocketRoute,
    help: "A plain WebSocket at PATH leads to TARGET (HOST:PORT or unix:/path), for browsers and other people's clients",
  }),
  "ws-auth": flag({
    group: "WebSocket",
    help: "Ask for a user at every --ws-route; without it only on exposed listeners",
  }),
  "ws-origin": list({
    group: "WebSocket",
    metavar: "ORIGIN",
    separator: " ",
    parse: text,
    help: "Pages of this origin (https://app.example.com) may open WebSockets here; browsers of other pages are refused",
  }),
  ...REACH_OPTIONS,
  "max-connections-per-address": value({
    group: "Limits",
    metavar: "N",
    parse: integer(1, 1_000_000),
    default: "1000",
    help: "Connections from one address at once; loopback is not counted",
  }),
  "header-timeout": value({
    group: "Limits",
    metavar: "TIME",
    parse: duration,
    default: "30s",
    help: "A client must send a complete request head within this",
  }),
  "body-timeout": value({
    group: "Limits",
    metavar: "TIME",
    parse: duration,
    default: "60s",
    help: "A request body that stands still this long is given up",
  }),
  "response-timeout": value({
    group: "Limits",
    metavar: "TIME",
    parse: duration,
    default: "30s",
    help: "What an agent exposes must begin to answer a request within this; 0 is never",
  }),
  "max-header-size": value({
    group: "Limits",
    metavar: "SIZE",
    parse: size,
    default: "64KiB",
    help: "Longest request or response head",
  }),
  "max-headers": value({
    group: "Limits",
    metavar: "N",
    parse: integer(1, 10_000),
    default: "100",
    help: "Most fields in a head",
  }),
  "no-via": flag({ group: "Log", help: "Add no Via field to forwarded messages" }),
  "access-log": value({
    group: "Log",
    metavar: "STYLE",
    parse: choice("pretty", "json", "off"),
    help: "One line a tunnel or request: pretty on stderr, json on stdout, or off [default: pretty; json with --json]",
  }),
  "log-query": flag({ group: "Log", help: "Keep query strings in the access log" }),
} as const satisfies OptionSpecs;

export type ServeInvocation = Invocation<typeof SERVE_OPTIONS>;
export type ServeValues = ServeInvocation["values"];

function grant(input: string): readonly [string, Grant] {
  const at = input.indexOf("=");
  if (at < 1) throw usageError(`expected USER=LIST, got "${input}"`, "for example --grant alice=db.agent.internal");
  const entries = input
    .slice(at + 1)
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
  const isAgent = (entry: string) => entry.startsWith("agent:");
  const agents = entries.filter(isAgent).map((entry) => entry.slice("agent:".length).toLowerCase());
  return [input.slice(0, at), { agents, targets: entries.filter((entry) => !isAgent(entry)).map(parsePattern) }];
}

function webSocketRoute(input: string): WebSocketRoute {
  const at = input.indexOf("=");
  if (at < 1) throw usageError(`expected PATH=HOST:PORT, got "${input}"`, "for example --ws-route /vnc=127.0.0.1:5900");
  return { path: path(input.slice(0, at)), target: parseTarget(input.slice(at + 1)) };
}

function path(input: string): string {
  if (/^\/[\x21-\x7e]*$/.test(input) && !/[?#]/.test(input)) return input;
  throw usageError(`expected a path such as /tunnel, got "${input}"`);
}

/** Where to listen, and whether TLS is spoken there. */
export interface ListenSpec {
  readonly address: ListenAddress;
  readonly isTls: boolean;
}

export function parseListener(given: string): ListenSpec {
  const address = parseListen(given.replace(/^https?:\/\//, "").replace(/\/$/, ""));
  return { address, isTls: given.startsWith("https://") };
}
