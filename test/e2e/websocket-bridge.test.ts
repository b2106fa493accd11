import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
// Bun replaces "ws" by a WebSocket of its own.
import { WebSocket as NodeWebSocket } from "../../node_modules/ws/wrapper.mjs";
import { BulkEcho, BulkTransfer } from "../support/bulk.ts";
import { certificateFor } from "../support/certificates.ts";
import { startWebsockify } from "../support/foreign.ts";
import { freePort, Process, spawnSeikan, TempFolder } from "../support/process.ts";
import { program, pythonWith } from "../support/programs.ts";
import { dialRaw, echo, RawServer } from "../support/raw.ts";
import { Relay } from "../support/relay.ts";
import { runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import { pattern, until, within } from "../support/wait.ts";
import { answerTo, RawWebSocket, upgradeRequest, type FieldChanges } from "../support/websocket-client.ts";

setDefaultTimeout(60_000);

const [TEXT, BINARY, CLOSE, PING, PONG] = [1, 2, 8, 9, 10];
const python = pythonWith("websockets");
const hasWebsockify = program("websockify") !== undefined;
const folder = new TempFolder();

let echoing: RawServer;
let bulk: BulkEcho;
let hand: RawServer;
let unix: RawServer;
let server: Running;
const dead = freePort();
beforeAll(async () => {
  echoing = new RawServer(echo);
  bulk = new BulkEcho();
  hand = new RawServer();
  unix = new RawServer(echo, { unix: folder.file("app") });
  server = await startSeikan([
    ...["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--deny-net", "127.0.0.0/8"],
    ...["--ws-route", `/echo=127.0.0.1:${echoing.port}`, "--ws-route", `/hand=127.0.0.1:${hand.port}`],
    ...["--ws-route", `/bulk=127.0.0.1:${bulk.port}`, "--ws-route", `/dead=127.0.0.1:${dead}`],
    ...["--ws-route", `/unix=unix:${folder.file("app")}`, "--ws-route", `/no-unix=unix:${folder.file("none")}`],
    ...["--ws-route", `/deep/er=127.0.0.1:${echoing.port}`],
  ]);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  for (const one of [echoing, bulk, hand, unix, folder]) one[Symbol.dispose]();
});

const open = (path: string, changes: FieldChanges = {}) => RawWebSocket.open(server.port, path, changes);
const raw = (path: string, to: { readonly port: number } = server) => ["--via", `ws+raw://127.0.0.1:${to.port}${path}`];
const basic = (credentials: string) => ({ Authorization: `Basic ${Buffer.from(credentials).toString("base64")}` });
const eventsOf = (running: Running, name: string) => running.events().filter(({ event }) => event === name);
const target = () => `127.0.0.1:${hand.port}`;

describe("frames by hand", () => {
  test("text and binary, whole and in pieces: the payload goes to the target as it is", async () => {
    using client = await open("/hand");
    client.text("text κ ").binary(Uint8Array.of(0, 255, 10, 13));
    const inner = await hand.next();
    await inner.receives(12);
    // A character in two pieces, with a ping between them, and empty frames.
    const [front, back] = [Uint8Array.of(0xce), Uint8Array.of(0xba)];
    client.send({ opcode: TEXT, payload: "frag", fin: false }, { opcode: 0, payload: front, fin: false });
    client.send({ opcode: PING, payload: "alive?" }, { opcode: 0, payload: back, fin: false }, { opcode: 0 });
    client.send({ opcode: BINARY }, { opcode: BINARY, payload: "!", fin: false }, { opcode: 0, payload: "end" });
    const expected = Buffer.concat([Buffer.from("text κ "), Buffer.of(0, 255, 10, 13), Buffer.from("fragκ!end")]);
    expect((await inner.receives(expected.length)).toString("hex")).toBe(expected.toString("hex"));
    const pong = await client.socket.until(() => client.frames.find(({ opcode }) => opcode === PONG), "a pong");
    expect(pong.payload.toString()).toBe("alive?");
  });

  test("what the target sends comes in unmasked binary messages, each complete in itself", async () => {
    using client = await open("/hand");
    const inner = await hand.next();
    const bytes = pattern(300_000, 3);
    inner.send(bytes);
    expect(Bun.hash(await client.receives(bytes.length))).toBe(Bun.hash(bytes));
    const kinds = new Set(client.frames.map(({ fin, rsv, opcode, key }) => `${fin} ${rsv} ${opcode} ${key}`));
    expect([...kinds]).toEqual(["true 0 2 undefined"]);
  });

  test("a target that speaks first is heard, also right behind the 101", async () => {
    using greeter = new RawServer((socket) => void socket.send("RFB 003.008\n"));
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0", "--ws-route", `/vnc=127.0.0.1:${greeter.port}`]);
    using client = await RawWebSocket.open(own.port, "/vnc");
    await client.sees("RFB 003.008\n");
  });

  test("frames that come right behind the request are not lost", async () => {
    using socket = await dialRaw(server.port);
    using shape = await open("/echo");
    socket.send(upgradeRequest("/echo"));
    // The bytes of a masked frame, written by another client.
    socket.send(Buffer.from("818537fa213d7f9f4d5158", "hex"));
    using client = new RawWebSocket(socket, await socket.response());
    await client.sees("Hello");
    expect(shape.frames).toEqual([]);
  });

  test("the target's FIN becomes close 1000, and the connection ends", async () => {
    using client = await open("/hand");
    const inner = await hand.next();
    inner.send("the last words").end();
    expect(await client.closed()).toEqual({ code: 1000, reason: "" });
    expect(client.data.toString()).toBe("the last words");
    client.text("one more").close(1000);
    await client.socket.receivesEnd();
    expect(await inner.receivesEnd()).toBe("one more");
  });

  for (const code of [1000, 1001, undefined]) {
    test(`the client's close ${code ?? "without a code"} is FIN for the target, whose answer still comes`, async () => {
      using client = await open("/hand");
      client.text("question").close(code);
      const inner = await hand.next();
      expect(await inner.receivesEnd()).toBe("question");
      inner.send("answer");
      await client.sees("answer");
      inner.send(", and more").end();
      expect((await client.closed()).code).toBe(1000);
      expect(client.data.toString()).toBe("answer, and more");
      await client.socket.receivesEnd();
    });
  }

  test("a close with an error code is a reset for the target", async () => {
    using client = await open("/hand");
    client.text("some").close(1011, "it broke");
    const inner = await hand.next();
    await inner.receivesReset();
    expect((await client.closed()).code).toBe(1011);
  });

  test("a reset by the target cuts the WebSocket without a close frame", async () => {
    using client = await open("/hand");
    const inner = await hand.next();
    inner.send("some");
    await client.sees("some");
    inner.reset();
    await client.socket.over();
    expect(client.frames.filter(({ opcode }) => opcode === CLOSE)).toEqual([]);
  });

  for (const how of ["end", "reset"] as const) {
    test(`a client that goes by ${how === "end" ? "FIN" : "RST"} without a close frame is a reset for the target`, async () => {
      using client = await open("/hand");
      client.text("some");
      const inner = await hand.next();
      await inner.sees("some");
      if (how === "end") client.socket.end();
      else client.socket.reset();
      await inner.receivesReset();
    });
  }

  const wrong: [string, Parameters<RawWebSocket["send"]>[0], number][] = [
    ["an unmasked frame", { opcode: BINARY, payload: "x", key: undefined }, 1002],
    ["text that is no UTF-8", { opcode: TEXT, payload: Uint8Array.of(0xff) }, 1007],
    ["a piece of nothing", { opcode: 0, payload: "x" }, 1002],
    ["a compressed frame", { opcode: BINARY, payload: "x", rsv: 4 }, 1002],
    ["a negative length", { opcode: BINARY, form: 64, length: 1n << 63n }, 1002],
    ["close code 1005", { opcode: CLOSE, payload: Uint8Array.of(3, 237) }, 1002],
  ];
  for (const [what, shape, code] of wrong) {
    test(`${what} ends it with ${code}, and the target sees a reset`, async () => {
      using client = await open("/hand");
      const inner = await hand.next();
      client.text("before").send(shape);
      expect((await client.closed()).code).toBe(code);
      await inner.receivesReset();
    });
  }
});

describe("the opening handshake", () => {
  test("a target that cannot be reached is told before the 101: 502 and a reason", async () => {
    for (const path of ["/dead", "/no-unix"]) {
      const { status, body, values } = await answerTo(server.port, upgradeRequest(path));
      expect([path, status]).toEqual([path, 502]);
      expect(body).toStartWith("seikan: ");
      expect(values("proxy-status").join()).toContain("seikan; error=");
    }
  });

  const protocols: [string | undefined, string[]][] = [
    [undefined, []],
    ["binary", ["binary"]],
    ["base64, binary", ["binary"]],
    ["mqtt", ["mqtt"]],
    ["mqttv3.1, mqtt", ["mqttv3.1"]],
  ];
  for (const [offered, chosen] of protocols) {
    test(`offered ${offered ?? "no subprotocol"}, it takes ${chosen[0] ?? "none"}`, async () => {
      using client = await open("/echo", { "Sec-WebSocket-Protocol": offered });
      expect(client.answer.values("sec-websocket-protocol")).toEqual(chosen);
      expect(client.answer.values("sec-websocket-extensions")).toEqual([]);
    });
  }

  test("the path decides alone, a query is ignored, and what is not routed is 404", async () => {
    for (const path of ["/echo?token=1", "/deep/er", "/unix"]) {
      using client = await open(path);
      client.text("x");
      await client.sees("x");
    }
    for (const path of ["/echo/", "/deep", "/Echo", "/"]) {
      expect((await answerTo(server.port, upgradeRequest(path))).status).toBe(404);
    }
    expect((await answerTo(server.port, "GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n")).status).toBe(426);
    const old = await answerTo(server.port, upgradeRequest("/echo", { "Sec-WebSocket-Version": "8" }));
    expect([old.status, old.values("sec-websocket-version")]).toEqual([426, ["13"]]);
  });

  test("--deny-net is about what clients name: the route stays, CONNECT does not", async () => {
    using client = await open("/echo");
    client.text("routed");
    await client.sees("routed");
    using other = await dialRaw(server.port);
    other.send(`CONNECT 127.0.0.1:${echoing.port} HTTP/1.1\r\nHost: x\r\n\r\n`);
    expect((await other.response("CONNECT")).status).toBe(403);
  });

  test("the access log has a line for each, with bytes both ways", async () => {
    using client = await open("/echo");
    client.text("12345 and no more").close(1000);
    await client.closed();
    const find = () => eventsOf(server, "tunnel").find(({ up }) => up === 17);
    await until(() => find() !== undefined, "it is logged");
    const logged = find();
    expect(logged).toMatchObject({ method: "WEBSOCKET", target: `127.0.0.1:${echoing.port}`, status: 101, down: 17 });
    expect(logged!.end).toBeUndefined();
  });

  test("a route that is none is a usage error", async () => {
    for (const route of ["/x", "x=127.0.0.1:1", "/x=nowhere", "=127.0.0.1:1", "/x?y=127.0.0.1:1"]) {
      const { code, stderr } = await runSeikan(["serve", "-l", "127.0.0.1:0", "--ws-route", route]);
      expect([route, code]).toEqual([route, 2]);
      expect(stderr).toContain("--ws-route");
    }
  });
});

describe("who may open it", () => {
  const status = async (changes: FieldChanges, to = server) =>
    (await answerTo(to.port, upgradeRequest("/echo", changes))).status;
  const guard = (...args: string[]) =>
    startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--ws-route", `/echo=127.0.0.1:${echoing.port}`],
      ...args,
    ]);

  test("pages of this very host, and programs; other pages get 403", async () => {
    const Host = `127.0.0.1:${server.port}`;
    expect(await status({ Host })).toBe(101);
    expect(await status({ Host, Origin: `http://${Host}` })).toBe(101);
    expect(await status({ Host, Origin: `https://${Host}` })).toBe(101);
    for (const Origin of ["http://127.0.0.1", "http://localhost", "https://evil.example", "null", "file://", ""]) {
      expect([Origin, await status({ Host, Origin })]).toEqual([Origin, 403]);
    }
  });

  test("--ws-origin lists pages that may, and * means all", async () => {
    await using choosy = await guard("--ws-origin", "https://app.example.com", "--ws-origin", "http://other.test:81");
    expect(await status({ Origin: "https://app.example.com" }, choosy)).toBe(101);
    expect(await status({ Origin: "http://other.test:81" }, choosy)).toBe(101);
    expect(await status({ Origin: "http://app.example.com" }, choosy)).toBe(403);
    expect(await status({ Origin: "https://app.example.com.evil.test" }, choosy)).toBe(403);
    await using open = await guard("--ws-origin", "*");
    expect(await status({ Origin: "https://anything.example" }, open)).toBe(101);
  });

  test("a foreign name that somebody made point here is refused with 421", async () => {
    const { port } = server;
    for (const Host of ["localhost", `localhost:${port}`, "127.0.0.1", `[::1]:${port}`]) {
      expect([Host, await status({ Host })]).toEqual([Host, 101]);
    }
    for (const Host of ["rebound.example", `rebound.example:${port}`, "localhost.evil.test", "re_bound.example"]) {
      const Origin = `http://${Host}`;
      expect([Host, await status({ Host, Origin })]).toEqual([Host, 421]);
    }
    // Browsers resolve these, too.
    for (const Host of ["x-.rebound.example", "-x.rebound.example", "a$b.rebound.example"]) {
      expect([Host, await status({ Host, Origin: `http://${Host}` })]).toEqual([Host, 421]);
    }
    await using named = await guard("--ws-origin", "https://app.example.com:8443");
    expect(await status({ Host: "app.example.com" }, named)).toBe(101);
    expect(await status({ Host: "app2.example.com" }, named)).toBe(421);
  });

  test("--ws-auth: 401 without and with a wrong user, 101 with Basic or Bearer, and the log names the user", async () => {
    await using guarded = await guard("--ws-auth", "--auth", "ann:secret", "--auth", "bot:T0ken");
    const { status: none, values } = await answerTo(guarded.port, upgradeRequest("/echo"));
    expect(none).toBe(401);
    expect(values("www-authenticate").join()).toStartWith("Basic ");
    expect(await status(basic("ann:wrong"), guarded)).toBe(401);
    expect(await status({ Authorization: "Bearer nope" }, guarded)).toBe(401);
    using client = await RawWebSocket.open(guarded.port, "/echo", basic("ann:secret"));
    client.text("x").close();
    await client.closed();
    expect(await status({ Authorization: "Bearer T0ken" }, guarded)).toBe(101);
    await until(() => eventsOf(guarded, "tunnel").length >= 1, "it is logged");
    expect(eventsOf(guarded, "tunnel")[0]).toMatchObject({ user: "ann", method: "WEBSOCKET" });
    // Without --ws-auth users are for dialling only.
    await using lax = await guard("--auth", "ann:secret");
    expect(await status({}, lax)).toBe(101);
  });

  test("--ws-auth without any user lets nobody in, and says why", async () => {
    await using odd = await guard("--ws-auth");
    const { status: code, body } = await answerTo(odd.port, upgradeRequest("/echo"));
    expect(code).toBe(403);
    expect(body).toContain("--auth");
  });

  test("where other machines can reach it, a user is needed, or --no-auth", async () => {
    const route = ["--ws-route", `/echo=127.0.0.1:${echoing.port}`];
    await using exposed = await startSeikan(["serve", "-l", "0.0.0.0:0", "--auth", "ann:secret", ...route]);
    expect(await status({}, exposed)).toBe(401);
    using client = await RawWebSocket.open(exposed.port, "/echo", { Host: "public.example", ...basic("ann:secret") });
    client.text("x");
    await client.sees("x");
    // Somebody put a proxy in front of a loopback listener.
    expect(await status({ "X-Forwarded-For": "192.0.2.1" })).toBe(403);
    await using all = await startSeikan(["serve", "-l", "0.0.0.0:0", "--no-auth", ...route]);
    expect(await status({ Host: "public.example" }, all)).toBe(101);
    expect(await status({ Host: "public.example", Origin: "https://evil.example" }, all)).toBe(403);
  });
});

