import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { GLOBAL_OPTIONS } from "../../src/commands/command.ts";
import { SERVE_OPTIONS } from "../../src/commands/serve-options.ts";
import type { ServiceEntry } from "../../src/commands/service-options.ts";
import { ConfigFile, type FileReader } from "../../src/config/file.ts";
import { tcpTarget } from "../../src/core/address.ts";
import { SeikanError } from "../../src/core/errors.ts";
import type { ServiceHosting } from "../../src/routes/service-sites.ts";
import type { ServiceSettings } from "../../src/services/settings.ts";
import { TempFolder } from "../support/process.ts";

const SERVE: FileReader = { section: "serve", specs: { ...SERVE_OPTIONS, ...GLOBAL_OPTIONS } };
const ENV = { HOME: "/home/ann" };

let temp: TempFolder;
beforeAll(() => {
  temp = new TempFolder();
});
afterAll(() => temp[Symbol.dispose]());

async function read(text: string): Promise<ServiceEntry[]> {
  const path = temp.file("seikan.toml");
  writeFileSync(path, text);
  const values = await new ConfigFile({ path: path, kind: "named" }).read(SERVE, ENV);
  return values.entriesOf("service") as ServiceEntry[];
}

/** `[service.web]` with these lines. */
async function web(...lines: string[]): Promise<ServiceEntry> {
  return (await read(["[service.web]", ...lines, ""].join("\n")))[0]!;
}

async function refusal(text: string): Promise<SeikanError> {
  try {
    await read(text);
  } catch (thrown) {
    if (thrown instanceof SeikanError) return thrown;
    throw thrown;
  }
  throw new Error(`taken: ${text}`);
}

/** `LINE:COLUMN message` of each mistake, and what is suggested. */
async function mistakes(text: string): Promise<string[]> {
  const { mistakes: all } = await refusal(text);
  return all.map(
    ({ line, column, message, hint }) => `${line}:${column} ${message}${hint === undefined ? "" : ` (${hint})`}`,
  );
}

/** What a service is whose keys say no more than its command. */
const PLAIN: Omit<ServiceSettings, "folder"> = {
  name: "web",
  place: { kind: "loopback", port: undefined },
  command: "run",
  env: {},
  envFile: undefined,
  hasTerminal: false,
  tls: false,
  insecure: false,
  proxyProtocol: false,
  ready: { kind: "port" },
  readyMs: 60_000,
  settleMs: 0,
  usualMs: 0,
  idleMs: 0,
  restarts: true,
  stopMs: 5000,
  dependsOn: [],
};
const PLAIN_HOSTING: ServiceHosting = { hosts: ["web.localhost"], path: "/", isPublic: false };

