import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { eventsOf, startAgent } from "../support/agents.ts";
import { certificateFor } from "../support/certificates.ts";
import { Chromium } from "../support/chromium.ts";
import { nginxPasses, startNginx, type ForeignProxy } from "../support/foreign.ts";
import { gitServer } from "../support/origins.ts";
import { hasPostgres, startPostgres } from "../support/postgres.ts";
import { TempFolder } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { RawServer } from "../support/raw.ts";
import { runProgram, startSeikan, type Running } from "../support/seikan.ts";
import { dnsResponder } from "../support/udp.ts";
import { pattern, until, within } from "../support/wait.ts";
import { switchingTo } from "../support/websocket-client.ts";

setDefaultTimeout(120_000);

const MB = 1024 * 1024;
const TOKEN = "the-token-of-agents";
const EVENTS = 5;

// --- a local service ------------------------------------------------------------------

/** Shows that each event came before the next one was sent, echoes over a WebSocket, and reports what it saw. */
const PAGE = `<!doctype html><title>page</title><p>page</p>
<script>
  const seen = [];
  const source = new EventSource("/events/page");
  const streamed = new Promise((resolve, reject) => {
    source.onerror = () => reject(new Error("the events failed behind " + seen));
    source.onmessage = ({ data }) => {
      seen.push(data);
      if (seen.length < ${EVENTS}) return fetch("/seen/page", { method: "POST" });
      source.close();
      resolve(seen.join(" "));
    };
  });
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
  socket.onopen = () => socket.send("hello " + "y".repeat(100000));
  const echoed = new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) => resolve(data.slice(0, 8) + " " + data.length);
    socket.onerror = () => reject(new Error("the WebSocket failed"));
  });
  const posted = fetch("/length", { method: "POST", body: "x".repeat(300000) }).then((answer) => answer.text());
  Promise.all([streamed, echoed, posted]).then(
    (all) => report(all.join(", ")),
    (error) => report("failed: " + error.message),
  );
</script>`;
const SHOWN = "1 2 3 4 5, hello yy 100006, 300000";

/** Its event streams send one event, and the next one when the last was seen. */
function webServer() {
  const streams = new Map<string, () => void>();
  const server = Bun.serve({
    ...{ port: 0, hostname: "127.0.0.1", idleTimeout: 60, maxRequestBodySize: 100 * MB },
    async fetch(request, serving) {
      const [, what, name = ""] = new URL(request.url).pathname.split("/");
      switch (what) {
        case "":
          return new Response(PAGE, { headers: { "Content-Type": "text/html" } });
        case "events":
          return new Response(events(name), { headers: { "Content-Type": "text/event-stream" } });
        case "seen":
          streams.get(name)?.();
          return new Response("noted");
        case "socket":
          return serving.upgrade(request) ? undefined : new Response("no", { status: 400 });
        case "length":
          return new Response(String((await request.text()).length));
        case "sum":
          return new Response(await sumOf(request.body!));
        case "bytes":
          return new Response(pattern(Number(name), 7));
        case "fields":
          return Response.json([...request.headers]);
        default:
          return new Response("no", { status: 404 });
      }
    },
    websocket: { message: (socket, message) => void socket.send(message) },
  });
  const events = (name: string) =>
    new ReadableStream({
      start(controller) {
        let count = 0;
        const next = () => {
          controller.enqueue(`data: ${++count}\n\n`);
          if (count === EVENTS) controller.close();
        };
        streams.set(name, next);
        next();
      },
    });
  return server;
}

async function sumOf(body: ReadableStream<Uint8Array>): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of body) hasher.update(chunk);
  return hasher.digest("hex");
}

const sha256 = (bytes: Uint8Array) => new Bun.CryptoHasher("sha256").update(bytes).digest("hex");

let web: ReturnType<typeof webServer>;
beforeAll(() => {
  web = webServer();
});
afterAll(() => web.stop(true));

const upstream = () => `web=http://127.0.0.1:${web.port}`;
const portOf = (url: string) => Number(new URL(url).port);

// --- straight through serve and agent ---------------------------------------------------------

