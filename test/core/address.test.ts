import { describe, expect, test } from "bun:test";
import {
  canonicalHost,
  formatHostPort,
  formatListen,
  formatTarget,
  inNetwork,
  isLoopbackHost,
  parseAddressRange,
  parseAuthority,
  parseIp,
  parseListen,
  parseNetwork,
  parsePort,
  parseTarget,
  tcpTarget,
  type ListenAddress,
} from "../../src/core/address.ts";
import { SeikanError } from "../../src/core/errors.ts";

function usageOf(work: () => unknown): SeikanError {
  try {
    work();
  } catch (error) {
    if (error instanceof SeikanError && error.code === "usage") return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("a host", () => {
  const hosts: [text: string, host: string | undefined][] = [
    ["example.com", "example.com"],
    ["EXAMPLE.Com", "example.com"],
    ["example.com.", "example.com"],
    ["example.com..", undefined],
    ["localhost", "localhost"],
    ["a", "a"],
    ["_dmarc.example.com", "_dmarc.example.com"],
    ["a-b.c-d", "a-b.c-d"],
    ["xn--bcher-kva.example", "xn--bcher-kva.example"],
    ["bücher.example", "xn--bcher-kva.example"],
    ["BÜCHER.example.", "xn--bcher-kva.example"],
    ["127.0.0.1", "127.0.0.1"],
    ["127.1", "127.0.0.1"],
    ["[::1]", "::1"],
    ["[2001:DB8:0:0::1]", "2001:db8::1"],
    ["[::ffff:10.0.0.1]", "10.0.0.1"],
    ["", undefined],
    [".", undefined],
    [".com", undefined],
    ["a..b", undefined],
    ["-a.test", undefined],
    ["a-.test", undefined],
    ["a b", undefined],
    ["a/b", undefined],
    ["a@b", undefined],
    ["a:b", undefined],
    ["a#b", undefined],
    ["a?b", undefined],
    ["a%2eb", undefined],
    ["a\0b", undefined],
    ["::1", undefined],
    ["[::1", undefined],
    ["::1]", undefined],
    ["[]", undefined],
    ["[a.test]", undefined],
    ["[::1%eth0]", undefined],
    ["1.2.3.4.5", undefined],
    ["999.1.1.1", undefined],
    [`${"a".repeat(60)}.`.repeat(5), undefined],
    ["a".repeat(254), undefined],
  ];
  for (const [text, host] of hosts) {
    test(`${JSON.stringify(text.slice(0, 40))} is ${host ?? "none"}`, () => {
      expect(canonicalHost(text)).toBe(host);
      if (host !== undefined && !host.includes(":")) expect(canonicalHost(host)).toBe(host);
    });
  }

  // Not printable ASCII, so it goes through `new URL()`, which cuts userinfo, path, query, fragment, tabs and line ends off.
  for (const text of [
    "evil.test#ü",
    "evil.test/ü",
    "evil.test?ü",
    "ü@evil.test",
    "ü\n.test",
    "ü\t.test",
    "ev%69l.ü",
    "a\r\nb",
    "a\tb",
  ]) {
    test(`${JSON.stringify(text)} is none`, () => {
      expect(canonicalHost(text)).toBeUndefined();
    });
  }

  // The dot goes after the look for an address, so the address stays unseen.
  test("with a trailing dot behind an address in an odd spelling is that address, or none", () => {
    expect(["127.0.0.1", undefined]).toContain(canonicalHost("0x7f.1."));
  });
});

describe("a port", () => {
  const ports: [string, number | undefined][] = [
    ["1", 1],
    ["443", 443],
    ["65535", 65535],
    ["0443", 443],
    ["0", undefined],
    ["65536", undefined],
    ["99999999999", undefined],
    ["+443", undefined],
    ["-1", undefined],
    ["0x1bb", undefined],
    ["1e2", undefined],
    ["44 3", undefined],
    ["443 ", undefined],
    ["", undefined],
    ["٤٤٣", undefined],
  ];
  for (const [text, port] of ports) {
    test(`${JSON.stringify(text)} is ${port ?? "none"}`, () => {
      expect(parsePort(text)).toBe(port);
    });
  }
});

describe("an authority", () => {
  test("is host and port", () => {
    expect(parseAuthority("Example.COM.:443")).toEqual(tcpTarget("example.com", 443));
    expect(parseAuthority("[::1]:22")).toEqual(tcpTarget("::1", 22));
    expect(parseAuthority("127.0.0.1:1")).toEqual(tcpTarget("127.0.0.1", 1));
  });

  for (const text of [
    "a",
    "a:",
    ":443",
    "::1:443",
    "[::1]",
    "[::1]443",
    "a:0",
    "a:65536",
    "http://a:80",
    "a:80/",
    "u@a:80",
    "a:80 ",
    " a:80",
    "",
    "*",
  ]) {
    test(`is not ${JSON.stringify(text)}`, () => {
      expect(parseAuthority(text)).toBeUndefined();
    });
  }
});

describe("a target", () => {
  test("is an authority or a unix socket, and is written as it is read", () => {
    for (const text of ["example.com:443", "[2001:db8::1]:22", "10.0.0.1:1", "unix:/run/app.sock"]) {
      expect(formatTarget(parseTarget(text))).toBe(text);
    }
  });

  const wrong: [text: string, hint: string][] = [
    ["https://a.test/x", "a.test:443"],
    ["http://a.test", "a.test:80"],
    ["http://a.test:81/", "a.test:81"],
    ["2001:db8::1", "[2001:db8::1]:443"],
    ["a.test", "a.test:443"],
    ["a.test:http", "65535"],
    ["unix:", "unix:/run"],
  ];
  for (const [text, hint] of wrong) {
    test(`is not ${text}: the hint says ${hint}`, () => {
      expect(usageOf(() => parseTarget(text)).hints.join()).toContain(hint);
    });
  }
});

describe("an address to listen on", () => {
  const good: [text: string, address: ListenAddress][] = [
    ["8080", { kind: "tcp", host: "localhost", port: 8080 }],
    [":8080", { kind: "tcp", host: "localhost", port: 8080 }],
    ["0", { kind: "tcp", host: "localhost", port: 0 }],
    ["localhost:1", { kind: "tcp", host: "localhost", port: 1 }],
    ["127.0.0.1:0", { kind: "tcp", host: "127.0.0.1", port: 0 }],
    ["0.0.0.0:80", { kind: "tcp", host: "0.0.0.0", port: 80 }],
    ["*:80", { kind: "tcp", host: "0.0.0.0", port: 80 }],
    ["[::]:80", { kind: "tcp", host: "::", port: 80 }],
    ["[::1]:80", { kind: "tcp", host: "::1", port: 80 }],
    ["unix:/run/a b", { kind: "unix", path: "/run/a b" }],
    ["fd:3", { kind: "fd", fd: 3 }],
  ];
  for (const [text, address] of good) {
    test(`is ${text}`, () => {
      expect(parseListen(text)).toEqual(address);
      expect(parseListen(formatListen(address))).toEqual(address);
    });
  }

  for (const text of [
    "",
    "a",
    "65536",
    "99999",
    "-1",
    "::1:80",
    "[::1]",
    "a b:80",
    "unix:",
    "fd:",
    "fd:x",
    "http://a:80",
    "80:a",
  ]) {
    test(`is not ${JSON.stringify(text)}`, () => {
      expect(usageOf(() => parseListen(text)).outcome.exit).toBe(2);
    });
  }
});

describe("an address range", () => {
  test("is a network or a single address", () => {
    const inside = (range: string, address: string) => inNetwork(parseIp(address)!, parseAddressRange(range));
    expect(inside("10.0.0.0/8", "10.255.1.1")).toBe(true);
    expect(inside("10.0.0.0/8", "11.0.0.0")).toBe(false);
    expect(inside("10.1.2.3/8", "10.9.9.9")).toBe(true);
    expect(inside("10.0.0.1", "10.0.0.1")).toBe(true);
    expect(inside("10.0.0.1", "10.0.0.2")).toBe(false);
    expect(inside("0.0.0.0/0", "8.8.8.8")).toBe(true);
    expect(inside("0.0.0.0/0", "::1")).toBe(false);
    expect(inside("fc00::/7", "fdff::1")).toBe(true);
    expect(inside("::1", "::1")).toBe(true);
    expect(inside("10.0.0.0/8", "::ffff:10.1.1.1")).toBe(true);
  });

  for (const text of [
    "",
    "a",
    "a.test",
    "10.0.0.0/",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/8/8",
    "10.0.0.0/0x8",
    "::/129",
    "/8",
    "10.0.0.0/ 8",
  ]) {
    test(`is not ${JSON.stringify(text)}`, () => {
      expect(parseNetwork(text)).toBeUndefined();
      usageOf(() => parseAddressRange(text));
    });
  }
});

test("host and port are written with brackets only around IPv6", () => {
  expect([formatHostPort("a.test", 1), formatHostPort("1.2.3.4", 2), formatHostPort("::1", 3)]).toEqual([
    "a.test:1",
    "1.2.3.4:2",
    "[::1]:3",
  ]);
});

test("only this machine reaches loopback addresses and localhost", () => {
  for (const host of ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
    expect([host, isLoopbackHost(host)]).toEqual([host, true]);
  for (const host of ["localhost.test", "0.0.0.0", "::", "10.0.0.1", "notlocalhost"])
    expect([host, isLoopbackHost(host)]).toEqual([host, false]);
});
