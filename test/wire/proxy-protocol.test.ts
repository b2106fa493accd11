import { describe, expect, test } from "bun:test";
import { decodeProxyHeader, encodeProxyHeader } from "../../src/wire/proxy-protocol.ts";
import { codeOf, decodeGrowing } from "../support/decode.ts";

const SIGNATURE = "0d0a0d0a000d0a515549540a";
const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");
const v1 = (line: string) => Buffer.from(`${line}\r\n`, "latin1");
const v2 = (rest: string) => hex(`${SIGNATURE}${rest}`);

const NOBODY = { source: undefined };
const V6 = "20010db8000000000000000000000001 20010db8000000000000000000000002";

const HEADERS: [name: string, bytes: Buffer, peer: unknown][] = [
  [
    "version 1 over IPv4",
    v1("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443"),
    { source: { address: "192.0.2.1", port: 56324 } },
  ],
  [
    "version 1 over IPv6",
    v1("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535"),
    { source: { address: "2001:db8::1", port: 1 } },
  ],
  ["version 1 UNKNOWN", v1("PROXY UNKNOWN"), NOBODY],
  ["version 1 UNKNOWN with addresses", v1("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535"), NOBODY],
  ["version 1 at its longest", v1(`PROXY UNKNOWN ${"x".repeat(107 - 16)}`), NOBODY],
  [
    "version 2 over IPv4",
    v2("21 11 000c c0000201 c6336402 dc04 01bb"),
    { source: { address: "192.0.2.1", port: 56324 } },
  ],
  ["version 2 over IPv6", v2(`21 21 0024 ${V6} dc04 01bb`), { source: { address: "2001:db8::1", port: 56324 } }],
  [
    "version 2 with extensions",
    v2("21 11 0011 c0000201 c6336402 dc04 01bb 04 0002 aabb"),
    { source: { address: "192.0.2.1", port: 56324 } },
  ],
  ["version 2 LOCAL", v2("20 00 0000"), NOBODY],
  ["version 2 LOCAL with addresses", v2("20 11 000c c0000201 c6336402 dc04 01bb"), NOBODY],
  ["version 2 over a unix socket", v2(`21 31 00d8 ${"00".repeat(216)}`), NOBODY],
  ["version 2 of unspecified family", v2("21 00 0000"), NOBODY],
  [
    "version 2 over UDP",
    v2("21 12 000c c0000201 c6336402 dc04 01bb"),
    { source: { address: "192.0.2.1", port: 56324 } },
  ],
];

describe("a PROXY header", () => {
  for (const [name, bytes, peer] of HEADERS) {
    test(`of ${name} is read, byte by byte, and not beyond its end`, () => {
      expect(decodeGrowing(decodeProxyHeader, bytes)).toEqual({ value: peer, length: bytes.length } as never);
    });
  }

  test("names an IPv4 client within IPv6 by its IPv4 address", () => {
    const mapped = "00000000000000000000ffffc0000201";
    expect(decodeProxyHeader(v2(`21 21 0024 ${mapped} ${mapped} dc04 01bb`))?.value.source?.address).toBe("192.0.2.1");
  });
});

