import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connectTo, eventually, get, lines, logged, statusOf, visit, webServer } from "../support/agents.ts";
import { certificateFor } from "../support/certificates.ts";
import { CAN_LISTEN_RAW, FullListener } from "../support/full-listener.ts";
import { accepting, freePort, Process } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { dialRaw, RawServer } from "../support/raw.ts";
import { runProgram, runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import {
  answers,
  asking,
  at,
  BROWSER,
  dev,
  devLine,
  devProcess,
  exhaustDescriptors,
  isAlive,
  isGone,
  jsonAt,
  kill,
  logOf,
  pidAt,
  Project,
  quoted,
  roundTrips,
  says,
  type Value,
} from "../support/services.ts";
import { pattern, within } from "../support/wait.ts";
import { answerTo, RawWebSocket, upgradeRequest } from "../support/websocket-client.ts";

setDefaultTimeout(60_000);

// Development servers that are started when somebody visits them.

const MIB = 1024 * 1024;
const JSON_ACCEPT = "Accept: application/json";

/** A server whose services are all stopped at first, for tests that have one each. */
let project: Project;
let server: Running;

const hasNode = program("node") !== undefined;
const python = program("python3") ?? "python3";
const nodePort = freePort();
const certificate = certificateFor("localhost", "127.0.0.1");

/** A server for Node that listens as it is told, and says how that was. */
const NODE_SERVER = `
const { createServer } = require("node:http");
const [port, host] = process.argv.slice(2);
createServer((request, response) => response.end(\`node \${port} \${request.url}\`)).listen(Number(port), host);
`;

beforeAll(async () => {
  project = new Project();
  project.write("node.cjs", NODE_SERVER);
  project.write("site/page.txt", "a page\n");
  project.write("site/.env", `# comment\nFROM_FILE="two words"\nBOTH=file\nPORTLESS=$PORT\n`);
  const tool = project.write(
    "site/node_modules/.bin/local-server",
    `#!/bin/sh\nexec ${devLine().replace("{name}", "$1")}\n`,
  );
  chmodSync(tool, 0o755);
  server = await project.serve(
    {
      python: { command: `${quoted(python)} -m http.server {port} --bind {host}`, cwd: "site" },
      "node-fixed": { port: nodePort, command: ["node", "node.cjs", String(nodePort), "127.0.0.1"] },
      "node-port": { command: ["node", "node.cjs", "{port}", "{host}"] },
      "node-env": { command: 'test -n "$PORT" && node node.cjs "$PORT" "$HOST"' },
      bun: { command: dev("--port", "{port}") },
      words: {
        command: dev("{host}", "{addr}", "{url}", "x{name}x", "{other}", "{ port }", "two  words", "$HOME", ""),
        env: { AT: "{host}:{port}", URL: "{url}", WHO: "{name}", UNKNOWN: "{cwd}", NUMBER: 8, YES: true },
      },
      files: { command: dev(), cwd: "site", env_file: "site/.env", env: { BOTH: "table" } },
      home: { command: dev(), cwd: "~/in home" },
      here: { command: dev() },
      local: { command: "local-server local", cwd: "site" },
      plain: { command: dev() },
      terminal: { command: dev("--say", "\u001b[1mbold\u001b[0m"), tty: true },
      unix: { command: dev("--unix", "server.sock"), target: `unix:${project.file("server.sock")}` },
      stale: {
        command: "rm -f stale.sock; exec " + devLine("--unix", "stale.sock"),
        target: `unix:${project.file("stale.sock")}`,
      },
      secure: {
        command: dev("--cert", certificate.certFile, "--key", certificate.keyFile),
        https: true,
        insecure: true,
      },
      six: { command: dev("--host", "::1") },
    },
    [],
    { HOME: project.file("home"), SEIKAN_TOKEN: "s3cret" },
  );
  mkdirSync(project.file("home/in home"), { recursive: true });
});
afterAll(() => project[Symbol.asyncDispose]());

const chunk = (bytes: Buffer): Buffer =>
  Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from("\r\n")]);

const json = (name: string, path: string) => jsonAt(server, name, path);

describe("a command", () => {
  test.skipIf(program("python3") === undefined)(
    "is Python's http.server in a shell, with {port} and {host}",
    async () => {
      const { status, values, body } = await at(server, "python", "/page.txt");
      expect([status, body, values("content-type")]).toEqual([200, "a page\n", ["text/plain"]]);
      expect(values("server")[0]).toStartWith("SimpleHTTP/");
    },
  );

  test.skipIf(!hasNode)("is a list for Node, with a port of its own", async () => {
    const { status, body } = await at(server, "node-fixed", "/x?y");
    expect([status, body]).toEqual([200, `node ${nodePort} /x?y`]);
  });

  test.skipIf(!hasNode)("is told a free port as {port}, or as $PORT in a shell", async () => {
    for (const name of ["node-port", "node-env"]) {
      const { status, body } = await at(server, name, "/");
      expect(status).toBe(200);
      const port = Number(/^node (\d+) \/$/.exec(body)![1]);
      expect(port).toBeGreaterThan(1023);
      expect(await logOf(server)).toContain(` port=${port}\n`);
    }
  });

  test("gets its words and variables with what is known filled in, and nothing else changed", async () => {
    const url = `http://words.localhost:${server.port}`;
    const { words } = await json("words", "/process");
    const env = await json("words", "/env");
    const { PORT } = env;
    expect(words).toEqual([
      "words",
      "127.0.0.1",
      `127.0.0.1:${PORT}`,
      url,
      "xwordsx",
      "{other}",
      "{ port }",
      "two  words",
      "$HOME",
      "",
    ]);
    const { AT, URL, WHO, UNKNOWN, NUMBER, YES, HOST, SEIKAN_URL, SEIKAN_TOKEN } = env;
    expect({ AT, URL, WHO, UNKNOWN, NUMBER, YES, HOST, SEIKAN_URL, SEIKAN_TOKEN }).toEqual({
      ...{ AT: `127.0.0.1:${PORT}`, URL: url, WHO: "words", UNKNOWN: "{cwd}", NUMBER: "8", YES: "true" },
      ...{ HOST: "127.0.0.1", SEIKAN_URL: url, SEIKAN_TOKEN: undefined },
    });
  });

  test("gets its env_file, below its own variables and anew at each start", async () => {
    const read = async () => {
      const { FROM_FILE, BOTH, PORTLESS } = await json("files", "/env");
      return { FROM_FILE, BOTH, PORTLESS };
    };
    expect(await read()).toEqual({ FROM_FILE: "two words", BOTH: "table", PORTLESS: "$PORT" });
    project.write("site/.env", "FROM_FILE=changed\n");
    expect((await read()).FROM_FILE).toBe("two words");
    await at(server, "files", "/exit?code=0");
    await says(server, "info files ended");
    expect(await read()).toEqual({ FROM_FILE: "changed", BOTH: "table", PORTLESS: undefined });
  });

  test("runs in its folder: below the configuration file, below ~, or where that file is", async () => {
    const folders = Object.fromEntries(
      await Promise.all(["files", "home", "here"].map(async (name) => [name, (await json(name, "/process")).folder])),
    );
    expect(folders).toEqual({
      ...{ files: project.file("site"), home: project.file("home/in home"), here: project.path },
    });
  });

  test("is found in the project's node_modules/.bin", async () => {
    expect(await json("local", "/process")).toMatchObject({ words: ["local"], folder: project.file("site") });
  });

  test("has a terminal where it wants one, and else none", async () => {
    expect(await json("terminal", "/process")).toMatchObject({ isTerminal: true, columns: 120 });
    expect(await json("plain", "/process")).toMatchObject({ isTerminal: false });
  });

  test("listens on a unix socket that was not there, or that nobody listened on", async () => {
    expect(await pidAt(server, "unix")).toBe(await project.happens("unix", "listen"));
    const listener = new RawServer(() => {}, { unix: project.file("first.sock") });
    renameSync(project.file("first.sock"), project.file("stale.sock"));
    listener.close();
    expect(await pidAt(server, "stale")).toBe(await project.happens("stale", "listen"));
  });

  test("speaks TLS, or listens on ::1 alone", async () => {
    for (const name of ["secure", "six"]) expect(await pidAt(server, name)).toBe(project.pids(name)[0]!);
    expect((await json("secure", "/request")).url).toBe("https://secure.localhost/request");
  });

  test("hears who asks, and for what", async () => {
    const { fields, ...request } = await json("plain", "/request");
    expect(request).toEqual({ method: "GET", url: `http://plain.localhost/request` });
    const known = Object.fromEntries(fields as [string, string][]);
    expect(known).toMatchObject({
      ...{ host: "plain.localhost", "x-forwarded-host": "plain.localhost", "x-forwarded-proto": "http" },
      ...{ "x-forwarded-for": "127.0.0.1", forwarded: "for=127.0.0.1;host=plain.localhost;proto=http" },
    });
  });
});

describe("projects", () => {
  test("that uv and hugo serve", async () => {
    await using place = new Project();
    // What stands behind these commands says how it was called.
    const stub = (name: string, port: string) => {
      const words = devLine("--port", port).replace("{name}", name).replace(`'${port}'`, `"${port}"`);
      chmodSync(place.write(`bin/${name}`, `#!/bin/sh\nexec ${words} -- "$@"\n`), 0o755);
    };
    stub("uv", "$4");
    stub("hugo", "$5");
    for (const name of ["my-django-project", "my-hugo-site"])
      mkdirSync(place.file(`home/Projects/${name}`), { recursive: true });
    const [django, hugo] = [freePort(), freePort()];
    const text = `
[service.django]
host = "django.localhost"
port = ${django}
cwd = "~/Projects/my-django-project"
command = "uv run manage.py runserver {port}"
delay = 3

[service.hugo]
host = "hugo.localhost"
port = ${hugo}
cwd = "~/Projects/my-hugo-site"
command = "hugo server --buildDrafts --buildFuture --port {port}  --liveReloadPort 80"
`;
    const PATH = `${place.file("bin")}:${process.env.PATH}`;
    const running = await place.serve(text, [], { HOME: place.file("home"), PATH });
    const called = async (name: string) => {
      const { words, folder } = await jsonAt(running, name, "/process");
      return { words: (words as string[]).slice(4), folder };
    };
    expect(await called("django")).toEqual({
      ...{
        words: ["run", "manage.py", "runserver", String(django)],
        folder: place.file("home/Projects/my-django-project"),
      },
    });
    expect(await called("hugo")).toEqual({
      words: ["server", "--buildDrafts", "--buildFuture", "--port", String(hugo), "--liveReloadPort", "80"],
      folder: place.file("home/Projects/my-hugo-site"),
    });
  });
});

