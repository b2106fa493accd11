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

export interface NginxOptions {
  /** In front of the `server` block. */
  readonly http?: readonly string[];
  /** Behind the port in `listen`. */
  readonly listen?: string;
}

/** Nginx on a free port, with these lines in its `server` block; `FOLDER` and `PORT` in them are filled in. */
export async function startNginx(lines: string[], options: NginxOptions = {}): Promise<ForeignProxy> {
  const folder = new TempFolder();
  const port = freePort();
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  const config = [
    ...["daemon off;", "master_process off;", "pid FOLDER/nginx.pid;", "error_log stderr error;"],
    ...["events { worker_connections 2048; }", "http {", "access_log off;"],
    ...temporary.map((name) => `${name}_temp_path FOLDER/${name};`),
    ...(options.http ?? []),
    ...["server {", `listen 127.0.0.1:PORT ${options.listen ?? ""};`, ...lines, "}", "}"],
  ]
    .join("\n")
    .replaceAll("FOLDER", folder.path)
    .replaceAll("PORT", String(port));
  writeFileSync(folder.file("nginx.conf"), `${config}\n`);
  const process = new Process([program("nginx")!, "-e", "stderr", "-c", folder.file("nginx.conf")]);
  return started(process, port, folder);
}

/** What the documentation of nginx says for WebSockets. */
export const nginxPasses = (to: number): string[] => [
  ...[`proxy_pass http://127.0.0.1:${to};`, "proxy_http_version 1.1;"],
  ...["proxy_set_header Upgrade $http_upgrade;", 'proxy_set_header Connection "upgrade";'],
];

/**
 * Haproxy on a free port, in front of 127.0.0.1, with the time-outs of Debian's
 * configuration but for `lines`; `other` is where a path leads elsewhere.
 */
export async function startHaproxy(
  to: number,
  lines: string[] = [],
  other: { path: string; port: number } | undefined = undefined,
): Promise<ForeignProxy> {
  const folder = new TempFolder();
  const port = freePort();
  const elsewhere = other === undefined ? [] : [`use_backend elsewhere if { path ${other.path} }`];
  const config = [
    ...["defaults", "mode http", "timeout connect 5000", "timeout client 50000", "timeout server 50000", ...lines],
    ...["frontend front", `bind 127.0.0.1:${port}`, ...elsewhere, "default_backend back"],
    ...["backend back", `server one 127.0.0.1:${to}`],
    ...(other === undefined ? [] : ["backend elsewhere", `server two 127.0.0.1:${other.port}`]),
  ];
  writeFileSync(folder.file("haproxy.cfg"), `${config.join("\n")}\n`);
  const process = new Process([program("haproxy")!, "-db", "-f", folder.file("haproxy.cfg")]);
  return started(process, port, folder);
}

/** Websockify on a free port, in front of a port on 127.0.0.1. */
export async function startWebsockify(to: number): Promise<ForeignProxy> {
  const folder = new TempFolder();
  const port = freePort();
  const process = new Process([program("websockify")!, `127.0.0.1:${port}`, `127.0.0.1:${to}`]);
  const proxy = await started(process, port, folder);
  const stop = async () => {
    // Its own end takes the process of each connection with it; a kill would leave them.
    process.kill("SIGINT");
    await process.exited(5000).catch(() => {});
    await proxy[Symbol.asyncDispose]();
  };
  return { port, process, [Symbol.asyncDispose]: stop };
}
