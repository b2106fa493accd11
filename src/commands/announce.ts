import type { Scope } from "../core/scope.ts";
import { announceReady } from "../platform/ready.ts";
import type { CommandIo } from "./command.ts";

interface ReadyOptions {
  readonly "ready-file": string | undefined;
  readonly "ready-fd": number | undefined;
}

/** Says that everything listens, wherever a script may wait for it: file, descriptor, event, service manager. */
export function announce(
  listeners: readonly string[],
  urls: readonly string[],
  values: ReadyOptions,
  io: CommandIo,
  scope: Scope,
): void {
  const report = { pid: process.pid, listeners, urls };
  const channels = { file: values["ready-file"], fd: values["ready-fd"], notifySocket: io.env.NOTIFY_SOCKET };
  announceReady(report, channels, scope);
  io.event("ready", report);
}
