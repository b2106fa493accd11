import { now, sweep } from "../core/clock.ts";

/** When a silent peer is asked for a sign of life, and when it is given up. Milliseconds, 0: never. */
export interface Heartbeat {
  readonly intervalMs: number;
  /** From then on it has this long; any byte counts. */
  readonly timeoutMs: number;
}

/** How long an asked peer has. */
const ANSWER_MS = 10_000;

export function heartbeatEvery(intervalMs: number): Heartbeat {
  return { intervalMs, timeoutMs: ANSWER_MS };
}

/** A tick that comes this late says that this process itself slept. */
const SLEPT_MS = 5000;

/** Whose peer is watched. */
export interface Watched {
  readonly isReading: boolean;
  /** False once it said its last word: then it has nothing to answer with. */
  readonly mayAnswer: boolean;
  /** Milliseconds that it has beyond the heartbeat's time-out. */
  readonly slackMs?: number;
  ask(): void;
  giveUp(silentMs: number): void;
}

/** Watches for signs of life. */
export class Pulse {
  readonly #watched: Watched;
  readonly #heartbeat: Heartbeat;
  #lastSign = now();
  #lastSent = now();
  #lastTick = now();
  #asked = 0;

  constructor(watched: Watched, heartbeat: Heartbeat | undefined) {
    this.#watched = watched;
    this.#heartbeat = heartbeat ?? { intervalMs: 0, timeoutMs: 0 };
  }

  start(): void {
    if (this.#heartbeat.intervalMs > 0) sweep.add(this.#beat);
  }

  stop(): void {
    sweep.delete(this.#beat);
  }

  /** The peer did something. */
  heard(): void {
    this.#lastSign = now();
  }

  /** We did. */
  sent(): void {
    this.#lastSent = now();
  }

  readonly #beat = (time: number): boolean => {
    const { intervalMs, timeoutMs } = this.#heartbeat;
    const { isReading, mayAnswer, slackMs = 0 } = this.#watched;
    const slept = time - this.#lastTick > SLEPT_MS;
    this.#lastTick = time;
    // What arrived meanwhile was not seen: neither asleep nor while nothing is read.
    if (slept || !isReading) this.#lastSign = Math.max(this.#lastSign, time - intervalMs);
    const silent = time - this.#lastSign;
    if (isReading && mayAnswer && silent >= intervalMs + timeoutMs + slackMs) {
      this.#watched.giveUp(silent);
      return false;
    }
    const quiet = time - Math.max(this.#lastSent, this.#asked);
    // Both sides ask, so that each of them has something to hear.
    if (quiet >= intervalMs || (silent >= intervalMs && time - this.#asked >= intervalMs)) {
      this.#asked = time;
      this.#watched.ask();
    }
    return true;
  };
}
