import { afterEach, describe, expect, jest, spyOn, test } from "bun:test";
import { now, sweep } from "../../src/core/clock.ts";
import type { SeikanError } from "../../src/core/errors.ts";
import type { ByteStream } from "../../src/core/stream.ts";
import { memoryPair } from "../../src/transports/memory.ts";
import { MessageSocket, type MessageSink, type MessageSocketOptions } from "../../src/transports/message-socket.ts";
import { heartbeatEvery } from "../../src/transports/pulse.ts";
import { closeBody, frame, framesIn, type FrameShape, type SeenFrame } from "../support/frames.ts";
import { byteByByte, cutAtRandom, randomNumbers, splits } from "../support/random.ts";
import { pattern, Recorder, reset, until, writeAll } from "../support/wait.ts";

const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

const KIB = 1024;
const MIB = 1024 * KIB;

type Role = MessageSocketOptions["role"];
const ROLES: readonly Role[] = ["client", "server"];
const other = (role: Role): Role => (role === "client" ? "server" : "client");

/** Records what a message socket says; it speaks while it is open only. */
class Listener implements MessageSink {
  socket!: MessageSocket;
  /** Whole messages. */
  readonly messages: Buffer[] = [];
  /** Of the message that has begun, and of all. */
  readonly pieces: Uint8Array[] = [];
  length = 0;
  drains = 0;
  closes: (SeikanError | undefined)[] = [];
  onPiece: (piece: Uint8Array, last: boolean) => void = () => {};

  onMessage(piece: Uint8Array, last: boolean): void {
    if (this.closes.length > 0) throw new Error("a message behind the close");
    this.pieces.push(new Uint8Array(piece));
    this.length += piece.length;
    if (last) this.messages.push(Buffer.concat(this.pieces.splice(0)));
    this.onPiece(piece, last);
  }

  onDrain(): void {
    this.drains++;
  }

  onClose(error: SeikanError | undefined): void {
    this.closes.push(error);
  }

  get texts(): string[] {
    return this.messages.map((message) => message.toString());
  }

  get error(): SeikanError | undefined {
    expect(this.closes.length).toBe(1);
    return this.closes[0];
  }
}

function opened(stream: ByteStream, role: Role, options: Partial<MessageSocketOptions> = {}): Listener {
  const listener = new Listener();
  const settings = { role, peer: "the peer", heartbeat: undefined, ...options };
  listener.socket = new MessageSocket(stream, listener, settings);
  return listener;
}

/** Two of ours. */
function pairOf(options: Parameters<typeof memoryPair>[0] = {}): Record<Role, Listener> {
  const [left, right] = memoryPair(options);
  return { client: opened(left, "client"), server: opened(right, "server") };
}

/** Ours, and a peer whose frames the test writes by hand. */
class Scripted {
  readonly ours: Listener;
  /** What is below the other end. */
  readonly below: Recorder;
  readonly #role: Role;
  #sent = 0;

  constructor(role: Role, options: Partial<MessageSocketOptions> = {}) {
    const [left, right] = memoryPair();
    this.#role = role;
    this.below = new Recorder(right);
    this.ours = opened(left, role, options);
  }

  get socket(): MessageSocket {
    return this.ours.socket;
  }

