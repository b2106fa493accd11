import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import {
  Arrivals,
  connectTo,
  eventsOf,
  eventually,
  exposing,
  get,
  happens,
  lines,
  logged,
  place,
  portOf,
  requestHead,
  runAgent,
  startAgent,
  statusOf,
  urlOf,
  visit,
  webServer,
  wsUrl,
} from "../support/agents.ts";
import { freePort, TempFolder } from "../support/process.ts";
import { dialRaw, echo, RawServer } from "../support/raw.ts";
import { runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import { until } from "../support/wait.ts";
import { answerTo, upgradeRequest } from "../support/websocket-client.ts";

setDefaultTimeout(60_000);

// Who may be called what, who shares it, who may dial through whom, and by which credentials.

const HELLO = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/** Sends back what it gets. */
let echoing: RawServer;
/** Plays by hand whatever a test wants. */
let hand: RawServer;
let web: ReturnType<typeof webServer>;

beforeAll(() => {
  echoing = new RawServer(echo);
  hand = new RawServer();
  web = webServer("the web");
});
afterAll(async () => {
  for (const one of [echoing, hand]) one[Symbol.dispose]();
  await web.stop(true);
});

const serve = (...args: string[]) => startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json", ...args]);
const proxyAuth = (text: string) => `Proxy-Authorization: Basic ${Buffer.from(text).toString("base64")}`;
const hashOf = (token: string) => `sha256:${new Bun.CryptoHasher("sha256").update(token).digest("hex")}`;

/** An entry of a token file; the token is the name and `-token`. */
const entry = (name: string, rights: string) => `[token.${name}]\nhash = "${hashOf(`${name}-token`)}"\n${rights}\n`;

/** A server with this token file. */
async function serveTokens(text: string, ...args: string[]) {
  const folder = new TempFolder();
  const file = folder.file("tokens.toml");
  writeFileSync(file, text);
  const running = await serve("--tokens", file, ...args);
  const stop = async () => {
    await running[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  };
  return { running, file, port: running.port, [Symbol.asyncDispose]: stop };
}

describe("names", () => {
  let server: Running;
  let first: Running;
  beforeAll(async () => {
    server = await serve();
    first = await startAgent(
      server,
      ...["--name", "Office", ...exposing({ web: urlOf(web), db: `tcp://${place(echoing)}` })],
    );
  });
  afterAll(async () => {
    await first[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  });

  const taken: [string, string[], string][] = [
    [
      "the agent's name",
      ["--name", "office", "-e", "other=http://127.0.0.1:1"],
      "an agent named office is connected already",
    ],
    ["a site's name", ["--name", "b", "-e", "web=http://127.0.0.1:1"], "web.localhost belongs to another agent"],
    [
      "a site's name in capitals",
      ["--name", "b", "-e", "WEB=http://127.0.0.1:1"],
      "web.localhost belongs to another agent",
    ],
    [
      "a site's name as a host",
      ["--name", "b", "-e", "host:web.localhost=http://127.0.0.1:1"],
      "web.localhost belongs",
    ],
    ["a private name", ["--name", "b", "-e", "db=tcp://127.0.0.1:1"], "db belongs to another agent"],
    ["the server's own", ["--name", "b", "-e", "host:localhost=http://127.0.0.1:1"], "localhost is this server itself"],
  ];
  for (const [what, args, why] of taken) {
    test(`${what} is taken: exit code 4, and nothing changes`, async () => {
      const { code, stdout, stderr } = await runAgent(server, ...args, "--json");
      expect({ code, stdout, stderr }).toEqual({
        code: 4,
        stdout: expect.any(String),
        stderr: expect.stringContaining(why),
      });
      expect(stdout).not.toContain('"ready"');
      expect((await visit(server.port, "web.localhost")).body).toBe("the web /");
      expect((await visit(server.port, "other.localhost")).status).toBe(404);
    });
  }

  test("names that can be none: exit code 4 or 2, and a sentence", async () => {
    for (const host of ["10.0.0.1", "a..b", "*.*.example.org", "x*.example.org", "*"]) {
      const { code, stderr } = await runAgent(server, "--name", "b", "-e", `host:${host}=http://127.0.0.1:1`);
      expect([host, [2, 4].includes(code), /is no host name/.test(stderr)]).toEqual([host, true, true]);
    }
  });

  test("a name that nobody chose makes way: -2, then -3", async () => {
    await using own = await serve();
    const known = () => [...own.stderr().matchAll(/agent (\S+) connected/g)].map((match) => match[1]);
    const start = (site: string) => startAgent(own, "-e", `${site}=${urlOf(web)}`, "--tunnels", "1");
    await using one = await start("one");
    const name = known()[0]!;
    await using two = await start("two");
    await using three = await start("three");
    expect([...new Set(known())]).toEqual([name, `${name}-2`, `${name}-3`]);
    expect(two.stderr()).toContain(`this agent is ${name}-2 at ${wsUrl(own)}`);
    for (const site of ["one", "two", "three"])
      expect((await visit(own.port, `${site}.localhost`, `/${site}`)).body).toBe(`the web /${site}`);
    expect(one.stderr()).not.toContain("this agent is");
    expect(three.urls).toEqual([`http://three.localhost:${own.port}`]);
  });

  // Each connection that is refused takes the next number, and one refused after another registered is given up silently.
  test("all connections of an agent have the same name, which is the one it says", async () => {
    await using own = await serve();
    await using _ = await startAgent(own, "-e", `one=${urlOf(web)}`, "--tunnels", "1");
    const name = / agent (\S+) connected/.exec(own.stderr())![1]!;
    const said = (text: string) => own.stderr().split(text).length - 1;
    for (let round = 1; round <= 5; round++) {
      const two = await startAgent(own, "-e", `two=${urlOf(web)}`, "--tunnels", "8");
      await until(() => said(" connected peer=") === 1 + 8 * round, "all connections are there", 1000);
      const names = [...own.stderr().matchAll(/ agent (\S+) connected/g)].map((match) => match[1]);
      expect([...new Set(names)]).toEqual([name, `${name}-2`]);
      expect(two.stderr()).toContain(`this agent is ${name}-2 at`);
      await two[Symbol.asyncDispose]();
      await until(() => said("disconnected") === 8 * round, "it is gone");
    }
  });

  test("below a domain: the exposure is there, the domain itself is the server's", async () => {
    await using own = await serve("--domain", "t.test", "--agent-token", "of-agents");
    await using running = await startAgent(own, "--token", "of-agents", "-e", `web=${urlOf(web)}`);
    expect(running.urls).toEqual([`http://web.t.test:${own.port}`]);
    expect((await visit(own.port, "web.t.test")).body).toBe("the web /");
    expect((await visit(own.port, "web.localhost")).status).toBe(404);
    const apex = await runAgent(own, "--token", "of-agents", "-e", "host:t.test=http://127.0.0.1:1", "--name", "b");
    expect([apex.code, apex.stderr]).toEqual([4, expect.stringContaining("t.test is this server itself")]);
  });
});

describe("a group", () => {
  const share = 'hosts = ["*"]\nshare = true';
  const tokens = entry("team", share) + entry("alone", 'hosts = ["*"]');
  const join = (server: { readonly port: number }, name: string, ...args: string[]) =>
    startAgent(server, "--name", name, "--token", "team-token", ...args);

  test("requests are spread, the least busy first; one that is killed leaves the rest to the others", async () => {
    await using server = await serveTokens(tokens);
    using one = new RawServer();
    using two = new RawServer();
    await using first = await join(server, "first", "-e", `web=${urlOf(one)}`);
    await using _ = await join(server, "second", "-e", `web=${urlOf(two)}`);
    const arrived = () => one.accepted.length + two.accepted.length;
    const clients = [];
    for (let i = 1; i <= 10; i++) {
      const client = await dialRaw(server.port);
      clients.push(client.send(get("web.localhost")));
      await until(() => arrived() === i, `request ${i} arrives`);
    }
    expect([one.accepted.length, two.accepted.length]).toEqual([5, 5]);
    for (const upstream of [...one.accepted, ...two.accepted]) {
      await upstream.sees("\r\n\r\n");
      upstream.send(HELLO);
    }
    for (const client of clients) {
      expect((await client.response()).body).toBe("hello");
      client.reset();
    }
    first.kill("SIGKILL");
    const before = one.accepted.length;
    for (let i = 0; i < 10; i++) {
      using client = await dialRaw(server.port);
      client.send(get("web.localhost", `/${i}`));
      const arrivals = new Arrivals(two);
      const upstream = await arrivals.next();
      expect((await requestHead(upstream)).line).toBe(`GET /${i} HTTP/1.1`);
      upstream.send(HELLO);
      expect((await client.response()).body).toBe("hello");
    }
    expect(one.accepted.length).toBe(before);
  });

  test("one that drains takes nobody along", async () => {
    const [one, two] = [webServer("one"), webServer("two")];
    try {
      await using server = await serveTokens(tokens);
      await using first = await join(server, "first", "-e", `web=${urlOf(one)}`);
      await using _ = await join(server, "second", "-e", `web=${urlOf(two)}`);
      const bodies = async () => {
        const answers = await Promise.all(Array.from({ length: 40 }, () => visit(server.port, "web.localhost")));
        return [...new Set(answers.map(({ status, body }) => `${status} ${body}`))].toSorted();
      };
      expect(await bodies()).toEqual(["200 one /", "200 two /"]);
      first.kill("SIGTERM");
      expect(await bodies()).not.toContain("503");
      expect(await first.exited).toBe(0);
      expect(await bodies()).toEqual(["200 two /"]);
    } finally {
      for (const service of [one, two]) await service.stop(true);
    }
  });

  test("the same name for agents that share", async () => {
    await using server = await serveTokens(tokens);
    await using _ = await join(server, "same", "-e", `web=${urlOf(web)}`);
    await using other = await join(server, "same", "-e", `web=${urlOf(web)}`, "-e", `own=${urlOf(web)}`);
    expect(other.urls).toHaveLength(2);
    expect((await visit(server.port, "own.localhost")).status).toBe(200);
  });

  test("sticky=cookie keeps a visitor with one of them, as long as it is there", async () => {
    const [one, two] = [webServer("one"), webServer("two")];
    try {
      await using server = await serveTokens(tokens);
      const members = {
        one: await join(server, "one", "-e", `web=${urlOf(one)},sticky=cookie`),
        two: await join(server, "two", "-e", `web=${urlOf(two)},sticky=cookie`),
      };
      await using _ = members.one;
      await using __ = members.two;
      const first = await visit(server.port, "web.localhost");
      expect(first.values("set-cookie")).toHaveLength(1);
      const set = first.values("set-cookie")[0]!;
      expect(set).toMatch(/^seikan-member=[0-9a-f]+; Path=\/; HttpOnly; SameSite=Lax$/);
      const cookie = set.split(";")[0]!;
      for (let i = 0; i < 20; i++) {
        const again = await visit(server.port, "web.localhost", "/", `Cookie: a=b; ${cookie}`);
        expect([again.body, again.values("set-cookie")]).toEqual([first.body, []]);
      }
      const [mine, others] = first.body === "one /" ? (["one", "two"] as const) : (["two", "one"] as const);
      members[mine].kill("SIGKILL");
      const moved = await visit(server.port, "web.localhost", "/", `Cookie: ${cookie}`);
      expect(moved.body).toBe(`${others} /`);
      expect(moved.values("set-cookie")[0]).toStartWith("seikan-member=");
      expect(moved.values("set-cookie")[0]).not.toStartWith(`${cookie};`);
    } finally {
      for (const service of [one, two]) await service.stop(true);
    }
  });

  test("the cookie of sticky=cookie is not shown to the service, others are", async () => {
    await using server = await serveTokens(tokens);
    await using _ = await join(server, "one", "-e", `web=${urlOf(hand)},sticky=cookie`);
    const arrivals = new Arrivals(hand);
    using client = await dialRaw(server.port);
    client.send(get("web.localhost", "/", "Cookie: a=b; seikan-member=0123; c=d", "Cookie: seikan-member=4567"));
    const upstream = await arrivals.next();
    expect((await requestHead(upstream)).values("cookie")).toEqual(["a=b; c=d"]);
    upstream.send("HTTP/1.1 200 OK\r\nSet-Cookie: own=1\r\nContent-Length: 0\r\n\r\n");
    const { values } = await client.response();
    expect(values("set-cookie")).toEqual(["own=1", expect.stringMatching(/^seikan-member=/)]);
  });

  test("sticky=address keeps an address with one of them", async () => {
    const [one, two] = [webServer("one"), webServer("two")];
    try {
      await using server = await serveTokens(tokens, "--trusted-proxy", "127.0.0.1");
      await using _ = await join(server, "one", "-e", `web=${urlOf(one)},sticky=address`);
      await using __ = await join(server, "two", "-e", `web=${urlOf(two)},sticky=address`);
      const seen = new Set<string>();
      for (let host = 1; host <= 40; host++) {
        const ask = () => visit(server.port, "web.localhost", "/", `X-Forwarded-For: 203.0.113.${host}`);
        const bodies = new Set([(await ask()).body, (await ask()).body, (await ask()).body]);
        expect(bodies.size).toBe(1);
        seen.add([...bodies][0]!);
      }
      expect([...seen].toSorted()).toEqual(["one /", "two /"]);
    } finally {
      for (const service of [one, two]) await service.stop(true);
    }
  });

  /** A service whose `/up` answers what `status` says. */
  const unsteady = (name: string, status: () => number) =>
    Bun.serve({
      ...{ port: 0, hostname: "127.0.0.1" },
      fetch: ({ url }) => (url.endsWith("/up") ? new Response(null, { status: status() }) : new Response(name)),
    });
  const isSaid = (running: Running, exposure: string, healthy: boolean) =>
    logged(running, (event) => event.event === "health" && event.exposure === exposure && event.healthy === healthy);

  test("health=: who is not well leaves, 503 when nobody is left, and whoever is well again comes back", async () => {
    const states = { one: 204, two: 302, solo: 500 };
    const one = unsteady("one", () => states.one);
    const two = unsteady("two", () => states.two);
    const solo = unsteady("solo", () => states.solo);
    try {
      await using server = await serveTokens(tokens);
      const specs = exposing({ web: `${urlOf(one)},health=/up`, solo: `${urlOf(solo)},health=/up` });
      await using first = await join(server, "one", ...specs);
      await using _ = await join(server, "two", "-e", `web=${urlOf(two)},health=/up`);
      const ask = (host: string) => () => visit(server.port, host);
      expect(await isSaid(first, "solo", false)).toMatchObject({ why: "it answers 500" });
      const nobody = await eventually(ask("solo.localhost"), ({ status }) => status !== 200, "it is out");
      expect([nobody.status, nobody.values("retry-after")]).toEqual([503, [expect.any(String)]]);
      expect(nobody.body).toContain("is not well");
      for (const name of ["one", "two"])
        await eventually(ask("web.localhost"), ({ body }) => body === name, `${name} is asked`);

      Object.assign(states, { one: 503, solo: 204 });
      await Promise.all([isSaid(first, "web", false), isSaid(first, "solo", true)]);
      const back = await eventually(ask("solo.localhost"), ({ status }) => status === 200, "it is back");
      expect(back.body).toBe("solo");
      await eventually(ask("web.localhost"), ({ body }) => body === "two", "the other one is asked");
      for (let i = 0; i < 20; i++) expect((await ask("web.localhost")()).body).toBe("two");
    } finally {
      for (const service of [one, two, solo]) await service.stop(true);
    }
  });

  test("health=: whoever joins one that is not well is well by itself", async () => {
    const one = unsteady("one", () => 500);
    const two = unsteady("two", () => 204);
    try {
      await using server = await serveTokens(tokens);
      await using first = await join(server, "one", "-e", `web=${urlOf(one)},health=/up`);
      await isSaid(first, "web", false);
      await using second = await join(server, "two", "-e", `web=${urlOf(two)},health=/up`);
      await isSaid(second, "web", true);
      const ask = () => visit(server.port, "web.localhost");
      expect((await eventually(ask, ({ status }) => status === 200, "it is asked")).body).toBe("two");
    } finally {
      for (const service of [one, two]) await service.stop(true);
    }
  });

  const refused: [string, string[], string][] = [
    [
      "without the right to share",
      ["--token", "alone-token", "-e", "web=http://127.0.0.1:1"],
      "belongs to another agent",
    ],
    [
      "with other options",
      ["--token", "team-token", "-e", "web=http://127.0.0.1:1,auth=u:p"],
      "web.localhost with other options belongs to another agent",
    ],
  ];
  for (const [what, args, why] of refused) {
    test(`${what} nobody joins: exit code 4`, async () => {
      await using server = await serveTokens(tokens);
      await using _ = await join(server, "first", "-e", `web=${urlOf(web)}`);
      const { code, stderr } = await runAgent(server, "--name", "second", ...args);
      expect([code, stderr]).toEqual([4, expect.stringContaining(why)]);
      expect((await visit(server.port, "web.localhost")).body).toBe("the web /");
    });
  }
});

describe("exits", () => {
  /** Only the agent knows where that is. */
  const resolving = () => [
    "--resolve",
    `api.corp:${web.port}:127.0.0.1`,
    "--resolve",
    `db.corp:${echoing.port}:127.0.0.1`,
  ];
  const office = (server: { readonly port: number }, ...args: string[]) =>
    startAgent(server, "--name", "office", ...resolving(), ...args);

  /** An HTTP request by way of CONNECT and this agent. */
  async function throughTunnel(server: { readonly port: number }, ...fields: string[]): Promise<string> {
    const { client, answer } = await connectTo(server, `api.corp:${web.port}`, ...fields);
    if (answer.status !== 200) return `${answer.status} ${answer.body.split("\n")[0]}`;
    client.send(get("api.corp", "/through"));
    const { body } = await client.response();
    client.reset();
    return body;
  }

  test("Seikan-Agent names the agent: CONNECT and absolute-form, which the target does not see", async () => {
    await using server = await serve();
    await using _ = await office(server, "--allow-net=api.corp,127.0.0.1");
    for (const name of ["office", "Office"])
      expect(await throughTunnel(server, `Seikan-Agent: ${name}`)).toBe("the web /through");
    const plain = lines(`GET http://api.corp:${web.port}/plain HTTP/1.1`, "Host: x", "Seikan-Agent: office");
    expect((await answerTo(server.port, plain)).body).toBe("the web /plain");
    expect(await logged(server, ({ target }) => target === `http://api.corp:${web.port}/plain`)).toMatchObject({
      route: "agent:office",
      status: 200,
    });
    const arrivals = new Arrivals(hand);
    using client = await dialRaw(server.port);
    client.send(lines(`GET http://${place(hand)}/ HTTP/1.1`, "Host: x", "Seikan-Agent: office"));
    const upstream = await arrivals.next();
    expect((await requestHead(upstream)).text).not.toMatch(/seikan-agent/i);
    upstream.send(HELLO);
    await client.response();
    // Without it the server dials itself, and knows no such name.
    expect(await throughTunnel(server)).toStartWith("502 ");
  });

  test("--route '*.corp=agent:office' needs no header", async () => {
    await using server = await serve("--route", "*.corp=agent:office");
    expect(await throughTunnel(server)).toBe("503 seikan: no agent named office is connected");
    await using _ = await office(server, "--allow-net=api.corp");
    expect(await throughTunnel(server)).toBe("the web /through");
    const { code, stdout } = await runSeikan(["connect", `api.corp:${web.port}`, "--via", `http://${place(server)}`], {
      stdin: get("api.corp", "/stdin", "Connection: close"),
    });
    expect([code, stdout]).toEqual([0, expect.stringContaining("the web /stdin")]);
  });

  test("the agent itself says what it dials", async () => {
    await using server = await serve();
    await using closed = await office(server, "-e", `web=${urlOf(web)}`);
    const denied = /^502 seikan: agent office refused CONNECT \S+: 403/;
    expect(await throughTunnel(server, "Seikan-Agent: office")).toMatch(denied);
    closed.kill("SIGTERM");
    await closed.exited;
    await using listed = await office(server, `--allow-net=*.corp,${place(echoing)}`);
    expect(listed.urls).toEqual([]);
    // A wildcard never reaches private addresses.
    expect(await throughTunnel(server, "Seikan-Agent: office")).toMatch(denied);
    for (const target of [place(web), `127.0.0.1:${freePort()}`]) {
      const { client, answer } = await connectTo(server, target, "Seikan-Agent: office");
      client.reset();
      expect(`${answer.status} ${answer.body}`).toMatch(denied);
    }
    expect(await statusOf(server, place(echoing), "Seikan-Agent: office")).toBe(200);
  });

  test("--allow-net without a list dials anything, a target that is down is 502", async () => {
    await using server = await serve();
    await using _ = await office(server, "--allow-net");
    expect(await throughTunnel(server, "Seikan-Agent: office")).toBe("the web /through");
    expect(await statusOf(server, `127.0.0.1:${freePort()}`, "Seikan-Agent: office")).toBe(502);
    expect(await statusOf(server, `nowhere.invalid:80`, "Seikan-Agent: office")).toBe(502);
  });

  test("an agent that nobody knows: 503", async () => {
    await using server = await serve();
    expect(await throughTunnel(server, "Seikan-Agent: nobody")).toBe("503 seikan: no agent named nobody is connected");
  });

  test("a token without exit = true is no exit", async () => {
    const tokens = entry("plain", 'hosts = ["*"]') + entry("exit", 'hosts = ["*"]\nexit = true');
    await using server = await serveTokens(tokens, "--auth", "ann:secret", "--grant", "ann=agent:*");
    await using _ = await office(server, "--token", "plain-token", "--allow-net");
    const asking = ["Seikan-Agent: office", proxyAuth("ann:secret")];
    expect(await throughTunnel(server, ...asking)).toMatch(
      /^403 seikan: the token plain does not permit to dial for others/,
    );
    await using __ = await startAgent(
      server,
      "--name",
      "way-out",
      ...resolving(),
      "--token",
      "exit-token",
      "--allow-net",
    );
    expect(await throughTunnel(server, "Seikan-Agent: way-out", asking[1]!)).toBe("the web /through");
  });

  describe("with users", () => {
    const users = ["--auth", "ann:secret", "--auth", "bob:secret"];
    const offering = () => [...resolving(), "--allow-net=api.corp", "-e", `db=tcp://${place(echoing)}`];

    test("a server that is not exposed lets all of them", async () => {
      await using server = await serve(...users);
      await using _ = await startAgent(server, "--name", "office", ...offering());
      for (const user of ["ann", "bob"]) {
        expect(await statusOf(server, "db.agent.internal:1", proxyAuth(`${user}:secret`))).toBe(200);
        expect(await throughTunnel(server, "Seikan-Agent: office", proxyAuth(`${user}:secret`))).toBe(
          "the web /through",
        );
      }
      expect(await statusOf(server, "db.agent.internal:1")).toBe(407);
    });

    const exposed: [string, string[]][] = [
      ["by --agent-token", ["--agent-token", "of-agents"]],
      ["by --domain", ["--domain", "t.test", "--agent-token", "of-agents"]],
    ];
    for (const [how, more] of exposed) {
      test(`one that is exposed ${how} wants a --grant`, async () => {
        await using server = await serve(
          ...[
            ...users,
            ...more,
            "--grant",
            "ann=db.agent.internal,agent:office",
            "--grant",
            "bob=other.agent.internal",
          ],
        );
        await using _ = await startAgent(server, "--name", "office", "--token", "of-agents", ...offering());
        const [ann, bob] = [proxyAuth("ann:secret"), proxyAuth("bob:secret")];
        const hidden = "db.agent.internal:1";
        expect(await statusOf(server, hidden, ann)).toBe(200);
        expect(await statusOf(server, hidden, bob)).toBe(403);
        expect(await statusOf(server, hidden)).toBe(407);
        expect(await statusOf(server, hidden, proxyAuth("ann:wrong"))).toBe(407);
        expect(await throughTunnel(server, "Seikan-Agent: office", ann)).toBe("the web /through");
        expect(await throughTunnel(server, "Seikan-Agent: office", bob)).toStartWith("403 ");
        expect(await throughTunnel(server, "Seikan-Agent: office")).toStartWith("407 ");
        const { code, stderr } = await runSeikan(["connect", hidden, "--via", `ws://bob:secret@${place(server)}`], {
          stdin: "ping",
        });
        expect([code, stderr]).toEqual([3, expect.stringContaining("403")]);
        const granted = await runSeikan(["connect", hidden, "--via", `ws://ann:secret@${place(server)}`], {
          stdin: "ping",
        });
        expect([granted.code, granted.stdout]).toEqual([0, "ping"]);
      });
    }

    test("--grant '*=…' is for everybody who logged in", async () => {
      await using server = await serve(...users, "--agent-token", "of-agents", "--grant", "*=*.agent.internal");
      await using _ = await startAgent(server, "--name", "office", "--token", "of-agents", ...offering());
      expect(await statusOf(server, "db.agent.internal:1", proxyAuth("bob:secret"))).toBe(200);
      expect(await statusOf(server, "db.agent.internal:1")).toBe(407);
      expect(await throughTunnel(server, "Seikan-Agent: office", proxyAuth("bob:secret"))).toStartWith("403 ");
    });

    test("an exposed server without users dials for nobody", async () => {
      await using server = await serve("--agent-token", "of-agents");
      await using _ = await startAgent(server, "--name", "office", "--token", "of-agents", ...offering());
      for (const fields of [[], ["Seikan-Agent: office"], [proxyAuth("ann:secret")]]) {
        expect(await statusOf(server, "db.agent.internal:1", ...fields)).toBe(403);
        expect(await statusOf(server, `api.corp:${web.port}`, ...fields)).toBe(403);
      }
      using socks = await dialRaw(server.port);
      socks.send(Uint8Array.of(5, 1, 0));
      await socks.over();
      expect(socks.bytes.toString("hex")).not.toBe("0500");
    });

    test("a request that came through another proxy counts as exposed", async () => {
      await using server = await serve();
      await using _ = await startAgent(server, "--name", "office", ...offering());
      expect(await statusOf(server, "db.agent.internal:1")).toBe(200);
      for (const field of ["Via: 1.1 nginx", "X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9"])
        expect(await statusOf(server, "db.agent.internal:1", field)).toBe(403);
    });
  });
});

describe("tokens", () => {
  const asWeb = () => ["-e", `web=${urlOf(web)}`];

  test("--agent-token: the right one registers, exit code 4 for a wrong one and for none", async () => {
    await using server = await serve("--agent-token", "one-token", "--agent-token", "other-token");
    for (const [args, why] of [
      [[], "401"],
      [["--token", "wrong-token"], "401"],
      [["--token", "one-toke"], "401"],
    ] as const) {
      const { code, stdout, stderr } = await runAgent(server, ...args, ...asWeb(), "--tunnels", "1", "--json");
      expect({ code, stderr }).toEqual({ code: 4, stderr: expect.stringContaining(why) });
      expect(stdout).not.toContain('"ready"');
      expect(stderr).not.toContain("wrong-token");
    }
    for (const token of ["one-token", "other-token"]) {
      await using running = await startAgent(server, "--token", token, ...asWeb());
      expect((await visit(server.port, "web.localhost")).status).toBe(200);
      running.kill("SIGTERM");
      expect(await running.exited).toBe(0);
      expect(server.stderr() + running.stderr()).not.toContain(token);
    }
  });

  // The hint is that of proxies: USER:PASS in the URL, or --proxy-auth-file.
  test("whoever shows none hears what is missing", async () => {
    await using server = await serve("--agent-token", "one-token");
    const { stderr } = await runAgent(server, ...asWeb(), "--tunnels", "1");
    expect(stderr).toMatch(/agents need a token here|--token\b/);
  });

  test("an exposed server without tokens takes nobody: exit code 4", async () => {
    await using server = await serve("--domain", "t.test");
    const { code, stderr } = await runAgent(server, ...asWeb(), "--fail-fast");
    expect([code, stderr]).toEqual([4, expect.stringContaining("403")]);
    expect(stderr).toContain("no tokens for agents");
  });

  test("seikan token makes one, and what the server stores of it", async () => {
    const { code, stdout } = await runSeikan(["token", "laptop"]);
    expect(code).toBe(0);
    const [token, ...file] = stdout.split("\n");
    expect(token).toMatch(/^skt_[\w-]{40,}$/);
    expect(file.join("\n")).not.toContain(token!);
    await using server = await serveTokens(file.join("\n"));
    const named = ["--name", "laptop", "--token", token!];
    await using _ = await startAgent(server, ...named, ...asWeb());
    expect((await visit(server.port, "web.localhost")).status).toBe(200);
    const other = await runAgent(server, "--name", "desktop", "--token", token!, "-e", "other=http://127.0.0.1:1");
    expect([other.code, other.stderr]).toEqual([4, expect.stringContaining("the token laptop does not permit")]);
    const json = JSON.parse((await runSeikan(["token", "--json"])).stdout) as { token: string; hash: string };
    expect(json.hash).toBe(hashOf(json.token));
    expect(json.token).not.toBe(token);
  });

  const limited = entry(
    "ci",
    'agents = ["ci-*"]\nhosts = ["ci-*", "*.preview.example.org", "www.example.org"]\nports = [25001, "25010-25012"]',
  );
  const may = [
    "ci-7=http://127.0.0.1:1",
    "host:a.b.preview.example.org=http://127.0.0.1:1",
    "tls:www.example.org=127.0.0.1:1",
  ];
  const mayNot: [string, string[], string][] = [
    ["another agent's name", ["--name", "office", "-e", may[0]!], "the agent name office"],
    ["another site", ["--name", "ci-7", "-e", "web=http://127.0.0.1:1"], "the name web"],
    ["a name it did not choose", ["--name", "ci-7", "-e", "http://127.0.0.1:1"], "the name "],
    ["a whole host", ["--name", "ci-7", "-e", "host:example.org=http://127.0.0.1:1"], "the name example.org"],
    [
      "a host beside a wildcard",
      ["--name", "ci-7", "-e", "host:preview.example.org=http://127.0.0.1:1"],
      "the name preview",
    ],
    ["a wildcard", ["--name", "ci-7", "-e", "host:*.example.org=http://127.0.0.1:1"], "the name *.example.org"],
    ["a private name", ["--name", "ci-7", "-e", "db=tcp://127.0.0.1:1"], "the name db"],
    ["a TLS name", ["--name", "ci-7", "-e", "tls:example.org=127.0.0.1:1"], "the name example.org"],
    ["another port", ["--name", "ci-7", "-e", "tcp:25002=127.0.0.1:1"], "port 25002"],
    ["another UDP port", ["--name", "ci-7", "-e", "udp:25013=127.0.0.1:1"], "port 25013"],
  ];
  describe("--tokens", () => {
    let server: Awaited<ReturnType<typeof serveTokens>>;
    beforeAll(async () => {
      server = await serveTokens(limited, "--allow-bind", "25000-25020");
    });
    afterAll(() => server[Symbol.asyncDispose]());

    for (const [what, args, why] of mayNot) {
      test(`${what} is beyond a token: exit code 4`, async () => {
        const { code, stderr } = await runAgent(server, "--token", "ci-token", ...args);
        expect([code, stderr]).toEqual([4, expect.stringContaining(`the token ci does not permit ${why}`)]);
      });
    }

    test("what it names is permitted, and port 0 gets one of its ports", async () => {
      const specs = [...may, "tcp:0=127.0.0.1:1"].flatMap((spec) => ["-e", spec]);
      await using running = await startAgent(server, "--name", "ci-7", "--token", "ci-token", ...specs);
      expect(running.urls.slice(0, 3)).toEqual([
        `http://ci-7.localhost:${server.port}`,
        `http://a.b.preview.example.org:${server.port}`,
        `https://www.example.org:${server.port}`,
      ]);
      expect([25001, 25010, 25011, 25012]).toContain(portOf(running.urls[3]));
    });
  });

  test("the file is read again when it changes; a broken one changes nothing", async () => {
    const [a, b] = [entry("a", 'hosts = ["*"]'), entry("b", 'hosts = ["*"]')];
    await using server = await serveTokens(a);
    const tried = async (name: string) =>
      (await runAgent(server, "--token", `${name}-token`, "--name", name, ...asWeb(), "--", "true")).code;
    const says = async (text: string, count = 1) =>
      until(() => server.running.stderr().split(text).length > count, `the server says "${text}" ${count} times`);
    expect([await tried("a"), await tried("b")]).toEqual([0, 4]);
    writeFileSync(server.file, a + b);
    await says("reloaded: ");
    expect([await tried("a"), await tried("b")]).toEqual([0, 0]);
    writeFileSync(server.file, "[token.b]\nhash = 7\n");
    await says("cannot reload, everything stays as it was");
    expect([await tried("a"), await tried("b")]).toEqual([0, 0]);
    writeFileSync(server.file, b);
    await says("reloaded: ", 2);
    expect([await tried("a"), await tried("b")]).toEqual([4, 0]);
  });

  test("one that is taken back disconnects its agent, and one with less rights, too", async () => {
    const [all, none] = [entry("a", 'hosts = ["*"]'), entry("a", 'hosts = ["other"]')];
    await using server = await serveTokens(all);
    await using running = await startAgent(server, "--token", "a-token", ...asWeb());
    const put = async (text: string) => {
      const before = server.running.stderr().split("reloaded").length;
      writeFileSync(server.file, text);
      server.running.kill("SIGHUP");
      await until(() => server.running.stderr().split("reloaded").length > before, "it is read");
    };
    for (const [round, less] of ["", none].entries()) {
      await put(less);
      await happens(running, "disconnected", round + 1);
      expect((await visit(server.port, "web.localhost")).status).toBe(503);
      await put(all);
      await happens(running, "reconnected", round + 1);
      expect((await visit(server.port, "web.localhost")).status).toBe(200);
    }
    // What changes nothing for it leaves it alone.
    await put(all + entry("b", 'hosts = ["*"]'));
    expect((await visit(server.port, "web.localhost")).status).toBe(200);
    expect(eventsOf(running, "disconnected")).toHaveLength(2);
  });

  test("SIGHUP makes an agent read its token file again", async () => {
    using folder = new TempFolder();
    const file = folder.file("token");
    writeFileSync(file, "a-token\n");
    const [a, b] = [entry("a", 'hosts = ["*"]'), entry("b", 'hosts = ["*"]')];
    await using server = await serveTokens(a + b);
    await using running = await startAgent(server, "--token-file", file, ...asWeb());
    writeFileSync(file, "b-token\n");
    running.kill("SIGHUP");
    await until(() => running.stderr().includes("reloaded the token"), "it is read");
    expect(eventsOf(running, "disconnected")).toEqual([]);
    writeFileSync(server.file, b);
    server.running.kill("SIGHUP");
    await happens(running, "reconnected");
    expect(server.running.stderr()).toContain("token=b");
    expect((await visit(server.port, "web.localhost")).status).toBe(200);
  });

  test("a file that cannot be read or understood: exit code 2", async () => {
    using folder = new TempFolder();
    const texts = ["[token.a]\nhash = 7\n", '[token.a]\nhash = "sha256:00"\n', "[token.a\n", "[token.a]\nrights = 1\n"];
    for (const text of texts) {
      writeFileSync(folder.file("tokens"), text);
      const { code, stderr } = await runSeikan(["serve", "-l", "127.0.0.1:0", "--tokens", folder.file("tokens")]);
      expect([text, code, stderr.includes("token file")]).toEqual([text, 2, true]);
    }
    const missing = await runSeikan(["serve", "-l", "127.0.0.1:0", "--tokens", folder.file("nothing")]);
    expect([missing.code, missing.stderr]).toEqual([2, expect.stringContaining("--tokens")]);
  });

  test("an agent's token never permits dialling", async () => {
    await using server = await serve(
      "--agent-token",
      "of-agents",
      "--auth",
      "ann:secret",
      `--allow-net=${place(echoing)}`,
    );
    const shown = [
      "Proxy-Authorization: Bearer of-agents",
      "Authorization: Bearer of-agents",
      proxyAuth("of-agents:"),
      proxyAuth("agent:of-agents"),
    ];
    for (const field of shown) expect([field, await statusOf(server, place(echoing), field)]).toEqual([field, 407]);
    expect(await statusOf(server, place(echoing), proxyAuth("ann:secret"))).toBe(200);
    const tunnel = await runSeikan(["connect", place(echoing), "--via", `ws://agent:of-agents@${place(server)}`], {
      stdin: "",
    });
    expect(tunnel.code).toBe(4);
    const upgrade = upgradeRequest("/-/tunnel", {
      "Sec-WebSocket-Protocol": "seikan.v1",
      Authorization: "Bearer of-agents",
    });
    expect((await answerTo(server.port, upgrade)).status).toBe(401);
  });

  test("a proxy user never permits registering", async () => {
    await using server = await serve("--agent-token", "of-agents", "--auth", "ann:secret");
    for (const args of [
      ["--token", "secret"],
      ["--proxy-auth", "ann:secret"],
    ]) {
      const { code } = await runAgent(server, ...args, ...asWeb(), "--tunnels", "1");
      expect([args, code]).toEqual([args, 4]);
    }
    const byUrl = await runAgent(`ws://ann:secret@${place(server)}`, ...asWeb(), "--tunnels", "1");
    expect([byUrl.code, byUrl.stderr.includes("secret@")]).toEqual([4, false]);
    for (const Authorization of [`Basic ${btoa("ann:secret")}`, `Basic ${btoa("x:of-agents")}`]) {
      const upgrade = upgradeRequest("/-/agent", { "Sec-WebSocket-Protocol": "seikan.v1", Authorization });
      expect([Authorization, (await answerTo(server.port, upgrade)).status]).toEqual([Authorization, 401]);
    }
    const right = { "Sec-WebSocket-Protocol": "seikan.v1", Authorization: "Bearer of-agents" };
    expect((await answerTo(server.port, upgradeRequest("/-/agent", right))).status).toBe(101);
    const page = upgradeRequest("/-/agent", { ...right, Origin: "https://evil.example" });
    expect((await answerTo(server.port, page)).status).toBe(403);
  });

  test("whoever registers nothing is let go", async () => {
    await using server = await serve("--header-timeout", "300ms");
    using idle = await dialRaw(server.port);
    idle.send(upgradeRequest("/-/agent", { "Sec-WebSocket-Protocol": "seikan.v1" }));
    expect((await idle.response()).status).toBe(101);
    await idle.over();
  });
});

describe("/-/agents and /-/metrics", () => {
  const ask = (server: { readonly port: number }, path: string, ...fields: string[]) =>
    visit(server.port, "localhost", path, ...fields);

  test("for whoever can read the token of this run, and for nobody else", async () => {
    using folder = new TempFolder();
    await using server = await startSeikan(["serve", "-l", "127.0.0.1:0"], { XDG_RUNTIME_DIR: folder.path });
    const specs = exposing({ web: urlOf(web), db: `tcp://${place(echoing)}` });
    await using _ = await startAgent(server, "--name", "office", ...specs);
    await visit(server.port, "web.localhost");
    const file = folder.file(`seikan/serve-${server.pid}.token`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const token = readFileSync(file, "utf8").trim();
    const shown = `Authorization: Bearer ${token}`;

    const agents = await ask(server, "/-/agents", shown);
    expect([agents.status, agents.values("content-type")]).toEqual([200, ["application/json"]]);
    expect(JSON.parse(agents.body)).toMatchObject({
      agents: [
        {
          ...{ name: "office", connections: 2, peer: expect.stringMatching(/^127\.0\.0\.1:\d+$/) },
          exposures: [
            { name: "web", kind: "http", healthy: true },
            { name: "db", kind: "private", healthy: true },
          ],
        },
      ],
    });
    const metrics = await ask(server, "/-/metrics", shown);
    expect([metrics.status, metrics.values("content-type")]).toEqual([
      200,
      ["text/plain; version=0.0.4; charset=utf-8"],
    ]);
    expect(metrics.body).toContain("\nseikan_agents 1\n");
    expect(metrics.body).toContain("\nseikan_exposures 2\n");
    expect(metrics.body).toContain('\nseikan_agent_connections{agent="office"} 2\n');

    for (const path of ["/-/agents", "/-/metrics"]) {
      const refused = [[], [`${shown}x`], [shown, "X-Forwarded-For: 203.0.113.9"], [shown, "Via: 1.1 nginx"]];
      for (const fields of refused) {
        const { status, body } = await ask(server, path, ...fields);
        expect([fields, status, body.includes("office")]).toEqual([fields, 401, false]);
      }
      const posted = lines(`POST ${path} HTTP/1.1`, "Host: localhost", "Content-Length: 0", shown);
      expect((await answerTo(server.port, posted)).status).toBe(405);
    }
    server.kill("SIGTERM");
    expect(await server.exited).toBe(0);
    expect(existsSync(file)).toBe(false);
  });

  test("for admins of an exposed server", async () => {
    const users = ["--auth", "ann:secret", "--auth", "bob:secret", "--admin", "ann"];
    await using server = await serve(...users, "--domain", "t.test", "--agent-token", "of-agents");
    const basic = (text: string) => `Authorization: Basic ${btoa(text)}`;
    const cases: [string[], number][] = [
      [[basic("ann:secret")], 200],
      [[basic("bob:secret")], 403],
      [[basic("ann:wrong")], 401],
      [["Authorization: Bearer of-agents"], 401],
      [[], 401],
    ];
    for (const path of ["/-/agents", "/-/metrics"]) {
      for (const [fields, expected] of cases) {
        const { status } = await visit(server.port, "t.test", path, ...fields);
        expect([path, fields, status]).toEqual([path, fields, expected]);
      }
    }
  });
});
