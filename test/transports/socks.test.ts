import { describe, expect, test } from "bun:test";
import { tcpTarget, type Target, type TcpTarget } from "../../src/core/address.ts";
import { deadlineIn } from "../../src/core/clock.ts";
import { OUTCOMES, SeikanError, type ErrorCode } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import {
  acceptSocks,
  answerSocks,
  socksDialer,
  socksReplyFor,
  type SocksHop,
  type SocksInbound,
  type VerifyUser,
} from "../../src/transports/socks.ts";
import type { DialOptions } from "../../src/transports/transport.ts";
import { SOCKS5_REPLY, type Socks5Reply } from "../../src/wire/socks.ts";
import { FakeDriver } from "../support/fake-driver.ts";
import { soon, tcpPair } from "../support/pairs.ts";
import { byteByByte, splits } from "../support/random.ts";
import type { StreamPair } from "../contract/stream.ts";
import { Recorder } from "../support/wait.ts";

const PROXY = tcpTarget("proxy.test", 1080);
const TARGET = tcpTarget("origin.test", 443);
const ALICE = { user: "alice", password: "hunter2-hunter2" };
const onlyAlice: VerifyUser = async ({ user, password }) => user === ALICE.user && password === ALICE.password;

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");

async function failure(work: Promise<unknown>): Promise<SeikanError> {
  const error = await work.then(
    () => new Error("it succeeded"),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof SeikanError)) throw error;
  return error;
}

function hopOf(hop: Partial<SocksHop>): SocksHop {
  return { version: 5, proxy: PROXY, credentials: undefined, resolve: undefined, ...hop };
}

/** Our client against our server over this pair. */
async function meet(
  pair: { left: ByteStream; right: ByteStream },
  hop: Partial<SocksHop>,
  target: Target,
  verify?: VerifyUser,
  reply: Socks5Reply = "succeeded",
): Promise<{ stream: ByteStream | SeikanError; inbound: SocksInbound | SeikanError }> {
  const full = hopOf(hop);
  const dial = socksDialer(full, async () => pair.left)(target, { deadline: soon() });
  const accepting = acceptSocks(pair.right, full.version, verify, soon()).then((inbound) => {
    answerSocks(pair.right, full.version, reply);
    return inbound;
  });
  const settle = <T>(work: Promise<T>) => work.catch((error: SeikanError) => error);
  const [stream, inbound] = await Promise.all([settle(dial), settle(accepting)]);
  return { stream, inbound };
}

function memory(): { left: ByteStream; right: ByteStream } {
  const [left, right] = memoryPair({ chunk: 3 });
  return { left, right };
}

const PAIRS: [string, () => Promise<{ left: ByteStream; right: ByteStream } | StreamPair>][] = [
  ["memory, three bytes at a time", async () => memory()],
  ["tcp", tcpPair],
];

for (const [transport, connect] of PAIRS) {
  describe(`SOCKS over ${transport}`, () => {
    for (const version of [5, 4] as const) {
      for (const target of [TARGET, tcpTarget("10.1.2.3", 65535)]) {
        test(`${version} asks for ${target.host} and carries bytes both ways`, async () => {
          const pair = await connect();
          const { stream, inbound } = await meet(pair, { version }, target);
          if (stream instanceof Error || inbound instanceof Error) throw stream;
          expect(inbound).toMatchObject({ request: { version, command: "connect", target }, user: undefined });
          pair.right.write(Buffer.from("banner"));
          const recorder = new Recorder(stream);
          await recorder.received(6);
          expect(recorder.text).toBe("banner");
          stream.write(Buffer.from("to the target"));
          stream.end();
          const far = new Recorder(pair.right);
          await far.end();
          expect(far.text).toBe("to the target");
          pair.right.end();
          await recorder.close();
        });
      }
    }

    test("5 authenticates", async () => {
      const { stream, inbound } = await meet(await connect(), { credentials: ALICE }, TARGET, onlyAlice);
      expect(stream).not.toBeInstanceOf(Error);
      expect(inbound).toMatchObject({ user: "alice", request: { target: TARGET } });
    });
  });
}

