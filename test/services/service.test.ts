import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tcpTarget } from "../../src/core/address.ts";
import { LaunchLedger } from "../../src/platform/launch-ledger.ts";
import type { Service } from "../../src/services/service.ts";
import type { ServiceSettings } from "../../src/services/settings.ts";
import { freePort } from "../../src/transports/free-port.ts";
import { certificateFor } from "../support/certificates.ts";
import { soon } from "../support/pairs.ts";
import { askOver, failureOf, MovedClock, ServiceHall } from "../support/service-host.ts";
import { dev, devLine, isAlive, isGone, kill } from "../support/services.ts";
import { reset, until, within } from "../support/wait.ts";

const isReady = (web: Service) => until(() => web.state === "ready", "it is ready");
const isStarting = (web: Service) => until(() => web.facts.pid !== undefined, "it is started");
const over = <T>(work: Promise<T>, what = "it is over") => within(work, what, 20_000);
const at = (port: number): Partial<ServiceSettings> => ({ place: { kind: "loopback", port } });

/** A server that somebody else started. */
function external(port: number) {
  const server = Bun.serve({ hostname: "127.0.0.1", port, fetch: () => new Response("web external") });
  return { [Symbol.asyncDispose]: () => server.stop(true) };
}

/** The service has started this process and no other, and it lives. */
function expectOne(hall: ServiceHall, name = "web"): number {
  const [pid, ...more] = hall.project.pids(name);
  expect(more).toEqual([]);
  expect([isAlive(pid!), hall.service(name).facts.pid]).toEqual([true, pid]);
  return pid!;
}

describe("a service that is not running", () => {
  test("is started by its first request, and serves the next ones", async () => {
    await using hall = new ServiceHall();
    const { web } = hall;
    expect([web.state, web.facts.pid, web.facts.port, web.generation]).toEqual([
      "stopped",
      undefined,
      undefined,
      "web ?",
    ]);
    const pid = await hall.pid();
    expect(expectOne(hall)).toBe(pid);
    expect([await hall.pid(), await hall.pid(), hall.project.journal]).toEqual([
      ...[pid, pid],
      [`web start ${pid}`, `web listen ${pid}`],
    ]);
    expect(web.state).toBe("ready");
    const { upMs, ...facts } = web.facts;
    expect(facts).toEqual({ pid, port: web.port, open: 0, waiting: 0, starts: 1, error: undefined });
    expect([web.port! > 0, upMs! >= 0, web.generation, web.takesRequests]).toEqual([true, true, `web ${pid}`, true]);
    expect(hall.log.lines).toEqual(["info starting web", "info web is ready"]);
    expect(hall.log.fieldsOf("info starting web")).toEqual({ pid, port: web.port });
  });

  test("is started once by a hundred requests that come together", async () => {
    await using hall = new ServiceHall();
    const pids = await Promise.all(Array.from({ length: 100 }, () => hall.pid()));
    expect(new Set(pids)).toEqual(new Set([expectOne(hall)]));
    expect([hall.web.facts.starts, hall.web.facts.open, hall.web.facts.waiting]).toEqual([1, 0, 0]);
  });

  test("is started by a request at a port that it always has", async () => {
    const port = freePort();
    await using hall = new ServiceHall([at(port)]);
    expect(hall.web.port).toBe(port);
    const pid = await hall.pid();
    expect([expectOne(hall), hall.web.port]).toEqual([pid, port]);
  });

  test("is started where its unix socket is not there, and where it was left behind", async () => {
    await using hall = new ServiceHall();
    const path = hall.project.file("app.sock");
    const place = { kind: "target", target: { kind: "unix", path } } as const;
    // A server may well refuse to begin where its socket is there already.
    hall.change({ place, command: `rm -f ${path}; exec ${devLine("--unix", path)}` });
    const pid = await hall.pid();
    expect(hall.web.facts.port).toBeUndefined();
    expect(hall.log.fieldsOf("info starting web")).toEqual({ pid, port: undefined });
    kill(pid, "SIGKILL");
    await until(() => hall.web.state === "failed", "it is seen");
    expect(existsSync(path)).toBe(true);
    await over(hall.web.start());
    expect(await hall.pid()).toBe(hall.project.pids("web")[1]!);
  });

  test("is started on IPv6 as well", async () => {
    await using hall = new ServiceHall([{ command: dev("--host", "::1") }]);
    expect(await hall.pid()).toBe(expectOne(hall));
  });

  test("is started behind TLS", async () => {
    const { certFile, keyFile } = certificateFor("localhost");
    const command = dev("--cert", certFile, "--key", keyFile);
    await using hall = new ServiceHall([{ command, tls: true, insecure: true }]);
    expect(await hall.pid()).toBe(expectOne(hall));
  });

  test("is started for a dialer, and in use as long as its stream", async () => {
    await using hall = new ServiceHall();
    const stream = await over(hall.web.dialer(tcpTarget("nowhere", 1), { deadline: soon() }));
    expect(hall.web.facts.open).toBe(1);
    expect(await askOver(stream, "/who")).toBe(`web ${expectOne(hall)}`);
    await until(() => hall.web.facts.open === 0, "the stream is over");
  });

  test("is not started by somebody who may not, who may use it while it starts or runs", async () => {
    await using hall = new ServiceHall([{ command: dev("--gate", "gate") }]);
    const denied = { mayLaunch: false };
    const refusal = await failureOf(hall.reach(denied));
    expect([refusal.code, refusal.message]).toEqual([
      ...["launch-denied", "web is not running, and another site's page may not start it"],
    ] as never);
    expect([hall.web.state, hall.project.journal]).toEqual(["stopped", []]);
    const first = hall.pid();
    await isStarting(hall.web);
    const second = hall.pid(denied);
    await until(() => hall.web.facts.waiting === 2, "both wait");
    hall.project.write("gate", "");
    expect([await first, await second, await hall.pid(denied)]).toEqual(
      Array.from({ length: 3 }, () => expectOne(hall)),
    );
  });

  test("is asked whether it answers without being started", async () => {
    await using hall = new ServiceHall([at(freePort())]);
    expect([await hall.web.answers(), hall.web.facts.starts]).toEqual([false, 0]);
    await hall.pid();
    expect(await hall.web.answers()).toBe(true);
  });
});

describe("a server that somebody else started", () => {
  test("is used, and neither started, restarted nor stopped", async () => {
    const port = freePort();
    await using hall = new ServiceHall([at(port)]);
    const { web } = hall;
    await using _ = external(port);
    expect(await hall.ask("/who")).toBe("web external");
    expect(await hall.ask("/who", { mayLaunch: false })).toBe("web external");
    await over(web.start());
    const refusal = await failureOf(web.stop());
    expect([refusal.code, refusal.message]).toEqual([
      ...["service-stopped", "web runs, but was not started by seikan"],
    ] as never);
    expect([web.state, web.facts.starts, web.facts.pid, web.mayBeExternal]).toEqual(["stopped", 0, undefined, true]);
    expect(await hall.ask("/who")).toBe("web external");
    expect([hall.log.lines, hall.project.journal]).toEqual([[], []]);
  });

  test("is not said to be restarted", async () => {
    const port = freePort();
    await using hall = new ServiceHall([at(port)]);
    await using _ = external(port);
    expect((await failureOf(hall.web.restart())).message).toBe("web runs, but was not started by seikan");
  });

  test("is replaced by the command once it has gone", async () => {
    const port = freePort();
    await using hall = new ServiceHall([at(port)]);
    const server = external(port);
    expect(await hall.ask("/who")).toBe("web external");
    expect([hall.web.generation, hall.web.takesRequests]).toEqual(["web ?", true]);
    await server[Symbol.asyncDispose]();
    const pid = await hall.pid();
    expect([pid, hall.web.generation]).toEqual([expectOne(hall), `web ${pid}`]);
  });

  test("serves though the service is held", async () => {
    const port = freePort();
    await using hall = new ServiceHall([at(port)]);
    await hall.pid();
    await over(hall.web.stop());
    await using _ = external(port);
    expect([hall.web.state, await hall.ask("/who")]).toEqual(["held", "web external"]);
  });

  test("and fails otherwise than by refusing is no reason to start anything", async () => {
    const port = freePort();
    await using hall = new ServiceHall([{ ...at(port), tls: true }]);
    await using _ = external(port);
    expect((await failureOf(hall.reach())).code).toBe("tls-failed");
    expect([hall.web.state, hall.web.facts.starts]).toEqual(["stopped", 0]);
  });

  test("on a port that a stopped service had for a while is none of it", async () => {
    await using hall = new ServiceHall();
    await hall.pid();
    const port = hall.web.port!;
    await over(hall.web.stop());
    await using _ = external(port);
    await over(hall.web.stop());
    expect([hall.web.state, hall.web.mayBeExternal]).toEqual(["held", false]);
  });

  test("is all there is of a service without a command", async () => {
    const port = freePort();
    await using hall = new ServiceHall([{ ...at(port), command: undefined }]);
    const { web } = hall;
    const refusal = await failureOf(hall.reach());
    expect([refusal.code, refusal.message]).toEqual(["connect-refused", `connection refused by 127.0.0.1:${port}`]);
    for (const [what, work] of [
      ["start", web.start()],
      ["stop", web.stop()],
      ["restart", web.restart()],
    ] as const) {
      const error = await failureOf(work);
      expect([error.code, error.message]).toEqual(["bad-request", `web has no command: seikan cannot ${what} it`]);
    }
    await using _ = external(port);
    expect([await hall.ask("/who"), web.state]).toEqual(["web external", "stopped"]);
  });
});

