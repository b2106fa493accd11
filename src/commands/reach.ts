import { readFileSync } from "node:fs";
import type { Target } from "../core/address.ts";
import { SeikanError, usageError } from "../core/errors.ts";
import type { ValuesOf } from "../core/options.ts";
import { parsePattern, type Pattern } from "../core/pattern.ts";
import { proxyFromEnv } from "../core/proxy-env.ts";
import { RouteTable, type RouteRule } from "../routes/route-table.ts";
import { splitUser } from "../routes/users.ts";
import {
  Chains,
  endpointOf,
  parseHop,
  redactUrl,
  type Hop,
  type HopSettings,
  type TunnelSettings,
} from "../transports/chain.ts";
import type { ProxySecret } from "../transports/proxy-credentials.ts";
import { directDialer } from "../transports/direct.ts";
import type { TcpOptions } from "../transports/tcp.ts";
import { heartbeatEvery } from "../transports/pulse.ts";
import type { Dialer } from "../transports/transport.ts";
import type { Tunnel } from "../transports/tunnel.ts";
import type { WebSocketHop } from "../transports/websocket-hop.ts";
import type { REACH_OPTIONS } from "./command.ts";

type AllReachValues = ValuesOf<typeof REACH_OPTIONS>;
/** Rules are for those who dial many targets. */
export type ReachValues = Omit<AllReachValues, "route"> & Partial<Pick<AllReachValues, "route">>;
type Env = Readonly<Record<string, string | undefined>>;

/** Reads a file that an option names; the error says which option. */
export function readOptionFile(path: string, option: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw usageError(`--${option}: cannot read ${path}: ${(cause as { code?: string }).code ?? String(cause)}`);
  }
}

interface ReachExtras {
  readonly authCommand?: ProxySecret | undefined;
  readonly agents?: HopSettings["agents"];
}

/** Builds what chooses and makes connections, from the options `connect` and `serve` share. */
export class Reach {
  readonly #values: ReachValues;
  readonly #viaSource: string;
  readonly #tcp: TcpOptions;
  readonly #settings: HopSettings;
  readonly #chains: Chains;
  /** Without any hop. */
  readonly direct: Dialer;
  readonly #secret: ProxySecret | undefined;
  /** One table per choice. */
  readonly #tables = new Map<string, RouteTable>();

  constructor(values: ReachValues, viaSource: string, onTunnel: TunnelSettings["report"], more: ReachExtras = {}) {
    this.#values = values;
    this.#viaSource = viaSource;
    this.#tcp = tcpOptions(values);
    this.#secret = more.authCommand ?? givenSecret(values);
    this.direct = directDialer(this.#tcp);
    this.#settings = {
      tcp: this.#tcp,
      fields: values["proxy-header"].flat(),
      tls: proxyTls(values),
      tunnel: {
        connections: values.tunnels,
        connectMs: values["connect-timeout"],
        heartbeat: heartbeatEvery(values["ping-interval"]),
        report: onTunnel,
      },
      agents: more.agents,
    };
    this.#chains = new Chains(this.direct, this.#settings);
  }