describe("a service without a command", () => {
  test("is where it says, and told of where it is not", async () => {
    await using other = new Project();
    const web = webServer("web");
    const secure = webServer("secure", certificate);
    using unix = new RawServer(() => {}, { unix: other.file("web.sock") });
    const free = freePort();
    const running = await other.serve({
      up: { port: web.port! },
      target: { target: `localhost:${web.port}` },
      unix: { target: `unix:${other.file("web.sock")}` },
      secure: { target: `127.0.0.1:${secure.port}`, https: true, insecure: true },
      strict: { target: `127.0.0.1:${secure.port}`, https: true },
      down: { port: free },
      away: { target: "unix:/no/such/socket" },
    });
    for (const name of ["up", "target"]) expect((await at(running, name, "/x")).body).toBe("web /x");
    expect((await at(running, "secure", "/x")).body).toBe("secure /x");
    using client = await asking(running, "unix", "/u");
    const upstream = await unix.next();
    expect((await upstream.sees("\r\n\r\n")).split("\r\n")[0]).toBe("GET /u HTTP/1.1");
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n");
    expect((await client.response()).status).toBe(204);
    const told = async (name: string) => {
      const { status, body } = await at(running, name, "/", JSON_ACCEPT);
      return [status, (JSON.parse(body) as Record<string, unknown>).detail];
    };
    expect(await told("down")).toEqual([502, `down does not listen: connection refused by 127.0.0.1:${free}`]);
    expect((await at(running, "down", "/")).body).toEndWith(
      "\nhint: start it, or give [service.down] a command that does\n",
    );
    expect(await told("away")).toEqual([502, "away does not listen: cannot connect to unix:/no/such/socket: ENOENT"]);
    expect((await told("strict"))[1]).toEndWith("cannot be trusted: it is self-signed (DEPTH_ZERO_SELF_SIGNED_CERT)");
    await web.stop(true);
    await secure.stop(true);
  });
});

describe("a service that is this server itself", () => {
  test("is a loop, and told so", async () => {
    await using place = new Project();
    const port = freePort();
    place.configure({ loop: { port, public: true } });
    const running = await startSeikan(["serve", "-l", `127.0.0.1:${port}`, "--config", place.config], place.env);
    const { status } = await at(running, "loop");
    await running[Symbol.asyncDispose]();
    expect(status).toBe(508);
  });
});

describe("a server that runs already", () => {
  test("is used, never started, and outlives seikan; once it has gone the command runs", async () => {
    await using place = new Project();
    const port = freePort();
    await using outside = devProcess("web", "--port", String(port));
    await accepting(port, outside);
    const services = { web: { port, command: dev() } };
    const first = await place.serve(services);
    expect(await pidAt(first, "web")).toBe(outside.pid);
    first.kill("SIGTERM");
    expect(await within(first.exited, "its end")).toBe(0);
    expect(isAlive(outside.pid)).toBe(true);
    const second = await place.serve(services);
    expect(await pidAt(second, "web")).toBe(outside.pid);
    expect(place.journal).toEqual([]);
    outside.kill("SIGTERM");
    await outside.exited();
    expect(await pidAt(second, "web")).toBe(await place.happens("web", "listen"));
  });

  test("may be another seikan's, and is used as long as that one has it", async () => {
    await using place = new Project();
    const first = await place.serve({ web: { port: freePort(), command: dev() } });
    const second = await place.serveAgain();
    const pid = await pidAt(first, "web");
    expect(await pidAt(second, "web")).toBe(pid);
    first.kill("SIGTERM");
    expect(await within(first.exited, "its end")).toBe(0);
    expect(await pidAt(second, "web")).toBe(place.pids("web")[1]!);
    expect(place.pids("web")).toHaveLength(2);
  });

  test("and hangs, or resets, is not taken for one that is away", async () => {
    await using place = new Project();
    using hanging = new RawServer();
    using resetting = new RawServer((socket) => socket.reset());
    const running = await place.serve({
      hanging: { port: hanging.port, command: dev() },
      resetting: { port: resetting.port, command: dev() },
    });
    using client = await asking(running, "hanging");
    const upstream = await hanging.next();
    await upstream.sees("\r\n\r\n");
    expect((await at(running, "resetting")).status).toBe(502);
    await roundTrips(running);
    expect(client.length).toBe(0);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    expect((await client.response()).body).toBe("late");
    expect([place.journal, hanging.accepted.length]).toEqual([[], 1]);
  });

  test.skipIf(!CAN_LISTEN_RAW)("and accepts nobody is waited for as long as --connect-timeout says", async () => {
    await using place = new Project();
    await using full = await FullListener.on("127.0.0.1");
    const running = await place.serve({ full: { port: full.port, command: dev() } }, ["--connect-timeout", "300ms"]);
    expect((await at(running, "full")).status).toBe(504);
    expect(place.journal).toEqual([]);
  });

  test.skipIf(program("prlimit") === undefined)("is not missed where descriptors are", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { port: freePort(), command: dev() } });
    using client = await dialRaw(running.port);
    client.send(get("localhost", "/-/healthz"));
    expect((await client.response()).status).toBe(200);
    const release = exhaustDescriptors(running.pid);
    client.send(get("web.localhost", "/who"));
    const { status, body } = await client.response();
    expect([status, body]).toEqual([503, "seikan: no file descriptors are left\n"]);
    release();
    expect(place.journal).toEqual([]);
    expect(await pidAt(running, "web")).toBe(await place.happens("web", "listen"));
  });
});

describe("many at once", () => {
  test("a hundred first requests start one server", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    const pids = await Promise.all(Array.from({ length: 100 }, () => pidAt(running, "web")));
    expect(pids).toEqual(Array(100).fill(await place.happens("web", "listen")));
    expect(place.pids("web")).toHaveLength(1);
  });

  test("bodies that came while it started arrive as they were sent", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    const asked = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const body = pattern(100_000 + index, index + 1);
        const client = await dialRaw(running.port);
        const length = index % 2 === 0 ? `Content-Length: ${body.length}` : "Transfer-Encoding: chunked";
        client.send(lines("POST /echo HTTP/1.1", "Host: web.localhost", length, BROWSER));
        client.send(index % 2 === 0 ? body : Buffer.concat([chunk(body), Buffer.from("0\r\n\r\n")]));
        return { client, body };
      }),
    );
    await place.happens("web", "start");
    await roundTrips(running);
    expect(asked.map(({ client }) => client.length)).toEqual(Array(20).fill(0));
    place.open("web");
    for (const { client, body } of asked) {
      using _ = client;
      const answer = await client.response();
      expect([answer.status, Buffer.from(answer.body, "latin1").equals(body)]).toEqual([200, true]);
    }
    expect(place.pids("web")).toHaveLength(1);
  });

  test("a large body waits at its sender while the server starts, and arrives whole", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    const body = pattern(48 * MIB, 7);
    using client = await dialRaw(running.port);
    client.send(lines("POST /sum HTTP/1.1", "Host: web.localhost", `Content-Length: ${body.length}`)).send(body);
    await place.happens("web", "start");
    let before = -1;
    while (before !== client.unsent) {
      before = client.unsent;
      await roundTrips(running);
    }
    expect(client.unsent).toBeGreaterThan(32 * MIB);
    place.open("web");
    const sha1 = new Bun.CryptoHasher("sha1").update(body).digest("hex");
    expect(JSON.parse((await client.response()).body)).toEqual({ length: body.length, sha1 });
  });

  test("a WebSocket may come first", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    const opening = RawWebSocket.open(running.port, "/socket", { Host: "web.localhost" });
    await place.happens("web", "start");
    place.open("web");
    using socket = await opening;
    await socket.text("hello").sees("hello");
    expect(place.pids("web")).toHaveLength(1);
  });

  test("256 may wait; who comes then is told so", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    const waiting = await Promise.all(Array.from({ length: 256 }, () => asking(running, "web")));
    await place.happens("web", "start");
    await roundTrips(running);
    const { status, body, values } = await at(running, "web");
    expect([status, body, values("retry-after")]).toEqual([503, "seikan: 256 requests wait for web already\n", ["1"]]);
    place.open("web");
    for (const client of waiting) {
      using _ = client;
      expect((await client.response()).status).toBe(200);
    }
    expect(await pidAt(running, "web")).toBe(place.pids("web")[0]!);
  });

  test("who has gone away does not wait any more", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    const waiting = await Promise.all(Array.from({ length: 256 }, () => asking(running, "web")));
    await place.happens("web", "start");
    await roundTrips(running);
    for (const client of waiting) client.reset();
    await roundTrips(running);
    using last = await asking(running, "web");
    await roundTrips(running);
    place.open("web");
    expect((await last.response()).status).toBe(200);
  });

  test("a server that runs is not limited so", async () => {
    await using place = new Project();
    const web = webServer("web");
    const running = await place.serve({ up: { port: web.port! }, launched: { command: dev() } });
    await pidAt(running, "launched");
    for (const name of ["up", "launched"]) {
      const clients = await Promise.all(Array.from({ length: 600 }, () => dialRaw(running.port)));
      for (const client of clients) client.send(get(`${name}.localhost`, "/who"));
      const all = await Promise.all(clients.map((client) => client.response()));
      expect([...new Set(all.map(({ status }) => status))]).toEqual([200]);
      for (const client of clients) client.reset();
    }
    await web.stop(true);
  });
});

