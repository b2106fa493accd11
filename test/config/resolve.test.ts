import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { parseWords } from "../../src/cli/args.ts";
import { ConfigFile } from "../../src/config/file.ts";
import { resolveValues, type Resolved } from "../../src/config/resolve.ts";
import { usageError } from "../../src/core/errors.ts";
import { flag, integer, list, section, text, value, type OptionSpecs } from "../../src/core/options.ts";
import { TempFolder } from "../support/process.ts";

const group = "Test";
const SPECS = {
  quiet: flag({ group, help: "a flag" }),
  port: value({ group, metavar: "N", parse: integer(1, 65535), default: "80", help: "a value" }),
  name: value({ group, metavar: "NAME", parse: text, help: "a value without default" }),
  via: list({ group, metavar: "URL", separator: " ", parse: text, help: "a list" }),
  allow: value({ group, metavar: "LIST", bare: "", parse: words, help: "may be bare" }),
  key: value({ group, metavar: "FILE", isPath: true, parse: text, help: "a file" }),
  keys: list({ group, metavar: "FILE", isPath: true, parse: text, help: "files" }),
  rule: list({
    group,
    metavar: "NAME=TEXT",
    parse: text,
    help: "a list with a section",
    section: { name: "route", entry: (v) => v.string(), read: (name, entry: string) => `${name}=${entry}` },
  }),
  token: section(group, "entries", {
    name: "token",
    entry: (v) => v.strictObject({ size: v.number() }),
    read: (name, { size }: { size: number }) => ({ name, size }),
  }),
} as const satisfies OptionSpecs;

function words(input: string): string[] {
  return input === "" ? [] : input.split(",");
}

let folder: TempFolder;
beforeAll(() => {
  folder = new TempFolder();
});
afterAll(() => folder[Symbol.dispose]());

interface Said {
  readonly line?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** The configuration file. */
  readonly file?: string;
}

async function resolved({ line = [], env = {}, file }: Said): Promise<Resolved> {
  const { given } = parseWords(line, SPECS);
  if (file === undefined) return resolveValues(SPECS, given, env);
  const path = folder.file("seikan.toml");
  writeFileSync(path, file);
  const values = await new ConfigFile({ path: path, kind: "named" }).read({ section: "connect", specs: SPECS }, env);
  return resolveValues(SPECS, given, env, values);
}

/** The value, and what it came from. */
async function valueOf(name: keyof typeof SPECS, said: Said): Promise<[unknown, string, string]> {
  const { values, sources } = await resolved(said);
  const source = sources.get(name)!;
  return [values[name], source.kind, source.name];
}

describe("flag over environment over file over default", () => {
  interface Kind {
    readonly name: keyof typeof SPECS;
    readonly line: readonly string[];
    readonly env: Readonly<Record<string, string>>;
    readonly file: string;
    /** By flag, environment, file, default. */
    readonly values: readonly [unknown, unknown, unknown, unknown];
  }
  const kinds: Record<string, Kind> = {
    "a flag": {
      name: "quiet",
      line: ["--quiet=no"],
      env: { SEIKAN_QUIET: "yes" },
      file: "quiet = true",
      values: [false, true, true, false],
    },
    "a flag that the environment takes back": {
      name: "quiet",
      line: ["--quiet"],
      env: { SEIKAN_QUIET: "0" },
      file: "quiet = true",
      values: [true, false, true, false],
    },
    "a flag that the file takes back": {
      name: "quiet",
      line: ["--quiet"],
      env: { SEIKAN_QUIET: "1" },
      file: "quiet = false",
      values: [true, true, false, false],
    },
    "a value": {
      name: "port",
      line: ["--port", "1", "--port", "2"],
      env: { SEIKAN_PORT: "3" },
      file: "port = 4",
      values: [2, 3, 4, 80],
    },
    "a value without default": {
      name: "name",
      line: ["--name", "a"],
      env: { SEIKAN_NAME: "b" },
      file: 'name = "c"',
      values: ["a", "b", "c", undefined],
    },
    "a list": {
      name: "via",
      line: ["--via", "a", "--via", "b"],
      env: { SEIKAN_VIA: "c d" },
      file: 'via = ["e", "f g"]',
      values: [["a", "b"], ["c", "d"], ["e", "f g"], []],
    },
    "a list of one": {
      name: "via",
      line: ["--via=a"],
      env: { SEIKAN_VIA: "b" },
      file: 'via = "c"',
      values: [["a"], ["b"], ["c"], []],
    },
    "what may be bare": {
      name: "allow",
      line: ["--allow=a"],
      env: { SEIKAN_ALLOW: "b,c" },
      file: 'allow = ["d", "e"]',
      values: [["a"], ["b", "c"], ["d", "e"], undefined],
    },
    "what is bare": {
      name: "allow",
      line: ["--allow"],
      env: { SEIKAN_ALLOW: "b" },
      file: "allow = true",
      values: [[], ["b"], [], undefined],
    },
    "what the file switches off": {
      name: "allow",
      line: ["--allow"],
      env: { SEIKAN_ALLOW: "b" },
      file: "allow = false",
      values: [[], ["b"], undefined, undefined],
    },
    "a list with a section": {
      name: "rule",
      line: ["--rule", "a"],
      env: { SEIKAN_RULE: "b,c" },
      file: 'rule = "d"\n[route]\ne = "f"',
      values: [["a"], ["b", "c"], ["d", "e=f"], []],
    },
  };
  for (const [what, { name, line, env, file: written, values }] of Object.entries(kinds)) {
    const file = `[connect]\n${written}\n`;
    const variable = `SEIKAN_${name.toUpperCase()}`;
    test(what, async () => {
      const [byFlag, byEnv, byFile, byDefault] = values;
      expect(await valueOf(name, { line, env, file })).toEqual([byFlag, "flag", `--${name}`]);
      expect(await valueOf(name, { line, file })).toEqual([byFlag, "flag", `--${name}`]);
      expect(await valueOf(name, { env, file })).toEqual([byEnv, "environment", variable]);
      expect(await valueOf(name, { env: { [variable]: "" }, file })).toEqual([
        byFile,
        "file",
        `${name} in seikan.toml`,
      ]);
      expect(await valueOf(name, { file })).toEqual([byFile, "file", `${name} in seikan.toml`]);
      expect(await valueOf(name, { file: "" })).toEqual([byDefault, "default", `--${name}`]);
      expect(await valueOf(name, {})).toEqual([byDefault, "default", `--${name}`]);
    });
  }
});

