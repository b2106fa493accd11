import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { BulkEcho, BulkTransfer } from "../support/bulk.ts";
import { certificateFor } from "../support/certificates.ts";
import { closeBody, frame } from "../support/frames.ts";
import { freePort, spawnSeikan, type Process } from "../support/process.ts";
import { dialRaw, echo, RawServer, type RawSocket } from "../support/raw.ts";
import { Relay } from "../support/relay.ts";
import { runSeikan, startSeikan, type Outcome, type Running } from "../support/seikan.ts";
import { pattern, until, within } from "../support/wait.ts";
import {
  answerTo,
  RawTunnel,
  SAMPLE_ACCEPT,
  switchingTo,
  upgradeRequest,
  type FieldChanges,
} from "../support/websocket-client.ts";
import { ACK, DATA, FIN, GO_AWAY, PINGING, RST, SYN, WINDOW, yamuxFrame } from "../support/yamux-peer.ts";

setDefaultTimeout(60_000);

let origin: RawServer;
let target: string;
let server: Running;
beforeAll(async () => {
  origin = new RawServer(echo);
  target = `127.0.0.1:${origin.port}`;
  server = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  origin[Symbol.dispose]();
});

const ws = (to: { readonly port: number }, userinfo = "") => `ws://${userinfo}127.0.0.1:${to.port}`;
const via = (...hops: string[]) => hops.flatMap((hop) => ["--via", hop]);

/** Sends a few bytes as stdin and waits for the end of the process. */
const connect = (...args: string[]) => runSeikan(["connect", ...args], { stdin: "ping" });

/** A megabyte there and back over stdin and stdout, with a clean end of both directions. */
async function carries(...args: string[]): Promise<void> {
  const bytes = pattern(1024 * 1024, 12);
  await using child = spawnSeikan(["connect", target, ...args]);
  child.write(bytes);
  child.closeStdin();
  expect({ code: await child.exited(), stderr: child.stderr }).toEqual({ code: 0, stderr: "" });
  expect(Bun.hash(child.bytes)).toBe(Bun.hash(bytes));
}

/** Sends bytes through, half-closes and expects them back. */
async function echoes(to: Parameters<typeof dialRaw>[0], bytes = pattern(300_000)): Promise<void> {
  using client = await dialRaw(to);
  client.send(bytes).end();
  await client.receivesEnd();
  expect(Bun.hash(client.bytes)).toBe(Bun.hash(bytes));
}

const eventsOf = (running: Running, name: string) => running.events().filter(({ event }) => event === name);

/** Waits until so many events of this name have come. */
async function happens(running: Running, name: string, count = 1, ms?: number): Promise<Record<string, unknown>> {
  await until(() => eventsOf(running, name).length >= count, `${name} happens ${count} times`, ms);
  return eventsOf(running, name)[count - 1]!;
}

/** How often a server has opened a tunnel until now. */
const opened = (running: Running) => running.stderr().split("tunnel opened").length - 1;

const dialled = (port: number) =>
  dialRaw(port).then(
    (socket) => (socket.reset(), "accepted" as const),
    () => "refused" as const,
  );

/** Waits until nobody listens there any more. */
async function isFree(port: number): Promise<void> {
  while ((await dialled(port)) === "accepted");
}

// --- what a tunnel carries --------------------------------------------------------

describe("a stream in a tunnel", () => {
  test("stdin and stdout: every byte in both directions, and then the end", async () => {
    await carries(...via(ws(server)));
  });

  test("-L: many streams at once, each with its own bytes", async () => {
    using echoing = new BulkEcho();
    await using running = await startSeikan([
      ...["connect", "-L", `127.0.0.1:0=127.0.0.1:${echoing.port}`, ...via(ws(server))],
    ]);
    const sizes = [0, 1, 125, 126, 65_535, 65_536, 262_144, 262_145, 3_000_000, 9_000_001];
    const transfers = sizes.map((size, seed) => BulkTransfer.through(running.port, size, { seed: seed + 1 }));
    for (const { sent, received } of await Promise.all(transfers)) expect(received).toBe(sent);
    expect(echoing.connections).toBe(sizes.length);
  });

  test("stdin EOF half-closes, and the answer still comes", async () => {
    using hand = new RawServer();
    await using child = spawnSeikan(["connect", `127.0.0.1:${hand.port}`, ...via(ws(server))]);
    child.write("question");
    child.closeStdin();
    const inner = await hand.next();
    expect(await inner.receivesEnd()).toBe("question");
    inner.send("answer").end();
    expect(await child.exited()).toBe(0);
    expect([child.stdout, child.stderr]).toEqual(["answer", ""]);
  });

  test("half-close goes on in both directions, whichever side is first", async () => {
    using hand = new RawServer();
    await using running = await startSeikan([
      ...["connect", "-L", `127.0.0.1:0=127.0.0.1:${hand.port}`, ...via(ws(server))],
    ]);
    using first = await dialRaw(running.port);
    first.send("question").end();
    const asked = await hand.next();
    expect(await asked.receivesEnd()).toBe("question");
    asked.send("answer").end();
    expect(await first.receivesEnd()).toBe("answer");

    using second = await dialRaw(running.port);
    const greeting = await hand.next();
    greeting.send("hello, and that is all").end();
    expect(await second.receivesEnd()).toBe("hello, and that is all");
    second.send("still listening?").end();
    expect(await greeting.receivesEnd()).toBe("still listening?");
  });

  test("a reset stays a reset in both directions, and no other stream notices", async () => {
    using hand = new RawServer();
    await using running = await startSeikan([
      ...["connect", "-L", `127.0.0.1:0=127.0.0.1:${hand.port}`, ...via(ws(server))],
    ]);
    using other = await dialRaw(running.port);
    const kept = await hand.next();
    using torn = await dialRaw(running.port);
    const inner = await hand.next();
    inner.send("some");
    await torn.sees("some");
    inner.reset();
    await torn.receivesReset();

    using tearing = await dialRaw(running.port);
    tearing.send("some");
    const seeing = await hand.next();
    await seeing.sees("some");
    tearing.reset();
    await seeing.receivesReset();

    other.send("alive?");
    await kept.sees("alive?");
    kept.send("alive!");
    await other.sees("alive!");
  });

  test("in stdio mode a reset by the target is exit code 1 behind what came before it", async () => {
    using hand = new RawServer();
    await using child = spawnSeikan(["connect", `127.0.0.1:${hand.port}`, ...via(ws(server))]);
    const inner = await hand.next();
    inner.send("some");
    await child.prints("some");
    inner.reset();
    expect(await child.exited()).toBe(1);
    expect(child.stdout).toBe("some");
    expect(child.stderr).toContain("reset");
  });

  test("one that is not read holds up no other, and gets all its bytes in the end", async () => {
    const much = pattern(24 * 1024 * 1024, 13);
    using hand = new RawServer();
    await using running = await startSeikan([
      ...["connect", "-L", `127.0.0.1:0=127.0.0.1:${hand.port}`, "-L", `127.0.0.1:0=${target}`, ...via(ws(server))],
    ]);
    using stalled = await dialRaw(running.port);
    stalled.pause();
    (await hand.next()).send(much).end();
    const otherPort = Number(running.listeners[1]!.split(":").at(-1));
    for (let i = 0; i < 5; i++) await echoes(otherPort, pattern(500_000, i + 1));
    stalled.resume();
    await stalled.receivesEnd(30_000);
    expect(Bun.hash(stalled.bytes)).toBe(Bun.hash(much));
  });

  test("dynamic listeners use it, too: CONNECT, absolute-form and SOCKS", async () => {
    const web = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("from the web") });
    try {
      await using running = await startSeikan(["connect", "-L", "mixed://127.0.0.1:0", ...via(ws(server))]);
      const at = `127.0.0.1:${web.port}`;
      const get = `GET /x HTTP/1.1\r\nHost: ${at}\r\nConnection: close\r\n\r\n`;
      using connecting = await dialRaw(running.port);
      connecting.send(`CONNECT ${at} HTTP/1.1\r\nHost: ${at}\r\n\r\n`);
      expect((await connecting.response("CONNECT")).status).toBe(200);
      connecting.send(get);
      expect((await connecting.response()).body).toBe("from the web");

      const { status, body } = await answerTo(running.port, get.replace("/x", `http://${at}/x`));
      expect([status, body]).toEqual([200, "from the web"]);

      using socks = await dialRaw(running.port);
      socks.send(Uint8Array.of(5, 1, 0));
      await socks.receives(2);
      socks.send(Uint8Array.of(5, 1, 0, 1, 127, 0, 0, 1, web.port! >> 8, web.port! & 255));
      await socks.receives(12);
      expect(socks.bytes.subarray(0, 4).toString("hex")).toBe("05000500");
      socks.send(get);
      await socks.sees("from the web");
      expect(eventsOf(running, "tunnel-up")).toHaveLength(1);
    } finally {
      await web.stop(true);
    }
  });
});

