import { formatTarget, tcpTarget, type Target } from "../core/address.ts";
import { matches, specificity, type Pattern } from "../core/pattern.ts";
import { formatHop, type Chains, type Hop } from "../transports/chain.ts";
import type { HttpHop } from "../transports/hop-request.ts";
import type { Dialer, DialOptions } from "../transports/transport.ts";
import type { Tunnel } from "../transports/tunnel.ts";
import type { AccessEntry } from "./context.ts";

/** How a target is reached. */
export interface Way {
  /** No hops: dialled from here. */
  readonly hops: readonly Hop[];
  readonly dial: Dialer;
  /** The last hop, when it is an HTTP proxy. */
  readonly httpProxy: HttpHop | undefined;
  readonly probe: (options: DialOptions) => Promise<void>;
  /** The tunnels it leads through. */
  readonly tunnels: readonly Tunnel[];
  /** The name becomes an address here, where it can be checked; otherwise at a later hop. */
  readonly resolvesHere: boolean;
  /** The agent that dials. */
  readonly agent?: string | undefined;
  /** The service of ours that answers. */
  readonly service?: string | undefined;
  /** Hears of what went that way. */
  readonly onAccess?: ((entry: AccessEntry) => void) | undefined;
  /** What chose it: a rule, an option or a variable; for people. */
  readonly reason: string;
}

export interface RouteRule {
  readonly pattern: Pattern;
  readonly hops: readonly Hop[];
}

export interface Routes {
  /** The way to a target; through this agent where one is named. */
  choose(target: Target, agent?: string): Way;
}

/** Chooses the way for each target: the most specific rule, then the first, then the default. */
export class RouteTable implements Routes {
  readonly #rules: { pattern: Pattern; way: Way }[];
  readonly #default: Way;

  constructor(rules: readonly RouteRule[], fallback: { hops: readonly Hop[]; reason: string }, chains: Chains) {
    const wayOf = (hops: readonly Hop[], reason: string): Way => ({
      hops,
      reason,
      ...chains.of(hops),
      agent: hops[0]?.scheme === "agent" ? hops[0].proxy.host : undefined,
      resolvesHere: hops.length === 0 || hops.at(-1)!.scheme === "socks5",
    });
    this.#rules = rules
      .map(({ pattern, hops }) => ({ pattern, way: wayOf(hops, `--route ${pattern.text}`) }))
      .sort((a, b) => specificity(b.pattern) - specificity(a.pattern));
    this.#default = wayOf(fallback.hops, fallback.reason);
  }

  /** The way of every target that no rule names. */
  get fallback(): Way {
    return this.#default;
  }

  /** Every tunnel that some target would take. */
  get tunnels(): readonly Tunnel[] {
    return [this.#default, ...this.#rules.map(({ way }) => way)].flatMap((way) => way.tunnels);
  }

  choose(target: Target): Way {
    if (target.kind === "unix") return this.#default;
    const place = tcpTarget(target.host, target.port);
    return this.#rules.find(({ pattern }) => matches(pattern, place))?.way ?? this.#default;
  }
}

/** `direct`, `service:NAME`, or the hops in order, without credentials. */
export function formatWay(way: Way): string {
  if (way.service !== undefined) return `service:${way.service}`;
  return way.hops.length === 0 ? "direct" : way.hops.map(formatHop).join(" ");
}

export function describeWay(target: Target, way: Way): { target: string; hops: string[]; reason: string } {
  return { target: formatTarget(target), hops: way.hops.map(formatHop), reason: way.reason };
}
