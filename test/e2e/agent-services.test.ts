import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import {
  Arrivals,
  bodyAt,
  connectTo,
  eventually,
  get,
  place,
  portOf,
  urlOf,
  visit,
  webServer,
  wsUrl,
} from "../support/agents.ts";
import { certificateFor } from "../support/certificates.ts";
import { accepting, freePort } from "../support/process.ts";
import { dialRaw, echo, RawServer } from "../support/raw.ts";
import { runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import {
  asking,
  at,
  dev,
  devLine,
  devProcess,
  isAlive,
  isGone,
  kill,
  pidAt,
  Project,
  says,
  toml,
  type Services,
} from "../support/services.ts";
import { udpEcho, UdpPeer } from "../support/udp.ts";
import { until, within } from "../support/wait.ts";
import { RawWebSocket } from "../support/websocket-client.ts";

setDefaultTimeout(60_000);

// [expose.NAME] in the configuration file of an agent, and what it starts.

/** `[expose.NAME]` tables. */
const exposes = (entries: Services): string => toml(entries).replaceAll("[service.", "[expose.");

let server: Running;
let project: Project;
const agents: Running[] = [];
beforeAll(async () => {
  server = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--allow-bind", "20000-59999"]);
});
afterAll(() => server[Symbol.asyncDispose]());
beforeEach(() => {
  project = new Project();
});
afterEach(async () => {
  await Promise.all(agents.splice(0).map((agent) => agent[Symbol.asyncDispose]()));
  await project[Symbol.asyncDispose]();
});

/** An agent with these exposures in its file. */
async function expose(entries: Services | string, args: readonly string[] = [], env: Record<string, string> = {}) {
  const file = project.write("agent.toml", typeof entries === "string" ? entries : exposes(entries));
  return startAgain(file, args, env);
}

async function startAgain(file: string, args: readonly string[] = [], env: Record<string, string> = {}, to = server) {
  const agent = await startSeikan(["agent", wsUrl(to), "--config", file, ...args], { ...project.env, ...env });
  agents.push(agent);
  return agent;
}

describe("[expose.NAME] without a command", () => {
  let web: ReturnType<typeof webServer>;
  /** Tells what it was asked. */
  let mirror: ReturnType<typeof Bun.serve>;
  beforeAll(() => {
    web = webServer("web");
    mirror = Bun.serve({
      ...{ port: 0, hostname: "127.0.0.1" },
      fetch: (request) => Response.json(Object.fromEntries(request.headers), { headers: { "X-Own": "1" } }),
    });
  });
  afterAll(() => Promise.all([web.stop(true), mirror.stop(true)]));

  test("to is a URL, a port, a socket, or files beside the file", async () => {
    using unix = new RawServer((socket) => void socket.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsocket"), {
      unix: project.file("app.sock"),
    });
    mkdirSync(project.file("docs"));
    writeFileSync(project.file("docs/a.txt"), "beside");
    const agent = await expose({
      url: { to: urlOf(web) },
      number: { to: web.port! },
      word: { to: String(web.port) },
      path: { to: `unix:${project.file("app.sock")}` },
      files: { to: "file:docs" },
      listed: { to: "file:docs", listing: true },
    });
    expect(agent.urls).toEqual(
      ["url", "number", "word", "path", "files", "listed"].map((name) => `http://${name}.localhost:${server.port}`),
    );
    const bodies = await Promise.all(
      ["url", "number", "word", "path"].map((name) => bodyAt(`http://${name}.localhost:${server.port}/x`)),
    );
    expect(bodies).toEqual([
      [200, "web /x"],
      [200, "web /x"],
      [200, "web /x"],
      [200, "socket"],
    ]);
    expect((await at(server, "files", "/a.txt")).body).toBe("beside");
    expect((await at(server, "files", "/")).status).toBe(404);
    expect((await at(server, "listed", "/")).body).toContain('<a href="a.txt">a.txt</a>');
    expect(unix.accepted.length).toBeGreaterThan(0);
  });

  test("host, tcp, udp, private and tls are the places that --expose knows", async () => {
    using echoing = new RawServer(echo);
    const certificate = certificateFor("deep.tls.test");
    const secure = webServer("secure", certificate);
    const udp = await udpEcho();
    try {
      const agent = await expose({
        one: { to: urlOf(web), host: "App.example.org" },
        wild: { to: urlOf(web), host: "*.example.org" },
        db: { to: place(echoing), tcp: 0 },
        game: { to: place(udp), udp: 0 },
        hidden: { to: place(echoing), private: true },
        through: { to: place(secure), tls: "deep.tls.test" },
      });
      expect(agent.urls).toEqual(
        expect.arrayContaining([`http://app.example.org:${server.port}`, `http://*.example.org:${server.port}`]),
      );
      expect((await visit(server.port, "app.example.org", "/y")).body).toBe("web /y");
      expect((await visit(server.port, "x.example.org", "/z")).body).toBe("web /z");
      const said = agent.stderr();
      using client = await dialRaw(
        portOf(
          /(\S+) → \S+$/m.exec(
            said.split("\n").find((line) => line.includes(`→ ${place(echoing)}`) && !line.includes("internal"))!,
          )![1],
        ),
      );
      client.send("over tcp");
      await client.sees("over tcp");
      const { client: inside } = await connectTo(server, "hidden.agent.internal:1");
      using _ = inside;
      inside.send("over private");
      await inside.sees("over private");
      expect((await visit(server.port, "hidden.localhost")).status).toBe(404);
      const port = portOf(/(\S+) → udp:\S+$/m.exec(said)![1]);
      using peer = await UdpPeer.open();
      peer.send("over udp", port);
      expect((await peer.next()).payload.toString()).toBe("over udp");
      expect(said).toContain("deep.tls.test");
    } finally {
      await secure.stop(true);
      udp[Symbol.dispose]();
    }
  });

  test("auth, allow, host_header, request_header and response_header do as their options do", async () => {
    const to = urlOf(mirror);
    await expose({
      locked: { to, auth: ["ann:1", "bob:2"] },
      one: { to, auth: "ann:1" },
      near: { to, allow: ["127.0.0.0/8", "::1/128"] },
      far: { to, allow: "192.0.2.0/24" },
      own: { to, host_header: "target" },
      other: { to, host_header: "other.test" },
      edited: {
        to,
        request_header: ["X-One: 1", "-User-Agent"],
        response_header: ["X-Robots-Tag: noindex", "-X-Own"],
      },
      single: { to, "request-header": "X-One: 2", "response-header": "-X-Own" },
    });
    const basic = (user: string) => `Authorization: Basic ${btoa(user)}`;
    const status = async (name: string, ...fields: string[]) => (await at(server, name, "/", ...fields)).status;
    expect(
      await Promise.all([
        status("locked"),
        status("locked", basic("ann:1")),
        status("locked", basic("bob:2")),
        status("locked", basic("bob:1")),
      ]),
    ).toEqual([401, 200, 200, 401]);
    expect(await Promise.all([status("one"), status("one", basic("ann:1"))])).toEqual([401, 200]);
    expect(await Promise.all([status("near"), status("far")])).toEqual([200, 403]);
    const seen = async (name: string, ...fields: string[]) => {
      const { body, values } = await at(server, name, "/", ...fields);
      return {
        fields: JSON.parse(body) as Record<string, string>,
        own: values("x-own"),
        robots: values("x-robots-tag"),
      };
    };
    expect((await seen("own")).fields.host).toBe(place(mirror));
    expect((await seen("other")).fields.host).toBe("other.test");
    const edited = await seen("edited", "User-Agent: me", "X-Two: 2");
    expect([
      edited.fields["x-one"],
      edited.fields["user-agent"],
      edited.fields["x-two"],
      edited.own,
      edited.robots,
    ]).toEqual(["1", undefined, "2", [], ["noindex"]]);
    const single = await seen("single");
    expect([single.fields["x-one"], single.own]).toEqual(["2", []]);
  });

  test("sticky, proxy_protocol, upstream_insecure and health do so, too", async () => {
    using hand = new RawServer();
    const secure = webServer("secure", certificateFor("localhost"));
    let isWell = true;
    const well = Bun.serve({
      ...{ port: 0, hostname: "127.0.0.1" },
      fetch: (request) =>
        new Response("well", { status: new URL(request.url).pathname === "/up" && !isWell ? 503 : 200 }),
    });
    try {
      const agent = await expose({
        headed: { to: urlOf(hand), proxy_protocol: "v2" },
        strict: { to: `https://localhost:${secure.port}` },
        lenient: { to: `https://localhost:${secure.port}`, upstream_insecure: true },
        sticky: { to: urlOf(web), sticky: "cookie" },
        watched: { to: urlOf(well), health: "/up" },
      });
      const arrivals = new Arrivals(hand);
      const asked = await asking(server, "headed", "/x");
      using _ = asked;
      const upstream = await arrivals.next();
      await upstream.sees("GET /x HTTP/1.1\r\n");
      expect(upstream.bytes.subarray(0, 14).toString("hex")).toBe("0d0a0d0a000d0a515549540a2111");
      expect((await at(server, "strict", "/s")).status).toBe(502);
      expect((await at(server, "lenient", "/s")).body).toBe("secure /s");
      expect((await at(server, "sticky", "/s")).body).toBe("web /s");
      expect((await at(server, "watched")).status).toBe(200);
      isWell = false;
      await says(agent, "watched is not well", 1, 20_000);
      await eventually(
        () => at(server, "watched"),
        ({ status }) => status === 503,
        "its visitors are told",
      );
    } finally {
      await secure.stop(true);
      await well.stop(true);
    }
  });

  test("a flag replaces all of them, as with any list", async () => {
    const agent = await expose({ filed: { to: urlOf(web) } }, ["-e", `flagged=${urlOf(web)}`]);
    expect(agent.urls).toEqual([`http://flagged.localhost:${server.port}`]);
  });

  test("stands beside those of [agent]", async () => {
    const agent = await expose(`[agent]\nexpose = "first=${urlOf(web)}"\n${exposes({ second: { to: urlOf(web) } })}`);
    expect(agent.urls.toSorted()).toEqual([
      `http://first.localhost:${server.port}`,
      `http://second.localhost:${server.port}`,
    ]);
  });
});

