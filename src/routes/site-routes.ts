import type { Target } from "../core/address.ts";
import type { ByteStream } from "../core/stream.ts";
import { memoryPair } from "../transports/memory.ts";
import type { Dialer, Source } from "../transports/transport.ts";
import type { AgentRegistry } from "./agent-registry.ts";
import type { Routes, RouteTable, Way } from "./route-table.ts";
import type { Sites } from "./sites.ts";

/** A dialer of its own kind needs no more than this to be a way. */
function wayOf(dial: Dialer, reason: string): Way {
  return {
    ...{ hops: [], httpProxy: undefined, tunnels: [], probe: () => Promise.resolve() },
    ...{ dial, reason, resolvesHere: true },
  };
}

/**
 * The ways of a server with agents: private exposures and our own sites first,
 * then the agent that the request names, then the route table.
 */
export class SiteRoutes implements Routes {
  #table: RouteTable;
  readonly #registry: AgentRegistry;
  readonly #sites: Sites;
  readonly #own: Way;

  /** `enter` serves a client that came to one of our sites through ourselves, and owns its stream. */
  constructor(
    table: RouteTable,
    registry: AgentRegistry,
    sites: Sites,
    enter: (stream: ByteStream, from: Source) => void,
  ) {
    this.#table = table;
    this.#registry = registry;
    this.#sites = sites;
    this.#own = wayOf(async (_, { source }) => {
      const [inside, outside] = memoryPair();
      enter(inside, source ?? { address: "", port: 0 });
      return outside;
    }, "a site of this server");
  }

  /** From now on the ways of this table. */
  use(table: RouteTable): void {
    this.#table = table;
  }

  choose(target: Target, agent?: string): Way {
    if (target.kind === "tcp") {
      const hidden = this.#registry.privateWay(target.host, target.port);
      if (hidden !== undefined) return hidden;
      // Who may see it is asked there.
      if (this.#sites.find(target.host, { path: undefined, exposed: false }) !== undefined) return this.#own;
      if (this.#registry.passthrough(target.host) !== undefined) return this.#own;
    }
    return agent === undefined ? this.#table.choose(target) : this.#exit(agent);
  }

  #exit(name: string): Way {
    const known = name.toLowerCase();
    const hop = { scheme: "agent", proxy: { kind: "tcp", host: known, port: 0 }, path: "", secret: undefined } as const;
    const way = wayOf(this.#registry.exitDialer(known), "Seikan-Agent");
    return { ...way, hops: [hop], agent: known, resolvesHere: false };
  }
}
