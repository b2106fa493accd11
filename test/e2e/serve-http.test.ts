import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { dialRaw, echo, RawServer, type RawSocket } from "../support/raw.ts";
import { startSeikan, type Running } from "../support/seikan.ts";
import { pattern, until, within } from "../support/wait.ts";

setDefaultTimeout(30_000);

// What goes over the wire, byte by byte; numbers in parentheses are those of RFC 9110 and 9112.

let proxy: Running;
beforeAll(async () => {
  proxy = await startSeikan(["serve", "-l", "127.0.0.1:0"]);
});
afterAll(() => proxy[Symbol.asyncDispose]());

const HEAD_END = "\r\n\r\n";
const lines = (...text: string[]) => `${text.join("\r\n")}${HEAD_END}`;
const hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

const get = (port: number, path = "/", ...fields: string[]) =>
  lines(`GET http://127.0.0.1:${port}${path} HTTP/1.1`, "Host: x", ...fields);

/** A client, the origin it asks, and the origin's end of the connection with the request's head read. */
async function asked(request: (port: number) => string, through = proxy) {
  const origin = new RawServer();
  const client = await dialRaw(through.port);
  client.send(request(origin.port));
  const upstream = await origin.next();
  const head = (await upstream.sees(HEAD_END)).split(HEAD_END)[0]!;
  const close = () => {
    client[Symbol.dispose]();
    origin[Symbol.dispose]();
  };
  return { origin, client, upstream, head, fields: head.split("\r\n").slice(1), [Symbol.dispose]: close };
}

/** Whatever was sent before has been read: the proxy answered somebody who came later. */
async function settled(through = proxy): Promise<void> {
  using client = await dialRaw(through.port);
  client.send(lines("GET /-/healthz HTTP/1.1", "Host: localhost"));
  await client.response();
}

