import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface OriginPorts {
  readonly greet: number;
  readonly source: number;
  readonly sink: number;
}

/** A proxy under measurement, running. */
export interface Peer {
  readonly name: string;
  /** Its port for a target; proxies that speak CONNECT have one for all. */
  portFor(target: keyof OriginPorts): number;
  readonly speaksConnect: boolean;
  /** The processes that do the work; children count. */
  readonly pid: number;
  stop(): void;
}

const PATH = `${process.env.PATH}:/usr/sbin`;
export const which = (name: string) => Bun.which(name, { PATH });

export function freePort(): number {
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  probe.stop(true);
  return probe.port;
}

export async function started(name: string, command: string[], ports: number[]): Promise<Bun.Subprocess> {
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "ignore" });
  // Whatever happens to this run, nothing stays behind.
  process.on("exit", () => child.kill("SIGKILL"));
  for (const port of ports) {
    for (let tries = 0; ; tries++) {
      const open = await Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {} } }).catch(() => undefined);
      open?.terminate();
      if (open !== undefined) break;
      if (tries > 200) throw new Error(`${name} does not listen on ${port}`);
      await Bun.sleep(50);
    }
  }
  return child;
}

async function connectProxy(name: string, command: string[], port: number): Promise<Peer> {
  const child = await started(name, command, [port]);
  return { name, portFor: () => port, speaksConnect: true, pid: child.pid, stop: () => child.kill("SIGKILL") };
}

export function startSeikan(executable: string): Promise<Peer> {
  const port = freePort();
  return connectProxy("seikan", [executable, "serve", "-l", `127.0.0.1:${port}`, "--access-log", "off", "-q"], port);
}

async function startHaproxy(folder: string, origin: OriginPorts): Promise<Peer> {
  const ports = { greet: freePort(), source: freePort(), sink: freePort() };
  const config = join(folder, "haproxy.cfg");
  const sections = (Object.keys(ports) as (keyof OriginPorts)[]).map(
    (name) => `listen ${name}\n  bind 127.0.0.1:${ports[name]}\n  server s 127.0.0.1:${origin[name]}\n`,
  );
  writeFileSync(
    config,
    `global\n  maxconn 5000\n  nbthread 1\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n${sections.join("")}`,
  );
  const child = await started("haproxy", [which("haproxy")!, "-f", config, "-db"], Object.values(ports));
  return {
    name: "haproxy",
    portFor: (target) => ports[target],
    speaksConnect: false,
    pid: child.pid,
    stop: () => child.kill("SIGKILL"),
  };
}

async function startSquid(folder: string): Promise<Peer> {
  const port = freePort();
  const home = join(folder, "squid");
  mkdirSync(home, { mode: 0o777 });
  Bun.spawnSync(["chmod", "-R", "a+rwx", folder]);
  const config = join(folder, "squid.conf");
  writeFileSync(
    config,
    [
      `http_port 127.0.0.1:${port}`,
      "http_access allow all",
      "cache deny all",
      "access_log none",
      `cache_log ${home}/cache.log`,
      `coredump_dir ${home}`,
      "pid_filename none",
      "max_filedescriptors 16384",
      "shutdown_lifetime 0 seconds",
      "pinger_enable off",
      "",
    ].join("\n"),
  );
  return connectProxy("squid", [which("squid")!, "-N", "-f", config], port);
}

async function startTinyproxy(folder: string): Promise<Peer> {
  const port = freePort();
  const config = join(folder, "tinyproxy.conf");
  writeFileSync(
    config,
    `Port ${port}\nListen 127.0.0.1\nTimeout 3600\nMaxClients 8000\nLogLevel Critical\nLogFile "${folder}/tinyproxy.log"\n`,
  );
  return connectProxy("tinyproxy", [which("tinyproxy")!, "-d", "-c", config], port);
}

