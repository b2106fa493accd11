import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { AGENT_OPTIONS } from "../../src/commands/agent-options.ts";
import { GLOBAL_OPTIONS } from "../../src/commands/command.ts";
import { CONNECT_OPTIONS } from "../../src/commands/connect-options.ts";
import { SERVE_OPTIONS } from "../../src/commands/serve-options.ts";
import { ConfigFile, SECTIONS, type FileReader, type FileValues } from "../../src/config/file.ts";
import { SeikanError } from "../../src/core/errors.ts";
import { TempFolder } from "../support/process.ts";

let folder: TempFolder;
beforeAll(() => {
  folder = new TempFolder();
});
afterAll(() => folder[Symbol.dispose]());

const CONNECT: FileReader = { section: "connect", specs: { ...CONNECT_OPTIONS, ...GLOBAL_OPTIONS } };
const SERVE: FileReader = { section: "serve", specs: { ...SERVE_OPTIONS, ...GLOBAL_OPTIONS } };
const AGENT: FileReader = { section: "agent", specs: { ...AGENT_OPTIONS, ...GLOBAL_OPTIONS } };
const ENV = { HOME: "/home/ann" };
const HASH = `sha256:${"0".repeat(64)}`;

function configFile(text: string): ConfigFile {
  const path = folder.file("seikan.toml");
  writeFileSync(path, text);
  return new ConfigFile({ path: path, kind: "named" });
}

const read = (text: string, reader = SERVE): Promise<FileValues> => configFile(text).read(reader, ENV);

/** What it is refused with; by `check` for all commands unless one of them reads it. */
async function refusal(text: string, reader?: FileReader): Promise<SeikanError> {
  try {
    const file = configFile(text);
    await (reader === undefined ? file.check([CONNECT, SERVE, AGENT], ENV) : file.read(reader, ENV));
  } catch (thrown) {
    if (thrown instanceof SeikanError) return thrown;
    throw thrown;
  }
  throw new Error(`taken: ${text}`);
}

/** `LINE:COLUMN message` of each mistake. */
async function mistakes(text: string, reader?: FileReader): Promise<string[]> {
  const { mistakes: all } = await refusal(text, reader);
  return all.map(({ line, column, message }) => `${line}:${column} ${message}`);
}

describe("what a file says", () => {
  const words: [line: string, option: string, expected: string[]][] = [
    ['listen = "8080"', "listen", ["8080"]],
    ["listen = 8080", "listen", ["8080"]],
    ['listen = ["8080", 9090]', "listen", ["8080", "9090"]],
    ["listen = []", "listen", []],
    ['max-connections = "7"', "max-connections", ["7"]],
    ["max-connections = 1_000", "max-connections", ["1000"]],
    ["max_connections = 7", "max-connections", ["7"]],
    ["quiet = true", "quiet", ["true"]],
    ["quiet = false", "quiet", ["false"]],
    ["no_auth = true", "no-auth", ["true"]],
    ["allow-net = true", "allow-net", [""]],
    ["allow-net = false", "allow-net", []],
    ['allow-net = "a.org,b.org"', "allow-net", ["a.org,b.org"]],
    ['allow-net = ["a.org", "b.org"]', "allow-net", ["a.org,b.org"]],
    ['"idle-timeout" = "1m"', "idle-timeout", ["1m"]],
    ["connect-timeout = 0", "connect-timeout", ["0"]],
  ];
  for (const [line, option, expected] of words) {
    test(`${line} gives ${option} the words ${JSON.stringify(expected)}`, async () => {
      expect((await read(`[serve]\n${line}\n`)).wordsOf(option)).toEqual(expected);
    });
  }

  test("may be dotted or inline, and is named by the file", async () => {
    expect((await read("serve.max-connections = 7")).wordsOf("max-connections")).toEqual(["7"]);
    expect((await read("serve = { max-connections = 7 }")).wordsOf("max-connections")).toEqual(["7"]);
    expect((await read("")).name).toBe("seikan.toml");
  });

  test("is nothing where nothing stands", async () => {
    for (const text of ["", "# nothing\n", "[serve]\n", "[connect]\nquiet = true\n"]) {
      const values = await read(text);
      expect([values.wordsOf("quiet"), values.wordsOf("listen"), values.wordsOf("route")]).toEqual([
        undefined,
        undefined,
        undefined,
      ]);
      expect(values.entriesOf("route")).toEqual([]);
    }
  });

  test("is for its command alone", async () => {
    const text = "[connect]\ntunnels = 1\n[serve]\ntunnels = 2\n[agent]\ntunnels = 3\n";
    const found = await Promise.all([CONNECT, SERVE, AGENT].map((reader) => read(text, reader)));
    expect(found.map((values) => values.wordsOf("tunnels"))).toEqual([["1"], ["2"], ["3"]]);
  });

  const paths: [written: string, path: () => string][] = [
    ["users", () => folder.file("users")],
    ["./users", () => folder.file("users")],
    ["a/../b/users", () => folder.file("b/users")],
    ["/etc/users", () => "/etc/users"],
    ["~/users", () => "/home/ann/users"],
    ["~bob/users", () => folder.file("~bob/users")],
  ];
  for (const [written, path] of paths) {
    test(`begins at the file's folder: the path ${written}`, async () => {
      expect((await read(`[serve]\nauth-file = "${written}"\n`)).wordsOf("auth-file")).toEqual([path()]);
    });
  }

  test("begins at the file's folder in lists, and only where files are meant", async () => {
    const values = await read('[serve]\ntls-cert = ["a.pem", "~/b.pem"]\nadmin = ["a.pem", "~/b"]\n');
    expect(values.wordsOf("tls-cert")).toEqual([folder.file("a.pem"), "/home/ann/b.pem"]);
    expect(values.wordsOf("admin")).toEqual(["a.pem", "~/b"]);
  });
});

