import { describe, expect, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import {
  AgentTokens,
  digestOf,
  fullRights,
  hashOf,
  notGranted,
  parsePortRange,
  type AgentRights,
} from "../../src/routes/agent-tokens.ts";
import { runSeikan } from "../support/seikan.ts";

const SECRET = "skt_secret";

/** An entry of a token file; the token is SECRET unless told otherwise. */
function entry(name: string, settings = "", token = SECRET): string {
  return `[token.${name}]\nhash = "${hashOf(token)}"\n${settings}\n`;
}

function rights(settings: string): AgentRights {
  const found = new AgentTokens({ plain: [], listed: [], file: entry("laptop", settings) }).identify(SECRET);
  if (found === undefined) throw new Error("the token is not known");
  return found;
}

/** The message of a usage error. */
function usageOf(work: () => unknown): string {
  try {
    return `no error but ${Bun.inspect(work())}`;
  } catch (error) {
    if (!(error instanceof SeikanError)) throw error;
    expect(error.code).toBe("usage");
    return error.message;
  }
}

const refusalOf = (file: string) => usageOf(() => new AgentTokens({ plain: [], listed: [], file: file }));

describe("a token of a file", () => {
  test("may have any agent name and nothing else, where no more is said", () => {
    const found = rights("");
    expect(found.token).toBe("laptop");
    expect([found.agent("laptop"), found.agent("a.b_c")]).toEqual([true, true]);
    expect([found.host("web"), found.host("web.example.org"), found.host("")]).toEqual([false, false, false]);
    expect([1, 80, 5432, 65535].some((port) => found.port(port))).toBe(false);
    expect([found.isExit, found.mayShare]).toEqual([false, false]);
  });

  test("may dial and share where that is said", () => {
    expect(rights("exit = true")).toMatchObject({ isExit: true, mayShare: false });
    expect(rights("share = true")).toMatchObject({ isExit: false, mayShare: true });
  });

  const names: [patterns: string[], fits: string[], others: string[]][] = [
    [[], [], ["web", ""]],
    [["web"], ["web"], ["webs", "aweb", "web.example.org", "we", ""]],
    [["*"], ["web", "a.b.c", "*.example.org", ""], []],
    [["ci-*"], ["ci-1", "ci-", "ci-a-b"], ["ci", "xci-1", "ci-1.example.org"]],
    [["*-ci"], ["a-ci", "-ci"], ["a.b-ci", "a-ci-"]],
    [["a*z"], ["az", "a-z", "abcz"], ["a.z", "za"]],
    [["*.preview.example.org"], ["a.preview.example.org"], ["preview.example.org", "a.preview.example.com"]],
    [["*.*"], ["a.b"], ["a", "a.b.c"]],
    [["pr-*.example.org"], ["pr-7.example.org"], ["pr-7.x.example.org", "x.example.org", "pr-7.example.org.evil.test"]],
    [["a.b"], ["a.b"], ["axb", "a-b"]],
    [["Web.Example.ORG"], ["web.example.org"], ["web.example.com"]],
    [
      ["a+b", "(x)", "[ab]", "a|b", "^a$"],
      ["a+b", "(x)", "[ab]", "a|b", "^a$"],
      ["aab", "x", "a", "b"],
    ],
    [
      ["one", "two-*"],
      ["one", "two-2"],
      ["two", "one-1"],
    ],
    [[""], [""], ["a"]],
  ];
  for (const [patterns, fits, others] of names) {
    test(`with the names ${JSON.stringify(patterns)} may have them and no others`, () => {
      for (const key of ["agents", "hosts"] as const) {
        const found = rights(`${key} = ${JSON.stringify(patterns)}`);
        const may = key === "agents" ? found.agent : found.host;
        for (const name of fits) expect([key, name, may(name)]).toEqual([key, name, true]);
        for (const name of others) expect([key, name, may(name)]).toEqual([key, name, false]);
      }
    });
  }

  test("may have every host below one, and names of agents with one label more", () => {
    const { agent, host } = rights('agents = ["*.ci"]\nhosts = ["*.preview.example.org"]');
    for (const name of ["a.b.preview.example.org", "*.preview.example.org"])
      expect([name, host(name)]).toEqual([name, true]);
    expect([agent("a.ci"), agent("a.b.ci")]).toEqual([true, false]);
  });

  const ports: [list: string, fits: number[], others: number[]][] = [
    ["[]", [], [0, 1, 80]],
    ["[5432]", [5432], [5431, 5433, 543, 54_320]],
    ['["5432"]', [5432], [5431, 5433]],
    ['["20000-20100"]', [20_000, 20_050, 20_100], [19_999, 20_101]],
    ['[22, "80-80", "1000-1001"]', [22, 80, 1000, 1001], [21, 23, 79, 81, 999, 1002]],
    ['["1-65535"]', [1, 65_535], [0, 65_536]],
  ];
  for (const [list, fits, others] of ports) {
    test(`with the ports ${list} may open them and no others`, () => {
      const { port } = rights(`ports = ${list}`);
      for (const one of fits) expect([one, port(one)]).toEqual([one, true]);
      for (const one of others) expect([one, port(one)]).toEqual([one, false]);
    });
  }

  test("has no rights of another one's", () => {
    const file = `${entry("a", 'hosts = ["a"]', "first")}${entry("b", 'hosts = ["b"]\nexit = true', "second")}`;
    const tokens = new AgentTokens({ plain: [], listed: [], file: file });
    const [a, b] = [tokens.identify("first"), tokens.identify("second")];
    expect([a?.token, a?.host("a"), a?.host("b"), a?.isExit]).toEqual(["a", true, false, false]);
    expect([b?.token, b?.host("a"), b?.host("b"), b?.isExit]).toEqual(["b", false, true, true]);
  });

  test("may have any name", () => {
    for (const name of ["my laptop", 'a"b', "ü", "a.b"]) {
      const tokens = new AgentTokens({ plain: [], listed: [], file: entry(JSON.stringify(name)) });
      expect(tokens.identify(SECRET)?.token).toBe(name);
    }
  });
});

describe("a token file is refused", () => {
  const hash = hashOf(SECRET);

  for (const [what, file, path] of [
    ["with a table that is none of ours", "[tokens.a]\n", 'unknown key "tokens"'],
    ["with a key that is none of ours", entry("a", 'host = ["web"]'), 'unknown key "host" in [token.a]'],
    ["with a token that is no table", 'token = "a"', "token"],
    ["with an entry that is no table", "[token]\na = 1", "token.a"],
    ["without a hash", "[token.a]\nexit = true", "token.a.hash"],
    ["with the token itself for its hash", `[token.a]\nhash = "${SECRET}"`, "token.a.hash"],
    ["with a hash that is too short", `[token.a]\nhash = "${hash.slice(0, -1)}"`, "token.a.hash"],
    ["with a hash that is too long", `[token.a]\nhash = "${hash}0"`, "token.a.hash"],
    ["with a hash of another kind", `[token.a]\nhash = "${hash.replace("sha256", "sha1")}"`, "token.a.hash"],
    ["with a hash in upper case", `[token.a]\nhash = "${hash.toUpperCase()}"`, "token.a.hash"],
    ["with agents that are one name", entry("a", 'agents = "laptop"'), "token.a.agents"],
    ["with hosts that are numbers", entry("a", "hosts = [1]"), "token.a.hosts.0"],
    ["with a broken port", entry("a", "ports = [80.5]"), "token.a.ports.0"],
    ["with a port that is a boolean", entry("a", "ports = [80, true]"), "token.a.ports.1"],
    ["with an exit in words", entry("a", 'exit = "yes"'), "token.a.exit"],
    ["with a share that is a number", entry("a", "share = 1"), "token.a.share"],
  ] as const) {
    test(what, () => {
      expect(refusalOf(file)).toStartWith(`the token file: ${path}`);
    });
  }

  test("with a hash that is none, and told what one looks like", () => {
    expect(refusalOf('[token.a]\nhash = "x"')).toBe("the token file: token.a.hash: expected sha256: and 64 hex digits");
  });

  for (const [what, file, line] of [
    ["a line that is no TOML", `${entry("a")}\nhosts: web\n`, 5],
    ["a text without end", `[token.a]\nhash = "${hash}\n`, 2],
    ["a table twice", `${entry("a")}${entry("a")}`, 4],
    ["a key twice", `[token.a]\nexit = true\nexit = true\n`, 3],
  ] as const) {
    test(`with ${what}, and told its line`, () => {
      const message = refusalOf(file);
      expect(message).toStartWith(`the token file, line ${line}: `);
      expect(message).not.toContain("\n");
      expect(message).not.toContain(hash);
    });
  }

  for (const ports of ["[0]", "[65536]", "[-1]", '["a"]', '["2-1"]']) {
    test(`with the ports ${ports}`, () => {
      expect(refusalOf(entry("a", `ports = ${ports}`))).toStartWith("expected a port or a range ");
    });
  }
});

describe("plain tokens", () => {
  test("may everything but share", () => {
    const found = new AgentTokens({ plain: ["plain"], listed: [], file: "" }).identify("plain");
    expect(found).toMatchObject({ token: "--agent-token", isExit: true, mayShare: false });
    expect([found?.agent("any"), found?.host("a.b.c"), found?.port(1), found?.port(65_535)]).toEqual(
      Array.from({ length: 4 }, () => true),
    );
  });

  test("stand beside those of a file, which win", () => {
    const tokens = new AgentTokens({ plain: ["plain", SECRET], listed: [], file: entry("laptop") });
    expect(tokens.identify("plain")?.token).toBe("--agent-token");
    expect(tokens.identify(SECRET)?.token).toBe("laptop");
  });

  test("have the rights that an agent without a token has", () => {
    expect(fullRights("no token")).toMatchObject({ token: "no token", isExit: true, mayShare: false });
  });
});

describe("a token that is none", () => {
  const tokens = new AgentTokens({ plain: ["plain"], listed: [], file: entry("laptop") });

  for (const [what, shown] of [
    ["another", "skt_other"],
    ["a part of one", SECRET.slice(0, -1)],
    ["one in another case", SECRET.toUpperCase()],
    ["one with more behind it", `${SECRET} `],
    ["nothing", ""],
    ["the hash of one", hashOf(SECRET)],
    ["the name of one", "laptop"],
    ["the name of the option", "--agent-token"],
  ] as const) {
    test(`is not known: ${what}`, () => {
      expect(tokens.identify(shown)).toBeUndefined();
    });
  }

  test("is every one where there are none", () => {
    for (const file of ["", "# nobody yet\n", "[token]\n"])
      expect(new AgentTokens({ plain: [], listed: [], file: file }).identify("")).toBeUndefined();
  });
});

describe("tokens that are replaced", () => {
  test("are others from then on", () => {
    const tokens = new AgentTokens({ plain: ["old"], listed: [], file: entry("laptop", 'hosts = ["a"]') });
    tokens.replace({ plain: ["new"], listed: [], file: entry("laptop", 'hosts = ["b"]') });
    expect(tokens.identify("old")).toBeUndefined();
    expect(tokens.identify("new")?.token).toBe("--agent-token");
    expect([tokens.identify(SECRET)?.host("a"), tokens.identify(SECRET)?.host("b")]).toEqual([false, true]);
    tokens.replace({ plain: [], listed: [], file: "" });
    expect([tokens.identify("new"), tokens.identify(SECRET)]).toEqual([undefined, undefined]);
  });

  for (const [what, file] of [
    ["no TOML", "["],
    ["a wrong hash", '[token.a]\nhash = "x"'],
    ["a wrong key", "[token.a]\nrights = 1"],
    ["a wrong port", entry("a", "ports = [0]", "new")],
  ] as const) {
    test(`stay what they were after ${what}`, () => {
      const tokens = new AgentTokens({ plain: ["old"], listed: [], file: entry("laptop") });
      expect(usageOf(() => tokens.replace({ plain: ["new"], listed: [], file: file }))).not.toStartWith("no error");
      expect(tokens.identify("old")?.token).toBe("--agent-token");
      expect(tokens.identify(SECRET)?.token).toBe("laptop");
      expect(tokens.identify("new")).toBeUndefined();
    });
  }
});

describe("a range of ports", () => {
  for (const [text, first, last] of [
    ["1", 1, 1],
    ["65535", 65_535, 65_535],
    ["20000-20100", 20_000, 20_100],
    ["80-80", 80, 80],
    [" 80-81 ", 80, 81],
    ["00080", 80, 80],
  ] as const) {
    test(`is ${JSON.stringify(text)}`, () => {
      expect(parsePortRange(text)).toEqual({ first, last });
    });
  }

  for (const text of [
    ...["", "0", "65536", "99999", "0-80", "80-65536", "81-80", "80-", "-80", "80-81-82", "80 - 81", "80,81"],
    ...["+80", "8e1", "0x50", "80.0", "http", "*", "１"],
  ]) {
    test(`is not ${JSON.stringify(text)}`, () => {
      expect(usageOf(() => parsePortRange(text))).toBe(`expected a port or a range such as 20000-20100, got "${text}"`);
    });
  }
});

describe("the hash of a token", () => {
  test("is SHA-256 in hex, behind its name", () => {
    expect(hashOf(SECRET)).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(hashOf("")).toBe("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect(Buffer.from(digestOf("abc")).toString("hex")).toBe(
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    );
  });

  test("is what seikan token prints", async () => {
    const { code, stdout } = await runSeikan(["token", "--json"]);
    const { token, hash } = JSON.parse(stdout) as { token: string; hash: string };
    expect(code).toBe(0);
    expect(token).toMatch(/^skt_[A-Za-z0-9_-]{43}$/);
    expect(hash).toBe(hashOf(token));
  });

  for (const name of ["laptop", 'my "laptop"']) {
    test(`is in an entry that a token file takes, for ${name}`, async () => {
      const { stdout } = await runSeikan(["token", name]);
      const [token = "", ...file] = stdout.split("\n");
      const found = new AgentTokens({ plain: [], listed: [], file: file.join("\n") }).identify(token);
      expect(found).toMatchObject({ token: name, isExit: false, mayShare: false });
      expect([found?.agent("laptop"), found?.host("web"), found?.port(5432)]).toEqual([true, true, false]);
    });
  }

  test("belongs to another token each time", async () => {
    const runs = await Promise.all([runSeikan(["token"]), runSeikan(["token"])]);
    expect(new Set(runs.map(({ stdout }) => stdout.split("\n")[0])).size).toBe(2);
  });
});

test("what a token does not permit is said with its name", () => {
  const error = notGranted(rights(""), "port 80");
  expect([error.code, error.outcome.status, error.message]).toEqual([
    "not-granted",
    403,
    "the token laptop does not permit port 80",
  ]);
});
