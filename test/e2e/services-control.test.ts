import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { eventually, get, lines, visit } from "../support/agents.ts";
import { accepting, freePort, type Process, spawnSeikan } from "../support/process.ts";
import { dialRaw, RawServer, type RawResponse } from "../support/raw.ts";
import { cleanEnv, COMMAND, runSeikan, type Outcome, type Running } from "../support/seikan.ts";
import { at, dev, devLine, devProcess, isGone, kill, pidAt, Project, quoted, roundTrips } from "../support/services.ts";
import { until, within } from "../support/wait.ts";
import { answerTo } from "../support/websocket-client.ts";

setDefaultTimeout(60_000);

// `seikan services`, the control socket behind it, and /-/services.

/** `seikan services` with these words, in this project. */
const services = (project: Project, ...words: string[]): Promise<Outcome> =>
  runSeikan(["services", ...words], { env: project.env });

const following = (project: Project, ...words: string[]): Process =>
  spawnSeikan(["services", ...words], { env: project.env });

const runFolder = (project: Project) => project.file("run/seikan");
const socketOf = (project: Project, pid: number) => `${runFolder(project)}/serve-${pid}.sock`;
const tokenFileOf = (project: Project, pid: number) => `${runFolder(project)}/serve-${pid}.token`;
const tokenOf = (project: Project, pid: number) => readFileSync(tokenFileOf(project, pid), "utf8").trim();

const NOBODY: Outcome = {
  code: 3,
  stdout: "",
  stderr:
    "seikan: error: no seikan serve with a configuration file is running\n  hint: start one where seikan.toml is: seikan serve\n",
};
const usage = (message: string, hint: string): Outcome => ({
  code: 2,
  stdout: "",
  stderr: `seikan: error: ${message}\n  hint: ${hint}\n`,
});
const printed = (...text: string[]): Outcome => ({
  code: 0,
  stdout: text.map((line) => `${line}\n`).join(""),
  stderr: "",
});
/** Log lines without the moment. */
const untimed = (text: string) => text.replaceAll(/^\d{4}-\S+ /gm, "");
/** A table's lines, whatever the time and the process ids are. */
const table = (text: string) =>
  text
    .split("\n\n")[0]!
    .replaceAll(/\b\d+s\b/g, "TIME")
    .replaceAll(/ \d+ /g, " PID ")
    .split("\n")
    .map((line) => line.replaceAll(/ {2,}/g, " | "));

interface Report {
  readonly name: string;
  readonly state: string;
  readonly pid?: number;
  readonly [key: string]: unknown;
}

const status = async (project: Project, ...words: string[]): Promise<Report[]> => {
  const { code, stdout, stderr } = await services(project, "status", "--json", ...words);
  expect([code, stderr]).toEqual([0, ""]);
  return (JSON.parse(stdout) as { services: Report[] }).services;
};

