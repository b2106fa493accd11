import { canonicalHost, isLoopbackHost } from "../core/address.ts";
import type { Deadline } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import { isAbsent } from "../services/address.ts";
import type { Service } from "../services/service.ts";
import { fieldValue } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { namesFor } from "./exposure-places.ts";
import type { Way } from "./route-table.ts";
import { OPEN_POLICY, type Asked, type Reached, type Site, type Visit, type Visitor } from "./sites.ts";

/** Where a service is found. */
export interface ServiceHosting {
  /** Canonical, or `*.` and one. */
  readonly hosts: readonly string[];
  readonly path: string;
  /** Also for requests from outside. */
  readonly isPublic: boolean;
}

interface Hosted {
  readonly service: Service;
  readonly hosting: ServiceHosting;
}

/** A page is shown to a browser that would have to wait longer than this. */
const MOMENT_MS = 700;

/** Services by host and path: the exact host beats a wildcard, the longest counts. */
export class ServiceSites {
  #hosted = new Map<string, Hosted[]>();

  update(all: readonly Hosted[]): void {
    this.#hosted = new Map();
    for (const one of all) for (const host of one.hosting.hosts) this.#add(host, one);
  }

  #add(host: string, one: Hosted): void {
    const others = this.#hosted.get(host) ?? [];
    const sorted = [...others, one].toSorted((a, b) => b.hosting.path.length - a.hosting.path.length);
    this.#hosted.set(host, sorted);
  }

  get isEmpty(): boolean {
    return this.#hosted.size === 0;
  }

  get hosts(): readonly string[] {
    return [...this.#hosted.keys()];
  }

  /** A service has this host, whoever may see it. */
  has(host: string): boolean {
    return namesFor(host).some((name) => this.#hosted.has(name));
  }

  find(host: string, { path, exposed }: Asked): Site | undefined {
    // Servers without services have the most requests.
    if (this.isEmpty) return undefined;
    for (const name of namesFor(host)) {
      const found = this.#hosted.get(name)?.find(({ hosting }) => isBelow(path, hosting.path));
      if (found === undefined) continue;
      if (exposed && !found.hosting.isPublic) return undefined;
      return new ServiceSite(found.service, exposed, (origin) => this.#isOurs(origin));
    }
    return undefined;
  }

  /** The host of an `Origin` is one of the services. */
  #isOurs(origin: string): boolean {
    const host = canonicalHost(/^https?:\/\/([^/:]+)(?::\d+)?$/i.exec(origin)?.[1] ?? "");
    return host !== undefined && this.has(host);
  }
}

/** `/api` is above `/api` and `/api/x`, not above `/apis`. Without a path the host alone counts. */
function isBelow(path: string | undefined, prefix: string): boolean {
  if (path === undefined || prefix === "/") return true;
  if (!path.startsWith(prefix)) return false;
  return prefix.endsWith("/") || path.length === prefix.length || "/?".includes(path[prefix.length]!);
}

/** A service for one visitor. */
class ServiceSite implements Site {
  readonly policy = OPEN_POLICY;
  readonly #service: Service;
  readonly #exposed: boolean;
  readonly #isOurs: (origin: string) => boolean;

  constructor(service: Service, exposed: boolean, isOurs: (origin: string) => boolean) {
    this.#service = service;
    this.#exposed = exposed;
    this.#isOurs = isOurs;
  }

  async reach(
    { address, port }: Visitor,
    deadline: Deadline,
    tries: (way: Way) => void,
    head: RequestHead,
    onGone: (leave: () => void) => void,
  ): Promise<Reached> {
    tries(this.#way);
    const mayLaunch = !comesFromElsewhere(head, this.#isOurs);
    const patienceMs = isNavigation(head) ? MOMENT_MS : undefined;
    try {
      const source = { address, port };
      const stream = await this.#service.reach({ deadline, source, mayLaunch, patienceMs, onGone });
      return { stream, origin: this.#service.generation, member: undefined };
    } catch (thrown) {
      throw this.#told(toSeikanError(thrown));
    }
  }

  /** What the machine does is shown to those alone who are on it. */
  #told(error: SeikanError): SeikanError {
    const { name, command } = this.#service.settings;
    if (this.#exposed) return toldOutside(name, error);
    if (!isAbsent(error) || command !== undefined) return error;
    const hints = [`start it, or give [service.${name}] a command that does`];
    return new SeikanError(error.code, `${name} does not listen: ${error.message}`, { cause: error, hints });
  }

  get #way(): Way {
    const dial = () => Promise.reject(new SeikanError("internal", "services are reached as sites"));
    return {
      ...{ hops: [], httpProxy: undefined, tunnels: [], probe: () => Promise.resolve(), resolvesHere: true },
      ...{ dial, reason: `service ${this.#service.settings.name}`, service: this.#service.settings.name },
    };
  }

  accepts(origin: string): boolean {
    return origin === this.#service.generation && this.#service.takesRequests;
  }

  begin(): Visit {
    let end = this.#service.use();
    return {
      way: this.#way,
      idle: undefined,
      upgraded: () => {
        end();
        end = this.#service.use(true);
      },
      end: () => end(),
    };
  }

  async probe(): Promise<void> {
    if (!(await this.#service.answers())) throw new SeikanError("site-away", "it does not listen");
  }
}

/** Others hear that it is not there, and whether it is worth asking again. */
function toldOutside(name: string, error: SeikanError): SeikanError {
  const isStarting = error.code === "service-starting";
  const { refreshSeconds } = error.evidence ?? {};
  const evidence = refreshSeconds === undefined ? undefined : { facts: {}, output: [], refreshSeconds };
  return new SeikanError(error.code, isStarting ? `${name} is starting` : `${name} is not there`, {
    ...{ cause: error, forLog: error.message },
    ...(evidence && { evidence }),
  });
}

/** A page that a person opens (Fetch Metadata; where a browser has none, by what it takes). */
export function isNavigation({ method, fields }: RequestHead): boolean {
  return method === "GET" && opensPage(fields);
}

function opensPage(fields: RequestHead["fields"]): boolean {
  const mode = fieldValue(fields, "sec-fetch-mode");
  // A frame in somebody's page, or what a browser fetches in advance, is nothing that a person opens.
  const dest = fieldValue(fields, "sec-fetch-dest") ?? "document";
  if (dest !== "document" || fieldValue(fields, "sec-purpose") !== undefined) return false;
  if (mode !== undefined) return mode === "navigate";
  return fieldValue(fields, "upgrade") === undefined && /\btext\/html\b/.test(fieldValue(fields, "accept") ?? "");
}

/** Another site's page asks, by itself: that shall start nothing here. Our own sites are not another one. */
function comesFromElsewhere({ fields }: RequestHead, isOurs: (origin: string) => boolean): boolean {
  const site = fieldValue(fields, "sec-fetch-site");
  const origin = fieldValue(fields, "origin");
  if (site !== undefined && site !== "cross-site") return false;
  if (site === "cross-site" && opensPage(fields)) return false;
  if (origin !== undefined) return !isOurs(origin) && !isLoopbackOrigin(origin, fields);
  return site === "cross-site";
}

/** Older browsers say no more than the origin: a page of this very host is none of another site. */
function isLoopbackOrigin(origin: string, fields: RequestHead["fields"]): boolean {
  if (fieldValue(fields, "sec-fetch-site") !== undefined) return false;
  const host = /^https?:\/\/(.+)$/i.exec(origin)?.[1];
  return (
    host !== undefined &&
    (host === fieldValue(fields, "host") || isLoopbackHost(host.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1")))
  );
}