describe("[expose.NAME] with a command", () => {
  test("is started by its first visitor, and not before", async () => {
    const agent = await expose({ web: { command: dev("--say", "hello") }, line: { command: devLine() } }, [
      "--wait-upstream",
    ]);
    expect(agent.urls).toEqual([`http://web.localhost:${server.port}`, `http://line.localhost:${server.port}`]);
    expect(project.pids("web")).toEqual([]);
    const pid = await pidAt(server, "web");
    expect(project.pids("web")).toEqual([pid]);
    expect(await pidAt(server, "web")).toBe(pid);
    await pidAt(server, "line");
    await says(agent, " info web is ready");
    expect(agent.stderr()).toContain(" info starting web pid=");
    expect(agent.stderr()).toContain(`http://line.localhost:${server.port} → ${devLine()}`);
  });

  test("a hundred first visitors start one", async () => {
    await expose({ web: { command: dev("--gate", project.gate("web")) } });
    const visitors = Array.from({ length: 100 }, () => at(server, "web"));
    await project.happens("web", "start");
    project.open("web");
    const answers = await Promise.all(visitors);
    const [pid] = project.pids("web");
    expect(new Set(answers.map(({ status, body }) => `${status} ${body}`))).toEqual(new Set([`200 web ${pid}`]));
    expect(project.pids("web")).toHaveLength(1);
  });

  test("a body and a WebSocket may come first", async () => {
    await expose({ web: { command: dev() }, socket: { command: dev() } });
    using client = await dialRaw(server.port);
    const body = "x".repeat(300_000);
    client.send(`POST /sum HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    const answer = await client.response();
    const sha1 = new Bun.CryptoHasher("sha1").update(body).digest("hex");
    expect([answer.status, JSON.parse(answer.body)]).toEqual([200, { length: body.length, sha1 }]);
    using socket = await RawWebSocket.open(server.port, "/socket", { Host: "socket.localhost" });
    await socket.text("hello").sees("hello");
  });

  test("its port is chosen, or the one of to; a server that listens there is used and outlives the agent", async () => {
    const [fixed, used] = [freePort(), freePort()];
    await using foreign = devProcess("used", "--port", String(used));
    const agent = await expose({
      any: { command: dev() },
      fixed: { command: dev(), to: `http://127.0.0.1:${fixed}` },
      number: { command: dev(), to: freePort() },
      used: { command: dev(), to: used },
      socket: { command: dev("--unix", project.file("app.sock")), to: `unix:${project.file("app.sock")}` },
    });
    const portOfChild = async (name: string) =>
      (JSON.parse((await at(server, name, "/env")).body) as { PORT: string }).PORT;
    expect(Number(await portOfChild("any"))).toBeGreaterThan(0);
    expect(await portOfChild("fixed")).toBe(String(fixed));
    await pidAt(server, "number");
    await pidAt(server, "socket");
    await accepting(used, foreign);
    expect(await pidAt(server, "used")).toBe(foreign.pid);
    expect(project.pids("used")).toEqual([]);
    agent.kill("SIGTERM");
    expect(await within(agent.exited, "the agent's end")).toBe(0);
    expect(isAlive(foreign.pid)).toBe(true);
  });

  test("cwd, env, env_file and tty are its own; the agent's secrets are not", async () => {
    mkdirSync(project.file("sub"));
    project.write("vars", "FROM_FILE=1\nBOTH=file\n");
    await expose(
      {
        web: {
          ...{ command: dev("{port}", "{name}", "{url}", "{other}"), cwd: "sub", tty: true, env_file: "vars" },
          env: { OWN: "at {addr}", BOTH: "table", COUNT: 3 },
        },
        home: { command: dev(), cwd: "~/sub" },
        plain: { command: dev() },
      },
      ["--token", "s3cret-flag"],
      { HOME: project.path, SEIKAN_TOKEN: "s3cret-token", FROM_OUTSIDE: "yes" },
    );
    const env = JSON.parse((await at(server, "web", "/env")).body) as Record<string, string>;
    const url = `http://web.localhost:${server.port}`;
    expect(env).toMatchObject({
      ...{ FROM_FILE: "1", BOTH: "table", COUNT: "3", OWN: `at 127.0.0.1:${env.PORT}`, SEIKAN_URL: url },
      ...{ HOST: "127.0.0.1", FROM_OUTSIDE: "yes" },
    });
    expect(env.SEIKAN_TOKEN).toBeUndefined();
    expect(JSON.stringify(env)).not.toContain("s3cret");
    const process = JSON.parse((await at(server, "web", "/process")).body);
    expect(process).toMatchObject({ folder: project.file("sub"), isTerminal: true });
    expect(process.words.slice(1)).toEqual([env.PORT, "web", url, "{other}"]);
    const folderOf = async (name: string) => JSON.parse((await at(server, name, "/process")).body).folder as string;
    expect([await folderOf("home"), await folderOf("plain")]).toEqual([project.file("sub"), project.path]);
  });

  test("is ready when it says so, or answers well", async () => {
    const health = project.file("gate-health");
    await expose({
      said: {
        command: [
          "/bin/sh",
          "-c",
          `${devLine("--say", "not yet")} & while [ ! -e ${project.gate("said")} ]; do sleep 0.01; done; echo now it is; wait`,
        ],
        ready: { log: "now it is" },
      },
      well: { command: dev("--health", health), ready: { http: "/healthz" } },
    });
    using said = await asking(server, "said");
    using well = await asking(server, "well");
    await project.happens("said", "listen");
    await project.happens("well", "listen");
    for (let round = 0; round < 20; round++) await visit(server.port, "localhost", "/-/healthz");
    expect([said.length, well.length]).toEqual([0, 0]);
    project.open("said");
    project.open("health");
    expect([(await said.response()).status, (await well.response()).status]).toEqual([200, 200]);
  });

  test("is stopped once nobody uses it, and started by the next visitor", async () => {
    const agent = await expose({ web: { command: dev(), idle: "500ms" }, used: { command: dev(), idle: "500ms" } });
    using socket = await RawWebSocket.open(server.port, "/socket", { Host: "used.localhost" });
    const pid = await pidAt(server, "web");
    await isGone(pid);
    expect(agent.stderr()).toContain(" info web is stopped: nobody used it for 0.5 s\n");
    expect(project.pids("web", "term")).toEqual([pid]);
    expect(await pidAt(server, "web")).not.toBe(pid);
    // What is open is use.
    expect(project.pids("used", "term")).toEqual([]);
    await socket.text("still here").sees("still here");
  });

  test("keeps running while the agent connects again", async () => {
    const hash = new Bun.CryptoHasher("sha256").update("t").digest("hex");
    const entry = (hosts: string) => `[token.a]\nhash = "sha256:${hash}"\nagents = ["*"]\nhosts = ["${hosts}"]\n`;
    const tokens = project.write("tokens", entry("*"));
    await using other = await startSeikan(["serve", "-l", "127.0.0.1:0", "--tokens", tokens]);
    const file = project.write("agent.toml", exposes({ web: { command: dev() } }));
    const agent = await startAgain(file, ["--token", "t"], {}, other);
    const pid = await pidAt(other, "web");
    writeFileSync(tokens, entry("nothing"));
    other.kill("SIGHUP");
    await says(agent, "was lost; connecting again");
    writeFileSync(tokens, entry("*"));
    other.kill("SIGHUP");
    await until(() => agent.events().some(({ event }) => event === "reconnected"), "it is back");
    expect(await pidAt(other, "web")).toBe(pid);
  });

  test("tcp and private: whoever connects starts it", async () => {
    const agent = await expose({ port: { command: dev(), tcp: 0 }, hidden: { command: dev(), private: true } });
    expect([project.pids("port"), project.pids("hidden")]).toEqual([[], []]);
    const address = /(127\.0\.0\.1:\d+) → /.exec(agent.stderr())![1];
    const direct = await visit(portOf(address), "anything", "/who");
    expect(direct.body).toBe(`port ${project.pids("port")[0]}`);
    const { client, answer } = await connectTo(server, "hidden.agent.internal:80");
    using _ = client;
    expect(answer.status).toBe(200);
    client.send(get("anything", "/who"));
    expect((await client.response()).body).toBe(`hidden ${project.pids("hidden")[0]}`);
  });

  test("who may not visit it does not start it", async () => {
    await expose({ locked: { command: dev(), auth: "ann:1" }, far: { command: dev(), allow: "192.0.2.0/24" } });
    expect([(await at(server, "locked")).status, (await at(server, "far")).status]).toEqual([401, 403]);
    const answer = await at(server, "locked", "/who", `Authorization: Basic ${btoa("ann:1")}`);
    expect(answer.body).toBe(`locked ${project.pids("locked")[0]}`);
    expect(project.pids("locked")).toHaveLength(1);
    expect(project.pids("far")).toEqual([]);
  });

  test("proxy_protocol, host_header and https:// hold for what is started, too", async () => {
    const certificate = certificateFor("localhost");
    await expose({
      secure: {
        ...{ command: dev("--cert", certificate.certFile, "--key", certificate.keyFile), upstream_insecure: true },
        to: `https://127.0.0.1:${freePort()}`,
      },
      named: { command: dev(), host_header: "inner.test" },
    });
    await pidAt(server, "secure");
    const { fields } = JSON.parse((await at(server, "named", "/request")).body) as { fields: [string, string][] };
    expect(fields.find(([name]) => name === "host")).toEqual(["host", "inner.test"]);
  });
});

