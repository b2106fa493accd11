import { isLoopbackHost } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import type { AgentRegistry } from "./agent-registry.ts";
import type { ServiceSites } from "./service-sites.ts";
import type { Asked, Site, Sites } from "./sites.ts";

/** Every host of a server: its own services first, then what agents expose. */
export class SiteDirectory implements Sites {
  readonly #services: ServiceSites;
  readonly #registry: AgentRegistry;

  constructor(services: ServiceSites, registry: AgentRegistry) {
    this.#services = services;
    this.#registry = registry;
  }

  find(host: string, asked: Asked): Site | undefined {
    return this.#services.find(host, asked) ?? this.#registry.find(host);
  }

  isApex(host: string, exposed: boolean): boolean {
    return this.#registry.isApex(host, exposed);
  }

  /** A name that somebody made point to a server with services gets nothing from it (DNS rebinding). */
  unknown(host: string, exposed: boolean): SeikanError {
    if (exposed || this.#services.isEmpty || isLoopbackHost(host)) return this.#registry.unknown(host);
    return new SeikanError("wrong-host", `this server is not ${host.slice(0, 253)}`);
  }
}
