import { tcpTarget } from "../core/address.ts";
import type { Deadline } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import { formatHead } from "../wire/fields.ts";
import { askHop } from "./hop-request.ts";
import { ProxyCredentials } from "./proxy-credentials.ts";
import type { Dialer } from "./transport.ts";

export interface Health {
  readonly isHealthy: boolean;
  /** For people: `it answers 503`. */
  readonly why: string;
}

/** Asks a service for this path. Well is what answers 2xx or 3xx. */
export async function askHealth(dial: Dialer, path: string, deadline: Deadline): Promise<Health> {
  let status = 0;
  const hop = {
    proxy: tcpTarget("localhost", 0),
    name: "the service",
    isSecure: true,
    credentials: new ProxyCredentials(undefined),
    fields: [],
    reach: dial,
  };
  const request = {
    what: `GET ${path}`,
    method: "GET",
    uri: path,
    challenge: { status: 407, field: "proxy-authenticate" } as const,
    head: () =>
      formatHead(`GET ${path} HTTP/1.1`, ["Host", "localhost", "User-Agent", "seikan-health", "Connection", "close"]),
    agrees: (head: { status: number }) => (status = head.status) >= 200 && head.status < 400,
  };
  try {
    const stream = await askHop(hop, request, { deadline });
    stream.abort(new SeikanError("cancelled", "it is well"));
    return { isHealthy: true, why: `it answers ${status}` };
  } catch (thrown) {
    return { isHealthy: false, why: status === 0 ? toSeikanError(thrown).message : `it answers ${status}` };
  }
}