describe("seikan services", () => {
  const project = new Project();
  /** A server that somebody else started. */
  let foreign: Process;
  let foreignPort: number;
  let server: Running;
  beforeAll(async () => {
    foreignPort = freePort();
    foreign = devProcess("ext", "--port", String(foreignPort));
    await accepting(foreignPort, foreign);
    server = await project.serve({
      web: { command: dev("--say", "hello", "--say", "", "--say", "behind a blank line"), delay: 3 },
      bad: { command: "echo first; echo; echo last words; exit 7" },
      "much-longer-name": { command: dev(), host: ["*.deep.localhost", "deep.localhost"], path: "/api" },
      plain: { port: foreignPort, host: "plain.localhost" },
      ext: { port: foreignPort, command: dev() },
    });
  });
  afterAll(async () => {
    await project[Symbol.asyncDispose]();
    await foreign[Symbol.asyncDispose]();
  });

  const urlOf = (host: string) => `http://${host}.localhost:${server.port}`;

  test("prints a table, and where the page is", async () => {
    const { code, stdout, stderr } = await services(project);
    expect([code, stderr]).toEqual([0, ""]);
    const width = urlOf("deep").length + "/api".length;
    const rows = [
      ["NAME", "STATE", "UP", "PID", "URL"],
      ["web", "stopped", "", "", urlOf("web")],
      ["bad", "stopped", "", "", urlOf("bad")],
      ["much-longer-name", "stopped", "", "", `${urlOf("deep")}/api`],
      ["plain", "up", "", "", urlOf("plain")],
      ["ext", "external", "", "", urlOf("ext")],
    ];
    const widths = [16, 8, 2, 3, width];
    const shown = rows.map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join("  ")
        .trimEnd(),
    );
    expect(stdout).toBe(`${shown.join("\n")}\n\nstatus page: http://localhost:${server.port}/-/services\n`);
    // The same, asked for by name.
    expect(await services(project, "status")).toEqual(printed(...shown));
    expect((await services(project, "status", "ext")).stdout).toBe(
      `NAME  STATE     UP  PID  URL\next   external           ${urlOf("ext")}\n`,
    );
  });

  test("prints JSON for scripts", async () => {
    await services(project, "start", "web");
    const pid = await pidAt(server, "web");
    const all = await status(project);
    expect(all.map(({ name, state, managed }) => [name, state, managed])).toEqual([
      ["web", "ready", true],
      ["bad", expect.stringMatching(/^(stopped|failed)$/), true],
      ["much-longer-name", "stopped", true],
      ["plain", "up", false],
      ["ext", "external", true],
    ]);
    const [web] = await status(project, "web");
    expect(web).toEqual({
      ...{ name: "web", state: "ready", url: urlOf("web"), managed: true, folder: project.path },
      ...{ command: dev("--say", "hello", "--say", "", "--say", "behind a blank line").join(" ") },
      ...{ pid, port: expect.any(Number), upMs: expect.any(Number), open: 0, waiting: 0, starts: 1 },
    });
    expect(web!.port).toBeGreaterThan(0);
    expect((await status(project, "plain"))[0]).toEqual({
      ...{ name: "plain", state: "up", url: urlOf("plain"), managed: false, folder: project.path },
      ...{ port: foreignPort, open: 0, waiting: 0, starts: 0 },
    });
  });

  test("start waits until it is ready, and does no more for one that is", async () => {
    await services(project, "stop", "web");
    const before = project.pids("web", "listen").length;
    expect(await services(project, "start", "web")).toEqual(printed("web is ready"));
    expect(project.pids("web", "listen").length).toBe(before + 1);
    expect(await services(project, "start", "web")).toEqual(printed("web is ready"));
    expect(project.pids("web", "listen").length).toBe(before + 1);
  });

  test("start that fails shows what was printed last, and ends with 3", async () => {
    const { code, stdout, stderr } = await services(project, "start", "bad");
    expect([code, stdout]).toEqual([3, ""]);
    expect(untimed(stderr)).toBe(
      `  | # starting: echo first; echo; echo last words; exit 7
  | first
  | 
  | last words
  | # exit code 7
error bad ended before it was ready: exit code 7
`,
    );
    const { stdout: all } = await services(project, "status", "bad");
    expect(all).toBe(
      `NAME  STATE   UP  PID  URL\nbad   failed           ${urlOf("bad")}\n  bad ended before it was ready: exit code 7\n`,
    );
  });

  test("start by hand takes no notice of the pause after a failure", async () => {
    const count = async () => (await status(project, "bad"))[0]!.starts as number;
    const before = await count();
    await services(project, "start", "bad");
    await services(project, "start", "bad");
    expect(await count()).toBe(before + 2);
  });

  test("stop holds it until it is started: nobody's request starts it", async () => {
    await services(project, "start", "web");
    const pid = await pidAt(server, "web");
    expect(await services(project, "stop", "web")).toEqual(printed("web is stopped by hand"));
    await isGone(pid);
    const before = project.pids("web").length;
    const { status: code, body, values } = await at(server, "web");
    expect([code, body]).toEqual([
      503,
      "seikan: web was stopped by hand\nhint: seikan services start web starts it again\n",
    ]);
    expect(values("retry-after")).toEqual([]);
    expect((await at(server, "web", "/", "Sec-Fetch-Mode: navigate")).status).toBe(503);
    expect((await status(project, "web"))[0]).toMatchObject({ state: "held", starts: expect.any(Number) });
    expect((await status(project, "web"))[0]!.pid).toBeUndefined();
    expect(table((await services(project, "status", "web")).stdout)).toEqual([
      "NAME | STATE | UP | PID | URL",
      `web | stopped by hand | ${urlOf("web")}`,
      "",
    ]);
    expect(project.pids("web").length).toBe(before);
    expect(await services(project, "stop", "web")).toEqual(printed("web is stopped by hand"));
    await services(project, "start", "web");
    expect((await at(server, "web")).status).toBe(200);
  });

  test("restart makes another process, of one that runs and of one that is held", async () => {
    await services(project, "start", "web");
    const first = await pidAt(server, "web");
    expect(await services(project, "restart", "web")).toEqual(printed("web is ready"));
    const second = await pidAt(server, "web");
    expect(second).not.toBe(first);
    await isGone(first);
    await services(project, "stop", "web");
    expect(await services(project, "restart", "web")).toEqual(printed("web is ready"));
    expect(await pidAt(server, "web")).not.toBe(second);
  });

  test("logs prints what was said, blank lines included", async () => {
    await services(project, "restart", "web");
    const said = (await services(project, "logs", "web")).stdout.split("\n");
    const last = said.findLastIndex((line) => line.startsWith("# starting: "));
    expect(said.slice(last)).toEqual([
      `# starting: ${dev("--say", "hello", "--say", "", "--say", "behind a blank line").join(" ").replace("{name}", "web")}`,
      "hello",
      "",
      "behind a blank line",
      "",
    ]);
  });

  test("logs of several names each line's service", async () => {
    await services(project, "start", "bad");
    const { code, stdout } = await services(project, "logs");
    expect(code).toBe(0);
    const all = stdout.split("\n").slice(0, -1);
    expect(all.filter((line) => !/^(web|bad) \| /.test(line))).toEqual([]);
    expect(all.slice(-5)).toEqual([
      "bad | # starting: echo first; echo; echo last words; exit 7",
      "bad | first",
      "bad | ",
      "bad | last words",
      "bad | # exit code 7",
    ]);
    expect(all).toContain("web | behind a blank line");
  });

  test("logs -f goes on until SIGINT, with each line as it comes", async () => {
    await services(project, "restart", "web");
    await using log = following(project, "logs", "-f", "web");
    await log.prints("behind a blank line\n");
    for (const text of ["one", "", "", "two"]) await at(server, "web", `/say?text=${text}`);
    await log.prints("two\n");
    expect(log.stdout.slice(log.stdout.lastIndexOf("behind a blank line\n"))).toBe(
      "behind a blank line\none\n\n\ntwo\n",
    );
    expect(log.stdout).not.toContain("# web\n");
    log.kill("SIGINT");
    expect(await log.exited()).toBe(0);
    expect(log.stderr).toBe("");
  });

  test("logs -f follows through a restart", async () => {
    await services(project, "restart", "web");
    await using log = following(project, "logs", "--follow", "web");
    await log.prints("behind a blank line\n");
    await services(project, "restart", "web");
    await until(() => log.stdout.split("behind a blank line\n").length >= 3, "the next launch is followed");
    log.kill("SIGTERM");
    expect(await log.exited()).toBe(0);
  });

  test("logs -f of several names each line's service", async () => {
    await services(project, "start", "much-longer-name");
    await services(project, "start", "web");
    await using log = following(project, "logs", "-f");
    await log.prints("web | behind a blank line\n");
    await log.prints("bad | # exit code 7\n");
    await log.prints("much-longer-name | # starting: ");
    const before = log.stdout.length;
    await at(server, "web", "/say?text=from+web");
    await log.prints("web | from web\n");
    await visit(server.port, "deep.localhost", "/api/x");
    await visit(server.port, "web.localhost", "/say?text=");
    await log.prints("web | from web\nweb | \n");
    expect(log.stdout.slice(before)).toBe("web | from web\nweb | \n");
    log.kill("SIGINT");
    expect(await log.exited()).toBe(0);
  });

  test("logs shows nothing that a terminal would obey", async () => {
    await services(project, "start", "web");
    await at(server, "web", `/say?text=${encodeURIComponent("a\x1b[2Jb\x07c\x1b]0;title\x07d")}`);
    const { stdout } = await services(project, "logs", "web");
    expect(stdout).toEndWith("abcd\n");
  });

  test("logs shows no C1 controls either: U+009B begins what ESC [ begins", async () => {
    await services(project, "start", "web");
    await at(server, "web", `/say?text=${encodeURIComponent("e\u009b2Jf")}`);
    const { stdout } = await services(project, "logs", "web");
    expect(stdout).not.toContain("\u009b");
  });

  test("start and stop without a name are about all that it starts, and fail if one does", async () => {
    const { code, stdout, stderr } = await services(project, "start");
    expect([code, stdout.split("\n").toSorted()]).toEqual([
      3,
      ["", "ext is external", "much-longer-name is ready", "web is ready"],
    ]);
    expect(untimed(stderr)).toBe("error bad ended before it was ready: exit code 7\n");
    const stopped = await services(project, "stop");
    expect([stopped.code, stopped.stdout.split("\n").toSorted()]).toEqual([
      3,
      ["", "bad is stopped by hand", "much-longer-name is stopped by hand", "web is stopped by hand"],
    ]);
    expect(untimed(stopped.stderr)).toBe(
      'error ext runs, but was not started by seikan hint="stop it where it was started"\n',
    );
    expect((await status(project)).map(({ state }) => state)).toEqual(["held", "held", "held", "up", "external"]);
  });

  test("start --json prints an event", async () => {
    const { code, stdout } = await services(project, "start", "web", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ event: "start", name: "web", state: "ready", time: expect.any(String) });
  });

  test("stop does nothing to a server that somebody else started", async () => {
    const { code, stdout, stderr } = await services(project, "stop", "ext");
    expect([code, stdout, untimed(stderr)]).toEqual([
      3,
      "",
      'error ext runs, but was not started by seikan hint="stop it where it was started"\n',
    ]);
    expect(foreign.hasExited).toBe(false);
    expect(await services(project, "start", "ext")).toEqual(printed("ext is external"));
    expect((await status(project, "ext"))[0]).toMatchObject({ state: "external", starts: 0 });
  });

  for (const verb of ["start", "stop", "restart"]) {
    test(`${verb} of a service without a command is refused`, async () => {
      const { code, stdout, stderr } = await services(project, verb, "plain");
      expect([stdout, untimed(stderr)]).toEqual(["", `error plain has no command: seikan cannot ${verb} it\n`]);
      expect(code).not.toBe(0);
      expect((await status(project, "plain"))[0]!.state).toBe("up");
    });
  }

  test("what it refuses has nothing to do with credentials: exit code 2", async () => {
    expect((await services(project, "start", "plain")).code).toBe(2);
  });

  const mistakes: [string[], Outcome][] = [
    [["start", "wbe"], usage('there is no service "wbe"', "did you mean web?")],
    [
      ["logs", "nothing-like-it"],
      usage('there is no service "nothing-like-it"', "there are web, bad, much-longer-name, plain, ext"),
    ],
    [["status", "../web"], usage('there is no service "../web"', "there are web, bad, much-longer-name, plain, ext")],
    [["strat", "web"], usage('no command "strat"', "did you mean seikan services start?")],
    [["web"], usage('no command "web"', "seikan services status, start, stop, restart, logs")],
  ];
  for (const [words, expected] of mistakes) {
    test(`${words.join(" ")} is a mistake`, async () => {
      expect(await services(project, ...words)).toEqual(expected);
    });
  }

  test("the token of the page is shown to a terminal, and to nothing else", async () => {
    const token = tokenOf(project, server.pid);
    expect(token).toMatch(/^[\w-]{32}$/);
    for (const words of [[], ["status"], ["status", "--json"], ["-v"]]) {
      const { stdout, stderr } = await services(project, ...words);
      expect([words, (stdout + stderr).includes(token)]).toEqual([words, false]);
    }
    const shown = await inTerminal(["services"], project.env);
    expect(shown).toContain(`http://localhost:${server.port}/-/services#${token}`);
    expect(server.stderr()).not.toContain(token);
  });
});