describe("entries in tables of their own", () => {
  test("are values of their option, besides those of its list", async () => {
    const text =
      '[serve]\nroute = "a.org=direct"\n[route]\n"*.b.org" = "http://x:1"\n"c.org" = ["http://x:1", "direct"]\n';
    const values = await read(text);
    expect(values.wordsOf("route")).toEqual(["a.org=direct"]);
    expect(values.entriesOf("route")).toEqual(["*.b.org=http://x:1", "c.org=http://x:1,direct"]);
  });

  test("make the file say something about their option", async () => {
    const values = await read('[route]\n"a.org" = "direct"\n');
    expect(values.wordsOf("route")).toEqual([]);
    expect(values.entriesOf("route")).toEqual(["a.org=direct"]);
  });

  test("are read for commands that have them", async () => {
    const text = `[route]\n"a.org" = "direct"\n[token.ci]\nhash = "${HASH}"\n`;
    expect((await read(text, CONNECT)).entriesOf("route")).toEqual(["a.org=direct"]);
    expect((await read(text, AGENT)).entriesOf("route")).toEqual([]);
    expect((await read(text, SERVE)).entriesOf("token")).toHaveLength(1);
    expect((await read(text, CONNECT)).entriesOf("token")).toEqual([]);
  });

  test("are read into what the command works with", async () => {
    const text = `[token.ci]\nhash = "${HASH}"\nagents = ["ci-*"]\nports = [5432, "6000-6010"]\nexit = true\n`;
    const [token] = (await read(text)).entriesOf("token") as [
      {
        digest: Uint8Array;
        rights: { token: string; isExit: boolean; agent(n: string): boolean; port(n: number): boolean };
      },
    ];
    expect(Buffer.from(token.digest).toString("hex")).toBe("0".repeat(64));
    const { rights } = token;
    expect([rights.token, rights.isExit, rights.agent("ci-1"), rights.agent("x")]).toEqual(["ci", true, true, false]);
    expect([5432, 5433, 6010, 6011].map((port) => rights.port(port))).toEqual([true, false, true, false]);
  });
});

