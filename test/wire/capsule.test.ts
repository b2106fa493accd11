import { describe, expect, test } from "bun:test";
import { DatagramReader, encodeDatagram, LONGEST_DATAGRAM } from "../../src/wire/capsule.ts";
import { codeOf } from "../support/decode.ts";
import { byteByByte, cutAtRandom, randomNumbers, splits } from "../support/random.ts";
import { pattern } from "../support/wait.ts";

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");

type VarintLength = 1 | 2 | 4 | 8;

/** A variable-length integer in so many bytes, as RFC 9000 section 16 shows it; it shares nothing with the source. */
function varint(value: number | bigint, length: VarintLength = 8): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  const short = bytes.subarray(8 - length);
  if ((short[0]! & 0xc0) !== 0) throw new Error(`${value} does not fit ${length} bytes`);
  short[0]! |= { 1: 0x00, 2: 0x40, 4: 0x80, 8: 0xc0 }[length];
  return short;
}

const capsule = (type: number | bigint, ...content: Uint8Array[]) => {
  const payload = Buffer.concat(content);
  return Buffer.concat([varint(type), varint(payload.length), payload]);
};
const udp = (payload: Uint8Array | string) => capsule(0, varint(0, 1), Buffer.from(payload as string));

class Collector {
  readonly datagrams: Buffer[] = [];
  // The payload is lent: a later chunk may lie in the same memory.
  readonly reader = new DatagramReader((payload) => void this.datagrams.push(Buffer.from(payload)));

  feed(...chunks: Uint8Array[]): this {
    for (const chunk of chunks) {
      const lent = Buffer.from(chunk);
      this.reader.feed(lent);
      lent.fill(0xee);
    }
    return this;
  }

  get texts(): string[] {
    return this.datagrams.map((datagram) => datagram.toString("latin1"));
  }
}

const read = (...chunks: Uint8Array[]) => new Collector().feed(...chunks).texts;

describe("a datagram that is written", () => {
  // Payload length and prefix: type, length in the shortest varint, context 0.
  const table: [length: number, prefix: string][] = [
    [0, "00 01 00"],
    [1, "00 02 00"],
    [62, "00 3f 00"],
    [63, "00 4040 00"],
    [64, "00 4041 00"],
    [16382, "00 7fff 00"],
    [16383, "00 80004000 00"],
    [LONGEST_DATAGRAM, "00 8000fff8 00"],
  ];
  for (const [length, prefix] of table) {
    test(`with ${length} bytes begins with ${prefix} and is read as it is written`, () => {
      const payload = pattern(length);
      const bytes = Buffer.from(encodeDatagram(payload));
      expect(bytes.equals(Buffer.concat([hex(prefix), payload]))).toBe(true);
      const { datagrams, reader } = new Collector().feed(bytes);
      expect(datagrams).toHaveLength(1);
      expect(datagrams[0]!.equals(payload)).toBe(true);
      expect(reader.isMidCapsule).toBe(false);
    });
  }
});

describe("a datagram that is read", () => {
  for (const typeLength of [1, 2, 4, 8] as const) {
    for (const lengthLength of [1, 2, 4, 8] as const) {
      for (const contextLength of [1, 2, 4, 8] as const) {
        test(`may have a type of ${typeLength}, a length of ${lengthLength} and a context of ${contextLength} bytes`, () => {
          const content = Buffer.concat([varint(0, contextLength), Buffer.from("ping")]);
          const bytes = Buffer.concat([varint(0, typeLength), varint(content.length, lengthLength), content]);
          expect(read(bytes)).toEqual(["ping"]);
          expect(read(...byteByByte(bytes))).toEqual(["ping"]);
        });
      }
    }
  }

  test("may be empty", () => {
    expect(read(hex("00 01 00"))).toEqual([""]);
    expect(read(hex("00 01 00 00 01 00"), udp(""), udp("x"))).toEqual(["", "", "", "x"]);
    expect(read(...byteByByte(hex("00 01 00 00 01 00")))).toEqual(["", ""]);
  });

  test("may be as long as UDP allows, with the longest context in front", () => {
    const payload = pattern(LONGEST_DATAGRAM, 7);
    const { datagrams } = new Collector().feed(capsule(0, varint(0, 8), payload), udp("behind"));
    expect(datagrams.map(({ length }) => length)).toEqual([LONGEST_DATAGRAM, 6]);
    expect(datagrams[0]!.equals(payload)).toBe(true);
  });

  test("keeps its border, however many come in one chunk", () => {
    const texts = Array.from({ length: 300 }, (_, i) => "x".repeat(i));
    expect(read(Buffer.concat(texts.map(udp)))).toEqual(texts);
  });

  test("is handed over as soon as its last byte is there", () => {
    const collector = new Collector();
    const bytes = udp("ping");
    collector.feed(bytes.subarray(0, -1));
    expect(collector.texts).toEqual([]);
    collector.feed(bytes.subarray(-1));
    expect(collector.texts).toEqual(["ping"]);
  });

  test("is none in a chunk without bytes", () => {
    const { texts, reader } = new Collector().feed(Buffer.alloc(0));
    expect([texts, reader.isMidCapsule]).toEqual([[], false]);
  });
});

