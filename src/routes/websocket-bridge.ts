import { canonicalHost, isLoopbackHost, parseIp, type Target } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import type { Heartbeat } from "../transports/pulse.ts";
import { webSocketStream } from "../transports/websocket.ts";
import { fieldValue, formatHead } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { acceptFields, offeredProtocols } from "../wire/websocket-handshake.ts";
import { closeWith, answerStatus, errorAnswer } from "./answers.ts";
import { openTunnel } from "./connect.ts";
import type { Endpoint, UpgradeRequest } from "./context.ts";
import { checkOrigin, checkUpgrade } from "./upgrade-checks.ts";

export interface WebSocketRoute {
  readonly path: string;
  readonly target: Target;
}

export interface WebSocketAccess {
  /** Origins of pages that may open it, besides pages of this very host. */
  readonly origins: readonly string[];
  /** A user is needed also where nobody else can reach us. */
  readonly wantsUser: boolean;
  readonly heartbeat: Heartbeat;
}

/**
 * A plain WebSocket at a path, joined with one TCP target, as websockify does:
 * the payload of text and binary messages goes to the target, its bytes come
 * back in binary messages. The target is dialled before the client hears 101.
 */
export class WebSocketBridge implements Endpoint {
  readonly protocol = "websocket";
  readonly checksHost = true;
  readonly #route: WebSocketRoute;
  readonly #access: WebSocketAccess;

  constructor(route: WebSocketRoute, access: WebSocketAccess) {
    this.#route = route;
    this.#access = access;
  }

  matches(path: string): boolean {
    return path === this.#route.path;
  }

  async serve(request: UpgradeRequest): Promise<void> {
    const { context, head, client, exposed } = request;
    checkUpgrade(head);
    checkOwnHost(head, exposed, this.#access.origins);
    checkOrigin(head, [...this.#access.origins, ...ownOrigins(head)]);
    const { heartbeat } = this.#access;
    const user = exposed || this.#access.wantsUser ? await this.#authorize(request) : undefined;
    const inbound = request.leave();
    if (inbound === undefined) return;
    openTunnel(context, inbound, {
      method: "WEBSOCKET",
      target: this.#route.target,
      ...{ client, exposed, user },
      // Whoever wrote the route wants it to be dialled.
      isGranted: true,
      acceptStatus: 101,
      accept(stream) {
        stream.write(formatHead("HTTP/1.1 101 Switching Protocols", acceptFields(head, protocolOf(head))));
        const peer = client.address === "" ? "the client" : client.address;
        const limits = { binaryOnly: false, maxFrame: Number.MAX_SAFE_INTEGER, heartbeat };
        return webSocketStream(stream, { role: "server", peer, ...limits });
      },
      refuse(stream, error, proxyName) {
        closeWith(stream, errorAnswer(error, proxyName, { asOrigin: true }));
        return answerStatus(error, { asOrigin: true });
      },
    });
  }

  #authorize(request: UpgradeRequest): Promise<string | undefined> | undefined {
    if (request.context.users !== undefined || !this.#access.wantsUser) return request.authorize();
    throw new SeikanError("target-denied", "this WebSocket wants a user, and the server has none", {
      hints: ["start it with --auth USER:PASS or --auth-file FILE"],
    });
  }
}

/** Browsers fail when what they offer is not taken up; the borders of messages mean nothing to us. */
function protocolOf(head: RequestHead): string | undefined {
  const offered = offeredProtocols(head.fields);
  return offered.includes("binary") ? "binary" : offered[0];
}

/** The page came from the host that it talks to. */
function ownOrigins(head: RequestHead): string[] {
  const host = fieldValue(head.fields, "host") ?? "";
  return [`http://${host}`, `https://${host}`];
}

/**
 * A name that somebody made point to loopback is no origin of ours (DNS
 * rebinding): where no user is asked for, the Host is an address, localhost,
 * or that of a listed origin.
 */
function checkOwnHost(head: RequestHead, exposed: boolean, origins: readonly string[]): void {
  if (exposed) return;
  const given = (fieldValue(head.fields, "host") ?? "").replace(/:\d*$/, "");
  const host = canonicalHost(given);
  if (host !== undefined && (isLoopbackHost(host) || parseIp(host) !== undefined)) return;
  if (host !== undefined && origins.some((origin) => hostOfOrigin(origin) === host)) return;
  throw new SeikanError("wrong-host", `"${given.slice(0, 200)}" is no name of this server`, {
    hints: ["use its address or localhost, or list its origin with --ws-origin"],
  });
}

function hostOfOrigin(origin: string): string | undefined {
  return canonicalHost(origin.replace(/^[a-z]+:\/\//i, "").replace(/:\d+$/, ""));
}
