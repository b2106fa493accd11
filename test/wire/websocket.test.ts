import { describe, expect, test } from "bun:test";
import {
  applyMask,
  closePayload,
  encodeFrame,
  FrameError,
  frameHeaderLength,
  FrameReader,
  isCloseCode,
  writeFrameHeader,
  type FrameReaderOptions,
} from "../../src/wire/websocket.ts";
import { bytesOf, closeBody, frame, framesIn, maskNaively, type FrameShape } from "../support/frames.ts";
import { byteByByte, cutAtRandom, randomNumbers } from "../support/random.ts";
import { pattern } from "../support/wait.ts";

const random = randomNumbers();

const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

const KEY = Uint8Array.of(0x37, 0xfa, 0x21, 0x3d);
const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");

interface Reading {
  /** What is complete, in order: `text: 6869`, `ping: `, `close 1000: 627965`. */
  readonly events: string[];
  /** The bytes of a message that has not ended; they say nothing once there is an error. */
  readonly unfinished: string | undefined;
  /** What the peer is told. */
  readonly closeCode: number | undefined;
}

/** Long payloads are told by length and hash. */
function told(bytes: Uint8Array): string {
  if (bytes.length <= 200) return Buffer.from(bytes).toString("hex");
  return `${bytes.length} bytes ${new Bun.CryptoHasher("sha1").update(bytes).digest("hex")}`;
}

const OPTIONS: FrameReaderOptions = { role: "client", maxFrame: 100_000, binaryOnly: false };

/** A reader that takes down what it says. */
function recording(options: Partial<FrameReaderOptions> = {}) {
  const events: string[] = [];
  let pieces: Uint8Array[] = [];
  let kind: boolean | undefined;
  const reader = new FrameReader(
    {
      onMessageData(piece, isText, last) {
        if (kind !== undefined) expect(isText).toBe(kind);
        kind = last ? undefined : isText;
        pieces.push(piece.slice());
        if (!last) return;
        events.push(`${isText ? "text" : "binary"}: ${told(Buffer.concat(pieces))}`);
        pieces = [];
      },
      onPing: (payload) => void events.push(`ping: ${told(payload)}`),
      onPong: (payload) => void events.push(`pong: ${told(payload)}`),
      onCloseFrame: (code, reason) => void events.push(`close ${code}: ${told(bytesOf(reason))}`),
    },
    { ...OPTIONS, ...options },
  );
  const unfinished = () => (kind === undefined ? undefined : told(Buffer.concat(pieces)));
  return { reader, events, unfinished };
}

function read(options: Partial<FrameReaderOptions>, chunks: readonly Uint8Array[]): Reading {
  const { reader, events, unfinished } = recording(options);
  try {
    // The reader owns what it is given, and unmasks it in place.
    for (const chunk of chunks) reader.feed(new Uint8Array(chunk));
  } catch (error) {
    if (!(error instanceof FrameError)) throw error;
    expect(error.code).toBe("peer-protocol");
    return { events, unfinished: undefined, closeCode: error.closeCode };
  }
  return { events, unfinished: unfinished(), closeCode: undefined };
}

/** Reads the same bytes whole, byte by byte and at random cuts; the results must be the same. */
function readEveryWay(bytes: Buffer, options: Partial<FrameReaderOptions> = {}): Reading {
  const whole = read(options, [bytes]);
  const ways: [string, Buffer[]][] = [["byte by byte", byteByByte(bytes)]];
  for (let i = 0; i < 8; i++) {
    const chunks = cutAtRandom(bytes, random);
    ways.push([`cut into ${chunks.map((chunk) => chunk.length).join("+")}`, chunks]);
    // Most that can go wrong goes wrong around a header.
    const near = cutAtRandom(bytes.subarray(0, 20), random);
    ways.push([
      `cut into ${near.map((chunk) => chunk.length).join("+")} and the rest`,
      [...near, bytes.subarray(20)].filter((chunk) => chunk.length > 0),
    ]);
  }
  for (const [way, chunks] of ways) expect({ way, reading: read(options, chunks) }).toEqual({ way, reading: whole });
  return whole;
}

