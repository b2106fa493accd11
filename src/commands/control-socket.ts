import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { SeikanError, toSeikanError } from "../core/errors.ts";
import { LiveSet, type Scope } from "../core/scope.ts";
import { startOf } from "../platform/processes.ts";
import { runtimeFolder } from "../platform/runtime-folder.ts";
import type { Client, RouteContext } from "../routes/context.ts";
import { serveClient } from "../routes/front.ts";
import { Permissions } from "../routes/permissions.ts";
import { ServicesEndpoint, type ServiceDesk } from "../routes/services-endpoint.ts";
import { listen } from "../transports/tcp.ts";
import type { CommandIo } from "./command.ts";
import { plainContext } from "./plain-context.ts";
import type { ReachValues } from "./reach.ts";

/** Whoever may open the socket is this user. */
const OWNER: Client = { address: "", port: 0, exposed: false, isSecure: false };

const NAME = /^serve-(\d+)\.(?:sock|token)$/;

/** `seikan services` talks to the running server here: a unix socket in a folder that only this user may enter. */
export function openControl(desk: ServiceDesk, values: ReachValues, io: CommandIo, scope: Scope): void {
  try {
    const folder = runtimeFolder(io.env);
    removeStale(folder);
    const path = join(folder, `serve-${process.pid}.sock`);
    rmSync(path, { force: true });
    const live = new LiveSet();
    const context = controlContext(desk, values, io, live);
    const listener = listen({ kind: "unix", path }, (stream) => serveClient(context, stream, OWNER, "http"));
    scope.own(() => {
      listener.close();
      live.abortAll(new SeikanError("shutdown", "the server ends"));
      rmSync(path, { force: true });
    });
  } catch (thrown) {
    io.log.warn(`seikan services cannot reach this server: ${toSeikanError(thrown).message}`);
  }
}

function controlContext(desk: ServiceDesk, values: ReachValues, io: CommandIo, live: LiveSet): RouteContext {
  return plainContext(values, {
    routes: {
      choose() {
        throw new SeikanError("target-denied", "nothing is dialled from here");
      },
    },
    permissions: new Permissions({ allow: undefined, deny: [] }),
    endpoints: [new ServicesEndpoint(desk, undefined)],
    greeting: "This is the control socket of a seikan serve.",
    isDraining: () => false,
    live,
    log: io.log,
    access: () => {},
  });
}

/** Control sockets of servers that may run, the newest last. */
export function controlSockets(env: CommandIo["env"]): { readonly pid: number; readonly path: string }[] {
  const folder = runtimeFolder(env);
  return readdirSync(folder)
    .filter((name) => name.endsWith(".sock"))
    .flatMap((name) => {
      const pid = Number(NAME.exec(name)?.[1] ?? Number.NaN);
      return Number.isNaN(pid) ? [] : [{ pid, path: join(folder, name) }];
    })
    .toSorted((a, b) => a.pid - b.pid);
}

/** What servers that were killed left here. */
function removeStale(folder: string): void {
  for (const name of readdirSync(folder)) {
    const pid = Number(NAME.exec(name)?.[1] ?? Number.NaN);
    if (!Number.isNaN(pid) && process.platform !== "win32" && startOf(pid) === undefined)
      rmSync(join(folder, name), { force: true });
  }
}
