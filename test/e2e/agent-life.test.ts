import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import {
  Arrivals,
  bodyAt,
  eventsOf,
  eventually,
  exposing,
  get,
  happens,
  logged,
  place,
  portOf,
  runAgent,
  startAgent,
  urlOf,
  visit,
  webServer,
  wsUrl,
} from "../support/agents.ts";
import { startSquid } from "../support/foreign.ts";
import { freePort, spawnSeikan, TempFolder } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { dialRaw, echo, RawServer, type RawSocket } from "../support/raw.ts";
import { Relay } from "../support/relay.ts";
import { runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import { until, within } from "../support/wait.ts";

setDefaultTimeout(60_000);

// An agent from its start to its end: ready, events, losses, exit codes.

const HELLO = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const BIND = "20000-59999";

/** Sends back what it gets. */
let echoing: RawServer;
/** Plays by hand whatever a test wants. */
let hand: RawServer;
let web: ReturnType<typeof webServer>;
let server: Running;

beforeAll(async () => {
  echoing = new RawServer(echo);
  hand = new RawServer();
  web = webServer("the web");
  server = await startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--allow-bind", BIND]);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  for (const one of [echoing, hand]) one[Symbol.dispose]();
  await web.stop(true);
});

const serve = (...args: string[]) => startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json", ...args]);

/** A visitor whose request has reached the service played by hand. */
async function asked(to: { readonly port: number }, host: string, path = "/") {
  const arrivals = new Arrivals(hand);
  const client = await dialRaw(to.port);
  client.send(get(host, path));
  const upstream = await arrivals.next();
  await upstream.sees("\r\n\r\n");
  return { client, upstream };
}

/** The same, with half of the answer under way. */
async function halfway(to: { readonly port: number }, host: string) {
  const { client, upstream } = await asked(to, host, "/slow");
  upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
  await client.sees("first");
  return { client, upstream };
}

describe("ready", () => {
  test("is an event, and a file that goes with the agent", async () => {
    using folder = new TempFolder();
    const file = folder.file("ready.json");
    await using running = await startAgent(server, "-e", `web=${urlOf(web)}`, "--ready-file", file);
    const urls = [`http://web.localhost:${server.port}`];
    expect(eventsOf(running, "ready")).toEqual([
      { event: "ready", time: expect.any(String), pid: running.pid, listeners: [], urls },
    ]);
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({ pid: running.pid, listeners: [], urls });
    running.kill("SIGTERM");
    expect(await running.exited).toBe(0);
    expect(existsSync(file)).toBe(false);
  });

  test("does not wait for the local service, unless --wait-upstream", async () => {
    const port = freePort();
    const spec = `later=http://127.0.0.1:${port}`;
    await using hasty = await startAgent(server, "--name", "hasty", "-e", spec);
    expect((await visit(server.port, "later.localhost")).status).toBe(502);
    hasty.kill("SIGTERM");
    expect(await hasty.exited).toBe(0);

    await using patient = spawnSeikan(["agent", wsUrl(server), "-e", spec, "--wait-upstream", "--json"]);
    await patient.says(`waiting for 127.0.0.1:${port}`);
    expect(patient.stdout).not.toContain('"ready"');
    // The first connection only tries whether it is there.
    const answer = (socket: RawSocket) =>
      socket.sees("\r\n\r\n").then(
        () => socket.send(HELLO),
        () => {},
      );
    using _ = new RawServer((socket) => void answer(socket), { port });
    await patient.prints('"event":"ready"');
    expect((await visit(server.port, "later.localhost")).body).toBe("hello");
  });

  test("never comes where nothing can be reached: --timeout ends it with 124", async () => {
    const { code, stdout } = await runAgent(
      `ws://127.0.0.1:${freePort()}`,
      ...["-e", urlOf(web), "--timeout", "700ms", "--json"],
    );
    expect(code).toBe(124);
    expect(stdout).not.toContain('"ready"');
    expect(stdout).toContain('"connect-failed"');
  });

  test("--qr shows the URL as a QR code, on stderr", async () => {
    await using running = await startAgent(server, "-e", `qr=${urlOf(web)}`, "--qr");
    await until(() => /[▀▄█]{10,}/.test(running.stderr()), "the code is there");
  });
});

describe("-- COMMAND", () => {
  test("knows where it is reached: variables and {url}", async () => {
    const { code, stdout, stderr } = await runAgent(
      server,
      ...["-e", `web=${urlOf(web)}`, "-e", `my-db=tcp://${place(echoing)}`, "-e", `port=tcp:0=${place(echoing)}`],
      ...["--", "sh", "-c", 'echo "$1 $SEIKAN_URL $SEIKAN_URL_WEB $SEIKAN_ADDR_WEB"'],
      ...["sh", "<{url}>{other}"],
    );
    const url = `http://web.localhost:${server.port}`;
    expect({ code, stdout, stderr }).toEqual({
      code: 0,
      stdout: `<${url}>{other} ${url} ${url} web.localhost:${server.port}\n`,
      stderr: "",
    });
    const others = await runAgent(
      server,
      ...["-e", `my-db=tcp://${place(echoing)}`, "-e", `port=tcp:0=${place(echoing)}`],
      ...[
        "--",
        "sh",
        "-c",
        'echo "$SEIKAN_URL $SEIKAN_ADDR_MY_DB $SEIKAN_ADDR_PORT $SEIKAN_URL_PORT ${SEIKAN_URL_MY_DB-none}"',
      ],
    );
    expect(others.stdout).toMatch(
      /^db\.agent\.internal db\.agent\.internal|^my-db\.agent\.internal my-db\.agent\.internal 127\.0\.0\.1:(\d+) tcp:\/\/127\.0\.0\.1:\1 none\n$/,
    );
  });

  test("is reached through the URL while it runs", async () => {
    const script = 'curl -s --max-time 10 -H "Host: web.localhost" "http://$SEIKAN_AT/from-the-command"';
    const { code, stdout } = await runSeikan([
      "agent",
      wsUrl(server),
      "-e",
      `web=${urlOf(web)}`,
      "--",
      "sh",
      "-c",
      script.replace("$SEIKAN_AT", place(server)),
    ]);
    expect([code, stdout]).toEqual([0, "the web /from-the-command"]);
  });

  const codes: [string, string[], number][] = [
    ["0", ["true"], 0],
    ["its own code", ["sh", "-c", "exit 7"], 7],
    ["128+n when signal n ended it", ["sh", "-c", "kill -TERM $$"], 143],
    ["137 when it was killed", ["sh", "-c", "kill -KILL $$"], 137],
    ["127 when it is not there", ["no-such-command-anywhere"], 127],
    ["126 when it is no program", ["/etc/passwd"], 126],
  ];
  for (const [what, command, code] of codes) {
    test(`exit code: ${what}`, async () => {
      expect((await runAgent(server, "-e", urlOf(web), "--", ...command)).code).toBe(code);
    });
  }

  test("gets the signals, and its end is the agent's", async () => {
    const script = 'trap "echo got it; exit 9" TERM; echo running; while :; do sleep 0.02; done';
    await using child = spawnSeikan(["agent", wsUrl(server), "-e", urlOf(web), "--", "sh", "-c", script]);
    await child.prints("running");
    child.kill("SIGTERM");
    expect(await child.exited()).toBe(9);
    expect(child.stdout).toBe("running\ngot it\n");
  });

  test("has stdout for itself: events go to stderr", async () => {
    const { stdout, stderr } = await runAgent(server, "-e", `web=${urlOf(web)}`, "--json", "--", "echo", "out");
    expect(stdout).toBe("out\n");
    const events = stderr.split("\n").filter((line) => line.startsWith("{"));
    expect(JSON.parse(events[0]!)).toMatchObject({ event: "ready", urls: [`http://web.localhost:${server.port}`] });
  });

  test("sees no secret", async () => {
    await using guarded = await serve("--agent-token", "hidden-token");
    const env = {
      SEIKAN_TOKEN: "hidden-token",
      SEIKAN_EXPOSE: `web=${urlOf(web)},auth=guest:hidden-password`,
      SEIKAN_PROXY_AUTH: "user:hidden-credentials",
      ORDINARY: "shown",
    };
    const { code, stdout, stderr } = await runSeikan(["agent", wsUrl(guarded), "--", "env"], { env });
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toContain("ORDINARY=shown\n");
    expect(stdout).toContain(`SEIKAN_URL=http://web.localhost:${guarded.port}\n`);
    expect(stdout).not.toMatch(/hidden|SEIKAN_TOKEN|SEIKAN_EXPOSE|SEIKAN_PROXY_AUTH/);
  });

  test("may be the local service itself", async () => {
    const port = freePort();
    const script = `Bun.serve({ hostname: "127.0.0.1", port: ${port}, fetch: () => new Response("the command") })`;
    await using child = spawnSeikan([
      ...["agent", wsUrl(server), "-e", `own=http://127.0.0.1:${port}`, "--", process.execPath, "-e", script],
    ]);
    const answer = await eventually(
      () => visit(server.port, "own.localhost"),
      ({ status }) => status === 200,
      "the command serves",
    );
    expect(answer.body).toBe("the command");
    child.kill("SIGTERM");
    expect(await child.exited()).toBe(143);
  });

  test("--timeout ends it with 124", async () => {
    const { code, stderr } = await runAgent(
      server,
      "-e",
      urlOf(web),
      "--timeout",
      "1s",
      "--",
      "sh",
      "-c",
      "exec tail -f /dev/null",
    );
    expect([code, stderr]).toEqual([124, expect.stringContaining("--timeout")]);
  });
});

describe("a server that comes again", () => {
  /** An agent, its server that ends by this signal and comes again on the same port, and what must hold then. */
  async function comesAgain(
    signal: "SIGKILL" | "SIGTERM",
    check: (running: Running, answers: () => Promise<void>, name: string) => Promise<void>,
  ): Promise<void> {
    const first = await serve("--allow-bind", BIND);
    await using running = await startAgent(first, "-e", urlOf(web), "-e", `tcp:0=${place(echoing)}`);
    const [site, port] = running.urls as [string, string];
    const answers = async () => {
      expect(await bodyAt(`${site}/x`)).toEqual([200, "the web /x"]);
      using client = await dialRaw(portOf(port));
      expect(await client.send("ping").end().receivesEnd()).toBe("ping");
    };
    await answers();
    first.kill(signal);
    await first.exited;
    await using second = await startSeikan(["serve", "-l", `127.0.0.1:${first.port}`, "--allow-bind", BIND]);
    await until(() => second.stderr().includes(" connected peer="), "the agent is back");
    await check(running, answers, wsUrl(first));
  }

  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    test(`behind a ${signal}: the same URLs and the same port come back`, async () => {
      await comesAgain(signal, async (_, answers) => answers());
    });
  }

  const toldOf = async (running: Running, _: unknown, name: string) => {
    const { urls } = running;
    expect(await happens(running, "reconnected", 1, 2000)).toMatchObject({ server: name, urls });
    expect(eventsOf(running, "disconnected")).toMatchObject([{ server: name, message: expect.any(String) }]);
    expect(eventsOf(running, "ready")).toHaveLength(1);
  };

  test("is told in events: disconnected, reconnected", async () => {
    await comesAgain("SIGKILL", toldOf);
  });

  // A line that was told to go away is forgotten by its tunnel: no "lost" is reported, and no "up" is the first any more.
  test("is told in events also where it said goodbye", async () => {
    await comesAgain("SIGTERM", toldOf);
  });

  test("one connection of two is lost: nobody notices, and it comes back", async () => {
    await using own = await serve();
    using relay = new Relay(own.port);
    await using running = await startAgent(relay, "-e", `web=${urlOf(web)}`);
    const agentsOf = () => own.stderr().split(/agent \S+ connected/).length - 1;
    const before = relay.connections.length;
    expect(agentsOf()).toBe(2);
    relay.connections[0]!.cut("reset");
    for (let i = 0; i < 5; i++) expect((await visit(own.port, "web.localhost", `/${i}`)).body).toBe(`the web /${i}`);
    await until(() => agentsOf() === 3, "it is connected again");
    expect(relay.connections.length).toBe(before + 1);
    expect(eventsOf(running, "disconnected")).toEqual([]);
    relay.connections[1]!.cut("reset");
    await until(() => agentsOf() === 4, "the other one, too");
    expect((await visit(own.port, "web.localhost")).status).toBe(200);
  });

  test("all connections are lost: disconnected and reconnected, and the server lost nothing", async () => {
    await using own = await serve("--allow-bind", BIND);
    using relay = new Relay(own.port);
    await using running = await startAgent(relay, "-e", `web=${urlOf(web)}`, "-e", `tcp:0=${place(echoing)}`);
    const { urls } = running;
    for (let round = 1; round <= 3; round++) {
      for (const connection of relay.connections) connection.cut("reset");
      await happens(running, "disconnected", round);
      expect(await happens(running, "reconnected", round)).toMatchObject({ urls });
      expect((await visit(own.port, "web.localhost")).body).toBe("the web /");
    }
  });

  test("--no-request-log: events about connections only", async () => {
    await using running = await startAgent(server, "-e", `quiet=${urlOf(web)}`, "--no-request-log");
    expect((await visit(server.port, "quiet.localhost")).status).toBe(200);
    running.kill("SIGTERM");
    expect(await running.exited).toBe(0);
    expect(running.events().map(({ event }) => event)).toEqual(["ready"]);
  });
});

