import { timingSafeEqual } from "node:crypto";
import { SeikanError } from "../core/errors.ts";
import { fieldValue } from "../wire/fields.ts";
import { JSON_TYPE } from "../wire/registration.ts";
import type { AgentRegistry } from "./agent-registry.ts";
import { digestOf } from "./agent-tokens.ts";
import { closeWith, textAnswer } from "./answers.ts";
import { formatPeer, type Endpoint, type UpgradeRequest } from "./context.ts";
import type { Metrics } from "./metrics.ts";

const AGENTS_PATH = "/-/agents";
const METRICS_PATH = "/-/metrics";

export interface AdminAccess {
  /** Users that may look. */
  readonly admins: readonly string[];
  /** Of this run, for whoever may read its file; counts where nobody from outside gets in. */
  readonly token: string;
}

/** How the server is, for people and programs that may know (docs: "Who may do what"). */
export class AdminEndpoint implements Endpoint {
  readonly #access: AdminAccess;
  readonly #registry: AgentRegistry;
  readonly #metrics: Metrics;

  constructor(access: AdminAccess, registry: AgentRegistry, metrics: Metrics) {
    this.#access = access;
    this.#registry = registry;
    this.#metrics = metrics;
  }

  matches(path: string): boolean {
    return path === AGENTS_PATH || path === METRICS_PATH;
  }

  async serve(request: UpgradeRequest): Promise<void> {
    const { head, path, context } = request;
    if (head.method !== "GET" && head.method !== "HEAD")
      throw new SeikanError("method-refused", "this can only be looked at");
    await authorizeAdmin(request, this.#access);
    const isMetrics = path === METRICS_PATH;
    const text = isMetrics ? this.#metrics.text(context.live.size, this.#registry) : this.#agents();
    const contentType = isMetrics ? "text/plain; version=0.0.4; charset=utf-8" : JSON_TYPE;
    const stream = request.leave();
    if (stream === undefined) return;
    closeWith(stream, textAnswer({ status: 200, text, contentType, headOnly: head.method === "HEAD" }));
  }

  #agents(): string {
    const agents = [...this.#registry.agents].map((agent) => ({
      name: agent.name,
      token: agent.rights.token,
      peer: formatPeer(agent.client),
      since: agent.since.toISOString(),
      ...agent.stats,
      exposures: [...this.#registry.exposures].flatMap(({ id, members }) =>
        members
          .filter((member) => member.agent === agent)
          .map(({ spec, isHealthy, inFlight }) => ({
            id,
            name: spec.name,
            kind: spec.kind,
            healthy: isHealthy,
            inFlight,
          })),
      ),
    }));
    return JSON.stringify({ agents }, null, 2);
  }
}

/** Throws unless whoever asks is an admin, or asks from this machine with the token of this run. */
export async function authorizeAdmin(request: UpgradeRequest, access: AdminAccess): Promise<void> {
  const { context, exposed, head } = request;
  const shown = /^bearer +(\S+) *$/i.exec(fieldValue(head.fields, "authorization") ?? "")?.[1];
  if (!exposed && shown !== undefined && timingSafeEqual(digestOf(shown), digestOf(access.token))) return;
  if (context.users === undefined) throw wanted(exposed);
  const user = await request.authorize();
  if (user === undefined || !access.admins.includes(user))
    throw new SeikanError("target-denied", `${user ?? "this user"} is no admin`, {
      hints: ["--admin USER makes one"],
    });
}

function wanted(exposed: boolean): SeikanError {
  const hint = exposed
    ? "give the server a user, and name it with --admin"
    : "it is in serve-PID.token in $XDG_RUNTIME_DIR/seikan; seikan serve -v names the file";
  return new SeikanError("auth-required", exposed ? "this wants an admin" : "this wants the token of this run", {
    hints: [hint],
  });
}
