import { after, deadlineIn, now, sleep } from "../core/clock.ts";
import { SeikanError, toSeikanError, type Evidence } from "../core/errors.ts";
import type { LaunchLedger } from "../platform/launch-ledger.ts";
import { describeEnding, isClean, ProcessGroup, type Ending } from "../platform/process-group.ts";
import { askHealth } from "../transports/ask-health.ts";
import { closeGently } from "../transports/gentle-close.ts";
import type { Dialer } from "../transports/transport.ts";
import { Output } from "./output.ts";
import type { ReadySign } from "./settings.ts";

/** One start of a service, with everything decided. */
export interface LaunchPlan {
  readonly name: string;
  readonly command: string | readonly string[];
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;
  readonly hasTerminal: boolean;
  readonly port: number | undefined;
  readonly ready: ReadySign;
  readonly readyMs: number;
  readonly settleMs: number;
  readonly stopMs: number;
}

/** Lines that are shown with an error. */
const EVIDENCE_LINES = 30;
/** First pauses between looking whether it is ready; later ones are longer. */
const LOOK_MS = 10;
const LONGEST_LOOK_MS = 250;
/** How long it may take to hear of an end. */
const REAP_MS = 1000;
/** How often a group is looked at whose first process ended well. */
const FORKED_MS = 500;

/** A command that was started, from its first moment to its last. */
export class Launch {
  readonly plan: LaunchPlan;
  readonly output: Output;
  readonly startedAt = now();
  /** Resolves once it takes requests; rejects with what went wrong. */
  readonly ready: Promise<void>;
  /** Resolves when it is over. */
  readonly ended: Promise<Ending>;
  isReady = false;
  readyAt = 0;
  /** Told to stop: however it ends is fine. */
  #isAsked = false;
  /** Its first process failed. */
  #isDoomed = false;
  /** What the last look at it found. */
  #health = "it was not asked";
  #seen: SeikanError | undefined;
  readonly #group: ProcessGroup;
  readonly #forget: () => void;

  /** Throws where the command cannot begin. */
  constructor(plan: LaunchPlan, dial: Dialer, output: Output, ledger: LaunchLedger | undefined) {
    this.plan = plan;
    this.output = output;
    const { command, folder, env, hasTerminal } = plan;
    const seen = Promise.withResolvers<void>();
    const source = () => output.source();
    const unseek = plan.ready.kind === "log" ? output.seek(plan.ready.text, seen.resolve) : () => {};
    this.#group = new ProcessGroup({ command, folder, env, hasTerminal, source });
    this.#forget = this.#remember(ledger);
    this.ended = this.#watch().finally(unseek);
    this.ready = this.#becomeReady(dial, seen.promise);
    this.ready.catch(() => {});
  }

  /** What cannot be written down could be left behind: then it does not run. */
  #remember(ledger: LaunchLedger | undefined): () => void {
    try {
      return ledger?.add(this.plan.name, this.pid, this.#group.mark) ?? (() => {});
    } catch (thrown) {
      this.#group.kill();
      throw thrown;
    }
  }

  get pid(): number {
    return this.#group.pid;
  }

  /** Ends all of it. Resolves when nothing is left, or cannot be ended (`isStuck`); repeating it waits with the first. */
  async stop(): Promise<void> {
    this.#isAsked = true;
    await this.#group.stop(this.plan.stopMs);
    await Promise.race([this.ended, sleep(REAP_MS)]);
  }

  /** It was told to end, and lives: it may belong to another user, or wait for a disk. */
  get isStuck(): boolean {
    return this.#isAsked && this.#group.isAlive;
  }

  /** At once, without waiting. */
  kill(): void {
    this.#isAsked = true;
    this.#group.kill();
    this.#forget();
  }

  /** What it did, and what it said last. */
  evidence(more: Evidence["facts"] = {}): Evidence {
    const { command, folder } = this.plan;
    const shown = typeof command === "string" ? command : command.join(" ");
    return { facts: { ...more, command: shown, folder }, output: this.output.latest(EVIDENCE_LINES) };
  }

  // --- its end --------------------------------------------------------------------

  async #watch(): Promise<Ending> {
    const ending = await this.#group.exited;
    // It forked: what it started goes on without it.
    while (isClean(ending) && !this.#isAsked && this.#group.isAlive) await sleep(FORKED_MS);
    await this.#group.stop(this.plan.stopMs);
    this.#forget();
    return ending;
  }

