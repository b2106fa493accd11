import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, writeFileSync } from "node:fs";
import { connect as connectTls } from "node:tls";
import { certificateFor } from "../support/certificates.ts";
import { accepting, freePort, Process, spawnSeikan, TempFolder } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { dialRaw, echo, RawServer } from "../support/raw.ts";
import { COMMAND, runProgram, runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import { pattern, until, within } from "../support/wait.ts";

setDefaultTimeout(30_000);

const noCurl = program("curl") === undefined;

interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: Record<string, string>;
  readonly length: number;
  readonly sha: string;
}

/** An origin that says what it was asked; `/big` answers 3 MB. */
function sayingOrigin(tls?: { cert: string; key: string }) {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 60,
    ...(tls === undefined ? {} : { tls }),
    async fetch(request) {
      const url = new URL(request.url);
      if (url.pathname === "/big") return new Response(BIG);
      const body = new Uint8Array(await request.arrayBuffer());
      const seen: Seen = {
        method: request.method,
        url: url.pathname + url.search,
        headers: Object.fromEntries(request.headers),
        length: body.length,
        sha: shaOf(body),
      };
      return Response.json(seen);
    },
  });
}

const BIG = pattern(3 * 1024 * 1024);
const shaOf = (bytes: Uint8Array) => new Bun.CryptoHasher("sha256").update(bytes).digest("hex");

const curl = (...args: string[]) => runProgram(["curl", "-sS", "--noproxy", "", "--max-time", "20", ...args]);
const seenBy = (text: string) => JSON.parse(text) as Seen;

