import { formatTarget, type Target } from "../core/address.ts";
import { SeikanError } from "../core/errors.ts";
import { fieldValue, formatHead } from "../wire/fields.ts";
import { askConnectUdp } from "./connect-udp.ts";
import { askHop, type HttpHop } from "./hop-request.ts";
import type { Dialer } from "./transport.ts";

/** A dialer that asks the HTTP proxy to CONNECT (RFC 9110 section 9.3.6), or for a UDP flow. */
export function httpConnectDialer(hop: HttpHop): Dialer {
  return async (target, options) => {
    if (target.kind === "udp") return askConnectUdp(hop, target, options);
    const authority = authorityOf(target);
    const host = fieldValue(hop.fields, "host") === undefined ? ["Host", authority] : [];
    return askHop(
      hop,
      {
        what: `CONNECT ${authority}`,
        method: "CONNECT",
        uri: authority,
        challenge: { status: 407, field: "proxy-authenticate" },
        head: (authorization) => {
          const credentials = authorization === undefined ? [] : ["Proxy-Authorization", authorization];
          return formatHead(`CONNECT ${authority} HTTP/1.1`, [...host, ...credentials, ...hop.fields]);
        },
        agrees: ({ status }) => status >= 200 && status < 300,
      },
      options,
    );
  };
}

function authorityOf(target: Target): string {
  if (target.kind === "tcp") return formatTarget(target);
  throw new SeikanError("usage", `an HTTP proxy cannot reach ${formatTarget(target)}`);
}