describe("a list of the file", () => {
  test("may be empty, and is so", async () => {
    expect(await valueOf("via", { file: "[connect]\nvia = []\n" })).toEqual([[], "file", "via in seikan.toml"]);
  });

  test("holds what stands in tables alone", async () => {
    const file = '[route]\na = "b"\nc = "d"\n';
    expect(await valueOf("rule", { file })).toEqual([["a=b", "c=d"], "file", "rule in seikan.toml"]);
  });
});

describe("entries of the file", () => {
  const file = "[token.a]\nsize = 1\n[token.b]\nsize = 2\n";
  const entries = [
    { name: "a", size: 1 },
    { name: "b", size: 2 },
  ];

  test("come from there alone", async () => {
    expect(await valueOf("token", { file })).toEqual([entries, "file", "token in seikan.toml"]);
    expect(await valueOf("token", { env: { SEIKAN_TOKEN: "x" }, file })).toEqual([
      entries,
      "file",
      "token in seikan.toml",
    ]);
    expect(await valueOf("token", { env: { SEIKAN_TOKEN: "x" } })).toEqual([[], "default", "--token"]);
    expect(() => parseWords(["--token", "x"], SPECS)).toThrow("unknown option --token");
  });
});

describe("a path", () => {
  const home = { HOME: "/home/ann" };

  test("of the file begins at its folder", async () => {
    const file = '[connect]\nkey = "a/k.pem"\nkeys = ["k.pem", "/etc/k.pem", "~/k.pem"]\n';
    const { values } = await resolved({ file, env: home });
    expect(values.key).toBe(folder.file("a/k.pem"));
    expect(values.keys).toEqual([folder.file("k.pem"), "/etc/k.pem", "/home/ann/k.pem"]);
  });

  test("of the command line and the environment stays as it is", async () => {
    const file = '[connect]\nkey = "k.pem"\n';
    expect((await resolved({ line: ["--key", "a.pem"], file })).values.key).toBe("a.pem");
    expect((await resolved({ env: { SEIKAN_KEY: "b.pem" }, file })).values.key).toBe("b.pem");
  });
});

describe("what is wrong", () => {
  test("names where it came from", async () => {
    const file = "[connect]\nport = 1\n";
    await expect(resolved({ line: ["--port", "x"], file })).rejects.toThrow("--port: expected a whole number");
    await expect(resolved({ env: { SEIKAN_PORT: "x" }, file })).rejects.toThrow("SEIKAN_PORT: expected a whole number");
    const { given } = parseWords([], SPECS);
    const values = { name: "seikan.toml", wordsOf: () => ["x"], entriesOf: () => [], writtenIn: () => "" };
    const specs = { port: value({ group, metavar: "N", parse: refuse, help: "a value" }) };
    expect(() => resolveValues(specs, given, {}, values)).toThrow("port in seikan.toml: no x");
  });

  function refuse(input: string): never {
    throw usageError(`no ${input}`);
  }

  test("in the file is told although the command line decides", async () => {
    await expect(resolved({ line: ["--port", "1"], file: "[connect]\nport = 0\n" })).rejects.toThrow("has a mistake");
  });
});

describe("the words of a value", () => {
  test("are as they were written", async () => {
    const { words: written } = await resolved({
      line: ["--via", "a", "--via", "b"],
      env: { SEIKAN_ALLOW: "b,c" },
      file: "[connect]\nquiet = true\nname = 12\n",
    });
    expect(Object.fromEntries(written)).toEqual({
      quiet: ["true"],
      port: ["80"],
      name: ["12"],
      via: ["a", "b"],
      allow: ["b,c"],
      key: undefined,
      keys: undefined,
      rule: undefined,
      token: undefined,
    });
  });
});