describe("a target that is refused", () => {
  test("nobody listens: exit code 3, with the server's reason", async () => {
    const gone = `127.0.0.1:${freePort()}`;
    const { code, stdout, stderr } = await connect(gone, ...via(ws(server)));
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toContain(`${ws(server)} refused CONNECT ${gone}: 502`);
    expect(stderr).toMatch(/it says: .*(refused|connect)/i);
    expect(stderr).not.toContain("unknown");
  });

  test("a name that does not exist: exit code 3, and the reason names it", async () => {
    const { code, stdout, stderr } = await connect("no-such-host.invalid:80", ...via(ws(server)));
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toContain("no-such-host.invalid");
    expect(stderr).toContain("it says:");
  });

  test("--deny-net and the server itself: 403 and exit code 3", async () => {
    await using strict = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--deny-net", target],
    ]);
    const denied = await connect(target, ...via(ws(strict)));
    expect([denied.code, denied.stdout]).toEqual([3, ""]);
    expect(denied.stderr).toContain("403");
    expect(denied.stderr).toContain("--deny-net forbids it");
    const itself = await connect(`127.0.0.1:${strict.port}`, ...via(ws(strict)));
    expect([itself.code, itself.stdout]).toEqual([3, ""]);
    expect(itself.stderr).toContain("it is this server itself");
    const logged = eventsOf(strict, "tunnel").map((event) => [event.target, event.status, event.end]);
    expect(logged).toEqual([
      [target, 403, "address-denied"],
      [`127.0.0.1:${strict.port}`, 403, "address-denied"],
    ]);
  });

  test("-L: this connection is reset, the reason is logged, and the others live on", async () => {
    const gone = `127.0.0.1:${freePort()}`;
    await using running = await startSeikan([
      ...["connect", "-L", `127.0.0.1:0=${target}`, "-L", `127.0.0.1:0=${gone}`, ...via(ws(server))],
    ]);
    using other = await dialRaw(running.port);
    other.send("before");
    await other.sees("before");
    using refused = await dialRaw(Number(running.listeners[1]!.split(":").at(-1)));
    await refused.receivesReset();
    const failed = await happens(running, "failed");
    expect(failed).toMatchObject({ target: gone, code: "hop-refused" });
    await until(() => running.stderr().includes("it says: seikan:"), "the server's reason is logged");
    other.send(" and behind");
    await other.sees("before and behind");
    expect(eventsOf(running, "tunnel-up")).toHaveLength(1);
    expect(eventsOf(running, "tunnel-lost")).toHaveLength(0);
  });
});

// --- the endpoint -------------------------------------------------------------------

