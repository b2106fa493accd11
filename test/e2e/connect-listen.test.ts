import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, closeSync, existsSync, openSync, readFileSync, watch, writeFileSync } from "node:fs";
import { freePort, Process, spawnSeikan, TempFolder } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { dialRaw, echo, RawServer } from "../support/raw.ts";
import { COMMAND, runProgram, runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import { pattern, until, within } from "../support/wait.ts";

setDefaultTimeout(30_000);

const noCurl = program("curl") === undefined;

let origin: RawServer;
let target: string;
beforeAll(() => {
  origin = new RawServer(echo);
  target = `127.0.0.1:${origin.port}`;
});
afterAll(() => origin[Symbol.dispose]());

/** Sends bytes through, half-closes and expects them back. */
async function echoes(to: Parameters<typeof dialRaw>[0], bytes = pattern(300_000)): Promise<void> {
  using client = await dialRaw(to);
  client.send(bytes).end();
  await client.receivesEnd();
  expect(Bun.hash(client.bytes)).toBe(Bun.hash(bytes));
}

/** Its event loop has turned: from then on signals are sure to be noticed. */
async function awake(running: Running): Promise<void> {
  using client = await dialRaw(running.port);
  client.send("?").end();
  await client.over();
}

const portOf = (address: string) => Number(address.split(":").at(-1));

describe("the forms of -L", () => {
  test("ADDR:PORT for the target, and port 0 is told as the real one", async () => {
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target]);
    expect(running.listeners).toHaveLength(1);
    expect(running.listeners[0]).toMatch(/^127\.0\.0\.1:[1-9]\d*$/);
    expect(running.urls).toEqual([]);
    await echoes(running.port);
  });

  for (const local of ["0", "localhost:0"]) {
    test(`${local} is loopback, in every IP version there is, on one port`, async () => {
      await using running = await startSeikan(["connect", "-L", local, target]);
      expect(new Set(running.listeners.map(portOf)).size).toBe(1);
      for (const address of running.listeners) expect(address).toMatch(/^(127\.0\.0\.1|\[::1\]):\d+$/);
      expect(running.listeners.some((address) => address.startsWith("127.0.0.1:"))).toBe(true);
      await echoes(running.port);
      for (const address of running.listeners) {
        const hostname = address.startsWith("[") ? "::1" : "127.0.0.1";
        await echoes({ hostname, port: portOf(address) }, pattern(10));
      }
    });
  }

  test("a port of one's own choice", async () => {
    const port = freePort();
    await using running = await startSeikan(["connect", "-L", `127.0.0.1:${port}`, target]);
    expect(running.listeners).toEqual([`127.0.0.1:${port}`]);
    await echoes(port);
  });

  test("[v6]:PORT", async () => {
    await using running = await startSeikan(["connect", "-L", "[::1]:0", target]);
    expect(running.listeners[0]).toMatch(/^\[::1\]:[1-9]\d*$/);
    await echoes({ hostname: "::1", port: running.port });
  });

  test("unix:/path, whose file goes at exit", async () => {
    using folder = new TempFolder();
    const path = folder.file("s");
    await using running = await startSeikan(["connect", "-L", `unix:${path}`, target]);
    expect(running.listeners).toEqual([`unix:${path}`]);
    await echoes({ unix: path });
    running.kill("SIGTERM");
    expect(await within(running.exited, "the end")).toBe(0);
    expect(existsSync(path)).toBe(false);
  });

  test("LOCAL=HOST:PORT, several of them, beside one for the argument", async () => {
    using other = new RawServer((socket) => void socket.send("other").end());
    using folder = new TempFolder();
    const path = folder.file("s");
    await using running = await startSeikan([
      ...["connect", "-L", "127.0.0.1:0", "-L", `127.0.0.1:0=127.0.0.1:${other.port}`],
      ...["-L", `unix:${path}=127.0.0.1:${other.port}`, target],
    ]);
    expect(running.listeners).toHaveLength(3);
    await echoes(running.port);
    for (const to of [portOf(running.listeners[1]!), { unix: path }]) {
      using client = await dialRaw(to);
      expect(await client.receivesEnd()).toBe("other");
    }
  });

  test("PORT:HOST:PORT and ADDR:PORT:HOST:PORT as in ssh, also with IPv6", async () => {
    using six = new RawServer(echo, { hostname: "::1", port: 0 });
    await using running = await startSeikan([
      ...["connect", "-L", `0:${target}`, "-L", `127.0.0.1:0:${target}`, "-L", `[::1]:0:[::1]:${six.port}`],
    ]);
    for (const address of running.listeners) {
      await echoes({ hostname: address.startsWith("[") ? "::1" : "127.0.0.1", port: portOf(address) }, pattern(1000));
    }
    expect(running.listeners.filter((address) => address.startsWith("127.0.0.1:"))).toHaveLength(2);
  });

  test("a target that is a unix socket", async () => {
    using folder = new TempFolder();
    using server = new RawServer(echo, { unix: folder.file("app") });
    expect(server.accepted).toHaveLength(0);
    await using running = await startSeikan(["connect", "-L", `127.0.0.1:0=unix:${folder.file("app")}`]);
    await echoes(running.port);
  });

  const wrong: [string, string[], string][] = [
    ["no target", ["-L", "127.0.0.1:0"], "has no target"],
    ["a port that is none", ["-L", "127.0.0.1:99999", "a:1"], "cannot listen on"],
    ["a target that is none", ["-L", "0=example.com"], "expected HOST:PORT"],
    ["--tls on a dynamic listener", ["-L", "socks5://0", "--tls"], "dynamic listener"],
  ];
  for (const [what, args, sentence] of wrong) {
    test(`${what} is a usage error`, async () => {
      const { code, stderr, stdout } = await runSeikan(["connect", ...args]);
      expect(code).toBe(2);
      expect(stderr).toContain(sentence);
      expect(stdout).toBe("");
    });
  }

  test("a busy port: exit code 2 and a sentence that names it", async () => {
    const { code, stderr } = await runSeikan(["connect", "-L", target, "a.test:1"]);
    expect(code).toBe(2);
    expect(stderr).toContain(target);
  });

  test("when one of two listeners cannot be had, nothing stays open", async () => {
    using folder = new TempFolder();
    const file = folder.file("ready");
    const { code } = await runSeikan(["connect", "-L", "127.0.0.1:0", "-L", target, "--ready-file", file, "a.test:1"]);
    expect(code).toBe(2);
    expect(folder.names).toEqual([]);
  });

  test("without a listener it is stdin and stdout, without a target an error", async () => {
    const { code, stderr } = await runSeikan(["connect", "-L"]);
    expect(code).toBe(2);
    expect(stderr).toContain("-L needs a value");
  });
});