describe("the services of a file", () => {
  test("are what it says, and the rest by default", async () => {
    const text = `[service.django]
host = "django.localhost"
port = 8001
cwd = "~/Projects/my-django-project"
command = "uv run manage.py runserver {port}"
delay = 3

[service.hugo]
host = "hugo.localhost"
port = 8002
cwd = "~/Projects/my-hugo-site"
command = "hugo server --buildDrafts --buildFuture --port {port}  --liveReloadPort 80"
`;
    expect(await read(text)).toEqual([
      {
        settings: {
          ...PLAIN,
          name: "django",
          place: { kind: "loopback", port: 8001 },
          folder: "/home/ann/Projects/my-django-project",
          command: "uv run manage.py runserver {port}",
          usualMs: 3000,
        },
        hosting: { hosts: ["django.localhost"], path: "/", isPublic: false },
      },
      {
        settings: {
          ...PLAIN,
          name: "hugo",
          place: { kind: "loopback", port: 8002 },
          folder: "/home/ann/Projects/my-hugo-site",
          command: "hugo server --buildDrafts --buildFuture --port {port}  --liveReloadPort 80",
        },
        hosting: { hosts: ["hugo.localhost"], path: "/", isPublic: false },
      },
    ]);
  });

  test("may say everything at once", async () => {
    const text = `
[service.db]
target = "unix:/run/db.sock"

[service.api]
host = ["API.localhost", "*.api.localhost", "api.test."]
path = "/v1"
command = ["bin/api", "--listen", "{addr}"]
cwd = "api"
env = { DEBUG = true, LEVEL = 3, URL = "{url}" }
env_file = ".env"
tty = true
ready = { http = "/healthz" }
ready_timeout = "2m"
delay = "1500ms"
settle = 0.25
idle = "15m"
restart = "no"
stop_timeout = "500ms"
https = true
insecure = true
depends_on = ["db"]
public = true
`;
    expect((await read(text))[1]).toEqual({
      settings: {
        name: "api",
        place: { kind: "loopback", port: undefined },
        command: ["bin/api", "--listen", "{addr}"],
        folder: temp.file("api"),
        env: { DEBUG: "true", LEVEL: "3", URL: "{url}" },
        envFile: temp.file(".env"),
        hasTerminal: true,
        tls: true,
        insecure: true,
        proxyProtocol: false,
        ready: { kind: "http", path: "/healthz" },
        readyMs: 120_000,
        settleMs: 250,
        usualMs: 1500,
        idleMs: 900_000,
        restarts: false,
        stopMs: 500,
        dependsOn: ["db"],
      },
      hosting: { hosts: ["api.localhost", "*.api.localhost", "api.test"], path: "/v1", isPublic: true },
    });
  });

  test("may be written inline, dotted, and with hyphens", async () => {
    const expected = { settings: { ...PLAIN, folder: temp.path, readyMs: 5000 }, hosting: PLAIN_HOSTING };
    for (const text of [
      'service.web.command = "run"\nservice.web.ready-timeout = "5s"\n',
      'service = { web = { command = "run", ready_timeout = "5s" } }\n',
      '[service]\nweb = { command = "run", "ready-timeout" = "5s" }\n',
    ])
      expect(await read(text)).toEqual([expected]);
  });

  test("are none where the file has none", async () => {
    expect(await read("[serve]\nquiet = true\n")).toEqual([]);
  });
});