describe.skipIf(noCurl)("curl through serve", () => {
  const proxyCertificate = certificateFor("localhost", "127.0.0.1");
  let origin: ReturnType<typeof sayingOrigin>;
  let secureOrigin: ReturnType<typeof sayingOrigin>;
  let proxy: Running;
  let guarded: Running;
  let at: string;
  let atSecure: string;

  beforeAll(async () => {
    origin = sayingOrigin();
    secureOrigin = sayingOrigin({ cert: proxyCertificate.cert, key: proxyCertificate.key });
    at = `http://127.0.0.1:${origin.port}`;
    atSecure = `https://localhost:${secureOrigin.port}`;
    const { certFile, keyFile } = proxyCertificate;
    const tls = ["--tls-cert", certFile, "--tls-key", keyFile];
    proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "-l", "https://127.0.0.1:0", ...tls]);
    guarded = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "ann:s3cret:x", "--auth", "bob:other"]);
  });

  afterAll(async () => {
    await Promise.all([proxy[Symbol.asyncDispose](), guarded[Symbol.asyncDispose]()]);
    await Promise.all([origin.stop(true), secureOrigin.stop(true)]);
  });

  const plain = () => `127.0.0.1:${proxy.port}`;
  const secure = () => `localhost:${proxy.listeners[1]!.split(":").at(-1)}`;

  test("an http:// URL is forwarded, path and query byte for byte, without what is between us", async () => {
    const { code, stdout } = await curl(
      ...["-x", `http://${plain()}`, "--path-as-is", "-H", "X-Own: 1", `${at}/a/../b%2f?q=%20a&b`],
    );
    expect(code).toBe(0);
    const seen = seenBy(stdout);
    expect(seen).toMatchObject({ method: "GET", headers: { host: `127.0.0.1:${origin.port}`, "x-own": "1" } });
    expect(seen.headers.via).toMatch(/^1\.1 seikan-[0-9a-f]{8}$/);
    expect(seen.headers["proxy-connection"]).toBeUndefined();
  });

  test("-p tunnels an http:// URL", async () => {
    const { code, stdout } = await curl("-x", `http://${plain()}`, "-p", `${at}/through`);
    expect(code).toBe(0);
    expect(seenBy(stdout)).toMatchObject({ url: "/through" });
    expect(seenBy(stdout).headers.via).toBeUndefined();
  });

  test("an https:// URL goes through CONNECT, big answers whole", async () => {
    using folder = new TempFolder();
    const file = folder.file("big");
    const run = await curl(
      "-x",
      `http://${plain()}`,
      "--cacert",
      proxyCertificate.certFile,
      "-o",
      file,
      `${atSecure}/big`,
    );
    expect(run).toMatchObject({ code: 0, stderr: "" });
    expect(shaOf(await Bun.file(file).bytes())).toBe(shaOf(BIG));
  });

  test("the proxy speaks TLS on an https:// listener, for forwarding and for tunnels in it", async () => {
    const trust = ["--proxy-cacert", proxyCertificate.certFile, "--cacert", proxyCertificate.certFile];
    const forwarded = await curl("-x", `https://${secure()}`, ...trust, `${at}/plain`);
    expect(seenBy(forwarded.stdout).url).toBe("/plain");
    const tunnelled = await curl("-x", `https://${secure()}`, ...trust, `${atSecure}/inner`);
    expect(tunnelled.stderr).toBe("");
    expect(seenBy(tunnelled.stdout).url).toBe("/inner");
  });

  test("without --proxy-cacert curl does not believe the proxy", async () => {
    const { code } = await curl("-x", `https://${secure()}`, `${at}/plain`);
    expect(code).toBe(60);
  });

  for (const scheme of ["socks5", "socks5-hostname", "socks4", "socks4a"]) {
    test(`curl --${scheme}`, async () => {
      const name = scheme === "socks4" ? "127.0.0.1" : "localhost";
      const run = await curl(`--${scheme}`, plain(), `http://${name}:${origin.port}/socks`);
      expect(run).toMatchObject({ code: 0, stderr: "" });
      expect(seenBy(run.stdout).url).toBe("/socks");
    });
  }

  test("HTTP, SOCKS and TLS in SOCKS work on the same port", async () => {
    const { stdout } = await curl(
      ...["-x", `socks5h://${plain()}`, "--cacert", proxyCertificate.certFile, `${atSecure}/tls-in-socks`],
    );
    expect(seenBy(stdout).url).toBe("/tls-in-socks");
  });

  test("the right user and password are let through, with a colon in the password, and not sent on", async () => {
    const { stdout } = await curl("-x", `http://127.0.0.1:${guarded.port}`, "-U", "ann:s3cret:x", `${at}/let-in`);
    expect(seenBy(stdout).url).toBe("/let-in");
    expect(seenBy(stdout).headers["proxy-authorization"]).toBeUndefined();
  });

  test("--proxy-anyauth finds Basic among the offers", async () => {
    const args = ["-x", `http://127.0.0.1:${guarded.port}`, "-U", "bob:other", "--proxy-anyauth"];
    const { stdout } = await curl(...args, `${at}/any`);
    expect(seenBy(stdout).url).toBe("/any");
    const tunnelled = await curl(...args, "-p", `${at}/any-tunnel`);
    expect(seenBy(tunnelled.stdout).url).toBe("/any-tunnel");
  });

  test("a wrong, a foreign and no password are answered 407, forwarded and tunnelled", async () => {
    for (const user of [["-U", "ann:wrong"], ["-U", "nobody:s3cret:x"], []]) {
      const args = [
        "-x",
        `http://127.0.0.1:${guarded.port}`,
        ...user,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{http_connect}",
      ];
      const forwarded = await curl(...args, `${at}/no`);
      expect(forwarded.stdout).toBe("407 000");
      const tunnelled = await curl(...args, "-p", `${at}/no`);
      expect(tunnelled.stdout).toBe("000 407");
      expect(tunnelled.code).toBe(56);
    }
  });

  test("a SOCKS5 client authenticates or is refused", async () => {
    const good = await curl("-x", `socks5h://ann:s3cret%3Ax@127.0.0.1:${guarded.port}`, `${at}/socks-user`);
    expect(seenBy(good.stdout).url).toBe("/socks-user");
    const bad = await curl("-x", `socks5h://ann:no@127.0.0.1:${guarded.port}`, `${at}/socks-user`);
    expect(bad.code).toBe(97);
    const none = await curl("-x", `socks5h://127.0.0.1:${guarded.port}`, `${at}/socks-user`);
    expect(none.code).toBe(97);
    const four = await curl("-x", `socks4a://ann@127.0.0.1:${guarded.port}`, `${at}/socks-user`);
    expect(four.code).toBe(97);
  });

  test("an upload waits for 100 Continue and arrives whole", async () => {
    using folder = new TempFolder();
    const file = folder.file("upload");
    writeFileSync(file, BIG);
    const { code, stdout, stderr } = await curl(
      ...["-x", `http://${plain()}`, "-v", "-T", file, "-H", "Expect: 100-continue", "--expect100-timeout", "15"],
      `${at}/upload`,
    );
    expect(code).toBe(0);
    expect(stderr).toContain("< HTTP/1.1 100 Continue");
    expect(seenBy(stdout)).toMatchObject({ method: "PUT", length: BIG.length, sha: shaOf(BIG) });
  });

  test("an upload of unknown length goes on in chunks", async () => {
    const run = await runProgram(
      ["curl", "-sS", "--noproxy", "", "-x", `http://${plain()}`, "-T", "-", `${at}/chunks`],
      { stdin: BIG },
    );
    expect(seenBy(run.stdout)).toMatchObject({ method: "PUT", length: BIG.length, sha: shaOf(BIG) });
    expect(seenBy(run.stdout).headers["transfer-encoding"]).toBe("chunked");
  });

  test("HTTP/1.0 clients are served and closed", async () => {
    const args = ["-x", `http://${plain()}`, "-0", "-H", "Proxy-Connection:", "-i"];
    const { stdout, code } = await curl(...args, `${at}/old`);
    expect(code).toBe(0);
    expect(stdout).toContain("Connection: close\r\n");
    expect(stdout.toLowerCase()).not.toContain("transfer-encoding");
    expect(seenBy(stdout.slice(stdout.indexOf("\r\n\r\n"))).url).toBe("/old");
  });

  test("HEAD answers the length and no body", async () => {
    const { stdout, code } = await curl("-x", `http://${plain()}`, "-I", `${at}/big`);
    expect(code).toBe(0);
    expect(stdout.toLowerCase()).toContain(`content-length: ${BIG.length}\r\n`);
    expect(stdout.slice(stdout.indexOf("\r\n\r\n"))).toBe("\r\n\r\n");
  });

  test("two URLs of one curl share its connection", async () => {
    const { stdout, stderr } = await curl("-v", "-x", `http://${plain()}`, `${at}/one`, `${at}/two`);
    expect(stdout).toContain('"/one"');
    expect(stdout).toContain('"/two"');
    expect(stderr).toMatch(/Re-using existing connection/);
    expect(stderr.match(/Connected to/g)).toHaveLength(1);
  });

  test("every method that HTTP has goes through with its body", async () => {
    for (const method of ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
      const { stdout } = await curl("-x", `http://${plain()}`, "-X", method, "-d", "body", `${at}/m`);
      expect(seenBy(stdout)).toMatchObject({ method, length: 4 });
    }
  });

  test("the healthz path and the page that is none", async () => {
    const health = await curl("-i", `http://${plain()}/-/healthz`);
    expect(health.stdout).toStartWith("HTTP/1.1 200 OK\r\n");
    expect(health.stdout).toEndWith("\r\n\r\nok\n");
    const page = await curl("-i", `http://${plain()}/index.html`);
    expect(page.stdout).toStartWith("HTTP/1.1 404 Not Found\r\n");
    expect(page.stdout).toContain("curl -x");
    const guardedHealth = await curl("-i", `http://127.0.0.1:${guarded.port}/-/healthz`);
    expect(guardedHealth.stdout).toStartWith("HTTP/1.1 200 OK\r\n");
  });

  test("curl --haproxy-protocol: the address in the PROXY header is the client's", async () => {
    await using behind = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--proxy-protocol", "--access-log", "json", "--allow-net=127.0.0.0/8"],
    ]);
    const { stdout } = await curl("--haproxy-protocol", "-x", `http://127.0.0.1:${behind.port}`, `${at}/behind`);
    expect(seenBy(stdout).url).toBe("/behind");

    using raw = await dialRaw(behind.port);
    const request = `GET ${at}/raw HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
    raw.send(`PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n${request}`);
    // Whoever comes from elsewhere must authenticate, however near the load balancer is.
    expect((await raw.response()).status).toBe(403);
    await until(() => behind.events().some((event) => event.peer === "198.51.100.7:4711"), "the real peer is logged");
  });

  test("with --proxy-protocol a connection without PROXY header is closed unanswered", async () => {
    await using behind = await startSeikan(["serve", "-l", "127.0.0.1:0", "--proxy-protocol"]);
    using raw = await dialRaw(behind.port);
    raw.send(`GET ${at}/raw HTTP/1.1\r\nHost: x\r\n\r\n`);
    await raw.over();
    expect(raw.text).toBe("");
  });

  test("a unix listener serves SOCKS and HTTP, and its file goes at exit", async () => {
    using folder = new TempFolder();
    const path = folder.file("proxy.sock");
    await using unix = await startSeikan(["serve", "-l", `unix:${path}`]);
    expect(unix.listeners).toEqual([`unix:${path}`]);
    const { stdout } = await curl("-x", `socks5h://localhost${path}`, `${at}/unix`);
    expect(seenBy(stdout).url).toBe("/unix");
    using raw = await dialRaw({ unix: path });
    raw.send(`GET ${at}/raw HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    expect((await raw.response()).status).toBe(200);
    unix.kill("SIGTERM");
    expect(await within(unix.exited, "the end")).toBe(0);
    expect(folder.names).toEqual([]);
  });

  test("a unix socket file that nobody listens on is replaced, one in use is an error", async () => {
    using folder = new TempFolder();
    const path = folder.file("proxy.sock");
    {
      await using first = await startSeikan(["serve", "-l", `unix:${path}`]);
      const second = await runSeikan(["serve", "-l", `unix:${path}`]);
      expect(second.code).toBe(2);
      expect(second.stderr).toContain(path);
      using still = await dialRaw({ unix: path });
      still.send("GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
      expect((await still.response()).body).toBe("ok\n");
      first.kill("SIGKILL");
      await first.exited;
    }
    expect(folder.names).toEqual(["proxy.sock"]);
    await using third = await startSeikan(["serve", "-l", `unix:${path}`]);
    expect(third.listeners).toEqual([`unix:${path}`]);
  });
});

// --- who may do what ------------------------------------------------------------

const connectHead = (target: string, ...fields: string[]) =>
  `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${fields.map((field) => `${field}\r\n`).join("")}\r\n`;
const basic = (user: string) => `Proxy-Authorization: Basic ${Buffer.from(user).toString("base64")}`;

async function askConnect(
  port: number,
  target: string,
  ...fields: string[]
): Promise<{ status: number; body: string }> {
  using client = await dialRaw(port);
  client.send(connectHead(target, ...fields));
  const { status, body } = await client.response("CONNECT");
  return { status, body };
}

describe("what serve lets its clients reach", () => {
  test("it refuses to be an open proxy, and says what to do", async () => {
    for (const listen of ["0.0.0.0:0", "[::]:0", "*:0"]) {
      const { code, stderr, stdout } = await runSeikan(["serve", "-l", listen]);
      expect(code).toBe(2);
      expect(stdout).toBe("");
      expect(stderr).toContain("open proxy");
      expect(stderr).toContain("--auth-file");
      expect(stderr).toContain("--no-auth");
    }
  });

  test("one exposed listener among others is enough to refuse", async () => {
    const { code } = await runSeikan(["serve", "-l", "127.0.0.1:0", "-l", "0.0.0.0:0"]);
    expect(code).toBe(2);
  });

  test("--no-auth and --auth start an exposed server", async () => {
    await using open = await startSeikan(["serve", "-l", "0.0.0.0:0", "--no-auth"]);
    expect(open.listeners[0]).toMatch(/^0\.0\.0\.0:\d+$/);
    await using guarded = await startSeikan(["serve", "-l", "0.0.0.0:0", "--auth", "a:b"]);
    expect((await askConnect(guarded.port, "127.0.0.1:1")).status).toBe(407);
  });

  test("an exposed server dials public addresses only, in whatever way loopback is spelt", async () => {
    using origin = new RawServer(echo);
    await using server = await startSeikan(["serve", "-l", "0.0.0.0:0", "--auth", "a:b"]);
    const spellings = [
      ...["127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "017700000001"],
      ...["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"],
      ...["localhost", "LOCALHOST", "localhost.", "0.0.0.0", "0", "[::]", "[::ffff:0:0]", "127.255.255.254"],
      ...["10.0.0.1", "169.254.169.254", "192.168.0.1", "100.64.0.1", "[fe80::1]", "[fd00::1]", "[2002:7f00:1::1]"],
    ];
    const statuses: Record<string, number> = {};
    for (const host of spellings) {
      statuses[host] = (await askConnect(server.port, `${host}:${origin.port}`, basic("a:b"))).status;
    }
    expect(statuses).toEqual(Object.fromEntries(spellings.map((host) => [host, 403])));
    expect(origin.accepted).toHaveLength(0);
  });

  test("the same goes for forwarding and SOCKS", async () => {
    using origin = new RawServer(echo);
    await using server = await startSeikan(["serve", "-l", "0.0.0.0:0", "--auth", "a:b"]);
    using forward = await dialRaw(server.port);
    forward.send(`GET http://127.1:${origin.port}/ HTTP/1.1\r\nHost: x\r\n${basic("a:b")}\r\n\r\n`);
    const answer = await forward.response();
    expect(answer.status).toBe(403);
    expect(answer.values("proxy-status")[0]).toContain("destination_ip_prohibited");
    using socks = await dialRaw(server.port);
    socks.send(Uint8Array.of(5, 1, 2));
    await socks.receives(2);
    socks.send(Uint8Array.of(1, 1, 0x61, 1, 0x62));
    await socks.receives(4);
    socks.send(Uint8Array.of(5, 1, 0, 1, 127, 0, 0, 1, origin.port >> 8, origin.port & 255));
    const bytes = await socks.receives(6);
    expect([...bytes.subarray(4, 6)]).toEqual([5, 2]);
    expect(origin.accepted).toHaveLength(0);
  });

  test("--allow-net with a network or an exact name reaches private addresses, a wildcard does not", async () => {
    using origin = new RawServer(echo);
    const at = (rule: string) => startSeikan(["serve", "-l", "0.0.0.0:0", "--auth", "a:b", `--allow-net=${rule}`]);
    const ask = async (rule: string, host: string) => {
      await using server = await at(rule);
      return (await askConnect(server.port, `${host}:${origin.port}`, basic("a:b"))).status;
    };
    expect(await ask("127.0.0.0/8", "127.0.0.1")).toBe(200);
    expect(await ask("127.0.0.1", "0x7f.1")).toBe(200);
    expect(await ask("localhost", "localhost")).toBe(200);
    expect(await ask(`localhost:${origin.port}`, "localhost")).toBe(200);
    expect(await ask("localhost:1", "localhost")).toBe(403);
    expect(await ask("10.0.0.0/8", "127.0.0.1")).toBe(403);
  });

  test("--allow-net without a list lets an exposed server dial anything", async () => {
    using origin = new RawServer(echo);
    await using server = await startSeikan(["serve", "-l", "0.0.0.0:0", "--auth", "a:b", "--allow-net"]);
    expect((await askConnect(server.port, `127.0.0.1:${origin.port}`, basic("a:b"))).status).toBe(200);
  });

  test("--deny-net wins over --allow-net, by name and by address", async () => {
    using origin = new RawServer(echo);
    const args = ["serve", "-l", "127.0.0.1:0", "--allow-net"];
    await using byAddress = await startSeikan([...args, "--deny-net", "127.0.0.0/8"]);
    for (const host of ["127.0.0.1", "2130706433", "localhost", "[::ffff:127.0.0.1]"]) {
      const { status, body } = await askConnect(byAddress.port, `${host}:${origin.port}`);
      expect(status).toBe(403);
      expect(body).toContain("--deny-net");
    }
    await using byName = await startSeikan([...args, "--deny-net", "localhost,example.com"]);
    expect((await askConnect(byName.port, `LocalHost.:${origin.port}`)).status).toBe(403);
    expect((await askConnect(byName.port, `127.0.0.1:${origin.port}`)).status).toBe(200);
  });

  test("a port alone is a pattern: denied it wins, granted it does not reach private addresses", async () => {
    using origin = new RawServer(echo);
    const rule = `:${origin.port}`;
    await using denying = await startSeikan(["serve", "-l", "127.0.0.1:0", "--allow-net", "--deny-net", rule]);
    expect((await askConnect(denying.port, `127.0.0.1:${origin.port}`)).status).toBe(403);
    const exposed = ["serve", "-l", "0.0.0.0:0", "--auth", "a:b", `--allow-net=${rule}`];
    await using granting = await startSeikan(exposed);
    expect((await askConnect(granting.port, `127.0.0.1:${origin.port}`, basic("a:b"))).status).toBe(403);
  });

  test("a name of the letters a to f with a port is a pattern", async () => {
    const { code, stderr } = await runSeikan(["connect", "db:5432", "--dry-run", "--route", "db:5432=http://p.test:1"]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
  });

  test("its own listener is never reachable through it", async () => {
    await using server = await startSeikan(["serve", "-l", "127.0.0.1:0", "--allow-net"]);
    for (const host of ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"]) {
      const { status, body } = await askConnect(server.port, `${host}:${server.port}`);
      expect({ host, status }).toEqual({ host, status: 403 });
      expect(body).toContain("this server itself");
    }
    using forward = await dialRaw(server.port);
    forward.send(`GET http://127.0.0.1:${server.port}/-/healthz HTTP/1.1\r\nHost: x\r\n\r\n`);
    expect((await forward.response()).status).toBe(403);
  });

  test("a listener on every address is not reachable by any of them, also with --allow-net", async () => {
    await using server = await startSeikan(["serve", "-l", "0.0.0.0:0", "--no-auth", "--allow-net"]);
    for (const host of ["127.0.0.1", "127.0.0.2", "localhost", "0.0.0.0"]) {
      const { status } = await askConnect(server.port, `${host}:${server.port}`);
      expect({ host, status }).toEqual({ host, status: 403 });
    }
  });

  test("a request that came through another proxy to a loopback listener counts as from outside", async () => {
    using origin = new RawServer(echo);
    await using server = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    const target = `127.0.0.1:${origin.port}`;
    expect((await askConnect(server.port, target)).status).toBe(200);
    for (const field of [
      "X-Forwarded-For: 192.0.2.1",
      "Forwarded: for=192.0.2.1",
      "Via: 1.1 nginx",
      "x-forwarded-proto: https",
    ]) {
      expect((await askConnect(server.port, target, field)).status).toBe(403);
    }
    expect(origin.accepted).toHaveLength(1);
  });

  // contract.md, "Who may do what": a listener is exposed when --trusted-proxy is set.
  test("--trusted-proxy means to be reached from outside, so it needs users as well", async () => {
    const args = [
      "serve",
      "-l",
      "127.0.0.1:0",
      "--proxy-protocol",
      "--trusted-proxy",
      "192.0.2.0/24",
      "--timeout",
      "2s",
    ];
    const { code, stderr } = await runSeikan(args);
    expect(code).toBe(2);
    expect(stderr).toContain("open proxy");
  });
});