describe("what a local connection becomes", () => {
  test("half-close goes on in both directions, and a reset stays a reset", async () => {
    using hand = new RawServer();
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", `127.0.0.1:${hand.port}`]);
    using client = await dialRaw(running.port);
    client.send("question").end();
    const inner = await hand.next();
    expect(await inner.receivesEnd()).toBe("question");
    inner.send("answer").end();
    expect(await client.receivesEnd()).toBe("answer");

    using second = await dialRaw(running.port);
    second.send("x");
    const torn = await hand.next();
    await torn.sees("x");
    torn.reset();
    await second.receivesReset();
  });

  test("a target that cannot be reached resets this connection only, and says why", async () => {
    const dead = freePort();
    await using running = await startSeikan([
      ...["connect", "-L", `127.0.0.1:0=127.0.0.1:${dead}`, "-L", "127.0.0.1:0", target],
    ]);
    using client = await dialRaw(running.port);
    await client.receivesReset();
    await until(() => running.stderr().includes(`127.0.0.1:${dead}`), "it says why");
    await echoes(portOf(running.listeners[1]!));
  });

  test("it goes through --via, with the credentials of --proxy-auth", async () => {
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "a:b", "--access-log", "json"]);
    await using running = await startSeikan([
      ...["connect", "-L", "127.0.0.1:0", target, "--via", `http://127.0.0.1:${proxy.port}`, "--proxy-auth", "a:b"],
    ]);
    await echoes(running.port);
    await until(() => proxy.events().some((event) => event.target === target), "the proxy logs it");
  });

  test("--max-connections: one too many is reset, the others live", async () => {
    using hand = new RawServer();
    await using running = await startSeikan([
      ...["connect", "-L", "127.0.0.1:0", `127.0.0.1:${hand.port}`, "--max-connections", "1"],
    ]);
    using first = await dialRaw(running.port);
    first.send("x");
    const inner = await hand.next();
    await inner.sees("x");
    using second = await dialRaw(running.port);
    await second.receivesReset();
    inner.send("y");
    await first.sees("y");
  });
});

