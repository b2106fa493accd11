import { describe, expect, test } from "bun:test";
import { tcpTarget } from "../../src/core/address.ts";
import * as socks from "../../src/wire/socks.ts";
import { codeOf, decodeGrowing } from "../support/decode.ts";

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");
const name = (text: string) => Buffer.concat([Buffer.of(text.length), Buffer.from(text)]).toString("hex");

describe("a SOCKS 5 greeting", () => {
  test("is written and read", () => {
    expect(Buffer.from(socks.encodeGreeting([0, 2]))).toEqual(hex("05 02 00 02"));
    const { value, length } = decodeGrowing(socks.decodeGreeting, hex("05 03 00 01 02"));
    expect([[...value], length]).toEqual([[0, 1, 2], 5]);
  });

  test("may offer nothing", () => {
    expect([...decodeGrowing(socks.decodeGreeting, hex("05 00")).value]).toEqual([]);
  });

  test("is answered with a method", () => {
    expect(decodeGrowing(socks.decodeMethodChoice, hex("05 02"))).toEqual({ value: 2, length: 2 });
    expect(decodeGrowing(socks.decodeMethodChoice, hex("05 ff")).value).toBe(socks.NO_ACCEPTABLE_METHOD);
  });

  test("is not answered in another version", () => {
    for (const bytes of ["04 00", "48", "00 5a"])
      expect(codeOf(() => socks.decodeMethodChoice(hex(bytes)))).toBe("hop-protocol");
  });
});

describe("SOCKS 5 credentials", () => {
  const credentials = { user: "tést", password: "p:w" };

  test("are read as they are written", () => {
    const bytes = socks.encodeCredentials(credentials);
    expect(Buffer.from(bytes)).toEqual(hex("01 05 74c3a97374 03 703a77"));
    expect(decodeGrowing(socks.decodeCredentials, bytes)).toEqual({ value: credentials, length: bytes.length });
  });

  test("may have 255 bytes each, and none", () => {
    const long = { user: "u".repeat(255), password: "p".repeat(255) };
    expect(decodeGrowing(socks.decodeCredentials, socks.encodeCredentials(long)).value).toEqual(long);
    const empty = { user: "", password: "" };
    expect(decodeGrowing(socks.decodeCredentials, socks.encodeCredentials(empty)).value).toEqual(empty);
    expect(codeOf(() => socks.encodeCredentials({ user: "é".repeat(128), password: "" }))).toBe("usage");
    expect(codeOf(() => socks.encodeCredentials({ user: "", password: "p".repeat(256) }))).toBe("usage");
  });

  test("are malformed in another version", () => {
    expect(codeOf(() => socks.decodeCredentials(hex("05")))).toBe("hop-protocol");
  });

  test("are accepted with 0 only", () => {
    expect(decodeGrowing(socks.decodeCredentialsReply, hex("01 00")).value).toBe(true);
    expect(decodeGrowing(socks.decodeCredentialsReply, hex("01 01")).value).toBe(false);
    expect(decodeGrowing(socks.decodeCredentialsReply, hex("01 ff")).value).toBe(false);
  });
});

describe("a SOCKS 5 request", () => {
  const table: [what: string, bytes: Buffer, host: string, port: number][] = [
    ["an IPv4 address", hex("05 01 00 01 0a000001 0050"), "10.0.0.1", 80],
    ["an IPv6 address", hex("05 01 00 04 20010db8000000000000000000000001 01bb"), "2001:db8::1", 443],
    ["an IPv4 address within IPv6", hex("05 01 00 04 00000000000000000000ffff0a000001 01bb"), "10.0.0.1", 443],
    ["a name", hex(`05 01 00 03 ${name("Origin.Test.")} ffff`), "origin.test", 65535],
    ["an IPv4 address as a name", hex(`05 01 00 03 ${name("127.1")} 0001`), "127.0.0.1", 1],
    ["an IPv6 address as a name", hex(`05 01 00 03 ${name("::1")} 0001`), "::1", 1],
    ["a bracketed IPv6 address as a name", hex(`05 01 00 03 ${name("[::1]")} 0001`), "::1", 1],
  ];
  for (const [what, bytes, host, port] of table) {
    test(`names ${what}`, () => {
      expect(decodeGrowing(socks.decodeRequest, bytes)).toEqual({
        value: { version: 5, command: "connect", target: tcpTarget(host, port), userId: "" },
        length: bytes.length,
      });
    });
  }

  test("is read as it is written", () => {
    for (const target of [tcpTarget("a.test", 443), tcpTarget("10.0.0.1", 1), tcpTarget("2001:db8::1", 65535)]) {
      expect(decodeGrowing(socks.decodeRequest, socks.encodeRequest(target)).value.target).toEqual(target);
    }
    expect(Buffer.from(socks.encodeRequest(tcpTarget("a.b", 258)))).toEqual(hex("05 01 00 03 03 612e62 0102"));
  });

  test("may ask for BIND and UDP, too", () => {
    expect(decodeGrowing(socks.decodeRequest, hex("05 02 00 01 0a000001 0050")).value.command).toBe("bind");
    expect(decodeGrowing(socks.decodeRequest, hex("05 03 00 01 0a000001 0050")).value.command).toBe("udp-associate");
  });

  const malformed: [string, Buffer][] = [
    ["in another version", hex("04")],
    ["with an unknown command", hex("05 09 00 01 0a000001 0050")],
    ["with an unknown address type", hex("05 01 00 02 0a000001 0050")],
    ["with an empty name", hex("05 01 00 03 00 0050")],
    ["with a space in its name", hex(`05 01 00 03 ${name("a b")} 0050`)],
    ["with NUL in its name", hex(`05 01 00 03 ${name("a.test\0.evil")} 0050`)],
    ["with a slash in its name", hex(`05 01 00 03 ${name("a/b")} 0050`)],
  ];
  for (const [what, bytes] of malformed) {
    test(`is malformed ${what}`, () => {
      expect(codeOf(() => socks.decodeRequest(bytes))).toBe("hop-protocol");
    });
  }

  test("cannot carry a name beyond 255 bytes", () => {
    expect(codeOf(() => socks.encodeRequest(tcpTarget("a".repeat(256), 1)))).toBe("usage");
  });

  // Everywhere else port 0 is no port (http-rules.md A1).
  test("is malformed with port 0", () => {
    expect(codeOf(() => socks.decodeRequest(hex("05 01 00 01 0a000001 0000")))).toBe("hop-protocol");
  });
});