describe("a command", () => {
  /** What it printed that ended at once. */
  async function printed(hall: ServiceHall): Promise<string[]> {
    const error = await failureOf(hall.web.start());
    return error.evidence!.output.filter((line) => !line.startsWith("# "));
  }

  test("gets the environment for children, its place and what it shall have besides, and nothing of ours", async () => {
    process.env.SERVICE_TEST_SECRET = "of this process";
    await using hall = new ServiceHall([{ command: ["env"], env: { OWN: "{host}:{port} {name} {url} {addr} {x}" } }]);
    const lines = (await printed(hall)).filter((line) => !line.startsWith("SEIKAN_LAUNCH="));
    delete process.env.SERVICE_TEST_SECRET;
    const port = hall.log.fieldsOf("info starting web")!.port as number;
    const expected = {
      ...hall.host.env,
      ...{ PORT: port, HOST: "127.0.0.1", SEIKAN_URL: "http://web.localhost:8080" },
      OWN: `127.0.0.1:${port} web http://web.localhost:8080 127.0.0.1:${port} {x}`,
    };
    expect(lines.toSorted()).toEqual(
      Object.entries(expected)
        .map(([name, value]) => `${name}=${value}`)
        .toSorted(),
    );
  });

  test("gets no port where it has none", async () => {
    await using hall = new ServiceHall();
    const place = { kind: "target", target: { kind: "unix", path: hall.project.file("s") } } as const;
    hall.change({ place, command: ["env"] });
    const names = (await printed(hall)).map((line) => line.split("=")[0]);
    expect(["PORT", "HOST", "SEIKAN_URL"].map((name) => names.includes(name))).toEqual([false, false, true]);
  });

  test("gets what a file has at that moment, its own environment before it, and that before its place", async () => {
    await using hall = new ServiceHall();
    const envFile = hall.project.write(".env", "A=1\nB='two words'\nPORT=1234\n# C=3\nE={port}\n");
    hall.change({ envFile, env: { A: "own" }, command: 'printf \'%s|\' "$A" "$B" "$PORT" "$C" "$E"' });
    expect(await printed(hall)).toEqual(["own|two words|1234||{port}|"]);
    writeFileSync(envFile, "B=changed\nC=3\n");
    expect((await printed(hall))[0]).toMatch(/^own\|changed\|[1-9]\d+\|3\|\|$/);
  });

  test("is not started where that file cannot be read", async () => {
    await using hall = new ServiceHall([{ envFile: "/no/such/.env" }]);
    const error = await failureOf(hall.reach());
    expect([error.code, error.message]).toEqual([
      ...["service-failed", "web cannot be started: cannot read /no/such/.env: ENOENT"],
    ] as never);
    expect([hall.web.state, hall.project.journal]).toEqual(["failed", []]);
  });

  for (const kind of ["text", "list"] as const) {
    test(`that is a ${kind} is told its port and name, and runs in its folder`, async () => {
      await using hall = new ServiceHall();
      const folder = join(hall.project.path, "below");
      mkdirSync(folder);
      const words = ["--port", "{port}", "--host", "{host}", "--say", "{name} {url} {other}"];
      hall.change({ folder, command: kind === "text" ? devLine(...words) : dev(...words) });
      const told = JSON.parse(await hall.ask("/process")) as { words: string[]; folder: string };
      const port = String(hall.web.port);
      const shown = ["web", "--port", port, "--host", "127.0.0.1", "--say", "web http://web.localhost:8080 {other}"];
      expect([told.folder, told.words]).toEqual([folder, shown]);
      expect(hall.web.output.latest(10)).toEqual(["web http://web.localhost:8080 {other}"]);
    });
  }

  test("has a terminal where it shall", async () => {
    await using hall = new ServiceHall([{ hasTerminal: true }]);
    expect(JSON.parse(await hall.ask("/process"))).toMatchObject({ isTerminal: true, columns: 120 });
    hall.change({ hasTerminal: false });
    expect(JSON.parse(await hall.ask("/process"))).toMatchObject({ isTerminal: false });
  });
});

