import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { certificateFor } from "../support/certificates.ts";
import { gitServer } from "../support/origins.ts";
import { accepting, freePort, Process, TempFolder } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { echo, RawServer } from "../support/raw.ts";
import { runProgram, startSeikan, type Running } from "../support/seikan.ts";
import { hasSsh, startSshd, type SshServer } from "../support/sshd.ts";
import { pattern, until } from "../support/wait.ts";

setDefaultTimeout(60_000);

// Programs that others wrote, through serve or with seikan connect as their way out.

const certificate = certificateFor("localhost", "127.0.0.1");
const shaOf = (bytes: Uint8Array | string) => new Bun.CryptoHasher("sha256").update(bytes).digest("hex");

let proxy: Running;
let guarded: Running;
beforeAll(async () => {
  proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]);
  guarded = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "ann:secret", "--access-log", "json"]);
});
afterAll(async () => {
  await Promise.all([proxy[Symbol.asyncDispose](), guarded[Symbol.asyncDispose]()]);
});

const proxyUrl = () => `http://127.0.0.1:${proxy.port}`;
const targets = (running: Running) => running.events().map(({ target }) => String(target));

describe.skipIf(program("git") === undefined)("git", () => {
  const folder = new TempFolder();
  const root = folder.file("served");
  const big = pattern(3 * 1024 * 1024, 21);
  let plain: ReturnType<typeof gitServer>;
  let secure: ReturnType<typeof gitServer>;

  const git = async (args: string[], cwd = folder.path) => {
    const env = {
      HOME: folder.path,
      GIT_CONFIG_NOSYSTEM: "1",
      GIT_CONFIG_GLOBAL: "/dev/null",
      GIT_TERMINAL_PROMPT: "0",
      GIT_SSL_CAINFO: certificate.certFile,
    };
    const identity = ["-c", "user.name=Tester", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"];
    const run = await runProgram(["git", ...identity, ...args], { cwd, env });
    if (run.code !== 0) throw new Error(`git ${args.join(" ")}: ${run.stderr}`);
    return run;
  };

  beforeAll(async () => {
    mkdirSync(root);
    await git(["init", "-q", "--bare", `${root}/r.git`]);
    await git(["config", "http.receivepack", "true"], `${root}/r.git`);
    await git(["clone", "-q", `${root}/r.git`, "work"]);
    writeFileSync(folder.file("work/big"), big);
    await git(["add", "."], folder.file("work"));
    await git(["commit", "-q", "-m", "one"], folder.file("work"));
    await git(["push", "-q", "origin", "HEAD:main"], folder.file("work"));
    plain = gitServer(root);
    secure = gitServer(root, certificate);
  });
  afterAll(async () => {
    await Promise.all([plain.stop(true), secure.stop(true)]);
    folder[Symbol.dispose]();
  });

  test("clones over http:// through serve", async () => {
    await git(["-c", `http.proxy=${proxyUrl()}`, "clone", "-q", `http://127.0.0.1:${plain.port}/r.git`, "plain"]);
    expect(shaOf(await Bun.file(folder.file("plain/big")).bytes())).toBe(shaOf(big));
    const asked = () => targets(proxy).filter((target) => target.startsWith(`http://127.0.0.1:${plain.port}/r.git/`));
    await until(() => asked().some((target) => target.endsWith("git-upload-pack")), "it went through the proxy");
  });

  test("clones over https:// through CONNECT, with user and password", async () => {
    const url = `http://ann:secret@127.0.0.1:${guarded.port}`;
    await git(["-c", `http.proxy=${url}`, "clone", "-q", `https://localhost:${secure.port}/r.git`, "secure"]);
    expect(shaOf(await Bun.file(folder.file("secure/big")).bytes())).toBe(shaOf(big));
    await until(() => targets(guarded).includes(`localhost:${secure.port}`), "it went through the proxy");
  });

  test("clones over https:// through SOCKS, with the name resolved by the proxy", async () => {
    const socks = `socks5h://127.0.0.1:${proxy.port}`;
    await git(["-c", `http.proxy=${socks}`, "clone", "-q", `https://localhost:${secure.port}/r.git`, "socks"]);
    expect(shaOf(await Bun.file(folder.file("socks/big")).bytes())).toBe(shaOf(big));
  });

  test("pushes 3 MB in chunks, and dumb HTTP works as well", async () => {
    await git(["-c", `http.proxy=${proxyUrl()}`, "clone", "-q", `http://127.0.0.1:${plain.port}/r.git`, "pushing"]);
    const more = pattern(3 * 1024 * 1024, 22);
    writeFileSync(folder.file("pushing/more"), more);
    await git(["add", "."], folder.file("pushing"));
    await git(["commit", "-q", "-m", "two"], folder.file("pushing"));
    const push = ["-c", `http.proxy=${proxyUrl()}`, "-c", "http.postBuffer=65536", "push", "-q", "origin", "HEAD:main"];
    await git(push, folder.file("pushing"));
    const shown = Bun.spawnSync(["git", "--git-dir", `${root}/r.git`, "show", "main:more"]);
    expect(shaOf(shown.stdout)).toBe(shaOf(more));

    await git(["update-server-info"], `${root}/r.git`);
    const dumb = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      async fetch(request) {
        const file = Bun.file(`${root}${new URL(request.url).pathname}`);
        return (await file.exists()) ? new Response(file) : new Response("no", { status: 404 });
      },
    });
    try {
      await git(["-c", `http.proxy=${proxyUrl()}`, "clone", "-q", `http://127.0.0.1:${dumb.port}/r.git`, "dumb"]);
      expect(shaOf(await Bun.file(folder.file("dumb/more")).bytes())).toBe(shaOf(more));
    } finally {
      await dumb.stop(true);
    }
  });
});

