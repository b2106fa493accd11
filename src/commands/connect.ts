import {
  canonicalHost,
  formatTarget,
  parseIp,
  parsePort,
  parseTarget,
  tcpTarget,
  type Target,
} from "../core/address.ts";
import { bridge } from "../core/bridge.ts";
import { now } from "../core/clock.ts";
import { usageError } from "../core/errors.ts";
import { Scope } from "../core/scope.ts";
import { exitCodeOf } from "../platform/signals.ts";
import { describeWay, formatWay } from "../routes/route-table.ts";
import { plainDatagrams } from "../transports/udp.ts";
import { stdioStream } from "../transports/stdio.ts";
import type { Command, CommandIo } from "./command.ts";
import { Lifetime } from "./lifetime.ts";
import { CONNECT_OPTIONS, type ConnectInvocation, type ConnectValues } from "./connect-options.ts";
import { LocalServer, parseForward } from "./local-server.ts";
import { logEnd, Reaching } from "./reaching.ts";

export const connectCommand: Command<typeof CONNECT_OPTIONS> = {
  name: "connect",
  summary: "Reach a target through proxies and tunnels: as stdin and stdout, on local ports, or behind a command.",
  usage: "[OPTIONS] [TARGET] [-- COMMAND…]",
  description:
    "TARGET is HOST:PORT, [v6]:PORT, HOST PORT, udp:HOST:PORT or unix:/path. Without --via the proxy comes from HTTPS_PROXY, ALL_PROXY or HTTP_PROXY, and NO_PROXY exempts hosts. COMMAND runs once every listener accepts; {host}, {port} and {addr} in its arguments are the first listener's, as are SEIKAN_HOST, SEIKAN_PORT and SEIKAN_ADDR in its environment.",
  examples: [
    { does: "ssh through a proxy", line: "ssh -o ProxyCommand='seikan connect %h %p --via http://proxy:3128' host" },
    {
      does: "A local port that leads to a database",
      line: "seikan connect -L 5432 db.internal:5432 --via http://proxy:3128",
    },
    {
      does: "Where only the web gets through: a tunnel to a seikan serve, behind the company's proxy",
      line: "seikan connect -L 5432 db.internal:5432 --via http://corp:3128 --via wss://me:pw@tunnel.example.com",
    },
    { does: "Run a command behind the tunnel", line: "seikan connect db.internal:5432 -- psql -h {host} -p {port}" },
    {
      does: "A local SOCKS and HTTP proxy over a chain",
      line: "seikan connect -L mixed://1080 --via https://u:p@corp:443 --via socks5h://inner:1080",
    },
    { does: "What is wrong with this proxy?", line: "seikan connect example.com:443 --check --via http://proxy:3128" },
    { does: "Which way would it take?", line: "seikan connect example.com:443 --dry-run" },
  ],
  options: CONNECT_OPTIONS,
  section: "connect",
  positionals: 2,
  tail: true,
  defaultLogLevel: ({ values, tail }) => (values.listen.length > 0 && tail === undefined ? "info" : "warn"),
  run,
};

async function run(invocation: ConnectInvocation, io: CommandIo): Promise<number> {
  const { values, tail } = invocation;
  const reaching = new Reaching(values, invocation.sourceOf("via"), io);
  const given = targetOf(invocation.positionals);
  const target = given ?? reaching.bridgeTarget;
  if (given !== undefined && reaching.bridgeTarget !== undefined) {
    io.log.warn(`${formatTarget(given)} is not asked for: a ws+raw:// bridge leads where its server says`);
  }
  if (values["dry-run"]) return dryRun(reaching, target, values, io);
  if (values.check) {
    const { check } = await import("./check.ts");
    return check(reaching, given, invocation, io);
  }
  if (values.listen.length === 0 && tail === undefined) return connectStdio(reaching, target, values, io);
  // A command needs something to connect to.
  const specs = values.listen.length > 0 ? values.listen : ["127.0.0.1:0"];
  const forwards = specs.map((spec) => parseForward(spec, target));
  await using scope = new Scope();
  // Awaited here: the scope closes when this function returns.
  return await new LocalServer(reaching, forwards, invocation, io).run(scope);
}

function targetOf(positionals: readonly string[]): Target | undefined {
  const [first, second] = positionals;
  if (first === undefined) return undefined;
  if (second === undefined) return parseTarget(first);
  const host = parseIp(first)?.toString() ?? canonicalHost(first);
  const port = parsePort(second);
  if (host === undefined || port === undefined) {
    throw usageError(`cannot read target "${first} ${second}": expected HOST PORT`, "a command to run comes behind --");
  }
  return tcpTarget(host, port);
}

function dryRun(reaching: Reaching, target: Target | undefined, values: ConnectValues, io: CommandIo): number {
  if (target === undefined) throw usageError("--dry-run needs a TARGET");
  const way = reaching.choose(target);
  if (values.json) {
    io.print(JSON.stringify(describeWay(target, way)));
    return 0;
  }
  io.print(`${formatTarget(target)}: ${formatWay(way)} (${way.reason})`);
  return 0;
}

async function connectStdio(
  reaching: Reaching,
  target: Target | undefined,
  values: ConnectValues,
  io: CommandIo,
): Promise<number> {
  if (target === undefined)
    throw usageError(
      "what shall it connect to? TARGET is missing",
      "seikan connect HOST:PORT, or -L for local listeners",
    );
  if (values.json)
    throw usageError(
      "--json cannot go with stdin/stdout mode: stdout belongs to the stream",
      "use --log-format json for logs on stderr",
    );
  const lifetime = new Lifetime({ timeoutMs: values.timeout });
  try {
    const stopped = lifetime.stopping.then(exitCodeOf);
    return await Promise.race([pipeStdio(reaching, target, values, io), lifetime.ended, stopped]);
  } finally {
    reaching.closeTunnels();
    lifetime.release();
  }
}

async function pipeStdio(reaching: Reaching, target: Target, values: ConnectValues, io: CommandIo): Promise<number> {
  const way = reaching.choose(target);
  const startedAt = now();
  const outbound = await reaching.dial(target, way);
  io.log.info(`connected to ${formatTarget(target)}`, { route: formatWay(way), ms: Math.round(now() - startedAt) });
  const inbound = stdioStream();
  const joinable = target.kind === "udp" ? plainDatagrams(outbound) : outbound;
  const limits = { lingerMs: values["linger-timeout"], idleMs: values["idle-timeout"] };
  const joined = bridge(inbound, joinable, limits);
  // When the server ends, stdin may stay open for ever: what is written is flushed, that is the end.
  const result = await Promise.race([joined, inbound.closed.then(() => joined)]);
  logEnd(io, "stdio", target, way, result, startedAt);
  if (result.error !== undefined) throw result.error;
  return 0;
}
