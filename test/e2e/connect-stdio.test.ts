import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { certificateFor } from "../support/certificates.ts";
import { freePort, Process, spawnSeikan, TempFolder } from "../support/process.ts";
import { echo, RawServer } from "../support/raw.ts";
import { COMMAND, runSeikan, startSeikan } from "../support/seikan.ts";
import { pattern, until } from "../support/wait.ts";

setDefaultTimeout(30_000);

const HEAD_END = "\r\n\r\n";
const at = (server: { port: number }) => `127.0.0.1:${server.port}`;

describe("stdin and stdout are the stream", () => {
  test("nothing but the stream's bytes is on stdout, and nothing at all on stderr", async () => {
    using server = new RawServer();
    await using child = spawnSeikan(["connect", at(server)]);
    const inner = await server.next();
    const bytes = pattern(100_000);
    inner.send(bytes).end();
    expect(await child.exited()).toBe(0);
    expect(child.bytes.equals(bytes)).toBe(true);
    expect(child.stderr).toBe("");
  });

  test("a server that speaks first is heard before anything is said", async () => {
    using server = new RawServer((socket) => void socket.send("SSH-2.0-test\r\n"));
    await using child = spawnSeikan(["connect", at(server)]);
    await child.prints("SSH-2.0-test\r\n");
    child.write("SSH-2.0-client\r\n");
    const inner = await server.next();
    await inner.sees("SSH-2.0-client\r\n");
  });

  test("with -v the logs are on stderr and stdout is still only the stream", async () => {
    using server = new RawServer((socket) => void socket.send("data").end());
    await using child = spawnSeikan(["connect", at(server), "-v"]);
    expect(await child.exited()).toBe(0);
    expect(child.stdout).toBe("data");
    expect(child.stderr).toContain(`connected to ${at(server)}`);
  });

  test("server EOF: 1 MB is flushed and it exits while stdin is still open", async () => {
    using server = new RawServer();
    await using child = spawnSeikan(["connect", at(server)]);
    const inner = await server.next();
    const bytes = pattern(1024 * 1024);
    inner.send(bytes).end();
    expect(await child.exited()).toBe(0);
    expect(Bun.hash(child.bytes)).toBe(Bun.hash(bytes));
  });

  test("server EOF while nobody reads stdout yet: it waits, and nothing is lost", async () => {
    using folder = new TempFolder();
    using server = new RawServer();
    const gate = folder.file("gate");
    Bun.spawnSync(["mkfifo", gate]);
    const script = `gate=$1; shift; "$@" | { read -r _ < "$gate"; cat; }`;
    await using shell = new Process(["bash", "-c", script, "bash", gate, ...COMMAND, "connect", at(server)]);
    const inner = await server.next();
    const bytes = pattern(8 * 1024 * 1024, 7);
    inner.send(bytes).end();
    await Bun.write(gate, "go\n");
    expect(await shell.exited()).toBe(0);
    expect(shell.bytes.length).toBe(bytes.length);
    expect(Bun.hash(shell.bytes)).toBe(Bun.hash(bytes));
    expect(shell.stderr).toBe("");
  });

  test("stdin EOF half-closes, and a later reply is still brought", async () => {
    using server = new RawServer();
    await using child = spawnSeikan(["connect", at(server)]);
    const inner = await server.next();
    child.write("request");
    child.closeStdin();
    expect(await inner.receivesEnd()).toBe("request");
    expect(child.hasExited).toBe(false);
    const reply = pattern(1024 * 1024, 3);
    inner.send(reply).end();
    expect(await child.exited()).toBe(0);
    expect(Bun.hash(child.bytes)).toBe(Bun.hash(reply));
  });

  test("stdin EOF, then a long reply that nobody reads yet: it waits, and nothing is lost", async () => {
    using folder = new TempFolder();
    using server = new RawServer();
    const gate = folder.file("gate");
    Bun.spawnSync(["mkfifo", gate]);
    const script = `gate=$1; shift; "$@" </dev/null | { read -r _ < "$gate"; cat; }`;
    await using shell = new Process(["bash", "-c", script, "bash", gate, ...COMMAND, "connect", at(server)]);
    const inner = await server.next();
    await inner.receivesEnd();
    // A little more than a pipe holds: what is lost is the chunk that does not fit.
    const bytes = pattern(72_000, 8);
    inner.send(bytes).end();
    // Time to do it wrong: this run is only started behind the other one's last byte.
    expect((await runSeikan(["connect", "a.test:1", "--dry-run"])).code).toBe(0);
    await Bun.write(gate, "go\n");
    expect(await shell.exited()).toBe(0);
    expect(shell.bytes.length).toBe(bytes.length);
  });

  test("8 MB go there and back", async () => {
    using server = new RawServer(echo);
    const bytes = pattern(8 * 1024 * 1024, 5);
    await using child = spawnSeikan(["connect", at(server)]);
    child.write(bytes);
    child.closeStdin();
    expect(await child.exited()).toBe(0);
    expect(Bun.hash(child.bytes)).toBe(Bun.hash(bytes));
  });

  test("a reader that has gone ends it with one sentence", async () => {
    using server = new RawServer((socket) => void socket.send("x".repeat(100)));
    const script = `"$@" | sh -c 'head -c 10 >/dev/null; exec 0<&-; echo gone >&2'`;
    // --timeout: else it would outlive its shell.
    const args = [...COMMAND, "connect", at(server), "--timeout", "8s"];
    await using shell = new Process(["bash", "-o", "pipefail", "-c", script, "bash", ...args]);
    const inner = await server.next();
    await shell.says("gone");
    inner.send("more");
    expect(await shell.exited(3000)).toBe(1);
    expect(shell.stderr.trim().split("\n")).toHaveLength(2);
  });

  test("a target that stops reading stops stdin", async () => {
    using server = new RawServer();
    await using child = spawnSeikan(["connect", at(server)]);
    const inner = await server.next();
    inner.pause();
    const bytes = pattern(16 * 1024 * 1024, 9);
    child.write(bytes);
    child.closeStdin();
    inner.resume();
    await inner.receivesEnd();
    expect(Bun.hash(inner.bytes)).toBe(Bun.hash(bytes));
  });
});

