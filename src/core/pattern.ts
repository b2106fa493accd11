import {
  canonicalHost,
  inNetwork,
  parseIp,
  parseNetwork,
  parsePort,
  type IpAddress,
  type Network,
  type TcpTarget,
} from "./address.ts";
import { usageError } from "./errors.ts";

/**
 * Which targets are meant: `host`, `*.host`, `host:port`, `*.host:port`,
 * `:port`, an address or a CIDR (with `:port` behind IPv4 or `[v6]`).
 */
export interface Pattern {
  readonly text: string;
  readonly host: HostPattern;
  readonly port: number | undefined;
}

type HostPattern =
  | { readonly kind: "any" }
  | { readonly kind: "exact"; readonly name: string }
  | { readonly kind: "below"; readonly suffix: string }
  | { readonly kind: "network"; readonly network: Network };

export function parsePattern(text: string): Pattern {
  const match = /^(\[[^\]]+\](?:\/\d+)?|[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*(?:\/\d+)?|[^:]*)(?::(\d+))?$/i.exec(text);
  const port = match?.[2] === undefined ? undefined : parsePort(match[2]);
  const host = match === null ? undefined : parseHostPattern(match[1]!);
  if (
    host === undefined ||
    (match?.[2] !== undefined && port === undefined) ||
    (host.kind === "any" && port === undefined)
  ) {
    throw usageError(`cannot read "${text}": expected host, *.host, host:port, :port, an address or a CIDR`);
  }
  return { text, host, port };
}

function parseHostPattern(text: string): HostPattern | undefined {
  if (text === "" || text === "*") return { kind: "any" };
  if (text.startsWith("*.") || text.startsWith(".")) {
    const suffix = canonicalHost(text.replace(/^\*?\./, ""));
    return suffix === undefined ? undefined : { kind: "below", suffix: `.${suffix}` };
  }
  const bare = text.replace(/^\[([^\]]*)\]/, "$1");
  const network = parseNetwork(bare);
  if (network !== undefined) return { kind: "network", network };
  const address = parseIp(bare);
  if (address !== undefined)
    return { kind: "network", network: { address, bits: address.kind() === "ipv4" ? 32 : 128 } };
  const name = canonicalHost(text);
  return name === undefined ? undefined : { kind: "exact", name };
}

/** True when the pattern speaks of this name, or of this address the name stands for. */
export function matches(
  pattern: Pattern,
  target: TcpTarget,
  address: IpAddress | undefined = parseIp(target.host),
): boolean {
  if (pattern.port !== undefined && pattern.port !== target.port) return false;
  const host = pattern.host;
  switch (host.kind) {
    case "any":
      return true;
    case "exact":
      return host.name === target.host;
    case "below":
      return target.host.endsWith(host.suffix);
    case "network":
      return address !== undefined && inNetwork(address, host.network);
  }
}

const KIND_RANK = { exact: 3, network: 2, below: 1, any: 0 } as const;

/** Larger is more specific: the kind first, then the length, then a port. */
export function specificity(pattern: Pattern): number {
  const { host, port } = pattern;
  const length = host.kind === "network" ? host.network.bits : host.kind === "below" ? host.suffix.length : 0;
  return KIND_RANK[host.kind] * 10_000 + length * 10 + (port === undefined ? 0 : 1);
}
