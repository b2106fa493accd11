import type { LogFields, Logger } from "../../src/core/log.ts";
import { SeikanError } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import type { LaunchLedger } from "../../src/platform/launch-ledger.ts";
import type { ReachOptions, Service, ServiceHost } from "../../src/services/service.ts";
import { Services as ServiceSet } from "../../src/services/services.ts";
import type { ServiceSettings } from "../../src/services/settings.ts";
import { directDialer } from "../../src/transports/direct.ts";
import { soon } from "./pairs.ts";
import { dev, Project } from "./services.ts";
import { Recorder, reset, within } from "./wait.ts";

/** The clock of the process, which a test may move on: nobody waits for time to pass. Timers that run already stay. */
export class MovedClock implements Disposable {
  readonly #now = performance.now;
  #ahead = 0;

  constructor() {
    performance.now = () => this.#now.call(performance) + this.#ahead;
  }

  forward(ms: number): void {
    this.#ahead += ms;
  }

  [Symbol.dispose](): void {
    performance.now = this.#now;
  }
}

/** Lines as `info django is ready`, with their fields. */
export class KeptLog implements Logger {
  readonly entries: { readonly line: string; readonly fields: LogFields }[] = [];
  readonly error = this.#keeper("error");
  readonly warn = this.#keeper("warn");
  readonly info = this.#keeper("info");
  readonly debug = this.#keeper("debug");

  get lines(): string[] {
    return this.entries.map(({ line }) => line);
  }

  /** The fields of the last such line. */
  fieldsOf(line: string): LogFields | undefined {
    return this.entries.findLast((entry) => entry.line === line)?.fields;
  }

  count(line: string): number {
    return this.lines.filter((one) => one === line).length;
  }

  #keeper(level: string) {
    return (message: string, fields: LogFields = {}) => void this.entries.push({ line: `${level} ${message}`, fields });
  }
}

/** What a service is made of where a test does not say otherwise: test/support/dev-server.ts on a port of its own. */
export const DEFAULTS: Omit<ServiceSettings, "folder"> = {
  name: "web",
  place: { kind: "loopback", port: undefined },
  command: dev(),
  env: {},
  envFile: undefined,
  hasTerminal: false,
  tls: false,
  insecure: false,
  proxyProtocol: false,
  ready: { kind: "port" },
  readyMs: 30_000,
  settleMs: 0,
  usualMs: 0,
  idleMs: 0,
  restarts: true,
  stopMs: 10_000,
  dependsOn: [],
};

/** Services without a server in front of them, and everything that they start. */
export class ServiceHall implements AsyncDisposable {
  readonly project = new Project();
  readonly log = new KeptLog();
  readonly services: ServiceSet;
  readonly host: Omit<ServiceHost, "find" | "leaving">;
  /** How often anything was dialled. */
  dials = 0;

  constructor(changes: readonly Partial<ServiceSettings>[] = [{}], ledger?: LaunchLedger) {
    const direct = directDialer({});
    this.host = {
      direct: (target, options) => {
        this.dials++;
        return direct(target, options);
      },
      env: { PATH: process.env.PATH ?? "", ...this.project.env },
      ledger,
      log: this.log,
      connectMs: 5000,
      urlOf: (name) => `http://${name}.localhost:8080`,
    };
    this.services = new ServiceSet(
      changes.map((change) => this.settings(change)),
      this.host,
    );
  }

  settings(changes: Partial<ServiceSettings> = {}): ServiceSettings {
    return { ...DEFAULTS, folder: this.project.path, ...changes };
  }

  get web(): Service {
    return this.service("web");
  }

  service(name: string): Service {
    return this.services.find(name)!;
  }

  /** Makes it differently from now on. */
  change(changes: Partial<ServiceSettings>): void {
    const { settings } = this.service(changes.name ?? "web");
    this.service(settings.name).update({ ...settings, ...changes });
  }

  /** A request for `/who`: the process id of whoever answers. */
  async pid(options: Partial<ReachOptions> = {}, name = "web"): Promise<number> {
    const [who, pid] = (await this.ask("/who", options, name)).split(" ");
    if (who !== name) throw new Error(`${who} answered for ${name}`);
    return Number(pid);
  }

  /** What a request is answered with. */
  async ask(path: string, options: Partial<ReachOptions> = {}, name = "web"): Promise<string> {
    return askOver(await this.reach(options, name), path);
  }

  reach(options: Partial<ReachOptions> = {}, name = "web"): Promise<ByteStream> {
    return within(
      this.service(name).reach({ deadline: soon(), mayLaunch: true, ...options }),
      `${name} is reached`,
      30_000,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.services.kill();
    await this.project[Symbol.asyncDispose]();
  }
}

/** The body of the answer to one request on a connection, which ends with it. */
export async function askOver(stream: ByteStream, path: string): Promise<string> {
  const answer = new Recorder(stream);
  stream.write(Buffer.from(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`));
  await answer.end();
  stream.abort(reset());
  return answer.text.slice(answer.text.indexOf("\r\n\r\n") + 4);
}

/** What it is refused with. */
export async function failureOf(work: Promise<unknown>): Promise<SeikanError> {
  const outcome = await within(
    work.then(
      (value) => new Error(`no failure but ${Bun.inspect(value, { depth: 1 })}`),
      (error: unknown) => error,
    ),
    "the failure",
    30_000,
  );
  if (outcome instanceof SeikanError) return outcome;
  throw outcome;
}