describe("an agent that vanishes", () => {
  test("killed: 503 with Retry-After and a reason, and one of the same name takes over", async () => {
    await using own = await serve("--allow-bind", BIND);
    const args = ["--name", "office", "-e", `web=${urlOf(web)}`, "-e", `db=tcp://${place(echoing)}`];
    const running = await startAgent(own, ...args, "-e", `tcp:0=${place(echoing)}`);
    const port = portOf(running.urls[1]);
    running.kill("SIGKILL");
    await until(() => own.stderr().split("agent office disconnected").length === 3, "the server sees it go");
    const away = await visit(own.port, "web.localhost");
    expect(away.status).toBe(503);
    expect(away.values("retry-after")).toEqual([expect.stringMatching(/^[1-9]\d*$/)]);
    expect(away.body).toContain("the agent that serves this site is not connected");
    expect(await dialRaw(port).catch((error: { code?: string }) => error.code)).toBe("ECONNREFUSED");
    await using _ = await startAgent(own, ...args, "-e", `tcp:${port}=${place(echoing)}`);
    expect((await visit(own.port, "web.localhost")).body).toBe("the web /");
    using client = await dialRaw(port);
    expect(await client.send("ping").end().receivesEnd()).toBe("ping");
  });

  test("frozen: visitors are told 504 within --connect-timeout, and one of the same name takes over", async () => {
    await using own = await serve("--connect-timeout", "500ms");
    const args = ["--name", "office", "-e", `web=${urlOf(web)}`];
    await using frozen = await startAgent(own, ...args);
    frozen.kill("SIGSTOP");
    const { status, body } = await visit(own.port, "web.localhost");
    expect([status, body]).toEqual([504, "seikan: the agent that serves this site does not answer\n"]);
    await using _ = await startAgent(own, ...args);
    expect((await visit(own.port, "web.localhost")).body).toBe("the web /");
    // It finds its place taken.
    frozen.kill("SIGCONT");
    await happens(frozen, "disconnected");
    expect((await visit(own.port, "web.localhost")).body).toBe("the web /");
  });

  test("in the middle of 60 requests: each visitor gets an answer or a reset, and nothing is sent twice", async () => {
    await using own = await serve();
    await using other = await startAgent(own, "--name", "other", "-e", `web=${urlOf(web)}`);
    const running = await startAgent(own, "--name", "dying", "-e", `hand=${urlOf(hand)}`);
    const arrivals = new Arrivals(hand);
    const silent: RawSocket[] = [];
    const begun: RawSocket[] = [];
    for (let i = 0; i < 60; i++) {
      const { client, upstream } = await asked(own, "hand.localhost", `/${i}`);
      (i % 2 === 0 ? silent : begun).push(client);
      if (i % 2 === 0) continue;
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
      await client.sees("first");
    }
    running.kill("SIGKILL");
    const answers = await Promise.all(silent.map((client) => client.response()));
    for (const { status } of answers) expect([502, 503]).toContain(status);
    for (const client of begun) {
      await client.receivesReset();
      expect(client.text).toEndWith("\r\n\r\nfirst");
    }
    expect(arrivals.count).toBe(60);
    for (const { text } of hand.accepted.slice(-60)) expect(text.match(/GET /g)).toHaveLength(1);
    expect((await visit(own.port, "web.localhost")).status).toBe(200);
    expect(other.events().some(({ event }) => event === "disconnected")).toBe(false);
  });
});