describe("the forms of a target", () => {
  const reaches = async (...args: string[]) => {
    const run = await runSeikan(["connect", ...args], { stdin: "ping" });
    expect(run).toEqual({ code: 0, stdout: "ping", stderr: "" });
  };

  test("HOST:PORT, by address and by name", async () => {
    using server = new RawServer(echo);
    await reaches(at(server));
    await reaches(`localhost:${server.port}`);
    await reaches(`LocalHost.:${server.port}`);
  });

  test("HOST PORT, as ssh writes it, also with an IPv6 address", async () => {
    using server = new RawServer(echo);
    using six = new RawServer(echo, { hostname: "::1", port: 0 });
    await reaches("127.0.0.1", String(server.port));
    await reaches("localhost", String(server.port));
    await reaches("::1", String(six.port));
    await reaches("0:0:0:0:0:0:0:1", String(six.port));
    await reaches(`[::1]:${six.port}`);
  });

  test("unix:/path", async () => {
    using folder = new TempFolder();
    using server = new RawServer(echo, { unix: folder.file("s") });
    await reaches(`unix:${folder.file("s")}`);
    expect(server.accepted).toHaveLength(1);
  });

  test("options may stand before and behind it", async () => {
    using server = new RawServer(echo);
    await reaches("--connect-timeout", "5s", at(server), "--log-level=warn");
    expect((await runSeikan(["--log-level", "warn", "connect", at(server)], { stdin: "x" })).stdout).toBe("x");
  });

  test("TLS to the target, inside the tunnel", async () => {
    const { cert, key, certFile, pin } = certificateFor("localhost", "127.0.0.1");
    const hello = {
      open(socket: { write(text: string): void }) {
        socket.write("hello over TLS");
      },
      data(socket: { end(): void }) {
        socket.end();
      },
    };
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, tls: { cert, key }, socket: hello });
    try {
      const target = `localhost:${server.port}`;
      for (const trust of [["--cacert", certFile], ["--insecure"], ["--pin-sha256", pin, "--cacert", certFile]]) {
        const run = await runSeikan(["connect", target, "--tls", ...trust], { stdin: "bye" });
        expect(run).toEqual({ code: 0, stdout: "hello over TLS", stderr: "" });
      }
      const distrusted = await runSeikan(["connect", target, "--tls"], { stdin: "" });
      expect(distrusted.code).toBe(3);
      expect(distrusted.stdout).toBe("");
      const wrongPin = Buffer.alloc(32).toString("base64");
      const pinned = await runSeikan(["connect", target, "--tls", "--cacert", certFile, "--pin-sha256", wrongPin]);
      expect(pinned.code).toBe(3);
      const misnamed = await runSeikan(["connect", target, "--tls", "--cacert", certFile, "--sni", "other.test"]);
      expect(misnamed.code).toBe(3);
    } finally {
      server.stop(true);
    }
  });
});

