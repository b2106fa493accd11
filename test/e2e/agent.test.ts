import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import {
  Arrivals,
  bodyAt,
  connectTo,
  exposing,
  get,
  lines,
  logged,
  place,
  portOf,
  requestHead,
  runAgent,
  startAgent,
  statusOf,
  urlOf,
  visit,
  webServer,
} from "../support/agents.ts";
import { certificateFor } from "../support/certificates.ts";
import { freePort, TempFolder } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { dialRaw, echo, RawServer } from "../support/raw.ts";
import { runProgram, runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import { udpEcho, UdpPeer } from "../support/udp.ts";
import { pattern, until } from "../support/wait.ts";
import { answerTo } from "../support/websocket-client.ts";

setDefaultTimeout(60_000);

// What an agent exposes, and how it is reached.

const HELLO = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const BIND = "20000-59999";

/** Sends back what it gets. */
let echoing: RawServer;
/** Plays by hand whatever a test wants. */
let hand: RawServer;
let web: ReturnType<typeof webServer>;
let server: Running;

beforeAll(async () => {
  echoing = new RawServer(echo);
  hand = new RawServer();
  web = webServer("the web");
  server = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--allow-bind", BIND]);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  for (const one of [echoing, hand]) one[Symbol.dispose]();
  await web.stop(true);
});

/** Sends bytes through, half-closes and expects them back. */
async function echoes(port: number, bytes = pattern(300_000)): Promise<void> {
  using client = await dialRaw(port);
  client.send(bytes).end();
  await client.receivesEnd();
  expect(Bun.hash(client.bytes)).toBe(Bun.hash(bytes));
}

describe("web services", () => {
  test("named, by port alone, on a unix socket, and without a name", async () => {
    using folder = new TempFolder();
    const unix = Bun.serve({ unix: folder.file("app.sock"), fetch: () => new Response("on a socket") });
    try {
      await using running = await startAgent(
        server,
        ...["-e", `named=${urlOf(web)}`, "-e", `${web.port}`, "-e", `http://localhost:${web.port}/`],
        ...["-e", `socket=unix:${folder.file("app.sock")}`, "-e", `${urlOf(web)},name=behind`],
      );
      const [named, byPort, unnamed, socket, behind] = running.urls;
      expect(named).toBe(`http://named.localhost:${server.port}`);
      expect(socket).toBe(`http://socket.localhost:${server.port}`);
      expect(behind).toBe(`http://behind.localhost:${server.port}`);
      const chosen = new RegExp(`^http://[a-z0-9]{8,}\\.localhost:${server.port}$`);
      expect([byPort, unnamed]).toEqual([expect.stringMatching(chosen), expect.stringMatching(chosen)]);
      expect(byPort).not.toBe(unnamed);
      for (const url of [named, byPort, unnamed, behind]) expect(await bodyAt(`${url}/x`)).toEqual([200, "the web /x"]);
      expect(await bodyAt(`${socket}/`)).toEqual([200, "on a socket"]);
    } finally {
      await unix.stop(true);
    }
  });

  test("https:// with a certificate nobody vouches for: refused unless told otherwise", async () => {
    const secure = webServer("secure", certificateFor("localhost"));
    try {
      const url = `https://localhost:${secure.port}`;
      await using one = await startAgent(
        server,
        ...exposing({ strict: url, lenient: `${url},upstream-insecure=yes`, plain: `https://127.0.0.1:${web.port}` }),
      );
      const strict = await visit(server.port, "strict.localhost");
      expect([strict.status, strict.values("proxy-status")[0]?.split(";")[1]]).toEqual([
        502,
        " error=tls_certificate_error",
      ]);
      expect(strict.body).toContain("certificate its agent does not trust");
      expect(await bodyAt(`${one.urls[1]}/a`)).toEqual([200, "secure /a"]);
      const plain = await visit(server.port, "plain.localhost");
      expect([plain.status, plain.body]).toEqual([502, expect.stringContaining("does not speak TLS")]);
      await using all = await startAgent(server, "--name", "all", "--upstream-insecure", "-e", `trusting=${url}`);
      expect(await bodyAt(`${all.urls[0]}/b`)).toEqual([200, "secure /b"]);
    } finally {
      await secure.stop(true);
    }
  });

  test("whole host names: the exact one first, then the longest wildcard", async () => {
    const names = [webServer("exact"), webServer("wide"), webServer("deep")] as const;
    try {
      const [exact, wide, deep] = names;
      await using running = await startAgent(
        server,
        ...["-e", `host:*.example.org=${urlOf(wide)}`, "-e", `host:App.example.org=${urlOf(exact)}`],
        ...["-e", `host:*.dev.example.org=${urlOf(deep)}`],
      );
      expect(running.urls).toEqual([
        `http://*.example.org:${server.port}`,
        `http://app.example.org:${server.port}`,
        `http://*.dev.example.org:${server.port}`,
      ]);
      const asked: [string, number, string][] = [
        ["app.example.org", 200, "exact /"],
        ["www.example.org", 200, "wide /"],
        ["x.app.example.org", 200, "wide /"],
        ["dev.example.org", 200, "wide /"],
        ["x.dev.example.org", 200, "deep /"],
        ["example.org", 404, ""],
        ["badexample.org", 404, ""],
      ];
      for (const [host, status, body] of asked) {
        const answer = await visit(server.port, host);
        expect([host, answer.status]).toEqual([host, status]);
        if (status === 200) expect(answer.body).toBe(body);
      }
    } finally {
      for (const one of names) await one.stop(true);
    }
  });

  test("a PROXY header in front of each connection, where the service wants one", async () => {
    await using _ = await startAgent(server, "-e", `headed=${urlOf(hand)},proxy-protocol=v2`);
    const arrivals = new Arrivals(hand);
    using client = await dialRaw(server.port);
    client.send(get("headed.localhost", "/x"));
    const upstream = await arrivals.next();
    await upstream.sees("GET /x HTTP/1.1\r\n");
    expect(proxyHeader(upstream.bytes)).toEqual({ from: `127.0.0.1:${client.localPort}`, length: 28 });
    expect(upstream.bytes.subarray(28).toString("latin1")).toStartWith("GET /x HTTP/1.1\r\n");
    upstream.send(HELLO);
    expect((await client.response()).body).toBe("hello");
  });
});

/** The source in a PROXY header, version 2, by the letter of its specification. */
function proxyHeader(bytes: Buffer): { from: string; length: number } {
  expect(bytes.subarray(0, 14).toString("hex")).toBe("0d0a0d0a000d0a515549540a2111");
  const length = 16 + bytes.readUInt16BE(14);
  return { from: `${[...bytes.subarray(16, 20)].join(".")}:${bytes.readUInt16BE(24)}`, length };
}

describe("files", () => {
  const folder = new TempFolder();
  let running: Running;
  beforeAll(async () => {
    const put = (name: string, text: string) => writeFileSync(folder.file(name), text);
    for (const name of ["site", "site/sub", "site/full", "site/.git", "site/sub/.hidden", "site2"])
      mkdirSync(folder.file(name));
    put("site/a.txt", "0123456789");
    put("site/sub/b <i>.txt", "b");
    put("site/full/index.html", "<p>an index");
    put("site/.env", "SECRET");
    put("site/.git/config", "SECRET");
    put("site/sub/.hidden/c.txt", "SECRET");
    put("site2/d.txt", "SECRET");
    put("outside.txt", "SECRET");
    symlinkSync("../outside.txt", folder.file("site/out.txt"));
    symlinkSync("../site2", folder.file("site/out"));
    symlinkSync("a.txt", folder.file("site/in.txt"));
    const specs = { files: `file:${folder.file("site")}`, listed: `file:${folder.file("site")},listing=yes` };
    running = await startAgent(server, "--name", "files", ...exposing(specs));
  });
  afterAll(async () => {
    await running[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  });

  const file = (path: string, ...fields: string[]) => visit(server.port, "files.localhost", path, ...fields);

  test("are served with type, length and validators, and HEAD without body", async () => {
    const { status, values, body } = await file("/a.txt?x=1");
    expect([status, body, values("content-length")]).toEqual([200, "0123456789", ["10"]]);
    expect(values("content-type")[0]).toStartWith("text/plain");
    expect(values("last-modified")).toHaveLength(1);
    const again = await file("/a.txt", `If-None-Match: ${values("etag")[0]}`);
    expect([again.status, again.body]).toEqual([304, ""]);
    using client = await dialRaw(server.port);
    client.send(lines("HEAD /a.txt HTTP/1.1", "Host: files.localhost"));
    const head = await client.response("HEAD");
    expect([head.status, head.values("content-length")]).toEqual([200, ["10"]]);
    client.send(get("files.localhost", "/full/"));
    expect((await client.response()).body).toBe("<p>an index");
    expect((await file("/sub/b%20%3Ci%3E.txt")).body).toBe("b");
    expect((await file("/nothing.txt")).status).toBe(404);
  });

  const ranges: [string, number, string, string[]][] = [
    ["bytes=2-4", 206, "234", ["bytes 2-4/10"]],
    ["bytes=7-", 206, "789", ["bytes 7-9/10"]],
    ["bytes=5-99", 206, "56789", ["bytes 5-9/10"]],
    ["bytes=9-9", 206, "9", ["bytes 9-9/10"]],
    ["bytes=-3", 206, "789", ["bytes 7-9/10"]],
    ["bytes=0-0", 206, "0", ["bytes 0-0/10"]],
    ["bytes=20-30", 416, "", ["bytes */10"]],
    ["bytes=5-2", 416, "", ["bytes */10"]],
    // RFC 9110 section 14.2 wants an unknown unit ignored.
    ["items=0-1", 200, "0123456789", []],
  ];
  for (const [range, status, body, shown] of ranges) {
    test(`Range: ${range}: ${status}`, async () => {
      const answer = await file("/a.txt", `Range: ${range}`);
      expect([answer.status, answer.body, answer.values("content-range")]).toEqual([status, body, shown]);
    });
  }

  test("links are followed within the folder, and not out of it", async () => {
    expect((await file("/in.txt")).body).toBe("0123456789");
    for (const path of ["/out.txt", "/out/d.txt", "/out/"]) {
      const { status, body } = await visit(server.port, "listed.localhost", path);
      expect([path, status, body]).toEqual([path, 404, "not found\n"]);
    }
  });

  test("hidden ones are not there", async () => {
    for (const path of ["/.env", "/%2eenv", "/.git/config", "/sub/../.env", "/sub/.hidden/c.txt", "/.git/"]) {
      for (const host of ["files.localhost", "listed.localhost"]) {
        const { status, body } = await visit(server.port, host, path);
        expect([host, path, status, body.includes("SECRET")]).toEqual([host, path, 404, false]);
      }
    }
  });

  const escapes = [
    ...["/../outside.txt", "/..%2foutside.txt", "/%2e%2e/outside.txt", "/%2e%2e%2foutside.txt", "/..%5coutside.txt"],
    ...[
      "/sub/../../outside.txt",
      "/sub/..%2f..%2foutside.txt",
      "/../site2/d.txt",
      "/%2e%2e/site2/d.txt",
      "//etc/passwd",
    ],
    ...["/%2fetc/passwd", "/../", "/..", "/%2e%2e/", "/a.txt%00", "/%ff", "/%", "/..%c0%afoutside.txt"],
  ];
  test("nothing outside of the folder is served or listed", async () => {
    for (const path of escapes) {
      for (const host of ["files.localhost", "listed.localhost"]) {
        const { status, body } = await visit(server.port, host, path);
        const leaks = /SECRET|root:|outside|site2/.test(body);
        expect([host, path, leaks, status === 200 && host.startsWith("files")]).toEqual([host, path, false, false]);
      }
    }
    const absolute = lines(`GET http://files.localhost/../outside.txt HTTP/1.1`, "Host: x");
    expect([403, 404]).toContain((await answerTo(server.port, absolute)).status);
  });

  test("a folder without its slash leads to the one with it, and nowhere else", async () => {
    const { status, values } = await file("/sub?x=1");
    expect([status, values("location")]).toEqual([301, ["/sub/?x=1"]]);
    for (const path of ["//sub", "//evil.example/%2e%2e", "///evil.example/.."]) {
      const answer = await file(path);
      const location = answer.values("location")[0] ?? "/";
      expect([path, answer.status !== 200, /^\/(?!\/)/.test(location)]).toEqual([path, true, true]);
    }
  });

  test("a folder is listed only if asked for, without what is hidden, and names are escaped", async () => {
    for (const path of ["/", "/sub/"]) expect((await file(path)).status).toBe(404);
    const root = await visit(server.port, "listed.localhost", "/");
    expect([root.status, root.values("content-type")]).toEqual([200, ["text/html; charset=utf-8"]]);
    expect(root.body).toContain('<a href="a.txt">a.txt</a>');
    expect(root.body).toContain('<a href="sub/">sub/</a>');
    expect(root.body).not.toContain(".env");
    expect(root.body).not.toContain(".git");
    const sub = await visit(server.port, "listed.localhost", "/sub/");
    expect(sub.body).toContain('<a href="b%20%3Ci%3E.txt">b &#60;i&#62;.txt</a>');
    expect(sub.body).not.toContain("hidden");
  });

  test("other methods than GET and HEAD are refused", async () => {
    for (const method of ["POST", "DELETE", "PUT"]) {
      const request = lines(`${method} /a.txt HTTP/1.1`, "Host: files.localhost", "Content-Length: 0");
      const { status } = await answerTo(server.port, request);
      expect([method, status]).toEqual([method, 405]);
    }
  });

  test("a folder that is not there: exit code 2", async () => {
    const { code, stderr } = await runAgent(server, "-e", `x=file:${folder.file("nowhere")}`);
    expect([code, stderr]).toEqual([2, expect.stringContaining("there is no such folder")]);
  });
});

describe("NAME.agent.internal", () => {
  let running: Running;
  beforeAll(async () => {
    running = await startAgent(
      server,
      ...["--name", "private", ...exposing({ db: `tcp://${place(echoing)}`, api: `tcp://${place(web)}` })],
      ...exposing({ gone: `tcp://127.0.0.1:${freePort()}` }),
    );
  });
  afterAll(() => running[Symbol.asyncDispose]());

  const via = (scheme: string, target: string) =>
    runSeikan(["connect", target, "--via", `${scheme}://127.0.0.1:${server.port}`], { stdin: "ping" });

  test("has no URL", () => {
    expect(running.urls).toEqual([]);
    expect(running.stderr()).toContain("db.agent.internal");
  });

  test("through CONNECT, on any port, in any case", async () => {
    for (const target of ["db.agent.internal:5432", "DB.Agent.Internal:1", "db.agent.internal.:80"]) {
      const { client, answer } = await connectTo(server, target);
      expect([target, answer.status]).toEqual([target, 200]);
      const bytes = pattern(200_000, 3);
      client.send(bytes).end();
      await client.receivesEnd();
      expect(Bun.hash(client.bytes.subarray(answer.head.length))).toBe(Bun.hash(bytes));
    }
  });

  test("through absolute-form", async () => {
    const { status, body } = await answerTo(
      server.port,
      lines("GET http://api.agent.internal/path HTTP/1.1", "Host: api.agent.internal"),
    );
    expect([status, body]).toEqual([200, "the web /path"]);
  });

  test("through SOCKS 5 and 4a by name", async () => {
    const name = Buffer.from("db.agent.internal");
    using five = await dialRaw(server.port);
    five.send(Uint8Array.of(5, 1, 0));
    await five.receives(2);
    five.send(Buffer.concat([Uint8Array.of(5, 1, 0, 3, name.length), name, Uint8Array.of(0, 80)]));
    await five.receives(12);
    expect(five.bytes.subarray(0, 4).toString("hex")).toBe("05000500");
    five.send("five").end();
    expect(await five.receivesEnd()).toEndWith("five");
    using four = await dialRaw(server.port);
    four.send(Buffer.concat([Uint8Array.of(4, 1, 0, 80, 0, 0, 0, 1, 0), name, Uint8Array.of(0)]));
    await four.receives(8);
    expect(four.bytes.subarray(0, 2).toString("hex")).toBe("005a");
    four.send("four").end();
    expect(await four.receivesEnd()).toEndWith("four");
  });

  for (const scheme of ["http", "socks5h", "ws"]) {
    test(`through seikan connect --via ${scheme}://`, async () => {
      const { code, stdout, stderr } = await via(scheme, "db.agent.internal:5432");
      expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "ping", stderr: "" });
    });
  }

  test("one that is not there is not looked up: 404, and exit code 3", async () => {
    for (const name of ["nope.agent.internal", "x.db.agent.internal"]) {
      const { client, answer } = await connectTo(server, `${name}:1`);
      client.reset();
      expect([name, answer.status]).toEqual([name, 404]);
      expect(answer.body).not.toMatch(/ENOTFOUND|resolve|not found/i);
    }
    const { code, stderr } = await via("http", "nope.agent.internal:1");
    expect([code, stderr]).toEqual([3, expect.stringContaining("404")]);
  });

  test("the suffix itself is never sent to DNS either", async () => {
    expect(await statusOf(server, "agent.internal:1")).toBe(404);
  });

  test("one whose service is down: 502 and exit code 3", async () => {
    const { client, answer } = await connectTo(server, "gone.agent.internal:1");
    client.reset();
    expect([answer.status, answer.values("proxy-status")[0]]).toEqual([
      502,
      expect.stringContaining("connection_refused"),
    ]);
    expect((await via("ws", "gone.agent.internal:1")).code).toBe(3);
  });

  test("is no host for visitors, and a site's name is no private one", async () => {
    const arrivals = new Arrivals(echoing);
    const { status } = await visit(server.port, "db.agent.internal");
    expect(status).toBe(404);
    expect(arrivals.count).toBe(0);
    await using _ = await startAgent(server, "--name", "site", "-e", `site=${urlOf(web)}`);
    expect(await statusOf(server, "site.agent.internal:80")).toBe(404);
  });
});

