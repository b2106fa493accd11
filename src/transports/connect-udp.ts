import type { UdpTarget } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { fieldTokens, formatHead } from "../wire/fields.ts";
import { askHop, hostFields, type HttpHop } from "./hop-request.ts";
import type { DialOptions } from "./transport.ts";

/** The upgrade token (RFC 9298 section 8.1). */
export const CONNECT_UDP = "connect-udp";
/** The default template is `/.well-known/masque/udp/{target_host}/{target_port}/` (RFC 9298 section 2). */
export const MASQUE_UDP_PATH = "/.well-known/masque/udp/";

/** Asks an HTTP proxy for a UDP flow (RFC 9298 section 3.2); its stream carries capsules. */
export function askConnectUdp(hop: HttpHop, target: UdpTarget, options: DialOptions): Promise<ByteStream> {
  const path = `${MASQUE_UDP_PATH}${encodeURIComponent(target.host)}/${target.port}/`;
  const upgrade = ["Connection", "Upgrade", "Upgrade", CONNECT_UDP, "Capsule-Protocol", "?1"];
  return askHop(
    hop,
    {
      what: `${CONNECT_UDP} to ${target.host} port ${target.port}`,
      method: "GET",
      uri: path,
      challenge: { status: 401, field: "www-authenticate" },
      head: (authorization) => {
        // Proxies differ in which of the two they look at.
        const credentials =
          authorization === undefined ? [] : ["Authorization", authorization, "Proxy-Authorization", authorization];
        return formatHead(`GET ${path} HTTP/1.1`, [...hostFields(hop), ...upgrade, ...credentials, ...hop.fields]);
      },
      agrees(head) {
        if (head.status !== 101) return false;
        if (fieldTokens(head.fields, "upgrade").includes(CONNECT_UDP)) return true;
        throw new SeikanError("hop-protocol", `${hop.name} switches to another protocol than ${CONNECT_UDP}`);
      },
      refused: ({ status }, { code, message, hints }) =>
        new SeikanError(code, message, {
          hopStatus: status,
          hints: [...hints, ...([200, 400, 404, 405, 501].includes(status) ? ["does that proxy speak RFC 9298?"] : [])],
        }),
    },
    options,
  );
}