describe("a key of a service", () => {
  test("may be left out, all but what it is about", async () => {
    expect(await web('command = "run"')).toEqual({ settings: { ...PLAIN, folder: temp.path }, hosting: PLAIN_HOSTING });
    const reached = { ...PLAIN, folder: temp.path, command: undefined };
    expect(await web("port = 8001")).toEqual({
      ...{ settings: { ...reached, place: { kind: "loopback", port: 8001 } }, hosting: PLAIN_HOSTING },
    });
    expect((await web('target = "db.lan:80"')).settings).toEqual({
      ...reached,
      place: { kind: "target", target: tcpTarget("db.lan", 80) },
    });
  });

  const settings: [line: string, change: Partial<ServiceSettings>][] = [
    ["port = 1", { place: { kind: "loopback", port: 1 } }],
    ["port = 65535", { place: { kind: "loopback", port: 65_535 } }],
    ["port = 8_001", { place: { kind: "loopback", port: 8001 } }],
    ["port = 0", { place: { kind: "loopback", port: undefined } }],
    ['target = "localhost:3000"', { place: { kind: "target", target: tcpTarget("localhost", 3000) } }],
    ['target = "127.0.0.2:3000"', { place: { kind: "target", target: tcpTarget("127.0.0.2", 3000) } }],
    ['target = "[::1]:3000"', { place: { kind: "target", target: tcpTarget("::1", 3000) } }],
    ['target = "app.localhost:3000"', { place: { kind: "target", target: tcpTarget("app.localhost", 3000) } }],
    ['target = "unix:/run/app.sock"', { place: { kind: "target", target: { kind: "unix", path: "/run/app.sock" } } }],
    ["env = {}", { env: {} }],
    ['env = { "A-B" = "x", PORT = 0, E = "" }', { env: { "A-B": "x", PORT: "0", E: "" } }],
    ["env = { F = 1.5, N = -1, B = false }", { env: { F: "1.5", N: "-1", B: "false" } }],
    ["tty = false", {}],
    ["tty = true", { hasTerminal: true }],
    ['ready = { http = "/" }', { ready: { kind: "http", path: "/" } }],
    ['ready = { log = "Listening on" }', { ready: { kind: "log", text: "Listening on" } }],
    ['ready.log = "ready"', { ready: { kind: "log", text: "ready" } }],
    ['ready_timeout = "1m30s"', { readyMs: 90_000 }],
    ["delay = 0", {}],
    ["delay = 2.5", { usualMs: 2500 }],
    ['delay = "1m"', { usualMs: 60_000 }],
    ["settle = 1", { settleMs: 1000 }],
    ['settle = "10ms"', { settleMs: 10 }],
    ["idle = 0", {}],
    ['idle = "0"', {}],
    ['idle = "1h"', { idleMs: 3_600_000 }],
    ['restart = "on-failure"', {}],
    ['restart = "no"', { restarts: false }],
    ["stop_timeout = 0", { stopMs: 0 }],
    ['stop_timeout = "30s"', { stopMs: 30_000 }],
    ["https = true", { tls: true }],
    ["https = false", {}],
    ["insecure = true", { insecure: true }],
    ["depends_on = []", {}],
  ];
  for (const [line, change] of settings) {
    test(`${line} is taken`, async () => {
      expect((await web('command = "run"', line)).settings).toEqual({ ...PLAIN, folder: temp.path, ...change });
    });
  }

  const commands: [line: string, command: string | string[]][] = [
    ['command = "a  b"', "a  b"],
    ['command = ["a", "b c", ""]', ["a", "b c", ""]],
    ["command = '''\na\nb'''", "a\nb"],
  ];
  for (const [line, command] of commands) {
    test(`${JSON.stringify(line)} is taken`, async () => {
      expect((await web(line)).settings.command).toEqual(command);
    });
  }

  const folders: [written: string, folder: () => string][] = [
    [".", () => temp.path],
    ["a/../b", () => temp.file("b")],
    ["/srv/app", () => "/srv/app"],
    ["~", () => "/home/ann"],
    ["~/app", () => "/home/ann/app"],
    ["~bob/app", () => temp.file("~bob/app")],
  ];
  for (const [written, folder] of folders) {
    test(`begins at the file's folder: the path ${written}`, async () => {
      const found = await web('command = "run"', `cwd = "${written}"`, `env_file = "${written}/.env"`);
      expect([found.settings.folder, found.settings.envFile]).toEqual([folder(), `${folder()}/.env`]);
    });
  }

  const hostings: [line: string, change: Partial<ServiceHosting>][] = [
    ['host = "app.test"', { hosts: ["app.test"] }],
    ['host = ["a.localhost", "*.A.localhost"]', { hosts: ["a.localhost", "*.a.localhost"] }],
    ['host = "*.localhost"', { hosts: ["*.localhost"] }],
    ['host = "APP.Test."', { hosts: ["app.test"] }],
    ['host = "m\u00fcnchen.test"', { hosts: ["xn--mnchen-3ya.test"] }],
    ['path = "/api"', { path: "/api" }],
    ['path = "/api/"', { path: "/api/" }],
    ["public = true", { isPublic: true }],
    ["public = false", {}],
  ];
  for (const [line, change] of hostings) {
    test(`${line} is taken`, async () => {
      expect((await web("port = 8001", line)).hosting).toEqual({ ...PLAIN_HOSTING, ...change });
    });
  }

  test("names its host by its own name where it says no other, in lower case", async () => {
    const names = ["Web", "my-app", "a.b", "3d"];
    const text = names.map((name) => `[service.${JSON.stringify(name)}]\nport = 1\n`).join("");
    expect((await read(text)).map(({ hosting }) => hosting.hosts)).toEqual([
      ...[["web.localhost"], ["my-app.localhost"], ["a.b.localhost"], ["3d.localhost"]],
    ]);
  });
});

