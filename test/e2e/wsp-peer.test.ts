import { afterAll, describe, expect, test } from "bun:test";
import { freePort } from "../support/process.ts";
import { pattern, until } from "../support/wait.ts";
import { startWspClient, startWspServer, type WspClientOptions, type WspServerOptions } from "../support/wsp-peer.ts";

const MIB = 1024 * 1024;

/** Requests to `/meet` are answered when so many are there. */
const MEETING = 5;
const met = Promise.withResolvers<void>();
let meeting = 0;
/** `/half` says "first" and waits for this. */
let rest = Promise.withResolvers<void>();

const origin = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  idleTimeout: 60,
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === "/echo") return new Response(request.body, { headers: { "X-Method": request.method } });
    if (pathname === "/away") return Response.redirect("/hello", 302);
    if (pathname === "/nothing") return new Response(null, { status: 204 });
    if (pathname === "/large") return new Response(pattern(4 * MIB));
    if (pathname === "/half") return new Response(halves());
    if (pathname === "/meet" && ++meeting === MEETING) met.resolve();
    if (pathname === "/meet") await met.promise;
    return new Response("hello", {
      headers: [
        ["Set-Cookie", "a=1"],
        ["Set-Cookie", "b=2"],
      ],
    });
  },
});
afterAll(() => origin.stop(true));

async function* halves(): AsyncGenerator<Uint8Array> {
  yield Buffer.from("first");
  await rest.promise;
  yield Buffer.from("second");
}

/** Without a length that anybody knows beforehand. */
function twice(text: string): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (let i = 0; i < 2; i++) controller.enqueue(Buffer.from(text));
      controller.close();
    },
  });
}

const at = (path: string) => `http://127.0.0.1:${origin.port}${path}`;