describe("other people's clients", () => {
  test("Bun's WebSocket: text and binary there, binary back, subprotocol and close", async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${server.port}/echo`, ["binary"]);
    socket.binaryType = "arraybuffer";
    const pieces: Buffer[] = [];
    const closed = Promise.withResolvers<CloseEvent>();
    socket.onmessage = ({ data }) => pieces.push(Buffer.from(data as ArrayBuffer));
    socket.onclose = closed.resolve;
    await within(new Promise((resolve) => (socket.onopen = resolve)), "it is open");
    expect(socket.protocol).toBe("binary");
    const bytes = pattern(200_000, 5);
    socket.send("text κ");
    socket.send(bytes);
    await until(() => Buffer.concat(pieces).length >= bytes.length + 7, "everything is back");
    expect(Buffer.concat(pieces).subarray(0, 7).toString()).toBe("text κ");
    expect(Bun.hash(Buffer.concat(pieces).subarray(7))).toBe(Bun.hash(bytes));
    socket.close(1000);
    expect((await within(closed.promise, "it is closed")).code).toBe(1000);
  });

  test("npm ws: 2 MB in fragments with a ping between, and a clean close", async () => {
    const socket = new NodeWebSocket(`ws://127.0.0.1:${server.port}/echo`);
    const pieces: Buffer[] = [];
    let length = 0;
    const closed = Promise.withResolvers<number>();
    const ponged = Promise.withResolvers<string>();
    socket.on("message", (data: Buffer) => {
      pieces.push(data);
      length += data.length;
    });
    socket.on("close", closed.resolve);
    socket.on("pong", (data: Buffer) => ponged.resolve(data.toString()));
    await within(new Promise((resolve) => socket.on("open", resolve)), "it is open");
    const bytes = pattern(2_000_000, 6);
    socket.send(bytes.subarray(0, 700_000), { fin: false });
    socket.ping("between");
    socket.send(bytes.subarray(700_000, 700_001), { fin: false });
    socket.send(bytes.subarray(700_001), { fin: true });
    await until(() => length >= bytes.length, "everything is back");
    expect(Bun.hash(Buffer.concat(pieces))).toBe(Bun.hash(bytes));
    expect(await within(ponged.promise, "a pong")).toBe("between");
    socket.close(1000);
    expect(await within(closed.promise, "it is closed")).toBe(1000);
  });

  test.skipIf(python === undefined)("Python's websockets: 4 MB in messages of many sizes", async () => {
    const peer = join(import.meta.dir, "../support/websocket-peer.py");
    await using client = new Process([python!, peer, "bytes", `ws://localhost:${server.port}/echo`]);
    expect(await client.exited(30_000)).toBe(0);
    expect(client.stdout).toContain("echoed\n");
    expect(client.stdout).toMatch(/^closed 1000/m);
  });

  test.skipIf(python === undefined)("Python's websockets hears the target's end as 1000", async () => {
    using ending = new RawServer((socket) => void socket.sees("ready").then(() => socket.end()));
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0", "--ws-route", `/w=127.0.0.1:${ending.port}`]);
    const peer = join(import.meta.dir, "../support/websocket-peer.py");
    await using client = new Process([python!, peer, "wait", `ws://localhost:${own.port}/w`]);
    expect(await client.exited(30_000)).toBe(0);
    expect(client.stdout).toMatch(/^closed 1000/m);
  });
});

