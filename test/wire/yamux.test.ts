import { describe, expect, test } from "bun:test";
import { SeikanError } from "../../src/core/errors.ts";
import {
  FLAG,
  FRAME,
  GO_AWAY,
  HEADER_LENGTH,
  INITIAL_WINDOW,
  yamuxError,
  yamuxHeader,
  YamuxReader,
} from "../../src/wire/yamux.ts";
import { byteByByte, cutAtRandom, randomNumbers } from "../support/random.ts";
import { pattern } from "../support/wait.ts";

const random = randomNumbers();
const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");

/** As the specification draws it, by other means than the codec's. */
function header(type: number, flags: number, stream: number, length: number, version = 0): Buffer<ArrayBuffer> {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt8(version, 0);
  bytes.writeUInt8(type, 1);
  bytes.writeUInt16BE(flags, 2);
  bytes.writeUInt32BE(stream, 4);
  bytes.writeUInt32BE(length, 8);
  return bytes;
}

const data = (flags: number, stream: number, payload: Uint8Array) =>
  Buffer.concat([header(0, flags, stream, payload.length), payload]);

interface Reading {
  /** `data 1 SYN…` and, for payload, what came in a row: `payload 1: 616263`. */
  readonly events: string[];
  readonly error: string | undefined;
}

/** A reader that takes down what it says, payload pieces of one frame put together. */
function recording() {
  const events: string[] = [];
  let payload: Buffer | undefined;
  const flush = () => {
    if (payload !== undefined) events[events.length - 1] += ` ${payload.toString("hex")}`;
    payload = undefined;
  };
  const reader = new YamuxReader({
    onFrame(type, flags, stream, length) {
      flush();
      events.push(`${type === FRAME.data ? "data" : "window"} ${stream} flags ${flags} length ${length}`);
    },
    onPayload(stream, piece) {
      expect(piece.length).toBeGreaterThan(0);
      expect(events.at(-1)).toStartWith(`data ${stream} `);
      payload = Buffer.concat([payload ?? Buffer.alloc(0), piece]);
    },
    onPing(isAnswer, value) {
      flush();
      events.push(`${isAnswer ? "pong" : "ping"} ${value}`);
    },
    onGoAway(code) {
      flush();
      events.push(`go away ${code}`);
    },
  });
  return { reader, events, flush };
}

function read(chunks: readonly Uint8Array[]): Reading {
  const { reader, events, flush } = recording();
  let error: string | undefined;
  try {
    for (const chunk of chunks) reader.feed(Uint8Array.from(chunk));
  } catch (thrown) {
    if (!(thrown instanceof SeikanError)) throw thrown;
    error = thrown.code;
  }
  flush();
  return { events, error };
}

/** Reads the same bytes whole, byte by byte and at random cuts; the results must be the same. */
function readEveryWay(...parts: readonly Uint8Array[]): Reading {
  const bytes = Buffer.concat(parts);
  const whole = read([bytes]);
  const ways: [string, Buffer[]][] = [["byte by byte", byteByByte(bytes)]];
  for (let i = 0; i < 16; i++) {
    const chunks = cutAtRandom(bytes, random);
    ways.push([`cut into ${chunks.map((chunk) => chunk.length).join("+")}`, chunks]);
  }
  for (const [way, chunks] of ways) expect({ way, reading: read(chunks) }).toEqual({ way, reading: whole });
  return whole;
}

const reads = (...events: string[]): Reading => ({ events, error: undefined });
const refuses = (...events: string[]): Reading => ({ events, error: "peer-protocol" });

