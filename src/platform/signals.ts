import { closeSync, openSync } from "node:fs";

/** How a run may be ended from outside. */
export interface SignalHandlers {
  /** The first SIGINT or SIGTERM. */
  stop(signal: NodeJS.Signals): void;
  /** The second one, or SIGHUP where it means the end. */
  endNow(signal: NodeJS.Signals): void;
  /** SIGHUP where it means reload; undefined: it ends the run. */
  reload?: () => void;
  /** SIGUSR1: say how things are. */
  status?: () => void;
}

/** Listens for signals until the result is called. */
export function onSignals(handlers: SignalHandlers): () => void {
  let stopping = false;
  const stop = (signal: NodeJS.Signals) => {
    if (stopping) return handlers.endNow(signal);
    stopping = true;
    handlers.stop(signal);
  };
  const hangUp = () => (handlers.reload === undefined ? handlers.endNow("SIGHUP") : handlers.reload());
  const status = () => handlers.status?.();
  const listeners: [NodeJS.Signals, (signal: NodeJS.Signals) => void][] = [
    ["SIGINT", stop],
    ["SIGTERM", stop],
    ["SIGHUP", hangUp],
  ];
  if (process.platform !== "win32") listeners.push(["SIGUSR1", status]);
  for (const [signal, listener] of listeners) process.on(signal, listener);
  return () => {
    for (const [signal, listener] of listeners) process.off(signal, listener);
  };
}

const NUMBERS: Partial<Record<NodeJS.Signals, number>> = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGKILL: 9, SIGTERM: 15 };

/** 128+n, as shells report a death by signal. */
export function exitCodeOf(signal: NodeJS.Signals): number {
  return 128 + (NUMBERS[signal] ?? 15);
}

/** True when closing a terminal would send us SIGHUP. */
export function hasControllingTerminal(): boolean {
  if (process.platform === "win32") return false;
  try {
    closeSync(openSync("/dev/tty", "r"));
    return true;
  } catch {
    return false;
  }
}