describe("the endpoint of serve, asked by hand", () => {
  const protocol = { "Sec-WebSocket-Protocol": "seikan.v1" };
  const ask = (changes: FieldChanges, to: { port: number } = server, path = "/-/tunnel") =>
    answerTo(to.port, upgradeRequest(path, { ...protocol, ...changes }));

  test("answers the sample key of RFC 6455 as it must, and switches no extension on", async () => {
    const extensions = { "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits" };
    const { statusLine, values } = await ask(extensions);
    expect(statusLine).toBe("HTTP/1.1 101 Switching Protocols");
    expect(values("upgrade").map((value) => value.toLowerCase())).toEqual(["websocket"]);
    expect(values("connection").map((value) => value.toLowerCase())).toEqual(["upgrade"]);
    expect(values("sec-websocket-accept")).toEqual([SAMPLE_ACCEPT]);
    expect(values("sec-websocket-protocol")).toEqual(["seikan.v1"]);
    expect(values("sec-websocket-extensions")).toEqual([]);
  });

  const right: [string, FieldChanges][] = [
    ["tokens in lists and in any case", { Connection: "keep-alive, UPGRADE", Upgrade: "h2c, WebSocket" }],
    ["several subprotocols", { "Sec-WebSocket-Protocol": "seikan.v2, seikan.v1" }],
    ["any path-independent query", {}],
  ];
  for (const [what, changes] of right) {
    test(`takes ${what}`, async () => {
      const { status, values } = await ask(changes, server, "/-/tunnel?a=b");
      expect([status, values("sec-websocket-protocol")]).toEqual([101, ["seikan.v1"]]);
    });
  }

  test("the host is free: nginx in front passes on the one that was asked for, and browsers come with an Origin", async () => {
    expect((await ask({ Host: "tunnel.example.com" })).status).toBe(101);
    expect((await ask({ Host: "tunnel.example.com", Origin: "http://tunnel.example.com" })).status).toBe(403);
    const page = await answerTo(server.port, "GET / HTTP/1.1\r\nHost: tunnel.example.com\r\n\r\n");
    expect(page.status).toBe(404);
  });

  test("a plain GET is told 426 and what to upgrade to", async () => {
    const { status, values, body } = await answerTo(server.port, "GET /-/tunnel HTTP/1.1\r\nHost: localhost\r\n\r\n");
    expect(status).toBe(426);
    expect(values("upgrade")).toEqual(["websocket"]);
    expect(body).toContain("asks for no upgrade");
    expect(body).toContain("hint:");
  });

  for (const version of ["12", "8", undefined, "13, 12"]) {
    test(`version ${version ?? "none"} is told 426 and version 13`, async () => {
      const { status, values } = await ask({ "Sec-WebSocket-Version": version });
      expect([status, values("sec-websocket-version")]).toEqual([426, ["13"]]);
    });
  }

  const wrong: [string, FieldChanges, number, string][] = [
    ["a key that is too short", { "Sec-WebSocket-Key": "AAAA" }, 400, "Sec-WebSocket-Key"],
    ["no key", { "Sec-WebSocket-Key": undefined }, 400, "Sec-WebSocket-Key"],
    ["no subprotocol", { "Sec-WebSocket-Protocol": undefined }, 400, "this tunnel speaks seikan.v1"],
    ["another version of the protocol", { "Sec-WebSocket-Protocol": "seikan.v9" }, 400, "seikan.v9"],
    ["a body", { "Content-Length": "3" }, 400, "body"],
    ["no Upgrade", { Upgrade: undefined }, 426, "asks for no upgrade"],
    ["no Connection", { Connection: "keep-alive" }, 426, "asks for no upgrade"],
    ["another upgrade", { Upgrade: "h2c" }, 426, "asks for no upgrade"],
  ];
  for (const [what, changes, status, sentence] of wrong) {
    test(`refuses ${what} with ${status} and a sentence`, async () => {
      const answer = await ask(changes);
      expect(answer.status).toBe(status);
      expect(answer.body).toStartWith("seikan: ");
      expect(answer.body).toContain(sentence);
      expect(answer.values("proxy-status").join()).toContain("seikan; error=");
    });
  }

  test("refuses another method and HTTP/1.0", async () => {
    const post = await answerTo(server.port, upgradeRequest("/", protocol, "POST /-/tunnel HTTP/1.1"));
    expect(post.status).toBe(400);
    const old = await answerTo(server.port, upgradeRequest("/", protocol, "GET /-/tunnel HTTP/1.0"));
    expect(old.status).toBe(400);
  });

  test("pages of another origin get 403, unless --ws-origin lists theirs", async () => {
    const listed = "https://app.example.com";
    await using choosy = await startSeikan(["serve", "-l", "127.0.0.1:0", "--ws-origin", listed]);
    for (const Origin of ["https://evil.example", "null", `http://127.0.0.1:${choosy.port}`, `${listed}:8443`]) {
      const { status, body } = await ask({ Origin }, choosy);
      expect([status, Origin]).toEqual([403, Origin]);
      expect(body).toContain("may not open this WebSocket");
    }
    expect((await ask({ Origin: listed }, choosy)).status).toBe(101);
    expect((await ask({ Origin: listed.toUpperCase() }, choosy)).status).toBe(101);
    expect((await ask({}, choosy)).status).toBe(101);
    expect((await ask({ Origin: listed })).status).toBe(403);
  });

  test("bytes behind the request are the tunnel's first ones", async () => {
    using client = await dialRaw(server.port);
    const ping = yamuxFrame(PINGING, SYN, 0, 77);
    const first = frame({ opcode: 2, payload: ping, key: Uint8Array.of(1, 2, 3, 4) });
    client.send(Buffer.concat([Buffer.from(upgradeRequest("/-/tunnel", protocol)), first]));
    const answer = await client.response();
    using tunnel = new RawTunnel(client, answer);
    expect(await tunnel.gets("the ping's answer", ({ type }) => type === PINGING)).toMatchObject({
      flags: ACK,
      length: 77,
    });
  });

  test("a stream is a client of its own: refused, forwarded or unknown requests are answered in it", async () => {
    const web = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("from the web") });
    try {
      using tunnel = await RawTunnel.open(server.port);
      tunnel.connect(1, `127.0.0.1:${freePort()}`);
      expect(await tunnel.hears(1, "\r\n\r\nseikan: ")).toMatch(/^HTTP\/1\.1 502 [\s\S]*Proxy-Status: seikan; error=/i);
      tunnel.connect(3, target);
      await tunnel.hears(3, "HTTP/1.1 200 ");
      tunnel.ask(5, `GET http://127.0.0.1:${web.port}/ HTTP/1.1\r\nHost: 127.0.0.1:${web.port}\r\n\r\n`);
      await tunnel.hears(5, "from the web");
      tunnel.ask(7, "nonsense\r\n\r\n");
      await tunnel.hears(7, "HTTP/1.1 400 ");
      tunnel.yamux(DATA, 0, 3, "still there");
      await tunnel.hears(3, "still there");
    } finally {
      await web.stop(true);
    }
  });

  test("bytes sent before the answer wait for the dial and are delivered first", async () => {
    using tunnel = await RawTunnel.open(server.port);
    tunnel.ask(1, `CONNECT ${target} HTTP/1.1\r\nHost: x\r\n\r\nearly `).yamux(DATA, FIN, 1, "and the end");
    expect(await tunnel.hears(1, "and the end")).toEndWith("\r\n\r\nearly and the end");
    await tunnel.gets("the end of the stream", ({ stream, flags }) => stream === 1 && (flags & FIN) !== 0);
  });

  const protocolErrors: [string, Buffer][] = [
    ["another version of yamux", Buffer.concat([Buffer.of(1), yamuxFrame(PINGING, SYN, 0, 1).subarray(1)])],
    ["an unknown frame type", yamuxFrame(9, 0, 0, 0)],
    ["a stream with a number of ours", yamuxFrame(DATA, SYN, 2, "x")],
    ["more than the window holds", yamuxFrame(DATA, SYN, 1, Buffer.alloc(262_145))],
  ];
  for (const [what, bytes] of protocolErrors) {
    test(`ends a tunnel because of ${what}, and no other`, async () => {
      using other = await RawTunnel.open(server.port);
      other.connect(1, target);
      await other.hears(1, "HTTP/1.1 200 ");
      using bad = await RawTunnel.open(server.port);
      bad.binary(bytes);
      expect((await bad.gets("a GoAway", ({ type }) => type === GO_AWAY)).length).toBe(1);
      await bad.socket.over();
      other.yamux(DATA, 0, 1, "alive");
      await other.hears(1, "alive");
    });
  }

  const badFrames: [string, Parameters<typeof frame>[0], number][] = [
    ["an unmasked frame", { opcode: 2, payload: "x", key: undefined }, 1002],
    ["a reserved bit", { opcode: 2, payload: "x", rsv: 4 }, 1002],
    ["an unknown opcode", { opcode: 3, payload: "x" }, 1002],
    ["a text message", { opcode: 1, payload: "x" }, 1003],
    ["a frame of more than 16 MiB", { opcode: 2, form: 64, length: 16n * 1024n * 1024n + 1n }, 1009],
    ["a length that is longer than it must be", { opcode: 2, payload: "x", form: 64 }, 1002],
    ["a control frame in pieces", { opcode: 9, fin: false }, 1002],
    ["a close frame with half a code", { opcode: 8, payload: "x" }, 1002],
  ];
  for (const [what, shape, code] of badFrames) {
    test(`${what} is refused with ${code}`, async () => {
      using bad = await RawTunnel.open(server.port);
      bad.send(shape);
      expect((await bad.closed()).code).toBe(code);
      await bad.socket.over();
    });
  }
});

describe("where the endpoint is", () => {
  test("--tunnel-path moves it, and the client finds it by the path in its URL", async () => {
    await using moved = await startSeikan(["serve", "-l", "127.0.0.1:0", "--tunnel-path", "/some/where"]);
    await carries(...via(`${ws(moved)}/some/where`));
    await carries(...via(`${ws(moved)}/some/where?token=1`));
    const { code, stdout, stderr } = await connect(target, ...via(ws(moved)));
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toContain("404");
    expect(stderr).toContain("is /-/tunnel the right path?");
  });

  test("a wrong path: 404, exit code 3, and a hint that asks for the path", async () => {
    const { code, stdout, stderr } = await connect(target, ...via(`${ws(server)}/wrong`));
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toContain(`${ws(server)} refused WebSocket upgrade of /wrong: 404`);
    expect(stderr).toContain("is /wrong the right path?");
  });

  test("--no-tunnel offers none", async () => {
    await using without = await startSeikan(["serve", "-l", "127.0.0.1:0", "--no-tunnel"]);
    const { code, stderr } = await connect(target, ...via(ws(without)));
    expect(code).toBe(3);
    expect(stderr).toContain("404");
    await carries(...via(`http://127.0.0.1:${without.port}`));
  });

  test("a path that is none is a usage error on both sides", async () => {
    const serve = await runSeikan(["serve", "-l", "127.0.0.1:0", "--tunnel-path", "nowhere"]);
    expect([serve.code, serve.stderr.includes("expected a path")]).toEqual([2, true]);
    const hop = await connect(target, "--via", `http://127.0.0.1:${server.port}/path`);
    expect([hop.code, hop.stderr.includes("a proxy has no path")]).toEqual([2, true]);
  });
});

// --- users --------------------------------------------------------------------------

