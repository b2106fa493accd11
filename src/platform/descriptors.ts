import { closeSync, openSync, readFileSync } from "node:fs";

/** Where nothing tells the limit: what every system grants. */
const ASSUMED_LIMIT = 4096;
/** Kept free for files, name look-ups and pipes. */
const RESERVE = 64;

/** How many connections fit into the descriptor limit, two descriptors each. */
export function connectionCapacity(): number {
  return Math.max(16, Math.floor((descriptorLimit() - RESERVE) / 2));
}

function descriptorLimit(): number {
  if (process.platform !== "linux") return ASSUMED_LIMIT;
  try {
    const line = /^Max open files\s+(\d+|unlimited)/m.exec(readFileSync("/proc/self/limits", "utf8"));
    return line?.[1] === "unlimited" ? 1_000_000 : Number(line?.[1] ?? ASSUMED_LIMIT);
  } catch {
    return ASSUMED_LIMIT;
  }
}

const FIRST_INHERITED = 3;

/** Listening descriptors a service manager passed on (sd_listen_fds(3)). */
export function inheritedListeners(env: Readonly<Record<string, string | undefined>>): number[] {
  const count = Number(env.LISTEN_FDS ?? 0);
  const isForUs = env.LISTEN_PID === undefined || Number(env.LISTEN_PID) === process.pid;
  if (!isForUs || !Number.isInteger(count) || count < 1) return [];
  return Array.from({ length: count }, (_, index) => FIRST_INHERITED + index);
}

/** False when the process has none left: then every connection fails, whoever listens. */
export function descriptorsLeft(): boolean {
  try {
    closeSync(openSync("/dev/null", "r"));
    return true;
  } catch (error) {
    return !["EMFILE", "ENFILE"].includes((error as { code?: string }).code ?? "");
  }
}
