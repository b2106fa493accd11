import { afterAll, afterEach, describe, expect, jest, spyOn, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { tcpTarget, type IpAddress, type ListenAddress, type Target } from "../../src/core/address.ts";
import { deadlineIn } from "../../src/core/clock.ts";
import { SeikanError } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { removeIfStale } from "../../src/transports/stale-socket.ts";
import { listen, resolveTarget, tcpDialer, type TcpOptions } from "../../src/transports/tcp.ts";
import type { Listener, Peer } from "../../src/transports/transport.ts";
import { CAN_LISTEN_RAW, DeafListener, FullListener } from "../support/full-listener.ts";
import { soon } from "../support/pairs.ts";
import { freePort, TempFolder } from "../support/process.ts";
import { dialRaw, echo, RawServer } from "../support/raw.ts";
import { Recorder, reset, until } from "../support/wait.ts";

const HAS_V6 = canListenOnV6();

function canListenOnV6(): boolean {
  try {
    new RawServer(undefined, { hostname: "::1", port: 0 })[Symbol.dispose]();
    return true;
  } catch {
    return false;
  }
}

/** What the resolver says about `two.test`: no resolver at hand knows a name with several addresses. */
let two: string[] = [];
const realLookup = Bun.dns.lookup.bind(Bun.dns);
const lookup = spyOn(Bun.dns, "lookup").mockImplementation((name, options) => {
  if (name !== "two.test") return realLookup(name, options);
  const records = two.map((address) => ({ address, family: address.includes(":") ? 6 : 4, ttl: 0 }) as const);
  return Promise.resolve(records.filter(({ family }) => !options?.family || options.family === family) as never);
});
afterAll(() => lookup.mockRestore());
afterEach(() => jest.useRealTimers());

async function failure(work: Promise<unknown>): Promise<SeikanError> {
  const error = await work.then(
    () => new Error("it succeeded"),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof SeikanError)) throw error;
  return error;
}

/** Dials, says something to an echo and resolves to what came back. */
async function converse(target: Target, options: TcpOptions = {}): Promise<string> {
  const stream = await tcpDialer(options)(target, { deadline: soon() });
  const recorder = new Recorder(stream);
  stream.write(Buffer.from("ping"));
  stream.end();
  await recorder.end();
  return recorder.text;
}

const refuse = () => {
  throw new SeikanError("address-denied", "not there");
};

describe("a dial by name", () => {
  test("resolves the name", async () => {
    using server = new RawServer(echo);
    expect(await converse(tcpTarget("localhost", server.port))).toBe("ping");
  });

  test("uses the address it was given for host and port, and for those only", async () => {
    using server = new RawServer(echo);
    const resolve = new Map([[`a.test:${server.port}`, "127.0.0.1"]]);
    expect(await converse(tcpTarget("a.test", server.port), { resolve })).toBe("ping");
    const other = resolveTarget(
      tcpTarget("a.test", 1),
      { resolve: new Map([["a.test:1", "10.9.8.7"]]) },
      { deadline: soon() },
    );
    expect(await other).toBe("10.9.8.7");
  });

  test("of a host that does not exist fails", async () => {
    const error = await failure(tcpDialer()(tcpTarget("no-such-host.invalid", 80), { deadline: soon() }));
    expect([error.code, error.outcome.exit]).toEqual(["name-not-found", 3]);
  });

  test("fails with name-timeout when the time is up before the name is known", async () => {
    jest.useFakeTimers();
    const dial = failure(tcpDialer()(tcpTarget("localhost", 80), { deadline: deadlineIn(1000) }));
    jest.advanceTimersByTime(1001);
    const error = await dial;
    expect([error.code, error.outcome.exit]).toEqual(["name-timeout", 124]);
  });

  for (const order of [
    ["127.0.0.1", "::1"],
    ["::1", "127.0.0.1"],
  ]) {
    test.if(HAS_V6)(`tries the next address when one refuses: ${order.join(", ")}`, async () => {
      two = order;
      for (const hostname of order) {
        using server = new RawServer(echo, { hostname, port: 0 });
        expect(await converse(tcpTarget("two.test", server.port))).toBe("ping");
      }
    });

    test.if(HAS_V6 && CAN_LISTEN_RAW)(`does not wait for an address that is silent: ${order.join(", ")}`, async () => {
      two = order;
      await using silent = await FullListener.on(order[0]!);
      using server = new RawServer(echo, { hostname: order[1]!, port: silent.port });
      expect(await converse(tcpTarget("two.test", server.port))).toBe("ping");
    });
  }

  test("tells all addresses it tried when each refuses", async () => {
    two = ["127.0.0.1", "127.0.0.2", "127.0.0.1"];
    const error = await failure(converse(tcpTarget("two.test", freePort())));
    expect(error.code).toBe("connect-refused");
    expect(error.message).toContain("127.0.0.1, 127.0.0.2)");
  });

  test("alternates the IP versions, the resolver's first choice in front", async () => {
    const asked: string[] = [];
    const permit = (address: IpAddress) => (asked.push(address.toString()), refuse());
    two = ["::2", "::1", "127.0.0.1", "127.0.0.2", "127.0.0.3"];
    await failure(tcpDialer()(tcpTarget("two.test", 1), { deadline: soon(), permit }));
    two = ["127.0.0.1", "127.0.0.2", "::1"];
    await failure(tcpDialer()(tcpTarget("two.test", 1), { deadline: soon(), permit }));
    expect(asked).toEqual(["::2", "127.0.0.1", "::1", "127.0.0.2", "127.0.0.3", "127.0.0.1", "::1", "127.0.0.2"]);
  });

  test.if(HAS_V6)("keeps to the IP version it is told", async () => {
    two = ["127.0.0.1", "::1"];
    using server = new RawServer(echo, { hostname: "127.0.0.1", port: 0 });
    const target = tcpTarget("two.test", server.port);
    expect(await converse(target, { family: 4 })).toBe("ping");
    expect((await failure(converse(target, { family: 6 }))).code).toBe("connect-refused");
    two = ["127.0.0.1"];
    expect((await failure(converse(target, { family: 6 }))).code).toBe("name-not-found");
  });
});

