import { after, deadlineIn, now } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { readControl, type ControlRequest } from "../transports/control.ts";
import type { MuxSession } from "../transports/mux.ts";
import type { Heartbeat } from "../transports/pulse.ts";
import { fieldValue, formatHead } from "../wire/fields.ts";
import {
  HEALTH_PATH,
  JSON_TYPE,
  parseHealth,
  parseProbe,
  parseRegistration,
  PROBE_PATH,
  REGISTER_PATH,
  type Registration,
} from "../wire/registration.ts";
import { EventWriter, type AgentLine } from "./agent.ts";
import type { AgentRegistry } from "./agent-registry.ts";
import { fullRights, type AgentRights, type AgentTokens } from "./agent-tokens.ts";
import { closeWith, errorAnswer, textAnswer } from "./answers.ts";
import { formatPeer, type Client, type Endpoint, type RouteContext, type UpgradeRequest } from "./context.ts";
import { checkSessionRequest, peerName, startSession } from "./served-session.ts";
import type { Throttle } from "./throttle.ts";

/** Where agents come in. */
export const AGENT_PATH = "/-/agent";

export interface AgentAccess {
  /** Undefined: none are configured; then a token is asked for nowhere but on exposed listeners, where nobody has one. */
  readonly tokens: AgentTokens | undefined;
  readonly throttle: Throttle;
  readonly heartbeat: Heartbeat;
}

/** The server's end of agents' connections (docs/PROTOCOL.md, "Agents"). */
export class AgentEndpoint implements Endpoint {
  readonly protocol = "websocket";
  readonly checksHost = true;
  readonly #registry: AgentRegistry;
  readonly #access: AgentAccess;

  constructor(registry: AgentRegistry, access: AgentAccess) {
    this.#registry = registry;
    this.#access = access;
  }

  matches(path: string): boolean {
    return path === AGENT_PATH;
  }

  async serve(request: UpgradeRequest): Promise<void> {
    checkSessionRequest(request, []);
    const rights = await this.#authorize(request);
    const stream = request.leave();
    const current = () => this.#current(rights);
    if (stream !== undefined) new ServedAgent(this.#registry, request, stream, current, this.#access.heartbeat);
  }

  /** Tokens change while a connection is up. */
  #current(rights: AgentRights): AgentRights {
    const now = rights.digest === undefined ? rights : this.#access.tokens?.current(rights.digest);
    if (now !== undefined) return now;
    throw new SeikanError("not-granted", "this token was taken back");
  }

  async #authorize({ head, client, exposed }: UpgradeRequest): Promise<AgentRights> {
    const { tokens, throttle } = this.#access;
    if (tokens === undefined) {
      if (!exposed) return fullRights("no token");
      throw new SeikanError("target-denied", "this server can be reached from outside and has no tokens for agents", {
        hints: ["start it with --agent-token TOKEN or --tokens FILE; seikan token makes one"],
      });
    }
    const shown = /^bearer +(\S+) *$/i.exec(fieldValue(head.fields, "authorization") ?? "")?.[1];
    if (shown === undefined) throw new SeikanError("auth-required", "agents need a token here");
    const rights = tokens.identify(shown);
    if (rights === undefined) await throttle.punish(client.address);
    else throttle.forgive(client.address);
    if (rights === undefined) throw new SeikanError("auth-required", "this token is not known here");
    return rights;
  }
}

/** One connection of an agent, from its upgrade on. */
class ServedAgent {
  readonly #registry: AgentRegistry;
  readonly #context: RouteContext;
  readonly #client: Client;
  /** By now; throws when the token was taken back. */
  readonly #rights: () => AgentRights;
  #isRegistering = false;
  readonly #session: MuxSession;
  readonly #cancel: () => void;
  /** What it registered; undefined until then. */
  #registered: { readonly asked: Registration; readonly line: AgentLine } | undefined;

