import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { realpathSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { connect as connectTls } from "node:tls";
import {
  connectTo,
  eventsOf,
  get,
  happens,
  lines,
  place,
  runAgent,
  urlOf,
  visit,
  webServer,
  wsUrl,
} from "../support/agents.ts";
import { certificateFor } from "../support/certificates.ts";
import { freePort, TempFolder } from "../support/process.ts";
import { dialRaw, echo, RawServer, type RawSocket } from "../support/raw.ts";
import { startSeikan, type Running } from "../support/seikan.ts";
import { at, dev, isGone, pidAt, Project } from "../support/services.ts";
import { until, within } from "../support/wait.ts";
import { answerTo, RawWebSocket } from "../support/websocket-client.ts";

setDefaultTimeout(60_000);

// A configuration file that changes while seikan runs.

const HASH = (token: string) => `sha256:${new Bun.CryptoHasher("sha256").update(token).digest("hex")}`;
const token = (name: string, more = 'hosts = ["*"]') =>
  `[token.${name}]\nhash = "${HASH(`${name}-token`)}"\nagents = ["*"]\n${more}\n`;

/** A folder with a configuration file, and who was started with it. */
class Home implements AsyncDisposable {
  readonly #folder = new TempFolder();
  readonly path = realpathSync(this.#folder.path);
  readonly #running: Running[] = [];

  file(name: string): string {
    return `${this.path}/${name}`;
  }

  write(name: string, text: string): string {
    writeFileSync(this.file(name), text);
    return this.file(name);
  }

  get config(): string {
    return this.file("seikan.toml");
  }

  async start(...words: string[]): Promise<Running> {
    const running = await startSeikan(words, { XDG_RUNTIME_DIR: this.path });
    this.#running.push(running);
    return running;
  }

  /** `seikan serve` on a loopback port, with this file. */
  async serve(text: string, ...args: string[]): Promise<Running> {
    this.write("seikan.toml", text);
    return this.start("serve", "-l", "127.0.0.1:0", "--config", this.config, ...args);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.#running) await one[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
  }
}

const count = (running: Running, pattern: RegExp) => [...running.stderr().matchAll(pattern)].length;
const TAKEN = / info reloaded(?: the token)?\n/g;
const NOTICED = / info reloaded: .+ changed\n/g;
const REFUSED = / error cannot reload.*\n/g;

/** Does something, and waits until the server has said one more of these; resolves to what it said since. */
async function after(running: Running, pattern: RegExp, action: () => void, ms?: number): Promise<string> {
  const before = count(running, pattern);
  const length = running.stderr().length;
  action();
  await until(() => count(running, pattern) > before, `it says ${String(pattern)}`, ms);
  return running.stderr().slice(length);
}

let home: Home;
let web: ReturnType<typeof webServer>;
beforeEach(() => {
  home = new Home();
  web = webServer("web");
});
afterEach(async () => {
  await home[Symbol.asyncDispose]();
  await web.stop(true);
});

/** A new file, taken on SIGHUP. */
const reload = (server: Running, text: string) =>
  after(server, TAKEN, () => {
    home.write("seikan.toml", text);
    server.kill("SIGHUP");
  });

/** A new file, refused on SIGHUP: why. */
async function refusal(server: Running, text: string): Promise<string> {
  const said = await after(server, REFUSED, () => {
    home.write("seikan.toml", text);
    server.kill("SIGHUP");
  });
  return / error (cannot reload.*)\n/.exec(said)![1]!;
}

const basic = (user: string) => `Proxy-Authorization: Basic ${btoa(user)}`;
/** What a proxy user is answered. */
async function statusAs(server: Running, user: string | undefined): Promise<number> {
  const fields = user === undefined ? [] : [basic(user)];
  const request = lines(`GET ${urlOf(web)}/x HTTP/1.1`, `Host: ${place(web)}`, ...fields, "Connection: close");
  return (await answerTo(server.port, request)).status;
}

const statuses = (server: Running, ...users: (string | undefined)[]) =>
  Promise.all(users.map((user) => statusAs(server, user)));

describe("a file is taken anew", () => {
  const ANN = '[serve]\nauth = "ann:1"\n';
  const BOB = '[serve]\nauth = "bob:2"\n';

  test("on SIGHUP", async () => {
    const server = await home.serve(ANN);
    expect(await statuses(server, "ann:1", "bob:2", undefined)).toEqual([200, 407, 407]);
    expect(await reload(server, BOB)).toEndWith(" info reloaded\n");
    expect(await statuses(server, "ann:1", "bob:2", undefined)).toEqual([407, 200, 407]);
  });

  test("when it is written over", async () => {
    const server = await home.serve(ANN);
    const said = await after(server, NOTICED, () => home.write("seikan.toml", BOB));
    expect(said).toEndWith(` info reloaded: ${home.config} changed\n`);
    expect(await statuses(server, "ann:1", "bob:2")).toEqual([407, 200]);
  });

  test("when another one takes its place", async () => {
    const server = await home.serve(ANN);
    home.write("next", BOB);
    await after(server, NOTICED, () => renameSync(home.file("next"), home.config));
    expect(await statuses(server, "ann:1", "bob:2")).toEqual([407, 200]);
    home.write("next", ANN);
    await after(server, NOTICED, () => renameSync(home.file("next"), home.config));
    expect(await statuses(server, "ann:1", "bob:2")).toEqual([200, 407]);
  });

  test("when a link leads to another one", async () => {
    home.write("one.toml", ANN);
    home.write("two.toml", BOB);
    symlinkSync("one.toml", home.config);
    const server = await home.start("serve", "-l", "127.0.0.1:0", "--config", home.config);
    symlinkSync("two.toml", home.file("link"));
    await after(server, NOTICED, () => renameSync(home.file("link"), home.config));
    expect(await statuses(server, "ann:1", "bob:2")).toEqual([407, 200]);
  });

  test("once it is there again: as long as it is away everything stays", async () => {
    const server = await home.serve(ANN);
    rmSync(home.config);
    const said = await after(server, REFUSED, () => server.kill("SIGHUP"));
    expect(said).toContain(`error cannot reload, everything stays as it was: cannot read ${home.config}: ENOENT\n`);
    expect(await statuses(server, "ann:1", undefined)).toEqual([200, 407]);
    await after(server, NOTICED, () => home.write("seikan.toml", BOB));
    expect(await statuses(server, "ann:1", "bob:2")).toEqual([407, 200]);
  });

  test("and is the last one, however fast they come", async () => {
    const server = await home.serve(ANN);
    for (let round = 0; round < 30; round++) {
      home.write("seikan.toml", round % 2 === 0 ? ANN : '[serve]\nauth = "ann:1"\n[broken\n');
      server.kill("SIGHUP");
    }
    await reload(server, BOB);
    expect(await statuses(server, "ann:1", "bob:2")).toEqual([407, 200]);
  });

  test("without what flags and the environment say: those count before it", async () => {
    home.write("seikan.toml", '[serve]\nauth = "ann:1"\n');
    const server = await home.start("serve", "-l", "127.0.0.1:0", "--config", home.config, "--auth", "flag:0");
    expect(await statuses(server, "flag:0", "ann:1")).toEqual([200, 407]);
    await reload(server, BOB);
    expect(await statuses(server, "flag:0", "ann:1", "bob:2")).toEqual([200, 407, 407]);
  });
});

/** A line of a user file. */
const hashed = (user: string) => {
  const [name, password] = user.split(":") as [string, string];
  return `${name}:${Bun.password.hashSync(password, { algorithm: "bcrypt", cost: 4 })}\n`;
};

describe("users", () => {
  test("come and go, with the file of the configuration and with their own", async () => {
    home.write("people", hashed("carol:3"));
    const server = await home.serve('[serve]\nauth = ["ann:1", "bob:2"]\n');
    const all = ["ann:1", "bob:2", "carol:3", "dan:4", undefined];
    expect(await statuses(server, ...all)).toEqual([200, 200, 407, 407, 407]);
    await reload(server, '[serve]\nauth = ["bob:2"]\nauth-file = "people"\n');
    expect(await statuses(server, ...all)).toEqual([407, 200, 200, 407, 407]);
    // The file that is new in it is watched, too, once it has been seen.
    await after(server, NOTICED, () => home.write("seikan.toml", '[serve]\nauth = "bob:2"\nauth-file = "people"\n#\n'));
    await after(server, NOTICED, () => home.write("people", hashed("dan:4")));
    expect(await statuses(server, ...all)).toEqual([407, 200, 407, 200, 407]);
    await reload(server, '[serve]\nauth = "bob:changed"\n');
    expect(await statuses(server, ...all, "bob:changed")).toEqual([407, 407, 407, 407, 407, 200]);
  });

  test("in a file that is new are watched from the first moment on", async () => {
    const server = await home.serve("");
    for (const name of ["one", "two", "three"]) {
      home.write(name, hashed("ann:1"));
      await reload(server, `[serve]\nauth-file = "${name}"\n`);
      await after(server, NOTICED, () => home.write(name, hashed("bob:2")), 2500);
    }
  });

  test("may be none, and become some", async () => {
    const server = await home.serve("");
    expect(await statuses(server, undefined, "ann:1")).toEqual([200, 200]);
    await reload(server, '[serve]\nauth = "ann:1"\n');
    expect(await statuses(server, undefined, "ann:1")).toEqual([407, 200]);
    await reload(server, "");
    expect(await statuses(server, undefined)).toEqual([200]);
  });

  test("that go are asked anew with the next request of their connection, and keep their tunnels", async () => {
    using echoing = new RawServer(echo);
    const server = await home.serve('[serve]\nauth = "ann:1"\n');
    const { client: tunnel, answer } = await connectTo(server, place(echoing), basic("ann:1"));
    using _ = tunnel;
    expect(answer.status).toBe(200);
    using kept = await dialRaw(server.port);
    const ask = (user: string) => kept.send(lines(`GET ${urlOf(web)}/x HTTP/1.1`, `Host: ${place(web)}`, basic(user)));
    expect((await ask("ann:1").response()).status).toBe(200);
    await reload(server, '[serve]\nauth = "bob:2"\n');
    tunnel.send("still here");
    await tunnel.sees("still here");
    expect((await ask("ann:1").response()).status).toBe(407);
  });
});

describe("[route]", () => {
  /** A proxy that says yes and sends back what it gets then. */
  function proxy(seen: string[]): RawServer {
    return new RawServer((socket) => void serveConnect(socket, seen));
  }

  async function serveConnect(socket: RawSocket, seen: string[]): Promise<void> {
    const head = await socket.sees("\r\n\r\n");
    seen.push(head.split("\r\n")[0]!);
    socket.send("HTTP/1.1 200 OK\r\n\r\n");
    let sent = socket.length;
    const back = () => {
      if (socket.length > sent) socket.send(socket.bytes.subarray(sent));
      sent = socket.length;
      return socket.ended || undefined;
    };
    await socket.until(back, "the end", 60_000).catch(() => {});
  }

  test("leads new connections the new way, and open ones go on", async () => {
    const [one, two]: [string[], string[]] = [[], []];
    using first = proxy(one);
    using second = proxy(two);
    const route = (to: RawServer) => `[route]\n"*.route.test" = "http://${place(to)}"\n`;
    const server = await home.serve(route(first));
    const { client: old, answer } = await connectTo(server, "a.route.test:80");
    using _ = old;
    expect([answer.status, one, two]).toEqual([200, ["CONNECT a.route.test:80 HTTP/1.1"], []]);
    await reload(server, route(second));
    const { client: next } = await connectTo(server, "b.route.test:80");
    using __ = next;
    expect([one.length, two]).toEqual([1, ["CONNECT b.route.test:80 HTTP/1.1"]]);
    for (const [client, text] of [
      [old, "through the first"],
      [next, "through the second"],
    ] as const) {
      client.send(text);
      await client.sees(text);
    }
    await reload(server, `[route]\n"*.route.test" = "direct"\n`);
    expect((await connectTo(server, "c.route.test:80")).answer.status).toBe(502);
    await reload(server, "");
    expect((await connectTo(server, "d.route.test:80")).answer.status).toBe(502);
    expect([one.length, two.length]).toEqual([1, 1]);
    old.send(", still");
    await old.sees("through the first, still");
  });

  test("and via: taken away, the next connection needs no proxy", async () => {
    using echoing = new RawServer(echo);
    const seen: string[] = [];
    using hop = proxy(seen);
    const server = await home.serve(`[serve]\nvia = "http://${place(hop)}"\n`);
    expect((await connectTo(server, "a.test:80")).answer.status).toBe(200);
    await reload(server, "[serve]\n");
    expect((await connectTo(server, place(echoing))).answer.status).toBe(200);
    expect((await connectTo(server, "a.test:80")).answer.status).toBe(502);
    expect(seen).toEqual(["CONNECT a.test:80 HTTP/1.1"]);
  });

  test("through a ws:// tunnel: taken away, what is open in it goes on until it ends", async () => {
    using echoing = new RawServer(echo);
    const far = await home.start("serve", "-l", "127.0.0.1:0");
    const server = await home.serve(`[route]\n"127.0.0.1:${echoing.port}" = "ws://127.0.0.1:${far.port}"\n`);
    const { client } = await connectTo(server, place(echoing));
    using _ = client;
    client.send("one").sees("one");
    await client.sees("one");
    const tunnels = () => eventsOf(far, "tunnel").length;
    await reload(server, "");
    client.send("two");
    await client.sees("onetwo");
    const { client: direct, answer } = await connectTo(server, place(echoing));
    using __ = direct;
    expect(answer.status).toBe(200);
    direct.send("straight");
    await direct.sees("straight");
    expect(echoing.accepted).toHaveLength(2);
    const before = tunnels();
    client.end();
    await client.receivesEnd();
    await until(() => tunnels() > before, "the far server logs its stream");
  });
});

describe("[token.NAME]", () => {
  const agent = (server: Running, name: string, ...args: string[]) =>
    home.start("agent", wsUrl(server), "--name", name, "-e", `${name}=${urlOf(web)}`, ...args);
  const visited = async (server: Running, name: string) => (await visit(server.port, `${name}.localhost`)).status;

  test("taken away disconnects its agents and nobody else, and given back lets them in again", async () => {
    const server = await home.serve(token("a") + token("b"));
    const one = await agent(server, "one", "--token", "a-token");
    const two = await agent(server, "two", "--token", "b-token");
    expect([await visited(server, "one"), await visited(server, "two")]).toEqual([200, 200]);
    await reload(server, token("b"));
    await happens(one, "disconnected");
    expect([await visited(server, "one"), await visited(server, "two")]).toEqual([503, 200]);
    await reload(server, token("a") + token("b"));
    await happens(one, "reconnected");
    expect([await visited(server, "one"), await visited(server, "two")]).toEqual([200, 200]);
    expect(eventsOf(two, "disconnected")).toEqual([]);
  });

  test("with less rights disconnects who uses what it has no more", async () => {
    const server = await home.serve(token("a", 'hosts = ["one", "two"]'));
    const one = await agent(server, "one", "--token", "a-token");
    const two = await agent(server, "two", "--token", "a-token");
    await reload(server, token("a", 'hosts = ["two", "three"]'));
    await happens(one, "disconnected");
    expect([await visited(server, "one"), await visited(server, "two")]).toEqual([503, 200]);
    expect(eventsOf(two, "disconnected")).toEqual([]);
  });

  test("all of them taken away lets nobody in, and nobody in for nothing", async () => {
    const server = await home.serve(token("a"));
    const one = await agent(server, "one", "--token", "a-token");
    home.write("seikan.toml", "");
    await after(server, TAKEN, () => server.kill("SIGHUP"), 2000);
    await happens(one, "disconnected");
    await happens(one, "connect-failed");
    expect(await visited(server, "one")).toBe(503);
    const { code } = await runAgent(server, "--name", "two", "-e", `two=${urlOf(web)}`);
    expect(code).toBe(4);
  });

  test("the first one that comes is asked for, or it is said that it counts later", async () => {
    const server = await home.serve("");
    const one = await agent(server, "one");
    const said = await reload(server, token("a"));
    if (/changed from the next start on: .*token/.test(said)) return;
    await happens(one, "disconnected", 1, 2000);
  });
});

/** The name in the certificate that a server shows. */
function shownName(port: number, servername: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connectTls({ host: "127.0.0.1", port, servername, rejectUnauthorized: false }, () => {
    resolve(String(socket.getPeerCertificate().subject.CN));
    socket.destroy();
  });
  socket.on("error", reject);
  return within(promise, `a handshake for ${servername}`);
}

describe("certificates", () => {
  const [a, b, c] = ["a.test", "b.test", "c.test"].map((name) => certificateFor(name));
  const withTls = (...certificates: (typeof a)[]) =>
    `[serve]\ntls-cert = ${JSON.stringify(certificates.map((one) => one!.certFile))}\ntls-key = ${JSON.stringify(certificates.map((one) => one!.keyFile))}\n`;
  const start = async (text: string) => {
    home.write("seikan.toml", text);
    return home.start("serve", "-l", "https://127.0.0.1:0", "--config", home.config);
  };

  test("of another path are shown to new clients, and open connections go on", async () => {
    const server = await start(withTls(a));
    const socket = connectTls({ host: "127.0.0.1", port: server.port, rejectUnauthorized: false });
    let text = "";
    socket.on("data", (chunk) => (text += chunk.toString()));
    const ask = () => socket.write("GET /-/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    ask();
    await until(() => text.split("HTTP/1.1 200").length === 2, "the first answer");
    expect(await shownName(server.port, "a.test")).toBe("a.test");
    await reload(server, withTls(b));
    expect([await shownName(server.port, "a.test"), await shownName(server.port, "b.test")]).toEqual([
      "b.test",
      "b.test",
    ]);
    ask();
    await until(() => text.split("HTTP/1.1 200").length === 3, "the second answer");
    socket.destroy();
  });

  test("may become several, and fewer again", async () => {
    const server = await start(withTls(a));
    await reload(server, withTls(a, b, c));
    for (const name of ["a.test", "b.test", "c.test"]) expect(await shownName(server.port, name)).toBe(name);
    expect(await shownName(server.port, "unknown.test")).toBe("a.test");
    await reload(server, withTls(c));
    expect(await shownName(server.port, "a.test")).toBe("c.test");
  });

  test("that cannot be used keep all of the file away, users and routes included", async () => {
    const server = await start(`${withTls(a)}auth = "ann:1"\n`);
    const wrong: [string, string][] = [
      [`tls-cert = "none.pem"\ntls-key = "none.key"\n`, `--tls-cert: cannot read ${home.file("none.pem")}: ENOENT`],
      [
        `tls-cert = "${a!.certFile}"\ntls-key = "${b!.keyFile}"\n`,
        `--tls-key: ${b!.keyFile} is not the key of ${a!.certFile}`,
      ],
      [`tls-cert = "${a!.keyFile}"\ntls-key = "${a!.keyFile}"\n`, `--tls-cert: ${a!.keyFile} holds no PEM certificate`],
      [`tls-cert = "${a!.certFile}"\n`, "1 --tls-cert but 0 --tls-key: they belong together in pairs"],
      ["", "an https:// listener needs --tls-cert and --tls-key"],
    ];
    for (const [text, why] of wrong) {
      expect(await refusal(server, `[serve]\nauth = "bob:2"\n${text}`)).toBe(
        `cannot reload, everything stays as it was: ${why}`,
      );
      expect(await shownName(server.port, "a.test")).toBe("a.test");
    }
    expect(await httpsStatus(server.port, "ann:1")).toBe(200);
    expect(await httpsStatus(server.port, "bob:2")).toBe(407);
  });

  test("that come only after the file that names them are noticed, without a further change of that", async () => {
    const server = await start(withTls(a));
    await after(server, REFUSED, () =>
      home.write("seikan.toml", `[serve]\ntls-cert = "new.pem"\ntls-key = "new.key"\n`),
    );
    const write = () => {
      home.write("new.key", b!.key);
      home.write("new.pem", b!.cert);
    };
    await after(server, NOTICED, write, 3000);
    expect(await shownName(server.port, "b.test")).toBe("b.test");
  });

  async function httpsStatus(port: number, user: string): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const socket = connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false }, () =>
      socket.write(lines(`GET ${urlOf(web)}/x HTTP/1.1`, `Host: ${place(web)}`, basic(user), "Connection: close")),
    );
    socket.once("data", (chunk) => resolve(Number(chunk.toString().split(" ")[1])));
    socket.on("error", reject);
    return within(promise, "an answer").finally(() => socket.destroy());
  }
});

