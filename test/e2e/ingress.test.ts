import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  Arrivals,
  eventsOf,
  exposing,
  get,
  lines,
  requestHead,
  startAgent,
  visit,
  type SeenHead,
} from "../support/agents.ts";
import { CAN_LISTEN_RAW, FullListener } from "../support/full-listener.ts";
import { freePort } from "../support/process.ts";
import { dialRaw, RawServer, type RawSocket } from "../support/raw.ts";
import { startSeikan, type Running } from "../support/seikan.ts";
import { pattern, until, within } from "../support/wait.ts";
import { RawWebSocket, switchingTo, upgradeRequest } from "../support/websocket-client.ts";

setDefaultTimeout(60_000);

// The reverse proxy by Host: a visitor, serve, an agent, and the service behind it.

const MIB = 1024 * 1024;
const HELLO = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const TOKEN = "the-token-of-agents";

/** Plays by hand whatever a test wants. */
let hand: RawServer;
/** Answers by itself. */
let web: ReturnType<typeof startWeb>;
let server: Running;
let agent: Running;

beforeAll(async () => {
  hand = new RawServer();
  web = startWeb();
  server = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]);
  const local = `http://127.0.0.1:${hand.port}`;
  agent = await startAgent(
    server,
    ...exposing({
      ...{ hand: local, web: `http://127.0.0.1:${web.port}`, down: `http://127.0.0.1:${freePort()}` },
      loop: `http://127.0.0.1:${server.port}`,
      guarded: `${local},auth=guest:secret,auth=other:a,comma`,
      far: `${local},allow=10.0.0.0/8,allow=2001:db8::/32`,
      near: `${local},allow=10.0.0.0/8 127.0.0.0/8`,
      renamed: `${local},host-header=app.internal:8000`,
      targeted: `${local},host-header=target`,
      edited: `${local},request-header=X-Team: blue,request-header=-Cookie,response-header=X-Frame-Options: DENY,response-header=-Server`,
    }),
  );
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  hand[Symbol.dispose]();
  await web.stop(true);
});

function startWeb() {
  return Bun.serve<undefined>({
    ...{ port: 0, hostname: "127.0.0.1", idleTimeout: 60 },
    async fetch(request, serving) {
      const { pathname } = new URL(request.url);
      if (pathname === "/socket" && serving.upgrade(request)) return undefined;
      if (pathname === "/large") return new Response(large(64), { headers: { "Content-Type": "x/bytes" } });
      if (pathname === "/sum") return Response.json(await sumOf(request.body!));
      if (pathname === "/echo") return new Response(request.body);
      return Response.json({ path: pathname, host: request.headers.get("host") });
    },
    websocket: { message: (socket, message) => void socket.send(message) },
  });
}

/** So many MiB, no two alike. */
function large(count: number): ReadableStream<Uint8Array> {
  const block = pattern(MIB, 5);
  let index = 0;
  return new ReadableStream({
    pull(controller) {
      block.writeUInt32LE(index, 0);
      controller.enqueue(new Uint8Array(block));
      if (++index === count) controller.close();
    },
  });
}

async function sumOf(body: ReadableStream<Uint8Array>): Promise<{ length: number; sha1: string }> {
  const hasher = new Bun.CryptoHasher("sha1");
  let length = 0;
  for await (const chunk of body) {
    hasher.update(chunk);
    length += chunk.length;
  }
  return { length, sha1: hasher.digest("hex") };
}

/** What a process says of requests like this one. */
const requests = (running: Running, like: Record<string, unknown>) =>
  eventsOf(running, "request").filter((event) => Object.keys(like).every((key) => event[key] === like[key]));

async function told(running: Running, like: Record<string, unknown>, count = 1, ms?: number) {
  await until(() => requests(running, like).length >= count, `requests like ${JSON.stringify(like)} are told`, ms);
  return requests(running, like)[count - 1]!;
}

interface Asked extends Disposable {
  readonly client: RawSocket;
  /** The service's end of the connection. */
  readonly upstream: RawSocket;
  readonly head: SeenHead;
  /** What else the service gets. */
  readonly arrivals: Arrivals;
}

/** A visitor whose request has reached the service. */
async function asked(request: string, to = server): Promise<Asked> {
  const arrivals = new Arrivals(hand);
  const client = await dialRaw(to.port);
  client.send(request);
  const upstream = await arrivals.next();
  const head = await requestHead(upstream);
  const close = () => {
    client[Symbol.dispose]();
    upstream[Symbol.dispose]();
  };
  return { client, upstream, head, arrivals, [Symbol.dispose]: close };
}

const post = (host: string, body: string, ...fields: string[]) =>
  `${lines("POST / HTTP/1.1", `Host: ${host}`, ...fields)}${body}`;

/** Whatever a visitor of `hand` gets there: the service answers so. */
async function answered(request: string, answer: string, to = server): Promise<[SeenHead, Asked["client"]]> {
  const { client, upstream, head } = await asked(request, to);
  upstream.send(answer);
  await client.response();
  client[Symbol.dispose]();
  return [head, client];
}

