import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deadlineIn } from "../../src/core/clock.ts";
import { OUTCOMES, SeikanError } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import { tlsClient, tlsServer, type TlsClientOptions, type TlsServerOptions } from "../../src/transports/tls.ts";
import { serverNameOf } from "../../src/wire/client-hello.ts";
import type { StreamPair } from "../contract/stream.ts";
import { certificateFor } from "../support/certificates.ts";
import { pairOf, soon, tcpPair } from "../support/pairs.ts";
import { Recorder, until, within } from "../support/wait.ts";

const certificate = certificateFor("localhost", "127.0.0.1");
const other = certificateFor("other.test");

/** A certificate authority and a client certificate of it, by openssl. */
function clientCertificate(name: string): { ca: string; cert: string; key: string } {
  const folder = mkdtempSync(join(tmpdir(), "seikan-mtls-"));
  const file = (part: string) => join(folder, part);
  const openssl = (...args: string[]) => {
    const run = Bun.spawnSync(["openssl", ...args]);
    if (run.exitCode !== 0) throw new Error(`openssl ${args.join(" ")}: ${run.stderr}`);
  };
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl(
    "req",
    "-x509",
    ...curve,
    "-keyout",
    file("ca.key"),
    "-out",
    file("ca.pem"),
    "-days",
    "30",
    "-subj",
    "/CN=test authority",
  );
  openssl("req", ...curve, "-keyout", file("key.pem"), "-out", file("request.pem"), "-subj", `/CN=${name}`);
  openssl(
    "x509",
    "-req",
    "-in",
    file("request.pem"),
    "-CA",
    file("ca.pem"),
    "-CAkey",
    file("ca.key"),
    "-CAcreateserial",
    "-out",
    file("cert.pem"),
    "-days",
    "30",
  );
  const read = (part: string) => readFileSync(file(part), "utf8");
  return { ca: read("ca.pem"), cert: read("cert.pem"), key: read("key.pem") };
}

interface Secured {
  readonly client: ByteStream | SeikanError;
  readonly server: ByteStream | SeikanError;
}

/** Both sides of a handshake over this pair. */
async function shake(
  pair: StreamPair,
  client: Partial<TlsClientOptions>,
  server: Partial<TlsServerOptions> = {},
): Promise<Secured> {
  const settle = (work: Promise<ByteStream>) => work.catch((error: SeikanError) => error);
  const [accepted, dialled] = await Promise.all([
    settle(tlsServer(pair.right, { cert: certificate.cert, key: certificate.key, ...server }, soon())),
    settle(
      tlsClient(pair.left, { serverName: "localhost", peer: "the server", ca: certificate.cert, ...client }, soon()),
    ),
  ]);
  return { client: dialled, server: accepted };
}

/** Says something each way. */
async function expectTalk({ client, server }: Secured): Promise<void> {
  if (client instanceof Error) throw client;
  if (server instanceof Error) throw server;
  const [near, far] = [new Recorder(client), new Recorder(server)];
  client.write(Buffer.from("question"));
  await far.received(8);
  server.write(Buffer.from("answer"));
  await near.received(6);
  expect([far.text, near.text]).toEqual(["question", "answer"]);
}

function expectRefused(
  outcome: ByteStream | SeikanError,
  code: "tls-certificate" | "tls-failed" = "tls-certificate",
): void {
  if (!(outcome instanceof SeikanError)) throw new Error("the handshake succeeded");
  expect(outcome.code).toBe(code);
  expect(outcome.outcome).toEqual(OUTCOMES[code]);
}

const TRANSPORTS: [string, () => Promise<StreamPair>][] = [
  ["tcp", tcpPair],
  ["memory", async () => pairOf(...memoryPair())],
];

for (const [transport, connect] of TRANSPORTS) {
  describe(`TLS over ${transport}`, () => {
    test("trusts a certificate of a given authority for the right name", async () => {
      await using pair = await connect();
      await expectTalk(await shake(pair, {}));
    });

    test("checks addresses, too", async () => {
      await using pair = await connect();
      await expectTalk(await shake(pair, { serverName: "127.0.0.1" }));
      await using wrong = await connect();
      expectRefused((await shake(wrong, { serverName: "127.0.0.2" })).client);
    });

    test("refuses a certificate for another name", async () => {
      await using pair = await connect();
      expectRefused((await shake(pair, { serverName: "other.test" })).client);
    });

    test("refuses a certificate nobody vouches for", async () => {
      await using pair = await connect();
      expectRefused((await shake(pair, { ca: undefined })).client);
    });

    test("refuses a certificate of another authority", async () => {
      await using pair = await connect();
      expectRefused((await shake(pair, { ca: other.cert })).client);
    });

    test("takes any certificate when it is told to", async () => {
      await using pair = await connect();
      await expectTalk(await shake(pair, { ca: undefined, serverName: "other.test", insecure: true }));
    });

    test("takes a pinned public key", async () => {
      await using pair = await connect();
      await expectTalk(await shake(pair, { pins: [other.pin, certificate.pin] }));
    });

    test("refuses a public key that is not pinned, also when any certificate will do", async () => {
      await using pair = await connect();
      expectRefused((await shake(pair, { pins: [other.pin] })).client);
      await using careless = await connect();
      expectRefused((await shake(careless, { pins: [other.pin], insecure: true })).client);
    });

    test("does not take a pin for trust", async () => {
      await using pair = await connect();
      expectRefused((await shake(pair, { pins: [certificate.pin], ca: undefined })).client);
    });

    test("refuses a peer that does not speak TLS", async () => {
      await using pair = await connect();
      pair.right.write(Buffer.from("SSH-2.0-hello\r\n"));
      const work = tlsClient(pair.left, { serverName: "localhost", peer: "the server" }, soon());
      expectRefused(await work.catch((error: SeikanError) => error), "tls-failed");
    });

    test("fails when the peer ends during the handshake", async () => {
      await using pair = await connect();
      const recorder = new Recorder(pair.right);
      const work = tlsClient(pair.left, { serverName: "localhost", peer: "the server" }, soon());
      await recorder.received(100);
      pair.right.end();
      expectRefused(await work.catch((error: SeikanError) => error), "tls-failed");
    });

    test("gives up on a silent peer, and on its connection", async () => {
      await using pair = await connect();
      const recorder = new Recorder(pair.right);
      const error = await tlsClient(pair.left, { serverName: "localhost", peer: "the server" }, deadlineIn(50)).then(
        () => undefined,
        (thrown: SeikanError) => thrown,
      );
      expect(error?.code).toBe("connect-timeout");
      await recorder.close();
    });

    test("ends the connection after a refusal", async () => {
      await using pair = await connect();
      const { server } = await shake(pair, { ca: other.cert });
      if (server instanceof Error) return;
      server.attach(new Recorder(server, false));
      await within(server.closed, "the server's close");
      expect(server.isClosed).toBe(true);
    });
  });
}