describe.skipIf(!hasSsh())("OpenSSH with seikan as ProxyCommand", () => {
  let sshd: SshServer;
  beforeAll(async () => {
    sshd = await startSshd();
  });
  afterAll(() => sshd[Symbol.asyncDispose]());

  const ssh = (host: string, command: string, stdin?: string | Uint8Array, ...connectArgs: string[]) => {
    const via = connectArgs.length > 0 ? connectArgs : ["--via", proxyUrl()];
    const args = ["ssh", ...sshd.options(...via), "-p", String(sshd.port), `root@${host}`, command];
    return runProgram(args, stdin === undefined ? {} : { stdin });
  };

  test("the remote command's output and exit code come back", async () => {
    expect(await ssh("127.0.0.1", "echo out; echo err >&2; exit 3")).toEqual({
      code: 3,
      stdout: "out\n",
      stderr: "err\n",
    });
    expect((await ssh("127.0.0.1", "true")).code).toBe(0);
    await until(() => targets(proxy).includes(`127.0.0.1:${sshd.port}`), "it went through the proxy and has ended");
  });

  test("IPv6 addresses work as ssh writes them", async () => {
    expect(await ssh("::1", "echo six")).toEqual({ code: 0, stdout: "six\n", stderr: "" });
  });

  test("through SOCKS, and through a chain with a password", async () => {
    expect((await ssh("localhost", "echo x", undefined, "--via", `socks5h://127.0.0.1:${proxy.port}`)).stdout).toBe(
      "x\n",
    );
    const chain = ["--via", proxyUrl(), "--via", `socks5h://ann:secret@127.0.0.1:${guarded.port}`];
    expect((await ssh("127.0.0.1", "echo y", undefined, ...chain)).stdout).toBe("y\n");
  });

  test("a big file by cat arrives whole with stdin closed", async () => {
    const bytes = pattern(20 * 1024 * 1024, 31);
    writeFileSync(sshd.folder.file("big"), bytes);
    const args = ["ssh", ...sshd.options("--via", proxyUrl()), "-p", String(sshd.port), "root@127.0.0.1"];
    await using child = new Process([...args, `cat ${sshd.folder.file("big")}`]);
    child.closeStdin();
    expect(await child.exited(30_000)).toBe(0);
    expect(Bun.hash(child.bytes)).toBe(Bun.hash(bytes));
  });

  test("stdin goes to the remote command, its end included", async () => {
    const bytes = pattern(5 * 1024 * 1024, 32);
    const run = await ssh("127.0.0.1", "sha256sum", bytes);
    expect(run.stdout).toStartWith(shaOf(bytes));
  });

  test("when the target cannot be reached, ssh fails with 255 and our sentence is on the terminal", async () => {
    const args = ["ssh", ...sshd.options("--via", proxyUrl()), "-p", String(freePort()), "root@127.0.0.1", "true"];
    const run = await runProgram(args);
    expect(run.code).toBe(255);
    expect(run.stderr).toContain("502");
    expect(run.stderr).toContain("seikan: error:");
  });
});