  /** The WebSocket endpoint `server`, behind the hops that lead there. */
  endpoint(server: Hop, env: Env): WebSocketHop {
    const { hops } = this.forTarget(server.proxy, env).choose(server.proxy);
    return endpointOf([...hops, server], this.#chains, this.#settings);
  }

  /** The tunnels of all ways chosen from so far. */
  get tunnels(): readonly Tunnel[] {
    return [...this.#tables.values()].flatMap((table) => table.tunnels);
  }

  /** Ways for `serve` and for explicit `--via`: the environment is not asked. */
  explicit(): RouteTable {
    const { via } = this.#values;
    return this.#table(via, via.length === 0 ? "no --via" : this.#viaSource);
  }

  /** Ways that lead straight to each target. */
  withoutHops(): RouteTable {
    return this.#table([], "direct");
  }

  /** Ways for one target of `connect`: without `--via` the proxy environment decides. */
  forTarget(target: Target, env: Env): RouteTable {
    if (this.#values.via.length > 0 || target.kind !== "tcp") return this.explicit();
    const chosen = proxyFromEnv(target, env);
    if (chosen === undefined) return this.#table([], "no proxy is set");
    if ("exempt" in chosen) return this.#table([], `${chosen.exempt} exempts it`);
    return this.#table([chosen.url], chosen.variable);
  }

  #table(urls: readonly string[], reason: string): RouteTable {
    const known = this.#tables.get(reason);
    if (known !== undefined) return known;
    const hops = this.#hops(urls, reason);
    const rules = (this.#values.route ?? []).map((text) => this.#rule(text));
    const table = new RouteTable(rules, { hops, reason }, this.#chains);
    this.#tables.set(reason, table);
    return table;
  }

  #rule(text: string): RouteRule {
    const at = text.indexOf("=");
    const pattern = parsePattern(text.slice(0, at));
    return { pattern, hops: this.#hops(text.slice(at + 1).split(","), "--route") };
  }

  #hops(texts: readonly string[], source: string): Hop[] {
    const parsed = texts.map((text) => sourced(source, () => parseHop(text.trim())));
    if (parsed.includes("direct") && parsed.length > 1) throw usageError(`${source}: direct stands alone`);
    const hops = parsed.filter((hop) => hop !== "direct");
    if (hops.some(({ scheme }, index) => scheme === "agent" && index > 0))
      throw usageError(`${source}: an agent comes first, nothing is in front of it`);
    if (this.#secret === undefined) return hops;
    // Given once, so for one proxy: each hop sees its own credentials only.
    const first = hops.findIndex((hop) => hop.secret === undefined);
    return hops.map((hop, index) => (index === first ? { ...hop, secret: this.#secret } : hop));
  }
}

/**
 * An agent's SERVER: `wss://HOST`, also written as its `https://` address;
 * without a path it is `path`. `allowNet` tells whether a word stands there
 * that was meant for `--allow-net`, which takes its list behind `=`.
 */
export function parseServer(text: string, path: string, allowNet: readonly Pattern[] | undefined): Hop {
  const asAllowed = allowNet?.length === 0 ? `did you mean --allow-net=${redactUrl(text)}?` : undefined;
  return sourced("SERVER", () => parseHop(serverUrl(text, asAllowed), path)) as Hop;
}

/** A server's URL with `ws` or `wss`, for which `http` and `https` may stand. */
export function serverUrl(text: string, hint: string = `write wss://${redactUrl(text)} if that is it`): string {
  if (/^(wss?|https?):\/\//i.test(text)) return text.replace(/^http/i, "ws");
  throw usageError(`expected wss://HOST or ws://HOST, got "${redactUrl(text)}"`, hint);
}

/** The error names the option or variable that the hop came from. */
function sourced<T>(source: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof SeikanError) throw usageError(`${source}: ${error.message}`, ...error.hints);
    throw error;
  }
}

function tcpOptions(values: ReachValues): TcpOptions {
  if (values.ipv4 && values.ipv6) throw usageError("-4 and -6 exclude each other");
  const family = values.ipv4 ? 4 : values.ipv6 ? 6 : undefined;
  const resolve = new Map(values.resolve);
  return family === undefined ? { resolve } : { family, resolve };
}

function proxyTls(values: ReachValues): HopSettings["tls"] {
  const read = (option: "proxy-cacert" | "proxy-cert" | "proxy-key") => {
    const path = values[option];
    return path === undefined ? undefined : readOptionFile(path, option);
  };
  if ((values["proxy-cert"] === undefined) !== (values["proxy-key"] === undefined)) {
    throw usageError("--proxy-cert and --proxy-key belong together");
  }
  return {
    ca: read("proxy-cacert"),
    cert: read("proxy-cert"),
    key: read("proxy-key"),
    insecure: values["proxy-insecure"],
  };
}

function givenSecret(values: ReachValues): ProxySecret | undefined {
  const file = values["proxy-auth-file"];
  const text = file === undefined ? values["proxy-auth"] : readOptionFile(file, "proxy-auth-file").trim();
  if (text === undefined || text === "") return undefined;
  if (/^[A-Za-z][A-Za-z0-9_-]* +\S/.test(text)) return { kind: "value", value: text };
  return { kind: "password", ...splitUser(text, file === undefined ? "--proxy-auth" : "--proxy-auth-file") };
}
