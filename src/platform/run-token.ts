import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Scope } from "../core/scope.ts";
import { runtimeFolder } from "./runtime-folder.ts";

/** Writes a secret of this run to a file that only this user can read, and returns its path; the file goes when `scope` closes. */
export function writeRunToken(token: string, env: Readonly<Record<string, string | undefined>>, scope: Scope): string {
  const folder = runtimeFolder(env);
  // Of processes that were killed; one may have had our number.
  for (const name of readdirSync(folder)) {
    const [, pid] = /^serve-(\d+)\.token$/.exec(name) ?? [];
    if (pid !== undefined && (Number(pid) === process.pid || !isAlive(Number(pid))))
      rmSync(join(folder, name), { force: true });
  }
  const file = join(folder, `serve-${process.pid}.token`);
  writeFileSync(file, `${token}\n`, { mode: 0o600, flag: "wx" });
  scope.own(() => rmSync(file, { force: true }));
  return file;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // Somebody else's: alive all the same.
    return (error as { code?: string }).code === "EPERM";
  }
}

/** The secret of another run of this user; undefined where it has none. */
export function readRunToken(pid: number, env: Readonly<Record<string, string | undefined>>): string | undefined {
  try {
    return readFileSync(join(runtimeFolder(env), `serve-${pid}.token`), "utf8").trim();
  } catch {
    return undefined;
  }
}
