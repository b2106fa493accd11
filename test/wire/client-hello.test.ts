import { describe, expect, test } from "bun:test";
import { connect } from "node:tls";
import { serverNameOf } from "../../src/wire/client-hello.ts";
import { RawServer } from "../support/raw.ts";

/** The first flight of a real TLS client. */
async function helloFor(options: {
  servername?: string;
  ALPNProtocols?: string[];
  maxVersion?: "TLSv1.2";
}): Promise<Buffer> {
  using server = new RawServer();
  const client = connect({ port: server.port, host: "127.0.0.1", rejectUnauthorized: false, ...options });
  client.on("error", () => {});
  try {
    const socket = await server.next();
    await socket.until(() => (isWhole(socket.bytes) ? true : undefined), "a whole ClientHello");
    return socket.bytes;
  } finally {
    client.destroy();
  }
}

function isWhole(bytes: Buffer): boolean {
  return bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt16BE(3);
}

const hello = await helloFor({ servername: "origin.test" });

describe("the server name in a ClientHello", () => {
  test("is the one the client asks for, and unknown until the hello is complete", () => {
    const length = 5 + hello.readUInt16BE(3);
    for (let cut = 0; cut < length; cut++) {
      expect({ cut, name: serverNameOf(hello.subarray(0, cut)) }).toEqual({ cut, name: undefined });
    }
    expect(serverNameOf(hello.subarray(0, length))).toBe("origin.test");
    expect(serverNameOf(Buffer.concat([hello, Buffer.from("early data")]))).toBe("origin.test");
  });

  test("is read from an array that begins elsewhere in its buffer", () => {
    expect(serverNameOf(Buffer.concat([Buffer.from("in front"), hello]).subarray(8))).toBe("origin.test");
    expect(serverNameOf(new Uint8Array(hello))).toBe("origin.test");
  });

  for (const options of [{ ALPNProtocols: ["h2", "http/1.1"] }, { maxVersion: "TLSv1.2" as const }]) {
    test(`is found beside ${JSON.stringify(options)}`, async () => {
      expect(serverNameOf(await helloFor({ servername: "a.b.c.test", ...options }))).toBe("a.b.c.test");
    });
  }

  test("may be as long as names get", async () => {
    const servername = `${"a".repeat(63)}.${"b".repeat(63)}.${"c".repeat(63)}.test`;
    expect(serverNameOf(await helloFor({ servername }))).toBe(servername);
  });

  test("is empty when the client names none", async () => {
    expect(serverNameOf(await helloFor({ servername: "" }))).toBe("");
  });

  test("is empty for what is no hello", () => {
    expect(serverNameOf(Buffer.from("GET / HTTP/1.1\r\n\r\n"))).toBe("");
    expect(serverNameOf(Buffer.from("\x15\x03\x01\x00\x02\x02\x0a", "latin1"))).toBe("");
    expect(serverNameOf(Buffer.from("\x16\x03\x01\x00\x00", "latin1"))).toBe("");
  });

  test("stays within the record however its lengths are damaged", () => {
    for (let at = 5; at < hello.length; at++) {
      for (const value of [0x00, 0xff]) {
        const damaged = Buffer.from(hello);
        damaged[at] = value;
        const name = serverNameOf(damaged);
        expect(typeof name).toBe("string");
        expect(name!.length).toBeLessThanOrEqual(hello.length);
      }
    }
  });

  // The type of the handshake message is not looked at.
  test("is empty for a handshake message that is no ClientHello", () => {
    const other = Buffer.from(hello);
    other[5] = 2;
    expect(serverNameOf(other)).toBe("");
  });
});