async function startSocat(origin: OriginPorts): Promise<Peer> {
  const ports = { greet: freePort(), source: freePort(), sink: freePort() };
  const names = Object.keys(ports) as (keyof OriginPorts)[];
  const script = names
    .map(
      (name) =>
        `socat -b 131072 TCP-LISTEN:${ports[name]},bind=127.0.0.1,fork,reuseaddr,backlog=512 TCP:127.0.0.1:${origin[name]} &`,
    )
    .join("\n");
  const child = await started("socat", ["sh", "-c", `${script}\nwait`], Object.values(ports));
  const stop = () => void Bun.spawnSync(["pkill", "-KILL", "-P", String(child.pid)]);
  return { name: "socat", portFor: (target) => ports[target], speaksConnect: false, pid: child.pid, stop };
}

/** Everything that is installed here, running. */
export async function startPeers(executable: string, origin: OriginPorts): Promise<Peer[]> {
  const folder = mkdtempSync(join(tmpdir(), "seikan-bench-"));
  const peers: Peer[] = [await startSeikan(executable)];
  const others: [string, () => Promise<Peer>][] = [
    ["haproxy", () => startHaproxy(folder, origin)],
    ["squid", () => startSquid(folder)],
    ["tinyproxy", () => startTinyproxy(folder)],
    ["socat", () => startSocat(origin)],
  ];
  for (const [name, start] of others) {
    if (which(name) === null) console.error(`${name} is not installed: left out`);
    else peers.push(await start());
  }
  return peers;
}

// --- through two processes -----------------------------------------------------

type Ports = Record<keyof OriginPorts, number>;

function freePorts(): Ports {
  return { greet: freePort(), source: freePort(), sink: freePort() };
}

/** Two programs, one behind the other, as children of one shell. */
async function twoProcesses(name: string, ports: Ports, first: string, second: string[]): Promise<Peer> {
  const child = await started(name, ["sh", "-c", `${[first, ...second].join(" &\n")} &\nwait`], Object.values(ports));
  const stop = () => {
    Bun.spawnSync(["pkill", "-KILL", "-P", String(child.pid)]);
    child.kill("SIGKILL");
  };
  return { name, portFor: (target) => ports[target], speaksConnect: false, pid: child.pid, stop };
}

function seikanPair(name: string, executable: string, scheme: string, origin: OriginPorts): Promise<Peer> {
  const port = freePort();
  const ports = freePorts();
  const listeners = forwards(ports, (local, target) => `-L ${local}=127.0.0.1:${origin[target]}`).join(" ");
  return twoProcesses(name, ports, `${executable} serve -l 127.0.0.1:${port} --access-log off -q`, [
    `${executable} connect ${listeners} --via ${scheme}://127.0.0.1:${port} -q`,
  ]);
}

function forwards(ports: Ports, each: (local: number, target: keyof OriginPorts) => string): string[] {
  return (Object.keys(ports) as (keyof OriginPorts)[]).map((target) => each(ports[target], target));
}

function socatPair(origin: OriginPorts): Promise<Peer> {
  const ports = freePorts();
  const middle = freePorts();
  const relay = (from: number, to: number) =>
    `socat -b 131072 TCP-LISTEN:${from},bind=127.0.0.1,fork,reuseaddr,backlog=512 TCP:127.0.0.1:${to}`;
  const far = forwards(middle, (local, target) => relay(local, origin[target])).join(" &\n");
  return twoProcesses(
    "socat ×2",
    ports,
    far,
    forwards(ports, (local, target) => relay(local, middle[target])),
  );
}

/** websockify as the server, our raw WebSocket client in front of it. */
function websockifyPair(executable: string, origin: OriginPorts): Promise<Peer> {
  const ports = freePorts();
  const middle = freePorts();
  const far = forwards(middle, (local, target) => `websockify 127.0.0.1:${local} 127.0.0.1:${origin[target]}`).join(
    " &\n",
  );
  const near = forwards(
    ports,
    (local, target) => `${executable} connect -L ${local} --via ws+raw://127.0.0.1:${middle[target]} -q`,
  );
  return twoProcesses("websockify", ports, far, near);
}