describe("a file with a mistake", () => {
  const GOOD = '[serve]\nauth = "ann:1"\n[service.web]\nport = 1\n';
  const NEW = '[serve]\nauth = "bob:2"\n';

  const broken: [what: string, text: string, why: (path: string) => string][] = [
    [
      "an unknown key",
      `${NEW}lisen = 1\n`,
      (path) => `${path} has a mistake why="line 3: unknown key \`lisen\`: did you mean \`listen\`?"`,
    ],
    ["a wrong value", `${NEW}max-headers = 0\n`, (path) => `${path} has a mistake why="line 3: `],
    ["no TOML", `${NEW}[[[\n`, (path) => `${path} has a mistake why="line 3: `],
    [
      "several",
      `${NEW}lisen = 1\n[service.web]\ncomand = "x"\n`,
      (path) =>
        `${path} has 2 mistakes why="line 3: unknown key \`lisen\`: did you mean \`listen\`?; line 5: unknown key \`comand\`: did you mean \`command\`?"`,
    ],
    ["a wrong route", `${NEW}[route]\n"*.x" = "nope://p:1"\n`, (path) => `${path} has a mistake why="line 4: `],
    [
      "a wrong token",
      `${NEW}[token.x]\nhash = "sha256:00"\nagents = ["*"]\n`,
      (path) => `${path} has a mistake why="line 4: `,
    ],
    ["a user file that is not there", `${NEW}auth-file = "none"\n`, () => `--auth-file: cannot read ${"PATH"}`],
    ["a user without a password", '[serve]\nauth = "s3cretname"\n', (path) => `${path} has a mistake why="line 2: `],
  ];
  test("changes nothing and says where; the next right one is taken", async () => {
    const server = await home.serve(GOOD);
    for (const [what, text, why] of broken) {
      const said = await refusal(server, text);
      const expected = `cannot reload, everything stays as it was: ${why(home.config).replace("PATH", home.file("none"))}`;
      expect([what, said.startsWith(expected) ? expected : said]).toEqual([what, expected]);
      expect(said).not.toContain("s3cret");
      expect([what, ...(await statuses(server, "ann:1", undefined))]).toEqual([what, 200, 407]);
    }
    expect(await statuses(server, "bob:2")).toEqual([407]);
    expect((await at(server, "web")).status).toBe(502);
    await reload(server, NEW);
    expect(await statuses(server, "ann:1", "bob:2")).toEqual([407, 200]);
    expect((await at(server, "web")).status).toBe(404);
  });

  test("about a user is told with its line, too", async () => {
    const server = await home.serve(GOOD);
    expect(await refusal(server, '[serve]\nauth = "ann"\n')).toContain("line 2: ");
  });

  test("that is noticed by its change is told once, and the next change is noticed again", async () => {
    const server = await home.serve(GOOD);
    const said = await after(server, REFUSED, () => home.write("seikan.toml", "[serve]\nauth = true\n"));
    expect(said).toContain(`everything stays as it was: ${home.config} has a mistake why="line 2: `);
    expect(await statuses(server, "ann:1")).toEqual([200]);
    await after(server, NOTICED, () => home.write("seikan.toml", NEW));
    expect(await statuses(server, "bob:2")).toEqual([200]);
    expect(count(server, REFUSED)).toBe(1);
  });

  test("or one that is half written, changes nothing", async () => {
    const server = await home.serve(GOOD);
    await after(server, REFUSED, () => truncateSync(home.config, GOOD.length - 3));
    expect(await statuses(server, "ann:1", undefined)).toEqual([200, 407]);
  });
});