describe("programs that know HTTP proxies", () => {
  const body = "<h1>from the origin</h1>";
  let plain: ReturnType<typeof Bun.serve>;
  let secure: ReturnType<typeof Bun.serve>;
  beforeAll(() => {
    const fetch = async (request: Request) =>
      new Response(request.method === "POST" ? `posted ${(await request.text()).length}` : body);
    plain = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch });
    secure = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      tls: { cert: certificate.cert, key: certificate.key },
      fetch,
    });
  });
  afterAll(() => Promise.all([plain.stop(true), secure.stop(true)]));

  test.skipIf(program("wget") === undefined)("wget, http and https, with user and password", async () => {
    const env = { http_proxy: proxyUrl(), https_proxy: proxyUrl() };
    const get = (env: Record<string, string>, ...args: string[]) =>
      runProgram(["wget", "-nv", "-O", "-", ...args], { env });
    expect((await get(env, `http://127.0.0.1:${plain.port}/w`)).stdout).toBe(body);
    const trust = ["--ca-certificate", certificate.certFile];
    expect((await get(env, ...trust, `https://localhost:${secure.port}/w`)).stdout).toBe(body);
    const at = `http://127.0.0.1:${guarded.port}`;
    const known = ["--proxy-user", "ann", "--proxy-password", "secret"];
    expect((await get({ http_proxy: at, https_proxy: at }, ...known, `http://127.0.0.1:${plain.port}/w`)).stdout).toBe(
      body,
    );
    const secret = await get(
      { http_proxy: at, https_proxy: at },
      ...known,
      ...trust,
      `https://localhost:${secure.port}/w`,
    );
    expect(secret.stdout).toBe(body);
    expect((await get({ http_proxy: at }, `http://127.0.0.1:${plain.port}/w`)).code).not.toBe(0);
  });

  test.skipIf(program("python3") === undefined)("Python urllib, GET and POST, http and https", async () => {
    const script = `
import sys, urllib.request
for url in sys.argv[1:]:
    print(urllib.request.urlopen(url).read().decode())
    print(urllib.request.urlopen(url, data=b"x" * 100000).read().decode())
`;
    for (const at of [proxyUrl(), `http://ann:secret@127.0.0.1:${guarded.port}`]) {
      const env = { http_proxy: at, https_proxy: at, SSL_CERT_FILE: certificate.certFile };
      const urls = [`http://127.0.0.1:${plain.port}/p`, `https://localhost:${secure.port}/p`];
      const run = await runProgram(["python3", "-c", script, ...urls], { env });
      expect(run).toEqual({ code: 0, stdout: `${body}\nposted 100000\n`.repeat(2), stderr: "" });
    }
    await until(() => targets(guarded).includes(`localhost:${secure.port}`), "it went through the proxy");
  });

  test.skipIf(program("haproxy") === undefined)("HAProxy in front, with PROXY protocol version 2", async () => {
    using folder = new TempFolder();
    await using behind = await startSeikan(["serve", "-l", "127.0.0.1:0", "--proxy-protocol", "--access-log", "json"]);
    const port = freePort();
    writeFileSync(
      folder.file("haproxy.cfg"),
      `defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
listen front
  bind 127.0.0.1:${port}
  server s 127.0.0.1:${behind.port} send-proxy-v2
`,
    );
    await using haproxy = new Process([program("haproxy")!, "-db", "-f", folder.file("haproxy.cfg")]);
    await accepting(port, haproxy);
    const args = ["curl", "-sS", "--noproxy", "", "--local-port", "20000-60000", "-w", " %{local_port}", "-x"];
    const run = await runProgram([...args, `http://127.0.0.1:${port}`, `http://127.0.0.1:${plain.port}/h`]);
    const [, clientPort] = /^.*> (\d+)$/.exec(run.stdout) ?? [];
    expect(run.stdout).toStartWith(body);
    const peers = () => behind.events().map(({ peer }) => peer);
    await until(() => peers().includes(`127.0.0.1:${clientPort}`), "the client's own port is logged");
  });
});