describe("the end", () => {
  test("SIGTERM: a running download finishes, nobody new is served, exit code 0", async () => {
    await using own = await serve("--allow-bind", BIND);
    await using running = await startAgent(own, "-e", `slow=${urlOf(hand)}`, "-e", `tcp:0=${place(echoing)}`);
    using stream = await dialRaw(portOf(running.urls[1]));
    stream.send("before ");
    await stream.sees("before ");
    const { client, upstream } = await halfway(own, "slow.localhost");
    running.kill("SIGTERM");
    await until(() => running.stderr().includes("draining 2 connections"), "it drains");
    const away = await eventually(
      () => visit(own.port, "slow.localhost"),
      ({ status }) => status !== 200,
      "nobody new is served",
    );
    expect([away.status, away.values("retry-after")]).toEqual([503, [expect.any(String)]]);
    await dialRaw(portOf(running.urls[1])).then(
      (late) => late.receivesReset(),
      (error: { code?: string }) => expect(error.code).toMatch(/ECONNRESET|ECONNREFUSED/),
    );
    upstream.send("last.");
    expect((await client.response()).body).toBe("firstlast.");
    stream.send("and behind").end();
    expect(await stream.receivesEnd()).toBe("before and behind");
    client.end();
    expect(await within(running.exited, "its end")).toBe(0);
    expect(eventsOf(running, "disconnected")).toEqual([]);
  });

  // The connection to the service is kept for a next request, although its agent takes none any more.
  test("SIGTERM: done with the last answer, also when its visitor keeps the connection", async () => {
    await using running = await startAgent(server, "-e", `slow=${urlOf(hand)}`);
    const { client, upstream } = await halfway(server, "slow.localhost");
    running.kill("SIGTERM");
    await until(() => running.stderr().includes("draining"), "it drains");
    upstream.send("last.");
    expect((await client.response()).body).toBe("firstlast.");
    expect(await within(running.exited, "its end", 2000)).toBe(0);
    client.reset();
  });

  for (const [signal, code] of [
    ["SIGTERM", 143],
    ["SIGINT", 130],
  ] as const) {
    test(`a second ${signal}: ends at once with ${code}, and a running download is cut`, async () => {
      await using running = await startAgent(server, "-e", `cut=${urlOf(hand)}`);
      const { client } = await halfway(server, "cut.localhost");
      running.kill(signal);
      await until(() => running.stderr().includes("draining"), "it drains");
      running.kill(signal);
      expect(await within(running.exited, "its end", 5000)).toBe(code);
      await client.receivesReset();
      expect(client.text).toEndWith("first");
    });
  }

  test("--drain-timeout: what is not done by then is cut, exit code 0", async () => {
    await using running = await startAgent(server, "-e", `late=${urlOf(hand)}`, "--drain-timeout", "300ms");
    const { client } = await halfway(server, "late.localhost");
    running.kill("SIGTERM");
    expect(await within(running.exited, "its end", 5000)).toBe(0);
    await client.receivesReset();
  });

  test("visitors who only keep their connection are not waited for", async () => {
    await using running = await startAgent(server, "-e", `kept=${urlOf(web)}`, "-e", `other=${urlOf(web)}`);
    using client = await dialRaw(server.port);
    client.send(get("kept.localhost"));
    expect((await client.response()).status).toBe(200);
    running.kill("SIGTERM");
    expect(await within(running.exited, "its end", 5000)).toBe(0);
    client.send(get("kept.localhost"));
    expect((await client.response()).status).toBe(503);
  });

  test("a server that stops lets running requests finish", async () => {
    const own = await serve();
    await using running = await startAgent(own, "-e", `slow=${urlOf(hand)}`);
    const { client, upstream } = await halfway(own, "slow.localhost");
    own.kill("SIGTERM");
    await until(() => own.stderr().includes("draining"), "it drains");
    upstream.send("last.");
    expect((await client.response()).body).toBe("firstlast.");
    expect(await within(own.exited, "its end")).toBe(0);
    expect(eventsOf(running, "ready")).toHaveLength(1);
  });
});

