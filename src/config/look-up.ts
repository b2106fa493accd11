import { existsSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { usageError } from "../core/errors.ts";

type Env = Readonly<Record<string, string | undefined>>;

export const PROJECT_FILE = "seikan.toml";

export interface FoundConfig {
  readonly path: string;
  /** Named by `--config` or `$SEIKAN_CONFIG`, found in the project, or the user's own. */
  readonly kind: "named" | "project" | "user";
}

export interface LookUp {
  readonly found: FoundConfig | undefined;
  /** A file of the project that is not read, and why. */
  readonly passedOver: { readonly path: string; readonly why: string } | undefined;
}

export interface LookUpOptions {
  /** What `--config` says; `$SEIKAN_CONFIG` is asked without it. */
  readonly named: string | undefined;
  readonly readsProject: boolean;
  readonly env: Env;
  readonly cwd: string;
}

/**
 * Where the configuration is: the file that was named; `seikan.toml` here or in a
 * folder above, up to the root of the repository; the user's own. The first counts alone.
 */
export function lookUpConfig({ named, readsProject, env, cwd }: LookUpOptions): LookUp {
  const asked = named ?? env.SEIKAN_CONFIG;
  if (asked !== undefined && asked !== "") {
    const path = resolve(cwd, expandHome(asked, env));
    const source = named === undefined ? "SEIKAN_CONFIG" : "--config";
    if (!existsSync(path)) throw usageError(`${source}: there is no file ${path}`);
    return { found: { path, kind: "named" }, passedOver: undefined };
  }
  const project = readsProject ? projectFile(cwd) : undefined;
  const why = project === undefined ? undefined : distrust(project, statSync(project));
  if (project !== undefined && why === undefined)
    return { found: { path: project, kind: "project" }, passedOver: undefined };
  const path = userFile(env);
  const found = existsSync(path) ? ({ path, kind: "user" } as const) : undefined;
  return { found, passedOver: why === undefined ? undefined : { path: project!, why } };
}

/** `$XDG_CONFIG_HOME/seikan/config.toml`. */
export function userFile(env: Env): string {
  const base = env.XDG_CONFIG_HOME;
  return join(base === undefined || base === "" ? join(homeOf(env), ".config") : base, "seikan", "config.toml");
}

function projectFile(cwd: string): string | undefined {
  const folders = foldersUpToRoot(cwd);
  return folders.map((folder) => join(folder, PROJECT_FILE)).find((path) => existsSync(path));
}

/** This folder and those above it as far as the repository goes; outside of one this folder alone. */
function foldersUpToRoot(cwd: string): string[] {
  const folders: string[] = [];
  for (let folder = resolve(cwd); ; folder = dirname(folder)) {
    folders.push(folder);
    if (existsSync(join(folder, ".git"))) return folders;
    if (folder === dirname(folder)) return [folders[0]!];
  }
}

/** A file that somebody else could have written starts nothing. */
export function distrust(path: string, { uid: owner, mode }: { uid: number; mode: number }): string | undefined {
  const uid = process.getuid?.();
  if (uid === undefined) return undefined;
  if (owner !== uid) return "it belongs to another user";
  if ((mode & 0o002) !== 0) return "everybody may write to it";
  const { mode: folder } = statSync(dirname(path));
  return (folder & 0o1002) === 0o002 ? "everybody may replace it" : undefined;
}

function homeOf(env: Env): string {
  return env.HOME === undefined || env.HOME === "" ? homedir() : env.HOME;
}

/** `~` and `~/…`. */
export function expandHome(path: string, env: Env): string {
  return path === "~" || path.startsWith("~/") ? homeOf(env) + path.slice(1) : path;
}