describe("a start", () => {
  test("is over when the port accepts, and requests wait until then", async () => {
    await using hall = new ServiceHall([{ command: dev("--gate", "gate") }]);
    const { web } = hall;
    const requests = [hall.pid(), hall.pid()];
    const start = web.start();
    await hall.project.happens("web", "start");
    expect([web.state, web.facts.upMs, web.facts.waiting, web.takesRequests]).toEqual([
      "starting",
      undefined,
      2,
      false,
    ]);
    expect(hall.log.lines).toEqual(["info starting web"]);
    hall.project.write("gate", "");
    await over(start);
    expect(web.state).toBe("ready");
    expect(await Promise.all(requests)).toEqual([expectOne(hall), expectOne(hall)]);
  });

  test("is over when the path answers well, where that is the sign", async () => {
    await using hall = new ServiceHall([
      { command: dev("--health", "well"), ready: { kind: "http", path: "/healthz" } },
    ]);
    const request = hall.pid();
    await hall.project.happens("web", "listen");
    expect(hall.web.state).toBe("starting");
    hall.project.write("well", "");
    expect([await request, hall.web.state]).toEqual([expectOne(hall), "ready"]);
  });

  test("is over when the line is printed, where that is the sign; who comes before the port opens waits", async () => {
    const ready = { kind: "log", text: "compiled" } as const;
    await using hall = new ServiceHall([
      { command: dev("--say", "\x1b[32mcompi\x1b[0mled in 3 s", "--gate", "gate"), ready },
    ]);
    const request = hall.pid();
    await isReady(hall.web);
    expect(hall.project.pids("web", "listen")).toEqual([]);
    hall.project.write("gate", "");
    expect(await request).toBe(expectOne(hall));
  });

  test("is not over when the command alone holds that line", async () => {
    const ready = { kind: "log", text: "Listening on" } as const;
    await using hall = new ServiceHall([{ command: "exec sleep 1000 # Listening on", ready, readyMs: 200 }]);
    const error = await failureOf(hall.reach());
    expect(error.message).toBe('web was not ready within 0.2 s: it did not print "Listening on"');
  });

  test("takes as long as it shall settle", async () => {
    await using hall = new ServiceHall([{ settleMs: 300 }]);
    const request = hall.pid();
    await hall.project.happens("web", "listen");
    expect(hall.web.state).toBe("starting");
    expect(await request).toBe(expectOne(hall));
    expect(hall.log.fieldsOf("info web is ready")!.ms as number).toBeGreaterThanOrEqual(300);
  });

  test("fails at once where the server ends while it settles", async () => {
    await using hall = new ServiceHall([{ settleMs: 60_000 }]);
    const request = failureOf(hall.reach());
    kill(await hall.project.happens("web", "listen"), "SIGKILL");
    expect((await request).message).toBe("web ended before it was ready: SIGKILL");
  });

  test("may be that of a command that forks", async () => {
    await using hall = new ServiceHall([{ command: `${devLine()} & exit 0` }]);
    const pid = await hall.pid();
    await isGone(hall.web.facts.pid!);
    expect([await hall.pid(), hall.web.state, isAlive(pid)]).toEqual([pid, "ready", true]);
    await over(hall.web.stop());
    expect([isAlive(pid), hall.web.state]).toEqual([false, "held"]);
  });

  test("that takes long is told to those who do not wait, and goes on", async () => {
    await using hall = new ServiceHall([{ command: dev("--say", "compiling", "--gate", "gate"), usualMs: 3000 }]);
    const patient = hall.pid();
    await until(() => hall.web.output.tail(1)[0] === "compiling", "it compiles");
    const error = await failureOf(hall.reach({ patienceMs: 20 }));
    expect([error.code, error.message]).toEqual(["service-starting", "web is starting; that usually takes 3 s"]);
    const { facts, output, refreshSeconds } = error.evidence!;
    expect([facts, output, refreshSeconds]).toEqual([
      {
        since: "0 s",
        command: dev("--say", "compiling", "--gate", "gate").join(" ").replace("{name}", "web"),
        folder: hall.project.path,
      },
      ["compiling"],
      1,
    ]);
    hall.project.write("gate", "");
    expect(await patient).toBe(expectOne(hall));
    expect(await hall.pid({ patienceMs: 20_000 })).toBe(expectOne(hall));
  });

  test("says nothing of how long it usually takes where nobody said", async () => {
    await using hall = new ServiceHall([{ command: dev("--deaf") }]);
    expect((await failureOf(hall.reach({ patienceMs: 1 }))).message).toBe("web is starting");
  });

  test("is not waited for by somebody who has gone, and goes on", async () => {
    await using hall = new ServiceHall([{ command: dev("--gate", "gate") }]);
    let leave = () => {};
    const request = failureOf(hall.reach({ onGone: (call) => (leave = call) }));
    const patient = hall.pid();
    await until(() => hall.web.facts.waiting === 2, "both wait");
    leave();
    const error = await request;
    expect([error.code, error.message]).toEqual(["cancelled", "whoever asked has gone"]);
    await until(() => hall.web.facts.waiting === 1, "one is left");
    expect([hall.web.facts.open, hall.web.state]).toEqual([1, "starting"]);
    hall.project.write("gate", "");
    expect([await patient, hall.web.facts.open]).toEqual([expectOne(hall), 0]);
  });

  test("is no reason to stop for somebody who leaves when it is over", async () => {
    await using hall = new ServiceHall();
    let leave = () => {};
    const stream = await hall.reach({ onGone: (call) => (leave = call) });
    leave();
    expect([await askOver(stream, "/who"), hall.web.facts.open]).toEqual([`web ${expectOne(hall)}`, 0]);
  });

  test("is waited for by 256 requests, and by no more", async () => {
    await using hall = new ServiceHall([{ command: dev("--gate", "gate") }]);
    const waiting = Array.from({ length: 256 }, () => hall.reach());
    await isStarting(hall.web);
    expect([hall.web.facts.waiting, hall.web.facts.open]).toEqual([256, 256]);
    const error = await failureOf(hall.reach());
    expect([error.code, error.message, error.outcome.status]).toEqual([
      ...["limit-reached", "256 requests wait for web already", 503],
    ] as never);
    hall.project.write("gate", "");
    for (const stream of await Promise.all(waiting)) stream.abort(reset());
    expect([hall.web.facts.waiting, await hall.pid()]).toEqual([0, expectOne(hall)]);
  });
});

describe("a start that fails", () => {
  test("at once is told with how it ended and what was said", async () => {
    await using hall = new ServiceHall([{ command: dev("--say", "one", "--say", "cannot bind", "--exit", "3") }]);
    const [first, second] = await Promise.all([failureOf(hall.reach()), failureOf(hall.reach())]);
    expect([first!.code, first!.message]).toEqual(["service-failed", "web ended before it was ready: exit code 3"]);
    const { facts, output } = first!.evidence!;
    const command = dev("--say", "one", "--say", "cannot bind", "--exit", "3").join(" ").replace("{name}", "web");
    expect(facts).toEqual({
      exitCode: 3,
      after: expect.stringMatching(/^\d+\.\d s$/),
      command,
      folder: hall.project.path,
    } as never);
    expect(output).toEqual(["one", "cannot bind"]);
    expect(second!.message).toBe(first!.message);
    expect([hall.web.state, hall.web.facts.error, hall.web.facts.starts]).toEqual(["failed", first!.message, 1]);
    expect(hall.log.count(`error ${first!.message}`)).toBe(1);
    expect(hall.log.fieldsOf(`error ${first!.message}`)).toEqual({ code: "service-failed" });
  });

  const endings: [command: string, said: string, facts: object][] = [
    ["exit 0", "exit code 0", { exitCode: 0 }],
    ["kill -KILL $$", "SIGKILL", { signal: "SIGKILL" }],
    ["no-such-command-at-all", "exit code 127", { exitCode: 127 }],
  ];
  for (const [command, said, facts] of endings) {
    test(`by "${command}" is told as ${said}`, async () => {
      await using hall = new ServiceHall([{ command }]);
      const error = await failureOf(hall.reach());
      expect(error.message).toBe(`web ended before it was ready: ${said}`);
      expect(error.evidence!.facts).toMatchObject({ ...facts, command, folder: hall.project.path } as never);
    });
  }

  test("because there is no such program, or no folder, is told in words", async () => {
    await using hall = new ServiceHall([{ command: ["./serve"] }, { name: "api", folder: "/no/such/folder" }]);
    const [program, folder] = [await failureOf(hall.reach()), await failureOf(hall.reach({}, "api"))];
    expect([program.code, program.message, program.evidence]).toEqual([
      ...["service-failed", "web cannot be started: no such command: ./serve"],
      { facts: { command: "./serve", folder: hall.project.path }, output: [] },
    ] as never);
    expect(folder.message).toBe("api cannot be started: there is no folder /no/such/folder");
    expect([hall.web.state, hall.web.facts.starts]).toEqual(["failed", 0]);
  });

  test("in time is told so, and nothing is left of it", async () => {
    await using hall = new ServiceHall([{ command: dev("--deaf", "--say", "thinking"), readyMs: 300 }]);
    const request = hall.reach();
    const pid = await hall.project.happens("web", "start");
    const port = hall.web.port!;
    const error = await failureOf(request);
    expect([error.code, error.message, error.outcome.status]).toEqual([
      ...["service-timeout", `web was not ready within 0.3 s: nothing listens on port ${port}`, 504],
    ] as never);
    expect(error.evidence!.output).toEqual(["thinking"]);
    await isGone(pid);
    await until(() => hall.web.state === "failed", "it is known");
  });

  test("because its path does not answer well is told so", async () => {
    await using hall = new ServiceHall([
      { command: dev("--health", "never"), ready: { kind: "http", path: "/healthz" }, readyMs: 400 },
    ]);
    const error = await failureOf(hall.reach());
    expect([error.code, error.message]).toEqual([
      ...["service-timeout", "web was not ready within 0.4 s: /healthz: it answers 503"],
    ] as never);
  });

  test("because it speaks no TLS where it shall is told so", async () => {
    await using hall = new ServiceHall([{ tls: true, readyMs: 400 }]);
    const { message } = await failureOf(hall.reach());
    expect(message).toStartWith(`web was not ready within 0.4 s: TLS with 127.0.0.1:`);
  });

  test("is told with the last it said, however much that was", async () => {
    for (const hasTerminal of [false, true]) {
      const command = "seq 1 20000; echo the last words >&2; exit 1";
      await using hall = new ServiceHall([{ command, hasTerminal }]);
      const { output } = (await failureOf(hall.reach())).evidence!;
      expect([output.length, output.slice(-2)]).toEqual([30, ["20000", "the last words"]]);
    }
  });

  test("shows what was said and no note of ours, whatever the code was", async () => {
    for (const code of [0, 1]) {
      await using hall = new ServiceHall([{ command: dev("--say", "hello", "--exit", String(code)) }]);
      expect((await failureOf(hall.reach())).evidence!.output).toEqual(["hello"]);
    }
  });

  test("with a process left over ends that, too", async () => {
    const command = `${devLine("--deaf")} & sleep 1000 & until test -s "$JOURNAL"; do sleep 0.01; done; exit 1`;
    await using hall = new ServiceHall([{ command }]);
    expect((await failureOf(hall.reach())).message).toBe("web ended before it was ready: exit code 1");
    await hall.project.isEmpty(1);
  });

  test("shows the lines of this start alone", async () => {
    await using clock = { moved: new MovedClock(), [Symbol.asyncDispose]: async () => clock.moved[Symbol.dispose]() };
    await using hall = new ServiceHall([{ command: dev("--say", "the same", "--exit", "1") }]);
    await failureOf(hall.reach());
    clock.moved.forward(1000);
    expect((await failureOf(hall.reach())).evidence!.output).toEqual(["the same"]);
  });
});