describe("connections", () => {
  test("several requests to different hosts on one, in order", async () => {
    const arrivals = new Arrivals(hand);
    using client = await dialRaw(server.port);
    for (const path of ["/one", "/two"]) {
      client.send(get("hand.localhost", path));
      const upstream = await arrivals.next();
      expect((await requestHead(upstream)).line).toBe(`GET ${path} HTTP/1.1`);
      upstream.send(HELLO);
      expect((await client.response()).body).toBe("hello");
      client.send(get(`web.localhost:${server.port}`, `${path}?q=1`));
      const answer = await client.response();
      expect(JSON.parse(answer.body)).toEqual({ path, host: `web.localhost:${server.port}` });
      // The service that is not asked any more is let go.
      await upstream.over();
    }
    client.send(get("127.0.0.1", "/-/healthz"));
    expect((await client.response()).body).toBe("ok\n");
    client.send(get("nobody.localhost"));
    expect((await client.response()).status).toBe(404);
    await client.receivesEnd();
    expect(arrivals.count).toBe(2);
  });

  test("requests that come at once are answered in order, the second not asked before", async () => {
    using first = await asked(get("hand.localhost", "/slow") + get("web.localhost", "/fast"));
    expect(first.client.text).toBe("");
    first.upstream.send(HELLO);
    expect((await first.client.response()).body).toBe("hello");
    expect(JSON.parse((await first.client.response()).body)).toMatchObject({ path: "/fast" });
  });

  test("one visitor's requests share a connection to the service, no two visitors do", async () => {
    using one = await asked(get("hand.localhost", "/a"));
    one.upstream.send(HELLO);
    await one.client.response();
    using other = await asked(get("hand.localhost", "/b"));
    other.upstream.send(HELLO);
    await other.client.response();
    one.client.send(get("hand.localhost", "/c"));
    expect((await requestHead(one.upstream, 1)).line).toBe("GET /c HTTP/1.1");
    one.upstream.send(HELLO);
    await one.client.response();
    expect(one.arrivals.count).toBe(2);
    expect(other.upstream.text).not.toContain("/c");
    one.client.end();
    await one.upstream.over();
    expect(other.upstream.ended).toBe(false);
  });

  test("a service that ends its connection is asked on another one", async () => {
    using first = await asked(get("hand.localhost", "/a"));
    first.upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfirst").end();
    const answer = await first.client.response();
    expect([answer.body, answer.values("connection")]).toEqual(["first", []]);
    first.client.send(get("hand.localhost", "/b"));
    const upstream = await first.arrivals.next();
    expect((await requestHead(upstream)).line).toBe("GET /b HTTP/1.1");
    upstream.send(HELLO);
    expect((await first.client.response()).body).toBe("hello");
  });

  test("HTTP/1.0 gets its answer and then the end", async () => {
    using exchange = await asked("GET /old HTTP/1.0\r\nHost: hand.localhost\r\n\r\n");
    expect(exchange.head.line).toBe("GET /old HTTP/1.1");
    exchange.upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    const { values, body } = await exchange.client.response();
    expect([body, values("transfer-encoding")]).toEqual(["hello", []]);
    expect(await exchange.client.receivesEnd()).toEndWith("\r\n\r\nhello");
  });

  test("hundreds of requests at once get their own answers", async () => {
    const visitors = Array.from({ length: 20 }, async (_, visitor) => {
      using client = await dialRaw(server.port);
      for (let i = 0; i < 20; i++) {
        const body = `${visitor}:${i};`.repeat(200 + visitor);
        client.send(post("web.localhost", body, `Content-Length: ${body.length}`).replace("/ HTTP", "/echo HTTP"));
        expect((await client.response()).body).toBe(body);
      }
    });
    await Promise.all(visitors);
  });

  test("a visitor who does not read holds up nobody, and gets every byte in the end", async () => {
    const much = pattern(24 * MIB, 9);
    using stalled = await asked(get("hand.localhost", "/much"));
    stalled.client.pause();
    stalled.upstream.send(`HTTP/1.1 200 OK\r\nContent-Length: ${much.length}\r\n\r\n`).send(much);
    for (let i = 0; i < 10; i++) {
      const answer = await visit(server.port, "web.localhost", `/${i}`);
      expect(JSON.parse(answer.body)).toMatchObject({ path: `/${i}` });
    }
    stalled.client.resume();
    const bytes = await stalled.client.until(() => {
      const start = stalled.client.length < much.length ? -1 : stalled.client.bytes.indexOf("\r\n\r\n") + 4;
      const { length } = stalled.client;
      return start > 0 && length - start >= much.length ? stalled.client.bytes.subarray(start) : undefined;
    }, "all of it");
    expect(Bun.hash(bytes)).toBe(Bun.hash(much));
  });

  test("absolute-form and CONNECT for a name that is an exposure lead to it, whatever Host says", async () => {
    const absolute = lines("GET http://hand.localhost/x?y HTTP/1.1", "Host: web.localhost");
    const [head] = await answered(absolute, HELLO);
    expect([head.line, head.values("host")]).toEqual(["GET /x?y HTTP/1.1", ["hand.localhost"]]);

    const arrivals = new Arrivals(hand);
    using client = await dialRaw(server.port);
    client.send(lines("CONNECT hand.localhost:80 HTTP/1.1", "Host: hand.localhost:80"));
    expect((await client.response("CONNECT")).status).toBe(200);
    client.send(get("hand.localhost", "/inside"));
    const upstream = await arrivals.next();
    expect((await requestHead(upstream)).line).toBe("GET /inside HTTP/1.1");
    upstream.send(HELLO);
    expect((await client.response()).body).toBe("hello");
  });

  test("the server logs each request with its agent, and tells that agent", async () => {
    await visit(server.port, "web.localhost", "/logged?secret=1");
    const logged = await told(server, { target: "/logged" });
    expect(logged).toMatchObject({ method: "GET", status: 200, peer: expect.stringMatching(/^127\.0\.0\.1:\d+$/) });
    expect(logged.route).toStartWith("agent:");
    const { peer, status, down } = logged;
    expect(await told(agent, { target: "/logged" })).toMatchObject({
      exposure: "web",
      method: "GET",
      peer,
      status,
      down,
    });
    expect(agent.stderr()).not.toContain("secret=1");
  });
});

