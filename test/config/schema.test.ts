import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import type { GenericSchema } from "valibot";
import { check, optionsSchema, sectionSchema, unknownKey } from "../../src/config/schema.ts";
import {
  choice,
  duration,
  flag,
  integer,
  list,
  section,
  text,
  value,
  type OptionSpecs,
} from "../../src/core/options.ts";

const group = "Test";
const SPECS = {
  quiet: flag({ group, help: "a flag" }),
  port: value({ group, metavar: "N", parse: integer(1, 65535), help: "a number" }),
  "idle-time": value({ group, metavar: "TIME", parse: duration, help: "a time" }),
  mode: value({ group, metavar: "MODE", parse: choice("a", "b"), help: "a choice" }),
  name: value({ group, metavar: "NAME", parse: text, help: "a text" }),
  listen: list({ group, metavar: "ADDR", parse: text, help: "a list" }),
  wait: list({ group, metavar: "TIME", parse: duration, help: "a list of times" }),
  auth: list({ group, metavar: "USER:PASS", secret: true, parse: text, help: "a secret list" }),
  allow: value({ group, metavar: "LIST", bare: "", parse: words, help: "may be bare" }),
  entry: section(group, "entries", { name: "entry", entry: () => v.string(), read: (name) => name }),
} as const satisfies OptionSpecs;

/** Words of letters, with commas. */
function words(input: string): string[] {
  const all = input === "" ? [] : input.split(",");
  for (const word of all) choice("a", "b", "c")(word);
  return all;
}

/** What is wrong: `PATH: message`, with `(key)` where the key is meant and `? hint` behind. */
function wrong(schema: GenericSchema, input: unknown, ...above: string[]): string[] {
  return check(schema, input, above).findings.map(
    ({ path, isKey, message, hint }) =>
      `${path.join(".")}${isKey ? " (key)" : ""}: ${message}${hint === undefined ? "" : ` ? ${hint}`}`,
  );
}

const wrongOptions = (input: unknown) => wrong(optionsSchema(SPECS), input, "serve");