describe("through serve and agent", () => {
  let server: Running;
  beforeAll(async () => {
    server = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--access-log", "off"],
      ...["--allow-bind", "20000-60000"],
    ]);
  });
  afterAll(() => server[Symbol.asyncDispose]());

  test.skipIf(program("chromium") === undefined)("Chromium: a page, server-sent events and a WebSocket", async () => {
    await using agent = await startAgent(server, "--name", "browser", "-e", upstream());
    await using browser = await Chromium.start();
    expect(await browser.visit(`${agent.urls[0]}/`)).toBe(SHOWN);
  });

  test.skipIf(program("git") === undefined)("git clones and pushes", async () => {
    using folder = new TempFolder();
    const git = gitIn(folder);
    mkdirSync(folder.file("served/r.git"), { recursive: true });
    await git("served/r.git", "init", "-q", "--bare");
    await git("served/r.git", "config", "http.receivepack", "true");
    const origin = gitServer(folder.file("served"));
    try {
      await using agent = await startAgent(server, "--name", "git", "-e", `git=http://127.0.0.1:${origin.port}`);
      const url = `${agent.urls[0]}/r.git`;
      await git(".", "clone", "-q", url, "work");
      // More than git sends in one piece: the push is chunked.
      const big = pattern(3 * MB, 71);
      writeFileSync(folder.file("work/big"), big);
      await git("work", "add", ".");
      await git("work", "commit", "-q", "-m", "one");
      await git("work", "push", "-q", "origin", "HEAD:main");
      await git(".", "clone", "-q", url, "again");
      expect(sha256(await Bun.file(folder.file("again/big")).bytes())).toBe(sha256(big));
      writeFileSync(folder.file("again/small"), "two");
      await git("again", "add", ".");
      await git("again", "commit", "-q", "-m", "two");
      await git("again", "push", "-q", "origin", "HEAD:main");
      await git("work", "pull", "-q", "origin", "main");
      expect(await Bun.file(folder.file("work/small")).text()).toBe("two");
    } finally {
      await origin.stop(true);
    }
  });

  test.skipIf(!hasPostgres())("psql over a TCP exposure", async () => {
    await using postgres = await startPostgres();
    await using agent = await startAgent(server, "--name", "db", "-e", `tcp:0=127.0.0.1:${postgres.port}`);
    const place = ["-h", "127.0.0.1", "-p", String(portOf(agent.urls[0]!)), "-U", "postgres", "-v", "ON_ERROR_STOP=1"];
    const psql = async (sql: string, stdin = "") => {
      const run = await runProgram([program("psql")!, ...place, "-X", "-q", "-A", "-t", "-c", sql], { stdin });
      if (run.code !== 0) throw new Error(`psql: ${run.stderr}`);
      return run.stdout;
    };
    const rows = Array.from({ length: 50_000 }, (_, index) => `${index}\t${"text".repeat(index % 50)}\n`).join("");
    await psql("create table t (id int primary key, words text)");
    await psql("copy t from stdin", rows);
    expect(await psql("select count(*), sum(id) from t")).toBe("50000|1249975000\n");
    expect(Bun.hash(await psql("copy (select * from t order by id) to stdout"))).toBe(Bun.hash(rows));
    // Many at once, each with a connection of its own.
    const sums = await Promise.all(Array.from({ length: 10 }, (_, n) => psql(`select sum(id) + ${n} from t`)));
    expect(sums).toEqual(sums.map((_, n) => `${1249975000 + n}\n`));
  });

  test.skipIf(program("dig") === undefined)("dig over a UDP exposure", async () => {
    using dns = await dnsResponder("192.0.2.77");
    await using agent = await startAgent(server, "--name", "dns", "-e", `udp:0=127.0.0.1:${dns.port}`);
    const port = portOf(agent.urls[0]!);
    // dig shares its ports (SO_REUSEPORT): two at once may get the same, and each other's answers. Addresses differ.
    const ask = (n: number) => {
      const how = ["-b", `127.0.0.${n + 2}`, "+short", "+tries=3", "+time=5"];
      return runProgram(["dig", "@127.0.0.1", "-p", String(port), ...how, `host${n}.example.org`, "A"]);
    };
    const answers = await Promise.all(Array.from({ length: 10 }, (_, n) => ask(n)));
    expect(answers).toEqual(answers.map(() => ({ code: 0, stdout: "192.0.2.77\n", stderr: "" })));
    expect(new Set(dns.received.map(({ port: from }) => from)).size).toBeGreaterThanOrEqual(10);
  });
});

