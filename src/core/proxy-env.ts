import { inNetwork, parseIp, parseNetwork, type TcpTarget } from "./address.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** A proxy that the environment chose, and the variable that did. */
export interface EnvProxy {
  readonly url: string;
  readonly variable: string;
}

const VARIABLES = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"] as const;

/**
 * The proxy for a target, which has no URL scheme: HTTPS_PROXY, then ALL_PROXY,
 * then HTTP_PROXY; lower case wins. `HTTP_PROXY` is ignored in a CGI program,
 * where a request header can set it (CVE-2016-5385). Answers the reason alone
 * when NO_PROXY exempts the target.
 */
export function proxyFromEnv(target: TcpTarget, env: Env): EnvProxy | { readonly exempt: string } | undefined {
  const variable = VARIABLES.find(
    (name) => isSet(env[name]) && !(name === "HTTP_PROXY" && env.REQUEST_METHOD !== undefined),
  );
  if (variable === undefined) return undefined;
  const exempting = ["no_proxy", "NO_PROXY"].find((name) => isSet(env[name]));
  if (exempting !== undefined && isExempt(target, env[exempting]!)) return { exempt: exempting };
  const url = env[variable]!.trim();
  return { url: url.includes("://") ? url : `http://${url}`, variable };
}

function isSet(text: string | undefined): text is string {
  return text !== undefined && text.trim() !== "";
}

/**
 * NO_PROXY as published in docs/proxy-environment.md: curl's rules, plus
 * `host:port` and `*.suffix`; entries are separated by commas or spaces.
 */
export function isExempt(target: TcpTarget, list: string): boolean {
  const host = target.host.toLowerCase().replace(/%.*$/, "").replace(/\.$/, "");
  const address = parseIp(host);
  return list.split(/[\s,]+/).some((entry) => {
    if (entry === "*") return true;
    const { name, port } = splitPort(entry.toLowerCase());
    if (name === "" || (port !== undefined && port !== target.port)) return false;
    if (address === undefined) return matchesName(host, name);
    const network = parseNetwork(name);
    if (network !== undefined) return inNetwork(address, network);
    return parseIp(name)?.toString() === address.toString();
  });
}

function matchesName(host: string, entry: string): boolean {
  if (entry.startsWith("*.")) return entry.length > 2 && host.endsWith(entry.slice(1).replace(/\.$/, ""));
  const name = entry.replace(/^\./, "").replace(/\.$/, "");
  return name !== "" && (host === name || host.endsWith(`.${name}`));
}

/** `host:port`, `[v6]:port`; a bare IPv6 address has no port. */
function splitPort(entry: string): { name: string; port: number | undefined } {
  const bracketed = /^\[([^\]]*)\](?::(\d+))?$/.exec(entry);
  if (bracketed !== null) return { name: bracketed[1]!, port: numberOf(bracketed[2]) };
  const single = /^([^:]*):(\d+)$/.exec(entry);
  return single === null ? { name: entry, port: undefined } : { name: single[1]!, port: numberOf(single[2]) };
}

function numberOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number(text);
}