  /** The peer's frame as bytes; masked when it is the client. */
  bytes(shape: FrameShape): Buffer {
    const n = ++this.#sent;
    return frame(this.#role === "server" ? { key: Uint8Array.of(n, 2 * n, 3 * n, 77), ...shape } : shape);
  }

  send(...shapes: FrameShape[]): void {
    this.below.stream.write(Buffer.concat(shapes.map((shape) => this.bytes(shape))));
  }

  get frames(): SeenFrame[] {
    return framesIn(this.below.bytes);
  }

  /** `2: 616263`, `8: 03e8`. */
  get told(): string[] {
    return this.frames.map(({ opcode, payload }) => `${opcode}: ${payload.toString("hex")}`);
  }

  /** The peer has so many frames. */
  async got(count: number): Promise<SeenFrame[]> {
    await until(() => this.frames.length >= count, `the peer has ${count} frames`);
    return this.frames;
  }

  async closed(): Promise<SeikanError | undefined> {
    await until(() => this.ours.closes.length > 0, "our end is closed");
    return this.ours.error;
  }
}

/** Everything that was put into a memory pair has come out. */
async function turn(): Promise<void> {
  for (let i = 0; i < 30; i++) await Promise.resolve();
}

for (const role of ROLES) {
  const masks = role === "client";

  describe(`a message socket, as ${role},`, () => {
    // --- messages ---------------------------------------------------------------

    test("carries text and binary messages both ways, whole and in pieces", async () => {
      const ends = pairOf();
      const [from, to] = [ends[role], ends[other(role)]];
      const large = pattern(300 * KIB);
      from.socket.sendText("größe");
      from.socket.sendPiece(Buffer.from("whole"), true);
      from.socket.sendText("");
      from.socket.sendPiece(new Uint8Array(0), true);
      for (let at = 0; at < large.length; at += 7000) from.socket.sendPiece(large.subarray(at, at + 7000), false);
      from.socket.sendPiece(new Uint8Array(0), true);
      from.socket.sendPiece(Buffer.from("in "), false);
      from.socket.sendPiece(Buffer.from("two"), true);
      await until(() => to.messages.length === 6, "all messages are there");
      expect(to.messages[4]!.equals(large)).toBe(true);
      to.messages.splice(4, 1);
      expect(to.texts).toEqual(["größe", "whole", "", "", "in two"]);
      expect(from.closes).toEqual([]);
    });

    test("writes a frame a piece, of the right kind, masked where it must be", async () => {
      const ws = new Scripted(role);
      ws.socket.sendText("head");
      for (const piece of ["a", "b", ""]) ws.socket.sendPiece(Buffer.from(piece), piece === "");
      ws.socket.sendPiece(Buffer.from("next"), true);
      const frames = await ws.got(5);
      expect(frames.map(({ fin, opcode, payload }) => [fin, opcode, payload.toString()])).toEqual([
        [true, TEXT, "head"],
        [false, BINARY, "a"],
        [false, 0, "b"],
        [true, 0, ""],
        [true, BINARY, "next"],
      ]);
      expect(frames.map(({ key }) => key !== undefined)).toEqual(Array(5).fill(masks));
      expect(frames.every(({ rsv }) => rsv === 0)).toBe(true);
      if (masks) expect(new Set(frames.map(({ key }) => key)).size).toBe(5);
    });

    test("leaves the bytes alone that it was given", async () => {
      const ws = new Scripted(role);
      const bytes = pattern(5000);
      ws.socket.sendPiece(bytes, true);
      expect(bytes.equals(pattern(5000))).toBe(true);
      expect((await ws.got(1))[0]!.payload.equals(pattern(5000))).toBe(true);
    });

    /** Frames of every kind, and what they say. */
    const conversation = (ws: Scripted) => ({
      bytes: Buffer.concat(
        [
          { opcode: TEXT, payload: '{"größe":1}' },
          { opcode: BINARY },
          { opcode: PING, payload: "?" },
          { opcode: BINARY, fin: false, payload: "fir" },
          { opcode: 0, fin: false, payload: "st" },
          { opcode: PONG },
          { opcode: 0, fin: false },
          { opcode: 0, payload: "ly" },
          { opcode: TEXT, fin: false, payload: "ha" },
          { opcode: 0, payload: "lves" },
          { opcode: BINARY, payload: pattern(300).toString("hex") },
          { opcode: BINARY, payload: "end" },
        ].map((shape) => ws.bytes(shape)),
      ),
      texts: ['{"größe":1}', "", "firstly", "halves", pattern(300).toString("hex"), "end"],
    });

    async function heard(parts: readonly Uint8Array[]): Promise<string[]> {
      const ws = new Scripted(role);
      for (const part of parts) {
        ws.below.stream.write(part);
        await turn();
      }
      expect(ws.ours.closes).toEqual([]);
      return ws.ours.texts;
    }

    test("reads messages however they are framed, and cut anywhere", async () => {
      const { bytes, texts } = conversation(new Scripted(role));
      const cuts: Buffer[][] = [...splits(bytes), byteByByte(bytes)];
      for (const parts of cuts) expect(await heard(parts)).toEqual(texts);
    });

    test("reads messages that are cut at random places", async () => {
      const random = randomNumbers();
      for (let round = 0; round < 300; round++) {
        const { bytes, texts } = conversation(new Scripted(role));
        expect(await heard(cutAtRandom(bytes, random))).toEqual(texts);
      }
    });

    test("passes pieces on as they come, and says which is the last", async () => {
      const ws = new Scripted(role);
      const seen: [string, boolean][] = [];
      ws.ours.onPiece = (piece, last) => void seen.push([Buffer.from(piece).toString(), last]);
      const message = ws.bytes({ opcode: BINARY, payload: "abcdef" });
      const start = message.length - 6;
      for (const part of [message.subarray(0, start + 2), message.subarray(start + 2)]) {
        ws.below.stream.write(part);
        await turn();
      }
      expect(seen).toEqual([
        ["ab", false],
        ["cdef", true],
      ]);
    });

    test("takes one message of 64 MiB in one frame", async () => {
      const ws = new Scripted(role);
      let length = 0;
      let isOver = false;
      ws.ours.onMessage = (piece, last) => {
        length += piece.length;
        isOver = last;
      };
      const block = Buffer.alloc(MIB);
      const start = ws.bytes({ opcode: BINARY, length: BigInt(64 * MIB), form: 64 });
      await writeAll(ws.below, [start, ...Array<Buffer>(64).fill(block)]);
      await until(() => isOver, "the message is whole");
      expect(length).toBe(64 * MIB);
    });

    // --- back-pressure -------------------------------------------------------------

    test("says when to stop writing, and when to go on", async () => {
      const { ours, socket, below } = new Scripted(role);
      below.stream.pause();
      const piece = pattern(16 * KIB);
      let written = 1;
      while (socket.sendPiece(piece, false)) written++;
      expect(written).toBeWithin(2, 32);
      await turn();
      expect(ours.drains).toBe(0);
      below.stream.resume();
      await until(() => ours.drains === 1, "it drains");
      expect(socket.sendPiece(piece, true)).toBe(true);
      await below.received((written + 1) * piece.length);
      expect(ours.drains).toBe(1);
    });

    test("stops the source while it is paused, and loses nothing", async () => {
      const ws = new Scripted(role);
      const { ours, socket } = ws;
      socket.pause();
      expect(socket.isReading).toBe(false);
      const piece = pattern(16 * KIB);
      let written = 1;
      while (ws.below.stream.write(ws.bytes({ opcode: BINARY, payload: piece }))) written++;
      await turn();
      // The source took what fits into its window, and no more.
      expect(written).toBeWithin(2, 32);
      expect(ours.length).toBe(0);
      socket.resume();
      expect(socket.isReading).toBe(true);
      await until(() => ours.messages.length === written, "everything is there");
      expect(ours.messages.every((message) => message.equals(piece))).toBe(true);
    });

    test("can be paused from inside a message, which goes on later", async () => {
      const ws = new Scripted(role);
      const { ours, socket } = ws;
      ours.onPiece = () => {
        if (ours.length < 10) socket.pause();
      };
      ws.send({ opcode: BINARY, fin: false, payload: "first" });
      await turn();
      ws.send({ opcode: 0, payload: "second" });
      await turn();
      expect(ours.length).toBe(5);
      socket.resume();
      await until(() => ours.messages.length === 1, "the message is whole");
      expect(ours.texts).toEqual(["firstsecond"]);
    });

    // --- signs of life ---------------------------------------------------------------

    test("answers pings with what they say, also between the frames of a message", async () => {
      const ws = new Scripted(role);
      const payloads = [Buffer.alloc(0), Buffer.from("ping"), pattern(125)];
      ws.send({ opcode: BINARY, fin: false, payload: "a" }, ...payloads.map((payload) => ({ opcode: PING, payload })), {
        opcode: 0,
        payload: "b",
      });
      const frames = await ws.got(3);
      expect(ws.told).toEqual(payloads.map((payload) => `10: ${payload.toString("hex")}`));
      expect(frames.every(({ fin, key }) => fin && (key !== undefined) === masks)).toBe(true);
      expect(ws.ours.texts).toEqual(["ab"]);
    });

    test("answers a ping in the middle of its own message", async () => {
      const ws = new Scripted(role);
      ws.socket.sendPiece(Buffer.from("a"), false);
      ws.send({ opcode: PING, payload: "?" });
      await ws.got(2);
      ws.socket.sendPiece(Buffer.from("b"), true);
      await ws.got(3);
      expect(ws.told).toEqual(["2: 61", "10: 3f", "0: 62"]);
    });

    test("heaps no answers up for a peer that asks and does not read", async () => {
      const ws = new Scripted(role);
      const { ours, socket, below } = ws;
      below.stream.pause();
      while (socket.sendPiece(pattern(16 * KIB), false));
      for (let i = 0; i < 50; i++) {
        ws.send(...Array.from({ length: 100 }, () => ({ opcode: PING, payload: pattern(125) })));
        await turn();
      }
      ws.send({ opcode: BINARY, payload: "!" });
      await until(() => ours.messages.length === 1, "all pings are read");
      below.stream.resume();
      await until(() => ours.drains === 1, "it drains");
      ws.send({ opcode: PING, payload: "again" });
      const answers = () => ws.frames.filter(({ opcode }) => opcode === PONG).map(({ payload }) => payload.toString());
      await until(() => answers().includes("again"), "it answers again");
      expect(answers().length).toBeLessThan(50);
    });

    // --- ends --------------------------------------------------------------------------

    for (const [what, payload, answer] of [
      ["1000", closeBody(1000, "done"), "03e8"],
      ["1001", closeBody(1001), "03e9"],
      ["4000", closeBody(4000), "0fa0"],
      ["no code", Buffer.alloc(0), "03e8"],
    ] as const) {
      test(`is closed by a close frame with ${what}, which it answers`, async () => {
        const ws = new Scripted(role);
        ws.send({ opcode: BINARY, payload: "last words" }, { opcode: CLOSE, payload });
        expect(await ws.closed()).toBeUndefined();
        expect(ws.ours.texts).toEqual(["last words"]);
        await ws.below.end();
        expect(ws.told).toEqual([`8: ${answer}`]);
        expect(ws.socket.isOpen).toBe(false);
        expect(ws.socket.sendText("late")).toBe(false);
        ws.below.stream.end();
        await ws.below.close();
        expect(ws.told.length).toBe(1);
        expect(ws.ours.closes.length).toBe(1);
      });
    }

    test("says goodbye with 1000, behind what it wrote, and hears no more", async () => {
      const ws = new Scripted(role);
      const { ours, socket } = ws;
      socket.sendPiece(Buffer.from("a"), true);
      socket.close();
      expect(ours.closes).toEqual([undefined]);
      expect(socket.isOpen).toBe(false);
      ws.send({ opcode: BINARY, payload: "late" }, { opcode: PING }, { opcode: CLOSE, payload: closeBody(1000) });
      await ws.below.end();
      await turn();
      expect(ws.told).toEqual(["2: 61", "8: 03e8"]);
      socket.close();
      socket.abort(reset());
      await turn();
      expect(ours.messages).toEqual([]);
      expect(ours.closes.length).toBe(1);
    });

    test("says goodbye with another code and a reason", async () => {
      const ws = new Scripted(role);
      ws.socket.close(1001, "leaving");
      await ws.below.end();
      expect(ws.told).toEqual([`8: ${closeBody(1001, "leaving").toString("hex")}`]);
    });

    test("closes both ends, each of which hears of it once", async () => {
      const ends = pairOf();
      ends[role].socket.close();
      await until(() => ends[other(role)].closes.length === 1, "the other end is closed");
      await turn();
      expect([ends.client.closes, ends.server.closes]).toEqual([[undefined], [undefined]]);
    });

    test("ends without a word when it is aborted", async () => {
      const ws = new Scripted(role);
      ws.socket.abort(reset());
      expect((await ws.below.close()).error?.code).toBe("peer-reset");
      expect(ws.ours.error?.code).toBe("cancelled");
      expect(ws.told).toEqual([]);
    });

    for (const [what, cut] of [
      ["between messages", (ws) => ws.send({ opcode: BINARY, payload: "before" })],
      ["within a message", (ws) => ws.send({ opcode: BINARY, fin: false, payload: "before" })],
      [
        "within a frame",
        (ws) => void ws.below.stream.write(ws.bytes({ opcode: BINARY, payload: "before", length: 50n })),
      ],
      [
        "within a close frame",
        (ws) => {
          ws.send({ opcode: BINARY, payload: "before" });
          ws.below.stream.write(ws.bytes({ opcode: CLOSE, payload: closeBody(1000) }).subarray(0, -1));
        },
      ],
    ] satisfies [string, (ws: Scripted) => void][]) {
      for (const how of ["end", "reset"] as const) {
        test(`takes ${how === "end" ? "an end" : "a reset"} ${what} for a cut`, async () => {
          const ws = new Scripted(role);
          cut(ws);
          await turn();
          expect(ws.ours.length).toBe(6);
          if (how === "end") ws.below.stream.end();
          else ws.below.stream.abort(reset());
          const error = await ws.closed();
          expect(error?.code).toBe("peer-reset");
          expect(error?.message).toContain("the peer");
          expect(ws.socket.isOpen).toBe(false);
        });
      }
    }

    const faults: [what: string, code: number, (ws: Scripted) => Uint8Array][] = [
      ["a reserved bit", 1002, (ws) => ws.bytes({ opcode: BINARY, rsv: 4 })],
      ["an unknown opcode", 1002, (ws) => ws.bytes({ opcode: 3 })],
      ["the wrong masking", 1002, () => frame({ opcode: BINARY, key: masks ? Uint8Array.of(1, 2, 3, 4) : undefined })],
      ["a continuation of nothing", 1002, (ws) => ws.bytes({ opcode: 0, payload: "x" })],
      ["a fragmented ping", 1002, (ws) => ws.bytes({ opcode: PING, fin: false })],
      ["a close code that cannot be", 1002, (ws) => ws.bytes({ opcode: CLOSE, payload: closeBody(1005) })],
      ["text that is no UTF-8", 1007, (ws) => ws.bytes({ opcode: TEXT, payload: Uint8Array.of(0x61, 0xff) })],
      [
        "a message inside another",
        1002,
        (ws) =>
          Buffer.concat([
            ws.bytes({ opcode: BINARY, fin: false, payload: "" }),
            ws.bytes({ opcode: BINARY, payload: "x" }),
          ]),
      ],
    ];
    for (const [what, code, bytesFor] of faults) {
      test(`answers ${what} with close code ${code}, and gives up`, async () => {
        const ws = new Scripted(role);
        ws.socket.sendText("written before");
        ws.send({ opcode: BINARY, payload: "good" });
        ws.below.stream.write(Buffer.concat([bytesFor(ws), ws.bytes({ opcode: BINARY, payload: "ignored" })]));
        const error = await ws.closed();
        expect(error?.code).toBe("peer-protocol");
        expect(error?.message).toContain("the peer");
        expect(ws.ours.texts).toEqual(["good"]);
        await ws.below.end();
        expect(ws.frames.map(({ opcode }) => opcode)).toEqual([TEXT, CLOSE]);
        expect(ws.frames[1]!.payload.readUInt16BE(0)).toBe(code);
        await turn();
        expect(ws.ours.closes.length).toBe(1);
      });
    }

    test("lets its listener end it from inside a message", async () => {
      for (const end of ["close", "abort"] as const) {
        const ws = new Scripted(role);
        const { ours, socket } = ws;
        ours.onPiece = () => (end === "close" ? socket.close() : socket.abort(reset()));
        ws.send({ opcode: BINARY, payload: "one" }, { opcode: BINARY, payload: "two" });
        await turn();
        expect(ours.texts).toEqual(["one"]);
        expect(ours.closes.length).toBe(1);
      }
    });
  });
}

describe("the heartbeat of a message socket", () => {
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
    return {
      watchers,
      async seconds(count: number, each: () => void = () => {}): Promise<void> {
        for (let i = 0; i < count; i++) {
          each();
          await turn();
          jest.advanceTimersByTime(1000);
          for (const watcher of watchers) if (!watcher(now())) watchers.delete(watcher);
          await turn();
        }
      },
    };
  }

  const beating = (role: Role) => new Scripted(role, { heartbeat: heartbeatEvery(15_000) });
  const opcodesOf = ({ frames }: Scripted) => frames.map(({ opcode }) => opcode);

  test("gives a busy peer more time, and as much as any other one afterwards", async () => {
    const clock = stoppedClock();
    const ws = beating("server");
    ws.socket.slackMs = 40_000;
    await clock.seconds(63);
    expect(ws.ours.closes).toEqual([]);
    ws.socket.slackMs = 0;
    await clock.seconds(2);
    expect(ws.ours.error?.code).toBe("peer-silent");
  });

  for (const role of ROLES) {
    test(`asks a silent peer after one interval and gives it up after the time-out, as ${role}`, async () => {
      const clock = stoppedClock();
      const ws = beating(role);
      await clock.seconds(14);
      expect(opcodesOf(ws)).toEqual([]);
      await clock.seconds(2);
      expect(ws.frames).toMatchObject([{ opcode: PING, payload: Buffer.alloc(0) }]);
      await clock.seconds(8);
      expect(ws.ours.closes).toEqual([]);
      await clock.seconds(2);
      expect(ws.ours.error?.code).toBe("peer-silent");
      expect(ws.ours.error?.message).toMatch(/the peer .* 2[5-7] s/);
      expect(ws.below.reason?.error?.code).toBe("peer-reset");
      expect(clock.watchers.size).toBe(0);
    });
  }

  test("spares a peer that answers, and one that only says something", async () => {
    for (const opcode of [PONG, BINARY]) {
      const clock = stoppedClock();
      const ws = beating("client");
      let second = 0;
      await clock.seconds(300, () => {
        if (++second % 20 === 0) ws.send({ opcode });
      });
      expect(ws.ours.closes).toEqual([]);
      expect(opcodesOf(ws).length).toBeWithin(10, 35);
      jest.useRealTimers();
      jest.restoreAllMocks();
    }
  });

  test("takes any byte for a sign of life, even of a frame that does not end", async () => {
    const clock = stoppedClock();
    const ws = beating("server");
    ws.send({ opcode: BINARY, length: 1000n });
    let second = 0;
    await clock.seconds(200, () => {
      if (++second % 10 === 0) ws.below.stream.write(Buffer.from("x"));
    });
    expect(ws.ours.closes).toEqual([]);
    expect(ws.ours.length).toBe(20);
  });

  test("does not take the own pause for the peer's silence, and begins anew behind it", async () => {
    const clock = stoppedClock();
    const ws = beating("server");
    ws.socket.pause();
    ws.send({ opcode: BINARY, payload: "held" });
    await clock.seconds(300);
    expect(ws.ours.closes).toEqual([]);
    ws.socket.resume();
    await clock.seconds(20);
    expect(ws.ours.texts).toEqual(["held"]);
    expect(ws.ours.closes).toEqual([]);
    await clock.seconds(10);
    expect(ws.ours.error?.code).toBe("peer-silent");
  });

  test("gives a peer the whole time behind the own pause", async () => {
    const clock = stoppedClock();
    const ws = beating("client");
    ws.socket.pause();
    await clock.seconds(300);
    ws.socket.resume();
    await clock.seconds(23);
    expect(ws.ours.closes).toEqual([]);
    await clock.seconds(4);
    expect(ws.ours.error?.code).toBe("peer-silent");
  });

  test("asks nothing while both sides have something to say", async () => {
    const clock = stoppedClock();
    const ws = beating("client");
    await clock.seconds(60, () => {
      ws.socket.sendPiece(Buffer.from("."), false);
      ws.send({ opcode: BINARY });
    });
    expect(opcodesOf(ws)).not.toContain(PING);
  });

  test("heaps no questions up for a peer that speaks and does not read", async () => {
    const clock = stoppedClock();
    const ws = beating("server");
    ws.below.stream.pause();
    while (ws.socket.sendPiece(pattern(16 * KIB), false));
    let second = 0;
    await clock.seconds(300, () => {
      if (++second % 10 === 0) ws.send({ opcode: BINARY });
    });
    expect(ws.ours.closes).toEqual([]);
    ws.below.stream.resume();
    await turn();
    expect(opcodesOf(ws).filter((opcode) => opcode === PING)).toEqual([]);
  });

  test("gives a peer up that does not read, either", async () => {
    const clock = stoppedClock();
    const ws = beating("server");
    ws.below.stream.pause();
    while (ws.socket.sendPiece(pattern(16 * KIB), false));
    await clock.seconds(30);
    expect(ws.ours.error?.code).toBe("peer-silent");
  });

  test("keeps two quiet ends alive", async () => {
    const clock = stoppedClock();
    const [left, right] = memoryPair();
    const heartbeat = heartbeatEvery(15_000);
    const ends = [opened(left, "client", { heartbeat }), opened(right, "server", { heartbeat })];
    await clock.seconds(300);
    expect(ends.map(({ closes }) => closes)).toEqual([[], []]);
  });

  for (const [how, end] of Object.entries({
    "is closed": ({ socket }: Scripted) => socket.close(),
    "is aborted": ({ socket }: Scripted) => socket.abort(reset()),
    "is closed by its peer": (ws: Scripted) => ws.send({ opcode: CLOSE }),
  })) {
    test(`ends when its socket ${how}`, async () => {
      const clock = stoppedClock();
      const ws = beating("client");
      expect(clock.watchers.size).toBe(1);
      end(ws);
      await turn();
      expect(clock.watchers.size).toBe(0);
    });
  }

  test("is not there unless asked for, or with an interval of 0", () => {
    const clock = stoppedClock();
    for (const heartbeat of [undefined, { intervalMs: 0, timeoutMs: 1000 }]) new Scripted("client", { heartbeat });
    expect(clock.watchers.size).toBe(0);
  });
});
