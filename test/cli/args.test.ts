import { describe, expect, test } from "bun:test";
import { parseWords, splitTail } from "../../src/cli/args.ts";
import { resolveValues, variableOf } from "../../src/config/resolve.ts";
import { GLOBAL_OPTIONS, REACH_OPTIONS } from "../../src/commands/command.ts";
import { SeikanError } from "../../src/core/errors.ts";
import { choice, duration, flag, integer, list, text, value, type OptionSpecs } from "../../src/core/options.ts";

const group = "Test";
const SPECS = {
  port: value({ group, metavar: "N", short: "p", parse: integer(0, 65535), default: "80", help: "a value" }),
  name: value({ group, metavar: "NAME", short: "n", parse: text, help: "a value without default" }),
  wait: value({ group, metavar: "TIME", parse: duration, help: "a time" }),
  mode: value({ group, metavar: "MODE", parse: choice("a", "b"), help: "a choice" }),
  via: list({ group, metavar: "URL", short: "x", parse: text, separator: " ", help: "a list" }),
  tag: list({ group, metavar: "TAG", parse: text, help: "another list" }),
  allow: list({ group, metavar: "NET", bare: "*", parse: text, help: "a list that may be bare" }),
  quiet: flag({ group, short: "q", help: "a flag" }),
  verbose: flag({ group, short: "v", help: "another flag" }),
  "no-auth": flag({ group, help: "a flag that begins with no" }),
} as const satisfies OptionSpecs;

type Env = Record<string, string>;

function values(words: readonly string[], env: Env = {}): Record<string, unknown> {
  return resolveValues(SPECS, parseWords(words, SPECS).given, env).values;
}

function positionals(...words: string[]): string[] {
  return parseWords(words, SPECS).positionals.map(({ text: word }) => word);
}

function refusal(words: readonly string[], env: Env = {}): SeikanError {
  try {
    const found = values(words, env);
    throw new Error(`taken as ${JSON.stringify(found)}`);
  } catch (error) {
    if (error instanceof SeikanError && error.code === "usage") return error;
    throw error;
  }
}

describe("a command line", () => {
  test("is split at the first --", () => {
    expect(splitTail(["a", "--", "b", "--", "c"])).toEqual({ words: ["a"], tail: ["b", "--", "c"] });
    expect(splitTail(["a"])).toEqual({ words: ["a"], tail: undefined });
    expect(splitTail(["--"])).toEqual({ words: [], tail: [] });
  });

  const given: [words: string[], name: keyof typeof SPECS, expected: unknown][] = [
    [[], "port", 80],
    [[], "name", undefined],
    [[], "via", []],
    [[], "quiet", false],
    [["--port", "1"], "port", 1],
    [["--port=1"], "port", 1],
    [["-p", "1"], "port", 1],
    [["-p1"], "port", 1],
    [["--port", "1", "--port", "2"], "port", 2],
    [["--name", "-5"], "name", "-5"],
    [["--name", "-"], "name", "-"],
    [["--name=-x"], "name", "-x"],
    [["--name=--long"], "name", "--long"],
    [["--name=a=b"], "name", "a=b"],
    [["--name", "a b"], "name", "a b"],
    [["--wait", "1m30s"], "wait", 90_000],
    [["--via", "a", "--via=b", "-x", "c"], "via", ["a", "b", "c"]],
    [["--via", "a b"], "via", ["a b"]],
    [["--tag", "a,b"], "tag", ["a,b"]],
    [["--allow"], "allow", ["*"]],
    [["--allow=10.0.0.0/8", "--allow"], "allow", ["10.0.0.0/8", "*"]],
    [["--quiet"], "quiet", true],
    [["-q"], "quiet", true],
    [["--quiet=false"], "quiet", false],
    [["--quiet=yes"], "quiet", true],
    [["--quiet", "--quiet=no"], "quiet", false],
    [["--no-auth"], "no-auth", true],
  ];
  for (const [words, name, expected] of given) {
    test(`${JSON.stringify(words)} gives ${name} the value ${JSON.stringify(expected)}`, () => {
      expect(values(words)[name]).toEqual(expected);
    });
  }

  test("may join short flags", () => {
    expect(values(["-qv"])).toMatchObject({ quiet: true, verbose: true });
    expect(values(["-qp1"])).toMatchObject({ quiet: true, port: 1 });
  });

  test("has positionals anywhere, with their place", () => {
    expect(positionals("a", "--port", "1", "b", "-q", "c", "--allow", "d")).toEqual(["a", "b", "c", "d"]);
    expect(parseWords(["--port", "1", "b"], SPECS).positionals).toEqual([{ text: "b", index: 2 }]);
    expect(positionals("-", "")).toEqual(["-", ""]);
  });

  for (const words of [["--prot", "1"], ["--ports=1"], ["-z"], ["--no-quiet"], ["--=x"], ["-qz"]]) {
    test(`is refused with the unknown option ${words.join(" ")}`, () => {
      expect(refusal(words).outcome.exit).toBe(2);
    });
  }

  test("is refused with a suggestion where an option is misspelt", () => {
    expect(refusal(["--prot", "1"]).hints.join()).toContain("--port");
    expect(refusal(["--nmae=x"]).hints.join()).toContain("--name");
  });

  // `specs[name]` finds what every object has: the option is taken and ignored.
  for (const word of ["--constructor=x", "--toString=x", "--hasOwnProperty=x"]) {
    test(`is refused with the unknown option ${word}`, () => {
      expect(refusal([word]).message).toContain("unknown option");
    });
  }

  for (const words of [
    ["--port"],
    ["-p"],
    ["--name", "--quiet"],
    ["--name", "-q"],
    ["--port", "--name", "x"],
    ["-p=1"],
    ["--via"],
  ]) {
    test(`is refused without a value: ${words.join(" ")}`, () => {
      expect(refusal(words).outcome.exit).toBe(2);
    });
  }

  for (const words of [
    ["--port", "x"],
    ["--port="],
    ["--name="],
    ["--wait", "10"],
    ["--mode", "c"],
    ["--quiet=maybe"],
    ["--port", "65536"],
  ]) {
    test(`is refused with a wrong value, and names the option: ${words.join(" ")}`, () => {
      expect(refusal(words).message).toContain(words[0]!.split("=")[0]!);
    });
  }

  test("keeps the hints of a value's parser", () => {
    expect(refusal(["--wait", "10"]).hints.join()).toContain("10s");
  });
});