describe("a yamux header", () => {
  test("is twelve bytes in the order of the network", () => {
    expect(HEADER_LENGTH).toBe(12);
    expect(INITIAL_WINDOW).toBe(262_144);
    expect(Buffer.from(yamuxHeader(FRAME.data, FLAG.syn, 1, 5))).toEqual(hex("00 00 0001 00000001 00000005"));
    expect(Buffer.from(yamuxHeader(FRAME.windowUpdate, FLAG.ack, 2, 0x40000))).toEqual(
      hex("00 01 0002 00000002 00040000"),
    );
    expect(Buffer.from(yamuxHeader(FRAME.ping, FLAG.syn, 0, 0xdeadbeef))).toEqual(hex("00 02 0001 00000000 deadbeef"));
    expect(Buffer.from(yamuxHeader(FRAME.goAway, 0, 0, GO_AWAY.internalError))).toEqual(
      hex("00 03 0000 00000000 00000002"),
    );
  });

  test("is written as other means write it, up to the largest numbers", () => {
    for (const type of [0, 1, 2, 3]) {
      for (const flags of [0, FLAG.syn, FLAG.ack, FLAG.fin, FLAG.rst, FLAG.syn | FLAG.fin, 15]) {
        for (const stream of [0, 1, 255, 65536, 0x7fffffff, 0x80000001, 0xffffffff]) {
          for (const length of [0, 1, 255, 256, 0x01020304, 0x80000000, 0xffffffff]) {
            expect(Buffer.from(yamuxHeader(type, flags, stream, length))).toEqual(header(type, flags, stream, length));
          }
        }
      }
    }
  });
});

describe("a yamux reader", () => {
  test("reads frames of every type in a row", () => {
    const reading = readEveryWay(
      header(FRAME.windowUpdate, FLAG.syn, 1, 0),
      data(0, 1, Buffer.from("abc")),
      header(FRAME.ping, FLAG.syn, 0, 7),
      data(FLAG.fin, 1, Buffer.from("d")),
      header(FRAME.ping, FLAG.ack, 0, 0xffffffff),
      header(FRAME.windowUpdate, FLAG.rst, 0xfffffffe, 0),
      header(FRAME.goAway, 0, 0, 0),
    );
    expect(reading).toEqual(
      reads(
        "window 1 flags 1 length 0",
        "data 1 flags 0 length 3 616263",
        "ping 7",
        "data 1 flags 4 length 1 64",
        "pong 4294967295",
        "window 4294967294 flags 8 length 0",
        "go away 0",
      ),
    );
  });

  test("reads data frames without payload", () => {
    expect(
      readEveryWay(data(FLAG.syn, 3, Buffer.alloc(0)), data(FLAG.fin, 3, Buffer.alloc(0)), data(0, 3, Buffer.of(9))),
    ).toEqual(reads("data 3 flags 1 length 0", "data 3 flags 4 length 0", "data 3 flags 0 length 1 09"));
  });

  test("takes the length of a window update for no payload", () => {
    expect(
      readEveryWay(header(FRAME.windowUpdate, 0, 5, 0xffffffff), header(FRAME.windowUpdate, FLAG.fin, 5, 12)),
    ).toEqual(reads("window 5 flags 0 length 4294967295", "window 5 flags 4 length 12"));
  });

  test("takes payload for nothing else, whatever it looks like", () => {
    const tricky = Buffer.concat([header(FRAME.goAway, 0, 0, 1), header(9, 99, 9, 9, 9)]);
    expect(readEveryWay(data(0, 1, tricky), header(FRAME.ping, 0, 0, 1))).toEqual(
      reads(`data 1 flags 0 length 24 ${tricky.toString("hex")}`, "ping 1"),
    );
  });

  test("reads long payloads", () => {
    const payload = pattern(20_000);
    expect(readEveryWay(data(0, 1, payload), data(0, 3, payload))).toEqual(
      reads(
        `data 1 flags 0 length 20000 ${payload.toString("hex")}`,
        `data 3 flags 0 length 20000 ${payload.toString("hex")}`,
      ),
    );
  });

  test("passes payload on as it arrives, without a copy", () => {
    const pieces: [number, string, ArrayBufferLike][] = [];
    const reader = new YamuxReader({
      onFrame() {},
      onPayload: (stream, piece) => void pieces.push([stream, Buffer.from(piece).toString(), piece.buffer]),
      onPing() {},
      onGoAway() {},
    });
    const bytes = data(0, 7, Buffer.from("abcdef"));
    const chunks = [bytes.subarray(0, 14), bytes.subarray(14, 15), bytes.subarray(15)].map((part) =>
      Uint8Array.from(part),
    );
    for (const [index, chunk] of chunks.entries()) {
      reader.feed(chunk);
      expect(pieces.length).toBe(index + 1);
      expect(pieces[index]![2]).toBe(chunk.buffer);
    }
    expect(pieces.map(([stream, text]) => [stream, text])).toEqual([
      [7, "ab"],
      [7, "c"],
      [7, "def"],
    ]);
  });

  test("says nothing of a header that is not complete", () => {
    const { reader, events } = recording();
    for (const byte of header(FRAME.ping, FLAG.syn, 0, 1).subarray(0, 11)) reader.feed(Uint8Array.of(byte));
    expect(events).toEqual([]);
    reader.feed(new Uint8Array(0));
    reader.feed(Uint8Array.of(1));
    expect(events).toEqual(["ping 1"]);
  });

  test("drops what follows once it was stopped, also within a chunk", () => {
    const seen: number[] = [];
    const reader: YamuxReader = new YamuxReader({
      onFrame() {},
      onPayload() {},
      onPing(_, value) {
        seen.push(value);
        if (value === 2) reader.stop();
      },
      onGoAway() {},
    });
    const pings = Buffer.concat([1, 2, 3].map((value) => header(FRAME.ping, FLAG.syn, 0, value)));
    reader.feed(pings);
    reader.feed(hex("ff ff ff ff ff ff ff ff ff ff ff ff"));
    expect(seen).toEqual([1, 2]);
  });
});