describe("what would open the server to everybody", () => {
  const outside = async (text: string) => {
    home.write("seikan.toml", text);
    const server = await home.start("serve", "-l", "0.0.0.0:0", "--config", home.config);
    return server;
  };
  const OPEN =
    "refusing to be an open proxy: a listener can be reached from other machines and nobody has to authenticate";
  /** Nobody gets in without a password. */
  const refused = async (server: Running, user?: string) => {
    const fields = user === undefined ? [] : [basic(user)];
    return (await connectTo(server, "192.0.2.1:80", ...fields)).answer.status;
  };

  test("is refused: the last user of a server that others reach", async () => {
    const server = await outside('[serve]\nauth = "ann:1"\nallow-net = "127.0.0.1"\n');
    for (const text of ['[serve]\nallow-net = "127.0.0.1"\n', "", "[serve]\nauth = []\n"]) {
      expect(await refusal(server, text)).toBe(
        `cannot reload, everything stays as it was: ${OPEN} why="add users with --auth-file FILE or --auth USER:PASS"`,
      );
      expect(await statuses(server, "ann:1", undefined)).toEqual([200, 407]);
    }
    expect(await refused(server)).toBe(407);
  });

  test("and so is an empty user file", async () => {
    home.write("people", hashed("ann:1"));
    const server = await outside('[serve]\nauth-file = "people"\nallow-net = "127.0.0.1"\n');
    expect(await statuses(server, "ann:1", undefined)).toEqual([200, 407]);
    const before = server.stderr().length;
    home.write("people", "");
    server.kill("SIGHUP");
    await until(() => / reload/.test(server.stderr().slice(before)), "it is read");
    // With or without a complaint: an empty list lets nobody in.
    expect(await statuses(server, undefined)).toEqual([407]);
  });

  test("no-auth counts from the next start on, and until then nobody gets in", async () => {
    const server = await outside('[serve]\nauth = "ann:1"\nallow-net = "127.0.0.1"\n');
    const said = await reload(server, '[serve]\nno-auth = true\nallow-net = "127.0.0.1"\n');
    expect(said).toContain("warn changed from the next start on: no-auth\n");
    expect((await statuses(server, undefined, "ann:1")).map((status) => status === 200)).toEqual([false, false]);
  });

  test("a domain that comes with the file does not make up for users that go", async () => {
    const server = await outside('[serve]\nauth = "ann:1"\nallow-net = "127.0.0.1"\n');
    home.write("seikan.toml", '[serve]\ndomain = "t.test"\nallow-net = "127.0.0.1"\n');
    const before = server.stderr().length;
    server.kill("SIGHUP");
    await until(() => / reload/.test(server.stderr().slice(before)), "it is read");
    expect((await statuses(server, undefined, "ann:1")).some((status) => status === 200)).toBe(false);
  });
});