describe("after a failure", () => {
  const FAILING = { command: dev("--exit", "1") };
  const MESSAGE = "web ended before it was ready: exit code 1";

  test("requests are told of it for a while, and then try again, each time after a longer while", async () => {
    using clock = new MovedClock();
    await using hall = new ServiceHall([FAILING]);
    expect((await failureOf(hall.reach())).hints).toEqual([]);
    for (const [seconds, starts] of [
      [1, 1],
      [2, 2],
      [4, 3],
      [8, 4],
    ] as const) {
      const told = await failureOf(hall.reach());
      expect([told.code, told.message, told.hints]).toEqual([
        ...["service-failed", MESSAGE],
        [`the first request after ${seconds} s starts it again; seikan services start web starts it now`],
      ] as never);
      expect(told.evidence).toMatchObject({ facts: { exitCode: 1 }, output: [] } as never);
      // A page that is left open does not go on starting it.
      expect(told.evidence!.refreshSeconds).toBeUndefined();
      expect([hall.web.facts.starts, hall.web.state]).toEqual([starts, "failed"]);
      clock.forward(seconds * 1000);
      expect((await failureOf(hall.reach())).hints).toEqual([]);
      expect(hall.web.facts.starts).toBe(starts + 1);
    }
    const tripped = await failureOf(hall.reach());
    expect(tripped.hints).toEqual([
      "it failed too often: the first request after 30 s starts it again; seikan services start web starts it now",
    ]);
    expect(hall.log.fieldsOf(`error ${MESSAGE}`)).toEqual({ code: "service-failed", pausing: "30s" });
    expect(hall.project.pids("web")).toHaveLength(5);
  });

  test("it is tried at once by hand, and forgotten once it works", async () => {
    await using hall = new ServiceHall([{ command: dev("--exit", "1") }]);
    await failureOf(hall.reach());
    expect((await failureOf(hall.web.start())).message).toBe(MESSAGE);
    expect(hall.web.facts.starts).toBe(2);
    hall.change({ command: dev() });
    expect([hall.web.state, hall.web.facts.error]).toEqual(["stopped", undefined]);
    await hall.pid();
    expect([hall.web.state, hall.web.facts.error, hall.web.facts.starts]).toEqual(["ready", undefined, 3]);
  });

  test("it is not forgotten by a change that has nothing to do with it", async () => {
    await using hall = new ServiceHall([FAILING]);
    await failureOf(hall.reach());
    hall.change({ idleMs: 60_000 });
    expect([hall.web.state, (await failureOf(hall.reach())).message, hall.web.facts.starts]).toEqual([
      "failed",
      MESSAGE,
      1,
    ]);
  });

  test("nobody who may not start it does", async () => {
    await using hall = new ServiceHall([FAILING]);
    await failureOf(hall.reach());
    expect((await failureOf(hall.reach({ mayLaunch: false }))).code).toBe("launch-denied");
  });
});

describe("a server that crashes", () => {
  test("is started again by itself after a second, and requests are told so until then", async () => {
    await using hall = new ServiceHall([{ command: dev("--say", "hello") }]);
    const pid = await hall.pid();
    await hall.ask("/exit?code=4");
    await until(() => hall.web.state === "failed", "it is seen");
    const began = performance.now();
    const error = await failureOf(hall.reach());
    expect([error.code, error.message, error.hints]).toEqual([
      ...["service-failed", "web crashed: exit code 4"],
      ["it is started again in 1 s; seikan services start web starts it now"],
    ] as never);
    expect(error.evidence).toMatchObject({ facts: { exitCode: 4 }, refreshSeconds: 2 } as never);
    expect(error.evidence!.output[0]).toBe("hello");
    expect(hall.log.fieldsOf("error web crashed: exit code 4")).toEqual({ code: "service-failed", again: "1s" });
    const again = await hall.project.happens("web", "listen", 2);
    expect(performance.now() - began).toBeGreaterThan(900);
    expect(again).not.toBe(pid);
    await isReady(hall.web);
    expect([await hall.pid(), hall.web.facts.error, hall.web.facts.starts]).toEqual([again, undefined, 2]);
  });

  test("by a signal is told by its name", async () => {
    await using hall = new ServiceHall([{ restarts: false }]);
    kill(await hall.pid(), "SIGSEGV");
    await until(() => hall.web.state === "failed", "it is seen");
    expect(hall.web.facts.error).toMatch(/^web crashed: (SIGSEGV|SIGILL|exit code 13[29])$/);
  });

  test("is not started again where that is not wanted, but by the next request after the pause", async () => {
    using clock = new MovedClock();
    await using hall = new ServiceHall([{ restarts: false }]);
    const pid = await hall.pid();
    await hall.ask("/exit?code=1");
    await until(() => hall.web.state === "failed", "it is seen");
    const error = await failureOf(hall.reach());
    expect(error.hints[0]).toStartWith("the first request after 1 s starts it again");
    clock.forward(1000);
    expect([await hall.pid(), hall.web.facts.starts]).toEqual([hall.project.pids("web")[1]!, 2]);
    expect(isAlive(pid)).toBe(false);
  });

  test("waits longer each time, unless it was up for ten seconds", async () => {
    using clock = new MovedClock();
    await using hall = new ServiceHall();
    const pauses: unknown[] = [];
    for (const upMs of [0, 0, 10_000, 0]) {
      await hall.pid();
      clock.forward(upMs);
      await hall.ask("/exit?code=1");
      await until(() => hall.web.state === "failed", "it is seen");
      pauses.push(hall.log.fieldsOf("error web crashed: exit code 1")!.again);
      // What comes by itself would come too late for a test.
      clock.forward(5000);
    }
    expect(pauses).toEqual(["1s", "2s", "1s", "2s"]);
  });

  test("too often is left alone until the next request, later", async () => {
    using clock = new MovedClock();
    await using hall = new ServiceHall();
    for (let i = 0; i < 5; i++) {
      await hall.pid();
      await hall.ask("/exit?code=1");
      await until(() => hall.web.state === "failed", "it is seen");
      if (i < 4) clock.forward(8000);
    }
    const error = await failureOf(hall.reach());
    expect(error.hints[0]).toStartWith("it failed too often: the first request after 30 s starts it again");
    expect(hall.log.fieldsOf("error web crashed: exit code 1")).toEqual({ code: "service-failed", pausing: "30s" });
    clock.forward(30_000);
    expect([await hall.pid(), hall.web.state]).toEqual([hall.project.pids("web").at(-1)!, "ready"]);
  });

  for (const [what, end] of [
    ["ended by itself with code 0", (hall: ServiceHall) => hall.ask("/exit?code=0")],
    ["was ended by somebody's SIGTERM", (hall: ServiceHall) => kill(hall.web.facts.pid!, "SIGTERM")],
  ] as const) {
    test(`is none that ${what}: the next request starts it at once`, async () => {
      await using hall = new ServiceHall();
      await hall.pid();
      await end(hall);
      await until(() => hall.web.state === "stopped", "it is seen");
      expect([await hall.pid(), hall.web.facts.starts]).toEqual([hall.project.pids("web")[1]!, 2]);
      expect(hall.log.lines.filter((line) => line.startsWith("error"))).toEqual([]);
      expect(hall.log.count("info web ended")).toBe(1);
    });
  }

  test("takes what it started with it", async () => {
    await using hall = new ServiceHall([{ command: `sleep 1000 & exec ${devLine()}`, restarts: false }]);
    const pid = await hall.pid();
    expect(hall.project.processes).toHaveLength(2);
    kill(pid, "SIGKILL");
    await until(() => hall.web.state === "failed", "it is seen");
    expect([hall.project.processes, hall.web.facts.error]).toEqual([[], "web crashed: SIGKILL"]);
  });
});

