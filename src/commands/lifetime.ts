import { after } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import { exitCodeOf, onSignals } from "../platform/signals.ts";

export interface LifetimeOptions {
  /** `--timeout` in milliseconds. */
  readonly timeoutMs: number | undefined;
  /** SIGHUP; without it SIGHUP ends the run. */
  readonly reload?: () => void;
  /** SIGUSR1. */
  readonly status?: () => void;
}

/** How long a command runs: until it is done, asked to stop, or out of time. */
export class Lifetime {
  /** Resolves at the first SIGINT or SIGTERM. */
  readonly stopping: Promise<NodeJS.Signals>;
  /** Resolves with 128+n at the second signal; rejects when `--timeout` passes. */
  readonly ended: Promise<number>;
  readonly #release: () => void;

  constructor(options: LifetimeOptions) {
    const stopping = Promise.withResolvers<NodeJS.Signals>();
    const ended = Promise.withResolvers<number>();
    this.stopping = stopping.promise;
    this.ended = ended.promise;
    ended.promise.catch(() => {});
    const { timeoutMs, reload, status } = options;
    const forget = onSignals({
      stop: (signal) => stopping.resolve(signal),
      endNow: (signal) => ended.resolve(exitCodeOf(signal)),
      ...(reload === undefined ? {} : { reload }),
      ...(status === undefined ? {} : { status }),
    });
    const expire = () =>
      ended.reject(new SeikanError("run-timeout", `--timeout: not done after ${timeoutMs! / 1000} s`));
    const cancel = timeoutMs === undefined || timeoutMs === 0 ? () => {} : after(timeoutMs, expire);
    this.#release = () => (forget(), cancel());
  }

  release(): void {
    this.#release();
  }
}