describe("a permit", () => {
  test("is asked about each address, with the target, before anything is sent", async () => {
    two = ["127.0.0.1", "127.0.0.2"];
    using server = new RawServer(echo);
    const target = tcpTarget("two.test", server.port);
    const asked: string[] = [];
    const permit = (address: IpAddress, about: Target) => {
      expect(about).toEqual(target);
      expect(server.accepted).toHaveLength(0);
      asked.push(address.toString());
    };
    const stream = await tcpDialer()(target, { deadline: soon(), permit });
    expect(asked).toEqual(two);
    stream.abort(reset());
  });

  test("that refuses every address refuses the dial, with its own error", async () => {
    two = ["127.0.0.1", "127.0.0.2"];
    using server = new RawServer();
    const error = await failure(tcpDialer()(tcpTarget("two.test", server.port), { deadline: soon(), permit: refuse }));
    expect(error.code).toBe("address-denied");
    expect(server.accepted).toHaveLength(0);
  });

  test("sees a literal, and what a given address means", async () => {
    for (const [host, resolve] of [
      ["127.0.0.1", new Map()],
      ["a.test", new Map([["a.test:1", "::ffff:127.0.0.1"]])],
    ] as const) {
      const asked: string[] = [];
      const permit = (address: IpAddress) => (asked.push(address.toString()), refuse());
      await failure(tcpDialer({ resolve })(tcpTarget(host, 1), { deadline: soon(), permit }));
      expect(asked).toEqual(["127.0.0.1"]);
    }
  });

  test("that refuses one address leaves the others: a mixed answer reaches the permitted ones only", async () => {
    two = ["127.0.0.2", "127.0.0.1"];
    const permit = (address: IpAddress) => void (address.toString() === "127.0.0.1" || refuse());
    using server = new RawServer(echo);
    const stream = await tcpDialer()(tcpTarget("two.test", server.port), { deadline: soon(), permit });
    expect(stream.label).toContain("127.0.0.1");
    stream.abort(reset());
    // And where only the refused one listens, nothing is reached.
    using other = new RawServer(echo, { hostname: "127.0.0.2", port: 0 });
    expect((await failure(tcpDialer()(tcpTarget("two.test", other.port), { deadline: soon(), permit }))).code).toBe(
      "connect-refused",
    );
    expect(other.accepted).toHaveLength(0);
  });
});