describe("the environment", () => {
  test("has a variable for each option", () => {
    expect([variableOf("port"), variableOf("connect-timeout")]).toEqual(["SEIKAN_PORT", "SEIKAN_CONNECT_TIMEOUT"]);
  });

  const fromEnv: [env: Env, name: keyof typeof SPECS, expected: unknown][] = [
    [{ SEIKAN_PORT: "1" }, "port", 1],
    [{ SEIKAN_PORT: "" }, "port", 80],
    [{ SEIKAN_NAME: "" }, "name", undefined],
    [{ SEIKAN_QUIET: "1" }, "quiet", true],
    [{ SEIKAN_QUIET: "no" }, "quiet", false],
    [{ SEIKAN_NO_AUTH: "true" }, "no-auth", true],
    [{ SEIKAN_VIA: "a  b" }, "via", ["a", "b"]],
    [{ SEIKAN_VIA: "a,b" }, "via", ["a,b"]],
    [{ SEIKAN_TAG: "a, b,,c" }, "tag", ["a", "b", "c"]],
    [{ SEIKAN_NAME: "-x" }, "name", "-x"],
  ];
  for (const [env, name, expected] of fromEnv) {
    test(`${JSON.stringify(env)} gives ${name} the value ${JSON.stringify(expected)}`, () => {
      expect(values([], env)[name]).toEqual(expected);
    });
  }

  test("stands back behind the command line, as a whole", () => {
    expect(
      values(["--port", "2", "--via", "c", "--quiet=no"], { SEIKAN_PORT: "1", SEIKAN_VIA: "a b", SEIKAN_QUIET: "1" }),
    ).toMatchObject({
      port: 2,
      via: ["c"],
      quiet: false,
    });
  });

  test("is named where its value is wrong", () => {
    expect(refusal([], { SEIKAN_PORT: "x" }).message).toContain("SEIKAN_PORT");
    expect(refusal([], { SEIKAN_QUIET: "x" }).message).toContain("SEIKAN_QUIET");
  });

  test("is not looked at where the command line decides, wrong or not", () => {
    expect(values(["--port", "1"], { SEIKAN_PORT: "x" }).port).toBe(1);
  });
});

describe("the options of the commands", () => {
  const all = Object.entries({ ...REACH_OPTIONS, ...GLOBAL_OPTIONS } as OptionSpecs);

  test("have defaults that parse, and help", () => {
    for (const [name, spec] of all) {
      expect([name, spec.help.length > 0, spec.group.length > 0]).toEqual([name, true, true]);
      if (spec.default !== undefined) expect(() => spec.parse(spec.default!)).not.toThrow();
      if (spec.bare !== undefined) expect(() => spec.parse(spec.bare!)).not.toThrow();
      if (spec.kind !== "flag") expect([name, typeof spec.metavar]).toEqual([name, "string"]);
    }
  });

  test("have short names of one letter, each used once", () => {
    const shorts = all.flatMap(([, spec]) => spec.short ?? []);
    for (const short of shorts) expect(short).toMatch(/^[A-Za-z0-9]$/);
    expect(new Set(shorts).size).toBe(shorts.length);
  });
});
