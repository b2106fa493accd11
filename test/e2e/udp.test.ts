import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { certificateFor } from "../support/certificates.ts";
import { freePort, spawnSeikan } from "../support/process.ts";
import { program } from "../support/programs.ts";
import { byteByByte } from "../support/random.ts";
import { dialRaw, RawServer, type RawSocket } from "../support/raw.ts";
import { runProgram, runSeikan, startSeikan, type Running } from "../support/seikan.ts";
import {
  capsule,
  dnsResponder,
  payloads,
  scriptedUdpProxy,
  udpCapsule,
  udpEcho,
  UdpPeer,
  varint,
} from "../support/udp.ts";
import { pattern, until, within } from "../support/wait.ts";

setDefaultTimeout(60_000);

const SIZES = [0, 1, 1400, 9000, 65_507];

let echoing: UdpPeer;
let echoing6: UdpPeer;
let server: Running;
let target: string;
beforeAll(async () => {
  [echoing, echoing6, server] = await Promise.all([
    udpEcho(),
    udpEcho("::1"),
    startSeikan(["serve", "-l", "127.0.0.1:0", "--access-log", "json"]),
  ]);
  target = `127.0.0.1:${echoing.port}`;
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  for (const peer of [echoing, echoing6]) peer[Symbol.dispose]();
});

const eventsOf = (running: Running, name: string) => running.events().filter(({ event }) => event === name);
const ways = (): [string, string[]][] => [
  ["directly", []],
  ["through http://", ["--via", `http://127.0.0.1:${server.port}`]],
  ["through ws://", ["--via", `ws://127.0.0.1:${server.port}`]],
];
const WAYS = ["directly", "through http://", "through ws://"];
const way = (name: string) => ways().find(([known]) => known === name)![1];
const portOf = (running: Running, index = 0) => Number(running.listeners[index]!.split(":").at(-1));

/** One datagram of each size, one after the other: each comes back whole, and nothing else does. */
async function echoesSizes(port: number): Promise<void> {
  using peer = await UdpPeer.open();
  for (const [index, size] of SIZES.entries()) {
    const payload = pattern(size, index + 1);
    peer.send(payload, port);
    const back = await peer.next();
    expect([back.payload.length, back.port]).toEqual([size, port]);
    expect(Bun.hash(back.payload)).toBe(Bun.hash(payload));
  }
}