describe("a section of options", () => {
  const right: [input: unknown, value: Record<string, unknown>][] = [
    [{}, {}],
    [{ quiet: true }, { quiet: true }],
    [{ port: 80 }, { port: 80 }],
    [{ port: "80" }, { port: "80" }],
    [{ listen: "a" }, { listen: "a" }],
    [{ listen: 8080 }, { listen: 8080 }],
    [{ listen: ["a", 8080] }, { listen: ["a", 8080] }],
    [{ listen: [] }, { listen: [] }],
    [{ allow: true }, { allow: true }],
    [{ allow: false }, { allow: false }],
    [{ allow: "a,b" }, { allow: "a,b" }],
    [{ allow: ["a", "b"] }, { allow: ["a", "b"] }],
    [{ "idle-time": "1m" }, { "idle-time": "1m" }],
    [{ idle_time: "1m" }, { "idle-time": "1m" }],
  ];
  for (const [input, expected] of right) {
    test(`may be ${JSON.stringify(input)}`, () => {
      expect(check(optionsSchema(SPECS), input, ["serve"])).toEqual({ value: expected, findings: [] });
    });
  }

  const refused: [input: unknown, findings: string[]][] = [
    [{ quiet: "yes" }, ['serve.quiet: quiet: expected true or false, got "yes"']],
    [{ quiet: 1 }, ["serve.quiet: quiet: expected true or false, got 1"]],
    [{ port: true }, ["serve.port: port: expected a text, got true"]],
    [{ port: [80] }, ["serve.port: port: expected a text, got a list"]],
    [{ port: 0 }, ['serve.port: port: expected a whole number from 1 to 65535, got "0"']],
    [{ port: 80.5 }, ['serve.port: port: expected a whole number from 1 to 65535, got "80.5"']],
    [{ name: {} }, ["serve.name: name: expected a text, got a table"]],
    [{ name: new Date(0) }, ["serve.name: name: expected a text, got a date"]],
    [{ name: "" }, ["serve.name: name: expected a value, got an empty one"]],
    [{ mode: "c" }, ['serve.mode: mode: expected a, b, got "c"']],
    [
      { "idle-time": 10 },
      [
        'serve.idle-time: idle-time: expected a duration such as 500ms, 10s, 5m or 1h, got "10"; did you mean 10s or 10ms?',
      ],
    ],
    [{ listen: true }, ["serve.listen: listen: expected a text or a list of texts, got true"]],
    [{ listen: {} }, ["serve.listen: listen: expected a text or a list of texts, got a table"]],
    [{ listen: new Date(0) }, ["serve.listen: listen: expected a text or a list of texts, got a date"]],
    [
      { listen: ["a", true, "b", {}] },
      ["serve.listen.1: listen: expected a text, got true", "serve.listen.3: listen: expected a text, got a table"],
    ],
    [{ listen: [["a"]] }, ["serve.listen.0: listen: expected a text, got a list"]],
    [
      { wait: ["1s", "x", "2s", "y"] },
      [
        'serve.wait.1: wait: expected a duration such as 500ms, 10s, 5m or 1h, got "x"',
        'serve.wait.3: wait: expected a duration such as 500ms, 10s, 5m or 1h, got "y"',
      ],
    ],
    [{ allow: "a,x" }, ['serve.allow: allow: expected a, b, c, got "x"']],
    [{ allow: new Date(0) }, ["serve.allow: allow: expected a text or a list of texts, got a date"]],
    [{ allow: ["a", 1] }, ["serve.allow.1: allow: expected a text, got 1"]],
    [true, ["serve: serve: expected a table, got true"]],
    ["x", ["serve: serve: expected a table"]],
    [
      { entry: {} },
      [
        "serve.entry (key): unknown key `entry` ? known are quiet, port, idle-time, mode, name, listen, wait, auth, allow",
      ],
    ],
  ];
  for (const [input, findings] of refused) {
    test(`may not be ${JSON.stringify(input)}`, () => {
      expect(wrongOptions(input)).toEqual(findings);
      expect(check(optionsSchema(SPECS), input, ["serve"]).value).toBeUndefined();
    });
  }

  test("is a table and no list of tables", () => {
    expect(wrongOptions([{ quiet: true }])).toEqual(["serve: serve: expected a table, got a list"]);
  });

  test("has a wrong entry of a list that may be bare where it is", () => {
    expect(wrongOptions({ allow: ["a", "x", "b"] })).toEqual(['serve.allow.1: allow: expected a, b, c, got "x"']);
  });

  const misspelt: [key: string, hint: string][] = [
    ["quite", "did you mean `quiet`?"],
    ["prt", "did you mean `port`?"],
    ["idle-tme", "did you mean `idle-time`?"],
    ["listne", "did you mean `listen`?"],
    ["frobnicate", "known are quiet, port, idle-time, mode, name, listen, wait, auth, allow"],
    ["toString", "known are quiet, port, idle-time, mode, name, listen, wait, auth, allow"],
    ["Quiet", "did you mean `quiet`?"],
  ];
  for (const [key, hint] of misspelt) {
    test(`knows no ${key}: ${hint}`, () => {
      expect(wrongOptions({ [key]: 1 })).toEqual([`serve.${key} (key): unknown key \`${key}\` ? ${hint}`]);
    });
  }

  test("is told everything that is wrong at once", () => {
    expect(wrongOptions({ prot: 1, port: 0, quiet: 1, listen: [1, true], mdoe: "a", name: "ok" })).toEqual([
      "serve.prot (key): unknown key `prot` ? did you mean `port`?",
      "serve.mdoe (key): unknown key `mdoe` ? did you mean `mode`?",
      "serve.quiet: quiet: expected true or false, got 1",
      'serve.port: port: expected a whole number from 1 to 65535, got "0"',
      "serve.listen.1: listen: expected a text, got true",
    ]);
  });

  test("takes a key once, however it is spelt", () => {
    expect(wrongOptions({ "idle-time": "1s", idle_time: "2s" })).toEqual([
      "serve.idle_time (key): idle-time is there twice",
    ]);
    expect(wrongOptions({ idle_time: "1s", "idle-time": "2s" })).toEqual([
      "serve.idle-time (key): idle-time is there twice",
    ]);
  });

  test("never says what a secret is", () => {
    expect(wrongOptions({ auth: ["ann:s3cret", true] })).toEqual(["serve.auth.1: auth: expected a text"]);
    expect(wrongOptions({ auth: { ann: "s3cret" } })).toEqual(["serve.auth: auth: expected a text or a list of texts"]);
    expect(wrongOptions({ auth: new Date(0) })).toEqual(["serve.auth: auth: expected a text or a list of texts"]);
  });
});