describe.skipIf(noCurl)("dynamic listeners", () => {
  let web: ReturnType<typeof Bun.serve>;
  beforeAll(() => {
    web = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request) => new Response(new URL(request.url).pathname),
    });
  });
  afterAll(() => web.stop(true));

  const curl = (...args: string[]) => runProgram(["curl", "-sS", "--noproxy", "", "--max-time", "10", ...args]);
  const url = (path: string) => `http://localhost:${web.port}${path}`;

  test("socks5:// speaks SOCKS only", async () => {
    await using running = await startSeikan(["connect", "-L", "socks5://127.0.0.1:0"]);
    expect(running.urls).toEqual([`socks5h://${running.listeners[0]}`]);
    for (const scheme of ["socks5", "socks5h", "socks4a"]) {
      expect((await curl("-x", `${scheme}://127.0.0.1:${running.port}`, url("/s"))).stdout).toBe("/s");
    }
    expect((await curl("-x", `http://127.0.0.1:${running.port}`, url("/h"))).code).not.toBe(0);
  });

  test("http:// speaks HTTP only", async () => {
    await using running = await startSeikan(["connect", "-L", "http://127.0.0.1:0"]);
    expect(running.urls).toEqual([`http://${running.listeners[0]}`]);
    expect((await curl("-x", `http://127.0.0.1:${running.port}`, url("/h"))).stdout).toBe("/h");
    expect((await curl("-x", `http://127.0.0.1:${running.port}`, "-p", url("/p"))).stdout).toBe("/p");
    expect((await curl("-x", `socks5h://127.0.0.1:${running.port}`, url("/s"))).code).not.toBe(0);
  });

  test("mixed:// speaks both, and goes where each request says", async () => {
    await using running = await startSeikan(["connect", "-L", "mixed://0"]);
    expect(running.urls[0]).toBe(`http://${running.listeners[0]}`);
    for (const scheme of ["http", "socks5h", "socks5", "socks4a"]) {
      expect((await curl("-x", `${scheme}://127.0.0.1:${running.port}`, url("/m"))).stdout).toBe("/m");
    }
  });

  test("--via applies to what is asked of it, and no Via field is added", async () => {
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--no-via"]);
    await using running = await startSeikan([
      ...["connect", "-L", "mixed://127.0.0.1:0", "--via", `http://127.0.0.1:${proxy.port}`],
    ]);
    using raw = new RawServer();
    using client = await dialRaw(running.port);
    client.send(`GET http://127.0.0.1:${raw.port}/x HTTP/1.1\r\nHost: x\r\n\r\n`);
    const head = await (await raw.next()).sees("\r\n\r\n");
    expect(head).not.toMatch(/^via:/im);
    raw.accepted[0]!.end();
    await until(
      () => proxy.events().some((event) => event.target === `http://127.0.0.1:${raw.port}/x`),
      "the proxy logs it",
    );
  });

  test("the proxy environment decides per target, NO_PROXY included", async () => {
    await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]);
    const env = { HTTPS_PROXY: `http://127.0.0.1:${proxy.port}`, NO_PROXY: "127.0.0.1" };
    await using running = await startSeikan(["connect", "-L", "mixed://127.0.0.1:0"], env);
    await curl("-x", `http://127.0.0.1:${running.port}`, `http://127.0.0.1:${web.port}/direct`);
    await curl("-x", `http://127.0.0.1:${running.port}`, url("/proxied"));
    await until(() => proxy.events().length > 1, "the proxy logs something");
    expect(proxy.events().map((event) => event.target)).toEqual([undefined, url("/proxied")]);
  });

  test("why a client got nothing is said unasked, also behind a command", async () => {
    const hop = `socks5h://127.0.0.1:${freePort()}`;
    const line = ["connect", "-L", "http://127.0.0.1:0", "--via", hop, "--"];
    const fetching = ["curl", "-sS", "--noproxy", "", "http://a.test/"];
    const { stderr } = await runSeikan([...line, ...fetching]);
    expect(stderr).toMatch(/ warn connection refused by 127\.0\.0\.1:\d+ .*target=http:\/\/a\.test\/ /);
  });

  test("one that other machines can reach needs --auth or --no-auth", async () => {
    for (const scheme of ["socks5", "http", "mixed"]) {
      const { code, stderr } = await runSeikan(["connect", "-L", `${scheme}://0.0.0.0:0`]);
      expect(code).toBe(2);
      expect(stderr).toContain("open proxy");
    }
    await using open = await startSeikan(["connect", "-L", "mixed://0.0.0.0:0", "--no-auth"]);
    expect(open.listeners[0]).toStartWith("0.0.0.0:");
    await using guarded = await startSeikan(["connect", "-L", "mixed://0.0.0.0:0", "--auth", "a:b"]);
    const none = await curl(
      "-o",
      "/dev/null",
      "-w",
      "%{http_code}",
      "-x",
      `http://127.0.0.1:${guarded.port}`,
      url("/"),
    );
    expect(none.stdout).toBe("407");
  });

  test("with --auth a loopback one asks, too", async () => {
    await using running = await startSeikan(["connect", "-L", "mixed://127.0.0.1:0", "--auth", "ann:pa:ss"]);
    const at = `127.0.0.1:${running.port}`;
    expect((await curl("-x", `http://${at}`, "-U", "ann:pa:ss", url("/u"))).stdout).toBe("/u");
    expect((await curl("-x", `socks5h://ann:pa%3Ass@${at}`, url("/u"))).stdout).toBe("/u");
    expect((await curl("-x", `http://${at}`, "-o", "/dev/null", "-w", "%{http_code}", url("/u"))).stdout).toBe("407");
    expect((await curl("-x", `socks5h://${at}`, url("/u"))).code).toBe(97);
  });
});