/** Its event loop has turned: from then on signals are sure to be noticed. */
async function awake(server: Running): Promise<void> {
  using client = await dialRaw(server.port);
  client.send("GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await client.response();
}

// --- users ----------------------------------------------------------------------

describe.skipIf(program("htpasswd") === undefined)("the user file", () => {
  const hashed = async (user: string, password: string) =>
    (await runProgram(["htpasswd", "-nbB", "-C", "5", user, password])).stdout.trim();

  const status = async (port: number, user: string, target: string) =>
    (await askConnect(port, target, basic(user))).status;

  test("bcrypt hashes by htpasswd are believed; a change is noticed, and SIGHUP reads it at once", async () => {
    using folder = new TempFolder();
    using origin = new RawServer(echo);
    const file = folder.file("users");
    const target = `127.0.0.1:${origin.port}`;
    writeFileSync(file, `# people\n${await hashed("ann", "first")}\n\n`);
    await using server = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth-file", file, "--auth", "root:too"]);
    expect(await status(server.port, "ann:first", target)).toBe(200);
    expect(await status(server.port, "root:too", target)).toBe(200);
    expect(await status(server.port, "ann:second", target)).toBe(407);

    writeFileSync(file, `${await hashed("ann", "second")}\n`);
    await until(() => server.stderr().includes(" changed"), "the change is noticed");
    expect(await status(server.port, "ann:second", target)).toBe(200);
    expect(await status(server.port, "ann:first", target)).toBe(407);
    expect(await status(server.port, "root:too", target)).toBe(200);

    writeFileSync(file, `${await hashed("bea", "third")}\n`);
    server.kill("SIGHUP");
    await until(() => server.stderr().includes("info reloaded\n"), "SIGHUP reloads");
    expect(await status(server.port, "bea:third", target)).toBe(200);
    expect(await status(server.port, "ann:second", target)).toBe(407);
  });

  test("a broken user file leaves the old users in place and says so", async () => {
    using folder = new TempFolder();
    using origin = new RawServer(echo);
    const file = folder.file("users");
    writeFileSync(file, await hashed("ann", "first"));
    await using server = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth-file", file]);
    await awake(server);
    writeFileSync(file, "ann:{SHA}C+7Hteo/D9vJXQ3UfzxbwnXaijM=\n");
    server.kill("SIGHUP");
    await until(() => server.stderr().includes("cannot reload, everything stays as it was"), "it complains");
    expect(await status(server.port, "ann:first", `127.0.0.1:${origin.port}`)).toBe(200);
  });

  test("a user file that cannot be used at start is a usage error", async () => {
    using folder = new TempFolder();
    const missing = await runSeikan(["serve", "-l", "127.0.0.1:0", "--auth-file", folder.file("none")]);
    expect(missing.code).toBe(2);
    expect(missing.stderr).toContain("ENOENT");
    writeFileSync(folder.file("md5"), "ann:$apr1$x$secret-hash\n");
    const weak = await runSeikan(["serve", "-l", "127.0.0.1:0", "--auth-file", folder.file("md5")]);
    expect(weak.code).toBe(2);
    expect(weak.stderr).toContain("line 1 of the user file");
    expect(weak.stderr).not.toContain("secret-hash");
  });
});

// --- TLS ------------------------------------------------------------------------

/** The common name of the certificate a server shows for this name. */
function shownName(port: number, servername: string, ms?: number): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connectTls({ host: "127.0.0.1", port, servername, rejectUnauthorized: false }, () => {
    resolve(String(socket.getPeerCertificate().subject.CN));
    socket.destroy();
  });
  socket.on("error", reject);
  return within(promise, `a handshake for ${servername}`, ms);
}