describe("connect --via ws+raw://", () => {
  test("stdin and stdout, without a TARGET: 1 MB there and back, and clean ends", async () => {
    const bytes = pattern(1024 * 1024, 7);
    await using child = spawnSeikan(["connect", ...raw("/echo")]);
    child.write(bytes);
    child.closeStdin();
    expect({ code: await child.exited(), stderr: child.stderr }).toEqual({ code: 0, stderr: "" });
    expect(Bun.hash(child.bytes)).toBe(Bun.hash(bytes));
  });

  test("-L without a TARGET: each connection is a WebSocket of its own", async () => {
    using relay = new Relay(server.port);
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", ...raw("/bulk", relay)]);
    const sizes = [0, 1, 126, 65_536, 1_000_000, 6_000_001];
    const transfers = sizes.map((size, seed) => BulkTransfer.through(running.port, size, { seed: seed + 1 }));
    for (const { sent, received } of await Promise.all(transfers)) expect(received).toBe(sent);
    expect(relay.connections).toHaveLength(sizes.length);
  });

  test("half-close and reset go on in both directions", async () => {
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", ...raw("/hand")]);
    using first = await dialRaw(running.port);
    first.send("question").end();
    const asked = await hand.next();
    expect(await asked.receivesEnd()).toBe("question");
    asked.send("answer").end();
    expect(await first.receivesEnd()).toBe("answer");

    using second = await dialRaw(running.port);
    const greeting = await hand.next();
    greeting.send("hello").end();
    expect(await second.receivesEnd()).toBe("hello");
    second.send("still there").end();
    expect(await greeting.receivesEnd()).toBe("still there");

    using third = await dialRaw(running.port);
    const torn = await hand.next();
    torn.send("some");
    await third.sees("some");
    torn.reset();
    await third.receivesReset();

    using fourth = await dialRaw(running.port);
    fourth.send("some");
    const seeing = await hand.next();
    await seeing.sees("some");
    fourth.reset();
    await seeing.receivesReset();
  });

  test("a unix socket at the far end", async () => {
    const { code, stdout } = await runSeikan(["connect", ...raw("/unix")], { stdin: "ping" });
    expect([code, stdout]).toEqual([0, "ping"]);
  });

  test("refusals: 502 and 404 are exit code 3, 401 is 4, and the hop is named", async () => {
    const dying = await runSeikan(["connect", ...raw("/dead")], { stdin: "" });
    expect([dying.code, dying.stdout]).toEqual([3, ""]);
    expect(dying.stderr).toContain(`ws+raw://127.0.0.1:${server.port} refused WebSocket upgrade of /dead: 502`);
    expect(dying.stderr).toContain(`127.0.0.1:${dead}`);
    const nowhere = await runSeikan(["connect", ...raw("/nowhere")], { stdin: "" });
    expect(nowhere.code).toBe(3);
    expect(nowhere.stderr).toContain("is /nowhere the right path?");
    await using guarded = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--ws-auth", "--auth", "a:b", "--ws-route", `/echo=127.0.0.1:${echoing.port}`],
    ]);
    const none = await runSeikan(["connect", ...raw("/echo", guarded)], { stdin: "" });
    expect([none.code, none.stderr.includes("401")]).toEqual([4, true]);
    const url = `ws+raw://a:b@127.0.0.1:${guarded.port}/echo`;
    const right = await runSeikan(["connect", "--via", url], { stdin: "ping" });
    expect([right.code, right.stdout]).toEqual([0, "ping"]);
  });

  test("wss+raw://, and behind proxies and tunnels", async () => {
    const { certFile, keyFile } = certificateFor("localhost", "127.0.0.1");
    const route = ["--ws-route", `/echo=127.0.0.1:${echoing.port}`];
    await using secure = await startSeikan([
      ...["serve", "-l", "https://127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile, ...route],
    ]);
    await using other = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
    const last = ["--via", `wss+raw://localhost:${secure.port}/echo`, "--proxy-cacert", certFile];
    for (const front of ["direct", "http", "socks5h", "ws"]) {
      const first = front === "direct" ? [] : ["--via", `${front}://127.0.0.1:${other.port}`];
      const { code, stdout, stderr } = await runSeikan(["connect", ...first, ...last], { stdin: "ping" });
      expect([front, code, stdout, stderr]).toEqual([front, 0, "ping", ""]);
    }
  });

  test("one cut on its way is a reset, and in stdio mode exit code 1", async () => {
    const message = pattern(50_000, 8);
    using sending = new RawServer((socket) => void socket.send(message).end());
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0", "--ws-route", `/s=127.0.0.1:${sending.port}`]);
    using whole = new Relay(own.port);
    const complete = await runSeikan(["connect", ...raw("/s", whole)], { stdin: "" });
    expect([complete.code, complete.stdout.length > 0]).toEqual([0, true]);
    const { down } = whole.connections[0]!;
    // The close frame has four bytes: without it all the data is not enough.
    for (const [index, after] of [200, 1000, 20_000, down - 5, down - 4, down - 3, down - 2, down - 1].entries()) {
      const how = index % 2 === 0 ? "end" : "reset";
      using relay = new Relay(own.port, { cut: { direction: "down", after, how } });
      await using child = spawnSeikan(["connect", ...raw("/s", relay)]);
      child.closeStdin();
      expect([after - down, await child.exited()]).toEqual([after - down, 1]);
      expect(message.subarray(0, child.bytes.length).equals(child.bytes)).toBe(true);
      expect(child.stderr).toContain("cut");
    }
  });
});