describe("a server that does not listen any more", () => {
  test("has time to come back", async () => {
    await using hall = new ServiceHall();
    const pid = await hall.pid();
    await hall.ask("/close?gate=gate");
    await hall.project.happens("web", "closed");
    const dials = hall.dials;
    const requests = [hall.pid(), hall.pid()];
    await until(() => hall.dials >= dials + 6, "it is looked for");
    hall.project.write("gate", "");
    expect([await Promise.all(requests), expectOne(hall)]).toEqual([[pid, pid], pid]);
  });

  test("is started again where it does not come back in five seconds", async () => {
    using clock = new MovedClock();
    await using hall = new ServiceHall();
    const pid = await hall.pid();
    await hall.ask("/close?gate=gate");
    await hall.project.happens("web", "closed");
    const dials = hall.dials;
    const requests = [hall.pid(), hall.pid()];
    // Two loopback addresses each, and once more by whoever looks whether it came back.
    await until(() => hall.dials >= dials + 6, "it is looked for");
    clock.forward(4000);
    expect([hall.web.state, isAlive(pid)]).toEqual(["ready", true]);
    clock.forward(1001);
    const again = await Promise.all(requests);
    expect([new Set(again), isAlive(pid)]).toEqual([new Set([hall.project.pids("web")[1]!]), false]);
    expect(hall.log.count("warn web runs and does not listen any more: it is started again")).toBe(1);
    expect(hall.web.facts.starts).toBe(2);
  });

  test("is told about where it ends meanwhile", async () => {
    await using hall = new ServiceHall();
    const pid = await hall.pid();
    await hall.ask("/close?gate=gate");
    await hall.project.happens("web", "closed");
    const dials = hall.dials;
    const request = failureOf(hall.reach());
    await until(() => hall.dials >= dials + 4, "it is looked for");
    kill(pid, "SIGKILL");
    expect((await request).message).toBe("web crashed: SIGKILL");
  });
});

describe("by hand", () => {
  test("a service is started, and again to no effect", async () => {
    await using hall = new ServiceHall();
    await over(Promise.all([hall.web.start(), hall.web.start()]));
    const pid = expectOne(hall);
    await over(hall.web.start());
    expect([hall.web.state, await hall.pid(), hall.web.facts.starts]).toEqual(["ready", pid, 1]);
  });

  test("a service is stopped, and stays so whoever asks", async () => {
    await using hall = new ServiceHall();
    const pid = await hall.pid();
    await over(hall.web.stop());
    expect([hall.web.state, isAlive(pid), hall.web.facts.pid]).toEqual(["held", false, undefined]);
    const error = await failureOf(hall.reach());
    expect([error.code, error.message, error.hints, error.outcome.status]).toEqual([
      ...["service-stopped", "web was stopped by hand", ["seikan services start web starts it again"], 503],
    ] as never);
    expect([hall.web.state, hall.project.journal.at(-1)]).toEqual(["held", `web term ${pid}`]);
    await over(hall.web.start());
    expect([hall.web.state, (await hall.pid()) === pid]).toEqual(["ready", false]);
  });

  test("a service is held that does not run at all", async () => {
    await using hall = new ServiceHall([{}, { name: "api", ...at(freePort()) }]);
    for (const service of hall.services.all) {
      await over(service.stop());
      expect([service.state, (await failureOf(hall.reach({}, service.settings.name))).code]).toEqual([
        ...["held", "service-stopped"],
      ] as never);
    }
  });

  test("a service is restarted, and started where it does not run or is held", async () => {
    await using hall = new ServiceHall();
    await over(hall.web.restart());
    const pid = expectOne(hall);
    await over(hall.web.restart());
    expect([isAlive(pid), hall.web.state, hall.web.facts.starts]).toEqual([false, "ready", 2]);
    await over(hall.web.stop());
    await over(hall.web.restart());
    expect([hall.web.state, hall.web.facts.starts]).toEqual(["ready", 3]);
  });

  test("a service that ignores SIGTERM is stopped after its time", async () => {
    await using hall = new ServiceHall([{ command: dev("--stubborn"), stopMs: 200 }]);
    const pid = await hall.pid();
    const began = performance.now();
    const stopped = hall.web.stop();
    await until(() => hall.web.state === "stopping", "it is being stopped");
    expect([hall.web.takesRequests, hall.web.facts.pid]).toEqual([false, undefined]);
    await over(stopped);
    expect(performance.now() - began).toBeGreaterThanOrEqual(200);
    expect([isAlive(pid), hall.web.state]).toEqual([false, "held"]);
    expect(hall.log.lines.filter((line) => !line.startsWith("info"))).toEqual([]);
  });

  test("a start that fails is told", async () => {
    await using hall = new ServiceHall([{ command: dev("--exit", "9") }]);
    expect((await failureOf(hall.web.start())).message).toBe("web ended before it was ready: exit code 9");
    expect((await failureOf(hall.web.restart())).message).toBe("web ended before it was ready: exit code 9");
  });

  test("nothing is there any more of what a command started", async () => {
    await using hall = new ServiceHall([{ command: `sleep 1000 & setsid sleep 1000 & ${devLine()}; true` }]);
    await hall.pid();
    expect(hall.project.processes.length).toBeGreaterThanOrEqual(4);
    await over(hall.web.stop());
    expect(hall.project.processes).toEqual([]);
  });
});

describe("a stop during a start", () => {
  test("ends it, and tells whoever waits", async () => {
    await using hall = new ServiceHall([{ command: dev("--deaf") }]);
    const requests = [hall.reach(), hall.web.start()].map(failureOf);
    const pid = await hall.project.happens("web", "start");
    await over(hall.web.stop());
    expect([isAlive(pid), hall.web.state]).toEqual([false, "held"]);
    expect((await Promise.all(requests)).map(({ message }) => message)).toEqual([
      ...["web was stopped by hand", "web was stopped by hand"],
    ]);
    expect([hall.web.facts.starts, hall.web.facts.error]).toEqual([1, undefined]);
  });

  test("comes before the command where it comes at once", async () => {
    await using hall = new ServiceHall();
    const request = failureOf(hall.reach());
    const stopped = hall.web.stop();
    await over(stopped);
    expect((await request).code).toBe("service-stopped");
    expect(hall.web.state).toBe("held");
    await hall.project.isEmpty();
  });

  test("is taken back by another start", async () => {
    await using hall = new ServiceHall([{ command: dev("--gate", "gate") }]);
    const request = hall.pid();
    const first = await hall.project.happens("web", "start");
    const stopped = hall.web.stop();
    const started = hall.web.start();
    await over(stopped);
    hall.project.write("gate", "");
    await over(started);
    const second = hall.project.pids("web")[1]!;
    expect([await request, isAlive(first), isAlive(second), hall.web.state]).toEqual([second, false, true, "ready"]);
  });
});

describe("a start during a stop", () => {
  const STUBBORN = { command: dev("--stubborn"), stopMs: 300 };

  test("waits until the one before has gone", async () => {
    await using hall = new ServiceHall([{ ...STUBBORN, ...at(freePort()) }]);
    const first = await hall.pid();
    const stopped = hall.web.stop();
    await hall.project.happens("web", "term");
    const [started, request] = [hall.web.start(), hall.pid()];
    expect(hall.web.state).toBe("starting");
    const second = await hall.project.happens("web", "start", 2);
    expect(isAlive(first)).toBe(false);
    await over(Promise.all([stopped, started]));
    expect([await request, hall.web.state, hall.web.facts.starts]).toEqual([second, "ready", 2]);
  });

  test("is taken back by another stop", async () => {
    await using hall = new ServiceHall([STUBBORN]);
    const first = await hall.pid();
    const stops = [hall.web.stop()];
    const started = failureOf(hall.web.start());
    stops.push(hall.web.stop());
    await over(Promise.all(stops));
    expect((await started).message).toBe("web was stopped by hand");
    await until(() => hall.web.state === "held", "it is held");
    expect([isAlive(first), hall.web.facts.starts, hall.project.processes]).toEqual([false, 1, []]);
  });

  test("and another stop that comes together with it end in a stopped service, whichever port it has", async () => {
    await using hall = new ServiceHall([{ ...STUBBORN, ...at(freePort()) }]);
    const first = await hall.pid();
    await over(Promise.all([hall.web.stop(), hall.web.stop(), hall.web.stop()]));
    expect([isAlive(first), hall.web.state]).toEqual([false, "held"]);
  });

  test("is not made by requests that come during a restart: they wait for the new one", async () => {
    await using hall = new ServiceHall([STUBBORN]);
    const first = await hall.pid();
    const restarted = hall.web.restart();
    await hall.project.happens("web", "term");
    const requests = [hall.pid(), hall.pid()];
    await over(restarted);
    const second = hall.project.pids("web")[1]!;
    expect([await Promise.all(requests), isAlive(first), hall.web.facts.starts]).toEqual([[second, second], false, 2]);
  });

  test("is one for several restarts at once, or one after the other, and never two at a time", async () => {
    await using hall = new ServiceHall([at(freePort())]);
    await hall.pid();
    await over(Promise.all([hall.web.restart(), hall.web.restart(), hall.web.restart()]));
    expect(hall.web.state).toBe("ready");
    expect(hall.project.processes).toEqual([hall.web.facts.pid!]);
    expect(await hall.pid()).toBe(hall.web.facts.pid!);
  });
});

