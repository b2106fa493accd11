import { formatTarget, type Target } from "../core/address.ts";
import { bridge } from "../core/bridge.ts";
import { now } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { dialTarget, tunnelEntry, type Client, type RouteContext } from "./context.ts";
import type { Way } from "./route-table.ts";

/** A request for a tunnel, in whatever protocol it was made. */
export interface TunnelRequest {
  /** `CONNECT`, `SOCKS5`, `SOCKS4`, `FORWARD`: for the log. */
  readonly method: string;
  readonly target: Target;
  readonly client: Client;
  readonly exposed: boolean;
  readonly user: string | undefined;
  /** Tells the client that the target is reached; returns the status it was told. */
  accept(inbound: ByteStream): number;
  /** Tells the client what went wrong and ends its stream; returns the status it was told. */
  refuse(inbound: ByteStream, error: SeikanError, proxyName: string): number;
}

/**
 * Dials the target and joins it with `inbound`, which it owns. The client is told of success only once the target
 * answers; what it sent before is held and delivered first (RFC 9110 section 9.3.6).
 */
export function openTunnel(context: RouteContext, inbound: ByteStream, request: TunnelRequest): void {
  context.live.add(inbound);
  void runTunnel(context, inbound, request).finally(() => context.live.delete(inbound));
}

async function runTunnel(context: RouteContext, inbound: ByteStream, request: TunnelRequest): Promise<void> {
  const startedAt = now();
  const { method, client, user } = request;
  const target = formatTarget(request.target);
  let way: Way | undefined;
  let outbound: ByteStream;
  try {
    way = context.routes.choose(request.target);
    outbound = await dialTarget(context, request.target, way, request.exposed);
  } catch (thrown) {
    const error = toSeikanError(thrown);
    const status = request.refuse(inbound, error, context.proxyName);
    context.access({ kind: "tunnel", method, client, user, target, way, status, startedAt, up: 0, down: 0, error });
    return;
  }
  if (inbound.isClosed) {
    outbound.abort(new SeikanError("cancelled", "the client has gone"));
    return;
  }
  const status = request.accept(inbound);
  const result = await bridge(inbound, outbound, context.limits);
  context.access(tunnelEntry({ method, client, user, target, way, status, startedAt }, result));
}