describe("a start", () => {
  test("may take longer than the server waits for others", async () => {
    await using hasty = await startSeikan(["serve", "-l", "127.0.0.1:0", "--connect-timeout", "300ms"]);
    const file = project.write("agent.toml", exposes({ web: { command: dev("--gate", project.gate("web")) } }));
    await startAgain(file, ["--connect-timeout", "300ms"], {}, hasty);
    using visitor = await asking(hasty, "web");
    await project.happens("web", "start");
    const begun = performance.now();
    await until(() => performance.now() - begun > 1500, "five times as long as it waits");
    expect(visitor.length).toBe(0);
    project.open("web");
    expect((await visitor.response()).body).toBe(`web ${project.pids("web")[0]}`);
  });

  test("that fails is told to visitors without what was run and what it said; the agent's log has the reason", async () => {
    const agent = await expose({
      bad: { command: "echo s3cret-output; echo s3cret-error >&2; exit 5", restart: "no" },
      none: { command: ["/s3cret/no-such-command"] },
    });
    for (const name of ["bad", "none"]) {
      for (const accept of ["*/*", "text/html", "application/problem+json"]) {
        const answer = await at(server, name, "/", `Accept: ${accept}`);
        expect([name, accept, answer.status]).toEqual([name, accept, 502]);
        for (const secret of ["s3cret", "exit", project.path, "command"]) {
          expect([name, accept, secret, (answer.head + answer.body).includes(secret)]).toEqual([
            name,
            accept,
            secret,
            false,
          ]);
        }
      }
    }
    expect(agent.stderr()).toContain(" error bad ended before it was ready: exit code 5 code=service-failed");
  });

  test("that does not end in time is told so, and nothing is left of it", async () => {
    await expose({ deaf: { command: dev("--deaf"), ready_timeout: "700ms", stop_timeout: "1s" } });
    const { status, body } = await at(server, "deaf");
    expect([status >= 502 && status <= 504, body.includes("dev-server")]).toEqual([true, false]);
    await isGone(project.pids("deaf")[0]!);
  });

  test("that failed is tried again after a pause", async () => {
    await expose({ web: { command: `[ -e ${project.gate("fixed")} ] || exit 3; exec ${devLine()}` } });
    expect((await at(server, "web")).status).toBe(502);
    project.open("fixed");
    let status = 0;
    let asks = Promise.resolve();
    await until(() => {
      asks = asks.then(async () => {
        if (status !== 200) ({ status } = await at(server, "web"));
      });
      return status === 200;
    }, "it is started again");
    await asks;
    expect(project.pids("web")).toHaveLength(1);
  });
});