describe("users", () => {
  let guarded: Running;
  beforeAll(async () => {
    guarded = await startSeikan([
      ...[
        "serve",
        "-l",
        "127.0.0.1:0",
        "--access-log",
        "json",
        "--auth",
        "ann:pa:ss w%rd",
        "--auth",
        "bot:T0ken-._~+/=",
      ],
    ]);
  });
  afterAll(() => guarded[Symbol.asyncDispose]());

  const loggedUsers = () => eventsOf(guarded, "tunnel").map(({ user }) => user);

  test("without and with wrong credentials: 401, exit code 4, and nothing of them on the terminal", async () => {
    const none = await connect(target, ...via(ws(guarded)));
    expect([none.code, none.stdout]).toEqual([4, ""]);
    expect(none.stderr).toContain("401");
    for (const args of [
      via(ws(guarded, "ann:wrong-one@")),
      via(ws(guarded, "nobody:wrong-one@")),
      [...via(ws(guarded)), "--proxy-auth", "ann:wrong-one"],
      [...via(ws(guarded)), "--proxy-auth", "Bearer wrong-one"],
    ]) {
      const { code, stdout, stderr } = await connect(target, ...args);
      expect([code, stdout, args]).toEqual([4, "", args]);
      expect(stderr).toContain("401");
      expect(stderr).not.toContain("wrong-one");
    }
  });

  test("a refusal by hand: 401 with its scheme, and no 407", async () => {
    const request = upgradeRequest("/-/tunnel", { "Sec-WebSocket-Protocol": "seikan.v1" });
    const { status, values } = await answerTo(guarded.port, request);
    expect(status).toBe(401);
    expect(values("www-authenticate").join()).toMatch(/^Basic realm=/);
    expect(values("proxy-authenticate")).toEqual([]);
  });

  test("Basic from the URL and from --proxy-auth, Bearer from --proxy-auth; the access log names the user", async () => {
    await carries(...via(ws(guarded, `ann:${encodeURIComponent("pa:ss w%rd")}@`)));
    await carries(...via(ws(guarded)), "--proxy-auth", "ann:pa:ss w%rd");
    await carries(...via(ws(guarded)), "--proxy-auth", "Bearer T0ken-._~+/=");
    await until(() => loggedUsers().length >= 3, "three streams are logged");
    expect(loggedUsers()).toEqual(["ann", "ann", "bot"]);
    const [first] = eventsOf(guarded, "tunnel");
    expect(first).toMatchObject({ method: "CONNECT", target, status: 200, up: 1024 * 1024, down: 1024 * 1024 });
    expect(String(first!.peer)).toMatch(/^127\.0\.0\.1:\d+$/);
    expect(guarded.stderr()).toMatch(/tunnel opened.*user=ann/);
    expect(guarded.stderr()).toMatch(/tunnel opened.*user=bot/);
    expect(guarded.stderr()).not.toContain("pa:ss");
  });

  test("a token is no password of somebody else, and a stream needs no credentials of its own", async () => {
    const Authorization = `Basic ${Buffer.from("ann:T0ken-._~+/=").toString("base64")}`;
    const request = { "Sec-WebSocket-Protocol": "seikan.v1", Authorization };
    expect((await answerTo(guarded.port, upgradeRequest("/-/tunnel", request))).status).toBe(401);
    using tunnel = await RawTunnel.open(guarded.port, "/-/tunnel", { Authorization: "Bearer T0ken-._~+/=" });
    const forged = Buffer.from("ann:x").toString("base64");
    tunnel.ask(1, `CONNECT ${target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic ${forged}\r\n\r\n`);
    await tunnel.hears(1, "HTTP/1.1 200 ");
    tunnel.yamux(DATA, FIN, 1, "bye");
    await tunnel.hears(1, "bye");
    await until(() => loggedUsers().length >= 4, "the stream is logged");
    expect(loggedUsers().at(-1)).toBe("bot");
  });

  test("-L: refused from the start ends the run with 4", async () => {
    await using child = spawnSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(ws(guarded, "ann:wrong-one@"))]);
    expect(await child.exited()).toBe(4);
    expect(child.stderr).toContain("401");
    expect(child.stderr).not.toContain("wrong-one");
  });

  test("behind something that adds X-Forwarded-For a loopback server counts as exposed", async () => {
    const Authorization = "Bearer T0ken-._~+/=";
    const request = { "Sec-WebSocket-Protocol": "seikan.v1", "X-Forwarded-For": "192.0.2.1" };
    const open = await answerTo(server.port, upgradeRequest("/-/tunnel", request));
    expect([open.status, open.body.includes("no users")]).toEqual([403, true]);
    // With a user it opens, and dials public addresses only.
    using tunnel = await RawTunnel.open(guarded.port, "/-/tunnel", { ...request, Authorization });
    tunnel.connect(1, target);
    expect(await tunnel.hears(1, "public addresses only")).toStartWith("HTTP/1.1 403 ");
  });
});

// --- answers that are no tunnel -------------------------------------------------------