describe("-L udp:", () => {
  for (const name of WAYS) {
    test(`${name}: datagrams of every size keep their borders`, async () => {
      await using running = await startSeikan(["connect", "-L", `udp:127.0.0.1:0=${target}`, ...way(name)]);
      expect(running.listeners[0]).toMatch(/^(udp:)?127\.0\.0\.1:[1-9]\d*$/);
      await echoesSizes(portOf(running));
    });

    test(`${name}: two local peers are two flows`, async () => {
      using hand = await UdpPeer.open();
      await using running = await startSeikan([
        "connect",
        "-L",
        `udp:127.0.0.1:0=127.0.0.1:${hand.port}`,
        ...way(name),
      ]);
      using one = await UdpPeer.open();
      using two = await UdpPeer.open();
      one.send("from one", portOf(running));
      const first = await hand.next();
      two.send("from two", portOf(running));
      const second = await hand.next();
      expect([first.payload.toString(), second.payload.toString()]).toEqual(["from one", "from two"]);
      expect(first.port).not.toBe(second.port);
      // What comes back goes to whom it is for, also several and unasked.
      hand.send("to two", second.port);
      hand.send("to two again", second.port);
      hand.send("to one", first.port);
      expect((await two.next()).payload.toString()).toBe("to two");
      expect((await two.next()).payload.toString()).toBe("to two again");
      expect((await one.next()).payload.toString()).toBe("to one");
      // The same peer is the same flow.
      one.send("once more", portOf(running));
      expect((await hand.next()).port).toBe(first.port);
      expect([one.received.length, two.received.length]).toEqual([1, 2]);
    });
  }

  test("the forms: PORT:HOST:PORT, and a target by argument", async () => {
    await using running = await startSeikan([
      ...["connect", "-L", `udp:127.0.0.1:0:${target}`, "-L", "udp:127.0.0.1:0", `udp:${target}`],
    ]);
    for (const index of [0, 1]) await echoesSizes(portOf(running, index));
  });

  // dialUdp() binds its socket to 0.0.0.0, whatever the target's address: EAFNOSUPPORT. Bun wants hostname "::" then.
  test("a target that is an IPv6 address", async () => {
    await using six = await startSeikan(["connect", "-L", `udp:127.0.0.1:0=[::1]:${echoing6.port}`]);
    using peer = await UdpPeer.open();
    peer.send("six", portOf(six));
    expect((await peer.next(2000)).payload.toString()).toBe("six");
    await echoesSizes(portOf(six));
  });

  const wrong: [string, string[]][] = [
    ["no target", ["-L", "udp:0"]],
    ["a TCP target by argument", ["-L", "udp:0", "127.0.0.1:1"]],
    ["a unix socket", ["-L", "udp:unix:/x=127.0.0.1:1"]],
    ["a port that is none", ["-L", "udp:99999=127.0.0.1:1"]],
    ["a dynamic one", ["-L", "udp:socks5://0"]],
  ];
  for (const [what, args] of wrong) {
    test(`${what} is a usage error`, async () => {
      const { code, stdout, stderr } = await runSeikan(["connect", ...args]);
      expect([code, stdout]).toEqual([2, ""]);
      expect(stderr).toContain("seikan: error:");
    });
  }

  test("a busy port is exit code 2 and names it", async () => {
    const { code, stderr } = await runSeikan(["connect", "-L", `udp:${target}=127.0.0.1:1`]);
    expect(code).toBe(2);
    expect(stderr).toContain(target);
  });

  test("a hundred datagrams at once arrive in order", async () => {
    using hand = await UdpPeer.open();
    await using running = await startSeikan([
      ...["connect", "-L", `udp:127.0.0.1:0=127.0.0.1:${hand.port}`, ...way("through ws://")],
    ]);
    using peer = await UdpPeer.open();
    // The flow is open once the first came through; before that some are kept, not all.
    peer.send("0", portOf(running));
    await hand.next();
    for (let i = 1; i < 100; i++) peer.send(String(i), portOf(running));
    await until(() => hand.received.length === 100, "all are there");
    expect(hand.received.map(({ payload }) => Number(payload))).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  test("what is sent while the flow is made is delivered first", async () => {
    using hand = await UdpPeer.open();
    await using running = await startSeikan([
      ...["connect", "-L", `udp:127.0.0.1:0=127.0.0.1:${hand.port}`, ...way("through http://")],
    ]);
    using peer = await UdpPeer.open();
    for (const text of ["a", "b", "c"]) peer.send(text, portOf(running));
    await until(() => hand.received.length === 3, "all are there");
    expect(hand.received.map(({ payload }) => payload.toString())).toEqual(["a", "b", "c"]);
  });

  test("an idle flow expires with --idle-timeout, and the next datagram opens another", async () => {
    using hand = await UdpPeer.open();
    await using running = await startSeikan([
      ...["connect", "-L", `udp:127.0.0.1:0=127.0.0.1:${hand.port}`, "--idle-timeout", "1s", ...way("through ws://")],
    ]);
    using peer = await UdpPeer.open();
    peer.send("one", portOf(running));
    const first = await hand.next();
    await until(() => eventsOf(running, "closed").length === 1, "the flow expires");
    expect(eventsOf(running, "closed")[0]).toMatchObject({ target: `udp:127.0.0.1:${hand.port}`, end: "idle-timeout" });
    peer.send("two", portOf(running));
    const second = await hand.next();
    expect(second.payload.toString()).toBe("two");
    expect(second.port).not.toBe(first.port);
    hand.send("back", second.port);
    expect((await peer.next()).payload.toString()).toBe("back");
  });

  test("a target that is refused is logged, and other flows live on", async () => {
    await using strict = await startSeikan(["serve", "-l", "127.0.0.1:0", "--deny-net", "127.0.0.1:9"]);
    const hop = ["--via", `ws://127.0.0.1:${strict.port}`];
    await using running = await startSeikan([
      ...["connect", "-L", `udp:127.0.0.1:0=${target}`, "-L", "udp:127.0.0.1:0=127.0.0.1:9", ...hop],
    ]);
    using peer = await UdpPeer.open();
    peer.send("x", portOf(running, 1));
    await until(() => eventsOf(running, "failed").length > 0, "it is told");
    expect(eventsOf(running, "failed")[0]).toMatchObject({ target: "udp:127.0.0.1:9", code: "hop-refused" });
    await until(() => running.stderr().includes("--deny-net forbids it"), "the reason is logged");
    await echoesSizes(portOf(running));
  });

  test.skipIf(program("dig") === undefined)("dig asks through it", async () => {
    using dns = await dnsResponder("192.0.2.7");
    for (const name of WAYS) {
      await using running = await startSeikan([
        ...["connect", "-L", `udp:127.0.0.1:0=127.0.0.1:${dns.port}`, ...way(name)],
      ]);
      const dig = ["dig", "@127.0.0.1", "-p", String(portOf(running)), "+short", "+tries=1", "+time=10"];
      const { code, stdout } = await runProgram([...dig, "www.example.test", "A"]);
      expect([name, code, stdout]).toEqual([name, 0, "192.0.2.7\n"]);
    }
    expect(dns.received).toHaveLength(3);
  });
});

describe("stdin and stdout", () => {
  for (const name of WAYS) {
    test(`${name}: what is written is a datagram, what comes is printed, and EOF waits for the last answer`, async () => {
      await using child = spawnSeikan(["connect", `udp:${target}`, ...way(name)]);
      child.write("ping");
      await child.prints("ping");
      child.write(" pong");
      child.closeStdin();
      expect(await child.exited()).toBe(0);
      expect([child.stdout, child.stderr]).toEqual(["ping pong", ""]);
    });
  }

  test("a refused flow: exit code 3 and its reason", async () => {
    await using strict = await startSeikan(["serve", "-l", "127.0.0.1:0", "--deny-net", target]);
    for (const scheme of ["http", "ws"]) {
      const hop = `${scheme}://127.0.0.1:${strict.port}`;
      const { code, stdout, stderr } = await runSeikan(["connect", `udp:${target}`, "--via", hop], { stdin: "x" });
      expect([scheme, code, stdout]).toEqual([scheme, 3, ""]);
      expect(stderr).toContain(`${hop} refused connect-udp to 127.0.0.1 port ${echoing.port}: 403`);
      expect(stderr).toContain("--deny-net forbids it");
    }
  });

  test("hops that carry no UDP are told as such", async () => {
    for (const scheme of ["socks5", "socks4a"]) {
      const hop = `${scheme}://127.0.0.1:${server.port}`;
      const { code, stderr } = await runSeikan(["connect", `udp:${target}`, "--via", hop], { stdin: "x" });
      expect([scheme, code]).toEqual([scheme, 2]);
      expect(stderr).toContain(`a SOCKS proxy cannot reach udp:${target}`);
    }
  });

  test("through a chain: two tunnels, and TLS", async () => {
    const { certFile, keyFile } = certificateFor("localhost", "127.0.0.1");
    await using secure = await startSeikan([
      ...["serve", "-l", "https://127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile, "--auth", "a:b"],
    ]);
    const plain = `127.0.0.1:${server.port}`;
    const guarded = `a:b@localhost:${secure.port}`;
    const chains = [
      [`ws://${plain}`, `wss://${guarded}`],
      [`http://${plain}`, `https://${guarded}`],
      [`wss://${guarded}`, `http://${plain}`],
      [`socks5h://${plain}`, `wss://${guarded}`],
    ];
    const run = async (hops: string[]) => {
      const via = hops.flatMap((hop) => ["--via", hop]);
      await using child = spawnSeikan(["connect", `udp:${target}`, ...via, "--proxy-cacert", certFile]);
      child.write("through all of it");
      await child.prints("through all of it");
      child.closeStdin();
      expect([hops, await child.exited(), child.stderr]).toEqual([hops, 0, ""]);
    };
    await Promise.all(chains.map(run));
  });
});

// --- connect-udp ------------------------------------------------------------------------

/** The request of RFC 9298 section 3.2, but for the changes. */
function udpRequest(path: string, fields: string[] = [], line = `GET ${path} HTTP/1.1`): string {
  const upgrade = ["Host: localhost", "Connection: Upgrade", "Upgrade: connect-udp", "Capsule-Protocol: ?1"];
  return [line, ...upgrade, ...fields, "", ""].join("\r\n");
}
const pathTo = (host: string, port: number) => `/.well-known/masque/udp/${host}/${port}/`;

async function flow(to: { readonly port: number }, path: string, fields?: string[]): Promise<RawSocket> {
  const socket = await dialRaw(to.port);
  socket.send(udpRequest(path, fields));
  const { status, statusLine, body } = await socket.response();
  if (status === 101) return socket;
  socket.reset();
  throw new Error(`${statusLine}: ${body}`);
}

describe("serve, asked for connect-udp by hand", () => {
  test("answers 101 with the fields of RFC 9298, and each capsule is a datagram", async () => {
    using client = await dialRaw(server.port);
    client.send(udpRequest(pathTo("127.0.0.1", echoing.port)));
    const { status, values } = await client.response();
    expect(status).toBe(101);
    expect(values("upgrade")).toEqual(["connect-udp"]);
    expect(values("connection").map((value) => value.toLowerCase())).toEqual(["upgrade"]);
    expect(values("capsule-protocol")).toEqual(["?1"]);
    for (const [index, size] of SIZES.entries()) {
      const payload = pattern(size, 20 + index);
      client.send(udpCapsule(payload));
      const all = await payloads(client, index + 1);
      expect([all.length, all[index]!.length]).toEqual([index + 1, size]);
      expect(Bun.hash(all[index]!)).toBe(Bun.hash(payload));
    }
  });

  test("absolute-form, and more lenient writing", async () => {
    const path = pathTo("127.0.0.1", echoing.port);
    for (const line of [
      `GET http://127.0.0.1:${server.port}${path} HTTP/1.1`,
      `GET https://proxy.example${path} HTTP/1.1`,
      `GET ${path.replace(/\/$/, "")} HTTP/1.1`,
      `GET ${path}?x=y HTTP/1.1`,
    ]) {
      using client = await dialRaw(server.port);
      client.send(udpRequest("", [], line));
      expect([line, (await client.response()).status]).toEqual([line, 101]);
      client.send(udpCapsule("hello"));
      expect((await payloads(client, 1)).map(String)).toEqual(["hello"]);
    }
  });

  test("hosts: a name, and one with percent signs", async () => {
    for (const host of ["localhost", "%6cocalhost", "127%2E0%2E0%2E1"]) {
      using client = await flow(server, pathTo(host, echoing.port));
      client.send(udpCapsule(host));
      expect((await payloads(client, 1)).map(String)).toEqual([host]);
    }
  });

  test("an IPv6 address percent-encoded is understood, in any way of writing it", async () => {
    await using strict = await startSeikan(["serve", "-l", "127.0.0.1:0", "--deny-net", "[::1]:7"]);
    for (const host of ["%3A%3A1", "0%3a0%3a0%3a0%3a0%3a0%3a0%3a1"]) {
      using client = await dialRaw(strict.port);
      client.send(udpRequest(pathTo(host, 7)));
      const { status, body } = await client.response();
      expect([status, body.includes("[::1]:7 may not be dialled")]).toEqual([403, true]);
    }
  });

  // See "a target that is an IPv6 address".
  test("an IPv6 address percent-encoded is sent to", async () => {
    using client = await flow(server, pathTo("%3A%3A1", echoing6.port));
    client.send(udpCapsule("six"));
    expect((await payloads(client, 1)).map(String)).toEqual(["six"]);
  });

  test("capsules that arrive byte by byte, or many at once", async () => {
    const texts = ["", "a", "b".repeat(61), "c".repeat(62), "d".repeat(63), "e".repeat(300)];
    using client = await flow(server, pathTo("127.0.0.1", echoing.port));
    client.send(Buffer.concat(texts.map(udpCapsule)));
    expect((await payloads(client, texts.length)).map(String)).toEqual(texts);
    using slow = await flow(server, pathTo("127.0.0.1", echoing.port));
    using turn = await dialRaw(server.port);
    const short = ["", "a", "b".repeat(63)];
    for (const byte of byteByByte(Buffer.concat(short.map(udpCapsule)))) {
      slow.send(byte);
      // Answered behind it: the byte has arrived alone.
      turn.send("GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
      expect((await turn.response()).status).toBe(200);
    }
    expect((await payloads(slow, short.length)).map(String)).toEqual(short);
  });

  test("other capsules and contexts are skipped, and long ways to write numbers understood", async () => {
    using hand = await UdpPeer.open();
    using client = await flow(server, pathTo("127.0.0.1", hand.port));
    client.send(udpCapsule("first"));
    client.send(capsule(0x1c0fe323, "an address assignment?"));
    client.send(capsule(0x29, pattern(100_000)));
    client.send(capsule(0x2a, ""));
    client.send(capsule(0, Buffer.concat([Buffer.of(2), Buffer.from("another context")])));
    // Type, length and context in eight bytes each.
    client.send(Buffer.concat([varint(0, 8), varint(8 + 6, 8), varint(0, 8), Buffer.from("second")]));
    await until(() => hand.received.length >= 2, "two datagrams");
    expect(hand.received.map(({ payload }) => payload.toString())).toEqual(["first", "second"]);
  });

  const malformed: [string, Buffer][] = [
    ["a datagram that no UDP packet could hold", Buffer.concat([varint(0), varint(70_000), varint(0)])],
    ["a datagram without a context", capsule(0, "")],
    ["a context that is cut", capsule(0, Buffer.of(0x40))],
  ];
  for (const [what, bytes] of malformed) {
    test(`${what} ends the flow, and no other`, async () => {
      using other = await flow(server, pathTo("127.0.0.1", echoing.port));
      using client = await flow(server, pathTo("127.0.0.1", echoing.port));
      client.send(bytes);
      await client.over();
      other.send(udpCapsule("alive"));
      expect((await payloads(other, 1)).map(String)).toEqual(["alive"]);
    });
  }

  const refused: [string, () => string, number, string][] = [
    ["no upgrade", () => `GET ${pathTo("127.0.0.1", 9)} HTTP/1.1\r\nHost: x\r\n\r\n`, 426, "asks for no upgrade"],
    ["another method", () => udpRequest("", [], `POST ${pathTo("127.0.0.1", 9)} HTTP/1.1`), 400, "GET"],
    ["HTTP/1.0", () => udpRequest("", [], `GET ${pathTo("127.0.0.1", 9)} HTTP/1.0`), 400, "HTTP/1.1"],
    ["a body", () => `${udpRequest(pathTo("127.0.0.1", 9), ["Content-Length: 1"])}x`, 400, "without a body"],
    ["port 0", () => udpRequest(pathTo("127.0.0.1", 0)), 400, "names no host and port"],
    ["port 65536", () => udpRequest(pathTo("127.0.0.1", 65_536)), 400, "names no host and port"],
    ["no port", () => udpRequest("/.well-known/masque/udp/127.0.0.1/"), 400, "names no host and port"],
    ["too much path", () => udpRequest("/.well-known/masque/udp/127.0.0.1/9/x/"), 400, "names no host and port"],
    ["a host that is none", () => udpRequest(pathTo("a%2Fb", 9)), 400, "names no host and port"],
    ["half a percent sign", () => udpRequest(pathTo("a%2", 9)), 400, "names no host and port"],
    ["bytes that are no UTF-8", () => udpRequest(pathTo("%ff", 9)), 400, "names no host and port"],
    ["a name that does not exist", () => udpRequest(pathTo("no-such-host.invalid", 9)), 502, "no-such-host.invalid"],
  ];
  for (const [what, request, status, sentence] of refused) {
    test(`${what}: ${status} and a sentence`, async () => {
      using client = await dialRaw(server.port);
      client.send(request());
      const answer = await client.response();
      expect([answer.status, answer.body.includes(sentence)]).toEqual([status, true]);
      expect(answer.values("proxy-status").join()).toContain("seikan; error=");
    });
  }

  // errorAnswer() names websocket in every 426.
  test("a 426 names the protocol that the path speaks", async () => {
    using client = await dialRaw(server.port);
    client.send(`GET ${pathTo("127.0.0.1", 9)} HTTP/1.1\r\nHost: x\r\n\r\n`);
    expect((await client.response()).values("upgrade")).toEqual(["connect-udp"]);
  });

  test("--allow-net and --deny-net hold, and the server's own TCP port is not meant", async () => {
    await using strict = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--access-log", "json", `--allow-net=${target}`, "--deny-net", "localhost"],
    ]);
    using right = await flow(strict, pathTo("127.0.0.1", echoing.port));
    right.send(udpCapsule("x"));
    await payloads(right, 1);
    for (const path of [pathTo("127.0.0.1", 9), pathTo("localhost", echoing.port), pathTo("%3A%3A1", echoing6.port)]) {
      using client = await dialRaw(strict.port);
      client.send(udpRequest(path));
      expect([path, (await client.response()).status]).toEqual([path, 403]);
    }
    const logged = eventsOf(strict, "tunnel").map((event) => [event.method, event.target, event.status]);
    expect(logged).toContainEqual(["CONNECT-UDP", "udp:127.0.0.1:9", 403]);
  });

  test("users: 401 without, 101 with Authorization or Proxy-Authorization, and the log names the user", async () => {
    await using guarded = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--auth", "ann:secret"],
    ]);
    const path = pathTo("127.0.0.1", echoing.port);
    const basic = (text: string) => `Basic ${Buffer.from(text).toString("base64")}`;
    using none = await dialRaw(guarded.port);
    none.send(udpRequest(path));
    const { status, values } = await none.response();
    expect(status).toBe(401);
    expect(values("www-authenticate").join()).toStartWith("Basic ");
    using wrong = await dialRaw(guarded.port);
    wrong.send(udpRequest(path, [`Authorization: ${basic("ann:nope")}`]));
    expect((await wrong.response()).status).toBe(401);
    for (const name of ["Authorization", "Proxy-Authorization"]) {
      using client = await flow(guarded, path, [`${name}: ${basic("ann:secret")}`]);
      client.send(udpCapsule(name));
      expect((await payloads(client, 1)).map(String)).toEqual([name]);
      client.end();
      await client.receivesEnd();
    }
    await until(() => eventsOf(guarded, "tunnel").length === 2, "both flows are logged");
    for (const event of eventsOf(guarded, "tunnel")) {
      expect(event).toMatchObject({ method: "CONNECT-UDP", target: `udp:${target}`, user: "ann", status: 101 });
    }
    const url = `http://ann:nope@127.0.0.1:${guarded.port}`;
    const { code, stderr } = await runSeikan(["connect", `udp:${target}`, "--via", url], { stdin: "x" });
    expect([code, stderr.includes("401"), stderr.includes("nope")]).toEqual([4, true, false]);
  });

  test("an idle flow expires with --idle-timeout", async () => {
    await using brief = await startSeikan([
      "serve",
      "-l",
      "127.0.0.1:0",
      "--access-log",
      "json",
      "--idle-timeout",
      "1s",
    ]);
    using client = await flow(brief, pathTo("127.0.0.1", echoing.port));
    client.send(udpCapsule("x"));
    await payloads(client, 1);
    await client.over();
    await until(() => eventsOf(brief, "tunnel").length === 1, "it is logged");
    expect(eventsOf(brief, "tunnel")[0]).toMatchObject({ end: "idle-timeout" });
  });

  // Once ICMP said so, the connected socket's send() throws ECONNREFUSED, and FlowDriver.write() ends the flow.
  test("a port that nobody listens on ends nothing: somebody may listen later", async () => {
    using client = await flow(server, pathTo("127.0.0.1", freePort()));
    client.send(Buffer.concat(Array.from({ length: 5 }, () => udpCapsule("anybody?"))));
    using other = await flow(server, pathTo("127.0.0.1", echoing.port));
    other.send(udpCapsule("turn"));
    await payloads(other, 1);
    expect(client.ended).toBe(false);
  });

  // The same for EMSGSIZE: RFC 9298 allows capsules of up to 65527 bytes, IPv4 carries 65507.
  test("a datagram that the system does not take is lost, and the flow goes on", async () => {
    using client = await flow(server, pathTo("127.0.0.1", echoing.port));
    client.send(udpCapsule(pattern(65_520)));
    client.send(udpCapsule("next"));
    expect((await payloads(client, 1)).map(String)).toEqual(["next"]);
  });
});

