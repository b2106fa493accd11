import { lstatSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeikanError } from "../core/errors.ts";

/**
 * Our folder for things of this run: `$XDG_RUNTIME_DIR/seikan`, or one of this
 * user's own below the system's temporary folder. Throws where somebody else
 * could look into it.
 */
export function runtimeFolder(env: Readonly<Record<string, string | undefined>>): string {
  const uid = process.getuid?.();
  const base = env.XDG_RUNTIME_DIR;
  const folder = base === undefined || base === "" ? join(tmpdir(), `seikan-${uid ?? "user"}`) : join(base, "seikan");
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const found = lstatSync(folder);
  if (!found.isDirectory() || (uid !== undefined && (found.uid !== uid || (found.mode & 0o077) !== 0)))
    throw new SeikanError("command-failed", `${folder} is not ours alone`);
  return folder;
}
