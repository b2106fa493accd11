import { describe, expect, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import { choice, duration, flag, integer, list, parseBoolean, size, text, value } from "../../src/core/options.ts";

function refusal(work: () => unknown): SeikanError {
  try {
    const result = work();
    throw new Error(`taken as ${JSON.stringify(result)}`);
  } catch (error) {
    if (error instanceof SeikanError && error.code === "usage") return error;
    throw error;
  }
}

describe("a duration", () => {
  const good: [string, number][] = [
    ["0", 0],
    ["500ms", 500],
    ["10s", 10_000],
    ["5m", 300_000],
    ["1h", 3_600_000],
    ["2d", 172_800_000],
    ["1m30s", 90_000],
    ["1h2m3s4ms", 3_723_004],
    ["1.5s", 1500],
    ["0s", 0],
  ];
  for (const [input, ms] of good) test(`may be ${input}`, () => expect(duration(input)).toBe(ms));

  for (const input of [
    "",
    "10",
    "00",
    "1",
    "s",
    "10 s",
    " 10s",
    "10s ",
    "-1s",
    "+1s",
    "1e3s",
    ".5s",
    "1.s",
    "10S",
    "10sec",
    "10s5",
    "5x",
    "1,5s",
    "٣s",
  ]) {
    test(`is not ${JSON.stringify(input)}`, () => expect(refusal(() => duration(input)).outcome.exit).toBe(2));
  }

  test("without a unit is refused with a suggestion", () => {
    expect(refusal(() => duration("10")).hints.join()).toContain("10s");
  });
});

describe("a size", () => {
  const good: [string, number][] = [
    ["0", 0],
    ["1B", 1],
    ["64KiB", 65_536],
    ["64kib", 65_536],
    ["10MB", 10_000_000],
    ["10MiB", 10_485_760],
    ["1GB", 1_000_000_000],
    ["1GiB", 1_073_741_824],
    ["1.5KiB", 1536],
    ["0.3B", 0],
  ];
  for (const [input, bytes] of good) test(`may be ${input}`, () => expect(size(input)).toBe(bytes));

  for (const input of ["", "64", "KiB", "64K", "64M", "64 KiB", "-1B", "64iB", "64TiB", "1e3B", "0x10B", "64KiBs"]) {
    test(`is not ${JSON.stringify(input)}`, () => expect(refusal(() => size(input)).outcome.exit).toBe(2));
  }

  test("without a unit is refused with a suggestion", () => {
    expect(refusal(() => size("64")).hints.join()).toContain("64KiB");
  });
});

test("a flag's value is yes or no in several words", () => {
  for (const word of ["1", "true", "YES", "On"]) expect(parseBoolean(word)).toBe(true);
  for (const word of ["0", "false", "No", "off"]) expect(parseBoolean(word)).toBe(false);
  for (const word of ["", "2", "y", "ja"]) refusal(() => parseBoolean(word));
});

test("a whole number stays within its bounds", () => {
  const parse = integer(1, 100);
  expect([parse("1"), parse("100"), parse("007")]).toEqual([1, 100, 7]);
  for (const input of ["0", "101", "-1", "1.0", "1e1", "0x1", "", " 1", "99999999999999999999"])
    refusal(() => parse(input));
});

test("a choice is one of its words, exactly", () => {
  const parse = choice("auto", "json");
  expect(parse("json")).toBe("json");
  for (const input of ["", "JSON", "js", "auto "]) refusal(() => parse(input));
});

test("a text is not empty", () => {
  expect(text(" a ")).toBe(" a ");
  refusal(() => text(""));
});

test("an option is what it was made as", () => {
  const common = { group: "g", help: "h" };
  expect(flag(common).kind).toBe("flag");
  expect(value({ ...common, metavar: "X", parse: text }).kind).toBe("value");
  expect(list({ ...common, metavar: "X", parse: text }).kind).toBe("list");
  expect(flag(common).parse("yes")).toBe(true);
});
