import { lstatSync, unlinkSync } from "node:fs";
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
  } catch {
    unlinkSync(path);
  }
}
