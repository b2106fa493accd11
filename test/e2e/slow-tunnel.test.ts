import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { BulkEcho, BulkTransfer } from "../support/bulk.ts";
import { certificateFor } from "../support/certificates.ts";
import { nginxPasses, startHaproxy, startNginx, startSquid, type ForeignProxy } from "../support/foreign.ts";
import { gitServer } from "../support/origins.ts";
import { TempFolder } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { dialRaw, echo, RawServer, type RawSocket } from "../support/raw.ts";
import { COMMAND, runProgram, startSeikan, type Running } from "../support/seikan.ts";
import { hasSsh, startSshd } from "../support/sshd.ts";
import { pattern, until, within } from "../support/wait.ts";
import { switchingTo, upgradeRequest } from "../support/websocket-client.ts";

// Much of this waits for time-outs of other programs: the tests run side by side.
setDefaultTimeout(120_000);

const MB = 1024 * 1024;
const BULK = process.env.SEIKAN_SLOW_GB === "1" ? 1024 * MB : 256 * MB;
const { certFile, keyFile } = certificateFor("localhost", "127.0.0.1");
const hasNginx = program("nginx") !== undefined;
const hasHaproxy = program("haproxy") !== undefined;
const hasSquid = program("squid") !== undefined;

let origin: RawServer;
let target: string;
let secure: Running;
beforeAll(async () => {
  origin = new RawServer(echo);
  target = `127.0.0.1:${origin.port}`;
  const tls = ["--tls-cert", certFile, "--tls-key", keyFile];
  const users = ["--auth", "s:t", "--access-log", "json"];
  secure = await startSeikan(["serve", "-l", "https://127.0.0.1:0", ...tls, ...users]);
});
afterAll(async () => {
  await secure[Symbol.asyncDispose]();
  origin[Symbol.dispose]();
});

const ws = ({ port }: { readonly port: number }) => `ws://127.0.0.1:${port}`;
const wss = () => ["--via", `wss://s:t@localhost:${secure.port}`, "--proxy-cacert", certFile];
const serve = (...args: string[]) => startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "off", ...args]);
const forward = (to: string, hop: { readonly port: number }, ...args: string[]) =>
  startSeikan(["connect", "-L", `127.0.0.1:0=${to}`, "--via", ws(hop), ...args]);
const count = (running: Running, name: string) => running.events().filter(({ event }) => event === name).length;

/** Sends a text and waits until it is back. */
async function asks(client: RawSocket, text: string): Promise<void> {
  client.send(text);
  await client.sees(text);
}

// --- proxies that end what is idle ----------------------------------------------------

/** Accepts WebSockets and never says a word in them. */
const muteServer = () =>
  new RawServer((socket) => {
    void socket.sees("\r\n\r\n").then(
      (head) => socket.send(switchingTo(head)),
      () => {},
    );
  });

/** Returns once the proxy has ended a WebSocket, opened now, that was idle from its first moment. */
async function idleIsCut(port: number, path: string): Promise<void> {
  using idle = await dialRaw(port);
  idle.send(upgradeRequest(path));
  await idle.sees("101 Switching Protocols");
  await idle.over(40_000);
}

/** An idle tunnel outlives the proxy's time-out; without pings it does not. */
async function outlivesTimeouts(front: ForeignProxy): Promise<void> {
  await using pinging = await forward(target, front);
  await using still = await forward(target, front, "--ping-interval", "0");
  using kept = await dialRaw(pinging.port);
  using lost = await dialRaw(still.port);
  await asks(lost, "before");
  await asks(kept, "before");
  await idleIsCut(front.port, "/mute");
  await lost.receivesReset();
  await asks(kept, "behind");
  expect([count(pinging, "tunnel-up"), count(pinging, "tunnel-lost")]).toEqual([1, 0]);
  await until(() => count(still, "tunnel-lost") === 1, "the tunnel without pings is lost");
}

test.concurrent.skipIf(!hasNginx)("nginx ends what is idle for 20 s, but no idle tunnel", async () => {
  using mute = muteServer();
  await using quiet = await serve("--ping-interval", "0");
  await using front = await startNginx([
    "proxy_read_timeout 20s;",
    ...["location / {", ...nginxPasses(quiet.port), "}"],
    ...["location /mute {", ...nginxPasses(mute.port), "}"],
  ]);
  await outlivesTimeouts(front);
});

