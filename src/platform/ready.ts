import { closeSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { usageError } from "../core/errors.ts";
import type { Scope } from "../core/scope.ts";
import { sdNotify } from "./sd-notify.ts";

/** What scripts learn when everything is ready. */
export interface ReadyReport {
  readonly pid: number;
  readonly listeners: readonly string[];
  readonly urls: readonly string[];
}

export interface ReadyChannels {
  readonly file: string | undefined;
  readonly fd: number | undefined;
  readonly notifySocket: string | undefined;
}

/** Announces readiness wherever somebody waits for it; the file goes when `scope` closes. */
export function announceReady(report: ReadyReport, channels: ReadyChannels, scope: Scope): void {
  const line = JSON.stringify(report);
  const { file, fd } = channels;
  if (file !== undefined) {
    const draft = `${file}.${process.pid}`;
    tryTo(`write the ready file ${file}`, () => {
      writeFileSync(draft, `${line}\n`, { mode: 0o644 });
      renameSync(draft, file);
    });
    scope.own(() => rmSync(file, { force: true }));
  }
  if (fd !== undefined) {
    tryTo(`write to --ready-fd ${fd}`, () => {
      writeSync(fd, `${line}\n`);
      closeSync(fd);
    });
  }
  if (channels.notifySocket !== undefined) sdNotify(channels.notifySocket, `READY=1\nMAINPID=${report.pid}`);
}

function tryTo(what: string, action: () => void): void {
  try {
    action();
  } catch (cause) {
    throw usageError(`cannot ${what}: ${(cause as Error).message}`);
  }
}
