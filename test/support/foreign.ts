import { chmodSync, writeFileSync } from "node:fs";
import { accepting, freePort, Process, TempFolder } from "./process.ts";
import { program } from "./programs.ts";

/** Another maker's proxy, ended and cleaned up when disposed of. */
export interface ForeignProxy extends AsyncDisposable {
  readonly port: number;
  readonly process: Process;
}

const SQUID_LIBRARY = "/usr/lib/squid";

/** Squid on a free port. `files` are written beside its configuration; `FOLDER` and `PORT` in `lines` are filled in. */
export async function startSquid(lines: string[], files: Record<string, string> = {}): Promise<ForeignProxy> {
  const folder = new TempFolder();
  const port = freePort();
  // Squid gives root up for its own user, who must read and write here.
  chmodSync(folder.path, 0o777);
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(folder.file(name), text);
    chmodSync(folder.file(name), 0o644);
  }
  const common = [
    ...["pid_filename none", "cache deny all", "access_log none", "cache_log FOLDER/cache.log", "coredump_dir FOLDER"],
    ...["visible_hostname squid.test", "pinger_enable off", "shutdown_lifetime 0 seconds", "max_filedescriptors 1024"],
    ...["netdb_filename none", "memory_pools off", "cache_mem 1 MB"],
  ];
  const config = [...common, ...lines]
    .join("\n")
    .replaceAll("FOLDER", folder.path)
    .replaceAll("PORT", String(port))
    .replaceAll("LIBRARY", SQUID_LIBRARY);
  writeFileSync(folder.file("squid.conf"), `${config}\n`);
  const process = new Process([program("squid")!, "-N", "-f", folder.file("squid.conf"), "-n", `s${port}`]);
  return started(process, port, folder);
}

/** Tinyproxy on a free port. */
export async function startTinyproxy(lines: string[] = []): Promise<ForeignProxy> {
  const folder = new TempFolder();
  const port = freePort();
  const config = [`Port ${port}`, "Listen 127.0.0.1", "Timeout 60", "MaxClients 20", "LogLevel Error", ...lines];
  writeFileSync(folder.file("tinyproxy.conf"), `${config.join("\n")}\n`);
  const process = new Process([program("tinyproxy")!, "-d", "-c", folder.file("tinyproxy.conf")]);
  return started(process, port, folder);
}

async function started(process: Process, port: number, folder: TempFolder): Promise<ForeignProxy> {
  const stop = async () => {
    await process[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  };
  try {
    await accepting(port, process);
  } catch (error) {
    await stop();
    throw error;
  }
  return { port, process, [Symbol.asyncDispose]: stop };
}