describe("something else answers", () => {
  /** Answers each request's head with what `answer` makes of it, and keeps the connection open. */
  const scripted = (answer: (head: string) => string | Uint8Array, end = false) =>
    new RawServer((socket) => {
      void socket.sees("\r\n\r\n").then(
        (head) => (end ? socket.send(answer(head)).end() : socket.send(answer(head))),
        () => {},
      );
    });
  const plain = (status: string, body: string, ...fields: string[]) =>
    [`HTTP/1.1 ${status}`, `Content-Length: ${body.length}`, ...fields, "", body].join("\r\n");

  const html = "<html><head><title>Portal</title></head><body><h1>Please log in</h1></body></html>";
  const answers: [string, number, RegExp, (head: string) => string | Uint8Array][] = [
    ["200 and a page", 3, /: 200 OK[\s\S]*Please log in[\s\S]*stripped/, () => plain("200 OK", html)],
    ["302", 3, /: 302[\s\S]*redirects/, () => plain("302 Found", "", "Location: https://login.test/")],
    ["404", 3, /: 404[\s\S]*right path/, () => plain("404 Not Found", "no")],
    ["426", 3, /: 426[\s\S]*stripped/, () => plain("426 Upgrade Required", "no", "Upgrade: websocket")],
    ["400", 3, /: 400[\s\S]*it says: what\?/, () => plain("400 Bad Request", "what?")],
    ["403", 4, /: 403[\s\S]*it says: not you/, () => plain("403 Forbidden", "not you")],
    ["401 without a scheme", 4, /401/, () => plain("401 Unauthorized", "")],
    ["407", 4, /: 407[\s\S]*hop of its own/, () => plain("407 Proxy Authentication Required", "")],
    ["502", 3, /: 502[\s\S]*it says: no backend/, () => plain("502 Bad Gateway", "no backend")],
    ["429", 3, /: 429/, () => plain("429 Too Many Requests", "slow down")],
    ["TLS", 3, /does not answer in HTTP[\s\S]*wss:\/\//, () => Buffer.from("15030300020228", "hex")],
    ["the greeting of ssh", 3, /does not answer in HTTP/, () => "SSH-2.0-OpenSSH_9.2\r\n"],
    ["zeros", 3, /does not answer in HTTP/, () => new Uint8Array(64)],
    ["a head without end", 3, /./, () => `HTTP/1.1 101 X\r\nA: ${"x".repeat(300_000)}`],
    [
      "a wrong accept key",
      3,
      /Sec-WebSocket-Accept is wrong/,
      (head) => switchingTo(head, { "Sec-WebSocket-Accept": SAMPLE_ACCEPT }),
    ],
    [
      "no accept key",
      3,
      /Sec-WebSocket-Accept is wrong/,
      (head) => switchingTo(head, { "Sec-WebSocket-Accept": undefined }),
    ],
    [
      "no subprotocol",
      3,
      /does not speak seikan\.v1/,
      (head) => switchingTo(head, { "Sec-WebSocket-Protocol": undefined }),
    ],
    ["another subprotocol", 3, /seikan\.v2/, (head) => switchingTo(head, { "Sec-WebSocket-Protocol": "seikan.v2" })],
    ["an extension", 3, /extension/, (head) => switchingTo(head, { "Sec-WebSocket-Extensions": "permessage-deflate" })],
    ["another upgrade", 3, /names no Upgrade to websocket/, (head) => switchingTo(head, { Upgrade: "h2c" })],
    [
      "a 101 without Connection",
      3,
      /lacks Connection: Upgrade/,
      (head) => switchingTo(head, { Connection: undefined }),
    ],
  ];
  for (const [what, code, says, answer] of answers) {
    test(`${what}: exit code ${code}, and a sentence that names the hop`, async () => {
      using fake = scripted(answer);
      const outcome = await connect(target, ...via(ws(fake)), "--connect-timeout", "5s");
      expect([outcome.code, outcome.stdout]).toEqual([code, ""]);
      expect(outcome.stderr).toMatch(says);
      expect(outcome.stderr).toContain(`127.0.0.1:${fake.port}`);
    });
  }

  test("nothing at all, and then the end: exit code 3", async () => {
    using fake = scripted(() => "", true);
    const { code, stdout, stderr } = await connect(target, ...via(ws(fake)));
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toContain(ws(fake));
  });

  test("a withheld answer: exit code 124, and a hint", async () => {
    using fake = new RawServer();
    const { code, stdout, stderr } = await connect(target, ...via(ws(fake)), "--connect-timeout", "600ms");
    expect([code, stdout]).toEqual([124, ""]);
    expect(stderr).toContain(`${ws(fake)} withholds its answer to the WebSocket upgrade`);
    expect(stderr).toContain("buffering");
  });

  test("a proxy that strips Upgrade: exit code 3, and a hint that says so", async () => {
    const strip = (head: string) => head.replace(/^(upgrade|connection): .*\r\n/gim, "");
    using relay = new Relay(server.port, { edit: strip });
    const { code, stdout, stderr } = await connect(target, ...via(ws(relay)));
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toContain("426");
    expect(stderr).toContain("stripped");
  });

  test("ws:// to a TLS port and wss:// to a plain one are told", async () => {
    const { certFile, keyFile } = certificateFor("localhost", "127.0.0.1");
    await using secure = await startSeikan([
      ...["serve", "-l", "https://127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile],
    ]);
    const bare = await connect(target, ...via(ws(secure)));
    expect([bare.code, bare.stdout]).toEqual([3, ""]);
    expect(bare.stderr).toContain(ws(secure));
    const tls = await connect(target, ...via(`wss://127.0.0.1:${server.port}`));
    expect([tls.code, tls.stdout]).toEqual([3, ""]);
    expect(tls.stderr).toContain("TLS");
  });

  test("-L goes on trying, says why, and works once the right one answers", async () => {
    let answer = (head: string) => plain(head === "" ? "" : "503 Service Unavailable", "maintenance");
    using fake = new RawServer((socket) => {
      void socket.sees("\r\n\r\n").then(
        (head) => socket.send(answer(head)),
        () => {},
      );
    });
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(ws(fake))]);
    const failed = await happens(running, "tunnel-failed", 2);
    expect(failed).toMatchObject({ code: "hop-refused", tunnel: ws(fake) });
    expect(String(failed.message)).toContain("503");
    expect(running.stderr()).toContain("it says: maintenance");
    answer = (head) => switchingTo(head);
    await happens(running, "tunnel-up");
  });
});

