import { lstatSync, readFileSync, unlinkSync } from "node:fs";
import { basename } from "node:path";
import { deadlineIn } from "../core/clock.ts";
import { SeikanError } from "../core/errors.ts";
import { tcpDialer } from "./tcp.ts";

const PROBE_MS = 1000;

/** Removes the socket file of a listener that is gone; leaves anything else alone. */
export async function removeIfStale(path: string): Promise<void> {
  const entry = lstatSync(path, { throwIfNoEntry: false });
  if (entry === undefined || !entry.isSocket()) return;
  try {
    const probe = await tcpDialer()({ kind: "unix", path }, { deadline: deadlineIn(PROBE_MS) });
    probe.abort(new SeikanError("cancelled", "only a probe"));
  } catch (error) {
    if (error instanceof SeikanError && error.code === "connect-refused" && !isListedByKernel(path)) unlinkSync(path);
  }
}

/** Bun reports a full accept queue as a refusal, too; Linux lists every bound socket. */
function isListedByKernel(path: string): boolean {
  if (process.platform !== "linux") return false;
  const ending = `/${basename(path)}`;
  return readFileSync("/proc/net/unix", "utf8")
    .split("\n")
    .some((line) => line.endsWith(` ${path}`) || line.endsWith(ending));
}