describe("while it starts", () => {
  test("a browser is shown what it prints, and comes back by itself", async () => {
    await using place = new Project();
    const said = "<script>alert('1')</script> & \u001b[31mred\u001b[0m";
    const running = await place.serve({
      web: { command: dev("--gate", place.gate("web"), "--say", "first line", "--say", said), delay: 30 },
    });
    const asked = performance.now();
    const { status, values, body } = await at(running, "web", "/who", BROWSER);
    const ms = performance.now() - asked;
    expect(ms).toBeGreaterThan(600);
    expect(ms).toBeLessThan(3000);
    expect(status).toBe(503);
    const fields = ["retry-after", "content-type", "cache-control", "connection"].map((name) => values(name)[0]);
    expect(fields).toEqual(["1", "text/html; charset=utf-8", "no-store", "close"]);
    expect(body).toContain('<meta http-equiv="refresh" content="1">');
    expect(body).toContain("<title>Starting</title>");
    expect(body).toContain('<p role="status">web is starting; that usually takes 30 s</p>');
    expect(body).toContain(">first line\n&#60;script&#62;alert(&#39;1&#39;)&#60;/script&#62; &#38; red</pre>");
    expect(body).not.toContain("<script");
    expect(body).toContain(`<dt>folder</dt><dd>${place.path}</dd>`);
    expect((await at(running, "web", "/who", BROWSER)).status).toBe(503);
    place.open("web");
    await place.happens("web", "listen");
    const shown = await eventually(
      () => at(running, "web", "/who", BROWSER),
      (one) => one.status === 200,
      "it is there",
    );
    expect(shown.body).toBe(`web ${place.pids("web")[0]}`);
    expect(place.pids("web")).toHaveLength(1);
  });

  test("programs wait, whatever they accept, and so do scripts of pages", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    const requests: Record<string, string> = {
      curl: get("web.localhost", "/who", "Accept: */*"),
      none: get("web.localhost", "/who"),
      json: get("web.localhost", "/who", JSON_ACCEPT),
      posted: lines("POST /who HTTP/1.1", "Host: web.localhost", BROWSER, "Content-Length: 0"),
      fetched: get("web.localhost", "/who", BROWSER, "Sec-Fetch-Mode: cors"),
      socket: upgradeRequest("/socket", { Host: "web.localhost", Accept: "text/html" }),
    };
    const clients = await Promise.all(
      Object.values(requests).map(async (text) => (await dialRaw(running.port)).send(text)),
    );
    using head = await dialRaw(running.port);
    head.send(lines("HEAD /who HTTP/1.1", "Host: web.localhost", BROWSER));
    // Takes longer than browsers wait.
    expect((await at(running, "web", "/who", BROWSER)).status).toBe(503);
    expect((await at(running, "web", "/who", "Sec-Fetch-Mode: navigate")).status).toBe(503);
    expect([...clients, head].map(({ length }) => length)).toEqual(Array(7).fill(0));
    place.open("web");
    const statuses = await Promise.all(clients.map(async (client) => (await client.response()).status));
    expect(statuses).toEqual([200, 200, 200, 200, 200, 101]);
    const { status, values } = await head.response("HEAD");
    expect([status, values("proxy-status")]).toEqual([200, []]);
    for (const client of clients) client.reset();
  });

  test.skipIf(program("curl") === undefined)("curl waits for it, with what it has to send", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    const body = pattern(3 * MIB, 3);
    writeFileSync(place.file("body"), body);
    const url = `http://web.localhost:${running.port}`;
    await using posting = new Process(["curl", "-sS", "--data-binary", `@${place.file("body")}`, `${url}/sum`]);
    await using asks = new Process(["curl", "-sS", `${url}/who`]);
    const pid = await place.happens("web", "start");
    await roundTrips(running);
    place.open("web");
    expect([await asks.exited(), asks.stdout, asks.stderr]).toEqual([0, `web ${pid}`, ""]);
    expect([await posting.exited(), posting.stderr]).toEqual([0, ""]);
    const sha1 = new Bun.CryptoHasher("sha1").update(body).digest("hex");
    expect(JSON.parse(posting.stdout)).toEqual({ length: body.length, sha1 });
  });

  test("a server that is there in a moment is never announced; delay is not waited for", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev(), delay: 600 } });
    const { status, body } = await at(running, "web", "/who", BROWSER);
    expect([status, body]).toEqual([200, `web ${place.pids("web")[0]}`]);
  });

  test("who leaves in the middle of an answer is no error", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    const client = await asking(running, "web", `/events?gate=${place.gate("never")}`);
    await client.sees("data: one");
    client.reset();
    await logged(running, ({ event, target }) => event === "request" && target === "/events");
    expect(await logOf(running)).not.toMatch(/ (?:error|warn) /);
    await pidAt(running, "web");
  });

  test("who goes away takes nothing along", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    using other = await asking(running, "web");
    const first = await asking(running, "web");
    await place.happens("web", "start");
    first.reset();
    await roundTrips(running);
    place.open("web");
    expect((await other.response()).status).toBe(200);
    expect(place.pids("web")).toHaveLength(1);
  });
});

describe("a start that fails", () => {
  const told = async (running: Running, name: string): Promise<Record<string, unknown>> => {
    const { status, values, body } = await at(running, name, "/", JSON_ACCEPT);
    expect(values("content-type")).toEqual(["application/problem+json"]);
    const document = JSON.parse(Buffer.from(body, "latin1").toString()) as Record<string, unknown>;
    return { ...document, status };
  };

  test("tells the code, the command, the folder and what was said last", async () => {
    await using place = new Project();
    const words = dev("--say", "loading", "--say", "<b>no such table</b>", "--exit", "3");
    const running = await place.serve({ text: { command: words }, page: { command: words }, json: { command: words } });
    const command = (name: string) => words.join(" ").replace("{name}", name);
    const text = await at(running, "text", "/");
    expect([text.status, text.values("content-type")]).toEqual([502, ["text/plain; charset=utf-8"]]);
    expect(text.body.replace(/after: \d\.\d s/, "after: N s").split("\n")).toEqual([
      ...["seikan: text ended before it was ready: exit code 3", "exit code: 3", "after: N s"],
      ...[`command: ${command("text")}`, `folder: ${place.path}`],
      ...["  | loading", "  | <b>no such table</b>", ""],
    ]);
    expect(await told(running, "json")).toEqual({
      ...{ type: "about:blank", title: "Bad Gateway", status: 502, code: "service-failed", hints: [] },
      detail: "json ended before it was ready: exit code 3",
      ...{ exitCode: 3, after: expect.stringMatching(/^\d\.\d s$/), command: command("json"), folder: place.path },
      output: ["loading", "<b>no such table</b>"],
    });
    const page = await at(running, "page", "/", BROWSER);
    expect([page.status, page.values("content-type")]).toEqual([502, ["text/html; charset=utf-8"]]);
    expect(page.body).toContain('<p role="status">page ended before it was ready: exit code 3</p>');
    expect(page.body).toContain("<dt>exit code</dt><dd>3</dd>");
    expect(page.body).toContain(`<dt>folder</dt><dd>${place.path}</dd>`);
    expect(page.body).toContain(">loading\n&#60;b&#62;no such table&#60;/b&#62;</pre>");
    expect(page.body).not.toContain("<b>");
    using head = await dialRaw(running.port);
    head.send(lines("HEAD / HTTP/1.1", "Host: text.localhost"));
    expect((await head.response("HEAD")).status).toBe(502);
    expect(await head.receivesEnd()).toEndWith("\r\n\r\n");
  });

  test("is not tried again at once, but told again", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--say", "why", "--exit", "1") } });
    expect((await told(running, "web")).hints).toEqual([]);
    const again = await Promise.all(Array.from({ length: 20 }, () => told(running, "web")));
    for (const { detail, hints, output } of again) {
      expect(detail).toBe("web ended before it was ready: exit code 1");
      expect(hints).toEqual(["the first request after 1 s starts it again; seikan services start web starts it now"]);
      expect(output).toContain("why");
    }
    // A page that is left open shall not start it again and again.
    expect((await at(running, "web", "/", BROWSER)).body).not.toContain("refresh");
    expect(place.pids("web")).toHaveLength(1);
  });

  test("shows the last lines as they would be read", async () => {
    await using place = new Project();
    const text = String.raw`printf 'one\rtwo\r\n\033[1mb\033[0mold\303\244\t\007\nlast'; exit 1`;
    const running = await place.serve({
      pipes: { command: text },
      terminal: { command: text, tty: true },
      errors: { command: "echo to stderr >&2; exit 1" },
      many: { command: "seq 40; exit 1" },
      nothing: { command: "exit 1" },
    });
    for (const name of ["pipes", "terminal"])
      expect((await told(running, name)).output).toEqual(["two", "boldä\t", "last"]);
    expect((await told(running, "errors")).output).toEqual(["to stderr"]);
    expect((await told(running, "many")).output).toEqual(Array.from({ length: 30 }, (_, index) => String(index + 11)));
    expect((await at(running, "nothing", "/", BROWSER)).body).toContain("It has printed nothing yet.");
  });

  test("shows what was said last, however much that was", async () => {
    await using place = new Project();
    const command = "seq 100000; echo the end; exit 1";
    const names = Array.from({ length: 8 }, (_, index) => `web${index}`);
    const running = await place.serve(Object.fromEntries(names.map((name) => [name, { command }])));
    const ends = await Promise.all(
      names.map(async (name) => ((await told(running, name)).output as string[]).slice(-2)),
    );
    expect(ends).toEqual(names.map(() => ["100000", "the end"]));
  });

  test("ends what it left behind", async () => {
    await using place = new Project();
    const started = `while ! grep -q start "$JOURNAL"; do :; done`;
    const command = `${devLine("--stubborn", "--deaf")} & ${started}; exit 3`;
    const running = await place.serve({ web: { command, stop_timeout: "300ms" } });
    expect((await told(running, "web")).detail).toBe("web ended before it was ready: exit code 3");
    await place.happens("web", "term");
    await place.isEmpty();
  });

  test("is one whatever it left behind does until that ends", async () => {
    await using place = new Project();
    const started = `while ! grep -q start "$JOURNAL"; do :; done`;
    const command = `${devLine("--stubborn", "--gate", place.gate("web"))} & ${started}; exit 3`;
    const running = await place.serve({ web: { command, stop_timeout: "2s" } });
    using client = await asking(running, "web");
    await place.happens("web", "term");
    place.open("web");
    expect((await client.response()).status).toBe(502);
  });

  test("is told also to who is still sending", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--say", "no", "--exit", "1") } });
    using client = await dialRaw(running.port);
    client
      .send(lines("POST / HTTP/1.1", "Host: web.localhost", `Content-Length: ${8 * MIB}`))
      .send(Buffer.alloc(8 * MIB));
    const { status, body } = await client.response();
    expect([status, body]).toEqual([502, expect.stringContaining("  | no\n")]);
  });

  test("says what is missing", async () => {
    await using place = new Project();
    place.write("tool", "#!/bin/sh\nexit 0\n");
    place.write("no-program", "just text");
    chmodSync(place.file("no-program"), 0o755);
    const running = await place.serve({
      list: { command: ["no-such-program-anywhere", "x"] },
      shell: { command: "no-such-program-anywhere" },
      sheller: { command: "./tool" },
      text: { command: ["./no-program"] },
      folder: { command: dev(), cwd: "no/such/folder" },
      file: { command: dev(), cwd: "tool" },
      env: { command: dev(), env_file: "no.env" },
      killed: { command: "kill -9 $$" },
    });
    const failed = async (name: string) => {
      const { status, detail, folder, exitCode, output } = await told(running, name);
      return { status, detail, folder, exitCode, output };
    };
    const folder = place.path;
    const cannot = (name: string, why: string, where = folder) => ({
      ...{ status: 502, detail: `${name} cannot be started: ${why}`, folder: where, exitCode: undefined, output: [] },
    });
    const ended = (name: string, why: string, exitCode: number | undefined, output: unknown) => ({
      ...{ status: 502, detail: `${name} ended before it was ready: ${why}`, folder, exitCode, output },
    });
    const said = (what: RegExp) => [expect.stringMatching(what)];
    expect(await failed("list")).toEqual(cannot("list", "no such command: no-such-program-anywhere"));
    expect(await failed("shell")).toEqual(
      ended("shell", "exit code 127", 127, said(/no-such-program-anywhere: not found/)),
    );
    expect(await failed("sheller")).toEqual(
      ended("sheller", "exit code 126", 126, said(/\.\/tool: Permission denied/)),
    );
    expect(await failed("text")).toEqual(cannot("text", "cannot execute ./no-program: ENOEXEC"));
    const missing = place.file("no/such/folder");
    expect(await failed("folder")).toEqual(cannot("folder", `there is no folder ${missing}`, missing));
    const file = place.file("tool");
    expect(await failed("file")).toEqual(cannot("file", `there is no folder ${file}`, file));
    expect(await failed("env")).toEqual(cannot("env", `cannot read ${place.file("no.env")}: ENOENT`));
    expect(await failed("killed")).toEqual(ended("killed", "SIGKILL", undefined, []));
  });

  test("tells a command that is not executable from one that is not there", async () => {
    await using place = new Project();
    place.write("tool", "#!/bin/sh\nexit 0\n");
    const running = await place.serve({ web: { command: ["./tool"] } });
    expect((await told(running, "web")).detail).toBe(
      "web cannot be started: cannot execute ./tool: it is not executable",
    );
  });

  test("names the command also where it did not even begin", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: ["no-such-program-anywhere", "x"] } });
    expect((await told(running, "web")).command).toBe("no-such-program-anywhere x");
  });
});