/** What a program prints whose stdout is a terminal. */
async function inTerminal(words: readonly string[], env: Record<string, string>): Promise<string> {
  let text = "";
  const child = Bun.spawn([...COMMAND, ...words], {
    env: cleanEnv({ ...env, TERM: "xterm" }),
    terminal: { cols: 200, rows: 50, data: (_, chunk) => void (text += Buffer.from(chunk).toString()) },
  });
  try {
    expect(await within(child.exited, "its end", 20_000)).toBe(0);
    await until(() => text.includes("/-/services"), "all of it is read");
    return text;
  } finally {
    child.kill("SIGKILL");
    child.terminal?.close();
  }
}

describe("servers", () => {
  test("that do not run, or have no file, are not found: exit code 3", async () => {
    await using project = new Project();
    expect(await services(project)).toEqual(NOBODY);
    const plain = spawnSeikan(["serve", "-l", "127.0.0.1:0", "--json"], { env: project.env });
    await using _ = plain;
    await plain.prints('"event":"ready"');
    expect(await services(project, "start", "web")).toEqual(NOBODY);
    expect(readdirSync(runFolder(project))).not.toContain(`serve-${plain.pid}.sock`);
  });

  test("that end take their socket and token along", async () => {
    await using project = new Project();
    const server = await project.serve({ web: { command: dev() } });
    expect([existsSync(socketOf(project, server.pid)), existsSync(tokenFileOf(project, server.pid))]).toEqual([
      true,
      true,
    ]);
    server.kill("SIGTERM");
    expect(await server.exited).toBe(0);
    expect([existsSync(socketOf(project, server.pid)), existsSync(tokenFileOf(project, server.pid))]).toEqual([
      false,
      false,
    ]);
    expect(await services(project)).toEqual(NOBODY);
  });

  test("are shown together; a name that two have is refused, and one that one has is not", async () => {
    await using project = new Project();
    await using other = new Project();
    const first = await project.serve({ web: { command: dev() }, one: { command: dev() } });
    const second = await other.serve({ web: { command: dev() }, two: { command: dev() } }, [], {
      XDG_RUNTIME_DIR: project.file("run"),
    });
    const { stdout } = await services(project);
    const [older, newer] = first.pid < second.pid ? [first, second] : [second, first];
    expect(stdout.split("\n").map((line) => line.split(/ {2,}/)[0])).toEqual([
      ...["NAME", "web", older === first ? "one" : "two", "web", older === first ? "two" : "one", ""],
      `status page: http://localhost:${older.port}/-/services`,
      "",
      `status page: http://localhost:${newer.port}/-/services`,
      "",
    ]);
    for (const verb of ["start", "stop", "restart", "status", "logs"]) {
      expect(await services(project, verb, "web")).toEqual(
        usage(
          `several servers have a service web: those with the pids ${older.pid}, ${newer.pid}`,
          "another XDG_RUNTIME_DIR for one of them keeps them apart",
        ),
      );
    }
    expect(await services(project, "start", "two")).toEqual(printed("two is ready"));
    expect((await status(project)).map(({ name, state }) => [name, state])).toEqual(
      expect.arrayContaining([
        ["two", "ready"],
        ["one", "stopped"],
      ]),
    );
    expect([...project.pids("web"), ...other.pids("web")]).toEqual([]);
  });

  test("that were killed leave files behind, which count for nothing and go with the next start", async () => {
    await using project = new Project();
    const killed = await project.serve({ web: { command: dev() } });
    killed.kill("SIGKILL");
    await killed.exited;
    const left = [socketOf(project, killed.pid), tokenFileOf(project, killed.pid)];
    expect(left.map((path) => existsSync(path))).toEqual([true, true]);
    expect(await services(project)).toEqual(NOBODY);
    // What only looks like it, and whose number is nobody's that runs.
    writeFileSync(socketOf(project, 4_194_304), "no socket");
    writeFileSync(`${runFolder(project)}/other.sock`, "somebody else's");
    expect(await services(project, "start", "web")).toEqual(NOBODY);
    const next = await project.serveAgain();
    expect(left.map((path) => existsSync(path))).toEqual([false, false]);
    expect(existsSync(socketOf(project, 4_194_304))).toBe(false);
    expect(existsSync(`${runFolder(project)}/other.sock`)).toBe(true);
    expect((await status(project)).map(({ name }) => name)).toEqual(["web"]);
    expect(existsSync(socketOf(project, next.pid))).toBe(true);
  });

  test("of other users, and whoever may enter their folder, are nobody's to trust", async () => {
    await using project = new Project();
    const server = await project.serve({ web: { command: dev() } });
    for (const mode of [0o710, 0o701, 0o750, 0o777]) {
      chmodSync(runFolder(project), mode);
      const { code, stdout, stderr } = await services(project);
      expect([mode, code, stdout, stderr]).toEqual([
        mode,
        125,
        "",
        `seikan: error: ${runFolder(project)} is not ours alone\n`,
      ]);
    }
    chmodSync(runFolder(project), 0o700);
    expect((await status(project)).length).toBe(1);
    server.kill("SIGTERM");
    await server.exited;
    chmodSync(runFolder(project), 0o755);
    const other = await project.serveAgain();
    expect(other.stderr()).toContain(
      ` warn seikan services cannot reach this server: ${runFolder(project)} is not ours alone\n`,
    );
    expect(readdirSync(runFolder(project)).filter((name) => name.startsWith("serve-"))).toEqual([]);
    // Its services work all the same.
    expect((await at(other, "web")).status).toBe(200);
  });

  test("that hang do not keep the others from being seen", async () => {
    await using project = new Project();
    const hanging = await project.serve({ one: { command: dev() } });
    await project.serve({ two: { command: dev() } });
    kill(hanging.pid, "SIGSTOP");
    try {
      const { stdout } = await services(project, "status", "--timeout", "6s");
      expect(stdout).toContain("two");
    } finally {
      kill(hanging.pid, "SIGCONT");
    }
  });
});

