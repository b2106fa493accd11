import { usageError } from "../core/errors.ts";
import { LiveSet, type Scope } from "../core/scope.ts";
import type { Client, RouteContext } from "../routes/context.ts";
import { serveClient } from "../routes/front.ts";
import { Permissions } from "../routes/permissions.ts";
import { serversOf, type AgentInvocation } from "./agent-options.ts";
import { announce } from "./announce.ts";
import type { CommandIo } from "./command.ts";
import { Lifetime } from "./lifetime.ts";
import { plainContext } from "./plain-context.ts";
import { parseServer, Reach, readOptionFile } from "./reach.ts";
import { WspPool } from "./wsp-agent.ts";
import { readWspClient, wspRules } from "./wsp-config.ts";

/** The path a wsp server registers at. */
const REGISTER_PATH = "/register";
const SERVER: Client = { address: "", port: 0, exposed: true, isSecure: true, login: { user: undefined } };

/** `seikan agent --protocol wsp`: the client of an unmodified wsp server. */
export async function runWspAgent(invocation: AgentInvocation, io: CommandIo, scope: Scope): Promise<number> {
  const { values } = invocation;
  const config = readWspClient(values["wsp-config"]);
  const given = serversOf(invocation);
  const servers = given.length > 0 ? given : config.targets;
  checkUsage(invocation, servers);
  const live = new LiveSet();
  const reach = new Reach(values, invocation.sourceOf("via"), () => {});
  let isDraining = false;
  const context = contextOf(invocation, reach, io, () => isDraining);
  const settings = {
    ...{ config, live, connectMs: values["connect-timeout"] },
    id: values.name ?? config.id ?? crypto.randomUUID(),
    secret: secretOf(values) ?? config.secretkey,
    pingMs: values["ping-interval"] === 15_000 ? undefined : values["ping-interval"],
    retries: values["fail-fast"] ? 0 : (values["max-retries"] ?? Infinity),
    serve: (stream: Parameters<typeof serveClient>[1]) => serveClient(context, stream, SERVER, "http"),
    forbids: wspRules(config),
    events: eventsOf(io),
  };
  // It reads the id up to the first one, and drops connections where what follows is no number.
  if (settings.id.includes("_")) io.log.warn(`wsp's own server does not take ids with an underscore: ${settings.id}`);
  const pools = servers.map(
    (text) => new WspPool(reach.endpoint(parseServer(text, REGISTER_PATH, values["allow-net"]), io.env), settings),
  );
  scope.own(() => {
    for (const pool of pools) pool.close();
  });
  const lifetime = new Lifetime({
    timeoutMs: values.timeout,
    status: () => io.log.info("status", { connections: live.size }),
  });
  scope.own(() => lifetime.release());
  for (const pool of pools) void pool.keep();
  const failed = Promise.race(pools.map((pool) => pool.failed)).then((error) => ({ error }));
  const ready = Promise.all(pools.map((pool) => pool.ready)).then(() => "ready" as const);
  const early = await Promise.race([ready, failed, lifetime.stopping, lifetime.ended]);
  if (early === "ready") announce([], [], values, io, scope);
  const ended = early === "ready" ? await Promise.race([failed, lifetime.stopping, lifetime.ended]) : early;
  if (typeof ended === "number") return ended;
  if (typeof ended === "object") throw ended.error;
  isDraining = true;
  for (const pool of pools) pool.close();
  const drained = live.drain(values["drain-timeout"]).then(() => 0);
  return Promise.race([drained, lifetime.ended]);
}

function checkUsage({ values, tail }: AgentInvocation, servers: readonly string[]): void {
  if (servers.length === 0)
    throw usageError("which server? SERVER is missing", "ws://HOST:PORT/register, or targets in --wsp-config");
  if (values.expose.length > 0)
    throw usageError(
      "wsp knows no exposures: its callers say where each request shall go",
      "--allow-net says where they may",
    );
  if (tail !== undefined) throw usageError("--protocol wsp runs no command: a wsp server tells no URL");
  if (values["allow-net"] === undefined)
    throw usageError(
      "--protocol wsp needs --allow-net: what may the server have requested from here?",
      "for example --allow-net=api.internal,10.0.0.0/8",
    );
}

function contextOf({ values }: AgentInvocation, reach: Reach, io: CommandIo, isDraining: () => boolean): RouteContext {
  return plainContext(values, {
    routes: reach.withoutHops(),
    permissions: new Permissions({ allow: values["allow-net"], deny: [] }),
    originTls: { insecure: values["upstream-insecure"] },
    proxyName: "seikan-agent",
    greeting: "This is an agent.",
    isDraining,
    // The connections of the pool are alive, and each request lives in one.
    live: new LiveSet(),
    log: io.log,
    access: ({ method, target, status, error }) => {
      io.log.info(`${method} ${target.replace(/\?.*$/s, "")} ${status}`, { end: error?.code, why: error?.message });
      io.event("request", { method, target: target.replace(/\?.*$/s, ""), status, why: error?.message });
    },
  });
}

function eventsOf(io: CommandIo) {
  return {
    up(name: string) {
      io.log.info(`connected to ${name}`);
      io.event("connected", { server: name });
    },
    lost(name: string, error: { code: string; message: string } | undefined) {
      const why = error?.message ?? "the server closed it";
      io.log.warn(`${name} was lost; connecting again`, { why });
      io.event("disconnected", { server: name, code: error?.code, message: why });
    },
    failed(name: string, error: { code: string; message: string }, againMs: number) {
      io.log.warn(`cannot connect to ${name}: ${error.message}`, { again: `${againMs / 1000}s` });
      io.event("connect-failed", { server: name, code: error.code, message: error.message, againMs });
    },
  };
}

function secretOf(values: AgentInvocation["values"]): string | undefined {
  const file = values["token-file"];
  return values.token ?? (file === undefined ? undefined : readOptionFile(file, "token-file").trim());
}