describe("https:// listeners", () => {
  test("several certificates are chosen by server name, and taken anew on SIGHUP and on change", async () => {
    using folder = new TempFolder();
    const put = (slot: string, name: string) => {
      const made = certificateFor(name);
      copyFileSync(made.certFile, folder.file(`${slot}.pem`));
      copyFileSync(made.keyFile, folder.file(`${slot}.key`));
    };
    put("a", "a.test");
    put("b", "*.b.test");
    const files = ["a", "b"].flatMap((slot) => [
      ...["--tls-cert", folder.file(`${slot}.pem`), "--tls-key", folder.file(`${slot}.key`)],
    ]);
    await using server = await startSeikan(["serve", "-l", "https://127.0.0.1:0", ...files]);
    expect(server.urls[0]).toBe(`https://127.0.0.1:${server.port}`);
    await shownName(server.port, "a.test", 1000).catch(() => {});
    expect(await shownName(server.port, "a.test")).toBe("a.test");
    expect(await shownName(server.port, "x.b.test")).toBe("*.b.test");
    expect(await shownName(server.port, "unknown.test")).toBe("a.test");

    put("b", "c.test");
    server.kill("SIGHUP");
    await until(() => server.stderr().includes("info reloaded\n"), "SIGHUP reloads");
    expect(await shownName(server.port, "c.test")).toBe("c.test");
    expect(await shownName(server.port, "x.b.test")).toBe("a.test");

    put("b", "d.test");
    await until(() => server.stderr().includes(" changed"), "the change is noticed");
    expect(await shownName(server.port, "d.test")).toBe("d.test");
  });

  test("the very first client of several certificates is served like the others", async () => {
    const [first, second] = [certificateFor("a.test"), certificateFor("c.test")];
    const files = [first, second].flatMap((made) => ["--tls-cert", made.certFile, "--tls-key", made.keyFile]);
    await using server = await startSeikan(["serve", "-l", "https://127.0.0.1:0", ...files]);
    expect(await shownName(server.port, "c.test", 2000)).toBe("c.test");
  });

  test("a reload with a key that does not fit keeps the old certificate", async () => {
    using folder = new TempFolder();
    const [first, second] = [certificateFor("a.test"), certificateFor("c.test")];
    copyFileSync(first.certFile, folder.file("cert"));
    copyFileSync(first.keyFile, folder.file("key"));
    const files = ["--tls-cert", folder.file("cert"), "--tls-key", folder.file("key")];
    await using server = await startSeikan(["serve", "-l", "https://127.0.0.1:0", ...files]);
    expect(await shownName(server.port, "a.test")).toBe("a.test");
    copyFileSync(second.certFile, folder.file("cert"));
    server.kill("SIGHUP");
    await until(() => server.stderr().includes("cannot reload, everything stays as it was"), "it complains");
    expect(await shownName(server.port, "a.test")).toBe("a.test");
  });

  test("a tunnel that runs survives a reload", async () => {
    using origin = new RawServer(echo);
    await using server = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    using client = await dialRaw(server.port);
    client.send(connectHead(`127.0.0.1:${origin.port}`));
    await client.response("CONNECT");
    server.kill("SIGHUP");
    await until(() => server.stderr().includes("reloaded"), "SIGHUP reloads");
    client.send("still here");
    await client.sees("still here");
  });

  test("wrong pairs and a missing certificate are usage errors", async () => {
    const [first, second] = [certificateFor("a.test"), certificateFor("c.test")];
    const cases: [string[], string][] = [
      [["-l", "https://127.0.0.1:0"], "--tls-cert"],
      [["-l", "https://127.0.0.1:0", "--tls-cert", first.certFile], "pairs"],
      [["-l", "https://127.0.0.1:0", "--tls-cert", first.certFile, "--tls-key", second.keyFile], "is not the key of"],
      [["-l", "127.0.0.1:0", "--tls-cert", first.certFile, "--tls-key", first.keyFile], "no listener speaks TLS"],
      [["-l", "https://127.0.0.1:0", "--tls-cert", first.keyFile, "--tls-key", first.keyFile], "no PEM certificate"],
    ];
    for (const [args, sentence] of cases) {
      const { code, stderr } = await runSeikan(["serve", ...args]);
      expect({ args, code }).toEqual({ args, code: 2 });
      expect(stderr).toContain(sentence);
    }
  });

  test.skipIf(noCurl)("with --tls-client-ca only clients that show a certificate of it get in", async () => {
    const server = certificateFor("localhost");
    const friend = certificateFor("friend.test");
    const stranger = certificateFor("stranger.test");
    await using proxy = await startSeikan([
      ...["serve", "-l", "https://127.0.0.1:0", "--tls-cert", server.certFile, "--tls-key", server.keyFile],
      ...["--tls-client-ca", friend.certFile],
    ]);
    const url = `https://localhost:${proxy.port}/-/healthz`;
    const get = (...args: string[]) => curl("--cacert", server.certFile, ...args, url);
    const shown = await get("--cert", friend.certFile, "--key", friend.keyFile);
    expect(shown).toMatchObject({ code: 0, stdout: "ok\n" });
    expect((await get()).code).not.toBe(0);
    const other = await get("--cert", stranger.certFile, "--key", stranger.keyFile);
    expect(other.code).not.toBe(0);
    expect(other.stdout).toBe("");
  });

  test("plain HTTP on a TLS listener and TLS on a plain one are told apart from silence", async () => {
    const { certFile, keyFile } = certificateFor("localhost");
    await using proxy = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "-l", "https://127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile],
    ]);
    using tlsOnPlain = await dialRaw(proxy.port);
    tlsOnPlain.send(Uint8Array.of(0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0));
    expect((await tlsOnPlain.response()).status).toBe(400);
    using plainOnTls = await dialRaw(Number(proxy.listeners[1]!.split(":").at(-1)));
    plainOnTls.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    await plainOnTls.over();
    expect(plainOnTls.text).not.toContain("HTTP/1.1 200");
  });
});

