import { chownSync } from "node:fs";
import { freePort, Process, TempFolder } from "./process.ts";
import { program } from "./programs.ts";
import { runProgram } from "./seikan.ts";

/** A private PostgreSQL server on a port of 127.0.0.1; `postgres` may log in without a password. */
export interface Postgres extends AsyncDisposable {
  readonly port: number;
}

/** PostgreSQL refuses to run as root. */
const SYSTEM_USER = "postgres";

export function hasPostgres(): boolean {
  const isThere = program("psql") !== undefined && program("initdb") !== undefined && program("postgres") !== undefined;
  return isThere && (process.getuid?.() !== 0 || userId("-u") !== undefined);
}

export async function startPostgres(): Promise<Postgres> {
  const folder = new TempFolder();
  const port = freePort();
  const data = folder.file("data");
  let asUser: string[] = [];
  if (process.getuid?.() === 0) {
    chownSync(folder.path, userId("-u")!, userId("-g")!);
    asUser = ["setpriv", `--reuid=${SYSTEM_USER}`, `--regid=${SYSTEM_USER}`, "--clear-groups", "--"];
  }
  const env = { LC_ALL: "C" };
  const init = [program("initdb")!, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"];
  const made = await runProgram([...asUser, ...init], { cwd: folder.path, env });
  if (made.code !== 0) throw new Error(`initdb: ${made.stderr}`);
  const settings = ["-c", "listen_addresses=127.0.0.1", "-c", `unix_socket_directories=${data}`, "-c", "fsync=off"];
  const command = [...asUser, program("postgres")!, "-D", data, "-p", String(port), ...settings];
  const server = new Process(command, { cwd: folder.path, env });
  const stop = async () => {
    // Its own end takes its helpers with it; a kill would leave them.
    server.kill("SIGINT");
    await server.exited().catch(() => {});
    await server[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  };
  try {
    await server.says("database system is ready to accept connections", 30_000);
  } catch (error) {
    await stop();
    throw error;
  }
  return { port, [Symbol.asyncDispose]: stop };
}

function userId(which: "-u" | "-g"): number | undefined {
  const id = Bun.spawnSync(["id", which, SYSTEM_USER]);
  return id.exitCode === 0 ? Number(id.stdout.toString()) : undefined;
}
