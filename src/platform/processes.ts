import { readdirSync, readFileSync } from "node:fs";
import { descriptorsLeft } from "./descriptors.ts";

/**
 * What the system knows about processes. A number alone is nobody: numbers are
 * used again, so a process is its number and the moment it began.
 */

/** Looks at the process table before nobody is there. */
const LOOKS = 3;
const IS_LINUX = process.platform === "linux";

/** When a process began, in whatever way the system counts; undefined: there is none with this number. */
export function startOf(pid: number): string | undefined {
  if (IS_LINUX) {
    const stat = readStat(pid);
    return stat === undefined || isDead(stat) ? undefined : stat.start;
  }
  if (process.platform === "win32") return undefined;
  const { stdout } = Bun.spawnSync(["ps", "-o", "lstart=", "-p", String(pid)]);
  const text = stdout.toString().trim();
  return text === "" ? undefined : text;
}

/** Processes of a launch that are alive: of its group or session, or with its mark in their environment. */
export function livingMembers(group: number | undefined, mark: string): number[] {
  // Without descriptors nothing can be looked up, and nobody must be taken for dead.
  if (!IS_LINUX || !descriptorsLeft()) return group !== undefined && groupExists(group) ? [group] : [];
  // One that forks and ends while we look is missed, and so is its child; not twice.
  for (let look = 1; look < LOOKS; look++) {
    const found = membersNow(group, mark);
    if (found.length > 0) return found;
  }
  return membersNow(group, mark);
}

function membersNow(group: number | undefined, mark: string): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid !== process.pid && isMember(pid, group, mark));
}

/** Sends a signal to a group and to members that left it. Whoever is gone already is no error. */
export function signalAll(group: number | undefined, members: readonly number[], signal: NodeJS.Signals): void {
  if (process.platform === "win32") {
    if (group !== undefined) Bun.spawnSync(["taskkill", "/T", "/F", "/PID", String(group)]);
    return;
  }
  if (group !== undefined) trySignal(-group, signal);
  for (const pid of members) if (IS_LINUX && readStat(pid)?.group !== group) trySignal(pid, signal);
}

function trySignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has gone.
  }
}

/** Some process has this number as its group, dead or alive. */
export function groupExists(group: number): boolean {
  try {
    process.kill(process.platform === "win32" ? group : -group, 0);
    return true;
  } catch (error) {
    return (error as { code?: string }).code === "EPERM";
  }
}

function isMember(pid: number, group: number | undefined, mark: string): boolean {
  const stat = readStat(pid);
  if (stat === undefined || isDead(stat)) return false;
  if (group !== undefined && (stat.group === group || stat.session === group)) return true;
  try {
    return `\0${readFileSync(`/proc/${pid}/environ`, "latin1")}`.includes(`\0${mark}\0`);
  } catch {
    return false;
  }
}

/** A zombie is dead; its parent has not looked yet. */
function isDead({ state }: Stat): boolean {
  return state === "Z" || state === "X";
}

interface Stat {
  readonly state: string;
  readonly group: number;
  readonly session: number;
  readonly start: string;
}

/** proc_pid_stat(5); the name in parentheses may hold anything. */
function readStat(pid: number): Stat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return { state: fields[0]!, group: Number(fields[2]), session: Number(fields[3]), start: fields[19]! };
  } catch {
    return undefined;
  }
}