describe("readiness", () => {
  test("the ready file appears whole, with real ports, and goes at exit", async () => {
    using folder = new TempFolder();
    const file = folder.file("ready.json");
    const seen: string[] = [];
    const watcher = watch(folder.path, (_, name) => {
      if (name !== "ready.json") return;
      try {
        seen.push(readFileSync(file, "utf8"));
      } catch {
        // It has gone again.
      }
    });
    try {
      await using running = await startSeikan([
        ...["connect", "-L", "127.0.0.1:0", "-L", "socks5://127.0.0.1:0", "--ready-file", file, target],
      ]);
      await until(() => seen.length > 0, "the file is noticed");
      const expected = { pid: running.pid, listeners: running.listeners, urls: [`socks5h://${running.listeners[1]}`] };
      for (const text of seen) expect(JSON.parse(text)).toEqual(expected);
      expect(seen[0]).toEndWith("\n");
      expect(seen[0]!.indexOf("\n")).toBe(seen[0]!.length - 1);
      expect(folder.names).toEqual(["ready.json"]);
      await awake(running);
      running.kill("SIGTERM");
      expect(await within(running.exited, "the end")).toBe(0);
      expect(folder.names).toEqual([]);
    } finally {
      watcher.close();
    }
  });

  test("the ready file goes when the run times out, too", async () => {
    using folder = new TempFolder();
    const file = folder.file("ready.json");
    const { code } = await runSeikan([
      "connect",
      "-L",
      "127.0.0.1:0",
      "--timeout",
      "300ms",
      "--ready-file",
      file,
      target,
    ]);
    expect(code).toBe(124);
    expect(folder.names).toEqual([]);
  });

  test("a ready file that cannot be written is a usage error", async () => {
    const { code, stderr } = await runSeikan([
      "connect",
      "-L",
      "127.0.0.1:0",
      "--ready-file",
      "/no/such/folder/x",
      target,
    ]);
    expect(code).toBe(2);
    expect(stderr).toContain("/no/such/folder/x");
  });

  test("--ready-fd gets the same line, and is closed behind it", async () => {
    using folder = new TempFolder();
    const fifo = folder.file("fifo");
    Bun.spawnSync(["mkfifo", fifo]);
    const reading = Bun.spawn(["cat", fifo], { stdout: "pipe" });
    const fd = openSync(fifo, "w");
    await using child = new Process([...COMMAND, "connect", "-L", "127.0.0.1:0", "--ready-fd", "3", target], {
      extra: [fd],
    });
    closeSync(fd);
    try {
      // cat ends when the last writer has closed: seikan is still running then.
      const text = await within(new Response(reading.stdout).text(), "the line and the end behind it");
      const report = JSON.parse(text) as { pid: number; listeners: string[]; urls: string[] };
      expect(text).toBe(`${JSON.stringify(report)}\n`);
      expect(report.pid).toBe(child.pid);
      expect(child.hasExited).toBe(false);
      await echoes(portOf(report.listeners[0]!));
    } finally {
      reading.kill("SIGKILL");
    }
  });

  test("the JSON event and its time come on stdout, one object a line", async () => {
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target]);
    const [ready] = running.events();
    expect(ready).toEqual({
      event: "ready",
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
      pid: running.pid,
      listeners: running.listeners as string[],
      urls: [],
    });
  });

  test.skipIf(program("python3") === undefined)("sd_notify hears READY=1", async () => {
    using folder = new TempFolder();
    const socket = folder.file("notify");
    const code = `import socket,sys
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(sys.argv[1]); print("bound",flush=True); print(s.recv(4096).decode(),flush=True)`;
    await using manager = new Process(["python3", "-c", code, socket]);
    await manager.prints("bound");
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target], { NOTIFY_SOCKET: socket });
    await manager.prints("READY=1");
    expect(manager.stdout).toContain(`MAINPID=${running.pid}`);
  });
});