/** Runs git in folders below this one, as somebody without a configuration. */
function gitIn(folder: TempFolder): (place: string, ...args: string[]) => Promise<void> {
  const env = { HOME: folder.path, GIT_CONFIG_NOSYSTEM: "1", GIT_CONFIG_GLOBAL: "/dev/null", GIT_TERMINAL_PROMPT: "0" };
  const identity = ["-c", "user.name=Tester", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"];
  return async (place, ...args) => {
    const { code, stderr } = await runProgram(["git", ...identity, ...args], { cwd: folder.file(place), env });
    if (code !== 0) throw new Error(`git ${args.join(" ")}: ${stderr}`);
  };
}

// --- behind nginx -------------------------------------------------------------------------------

const certificate = certificateFor("tunnel.test", "*.tunnel.test", "127.0.0.1");

/** The lines of README.md for nginx in front of `serve`, with the names and places of this test. */
function documented(port: number): { readonly http: string; readonly server: string } {
  const blocks = readFileSync(join(import.meta.dir, "../../README.md"), "utf8").matchAll(/```nginx\n([\s\S]*?)```/g);
  const [, http, server] =
    [...blocks]
      .map(([, block]) => /^([\s\S]*?)server \{\n\s*listen 443 ssl;\n([\s\S]*)\}\s*$/.exec(block!))
      .find((match) => match?.[2]!.includes("server_name tunnel.example.com *.tunnel.example.com;")) ?? [];
  if (http === undefined || server === undefined) throw new Error("README.md has no nginx for tunnel.example.com");
  const here = server
    .replaceAll("tunnel.example.com", "tunnel.test")
    .replace("/etc/ssl/tunnel.pem", certificate.certFile)
    .replace("/etc/ssl/tunnel.key", certificate.keyFile)
    .replace("http://127.0.0.1:8080", `http://127.0.0.1:${port}`);
  return { http, server: here };
}

/** Nginx's own buffering in place of what README.md says about it. */
const withBuffering = (lines: string) => lines.replaceAll(/^\s*proxy_(request_)?buffering off;$/gm, "");

/** With time-outs as nginx has them by default, but for `lines`. */
function startFront(server: Running, edit: (lines: string) => string, ...lines: string[]): Promise<ForeignProxy> {
  const { http, server: block } = documented(server.port);
  return startNginx([edit(block), ...lines], { http: [http], listen: "ssl" });
}

function startServer(...args: string[]): Promise<Running> {
  const public_ = ["--domain", "https://tunnel.test", "--trusted-proxy", "127.0.0.1", "--agent-token", TOKEN];
  return startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "off", ...public_, ...args]);
}

/** The agent knows the server's name and its public port, and nothing of what is behind them. */
function startAgentThrough(front: ForeignProxy, ...args: string[]): Promise<Running> {
  const place = ["--resolve", `tunnel.test:${front.port}:127.0.0.1`, "--proxy-cacert", certificate.certFile];
  const options = ["agent", `wss://tunnel.test:${front.port}`, ...place, "-e", upstream(), ...args];
  return startSeikan(options, { SEIKAN_TOKEN: TOKEN });
}

const fetchThrough = (front: ForeignProxy, path: string, signal?: AbortSignal) =>
  fetch(`https://127.0.0.1:${front.port}${path}`, {
    headers: { Host: "web.tunnel.test" },
    tls: { ca: certificate.cert },
    ...(signal === undefined ? {} : { signal }),
  });

/** A WebSocket through nginx, open. */
async function openSocket(front: ForeignProxy, host: string, path: string): Promise<WebSocket> {
  const socket = new WebSocket(`wss://127.0.0.1:${front.port}${path}`, {
    headers: { Host: host },
    tls: { ca: certificate.cert },
  });
  const opened = Promise.withResolvers<void>();
  socket.onopen = () => opened.resolve();
  socket.onerror = () => opened.reject(new Error("the WebSocket failed"));
  await within(opened.promise, `the WebSocket at ${path}`);
  return socket;
}

const hasNginx = program("nginx") !== undefined && program("curl") !== undefined;