describe("garbage behind a right 101", () => {
  /** Accepts a tunnel as it should and then sends this, once the first bytes of yamux came. */
  const turncoat = (bytes: Uint8Array, then: (socket: RawSocket) => void = () => {}) =>
    new RawServer((socket) => {
      const run = async () => {
        const head = await socket.sees("\r\n\r\n");
        socket.send(switchingTo(head));
        await socket.receives(head.length + 20);
        socket.send(bytes);
        then(socket);
      };
      void run().catch(() => {});
    });
  const binary = (payload: Uint8Array | string) => frame({ opcode: 2, payload });

  const garbage: [string, Uint8Array, RegExp?][] = [
    ["random bytes", pattern(500, 99)],
    ["HTTP", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")],
    ["a masked frame", frame({ opcode: 2, payload: "x", key: Uint8Array.of(1, 2, 3, 4) }), /mask/i],
    ["a reserved bit", frame({ opcode: 2, payload: "x", rsv: 4 })],
    ["an unknown opcode", frame({ opcode: 11, payload: "x" })],
    ["a text message", frame({ opcode: 1, payload: "x" }), /text/i],
    ["a frame of 17 MiB", frame({ opcode: 2, form: 64, length: 17n * 1024n * 1024n })],
    ["a negative length", frame({ opcode: 2, form: 64, length: 1n << 63n })],
    ["yamux of another version", binary(Buffer.of(9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))],
    ["no yamux", binary("this is no yamux at all, is it?")],
    ["a stream with the client's number", binary(yamuxFrame(WINDOW, SYN, 3, 0))],
    ["data for more than the window", binary(yamuxFrame(DATA, 0, 1, Buffer.alloc(262_145)))],
    ["a GoAway with an error", binary(yamuxFrame(GO_AWAY, 0, 0, 2)), /error/i],
    ["close frame 1011", frame({ opcode: 8, payload: closeBody(1011, "out of order") }), /1011.*out of order/],
    ["close frame 1000", frame({ opcode: 8, payload: closeBody(1000) })],
    ["a reset of the stream", binary(yamuxFrame(WINDOW, RST, 1, 0))],
    ["no HTTP in the stream", binary(yamuxFrame(DATA, 0, 1, "220 mail.test ESMTP\r\n"))],
    ["a 101 in the stream", binary(yamuxFrame(DATA, 0, 1, "HTTP/1.1 101 Switching Protocols\r\n\r\n"))],
    ["the end of the stream", binary(yamuxFrame(WINDOW, FIN, 1, 0))],
  ];
  for (const [what, bytes, says] of garbage) {
    test(`${what}: an error that names the hop, and no byte on stdout`, async () => {
      using fake = turncoat(bytes);
      const { code, stdout, stderr } = await connect(target, ...via(ws(fake)), "--connect-timeout", "5s");
      expect(stdout).toBe("");
      expect([1, 3]).toContain(code);
      expect(stderr).toContain(ws(fake));
      if (says !== undefined) expect(stderr).toMatch(says);
    });
  }

  for (const how of ["end", "reset"] as const) {
    test(`${how === "end" ? "FIN without a close frame" : "RST"}: the same`, async () => {
      using fake = turncoat(Buffer.alloc(0), (socket) => (how === "end" ? socket.end() : socket.reset()));
      const { code, stdout, stderr } = await connect(target, ...via(ws(fake)));
      expect([stdout, code === 1 || code === 3]).toEqual(["", true]);
      expect(stderr).toContain(ws(fake));
    });
  }

  test("silence: 124", async () => {
    using fake = turncoat(Buffer.alloc(0));
    const { code, stdout, stderr } = await connect(target, ...via(ws(fake)), "--connect-timeout", "600ms");
    expect([code, stdout]).toEqual([124, ""]);
    expect(stderr).toContain(ws(fake));
  });
});

// --- a tunnel that is cut -----------------------------------------------------------------

describe("cut at any byte", () => {
  const message = pattern(20_000, 17);

  /** One stdio run through a relay; the target sends `message` and, unless it waits, its end. */
  async function through(relay: Relay, hand: RawServer): Promise<Outcome & { bytes: Buffer }> {
    await using child: Process = spawnSeikan([
      ...["connect", `127.0.0.1:${hand.port}`, ...via(ws(relay)), "--connect-timeout", "5s"],
    ]);
    child.closeStdin();
    return { code: await child.exited(), stdout: child.stdout, stderr: child.stderr, bytes: child.bytes };
  }

  /** Runs `work` for all of these, a few at a time. */
  async function each<T>(items: readonly T[], work: (item: T) => Promise<void>, width = 6): Promise<void> {
    const left = [...items];
    const run = async () => {
      for (let item = left.shift(); item !== undefined; item = left.shift()) await work(item);
    };
    await Promise.all(Array.from({ length: width }, run));
  }

  const isPrefix = (bytes: Buffer) => message.subarray(0, bytes.length).equals(bytes);

  test("on the way down while the target still sends: always an error, never other bytes than it sent", async () => {
    using hand = new RawServer((socket) => void socket.send(message));
    const places = [0, 1, 2, 16, 100, 150, 177, 178, 179, 180, 181, 182, 190, 191, 192, 193, 194, 200, 220, 240];
    const deep = [260, 300, 400, 500, 1000, 4096, 10_000, 15_000, 20_000];
    const cuts = [...places, ...deep].map((after, index) => ({
      after,
      how: index % 2 === 0 ? ("end" as const) : ("reset" as const),
    }));
    let most = 0;
    await each(cuts, async ({ after, how }) => {
      using relay = new Relay(server.port, { cut: { direction: "down", after, how } });
      const { code, stderr, bytes } = await through(relay, hand);
      expect({ after, how, isPrefix: isPrefix(bytes) }).toEqual({ after, how, isPrefix: true });
      expect({ after, how, code: code === 1 || code === 3, stderr }).toEqual({ after, how, code: true, stderr });
      expect(stderr).toContain(ws(relay));
      most = Math.max(most, bytes.length);
    });
    // The latest cut came in the middle of the data, the first ones before it.
    expect(most).toBeGreaterThan(10_000);
  });

  test("on the way down around the end: success if and only if everything was there", async () => {
    using hand = new RawServer((socket) => void socket.send(message).end());
    using whole = new Relay(server.port);
    expect((await through(whole, hand)).code).toBe(0);
    const { down } = whole.connections[0]!;
    const cuts = [0, 1, 2, 3, 4, 5, 8, 12, 13, 14, 15, 16, 17, 18, 19, 20, 24, 28, 29, 30, 40, 60];
    const codes = new Map<number, number>();
    await each(cuts, async (before) => {
      using relay = new Relay(server.port, { cut: { direction: "down", after: down - before, how: "reset" } });
      const { code, bytes } = await through(relay, hand);
      const complete = bytes.equals(message);
      if (code === 0) expect({ before, complete }).toEqual({ before, complete: true });
      else expect({ before, prefix: isPrefix(bytes) }).toEqual({ before, prefix: true });
      codes.set(before, code);
    });
    // Without the end of the stream all the data is not enough.
    expect(codes.get(60)).not.toBe(0);
    expect(codes.get(40)).not.toBe(0);
  });

  test("on the way up: the target sees a reset, never an end", async () => {
    const sent = pattern(20_000, 18);
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    // Head and CONNECT take less than 700 bytes.
    await each([700, 701, 710, 1000, 4000, 9000, 15_000, 20_000], async (after) => {
      using hand = new RawServer();
      using relay = new Relay(own.port, { cut: { direction: "up", after, how: after % 2 === 0 ? "end" : "reset" } });
      await using child = spawnSeikan(["connect", `127.0.0.1:${hand.port}`, ...via(ws(relay))]);
      child.write(sent);
      const inner = await hand.next();
      await inner.receivesReset();
      expect(sent.subarray(0, inner.length).equals(inner.bytes)).toBe(true);
      expect([after, await child.exited()]).toEqual([after, 1]);
      expect(child.stderr).toContain(ws(relay));
    });
  });
});

// --- chains ---------------------------------------------------------------------------

describe("chains", () => {
  const { certFile, keyFile } = certificateFor("localhost", "127.0.0.1");
  let other: Running;
  let third: Running;
  let secure: Running;
  beforeAll(async () => {
    const tls = ["--tls-cert", certFile, "--tls-key", keyFile];
    [other, third, secure] = await Promise.all([
      startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--auth", "a:b"]),
      startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]),
      startSeikan(["serve", "-l", "https://127.0.0.1:0", "--access-log", "json", "--auth", "s:t", ...tls]),
    ]);
  });
  afterAll(async () => {
    await Promise.all([other, third, secure].map((one) => one?.[Symbol.asyncDispose]()));
  });

  const logs = (running: Running, goal: string) =>
    until(() => running.events().some((event) => event.target === goal), `${goal} is logged`);
  const wss = () => `wss://s:t@localhost:${secure.port}`;
  const trust = ["--proxy-cacert", certFile];

  test("an HTTP proxy in front of the tunnel", async () => {
    await carries(...via(`http://a:b@127.0.0.1:${other.port}`, ws(third)));
    await logs(other, `127.0.0.1:${third.port}`);
    await logs(third, target);
  });

  test("SOCKS in front of it, by name and by address", async () => {
    await carries(...via(`socks5h://a:b@127.0.0.1:${other.port}`, `ws://localhost:${third.port}`));
    await logs(other, `localhost:${third.port}`);
    await carries(...via(`socks5://a:b@127.0.0.1:${other.port}`, ws(third)));
    await carries(...via(`socks4a://127.0.0.1:${third.port}`, ws(server)));
  });

  test("wss://, with the certificate checked, and behind an HTTP proxy", async () => {
    await carries(...via(wss()), ...trust);
    await carries(...via(wss()), "--proxy-insecure");
    await carries(...via(`http://127.0.0.1:${third.port}`, wss()), ...trust);
    await logs(third, `localhost:${secure.port}`);
    const distrusted = await connect(target, ...via(wss()));
    expect([distrusted.code, distrusted.stdout]).toEqual([3, ""]);
    expect(distrusted.stderr).toContain("certificate");
    expect(distrusted.stderr).toContain("--proxy-cacert");
  });

  test("an HTTP or SOCKS proxy behind the tunnel", async () => {
    await carries(...via(ws(third), `http://a:b@127.0.0.1:${other.port}`));
    await logs(third, `127.0.0.1:${other.port}`);
    await carries(...via(ws(third), `socks5h://a:b@127.0.0.1:${other.port}`));
    await carries(...via(wss(), `http://127.0.0.1:${third.port}`), ...trust);
  });

  test("a tunnel in a tunnel, with TLS around either of them", async () => {
    await carries(...via(ws(other, "a:b@"), ws(third)));
    await carries(...via(wss(), ws(third)), ...trust);
    await carries(...via(ws(third), wss()), ...trust);
    await carries(...via(ws(server), ws(third), wss()), ...trust);
  });

  test("all of it in one chain, as -L, and each hop is used", async () => {
    const hops = [`http://127.0.0.1:${third.port}`, ws(other, "a:b@"), `socks5h://127.0.0.1:${server.port}`, wss()];
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(...hops), ...trust]);
    await echoes(running.port);
    await echoes(running.port);
    expect(
      eventsOf(running, "tunnel-up")
        .map(({ tunnel }) => tunnel)
        .toSorted(),
    ).toEqual([ws(other), `wss://localhost:${secure.port}`]);
  });

  test("the error names the hop that failed, and what it said", async () => {
    const dead = freePort();
    const first = await connect(target, ...via(`http://127.0.0.1:${third.port}`, `ws://127.0.0.1:${dead}`));
    expect(first.code).toBe(3);
    expect(first.stderr).toContain(`http://127.0.0.1:${third.port} refused CONNECT 127.0.0.1:${dead}`);
    const second = await connect(target, ...via(ws(third), ws(other, "a:nope@")));
    expect(second.code).toBe(4);
    expect(second.stderr).toContain(`${ws(other)}`);
    expect(second.stderr).not.toContain("nope");
    const last = await connect(`127.0.0.1:${dead}`, ...via(ws(third), wss()), ...trust);
    expect(last.code).toBe(3);
    expect(last.stderr).toContain(`wss://localhost:${secure.port} refused CONNECT 127.0.0.1:${dead}: 502`);
  });

  test("serve sends its clients on through a tunnel, and its own rules come first", async () => {
    await using front = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--via", ws(other, "a:b@"), "--deny-net", "denied.test"],
    ]);
    await carries(...via(`http://127.0.0.1:${front.port}`));
    await carries(...via(ws(front)));
    const { code, stderr } = await connect("denied.test:80", ...via(ws(front)));
    expect(code).toBe(3);
    expect(stderr).toContain("--deny-net forbids it");
    await until(() => opened(other) > 0, "the far server logs a tunnel");
  });

  test("--route sends some targets through a tunnel and others not", async () => {
    using hand = new RawServer(echo);
    await using running = await startSeikan([
      ...["connect", "-L", "mixed://127.0.0.1:0", "--via", "direct", "--route", `localhost=${ws(third)}`],
    ]);
    for (const host of ["127.0.0.1", "localhost"]) {
      using client = await dialRaw(running.port);
      client.send(`CONNECT ${host}:${hand.port} HTTP/1.1\r\nHost: x\r\n\r\n`);
      expect((await client.response("CONNECT")).status).toBe(200);
      client.end();
      await client.receivesEnd();
    }
    await logs(third, `localhost:${hand.port}`);
    expect(third.events().some((event) => event.target === `127.0.0.1:${hand.port}`)).toBe(false);
    expect(eventsOf(running, "tunnel-up").map(({ tunnel }) => tunnel)).toEqual([ws(third)]);
  });
});

