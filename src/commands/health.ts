import { tcpTarget } from "../core/address.ts";
import { deadlineIn, sleep } from "../core/clock.ts";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import { askHop } from "../transports/hop-request.ts";
import { ProxyCredentials } from "../transports/proxy-credentials.ts";
import type { Dialer } from "../transports/transport.ts";
import { formatHead } from "../wire/fields.ts";

const EVERY_MS = 5000;
const ANSWER_MS = 3000;

/** Asks a local service how it is, until `signal` aborts; `changed` hears of each turn, the first answer included. */
export async function watchHealth(
  dial: Dialer,
  path: string,
  changed: (isHealthy: boolean, why: string) => void,
  signal: AbortSignal,
): Promise<void> {
  let before: boolean | undefined;
  while (!signal.aborted) {
    const { isHealthy, why } = await ask(dial, path);
    if (signal.aborted) return;
    if (isHealthy !== before) changed(isHealthy, why);
    before = isHealthy;
    await sleep(EVERY_MS, signal);
  }
}

/** Well is what answers 2xx or 3xx. */
async function ask(dial: Dialer, path: string): Promise<{ isHealthy: boolean; why: string }> {
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
    const stream = await askHop(hop, request, { deadline: deadlineIn(ANSWER_MS) });
    stream.abort(new SeikanError("cancelled", "it is well"));
    return { isHealthy: true, why: `it answers ${status}` };
  } catch (thrown) {
    return { isHealthy: false, why: status === 0 ? toSeikanError(thrown).message : `it answers ${status}` };
  }
}