describe("the control socket", () => {
  const project = new Project();
  let server: Running;
  let path: string;
  beforeAll(async () => {
    server = await project.serve({ web: { command: dev() } });
    path = socketOf(project, server.pid);
  });
  afterAll(() => project[Symbol.asyncDispose]());

  const ask = (request: string) => answerTo({ unix: path }, request);

  test("and the token lie where only their owner gets", () => {
    expect(statSync(runFolder(project)).mode & 0o777).toBe(0o700);
    expect(statSync(path).isSocket()).toBe(true);
    expect(statSync(path).mode & 0o022).toBe(0);
    expect(statSync(tokenFileOf(project, server.pid)).mode & 0o777).toBe(0o600);
  });

  test("answers about services, without a token", async () => {
    const {
      status: code,
      body,
      values,
    } = await ask(lines("POST /-/services/status HTTP/1.1", "Host: agent", "Content-Length: 0"));
    expect([code, values("content-type"), values("cache-control")]).toEqual([200, ["application/json"], ["no-store"]]);
    expect((JSON.parse(body) as { services: Report[] }).services.map(({ name }) => name)).toEqual(["web"]);
  });

  test("dials nobody", async () => {
    using target = new RawServer();
    const place = `127.0.0.1:${target.port}`;
    const requests = [
      lines(`CONNECT ${place} HTTP/1.1`, `Host: ${place}`),
      lines(`CONNECT localhost:${server.port} HTTP/1.1`, `Host: localhost:${server.port}`),
      lines("CONNECT web.localhost:80 HTTP/1.1", "Host: web.localhost:80"),
      lines(`GET http://${place}/ HTTP/1.1`, `Host: ${place}`),
      lines(`GET http://web.localhost/who HTTP/1.1`, "Host: web.localhost"),
    ];
    for (const request of requests) {
      const { status: code, body } = await ask(request);
      expect([request, code, body]).toEqual([request, 403, "seikan: nothing is dialled from here\n"]);
    }
    expect(target.accepted).toEqual([]);
    expect(project.pids("web")).toEqual([]);
  });

  const elsewhere = ["/", "/-/metrics", "/-/agents", "/-/tunnel", "/-/agent", "/request", "/who", "*"];
  for (const target of elsewhere) {
    test(`has nothing at ${target}`, async () => {
      for (const host of ["agent", "web.localhost"]) {
        const method = target === "*" ? "OPTIONS" : "GET";
        const answer = await ask(lines(`${method} ${target} HTTP/1.1`, `Host: ${host}`));
        expect([host, answer.status]).toEqual([host, 404]);
        expect(answer.body).toContain("This is the control socket of a seikan serve.");
      }
      expect(project.pids("web")).toEqual([]);
    });
  }

  test("opens no tunnel and registers no agent", async () => {
    for (const [target, protocol] of [
      ["/-/tunnel", "seikan.v1"],
      ["/-/agent", "seikan-agent.v1"],
    ] as const) {
      const fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"];
      const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
      const answer = await ask(
        lines(`GET ${target} HTTP/1.1`, "Host: x", ...fields, key, `Sec-WebSocket-Protocol: ${protocol}`),
      );
      expect([target, answer.status]).toEqual([target, 404]);
    }
  });

  test("speaks neither SOCKS nor TLS", async () => {
    for (const hello of [Buffer.from([5, 1, 0]), Buffer.from([4, 1, 0, 80, 127, 0, 0, 1, 0])]) {
      using client = await dialRaw({ unix: path });
      client.send(hello);
      await client.over();
      expect(client.length).toBe(0);
    }
    using client = await dialRaw({ unix: path });
    client.send(Buffer.from("160301000501000001000303", "hex"));
    await client.over();
    expect(client.text).not.toContain("HTTP/1.1 200");
  });

  test("takes no GET for what it does, and no word that it does not know", async () => {
    const post = (target: string) =>
      ask(lines(`POST /-/services/${target} HTTP/1.1`, "Host: agent", "Content-Length: 0"));
    expect((await ask(get("agent", "/-/services/web/start"))).status).toBe(405);
    expect((await post("web/explode")).status).toBe(404);
    expect((await post("nobody/start")).status).toBe(404);
    expect((await post("web/%ff")).status).toBe(400);
    expect(project.pids("web")).toEqual([]);
  });
});