describe("exit codes", () => {
  const usage: [string, string[], string][] = [
    ["no TARGET", [], "TARGET is missing"],
    ["a target without port", ["example.com"], "example.com:443"],
    ["a URL as target", ["https://example.com/x"], "example.com:443"],
    ["a bare IPv6 address", ["::1:443"], "[::1:443]:443"],
    ["port 0", ["example.com:0"], "1 to 65535"],
    ["HOST and no PORT", ["example.com", "https"], "HOST PORT"],
    ["three arguments", ["a.test", "1", "2"], "unexpected argument"],
    ["--json", ["a.test:1", "--json"], "--json cannot go with"],
    ["an unknown option", ["a.test:1", "--conect-timeout=1s"], "--connect-timeout"],
    ["a bare number as time", ["a.test:1", "--timeout", "10"], "--timeout"],
    ["a hop that is none", ["a.test:1", "--via", "ftp://x"], "unknown scheme"],
    ["direct among hops", ["a.test:1", "--via", "direct", "--via", "http://p:1"], "direct stands alone"],
    ["--cacert without --tls", ["a.test:1", "--cacert", "/x"], "add --tls"],
    ["a missing --proxy-cacert", ["a.test:1", "--proxy-cacert", "/no/such"], "/no/such"],
    ["-4 and -6", ["a.test:1", "-4", "-6"], "exclude each other"],
    ["a pin that is none", ["a.test:1", "--tls", "--pin-sha256", "nonsense!!"], "--pin-sha256: expected a SHA-256"],
    [
      "a pin without its hash",
      ["a.test:1", "--tls", "--pin-sha256", "sha256//PIN="],
      "--pin-sha256: expected a SHA-256",
    ],
  ];
  for (const [what, args, sentence] of usage) {
    test(`2: ${what}`, async () => {
      const run = await runSeikan(["connect", ...args], { stdin: "" });
      expect(run.code).toBe(2);
      expect(run.stdout).toBe("");
      expect(run.stderr).toContain(sentence);
    });
  }

  test("3: nobody listens there; one line says where", async () => {
    const port = freePort();
    const run = await runSeikan(["connect", `127.0.0.1:${port}`], { stdin: "x" });
    expect(run.code).toBe(3);
    expect(run.stdout).toBe("");
    expect(run.stderr).toContain(`127.0.0.1:${port}`);
    expect(run.stderr).toStartWith("seikan: error: ");
  });

  test("3: a proxy that nobody named here is named, and where it came from", async () => {
    const url = `http://127.0.0.1:${freePort()}`;
    for (const variable of ["HTTPS_PROXY", "SEIKAN_VIA"]) {
      const run = await runSeikan(["connect", "a.test:1"], { stdin: "x", env: { [variable]: url } });
      expect(run.code).toBe(3);
      expect(run.stderr).toContain(`hint: the way there is ${url}, because of ${variable}; --dry-run shows it\n`);
    }
    const named = await runSeikan(["connect", "a.test:1", "--via", url], { stdin: "x" });
    expect(named.stderr).not.toContain("the way there");
  });

  test("3: an address of the IP version that is not dialled", async () => {
    for (const [target, option, sentence] of [
      ["127.0.0.1:1", "-6", "127.0.0.1 is an IPv4 address, and only IPv6 is to be dialled"],
      ["[::1]:1", "-4", "::1 is an IPv6 address, and only IPv4 is to be dialled"],
    ] as const) {
      const run = await runSeikan(["connect", target, option], { stdin: "x" });
      expect([run.code, run.stdout]).toEqual([3, ""]);
      expect(run.stderr).toContain(sentence);
    }
  });

  test("--log-format json makes the last line JSON, too; what stands behind -- does not", async () => {
    const dead = `127.0.0.1:${freePort()}`;
    for (const [args, env] of [
      [["--log-format", "json"], {}],
      [["--log-format=json"], {}],
      [[], { SEIKAN_LOG_FORMAT: "json" }],
    ] as const) {
      const run = await runSeikan(["connect", dead, ...args], { stdin: "x", env });
      expect(run.code).toBe(3);
      expect(JSON.parse(run.stderr)).toMatchObject({ event: "error", error: { code: "connect-refused" } });
    }
    const behind = await runSeikan(["connect", "--", "curl", "--json", "{}"], { stdin: "" });
    expect(behind.stderr).toStartWith("seikan: error: ");
  });

  test("3: no such host", async () => {
    const run = await runSeikan(["connect", "no-such-host.invalid:1"], { stdin: "x" });
    expect(run.code).toBe(3);
    expect(run.stderr).toContain("no-such-host.invalid");
  });

  test("3: no such socket file", async () => {
    expect((await runSeikan(["connect", "unix:/no/such/socket"], { stdin: "x" })).code).toBe(3);
  });

  for (const [status, reason] of [
    [403, "Forbidden"],
    [502, "Bad Gateway"],
    [503, "Service Unavailable"],
    [504, "Gateway Timeout"],
    [404, "Not Found"],
    [200 + 101, "Moved"],
  ] as const) {
    test(`3: the proxy says ${status}, and its body is shown but never passed on`, async () => {
      using hop = new RawServer();
      await using child = spawnSeikan(["connect", "target.test:1", "--via", `http://${at(hop)}`]);
      child.write("tunnel bytes");
      const asked = await hop.next();
      await asked.sees(HEAD_END);
      asked.send(`HTTP/1.1 ${status} ${reason}\r\nContent-Length: 27\r\n\r\n<b>because</b> of\x1b[31m a rule`);
      expect(await child.exited()).toBe(3);
      expect(child.stdout).toBe("");
      expect(child.stderr).toContain(`${status} ${reason}`);
      expect(child.stderr).toContain("because of");
      expect(child.stderr).not.toContain("\x1b[31m");
      expect(asked.text).not.toContain("tunnel bytes");
    });
  }

  for (const [what, answer] of [
    ["SSH", "SSH-2.0-OpenSSH_9.2\r\n"],
    ["TLS", "\x15\x03\x01\x00\x02\x02\x46"],
    ["HTTP/2", "HTTP/2.0 200 OK\r\n\r\n"],
    ["nothing", ""],
    ["101", "HTTP/1.1 101 Switching Protocols\r\n\r\n"],
  ] as const) {
    test(`3: the proxy answers with ${what}`, async () => {
      using hop = new RawServer((socket) => void socket.sees(HEAD_END).then(() => socket.send(answer).end()));
      const run = await runSeikan(["connect", "target.test:1", "--via", `http://${at(hop)}`], { stdin: "x" });
      expect([run.code, run.stdout]).toEqual([3, ""]);
      expect(run.stderr).toContain(`http://${at(hop)}`);
    });
  }

  test("4: the proxy wants credentials, and which", async () => {
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "ann:secret"]);
    const via = (userinfo: string) => ["connect", "a.test:1", "--via", `http://${userinfo}127.0.0.1:${proxy.port}`];
    const none = await runSeikan(via(""), { stdin: "x" });
    expect([none.code, none.stdout]).toEqual([4, ""]);
    expect(none.stderr).toContain("basic");
    const wrong = await runSeikan(via("ann:wr0ng@"), { stdin: "x" });
    expect([wrong.code, wrong.stdout]).toEqual([4, ""]);
    expect(wrong.stderr).not.toContain("wr0ng");
    const socks = await runSeikan(["connect", "a.test:1", "--via", `socks5h://ann:no@127.0.0.1:${proxy.port}`]);
    expect(socks.code).toBe(4);
    const silent = await runSeikan(["connect", "a.test:1", "--via", `socks5h://127.0.0.1:${proxy.port}`]);
    expect(silent.code).toBe(4);
  });

  test("1: the stream is reset", async () => {
    using server = new RawServer();
    await using child = spawnSeikan(["connect", at(server)]);
    const inner = await server.next();
    inner.send("half a mes");
    await child.prints("half a mes");
    inner.reset();
    expect(await child.exited()).toBe(1);
    expect(child.stdout).toBe("half a mes");
    expect(child.stderr).not.toBe("");
  });

  test("124: --connect-timeout passes, for a hop that says nothing", async () => {
    using hop = new RawServer();
    const args = ["connect", "a.test:1", "--via", `http://${at(hop)}`, "--connect-timeout", "300ms"];
    const run = await runSeikan(args, { stdin: "x" });
    expect([run.code, run.stdout]).toEqual([124, ""]);
    expect(run.stderr).toContain("timeout");
  });

  test("124: --timeout passes, while connecting and while connected", async () => {
    using server = new RawServer();
    await using connected = spawnSeikan(["connect", at(server), "--timeout", "400ms"]);
    const inner = await server.next();
    inner.send("hello");
    await connected.prints("hello");
    expect(await connected.exited()).toBe(124);
    expect(connected.stderr).toContain("--timeout");
    const args = ["connect", "a.test:1", "--via", `http://${at(server)}`, "--timeout", "300ms"];
    expect((await runSeikan(args, { stdin: "x" })).code).toBe(124);
  });

  for (const [signal, code] of [
    ["SIGHUP", 129],
    ["SIGTERM", 143],
    ["SIGINT", 130],
  ] as const) {
    test(`${code}: ${signal} ends it at once, connected or not`, async () => {
      using server = new RawServer((socket) => void socket.send("x"));
      await using connected = spawnSeikan(["connect", at(server)]);
      await connected.prints("x");
      connected.kill(signal);
      expect(await connected.exited()).toBe(code);
      using hop = new RawServer();
      await using waiting = spawnSeikan(["connect", "a.test:1", "--via", `http://${at(hop)}`]);
      await (await hop.next()).sees(HEAD_END);
      waiting.kill(signal);
      expect(await waiting.exited()).toBe(code);
    });
  }
});