/** What these frames say, read as a client gets them and, masked, as a server does; both must be the same. */
function readFrames(shapes: readonly FrameShape[], options: Partial<FrameReaderOptions> = {}): Reading {
  const unmasked = readEveryWay(Buffer.concat(shapes.map(frame)), { ...options, role: "client" });
  const masked = shapes.map((shape) => frame({ ...shape, key: Uint8Array.from([1, 2, 3, 4], () => random(256)) }));
  expect(readEveryWay(Buffer.concat(masked), { ...options, role: "server" })).toEqual(unmasked);
  return unmasked;
}

const reads = (...events: string[]): Reading => ({ events, unfinished: undefined, closeCode: undefined });
/** Refuses with this code, after these events. */
const refuses = (closeCode: number, ...events: string[]): Reading => ({ events, unfinished: undefined, closeCode });

describe("a WebSocket frame reader", () => {
  test("reads the examples of RFC 6455 section 5.7", () => {
    const hello = `text: ${hex("48656c6c6f").toString("hex")}`;
    expect(readEveryWay(hex("81 05 48 65 6c 6c 6f"))).toEqual(reads(hello));
    expect(readEveryWay(hex("81 85 37 fa 21 3d 7f 9f 4d 51 58"), { role: "server" })).toEqual(reads(hello));
    expect(readEveryWay(hex("01 03 48 65 6c 80 02 6c 6f"))).toEqual(reads(hello));
    expect(readEveryWay(hex("89 05 48 65 6c 6c 6f"))).toEqual(reads("ping: 48656c6c6f"));
    expect(readEveryWay(hex("8a 85 37 fa 21 3d 7f 9f 4d 51 58"), { role: "server" })).toEqual(
      reads("pong: 48656c6c6f"),
    );
    const binary = pattern(256);
    expect(readEveryWay(Buffer.concat([hex("82 7e 01 00"), binary]))).toEqual(reads(`binary: ${told(binary)}`));
    const long = pattern(65536);
    expect(readEveryWay(Buffer.concat([hex("82 7f 00 00 00 00 00 01 00 00"), long]))).toEqual(
      reads(`binary: ${told(long)}`),
    );
  });

  for (const length of [0, 1, 125, 126, 127, 65535, 65536, 70_000]) {
    test(`reads a message of ${length} bytes, and the frame behind it`, () => {
      const payload = pattern(length, length + 1);
      expect(
        readFrames([
          { opcode: BINARY, payload },
          { opcode: PING, payload: "behind" },
        ]),
      ).toEqual(reads(`binary: ${told(payload)}`, `ping: ${hex("626568696e64").toString("hex")}`));
    });
  }

  test("passes payload on as it arrives, in the memory it came in", () => {
    const pieces: [string, boolean, ArrayBufferLike][] = [];
    const reader = new FrameReader(
      {
        onMessageData: (piece, _, last) => void pieces.push([Buffer.from(piece).toString(), last, piece.buffer]),
        onPing() {},
        onPong() {},
        onCloseFrame() {},
      },
      { ...OPTIONS, role: "server" },
    );
    const bytes = frame({ opcode: BINARY, payload: "abcdefgh", key: KEY });
    const chunks = [bytes.subarray(0, 9), bytes.subarray(9, 11), bytes.subarray(11)].map((part) =>
      Uint8Array.from(part),
    );
    for (const [index, chunk] of chunks.entries()) {
      reader.feed(chunk);
      expect(pieces.length).toBe(index + 1);
      expect(pieces[index]![2]).toBe(chunk.buffer);
    }
    expect(pieces.map(([text, last]) => [text, last])).toEqual([
      ["abc", false],
      ["de", false],
      ["fgh", true],
    ]);
  });

  test("drops what follows once it was stopped, also within a chunk", () => {
    const seen: string[] = [];
    const reader: FrameReader = new FrameReader(
      {
        onMessageData: (piece) => {
          seen.push(Buffer.from(piece).toString());
          if (seen.length === 2) reader.stop();
        },
        onPing() {},
        onPong() {},
        onCloseFrame() {},
      },
      OPTIONS,
    );
    const messages = ["one", "two", "three"].map((payload) => frame({ opcode: BINARY, payload }));
    reader.feed(Uint8Array.from(Buffer.concat(messages)));
    reader.feed(Uint8Array.from(messages[0]!));
    reader.feed(hex("ff ff ff ff"));
    expect(seen).toEqual(["one", "two"]);
  });
});