describe("a yamux frame is refused", () => {
  const before = header(FRAME.ping, FLAG.syn, 0, 1);

  test("in another version", () => {
    for (const version of [1, 2, 127, 255]) {
      for (const type of [0, 1]) {
        expect(readEveryWay(before, header(type, 0, 1, 0, version))).toEqual(refuses("ping 1"));
      }
      for (const type of [2, 3]) {
        expect(readEveryWay(before, header(type, 0, 0, 0, version))).toEqual(refuses("ping 1"));
      }
    }
  });

  test("with an unknown type", () => {
    for (const type of [4, 5, 128, 255]) {
      for (const stream of [0, 1]) {
        expect(readEveryWay(before, header(type, 0, stream, 0))).toEqual(refuses("ping 1"));
      }
    }
  });

  test("with an unknown flag", () => {
    for (const flags of [16, 32, 128, 256, 0x8000, 0xffff]) {
      for (const [type, stream] of [
        [0, 1],
        [1, 1],
        [2, 0],
        [3, 0],
      ] as const) {
        expect(readEveryWay(before, header(type, flags, stream, 0))).toEqual(refuses("ping 1"));
      }
    }
  });

  test("when it is data or a window for stream 0", () => {
    for (const type of [0, 1]) {
      for (const flags of [0, FLAG.syn, FLAG.fin, FLAG.rst]) {
        expect(readEveryWay(before, header(type, flags, 0, 3))).toEqual(refuses("ping 1"));
      }
    }
  });

  test("when it is a ping or a go-away for a stream", () => {
    for (const type of [2, 3]) {
      for (const stream of [1, 2, 0xffffffff]) {
        expect(readEveryWay(before, header(type, FLAG.syn, stream, 0))).toEqual(refuses("ping 1"));
      }
    }
  });

  test("when it is HTTP", () => {
    expect(readEveryWay(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"))).toEqual(refuses());
    expect(yamuxError("x").code).toBe("peer-protocol");
  });
});