describe("/-/services", () => {
  const project = new Project();
  let server: Running;
  let token: string;
  beforeAll(async () => {
    server = await project.serve({
      web: { command: dev("--say", "hello"), host: ["web.localhost", "*.web.localhost"] },
      bad: { command: "echo oh; exit 4" },
    });
    token = tokenOf(project, server.pid);
  });
  afterAll(() => project[Symbol.asyncDispose]());

  const HOSTS = ["localhost", "127.0.0.1", "[::1]"];
  const bearer = (text = token) => `Authorization: Bearer ${text}`;

  async function ask(
    path: string,
    fields: readonly string[] = [bearer()],
    host = "localhost",
    method = "POST",
  ): Promise<RawResponse> {
    using client = await dialRaw(server.port);
    const length = method === "POST" ? ["Content-Length: 0"] : [];
    client.send(lines(`${method} /-/services${path} HTTP/1.1`, `Host: ${host}:${server.port}`, ...fields, ...length));
    return await client.response(method === "HEAD" ? "HEAD" : "GET");
  }

  test("is a page without any data, and with nothing but its own script", async () => {
    for (const host of HOSTS) {
      const { status: code, body, values } = await ask("", [], host, "GET");
      expect([host, code, values("content-type")]).toEqual([host, 200, ["text/html; charset=utf-8"]]);
      expect(body).not.toContain("web.localhost");
      expect(body).not.toContain(token);
      expect(body).not.toContain(project.path);
      const scripts = [...body.matchAll(/<script([^>]*)>([\s\S]*?)<\/script>/g)];
      expect(scripts.map(([, attributes]) => attributes)).toEqual([""]);
      const digest = new Bun.CryptoHasher("sha256").update(Buffer.from(scripts[0]![2]!, "latin1")).digest("base64");
      expect(values("content-security-policy")).toEqual([
        `default-src 'none'; script-src 'sha256-${digest}'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
      ]);
      expect(body).not.toMatch(/<link|<img|<iframe|@import|url\(|\bon\w+\s*=\s*["']/);
      expect(body.match(/https?:\/\//g)).toBeNull();
      const others = [
        "x-content-type-options",
        "x-frame-options",
        "referrer-policy",
        "cross-origin-opener-policy",
        "cache-control",
      ];
      expect(others.map((name) => values(name))).toEqual([
        ["nosniff"],
        ["DENY"],
        ["no-referrer"],
        ["same-origin"],
        ["no-store"],
      ]);
    }
  });

  test("the page is the same for everybody, with or without token, and with a slash or a question behind", async () => {
    const pages = await Promise.all([
      ask("", [], "localhost", "GET"),
      ask("", [bearer()], "localhost", "GET"),
      ask("/", [], "localhost", "GET"),
      ask("?a=b", [], "localhost", "GET"),
      ask("", ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"], "localhost", "GET"),
    ]);
    expect(new Set(pages.map(({ status: code, body }) => `${code} ${body}`)).size).toBe(1);
    const head = await ask("", [], "localhost", "HEAD");
    expect([head.status, head.values("content-length")]).toEqual([200, pages[0].values("content-length")]);
    for (const method of ["POST", "PUT", "DELETE"])
      expect([method, (await ask("", [bearer()], "localhost", method)).status]).toEqual([method, 405]);
  });

  const asked = ["/status", "/web/start", "/web/stop", "/web/restart", "/web/logs", "/web/follow", "/nobody/start"];
  test("what it asks for wants the token of this run", async () => {
    const wrong = [
      [],
      [bearer("wrong")],
      [bearer(token.slice(0, -1))],
      [bearer(`${token}x`)],
      ["Authorization: Bearer"],
      [`Authorization: Basic ${btoa(`x:${token}`)}`],
      [`Authorization: ${token}`],
      [`Proxy-Authorization: Bearer ${token}`],
      [`Cookie: token=${token}`],
    ];
    for (const path of asked) {
      for (const fields of wrong) {
        const { status: code, body } = await ask(path, fields);
        expect([path, fields, code]).toEqual([path, fields, 401]);
        expect(body).toStartWith("seikan: this wants the token of this run\n");
        expect(body).not.toContain(token);
      }
      const inQuery = await ask(`${path}?token=${token}`, []);
      expect([path, inQuery.status]).toEqual([path, 401]);
    }
    expect(project.pids("web")).toEqual([]);
  });

  test("status, start, restart, logs and stop with it", async () => {
    const started = await ask("/web/start");
    const pid = await pidAt(server, "web");
    expect([started.status, started.values("content-type"), started.values("cache-control")]).toEqual([
      200,
      ["application/json"],
      ["no-store"],
    ]);
    expect(JSON.parse(started.body)).toMatchObject({ name: "web", state: "ready", pid });
    const { services: all } = JSON.parse((await ask("/status")).body) as { services: Report[] };
    expect(all.find(({ name }) => name === "web")).toMatchObject({ state: "ready", pid, folder: project.path });
    const again = JSON.parse((await ask("/web/restart")).body) as Report;
    expect([again.state, again.pid === pid]).toEqual(["ready", false]);
    const { lines: said } = JSON.parse((await ask("/web/logs")).body) as { lines: string[] };
    expect(said.at(-1)).toBe("hello");
    expect(JSON.parse((await ask("/web/stop")).body)).toMatchObject({ state: "held" });
    await isGone(again.pid!);
    const failed = await ask("/bad/start", [bearer(), "Accept: application/problem+json"]);
    expect(failed.status).toBe(502);
    expect(failed.body).toContain("bad ended before it was ready: exit code 4");
  });

  test("an error is told as problem document to who asks for that, as the page does", async () => {
    const { status: code, body, values } = await ask("/bad/start", [bearer(), "Accept: application/problem+json"]);
    expect([code, values("content-type")]).toEqual([502, ["application/problem+json"]]);
    expect(JSON.parse(body)).toMatchObject({ status: 502, detail: "bad ended before it was ready: exit code 4" });
  });

  const foreign: string[][] = [
    ["Origin: http://evil.example"],
    ["Origin: null"],
    ["Origin: http://web.localhost:PORT"],
    ["Origin: http://localhost"],
    ["Origin: http://localhost:1"],
    ["Origin: http://127.0.0.1:PORT"],
    ["Origin: http://localhost:PORT.evil.example"],
    ["Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Site: same-site"],
    ["Origin: http://localhost:PORT", "Sec-Fetch-Site: same-site"],
    ["Origin: http://evil.example", "Sec-Fetch-Site: same-origin"],
    ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"],
  ];
  for (const fields of foreign) {
    test(`a page of another site may not ask, token or not: ${fields.join(", ")}`, async () => {
      const shown = fields.map((field) => field.replace("PORT", String(server.port)));
      for (const path of ["/status", "/web/start", "/web/follow"]) {
        const { status: code, body, values } = await ask(path, [bearer(), ...shown]);
        expect([path, code, body]).toEqual([path, 403, "seikan: a page of another site may not ask for this\n"]);
        expect(values("access-control-allow-origin")).toEqual([]);
      }
      expect((await ask("/status", shown)).status).toBe(403);
    });
  }

  test("its own page may ask, and so may a person's address bar and a program", async () => {
    for (const host of HOSTS) {
      for (const fields of [
        [`Origin: http://${host}:${server.port}`, "Sec-Fetch-Site: same-origin"],
        [`Origin: http://${host}:${server.port}`],
        ["Sec-Fetch-Site: none"],
        [],
      ])
        expect([host, fields, (await ask("/status", [bearer(), ...fields], host)).status]).toEqual([host, fields, 200]);
    }
  });

  test("a browser that asks first whether it may is told nothing that lets it", async () => {
    const fields = [
      "Origin: http://evil.example",
      "Access-Control-Request-Method: POST",
      "Access-Control-Request-Headers: authorization",
    ];
    const { status: code, head } = await ask("/status", fields, "localhost", "OPTIONS");
    expect(code).toBe(403);
    expect(head.toLowerCase()).not.toContain("access-control-allow");
  });

  test("hosts of services, and names that somebody made point here, never get to it", async () => {
    await ask("/web/start");
    for (const method of ["GET", "POST"]) {
      for (const path of ["", "/status", "/web/stop"]) {
        const own = await ask(path, [bearer()], "web.localhost", method);
        // The service itself answers.
        expect([method, path, own.status, own.body]).toEqual([
          method,
          path,
          404,
          `web does not know /-/services${path}`,
        ]);
        for (const host of ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1.nip.io"]) {
          const answer = await ask(path, [bearer()], host, method);
          expect([method, path, host, answer.status]).toEqual([method, path, host, 421]);
        }
        const unknown = await ask(path, [bearer()], "nobody.localhost", method);
        expect([method, path, unknown.status]).toEqual([method, path, 404]);
      }
    }
    expect(JSON.parse((await ask("/status")).body).services[0]).toMatchObject({ name: "web", state: "ready" });
  });

  test("absolute-form and CONNECT do not lead to it from a foreign name", async () => {
    const absolute = lines(
      `POST http://evil.example:${server.port}/-/services/status HTTP/1.1`,
      `Host: localhost:${server.port}`,
      bearer(),
      "Content-Length: 0",
    );
    expect((await answerTo(server.port, absolute)).status).not.toBe(200);
    const twice = lines(
      "POST /-/services/status HTTP/1.1",
      "Host: localhost",
      "Host: evil.example",
      bearer(),
      "Content-Length: 0",
    );
    expect((await answerTo(server.port, twice)).status).toBe(400);
    const connect = await answerTo(
      server.port,
      lines(`CONNECT localhost:${server.port} HTTP/1.1`, `Host: localhost:${server.port}`),
    );
    expect(connect.status).toBe(403);
  });

  const proxied = [
    "X-Forwarded-For: 203.0.113.9",
    "Forwarded: for=203.0.113.9",
    "Via: 1.1 proxy",
    "X-Forwarded-Host: localhost",
  ];
  for (const field of proxied) {
    test(`who comes through a proxy gets nothing, token or not: ${field}`, async () => {
      const page = await ask("", [field], "localhost", "GET");
      expect([page.status, page.body]).toEqual([404, "seikan: this page is for the machine itself\n"]);
      for (const path of asked) {
        const { status: code, body } = await ask(path, [bearer(), field]);
        expect([path, code, body]).toEqual([
          path,
          401,
          "seikan: this wants an admin\nhint: give the server a user, and name it with --admin\n",
        ]);
      }
    });
  }

  test("nothing happens by GET or HEAD", async () => {
    await ask("/web/stop");
    for (const path of asked) {
      for (const method of ["GET", "HEAD", "PUT", "DELETE"]) {
        const answer = await ask(path, [bearer()], "localhost", method);
        expect([path, method, answer.status]).toEqual([path, method, 405]);
      }
    }
    expect(JSON.parse((await ask("/status")).body).services[0]).toMatchObject({ state: "held" });
  });

  test("what is not there: 404, and what is badly written: 400", async () => {
    const nobody = await ask("/nobody/start");
    expect([nobody.status, nobody.body]).toEqual([404, "seikan: there is no service nobody\n"]);
    for (const path of ["/web", "/web/", "/web/explode", "/constructor/start", "/__proto__/logs"])
      expect([path, (await ask(path)).status]).toEqual([path, 404]);
    for (const path of ["/%/start", "/%ff/start", "/web/%zz", "/%E0%A4/logs"]) {
      const { status: code, body } = await ask(path);
      expect([path, code, body]).toEqual([path, 400, "seikan: the path is badly encoded\n"]);
    }
    // The same name, written otherwise.
    expect((await ask("/%77eb/logs")).status).toBe(200);
  });

  test("follow streams each line as it comes, to several at once, until they go", async () => {
    await ask("/web/start");
    const open = async () => {
      const client = await dialRaw(server.port);
      return client.send(
        lines("POST /-/services/web/follow HTTP/1.1", `Host: localhost:${server.port}`, bearer(), "Content-Length: 0"),
      );
    };
    using one = await open();
    using two = await open();
    for (const client of [one, two]) {
      const text = await client.sees("hello\n");
      expect(text).toStartWith("HTTP/1.1 200 OK\r\n");
      expect(text).toContain("\r\n\r\n# web\n# starting: ");
      expect(text).toContain("\r\nX-Content-Type-Options: nosniff\r\n");
      expect(text).toContain("\r\nContent-Type: text/plain; charset=utf-8\r\n");
    }
    await at(server, "web", "/say?text=live");
    await one.sees("hello\nlive\n");
    await two.sees("hello\nlive\n");
    one.reset();
    await at(server, "web", "/say?text=further");
    await two.sees("live\nfurther\n");
    await ask("/web/restart");
    await two.sees("further\n# exit code 143\n# starting: ");
  });
});