describe("a wrong value", () => {
  const TIME = "expected a time such as 500ms, 10s or 15m";
  const wrong: [line: string, mistakes: string[]][] = [
    ["host = 5", ["3:8 host: expected a host, or a list of hosts, got 5"]],
    ['host = ""', ["3:8 host: expected a text that is not empty"]],
    ['host = ["a.localhost", 5]', ["3:24 host: expected a text, got 5"]],
    ['path = "api"', ["3:8 path: expected a path such as /api"]],
    ['path = "/a?b"', ["3:8 path: expected a path such as /api"]],
    ['path = "/a b"', ["3:8 path: expected a path such as /api"]],
    ["path = 5", ["3:8 path: expected a text, got 5"]],
    ["port = 65536", ["3:8 port: expected a port"]],
    ["port = -1", ["3:8 port: expected a port"]],
    ["port = 8001.5", ["3:8 port: expected a port"]],
    ['port = "8001"', ['3:8 port: expected a number, got "8001"']],
    ["target = 5", ["3:10 target: expected a text, got 5"]],
    ['target = ""', ["3:10 target: expected a text that is not empty"]],
    ['cwd = ""', ["3:7 cwd: expected a text that is not empty"]],
    ["cwd = 5", ["3:7 cwd: expected a text, got 5"]],
    ['env = "A=1"', ["3:7 env: expected a table"]],
    ["env = { A = [1] }", ["3:13 A: expected a text"]],
    ["env = { A = 1979-05-27 }", ["3:13 A: expected a text"]],
    ['env_file = ""', ["3:12 env_file: expected a text that is not empty"]],
    ["env_file = 5", ["3:12 env_file: expected a text, got 5"]],
    ['tty = "yes"', ['3:7 tty: expected true or false, got "yes"']],
    ['ready = "port"', ["3:9 ready: expected a table"]],
    ["ready = {}", ['3:9 ready: expected { http = "/path" } or { log = "text" }']],
    ['ready = { http = "/", log = "x" }', ['3:9 ready: expected { http = "/path" } or { log = "text" }']],
    ['ready = { http = "healthz" }', ["3:18 http: expected a path such as /healthz"]],
    ["ready = { http = 5 }", ["3:18 http: expected a text, got 5"]],
    ['ready = { log = "" }', ["3:17 log: expected a text that is not empty"]],
    ['ready = { http = "/", status = 200 }', ["3:23 unknown key `status` (known are http, log)"]],
    ["ready_timeout = 60", [`3:17 ready_timeout: ${TIME}, got 60`]],
    ['ready_timeout = "60"', [`3:17 ready_timeout: ${TIME}`]],
    ['ready_timeout = "soon"', [`3:17 ready_timeout: ${TIME}`]],
    ['delay = "3"', [`3:9 delay: ${TIME}`]],
    ["delay = true", ["3:9 delay: expected seconds, or a time such as 500ms, got true"]],
    ['settle = "1 s"', [`3:10 settle: ${TIME}`]],
    ["idle = 900", [`3:8 idle: ${TIME}, got 900`]],
    ['idle = "15"', [`3:8 idle: ${TIME}`]],
    ["idle = true", [`3:8 idle: ${TIME}, got true`]],
    ['restart = "always"', ['3:11 restart: expected "on-failure" or "no", got "always"']],
    ["restart = true", ['3:11 restart: expected "on-failure" or "no", got true']],
    ["stop_timeout = 5", [`3:16 stop_timeout: ${TIME}, got 5`]],
    ['https = "yes"', ['3:9 https: expected true or false, got "yes"']],
    ["insecure = 1", ["3:12 insecure: expected true or false, got 1"]],
    ['depends_on = "db"', ['3:14 depends_on: expected a list, got "db"']],
    ["depends_on = [5]", ["3:15 depends_on: expected a text, got 5"]],
    ['depends_on = [""]', ["3:15 depends_on: expected a text that is not empty"]],
    ['public = "yes"', ['3:10 public: expected true or false, got "yes"']],
    ['comand = "x"', ["3:1 unknown key `comand` (did you mean `command`?)"]],
    ['read_timeout = "5s"', ["3:1 unknown key `read_timeout` (did you mean `ready_timeout`?)"]],
    ['hosts = "a"', ["3:1 unknown key `hosts` (did you mean `host`?)"]],
  ];
  for (const [line, expected] of wrong) {
    test(`${line} is refused in its place`, async () => {
      expect(await mistakes(`[service.web]\ncommand = "run"\n${line}\n`)).toEqual(expected);
    });
  }

  const commands: [line: string, mistake: string][] = [
    ['command = ""', "2:11 command: expected a text that is not empty"],
    ["command = []", "2:11 command: expected a command"],
    ['command = ["run", 1]', "2:19 command: expected a text, got 1"],
    ["command = 5", "2:11 command: expected a command, or a list of its words, got 5"],
    ["command = true", "2:11 command: expected a command, or a list of its words, got true"],
  ];
  for (const [line, mistake] of commands) {
    test(`${line} is refused in its place`, async () => {
      expect(await mistakes(`[service.web]\n${line}\n`)).toEqual([mistake]);
    });
  }

  for (const line of ["delay = -1", "settle = -0.5"]) {
    test(`${line} is refused in its place`, async () => {
      const [mistake, ...more] = await mistakes(`[service.web]\ncommand = "run"\n${line}\n`);
      expect([mistake!.startsWith(`3:${line.indexOf("-") + 1} ${line.split(" ")[0]}: expected`), more]).toEqual([
        true,
        [],
      ]);
    });
  }

  // A start that may take no time fails, and one that settles for ever does not end.
  for (const line of ["ready_timeout = 0", "settle = inf", "delay = inf"]) {
    test(`${line} is refused`, async () => {
      expect(await mistakes(`[service.web]\ncommand = "run"\n${line}\n`)).toHaveLength(1);
    });
  }

  for (const [line, mistake] of [
    ["port = inf", "3:8 port: expected a port"],
    ['ready = { htp = "/" }', "3:11 unknown key `htp` (did you mean `http`?)"],
  ] as const) {
    test(`${line} is one mistake`, async () => {
      expect(await mistakes(`[service.web]\ncommand = "run"\n${line}\n`)).toEqual([mistake]);
    });
  }
});