// --- ways -----------------------------------------------------------------------

describe("the way onwards", () => {
  test("--via sends everything through a chain, each proxy with its own credentials only", async () => {
    using origin = new RawServer();
    await using far = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "far:2", "--access-log", "json"]);
    await using near = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "near:1", "--access-log", "json"]);
    const hops = ["--via", `http://near:1@127.0.0.1:${near.port}`, "--via", `socks5h://far:2@127.0.0.1:${far.port}`];
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", ...hops, "--access-log", "json"]);

    using tunnel = await dialRaw(proxy.port);
    tunnel.send(connectHead(`127.0.0.1:${origin.port}`));
    expect((await tunnel.response("CONNECT")).status).toBe(200);
    const inner = await origin.next();
    tunnel.send("ping").end();
    expect(await inner.receivesEnd()).toBe("ping");
    inner.send("pong").end();
    await tunnel.receivesEnd();
    const logged = () => proxy.events().find((event) => event.event === "tunnel");
    await until(() => logged() !== undefined, "the tunnel is logged");
    expect(logged()).toMatchObject({
      target: `127.0.0.1:${origin.port}`,
      route: `http://***@127.0.0.1:${near.port} socks5h://***@127.0.0.1:${far.port}`,
      status: 200,
      up: 4,
      down: 4,
    });
    await until(() => near.events().some(({ target }) => target === `127.0.0.1:${far.port}`), "the near one logs it");
    expect(near.events().find(({ event }) => event === "tunnel")).toMatchObject({ user: "near" });
    expect(far.events().find(({ event }) => event === "tunnel")).toMatchObject({ user: "far", method: "SOCKS5" });

    using forward = await dialRaw(proxy.port);
    forward.send(`GET http://127.0.0.1:${origin.port}/over HTTP/1.1\r\nHost: x\r\n\r\n`);
    const asked = await origin.next();
    expect(await asked.sees("\r\n\r\n")).toStartWith("GET /over HTTP/1.1\r\n");
    expect(asked.text).not.toContain("Authorization");
  });

  test("a hop that refuses is told to the client with its reason", async () => {
    await using hop = await startSeikan(["serve", "-l", "127.0.0.1:0", "--deny-net", "127.0.0.0/8"]);
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--via", `http://127.0.0.1:${hop.port}`]);
    const { status, body } = await askConnect(proxy.port, "127.0.0.1:9");
    expect(status).toBe(502);
    expect(body).toContain("403");
    expect(body).toContain("--deny-net forbids it");
  });

  test("--route sends some targets elsewhere; the most specific one wins, then the first", async () => {
    using origin = new RawServer(echo);
    await using hop = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]);
    const dead = `http://127.0.0.1:${freePort()}`;
    await using proxy = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--via", dead, "--access-log", "json"],
      ...["--route", "127.0.0.0/8=direct", "--route", `*.hop.test=${dead}`],
      ...["--route", `one.hop.test=http://127.0.0.1:${hop.port}`, "--route", "one.hop.test=direct"],
    ]);
    expect((await askConnect(proxy.port, `127.0.0.1:${origin.port}`)).status).toBe(200);
    expect((await askConnect(proxy.port, "elsewhere.test:1")).status).toBe(502);
    expect((await askConnect(proxy.port, "two.hop.test:1")).status).toBe(502);
    await askConnect(proxy.port, "one.hop.test:1");
    await until(() => proxy.events().filter(({ event }) => event === "tunnel").length === 4, "all are logged");
    const routes = Object.fromEntries(proxy.events().map(({ target, route }) => [target, route]));
    expect(routes).toMatchObject({
      [`127.0.0.1:${origin.port}`]: "direct",
      "elsewhere.test:1": dead,
      "two.hop.test:1": dead,
      "one.hop.test:1": `http://127.0.0.1:${hop.port}`,
    });
    expect(hop.events().map(({ target }) => target)).toContain("one.hop.test:1");
  });

  test("an exposed server that leaves names to a later hop needs --allow-net for them", async () => {
    await using hop = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    const args = ["serve", "-l", "0.0.0.0:0", "--auth", "a:b", "--via", `http://127.0.0.1:${hop.port}`];
    await using unnamed = await startSeikan(args);
    expect((await askConnect(unnamed.port, "some.test:1", basic("a:b"))).status).toBe(403);
    await using named = await startSeikan([...args, "--allow-net=*.test"]);
    expect((await askConnect(named.port, "some.test:1", basic("a:b"))).status).toBe(502);
    await using denied = await startSeikan([...args, "--allow-net=*.test", "--deny-net", "10.0.0.0/8"]);
    expect((await askConnect(denied.port, "some.test:1", basic("a:b"))).status).toBe(403);
  });

  test("the proxy environment is not asked by serve", async () => {
    using origin = new RawServer(echo);
    const env = { HTTPS_PROXY: `http://127.0.0.1:${freePort()}`, ALL_PROXY: `http://127.0.0.1:${freePort()}` };
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0"], env);
    expect((await askConnect(proxy.port, `127.0.0.1:${origin.port}`)).status).toBe(200);
  });
});