describe("ports", () => {
  test("tcp: any port or a certain one, every byte both ways", async () => {
    const port = freePort();
    await using one = await startSeikan(["serve", "-l", "127.0.0.1:0", "--allow-bind", `${BIND},${port}`]);
    await using running = await startAgent(
      one,
      ...["-e", `tcp:0=${place(echoing)}`, "-e", `tcp:${port}=${place(echoing)}`, "-e", `db=tcp:0=${place(echoing)}`],
    );
    expect(running.urls).toHaveLength(3);
    for (const url of running.urls) {
      expect(url).toMatch(/^tcp:\/\/127\.0\.0\.1:\d+$/);
      await echoes(portOf(url));
    }
    expect(portOf(running.urls[1])).toBe(port);
    for (const index of [0, 2]) {
      expect(portOf(running.urls[index])).toBeGreaterThanOrEqual(20_000);
      expect(portOf(running.urls[index])).toBeLessThan(60_000);
    }
  });

  describe("played by hand", () => {
    let running: Running;
    let ports: number[];
    beforeAll(async () => {
      running = await startAgent(
        server,
        ...["--name", "ports", "-e", `one=tcp:0=${place(hand)}`, "-e", `head=tcp:0=${place(hand)},proxy-protocol=v2`],
        ...["-e", `down=tcp:0=127.0.0.1:${freePort()}`, "-e", `far=tcp:0=${place(hand)},allow=10.0.0.0/8`],
      );
      ports = running.urls.map(portOf);
    });
    afterAll(() => running[Symbol.asyncDispose]());

    async function joined(index: number) {
      const arrivals = new Arrivals(hand);
      const client = await dialRaw(ports[index]!);
      return { client, upstream: await arrivals.next() };
    }

    /** A reset that may come before the connection is ours. */
    const isReset = (port: number) =>
      dialRaw(port).then(
        async (client) => {
          await client.send("anybody?").receivesReset();
          expect(client.text).toBe("");
        },
        (error: { code?: string }) => expect(error.code).toBe("ECONNRESET"),
      );

    test("half-close goes on, whichever side is first", async () => {
      const first = await joined(0);
      first.client.send("question").end();
      expect(await first.upstream.receivesEnd()).toBe("question");
      first.upstream.send("answer").end();
      expect(await first.client.receivesEnd()).toBe("answer");
      const second = await joined(0);
      second.upstream.send("greeting").end();
      expect(await second.client.receivesEnd()).toBe("greeting");
      second.client.send("thanks").end();
      expect(await second.upstream.receivesEnd()).toBe("thanks");
    });

    test("a reset stays a reset, both ways", async () => {
      for (const side of ["client", "upstream"] as const) {
        const pair = await joined(0);
        pair[side].reset();
        await pair[side === "client" ? "upstream" : "client"].receivesReset();
      }
    });

    test("a PROXY header says where the visitor really is", async () => {
      const { client, upstream } = await joined(1);
      client.send("payload");
      await upstream.sees("payload");
      expect(proxyHeader(upstream.bytes)).toEqual({ from: `127.0.0.1:${client.localPort}`, length: 28 });
      expect(upstream.bytes.subarray(28).toString()).toBe("payload");
      client.reset();
    });

    test("a service that refuses is a reset, and the agent hears why", async () => {
      await isReset(ports[2]!);
      const refused = await logged(server, ({ target }) => String(target).startsWith("down.agent.internal:"));
      expect(refused).toMatchObject({ event: "tunnel", method: "TCP", end: "connect-refused" });
      const told = await logged(running, (event) => event.event === "request" && event.exposure === "down");
      expect(told).toMatchObject({ peer: refused.peer, method: "TCP", why: expect.stringContaining("refused") });
    });

    test("visitors from elsewhere than allow= are reset, and the service never hears of them", async () => {
      const arrivals = new Arrivals(hand);
      await isReset(ports[3]!);
      const { client: next, upstream } = await joined(0);
      next.reset();
      await upstream.over();
      expect(arrivals.count).toBe(1);
    });
  });

  test("the port is closed with its agent", async () => {
    const running = await startAgent(server, "--name", "leaving", "-e", `tcp:0=${place(echoing)}`);
    const port = portOf(running.urls[0]);
    await echoes(port);
    running.kill("SIGTERM");
    expect(await running.exited).toBe(0);
    await until(() => server.stderr().includes("agent leaving disconnected"), "the server sees it go");
    expect(await dialRaw(port).catch((error: { code?: string }) => error.code)).toBe("ECONNREFUSED");
  });

  test("what --allow-bind does not name is refused: exit code 4", async () => {
    await using closed = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    for (const spec of ["tcp:0=127.0.0.1:1", "udp:0=127.0.0.1:1"]) {
      const { code, stderr } = await runAgent(closed, "-e", spec);
      expect([code, stderr]).toEqual([4, expect.stringContaining("opens no port for agents")]);
      expect(stderr).toContain("--allow-bind");
    }
    const { code, stderr } = await runAgent(server, "-e", `tcp:80=127.0.0.1:1`);
    expect([code, stderr]).toEqual([4, expect.stringContaining("opens no port 80 for agents")]);
  });

  test("one that is taken: exit code 4, whoever has it", async () => {
    const port = freePort();
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0", "--allow-bind", `${port},${echoing.port}`]);
    const byProgram = await runAgent(own, "-e", `tcp:${echoing.port}=127.0.0.1:1`);
    expect([byProgram.code, byProgram.stderr]).toEqual([4, expect.stringContaining(`port ${echoing.port} is taken`)]);
    await using _ = await startAgent(own, "--name", "first", "-e", `tcp:${port}=${place(echoing)}`);
    const byAgent = await runAgent(own, "--name", "second", "-e", `tcp:${port}=127.0.0.1:1`);
    expect([byAgent.code, byAgent.stderr]).toEqual([
      4,
      expect.stringContaining(`tcp port ${port} belongs to another agent`),
    ]);
    await echoes(port);
  });

  test("udp: datagrams of every size keep their borders, and two visitors are two flows", async () => {
    using peer = await udpEcho();
    await using running = await startAgent(server, "--name", "udp", "-e", `udp:0=${place(peer)}`);
    expect(running.urls[0]).toMatch(/^udp:\/\/127\.0\.0\.1:\d+$/);
    const port = portOf(running.urls[0]);
    using one = await UdpPeer.open();
    using two = await UdpPeer.open();
    for (const [index, size] of [1, 1400, 9000, 65_507].entries()) {
      const payload = pattern(size, index + 1);
      one.send(payload, port);
      two.send(`two ${index}`, port);
      const back = await one.next();
      expect([back.payload.length, back.port]).toEqual([size, port]);
      expect(Bun.hash(back.payload)).toBe(Bun.hash(payload));
      expect((await two.next()).payload.toString()).toBe(`two ${index}`);
    }
    expect(new Set(peer.received.map((datagram) => datagram.port)).size).toBe(2);
  });
});