describe("bytes that are no PROXY header", () => {
  const malformed: [string, Buffer][] = [
    ["an HTTP request", Buffer.from("GET / HTTP/1.1\r\n\r\n")],
    ["one wrong byte", Buffer.from("X")],
    ["PROXY in lower case", Buffer.from("proxy TCP4")],
    ["PROXY without a space", Buffer.from("PROXYTCP4")],
    ["a TLS hello", hex("160301")],
    ["a signature with a wrong byte", hex("0d0a0d0a000d0a515549540b")],
    ["a signature with a wrong start", hex("0d0a0d0b")],
    ["version 1 without end", Buffer.from(`PROXY TCP4 ${"1".repeat(200)}`)],
    ["version 1 with an end too late", v1(`PROXY UNKNOWN ${"x".repeat(107)}`)],
    ["version 1 with an unknown family", v1("PROXY UDP4 192.0.2.1 198.51.100.2 1 2")],
    ["version 1 without an address", v1("PROXY TCP4")],
    ["version 1 with a name", v1("PROXY TCP4 a.test b.test 1 2")],
    ["version 1 without ports", v1("PROXY TCP4 192.0.2.1 198.51.100.2")],
    ["version 1 with a port that is none", v1("PROXY TCP4 192.0.2.1 198.51.100.2 x 2")],
    ["version 1 with a signed port", v1("PROXY TCP4 192.0.2.1 198.51.100.2 +1 2")],
    ["version 3", v2("31 11 000c c0000201 c6336402 dc04 01bb")],
    ["an unknown command", v2("22 11 000c c0000201 c6336402 dc04 01bb")],
    ["IPv4 addresses that are cut", v2("21 11 000b c0000201 c6336402 dc04 01")],
    ["IPv6 addresses that are cut", v2(`21 21 000c c0000201 c6336402 dc04 01bb`)],
  ];
  for (const [name, bytes] of malformed) {
    test(`are refused: ${name}`, () => {
      expect(codeOf(() => decodeProxyHeader(bytes))).toBe("bad-request");
    });
  }

  // Neither the range of the port nor the family of the address is looked at.
  for (const [name, line] of [
    ["a port beyond 65535", "PROXY TCP4 192.0.2.1 198.51.100.2 65536 2"],
    ["an IPv6 address with TCP4", "PROXY TCP4 2001:db8::1 2001:db8::2 1 2"],
    ["an IPv4 address with TCP6", "PROXY TCP6 192.0.2.1 198.51.100.2 1 2"],
    ["an address in an odd spelling", "PROXY TCP4 127.1 127.1 1 2"],
    ["a missing port", "PROXY TCP4 192.0.2.1 198.51.100.2 1"],
  ] as const) {
    test(`are refused: version 1 with ${name}`, () => {
      expect(codeOf(() => decodeProxyHeader(v1(line)))).toBe("bad-request");
    });
  }
});

describe("a PROXY header that is written", () => {
  const written = (address: string, port: number) => Buffer.from(encodeProxyHeader({ address, port }));

  for (const [name, address, port] of [
    ["IPv4", "192.0.2.1", 56324],
    ["IPv4 with the smallest numbers", "0.0.0.0", 0],
    ["IPv4 with the largest numbers", "255.255.255.255", 65535],
    ["IPv6", "2001:db8::1", 56324],
    ["IPv6 with the smallest numbers", "::", 0],
    ["IPv6 with the largest numbers", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535],
    ["IPv6 loopback", "::1", 1],
  ] as const) {
    test(`for ${name} is read as what it was`, () => {
      const bytes = written(address, port);
      expect(decodeGrowing(decodeProxyHeader, bytes)).toEqual({
        value: { source: { address, port } },
        length: bytes.length,
      });
    });
  }

  test("is of version 2, in the bytes of the specification", () => {
    expect(written("192.0.2.1", 56324)).toEqual(v2("21 11 000c c0000201 00000000 dc04 0000"));
    const v6 = "20010db8000000000000000000000001";
    expect(written("2001:db8::1", 443)).toEqual(v2(`21 21 0024 ${v6} ${"00".repeat(16)} 01bb 0000`));
  });

  test("names an IPv4 client within IPv6 by its IPv4 address", () => {
    expect(written("::ffff:192.0.2.1", 7)).toEqual(written("192.0.2.1", 7));
    expect(decodeProxyHeader(written("::ffff:192.0.2.1", 7))?.value.source).toEqual({ address: "192.0.2.1", port: 7 });
  });

  for (const [name, source] of [
    ["nobody", undefined],
    ["a unix socket", { address: "", port: 0 }],
    ["a name", { address: "client.test", port: 7 }],
    ["an address with a zone", { address: "fe80::1%eth0", port: 7 }],
  ] as const) {
    test(`for ${name} says that the connection speaks for itself`, () => {
      const bytes = encodeProxyHeader(source);
      expect(Buffer.from(bytes)).toEqual(v2("20 00 0000"));
      expect(decodeGrowing(decodeProxyHeader, bytes)).toEqual({ value: NOBODY, length: 16 } as never);
    });
  }
});