describe("what is asked of a proxy", () => {
  /** A hop that lets everything through and then echoes; its first head. */
  async function headAt(args: string[], env: Record<string, string> = {}): Promise<string> {
    using hop = new RawServer();
    await using child = spawnSeikan(
      args.map((arg) => arg.replace("HOP", at(hop))),
      { env },
    );
    const asked = await hop.next();
    const head = await asked.sees(HEAD_END);
    asked.send("HTTP/1.1 200 OK\r\n\r\n").end();
    await child.exited();
    return head;
  }

  test("CONNECT with the port, Host the same, and no more", async () => {
    const head = await headAt(["connect", "Target.Test:443", "--via", "http://HOP"]);
    expect(head).toBe("CONNECT target.test:443 HTTP/1.1\r\nHost: target.test:443\r\n\r\n");
    expect(await headAt(["connect", "::1", "22", "--via", "http://HOP"])).toStartWith("CONNECT [::1]:22 HTTP/1.1\r\n");
  });

  test("credentials come percent-decoded from the URL, literally from --proxy-auth, a file or the environment", async () => {
    const basic = (text: string) => `Proxy-Authorization: Basic ${Buffer.from(text).toString("base64")}\r\n`;
    using folder = new TempFolder();
    writeFileSync(folder.file("auth"), "file%41:pa:ss\n");
    writeFileSync(folder.file("bearer"), "Bearer abc.def\n");
    chmodSync(folder.file("auth"), 0o600);
    const connect = ["connect", "a.test:1", "--via"];
    expect(await headAt([...connect, "http://us%40er:p%3Aw%25@HOP"])).toContain(basic("us@er:p:w%"));
    expect(await headAt([...connect, "http://HOP", "--proxy-auth", "u%41:p:x"])).toContain(basic("u%41:p:x"));
    expect(await headAt([...connect, "http://HOP", "--proxy-auth-file", folder.file("auth")])).toContain(
      basic("file%41:pa:ss"),
    );
    expect(await headAt([...connect, "http://HOP"], { SEIKAN_PROXY_AUTH: "env:x" })).toContain(basic("env:x"));
    expect(await headAt([...connect, "http://HOP", "--proxy-auth-file", folder.file("bearer")])).toContain(
      "Proxy-Authorization: Bearer abc.def\r\n",
    );
    // Those of the URL are the hop's own.
    expect(await headAt([...connect, "http://own:1@HOP", "--proxy-auth", "u:p"])).toContain(basic("own:1"));
  });

  test("--proxy-auth-command answers a challenge", async () => {
    using hop = new RawServer();
    const command = `echo "$SEIKAN_CHALLENGE" | tr -d '\\n' >&2; echo "Custom answer"`;
    await using child = spawnSeikan([
      ...["connect", "a.test:1", "--via", `http://${at(hop)}`, "--proxy-auth-command", command],
    ]);
    const asked = await hop.next();
    await asked.sees(HEAD_END);
    asked.send("HTTP/1.1 407 Auth\r\nProxy-Authenticate: Custom realm=x\r\nContent-Length: 2\r\n\r\nno");
    await asked.sees("Proxy-Authorization: Custom answer\r\n");
    asked.send("HTTP/1.1 200 OK\r\n\r\nin").end();
    expect(await child.exited()).toBe(0);
    expect(child.stdout).toBe("in");
    expect(child.stderr).toContain("Custom realm=x");
  });

  test("--proxy-header is added, Host replaces ours", async () => {
    const args = ["--via", "http://HOP", "--proxy-header", "X-One: 1", "--proxy-header", "Host: other.test"];
    const head = await headAt(["connect", "a.test:1", ...args]);
    expect(head).toContain("\r\nX-One: 1\r\n");
    expect(head.match(/^host:.*$/gim)).toEqual(["Host: other.test"]);
  });

  const answers: [string, string][] = [
    ["200 with a length that is to be ignored", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"],
    ["200 with chunked that is to be ignored", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ["204", "HTTP/1.1 204 No Content\r\n\r\n"],
    ["HTTP/1.0", "HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n"],
    ["no reason", "HTTP/1.1 200\r\n\r\n"],
    ["1xx in front", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"],
  ];
  for (const [what, answer] of answers) {
    test(`an answer with ${what} opens the tunnel, and bytes behind it are the tunnel's first`, async () => {
      using hop = new RawServer();
      await using child = spawnSeikan(["connect", "a.test:1", "--via", `http://${at(hop)}`]);
      const asked = await hop.next();
      await asked.sees(HEAD_END);
      asked.send(`${answer}early`);
      await child.prints("early");
      child.write("up");
      await asked.sees(`${HEAD_END}up`);
      asked.send(", late").end();
      expect(await child.exited()).toBe(0);
      expect(child.stdout).toBe("early, late");
    });
  }

  test("an answer that comes byte by byte loses none of the tunnel's", async () => {
    using hop = new RawServer();
    await using child = spawnSeikan(["connect", "a.test:1", "--via", `http://${at(hop)}`]);
    const asked = await hop.next();
    await asked.sees(HEAD_END);
    for (const byte of "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\nSSH-2.0-first") {
      asked.send(byte);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await child.prints("SSH-2.0-first");
    expect(child.stdout).toBe("SSH-2.0-first");
  });

  test("nothing of the tunnel is sent before the proxy agrees", async () => {
    using hop = new RawServer();
    await using child = spawnSeikan(["connect", "a.test:1", "--via", `http://${at(hop)}`]);
    child.write("eager");
    const asked = await hop.next();
    expect(await asked.sees(HEAD_END)).toEndWith(HEAD_END);
    asked.send("HTTP/1.1 102 Processing\r\n\r\n");
    // A second run has connected and asked meanwhile: the first had its time to err.
    await using second = spawnSeikan(["connect", "b.test:1", "--via", `http://${at(hop)}`]);
    await (await hop.next()).sees(HEAD_END);
    expect(second.stdout).toBe("");
    expect(asked.text).toEndWith(HEAD_END);
    asked.send("HTTP/1.1 200 OK\r\n\r\n");
    await asked.sees(`${HEAD_END}eager`);
  });

  test("a 407 inside the tunnel is the target's, and gets no credentials", async () => {
    using hop = new RawServer();
    await using child = spawnSeikan(["connect", "a.test:1", "--via", `http://u:p@${at(hop)}`]);
    const asked = await hop.next();
    await asked.sees(HEAD_END);
    asked.send("HTTP/1.1 200 OK\r\n\r\n");
    const fake = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
    asked.send(fake);
    await child.prints(fake);
    child.closeStdin();
    await asked.receivesEnd();
    expect(asked.text.match(/Proxy-Authorization/g)).toHaveLength(1);
    expect(hop.accepted).toHaveLength(1);
  });
});

describe("--retry", () => {
  test("succeeds once the server comes up", async () => {
    const port = freePort();
    await using child = spawnSeikan(["connect", `127.0.0.1:${port}`, "--retry", "5"]);
    await child.says("trying again");
    using server = new RawServer((socket) => void socket.send("at last").end(), { port });
    expect(await child.exited()).toBe(0);
    expect(child.stdout).toBe("at last");
    expect(server.accepted).toHaveLength(1);
  });

  test("gives up after as many tries as it was told", async () => {
    const run = await runSeikan(["connect", `127.0.0.1:${freePort()}`, "--retry", "2"], { stdin: "" });
    expect(run.code).toBe(3);
    expect(run.stderr.match(/trying again/g)).toHaveLength(2);
  });

  test("does not try again what cannot get better: credentials", async () => {
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "a:b"]);
    const args = ["connect", "a.test:1", "--via", `http://127.0.0.1:${proxy.port}`, "--retry", "5"];
    const run = await runSeikan(args, { stdin: "" });
    expect(run.code).toBe(4);
    expect(run.stderr).not.toContain("trying again");
  });
});

describe("--dry-run", () => {
  const dry = async (args: string[], env: Record<string, string> = {}) => {
    const run = await runSeikan(["connect", ...args, "--dry-run"], { env });
    expect(run).toMatchObject({ code: 0, stderr: "" });
    return run.stdout;
  };

  test("prints exactly the line of the contract", async () => {
    const env = { HTTPS_PROXY: "http://proxy.test:3128" };
    expect(await dry(["a.org:443", "--json"], env)).toBe(
      '{"target":"a.org:443","hops":["http://proxy.test:3128"],"reason":"HTTPS_PROXY"}\n',
    );
    expect(await dry(["a.org:443"], env)).toBe("a.org:443: http://proxy.test:3128 (HTTPS_PROXY)\n");
  });

  test("direct has no hops", async () => {
    expect(JSON.parse(await dry(["a.org:443", "--json"]))).toEqual({
      target: "a.org:443",
      hops: [],
      reason: "no proxy is set",
    });
    expect(await dry(["a.org:443"])).toBe("a.org:443: direct (no proxy is set)\n");
    expect(await dry(["a.org:443", "--via", "direct"])).toBe("a.org:443: direct (--via)\n");
  });

  test("shows *** for credentials, in URLs and in the environment", async () => {
    const args = ["::1", "22", "--via", "https://us:s3cret@corp", "--via", "socks5h://x:s3cret@[::2]:1"];
    const shown = await dry([...args, "--json"]);
    expect(JSON.parse(shown)).toEqual({
      target: "[::1]:22",
      hops: ["https://***@corp:443", "socks5h://***@[::2]:1"],
      reason: "--via",
    });
    const fromEnv = await dry(["a.org:1"], { all_proxy: "http://us:s3cret@p.test:1" });
    expect(fromEnv).toBe("a.org:1: http://***@p.test:1 (all_proxy)\n");
  });

  test("opens no connection", async () => {
    using hop = new RawServer();
    await dry(["a.org:1", "--via", `http://${at(hop)}`]);
    await dry([at(hop)]);
    expect(hop.accepted).toHaveLength(0);
  });

  test("without a target it is a usage error", async () => {
    expect((await runSeikan(["connect", "--dry-run"])).code).toBe(2);
  });

  const ways: [string, string, Record<string, string>, string[], string][] = [
    [
      "lower case wins",
      "a.org:443",
      { https_proxy: "http://l:1", HTTPS_PROXY: "http://u:1" },
      ["http://l:1"],
      "https_proxy",
    ],
    [
      "HTTPS before ALL",
      "a.org:443",
      { ALL_PROXY: "http://a:1", HTTPS_PROXY: "http://u:1" },
      ["http://u:1"],
      "HTTPS_PROXY",
    ],
    [
      "ALL before HTTP",
      "a.org:443",
      { ALL_PROXY: "socks5h://a:1", HTTP_PROXY: "http://h:1" },
      ["socks5h://a:1"],
      "ALL_PROXY",
    ],
    ["HTTP at last", "a.org:443", { HTTP_PROXY: "http://h:1" }, ["http://h:1"], "HTTP_PROXY"],
    [
      "HTTP_PROXY is no header of a CGI program",
      "a.org:443",
      { HTTP_PROXY: "http://h:1", REQUEST_METHOD: "GET" },
      [],
      "no proxy is set",
    ],
    [
      "a URL without scheme is http",
      "a.org:443",
      { HTTPS_PROXY: "p.test:3128" },
      ["http://p.test:3128"],
      "HTTPS_PROXY",
    ],
    [
      "NO_PROXY names it",
      "a.org:443",
      { HTTPS_PROXY: "http://p:1", NO_PROXY: "b.org,a.org" },
      [],
      "NO_PROXY exempts it",
    ],
    [
      "NO_PROXY names its domain",
      "x.a.org:443",
      { HTTPS_PROXY: "http://p:1", no_proxy: "a.org" },
      [],
      "no_proxy exempts it",
    ],
    ["NO_PROXY with a dot", "a.org:443", { HTTPS_PROXY: "http://p:1", NO_PROXY: ".a.org" }, [], "NO_PROXY exempts it"],
    [
      "NO_PROXY is no substring",
      "nota.org:443",
      { HTTPS_PROXY: "http://p:1", NO_PROXY: "a.org" },
      ["http://p:1"],
      "HTTPS_PROXY",
    ],
    ["NO_PROXY *", "a.org:443", { HTTPS_PROXY: "http://p:1", NO_PROXY: "*" }, [], "NO_PROXY exempts it"],
    [
      "NO_PROXY CIDR",
      "10.1.2.3:22",
      { HTTPS_PROXY: "http://p:1", NO_PROXY: "10.0.0.0/8 b.org" },
      [],
      "NO_PROXY exempts it",
    ],
    [
      "NO_PROXY another port",
      "a.org:443",
      { HTTPS_PROXY: "http://p:1", NO_PROXY: "a.org:80" },
      ["http://p:1"],
      "HTTPS_PROXY",
    ],
    ["NO_PROXY this port", "a.org:80", { HTTPS_PROXY: "http://p:1", NO_PROXY: "a.org:80" }, [], "NO_PROXY exempts it"],
    ["NO_PROXY IPv6", "[::1]:80", { HTTPS_PROXY: "http://p:1", NO_PROXY: "::1" }, [], "NO_PROXY exempts it"],
  ];
  for (const [what, target, env, hops, reason] of ways) {
    test(`the proxy environment: ${what}`, async () => {
      expect(JSON.parse(await dry([target, "--json"], env))).toEqual({ target, hops, reason });
    });
  }

  test("NO_PROXY is not asked about an explicit --via", async () => {
    const shown = await dry(["a.org:443", "--via", "http://p:1", "--json"], { NO_PROXY: "*" });
    expect(JSON.parse(shown)).toMatchObject({ hops: ["http://p:1"], reason: "--via" });
  });

  test("--route is more specific than either", async () => {
    const routes = ["--route", "*.corp=http://c:1,socks5h://d:2", "--route", "x.corp=direct"];
    const env = { HTTPS_PROXY: "http://p:1" };
    expect(JSON.parse(await dry(["a.corp:1", ...routes, "--json"], env))).toMatchObject({
      hops: ["http://c:1", "socks5h://d:2"],
      reason: "--route *.corp",
    });
    expect(JSON.parse(await dry(["x.corp:1", ...routes, "--json"], env))).toMatchObject({ hops: [] });
    expect(JSON.parse(await dry(["other.test:1", ...routes, "--json"], env))).toMatchObject({ hops: ["http://p:1"] });
  });
});

describe("the proxy environment in action", () => {
  test("HTTPS_PROXY is used, and NO_PROXY goes around it", async () => {
    using server = new RawServer(echo);
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]);
    const env = { HTTPS_PROXY: `http://127.0.0.1:${proxy.port}`, NO_PROXY: "localhost" };
    expect((await runSeikan(["connect", at(server)], { stdin: "via", env })).stdout).toBe("via");
    await until(() => proxy.events().some(({ target }) => target === at(server)), "the proxy logs it");
    expect((await runSeikan(["connect", `localhost:${server.port}`], { stdin: "direct", env })).stdout).toBe("direct");
    expect(proxy.events().filter(({ event }) => event === "tunnel")).toHaveLength(1);
  });

  test("credentials in it are used and never shown", async () => {
    using server = new RawServer(echo);
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "ann:s3cret"]);
    const env = { ALL_PROXY: `socks5h://ann:s3cret@127.0.0.1:${proxy.port}` };
    const run = await runSeikan(["connect", at(server), "-v"], { stdin: "x", env });
    expect([run.code, run.stdout]).toEqual([0, "x"]);
    expect(run.stderr).not.toContain("s3cret");
  });
});