describe("exit codes", () => {
  const nowhere = () => `ws://127.0.0.1:${freePort()}`;

  test("2: usage", async () => {
    const wrong: [string[], string][] = [
      [[], "SERVER is missing"],
      [["ws://127.0.0.1:1"], "--expose is missing"],
      [["ftp://127.0.0.1:1", "-e", "1"], "SERVER: expected wss://HOST"],
      [["ws://u:secret@127.0.0.1:1/\u0001", "-e", "1"], ""],
      [["ws://127.0.0.1:1", "-e", "http://localhost:1/path"], "has no path"],
      [["ws://127.0.0.1:1", "-e", "-web=http://localhost:1"], "web"],
      [["ws://127.0.0.1:1", "-e", "we_b=http://localhost:1"], "is no DNS label"],
      [["ws://127.0.0.1:1", "-e", `${"x".repeat(64)}=http://localhost:1`], "is no DNS label"],
      [["ws://127.0.0.1:1", "-e", "tcp:99999=localhost:1"], "is no port"],
      [["ws://127.0.0.1:1", "-e", "tcp:0=http://localhost:1"], "comes HOST:PORT"],
      [["ws://127.0.0.1:1", "-e", "host:=http://localhost:1"], "names a host"],
      [["ws://127.0.0.1:1", "-e", "a=http://localhost:1,colour=red"], "unknown key"],
      [["ws://127.0.0.1:1", "-e", "a=http://localhost:1,auth=guest"], "USER:PASS"],
      [["ws://127.0.0.1:1", "-e", "a=http://localhost:1,allow=everybody"], "everybody"],
      [["ws://127.0.0.1:1", "-e", "a=http://localhost:1,request-header=Host: x"], "host-header="],
      [["ws://127.0.0.1:1", "-e", "a=http://localhost:1,response-header=X: a\nb"], "a header is"],
      [["ws://127.0.0.1:1", "-e", "tcp:0=localhost:1,auth=u:p"], "auth= is about HTTP"],
      [["ws://127.0.0.1:1", "-e", "a=http://localhost:1", "-e", "a=http://localhost:2"], "two exposures are named a"],
      [["ws://127.0.0.1:1", "-e", "1", "--name", "a/b"], "is no name"],
      [["ws://127.0.0.1:1", "-e", "1", "--tunnels", "0"], "--tunnels"],
      [["ws://127.0.0.1:1", "-e", "1", "--token-file", "/no/such/file"], "--token-file"],
      [["ws://127.0.0.1:1", "--qr", "--allow-net"], "--qr needs an exposure"],
    ];
    const outcomes = await Promise.all(wrong.map(async ([args]) => runSeikan(["agent", ...args])));
    for (const [index, { code, stdout, stderr }] of outcomes.entries()) {
      const [args, why] = wrong[index]!;
      expect({ args, code, stdout, stderr }).toEqual({
        args,
        code: 2,
        stdout: "",
        stderr: expect.stringContaining(why),
      });
      expect(stderr).not.toContain("secret");
    }
  });

  test("a password in a wrong --expose is not repeated", async () => {
    const { code, stderr } = await runAgent(
      "ws://127.0.0.1:1",
      "-e",
      "a=http://localhost:1,auth=guest:hidden,colour=red",
    );
    expect(code).toBe(2);
    expect(stderr).not.toContain("hidden");
  });

  test("0: --fail-fast does not trip over its own start, whatever is exposed first", async () => {
    await using own = await serve();
    const first = ["-e", `db=tcp://${place(echoing)}`, "-e", `web=${urlOf(web)}`];
    const { code, stdout, stderr } = await runAgent(own, ...first, "--fail-fast", "--", "echo", "ran");
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "ran\n", stderr: "" });
  });

  test("3: no server there, with --fail-fast; the command does not run", async () => {
    const { code, stdout, stderr } = await runAgent(nowhere(), "-e", "1", "--fail-fast", "--", "echo", "ran");
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toMatch(/refused/);
  });

  test("3: nor behind --max-retries, and each attempt is an event", async () => {
    const { code, stdout } = await runAgent(
      ...([nowhere(), "-e", "1", "--max-retries", "2", "--tunnels", "1", "--json"] as const),
    );
    expect(code).toBe(3);
    expect(stdout.match(/"connect-failed"/g)).toHaveLength(2);
  });

  test("3: something that is no seikan", async () => {
    const { code, stderr } = await runAgent(`ws://${place(web)}`, "-e", "1", "--fail-fast");
    expect([code, stderr]).toEqual([3, expect.stringContaining(`ws://${place(web)}`)]);
  });

  test("without either it tries on until there is a server", async () => {
    const port = freePort();
    await using waiting = spawnSeikan(["agent", `ws://127.0.0.1:${port}`, "-e", `web=${urlOf(web)}`, "--json"]);
    await waiting.prints("connect-failed");
    await using own = await startSeikan(["serve", "-l", `127.0.0.1:${port}`]);
    await waiting.prints('"event":"ready"');
    expect((await visit(own.port, "web.localhost")).status).toBe(200);
  });

  test("1: lost for good after it was ready", async () => {
    const own = await serve();
    await using running = await startAgent(own, "-e", `web=${urlOf(web)}`, "--max-retries", "1");
    own.kill("SIGKILL");
    expect(await within(running.exited, "its end")).toBe(1);
    await own.exited;
    expect(running.stderr()).toContain("given up");
    expect(eventsOf(running, "disconnected")).toHaveLength(1);
    expect(eventsOf(running, "connect-failed").length).toBeGreaterThanOrEqual(1);
  });

  // The same as above: a tunnel that was told to go away counts as up for ever.
  test("1: also when the server said goodbye", async () => {
    const own = await serve();
    await using running = await startAgent(own, "-e", `web=${urlOf(web)}`, "--max-retries", "1");
    own.kill("SIGTERM");
    await own.exited;
    expect(await within(running.exited, "its end", 3000)).toBe(1);
  });

  test("a command outlives a connection that is lost for good, and its code counts", async () => {
    const own = await serve();
    const script = "echo running; read line; exit 5";
    await using child = spawnSeikan([
      ...["agent", wsUrl(own), "-e", `web=${urlOf(web)}`, "--max-retries", "0", "--", "sh", "-c", script],
    ]);
    await child.prints("running");
    own.kill("SIGKILL");
    await child.says("given up");
    child.write("go on\n");
    expect(await child.exited()).toBe(5);
  });
});