describe("it is ready", () => {
  test("when its port accepts, however late that is", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")) } });
    using client = await asking(running, "web");
    await place.happens("web", "start");
    await roundTrips(running);
    expect(await logOf(running)).not.toContain("web is ready");
    place.open("web");
    expect((await client.response()).status).toBe(200);
    expect(await logOf(running)).toContain("info web is ready");
  });

  test("when a path answers well, and not while it does otherwise", async () => {
    await using place = new Project();
    const running = await place.serve({
      web: { command: dev("--health", place.gate("web")), ready: { http: "/healthz" } },
    });
    using client = await asking(running, "web");
    await place.happens("web", "listen");
    await roundTrips(running, 100);
    expect(client.length).toBe(0);
    place.open("web");
    expect((await client.response()).status).toBe(200);
  });

  test("when it prints a text, colours aside", async () => {
    await using place = new Project();
    const port = freePort();
    const running = await place.serve({ web: { port, command: dev(), ready: { log: "Serving on http" } } });
    using client = await asking(running, "web");
    await place.happens("web", "listen");
    const say = (text: string) => visit(port, "localhost", `/say?text=${encodeURIComponent(text)}`);
    expect((await say("Serving nothing on http")).body).toBe("said");
    await roundTrips(running, 100);
    expect(client.length).toBe(0);
    await say("\u001b[32mServing\u001b[39m on \u001b]8;;x\u0007http\u001b]8;;\u0007://here");
    expect((await client.response()).status).toBe(200);
  });

  test("or it is ended after ready_timeout, and what was missing is told", async () => {
    await using place = new Project();
    const port = freePort();
    const common = { ready_timeout: "400ms" };
    const running = await place.serve({
      deaf: { port, command: dev("--deaf", "--say", "I never listen"), ...common },
      ill: { command: dev("--health", place.gate("never")), ready: { http: "/healthz" }, ...common },
      mute: { command: dev(), ready: { log: 'so "ready"' }, ...common },
    });
    const told = async (name: string) => {
      const { status, body } = await at(running, name, "/", JSON_ACCEPT);
      const { detail, code, command, folder, output } = JSON.parse(body) as Record<string, unknown>;
      expect([status, code, folder]).toEqual([504, "service-timeout", place.path]);
      expect(command).toStartWith(`${process.execPath} `);
      return { detail, output };
    };
    const [deaf, ill, mute] = await Promise.all(["deaf", "ill", "mute"].map(told));
    const late = (name: string, what: string) => `${name} was not ready within 0.4 s: ${what}`;
    expect(deaf).toEqual({ detail: late("deaf", `nothing listens on port ${port}`), output: ["I never listen"] });
    expect(ill).toEqual({ detail: late("ill", "/healthz: it answers 503"), output: [] });
    expect(mute).toEqual({ detail: late("mute", 'it did not print "so \\"ready\\""'), output: [] });
    await place.isEmpty();
    expect(place.journal.filter((line) => line.includes(" start "))).toHaveLength(3);
  });

  test("or it is told that its certificate is the reason", async () => {
    await using place = new Project();
    const tls = ["--cert", certificate.certFile, "--key", certificate.keyFile];
    const running = await place.serve({ web: { command: dev(...tls), https: true, ready_timeout: "400ms" } });
    expect((await at(running, "web")).body).toContain("certificate");
  });

  test("or its end is told at once, whatever was waited for", async () => {
    await using place = new Project();
    const running = await place.serve({
      http: { command: dev("--exit", "0"), ready: { http: "/" } },
      log: { command: dev("--exit", "5"), ready: { log: "ready" } },
    });
    expect((await at(running, "http")).body).toStartWith("seikan: http ended before it was ready: exit code 0\n");
    expect((await at(running, "log")).body).toStartWith("seikan: log ended before it was ready: exit code 5\n");
  });

  test("after settle, for servers that accept too early", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")), settle: "400ms" } });
    using client = await asking(running, "web");
    await place.happens("web", "start");
    const opened = performance.now();
    place.open("web");
    expect((await client.response()).status).toBe(200);
    expect(performance.now() - opened).toBeGreaterThan(399);
    // Once.
    const asked = performance.now();
    await pidAt(running, "web");
    expect(performance.now() - asked).toBeLessThan(300);
  });
});