test.concurrent.skipIf(!hasHaproxy)("haproxy ends what is idle for 20 s, but no idle tunnel", async () => {
  using mute = muteServer();
  await using quiet = await serve("--ping-interval", "0");
  const times = ["timeout client 20000", "timeout server 20000"];
  await using front = await startHaproxy(quiet.port, times, { path: "/mute", port: mute.port });
  await outlivesTimeouts(front);
});

test.concurrent.skipIf(!hasHaproxy)("the server's pings alone keep an idle tunnel through haproxy", async () => {
  using mute = muteServer();
  await using server = await serve();
  const times = ["timeout client 20000", "timeout server 20000"];
  await using front = await startHaproxy(server.port, times, { path: "/mute", port: mute.port });
  await using running = await forward(target, front, "--ping-interval", "0");
  using client = await dialRaw(running.port);
  await asks(client, "before");
  await idleIsCut(front.port, "/mute");
  await asks(client, "behind");
  expect([count(running, "tunnel-up"), count(running, "tunnel-lost")]).toEqual([1, 0]);
});

// --- much -------------------------------------------------------------------------------

for (const [name, start] of [
  ["nginx", hasNginx ? (to: number) => startNginx(["location / {", ...nginxPasses(to), "}"]) : undefined],
  ["haproxy", hasHaproxy ? (to: number) => startHaproxy(to) : undefined],
] as const) {
  test.concurrent.skipIf(start === undefined)(`${BULK / MB} MB there and back through ${name}`, async () => {
    using bulk = new BulkEcho();
    await using server = await serve();
    await using front = await start!(server.port);
    await using running = await forward(`127.0.0.1:${bulk.port}`, front);
    const { sent, received } = await BulkTransfer.through(running.port, BULK, { ms: 110_000 });
    expect(received).toBe(sent);
    expect([count(running, "tunnel-up"), count(running, "tunnel-lost")]).toEqual([1, 0]);
  });
}

test.concurrent("500 streams at once through one tunnel, each with bytes of its own", async () => {
  using bulk = new BulkEcho();
  await using server = await serve();
  await using running = await forward(`127.0.0.1:${bulk.port}`, server);
  const sizes = Array.from({ length: 500 }, (_, index) => 50_000 + 401 * index);
  const transfers = sizes.map((size, seed) => BulkTransfer.through(running.port, size, { seed: seed + 1 }));
  for (const { sent, received } of await Promise.all(transfers)) expect(received).toBe(sent);
  expect(bulk.connections).toBe(500);
  expect(count(running, "tunnel-up")).toBe(1);
});

// --- ends that die or freeze ------------------------------------------------------------

describe.skipIf(!hasNginx)("behind nginx", () => {
  test.concurrent("kill -9 of the server: running streams are reset at once", async () => {
    await using server = await serve();
    await using front = await startNginx(["location / {", ...nginxPasses(server.port), "}"]);
    await using running = await forward(target, front);
    using client = await dialRaw(running.port);
    await asks(client, "before");
    server.kill("SIGKILL");
    await client.receivesReset(3000);
    // Nginx answers in its place now: 502.
    await until(
      () => running.events().some(({ event, message }) => event === "tunnel-failed" && /502/.test(String(message))),
      "the next attempt tells nginx's 502",
    );
  });

  test.concurrent("kill -9 of the client: the target sees a reset at once", async () => {
    using hand = new RawServer();
    await using server = await serve();
    await using front = await startNginx(["location / {", ...nginxPasses(server.port), "}"]);
    await using running = await forward(`127.0.0.1:${hand.port}`, front);
    using client = await dialRaw(running.port);
    client.send("x");
    const inner = await hand.next();
    await inner.sees("x");
    running.kill("SIGKILL");
    await inner.receivesReset(3000);
    await until(() => server.stderr().includes("tunnel closed"), "the server logs it");
  });
});