describe("who follows", () => {
  const FLOOD = 600_000;
  /** A server that prints a lot, once the file is there. */
  const flooding = (gate: string) =>
    `(while [ ! -e ${quoted(gate)} ]; do sleep 0.01; done; yes ${"x".repeat(250)} | head -n ${FLOOD}; echo the flood is over) & exec ${devLine()}`;

  test("and does not read costs no memory, holds up nobody, and is told how many lines it missed", async () => {
    await using project = new Project();
    const server = await project.serve({ web: { command: flooding(project.gate("flood")) } });
    const token = tokenOf(project, server.pid);
    await services(project, "start", "web");
    using slow = await dialRaw(server.port);
    slow.send(
      lines(
        "POST /-/services/web/follow HTTP/1.1",
        "Host: localhost",
        `Authorization: Bearer ${token}`,
        "Content-Length: 0",
      ),
    );
    await slow.sees("# starting: ");
    slow.pause();
    const before = residentBytes(server.pid);
    project.open("flood");
    const logs = lines(
      "POST /-/services/web/logs HTTP/1.1",
      "Host: localhost",
      `Authorization: Bearer ${token}`,
      "Content-Length: 0",
    );
    await eventually(
      () => answerTo(server.port, logs),
      ({ body }) => body.endsWith('"the flood is over"]}\n'),
      "the flood is over",
      40_000,
    );
    const grown = residentBytes(server.pid) - before;
    await roundTrips(server);
    expect((await at(server, "web")).status).toBe(200);
    // 150 megabytes were said.
    expect(grown).toBeLessThan(100_000_000);
    slow.resume();
    await at(server, "web", "/say?text=and+on");
    const text = await slow.sees("lines are missing here\n");
    expect(/^the flood is over$/m.test(text)).toBe(false);
    await eventually(
      () => at(server, "web", "/say?text=to+the+end"),
      () => slow.text.includes("to the end\n"),
      "it gets lines again",
    );
    const missing = [...slow.text.matchAll(/^# (\d+) lines are missing here$/gm)].map(([, count]) => Number(count));
    const came = slow.text.match(/^x{250}$/gm)!.length;
    expect(missing.length).toBeGreaterThan(0);
    const sum = came + missing.reduce((total, count) => total + count, 0);
    // The last line of the flood, and perhaps those that were said since.
    expect(sum).toBeGreaterThanOrEqual(FLOOD + 1);
    expect(sum).toBeLessThan(FLOOD + 50);
  });

  test("is let go when the server ends", async () => {
    await using project = new Project();
    const server = await project.serve({ web: { command: dev() } });
    const token = tokenOf(project, server.pid);
    await services(project, "start", "web");
    const pid = await pidAt(server, "web");
    await using log = following(project, "logs", "-f", "web");
    await log.prints("# starting: ");
    using client = await dialRaw(server.port);
    client.send(
      lines(
        "POST /-/services/web/follow HTTP/1.1",
        "Host: localhost",
        `Authorization: Bearer ${token}`,
        "Content-Length: 0",
      ),
    );
    await client.sees("# starting: ");
    server.kill("SIGTERM");
    await client.receivesEnd(5000);
    client.end();
    expect(await log.exited()).toBe(0);
    expect(await within(server.exited, "the server's end")).toBe(0);
    await isGone(pid);
  });
});

function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) * 1024;
}

