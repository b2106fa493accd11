import { now } from "../core/clock.ts";
import type { AgentRegistry } from "./agent-registry.ts";
import type { AccessEntry } from "./context.ts";

/** Upper ends in seconds. */
const BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** What Prometheus reads (its text format, version 0.0.4). Names of visitors' hosts and paths are no labels: they have no bound. */
export class Metrics {
  readonly #startedAt = Date.now() / 1000;
  /** By the status that was answered. */
  readonly #counts = { request: new Map<number, number>(), tunnel: new Map<number, number>() };
  readonly #errors = new Map<string, number>();
  readonly #buckets = BUCKETS.map(() => 0);
  #requests = 0;
  #seconds = 0;
  #up = 0;
  #down = 0;

  observe({ kind, status, up, down, startedAt, error }: AccessEntry): void {
    const counts = this.#counts[kind];
    counts.set(status, (counts.get(status) ?? 0) + 1);
    if (error !== undefined) this.#errors.set(error.code, (this.#errors.get(error.code) ?? 0) + 1);
    this.#up += up;
    this.#down += down;
    if (kind !== "request") return;
    const seconds = (now() - startedAt) / 1000;
    this.#requests++;
    this.#seconds += seconds;
    for (let i = BUCKETS.length - 1; i >= 0 && seconds <= BUCKETS[i]!; i--) this.#buckets[i]!++;
  }

  text(connections: number, registry: AgentRegistry): string {
    const lines: string[] = [];
    const add = (name: string, type: string, help: string, values: readonly [string, number][]) => {
      lines.push(`# HELP seikan_${name} ${help}`, `# TYPE seikan_${name} ${type}`);
      for (const [labels, value] of values) lines.push(`seikan_${name}${labels === "" ? "" : `{${labels}}`} ${value}`);
    };
    const agents = [...registry.agents].map((agent) => ({ label: `agent="${quoted(agent.name)}"`, ...agent.stats }));
    const summed = (value: (stats: (typeof agents)[number]) => number) => {
      const sums = new Map<string, number>();
      for (const stats of agents) sums.set(stats.label, (sums.get(stats.label) ?? 0) + value(stats));
      return [...sums];
    };
    add("start_time_seconds", "gauge", "When this process started.", [["", this.#startedAt]]);
    add("connections", "gauge", "Connections and tunnels that are alive.", [["", connections]]);
    add("finished_total", "counter", "Requests and tunnels that are over, by the status that was answered.", [
      ...this.#finished("request"),
      ...this.#finished("tunnel"),
    ]);
    const errors = [...this.#errors].map(([code, count]): [string, number] => [`code="${code}"`, count]);
    add("errors_total", "counter", "Requests and tunnels that did not end well.", errors);
    add("bytes_total", "counter", "Payload bytes.", [
      ['direction="up"', this.#up],
      ['direction="down"', this.#down],
    ]);
    lines.push(...this.#histogram());
    add("agents", "gauge", "Agents that are connected.", [["", agents.length]]);
    add("exposures", "gauge", "Exposures of all agents.", [["", [...registry.exposures].length]]);
    add(
      "agent_connections",
      "gauge",
      "Connections of an agent.",
      summed(({ connections: count }) => count),
    );
    add(
      "agent_streams",
      "gauge",
      "Streams of an agent.",
      summed(({ streams }) => streams),
    );
    add(
      "agent_sent_bytes_total",
      "counter",
      "Bytes sent to an agent.",
      summed(({ sentBytes }) => sentBytes),
    );
    add(
      "agent_received_bytes_total",
      "counter",
      "Bytes from an agent.",
      summed(({ receivedBytes }) => receivedBytes),
    );
    return lines.join("\n");
  }

  #finished(kind: "request" | "tunnel"): [string, number][] {
    return [...this.#counts[kind]].map(([status, count]) => [`kind="${kind}",status="${status}"`, count]);
  }

  #histogram(): string[] {
    const name = "seikan_request_seconds";
    const buckets = BUCKETS.map((most, index) => `${name}_bucket{le="${most}"} ${this.#buckets[index]}`);
    return [
      `# HELP ${name} How long requests take, their bodies included.`,
      `# TYPE ${name} histogram`,
      ...buckets,
      `${name}_bucket{le="+Inf"} ${this.#requests}`,
      `${name}_sum ${this.#seconds}`,
      `${name}_count ${this.#requests}`,
    ];
  }
}

function quoted(text: string): string {
  return text.replace(/[\\"]/g, "\\$&").replace(/\n/g, "\\n");
}