describe("everything that was started ends", () => {
  /** Starts it, ends seikan in order, and looks what is left. */
  async function endsWith(place: Project, command: string | string[], keys: Record<string, Value> = {}) {
    const running = await place.serve({ web: { command, ...keys } });
    const pid = await pidAt(running, "web");
    expect(place.processes).toContain(pid);
    const asked = performance.now();
    running.kill("SIGTERM");
    expect(await within(running.exited, "its end")).toBe(0);
    const ms = performance.now() - asked;
    expect(place.processes).toEqual([]);
    return ms;
  }

  test("by SIGTERM, with the server", async () => {
    await using place = new Project();
    expect(await endsWith(place, dev(), { stop_timeout: "20s" })).toBeLessThan(5000);
    expect(place.pids("web", "term")).toEqual(place.pids("web"));
  });

  const shapes: [what: string, command: () => string][] = [
    ["a command that is the child of a shell", () => `${devLine()}; exit 1`],
    ["a server whose parent has ended with 0", () => `${devLine()} & exit 0`],
    ["a pipeline", () => `${devLine()} | cat | cat`],
    ["a daemon in a session of its own", () => `setsid -f ${devLine()}`],
  ];
  for (const [what, command] of shapes) {
    test(what, async () => {
      await using place = new Project();
      expect(await endsWith(place, command(), { stop_timeout: "20s" })).toBeLessThan(5000);
      expect(place.pids("web", "term")).toEqual(place.pids("web"));
    });
  }

  test("daemons that fork twice, none of which is missed while it does", async () => {
    await using place = new Project();
    place.write("serve.sh", `exec ${devLine().replace("{name}", '"$1"')}\n`);
    const command = 'setsid sh -c "sh serve.sh {name} & exit 0" & exit 0';
    const names = Array.from({ length: 20 }, (_, index) => `web${index}`);
    const running = await place.serve(Object.fromEntries(names.map((name) => [name, { command }])));
    for (const name of names) expect(await pidAt(running, name)).toBe(place.pids(name)[0]!);
    running.kill("SIGTERM");
    expect(await within(running.exited, "its end")).toBe(0);
    expect(place.processes).toEqual([]);
  });

  test("what has a terminal", async () => {
    await using place = new Project();
    expect(await endsWith(place, dev(), { stop_timeout: "20s", tty: true })).toBeLessThan(5000);
    expect(place.pids("web", "term")).toEqual(place.pids("web"));
  });

  test("what ignores SIGTERM, by SIGKILL after stop_timeout", async () => {
    await using place = new Project();
    const ms = await endsWith(place, dev("--stubborn"), { stop_timeout: "500ms" });
    expect(ms).toBeGreaterThan(500);
    expect(ms).toBeLessThan(3000);
    expect(place.pids("web", "term")).toEqual(place.pids("web"));
  });

  test("what ignores SIGTERM and has lost its leader", async () => {
    await using place = new Project();
    const ms = await endsWith(place, `${devLine("--stubborn")} & wait`, { stop_timeout: "500ms" });
    expect(ms).toBeGreaterThan(500);
    expect(ms).toBeLessThan(3000);
  });

  test("also where somebody else holds its output open", async () => {
    await using place = new Project();
    const file = place.file("holder.pid");
    // In another session and without a trace in its environment: nobody could know that it belongs here.
    const holder = `env -i setsid -f /bin/sh -c 'echo $$ > ${file}; exec sleep 600'`;
    try {
      expect(await endsWith(place, `${holder}; exec ${devLine()}`)).toBeLessThan(5000);
      expect(isAlive(Number(readFileSync(file, "utf8")))).toBe(true);
    } finally {
      kill(Number(readFileSync(file, "utf8")), "SIGKILL");
    }
  });

  test("while it starts, and who waits is told so", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("never")) } });
    using client = await asking(running, "web");
    await place.happens("web", "start");
    running.kill("SIGTERM");
    const { status, body } = await client.response();
    expect([status, body]).toEqual([503, "seikan: web is not served any more\n"]);
    expect(await within(running.exited, "its end")).toBe(0);
    expect(place.processes).toEqual([]);
  });

  test("once what was asked for is answered", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    using client = await asking(running, "web", `/held?gate=${place.gate("answer")}`);
    const pid = await place.happens("web", "held");
    running.kill("SIGTERM");
    await says(running, "draining 1 connections");
    expect(isAlive(pid)).toBe(true);
    place.open("answer");
    expect((await client.response()).body).toBe(`web ${pid}`);
    expect(await within(running.exited, "its end")).toBe(0);
    expect(place.processes).toEqual([]);
  });

  test("after --drain-timeout, with streams that would never end", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } }, ["--drain-timeout", "300ms"]);
    using client = await asking(running, "web", `/events?gate=${place.gate("never")}`);
    await client.sees("data: one");
    running.kill("SIGTERM");
    expect(await within(running.exited, "its end")).toBe(0);
    expect(place.processes).toEqual([]);
  });

  test("at once with a second SIGINT", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    using _ = await asking(running, "web", `/events?gate=${place.gate("never")}`);
    await place.happens("web", "events");
    running.kill("SIGINT");
    await says(running, "draining 1 connections");
    running.kill("SIGINT");
    expect(await within(running.exited, "its end")).toBe(130);
    await place.isEmpty(1000);
  });

  test("at once with a second SIGINT, also what ignored SIGTERM by then", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--stubborn"), stop_timeout: "30s" } });
    await pidAt(running, "web");
    running.kill("SIGINT");
    await place.happens("web", "term");
    running.kill("SIGINT");
    expect(await within(running.exited, "its end")).toBe(130);
    await place.isEmpty(1000);
  });

  test("when --timeout passes", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } }, ["--timeout", "1500ms"]);
    const pid = await pidAt(running, "web");
    expect(place.processes).toEqual([pid]);
    expect(await within(running.exited, "its end")).toBe(124);
    await place.isEmpty();
  });
});

describe("a seikan that was killed", () => {
  test("leaves servers behind that the next one ends, and nothing else ends", async () => {
    await using place = new Project();
    const services = { web: { command: dev("--stubborn") }, daemon: { command: `setsid -f ${devLine()}` } };
    await using bystander = devProcess("web", "--stubborn");
    const killed = await place.serve(services);
    const other = await place.serveAgain();
    const left = [await pidAt(killed, "web"), await pidAt(killed, "daemon")];
    const kept = [await pidAt(other, "web"), await pidAt(other, "daemon")];
    killed.kill("SIGKILL");
    await killed.exited;
    expect([...left, ...kept, bystander.pid].filter(isAlive)).toHaveLength(5);
    const next = await place.serveAgain();
    const ended = [left, kept, [bystander.pid]].map((pids) => pids.map(isAlive));
    expect(ended).toEqual([[false, false], [true, true], [true]]);
    const [, names] = /ended what a seikan that was killed left behind: (.+)\n/.exec(await logOf(next)) ?? [];
    expect(names?.split(", ").toSorted()).toEqual(["daemon", "web"]);
    // Once.
    expect(await logOf(await place.serveAgain())).not.toContain("left behind");
    expect(await pidAt(other, "web")).toBe(kept[0]!);
  });

  test("may have had process ids that are somebody else's now", async () => {
    await using place = new Project();
    await using bystander = devProcess("bystander", "--stubborn");
    const killed = await place.serve({ web: { command: dev() } });
    const pid = await pidAt(killed, "web");
    killed.kill("SIGKILL");
    await killed.exited;
    const folder = place.file("run/seikan/launches");
    const [name] = readdirSync(folder);
    const text = readFileSync(join(folder, name!), "utf8");
    expect(text).toContain(`"pid":${pid},`);
    writeFileSync(join(folder, name!), text.replace(`"pid":${pid},`, `"pid":${bystander.pid},`));
    await place.serveAgain();
    expect([isAlive(pid), isAlive(bystander.pid)]).toEqual([false, true]);
    expect(readdirSync(folder)).toEqual([]);
  });

  test("is not remembered where others could look, and all of it works", async () => {
    await using place = new Project();
    mkdirSync(place.file("run/seikan"));
    chmodSync(place.file("run/seikan"), 0o755);
    const running = await place.serve({ web: { command: dev() } });
    expect(await logOf(running)).toContain(
      ` warn launches are not remembered: ${place.file("run/seikan")} is not ours alone\n`,
    );
    await pidAt(running, "web");
    expect(readdirSync(place.file("run/seikan"))).toEqual([]);
    running.kill("SIGTERM");
    expect(await within(running.exited, "its end")).toBe(0);
    expect(place.processes).toEqual([]);
  });

  test("may have left files that were not written to their end", async () => {
    await using place = new Project();
    mkdirSync(place.file("run/seikan"), { mode: 0o700 });
    place.write("run/seikan/launches/empty.json", "");
    place.write("run/seikan/launches/torn.json", '{"name":"web","pid":');
    const running = await place.serve({ web: { command: dev() } });
    await pidAt(running, "web");
    expect(readdirSync(place.file("run/seikan/launches"))).toHaveLength(1);
  });

  test("may have left files that say nothing", async () => {
    await using place = new Project();
    mkdirSync(place.file("run/seikan"), { mode: 0o700 });
    for (const [name, text] of Object.entries({ list: "[]", nothing: "null", other: '{"name":"web"}' }))
      place.write(`run/seikan/launches/${name}.json`, text);
    await place.serve({ web: { command: dev() } });
    expect(readdirSync(place.file("run/seikan/launches"))).toEqual([]);
  });
});

describe("a server that ends by itself", () => {
  test("with 0 is stopped: the next request starts it again", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    const first = await pidAt(running, "web");
    await at(running, "web", "/exit?code=0");
    await says(running, "info web ended");
    await roundTrips(running);
    expect(place.pids("web")).toEqual([first]);
    expect(await pidAt(running, "web")).toBe(await place.happens("web", "start", 2));
  });

  test("by somebody's SIGTERM is stopped, too", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() }, shell: { command: `${devLine()} & wait` } });
    for (const name of ["web", "shell"]) {
      kill(await pidAt(running, name), "SIGTERM");
      await says(running, `info ${name} ended`);
      expect(await pidAt(running, name)).toBe(await place.happens(name, "start", 2));
    }
  });

  test("by a crash is started again by itself, after a pause", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    const crashed = performance.now();
    kill(await pidAt(running, "web"), "SIGKILL");
    await says(running, "error web crashed: SIGKILL code=service-failed again=1s");
    const { status, body } = await at(running, "web");
    expect([status, body.split("\n").filter((line) => !line.startsWith("  | #"))]).toEqual([
      502,
      [
        ...["seikan: web crashed: SIGKILL", "signal: SIGKILL"],
        ...[`command: ${dev().join(" ").replace("{name}", "web")}`, `folder: ${place.path}`],
        ...["hint: it is started again in 1 s; seikan services start web starts it now", ""],
      ],
    ]);
    // A page that is left open comes back by itself.
    expect((await at(running, "web", "/", BROWSER)).body).toContain('<meta http-equiv="refresh" content="2">');
    const second = await place.happens("web", "listen", 2);
    const ms = performance.now() - crashed;
    expect(ms).toBeGreaterThan(1000);
    expect(ms).toBeLessThan(3000);
    await says(running, "info web is ready", 2);
    expect(await pidAt(running, "web")).toBe(second);
  });

  test('by a crash stays so with restart = "no", until somebody asks', async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev(), restart: "no" } });
    await at(running, "web", "/exit?code=7");
    await says(running, "error web crashed: exit code 7 code=service-failed\n");
    const { status, body } = await at(running, "web");
    expect(status).toBe(502);
    expect(body).toContain("\nexit code: 7\n");
    expect(body).toEndWith(
      "\nhint: the first request after 1 s starts it again; seikan services start web starts it now\n",
    );
    expect((await answers(running, "web", 200)).body).toBe(`web ${place.pids("web")[1]}`);
    expect(place.pids("web")).toHaveLength(2);
  });

  test("and opens its port again in a moment is left alone, and waited for", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    const pid = await pidAt(running, "web");
    await at(running, "web", `/close?gate=${place.gate("again")}`);
    await place.happens("web", "closed");
    using client = await asking(running, "web");
    await roundTrips(running, 50);
    expect(client.length).toBe(0);
    place.open("again");
    expect((await client.response()).body).toBe(`web ${pid}`);
    expect(place.pids("web")).toEqual([pid]);
  });
});