/** Values that are right for themselves, and say nothing that could be done. */
const UNUSABLE: [lines: string[], message: string][] = [
  [['host = "a b"', "port = 1"], '"a b" is no host name'],
  [['host = "127.0.0.1"', "port = 1"], '"127.0.0.1" is no host name'],
  [['host = "*"', "port = 1"], '"*" is no host name'],
  [['host = "a.*.test"', "port = 1"], '"a.*.test" is no host name'],
  [['host = "http://a.localhost"', "port = 1"], '"http://a.localhost" is no host name'],
  [
    ['host = "a.localhost:8080"', "port = 1"],
    '"a.localhost:8080" has a port (a host stands alone: the port is where seikan serve listens)',
  ],
  [['host = "Localhost."', "port = 1"], "localhost is the server itself (choose a name below it: app.localhost)"],
  [['target = "db"'], 'cannot read target "db": expected HOST:PORT (add the port: db:443)'],
  [
    ['target = "http://db:80"'],
    'cannot read target "http://db:80": expected HOST:PORT (a target is no URL: write db:80)',
  ],
  [['target = "udp:db:53"'], "a service speaks HTTP, over TCP or a unix socket"],
  [['target = "unix:"'], '"unix:" lacks a path (write unix:/run/app.sock)'],
];

describe("keys that say nothing together", () => {
  const together: [lines: string[], message: string][] = [
    [[], "service web has neither a command nor a port (give it one of them, or both)"],
    [["port = 0"], "service web has neither a command nor a port (give it one of them, or both)"],
    [['host = "a.test"'], "service web has neither a command nor a port (give it one of them, or both)"],
    [["port = 1", 'target = "localhost:1"'], "port and target exclude each other"],
    [["port = 0", 'target = "localhost:1"'], "port and target exclude each other"],
    [
      ['command = "run"', 'target = "db.lan:80"'],
      "service web is on another machine: no command starts it (leave out the command)",
    ],
    [
      ['command = "run"', 'target = "10.0.0.1:80"'],
      "service web is on another machine: no command starts it (leave out the command)",
    ],
    [["port = 1", 'ready.log = "x"'], "ready.log is about what a command prints, and there is none"],
  ];
  for (const [lines, message] of together) {
    test(`are refused: ${lines.join(", ") || "none"}`, async () => {
      expect(await mistakes(["[service.web]", ...lines, ""].join("\n"))).toEqual([`1:2 ${message}`]);
    });
  }

  for (const [lines, message] of UNUSABLE) {
    test(`are refused: ${lines[0]}`, async () => {
      const found = await mistakes(["[service.web]", ...lines, ""].join("\n"));
      expect(found.map((mistake) => mistake.replace(/^\S+ /, ""))).toEqual([message]);
    });
  }

  test("are refused where the host or the target is written", async () => {
    expect(await mistakes('[service.web]\nport = 1\nhost = "a b"\n')).toEqual(['3:8 "a b" is no host name']);
    const [mistake] = await mistakes('[service.web]\ntarget = "db"\n');
    expect(mistake).toStartWith('2:10 cannot read target "db"');
  });
});