describe("programs that make tunnels, as clients of serve", () => {
  let origin: RawServer;
  beforeAll(() => {
    origin = new RawServer(echo);
  });
  afterAll(() => origin[Symbol.dispose]());

  const at = () => `127.0.0.1:${proxy.port}`;
  const guardedAt = () => `127.0.0.1:${guarded.port}`;
  const to = () => `127.0.0.1:${origin.port}`;
  const port = () => String(origin.port);

  const clients: [string, string, () => string[]][] = [
    ["ncat", "http", () => ["ncat", "--proxy", at(), "--proxy-type", "http", "127.0.0.1", port()]],
    [
      "ncat",
      "http with a password",
      () => [
        ...["ncat", "--proxy", guardedAt(), "--proxy-type", "http", "--proxy-auth", "ann:secret", "127.0.0.1", port()],
      ],
    ],
    ["ncat", "socks5", () => ["ncat", "--proxy", at(), "--proxy-type", "socks5", "127.0.0.1", port()]],
    [
      "ncat",
      "socks5 with a password",
      () => [
        ...[
          "ncat",
          "--proxy",
          guardedAt(),
          "--proxy-type",
          "socks5",
          "--proxy-auth",
          "ann:secret",
          "127.0.0.1",
          port(),
        ],
      ],
    ],
    ["ncat", "socks4", () => ["ncat", "--proxy", at(), "--proxy-type", "socks4", "127.0.0.1", port()]],
    ["socat", "PROXY", () => ["socat", "-", `PROXY:127.0.0.1:${to()},proxyport=${proxy.port}`]],
    [
      "socat",
      "PROXY with a password",
      () => ["socat", "-", `PROXY:127.0.0.1:${to()},proxyport=${guarded.port},proxyauth=ann:secret`],
    ],
    ["socat", "SOCKS4A", () => ["socat", "-", `SOCKS4A:127.0.0.1:localhost:${port()},socksport=${proxy.port}`]],
    ["proxytunnel", "plain", () => ["proxytunnel", "-q", "-p", at(), "-d", to()]],
    ["proxytunnel", "with a password", () => ["proxytunnel", "-q", "-p", guardedAt(), "-P", "ann:secret", "-d", to()]],
    ["corkscrew", "plain", () => ["corkscrew", "127.0.0.1", String(proxy.port), "127.0.0.1", port()]],
    ["connect-proxy", "http", () => ["connect-proxy", "-H", at(), "127.0.0.1", port()]],
    ["connect-proxy", "socks5", () => ["connect-proxy", "-5", "-S", at(), "127.0.0.1", port()]],
    ["connect-proxy", "socks4", () => ["connect-proxy", "-4", "-S", at(), "127.0.0.1", port()]],
  ];
  for (const [name, how, command] of clients) {
    test.skipIf(program(name) === undefined)(`${name}: ${how}`, async () => {
      const before = origin.accepted.length;
      await using client = new Process(command());
      client.write("first line\n");
      await client.prints("first line\n");
      const bytes = pattern(200_000, 41);
      client.write(bytes);
      await client.receives("first line\n".length + bytes.length);
      expect(Bun.hash(client.bytes.subarray("first line\n".length))).toBe(Bun.hash(bytes));
      expect(origin.accepted).toHaveLength(before + 1);
      client.closeStdin();
      await client.exited();
    });
  }

  test.skipIf(program("corkscrew") === undefined)("corkscrew with its file of user and password", async () => {
    using folder = new TempFolder();
    writeFileSync(folder.file("auth"), "ann:secret\n");
    const args = ["corkscrew", "127.0.0.1", String(guarded.port), "127.0.0.1", port(), folder.file("auth")];
    await using client = new Process(args);
    client.write("hello");
    await client.prints("hello");
  });

  test.skipIf(program("ncat") === undefined)("a wrong password is refused in a way that ncat understands", async () => {
    const args = [
      "ncat",
      "--proxy",
      guardedAt(),
      "--proxy-type",
      "http",
      "--proxy-auth",
      "ann:no",
      "127.0.0.1",
      port(),
    ];
    const run = await runProgram(args, { stdin: "x" });
    expect(run.code).not.toBe(0);
    expect(run.stdout).toBe("");
  });
});
