import { toSeikanError } from "../core/errors.ts";
import { LaunchLedger } from "../platform/launch-ledger.ts";
import { runtimeFolder } from "../platform/runtime-folder.ts";
import type { CommandIo } from "./command.ts";

/** Where launches are remembered; undefined: there is no place that is ours alone. */
export function ledgerIn(io: CommandIo, isNeeded = true): LaunchLedger | undefined {
  try {
    return new LaunchLedger(runtimeFolder(io.env));
  } catch (thrown) {
    io.log[isNeeded ? "warn" : "debug"](`launches are not remembered: ${toSeikanError(thrown).message}`);
    return undefined;
  }
}

/** Ends what a run that was killed left behind. */
export async function cleanUp(ledger: LaunchLedger | undefined, { log }: CommandIo): Promise<void> {
  const ended = (await ledger?.cleanUp()) ?? [];
  if (ended.length > 0) log.warn(`ended what a seikan that was killed left behind: ${ended.join(", ")}`);
}
