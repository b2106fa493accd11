import { describe, expect, test } from "bun:test";
import { tcpTarget } from "../../src/core/address.ts";
import { decodeReply, decodeRequest, decodeUdpRequest, encodeReply, encodeUdpReply } from "../../src/wire/socks.ts";
import { codeOf } from "../support/decode.ts";
import { randomNumbers, splits } from "../support/random.ts";
import { pattern } from "../support/wait.ts";

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");
const name = (text: string) => Buffer.concat([Buffer.of(text.length), Buffer.from(text, "latin1")]).toString("hex");

const V4 = "01 0a000001";
const V6 = "04 20010db8000000000000000000000001";

describe("a datagram of a SOCKS 5 client", () => {
  const table: [what: string, header: string, host: string, port: number][] = [
    ["an IPv4 address", `0000 00 ${V4} 0035`, "10.0.0.1", 53],
    ["an IPv6 address", `0000 00 ${V6} 01bb`, "2001:db8::1", 443],
    ["an IPv4 address within IPv6", "0000 00 04 00000000000000000000ffff0a000001 0001", "10.0.0.1", 1],
    ["a name", `0000 00 03 ${name("Dns.Test.")} ffff`, "dns.test", 65535],
    ["an address as a name", `0000 00 03 ${name("::1")} 0035`, "::1", 53],
    ["the longest name", `0000 00 03 ${name(`${"a".repeat(63)}.`.repeat(3) + "b".repeat(61))} 0035`, "", 53],
  ];
  for (const [what, header, host, port] of table) {
    test(`names ${what}, and the rest is its payload`, () => {
      for (const payload of [Buffer.from("ping"), Buffer.alloc(0), hex("00 00 00 01 7f000001 0035"), pattern(65_000)]) {
        const decoded = decodeUdpRequest(Buffer.concat([hex(header), payload]));
        expect(decoded?.target.port).toBe(port);
        if (host !== "") expect(decoded?.target).toEqual(tcpTarget(host, port));
        expect(Buffer.from(decoded!.payload).equals(payload)).toBe(true);
      }
    });

    test(`that names ${what} and is cut before its payload is dropped`, () => {
      for (const [start] of splits(hex(header).subarray(0, -1))) {
        expect([start.length, decodeUdpRequest(start)]).toEqual([start.length, undefined]);
      }
    });
  }

  const dropped: [what: string, bytes: Buffer][] = [
    ["the first fragment", hex(`0000 01 ${V4} 0035 61`)],
    ["a fragment in the middle", hex(`0000 7f ${V4} 0035 61`)],
    ["the last fragment", hex(`0000 81 ${V4} 0035 61`)],
    ["an unknown address type", hex("0000 00 02 0a000001 0035 61")],
    ["the address type 0", hex("0000 00 00 0a000001 0035 61")],
    ["port 0", hex(`0000 00 ${V4} 0000 61`)],
    ["an empty name", hex("0000 00 03 00 0035 61")],
    ["a space in its name", hex(`0000 00 03 ${name("a b")} 0035 61`)],
    ["NUL in its name", hex(`0000 00 03 ${name("a.test\0.evil")} 0035 61`)],
    ["a line break in its name", hex(`0000 00 03 ${name("a\r\nb")} 0035 61`)],
    ["a name that is no UTF-8", hex(`0000 00 03 ${name("\xff\xfe.test")} 0035 61`)],
    ["a name longer than the datagram", hex("0000 00 03 ff 6161 0035 61")],
    ["nothing in it", Buffer.alloc(0)],
  ];
  for (const [what, bytes] of dropped) {
    test(`with ${what} is dropped, not thrown`, () => expect(decodeUdpRequest(bytes)).toBeUndefined());
  }

  test("of random bytes never throws", () => {
    const random = randomNumbers();
    for (let i = 0; i < 5000; i++) {
      const noise = Array.from({ length: random(40) }, (_, at) => (at < 3 ? 0 : at === 3 ? random(6) : random(256)));
      const bytes = Buffer.from(noise);
      const decoded = decodeUdpRequest(bytes);
      if (decoded === undefined) continue;
      expect(decoded.target.port).toBeGreaterThan(0);
      expect(bytes.subarray(bytes.length - decoded.payload.length).equals(decoded.payload)).toBe(true);
    }
  });
});

describe("a datagram for a SOCKS 5 client", () => {
  const table: [host: string, port: number, header: string][] = [
    ["10.0.0.1", 53, `0000 00 ${V4} 0035`],
    ["2001:db8::1", 443, `0000 00 ${V6} 01bb`],
    ["dns.test", 65535, `0000 00 03 ${name("dns.test")} ffff`],
  ];
  for (const [host, port, header] of table) {
    test(`from ${host} has its header in front, and is read back`, () => {
      for (const payload of [Buffer.from("pong"), Buffer.alloc(0), pattern(65_000)]) {
        const bytes = Buffer.from(encodeUdpReply(tcpTarget(host, port), payload));
        expect(bytes.equals(Buffer.concat([hex(header), payload]))).toBe(true);
        const decoded = decodeUdpRequest(bytes)!;
        expect(decoded.target).toEqual(tcpTarget(host, port));
        expect(Buffer.from(decoded.payload).equals(payload)).toBe(true);
      }
    });
  }

  test("cannot come from a name beyond 255 bytes", () => {
    expect(codeOf(() => encodeUdpReply(tcpTarget("a".repeat(256), 1), Buffer.alloc(0)))).toBe("usage");
  });
});

describe("a SOCKS 5 reply with the address for datagrams", () => {
  const table: [host: string, port: number, bytes: string][] = [
    ["127.0.0.1", 40000, "05 00 00 01 7f000001 9c40"],
    ["0.0.0.0", 1, "05 00 00 01 00000000 0001"],
    ["::1", 65535, `05 00 00 04 ${"00".repeat(15)}01 ffff`],
    ["2001:db8::1", 53, `05 00 00 ${V6} 0035`],
    ["relay.test", 53, `05 00 00 03 ${name("relay.test")} 0035`],
  ];
  for (const [host, port, text] of table) {
    test(`${host} port ${port} is written, and whoever reads it finds its end`, () => {
      const bytes = encodeReply("succeeded", { host, port });
      expect(Buffer.from(bytes)).toEqual(hex(text));
      expect(decodeReply(bytes)).toEqual({ value: 0, length: bytes.length });
      for (let length = 0; length < bytes.length; length++) expect(decodeReply(bytes.slice(0, length))).toBeUndefined();
    });
  }

  test("says nothing of an address when there is none", () => {
    expect(Buffer.from(encodeReply("succeeded"))).toEqual(hex("05 00 00 01 00000000 0000"));
    expect(Buffer.from(encodeReply("failure"))).toEqual(hex("05 01 00 01 00000000 0000"));
  });
});

describe("a SOCKS 5 request for datagrams", () => {
  test("may name no address yet: all zeros, port 0 included (RFC 1928 section 4)", () => {
    for (const text of ["05 03 00 01 00000000 0000", `05 03 00 04 ${"00".repeat(16)} 0000`]) {
      expect(decodeRequest(hex(text))?.value).toMatchObject({ command: "udp-associate", target: { port: 0 } });
    }
  });
});