describe("somebody else's RFC 9298 proxy as a hop", () => {
  const accept =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n";

  test("is asked as the RFC says, with credentials, and carries datagrams of every size", async () => {
    using proxy = scriptedUdpProxy(() => accept);
    const hop = `http://ann:secret@127.0.0.1:${proxy.port}`;
    await using running = await startSeikan(["connect", "-L", "udp:127.0.0.1:0=[2001:db8::1]:5353", "--via", hop]);
    await echoesSizes(portOf(running));
    const head = proxy.accepted[0]!.text.slice(0, proxy.accepted[0]!.text.indexOf("\r\n\r\n"));
    const [line, ...fields] = head.split("\r\n");
    expect(line).toBe("GET /.well-known/masque/udp/2001%3Adb8%3A%3A1/5353/ HTTP/1.1");
    const credentials = `Basic ${Buffer.from("ann:secret").toString("base64")}`;
    for (const field of [
      ...[`Host: 127.0.0.1:${proxy.port}`, "Connection: Upgrade", "Upgrade: connect-udp", "Capsule-Protocol: ?1"],
      ...[`Authorization: ${credentials}`, `Proxy-Authorization: ${credentials}`],
    ]) {
      expect(fields).toContain(field);
    }
  });

  const answers: [string, string, number, RegExp][] = [
    ["404", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 3, /404[\s\S]*RFC 9298/],
    ["200", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 3, /200[\s\S]*RFC 9298/],
    ["403", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 3, /403[\s\S]*it says: no/],
    ["401", 'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n', 4, /401/],
    ["another upgrade", accept.replace("Upgrade: connect-udp", "Upgrade: websocket"), 3, /another protocol/],
    ["no HTTP", "SSH-2.0-x\r\n", 3, /does not answer in HTTP/],
  ];
  for (const [what, answer, code, says] of answers) {
    test(`answers ${what}: exit code ${code}, and the hop is named`, async () => {
      using proxy = scriptedUdpProxy(() => answer);
      const hop = `http://127.0.0.1:${proxy.port}`;
      const outcome = await runSeikan(["connect", "udp:192.0.2.1:53", "--via", hop], { stdin: "x" });
      expect([outcome.code, outcome.stdout]).toEqual([code, ""]);
      expect(outcome.stderr).toContain(hop);
      expect(outcome.stderr).toMatch(says);
    });
  }

  test("answers nothing: exit code 124", async () => {
    using proxy = new RawServer();
    const hop = ["--via", `http://127.0.0.1:${proxy.port}`, "--connect-timeout", "600ms"];
    expect((await runSeikan(["connect", "udp:192.0.2.1:53", ...hop], { stdin: "x" })).code).toBe(124);
  });

  test("that cuts the flow is an error, and one that sends nonsense, too", async () => {
    using cutting = scriptedUdpProxy(() => accept);
    const hop = (proxy: RawServer) => ["--via", `http://127.0.0.1:${proxy.port}`];
    await using child = spawnSeikan(["connect", "udp:192.0.2.1:53", ...hop(cutting)]);
    child.write("ping");
    await child.prints("ping");
    cutting.accepted[0]!.reset();
    expect(await child.exited()).toBe(1);
    using mad = scriptedUdpProxy(() => `${accept}\0\x80\x7f\xff\xff\0`);
    await using other = spawnSeikan(["connect", "udp:192.0.2.1:53", ...hop(mad)]);
    expect(await other.exited()).toBe(1);
    expect(other.stderr).toContain("datagram");
  });
});