test.concurrent("a frozen server is noticed within 30 s: streams are reset, and work again once it thaws", async () => {
  await using server = await serve();
  await using running = await forward(target, server);
  using client = await dialRaw(running.port);
  await asks(client, "before");
  server.kill("SIGSTOP");
  client.send("into the ice");
  await client.receivesReset(30_000);
  await until(() => count(running, "tunnel-lost") === 1, "the tunnel is given up");
  expect(running.events().find(({ event }) => event === "tunnel-lost")?.message).toContain("no sign of life");
  using waiting = await dialRaw(running.port);
  waiting.send("patience");
  server.kill("SIGCONT");
  await waiting.sees("patience");
});

test.concurrent("a frozen client is noticed within 30 s: the target sees a reset", async () => {
  using hand = new RawServer();
  await using server = await serve();
  await using running = await forward(`127.0.0.1:${hand.port}`, server);
  using client = await dialRaw(running.port);
  client.send("x");
  const inner = await hand.next();
  await inner.sees("x");
  running.kill("SIGSTOP");
  await inner.receivesReset(30_000);
  await until(() => /tunnel closed.*end=peer-silent/.test(server.stderr()), "the server says why");
  running.kill("SIGCONT");
  await client.receivesReset();
});

// --- other people's programs ---------------------------------------------------------------

/** Without a proxy in front, and through squid. */
const fronts: [string, boolean][] = [
  ["", true],
  [" through squid", hasSquid],
];

async function front(name: string): Promise<{ hops: string[]; proxy: ForeignProxy | undefined }> {
  if (name === "") return { hops: wss(), proxy: undefined };
  const proxy = await startSquid(["http_port 127.0.0.1:PORT", "http_access allow all"]);
  return { hops: ["--via", `http://127.0.0.1:${proxy.port}`, ...wss()], proxy };
}

for (const [name, isThere] of fronts) {
  test.concurrent.skipIf(!isThere || !hasSsh())(`ssh over wss://${name}`, async () => {
    await using sshd = await startSshd();
    const { hops, proxy } = await front(name);
    await using _ = proxy;
    const bytes = pattern(5 * MB, 61);
    const args = ["ssh", ...sshd.options(...hops), "-p", String(sshd.port), "root@127.0.0.1"];
    const sum = await runProgram([...args, "sha256sum; echo err >&2; exit 3"], { stdin: bytes });
    const expected = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
    expect(sum).toEqual({ code: 3, stdout: `${expected}  -\n`, stderr: "err\n" });
    await until(() => secure.events().some((event) => event.target === `127.0.0.1:${sshd.port}`), "it is logged");
  });

  test.concurrent.skipIf(!isThere || program("git") === undefined)(`git clone over wss://${name}`, async () => {
    using folder = new TempFolder();
    const big = pattern(3 * MB, 62);
    const env = { HOME: folder.path, GIT_CONFIG_NOSYSTEM: "1", GIT_CONFIG_GLOBAL: "/dev/null" };
    const identity = ["-c", "user.name=Tester", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"];
    const git = async (cwd: string, ...args: string[]) => {
      const { code, stderr } = await runProgram(["git", ...identity, ...args], { cwd, env });
      if (code !== 0) throw new Error(`git ${args.join(" ")}: ${stderr}`);
    };
    mkdirSync(folder.file("served/r.git"), { recursive: true });
    await git(folder.file("served/r.git"), "init", "-q", "--bare");
    await git(folder.path, "clone", "-q", folder.file("served/r.git"), "work");
    writeFileSync(folder.file("work/big"), big);
    await git(folder.file("work"), "add", ".");
    await git(folder.file("work"), "commit", "-q", "-m", "one");
    await git(folder.file("work"), "push", "-q", "origin", "HEAD:main");

    const { hops, proxy } = await front(name);
    await using _ = proxy;
    const web = gitServer(folder.file("served"));
    try {
      const clone = ["git", "clone", "-q", `http://127.0.0.1:${web.port}/r.git`, "cloned"];
      const run = runProgram([...COMMAND, "connect", "-L", "http://127.0.0.1:0", ...hops, "--", ...clone], {
        cwd: folder.path,
        env,
      });
      expect(await within(run, "git clone", 30_000)).toEqual({ code: 0, stdout: "", stderr: "" });
      expect(Bun.hash(await Bun.file(folder.file("cloned/big")).bytes())).toBe(Bun.hash(big));
      await until(() => secure.events().some((event) => event.target === `127.0.0.1:${web.port}`), "it is logged");
    } finally {
      await web.stop(true);
    }
  });
}