describe("a SOCKS 5 reply", () => {
  test("of success has an address of any type, which is skipped", () => {
    for (const bytes of [
      "05 00 00 01 00000000 0000",
      `05 00 00 03 ${name("bound.test")} 1234`,
      `05 00 00 04 ${"00".repeat(16)} 0000`,
    ]) {
      expect(decodeGrowing(socks.decodeReply, hex(bytes))).toEqual({ value: 0, length: hex(bytes).length });
    }
  });

  test("is read as it is written", () => {
    for (const [reply, code] of Object.entries(socks.SOCKS5_REPLY)) {
      const bytes = socks.encodeReply(reply as socks.Socks5Reply);
      expect(Buffer.from(bytes)).toEqual(Buffer.concat([hex("05"), Buffer.of(code), hex("00 01 00000000 0000")]));
      expect(socks.decodeReply(bytes)?.value).toBe(code);
    }
  });

  test("of refusal may leave its address out", () => {
    expect(socks.decodeReply(hex("05 05"))?.value).toBe(5);
  });

  test("is malformed in another version or with an unknown address type", () => {
    for (const bytes of ["04", "48545450", "05 00 00 09 00"])
      expect(codeOf(() => socks.decodeReply(hex(bytes)))).toBe("hop-protocol");
  });

  test("has a sentence for every code", () => {
    for (let code = 0; code < 256; code++) expect(socks.socks5Sentence(code).length).toBeGreaterThan(3);
  });
});

describe("a SOCKS 4 request", () => {
  const user = `${Buffer.from("alice").toString("hex")}00`;

  test("names an address", () => {
    const bytes = hex(`04 01 01bb 0a000001 ${user}`);
    expect(decodeGrowing(socks.decodeRequest4, bytes)).toEqual({
      value: { version: 4, command: "connect", target: tcpTarget("10.0.0.1", 443), userId: "alice" },
      length: bytes.length,
    });
  });

  test("names a name behind its user id (4a)", () => {
    const bytes = hex(`04 01 0050 00000001 00 ${Buffer.from("Origin.test").toString("hex")}00`);
    expect(decodeGrowing(socks.decodeRequest4, bytes).value).toEqual({
      version: 4,
      command: "connect",
      target: tcpTarget("origin.test", 80),
      userId: "",
    });
  });

  test("is read as it is written", () => {
    for (const target of [tcpTarget("10.0.0.1", 443), tcpTarget("a.test", 1)]) {
      const { value } = decodeGrowing(socks.decodeRequest4, socks.encodeRequest4(target, "bob"));
      expect(value).toEqual({ version: 4, command: "connect", target, userId: "bob" });
    }
  });

  test("is malformed with a user id or a name without end", () => {
    expect(codeOf(() => socks.decodeRequest4(Buffer.concat([hex("04 01 0050 0a000001"), Buffer.alloc(600, 97)])))).toBe(
      "hop-protocol",
    );
    expect(
      codeOf(() => socks.decodeRequest4(Buffer.concat([hex("04 01 0050 00000001 00"), Buffer.alloc(600, 97)]))),
    ).toBe("hop-protocol");
  });

  test("is malformed with an unknown command or host", () => {
    expect(codeOf(() => socks.decodeRequest4(hex("04 03 0050 0a000001 00")))).toBe("hop-protocol");
    expect(codeOf(() => socks.decodeRequest4(hex("04 01 0050 00000001 00 00")))).toBe("hop-protocol");
    expect(codeOf(() => socks.decodeRequest4(hex("04 01 0050 00000001 00 612062 00")))).toBe("hop-protocol");
  });

  // The server would take what stands behind the NUL for the name of another host.
  test("refuses a user id with NUL in it", () => {
    expect(codeOf(() => socks.encodeRequest4(tcpTarget("a.test", 80), "bob\0evil.test"))).toBe("usage");
  });
});

describe("a SOCKS 4 reply", () => {
  test("is read as it is written", () => {
    expect(decodeGrowing(socks.decodeReply4, socks.encodeReply4(true))).toEqual({ value: 90, length: 8 });
    expect(decodeGrowing(socks.decodeReply4, socks.encodeReply4(false))).toEqual({ value: 91, length: 8 });
  });

  test("is malformed in another version", () => {
    expect(codeOf(() => socks.decodeReply4(hex("05")))).toBe("hop-protocol");
  });
});