describe("bodies", () => {
  test("stream down: each piece arrives before the next is sent", async () => {
    using exchange = await asked(get("hand.localhost"));
    exchange.upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n");
    for (const piece of ["first", "secon", "third"]) {
      exchange.upstream.send(piece);
      await exchange.client.sees(piece);
    }
    expect((await exchange.client.response()).body).toBe("firstseconthird");
  });

  test("stream up: each piece arrives before the next is sent", async () => {
    using exchange = await asked(post("hand.localhost", "", "Content-Length: 15"));
    for (const piece of ["first", "secon", "third"]) {
      exchange.client.send(piece);
      await exchange.upstream.sees(piece);
    }
    expect(exchange.upstream.text).toEndWith("\r\n\r\nfirstseconthird");
    exchange.upstream.send(HELLO);
    expect((await exchange.client.response()).body).toBe("hello");
  });

  test("both ways at once: the answer begins while the request goes on", async () => {
    using exchange = await asked(post("hand.localhost", "", "Content-Length: 6"));
    exchange.upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    await exchange.client.sees("200 OK");
    for (const piece of ["aa", "bb", "cc"]) {
      exchange.client.send(piece);
      await exchange.upstream.sees(piece);
      exchange.upstream.send(`2\r\n${piece.toUpperCase()}\r\n`);
      await exchange.client.sees(piece.toUpperCase());
    }
    exchange.upstream.send("0\r\n\r\n");
    expect((await exchange.client.response()).body).toBe("AABBCC");
  });

  test("server-sent events come one by one, and end with their source", async () => {
    using exchange = await asked(get("hand.localhost", "/events", "Accept: text/event-stream"));
    exchange.upstream.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n");
    for (let i = 1; i <= 5; i++) {
      exchange.upstream.send(`id: ${i}\ndata: event ${i}\n\n`);
      await exchange.client.sees(`data: event ${i}\n\n`);
    }
    exchange.upstream.end();
    const { status, values, body } = await exchange.client.response();
    expect([status, values("content-type")]).toEqual([200, ["text/event-stream"]]);
    expect(body).toBe([1, 2, 3, 4, 5].map((i) => `id: ${i}\ndata: event ${i}\n\n`).join(""));
  });

  test("chunked down, with trailers", async () => {
    using exchange = await asked(get("hand.localhost", "/", "TE: trailers"));
    expect([exchange.head.values("te"), exchange.head.values("connection")]).toEqual([["trailers"], ["TE"]]);
    exchange.upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
    exchange.upstream.send("5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: abc\r\nSet-Cookie: a=b\r\n\r\n");
    const { values, body, raw } = await exchange.client.response();
    expect([body, values("transfer-encoding"), values("content-length")]).toEqual(["hello world", ["chunked"], []]);
    expect(raw).toEndWith("\r\n0\r\nX-Sum: abc\r\n\r\n");
    // And the connection goes on.
    exchange.client.send(get("web.localhost", "/next"));
    expect(JSON.parse((await exchange.client.response()).body)).toMatchObject({ path: "/next" });
  });

  test("chunked up, with trailers", async () => {
    using exchange = await asked(post("hand.localhost", "5\r\nhello\r\n", "Transfer-Encoding: chunked"));
    expect(exchange.head.values("transfer-encoding")).toEqual(["chunked"]);
    await exchange.upstream.sees("5\r\nhello\r\n");
    exchange.client.send("6\r\n world\r\n0\r\nX-Sum: abc\r\n\r\n");
    await exchange.upstream.sees("6\r\n world\r\n0\r\nX-Sum: abc\r\n\r\n");
    exchange.upstream.send(HELLO);
    expect((await exchange.client.response()).body).toBe("hello");
  });

  test("a body that ends with its connection is chunked for HTTP/1.1", async () => {
    using exchange = await asked(get("hand.localhost"));
    exchange.upstream.send("HTTP/1.0 200 OK\r\n\r\nuntil the end").end();
    const { values, body } = await exchange.client.response();
    expect([body, values("transfer-encoding")]).toEqual(["until the end", ["chunked"]]);
  });

  test("100-continue: the service decides, and the body comes behind its 100", async () => {
    using exchange = await asked(post("hand.localhost", "", "Content-Length: 4", "Expect: 100-continue"));
    expect(exchange.head.values("expect")).toEqual(["100-continue"]);
    expect(exchange.client.text).toBe("");
    exchange.upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
    expect((await exchange.client.response()).status).toBe(100);
    exchange.client.send("body");
    expect(await exchange.upstream.sees("body")).toEndWith("\r\n\r\nbody");
    exchange.upstream.send(HELLO);
    expect((await exchange.client.response()).body).toBe("hello");
  });

  test("100-continue: a service that refuses at once is heard, and the connection ends", async () => {
    using exchange = await asked(post("hand.localhost", "", "Content-Length: 4", "Expect: 100-continue"));
    exchange.upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!");
    const { status, body, values } = await exchange.client.response();
    expect([status, body, values("connection")]).toEqual([413, "no!", ["close"]]);
    await exchange.client.receivesEnd();
  });

  test("103 comes before the answer, for HTTP/1.1 only", async () => {
    const hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    using exchange = await asked(get("hand.localhost"));
    exchange.upstream.send(hints);
    const early = await exchange.client.response();
    expect([early.status, early.values("link")]).toEqual([103, ["</a.css>; rel=preload"]]);
    exchange.upstream.send(HELLO);
    expect((await exchange.client.response()).body).toBe("hello");

    using old = await asked("GET / HTTP/1.0\r\nHost: hand.localhost\r\n\r\n");
    old.upstream.send(hints + HELLO);
    expect((await old.client.response()).status).toBe(200);
  });

  test("answers without a body: HEAD, 204 and 304, and the connection goes on behind each", async () => {
    const arrivals = new Arrivals(hand);
    using client = await dialRaw(server.port);
    client.send(lines("HEAD / HTTP/1.1", "Host: hand.localhost"));
    const upstream = await arrivals.next();
    expect((await requestHead(upstream)).line).toBe("HEAD / HTTP/1.1");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-A: 1\r\n\r\n");
    const head = await client.response("HEAD");
    expect([head.status, head.values("content-length"), head.values("x-a")]).toEqual([200, ["1000"], ["1"]]);
    const bare: [string, number][] = [
      ["HTTP/1.1 204 No Content\r\n\r\n", 204],
      ['HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: "a"\r\n\r\n', 304],
    ];
    for (const [index, [answer, status]] of bare.entries()) {
      client.send(get("hand.localhost", `/${status}`));
      await requestHead(upstream, index + 1);
      upstream.send(answer);
      const got = await client.response();
      expect([got.status, got.values("transfer-encoding")]).toEqual([status, []]);
    }
    client.send(get("hand.localhost", "/last"));
    await requestHead(upstream, 3);
    upstream.send(HELLO);
    expect((await client.response()).body).toBe("hello");
    expect(client.text.match(/HTTP\/1\.1 /g)).toHaveLength(4);
    expect(arrivals.count).toBe(1);
  });

  test("64 MB down, every byte of it", async () => {
    const response = await fetch(`http://127.0.0.1:${server.port}/large`, { headers: { host: "web.localhost" } });
    expect(response.headers.get("content-type")).toBe("x/bytes");
    const [got, sent] = await within(Promise.all([sumOf(response.body!), sumOf(large(64))]), "the download", 30_000);
    expect(got).toEqual(sent);
    expect(got.length).toBe(64 * MIB);
  });

  test("64 MB up, every byte of it", async () => {
    const body = await new Response(large(64)).arrayBuffer();
    const init = { method: "POST", body, headers: { host: "web.localhost" } };
    const response = await within(fetch(`http://127.0.0.1:${server.port}/sum`, init), "the upload", 30_000);
    expect(await response.json()).toEqual(await sumOf(large(64)));
  });
});