describe("the name of a service", () => {
  for (const name of ["a b", "\u00e4", "", "-a", "a/b", "x".repeat(64)]) {
    test(`is not ${JSON.stringify(name)}`, async () => {
      expect(await mistakes(`[service.${JSON.stringify(name)}]\nport = 1\n`)).toEqual([
        `1:2 "${name}" is no name for a service: letters, digits, hyphens, dots`,
      ]);
    });
  }

  test("may be one that no host has, with a host", async () => {
    expect(await mistakes("[service.my_app]\nport = 1\n")).toEqual(['1:2 "my_app.localhost" is no host name']);
    const [entry] = await read('[service.my_app]\nport = 1\nhost = "my-app.localhost"\n');
    expect([entry!.settings.name, entry!.hosting.hosts]).toEqual(["my_app", ["my-app.localhost"]]);
  });

  test("leads to a table", async () => {
    expect(await mistakes("service = 5\n")).toEqual(["1:11 service: expected a table, got 5"]);
    expect(await mistakes("[service]\nweb = 5\n")).toEqual(["2:7 web: expected a table, got 5"]);
    expect(await mistakes("[[service.web]]\nport = 1\n")).toEqual(["1:3 web: expected a table, got a list"]);
  });

  test("may look like that of a secret, and hides no values", async () => {
    const { mistakes: all } = await refusal('[service.keycloak]\nport = "8001"\n');
    expect(all.map(({ message, frame }) => [message, frame[1]])).toEqual([
      ['port: expected a number, got "8001"', '> 2 | port = "8001"'],
    ]);
  });
});