describe("/-/services of a server that can be reached from outside", () => {
  const project = new Project();
  let server: Running;
  beforeAll(async () => {
    project.configure({ web: { command: dev("--say", "hello") } });
    server = await project.serveAgain([
      "-l",
      "0.0.0.0:0",
      "--auth",
      "ann:secret",
      "--auth",
      "bob:secret",
      "--admin",
      "ann",
    ]);
  });
  afterAll(() => project[Symbol.asyncDispose]());

  const basic = (user: string, pass = "secret") => `Authorization: Basic ${btoa(`${user}:${pass}`)}`;
  const outside = () => Number(server.listeners[1]!.split(":").at(-1));
  const ask = (port: number, path: string, ...fields: string[]) =>
    answerTo(
      port,
      lines(`POST /-/services${path} HTTP/1.1`, `Host: 127.0.0.1:${port}`, "Content-Length: 0", ...fields),
    );

  test("an admin may ask, a user may not, and the token of the run counts for nothing", async () => {
    const token = tokenOf(project, server.pid);
    const started = await ask(outside(), "/web/start", basic("ann"));
    expect([started.status, JSON.parse(started.body).state]).toEqual([200, "ready"]);
    const user = await ask(outside(), "/status", basic("bob"));
    expect([user.status, user.body]).toEqual([403, "seikan: bob is no admin\nhint: --admin USER makes one\n"]);
    expect((await ask(outside(), "/status", basic("ann", "wrong"))).status).toBe(401);
    expect((await ask(outside(), "/status")).status).toBe(401);
    expect((await ask(outside(), "/web/stop", `Authorization: Bearer ${token}`)).status).toBe(401);
    expect((await ask(outside(), "/status", basic("ann"), "Origin: http://evil.example")).status).toBe(403);
    expect((await ask(outside(), "/status", basic("ann"))).status).toBe(200);
  });

  test("the page is not there from outside, and is on its loopback listener", async () => {
    const page = await visit(outside(), `127.0.0.1:${outside()}`, "/-/services");
    expect([page.status, page.body]).toEqual([404, "seikan: this page is for the machine itself\n"]);
    expect((await visit(server.port, "localhost", "/-/services")).status).toBe(200);
    const token = tokenOf(project, server.pid);
    expect((await ask(server.port, "/status", `Authorization: Bearer ${token}`)).status).toBe(200);
    expect((await ask(server.port, "/status", basic("bob"))).status).toBe(403);
    expect((await ask(server.port, "/status", basic("ann"))).status).toBe(200);
    expect((await ask(server.port, "/status", basic("ann"), "X-Forwarded-For: 203.0.113.9")).status).toBe(200);
    expect(
      (await ask(server.port, "/status", `Authorization: Bearer ${token}`, "X-Forwarded-For: 203.0.113.9")).status,
    ).toBe(401);
  });
});
