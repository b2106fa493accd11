import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, realpathSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parse } from "smol-toml";
import { AGENT_OPTIONS } from "../../src/commands/agent-options.ts";
import { GLOBAL_OPTIONS } from "../../src/commands/command.ts";
import { CONNECT_OPTIONS } from "../../src/commands/connect-options.ts";
import { SERVE_OPTIONS } from "../../src/commands/serve-options.ts";
import { ConfigFile } from "../../src/config/file.ts";
import type { OptionSpecs } from "../../src/core/options.ts";
import { urlOf, webServer, wsUrl } from "../support/agents.ts";
import { spawnSeikan, TempFolder, type Process } from "../support/process.ts";
import { until } from "../support/wait.ts";
import { runSeikan, startSeikan, type Outcome, type Running } from "../support/seikan.ts";

setDefaultTimeout(60_000);

// The configuration file: where it is found, what it changes, and what is said about it.

/** A folder with projects, and the home of whoever runs seikan in them. */
class Place implements Disposable {
  readonly #folder = new TempFolder();
  /** As the system names it, without links. */
  readonly path = realpathSync(this.#folder.path);

  file(name: string): string {
    return join(this.path, name);
  }

  /** Writes a file, with the folders above it. */
  write(name: string, text: string): string {
    const path = this.file(name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  }

  folder(name: string): string {
    mkdirSync(this.file(name), { recursive: true });
    return this.file(name);
  }

  /** The user's own file. */
  writeOwn(text: string): string {
    return this.write("xdg/seikan/config.toml", text);
  }

  env(extra: Record<string, string> = {}): Record<string, string> {
    return { HOME: this.path, XDG_CONFIG_HOME: this.file("xdg"), ...extra };
  }

  /** Runs seikan in a folder of this place. */
  run(args: readonly string[], { cwd = ".", env = {} }: { cwd?: string; env?: Record<string, string> } = {}) {
    return runSeikan(args, { cwd: this.file(cwd), env: this.env(env) });
  }

  [Symbol.dispose](): void {
    this.#folder[Symbol.dispose]();
  }
}

let place: Place;
beforeEach(() => {
  place = new Place();
});
afterEach(() => place[Symbol.dispose]());

const refusedWith = (stderr: string): Outcome => ({ code: 2, stdout: "", stderr });

const USAGE = "  hint: usage: seikan config check | print [--sources] [connect|serve|agent] | schema\n";
const HASH = (token: string) => `sha256:${new Bun.CryptoHasher("sha256").update(token).digest("hex")}`;

describe("seikan config check", () => {
  const GOOD = `
[connect]
via = ["http://ann:s3cret@proxy.test:3128", "direct"]
[serve]
listen = [8080, "unix:/tmp/s"]
max_headers = 50
allow-net = false
[agent]
token = "s3cret"
[route]
"*.corp" = ["http://a.test:1", "socks5h://b.test:2"]
[token.ci]
hash = "${HASH("ci")}"
agents = ["ci-*"]
`;

  test("says that a file is right", async () => {
    const path = place.write("seikan.toml", GOOD);
    expect(await place.run(["config", "check"])).toEqual({ code: 0, stdout: `${path} is right\n`, stderr: "" });
  });

  test("says so as an event", async () => {
    const path = place.write("seikan.toml", GOOD);
    const { code, stdout, stderr } = await place.run(["config", "check", "--json"]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(JSON.parse(stdout)).toEqual({ event: "checked", time: expect.any(String), path, refused: [] });
  });

  test.each([
    ["serve", `[serve]\ntls-cert = ["c.pem"]`, "1 --tls-cert but 0 --tls-key: they belong together in pairs"],
    ["serve", `[serve]\nlisten = ["https://127.0.0.1:0"]`, "an https:// listener needs --tls-cert and --tls-key"],
    ["serve", `[serve]\nauth-file = "none"`, "--auth-file: cannot read FOLDER/none: ENOENT"],
    ["connect", `[connect]\ncacert = "none"`, "--cacert is about TLS to the target: add --tls"],
    ["agent", `[agent]\nname = "_"`, `--name: "_" is no name: letters, digits, dots, hyphens and underscores`],
  ])("warns that seikan %s would not start with it alone: %j", async (command, text, why) => {
    const path = place.write("seikan.toml", text);
    const expected = why.replace("FOLDER", dirname(path));
    const { code, stdout, stderr } = await place.run(["config", "check"]);
    expect([code, stdout]).toEqual([0, `${path} is right\n`]);
    expect(stderr).toContain(` warn with this file alone seikan ${command} would not start: ${expected}`);
    const event = JSON.parse((await place.run(["config", "check", "--json"])).stdout);
    expect(event.refused).toEqual([{ command, why: expected }]);
  });

  test("what an environment variable or a file adds counts for that, too", async () => {
    place.write("seikan.toml", `[serve]\nlisten = ["0.0.0.0:0"]`);
    expect((await place.run(["config", "check"])).stderr).toContain("refusing to be an open proxy");
    const env = { SEIKAN_AUTH: "a:b" };
    expect((await place.run(["config", "check"], { env })).stderr).toBe("");
  });

  test.each([
    ["resolve", `[serve]\nresolve = ["nonsense"]`, `resolve: expected HOST:PORT:ADDRESS, got "nonsense"`],
    ["proxy-header", `[connect]\nproxy-header = ["s3cret"]`, "proxy-header: expected 'Name: value'"],
    ["server", `[agent]\nserver = "tunnel.example.com"`, "server: expected wss://HOST or ws://HOST"],
    ["server with credentials", `[agent]\nserver = "ftp://u:s3cret@h"`, `got "ftp://***@h"`],
  ])("%s is read when the file is, and secrets are not shown", async (_, text, message) => {
    place.write("seikan.toml", text);
    const { code, stderr } = await place.run(["config", "check"]);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
    expect(stderr).not.toContain("s3cret");
  });

  test("looks where seikan serve looks", async () => {
    const own = place.writeOwn("");
    expect((await place.run(["config", "check"])).stdout).toBe(`${own} is right\n`);
    place.folder("repo/.git");
    const project = place.write("repo/seikan.toml", "");
    place.folder("repo/a");
    expect((await place.run(["config", "check"], { cwd: "repo/a" })).stdout).toBe(`${project} is right\n`);
    const byName = place.write("other.toml", "");
    const byVariable = place.write("third.toml", "");
    const env = { SEIKAN_CONFIG: "../../third.toml" };
    expect((await place.run(["config", "check"], { cwd: "repo/a", env })).stdout).toBe(`${byVariable} is right\n`);
    const flag = ["config", "check", "--config", byName];
    expect((await place.run(flag, { cwd: "repo/a", env })).stdout).toBe(`${byName} is right\n`);
  });

  const BAD = `[serve]
lisen = "8080"
max_headers = 0
idle-timeout = 10
auth = ["ann:s3cret", true]

[rout]
x = 1

[token.ci]
agents = "*"

[connect]
via = "nope://ann:s3cret@proxy.test"
`;

  test("shows all mistakes of a file at once, each where it is", async () => {
    const path = place.write("seikan.toml", BAD);
    expect(await place.run(["config", "check"])).toEqual(
      refusedWith(`seikan: error: ${path} has 8 mistakes

2:1: unknown key \`lisen\`: did you mean \`listen\`?
    1 | [serve]
  > 2 | lisen = "8080"
      | ^^^^^
    3 | max_headers = 0

3:15: max-headers: expected a whole number from 1 to 10000, got "0"
    2 | lisen = "8080"
  > 3 | max_headers = 0
      |               ^
    4 | idle-timeout = 10

4:16: idle-timeout: expected a duration such as 500ms, 10s, 5m or 1h, got "10"; did you mean 10s or 10ms?
    3 | max_headers = 0
  > 4 | idle-timeout = 10
      |                ^^
    5 | auth = ************** *****

5:23: auth: expected a text
    4 | idle-timeout = 10
  > 5 | auth = ************** *****
      |                       ^^^^
    6 |

7:2: unknown section \`rout\`: did you mean \`route\`?
    6 |
  > 7 | [rout]
      |  ^^^^
    8 | x = *

10:2: hash is missing
     9 |
  > 10 | [token.ci]
       |  ^^^^^^^^
    11 | agents = "*"

11:10: agents: expected a list, got "*"
    10 | [token.ci]
  > 11 | agents = "*"
       |          ^^^
    12 |

14:7: via: cannot read hop "nope://***@proxy.test": unknown scheme nope; hops are URLs with one of the schemes http, https, socks5, socks5h, socks4a, ws, wss, ws+raw, wss+raw, or the word direct
    13 | [connect]
  > 14 | via = ******************************
       |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    15 |
`),
    );
  });

  test("names all mistakes in its event", async () => {
    const path = place.write("seikan.toml", '[serve]\nlisen = 1\n[connect]\nretry = "x"\n');
    const { code, stdout, stderr } = await place.run(["config", "check", "--json"]);
    expect([code, stdout]).toEqual([2, ""]);
    expect(JSON.parse(stderr)).toEqual({
      event: "error",
      time: expect.any(String),
      error: {
        code: "usage",
        message: `${path} has 2 mistakes`,
        hints: [],
        mistakes: [
          { line: 2, column: 1, message: "unknown key `lisen`", hint: "did you mean `listen`?" },
          { line: 4, column: 9, message: 'retry: expected a whole number from 0 to 1000000, got "x"' },
        ],
      },
    });
  });

  test("shows where a file is no TOML", async () => {
    const path = place.write("seikan.toml", '[serve]\nauth = "ann:s3cret"\nlisten = nothing\n');
    expect(await place.run(["config", "check"])).toEqual(
      refusedWith(`seikan: error: ${path} has a mistake

3:10: invalid value
    2 | **** * ************
  > 3 | listen = *******
      |          ^
    4 |
`),
    );
  });

  test("shows lines that end as on Windows like any other", async () => {
    const path = place.write("seikan.toml", "[serve]\r\nlisen = 1\r\nquiet = true\r\n");
    expect(await place.run(["config", "check"])).toEqual(
      refusedWith(`seikan: error: ${path} has a mistake

2:1: unknown key \`lisen\`: did you mean \`listen\`?
    1 | [serve]
  > 2 | lisen = 1
      | ^^^^^
    3 | quiet = true
`),
    );
  });

  // The tab is shown as \x09, four columns wide.
  test("marks what is meant behind a tab", async () => {
    place.write("seikan.toml", "[serve]\n\tlisen = 1\n");
    const lines = (await place.run(["config", "check"])).stderr.split("\n");
    const at = lines.findIndex((line) => line.startsWith("  > "));
    expect(lines[at + 1]!.indexOf("^^^^^")).toBe(lines[at]!.indexOf("lisen"));
  });

  test("shows control characters of a file escaped", async () => {
    place.write("seikan.toml", '[serve]\n"\\u001b[31m" = 1\nlisten = "\u009b31m"\n');
    const { code, stderr } = await place.run(["config", "check"]);
    expect(code).toBe(2);
    expect(stderr).toContain("2:1: unknown key `\\x1b[31m`: known are listen, ");
    expect(stderr).toContain('\n    3 | listen = "\\x9b31m"\n');
  });

  test("is coloured where colours are asked for", async () => {
    const path = place.write("seikan.toml", "[serve]\nlisen = 1\n");
    const { stderr } = await place.run(["config", "check"], { env: { NO_COLOR: "", FORCE_COLOR: "1" } });
    expect(stderr).toBe(
      [
        `seikan: \x1b[31merror:\x1b[0m ${path} has a mistake`,
        "",
        "\x1b[36m2:1: \x1b[0munknown key `lisen`: did you mean `listen`?",
        "\x1b[2m    1 | [serve]\x1b[0m",
        "\x1b[1m  > 2 | lisen = 1\x1b[0m",
        "\x1b[2m      | ^^^^^\x1b[0m",
        "\x1b[2m    3 |\x1b[0m",
        "",
      ].join("\n"),
    );
  });

  test("says where a file would be when there is none", async () => {
    expect(await place.run(["config", "check"])).toEqual(
      refusedWith(
        `seikan: error: there is no configuration file\n  hint: it would be seikan.toml in this folder, or ${place.file("xdg/seikan/config.toml")}; --config names another one\n`,
      ),
    );
  });

  // It says that there is none.
  test("says that it does not read a file that everybody may write to", async () => {
    const path = place.write("seikan.toml", "");
    chmodSync(path, 0o666);
    const { code, stderr } = await place.run(["config", "check"]);
    expect(code).toBe(2);
    expect(stderr).toContain(path);
    expect(stderr).toContain("everybody may write to it");
  });

  // The parser that knows positions does not know it: an internal error.
  test("takes a byte order mark in a file with mistakes", async () => {
    const path = place.write("seikan.toml", "\uFEFF[serve]\nlisen = 1\n");
    const { code, stderr } = await place.run(["config", "check"]);
    expect(code).toBe(2);
    expect(stderr).toStartWith(`seikan: error: ${path} has a mistake\n\n2:1: unknown key \`lisen\``);
  });
});

describe("seikan config print", () => {
  const FILE = `
[connect]
via = ["http://ann:s3cret@proxy.test:3128"]
proxy_auth = "ann:s3cret"
listen = ["8001", 8002]
tunnels = 3
insecure = true
cacert = "ca.pem"
[serve]
tunnels = 4
allow-net = ["a.org", "10.0.0.0/8"]
[agent]
name = "web"
[route]
"*.corp" = "http://ann:s3cret@proxy.test:3128"
[token.ci]
hash = "${HASH("ci")}"
agents = ["ci-*"]
ports = [5432]
`;

  test("prints what differs from the defaults, as a file, without secrets", async () => {
    const path = place.write("seikan.toml", FILE);
    const env = { SEIKAN_RETRY: "2", SEIKAN_TOKEN: "s3cret", SEIKAN_TUNNELS: "7", SEIKAN_LOG_LEVEL: "warn" };
    const { code, stdout, stderr } = await place.run(["config", "print", "connect", "--config", path], { env });
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toBe(`[connect]
listen = ["8001", "8002"]
via = ["http://***@proxy.test:3128"]
tunnels = "7"
proxy-auth = "***"
cacert = "${place.file("ca.pem")}"
insecure = true
retry = "2"
log-level = "warn"

[route]
"*.corp" = "http://***@proxy.test:3128"
`);
  });

  test("prints all commands, and what they share once", async () => {
    const path = place.write("seikan.toml", FILE);
    const { code, stdout, stderr } = await place.run(["config", "print", "--config", path]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(parse(stdout)).toEqual({
      connect: {
        listen: ["8001", "8002"],
        via: ["http://***@proxy.test:3128"],
        tunnels: "3",
        "proxy-auth": "***",
        cacert: place.file("ca.pem"),
        insecure: true,
      },
      serve: { tunnels: "4", "allow-net": "a.org,10.0.0.0/8" },
      agent: { name: "web" },
      route: { "*.corp": "http://***@proxy.test:3128" },
      token: { ci: { hash: HASH("ci"), agents: ["ci-*"], ports: [5432] } },
    });
    expect(stdout.match(/^\[.*\]$/gm)).toEqual(["[connect]", "[route]", "[serve]", "[token.ci]", "[agent]"]);
  });

  test("--sources says where each value came from, and prints the defaults", async () => {
    const path = place.write("seikan.toml", FILE);
    const env = { SEIKAN_RETRY: "2", SEIKAN_AUTH: "ann:s3cret" };
    const { code, stdout, stderr } = await place.run(["config", "print", "--sources", "connect", "--config", path], {
      env,
    });
    expect([code, stderr]).toEqual([0, ""]);
    const written: Record<string, string> = {
      listen: `["8001", "8002"]  # ${path}:5`,
      auth: '"***"  # SEIKAN_AUTH',
      via: `["http://***@proxy.test:3128"]  # ${path}:3`,
      tunnels: `"3"  # ${path}:6`,
      "proxy-auth": `"***"  # ${path}:4`,
      cacert: `"${place.file("ca.pem")}"  # ${path}:8`,
      insecure: `true  # ${path}:7`,
      retry: '"2"  # SEIKAN_RETRY',
    };
    const specs: OptionSpecs = { ...CONNECT_OPTIONS, ...GLOBAL_OPTIONS };
    const expected = Object.entries(specs).flatMap(([name, spec]) => {
      if (written[name] !== undefined) return [`${name} = ${written[name]}`];
      return spec.default === undefined ? [] : [`${name} = ${JSON.stringify(spec.default)}  # default`];
    });
    expect(expected).toContain('connect-timeout = "10s"  # default');
    expect(stdout).toBe(
      `[connect]\n${expected.join("\n")}\n\n[route]\n"*.corp" = "http://***@proxy.test:3128"  # ${path}:15\n`,
    );
    // With comments, it is still a file.
    expect(parse(stdout).route).toEqual({ "*.corp": "http://***@proxy.test:3128" });
  });

  test("--sources names the lines of entries", async () => {
    const path = place.write("seikan.toml", FILE);
    const { stdout } = await place.run(["config", "print", "--sources", "serve"]);
    expect(stdout).toContain(
      `\n\n[token.ci]\nhash = "${HASH("ci")}"  # ${path}:17\nagents = ["ci-*"]  # ${path}:18\nports = [5432]  # ${path}:19\n`,
    );
    expect(stdout).toContain(`\n\n[route]\n"*.corp" = "http://***@proxy.test:3128"  # ${path}:15\n`);
  });

  test("--json prints one object, each value with its source, without secrets", async () => {
    const path = place.write("seikan.toml", FILE);
    const env = { SEIKAN_NAME: "db", SEIKAN_TOKEN: "s3cret", SEIKAN_NO_VIA: "1", SEIKAN_ALLOW_NET: "b.org" };
    const { code, stdout, stderr } = await place.run(["config", "print", "--json", "--config", path], { env });
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout.trimEnd()).not.toContain("\n");
    expect(JSON.parse(stdout)).toEqual({
      connect: {
        listen: { value: ["8001", "8002"], source: `${path}:5` },
        via: { value: ["http://***@proxy.test:3128"], source: `${path}:3` },
        tunnels: { value: "3", source: `${path}:6` },
        "proxy-auth": { value: "***", source: `${path}:4` },
        cacert: { value: place.file("ca.pem"), source: `${path}:8` },
        insecure: { value: true, source: `${path}:7` },
      },
      serve: {
        "allow-net": { value: "b.org", source: "SEIKAN_ALLOW_NET" },
        tunnels: { value: "4", source: `${path}:10` },
        "no-via": { value: true, source: "SEIKAN_NO_VIA" },
      },
      agent: {
        "allow-net": { value: "b.org", source: "SEIKAN_ALLOW_NET" },
        name: { value: "db", source: "SEIKAN_NAME" },
        token: { value: "***", source: "SEIKAN_TOKEN" },
      },
      route: { "*.corp": { value: "http://***@proxy.test:3128", source: `${path}:15` } },
      token: {
        ci: {
          hash: { value: HASH("ci"), source: `${path}:17` },
          agents: { value: ["ci-*"], source: `${path}:18` },
          ports: { value: [5432], source: `${path}:19` },
        },
      },
    });
  });

  test("prints for each command what that command reads", async () => {
    const own = place.writeOwn('[connect]\ntunnels = 5\n[serve]\ntunnels = 6\n[agent]\nname = "own"\n');
    const project = place.write("seikan.toml", FILE);
    const { stdout } = await place.run(["config", "print", "--json"]);
    const { connect, serve, agent } = JSON.parse(stdout) as Record<string, unknown>;
    expect({ connect, serve, agent }).toEqual({
      connect: { tunnels: { value: "5", source: `${own}:2` } },
      serve: {
        "allow-net": { value: "a.org,10.0.0.0/8", source: `${project}:11` },
        tunnels: { value: "4", source: `${project}:10` },
      },
      agent: { name: { value: "own", source: `${own}:6` } },
    });
  });

  test("needs no file", async () => {
    const env = { SEIKAN_TUNNELS: "7" };
    expect(await place.run(["config", "print", "connect"], { env })).toEqual({
      code: 0,
      stdout: '[connect]\ntunnels = "7"\n',
      stderr: "",
    });
    expect(await place.run(["config", "print", "connect"])).toEqual({ code: 0, stdout: "", stderr: "" });
    expect((await place.run(["config", "print", "--json"])).stdout).toBe("{}\n");
  });

  test("prints names and texts as TOML needs them", async () => {
    place.write("seikan.toml", `[token."a b"]\nhash = "${HASH("x")}"\n[serve]\nadmin = ["\\"q\\"", 'b\\c']\n`);
    const { stdout } = await place.run(["config", "print", "serve"]);
    expect(parse(stdout)).toEqual({
      serve: { admin: ['"q"', "b\\c"] },
      token: { "a b": { hash: HASH("x") } },
    });
  });

  // The section is printed although the environment's routes are in force, and these alone.
  test("prints no routes of the file where the environment has others", async () => {
    const path = place.write("seikan.toml", '[route]\n"*.corp" = "http://a.test:1"\n');
    const env = { SEIKAN_ROUTE: "a.org=direct" };
    const { stdout } = await place.run(["config", "print", "connect", "--config", path], { env });
    expect(stdout).toBe('[connect]\nroute = "***"\n');
  });
});

describe("seikan config schema", () => {
  type Schema = Readonly<Record<string, unknown>> & {
    readonly properties?: Readonly<Record<string, Schema>>;
    readonly anyOf?: readonly Schema[];
    readonly items?: Schema;
    readonly required?: readonly string[];
    readonly additionalProperties?: Schema | boolean;
    readonly description?: string;
  };
  let outcome: Outcome;
  let schema: Schema;
  beforeAll(async () => {
    outcome = await runSeikan(["config", "schema"]);
    schema = JSON.parse(outcome.stdout) as Schema;
  });

  // A file cannot name itself.
  const { config: _, ...FILE_OPTIONS } = GLOBAL_OPTIONS;
  const readers: Record<string, OptionSpecs> = {
    connect: { ...CONNECT_OPTIONS, ...FILE_OPTIONS },
    serve: { ...SERVE_OPTIONS, ...FILE_OPTIONS },
    agent: { ...AGENT_OPTIONS, ...FILE_OPTIONS },
  };
  const ownSections = new Set(
    Object.values(readers).flatMap((specs) => Object.values(specs).flatMap(({ section }) => section?.name ?? [])),
  );

  /** Whatever stands below, itself included. */
  function all(one: Schema): Schema[] {
    const below = [
      ...Object.values(one.properties ?? {}),
      ...(one.anyOf ?? []),
      ...[one.items, one.additionalProperties, one.propertyNames as Schema | undefined],
    ].filter((inner): inner is Schema => typeof inner === "object");
    return [one, ...below.flatMap(all)];
  }

  const TYPES: Readonly<Record<string, (value: unknown) => boolean>> = {
    object: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
    array: Array.isArray,
    string: (value) => typeof value === "string",
    number: (value) => typeof value === "number",
    integer: Number.isInteger,
    boolean: (value) => typeof value === "boolean",
  };

  /** As an editor sees it: type, properties, items, pattern and anyOf. */
  function accepts(one: Schema, value: unknown): boolean {
    if (one.anyOf !== undefined && !one.anyOf.some((form) => accepts(form, value))) return false;
    if (one.type !== undefined && !TYPES[one.type as string]!(value)) return false;
    if (typeof value === "string" && one.pattern !== undefined) return new RegExp(one.pattern as string).test(value);
    if (Array.isArray(value)) return one.items === undefined || value.every((item) => accepts(one.items!, item));
    if (typeof value !== "object" || value === null) return true;
    if (one.required?.some((key) => !(key in value)) === true) return false;
    return Object.entries(value).every(([key, inner]) => {
      const known = one.properties?.[key] ?? one.additionalProperties ?? true;
      return typeof known === "boolean" ? known : accepts(known, inner);
    });
  }

  test("is printed alone, and says what it is", () => {
    expect([outcome.code, outcome.stderr]).toEqual([0, ""]);
    expect(schema).toMatchObject({
      $schema: "http://json-schema.org/draft-07/schema#",
      title: "seikan.toml",
      type: "object",
      additionalProperties: false,
    });
    expect(schema.required ?? []).toEqual([]);
  });

  test("has nothing that JSON Schema does not have", () => {
    const nodes = all(schema);
    expect(nodes.length).toBeGreaterThan(200);
    for (const { type, anyOf, required, pattern, description } of nodes) {
      if (type !== undefined) expect(Object.keys(TYPES)).toContain(type as string);
      if (anyOf !== undefined) expect(anyOf.length).toBeGreaterThan(0);
      if (required !== undefined) expect(required.every((key) => typeof key === "string")).toBe(true);
      if (pattern !== undefined) expect(() => new RegExp(pattern as string)).not.toThrow();
      if (description !== undefined) expect(description).not.toBe("");
    }
  });

  test("has every section", () => {
    expect(Object.keys(schema.properties!).toSorted()).toEqual([...Object.keys(readers), ...ownSections].toSorted());
    expect([...ownSections]).toContain("route");
    expect([...ownSections]).toContain("token");
  });

  for (const [section, specs] of Object.entries(readers)) {
    test(`has every option of ${section}, with its help`, () => {
      const { type, properties, required, additionalProperties } = schema.properties![section]!;
      expect([type, required ?? [], additionalProperties]).toEqual(["object", [], false]);
      const described = Object.entries(properties!).map(([name, { description }]) => [name, description]);
      const options = Object.entries(specs).filter(([, { kind }]) => kind !== "section");
      expect(described).toEqual(options.map(([name, { help }]) => [name, help]));
    });
  }

  test("knows the types of options", () => {
    const { connect, serve } = schema.properties as Record<string, Schema>;
    const word = { anyOf: [{ type: "string" }, { type: "number" }] };
    expect(connect!.properties!.insecure).toEqual({ type: "boolean", description: CONNECT_OPTIONS.insecure.help });
    expect(connect!.properties!.retry).toEqual({ ...word, description: CONNECT_OPTIONS.retry.help });
    expect(connect!.properties!.via).toEqual({
      anyOf: [{ type: "array", items: word }, word],
      description: CONNECT_OPTIONS.via.help,
    });
    expect(serve!.properties!["allow-net"]).toEqual({
      anyOf: [{ type: "boolean" }, { type: "array", items: { type: "string" }, minItems: 1 }, word],
      description: SERVE_OPTIONS["allow-net"].help,
    });
  });

  test("knows routes and tokens", () => {
    const { route, token } = schema.properties as Record<string, Schema>;
    expect(route).toMatchObject({
      type: "object",
      additionalProperties: { anyOf: [{ type: "string" }, { type: "array", items: { type: "string" } }] },
    });
    const entry = token!.additionalProperties as Schema;
    expect(Object.keys(entry.properties!)).toEqual(["hash", "agents", "hosts", "ports", "exit", "share"]);
    expect([entry.type, entry.required, entry.additionalProperties]).toEqual(["object", ["hash"], false]);
  });

  const files: [text: string, isRight: boolean][] = [
    ["", true],
    ['[serve]\nlisten = 8080\nauth = ["a:b"]\nallow-net = false\nquiet = true\n', true],
    ['[serve]\nlisten = [8080, "unix:/s"]\nallow-net = ["a.org"]\n', true],
    ["[serve]\nlisten = true\n", false],
    ["[serve]\nlisen = 8080\n", false],
    ['[connect]\nquiet = "yes"\n', false],
    ["[connect]\nretry = [1]\n", false],
    ["[frobnicate]\n", false],
    ['[route]\n"*.org" = "direct"\n"a.org" = ["direct"]\n', true],
    ['[route]\n"*.org" = 1\n', false],
    [`[token.ci]\nhash = "${HASH("x")}"\nports = [1, "2-3"]\n`, true],
    ["[token.ci]\nexit = true\n", false],
    ['[token.ci]\nhash = "x"\n', false],
    [`[token.ci]\nhash = "${HASH("x")}"\nagent = ["x"]\n`, false],
  ];
  for (const [text, isRight] of files) {
    test(`and the check both ${isRight ? "take" : "refuse"} ${JSON.stringify(text.slice(0, 50))}`, async () => {
      expect(accepts(schema, parse(text))).toBe(isRight);
      const file = new ConfigFile({ path: place.write("seikan.toml", text), kind: "named" });
      const all = Object.entries(readers).map(([section, specs]) => ({ section, specs }));
      const checked = file.check(all, {}).then(
        () => true,
        () => false,
      );
      expect(await checked).toBe(isRight);
    });
  }
});

describe("seikan connect", () => {
  const ROUTES = `[connect]
via = "http://ann:s3cret@fallback.test:1"
[route]
"*.corp" = ["http://a.test:3128", "socks5h://ann:s3cret@b.test:1080"]
"db.corp:5432" = "direct"
"10.0.0.0/8" = "ws://tunnel.test"
`;
  const dryRun = (target: string, ...args: string[]) => ["connect", target, "--dry-run", "--json", ...args];
  const way = ({ stdout }: Outcome) => JSON.parse(stdout) as Record<string, unknown>;

  test("never reads the project's file", async () => {
    place.folder(".git");
    place.write("seikan.toml", ROUTES);
    expect(await place.run(["connect", "x.corp:80", "--dry-run"])).toEqual({
      code: 0,
      stdout: "x.corp:80: direct (no proxy is set)\n",
      stderr: "",
    });
    place.write("seikan.toml", "this is no configuration");
    const debug = await place.run(["connect", "x.corp:80", "--dry-run", "-v"]);
    expect(debug).toEqual({ code: 0, stdout: "x.corp:80: direct (no proxy is set)\n", stderr: "" });
  });

  const ways: [target: string, hops: string[], reason: string][] = [
    ["x.corp:80", ["http://a.test:3128", "socks5h://***@b.test:1080"], "--route *.corp"],
    ["db.corp:5432", [], "--route db.corp:5432"],
    ["db.corp:5433", ["http://a.test:3128", "socks5h://***@b.test:1080"], "--route *.corp"],
    ["10.1.2.3:80", ["ws://tunnel.test:80"], "--route 10.0.0.0/8"],
    ["a.org:80", ["http://***@fallback.test:1"], "via in config.toml"],
  ];
  for (const [target, hops, reason] of ways) {
    test(`goes to ${target} as the user's own file says`, async () => {
      place.writeOwn(ROUTES);
      const run = await place.run(dryRun(target));
      expect([run.code, run.stderr]).toEqual([0, ""]);
      expect(way(run)).toEqual({ target, hops, reason });
    });
  }

  test("reads a file that is named, and that alone", async () => {
    place.writeOwn("this is no configuration");
    const path = place.write("seikan.toml", ROUTES);
    expect(way(await place.run(dryRun("a.org:80", "--config", path)))).toEqual({
      target: "a.org:80",
      hops: ["http://***@fallback.test:1"],
      reason: "via in seikan.toml",
    });
    const byVariable = await place.run(dryRun("a.org:80"), { env: { SEIKAN_CONFIG: "seikan.toml" } });
    expect(way(byVariable).reason).toBe("via in seikan.toml");
    const other = place.write("other.toml", '[connect]\nvia = "http://other.test:1"\n');
    const byFlag = await place.run(dryRun("a.org:80", "--config", other), { env: { SEIKAN_CONFIG: "seikan.toml" } });
    expect(way(byFlag)).toMatchObject({ hops: ["http://other.test:1"], reason: "via in other.toml" });
  });

  test("counts flags before the environment, and that before the file", async () => {
    place.writeOwn(ROUTES);
    const env = { SEIKAN_VIA: "http://variable.test:1", SEIKAN_ROUTE: "a.org=http://rule.test:1" };
    expect(way(await place.run(dryRun("b.org:80"), { env }))).toMatchObject({
      hops: ["http://variable.test:1"],
      reason: "SEIKAN_VIA",
    });
    expect(way(await place.run(dryRun("x.corp:80"), { env })).hops).toEqual(["http://variable.test:1"]);
    expect(way(await place.run(dryRun("a.org:80"), { env })).hops).toEqual(["http://rule.test:1"]);
    const flags = ["--via", "http://flag.test:1", "--route", "*.org=direct"];
    expect(way(await place.run(dryRun("x.corp:80", ...flags), { env }))).toMatchObject({
      hops: ["http://flag.test:1"],
      reason: "--via",
    });
    expect(way(await place.run(dryRun("a.org:80", ...flags), { env })).hops).toEqual([]);
  });

  test("counts the file before the system's proxy", async () => {
    const env = { HTTPS_PROXY: "http://system.test:1" };
    expect(way(await place.run(dryRun("a.org:443"), { env })).reason).toBe("HTTPS_PROXY");
    place.writeOwn('[connect]\nvia = "http://file.test:1"\n');
    expect(way(await place.run(dryRun("a.org:443"), { env })).reason).toBe("via in config.toml");
  });

  test("names its file when it is asked to say more", async () => {
    const path = place.writeOwn("");
    const { stderr } = await place.run(["connect", "a.org:80", "--dry-run", "-v"]);
    expect(stderr).toMatch(/^\S+ debug configuration: \S+\n$/);
    expect(stderr).toContain(` debug configuration: ${path}\n`);
  });
});

describe("seikan agent", () => {
  const missing = refusedWith(
    "seikan: error: which server? SERVER is missing\n  hint: seikan agent wss://tunnel.example.com --expose http://localhost:3000\n",
  );
  const nothing = refusedWith(
    "seikan: error: what shall it expose? --expose is missing\n  hint: for example --expose http://localhost:3000\n",
  );
  const AGENT = ["agent", "ws://127.0.0.1:1"];

  test("never reads the project's file", async () => {
    place.folder(".git");
    place.write("seikan.toml", "this is no configuration");
    expect(await place.run(["agent"])).toEqual(missing);
    expect(await place.run(AGENT)).toEqual(nothing);
  });

  test("reads the user's own file", async () => {
    place.writeOwn("[agent]\nallow-net = true\nqr = true\n");
    expect(await place.run(AGENT)).toEqual(refusedWith("seikan: error: --qr needs an exposure\n"));
  });

  test("counts flags before the environment, and that before the file", async () => {
    place.writeOwn('[agent]\nallow-net = true\nqr = true\nname = "a b"\n');
    const wrongName = (name: string) =>
      refusedWith(`seikan: error: --name: "${name}" is no name: letters, digits, dots, hyphens and underscores\n`);
    expect(await place.run([...AGENT, "--qr=no"])).toEqual(wrongName("a b"));
    expect(await place.run(AGENT, { env: { SEIKAN_QR: "no", SEIKAN_NAME: "c d" } })).toEqual(wrongName("c d"));
    expect(await place.run([...AGENT, "--name", "e f"], { env: { SEIKAN_QR: "no", SEIKAN_NAME: "c d" } })).toEqual(
      wrongName("e f"),
    );
  });

  test("takes back with false what may be bare", async () => {
    place.writeOwn("[agent]\nallow-net = false\n");
    expect(await place.run(AGENT)).toEqual(nothing);
  });
});

describe("seikan serve", () => {
  /** Runs until the test ends; what it says is ready. */
  async function serveIn(cwd: string, args: string[] = [], env: Record<string, string> = {}) {
    const process = spawnSeikan(["serve", "--json", ...args], { cwd: place.file(cwd), env: place.env(env) });
    started.push(process);
    await process.prints('"event":"ready"');
    const ready = process.stdout.split("\n").find((line) => line.includes('"event":"ready"'))!;
    const { listeners } = JSON.parse(ready) as { listeners: string[] };
    return { process, listeners };
  }
  const started: Process[] = [];
  afterEach(async () => {
    for (const process of started.splice(0)) await process[Symbol.asyncDispose]();
  });

  const TWO = '[serve]\nlisten = ["127.0.0.1:0", "127.0.0.1:0"]\n';
  const configured = (path: string) => ` info configuration: ${path}\n`;

  test("reads seikan.toml in this folder, and says so", async () => {
    const path = place.write("seikan.toml", TWO);
    const { process, listeners } = await serveIn(".");
    expect(listeners).toHaveLength(2);
    await process.says(configured(path));
    expect(process.stderr.split("\n")[0]).toEndWith(configured(path).trimEnd());
  });

  test("reads seikan.toml in a folder above, up to the root of the repository", async () => {
    place.folder("repo/.git");
    place.folder("repo/a/b");
    const path = place.write("repo/seikan.toml", TWO);
    const { process, listeners } = await serveIn("repo/a/b");
    expect(listeners).toHaveLength(2);
    await process.says(configured(path));
  });

  test("reads no seikan.toml above the repository", async () => {
    place.write("seikan.toml", "this is no configuration");
    place.folder("repo/.git");
    place.folder("repo/a");
    const { process, listeners } = await serveIn("repo/a", ["-l", "127.0.0.1:0"]);
    expect(listeners).toHaveLength(1);
    await process.says("listening on");
    expect(process.stderr).not.toContain("configuration");
  });

  test("reads the user's own file where there is none in the project", async () => {
    const path = place.writeOwn(TWO);
    const { process, listeners } = await serveIn(".", ["-v"]);
    expect(listeners).toHaveLength(2);
    await process.says(` debug configuration: ${path}\n`);
  });

  test("reads one file only", async () => {
    place.writeOwn("[serve]\nmax-headers = 0\n");
    place.write("seikan.toml", TWO);
    const { listeners } = await serveIn(".");
    expect(listeners).toHaveLength(2);
  });

  test("reads no file that everybody may write to, and says so", async () => {
    const path = place.write("seikan.toml", TWO);
    chmodSync(path, 0o666);
    const { process, listeners } = await serveIn(".", ["-l", "127.0.0.1:0"]);
    expect(listeners).toHaveLength(1);
    await process.says(` warn ${path} is not read: everybody may write to it hint="--config ${path} reads it"\n`);
    const { listeners: named } = await serveIn(".", ["--config", "seikan.toml"]);
    expect(named).toHaveLength(2);
  });

  test("counts flags before the environment, and that before the file", async () => {
    place.write("seikan.toml", '[serve]\nlisten = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"]\n');
    expect((await serveIn(".")).listeners).toHaveLength(3);
    const env = { SEIKAN_LISTEN: "127.0.0.1:0,127.0.0.1:0" };
    expect((await serveIn(".", [], env)).listeners).toHaveLength(2);
    expect((await serveIn(".", ["-l", "127.0.0.1:0"], env)).listeners).toHaveLength(1);
  });

  test("finds files that its file names beside it", async () => {
    place.folder("repo/.git");
    place.folder("repo/a");
    place.write("repo/seikan.toml", '[serve]\nlisten = "127.0.0.1:0"\nauth-file = "users"\n');
    place.write("repo/users", "");
    await serveIn("repo/a");
  });
});

describe("the file of a project", () => {
  const place = new Place();
  afterAll(() => place[Symbol.dispose]());
  for (const line of ["no-auth = true", "quiet = true", 'log-level = "silent"', 'ready-file = "x"', "ready-fd = 5"]) {
    test(`does not decide about ${line.split(" ")[0]}; a file that was named does`, async () => {
      place.folder("repo/.git");
      const path = place.write("repo/seikan.toml", `[serve]\nlisten = "127.0.0.1:0"\n${line}\n`);
      const { code, stderr } = await place.run(["serve", "--timeout", "1ms"], { cwd: "repo" });
      expect([code, stderr.split("\n").slice(0, 3)]).toEqual([
        2,
        [
          `seikan: error: ${path} has a mistake`,
          "",
          `3:1: ${line.split(" ")[0]} is not for the file of a project: --config FILE reads it, or give it on the command line`,
        ],
      ]);
      const named = await place.run(["config", "check", "--config", path], { cwd: "repo" });
      expect(named.code).toBe(0);
    });
  }

  test.skipIf(process.getuid?.() !== 0)("is trusted anew each time it is read", async () => {
    place.folder("again/.git");
    const path = place.write("again/seikan.toml", '[serve]\nlisten = "127.0.0.1:0"\n');
    await using server = spawnSeikan(["serve"], { cwd: place.file("again"), env: place.env() });
    await until(() => server.stderr.includes("listening on"), "it listens");
    chownSync(path, 65534, 65534);
    server.kill("SIGHUP");
    await until(
      () => server.stderr.includes(`everything stays as it was: ${path} is not read: it belongs to another user`),
      "it refuses the file of somebody else",
    );
  });
});

describe("a server with tokens in its file", () => {
  const home = new Place();
  let web: ReturnType<typeof webServer>;
  let server: Running;
  beforeAll(async () => {
    web = webServer("the web");
    const path = home.write(
      "seikan.toml",
      `[serve]\nlisten = "127.0.0.1:0"\n[token.ci]\nhash = "${HASH("ci-token")}"\nagents = ["ci-*"]\nhosts = ["ci-*"]\n`,
    );
    server = await startSeikan(["serve", "--config", path], home.env());
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    await web.stop(true);
    home[Symbol.dispose]();
  });

  const agent = (name: string, ...args: string[]) => [
    ...["agent", wsUrl(server), "--name", name, "-e", `${name}=${urlOf(web)}`, ...args],
  ];
  const refused = async (args: readonly string[], env: Record<string, string> = {}) => {
    const { code, stderr } = await runSeikan([...args, "--timeout", "20s"], { env: home.env(env) });
    return { code, error: /^seikan: error: .*$/m.exec(stderr)?.[0] };
  };

  test("takes agents that show one, and asks for no more", async () => {
    await using running = await startSeikan(agent("ci-1", "--token", "ci-token"), home.env());
    expect(running.urls).toEqual([`http://ci-1.localhost:${server.port}`]);
    await using other = await startSeikan(agent("ci-2"), home.env({ SEIKAN_TOKEN: "ci-token" }));
    expect(other.urls).toEqual([`http://ci-2.localhost:${server.port}`]);
  });

  test("refuses agents without one", async () => {
    expect(await refused(agent("ci-1"))).toEqual({
      code: 4,
      error: `seikan: error: ${wsUrl(server)} wants credentials (401); it offers basic`,
    });
  });

  test("refuses agents with another one", async () => {
    const error = `seikan: error: ${wsUrl(server)} refused our token (401)`;
    expect(await refused(agent("ci-1", "--token", "other"))).toEqual({ code: 4, error });
    // What stands in the file is no token.
    expect(await refused(agent("ci-1", "--token", HASH("ci-token")))).toEqual({ code: 4, error });
  });

  test("refuses what the token does not permit", async () => {
    expect(await refused(agent("other", "--token", "ci-token"))).toEqual({
      code: 4,
      error: `seikan: error: ${wsUrl(server)} refuses: the token ci does not permit the agent name other`,
    });
  });

  test("lets the agent's own file show the token", async () => {
    home.writeOwn('[agent]\ntoken = "ci-token"\n');
    await using running = await startSeikan(agent("ci-3"), home.env());
    expect(running.urls).toEqual([`http://ci-3.localhost:${server.port}`]);
    expect((await refused(agent("ci-4"), { SEIKAN_TOKEN: "other" })).code).toBe(4);
  });
});

describe("a mistake", () => {
  const wrong: [what: string, args: string[], stderr: () => string][] = [
    [
      "a file that is not there",
      ["serve", "--config", "none.toml"],
      () => `seikan: error: --config: there is no file ${place.file("none.toml")}\n`,
    ],
    [
      "a folder as file",
      ["connect", "a.org:80", "--dry-run", "--config", "folder"],
      () => `seikan: error: cannot read ${place.file("folder")}: EISDIR\n`,
    ],
    [
      "no name of a file",
      ["config", "check", "--config="],
      () => "seikan: error: --config: expected a value, got an empty one\n",
    ],
    ["no word", ["config"], () => `seikan: error: what about the configuration?\n${USAGE}`],
    ["another word", ["config", "chekc"], () => `seikan: error: no command "chekc"\n${USAGE}`],
    [
      "an argument of check",
      ["config", "check", "serve"],
      () => `seikan: error: unexpected argument "serve"\n${USAGE}`,
    ],
    [
      "an argument of schema",
      ["config", "schema", "serve"],
      () => `seikan: error: unexpected argument "serve"\n${USAGE}`,
    ],
    [
      "a command without a section",
      ["config", "print", "token"],
      () => `seikan: error: unexpected argument "token"\n${USAGE}`,
    ],
    [
      "one argument more",
      ["config", "print", "serve", "agent"],
      () => `seikan: error: unexpected argument "agent"\n${USAGE}`,
    ],
    [
      "a command behind it",
      ["config", "check", "--", "true"],
      () => "seikan: error: seikan config runs no command behind --\n",
    ],
  ];
  for (const [what, args, stderr] of wrong) {
    test(`is ${what}: seikan ${args.join(" ")}`, async () => {
      place.folder("folder");
      expect(await place.run(args)).toEqual(refusedWith(stderr()));
    });
  }

  // Nothing is printed then, and all is well.
  test("is what every object has: seikan config print toString", async () => {
    const stderr = `seikan: error: unexpected argument "toString"\n${USAGE}`;
    expect(await place.run(["config", "print", "toString"])).toEqual(refusedWith(stderr));
  });

  const readers: [command: string, args: string[]][] = [
    ["serve", ["serve", "-l", "127.0.0.1:0"]],
    ["connect", ["connect", "a.org:80", "--dry-run"]],
    ["agent", ["agent", "ws://127.0.0.1:1", "-e", "http://127.0.0.1:1"]],
    ["config print", ["config", "print"]],
    ["config check", ["config", "check"]],
  ];
  for (const [command, args] of readers) {
    test(`in the file ends seikan ${command} before it does anything`, async () => {
      const path = place.writeOwn("[frobnicate]\n");
      expect(await place.run(args)).toEqual(
        refusedWith(`seikan: error: ${path} has a mistake

1:2: unknown section \`frobnicate\`: known are connect, serve, agent, service, expose, route, token
  > 1 | [frobnicate]
      |  ^^^^^^^^^^
    2 |
`),
      );
    });
  }

  test("in the file is told although the command line decides", async () => {
    place.writeOwn("[connect]\nretry = true\n");
    const { code, stderr } = await place.run(["connect", "a.org:80", "--dry-run", "--retry", "1"]);
    expect(code).toBe(2);
    expect(stderr).toContain("2:9: retry: expected a text, got true");
  });

  test("in the section of another command is none", async () => {
    place.writeOwn("[serve]\nlisen = 1\n[agent]\nnmae = 1\n");
    expect((await place.run(["connect", "a.org:80", "--dry-run"])).code).toBe(0);
  });

  test("in the environment is named", async () => {
    expect(await place.run(["config", "print"], { env: { SEIKAN_TUNNELS: "x" } })).toEqual(
      refusedWith('seikan: error: SEIKAN_TUNNELS: expected a whole number from 1 to 16, got "x"\n'),
    );
  });

  // It says --config.
  test("in SEIKAN_CONFIG is named", async () => {
    expect(await place.run(["connect", "a.org:80", "--dry-run"], { env: { SEIKAN_CONFIG: "none.toml" } })).toEqual(
      refusedWith(`seikan: error: SEIKAN_CONFIG: there is no file ${place.file("none.toml")}\n`),
    );
  });
});
