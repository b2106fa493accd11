import { existsSync } from "node:fs";
import { constants } from "node:os";
import { SeikanError } from "../core/errors.ts";

/** Signals that are passed on to a wrapped command. */
const PASSED_ON: readonly NodeJS.Signals[] = ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"];

export interface WrappedCommand {
  /** The command's code, 128+n if signal n ended it. */
  readonly exited: Promise<number>;
  kill(signal: NodeJS.Signals): void;
}

/**
 * Runs a command with our own stdio and passes signals on to it. Throws
 * `command-not-found` (127) or `command-not-executable` (126).
 */
export function runWrapped(command: readonly string[], env: Record<string, string>): WrappedCommand {
  const path = findExecutable(command[0]!, env);
  let child: Bun.Subprocess | undefined;
  const early: NodeJS.Signals[] = [];
  const pass = (signal: NodeJS.Signals) => {
    // Ctrl-C reached the child, too: it shares our terminal.
    if (signal === "SIGINT" && process.stdin.isTTY) return;
    if (child === undefined) early.push(signal);
    else child.kill(signal);
  };
  // Before the child is: it may be the one that sends them.
  for (const signal of PASSED_ON) process.on(signal, pass);
  const forget = () => {
    for (const signal of PASSED_ON) process.off(signal, pass);
  };
  try {
    const stdio: ["inherit", "inherit", "inherit"] = ["inherit", "inherit", "inherit"];
    child = Bun.spawn([path, ...command.slice(1)], { argv0: command[0]!, env, stdio });
  } catch (cause) {
    forget();
    throw spawnError(command[0]!, cause);
  }
  const started = child;
  for (const signal of early) started.kill(signal);
  const exited = started.exited.then(() => {
    forget();
    if (started.signalCode === null) return started.exitCode ?? 1;
    return 128 + (constants.signals[started.signalCode as keyof typeof constants.signals] ?? 0);
  });
  return { exited, kill: (signal) => started.kill(signal) };
}

function spawnError(name: string, cause: unknown): SeikanError {
  const code = (cause as { code?: string }).code ?? String(cause);
  if (code === "ENOEXEC")
    return new SeikanError("command-not-executable", `cannot execute ${name}: it is no program`, { cause });
  if (["EACCES", "EPERM", "EISDIR", "ENOTDIR", "ELOOP", "ENOENT"].includes(code)) {
    return new SeikanError("command-not-executable", `cannot execute ${name}: ${code}`, { cause });
  }
  return new SeikanError("command-failed", `cannot start ${name}: ${code}`, { cause });
}

function findExecutable(name: string, env: Record<string, string>): string {
  const found = Bun.which(name, { PATH: env.PATH ?? "" });
  if (found !== null) return found;
  const isThere = name.includes("/") && existsSync(name);
  if (isThere) throw new SeikanError("command-not-executable", `cannot execute ${name}: it is not executable`);
  throw new SeikanError("command-not-found", `no such command: ${name}`);
}
