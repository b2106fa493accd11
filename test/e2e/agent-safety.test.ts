import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { hashOf } from "../../src/routes/agent-tokens.ts";
import { askControl } from "../../src/transports/control.ts";
import { parseHop } from "../../src/transports/chain.ts";
import { directDialer } from "../../src/transports/direct.ts";
import { ProxyCredentials } from "../../src/transports/proxy-credentials.ts";
import { dialSession } from "../../src/transports/tunnel.ts";
import { parseRegistered, REGISTER_PATH } from "../../src/wire/registration.ts";
import {
  eventsOf,
  eventually,
  get,
  lines,
  place,
  startAgent,
  statusOf,
  urlOf,
  visit,
  webServer,
  wsUrl,
} from "../support/agents.ts";
import { TempFolder } from "../support/process.ts";
import { dialRaw } from "../support/raw.ts";
import { startSeikan } from "../support/seikan.ts";
import { until } from "../support/wait.ts";
import { handClient } from "../support/wsp-hand.ts";

setDefaultTimeout(60_000);

// What somebody gains who asks for more than is his: nothing.

let web: ReturnType<typeof webServer>;
beforeAll(() => {
  web = webServer("the web");
});
afterAll(() => web.stop(true));

const serve = (...args: string[]) => startSeikan(["serve", "-l", "127.0.0.1:0", ...args]);

test("a tunnel to one of the server's sites carries nobody's login into it", async () => {
  await using server = await serve(
    "--auth",
    "alice:pw",
    "--agent-token",
    "t",
    "--domain",
    "t.test",
    "--allow-net=127.0.0.1",
  );
  await using _ = await startAgent(server, "--token", "t", "-e", `web=${urlOf(web)}`);
  const via = ["--via", `ws://alice:pw@127.0.0.1:${server.port}`];
  await using open = await startSeikan(["connect", "-L", "127.0.0.1:0=web.t.test:80", ...via]);
  expect((await visit(open.port, "web.t.test", "/in")).body).toBe("the web /in");
  expect(await statusOf(open, place(web))).toBe(407);
});

test("--allow-net opens no agent: that takes a grant", async () => {
  const rights = ["--auth", "mallory:pw", "--agent-token", "t", "--allow-net=127.0.0.1,:443"];
  await using server = await serve(...rights, "--grant", "alice=agent:office", "--auth", "alice:pw");
  await using _ = await startAgent(
    server,
    "--token",
    "t",
    "--name",
    "office",
    "-e",
    `db=tcp://${place(web)}`,
    "--allow-net",
  );
  const as = (user: string) => `Proxy-Authorization: Basic ${Buffer.from(`${user}:pw`).toString("base64")}`;
  const through = (user: string, target: string) => statusOf(server, target, as(user), "Seikan-Agent: office");
  expect(await through("mallory", place(web))).toBe(403);
  expect(await through("mallory", "db.agent.internal:443")).toBe(403);
  expect(await through("alice", place(web))).toBe(200);
  expect(await through("alice", "db.agent.internal:443")).toBe(403);
});

test("a name that somebody made point to loopback reaches no path of the server", async () => {
  await using server = await serve("--wsp");
  const wsp = ["--protocol", "wsp", "--allow-net=127.0.0.1"];
  await using _ = await startSeikan(["agent", `${wsUrl(server)}/register`, ...wsp]);
  const asked = `X-PROXY-DESTINATION: ${urlOf(web)}/inside`;
  expect((await visit(server.port, `127.0.0.1:${server.port}`, "/request", asked)).body).toBe("the web /inside");
  for (const path of ["/request", "/status", "/-/healthz"]) {
    const { status, body } = await visit(server.port, `rebound.test:${server.port}`, path, asked);
    expect([path, status, body.includes("inside")]).toEqual([path, 404, false]);
  }
});

