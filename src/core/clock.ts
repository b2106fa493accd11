import { SeikanError, type ErrorCode } from "./errors.ts";

/** Milliseconds of a clock that never jumps. */
export function now(): number {
  return performance.now();
}

/** A moment by which something must have happened, on `now()`'s clock. */
export type Deadline = number;

export function deadlineIn(ms: number): Deadline {
  return now() + ms;
}

// Timers beyond 2^31-1 ms would fire at once.
const LONGEST_TIMER = 0x7fffffff;

/** Runs `action` once after `ms`; call the result to take it back. */
export function after(ms: number, action: () => void): () => void {
  const timer = setTimeout(action, Math.min(Math.max(ms, 0), LONGEST_TIMER));
  return () => clearTimeout(timer);
}

/** Resolves after `ms`, or at once when `signal` aborts. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  if (signal?.aborted) resolve();
  const cancel = after(ms, resolve);
  signal?.addEventListener("abort", () => resolve(), { once: true });
  return promise.finally(cancel);
}

/** Settles as `work` does, or rejects with `code` when the deadline passes first. */
export async function before<T>(deadline: Deadline, work: Promise<T>, code: ErrorCode, message: string): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const cancel = after(deadline - now(), () => reject(new SeikanError(code, message)));
  return Promise.race([work, promise]).finally(cancel);
}

/**
 * Watches many things with one coarse timer (a tick a second): each watcher is
 * asked every tick and leaves when it answers `false`. Costs nothing per byte.
 */
export class Sweep {
  readonly #watchers = new Set<(now: number) => boolean>();
  #timer: ReturnType<typeof setInterval> | undefined;

  add(watcher: (now: number) => boolean): void {
    this.#watchers.add(watcher);
    this.#timer ??= setInterval(() => this.#tick(), 1000);
  }

  delete(watcher: (now: number) => boolean): void {
    this.#watchers.delete(watcher);
    if (this.#watchers.size === 0) this.#stop();
  }

  #tick(): void {
    const time = now();
    for (const watcher of this.#watchers) {
      if (!watcher(time)) this.#watchers.delete(watcher);
    }
    if (this.#watchers.size === 0) this.#stop();
  }

  #stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** The one sweep of this process. */
export const sweep: Sweep = new Sweep();