describe("keys that count from the next start on", () => {
  test("are named", async () => {
    const server = await home.serve('[serve]\nmax-headers = 50\nauth = "ann:1"\n');
    const said = await reload(
      server,
      '[serve]\nmax-headers = 60\nadmin = "ann"\nallow-net = "10.0.0.0/8"\nauth = ["ann:1", "bob:2"]\nno-via = true\n[service.web]\nport = 1\n',
    );
    const named = /warn changed from the next start on: (.*)\n/.exec(said)![1]!.split(", ");
    expect(named.toSorted()).toEqual(["admin", "allow-net", "max-headers", "no-via"]);
    // The rest of it counts at once.
    expect(await statuses(server, "bob:2")).toEqual([200]);
    expect(await reload(server, '[serve]\nauth = "ann:1"\n')).toContain("warn changed from the next start on: ");
    expect(await reload(server, '[serve]\nauth = "bob:2"\n')).not.toContain("from the next start on");
  });

  test("are not named where a flag says otherwise anyway", async () => {
    const server = await home.serve("", "--max-headers", "40");
    expect(await reload(server, "[serve]\nmax-headers = 60\nlisten = 7\n")).not.toContain("from the next start on");
  });

  const limits: [string, string][] = [
    ["drain-timeout", '"1s"'],
    ["idle-timeout", '"1h"'],
    ["max-connections", "7"],
    ["linger-timeout", '"1s"'],
  ];
  for (const [key, value] of limits) {
    test(`are named: ${key}, which does not count at once either`, async () => {
      const server = await home.serve("");
      expect(await reload(server, `[serve]\n${key} = ${value}\n`)).toContain(`next start on: ${key}\n`);
    });
  }
});

