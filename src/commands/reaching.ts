import { formatTarget, type Target } from "../core/address.ts";
import type { BridgeResult } from "../core/bridge.ts";
import { deadlineIn, now, sleep } from "../core/clock.ts";
import { toSeikanError, usageError, type SeikanError } from "../core/errors.ts";
import type { ByteStream } from "../core/stream.ts";
import { formatWay, type Routes, type Way } from "../routes/route-table.ts";
import type { Trace } from "../transports/transport.ts";
import { tlsClient, type TlsClientOptions } from "../transports/tls.ts";
import type { CommandIo } from "./command.ts";
import { Reach, readOptionFile } from "./reach.ts";
import type { ConnectValues } from "./connect-options.ts";
import { tunnelLogger } from "./tunnel-log.ts";

const RETRY_FIRST_MS = 250;
const RETRY_LONGEST_MS = 10_000;

/** Dials targets as the options say: hops, retries, TLS inside the tunnel. */
export class Reaching implements Routes {
  readonly #reach: Reach;
  readonly #values: ConnectValues;
  readonly #io: CommandIo;
  readonly #tls: Omit<TlsClientOptions, "peer" | "serverName"> | undefined;
  readonly #refused = Promise.withResolvers<SeikanError>();
  #retriesLeft: number;

  constructor(values: ConnectValues, viaSource: string, io: CommandIo) {
    this.#values = values;
    this.#io = io;
    const log = tunnelLogger(io);
    const onTunnel: typeof log = (tunnel, event) => {
      log(tunnel, event);
      if (event.kind === "refused") this.#refused.resolve(event.error);
    };
    this.#reach = new Reach(values, viaSource, onTunnel, { authCommand: authCommand(values, io) });
    this.#tls = targetTls(values);
    this.#retriesLeft = values.retry;
  }

  /** Where a chain leads that ends in a plain WebSocket bridge: the bridge decides, so no TARGET is needed. */
  get bridgeTarget(): Target | undefined {
    const last = this.#values.via.length > 0 ? this.fallback.hops.at(-1) : undefined;
    return last?.scheme.endsWith("+raw") ? last.proxy : undefined;
  }

  choose(target: Target): Way {
    return this.#reach.forTarget(target, this.#io.env).choose(target);
  }

  /** Connects the tunnels of all ways chosen so far, now and again whenever they are lost. */
  keepTunnels(): void {
    // Rules count for all targets, those of dynamic listeners too.
    if (this.#values.via.length > 0 || this.#values.route.length > 0) this.#reach.explicit();
    for (const tunnel of new Set(this.#reach.tunnels)) tunnel.keep();
  }

  closeTunnels(): void {
    for (const tunnel of this.#reach.tunnels) tunnel.close();
  }

  /** Connections of tunnels that are up. */
  get tunnelsUp(): number {
    return [...new Set(this.#reach.tunnels)].flatMap(({ sessions }) => sessions).length;
  }

  /** Resolves when a kept tunnel is refused for good. */
  get refused(): Promise<SeikanError> {
    return this.#refused.promise;
  }

  /** Retries count until the first success. */
  async dial(target: Target, way: Way): Promise<ByteStream> {
    for (let pause = RETRY_FIRST_MS; ; pause = Math.min(pause * 2, RETRY_LONGEST_MS)) {
      try {
        const stream = await this.dialOnce(target, way);
        this.#retriesLeft = 0;
        return stream;
      } catch (thrown) {
        const error = toSeikanError(thrown);
        if (this.#retriesLeft <= 0 || ![3, 124].includes(error.outcome.exit)) throw explained(error, way);
        this.#retriesLeft--;
        const jittered = pause * (0.75 + Math.random() / 2);
        this.#io.log.warn(`${error.message}; trying again in ${(jittered / 1000).toFixed(1)} s`, {
          left: this.#retriesLeft,
        });
        await sleep(jittered);
      }
    }
  }

  /** The way of targets that no rule names. */
  get fallback(): Way {
    return this.#reach.explicit().fallback;
  }

  /** One attempt; `trace` hears of each step. */
  async dialOnce(target: Target, way: Way, trace?: Trace): Promise<ByteStream> {
    const deadline = deadlineIn(this.#values["connect-timeout"]);
    const stream = await way.dial(target, { deadline, trace });
    if (this.#tls === undefined) return stream;
    const peer = formatTarget(target);
    const serverName = this.#values.sni ?? (target.kind === "unix" ? "localhost" : target.host);
    return tlsClient(stream, { ...this.#tls, peer, serverName }, deadline, trace);
  }
}

/** Whoever did not name the proxy on this command line may not know of it. */
export function explained(error: SeikanError, way: Way): SeikanError {
  if (way.hops.length === 0 || way.reason.startsWith("--")) return error;
  return error.hinted(`the way there is ${formatWay(way)}, because of ${way.reason}; --dry-run shows it`);
}

function authCommand(values: ConnectValues, io: CommandIo) {
  const command = values["proxy-auth-command"];
  if (command === undefined) return undefined;
  const run = async (challenges: readonly string[]) => {
    const { askCommand } = await import("../platform/ask-command.ts");
    return askCommand(command, { ...io.childEnv, SEIKAN_CHALLENGE: challenges.join("\n") });
  };
  return { kind: "command", run } as const;
}

function targetTls(values: ConnectValues): Omit<TlsClientOptions, "peer" | "serverName"> | undefined {
  const names = ["sni", "alpn", "cacert", "cert", "key"] as const;
  const given =
    names.find((name) => values[name] !== undefined) ??
    (values["pin-sha256"].length > 0 ? "pin-sha256" : values.insecure ? "insecure" : undefined);
  if (!values.tls) {
    if (given !== undefined)
      throw usageError(
        `--${given} is about TLS to the target: add --tls`,
        "for TLS to a proxy there are --proxy-cacert, --proxy-cert and --proxy-insecure",
      );
    return undefined;
  }
  if ((values.cert === undefined) !== (values.key === undefined)) throw usageError("--cert and --key belong together");
  const read = (name: "cacert" | "cert" | "key") =>
    values[name] === undefined ? undefined : readOptionFile(values[name], name);
  return {
    ca: read("cacert"),
    cert: read("cert"),
    key: read("key"),
    alpn: values.alpn?.split(",").map((name) => name.trim()),
    insecure: values.insecure,
    pins: values["pin-sha256"],
  };
}

/** The end of one connection: a log line, and an event for scripts. */
export function logEnd(
  io: CommandIo,
  peer: string,
  target: Target,
  way: Way,
  result: BridgeResult,
  startedAt: number,
): void {
  const { up, down, error } = result;
  const ms = Math.round(now() - startedAt);
  const fields = { peer, route: formatWay(way), up, down, ms, end: error?.code, why: error?.message };
  io.log.info(`closed ${formatTarget(target)}`, fields);
  io.event("closed", { target: formatTarget(target), ...fields });
}
