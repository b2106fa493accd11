import { networkInterfaces } from "node:os";
import {
  formatHostPort,
  inNetwork,
  isPrivateName,
  parseIp,
  parseNetwork,
  type IpAddress,
  type Network,
  type TcpTarget,
} from "../core/address.ts";
import { now } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import { matches, type Pattern } from "../core/pattern.ts";

/** Who asks, as far as permission depends on it. */
export interface Asking {
  readonly exposed: boolean;
  readonly user: string | undefined;
}

/** What `--allow-net` and `--deny-net` say. */
export interface NetRules {
  /** Undefined: not given. An empty list: given without a list, anything goes. */
  readonly allow: readonly Pattern[] | undefined;
  readonly deny: readonly Pattern[];
  /** What a user may reach besides; `*` stands for everybody. */
  readonly grants?: ReadonlyMap<string, Grant>;
}

/** What `--grant USER=LIST` says. */
export interface Grant {
  readonly targets: readonly Pattern[];
  /** Agents that may dial for this user; `*`: all. */
  readonly agents: readonly string[];
}

/**
 * May this be dialled? A deny wins; a wildcard or port grant never reaches
 * private addresses, an exact host or network does. Without any grant an
 * exposed server dials public addresses only, any other server anything.
 */
export class Permissions {
  readonly #rules: NetRules;
  readonly #ownListeners: () => Iterable<TcpTarget>;

  constructor(rules: NetRules, ownListeners: () => Iterable<TcpTarget> = () => []) {
    this.#rules = rules;
    this.#ownListeners = ownListeners;
  }

  /** Throws unless this address, which `target` stands for, may be dialled from here. */
  checkAddress(address: IpAddress, target: TcpTarget, exposed: boolean): void {
    if (this.#isOwnListener(address, target.port)) {
      throw denied(target, address, "it is this server itself");
    }
    if (this.#rules.deny.some((pattern) => matches(pattern, target, address))) {
      throw denied(target, address, "--deny-net forbids it");
    }
    const isPublic = isPublicAddress(address);
    const { allow } = this.#rules;
    if (allow === undefined) {
      if (!exposed || isPublic) return;
      throw denied(
        target,
        address,
        "an exposed server dials public addresses only",
        "--allow-net names what else it may dial",
      );
    }
    if (allow.length === 0) return;
    const grants = allow.filter((pattern) => matches(pattern, target, address));
    if (grants.some((pattern) => isPublic || isExact(pattern))) return;
    throw denied(
      target,
      address,
      grants.length > 0 ? "a wildcard grant does not reach private addresses" : "--allow-net does not name it",
    );
  }

  /** Throws unless a later hop or an agent may be asked for this name, which it resolves itself. */
  checkName(target: TcpTarget, { exposed, user }: Asking, agent?: string): void {
    const { allow, deny } = this.#rules;
    if (deny.some((pattern) => matches(pattern, target))) throw deniedName(target, "--deny-net forbids it");
    const literal = parseIp(target.host);
    const isChecked = literal !== undefined || isPrivateName(target.host);
    if (!isChecked && deny.some((pattern) => pattern.host.kind === "network")) {
      throw deniedName(target, "--deny-net names networks, and a later hop resolves this name");
    }
    if (this.#isGranted(target, user, agent)) return;
    if (agent !== undefined && exposed)
      throw deniedName(target, `an exposed server asks agents only for users that may`, GRANT_HINT);
    if (agent !== undefined && allow === undefined) return;
    if (literal !== undefined) return this.checkAddress(literal, target, exposed);
    if (allow === undefined) {
      if (!exposed) return;
      throw deniedName(target, "a later hop resolves it, so an exposed server needs --allow-net to name it");
    }
    if (allow.length === 0 || allow.some((pattern) => matches(pattern, target))) return;
    throw deniedName(target, "--allow-net does not name it");
  }

  #isGranted(target: TcpTarget, user: string | undefined, agent: string | undefined): boolean {
    const { grants } = this.#rules;
    const literal = parseIp(target.host);
    const own = [user === undefined ? undefined : grants?.get(user), grants?.get("*")];
    return own.some((grant) => {
      if (grant === undefined) return false;
      const isPublic = literal === undefined || isPublicAddress(literal);
      if (grant.targets.some((pattern) => matches(pattern, target) && (isPublic || isExact(pattern)))) return true;
      const byAgent = agent !== undefined && !isPrivateName(target.host);
      return byAgent && grant.agents.some((name) => name === "*" || name === agent);
    });
  }

