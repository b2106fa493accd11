import { SeikanError, toSeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { fieldValue, formatHead, type Fields } from "../wire/fields.ts";
import type { ResponseHead } from "../wire/http1.ts";
import { answerFault, upgradeFields, webSocketKey } from "../wire/websocket-handshake.ts";
import { askHop, hostFields, type HttpHop, type Refusal } from "./hop-request.ts";
import type { DialOptions } from "./transport.ts";
import type { Heartbeat } from "./pulse.ts";
import { webSocketStream } from "./websocket.ts";

/** A WebSocket endpoint on the way. */
export interface WebSocketHop extends HttpHop {
  /** Path and query of the endpoint. */
  readonly path: string;
}

export interface WebSocketRequest {
  /** The subprotocol that must be spoken; undefined: none is asked for. */
  readonly protocol: string | undefined;
  /** Added to the request. */
  readonly fields: Fields;
  readonly binaryOnly: boolean;
  readonly maxFrame: number;
  readonly heartbeat: Heartbeat;
  /** See `WebSocketOptions`. */
  readonly zeroMask?: boolean;
}

/** Opens a WebSocket at the hop: the opening handshake of RFC 6455 section 4.1, then its stream. */
export async function openWebSocket(
  hop: WebSocketHop,
  wanted: WebSocketRequest,
  options: DialOptions,
): Promise<ByteStream> {
  const stream = await upgradeWebSocket(hop, wanted, options);
  // Loaded here: nothing else needs it, and a start shall not wait for it.
  const { limitUnsent } = await import("./unsent-limit.ts");
  limitUnsent(stream);
  return webSocketStream(stream, {
    role: "client",
    peer: hop.name,
    ...wanted,
  });
}

/** The opening handshake alone: what the stream carries from then on is the caller's business. */
export async function upgradeWebSocket(
  hop: WebSocketHop,
  wanted: Pick<WebSocketRequest, "protocol" | "fields">,
  options: DialOptions,
): Promise<ByteStream> {
  return upgrade(hop, wanted, options).catch((thrown: unknown) => {
    throw withheld(hop, toSeikanError(thrown));
  });
}

function upgrade(
  hop: WebSocketHop,
  wanted: Pick<WebSocketRequest, "protocol" | "fields">,
  options: DialOptions,
): Promise<ByteStream> {
  const key = webSocketKey();
  const protocols = wanted.protocol === undefined ? [] : [wanted.protocol];
  return askHop(
    hop,
    {
      what: `WebSocket upgrade of ${shownPath(hop)}`,
      method: "GET",
      uri: hop.path,
      challenge: { status: 401, field: "www-authenticate" },
      head: (authorization) => {
        const credentials = authorization === undefined ? [] : ["Authorization", authorization];
        const fields = [
          ...hostFields(hop),
          ...upgradeFields(key, protocols),
          ...wanted.fields,
          ...credentials,
          ...hop.fields,
        ];
        return formatHead(`GET ${hop.path} HTTP/1.1`, fields);
      },
      agrees: (head) => head.status === 101 && isRight(hop, head, key, protocols),
      refused: (head, refusal) => upgradeRefused(hop, head, refusal),
    },
    options,
  );
}

function isRight(hop: WebSocketHop, head: ResponseHead, key: string, protocols: readonly string[]): true {
  const fault = answerFault(head, key, protocols);
  if (fault === undefined) return true;
  throw new SeikanError("hop-protocol", `${hop.name} does not complete the WebSocket upgrade: ${fault}`, {
    hints: ["something on the way answers in its place, or the path belongs to another service"],
  });
}

/** A query may hold a secret. */
function shownPath(hop: WebSocketHop): string {
  return hop.path.replace(/\?.*$/s, "?***");
}

function upgradeRefused(hop: WebSocketHop, head: ResponseHead, { code, message, hints }: Refusal): SeikanError {
  const { status } = head;
  // Whoever may not open the tunnel is refused for good, other than a target behind it.
  const refusedCode = status === 403 ? "hop-auth" : code;
  return new SeikanError(refusedCode, message, { hopStatus: status, hints: [...hints, ...refusalHints(hop, head)] });
}

function refusalHints(hop: WebSocketHop, { status, fields }: ResponseHead): string[] {
  if (status === 404 || status === 405)
    return [`is ${shownPath(hop)} the right path? write it into the URL: ${hop.name}/PATH`];
  if (status === 407) return ["an HTTP proxy answered: name it as a hop of its own, --via http://PROXY:PORT"];
  if (status >= 300 && status < 400)
    return [`it redirects to ${fieldValue(fields, "location") ?? "nowhere"}: use that address, if it is right`];
  if (status === 200 || status === 400 || status === 426)
    return ["it saw no upgrade: a proxy on the way may have stripped it (nginx needs proxy_set_header Upgrade)"];
  return [];
}

/** The hop was reached and kept silent: typical for something that collects answers before it passes them on. */
function withheld(hop: WebSocketHop, error: SeikanError): SeikanError {
  if (error.code !== "connect-timeout" || !error.message.startsWith(`${hop.name} does not answer`)) return error;
  return new SeikanError(error.code, `${hop.name} withholds its answer to the WebSocket upgrade`, {
    cause: error,
    hints: ["a proxy on the way may not pass WebSockets on, or collects answers first: turn its buffering off"],
  });
}