describe("WebSockets", () => {
  test("messages go both ways, long ones too", async () => {
    using socket = await RawWebSocket.open(server.port, "/socket", { Host: "web.localhost" });
    socket.text("hello");
    await socket.sees("hello");
    const bytes = pattern(300_000, 4);
    socket.binary(bytes);
    expect(Bun.hash((await socket.receives(5 + bytes.length)).subarray(5))).toBe(Bun.hash(bytes));
    socket.close(1000, "bye");
    expect(await socket.closed()).toEqual({ code: 1000, reason: "bye" });
  });

  test("a visitor is told 101 by the service alone, and what came early is delivered", async () => {
    using exchange = await asked(`${upgradeRequest("/chat", { Host: "hand.localhost" })}early bytes`);
    expect(exchange.head.values("connection").map((value) => value.toLowerCase())).toEqual(["upgrade"]);
    expect(exchange.head.values("upgrade")).toEqual(["websocket"]);
    expect(exchange.head.values("sec-websocket-key")).toHaveLength(1);
    expect(exchange.head.values("x-forwarded-for")).toEqual(["127.0.0.1"]);
    expect(exchange.client.text).toBe("");
    exchange.upstream.send(`${switchingTo(exchange.head.text)}behind it`);
    expect((await exchange.client.response()).status).toBe(101);
    await exchange.client.sees("\r\n\r\nbehind it");
    await exchange.upstream.sees("\r\n\r\nearly bytes");
    exchange.client.send("more");
    await exchange.upstream.sees("early bytesmore");
    // Each side's end goes on.
    exchange.upstream.end();
    expect(await exchange.client.receivesEnd()).toEndWith("\r\n\r\nbehind it");
    exchange.client.send("last").end();
    expect(await exchange.upstream.receivesEnd()).toEndWith("early bytesmorelast");
  });

  test("a service that refuses is heard, and the connection stays HTTP", async () => {
    using exchange = await asked(upgradeRequest("/chat", { Host: "hand.localhost" }));
    exchange.upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!");
    const refusal = await exchange.client.response();
    expect([refusal.status, refusal.body, refusal.values("upgrade")]).toEqual([403, "no!", []]);
    exchange.client.send(get("web.localhost", "/still-http"));
    expect(JSON.parse((await exchange.client.response()).body)).toMatchObject({ path: "/still-http" });
  });

  test("a service that switches unasked, or to something else, is not believed", async () => {
    using unasked = await asked(get("hand.localhost"));
    unasked.upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    expect((await unasked.client.response()).status).toBe(502);
    using other = await asked(upgradeRequest("/chat", { Host: "hand.localhost" }));
    other.upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    expect((await other.client.response()).status).toBe(502);
  });

  test("another upgrade is not passed on", async () => {
    using exchange = await asked(get("hand.localhost", "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"));
    expect([exchange.head.values("upgrade"), exchange.head.values("connection")]).toEqual([[], []]);
    exchange.upstream.send(HELLO);
    expect((await exchange.client.response()).body).toBe("hello");
  });

  test("a reset of either side resets the other", async () => {
    for (const first of ["client", "upstream"] as const) {
      using exchange = await asked(upgradeRequest("/chat", { Host: "hand.localhost" }));
      exchange.upstream.send(switchingTo(exchange.head.text));
      await exchange.client.response();
      const other = first === "client" ? exchange.upstream : exchange.client;
      exchange[first].reset();
      await other.receivesReset();
    }
  });
});

