import { isLoopbackHost } from "../core/address.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { AgentRegistry } from "./agent-registry.ts";
import type { ServiceSites } from "./service-sites.ts";
import type { Asked, Site, Sites } from "./sites.ts";

/** Of more hosts than these a hint names the first ones. */
const SHOWN_HOSTS = 8;

/** Every host of a server: its own services first, then what agents expose. */
export class SiteDirectory implements Sites {
  readonly #services: ServiceSites;
  readonly #registry: AgentRegistry;

  constructor(services: ServiceSites, registry: AgentRegistry) {
    this.#services = services;
    this.#registry = registry;
  }

  find(host: string, asked: Asked): Site | undefined {
    try {
      return this.#services.find(host, asked) ?? this.#registry.find(host);
    } catch (thrown) {
      throw this.#withServices(toSeikanError(thrown), asked.exposed);
    }
  }

  isApex(host: string, exposed: boolean): boolean {
    return this.#registry.isApex(host, exposed);
  }

  /** A name that somebody made point to a server with services gets nothing from it (DNS rebinding). */
  unknown(host: string, exposed: boolean): SeikanError {
    if (exposed || this.#services.isEmpty || isLoopbackHost(host))
      return this.#withServices(this.#registry.unknown(host), exposed);
    return new SeikanError("wrong-host", `this server is not ${host.slice(0, 253)}`);
  }

  /** Whoever starts services here mistypes their hosts. */
  #withServices(error: SeikanError, exposed: boolean): SeikanError {
    if (error.code !== "no-such-site" || exposed || this.#services.isEmpty) return error;
    const { hosts } = this.#services;
    const more = hosts.length > SHOWN_HOSTS ? " and more" : "";
    return error.hinted(`services here are at ${hosts.slice(0, SHOWN_HOSTS).join(", ")}${more}`);
  }
}