describe("depends_on", () => {
  test("starts what is needed first, each once, and the rest behind it", async () => {
    await using place = new Project();
    const running = await place.serve({
      web: { command: dev(), depends_on: ["api", "assets"] },
      api: { command: dev(), depends_on: ["database"] },
      assets: { command: dev(), depends_on: ["database"] },
      database: { command: dev("--gate", place.gate("database")) },
      unneeded: { command: dev() },
    });
    using client = await asking(running, "web");
    await place.happens("database", "start");
    await roundTrips(running, 50);
    expect(place.journal).toHaveLength(1);
    place.open("database");
    expect((await client.response()).status).toBe(200);
    const order = place.journal.map((line) => line.replace(/ \d+$/, ""));
    expect(order.slice(0, 2)).toEqual(["database start", "database listen"]);
    expect(order.slice(2, 6).toSorted()).toEqual(["api listen", "api start", "assets listen", "assets start"]);
    expect(order.slice(6)).toEqual(["web start", "web listen"]);
    running.kill("SIGTERM");
    expect(await within(running.exited, "its end")).toBe(0);
    expect(place.processes).toEqual([]);
  });

  test("tells the failure of what is needed, and starts nothing in vain", async () => {
    await using place = new Project();
    const port = freePort();
    const running = await place.serve({
      web: { command: dev(), depends_on: ["database"] },
      database: { command: dev("--say", "no disk", "--exit", "2") },
      other: { command: dev(), depends_on: ["away"] },
      away: { port },
    });
    const { status, body } = await at(running, "web", "/", JSON_ACCEPT);
    const { detail, exitCode, command, output } = JSON.parse(body) as Record<string, unknown>;
    expect([status, detail, exitCode, output]).toEqual([
      ...[502, "web needs another service: database ended before it was ready: exit code 2", 2, ["no disk"]],
    ]);
    expect(command).toContain(" database --say no disk");
    expect((await at(running, "other")).body).toStartWith(
      `seikan: other needs another service: connection refused by 127.0.0.1:${port}`,
    );
    expect([place.pids("web"), place.pids("other")]).toEqual([[], []]);
    expect(place.pids("database")).toHaveLength(1);
  });

  test("in a circle, or on nobody, is a mistake in the file", async () => {
    await using place = new Project();
    const command = ["true"];
    place.configure({
      one: { command, depends_on: ["two"] },
      two: { command, depends_on: ["three"] },
      three: { command, depends_on: ["one"] },
      self: { command, depends_on: ["self"] },
      lost: { command, depends_on: ["nobody"] },
      fine: { command, depends_on: ["one"] },
    });
    const { code, stderr } = await runSeikan(place.serveWords, { env: place.env });
    expect(code).toBe(2);
    const found = [...stderr.matchAll(/^(\d+):\d+: (it depends .*)$/gm)].map((match) => match.slice(1));
    const circle = "it depends on itself, perhaps through others";
    expect(found).toEqual([
      ...[
        ["1", circle],
        ["5", circle],
        ["9", circle],
        ["13", circle],
      ],
      ["17", "it depends on nobody, and there is no such service"],
    ]);
  });
});

describe("hosts", () => {
  /** Answers with its name and the path it was asked for. */
  const webs = new Map<string, ReturnType<typeof webServer>>();
  let place: Project;
  let running: Running;
  const serving = (name: string) => {
    const web = webServer(name);
    webs.set(name, web);
    return web.port!;
  };
  beforeAll(async () => {
    place = new Project();
    running = await place.serve({
      several: { port: serving("several"), host: ["one.test", "TWO.test", "Three.localhost"] },
      wild: { port: serving("wild"), host: "*.wild.test" },
      deep: { port: serving("deep"), host: "*.deep.wild.test" },
      exact: { port: serving("exact"), host: "exact.wild.test" },
      part: { port: serving("part"), host: "part.wild.test", path: "/part" },
      root: { port: serving("root"), host: "paths.test" },
      api: { port: serving("api"), host: "paths.test", path: "/api" },
      old: { port: serving("old"), host: "paths.test", path: "/api/v1/" },
      only: { port: serving("only"), host: "only.test", path: "/only" },
      Default: { port: serving("default") },
      "with.dot": { port: serving("dotted") },
      launched: { command: dev() },
      fixed: { port: freePort(), command: dev() },
    });
  });
  afterAll(async () => {
    await place[Symbol.asyncDispose]();
    await Promise.all([...webs.values()].map((web) => web.stop(true)));
  });

  const found: [host: string, path: string, body: string][] = [
    ["one.test", "/", "several /"],
    ["two.test", "/x", "several /x"],
    ["ONE.Test", "/", "several /"],
    ["one.test:1234", "/", "several /"],
    ["one.test.", "/", "several /"],
    ["three.localhost", "/", "several /"],
    ["a.wild.test", "/", "wild /"],
    ["a.b.wild.test", "/", "wild /"],
    ["deep.wild.test", "/", "wild /"],
    ["a.deep.wild.test", "/", "deep /"],
    ["exact.wild.test", "/", "exact /"],
    ["a.exact.wild.test", "/", "wild /"],
    ["part.wild.test", "/part/x", "part /part/x"],
    ["part.wild.test", "/x", "wild /x"],
    ["paths.test", "/", "root /"],
    ["paths.test", "/api", "api /api"],
    ["paths.test", "/api/", "api /api/"],
    ["paths.test", "/api?x=/", "api /api"],
    ["paths.test", "/apis", "root /apis"],
    ["paths.test", "/API", "root /API"],
    ["paths.test", "/x/api", "root /x/api"],
    ["paths.test", "/api/v1", "api /api/v1"],
    ["paths.test", "/api/v1/x", "old /api/v1/x"],
    ["paths.test", "/api/v2/x", "api /api/v2/x"],
    ["only.test", "/only", "only /only"],
    ["default.localhost", "/", "default /"],
    ["with.dot.localhost", "/", "dotted /"],
  ];
  for (const [host, path, expected] of found) {
    test(`${host}${path} is ${expected}`, async () => {
      const { status, body } = await visit(running.port, host, path);
      expect([status, body]).toEqual([200, expected]);
    });
  }

  const unknown: [host: string, path: string, status: number, message: string][] = [
    ["only.test", "/", 421, "this server is not only.test"],
    ["wild.test", "/", 421, "this server is not wild.test"],
    ["a.one.test", "/", 421, "this server is not a.one.test"],
    ["evil.example", "/", 421, "this server is not evil.example"],
    ["evil.example", "/-/healthz", 421, "this server is not evil.example"],
    ["a.default.localhost", "/", 404, "there is no site a.default.localhost here"],
    ["nobody.localhost", "/", 404, "there is no site nobody.localhost here"],
  ];
  for (const [host, path, status, message] of unknown) {
    test(`${host}${path} is nobody: ${status}`, async () => {
      const answer = await visit(running.port, host, path, JSON_ACCEPT);
      expect([answer.status, JSON.parse(answer.body).detail]).toEqual([status, message]);
    });
  }

  test("who mistypes a host here is told which ones there are, and who comes through a proxy is not", async () => {
    const { body } = await visit(running.port, "nobody.localhost", "/");
    expect(body).toMatch(/\nhint: services here are at one\.test, two\.test, [^\n]* and more\n/);
    const outside = await visit(running.port, "nobody.localhost", "/", "X-Forwarded-For: 203.0.113.9");
    expect([outside.status, outside.body.includes("services here")]).toEqual([404, false]);
  });

  test("the server itself is at localhost and at its address", async () => {
    for (const host of ["localhost", "127.0.0.1", `127.0.0.1:${running.port}`, "[::1]"]) {
      const { status, body } = await visit(running.port, host, "/-/healthz");
      expect([host, status, body]).toEqual([host, 200, "ok\n"]);
    }
    expect((await visit(running.port, "default.localhost", "/-/healthz")).body).toBe("default /-/healthz");
  });

  test("are told apart on one connection", async () => {
    using client = await dialRaw(running.port);
    const bodies: string[] = [];
    for (const [host, path] of [
      ["paths.test", "/api"],
      ["one.test", "/"],
      ["paths.test", "/"],
      ["one.test", "/x"],
    ] as const) {
      client.send(get(host, path));
      bodies.push((await client.response()).body);
    }
    expect(bodies).toEqual(["api /api", "several /", "root /", "several /x"]);
  });

  test("are reached through the proxy, in absolute-form and by CONNECT, and started so", async () => {
    using client = await dialRaw(running.port);
    client.send(lines("GET http://one.test/absolute HTTP/1.1", "Host: evil.example"));
    expect((await client.response()).body).toBe("several /absolute");
    client.send(lines("GET http://paths.test:80/api/x?y=/ HTTP/1.1", "Host: one.test"));
    expect((await client.response()).body).toBe("api /api/x");
    const { client: tunnel, answer } = await connectTo(running, "launched.localhost:80");
    expect(answer.status).toBe(200);
    expect(place.pids("launched")).toEqual([]);
    tunnel.send(get("launched.localhost", "/who"));
    expect((await tunnel.response()).body).toBe(`launched ${await place.happens("launched", "listen")}`);
    tunnel.reset();
  });

  test.skipIf(program("curl") === undefined)("are reached by curl, in all of these ways", async () => {
    const proxy = ["-x", `http://127.0.0.1:${running.port}`, "--noproxy", ""];
    for (const way of [[], proxy, [...proxy, "-p"]]) {
      const port = way.length === 0 ? `:${running.port}` : "";
      const run = await runProgram(["curl", "-sS", ...way, `http://three.localhost${port}/curl`]);
      expect(run).toEqual({ code: 0, stdout: "several /curl", stderr: "" });
    }
  });

  test("the ports behind them are not reached through the proxy", async () => {
    const { port } = webs.get("several")!;
    await visit(running.port, "launched.localhost", "/who");
    const launched = Number(/starting launched pid=\d+ port=(\d+)/.exec(await logOf(running))![1]);
    const fixed = Number(/port = (\d+)\ncommand/.exec(readFileSync(place.config, "utf8"))![1]);
    for (const target of [port, launched, fixed].flatMap((one) => [`127.0.0.1:${one}`, `localhost:${one}`])) {
      expect([target, await statusOf(running, target)]).toEqual([target, 403]);
      using client = await dialRaw(running.port);
      client.send(lines(`GET http://${target}/ HTTP/1.1`, `Host: ${target}`));
      const { status, body } = await client.response();
      expect([status, body]).toEqual([403, expect.stringContaining("may not be dialled: it is this server itself")]);
    }
    expect(await statusOf(running, `[::1]:${launched}`)).toBe(403);
  });

  test("nor are those behind a target", async () => {
    await using other = new Project();
    const web = webServer("web");
    const serves = await other.serve({ web: { target: `localhost:${web.port}` } });
    const status = await statusOf(serves, `127.0.0.1:${web.port}`);
    await web.stop(true);
    expect(status).toBe(403);
  });

  test("two with the same host and path are a mistake in the file", async () => {
    await using other = new Project();
    other.configure({
      one: { port: 1, host: ["a.test", "b.test"] },
      two: { port: 2, host: "B.test" },
      three: { port: 3, host: "b.test", path: "/x" },
      four: { port: 4, host: "b.test", path: "/x" },
    });
    const { code, stderr } = await runSeikan(other.serveWords, { env: other.env });
    const found = [...stderr.matchAll(/^\d+:\d+: (.*)$/gm)].map(([, message]) => message);
    expect([code, found]).toEqual([2, ["b.test is the host of one already", "b.test/x is the host of three already"]]);
  });
});