describe("what a file may not say", () => {
  test("is told at once, in the order of the file", async () => {
    const text = `[serve]
lisen = "8080"
max-headers = 0
auth = ["a:b", true]

[rout]
x = 1

[token.ci]
agent = ["*"]

[route]
"a b" = "direct"

[agent]
tunnels = 17
`;
    const error = await refusal(text);
    expect(error.message).toBe(`${folder.file("seikan.toml")} has 8 mistakes`);
    expect(error.mistakes.map(({ line, column, message, hint }) => [line, column, message, hint])).toEqual([
      [2, 1, "unknown key `lisen`", "did you mean `listen`?"],
      [3, 15, 'max-headers: expected a whole number from 1 to 10000, got "0"', undefined],
      [4, 16, "auth: expected a text", undefined],
      [6, 2, "unknown section `rout`", "did you mean `route`?"],
      [9, 2, "hash is missing", undefined],
      [10, 1, "unknown key `agent`", "did you mean `agents`?"],
      [13, 1, 'cannot read "a b": expected host, *.host, host:port, :port, an address or a CIDR', undefined],
      [16, 11, 'tunnels: expected a whole number from 1 to 16, got "17"', undefined],
    ]);
  });

  test("is told to a command about its own sections, and about sections that nobody knows", async () => {
    const text = '[connect]\nx = 1\n[serve]\ny = 1\n[agent]\nz = 1\n[route]\n"a b" = "direct"\n[frobnicate]\n';
    const lines = async (reader: FileReader) => (await mistakes(text, reader)).map((one) => one.split(" ")[0]);
    expect(await lines(CONNECT)).toEqual(["2:1", "8:1", "9:2"]);
    expect(await lines(SERVE)).toEqual(["4:1", "8:1", "9:2"]);
    expect(await lines(AGENT)).toEqual(["6:1", "9:2"]);
  });

  test("is told once where several commands read it", async () => {
    expect(await mistakes('[route]\n"a.org" = "x"\n')).toHaveLength(1);
    expect(await mistakes("[route]\n'a.org' = 1\n")).toEqual(["2:11 a.org: expected a hop, or a list of hops"]);
  });

  test("is a section that is none", async () => {
    const [mistake] = (await refusal("[frobnicate]\n")).mistakes;
    expect(mistake).toEqual({
      message: "unknown section `frobnicate`",
      hint: `known are ${SECTIONS.join(", ")}`,
      line: 1,
      column: 2,
      frame: ["> 1 | [frobnicate]", "    |  ^^^^^^^^^^", "  2 |"],
    });
  });

  test("is a key outside of all sections", async () => {
    expect(await mistakes("quiet = true\n")).toEqual(["1:1 unknown section `quiet`"]);
  });

  test("is a section that is no table", async () => {
    expect(await mistakes("serve = 3\n")).toEqual(["1:9 serve: expected a table, got 3"]);
    expect(await mistakes("connect = [1]\n", CONNECT)).toHaveLength(1);
  });

  const named = ["__proto__", "constructor", "toString", "hasOwnProperty"];
  test("is what every object has", async () => {
    for (const name of named) {
      expect(await mistakes(`[serve]\n${name} = 1\n`)).toEqual([`2:1 unknown key \`${name}\``]);
      expect(await mistakes(`[${name}]\n`)).toEqual([`1:2 unknown section \`${name}\``]);
    }
  });

  // Found for the key as it is spelt first, which is right.
  test("is a key a second time, shown where it is the second", async () => {
    expect(await mistakes('[serve]\nidle_timeout = "1s"\nquiet = true\nidle-timeout = "2s"\n')).toEqual([
      "4:1 idle-timeout is there twice",
    ]);
  });

  test("is a key a second time", async () => {
    const [mistake, ...more] = await mistakes('[serve]\nidle-timeout = "1s"\nidle_timeout = "2s"\n');
    expect(mistake).toEndWith(" idle-timeout is there twice");
    expect(more).toEqual([]);
  });

  // It is taken as a section with an entry of the name 0: a token that was not named registers agents.
  test("is a list of tables where entries have names", async () => {
    expect(await mistakes(`[[token]]\nhash = "${HASH}"\n`)).toEqual(["1:3 token: expected a table, got a list"]);
  });

  test("is a list of tables where options stand", async () => {
    expect(await mistakes("[[serve]]\nquiet = true\n")).toEqual(["1:3 serve: expected a table, got a list"]);
  });

  // Everything may be dialled then, as with `allow-net = true`.
  test("is an empty list of what may be dialled", async () => {
    expect(await mistakes("[serve]\nallow-net = []\n")).toHaveLength(1);
  });

  const syntax: [what: string, text: string, mistake: string][] = [
    ["no value", "[serve]\nlisten =\n", "2:9 invalid value"],
    ["no key", "[serve]\n= 1\n", "2:1 unexpected end of key"],
    ["an open table", "[serve\nlisten = 1\n", "1:7 illegal character in key"],
    ["an open text", '[serve]\nlisten = "8080\n', "2:15 control characters are not allowed in strings"],
    ["an escape that is none", '[serve]\nlisten = "\\q"\n', "2:12 unrecognised escape sequence"],
    ["two values", "[serve]\nlisten = 1 2\n", "2:12 each key-value declaration must be followed by an end-of-line"],
    ["a key twice", "[serve]\nlisten = 1\nlisten = 2\n", "3:1 trying to redefine an already defined table or value"],
    ["a table twice", "[serve]\n[serve]\n", "2:2 trying to redefine an already defined table or value"],
    [
      "a number that is too large",
      "[serve]\nmax-headers = 99999999999999999999\n",
      "2:15 integer value cannot be represented losslessly",
    ],
  ];
  for (const [what, text, mistake] of syntax) {
    test(`is no TOML: ${what}`, async () => {
      const error = await refusal(text, SERVE);
      expect([error.code, error.message]).toEqual(["usage", `${folder.file("seikan.toml")} has a mistake`]);
      expect(error.mistakes.map(({ line, column, message }) => `${line}:${column} ${message}`)).toEqual([mistake]);
    });
  }

  test("stands in a file that can be read", () => {
    const path = folder.file("a-folder");
    mkdirSync(path);
    expect(() => new ConfigFile({ path: path, kind: "named" })).toThrow(`cannot read ${path}: EISDIR`);
    expect(() => new ConfigFile({ path: folder.file("none"), kind: "named" })).toThrow(
      `cannot read ${folder.file("none")}: ENOENT`,
    );
  });
});

