import { describe, expect, test } from "bun:test";
import { parseAuthority, parseIp } from "../../src/core/address.ts";
import { SeikanError } from "../../src/core/errors.ts";
import { matches, parsePattern, specificity } from "../../src/core/pattern.ts";

function speaksOf(pattern: string, authority: string, address?: string): boolean {
  const target = parseAuthority(authority)!;
  return address === undefined
    ? matches(parsePattern(pattern), target)
    : matches(parsePattern(pattern), target, parseIp(address));
}

describe("a pattern", () => {
  const table: [pattern: string, yes: string[], no: string[]][] = [
    ["a.test", ["a.test:1", "A.TEST:2"], ["b.a.test:1", "xa.test:1", "test:1"]],
    ["A.Test.", ["a.test:1"], ["b.test:1"]],
    ["*.a.test", ["b.a.test:1", "c.b.a.test:1"], ["a.test:1", "ba.test:1"]],
    [".a.test", ["b.a.test:1"], ["a.test:1"]],
    ["a.test:443", ["a.test:443"], ["a.test:80", "b.a.test:443"]],
    ["*.a.test:443", ["b.a.test:443"], ["b.a.test:80"]],
    ["*:443", ["a.test:443", "10.0.0.1:443", "[::1]:443"], ["a.test:444"]],
    ["bücher.test", ["xn--bcher-kva.test:1"], ["bucher.test:1"]],
    ["10.0.0.1", ["10.0.0.1:1", "[::ffff:10.0.0.1]:1"], ["10.0.0.2:1", "a.test:1"]],
    ["10.0.0.1:80", ["10.0.0.1:80"], ["10.0.0.1:81"]],
    ["10.0.0.0/8", ["10.9.9.9:1"], ["11.0.0.1:1", "a.test:1", "[::1]:1"]],
    ["10.0.0.0/8:80", ["10.9.9.9:80"], ["10.9.9.9:81"]],
    ["127.1", ["127.0.0.1:1"], ["127.0.0.2:1"]],
    ["::1", ["[::1]:1"], ["[::2]:1", "127.0.0.1:1"]],
    ["[::1]", ["[::1]:1"], ["[::2]:1"]],
    ["[::1]:80", ["[::1]:80"], ["[::1]:81"]],
    ["fc00::/7", ["[fd00::1]:1"], ["[fe80::1]:1"]],
    ["[fc00::]/7:443", ["[fd00::1]:443"], ["[fd00::1]:80"]],
    ["0.0.0.0/0", ["8.8.8.8:1"], ["[::1]:1", "a.test:1"]],
  ];
  for (const [pattern, yes, no] of table) {
    test(`${pattern} speaks of what it says`, () => {
      for (const target of yes) expect([target, speaksOf(pattern, target)]).toEqual([target, true]);
      for (const target of no) expect([target, speaksOf(pattern, target)]).toEqual([target, false]);
    });
  }

  test("with an address speaks of a name that stands for it", () => {
    expect(speaksOf("10.0.0.0/8", "a.test:1", "10.1.1.1")).toBe(true);
    expect(speaksOf("10.0.0.0/8", "a.test:1", "11.1.1.1")).toBe(false);
    expect(speaksOf("a.test", "a.test:1", "10.1.1.1")).toBe(true);
  });

  // The expression for bare IPv6 also fits `:443` and names of hex digits.
  for (const [pattern, target] of [
    [":443", "a.test:443"],
    ["db:5432", "db:5432"],
    ["cafe:80", "cafe:80"],
    ["face:443", "face:443"],
  ] as const) {
    test(`may be ${pattern}`, () => {
      expect(speaksOf(pattern, target)).toBe(true);
      expect(speaksOf(pattern, "other.test:1")).toBe(false);
    });
  }

  for (const text of [
    "",
    "*",
    ":",
    "a:0",
    "a:65536",
    "a:b",
    "a b",
    "*.",
    "**.a",
    "a.*.b",
    "*a.test",
    "10.0.0.0/33",
    "10.0.0.0/x",
    "[::1",
    "http://a",
    "a/8",
    "a,b",
  ]) {
    test(`is not ${JSON.stringify(text)}`, () => {
      expect(() => parsePattern(text)).toThrow(SeikanError);
    });
  }
});

test("the more specific pattern ranks first: by kind, then length, then port", () => {
  const ranked = [
    "a.test:443",
    "a.test",
    "10.0.0.1:80",
    "10.0.0.1",
    "10.0.0.0/24",
    "10.0.0.0/8",
    "*.b.a.test",
    "*.a.test:80",
    "*.a.test",
    "*:443",
  ];
  const sorted = ranked.toReversed().toSorted((a, b) => specificity(parsePattern(b)) - specificity(parsePattern(a)));
  expect(sorted).toEqual(ranked);
});
