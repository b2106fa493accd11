import { now } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { LiveSet } from "../core/scope.ts";
import type { MuxSession } from "../transports/mux.ts";
import { SESSION_FIELD } from "../transports/tunnel.ts";
import type { Heartbeat } from "../transports/pulse.ts";
import { fieldValue } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { formatPeer, type Client, type Endpoint, type RouteContext, type UpgradeRequest } from "./context.ts";
import { serveClient } from "./front.ts";
import { checkSessionRequest, peerName, startSession } from "./served-session.ts";

/**
 * The tunnel (docs/PROTOCOL.md): a WebSocket that carries yamux streams, each
 * of which is a client connection like any other, already authenticated.
 */
export class TunnelEndpoint implements Endpoint {
  readonly protocol = "websocket";
  readonly checksHost = true;
  readonly #path: string;
  readonly #origins: readonly string[];
  readonly #heartbeat: Heartbeat;
  /** By the key that the client chose, to know one that comes again. */
  readonly #sessions = new Map<string, ServedTunnel>();

  constructor(path: string, origins: readonly string[], heartbeat: Heartbeat) {
    this.#path = path;
    this.#origins = origins;
    this.#heartbeat = heartbeat;
  }

  matches(path: string): boolean {
    return path === this.#path;
  }

  async serve(request: UpgradeRequest): Promise<void> {
    const { context, head } = request;
    checkSessionRequest(request, this.#origins);
    const user = await request.authorize();
    const stream = request.leave();
    if (stream === undefined) return;
    const inside: Client = { ...request.client, exposed: request.exposed, login: { user } };
    const session = startSession(request, stream, {
      peer: peerName("the tunnel's client", request.client),
      heartbeat: this.#heartbeat,
      accept: (one) => serveClient(context, one, inside, "http"),
    });
    this.#adopt(new ServedTunnel(request, session, user), sessionKey(head));
  }

  /** A client that comes again with its key takes its own place: its former connection is a ghost. */
  #adopt(tunnel: ServedTunnel, key: string | undefined): void {
    if (key === undefined) return;
    const name = `${tunnel.user ?? ""}\0${key}`;
    this.#sessions.get(name)?.abort(new SeikanError("cancelled", "its client connected anew"));
    this.#sessions.set(name, tunnel);
    void tunnel.closed.then(() => {
      if (this.#sessions.get(name) === tunnel) this.#sessions.delete(name);
    });
  }
}

function sessionKey(head: RequestHead): string | undefined {
  const key = fieldValue(head.fields, SESSION_FIELD.toLowerCase());
  return key !== undefined && /^[A-Za-z0-9_-]{16,64}$/.test(key) ? key : undefined;
}

/** One tunnel at the server: alive while its connection is. */
class ServedTunnel {
  readonly user: string | undefined;
  readonly closed: Promise<unknown>;
  readonly #session: MuxSession;
  readonly #live: LiveSet;

  constructor({ context, client }: UpgradeRequest, session: MuxSession, user: string | undefined) {
    this.user = user;
    this.#live = context.live;
    this.#session = session;
    this.#live.add(this);
    this.closed = session.closed;
    void this.#log(context, client);
  }

  async #log(context: RouteContext, client: Client): Promise<void> {
    const startedAt = now();
    const who = { peer: formatPeer(client), user: this.user };
    context.log.info("tunnel opened", who);
    const { error } = await this.#session.closed;
    this.#live.delete(this);
    const ms = Math.round(now() - startedAt);
    context.log.info("tunnel closed", { ...who, ms, end: error?.code, why: error?.message });
  }

  /** The server is about to stop: no new streams, the open ones finish. */
  drain(): void {
    this.#session.goAway();
  }

  abort(reason: SeikanError): void {
    this.#session.abort(reason);
  }
}