describe("when the agent ends", () => {
  test("by SIGTERM, what it started ends by SIGTERM, after its requests", async () => {
    const agent = await expose({ web: { command: dev() } });
    const pid = await pidAt(server, "web");
    using client = await asking(server, "web", `/held?gate=${project.gate("held")}`);
    await project.happens("web", "held");
    agent.kill("SIGTERM");
    await says(agent, "draining");
    expect(isAlive(pid)).toBe(true);
    project.open("held");
    expect((await client.response()).body).toBe(`web ${pid}`);
    expect(await within(agent.exited, "the agent's end")).toBe(0);
    expect(isAlive(pid)).toBe(false);
    expect(project.pids("web", "term")).toEqual([pid]);
  });

  test("by SIGTERM while something starts, that ends with it, after --drain-timeout at the latest", async () => {
    const agent = await expose({ web: { command: dev("--gate", project.gate("never")) } }, ["--drain-timeout", "1s"]);
    using client = await asking(server, "web");
    const pid = await project.happens("web", "start");
    agent.kill("SIGTERM");
    expect(await within(agent.exited, "the agent's end")).toBe(0);
    expect(isAlive(pid)).toBe(false);
    expect((await client.response()).status).toBeGreaterThanOrEqual(500);
  });

  test("by SIGTERM while something starts, whoever waits for that is not waited for, as with serve", async () => {
    const agent = await expose({ web: { command: dev("--gate", project.gate("never")) } });
    using _ = await asking(server, "web");
    await project.happens("web", "start");
    agent.kill("SIGTERM");
    expect(await within(agent.exited, "the agent's end", 4000)).toBe(0);
  });

  test("by a second signal, everything ends at once", async () => {
    const agent = await expose({ web: { command: dev("--stubborn") } });
    const pid = await pidAt(server, "web");
    using _ = await asking(server, "web", `/held?gate=${project.gate("held")}`);
    await project.happens("web", "held");
    agent.kill("SIGINT");
    await says(agent, "draining");
    agent.kill("SIGINT");
    expect(await within(agent.exited, "the agent's end", 5000)).toBe(130);
    await isGone(pid);
  });

  test("because its command is done, what it started ends", async () => {
    const file = project.write("agent.toml", exposes({ web: { command: dev() } }));
    const words = [
      ...["agent", wsUrl(server), "--config", file, "--", "/bin/sh", "-c"],
      `while [ ! -e ${project.gate("done")} ]; do sleep 0.01; done`,
    ];
    const run = runSeikan(words, { env: project.env });
    const ask = async () => (await at(server, "web")).status;
    let status = 0;
    let asks = Promise.resolve();
    await until(() => {
      asks = asks.then(async () => {
        if (status !== 200) status = await ask();
      });
      return status === 200;
    }, "it is there");
    await asks;
    const [pid] = project.pids("web");
    project.open("done");
    expect((await run).code).toBe(0);
    await isGone(pid!);
  });

  test("by SIGKILL, the next serve of this user ends what it left", async () => {
    const agent = await expose({ web: { command: dev() } });
    const pid = await pidAt(server, "web");
    agent.kill("SIGKILL");
    await agent.exited;
    expect(isAlive(pid)).toBe(true);
    await using next = await startSeikan(["serve", "-l", "127.0.0.1:0"], project.env);
    expect(next.stderr()).toContain(" warn ended what a seikan that was killed left behind: web\n");
    await isGone(pid);
  });

  test("by SIGKILL, the next agent of this user ends what it left", async () => {
    const agent = await expose({ web: { command: dev() } });
    const pid = await pidAt(server, "web");
    agent.kill("SIGKILL");
    await agent.exited;
    try {
      await startAgain(project.file("agent.toml"));
      await isGone(pid, 3000);
    } finally {
      kill(pid, "SIGKILL");
    }
  });

  test("by SIGKILL, it leaves other agents' children alone", async () => {
    const agent = await expose({ web: { command: dev() } });
    const pid = await pidAt(server, "web");
    const file = project.write("other.toml", exposes({ other: { command: dev() } }));
    const other = await startAgain(file, ["--name", "other"]);
    const own = await pidAt(server, "other");
    agent.kill("SIGKILL");
    await agent.exited;
    await using next = await startSeikan(["serve", "-l", "127.0.0.1:0"], project.env);
    expect(next.stderr()).toContain("left behind: web\n");
    await isGone(pid);
    expect([isAlive(own), await pidAt(server, "other")]).toEqual([true, own]);
    other.kill("SIGTERM");
    expect(await within(other.exited, "its end")).toBe(0);
  });
});

