/** When services are stopped, and when they are started again after a crash: pure decisions. */

const FIRST_BACKOFF_MS = 1000;
const LONGEST_BACKOFF_MS = 30_000;
/** A service that was up this long had not failed to start. */
export const SETTLED_MS = 10_000;
/** So many crashes within a minute are one too many. */
const TRIP_CRASHES = 5;
const TRIP_WINDOW_MS = 60_000;
/** After so long without a crash the next one is the first. */
const FORGOTTEN_MS = 10 * 60_000;
/** How long nothing is started then, unless somebody asks for it by hand. */
const TRIP_PAUSE_MS = 30_000;

/** After the last of these crashes (moments in milliseconds), when to start again: each pause twice the one before. */
export function pauseAfter(crashes: readonly number[]): { readonly ms: number; readonly isTripped: boolean } {
  const last = crashes.at(-1) ?? 0;
  const recent = crashes.filter((moment) => last - moment < TRIP_WINDOW_MS);
  if (recent.length >= TRIP_CRASHES) return { ms: TRIP_PAUSE_MS, isTripped: true };
  return {
    ms: Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** Math.max(0, crashes.length - 1)),
    isTripped: false,
  };
}

/** What is long ago does not count any more. */
export function remembered(crashes: readonly number[], time: number): readonly number[] {
  return time - (crashes.at(-1) ?? 0) < FORGOTTEN_MS ? crashes : [];
}

export interface Use {
  /** Requests, streams and WebSockets that are open, and dependants that run. */
  readonly open: number;
  /** When the last one ended. */
  readonly lastUse: number;
}

/** Nobody has used it for `idleMs`; 0 is never. */
export function isIdle({ open, lastUse }: Use, idleMs: number, time: number): boolean {
  return idleMs > 0 && open === 0 && time - lastUse >= idleMs;
}
