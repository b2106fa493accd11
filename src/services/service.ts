import { readFileSync } from "node:fs";
import { parseEnv } from "node:util";
import { after, before, deadlineIn, now, sleep, sweep } from "../core/clock.ts";
import { SeikanError, toSeikanError, type Evidence } from "../core/errors.ts";
import type { Logger } from "../core/log.ts";
import type { ByteStream } from "../core/stream.ts";
import type { LaunchLedger } from "../platform/launch-ledger.ts";
import { describeEnding, isClean, type Ending } from "../platform/process-group.ts";
import { closeGently } from "../transports/gentle-close.ts";
import { freePort } from "../transports/free-port.ts";
import type { Dialer, DialOptions } from "../transports/transport.ts";
import { endingFacts, Launch, type LaunchPlan } from "./launch.ts";
import { isAbsent, ServiceAddress } from "./address.ts";
import {
  closed,
  failed,
  held,
  launchDenied,
  notOurs,
  startedElsewhere,
  starting,
  tooMany,
  type Failure,
} from "./messages.ts";
import { Output } from "./output.ts";
import { isIdle, pauseAfter, remembered, SETTLED_MS } from "./policy.ts";
import { fillIn, runsTheSame, type Placeholders, type ServiceSettings } from "./settings.ts";

/** What all services of a process share. */
export interface ServiceHost {
  /** Dials without any hop. */
  readonly direct: Dialer;
  /** For children: without our secrets. */
  readonly env: Readonly<Record<string, string>>;
  readonly ledger: LaunchLedger | undefined;
  readonly log: Logger;
  readonly connectMs: number;
  /** Where visitors find a service. */
  urlOf(name: string): string;
  find(name: string): Service | undefined;
  /** Resolves once no other service's outgoing launch has this port; undefined: none has. */
  leaving(port: number, except: Service): Promise<unknown> | undefined;
}

export interface ReachOptions extends DialOptions {
  /** False: whoever asks may use it while it runs, and not start it. */
  readonly mayLaunch: boolean;
  /** Takes what is to be called when whoever asks goes away meanwhile. */
  readonly onGone?: ((leave: () => void) => void) | undefined;
  /** After so long a start that goes on is an error (`service-starting`); undefined: it is waited for. */
  readonly patienceMs?: number | undefined;
}

export type ServiceState = "stopped" | "starting" | "ready" | "stopping" | "failed" | "held";

/** Requests that wait for one service at once. */
const MAX_WAITING = 256;
/** A server that closed its port and lives may be about to open it again. */
const RECOVER_MS = 5000;
/** How long an outgoing server may take for the requests it has. */
const DRAIN_MS = 10_000;
const LOOK_MS = 50;
/** What a service manager tells seikan is not for its children (sd_notify(3), sd_listen_fds(3)). */
const FROM_THE_MANAGER = /^(NOTIFY_SOCKET|LISTEN_(FDS|PID|FDNAMES)|WATCHDOG_(USEC|PID))$/;

/**
 * A service by its name: at most one launch of it runs, and is started,
 * watched and stopped here. What it is made of may change; who waits for it goes on waiting.
 */
export class Service {
  #settings: ServiceSettings;
  readonly #host: ServiceHost;
  readonly #output = new Output();
  #address: ServiceAddress;
  #launch: Launch | undefined;
  #beginning: Promise<Launch | undefined> | undefined;
  #recovering: Promise<void> | undefined;
  /** Launches on their way out: the next one waits for them. */
  #leaving: Promise<unknown> = Promise.resolve();
  readonly #outgoing = new Set<Launch>();
  #isHeld = false;
  #isClosed = false;
  /** It is served no more, and ends. */
  #ending: Promise<void> | undefined;
  /** At the latest. */
  #endsBy = Number.POSITIVE_INFINITY;
  /** It was up, and nobody wanted it to end: after a crash it is started again unasked. */
  #isWanted = false;
  #crashes: number[] = [];
  #failure: Failure | undefined;
  #cancelRestart: () => void = () => {};
  #open = 0;
  /** Services that run and depend on it. */
  #dependants = 0;
  #upgraded = 0;
  #waiting = 0;
  #lastUse = now();
  #starts = 0;

