import { now, sleep } from "../core/clock.ts";

/** After a failure an address waits this long for its answer, twice as long after each further one. */
const DELAY_MS = 200;
const LONGEST_DELAY_MS = 5000;
const REMEMBERED = 10_000;
const MEMORY_MS = 60_000;

/** Makes guessing slow: whoever failed before waits for the next answer. */
export class Throttle {
  readonly #failures = new Map<string, { count: number; at: number }>();

  /** Resolves when this address may hear of its failure. */
  punish(address: string): Promise<void> {
    const time = now();
    const known = this.#failures.get(address);
    const count = known !== undefined && time - known.at < MEMORY_MS ? known.count + 1 : 0;
    if (this.#failures.size >= REMEMBERED) this.#failures.clear();
    this.#failures.set(address, { count, at: time });
    return sleep(Math.min(DELAY_MS * 2 ** Math.min(count, 10), LONGEST_DELAY_MS));
  }

  forgive(address: string): void {
    this.#failures.delete(address);
  }
}