// --- one connection for everything ----------------------------------------------------

describe("the connection of a tunnel", () => {
  test("is made before anybody asks, and all local connections share it", async () => {
    using relay = new Relay(server.port);
    await using running = await startSeikan([
      ...["connect", "-L", "127.0.0.1:0", "-L", `127.0.0.1:0=localhost:${origin.port}`, target, ...via(ws(relay))],
    ]);
    expect(await happens(running, "tunnel-up")).toMatchObject({ tunnel: ws(relay) });
    expect(relay.connections).toHaveLength(1);
    const ports = running.listeners.map((address) => Number(address.split(":").at(-1)));
    await Promise.all(Array.from({ length: 20 }, (_, i) => echoes(ports[i % 2]!, pattern(10_000, i + 1))));
    expect(relay.connections).toHaveLength(1);
    expect(eventsOf(running, "tunnel-up")).toHaveLength(1);
  });

  test("--tunnels 3 makes three, spreads streams over them, and losing one costs its streams only", async () => {
    using hand = new RawServer();
    using relay = new Relay(server.port);
    await using running = await startSeikan([
      ...["connect", "-L", `127.0.0.1:0=127.0.0.1:${hand.port}`, "--tunnels", "3", ...via(ws(relay))],
    ]);
    await happens(running, "tunnel-up", 3);
    expect(relay.connections).toHaveLength(3);
    const clients: RawSocket[] = [];
    const inners: RawSocket[] = [];
    for (let i = 0; i < 6; i++) {
      clients.push(await dialRaw(running.port));
      inners.push(await hand.next());
    }
    relay.connections[0]!.cut("reset");
    await happens(running, "tunnel-lost");
    await until(() => clients.filter(({ closed }) => closed).length === 2, "two of six streams are over");
    await happens(running, "tunnel-up", 4);
    for (const [index, client] of clients.entries()) {
      if (client.closed) continue;
      client.send(`hello ${index}`);
      await inners[index]!.sees(`hello ${index}`);
    }
    expect(clients.filter(({ closed }) => closed)).toHaveLength(2);
    for (const client of clients) client.reset();
  });

  test("is kept for a --route alone, too", async () => {
    await using running = await startSeikan([
      "connect",
      "-L",
      "mixed://127.0.0.1:0",
      "--route",
      `localhost=${ws(server)}`,
    ]);
    await happens(running, "tunnel-up", 1, 3000);
  });

  test("is not there at first: the listener is ready, it is tried again, and then it works", async () => {
    const port = freePort();
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(ws({ port }))]);
    const failed = await happens(running, "tunnel-failed", 2);
    expect(failed).toMatchObject({ code: "connect-refused", tunnel: ws({ port }) });
    using waiting = await dialRaw(running.port);
    waiting.send("patience").end();
    await using late = await startSeikan(["serve", "-l", `127.0.0.1:${port}`]);
    expect(await waiting.receivesEnd()).toBe("patience");
    expect(late.port).toBe(port);
    expect(eventsOf(running, "tunnel-up")).toHaveLength(1);
  });

  test("is lost with its server: running streams are reset at once, new ones wait and then work", async () => {
    const port = freePort();
    await using first = await startSeikan(["serve", "-l", `127.0.0.1:${port}`]);
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(ws({ port }))]);
    using before = await dialRaw(running.port);
    before.send("before");
    await before.sees("before");
    first.kill("SIGKILL");
    await before.receivesReset(2000);
    const lost = await happens(running, "tunnel-lost");
    expect(lost.tunnel).toBe(ws({ port }));
    using during = await dialRaw(running.port);
    during.send("during").end();
    await happens(running, "tunnel-failed");
    await using second = await startSeikan(["serve", "-l", `127.0.0.1:${port}`]);
    expect(await during.receivesEnd()).toBe("during");
    await echoes(running.port);
    expect(opened(second)).toBe(1);
    expect(eventsOf(running, "tunnel-up")).toHaveLength(2);
  });

  test("a stream waits no longer than --connect-timeout, and is told what is wrong", async () => {
    const port = freePort();
    await using running = await startSeikan([
      ...["connect", "-L", "127.0.0.1:0", target, ...via(ws({ port })), "--connect-timeout", "700ms"],
    ]);
    using client = await dialRaw(running.port);
    await client.receivesReset();
    const failed = await happens(running, "failed");
    expect(failed).toMatchObject({ target, code: "connect-refused" });
    expect(String(failed.message)).toContain(`127.0.0.1:${port}`);
  });

  test("credentials that are refused later on are no reason to give up: they were good before", async () => {
    const port = freePort();
    await using first = await startSeikan(["serve", "-l", `127.0.0.1:${port}`, "--auth", "a:b"]);
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(ws({ port }, "a:b@"))]);
    await echoes(running.port);
    first.kill("SIGKILL");
    await happens(running, "tunnel-lost");
    await using other = await startSeikan(["serve", "-l", `127.0.0.1:${port}`, "--auth", "a:changed"]);
    await until(() => eventsOf(running, "tunnel-failed").some(({ code }) => code === "hop-auth"), "it is refused");
    other.kill("SIGKILL");
    await other.exited;
    await using again = await startSeikan(["serve", "-l", `127.0.0.1:${port}`, "--auth", "a:b"]);
    await happens(running, "tunnel-up", 2);
    await echoes(running.port);
    expect(opened(again)).toBe(1);
  });

  test("in stdio mode there is no second try: a lost tunnel is exit code 1", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    await using child = spawnSeikan(["connect", target, ...via(ws(own))]);
    child.write("x");
    await child.prints("x");
    own.kill("SIGKILL");
    expect(await child.exited(3000)).toBe(1);
    expect(child.stderr).toContain(`the tunnel ${ws(own)} was lost`);
  });

  test("ends with the client: the server sees it go, and the target a reset", async () => {
    using hand = new RawServer();
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    await using child = spawnSeikan(["connect", `127.0.0.1:${hand.port}`, ...via(ws(own))]);
    child.write("x");
    const inner = await hand.next();
    await inner.sees("x");
    child.kill("SIGKILL");
    await inner.receivesReset(3000);
    await until(() => own.stderr().includes("tunnel closed"), "the server logs it");
  });

  test("SIGTERM lets the client's open streams finish, and says goodbye to the server", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(ws(own))]);
    using client = await dialRaw(running.port);
    client.send("before");
    await client.sees("before");
    running.kill("SIGTERM");
    await isFree(running.port);
    client.send(" and behind").end();
    expect(await client.receivesEnd()).toBe("before and behind");
    expect(await within(running.exited, "the end")).toBe(0);
    await until(() => own.stderr().includes("tunnel closed"), "the server logs it");
    expect(own.stderr()).not.toMatch(/tunnel closed.*end=/);
  });
});