describe("client certificates", () => {
  const alice = clientCertificate("alice");
  const mallory = clientCertificate("mallory");

  test("of the authority are accepted", async () => {
    await using pair = await tcpPair();
    await expectTalk(await shake(pair, { cert: alice.cert, key: alice.key }, { clientCa: alice.ca }));
  });

  test("are refused when they are of another authority", async () => {
    await using pair = await tcpPair();
    const { server } = await shake(pair, { cert: mallory.cert, key: mallory.key }, { clientCa: alice.ca });
    expect(server).toBeInstanceOf(SeikanError);
    expect(["tls-certificate", "tls-failed"]).toContain((server as SeikanError).code);
  });

  test("are missed when there is none", async () => {
    await using pair = await tcpPair();
    const { client, server } = await shake(pair, {}, { clientCa: alice.ca });
    expect(["tls-certificate", "tls-failed"]).toContain((server as SeikanError).code);
    // With TLS 1.3 the client learns of it only when it reads.
    if (client instanceof Error) return;
    client.attach(new Recorder(client, false));
    await within(client.closed, "the client's close");
  });

  test("are not asked for without an authority", async () => {
    await using pair = await tcpPair();
    await expectTalk(await shake(pair, { cert: alice.cert, key: alice.key }));
  });
});

describe("a hello", () => {
  /** The first flight of our client. */
  async function helloOf(options: Partial<TlsClientOptions>): Promise<Buffer> {
    await using pair = await tcpPair();
    const recorder = new Recorder(pair.right);
    const work = tlsClient(pair.left, { serverName: "localhost", peer: "the server", ...options }, soon());
    work.catch(() => {});
    await until(
      () => recorder.length > 5 && recorder.length >= 5 + recorder.bytes.readUInt16BE(3),
      "the hello is here",
    );
    return recorder.bytes;
  }

  test("names the server", async () => {
    expect(serverNameOf(await helloOf({ serverName: "origin.test" }))).toBe("origin.test");
  });

  // Bun sends what it gets as `serverName`; RFC 6066 section 3 allows names only.
  test("does not name an address", async () => {
    expect(serverNameOf(await helloOf({ serverName: "127.0.0.1" }))).toBe("");
    expect(serverNameOf(await helloOf({ serverName: "::1" }))).toBe("");
  });

  test("offers the protocols it is told, as ALPN wants them written", async () => {
    const offered = Buffer.from("\x02h2\x08http/1.1", "latin1");
    expect((await helloOf({ alpn: ["h2", "http/1.1"] })).includes(offered)).toBe(true);
    expect((await helloOf({})).includes(Buffer.from("http/1.1"))).toBe(false);
  });
});

describe("TLS in TLS", () => {
  async function overTls(pair: StreamPair): Promise<StreamPair> {
    const { client, server } = await shake(pair, {});
    if (client instanceof Error) throw client;
    if (server instanceof Error) throw server;
    return pairOf(client, server, () => void pair[Symbol.asyncDispose]());
  }

  for (const depth of [2, 3]) {
    test(`carries bytes ${depth} deep`, async () => {
      let pair = await tcpPair();
      for (let i = 1; i < depth; i++) pair = await overTls(pair);
      await using inner = pair;
      await expectTalk(await shake(inner, {}));
    });
  }

  test("checks the inner certificate, too", async () => {
    await using pair = await overTls(await tcpPair());
    expectRefused((await shake(pair, { serverName: "other.test" })).client);
  });

  test("takes a stream that bytes were put back to", async () => {
    await using pair = await tcpPair();
    const first = new Recorder(pair.right);
    const dialling = tlsClient(
      pair.left,
      { serverName: "localhost", peer: "the server", ca: certificate.cert },
      soon(),
    );
    await first.received(50);
    pair.right.detach();
    pair.right.unread(first.bytes);
    const server = await tlsServer(pair.right, { cert: certificate.cert, key: certificate.key }, soon());
    await expectTalk({ client: await dialling, server });
  });
});