describe("a SOCKS server", () => {
  test("refuses a wrong password, and the client says so without showing it", async () => {
    const { stream, inbound } = await meet(
      memory(),
      { credentials: { ...ALICE, password: "wrong-secret" } },
      TARGET,
      onlyAlice,
    );
    expect(stream).toMatchObject({ code: "hop-auth", outcome: OUTCOMES["hop-auth"] });
    expect(inbound).toMatchObject({ code: "auth-required" });
    expect(`${Bun.inspect(stream)}${Bun.inspect(inbound)}`).not.toContain("wrong-secret");
  });

  test("refuses a client that offers no password where it wants one", async () => {
    const { stream, inbound } = await meet(memory(), {}, TARGET, onlyAlice);
    expect([(stream as SeikanError).code, (inbound as SeikanError).code]).toEqual(["hop-auth", "auth-required"]);
  });

  test("asks for no password where it wants none", async () => {
    const { inbound } = await meet(memory(), { credentials: ALICE }, TARGET);
    expect(inbound).toMatchObject({ user: undefined });
  });

  test("refuses SOCKS 4 where it wants a password", async () => {
    const { stream, inbound } = await meet(memory(), { version: 4 }, TARGET, onlyAlice);
    expect([(stream as SeikanError).code, (inbound as SeikanError).code]).toEqual(["hop-refused", "auth-required"]);
  });

  test("tells the user id of SOCKS 4", async () => {
    const { inbound } = await meet(memory(), { version: 4, credentials: ALICE }, TARGET);
    expect(inbound).toMatchObject({ request: { userId: "alice" } });
  });

  for (const reply of Object.keys(SOCKS5_REPLY).filter((name) => name !== "succeeded") as Socks5Reply[]) {
    test(`passes "${reply}" on as a refusal`, async () => {
      const { stream } = await meet(memory(), {}, TARGET, undefined, reply);
      expect(stream).toMatchObject({ code: "hop-refused", outcome: OUTCOMES["hop-refused"] });
    });
  }

  test("refuses in SOCKS 4, too", async () => {
    const { stream } = await meet(memory(), { version: 4 }, TARGET, undefined, "refused");
    expect(stream).toMatchObject({ code: "hop-refused" });
  });

  for (const [what, bytes] of [
    ["a greeting that is cut", "05 02 00"],
    ["a request that is cut", "05 01 00 05 01 00 03 0b 6f72"],
    ["nothing", ""],
  ] as const) {
    test(`fails when the client ends after ${what}`, async () => {
      const { left, right } = memory();
      left.write(hex(bytes));
      left.end();
      expect((await failure(acceptSocks(right, 5, undefined, soon()))).code).toBe("hop-closed");
    });
  }

  test("keeps what the client sends behind its request", async () => {
    const { left, right } = memory();
    left.write(Buffer.concat([hex("05 01 00"), hex("05 01 00 01 0a000001 0050"), Buffer.from("early")]));
    const { request } = await acceptSocks(right, 5, undefined, soon());
    expect(request.target).toEqual(tcpTarget("10.0.0.1", 80));
    const recorder = new Recorder(right);
    await recorder.received(5);
    expect(recorder.text).toBe("early");
  });

  test("gives up on a client that says nothing", async () => {
    const { right } = memory();
    expect((await failure(acceptSocks(right, 5, undefined, deadlineIn(20)))).code).toBe("connect-timeout");
  });
});

