/**
 * `bun run bench [--rounds N] [--seconds S] [--only KIND]`: the compiled
 * executable beside real peers, the same work through each in alternation.
 * Prints medians and ratios and saves them in dist/bench.json.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { startPeers, startTunnelPeers, type OriginPorts, type Peer } from "./peers.ts";
import { runReverse } from "./reverse.ts";
import { runServices } from "./services.ts";

const ROOT = join(import.meta.dir, "../..");
const EXECUTABLE = join(ROOT, "dist/seikan");

function option(name: string, fallback: number): number {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
}

const ROUNDS = option("rounds", 5);
const SECONDS = option("seconds", 2);
const TUNNELS = option("tunnels", 4000);
const onlyAt = process.argv.indexOf("--only");
const ONLY = onlyAt < 0 ? undefined : process.argv[onlyAt + 1];

/** Figures by measurement, then by peer, one per round. */
type Figures = Map<string, Map<string, number[]>>;
const figures: Figures = new Map();

/** In front of each measurement of the tunnel section. */
let sectionPrefix = "";

function record(name: string, peer: string, figure: number): void {
  const measurement = sectionPrefix + name;
  const byPeer = figures.get(measurement) ?? new Map<string, number[]>();
  figures.set(measurement, byPeer);
  byPeer.set(peer, [...(byPeer.get(peer) ?? []), figure]);
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

// --- processes ---------------------------------------------------------------

const TICKS = 100;

function processTree(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const stat = readProc(`/proc/${entry}/stat`);
    const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
  }
  const tree: number[] = [];
  for (const queue = [pid]; queue.length > 0;) {
    const next = queue.pop()!;
    tree.push(next);
    queue.push(...(children.get(next) ?? []));
  }
  return tree;
}

function readProc(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}

/** CPU seconds of the process, its children alive and its children gone. */
function cpuSeconds(pid: number): number {
  let ticks = 0;
  for (const member of processTree(pid)) {
    const stat = readProc(`/proc/${member}/stat`);
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    for (const index of [11, 12, 13, 14]) ticks += Number(fields[index] ?? 0);
  }
  return ticks / TICKS;
}

function residentBytes(pid: number): number {
  let kilobytes = 0;
  for (const member of processTree(pid))
    kilobytes += Number(/^VmRSS:\s+(\d+)/m.exec(readProc(`/proc/${member}/status`))?.[1] ?? 0);
  return kilobytes * 1024;
}

async function measure<T>(
  kind: string,
  peer: Peer,
  origin: OriginPorts,
  target: keyof OriginPorts,
  streams: number,
  stalled = 0,
): Promise<T> {
  const task = {
    stalled,
    port: peer.portFor(target),
    target: peer.speaksConnect ? origin[target] : undefined,
    streams,
    seconds: SECONDS,
  };
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "client.ts"), kind, JSON.stringify(task)], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`${kind} through ${peer.name} failed`);
  return JSON.parse(text) as T;
}

// --- what is measured ----------------------------------------------------------

async function throughput(
  kind: "download" | "upload",
  streams: number,
  peer: Peer,
  origin: OriginPorts,
): Promise<void> {
  const before = cpuSeconds(peer.pid);
  const { bytes, seconds } = await measure<{ bytes: number; seconds: number }>(
    kind,
    peer,
    origin,
    kind === "download" ? "source" : "sink",
    streams,
  );
  const spent = cpuSeconds(peer.pid) - before;
  record(`${kind}, ${streams} stream${streams > 1 ? "s" : ""} (MB/s)`, peer.name, bytes / seconds / 1e6);
  record(`${kind}, ${streams} stream${streams > 1 ? "s" : ""} (CPU s/GB)`, peer.name, spent / (bytes / 1e9));
}

/** Seven streams alone, and beside an eighth that nobody reads: what the stalled one costs the others. */
async function besideStalled(peer: Peer, origin: OriginPorts): Promise<void> {
  type Result = { bytes: number; seconds: number };
  const alone = await measure<Result>("download", peer, origin, "source", 7);
  const beside = await measure<Result>("download", peer, origin, "source", 7, 1);
  record("7 streams, download (MB/s)", peer.name, alone.bytes / alone.seconds / 1e6);
  record("7 streams beside a stalled one (MB/s)", peer.name, beside.bytes / beside.seconds / 1e6);
}