describe("no reload ends what is open", () => {
  test("a tunnel, a connection that is kept, a WebSocket, an agent and its visitors, and a service", async () => {
    await using project = new Project();
    using echoing = new RawServer(echo);
    const part = (user: string, more: string) =>
      `[serve]\nauth = ["ann:1", "${user}:2"]\n${more}${token("a")}[service.web]\ncommand = ${JSON.stringify(dev())}\npublic = true\nidle = "1h"\n`;
    const server = await project.serve(part("bob", ""), [
      ...["--admin", "ann", "--allow-net=127.0.0.1", "--grant", "ann=*.agent.internal"],
    ]);
    const words = ["agent", wsUrl(server), "--token", "a-token", "--name", "one", "-e", `one=${urlOf(web)}`];
    const agent = await home.start(...words, "-e", `raw=tcp://${place(echoing)}`);
    const { client: tunnel } = await connectTo(server, place(echoing), basic("ann:1"));
    using _ = tunnel;
    const { client: raw } = await connectTo(server, "raw.agent.internal:1", basic("ann:1"));
    using __ = raw;
    using kept = await dialRaw(server.port);
    const visitKept = async () => {
      const answer = await kept
        .send(lines(`GET ${urlOf(web)}/x HTTP/1.1`, `Host: ${place(web)}`, basic("ann:1")))
        .response();
      return [answer.status, answer.body];
    };
    using visitor = await dialRaw(server.port);
    const visitOne = async () => (await visitor.send(get("one.localhost", "/y")).response()).body;
    expect([await visitKept(), await visitOne()]).toEqual([[200, "web /x"], "web /y"]);
    const pid = await pidAt(server, "web");
    using socket = await RawWebSocket.open(server.port, "/socket", { Host: "web.localhost" });
    const held = at(server, "web", `/held?gate=${project.gate("held")}`);
    await project.happens("web", "held");

    const files = [
      part("carol", ""),
      part("bob", 'via = "direct"\n'),
      `${part("bob", "")}[route]\n"*.x.test" = "http://127.0.0.1:1"\n`,
      `${part("bob", "")}${token("b")}[service.other]\nport = 1\n`,
      part("bob", "").replace("1h", "2h"),
      part("bob", "max-headers = 44\n"),
      "[broken\n",
      part("bob", ""),
    ];
    let said = "";
    for (const [round, text] of files.entries()) {
      await after(server, / info reloaded\n| error cannot reload.*\n/g, () => {
        project.configure(text);
        server.kill("SIGHUP");
      });
      said = `round ${round}`;
      tunnel.send(said);
      await tunnel.sees(said);
      raw.send(said);
      await raw.sees(said);
      expect([await visitKept(), await visitOne()]).toEqual([[200, "web /x"], "web /y"]);
      await socket.text(said).sees(said);
      expect(await pidAt(server, "web")).toBe(pid);
    }
    expect(count(server, REFUSED)).toBe(1);
    expect(count(server, TAKEN)).toBe(files.length - 1);
    project.open("held");
    expect((await held).status).toBe(200);
    expect(eventsOf(agent, "disconnected")).toEqual([]);
  });

  test("a service that was stopped by hand stays so, whatever the file says of it", async () => {
    await using project = new Project();
    const server = await project.serve({ web: { command: dev() } });
    const pid = await pidAt(server, "web");
    const stopped = Bun.file(project.file(`run/seikan/serve-${server.pid}.token`));
    const bearer = `Authorization: Bearer ${(await stopped.text()).trim()}`;
    const stop = lines("POST /-/services/web/stop HTTP/1.1", "Host: localhost", bearer, "Content-Length: 0");
    expect((await answerTo(server.port, stop)).status).toBe(200);
    await isGone(pid);
    await project.reconfigure(server, { web: { command: dev("--say", "changed") }, other: { port: 1 } });
    const answer = await at(server, "web");
    expect([answer.status, answer.body.split("\n")[0]]).toEqual([503, "seikan: web was stopped by hand"]);
    expect(project.pids("web")).toHaveLength(1);
  });
});