describe("a start and a stop at the same moment", () => {
  test("end as the later one wants it, which is the stop", async () => {
    await using hall = new ServiceHall([at(freePort())]);
    const started = failureOf(hall.web.start());
    await over(hall.web.stop());
    expect((await started).message).toBe("web was stopped by hand");
    await until(() => hall.web.state === "held", "it is held");
    await hall.project.isEmpty();
  });

  test("end as the later one wants it, which is the start", async () => {
    await using hall = new ServiceHall([at(freePort())]);
    const stopped = hall.web.stop();
    await over(hall.web.start());
    await over(stopped);
    expect([hall.web.state, await hall.pid()]).toEqual(["ready", expectOne(hall)]);
  });
});

describe("a change", () => {
  test("that is none leaves the process alone", async () => {
    await using hall = new ServiceHall();
    const pid = await hall.pid();
    hall.change({ idleMs: 60_000, readyMs: 1000, stopMs: 1234, restarts: false, usualMs: 5 });
    expect([hall.web.state, await hall.pid(), hall.web.settings.stopMs]).toEqual(["ready", pid, 1234]);
    expect(expectOne(hall)).toBe(pid);
  });

  test("of what does not run counts from the next start on", async () => {
    await using hall = new ServiceHall([{ command: dev("--exit", "1") }]);
    const port = freePort();
    hall.change({ command: dev(), ...at(port) });
    expect([hall.web.state, hall.web.port]).toEqual(["stopped", port]);
    expect(await hall.pid()).toBe(expectOne(hall));
  });

  test("stops a server that nobody uses, and the next request gets the new one", async () => {
    await using hall = new ServiceHall([{ env: { VERSION: "1" } }]);
    const first = await hall.pid();
    hall.change({ env: { VERSION: "2" } });
    expect([hall.web.state, hall.web.takesRequests, hall.web.facts.pid]).toEqual(["stopping", false, undefined]);
    const told = JSON.parse(await hall.ask("/env")) as { VERSION: string };
    expect([told.VERSION, isAlive(first), hall.web.facts.starts]).toEqual(["2", false, 2]);
    expect(hall.log.count("info web was changed: the one that runs is stopped")).toBe(1);
  });

  test("stops a server and starts nothing before somebody asks", async () => {
    await using hall = new ServiceHall();
    const first = await hall.pid();
    hall.change({ env: { VERSION: "2" } });
    await until(() => hall.web.state === "stopped", "it has stopped");
    expect([isAlive(first), hall.web.facts.starts, hall.project.processes]).toEqual([false, 1, []]);
  });

  test("lets the requests it has be answered first, and new ones wait for the new server", async () => {
    await using hall = new ServiceHall();
    const first = await hall.pid();
    const end = hall.web.use();
    const held = hall.ask("/held?gate=gate");
    await hall.project.happens("web", "held");
    hall.change({ env: { VERSION: "2" } });
    const next = hall.ask("/env");
    await until(() => hall.web.facts.waiting === 1, "the next one waits");
    hall.project.write("gate", "");
    expect(await held).toBe(`web ${first}`);
    expect(hall.project.pids("web", "term")).toEqual([]);
    end();
    expect(JSON.parse(await next)).toMatchObject({ VERSION: "2" });
    expect([hall.project.pids("web", "term"), isAlive(first)]).toEqual([[first], false]);
  });

  test("does not wait for WebSockets", async () => {
    await using hall = new ServiceHall();
    const first = await hall.pid();
    const end = hall.web.use(true);
    hall.change({ env: { VERSION: "2" } });
    await isGone(first);
    await until(() => hall.web.state === "stopped", "it has stopped");
    expect(hall.web.facts.open).toBe(1);
    end();
    expect(hall.web.facts.open).toBe(0);
  });

  test("waits ten seconds at most", async () => {
    using clock = new MovedClock();
    await using hall = new ServiceHall();
    const first = await hall.pid();
    const end = hall.web.use();
    hall.change({ env: { VERSION: "2" } });
    clock.forward(9000);
    const next = hall.pid();
    await until(() => hall.web.facts.waiting === 1, "the next one waits");
    expect([isAlive(first), hall.web.facts.starts]).toEqual([true, 1]);
    clock.forward(1000);
    expect(await next).toBe(hall.project.pids("web")[1]!);
    expect(isAlive(first)).toBe(false);
    end();
  });

  test("during a start ends that, and whoever waits gets the new server", async () => {
    await using hall = new ServiceHall([{ command: dev("--deaf"), ...at(freePort()) }]);
    const requests = [hall.pid(), hall.pid()];
    const started = hall.web.start();
    const first = await hall.project.happens("web", "start");
    hall.change({ command: dev() });
    const pids = await Promise.all(requests);
    await over(started);
    const second = hall.project.pids("web")[1]!;
    expect([pids, isAlive(first), hall.web.facts.starts, hall.web.state]).toEqual([
      [second, second],
      false,
      2,
      "ready",
    ]);
    expect(hall.log.lines.filter((line) => line.startsWith("error"))).toEqual([]);
  });

  test("twice during a start leads to the last one", async () => {
    await using hall = new ServiceHall([{ command: dev("--deaf") }]);
    const request = hall.ask("/env");
    await hall.project.happens("web", "start");
    hall.change({ command: dev("--deaf"), env: { VERSION: "2" } });
    await hall.project.happens("web", "start", 2);
    hall.change({ command: dev(), env: { VERSION: "3" } });
    expect(JSON.parse(await request)).toMatchObject({ VERSION: "3" });
    await over(hall.web.stop());
    await hall.project.isEmpty();
  });

  test("during a stop counts for what comes behind it", async () => {
    await using hall = new ServiceHall([{ command: dev("--stubborn"), stopMs: 300 }]);
    const first = await hall.pid();
    const restarted = hall.web.restart();
    await hall.project.happens("web", "term");
    hall.change({ command: dev(), env: { VERSION: "2" } });
    await over(restarted);
    expect(JSON.parse(await hall.ask("/env"))).toMatchObject({ VERSION: "2" });
    expect([isAlive(first), hall.web.facts.starts]).toEqual([false, 2]);
  });

  test("leaves a held service held", async () => {
    await using hall = new ServiceHall();
    await over(hall.web.stop());
    hall.change({ env: { VERSION: "2" } });
    expect([hall.web.state, (await failureOf(hall.reach())).code]).toEqual(["held", "service-stopped"]);
  });

  test("that takes the command away stops the server, and refuses", async () => {
    const port = freePort();
    await using hall = new ServiceHall([at(port)]);
    const first = await hall.pid();
    hall.change({ command: undefined });
    await isGone(first);
    await until(() => hall.web.state === "stopped", "it has stopped");
    expect((await failureOf(hall.reach())).code).toBe("connect-refused");
  });

  test("that takes the command away during a start tells whoever waits in words", async () => {
    await using hall = new ServiceHall([{ command: dev("--deaf"), ...at(freePort()) }]);
    const request = failureOf(hall.reach());
    await hall.project.happens("web", "start");
    hall.change({ command: undefined });
    expect((await request).message).not.toMatch(/undefined|evaluating|null/);
  });
});

