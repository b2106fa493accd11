import { formatTarget, isLoopbackHost, tcpTarget, type TcpTarget } from "../core/address.ts";
import type { Scope } from "../core/scope.ts";
import type { LaunchLedger } from "../platform/launch-ledger.ts";
import { ServiceSites } from "../routes/service-sites.ts";
import type { ServiceDesk, ServiceReport } from "../routes/services-endpoint.ts";
import type { Service } from "../services/service.ts";
import { Services } from "../services/services.ts";
import type { Dialer } from "../transports/transport.ts";
import type { CommandIo } from "./command.ts";
import { cleanUp, ledgerIn } from "./launches.ts";
import type { ServiceEntry } from "./service-options.ts";

/** Outgoing services of a changed configuration may take this long for the requests they have. */
const RELOAD_DRAIN_MS = 10_000;

export interface ServeServicesOptions {
  readonly direct: Dialer;
  readonly connectMs: number;
  /** There is a configuration file: services may come. */
  readonly isConfigured: boolean;
  readonly io: CommandIo;
}

/** Everything `serve` does about services. */
export class ServeServices implements ServiceDesk {
  readonly sites = new ServiceSites();
  readonly services: Services;
  readonly #io: CommandIo;
  readonly #ledger: LaunchLedger | undefined;
  #entries: readonly ServiceEntry[];
  /** `http://*:8080`: how visitors reach this server. */
  #origin = "http://*";

  constructor(entries: readonly ServiceEntry[], { direct, connectMs, isConfigured, io }: ServeServicesOptions) {
    this.#entries = entries;
    this.#io = io;
    this.#ledger = ledgerIn(io, isConfigured);
    const settings = entries.map((entry) => entry.settings);
    const host = { direct, connectMs, env: io.childEnv, ledger: this.#ledger, log: io.log };
    this.services = new Services(settings, { ...host, urlOf: (name) => this.urlOf(name) ?? "" });
    this.#publish();
  }

  /** Ends what a server that was killed left behind. Nothing that is started here outlives `scope`. */
  async prepare(scope: Scope): Promise<void> {
    scope.own(() => this.services.kill());
    await cleanUp(this.#ledger, this.#io);
  }

  /** The server listens: visitors reach it at `origin`, the host left open. */
  publishAt(origin: string): void {
    this.#origin = origin;
  }

  update(entries: readonly ServiceEntry[]): void {
    this.#entries = entries;
    this.services.update(
      entries.map(({ settings }) => settings),
      RELOAD_DRAIN_MS,
    );
    this.#publish();
  }

  #publish(): void {
    this.sites.update(
      this.#entries.map(({ settings, hosting }) => ({ service: this.services.find(settings.name)!, hosting })),
    );
  }

  /** Ports of services are as little to be dialled through us as our own listeners. */
  *targets(): Generator<TcpTarget> {
    for (const { port, settings } of this.services.all) {
      const { place } = settings;
      const isTarget = place.kind === "target" && place.target.kind === "tcp" && isLoopbackHost(place.target.host);
      const own = isTarget ? (place.target as TcpTarget).port : port;
      if (own === undefined) continue;
      yield tcpTarget("127.0.0.1", own);
      yield tcpTarget("::1", own);
    }
  }

  /** Where a person finds it. */
  urlOf(name: string): string | undefined {
    const hosting = this.#entries.find(({ settings }) => settings.name === name)?.hosting;
    const host = hosting?.hosts.find((one) => !one.startsWith("*.")) ?? hosting?.hosts[0];
    return host === undefined
      ? undefined
      : this.#origin.replace("*", host) + (hosting!.path === "/" ? "" : hosting!.path);
  }

  find(name: string): Service | undefined {
    return this.services.find(name);
  }

  report(): Promise<ServiceReport[]> {
    return Promise.all(this.services.all.map((service) => this.#reportOf(service)));
  }

  async #reportOf(service: Service): Promise<ServiceReport> {
    const { name, command, folder, place } = service.settings;
    const isManaged = command !== undefined;
    return {
      ...{ name, folder, url: this.urlOf(name), managed: isManaged },
      state: await stateOf(service),
      command: typeof command === "string" ? command : command?.join(" "),
      target: place.kind === "target" ? formatTarget(place.target) : undefined,
      ...service.facts,
    };
  }

  /** A line for each service: where it is, and what starts it. */
  printTable(): void {
    if (this.#entries.length === 0) return;
    const rows = this.#entries.map(({ settings: { name, command, place } }) => {
      const shown = typeof command === "string" ? command : command?.join(" ");
      const port = place.kind === "loopback" && place.port !== undefined ? `port ${place.port}` : "";
      return [name, this.urlOf(name) ?? "", shown ?? (place.kind === "target" ? "" : port)];
    });
    const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column]!.length)));
    for (const [name, url, what] of rows)
      this.#io.log.info(`service ${name!.padEnd(widths[0]!)}  ${url!.padEnd(widths[1]!)}  ${what!.slice(0, 80)}`);
  }
}

/** What it does by itself; where it does nothing, whether somebody else's server answers there. */
async function stateOf(service: Service): Promise<ServiceReport["state"]> {
  const { state, settings } = service;
  if (settings.command === undefined) return (await service.answers()) ? "up" : "down";
  const isIdle = state === "stopped" || state === "held" || state === "failed";
  return isIdle && service.mayBeExternal && (await service.answers()) ? "external" : state;
}
