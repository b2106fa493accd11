import { afterEach, describe, expect, jest, test } from "bun:test";
import { createHash } from "node:crypto";
import { tcpTarget, type Target } from "../../src/core/address.ts";
import { deadlineIn } from "../../src/core/clock.ts";
import { SeikanError } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { httpConnectDialer } from "../../src/transports/http-connect.ts";
import { ProxyCredentials, type ProxySecret } from "../../src/transports/proxy-credentials.ts";
import { tcpDialer } from "../../src/transports/tcp.ts";
import type { Dialer } from "../../src/transports/transport.ts";
import type { Fields } from "../../src/wire/fields.ts";
import { FakeDriver } from "../support/fake-driver.ts";
import { soon } from "../support/pairs.ts";
import { byteByByte, splits } from "../support/random.ts";
import { RawServer, type RawSocket } from "../support/raw.ts";
import { Recorder, reset, until } from "../support/wait.ts";

const TARGET = tcpTarget("origin.test", 443);
const SECRET: ProxySecret = { kind: "password", user: "alice", password: "hunter2-hunter2" };

interface HopOptions {
  readonly secret?: ProxySecret | undefined;
  readonly fields?: Fields;
}

function dialerOver(reach: Dialer, { secret, fields = [] }: HopOptions = {}): Dialer {
  const proxy = tcpTarget("proxy.test", 3128);
  const credentials = new ProxyCredentials(secret);
  return httpConnectDialer({ proxy, name: "http://proxy.test:3128", isSecure: false, credentials, fields, reach });
}

/** A proxy the test plays chunk by chunk: what it sends arrives cut exactly so. */
class HandProxy {
  readonly drivers: FakeDriver[] = [];
  readonly dial: Dialer;

  constructor(options: HopOptions = {}) {
    this.dial = dialerOver(async () => {
      const driver = new FakeDriver("proxy");
      this.drivers.push(driver);
      return driver.stream;
    }, options);
  }

  /** Starts a dial; resolves once its first request is on the wire. */
  async asked(target: Target = TARGET, ms = 10_000): Promise<{ driver: FakeDriver; stream: Promise<ByteStream> }> {
    const count = this.drivers.length;
    const stream = this.dial(target, { deadline: deadlineIn(ms) });
    stream.catch(() => {});
    for (let i = 0; i < 20; i++) await Promise.resolve();
    const driver = this.drivers[count]!;
    expect(driver.text).toEndWith("\r\n\r\n");
    return { driver, stream };
  }

  /** Answers with these chunks and resolves to what came out. */
  async answers(chunks: readonly (string | Uint8Array)[]): Promise<{ driver: FakeDriver; stream: ByteStream }> {
    const { driver, stream } = await this.asked();
    for (const chunk of chunks) driver.stream.receive(typeof chunk === "string" ? Buffer.from(chunk, "latin1") : chunk);
    return { driver, stream: await stream };
  }

  async refuses(...chunks: (string | Uint8Array)[]): Promise<SeikanError> {
    const { driver, stream } = await this.asked();
    for (const chunk of chunks) driver.stream.receive(typeof chunk === "string" ? Buffer.from(chunk, "latin1") : chunk);
    driver.finish();
    return failure(stream);
  }
}

async function failure(work: Promise<unknown>): Promise<SeikanError> {
  const error = await work.then(
    () => new Error("it succeeded"),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof SeikanError)) throw error;
  return error;
}

type Answer = string | ((socket: RawSocket, head: string) => void);

/** A proxy on a real socket: answers the n-th request of the n-th connection as told. */
class ScriptedProxy implements Disposable {
  readonly heads: string[][] = [];
  readonly #server: RawServer;