async function latency(peer: Peer, origin: OriginPorts): Promise<void> {
  const { p50, p99 } = await measure<{ p50: number; p99: number }>("roundTrips", peer, origin, "greet", 1);
  record("round trip of 64 bytes, p50 (µs)", peer.name, p50 * 1000);
  record("round trip of 64 bytes, p99 (µs)", peer.name, p99 * 1000);
}

async function setUps(peer: Peer, origin: OriginPorts): Promise<void> {
  const { perSecond, p99 } = await measure<{ perSecond: number; p99: number }>("setUps", peer, origin, "greet", 16);
  record("set-ups per second", peer.name, perSecond);
  record("set-up, p99 (ms)", peer.name, p99);
}

/** Opens idle tunnels and keeps them open until the result is called. */
async function openIdle(peer: Peer, origin: OriginPorts, streams: number): Promise<() => Promise<unknown>> {
  const task = {
    port: peer.portFor("greet"),
    target: peer.speaksConnect ? origin.greet : undefined,
    streams,
    seconds: 0,
  };
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "client.ts"), "idle", JSON.stringify(task)], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  await child.stdout.getReader().read();
  await Bun.sleep(1000);
  return () => {
    child.stdin.end();
    return child.exited;
  };
}

/** Memory of a fresh process with idle tunnels: from nothing, and the growth once it has warmed up. */
async function idleMemory(peer: Peer, origin: OriginPorts): Promise<void> {
  const warmUp = TUNNELS / 4;
  const fresh = residentBytes(peer.pid);
  const closeFirst = await openIdle(peer, origin, warmUp);
  const warm = residentBytes(peer.pid);
  const closeRest = await openIdle(peer, origin, TUNNELS - warmUp);
  const full = residentBytes(peer.pid);
  record(`memory per idle tunnel of ${TUNNELS} (bytes)`, peer.name, (full - fresh) / TUNNELS);
  record(`memory per idle tunnel beyond ${warmUp} (bytes)`, peer.name, (full - warm) / (TUNNELS - warmUp));
  await Promise.all([closeFirst(), closeRest()]);
}

/** A reader that takes nothing: what the proxy holds for it. */
async function stalledReader(peer: Peer, origin: OriginPorts): Promise<void> {
  const before = residentBytes(peer.pid);
  const port = peer.portFor("source");
  const script = `const s = require("net").connect(${port}, "127.0.0.1", () => { ${
    peer.speaksConnect ? `s.write("CONNECT 127.0.0.1:${origin.source} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")` : ""
  } }); s.pause(); setTimeout(() => process.exit(), 1500)`;
  const clients = Array.from({ length: 20 }, () => Bun.spawn(["node", "-e", script]));
  await Bun.sleep(1200);
  record("memory per stalled reader (KiB)", peer.name, (residentBytes(peer.pid) - before) / clients.length / 1024);
  await Promise.all(clients.map((client) => client.exited));
}

async function startUp(): Promise<void> {
  const timed = (command: string[]) => {
    const start = performance.now();
    Bun.spawnSync(command);
    return performance.now() - start;
  };
  for (let i = 0; i < 21; i++) record("--version (ms)", "seikan", timed([EXECUTABLE, "--version"]));
  for (let i = 0; i < 21; i++) record("start of connect to CONNECT on the wire (ms)", "seikan", await connectStart());
}

async function connectStart(): Promise<number> {
  const arrived = Promise.withResolvers<number>();
  const listener = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: { data: () => arrived.resolve(performance.now()) },
  });
  const start = performance.now();
  const child = Bun.spawn([EXECUTABLE, "connect", "example.com:443", "--via", `http://127.0.0.1:${listener.port}`], {
    stdin: "ignore",
    stderr: "ignore",
  });
  const elapsed = (await arrived.promise) - start;
  child.kill("SIGKILL");
  listener.stop(true);
  return elapsed;
}

// --- the run ---------------------------------------------------------------------