  #isOwnListener(address: IpAddress, port: number): boolean {
    for (const own of this.#ownListeners()) {
      if (own.port !== port) continue;
      const bound = parseIp(own.host);
      if (bound === undefined) continue;
      if (address.toString() === bound.toString()) return true;
      // 0.0.0.0 reaches a loopback listener; a listener on every address is reached by each of ours.
      if (address.range() === "unspecified") return true;
      if (bound.range() === "unspecified" && isOwnAddress(address)) return true;
      if (bound.range() === "loopback" && address.range() === "loopback" && bound.kind() === "ipv6") return true;
    }
    return false;
  }
}

function isExact(pattern: Pattern): boolean {
  return pattern.host.kind === "exact" || pattern.host.kind === "network";
}

function denied(target: TcpTarget, address: IpAddress, why: string, hint?: string): SeikanError {
  const place = formatHostPort(target.host, target.port);
  const resolved = parseIp(target.host) === undefined ? ` (${address.toString()})` : "";
  return new SeikanError(
    "address-denied",
    `${place}${resolved} may not be dialled: ${why}`,
    hint === undefined ? {} : { hints: [hint] },
  );
}

function deniedName(target: TcpTarget, why: string, ...hints: string[]): SeikanError {
  const message = `${formatHostPort(target.host, target.port)} may not be dialled: ${why}`;
  return new SeikanError("target-denied", message, { hints });
}

const GRANT_HINT = "--grant USER=NAME.agent.internal or --grant USER=agent:NAME lets a user";

const INTERFACES_MS = 10_000;
let interfaceAddresses: { readonly until: number; readonly addresses: ReadonlySet<string> } = {
  until: 0,
  addresses: new Set(),
};

function isOwnAddress(address: IpAddress): boolean {
  if (address.range() === "loopback") return true;
  if (interfaceAddresses.until < now()) {
    const entries = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
    const addresses = entries.map((entry) => parseIp(entry.address.split("%")[0]!)?.toString() ?? "");
    interfaceAddresses = { until: now() + INTERFACES_MS, addresses: new Set(addresses) };
  }
  return interfaceAddresses.addresses.has(address.toString());
}

/** Everything IANA does not route publicly (RFC 6890 and its successors). */
const NOT_PUBLIC: readonly Network[] = `
  0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
  192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
  ::/128 ::1/128 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 fc00::/7 fe80::/10 fec0::/10 ff00::/8`
  .trim()
  .split(/\s+/)
  .map((text) => parseNetwork(text)!);

/** IPv6 networks that carry an IPv4 address, and where it begins (in bytes). */
const EMBEDDING: readonly [Network, number][] = [
  [parseNetwork("64:ff9b::/96")!, 12],
  [parseNetwork("2002::/16")!, 2],
  [parseNetwork("::/96")!, 12],
];

export function isPublicAddress(address: IpAddress): boolean {
  // This host's own public address is no way around its loopback.
  if (NOT_PUBLIC.some((network) => inNetwork(address, network)) || isOwnAddress(address)) return false;
  const bytes = address.toByteArray();
  for (const [network, at] of EMBEDDING) {
    if (!inNetwork(address, network)) continue;
    const inner = parseIp(bytes.slice(at, at + 4).join("."));
    if (inner === undefined || !isPublicAddress(inner)) return false;
  }
  return true;
}