describe("requests that are none", () => {
  /** Sends it and reads the answer; then the connection must end, and the origin have seen nothing. */
  async function refused(bytes: (port: number) => string, through = proxy) {
    using origin = new RawServer(echo);
    using client = await dialRaw(through.port);
    client.send(bytes(origin.port)).send(get(origin.port, "/smuggled"));
    const answer = await client.response();
    await client.receivesEnd();
    expect(client.text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
    expect(answer.values("connection")).toEqual(["close"]);
    expect(answer.values("content-type")).toEqual(["text/plain; charset=utf-8"]);
    expect(answer.values("proxy-status")[0]).toStartWith("seikan; error=");
    expect(origin.accepted).toHaveLength(0);
    return answer;
  }

  const post = (port: number, ...fields: string[]) =>
    `${lines(`POST http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x", ...fields)}0\r\n\r\n`;

  const malformed: [string, (port: number) => string][] = [
    ["two Hosts", (port) => lines(`GET http://127.0.0.1:${port}/ HTTP/1.1`, "Host: a", "Host: a")],
    ["no Host", (port) => lines(`GET http://127.0.0.1:${port}/ HTTP/1.1`, "Accept: */*")],
    ["a Host with a user", (port) => lines(`GET http://127.0.0.1:${port}/ HTTP/1.1`, "Host: u@a")],
    ["a Host with a path", (port) => lines(`GET http://127.0.0.1:${port}/ HTTP/1.1`, "Host: a/b")],
    ["a Host list", (port) => lines(`GET http://127.0.0.1:${port}/ HTTP/1.1`, "Host: a, b")],
    ["Content-Length and Transfer-Encoding", (port) => post(port, "Content-Length: 5", "Transfer-Encoding: chunked")],
    ["Transfer-Encoding and Content-Length", (port) => post(port, "Transfer-Encoding: chunked", "Content-Length: 5")],
    ["chunked twice in a line", (port) => post(port, "Transfer-Encoding: chunked, chunked")],
    ["chunked twice in two lines", (port) => post(port, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")],
    ["chunked, then identity", (port) => post(port, "Transfer-Encoding: chunked, identity")],
    ["an unknown coding", (port) => post(port, "Transfer-Encoding: xchunked")],
    ["a coding with VT", (port) => post(port, "Transfer-Encoding: chunked\x0b")],
    ["an empty Transfer-Encoding", (port) => post(port, "Transfer-Encoding:")],
    ["Transfer-Encoding , chunked", (port) => post(port, "Transfer-Encoding: ,chunked")],
    [
      "Transfer-Encoding in HTTP/1.0",
      (port) => lines(`POST http://127.0.0.1:${port}/ HTTP/1.0`, "Transfer-Encoding: chunked"),
    ],
    ["two different lengths", (port) => post(port, "Content-Length: 5", "Content-Length: 6")],
    ["a list of lengths", (port) => post(port, "Content-Length: 5, 6")],
    ["a length with a sign", (port) => post(port, "Content-Length: +5")],
    ["a hexadecimal length", (port) => post(port, "Content-Length: 0x5")],
    ["a negative length", (port) => post(port, "Content-Length: -1")],
    ["a length with an underscore", (port) => post(port, "Content-Length: 1_0")],
    ["a length beyond everything", (port) => post(port, "Content-Length: 99999999999999999999999")],
    ["an empty length", (port) => post(port, "Content-Length:")],
    ["a space before the colon", (port) => get(port, "/", "X-A : 1")],
    ["a tab before the colon", (port) => get(port, "/", "X-A\t: 1")],
    ["a field without colon", (port) => get(port, "/", "X-A")],
    ["a field without name", (port) => get(port, "/", ": 1")],
    ["a folded field", (port) => get(port, "/", "X-A: 1", " 2")],
    ["white space before the first field", (port) => `GET http://127.0.0.1:${port}/ HTTP/1.1\r\n Host: x\r\n\r\n`],
    ["NUL in a value", (port) => get(port, "/", "X-A: 1\x002")],
    ["a bare CR in a value", (port) => get(port, "/", "X-A: 1\r2")],
    ["ESC in a value", (port) => get(port, "/", "X-A: 1\x1b[31m")],
    ["a bare LF", (port) => `GET http://127.0.0.1:${port}/ HTTP/1.1\nHost: x\n\n`],
    ["one bare LF among CRLF", (port) => `GET http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: x\nX-A: 1\r\n\r\n`],
    ["a space in the target", (port) => lines(`GET http://127.0.0.1:${port}/a b HTTP/1.1`, "Host: x")],
    ["a lower case version", (port) => lines(`GET http://127.0.0.1:${port}/ http/1.1`, "Host: x")],
    ["a method that is none", (port) => lines(`G@T http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x")],
    ["a user in the target", (port) => lines(`GET http://u:p@127.0.0.1:${port}/ HTTP/1.1`, "Host: x")],
    ["a target without host", () => lines("GET http:///path HTTP/1.1", "Host: x")],
    ["a target with port 0", () => lines("GET http://127.0.0.1:0/ HTTP/1.1", "Host: x")],
    ["Connection that names Content-Length", (port) => post(port, "Content-Length: 0", "Connection: content-length")],
    ["Connection that names Host", (port) => get(port, "/", "Connection: close, Host")],
    ["Connection that names Transfer-Encoding", (port) => post(port, "Connection: transfer-encoding")],
  ];
  for (const [what, bytes] of malformed) {
    test(`${what}: 400, closed, and nothing behind it is read`, async () => {
      const { status } = await refused(bytes);
      // An unknown transfer coding may also be "not implemented" (RFC 9112 section 6.1).
      expect(/cod|chunked|Transfer/.test(what) ? [400, 501] : [400]).toContain(status);
    });
  }

  test("two spaces in the request line: 400, closed, and nothing behind it is read", async () => {
    const answer = await refused((port) => lines(`GET  http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x"));
    expect(answer.status).toBe(400);
  });

  const others: [string, number, (port: number) => string][] = [
    ["no version", 400, (port) => lines(`GET http://127.0.0.1:${port}/`, "Host: x")],
    ["HTTP/2.0", 505, (port) => lines(`GET http://127.0.0.1:${port}/ HTTP/2.0`, "Host: x")],
    ["an https:// target", 501, (port) => lines(`GET https://127.0.0.1:${port}/ HTTP/1.1`, "Host: x")],
    ["an ftp:// target", 501, (port) => lines(`GET ftp://127.0.0.1:${port}/ HTTP/1.1`, "Host: x")],
    ["TRACE", 405, (port) => lines(`TRACE http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x")],
    ["an unknown expectation", 417, (port) => get(port, "/", "Expect: 200-ok")],
    ["a head over 64 KiB", 431, (port) => get(port, "/", ...many(80, "x".repeat(1000)))],
    ["a field over 64 KiB", 431, (port) => get(port, "/", `X-Long: ${"x".repeat(70_000)}`)],
    ["more than 100 fields", 431, (port) => get(port, "/", ...many(101, "1"))],
  ];
  for (const [what, status, bytes] of others) {
    test(`${what}: ${status}`, async () => {
      expect((await refused(bytes)).status).toBe(status);
    });
  }

  const many = (count: number, value: string) => Array.from({ length: count }, (_, index) => `X-${index}: ${value}`);

  test("100 fields are served", async () => {
    using exchange = await asked((port) => get(port, "/", ...many(99, "x".repeat(100))));
    exchange.upstream.send(hello);
    expect((await exchange.client.response()).body).toBe("hello");
    expect(exchange.head).toContain(`X-98: ${"x".repeat(100)}`);
  });

  test("a head of 50 KB, below the limit of 64 KiB, is served", async () => {
    using client = await dialRaw(proxy.port);
    client.send(lines("GET /-/healthz HTTP/1.1", "Host: localhost", ...many(50, "x".repeat(1000))));
    expect((await client.response()).status).toBe(200);
  });

  test("an answer's head of 50 KB is brought back", async () => {
    using exchange = await asked((port) => get(port));
    exchange.upstream.send(lines("HTTP/1.1 200 OK", "Content-Length: 0", ...many(50, "x".repeat(1000))));
    expect((await exchange.client.response()).status).toBe(200);
  });

  test("a request line over the limit: 414, as soon as it is over", async () => {
    await using strict = await startSeikan(["serve", "-l", "127.0.0.1:0", "--max-header-size", "1KiB"]);
    using client = await dialRaw(strict.port);
    client.send(`GET http://127.0.0.1:1/${"x".repeat(1100)}`);
    expect((await client.response()).status).toBe(414);
    await client.receivesEnd();
  });

  test("a request line over the limit that comes with its fields: 414", async () => {
    await using strict = await startSeikan(["serve", "-l", "127.0.0.1:0", "--max-header-size", "1KiB"]);
    using client = await dialRaw(strict.port);
    client.send(lines(`GET http://127.0.0.1:1/${"x".repeat(1100)} HTTP/1.1`, "Host: x"));
    expect((await client.response()).status).toBe(414);
  });

  test("a request line of 20 KB is served", async () => {
    using client = await dialRaw(proxy.port);
    client.send(lines(`GET /-/healthz?${"x".repeat(20_000)} HTTP/1.1`, "Host: localhost"));
    expect((await client.response()).status).toBe(200);
  });

  test("--max-header-size and --max-headers move the limits", async () => {
    await using strict = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--max-header-size", "1KiB", "--max-headers", "5"],
    ]);
    expect((await refused((port) => get(port, "/", `X: ${"x".repeat(1100)}`), strict)).status).toBe(431);
    expect((await refused((port) => get(port, "/", ...many(5, "1")), strict)).status).toBe(431);
    using fitting = await asked((port) => get(port, "/", ...many(4, "1")), strict);
    fitting.upstream.send(hello);
    expect((await fitting.client.response()).status).toBe(200);
  });

  const targets = [
    ...["127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:99999999999", "127.0.0.1:+443"],
    ...["127.0.0.1:0x1bb", "127.0.0.1:44 3", ":443", "::1:443", "[::1]", "[::1%25lo]:443", "u@127.0.0.1:443"],
    ...["http://127.0.0.1:443", "127.0.0.1:443/", "127.0.0.1:443?x", "*", "1.2.3.4.5:443", "a_b..c:443"],
  ];
  for (const target of targets) {
    test(`CONNECT ${target}: 400 and closed`, async () => {
      const { status } = await refused(() => lines(`CONNECT ${target} HTTP/1.1`, "Host: x"));
      expect(status).toBe(400);
    });
  }

  for (const field of ["Content-Length: 5", "Transfer-Encoding: chunked"]) {
    test(`CONNECT with ${field}: 400 and closed`, async () => {
      const { status } = await refused((port) => lines(`CONNECT 127.0.0.1:${port} HTTP/1.1`, "Host: x", field));
      expect(status).toBe(400);
    });
  }

  test("an origin-form request behind a leading empty line is answered", async () => {
    using client = await dialRaw(proxy.port);
    client.send(`\r\n${lines("GET /-/healthz HTTP/1.1", "Host: localhost")}`);
    expect((await client.response()).body).toBe("ok\n");
  });

  const badChunks: [string, string][] = [
    ["no size", "\r\nhello\r\n0\r\n\r\n"],
    ["a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"],
    ["a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"],
    ["a size behind a space", " 5\r\nhello\r\n0\r\n\r\n"],
    ["a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"],
    ["a size beyond everything", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"],
    ["a bare LF behind the size", "5\nhello\r\n0\r\n\r\n"],
    ["a bare LF behind the data", "5\r\nhello\n0\r\n\r\n"],
    ["more data than its size", "5\r\nhello!!\r\n0\r\n\r\n"],
    ["less data than its size", "7\r\nhello\r\n0\r\n\r\n"],
    ["garbage behind the last chunk", "0\r\nxx"],
    ["a bare CR in an extension", "5;a=\rb\r\nhello\r\n0\r\n\r\n"],
    ["20 KiB of extension", `5;${"x".repeat(20_000)}\r\nhello\r\n0\r\n\r\n`],
  ];
  for (const [what, body] of badChunks) {
    test(`a chunked body with ${what} is refused and its origin never sees it complete`, async () => {
      using origin = new RawServer();
      using client = await dialRaw(proxy.port);
      client.send(lines(`POST http://127.0.0.1:${origin.port}/ HTTP/1.1`, "Host: x", "Transfer-Encoding: chunked"));
      const upstream = await origin.next();
      await upstream.sees(HEAD_END);
      client.send(body).send(get(origin.port, "/smuggled"));
      expect((await client.response()).status).toBe(400);
      await upstream.over();
      expect(upstream.text).not.toMatch(/\r\n0\r\n/);
      expect(upstream.text).not.toContain("smuggled");
      expect(origin.accepted).toHaveLength(1);
    });
  }
});

describe("time limits", () => {
  test("a head that does not come to its end: 408 and closed; one that does not begin is just closed", async () => {
    await using hasty = await startSeikan(["serve", "-l", "127.0.0.1:0", "--header-timeout", "300ms"]);
    using slow = await dialRaw(hasty.port);
    slow.send("GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\nX-Slow");
    using silent = await dialRaw(hasty.port);
    using second = await dialRaw(hasty.port);
    await second.send(lines("GET /-/healthz HTTP/1.1", "Host: localhost")).response();
    expect((await slow.response()).status).toBe(408);
    await slow.receivesEnd();
    await silent.over();
    expect(silent.text).toBe("");
    await second.receivesEnd();
    expect(second.text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
  });

  test("a body that stands still: 408, and the origin is let go", async () => {
    await using hasty = await startSeikan(["serve", "-l", "127.0.0.1:0", "--body-timeout", "300ms"]);
    using exchange = await asked(
      (port) => `${lines(`POST http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x", "Content-Length: 100")}some`,
      hasty,
    );
    const answer = await exchange.client.response();
    expect(answer.status).toBe(408);
    await exchange.upstream.over();
    expect(exchange.upstream.text).toEndWith("some");
  });

  test("clients that send a byte now and then keep nobody else from being served", async () => {
    await using guarded = await startSeikan(["serve", "-l", "127.0.0.1:0", "--header-timeout", "1500ms"]);
    using origin = new RawServer((socket) => void socket.sees(HEAD_END).then(() => socket.send(hello)));
    const slow = await Promise.all(Array.from({ length: 60 }, () => dialRaw(guarded.port)));
    try {
      const request = get(origin.port, "/slow", `X-Long: ${"x".repeat(1000)}`);
      let at = 0;
      const drip = setInterval(() => {
        for (const client of slow) client.send(request[at % 900]!);
        at++;
      }, 20);
      try {
        while (!slow.every(({ ended }) => ended)) {
          using normal = await dialRaw(guarded.port);
          const startedAt = performance.now();
          normal.send(get(origin.port, "/normal", "Connection: close"));
          expect((await normal.response()).body).toBe("hello");
          expect(performance.now() - startedAt).toBeLessThan(1000);
        }
      } finally {
        clearInterval(drip);
      }
      expect(slow.filter(({ text }) => text.startsWith("HTTP/1.1 408 "))).toHaveLength(60);
      expect(origin.accepted.some(({ text }) => text.includes("/slow"))).toBe(false);
    } finally {
      for (const client of slow) client.reset();
    }
  });
});

describe("what is forwarded", () => {
  /** Via counts as "somebody put a proxy in front": then only who is let in may dial. */
  const startOpen = () => startSeikan(["serve", "-l", "127.0.0.1:0", "--no-auth", "--allow-net"]);

  test("the target replaces Host, the path stays byte for byte, our Via comes behind others", async () => {
    await using open = await startOpen();
    using exchange = await asked(
      (port) =>
        lines(`GET HTTP://127.0.0.1:${port}/a/../%7eb;c?q=%zz&&x=1 HTTP/1.1`, "Host: other.test", "Via: 1.0 fred"),
      open,
    );
    expect(exchange.head).toStartWith("GET /a/../%7eb;c?q=%zz&&x=1 HTTP/1.1\r\n");
    expect(exchange.fields.filter((field) => /^host:/i.test(field))).toEqual([
      `Host: 127.0.0.1:${exchange.origin.port}`,
    ]);
    const via = exchange.fields.filter((field) => /^via:/i.test(field));
    expect(via[0]).toBe("Via: 1.0 fred");
    expect(via[1]).toMatch(/^Via: 1\.1 seikan-[0-9a-f]{8}$/);
  });

  const paths: [string, string, string][] = [
    ["no path becomes /", "GET", ""],
    ["only a query becomes /?", "GET", "?q=1"],
    ["OPTIONS without path becomes *", "OPTIONS", ""],
  ];
  for (const [what, method, path] of paths) {
    test(what, async () => {
      using exchange = await asked((port) => lines(`${method} http://127.0.0.1:${port}${path} HTTP/1.1`, "Host: x"));
      const expected = method === "OPTIONS" ? "*" : path === "" ? "/" : "/?q=1";
      expect(exchange.head).toStartWith(`${method} ${expected} HTTP/1.1\r\n`);
    });
  }

  test("hop-by-hop fields and those that Connection names stay behind; the rest keeps order, case and repetition", async () => {
    using exchange = await asked((port) =>
      get(
        ...[port, "/", "X-First: 1", "Connection: X-Gone, keep-alive", "X-Gone: secret", "Keep-Alive: timeout=5"],
        ...["Proxy-Connection: keep-alive", "TE: gzip", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAA"],
        ...["Proxy-Authorization: Basic YTpi", "Connection: X-Also-Gone", "x-ALSO-gone: 1", "Accept-Encoding: br"],
        ...["x-tWiCe: 1", "X-Other: 2", "x-tWiCe: 3"],
      ),
    );
    expect(exchange.fields.filter((field) => !/^(host|via):/i.test(field))).toEqual([
      ...["X-First: 1", "Accept-Encoding: br", "x-tWiCe: 1", "X-Other: 2", "x-tWiCe: 3"],
    ]);
  });

  test("the same goes for answers", async () => {
    using exchange = await asked((port) => get(port));
    exchange.upstream.send(
      lines(
        ...["HTTP/1.1 200 Very Fine", "Set-Cookie: a=1", "Connection: X-Gone", "X-Gone: 1", "Set-Cookie: b=2"],
        ...["Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "Upgrade: h2c", "x-oDD-case: 3", "Content-Length: 2"],
      ) + "ok",
    );
    const { statusLine, head, values, body } = await exchange.client.response();
    expect(statusLine).toBe("HTTP/1.1 200 Very Fine");
    expect(values("set-cookie")).toEqual(["a=1", "b=2"]);
    expect(head).toContain("\r\nx-oDD-case: 3\r\n");
    for (const gone of ["connection", "x-gone", "keep-alive", "proxy-authenticate", "upgrade"]) {
      expect({ gone, values: values(gone) }).toEqual({ gone, values: [] });
    }
    expect(values("via")[0]).toMatch(/^1\.1 seikan-/);
    expect(body).toBe("ok");
  });

  test("a request that has been here before is a loop: 508", async () => {
    await using open = await startOpen();
    using exchange = await asked((port) => get(port), open);
    const own = exchange.fields.find((field) => /^via:/i.test(field))!;
    using looped = await dialRaw(open.port);
    looped.send(get(exchange.origin.port, "/", "Via: 1.1 fred, 1.1 wilma", own));
    const answer = await looped.response();
    expect(answer.status).toBe(508);
    expect(answer.values("proxy-status")[0]).toContain("proxy_loop_detected");
    expect(exchange.origin.accepted).toHaveLength(1);
  });

  test("--no-via adds none, in neither direction", async () => {
    await using quiet = await startSeikan(["serve", "-l", "127.0.0.1:0", "--no-via"]);
    using exchange = await asked((port) => get(port), quiet);
    exchange.upstream.send(hello);
    expect(exchange.head).not.toMatch(/via:/i);
    expect((await exchange.client.response()).values("via")).toEqual([]);
  });

  test("OPTIONS with Max-Forwards is counted down and answered here at 0", async () => {
    using exchange = await asked((port) =>
      lines(`OPTIONS http://127.0.0.1:${port}/x HTTP/1.1`, "Host: x", "Max-Forwards: 5"),
    );
    expect(exchange.fields.filter((field) => /^max-forwards/i.test(field))).toEqual(["Max-Forwards: 4"]);
    using client = await dialRaw(proxy.port);
    client.send(lines(`OPTIONS http://127.0.0.1:${exchange.origin.port}/x HTTP/1.1`, "Host: x", "Max-Forwards: 0"));
    const answer = await client.response();
    expect(answer.status).toBe(200);
    expect(answer.values("allow")[0]).toContain("OPTIONS");
    expect(exchange.origin.accepted).toHaveLength(1);
  });

  test("trailers go both ways, less those that frame, route or authenticate", async () => {
    using exchange = await asked((port) =>
      lines(`POST http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x", "TE: trailers", "Transfer-Encoding: chunked"),
    );
    expect(exchange.fields.filter((field) => /^(te|transfer-encoding|connection):/i.test(field)).toSorted()).toEqual([
      ...["Connection: TE", "TE: trailers", "Transfer-Encoding: chunked"],
    ]);
    const trailers = ["X-Sum: 42", "Host: evil", "Authorization: x", "Set-Cookie: a=b", "Via: 1.1 nobody"];
    const body = `5;ext=1\r\nhello\r\n0\r\n${trailers.join("\r\n")}\r\n\r\n`;
    exchange.client.send(body);
    expect(await exchange.upstream.sees("X-Sum")).toContain("5\r\nhello\r\n");
    await exchange.upstream.sees("X-Sum: 42\r\n\r\n");
    expect(exchange.upstream.text).toEndWith("5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n");
    exchange.upstream.send(`${lines("HTTP/1.1 200 OK", "Trailer: X-Sum", "Transfer-Encoding: chunked")}${body}`);
    const answer = await exchange.client.response();
    expect(answer.raw).toBe("5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n");
    expect(answer.values("x-sum")).toEqual([]);
  });

  for (const trailer of ["Content-Length: 7", "Transfer-Encoding: chunked"]) {
    test(`a body with the trailer ${trailer} is refused and its origin never sees it complete`, async () => {
      using exchange = await asked((port) =>
        lines(`POST http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x", "Transfer-Encoding: chunked"),
      );
      exchange.client.send(`5\r\nhello\r\n0\r\n${trailer}\r\n\r\n`);
      expect((await exchange.client.response()).status).toBe(400);
      await exchange.upstream.over();
      expect(exchange.upstream.text).not.toMatch(/\r\n0\r\n/);
    });
  }

  test("every 1xx reaches a 1.1 client, none an 1.0 client", async () => {
    const early = lines("HTTP/1.1 103 Early Hints", "Link: </a.css>") + lines("HTTP/1.1 102 Processing") + hello;
    using exchange = await asked((port) => get(port));
    exchange.upstream.send(early);
    const hints = await exchange.client.response();
    expect([hints.status, hints.values("link")]).toEqual([103, ["</a.css>"]]);
    expect((await exchange.client.response()).status).toBe(102);
    expect((await exchange.client.response()).body).toBe("hello");
    using old = await asked((port) => lines(`GET http://127.0.0.1:${port}/ HTTP/1.0`));
    old.upstream.send(early);
    expect((await old.client.response()).status).toBe(200);
    await old.client.receivesEnd();
    expect(old.client.text).not.toContain("103");
  });

  test("Expect: 100-continue is the origin's to answer", async () => {
    using exchange = await asked((port) =>
      lines(`PUT http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x", "Content-Length: 4", "Expect: 100-continue"),
    );
    expect(exchange.head).toContain("Expect: 100-continue");
    expect(exchange.client.text).toBe("");
    exchange.upstream.send(lines("HTTP/1.1 100 Continue"));
    expect((await exchange.client.response()).status).toBe(100);
    exchange.client.send("body");
    await exchange.upstream.sees("\r\n\r\nbody");
    exchange.upstream.send(hello);
    expect((await exchange.client.response()).body).toBe("hello");
  });

  test("a final answer before the body closes the connection, so that no body is taken for a request", async () => {
    using exchange = await asked((port) =>
      lines(`PUT http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x", "Content-Length: 900", "Expect: 100-continue"),
    );
    exchange.upstream.send("HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno");
    const answer = await exchange.client.response();
    expect([answer.status, answer.body, answer.values("connection")]).toEqual([417, "no", ["close"]]);
    exchange.client.send(get(exchange.origin.port, "/smuggled"));
    await exchange.client.receivesEnd();
    expect(exchange.origin.accepted).toHaveLength(1);
    expect(exchange.upstream.text).not.toContain("smuggled");
  });

  for (const status of [204, 304]) {
    test(`${status} has no body whatever its fields say, and the connection goes on`, async () => {
      using exchange = await asked((port) => get(port));
      exchange.upstream.send(lines(`HTTP/1.1 ${status} X`, "Content-Length: 10"));
      expect((await exchange.client.response()).status).toBe(status);
      exchange.client.send(get(exchange.origin.port, "/next"));
      await exchange.upstream.sees("GET /next");
      exchange.upstream.send(hello);
      expect((await exchange.client.response()).body).toBe("hello");
    });
  }

  test("HEAD keeps the length and has no body", async () => {
    using exchange = await asked((port) => lines(`HEAD http://127.0.0.1:${port}/ HTTP/1.1`, "Host: x"));
    exchange.upstream.send(lines("HTTP/1.1 200 OK", "Content-Length: 1000"));
    const head = await exchange.client.response("HEAD");
    expect(head.values("content-length")).toEqual(["1000"]);
    exchange.client.send(get(exchange.origin.port, "/next"));
    await exchange.upstream.sees("GET /next");
  });

  test("an answer that ends with its connection is framed in chunks for 1.1 and closed for 1.0", async () => {
    using exchange = await asked((port) => get(port));
    exchange.upstream.send("HTTP/1.0 200 OK\r\n\r\nuntil the end").end();
    const answer = await exchange.client.response();
    expect(answer.values("transfer-encoding")).toEqual(["chunked"]);
    expect(answer.body).toBe("until the end");
    using old = await asked((port) => lines(`GET http://127.0.0.1:${port}/ HTTP/1.0`));
    old.upstream.send(`${lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")}5\r\nhello\r\n0\r\n\r\n`);
    expect(await old.client.receivesEnd()).toEndWith("\r\n\r\nhello");
    expect(old.client.text).not.toMatch(/transfer-encoding/i);
  });

  test("keep-alive asks the origin on the same connection, another origin on another one", async () => {
    using exchange = await asked((port) => get(port, "/1"));
    exchange.upstream.send(hello);
    await exchange.client.response();
    exchange.client.send(get(exchange.origin.port, "/2"));
    await exchange.upstream.sees("GET /2");
    exchange.upstream.send(hello);
    await exchange.client.response();
    using other = new RawServer();
    exchange.client.send(get(other.port, "/3"));
    await (await other.next()).sees("GET /3");
    expect(exchange.origin.accepted).toHaveLength(1);
  });

  test("two clients never share a connection to the origin", async () => {
    using exchange = await asked((port) => get(port, "/1"));
    exchange.upstream.send(hello);
    await exchange.client.response();
    using second = await dialRaw(proxy.port);
    second.send(get(exchange.origin.port, "/2"));
    const own = await exchange.origin.next();
    await own.sees("GET /2");
    expect(exchange.upstream.text).not.toContain("/2");
  });

  test("bytes the origin sends unasked are never an answer", async () => {
    using exchange = await asked((port) => get(port, "/1"));
    exchange.upstream.send(`${hello}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil`);
    expect((await exchange.client.response()).body).toBe("hello");
    exchange.client.send(get(exchange.origin.port, "/2"));
    const fresh = await exchange.origin.next();
    await fresh.sees("GET /2");
    fresh.send(hello);
    expect((await exchange.client.response()).body).toBe("hello");
    expect(exchange.client.text).not.toContain("evil");
  });

  test("pipelined requests are answered in order, and the next is not asked before the last is answered", async () => {
    using origin = new RawServer();
    using client = await dialRaw(proxy.port);
    client.send(get(origin.port, "/1") + get(origin.port, "/2") + lines("GET /-/healthz HTTP/1.1", "Host: localhost"));
    const upstream = await origin.next();
    await upstream.sees("GET /1");
    expect(upstream.text).not.toContain("GET /2");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst");
    await upstream.sees("GET /2");
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\n\r\n");
    const bodies = [await client.response(), await client.response(), await client.response()].map(({ body }) => body);
    expect(bodies).toEqual(["first", "second", "ok\n"]);
  });

  test("a pipelined POST and what follows stay apart, in whatever pieces they come", async () => {
    using origin = new RawServer();
    const text = (port: number) =>
      `${lines(`POST http://127.0.0.1:${port}/1 HTTP/1.1`, "Host: x", "Content-Length: 7")}a\r\n\r\nb\n` +
      `${lines(`POST http://127.0.0.1:${port}/2 HTTP/1.1`, "Host: x", "Transfer-Encoding: chunked")}3\r\nabc\r\n0\r\n\r\n` +
      get(port, "/3", "Connection: close");
    for (const size of [1, 23, 100_000]) {
      using client = await dialRaw(proxy.port);
      const bytes = text(origin.port);
      for (let at = 0; at < bytes.length; at += size) {
        client.send(bytes.slice(at, at + size));
        if (size < 100) await settled();
      }
      const upstream = await origin.next();
      await upstream.sees("a\r\n\r\nb\n");
      upstream.send(hello);
      await upstream.sees("3\r\nabc\r\n0\r\n\r\n");
      upstream.send(hello);
      await upstream.sees("GET /3");
      upstream.send(hello);
      for (let i = 0; i < 3; i++) expect((await client.response()).body).toBe("hello");
      await client.receivesEnd();
    }
  });
});

describe("a body right behind a head that comes in two pieces", () => {
  for (const behind of [0, 1, 2, 3, 4, 5, 6, 10]) {
    test(`split ${behind} bytes before its end`, async () => {
      using origin = new RawServer();
      using client = await dialRaw(proxy.port);
      const head = lines(`POST http://127.0.0.1:${origin.port}/ HTTP/1.1`, "Host: x", "Content-Length: 9");
      client.send(head.slice(0, head.length - behind));
      await settled();
      client.send(`${head.slice(head.length - behind)}nine byte`);
      const upstream = await origin.next();
      await upstream.until(() => (upstream.text.endsWith(`${HEAD_END}nine byte`) ? true : undefined), "the body", 1000);
    });
  }
});

describe("answers that are cut or none", () => {
  const cut: [string, string][] = [
    ["a length that is not reached", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"],
    ["chunks without the last", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"],
    ["a chunk that is cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\npart"],
  ];
  for (const [what, bytes] of cut) {
    for (const how of ["FIN", "RST"] as const) {
      test(`${what} (${how}) reaches the client as cut`, async () => {
        using exchange = await asked((port) => get(port));
        exchange.upstream.send(bytes);
        await exchange.client.sees("part");
        if (how === "FIN") exchange.upstream.end();
        else exchange.upstream.reset();
        await exchange.client.over();
        expect(exchange.client.text).not.toMatch(/\r\n0\r\n/);
        expect(exchange.client.error).toBe("ECONNRESET");
      });
    }
  }

  test("an answer until close that is reset is not completed either", async () => {
    using exchange = await asked((port) => get(port));
    exchange.upstream.send("HTTP/1.1 200 OK\r\n\r\npart");
    await exchange.client.sees("part");
    exchange.upstream.reset();
    await exchange.client.over();
    expect(exchange.client.text).not.toMatch(/\r\n0\r\n/);
  });

  const wrong: [string, string][] = [
    ["both framings", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    ["two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"],
    ["a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"],
    ["an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"],
    ["a space before the colon", "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 0\r\n\r\n"],
    ["HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"],
    ["a status that is none", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"],
    ["no HTTP at all", "SSH-2.0-OpenSSH_9.2\r\n"],
    ["an upgrade nobody asked for", "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"],
    ["70 KB of head", `HTTP/1.1 200 OK\r\nX-Long: ${"x".repeat(70_000)}\r\n\r\n`],
  ];
  for (const [what, bytes] of wrong) {
    test(`an answer with ${what}: 502`, async () => {
      using exchange = await asked((port) => get(port));
      exchange.upstream.send(bytes);
      const answer = await exchange.client.response();
      expect(answer.status).toBe(502);
      expect(answer.values("proxy-status")[0]).toContain("error=http_protocol_error");
      await exchange.upstream.over();
    });
  }

  test("an origin that closes without an answer: 502; one that is not there: 502", async () => {
    using exchange = await asked((port) => get(port));
    exchange.upstream.end();
    const closed = await exchange.client.response();
    expect([closed.status, closed.values("proxy-status")[0]]).toEqual([
      502,
      expect.stringContaining("http_response_incomplete"),
    ]);
    const gone = new RawServer();
    gone.close();
    using client = await dialRaw(proxy.port);
    client.send(get(gone.port));
    const refused = await client.response();
    expect([refused.status, refused.values("proxy-status")[0]]).toEqual([
      502,
      expect.stringContaining("connection_refused"),
    ]);
  });

  test("a name that does not exist: 502 dns_error", async () => {
    using client = await dialRaw(proxy.port);
    client.send(lines("GET http://no-such-host.invalid/ HTTP/1.1", "Host: x"));
    const answer = await client.response();
    expect([answer.status, answer.values("proxy-status")[0]]).toEqual([502, expect.stringContaining("dns_error")]);
  });

  test("a client that goes away lets the origin go", async () => {
    using exchange = await asked((port) => get(port));
    exchange.upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
    await exchange.client.sees("part");
    exchange.client.reset();
    await exchange.upstream.over();
    expect(exchange.upstream.closed || exchange.upstream.ended).toBe(true);
  });

  test("a client that stops reading stops the origin, and gets everything once it reads on", async () => {
    const size = 32 * 1024 * 1024;
    const body = pattern(size);
    using exchange = await asked((port) => get(port));
    exchange.client.pause();
    exchange.upstream.send(`HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n`).send(body);
    // Others are served meanwhile.
    using other = await asked((port) => get(port));
    other.upstream.send(hello);
    expect((await other.client.response()).body).toBe("hello");
    expect(rssOf(proxy.pid)).toBeLessThan(400);
    exchange.client.resume();
    const all = await exchange.client.until(
      () => (exchange.client.length > size ? exchange.client.bytes : undefined),
      "all of it",
      20_000,
    );
    const sent = all.subarray(all.indexOf(HEAD_END) + 4);
    await until(() => sent.length === size, "nothing is missing");
    expect(Bun.hash(sent)).toBe(Bun.hash(body));
  });
});

/** Resident memory in MB. */
function rssOf(pid: number): number {
  const run = Bun.spawnSync(["ps", "-o", "rss=", "-p", String(pid)]);
  return Number(run.stdout.toString()) / 1024;
}

describe("a WebSocket through an absolute-form request", () => {
  const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
  const upgrade = (port: number, ...fields: string[]) =>
    get(port, "/ws", "Connection: keep-alive, Upgrade", "Upgrade: websocket", `Sec-WebSocket-Key: ${KEY}`, ...fields);
  const switching = lines(
    ...["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", "X-Hop: 1"],
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
  );

  test("becomes a tunnel behind 101, with the first bytes of both sides, and half-closes like one", async () => {
    using exchange = await asked((port) => upgrade(port, "Sec-WebSocket-Version: 13"));
    expect(exchange.fields.filter((field) => /^(connection|upgrade|sec-)/i.test(field)).toSorted()).toEqual([
      ...["Connection: Upgrade", `Sec-WebSocket-Key: ${KEY}`, "Sec-WebSocket-Version: 13", "Upgrade: websocket"],
    ]);
    exchange.upstream.send(`${switching}server first`);
    const answer = await exchange.client.response();
    expect(answer.status).toBe(101);
    expect(answer.values("sec-websocket-accept")).toEqual(["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
    expect(answer.values("upgrade")).toEqual(["websocket"]);
    await exchange.client.sees("server first");
    exchange.client.send("GET / HTTP/1.1\r\n\r\nnot HTTP any more").end();
    expect(await exchange.upstream.receivesEnd()).toEndWith("not HTTP any more");
    exchange.upstream.send("last words").end();
    expect(await exchange.client.receivesEnd()).toEndWith("server firstlast words");
  });

  test("client bytes right behind the request are kept for the tunnel", async () => {
    using exchange = await asked((port) => `${upgrade(port)}eager`);
    exchange.upstream.send(switching);
    expect((await exchange.client.response()).status).toBe(101);
    await exchange.upstream.sees(`${HEAD_END}eager`);
  });

  test("a refusal stays HTTP, and the next request is one", async () => {
    using exchange = await asked((port) => upgrade(port));
    exchange.upstream.send(lines("HTTP/1.1 426 Upgrade Required", "Sec-WebSocket-Version: 13", "Content-Length: 0"));
    expect((await exchange.client.response()).status).toBe(426);
    exchange.client.send(get(exchange.origin.port, "/next"));
    await exchange.upstream.sees("GET /next HTTP/1.1");
  });

  test("RST on one side is RST on the other", async () => {
    using exchange = await asked((port) => upgrade(port));
    exchange.upstream.send(switching);
    await exchange.client.response();
    exchange.upstream.reset();
    await exchange.client.receivesReset();
  });
});

describe("CONNECT", () => {
  const connect = (port: number, ...fields: string[]) =>
    lines(`CONNECT 127.0.0.1:${port} HTTP/1.1`, `Host: 127.0.0.1:${port}`, ...fields);
  const ESTABLISHED = "HTTP/1.1 200 Connection established\r\n\r\n";

  /** An established tunnel and the origin's end of it. */
  async function tunnel(through = proxy) {
    const origin = new RawServer();
    const client = await dialRaw(through.port);
    client.send(connect(origin.port));
    await client.response("CONNECT");
    const inner = await origin.next();
    const close = () => {
      client[Symbol.dispose]();
      origin[Symbol.dispose]();
    };
    return { client, inner, origin, [Symbol.dispose]: close };
  }

  test("is answered with exactly 200, without fields and body", async () => {
    using origin = new RawServer(echo);
    using client = await dialRaw(proxy.port);
    client.send(connect(origin.port));
    await client.sees(HEAD_END);
    client.send("x");
    await client.sees(`${HEAD_END}x`);
    expect(client.text).toBe(`${ESTABLISHED}x`);
  });

  test("works from HTTP/1.0 without Host, with any Host, and for IPv6", async () => {
    using origin = new RawServer(echo);
    const six = new RawServer(echo, { hostname: "::1", port: 0 });
    const heads = [
      lines(`CONNECT 127.0.0.1:${origin.port} HTTP/1.0`),
      lines(`CONNECT 127.0.0.1:${origin.port} HTTP/1.1`, "Host: entirely.else:1"),
      lines(`CONNECT localhost.:${origin.port} HTTP/1.1`, "Host: x"),
      lines(`CONNECT [::1]:${six.port} HTTP/1.1`, "Host: x"),
      lines(`CONNECT [0:0:0:0:0:0:0:1]:${six.port} HTTP/1.1`, "Host: x"),
    ];
    for (const head of heads) {
      using client = await dialRaw(proxy.port);
      client.send(head);
      expect(await client.sees(HEAD_END)).toBe(ESTABLISHED);
    }
    six[Symbol.dispose]();
  });

  const payload = "these bytes came right behind the head";
  const splits: [string, (head: string) => string[]][] = [
    ["in one piece", (head) => [head + payload]],
    ["split before the payload", (head) => [head, payload]],
    ["split inside the last empty line", (head) => [head.slice(0, -2), `\r\n${payload}`]],
    ["split between CR and LF", (head) => [head.slice(0, -1), `\n${payload}`]],
    ["split inside the request line", (head) => [head.slice(0, 5), head.slice(5) + payload]],
    ["split inside the payload", (head) => [head + payload.slice(0, 3), payload.slice(3)]],
    ["byte by byte", (head) => [...(head + payload)]],
  ];
  for (const [what, split] of splits) {
    test(`early bytes are the tunnel's first: ${what}`, async () => {
      using origin = new RawServer();
      using client = await dialRaw(proxy.port);
      for (const piece of split(connect(origin.port))) {
        client.send(piece);
        await new Promise((resolve) => setImmediate(resolve));
      }
      const inner = await origin.next();
      client.send(", and these after");
      expect(await inner.sees("after")).toBe(`${payload}, and these after`);
      expect(await client.sees(HEAD_END)).toBe(ESTABLISHED);
    });
  }

  test("a lot of early bytes arrive whole and in order", async () => {
    using origin = new RawServer();
    using client = await dialRaw(proxy.port);
    const bytes = pattern(2 * 1024 * 1024);
    client.send(connect(origin.port)).send(bytes).end();
    const inner = await origin.next();
    await inner.receivesEnd();
    expect(Bun.hash(inner.bytes)).toBe(Bun.hash(bytes));
  });

  test("a target that speaks first is heard", async () => {
    using origin = new RawServer((socket) => void socket.send("220 welcome\r\n"));
    using client = await dialRaw(proxy.port);
    client.send(connect(origin.port));
    expect(await client.sees("welcome")).toBe(`${ESTABLISHED}220 welcome\r\n`);
  });

  test("half-close goes on, client first, and the other direction stays open", async () => {
    using joined = await tunnel();
    joined.client.send("request").end();
    expect(await joined.inner.receivesEnd()).toBe("request");
    const reply = pattern(1024 * 1024);
    joined.inner.send(reply).end();
    await joined.client.receivesEnd();
    expect(Bun.hash(joined.client.bytes.subarray(ESTABLISHED.length))).toBe(Bun.hash(reply));
  });

  test("half-close goes on, target first, and the other direction stays open", async () => {
    using joined = await tunnel();
    joined.inner.send("banner").end();
    expect(await joined.client.receivesEnd()).toBe(`${ESTABLISHED}banner`);
    joined.client.send("still talking");
    await joined.inner.sees("still talking");
    joined.client.end();
    expect(await joined.inner.receivesEnd()).toBe("still talking");
  });

  test("RST of the target is RST for the client, RST of the client is RST for the target", async () => {
    using first = await tunnel();
    first.inner.send("half a mes");
    await first.client.sees("half a mes");
    first.inner.reset();
    await first.client.receivesReset();
    using second = await tunnel();
    second.client.send("half a mes");
    await second.inner.sees("half a mes");
    second.client.reset();
    await second.inner.receivesReset();
  });

  test("it works behind requests on the same connection, and waits for their answers", async () => {
    using exchange = await asked((port) => get(port) + connect(port));
    await until(() => exchange.origin.accepted.length === 1, "one connection");
    exchange.upstream.send(hello);
    expect((await exchange.client.response()).body).toBe("hello");
    expect((await exchange.client.response("CONNECT")).statusLine).toBe("HTTP/1.1 200 Connection established");
    const inner = await exchange.origin.next();
    exchange.client.send("tunnelled");
    await inner.sees("tunnelled");
  });

  test("--idle-timeout ends a silent tunnel, and only a silent one", async () => {
    await using hasty = await startSeikan(["serve", "-l", "127.0.0.1:0", "--idle-timeout", "700ms"]);
    using silent = await tunnel(hasty);
    using lively = await tunnel(hasty);
    const chatter = setInterval(() => lively.client.send("."), 50);
    await silent.client.over();
    await silent.inner.over();
    clearInterval(chatter);
    expect(lively.client.ended).toBe(false);
    expect(lively.inner.length).toBeGreaterThan(5);
  });

  test("--linger-timeout reaps a tunnel that is closed on one side and silent on the other", async () => {
    await using hasty = await startSeikan(["serve", "-l", "127.0.0.1:0", "--linger-timeout", "400ms"]);
    using half = await tunnel(hasty);
    using open = await tunnel(hasty);
    half.client.end();
    await half.inner.receivesEnd();
    await half.client.over();
    await half.inner.until(() => half.inner.closed || undefined, "the end of both directions");
    expect(open.client.ended).toBe(false);
  });

  describe("when it is refused", () => {
    /** CONNECT and, without waiting, what a client might take for its tunnel. */
    async function refusal(through: Running, target: (port: number) => string, ...fields: string[]) {
      using origin = new RawServer(echo);
      using client = await dialRaw(through.port);
      client.send(
        lines(`CONNECT ${target(origin.port)} HTTP/1.1`, "Host: x", ...fields) + get(origin.port, "/tunnelled"),
      );
      client.send(lines("GET /-/healthz HTTP/1.1", "Host: localhost"));
      const answer = await client.response("CONNECT");
      await client.receivesEnd();
      expect(client.text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
      expect(answer.values("connection")).toEqual(["close"]);
      expect(answer.values("content-length")).toEqual([String(Buffer.byteLength(answer.body, "latin1"))]);
      expect(origin.accepted).toHaveLength(0);
      return answer;
    }

    test("400: the target is none", async () => {
      expect((await refusal(proxy, () => "no-port")).status).toBe(400);
    });

    test("403: it may not be dialled", async () => {
      await using strict = await startSeikan(["serve", "-l", "127.0.0.1:0", "--deny-net", "127.0.0.0/8"]);
      const answer = await refusal(strict, (port) => `127.0.0.1:${port}`);
      expect([answer.status, answer.values("proxy-status")[0]]).toEqual([
        403,
        expect.stringContaining("destination_ip_prohibited"),
      ]);
    });

    test("407: with a challenge", async () => {
      await using guarded = await startSeikan(["serve", "-l", "127.0.0.1:0", "--auth", "a:b"]);
      for (const fields of [[], ["Proxy-Authorization: Basic YTp4"], ["Proxy-Authorization: Bearer x"]]) {
        const answer = await refusal(guarded, (port) => `127.0.0.1:${port}`, ...fields);
        expect(answer.status).toBe(407);
        expect(answer.values("proxy-authenticate")).toEqual(['Basic realm="seikan", charset="UTF-8"']);
        expect(answer.body).not.toContain("YTp4");
      }
    });

    test("502: nobody listens there, and no such name", async () => {
      const gone = new RawServer();
      gone.close();
      const refused = await refusal(proxy, () => `127.0.0.1:${gone.port}`);
      expect([refused.status, refused.values("proxy-status")[0]]).toEqual([
        502,
        expect.stringContaining("connection_refused"),
      ]);
      const unknown = await refusal(proxy, () => "no-such-host.invalid:443");
      expect([unknown.status, unknown.values("proxy-status")[0]]).toEqual([502, expect.stringContaining("dns_error")]);
    });

    test("504: nobody answers within --connect-timeout", async () => {
      // A hop that accepts and says nothing stands for a target that swallows packets.
      using silent = new RawServer();
      await using hasty = await startSeikan([
        ...["serve", "-l", "127.0.0.1:0", "--connect-timeout", "300ms", "--via", `http://127.0.0.1:${silent.port}`],
      ]);
      const answer = await refusal(hasty, (port) => `127.0.0.1:${port}`);
      expect([answer.status, answer.values("proxy-status")[0]]).toEqual([
        504,
        expect.stringContaining("connection_timeout"),
      ]);
      const asked = (await silent.next()).text;
      expect(asked).toStartWith("CONNECT ");
      expect(asked).toEndWith(HEAD_END);
    });
  });

  test("bytes for the tunnel are not sent to an upstream proxy before it agrees", async () => {
    using upstream = new RawServer();
    await using chained = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--via", `http://127.0.0.1:${upstream.port}`],
    ]);
    using client = await dialRaw(chained.port);
    client.send(`${lines("CONNECT target.test:1 HTTP/1.1", "Host: x")}early`);
    const hop: RawSocket = await upstream.next();
    const head = await hop.sees(HEAD_END);
    expect(head).toEndWith(HEAD_END);
    expect(client.text).toBe("");
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst");
    expect(await client.sees("first")).toBe(`${ESTABLISHED}first`);
    await hop.sees(`${HEAD_END}early`);
  });

  test("100 tunnels at once each get their own bytes", async () => {
    using origin = new RawServer(echo);
    const work = Array.from({ length: 100 }, async (_, index) => {
      using client = await dialRaw(proxy.port);
      const bytes = pattern(20_000, index + 1);
      client.send(connect(origin.port)).send(bytes).end();
      await client.receivesEnd();
      return Bun.hash(client.bytes.subarray(ESTABLISHED.length)) === Bun.hash(bytes);
    });
    expect(await within(Promise.all(work), "all tunnels", 20_000)).toEqual(Array.from({ length: 100 }, () => true));
  });
});
