import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { hashOf } from "../../src/routes/agent-tokens.ts";
import { Arrivals, eventsOf, eventually, happens, lines, requestHead } from "../support/agents.ts";
import { certificateFor } from "../support/certificates.ts";
import { freePort, spawnSeikan, TempFolder } from "../support/process.ts";
import { Pump } from "../support/pump.ts";
import { dialRaw, RawServer, type RawSocket } from "../support/raw.ts";
import { runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import { pattern, until, within } from "../support/wait.ts";
import { answerTo, switchingTo, upgradeRequest } from "../support/websocket-client.ts";
import { handClient, HandServer, type HandLine } from "../support/wsp-hand.ts";
import { startWspClient, startWspServer, type WspClientOptions } from "../support/wsp-peer.ts";

setDefaultTimeout(60_000);

// wsp: callers, a server with /request and /register, a client with its pool, and where the requests go.
// Each of both is seikan or something else.

const KIB = 1024;
const MIB = 1024 * KIB;
const LARGE = 32;

// --- where requests go -----------------------------------------------------------

/** Requests to `/meet` are answered once so many are there. */
const MEETING = 8;
let meeting: { count: number; readonly met: PromiseWithResolvers<void> };
/** `/half` says "first" and waits for this. */
let rest = Promise.withResolvers<void>();

const self = certificateFor("127.0.0.1", "localhost");
const origin = startOrigin();
const secure = startOrigin(self);
/** Played by hand. */
let hand: RawServer;
/** What it gets in a test. */
let arrivals: Arrivals;
/** For the files of this run. */
let folder: TempFolder;
let files = 0;

beforeAll(() => {
  hand = new RawServer();
  folder = new TempFolder();
});
beforeEach(() => void (arrivals = new Arrivals(hand)));
afterAll(async () => {
  hand[Symbol.dispose]();
  folder[Symbol.dispose]();
  await Promise.all([origin.stop(true), secure.stop(true)]);
});

function startOrigin(tls?: { readonly cert: string; readonly key: string }) {
  return Bun.serve({
    ...{ port: 0, hostname: "127.0.0.1", idleTimeout: 120, maxRequestBodySize: 1024 * MIB },
    ...(tls === undefined ? {} : { tls: { cert: tls.cert, key: tls.key } }),
    async fetch(request) {
      const { pathname, searchParams } = new URL(request.url);
      const { method } = request;
      const headers = new Headers({ "X-Method": method });
      if (pathname === "/echo") return new Response(request.body, { headers });
      if (pathname === "/sum") return Response.json(await sumOf(request.body));
      if (pathname === "/large") return new Response(blocks(LARGE));
      if (pathname === "/sized") return new Response(pattern(LARGE * MIB));
      if (pathname === "/nothing") return new Response(null, { status: 204, headers });
      if (pathname === "/same") return new Response(null, { status: 304, headers: { ETag: '"a"' } });
      if (pathname === "/away") return Response.redirect("/hello", 302);
      if (pathname === "/packed")
        return new Response(Bun.gzipSync(Buffer.from("packed")), { headers: { "Content-Encoding": "gzip" } });
      if (pathname === "/half") return new Response(halves());
      if (pathname === "/status") return new Response(`status ${method}`, { status: Number(searchParams.get("is")) });
      if (pathname === "/fields") return Response.json({ method, url: request.url, fields: [...request.headers] });
      if (pathname === "/meet") {
        if (++meeting.count === MEETING) meeting.met.resolve();
        await meeting.met.promise;
      }
      headers.append("Set-Cookie", "a=1");
      headers.append("Set-Cookie", "b=2");
      return new Response("hello", { headers });
    },
  });
}

async function* halves(): AsyncGenerator<Uint8Array> {
  yield Buffer.from("first");
  await rest.promise;
  yield Buffer.from("second");
}

/** So many MiB, no two alike, whose length nobody knows beforehand. */
function blocks(count: number): ReadableStream<Uint8Array> {
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

async function sumOf(body: ReadableStream<Uint8Array> | null): Promise<{ length: number; sha1: string }> {
  const hasher = new Bun.CryptoHasher("sha1");
  let length = 0;
  for await (const chunk of body ?? []) {
    hasher.update(chunk);
    length += chunk.length;
  }
  return { length, sha1: hasher.digest("hex") };
}

const at = (path: string) => `http://127.0.0.1:${origin.port}${path}`;
const byHand = (path = "/") => `http://127.0.0.1:${hand.port}${path}`;
const sumsOfBlocks = sumOf(blocks(LARGE));
const bulk = pattern(LARGE * MIB);
const sumOfBulk = { length: bulk.length, sha1: new Bun.CryptoHasher("sha1").update(bulk).digest("hex") };

// --- callers ---------------------------------------------------------------------

type At = { readonly port: number };

/** Asks for `destination`, as people do at `/request`. */
function ask({ port }: At, destination: string, init: RequestInit & { decompress?: boolean } = {}): Promise<Response> {
  const headers = { ...(init.headers as Record<string, string>), "X-PROXY-DESTINATION": destination };
  return fetch(`http://127.0.0.1:${port}/request`, { redirect: "manual", ...init, headers });
}

const told = async (response: Response) => `${response.status} ${(await response.text()).trim()}`;

/** The head of a caller's request. */
const asking = (destination: string, line = "GET", ...fields: string[]) =>
  lines(`${line} /request HTTP/1.1`, "Host: 127.0.0.1", `X-PROXY-DESTINATION: ${destination}`, ...fields);

/** A caller whose bytes the test writes by hand. */
async function caller({ port }: At, head: string): Promise<RawSocket> {
  return (await dialRaw(port)).send(head);
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

/** A file with this text. */
function fileOf(text: string): string {
  const file = folder.file(`file-${++files}`);
  writeFileSync(file, text);
  return file;
}

// --- both sides ------------------------------------------------------------------

const startServe = (...args: string[]) => startSeikan(["serve", "-l", "127.0.0.1:0", "--wsp", ...args]);

const registerAt = ({ port }: At) => `ws://127.0.0.1:${port}/register`;

/** A foreign client with more idle connections than any test uses. */
async function clientOf(serve: At, options: Partial<WspClientOptions> = {}) {
  const client = startWspClient({ url: registerAt(serve), poolIdleSize: 8, poolMaxSize: 16, tickMs: 5, ...options });
  client.behaviour.keepsRedirects = true;
  await client.whenIdle(options.poolIdleSize ?? 8);
  return client;
}

const startAgent = (url: string, ...args: string[]) =>
  startSeikan(["agent", "--protocol", "wsp", url, "--allow-net=127.0.0.1", ...args]);

/** Waits until every pool is gone. */
async function vacant(serve: At): Promise<void> {
  const probe = () => answerTo(serve.port, asking("http://nobody.example/"));
  await eventually(probe, ({ body }) => body.includes("No proxy available"), "no pool is left");
}

/** Resident memory in MB. */
function rssOf({ pid }: Running): number {
  return Number(Bun.spawnSync(["ps", "-o", "rss=", "-p", String(pid)]).stdout.toString()) / 1024;
}

/** Waits until a number does not change any more. */
async function settles(value: () => number, what: string): Promise<number> {
  let last = value();
  let since = performance.now();
  await until(() => {
    if (value() !== last) since = performance.now();
    last = value();
    return last > 0 && performance.now() - since > 400;
  }, what);
  return last;
}

// --- whoever is who ------------------------------------------------------------------

interface Pair extends AsyncDisposable {
  readonly port: number;
  /** A foreign client gathers so many bytes before it sends them. */
  gathers?(bytes: number): void;
}

const PAIRS: Readonly<Record<string, () => Promise<Pair>>> = {
  async "seikan serve and a wsp client"() {
    const stack = new AsyncDisposableStack();
    const serve = stack.use(await startServe());
    const client = stack.use(await clientOf(serve));
    const gathers = (bytes: number) => void (client.behaviour.fragment = bytes);
    return { port: serve.port, gathers, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  },
  async "a wsp server and seikan agent"() {
    const stack = new AsyncDisposableStack();
    const server = stack.use(await startWspServer());
    stack.use(await startAgent(server.url));
    await server.whenIdle(10);
    return { port: server.port, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  },
  async "seikan serve and seikan agent"() {
    const stack = new AsyncDisposableStack();
    const serve = stack.use(await startServe());
    stack.use(await startAgent(registerAt(serve)));
    return { port: serve.port, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  },
};

for (const [names, start] of Object.entries(PAIRS)) {
  describe(names, () => {
    let pair: Pair;
    beforeAll(async () => {
      pair = await start();
    });
    afterAll(() => pair[Symbol.asyncDispose]());

    test("say that they are there", async () => {
      expect(await told(await fetch(`http://127.0.0.1:${pair.port}/status`))).toBe("200 ok");
    });

    test("carry a GET, with its query and fields", async () => {
      const response = await ask(pair, at("/fields?a=%20b&c=%2f"), { headers: { "X-One": "1", Cookie: "a=b" } });
      expect(response.status).toBe(200);
      const { method, url, fields } = (await response.json()) as Record<string, any>;
      expect([method, url]).toEqual(["GET", at("/fields?a=%20b&c=%2f")]);
      const seen = Object.fromEntries(fields);
      expect(seen).toMatchObject({
        ...{ host: `127.0.0.1:${origin.port}`, "x-one": "1", cookie: "a=b" },
        "x-proxy-destination": at("/fields?a=%20b&c=%2f"),
      });
      expect(Object.keys(seen)).not.toContain("content-length");
    });

    test("carry fields that come twice", async () => {
      const response = await ask(pair, at("/hello"));
      expect(await told(response)).toBe("200 hello");
      expect(response.headers.getSetCookie()).toEqual(["a=1", "b=2"]);
    });

    for (const method of ["POST", "PUT", "PATCH", "DELETE"]) {
      test(`carry a ${method} and its body`, async () => {
        const response = await ask(pair, at("/echo"), { method, body: `body of ${method}` });
        expect(response.headers.get("x-method")).toBe(method);
        expect(await told(response)).toBe(`200 body of ${method}`);
      });
    }

    test("carry a POST and a DELETE without a body", async () => {
      for (const method of ["POST", "DELETE"]) {
        const response = await ask(pair, at("/echo"), { method });
        expect([response.headers.get("x-method"), await told(response)]).toEqual([method, "200 "]);
      }
    });

    test("carry a HEAD: the length of what a GET would bring, and nothing of it", async () => {
      using client = await caller(pair, asking(at("/sized"), "HEAD", "Connection: close"));
      const { status, values } = await client.response("HEAD");
      expect([status, values("content-length")]).toEqual([200, [String(bulk.length)]]);
      const text = await client.receivesEnd();
      expect(text.slice(text.indexOf("\r\n\r\n") + 4)).toBe("");
    });

    test("carry answers without a body", async () => {
      const nothing = await ask(pair, at("/nothing"));
      expect([nothing.status, nothing.headers.get("x-method"), await nothing.text()]).toEqual([204, "GET", ""]);
      const same = await ask(pair, at("/same"), { headers: { "If-None-Match": '"a"' } });
      expect([same.status, same.headers.get("etag"), await same.text()]).toEqual([304, '"a"', ""]);
    });

    for (const status of [201, 400, 404, 500, 503]) {
      test(`carry an answer with ${status}`, async () => {
        expect(await told(await ask(pair, at(`/status?is=${status}`)))).toBe(`${status} status GET`);
      });
    }

    test("hand redirects on", async () => {
      const response = await ask(pair, at("/away"));
      expect([response.status, response.headers.get("location")]).toEqual([302, "/hello"]);
    });

    test("leave packed bodies packed", async () => {
      const init = { headers: { "Accept-Encoding": "gzip" }, decompress: false };
      const response = await ask(pair, at("/packed"), init);
      expect(response.headers.get("content-encoding")).toBe("gzip");
      expect(Buffer.from(Bun.gunzipSync(Buffer.from(await response.arrayBuffer()))).toString()).toBe("packed");
    });

    test(`carry ${LARGE} MiB there and back, of known length`, async () => {
      const response = await ask(pair, at("/sum"), { method: "POST", body: bulk });
      expect(await response.json()).toEqual(sumOfBulk);
      const sized = await ask(pair, at("/sized"));
      expect(sized.headers.get("content-length")).toBe(String(bulk.length));
      expect(await sumOf(sized.body)).toEqual(sumOfBulk);
    });

    test(`carry ${LARGE} MiB there and back, of unknown length`, async () => {
      const response = await ask(pair, at("/sum"), { method: "PUT", body: blocks(LARGE) });
      expect(await response.json()).toEqual(await sumsOfBlocks);
      const large = await ask(pair, at("/large"));
      expect(large.headers.get("content-length")).toBeNull();
      expect(await sumOf(large.body)).toEqual(await sumsOfBlocks);
    });

    test("carry a body both ways, of unknown length", async () => {
      const response = await ask(pair, at("/echo"), { method: "PUT", body: twice("chunked") });
      expect(await told(response)).toBe("200 chunkedchunked");
    });

    test("carry requests side by side, each on a connection of its own", async () => {
      meeting = { count: 0, met: Promise.withResolvers() };
      const answers = await Promise.all(Array.from({ length: MEETING }, () => ask(pair, at("/meet")).then(told)));
      expect(answers).toEqual(Array(MEETING).fill("200 hello"));
    });

    test("pass each piece on as it comes", async () => {
      rest = Promise.withResolvers();
      pair.gathers?.(1);
      using client = await caller(pair, asking(at("/half")));
      // Without the sizes of the chunks.
      const said = () =>
        client.text
          .split("\r\n\r\n")
          .slice(1)
          .join("")
          .replace(/[\d\r\n]/g, "");
      await client.until(() => said() === "first" || undefined, "the first half");
      rest.resolve();
      pair.gathers?.(4096);
      expect((await client.response()).body).toBe("firstsecond");
    });

    test("say 527 with a reason for what is not there, and go on", async () => {
      for (const body of ["short", pattern(MIB)]) {
        const init = { method: "POST", body };
        const response = await ask(pair, `http://127.0.0.1:${freePort()}/`, init);
        const text = await told(response);
        expect(text).toStartWith("527 ");
        expect(text).toMatch(/refused|unable to connect/i);
      }
      expect(await told(await ask(pair, at("/hello")))).toBe("200 hello");
    });

    test("cut the answer of an origin that is cut", async () => {
      pair.gathers?.(1);
      using client = await caller(pair, asking(byHand("/cut")));
      const upstream = await arrivals.next();
      await requestHead(upstream);
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst");
      await client.sees("first");
      upstream.reset();
      await client.over();
      expect(client.text).toEndWith("first");
      pair.gathers?.(4096);
    });

    test("leave an origin whose caller leaves", async () => {
      pair.gathers?.(1);
      const client = await caller(pair, asking(byHand("/left")));
      const upstream = await arrivals.next();
      await requestHead(upstream);
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst");
      await client.sees("first");
      client.reset();
      await upstream.over();
      pair.gathers?.(4096);
      expect(await told(await ask(pair, at("/hello")))).toBe("200 hello");
    });
  });
}

// --- seikan serve ---------------------------------------------------------------------

describe("seikan serve --wsp", () => {
  let serve: Running;
  beforeAll(async () => {
    serve = await startServe();
  });
  afterAll(() => serve[Symbol.asyncDispose]());
  // What a test leaves behind would answer the next one.
  afterEach(() => vacant(serve));

  describe("and its callers", () => {
    test("a request is two messages, and so is its answer", async () => {
      using line = await handClient(serve.port);
      using client = await caller(serve, asking("http://a.example/x?y=1", "GET", "x-one: 1", "X-ONE: 2"));
      const [head, body] = await line.heard(2);
      expect([head!.kind, body!.kind, body!.bytes.length]).toEqual(["text", "binary", 0]);
      expect(JSON.parse(head!.bytes.toString())).toMatchObject({
        ...{ Method: "GET", URL: "http://a.example/x?y=1", ContentLength: 0 },
        Header: { "X-One": ["1", "2"], "X-Proxy-Destination": ["http://a.example/x?y=1"] },
      });
      line.answer(200, "answer", { Header: { "X-Two": ["1", "2"], "X-Name": ["größe"] } });
      const { status, body: text, values } = await client.response();
      expect([status, text, values("x-two")]).toEqual([200, "answer", ["1", "2"]]);
      expect(Buffer.from(values("x-name")[0]!, "latin1").toString()).toBe("größe");
    });

    test("a body is one message, however it comes, with its length where that is known", async () => {
      using line = await handClient(serve.port);
      using known = await caller(serve, `${asking("http://a.example/", "POST", "Content-Length: 11")}hello`);
      known.send(" world");
      expect(await line.jsonOf(0)).toMatchObject({ Method: "POST", ContentLength: 11 });
      const [, body] = await line.heard(2);
      expect([body!.kind, body!.bytes.toString()]).toEqual(["binary", "hello world"]);
    });

    test("a body of unknown length has none", async () => {
      using line = await handClient(serve.port);
      using client = await caller(serve, asking("http://a.example/", "PUT", "Transfer-Encoding: chunked"));
      expect(await line.jsonOf(0)).toMatchObject({ Method: "PUT", ContentLength: -1 });
      client.send("5\r\nhello\r\n").send("6\r\n world\r\n0\r\n\r\n");
      expect((await line.heard(2))[1]!.bytes.toString()).toBe("hello world");
    });

    test("fields for one hop stay behind, and so does the caller's password", async () => {
      using line = await handClient(serve.port);
      const hop = [
        ...["Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive"],
        ...[
          "Proxy-Authorization: Basic dTpw",
          "Upgrade: websocket",
          "Seikan-Agent: other",
          "Authorization: Basic eDp5",
        ],
      ];
      using client = await caller(serve, asking("http://a.example/", "GET", ...hop));
      const { Header } = await line.jsonOf(0);
      expect(Header).toMatchObject({ Authorization: ["Basic eDp5"] });
      expect(Object.keys(Header).join(" ")).not.toMatch(/connection|hop|keep-alive|proxy-(?!dest)|upgrade|seikan/i);
      expect(client.length).toBe(0);
    });

    test("fields for one hop stay behind: TE, as wsp has no trailers", async () => {
      using line = await handClient(serve.port);
      using _ = await caller(serve, asking("http://a.example/", "GET", "TE: trailers", "Connection: TE"));
      expect(Object.keys((await line.jsonOf(0)).Header)).not.toContain("Te");
    });

    test("an answer's fields for one hop stay behind", async () => {
      using line = await handClient(serve.port);
      using client = await caller(serve, asking("http://a.example/"));
      await line.heard(2);
      const Header = {
        ...{ "Keep-Alive": ["timeout=5"], "Transfer-Encoding": ["chunked"], "Proxy-Connection": ["close"] },
        ...{ Upgrade: ["h2c"], "Content-Length": ["999"], "X-One": ["1"] },
      };
      line.answer(200, "hello", { Header });
      const { body, values, head } = await client.response();
      expect([body, values("x-one"), values("content-length")]).toEqual(["hello", ["1"], ["5"]]);
      expect(head).not.toMatch(/keep-alive|proxy-connection|upgrade/i);
    });

    test("an answer's fields stay behind that its Connection names", async () => {
      using line = await handClient(serve.port);
      using client = await caller(serve, asking("http://a.example/"));
      await line.heard(2);
      line.answer(200, "hello", { Header: { Connection: ["X-Hop"], "X-Hop": ["1"] } });
      expect((await client.response()).head).not.toContain("X-Hop");
    });

    test("a caller that waits for 100 Continue is told to go on", async () => {
      using line = await handClient(serve.port);
      using client = await caller(
        serve,
        asking("http://a.example/", "POST", "Content-Length: 5", "Expect: 100-continue"),
      );
      await line.heard(1);
      const said = () => (client.text.startsWith("HTTP/1.1 100 ") ? true : undefined);
      await client.until(said, "100 Continue", 1000);
    });

    test("several requests come over one connection of a caller", async () => {
      using _ = await clientOf(serve);
      using client = await dialRaw(serve.port);
      for (const word of ["one", "two", "three"]) {
        const body = `${asking(at("/echo"), "POST", `Content-Length: ${word.length}`)}${word}`;
        client.send(body);
        expect(await client.response()).toMatchObject({ status: 200, body: word });
      }
    });

    for (const destination of ["", "a.example", "/path", "ftp://a.example/", "http://", "http://:80/", "http://a b/"]) {
      test(`are told 526 for a destination that is none: ${JSON.stringify(destination)}`, async () => {
        using line = await handClient(serve.port);
        const { status, body } = await answerTo(serve.port, asking(destination));
        expect([status, body]).toEqual([526, expect.stringContaining("X-PROXY-DESTINATION")]);
        await line.settled();
        expect(line.messages).toEqual([]);
      });
    }

    test("are told 526 without a destination, and without a pool", async () => {
      const missing = await fetch(`http://127.0.0.1:${serve.port}/request`);
      expect(await told(missing)).toMatch(/^526 .*X-PROXY-DESTINATION/);
      expect(await told(await ask(serve, at("/hello")))).toMatch(/^526 .*No proxy available/);
    });

    test("reach every pool by chance", async () => {
      using one = await clientOf(serve, { id: "one" });
      using other = await clientOf(serve, { id: "other" });
      for (let i = 0; i < 200 && (one.requests.length === 0 || other.requests.length === 0); i++)
        expect(await told(await ask(serve, at("/hello")))).toBe("200 hello");
      expect(one.requests.length).toBeGreaterThan(0);
      expect(other.requests.length).toBeGreaterThan(0);
    });
  });

  describe("and answers", () => {
    /** A request that waits for its answer. */
    async function asked(method = "GET", ...fields: string[]) {
      const line = await handClient(serve.port);
      const client = await caller(serve, asking("http://a.example/", method, ...fields));
      await line.heard(method === "POST" ? 1 : 2);
      const close = () => {
        line[Symbol.dispose]();
        client[Symbol.dispose]();
      };
      return { line, client, [Symbol.dispose]: close };
    }

    for (const [what, head] of Object.entries({
      "without a header": '{"StatusCode":200,"ContentLength":5}',
      "with a header that is null": '{"StatusCode":200,"Header":null,"ContentLength":5}',
      "without a length": '{"StatusCode":200,"Header":{}}',
      "of unknown length": '{"StatusCode":200,"Header":{},"ContentLength":-1}',
    })) {
      test(`${what} are understood`, async () => {
        using exchange = await asked();
        exchange.line.text(head).binary("hello");
        const { status, body, values } = await exchange.client.response();
        expect([status, body]).toEqual([200, "hello"]);
        expect(values("content-length").length + values("transfer-encoding").length).toBe(1);
      });
    }

    test("may be of any kind of message, in any number of frames", async () => {
      using exchange = await asked();
      exchange.line.send(
        ...['{"StatusCode":', "200,", '"ContentLength":10}'].map((payload, index) => ({
          ...{ opcode: index === 0 ? 2 : 0, payload, fin: index === 2 },
        })),
        ...["hello", "", "world", ""].map((payload, index) => ({
          opcode: index === 0 ? 1 : 0,
          payload,
          fin: index === 3,
        })),
      );
      expect((await exchange.client.response()).body).toBe("helloworld");
    });

    test(`may be ${LARGE} MiB in one frame`, async () => {
      for (const length of [bulk.length, -1]) {
        using line = await handClient(serve.port);
        const answer = ask(serve, "http://a.example/");
        await line.heard(2);
        line.text(JSON.stringify({ StatusCode: 200, ContentLength: length })).bulk(bulk);
        expect(await sumOf((await answer).body)).toEqual(sumOfBulk);
      }
    });

    test("may come before the request is over", async () => {
      using exchange = await asked("POST", "Content-Length: 100000");
      exchange.line.answer(413, "too much");
      expect(await exchange.client.response()).toMatchObject({ status: 413, body: "too much" });
    });

    test("with 204 and 304 have no body, whatever is sent", async () => {
      for (const status of [204, 304]) {
        using exchange = await asked();
        exchange.line.answer(status, "a body all the same");
        expect(await exchange.client.response()).toMatchObject({ status, body: "" });
        exchange.client.send(asking("nowhere"));
        expect((await exchange.client.response()).status).toBe(526);
      }
    });

    test("with 204 have no length", async () => {
      using exchange = await asked();
      exchange.line.answer(204, "");
      expect((await exchange.client.response()).values("content-length")).toEqual([]);
    });

    test("with 304 have no length but that of what has not changed", async () => {
      using exchange = await asked();
      exchange.line.answer(304, "", { Header: { "Content-Length": ["1234"] } });
      expect((await exchange.client.response()).values("content-length")).not.toContain("0");
    });

    for (const status of [526, 527]) {
      test(`with ${status} are handed on`, async () => {
        using exchange = await asked();
        exchange.line.answer(status, "Destination is forbidden");
        expect(await exchange.client.response()).toMatchObject({ status, body: "Destination is forbidden" });
      });
    }

    for (const [what, head] of Object.entries({
      "no JSON": "{nonsense",
      "JSON of something else": '{"status":200}',
      "a status that is none": '{"StatusCode":99}',
      "a switch of protocols": '{"StatusCode":101,"Header":{"Upgrade":["websocket"]}}',
      "a field with a line end": '{"StatusCode":200,"Header":{"X-A":["1\\r\\nX-Evil: 1"]}}',
      "a name with a line end": '{"StatusCode":200,"Header":{"X-A\\r\\nX-Evil":["1"]}}',
      "more than a mebibyte": `{"StatusCode":200,"Header":{"X-A":["${"x".repeat(MIB)}"]}}`,
      nothing: "",
    })) {
      test(`whose head is ${what}: 526, and the connection is dropped`, async () => {
        using exchange = await asked();
        exchange.line.text(head);
        const { status, head: answer, body } = await exchange.client.response();
        expect([status, body]).toEqual([526, expect.stringContaining("wsp")]);
        expect(answer).not.toMatch(/^X-/im);
        await exchange.line.over();
      });
    }

    test("that are shorter than they said are cut", async () => {
      using exchange = await asked();
      exchange.line.text('{"StatusCode":200,"ContentLength":10}').binary("short");
      await exchange.client.over();
      expect(exchange.client.text).toEndWith("\r\n\r\nshort");
    });

    test("that are longer than they said poison nobody", async () => {
      using exchange = await asked();
      exchange.line.text('{"StatusCode":200,"ContentLength":5}').binary("helloHTTP/1.1 200 OK\r\n\r\n");
      expect((await exchange.client.response()).body).toBe("hello");
      exchange.client.send(asking("nowhere"));
      expect((await exchange.client.response()).status).toBe(526);
    });

    test("whose client vanishes before them: 526", async () => {
      for (const end of ["reset", "end", "close"] as const) {
        using exchange = await asked();
        if (end === "close") exchange.line.send({ opcode: 8 });
        else exchange.line.socket[end]();
        const { status, body } = await exchange.client.response();
        expect([end, status]).toEqual([end, 526]);
        expect(body).toMatch(/cut|closed/);
      }
    });

    test("whose client vanishes within them are cut", async () => {
      for (const end of ["reset", "end", "close"] as const) {
        for (const length of [100, -1]) {
          using exchange = await asked();
          exchange.line.text(JSON.stringify({ StatusCode: 200, ContentLength: length }));
          exchange.line.send({ opcode: 2, payload: "first", fin: false });
          await exchange.client.sees("first");
          if (end === "close") exchange.line.send({ opcode: 8 });
          else exchange.line.socket[end]();
          await exchange.client.over();
          expect(exchange.client.text).toMatch(/first(\r\n)?$/);
        }
      }
    });

    test("whose caller vanishes within its own body end the connection, too", async () => {
      for (const end of ["reset", "end"] as const) {
        using line = await handClient(serve.port);
        using client = await caller(serve, `${asking("http://a.example/", "POST", "Content-Length: 10")}first`);
        await until(() => line.dataLength > 0 && line.socket.text.endsWith("first"), "the first half is there");
        client[end]();
        await line.over();
      }
    });

    test("whose caller vanishes end the connection, and no other", async () => {
      using one = await handClient(serve.port, { greeting: "one_1" });
      using other = await handClient(serve.port, { greeting: "other_1" });
      using client = await caller(serve, asking("http://a.example/"));
      await until(() => one.messages.length + other.messages.length === 2, "one of them gets it");
      const [busy, idle] = one.messages.length > 0 ? [one, other] : [other, one];
      busy.text('{"StatusCode":200,"ContentLength":100}');
      await client.sees("200");
      client.reset();
      await busy.over();
      await idle.settled();
      expect(idle.isOver).toBe(false);
    });
  });

  describe("and its pools", () => {
    const ends: Record<string, (line: HandLine) => unknown> = {
      "of known length": (line) => line.answer(200, "hello"),
      "of unknown length": (line) => line.answer(200, "hello", { ContentLength: -1 }),
      "of known length, ended by an empty frame": (line) =>
        line
          .text('{"StatusCode":200,"ContentLength":5}')
          .send({ opcode: 2, payload: "hello", fin: false }, { opcode: 0 }),
      "without a body": (line) => line.answer(204, ""),
      "with an error": (line) => line.answer(527, "Unable to execute request"),
    };
    for (const [what, answer] of Object.entries(ends)) {
      test(`a connection is used again behind an answer ${what}`, async () => {
        using line = await handClient(serve.port);
        for (let i = 1; i <= 3; i++) {
          const waiting = ask(serve, "http://a.example/");
          await line.heard(2 * i);
          answer(line);
          await waiting.then((response) => response.bytes());
        }
        await line.settled();
      });
    }

    test("a connection is not used again behind a rule: wsp's client would take the next request for its body", async () => {
      using line = await handClient(serve.port);
      const waiting = ask(serve, "http://a.example/");
      await line.heard(2);
      line.text('{"StatusCode":527,"ContentLength":24}').binary("Destination is forbidden");
      expect(await told(await waiting)).toBe("527 Destination is forbidden");
      await line.over();
    });

    test("a connection is used again behind the answer to a HEAD", async () => {
      using line = await handClient(serve.port);
      for (let i = 1; i <= 2; i++) {
        const waiting = ask(serve, "http://a.example/", { method: "HEAD" });
        await line.heard(2 * i);
        line.text('{"StatusCode":200,"ContentLength":5}').binary();
        expect((await waiting).status).toBe(200);
      }
      await line.settled();
    });

    test("one connection is enough for one request after the other", async () => {
      using client = await clientOf(serve, { poolIdleSize: 1, poolMaxSize: 1 });
      for (let i = 0; i < 10; i++) {
        await client.whenIdle(1);
        expect(await told(await ask(serve, at("/hello")))).toBe("200 hello");
      }
      expect(client.connections.length).toBe(1);
    });

    test("an id may hold underscores; the pool is gone with its last connection", async () => {
      const line = await handClient(serve.port, { greeting: "an_id_with_some_1" });
      const answer = ask(serve, "http://a.example/");
      await line.heard(2);
      line.answer(200, "hello");
      expect(await told(await answer)).toBe("200 hello");
      line[Symbol.dispose]();
      await vacant(serve);
    });

    for (const greeting of ["nonsense", "_1", "id_", "id_x", "id_-1", `${"x".repeat(2000)}_1`]) {
      test(`a connection that greets with ${JSON.stringify(greeting.slice(0, 20))} is closed, and is no pool`, async () => {
        using line = await handClient(serve.port, { greeting: "" });
        line.text(greeting);
        await line.over();
        await vacant(serve);
      });
    }

    test("a connection that does not greet is no pool, and is closed within --header-timeout", async () => {
      await using hasty = await startServe("--header-timeout", "300ms");
      using line = await handClient(hasty.port, { greeting: "" });
      await vacant(hasty);
      await line.over();
    });

    test("a connection that speaks while it is idle is dropped", async () => {
      for (const opcode of [1, 2]) {
        using line = await handClient(serve.port);
        line.send({ opcode, payload: "surprise" });
        await line.over();
        await vacant(serve);
      }
    });

    test("pings of clients are answered", async () => {
      using client = await clientOf(serve, { pingMs: 10 });
      await until(() => client.pongs >= 20, "pongs come");
    });

    const INVALID = { status: 526, body: "Invalid X-SECRET-KEY\n" };
    const registering = (to: At, secret: string | undefined) =>
      answerTo(to.port, upgradeRequest("/register", { "X-SECRET-KEY": secret }));

    test("a wrong secret, or none: 526 and no pool", async () => {
      await using guarded = await startServe("--agent-token", "right", "--no-auth", "--allow-net");
      using wrong = startWspClient({ url: registerAt(guarded), secretKey: "wrong" });
      await wrong.whenRefused(1);
      wrong[Symbol.dispose]();
      expect([wrong.refusals, wrong.connections]).toEqual([[INVALID], []]);
      expect(await registering(guarded, undefined)).toMatchObject(INVALID);
      await vacant(guarded);
      using right = await clientOf(guarded, { secretKey: "right" });
      expect(right.refusals).toEqual([]);
      expect(await told(await ask(guarded, at("/hello")))).toBe("200 hello");
    });

    test("a token without exit = true opens no pool", async () => {
      const entry = (name: string, more: string) => `[token.${name}]\nhash = "${hashOf(name)}"\n${more}\n`;
      const file = fileOf(entry("plain", "share = true") + entry("exit", "exit = true"));
      await using guarded = await startServe("--tokens", file);
      expect(await registering(guarded, "plain")).toMatchObject(INVALID);
      expect(await registering(guarded, "exit")).toMatchObject({ status: 101 });
    });

    test("/register is for WebSockets without pages behind them", async () => {
      expect((await fetch(`http://127.0.0.1:${serve.port}/register`)).status).toBe(426);
      const page = await answerTo(serve.port, upgradeRequest("/register", { Origin: "https://evil.example" }));
      expect(page.status).toBe(403);
    });

    test("nothing of this is there without --wsp", async () => {
      await using plain = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
      for (const path of ["/status", "/request", "/register"])
        expect((await fetch(`http://127.0.0.1:${plain.port}${path}`)).status).toBe(404);
      expect((await answerTo(plain.port, upgradeRequest("/register"))).status).not.toBe(101);
    });
  });

  describe("and its limits", () => {
    /** How long a request waits for a connection. */
    const TIMEOUT = 600;
    /** One a test: a request of another test that still waits would take a connection. */
    let patient: Running;
    beforeEach(async () => {
      patient = await startServe("--wsp-config", fileOf(`timeout: ${TIMEOUT}`));
    });
    afterEach(() => patient[Symbol.asyncDispose]());

    /** Everything that was sent before has been read: another connection was served behind it. */
    async function roundTrips(): Promise<void> {
      for (let i = 0; i < 3; i++) await answerTo(patient.port, lines("GET /status HTTP/1.1", "Host: 127.0.0.1"));
    }

    test("when all are busy a request waits for the time-out, and is told 526 then", async () => {
      using line = await handClient(patient.port);
      using first = await caller(patient, asking("http://a.example/first"));
      await line.heard(2);
      const from = performance.now();
      expect(await told(await ask(patient, "http://a.example/second"))).toMatch(
        /^526 .*Unable to get a proxy connection/,
      );
      expect(performance.now() - from).toBeWithin(TIMEOUT - 50, TIMEOUT + 3000);
      line.answer(200, "hello");
      expect((await first.response()).body).toBe("hello");
    });

    test("a request that waits gets the next connection there is", async () => {
      using line = await handClient(patient.port);
      using _ = await caller(patient, asking("http://a.example/first"));
      await line.heard(2);
      using second = await caller(patient, asking("http://a.example/second"));
      await roundTrips();
      using other = await handClient(patient.port, { greeting: "other_1" });
      expect(await other.jsonOf(0)).toMatchObject({ URL: "http://a.example/second" });
      other.answer(200, "second");
      expect((await second.response()).body).toBe("second");
    });

    test("a request that waits gets the connection that was busy", async () => {
      using line = await handClient(patient.port);
      using first = await caller(patient, asking("http://a.example/first"));
      await line.heard(2);
      using second = await caller(patient, asking("http://a.example/second"));
      await roundTrips();
      line.answer(200, "first");
      expect((await first.response()).body).toBe("first");
      expect(await line.jsonOf(2)).toMatchObject({ URL: "http://a.example/second" });
      line.answer(200, "second");
      expect((await second.response()).body).toBe("second");
    });

    for (const length of [5, -1]) {
      // Not the connection that closes in the same turn.
      test(`a request that waits is told 526 when the last connection closes behind an answer of length ${length}`, async () => {
        using line = await handClient(patient.port);
        using first = await caller(patient, asking("http://a.example/first"));
        await line.heard(2);
        using second = await caller(patient, asking("http://a.example/second"));
        await roundTrips();
        const head = JSON.stringify({ StatusCode: 200, ContentLength: length });
        line.send({ opcode: 1, payload: head }, { opcode: 2, payload: "first" }, { opcode: 8 });
        expect((await first.response()).body).toBe("first");
        const found = () => (second.text.startsWith("HTTP/1.1 526 ") ? true : undefined);
        await second.until(found, "526", TIMEOUT + 1000);
      });
    }

    test("a caller that leaves while it waits takes no connection with it", async () => {
      using line = await handClient(patient.port);
      using _ = await caller(patient, asking("http://a.example/first"));
      await line.heard(2);
      const second = await caller(patient, asking("http://a.example/second"));
      await roundTrips();
      second.reset();
      await roundTrips();
      using other = await handClient(patient.port);
      using third = await caller(patient, asking("http://a.example/third"));
      expect(await other.jsonOf(0)).toMatchObject({ URL: "http://a.example/third" });
      other.answer(200, "third");
      expect((await third.response()).body).toBe("third");
    });
  });

  describe("and who may ask for what", () => {
    test("--allow-net: a destination that it does not name is 526, and no client hears of it", async () => {
      await using strict = await startServe("--allow-net=127.0.0.1,*.example");
      using line = await handClient(strict.port);
      for (const destination of ["http://localhost/", "http://127.0.0.2/", "https://a.test/", "http://[::1]/"]) {
        const { status, body } = await answerTo(strict.port, asking(destination));
        expect([destination, status]).toEqual([destination, 526]);
        expect(body).toContain("may not be dialled");
      }
      expect(line.messages).toEqual([]);
      for (const destination of ["http://127.0.0.1:81/", "https://a.example/"]) {
        using _ = await handClient(strict.port);
        using client = await caller(strict, asking(destination));
        await until(() => line.messages.length > 0 || _.messages.length > 0, "it goes on");
        client.reset();
      }
    });

    test("--deny-net: a destination that it names is 526", async () => {
      await using strict = await startServe("--deny-net=evil.example");
      using line = await handClient(strict.port);
      const { status, body } = await answerTo(strict.port, asking("http://EVIL.example:81/"));
      expect([status, body]).toEqual([526, expect.stringContaining("may not be dialled")]);
      expect(line.messages).toEqual([]);
    });

    describe("on a server that others can reach", () => {
      const SECRET = "let me in";
      let exposed: Running;
      let line: HandLine;
      beforeAll(async () => {
        exposed = await startSeikan([
          ...["serve", "-l", "0.0.0.0:0", "--wsp", "--auth", "alice:secret", "--agent-token", SECRET],
          ...["--allow-net=a.example"],
        ]);
        line = await handClient(exposed.port, { secret: SECRET });
      });
      afterAll(async () => {
        line[Symbol.dispose]();
        await exposed[Symbol.asyncDispose]();
      });
      const basic = (text: string) => `Basic ${Buffer.from(text).toString("base64")}`;

      test("a caller without a user, or with a wrong one, is asked for one", async () => {
        for (const fields of [
          [],
          [`Proxy-Authorization: ${basic("alice:wrong")}`],
          // That is for the destination.
          [`Authorization: ${basic("alice:secret")}`],
        ]) {
          const { status, values } = await answerTo(exposed.port, asking("http://a.example/", "GET", ...fields));
          expect(status).toBe(407);
          expect(values("proxy-authenticate")[0]).toStartWith("Basic ");
        }
        expect(line.messages).toEqual([]);
      });

      test("a user gets what --allow-net names, and the password goes nowhere", async () => {
        const fields = [`Proxy-Authorization: ${basic("alice:secret")}`, "Authorization: Bearer mine"];
        const { status } = await answerTo(exposed.port, asking("http://b.example/", "GET", ...fields));
        expect(status).toBe(526);
        using client = await caller(exposed, asking("http://a.example/", "GET", ...fields));
        const { Header } = await line.jsonOf(0);
        expect(Header).toMatchObject({ Authorization: ["Bearer mine"] });
        expect(JSON.stringify(Header)).not.toContain(basic("alice:secret").split(" ")[1]!);
        await line.heard(2);
        line.answer(200, "hello");
        expect((await client.response()).body).toBe("hello");
      });

      test("a client registers with its secret, and without a user", async () => {
        await expect(handClient(exposed.port)).rejects.toThrow("526");
        using other = await handClient(exposed.port, { secret: SECRET });
        await other.settled();
      });

      test("everybody sees that it is there, and nothing else", async () => {
        expect(await told(await fetch(`http://127.0.0.1:${exposed.port}/status`))).toBe("200 ok");
      });
    });
  });

  describe("and peers that do not keep up", () => {
    const TOTAL = 200 * MIB;

    test("a caller that does not read stops the client, and memory stays small", async () => {
      using client = await clientOf(serve, { poolIdleSize: 1, poolMaxSize: 1 });
      client.behaviour.gate = new Promise(() => {});
      using slow = await dialRaw(serve.port);
      slow.send(asking(at("/hello")));
      await client.whenBusy(1);
      const connection = client.connections.find(({ status }) => status === "busy")!;
      slow.pause();
      const before = rssOf(serve);
      let sent = 0;
      const block = new Uint8Array(64 * KIB);
      async function* zeros() {
        for (; sent < TOTAL; sent += block.length) yield block;
      }
      await connection.send("text", JSON.stringify({ StatusCode: 200, Header: {}, ContentLength: TOTAL }));
      const streaming = connection.stream("binary", zeros(), block.length);
      expect(await settles(() => sent, "the client is stopped")).toBeLessThan(TOTAL / 3);
      expect(rssOf(serve) - before).toBeLessThan(80);
      slow.resume();
      await slow.receives(TOTAL, 30_000);
      expect(slow.length).toBeGreaterThan(TOTAL);
      await streaming.catch(() => {});
    });

    test("a client that does not read stops the caller, and memory stays small", async () => {
      using line = await handClient(serve.port);
      line.socket.pause();
      const before = rssOf(serve);
      using pump = await Pump.dial(serve.port, asking("http://a.example/", "POST", `Content-Length: ${TOTAL}`), TOTAL);
      expect(await settles(() => pump.sent, "the caller is stopped")).toBeLessThan(TOTAL / 3);
      expect(rssOf(serve) - before).toBeLessThan(80);
    });
  });

  describe("and its end", () => {
    test("SIGTERM: a running request finishes, idle connections are closed, exit 0", async () => {
      await using ending = await startServe();
      using busy = await handClient(ending.port);
      using client = await caller(ending, asking("http://a.example/"));
      await busy.heard(2);
      using idle = await handClient(ending.port, { greeting: "other_1" });
      busy.text('{"StatusCode":200,"ContentLength":10}').send({ opcode: 2, payload: "first", fin: false });
      await client.sees("first");
      ending.kill("SIGTERM");
      await idle.over();
      busy.send({ opcode: 0, payload: "later" });
      expect((await client.response()).body).toBe("firstlater");
      await busy.over();
      expect(await ending.exited).toBe(0);
    });

    test("SIGTERM: a request whose client is silent is ended behind --drain-timeout", async () => {
      await using ending = await startServe("--drain-timeout", "300ms");
      using busy = await handClient(ending.port);
      using client = await caller(ending, asking("http://a.example/"));
      await busy.heard(2);
      ending.kill("SIGTERM");
      await client.over();
      expect(await ending.exited).toBe(0);
    });

    test("kill -9: every caller is cut, and clients see the end", async () => {
      await using ending = await startServe();
      using client = await clientOf(ending, { poolIdleSize: 2 });
      using busy = await caller(ending, asking(byHand("/killed")));
      const upstream = await arrivals.next();
      await requestHead(upstream);
      ending.kill("SIGKILL");
      await busy.over();
      await until(() => client.idle === 0, "the pool is gone");
      await upstream.over();
    });
  });
});

// --- seikan agent ------------------------------------------------------------------------

describe("seikan agent --protocol wsp", () => {
  let server: HandServer;
  let agent: Running;
  /** A connection of the agent's, idle and nobody else's. */
  let line: HandLine;
  beforeEach(async () => {
    server = new HandServer();
    const config = fileOf("id: office_1\npoolidlesize: 1\npoolmaxsize: 3\nsecretkey: open sesame\n");
    agent = await startAgent(server.url, "--wsp-config", config);
    line = await server.next();
  });
  afterEach(async () => {
    await agent[Symbol.asyncDispose]();
    server[Symbol.dispose]();
  });

  /** The answer to the request that is made: head and body. */
  async function answered(url: string, changes: Record<string, unknown> = {}, body = "", on = line) {
    const before = on.messages.length;
    on.ask(url, changes, body);
    const messages = await on.heard(before + 2);
    expect(messages.slice(before).map(({ kind }) => kind)).toEqual(["text", "binary"]);
    return { head: await on.jsonOf(before), body: messages[before + 1]!.bytes.toString() };
  }

  test("registers as wsp does: its secret in a field, its name and size in a message", async () => {
    expect(line.head).toStartWith("GET /register HTTP/1.1\r\n");
    expect(line.head).toMatch(/^X-SECRET-KEY: open sesame\r$/m);
    expect(line.head).not.toMatch(/^sec-websocket-protocol/im);
    expect(line.messages[0]).toMatchObject({ kind: "text", frames: 1, bytes: Buffer.from("office_1_1") });
  });

  test("registers ten idle connections under one random name, with an empty secret, unless told otherwise", async () => {
    await using foreign = await startWspServer();
    await using _ = await startAgent(`ws://127.0.0.1:${foreign.port}`);
    await foreign.whenIdle(10);
    expect(foreign.pools).toMatchObject([{ size: 10, idle: 10, busy: 0 }]);
    expect(foreign.pools[0]!.id).toMatch(/^[0-9a-f-]{36}$/);
    expect(foreign.registrations.map(({ headers }) => headers["x-secret-key"])).toEqual(Array(10).fill(""));
  });

  test("answers on the same connection, one request after the other", async () => {
    for (const body of ["one", "", "three"]) {
      const head = { Method: "POST", Header: { "X-One": ["1"] } };
      expect(await answered(at("/echo"), head, body)).toMatchObject({
        head: { StatusCode: 200, Header: { "X-Method": ["POST"] } },
        body,
      });
    }
  });

  test("understands heads without a header or length, of any kind of message, in any number of frames", async () => {
    const text = JSON.stringify({ Method: "PUT", URL: at("/echo"), ContentLength: -1, Header: null });
    const body = ["hello", "", "world", ""];
    line.send(
      { opcode: 2, payload: text.slice(0, 10), fin: false },
      { opcode: 0, payload: text.slice(10) },
      ...body.map((payload, index) => ({ opcode: index === 0 ? 1 : 0, payload, fin: index === body.length - 1 })),
    );
    expect((await line.heard(3))[2]!.bytes.toString()).toBe("helloworld");
  });

  test(`takes ${LARGE} MiB in one frame`, async () => {
    line.text(JSON.stringify({ Method: "POST", URL: at("/sum"), ContentLength: bulk.length })).bulk(bulk);
    expect(JSON.parse((await line.heard(3))[2]!.bytes.toString())).toEqual(sumOfBulk);
  });

  for (const method of ["GET", "DELETE"]) {
    test(`makes a ${method} without a body that has none`, async () => {
      line.ask(byHand("/none"), { Method: method });
      const upstream = await arrivals.next();
      const head = await requestHead(upstream);
      expect([head.line, head.values("transfer-encoding"), head.values("content-length")]).toEqual([
        ...[`${method} /none HTTP/1.1`, []],
        [],
      ]);
    });
  }

  test("leaves out what was meant for one hop, and the caller's password for the server", async () => {
    const Header = {
      ...{ "Keep-Alive": ["timeout=5"], "Proxy-Connection": ["close"], Upgrade: ["websocket"] },
      ...{ "Proxy-Authorization": ["Basic dTpw"], Authorization: ["Basic eDp5"], "Transfer-Encoding": ["chunked"] },
      ...{ Host: ["evil.example"], "X-One": ["1", "2"], "Content-Length": ["999"], "X-Name": ["größe"] },
    };
    line.ask(byHand("/fields"), { Header });
    const head = await requestHead(await arrivals.next());
    expect(head.values("x-one")).toEqual(["1", "2"]);
    expect(head.values("host")).toEqual([`127.0.0.1:${hand.port}`]);
    expect(head.values("authorization")).toEqual(["Basic eDp5"]);
    expect(Buffer.from(head.values("x-name")[0]!, "latin1").toString()).toBe("größe");
    expect(head.text).not.toMatch(/keep-alive:|proxy-|upgrade|chunked|999|evil/i);
  });

  test("leaves TE out, as wsp has no trailers", async () => {
    line.ask(byHand("/fields"), { Header: { Te: ["trailers"] } });
    expect((await requestHead(await arrivals.next())).text).not.toMatch(/^te:/im);
  });

  test("leaves out what Connection names", async () => {
    line.ask(byHand("/fields"), { Header: { Connection: ["X-Hop"], "X-Hop": ["1"] } });
    expect((await requestHead(await arrivals.next())).text).not.toContain("X-Hop");
  });

  test("leaves out an answer's fields that were meant for one hop", async () => {
    line.ask(byHand("/answer"));
    const upstream = await arrivals.next();
    await requestHead(upstream);
    const fields = [
      ...[
        "Connection: X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "X-One: 1",
        "X-One: 2",
      ],
      ...["Content-Length: 5", "X-Name: gr\xc3\xb6\xc3\x9fe"],
    ];
    upstream.send(`${lines("HTTP/1.1 200 OK", ...fields)}hello`);
    const { Header, ContentLength } = await line.jsonOf(1);
    expect(ContentLength).toBe(5);
    expect(Header).toMatchObject({ "X-One": ["1", "2"], "X-Name": ["größe"] });
    expect(Object.keys(Header).join(" ")).not.toMatch(/hop|keep|connection|proxy/i);
  });

  // wsp's client leaves it away, as HTTP has none.
  test("makes a request for a URL with a fragment", async () => {
    expect((await answered(at("/hello#top"))).head.StatusCode).toBe(200);
  });

  test("does not follow redirects", async () => {
    const { head } = await answered(at("/away"));
    expect(head).toMatchObject({ StatusCode: 302, Header: { Location: ["/hello"] } });
  });

  test("says the length of what a GET would bring for a HEAD", async () => {
    const { head, body } = await answered(at("/sized"), { Method: "HEAD" });
    expect([head.StatusCode, head.ContentLength, body]).toEqual([200, bulk.length, ""]);
  });

  test("says that it does not know the length where a HEAD is not told", async () => {
    line.ask(byHand("/head"), { Method: "HEAD" });
    const upstream = await arrivals.next();
    await requestHead(upstream);
    upstream.send(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"));
    expect((await line.jsonOf(1)).ContentLength).toBe(-1);
  });

  test("does not pass 1xx on, only the answer behind them", async () => {
    line.ask(byHand("/hints"));
    const upstream = await arrivals.next();
    await requestHead(upstream);
    upstream.send(lines("HTTP/1.1 103 Early Hints", "Link: </a>"));
    upstream.send(lines("HTTP/1.1 204 No Content"));
    expect((await line.jsonOf(1)).StatusCode).toBe(204);
    expect((await line.heard(3))[2]!.bytes.length).toBe(0);
  });

  test("answers before the request is over when its origin does, and goes on behind it", async () => {
    line.text(JSON.stringify({ Method: "POST", URL: byHand("/early"), Header: {}, ContentLength: 10 }));
    line.send({ opcode: 2, payload: "first", fin: false });
    const upstream = await arrivals.next();
    await upstream.sees("first");
    upstream.send(`${lines("HTTP/1.1 413 Too Much", "Content-Length: 8")}too much`);
    expect((await line.heard(3))[2]!.bytes.toString()).toBe("too much");
    line.send({ opcode: 0, payload: "later" });
    const { head, body } = await answered(at("/hello"));
    expect([head.StatusCode, body]).toEqual([200, "hello"]);
  });

  describe("and what it refuses", () => {
    for (const [what, url, why] of [
      ["an address that --allow-net does not name", () => "http://127.0.0.2/", "may not be dialled"],
      ["another one", () => "http://[::1]/", "may not be dialled"],
      ["a host that does not answer", () => `http://127.0.0.1:${freePort()}/`, "refused"],
      ["a certificate that nobody trusts", () => `https://127.0.0.1:${secure.port}/hello`, "certificate"],
      ["a scheme that it does not know", () => "ftp://127.0.0.1/", "ftp"],
      ["a URL without a host", () => "http:///", ""],
      ["no URL", () => "", ""],
    ] as const) {
      test(`${what}: 527 with the reason, and the connection goes on`, async () => {
        for (const body of ["", "some body"]) {
          const answer = await answered(url(), { Method: "POST" }, body);
          expect([answer.head.StatusCode, answer.body]).toEqual([527, expect.stringContaining(why)]);
          expect(answer.head.ContentLength).toBe(Buffer.byteLength(answer.body));
        }
        expect((await answered(at("/hello"))).body).toBe("hello");
      });
    }

    test("an origin that answers nonsense, or nothing: 527", async () => {
      let heard = 1;
      for (const nonsense of ["no HTTP at all\r\n\r\n", ""]) {
        line.ask(byHand("/nonsense"));
        const upstream = await arrivals.next();
        await requestHead(upstream);
        upstream.send(nonsense).end();
        expect((await line.jsonOf(heard)).StatusCode).toBe(527);
        await line.heard((heard += 2));
      }
    });

    // The answer would be the agent's own, or something that --allow-net and the rules did not see.
    for (const [what, changes] of Object.entries({
      "a path of its own": { URL: "/-/healthz" },
      "an asterisk": { Method: "OPTIONS", URL: "*" },
    })) {
      test(`${what}: 527`, async () => {
        expect((await answered("", changes)).head.StatusCode).toBe(527);
      });
    }

    test("CONNECT, as requests have answers and no tunnels", async () => {
      const target = `127.0.0.1:${hand.port}`;
      line.ask(target, { Method: "CONNECT" });
      await until(() => line.isOver || line.messages.length > 1, "it answers");
      if (!line.isOver) expect((await line.jsonOf(1)).StatusCode).toBe(527);
      expect(arrivals.count).toBe(0);
    });

    // What stands in a URL becomes a request line of the agent's own proxy.
    for (const [what, end] of Object.entries({
      "line ends": "\r\n",
      "letters whose last bytes are line ends": "\u010d\u010a",
    })) {
      test(`a URL with ${what} adds no field and no request`, async () => {
        line.ask(`${byHand("/split")} HTTP/1.1${end}X-Evil: 1${end}X-Rest:`);
        await until(() => line.isOver || line.messages.length > 1 || arrivals.count > 0, "it does something");
        if (arrivals.count > 0) expect((await requestHead(await arrivals.next())).text).not.toMatch(/^x-evil/im);
      });
    }

    test("malformed heads: each connection is dropped, and the others go on", async () => {
      await using other = await startAgent(server.url);
      for (const [what, text] of Object.entries({
        "no JSON": "{nonsense",
        "JSON of something else": "[]",
        "a field with a line end": '{"Method":"GET","URL":"http://127.0.0.1/","Header":{"X-A":["1\\r\\nX-Evil: 1"]}}',
        "a method that is none": '{"Method":"G E T","URL":"http://127.0.0.1/"}',
        "more than a mebibyte": `{"Method":"GET","URL":"http://127.0.0.1/","Header":{"X-A":["${"x".repeat(MIB)}"]}}`,
        nothing: "",
      })) {
        const one = await server.next();
        one.text(text);
        await within(one.over(), `the end behind a head that is ${what}`);
      }
      expect((await answered(at("/hello"), {}, "", await server.next())).body).toBe("hello");
      expect(eventsOf(other, "request").map(({ target }) => target)).toEqual([at("/hello")]);
    });

    test("a request before the last one was answered: the connection is dropped", async () => {
      line.ask(byHand("/slow"));
      const upstream = await arrivals.next();
      await requestHead(upstream);
      line.ask(at("/hello"));
      await line.over();
      await upstream.over();
    });

    // The agent knows that no more will come, and waits for a minute.
    test("a body that is shorter than its length: 527, or the end", async () => {
      line.ask(byHand("/short"), { Method: "POST", ContentLength: 10 }, "short");
      await until(() => line.isOver || line.messages.length > 1, "it is over", 1000);
    });

    test("a body that is longer than its length poisons nothing", async () => {
      const extra = `hello${lines(`GET ${at("/fields?second")} HTTP/1.1`, "Host: x")}`;
      const answer = await answered(at("/echo"), { Method: "POST", ContentLength: 5 }, extra);
      expect(answer.body).toBe("hello");
      expect((await answered(at("/hello"))).body).toBe("hello");
      expect(eventsOf(agent, "request").length).toBe(2);
    });
  });

  describe("and its pool", () => {
    test("a connection that is used is replaced at once, up to the largest size", async () => {
      const ask = async (on: HandLine, path: string) => {
        on.ask(byHand(path));
        const upstream = await arrivals.next();
        await requestHead(upstream);
        return upstream;
      };
      const upstreams = [await ask(line, "/1")];
      const second = await server.next();
      upstreams.push(await ask(second, "/2"));
      const third = await server.next();
      upstreams.push(await ask(third, "/3"));
      for (const upstream of upstreams) upstream.send(lines("HTTP/1.1 204 No Content"));
      for (const one of [line, second, third]) {
        await one.heard(3);
        await one.settled();
      }
      expect(server.accepted.length).toBe(3);
      expect(new Set(server.lines.map(({ messages }) => messages[0]!.bytes.toString())).size).toBe(1);
    });

    test("connections that are lost are replaced", async () => {
      await using other = await startAgent(server.url, "--wsp-config", fileOf("poolidlesize: 3"));
      const lost = [await server.next(), await server.next(), await server.next()];
      lost[0]!.socket.reset();
      lost[1]!.socket.end();
      lost[2]!.send({ opcode: 8 });
      for (let i = 0; i < 3; i++) line = await server.next();
      expect((await answered(at("/hello"))).body).toBe("hello");
      expect((await happens(other, "disconnected")).server).toBe(`ws://127.0.0.1:${server.port}`);
    });

    // What refills a pool in use gives up at its first failure, whatever --max-retries says.
    test("a server that goes while a further connection is made is waited for", async () => {
      server.isWaiting = true;
      line.ask(byHand("/going"));
      await requestHead(await arrivals.next());
      await until(() => server.accepted.length === 2, "a further connection comes");
      line.socket.reset();
      await happens(agent, "disconnected");
      server.isWaiting = false;
      server.accepted[1]!.reset();
      const ended = agent.exited.then((code) => Promise.reject(new Error(`it ended with ${code}`)));
      line = await Promise.race([server.next(), ended]);
      expect((await answered(at("/hello"))).body).toBe("hello");
    });

    test("a request whose server goes leaves its origin", async () => {
      line.ask(byHand("/gone"));
      const upstream = await arrivals.next();
      await requestHead(upstream);
      line.socket.reset();
      await upstream.over();
    });
  });

  describe("and https:// destinations", () => {
    test("with --upstream-insecure any certificate will do", async () => {
      await using foreign = await startWspServer();
      await using _ = await startAgent(foreign.url, "--upstream-insecure");
      await foreign.whenIdle(1);
      const response = await ask(foreign, `https://127.0.0.1:${secure.port}/echo`, { method: "PUT", body: "secret" });
      expect(await told(response)).toBe("200 secret");
      const plain = await ask(foreign, `https://127.0.0.1:${origin.port}/hello`);
      expect(await told(plain)).toMatch(/^527 .*TLS/is);
    });
  });

  describe("and peers that do not keep up", () => {
    const TOTAL = 200 * MIB;

    test("a server that does not read stops the origin, and memory stays small", async () => {
      line.socket.pause();
      using pump = Pump.listen(lines("HTTP/1.1 200 OK", `Content-Length: ${TOTAL}`), TOTAL);
      const before = rssOf(agent);
      line.ask(`http://127.0.0.1:${pump.port}/`);
      expect(await settles(() => pump.sent, "the origin is stopped")).toBeLessThan(TOTAL / 3);
      expect(rssOf(agent) - before).toBeLessThan(80);
    });

    test("an origin that does not read stops the server, and memory stays small", async () => {
      await using foreign = await startWspServer();
      await using other = await startAgent(foreign.url);
      await foreign.whenIdle(10);
      const connection = foreign.connections[0]!;
      connection.isBusy = true;
      const before = rssOf(other);
      let sent = 0;
      const block = new Uint8Array(64 * KIB);
      async function* zeros() {
        for (; sent < TOTAL; sent += block.length) yield block;
      }
      const head = { Method: "POST", URL: byHand("/full"), Header: {}, ContentLength: TOTAL };
      await connection.send("text", JSON.stringify(head));
      const upstream = await arrivals.next();
      upstream.pause();
      const streaming = connection.stream("binary", zeros(), block.length).catch(() => {});
      expect(await settles(() => sent, "the server is stopped")).toBeLessThan(TOTAL / 3);
      expect(rssOf(other) - before).toBeLessThan(80);
      connection.cut();
      await streaming;
    });
  });

  describe("and its end", () => {
    test("SIGTERM: a running request finishes, idle connections are closed, exit 0", async () => {
      line.ask(byHand("/last"));
      const upstream = await arrivals.next();
      await requestHead(upstream);
      const idle = await server.next();
      agent.kill("SIGTERM");
      await idle.over();
      upstream.send(`${lines("HTTP/1.1 200 OK", "Content-Length: 5")}hello`);
      expect((await line.heard(3))[2]!.bytes.toString()).toBe("hello");
      await line.over();
      expect(await agent.exited).toBe(0);
    });

    // Nobody closes it any more: the end waits for --drain-timeout.
    test("SIGTERM: a connection that was being made is closed, too", async () => {
      using pooled = new HandServer();
      await using ending = await startAgent(pooled.url, "--wsp-config", fileOf("poolidlesize: 2\npoolmaxsize: 3"));
      const busy = await pooled.next();
      const idle = await pooled.next();
      pooled.isWaiting = true;
      busy.ask(byHand("/last"));
      await requestHead(await arrivals.next());
      await until(() => pooled.accepted.length === 3, "a further connection comes");
      const late = pooled.accepted[2]!;
      const head = await late.sees("\r\n\r\n");
      ending.kill("SIGTERM");
      await idle.over();
      late.send(switchingTo(head));
      await late.over(1000);
    });

    test("SIGTERM: a request whose origin is silent is ended behind --drain-timeout", async () => {
      await using foreign = await startWspServer();
      await using ending = await startAgent(foreign.url, "--drain-timeout", "300ms");
      await foreign.whenIdle(1);
      using client = await caller(foreign, asking(byHand("/silent")));
      await requestHead(await arrivals.next());
      ending.kill("SIGTERM");
      expect((await client.response()).status).toBe(526);
      expect(await ending.exited).toBe(0);
    });

    test("a wrong secret at seikan serve: no pool, and with --fail-fast the end", async () => {
      await using guarded = await startServe("--agent-token", "right");
      const args = ["agent", "--protocol", "wsp", registerAt(guarded), "--allow-net=127.0.0.1", "--fail-fast"];
      const { code, stderr } = await runSeikan([...args, "--token", "wrong"]);
      expect(code).not.toBe(0);
      expect(stderr).toContain("526");
      expect(stderr).not.toContain("wrong");
    });

    test("a server that is not there: exit 3 with --fail-fast", async () => {
      const args = ["agent", "--protocol", "wsp", `ws://127.0.0.1:${freePort()}/register`, "--allow-net=127.0.0.1"];
      const { code, stderr } = await runSeikan([...args, "--fail-fast"]);
      expect([code, stderr]).toEqual([3, expect.stringContaining("refused")]);
    });

    const url = "ws://127.0.0.1:1/register";
    for (const [what, args, why] of [
      ["no server", ["--allow-net"], "SERVER"],
      ["no --allow-net", [url], "--allow-net"],
      ["an exposure", [url, "--allow-net", "--expose", "http://localhost:1"], "exposures"],
      ["a command", [url, "--allow-net", "--", "true"], "command"],
      ["no WebSocket", ["ftp://127.0.0.1/", "--allow-net"], "ws://"],
    ] as const) {
      test(`${what}: exit 2`, async () => {
        const { code, stderr } = await runSeikan(["agent", "--protocol", "wsp", ...args]);
        expect([code, stderr]).toEqual([2, expect.stringContaining(why)]);
      });
    }
  });
});

// --- wsp's own configuration files -----------------------------------------------------

describe("--wsp-config", () => {
  const RULES = `
blacklist:
  - method: ^(PUT|DELETE)$
    url: .*
  - url: /secret
  - headers: {X-Team: ^red$}
  - url: '(?i)\\Ahttp://[^/]*/OLD/.*\\z'
  - url: /keyless
    headers: {X-Key: ^$}
whitelist:
  - url: ^http://(127\\.0\\.0\\.1|a\\.example)[:/]
  - method: OPTIONS
    headers: {X-Team: .}
`;
  const forbidden: [string, string, Record<string, string>, string][] = [
    ["PUT", "http://a.example/", {}, "Destination is forbidden"],
    ["GET", "http://a.example/secret/plans", {}, "Destination is forbidden"],
    ["GET", "http://a.example/", { "x-team": "red" }, "Destination is forbidden"],
    ["GET", "HTTP://a.example/secret/plans", {}, "Destination is forbidden"],
    ["GET", "http://a.example/old/plans", {}, "Destination is forbidden"],
    ["GET", "http://a.example/keyless", {}, "Destination is forbidden"],
    ["GET", "http://b.example/", {}, "Destination is not allowed"],
    ["OPTIONS", "http://b.example/", {}, "Destination is not allowed"],
  ];

  describe("of seikan serve", () => {
    test("says where to listen, and implies --wsp", async () => {
      const file = fileOf("# wsp_server.cfg\n---\nhost: 127.0.0.1\nport: 0\n");
      await using serve = await startSeikan(["serve", "--wsp-config", file]);
      expect(serve.listeners[0]).toMatch(/^127\.0\.0\.1:\d+$/);
      using _ = await clientOf(serve);
      expect(await told(await ask(serve, at("/hello")))).toBe("200 hello");
    });

    test("gives way to --listen", async () => {
      await using serve = await startSeikan(["serve", "-l", "[::1]:0", "--wsp-config", fileOf("port: 0")]);
      expect(serve.listeners).toMatchObject([expect.stringContaining("[::1]:")]);
    });

    test("may have its keys in any case, others that nobody knows, or nothing at all", async () => {
      for (const text of ["Port: 0\nTimeOut: 5\nwhatever: [1, 2]\nwhitelist:\nBlackList: []\n", "", "# nothing\n"]) {
        await using serve = await startServe("--wsp-config", fileOf(text));
        await vacant(serve);
      }
    });

    test("has a secret key: whoever does not know it opens no pool", async () => {
      const file = fileOf("port: 0\nsecretkey: ThisIsASecret\n");
      await using serve = await startSeikan(["serve", "--wsp-config", file, "--no-auth", "--allow-net"]);
      await expect(handClient(serve.port)).rejects.toThrow("526");
      using _ = await clientOf(serve, { secretKey: "ThisIsASecret" });
      expect(await told(await ask(serve, at("/hello")))).toBe("200 hello");
    });

    test("has rules: what they forbid is 526, and no client hears of it", async () => {
      await using serve = await startServe("--wsp-config", fileOf(RULES));
      using line = await handClient(serve.port);
      for (const [method, url, headers, why] of forbidden) {
        const answer = await told(await ask(serve, url, { method, headers }));
        expect([method, url, answer]).toEqual([method, url, expect.stringMatching(new RegExp(`^526 .*${why}`))]);
      }
      expect(line.messages).toEqual([]);
      using _ = await caller(serve, asking("http://a.example/x", "GET", "X-Team: blue"));
      expect(await line.jsonOf(0)).toMatchObject({ URL: "http://a.example/x" });
    });

    test("has a rule that only fields fulfil", async () => {
      await using serve = await startServe("--wsp-config", fileOf(RULES));
      using line = await handClient(serve.port);
      using _ = await caller(serve, asking("http://b.example/", "OPTIONS", "X-Team: blue"));
      expect(await line.jsonOf(0)).toMatchObject({ Method: "OPTIONS" });
    });

    // It is read for each connection, and each connection is reset when that fails.
    test("is read once: it may be gone afterwards", async () => {
      const file = fileOf("port: 0");
      await using serve = await startSeikan(["serve", "--wsp-config", file]);
      rmSync(file);
      expect(await told(await fetch(`http://127.0.0.1:${serve.port}/status`))).toBe("200 ok");
    });
  });

  describe("of seikan agent", () => {
    test("names the servers and everything else; it implies --protocol wsp", async () => {
      await using one = await startWspServer({ secretKey: "ThisIsASecret" });
      await using other = await startWspServer({ secretKey: "ThisIsASecret" });
      const file = fileOf(
        `id: office\ntargets:\n - ${one.url}\n - ${other.url}\npoolidlesize: 2\npoolmaxsize: 3\nsecretkey: ThisIsASecret\n`,
      );
      await using _ = await startSeikan(["agent", "--wsp-config", file, "--allow-net=127.0.0.1"]);
      for (const server of [one, other]) {
        await server.whenIdle(2);
        expect(server.greetings).toEqual(["office_2", "office_2"]);
        expect(await told(await ask(server, at("/hello")))).toBe("200 hello");
      }
    });

    test("gives way to SERVER and --token", async () => {
      await using foreign = await startWspServer({ secretKey: "right" });
      const file = fileOf("targets: [ws://127.0.0.1:1/register]\nsecretkey: wrong\n");
      await using _ = await startAgent(foreign.url, "--wsp-config", file, "--token", "right");
      await foreign.whenIdle(10);
    });

    test("has rules: what they forbid is 527, is not requested, and the connection goes on", async () => {
      using server = new HandServer();
      const config = fileOf(`poolidlesize: 1\npoolmaxsize: 1\n${RULES}`);
      await using agent = await startAgent(server.url, "--wsp-config", config);
      const line = await server.next();
      let heard = 1;
      for (const [Method, url, headers, why] of forbidden) {
        const Header = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, [value]]));
        for (const body of ["", "some body"]) {
          line.ask(url.replace("a.example", `127.0.0.1:${hand.port}`), { Method, Header }, body);
          const [head, text] = (await line.heard((heard += 2))).slice(-2);
          expect(JSON.parse(head!.bytes.toString()).StatusCode).toBe(527);
          expect(text!.bytes.toString().trim()).toBe(why);
        }
      }
      line.ask(at("/hello"));
      expect((await line.heard(heard + 2)).at(-1)!.bytes.toString()).toBe("hello");
      expect(arrivals.count).toBe(0);
      expect(eventsOf(agent, "request").map(({ target }) => target)).toEqual([at("/hello")]);
    });
  });

  const wrong: [what: string, text: string, key: string][] = [
    ["no YAML", "port: [", "YAML"],
    ["text", "just words", "the file"],
    ["a rule that is no rule", "blacklist: [url]", "blacklist.0"],
    ["rules that are no list", "whitelist: {url: x}", "whitelist"],
    ["a rule with a list", "blacklist:\n - method: GET\n - url: [5]", "blacklist.1.url"],
    ["a pattern that means something else in RE2", "whitelist:\n - url: '\\pL'", "RE2"],
    ["a pattern with a class of RE2", 'whitelist:\n - url: "[[:alpha:]]"', "RE2"],
    ["a pattern that is none", 'whitelist:\n - url: "("', "("],
    ["a key that is a list", "secretkey: [12345]", "secretkey"],
  ];
  const ofServer: typeof wrong = [
    ["a port that is text", 'port: "8080"', "port"],
    ["a port that is none", "port: 65536", "port"],
    ["a host that is a number", "host: 1", "host"],
    ["a time-out that is none", "timeout: -1", "timeout"],
    ["an idle time-out that is none", "idletimeout: soon", "idletimeout"],
  ];
  const ofClient: typeof wrong = [
    ["targets that are no list", "targets: ws://127.0.0.1/register", "targets"],
    ["a pool without connections", "poolidlesize: 0", "poolidlesize"],
    ["a pool size that is text", "poolmaxsize: many", "poolmaxsize"],
  ];
  // A good one would run on.
  const serveArgs = ["serve", "-l", "127.0.0.1:0", "--timeout", "2s"];
  const agentArgs = ["agent", "ws://127.0.0.1:1/register", "--allow-net", "--timeout", "2s"];
  for (const [args, [what, text, key]] of [
    ...[...wrong, ...ofServer].map((one) => [serveArgs, one] as const),
    ...[...wrong, ...ofClient].map((one) => [agentArgs, one] as const),
  ]) {
    test(`of ${args[0]} with ${what}: exit 2, and the key is named`, async () => {
      const { code, stderr } = await runSeikan([...args, "--wsp-config", fileOf(text)]);
      expect([code, stderr]).toEqual([2, expect.stringContaining(key)]);
    });
  }

  test("a target that is none: exit 2", async () => {
    const { code, stderr } = await runSeikan(["agent", "--allow-net", "--wsp-config", fileOf("targets: [nonsense]")]);
    expect([code, stderr]).toEqual([2, expect.stringContaining('"nonsense"')]);
  });

  // A long list needs the place as well.
  test("a pattern that is none is named by its key, too", async () => {
    const { stderr } = await runSeikan([...serveArgs, "--wsp-config", fileOf('whitelist:\n - url: "("')]);
    expect(stderr).toContain("whitelist.0.url");
  });

  test("a file that is not there: exit 2", async () => {
    for (const args of [serveArgs, agentArgs]) {
      const { code, stderr } = await runSeikan([...args, "--wsp-config", folder.file("missing")]);
      expect([code, stderr]).toEqual([2, expect.stringContaining("--wsp-config")]);
    }
  });
});

// These wait for time to pass: they do it together.
describe("time", () => {
  test.concurrent("idle connections beyond the size of their pool are closed, and no others", async () => {
    await using patient = await startServe("--wsp-config", fileOf("idletimeout: 1"));
    const settings = { url: registerAt(patient), tickMs: 60_000 };
    using large = startWspClient({ ...settings, id: "one", poolIdleSize: 5 });
    await large.whenIdle(1);
    large.refill();
    await large.whenIdle(5);
    using other = startWspClient({ ...settings, id: "other", poolIdleSize: 1 });
    await other.whenIdle(1);
    // Every greeting tells the size anew.
    using small = await handClient(patient.port, { greeting: "one_2" });
    const open = () => large.idle + (small.isOver ? 0 : 1);
    await until(() => open() <= 2, "it is trimmed", 15_000);
    await answerTo(patient.port, lines("GET /status HTTP/1.1", "Host: 127.0.0.1"));
    expect([open(), other.idle]).toEqual([2, 1]);
  });

  test.concurrent(
    "a client that is frozen is given up: its caller is told 526, and the next one gets another",
    async () => {
      await using serve = await startServe("--ping-interval", "1s", "--response-timeout", "5s");
      using client = startWspClient({ url: registerAt(serve), poolIdleSize: 1, poolMaxSize: 1 });
      await client.whenIdle(1);
      client.connections[0]!.freeze();
      const from = performance.now();
      expect(await told(await ask(serve, at("/hello")))).toMatch(/^526 .*does not answer for 5 s/);
      expect(performance.now() - from).toBeWithin(4000, 9000);
      // It wakes up, sees what happened, and makes another one.
      client.connections[0]!.thaw();
      await until(() => client.connections[1]?.status === "idle", "another connection is made");
      expect(await told(await ask(serve, at("/hello")))).toBe("200 hello");
    },
  );

  test.concurrent("a server that is frozen is given up: the agent leaves its origin, and connects again", async () => {
    const upstreams = new RawServer();
    await using foreign = await startWspServer();
    await using agent = await startAgent(foreign.url, "--ping-interval", "1s");
    await foreign.whenIdle(10);
    const waiting = foreign.request(`http://127.0.0.1:${upstreams.port}/`).catch(() => {});
    const upstream = await upstreams.next();
    await until(() => foreign.connections.length > 10, "the pool is full again");
    const frozen = foreign.connections.length;
    for (const connection of foreign.connections) connection.freeze();
    await upstream.over(15_000);
    await until(() => foreign.greetings.slice(frozen).some((greeting) => greeting !== ""), "it is back", 15_000);
    expect(eventsOf(agent, "disconnected").length).toBe(1);
    for (const connection of foreign.connections) connection.cut();
    await waiting;
    upstreams[Symbol.dispose]();
  });

  test.concurrent("a server that comes back on its port is found again", async () => {
    const foreign = await startWspServer();
    const { port, url } = foreign;
    await using returning = await startAgent(url);
    await foreign.whenIdle(10);
    await foreign[Symbol.asyncDispose]();
    await happens(returning, "connect-failed");
    await using again = await startWspServer({ port });
    await again.whenIdle(10);
    expect(await told(await ask(again, at("/hello")))).toBe("200 hello");
  });

  test.concurrent("pings come every --ping-interval", async () => {
    await using foreign = await startWspServer();
    await using _ = await startAgent(foreign.url, "--ping-interval", "1s");
    await until(() => foreign.pings >= 10, "pings come");
  });

  // 526 is how wsp refuses a secret.
  test.concurrent("a wrong secret: exit 4, and no pool", async () => {
    await using foreign = await startWspServer({ secretKey: "right" });
    await using wrong = spawnSeikan([
      ...["agent", "--protocol", "wsp", foreign.url, "--allow-net=127.0.0.1", "--token", "wrong"],
      ...["--max-retries", "1"],
    ]);
    await wrong.says("526");
    expect(foreign.pools).toEqual([]);
    expect(await wrong.exited()).toBe(4);
  });

  // It must not pass for a file without any key: no secret, no rules.
  for (const args of [
    ["serve", "-l", "127.0.0.1:0"],
    ["agent", "ws://127.0.0.1:1/register", "--allow-net"],
  ]) {
    test.concurrent(`--wsp-config of ${args[0]} with a list in place of keys: exit 2`, async () => {
      const file = fileOf("- secretkey: ThisIsASecret");
      expect((await runSeikan([...args, "--timeout", "1s", "--wsp-config", file])).code).toBe(2);
    });
  }
});