// --- the access log -------------------------------------------------------------

describe("the access log", () => {
  const secrets = ["s3cret", Buffer.from("ann:s3cret").toString("base64"), "token=t0p"];

  /** A forwarded request, a tunnel, a SOCKS name full of control characters, and a refusal. */
  async function traffic(port: number, origin: RawServer): Promise<void> {
    using forward = await dialRaw(port);
    forward.send(
      `GET http://127.0.0.1:${origin.port}/page?token=t0p HTTP/1.1\r\nHost: x\r\n${basic("ann:s3cret")}\r\n\r\n`,
    );
    const asked = await origin.next();
    await asked.sees("\r\n\r\n");
    asked.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    await forward.response();
    using tunnel = await dialRaw(port);
    tunnel.send(connectHead(`127.0.0.1:${origin.port}`, basic("ann:s3cret")));
    await tunnel.response("CONNECT");
    const inner = await origin.next();
    inner.end();
    tunnel.end();
    await tunnel.receivesEnd();
    using refused = await dialRaw(port);
    refused.send(connectHead("127.0.0.1:1", basic("ann:wr0ng")));
    await refused.response("CONNECT");
  }

  test("json: one object a line on stdout, without credentials and queries", async () => {
    using origin = new RawServer();
    await using proxy = await startSeikan([
      "serve",
      "-l",
      "127.0.0.1:0",
      "--auth",
      "ann:s3cret",
      "--access-log",
      "json",
    ]);
    await traffic(proxy.port, origin);
    const entries = () => proxy.events().filter(({ event }) => event !== "ready");
    await until(() => entries().length >= 3, "everything is logged");
    expect(entries()).toHaveLength(3);
    const [request, tunnel, refused] = entries();
    expect(request).toMatchObject({
      event: "request",
      method: "GET",
      target: `http://127.0.0.1:${origin.port}/page`,
      status: 200,
      user: "ann",
      route: "direct",
      up: 0,
      down: 2,
    });
    expect(request!.time).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    expect(request!.peer).toMatch(/^127\.0\.0\.1:\d+$/);
    expect(request!.ms).toBeGreaterThanOrEqual(0);
    expect(tunnel).toMatchObject({ event: "tunnel", method: "CONNECT", status: 200, user: "ann" });
    expect(refused).toMatchObject({ method: "CONNECT", status: 407, end: "auth-required" });
    for (const secret of [...secrets, "wr0ng"]) {
      expect(JSON.stringify(proxy.events()) + proxy.stderr()).not.toContain(secret);
    }
  });

  test("pretty: one line each on stderr, stdout stays empty", async () => {
    using origin = new RawServer();
    await using proxy = spawnSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "ann:s3cret"]);
    await proxy.says("try: ");
    const port = Number(/listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(proxy.stderr)![1]);
    const before = proxy.stderr.split("\n").length;
    await traffic(port, origin);
    await proxy.says(" 407 ");
    const lines = proxy.stderr
      .trimEnd()
      .split("\n")
      .slice(before - 1);
    expect(lines).toHaveLength(3);
    expect(lines[0]).toContain(`GET http://127.0.0.1:${origin.port}/page 200 `);
    expect(lines[1]).toContain(`CONNECT 127.0.0.1:${origin.port} 200 `);
    expect(lines[2]).toContain("CONNECT 127.0.0.1:1 407 ");
    expect(proxy.stdout).toBe("");
    for (const secret of [...secrets, "wr0ng"]) expect(proxy.stderr).not.toContain(secret);
  });

  test("off: nothing about connections", async () => {
    using origin = new RawServer();
    await using proxy = await startSeikan([
      "serve",
      "-l",
      "127.0.0.1:0",
      "--auth",
      "ann:s3cret",
      "--access-log",
      "off",
    ]);
    await traffic(proxy.port, origin);
    proxy.kill("SIGTERM");
    await proxy.exited;
    expect(proxy.events()).toHaveLength(1);
    expect(proxy.stderr()).not.toContain("CONNECT");
    expect(proxy.stderr()).not.toContain("GET");
  });

  test("--log-query keeps the query", async () => {
    using origin = new RawServer();
    await using proxy = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--auth", "ann:s3cret", "--access-log", "json", "--log-query"],
    ]);
    await traffic(proxy.port, origin);
    await until(() => proxy.events().length > 1, "the request is logged");
    expect(proxy.events()[1]!.target).toBe(`http://127.0.0.1:${origin.port}/page?token=t0p`);
  });

  for (const style of ["json", "pretty"]) {
    test(`${style}: control characters that peers send are escaped`, async () => {
      await using proxy = spawnSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", style, "--log-level", "debug"]);
      await proxy.says("listening on");
      const port = Number(/listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(proxy.stderr)![1]);
      const nasty = "evil\x1b[31m\r\nFAKE LINE\x07\x00\x9b";
      using socks = await dialRaw(port);
      socks.send(Uint8Array.of(5, 1, 0));
      await socks.receives(2);
      socks.send(
        Buffer.concat([Uint8Array.of(5, 1, 0, 3, nasty.length), Buffer.from(nasty, "latin1"), Uint8Array.of(0, 80)]),
      );
      await socks.over();
      using http = await dialRaw(port);
      http.send(`GET http://127.0.0.1:1/\x9b31m\xc2\x85x HTTP/1.1\r\nHost: x\r\n\r\n`);
      await http.over();
      using named = await dialRaw(port);
      named.send(connectHead("\x9bevil\xff:80"));
      await named.over();
      proxy.kill("SIGTERM");
      await proxy.exited();
      const output = `${proxy.stdout}${proxy.stderr}`;
      expect(output).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
      for (const line of output.split("\n")) expect(line).not.toStartWith("FAKE LINE");
    });
  }
});