describe("a datagram that cannot be one", () => {
  const tooLong = (length: number) => Buffer.concat([varint(0), varint(length), varint(0, 8)]);
  const table: [what: string, bytes: Buffer][] = [
    ["is one byte longer than the longest with the longest context", tooLong(LONGEST_DATAGRAM + 9)],
    ["is as long as a varint can say", tooLong(2 ** 31)],
    ["has no room for its context", hex("00 00")],
    ["has no room for the rest of its context", hex("00 01 40")],
    ["ends within the eight bytes of its context", hex("00 04 c0000000")],
  ];
  for (const [what, bytes] of table) {
    test(`${what}: peer-protocol, as soon as that is known`, () => {
      expect(codeOf(() => read(bytes))).toBe("peer-protocol");
      expect(codeOf(() => read(Buffer.concat([udp("fine"), bytes])))).toBe("peer-protocol");
      expect(codeOf(() => read(...byteByByte(bytes), Buffer.from("behind it")))).toBe("peer-protocol");
    });
  }

  test("takes nothing from those before it", () => {
    const collector = new Collector();
    expect(codeOf(() => collector.feed(Buffer.concat([udp("one"), udp("two"), hex("00 00")])))).toBe("peer-protocol");
    expect(collector.texts).toEqual(["one", "two"]);
  });

  // RFC 9298 section 5: a payload longer than 65527 with context 0 MUST abort the stream. The reader measures
  // the capsule with room for a context of eight bytes, so a short context lets up to seven bytes more through.
  test("is longer than UDP allows by one byte, with a short context", () => {
    expect(codeOf(() => read(capsule(0, varint(0, 1), pattern(LONGEST_DATAGRAM + 1))))).toBe("peer-protocol");
  });
});

describe("what the reader does not know", () => {
  for (const [what, type] of [
    ["the next one", 1],
    ["of two bytes", 0x40],
    ["of four bytes", 0x4000],
    ["of eight bytes", 0x40000000],
    ["to be ignored by design (RFC 9297 section 5.4)", 0x29 * 3 + 0x17],
    ["the largest", 2n ** 62n - 1n],
  ] as const) {
    test(`is skipped: capsules of the type ${type}, ${what}`, () => {
      const bytes = Buffer.concat([udp("one"), capsule(type, Buffer.from("unknown")), capsule(type), udp("two")]);
      expect(read(bytes)).toEqual(["one", "two"]);
      expect(read(...byteByByte(bytes))).toEqual(["one", "two"]);
    });
  }

  test("is skipped, even if it looks like a datagram inside", () => {
    expect(read(capsule(1, udp("smuggled")), udp("real"))).toEqual(["real"]);
    expect(read(...byteByByte(Buffer.concat([capsule(1, udp("smuggled")), udp("real")])))).toEqual(["real"]);
  });

  test("is dropped: datagrams of other contexts", () => {
    for (const context of [1, 2, 63, 64, 16384, 2n ** 62n - 1n]) {
      expect(read(udp("one"), capsule(0, varint(context), Buffer.from("dropped")), udp("two"))).toEqual(["one", "two"]);
      expect(read(capsule(0, varint(context)), udp("two"))).toEqual(["two"]);
    }
  });

  test("is skipped without being kept, also a gigabyte of it", () => {
    const piece = Buffer.alloc(1024 * 1024, 0x61);
    const { reader, datagrams } = new Collector().feed(Buffer.concat([varint(0x1234), varint(1024 * piece.length)]));
    const before = process.memoryUsage.rss();
    for (let i = 0; i < 1024; i++) {
      expect(reader.isMidCapsule).toBe(true);
      reader.feed(piece);
    }
    expect(reader.isMidCapsule).toBe(false);
    expect(process.memoryUsage.rss() - before).toBeLessThan(128 * 1024 * 1024);
    reader.feed(udp("behind it"));
    expect(datagrams.map(String)).toEqual(["behind it"]);
  });

  test("may be longer than anybody will ever send", () => {
    const { reader, texts } = new Collector().feed(Buffer.concat([varint(9), varint(2n ** 62n - 1n)]), udp("inside"));
    expect([reader.isMidCapsule, texts]).toEqual([true, []]);
  });
});