test("a connection registers once, and everything of it goes with it", async () => {
  await using server = await serve();
  const hop = {
    ...{ name: wsUrl(server), isSecure: false, credentials: new ProxyCredentials(undefined), fields: [] },
    proxy: (parseHop(wsUrl(server)) as { proxy: { kind: "tcp"; host: string; port: number } }).proxy,
    ...{ reach: directDialer({}), path: "/-/agent" },
  };
  const soon = () => performance.now() + 5000;
  const terms = { key: "k".repeat(24), onGoAway() {}, heartbeat: { intervalMs: 0, timeoutMs: 0 }, accept() {} };
  const session = await dialSession(hop, terms, { deadline: soon() });
  const register = (index: number) => {
    const exposures = [{ kind: "http", name: `web-${index}` }];
    const who = { agent: `agent-${index}`, key: `${index}`.repeat(24), connection: `${index}`.repeat(24) };
    const text = JSON.stringify({ ...who, server: "ws://x", exposures });
    return askControl(session.open(), { path: REGISTER_PATH, text }, soon(), "the server");
  };
  const outcomes = await Promise.allSettled([1, 2, 3, 4].map(register));
  expect(outcomes.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected", "rejected", "rejected"]);
  session.leave();
  await session.closed;
  // No longer there, and not long gone: 503, where those that never were are 404.
  const winner = outcomes.findIndex(({ status }) => status === "fulfilled") + 1;
  const at = (index: number) => visit(server.port, `web-${index}.localhost`);
  await eventually(
    () => at(winner),
    ({ status, body }) => status === 503 && body.includes("not connected"),
    "it is gone",
  );
  for (const index of [1, 2, 3, 4])
    expect([index, (await at(index)).status]).toEqual([index, index === winner ? 503 : 404]);
});

test("a token that is taken back ends the connections of wsp, too", async () => {
  using folder = new TempFolder();
  const file = folder.file("tokens.toml");
  writeFileSync(file, `[token.w]\nhash = "${hashOf("w-token")}"\nexit = true\n`);
  await using server = await serve("--wsp", "--tokens", file, "--no-auth", "--allow-net");
  const wsp = ["--protocol", "wsp", "--allow-net=127.0.0.1", "--token", "w-token"];
  await using agent = await startSeikan(["agent", `${wsUrl(server)}/register`, ...wsp]);
  const ask = () => visit(server.port, `127.0.0.1:${server.port}`, "/request", `X-PROXY-DESTINATION: ${urlOf(web)}/`);
  expect((await ask()).status).toBe(200);
  writeFileSync(file, `[token.other]\nhash = "${hashOf("another one")}"\n`);
  server.kill("SIGHUP");
  await until(() => eventsOf(agent, "disconnected").length > 0, "it is disconnected");
  expect((await ask()).status).toBe(526);
});

test("a wsp connection whose token is taken back before its greeting is closed at the greeting", async () => {
  using folder = new TempFolder();
  const file = folder.file("tokens.toml");
  writeFileSync(file, `[token.w]\nhash = "${hashOf("w-token")}"\nexit = true\n`);
  await using server = await serve("--wsp", "--tokens", file, "--no-auth", "--allow-net");
  using line = await handClient(server.port, { greeting: "", secret: "w-token" });
  expect(line.head).toStartWith("HTTP/1.1 101");
  writeFileSync(file, `[token.other]\nhash = "${hashOf("another one")}"\n`);
  server.kill("SIGHUP");
  await until(() => server.stderr().includes("info reloaded"), "the token is taken back");
  line.text("hand_1");
  await line.over();
  const asked = await visit(server.port, `127.0.0.1:${server.port}`, "/request", `X-PROXY-DESTINATION: ${urlOf(web)}/`);
  expect(asked.status).toBe(526);
});

test("a visitor cannot say under which host it came, in absolute-form either", async () => {
  const seen = Bun.serve({
    ...{ port: 0, hostname: "127.0.0.1" },
    fetch: ({ headers }) => new Response(`${headers.get("x-forwarded-host")} ${headers.get("forwarded")}`),
  });
  await using server = await serve();
  await using _ = await startAgent(server, "-e", `web=${urlOf(seen)}`);
  using client = await dialRaw(server.port);
  client.send(lines("GET http://web.localhost/reset HTTP/1.1", "Host: attacker.test"));
  expect((await client.response()).body).toBe("web.localhost for=127.0.0.1;host=web.localhost;proto=http");
  await seen.stop(true);
});

test("an agent hears of every request on a connection that is kept", async () => {
  await using server = await serve();
  await using agent = await startAgent(server, "-e", `web=${urlOf(web)}`);
  using client = await dialRaw(server.port);
  for (const path of ["/1", "/2", "/3"]) {
    client.send(get("web.localhost", path));
    expect((await client.response()).body).toBe(`the web ${path}`);
  }
  await until(() => eventsOf(agent, "request").length === 3, "it heard of three");
  expect(eventsOf(agent, "request").map(({ target }) => target)).toEqual(["/1", "/2", "/3"]);
});

test("what a server says is made of names before a command line gets it", () => {
  const registered = (place: object) => () => parseRegistered(JSON.stringify({ exposures: [place], warnings: [] }));
  expect(registered({ name: "web", url: "https://web.t.test:8443", address: "[::1]:8443" })).not.toThrow();
  for (const evil of ["https://web.t.test/$(id)", "https://a;id", "https://a b", "javascript:alert(1)", "https://`id`"])
    expect(registered({ name: "web", url: evil, address: "a:1" })).toThrow("malformed");
  expect(registered({ name: "web", address: "$(id)" })).toThrow("malformed");
  expect(registered({ name: "$(id)", address: "a:1" })).toThrow("malformed");
});
