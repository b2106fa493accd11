import { describe, expect, test } from "bun:test";
import { tcpTarget } from "../../src/core/address.ts";
import { SeikanError } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { chain, formatHop, parseHop, redactUrl, type Hop, type HopSettings } from "../../src/transports/chain.ts";
import { decodeStep, readStep } from "../../src/transports/handshake.ts";
import { acceptSocks, answerSocks } from "../../src/transports/socks.ts";
import { listen, tcpDialer } from "../../src/transports/tcp.ts";
import { tlsServer } from "../../src/transports/tls.ts";
import { certificateFor } from "../support/certificates.ts";
import { soon } from "../support/pairs.ts";
import { Recorder, reset } from "../support/wait.ts";

function refusal(text: string): SeikanError {
  try {
    parseHop(text);
  } catch (error) {
    if (error instanceof SeikanError && error.code === "usage") return error;
    throw error;
  }
  throw new Error(`${text} was taken`);
}

const password = (user: string, secret: string) => ({ kind: "password", user, password: secret }) as const;

describe("a hop", () => {
  const table: [text: string, scheme: string, host: string, port: number, secret?: Hop["secret"]][] = [
    ["http://proxy.test:3128", "http", "proxy.test", 3128],
    ["http://proxy.test", "http", "proxy.test", 80],
    ["http://proxy.test/", "http", "proxy.test", 80],
    ["http://proxy.test:/", "http", "proxy.test", 80],
    ["https://proxy.test", "https", "proxy.test", 443],
    ["socks5://proxy.test", "socks5", "proxy.test", 1080],
    ["socks5h://proxy.test:1", "socks5h", "proxy.test", 1],
    ["socks4a://proxy.test", "socks4a", "proxy.test", 1080],
    ["HTTP://Proxy.Test.:8080", "http", "proxy.test", 8080],
    ["http://[::1]:8080", "http", "::1", 8080],
    ["http://[2001:db8::1]", "http", "2001:db8::1", 80],
    ["http://127.1:8080", "http", "127.0.0.1", 8080],
    ["http://bücher.test", "http", "xn--bcher-kva.test", 80],
    ["http://u:p@proxy.test", "http", "proxy.test", 80, password("u", "p")],
    ["http://u@proxy.test", "http", "proxy.test", 80, password("u", "")],
    ["http://u:@proxy.test", "http", "proxy.test", 80, password("u", "")],
    ["http://:p@proxy.test", "http", "proxy.test", 80, password("", "p")],
    ["http://@proxy.test", "http", "proxy.test", 80],
    ["http://u:a:b@proxy.test", "http", "proxy.test", 80, password("u", "a:b")],
    ["http://u%40corp:p%3A%2F%25%20@proxy.test", "http", "proxy.test", 80, password("u@corp", "p:/% ")],
    ["http://t%C3%A9st:%E2%82%AC@proxy.test", "http", "proxy.test", 80, password("tést", "€")],
    ["http://u:p@ss@proxy.test:1", "http", "proxy.test", 1, password("u", "p@ss")],
    ["http://u:a/b?c#d@proxy.test:1", "http", "proxy.test", 1, password("u", "a/b?c#d")],
    ["http://u:a+b@proxy.test:1", "http", "proxy.test", 1, password("u", "a+b")],
  ];
  for (const [text, scheme, host, port, secret] of table) {
    test(`is ${text}`, () => {
      expect(parseHop(text)).toEqual({ scheme, path: "", proxy: tcpTarget(host, port), secret } as Hop);
    });
  }

  test("may be the word direct", () => {
    expect(parseHop("direct")).toBe("direct");
  });

  for (const text of [
    ...[
      "",
      "proxy.test:3128",
      "proxy.test",
      "http://",
      "http:///",
      "http://:80",
      "http:proxy",
      "//proxy.test",
      "ftp://proxy.test",
    ],
    ...[
      "socks4://proxy.test",
      "socks://proxy.test",
      "http://proxy.test/path",
      "http://proxy.test?x",
      "http://proxy.test#x",
    ],
    ...[
      "http://proxy.test:0",
      "http://proxy.test:65536",
      "http://proxy.test:x",
      "http://pro xy",
      "http://::1:80",
      "http://[::1",
      "Direct",
    ],
    ...["http://u:%@proxy.test", "http://%zz@proxy.test", "toString://proxy.test", "__proto__://proxy.test"],
  ]) {
    test(`is not ${JSON.stringify(text)}`, () => {
      expect(refusal(text).outcome.exit).toBe(2);
    });
  }
});