describe("a section of entries", () => {
  const Entry = v.strictObject({
    command: v.optional(v.union([v.string(), v.array(v.string())], "expected a command")),
    port: v.number(),
    "ready-when": v.optional(v.union([v.string(), v.strictObject({ http: v.string() })], "expected a text or http")),
    env: v.optional(v.record(v.string(), v.string())),
    steps: v.optional(v.array(v.strictObject({ run: v.string(), "max-time": v.optional(v.string()) }))),
    check: v.optional(v.pipe(v.strictObject({ "in-time": v.string() }), v.description("piped"))),
  });
  const wrongEntries = (input: unknown) => wrong(sectionSchema(Entry), input, "service");

  test("may have any names", () => {
    const input = { web: { port: 1 }, "a b": { port: 2, command: ["x"] } };
    expect(check(sectionSchema(Entry), input, ["service"])).toEqual({ value: input, findings: [] });
  });

  test("has its keys spelt as the schema does, at every depth", () => {
    const input = {
      my_web: { port: 1, ready_when: { http: "/" }, steps: [{ run: "x", max_time: "1s" }], check: { in_time: "x" } },
    };
    expect(check(sectionSchema(Entry), input, ["service"]).value).toEqual({
      my_web: {
        port: 1,
        "ready-when": { http: "/" },
        steps: [{ run: "x", "max-time": "1s" }],
        check: { "in-time": "x" },
      },
    });
  });

  test("keeps the keys of a table of anything as they are", () => {
    const input = { web: { port: 1, env: { A_B: "1", "a-b": "2" } } };
    expect(check(sectionSchema(Entry), input, ["service"]).value).toEqual(input);
  });

  const refused: [what: string, input: unknown, findings: string[]][] = [
    ["a missing key", { web: {} }, ["service.web.port (key): port is missing"]],
    ["an entry that is no table", { web: 3 }, ["service.web: web: expected a table, got 3"]],
    ["a section that is no table", 3, ["service: service: expected a table, got 3"]],
    [
      "an unknown key",
      { web: { port: 1, comand: "x" } },
      ["service.web.comand (key): unknown key `comand` ? did you mean `command`?"],
    ],
    [
      "an unknown key of a list's table",
      { web: { port: 1, steps: [{ run: "x" }, { run: "x", max_tiem: "1s" }] } },
      ["service.web.steps.1.max_tiem (key): unknown key `max_tiem` ? did you mean `max-time`?"],
    ],
    [
      "an unknown key of a table that is checked further",
      { web: { port: 1, check: { in_tiem: "x", "in-time": "x" } } },
      ["service.web.check.in_tiem (key): unknown key `in_tiem` ? did you mean `in-time`?"],
    ],
    [
      "a wrong value deep down",
      { web: { port: 1, env: { A: 1 } }, db: { port: 1, steps: [{ run: 1 }] } },
      ["service.web.env.A: A: expected a text", "service.db.steps.0.run: run: expected a text, got 1"],
    ],
    [
      "no form of several",
      { web: { port: 1, command: true } },
      ["service.web.command: command: expected a command, got true"],
    ],
    [
      "one form of several that is wrong inside",
      { web: { port: 1, command: ["x", 1] } },
      ["service.web.command.1: command: expected a text, got 1"],
    ],
    [
      "an entry's key twice",
      { web: { port: 1, ready_when: { http: "/" }, "ready-when": { http: "/" } } },
      ["service.web.ready-when (key): ready-when is there twice"],
    ],
  ];
  for (const [what, input, findings] of refused) {
    test(`may not have ${what}`, () => expect(wrongEntries(input)).toEqual(findings));
  }

  test("is a table and no list of tables", () => {
    expect(wrongEntries([{ port: 1 }])).toEqual(["service: service: expected a table, got a list"]);
  });
});

describe("an unknown name", () => {
  test("comes with the one that was meant, or all", () => {
    expect(unknownKey(["srve"], ["connect", "serve"], "section")).toEqual({
      path: ["srve"],
      isKey: true,
      message: "unknown section `srve`",
      hint: "did you mean `serve`?",
    });
    expect(unknownKey(["a", 0, "x"], ["one", "two"])).toEqual({
      path: ["a", 0, "x"],
      isKey: true,
      message: "unknown key `x`",
      hint: "known are one, two",
    });
  });
});