describe("a dial", () => {
  test("to a port nobody listens on is refused", async () => {
    const error = await failure(tcpDialer()(tcpTarget("127.0.0.1", freePort()), { deadline: soon() }));
    expect([error.code, error.outcome.exit, error.outcome.status]).toEqual(["connect-refused", 3, 502]);
  });

  test.if(CAN_LISTEN_RAW)("that nobody answers fails with connect-timeout", async () => {
    await using silent = await FullListener.on("127.0.0.1");
    const error = await failure(tcpDialer()(tcpTarget("127.0.0.1", silent.port), { deadline: deadlineIn(150) }));
    expect([error.code, error.outcome.exit, error.outcome.status]).toEqual(["connect-timeout", 124, 504]);
  });

  test("whose time is up fails with connect-timeout, and what opens afterwards is closed again", async () => {
    using server = new RawServer();
    jest.useFakeTimers();
    const dial = failure(tcpDialer()(tcpTarget("127.0.0.1", server.port), { deadline: deadlineIn(1000) }));
    // The timer is set some microtasks later; the connection needs a turn of the event loop.
    for (let i = 0; i < 20; i++) await Promise.resolve();
    jest.advanceTimersByTime(1001);
    jest.useRealTimers();
    expect((await dial).code).toBe("connect-timeout");
    const socket = await server.next();
    await socket.over();
  });

  test("to a socket file that is not there fails", async () => {
    using folder = new TempFolder();
    const error = await failure(tcpDialer()({ kind: "unix", path: folder.file("none") }, { deadline: soon() }));
    expect(error.outcome.exit).toBe(3);
    expect(["connect-refused", "connect-failed"]).toContain(error.code);
  });
});

// --- listening -------------------------------------------------------------------

interface Open extends Disposable {
  readonly listener: Listener;
  readonly accepted: { stream: ByteStream; peer: Peer }[];
}

function open(address: ListenAddress): Open {
  const accepted: { stream: ByteStream; peer: Peer }[] = [];
  const listener = listen(address, (stream, peer) => accepted.push({ stream, peer }));
  return {
    listener,
    accepted,
    [Symbol.dispose]() {
      listener.close();
      for (const { stream } of accepted) stream.abort(reset());
    },
  };
}

const ANY = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;