describe("credentials in a hop's URL", () => {
  test("are not shown when it is written", () => {
    const hop = parseHop("http://alice:hunter2@proxy.test:3128") as Hop;
    expect(formatHop(hop)).toBe("http://***@proxy.test:3128");
    expect(formatHop(parseHop("socks5h://[::1]") as Hop)).toBe("socks5h://[::1]:1080");
  });

  for (const url of [
    "http://alice:hunter2@proxy.test/path",
    "ftp://alice:hunter2@proxy.test",
    "http://alice:hunter2@proxy:0",
    "http://al%zz:hunter2@proxy",
  ]) {
    test(`are not shown when it is wrong: ${url}`, () => {
      expect(`${Bun.inspect(refusal(url))}`).not.toContain("hunter2");
    });
  }

  // redactUrl looks for userinfo without / ? # and behind :// only; parseHop is more generous.
  for (const url of [
    "http://alice:hunter2/x@proxy:0",
    "http://alice:hunter2?@proxy:0",
    "http://alice:hunter2#@proxy:0",
    "alice:hunter2@proxy:3128",
  ]) {
    test(`are not shown when it is wrong, either: ${url}`, () => {
      const error = refusal(url);
      expect(`${error.message} ${error.hints.join()}`).not.toContain("hunter2");
    });
  }

  test("are replaced as a whole", () => {
    expect(redactUrl("http://a:b@c@proxy.test:1/x")).toBe("http://***@proxy.test:1/x");
    // Wherever an @ is, what stands before it may be a password.
    expect(redactUrl("http://proxy.test/a@b")).toBe("http://***@b");
  });
});

// --- real chains -----------------------------------------------------------------

const certificate = certificateFor("localhost", "127.0.0.1");

interface Played extends Disposable {
  readonly port: number;
  /** What each client asked for. */
  readonly asked: string[];
}

/** Reads a head off a stream. */
async function readHead(stream: ByteStream): Promise<string> {
  const step = decodeStep((bytes: Uint8Array) => {
    const text = Buffer.from(bytes).toString("latin1");
    const end = text.indexOf("\r\n\r\n");
    return end < 0 ? undefined : { value: text.slice(0, end + 4), length: end + 4 };
  }, 65_536);
  return readStep(stream, step, soon(), "a client");
}

/** Plays the proxies of `layers` on one connection, one inside the other, and says hello behind the last. */
function play(...layers: readonly ("http" | "https" | "socks")[]): Played {
  const asked: string[] = [];
  const listener = listen({ kind: "tcp", host: "127.0.0.1", port: 0 }, (accepted) => {
    const talk = async () => {
      let stream = accepted;
      for (const layer of layers) {
        if (layer === "https") stream = await tlsServer(stream, certificate, soon());
        if (layer === "socks") {
          const { request, user } = await acceptSocks(stream, 5, async () => true, soon());
          asked.push(`SOCKS ${request.target.host}:${request.target.port} ${user}`);
          answerSocks(stream, 5, "succeeded");
        } else {
          asked.push(await readHead(stream));
          stream.write(Buffer.from("HTTP/1.1 200 OK\r\n\r\n"));
        }
      }
      stream.write(Buffer.from("hello"));
      const recorder = new Recorder(stream);
      await recorder.end();
      stream.write(Buffer.from(`, you said ${recorder.text}`));
      stream.end();
    };
    talk().catch(() => accepted.abort(reset()));
  });
  return { port: listener.port!, asked, [Symbol.dispose]: () => listener.close() };
}

