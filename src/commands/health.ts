import { deadlineIn, sleep } from "../core/clock.ts";
import { askHealth } from "../transports/ask-health.ts";
import type { Dialer } from "../transports/transport.ts";

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
    const { isHealthy, why } = await askHealth(dial, path, deadlineIn(ANSWER_MS));
    if (signal.aborted) return;
    if (isHealthy !== before) changed(isHealthy, why);
    before = isHealthy;
    await sleep(EVERY_MS, signal);
  }
}