describe("a WebSocket frame is refused", () => {
  test("unmasked by a server, whatever it holds", () => {
    for (const opcode of [TEXT, BINARY, CLOSE, PING, PONG]) {
      expect(readEveryWay(frame({ opcode, payload: closeBody(1000) }), { role: "server" })).toEqual(refuses(1002));
      expect(readEveryWay(frame({ opcode }), { role: "server" })).toEqual(refuses(1002));
    }
  });

  test("masked by a client, even with zeros", () => {
    for (const key of [KEY, new Uint8Array(4)]) {
      for (const opcode of [TEXT, BINARY, CLOSE, PING, PONG]) {
        expect(readEveryWay(frame({ opcode, key }), { role: "client" })).toEqual(refuses(1002));
      }
    }
  });

  test("with a reserved bit", () => {
    for (let rsv = 1; rsv < 8; rsv++) {
      for (const opcode of [TEXT, BINARY, CLOSE, PING, PONG])
        expect(readFrames([{ opcode, rsv }])).toEqual(refuses(1002));
      expect(
        readFrames([
          { opcode: BINARY, fin: false, payload: "a" },
          { opcode: 0, rsv, payload: "b" },
        ]),
      ).toEqual(refuses(1002));
    }
  });

  test("with an opcode that nobody has defined", () => {
    for (const opcode of [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) {
      for (const fin of [true, false]) {
        expect(
          readFrames([
            { opcode: PING, payload: "1" },
            { opcode, fin, payload: "x" },
          ]),
        ).toEqual(refuses(1002, "ping: 31"));
      }
    }
  });

  test("when it is a fragment of a control frame", () => {
    for (const opcode of [CLOSE, PING, PONG]) expect(readFrames([{ opcode, fin: false }])).toEqual(refuses(1002));
  });

  test("when it is a control frame of more than 125 bytes", () => {
    for (const opcode of [CLOSE, PING, PONG]) {
      expect(readFrames([{ opcode, payload: pattern(126) }])).toEqual(refuses(1002));
      expect(readFrames([{ opcode, payload: pattern(65536) }])).toEqual(refuses(1002));
      expect(readFrames([{ opcode, payload: "ab", form: 16 }])).toEqual(refuses(1002));
    }
    expect(readFrames([{ opcode: PING, payload: pattern(125) }])).toEqual(reads(`ping: ${told(pattern(125))}`));
  });

  test("with a length that is not written in the shortest way", () => {
    for (const length of [0, 1, 125]) {
      expect(readFrames([{ opcode: BINARY, payload: pattern(length), form: 16 }])).toEqual(refuses(1002));
    }
    for (const length of [0, 1, 125, 126, 65535]) {
      expect(readFrames([{ opcode: BINARY, payload: pattern(length), form: 64 }])).toEqual(refuses(1002));
    }
  });

  test("with a length of 2^63 or more", () => {
    for (const length of [2n ** 63n, 2n ** 63n + 5n, 2n ** 64n - 1n]) {
      expect(readFrames([{ opcode: BINARY, length }], { maxFrame: Number.MAX_VALUE })).toEqual(refuses(1002));
    }
  });

  test("beyond the largest frame that is taken, before any payload", () => {
    const tooLong: [number, bigint][] = [
      [100_000, 100_001n],
      [100_000, 2n ** 32n],
      [100_000, 2n ** 53n],
      [100_000, 2n ** 63n - 1n],
      [1000, 1001n],
      [10, 11n],
      [0, 1n],
    ];
    for (const [maxFrame, length] of tooLong) {
      for (const opcode of [TEXT, BINARY])
        expect(readFrames([{ opcode, length }], { maxFrame })).toEqual(refuses(1009));
      const [before, header] = [frame({ opcode: BINARY, fin: false }), frame({ opcode: 0, length })];
      expect(readEveryWay(Buffer.concat([before, header]), { maxFrame })).toEqual(refuses(1009));
    }
    expect(readFrames([{ opcode: BINARY, payload: pattern(1000) }], { maxFrame: 1000 })).toEqual(
      reads(`binary: ${told(pattern(1000))}`),
    );
    // Of frames, not of messages: nobody collects those.
    const parts: FrameShape[] = [
      { opcode: BINARY, fin: false, payload: pattern(1000) },
      { opcode: 0, payload: pattern(1000) },
    ];
    expect(readFrames(parts, { maxFrame: 1000 }).events.length).toBe(1);
    // Control frames have a limit of their own.
    expect(readFrames([{ opcode: PING, payload: "12345" }], { maxFrame: 1 })).toEqual(reads("ping: 3132333435"));
  });

  test("when it is text where only binary messages are spoken", () => {
    for (const fin of [true, false]) {
      for (const payload of ["", "text"]) {
        expect(readFrames([{ opcode: TEXT, fin, payload }], { binaryOnly: true })).toEqual(refuses(1003));
      }
    }
    // Its header says enough.
    expect(readEveryWay(frame({ opcode: TEXT, length: 5n }), { binaryOnly: true })).toEqual(refuses(1003));
    expect(readFrames([{ opcode: BINARY, payload: "b" }], { binaryOnly: true })).toEqual(reads("binary: 62"));
  });

  test("as soon as its first two bytes are wrong, without the rest of its header", () => {
    // No payload, no length, no mask.
    for (const start of ["c2 fe", "83 ff", "09 80", "88 fe", "82 7e"]) {
      expect(() => recording({ role: "server" }).reader.feed(Uint8Array.from(hex(start)))).toThrow(FrameError);
    }
  });
});

describe("a fragmented WebSocket message", () => {
  test("is one message, empty fragments and all", () => {
    expect(
      readFrames([
        { opcode: BINARY, fin: false },
        { opcode: 0, fin: false, payload: "a" },
        { opcode: 0, fin: false },
        { opcode: 0, fin: false, payload: "bc" },
        { opcode: 0 },
        { opcode: TEXT, payload: "next" },
      ]),
    ).toEqual(reads("binary: 616263", "text: 6e657874"));
  });

  test("is passed on before it ends", () => {
    const reading = readFrames([
      { opcode: BINARY, fin: false, payload: "abc" },
      { opcode: 0, fin: false, payload: "de" },
    ]);
    expect(reading).toEqual({ events: [], unfinished: "6162636465", closeCode: undefined });
  });

  test("may have control frames between its fragments, and a close", () => {
    expect(
      readFrames([
        { opcode: TEXT, fin: false, payload: "κ" },
        { opcode: PING, payload: "1" },
        { opcode: 0, fin: false, payload: "b" },
        { opcode: PONG },
        { opcode: PING, payload: pattern(125) },
        { opcode: 0, payload: "c" },
        { opcode: BINARY, fin: false, payload: "d" },
        { opcode: CLOSE, payload: closeBody(1001, "bye") },
      ]),
    ).toEqual({
      events: ["ping: 31", "pong: ", `ping: ${told(pattern(125))}`, "text: ceba6263", "close 1001: 627965"],
      unfinished: "64",
      closeCode: undefined,
    });
  });

  test("does not begin with a continuation", () => {
    for (const fin of [true, false]) {
      expect(readFrames([{ opcode: 0, fin, payload: "x" }])).toEqual(refuses(1002));
      expect(
        readFrames([
          { opcode: BINARY, payload: "a" },
          { opcode: 0, fin, payload: "x" },
        ]),
      ).toEqual(refuses(1002, "binary: 61"));
      expect(
        readFrames([
          { opcode: BINARY, fin: false, payload: "a" },
          { opcode: 0, payload: "b" },
          { opcode: 0, fin, payload: "x" },
        ]),
      ).toEqual(refuses(1002, "binary: 6162"));
    }
  });

  test("has no other message in it", () => {
    for (const opcode of [TEXT, BINARY]) {
      for (const fin of [true, false]) {
        expect(
          readFrames([{ opcode: BINARY, fin: false, payload: "a" }, { opcode: PING }, { opcode, fin, payload: "x" }]),
        ).toEqual(refuses(1002, "ping: "));
      }
    }
  });
});

describe("a WebSocket text message", () => {
  const text = "κόσμε €uro 𝄞 \u{10ffff} \0 \ufeff é";
  const encoded = bytesOf(text);

  test("may be cut anywhere into fragments, within characters also", () => {
    for (let first = 0; first <= encoded.length; first++) {
      const second = first + random(encoded.length - first + 1);
      expect(
        readFrames([
          { opcode: TEXT, fin: false, payload: encoded.slice(0, first) },
          { opcode: 0, fin: false, payload: encoded.slice(first, second) },
          { opcode: PING, payload: Uint8Array.of(0xff) },
          { opcode: 0, payload: encoded.slice(second) },
        ]),
      ).toEqual(reads("ping: ff", `text: ${told(encoded)}`));
    }
  });

  test("begins anew with each message", () => {
    expect(
      readFrames([
        { opcode: TEXT, payload: encoded },
        { opcode: BINARY, payload: encoded.slice(0, 1) },
        { opcode: TEXT, payload: encoded },
      ]),
    ).toEqual(reads(`text: ${told(encoded)}`, `binary: ${told(encoded.slice(0, 1))}`, `text: ${told(encoded)}`));
  });

  const wrong: [what: string, bytes: string, failsAt: number][] = [
    ["a continuation byte alone", "61 80 62", 2],
    ["a byte that never occurs", "61 ff 62", 2],
    ["an overlong slash", "c0 af 61", 1],
    ["an overlong sequence of three bytes", "e0 80 af 61", 2],
    ["an overlong sequence of four bytes", "f0 80 80 af 61", 2],
    ["a surrogate", "61 ed a0 80 62", 3],
    ["a code point beyond U+10FFFF", "ce ba f4 90 80 80 65 64", 4],
    ["a lead byte of five", "f8 88 80 80 80 61", 1],
    ["a sequence that is broken off by a letter", "e2 82 61", 3],
  ];
  for (const [what, bytes, failsAt] of wrong) {
    test(`is refused with ${what}, at the byte that makes it wrong`, () => {
      const payload = hex(bytes);
      expect(readFrames([{ opcode: TEXT, payload }])).toEqual(refuses(1007));
      expect(
        readFrames([
          { opcode: TEXT, fin: false, payload: payload.subarray(0, 2) },
          { opcode: PING },
          { opcode: 0, fin: false, payload: payload.subarray(2) },
        ]),
      ).toEqual(refuses(1007, ...(failsAt > 2 ? ["ping: "] : [])));
      // Nothing behind it is waited for: neither the frame's end nor the message's.
      const { reader } = recording();
      reader.feed(Uint8Array.from(frame({ opcode: TEXT, fin: false, length: 100n })));
      let taken = 0;
      expect(() => {
        for (const byte of payload) {
          taken++;
          reader.feed(Uint8Array.of(byte));
        }
      }).toThrow(FrameError);
      expect(taken).toBe(failsAt);
    });
  }

  test("is refused when it ends within a character", () => {
    for (const bytes of ["c3", "61 e2 82", "61 f0 9d 84"]) {
      const payload = hex(bytes);
      expect(readFrames([{ opcode: TEXT, payload }])).toEqual(refuses(1007));
      expect(readFrames([{ opcode: TEXT, fin: false, payload }, { opcode: PING }, { opcode: 0 }])).toEqual(
        refuses(1007, "ping: "),
      );
      // Binary messages hold anything.
      expect(readFrames([{ opcode: BINARY, payload }])).toEqual(reads(`binary: ${told(payload)}`));
    }
  });
});

describe("a WebSocket close frame", () => {
  test("may be empty", () => {
    expect(readFrames([{ opcode: CLOSE }])).toEqual(reads("close undefined: "));
  });

  test("is the last frame that is read", () => {
    const bytes = Buffer.concat([
      frame({ opcode: CLOSE, payload: closeBody(1000, "done") }),
      frame({ opcode: PING }),
      hex("ff ff ff ff ff"),
    ]);
    expect(readEveryWay(bytes)).toEqual(reads("close 1000: 646f6e65"));
  });

  test("is refused with half a code", () => {
    for (const payload of [Uint8Array.of(3), Uint8Array.of(0), Uint8Array.of(255)]) {
      expect(readFrames([{ opcode: CLOSE, payload }])).toEqual(refuses(1002));
    }
  });

  test("may have the codes that are defined, and those of libraries and applications", () => {
    const defined = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
    for (const code of [...defined, 3000, 3001, 3999, 4000, 4001, 4999]) {
      expect(isCloseCode(code)).toBe(true);
      expect(readFrames([{ opcode: CLOSE, payload: closeBody(code) }])).toEqual(reads(`close ${code}: `));
    }
    for (let code = 3000; code < 5000; code++) expect(isCloseCode(code)).toBe(true);
  });

  test("has no other code", () => {
    const invalid = [0, 1, 255, 256, 999, 1004, 1005, 1006, 1015, 1016, 1099, 1100, 1999, 2000, 2999, 5000, 65535];
    for (const code of invalid) {
      expect(isCloseCode(code)).toBe(false);
      expect(readFrames([{ opcode: CLOSE, payload: closeBody(code, "why") }])).toEqual(refuses(1002));
    }
    for (let code = 0; code < 65536; code++) {
      const isIn = (code >= 1000 && code <= 1014) || (code >= 3000 && code <= 4999);
      if (!isIn) expect(isCloseCode(code)).toBe(false);
    }
  });

  test("has a reason in UTF-8, up to 123 bytes", () => {
    const reason = `${"é".repeat(60)}abc`;
    expect(bytesOf(reason).length).toBe(123);
    expect(readFrames([{ opcode: CLOSE, payload: closeBody(1000, reason) }])).toEqual(
      reads(`close 1000: ${told(bytesOf(reason))}`),
    );
    for (const bytes of ["ff", "c3", "61 ed a0 80", "f4 90 80 80"]) {
      expect(readFrames([{ opcode: CLOSE, payload: closeBody(1000, hex(bytes)) }])).toEqual(refuses(1007));
    }
  });

  test("is written with a reason that fits", () => {
    expect(Buffer.from(closePayload(1000))).toEqual(closeBody(1000));
    expect(Buffer.from(closePayload(4999, "bye"))).toEqual(closeBody(4999, "bye"));
    for (const reason of ["x".repeat(500), "€".repeat(500), "𝄞".repeat(500), `x${"𝄞".repeat(500)}`]) {
      const payload = closePayload(1002, reason);
      expect(payload.length).toBeLessThanOrEqual(125);
      expect(readFrames([{ opcode: CLOSE, payload }]).closeCode).toBeUndefined();
    }
  });
});

describe("a WebSocket mask", () => {
  const keys = [KEY, Uint8Array.of(0, 0, 0, 0), Uint8Array.of(255, 254, 253, 252), Uint8Array.of(128, 0, 0, 1)];

  test("is applied as byte for byte, at every alignment, phase and length", () => {
    for (const key of keys) {
      for (let offset = 0; offset < 8; offset++) {
        for (let phase = 0; phase < 4; phase++) {
          for (let length = 0; length <= 40; length++) {
            const memory = pattern(64, offset + 1);
            const expected = Buffer.from(memory);
            expected.set(maskNaively(memory.subarray(offset, offset + length), key, phase), offset);
            const next = applyMask(memory.subarray(offset, offset + length), key, phase);
            if (!memory.equals(expected) || next !== (phase + length) % 4)
              throw new Error(`wrong at offset ${offset}, phase ${phase}, length ${length}`);
          }
        }
      }
    }
  });

  test("is applied as byte for byte to long payloads, in pieces as in one", () => {
    for (const length of [1000, 65535, 65536, 70_003]) {
      for (let offset = 0; offset < 4; offset++) {
        const original = pattern(length, 3);
        const expected = Buffer.from(maskNaively(original, KEY, 0));
        const memory = Buffer.concat([Buffer.alloc(offset), original]);
        const whole = memory.subarray(offset);
        let phase = 0;
        for (const piece of cutAtRandom(whole, random)) phase = applyMask(piece, KEY, phase);
        expect(whole.equals(expected)).toBe(true);
        expect(phase).toBe(length % 4);
      }
    }
  });
});

describe("a WebSocket frame that is written", () => {
  const lengths = [0, 1, 125, 126, 127, 65535, 65536, 70_000];

  test("is byte for byte what it should be", () => {
    for (const length of lengths) {
      const payload = pattern(length);
      for (const key of [undefined, KEY, new Uint8Array(4)]) {
        for (const opcode of [TEXT, BINARY, PING, CLOSE]) {
          const expected = frame({ opcode, payload, key });
          expect(Buffer.from(encodeFrame(opcode, payload, key)).equals(expected)).toBe(true);
          expect(frameHeaderLength(length, key !== undefined)).toBe(expected.length - length);
        }
      }
      // What it is made of stays as it was.
      expect(payload.equals(pattern(length))).toBe(true);
    }
  });

  test("is read as it was written", () => {
    for (const length of lengths) {
      const payload = pattern(length, 9);
      const expected = reads(`binary: ${told(payload)}`);
      expect(readEveryWay(Buffer.from(encodeFrame(BINARY, payload, undefined)), { role: "client" })).toEqual(expected);
      expect(readEveryWay(Buffer.from(encodeFrame(BINARY, payload, KEY)), { role: "server" })).toEqual(expected);
    }
  });

  test("can have its header put in front of a payload that is there already", () => {
    for (const length of [...lengths, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 3]) {
      for (const key of [undefined, KEY]) {
        const memory = Buffer.alloc(30, 0xee);
        const start = writeFrameHeader(memory, 20, BINARY, length, key);
        const expected = frame({ opcode: BINARY, length: BigInt(length), key });
        expect(memory.subarray(start, 20)).toEqual(expected);
        expect([...memory.subarray(0, start), ...memory.subarray(20)].every((byte) => byte === 0xee)).toBe(true);
      }
    }
  });

  test("looks the same to the naive reader of these tests", () => {
    const bytes = Buffer.concat([encodeFrame(BINARY, pattern(300), KEY), encodeFrame(PING, pattern(3), undefined)]);
    expect(framesIn(bytes)).toEqual([
      { fin: true, rsv: 0, opcode: BINARY, key: "37fa213d", payload: pattern(300) },
      { fin: true, rsv: 0, opcode: PING, key: undefined, payload: pattern(3) },
    ]);
  });
});