/** For shells: waits for a signal, but outlives nobody for long. */
const PATIENCE = "n=0; while [ $n -lt 400 ]; do sleep 0.02; n=$((n+1)); done; exit 9";

describe("-- COMMAND", () => {
  const connect = (...args: string[]) => ["connect", ...args];

  test("its placeholders and variables are the listener's, and it can use it at once", async () => {
    const script = `echo "$1 $2 $3"; echo "$SEIKAN_ADDR $SEIKAN_HOST $SEIKAN_PORT"; echo "\${SEIKAN_ADDR_1-none}"`;
    const run = await runSeikan([...connect(target), "--", "sh", "-c", script, "sh", "{addr}", "{host}", "{port}"]);
    expect(run).toMatchObject({ code: 0, stderr: "" });
    const [line = "", variables, numbered] = run.stdout.trimEnd().split("\n");
    expect(line).toMatch(/^127\.0\.0\.1:(\d+) 127\.0\.0\.1 \d+$/);
    expect(variables).toBe(line);
    expect(numbered).toBe("none");
  });

  test("only known placeholders are replaced, everywhere in a word", async () => {
    const words = ["x{port}y{port}", "{nothing}", "{}", "{PORT}", "{{host}}", "a b"];
    const run = await runSeikan([...connect(target), "--", "printf", "%s\\n", ...words]);
    const [ports = "", ...rest] = run.stdout.trimEnd().split("\n");
    expect(ports).toMatch(/^x(\d+)y\1$/);
    expect(rest).toEqual(["{nothing}", "{}", "{PORT}", "{127.0.0.1}", "a b"]);
  });

  test("several listeners are numbered", async () => {
    using folder = new TempFolder();
    const path = folder.file("s");
    const script = `echo "$SEIKAN_ADDR"; echo "$SEIKAN_ADDR_1 $SEIKAN_HOST_1 $SEIKAN_PORT_1"; echo "$SEIKAN_ADDR_2|$SEIKAN_HOST_2|$SEIKAN_PORT_2"; echo "$SEIKAN_ADDR_3"; echo "\${SEIKAN_ADDR_4-none}"`;
    const run = await runSeikan([
      ...connect("-L", "127.0.0.1:0", "-L", `unix:${path}`, "-L", `[::1]:0=${target}`, target),
      ...["--", "sh", "-c", script],
    ]);
    expect(run.stderr).toBe("");
    const [first = "", one = "", two, three, four] = run.stdout.trimEnd().split("\n");
    expect(one).toBe(`${first} 127.0.0.1 ${portOf(first)}`);
    expect(two).toBe(`unix:${path}|unix:${path}|`);
    expect(three).toMatch(/^\[::1\]:\d+$/);
    expect(four).toBe("none");
  });

  test("a listener on every address is told as one the command can connect to", async () => {
    const run = await runSeikan([...connect("-L", "0.0.0.0:0", target), "--", "sh", "-c", "echo {host} $SEIKAN_ADDR"]);
    expect(run.stdout).toMatch(/^127\.0\.0\.1 127\.0\.0\.1:\d+\n$/);
  });

  for (const [scheme, shown] of [
    ["mixed", "http"],
    ["http", "http"],
    ["socks5", "socks5h"],
  ] as const) {
    test(`behind ${scheme}:// the proxy variables lead through the listener`, async () => {
      const names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
      const script = `echo "$SEIKAN_ADDR"; ${names.map((name) => `echo "$${name}"`).join("; ")}`;
      const run = await runSeikan([...connect("-L", `${scheme}://127.0.0.1:0`), "--", "sh", "-c", script]);
      const [addr, ...values] = run.stdout.trimEnd().split("\n");
      expect(values).toEqual(names.map(() => `${shown}://${addr}`));
    });
  }

  test.skipIf(noCurl)("curl behind it needs no options", async () => {
    const web = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("through the listener") });
    try {
      await using proxy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]);
      const hop = ["--via", `http://127.0.0.1:${proxy.port}`];
      const args = [
        ...connect("-L", "mixed://127.0.0.1:0", ...hop),
        "--",
        "curl",
        "-sS",
        `http://127.0.0.1:${web.port}/`,
      ];
      expect(await runSeikan(args)).toMatchObject({ code: 0, stdout: "through the listener", stderr: "" });
      await until(() => proxy.events().length > 1, "it went through the proxy");
    } finally {
      await web.stop(true);
    }
  });

  test("secrets are not in its environment, everything else is", async () => {
    const env = {
      SEIKAN_AUTH: "user:secret1",
      SEIKAN_TOKEN: "secret2",
      SEIKAN_PROXY_AUTH: "user:secret3",
      SEIKAN_VIA: "http://user:secret4@proxy.test:1",
      SEIKAN_PROXY_HEADER: "X-Key: secret5",
      SEIKAN_ROUTE: "a.test=http://user:secret6@proxy.test:1",
      SEIKAN_LOG_LEVEL: "warn",
      OTHER: "kept",
    };
    const run = await runSeikan([...connect(target), "--", "env"], { env });
    expect(run.code).toBe(0);
    expect(run.stdout).not.toContain("secret");
    expect(run.stdout).toContain("OTHER=kept\n");
    expect(run.stdout).toContain("SEIKAN_LOG_LEVEL=warn\n");
  });

  test("its stdin, stdout and stderr are ours, byte for byte", async () => {
    const bytes = pattern(1_000_000).toString("latin1");
    const run = await runSeikan([...connect(target), "--", "sh", "-c", "cat; echo problems >&2"], { stdin: bytes });
    expect(run.stdout).toBe(bytes);
    expect(run.stderr).toBe("problems\n");
  });

  test("--json events go to stderr then", async () => {
    const run = await runSeikan([...connect(target, "--json"), "--", "echo", "only this"]);
    expect(run.stdout).toBe("only this\n");
    expect(JSON.parse(run.stderr.trim().split("\n")[0]!)).toMatchObject({ event: "ready", urls: [] });
  });

  test("its exit code is ours", async () => {
    for (const code of [0, 1, 3, 42, 255]) {
      expect((await runSeikan([...connect(target), "--", "sh", "-c", `exit ${code}`])).code).toBe(code);
    }
  });

  for (const [signal, code] of [
    ["TERM", 143],
    ["KILL", 137],
    ["HUP", 129],
    ["SEGV", 139],
  ] as const) {
    test(`death by SIG${signal} is ${code}`, async () => {
      expect((await runSeikan([...connect(target), "--", "sh", "-c", `kill -${signal} $$`])).code).toBe(code);
    });
  }

  test("127: no such command, 126: not executable", async () => {
    using folder = new TempFolder();
    const missing = await runSeikan([...connect(target), "--", "no-such-command-anywhere"]);
    expect(missing.code).toBe(127);
    expect(missing.stderr).toContain("no-such-command-anywhere");
    expect((await runSeikan([...connect(target), "--", folder.file("none")])).code).toBe(127);
    const file = folder.file("script");
    writeFileSync(file, "#!/bin/sh\necho ran\n");
    chmodSync(file, 0o644);
    const plain = await runSeikan([...connect(target), "--", file]);
    expect([plain.code, plain.stdout]).toEqual([126, ""]);
    chmodSync(file, 0o755);
    expect(await runSeikan([...connect(target), "--", file])).toMatchObject({ code: 0, stdout: "ran\n" });
    writeFileSync(file, "#!/no/such/interpreter\n");
    expect([126, 127]).toContain((await runSeikan([...connect(target), "--", file])).code);
  });

  test("an empty file is not executable: 126", async () => {
    using folder = new TempFolder();
    writeFileSync(folder.file("empty"), "");
    expect((await runSeikan([...connect(target), "--", folder.file("empty")])).code).toBe(126);
  });

  test("a folder is not executable: 126", async () => {
    using folder = new TempFolder();
    expect((await runSeikan([...connect(target), "--", folder.path])).code).toBe(126);
  });

  test("what stands behind -- is the command's alone", async () => {
    for (const words of [["--help"], ["--version"], ["-h"], ["--", "-x"], ["--timeout", "nonsense"], ["--json"]]) {
      const run = await runSeikan([...connect(target), "--", "printf", "%s\\n", ...["-", ...words]]);
      expect(run.stdout).toBe(["-", ...words, ""].join("\n"));
      expect(run.code).toBe(0);
    }
    const run = await runSeikan([...connect(target), "--", "sh", "--help"]);
    expect(run.stdout).not.toContain("seikan");
  });

  test("nothing behind -- is a usage error", async () => {
    expect((await runSeikan([...connect(target), "--"])).code).toBe(2);
  });

  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT"] as const) {
    test(`${signal} goes to it, and it decides what comes of it`, async () => {
      const name = signal.slice(3);
      const script = `trap 'echo got ${name}; exit 7' ${name}; echo $SEIKAN_PORT; ${PATIENCE}`;
      await using child = spawnSeikan([...connect(target), "--", "sh", "-c", script]);
      await child.prints("\n");
      const started = child.stdout;
      await echoes(Number(started), pattern(10));
      child.kill(signal);
      expect(await child.exited()).toBe(7);
      expect(child.stdout).toBe(`${started}got ${name}\n`);
    });
  }

  test("a signal that comes as soon as the command runs goes to it, too", async () => {
    const script = `trap 'exit 7' TERM; kill -TERM $PPID; ${PATIENCE}`;
    const codes: number[] = [];
    for (let i = 0; i < 8; i++) {
      const runs = [1, 2, 3].map(() => runSeikan([...connect(target), "--", "sh", "-c", script]));
      codes.push(...(await Promise.all(runs)).map(({ code }) => code));
    }
    expect(codes).toEqual(codes.map(() => 7));
  });

  test("a command that ignores SIGTERM is not abandoned", async () => {
    const script = `trap 'echo no' TERM; echo $SEIKAN_PORT; read line; echo "$line"`;
    await using child = spawnSeikan([
      ...connect(target),
      "--",
      "bash",
      "-c",
      `for i in 1 2 3 4; do ${script}; [ -n "$line" ] && exit 5; done`,
    ]);
    await child.prints("\n");
    await echoes(Number(child.stdout), pattern(10));
    child.kill("SIGTERM");
    await child.prints("no\n");
    child.write("later\n");
    expect(await child.exited()).toBe(5);
  });

  test("the listener takes connections while it runs, and is closed behind it", async () => {
    await using child = spawnSeikan([...connect(target), "--", "sh", "-c", "echo $SEIKAN_PORT; read line; exit 3"]);
    await child.prints("\n");
    const port = Number(child.stdout);
    await echoes(port);
    child.closeStdin();
    expect(await child.exited()).toBe(3);
    expect(
      await dialRaw(port).then(
        () => "accepted",
        () => "refused",
      ),
    ).toBe("refused");
  });

  test("a tunnel that is still open does not keep it once the command has ended", async () => {
    using hand = new RawServer();
    await using child = spawnSeikan([
      ...connect(`127.0.0.1:${hand.port}`),
      "--",
      "sh",
      "-c",
      "echo $SEIKAN_PORT; read line",
    ]);
    await child.prints("\n");
    using client = await dialRaw(Number(child.stdout));
    client.send("x");
    await (await hand.next()).sees("x");
    child.write("done\n");
    expect(await child.exited()).toBe(0);
    await client.over();
  });

  test("--timeout ends the command with SIGTERM and the run with 124", async () => {
    const script = `trap 'echo terminated; exit 0' TERM; echo started; ${PATIENCE}`;
    const run = await runSeikan([...connect(target, "--timeout", "700ms"), "--", "sh", "-c", script]);
    expect(run.code).toBe(124);
    expect(run.stdout).toBe("started\nterminated\n");
  });

  test("the command starts only when every listener accepts", async () => {
    const run = await runSeikan([...connect("-L", "127.0.0.1:0", "-L", target, "a.test:1"), "--", "echo", "started"]);
    expect(run).toMatchObject({ code: 2, stdout: "" });
  });

  test("a tunnel that fails is told on stderr while the command goes on", async () => {
    const dead = freePort();
    const script = `exec 3<>/dev/tcp/$SEIKAN_HOST/$SEIKAN_PORT; cat <&3; echo over`;
    const run = await runSeikan([...connect(`127.0.0.1:${dead}`), "--", "bash", "-c", script]);
    expect(run.stdout).toBe("over\n");
    expect(run.stderr).toContain(`127.0.0.1:${dead}`);
    expect(run.code).toBe(0);
  });
});