const settings: HopSettings = {
  tcp: {},
  fields: ["X-Tag", "t"],
  tls: { ca: certificate.cert },
  tunnel: { connections: 1, connectMs: 5000, heartbeat: { intervalMs: 0, timeoutMs: 0 }, report: () => {} },
};

async function converse(hops: readonly string[], target = tcpTarget("origin.test", 443)): Promise<string> {
  const { dial } = chain(
    hops.map((hop) => parseHop(hop) as Hop),
    tcpDialer(),
    settings,
  );
  const stream = await dial(target, { deadline: soon() });
  const recorder = new Recorder(stream);
  stream.write(Buffer.from("ping"));
  stream.end();
  await recorder.end();
  return recorder.text;
}

const connect = (authority: string, user?: string) => {
  const credentials =
    user === undefined ? "" : `Proxy-Authorization: Basic ${Buffer.from(user).toString("base64")}\r\n`;
  return `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${credentials}X-Tag: t\r\n\r\n`;
};

describe("a chain", () => {
  test("without hops is the dialer itself", () => {
    const direct = tcpDialer();
    expect(chain([], direct, settings)).toMatchObject({ dial: direct, httpProxy: undefined, tunnels: [] });
  });

  test("of two HTTP proxies asks the first for the second, with credentials of its own each", async () => {
    using proxies = play("http", "http");
    const text = await converse([`http://first:1@127.0.0.1:${proxies.port}`, "http://second:2@inner.test:3128"]);
    expect(text).toBe("hello, you said ping");
    expect(proxies.asked).toEqual([connect("inner.test:3128", "first:1"), connect("origin.test:443", "second:2")]);
  });

  test("speaks TLS to a proxy, and TLS in TLS to the next one", async () => {
    using proxies = play("https", "https");
    const text = await converse([`https://127.0.0.1:${proxies.port}`, "https://localhost:8443"]);
    expect(text).toBe("hello, you said ping");
    expect(proxies.asked).toEqual([connect("localhost:8443"), connect("origin.test:443")]);
  });

  test("mixes SOCKS and HTTP in either order", async () => {
    using proxies = play("socks", "http");
    expect(await converse([`socks5h://alice:pw@127.0.0.1:${proxies.port}`, "http://inner.test"])).toBe(
      "hello, you said ping",
    );
    expect(proxies.asked).toEqual(["SOCKS inner.test:80 alice", connect("origin.test:443")]);
    using others = play("http", "socks");
    expect(await converse([`http://127.0.0.1:${others.port}`, "socks5h://bob:pw@inner.test"])).toBe(
      "hello, you said ping",
    );
    expect(others.asked).toEqual([connect("inner.test:1080"), "SOCKS origin.test:443 bob"]);
  });

  test("resolves here for socks5 and leaves names to socks5h", async () => {
    using proxies = play("socks");
    await converse([`socks5://alice:pw@127.0.0.1:${proxies.port}`], tcpTarget("localhost", 7));
    expect(["SOCKS 127.0.0.1:7 alice", "SOCKS ::1:7 alice"]).toContain(proxies.asked[0]!);
  });

  test("checks a TLS proxy's certificate against the proxy's name", async () => {
    using proxies = play("https");
    const { dial } = chain(
      [parseHop(`https://127.0.0.2:${proxies.port}`) as Hop],
      (target, options) => tcpDialer()(tcpTarget("127.0.0.1", (target as { port: number }).port), options),
      settings,
    );
    const error = await dial(tcpTarget("localhost", 443), { deadline: soon() }).then(
      () => undefined,
      (thrown: SeikanError) => thrown,
    );
    expect(error?.code).toBe("tls-certificate");
    expect(proxies.asked).toEqual([]);
  });
});