// --- SOCKS ----------------------------------------------------------------------------------

/** A SOCKS 5 client that asked for UDP. */
class Association implements Disposable {
  readonly control: RawSocket;
  readonly peer: UdpPeer;
  readonly port: number;

  constructor(control: RawSocket, peer: UdpPeer, port: number) {
    this.control = control;
    this.peer = peer;
    this.port = port;
  }

  static async open(to: number, login?: [string, string]): Promise<Association> {
    const control = await dialRaw(to);
    const method = login === undefined ? 0 : 2;
    control.send(Uint8Array.of(5, 1, method));
    let start = 2;
    await control.receives(start);
    if (login !== undefined && control.bytes[1] === method) {
      const [user, password] = login.map((text) => Buffer.from(text)) as [Buffer, Buffer];
      control.send(Buffer.concat([Buffer.of(1, user.length), user, Buffer.of(password.length), password]));
      start = 4;
      await control.receives(start);
    }
    if (control.bytes[1] !== method || (start === 4 && control.bytes[3] !== 0)) {
      control.reset();
      throw new Error(`SOCKS answers ${control.bytes.toString("hex")}`);
    }
    control.send(Uint8Array.of(5, 3, 0, 1, 0, 0, 0, 0, 0, 0));
    const reply = (await control.receives(start + 10)).subarray(start);
    expect(reply.subarray(0, 8).toString("hex")).toBe("050000017f000001");
    return new Association(control, await UdpPeer.open(), reply.readUInt16BE(8));
  }