describe("--once", () => {
  test("serves one connection to its end, takes no other, and exits 0", async () => {
    using hand = new RawServer();
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", "--once", `127.0.0.1:${hand.port}`]);
    using client = await dialRaw(running.port);
    client.send("only one");
    const inner = await hand.next();
    await inner.sees("only one");
    expect(
      await dialRaw(running.port).then(
        () => "accepted",
        () => "refused",
      ),
    ).toBe("refused");
    client.end();
    await inner.receivesEnd();
    inner.send("and its answer").end();
    expect(await client.receivesEnd()).toBe("and its answer");
    expect(await within(running.exited, "the end")).toBe(0);
  });

  test("the code is that of its connection", async () => {
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", "--once", `127.0.0.1:${freePort()}`]);
    using client = await dialRaw(running.port);
    await client.receivesReset();
    expect(await within(running.exited, "the end")).toBe(3);

    using hand = new RawServer();
    await using torn = await startSeikan(["connect", "-L", "127.0.0.1:0", "--once", `127.0.0.1:${hand.port}`]);
    using second = await dialRaw(torn.port);
    second.send("x");
    const inner = await hand.next();
    await inner.sees("x");
    inner.reset();
    expect(await within(torn.exited, "the end")).toBe(1);
  });

  test("works for a dynamic listener", async () => {
    await using running = await startSeikan(["connect", "-L", "mixed://127.0.0.1:0", "--once"]);
    using client = await dialRaw(running.port);
    client.send(`CONNECT ${target} HTTP/1.1\r\nHost: x\r\n\r\nhello`).end();
    expect(await client.receivesEnd()).toEndWith("\r\n\r\nhello");
    expect(await within(running.exited, "the end")).toBe(0);
  });
});

