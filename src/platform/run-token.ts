import { mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeikanError } from "../core/errors.ts";
import type { Scope } from "../core/scope.ts";

/** Our folder for things of this run. Throws where somebody else could look into it. */
function runtimeFolder(env: Readonly<Record<string, string | undefined>>): string {
  const uid = process.getuid?.();
  const base = env.XDG_RUNTIME_DIR;
  const folder = base === undefined || base === "" ? join(tmpdir(), `seikan-${uid ?? "user"}`) : join(base, "seikan");
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { uid: owner, mode } = statSync(folder);
  if (uid !== undefined && (owner !== uid || (mode & 0o077) !== 0))
    throw new SeikanError("command-failed", `${folder} is not ours alone`);
  return folder;
}

/** Writes a secret of this run to a file that only this user can read, and returns its path; the file goes when `scope` closes. */
export function writeRunToken(token: string, env: Readonly<Record<string, string | undefined>>, scope: Scope): string {
  const file = join(runtimeFolder(env), `serve-${process.pid}.token`);
  // Of a process that had our number and was killed.
  rmSync(file, { force: true });
  writeFileSync(file, `${token}\n`, { mode: 0o600, flag: "wx" });
  scope.own(() => rmSync(file, { force: true }));
  return file;
}