function chiselPair(origin: OriginPorts): Promise<Peer> {
  const port = freePort();
  const ports = freePorts();
  const remotes = forwards(ports, (local, target) => `127.0.0.1:${local}:127.0.0.1:${origin[target]}`).join(" ");
  return twoProcesses("chisel", ports, `chisel server --host 127.0.0.1 -p ${port}`, [
    `chisel client http://127.0.0.1:${port} ${remotes}`,
  ]);
}

function wstunnelPair(origin: OriginPorts): Promise<Peer> {
  const port = freePort();
  const ports = freePorts();
  const remotes = forwards(ports, (local, target) => `-L tcp://127.0.0.1:${local}:127.0.0.1:${origin[target]}`).join(
    " ",
  );
  return twoProcesses("wstunnel", ports, `wstunnel server ws://127.0.0.1:${port}`, [
    `wstunnel client ${remotes} ws://127.0.0.1:${port}`,
  ]);
}

/** frp and rathole go the other way round (their server listens, their client knows the target): the same two hops. */
function frpPair(folder: string, origin: OriginPorts): Promise<Peer> {
  const port = freePort();
  const ports = freePorts();
  writeFileSync(join(folder, "frps.toml"), `bindAddr = "127.0.0.1"\nbindPort = ${port}\nproxyBindAddr = "127.0.0.1"\n`);
  const proxies = forwards(
    ports,
    (local, target) =>
      `[[proxies]]\nname = "${target}"\ntype = "tcp"\nlocalIP = "127.0.0.1"\nlocalPort = ${origin[target]}\nremotePort = ${local}\n`,
  );
  const client = [`serverAddr = "127.0.0.1"`, `serverPort = ${port}`, `transport.protocol = "websocket"`, ...proxies];
  writeFileSync(join(folder, "frpc.toml"), `${client.join("\n")}\n`);
  return twoProcesses("frp", ports, `frps -c ${folder}/frps.toml`, [`sleep 0.5; frpc -c ${folder}/frpc.toml`]);
}

function ratholePair(folder: string, origin: OriginPorts): Promise<Peer> {
  const port = freePort();
  const ports = freePorts();
  const sections = (side: "server" | "client", line: (local: number, target: keyof OriginPorts) => string) =>
    forwards(ports, (local, target) => `[${side}.services.${target}]\ntoken = "bench"\n${line(local, target)}\n`).join(
      "",
    );
  const serverServices = sections("server", (local) => `bind_addr = "127.0.0.1:${local}"`);
  const clientServices = sections("client", (_, target) => `local_addr = "127.0.0.1:${origin[target]}"`);
  writeFileSync(join(folder, "rathole-server.toml"), `[server]\nbind_addr = "127.0.0.1:${port}"\n${serverServices}`);
  writeFileSync(join(folder, "rathole-client.toml"), `[client]\nremote_addr = "127.0.0.1:${port}"\n${clientServices}`);
  return twoProcesses("rathole", ports, `rathole --server ${folder}/rathole-server.toml`, [
    `rathole --client ${folder}/rathole-client.toml`,
  ]);
}

/** What tunnels over two processes are measured against, as far as it is installed here. */
export async function startTunnelPeers(executable: string, origin: OriginPorts): Promise<Peer[]> {
  const folder = mkdtempSync(join(tmpdir(), "seikan-bench-"));
  const others: [string, () => Promise<Peer>][] = [
    ["socat", () => socatPair(origin)],
    ["websockify", () => websockifyPair(executable, origin)],
    ["chisel", () => chiselPair(origin)],
    ["wstunnel", () => wstunnelPair(origin)],
    ["frps", () => frpPair(folder, origin)],
    ["rathole", () => ratholePair(folder, origin)],
  ];
  const peers = [
    await seikanPair("seikan", executable, "ws", origin),
    { ...(await startSeikan(executable)), name: "one CONNECT hop" },
    await seikanPair("connect + serve", executable, "http", origin),
    {
      name: "no hop",
      portFor: (target: keyof OriginPorts) => origin[target],
      speaksConnect: false,
      pid: process.pid,
      stop() {},
    },
  ];
  for (const [name, start] of others) {
    if (which(name) === null) console.error(`${name} is not installed: left out`);
    else peers.push(await start());
  }
  return peers;
}