describe("a SOCKS client", () => {
  /** Dials a proxy that answers with these chunks whatever is asked. */
  async function hear(
    hop: Partial<SocksHop>,
    chunks: readonly Uint8Array[],
    end = false,
  ): Promise<{ driver: FakeDriver; dial: Promise<ByteStream> }> {
    const driver = new FakeDriver("proxy");
    const dial = socksDialer(hopOf(hop), async () => driver.stream)(TARGET, { deadline: soon() });
    dial.catch(() => {});
    for (const chunk of chunks) {
      for (let i = 0; i < 10; i++) await Promise.resolve();
      driver.stream.receive(chunk);
    }
    if (end) driver.finish();
    return { driver, dial };
  }

  const GRANTED = [hex("05 00"), hex("05 00 00 03 0a 626f756e642e74657374 1234")];

  test("writes what RFC 1928 says", async () => {
    const { driver, dial } = await hear({}, GRANTED);
    await dial;
    expect(Buffer.concat(driver.written)).toEqual(
      Buffer.concat([hex("05 01 00"), hex("05 01 00 03 0b"), Buffer.from("origin.test"), hex("01bb")]),
    );
  });

  test("writes what RFC 1929 says", async () => {
    const { driver, dial } = await hear({ credentials: ALICE }, [hex("05 02"), hex("01 00"), GRANTED[1]!]);
    await dial;
    expect(Buffer.concat(driver.written).subarray(0, 27)).toEqual(
      Buffer.concat([
        hex("05 02 00 02"),
        hex("01 05"),
        Buffer.from("alice"),
        hex("0f"),
        Buffer.from("hunter2-hunter2"),
      ]).subarray(0, 27),
    );
  });

  test("gives the tunnel every byte behind the reply, wherever it is cut", async () => {
    const bytes = Buffer.concat([...GRANTED, Buffer.from("early bytes")]);
    for (const chunks of [...splits(bytes), byteByByte(bytes)]) {
      const { dial } = await hear(
        {},
        chunks.filter((chunk) => chunk.length > 0),
      );
      expect(new Recorder(await dial).text).toBe("early bytes");
    }
  });

  const bad: [what: string, hop: Partial<SocksHop>, answer: string, code: ErrorCode][] = [
    ["an HTTP proxy's answer", {}, "48545450 2f312e31", "hop-protocol"],
    ["a SOCKS 4 answer", {}, "00 5a 0000 00000000", "hop-protocol"],
    ["no acceptable method", {}, "05 ff", "hop-auth"],
    ["a method that was not offered", {}, "05 02", "hop-auth"],
    ["GSSAPI", { credentials: ALICE }, "05 01", "hop-auth"],
    ["credentials that are refused", { credentials: ALICE }, "05 02 01 01", "hop-auth"],
    ["a refusal without an address", {}, "05 00 05 05", "hop-refused"],
    ["an unknown address type in the reply", {}, "05 00 05 00 00 07 00", "hop-protocol"],
    ["a SOCKS 5 answer to SOCKS 4", { version: 4 }, "05 00", "hop-protocol"],
    ["SOCKS 4's code for identd", { version: 4 }, "00 5c 0000 00000000", "hop-refused"],
  ];
  for (const [what, hop, answer, code] of bad) {
    test(`fails on ${what}, and ends the connection`, async () => {
      const { driver, dial } = await hear(hop, [hex(answer)]);
      expect((await failure(dial)).code).toBe(code);
      expect(driver.calls).toContain("destroy");
    });
  }

  for (const answer of ["", "05", "05 00", "05 00 05 00 00 01"]) {
    test(`fails when the proxy ends after ${JSON.stringify(answer)}`, async () => {
      const { dial } = await hear(
        {},
        [hex(answer)].filter((chunk) => chunk.length > 0),
        true,
      );
      expect((await failure(dial)).code).toBe("hop-closed");
    });
  }

  test("fails when the proxy does not answer in time", async () => {
    const driver = new FakeDriver();
    const dial = socksDialer(hopOf({}), async () => driver.stream)(TARGET, { deadline: deadlineIn(20) });
    expect((await failure(dial)).code).toBe("connect-timeout");
    expect(driver.calls).toContain("destroy");
  });

  test("never shows its credentials in an error", async () => {
    for (const answer of ["05 02 01 01", "05 ff", "48", "05 00 05 02"]) {
      const { dial } = await hear({ credentials: ALICE }, [hex(answer)]);
      expect(Bun.inspect(await failure(dial))).not.toContain("hunter2");
    }
  });

  test("resolves names itself when it is told to, with the permit of the dial", async () => {
    const seen: DialOptions[] = [];
    const resolve = async (_: TcpTarget, options: DialOptions) => (seen.push(options), "10.0.0.9");
    const pair = memory();
    const permit = () => {};
    const dial = socksDialer(hopOf({ resolve }), async (target, options) => {
      expect(target).toEqual(PROXY);
      expect(options.permit).toBeUndefined();
      return pair.left;
    })(TARGET, { deadline: soon(), permit });
    const { request } = await acceptSocks(pair.right, 5, undefined, soon());
    answerSocks(pair.right, 5, "succeeded");
    await dial;
    expect(request.target).toEqual(tcpTarget("10.0.0.9", 443));
    expect(seen[0]!.permit).toBe(permit);
  });

  test("cannot reach IPv6 addresses by SOCKS 4, nor unix sockets", async () => {
    const dial = (target: Target) =>
      socksDialer(hopOf({ version: 4 }), async () => memory().left)(target, { deadline: soon() });
    expect((await failure(dial(tcpTarget("::1", 80)))).code).toBe("hop-refused");
    expect((await failure(dial({ kind: "unix", path: "/x" }))).code).toBe("usage");
  });
});

test("each failure has a SOCKS reply", () => {
  const table: [ErrorCode, Socks5Reply][] = [
    ["connect-refused", "refused"],
    ["address-denied", "denied"],
    ["target-denied", "denied"],
    ["name-not-found", "host-unreachable"],
    ["connect-timeout", "ttl-expired"],
    ["internal", "failure"],
  ];
  for (const [code, reply] of table) expect(socksReplyFor(new SeikanError(code, "x"))).toBe(reply);
  for (const code of Object.keys(OUTCOMES))
    expect(socksReplyFor(new SeikanError(code as ErrorCode, "x"))).not.toBe("succeeded");
});