  /** A datagram for a target, as RFC 1928 section 7 wraps it. */
  static wrap(host: string, port: number, payload: Uint8Array | string, fragment = 0): Buffer {
    const isName = !/^[\d.]+$/.test(host);
    const address = isName ? [3, host.length, ...Buffer.from(host)] : [1, ...host.split(".").map(Number)];
    const head = Buffer.from([0, 0, fragment, ...address, port >> 8, port & 255]);
    return Buffer.concat([head, Buffer.from(payload as string)]);
  }

  send(host: string, port: number, payload: Uint8Array | string, fragment = 0): void {
    this.peer.send(Association.wrap(host, port, payload, fragment), this.port);
  }

  /** The next datagram without its head, and whom it is from. */
  async next(): Promise<{ from: string; payload: Buffer }> {
    const { payload: bytes } = await this.peer.next();
    expect(bytes.subarray(0, 3).toString("hex")).toBe("000000");
    if (bytes[3] === 3) {
      const end = 5 + bytes[4]!;
      const from = `${bytes.subarray(5, end).toString()}:${bytes.readUInt16BE(end)}`;
      return { from, payload: bytes.subarray(end + 2) };
    }
    return { from: `${bytes.subarray(4, 8).join(".")}:${bytes.readUInt16BE(8)}`, payload: bytes.subarray(10) };
  }

