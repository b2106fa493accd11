import { sleep } from "../core/clock.ts";
import type { Upstream } from "./exposures.ts";

const EVERY_MS = 5000;
const ANSWER_MS = 3000;

/** Asks a local service how it is, until `signal` aborts; `changed` hears of each turn, the first answer included. */
export async function watchHealth(
  upstream: Upstream,
  path: string,
  changed: (isHealthy: boolean, why: string) => void,
  signal: AbortSignal,
): Promise<void> {
  let before: boolean | undefined;
  while (!signal.aborted) {
    const { isHealthy, why } = await ask(upstream, path, signal);
    if (signal.aborted) return;
    if (isHealthy !== before) changed(isHealthy, why);
    before = isHealthy;
    await sleep(EVERY_MS, signal);
  }
}

async function ask(
  upstream: Upstream,
  path: string,
  signal: AbortSignal,
): Promise<{ isHealthy: boolean; why: string }> {
  if (upstream.kind === "files") return { isHealthy: true, why: "files" };
  const { target, tls, insecure } = upstream;
  const authority = target.kind === "unix" ? "localhost" : `${bracketed(target.host)}:${target.port}`;
  try {
    const response = await fetch(`${tls ? "https" : "http"}://${authority}${path}`, {
      redirect: "manual",
      signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]),
      proxy: "",
      ...(target.kind === "unix" && { unix: target.path }),
      ...(tls && insecure && { tls: { rejectUnauthorized: false } }),
    });
    await response.body?.cancel();
    return { isHealthy: response.status >= 200 && response.status < 400, why: `it answers ${response.status}` };
  } catch (cause) {
    return { isHealthy: false, why: (cause as Error).message };
  }
}

function bracketed(host: string): string {
  return host.includes(":") ? `[${host}]` : host;
}