describe("a byte order mark", () => {
  test("is no mistake", async () => {
    expect((await read("\uFEFF[serve]\nmax-connections = 7\n")).wordsOf("max-connections")).toEqual(["7"]);
  });

  // An error of the parser that knows positions.
  test("is no mistake beside one either", async () => {
    expect(await mistakes("\uFEFF[serve]\nlisen = 1\n", SERVE)).toEqual(["2:1 unknown key `lisen`"]);
  });
});

describe("a secret is never shown", () => {
  /** All that anybody sees of the error. */
  async function seen(text: string, reader?: FileReader): Promise<string> {
    const { message, hints, mistakes: all } = await refusal(text, reader);
    expect(all.length).toBeGreaterThan(0);
    return JSON.stringify([message, hints, all]);
  }

  const hidden: [what: string, text: string][] = [
    ["on the line", '[serve]\nauth = ["ann:s3cret", true]\n'],
    ["on the line before", '[serve]\nauth = "ann:s3cret"\nlisen = 1\n'],
    ["on the line behind", '[serve]\nlisen = 1\nagent_token = ["s3cret"]\n'],
    ["of a wrong kind", '[serve]\nauth = { ann = "s3cret" }\n'],
    ["that is wrong", '[serve]\nvia = "nope://ann:s3cret@proxy"\n'],
    ["that is wrong, and lacks its scheme", '[connect]\nvia = ["direct", "ann:s3cret@proxy:3128"]\n'],
    ["in a list of several lines", '[serve]\nauth = [\n  "ann:s3cret",\n  1.5,\n  true,\n]\n'],
    ["in a text of several lines", '[agent]\ntoken = """\ns3cret\n"""\nnmae = 1\n'],
    ["of a route", '[route]\n"a b" = "http://ann:s3cret@proxy"\n'],
    ["of a wrong route", '[route]\n"*.org" = ["direct", "nope://ann:s3cret@proxy"]\n'],
    ["of a table", '[connect]\nproxy-auth = { user = "ann", password = "s3cret" }\n'],
    ["inline", 'agent = { token = "s3cret", nmae = 1 }\n'],
    ["behind a dotted key", 'agent.token = "s3cret"\nagent.nmae = 1\n'],
    ["in a section that is misspelt", '[srve]\nauth = ["ann:s3cret"]\n'],
    ["of an exposure", '[agent]\nexpose = "web=http://h:1,auth=ann:s3cret,nope=1"\n'],
    ["beside a mistake of syntax", '[serve]\nauth = "ann:s3cret"\nlisten = x\n'],
    ["on the line of a mistake of syntax", '[serve]\nauth = ["ann:s3cret" "bob:s3cret"]\n'],
    ["in a text that is open", '[agent]\ntoken = "s3cret\n'],
  ];
  for (const [what, text] of hidden) {
    test(what, async () => expect(await seen(text)).not.toContain("s3cret"));
  }

  const shown: [what: string, text: string][] = [
    ["whose key is misspelt", '[serve]\nagent_tokn = "s3cret"\n'],
    ["whose key is misspelt, on a line beside", '[agent]\nnmae = 1\ntokn = "s3cret"\n'],
    ["of a route in a section that is misspelt", '[rout]\n"*.org" = "http://ann:s3cret@proxy"\n'],
    ["outside of all sections", 'auth = ["ann:s3cret"]\n'],
    ["outside of all sections, where it has the name of one", 'token = "s3cret"\n'],
    ["without its quotes", "[agent]\ntoken = s3cret\n"],
    ["without its quotes, on a line beside", "[agent]\nname = x\ntoken = s3cret\n"],
    ["in a text of several lines that is open", '[agent]\ntoken = """\ns3cret\n'],
    ["in a text of several lines, beside a mistake of syntax", '[agent]\ntoken = """\nx\ns3cret"""\nname = x\n'],
    ["in a header of a wrong exposure", '[agent]\nexpose = "web=http://h:1,request-header=A: s3cret,listing=yes"\n'],
  ];
  for (const [what, text] of shown) {
    test(what, async () => expect(await seen(text)).not.toContain("s3cret"));
  }
});