describe("cuts", () => {
  const begun: [string, string][] = [
    ["with a length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome"],
    ["chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n"],
  ];
  for (const [what, answer] of begun) {
    test(`a visitor who goes takes the request along (${what})`, async () => {
      using exchange = await asked(get("hand.localhost"));
      exchange.upstream.send(answer);
      await exchange.client.sees("some");
      exchange.client.reset();
      await exchange.upstream.receivesReset();
    });

    for (const how of ["end", "reset"] as const) {
      test(`a service's ${how} in the middle of an answer cuts the visitor's connection (${what})`, async () => {
        using exchange = await asked(get("hand.localhost"));
        exchange.upstream.send(answer);
        await exchange.client.sees("some");
        exchange.upstream[how]();
        await exchange.client.receivesReset();
        expect(exchange.client.text).not.toContain("\r\n0\r\n");
        expect(exchange.client.text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
      });
    }
  }

  test("a body that ends with its connection is not completed by a reset", async () => {
    using exchange = await asked(get("hand.localhost"));
    exchange.upstream.send("HTTP/1.1 200 OK\r\n\r\nsome");
    await exchange.client.sees("some");
    exchange.upstream.reset();
    await exchange.client.receivesReset();
    expect(exchange.client.text).not.toContain("\r\n0\r\n");
  });

  test("a visitor who goes before the answer lets the service go", async () => {
    using exchange = await asked(get("hand.localhost"));
    exchange.client.reset();
    await exchange.upstream.receivesReset();
  });

  test("a visitor who goes in the middle of a body: the service never sees it complete", async () => {
    for (const how of ["end", "reset"] as const) {
      using exchange = await asked(post("hand.localhost", "4\r\nsome\r\n", "Transfer-Encoding: chunked"));
      await exchange.upstream.sees("some");
      exchange.client[how]();
      await exchange.upstream.receivesReset();
      expect(exchange.upstream.text).not.toContain("\r\n0\r\n");
    }
  });

  test("a visitor who has no more to say still gets the answer", async () => {
    using exchange = await asked(get("hand.localhost"));
    exchange.client.end();
    exchange.upstream.send(HELLO);
    expect((await exchange.client.response()).body).toBe("hello");
    await exchange.client.receivesEnd();
  });

  test("a malformed chunk is cut off: the service never sees the body complete", async () => {
    using exchange = await asked(post("hand.localhost", "4\r\nsome\r\n", "Transfer-Encoding: chunked"));
    await exchange.upstream.sees("some");
    exchange.client.send(`0x4\r\nmore\r\n0\r\n\r\n${get("hand.localhost", "/smuggled")}`);
    expect((await exchange.client.response()).status).toBe(400);
    await exchange.upstream.over();
    expect(exchange.upstream.text).not.toContain("smuggled");
    expect(exchange.upstream.text).not.toContain("\r\n0\r\n");
    expect(exchange.arrivals.count).toBe(1);
  });
});

describe("services that fail", () => {
  test("nobody listens: 502 with a reason, which names no address to visitors but to its agent", async () => {
    const { status, body, values } = await visit(server.port, "down.localhost", "/down");
    expect(status).toBe(502);
    expect(body).toBe("seikan: the service behind this site refuses connections: is it running?\n");
    expect(values("proxy-status")[0]).toStartWith("seikan; error=connection_refused");
    const { why } = await told(server, { target: "/down" });
    expect(why).toMatch(/127\.0\.0\.1:\d+/);
  });

  // SiteVisit knows its way only once the service was reached, so nobody tells the agent.
  test("its agent hears of a visitor whom nobody could serve, and why", async () => {
    await visit(server.port, "down.localhost", "/unheard");
    expect(await told(server, { target: "/unheard" })).toMatchObject({ status: 502 });
    await visit(server.port, "web.localhost", "/heard");
    await told(agent, { target: "/heard" });
    const { status, why } = await told(agent, { target: "/unheard" }, 1, 100);
    expect([status, why]).toEqual([502, expect.stringContaining("refused")]);
  });

  const early: [string, (upstream: RawSocket) => void, number][] = [
    ["ends without an answer", (upstream) => upstream.end(), 502],
    ["resets without an answer", (upstream) => upstream.reset(), 502],
    ["says something else", (upstream) => upstream.send("SSH-2.0-OpenSSH_9.2\r\n\r\n"), 502],
    [
      "sends a length and chunks",
      (upstream) => upstream.send(framed("Content-Length: 5", "Transfer-Encoding: chunked")),
      502,
    ],
    ["sends two lengths", (upstream) => upstream.send(framed("Content-Length: 5", "Content-Length: 6")), 502],
    ["sends a bare LF", (upstream) => upstream.send("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), 502],
    ["sends a head beyond every limit", (upstream) => upstream.send(framed(`X: ${"x".repeat(70_000)}`)), 502],
  ];
  const framed = (...fields: string[]) => lines("HTTP/1.1 200 OK", ...fields);
  for (const [what, does, expected] of early) {
    test(`a service that ${what}: ${expected}, once`, async () => {
      using exchange = await asked(get("hand.localhost"));
      does(exchange.upstream);
      const { status, body, values } = await exchange.client.response();
      expect(status).toBe(expected);
      expect(body).toStartWith("seikan: ");
      expect(body).not.toContain("unknown");
      expect(values("connection")).toEqual(["close"]);
      await exchange.client.receivesEnd();
      expect(exchange.client.text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
      // Never sent again: the service may have acted on it.
      expect(exchange.arrivals.count).toBe(1);
    });
  }

  test("bytes behind an answer are nobody's answer", async () => {
    using exchange = await asked(get("hand.localhost", "/first"));
    exchange.upstream.send(`${HELLO}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison`);
    expect((await exchange.client.response()).body).toBe("hello");
    exchange.client.send(get("hand.localhost", "/second"));
    const upstream = await exchange.arrivals.next();
    await requestHead(upstream);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright");
    expect((await exchange.client.response()).body).toBe("right");
    expect(exchange.client.text).not.toContain("poison");
  });

  test("a service that accepts and says nothing: 504 within --response-timeout", async () => {
    await using hasty = await startSeikan(["serve", "-l", "127.0.0.1:0", "--response-timeout", "500ms"]);
    await using _ = await startAgent(hasty, ...exposing({ mute: `http://127.0.0.1:${hand.port}` }));
    using exchange = await asked(get("mute.localhost"), hasty);
    const { status, body, values } = await exchange.client.response();
    expect([status, values("proxy-status")[0]?.split(";")[1]]).toEqual([504, " error=http_response_timeout"]);
    expect(body).toContain("does not answer");
    await exchange.upstream.over();
  });

  test.skipIf(!CAN_LISTEN_RAW)("a service that does not even accept: 504 within --connect-timeout", async () => {
    await using full = await FullListener.on("127.0.0.1");
    const deaf = exposing({ deaf: `http://127.0.0.1:${full.port}` });
    await using _ = await startAgent(server, "--name", "deaf", ...deaf, "--connect-timeout", "500ms");
    const { status, body } = await visit(server.port, "deaf.localhost");
    expect([status, body]).toEqual([504, "seikan: the service behind this site does not answer\n"]);
  });
});

describe("who asks", () => {
  const claims = [
    ...["X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example"],
    ...["X-Forwarded-Port: 1", "X-Forwarded-Prefix: /x", "X-Real-IP: 203.0.113.9", "Forwarded: for=203.0.113.9"],
  ];

  test("is told to the service, over whatever a visitor claims", async () => {
    const [head] = await answered(get("hand.localhost:81", "/", ...claims), HELLO);
    expect(head.values("host")).toEqual(["hand.localhost:81"]);
    expect(head.values("x-forwarded-for")).toEqual(["127.0.0.1"]);
    expect(head.values("x-real-ip")).toEqual(["127.0.0.1"]);
    expect(head.values("x-forwarded-proto")).toEqual(["http"]);
    expect(head.values("x-forwarded-host")).toEqual(["hand.localhost:81"]);
    expect(head.values("forwarded")).toEqual(['for=127.0.0.1;host="hand.localhost:81";proto=http']);
    expect(head.values("x-forwarded-port")).toEqual([]);
    expect(head.values("x-forwarded-prefix")).toEqual([]);
    expect(head.text).not.toContain("203.0.113.9");
    expect(head.values("via")[0]).toMatch(/^1\.1 seikan/);
  });

  test("hop-by-hop fields stay behind, all others go on in their order and case", async () => {
    const kept = ["X-One: 1", "x-TWO: 2", "X-One: 3", "Cookie: a=b"];
    const dropped = [
      ...["Connection: keep-alive, X-Nominated", "X-Nominated: 1", "Keep-Alive: timeout=5", "Proxy-Connection: close"],
      ...["Proxy-Authorization: Basic dTpw", "Seikan-Agent: other"],
    ];
    const [head] = await answered(get("hand.localhost", "/", ...kept, ...dropped), HELLO);
    expect(head.text.split("\r\n").filter((line) => kept.includes(line))).toEqual(kept);
    expect(head.text).not.toMatch(/nominated|keep-alive|proxy-|seikan-agent/i);
  });

  test("a request that has been here before ends in 508, not in a circle", async () => {
    const { status, body, values } = await visit(server.port, "loop.localhost", "/circle");
    expect([status, values("proxy-status")[0]?.split(";")[1]]).toEqual([508, " error=proxy_loop_detected"]);
    expect(body).toContain("has been here before");
    await told(server, { target: "/circle" }, 2);
    expect(requests(server, { target: "/circle" })).toMatchObject([{ status: 508 }, { status: 508 }]);
  });

  describe("behind a trusted proxy, with a domain", () => {
    let front: Running;
    let domestic: Running;
    beforeAll(async () => {
      front = await startSeikan([
        ...["serve", "-l", "127.0.0.1:0", "--domain", "https://t.test", "--agent-token", TOKEN],
        ...["--trusted-proxy", "127.0.0.1"],
      ]);
      const local = `http://127.0.0.1:${hand.port}`;
      const specs = exposing({ hand: local, office: `${local},allow=203.0.113.0/24` });
      domestic = await startAgent(front, "--token", TOKEN, ...specs, "-e", `host:app.example.org=${local}`);
    });
    afterAll(async () => {
      await domestic[Symbol.asyncDispose]();
      await front[Symbol.asyncDispose]();
    });

    test("the URLs are those of the domain", () => {
      expect(domestic.urls).toEqual(["https://hand.t.test", "https://office.t.test", "https://app.example.org"]);
    });

    test("its word is believed and passed on", async () => {
      const [head] = await answered(
        get(
          "hand.t.test",
          "/",
          ...["X-Forwarded-For: 198.51.100.7, 203.0.113.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: www.t.test"],
          "Forwarded: for=203.0.113.9;proto=https",
        ),
        HELLO,
        front,
      );
      expect(head.values("x-forwarded-for")).toEqual(["198.51.100.7, 203.0.113.9, 127.0.0.1"]);
      expect(head.values("x-real-ip")).toEqual(["203.0.113.9"]);
      expect(head.values("x-forwarded-proto")).toEqual(["https"]);
      expect(head.values("x-forwarded-host")).toEqual(["hand.t.test"]);
      expect(head.values("forwarded")).toEqual([
        "for=203.0.113.9;proto=https, for=127.0.0.1;host=hand.t.test;proto=https",
      ]);
    });

    test("allow= is about the visitor it speaks for, and the last address that is not trusted counts", async () => {
      const office = (...fields: string[]) => get("office.t.test", "/", ...fields);
      const [head] = await answered(office("X-Forwarded-For: 203.0.113.9"), HELLO, front);
      expect(head.values("x-real-ip")).toEqual(["203.0.113.9"]);
      const arrivals = new Arrivals(hand);
      for (const fields of [[], ["X-Forwarded-For: 203.0.113.9, 198.51.100.1"], ["X-Real-IP: 203.0.113.9"]]) {
        using client = await dialRaw(front.port);
        client.send(office(...fields));
        expect((await client.response()).status).toBe(403);
      }
      expect(arrivals.count).toBe(0);
    });

    test("paths of the server are on the domain itself, localhost and addresses only", async () => {
      for (const host of ["t.test", "T.Test:8443", "localhost", "127.0.0.1", `[::1]:${front.port}`]) {
        const { status, body } = await visit(front.port, host, "/-/healthz");
        expect([host, status, body]).toEqual([host, 200, "ok\n"]);
      }
      for (const host of ["nobody.t.test", "www.example.org", "x.hand.t.test", "t.test.example.org"]) {
        const { status, body } = await visit(front.port, host, "/-/healthz");
        expect([host, status]).toEqual([host, 404]);
        expect(body).toStartWith(`seikan: there is no site ${host} here\n`);
      }
    });

    test("a host of its own, in any case, with a port or a trailing dot", async () => {
      for (const host of ["app.example.org", "APP.Example.ORG", "app.example.org:443", "app.example.org."]) {
        const [head] = await answered(get(host, `/${host}`), HELLO, front);
        expect([head.line, head.values("host")]).toEqual([`GET /${host} HTTP/1.1`, [host]]);
      }
    });
  });
});

describe("hosts", () => {
  test("one that is no exposure: 404 with a sentence, never another one's", async () => {
    const arrivals = new Arrivals(hand);
    for (const host of ["nobody.localhost", "xhand.localhost", "a.hand.localhost", "hand.example.org", "hand"]) {
      const { status, body } = await visit(server.port, host);
      expect([host, status]).toEqual([host, 404]);
      expect(body).toMatch(/^seikan: there is no site /);
    }
    expect(arrivals.count).toBe(0);
  });

  test("a probe that nobody waits for is no way in", async () => {
    const arrivals = new Arrivals(hand);
    for (const host of ["hand.localhost", "guarded.localhost", "nobody.localhost"]) {
      const { status } = await visit(server.port, host, "/.well-known/seikan-probe/0123456789abcdef");
      expect([host, status]).toEqual([host, 404]);
    }
    expect(arrivals.count).toBe(0);
  });

  test("paths like the server's own go to the service under an exposure's host", async () => {
    for (const path of ["/-/healthz", "/-/agents", "/-/metrics", "/-/tunnel?x"]) {
      const [head] = await answered(get("hand.localhost", path), HELLO);
      expect(head.line).toBe(`GET ${path} HTTP/1.1`);
    }
    for (const path of ["/-/tunnel", "/-/agent"]) {
      const upgrade = upgradeRequest(path, { Host: "hand.localhost", "Sec-WebSocket-Protocol": "seikan.v1" });
      const [head] = await answered(upgrade, "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!");
      expect([head.line, head.values("upgrade")]).toEqual([`GET ${path} HTTP/1.1`, ["websocket"]]);
    }
    const unknown = await visit(server.port, "nobody.localhost", "/-/healthz");
    expect(unknown.status).toBe(404);
  });
});

describe("what an exposure asks and changes", () => {
  const basic = (text: string) => `Authorization: Basic ${Buffer.from(text).toString("base64")}`;

  test("auth=: 401 until a user and password are right, which the service does not see", async () => {
    const arrivals = new Arrivals(hand);
    const wrong = [
      ...[[], [basic("guest:wrong")], [basic("nobody:secret")], [basic("guest:")], ["Authorization: Bearer secret"]],
      [basic("guest:secret").replace("Authorization", "Proxy-Authorization")],
    ];
    for (const fields of wrong) {
      const { status, values, body } = await visit(server.port, "guarded.localhost", "/", ...fields);
      expect([fields, status]).toEqual([fields, 401]);
      expect(values("www-authenticate")[0]).toStartWith("Basic realm=");
      expect(values("proxy-authenticate")).toEqual([]);
      expect(body).toContain("password");
    }
    expect(arrivals.count).toBe(0);
    for (const right of ["guest:secret", "other:a,comma"]) {
      const [head] = await answered(get("guarded.localhost", "/", basic(right)), HELLO);
      expect(head.values("authorization")).toEqual([]);
    }
    // Where no password is asked for it is the service's business.
    const [head] = await answered(get("hand.localhost", "/", basic("guest:secret")), HELLO);
    expect(`Authorization: ${head.values("authorization")[0]}`).toBe(basic("guest:secret"));
  });

  test("auth= holds on a connection only for the request that shows it", async () => {
    using exchange = await asked(get("guarded.localhost", "/", basic("guest:secret")));
    exchange.upstream.send(HELLO);
    expect((await exchange.client.response()).status).toBe(200);
    exchange.client.send(get("guarded.localhost", "/again"));
    expect((await exchange.client.response()).status).toBe(401);
    expect(exchange.upstream.text).not.toContain("/again");
  });

  test("auth= holds for WebSockets, and by way of CONNECT and absolute-form", async () => {
    const arrivals = new Arrivals(hand);
    using upgrading = await dialRaw(server.port);
    upgrading.send(upgradeRequest("/chat", { Host: "guarded.localhost" }));
    expect((await upgrading.response()).status).toBe(401);
    using absolute = await dialRaw(server.port);
    absolute.send(lines("GET http://guarded.localhost/ HTTP/1.1", "Host: hand.localhost"));
    expect((await absolute.response()).status).toBe(401);
    using connecting = await dialRaw(server.port);
    connecting.send(lines("CONNECT guarded.localhost:80 HTTP/1.1", "Host: guarded.localhost:80"));
    expect((await connecting.response("CONNECT")).status).toBe(200);
    connecting.send(get("guarded.localhost"));
    expect((await connecting.response()).status).toBe(401);
    expect(arrivals.count).toBe(0);
  });

  test("allow=: 403 for all others, whatever they claim", async () => {
    const arrivals = new Arrivals(hand);
    const { status, body } = await visit(server.port, "far.localhost", "/", "X-Forwarded-For: 10.0.0.1");
    expect([status, body]).toEqual([403, "seikan: this site is not for visitors from your address\n"]);
    expect(arrivals.count).toBe(0);
    await answered(get("near.localhost"), HELLO);
    expect(arrivals.count).toBe(1);
  });

  test("host-header=: a name, or the service's own place; who was asked for is still told", async () => {
    const [renamed] = await answered(get("renamed.localhost"), HELLO);
    expect(renamed.values("host")).toEqual(["app.internal:8000"]);
    expect(renamed.values("x-forwarded-host")).toEqual(["renamed.localhost"]);
    const [targeted] = await answered(get("targeted.localhost"), HELLO);
    expect(targeted.values("host")).toEqual([`127.0.0.1:${hand.port}`]);
  });

  test("request-header= and response-header= set and remove", async () => {
    using exchange = await asked(get("edited.localhost", "/", "X-Team: red", "x-team: green", "Cookie: a=b"));
    expect([exchange.head.values("x-team"), exchange.head.values("cookie")]).toEqual([["blue"], []]);
    exchange.upstream.send(lines("HTTP/1.1 200 OK", "Content-Length: 0", "Server: x", "X-Frame-Options: ALLOW"));
    const { values } = await exchange.client.response();
    expect([values("server"), values("x-frame-options")]).toEqual([[], ["DENY"]]);
  });
});

describe("error pages", () => {
  const forms: [string, string | undefined, string][] = [
    ["a browser", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"],
    ["a program", "application/json", "application/problem+json"],
    ["a program that knows RFC 9457", "application/problem+json", "application/problem+json"],
    ["weights", "text/html;q=0.1, application/problem+json;q=0.2, text/plain;q=0", "application/problem+json"],
    ["curl", "*/*", "text/plain; charset=utf-8"],
    ["nobody in particular", undefined, "text/plain; charset=utf-8"],
    ["something else", "image/png", "text/plain; charset=utf-8"],
  ];
  for (const [whom, accept, contentType] of forms) {
    test(`for ${whom}: ${contentType}`, async () => {
      const fields = accept === undefined ? [] : [`Accept: ${accept}`];
      const { status, values, body } = await visit(server.port, "down.localhost", "/", ...fields);
      expect([status, values("content-type")]).toEqual([502, [contentType]]);
      expect(body).toContain("refuses connections: is it running?");
      expect(body).not.toMatch(/127\.0\.0\.1/);
      if (contentType.startsWith("text/html")) {
        expect(body).toStartWith("<!doctype html>");
        expect(body).toContain("<title>502 Bad Gateway</title>");
        expect(values("content-security-policy")[0]).toContain("default-src 'none'");
        expect(values("x-content-type-options")).toEqual(["nosniff"]);
      }
      if (contentType !== "application/problem+json") return;
      expect(JSON.parse(body)).toEqual({
        ...{ type: "about:blank", title: "Bad Gateway", status: 502, code: "connect-refused", hints: [] },
        detail: "the service behind this site refuses connections: is it running?",
      });
    });
  }

  test("unknown hosts and refused visitors have them, too, and HEAD gets a head", async () => {
    const html = "Accept: text/html";
    const cases: [string, number][] = [
      ["nobody.localhost", 404],
      ["far.localhost", 403],
      ["guarded.localhost", 401],
      ["loop.localhost", 508],
    ];
    for (const [host, expected] of cases) {
      const { status, values, body } = await visit(server.port, host, "/", html);
      expect([host, status, values("content-type")[0]]).toEqual([host, expected, "text/html; charset=utf-8"]);
      expect(body).toContain(`<title>${expected} `);
    }
    using client = await dialRaw(server.port);
    client.send(lines("HEAD / HTTP/1.1", "Host: down.localhost", html));
    const { status, values } = await client.response("HEAD");
    expect(status).toBe(502);
    expect(Number(values("content-length")[0])).toBeGreaterThan(500);
    expect(await client.receivesEnd()).toEndWith("\r\n\r\n");
  });
});

describe("requests that are none", () => {
  const on = (...fields: string[]) => lines("POST / HTTP/1.1", "Host: hand.localhost", ...fields);
  const malformed: [string, string][] = [
    ["a length and chunks", `${on("Content-Length: 6", "Transfer-Encoding: chunked")}0\r\n\r\n`],
    ["chunks and a length", `${on("Transfer-Encoding: chunked", "Content-Length: 6")}0\r\n\r\n`],
    ["chunked twice", `${on("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")}0\r\n\r\n`],
    ["chunked, identity", `${on("Transfer-Encoding: chunked, identity")}0\r\n\r\n`],
    ["two lengths", `${on("Content-Length: 5", "Content-Length: 0")}hello`],
    ["a length with a sign", on("Content-Length: +0")],
    ["a space before the colon", on("Transfer-Encoding : chunked")],
    ["a folded field", on("X-A: 1", " folded")],
    ["a bare CR", on("X-A: 1\rX-B: 2")],
    ["bare LFs", "GET / HTTP/1.1\nHost: hand.localhost\n\n"],
    ["two Hosts", lines("GET / HTTP/1.1", "Host: hand.localhost", "Host: hand.localhost")],
    ["two Hosts, the second one unknown", lines("GET / HTTP/1.1", "Host: hand.localhost", "Host: other.localhost")],
    ["two Hosts in absolute-form", lines("GET http://hand.localhost/ HTTP/1.1", "Host: hand.localhost", "Host: a")],
    ["no Host", lines("GET / HTTP/1.1", "Accept: */*")],
    ["no Host in absolute-form", lines("GET http://hand.localhost/ HTTP/1.1", "Accept: */*")],
    ["a Host with a user", lines("GET / HTTP/1.1", "Host: user@hand.localhost")],
    ["a Host with a path", lines("GET / HTTP/1.1", "Host: hand.localhost/x")],
    ["a list of Hosts", lines("GET / HTTP/1.1", "Host: hand.localhost, hand.localhost")],
    ["a Host with a port that is none", lines("GET / HTTP/1.1", "Host: hand.localhost:8o")],
    ["a Host with a space", lines("GET / HTTP/1.1", "Host: hand.localhost x")],
    ["Connection that names Host", lines("GET / HTTP/1.1", "Host: hand.localhost", "Connection: close, host")],
    ["Connection that names Content-Length", on("Content-Length: 0", "Connection: content-length")],
    ["a user in the target", lines("GET http://u:p@hand.localhost/ HTTP/1.1", "Host: hand.localhost")],
  ];
  for (const [what, bytes] of malformed) {
    test(`${what}: 400, closed, and no service hears of it or of what is behind it`, async () => {
      const arrivals = new Arrivals(hand);
      using client = await dialRaw(server.port);
      client.send(bytes + get("hand.localhost", "/smuggled"));
      expect((await client.response()).status).toBe(400);
      await client.receivesEnd();
      expect(client.text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
      expect(arrivals.count).toBe(0);
    });
  }

  test("what is behind a request is its body: no service takes it for another request", async () => {
    const smuggled = get("web.localhost", "/smuggled");
    using exchange = await asked(post("hand.localhost", smuggled, `Content-Length: ${smuggled.length}`));
    await exchange.upstream.sees("/smuggled");
    exchange.upstream.send(HELLO);
    expect((await exchange.client.response()).body).toBe("hello");
    exchange.client.send(get("web.localhost", "/next"));
    expect(JSON.parse((await exchange.client.response()).body)).toMatchObject({ path: "/next" });
    expect(exchange.client.text).not.toContain("smuggled");
  });

  test("TRACE and unknown expectations are refused as everywhere", async () => {
    const arrivals = new Arrivals(hand);
    using tracing = await dialRaw(server.port);
    tracing.send(lines("TRACE / HTTP/1.1", "Host: hand.localhost"));
    expect((await tracing.response()).status).toBe(405);
    const expecting = await visit(server.port, "hand.localhost", "/", "Expect: 200-ok");
    expect(expecting.status).toBe(417);
    expect(arrivals.count).toBe(0);
  });
});
