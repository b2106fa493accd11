import { canonicalHost, parsePort, udpTarget, type UdpTarget } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import { CONNECT_UDP, MASQUE_UDP_PATH } from "../transports/connect-udp.ts";
import { formatHead } from "../wire/fields.ts";
import type { RequestHead } from "../wire/http1.ts";
import { wantsUpgrade } from "../wire/websocket-handshake.ts";
import { answerStatus, closeWith, errorAnswer } from "./answers.ts";
import { openTunnel } from "./connect.ts";
import type { Endpoint, UpgradeRequest } from "./context.ts";

const ACCEPTED = formatHead("HTTP/1.1 101 Switching Protocols", [
  ...["Connection", "Upgrade", "Upgrade", CONNECT_UDP],
  ...["Capsule-Protocol", "?1"],
]);

/** UDP proxying over HTTP/1.1 (RFC 9298 section 3.2): one flow to one target, as capsules. */
export class ConnectUdpEndpoint implements Endpoint {
  readonly protocol = CONNECT_UDP;
  matches(path: string): boolean {
    return path.startsWith(MASQUE_UDP_PATH);
  }

  async serve(request: UpgradeRequest): Promise<void> {
    const { context, head, client, exposed } = request;
    checkRequest(head);
    const target = targetOf(request.path);
    const user = await request.authorize();
    const inbound = request.leave();
    if (inbound === undefined) return;
    openTunnel(context, inbound, {
      method: "CONNECT-UDP",
      target,
      ...{ client, exposed, user },
      acceptStatus: 101,
      accept(stream) {
        stream.write(ACCEPTED);
        return stream;
      },
      refuse(stream, error, proxyName) {
        closeWith(stream, errorAnswer(error, proxyName, { asOrigin: true }));
        return answerStatus(error, { asOrigin: true });
      },
    });
  }
}

function checkRequest(head: RequestHead): void {
  if (head.method !== "GET" || head.minor !== 1 || head.framing !== 0)
    throw new SeikanError("bad-request", "connect-udp is asked for with GET in HTTP/1.1, without a body");
  if (!wantsUpgrade(head.fields, CONNECT_UDP))
    throw new SeikanError("upgrade-required", "this path is for connect-udp, and the request asks for no upgrade");
}

/** `/.well-known/masque/udp/{target_host}/{target_port}/`, the host percent-encoded (RFC 9298 section 3). */
function targetOf(path: string): UdpTarget {
  const match = /^([^/]+)\/([^/]+)\/?$/.exec(path.slice(MASQUE_UDP_PATH.length));
  const host = match === null ? undefined : decodeHost(match[1]!);
  const port = match === null ? undefined : parsePort(match[2]!);
  if (host !== undefined && port !== undefined) return udpTarget(host, port);
  throw new SeikanError("bad-request", `"${path.slice(0, 200)}" names no host and port`);
}

function decodeHost(text: string): string | undefined {
  try {
    const host = decodeURIComponent(text);
    return canonicalHost(host.includes(":") && !host.startsWith("[") ? `[${host}]` : host);
  } catch {
    return undefined;
  }
}
