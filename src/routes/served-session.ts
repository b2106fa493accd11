import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { MuxSession } from "../transports/mux.ts";
import { TUNNEL_FRAME_BYTES, TUNNEL_PROTOCOL } from "../transports/tunnel.ts";
import { limitUnsent } from "../transports/unsent-limit.ts";
import type { Heartbeat } from "../transports/pulse.ts";
import { webSocketStream } from "../transports/websocket.ts";
import { formatHead } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { acceptFields, offeredProtocols } from "../wire/websocket-handshake.ts";
import type { Client, UpgradeRequest } from "./context.ts";
import { checkOrigin, checkUpgrade } from "./upgrade-checks.ts";

/** The server's end of a session (docs/PROTOCOL.md): a WebSocket that carries yamux streams. */

/** Throws unless the request is a right one for a session, from no foreign page. */
export function checkSessionRequest({ context, head }: UpgradeRequest, origins: readonly string[]): void {
  checkUpgrade(head);
  checkOrigin(head, origins);
  checkProtocol(head);
  if (context.isDraining()) throw new SeikanError("shutdown", "this server is about to stop");
}

export interface SessionSettings {
  /** Who is at the other end, for errors. */
  readonly peer: string;
  readonly heartbeat: Heartbeat;
  /** Gets every stream the peer opens, and owns it. */
  readonly accept: (stream: ByteStream) => void;
  /** The peer takes no more streams. */
  readonly onGoAway?: () => void;
}

/** Answers the upgrade and speaks yamux on `stream`, which it owns. */
export function startSession({ head }: UpgradeRequest, stream: ByteStream, settings: SessionSettings): MuxSession {
  const { peer, heartbeat } = settings;
  limitUnsent(stream);
  stream.write(formatHead("HTTP/1.1 101 Switching Protocols", acceptFields(head, TUNNEL_PROTOCOL)));
  const limits = { binaryOnly: true, maxFrame: TUNNEL_FRAME_BYTES, heartbeat };
  const carrier = webSocketStream(stream, { role: "server", peer, ...limits });
  return new MuxSession(carrier, { role: "server", ...settings });
}

export function peerName(what: string, { address }: Client): string {
  return address === "" ? what : `${what} ${address}`;
}

function checkProtocol(head: RequestHead): void {
  const offered = offeredProtocols(head.fields);
  if (offered.includes(TUNNEL_PROTOCOL)) return;
  const theirs = offered.length === 0 ? "no subprotocol" : offered.join(", ").slice(0, 100);
  throw new SeikanError("bad-request", `this tunnel speaks ${TUNNEL_PROTOCOL}, and the client offers ${theirs}`, {
    hints: ["client and server must be of versions that share one"],
  });
}