describe("an end for good", () => {
  test("waits for open requests", async () => {
    await using hall = new ServiceHall();
    const pid = await hall.pid();
    const end = hall.web.use();
    const held = hall.ask("/held?gate=gate");
    await hall.project.happens("web", "held");
    const drained = hall.web.drain(30_000);
    hall.project.write("gate", "");
    expect([await held, hall.web.state, hall.project.pids("web", "term")]).toEqual([`web ${pid}`, "ready", []]);
    end();
    await over(drained);
    expect([isAlive(pid), hall.web.state]).toEqual([false, "stopped"]);
    const error = await failureOf(hall.reach());
    expect([error.code, error.message]).toEqual(["shutdown", "web is not served any more"]);
    expect((await failureOf(hall.web.start())).code).toBe("shutdown");
  });

  test("does not wait for WebSockets", async () => {
    await using hall = new ServiceHall();
    const pid = await hall.pid();
    hall.web.use(true);
    await over(hall.web.drain(30_000));
    expect(isAlive(pid)).toBe(false);
  });

  test("does not wait for longer than it shall", async () => {
    await using hall = new ServiceHall();
    const pid = await hall.pid();
    hall.web.use();
    const began = performance.now();
    await over(hall.web.drain(200));
    expect(performance.now() - began).toBeGreaterThanOrEqual(200);
    expect(isAlive(pid)).toBe(false);
  });

  test("ends a start, and tells whoever waits", async () => {
    await using hall = new ServiceHall([{ command: dev("--deaf") }]);
    const request = failureOf(hall.reach());
    const pid = await hall.project.happens("web", "start");
    await over(hall.web.drain(30_000));
    expect([isAlive(pid), (await request).code]).toEqual([false, "shutdown"]);
  });

  test("tells the same to those who wait for what the service needs", async () => {
    await using hall = new ServiceHall([{ dependsOn: ["db"] }, { name: "db", command: dev("--gate", "gate") }]);
    const request = failureOf(hall.reach());
    await hall.project.happens("db", "start");
    await over(hall.web.close());
    hall.project.write("gate", "");
    expect((await request).code).toBe("shutdown");
  });

  test("of all services ends each, those that were taken away before, too", async () => {
    await using hall = new ServiceHall([{}, { name: "api" }]);
    const pids = await Promise.all([hall.pid(), hall.pid({}, "api")]);
    hall.web.use();
    hall.services.update([hall.service("api").settings], 60_000);
    expect([hall.services.all.map(({ settings }) => settings.name), hall.services.find("web")]).toEqual([
      ["api"],
      undefined,
    ]);
    expect(pids.map(isAlive)).toEqual([true, true]);
    await over(hall.services.drain(100));
    await hall.project.isEmpty();
  });

  test("of a service that was taken away lets its requests be answered", async () => {
    await using hall = new ServiceHall([{}, { name: "api" }]);
    const { web } = hall;
    const pid = await hall.pid();
    const end = web.use();
    hall.services.update([hall.service("api").settings, hall.settings({ name: "new" })], 60_000);
    expect(hall.services.all.map(({ settings }) => settings.name)).toEqual(["api", "new"]);
    expect([isAlive(pid), hall.services.find("web")]).toEqual([true, undefined]);
    end();
    await isGone(pid);
    expect(await hall.pid({}, "new")).toBe(expectOne(hall, "new"));
  });
});

describe("a service that is taken away and comes back", () => {
  const STUBBORN = { command: dev("--stubborn"), stopMs: 400 };

  for (const name of ["web", "renamed"]) {
    test(`${name === "web" ? "" : "under another name "}waits until the one before has gone`, async () => {
      await using hall = new ServiceHall([{ ...STUBBORN, ...at(freePort()) }]);
      const { settings } = hall.web;
      const first = await hall.pid();
      hall.services.update([]);
      await hall.project.happens("web", "term");
      hall.services.update([{ ...settings, name }]);
      const second = await hall.pid({}, name);
      expect([second === first, isAlive(first), isAlive(second)]).toEqual([false, false, true]);
    });
  }

  test("has a process of its own, on a port of its own", async () => {
    await using hall = new ServiceHall([STUBBORN]);
    const { settings } = hall.web;
    const first = await hall.pid();
    hall.services.update([]);
    await hall.project.happens("web", "term");
    hall.services.update([settings]);
    expect(await hall.pid()).toBe(hall.project.pids("web")[1]!);
    await isGone(first);
  });
});

describe("a kill", () => {
  test("ends a server at once that ignores SIGTERM", async () => {
    await using hall = new ServiceHall([{ command: `sleep 1000 & ${devLine("--stubborn")}` }]);
    await hall.pid();
    hall.web.kill();
    await hall.project.isEmpty();
    await until(() => hall.web.facts.pid === undefined, "it is seen");
    expect((await failureOf(hall.reach())).code).toBe("shutdown");
  });

  test("ends a start", async () => {
    await using hall = new ServiceHall([{ command: dev("--deaf", "--stubborn") }]);
    const request = failureOf(hall.reach());
    await hall.project.happens("web", "start");
    hall.web.kill();
    await hall.project.isEmpty();
    expect((await request).message).toMatch(/^web (is not served any more|ended before it was ready: .*)$/);
  });

  test("ends a start that waits for what it needs", async () => {
    await using hall = new ServiceHall([{ dependsOn: ["db"] }, { name: "db", command: dev("--gate", "gate") }]);
    const request = failureOf(hall.reach());
    await hall.project.happens("db", "start");
    hall.web.kill();
    hall.project.write("gate", "");
    await request;
    await until(() => hall.web.state === "stopped", "it is over");
    expect([hall.project.pids("web"), hall.service("db").facts.open]).toEqual([[], 0]);
  });

  test("ends what is being stopped", async () => {
    await using hall = new ServiceHall([{ command: dev("--stubborn"), stopMs: 60_000 }]);
    await hall.pid();
    void hall.web.stop();
    await hall.project.happens("web", "term");
    hall.services.kill();
    await hall.project.isEmpty(500);
  });

  test("ends what was taken away and is being stopped", async () => {
    await using hall = new ServiceHall([{ command: dev("--stubborn"), stopMs: 60_000 }]);
    await hall.pid();
    hall.services.update([]);
    await hall.project.happens("web", "term");
    hall.services.kill();
    await hall.project.isEmpty(500);
  });
});

describe("services that others need", () => {
  const WEB = { dependsOn: ["db"] };

  test("are ready first, and are not started twice", async () => {
    await using hall = new ServiceHall([WEB, { name: "db", command: dev("--gate", "gate") }]);
    const requests = [hall.pid(), hall.pid({}, "db")];
    await hall.project.happens("db", "start");
    expect([hall.web.state, hall.project.pids("web")]).toEqual(["starting", []]);
    hall.project.write("gate", "");
    const [web, db] = (await Promise.all(requests)) as [number, number];
    expect(hall.project.journal).toEqual([
      `db start ${db}`,
      `db listen ${db}`,
      `web start ${web}`,
      `web listen ${web}`,
    ]);
  });

  test("are in use as long as those that need them run", async () => {
    await using hall = new ServiceHall([WEB, { name: "db" }]);
    await hall.pid();
    expect(hall.service("db").facts.open).toBe(1);
    await over(hall.web.restart());
    expect(hall.service("db").facts.open).toBe(1);
    await over(hall.web.stop());
    expect([hall.service("db").facts.open, hall.service("db").state]).toEqual([0, "ready"]);
  });

  test("are in use no more where those that need them fail", async () => {
    await using hall = new ServiceHall([{ ...WEB, command: ["./no-such-command"] }, { name: "db" }]);
    expect((await failureOf(hall.reach())).message).toBe("web cannot be started: no such command: ./no-such-command");
    hall.change({ command: dev("--exit", "1") });
    expect((await failureOf(hall.reach())).message).toBe("web ended before it was ready: exit code 1");
    expect([hall.service("db").facts.open, hall.service("db").state]).toEqual([0, "ready"]);
  });

  test("are started once for several, and all of them", async () => {
    const needs = (name: string, ...dependsOn: string[]) => ({ name, dependsOn });
    await using hall = new ServiceHall([needs("web", "a", "b"), needs("a", "db"), needs("b", "db"), needs("db")]);
    await hall.pid();
    for (const name of ["web", "a", "b", "db"]) expectOne(hall, name);
    const order = hall.project.journal.filter((line) => line.includes(" listen ")).map((line) => line.split(" ")[0]!);
    expect([order[0], order.slice(1, 3).toSorted(), order[3]]).toEqual(["db", ["a", "b"], "web"]);
    expect(hall.service("db").facts.open).toBe(2);
  });

  test("that fail are told, and nothing is started for them", async () => {
    await using hall = new ServiceHall([WEB, { name: "db", command: dev("--say", "no disk", "--exit", "5") }]);
    const error = await failureOf(hall.reach());
    expect([error.code, error.message]).toEqual([
      ...["service-failed", "web needs another service: db ended before it was ready: exit code 5"],
    ] as never);
    expect(error.evidence).toMatchObject({ facts: { exitCode: 5 }, output: ["no disk"] } as never);
    await until(() => hall.service("db").state === "failed", "db has failed");
    expect([hall.project.pids("web"), hall.web.state]).toEqual([[], "stopped"]);
    expect(hall.service("db").facts.open).toBe(0);
    // It is the other one that is remembered.
    expect((await failureOf(hall.reach())).hints[0]).toContain("seikan services start db starts it now");
  });

  test("that are held are told", async () => {
    await using hall = new ServiceHall([WEB, { name: "db" }]);
    await over(hall.service("db").stop());
    const error = await failureOf(hall.reach());
    expect([error.code, error.message, error.hints]).toEqual([
      ...["service-stopped", "web needs another service: db was stopped by hand"],
      ["seikan services start db starts it again"],
    ] as never);
  });

  test("may be servers that somebody else started", async () => {
    const port = freePort();
    await using hall = new ServiceHall([WEB, { name: "db", ...at(port), command: undefined }]);
    const error = await failureOf(hall.reach());
    expect(error.message).toBe(`web needs another service: connection refused by 127.0.0.1:${port}`);
    await using _ = external(port);
    expect(await hall.pid()).toBe(expectOne(hall));
  });

  test("are waited for in vain where the service is stopped meanwhile", async () => {
    await using hall = new ServiceHall([WEB, { name: "db", command: dev("--gate", "gate") }]);
    const request = failureOf(hall.reach());
    await hall.project.happens("db", "start");
    await over(hall.web.stop());
    hall.project.write("gate", "");
    expect((await request).message).toBe("web was stopped by hand");
    await until(() => hall.web.state === "held", "it is held");
    expect([hall.project.pids("web"), hall.service("db").facts.open]).toEqual([[], 0]);
  });
});

