import { describe, expect, test } from "bun:test";
import { suggest } from "../../src/core/suggest.ts";

const NAMES = [
  "connect",
  "serve",
  "connect-timeout",
  "via",
  "proxy-auth",
  "proxy-auth-file",
  "log-level",
  "log-format",
];

describe("a suggestion", () => {
  const table: [word: string, candidate: string | undefined][] = [
    ["conect", "connect"],
    ["connnect", "connect"],
    ["conenct", "connect"],
    ["cannect", "connect"],
    ["srve", "serve"],
    ["servers", "serve"],
    ["vai", "via"],
    ["vi", "via"],
    ["v", undefined],
    ["x", undefined],
    ["", undefined],
    ["log-leve", "log-level"],
    ["log-f", "log-format"],
    ["log", undefined],
    ["proxy-auth-fil", "proxy-auth-file"],
    ["connect-timout", "connect-timeout"],
    ["frobnicate", undefined],
    ["toString", undefined],
  ];
  for (const [word, candidate] of table) {
    test(`for ${JSON.stringify(word)} is ${candidate ?? "none"}`, () => expect(suggest(word, NAMES)).toBe(candidate));
  }

  test("is the word itself when there is one such", () => {
    for (const name of NAMES) expect(suggest(name, [name])).toBe(name);
  });

  test("needs candidates", () => {
    expect(suggest("connect", [])).toBeUndefined();
  });
});
