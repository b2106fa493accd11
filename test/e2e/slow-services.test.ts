import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { symlinkSync } from "node:fs";
import { get } from "../support/agents.ts";
import { Chromium } from "../support/chromium.ts";
import { npmPackage, program } from "../support/programs.ts";
import { dialRaw } from "../support/raw.ts";
import {
  answers,
  asking,
  at,
  dev,
  isAlive,
  isGone,
  kill,
  logOf,
  passes,
  pidAt,
  Project,
  says,
} from "../support/services.ts";
import { until } from "../support/wait.ts";
import { RawWebSocket } from "../support/websocket-client.ts";

setDefaultTimeout(90_000);

// Development servers: what takes them seconds.

const vite = program("chromium") === undefined ? undefined : npmPackage("vite", "8.3.8");

describe("idle", () => {
  const stopped = (name: string) => `info ${name} is stopped: nobody used it for 1 s\n`;

  test.concurrent("stops what nobody used for so long, and the next request starts it again", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev(), idle: "1s" } });
    using client = await dialRaw(running.port);
    const ask = async () => {
      client.send(get("web.localhost", "/who"));
      return (await client.response()).body;
    };
    expect(await ask()).toBe(`web ${place.pids("web")[0]}`);
    const used = performance.now();
    await says(running, stopped("web"));
    expect(performance.now() - used).toBeGreaterThan(1000);
    expect(performance.now() - used).toBeLessThan(4000);
    await isGone(place.pids("web")[0]!);
    expect(place.pids("web", "term")).toHaveLength(1);
    // The connection of a visitor that asks for nothing is no use, and is not lost.
    expect(await ask()).toBe(`web ${place.pids("web")[1]}`);
    expect(await logOf(running)).not.toContain("crashed");
  });

  test.concurrent("counts from the last use on", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev(), idle: "1s" } });
    const end = performance.now() + 3500;
    while (performance.now() < end) await pidAt(running, "web");
    expect(place.pids("web")).toHaveLength(1);
    await says(running, stopped("web"));
  });

  test.concurrent("leaves alone what streams events, has a WebSocket, or takes its time", async () => {
    await using place = new Project();
    const service = { command: dev(), idle: "1s" };
    const running = await place.serve({ events: service, socket: service, slow: service, up: service, other: service });
    const gate = `gate=${place.gate("all")}`;
    using events = await asking(running, "events", `/events?${gate}`);
    await events.sees("data: one");
    using socket = await RawWebSocket.open(running.port, "/socket", { Host: "socket.localhost" });
    using slow = await asking(running, "slow", `/held?${gate}`);
    using up = await dialRaw(running.port);
    up.send("POST /sum HTTP/1.1\r\nHost: up.localhost\r\nContent-Length: 10\r\n\r\nhalf ");
    await pidAt(running, "other");
    await says(running, stopped("other"));
    await passes(2500);
    const log = await logOf(running);
    for (const name of ["events", "socket", "slow", "up"]) expect(log).not.toContain(stopped(name));
    place.open("all");
    up.send("whole");
    await events.sees("data: two");
    expect((await slow.response()).body).toBe(`slow ${place.pids("slow")[0]}`);
    expect(JSON.parse((await up.response()).body)).toMatchObject({ length: 10 });
    await socket.text("still here").sees("still here");
    socket.socket.end();
    for (const name of ["events", "socket", "slow", "up"]) await says(running, stopped(name));
    await place.isEmpty();
  });

  test.concurrent("does not end a start that takes longer", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--gate", place.gate("web")), idle: "1s" } });
    using client = await asking(running, "web");
    const pid = await place.happens("web", "start");
    await passes(2500);
    place.open("web");
    expect((await client.response()).body).toBe(`web ${pid}`);
  });

  test.concurrent("ends what others need after them", async () => {
    await using place = new Project();
    const running = await place.serve({
      web: { command: dev(), idle: "3s", depends_on: ["database"] },
      database: { command: dev(), idle: "1s" },
    });
    await pidAt(running, "web");
    await says(running, "info web is stopped: nobody used it for 3 s\n");
    expect(await logOf(running)).not.toContain(stopped("database"));
    await says(running, stopped("database"));
    await place.isEmpty();
    expect(place.journal.map((line) => line.split(" ").slice(0, 2).join(" ")).slice(-2)).toEqual([
      ...["web term", "database term"],
    ]);
  });
});

describe("a server that crashes", () => {
  test.concurrent(
    "at once is started with growing pauses, then not any more for a while, however often it is asked for",
    async () => {
      await using place = new Project();
      const running = await place.serve({ web: { command: dev("--exit", "1") } });
      const starts: number[] = [];
      let asked = 0;
      const isTripped = () => running.stderr().includes("pausing=30s");
      for (; !isTripped(); asked++) {
        expect((await at(running, "web")).status).toBe(502);
        await passes(20);
        while (starts.length < place.pids("web").length) starts.push(performance.now());
      }
      const pauses = starts.slice(1).map((moment, index) => moment - starts[index]!);
      expect(pauses).toHaveLength(4);
      for (const [index, pause] of pauses.entries()) {
        expect(pause).toBeGreaterThan(1000 * 2 ** index - 200);
        expect(pause).toBeLessThan(1000 * 2 ** index + 1500);
      }
      expect(asked).toBeGreaterThan(100);
      const { status, body } = await at(running, "web");
      expect([status, body.split("\n").at(-2)]).toEqual([
        502,
        "hint: it failed too often: the first request after 30 s starts it again; seikan services start web starts it now",
      ]);
      await passes(1500);
      expect(place.pids("web")).toHaveLength(5);
    },
  );

  test.concurrent("whenever it is ready is started again in the same way", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("--crash", "500") } });
    await pidAt(running, "web");
    await says(running, "pausing=30s", 1, 30_000);
    const pauses = [...(await logOf(running)).matchAll(/web crashed: exit code 1 code=service-failed (\S+)\n/g)];
    expect(pauses.map(([, pause]) => pause)).toEqual(["again=1s", "again=2s", "again=4s", "again=8s", "pausing=30s"]);
    await passes(1500);
    expect(place.pids("web")).toHaveLength(5);
    expect((await at(running, "web")).body).toContain("hint: it failed too often: the first request after 2");
  });
});

