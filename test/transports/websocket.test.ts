import { afterEach, describe, expect, jest, spyOn, test } from "bun:test";
import { now, sweep } from "../../src/core/clock.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import { listen } from "../../src/transports/tcp.ts";
import { heartbeatEvery } from "../../src/transports/pulse.ts";
import { webSocketStream, type WebSocketOptions } from "../../src/transports/websocket.ts";
import { closeBody, frame, framesIn, type FrameShape, type SeenFrame } from "../support/frames.ts";
import { dialRaw, type RawSocket } from "../support/raw.ts";
import { pattern, Recorder, reset, until, writeAll } from "../support/wait.ts";

const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

type Role = WebSocketOptions["role"];

/** Our stream, and a peer at the other end of its TCP connection whose frames the test writes by hand. */
class Scripted implements Disposable {
  readonly ours: Recorder;
  readonly peer: RawSocket;
  readonly #role: Role;
  readonly #release: () => void;
  #sent = 0;

  constructor(ours: Recorder, peer: RawSocket, role: Role, release: () => void) {
    this.ours = ours;
    this.peer = peer;
    this.#role = role;
    this.#release = release;
  }

  get stream(): ByteStream {
    return this.ours.stream;
  }

  /** The peer's frame as bytes; masked when it is the client. */
  bytes(shape: FrameShape): Buffer {
    const n = ++this.#sent;
    return frame(this.#role === "server" ? { key: Uint8Array.of(n, 2 * n, 3 * n, 77), ...shape } : shape);
  }

  /** The peer sends these frames, in one piece. */
  send(...shapes: FrameShape[]): void {
    this.peer.send(Buffer.concat(shapes.map((shape) => this.bytes(shape))));
  }

  /** What the peer has got so far. */
  get frames(): SeenFrame[] {
    return framesIn(this.peer.bytes);
  }

  /** `2: 616263`, `8: 03e8`. */
  get told(): string[] {
    return this.frames.map(({ opcode, payload }) => `${opcode}: ${payload.toString("hex")}`);
  }

  /** Waits until the peer has so many frames. */
  got(count: number): Promise<SeenFrame[]> {
    return this.peer.until(() => (this.frames.length >= count ? this.frames : undefined), `${count} frames`);
  }

  [Symbol.dispose](): void {
    this.stream.abort(reset());
    this.peer[Symbol.dispose]();
    this.#release();
  }
}

async function scripted(role: Role, options: Partial<WebSocketOptions> = {}): Promise<Scripted> {
  const accepted = Promise.withResolvers<ByteStream>();
  const listener = listen({ kind: "tcp", host: "127.0.0.1", port: 0 }, accepted.resolve);
  const peer = await dialRaw(listener.port!);
  const inner = await accepted.promise;
  const settings = { role, peer: "the peer", binaryOnly: true, maxFrame: 1024 * 1024, ...options };
  return new Scripted(new Recorder(webSocketStream(inner, settings)), peer, role, () => listener.close());
}

const text = (data: Uint8Array) => Buffer.from(data).toString();

for (const role of ["client", "server"] as const) {
  describe(`a WebSocket stream, as ${role},`, () => {
    test("passes on what binary messages hold, however it is framed", async () => {
      using ws = await scripted(role);
      ws.send(
        { opcode: BINARY, payload: "whole;" },
        { opcode: BINARY },
        { opcode: BINARY, fin: false, payload: "first," },
        { opcode: PING },
        { opcode: 0, fin: false },
        { opcode: 0, payload: "last;" },
        { opcode: PONG, payload: "nobody asked" },
        { opcode: BINARY, payload: pattern(70_000) },
      );
      const expected = Buffer.concat([Buffer.from("whole;first,last;"), pattern(70_000)]);
      await ws.ours.received(expected.length);
      expect(ws.ours.bytes.equals(expected)).toBe(true);
    });

    test("passes on a message before it ends, byte by byte if it comes so", async () => {
      using ws = await scripted(role);
      const bytes = ws.bytes({ opcode: BINARY, payload: "abc", length: 900n });
      for (const [index, byte] of bytes.entries()) {
        ws.peer.send(Buffer.of(byte));
        await ws.ours.received(Math.max(0, index + 1 - (bytes.length - 3)));
      }
      expect(ws.ours.length).toBe(3);
    });

    test("reads text messages where they are allowed", async () => {
      using ws = await scripted(role, { binaryOnly: false });
      ws.send({ opcode: TEXT, fin: false, payload: "he" }, { opcode: 0, payload: "llo" });
      await ws.ours.received(5);
      expect(ws.ours.text).toBe("hello");
    });

    test("writes unfragmented binary frames", async () => {
      using ws = await scripted(role);
      const bytes = pattern(1_000_000);
      await writeAll(ws.ours, [bytes.subarray(0, 3), bytes.subarray(3)]);
      const all = await ws.peer.until(() => {
        const whole = Buffer.concat(ws.frames.map(({ payload }) => payload));
        return whole.length >= bytes.length ? whole : undefined;
      }, "everything");
      expect(all.equals(bytes)).toBe(true);
      for (const { fin, rsv, opcode, key, payload } of ws.frames) {
        expect({ fin, rsv, opcode, isMasked: key !== undefined }).toEqual({
          fin: true,
          rsv: 0,
          opcode: BINARY,
          isMasked: role === "client",
        });
        expect(payload.length).toBeLessThanOrEqual(1024 * 1024);
      }
    });

    test("makes one frame of 64 small writes in one turn", async () => {
      using ws = await scripted(role);
      for (let i = 0; i < 64; i++) ws.stream.write(Buffer.from(`write ${i};`));
      await ws.got(1);
      ws.stream.write(Buffer.from("another turn"));
      await ws.got(2);
      const frames = await ws.got(2);
      expect(frames.map(({ payload }) => text(payload))).toEqual([
        Array.from({ length: 64 }, (_, i) => `write ${i};`).join(""),
        "another turn",
      ]);
    });

    test("answers a ping with its payload, behind what was written before", async () => {
      using ws = await scripted(role);
      const payloads = [Buffer.alloc(0), Buffer.from("ping"), pattern(125)];
      ws.ours.onChunk = () => void ws.stream.write(Buffer.from("before"));
      ws.send({ opcode: BINARY, payload: "!" }, ...payloads.map((payload) => ({ opcode: PING, payload })));
      await ws.got(4);
      expect(ws.told).toEqual([
        `2: ${Buffer.from("before").toString("hex")}`,
        ...payloads.map((payload) => `10: ${payload.toString("hex")}`),
      ]);
      expect(ws.frames.every(({ fin, key }) => fin && (key !== undefined) === (role === "client"))).toBe(true);
    });

    test("heaps no answers up for a peer that asks and does not read", async () => {
      using ws = await scripted(role);
      ws.peer.pause();
      const chunk = pattern(1024 * 1024);
      let written = chunk.length;
      while (ws.stream.write(chunk)) written += chunk.length;
      const drained = ws.ours.drained();
      ws.send(...Array.from({ length: 5000 }, () => ({ opcode: PING, payload: pattern(125) })), {
        opcode: BINARY,
        payload: "!",
      });
      await ws.ours.received(1);
      ws.peer.resume();
      await drained;
      const dataLength = () =>
        ws.frames.reduce((sum, { opcode, payload }) => sum + (opcode === BINARY ? payload.length : 0), 0);
      let seen = 0;
      await until(() => {
        if (ws.peer.length === seen) return dataLength() === written;
        seen = ws.peer.length;
        return false;
      }, "the peer has everything");
      const answers = () => ws.frames.filter(({ opcode }) => opcode === PONG).length;
      expect(answers()).toBeLessThan(100);
      // It answers again once it can.
      const before = answers();
      ws.send({ opcode: PING });
      await ws.peer.until(() => answers() > before || undefined, "an answer");
    });

    // --- ends ------------------------------------------------------------------

    for (const [what, payload] of [
      ["1000", closeBody(1000, "done")],
      ["1001", closeBody(1001)],
      ["no code", Buffer.alloc(0)],
    ] as const) {
      test(`takes a close frame with ${what} for the end of one direction`, async () => {
        using ws = await scripted(role);
        ws.send({ opcode: BINARY, payload: "last words" }, { opcode: CLOSE, payload });
        await ws.ours.end();
        expect(ws.ours.text).toBe("last words");
        // The other direction goes on.
        const bytes = pattern(300_000);
        ws.stream.write(bytes);
        ws.stream.end();
        expect(await ws.ours.close()).toEqual({ error: undefined });
        const frames = await ws.peer.until(
          () => (ws.frames.at(-1)?.opcode === CLOSE ? ws.frames : undefined),
          "our close frame",
        );
        expect(Buffer.concat(frames.slice(0, -1).map(({ payload }) => payload)).equals(bytes)).toBe(true);
        expect(frames.at(-1)!.payload).toEqual(closeBody(1000));
        // The server ends the connection; the client leaves that to it (RFC 6455 section 7.1.1).
        if (role === "client") {
          expect(ws.peer.ended).toBe(false);
          ws.peer.end();
        }
        await ws.peer.receivesEnd();
        expect(framesIn(ws.peer.bytes).length).toBe(frames.length);
      });
    }

    test("ends its own direction with a close frame, and reads on", async () => {
      using ws = await scripted(role);
      ws.stream.write(Buffer.from("question"));
      ws.stream.end();
      await ws.got(2);
      expect(ws.told).toEqual([`2: ${Buffer.from("question").toString("hex")}`, "8: 03e8"]);
      for (let i = 0; i < 10; i++) {
        ws.send({ opcode: BINARY, payload: `answer ${i};` });
        await ws.ours.received(9 * (i + 1));
      }
      expect(ws.ours.ended).toBe(false);
      // Nothing may come behind a close frame, no answer either.
      ws.send({ opcode: PING, payload: "still there?" }, { opcode: BINARY, payload: "." });
      await ws.ours.received(91);
      ws.send({ opcode: CLOSE, payload: closeBody(1000) });
      await ws.ours.end();
      expect(await ws.ours.close()).toEqual({ error: undefined });
      ws.peer.end();
      await ws.peer.receivesEnd();
      expect(ws.told.length).toBe(2);
    });

    test("goes on writing when the peer closes and finishes its TCP direction, too", async () => {
      using ws = await scripted(role);
      ws.send({ opcode: CLOSE, payload: closeBody(1000) });
      ws.peer.end();
      await ws.ours.end();
      ws.stream.write(Buffer.from("late"));
      await ws.got(1);
      ws.stream.end();
      expect(await ws.ours.close()).toEqual({ error: undefined });
      await ws.peer.receivesEnd();
      expect(ws.told).toEqual([`2: ${Buffer.from("late").toString("hex")}`, "8: 03e8"]);
    });

    for (const code of [1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4999]) {
      test(`takes a close frame with ${code} for an error that names it`, async () => {
        using ws = await scripted(role);
        ws.send({ opcode: BINARY, payload: "before" }, { opcode: CLOSE, payload: closeBody(code, "its reason") });
        const { error } = await ws.ours.close();
        expect(error?.code).toBe("peer-closed");
        expect(error?.message).toContain(String(code));
        expect(error?.message).toContain("its reason");
        expect(error?.message).toContain("the peer");
        expect(ws.ours.text).toBe("before");
        expect(ws.ours.ended).toBe(false);
        await ws.peer.receivesEnd();
        expect(ws.frames.map(({ opcode, payload }) => [opcode, payload.readUInt16BE(0)])).toEqual([[CLOSE, code]]);
      });
    }

    for (const [what, cut] of [
      ["between frames", (ws) => void ws.send({ opcode: BINARY, payload: "before" })],
      ["within a message", (ws) => void ws.send({ opcode: BINARY, fin: false, payload: "before" })],
      ["within a frame", (ws) => void ws.peer.send(ws.bytes({ opcode: BINARY, payload: "before", length: 50n }))],
      [
        "within a close frame",
        (ws) => {
          ws.send({ opcode: BINARY, payload: "before" });
          ws.peer.send(ws.bytes({ opcode: CLOSE, payload: closeBody(1000) }).subarray(0, -1));
        },
      ],
    ] satisfies [string, (ws: Scripted) => void][]) {
      test(`takes an end ${what}, without a close frame, for a cut`, async () => {
        using ws = await scripted(role);
        cut(ws);
        await ws.ours.received(6);
        ws.peer.end();
        const { error } = await ws.ours.close();
        expect(error?.code).toBe("peer-reset");
        expect(ws.ours.text).toBe("before");
        expect(ws.ours.ended).toBe(false);
      });
    }

    test("takes a reset for a cut", async () => {
      using ws = await scripted(role);
      ws.send({ opcode: BINARY, payload: "before" });
      await ws.ours.received(6);
      ws.peer.reset();
      expect((await ws.ours.close()).error?.code).toBe("peer-reset");
      expect(ws.ours.ended).toBe(false);
    });

    test("takes an end for a cut although it closed itself", async () => {
      using ws = await scripted(role);
      ws.stream.end();
      await ws.got(1);
      ws.peer.end();
      expect((await ws.ours.close()).error?.code).toBe("peer-reset");
    });

    test("takes a reset behind the peer's close frame for a cut, while it has not closed itself", async () => {
      using ws = await scripted(role);
      ws.send({ opcode: CLOSE, payload: closeBody(1000) });
      await ws.ours.end();
      ws.peer.reset();
      expect((await ws.ours.close()).error?.code).toBe("peer-reset");
    });

    test("resets the connection and says nothing when it is aborted", async () => {
      using ws = await scripted(role);
      ws.send({ opcode: BINARY, payload: "before" });
      await ws.ours.received(6);
      ws.stream.write(Buffer.from("lost"));
      ws.stream.abort(reset());
      expect((await ws.ours.close()).error?.code).toBe("cancelled");
      await ws.peer.receivesReset();
      expect(ws.told).toEqual([]);
    });

    const faults: [what: string, code: number, (ws: Scripted) => Uint8Array][] = [
      ["a reserved bit", 1002, (ws) => ws.bytes({ opcode: BINARY, rsv: 4 })],
      ["an unknown opcode", 1002, (ws) => ws.bytes({ opcode: 3 })],
      [
        "the wrong masking",
        1002,
        () => frame({ opcode: BINARY, key: role === "server" ? undefined : Uint8Array.of(1, 2, 3, 4) }),
      ],
      ["a continuation of nothing", 1002, (ws) => ws.bytes({ opcode: 0, payload: "x" })],
      ["a close code that cannot be", 1002, (ws) => ws.bytes({ opcode: CLOSE, payload: closeBody(1005) })],
      ["half a close code", 1002, (ws) => ws.bytes({ opcode: CLOSE, payload: "x" })],
      ["a text message", 1003, (ws) => ws.bytes({ opcode: TEXT, payload: "x" })],
      ["a frame that is too long", 1009, (ws) => ws.bytes({ opcode: BINARY, length: 1024n * 1024n + 1n })],
      [
        "a close reason that is not UTF-8",
        1007,
        (ws) => ws.bytes({ opcode: CLOSE, payload: closeBody(1000, Uint8Array.of(255)) }),
      ],
    ];
    for (const [what, code, bytesFor] of faults) {
      test(`answers ${what} with close code ${code}, and gives up`, async () => {
        using ws = await scripted(role);
        ws.stream.write(Buffer.from("written before"));
        ws.send({ opcode: BINARY, payload: "good" });
        await ws.ours.received(4);
        ws.peer.send(Buffer.concat([bytesFor(ws), ws.bytes({ opcode: BINARY, payload: "ignored" })]));
        const { error } = await ws.ours.close();
        expect(error?.code).toBe("peer-protocol");
        expect(error?.message).toContain("the peer");
        expect(ws.ours.text).toBe("good");
        expect(ws.ours.ended).toBe(false);
        await ws.peer.receivesEnd();
        expect(ws.frames.map(({ opcode }) => opcode)).toEqual([BINARY, CLOSE]);
        expect(text(ws.frames[0]!.payload)).toBe("written before");
        expect(ws.frames[1]!.payload.readUInt16BE(0)).toBe(code);
      });
    }

    test("answers text that is not UTF-8 with close code 1007", async () => {
      using ws = await scripted(role, { binaryOnly: false });
      ws.send({ opcode: TEXT, fin: false, payload: Uint8Array.of(0x61, 0xff) });
      expect((await ws.ours.close()).error?.code).toBe("peer-protocol");
      await ws.peer.receivesEnd();
      expect(ws.told.length).toBe(1);
      expect(ws.frames[0]!.payload.readUInt16BE(0)).toBe(1007);
    });

    test("closes but once when a protocol error follows its own close frame", async () => {
      using ws = await scripted(role);
      ws.stream.end();
      await ws.got(1);
      ws.send({ opcode: 3 });
      expect((await ws.ours.close()).error?.code).toBe("peer-protocol");
      await ws.peer.receivesEnd();
      expect(ws.told).toEqual(["8: 03e8"]);
    });
  });
}

describe("the masks of a WebSocket stream", () => {
  async function keysOf(role: Role, options: Partial<WebSocketOptions>): Promise<(string | undefined)[]> {
    using ws = await scripted(role, options);
    for (let i = 1; i <= 200; i++) {
      ws.stream.write(Buffer.from("the same"));
      await ws.got(i);
    }
    ws.send({ opcode: PING });
    await ws.got(201);
    ws.stream.end();
    const frames = await ws.got(202);
    expect(frames.slice(-2).map(({ opcode }) => opcode)).toEqual([PONG, CLOSE]);
    expect(frames.slice(0, 200).every(({ payload }) => text(payload) === "the same")).toBe(true);
    return frames.map(({ key }) => key);
  }

  test("are fresh for every frame of a client", async () => {
    const keys = await keysOf("client", {});
    expect(new Set(keys).size).toBe(keys.length);
    expect(keys).not.toContain("00000000");
    const others = await keysOf("client", {});
    expect(keys.filter((key) => others.includes(key))).toEqual([]);
    // No byte of a key stays the same.
    for (let at = 0; at < 8; at += 2)
      expect(new Set(keys.map((key) => key!.slice(at, at + 2))).size).toBeGreaterThan(50);
  });

  test("are zero where that is asked for", async () => {
    expect(new Set(await keysOf("client", { zeroMask: true }))).toEqual(new Set(["00000000"]));
  });

  test("are missing from what a server sends", async () => {
    expect(new Set(await keysOf("server", {}))).toEqual(new Set([undefined]));
    expect(new Set(await keysOf("server", { zeroMask: true }))).toEqual(new Set([undefined]));
  });
});

describe("the heartbeat of a WebSocket stream", () => {
  afterEach(() => {
    jest.useRealTimers();
    jest.restoreAllMocks();
  });

  /** Time that passes when the test says so; what the sweep would ask each second is asked then. */
  function stoppedClock() {
    jest.useFakeTimers();
    const watchers = new Set<(time: number) => boolean>();
    spyOn(sweep, "add").mockImplementation((watcher) => void watchers.add(watcher));
    spyOn(sweep, "delete").mockImplementation((watcher) => void watchers.delete(watcher));
    const turn = async () => {
      for (let i = 0; i < 20; i++) await Promise.resolve();
    };
    return {
      watchers,
      async second(ms = 1000): Promise<void> {
        await turn();
        jest.advanceTimersByTime(ms);
        for (const watcher of watchers) if (!watcher(now())) watchers.delete(watcher);
        await turn();
      },
      async seconds(count: number, each: () => void = () => {}): Promise<void> {
        for (let i = 0; i < count; i++) {
          each();
          await this.second();
        }
      },
    };
  }

  const settings = { peer: "the peer", binaryOnly: true, maxFrame: 1024 * 1024, heartbeat: heartbeatEvery(15_000) };

  /** Our end, and the bytes below the other end, which says nothing by itself. */
  function beating(role: Role = "server") {
    const [left, right] = memoryPair();
    const below = new Recorder(right);
    const ours = new Recorder(webSocketStream(left, { ...settings, role }));
    const opcodes = () => framesIn(below.bytes).map(({ opcode }) => opcode);
    const send = (shape: FrameShape) => void right.write(frame(shape));
    return { ours, below, opcodes, send };
  }

  /** Two ends of ours. */
  function bothBeating() {
    const [left, right] = memoryPair();
    return [
      new Recorder(webSocketStream(left, { ...settings, role: "client" })),
      new Recorder(webSocketStream(right, { ...settings, role: "server" })),
    ] as const;
  }

  test("gives 10 s to answer", () => {
    expect(heartbeatEvery(15_000)).toEqual({ intervalMs: 15_000, timeoutMs: 10_000 });
  });

  for (const role of ["client", "server"] as const) {
    test(`asks a silent peer after one interval and gives it up after the timeout, as ${role}`, async () => {
      const clock = stoppedClock();
      const { ours, below, opcodes } = beating(role);
      await clock.seconds(14);
      expect(opcodes()).toEqual([]);
      await clock.seconds(2);
      expect(opcodes()).toEqual([PING]);
      await clock.seconds(8);
      expect(ours.reason).toBeUndefined();
      await clock.seconds(2);
      expect(ours.reason?.error?.code).toBe("peer-silent");
      expect(ours.reason?.error?.message).toContain("the peer");
      expect(ours.reason?.error?.message).toMatch(/2[5-7] s/);
      expect(below.reason?.error?.code).toBe("peer-reset");
      expect(clock.watchers.size).toBe(0);
    });
  }

  test("spares a peer that answers", async () => {
    const clock = stoppedClock();
    const { ours, below, opcodes, send } = beating("client");
    below.onChunk = () => send({ opcode: PONG });
    await clock.seconds(300);
    expect(ours.reason).toBeUndefined();
    // 20 times 15 s, give or take the ticks.
    expect(opcodes().length).toBeWithin(15, 21);
    expect(new Set(opcodes())).toEqual(new Set([PING]));
  });

  test("spares a peer that sends data only, and still lets it hear something", async () => {
    const clock = stoppedClock();
    const { ours, opcodes, send } = beating("client");
    let sent = 0;
    await clock.seconds(300, () => {
      if (++sent % 20 === 0) send({ opcode: BINARY, payload: "." });
    });
    expect(ours.reason).toBeUndefined();
    expect(ours.length).toBe(15);
    expect(opcodes().length).toBeWithin(10, 35);
  });

  test("takes any byte for a sign of life, even of a frame that does not end", async () => {
    const clock = stoppedClock();
    const { ours, below } = beating("client");
    below.stream.write(frame({ opcode: BINARY, length: 1000n }));
    let sent = 0;
    await clock.seconds(200, () => {
      if (++sent % 10 === 0) below.stream.write(Buffer.from("x"));
    });
    expect(ours.reason).toBeUndefined();
    expect(ours.length).toBe(20);
  });

  test("asks nothing while this side has something to say", async () => {
    const clock = stoppedClock();
    const { ours, opcodes, send } = beating("client");
    await clock.seconds(60, () => {
      ours.stream.write(Buffer.from("."));
      send({ opcode: BINARY, payload: "." });
    });
    expect(new Set(opcodes())).toEqual(new Set([BINARY]));
  });

  test("does not take the own pause for the peer's silence, and begins anew behind it", async () => {
    const clock = stoppedClock();
    const { ours, send } = beating("client");
    ours.stream.pause();
    send({ opcode: BINARY, payload: "held" });
    await clock.seconds(300);
    expect(ours.reason).toBeUndefined();
    expect(ours.length).toBe(0);
    ours.stream.resume();
    await clock.seconds(20);
    expect(ours.text).toBe("held");
    expect(ours.reason).toBeUndefined();
    await clock.seconds(10);
    expect(ours.reason?.error?.code).toBe("peer-silent");
  });

  test("does not take the own sleep for the peer's silence", async () => {
    const clock = stoppedClock();
    const { ours, opcodes } = beating("client");
    await clock.seconds(3);
    await clock.second(3_600_000);
    expect(ours.reason).toBeUndefined();
    await clock.seconds(8);
    expect(ours.reason).toBeUndefined();
    expect(opcodes()).toContain(PING);
    await clock.seconds(4);
    expect(ours.reason?.error?.code).toBe("peer-silent");
  });

  test("spares a peer that has closed and listens only", async () => {
    const clock = stoppedClock();
    const { ours, send, opcodes } = beating("client");
    send({ opcode: CLOSE, payload: closeBody(1000) });
    await clock.seconds(300);
    expect(ours.reason).toBeUndefined();
    ours.stream.end();
    await clock.second();
    expect(ours.reason).toEqual({ error: undefined });
    expect(opcodes().at(-1)).toBe(CLOSE);
    expect(clock.watchers.size).toBe(0);
  });

  test("sends nothing behind the own close frame, and still gives a silent peer up", async () => {
    const clock = stoppedClock();
    const { ours, opcodes } = beating("client");
    ours.stream.end();
    await clock.seconds(30);
    expect(opcodes()).toEqual([CLOSE]);
    expect(ours.reason?.error?.code).toBe("peer-silent");
  });

  test("keeps two quiet ends alive", async () => {
    const clock = stoppedClock();
    const [left, right] = bothBeating();
    await clock.seconds(300);
    expect([left.reason, right.reason]).toEqual([undefined, undefined]);
  });

  test("keeps two ends alive when one of them has closed and the other is quiet", async () => {
    const clock = stoppedClock();
    const [left, right] = bothBeating();
    left.stream.end();
    await clock.seconds(300);
    expect([left.reason, right.reason]).toEqual([undefined, undefined]);
    right.stream.write(Buffer.from("the answer"));
    right.stream.end();
    await clock.second();
    expect(left.text).toBe("the answer");
    expect([left.reason, right.reason]).toEqual([{ error: undefined }, { error: undefined }]);
  });

  for (const side of [0, 1]) {
    test(`keeps two ends alive when the ${side === 0 ? "server" : "client"} does not read and the other is stopped`, async () => {
      const clock = stoppedClock();
      const pair = bothBeating();
      const [sender, reader] = [pair[side]!, pair[1 - side]!];
      reader.stream.pause();
      const chunk = pattern(64 * 1024);
      let sent = chunk.length;
      while (sender.stream.write(chunk)) sent += chunk.length;
      await clock.seconds(300);
      expect([sender.reason, reader.reason]).toEqual([undefined, undefined]);
      reader.stream.resume();
      await clock.second();
      expect(reader.length).toBe(sent);
    });
  }

  test("is not there unless asked for, or with an interval of 0", () => {
    const clock = stoppedClock();
    for (const heartbeat of [undefined, { intervalMs: 0, timeoutMs: 1000 }]) {
      const [left] = memoryPair();
      const { heartbeat: _, ...others } = settings;
      webSocketStream(left, { ...others, role: "client", ...(heartbeat === undefined ? {} : { heartbeat }) });
    }
    expect(clock.watchers.size).toBe(0);
  });

  test("gives up in real time, too, and resets the connection", async () => {
    using ws = await scripted("server", { heartbeat: { intervalMs: 500, timeoutMs: 500 } });
    expect((await ws.ours.close()).error?.code).toBe("peer-silent");
    await ws.peer.receivesReset();
  });
});