describe("ways to a server", () => {
  test("several servers at once: each has its URL, and one that goes takes none along", async () => {
    const [one, two] = await Promise.all([serve(), serve()]);
    try {
      await using running = await startSeikan(["agent", wsUrl(one), wsUrl(two), "-e", `web=${urlOf(web)}`]);
      expect(running.urls).toEqual([`http://web.localhost:${one.port}`, `http://web.localhost:${two.port}`]);
      for (const url of running.urls) expect(await bodyAt(`${url}/x`)).toEqual([200, "the web /x"]);
      one.kill("SIGKILL");
      expect(await happens(running, "disconnected")).toMatchObject({ server: wsUrl(one) });
      expect(await bodyAt(`${running.urls[1]}/y`)).toEqual([200, "the web /y"]);
    } finally {
      for (const own of [one, two]) await own[Symbol.asyncDispose]();
    }
  });

  for (const scheme of ["http", "socks5h", "ws"]) {
    test(`--via ${scheme}://`, async () => {
      await using proxy = await serve();
      {
        await using running = await startAgent(
          server,
          "-e",
          `via=${urlOf(web)}`,
          "--via",
          `${scheme}://${place(proxy)}`,
        );
        expect(running.urls).toEqual([`http://via.localhost:${server.port}`]);
        expect((await visit(server.port, "via.localhost")).body).toBe("the web /");
        running.kill("SIGTERM");
        expect(await running.exited).toBe(0);
      }
      // Two tunnels and the probe.
      await until(() => eventsOf(proxy, "tunnel").length >= 3, "the proxy logs its tunnels");
      for (const tunnel of eventsOf(proxy, "tunnel"))
        expect(tunnel).toMatchObject({ target: place(server), status: 200 });
    });
  }

  test("HTTPS_PROXY leads there, and NO_PROXY past it", async () => {
    await using proxy = await serve();
    {
      const env = { HTTPS_PROXY: `http://${place(proxy)}` };
      await using running = await startSeikan(["agent", wsUrl(server), "-e", `env=${urlOf(web)}`], env);
      expect((await visit(server.port, "env.localhost")).body).toBe("the web /");
      running.kill("SIGTERM");
      await running.exited;
    }
    await logged(proxy, ({ event, target }) => event === "tunnel" && target === place(server));
    const dead = { HTTPS_PROXY: `http://127.0.0.1:${freePort()}`, NO_PROXY: "127.0.0.1" };
    await using _ = await startSeikan(["agent", wsUrl(server), "-e", `env=${urlOf(web)}`], dead);
    expect((await visit(server.port, "env.localhost")).status).toBe(200);
  });

  test("the environment's proxy is not asked for local services", async () => {
    await using proxy = await serve();
    const env = { HTTP_PROXY: `http://${place(proxy)}`, NO_PROXY: place(server) };
    const args = ["--name", "local", "-e", `local=${urlOf(web)},health=/up`];
    await using running = await startSeikan(["agent", wsUrl(server), ...args], env);
    await happens(running, "health");
    expect((await visit(server.port, "local.localhost")).body).toBe("the web /");
    expect(proxy.events().map(({ event }) => event)).toEqual(["ready"]);
  });

  test("a proxy that wants other credentials: exit code 4, one that refuses the server: 3", async () => {
    await using guarded = await serve("--auth", "ann:right");
    await using strict = await serve("--deny-net", place(server));
    const through = (proxy: string) => runAgent(server, "-e", "1", "--fail-fast", "--via", proxy);
    const wrong = await through(`http://ann:wrong@${place(guarded)}`);
    expect([wrong.code, wrong.stderr.includes("wrong@")]).toEqual([4, false]);
    expect((await through(`http://${place(strict)}`)).code).toBe(3);
    await using _ = await startAgent(
      server,
      "-e",
      `right=${urlOf(web)}`,
      "--via",
      `http://ann:right@${place(guarded)}`,
    );
    expect((await visit(server.port, "right.localhost")).status).toBe(200);
  });

  test.skipIf(program("squid") === undefined)("squid in between", async () => {
    await using squid = await startSquid(["http_port 127.0.0.1:PORT", "http_access allow all"]);
    await using running = await startAgent(server, "-e", `squid=${urlOf(web)}`, "--via", `http://${place(squid)}`);
    expect(running.urls).toEqual([`http://squid.localhost:${server.port}`]);
    expect((await visit(server.port, "squid.localhost", "/through")).body).toBe("the web /through");
  });

  test("SERVER in other spellings: http://, a path of its own, a token in it", async () => {
    await using own = await serve("--agent-token", "of-agents");
    await using running = await startSeikan(["agent", `http://of-agents@${place(own)}/`, "-e", `web=${urlOf(web)}`]);
    expect(running.urls).toEqual([`http://web.localhost:${own.port}`]);
    expect(running.stderr()).not.toContain("of-agents");
  });

  test("the token from a file or the environment", async () => {
    using folder = new TempFolder();
    writeFileSync(folder.file("token"), "of-agents\n");
    await using own = await serve("--agent-token", "of-agents");
    await using byFile = await startAgent(own, "-e", `one=${urlOf(web)}`, "--token-file", folder.file("token"));
    const env = { SEIKAN_TOKEN: "of-agents" };
    await using byEnv = await startSeikan(["agent", wsUrl(own), "-e", `two=${urlOf(web)}`, ...exposing({})], env);
    for (const { urls } of [byFile, byEnv]) expect((await bodyAt(urls[0]!))[0]).toBe(200);
  });
});