  constructor(settings: ServiceSettings, host: ServiceHost) {
    this.#settings = settings;
    this.#host = host;
    this.#address = this.#addressAt(this.#fixedPort);
    sweep.add(this.#tick);
  }

  // --- what it is --------------------------------------------------------------------

  get settings(): ServiceSettings {
    return this.#settings;
  }

  get output(): Output {
    return this.#output;
  }

  get state(): ServiceState {
    if (this.#launch !== undefined) return this.#launch.isReady ? "ready" : "starting";
    if (this.#beginning !== undefined) return "starting";
    if (this.#outgoing.size > 0) return "stopping";
    if (this.#isHeld) return "held";
    return this.#failure === undefined ? "stopped" : "failed";
  }

  get facts() {
    const launch = this.#launch;
    return {
      pid: launch?.pid,
      port: this.port,
      upMs: launch?.isReady === true ? Math.round(now() - launch.readyAt) : undefined,
      open: this.#open + this.#dependants,
      waiting: this.#waiting,
      starts: this.#starts,
      error: this.#failure?.error.message,
    };
  }

  /** The port it has, where it is one of this machine's. */
  get port(): number | undefined {
    return this.#launch?.plan.port ?? this.#fixedPort;
  }

  /** The port it has whenever it runs. */
  get #fixedPort(): number | undefined {
    const { place } = this.#settings;
    return place.kind === "loopback" ? place.port : undefined;
  }

  /** Names what connections lead to: of another launch they are worth nothing. */
  get generation(): string {
    return `${this.#settings.name} ${this.#launch?.pid ?? "?"}`;
  }

  /** The launch that runs goes on to run. */
  get takesRequests(): boolean {
    return this.#launch === undefined ? this.#mayDial : this.#launch.isReady;
  }

  /** It has a place of its own, where somebody else may have started a server. */
  get mayBeExternal(): boolean {
    return this.#launch === undefined && this.#outgoing.size === 0 && this.#hasPort && this.#elsewhere === undefined;
  }

  /** Somebody answers where it should listen, whoever started that. */
  async answers(): Promise<boolean> {
    try {
      const stream = await this.#address.dial({ deadline: deadlineIn(500) });
      closeGently(stream);
      return true;
    } catch {
      return false;
    }
  }

  // --- use ---------------------------------------------------------------------------

  /** It is in use until the result is called; `isUpgraded`: by something that lasts, a WebSocket. */
  use(isUpgraded = false): () => void {
    this.#open++;
    if (isUpgraded) this.#upgraded++;
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#open--;
      if (isUpgraded) this.#upgraded--;
      this.#lastUse = now();
    };
  }

  /** Opens a connection to it, and starts it where nobody listens. */
  async reach(options: ReachOptions): Promise<ByteStream> {
    const release = this.use();
    const gone = Promise.withResolvers<never>();
    options.onGone?.(() => gone.reject(new SeikanError("cancelled", "whoever asked has gone")));
    const reaching = this.#reach(options, gone.promise);
    try {
      return await Promise.race([reaching, gone.promise]);
    } catch (thrown) {
      // It may still come, and nobody wants it.
      reaching.then((stream) => stream.abort(toSeikanError(thrown))).catch(() => {});
      throw thrown;
    } finally {
      gone.promise.catch(() => {});
      release();
    }
  }

  /** Dials it for streams that use it until they end. */
  get dialer(): Dialer {
    return async (_, options) => {
      const stream = await this.reach({ ...options, mayLaunch: true });
      void stream.closed.then(this.use());
      return stream;
    };
  }

  async #reach(options: ReachOptions, gone: Promise<never>): Promise<ByteStream> {
    const patience = options.patienceMs === undefined ? undefined : deadlineIn(options.patienceMs);
    // Each turn is another launch; a server that cannot be kept up is given up.
    for (let turn = 0; ; turn++) {
      const launch = this.#launch;
      if (this.#mayDial) {
        try {
          return await this.#address.dial({ ...options, deadline: deadlineIn(this.#host.connectMs) });
        } catch (thrown) {
          const error = toSeikanError(thrown);
          if (!isAbsent(error) || !this.#canLaunch || turn > 2) throw error;
        }
      }
      if (!options.mayLaunch && !this.#isStarting) throw launchDenied(this.#settings);
      const started = launch?.isReady === true && launch === this.#launch ? this.#recover(launch) : this.ensure();
      await this.#wait(Promise.race([started, gone]), patience);
    }
  }

  /** What leaves is not asked any more, and what is not ready not yet. */
  get #mayDial(): boolean {
    if (this.#launch !== undefined) return this.#launch.isReady;
    return this.mayBeExternal && this.#beginning === undefined;
  }

  /** Somebody else's server is about to leave this port. */
  get #elsewhere(): Promise<unknown> | undefined {
    const port = this.#fixedPort;
    return port === undefined ? undefined : this.#host.leaving(port, this);
  }

  /** Resolves once its outgoing launches are over, where one of them has this port. */
  leaves(port: number): Promise<unknown> | undefined {
    const isEnding = this.#ending !== undefined && this.#launch?.plan.port === port;
    if (isEnding) return this.#ending;
    return [...this.#outgoing].some(({ plan }) => plan.port === port) ? this.#leaving : undefined;
  }

  get #hasPort(): boolean {
    return this.#settings.place.kind === "target" || this.#fixedPort !== undefined;
  }

  get #canLaunch(): boolean {
    return this.#settings.command !== undefined;
  }

  get #isStarting(): boolean {
    return this.state === "starting";
  }

  /** For a start, with many others, and no longer than `patience`. */
  async #wait(started: Promise<unknown>, patience: number | undefined): Promise<void> {
    started.catch(() => {});
    if (this.#waiting >= MAX_WAITING) throw tooMany(this.#settings, MAX_WAITING);
    this.#waiting++;
    try {
      await (patience === undefined ? started : before(patience, started, "service-starting", ""));
    } catch (thrown) {
      const error = toSeikanError(thrown);
      throw error.code === "service-starting" ? starting(this.#settings, this.#launch) : error;
    } finally {
      this.#waiting--;
    }
  }

  // --- starting ------------------------------------------------------------------------

  /** Resolves once a launch is ready, whichever that is by then. */
  async ensure(): Promise<void> {
    const { readyMs, stopMs, settleMs } = this.#settings;
    // A launch may have to wait for the one before it, and may be replaced by a changed one.
    const deadline = deadlineIn(2 * (readyMs + settleMs + stopMs) + DRAIN_MS);
    for (;;) {
      this.#checkWanted();
      if (this.#launch === undefined && this.#failure !== undefined && now() < this.#failure.againAt)
        throw failed(this.#settings, this.#failure);
      const launch = this.#launch ?? (await before(deadline, this.#begin(), "service-timeout", this.#lateMessage));
      if (launch === undefined) return;
      try {
        await before(deadline, launch.ready, "service-timeout", this.#lateMessage);
      } catch (thrown) {
        // Whoever replaced it has another one, which is waited for.
        if (launch === this.#launch || this.#failure?.error === thrown || now() >= deadline) throw thrown;
        await this.#leaving;
        continue;
      }
      if (launch === this.#launch) return;
    }
  }

  /** Throws where no start is wanted. */
  #checkWanted(): void {
    if (this.#isClosed) throw closed(this.#settings);
    if (this.#isHeld) throw held(this.#settings);
    if (!this.#canLaunch) throw notOurs(this.#settings, "start");
  }

  get #lateMessage(): string {
    return `${this.#settings.name} did not start in time`;
  }

  /** One start for everybody who asks meanwhile; undefined: somebody else's server answers by now. */
  #begin(): Promise<Launch | undefined> {
    this.#beginning ??= this.#startNew().finally(() => (this.#beginning = undefined));
    return this.#beginning;
  }

  async #startNew(): Promise<Launch | undefined> {
    this.#cancelRestart();
    const hasToWait = this.#outgoing.size > 0 || this.#elsewhere !== undefined;
    await this.#leaving;
    await this.#elsewhere;
    if (hasToWait && this.#hasPort && (await this.answers())) return undefined;
    const releases = await this.#dependencies();
    const { name } = this.#settings;
    try {
      this.#checkWanted();
      const plan = this.#plan();
      this.#output.begin(typeof plan.command === "string" ? plan.command : plan.command.join(" "));
      this.#address = this.#addressAt(plan.port);
      const address = this.#address;
      const launch = new Launch(plan, (_, options) => address.dial(options), this.#output, this.#host.ledger);
      this.#launch = launch;
      this.#starts++;
      this.#host.log.info(`starting ${name}`, { pid: launch.pid, port: plan.port });
      this.#follow(launch, releases);
      return launch;
    } catch (thrown) {
      for (const release of releases) release();
      const error = toSeikanError(thrown);
      if (["service-stopped", "shutdown", "bad-request"].includes(error.code)) throw error;
      throw this.#crashed(
        new SeikanError("service-failed", `${name} cannot be started: ${error.message}`, {
          cause: error,
          evidence: { facts: this.#commandFacts(), output: [] },
        }),
      );
    }
  }

  #commandFacts(): Evidence["facts"] {
    const { command, folder } = this.#settings;
    return { command: typeof command === "string" ? command : (command?.join(" ") ?? ""), folder };
  }

  /** Starts what this needs; it stays up as long as this runs. */
  async #dependencies(): Promise<(() => void)[]> {
    const needed = this.#settings.dependsOn.map((name) => this.#host.find(name)!);
    const releases = needed.map((service) => service.#need());
    try {
      await Promise.all(needed.map((service) => service.#becomeUsable()));
      return releases;
    } catch (thrown) {
      for (const release of releases) release();
      const error = toSeikanError(thrown);
      const message = `${this.#settings.name} needs another service: ${error.message}`;
      const evidence = error.evidence;
      throw new SeikanError(error.code, message, { cause: error, hints: error.hints, ...(evidence && { evidence }) });
    }
  }

  /** It is not idle until the result is called. */
  #need(): () => void {
    this.#dependants++;
    return () => {
      this.#dependants--;
      this.#lastUse = now();
    };
  }

  async #becomeUsable(): Promise<void> {
    const stream = await this.reach({ deadline: 0, mayLaunch: true });
    closeGently(stream);
  }

  #plan(): LaunchPlan {
    const { name, place, command, folder, hasTerminal, ready, readyMs, settleMs, stopMs } = this.#settings;
    const port = place.kind === "loopback" ? (place.port ?? freePort()) : undefined;
    const words: Placeholders = { host: "127.0.0.1", port, name, url: this.#host.urlOf(name) };
    const filled = typeof command === "string" ? fillIn(command, words) : command!.map((word) => fillIn(word, words));
    return {
      ...{ name, folder, hasTerminal, port, ready, readyMs, settleMs, stopMs },
      command: filled,
      env: this.#environment(words),
    };
  }

  #environment(words: Placeholders): Record<string, string> {
    const { env, envFile } = this.#settings;
    const own = Object.fromEntries(Object.entries(env).map(([name, value]) => [name, fillIn(value, words)]));
    const place = { ...(words.port !== undefined && { PORT: String(words.port), HOST: words.host }) };
    const ours = Object.entries(this.#host.env).filter(([name]) => !FROM_THE_MANAGER.test(name));
    return { ...Object.fromEntries(ours), ...place, SEIKAN_URL: words.url, ...readEnvFile(envFile), ...own };
  }

  #addressAt(port: number | undefined): ServiceAddress {
    return new ServiceAddress(this.#settings.place, port, this.#host.direct, this.#settings);
  }

  #follow(launch: Launch, releases: readonly (() => void)[]): void {
    const { log } = this.#host;
    const { name } = launch.plan;
    launch.ready.then(
      () => {
        this.#lastUse = now();
        this.#isWanted = true;
        this.#failure = undefined;
        log.info(`${name} is ready`, { ms: Math.round(now() - launch.startedAt) });
      },
      (thrown: unknown) => {
        if (launch !== this.#launch) return;
        this.#launch = undefined;
        this.#depart(launch);
        this.#crashed(toSeikanError(thrown));
      },
    );
    void launch.ended.then((ending) => {
      for (const release of releases) release();
      this.#ended(launch, ending);
    });
  }

  // --- ends ----------------------------------------------------------------------------

  #ended(launch: Launch, ending: Ending): void {
    this.#output.note(describeEnding(ending));
    // A launch that never was ready is told about by `ready`.
    if (launch !== this.#launch || !launch.isReady) return;
    this.#launch = undefined;
    const { name } = launch.plan;
    if (isClean(ending)) {
      this.#isWanted = false;
      this.#host.log.info(`${name} ended`);
      return;
    }
    if (now() - launch.readyAt >= SETTLED_MS) this.#crashes = [];
    const evidence = launch.evidence(endingFacts(ending));
    this.#crashed(new SeikanError("service-failed", `${name} crashed: ${describeEnding(ending)}`, { evidence }));
  }

  /** Remembers a failure, and starts again after a pause where that is wanted. */
  #crashed(error: SeikanError): SeikanError {
    this.#crashes = [...remembered(this.#crashes, now()), now()];
    const { ms, isTripped } = pauseAfter(this.#crashes);
    const isAutomatic = this.#settings.restarts && this.#isWanted && !isTripped && !this.#isHeld && !this.#isClosed;
    if (!isAutomatic) this.#isWanted = false;
    this.#failure = { error, againAt: now() + ms, isTripped, isAutomatic };
    this.#host.log.error(error.message, {
      code: error.code,
      ...(isAutomatic && { again: `${ms / 1000}s` }),
      ...(isTripped && { pausing: `${ms / 1000}s` }),
    });
    if (isAutomatic) {
      this.#cancelRestart = after(ms, () => {
        if (!this.#isHeld && !this.#isClosed && this.#launch === undefined) this.#startAgain().catch(() => {});
      });
    }
    return error;
  }

  /** Unless somebody else did meanwhile. */
  async #startAgain(): Promise<void> {
    if (this.mayBeExternal && (await this.answers())) this.#failure = undefined;
    else await this.#begin();
  }

  /** By hand: also where it was stopped by hand, or crashes too often. Resolves once it is ready. */
  async start(): Promise<void> {
    if (!this.#canLaunch) throw notOurs(this.#settings, "start");
    this.#isHeld = false;
    this.#failure = undefined;
    this.#crashes = [];
    if (this.mayBeExternal && (await this.answers())) return;
    await this.ensure();
  }

  /** By hand: it stays stopped until `start`. */
  async stop(): Promise<void> {
    const asking = this.#checkOurs("stop");
    const wasHeld = this.#isHeld;
    this.#isHeld = true;
    try {
      if (asking !== undefined) await asking;
    } catch (thrown) {
      this.#isHeld = wasHeld;
      throw thrown;
    }
    // Unless it was to start again meanwhile.
    if (this.#isHeld) await this.#halt();
  }

  async restart(): Promise<void> {
    const asking = this.#checkOurs("restart");
    if (asking !== undefined) await asking;
    await this.#halt();
    await this.start();
  }

  /** Throws unless it is seikan that starts and stops it. Asks who has its port only where that is not known. */
  #checkOurs(what: string): Promise<void> | undefined {
    if (!this.#canLaunch) throw notOurs(this.#settings, what);
    return this.mayBeExternal && this.#beginning === undefined ? this.#checkPort() : undefined;
  }

  async #checkPort(): Promise<void> {
    if (await this.answers()) throw startedElsewhere(this.#settings);
  }

  /** For good. */
  async close(): Promise<void> {
    this.#isClosed = true;
    sweep.delete(this.#tick);
    await this.#halt();
    this.#output.end();
  }

  /** For good, after the requests it has: its WebSockets end with it. */
  drain(ms: number): Promise<void> {
    this.#endsBy = Math.min(this.#endsBy, deadlineIn(ms));
    this.#ending ??= this.#untilUnused(() => this.#endsBy).then(() => this.close());
    return this.#ending;
  }

  /** At once. */
  kill(): void {
    this.#isClosed = true;
    this.#cancelRestart();
    sweep.delete(this.#tick);
    for (const launch of this.#outgoing) launch.kill();
    this.#launch?.kill();
  }

  /** It is made differently from now on. A process that would not do any more ends once its requests are answered. */
  update(settings: ServiceSettings): void {
    const isSame = runsTheSame(this.#settings, settings);
    this.#settings = settings;
    const launch = this.#launch;
    if (isSame && launch !== undefined) return;
    this.#address = this.#addressAt(this.#fixedPort);
    if (isSame) return;
    this.#failure = undefined;
    this.#crashes = [];
    if (launch === undefined) return;
    this.#host.log.info(`${settings.name} was changed: the one that runs is stopped`);
    this.#launch = undefined;
    this.#depart(launch, launch.isReady ? this.#untilUnused(within(DRAIN_MS)) : undefined);
    // Those who depend on it reach it without asking here.
    if (this.#dependants > 0 && this.#canLaunch) this.#begin().catch(() => {});
  }

  async #halt(): Promise<void> {
    this.#cancelRestart();
    this.#isWanted = false;
    const launch = this.#launch;
    this.#launch = undefined;
    if (launch !== undefined) this.#depart(launch);
    await this.#leaving;
  }

  /** It ends, after `first`; the next one waits for that. */
  #depart(launch: Launch, first: Promise<void> = Promise.resolve()): void {
    this.#outgoing.add(launch);
    const over = first
      .then(() => launch.stop())
      .catch(() => {})
      .then(() => this.#departed(launch));
    this.#leaving = Promise.all([this.#leaving, over]).then(() => {});
  }

  #departed(launch: Launch): void {
    this.#outgoing.delete(launch);
    if (!launch.isStuck) return;
    this.#host.log.error(`${launch.plan.name} cannot be ended: a process of it lives on`, { pid: launch.pid });
  }

  /** Its requests are answered; who waits for a start is not one of them. */
  async #untilUnused(deadline: () => number): Promise<void> {
    while (this.#open - this.#upgraded - this.#waiting > 0 && now() < deadline()) await sleep(LOOK_MS);
  }

  /** A server that lives and does not listen: it may be loading its new code. If it stays so it is started again. */
  #recover(launch: Launch): Promise<void> {
    this.#recovering ??= this.#untilListening(launch).finally(() => (this.#recovering = undefined));
    return this.#recovering;
  }

  async #untilListening(launch: Launch): Promise<void> {
    const deadline = deadlineIn(RECOVER_MS);
    while (launch === this.#launch && now() < deadline) {
      if (await this.answers()) return;
      await Promise.race([sleep(LOOK_MS), launch.ended]);
    }
    if (launch !== this.#launch) return;
    this.#host.log.warn(`${launch.plan.name} runs and does not listen any more: it is started again`);
    this.#launch = undefined;
    this.#depart(launch);
  }

  /** Every second. */
  readonly #tick = (time: number): boolean => {
    const launch = this.#launch;
    const { idleMs, name } = this.#settings;
    if (
      launch?.isReady === true &&
      isIdle({ open: this.#open + this.#dependants, lastUse: this.#lastUse }, idleMs, time)
    ) {
      this.#host.log.info(`${name} is stopped: nobody used it for ${idleMs / 1000} s`);
      this.#isWanted = false;
      this.#launch = undefined;
      this.#depart(launch);
    }
    return !this.#isClosed;
  };
}

function within(ms: number): () => number {
  const deadline = deadlineIn(ms);
  return () => deadline;
}

function readEnvFile(path: string | undefined): Record<string, string> {
  if (path === undefined) return {};
  try {
    return parseEnv(readFileSync(path, "utf8")) as Record<string, string>;
  } catch (cause) {
    throw new SeikanError(
      "command-failed",
      `cannot read ${path}: ${(cause as { code?: string }).code ?? String(cause)}`,
    );
  }
}