/** Both doubles, with `poolIdleSize` connections between them. */
async function pair(client: Partial<WspClientOptions> = {}, server: WspServerOptions = {}) {
  const stack = new AsyncDisposableStack();
  const ours = stack.use(await startWspServer(server));
  const sizes = { poolIdleSize: 2, tickMs: 10 };
  const theirs = stack.use(startWspClient({ url: ours.url, ...sizes, ...client }));
  await ours.whenIdle(client.poolIdleSize ?? 2);
  return { server: ours, client: theirs, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

describe("the wsp server and client of the tests", () => {
  test("carry a GET: text and an empty body there, text and a body back", async () => {
    await using peers = await pair({ id: "agent", poolIdleSize: 1, poolMaxSize: 1 });
    const { server, client } = peers;
    const response = await server.request(at("/hello"), { headers: { "x-some-thing": "1" } });
    expect([response.status, await response.text()]).toEqual([200, "hello"]);
    expect(response.headers.getSetCookie()).toEqual(["a=1", "b=2"]);
    expect(server.connections[0]!.heard).toEqual(["text", "text", "binary"]);
    const [greeting, head, body] = client.connections[0]!.messages;
    expect(greeting).toMatchObject({ from: "us", kind: "text", text: "agent_1" });
    expect(head).toMatchObject({ from: "peer", kind: "text", frames: 1 });
    expect(JSON.parse(head!.text)).toMatchObject({
      Method: "GET",
      URL: at("/hello"),
      Header: { "X-Some-Thing": ["1"], "X-Proxy-Destination": [at("/hello")] },
      ContentLength: 0,
    });
    expect(body).toMatchObject({ from: "peer", kind: "binary", frames: 1, length: 0, isWhole: true });
    await server.whenIdle(1);
    const empty = await server.request(at("/nothing"));
    expect([empty.status, await empty.text()]).toEqual([204, ""]);
    expect(server.greetings).toContain("agent_1");
    expect(server.pools.map(({ id, size }) => [id, size])).toEqual([["agent", 1]]);
  });

  test("carry a POST of 1 MiB and its echo, in fragments of 4 KiB", async () => {
    await using peers = await pair();
    const { server, client } = peers;
    const bytes = pattern(MIB);
    const response = await server.request(at("/echo"), { method: "POST", body: bytes });
    expect(response.headers.get("x-method")).toBe("POST");
    expect(Buffer.from(await response.arrayBuffer()).equals(bytes)).toBe(true);
    expect(client.requests[0]).toMatchObject({ Method: "POST", ContentLength: MIB });
    const bodies = server.connections.flatMap(({ messages }) => messages.filter(({ kind }) => kind === "binary"));
    expect(bodies.map(({ from, frames, length }) => [from, frames, length])).toEqual([
      ["us", 257, MIB],
      ["peer", 257, MIB],
    ]);
  });

  test("carry bodies in one frame, and chunked ones", async () => {
    await using peers = await pair({ behaviour: { fragment: Infinity } });
    const { server, client } = peers;
    const response = await server.request(at("/large"));
    expect(Buffer.from(await response.arrayBuffer()).equals(pattern(4 * MIB))).toBe(true);
    const echoed = await server.request(at("/echo"), { method: "PUT", body: twice("chunked") });
    expect(await echoed.text()).toBe("chunkedchunked");
    expect(client.requests[1]).toMatchObject({ Method: "PUT", ContentLength: -1 });
    const bodies = server.connections.flatMap(({ messages }) => messages.filter(({ from }) => from === "peer"));
    expect(bodies.filter(({ length }) => length === 4 * MIB)).toMatchObject([{ kind: "binary", frames: 1 }]);
  });

  test("carry requests side by side, each on a connection of its own, and fill the pool up", async () => {
    await using peers = await pair({ poolIdleSize: 2, poolMaxSize: 6 }, { timeoutMs: 5000 });
    const { server, client } = peers;
    const responses = await Promise.all(Array.from({ length: MEETING }, () => server.request(at("/meet"))));
    expect(await Promise.all(responses.map((response) => response.text()))).toEqual(Array(MEETING).fill("hello"));
    expect(server.connections.filter(({ heard }) => heard.length === 3).length).toBe(MEETING);
    await until(() => client.busy === 0, "nothing is busy");
    expect(client.connections.length).toBeLessThanOrEqual(6);
  });

  test("follow redirects, or hand them on", async () => {
    await using peers = await pair();
    const { server, client } = peers;
    expect(await (await server.request(at("/away"))).text()).toBe("hello");
    client.behaviour.keepsRedirects = true;
    const response = await server.request(at("/away"));
    expect([response.status, response.headers.get("location")]).toEqual([302, "/hello"]);
  });

  test("answer 527 for a destination that is not there, and go on", async () => {
    await using peers = await pair({ poolIdleSize: 1, poolMaxSize: 1 });
    const { server } = peers;
    for (const body of ["short", pattern(MIB)]) {
      const response = await server.request(`http://127.0.0.1:${freePort()}/`, { method: "POST", body });
      expect([response.status, await response.text()]).toEqual([
        527,
        expect.stringContaining("Unable to execute request : "),
      ]);
    }
    expect(await (await server.request(at("/hello"))).text()).toBe("hello");
    expect(server.connections.length).toBe(1);
  });

  test("part at a wrong secret, with 526 and no pool", async () => {
    await using server = await startWspServer({ secretKey: "right" });
    using wrong = startWspClient({ url: server.url, secretKey: "wrong", tickMs: 10 });
    await wrong.whenRefused(2);
    expect(wrong.refusals[0]).toEqual({ status: 526, body: "Invalid X-SECRET-KEY\n" });
    expect(server.pools).toEqual([]);
    expect(server.registrations[0]).toMatchObject({ isAccepted: false, headers: { "x-secret-key": "wrong" } });
    using right = startWspClient({ url: server.url, secretKey: "right", poolIdleSize: 3, tickMs: 10 });
    await server.whenIdle(3);
    expect(server.pools.map(({ id }) => id)).toEqual([right.id]);
  });

  test("answer 526 without a pool, without an idle connection and without a destination", async () => {
    await using server = await startWspServer({ timeoutMs: 1 });
    const told = async (response: Response) => `${response.status} ${(await response.text()).trim()}`;
    expect(await told(await server.request(at("/hello")))).toBe("526 No proxy available");
    expect(await told(await fetch(`http://127.0.0.1:${server.port}/request`))).toStartWith("526 Missing");
    expect(await told(await fetch(`http://127.0.0.1:${server.port}/status`))).toBe("200 ok");
    using client = startWspClient({ url: server.url, poolIdleSize: 1, poolMaxSize: 1, tickMs: 10 });
    await server.whenIdle(1);
    const gate = Promise.withResolvers<void>();
    client.behaviour.gate = gate.promise;
    const slow = server.request(at("/hello"));
    await server.whenBusy(1);
    expect(await told(await server.request(at("/hello")))).toBe("526 Unable to get a proxy connection");
    gate.resolve();
    expect(await told(await slow)).toBe("200 hello");
  });

  test("stream what comes, and are cut in the middle of it by either side", async () => {
    await using peers = await pair({ behaviour: { fragment: 1 } });
    const { server, client } = peers;
    const half = async () => {
      rest = Promise.withResolvers<void>();
      const reader = (await server.request(at("/half"))).body!.getReader();
      let text = "";
      while (text !== "first") text += Buffer.from((await reader.read()).value!).toString();
      return reader;
    };
    for (const { connections } of [server, client]) {
      const reader = await half();
      connections.find(({ status }) => status === "busy")!.cut();
      expect(await reader.read().catch(() => "cut")).toBe("cut");
      rest.resolve();
      await server.whenIdle(2);
    }
    const reader = await half();
    await reader.cancel();
    await until(() => client.connections.filter(({ closeCode }) => closeCode === 1006).length === 3, "it is closed");
  });

  test("die in the middle of a body, answer nonsense and speak out of turn when they are told", async () => {
    await using peers = await pair();
    const { server, client } = peers;
    client.behaviour = { dieAfter: 10_000 };
    const response = await server.request(at("/large"));
    expect(response.headers.get("content-length")).toBe(String(4 * MIB));
    expect(await response.bytes().catch(() => "cut")).toBe("cut");
    await until(() => server.connections.some(({ messages }) => messages.at(-1)!.length === 10_000), "10000 came");
    client.behaviour = { head: "{nonsense" };
    const nonsense = await server.request(at("/hello"));
    expect([nonsense.status, await nonsense.text()]).toEqual([
      526,
      expect.stringContaining("Unable to unserialize http response : "),
    ]);
    client.behaviour = {};
    await server.whenIdle(2);
    const idle = client.connections.find(({ status }) => status === "idle")!;
    await idle.send("text", "surprise");
    await until(() => idle.closeCode === 1006, "the server drops it");
    await server.whenIdle(2);
    expect(await (await server.request(at("/hello"))).text()).toBe("hello");
  });

  test("hold each other back when one does not read", async () => {
    await using peers = await pair({ poolIdleSize: 1, poolMaxSize: 1 });
    const [ours, theirs] = [peers.server.connections[0]!, peers.client.connections[0]!];
    ours.freeze();
    const response = peers.server.request(at("/large"));
    await until(() => theirs.messages.at(-1)!.length > MIB / 2, "the client sends");
    expect(ours.heard).toEqual(["text"]);
    ours.thaw();
    expect((await (await response).bytes()).length).toBe(4 * MIB);
  });

  test("ping, and close what is idle for too long", async () => {
    await using server = await startWspServer({ idleTimeoutMs: 0 });
    using large = startWspClient({ url: server.url, id: "one", poolIdleSize: 3, tickMs: 10, pingMs: 10 });
    await until(() => server.pings >= 6 && large.pongs >= 6, "pings go round");
    await server.whenIdle(3);
    using small = startWspClient({ url: server.url, id: "one", poolIdleSize: 1 });
    await server.whenIdle(4);
    expect(server.pools).toEqual([{ id: "one", size: 1, idle: 4, busy: 0 }]);
    server.clean();
    expect(server.idle).toBe(1);
    for (const client of [large, small]) client[Symbol.dispose]();
    await until(() => server.idle === 0, "nothing is idle");
    server.clean();
    expect(server.pools).toEqual([]);
  });
});