describe("a client that comes again", () => {
  const SESSION = "Seikan-Session";

  test("takes its own place: the ghost of its former connection is closed at once", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    using hand = new RawServer();
    const key = "the-same-key-0123456789";
    using ghost = await RawTunnel.open(own.port, "/-/tunnel", { [SESSION]: key });
    ghost.connect(1, `127.0.0.1:${hand.port}`);
    const inner = await hand.next();
    using anew = await RawTunnel.open(own.port, "/-/tunnel", { [SESSION]: key });
    await ghost.socket.over(2000);
    await inner.receivesReset(2000);
    anew.connect(1, target);
    await anew.hears(1, "HTTP/1.1 200 ");
    // And again, so that the one in between is not forgotten.
    using third = await RawTunnel.open(own.port, "/-/tunnel", { [SESSION]: key });
    await anew.socket.over(2000);
    third.connect(1, target);
    await third.hears(1, "HTTP/1.1 200 ");
  });

  test("another key, no key, a key that is none, or another user: nobody has to go", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "a:b", "--auth", "c:d"]);
    const as = (user: string) => ({ Authorization: `Basic ${Buffer.from(user).toString("base64")}` });
    const key = "the-same-key-0123456789";
    const tunnels: RawTunnel[] = [];
    for (const fields of [
      { [SESSION]: key, ...as("a:b") },
      { [SESSION]: key, ...as("c:d") },
      { [SESSION]: `${key}x`, ...as("a:b") },
      ...[as("a:b"), as("a:b")],
      ...[
        { [SESSION]: "short", ...as("a:b") },
        { [SESSION]: "short", ...as("a:b") },
      ],
    ]) {
      tunnels.push(await RawTunnel.open(own.port, "/-/tunnel", fields));
    }
    for (const tunnel of tunnels) {
      tunnel.connect(1, target);
      await tunnel.hears(1, "HTTP/1.1 200 ");
    }
    for (const tunnel of tunnels) tunnel[Symbol.dispose]();
  });

  test("a seikan that reconnects behind a relay evicts the ghost that the relay kept", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    // Two relays in a row: the one next to the client is cut, the one next to the server knows nothing of it.
    const keys: string[] = [];
    using relay = new Relay(own.port, {
      edit(head) {
        keys.push(/^seikan-session: *(\S+)/im.exec(head)?.[1] ?? "none");
        return head;
      },
    });
    await using running = await startSeikan([
      ...["connect", "-L", "127.0.0.1:0", target, "--tunnels", "2", ...via(ws(relay))],
    ]);
    await happens(running, "tunnel-up", 2);
    for (const connection of relay.connections.slice(0, 2)) connection.cut("reset");
    await happens(running, "tunnel-up", 4);
    expect(keys).toHaveLength(4);
    expect(new Set(keys).size).toBe(2);
    expect(new Set(keys.slice(2))).toEqual(new Set(keys.slice(0, 2)));
    for (const key of keys) expect(key).toMatch(/^[A-Za-z0-9_-]{16,64}$/);
  });
});

describe("a server that drains", () => {
  test("says go-away, lets open streams finish, and ends with 0; the client goes to the new server", async () => {
    const port = freePort();
    await using old = await startSeikan(["serve", "-l", `127.0.0.1:${port}`]);
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(ws({ port }))]);
    using client = await dialRaw(running.port);
    client.send("before");
    await client.sees("before");
    old.kill("SIGTERM");
    await isFree(port);
    await using fresh = await startSeikan(["serve", "-l", `127.0.0.1:${port}`, "--access-log", "json"]);
    await echoes(running.port);
    await until(() => eventsOf(fresh, "tunnel").length === 1, "the new server carried the new stream");
    client.send(" and behind");
    await client.sees("before and behind");
    expect(await Promise.race([old.exited, Promise.resolve("still there")])).toBe("still there");
    client.end();
    expect(await client.receivesEnd()).toBe("before and behind");
    expect(await within(old.exited, "the end of the old server", 3000)).toBe(0);
    expect(eventsOf(running, "tunnel-up")).toHaveLength(2);
  });

  test("by hand: GoAway 0 comes at once, a new stream is refused, and the last one ends the connection", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    using tunnel = await RawTunnel.open(own.port);
    tunnel.connect(1, target);
    await tunnel.hears(1, "HTTP/1.1 200 ");
    own.kill("SIGTERM");
    expect(await tunnel.gets("the GoAway", ({ type }) => type === GO_AWAY)).toMatchObject({ length: 0 });
    tunnel.connect(3, target);
    await tunnel.gets("the reset of stream 3", ({ stream, flags }) => stream === 3 && (flags & RST) !== 0);
    tunnel.yamux(DATA, FIN, 1, "bye");
    await tunnel.hears(1, "bye");
    expect((await tunnel.closed()).code).toBe(1000);
    tunnel.close(1000);
    expect(await within(own.exited, "the end", 3000)).toBe(0);
  });

  test("with nothing in its tunnels it ends at once", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", target, ...via(ws(own))]);
    await happens(running, "tunnel-up");
    own.kill("SIGTERM");
    expect(await within(own.exited, "the end", 3000)).toBe(0);
  });

  test("what does not end within --drain-timeout is reset, and that is still 0", async () => {
    using hand = new RawServer();
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0", "--drain-timeout", "300ms"]);
    await using running = await startSeikan([
      ...["connect", "-L", `127.0.0.1:0=127.0.0.1:${hand.port}`, ...via(ws(own))],
    ]);
    using client = await dialRaw(running.port);
    const inner = await hand.next();
    own.kill("SIGTERM");
    await client.receivesReset();
    await inner.receivesReset();
    expect(await within(own.exited, "the end", 3000)).toBe(0);
  });

  test("one that is already draining opens no tunnel", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    using late = await dialRaw(own.port);
    const request = upgradeRequest("/-/tunnel", { "Sec-WebSocket-Protocol": "seikan.v1" });
    late.send(request.slice(0, 30));
    using tunnel = await RawTunnel.open(own.port);
    tunnel.connect(1, target);
    await tunnel.hears(1, "HTTP/1.1 200 ");
    own.kill("SIGTERM");
    await tunnel.gets("the GoAway", ({ type }) => type === GO_AWAY);
    late.send(request.slice(30));
    const { status, body } = await late.response();
    expect([status, body.includes("about to stop")]).toEqual([503, true]);
  });
});