  constructor(
    registry: AgentRegistry,
    request: UpgradeRequest,
    stream: ByteStream,
    rights: () => AgentRights,
    heartbeat: Heartbeat,
  ) {
    this.#registry = registry;
    this.#context = request.context;
    this.#client = request.client;
    this.#rights = rights;
    this.#session = startSession(request, stream, {
      peer: peerName("the agent", request.client),
      heartbeat,
      accept: (one) => void this.#answer(one),
      onGoAway: () => this.#retire(),
    });
    this.#cancel = after(this.#context.limits.headMs || 30_000, () => {
      this.abort(new SeikanError("head-timeout", "the agent registers nothing"));
    });
    this.#context.live.add(this);
    void this.#watch();
  }

  async #watch(): Promise<void> {
    const startedAt = now();
    const { error } = await this.#session.closed;
    this.#cancel();
    this.#context.live.delete(this);
    const registered = this.#registered;
    if (registered === undefined) return;
    this.#registry.lineClosed(registered.asked.key, registered.line);
    const ms = Math.round(now() - startedAt);
    const fields = { peer: formatPeer(this.#client), ms, end: error?.code, why: error?.message };
    this.#context.log.info(`agent ${registered.asked.agent} disconnected`, fields);
  }

  /** The agent is about to end. */
  #retire(): void {
    if (this.#registered !== undefined) this.#registry.retire(this.#registered.asked.key);
  }

  /** The server is about to stop. */
  drain(): void {
    this.#retire();
    this.#session.goAway();
  }

  abort(reason: SeikanError): void {
    this.#session.abort(reason);
  }

  async #answer(stream: ByteStream): Promise<void> {
    try {
      const deadline = deadlineIn(this.#context.limits.connectMs);
      const request = await readControl(stream, deadline, peerName("the agent", this.#client));
      if (request.path === REGISTER_PATH) return await this.#register(request, stream);
      closeWith(stream, textAnswer({ status: 200, text: await this.#control(request), contentType: JSON_TYPE }));
    } catch (thrown) {
      const error = toSeikanError(thrown);
      this.#context.log.warn(`agent refused: ${error.message}`, { peer: formatPeer(this.#client) });
      closeWith(stream, errorAnswer(error, this.#context.proxyName, { asOrigin: true }));
    }
  }

  async #register({ text }: ControlRequest, stream: ByteStream): Promise<void> {
    if (this.#isRegistering) throw new SeikanError("bad-request", "this connection has registered already");
    const asked = parseRegistration(text);
    const events = asked.events === true ? new EventWriter(stream) : undefined;
    const line: AgentLine = { id: asked.connection, session: this.#session, events };
    this.#isRegistering = true;
    const answer = await this.#registry.register(asked, line, this.#rights(), this.#client).catch((thrown: unknown) => {
      this.#isRegistering = false;
      throw thrown;
    });
    this.#registered = { asked, line };
    this.#cancel();
    // It went while it was registered.
    if (this.#session.isClosed) return this.#registry.lineClosed(asked.key, line);
    stream.write(formatHead("HTTP/1.1 200 OK", ["Content-Type", JSON_TYPE]));
    stream.write(Buffer.from(`${JSON.stringify(answer)}\n`, "utf8"));
    if (events === undefined) stream.end();
    const { agent } = asked;
    const what = answer.exposures.map(({ url, address }) => url ?? address).join(" ");
    this.#context.log.info(`agent ${agent} connected`, {
      peer: formatPeer(this.#client),
      token: this.#rights().token,
      exposes: what,
    });
  }

  async #control({ path, text }: ControlRequest): Promise<string> {
    const key = this.#registered?.asked.key;
    if (key === undefined) throw new SeikanError("bad-request", "this connection has not registered");
    if (path === HEALTH_PATH) {
      const { name, healthy } = parseHealth(text);
      this.#registry.setHealth(key, name, healthy);
      return "{}";
    }
    if (path !== PROBE_PATH) throw new SeikanError("no-such-site", `there is no ${path.slice(0, 100)}`);
    const { name, nonce } = parseProbe(text);
    await this.#registry.probe(key, name, nonce, deadlineIn(this.#context.limits.connectMs));
    return "{}";
  }
}