  constructor(...connections: Answer[][]) {
    this.#server = new RawServer((socket) => {
      const answers = connections[this.heads.length] ?? [];
      const heads: string[] = [];
      this.heads.push(heads);
      void this.#play(socket, heads, answers).catch(() => {});
    });
  }

  async #play(socket: RawSocket, heads: string[], answers: readonly Answer[]): Promise<void> {
    let at = 0;
    for (const answer of answers) {
      const head = await socket.until(() => {
        const end = socket.text.indexOf("\r\n\r\n", at);
        return end < 0 ? undefined : socket.text.slice(at, end + 4);
      }, "a CONNECT");
      at += head.length;
      heads.push(head);
      if (typeof answer === "string") socket.send(answer);
      else answer(socket, head);
    }
  }

  get sockets(): readonly RawSocket[] {
    return this.#server.accepted;
  }

  dialer(options: HopOptions = {}): Dialer {
    const inner = tcpDialer();
    return dialerOver((_, dialOptions) => inner(tcpTarget("127.0.0.1", this.#server.port), dialOptions), options);
  }

  dial(options: HopOptions = {}, target: Target = TARGET): Promise<ByteStream> {
    return this.dialer(options)(target, { deadline: soon() });
  }

  [Symbol.dispose](): void {
    this.#server[Symbol.dispose]();
  }
}

const authorizationOf = (head: string) => /^Proxy-Authorization: (.*)\r$/m.exec(head)?.[1];
const OK = "HTTP/1.1 200 Connection established\r\n\r\n";
const EARLY = "SSH-2.0-early\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\0\xff";

describe("a CONNECT", () => {
  test("names the target in the request line and in Host, and nothing else", async () => {
    const { driver } = await new HandProxy().asked();
    expect(driver.text).toBe("CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\r\n");
  });

  test("puts IPv6 targets into brackets", async () => {
    const { driver } = await new HandProxy().asked(tcpTarget("2001:db8::1", 22));
    expect(driver.text).toBe("CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n\r\n");
  });

  test("carries fields that were asked for; a Host among them replaces its own", async () => {
    const { driver } = await new HandProxy({ fields: ["X-Tag", "1", "host", "other.test"] }).asked();
    expect(driver.text).toBe("CONNECT origin.test:443 HTTP/1.1\r\nX-Tag: 1\r\nhost: other.test\r\n\r\n");
  });

  test("cannot be made to a unix socket", async () => {
    const error = await failure(new HandProxy().dial({ kind: "unix", path: "/x" }, { deadline: soon() }));
    expect(error.code).toBe("usage");
  });

  test("passes the error on when the proxy cannot be reached, and asks once", async () => {
    let asked = 0;
    const dial = dialerOver(async () => {
      asked++;
      throw new SeikanError("connect-refused", "nobody there");
    });
    expect((await failure(dial(TARGET, { deadline: soon() }))).code).toBe("connect-refused");
    expect(asked).toBe(1);
  });
});

describe("an answer to CONNECT", () => {
  for (const status of [200, 201, 204, 206, 299]) {
    test(`is success with ${status}`, async () => {
      const { stream } = await new HandProxy().answers([`HTTP/1.1 ${status} Fine\r\n\r\nfirst`]);
      expect(new Recorder(stream).text).toBe("first");
    });
  }

  for (const head of [
    "HTTP/1.0 200 OK\r\n\r\n",
    "HTTP/1.1 200\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nVia: 1.1 x\r\n\r\n",
    "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
  ]) {
    test(`gives the tunnel every byte behind it, wherever it is cut: ${JSON.stringify(head)}`, async () => {
      const bytes = Buffer.from(head + EARLY, "latin1");
      for (const chunks of [...splits(bytes), byteByByte(bytes)]) {
        const { stream } = await new HandProxy().answers(chunks.filter((chunk) => chunk.length > 0));
        const recorder = new Recorder(stream);
        expect({ cut: chunks[0]!.length, text: recorder.text }).toEqual({ cut: chunks[0]!.length, text: EARLY });
      }
    });
  }

  // llhttp refuses the two together; in a 2xx to CONNECT both are to be ignored (RFC 9110 section 9.3.6, curl test 1287).
  test("is success with both a length and Transfer-Encoding", async () => {
    const head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n";
    const { stream } = await new HandProxy().answers([head, EARLY]);
    expect(new Recorder(stream).text).toBe(EARLY);
  });

  test("comes in one piece with early bytes over a real socket", async () => {
    using proxy = new ScriptedProxy([OK + EARLY]);
    const stream = await proxy.dial();
    const recorder = new Recorder(stream);
    await recorder.received(EARLY.length);
    expect(recorder.text).toBe(EARLY);
    stream.write(Buffer.from("to the target"));
    stream.end();
    await proxy.sockets[0]!.receivesEnd();
    expect(proxy.sockets[0]!.text).toEndWith("\r\n\r\nto the target");
    proxy.sockets[0]!.end();
    expect((await recorder.close()).error).toBeUndefined();
  });

  test("inside the tunnel is data, also when it asks for credentials", async () => {
    const challenge = 'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n';
    const { driver, stream } = await new HandProxy({ secret: SECRET }).answers([OK, challenge]);
    const sent = driver.text;
    const recorder = new Recorder(stream);
    driver.send(challenge);
    expect([recorder.text, driver.text]).toEqual([challenge + challenge, sent]);
  });

  test("is an error with 101", async () => {
    const error = await new HandProxy().refuses("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
    expect(error.code).toBe("hop-protocol");
  });

  test("is an error with 1xx without end", async () => {
    const error = await new HandProxy().refuses("HTTP/1.1 100 Continue\r\n\r\n".repeat(100));
    expect(error.code).toBe("hop-protocol");
  });

  const garbage: [string, string][] = [
    ["an SSH banner", "SSH-2.0-OpenSSH_9.2\r\n"],
    ["HTML", "<html>\r\n\r\n"],
    ["HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n"],
    ["ICY", "ICY 200 OK\r\n\r\n"],
    ["a status of two digits", "HTTP/1.1 20 OK\r\n\r\n"],
    ["a status with letters", "HTTP/1.1 2OO OK\r\n\r\n"],
    ["a field without a colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"],
    ["a control character", "HTTP/1.1 200 OK\r\nX: a\x01b\r\n\r\n"],
    ["NUL bytes", "\0\0\0\0"],
    ["a head beyond 64 KiB", `HTTP/1.1 200 OK\r\nX: ${"x".repeat(70_000)}\r\n\r\n`],
    ["a status line without end", `HTTP/1.1 200 ${"x".repeat(70_000)}`],
    ["more than 100 fields", `HTTP/1.1 200 OK\r\n${"X: 1\r\n".repeat(101)}\r\n`],
  ];
  for (const [name, bytes] of garbage) {
    test(`is no HTTP: ${name}`, async () => {
      const error = await new HandProxy().refuses(bytes);
      expect([error.code, error.outcome.exit]).toEqual(["hop-protocol", 3]);
    });
  }

  for (const [name, bytes] of [
    ["a TLS alert", "\x15\x03\x01\x00\x02\x02\x0a"],
    ["a TLS record", "\x16\x03\x01\x00\x02\x02\x0a"],
  ] as const) {
    test(`hints at https when it is ${name}`, async () => {
      const error = await new HandProxy().refuses(bytes);
      expect(error.code).toBe("hop-protocol");
      expect(error.hints.join()).toContain("https://");
    });
  }

  test("that is no HTTP ends the connection", async () => {
    using proxy = new ScriptedProxy(["garbage\r\n\r\n"]);
    expect((await failure(proxy.dial())).code).toBe("hop-protocol");
    await proxy.sockets[0]!.over();
  });

  for (const bytes of ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n"]) {
    test(`that ends after ${JSON.stringify(bytes)} is a closed hop`, async () => {
      expect((await new HandProxy().refuses(bytes)).code).toBe("hop-closed");
    });
  }

  test("cut by a reset is a closed hop", async () => {
    using proxy = new ScriptedProxy([(socket) => socket.reset()]);
    expect((await failure(proxy.dial())).code).toBe("hop-closed");
  });

  describe("that never comes", () => {
    afterEach(() => jest.useRealTimers());

    test("is a connect timeout, and the connection is given up", async () => {
      jest.useFakeTimers();
      const { driver, stream } = await new HandProxy().asked(TARGET, 3000);
      driver.send("HTTP/1.1 100 Continue\r\n\r\n");
      jest.advanceTimersByTime(2999);
      expect(driver.calls).not.toContain("destroy");
      jest.advanceTimersByTime(2);
      const error = await failure(stream);
      expect([error.code, error.outcome.exit]).toEqual(["connect-timeout", 124]);
      expect(driver.calls).toContain("destroy");
    });
  });
});

describe("a refusal", () => {
  for (const status of [400, 403, 404, 502, 503, 504]) {
    test(`with ${status} keeps the status`, async () => {
      const error = await new HandProxy().refuses(`HTTP/1.1 ${status} No\r\nContent-Length: 0\r\n\r\n`);
      expect([error.code, error.hopStatus, error.outcome.exit]).toEqual(["hop-refused", status, 3]);
    });
  }

  test("with 401 is about credentials", async () => {
    const error = await new HandProxy().refuses("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n");
    expect([error.code, error.outcome.exit]).toEqual(["hop-auth", 4]);
  });

  test("with a redirect is a refusal", async () => {
    const error = await new HandProxy().refuses(
      "HTTP/1.1 302 Found\r\nLocation: http://login/\r\nContent-Length: 0\r\n\r\n",
    );
    expect([error.code, error.hopStatus]).toEqual(["hop-refused", 302]);
  });

  const bodies: [string, string][] = [
    ["by length", "Content-Length: 14\r\n\r\nno such target"],
    ["in chunks", "Transfer-Encoding: chunked\r\n\r\n7\r\nno such\r\n7\r\n target\r\n0\r\n\r\n"],
    ["until the end", "\r\nno such target"],
    ["that is cut", "Content-Length: 1000\r\n\r\nno such target"],
    ["as HTML", "\r\n<html><head><title>x</title></head><style>p{}</style>\n<p>no such&nbsp;target</p></html>"],
  ];
  for (const [name, rest] of bodies) {
    test(`shows its body ${name}`, async () => {
      const error = await new HandProxy().refuses(`HTTP/1.1 403 No\r\n${rest}`);
      expect(error.hints.some((hint) => hint.endsWith(": no such target"))).toBe(true);
    });
  }

  test("shows what Proxy-Status says", async () => {
    const head = "HTTP/1.1 502 No\r\nProxy-Status: p; error=dns_error\r\nContent-Length: 0\r\n\r\n";
    expect((await new HandProxy().refuses(head)).hints.join()).toContain("p; error=dns_error");
  });

  test("is not waited for beyond 8 KiB", async () => {
    const { driver, stream } = await new HandProxy().asked();
    driver.send(`HTTP/1.1 403 No\r\n\r\n`);
    for (let i = 0; i < 9; i++) driver.send("x".repeat(1024));
    expect((await failure(stream)).hopStatus).toBe(403);
    expect(driver.calls).toContain("destroy");
  });

  describe("without end", () => {
    afterEach(() => jest.useRealTimers());

    test("is not waited for longer than two seconds", async () => {
      jest.useFakeTimers();
      const { driver, stream } = await new HandProxy().asked(TARGET, 60_000);
      driver.send("HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\nbecause");
      for (let i = 0; i < 20; i++) await Promise.resolve();
      expect(driver.calls).not.toContain("destroy");
      jest.advanceTimersByTime(2001);
      const error = await failure(stream);
      expect([error.hopStatus, error.hints.join()]).toEqual([403, expect.stringContaining("because")]);
    });
  });

  test("ends the connection, and hands nothing of its body on", async () => {
    using proxy = new ScriptedProxy(["HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\n\r\n"]);
    expect((await failure(proxy.dial())).hopStatus).toBe(403);
    await proxy.sockets[0]!.over();
  });
});

// --- 407 -----------------------------------------------------------------------

const challenge = (lines: readonly string[], more = "Content-Length: 0\r\n", body = "") =>
  `HTTP/1.1 407 Auth\r\n${lines.map((line) => `Proxy-Authenticate: ${line}\r\n`).join("")}${more}\r\n${body}`;

const BASIC = 'Basic realm="corp"';
const MD5 = 'Digest realm="corp", qop="auth", algorithm=MD5, nonce="n1", opaque="o,1"';
const SHA256 = 'Digest realm="corp", qop="auth", algorithm=SHA-256, nonce="n2", opaque="o2"';

function digestFields(head: string): Record<string, string> {
  const value = authorizationOf(head) ?? "";
  expect(value).toStartWith("Digest ");
  return Object.fromEntries(
    [...value.matchAll(/([a-z]+)=(?:"((?:\\.|[^"])*)"|([^,\s]+))/g)].map((match) => [match[1]!, match[2] ?? match[3]!]),
  );
}

/** What RFC 7616 section 3.4.1 asks for. */
function digestResponse(fields: Record<string, string>, secret: { user: string; password: string }): string {
  const hash = (text: string) =>
    createHash(fields.algorithm === "SHA-256" ? "sha256" : "md5")
      .update(text)
      .digest("hex");
  const a1 = hash(`${secret.user}:${fields.realm}:${secret.password}`);
  const a2 = hash(`CONNECT:${fields.uri}`);
  if (fields.qop === undefined) return hash(`${a1}:${fields.nonce}:${a2}`);
  return hash(`${a1}:${fields.nonce}:${fields.nc}:${fields.cnonce}:auth:${a2}`);
}

function expectDigest(head: string, wanted: Record<string, string>): void {
  const fields = digestFields(head);
  expect(fields).toMatchObject({ username: "alice", realm: "corp", uri: "origin.test:443", ...wanted });
  expect(fields.response).toBe(digestResponse(fields, { user: "alice", password: "hunter2-hunter2" }));
}

describe("credentials", () => {
  test("for Basic are sent as RFC 7617 says", async () => {
    using proxy = new ScriptedProxy([OK]);
    await proxy.dial({ secret: { kind: "password", user: "Aladdin", password: "open sesame" } });
    expect(authorizationOf(proxy.heads[0]![0]!)).toBe("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
  });

  test("for Basic are UTF-8, and a colon in the password stays", async () => {
    using proxy = new ScriptedProxy([OK]);
    await proxy.dial({ secret: { kind: "password", user: "tést", password: "1:2£" } });
    expect(Buffer.from(authorizationOf(proxy.heads[0]![0]!)!.slice(6), "base64").toString()).toBe("tést:1:2£");
  });

  test("as a whole value are sent as they are", async () => {
    using proxy = new ScriptedProxy([OK]);
    await proxy.dial({ secret: { kind: "value", value: "Bearer abc.def" } });
    expect(authorizationOf(proxy.heads[0]![0]!)).toBe("Bearer abc.def");
  });

  test("are not sent when there are none", async () => {
    using proxy = new ScriptedProxy([OK]);
    await proxy.dial();
    expect(authorizationOf(proxy.heads[0]![0]!)).toBeUndefined();
  });

  for (const [name, offer, wanted] of [
    ["MD5", [MD5], { algorithm: "MD5", nonce: "n1", opaque: "o,1", nc: "00000001" }],
    ["SHA-256", [SHA256], { algorithm: "SHA-256", nonce: "n2", opaque: "o2" }],
    ["SHA-256 where MD5 is offered first, on lines of their own", [MD5, SHA256, BASIC], { algorithm: "SHA-256" }],
    [
      "SHA-256 where all schemes share a line",
      [`${BASIC}, ${MD5}, Negotiate, NTLM, ${SHA256}`],
      { algorithm: "SHA-256" },
    ],
    ["MD5 without qop", ['Digest realm="corp", nonce="old"'], { nonce: "old" }],
    ["one that also offers auth-int", ['Digest realm="corp", nonce="n", qop="auth-int,auth"'], { qop: "auth" }],
  ] as const) {
    test(`answer a Digest challenge: ${name}`, async () => {
      using proxy = new ScriptedProxy([challenge(offer), OK]);
      await proxy.dial({ secret: SECRET });
      expect(proxy.heads.map((heads) => heads.length)).toEqual([2]);
      expectDigest(proxy.heads[0]![1]!, wanted);
    });
  }

  for (const [name, more, body] of [
    ["has no body", "Content-Length: 0\r\n", ""],
    ["has a body by length", "Content-Length: 6\r\n", "go\r\n\r\n"],
    ["has a body in chunks", "Transfer-Encoding: chunked\r\n", "6\r\ngo\r\n\r\n\r\n0\r\n\r\n"],
    ["has a body of a page", "Content-Length: 4000\r\n", "x".repeat(4000)],
  ] as const) {
    test(`are sent on the same connection when the 407 ${name}`, async () => {
      using proxy = new ScriptedProxy([challenge([MD5], more, body), OK]);
      await proxy.dial({ secret: SECRET });
      expect(proxy.heads.map((heads) => heads.length)).toEqual([2]);
    });
  }

  for (const [name, answer] of [
    ["says close", challenge([MD5], "Content-Length: 2\r\nConnection: close\r\n", "no")],
    ["is HTTP/1.0", challenge([MD5]).replace("HTTP/1.1", "HTTP/1.0")],
    ["ends with the connection", challenge([MD5], "", "no more")],
  ] as const) {
    test(`are sent on a new connection when the 407 ${name}`, async () => {
      const closing = (socket: RawSocket) => void socket.send(answer).end();
      using proxy = new ScriptedProxy([closing], [OK]);
      await proxy.dial({ secret: SECRET });
      expect(proxy.heads.map((heads) => heads.length)).toEqual([1, 1]);
      expectDigest(proxy.heads[1]![0]!, { nc: "00000001" });
      await proxy.sockets[0]!.over();
    });
  }

  test("are sent on a new connection when the 407 has a body beyond what is read", async () => {
    using proxy = new ScriptedProxy([challenge([MD5], "Content-Length: 100000\r\n", "x".repeat(20_000))], [OK]);
    await proxy.dial({ secret: SECRET });
    expect(proxy.heads.map((heads) => heads.length)).toEqual([1, 1]);
    await proxy.sockets[0]!.over();
  });

  // The second CONNECT goes to a connection that ends without an answer: then it has to go to a new one, once.
  test("survive a proxy that promises to keep the connection and closes it", async () => {
    const lying = (socket: RawSocket) => void socket.send(challenge([MD5])).end();
    using proxy = new ScriptedProxy([lying], [OK]);
    const stream = await proxy.dial({ secret: SECRET });
    expect(stream.isClosed).toBe(false);
  });

  test("are remembered: the next CONNECT counts the nonce up and pays no round trip", async () => {
    using proxy = new ScriptedProxy([challenge([MD5]), OK], [OK], [OK]);
    const dial = proxy.dialer({ secret: SECRET });
    for (let i = 0; i < 3; i++) await dial(TARGET, { deadline: soon() });
    expect(proxy.heads.map((heads) => heads.length)).toEqual([2, 1, 1]);
    expectDigest(proxy.heads[1]![0]!, { nonce: "n1", nc: "00000002" });
    expectDigest(proxy.heads[2]![0]!, { nonce: "n1", nc: "00000003" });
    const cnonces = proxy.heads.map((heads) => digestFields(heads.at(-1)!).cnonce);
    expect(new Set(cnonces).size).toBe(3);
  });

  test("are computed anew when the nonce has become stale", async () => {
    const stale = challenge([`${MD5.replace("n1", "fresh")}, stale=true`]);
    using proxy = new ScriptedProxy([challenge([MD5]), OK], [stale, OK]);
    const dial = proxy.dialer({ secret: SECRET });
    await dial(TARGET, { deadline: soon() });
    await dial(TARGET, { deadline: soon() });
    expectDigest(proxy.heads[1]![1]!, { nonce: "fresh", nc: "00000001" });
  });

  test("are computed anew when a nonce is stale at once", async () => {
    const stale = challenge([`${MD5.replace("n1", "fresh")}, stale=TRUE`]);
    using proxy = new ScriptedProxy([challenge([MD5]), stale, OK]);
    await proxy.dial({ secret: SECRET });
    expectDigest(proxy.heads[0]![2]!, { nonce: "fresh", nc: "00000001" });
  });

  test("are not repeated without end to a proxy whose nonces are always stale", async () => {
    const stale = challenge([`${MD5}, stale=true`]);
    using proxy = new ScriptedProxy(Array.from({ length: 50 }, () => stale));
    const error = await failure(proxy.dial({ secret: SECRET }));
    expect(error.code).toBe("hop-auth");
    expect(proxy.heads[0]!.length).toBeLessThan(6);
  });

  test("are tried once with Digest when they are wrong", async () => {
    using proxy = new ScriptedProxy([challenge([MD5]), challenge([MD5.replace("n1", "n9")]), OK]);
    const error = await failure(proxy.dial({ secret: SECRET }));
    expect([error.code, error.hopStatus, error.outcome.exit]).toEqual(["hop-auth", 407, 4]);
    expect(proxy.heads[0]).toHaveLength(2);
  });

  test("are tried once with Basic when they are wrong", async () => {
    using proxy = new ScriptedProxy([challenge([BASIC]), OK]);
    const error = await failure(proxy.dial({ secret: SECRET }));
    expect([error.code, error.outcome.exit]).toEqual(["hop-auth", 4]);
    expect(proxy.heads[0]).toHaveLength(1);
    expect(error.message).toContain("basic");
  });

  for (const [offer, named] of [
    [
      ["NTLM", "Negotiate"],
      ["ntlm", "negotiate"],
    ],
    [["Negotiate abc==, NTLM"], ["ntlm", "negotiate"]],
    [['Digest realm="x", nonce="n", algorithm=SHA-512-256'], ["digest"]],
    [['Digest realm="x", nonce="n", qop="auth-int"'], ["digest"]],
    [[BASIC], ["basic"]],
  ] as const) {
    test(`that are not there are asked for by the schemes' names: ${offer.join(" | ")}`, async () => {
      const error = await new HandProxy().refuses(challenge(offer));
      expect([error.code, error.hopStatus]).toEqual(["hop-auth", 407]);
      for (const scheme of named) expect(error.message.toLowerCase()).toContain(scheme);
    });
  }

  test("fail with a 407 that offers nothing", async () => {
    const error = await new HandProxy({ secret: SECRET }).refuses(challenge([]));
    expect([error.code, error.hopStatus]).toEqual(["hop-auth", 407]);
  });

  test("of a command answer each challenge in turn", async () => {
    const asked: (readonly string[])[] = [];
    const run = async (lines: readonly string[]) => {
      asked.push(lines);
      return `NTLM message${asked.length}`;
    };
    using proxy = new ScriptedProxy([challenge(["NTLM"]), challenge(["NTLM dHdv"]), OK]);
    await proxy.dial({ secret: { kind: "command", run } });
    expect(asked).toEqual([["NTLM"], ["NTLM dHdv"]]);
    expect(proxy.heads[0]!.map(authorizationOf)).toEqual([undefined, "NTLM message1", "NTLM message2"]);
  });

  test("of a command that fails end the dial and the connection", async () => {
    const run = async () => Promise.reject(new SeikanError("hop-auth", "no ticket"));
    using proxy = new ScriptedProxy([challenge(["Negotiate"]), OK]);
    expect((await failure(proxy.dial({ secret: { kind: "command", run } }))).code).toBe("hop-auth");
    await proxy.sockets[0]!.over();
  });

  // `formatHead` cuts characters beyond latin1 to their low byte: U+010D U+010A become CR LF, and a header line can follow.
  test("with letters beyond latin1 keep the head of a Digest whole", async () => {
    const user = "Dvo\u0159\u00e1k\u010d\u010aX-Injected: 1";
    using proxy = new ScriptedProxy([challenge([MD5]), OK]);
    await proxy.dial({ secret: { kind: "password", user, password: "x" } });
    const head = proxy.heads[0]![1]!;
    expect(head.split("\r\n").map((line) => line.split(":")[0])).toEqual([
      expect.stringContaining("CONNECT"),
      "Host",
      "Proxy-Authorization",
      "",
      "",
    ]);
    expect(Buffer.from(digestFields(head).username!, "latin1").toString("utf8")).toBe(user);
  });

  describe("never show in an error", () => {
    const secrets: ProxySecret[] = [SECRET, { kind: "value", value: "Bearer hunter2-hunter2" }];
    const answers: [string, string][] = [
      ["garbage", "garbage\r\n\r\n"],
      ["a refusal", "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"],
      ["a 407", challenge([BASIC])],
      ["a 407 twice", challenge([MD5])],
      ["nothing", ""],
    ];
    for (const secret of secrets) {
      for (const [name, answer] of answers) {
        test(`${secret.kind}, after ${name}`, async () => {
          using proxy = new ScriptedProxy(
            [answer, answer, answer].map(
              (text) => (socket: RawSocket) => void (text === "" ? socket.end() : socket.send(text)),
            ),
          );
          const error = await failure(proxy.dial({ secret }));
          const shown = `${Bun.inspect(error)} ${JSON.stringify(error)} ${error.hints.join()} ${error.stack}`;
          expect(shown).not.toContain("hunter2");
          expect(shown).not.toContain(Buffer.from("alice:hunter2-hunter2").toString("base64"));
        });
      }
    }
  });

  test("go to their own proxy only: not to the target behind it", async () => {
    const { driver, stream } = await new HandProxy({ secret: SECRET }).answers([OK]);
    const head = driver.text;
    stream.write(Buffer.from("GET / HTTP/1.1\r\n\r\n"));
    expect(driver.text.slice(head.length)).toBe("GET / HTTP/1.1\r\n\r\n");
  });
});

test("a tunnel that is aborted resets the connection to the proxy", async () => {
  using proxy = new ScriptedProxy([OK]);
  const stream = await proxy.dial();
  stream.abort(reset());
  await until(() => proxy.sockets[0]!.closed, "the proxy sees the end");
  expect(proxy.sockets[0]!.error).toBe("ECONNRESET");
});