describe("the reader is in the middle of a capsule", () => {
  const table: [what: string, bytes: Buffer][] = [
    ["a datagram", udp("ping")],
    ["a datagram without payload", udp("")],
    ["a datagram of another context", capsule(0, varint(5), Buffer.from("x"))],
    ["a capsule that is skipped", capsule(0x4321, Buffer.from("unknown"))],
    ["a capsule that is skipped and has nothing inside", capsule(0x4321)],
  ];
  for (const [what, bytes] of table) {
    test(`from the first byte of ${what} to the one before its last`, () => {
      for (const [before, after] of splits(bytes)) {
        const { reader } = new Collector().feed(udp("whole"), before);
        const isInside = before.length > 0 && after.length > 0;
        expect([before.length, reader.isMidCapsule]).toEqual([before.length, isInside]);
        reader.feed(after);
        expect(reader.isMidCapsule).toBe(false);
      }
    });
  }
});

describe("a stream of capsules", () => {
  const payloads = [0, 1, 5, 62, 63, 64, 1200, 1472, 16383, 3, 0, 9000].map((length, i) => pattern(length, i + 1));
  const bytes = Buffer.concat(
    payloads.flatMap((payload, i) => [
      Buffer.from(encodeDatagram(payload)),
      capsule(0x17 + 0x29 * i, pattern(i * 100)),
      capsule(0, varint(i + 1), pattern(i * 10)),
    ]),
  );

  function expectAll(chunks: readonly Uint8Array[]): void {
    const { datagrams, reader } = new Collector().feed(...chunks);
    expect(datagrams.map(({ length }) => length)).toEqual(payloads.map(({ length }) => length));
    expect(Buffer.concat(datagrams).equals(Buffer.concat(payloads))).toBe(true);
    expect(reader.isMidCapsule).toBe(false);
  }

  test("says the same whole, byte by byte and in two parts at each place", () => {
    expectAll([bytes]);
    expectAll(byteByByte(bytes));
    const short = bytes.subarray(0, 700);
    const whole = new Collector().feed(short);
    for (const parts of splits(short)) {
      const { texts, reader } = new Collector().feed(...parts);
      expect([texts, reader.isMidCapsule]).toEqual([whole.texts, whole.reader.isMidCapsule]);
    }
  });

  test("says the same at random cuts", () => {
    const random = randomNumbers();
    for (let i = 0; i < 200; i++) expectAll(cutAtRandom(bytes, random));
  });

  test("of random bytes throws peer-protocol or nothing", () => {
    const random = randomNumbers();
    for (let i = 0; i < 2000; i++) {
      const noise = Buffer.from(Array.from({ length: 1 + random(64) }, () => random(256) & (random(2) ? 0xff : 0x43)));
      const code = codeOf(() => void read(...cutAtRandom(noise, random)));
      expect(["peer-protocol", "no error but undefined"]).toContain(code);
    }
  });
});