  [Symbol.dispose](): void {
    this.control.reset();
    this.peer[Symbol.dispose]();
  }
}

describe("SOCKS 5 UDP ASSOCIATE", () => {
  let direct: Running;
  let tunnelled: Running;
  let proxied: Running;
  beforeAll(async () => {
    const dynamic = (...args: string[]) => startSeikan(["connect", "-L", "mixed://127.0.0.1:0", ...args]);
    [direct, tunnelled, proxied] = await Promise.all([
      dynamic(),
      dynamic("--via", `ws://127.0.0.1:${server.port}`),
      dynamic("--via", `http://127.0.0.1:${server.port}`),
    ]);
  });
  afterAll(async () => {
    await Promise.all([direct, tunnelled, proxied].map((one) => one?.[Symbol.asyncDispose]()));
  });

  const places: [string, () => Running][] = [
    ["serve", () => server],
    ["a mixed:// listener", () => direct],
    ["a mixed:// listener through ws://", () => tunnelled],
    ["a mixed:// listener through http://", () => proxied],
  ];
  for (const [name, place] of places) {
    test(`${name}: two targets, by address and by name, with answers that say whom they are from`, async () => {
      using other = await udpEcho();
      using association = await Association.open(place().port);
      association.send("127.0.0.1", echoing.port, "to the first");
      expect(await association.next()).toEqual({ from: target, payload: Buffer.from("to the first") });
      association.send("127.0.0.1", other.port, "to the second");
      expect(await association.next()).toEqual({
        from: `127.0.0.1:${other.port}`,
        payload: Buffer.from("to the second"),
      });
      association.send("localhost", other.port, "by name");
      const named = await association.next();
      expect([named.from, named.payload.toString()]).toEqual([`localhost:${other.port}`, "by name"]);
    });

    test(`${name}: datagrams of every size`, async () => {
      using association = await Association.open(place().port);
      // The head takes ten bytes of what one datagram can hold.
      for (const size of SIZES.map((one) => Math.min(one, 65_497))) {
        const payload = pattern(size, size + 1);
        association.send("127.0.0.1", echoing.port, payload);
        const back = await association.next();
        expect([back.from, back.payload.length, Bun.hash(back.payload)]).toEqual([target, size, Bun.hash(payload)]);
      }
    });
  }

  test("only the client's own port is listened to: others are ignored", async () => {
    using hand = await UdpPeer.open();
    using association = await Association.open(direct.port);
    using stranger = await UdpPeer.open();
    association.send("127.0.0.1", hand.port, "mine");
    const first = await hand.next();
    stranger.send(Association.wrap("127.0.0.1", hand.port, "not mine"), association.port);
    association.send("127.0.0.1", hand.port, "mine again");
    await hand.next();
    hand.send("back", first.port);
    expect((await association.next()).payload.toString()).toBe("back");
    expect(hand.received.map(({ payload }) => payload.toString())).toEqual(["mine", "mine again"]);
    expect(stranger.received).toEqual([]);
  });

  test("the target's answers count from the target alone", async () => {
    using hand = await UdpPeer.open();
    using stranger = await UdpPeer.open();
    using association = await Association.open(direct.port);
    association.send("127.0.0.1", hand.port, "question");
    const { port } = await hand.next();
    stranger.send("forged", port);
    hand.send("answer", port);
    expect(await association.next()).toEqual({ from: `127.0.0.1:${hand.port}`, payload: Buffer.from("answer") });
    expect(association.peer.received).toHaveLength(1);
  });

  test("fragments and nonsense are dropped, and nothing else is", async () => {
    using hand = await UdpPeer.open();
    using association = await Association.open(direct.port);
    association.send("127.0.0.1", hand.port, "first");
    await hand.next();
    association.send("127.0.0.1", hand.port, "a fragment", 1);
    association.send("127.0.0.1", hand.port, "the last fragment", 0x81);
    association.send("127.0.0.1", 0, "port 0");
    const whole = Association.wrap("127.0.0.1", hand.port, "");
    for (let length = 0; length < whole.length; length++)
      association.peer.send(whole.subarray(0, length), association.port);
    for (const nonsense of [
      Buffer.from([0, 0, 0, 9, 1, 2, 3, 4, 5, 6]),
      Buffer.from([0, 0, 0, 3, 255, 1, 2, 3]),
      Buffer.from([0, 0, 0, 3, 3, 0xff, 0xfe, 0xfd, 0, 53]),
      Buffer.from([0, 0, 0, 3, 0, 0, 53]),
      Buffer.from([0, 0, 0, 3, 3, 32, 32, 32, 0, 53]),
      pattern(500, 41),
    ]) {
      association.peer.send(nonsense, association.port);
    }
    association.send("127.0.0.1", hand.port, "last");
    await hand.next();
    expect(hand.received.map(({ payload }) => payload.toString())).toEqual(["first", "last"]);
    expect(association.control.ended).toBe(false);
  });

  test("it ends with its control connection: what is sent then goes nowhere", async () => {
    using hand = await UdpPeer.open();
    for (const how of ["end", "reset"] as const) {
      using association = await Association.open(server.port);
      const before = eventsOf(server, "tunnel").length;
      association.send("127.0.0.1", hand.port, how);
      const { port } = await hand.next();
      if (how === "end") association.control.end();
      else association.control.reset();
      await until(() => eventsOf(server, "tunnel").length > before, "the flow is logged");
      expect(eventsOf(server, "tunnel").at(-1)).toMatchObject({
        method: "SOCKS5-UDP",
        target: `udp:127.0.0.1:${hand.port}`,
      });
      association.send("127.0.0.1", hand.port, "too late");
      hand.send("too late, too", port);
      // A round trip of somebody else: whatever was under way has arrived.
      using other = await Association.open(server.port);
      other.send("127.0.0.1", hand.port, "somebody else");
      const next = await hand.next();
      expect(next.payload.toString()).toBe("somebody else");
      hand.send("back", next.port);
      expect((await other.next()).payload.toString()).toBe("back");
      expect(association.peer.received).toEqual([]);
    }
  });

  test("a flow that is idle for --idle-timeout is over, the association is not", async () => {
    using hand = await UdpPeer.open();
    await using brief = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--idle-timeout", "1s"],
    ]);
    using association = await Association.open(brief.port);
    association.send("127.0.0.1", hand.port, "one");
    const first = await hand.next();
    await until(() => eventsOf(brief, "tunnel").length === 1, "the flow expires");
    expect(eventsOf(brief, "tunnel")[0]).toMatchObject({ end: "idle-timeout" });
    association.send("127.0.0.1", hand.port, "two");
    const second = await hand.next();
    expect([second.payload.toString(), second.port === first.port]).toEqual(["two", false]);
    hand.send("back", second.port);
    expect((await association.next()).payload.toString()).toBe("back");
  });

  test("users and --deny-net hold: a wrong password is refused, a denied target logged and silent", async () => {
    await using guarded = await startSeikan([
      ...["serve", "-l", "127.0.0.1:0", "--access-log", "json", "--auth", "ann:secret", "--deny-net", "127.0.0.1:9"],
    ]);
    using association = await Association.open(guarded.port, ["ann", "secret"]);
    association.send("127.0.0.1", 9, "denied");
    await until(() => eventsOf(guarded, "tunnel").length === 1, "the refusal is logged");
    expect(eventsOf(guarded, "tunnel")[0]).toMatchObject({ target: "udp:127.0.0.1:9", user: "ann", status: 403 });
    association.send("127.0.0.1", echoing.port, "allowed");
    expect((await association.next()).payload.toString()).toBe("allowed");
    await expect(Association.open(guarded.port, ["ann", "wrong"])).rejects.toThrow("SOCKS answers 05020101");
    await expect(Association.open(guarded.port)).rejects.toThrow("SOCKS answers 05ff");
  });

  test("SIGTERM ends a server that has an idle association within --drain-timeout, with 0", async () => {
    await using own = await startSeikan(["serve", "-l", "127.0.0.1:0", "--drain-timeout", "500ms"]);
    using association = await Association.open(own.port);
    association.send("127.0.0.1", echoing.port, "x");
    await association.next();
    own.kill("SIGTERM");
    await association.control.over();
    expect(await within(own.exited, "the end", 5000)).toBe(0);
  });
});