describe.skipIf(program("curl") === undefined)("TLS", () => {
  const inner = certificateFor("app.test", "*.wild.test");
  const outer = certificateFor("localhost", "web.localhost", "hand.localhost", "secured.localhost");
  let both: Running;
  let running: Running;
  let service: ReturnType<typeof webServer>;
  beforeAll(async () => {
    service = webServer("the inside", inner);
    both = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "-l", "https://127.0.0.1:0", "--access-log", "json"],
      ...["--tls-cert", outer.certFile, "--tls-key", outer.keyFile],
    ]);
    running = await startAgent(
      both,
      ...["-e", `tls:app.test=${place(service)}`, "-e", `tls:*.wild.test=${place(service)}`, "-e", `web=${urlOf(web)}`],
      ...["-e", `hand=${urlOf(hand)}`, "-e", `tls:gone.test=127.0.0.1:${freePort()}`],
    );
  });
  afterAll(async () => {
    await running[Symbol.asyncDispose]();
    await both[Symbol.asyncDispose]();
    await service.stop(true);
  });

  const curl = (trusted: string, host: string, port: number, ...args: string[]) =>
    runProgram([
      ...["curl", "-sS", "--max-time", "20", "--cacert", trusted, "--resolve", `${host}:${port}:127.0.0.1`, ...args],
      `https://${host}:${port}/x`,
    ]);

  const ports = () => both.listeners.map(portOf);

  test("goes through as it is by its server name, on a plain and on an https:// listener", async () => {
    expect(running.urls.slice(0, 2)).toEqual([`https://app.test:${both.port}`, `https://*.wild.test:${both.port}`]);
    for (const port of ports()) {
      for (const host of ["app.test", "any.wild.test"]) {
        const { code, stdout, stderr } = await curl(inner.certFile, host, port);
        expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "the inside /x", stderr: "" });
      }
    }
  });

  test("next to names that the server terminates", async () => {
    const secure = ports()[1]!;
    const { code, stdout, stderr } = await curl(outer.certFile, "web.localhost", secure);
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "the web /x", stderr: "" });
    const arrivals = new Arrivals(hand);
    const asking = curl(outer.certFile, "hand.localhost", secure, "-H", "X-Forwarded-Proto: http");
    const upstream = await arrivals.next();
    const head = await requestHead(upstream);
    expect(head.values("x-forwarded-proto")).toEqual(["https"]);
    expect(head.values("forwarded")).toEqual([`for=127.0.0.1;host="hand.localhost:${secure}";proto=https`]);
    upstream.send(HELLO);
    expect((await asking).stdout).toBe("hello");
  });

  test("a name that nobody has goes nowhere else", async () => {
    const [plain, secure] = ports() as [number, number];
    const unknown = await curl(inner.certFile, "other.test", plain);
    expect(unknown.code).not.toBe(0);
    // The server's own certificate, which is not for that name.
    expect((await curl(outer.certFile, "other.test", secure)).code).toBe(60);
    expect((await curl(outer.certFile, "other.test", secure, "-k")).stdout).not.toContain("inside");
  });

  test("a service that is down resets the visitor before a byte of TLS", async () => {
    for (const port of ports()) {
      const { code } = await curl(inner.certFile, "gone.test", port);
      expect(code).toBe(35);
    }
  });

  test("an agent's own connection: wss:// with an authority it trusts, exit code 3 without", async () => {
    const to = `wss://localhost:${ports()[1]}`;
    await using trusting = await startSeikan([
      ...["agent", to, "--name", "secure", "--proxy-cacert", outer.certFile, "-e", `secured=${urlOf(web)}`],
    ]);
    expect(trusting.urls).toEqual([`https://secured.localhost:${ports()[1]}`]);
    const { code, stdout } = await curl(outer.certFile, "secured.localhost", ports()[1]!);
    expect([code, stdout]).toEqual([0, "the web /x"]);
    const distrusting = await runAgent(to, "--fail-fast", "-e", "1");
    expect([distrusting.code, distrusting.stderr]).toEqual([3, expect.stringContaining("certificate")]);
  });
});
