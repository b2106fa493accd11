import { Service, type ServiceHost } from "./service.ts";
import type { ServiceSettings } from "./settings.ts";

/** The services of a process, by name. */
export class Services {
  readonly #host: ServiceHost;
  readonly #services = new Map<string, Service>();
  /** Taken away, and not over yet. */
  readonly #leaving = new Set<Service>();

  constructor(settings: readonly ServiceSettings[], host: Omit<ServiceHost, "find" | "leaving">) {
    this.#host = {
      ...host,
      find: (name) => this.find(name),
      leaving: (port, except) => this.#leavingPort(port, except),
    };
    this.update(settings);
  }

  get all(): Service[] {
    return [...this.#services.values()];
  }

  find(name: string): Service | undefined {
    return this.#services.get(name);
  }

  #leavingPort(port: number, except: Service): Promise<unknown> | undefined {
    const others = [...this.#services.values(), ...this.#leaving].filter((service) => service !== except);
    const ends = others.map((service) => service.leaves(port)).filter((end) => end !== undefined);
    return ends.length === 0 ? undefined : Promise.all(ends);
  }

  /** From now on these: what is not among them ends once its requests are answered. */
  update(settings: readonly ServiceSettings[], drainMs = 0): void {
    const names = new Set(settings.map(({ name }) => name));
    for (const [name, service] of this.#services) {
      if (names.has(name)) continue;
      this.#services.delete(name);
      this.#leaving.add(service);
      void service.drain(drainMs).finally(() => this.#leaving.delete(service));
    }
    for (const one of settings) {
      const known = this.#services.get(one.name);
      if (known === undefined) this.#services.set(one.name, new Service(one, this.#host));
      else known.update(one);
    }
  }

  /** Ends all of them, each once its requests are answered, at the latest after `ms`. */
  async drain(ms: number): Promise<void> {
    await Promise.all([...this.#services.values(), ...this.#leaving].map((service) => service.drain(ms)));
  }

  /** At once. */
  kill(): void {
    for (const service of [...this.#services.values(), ...this.#leaving]) service.kill();
  }
}