// --- life and end ---------------------------------------------------------------

describe("how serve ends", () => {
  async function tunnelThrough(proxy: Running, origin: RawServer) {
    const client = await dialRaw(proxy.port);
    client.send(connectHead(`127.0.0.1:${origin.port}`));
    await client.response("CONNECT");
    return { client, inner: await origin.next() };
  }

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    test(`${signal} lets a tunnel run on, takes no new connection, and exits 0 when it is over`, async () => {
      using origin = new RawServer();
      await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
      const { client, inner } = await tunnelThrough(proxy, origin);
      using idle = await dialRaw(proxy.port);
      idle.send("GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
      await idle.response();
      proxy.kill(signal);
      await until(() => proxy.stderr().includes("draining"), "it drains");
      await idle.receivesEnd();
      expect(
        await dialRaw(proxy.port).then(
          () => "accepted",
          () => "refused",
        ),
      ).toBe("refused");
      client.send("after the signal");
      await inner.sees("after the signal");
      inner.send("and back").end();
      await client.sees("and back");
      client.end();
      expect(await within(proxy.exited, "the end")).toBe(0);
    });
  }

  test("a second signal ends at once with 128+n", async () => {
    using origin = new RawServer();
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    const { client } = await tunnelThrough(proxy, origin);
    proxy.kill("SIGTERM");
    await until(() => proxy.stderr().includes("draining"), "it drains");
    expect(client.ended).toBe(false);
    proxy.kill("SIGTERM");
    expect(await within(proxy.exited, "the end")).toBe(143);
  });

  test("what does not end within --drain-timeout is cut, and that is still 0", async () => {
    using origin = new RawServer();
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--drain-timeout", "300ms"]);
    const { client, inner } = await tunnelThrough(proxy, origin);
    proxy.kill("SIGTERM");
    await client.receivesReset();
    await inner.receivesReset();
    expect(await within(proxy.exited, "the end")).toBe(0);
  });

  test("a request in the middle is answered, with Connection: close, before it exits", async () => {
    using origin = new RawServer();
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    using client = await dialRaw(proxy.port);
    client.send(`GET http://127.0.0.1:${origin.port}/slow HTTP/1.1\r\nHost: x\r\n\r\n`);
    const asked = await origin.next();
    await asked.sees("\r\n\r\n");
    proxy.kill("SIGTERM");
    await until(() => proxy.stderr().includes("draining"), "it drains");
    asked.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nslow!");
    const answer = await client.response();
    expect(answer.body).toBe("slow!");
    expect(answer.values("connection")).toContain("close");
    await client.receivesEnd();
    expect(await within(proxy.exited, "the end")).toBe(0);
  });

  test("with nothing to wait for SIGTERM ends it at once with 0", async () => {
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    await awake(proxy);
    proxy.kill("SIGTERM");
    expect(await within(proxy.exited, "the end", 3000)).toBe(0);
  });

  test("a signal right after it said to be ready is heeded", async () => {
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    proxy.kill("SIGTERM");
    expect(await within(proxy.exited, "the end", 3000)).toBe(0);
  });

  test("--timeout ends the run with 124", async () => {
    const { code } = await runSeikan(["serve", "-l", "127.0.0.1:0", "--timeout", "200ms"]);
    expect(code).toBe(124);
  });

  test("a busy port is told with exit code 2", async () => {
    using taken = new RawServer();
    const { code, stderr } = await runSeikan(["serve", "-l", `127.0.0.1:${taken.port}`]);
    expect(code).toBe(2);
    expect(stderr).toContain(String(taken.port));
  });

  test("SIGUSR1 prints how things are", async () => {
    using origin = new RawServer();
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    const { client } = await tunnelThrough(proxy, origin);
    proxy.kill("SIGUSR1");
    await until(() => proxy.stderr().includes("connections=1"), "the status is printed");
    client.reset();
  });

  test("the ready file says where it listens and goes at exit", async () => {
    using folder = new TempFolder();
    const file = folder.file("ready.json");
    await using proxy = await startSeikan(["serve", "-l", "0", "-l", "127.0.0.1:0", "--ready-file", file]);
    const report = JSON.parse(await Bun.file(file).text()) as Record<string, unknown>;
    expect(report).toEqual({ pid: proxy.pid, listeners: proxy.listeners, urls: proxy.urls });
    expect(Object.keys(report)).toEqual(["pid", "listeners", "urls"]);
    expect(proxy.urls).toEqual(proxy.listeners.map((address) => `http://${address}`));
    expect(folder.names).toEqual(["ready.json"]);
    await awake(proxy);
    proxy.kill("SIGTERM");
    await proxy.exited;
    expect(folder.names).toEqual([]);
  });

  test("--max-connections: one too many is closed, and served once another has gone", async () => {
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--max-connections", "2"]);
    const ask = "GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    using first = await dialRaw(proxy.port);
    using second = await dialRaw(proxy.port);
    for (const client of [first, second]) expect((await client.send(ask).response()).status).toBe(200);
    // The reset can be quicker than the dial.
    using third = await dialRaw(proxy.port).catch(() => undefined);
    third?.send(ask);
    await third?.over();
    expect(third?.text ?? "").toBe("");
    await until(() => proxy.stderr().includes("refusing connections"), "it says so");
    first.end();
    await first.receivesEnd();
    const retry = async () => {
      for (;;) {
        using again = await dialRaw(proxy.port).catch(() => undefined);
        if (again === undefined) continue;
        again.send(ask);
        await again.until(() => again.ended || again.length > 0 || undefined, "an answer or the end");
        if (again.length > 0) return;
      }
    };
    await within(retry(), "a place becomes free");
    expect((await second.send(ask).response()).status).toBe(200);
  });
});