describe("a listener", () => {
  test("says where it listens, and who connected", async () => {
    using server = open(ANY);
    const { listener, accepted } = server;
    expect(listener.addresses).toEqual([`127.0.0.1:${listener.port}`]);
    const stream = await tcpDialer()(tcpTarget("127.0.0.1", listener.port!), { deadline: soon() });
    await until(() => accepted.length === 1, "it accepts");
    expect(accepted[0]!.peer.address).toBe("127.0.0.1");
    expect(accepted[0]!.stream.label).toContain(`127.0.0.1:${accepted[0]!.peer.port}`);
    stream.abort(reset());
  });

  test.if(HAS_V6)("on localhost has one port on both loopback addresses", async () => {
    using server = open({ kind: "tcp", host: "localhost", port: 0 });
    const { listener, accepted } = server;
    expect(listener.addresses).toEqual([`127.0.0.1:${listener.port}`, `[::1]:${listener.port}`]);
    for (const host of ["127.0.0.1", "::1"]) {
      const count = accepted.length;
      using socket = await dialRaw({ port: listener.port!, hostname: host });
      await until(() => accepted.length > count, `it accepts on ${host}`);
      expect(accepted.at(-1)!.peer.address).toBe(host);
      socket.reset();
    }
  });

  test.if(HAS_V6)("on localhost fails where one of the two is taken, and lets the other go", () => {
    using taken = new RawServer(undefined, { hostname: "::1", port: 0 });
    expect(() => open({ kind: "tcp", host: "localhost", port: taken.port })).toThrow(SeikanError);
    using free = open({ kind: "tcp", host: "127.0.0.1", port: taken.port });
    expect(free.listener.port).toBe(taken.port);
  });

  test.if(HAS_V6)("on every address names an IPv4 client by its IPv4 address", async () => {
    using server = open({ kind: "tcp", host: "::", port: 0 });
    using socket = await dialRaw(server.listener.port!);
    await until(() => server.accepted.length === 1, "it accepts");
    expect(server.accepted[0]!.peer.address).toBe("127.0.0.1");
    socket.reset();
  });

  test("on a taken port fails with exit code 2", async () => {
    using first = open(ANY);
    const error = await failure(Promise.try(() => open({ ...ANY, port: first.listener.port! })));
    expect([error.code, error.outcome.exit, error.hints.length]).toEqual(["listen-failed", 2, 1]);
  });

  test("on an address of another machine fails", async () => {
    const error = await failure(Promise.try(() => open({ kind: "tcp", host: "192.0.2.1", port: 0 })));
    expect(error.code).toBe("listen-failed");
  });

  test("on a socket file in no folder fails", async () => {
    const error = await failure(Promise.try(() => open({ kind: "unix", path: "/nonexistent-folder/s" })));
    expect(error.code).toBe("listen-failed");
  });

  test("on a socket file that is taken fails, and leaves that alone", async () => {
    using folder = new TempFolder();
    const path = folder.file("s");
    using first = open({ kind: "unix", path });
    const error = await failure(Promise.try(() => open({ kind: "unix", path })));
    expect(error.code).toBe("listen-failed");
    using socket = await dialRaw({ unix: path });
    await until(() => first.accepted.length === 1, "the first one accepts");
    socket.reset();
  });

  test("accepts on a unix socket, where clients have no address", async () => {
    using folder = new TempFolder();
    using server = open({ kind: "unix", path: folder.file("s") });
    expect([server.listener.addresses, server.listener.port]).toEqual([[`unix:${folder.file("s")}`], undefined]);
    using socket = await dialRaw({ unix: folder.file("s") });
    await until(() => server.accepted.length === 1, "it accepts");
    expect(server.accepted[0]!.peer).toEqual({ address: "", port: 0 });
    socket.reset();
  });

  test.if(CAN_LISTEN_RAW)("takes a descriptor that listens already", async () => {
    const inherited = new DeafListener("127.0.0.1", 16);
    using server = open({ kind: "fd", fd: inherited.fd });
    expect([server.listener.addresses, server.listener.port]).toEqual([[`127.0.0.1:${inherited.port}`], undefined]);
    using socket = await dialRaw(inherited.port);
    await until(() => server.accepted.length === 1, "it accepts");
    socket.reset();
  });

  test("that is closed refuses, and leaves its streams alone", async () => {
    using server = open(ANY);
    const { listener, accepted } = server;
    using socket = await dialRaw(listener.port!);
    await until(() => accepted.length === 1, "it accepts");
    listener.close();
    listener.close();
    const error = await failure(tcpDialer()(tcpTarget("127.0.0.1", listener.port!), { deadline: soon() }));
    expect(error.code).toBe("connect-refused");
    accepted[0]!.stream.write(Buffer.from("still here"));
    await socket.sees("still here");
  });
});

describe("a socket file", () => {
  /** The file of a listener that was killed. */
  async function leaveStale(path: string): Promise<void> {
    const code = `Bun.listen({ unix: ${JSON.stringify(path)}, socket: { data() {} } }); console.log("up");`;
    const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", stderr: "ignore" });
    await child.stdout.getReader().read();
    child.kill("SIGKILL");
    await child.exited;
  }

  test("of a listener that is gone is removed", async () => {
    using folder = new TempFolder();
    const path = folder.file("s");
    await leaveStale(path);
    expect(existsSync(path)).toBe(true);
    await removeIfStale(path);
    expect(existsSync(path)).toBe(false);
    using server = open({ kind: "unix", path });
    expect(server.listener.addresses).toEqual([`unix:${path}`]);
  });

  test("of a listener that lives stays", async () => {
    using folder = new TempFolder();
    const path = folder.file("s");
    using _server = open({ kind: "unix", path });
    await removeIfStale(path);
    expect(existsSync(path)).toBe(true);
  });

  // Any failure of the probe counts as "gone", EAGAIN of a full queue and the probe's own timeout included.
  (CAN_LISTEN_RAW ? test : test.skip)("of a listener that is too busy to accept stays", async () => {
    using folder = new TempFolder();
    const path = folder.file("s");
    await using _server = await FullListener.on(path);
    await removeIfStale(path);
    expect(existsSync(path)).toBe(true);
  });

  test("that is none stays", async () => {
    using folder = new TempFolder();
    writeFileSync(folder.file("file"), "precious");
    mkdirSync(folder.file("folder"));
    for (const name of ["file", "folder", "nothing"]) await removeIfStale(folder.file(name));
    expect(folder.names).toEqual(["file", "folder"]);
  });
});