describe.skipIf(!hasWebsockify)("websockify as the server", () => {
  test("carries bytes both ways for -L and for stdin and stdout", async () => {
    await using foreign = await startWebsockify(bulk.port);
    await using running = await startSeikan(["connect", "-L", "127.0.0.1:0", ...raw("/", foreign)]);
    const bytes = pattern(2_000_000, 9);
    using client = await dialRaw(running.port);
    client.send(bytes);
    expect(Bun.hash(await client.receives(bytes.length))).toBe(Bun.hash(bytes));
    // It takes the first close frame for the end of both directions.
    await using child = spawnSeikan(["connect", ...raw("/websockify", foreign)]);
    child.write("ping");
    await child.prints("ping");
    child.closeStdin();
    expect(await child.exited()).toBe(0);
  });

  test("the target's end comes as an end", async () => {
    using greeter = new RawServer((socket) => void socket.send("hello, and that is all").end());
    await using foreign = await startWebsockify(greeter.port);
    await using child = spawnSeikan(["connect", ...raw("/", foreign)]);
    expect(await child.exited()).toBe(0);
    expect(child.stdout).toBe("hello, and that is all");
  });

  test("a target that it cannot reach is an error, not an empty success", async () => {
    await using foreign = await startWebsockify(freePort());
    const { code, stdout, stderr } = await runSeikan(["connect", ...raw("/", foreign)], { stdin: "ping" });
    expect(stdout).toBe("");
    expect(code).not.toBe(0);
    expect(stderr).toContain(`ws+raw://127.0.0.1:${foreign.port}`);
  });
});

test("a drain lets an open bridge finish, and ends with 0", async () => {
  await using own = await startSeikan(["serve", "-l", "127.0.0.1:0", "--ws-route", `/h=${target()}`]);
  using client = await RawWebSocket.open(own.port, "/h");
  const inner = await hand.next();
  own.kill("SIGTERM");
  await until(() => own.stderr().includes("draining"), "it drains");
  client.text("after the signal");
  await inner.sees("after the signal");
  inner.send("and back").end();
  await client.sees("and back");
  client.close(1000);
  expect(await within(own.exited, "the end", 3000)).toBe(0);
});
