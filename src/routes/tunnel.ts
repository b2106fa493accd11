import { now } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { LiveSet } from "../core/scope.ts";
import type { ByteStream } from "../core/stream.ts";
import { MuxSession } from "../transports/mux.ts";
import { SESSION_FIELD, TUNNEL_FRAME_BYTES, TUNNEL_PROTOCOL } from "../transports/tunnel.ts";
import { limitUnsent } from "../transports/unsent-limit.ts";
import { webSocketStream, type Heartbeat } from "../transports/websocket.ts";
import { fieldValue, formatHead } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { acceptFields, offeredProtocols } from "../wire/websocket-handshake.ts";
import type { Client, RouteContext, Endpoint, UpgradeRequest } from "./context.ts";
import { serveClient } from "./front.ts";
import { checkOrigin, checkUpgrade } from "./upgrade-checks.ts";

/**
 * The tunnel (docs/PROTOCOL.md): a WebSocket that carries yamux streams, each
 * of which is a client connection like any other, already authenticated.
 */
export class TunnelEndpoint implements Endpoint {
  readonly protocol = "websocket";
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
    checkUpgrade(head);
    checkOrigin(head, this.#origins);
    checkProtocol(head);
    const user = await request.authorize();
    if (context.isDraining()) throw new SeikanError("shutdown", "this server is about to stop");
    const stream = request.leave();
    if (stream === undefined) return;
    limitUnsent(stream);
    stream.write(formatHead("HTTP/1.1 101 Switching Protocols", acceptFields(head, TUNNEL_PROTOCOL)));
    this.#adopt(new ServedTunnel(request, stream, user, this.#heartbeat), sessionKey(head));
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

function checkProtocol(head: RequestHead): void {
  const offered = offeredProtocols(head.fields);
  if (offered.includes(TUNNEL_PROTOCOL)) return;
  const theirs = offered.length === 0 ? "no subprotocol" : offered.join(", ").slice(0, 100);
  throw new SeikanError("bad-request", `this tunnel speaks ${TUNNEL_PROTOCOL}, and the client offers ${theirs}`, {
    hints: ["client and server must be of versions that share one"],
  });
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

  constructor(
    { context, client, exposed }: UpgradeRequest,
    stream: ByteStream,
    user: string | undefined,
    heartbeat: Heartbeat,
  ) {
    this.user = user;
    this.#live = context.live;
    const peer = client.address === "" ? "the tunnel's client" : `the tunnel's client ${client.address}`;
    const carrier = webSocketStream(stream, {
      role: "server",
      peer,
      binaryOnly: true,
      maxFrame: TUNNEL_FRAME_BYTES,
      heartbeat,
    });
    const inside: Client = { ...client, exposed, login: { user } };
    this.#session = new MuxSession(carrier, {
      role: "server",
      peer,
      accept: (one) => serveClient(context, one, inside, "http"),
    });
    this.#live.add(this);
    this.closed = this.#session.closed;
    void this.#log(context, client);
  }

  async #log(context: RouteContext, client: Client): Promise<void> {
    const startedAt = now();
    const who = { peer: client.address === "" ? "unix" : `${client.address}:${client.port}`, user: this.user };
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