describe("another site's page", () => {
  const EVIL = "Origin: https://evil.example";
  const cross = (mode: string) => ["Sec-Fetch-Site: cross-site", `Sec-Fetch-Mode: ${mode}`];
  const refused: Record<string, string[]> = {
    fetch: [...cross("cors"), EVIL],
    image: cross("no-cors"),
    "image-html": [...cross("no-cors"), BROWSER],
    anonymous: [...cross("cors"), "Origin: null"],
    neighbour: [...cross("cors"), "Origin: http://localhost:3000"],
    subdomain: [...cross("cors"), "Origin: http://fetch.localhost.evil.example"],
    old: [EVIL],
    "old-null": ["Origin: null"],
    "old-accept": [EVIL, BROWSER],
  };
  const allowed: Record<string, string[]> = {
    program: [],
    link: [...cross("navigate"), "Sec-Fetch-Dest: document", BROWSER],
    typed: ["Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"],
    own: ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors"],
    sibling: ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors", "Origin: http://x.sibling.localhost"],
    service: [...cross("cors"), "Origin: http://program.localhost:8080"],
    "old-own": ["Origin: http://old-own.localhost"],
    "old-local": ["Origin: http://localhost:3000"],
  };
  let place: Project;
  let running: Running;
  beforeAll(async () => {
    place = new Project();
    const names = [...Object.keys(refused), ...Object.keys(allowed), "socket", "old-socket", "starting"];
    const command = (name: string) => dev(...(name === "starting" ? ["--gate", place.gate(name)] : []));
    running = await place.serve(Object.fromEntries(names.map((name) => [name, { command: command(name) }])));
  });
  afterAll(() => place[Symbol.asyncDispose]());

  for (const [name, fields] of Object.entries(refused)) {
    test(`starts nothing: ${fields.join(", ")}`, async () => {
      const { status, body } = await at(running, name, "/who", JSON_ACCEPT, ...fields);
      expect([status, (JSON.parse(body) as { detail: string }).detail]).toEqual([
        ...[403, `${name} is not running, and another site's page may not start it`],
      ]);
      await roundTrips(running);
      expect(place.pids(name)).toEqual([]);
      // Once it runs it decides for itself.
      const pid = await pidAt(running, name);
      expect((await at(running, name, "/who", ...fields)).body).toBe(`${name} ${pid}`);
    });
  }

  for (const [name, fields] of Object.entries(allowed)) {
    test(`is not who asks so: ${fields.join(", ")}`, async () => {
      const { status, body } = await at(running, name, "/who", ...fields);
      expect([status, body]).toEqual([200, `${name} ${place.pids(name)[0]}`]);
    });
  }

  test("opens no WebSocket to what does not run", async () => {
    const evil = { Origin: "https://evil.example" };
    const modern = { ...evil, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "websocket" };
    for (const [name, fields] of [
      ["socket", modern],
      ["old-socket", evil],
    ] as const) {
      const Host = `${name}.localhost`;
      expect((await answerTo(running.port, upgradeRequest("/socket", { Host, ...fields }))).status).toBe(403);
      expect(place.pids(name)).toEqual([]);
      const own = { Host, Origin: `http://${name}.localhost` };
      using socket = await RawWebSocket.open(running.port, "/socket", own);
      await socket.text("hello").sees("hello");
    }
  });

  test("waits with the others for what is starting anyway", async () => {
    using first = await asking(running, "starting");
    await place.happens("starting", "start");
    using other = await asking(running, "starting", "/who", ...refused.fetch!);
    await roundTrips(running);
    expect(other.length).toBe(0);
    place.open("starting");
    expect((await first.response()).status).toBe(200);
    expect((await other.response()).status).toBe(200);
  });
});

describe("requests from outside", () => {
  const OUTSIDE = ["X-Forwarded-For: 203.0.113.9", "Via: 1.1 front", "Forwarded: for=203.0.113.9"];
  const secret = "s3cret-word";
  let place: Project;
  let running: Running;
  beforeAll(async () => {
    place = new Project();
    running = await place.serve({
      inside: { command: dev(), host: "inside.test" },
      "inside-local": { command: dev() },
      open: { command: dev(), host: "open.test", public: true },
      broken: { command: dev("--say", secret, "--exit", "4"), host: "broken.test", public: true },
      absent: { command: [`./${secret}`], host: "absent.test", public: true },
      slow: { command: dev("--say", secret, "--gate", place.gate("slow")), host: "slow.test", public: true },
      down: { port: freePort(), host: "down.test", public: true },
    });
  });
  afterAll(() => place[Symbol.asyncDispose]());

  for (const field of OUTSIDE) {
    test(`with ${field.split(":")[0]} find public services only, and start nothing else`, async () => {
      for (const [host, nobody] of [
        ["inside.test", "nobody.test"],
        ["inside-local.localhost", "nobody.localhost"],
      ] as const) {
        const { status, body } = await visit(running.port, host, "/who", field);
        const unknown = await visit(running.port, nobody, "/who", field);
        expect([status, body]).toEqual([404, unknown.body.replace(nobody, host)]);
      }
      expect([...place.pids("inside"), ...place.pids("inside-local")]).toEqual([]);
      expect((await visit(running.port, "open.test", "/who", field)).body).toBe(`open ${place.pids("open")[0]}`);
    });
  }

  test("hear of a failure, and not what this machine does", async () => {
    for (const host of ["broken", "absent"]) {
      for (const accept of [BROWSER, JSON_ACCEPT, "Accept: text/plain"]) {
        const { status, head, body } = await visit(running.port, `${host}.test`, "/", OUTSIDE[0]!, accept);
        expect([status, body]).toEqual([502, expect.stringContaining(`${host} is not there`)]);
        for (const hidden of [secret, place.path, "dev-server", "exit code", "exitCode", "seikan services"])
          expect(head + body).not.toContain(hidden);
      }
    }
    // Whoever is here sees it.
    expect((await visit(running.port, "broken.test")).body).toContain(secret);
  });

  test("are shown a page while it starts, and not what it prints", async () => {
    const { status, head, body } = await visit(running.port, "slow.test", "/", OUTSIDE[0]!, BROWSER);
    expect([status, body]).toEqual([503, expect.stringContaining('<p role="status">slow is starting</p>')]);
    for (const hidden of [secret, place.path, "dev-server"]) expect(head + body).not.toContain(hidden);
    expect((await visit(running.port, "slow.test", "/", BROWSER)).body).toContain(`${secret}</pre>`);
  });

  test("are shown a page that comes back by itself", async () => {
    const { body } = await visit(running.port, "slow.test", "/", OUTSIDE[0]!, BROWSER);
    expect(body).toContain('<meta http-equiv="refresh" content="1">');
  });

  test("do not hear which port is down", async () => {
    const { status, head, body } = await visit(running.port, "down.test", "/", OUTSIDE[0]!);
    expect(status).toBe(502);
    expect(head + body).not.toContain("127.0.0.1");
  });
});