// These wait for a second to pass: together it is one.
describe.concurrent("a service does not come back by itself", () => {
  test("that never was up", async () => {
    await using hall = new ServiceHall([{ command: dev("--exit", "1") }, { name: "other" }]);
    await failureOf(hall.reach());
    // Something that was up, and crashed after the other one failed, comes back.
    await hall.ask("/exit?code=1", {}, "other");
    await hall.project.happens("other", "listen", 2);
    expect([hall.web.facts.starts, hall.web.state]).toEqual([1, "failed"]);
  });

  test("that somebody stopped", async () => {
    await using hall = new ServiceHall([{}, { name: "other" }]);
    await Promise.all([hall.pid(), hall.pid({}, "other")]);
    await hall.ask("/exit?code=1");
    await until(() => hall.web.state === "failed", "it is seen");
    await over(hall.web.stop());
    expect(hall.web.state).toBe("held");
    // One that crashed later has come back by then.
    await hall.ask("/exit?code=1", {}, "other");
    await hall.project.happens("other", "listen", 2);
    expect([hall.web.state, hall.web.facts.starts]).toEqual(["held", 1]);
  });

  test("that is closed", async () => {
    await using hall = new ServiceHall([{}, { name: "other" }]);
    await Promise.all([hall.pid(), hall.pid({}, "other")]);
    await hall.ask("/exit?code=1");
    await until(() => hall.web.state === "failed", "it is seen");
    await over(hall.web.close());
    await hall.ask("/exit?code=1", {}, "other");
    await hall.project.happens("other", "listen", 2);
    expect(hall.web.facts.starts).toBe(1);
  });
});

/** Stopped by the same tick as everything else that nobody uses. */
const WITNESS = { name: "witness", idleMs: 1 };

describe.concurrent("a service that nobody uses", () => {
  test("is stopped after its time, and started by the next request", async () => {
    await using hall = new ServiceHall([{ idleMs: 1 }]);
    const pid = await hall.pid();
    await until(() => hall.web.state === "stopped", "it is stopped");
    expect([isAlive(pid), hall.log.count("info web is stopped: nobody used it for 0.001 s")]).toEqual([false, 1]);
    expect([await hall.pid(), hall.web.facts.starts]).toEqual([hall.project.pids("web")[1]!, 2]);
  });

  test("is stopped though it never was used after its start", async () => {
    await using hall = new ServiceHall([{ idleMs: 1 }]);
    await over(hall.web.start());
    await until(() => hall.web.state === "stopped", "it is stopped");
  });

  for (const [what, isUpgraded] of [
    ["a request", false],
    ["a WebSocket", true],
  ] as const) {
    test(`is none that has ${what} open, however long`, async () => {
      await using hall = new ServiceHall([{ idleMs: 1 }, WITNESS]);
      const pid = await hall.pid();
      const end = hall.web.use(isUpgraded);
      await hall.pid({}, "witness");
      await until(() => hall.service("witness").state === "stopped", "the witness is stopped");
      expect([hall.web.state, isAlive(pid)]).toEqual(["ready", true]);
      end();
      await until(() => hall.web.state === "stopped", "it is stopped, too");
    });
  }

  test("is none that runs for another one", async () => {
    await using hall = new ServiceHall([{ dependsOn: ["db"] }, { name: "db", idleMs: 1 }, WITNESS]);
    await Promise.all([hall.pid(), hall.pid({}, "witness")]);
    await until(() => hall.service("witness").state === "stopped", "the witness is stopped");
    expect(hall.service("db").state).toBe("ready");
    await over(hall.web.stop());
    await until(() => hall.service("db").state === "stopped", "it is stopped, too");
  });

  test("runs on where it shall, and where its time is not over", async () => {
    await using hall = new ServiceHall([{ idleMs: 0 }, { name: "api", idleMs: 60_000 }, WITNESS]);
    await Promise.all([hall.pid(), hall.pid({}, "api"), hall.pid({}, "witness")]);
    await until(() => hall.service("witness").state === "stopped", "the witness is stopped");
    expect([hall.web.state, hall.service("api").state]).toEqual(["ready", "ready"]);
  });

  test("is not stopped while it starts", async () => {
    await using hall = new ServiceHall([{ idleMs: 1, command: dev("--gate", "gate") }, WITNESS]);
    const started = hall.web.start();
    const pid = await hall.project.happens("web", "start");
    await hall.pid({}, "witness");
    await until(() => hall.service("witness").state === "stopped", "the witness is stopped");
    expect([hall.web.state, isAlive(pid)]).toEqual(["starting", true]);
    hall.project.write("gate", "");
    await over(started);
  });
});

describe("the time without use", () => {
  test("is counted from the last use", async () => {
    using clock = new MovedClock();
    await using hall = new ServiceHall([{ idleMs: 60_000 }, WITNESS]);
    await hall.pid();
    clock.forward(40_000);
    await hall.pid();
    clock.forward(40_000);
    await hall.pid({}, "witness");
    await until(() => hall.service("witness").state === "stopped", "the witness is stopped");
    expect(hall.web.state).toBe("ready");
    clock.forward(20_000);
    await until(() => hall.web.state === "stopped", "it is stopped");
  });
});

describe("the ledger", () => {
  test("knows of a launch as long as it lasts", async () => {
    await using hall = new ServiceHall();
    const ledger = new LaunchLedger(hall.project.path);
    await using kept = new ServiceHall([{}], ledger);
    const names = () => [...new Bun.Glob("launches/*.json").scanSync(hall.project.path)];
    const pid = await kept.pid();
    const [name] = names();
    expect(JSON.parse(readFileSync(join(hall.project.path, name!), "utf8"))).toMatchObject({ name: "web", pid });
    expect([await ledger.cleanUp(), isAlive(pid)]).toEqual([[], true]);
    await over(kept.web.stop());
    expect(names()).toEqual([]);
    await over(kept.web.start());
    expect(names()).toHaveLength(1);
    kept.web.kill();
    expect(names()).toEqual([]);
  });

  test("that cannot be written to leaves nothing running that nobody knows", async () => {
    await using hall = new ServiceHall();
    const broken = new LaunchLedger(hall.project.write("file", ""));
    await using kept = new ServiceHall([{ command: dev("--deaf") }], broken);
    await failureOf(kept.web.start());
    // Whatever began before this one can be seen by now.
    await hall.pid();
    await kept.project.isEmpty(500);
  });
});
