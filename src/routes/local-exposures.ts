import { privateLabel, tcpTarget, type Target } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import { memoryPair } from "../transports/memory.ts";
import type { Dialer } from "../transports/transport.ts";
import type { Routes, Way } from "./route-table.ts";

const PROBE_SUFFIX = ".probe";

/**
 * What an agent dials for its server: its exposures by name, its own probes,
 * and other targets where it was told to be an exit.
 */
export class LocalExposures implements Routes {
  readonly #services = new Map<string, Way>();
  readonly #exit: Routes | undefined;
  readonly #probes = new Set<string>();

  constructor(exit: Routes | undefined) {
    this.#exit = exit;
  }

  set(name: string, dial: Dialer): void {
    this.#services.set(name, wayOf(dial, `exposure ${name}`));
  }

  delete(name: string): void {
    this.#services.delete(name);
  }

  /** A probe that may come back until the result is called. */
  expect(nonce: string): () => void {
    this.#probes.add(nonce);
    return () => void this.#probes.delete(nonce);
  }

  choose(target: Target): Way {
    const label = target.kind === "unix" ? undefined : privateLabel(target.host);
    if (label === undefined) return this.#chooseExit(target);
    const isProbe = label.endsWith(PROBE_SUFFIX);
    const known = isProbe ? this.#probe(label.slice(0, -PROBE_SUFFIX.length)) : this.#services.get(label);
    if (known !== undefined) return known;
    throw new SeikanError("no-such-site", `this agent has no exposure named ${label.slice(0, 100)}`);
  }

  #probe(nonce: string): Way | undefined {
    return this.#probes.has(nonce) ? wayOf(async () => memoryPair()[0], "a probe of this agent") : undefined;
  }

  #chooseExit(target: Target): Way {
    if (this.#exit !== undefined) return this.#exit.choose(target);
    throw new SeikanError("target-denied", "this agent dials nothing but its exposures", {
      hints: ["its --allow-net says what else it may dial"],
    });
  }
}

/** Everything about it was decided by whoever configured this agent: no permission is asked for. */
function wayOf(dial: Dialer, reason: string): Way {
  return {
    ...{ hops: [], httpProxy: undefined, tunnels: [], probe: () => Promise.resolve() },
    dial: (_, { deadline, source }) => dial(tcpTarget("localhost", 0), { deadline, source }),
    ...{ reason, resolvesHere: true },
  };
}
