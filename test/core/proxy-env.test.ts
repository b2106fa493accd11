import { describe, expect, test } from "bun:test";
import { parseTarget, tcpTarget, type TcpTarget } from "../../src/core/address.ts";
import { isExempt, proxyFromEnv } from "../../src/core/proxy-env.ts";

const HTTPS = tcpTarget("example.com", 443);

describe("the proxy from the environment", () => {
  const table: [env: Record<string, string>, variable: string | undefined, url?: string][] = [
    [{}, undefined],
    [{ https_proxy: "http://p:1" }, "https_proxy", "http://p:1"],
    [{ HTTPS_PROXY: "http://p:1" }, "HTTPS_PROXY", "http://p:1"],
    [{ https_proxy: "http://low:1", HTTPS_PROXY: "http://up:1" }, "https_proxy", "http://low:1"],
    [{ ALL_PROXY: "socks5h://p:1" }, "ALL_PROXY", "socks5h://p:1"],
    [{ all_proxy: "http://low:1", ALL_PROXY: "http://up:1" }, "all_proxy", "http://low:1"],
    [{ HTTPS_PROXY: "http://s:1", all_proxy: "http://a:1", http_proxy: "http://h:1" }, "HTTPS_PROXY", "http://s:1"],
    [{ ALL_PROXY: "http://a:1", http_proxy: "http://h:1" }, "ALL_PROXY", "http://a:1"],
    [{ http_proxy: "http://h:1" }, "http_proxy", "http://h:1"],
    [{ HTTP_PROXY: "http://h:1" }, "HTTP_PROXY", "http://h:1"],
    [{ https_proxy: "", HTTPS_PROXY: " ", ALL_PROXY: "http://a:1" }, "ALL_PROXY", "http://a:1"],
    [{ https_proxy: "" }, undefined],
    [{ https_proxy: " http://p:1 " }, "https_proxy", "http://p:1"],
    [{ https_proxy: "p:3128" }, "https_proxy", "http://p:3128"],
    [{ https_proxy: "u:p@p:3128" }, "https_proxy", "http://u:p@p:3128"],
    // In a CGI program a request header sets HTTP_PROXY (CVE-2016-5385).
    [{ HTTP_PROXY: "http://evil:1", REQUEST_METHOD: "GET" }, undefined],
    [{ HTTP_PROXY: "http://evil:1", REQUEST_METHOD: "" }, undefined],
    [{ http_proxy: "http://h:1", HTTP_PROXY: "http://evil:1", REQUEST_METHOD: "GET" }, "http_proxy", "http://h:1"],
    [{ HTTPS_PROXY: "http://s:1", REQUEST_METHOD: "GET" }, "HTTPS_PROXY", "http://s:1"],
  ];
  for (const [env, variable, url] of table) {
    test(`is ${variable ?? "none"} with ${JSON.stringify(env)}`, () => {
      expect(proxyFromEnv(HTTPS, env)).toEqual(variable === undefined ? undefined : { url: url!, variable });
    });
  }

  test("is none, for a reason, when NO_PROXY exempts the target", () => {
    expect(proxyFromEnv(HTTPS, { HTTPS_PROXY: "http://p:1", NO_PROXY: "example.com" })).toEqual({ exempt: "NO_PROXY" });
    expect(proxyFromEnv(HTTPS, { HTTPS_PROXY: "http://p:1", no_proxy: "example.com" })).toEqual({ exempt: "no_proxy" });
  });

  test("follows the lower-case no_proxy where both are set", () => {
    const env = { HTTPS_PROXY: "http://p:1", no_proxy: "other.test", NO_PROXY: "example.com" };
    expect(proxyFromEnv(HTTPS, env)).toEqual({ url: "http://p:1", variable: "HTTPS_PROXY" });
  });

  test("is none, without a reason, when no proxy is set and NO_PROXY is", () => {
    expect(proxyFromEnv(HTTPS, { NO_PROXY: "*" })).toBeUndefined();
  });

  test("ignores an empty NO_PROXY", () => {
    expect(proxyFromEnv(HTTPS, { HTTPS_PROXY: "http://p:1", NO_PROXY: "" })).toEqual({
      url: "http://p:1",
      variable: "HTTPS_PROXY",
    });
  });
});