// --- socket activation ------------------------------------------------------------

const LAUNCHER = `
import os, socket, sys
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen()
port = listener.getsockname()[1]
if listener.fileno() != 3: os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
print(port, flush=True)
os.environ["LISTEN_FDS"] = "1"; os.environ["LISTEN_PID"] = sys.argv[1] if sys.argv[1] != "self" else str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
`;

describe.skipIf(program("python3") === undefined)("a listener that a service manager passes on", () => {
  const launch = (pid: string, ...args: string[]) =>
    new Process(["python3", "-c", LAUNCHER, pid, ...COMMAND, "serve", ...args]);

  test("is served, and counts as reachable from outside", async () => {
    using origin = new RawServer(echo);
    await using proxy = launch("self", "--auth", "a:b", "--allow-net");
    await proxy.says("listening on");
    expect(proxy.stderr).not.toContain("8080");
    const port = Number.parseInt(proxy.stdout, 10);
    expect((await askConnect(port, `127.0.0.1:${origin.port}`)).status).toBe(407);
    expect((await askConnect(port, `127.0.0.1:${origin.port}`, basic("a:b"))).status).toBe(200);
    proxy.kill("SIGTERM");
    expect(await proxy.exited()).toBe(0);
  });

  test("without users it is refused as an open proxy", async () => {
    await using proxy = launch("self");
    expect(await proxy.exited()).toBe(2);
    expect(proxy.stderr).toContain("open proxy");
  });

  test("is not taken when it was meant for another process", async () => {
    const port = freePort();
    await using proxy = launch("1", "-l", `127.0.0.1:${port}`);
    await proxy.says(`listening on http://127.0.0.1:${port}`);
  });

  const activate = Bun.which("systemd-socket-activate");
  test.skipIf(activate === null || noCurl)("works under systemd-socket-activate", async () => {
    const port = freePort();
    const args = ["-l", `127.0.0.1:${port}`, "-E", `HOME=${process.env.HOME}`, ...COMMAND, "serve", "--no-auth"];
    await using manager = new Process([activate!, ...args]);
    await accepting(port, manager);
    const { stdout } = await curl(`http://127.0.0.1:${port}/-/healthz`);
    expect(stdout).toBe("ok\n");
  });
});
