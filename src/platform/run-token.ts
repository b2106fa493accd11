import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Scope } from "../core/scope.ts";
import { runtimeFolder } from "./runtime-folder.ts";

/** Writes a secret of this run to a file that only this user can read, and returns its path; the file goes when `scope` closes. */
export function writeRunToken(token: string, env: Readonly<Record<string, string | undefined>>, scope: Scope): string {
  const file = join(runtimeFolder(env), `serve-${process.pid}.token`);
  // Of a process that had our number and was killed.
  rmSync(file, { force: true });
  writeFileSync(file, `${token}\n`, { mode: 0o600, flag: "wx" });
  scope.own(() => rmSync(file, { force: true }));
  return file;
}

/** The secret of another run of this user; undefined where it has none. */
export function readRunToken(pid: number, env: Readonly<Record<string, string | undefined>>): string | undefined {
  try {
    return readFileSync(join(runtimeFolder(env), `serve-${pid}.token`), "utf8").trim();
  } catch {
    return undefined;
  }
}