describe("services together", () => {
  test("have hosts of their own", async () => {
    const text = `[service.a]
port = 1
host = "x.localhost"
[service.b]
port = 2
host = ["y.localhost", "X.localhost."]
[service.c]
port = 3
host = "*.localhost"
[service.C]
port = 4
host = "*.localhost"
`;
    expect(await mistakes(text)).toEqual([
      "4:2 x.localhost is the host of a already",
      "10:2 *.localhost is the host of c already",
    ]);
  });

  test("may share a host below different paths, and no path", async () => {
    const on = (name: string, path: string) => `[service.${name}]\nport = 1\nhost = "x.localhost"\npath = "${path}"\n`;
    expect(await read(on("a", "/") + on("b", "/api") + on("c", "/apis"))).toHaveLength(3);
    expect(await mistakes(on("a", "/api") + on("b", "/") + on("c", "/api"))).toEqual([
      "9:2 x.localhost/api is the host of a already",
    ]);
  });

  test("have ports of their own where they are started there", async () => {
    const on = (name: string, port: number, ...lines: string[]) =>
      [`[service.${name}]`, `port = ${port}`, ...lines, ""].join("\n");
    const run = 'command = "run"';
    expect(await mistakes(on("a", 1, run) + on("b", 2, run) + on("c", 1, run))).toEqual([
      "7:2 port 1 is that of a already",
    ]);
    // Who is only reached there may well be the other one.
    expect(await read(on("a", 1, run) + on("b", 1) + on("c", 0, run) + on("d", 0, run))).toHaveLength(4);
  });

  test("depend on such as there are, and never on themselves", async () => {
    const on = (name: string, ...others: string[]) =>
      `[service.${name}]\nport = 1\ndepends_on = ${JSON.stringify(others)}\n`;
    expect(await read(on("a", "b", "c") + on("b", "c") + on("c"))).toHaveLength(3);
    expect(await mistakes(on("a", "b", "nobody") + on("b", "b") + on("c", "d") + on("d", "e") + on("e", "c"))).toEqual([
      "1:2 it depends on nobody, and there is no such service",
      "4:2 it depends on itself, perhaps through others",
      "7:2 it depends on itself, perhaps through others",
      "10:2 it depends on itself, perhaps through others",
      "13:2 it depends on itself, perhaps through others",
    ]);
    // What needs a circle is in none.
    expect(await mistakes(on("a", "b") + on("b", "c") + on("c", "b"))).toEqual([
      "4:2 it depends on itself, perhaps through others",
      "7:2 it depends on itself, perhaps through others",
    ]);
  });

  test("depend also on such as have a mistake, which is the only one then", async () => {
    const text = '[service.a]\nport = 1\ndepends_on = ["b"]\n[service.b]\nport = 2\ntarget = "localhost:3"\n';
    expect(await mistakes(text)).toEqual(["4:2 port and target exclude each other"]);
  });

  test("tell everything that is wrong at once, in the order of the file, with the lines around", async () => {
    const text = `[service.web]
comand = "run"
port = 65536
idle = 3

[service.api]
command = ["run", 5]
depends_on = "web"
`;
    const { message, mistakes: all } = await refusal(text);
    expect(message).toBe(`${temp.file("seikan.toml")} has 5 mistakes`);
    expect(all.map(({ line, message: told }) => [line, told])).toEqual([
      [2, "unknown key `comand`"],
      [3, "port: expected a port"],
      [4, "idle: expected a time such as 500ms, 10s or 15m, got 3"],
      [7, "command: expected a text, got 5"],
      [8, 'depends_on: expected a list, got "web"'],
    ]);
    expect(all[1]!.frame).toEqual([
      ...['  2 | comand = "run"', "> 3 | port = 65536", "    |        ^^^^^", "  4 | idle = 3"],
    ]);
  });

  test("hide no mistake of one entry behind those of another, whatever kind they are", async () => {
    const text = `[service.a]\nport = 99999\n[service.b]\nhost = "x.localhost"\nport = 1\n[service.c]
host = "x.localhost"\nport = 2\n[service."bad name"]\nport = 3\n[service.n]\n`;
    const { mistakes: all } = await refusal(text);
    expect(all.map(({ line, message: told }) => [line, told])).toEqual([
      [2, "port: expected a port"],
      [6, "x.localhost is the host of b already"],
      [9, '"bad name" is no name for a service: letters, digits, hyphens, dots'],
      [11, "service n has neither a command nor a port"],
    ]);
  });

  test("show nothing of what is in an environment", async () => {
    const text = '[service.web]\ncommand = "run"\nenv = { TOKEN = "geheim" }\nidle = 3\n';
    const { mistakes: all } = await refusal(text);
    expect(JSON.stringify(all)).not.toContain("geheim");
    expect(all[0]!.frame[0]).toMatch(/^ {2}3 \| env = [* ]+$/);
  });
});
