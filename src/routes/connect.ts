import { formatTarget, type Target } from "../core/address.ts";
import { startBridge, type BridgeLimits, type BridgeResult } from "../core/bridge.ts";
import { now } from "../core/clock.ts";
import { toSeikanError, type SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { UDP_IDLE_MS } from "../transports/udp.ts";
import { dialGranted, dialTarget, type Client, type RouteContext } from "./context.ts";
import type { Way } from "./route-table.ts";

/** A request for a tunnel, in whatever protocol it was made. */
export interface TunnelRequest {
  /** `CONNECT`, `SOCKS5`, `SOCKS4`, `WEBSOCKET`: for the log. */
  readonly method: string;
  readonly target: Target;
  readonly client: Client;
  readonly exposed: boolean;
  readonly user: string | undefined;
  /** The agent that shall dial, where the request names one. */
  readonly agent?: string | undefined;
  /** Chooses the way, where the route table shall not; throws to refuse. */
  readonly route?: () => Way;
  /** The target was granted by whoever configured this: no permission is asked for. */
  readonly isGranted?: boolean;
  /** What `accept` tells the client. */
  readonly acceptStatus: number;
  /** Tells the client that the target is reached; returns its stream from then on. */
  accept(inbound: ByteStream): ByteStream;
  /** Tells the client what went wrong and ends its stream; returns the status it was told. */
  refuse(inbound: ByteStream, error: SeikanError, proxyName: string): number;
}

/**
 * Dials the target and joins it with `inbound`, which it owns. The client is
 * told of success only once the target answers; what it sent before is held
 * and delivered first (RFC 9110 section 9.3.6).
 */
export function openTunnel(context: RouteContext, inbound: ByteStream, request: TunnelRequest): void {
  new Tunnel(context, inbound, request).open();
}

/** UDP has no end that anybody could send: its flows end when they are idle. */
function limitsFor(target: Target, limits: BridgeLimits): BridgeLimits {
  if (target.kind !== "udp" || limits.idleMs > 0) return limits;
  return { ...limits, idleMs: UDP_IDLE_MS };
}

/** Thousands of these idle at once, so it is a plain object and no suspended function. */
class Tunnel {
  readonly #context: RouteContext;
  readonly #inbound: ByteStream;
  readonly #request: TunnelRequest;
  readonly #startedAt = now();
  #way: Way | undefined;
  #status = 0;

  constructor(context: RouteContext, inbound: ByteStream, request: TunnelRequest) {
    this.#context = context;
    this.#inbound = inbound;
    this.#request = request;
    context.live.add(inbound);
  }

  open(): void {
    const { target, isGranted, agent, client } = this.#request;
    const context = this.#context;
    try {
      const way = (this.#way = this.#request.route?.() ?? context.routes.choose(target, agent));
      const dialling = isGranted
        ? dialGranted(context, target, way, client)
        : dialTarget(context, target, way, this.#request);
      dialling.then(
        (outbound) => this.#join(outbound),
        (thrown: unknown) => this.#refuse(toSeikanError(thrown)),
      );
    } catch (thrown) {
      this.#refuse(toSeikanError(thrown));
    }
  }

  #join(outbound: ByteStream): void {
    this.#status = this.#request.acceptStatus;
    const inbound = this.#request.accept(this.#inbound);
    startBridge(inbound, outbound, limitsFor(this.#request.target, this.#context.limits), (result) =>
      this.#over(result),
    );
  }

  #refuse(error: SeikanError): void {
    this.#status = this.#request.refuse(this.#inbound, error, this.#context.proxyName);
    this.#over({ up: 0, down: 0, error });
  }

  #over({ up, down, error }: BridgeResult): void {
    const { method, target, client, user } = this.#request;
    this.#context.live.delete(this.#inbound);
    this.#context.access({
      kind: "tunnel",
      method,
      target: formatTarget(target),
      client,
      user,
      way: this.#way,
      status: this.#status,
      startedAt: this.#startedAt,
      up,
      down,
      error,
    });
  }
}