describe("a mistake in [expose.NAME]", () => {
  const wrong: [what: string, text: string, where: string][] = [
    ["an unknown key", '[expose.web]\nto = 1\ncomand = "x"\n', "3:1: unknown key `comand`: did you mean `command`?"],
    ["a key of services only", "[expose.web]\nto = 1\npublic = true\n", "3:1: unknown key `public`"],
    [
      "health and command",
      '[expose.web]\ncommand = "x"\nhealth = "/up"\n',
      "health and command exclude each other: it is started when somebody comes",
    ],
    ["nothing behind it", '[expose.web]\nauth = "a:b"\n', "it leads nowhere"],
    [
      "two places",
      '[expose.web]\nto = 1\nhost = "a.test"\ntcp = 0\n',
      "host, tls, tcp, udp and private exclude each other",
    ],
    ["a command for files", '[expose.web]\nto = "file:."\ncommand = "x"\n', "no command is needed for files and UDP"],
    [
      "a command for UDP",
      '[expose.web]\nto = "127.0.0.1:1"\nudp = 0\ncommand = "x"\n',
      "no command is needed for files and UDP",
    ],
    [
      "a command for another machine",
      '[expose.web]\nto = "http://192.0.2.1:80"\ncommand = "x"\n',
      "it is on another machine: no command starts it",
    ],
    ["an empty command", "[expose.web]\ncommand = []\n", "2:11: "],
    ["no port", "[expose.web]\nto = 70000\n", "2:6: "],
    ["no time", '[expose.web]\ncommand = "x"\nidle = "soon"\n', "3:8: "],
    ["no sign", '[expose.web]\ncommand = "x"\nready = { http = "/a", log = "b" }\n', "3:9: "],
    ["no user", '[expose.web]\nto = 1\nauth = "s3cret"\n', "auth= wants USER:PASS"],
    [
      "no header",
      '[expose.web]\nto = 1\nresponse_header = "s3cret"\n',
      "a header is 'Name: value', or -Name to remove it",
    ],
    ["no member of a list", '[expose.web]\nto = 1\nsticky = "honey"\n', "3:10: sticky: expected cookie or address"],
    ["another version", '[expose.web]\nto = 1\nproxy_protocol = "v1"\n', "3:18: "],
    ["HTTP's keys for TCP", '[expose.web]\nto = 1\ntcp = 0\nauth = "a:b"\n', "auth= is about HTTP"],
    ["a list without files", "[expose.web]\nto = 1\nlisting = true\n", "listing= is about file: exposures"],
    ["no name", '[expose."a b"]\nto = 1\n', '"a b" is no DNS label'],
  ];
  for (const [what, text, where] of wrong) {
    test(`is ${what}: exit code 2, and where it is`, async () => {
      const file = project.write("agent.toml", text);
      const { code, stdout, stderr } = await runSeikan(["agent", "ws://127.0.0.1:1", "--config", file], {
        env: project.env,
      });
      expect([code, stdout]).toEqual([2, ""]);
      expect(stderr).toStartWith(`seikan: error: ${file} has a mistake\n\n`);
      expect(stderr).toContain(where);
      expect(stderr).toMatch(/^\d+:\d+: /m);
      expect(stderr).toMatch(/^ {2}> \d+ \| /m);
      expect(stderr).not.toContain("s3cret");
    });
  }

  for (const key of ['ready = { log = "up" }', 'cwd = "x"', 'idle = "1m"', "tty = true"]) {
    test(`is a key about a process that nobody starts: ${key}`, async () => {
      const file = project.write("agent.toml", `[expose.web]\nto = 1\n${key}\n`);
      const { code } = await runSeikan(["config", "check", "--config", file], { env: project.env });
      expect(code).toBe(2);
    });
  }

  test("several are told at once", async () => {
    const file = project.write("agent.toml", '[expose.a]\ncomand = "x"\n[expose.b]\nto = 1\nidel = "1s"\n[expose.c]\n');
    const { stderr } = await runSeikan(["agent", "ws://127.0.0.1:1", "--config", file], { env: project.env });
    expect(stderr).toContain("2:1: unknown key `comand`");
    expect(stderr).toContain("5:1: unknown key `idel`: did you mean `idle`?");
  });

  test("is a folder that is not there only when somebody comes", async () => {
    await expose({ web: { command: dev(), cwd: "nowhere" } });
    const { status, body } = await at(server, "web");
    expect([status, body.includes("nowhere")]).toEqual([502, false]);
  });
});
