import { canonicalHost, parsePort, tcpTarget, type TcpTarget } from "../core/address.ts";
import { deadlineIn, type Deadline } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { fieldValue, formatHead, withoutFields } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { acceptFields } from "../wire/websocket-handshake.ts";
import { DESTINATION_FIELD, SECRET_FIELD, SERVER_ERROR } from "../wire/wsp.ts";
import type { AgentAccess } from "./agent-endpoint.ts";
import { fullRights, type AgentRights } from "./agent-tokens.ts";
import { closeWith, textAnswer, type ErrorStyle } from "./answers.ts";
import {
  checkTarget,
  formatPeer,
  type Endpoint,
  type Gateway,
  type GatewayRequest,
  type RouteContext,
  type UpgradeRequest,
} from "./context.ts";
import { forwardedFields } from "./forward-request.ts";
import type { Destination, Outgoing } from "./forward.ts";
import type { Way } from "./route-table.ts";
import { checkOrigin, checkUpgrade } from "./upgrade-checks.ts";
import { PooledConnection, type WspPools } from "./wsp-pools.ts";

/** The server's side of wsp (docs/wsp.md): clients register pools of connections, callers' requests take one each. */

const REGISTER_PATH = "/register";
const REQUEST_PATH = "/request";
const STATUS_PATH = "/status";
/** `/register`: where clients bring their connections. */
export class WspRegister implements Endpoint {
  readonly protocol = "websocket";
  readonly #pools: WspPools;
  readonly #access: AgentAccess;

  constructor(pools: WspPools, access: AgentAccess) {
    this.#pools = pools;
    this.#access = access;
  }

  matches(path: string): boolean {
    return path === REGISTER_PATH;
  }

  async serve(request: UpgradeRequest): Promise<void> {
    const { head, client } = request;
    checkUpgrade(head);
    checkOrigin(head, []);
    const known = await this.#identify(request);
    const stream = request.leave();
    if (stream === undefined) return;
    if (known === undefined) {
      request.context.log.warn("a wsp client showed no X-SECRET-KEY that is known here", { peer: formatPeer(client) });
      return closeWith(stream, textAnswer({ status: SERVER_ERROR, text: "Invalid X-SECRET-KEY" }));
    }
    stream.write(formatHead("HTTP/1.1 101 Switching Protocols", acceptFields(head, undefined)));
    new PooledConnection(this.#pools, request, stream, this.#access.heartbeat, known.digest);
    request.context.log.debug("wsp client connected", { peer: formatPeer(client) });
  }

  async #identify({ head, client, exposed }: UpgradeRequest): Promise<AgentRights | undefined> {
    const { tokens, throttle } = this.#access;
    if (tokens === undefined) return exposed ? undefined : fullRights("no token");
    const rights = tokens.identify(fieldValue(head.fields, SECRET_FIELD.toLowerCase()) ?? "");
    // It dials whatever callers ask for: that is what an exit does.
    if (rights?.isExit === true) return rights;
    await throttle.punish(client.address);
    return undefined;
  }
}

/** `/status`. */
export class WspStatus implements Endpoint {
  matches(path: string): boolean {
    return path === STATUS_PATH;
  }

  async serve(request: UpgradeRequest): Promise<void> {
    const stream = request.leave();
    if (stream !== undefined) closeWith(stream, textAnswer({ status: 200, text: "ok" }));
  }
}

/** `/request`: callers say in a field where it shall go. */
export class WspGateway implements Gateway {
  readonly #pools: WspPools;

  constructor(pools: WspPools) {
    this.#pools = pools;
  }

  matches(path: string): boolean {
    return path === REQUEST_PATH;
  }

  /** As wsp says it. */
  get style(): ErrorStyle {
    return { status: SERVER_ERROR };
  }

  destination(request: GatewayRequest): Destination {
    const { context, head, asker } = request;
    const url = fieldValue(head.fields, DESTINATION_FIELD.toLowerCase());
    const place = url === undefined ? undefined : placeOf(url);
    if (place === undefined)
      throw new SeikanError("bad-request", `Unable to parse ${DESTINATION_FIELD}: it names no URL`);
    const way = wspWay(this.#pools);
    checkTarget(context, place.target, way, asker);
    const why = this.#pools.limits.forbids({ method: head.method, url: url!, fields: head.fields, length: 0 });
    if (why !== undefined) throw new SeikanError("target-denied", why);
    return new WspVisit(context, head, { url: url!.replace(/#.*$/, ""), host: place.host }, way);
  }
}

function wspWay(pools: WspPools): Way {
  return {
    hops: [{ scheme: "agent", proxy: tcpTarget("wsp", 0), path: "", secret: undefined }],
    ...{ httpProxy: undefined, tunnels: [], probe: () => Promise.resolve() },
    dial: async () => {
      // One that closed while it was handed over is none.
      for (;;) {
        const connection = await pools.take();
        if (connection.isOpen) return connection.open();
      }
    },
    ...{ resolvesHere: false, reason: "wsp" },
  };
}

class WspVisit implements Destination {
  readonly way: Way;
  readonly origin = "wsp";
  readonly credentials = undefined;
  readonly proxyName = "";
  readonly idle = undefined;
  readonly style: ErrorStyle = { status: SERVER_ERROR };
  readonly #context: RouteContext;
  readonly #head: RequestHead;
  readonly #asked: { readonly url: string; readonly host: string };

  constructor(context: RouteContext, head: RequestHead, asked: { url: string; host: string }, way: Way) {
    this.#context = context;
    this.#head = head;
    this.#asked = asked;
    this.way = way;
  }

  prepare(): Outgoing {
    const fields = forwardedFields(this.#head, this.#asked.host, this.#context.via);
    // Each request of wsp goes by itself, and it knows no upgrade.
    return { target: this.#asked.url, fields: withoutFields(fields, isUnknownToWsp) };
  }

  accepts(): boolean {
    return false;
  }

  reach(): Promise<ByteStream> {
    const deadline: Deadline = deadlineIn(this.#context.limits.connectMs);
    return this.way.dial(tcpTarget("wsp", 0), { deadline });
  }

  get answerMs(): number {
    return this.#context.limits.answerMs;
  }

  answerFields(fields: string[]): string[] {
    return fields;
  }

  mayKeep(): boolean {
    return false;
  }

  settled(): void {}
}

/** It has no upgrades and no trailers. */
function isUnknownToWsp(name: string): boolean {
  return name === "upgrade" || name === "connection" || name === "te" || name === "trailer";
}

/** Host and port of an `http://` or `https://` URL. */
function placeOf(url: string): { target: TcpTarget; host: string } | undefined {
  const match = /^(https?):\/\/(\[[^\]]*\]|[^/?#@:]*)(?::(\d+))?(?:[/?#][\x21-\x7e]*)?$/i.exec(url);
  const host = match === null ? undefined : canonicalHost(match[2]!);
  if (match === null || host === undefined || host === "") return undefined;
  const standard = match[1]!.toLowerCase() === "https" ? 443 : 80;
  const port = match[3] === undefined ? standard : parsePort(match[3]);
  if (port === undefined) return undefined;
  return { target: tcpTarget(host, port), host: url.replace(/^[a-z]+:\/\/([^/?#]*).*$/is, "$1") };
}