describe("how it ends", () => {
  test("SIGTERM drains: no new connection, what runs goes on, then 0", async () => {
    using hand = new RawServer();
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", `127.0.0.1:${hand.port}`]);
    using client = await dialRaw(running.port);
    client.send("x");
    const inner = await hand.next();
    await inner.sees("x");
    running.kill("SIGTERM");
    const refused = async () => {
      while (
        await dialRaw(running.port).then(
          (socket) => (socket.reset(), true),
          () => false,
        )
      );
    };
    await within(refused(), "new connections are refused");
    inner.send("still");
    await client.sees("still");
    client.end();
    inner.end();
    expect(await within(running.exited, "the end")).toBe(0);
  });

  test("a second SIGINT ends at once with 130", async () => {
    using hand = new RawServer();
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", `127.0.0.1:${hand.port}`]);
    using client = await dialRaw(running.port);
    client.send("x");
    await (await hand.next()).sees("x");
    running.kill("SIGINT");
    const refused = async () => {
      while (
        await dialRaw(running.port).then(
          (socket) => (socket.reset(), true),
          () => false,
        )
      );
    };
    await within(refused(), "new connections are refused");
    running.kill("SIGINT");
    expect(await within(running.exited, "the end")).toBe(130);
  });

  test("SIGHUP ends it at once with 129", async () => {
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target]);
    await awake(running);
    running.kill("SIGHUP");
    expect(await within(running.exited, "the end")).toBe(129);
  });

  test("--drain-timeout cuts what does not end", async () => {
    using hand = new RawServer();
    const to = `127.0.0.1:${hand.port}`;
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", to, "--drain-timeout", "300ms"]);
    using client = await dialRaw(running.port);
    client.send("x");
    await (await hand.next()).sees("x");
    running.kill("SIGTERM");
    await client.receivesReset();
    expect(await within(running.exited, "the end")).toBe(0);
  });

  test("--timeout ends it with 124", async () => {
    const { code, stderr } = await runSeikan(["connect", "-L", "127.0.0.1:0", target, "--timeout", "300ms"]);
    expect(code).toBe(124);
    expect(stderr).toContain("--timeout");
  });

  test("SIGUSR1 prints how things are", async () => {
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target]);
    await awake(running);
    running.kill("SIGUSR1");
    await until(() => running.stderr().includes("accepted=1"), "the status is printed");
  });

  test("a signal right after it said to be ready is heeded", async () => {
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target]);
    running.kill("SIGTERM");
    expect(await within(running.exited, "the end")).toBe(0);
  });
});