/** http-rules.md 1.3: curl's rules, plus `host:port` and `*.suffix`. `true`: goes around the proxy. */
const NO_PROXY: readonly [target: string, list: string, exempt: boolean][] = [
  // Names match whole and at label boundaries, with and without a leading dot.
  ["example.com:443", "example.com", true],
  ["example.com:443", ".example.com", true],
  ["www.example.com:443", "example.com", true],
  ["www.example.com:443", ".example.com", true],
  ["a.b.example.com:443", "example.com", true],
  ["nexample.com:443", "example.com", false],
  ["nexample.com:443", ".example.com", false],
  ["example.com:443", "www.example.com", false],
  ["example.com:443", "com", true],
  ["example.com.evil.test:443", "example.com", false],
  ["localhost:80", "localhost", true],
  ["foo.localhost:80", "localhost", true],
  // Case and trailing dots mean nothing.
  ["EXAMPLE.com:443", "example.COM", true],
  ["example.com.:443", "example.com", true],
  ["example.com:443", "example.com.", true],
  ["www.example.com:443", ".example.com.", true],
  // `*` alone, and `*.suffix`.
  ["example.com:443", "*", true],
  ["192.168.0.1:80", "*", true],
  ["[::1]:80", "*", true],
  ["example.com:443", "other.test,*", true],
  ["a.example.com:443", "*.example.com", true],
  ["a.b.example.com:443", "*.example.com", true],
  ["example.com:443", "*.example.com", false],
  ["nexample.com:443", "*.example.com", false],
  ["example.com:443", "*example.com", false],
  ["example.com:443", "exam*.com", false],
  // Ports.
  ["example.com:80", "example.com:8080", false],
  ["example.com:8080", "example.com:8080", true],
  ["www.example.com:8080", "example.com:8080", true],
  ["www.example.com:8080", "*.example.com:8080", true],
  ["www.example.com:80", "*.example.com:8080", false],
  ["192.168.0.1:8080", "192.168.0.1:8080", true],
  ["192.168.0.1:80", "192.168.0.1:8080", false],
  ["[::1]:8080", "[::1]:8080", true],
  ["[::1]:80", "[::1]:8080", false],
  ["example.com:443", "example.com:", false],
  ["example.com:443", "example.com:https", false],
  // Addresses and networks.
  ["192.168.0.1:80", "192.168.0.1", true],
  ["192.168.0.10:80", "192.168.0.1", false],
  ["192.168.0.1:80", "192.168.0.0/16", true],
  ["192.169.0.1:80", "192.168.0.0/16", false],
  ["192.168.1.1:80", "192.168.0.1/24", false],
  ["192.168.0.1:80", "192.168.0.0/33", false],
  ["192.168.0.1:80", "192.168.0.0/", false],
  ["192.168.0.1:80", "0.0.0.0/0", true],
  ["192.168.0.1:8080", "192.168.0.0/16:8080", true],
  ["192.168.0.1:80", "168.0.1", false],
  ["192.168.0.1:80", ".0.1", false],
  ["[::1]:80", "::1", true],
  ["[::1]:80", "[::1]", true],
  ["[::1]:80", "0:0:0:0:0:0:0:1", true],
  ["[2001:db8::1]:80", "2001:db8::/32", true],
  ["[2001:db9::1]:80", "2001:db8::/32", false],
  ["[2001:DB8::1]:80", "2001:db8::1", true],
  ["[::1]:80", "127.0.0.1", false],
  ["127.0.0.1:80", "::1", false],
  ["10.0.0.1:80", "::/0", false],
  ["10.example.com:80", "10.0.0.0/8", false],
  // Nothing is exempt unasked, loopback neither.
  ["localhost:80", "", false],
  ["127.0.0.1:80", "", false],
  ["[::1]:80", "", false],
  ["localhost:80", " , ,", false],
  ["example.com:443", ".", false],
  // Separators: commas, spaces, or both.
  ["www.example.com:443", "localhost .example.com", true],
  ["www.example.com:443", "localhost,.example.com", true],
  ["www.example.com:443", "localhost, .example.com", true],
  ["www.example.com:443", "localhost ,.example.com", true],
  ["www.example.com:443", "localhost\t.example.com\n", true],
  ["www.example.com:443", ",,  ,example.com,,", true],
  ["www.example.com:443", "localhost;example.com", false],
];

describe("NO_PROXY", () => {
  for (const [text, list, exempt] of NO_PROXY) {
    test(`${JSON.stringify(list)} ${exempt ? "exempts" : "does not exempt"} ${text}`, () => {
      expect(isExempt(parseTarget(text) as TcpTarget, list)).toBe(exempt);
    });
  }

  // Without its dot nothing is left of the suffix, and every name ends with nothing.
  test("takes *. for nothing", () => {
    expect(isExempt(HTTPS, "*.")).toBe(false);
  });

  test("does not take a zone id for a name (CVE-2025-22870)", () => {
    expect(isExempt(tcpTarget("1000::%25.example.com", 80), "example.com")).toBe(false);
    expect(isExempt(tcpTarget("fe80::1%eth0", 80), "fe80::/10")).toBe(true);
    expect(isExempt(tcpTarget("fe80::1%eth0", 80), "fe80::1")).toBe(true);
  });
});