describe("seikan agent", () => {
  const agentFile = (text: string) => home.write("agent.toml", text);
  const start = (server: Running, ...args: string[]) =>
    home.start(
      "agent",
      wsUrl(server),
      "--config",
      home.file("agent.toml"),
      "--name",
      "one",
      "-e",
      `one=${urlOf(web)}`,
      ...args,
    );

  test("finds its servers in its file or in the environment; an argument counts before both", async () => {
    const server = await home.serve(token("a"));
    const dead = `ws://127.0.0.1:${freePort()}`;
    const run = (env: Record<string, string>, ...args: string[]) => {
      const line = ["agent", ...args, "--config", home.file("agent.toml"), "-e", `one=${urlOf(web)}`];
      return startSeikan(line, { XDG_RUNTIME_DIR: home.path, ...env });
    };
    agentFile(`[agent]\ntoken = "a-token"\nserver = ["${wsUrl(server)}"]\n`);
    await using first = await run({});
    expect((await visit(server.port, "one.localhost")).status).toBe(200);
    first.kill("SIGTERM");
    await first.exited;
    agentFile(`[agent]\ntoken = "a-token"\nserver = "${dead}"\n`);
    await using second = await run({ SEIKAN_SERVER: wsUrl(server) });
    expect((await visit(server.port, "one.localhost")).status).toBe(200);
    second.kill("SIGTERM");
    await second.exited;
    await using _third = await run({ SEIKAN_SERVER: dead }, wsUrl(server));
    expect((await visit(server.port, "one.localhost")).status).toBe(200);
  });

  test("takes a new token from its file on SIGHUP, and uses it when it connects again", async () => {
    const server = await home.serve(token("a") + token("b"));
    agentFile('[agent]\ntoken = "a-token"\n');
    const agent = await start(server);
    agentFile('[agent]\ntoken = "b-token"\n');
    const said = await after(agent, TAKEN, () => agent.kill("SIGHUP"));
    expect(said).toEndWith(" info reloaded the token\n");
    expect(eventsOf(agent, "disconnected")).toEqual([]);
    expect((await visit(server.port, "one.localhost")).status).toBe(200);
    await reload(server, token("b"));
    await happens(agent, "reconnected");
    expect((await visit(server.port, "one.localhost")).status).toBe(200);
    expect(server.stderr()).toContain("token=b");
  });

  test("takes one from a token file that its file names anew", async () => {
    const server = await home.serve(token("a") + token("b"));
    home.write("one", "a-token\n");
    home.write("two", "b-token\n");
    agentFile('[agent]\ntoken-file = "one"\n');
    const agent = await start(server);
    agentFile('[agent]\ntoken-file = "two"\n');
    await after(agent, TAKEN, () => agent.kill("SIGHUP"));
    await reload(server, token("b"));
    await happens(agent, "reconnected");
    expect((await visit(server.port, "one.localhost")).status).toBe(200);
  });

  test("keeps the old token where the new file is broken, and says why", async () => {
    const server = await home.serve(token("a") + token("b"));
    agentFile('[agent]\ntoken = "a-token"\n');
    const agent = await start(server);
    agentFile('[agent]\ntokn = "s3cret-token"\n');
    const said = await after(agent, / error cannot reload the token, the old one stays: .*\n/g, () =>
      agent.kill("SIGHUP"),
    );
    expect(said).toContain(`the old one stays: ${home.file("agent.toml")} has a mistake`);
    expect(said).not.toContain("s3cret");
    await reload(server, token("b"));
    await happens(agent, "connect-failed");
    await reload(server, token("a"));
    await happens(agent, "reconnected");
  });

  test("says in which line its file is broken", async () => {
    const server = await home.serve(token("a"));
    agentFile('[agent]\ntoken = "a-token"\n');
    const agent = await start(server);
    agentFile('[agent]\ntokn = "s3cret-token"\n');
    const said = await after(agent, / error cannot reload the token, the old one stays: .*\n/g, () =>
      agent.kill("SIGHUP"),
    );
    expect(said).toContain("line 2: unknown key `tokn`: did you mean `token`?");
  });

  test("names what counts from its next start on", async () => {
    const server = await home.serve(token("a"));
    agentFile('[agent]\ntoken = "a-token"\n');
    const agent = await start(server);
    agentFile('[agent]\ntoken = "b-token"\ndrain-timeout = "9s"\nupstream-insecure = true\n');
    const said = await after(agent, TAKEN, () => agent.kill("SIGHUP"));
    await until(() => agent.stderr().includes("from the next start on"), "the rest is named");
    expect(said).not.toContain("b-token");
    expect(agent.stderr()).toMatch(
      /warn changed from the next start on: (drain-timeout, upstream-insecure|upstream-insecure, drain-timeout)\n/,
    );
  });

  test("names [expose], too, which counts from its next start on", async () => {
    const server = await home.serve(token("a"));
    agentFile(`[agent]\ntoken = "a-token"\n[expose.one]\nto = "${urlOf(web)}"\n`);
    const agent = await home.start("agent", wsUrl(server), "--config", home.file("agent.toml"), "--name", "one");
    agentFile(`[agent]\ntoken = "a-token"\n[expose.two]\nto = "${urlOf(web)}"\n`);
    await after(agent, TAKEN, () => agent.kill("SIGHUP"));
    // Whatever it has to say comes before the next reload is told.
    await after(agent, TAKEN, () => agent.kill("SIGHUP"));
    expect(agent.stderr()).toContain("changed from the next start on: expose\n");
  });
});