describe("a changed file", () => {
  const held = (place: Project, name: string) => `/held?gate=${place.gate(name)}`;
  const words = async (running: Running, name: string) => (await jsonAt(running, name, "/process")).words;

  test("is noticed: a service comes, another goes, and what does not change runs on", async () => {
    await using place = new Project();
    const kept = { command: dev() };
    const running = await place.serve({ kept, gone: { command: dev() } });
    const pid = await pidAt(running, "kept");
    const gone = await pidAt(running, "gone");
    place.configure({ kept: { ...kept, idle: "1h", delay: 3, stop_timeout: "9s", host: "other.test" }, added: kept });
    await says(running, `info reloaded: ${place.config} changed\n`);
    expect((await visit(running.port, "other.test", "/who")).body).toBe(`kept ${pid}`);
    expect((await at(running, "gone")).status).toBe(404);
    expect((await at(running, "kept")).status).toBe(404);
    expect(await pidAt(running, "added")).toBe(place.pids("added")[0]!);
    await isGone(gone);
    expect(place.pids("kept")).toEqual([pid]);
  });

  test("that is wrong is told about, and everything stays", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    const pid = await pidAt(running, "web");
    const wrong: [text: string, why: string][] = [
      ['[service.web]\ncomand = "x"\nport = 80\n', "line 2: unknown key `comand`: did you mean `command`?"],
      ["[service.web]\n", "line 1: service web has neither a command nor a port: give it one of them, or both"],
      ['[service.web]\ncommand = "x"\nidle = 15\n', "line 3: idle: expected a time such as 500ms, 10s or 15m, got 15"],
      ["[service.web\n", "line 1: illegal character in key"],
      ["[service.other]\nport = 80\n[serve]\nlissten = 1\n", "line 4: unknown key `lissten`: did you mean `listen`?"],
    ];
    for (const [text, why] of wrong) {
      place.configure(text);
      running.kill("SIGHUP");
      await says(
        running,
        ` error cannot reload, everything stays as it was: ${place.config} has a mistake why="${why}"\n`,
      );
      expect(await pidAt(running, "web")).toBe(pid);
    }
    rmSync(place.config);
    running.kill("SIGHUP");
    await says(running, ` error cannot reload, everything stays as it was: cannot read ${place.config}: ENOENT`);
    expect(await pidAt(running, "web")).toBe(pid);
    await place.reconfigure(running, { web: { command: dev("changed") } });
    expect(await words(running, "web")).toEqual(["web", "changed"]);
    expect(place.pids("web")).toHaveLength(2);
  });

  test("makes the next start another one", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("one") } });
    await place.reconfigure(running, { web: { command: dev("two") } });
    expect(await words(running, "web")).toEqual(["web", "two"]);
    expect(place.pids("web")).toHaveLength(1);
  });

  test("ends what runs, once it has answered, and starts the new one for who asks meanwhile", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("one") } });
    using first = await asking(running, "web", held(place, "first"));
    const old = await place.happens("web", "held");
    using socket = await RawWebSocket.open(running.port, "/socket", { Host: "web.localhost" });
    await place.reconfigure(running, { web: { command: dev("two") } });
    using second = await asking(running, "web", "/who");
    await roundTrips(running, 50);
    expect([first.length, second.length, isAlive(old)]).toEqual([0, 0, true]);
    place.open("first");
    expect((await first.response()).body).toBe(`web ${old}`);
    const pid = await place.happens("web", "start", 2);
    expect((await second.response()).body).toBe(`web ${pid}`);
    // Its WebSockets end with it.
    await socket.socket.over();
    expect(isAlive(old)).toBe(false);
    expect(await words(running, "web")).toEqual(["web", "two"]);
  });

  test("loses no request of a client that keeps its connection", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    using client = await dialRaw(running.port);
    const ask = async () => {
      client.send(get("web.localhost", "/who"));
      const { status, body } = await client.response();
      expect(status).toBe(200);
      return body;
    };
    const bodies = new Set([await ask()]);
    for (let turn = 1; turn <= 3; turn++) {
      const reloading = place.reconfigure(running, { web: { command: dev(String(turn)) } });
      while (bodies.size <= turn) bodies.add(await ask());
      await reloading;
    }
    expect([...bodies]).toEqual(place.pids("web").map((pid) => `web ${pid}`));
  });

  test("while it starts: who waits gets the new one", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("never"), "one") } });
    using client = await asking(running, "web", "/process");
    const old = await place.happens("web", "start");
    await place.reconfigure(running, { web: { command: dev("two") } });
    const { status, body } = await client.response();
    expect([status, (JSON.parse(body) as { words: string[] }).words]).toEqual([200, ["web", "two"]]);
    expect([isAlive(old), place.pids("web").length]).toEqual([false, 2]);
  });

  test("while it stops: the last one counts, and never do two run", async () => {
    await using place = new Project();
    const port = freePort();
    const stubborn = { port, command: dev("--stubborn", "one"), stop_timeout: "700ms" };
    const running = await place.serve({ web: stubborn });
    const old = await pidAt(running, "web");
    await place.reconfigure(running, { web: { port, command: dev("two") } });
    using client = await asking(running, "web", "/process");
    await place.happens("web", "term");
    await place.reconfigure(running, { web: { port, command: dev("three") } });
    expect([isAlive(old), client.length]).toEqual([true, 0]);
    const { status, body } = await client.response();
    expect([status, (JSON.parse(body) as { words: string[] }).words]).toEqual([200, ["web", "three"]]);
    expect([isAlive(old), place.pids("web").length]).toEqual([false, 2]);
  });

  test("after a failure is tried at once", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--exit", "1") } });
    expect((await at(running, "web")).status).toBe(502);
    await place.reconfigure(running, { web: { command: dev() } });
    expect(await pidAt(running, "web")).toBe(place.pids("web")[1]!);
  });

  test("takes a service away once it has answered", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    using client = await asking(running, "web", held(place, "answer"));
    const pid = await place.happens("web", "held");
    await place.reconfigure(running, "");
    expect((await at(running, "web")).status).toBe(404);
    expect(isAlive(pid)).toBe(true);
    place.open("answer");
    expect((await client.response()).body).toBe(`web ${pid}`);
    await isGone(pid);
  });

  test("takes a service away while it starts: who waits is told so", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("never")) } });
    using client = await asking(running, "web");
    const pid = await place.happens("web", "start");
    await place.reconfigure(running, "");
    const { status, body } = await client.response();
    expect([status, body]).toEqual([503, "seikan: web is not served any more\n"]);
    await isGone(pid);
  });

  test("moves a service to another port", async () => {
    await using place = new Project();
    const [one, two] = [freePort(), freePort()];
    const running = await place.serve({ web: { port: one, command: dev() } });
    const old = await pidAt(running, "web");
    await place.reconfigure(running, { web: { port: two, command: dev() } });
    expect(await pidAt(running, "web")).toBe(await place.happens("web", "listen", 2));
    expect(isAlive(old)).toBe(false);
    expect((await visit(two, "localhost", "/who")).body).toBe(`web ${place.pids("web")[1]}`);
    expect(await statusOf(running, `127.0.0.1:${two}`)).toBe(403);
  });

  test("finds the server that runs already on the new port", async () => {
    await using place = new Project();
    const [one, two] = [freePort(), freePort()];
    await using outside = devProcess("web", "--port", String(two));
    await accepting(two, outside);
    const running = await place.serve({ web: { port: one, command: dev() } });
    const old = await pidAt(running, "web");
    await place.reconfigure(running, { web: { port: two, command: dev() } });
    await isGone(old);
    await roundTrips(running, 50);
    expect((await at(running, "web")).body).toBe(`web ${outside.pid}`);
    expect((await logOf(running)).split("info starting web")).toHaveLength(2);
  });

  test("finds that server also where the one before it is on its way out", async () => {
    await using place = new Project();
    const [one, two] = [freePort(), freePort()];
    await using outside = devProcess("web", "--port", String(two));
    await accepting(two, outside);
    const running = await place.serve({ web: { port: one, command: dev("--stubborn"), stop_timeout: "500ms" } });
    const old = await pidAt(running, "web");
    await place.reconfigure(running, { web: { port: two, command: dev() } });
    expect((await at(running, "web")).body).toBe(`web ${outside.pid}`);
    expect(isAlive(old)).toBe(false);
    expect((await logOf(running)).split("info starting web")).toHaveLength(2);
  });

  test("exchanges the ports of two services", async () => {
    await using place = new Project();
    const [one, two] = [freePort(), freePort()];
    const running = await place.serve({ a: { port: one, command: dev() }, b: { port: two, command: dev() } });
    const old = [await pidAt(running, "a"), await pidAt(running, "b")];
    await place.reconfigure(running, { a: { port: two, command: dev() }, b: { port: one, command: dev() } });
    for (const pid of old) await isGone(pid);
    await roundTrips(running, 50);
    expect((await at(running, "a")).body).toBe(`a ${place.pids("a").at(-1)}`);
    expect((await at(running, "b")).body).toBe(`b ${place.pids("b").at(-1)}`);
  });

  test("brings back a service that is still on its way out", async () => {
    await using place = new Project();
    const services = { web: { port: freePort(), command: dev("--stubborn"), stop_timeout: "700ms" } };
    const running = await place.serve(services);
    const old = await pidAt(running, "web");
    await place.reconfigure(running, "");
    await place.happens("web", "term");
    await place.reconfigure(running, services);
    expect(await pidAt(running, "web")).not.toBe(old);
  });
});

describe("what is printed", () => {
  test("a line for each service, with its URL", async () => {
    await using place = new Project();
    const running = await place.serve({
      web: { command: "npm run dev -- --port {port}", host: ["*.web.test", "web.test"] },
      "much-longer": { command: ["hugo", "server"], path: "/blog" },
      "no-command": { port: 4321 },
    });
    const table = [...(await logOf(running)).matchAll(/ info (service .*)\n/g)].map(([, line]) => line);
    const url = (host: string) => `http://${host}:${running.port}`;
    const width = url("much-longer.localhost/blog").length;
    expect(table).toEqual([
      `service web          ${url("web.test").padEnd(width)}  npm run dev -- --port {port}`,
      `service much-longer  ${url("much-longer.localhost")}/blog  hugo server`,
      `service no-command   ${url("no-command.localhost").padEnd(width)}  port 4321`,
    ]);
  });

  test("names the service in the access log", async () => {
    await using place = new Project();
    const web = webServer("web");
    const running = await place.serve({ web: { port: web.port! } });
    await at(running, "web", "/x?y");
    expect(await logged(running, ({ event }) => event === "request")).toMatchObject({
      ...{ method: "GET", target: "/x", status: 200, route: "service:web" },
    });
    await web.stop(true);
  });
});