  // --- its beginning ---------------------------------------------------------------

  async #becomeReady(dial: Dialer, seen: Promise<void>): Promise<void> {
    const { readyMs, settleMs } = this.plan;
    const looking = new AbortController();
    const late = Promise.withResolvers<never>();
    const cancel = after(readyMs, () => late.reject(this.#late()));
    const fail = (ending: Ending): never => {
      throw this.#failed(ending);
    };
    const over = Promise.race([this.ended.then(fail), this.#badEnd().then(fail)]);
    try {
      await Promise.race([this.#sign(dial, seen, looking.signal), over, late.promise]);
      if (settleMs > 0) await Promise.race([sleep(settleMs, looking.signal), over]);
      this.isReady = true;
      this.readyAt = now();
    } catch (thrown) {
      if (thrown instanceof SeikanError && thrown.code === "service-timeout") void this.#group.stop(this.plan.stopMs);
      throw thrown;
    } finally {
      looking.abort();
      cancel();
      over.catch(() => {});
      late.promise.catch(() => {});
    }
  }

  /** Its first process failed: whatever it left behind is no server. */
  #badEnd(): Promise<Ending> {
    const { promise, resolve } = Promise.withResolvers<Ending>();
    void this.#group.exited.then((ending) => {
      if (isClean(ending)) return;
      this.#isDoomed = true;
      void this.#group.lastWords().then(() => resolve(ending));
    });
    return promise;
  }

  #late(): SeikanError {
    const { name, readyMs, ready, port } = this.plan;
    const isAbsent = this.#seen === undefined || this.#seen.code === "connect-refused";
    const nobody = `nothing listens${port === undefined ? "" : ` on port ${port}`}`;
    const what = {
      port: isAbsent ? nobody : this.#seen!.message,
      http: `${ready.kind === "http" ? ready.path : ""}: ${this.#health}`,
      log: `it did not print ${ready.kind === "log" ? JSON.stringify(ready.text) : ""}`,
    }[ready.kind];
    return new SeikanError("service-timeout", `${name} was not ready within ${readyMs / 1000} s: ${what}`, {
      evidence: this.evidence(),
      hints: isAbsent
        ? ["ready_timeout says how long to wait; does the command listen on {port} at {host}?"]
        : this.#seen!.hints,
    });
  }

  #failed(ending: Ending): SeikanError {
    const { name } = this.plan;
    const seconds = ((now() - this.startedAt) / 1000).toFixed(1);
    return new SeikanError("service-failed", `${name} ended before it was ready: ${describeEnding(ending)}`, {
      evidence: this.evidence({ ...endingFacts(ending), after: `${seconds} s` }),
    });
  }

  /** Resolves with the sign; looks for it until `signal` aborts. */
  async #sign(dial: Dialer, seen: Promise<void>, signal: AbortSignal): Promise<void> {
    const { ready } = this.plan;
    if (ready.kind === "log") return seen;
    let pause = LOOK_MS;
    while (!signal.aborted) {
      if ((await this.#shows(ready, dial)) && !this.#isDoomed) return;
      await sleep(pause, signal);
      // Often while most servers start, and seldom once it takes long: a tenth of the time it took so far.
      pause = Math.min(LONGEST_LOOK_MS, Math.max(LOOK_MS, (now() - this.startedAt) / 10));
    }
  }

  async #isWell(path: string, dial: Dialer, deadline: number): Promise<boolean> {
    const { isHealthy, why } = await askHealth(dial, path, deadline);
    this.#health = why;
    return isHealthy;
  }

  async #shows(ready: ReadySign, dial: Dialer): Promise<boolean> {
    const deadline = deadlineIn(LOOK_ANSWER_MS);
    if (ready.kind === "http") return this.#isWell(ready.path, dial, deadline);
    try {
      const stream = await dial({ kind: "unix", path: "" }, { deadline });
      closeGently(stream);
      return true;
    } catch (thrown) {
      this.#seen = toSeikanError(thrown);
      return false;
    }
  }
}

/** How long one look may take. */
const LOOK_ANSWER_MS = 2000;

export function endingFacts({ code, signal }: Ending): Evidence["facts"] {
  return signal === undefined ? { exitCode: code ?? 0 } : { signal };
}