describe("how -L udp: ends", () => {
  test("SIGTERM closes the socket, and it ends with 0 within --drain-timeout", async () => {
    await using running = await startSeikan([
      ...["connect", "-L", `udp:127.0.0.1:0=${target}`, "--drain-timeout", "500ms", ...way("through ws://")],
    ]);
    await echoesSizes(portOf(running));
    running.kill("SIGTERM");
    expect(await within(running.exited, "the end", 5000)).toBe(0);
  });

  test("a server that is killed: the flow is lost, and the next datagrams go through the new one", async () => {
    const port = freePort();
    await using first = await startSeikan(["serve", "-l", `127.0.0.1:${port}`]);
    await using running = await startSeikan([
      ...["connect", "-L", `udp:127.0.0.1:0=${target}`, "--via", `ws://127.0.0.1:${port}`],
    ]);
    await echoesSizes(portOf(running));
    first.kill("SIGKILL");
    await until(() => eventsOf(running, "tunnel-lost").length === 1, "the tunnel is lost");
    await using second = await startSeikan(["serve", "-l", `127.0.0.1:${port}`]);
    await until(() => eventsOf(running, "tunnel-up").length === 2, "it is up again");
    await echoesSizes(portOf(running));
    expect(second.stderr()).toContain("tunnel opened");
  });
});