for (const [name, edit] of [
  ["as README.md has it", (lines: string) => lines],
  ["with its own buffering", withBuffering],
] as const) {
  describe.skipIf(!hasNginx)(`behind nginx, ${name}`, () => {
    let server: Running;
    let front: ForeignProxy;
    let agent: Running;
    let folder: TempFolder;
    beforeAll(async () => {
      folder = new TempFolder();
      server = await startServer();
      front = await startFront(server, edit);
      agent = await startAgentThrough(front);
    });
    afterAll(async () => {
      await agent[Symbol.asyncDispose]();
      await front[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
    });

    /** By the URL that the agent printed; curl is told where nginx is. */
    const curl = async (path: string, ...args: string[]) => {
      const place = ["--connect-to", `web.tunnel.test:443:127.0.0.1:${front.port}`, "--cacert", certificate.certFile];
      const run = await runProgram(["curl", "-sS", "--fail-with-body", ...place, ...args, `${agent.urls[0]}${path}`]);
      if (run.code !== 0) throw new Error(`curl ${path}: ${run.stderr}${run.stdout}`);
      return run.stdout;
    };

    /** The fields that the service gets for a visitor from 127.0.0.5. */
    const fieldsOf = async (claim: string) => {
      const text = await curl("/fields", "--interface", "127.0.0.5", "-H", claim);
      return Object.fromEntries(JSON.parse(text) as [string, string][]);
    };

    test("a request says who asks, and how", async () => {
      expect(agent.urls).toEqual(["https://web.tunnel.test"]);
      // What the visitor claims comes first, what nginx saw behind it.
      expect(await fieldsOf("X-Forwarded-For: 203.0.113.9")).toMatchObject({
        host: "web.tunnel.test",
        "x-forwarded-for": "203.0.113.9, 127.0.0.5, 127.0.0.1",
        "x-forwarded-proto": "https",
        "x-real-ip": "127.0.0.5",
      });
    });

    // Nginx passes on what a visitor claims there.
    test("the host that was asked for is not the visitor's to choose", async () => {
      expect(await fieldsOf("X-Forwarded-Host: evil.test")).toMatchObject({
        forwarded: "for=127.0.0.1;host=web.tunnel.test;proto=https",
        "x-forwarded-host": "web.tunnel.test",
      });
    });

    // Nginx gathers 16 KiB for each TLS record, unless it is told not to.
    test("server-sent events come one by one", async () => {
      const aborter = new AbortController();
      const read = async () => {
        const events = await fetchThrough(front, "/events/fetch", aborter.signal);
        const decoder = new TextDecoder();
        let text = "";
        for await (const chunk of events.body!) {
          text += decoder.decode(chunk, { stream: true });
          if (text.endsWith("\n\n") && !text.includes(`data: ${EVENTS}`)) await curl("/seen/fetch");
        }
        return text;
      };
      const reading = read();
      try {
        expect(await within(reading, "all events", 5000)).toBe(
          "data: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\ndata: 5\n\n",
        );
      } finally {
        aborter.abort();
        await reading.catch(() => {});
      }
    });

    test("a WebSocket echoes", async () => {
      const socket = await openSocket(front, "web.tunnel.test", "/socket");
      const echoes: string[] = [];
      socket.onmessage = ({ data }) => void echoes.push(String(data));
      const long = "x".repeat(MB);
      for (const text of ["one", long]) socket.send(text);
      await until(() => echoes.length === 2, "both are back");
      expect([echoes[0], echoes[1] === long]).toEqual(["one", true]);
      socket.close();
    });

    test("50 MB up and down", async () => {
      const bytes = pattern(50 * MB, 7);
      writeFileSync(folder.file("up"), bytes);
      expect(await curl("/sum", "-T", folder.file("up"))).toBe(sha256(bytes));
      await curl(`/bytes/${bytes.length}`, "-o", folder.file("down"));
      expect(sha256(await Bun.file(folder.file("down")).bytes())).toBe(sha256(bytes));
    });

    test.skipIf(program("chromium") === undefined)("Chromium: a page, server-sent events and a WebSocket", async () => {
      await using browser = await Chromium.start(`--host-resolver-rules=MAP *.tunnel.test:443 127.0.0.1:${front.port}`);
      expect(await browser.visit(`${agent.urls[0]}/`)).toBe(SHOWN);
    });
  });
}

test.skipIf(!hasNginx)("nginx's time-outs end what is idle, but no agent", async () => {
  using mute = new RawServer((socket) => {
    void socket.sees("\r\n\r\n").then(
      (head) => socket.send(switchingTo(head)),
      () => {},
    );
  });
  await using server = await startServer("--ping-interval", "1s");
  await using impatient = await startFront(
    server,
    (block) => block,
    ...["proxy_read_timeout 3s;", "proxy_send_timeout 3s;"],
    ...["location /mute {", ...nginxPasses(mute.port), "}"],
  );
  await using idle = await startAgentThrough(impatient, "--ping-interval", "1s");
  // What says nothing is ended, twice in a row; the agent has pings.
  for (let time = 0; time < 2; time++) {
    const silent = await openSocket(impatient, "tunnel.test", "/mute");
    const closed = Promise.withResolvers<void>();
    silent.onclose = () => closed.resolve();
    await within(closed.promise, "nginx ends what is idle", 20_000);
  }
  expect(eventsOf(idle, "disconnected")).toEqual([]);
  expect(idle.stderr()).not.toContain("was lost");
  expect(await (await fetchThrough(impatient, "/bytes/3")).bytes()).toEqual(new Uint8Array(pattern(3, 7)));
});