if (!existsSync(EXECUTABLE)) throw new Error("build it first: bun run build");
const originProcess = Bun.spawn([process.execPath, join(import.meta.dir, "origin.ts")], { stdout: "pipe" });
process.on("exit", () => originProcess.kill());
process.on("SIGTERM", () => process.exit(143));
const { value } = await originProcess.stdout.getReader().read();
const origin = JSON.parse(new TextDecoder().decode(value)) as OriginPorts;

type Kinds = Readonly<Record<string, (peer: Peer) => Promise<void>>>;

const KINDS: Kinds = {
  idle: (peer) => idleMemory(peer, origin),
  stalled: (peer) => stalledReader(peer, origin),
  download1: (peer) => throughput("download", 1, peer, origin),
  download8: (peer) => throughput("download", 8, peer, origin),
  upload1: (peer) => throughput("upload", 1, peer, origin),
  upload8: (peer) => throughput("upload", 8, peer, origin),
  latency: (peer) => latency(peer, origin),
  setups: (peer) => setUps(peer, origin),
};
// Memory only says something of a process that has done nothing else yet.
const ONCE = ["idle", "stalled"];

async function runKinds(kinds: Kinds, section: string, start: () => Promise<Peer[]>): Promise<void> {
  for (const [name, run] of Object.entries(kinds)) {
    const kind = `${section}${name}`;
    if (ONLY !== undefined && !ONLY.split(",").includes(kind)) continue;
    const rounds = ONCE.includes(name) ? Math.min(ROUNDS, 3) : ROUNDS;
    let peers = await start();
    for (let round = 0; round < rounds; round++) {
      for (const peer of peers) {
        // A process a connection: thousands of them measure the machine.
        if (name === "idle" && /^(socat|websockify)/.test(peer.name)) continue;
        // Only there to know what the hops add.
        if (name !== "latency" && peer.name === "no hop") continue;
        console.error(`${kind} ${round + 1}/${rounds} ${peer.name}`);
        await run(peer).catch((error: Error) => console.error(error.message));
      }
      if (!ONCE.includes(name)) continue;
      for (const peer of peers) peer.stop();
      peers = await start();
    }
    for (const peer of peers) peer.stop();
  }
}

await runKinds(KINDS, "", () => startPeers(EXECUTABLE, origin));
sectionPrefix = "tunnel: ";
const TUNNEL_KINDS: Kinds = { ...KINDS, beside: (peer) => besideStalled(peer, origin) };
await runKinds(TUNNEL_KINDS, "tunnel-", () => startTunnelPeers(EXECUTABLE, origin));
sectionPrefix = "reverse: ";
await runReverse(EXECUTABLE, {
  ...{ rounds: ROUNDS, seconds: SECONDS, sessions: option("sessions", 4000), record, residentBytes, cpuSeconds },
  wants: (kind) => ONLY === undefined || ONLY.split(",").includes(`reverse-${kind}`),
});
sectionPrefix = "services: ";
if (ONLY === undefined || ONLY.split(",").includes("services"))
  await runServices(EXECUTABLE, { rounds: 3 * ROUNDS, record });
sectionPrefix = "";
if (ONLY === undefined || ONLY.includes("startup")) await startUp();
originProcess.kill();
report();
process.exit(0);

function report(): void {
  const names = [...new Set([...figures.values()].flatMap((byPeer) => [...byPeer.keys()]))];
  console.log(
    `# ${cpus().length} cores, ${cpus()[0]?.model}; medians of ${ROUNDS} rounds; in brackets: seikan's figure over theirs`,
  );
  const saved: Record<string, Record<string, number>> = {};
  for (const [measurement, byPeer] of figures) {
    const own = median(byPeer.get("seikan") ?? []);
    const cells = names
      .filter((name) => byPeer.has(name))
      .map((name) => {
        const figure = median(byPeer.get(name)!);
        (saved[measurement] ??= {})[name] = figure;
        return name === "seikan"
          ? `seikan ${format(figure)}`
          : `${name} ${format(figure)} (${(own / figure).toFixed(2)}×)`;
      });
    console.log(`${measurement.padEnd(54)} ${cells.join("   ")}`);
  }
  writeFileSync(join(ROOT, "dist/bench.json"), `${JSON.stringify(saved, null, 2)}\n`);
}

function format(figure: number): string {
  return figure >= 100 ? figure.toFixed(0) : figure.toPrecision(3);
}