describe("a server that lives and does not listen any more", () => {
  test.concurrent("is started again for the next request", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev() } });
    const first = await pidAt(running, "web");
    await at(running, "web", `/close?gate=${place.gate("never")}`);
    await place.happens("web", "closed");
    const clients = await Promise.all(Array.from({ length: 5 }, () => asking(running, "web")));
    const second = await place.happens("web", "start", 2);
    for (const client of clients) {
      using _ = client;
      expect((await client.response()).body).toBe(`web ${second}`);
    }
    expect([isAlive(first), place.pids("web").length]).toEqual([false, 2]);
    expect(await logOf(running)).toContain("warn web runs and does not listen any more: it is started again\n");
  });
});

describe("what goes on without its first process", () => {
  test.concurrent("is noticed when it ends", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: `setsid -f ${dev().join(" ")}` } });
    kill(await pidAt(running, "web"), "SIGKILL");
    await says(running, "info web ended\n");
    expect((await answers(running, "web", 200)).body).toBe(`web ${place.pids("web")[1]}`);
  });
});

describe("a changed file", () => {
  test.concurrent("lets an answer that does not end go on for 10 s, then cuts it", async () => {
    await using place = new Project();
    const running = await place.serve({ web: { command: dev("one") } });
    using client = await asking(running, "web", `/events?gate=${place.gate("never")}`);
    await client.sees("data: one");
    const old = place.pids("web")[0]!;
    const changed = performance.now();
    await place.reconfigure(running, { web: { command: dev("two") } });
    using other = await asking(running, "web");
    await client.over(20_000);
    expect(performance.now() - changed).toBeGreaterThan(10_000);
    expect((await other.response()).body).toBe(`web ${place.pids("web")[1]}`);
    expect(isAlive(old)).toBe(false);
  });

  test.concurrent("changes what others need without a pause", async () => {
    await using place = new Project();
    const web = { command: dev(), depends_on: ["database"] };
    const running = await place.serve({ web, database: { command: dev("one") } });
    await pidAt(running, "web");
    await place.reconfigure(running, { web, database: { command: dev("two") } });
    await place.happens("database", "start", 2, 5000);
  });
});

const PAGE = `<!doctype html><title>page</title><script type="module" src="/main.js"></script><p id="text">nothing</p>`;
const styled = (color: string) => `#text { color: ${color} }\n`;
/** Says what is shown whenever that changes; the number tells this load of the page from another. */
const reporting = (text: string) => `import "./style.css";
const born = Math.random().toString(36).slice(2);
const element = document.getElementById("text");
element.textContent = ${JSON.stringify(text)};
let before = "";
const look = () => {
  const shown = element.textContent + "|" + getComputedStyle(element).color;
  if (shown !== before) report(shown + "|" + born);
  before = shown;
  requestAnimationFrame(look);
};
look();
`;

describe.skipIf(vite === undefined)("Vite", () => {
  test.concurrent(
    "is started by Chromium's visit, and what is edited shows in the page, without loading it again",
    async () => {
      await using place = new Project();
      place.write("app/index.html", PAGE);
      place.write("app/style.css", styled("rgb(255, 0, 0)"));
      place.write("app/main.js", reporting("first"));
      symlinkSync(vite!, place.file("app/node_modules"));
      const running = await place.serve({
        vite: { command: "vite --port {port} --host {host} --strictPort", cwd: "app" },
      });
      await using browser = await Chromium.start();
      const url = `http://vite.localhost:${running.port}/`;
      expect(await browser.visit(url)).toStartWith("first|rgb(255, 0, 0)|");
      // What is told before that is lost.
      await until(() => browser.webSockets.length === 1, "its WebSocket is open");
      expect(browser.webSockets[0]).toStartWith(url.replace("http", "ws"));
      const born = browser.reports[0]!.split("|")[2]!;
      place.write("app/style.css", styled("rgb(0, 128, 0)"));
      await until(() => browser.reports.length > 1, "the page shows the new style");
      expect(browser.reports[1]).toBe(`first|rgb(0, 128, 0)|${born}`);
      // A changed module without a handler loads the page again: that, too, is told over the WebSocket.
      place.write("app/main.js", reporting("second"));
      await until(() => browser.reports.length > 2, "the page shows the new script");
      expect(browser.reports[2]).toStartWith("second|rgb(0, 128, 0)|");
      expect(browser.reports[2]).not.toEndWith(born);
      expect((await logOf(running)).split("info starting vite")).toHaveLength(2);
      running.kill("SIGTERM");
      expect(await running.exited).toBe(0);
      expect(place.processes).toEqual([]);
    },
  );
});
